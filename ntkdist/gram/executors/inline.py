"""Tiles one after the other in this process: for tests, debugging and small jobs."""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ntkdist.gram.events import Interrupted, WorkerStarted
from ntkdist.gram.executors import ExecutorSummary
from ntkdist.gram.executors._handout import Ledger
from ntkdist.gram.job import GramJob
from ntkdist.gram.tiling import TileKey
from ntkdist.gram.worker import TileWorker


@dataclasses.dataclass(frozen=True)
class InlineExecutor:
    """Computes tiles in this process.

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
        ledger = Ledger(keys, emit, retries=self.retries)
        while not stop.is_set():
            taken = ledger.take(self.name)
            if taken is None:
                break
            key, attempt = taken
            record = worker.attempt(key, attempt)
            if stop.is_set():
                emit(Interrupted(getattr(stop, "signal", ""), (str(key),)))
            ledger.book(key, record)
            ledger.check_store()
        return ledger.summary()
