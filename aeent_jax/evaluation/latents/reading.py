"""Latents from a file, refused where they cannot be measured."""

import pathlib

import numpy as np

from aeent_jax.runtime import storage


def read(path: str | pathlib.Path) -> np.ndarray:
    """Reads latents that `numpy.save` wrote, and checks them.

    Args:
      path: a `.npy` file of `[n, dim]` numbers.

    Returns:
      `[n, dim]` float32, as `check` returns.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no `.npy` file, or `check` refuses what it holds.
    """
    path = storage.to_path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is no file, and latents are needed that"
            " numpy.save('z.npy', z) wrote: check the path."
        )
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read as a .npy file of numbers: write the"
            " latents with numpy.save('z.npy', z)."
        ) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(
            f"{path} is an archive of arrays, and one array is needed: write"
            " the latents alone with numpy.save('z.npy', z)."
        )
    return check(array, str(path))


def check(array: np.ndarray, name: str) -> np.ndarray:
    """Returns latents about their mean as float32, if they can be measured.

    Moving latents changes no entropy. Their mean is taken off in float64, since
    float32 has no digits left for the spread of latents far from zero. Integers
    are cast, as every estimator would: a latent that was rounded is still a
    latent. Constant columns are fine; an estimator to which they are not says
    so by its value.

    Args:
      array: `[n, dim]`.
      name: where it is from, for the message.

    Returns:
      `[n, dim]` float32.

    Raises:
      ValueError: another shape, a type that is not of real numbers, fewer than
        two rows, or rows with NaN or infinity in float32.
    """
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(
            f"{name} has shape {array.shape}, and [rows, dim] is needed: give"
            " one row to each latent vector."
        )
    if array.dtype.kind not in "iuf":
        raise ValueError(
            f"{name} has type {array.dtype}, and real numbers are needed:"
            " convert the latents with z.astype('float32')."
        )
    if len(array) < 2:
        raise ValueError(
            f"{name} has {len(array)} rows, and at least 2 are needed: pass"
            " more latents."
        )
    # A number that overflows becomes infinite here and is refused below.
    with np.errstate(over="ignore"):
        bad = int(np.sum(~np.isfinite(array.astype(np.float32)).all(1)))
    if bad:
        raise ValueError(
            f"{name} has NaN or infinity in {bad} of {len(array)} rows, and"
            " finite numbers are needed: drop those rows, or mend what wrote"
            " them."
        )
    mean = array.mean(0, dtype=np.float64)
    return (array - mean).astype(np.float32)
