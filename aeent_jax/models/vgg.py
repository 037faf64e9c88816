"""VGG19 up to relu4_2, as a fixed function of images.

Simonyan and Zisserman (2015), configuration E, in the layout of torchvision.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Input and output channels of each convolution by its index in torchvision's
# `vgg19().features`; a 2x2 maximum stands between the groups.
_GROUPS = (
    {0: (3, 64), 2: (64, 64)},
    {5: (64, 128), 7: (128, 128)},
    {10: (128, 256), 12: (256, 256), 14: (256, 256), 16: (256, 256)},
    {19: (256, 512), 21: (512, 512)},
)
NUM_FEATURES = 512
# Shapes of the arrays that `make_weights` needs, by PyTorch's names.
SHAPES: dict[str, tuple[int, ...]] = {
    f"features.{i}.{name}": shape
    for group in _GROUPS
    for i, (inputs, outputs) in group.items()
    for name, shape in (
        ("weight", (outputs, inputs, 3, 3)),
        ("bias", (outputs,)),
    )
}

# Statistics of ImageNet's pixels in [0, 1]; the network expects images that
# are normalised by them.
_PIXEL_MEAN = (0.485, 0.456, 0.406)
_PIXEL_STD = (0.229, 0.224, 0.225)

Weights = dict[int, tuple[np.ndarray, np.ndarray]]


def make_weights(arrays: dict[str, np.ndarray]) -> Weights:
    """Kernels `[3, 3, I, O]` and biases `[O]` by index, from PyTorch's."""
    return {
        i: (
            arrays[f"features.{i}.weight"].transpose(2, 3, 1, 0),
            arrays[f"features.{i}.bias"],
        )
        for group in _GROUPS
        for i in group
    }


def features(weights: Weights, x: jax.Array) -> jax.Array:
    """The activations of relu4_2.

    Args:
      weights: as `make_weights` returns.
      x: images in [-1, 1], `[B, H, W, C]` of 1 (repeated) or 3 channels; H and
        W are multiples of 8.

    Returns:
      `[B, H/8, W/8, 512]`, none negative.
    """
    x = jnp.broadcast_to(x, (*x.shape[:3], 3))
    mean, std = (jnp.array(v, x.dtype) for v in (_PIXEL_MEAN, _PIXEL_STD))
    x = ((x + 1) / 2 - mean) / std
    for group in _GROUPS:
        if 0 not in group:
            x = nn.max_pool(x, (2, 2), (2, 2))
        for i in group:
            x = nn.relu(_convolve(x, *weights[i]))
    return x


def _convolve(x, kernel, bias):
    kernel = jnp.asarray(kernel, x.dtype)
    convolved = lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return convolved + jnp.asarray(bias, x.dtype)
