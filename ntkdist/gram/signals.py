"""SIGINT or SIGTERM sets a flag, and tiles in flight are finished; a second one stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ntkdist.errors import InterruptedRunError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopFlag(threading.Event):
    """A ``threading.Event`` that also knows which signal set it.

    Attributes:
        signal: Name of the signal, empty if the flag was set by hand.
    """

    def __init__(self) -> None:
        super().__init__()
        self.signal = ""


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Yield a flag that the first SIGINT or SIGTERM sets; the second stops at once.

    Outside the main thread no handler can be set; the flag then stays as it is.

    Raises:
        InterruptedRunError: On the second signal.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if flag.is_set():
            # a BaseException, which nothing on the way up takes for an ordinary failure
            raise KeyboardInterrupt
        flag.signal = signal.Signals(number).name
        flag.set()

    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield flag
    except KeyboardInterrupt:
        raise InterruptedRunError(
            "stopped at once by a second signal; the tiles in flight are lost, all others are kept"
        ) from None
    finally:
        for number, handler in before.items():
            # None: installed from C, cannot be put back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def keep_signal_handlers() -> Iterator[None]:
    """Restore the handlers that the block replaces (``ray.init`` replaces SIGTERM's)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
