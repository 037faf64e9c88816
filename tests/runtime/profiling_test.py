"""A trace is written of the steps asked for."""

import gzip
import json
import pathlib

import jax
import jax.numpy as jnp
import pytest
import training_support

from aeent_jax.runtime import profiling
from aeent_jax.training import loop


@pytest.fixture(scope="module", autouse=True)
def compilation_cache(tmp_path_factory):
    yield from training_support.use_compilation_cache(
        training_support.cache_home(tmp_path_factory)
    )


@pytest.mark.parametrize(
    ("text", "steps"), [("", None), ("0:1", (0, 1)), ("20:30", (20, 30))]
)
def test_steps_are_read(text, steps):
    assert profiling.parse_steps(text) == steps


@pytest.mark.parametrize(
    "text", ["5", "5:5", "6:5", "a:b", ":3", "1:2:3", "-1:2"]
)
def test_other_steps_are_refused(text):
    with pytest.raises(ValueError, match="log.profile is .* such as 20:30"):
        profiling.parse_steps(text)


@pytest.mark.parametrize(
    ("text", "step", "is_told"),
    [
        ("", 0, False),
        ("11:13", 0, False),
        ("12:13", 0, True),
        ("3:5", 4, False),
        ("3:5", 5, True),
    ],
)
def test_steps_that_are_not_done_are_told(text, step, is_told):
    told = profiling.warning(text, step, total_steps=12)
    assert (told is not None) == is_told


@pytest.fixture
def calls(monkeypatch):
    found = []
    for name in ("start_trace", "stop_trace"):
        monkeypatch.setattr(
            jax.profiler, name, lambda *_, name=name, **__: found.append(name)
        )
    return found


@pytest.mark.parametrize(
    ("size", "traced"), [(1, [3, 4]), (2, [2, 4]), (3, [3]), (8, [0])]
)
def test_calls_that_do_any_of_the_steps_are_traced_once(calls, size, traced):
    trace = profiling.Trace(pathlib.Path("nowhere"), "3:5")
    found = []
    for step in range(0, 12, size):
        trace.before(step, size)
        if calls == ["start_trace"]:
            found.append(step)
        trace.after(step + size, jnp.zeros(()))
    assert found == traced
    assert calls == ["start_trace", "stop_trace"]


def test_run_that_ends_early_closes_its_trace(calls):
    trace = profiling.Trace(pathlib.Path("nowhere"), "3:50")
    trace.before(3, 1)
    trace.close()
    trace.close()
    trace.before(4, 1)
    assert calls == ["start_trace", "stop_trace"]


def test_run_leaves_a_trace_of_its_program(tmp_path):
    root = training_support.make_class_folders(tmp_path / "images")
    config = training_support.make_config(
        root, tmp_path / "cache", train__epochs=1, log__profile="1:3"
    )
    loop.train(config, tmp_path / "run")
    (trace,) = (tmp_path / "run/profile").glob("**/*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = [e["args"]["step_num"] for e in events if e.get("name") == "train"]
    assert steps == ["1", "2"]
