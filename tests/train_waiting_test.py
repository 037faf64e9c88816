"""In a run nothing compiles twice, and nothing is transferred unasked."""

import jax
import pytest
import training_support

from aeent_jax import train

# Of each program that is traced and lowered, whether or not the compiled one
# is found in the cache.
LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
STEPS_PER_EPOCH = 4


@pytest.fixture(scope="module", autouse=True)
def compilation_cache(tmp_path_factory):
    yield from training_support.use_compilation_cache(
        training_support.cache_home(tmp_path_factory)
    )


@pytest.fixture
def make_config(tmp_path):
    root = training_support.make_class_folders(tmp_path / "images")

    def make(**overrides):
        return training_support.make_config(
            root, tmp_path / "cache", **overrides
        )

    return make


@pytest.fixture
def lowered():
    """Grows by one with each program."""
    found = []

    def listen(event, duration, **_):
        if event == LOWERED:
            found.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_first_epoch_compiles_all_that_training_needs(
    make_config, lowered, tmp_path, mode
):
    counts = {}
    say = training_support.Recorder(
        lambda step: counts.setdefault(step, len(lowered))
    )
    # Each epoch ends ragged, and saves.
    config = make_config(parallel__mode=mode)
    train.train(config, tmp_path / "run", say=say)
    assert counts[1] > 0
    assert counts[3 * STEPS_PER_EPOCH] == counts[STEPS_PER_EPOCH]


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_training_transfers_nothing_unasked(
    make_config, monkeypatch, tmp_path, mode
):
    loop = train._loop

    def guarded(*args):
        with jax.transfer_guard("disallow"):
            return loop(*args)

    monkeypatch.setattr(train, "_loop", guarded)
    config = make_config(parallel__mode=mode, train__epochs=2)
    train.train(config, tmp_path / "run")
