from __future__ import annotations

import os
import signal
import threading

import pytest

from ntkdist.errors import InterruptedRunError
from ntkdist.gram.signals import StopFlag, keep_signal_handlers, stop_on_signals


def handlers() -> tuple[object, object]:
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_first_signal_only_sets_the_flag(name: str) -> None:
    before = handlers()
    with stop_on_signals() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), getattr(signal, name))
        assert stop.wait(5)
        assert stop.signal == name
    assert handlers() == before


def test_second_signal_stops_at_once() -> None:
    before = handlers()
    reached = []

    def twice() -> None:
        with stop_on_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append(1)
            os.kill(os.getpid(), signal.SIGINT)
            reached.append(2)

    with pytest.raises(InterruptedRunError, match="stopped at once"):
        twice()
    assert reached == [1]
    assert handlers() == before


def test_other_threads_get_a_flag_without_handlers() -> None:
    before, flags = handlers(), []

    def enter() -> None:
        with stop_on_signals() as stop:
            flags.append((stop, handlers()))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert isinstance(flags[0][0], StopFlag)
    assert flags[0][1] == before


def test_handlers_are_put_back() -> None:
    before = handlers()
    with keep_signal_handlers():
        signal.signal(signal.SIGTERM, lambda number, frame: None)
    assert handlers() == before
