"""Progress of a kernel matrix: a bar on a terminal or in a notebook, else a line now and then."""

from __future__ import annotations

import sys
import time
from html import escape
from typing import Any, TextIO

from ntkdist.events.types import (
    GramStarted,
    Interrupted,
    StageDone,
    TileDone,
    TileFailed,
    WorkerLost,
    WorkerStarted,
)
from ntkdist.words import counted, duration


class GramProgress:
    """Subscriber that shows tiles done, tiles/s, entries/s, time left and workers.

    Use it as a context manager, or call ``close``.

    Args:
        stream: Where to write; None takes standard error, or in a notebook the cell's output.
        every: Seconds between two lines where there is no bar.
        clock: Seconds; for tests.
    """

    def __init__(
        self, stream: TextIO | None = None, *, every: float = 30.0, clock: Any = time.monotonic
    ) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._notebook = stream is None and in_notebook()
        self._every = every
        self._clock = clock
        self._bar: NotebookBar | _TerminalBar | None = None
        self._workers: set[str] = set()
        self._threads = 1
        self._begun: float | None = None
        self._said = 0.0
        self._total = self._first = self._done = self._failed = self._entries = 0

    def __call__(self, event: Any) -> None:
        """Take one event in; those of other stages are ignored."""
        match event:
            case GramStarted():
                self._begin(event)
            case WorkerStarted():
                if self._done == self._first:
                    self._begun = self._clock()  # rates are of computing, not of starting up
                self._workers.add(event.worker)
                self._threads = event.threads
            case WorkerLost():
                self._workers.discard(event.worker)
                self._note(f"worker {event.worker} lost: {event.reason}")
            case TileDone():
                self._done += 1
                self._entries += event.entries
            case TileFailed(final=True):
                self._failed += 1
                self._note(f"tile {event.key} failed for good: {event.error}")
            case Interrupted():
                waiting = len(event.in_flight)
                by = f" by {event.signal}" if event.signal else ""
                self._note(f"stopping{by}: waiting for {counted(waiting, 'tile')} in flight")
            case StageDone():
                self.close()  # its last line stands before what the next stage says
                return
            case _:
                return
        self._show()

    def _begin(self, event: GramStarted) -> None:
        self.close()
        self._total, self._first, self._done = event.total, event.done, event.done
        self._failed = self._entries = 0
        self._workers.clear()
        self._begun = self._clock()
        if self._notebook:
            self._bar = NotebookBar(event.total, self._clock)
        elif self._stream.isatty():
            self._bar = _TerminalBar(self._stream, event.total, event.done)
        else:
            self._line(
                f"{event.executor} on backend {event.backend}, edge {event.edge}:"
                f" {event.done} of {event.total} tiles are stored"
            )

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.show(self._done, self._rates())
        elif self._begun is not None and self._clock() - self._said >= self._every:
            self._line(self._state())

    def _rates(self) -> str:
        seconds = max(1e-9, self._clock() - (self._begun or 0.0))
        new = self._done - self._first
        parts = [f"{new / seconds:.3g} tiles/s", f"{_short(self._entries / seconds)} entries/s"]
        if new and self._done < self._total:
            left = (self._total - self._done - self._failed) * seconds / new
            parts.append(f"{duration(left, whole=True)} left")
        each = f" of {self._threads} threads" if self._threads > 1 else ""
        parts.append(f"{counted(len(self._workers), 'worker')}{each}")
        if self._failed:
            parts.append(f"{self._failed} failed")
        return ", ".join(parts)

    def _state(self) -> str:
        percent = 100 * self._done // max(1, self._total)
        return f"{self._done} of {self._total} tiles ({percent} %), {self._rates()}"

    def _note(self, text: str) -> None:
        if self._bar is not None:
            self._bar.note(f"gram: {text}")
        else:
            self._line(text)

    def _line(self, text: str) -> None:
        self._stream.write(f"gram: {text}\n")
        self._stream.flush()
        self._said = self._clock()

    def close(self) -> None:
        """Say the last state and end the bar; more of the same matrix may not follow."""
        if self._begun is None:
            return
        if self._bar is not None:
            self._show()
            self._bar.close()
            self._bar = None
        elif self._done > self._first or self._failed:
            self._line(self._state())
        self._begun = None

    def __enter__(self) -> GramProgress:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _TerminalBar:
    """The same in a terminal's last line, notes above it."""

    def __init__(self, stream: TextIO, total: int, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rates]}"),
            console=Console(file=stream),
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("gram", total=total, completed=done, rates="")
        self._progress.start()

    def show(self, done: int, text: str) -> None:
        self._progress.update(self._task, completed=done, rates=text)

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self._progress.stop()


def _short(number: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:.3g}"


_PAUSE = 0.25  # seconds between two drawings: each is a message to the browser


def in_notebook() -> bool:
    """Return whether this process is a notebook's kernel, where IPython shows what is displayed."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class NotebookBar:
    """Progress of one matrix in the output of a cell: a bar, and the last notes below it."""

    def __init__(self, total: int, clock: Any = time.monotonic) -> None:
        self._total, self._clock = total, clock
        self._notes: list[str] = []
        self._handle: Any = None
        self._drawn = -_PAUSE
        self._state: tuple[int, str] = (0, "")

    def show(self, done: int, text: str) -> None:
        """Draw the state, unless it was drawn a moment ago."""
        self._state = done, text
        if self._clock() - self._drawn >= _PAUSE:
            self._draw()

    def note(self, text: str) -> None:
        """Add a line below the bar; the latest five stay."""
        self._notes = [*self._notes, text][-5:]
        self._draw()

    def close(self) -> None:
        """Draw the last state, which stays."""
        self._draw()

    def _draw(self) -> None:
        from IPython.display import display

        done, text = self._state
        line = f"gram: {done} of {self._total} tiles, {text}"
        notes = "".join(f"<br>{escape(note)}" for note in self._notes)
        shown = {
            "text/plain": "\n".join([line, *self._notes]),
            "text/html": (
                f'<progress max="{self._total}" value="{done}" aria-label="tiles of the Gram" '
                'style="width:16em;vertical-align:middle;color-scheme:light dark"></progress> '
                f"{escape(line)}{notes}"
            ),
        }
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)
        self._drawn = self._clock()
