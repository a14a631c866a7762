"""Where Dask tasks run, and how many BLAS threads each of them gets.

Tasks that run side by side get one BLAS thread each. What runs alone (a panel's diagonal block;
the whole matrix where there is one panel; substitutions; what an iteration does between two passes)
gets as many as Dask would use threads where the result was begun, a number that is stored with it:
LAPACK's bits depend on it. Both rules hold under every scheduler, so that all of them give the
same bits, and in every process, whatever ``OPENBLAS_NUM_THREADS`` it was started with.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

from ntkdist.errors import InputError, NtkdistError, did_you_mean

Scheduler = Any  # None, a name, an address, a callable, or a distributed Client

_PATIENCE = "15s"  # for a scheduler to answer

_lock = threading.Lock()


@cache
def _blas_pools() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()  # looks through every loaded library: once is enough


@cache
def _limiter() -> ThreadPoolExecutor:
    os.register_at_fork(after_in_child=_limiter.cache_clear)  # a child has no such thread
    return ThreadPoolExecutor(1, thread_name_prefix="blas-limits")


class _Inside:
    """Callers that are inside together; the first one's count is that of all."""

    def __init__(self) -> None:
        self.callers = 0
        self.count = 0

    def enter(self, count: int) -> None:
        if self.callers == 0:
            self.count = count
        self.callers += 1


_tasks, _between = _Inside(), _Inside()
_original: Any = None


def _set_limit(count: int) -> None:
    from threadpoolctl import OpenBLASController

    global _original

    # a caller's own limit around us would otherwise keep ours from taking effect
    OpenBLASController.clear_controlling_thread(force=True)
    limit = _blas_pools().limit(limits=count, user_api="blas")
    if _original is None:
        _original = limit


def _lift_limit() -> None:
    from threadpoolctl import OpenBLASController

    global _original

    OpenBLASController.clear_controlling_thread(force=True)
    _original.restore_original_limits()
    _original = None


def _apply() -> None:
    """Set what the innermost callers want, or put back what was there before any came."""
    if _tasks.callers or _between.callers:
        count = _tasks.count if _tasks.callers else _between.count
        _limiter().submit(_set_limit, count).result()
    else:
        _limiter().submit(_lift_limit).result()


@contextmanager
def _limited(inside: _Inside, count: int) -> Iterator[None]:
    # the limit of OpenBLAS belongs to the process, not to a thread: the first one in sets it and
    # the last one out puts it back; threadpoolctl lets only the thread that set a limit lift it,
    # and those two need not be one: a thread of our own does both
    with _lock:
        inside.enter(count)
        if inside.callers == 1:
            _apply()
    try:
        yield
    finally:
        with _lock:
            inside.callers -= 1
            if inside.callers == 0:
                _apply()


def blas_threads(count: int) -> AbstractContextManager[None]:
    """Give BLAS so many threads in this process while any task is inside.

    Args:
        count: How many; of callers that are inside together, the first one's counts.
    """
    return _limited(_tasks, count)


def blas_threads_between(count: int) -> AbstractContextManager[None]:
    """Give BLAS so many threads in this process where no task is inside.

    For what drives tasks and computes between them: tasks in this process set their own.

    Args:
        count: How many; of callers that are inside together, the first one's counts.
    """
    return _limited(_between, count)


class Runner:
    """Computes Delayed objects on one scheduler.

    Args:
        options: What Dask is told of the scheduler.
        threaded: Whether it is Dask's threaded one, in this process.
    """

    def __init__(self, options: dict[str, Any], *, threaded: bool) -> None:
        self._options = options
        self._threaded = threaded

    def __call__(self, tasks: Sequence[Any], at_most: int | None = None) -> list[Any]:
        """Return the results of the tasks.

        Args:
            tasks: Delayed objects.
            at_most: Threads of the threaded scheduler; means nothing to the others.
        """
        import dask

        options = dict(self._options)
        if self._threaded and at_most is not None and at_most < thread_count():
            options["num_workers"] = at_most
        try:
            return list(dask.compute(*tasks, **options))
        except Exception as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, NtkdistError):  # Ray wraps what a task raised
                raise cause from error
            raise

    def batch(self, at_most: int, largest: int) -> int:
        """Return how many tasks to hand over together where each batch is kept when it is done.

        As many as run at once in this process, where that is known: what a kill costs is a batch.

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
        What computes Delayed objects on it.

    Raises:
        InputError: The name is not known, or nobody answers at the address.
    """
    import dask
    import dask.base
    import dask.threaded

    client: Any = None
    if isinstance(scheduler, str):
        if scheduler == "ray":
            # imported here alone: importing it patches dask.persist
            from ray.util.dask import ray_dask_get

            scheduler = ray_dask_get
        elif "://" in scheduler:
            from distributed import Client

            try:
                scheduler = client = Client(scheduler, set_as_default=False, timeout=_PATIENCE)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"no Dask scheduler answers at {scheduler} ({error}); start one with 'dask "
                    "scheduler' and workers with 'dask worker', or leave the scheduler out"
                ) from error
        elif scheduler not in dask.base.named_schedulers:
            known = [*dask.base.named_schedulers, "ray"]
            raise InputError(
                f"scheduler {scheduler!r} is not known; use one of {', '.join(sorted(known))}, "
                f"or an address tcp://host:port{did_you_mean(scheduler, known)}"
            )
    chosen = {} if scheduler is None else {"scheduler": scheduler}
    get = dask.base.get_scheduler(**chosen)
    threaded = get is None or get is dask.threaded.get

    try:
        yield Runner(chosen, threaded=threaded)
    finally:
        if client is not None:
            client.close()


def side_by_side(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Apply a function to each item on as many threads as there are cores, results in order.

    For reading and writing inside a task that has the machine to itself.
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
