"""What the command line prints while a run goes on: one line a stage, and factor progress."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

_EVERY = 10.0


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
            self._now_and_then(f"inverse: {event.stage} {event.index + 1} of {event.count}")
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
            self._now_and_then(
                f"labels: {event.flips} flips, {event.rate:.0f} a second, L(Z) {event.loss:.5g}"
            )
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

    def _now_and_then(self, text: str) -> None:
        if time.monotonic() - self._said >= _EVERY:
            self._said = time.monotonic()
            self._line(text)

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()
