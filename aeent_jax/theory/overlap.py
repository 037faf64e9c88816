"""What two kinds of images share of a channel, in nats.

With a label Y that tells the kinds apart and is drawn first, `Y - X - Z~` is a
Markov chain, so for any laws and weights

    I(X; Z~)  =  sum_y w_y I(X; Z~ | Y = y)  +  I(Y; Z~)

(the chain rule for `I(X, Y; Z~) = I(X; Z~)`): what passes of both kinds
together is the mean of what passes of each, and what the latent tells of the
kind. The last term is between 0, where the channel cannot tell them apart, and
H(Y).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import linear_model, model_selection, pipeline, preprocessing

from aeent_jax import entropy

_FOLDS = 5
# Of each kind, so that each fold of the training folds has some.
LEAST_ROWS = 2 * _FOLDS
# Inverse strengths of the penalty, chosen within the training folds.
_STRENGTHS = np.logspace(-4, 0, 5)


class Overlap(NamedTuple):
    """Two sets whose measure is nats; `union = first + second - shared`.

    Attributes:
      first: nats that pass of the first kind.
      second: nats that pass of the second kind.
      shared: nats of the largest Gaussian code that both contain.
      union: nats of the smallest Gaussian code that contains both.
    """

    first: jax.Array
    second: jax.Array
    shared: jax.Array
    union: jax.Array


def gaussian_overlap(
    first: jax.Array, second: jax.Array, sigma: float | jax.Array
) -> Overlap:
    """Shared and own part of two kinds' coding rates, in nats.

    Each kind is taken as a Gaussian about its own mean: with C its covariance,
    `A = I + C/sigma^2` and `1/2 logdet A` is its coding rate. Of all matrices
    above both A and B in the order of positive definite matrices, the one of
    least determinant gives `union`; of all below both, the one of greatest
    determinant gives `shared`. With m_i the eigenvalues of `B^-1 A`,

        union  = 1/2 logdet B + 1/2 sum_i log max(m_i, 1)
        shared = 1/2 logdet B + 1/2 sum_i log min(m_i, 1)

    and so `union + shared = first + second` exactly, `shared` is between 0 and
    the smaller of the two, and the two kinds may be exchanged. Where A and B
    commute, each direction is shared as far as the lesser variance goes. What
    differs between the means is no part of this; it is in I(Y; Z~).

    From few rows the eigenvalues scatter, and each kind seems to have a part of
    its own: compare with two samples of one kind, of as many rows.

    Args:
      first: `[n, dim]` clean latents.
      second: `[m, dim]` clean latents.
      sigma: positive standard deviation of the channel's noise.

    Returns:
      The four scalars. NaN in the latents gives NaN.

    Raises:
      ValueError: as `entropy.coding_rate`, or two sizes of latent.
    """
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(
            f"first has shape {first.shape} and second {second.shape}, and"
            " latents of one size are needed: encode both with one network."
        )
    # They check sigma and shapes, and give the two kinds their rates.
    rates = [entropy.coding_rate(z, sigma=sigma).value for z in (first, second)]
    a, b = (_noisy_covariance(z, sigma) for z in (first, second))
    factor = jnp.linalg.cholesky(b)
    half = jax.scipy.linalg.solve_triangular(factor, a, lower=True)
    relative = jax.scipy.linalg.solve_triangular(factor, half.T, lower=True)
    eigenvalues = jnp.linalg.eigvalsh(relative)
    own = jnp.sum(jnp.log(jnp.maximum(eigenvalues, 1))) / 2
    return Overlap(*rates, rates[0] - own, rates[1] + own)


def _noisy_covariance(z: jax.Array, sigma: float | jax.Array) -> jax.Array:
    """`I + C/sigma^2`, C divided by the number of rows."""
    a = (z - jnp.mean(z, 0)) / sigma
    gram = jnp.matmul(a.T, a, precision=jax.lax.Precision.HIGHEST)
    return jnp.eye(a.shape[1], dtype=a.dtype) + gram / len(a)


def label_information(
    first: np.ndarray, second: np.ndarray, sigma: float, seed: int = 0
) -> float:
    """Lower bound in expectation of I(Y; Z~) at equal weights, in nats.

    `H(Y) - E[-log q(Y | Z~)]` for any guess q that was not fitted to the
    latents it is tried on (Barber and Agakov 2003): q is logistic regression on
    the noisy latents, cross-fitted in five folds, its penalty chosen within the
    training folds. It can be far below the truth where the kinds differ in
    spread and not in mean. At most log 2, and 0 where the guess is worse than
    none.

    Args:
      first: `[n, dim]` clean latents.
      second: `[m, dim]`.
      sigma: positive standard deviation of the channel's noise.
      seed: of noise and folds.

    Returns:
      Nats, from 0 to log 2.

    Raises:
      ValueError: a kind has fewer than ten rows.
    """
    if min(len(first), len(second)) < LEAST_ROWS:
        raise ValueError(
            f"found {len(first)} and {len(second)} latents, and at least"
            f" {LEAST_ROWS} of each kind are needed: pass more images."
        )
    z = np.concatenate([first, second]).astype(np.float64)
    label = np.repeat([0, 1], [len(first), len(second)])
    rng = np.random.default_rng(seed)
    noisy = z + sigma * rng.standard_normal(z.shape)
    folds = model_selection.StratifiedKFold(_FOLDS, shuffle=True)
    folds.random_state = seed
    guess = model_selection.cross_val_predict(
        _classifier(), noisy, label, cv=folds, method="predict_proba"
    )
    loss = -np.log(np.maximum(guess[np.arange(len(label)), label], 1e-12))
    mean = (loss[label == 0].mean() + loss[label == 1].mean()) / 2
    return float(np.clip(math.log(2) - mean, 0, math.log(2)))


def _classifier() -> pipeline.Pipeline:
    return pipeline.make_pipeline(
        preprocessing.StandardScaler(),
        model_selection.GridSearchCV(
            linear_model.LogisticRegression(
                class_weight="balanced", max_iter=1000
            ),
            {"C": _STRENGTHS},
            scoring="neg_log_loss",
            cv=_FOLDS,
        ),
    )


def union_rate(
    first: float, second: float, label: float, weight: float = 0.5
) -> float:
    """Nats that pass of both kinds together, by the identity of this module.

    Args:
      first: nats that pass of the first kind.
      second: nats that pass of the second kind.
      label: I(Y; Z~) at these weights, nats.
      weight: of the first kind, from 0 to 1.

    Returns:
      Nats.

    Raises:
      ValueError: the weight is no share, or the label tells more than H(Y).
    """
    if not 0 <= weight <= 1:
        raise ValueError(
            f"weight is {weight}, and a number from 0 to 1 is needed: it is the"
            " share of the first kind."
        )
    shares = np.array([weight, 1 - weight])
    limit = -float(np.sum(shares * np.log(np.where(shares > 0, shares, 1))))
    if not 0 <= label <= limit + 1e-9:
        raise ValueError(
            f"label is {label:g} nats, and from 0 to H(Y) = {limit:g} are"
            " possible at this weight: check how it was measured."
        )
    return weight * first + (1 - weight) * second + label
