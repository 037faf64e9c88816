"""Checkpoints: exact, and proof against kills, full disks and bit rot."""

import os
import pathlib
import random
import shutil
import subprocess
import sys
import textwrap
import time
from typing import Any, NamedTuple

import fault_support
import flax.struct
import jax
import ml_dtypes
import numpy as np
import optax
import pytest

from aeent_jax.runtime import checkpoint

ROOT = pathlib.Path(__file__).parents[2]


class Controller(NamedTuple):
    weight: Any
    rate: Any


@flax.struct.dataclass
class State:
    params: Any
    opt_state: Any
    controller: Controller
    step: Any


def make_state(seed: int = 0) -> State:
    """A state with the containers and types that a trainer may have."""
    rng = np.random.default_rng(seed)
    params = {
        "encoder": {"kernel": rng.normal(size=(3, 3, 2, 400)), "bias": None},
        "half": rng.normal(size=(5,)).astype(ml_dtypes.bfloat16),
        "mask": rng.random(7) < 0.5,
    }
    params["encoder"]["kernel"] = params["encoder"]["kernel"].astype("float32")
    trained = {"kernel": params["encoder"]["kernel"]}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    return State(
        params=params,
        opt_state=jax.device_get(optimizer.init(trained)),
        controller=Controller(np.float32(rng.random()), np.zeros((0, 3))),
        step=np.asarray(seed, np.int32),
    )


def abstract(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


def assert_bitwise(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(
        jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
    ):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()


def save_steps(directory, steps, **options):
    """Saves `make_state(step)` for each step."""
    with checkpoint.Checkpoints(directory, keep=9, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), metadata={"epoch": step})


def files_of(directory):
    return sorted(p for p in directory.rglob("*") if p.is_file())


def largest_file(directory):
    return max(files_of(directory), key=lambda p: p.stat().st_size)


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


@pytest.fixture
def open_path():
    with fault_support.open_folder() as path:
        yield path


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize(
    "make_like", [make_state, lambda: abstract(make_state())]
)
def test_round_trip_is_bitwise(tmp_path, asynchronous, make_like):
    save_steps(tmp_path, [3, 7], asynchronous=asynchronous)
    with checkpoint.Checkpoints(tmp_path, keep=9) as checkpoints:
        restored = checkpoints.restore_latest(make_like())
    assert (restored.step, restored.metadata) == (7, {"epoch": 7})
    assert restored.damaged == ()
    assert_bitwise(restored.state, make_state(7))
    assert isinstance(restored.state.params["mask"], np.ndarray)


def test_nan_payloads_and_negative_zero_survive(tmp_path):
    bits = np.array([0x7FC00001, 0xFFC12345, 0x80000000], np.uint32)
    state = {"x": bits.view(np.float32)}
    with checkpoint.Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(0, state, metadata={})
        assert_bitwise(checkpoints.restore_latest(state).state, state)


def test_is_none_where_nothing_was_saved(tmp_path):
    with checkpoint.Checkpoints(tmp_path / "a" / "b", keep=1) as checkpoints:
        assert checkpoints.restore_latest(make_state()) is None
        assert checkpoints.steps() == ()


def test_save_returns_before_the_write_ends_and_keeps_a_copy(tmp_path):
    # 64 MB of noise do not compress: their write takes tenths of a second.
    rng = np.random.default_rng(0)
    state = {"x": rng.normal(size=8_000_000)}
    expected = {"x": state["x"].copy()}
    with checkpoint.Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, metadata={})
        finished = (tmp_path / "1").exists()
        state["x"][:] = 0
        restored = checkpoints.restore_latest(state)
    assert not finished
    assert_bitwise(restored.state, expected)


def test_same_step_twice_keeps_the_first(tmp_path):
    with checkpoint.Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(4, make_state(4), metadata={"n": 1})
        checkpoints.save(4, make_state(5), metadata={"n": 2})
        restored = checkpoints.restore_latest(make_state())
        assert checkpoints.steps() == (4,)
    assert restored.metadata == {"n": 1}
    assert_bitwise(restored.state, make_state(4))


def best_step(directory):
    return checkpoint.restore_from(directory, make_state(), best=True).step


def test_keeps_the_latest_and_the_best_across_restarts(tmp_path):
    criteria = {1: float("nan"), 2: 0.1, 3: 0.4, 4: 0.5, 5: 0.3, 6: None}
    for step, criterion in criteria.items():
        with checkpoint.Checkpoints(tmp_path, keep=2) as checkpoints:
            checkpoints.save(
                step, make_state(step), metadata={}, criterion=criterion
            )
    with checkpoint.Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.steps() == (2, 5, 6)
        assert best_step(tmp_path) == 2
        checkpoints.save(7, make_state(7), metadata={}, criterion=0.1)
        # The later of equals is the best; step 2 may go.
        assert checkpoints.steps() == (6, 7)
    assert best_step(tmp_path) == 7


def test_only_the_latest_are_kept_without_a_criterion(tmp_path):
    with checkpoint.Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(step, make_state(step), metadata={})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["4", "5"]


@pytest.mark.parametrize("damage", ["truncated", "emptied", "removed"])
def test_each_damaged_file_is_harmless_or_reported(tmp_path, damage):
    save_steps(tmp_path / "run", [1, 2])
    names = [
        path.relative_to(tmp_path / "run")
        for path in files_of(tmp_path / "run" / "2")
    ]
    reported = set()
    for name in names:
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(tmp_path / "run", copy)
        size = (copy / name).stat().st_size
        if damage == "removed":
            (copy / name).unlink()
        else:
            os.truncate(copy / name, size // 2 if damage == "truncated" else 0)
        restored = checkpoint.restore_from(copy, make_state())
        assert_bitwise(restored.state, make_state(restored.step))
        if restored.damaged:
            assert restored.step == 1
            reported.add(name)
    essential = {
        pathlib.Path("2/record/metadata"),
        largest_file(
            tmp_path / "run" / "2" / "state" / "ocdbt.process_0"
        ).relative_to(tmp_path / "run"),
    }
    assert essential <= reported


def test_each_flipped_byte_is_harmless_or_reported(tmp_path):
    save_steps(tmp_path, [1, 2])
    sentences = set()
    for path in files_of(tmp_path / "2"):
        pristine = path.read_bytes()
        for position in {*np.linspace(0, len(pristine) - 1, 7).astype(int)}:
            flip(path, position)
            restored = checkpoint.restore_from(tmp_path, make_state())
            assert_bitwise(restored.state, make_state(restored.step))
            assert restored.metadata == {"epoch": restored.step}
            assert (restored.step == 1) == bool(restored.damaged)
            sentences.update(restored.damaged)
            path.write_bytes(pristine)
    assert f"{tmp_path / '2'} is damaged: its arrays fail their digest." in (
        sentences
    )
    assert f"{tmp_path / '2'} is damaged: its record fails its digest." in (
        sentences
    )


def test_damaged_newest_is_set_aside_and_its_step_can_be_saved(tmp_path):
    save_steps(tmp_path, [1, 2, 3])
    for step in (2, 3):
        flip(tmp_path / str(step) / "record" / "metadata", 20)
    with checkpoint.Checkpoints(tmp_path, keep=9) as checkpoints:
        restored = checkpoints.restore_latest(make_state())
        assert restored.step == 1
        assert [s.split(" is ")[0] for s in restored.damaged] == [
            str(tmp_path / "3"),
            str(tmp_path / "2"),
        ]
        assert checkpoints.steps() == (1,)
        checkpoints.save(3, make_state(3), metadata={})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "1",
        "3",
        "damaged-2",
        "damaged-3",
    ]
    assert checkpoint.restore_from(tmp_path, make_state()).step == 3


def test_remains_of_a_killed_save_are_removed(tmp_path):
    save_steps(tmp_path, [1])
    remains = tmp_path / "7.orbax-checkpoint-tmp" / "state"
    remains.mkdir(parents=True)
    (remains / "data").write_bytes(b"half")
    with checkpoint.Checkpoints(tmp_path, keep=9) as checkpoints:
        assert checkpoints.restore_latest(make_state()).step == 1
        checkpoints.save(2, make_state(2), metadata={})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]


def test_all_damaged_is_an_error_that_says_what_to_do(tmp_path):
    save_steps(tmp_path, [1, 2])
    for step in (1, 2):
        os.truncate(tmp_path / str(step) / "record" / "metadata", 30)
    with (
        checkpoint.Checkpoints(tmp_path, keep=9) as checkpoints,
        pytest.raises(
            ValueError,
            match=r"^No checkpoint in .* can be used: .*/2 is damaged: .*/1 is"
            r" damaged: .* Restore the folder from a copy, or remove it",
        ),
    ):
        checkpoints.restore_latest(make_state())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]


def test_renamed_step_is_damage(tmp_path):
    save_steps(tmp_path, [1, 2])
    (tmp_path / "2").rename(tmp_path / "5")
    restored = checkpoint.restore_from(tmp_path, make_state())
    assert restored.step == 1
    assert "/5 is damaged" in restored.damaged[0]


def test_damaged_best_does_not_stop_the_run_from_opening(tmp_path):
    with checkpoint.Checkpoints(tmp_path, keep=1) as checkpoints:
        for step, criterion in ((1, 0.1), (2, 0.2), (3, 0.3)):
            checkpoints.save(
                step, make_state(step), metadata={}, criterion=criterion
            )
    flip(tmp_path / "1" / "record" / "metadata", 20)
    with checkpoint.Checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.restore_latest(make_state()).step == 3
    assert best_step(tmp_path) == 3


@pytest.mark.parametrize(
    ("like", "difference"),
    [
        (
            {"a": np.zeros((3, 4), np.float32), "b": np.zeros(2)},
            r"a is float32\[3,3\] there and float32\[3,4\] here;",
        ),
        (
            {"a": np.zeros((3, 3), np.float64), "b": np.zeros(2)},
            r"a is float32\[3,3\] there and float64\[3,3\] here;",
        ),
        (
            {"a": np.zeros((3, 3), np.float32)},
            r"b is float64\[2\] there and absent here;",
        ),
        (
            {"a": np.zeros((3, 3), np.float32), "c": np.zeros(2)},
            r"b is float64\[2\] there and absent here \(and 1 more differ\);",
        ),
    ],
)
def test_foreign_checkpoint_is_refused_with_the_difference(
    tmp_path, like, difference
):
    state = {"a": np.ones((3, 3), np.float32), "b": np.ones(2)}
    with checkpoint.Checkpoints(tmp_path, keep=9) as checkpoints:
        checkpoints.save(1, state, metadata={})
        checkpoints.save(2, state, metadata={})
        with pytest.raises(
            ValueError, match=f"^The checkpoint .*/2 is of .*: {difference}"
        ):
            checkpoints.restore_latest(like)
        # Nor does damage of the newest make the one before less foreign.
        flip(largest_file(tmp_path / "2" / "record"), 9)
        with pytest.raises(
            ValueError, match=f"^The checkpoint .*/1 is of .*: {difference}"
        ):
            checkpoints.restore_latest(like)
        assert checkpoints.steps() == (1, 2)


def test_part_of_a_checkpoint_is_read_whatever_else_it_holds(tmp_path):
    save_steps(tmp_path, [1])
    state = make_state(1)
    like = {"params": abstract(state.params)}
    restored = checkpoint.restore_from(tmp_path, like, partial=True)
    assert_bitwise(restored.state, {"params": state.params})
    with pytest.raises(ValueError, match="controller/rate is .* and absent"):
        checkpoint.restore_from(tmp_path, like)
    # An array too much in a group that is wanted is another network.
    del like["params"]["half"]
    with pytest.raises(
        ValueError, match=r": params/half is bfloat16\[5\] there and absent"
    ):
        checkpoint.restore_from(tmp_path, like, partial=True)


def test_damage_beside_the_part_that_is_read_is_reported(tmp_path):
    save_steps(tmp_path, [1])
    like = {"step": abstract(make_state(1).step)}
    # Nearly all bytes of the state are those of the kernel and the optimizer.
    path = largest_file(tmp_path / "1" / "state" / "ocdbt.process_0")
    flip(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match="is damaged: its"):
        checkpoint.restore_from(tmp_path, like, partial=True)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_failed_write_surfaces_once_and_loses_nothing(tmp_path, asynchronous):
    big = {"x": np.random.default_rng(0).normal(size=100_000)}

    def save_both(checkpoints):
        checkpoints.save(2, big, metadata={})
        checkpoints.save(3, big, metadata={})

    with checkpoint.Checkpoints(
        tmp_path, keep=1, asynchronous=asynchronous
    ) as checkpoints:
        checkpoints.save(1, big, metadata={})
        checkpoints.wait()
        with (
            fault_support.largest_write(50_000),
            pytest.raises(
                OSError,
                match=r"^The checkpoint of step 2 could not be written to .*:"
                r" File too large. The latest that is complete: step 1 is;"
                r" make room",
            ),
        ):
            save_both(checkpoints)
        assert checkpoints.steps() == (1,)
        assert checkpoints.restore_latest(big).step == 1
        checkpoints.save(3, big, metadata={})
        checkpoints.wait()
    assert [p.name for p in tmp_path.iterdir()] == ["3"]


def test_closing_reports_the_write_that_failed(tmp_path):
    big = {"x": np.random.default_rng(0).normal(size=100_000)}

    def run():
        with checkpoint.Checkpoints(tmp_path, keep=1) as checkpoints:
            checkpoints.save(2, big, metadata={})

    with (
        fault_support.largest_write(50_000),
        pytest.raises(OSError, match="step 2 .* complete: none is there yet"),
    ):
        run()


def test_read_only_directory_is_one_sentence_but_can_be_read(open_path):
    workdir = open_path / "run"
    save_steps(workdir / "checkpoints", [1])
    for path in (workdir, *workdir.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    with fault_support.unprivileged():
        assert checkpoint.restore_from(workdir, make_state()).step == 1
        with pytest.raises(
            OSError,
            match="The checkpoint of step 2 could not be written to .*:"
            " Permission denied",
        ):
            save_steps(workdir / "checkpoints", [2])
        with pytest.raises(
            OSError, match="checkpoint folder .* cannot be made: Permission"
        ):
            checkpoint.Checkpoints(workdir / "other", keep=1)
        assert checkpoint.restore_from(workdir, make_state()).step == 1


def test_restore_from_takes_a_workdir_or_its_folder(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    with checkpoint.Checkpoints(folder, keep=9) as checkpoints:
        for step, criterion in ((1, 0.3), (2, 0.1), (3, 0.2)):
            checkpoints.save(
                step, make_state(step), metadata={}, criterion=criterion
            )
    for path in (tmp_path / "run", folder, str(folder)):
        assert checkpoint.restore_from(path, make_state()).step == 3
        best = checkpoint.restore_from(path, make_state(), best=True)
        assert best.step == 2
        assert_bitwise(best.state, make_state(2))


def test_restore_from_leaves_a_running_save_alone(tmp_path):
    save_steps(tmp_path, [1])
    temporary = tmp_path / "2.orbax-checkpoint-tmp"
    temporary.mkdir()
    assert checkpoint.restore_from(tmp_path, make_state()).step == 1
    assert temporary.exists()


def test_restore_from_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no checkpoint in"):
        checkpoint.restore_from(tmp_path / "nowhere", make_state())
    save_steps(tmp_path, [1, 4])
    with pytest.raises(FileNotFoundError, match="has a criterion to be"):
        checkpoint.restore_from(tmp_path, make_state(), best=True)


# A truncated newest step, a directory that may not be written to, a write that
# fails half way: three things of which Orbax alone has pages to say.
_UNLUCKY = textwrap.dedent("""
    import os, pathlib, resource, sys
    import numpy as np
    from aeent_jax.runtime import checkpoint

    path = pathlib.Path(sys.argv[1])
    rng = np.random.default_rng(0)
    state = {f"x{i}": rng.normal(size=9999) for i in range(9)}
    checkpoints = checkpoint.Checkpoints(path, keep=2)
    for step in (1, 2):
        checkpoints.save(step, state, metadata={})
    checkpoints.wait()
    large = max((path / "2").rglob("*"), key=lambda p: p.stat().st_size)
    os.truncate(large, 1000)
    print(checkpoints.restore_latest(state).damaged[0])
    root = os.geteuid() == 0
    path.chmod(0o555)
    if root:
        os.seteuid(65534)
    try:
        checkpoints.save(3, state, metadata={})
    except OSError as error:
        print(error)
    if root:
        os.seteuid(0)
    path.chmod(0o755)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, -1))
    try:
        checkpoints.save(3, state, metadata={})
        checkpoints.wait()
    except OSError as error:
        print(error)
""")


def test_each_misfortune_is_one_sentence_and_ends_at_once(open_path):
    path = open_path / "checkpoints"
    # Orbax by itself waits for 5 minutes for a directory it could not make.
    process = subprocess.run(
        [sys.executable, "-c", _UNLUCKY, str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
        check=True,
    )
    assert process.stderr == ""
    damaged, forbidden, full = process.stdout.splitlines()
    assert damaged == (
        f"{path}/2 is damaged: its state cannot be read (OUT_OF_RANGE)."
    )
    assert f"step 3 could not be written to {path}: File too large." in full
    assert f"could not be written to {path}: Permission denied." in forbidden


# Saves ever new steps, each full of its own number, and says when one is done.
_SAVER = textwrap.dedent("""
    import sys
    import numpy as np
    from aeent_jax.runtime import checkpoint

    like = {"x": np.zeros(2_000_000), "y": np.zeros(1_000_000)}
    with checkpoint.Checkpoints(sys.argv[1], keep=2) as checkpoints:
        restored = checkpoints.restore_latest(like)
        step = restored.step if restored else 0
        while True:
            step += 1
            rng = np.random.default_rng(step)
            state = {k: rng.normal(size=v.size) for k, v in like.items()}
            checkpoints.save(step, state, metadata={"step": step})
            checkpoints.wait()
            print(step, flush=True)
""")


def kill_during_save(directory, seed):
    """Runs the saver and kills it while it writes; the last step it told."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SAVER, str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    told = int(process.stdout.readline())
    # Until a temporary directory shows, then a random while into its writing.
    deadline = time.monotonic() + 300
    while not list(directory.glob("*tmp*")):
        assert time.monotonic() < deadline
    time.sleep(random.Random(seed).uniform(0, 0.1))
    process.kill()
    later = process.stdout.read().split()
    process.wait()
    return int(later[-1]) if later else told


def test_kill_during_a_save_loses_no_finished_checkpoint(tmp_path):
    like = {"x": np.zeros(2_000_000), "y": np.zeros(1_000_000)}
    torn = 0
    for seed in range(3):
        told = kill_during_save(tmp_path, seed)
        torn += bool(list(tmp_path.glob("*tmp*")))
        with checkpoint.Checkpoints(tmp_path, keep=2) as checkpoints:
            restored = checkpoints.restore_latest(like)
            assert restored.damaged == ()
            # The step after the last one told may have been completed too.
            assert restored.step - told in (0, 1)
            rng = np.random.default_rng(restored.step)
            for name, zeros in like.items():
                expected = rng.normal(size=zeros.size)
                np.testing.assert_array_equal(restored.state[name], expected)
            checkpoints.save(restored.step + 1, like, metadata={})
        shutil.rmtree(tmp_path / str(restored.step + 1))
        assert not list(tmp_path.glob("*tmp*"))
    assert torn >= 1
