"""Training transfers nothing that it was not asked to."""

import jax
import pytest
import training_support

from aeent_jax.training import loop as loop_lib


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


def test_training_transfers_nothing_unasked(make_config, monkeypatch, tmp_path):
    loop = loop_lib._loop

    def guarded(*args):
        with jax.transfer_guard("disallow"):
            return loop(*args)

    monkeypatch.setattr(loop_lib, "_loop", guarded)
    config = make_config(train__epochs=2)
    loop_lib.train(config, tmp_path / "run")
