import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeent_jax.entropy import channel

SIGMA, ROWS, DIM = 0.7, 4000, 3


@pytest.mark.parametrize("noise", channel.NOISES)
def test_noise_has_the_deviation_and_is_fresh_in_each_step(noise):
    z = jnp.full((ROWS, DIM), 5.0)
    draws = np.array(
        [
            channel.add_noise(
                z, SIGMA, jax.random.key(step), jnp.arange(ROWS), noise
            )
            for step in range(2)
        ]
    )
    eps = (draws - 5.0) / SIGMA
    # Four standard errors of 12000 draws.
    np.testing.assert_allclose(eps.mean((1, 2)), 0.0, atol=4 / 12000**0.5)
    np.testing.assert_allclose(eps.std((1, 2)), 1.0, atol=4 / 24000**0.5)
    correlation = np.corrcoef(eps[0].ravel(), eps[1].ravel())[0, 1]
    assert abs(correlation) < 4 / 12000**0.5


def test_uniform_noise_fills_its_width_evenly():
    z = jnp.zeros((ROWS, DIM))
    rng, positions = jax.random.key(0), jnp.arange(ROWS)
    noise = channel.add_noise(z, SIGMA, rng, positions, "uniform")
    width = channel.width(SIGMA)
    assert jnp.abs(noise).max() <= width / 2
    counts, _ = np.histogram(noise, 6, (-width / 2, width / 2))
    # Five standard deviations of a sixth of 12000 draws.
    np.testing.assert_allclose(counts, 2000, atol=5 * (2000 * 5 / 6) ** 0.5)


def test_no_channel_changes_nothing():
    z = jnp.ones((4, DIM))
    assert channel.add_noise(z, 0, None, jnp.arange(4)) is z


def test_unknown_noise_lists_the_choices():
    with pytest.raises(ValueError, match=r".") as caught:
        channel.ENTROPIES["laplace"]
    assert str(caught.value) == (
        "channel.noise is 'laplace', and one of gaussian, uniform is"
        " needed: check the spelling."
    )


def test_masked_dimensions_get_no_noise():
    z, mask = jnp.arange(12.0).reshape(4, 3), jnp.array([True, False, True])
    arguments = (z, 0.5, jax.random.key(0), jnp.arange(4))
    noisy = channel.add_noise(*arguments, latent_mask=mask)
    assert (noisy[:, ~mask] == z[:, ~mask]).all()
    whole = channel.add_noise(*arguments)
    assert (noisy[:, mask] == whole[:, mask]).all()
    assert (whole[:, ~mask] != z[:, ~mask]).all()
