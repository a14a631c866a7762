"""Panels of a factor: how it is cut, what one panel needs in memory, and how panels are stored.

A panel is a block column of L, ``width`` columns wide; ``width`` is a multiple of ``block`` (the
edge of the stored chunks and of one task's rows). The cut depends on N and the memory limit alone,
so that the same call gives the same bits on any number of workers.

The rows factored together are stored in one array; the rows of a later band in one array for each
panel, so that chunks begin where panels and bands do and no stored chunk has to move.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from ntkdist.checks import check_whole
from ntkdist.errors import StoreError
from ntkdist.linalg import groups
from ntkdist.linalg.blas import ITEM, Matrix, Vector
from ntkdist.linalg.status import LinalgStatus, parse_memory
from ntkdist.linalg.tasks import side_by_side
from ntkdist.words import format_bytes

KIND = "factor"
PROCESS = "the factorisation"
APPENDING = "the appending"
RECORDS = "panels"
BAND_RECORDS = "bands"
ADDED = "added"

#: A chunk of 512 x 512 float64 is 2 MiB: long enough for BLAS, small enough to spread.
LARGEST_BLOCK = 512
#: Below this, reading the earlier panels costs more than multiplying them.
NARROWEST_PANEL = 64
#: Tasks for which memory is reserved; more run at once only where the limit allows it.
TASKS_BUDGETED = 8
#: Arrays of one block row that a task holds: the rows, an earlier panel's rows, and two copies in
#: the codec.
COPIES_PER_TASK = 4


@dataclass(frozen=True)
class PanelPlan:
    """The cut of an N x N factor.

    The rows factored together are the first band. Rows appended later are bands with panels and
    chunks of their own, so that no stored chunk has to move.

    Args:
        first: Rows of the first band.
        width: Columns of every panel but the last of a band.
        block: Edge of the stored chunks; divides ``width``.
        added: Rows of each appended band.
    """

    first: int
    width: int
    block: int
    added: tuple[int, ...] = ()

    @cached_property
    def bands(self) -> tuple[tuple[int, int], ...]:
        """The first row of each band and the one past its last row."""
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
        """Number of panels."""
        return len(self.edges) - 1

    @property
    def first_count(self) -> int:
        """Number of panels of the first band."""
        return -(-self.first // self.width)

    def columns(self, k: int) -> tuple[int, int]:
        """Return the first column of panel ``k`` and the one past its last column."""
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
        """Return the cut with one more band of so many rows."""
        return replace(self, added=(*self.added, rows))

    @property
    def without_bands(self) -> PanelPlan:
        """The same blocks over all rows as one band, as results of the whole factor have them."""
        return PanelPlan(self.n, self.width, self.block)

    def flops(self, k: int) -> float:
        """Return the floating point operations of panel ``k`` of the first band, left-looking."""
        first, past = self.columns(k)
        w, below = past - first, self.first - past
        return w * w * first + w**3 / 3 + 2.0 * below * w * first + below * w * w

    def shared_bytes(self) -> int:
        """Return the bytes that a panel's tasks share: its rows of earlier panels, its diagonal."""
        if self.count == 1:
            return ITEM * self.n * self.n
        return ITEM * self.width * (self.n + self.width)

    def task_bytes(self) -> int:
        """Return the bytes that one task needs beside the shared ones."""
        return COPIES_PER_TASK * ITEM * self.block * self.width

    def tasks_at_once(self, memory_limit: int) -> int:
        """Return how many tasks may run side by side in one process (at least 1)."""
        return max(1, (memory_limit - self.shared_bytes()) // max(1, self.task_bytes()))

    def device_bytes(self, tasks: int = 1) -> int:
        """Return the peak bytes on a GPU, with so many tasks there at once.

        These are the shared bytes and, at first, a second diagonal block (one is factored into
        the other); later each task's rows and an earlier panel's rows.
        """
        return self.shared_bytes() + max(ITEM * self.width**2, tasks * self._device_task_bytes())

    def device_tasks(self, memory: int) -> int:
        """Return how many tasks fit so many bytes on a GPU; 0 if a panel does not fit."""
        if self.device_bytes() > memory:
            return 0
        return max(1, (memory - self.shared_bytes()) // self._device_task_bytes())

    def _device_task_bytes(self) -> int:
        return 2 * ITEM * self.block * self.width

    def projected_bytes(self) -> int:
        """Return the peak bytes of one process, without the matrix itself."""
        tasks = 1 if self.count == 1 else TASKS_BUDGETED
        return self.shared_bytes() + tasks * self.task_bytes()


def plan_panels(n: int, memory_limit: int) -> PanelPlan:
    """Cut an N x N factor so that one panel's work fits the limit.

    One panel (one LAPACK call) where it fits, else the fewest near-equal panels.

    Args:
        n: Rows of the matrix, at least 1.
        memory_limit: Bytes that one process may use, without the matrix itself.

    Returns:
        The cut.

    Raises:
        InputError: Even panels of 64 columns do not fit; names the bytes that they need.
    """
    n = check_whole("n", n, 1, "give the rows of a matrix", most=10**7)
    memory_limit = parse_memory(memory_limit)
    whole = _plan(n, n)
    if whole.projected_bytes() <= memory_limit:
        return whole
    narrow = min(n, NARROWEST_PANEL)
    smallest = _plan(n, narrow)
    if memory_limit < least_memory(n):
        need = smallest.projected_bytes()
        raise LinalgStatus.PANEL_EXCEEDS_MEMORY.error(
            given=format_bytes(memory_limit),
            need=format_bytes(need),
            need_bytes=need,
            width=smallest.width,
            n=n,
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


def least_memory(n: int) -> int:
    """Return the bytes that the narrowest panels of an N x N factor need."""
    return _plan(n, min(n, NARROWEST_PANEL)).projected_bytes()


def _plan(n: int, width: int) -> PanelPlan:
    pieces = -(-width // LARGEST_BLOCK)
    block = -(-width // pieces)
    return PanelPlan(n, pieces * block, block)


class FactorStore:
    """Panels of L on disk, by panel number and rows.

    Picklable: a task in another process opens the arrays itself; strips kept in memory are not
    pickled.

    Attributes:
        keep: Whether to keep strips in memory after their first read.

    Args:
        url: The group's folder or URL.
        plan: The cut of the factor.
    """

    def __init__(self, url: str, plan: PanelPlan) -> None:
        self.url = url
        self.plan = plan
        self.keep = False
        self._arrays: dict[str, groups.CheckedArray] = {}
        self._kept: dict[int, Matrix] = {}
        self._spare: list[Vector] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": {}, "_kept": {}, "_spare": [], "keep": False}

    @classmethod
    def create(
        cls, url: str, plan: PanelPlan, attributes: dict[str, Any], sums: Vector
    ) -> FactorStore:
        """Write the metadata of a new factor, in place of an old one."""
        cut = {"n": plan.n, "panel_width": plan.width, "block": plan.block}
        group = groups.create_group(url, KIND, {**cut, **attributes})
        store = cls(url, plan)
        store.prepare()
        store.write_sums(group, sums)
        return store

    @classmethod
    def open(cls, url: str) -> tuple[FactorStore, dict[str, Any]] | None:
        """Open a factor, finished or not; None where there is none.

        Returns the store and its attributes, those of the last band in place of the group's.
        """
        group = groups.open_group(url, KIND)
        if group is None:
            return None
        attributes = dict(group.attrs)
        plan = PanelPlan(attributes["n"], attributes["panel_width"], attributes["block"])
        if len(groups.read_records(group, RECORDS)) == plan.count:  # bands need all panels
            for band in groups.read_records(group, BAND_RECORDS):
                plan = plan.grown(band["rows"])
                attributes |= band["attributes"]
        return cls(url, plan), {**attributes, "n": plan.n}

    @property
    def group(self) -> Any:
        """The factor's Zarr group, opened for reading and writing."""
        group = groups.open_group(self.url, KIND, mode="r+")
        if group is None:
            remedy = f"start {PROCESS} again"
            raise LinalgStatus.ABSENT.error(url=self.url, kind=KIND, remedy=remedy)
        return group

    def prepare(self) -> None:
        """Create the array of the first band, unless an earlier start did."""
        n, block = self.plan.first, self.plan.block
        groups.create_array(self.group, "lower", shape=(n, n), chunks=(block, block))

    def prepare_band(self) -> None:
        """Create the arrays of the last band, in place of those of an unfinished one."""
        group, plan = self.group, self.plan
        band = len(plan.added)
        start, stop = plan.bands[band]
        groups.drop_records(group, BAND_RECORDS, band - 1)
        name = f"{ADDED}/{band:05d}"
        if name in group:
            del group[name]
        for k in range(plan.count):
            first, past = plan.columns(k)
            edges = tuple(min(plan.block, size) for size in (stop - start, past - first))
            groups.create_array(
                group, f"{name}/{k:05d}", shape=(stop - start, past - first), chunks=edges
            )

    def write_sums(self, group: Any, sums: Vector) -> None:
        """Store the column sums of |entry|, from which the norm of a larger matrix follows."""
        groups.create_array(group, self._sums_name, shape=sums.shape, chunks=sums.shape)
        self._open(self._sums_name).write("column sums", (slice(0, len(sums)),), sums)

    def sums(self) -> Vector:
        """Read the column sums of |entry| off the diagonal, (N,) float64."""
        name = self._sums_name
        try:
            values = self._open(name).read(name, "", (slice(0, self.plan.n),))
        except StoreError as error:
            raise LinalgStatus.COLUMN_SUMS_UNREADABLE.error(url=self.url, reason=error) from error
        if np.isnan(values).any():
            reason = f"a chunk of {name} is missing"
            raise LinalgStatus.COLUMN_SUMS_UNREADABLE.error(url=self.url, reason=reason)
        return values

    @property
    def _sums_name(self) -> str:
        band = len(self.plan.added)
        return f"{ADDED}/{band:05d}/sums" if band else "column_sums"

    def records(self) -> list[dict[str, Any]]:
        """Return the records of the first band's panels, up to the first missing one."""
        return groups.read_records(self.group, RECORDS)

    def bands(self) -> list[dict[str, Any]]:
        """Return the records of the appended bands."""
        return groups.read_records(self.group, BAND_RECORDS)

    def record(self, k: int, fields: dict[str, Any]) -> None:
        """Mark panel ``k`` as whole."""
        groups.write_record(self.group, RECORDS, k, fields)

    def record_band(self, fields: dict[str, Any]) -> None:
        """Mark the last band as whole."""
        groups.write_record(self.group, BAND_RECORDS, len(self.plan.added) - 1, fields)

    def forget(self, start: int) -> None:
        """Drop the records of the first band's panels from ``start`` on, and of all bands."""
        groups.drop_records(self.group, BAND_RECORDS, 0)
        groups.drop_records(self.group, RECORDS, start)

    def write(self, k: int, r0: int, r1: int, c0: int, c1: int, values: Matrix) -> bytes:
        """Store rows r0:r1 and columns c0:c1 of panel ``k``, without the chunks above the diagonal.

        The region has at most one row of chunks and begins on the panel's chunk grid; the values
        above the diagonal are zero. Returns the sha256 of each chunk, one after the other.
        """
        c1 = min(c1, r1)
        values = values[:, : c1 - c0]
        array, row, col = self._place(k, r0)
        array.write(f"panel {k}", (slice(r0 - row, r1 - row), slice(c0 - col, c1 - col)), values)
        step = self.plan.block
        return b"".join(_sha256(values[:, c : c + step]) for c in range(0, c1 - c0, step))

    def chunks(self, k: int, band: int = 0) -> list[tuple[int, int, int, int]]:
        """Return (r0, r1, c0, c1) of the chunks of panel ``k`` in a band, row by row."""
        first, past = self.plan.columns(k)
        start, stop = self.plan.bands[band]
        step = self.plan.block
        return [
            (r0, r1, c0, min(c0 + step, past, r1))
            for r0, r1 in self.plan.blocks(max(first, start), stop)
            for c0 in range(first, min(past, r1), step)
        ]

    def rows(self, k: int, r0: int, r1: int) -> Matrix:
        """Read rows r0:r1 of panel ``k``, below its diagonal block and within one band."""
        return self._read(k, r0, r1, *self.plan.columns(k))

    def whole(self) -> Matrix:
        """Read all of L, (N, N) float64, zero above the diagonal."""
        out = np.zeros((self.plan.n, self.plan.n))

        def fill(rows: tuple[int, int]) -> None:
            r0, r1 = rows
            out[r0:r1, :r1] = self.strip(r0, r1)

        side_by_side(fill, self.plan.blocks(0, self.plan.n))
        return out

    def strip(self, r0: int, r1: int) -> Matrix:
        """Read one row of chunks, L[r0:r1, :r1], zero above the diagonal.

        Do not write to it: it may be shared.
        """
        return self._strip_into(r0, r1, 0, None)

    def _strip_into(self, r0: int, r1: int, first: int, buffer: Vector | None) -> Matrix:
        """Return L[r0:r1, first:r1], read into the buffer where there is one."""
        if self.keep:
            if r0 not in self._kept:
                self._kept[r0] = self._read_strip(r0, r1, 0, None)
            return self._kept[r0][:, first:]
        left = self._chunk_start(first)
        size = (r1 - r0) * (r1 - left)
        out = None if buffer is None else buffer[:size].reshape(r1 - r0, r1 - left)
        return self._read_strip(r0, r1, left, out)[:, first - left :]

    def _chunk_start(self, column: int) -> int:
        start, _ = self.plan.columns(self.plan.panel_of(column))
        return start + (column - start) // self.plan.block * self.plan.block

    def _buffer(self) -> Vector:
        try:
            return self._spare.pop()  # several threads may call this
        except IndexError:
            return np.empty(self.plan.block * self.plan.n)

    def strips(
        self, first: int, *, upwards: bool = False, stop: int | None = None
    ) -> Iterator[tuple[int, int, Matrix]]:
        """Yield (r0, r1, L[r0:r1, first:r1]) for the rows of chunks from row ``first`` on.

        The first strip is the one that holds row ``first``; rows from ``stop`` on are left out;
        with ``upwards`` the last strip comes first. The next strip is read while the caller uses
        this one, which is valid until then: two buffers alternate (new memory costs more time than
        the read).
        """
        stop = self.plan.n if stop is None else stop
        blocks = [b for b in self.plan.blocks(0, self.plan.n) if b[1] > first and b[0] < stop]
        if not blocks:
            return
        if upwards:
            blocks.reverse()
        buffers = [self._buffer() for _ in range(2)] if not self.keep else [None, None]
        with ThreadPoolExecutor(1) as ahead:
            waiting = ahead.submit(self._strip_into, *blocks[0], first, buffers[0])
            for turn, here in enumerate(blocks, start=1):
                values = waiting.result()
                if turn < len(blocks):
                    buffer = buffers[turn % 2]
                    waiting = ahead.submit(self._strip_into, *blocks[turn], first, buffer)
                r0, r1 = here[0], min(here[1], stop)
                yield r0, r1, values[: r1 - r0, : r1 - first]
        self._spare.extend(buffer for buffer in buffers if buffer is not None)

    def release(self) -> None:
        """Free the memory of the strips kept."""
        self._kept.clear()
        self._spare.clear()

    def kept_bytes(self) -> int:
        """Return the bytes that all strips need in memory."""
        return sum(ITEM * (r1 - r0) * r1 for r0, r1 in self.plan.blocks(0, self.plan.n))

    def digest(self, k: int, band: int = 0) -> str:
        """Return the sha256 of panel ``k``'s stored rows in a band, as in its record."""
        return panel_digest([_sha256(self._read(k, *chunk)) for chunk in self.chunks(k, band)])

    def damaged(self, k: int, key: str, reason: str, band: int = 0) -> Exception:
        """Return the error for a damaged part of panel ``k``."""
        array, _, _ = self._place(k, self.plan.bands[band][0])
        return array.damaged(f"panel {k}", _record_of(k, band), key, reason)

    def _read_strip(self, r0: int, r1: int, left: int, out: Matrix | None) -> Matrix:
        """Read L[r0:r1, left:r1], ``left`` at the start of a chunk."""
        if self.plan.band_of(r0) == 0:
            array, _, _ = self._place(0, r0)
            try:
                values = array.read("strip", "", (slice(r0, r1), slice(left, r1)), out)
            except StoreError:
                pass  # the read panel by panel below names the damaged one
            else:
                if not np.isnan(values[0, :: self.plan.block]).any():
                    return values
        out = np.empty((r1 - r0, r1 - left)) if out is None else out
        for k in range(self.plan.panel_of(left), self.plan.panel_of(r1 - 1) + 1):
            first, past = self.plan.columns(k)
            first, past = max(first, left), min(past, r1)
            out[:, first - left : past - left] = self._read(k, r0, r1, first, past)
        return out

    def _read(self, k: int, r0: int, r1: int, c0: int, c1: int) -> Matrix:
        array, row, col = self._place(k, r0)
        band = self.plan.band_of(r0)
        where = (slice(r0 - row, r1 - row), slice(c0 - col, c1 - col))
        values = array.read(f"panel {k}", _record_of(k, band), where)
        block = self.plan.block
        corners = values[::block, ::block]
        if np.isnan(corners).any():
            i, j = (int(v) for v in np.argwhere(np.isnan(corners))[0])
            key = array.key(where[0].start // block + i, where[1].start // block + j)
            raise self.damaged(k, key, "is missing", band)
        return values

    def _place(self, k: int, row: int) -> tuple[groups.CheckedArray, int, int]:
        """Return the array that holds a row of panel ``k``, and its own first row and column."""
        band = self.plan.band_of(row)
        if band == 0:
            return self._open("lower"), 0, 0
        start, _ = self.plan.bands[band]
        return self._open(f"{ADDED}/{band:05d}/{k:05d}"), start, self.plan.columns(k)[0]

    def _open(self, name: str) -> groups.CheckedArray:
        if name not in self._arrays:
            process = APPENDING if name.startswith(ADDED) else PROCESS
            self._arrays[name] = groups.CheckedArray(self.url, name, KIND, process)
        return self._arrays[name]


def panel_digest(parts: list[bytes]) -> str:
    """Return the sha256 (hex) over the sha256 of a panel's chunks, row by row.

    There are two levels, so that the tasks that compute the chunks can hash them.
    """
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _record_of(k: int, band: int) -> str:
    if band:
        return groups.record_name(BAND_RECORDS, band - 1)
    return groups.record_name(RECORDS, k)


def _sha256(values: Matrix) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(values).data).digest()
