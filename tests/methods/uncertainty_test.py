import jax
import jax.numpy as jnp
import numpy as np

from aeent_jax import methods
from aeent_jax.methods import uncertainty


def outputs_of(x_hat, log_variance):
    return methods.Outputs(
        x_hat, None, None, None, {"log_variance": log_variance}
    )


def test_loss_and_score_have_their_closed_form():
    x = jnp.zeros((1, 2, 2, 3))
    outputs = outputs_of(x + 2.0, jnp.full_like(x, np.log(8.0)))
    loss = uncertainty.likelihood_error(x, outputs)["reconstruction"]
    # An error of 4 over a variance of 8, in float32.
    np.testing.assert_allclose(loss, [0.5 + np.log(8.0)], rtol=1e-6)
    inputs = methods.Inputs(x, None, jnp.arange(1), None)
    score = methods.get_score("weighted_squared")(None, None, inputs, outputs)
    np.testing.assert_allclose(score.map, np.full((1, 2, 2), 0.5), rtol=1e-6)
    assert score.value is None


def test_the_best_variance_is_the_squared_error():
    x = jnp.linspace(-1, 1, 12).reshape(1, 2, 2, 3)
    x_hat = x[:, ::-1]

    def loss(log_variance):
        outputs = outputs_of(x_hat, log_variance)
        return uncertainty.likelihood_error(x, outputs)["reconstruction"][0]

    best = jnp.log(jnp.square(x - x_hat))
    # Rounding of 1 - 1 in float32.
    np.testing.assert_allclose(jax.grad(loss)(best), 0, atol=1e-6)


def test_padding_reaches_neither_loss_nor_gradient():
    x, mask = jnp.ones((2, 1, 1, 1)), jnp.array([True, False])

    def loss(decoded):
        outputs = outputs_of(*uncertainty.heads(decoded, mask))
        losses = uncertainty.likelihood_error(x, outputs)["reconstruction"]
        return jnp.sum(jnp.where(mask, losses, 0.0))

    # exp(1000) is infinite.
    decoded = jnp.array([[0.0, 0.0], [5.0, -1000.0]]).reshape(2, 1, 1, 2)
    value, gradient = jax.value_and_grad(loss)(decoded)
    assert value == 1.0
    np.testing.assert_array_equal(
        gradient.reshape(2, 2), [[-2.0, 0.0], [0.0, 0.0]]
    )
