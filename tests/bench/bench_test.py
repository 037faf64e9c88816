import contextlib
import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import parity_support
import pytest
import training_support

from aeent_jax import methods, models
from aeent_jax.bench import (
    plain,
    plain_torch,
    rounds,
    tables,
    train_speed,
    trainers,
)
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


@pytest.fixture
def without_torch(monkeypatch):
    monkeypatch.setattr(
        train_speed.importlib.util, "find_spec", lambda name: None
    )


class FakeTrainer:
    """Writes down what it is asked."""

    def __init__(self, name, log):
        self.startup = {"data": 1.0}
        self._name = name
        self._log = log

    def run_steps(self, steps):
        self._log.append((self._name, steps))
        return 64 * steps

    def run_epochs(self, gate):
        while True:
            self._log.append((self._name, "epoch"))
            gate(1000)


@contextlib.contextmanager
def fake_contenders(names, log):
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(
                contextlib.closing(
                    rounds.Contender(
                        functools.partial(FakeTrainer, name, log),
                        own_process=False,
                    )
                )
            )
            for name in names
        }


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
        z, _ = network.encode(ours, x, train=True)
        x_hat, _ = network.decode(ours, z, train=True)
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


@pytest.mark.parametrize("make", [trainers.Plain, trainers.PlainTorch])
def test_what_is_beside_ours_does_the_steps_it_is_asked_for(make, config):
    if make is trainers.PlainTorch:
        pytest.importorskip("torch")
    trainer = make(config)
    assert list(trainer.startup) == [
        "data",
        "init",
        "first step",
        "first step, cached",
    ]
    assert trainer.run_steps(2) == 2 * config.train.batch_size


def test_contenders_take_turns():
    log = []
    with fake_contenders("AB", log) as contenders:
        rates = rounds.take_turns(contenders, 5, 2)
        epochs = rounds.take_turns(contenders, rounds.EPOCH, 1, uncounted=1)
    assert log[:4] == [("A", 5), ("B", 5)] * 2
    assert log[4:] == [("A", "epoch"), ("B", "epoch")] * 2
    assert [len(r) for r in rates.values()] == [2, 2]
    assert [len(r) for r in epochs.values()] == [1, 1]
    assert all(rate > 0 for rate in [*rates["A"], *epochs["B"]])


def test_contender_does_nothing_between_orders():
    log = []
    with fake_contenders("A", log) as contenders:
        contenders["A"].images_per_second(rounds.EPOCH)
        contenders["A"].images_per_second(rounds.EPOCH)
        contenders["A"].close()
        assert log == [("A", "epoch")] * 2


def test_startup_begins_with_the_imports():
    with fake_contenders("A", []) as contenders:
        assert list(contenders["A"].startup) == ["imports", "data"]


@pytest.mark.parametrize("own_process", [True, False])
def test_failure_of_a_contender_is_told(own_process):
    with pytest.raises(RuntimeError, match=r"failed: ValueError: invalid lit"):
        rounds.Contender(functools.partial(int, "x"), own_process=own_process)


def test_death_of_a_contender_is_told():
    with pytest.raises(RuntimeError, match="its process ended without a word"):
        rounds.Contender(functools.partial(os._exit, 3), own_process=True)


def test_torch_is_measured_where_it_is_installed(config, monkeypatch):
    spec = train_speed.importlib.util.find_spec("jax")
    for found in (None, spec):
        monkeypatch.setattr(
            train_speed.importlib.util,
            "find_spec",
            lambda name, found=found: found,
        )
        listed = train_speed.list_entries(config, 1)
        assert ("torch" in listed) == (found is not None)


def test_entries_do_the_same_work_but_the_last(config, without_torch):
    entries = train_speed.list_entries(config, 4)
    assert list(entries) == [
        "plain",
        "one",
        "default",
        "objective",
    ]
    for key in ("one", "default"):
        assert entries[key].overrides["channel.sigma"] == 0
        assert entries[key].overrides["entropy.estimator"] == "none"
    assert "channel.sigma" not in entries["objective"].overrides
    devices = [entry.num_devices for entry in entries.values()]
    assert devices == [1, 1, 4, 4]


def test_entries_leave_out_what_would_be_twice(config, without_torch):
    assert list(train_speed.list_entries(config, 1)) == [
        "plain",
        "default",
        "objective",
    ]
    config.entropy.estimator = "none"
    assert "objective" not in train_speed.list_entries(config, 4)


def test_trainer_in_its_own_process_has_the_devices_it_asks_for(
    config, tmp_path
):
    config.parallel.num_devices = 2
    make = functools.partial(
        trainers.make_in_own_process,
        functools.partial(trainers.Ours, config, tmp_path / "w"),
        2,
        str(tmp_path / "xla"),
    )
    with contextlib.closing(
        rounds.Contender(make, own_process=True)
    ) as contender:
        assert list(contender.startup) == [
            "imports",
            "data",
            "init",
            "first step",
            "first step, cached",
        ]
        assert contender.images_per_second(2) > 0
        # The workdir shows that the epochs are those of the real loop.
        for _ in range(2):
            assert contender.images_per_second(rounds.EPOCH) > 0
    records = training_support.read_history(tmp_path / "w")
    assert [record["epoch"] for record in records] == [1.0]


@pytest.mark.slow
def test_measures_and_prints(config, without_torch):
    config.entropy.estimator = "none"
    config.entropy.weight = 0.0
    said = []
    result = train_speed.measure(
        config, 1, say=said.append, own_processes=False, num_devices=1
    )
    assert json.loads(json.dumps(result)) == result
    assert list(result["entries"]) == ["plain", "default"]
    for entry in result["entries"].values():
        for measured in (entry["step"], entry["epoch"]):
            assert measured["images_per_second"] > 0
    base = result["entries"]["plain"]["step"]["over_plain_flax"]
    assert base == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert result["size"]["train_images"] == 14
    assert result["environment"]["packages"]["jax"]
    text = tables.format_training(result)
    assert all(len(line) <= 100 for line in text.splitlines())
    for word in ("plain flax", "ours  "):
        assert word in text


def test_table_shows_medians_ratios_and_the_second_start():
    text = tables.format_training(example_result())
    assert "244  1.00 (1.0-1.0)" in text
    assert "first step done after 6.5 s (imports 3.0, data 0.5, init" in text


def example_result():
    ratio = {"median": 1.0, "low": 1.0, "high": 1.0}
    measured = {
        "images_per_second": 244.0,
        "over_plain_flax": ratio,
        "rounds": [244.0],
    }
    startup = {
        "imports": 3.0,
        "data": 0.5,
        "init": 1.0,
        "first step": 2.0,
        "first step, cached": 1.0,
    }
    return {
        "environment": {
            "python": "3.11.9",
            "packages": dict.fromkeys(
                ("jax", "jaxlib", "flax", "optax", "numpy"), "1.0"
            ),
            "devices": ["cpu"],
            "cores": 2,
            "processor": "EPYC",
        },
        "size": {
            "image_size": 64,
            "channels": 1,
            "latent_dim": 64,
            "base_width": 16,
            "batch_size": 64,
            "train_images": 1000,
            "steps_per_round": 6,
        },
        "entries": {
            "plain": {
                "name": "plain flax",
                "num_devices": 1,
                "startup_seconds": startup,
                "step": measured,
                "epoch": measured,
            }
        },
        "second_start_seconds": startup,
    }


def test_refuses_less_than_one_step(config):
    with pytest.raises(ValueError, match="--steps is 0, but must be at least"):
        train_speed.measure(config, 0, say=lambda line: None)


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
