"""Networks of finite width on some of a run's images: how near they are to the infinite one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ntkdist import storage
from ntkdist.errors import InputError
from ntkdist.events.types import WidthMeasured
from ntkdist.pipeline.stages import Pipeline

if TYPE_CHECKING:
    from ntkdist.learning.widths import PowerLaw, WidthRow, WidthSweep

WIDTHS = (32, 64, 128, 256, 512)


@dataclass(frozen=True, eq=False)
class WidthsFound:
    """What networks of several widths showed, and the power laws in it.

    Attributes:
        sweep: Every network.
        laws: Measure → its power law; empty for a single width.
        place: The run.
    """

    sweep: WidthSweep
    laws: dict[str, PowerLaw]
    place: str


def measure_widths(
    pipeline: Pipeline,
    *,
    widths: Sequence[int] = WIDTHS,
    images: int = 20,
    test: int = 20,
    seeds: int = 12,
    trained: int = 2,
    seed: int = 0,
) -> WidthsFound:
    """Draw networks of the run's architecture and hold them against the infinite one.

    Time grows with the square of the width, and with images, classes and networks; the Gram of
    the run has no part in it. The figures go into widths/ of the run, with a
    picture in widths.svg.

    Args:
        pipeline: Of a run.
        widths: Channels or units of the hidden layers, each different.
        images: Images of the run that kernels are compared on and networks trained on, from all
            classes alike.
        test: Other images of the run, on which outputs and predictions are compared.
        seeds: Networks of each width whose pNTK is measured.
        trained: How many of them are trained, and their full kernel computed.
        seed: Chooses the images.

    Returns:
        The networks and the power laws.

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
    measures = ("kernel_gap", "difference", "linear_gap")
    laws = {m: sweep.law(m) for m in measures} if len(widths) > 1 else {}
    found = WidthsFound(sweep, laws, run.url)
    _store(pipeline, found)
    return found


def describe_widths(found: WidthsFound) -> str:
    """Return what the command prints: a line a width, and the exponents."""
    sweep = found.sweep
    names = {
        "kernel_gap": "kernel from the infinite one",
        "difference": "full kernel from pNTK ⊗ I",
        "linear_gap": "trained network from its linearisation",
    }
    lines = [
        f"{sweep.train_images} images, {sweep.test_images} held out; relative distances, the last "
        "in units of the outputs",
        "width   " + "   ".join(names.values()),
    ]
    columns = [sweep.by_width(measure) for measure in names]
    for width, *values in zip(sweep.widths, *columns, strict=True):
        cells = (f"{v:<{len(n)}.4f}" for v, n in zip(values, names.values(), strict=True))
        lines.append((f"{width:<6}  " + "   ".join(cells)).rstrip())
    for measure, law in found.laws.items():
        lines.append(f"{names[measure]}: width^{law.exponent:.2f} (± {law.error:.2f})")
    wide = [row.pseudo for row in sweep.rows if row.width == sweep.widths[-1] and row.pseudo]
    full, pseudo = (
        np.mean([getattr(one, name) for one in wide])
        for name in ("full_accuracy", "pseudo_accuracy")
    )
    lines.append(
        f"kernel regression at width {sweep.widths[-1]}: {full:.1%} right with the full kernel, "
        f"{pseudo:.1%} with the pNTK"
    )
    lines.append("picture widths.svg in the run")
    return "\n".join(lines)


def _store(pipeline: Pipeline, found: WidthsFound) -> None:
    from ntkdist.analyses.widths_plot import Gap, draw_widths

    run, sweep = pipeline.run, found.sweep
    measures = ("kernel_gap", "trace_gap", "difference", "linear_gap", "linear_maximum")
    run.write("widths/widths", sweep.widths)
    for measure in measures:
        run.write(f"widths/{measure}", sweep.by_width(measure))
    run.write_attributes(
        "widths",
        {
            "architecture": sweep.architecture,
            "images": sweep.train_images,
            "test": sweep.test_images,
            "learning_rate": sweep.learning_rate,
            "steps": list(sweep.steps),
            "exponents": {measure: asdict(law) for measure, law in found.laws.items()},
            "rows": [asdict(row) for row in sweep.rows],
        },
    )
    if not found.laws:
        return
    titles = {
        "kernel_gap": "kernel from the infinite one",
        "difference": "full kernel from pNTK ⊗ I",
        "linear_gap": "network from its linearisation, trained",
    }
    gaps = [
        Gap(titles[m], sweep.by_width(m), law.at(sweep.widths), law.exponent)
        for m, law in found.laws.items()
    ]
    with storage.writing(run.address("widths.svg")) as path:
        draw_widths(sweep.widths, gaps, path)
