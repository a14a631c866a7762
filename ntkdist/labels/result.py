"""The result of a refurbishment: its labels and every flip."""

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
from ntkdist.words import percent

if TYPE_CHECKING:
    import pandas as pd


_SHOWN = 5  # flips in a notebook


@dataclass(frozen=True)
class Flip:
    """One changed label.

    ``posterior`` changes all labels at once: its flips are ordered by probability, and
    ``delta_loss`` and ``loss`` are those of each flip alone, made in the given labels.

    Attributes:
        step: Number of the step, from 1.
        index: Index of the image.
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
    """The result of ``refurbish``.

    Attributes:
        labels: (N,) int64, the labels after the last step.
        history: Every flip in order; for ``posterior`` the most probable change first.
        losses: (steps+1,) float64, L(Z) before the first and after each step; for ``posterior``
            (2,), before and after all changes.
        G: (N, K) float64, H⁻¹Y of the labels after the last step.
        noise: The noise model, estimated if no rate was given.
        posterior: Class probabilities of each image given all labels.
        reliability: How far these can be trusted.
        flagged: (N,) bool, labels that look wrong; none if the verdict is ``cannot judge``.
        abstained: (N,) bool, images for which no class has a probability of ``confidence``.
        left_out: Terms of L(Z) left out as 0/0 at the start or at the end, as messages.
        stopped: Why no more labels were changed, in words.
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
        shown = f"{len(self.history):,}" + (": " if flips else "")
        shown += ", ".join(f"image {one.index}: {one.old} → {one.new}" for one in flips)
        if (more := len(self.history) - len(flips)) > 0:
            shown += f" and {more:,} more (to_dataframe())"
        low, high = map(percent, self.noise.interval)
        rows = [
            ("Labels", f"{n:,} in {num_classes} classes"),
            ("Flips", shown),
            ("L(Z)", f"{self.losses[0]:.5g} → {self.losses[-1]:.5g} (lower is cleaner)"),
            ("Noise rate", f"{percent(self.noise.rate)} ({low} to {high})"),
            ("Verdict", escape(f"{self.reliability.verdict}: {self.reliability.reason}")),
            ("Abstained", f"{int(self.abstained.sum()):,}"),
            ("Stopped", escape(self.stopped)),
        ]
        return html_table(rows)

    def to_pred_probs(self) -> NDArray[np.float64]:
        """Return out-of-sample class probabilities, as cleanlab and similar packages take them.

        Returns:
            (N, K) float64, rows sum to 1: leave-one-out predictions, which do not use the
            likelihood of an image's own label.
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
