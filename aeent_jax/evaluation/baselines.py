"""Anomaly scores of trivial baselines, which any network should beat.

A data set that one of them solves says little about an autoencoder: the
abnormal images are then brighter, or unlike the average, and nothing more.
Everything is exact and deterministic; nothing is fitted to test images. Images
stay in 8 bits and are float64 a block at a time, so that memory is that of the
smaller Gram matrix and of the principal axes.
"""

from collections.abc import Iterator

import numpy as np

from aeent_jax.data import nearest

# Components below these hold rounding errors only: a share of the largest
# eigenvalue, and an absolute one (one step of 8 bits in one pixel gives 1e-5).
_NO_VARIANCE = 1e-10
_NO_VARIANCE_AT_ALL = 1e-12

# Pixels that are float64 at a time: 32 MB, and a few times that in products.
_PIXELS_AT_A_TIME = 2**22


def scores(
    train_images: np.ndarray,
    test_images: np.ndarray,
    *,
    num_components: int,
) -> dict[str, np.ndarray]:
    """Anomaly scores of the baselines, higher = more anomalous.

    `mean_intensity` is the mean of an image. It is what an area under the
    curve well below one half also gives away: darker images are abnormal.
    `nearest_image` is the mean absolute difference to the nearest training
    image. Where it beats a network, normal test images are near copies of
    training images. Its time is that of N M image differences.
    `mean_image` is the mean squared error to the mean training image, and
    `pca` that to the projection on the first principal components of the
    training images: the best linear autoencoder of that latent size.

    Args:
      train_images: `[M, H, W, C]` uint8, normal images.
      test_images: `[N, H, W, C]` uint8, in memory or in files.
      num_components: Latent size of the linear autoencoder; at most
        `usable_components` of them are used.

    Returns:
      `mean_intensity`, `nearest_image`, `mean_image`, `pca`, each `[N]`
      float64, of intensities in [0, 1].

    Raises:
      ValueError: If images are not uint8 `[N, H, W, C]` of one size, or there
        are none to fit to.
    """
    train = _flat_pixels(train_images)
    _flat_pixels(test_images[:1])  # Refused before anything is fitted.
    if train_images.shape[1:] != test_images.shape[1:]:
        raise ValueError(
            f"Found training images {train_images.shape[1:]} and test images "
            f"{test_images.shape[1:]}; they must have one size."
        )
    mean = train.mean(axis=0, dtype=np.float64) / 255
    components = usable_components(train_images, num_components)
    _, basis = principal_axes(train, mean, components, scale=255)
    parts = []
    for rows in _blocks(len(test_images), train.shape[1]):
        # The test images may be in files, and are read a block at a time.
        images = _flat_pixels(test_images[rows]) / 255
        centred = images - mean
        residual = centred - (centred @ basis) @ basis.T
        parts.append(
            {
                "mean_intensity": images.mean(axis=1),
                "mean_image": np.mean(centred**2, axis=1),
                "pca": np.mean(residual**2, axis=1),
            }
        )
    distance = nearest.find_nearest(test_images, train_images).distance
    return {
        k: np.concatenate([part[k] for part in parts]) for k in parts[0]
    } | {"nearest_image": distance / 255}


def usable_components(train_images: np.ndarray, num_components: int) -> int:
    """The components that `scores` uses of those asked for.

    M centred images span at most M - 1 directions.

    Args:
      train_images: `[M, H, W, C]`.
      num_components: How many were asked for.

    Returns:
      The smallest of `num_components`, M - 1 and the number of pixels.
    """
    pixels = int(np.prod(train_images.shape[1:]))
    return min(num_components, len(train_images) - 1, pixels)


def _flat_pixels(images):
    """Pixels in rows, `[N, pixels]` uint8."""
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise ValueError(
            f"Found {images.dtype} images {images.shape}; baselines need at "
            "least one uint8 image [N, H, W, C]."
        )
    return images.reshape(len(images), -1)


def _blocks(length: int, width: int) -> Iterator[slice]:
    """Slices of `length` items of `width` pixels, as many as fit at a time."""
    step = max(_PIXELS_AT_A_TIME // width, 1)
    return (slice(i, i + step) for i in range(0, length, step))


def principal_axes(
    train: np.ndarray,
    mean: np.ndarray,
    num_components: int,
    scale: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of images, in float64.

    From the eigenvectors of the smaller of the two Gram matrices: seconds
    where the full decomposition takes a minute, and as exact at 8 bits.

    Args:
      train: `[M, pixels]`, divided by `scale` a block at a time.
      mean: `[pixels]`, of the scaled images.
      num_components: at most M - 1 and the number of pixels.
      scale: what one stands for.

    Returns:
      The sum of squared coordinates along each component, in rising order,
      `[num_components]`, and the orthonormal axes `[pixels, num_components]`.
      Components that hold rounding errors only are left out.
    """
    num_images, pixels = train.shape
    if not num_components:
        return np.zeros(0), np.zeros((pixels, 0))
    wide = num_images <= pixels
    gram = np.zeros((min(train.shape),) * 2)
    if wide:
        for columns in _blocks(pixels, num_images):
            block = train[:, columns] / scale - mean[columns]
            gram += block @ block.T
    else:
        for rows in _blocks(num_images, pixels):
            block = train[rows] / scale - mean
            gram += block.T @ block
    # scipy is imported when used, so that commands start soon.
    import scipy.linalg

    last = len(gram) - 1
    variances, vectors = scipy.linalg.eigh(
        gram, subset_by_index=[last - num_components + 1, last]
    )
    kept = variances > max(_NO_VARIANCE * variances[-1], _NO_VARIANCE_AT_ALL)
    variances, vectors = variances[kept], vectors[:, kept]
    if not wide:
        return variances, vectors
    vectors = vectors / np.sqrt(variances)
    axes = np.empty((pixels, vectors.shape[1]))
    for columns in _blocks(pixels, num_images):
        block = train[:, columns] / scale - mean[columns]
        axes[columns] = block.T @ vectors
    return variances, axes
