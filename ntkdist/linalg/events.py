"""Events of the linear algebra.

A listener is any callable of one argument. It is called in the thread that called
:func:`ntkdist.linalg.factorize` or another solver, after the reported part is stored
(``LinalgProgress`` reports unfinished work). An exception that it raises stops the computation,
which can be resumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PanelStarted:
    """Work on one panel (block column of the factor) begins.

    Args:
        index: Panel number, from 0.
        count: Number of panels of the factor.
        timestamp: Seconds since the epoch.
    """

    index: int
    count: int
    timestamp: float = field(default_factory=time.time, compare=False)


@dataclass(frozen=True)
class PanelDone:
    """One panel is stored and recorded as whole.

    Args:
        index: Panel number, from 0.
        count: Number of panels of the factor.
        seconds: Wall-clock seconds of the panel (when it was computed, if resumed).
        gflops: Rate in 10^9 floating point operations per second.
        resumed: True for a whole panel of an earlier start.
        fraction: Share (0 to 1) of the factorisation's operations done after this panel.
        timestamp: Seconds since the epoch.
    """

    index: int
    count: int
    seconds: float
    gflops: float
    resumed: bool
    fraction: float = 0.0
    timestamp: float = field(default_factory=time.time, compare=False)


@dataclass(frozen=True)
class RidgeTried:
    """One step of the ridge ladder was tried after a factorisation failed.

    Args:
        ridge: The step, relative to the mean of the diagonal.
        passed: Whether the matrix with that ridge is positive definite.
        timestamp: Seconds since the epoch.
    """

    ridge: float
    passed: bool
    timestamp: float = field(default_factory=time.time, compare=False)


@dataclass(frozen=True)
class InverseBlockDone:
    """One block of the inverse, or of its diagonal, is stored and recorded as whole.

    Args:
        stage: ``"columns"`` (block columns of the triangle; only if the factor has several
            panels), ``"rows"`` (the stored rows) or ``"diagonal"`` (if the diagonal alone is
            computed).
        index: Block number within the stage, from 0.
        count: Number of blocks of the stage.
        seconds: Wall-clock seconds since the stage's previous block (0 if resumed).
        resumed: True for a whole block of an earlier start.
        timestamp: Seconds since the epoch.
    """

    stage: str
    index: int
    count: int
    seconds: float
    resumed: bool
    timestamp: float = field(default_factory=time.time, compare=False)


@dataclass(frozen=True)
class LinalgProgress:
    """Progress of a computation, sent every few seconds while it runs.

    Args:
        stage: ``"survey"`` (the pass over the matrix before its first panel), ``"factor"``,
            ``"ridge"`` (the ladder after a failure), ``"append"``, ``"columns"``, ``"rows"``,
            ``"inverse"`` (one LAPACK call), ``"diagonal"`` or ``"solve"``.
        fraction: Share (0 to 1) of the stage's operations that are done; None before the first
            count, as during one LAPACK call.
        seconds: Wall-clock seconds since the stage began.
        timestamp: Seconds since the epoch.
    """

    stage: str
    fraction: float | None
    seconds: float
    timestamp: float = field(default_factory=time.time, compare=False)


@dataclass(frozen=True)
class BandDone:
    """Rows appended to a factor are stored and recorded as whole.

    Args:
        index: Number of the appended band, from 0.
        rows: Rows of the band.
        n: Rows of the factor now.
        seconds: Wall-clock seconds of the band.
        gflops: Rate in 10^9 floating point operations per second.
        fraction: Share (0 to 1) of the rows to append that are done.
        timestamp: Seconds since the epoch.
    """

    index: int
    rows: int
    n: int
    seconds: float
    gflops: float
    fraction: float
    timestamp: float = field(default_factory=time.time, compare=False)


@dataclass(frozen=True)
class SketchDone:
    """The preconditioner of conjugate gradients is built.

    Args:
        rank: Number of its eigenpairs.
        largest: Its largest eigenvalue.
        smallest: Its smallest eigenvalue.
        seconds: Wall-clock seconds (0 if resumed).
        timestamp: Seconds since the epoch.
    """

    rank: int
    largest: float
    smallest: float
    seconds: float
    timestamp: float = field(default_factory=time.time, compare=False)


@dataclass(frozen=True)
class IterationDone:
    """One step of an iterative method is done: one pass over the matrix.

    Args:
        method: ``"cg"`` or ``"eigen"``.
        index: Step number, from 1.
        residual: The largest relative residual after it (NaN for ``"eigen"``).
        tolerance: The residual at which the method stops.
        seconds: Wall-clock seconds of the step.
        timestamp: Seconds since the epoch.
    """

    method: str
    index: int
    residual: float
    tolerance: float
    seconds: float
    timestamp: float = field(default_factory=time.time, compare=False)


Event = (
    PanelStarted
    | PanelDone
    | RidgeTried
    | InverseBlockDone
    | LinalgProgress
    | BandDone
    | SketchDone
    | IterationDone
)
Listener = Callable[[Event], object]
