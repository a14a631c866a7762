"""Computes tiles: reads images, keeps prepared states, writes the tile, returns a record.

One tile at a time is computed, under a lock. Its thread checks, compresses, writes and hashes it
after the lock is released, so that a second thread can compute the next tile meanwhile.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntkdist.errors import DeviceLostError, InputError, NtkdistError, StoreError
from ntkdist.gram.store import GramStore, NotFiniteError
from ntkdist.gram.tiling import TileKey, Tiling
from ntkdist.kernels.backend import Backend
from ntkdist.kernels.registry import get_backend, of_version
from ntkdist.networks.architecture import Architecture
from ntkdist.storage.arrays import open_array


@dataclass(frozen=True)
class GramJob:
    """One kernel matrix to compute.

    Attributes:
        images: Address of the rows' images, a Zarr array (N, H, W, C) float32.
        architecture: Canonical text of the network.
        backend: Name of the kernel backend, never ``auto``.
        arithmetic: Arithmetic of the driver's backend; a worker raises if its backend has
            another one.
        dtype: ``float32`` or ``float64``.
        outputs: (kind, address of its store) for each kind of kernel.
        edge: Rows and columns of a tile.
        fingerprint: Of everything that determines the entries.
        columns: Address of the columns' images for a rectangular matrix; None means
            the rows' images and a symmetric matrix.
        threads: Threads of one worker's backend and BLAS.
        kinds: The kinds of kernel; may be left out, ``outputs`` names them.
        cache_bytes: Most bytes of prepared states that a worker keeps; the two newest stay
            whatever their size.
        invariance: ``none``, or ``flip`` for entries averaged over horizontal flips.
    """

    images: str
    architecture: str
    backend: str
    arithmetic: str
    dtype: str
    outputs: tuple[tuple[str, str], ...]
    edge: int
    fingerprint: str
    columns: str | None = None
    threads: int = 1
    kinds: tuple[str, ...] = ()
    cache_bytes: int = 256 * 2**20
    invariance: str = "none"

    def __post_init__(self) -> None:
        outputs = self.outputs.items() if isinstance(self.outputs, dict) else self.outputs
        object.__setattr__(self, "outputs", tuple((str(k), str(a)) for k, a in outputs))
        if not self.outputs:
            raise InputError("gram job: no outputs; name at least one kind and its address")
        kinds = tuple(kind for kind, _ in self.outputs)
        if self.kinds and set(self.kinds) != set(kinds):
            raise InputError(f"gram job: kinds {self.kinds} and outputs {kinds} differ")
        object.__setattr__(self, "kinds", kinds)
        for name in ("edge", "threads"):
            if getattr(self, name) < 1:
                raise InputError(f"gram job: {name}={getattr(self, name)} must be at least 1")

    @property
    def is_remote(self) -> bool:
        """Whether a tile goes to an object store."""
        return any("://" in address for _, address in self.outputs)

    def to_json(self) -> str:
        """Return the job as JSON text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> GramJob:
        """Read back what ``to_json`` wrote."""
        values = json.loads(text)
        values["kinds"] = tuple(values["kinds"])
        return cls(**values)


@dataclass(frozen=True)
class TileRecord:
    """The answer of a worker about one tile: some 200 bytes, never the entries.

    Fields that are not listed are those of ``TileDone`` and ``TileFailed``.

    Attributes:
        seconds: Duration with reading and writing; only a failed tile's includes waiting.
        error: None if the tile is stored; else the error in one line.
        unwritable: Whether it was computed and could not be stored.
        computing: Part of ``seconds`` in which the tile was computed, and no other one could be.
        device_lost_by: Key of the tile, maybe an earlier one, that lost the worker its GPU; empty
            where it has it still.
    """

    key: str
    worker: str
    attempt: int
    seconds: float
    bytes: int = 0
    entries: int = 0
    backend: str = ""
    error: str | None = None
    traceback: str = ""
    digests: tuple[str, ...] = ()
    unwritable: bool = False
    computing: float = 0.0
    device_lost_by: str = ""


class UnwritableError(StoreError):
    """A tile was computed, and the store refused it."""


class TileWorker:
    """Computes tiles of one job in this process; several threads may ask for tiles at once.

    One thread at a time uses the backend, the prepared states and the thread-pool limits.

    Args:
        job: The job.
        name: The worker's name in records.
        make_backend: Called with the name, ``dtype``, ``threads`` and ``invariance``.

    Attributes:
        on_computed: Called with the key of a tile that is computed and not yet stored, in the
            thread that asked for it.
    """

    def __init__(
        self,
        job: GramJob,
        name: str,
        *,
        make_backend: Callable[..., Backend] = get_backend,
    ) -> None:
        self.job = job
        self.name = name
        self._states = StateCache(job.cache_bytes)
        self._make_backend = make_backend
        self._backend: Backend | None = None
        self._compute_lock = threading.RLock()  # its holder computes
        self._loss: tuple[TileKey, DeviceLostError] | None = None
        self.on_computed: Callable[[TileKey], None] = lambda key: None

    def start(self) -> dict[str, Any]:
        """Open the stores and create the backend.

        Raises:
            InputError: If the backend's arithmetic is not the job's, or a store belongs
                to another job or to another number of images.
            StoreError: If images or stores cannot be opened.
        """
        job = self.job
        self._stores = {
            kind: GramStore.open(address, "r+", job.fingerprint) for kind, address in job.outputs
        }
        for kind, store in self._stores.items():
            if store.arithmetic not in ("", job.arithmetic):
                raise InputError(
                    f"worker {self.name}: the stored tiles of {kind} are {store.arithmetic},"
                    f" this job is {job.arithmetic}; use the backend of the stored tiles"
                )
        self.start_computing()
        tiling = next(iter(self._stores.values())).tiling
        if tiling.shape != self._tiling.shape:
            rows, cols = self._tiling.shape
            raise InputError(
                f"images for {rows}×{cols} entries, the stores have {tiling.shape};"
                " they belong to other images"
            )
        return {"pid": os.getpid(), "host": socket.gethostname(), "threads": self.job.threads}

    def start_computing(self) -> None:
        """Open the images and create the backend, which ``blocks`` and ``block_of`` need.

        Raises:
            InputError: If the backend's arithmetic is not the job's.
            StoreError: If images cannot be opened.
        """
        from threadpoolctl import ThreadpoolController

        job = self.job
        self._arch = Architecture.parse(job.architecture)
        self._rows = _open_images(job.images)
        H, W, C = self._rows.shape[1:]
        newest = self._make_backend(
            job.backend, dtype=job.dtype, threads=job.threads, invariance=job.invariance
        )
        backend = of_version(newest, job.arithmetic, self._arch, (H, W, C))
        if backend is None:
            raise InputError(
                f"worker {self.name} on {socket.gethostname()}: its backend {job.backend!r}"
                f" computes {newest.arithmetic}, the job is {job.arithmetic}; install the same"
                " version of ntkdist everywhere, or begin a new run"
            )
        self._cols = self._rows if job.columns is None else _open_images(job.columns)
        rows, cols = self._rows.shape[0], self._cols.shape[0]
        self._tiling = Tiling(rows, job.edge, None if job.columns is None else cols)
        self._thread_pools = ThreadpoolController()  # 1 ms: once, not per tile
        self._backend = backend

    def attempt(self, key: TileKey, attempt: int = 1) -> TileRecord:
        """Compute a tile like ``compute``, with any ``Exception`` in the record instead."""
        start = time.perf_counter()
        try:
            return self.compute(key, attempt)
        except Exception as error:
            return TileRecord(
                str(key),
                self.name,
                attempt,
                time.perf_counter() - start,
                backend=self.job.arithmetic,
                error=f"{type(error).__name__}: {error}",
                traceback=traceback.format_exc(),
                unwritable=isinstance(error, UnwritableError),
                device_lost_by=self._lost_by(error),
            )

    def _lost_by(self, error: Exception) -> str:
        lost = isinstance(error, DeviceLostError) and self._loss is not None
        return str(self._loss[0]) if lost and self._loss else ""

    def compute(self, key: TileKey, attempt: int = 1) -> TileRecord:
        """Compute one tile of every kind and store it.

        Raises:
            StoreError: If the images cannot be read.
            NotFiniteError: If an entry is NaN or infinite.
            UnwritableError: If the tile cannot be written.
            DeviceLostError: If the GPU cannot be used any more, by this tile or an earlier one.
        """
        job = self.job
        with self._compute_lock:
            if self._loss is not None:
                raise self._loss[1]
            if self._backend is None:
                self.start()
            begun = time.perf_counter()
            try:
                blocks = self.blocks(key)
            except DeviceLostError as error:
                self._loss = key, error
                raise
            computed = time.perf_counter()
        self.on_computed(key)
        try:
            digests = tuple(store.write(key, blocks[kind]) for kind, store in self._stores.items())
        except NotFiniteError:
            raise
        except NtkdistError as error:
            raise UnwritableError(str(error)) from error
        return TileRecord(
            str(key),
            self.name,
            attempt,
            time.perf_counter() - begun,
            bytes=sum(blocks[kind].nbytes for kind in job.kinds),
            entries=blocks[job.kinds[0]].size,
            backend=job.arithmetic,
            digests=digests,
            computing=computed - begun,
        )

    def blocks(self, key: TileKey) -> dict[str, np.ndarray]:
        """Compute and return one tile of every kind; on the diagonal the upper triangle counts."""
        rows, cols = self._tiling.slices(key)
        # Every executor limits threads: with another number, BLAS may add in another order.
        with self._compute_lock, self._thread_pools.limit(limits=self.job.threads):
            a = self._state("rows", rows)
            # the same object on the diagonal, where the backend then computes half
            b = self._state("cols", cols)
            return self._get_backend().block(a, b, self.job.kinds)

    def block_of(self, a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
        """Compute the kernel of any images, (n, H, W, C) and (m, H, W, C), of every kind."""
        backend = self._get_backend()
        with self._compute_lock, self._thread_pools.limit(limits=self.job.threads):
            states = backend.prepare(self._arch, a), backend.prepare(self._arch, b)
            return backend.block(*states, self.job.kinds)

    def _get_backend(self) -> Backend:
        assert self._backend is not None, "not started"
        return self._backend

    def _state(self, axis: str, part: slice) -> Any:
        address, images = self.job.images, self._rows
        if axis == "cols" and self.job.columns is not None:
            address, images = self.job.columns, self._cols

        def make() -> Any:
            try:
                batch = np.asarray(images[part.start : part.stop])
            except Exception as error:
                raise StoreError(
                    f"images {part.start} to {part.stop - 1} cannot be read ({address}): {error}"
                ) from error
            try:
                return self._get_backend().prepare(self._arch, batch)
            except InputError as error:  # it counts images from the tile's first
                raise InputError(
                    f"images {part.start} to {part.stop - 1} of {address}: {error}"
                ) from error

        return self._states.get((address, part.start), make)


def _open_images(address: str) -> Any:
    try:
        images = open_array(address)
    except Exception as error:
        raise StoreError(f"{address}: the images cannot be opened: {error}") from error
    if images.ndim != 4:
        raise StoreError(f"{address}: images have shape {images.shape}; they must be (N, H, W, C)")
    return images


def state_bytes(state: Any) -> int:
    """Return the bytes of the arrays inside a state, each counted once."""
    return _bytes(state, set())


def _bytes(value: Any, seen: set[int]) -> int:
    if value is None or isinstance(value, (str, bytes, int, float)) or id(value) in seen:
        return 0
    seen.add(id(value))
    nbytes = getattr(value, "nbytes", None)
    if isinstance(nbytes, int):
        return nbytes
    if isinstance(value, dict):
        return sum(_bytes(item, seen) for item in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_bytes(item, seen) for item in value)
    if dataclasses.is_dataclass(value):
        return sum(_bytes(getattr(value, f.name), seen) for f in dataclasses.fields(value))
    return sum(_bytes(item, seen) for item in getattr(value, "__dict__", {}).values())


class StateCache:
    """Keeps the states used last, up to a number of bytes; the two newest always stay."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._states: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, name: Hashable, make: Callable[[], Any]) -> Any:
        """Return the state of this name, made now if it is not kept."""
        if name in self._states:
            self._states.move_to_end(name)
            return self._states[name][0]
        state = make()
        self._states[name] = state, state_bytes(state)
        while len(self._states) > 2 and self.bytes > self._limit:
            self._states.popitem(last=False)
        return state

    @property
    def bytes(self) -> int:
        """Bytes of the kept states."""
        return sum(size for _, size in self._states.values())

    def __len__(self) -> int:
        return len(self._states)
