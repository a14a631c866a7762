"""What the command line prints, and where: results, progress, events, tables, errors."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

from ntkdist.errors import InputError
from ntkdist.words import columns

_EVERY = 9.0  # seconds; what goes on is told every five, and so written every ten
_PARTS = {
    "survey": "factor, looking through the matrix",
    "ridge": "factor, trying another ridge",
    "columns": "inverse, columns",
    "rows": "inverse, rows",
    "diagonal": "diagonal of the inverse",
    "solve": "solving with the factor",
}
_LONGEST = 60  # characters of a field that --verbose shows

Subscriber = Callable[[Any], None]


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


@dataclass(frozen=True)
class StageTime:
    """A stage that was finished.

    Attributes:
        stage: Its name.
        seconds: Wall time.
        detail: What was done, in words.
    """

    stage: str
    seconds: float
    detail: str


@dataclass
class Watch:
    """What listens to the events of a command.

    Attributes:
        stages: Those that were finished, in order.
        subscribers: To be told every event.
    """

    stages: list[StageTime] = field(default_factory=list)
    subscribers: list[Subscriber] = field(init=False)

    def __post_init__(self) -> None:
        self.subscribers = [self._keep]

    def _keep(self, event: Any) -> None:
        if type(event).__name__ == "StageDone":
            self.stages.append(StageTime(event.stage, event.seconds, event.detail))


class EventLines:
    """Subscriber that writes every event with its fields, and the seconds since the first.

    Args:
        stream: Where to write; standard error if None.
    """

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
    """Subscriber that writes one line for each stage, and panels with their rate.

    Args:
        stream: Where to write; standard error if None.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._said = 0.0
        self._began = 0.0

    def __call__(self, event: Any) -> None:
        """Take one event in; those of tiles are left to the Gram's own progress."""
        name = type(event).__name__
        if name == "RunStarted":
            self._line(f"run {event.run} ({event.fingerprint[:12]})")
        elif name == "DriverWaited":
            self._line(
                f"the run was worked on by {event.holder}; watching for {event.seconds:.0f} s "
                "whether it still is"
            )
        elif name == "GramReused":
            self._line(str(event))
        elif name == "StageStarted":
            self._began = time.monotonic()
            self._line(f"{event.stage} ...")
        elif name == "StageDone":
            self._line(f"{event.stage} done in {event.seconds:.1f} s: {event.detail}")
        elif name == "PanelDone" and not event.resumed:
            elapsed = time.monotonic() - self._began
            left = elapsed * (1 - event.fraction) / max(event.fraction, 1e-9)
            self._now_and_then(
                f"factor: panel {event.index + 1} of {event.count}, {event.gflops:.1f} GFLOP/s, "
                f"{left:.0f} s left"
            )
        elif name == "InverseBlockDone" and not event.resumed:
            what = _PARTS.get(event.stage, event.stage)
            self._now_and_then(f"{what}: block {event.index + 1} of {event.count}")
        elif name == "LinalgProgress":
            what = _PARTS.get(event.stage, event.stage)
            done = "" if event.fraction is None else f"{100 * event.fraction:.0f} %, "
            self._now_and_then(f"{what}: {done}{event.seconds:.0f} s so far")
        elif name == "StepContinues":
            self._now_and_then(f"{event.step}: {event.seconds:.0f} s so far")
        elif name == "PosteriorRound":
            self._now_and_then(
                f"labels: round {event.round} of at most {event.most}, {event.seconds:.1f} s"
            )
        elif name == "TilesVerified":
            self._now_and_then(f"verify: {event.kind}, {event.done} of {event.total} tiles read")
        elif name == "BandDone":
            self._now_and_then(
                f"append: {event.n} rows, {100 * event.fraction:.0f} %, {event.gflops:.1f} GFLOP/s"
            )
        elif name == "SketchDone":
            self._line(f"preconditioner of rank {event.rank} in {event.seconds:.1f} s")
        elif name == "IterationDone":
            self._now_and_then(
                f"{event.method}: pass {event.index}, residual {event.residual:.2e}, "
                f"until {event.tolerance:.0e}, {event.seconds:.1f} s a pass"
            )
        elif name == "FlipsMade":
            flips = "1 flip" if event.flips == 1 else f"{event.flips} flips"
            self._now_and_then(f"labels: {flips}, {event.rate:.0f} a second, L(Z) {event.loss:.5g}")
        elif name == "LabelsAsked":
            self._now_and_then(
                f"{event.criterion}, seed {event.seed}: {event.labelled} images labelled, "
                f"{event.accuracy:.2%} right"
            )
        elif name == "WidthMeasured":
            self._now_and_then(
                f"width {event.width}: network {event.done} of {event.total}, its kernel "
                f"{event.kernel_gap:.1%} from the infinite one"
            )
        elif name == "VariantTried":
            self._line(
                f"{event.variant}: {event.accuracy:.2%} right, multiplier {event.multiplier:g}"
            )
        elif name == "DynamicsProgress":
            self._now_and_then(f"{event.stage}: {100 * event.fraction:.0f} %")
        elif name == "RidgeTried":
            self._line(f"ridge {event.ridge:g}: {'passes' if event.passed else 'fails'}")
        elif name == "LabelingScored":
            self._line(
                f"labelings: {event.done} of {event.total}, {event.name}: "
                f"L(Z) {event.block_error:.5g}"
            )
        elif name == "ValueMeasured":
            kept = " (as stored)" if event.stored else ""
            self._line(
                f"{event.over} {event.value}: {event.done} of {event.total}, "
                f"{event.accuracy:.2%} right{kept}"
            )

    def _now_and_then(self, text: str) -> None:
        if time.monotonic() - self._said >= _EVERY:
            self._said = time.monotonic()
            self._line(text)

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()
