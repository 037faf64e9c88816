"""The same autoencoder and its training as the published PyTorch code has them.

A yardstick of the training benchmark, written from the description: the same
layers in the same order, with PyTorch's own initialisation. PyTorch is no
dependency; it is imported where these functions are called. Source: MedIAnomaly
(arXiv 2404.04518).
"""

import itertools
import math
from typing import Any


def make_autoencoder(
    *,
    image_size: int,
    channels: int,
    latent_dim: int,
    base_width: int,
    hidden_dim: int,
    depth: int,
) -> Any:
    """Builds `models.make_autoencoder`'s network as a `torch.nn.Sequential`.

    Args:
      image_size: height and width, a multiple of 16.
      channels: 1 or 3.
      latent_dim: size of the latent vector.
      base_width: channels of the first block.
      hidden_dim: size of the hidden linear layers.
      depth: convolutions in a block.

    Returns:
      A module that maps `[B, C, H, W]` to the same shape.
    """
    from torch import nn

    def norm_relu(width):
        return [nn.BatchNorm2d(width), nn.ReLU()]

    def same(width):
        conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        return [conv, *norm_relu(width)]

    def hidden(size):
        return [
            nn.Linear(size, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(),
        ]

    widths = [base_width * m for m in (1, 2, 4, 4)]
    layers = []
    for before, width in itertools.pairwise([channels, *widths]):
        layers.append(nn.Conv2d(before, width, 4, 2, 1, bias=False))
        layers += norm_relu(width)
        for _ in range(depth - 1):
            layers += same(width)
    shape = (widths[-1], image_size // 16, image_size // 16)
    layers += [nn.Flatten(), *hidden(math.prod(shape))]
    layers += [nn.Linear(hidden_dim, latent_dim), *hidden(latent_dim)]
    layers += [nn.Linear(hidden_dim, math.prod(shape)), nn.Unflatten(1, shape)]
    for before, width in itertools.pairwise([*reversed(widths), channels]):
        for _ in range(depth - 1):
            layers += same(before)
        layers.append(nn.ConvTranspose2d(before, width, 4, 2, 1, bias=False))
        layers += norm_relu(width)
    return nn.Sequential(*layers[:-2])  # The last one ends without.


def train_step(network: Any, optimizer: Any, x: Any) -> Any:
    """One step on a tensor `[B, C, H, W]` in [-1, 1].

    Args:
      network: of `make_autoencoder`, in training mode.
      optimizer: of its parameters.
      x: the images.

    Returns:
      The loss before the step, a tensor on the same device.
    """
    loss = (network(x).float() - x).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def errors(network: Any, x: Any) -> Any:
    """Mean squared errors `[B]` of a tensor `[B, C, H, W]` in [-1, 1].

    Args:
      network: of `make_autoencoder`, in evaluation mode.
      x: the images.

    Returns:
      A tensor on the same device.
    """
    import torch

    with torch.inference_mode():
        return (network(x).float() - x).square().mean((1, 2, 3))
