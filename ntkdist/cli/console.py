"""What the command line prints, and where: results, progress, events, tables, errors."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from ntkdist.errors import InputError
from ntkdist.words import columns

if TYPE_CHECKING:
    from ntkdist.events.bus import Subscriber

_EVERY = 9.0  # seconds; progress is published every five and so written every ten
_LONGEST = 60  # characters of a field that --verbose shows


@dataclass(frozen=True)
class Table:
    """Rows under a head, drawn with lines on a terminal and as plain columns elsewhere.

    Attributes:
        head: Name of each column.
        rows: As many cells each.
        right: Places of the columns whose cells line up at their right ends.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[int, ...] = ()

    def lines(self) -> list[str]:
        """Return plain lines in which the cells of a column line up."""
        return columns([self.head, *self.rows], self.right)

    def draw(self, stream: TextIO) -> None:
        """Write the table for a person at a terminal; NO_COLOR leaves colours out."""
        from rich.console import Console
        from rich.table import Table as Drawn
        from rich.text import Text

        drawn = Drawn()
        for place, name in enumerate(self.head):
            drawn.add_column(
                name, justify="right" if place in self.right else "left", overflow="fold"
            )
        for row in self.rows:
            drawn.add_row(*(Text(cell) for cell in row))
        Console(file=stream).print(drawn)


@dataclass(frozen=True)
class Terminal:
    """How a command is to speak.

    Attributes:
        json: One JSON object on standard output, and nothing else there.
        quiet: Errors and the result only.
        verbose: Every event with its time, and tracebacks of failures.
        stream: Where results go: standard output as it is when this is made, whatever takes its
            place later.

    Raises:
        InputError: For quiet and verbose together.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    stream: TextIO = field(default_factory=lambda: sys.stdout, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.quiet and self.verbose:
            raise InputError("--quiet and --verbose contradict each other; give one of them")

    def show(self, *parts: str | Table) -> None:
        """Write a result to standard output; nothing under ``json``."""
        if self.json:
            return
        for part in parts:
            if isinstance(part, str):
                self.stream.write(part + "\n")
            elif self.stream.isatty():
                part.draw(self.stream)
            else:
                self.stream.write("\n".join(part.lines()) + "\n")
        self.stream.flush()

    def note(self, text: str) -> None:
        """Write a line about what goes on to standard error, unless ``quiet``."""
        if not self.quiet:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def now_and_then(self) -> Callable[[str], None]:
        """Return what writes such a line, and leaves out those that come too soon."""
        said = time.monotonic()

        def note(text: str) -> None:
            nonlocal said
            if time.monotonic() - said >= _EVERY:
                said = time.monotonic()
                self.note(text)

        return note

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """Follow what is done; yields the subscribers to hand to it, and the stages' times."""
        from ntkdist.events.progress import GramProgress

        with GramProgress() as progress:
            watch = Watch()
            if not self.quiet:
                watch.subscribers += [progress, StageLines()]
            if self.verbose:
                watch.subscribers.append(EventLines())
            yield watch


@dataclass
class Watch:
    """What listens to the events of a command, and keeps its finished stages in order."""

    stages: list[dict[str, Any]] = field(default_factory=list)
    subscribers: list[Subscriber] = field(init=False)

    def __post_init__(self) -> None:
        self.subscribers = [self._keep]

    def _keep(self, event: Any) -> None:
        from ntkdist.events.types import StageDone  # not at the top: --help needs none of it

        if isinstance(event, StageDone):
            fields = ("stage", "seconds", "detail")
            self.stages.append({name: getattr(event, name) for name in fields})


class EventLines:
    """Subscriber that writes every event with its fields, and the seconds since the first."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._began = time.monotonic()

    def __call__(self, event: Any) -> None:
        """Take one event in."""
        fields = [
            f"{one.name}={str(getattr(event, one.name))[:_LONGEST]!r}"
            for one in dataclasses.fields(event)
            if one.name not in ("time", "timestamp")
        ]
        passed = time.monotonic() - self._began
        self._stream.write(f"{passed:9.3f} s  {type(event).__name__} {' '.join(fields)}\n")
        self._stream.flush()


class StageLines:
    """Subscriber that writes the lines of events, and leaves out those that come too soon."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._written = 0.0
        self._began = 0.0

    def __call__(self, event: Any) -> None:
        """Take one event in; those of tiles have no line, ``GramProgress`` shows them."""
        from ntkdist.events.types import Event, StageStarted

        now = time.monotonic()
        if isinstance(event, StageStarted):
            self._began = now
        line = event.line(now - self._began) if isinstance(event, Event) else None
        if line is None or (event.throttled and now - self._written < _EVERY):
            return
        if event.throttled:
            self._written = now
        self._stream.write(line + "\n")
        self._stream.flush()
