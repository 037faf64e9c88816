"""Training passes that keep little for the backward pass.

A gradient needs what each layer had as its input. With `compute.remat` a pass
keeps the results of convolutions and matrix products alone, and the statistics
that devices exchange; the backward pass computes BatchNorm, ReLU and whatever
else is between them again. That costs little time, and no exchange. The numbers
are the same but for rounding.

XLA on CPU ignores what asks it not to merge the second computation with the
first, so there it changes nothing; it is for accelerators.
"""

import dataclasses
from typing import Any

import jax
from jax.extend.core import primitives

from aeent_jax.methods.method import Inputs, Method, Noise, Outputs

_KEPT = (
    primitives.conv_general_dilated_p,
    primitives.dot_general_p,
    primitives.all_gather_p,
    # The transposed convolution is one, with a gradient of its own.
    primitives.custom_vjp_call_p,
)


def _is_kept(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive in _KEPT


def recomputed(method: Method) -> Method:
    """The method, whose training passes keep little for their gradient.

    Args:
      method: any.

    Returns:
      The same method but for that; evaluation is as it was.
    """

    def forward(
        variables: Any, inputs: Inputs, noise: Noise, *, train: bool
    ) -> Outputs:
        def run(variables, inputs):
            return method.forward(variables, inputs, noise, train=train)

        if train:
            run = jax.checkpoint(run, policy=_is_kept)
        return run(variables, inputs)

    return dataclasses.replace(method, forward=forward)
