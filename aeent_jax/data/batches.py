"""The indices of a global batch, a pure function of (seed, step)."""

import functools

import numpy as np


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Steps of one epoch; the last batch may be partial."""
    return -(-num_examples // batch_size)


def train_batch(
    seed: int, step: int, num_examples: int, batch_size: int, padded_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the examples of one training step.

    Every epoch is a permutation of all examples, and its last batch is kept
    though it may be partial, as in the reference. The batch depends neither on
    the number of devices nor on what ran before.

    Args:
      seed: of the run.
      step: from 0.
      num_examples: size of the training split.
      batch_size: valid rows of a full batch.
      padded_size: rows of the result, at least `batch_size`.

    Returns:
      `indices` `[padded_size]` int32, 0 in padding, and `mask` `[padded_size]`
      bool, False in padding.
    """
    epoch, batch = divmod(step, steps_per_epoch(num_examples, batch_size))
    order = _order(seed, epoch, num_examples)
    chosen = order[batch * batch_size : (batch + 1) * batch_size]
    return pad(chosen, padded_size)


# Steps of one epoch follow each other, and a large permutation takes longer
# than a small step.
@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_examples)


def pad(chosen: np.ndarray, padded_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pads indices `[n]` to `padded_size`; returns them and their mask."""
    indices = np.zeros(padded_size, np.int32)
    indices[: len(chosen)] = chosen
    return indices, np.arange(padded_size) < len(chosen)
