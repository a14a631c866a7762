"""What a refurbishment did: the labels it ended with and every flip on the way."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ntkdist.display.html import html_table
from ntkdist.labels.noise import NoiseModel
from ntkdist.labels.posterior import Posterior
from ntkdist.labels.reliability import Reliability

if TYPE_CHECKING:
    import pandas as pd


_SHOWN = 5  # flips in a notebook


@dataclass(frozen=True)
class Flip:
    """One changed label.

    ``posterior`` decides all labels at once: its flips are counted from the surest, and
    ``delta_loss`` and ``loss`` are those of each flip alone, made in the given labels.

    Attributes:
        step: Number of the step, from 1.
        index: Which image.
        old: Its class before.
        new: Its class after.
        delta_loss: L(Z) after minus before.
        loss: L(Z) after.
    """

    step: int
    index: int
    old: int
    new: int
    delta_loss: float
    loss: float


@dataclass(frozen=True, eq=False)
class RefurbishResult:
    """The outcome of ``refurbish``.

    Attributes:
        labels: (N,) int64, the labels after the last step.
        history: Every flip in order; for ``posterior`` the changed labels, the surest first.
        losses: (steps+1,) float64, L(Z) before the first and after each step; for ``posterior``
            (2,), before and after all changes.
        G: (N, K) float64, H⁻¹Y of the labels after the last step.
        noise: The noise model, estimated where it was not given.
        posterior: What all labels together say about each image.
        reliability: How far that can be trusted.
        flagged: (N,) bool, labels that look wrong; none where labels cannot be judged.
        abstained: (N,) bool, no class is as probable as ``confidence`` asks.
        left_out: Terms of L(Z) left out as 0/0 at the start or at the end, as messages.
        stopped: Why it ended, in words.
    """

    labels: NDArray[np.int64]
    history: tuple[Flip, ...]
    losses: NDArray[np.float64]
    G: NDArray[np.float64]
    noise: NoiseModel
    posterior: Posterior
    reliability: Reliability
    flagged: NDArray[np.bool_]
    abstained: NDArray[np.bool_]
    left_out: tuple[str, ...]
    stopped: str

    def __repr__(self) -> str:
        n, num_classes = self.G.shape
        return (
            f"<RefurbishResult: {len(self.history)} flips of {n} labels in {num_classes} classes, "
            f"L(Z) {self.losses[0]:.5g} -> {self.losses[-1]:.5g}; {self.stopped}>"
        )

    def _repr_html_(self) -> str:
        n, num_classes = self.G.shape
        flips = self.history[:_SHOWN]
        said = f"{len(self.history):,}" + (": " if flips else "")
        said += ", ".join(f"image {one.index}: {one.old} → {one.new}" for one in flips)
        if (more := len(self.history) - len(flips)) > 0:
            said += f" and {more:,} more (to_dataframe())"
        low, high = self.noise.interval
        rows = [
            ("Labels", f"{n:,} in {num_classes} classes"),
            ("Flips", said),
            ("L(Z)", f"{self.losses[0]:.5g} → {self.losses[-1]:.5g} (lower is cleaner)"),
            ("Noise rate", f"{self.noise.rate:.1%} ({low:.1%} to {high:.1%})"),
            ("Verdict", escape(f"{self.reliability.verdict}: {self.reliability.reason}")),
            ("Abstained", f"{int(self.abstained.sum()):,}"),
            ("Ended", escape(self.stopped)),
        ]
        return html_table(rows)

    def to_pred_probs(self) -> NDArray[np.float64]:
        """Return out-of-sample class probabilities, as cleanlab and its like take them.

        Returns:
            (N, K) float64, rows sum to 1: leave-one-out predictions, so that an image's own
            label has no part in its row.
        """
        return self.posterior.pred_probs.copy()

    def to_dataframe(self) -> pd.DataFrame:
        """Return the history as a table, one row a flip: step, index, old, new, delta_loss, loss.

        Returns:
            The table; empty, with the same columns, if nothing was flipped.
        """
        import pandas as pd

        columns = list(Flip.__dataclass_fields__)
        kinds = {name: "float64" if "loss" in name else "int64" for name in columns}
        return pd.DataFrame([asdict(flip) for flip in self.history], columns=columns).astype(kinds)
