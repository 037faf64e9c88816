"""When things happen in a run, and what is gathered in between."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from aeent_jax.training import metrics_window, schedule


def make_plan(**overrides):
    fields = {
        "num_examples": 14,
        "batch_size": 4,
        "epochs": 5,
        "steps_per_call": 1,
        "checkpoint_every": 0,
    }
    return schedule.StepSchedule(**(fields | overrides))


def calls_of(a_plan, step=0):
    """The step at the beginning of each call, and the end."""
    begins = [step]
    while begins[-1] < a_plan.total_steps:
        begins.append(begins[-1] + a_plan.steps_from(begins[-1]))
    return begins


def test_counts_steps_with_the_partial_batch():
    assert (make_plan().steps_per_epoch, make_plan().total_steps) == (4, 20)
    assert make_plan(num_examples=16).steps_per_epoch == 4
    assert make_plan(num_examples=17).steps_per_epoch == 5


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("every", [0, 1, 5, 6, 100])
@pytest.mark.parametrize("num_examples", [4, 30, 39])
def test_no_call_crosses_the_end_of_an_epoch_or_a_checkpoint(
    size, every, num_examples
):
    a_plan = make_plan(
        num_examples=num_examples, steps_per_call=size, checkpoint_every=every
    )
    begins = calls_of(a_plan)
    assert begins[-1] == a_plan.total_steps
    for begin, end in itertools.pairwise(begins):
        assert end - begin in (1, size)
        assert not any(a_plan.pauses(step) for step in range(begin + 1, end))


@pytest.mark.parametrize("size", [2, 3, 8])
def test_resumed_run_groups_its_steps_as_before(size):
    # Several steps of one call are not rounded as the same steps one by one.
    a_plan = make_plan(num_examples=39, steps_per_call=size, checkpoint_every=7)
    begins = calls_of(a_plan)
    for begin in begins:
        assert calls_of(a_plan, begin) == begins[begins.index(begin) :]


def test_calls_are_full_where_nothing_is_in_the_way():
    a_plan = make_plan(num_examples=36, epochs=2, steps_per_call=4)
    assert calls_of(a_plan) == [0, 4, 8, 9, 13, 17, 18]


def test_saves_at_multiples_and_at_the_end():
    a_plan = make_plan(checkpoint_every=8)
    saved = [s for s in range(1, 21) if a_plan.saves(s)]
    assert saved == [8, 16, 20]
    a_plan = make_plan(checkpoint_every=0)
    assert [s for s in range(1, 21) if a_plan.saves(s)] == [20]


def test_epochs_end_where_all_examples_were_seen():
    ends = [s for s in range(1, 21) if make_plan().ends_epoch(s)]
    assert ends == [4, 8, 12, 16, 20]


def gathered():
    made = metrics_window.MetricsWindow()
    made.add(
        {
            "step": np.array([1, 2]),
            "count": np.array([3, 1]),
            "loss": np.array([0.1, 0.7]),
        }
    )
    made.add_time(1, 0.25)
    return made


def test_a_checkpoint_gives_back_what_was_gathered():
    made = gathered()
    assert made.sums["loss"] == pytest.approx(3 * 0.1 + 0.7)
    # As a checkpoint holds it; a float's shortest decimal is that float.
    text = json.dumps({"interval": dataclasses.asdict(made)})
    assert metrics_window.from_metadata(json.loads(text)) == made


@pytest.mark.parametrize(
    "metadata", [{}, {"interval": {}}, {"interval": {"sums": {}, "more": 1}}]
)
def test_a_checkpoint_of_another_version_begins_anew(metadata):
    assert (
        metrics_window.from_metadata(metadata) == metrics_window.MetricsWindow()
    )
