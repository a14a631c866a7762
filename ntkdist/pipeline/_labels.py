"""What the label stage needs beside the methods: progress of flips, and the trusted images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError

EVERY = 5.0  # seconds between two events


@dataclass(frozen=True)
class FlipsMade:
    """How far a refurbishment is.

    Args:
        flips: Flips made so far.
        loss: L(Z) now.
        rate: Flips a second since the last event.
        timestamp: Seconds since the epoch.
    """

    flips: int
    loss: float
    rate: float
    timestamp: float = field(default_factory=time.time, compare=False)


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
    """Return the images named in a text file, one number a line.

    Args:
        path: The file; None for none.
        n: How many images there are.

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
