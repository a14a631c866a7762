"""What the linear algebra says while it works: plain values, delivered to callables.

A subscriber is any callable of one argument. It is called from the thread that called
:func:`ntkdist.linalg.factorize` or :meth:`ntkdist.linalg.CholeskyFactor.inverse`, after the
thing reported is safely stored (``LinalgProgress`` reports what is still at work); an exception it
raises stops the work there, resumable.
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
        count: How many panels the factor has.
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
        count: How many panels the factor has.
        seconds: Wall-clock seconds the panel took (when it was computed, if resumed).
        gflops: Its rate in 10^9 floating point operations per second.
        resumed: True where a panel of an earlier start was found whole and kept.
        fraction: Share (0 to 1) of the factorisation's operations done after this panel,
            for progress bars and the remaining time.
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
    """One step of the ladder was tried after a factorisation failed.

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
        stage: ``"columns"`` (the triangle being computed; only where the factor has several
            panels), ``"rows"`` (the rows that readers see) or ``"diagonal"`` (where the
            diagonal alone is computed).
        index: Block number within the stage, from 0.
        count: How many blocks the stage has.
        seconds: Wall-clock seconds since the stage's previous block (0 where resumed).
        resumed: True where a block of an earlier start was found whole and kept.
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
    """How far a computation is; told every few seconds while it runs.

    Args:
        stage: ``"survey"`` (the pass over the matrix before its first panel), ``"factor"``,
            ``"ridge"`` (the ladder after a failure), ``"append"``, ``"columns"``, ``"rows"``,
            ``"inverse"`` (where one LAPACK call computes it), ``"diagonal"`` or ``"solve"``.
        fraction: Share (0 to 1) of the stage's operations that are done; None where nothing
            was counted yet, as during one LAPACK call.
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
        index: Band number among those appended, from 0.
        rows: How many rows it has.
        n: Rows of the factor now.
        seconds: Wall-clock seconds the band took.
        gflops: Its rate in 10^9 floating point operations per second.
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
        rank: How many eigenpairs it holds.
        largest: The largest eigenvalue found.
        smallest: The smallest one.
        seconds: Wall-clock seconds it took (0 where resumed).
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
        residual: The largest relative residual after it (for ``"eigen"``: NaN, not known yet).
        tolerance: Where it stops.
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
