"""Methods equal the reference's, number for number."""

import functools
import json
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aeent_jax import config as config_lib
from aeent_jax import methods

_TESTDATA = pathlib.Path(__file__).parents[1] / "testdata"
_COUNTS = json.loads((_TESTDATA / "parameter_counts.json").read_text())

# Our module to the reference's.
_MODULES = {
    "encoder": {
        "hidden": "bottle_neck.linear_enc.0",
        "hidden_norm": "bottle_neck.linear_enc.1",
        "latent": "bottle_neck.linear_enc.3",
        **{f"block{i}_0/conv": f"en_block{i}.model.0" for i in range(1, 5)},
        **{f"block{i}_0/norm": f"en_block{i}.model.1" for i in range(1, 5)},
    },
    "decoder": {
        "hidden": "bottle_neck.linear_dec.0",
        "hidden_norm": "bottle_neck.linear_dec.1",
        "unflatten": "bottle_neck.linear_dec.3",
        **{f"up{i}": f"de_block{i}.model.0" for i in range(1, 5)},
        **{f"up{i}_norm": f"de_block{i}.model.1" for i in range(1, 4)},
    },
}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


class _Case(NamedTuple):
    """A method, the precision of its passes, and a bound on its map."""

    name: str
    dtype: type = np.float32
    score_map: float = 1e-5


_CASES = [
    _Case("ae_l1"),
    # Variances are differences of moments, so rounding counts beside the 9e-4
    # that SSIM adds to them; in float64 the frozen map is 1e-5 away.
    _Case("ae_ssim", score_map=3e-5),
    _Case("ae_spatial"),
    _Case("aeu"),
    # Initial parameters that differ by one part in 1e7 move the sixth loss by
    # 1e-4, also in float64, which stays 2e-7 from the frozen losses.
    _Case("constrained_ae", dtype=np.float64),
]


def make_config(name):
    config = config_lib.apply_variant(config_lib.default(), "plain")
    config.method, config.compat = name, "medianomaly"
    config.data.image_size, config.model.latent_dim = 32, 4
    config.model.base_width, config.model.hidden_dim = 4, 32
    return config


def _to_ours(array, names):
    """An array of PyTorch's in our layout: NHWC, and features last."""
    half, *module, leaf = names
    array = np.asarray(array)
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    # Flattened features come as (C, H, W), and go as (H, W, C).
    places = np.arange(64).reshape(16, 2, 2).transpose(1, 2, 0).ravel()
    if module == ["unflatten"]:
        array = array[places]
    if (half, module, leaf) == ("encoder", ["hidden"], "kernel"):
        array = array[:, places]
    return array.T


class _Reference:
    """A method, and the frozen file of the reference's numbers."""

    def __init__(self, case):
        self.case = case
        self.arrays = np.load(_TESTDATA / f"{case.name}.npz")
        self.method = methods.make_method(make_config(case.name), None)
        batches = self.arrays["x_batches"].astype(case.dtype)
        self.x = batches.transpose(0, 1, 3, 4, 2)
        self.shapes = jax.eval_shape(self.method.init, jax.random.key(0))
        self.optimizer = optax.adam(1e-3)

    def tree(self, prefix, collection):
        """Parameters, gradients or statistics in our names and layouts."""

        def leaf(path, shape):
            half, *module, leaf = names = [key.key for key in path]
            theirs = _MODULES[half]["/".join(module)]
            array = self.arrays[f"{prefix}/{theirs}.{_LEAVES[leaf]}"]
            array = _to_ours(array, names)
            assert array.shape == shape.shape
            return array.astype(self.case.dtype)

        return jax.tree.map_with_path(leaf, self.shapes[collection])

    def variables(self, prefix):
        return {c: self.tree(prefix, c) for c in ("params", "batch_stats")}

    def images(self, name):
        return self.arrays[name].transpose(0, 2, 3, 1)

    def inputs(self, x):
        return methods.Inputs(x, None, jnp.arange(len(x)), jax.random.key(0))

    def _loss(self, params, batch_stats, x):
        variables = {"params": params, "batch_stats": batch_stats}
        outputs = self.method.forward(
            variables, self.inputs(x), methods.no_noise, train=True
        )
        losses = self.method.losses(x, outputs).values()
        return sum(map(jnp.mean, losses)), outputs.batch_stats

    @functools.partial(jax.jit, static_argnums=0)
    def step(self, state, opt_state, x):
        """A training step: state, state of Adam, loss and gradients."""
        params, stats = state["params"], state["batch_stats"]
        (loss, stats), grads = jax.value_and_grad(self._loss, has_aux=True)(
            params, stats, x
        )
        updates, opt_state = self.optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        state = {"params": params, "batch_stats": stats}
        return state, opt_state, loss, grads

    @functools.partial(jax.jit, static_argnums=0)
    def evaluate(self, variables, x):
        inputs = self.inputs(x)
        forward = self.method.forward
        outputs = forward(variables, inputs, methods.no_noise, train=False)
        score = methods.get_score(self.method.score)
        return outputs, score(self.method, variables, inputs, outputs)


_made = functools.cache(_Reference)


@pytest.fixture(params=_CASES, ids=lambda case: case.name)
def reference(request):
    made = _made(request.param)
    with jax.enable_x64(request.param.dtype == np.float64):
        yield made


def test_untrained_outputs_match_the_reference(reference):
    outputs, score = reference.evaluate(
        reference.variables("init"), reference.x[0]
    )
    # Float32 rounding through 14 layers; values are of order one.
    rounding = {"atol": 1e-5}
    np.testing.assert_allclose(
        outputs.x_hat, reference.images("eval0/x_hat"), **rounding
    )
    if outputs.z is not None:
        np.testing.assert_allclose(
            outputs.z, reference.arrays["eval0/z"], **rounding
        )
    for name, theirs in {"log_variance": "eval0/log_var"}.items():
        if name in outputs.extra:
            np.testing.assert_allclose(
                outputs.extra[name], reference.images(theirs), **rounding
            )
    np.testing.assert_allclose(
        score.map,
        reference.arrays["eval0/score_map"][:, 0],
        atol=reference.case.score_map,
    )


def _decided(params):
    """Drops biases before a BatchNorm, whose true gradient is zero.

    The latent's is one, too: a linear layer and then a BatchNorm follow.
    """

    def keep(path, array):
        names = [key.key for key in path]
        exempt = names[-1] == "bias" and names[1] in ("hidden", "latent")
        return None if exempt else array

    return jax.tree.map_with_path(keep, params)


def test_gradients_match_the_reference(reference):
    state = reference.variables("init")
    opt_state = reference.optimizer.init(state["params"])
    grads = reference.step(state, opt_state, reference.x[0])[-1]
    # The bound the reference sets on gradients, relative to the largest entry.
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(
            ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max() + 1e-8
        ),
        _decided(grads),
        _decided(reference.tree("grad0", "params")),
    )


def _train(reference):
    """Six steps of Adam; losses, the last state, and x_hat of batch 0."""
    state = reference.variables("init")
    opt_state = reference.optimizer.init(state["params"])
    losses = []
    for x in reference.x:
        state, opt_state, loss, _ = reference.step(state, opt_state, x)
        losses.append(loss)
    outputs, _ = reference.evaluate(state, reference.x[0])
    return jax.device_get((losses, state, outputs.x_hat))


def test_training_matches_the_reference(reference):
    losses, state, x_hat = _train(reference)
    # The reference's own bounds on losses, and on outputs after them.
    np.testing.assert_allclose(
        losses, reference.arrays["train/losses"], atol=1e-5
    )
    np.testing.assert_allclose(
        x_hat, reference.images("final/x_hat_of_batch0"), atol=1e-4
    )
    # Six steps of 1e-3 move a parameter by up to 6e-3: agree to a hundredth of
    # that in the mean (Adam has a few entries follow rounding).
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_array_less(
            np.mean(np.abs(ours - theirs)), 6e-5
        ),
        _decided(state["params"]),
        _decided(reference.tree("final", "params")),
    )


@pytest.mark.parametrize(
    "name", [n for n in _COUNTS if n.startswith(("aeu", "constrained_ae"))]
)
def test_parameter_count_matches_the_reference(name):
    method, channels, latent = name.rsplit("_", 2)
    config = config_lib.apply_variant(config_lib.default(), "plain")
    config.method = method
    config.data.channels = int(channels[1:])
    config.model.latent_dim = int(latent[1:])
    shapes = jax.eval_shape(
        methods.make_method(config, None).init, jax.random.key(0)
    )
    counted = sum(a.size for a in jax.tree.leaves(shapes["params"]))
    assert counted == _COUNTS[name]
