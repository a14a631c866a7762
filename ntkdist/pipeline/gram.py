"""One kernel matrix of a run, square or test × train: executor, tile edge, missing tiles."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ntkdist.config import RunConfig
from ntkdist.errors import InputError
from ntkdist.gram.executors.cluster import cores
from ntkdist.runs.run import Run
from ntkdist.words import counted

if TYPE_CHECKING:
    from ntkdist.gram.executors.scheduler import Executor
    from ntkdist.gram.store import GramStore
    from ntkdist.gram.worker import GramJob


_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Matrix:
    """A kernel matrix of a run's images, with themselves or with others.

    Attributes:
        outputs: (kind, address of its store) of each kind of kernel.
        fingerprint: sha256 of everything that determines the entries.
        rows: Address of the images of the rows.
        shape: (rows, columns); columns are None for a symmetric matrix.
        columns: Address of the columns' images; None where they are the rows'.
    """

    outputs: tuple[tuple[str, str], ...]
    fingerprint: str
    rows: str
    shape: tuple[int, int | None]
    columns: str | None = None


def compute_matrix(
    run: Run,
    config: RunConfig,
    matrix: Matrix,
    *,
    on_event: Callable[[Any], None],
    stop: threading.Event,
    recompute: Sequence[str] = (),
) -> list[str]:
    """Compute the tiles of a matrix that are missing.

    Raises:
        InputError: For settings or stores that do not fit.
        StageError: If tiles failed.
        InterruptedRunError: If ``stop`` was set.
    """
    from ntkdist.gram.compute import compute_gram
    from ntkdist.gram.store import GramStore
    from ntkdist.gram.tiling import Tiling

    backend = run.manifest.backend
    executor, threads = _executor(config, backend)
    edge, why = _edge(run, config, matrix, backend, executor)
    summary = compute_gram(
        job_of(run, config, matrix, edge, threads),
        executor,
        tiling=Tiling(matrix.shape[0], edge, matrix.shape[1]),
        on_event=on_event,
        stop=stop,
        recompute=recompute,
    )
    words = [_done_in_words(summary.computed, summary.done), why]
    store = GramStore.open(matrix.outputs[0][1], "r", matrix.fingerprint)
    by = store.count_by_arithmetic()
    if len(by) > 1:
        words.append(" and ".join(f"{count} by {name}" for name, count in by.items()))
    return words


def _done_in_words(computed: int, done: int) -> str:
    if not computed:
        return f"nothing to compute, {done} of {counted(done, 'tile')} are stored"
    words = f"{counted(computed, 'tile')} computed"
    return f"{words}, {done - computed} stored before" if done > computed else words


def job_of(run: Run, config: RunConfig, matrix: Matrix, edge: int, threads: int) -> GramJob:
    """Return what a worker must know to compute any tile of a matrix."""
    from ntkdist.gram.worker import GramJob

    return GramJob(
        images=matrix.rows,
        columns=matrix.columns,
        architecture=config.architecture,
        backend=run.manifest.backend,
        arithmetic=run.manifest.arithmetic,
        dtype=config.gram.dtype,
        invariance=config.gram.invariance,
        outputs=matrix.outputs,
        edge=edge,
        fingerprint=matrix.fingerprint,
        threads=threads,
    )


def threads_of(config: RunConfig) -> int:
    """Return the threads of one worker."""
    settings = config.gram
    if settings.threads != "auto":
        return settings.threads
    return cores() if settings.executor == "inline" else 1


def stored_gram(run: Run, kind: str) -> GramStore | None:
    """Open the Gram of a run for reading, finished or not; None where it was not begun."""
    from ntkdist.gram.store import GramStore

    address = run.address("gram", kind)
    return GramStore.open(address, "r", run.fingerprint) if GramStore.exists(address) else None


def gram_of(run: Run) -> Matrix:
    """Return the matrix of a run's images with themselves."""
    return Matrix(
        outputs=tuple((kind, run.address("gram", kind)) for kind in run.config.gram.kinds),
        fingerprint=run.fingerprint,
        rows=run.address("inputs", "images"),
        shape=(run.array("inputs", "images").shape[0], None),
    )


def _executor(config: RunConfig, backend: str) -> tuple[Executor, int]:
    from ntkdist.gram.executors.inline import InlineExecutor
    from ntkdist.gram.executors.ray import RayExecutor

    settings = config.gram
    threads = threads_of(config)
    if settings.executor == "inline":
        return InlineExecutor(), threads
    gpus = 1 if backend == "cuda" else 0
    limit = None if settings.time_limit == "auto" else settings.time_limit
    executor = RayExecutor(
        settings.workers,
        settings.address,
        threads,
        num_gpus=gpus,
        time_limit=limit,
        grace=settings.grace,
    )
    return executor, threads


def _edge(
    run: Run, config: RunConfig, matrix: Matrix, backend: str, executor: Executor
) -> tuple[int, str]:
    """Return the edge of a tile: the stored one, the one asked for, or a measured one."""
    from ntkdist.gram.autotile import choose_edge_there
    from ntkdist.gram.store import GramStore
    from ntkdist.gram.tiling import Tiling
    from ntkdist.kernels.cuda.device import usable_gpus
    from ntkdist.linalg import parse_memory

    settings = config.gram
    address = matrix.outputs[0][1]
    n, n_cols = matrix.shape
    if GramStore.exists(address):
        stored = GramStore.open(address, "r", matrix.fingerprint).tiling.edge
        if (
            settings.tile not in ("auto", stored)
            and Tiling.from_target(n, int(settings.tile), n_cols).edge != stored
        ):
            raise InputError(
                f"{run.url}: its tiles have edge {stored}, but gram.tile={settings.tile} is set; "
                f"use auto or {stored}, or another --run"
            )
        return stored, f"edge {stored} as before"
    if settings.tile != "auto":
        edge = Tiling.from_target(n, settings.tile, n_cols).edge
        return edge, f"edge {edge} as asked"
    on_gpu = backend == "cuda"
    images = run.array("inputs", "images")
    measure = functools.partial(
        choose_edge_there,
        backend,
        settings.dtype,
        settings.invariance,
        config.architecture,
        np.asarray(images[: min(images.shape[0], 512)]),
        n=n,
        n_cols=n_cols,
        memory=parse_memory(settings.memory),
        workers=executor.workers or (max(1, usable_gpus()) if on_gpu else cores()),
        kinds=settings.kinds,
    )
    choice = on_worker(config, backend, measure)
    return choice.edge, choice.reason


def on_worker(config: RunConfig, backend: str, function: Callable[[], _Result]) -> _Result:
    """Call a function where the tiles of a run are computed, and return its result.

    That is this process, or, if Ray's workers have the GPUs, one of them: this machine may have no
    GPU, and if it has, this process must not keep memory of it, nor the GPU itself where only one
    process at a time can use it.
    """
    from ntkdist.gram.executors.ray import RayExecutor

    executor, _ = _executor(config, backend)
    if backend == "cuda" and isinstance(executor, RayExecutor):
        return executor.call(function)
    return function()
