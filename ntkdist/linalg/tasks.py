"""Dask tasks: where they run, and how far they are.

One mechanism serves one block and many, on every scheduler. Tasks count the operations that they
have done. The caller's thread waits for them and reports the progress every few seconds: listeners
are called from one thread only, and one that raises stops the tasks at their next count.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from ntkdist.errors import InputError, NtkdistError, did_you_mean, shown
from ntkdist.events.bus import Subscriber
from ntkdist.events.types import LinalgProgress

Scheduler = Any  # None, a name, an address, a callable, or a distributed Client
T = TypeVar("T")

#: Time a Dask scheduler has to answer.
CONNECT_TIMEOUT = "15s"
#: Seconds between two progress events.
PROGRESS_SECONDS = 5.0


class Runner:
    """Computes Delayed objects on one scheduler.

    Args:
        options: Options for ``dask.compute`` that select the scheduler.
        threaded: Whether it is Dask's threaded scheduler, in this process.
    """

    def __init__(self, options: dict[str, Any], *, threaded: bool) -> None:
        self._options = options
        self._threaded = threaded

    def __call__(self, tasks: Sequence[Any], at_most: int | None = None) -> list[Any]:
        """Return the results of the tasks.

        Args:
            tasks: Delayed objects.
            at_most: Most threads of the threaded scheduler; the others ignore it.
        """
        import dask

        options = dict(self._options)
        if self._threaded and at_most is not None and at_most < thread_count():
            options["num_workers"] = at_most
        try:
            return list(dask.compute(*tasks, **options))
        except Exception as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, NtkdistError):  # Ray wraps the exception of a task
                raise cause from error
            raise

    def batch(self, at_most: int, largest: int) -> int:
        """Return how many tasks to submit together where the results are stored batch by batch.

        As many as run at once in this process, where that is known: a kill loses one batch.

        Args:
            at_most: As for a call.
            largest: Most tasks.
        """
        here = min(at_most, thread_count()) if self._threaded else largest
        return max(1, min(here, largest))


@contextmanager
def task_runner(scheduler: Scheduler) -> Iterator[Runner]:
    """Resolve a scheduler and yield a function that computes Delayed objects on it.

    Args:
        scheduler: None (whatever Dask is configured with), a Dask scheduler's name, ``"ray"``
            (Dask on the Ray cluster), the address of a distributed scheduler
            (``tcp://host:port``), a Dask ``get`` function, or a distributed Client.

    Yields:
        The function.

    Raises:
        InputError: The name is not known, or no scheduler answers at the address.
    """
    import dask
    import dask.base
    import dask.threaded

    client: Any = None
    if isinstance(scheduler, str):
        if scheduler == "ray":
            # imported only here: importing it patches dask.persist
            from ray.util.dask import ray_dask_get

            scheduler = ray_dask_get
        elif "://" in scheduler:
            from distributed import Client

            try:
                client = Client(scheduler, set_as_default=False, timeout=CONNECT_TIMEOUT)
                scheduler = client
            except (OSError, ValueError) as error:
                raise InputError(
                    f"no Dask scheduler answers at {scheduler} ({error}); start one with 'dask "
                    "scheduler' and workers with 'dask worker', or leave the scheduler out"
                ) from error
        elif scheduler not in dask.base.named_schedulers:
            known = [*dask.base.named_schedulers, "ray"]
            raise InputError(
                f"scheduler {shown(scheduler)} is not known; use one of "
                f"{', '.join(sorted(known))}, or an address tcp://host:port"
                + did_you_mean(scheduler, known)
            )
    elif scheduler is not None and not callable(scheduler) and not hasattr(scheduler, "submit"):
        raise InputError(
            f"scheduler {shown(scheduler)} is not known; use the name of a Dask scheduler, an "
            "address tcp://host:port or a distributed Client"
        )
    configured = dask.config.get("scheduler", None)
    if scheduler is None and not configured and "distributed" not in sys.modules:
        scheduler = "threads"  # Dask would import distributed, only to see that there is no client
    chosen = {} if scheduler is None else {"scheduler": scheduler}
    get = dask.base.get_scheduler(**chosen)
    threaded = get is None or get is dask.threaded.get

    try:
        yield Runner(chosen, threaded=threaded)
    finally:
        if client is not None:
            client.close()


def constant(value: Any) -> Any:
    """Return a Delayed object of a value that Dask passes on as it is.

    Dask would otherwise hash the value, or compute a Dask array that it finds inside.
    """
    from dask import delayed

    return delayed(value, pure=False, traverse=False)


def task(function: Callable[..., Any], outputs: int | None = None) -> Any:
    """Return a function whose calls are Delayed objects, each with a key of its own.

    Args:
        function: The function that a worker runs.
        outputs: Length of the tuple that it returns; None where it returns one value.
    """
    from dask import delayed

    return delayed(function, pure=False, nout=outputs)


def side_by_side(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Apply a function to each item on as many threads as there are cores, results in order.

    For reading and writing inside a task that runs alone on its machine.
    """
    from dask.system import CPU_COUNT

    if len(items) < 2 or CPU_COUNT < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(CPU_COUNT) as pool:
        return list(pool.map(function, items))


def thread_count() -> int:
    """Return how many threads Dask's threaded scheduler would use here."""
    import dask
    from dask.system import CPU_COUNT

    return int(dask.config.get("num_workers", None) or CPU_COUNT)


def notifier(listener: Subscriber | None) -> Subscriber:
    """Return the listener, or one that ignores every event in place of None."""
    return listener or (lambda event: None)


class StoppedError(Exception):
    """Raised inside a task because the listener stopped the computation."""


class Progress:
    """Share of a computation that is done: counted by tasks, reported by the waiting thread.

    A copy in another process counts for itself alone: there the caller has to add up the finished
    tasks with ``reach``.

    Args:
        stage: Stage of the computation, as in ``LinalgProgress``.
        total: Operations in all.
        listener: Called every few seconds; None calls nobody and starts no thread.
    """

    def __init__(self, stage: str, total: float, listener: Subscriber | None) -> None:
        self._stage = stage
        self._total = max(float(total), 1.0)
        self._listener = listener
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._done = 0.0
        self._stopped = False

    def __getstate__(self) -> dict[str, Any]:
        return {"stage": self._stage, "total": self._total}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["stage"], state["total"], None)  # type: ignore[misc]

    def add(self, operations: float) -> None:
        """Count operations that were done.

        Raises:
            StoppedError: If the listener stopped the computation.
        """
        if self._stopped:
            raise StoppedError
        with self._lock:
            self._done += operations

    def reach(self, operations: float) -> None:
        """Set the number of operations done so far."""
        with self._lock:
            self._done = float(operations)

    def watch(self, function: Callable[[], T]) -> T:
        """Call a function in a thread of its own, and report the progress until it returns.

        Args:
            function: The function; it must not call the listener itself.

        Returns:
            Its result. Its exceptions are raised here.
        """
        if self._listener is None:
            return function()
        with ThreadPoolExecutor(1, thread_name_prefix="linalg") as pool:
            future = pool.submit(function)
            try:
                while not wait([future], timeout=PROGRESS_SECONDS).done:
                    self._report(self._listener)
            except BaseException:
                self._stopped = True  # leaving this block waits for the tasks
                raise
        return future.result()

    def _report(self, listener: Subscriber) -> None:
        share = min(self._done / self._total, 1.0) if self._done else None
        listener(LinalgProgress(self._stage, share, time.monotonic() - self._began))
