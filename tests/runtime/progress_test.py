import io

import pytest
import tqdm

from aeent_jax.runtime import progress


class Clock:
    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(tqdm.std, "time", made := Clock())
    return made


def test_time_left_counts_reported_work_alone(clock):
    stream = io.StringIO()
    log = progress.Progress(100, stream=stream)
    clock.seconds += 500  # Compilation, which is not reported as work.
    log.work(10, 20.0)
    log.show(60, "loss 1")
    # 40 left at 2 seconds each; 50 of the 60 were done before a restart.
    assert stream.getvalue() == "60/100  loss 1  01:20 left\n"


def test_no_time_left_before_work_and_at_the_end(clock):
    stream = io.StringIO()
    log = progress.Progress(100, stream=stream)
    log.show(1, "loss 1")
    log.work(1, 1.0)
    log.show(100, "loss 0")
    log.finish()
    assert stream.getvalue() == "1/100  loss 1\n100/100  loss 0\n"


def test_log_gets_a_line_every_15_seconds(clock):
    stream = io.StringIO()
    log = progress.Progress(100, stream=stream)
    for done in range(1, 100):
        log.show(done, "")
        clock.seconds += 1
    log.write("End.")
    log.finish()
    *lines, last = stream.getvalue().splitlines()
    shown = [int(line.split("/")[0]) for line in lines]
    assert shown == [1, 16, 31, 46, 61, 76, 91]
    assert last == "End."
    assert "\r" not in stream.getvalue()


def test_what_is_worked_at_is_shown_also_while_nothing_ends(clock):
    stream = io.StringIO()
    log = progress.Progress(3, stream=stream)
    log.show(0, "training a")
    clock.seconds += 16
    log.show(0, "training b")
    assert stream.getvalue() == "0/3  training a\n0/3  training b\n"


def test_terminal_gets_one_line_that_is_overwritten(clock):
    stream = Terminal()
    log = progress.Progress(100, stream=stream)
    log.show(1, "a long note")
    clock.seconds += 0.1
    log.show(2, "too soon")
    clock.seconds += 0.1
    log.show(3, "short")
    first, second = stream.getvalue().split("\r")[1:]
    assert first == "1/100  a long note"
    assert second == "3/100  short".ljust(len(first))


@pytest.mark.parametrize(
    ("stream", "width"), [(Terminal, 39), (io.StringIO, 209)]
)
def test_only_a_live_line_is_cut_to_its_width(
    clock, monkeypatch, stream, width
):
    monkeypatch.setenv("COLUMNS", "40")
    stream = stream()
    log = progress.Progress(100, stream=stream)
    log.show(1, "x" * 202)
    assert len(stream.getvalue().strip()) == width


def test_a_line_is_said_above_the_live_one_which_stays(clock):
    stream = Terminal()
    log = progress.Progress(100, stream=stream)
    log.write("Begin.")
    log.show(1, "note")
    log.write("Middle.")
    log.finish()
    lines = [
        line.split("\r")[-1].strip() for line in stream.getvalue().split("\n")
    ]
    assert lines == ["Begin.", "Middle.", "1/100  note", ""]


def test_standard_error_by_default(capsys):
    progress.Progress(1).write("Here.")
    assert capsys.readouterr().err == "Here.\n"


def test_a_silent_one_writes_nothing():
    stream = io.StringIO()
    silent = progress.Progress(2, stream=stream, is_silent=True)
    silent.show(1, "loss")
    silent.show(2, "loss")
    silent.write("Here.")
    silent.finish()
    assert stream.getvalue() == ""
