"""Run tasks in a separate process, so that a hang or a broken GPU context ends only that process.

The process is a fork, so the caller must not have used CUDA or jax. The process runs one task after
another, so compiled kernels are reused. After a task that failed, the next starts a new process.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any


class Refused(Exception):  # noqa: N818  # a verdict of a task, no failure of its process
    """Why something is not measured."""


class TaskFailedError(Exception):
    """A task raised an error other than ``Refused``, ended its process or took too long."""


class Worker:
    """A process for tasks, started with the first of them."""

    def __init__(self) -> None:
        self._process: Any = None
        self._pipe: Any = None

    def do(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        limit: float,
        on_note: Callable[[Any], None] | None = None,
    ) -> Any:
        """Call a function in the process and return its result.

        Args:
            function: Of a module, as ``pickle`` needs it.
            *arguments: Of the function.
            limit: Seconds after which the process is killed.
            on_note: If given, the function gets a callable as keyword argument ``note``; each
                value that it passes to ``note`` is passed to ``on_note`` in the caller.

        Raises:
            Refused: If the function raised it.
            TaskFailedError: If it raised anything else, took too long or ended the process.
        """
        end = time.monotonic() + limit
        if self._process is None or not self._process.is_alive():
            self.stop()
            self._start()
        self._pipe.send((function, arguments, on_note is not None))
        while self._pipe.poll(max(0.0, end - time.monotonic())):
            try:
                kind, value = self._pipe.recv()
            except EOFError:
                self._process.join()
                code = self._process.exitcode
                self.stop()
                raise TaskFailedError(f"its process ended with code {code}") from None
            if kind == "note" and on_note:
                on_note(value)
            elif kind == "result":
                return value
            elif kind == "refused":
                raise Refused(value)
            else:  # an error may have left the GPU's context useless
                self.stop()
                raise TaskFailedError(value)
        self.stop()
        raise TaskFailedError(f"stopped after {limit:.0f} s")

    def stop(self) -> None:
        """Kill the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = self._pipe = None

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._pipe), daemon=True)
        self._process.start()
        theirs.close()


def _serve(pipe: Connection, other_end: Connection) -> None:
    other_end.close()  # else ``recv`` would not raise EOFError when the caller ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with suppress(EOFError, BrokenPipeError):
        while True:
            function, arguments, notes = pipe.recv()
            more = {"note": lambda value: pipe.send(("note", value))} if notes else {}
            try:
                answer = ("result", function(*arguments, **more))
            except Refused as error:
                answer = ("refused", str(error))
            except Exception as error:
                traceback.print_exc(limit=-6)
                text = " ".join(str(error).split())[:300]
                answer = ("failed", f"{type(error).__name__}: {text}")
            pipe.send(answer)
