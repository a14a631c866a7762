"""One setting of a run's network over its values: the kernels, and how they predict."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ntkdist import storage
from ntkdist.errors import InputError
from ntkdist.events.types import ValueMeasured
from ntkdist.pipeline.stages import Pipeline

if TYPE_CHECKING:
    from ntkdist.learning.sweep import SweepRow

MOST_IMAGES = 4000  # (N, N) float64 in memory, and its eigenvalues


@dataclass(frozen=True)
class Swept:
    """What a sweep found.

    Attributes:
        over: What was changed.
        images: How many of the run's images it was measured on.
        rows: One for each value, in order.
        place: Where the picture is.
    """

    over: str
    images: int
    rows: tuple[SweepRow, ...]
    place: str


def sweep(pipeline: Pipeline, over: str, values: Sequence[str] = (), images: int = 400) -> Swept:
    """Measure the kernels of a run's network with one setting changed, on some of its images.

    Every row is kept in the run as soon as it is there, so that a sweep that is stopped,
    or asked for again with more values, computes only what is missing.

    Args:
        pipeline: Of a run.
        over: ``depth``, ``W_std``, ``b_std``, ``nonlinearity`` or ``width``.
        values: Some values; none takes those of ``ntkdist.learning.sweep.SWEPT``.
        images: How many of the run's images, balanced over its given labels; all if it has fewer.

    Returns:
        The rows.

    Raises:
        InputError: For settings that do not fit.
    """
    from ntkdist.analyses.sweep_plot import draw_sweep
    from ntkdist.data import select
    from ntkdist.learning.sweep import SweepRow, measure, variants

    run, settings = pipeline.run, pipeline.config.gram
    if not 10 <= images <= MOST_IMAGES:
        raise InputError(f"--images {images} must be from 10 to {MOST_IMAGES}")
    wanted = variants(pipeline.config.architecture, over, values)
    labels = run.read("inputs", "labels")
    chosen = select(labels, min(images, len(labels)), "balanced", 0)
    x, y = run.read("inputs", "images")[chosen], labels[chosen]
    backend = run.manifest.backend if settings.backend == "auto" else settings.backend
    found: list[SweepRow] = []
    with pipeline.stage(f"sweep over {over}") as detail:
        kept = run.attributes("sweep").get("rows", {})
        computed = 0
        for variant in wanted:
            pipeline.check_stop()
            parts = [run.fingerprint, str(variant.architecture), variant.width, settings.dtype,
                     chosen.tolist(), hashlib.sha256(y.tobytes()).hexdigest()]  # fmt: skip
            key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
            stored = key in kept
            if not stored:
                # a run's own backend may not cover every variant
                row = measure(
                    variant, x, y, run.num_classes, backend=_covering(backend, variant, x),
                    dtype=settings.dtype,
                )  # fmt: skip
                kept[key] = {k: v if v != math.inf else None for k, v in asdict(row).items()}
                run.write_attributes("sweep", {"rows": kept})
                computed += 1
            figures: dict[str, Any] = {
                k: math.inf if v is None else v for k, v in kept[key].items()
            }
            row = SweepRow(**{**figures, "value": variant.value})
            found.append(row)
            done = ValueMeasured(over, row.value, row.accuracy, stored, len(found), len(wanted))
            pipeline.forward(done)
        detail.append(f"{computed} of {len(wanted)} computed, {len(chosen)} images")
    shown = [{k: v if v != math.inf else None for k, v in asdict(row).items()} for row in found]
    run.write_attributes(f"sweep/{over}", {"images": len(chosen), "rows": shown})
    place = run.address(f"sweep-{over}.svg")
    with storage.writing(place) as path:
        draw_sweep(
            path,
            over=over,
            values=[row.value for row in found],
            measures={
                "leave-one-out accuracy in %": np.array([100 * r.accuracy for r in found]),
                "mean cosine of two images": np.array([r.cosine for r in found]),
                "condition number": np.array([r.condition for r in found]),
                "effective rank": np.array([r.effective_rank for r in found]),
            },
        )
    return Swept(over, len(chosen), tuple(found), place)


def _covering(backend: str, variant: Any, images: np.ndarray) -> str:
    from ntkdist.kernels.backend import coverage

    if backend in ("cpu", "cuda") and coverage(backend, variant.architecture, images.shape[1:]):
        return "auto"
    return backend


def describe_sweep(found: Swept) -> str:
    """Return a table, a line a value."""
    head = (found.over, "accuracy", "log-loss", "ridge", "cosine", "condition", "rank", "scale")
    rows = [
        (
            row.value,
            f"{row.accuracy:.2%}",
            f"{row.log_loss:.3f}",
            f"{row.ridge:g}",
            f"{row.cosine:.4f}",
            f"{row.condition:.2e}",
            f"{row.effective_rank:.2f}",
            f"{row.scale:.3g}",
        )
        for row in found.rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
    if len(found.rows) > 1:
        most = max(row.accuracy for row in found.rows)
        tied = [row.value for row in found.rows if row.accuracy == most]
        lines.append(f"most accurate: {found.over} {' and '.join(tied)}, {most:.2%}")
    if len(found.rows) > 1 and np.ptp([row.cosine for row in found.rows]) < 1e-6:
        lines.append(
            f"these kernels differ by a factor alone: without biases, {found.over} only scales the "
            "outputs of ReLU networks; give layers with b_std, or Erf"
        )
    lines.append(
        f"leave-one-out accuracy on {found.images} images at the ridge that is best by it; cosine: "
        "mean over pairs of images, 1 where the kernel tells none apart; rank: effective; scale: "
        f"mean of the kernel's diagonal; picture {found.place}"
    )
    return "\n".join(lines)
