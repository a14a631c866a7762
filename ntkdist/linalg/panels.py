"""How a factor is cut into panels, and what one panel needs in memory.

A panel is a block column of L, ``width`` columns wide; ``width`` is a whole number of ``block``
(the edge of the stored chunks and of one task's rows). The cut depends on N and the memory limit
alone, so that the same call gives the same bits on any number of workers.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

from ntkdist.errors import InputError
from ntkdist.linalg.status import Outcome

ITEM = 8
#: A chunk of 512 x 512 float64 is 2 MiB: long enough for BLAS, small enough to spread.
LARGEST_BLOCK = 512
#: Below this, reading the earlier panels costs more than multiplying them.
NARROWEST_PANEL = 64
#: Tasks whose memory is set aside; more run at once only where the limit leaves room.
TASKS_BUDGETED = 8
#: Arrays of one block row a task holds: the rows, an earlier panel's rows, two copies in the codec.
COPIES_PER_TASK = 4


@dataclass(frozen=True)
class PanelPlan:
    """The cut of an N x N factor.

    The rows factored together are the first band; rows appended later are bands of their own,
    with panels and chunks that start anew, so that nothing that is stored has to move.

    Args:
        first: Rows of the first band.
        width: Columns of every panel but the last of a band.
        block: Edge of the stored chunks; divides ``width``.
        added: Rows of each band appended since.
    """

    first: int
    width: int
    block: int
    added: tuple[int, ...] = ()

    @cached_property
    def bands(self) -> tuple[tuple[int, int], ...]:
        """The first row of each band and the one past its last."""
        stops = list(accumulate((self.first, *self.added)))
        return tuple(zip([0, *stops], stops, strict=False))

    @cached_property
    def edges(self) -> tuple[int, ...]:
        """The first column of each panel, and N."""
        starts = [c for start, stop in self.bands for c in range(start, stop, self.width)]
        return (*starts, self.n)

    @property
    def n(self) -> int:
        """Rows of the matrix."""
        return self.first + sum(self.added)

    @property
    def count(self) -> int:
        """How many panels there are."""
        return len(self.edges) - 1

    @property
    def first_count(self) -> int:
        """How many panels the first band has."""
        return -(-self.first // self.width)

    def columns(self, k: int) -> tuple[int, int]:
        """Return the first column of panel ``k`` and the one past its last."""
        return self.edges[k], self.edges[k + 1]

    def panel_of(self, column: int) -> int:
        """Return the panel that holds a column."""
        return bisect_right(self.edges, column) - 1

    def band_of(self, row: int) -> int:
        """Return the band that holds a row."""
        return bisect_right([stop for _, stop in self.bands], row)

    def by_band(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Return (band, first, past last) for the rows from ``start`` to ``stop``."""
        return [
            (band, max(first, start), min(past, stop))
            for band, (first, past) in enumerate(self.bands)
            if max(first, start) < min(past, stop)
        ]

    def blocks(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the (first, past last) rows of the chunks from ``start`` to ``stop``."""
        return [
            (r, min(r + self.block, past))
            for _, first, past in self.by_band(start, stop)
            for r in range(first, past, self.block)
        ]

    def grown(self, rows: int) -> PanelPlan:
        """Return the cut with one more band."""
        return replace(self, added=(*self.added, rows))

    def flops(self, k: int) -> float:
        """Return the floating point operations of panel ``k`` of the first band, left-looking."""
        first, past = self.columns(k)
        w, below = past - first, self.first - past
        return w * w * first + w**3 / 3 + 2.0 * below * w * first + below * w * w

    def shared_bytes(self) -> int:
        """Return the bytes a panel's tasks share: its rows of earlier panels, its diagonal."""
        if self.count == 1:
            return ITEM * self.n * self.n
        return ITEM * self.width * (self.n + self.width)

    def task_bytes(self) -> int:
        """Return the bytes one task needs beside the shared ones."""
        return COPIES_PER_TASK * ITEM * self.block * self.width

    def tasks_at_once(self, memory_limit: int) -> int:
        """Return how many tasks may run side by side in one process (at least 1)."""
        return max(1, (memory_limit - self.shared_bytes()) // max(1, self.task_bytes()))

    def projected_bytes(self) -> int:
        """Return the peak bytes of one process beside the matrix itself."""
        tasks = 1 if self.count == 1 else TASKS_BUDGETED
        return self.shared_bytes() + tasks * self.task_bytes()


def _plan(n: int, width: int) -> PanelPlan:
    pieces = -(-width // LARGEST_BLOCK)
    block = -(-width // pieces)
    return PanelPlan(n, pieces * block, block)


def parse_memory(memory_limit: int | float | str) -> int:
    """Read a size.

    Args:
        memory_limit: Bytes, or a string such as ``"2GiB"`` or ``"500MB"``.

    Returns:
        Bytes.

    Raises:
        InputError: It is no positive size.
    """
    from dask.utils import parse_bytes

    try:
        size = int(parse_bytes(memory_limit))
        if isinstance(memory_limit, str) and not any(c.isdigit() for c in memory_limit):
            size = 0  # Dask reads "" as 1 and "GiB" as 2**30
    except (ValueError, TypeError, AttributeError, OverflowError):
        size = 0
    if size <= 0:
        raise InputError(Outcome.BAD_MEMORY.message(given=memory_limit))
    return size


def plan_panels(n: int, memory_limit: int) -> PanelPlan:
    """Cut an N x N factor so that one panel's work fits the limit.

    One panel where it fits (one LAPACK call), else the fewest near-equal panels.

    Args:
        n: Rows of the matrix, at least 1.
        memory_limit: Bytes one process may use beside the matrix itself.

    Returns:
        The cut.

    Raises:
        InputError: Even panels of 64 columns do not fit; names what they need.
    """
    whole = _plan(n, n)
    if whole.projected_bytes() <= memory_limit:
        return whole
    narrow = min(n, NARROWEST_PANEL)
    smallest = _plan(n, narrow)
    if smallest.count == 1 or smallest.projected_bytes() > memory_limit:
        raise InputError(
            Outcome.TOO_LITTLE_MEMORY.message(
                given=format_bytes(memory_limit),
                need=format_bytes(smallest.projected_bytes()),
                need_bytes=smallest.projected_bytes(),
                width=smallest.width,
                n=n,
            )
        )
    low, high = narrow, n  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        if math.ceil(n / middle) > 1 and _plan(n, middle).projected_bytes() <= memory_limit:
            low = middle
        else:
            high = middle
    equal = _plan(n, -(-n // -(-n // low)))
    return equal if equal.projected_bytes() <= memory_limit else _plan(n, low)


def format_bytes(size: int) -> str:
    """Write a size for people, for example ``'1.50 GiB'``."""
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} B" if unit == "B" else f"{value:.2f} {unit}"
