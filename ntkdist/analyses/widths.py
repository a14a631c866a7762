"""Networks of finite width on some of a run's images: how near they are to the infinite one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntkdist import words
from ntkdist.analyses import (
    Analysis,
    ReportSection,
    numbered,
    panel,
    store_result,
    stored_results,
)
from ntkdist.display.svg import FONT_SIZE, svg_file
from ntkdist.display.words import count, number, percent
from ntkdist.errors import InputError
from ntkdist.events.types import WidthMeasured
from ntkdist.pipeline.stages import Pipeline
from ntkdist.runs.run import Run

if TYPE_CHECKING:
    from ntkdist.learning.widths import PowerLaw, WidthRow, WidthSweep

WIDTHS = (32, 64, 128, 256, 512)
# measure → what it is, and its name in a table of the report
_MEASURES = {
    "kernel_gap": ("kernel from the infinite one", "kernel"),
    "difference": ("full kernel from pNTK ⊗ I", "one output"),
    "linear_gap": ("trained network from its linearisation", "trained"),
}
_COLORS = ("C0", "C2", "C3", "C4")


@dataclass(frozen=True, eq=False)
class WidthsResult:
    """Measures of networks of several widths, and their power laws.

    Attributes:
        sweep: Every network.
        laws: Measure → its power law; empty for a single width.
        place: The run.
    """

    sweep: WidthSweep
    laws: dict[str, PowerLaw]
    place: str


@dataclass(frozen=True, eq=False)
class Gap:
    """One measure (D,) over widths, the line through it (D,), and its slope in logarithms."""

    title: str
    values: NDArray[np.float64]
    fitted: NDArray[np.float64]
    exponent: float


def measure_widths(
    pipeline: Pipeline,
    *,
    widths: Sequence[int] = WIDTHS,
    images: int = 20,
    test: int = 20,
    seeds: int = 12,
    trained: int = 2,
    seed: int = 0,
) -> WidthsResult:
    """Draw networks of the run's architecture and compare them with the infinite one.

    Time grows with the square of the width, and with images, classes and networks; the Gram of
    the run is not used, and neither is ``gram.invariance``: networks of finite width are compared
    with the kernel of their architecture. The figures go into widths/ of
    the run, beside those of other settings, with a picture in widths.svg.

    Args:
        pipeline: Of a run.
        widths: Channels or units of the hidden layers, each different.
        images: Images of the run that kernels are compared on and networks trained on, from all
            classes alike.
        test: Other images of the run, on which outputs and predictions are compared.
        seeds: Networks of each width whose pNTK is measured.
        trained: How many of them are trained, and their full kernel computed.
        seed: Of the choice of images.

    Raises:
        InputError: For settings that do not fit the run.
    """
    from ntkdist.data import select
    from ntkdist.learning.widths import sweep_widths

    run = pipeline.run
    labels = run.read("inputs", "labels")
    for name, value in (("images", images), ("test", test)):
        if value < 2:
            raise InputError(f"{name}={value} must be at least 2")
    if images + test > len(labels):
        raise InputError(
            f"images={images} and test={test} are more than the {len(labels)} images of the run; "
            "give fewer"
        )
    chosen = select(labels, images, "balanced", seed)
    rest = np.setdiff1d(np.arange(len(labels)), chosen)
    held = rest[select(labels[rest], test, "balanced", seed)]
    x = run.array("inputs", "images")
    done = 0

    def tell(row: WidthRow) -> None:
        nonlocal done
        done += 1
        total = len(widths) * seeds
        pipeline.forward(WidthMeasured(row.width, row.seed, done, total, row.kernel_gap))

    with pipeline.stage("widths") as detail:
        sweep = sweep_widths(
            run.architecture,
            np.asarray(x.oindex[chosen]),
            labels[chosen],
            run.num_classes,
            (np.asarray(x.oindex[held]), labels[held]),
            widths=widths,
            seeds=seeds,
            trained=trained,
            on_row=tell,
        )
        detail.append(f"{len(sweep.rows)} networks of width {min(widths)} to {max(widths)}")
    laws = {m: sweep.law(m) for m in _MEASURES} if len(widths) > 1 else {}
    result = WidthsResult(sweep, laws, run.url)
    settings = {
        "widths": sorted(int(width) for width in widths),
        **{"images": images, "test": test, "seeds": seeds, "trained": trained, "seed": seed},
    }
    _store(run, result, settings)
    return result


def _store(run: Run, result: WidthsResult, settings: Mapping[str, Any]) -> None:
    sweep = result.sweep
    measures = ("kernel_gap", "trace_gap", "difference", "linear_gap", "linear_maximum")
    store_result(
        run,
        "widths",
        settings,
        {"widths": sweep.widths, **{name: sweep.by_width(name) for name in measures}},
        {
            "architecture": sweep.architecture,
            "images": sweep.train_images,
            "test": sweep.test_images,
            "learning_rate": sweep.learning_rate,
            "steps": list(sweep.steps),
            "exponents": {measure: asdict(law) for measure, law in result.laws.items()},
            "rows": [asdict(row) for row in sweep.rows],
        },
    )
    if not result.laws:
        return
    gaps = [
        Gap(_MEASURES[m][0], sweep.by_width(m), law.at(sweep.widths), law.exponent)
        for m, law in result.laws.items()
    ]
    small = FONT_SIZE - 3
    with svg_file(run.address("widths.svg"), 5.8, 4.4) as figure:
        axes = figure.add_subplot()
        plot_gaps(axes, sweep.widths, gaps, small)
        axes.set_ylabel("distance", fontsize=small)
        axes.set_title("networks of finite width: distances and their exponents", fontsize=small)


def describe_widths(result: WidthsResult) -> str:
    """Return what the command prints: a line a width, and the exponents."""
    sweep = result.sweep
    names = {measure: name for measure, (name, _) in _MEASURES.items()}
    lines = [
        f"{sweep.train_images} images, {sweep.test_images} held out; relative distances, the last "
        "in units of the outputs",
        "width   " + "   ".join(names.values()),
    ]
    columns = [sweep.by_width(measure) for measure in names]
    for width, *values in zip(sweep.widths, *columns, strict=True):
        cells = (f"{v:<{len(n)}.4f}" for v, n in zip(values, names.values(), strict=True))
        lines.append((f"{width:<6}  " + "   ".join(cells)).rstrip())
    for measure, law in result.laws.items():
        lines.append(f"{names[measure]}: width^{law.exponent:.2f} (± {law.error:.2f})")
    wide = [row.pseudo for row in sweep.rows if row.width == sweep.widths[-1] and row.pseudo]
    full, pseudo = (
        np.mean([getattr(one, name) for one in wide])
        for name in ("full_accuracy", "pseudo_accuracy")
    )
    lines.append(
        f"kernel regression at width {sweep.widths[-1]}: {words.percent(full)} right with the full "
        f"kernel, {words.percent(pseudo)} with the pNTK"
    )
    lines.append("picture widths.svg in the run")
    return "\n".join(lines)


def plot_gaps(axes: Any, widths: NDArray[np.int64], gaps: Sequence[Gap], size: float) -> None:
    """Draw measures over width in logarithms, each with its line; dashes have the slope −1/2.

    Args:
        axes: Of Matplotlib.
        widths: (D,).
        gaps: At least one.
        size: Of letters, in points.
    """
    for gap, color in zip(gaps, _COLORS, strict=False):
        label = f"{gap.title}: {gap.exponent:.2f}"
        axes.plot(widths, gap.values, "o", color=color, ms=4, label=label)
        axes.plot(widths, gap.fitted, "-", color=color, lw=1)
    middle = np.exp(np.log(widths).mean())
    for place, gap in enumerate(gaps):
        level = np.exp(np.log(gap.values).mean())
        axes.plot(
            widths, level * (widths / middle) ** -0.5, "--", color="0.55", lw=0.9, zorder=1,
            label=None if place else "slope −1/2",
        )  # fmt: skip
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(widths, [str(width) for width in widths], fontsize=size)
    axes.minorticks_off()
    axes.tick_params(labelsize=size)
    axes.set_xlabel("width", fontsize=size)
    axes.legend(fontsize=size - 1, frameon=False)


def _sections(run: Run) -> list[ReportSection]:
    """Read how far networks are from the infinite one, a section for each choice of settings."""
    results = stored_results(run, "widths", "images", "test", "exponents")
    return numbered([_section(run, group, kept) for group, kept in results])


def _section(run: Run, group: str, kept: Mapping[str, Any]) -> ReportSection:
    name = group.replace("/", "-")
    sizes = run.read(group, "widths")
    values = {measure: run.read(group, measure) for measure in _MEASURES}
    titles = {measure: title for measure, (_, title) in _MEASURES.items()}
    gap, exponents = values["kernel_gap"], kept["exponents"]
    sentences = [
        f"A network of width {count(int(sizes[-1]))} has a kernel {percent(float(gap[-1]))} away "
        f"from the infinite one, of width {count(int(sizes[0]))} {percent(float(gap[0]))}."
    ]
    figures: tuple[tuple[str, str], ...] = ()
    if exponents:
        law = exponents["kernel_gap"]
        sentences.append(
            f"The distance goes with width to the power {number(law['exponent'], 2)}, where theory "
            "says −½."
        )
        gaps = [
            Gap(
                title,
                values[key],
                exponents[key]["constant"] * sizes.astype(float) ** exponents[key]["exponent"],
                exponents[key]["exponent"],
            )
            for key, title in titles.items()
        ]
        alt = "Distances from the infinite network over width, on log scales, with fitted lines."
        caption = (
            "Relative distances and their exponents. Kernel: from the infinite one; one output: "
            "of the kernel of one output from the whole; trained: of the trained network from its "
            "linearisation."
        )
        figures = ((panel(f"{name}-gaps", alt, plot_gaps, sizes, gaps, height=320), caption),)
    rows = tuple(
        (count(int(size)), *(number(float(values[key][k]), 3) for key in titles))
        for k, size in enumerate(sizes)
    )
    head = ("Width", *(title.capitalize() for title in titles.values()))
    title = "Networks of finite width"
    return ReportSection(name, title, tuple(sentences), (), figures, head, rows)


ANALYSIS = Analysis(
    command="widths",
    question="How wide must a network be to behave as its kernel says?",
    place=3,
    sections=_sections,
)
