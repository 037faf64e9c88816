import jax
import jax.numpy as jnp
import numpy as np

from aeent_jax.training import latent_queue


def rows(*numbers):
    """A batch of latents `[n, 2]` that hold their numbers."""
    return jnp.repeat(jnp.float32(numbers)[:, None], 2, axis=1)


def held(queue):
    """The numbers of the latents in the queue."""
    return np.asarray(queue.latents)[: int(queue.count), 0].tolist()


def test_latest_come_first_and_the_oldest_fall_out():
    queue, seen = latent_queue.create(4, 2), []
    for batch in ((1, 2), (3,), (4, 5)):
        queue = latent_queue.push(
            queue, rows(*batch), jnp.ones(len(batch), bool)
        )
        seen.append(held(queue))
    assert seen == [[1, 2], [3, 1, 2], [4, 5, 3, 1]]


def test_batch_larger_than_the_queue_fills_it():
    queue = latent_queue.create(2, 2)
    queue = latent_queue.push(queue, rows(1, 2, 3), jnp.ones(3, bool))
    assert held(queue) == [1, 2]


def test_masked_rows_never_enter_wherever_the_padding_is():
    mask = jnp.array([False, True, False, True, False])
    padded = jnp.where(mask[:, None], rows(0, 1, 0, 2, 0), jnp.nan)
    queue = latent_queue.push(latent_queue.create(4, 2), padded, mask)
    plain = latent_queue.push(
        latent_queue.create(4, 2), rows(1, 2), jnp.ones(2, bool)
    )
    assert held(queue) == [1, 2]
    np.testing.assert_array_equal(queue.latents, plain.latents)
    np.testing.assert_array_equal(queue.mask, [True, True, False, False])


def test_what_is_kept_has_no_gradient():
    def total(z):
        queue = latent_queue.create(3, 2)
        return latent_queue.push(queue, z, jnp.ones(2, bool)).latents.sum()

    value, gradient = jax.value_and_grad(total)(rows(1, 2))
    assert value == 6
    np.testing.assert_array_equal(gradient, 0)
