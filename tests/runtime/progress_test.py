import io

import pytest

from aeent_jax.runtime import progress


class Clock:
    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


class Terminal(io.StringIO):
    def isatty(self):
        return True


def make(stream, total=100):
    clock = Clock()
    return progress.Progress(total, stream=stream, now=clock), clock


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0s"),
        (12, "12s"),
        (59.6, "1m00s"),
        (185, "3m05s"),
        (3599.7, "1h00m"),
        (7620, "2h07m"),
        (360000, "100h00m"),
    ],
)
def test_clock_time(seconds, text):
    assert progress.clock_time(seconds) == text


def test_time_left_counts_reported_work_alone():
    stream = io.StringIO()
    say, clock = make(stream)
    clock.seconds += 500  # Compilation, which is not reported as work.
    say.work(10, 20.0)
    say.show(60, "loss 1")
    # 40 left at 2 seconds each; 50 of the 60 were done before a restart.
    assert stream.getvalue() == "60/100  loss 1  1m20s left\n"


def test_no_time_left_before_work_and_at_the_end():
    stream = io.StringIO()
    say, _ = make(stream)
    say.show(1, "loss 1")
    say.work(1, 1.0)
    say.show(100, "loss 0")
    assert stream.getvalue() == "1/100  loss 1\n100/100  loss 0\n"


def test_log_gets_a_line_every_15_seconds():
    stream = io.StringIO()
    say, clock = make(stream)
    for done in range(1, 100):
        say.show(done, "")
        clock.seconds += 1
    shown = [int(line.split("/")[0]) for line in stream.getvalue().splitlines()]
    assert shown == [1, 16, 31, 46, 61, 76, 91]


def test_terminal_gets_one_line_that_is_overwritten():
    stream = Terminal()
    say, clock = make(stream)
    say.show(1, "a long note")
    clock.seconds += 0.1
    say.show(2, "too soon")
    clock.seconds += 0.1
    say.show(3, "short")
    first, second = stream.getvalue().split("\r")[1:]
    assert first == "1/100  a long note"
    assert second == "3/100  short".ljust(len(first))


def test_saying_something_ends_the_live_line():
    stream = Terminal()
    say, _ = make(stream)
    say.say("Begin.")
    say.show(1, "note")
    say.say("End.")
    say.finish()
    assert stream.getvalue() == "Begin.\n\r1/100  note\nEnd.\n"


def test_standard_error_by_default(capsys):
    progress.Progress(1).say("Here.")
    assert capsys.readouterr().err == "Here.\n"


def test_a_silent_one_writes_nothing():
    stream = io.StringIO()
    made = progress.Progress(2, stream=stream, is_silent=True)
    made.show(2, "loss")
    made.say("Here.")
    made.finish()
    assert stream.getvalue() == ""
