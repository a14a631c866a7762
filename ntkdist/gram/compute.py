"""The loop over one kernel matrix: make the stores, list what is missing, have it computed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ntkdist.errors import InputError, InterruptedRunError, StageError
from ntkdist.events.bus import Subscribers
from ntkdist.events.types import GramStarted, TileDone
from ntkdist.gram.executors.scheduler import Executor, ExecutorSummary
from ntkdist.gram.store import DigestLog, GramStore
from ntkdist.gram.tiling import TileKey, Tiling, few_keys
from ntkdist.gram.worker import GramJob
from ntkdist.words import counted


@dataclass(frozen=True)
class GramSummary:
    """What a call of ``compute_gram`` did.

    Attributes:
        done: Tiles of the matrix that are stored now.
        computed: Of them, tiles this call computed.
        seconds: Wall time.
    """

    done: int
    computed: int
    seconds: float


def compute_gram(
    job: GramJob,
    executor: Executor,
    *,
    tiling: Tiling,
    on_event: Callable[[Any], None] | None = None,
    stop: threading.Event | None = None,
    recompute: Iterable[TileKey | str] = (),
) -> GramSummary:
    """Compute the tiles of a kernel matrix that are not stored yet.

    Called again after a kill, a signal or failed tiles, it computes the rest; a tile is done when
    every kind of it is stored.

    Raises:
        InputError: If the stores have another fingerprint, shape or edge, or a tile to recompute
            does not exist.
        StageError: If tiles failed, after all others are done; or at once if no worker is left, or
            this process computes the tiles and cannot use its GPU any more (``DeviceLostError``).
        InterruptedRunError: If ``stop`` was set before all was done.
    """
    start = time.monotonic()
    stop = stop or threading.Event()
    emit = on_event if isinstance(on_event, Subscribers) else Subscribers()
    if on_event is not None and on_event is not emit:
        emit.subscribe(on_event)
    again = [TileKey.parse(key) if isinstance(key, str) else key for key in recompute]
    for key in again:
        if key not in tiling:
            raise InputError(
                f"tile {key} to recompute is not one of this matrix; its {tiling.count} tiles go"
                f" from {TileKey(0, 0)} to {TileKey(tiling.grid[0] - 1, tiling.grid[1] - 1)}"
                + (", none below the diagonal" if tiling.symmetric else "")
            )
    stores = open_outputs(job, tiling)
    for key in again:
        for store in stores:
            store.remove(key)
    missing = sorted({key for store in stores for key in store.missing()})
    stored = tiling.count - len(missing)
    how = executor.workers, job.backend, executor.name
    emit(GramStarted(tiling.count, stored, tiling.edge, *how))
    summary = ExecutorSummary()
    if missing:
        with _digests_kept(stores, emit):
            summary = executor.run(job, missing, emit, stop)
    if stop.is_set() and summary.left:
        signal = getattr(stop, "signal", "")
        raise InterruptedRunError(
            f"stopped{f' by {signal}' if signal else ''}: "
            f"{counted(len(summary.done), 'tile')} computed,"
            f" {len(summary.left) + len(summary.failed)} of {tiling.count} still missing;"
            " the same command resumes"
        )
    if summary.failed:
        raise _failure(summary, tiling)
    return GramSummary(stored + len(summary.done), len(summary.done), time.monotonic() - start)


@contextmanager
def _digests_kept(stores: list[GramStore], emit: Subscribers) -> Iterator[None]:
    """Append the digests of the tiles that are stored inside the block."""
    logs = [DigestLog(store.address) for store in stores]

    def listen(event: Any) -> None:
        if isinstance(event, TileDone):
            for log, digest in zip(logs, event.digests, strict=False):
                log.append(event.key, digest)

    emit.subscribe(listen)
    try:
        yield
    finally:
        emit.unsubscribe(listen)
        for log in logs:
            log.close()


def open_outputs(job: GramJob, tiling: Tiling) -> list[GramStore]:
    """Open the job's stores for writing, and create those that are absent.

    Raises:
        InputError: If a store has another fingerprint, kind, shape, symmetry, edge or dtype, or
            cannot be created.
    """
    if tiling.edge != job.edge:
        raise InputError(f"the job's edge is {job.edge}, the tiling's {tiling.edge}; use one")
    stores = []
    for kind, address in job.outputs:
        if not GramStore.exists(address):
            about = {"architecture": job.architecture, "arithmetic": job.arithmetic}
            GramStore.create(
                address,
                tiling,
                fingerprint=job.fingerprint,
                kind=kind,
                dtype=job.dtype,
                attributes=about,
            )
        store = GramStore.open(address, "r+", job.fingerprint)
        for name, old, new in (
            ("kind", store.kind, kind),
            ("shape", store.shape, tiling.shape),
            ("symmetric", store.tiling.symmetric, tiling.symmetric),
            ("edge", store.tiling.edge, tiling.edge),
            ("dtype", str(store.dtype), job.dtype),
        ):
            if old != new:
                raise InputError(
                    f"{address}: {name} is {old} in the store, {new} in this job;"
                    " take the stored one, or another folder"
                )
        stores.append(store)
    return stores


def _failure(summary: ExecutorSummary, tiling: Tiling) -> StageError:
    keys = sorted(summary.failed)
    first = summary.failed[keys[0]].splitlines()[0]
    return StageError(
        f"{len(keys)} of {tiling.count} tiles failed ({few_keys(keys)}); all others are stored."
        f" First error: {first} (traceback in the run's events)"
    )
