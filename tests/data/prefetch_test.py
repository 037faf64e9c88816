import itertools
import threading
import time

import pytest

from aeent_jax.data import prefetch


def _threads():
    return [t for t in threading.enumerate() if t.name.startswith("prefetch")]


def _make(read, keys, *, ahead=3, threads=2):
    return prefetch.Prefetch(read, keys, ahead=ahead, threads=threads)


def test_values_come_in_the_order_of_their_keys():
    def read(key):
        time.sleep(0.002 * (key % 3 == 0))  # Every third one comes late.
        return -key

    values = _make(read, range(20), threads=4, ahead=8)
    assert [values.next() for _ in range(20)] == [-key for key in range(20)]
    with pytest.raises(StopIteration):
        values.next()
    values.close()


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_are_read_ahead_than_allowed(ahead):
    begun = []
    values = _make(begun.append, itertools.count(), ahead=ahead, threads=4)
    for taken in range(5):
        time.sleep(0.01)  # Time to go too far.
        assert len(begun) <= taken + ahead
        values.next()
    values.close()


def test_errors_are_raised_in_their_turn():
    def read(key):
        if key == 1:
            raise ValueError("A file is damaged.")
        return key

    values = _make(read, range(4))
    assert values.next() == 0
    with pytest.raises(ValueError, match=r"^A file is damaged\.$"):
        values.next()
    assert values.next() == 2
    values.close()


def test_close_ends_the_threads_and_reads_no_more():
    gate, begun = threading.Event(), []

    def read(key):
        begun.append(key)
        gate.wait(10)

    values = _make(read, itertools.count(), ahead=8, threads=2)
    while len(begun) < 2:
        time.sleep(0.001)
    threading.Timer(0.02, gate.set).start()
    values.close()
    assert sorted(begun) == [0, 1]
    assert not _threads()
