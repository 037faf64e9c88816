"""A batch in parts has the gradient, and the entropy, of the whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import training_support

from aeent_jax import methods
from aeent_jax.methods import autoencoders, memae, vae
from aeent_jax.runtime import parallel
from aeent_jax.training import accumulation, controller, experiment
from aeent_jax.training import loop as train
from aeent_jax.training import step as train_step

SEED, WEIGHT, PARTS = 7, 0.3, 3
IMAGES = training_support.make_images(14)
SHAPE, DIM = IMAGES.shape[1:], 4


class Unmixed:
    """A network in which images do not mix: nothing is of a part alone."""

    def __init__(self, vectors=1):
        self.latent_dim = DIM
        self._vectors = vectors

    def init(self, rng):
        first, second = jax.random.split(rng)
        pixels = int(np.prod(SHAPE))
        into = 0.1 * jax.random.normal(first, (pixels, DIM * self._vectors))
        out = 0.1 * jax.random.normal(second, (DIM, pixels))
        return {
            "params": {"encoder": into, "decoder": out},
            "batch_stats": {"encoder": {}, "decoder": {}},
        }

    def apply(self, half, variables, x, mask=None, *, train):
        del mask, train
        product = x.reshape(len(x), -1) @ variables["params"][half]
        if half == "encoder":
            return jnp.tanh(product), {}
        return product.reshape(-1, *SHAPE), {}


METHODS = {
    "ae": autoencoders.from_network(Unmixed()),
    # Each image has a sample of its own, in whichever part it is.
    "vae": vae.from_network(
        Unmixed(2), kl_weight=0.1, samples_in_evaluation=False
    ),
    # Its memory is a parameter of neither half.
    "memae": memae.from_network(
        Unmixed(), num_slots=5, threshold=0.01, address_weight=0.1
    ),
}


RATES = {
    "kde_loo": {},
    "uniform": {"noise": "uniform"},
    "coding_rate": {"estimator": "coding_rate"},
    "learned": {"estimator": "density"},
}


@pytest.fixture(scope="module", autouse=True)
def density():
    with pytest.MonkeyPatch.context() as patch:
        training_support.add_density(patch)
        yield


@pytest.fixture(scope="module", autouse=True)
def compilation_cache(tmp_path_factory):
    yield from training_support.use_compilation_cache(
        training_support.cache_home(tmp_path_factory)
    )


def make_step_config(name, parts, method=METHODS["ae"]):
    fields = {
        "method": method,
        "microbatches": parts,
        "estimator_optimizer": optax.sgd(0.1),
        "control": controller.Controller("target_rate", 1.0, 0.1),
    }
    return training_support.make_step_config(
        optax.sgd(0.1), fields=fields, **RATES[name]
    )


def mapped(program, mapping):
    return mapping.map(
        lambda *args: train_step.train_steps(program, *args),
    )


def make_arguments(program, mapping, count, rows):
    create = jax.jit(lambda seed: train_step.create_state(program, seed))
    hyper = train_step.Hyper(np.int32(SEED), np.float32(WEIGHT))
    indices = (np.arange(rows, dtype=np.int32) % len(IMAGES))[:, None]
    mask = (np.arange(rows) < count)[:, None]
    return (
        *mapping.replicate((jax.device_get(create(SEED)), hyper, IMAGES)),
        *mapping.shard((indices, mask)),
    )


@functools.cache
def unmixed(name, parts):
    """A program of one device, and what it compiles to."""
    program = make_step_config(name, parts)
    return program, mapped(program, parallel.make_parallel(1))


def steps(program, num_devices=1, count=12, rows=12, step=None):
    """The state and metrics after two steps."""
    mapping = parallel.make_parallel(num_devices)
    state, *rest = make_arguments(program, mapping, count, rows)
    step = step or mapped(program, mapping)
    first, _ = step(state, *rest)
    return mapping.fetch_replicated(step(first, *rest))


def assert_close(actual, expected):
    # Sums of float32 in another order.
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-5),
        actual,
        expected,
    )


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize(("count", "rows"), [(12, 12), (10, 12)])
def test_parts_add_up_to_the_whole(name, count, rows):
    whole, added = (
        steps(program, 1, count, rows, step)
        for program, step in (unmixed(name, 1), unmixed(name, PARTS))
    )
    assert_close(added, whole)


@pytest.mark.slow
def test_parts_are_the_same_on_any_number_of_devices():
    # With BatchNorm, so that it matters which images are in a part.
    program = make_step_config("uniform", 2, training_support.make_method())
    assert_close(steps(program, 2), steps(program, 1))


def test_statistics_are_of_parts_and_the_entropy_is_of_the_whole():
    method = training_support.make_method()
    program = make_step_config("coding_rate", 2, method)
    mapping = parallel.make_parallel(1)
    state, hyper, *_ = make_arguments(program, mapping, 12, 12)
    state, hyper = mapping.fetch_replicated((state, hyper))
    weight = controller.weight_of(
        program.control, state.ascent, hyper.weight, state.step
    )
    rng = jax.random.fold_in(jax.random.key(SEED), 0)
    x = methods.normalise(jnp.asarray(IMAGES[:12]))

    def loss(params):
        """Written down directly: even and odd rows, then all latents."""
        total, latents = 0.0, []
        stats = state.batch_stats
        for i in range(2):
            rows = np.arange(i, 12, 2)
            inputs = methods.Inputs(x[rows], np.ones(6, bool), rows, rng)
            outputs = method.forward(
                {"params": params, "batch_stats": stats},
                inputs,
                lambda z, rows=rows: z + 0.5 * noise_of(rows, rng),
                train=True,
            )
            stats = outputs.batch_stats
            latents.append(outputs.z)
            total += jnp.sum(jnp.square(x[rows] - outputs.x_hat)) / x.size
        z = jnp.concatenate(latents)
        centred = z - z.mean(0)
        covariance = centred.T @ centred / len(z)
        log_det = jnp.linalg.slogdet(
            jnp.eye(z.shape[1]) + covariance / 0.25
        ).logabsdet
        return total + weight * log_det / 2, stats

    def run_alone(params):
        (_, stats), grads = jax.vmap(
            jax.value_and_grad(loss, has_aux=True), axis_name=parallel.AXIS
        )(jax.tree.map(lambda a: a[None], params))
        return jax.tree.map(lambda a: a[0], (stats, grads))

    stats, grads = jax.jit(run_alone)(state.params)
    step = mapped(program, mapping)
    found, _ = mapping.fetch_replicated(
        step(*make_arguments(program, mapping, 12, 12))
    )
    assert_close(found.batch_stats, stats)
    moved = jax.tree.map(
        lambda new, old: (old - new) / 0.1, found.params, state.params
    )
    # Differences of float32 parameters of order one, divided by 0.1.
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=2e-5),
        moved,
        grads,
    )


def noise_of(rows, rng):
    return jnp.stack(
        [
            jax.random.normal(
                jax.random.fold_in(rng, row), (training_support.LATENT_DIM,)
            )
            for row in rows
        ]
    )


@pytest.mark.slow
def test_part_of_padding_alone_leaves_statistics():
    method = training_support.make_method()
    program = make_step_config("coding_rate", 4, method)
    mapping = parallel.make_parallel(1)
    step = mapped(program, mapping)
    # Rows 0, 1 and 2 of 8 are valid: the fourth part holds none.
    args = make_arguments(program, mapping, 3, 8)
    state, metrics = mapping.fetch_replicated(step(*args))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    # Each part of one row has no variance: three steps of 0.9 towards 0.
    var = state.batch_stats["encoder"]["hidden_norm"]["var"]
    np.testing.assert_allclose(var, 0.9**3, rtol=1e-5)
    assert metrics["count"] == 3


@pytest.mark.slow
def test_parts_take_less_memory():
    method = training_support.make_method()
    mapping = parallel.make_parallel(1)
    sizes = []
    for parts in (1, 8):
        program = make_step_config("coding_rate", parts, method)
        args = make_arguments(program, mapping, 256, 256)
        lowered = mapped(program, mapping).lower(*args)
        sizes.append(lowered.compile().memory_analysis().temp_size_in_bytes)
    assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.slow
def test_run_in_parts_trains_and_ends(tmp_path):
    root = training_support.make_class_folders(tmp_path / "images")
    config = training_support.make_config(
        root, tmp_path / "cache", train__microbatches=2, train__epochs=1
    )
    assert experiment.Experiment(config, tmp_path / "run").padded_size == 4
    results = train.train(config, tmp_path / "run")
    assert np.isfinite(results["rate_nats"])


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            {"train__microbatches": 3},
            "microbatches is 3, but must divide train.batch_size, which is 4",
        ),
        (
            {"train__microbatches": 4},
            "microbatches is 4, so each part of a batch has one image",
        ),
        ({"train__microbatches": 0}, "a whole number of at least 1"),
        (
            {"train__microbatches": 2, "method": "ganomaly"},
            "ganomaly is trained against an adversary",
        ),
    ],
)
def test_parts_that_cannot_be_are_refused(tmp_path, overrides, sentence):
    config = training_support.make_config(
        tmp_path, tmp_path / "cache", **overrides
    )
    with pytest.raises(ValueError, match=sentence):
        experiment.check_config(config)


def parts_of(name, parts, num_devices=1):
    """A method in parts: 24 rows, of which 20 are valid."""
    program = make_step_config("kde_loo", parts, METHODS[name])
    return steps(program, num_devices, 20, 24)


@functools.cache
def whole(name):
    return parts_of(name, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_parts_add_up_to_the_whole_with_all_of_its_losses(name):
    assert_close(parts_of(name, PARTS), whole(name))


@pytest.mark.slow
def test_parts_on_eight_devices_add_up_to_the_whole_on_one():
    assert_close(parts_of("vae", PARTS, 8), whole("vae"))


def test_parts_in_a_loop_add_up_to_the_whole(monkeypatch):
    loops = []
    scan = accumulation.lax.scan

    def recorded(*args):
        loops.append(len(jax.tree.leaves(args[2])[0]))
        return scan(*args)

    # As on accelerators.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(accumulation.lax, "scan", recorded)
    actual = parts_of("vae", PARTS)
    assert loops.count(PARTS) >= 2
    monkeypatch.undo()
    assert_close(actual, whole("vae"))
