"""One setting of a run's network over its values: the kernels, and how they predict."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage, words
from ntkdist.analyses import Analysis, ReportSection, all_of, numbered, stored
from ntkdist.display.svg import FONT_SIZE, inline_svg, new_figure, svg_file
from ntkdist.display.words import counted, percent
from ntkdist.errors import InputError
from ntkdist.events.types import ValueMeasured
from ntkdist.pipeline.stages import Pipeline
from ntkdist.runs.run import Run
from ntkdist.words import columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ntkdist.learning.sweep import SweepRow

MOST_IMAGES = 4000  # (N, N) float64 in memory, and its eigenvalues
_LOG_FROM = 50.0  # measures whose largest is so many times the smallest are drawn over a log axis


@dataclass(frozen=True)
class SweepResult:
    """The kernels of a network with one setting changed.

    Attributes:
        over: The setting.
        images: How many of the run's images the kernels were measured on.
        rows: One for each value, in order; then those of values measured before on these images.
        place: Where the picture is.
    """

    over: str
    images: int
    rows: tuple[SweepRow, ...]
    place: str


def sweep(
    pipeline: Pipeline, over: str, values: Sequence[str] = (), images: int = 400
) -> SweepResult:
    """Measure the kernels of a run's network with one setting changed, on some of its images.

    Every row is stored in the run as soon as it is measured, so that a sweep that is stopped,
    or asked for again with more values, computes only what is missing.

    Args:
        pipeline: Of a run.
        over: ``depth``, ``W_std``, ``b_std``, ``nonlinearity`` or ``width``.
        values: Some values; none takes those of ``ntkdist.learning.sweep.DEFAULT_VALUES``.
        images: How many of the run's images, balanced over its given labels; all if it has fewer.

    Raises:
        InputError: For settings that do not fit.
    """
    from ntkdist.data import select
    from ntkdist.learning.sweep import SweepRow, Variant, measure, variants

    run, settings = pipeline.run, pipeline.config.gram
    if not 10 <= images <= MOST_IMAGES:
        raise InputError(f"--images {images} must be from 10 to {MOST_IMAGES}")
    wanted = variants(pipeline.config.architecture, over, values)
    labels = run.read("inputs", "labels")
    chosen = select(labels, min(images, len(labels)), "balanced", 0)
    x, y = run.read("inputs", "images")[chosen], labels[chosen]
    backend = run.manifest.backend if settings.backend == "auto" else settings.backend
    rows: list[SweepRow] = []
    group = f"sweep/{over}-{len(chosen)}"

    def key_of(variant: Variant) -> str:
        parts = [run.fingerprint, str(variant.architecture), variant.width, settings.dtype,
                 chosen.tolist(), hashlib.sha256(y.tobytes()).hexdigest()]  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    with pipeline.stage(f"sweep over {over}") as detail:
        kept = run.attributes("sweep").get("rows", {})
        before = [row["value"] for row in run.attributes(*group.split("/")).get("rows", [])]
        asked = {variant.value for variant in wanted}
        earlier = variants(pipeline.config.architecture, over, before) if before else []
        wanted += [one for one in earlier if one.value not in asked and key_of(one) in kept]
        computed = 0
        for variant in wanted:
            pipeline.check_stop()
            key = key_of(variant)
            known = key in kept
            if not known:
                # a run's own backend may not cover every variant
                row = measure(
                    variant, x, y, run.num_classes, backend=_covering(backend, variant, x),
                    dtype=settings.dtype, invariance=settings.invariance,
                )  # fmt: skip
                kept[key] = _to_json(row)
                run.write_attributes("sweep", {"rows": kept})
                computed += 1
            figures: dict[str, Any] = {
                k: math.inf if v is None else v for k, v in kept[key].items()
            }
            row = SweepRow(**{**figures, "value": variant.value})
            rows.append(row)
            done = ValueMeasured(over, row.value, row.accuracy, known, len(rows), len(wanted))
            pipeline.forward(done)
        detail.append(f"{computed} of {len(wanted)} computed, {len(chosen)} images")
    result = SweepResult(over, len(chosen), tuple(rows), run.address(f"sweep-{over}.svg"))
    run.write_attributes(group, {"images": len(chosen), "rows": [_to_json(row) for row in rows]})
    _draw(result)
    return result


def _to_json(row: SweepRow) -> dict[str, Any]:
    """Return a row as JSON takes it, with None for infinity."""
    return {k: v if v != math.inf else None for k, v in asdict(row).items()}


def _covering(backend: str, variant: Any, images: np.ndarray) -> str:
    from ntkdist.kernels.registry import coverage

    if backend in ("cpu", "cuda") and coverage(backend, variant.architecture, images.shape[1:]):
        return "auto"
    return backend


def describe_sweep(result: SweepResult) -> str:
    """Return a table, a line a value."""
    head = (result.over, "accuracy", "log-loss", "ridge", "cosine", "condition", "rank", "scale")
    rows = [
        (
            row.value,
            words.percent(row.accuracy, 2),
            f"{row.log_loss:.3f}",
            f"{row.ridge:g}",
            f"{row.cosine:.4f}",
            f"{row.condition:.2e}",
            f"{row.effective_rank:.2f}",
            f"{row.scale:.3g}",
        )
        for row in result.rows
    ]
    lines = columns([head, *rows])
    if len(result.rows) > 1:
        most = max(row.accuracy for row in result.rows)
        tied = [row.value for row in result.rows if row.accuracy == most]
        lines.append(f"most accurate: {result.over} {' and '.join(tied)}, {words.percent(most, 2)}")
    if len(result.rows) > 1 and np.ptp([row.cosine for row in result.rows]) < 1e-6:
        lines.append(
            f"these kernels differ by a factor alone: without biases, {result.over} only scales "
            "the outputs of ReLU networks; give layers with b_std, or Erf"
        )
    lines.append(
        f"leave-one-out accuracy on {result.images} images at the ridge that is best by it; "
        "cosine: mean over pairs of images, 1 where the kernel tells none apart; rank: effective; "
        f"scale: mean of the kernel's diagonal; picture {result.place}"
    )
    return "\n".join(lines)


def _draw(result: SweepResult) -> None:
    """Write the picture, a panel for each measure."""
    measures = {
        "leave-one-out accuracy in %": [100 * row.accuracy for row in result.rows],
        "mean cosine of two images": [row.cosine for row in result.rows],
        "condition number": [row.condition for row in result.rows],
        "effective rank": [row.effective_rank for row in result.rows],
    }
    values = [row.value for row in result.rows]
    small = FONT_SIZE - 4
    with svg_file(result.place, 2.9 * len(measures), 2.7) as figure:
        for ax, (name, y) in zip(figure.subplots(1, len(measures)), measures.items(), strict=True):
            _plot_measure(ax, values, np.array(y), small - 1)
            ax.set_xlabel(result.over, fontsize=small)
            ax.set_title(name, fontsize=small)


def _plot_measure(ax: Any, values: Sequence[str], y: NDArray[np.float64], small: float) -> None:
    """Draw the finite ones of a measure (V,) over V values; numbers are drawn at their size."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    at, ticks = _places(values)
    order = np.argsort(at, kind="stable")
    at, y, ticks = at[order], y[order], [ticks[i] for i in order]
    shown = np.isfinite(y)
    ax.plot(at[shown], y[shown], "o-", ms=4, color="C0")
    if shown.any() and y[shown].min() > 0 and y[shown].max() > _LOG_FROM * y[shown].min():
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    if len(values) > 1:
        pad = 0.05 * (at.max() - at.min())
        ax.set_xlim(at.min() - pad, at.max() + pad)
    ax.set_xticks(at, ticks)
    ax.tick_params(labelsize=small)


def _places(values: Sequence[str]) -> tuple[NDArray[np.float64], list[str]]:
    """Return where values lie: at their size (or its logarithm), else side by side."""
    try:
        at = np.array([float(value) for value in values])
    except ValueError:
        return np.arange(len(values), dtype=float), list(values)
    if len(at) > 1 and at.min() > 0 and at.max() >= 4 * at.min():
        at = np.log2(at)
    if len(np.unique(at)) < len(at):
        at = np.arange(len(values), dtype=float)
    return at, list(values)


def _sections(run: Run) -> list[ReportSection]:
    """Read the sweeps, a section for each setting and number of images."""
    from ntkdist.learning.sweep import DEFAULT_VALUES

    sections = []
    names = sorted(storage.children(run.address("sweep")))
    for over in DEFAULT_VALUES:
        mine = [name for name in names if name.partition("-")[0] == over]
        kept = {name: stored(run, f"sweep/{name}", "images", "rows") for name in mine}
        sections += numbered([_section(f"sweep-{n}", over, k) for n, k in kept.items() if k])
    return sections


def _section(name: str, over: str, kept: Mapping[str, Any]) -> ReportSection:
    rows = kept["rows"]
    most = max(row["accuracy"] for row in rows)
    tied = [row["value"] for row in rows if row["accuracy"] == most]
    measures = {
        "accuracy in %": [100 * row["accuracy"] for row in rows],
        "mean cosine": [row["cosine"] for row in rows],
        "condition number": [
            math.nan if row["condition"] is None else row["condition"] for row in rows
        ],
        "effective rank": [row["effective_rank"] for row in rows],
    }
    values = [row["value"] for row in rows]

    def make() -> Figure:
        figure = new_figure(390, 380)
        for axes, (what, y) in zip(figure.subplots(2, 2).flat, measures.items(), strict=True):
            _plot_measure(axes, values, np.array(y, dtype=np.float64), FONT_SIZE - 1)
            axes.set_title(what, fontsize=FONT_SIZE - 1)
        figure.supxlabel(over, fontsize=FONT_SIZE)
        return figure

    listed = ", ".join(f"{row['value']}: {percent(row['accuracy'])}" for row in rows)
    svg = inline_svg(name, f"Measures over {over}; accuracy at {listed}.", make)
    sentence = (
        f"Of {counted(len(rows), 'value')} of {over}, {all_of(tied)} "
        f"{'predicts' if len(tied) == 1 else 'predict'} best: {percent(most)} of "
        f"{counted(kept['images'], 'image')} are right when each is left out."
    )
    caption = (
        "Cosine: mean over pairs of images, 1 where the kernel tells none apart. Effective rank: "
        "(Σλ)²/Σλ²."
    )
    title = f"Other values of {over}"
    return ReportSection(name, title, (sentence,), (), ((svg, caption),))


ANALYSIS = Analysis(
    command="sweep",
    question="What do depth, initial variance, nonlinearity and width change?",
    place=4,
    sections=_sections,
    arguments="--over depth",
)
