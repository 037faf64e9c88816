"""Adam as the reference runs it, with schedules and clipping by name."""

import jax
import optax

SCHEDULES = ("constant", "cosine", "linear")


def make_optimizer(
    *,
    learning_rate: float,
    schedule: str,
    warmup_steps: int,
    clip_norm: float,
    total_steps: int,
) -> optax.GradientTransformation:
    """Builds Adam (0.9, 0.999, 1e-8), without weight decay.

    Args:
      learning_rate: the largest learning rate.
      schedule: "constant"; or "cosine" or "linear", which fall to 0 at
        `total_steps`.
      warmup_steps: steps of linear increase from 0, before the schedule.
      clip_norm: largest global norm of the gradient; 0 means no clipping.
      total_steps: steps of the whole training.

    Returns:
      The gradient transformation.

    Raises:
      ValueError: the warmup is longer than the training.
    """
    if warmup_steps >= total_steps:
        raise ValueError(
            f"optimizer.warmup_steps is {warmup_steps}, but must be below the"
            f" {total_steps} steps of the whole training."
        )
    decay_steps = total_steps - warmup_steps
    rate = {
        "constant": optax.constant_schedule(learning_rate),
        "cosine": optax.cosine_decay_schedule(learning_rate, decay_steps),
        "linear": optax.linear_schedule(learning_rate, 0.0, decay_steps),
    }[schedule]
    if warmup_steps:
        warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
        rate = optax.join_schedules([warmup, rate], [warmup_steps])
    adam = optax.adam(rate)
    if clip_norm:
        return optax.chain(optax.clip_by_global_norm(clip_norm), adam)
    return adam


def descend(
    optimizer: optax.GradientTransformation,
    grads: optax.Updates,
    opt_state: optax.OptState,
    params: optax.Params,
    scale: jax.Array | float = 1.0,
) -> tuple[optax.Params, optax.OptState]:
    """Changes parameters by one step of an optimizer.

    Args:
      optimizer: from gradients to updates.
      grads: the gradient of the global batch.
      opt_state: the state of the optimizer.
      params: the parameters before the step.
      scale: factor of the updates.

    Returns:
      The new parameters and the new state of the optimizer.
    """
    updates, opt_state = optimizer.update(grads, opt_state, params)
    updates = jax.tree.map(lambda update: scale * update, updates)
    return optax.apply_updates(params, updates), opt_state
