import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import training_support

from aeent_jax import entropy, methods
from aeent_jax.entropy import channel
from aeent_jax.runtime import parallel
from aeent_jax.training import objective

SIGMA = 0.7
BATCH, DIM = 16, 3
RATES = {
    "kde_loo": objective.Rate(SIGMA, "kde_loo", 1.0),
    "kde_resub": objective.Rate(SIGMA, "kde_resub", 1.0, bandwidth=0.4),
    "kde_kl": objective.Rate(SIGMA, "kde_kl", 1.0, bandwidth="scott"),
    "coding_rate": objective.Rate(SIGMA, "coding_rate", 1.0),
    "none": objective.Rate(SIGMA, "none", 1.0),
    "density": objective.Rate(SIGMA, "density", 1.0, noise="uniform"),
    "no_channel": objective.Rate(0.0, "kde_loo", 1.0, bandwidth=0.4),
}
MASKS = {
    "full": np.ones(BATCH, bool),
    # The padding of a ragged batch: on 8 devices three of them hold nothing.
    "ragged": np.arange(BATCH) < 9,
    "one_shard": np.arange(BATCH) < 2,
    "scattered": np.random.default_rng(1).permutation(BATCH) < 7,
    "one_row": np.arange(BATCH) == 5,
    "no_row": np.zeros(BATCH, bool),
}
DENSITY = {
    "mean": np.float32([0.5, -1.0, 0.2]),
    "log_scale": np.float32([0.3, 0.1, -0.2]),
}


@pytest.fixture(scope="module", autouse=True)
def density():
    with pytest.MonkeyPatch.context() as patch:
        training_support.add_density(patch)
        yield


def latents():
    rng = np.random.default_rng(0)
    scale = np.array([2.0, 1.0, 0.3])
    return (rng.normal(size=(BATCH, DIM)) * scale).astype(np.float32)


def place_and_noise(z, key):
    positions = jax.lax.axis_index(parallel.AXIS) * len(z) + jnp.arange(len(z))
    noisy = channel.add_noise(z, SIGMA, jax.random.key(key), positions)
    return positions, noisy


def shares_of_one_device(key, z, mask):
    """Sum over devices of the share, its gradient in `z`, and noisy latents."""

    def share(z, rate):
        positions, noisy = place_and_noise(z, key)
        noisy = noisy if rate.sigma else z
        return objective.local_rate(
            rate,
            z,
            noisy,
            inputs=methods.Inputs(None, mask, positions, None),
            estimator_params=DENSITY,
        )

    found = {
        name: jax.value_and_grad(share)(z, rate) for name, rate in RATES.items()
    }
    values = {name: value for name, (value, _) in found.items()}
    # Through all_gather each device's gradient holds the other devices' too.
    gradients = {name: gradient for name, (_, gradient) in found.items()}
    noisy = place_and_noise(z, key)[1]
    return jax.lax.psum(values, parallel.AXIS), gradients, noisy


@pytest.fixture(scope="module", params=[1, 2, 4, 8])
def shares(request):
    """From (mask, z) to values, gradients and noisy latents, on the host."""
    mapping = parallel.make_parallel(request.param)
    mapped = mapping.map(
        shares_of_one_device,
    )

    def call(mask, z=None):
        key = mapping.replicate(np.int32(3))
        z = latents() if z is None else z
        values, *sharded = mapped(key, *mapping.shard((z, mask)))
        return mapping.fetch_replicated(values), *mapping.fetch_sharded(sharded)

    return call


@functools.cache
def channel_noise():
    """`sigma*eps` of the whole batch, each row from its own key."""
    keys = [jax.random.fold_in(jax.random.key(3), i) for i in range(BATCH)]
    noise = [jax.random.normal(key, (DIM,)) for key in keys]
    return SIGMA * np.array(noise, np.float64)


def scott(z):
    n, dim = z.shape
    return n ** (-1 / (dim + 4)) * np.sqrt(z.var(0, ddof=1).mean())


def kernel_entropy(queries, z, width, leave_one_out):
    distance = ((queries[:, None] - z[None]) ** 2).sum(-1)
    kernel = np.exp(-distance / (2 * width**2))
    kernel /= (2 * np.pi * width**2) ** (DIM / 2)
    if leave_one_out:
        np.fill_diagonal(kernel, 0.0)
    return -np.log(kernel.sum(1) / (len(z) - leave_one_out)).mean()


def rate_by_definition(name, z, noise):
    """Dense, in float64, of valid rows alone."""
    noise_entropy = DIM / 2 * np.log(2 * np.pi * np.e * SIGMA**2)
    if name == "kde_loo":
        return kernel_entropy(z + noise, z, SIGMA, True) - noise_entropy
    if name == "kde_resub":
        return kernel_entropy(z + noise, z, 0.4, False) - noise_entropy
    if name == "kde_kl":
        h = kernel_entropy(z, z, scott(z), False) + DIM / 2
        return h - noise_entropy
    if name == "coding_rate":
        cov = np.cov(z.T, bias=True) / SIGMA**2
        return 0.5 * np.linalg.slogdet(np.eye(DIM) + cov)[1]
    if name == "density":
        law = scipy.stats.norm(DENSITY["mean"], np.exp(DENSITY["log_scale"]))
        width = SIGMA * np.sqrt(12)
        h = width - law.logpdf(z + noise).sum(1).mean()
        return h - DIM * np.log(width)
    if name == "no_channel":
        return kernel_entropy(z, z, 0.4, True)
    return 0.0


def gradient_by_differences(name, z, noise, step=1e-5):
    gradient = np.zeros_like(z)
    for place in np.ndindex(z.shape):
        shift = np.zeros_like(z)
        shift[place] = step
        above = rate_by_definition(name, z + shift, noise)
        below = rate_by_definition(name, z - shift, noise)
        gradient[place] = (above - below) / (2 * step)
    return gradient


@pytest.mark.parametrize("name", ["full", "ragged", "one_shard", "scattered"])
def test_shares_add_up_to_the_estimate_of_the_valid_rows(shares, name):
    mask = MASKS[name]
    values, gradients, _ = shares(mask)
    z, noise = latents().astype(np.float64)[mask], channel_noise()[mask]
    for rate in RATES:
        expected = np.zeros((BATCH, DIM))
        expected[mask] = gradient_by_differences(rate, z, noise)
        # Float32 against float64, for sums of terms of order 1 to 10.
        np.testing.assert_allclose(
            values[rate],
            rate_by_definition(rate, z, noise),
            rtol=1e-5,
            atol=1e-5,
            err_msg=rate,
        )
        np.testing.assert_allclose(
            gradients[rate], expected, rtol=1e-4, atol=1e-5, err_msg=rate
        )


@pytest.mark.parametrize("name", ["one_row", "no_row"])
def test_fewer_than_two_valid_rows_are_worth_nothing(shares, name):
    values, gradients, _ = shares(MASKS[name])
    for rate in RATES:
        assert values[rate] == 0.0
        np.testing.assert_array_equal(gradients[rate], 0.0, err_msg=rate)


def test_padding_has_no_influence(shares):
    mask = MASKS["ragged"]
    other = np.where(mask[:, None], latents(), np.float32(1e3))
    for one, two in zip(shares(mask)[:2], shares(mask, other)[:2], strict=True):
        for rate in RATES:
            np.testing.assert_array_equal(one[rate], two[rate])


def test_noise_depends_on_the_place_in_the_global_batch_alone(shares):
    np.testing.assert_allclose(
        shares(MASKS["full"])[2],
        latents() + channel_noise(),
        rtol=1e-6,  # the same draws; the multiplication may be fused
        atol=1e-6,
    )


VALID = {
    "sigma": 1.0,
    "estimator": "kde_loo",
    "weight": 1e-3,
    "bandwidth": "channel",
    "allow_unsound": False,
}


@pytest.mark.parametrize(
    ("overrides", "rate", "is_measured"),
    [
        ({}, (1.0, "kde_loo", 1e-3, "channel"), True),
        ({"bandwidth": "0.5"}, (1.0, "kde_loo", 1e-3, 0.5), True),
        ({"bandwidth": "scott"}, (1.0, "kde_loo", 1e-3, "scott"), True),
        # Measured though it weighs nothing.
        ({"weight": 0.0}, (1.0, "kde_loo", 0.0, "channel"), True),
        ({"estimator": "none"}, (1.0, "none", 1e-3, "channel"), False),
        # A plain autoencoder, whatever the estimator.
        (
            {"sigma": 0.0, "weight": 0.0},
            (0.0, "none", 0.0, "channel"),
            False,
        ),
        (
            {"sigma": 0.0, "allow_unsound": True, "bandwidth": "0.5"},
            (0.0, "kde_loo", 1e-3, 0.5),
            False,
        ),
    ],
)
def test_sound_combinations(overrides, rate, is_measured):
    found = objective.make_rate(**(VALID | overrides))
    assert found == objective.Rate(*rate)
    assert found.is_measured is is_measured


def add_knn(monkeypatch):
    """A table with an entry that takes two keywords and no noise."""
    entry = entropy.Estimator(entropy.none, "neither", hyper=("k", "shrinkage"))
    monkeypatch.setitem(entropy.ESTIMATORS, "knn", entry)


@pytest.mark.parametrize(("given", "taken"), [("0.1", 0.1), ("oas", "oas")])
def test_an_estimator_takes_what_its_entry_names(monkeypatch, given, taken):
    add_knn(monkeypatch)
    options = {"alpha": 2.0, "k": 3, "shrinkage": given}
    found = objective.make_rate(
        **VALID | {"estimator": "knn", "options": options}
    )
    assert found.hyper == (("k", 3), ("shrinkage", taken))
    hash(found)


def test_clean_latents_need_no_bandwidth_where_none_is_taken(monkeypatch):
    add_knn(monkeypatch)
    found = objective.make_rate(
        **VALID
        | {"estimator": "knn", "sigma": 0.0, "allow_unsound": True}
        | {"options": {"k": 3, "shrinkage": "none"}}
    )
    assert (found.estimator, found.is_measured) == ("knn", False)


def test_the_width_of_no_noise_is_refused():
    given = {"estimator": "density", "options": {"components": 4}}
    with pytest.raises(ValueError, match="needs the width of the channel"):
        objective.make_rate(
            **VALID | given | {"sigma": 0.0, "allow_unsound": True}
        )


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            {"bandwidth": "scot"},
            "entropy.bandwidth is 'scot'; give a number above 0, or one of"
            " channel, scott, silverman, loo_ml, median.",
        ),
        (
            {"bandwidth": "0"},
            "entropy.bandwidth is '0'; give a number above 0, or one of"
            " channel, scott, silverman, loo_ml, median.",
        ),
        (
            {"bandwidth": "nan"},
            "entropy.bandwidth is 'nan'; give a number above 0, or one of"
            " channel, scott, silverman, loo_ml, median.",
        ),
        (
            {"sigma": 0.0},
            "entropy.weight is 0.001 and channel.sigma is 0, but a penalty on"
            " latents without a noisy channel compresses nothing (the encoder"
            " shrinks them and the decoder undoes it); set channel.sigma=1, or"
            " entropy.weight=0, or entropy.allow_unsound=True for the"
            " ablation.",
        ),
        (
            {"sigma": 0.0, "allow_unsound": True},
            "channel.sigma is 0, so the estimator has no bandwidth; give one"
            " with entropy.bandwidth=1.0, or a rule's name.",
        ),
        (
            {"estimator": "coding_rate", "bandwidth": "scott"},
            "entropy.bandwidth is 'scott', but coding_rate takes the noise of"
            " the channel or a number; set entropy.bandwidth=channel.",
        ),
    ],
)
def test_refusals_say_what_is_needed(overrides, sentence):
    with pytest.raises(ValueError, match=r".") as caught:
        objective.make_rate(**(VALID | overrides))
    assert str(caught.value) == sentence


def test_unknown_estimator_lists_the_table():
    with pytest.raises(ValueError, match=r".") as caught:
        objective.make_rate(**VALID | {"estimator": "kde"})
    assert {"kde_loo", "density"} <= set(entropy.ESTIMATORS)
    names = ", ".join(sorted(entropy.ESTIMATORS))
    assert str(caught.value) == (
        f"entropy.estimator is 'kde', and one of {names} is needed: check the"
        " spelling."
    )
