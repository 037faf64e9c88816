"""The one handler of SIGTERM and SIGINT."""

import os
import signal
import threading

import pytest

from aeent_jax.runtime import hosts, stopping

NUMBERS = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_is_a_wish_and_the_second_ends_the_process(number):
    before = [signal.getsignal(n) for n in NUMBERS]
    with stopping.stop_signals() as stop:
        assert stop.number is None
        signal.raise_signal(number)
        assert stop.number == number
        assert stop.name == number.name
        assert signal.getsignal(number) is signal.SIG_DFL
        others = [n for n in NUMBERS if n != number]
        assert all(signal.getsignal(n) is not signal.SIG_DFL for n in others)
    assert [signal.getsignal(n) for n in NUMBERS] == before


def test_an_interrupt_of_several_processes_is_the_sigterm_that_jax_passes_on(
    monkeypatch,
):
    sent = []
    monkeypatch.setattr(hosts, "are_several", lambda: True)
    monkeypatch.setattr(os, "kill", lambda *signal: sent.append(signal))
    before = [signal.getsignal(n) for n in NUMBERS]
    with stopping.stop_signals() as stop:
        assert signal.getsignal(signal.SIGTERM) is before[0]
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert sent == [(os.getpid(), signal.SIGTERM)]
    assert stop.number is None
    assert [signal.getsignal(n) for n in NUMBERS] == before


def test_several_processes_stop_at_the_call_that_jax_sets(monkeypatch):
    votes = []

    def is_reached(vote):
        votes.append(vote)
        return len(votes) == 3

    monkeypatch.setattr(hosts, "are_several", lambda: True)
    monkeypatch.setattr(
        stopping.multihost_utils, "reached_preemption_sync_point", is_reached
    )
    stop, numbers = stopping.Stop(), []
    for _ in range(3):
        stop.agree()
        numbers.append(stop.number)
    assert numbers == [None, None, signal.SIGTERM]
    assert votes == list(range(votes[0], votes[0] + 3))


def test_a_process_alone_asks_nobody(monkeypatch):
    monkeypatch.setattr(
        stopping.multihost_utils, "reached_preemption_sync_point", None
    )
    stop = stopping.Stop()
    stop.agree()
    assert stop.number is None


def test_another_thread_gets_a_stop_that_no_signal_sets():
    before = [signal.getsignal(n) for n in NUMBERS]
    seen = []

    def work():
        with stopping.stop_signals() as stop:
            seen.append(stop.number)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]
    assert [signal.getsignal(n) for n in NUMBERS] == before
