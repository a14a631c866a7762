"""Tiles in this process: one is computed while another is written."""

from __future__ import annotations

import dataclasses
import os
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ntkdist.errors import DeviceLostError
from ntkdist.events.types import Interrupted, WorkerStarted
from ntkdist.gram.executors.scheduler import ExecutorSummary, TileScheduler
from ntkdist.gram.tiling import TileKey
from ntkdist.gram.worker import GramJob, TileRecord, TileWorker
from ntkdist.words import counted

_POLL_SECONDS = 0.25  # how late a stop is noticed


@dataclasses.dataclass(frozen=True)
class InlineExecutor:
    """Computes tiles in this process.

    At most two tiles are in flight: one is computed while another is written. Where writing takes
    longer than computing, both are written at once and nothing is computed meanwhile.

    Attributes:
        threads: Threads of the backend; None takes the job's.
        retries: How often a tile that raised is tried again.
        make_worker: Makes the worker from a job and a name.
    """

    threads: int | None = None
    retries: int = 2
    make_worker: Callable[[GramJob, str], TileWorker] = TileWorker

    name = "inline"

    @property
    def workers(self) -> int:
        """One: this process."""
        return 1

    def run(
        self,
        job: GramJob,
        keys: Sequence[TileKey],
        emit: Callable[[Any], None],
        stop: threading.Event,
    ) -> ExecutorSummary:
        """Compute the tiles; see ``Executor.run``."""
        if self.threads is not None:
            job = dataclasses.replace(job, threads=self.threads)
        worker = self.make_worker(job, self.name)
        worker.start()
        emit(WorkerStarted(self.name, os.getpid(), socket.gethostname(), job.threads))
        scheduler = TileScheduler(keys, emit, retries=self.retries)
        threads = _WorkerThreads(worker)
        try:
            self._drive(threads, scheduler, emit, stop)
        finally:
            threads.close()
        return scheduler.summary()

    def _drive(
        self,
        threads: _WorkerThreads,
        scheduler: TileScheduler,
        emit: Callable[[Any], None],
        stop: threading.Event,
    ) -> None:
        told, loss = False, ""
        while True:
            if threads.free and not stop.is_set() and not scheduler.refusing and not loss:
                taken = scheduler.take(self.name)
                if taken is not None:
                    threads.give(*taken)
            if not threads.tiles:
                break
            answer = threads.listen(_POLL_SECONDS)
            if stop.is_set() and not told:
                told = True
                emit(Interrupted(getattr(stop, "signal", ""), tuple(map(str, threads.tiles))))
            if answer is not None:
                key, record = answer
                threads.tiles.remove(key)
                scheduler.report(key, record)
                if record.device_lost_by:
                    loss = record.error or ""
        if loss:
            summary = scheduler.summary()
            missing = counted(len(summary.left) + len(summary.failed), "tile")
            raise DeviceLostError(
                f"{loss.partition(': ')[2]}; {missing} missing, the same command in a new process"
                " resumes"
            )
        if stop.is_set() and not told and scheduler.waiting:  # nothing was in flight
            emit(Interrupted(getattr(stop, "signal", ""), ()))
        scheduler.check_store()


class _WorkerThreads:
    """The two threads of a worker and the tiles in flight; used by the driver's thread only.

    Attributes:
        tiles: The tiles in flight, the oldest first.
    """

    def __init__(self, worker: TileWorker) -> None:
        self._worker = worker
        self._tasks: queue.SimpleQueue[tuple[TileKey, int] | None] = queue.SimpleQueue()
        # (key, None) when computed; (key, record or error) when finished
        self._news: queue.SimpleQueue[tuple[TileKey, TileRecord | BaseException | None]]
        self._news = queue.SimpleQueue()
        self._computing: TileKey | None = None
        self._closed = False
        self.tiles: list[TileKey] = []
        worker.on_computed = self._computed
        # daemons: a second signal ends the process at once
        self._threads = [
            threading.Thread(target=self._work, name=f"tiles-{i}", daemon=True) for i in range(2)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def free(self) -> bool:
        """Whether another tile could be computed at once."""
        return self._computing is None and len(self.tiles) < len(self._threads)

    def give(self, key: TileKey, attempt: int) -> None:
        """Start to compute and store a tile."""
        self.tiles.append(key)
        self._computing = key
        self._tasks.put((key, attempt))

    def listen(self, seconds: float) -> tuple[TileKey, TileRecord] | None:
        """Wait for an answer at most this long; return the record of a tile that is finished."""
        try:
            key, news = self._news.get(timeout=seconds)
        except queue.Empty:
            return None
        if key == self._computing:
            self._computing = None
        if news is None:
            return None
        if isinstance(news, BaseException):
            raise news
        return key, news

    def close(self) -> None:
        """End the threads; a tile that is still computed is not stored."""
        self._closed = True
        for _ in self._threads:
            self._tasks.put(None)

    def _computed(self, key: TileKey) -> None:
        if self._closed:
            raise RuntimeError(f"tile {key} is computed after the job has ended")
        self._news.put((key, None))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                self._news.put((task[0], self._worker.attempt(*task)))
            except BaseException as error:  # else the driver would wait for it forever
                self._news.put((task[0], error))
