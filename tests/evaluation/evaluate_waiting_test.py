"""Evaluations compile once, and transfer nothing unasked."""

import jax
import numpy as np
import pytest
import training_support

from aeent_jax.training import experiment

# Recorded for each program that is lowered, whether or not the compiled one
# is found in the cache.
LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
# The scoring step, the meter and the diagnostics, with what of them is a
# function of its own.
MOST_PROGRAMS = 6


@pytest.fixture
def lowered():
    """Grows by the name of each program."""
    found = []

    def listen(event, duration, **details):
        if event == LOWERED:
            found.append(details.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def test_evaluations_compile_once_and_transfer_nothing_unasked(
    lowered, tmp_path
):
    root = training_support.make_class_folders(tmp_path / "images")
    config = training_support.make_config(root, tmp_path / "cache")
    run = experiment.Experiment(config, tmp_path / "run")
    state = run.parallel.replicate(run.initial_state())
    begun = len(lowered)
    results = []
    with jax.transfer_guard("disallow"):
        results.append(run.evaluator.evaluate(state.variables, run.dataset, 0))
        first = lowered[begun:]
        results.append(run.evaluator.evaluate(state.variables, run.dataset, 1))
    assert 0 < len(first) <= MOST_PROGRAMS, first
    assert lowered[begun:] == first
    assert np.isfinite([result["rate_nats"] for result in results]).all()
