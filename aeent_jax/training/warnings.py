"""Warns of unsound combinations of channel, estimator and weight.

Nothing here is refused: an ablation may want it. A run says each sentence once,
as it starts.
"""

import math
from collections.abc import Iterator

from aeent_jax import entropy
from aeent_jax.training import objective

# Faults of these estimators as a loss, beyond their direction.
_AS_A_LOSS = {
    "knn": (
        "each latent's gradient comes from its k-th neighbour alone, so it is"
        " noisy, jumps when neighbours change, grows as 1/r where two latents"
        " meet, and is -inf for duplicates"
    ),
}


def warnings(
    rate: objective.Rate, normalisation: str, batch_size: int
) -> list[str]:
    """Says what is unsound in what a run trains with.

    Args:
      rate: the rate term.
      normalisation: of the latents, "none" or "power".
      batch_size: images of one step.

    Returns:
      Sentences, each with its reason; none for a sound combination.
    """
    if rate.estimator == "none":
        return []
    found = []
    if rate.weight:
        found += _of_the_penalty(rate)
    if rate.sigma > 0:
        found += _of_the_noise(rate)
    else:
        found += _without_a_channel(rate, normalisation)
    if entropy.ESTIMATORS[rate.estimator].includes_self:
        found.append(
            f"{rate.estimator} counts each latent as its own neighbour, so it"
            f" cannot read more than log n = {math.log(batch_size):.1f} nats of"
            f" rate from {batch_size} latents, and its gradient vanishes there."
        )
    return found


def _of_the_penalty(rate: objective.Rate) -> Iterator[str]:
    name = rate.estimator
    direction = entropy.ESTIMATORS[name].direction
    if not direction.startswith(("upper", "exact")):
        yield (
            f"{name} is no upper bound of the rate ({direction}), and to"
            " minimise anything else certifies nothing: the rate may stay where"
            " it is while the estimate falls."
        )
    if name in _AS_A_LOSS:
        yield f"{name} is a poor loss: {_AS_A_LOSS[name]}."


def _of_the_noise(rate: objective.Rate) -> Iterator[str]:
    name = rate.estimator
    takes = entropy.ESTIMATORS[name].noise_argument
    if rate.bandwidth not in ("channel", rate.sigma) and takes in (
        "bandwidth",
        "sigma",
    ):
        yield (
            f"entropy.bandwidth is {rate.bandwidth} and the channel's noise is"
            f" {rate.sigma}, so {name} measures another channel than the one"
            " that the decoder sees, and is not exact for its output."
        )
    if rate.noise == "uniform" and takes == "bandwidth":
        yield (
            f"{name} has a Gaussian kernel and channel.noise is uniform, so its"
            " mixture is not the law of the channel's output: a cross-entropy"
            " stays an upper bound in expectation, but a looser one."
        )
    if rate.noise == "uniform" and takes == "sigma":
        short = 0.5 * math.log(math.pi * math.e / 6)
        yield (
            f"{name} is the rate of Gaussian noise and channel.noise is"
            f" uniform, which lets up to {short:.2f} nats more pass in each"
            " dimension: it is no upper bound here."
        )
    if rate.noise == "gaussian" and takes == "width":
        yield (
            f"{name} is the law of quantised latents behind uniform noise and"
            " channel.noise is gaussian: it stays an upper bound, but is no"
            " code length; set channel.noise=uniform."
        )


def _without_a_channel(
    rate: objective.Rate, normalisation: str
) -> Iterator[str]:
    yield (
        f"entropy.weight is {rate.weight} and channel.sigma is 0: a penalty on"
        " clean latents compresses nothing, since the encoder shrinks them and"
        " the decoder undoes it."
    )
    if normalisation == "power":
        yield (
            "channel.normalisation is power and channel.sigma is 0: at a fixed"
            " power and without noise the encoder hides the information at"
            " amplitudes far below the kernel."
        )
