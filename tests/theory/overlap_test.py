import math

import jax
import numpy as np
import pytest

from aeent_jax import entropy, theory


def latents(variances, rows=64, seed=0):
    """Latents whose covariance is exactly diagonal with these variances."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, len(variances)))
    q, _ = np.linalg.qr(z - z.mean(0))
    return (q * np.sqrt(rows * np.asarray(variances))).astype(np.float32)


def half_log(variances):
    return 0.5 * float(np.sum(np.log1p(variances)))


def test_each_direction_is_shared_as_far_as_the_lesser_variance():
    a, b = np.array([9.0, 1.0, 0.0]), np.array([3.0, 4.0, 2.0])
    sigma = 0.5
    found = theory.gaussian_overlap(
        latents(a) * sigma + 7, latents(b, seed=1) * sigma, sigma
    )
    # float32
    for value, variances in zip(
        found, (a, b, np.minimum(a, b), np.maximum(a, b)), strict=True
    ):
        assert float(value) == pytest.approx(half_log(variances), rel=1e-4)


def test_kinds_of_one_covariance_share_all_and_apart_nothing():
    z = latents([5.0, 2.0])
    same = theory.gaussian_overlap(z, z[::-1] + 3, 1.0)
    assert float(same.shared) == pytest.approx(float(same.union), rel=1e-5)
    other = theory.gaussian_overlap(z * [1, 0], z * [0, 1], 1.0)
    assert float(other.shared) == pytest.approx(0, abs=1e-5)


def test_areas_obey_the_laws_of_sets():
    rng = np.random.default_rng(3)
    for _ in range(5):
        a, b = rng.normal(size=(2, 50, 6)) @ rng.normal(size=(2, 6, 6))
        found = theory.gaussian_overlap(a, b, 1.0)
        swapped = theory.gaussian_overlap(b, a, 1.0)
        first, second, shared, union = map(float, found)
        # float32
        assert first + second == pytest.approx(shared + union, rel=1e-5)
        assert float(swapped.shared) == pytest.approx(shared, rel=1e-3)
        assert 0 < shared < min(first, second)
        assert max(first, second) < union


def test_union_is_the_least_determinant_above_both():
    rng = np.random.default_rng(4)
    z = rng.normal(size=(2, 60, 3)) @ rng.normal(size=(2, 3, 3))
    a, b = (np.eye(3) + np.cov(one.T, bias=True) for one in z)
    union = float(theory.gaussian_overlap(*z, 1.0).union)
    # Above both, whatever the weight: w A + (1 - w) B + |A - B| / 2 and more.
    values, vectors = np.linalg.eigh(a - b)
    gap = (vectors * np.abs(values)) @ vectors.T
    above = [(a + b + gap) / 2, a + b - np.eye(3)]
    for _ in range(20):
        # A random metric in which the greater of the two is taken.
        m = rng.normal(size=(3, 3))
        values, vectors = np.linalg.eigh(m.T @ (a - b) @ m)
        gap = (vectors * np.abs(values)) @ vectors.T
        inverse = np.linalg.inv(m)
        above.append((a + b + inverse.T @ gap @ inverse) / 2)
    for matrix in above:
        assert np.linalg.eigvalsh(matrix - a).min() > -1e-6
        assert np.linalg.eigvalsh(matrix - b).min() > -1e-6
        # float32
        assert np.linalg.slogdet(matrix)[1] / 2 > union - 1e-4


def mixture_by_quadrature(means, variances, weights, sigma):
    """I(X; Z~) and I(Y; Z~) of a mixture of Gaussians on a line."""
    y = np.linspace(-80, 80, 400_001)
    spread = np.asarray(variances)[:, None] + sigma**2
    parts = np.exp(-0.5 * (y - np.asarray(means)[:, None]) ** 2 / spread)
    parts /= np.sqrt(2 * math.pi * spread)
    joint = np.asarray(weights)[:, None] * parts
    density = joint.sum(0)

    def entropy_of(p):
        return -np.sum(p * np.log(np.maximum(p, 1e-300))) * (y[1] - y[0])

    noise = 0.5 * math.log(2 * math.pi * math.e * sigma**2)
    share = -np.sum(np.asarray(weights) * np.log(weights))
    label = entropy_of(density) - entropy_of(joint) + share
    return entropy_of(density) - noise, label


@pytest.mark.parametrize(
    ("means", "variances", "weight"),
    [((-1, 1), (1, 1), 0.5), ((0, 0), (9, 0.1), 0.3), ((-30, 30), (1, 2), 0.5)],
)
def test_union_is_the_mean_of_the_parts_and_the_label(means, variances, weight):
    sigma = 0.5
    whole, label = mixture_by_quadrature(
        means, variances, (weight, 1 - weight), sigma
    )
    parts = [half_log(v / sigma**2) for v in variances]
    found = theory.union_rate(*parts, label, weight)
    # Quadrature of smooth functions; rounding of 4e5 terms.
    assert found == pytest.approx(whole, abs=1e-8)


def samples(means, deviations, n=600):
    rng = np.random.default_rng(12)
    return [
        (m + s * rng.normal(size=(n, 1))).astype(np.float32)
        for m, s in zip(means, deviations, strict=True)
    ]


def test_union_of_samples_lies_in_the_bracket_of_all_latents():
    a, b = samples((-1, 1), (1, 1))
    label = theory.label_information(a, b, 0.5)
    parts = [float(entropy.coding_rate(z, sigma=0.5).value) for z in (a, b)]
    low, up = entropy.mutual_information(
        np.concatenate([a, b]), jax.random.key(0), 0.5
    )
    found = theory.union_rate(*parts, label)
    # The draws of both scatter by about .05.
    assert float(low) - 0.15 < found < float(up) + 0.15


def test_label_information_is_below_the_truth_and_near_it():
    a, b = samples((-1, 1), (1, 1))
    # Without the noise it would be .34.
    _, truth = mixture_by_quadrature((-1, 1), (1, 1), (0.5, 0.5), 1.5)
    found = theory.label_information(a, b, 1.5)
    # Three standard errors of the mean loss of 1200, .015 each.
    assert truth - 0.05 < found < truth + 0.05


def test_label_information_of_one_kind_is_nothing_and_of_far_ones_log_two():
    a, b = samples((0, 0), (1, 1), n=200)
    assert theory.label_information(a, b, 1.0) < 0.02
    a, b = samples((-50, 50), (1, 1), n=200)
    assert theory.label_information(a, b, 1.0) == pytest.approx(
        math.log(2), abs=0.02
    )


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: theory.gaussian_overlap(
                np.ones((4, 2)), np.ones((4, 3)), 1.0
            ),
            r"first has shape \(4, 2\) and second \(4, 3\), and latents of one",
        ),
        (
            lambda: theory.gaussian_overlap(
                np.ones((4, 2)), np.ones((4, 2)), 0.0
            ),
            "sigma is 0.0",
        ),
        (
            lambda: theory.label_information(
                np.ones((4, 2)), np.ones((40, 2)), 1.0
            ),
            "found 4 and 40 latents, and at least 10 of each kind are needed",
        ),
        (
            lambda: theory.union_rate(1.0, 2.0, 0.1, 1.5),
            "weight is 1.5, and a number from 0 to 1 is needed",
        ),
        (
            lambda: theory.union_rate(1.0, 2.0, 0.7),
            r"label is 0.7 nats, and from 0 to H\(Y\) = 0.693147 are possible",
        ),
    ],
)
def test_bad_inputs_are_sentences(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
