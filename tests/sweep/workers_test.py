"""Worker processes: order, cores, ends, and who may train a member."""

import fcntl
import os
import subprocess
import sys
import time

import pytest

from aeent_jax.sweep import workers

# Stands for `aeent train`: its one flag is a program.
PROGRAM = ("-c", "import sys; exec(sys.argv[1])")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs programs by name; returns (names, sentences) as they ended."""
    monkeypatch.setattr(workers, "_PROGRAM", PROGRAM)

    def call(programs, *, count=2, look=lambda names: False):
        ended = []
        workers.run(
            list(programs),
            tmp_path / "logs",
            workers.share_cores(count),
            start=lambda name: programs[name] and [programs[name]],
            end=lambda name, sentence: ended.append((name, sentence)),
            look=look,
        )
        return ended

    return call


def test_members_start_in_order_and_the_finished_are_passed_over(run):
    assert run({"a": "0", "b": None, "c": "0"}, count=1) == [
        ("a", ""),
        ("c", ""),
    ]


def test_failure_is_reported_with_its_last_sentence_and_the_rest_goes_on(run):
    failing = "print('step 3'); sys.exit('error: loss is nan.')"
    assert run({"a": failing, "b": "0"}, count=1) == [
        ("a", "loss is nan."),
        ("b", ""),
    ]


def test_output_is_kept_below_that_of_earlier_starts(run, tmp_path):
    for word in ("once", "again"):
        run({"a": f"print('{word}')"})
    text = (tmp_path / "logs/a.log").read_text()
    assert text.count("aeent train ") == 2
    assert text.index("once\n") < text.index("again\n")


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="nothing can be pinned"
)
def test_workers_are_pinned_to_different_cores(run, tmp_path):
    program = "import os; print(sorted(os.sched_getaffinity(0)))"
    before = os.sched_getaffinity(0)
    count = len(before)
    # Each stays until all have started.
    wait = "; import time; time.sleep(1)"
    run({str(i): program + wait for i in range(count)}, count=count)
    assert os.sched_getaffinity(0) == before
    logs = (tmp_path / "logs").glob("*.log")
    said = [log.read_text().splitlines()[-1] for log in logs]
    assert sorted(said) == sorted(str([core]) for core in before)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_cores_are_shared_out(count, monkeypatch):
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda _: {2, 3, 5, 7}, raising=False
    )
    shares = workers.share_cores(count)
    assert len(shares) == count
    assert set().union(*shares) == {2, 3, 5, 7}
    assert sum(map(len, shares)) == max(count, 4)


def test_asked_to_stop_it_waits_until_workers_have_saved(run, tmp_path):
    saving = (
        "import signal, time, pathlib\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "def save(*_):\n"
        "    time.sleep(0.3)\n"
        "    (folder / 'saved').touch()\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "(folder / 'ready').touch()\n"
        "time.sleep(60)\n"
    )
    ready = tmp_path / "ready"
    ended = run(
        {"a": saving, "b": "0"}, count=1, look=lambda names: ready.exists()
    )
    assert ended == []
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "logs/b.log").exists()


def test_member_that_another_process_trains_is_waited_for(run, tmp_path):
    (tmp_path / "logs").mkdir()
    with (tmp_path / "logs/a.log").open("a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        # As a worker that has outlived its sweep.
        other = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(1.5)"], stdout=log
        )
    began = time.monotonic()
    assert run({"a": "0", "b": "0"}, count=1) == [("b", ""), ("a", "")]
    assert other.wait() == 0
    assert time.monotonic() - began > 1


def test_platform_is_seen_by_another_process(monkeypatch):
    assert workers.find_platform() == "cpu"
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    with pytest.raises(ValueError, match="^JAX_PLATFORMS=nonsense asks for"):
        workers.find_platform()
