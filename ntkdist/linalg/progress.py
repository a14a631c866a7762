"""How far a long computation is, told every few seconds while it runs.

Tasks count the operations that they have done. The caller's thread waits for them, and it is the
one that tells: listeners are called from one thread only, and one that raises stops the tasks at
their next count.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

from ntkdist.linalg.events import LinalgProgress, Listener

EVERY = 5.0  # seconds between two events

T = TypeVar("T")


class StoppedError(Exception):
    """Raised inside a task because the listener stopped the computation."""


class Progress:
    """Operations done of those there are, counted by tasks and told by the thread that waits.

    A copy in another process counts for itself alone: there the caller has to say with
    ``reach`` what finished tasks amount to.

    Args:
        stage: What is computed, as in ``LinalgProgress``.
        total: Operations in all.
        listener: Told every few seconds; None for nobody, and then no thread is started.
    """

    def __init__(self, stage: str, total: float, listener: Listener | None) -> None:
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
        """Set what has been done so far."""
        with self._lock:
            self._done = float(operations)

    def watch(self, function: Callable[[], T]) -> T:
        """Call a function in a thread of its own, and tell how far it is until it returns.

        Args:
            function: What to call; it must not call the listener itself.

        Returns:
            What it returns. What it raises is raised here.
        """
        if self._listener is None:
            return function()
        with ThreadPoolExecutor(1, thread_name_prefix="linalg") as pool:
            future = pool.submit(function)
            try:
                while not wait([future], timeout=EVERY).done:
                    self._tell(self._listener)
            except BaseException:
                self._stopped = True  # leaving this block waits for the tasks
                raise
        return future.result()

    def _tell(self, listener: Listener) -> None:
        share = min(self._done / self._total, 1.0) if self._done else None
        listener(LinalgProgress(self._stage, share, time.monotonic() - self._began))
