import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aeent_jax.training import optimizer

DEFAULTS = {
    "learning_rate": 1e-2,
    "schedule": "constant",
    "warmup_steps": 0,
    "clip_norm": 0.0,
    "total_steps": 10,
}


def updates_of(gradients, **overrides):
    """The update of each step, for gradients `[steps, dim]`."""
    transformation = optimizer.make_optimizer(**(DEFAULTS | overrides))

    @jax.jit
    def run(gradients):
        def step(state, gradient):
            update, state = transformation.update(gradient, state)
            return state, update

        start = transformation.init(jnp.zeros(gradients.shape[1]))
        return jax.lax.scan(step, start, gradients)[1]

    return np.asarray(run(jnp.asarray(gradients, jnp.float32)))


def adam(gradients, rates):
    """Algorithm 1 of Kingma and Ba 2015, in float64."""
    m = v = 0.0
    found = []
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
        found.append(-rate * m_hat / (np.sqrt(v_hat) + 1e-8))
    return np.array(found)


def some_gradients(steps=10):
    return np.random.default_rng(0).normal(size=(steps, 3))


def test_is_adam_as_published():
    gradients = some_gradients()
    np.testing.assert_allclose(
        updates_of(gradients),
        adam(gradients, np.full(10, 1e-2)),
        rtol=1e-4,  # float32: 1 - 0.999**t alone loses three digits
    )


@pytest.mark.parametrize(
    ("schedule", "warmup_steps", "rates"),
    [
        ("constant", 4, [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1]),
        ("linear", 0, 1 - np.arange(10) / 10),
        ("linear", 5, [0, 0.2, 0.4, 0.6, 0.8, 1, 0.8, 0.6, 0.4, 0.2]),
        ("cosine", 0, (1 + np.cos(np.pi * np.arange(10) / 10)) / 2),
    ],
)
def test_schedule_ends_at_the_end_of_training(schedule, warmup_steps, rates):
    gradients = some_gradients()
    found = updates_of(gradients, schedule=schedule, warmup_steps=warmup_steps)
    np.testing.assert_allclose(
        found,
        adam(gradients, 1e-2 * np.asarray(rates, np.float64)),
        rtol=1e-4,  # as above
        atol=1e-9,  # the rate itself is rounded to float32
    )


def test_clipping_bounds_the_global_norm_and_keeps_the_direction():
    gradients = np.array([[30.0, 40.0], [0.3, 0.4]])
    clipped = np.array([[0.6, 0.8], [0.3, 0.4]])
    np.testing.assert_allclose(
        updates_of(gradients, clip_norm=1.0),
        updates_of(clipped),
        rtol=1e-5,  # float32
    )


def test_warmup_as_long_as_the_training_is_refused():
    with pytest.raises(ValueError, match=r".") as caught:
        optimizer.make_optimizer(**(DEFAULTS | {"warmup_steps": 10}))
    assert str(caught.value) == (
        "optimizer.warmup_steps is 10, but must be below the 10 steps of the"
        " whole training."
    )


def test_state_has_the_parameters_types_and_shapes():
    # So that a checkpoint of one run is readable by any with other schedules.
    params = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4)}
    state = optimizer.make_optimizer(**DEFAULTS).init(params)
    moments = optax.tree_utils.tree_get(state, "mu")
    assert {k: v.shape for k, v in moments.items()} == {"a": (2, 3), "b": (4,)}
