"""What happens during a run, as frozen dataclasses; each knows its line on the command line.

Events are plain values: what publishes them imports nothing of those that subscribe. The log keeps
their class names and fields, so that both belong to the format of ``events.jsonl``.

Fields mean the same in every event that has them and does not say otherwise:

- ``stage``, ``step``: what goes on; ``seconds``: wall time since it began, or that it took;
- ``run``: address of the run; ``kind``: ``ntk`` or ``nngp``; ``block_error``, ``loss``: L(Z);
- ``key``: a tile; ``worker``: a worker's name; ``attempt``: how many times the driver has handed
  this tile out, from 1; ``error``, ``reason``: one line;
- ``done`` of ``total`` tiles, networks, values or labelings are finished; ``index`` of ``count``:
  number of a panel or block, from 0; ``fraction``: share of the operations done, 0 to 1;
- ``resumed``: whether it was stored whole by an earlier start; ``gflops``: 10^9 floating point
  operations per second.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import ClassVar

from ntkdist.words import counted, percent

_STEPS = {
    "survey": "factor, reading the matrix",
    "ridge": "factor, trying another ridge",
    "columns": "inverse, columns",
    "rows": "inverse, rows",
    "diagonal": "diagonal of the inverse",
    "solve": "solving with the factor",
}


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events.

    Attributes:
        time: Seconds since 1970, UTC.
        throttled: Whether the command line leaves lines of this event out that come too soon
            after another.
        template: The line, with the names of fields in braces.
    """

    throttled: ClassVar[bool] = False
    template: ClassVar[str] = ""
    time: float = field(default_factory=time.time, compare=False)

    def line(self, elapsed: float = 0.0) -> str | None:
        """Return the event as one line of text; None for one that the command line leaves out."""
        return self._line(elapsed) or None

    def _line(self, elapsed: float) -> str | None:
        return self.template.format(**vars(self))


@dataclass(frozen=True, kw_only=True)
class _ProgressEvent(Event):
    """Base of events that only show progress; records of these hold the time under two names."""

    throttled: ClassVar[bool] = True
    timestamp: float = field(default_factory=time.time, compare=False)
    # not in repr, so that results printed as JSON hold the timestamp alone
    time: float = field(default_factory=time.time, compare=False, repr=False)


# -- a driver and its stages ----------------------------------------------------------------


@dataclass(frozen=True)
class RunStarted(Event):
    """A driver began to work on a run of this fingerprint."""

    template: ClassVar[str] = "run {run} ({fingerprint:.12})"
    run: str
    fingerprint: str = ""


@dataclass(frozen=True)
class DriverWaited(Event):
    """A driver found another one's lease on the run, and watches whether it is still renewed.

    Attributes:
        holder: The other driver.
        seconds: How long it watches at most.
    """

    template: ClassVar[str] = (
        "another driver holds the run ({holder}); checking for {seconds:.0f} s whether it still "
        "renews its lease"
    )
    holder: str
    seconds: float


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage of a run began."""

    template: ClassVar[str] = "{stage} ..."
    stage: str


@dataclass(frozen=True)
class StageDone(Event):
    """A stage of a run is finished.

    Attributes:
        detail: Its outcome in one line.
    """

    template: ClassVar[str] = "{stage} done in {seconds:.1f} s: {detail}"
    stage: str
    seconds: float
    detail: str = ""


@dataclass(frozen=True)
class Interrupted(Event):
    """A signal asked the driver to stop; no more tiles are handed out.

    Attributes:
        signal: Its name, empty if the caller stopped the job itself.
        in_flight: Tiles that are waited for.
    """

    signal: str
    in_flight: tuple[str, ...] = ()


@dataclass(frozen=True)
class SubscriberFailed(Event):
    """A subscriber raised and gets no more events; the job goes on."""

    subscriber: str
    error: str


@dataclass(frozen=True)
class StepContinues(_ProgressEvent):
    """A step without progress of its own is still running."""

    template: ClassVar[str] = "{step}: {seconds:.0f} s so far"
    step: str
    seconds: float


# -- tiles and workers ----------------------------------------------------------------------


@dataclass(frozen=True)
class GramStarted(Event):
    """A driver began to compute the missing tiles of a matrix.

    Attributes:
        edge: Rows and columns of a tile.
        workers: How many workers were asked for; 0 if not known yet.
    """

    total: int
    done: int
    edge: int
    workers: int
    backend: str
    executor: str


@dataclass(frozen=True)
class GramReused(Event):
    """A new run took the Gram of another one, or could not.

    Attributes:
        source: The other run.
        tiles: Tiles that are stored now.
        factors: Names below ``factor/`` of the factors that were taken.
        problem: What could not be taken and why, in words; empty if all was.
    """

    source: str
    tiles: int
    total: int
    factors: tuple[str, ...] = ()
    problem: str = ""

    def _line(self, elapsed: float) -> str:
        if not self.tiles:
            return f"the Gram of {self.source} is not reused: {self.problem}"
        words = f"the Gram of {self.source} is reused: {self.tiles} of {self.total} tiles"
        if self.factors:
            count = len(self.factors)
            words += "; the factor too" if count == 1 else f"; {count} factors too"
        return f"{words}; {self.problem}" if self.problem else words


@dataclass(frozen=True)
class TileStarted(Event):
    """A tile was handed to a worker (which may have another before it)."""

    key: str
    worker: str
    attempt: int


@dataclass(frozen=True)
class TileDone(Event):
    """A tile is computed and stored.

    Attributes:
        seconds: From reading the images to having written the tile; while it is written, the
            worker computes another.
        bytes: Of the tile's entries, all kinds, before compression.
        entries: Kernel entries of the tile (of one kind).
        backend: The arithmetic it was computed with, as in ``cuda-1``.
        digests: Of the tile as stored, in the order of the job's kinds.
        computing: Of the seconds, those until it was computed; 0 if not known.
    """

    key: str
    worker: str
    seconds: float
    bytes: int
    attempt: int
    entries: int = 0
    backend: str = ""
    digests: tuple[str, ...] = ()
    computing: float = 0.0


@dataclass(frozen=True)
class TileFailed(Event):
    """A tile raised, or its worker died with it too often.

    Attributes:
        traceback: Where it was raised.
        final: Whether the tile is given up; otherwise it will be tried again.
    """

    key: str
    worker: str
    attempt: int
    error: str
    traceback: str
    final: bool


@dataclass(frozen=True)
class WorkerStarted(Event):
    """A worker is ready for tiles.

    Attributes:
        pid: Its process.
        host: Its machine.
        threads: How many threads it computes with.
    """

    worker: str
    pid: int = 0
    host: str = ""
    threads: int = 1


@dataclass(frozen=True)
class WorkerLost(Event):
    """A worker died or could not start.

    Attributes:
        keys: The tiles it had; they go back to the queue.
    """

    worker: str
    reason: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class TilesVerified(Event):
    """Some more tiles were read."""

    template: ClassVar[str] = "verify: {kind}, {done} of {total} tiles read"
    throttled: ClassVar[bool] = True
    kind: str
    done: int
    total: int


# -- linear algebra -------------------------------------------------------------------------


@dataclass(frozen=True)
class FactorDevice(Event):
    """Panels of a factor are computed on a GPU from here on, or on the CPU for a reason.

    Attributes:
        device: ``cpu``, ``cuda``, or ``cpu+cuda`` where workers differ.
        reason: The GPU's name, or why none is used.
    """

    template: ClassVar[str] = "factor: on {device} ({reason})"
    device: str
    reason: str


@dataclass(frozen=True)
class PanelStarted(_ProgressEvent):
    """Work on one panel (block column of the factor) begins."""

    index: int
    count: int


@dataclass(frozen=True)
class PanelDone(_ProgressEvent):
    """One panel is stored and recorded as whole.

    Attributes:
        seconds: Wall-clock seconds of the panel (when it was computed, if resumed).
        fraction: Share (0 to 1) of the factorisation's operations done after this panel.
    """

    index: int
    count: int
    seconds: float
    gflops: float
    resumed: bool
    fraction: float = 0.0

    def _line(self, elapsed: float) -> str | None:
        if self.resumed:
            return None
        left = elapsed * (1 - self.fraction) / max(self.fraction, 1e-9)
        return (
            f"factor: panel {self.index + 1} of {self.count}, {self.gflops:.1f} GFLOP/s, "
            f"{left:.0f} s left"
        )


@dataclass(frozen=True)
class RidgeTried(_ProgressEvent):
    """One step of the ridge ladder was tried after a factorisation failed.

    Attributes:
        ridge: The step, relative to the mean of the diagonal.
        passed: Whether the matrix with that ridge is positive definite.
    """

    throttled: ClassVar[bool] = False
    ridge: float
    passed: bool

    def _line(self, elapsed: float) -> str:
        return f"ridge {self.ridge:g}: {'passes' if self.passed else 'fails'}"


@dataclass(frozen=True)
class InverseBlockDone(_ProgressEvent):
    """One block of the inverse, or of its diagonal, is stored and recorded as whole.

    Attributes:
        stage: ``"columns"`` (block columns of the triangle; only if the factor has several
            panels), ``"rows"`` (the stored rows) or ``"diagonal"`` (if the diagonal alone is
            computed).
        seconds: Wall-clock seconds since the stage's previous block (0 if resumed).
    """

    stage: str
    index: int
    count: int
    seconds: float
    resumed: bool

    def _line(self, elapsed: float) -> str | None:
        if self.resumed:
            return None
        return f"{_STEPS.get(self.stage, self.stage)}: block {self.index + 1} of {self.count}"


@dataclass(frozen=True)
class LinalgProgress(_ProgressEvent):
    """Progress of a computation, sent every few seconds while it runs.

    Attributes:
        stage: ``"survey"`` (the pass over the matrix before its first panel), ``"factor"``,
            ``"ridge"`` (the ladder after a failure), ``"append"``, ``"columns"``, ``"rows"``,
            ``"inverse"`` (one LAPACK call), ``"diagonal"`` or ``"solve"``.
        fraction: Share (0 to 1) of the stage's operations that are done; None before the first
            count, as during one LAPACK call.
    """

    stage: str
    fraction: float | None
    seconds: float

    def _line(self, elapsed: float) -> str:
        done = "" if self.fraction is None else f"{percent(self.fraction, 0)}, "
        return f"{_STEPS.get(self.stage, self.stage)}: {done}{self.seconds:.0f} s so far"


@dataclass(frozen=True)
class BandDone(_ProgressEvent):
    """Rows appended to a factor are stored and recorded as whole.

    Attributes:
        index: Number of the appended band, from 0.
        rows: Rows of the band.
        fraction: Share (0 to 1) of the rows to append that are done.
    """

    index: int
    rows: int
    n: int
    seconds: float
    gflops: float
    fraction: float

    def _line(self, elapsed: float) -> str:
        return f"append: {self.n} rows, {percent(self.fraction, 0)}, {self.gflops:.1f} GFLOP/s"


@dataclass(frozen=True)
class SketchDone(_ProgressEvent):
    """The preconditioner of conjugate gradients is built: its rank and extreme eigenvalues.

    Attributes:
        seconds: Wall-clock seconds (0 if resumed).
    """

    template: ClassVar[str] = "preconditioner of rank {rank} in {seconds:.1f} s"
    throttled: ClassVar[bool] = False
    rank: int
    largest: float
    smallest: float
    seconds: float


@dataclass(frozen=True)
class IterationDone(_ProgressEvent):
    """One step of an iterative method is done: one pass over the matrix.

    Attributes:
        method: ``"cg"`` or ``"eigen"``.
        index: Step number, from 1.
        residual: The largest relative residual after it (NaN for ``"eigen"``).
        tolerance: The residual at which the method stops.
    """

    template: ClassVar[str] = (
        "{method}: pass {index}, residual {residual:.2e}, until {tolerance:.0e}, "
        "{seconds:.1f} s a pass"
    )
    method: str
    index: int
    residual: float
    tolerance: float
    seconds: float


# -- labels ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class FlipsMade(_ProgressEvent):
    """How far a refurbishment is.

    Attributes:
        flips: Flips made so far.
        rate: Flips a second since the last event.
    """

    flips: int
    loss: float
    rate: float

    def _line(self, elapsed: float) -> str:
        return (
            f"labels: {counted(self.flips, 'flip')}, {self.rate:.0f} a second, L(Z) {self.loss:.5g}"
        )


@dataclass(frozen=True)
class PosteriorRound(_ProgressEvent):
    """One round of the posterior is done.

    Attributes:
        most: The most rounds there will be; it ends earlier where probabilities settle.
        seconds: Wall-clock seconds since the last round.
    """

    template: ClassVar[str] = "labels: round {round} of at most {most}, {seconds:.1f} s"
    round: int
    most: int
    seconds: float


# -- analyses -------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelsAsked(_ProgressEvent):
    """A model was trained on the labels that a criterion has asked for so far.

    Attributes:
        criterion: That chooses the images.
        seed: Of the split and the first labels.
        number: Of the query, 0 for the first labels.
        labelled: Images labelled.
        accuracy: On the images held out.
    """

    criterion: str
    seed: int
    number: int
    labelled: int
    accuracy: float

    def _line(self, elapsed: float) -> str:
        right = percent(self.accuracy, 2)
        return f"{self.criterion}, seed {self.seed}: {self.labelled} images labelled, {right} right"


@dataclass(frozen=True)
class WidthMeasured(_ProgressEvent):
    """One network of a sweep over widths was measured.

    Attributes:
        seed: Of its parameters.
        kernel_gap: Relative distance of its pNTK from the infinite kernel.
    """

    width: int
    seed: int
    done: int
    total: int
    kernel_gap: float

    def _line(self, elapsed: float) -> str:
        done = f"width {self.width}: network {self.done} of {self.total}"
        return f"{done}, its kernel {percent(self.kernel_gap)} from the infinite one"


@dataclass(frozen=True)
class VariantTried(_ProgressEvent):
    """One kernel, tried on the images held out.

    Attributes:
        variant: ``plain``, or a variant of the label-aware kernel.
        multiplier: r, chosen on the training images; 0 is the plain kernel again.
        ridge: What the plain kernel needs to be positive definite, relative to its mean diagonal.
        definite: Whether this kernel is positive definite.
        validated: Accuracy in cross-validation on the training images.
        accuracy: Share of the held-out images on the right side.
        elasticity: Local elasticity over the training images, ½ where classes do not matter; None
            where it is not defined.
    """

    throttled: ClassVar[bool] = False
    variant: str
    multiplier: float
    ridge: float
    definite: bool
    validated: float
    accuracy: float
    elasticity: float | None

    def _line(self, elapsed: float) -> str:
        right = percent(self.accuracy, 2)
        return f"{self.variant}: {right} right, multiplier {self.multiplier:g}"


@dataclass(frozen=True)
class DynamicsProgress(Event):
    """How far a step of the analysis of training dynamics is."""

    throttled: ClassVar[bool] = True
    stage: str
    fraction: float
    seconds: float

    def _line(self, elapsed: float) -> str:
        return f"{self.stage}: {percent(self.fraction, 0)}"


@dataclass(frozen=True)
class LabelingScored(Event):
    """L(Z) of one labeling was computed."""

    template: ClassVar[str] = "labelings: {done} of {total}, {name}: L(Z) {block_error:.5g}"
    name: str
    block_error: float
    done: int
    total: int


@dataclass(frozen=True)
class ValueMeasured(Event):
    """The kernel with one value of the setting was measured.

    Attributes:
        over: The setting.
        value: Its value.
        accuracy: Leave-one-out accuracy.
        stored: Whether an earlier sweep had stored it.
    """

    over: str
    value: str
    accuracy: float
    stored: bool
    done: int
    total: int

    def _line(self, elapsed: float) -> str:
        kept = " (as stored)" if self.stored else ""
        done = f"{self.done} of {self.total}"
        return f"{self.over} {self.value}: {done}, {percent(self.accuracy, 2)} right{kept}"
