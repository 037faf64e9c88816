"""Configurations of older versions are filled up."""

from aeent_jax import config


def test_what_was_filled_in_can_be_changed_alone():
    config.complete({})["compute"]["dtype"] = "bfloat16"
    assert config.complete({})["compute"]["dtype"] == "float32"


def test_only_what_came_later_is_filled_in():
    found = config.complete({"train": {"epochs": 3}})
    assert found["train"] == {"epochs": 3, "microbatches": 1}
    assert "model" not in found
    assert {"compute", "corruption", "loss"} <= set(found)
