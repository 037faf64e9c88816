import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeent_jax.training import controller

VALID = {
    "name": "target_rate",
    "target": 5.0,
    "step_size": 0.1,
    "warmup_steps": 0,
    "weight": 1e-3,
    "is_measured": True,
}


def weights(made, measurements, weight=2.0):
    """The weight of each step, of (rate, distortion, is_measured)."""
    state, found = controller.create(made), []
    for step, (rate, distortion, is_measured) in enumerate(measurements):
        found.append(controller.weight_of(made, state, weight, step))
        state = controller.update(
            made,
            state,
            rate=rate,
            distortion=distortion,
            step=step,
            is_measured=is_measured,
        )
    return np.array(found)


def test_fixed_weight_has_no_state_and_stays():
    made = controller.Controller()
    assert jax.tree.leaves(controller.create(made)) == []
    np.testing.assert_array_equal(weights(made, [(9.0, 1.0, True)] * 3), 2.0)


def test_schedule_rises_linearly_from_zero_and_stays():
    made = controller.Controller("schedule", warmup_steps=4)
    assert jax.tree.leaves(controller.create(made)) == []
    np.testing.assert_allclose(
        weights(made, [(9.0, 1.0, True)] * 6), [0, 0.5, 1, 1.5, 2, 2]
    )


def test_ascent_follows_its_formula():
    # Running averages of the rate: 6, then .9 * 6 + .1 * 4.
    made = controller.Controller("target_rate", 5.0, 0.1)
    steps = np.cumsum([0, 0.1 * (6 / 5 - 1), 0.1 * (5.8 / 5 - 1)])
    found = weights(
        made, [(6.0, 0.0, True), (4.0, 0.0, True), (4.0, 0.0, True)]
    )
    np.testing.assert_allclose(found, 2 * np.exp(steps), rtol=1e-6)  # float32


@pytest.mark.parametrize(
    ("name", "above", "below"),
    [
        ("target_rate", (6.0, 0.0), (4.0, 0.0)),
        ("target_distortion", (0.0, 4.0), (0.0, 6.0)),
    ],
)
def test_weight_rises_where_the_rate_is_to_fall(name, above, below):
    made = controller.Controller(name, 5.0, 0.1)
    assert weights(made, [(*above, True)] * 2)[1] > 2
    assert weights(made, [(*below, True)] * 2)[1] < 2


def test_one_step_and_all_steps_are_bounded():
    made = controller.Controller("target_rate", 1.0, 0.5)
    found = weights(made, [(1e6, 0.0, True)] * 20)
    assert found[1] == pytest.approx(2 * np.exp(0.5), rel=1e-6)
    assert found[-1] == pytest.approx(2e3, rel=1e-5)
    # Away from the bound it comes at once.
    state = controller.Ascent(jnp.log(1e3), jnp.float32(0.0))
    state = controller.update(
        made, state, rate=0.0, distortion=0.0, step=9, is_measured=True
    )
    assert state.log_factor < jnp.log(1e3) - 0.4


def test_batch_without_a_rate_moves_nothing():
    made = controller.Controller("target_rate", 5.0, 0.1)
    found = weights(made, [(6.0, 0.0, True), (0.0, 0.0, False), (6.0, 0, True)])
    assert found[2] == found[1]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            {"is_measured": False},
            "entropy.controller is 'target_rate', but there is no rate to"
            " weigh; set channel.sigma=1 and an entropy.estimator, or"
            " entropy.controller=fixed.",
        ),
        (
            {"target": 0.0},
            "entropy.target is 0.0, but entropy.controller=target_rate needs a"
            " finite number above 0.",
        ),
        (
            {"step_size": -1.0},
            "entropy.controller_rate is -1.0, but"
            " entropy.controller=target_rate needs a finite number above 0.",
        ),
        (
            {"weight": 0.0},
            "entropy.weight is 0.0, but entropy.controller=target_rate needs a"
            " finite number above 0.",
        ),
        (
            {"name": "schedule"},
            "entropy.warmup_fraction is 0, but entropy.controller=schedule"
            " needs a finite number above 0.",
        ),
    ],
)
def test_refusals_say_what_is_needed(overrides, sentence):
    with pytest.raises(ValueError, match=r".") as caught:
        controller.make_controller(**(VALID | overrides))
    assert str(caught.value) == sentence


def test_what_is_not_used_is_not_checked():
    made = controller.make_controller(
        **VALID | {"name": "fixed", "target": 0.0, "weight": 0.0}
    )
    assert controller.create(made) == ()
