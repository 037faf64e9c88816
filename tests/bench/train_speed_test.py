import dataclasses
import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import parity_support
import pytest
import training_support

from aeent_jax import methods, models
from aeent_jax.bench import plain, plain_torch, train_speed, train_worker
from aeent_jax.cli import bench as bench_cli

SIZES = {"latent_dim": 4, "base_width": 4, "hidden_dim": 32}


@pytest.fixture(autouse=True, scope="module")
def compilation_cache(tmp_path_factory):
    yield from training_support.use_compilation_cache(
        tmp_path_factory.mktemp("xla")
    )


@pytest.fixture
def config(tmp_path):
    images = training_support.make_images(14)
    training_support.write_images(tmp_path / "images", images)
    return training_support.make_config(tmp_path / "images", tmp_path / "cache")


def ours_as_plain(ours):
    """Our variables (depth 1) under the names of linen's own layers."""
    encoder, decoder = ours["params"]["encoder"], ours["params"]["decoder"]
    blocks = [encoder[f"block{i}_0"] for i in range(1, 5)]
    ups = [decoder[f"up{i}"] for i in range(1, 5)]
    layers = {
        "Conv": [block["conv"] for block in blocks],
        "BatchNorm": [
            *(block["norm"] for block in blocks),
            encoder["hidden_norm"],
            decoder["hidden_norm"],
            *(decoder[f"up{i}_norm"] for i in range(1, 4)),
        ],
        "Dense": [
            encoder["hidden"],
            encoder["latent"],
            decoder["hidden"],
            decoder["unflatten"],
        ],
        # PyTorch's kernel is that of the adjoint convolution.
        "ConvTranspose": [
            {"kernel": up["kernel"][::-1, ::-1].swapaxes(2, 3)} for up in ups
        ],
    }
    return {
        f"{kind}_{i}": layer
        for kind, listed in layers.items()
        for i, layer in enumerate(listed)
    }


def test_plain_flax_computes_the_same_network():
    network = models.make_autoencoder(
        image_size=16, channels=1, depth=1, **SIZES
    )
    own = plain.Autoencoder(channels=1, depth=1, **SIZES)

    @jax.jit
    def both(rng):
        ours = network.init(rng)
        x = jax.random.uniform(rng, (6, 16, 16, 1), minval=-1.0)
        z, _ = network.apply("encoder", ours, x, train=True)
        x_hat, _ = network.apply("decoder", ours, z, train=True)
        params = {"params": ours_as_plain(ours)}
        theirs, _ = own.apply(params, x, train=True, mutable=["batch_stats"])
        return theirs, x_hat

    actual, expected = both(jax.random.key(0))
    # Sums of at most 256 float32 terms, in another order, through 9 BatchNorms
    # of 6 examples, which divide by small deviations.
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("depth", [1, 2])
def test_plain_flax_has_as_many_parameters(channels, depth):
    network = models.make_autoencoder(
        image_size=32, channels=channels, depth=depth, **SIZES
    )
    own = plain.Autoencoder(channels=channels, depth=depth, **SIZES)
    x = jnp.zeros((1, 32, 32, channels))
    trees = [
        jax.eval_shape(lambda: network.init(jax.random.key(0))),
        jax.eval_shape(lambda: own.init(jax.random.key(0), x, train=True)),
    ]
    ours, theirs = (
        sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in trees
    )
    assert ours == theirs


def test_plain_flax_learns():
    network = plain.Autoencoder(channels=1, depth=1, **SIZES)
    state = plain.create_state(network, 16, 1e-3, 0)
    x = methods.normalise(jnp.asarray(training_support.make_images(8)))
    step, losses = jax.jit(plain.train_step), []
    for _ in range(50):
        state, loss = step(state, x)
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    moved = state.batch_stats["BatchNorm_0"]["mean"]
    assert np.all(moved != 0)


def test_plain_torch_trains_as_the_frozen_reference():
    torch = pytest.importorskip("torch")
    frozen = np.load(parity_support.TESTDATA / "ae.npz")
    sizes = {"latent_dim": 4, "base_width": 4, "hidden_dim": 32, "depth": 1}
    network = plain_torch.make_autoencoder(image_size=32, channels=1, **sizes)
    initial = [
        frozen[name] for name in frozen.files if name.startswith("init/")
    ]
    state = network.state_dict()
    assert len(state) == len(initial)
    network.load_state_dict(
        {
            name: torch.from_numpy(array)
            for name, array in zip(state, initial, strict=True)
        }
    )
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    losses = [
        float(plain_torch.train_step(network, optimizer, torch.from_numpy(x)))
        for x in frozen["x_batches"]
    ]
    # Both are float32, of two versions and processors.
    np.testing.assert_allclose(losses, frozen["train/losses"], rtol=1e-5)


def make_task(config, kind, tmp_path, **changes):
    task = train_worker.Task(
        kind=kind,
        config=json.loads(config.to_json()),
        num_devices=1,
        members=2,
        steps=1,
        cache=str(tmp_path / "xla"),
        begun=time.time(),
    )
    return dataclasses.replace(task, **changes)


@pytest.mark.parametrize("kind", list(train_worker.KINDS))
def test_contender_trains_and_scores(kind, config, tmp_path):
    if kind.startswith("torch"):
        pytest.importorskip("torch")
    contender = train_worker.KINDS[kind](
        make_task(config, kind, tmp_path), config
    )
    batch_size = config.train.batch_size
    members = 2 if kind == "population" else 1
    assert contender.train(3) == 3 * batch_size * members
    if kind == "population":
        assert contender.forward is None
    else:
        # More batches than the 14 images fill.
        assert contender.forward(5) == 5 * batch_size


def test_members_of_a_population_differ_and_all_train(config, tmp_path):
    task = make_task(config, "population", tmp_path)
    contender = train_worker.Population(task, config)
    before = jax.device_get(contender._state.params)
    contender.train(1)
    after = jax.device_get(contender._state.params)
    kernel = lambda params: params["encoder"]["hidden"]["kernel"].reshape(  # noqa: E731
        2, -1
    )
    assert np.all(np.any(kernel(before) != kernel(after), axis=1))
    assert np.any(kernel(before)[0] != kernel(before)[1])


@pytest.mark.parametrize("kind", ["plain", "torch"])
def test_bfloat16_is_that_of_the_layers(kind, config, tmp_path):
    if kind == "torch":
        pytest.importorskip("torch")
    results = {}
    for dtype in ("float32", "bfloat16"):
        config.compute.dtype = dtype
        task = make_task(config, kind, tmp_path)
        contender = train_worker.KINDS[kind](task, config)
        rows = train_worker._take(contender._images, 4)
        if kind == "plain":
            errors = contender._errors(contender._state, rows)
        else:
            contender._network.eval()
            with contender._autocast():
                errors = plain_torch.errors(
                    contender._network, contender._put(rows)
                ).numpy()
        results[dtype] = np.asarray(errors)
    assert np.any(results["float32"] != results["bfloat16"])
    # Eight bits of mantissa.
    np.testing.assert_allclose(
        results["bfloat16"], results["float32"], rtol=0.05
    )


def test_scoring_is_with_running_statistics(config, tmp_path):
    contender = train_worker.PlainFlax(
        make_task(config, "plain", tmp_path), config
    )
    images = contender._images
    together = contender._errors(contender._state, images)
    np.testing.assert_allclose(
        contender._errors(contender._state, images[:2]),
        together[:2],
        rtol=1e-5,  # float32, in programs of other shapes
    )


@pytest.fixture
def torch_is(monkeypatch):
    def install(spec):
        monkeypatch.setattr(
            train_speed.importlib.util, "find_spec", lambda name: spec
        )

    return install


def test_torch_is_measured_where_it_is_installed(config, torch_is):
    torch_is(None)
    assert list(train_speed.list_contenders(config, 4, [1, 8])) == [
        "one",
        "all",
        "objective",
        "plain",
        "population_1",
        "population_8",
    ]
    torch_is("installed")
    listed = train_speed.list_contenders(config, 4, [])
    assert list(listed)[-2:] == ["torch", "torch_channels_last"]


def test_contenders_do_the_same_work_but_the_objective(config, torch_is):
    torch_is(None)
    listed = train_speed.list_contenders(config, 4, [8])
    for key, contender in listed.items():
        has_channel = key == "objective"
        assert ("channel.sigma" not in contender.overrides) == has_channel
    assert listed["all"].num_devices == listed["objective"].num_devices == 4
    assert listed["population_8"].members == 8


def test_contenders_leave_out_what_would_be_twice(config, torch_is):
    torch_is(None)
    config.entropy.estimator = "none"
    assert list(train_speed.list_contenders(config, 1, [])) == ["one", "plain"]


def start_nothing(monkeypatch, log):
    """Answers as workers do, the slower the later."""

    def start(config, steps, folder, contender):
        if contender.kind == "describe":
            return {
                "environment": {"devices": ["cpu", "cpu"]},
                "train_images": 14,
            }
        log.append((contender.kind, contender.num_devices))
        rate = 100.0 / len(log) * contender.num_devices
        return {
            "train": rate,
            "forward": None if contender.kind == "population" else 3 * rate,
            "startup": {"imports": 1.0},
        }

    monkeypatch.setattr(train_speed, "_start", start)


def test_contenders_start_in_turns(config, monkeypatch, torch_is):
    torch_is(None)
    config.entropy.estimator = "none"
    log = []
    start_nothing(monkeypatch, log)
    result = train_speed.measure(
        config, steps=1, starts=3, members=[2], log=lambda line: None
    )
    turn = [("ours", 1), ("ours", 2), ("plain", 1), ("population", 1)]
    assert log == 3 * turn
    ratios = result["entries"]["all"]["train"]["over_ours"]
    # Twice as fast, a place later: 2 * 1 / 2, 2 * 5 / 6 and 2 * 9 / 10.
    assert ratios == pytest.approx({"median": 5 / 3, "low": 1.0, "high": 9 / 5})
    assert result["entries"]["population_2"]["forward"] is None


def test_processes_start_and_print(config, monkeypatch):
    contenders = {"one": train_speed.Contender("ours", "ours", 2)}
    monkeypatch.setattr(
        train_speed, "list_contenders", lambda *_: dict(contenders)
    )
    lines = []
    result = train_speed.measure(config, steps=1, starts=1, log=lines.append)
    assert json.loads(json.dumps(result)) == result
    assert result["size"]["train_images"] == 14
    assert result["environment"]["packages"]["jax"]
    for entry in result["entries"].values():
        assert entry["train"]["images_per_second"] > 0
        assert entry["forward"]["images_per_second"] > 0
        assert list(entry["startup"][0]) == [
            "imports",
            "data and state",
            "first step",
        ]
    assert result["entries"]["one"]["train"]["over_ours"]["median"] == 1.0
    assert "Start 1 of 1: ours on 2 device(s) ..." in lines
    assert "| ours      |       2 | " in train_speed.format_training(result)


def test_worker_has_the_devices_it_asks_for(config, tmp_path, monkeypatch):
    monkeypatch.setattr(train_speed.subprocess, "run", run_in_place)
    monkeypatch.setenv(
        "XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_x=1"
    )
    contender = train_speed.Contender("ours", "ours", 2)
    answer = train_speed._start(config, 7, tmp_path, contender)
    assert answer["flags"] == "--xla_x=1"
    assert answer["task"]["num_devices"] == 2
    assert answer["task"]["steps"] == 7
    assert answer["task"]["config"]["entropy"]["estimator"] == "none"


def run_in_place(command, *, env, **kwargs):
    """Returns what a worker would be given."""
    task = json.loads(pathlib.Path(command[-1]).read_text())
    answer = json.dumps({"flags": env["XLA_FLAGS"], "task": task})
    return train_speed.subprocess.CompletedProcess(
        command, 0, f"a line of another library\n{answer}\n", ""
    )


def test_failure_of_a_contender_is_told(config, tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'MemoryError: all of it' >&2; exit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(
        RuntimeError, match=r"^ours failed with status 3: MemoryError: all"
    ):
        train_speed._start(
            config, 1, tmp_path, train_speed.Contender("ours", "ours")
        )


def example_result():
    def measured(rate, ratio):
        return {
            "images_per_second": rate,
            "over_ours": {"median": ratio, "low": 0.5, "high": 2.25},
            "starts": [rate - 4, rate, rate + 8],
        }

    def entry(name, forward, members=1):
        startup = [{"imports": 3.0, "first step": 9.0}, {"imports": 2.5}]
        return {
            "name": name,
            "num_devices": 1,
            "members": members,
            "startup": startup,
            "train": measured(244.4, 1.0),
            "forward": forward,
        }

    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "environment": {
            "python": "3.11.9",
            "packages": dict.fromkeys(packages, "1.0"),
            "devices": ["cpu"],
            "cores": 2,
            "processor": "EPYC",
        },
        "size": {
            "image_size": 64,
            "channels": 1,
            "latent_dim": 64,
            "base_width": 16,
            "dtype": "float32",
            "batch_size": 64,
            "train_images": 1000,
            "steps": 20,
            "starts": 3,
        },
        "entries": {
            "one": entry("ours", measured(900.0, 1.0)),
            "population_2": entry("population of 2", None, 2),
        },
    }


def test_table_shows_medians_with_their_spread():
    lines = train_speed.format_training(example_result()).splitlines()
    assert lines[0].endswith("batch 64, float32")
    assert lines[5:] == [
        "| ours            |       1 |   244 (240 to 252) | 1.00 (0.50 to 2.25)"
        " |  900 (896 to 908) | 1.00 (0.50 to 2.25) |",
        "| population of 2 |       1 |   244 (240 to 252) | 1.00 (0.50 to 2.25)"
        " |                 - |                   - |",
        "",
        "Median (least to largest) of 3 start(s) of 20 steps; each start is a"
        " process, in turns.",
        "ours on 1 device(s) ends its first step 12.0 s after its first start"
        " and 2.5 s after its last (imports 2.5).",
        "Images of a population are those of all members together: below 1.00"
        " it is slower than one member after another.",
    ]


@pytest.mark.parametrize("flag", ["steps", "starts"])
def test_refuses_less_than_one_step_or_start(config, flag):
    numbers = {"steps": 1, "starts": 1} | {flag: 0}
    with pytest.raises(ValueError, match=f"--{flag} is 0, but must be at"):
        train_speed.measure(config, **numbers, log=lambda line: None)


@pytest.mark.parametrize("words", [[], ["fly"], ["train", "entropy"]])
def test_unknown_benchmark_lists_what_exists(words):
    with pytest.raises(ValueError, match="needs one of train, entropy, found"):
        bench_cli.main(["aeent bench", *words])


@pytest.mark.parametrize("words", [["0"], ["1k", "2"], ["2", "-1"], [""], []])
def test_words_that_are_no_numbers_are_refused_by_their_flag(words):
    assert bench_cli.parse_numbers("sizes", ["16", "8"], "1024") == [16, 8]
    with pytest.raises(
        ValueError, match=r"--sizes=.* was found, .* --sizes=1024"
    ):
        bench_cli.parse_numbers("sizes", words, "1024")
