"""Parts of the label stage: events of its progress, and the locked images."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.events.types import FlipsMade, PosteriorRound, StepContinues

EVERY = 5.0  # seconds between two events

T = TypeVar("T")


def watched(
    step: str,
    work: Callable[[Callable[[Any], None]], T],
    emit: Callable[[Any], None],
) -> T:
    """Do work in a thread of its own; emit its events, or a ``StepContinues``, from this one."""
    events: SimpleQueue[Any] = SimpleQueue()
    began = time.monotonic()
    with ThreadPoolExecutor(1, thread_name_prefix="stage") as pool:
        future = pool.submit(work, events.put)
        future.add_done_callback(lambda _: events.put(None))
        while True:
            try:
                event = events.get(timeout=EVERY)
            except Empty:
                event = StepContinues(step, time.monotonic() - began)
            if event is None:
                return future.result()
            emit(event)


class RoundProgress:
    """Listener of the posterior's rounds.

    Args:
        emit: Takes the events.
        most: The most rounds.
    """

    def __init__(self, emit: Callable[[Any], None], most: int) -> None:
        self._emit, self._most = emit, most
        self._said = time.monotonic()

    def __call__(self, number: int) -> None:
        """Take one round in."""
        now = time.monotonic()
        self._emit(PosteriorRound(number, self._most, now - self._said))
        self._said = now


class FlipProgress:
    """Listener of flips: an event every few seconds, and a stop where one is asked for.

    Args:
        emit: Takes the events.
        check_stop: Raises where the run has to stop.
    """

    def __init__(self, emit: Callable[[Any], None], check_stop: Callable[[], None]) -> None:
        self._emit = emit
        self._check_stop = check_stop
        self._said, self._flips = time.monotonic(), 0

    def __call__(self, flip: Any) -> None:
        """Take one flip in."""
        self._check_stop()
        now = time.monotonic()
        if now - self._said >= EVERY:
            rate = (flip.step - self._flips) / (now - self._said)
            self._emit(FlipsMade(flip.step, flip.loss, rate))
            self._said, self._flips = now, flip.step


def read_locked(path: str | None, n: int) -> NDArray[np.int64] | None:
    """Return the locked images, which a text file names by one number a line.

    Returns:
        (m,) int64, ascending; None where no file is given.

    Raises:
        InputError: The file cannot be read, or a line is no image's number.
    """
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"labels.locked={path!r}: cannot be read: {error}") from None
    numbers = set()
    for place, line in enumerate(lines, start=1):
        if not line:
            continue
        if not line.isdecimal() or int(line) >= n:
            raise InputError(
                f"{path}: line {place} is {line!r}; each is the number of an image, 0 to {n - 1}"
            )
        numbers.add(int(line))
    return np.array(sorted(numbers), dtype=np.int64)
