"""What a checkpoint says of the epoch that was begun."""

import dataclasses
import json

import numpy as np
import pytest

from aeent_jax.training import metrics_window


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
