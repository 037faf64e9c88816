"""Configurations of older versions are filled up."""

from aeent_jax import schema


def test_what_was_filled_in_can_be_changed_alone():
    schema.complete({})["compute"]["dtype"] = "bfloat16"
    assert schema.complete({})["compute"]["dtype"] == "float32"


def test_only_what_came_later_is_filled_in():
    found = schema.complete({"train": {"epochs": 3}})
    assert found["train"] == {"epochs": 3, "microbatches": 1}
    assert "model" not in found
    assert {"compute", "corruption", "loss"} <= set(found)
