"""Label-aware kernels on a run: what knowing the labels adds for two of its classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.analyses.label_aware_classes import closest_classes, split_classes, two_classes
from ntkdist.errors import InputError, did_you_mean
from ntkdist.events.types import VariantTried
from ntkdist.pipeline.stages import Pipeline


@dataclass(frozen=True, eq=False)
class LabelAwareness:
    """The plain kernel beside label-aware ones.

    Attributes:
        classes: The two, as class numbers of the run; the second is label 1.
        names: Their names.
        tried: The plain kernel, then each variant.
        trained_on: Training images.
        held_out: Images that accuracy is measured on.
        curves: Variant → the multipliers that leave no singular kernel, and the accuracy of each
            in cross-validation.
        place: The run.
    """

    classes: tuple[int, int]
    names: tuple[str, str]
    tried: tuple[VariantTried, ...]
    trained_on: int
    held_out: int
    curves: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
    place: str


def compare_label_aware(
    pipeline: Pipeline,
    *,
    classes: Sequence[int | str] | None = None,
    variants: Sequence[str] | None = None,
    multipliers: Sequence[float] | None = None,
    folds: int = 5,
    test_share: float = 0.2,
    most: int = 2500,
    seed: int = 0,
) -> LabelAwareness:
    """Hold out images of two classes and predict them with plain and label-aware kernels.

    The Gram is the run's; the variants' pair features read its preprocessed images. Given labels
    are what is learned and what is predicted. Multipliers are chosen by cross-validation on the
    training images; the held-out ones are predicted once, with what was chosen. Figures go into
    label_aware/ of the run, with a picture in label_aware.svg.

    Args:
        pipeline: Of a run; missing tiles of its Gram are computed first.
        classes: Two, by number or name. None takes the two whose mean images of the normalised
            kernel lie closest: the most entangled.
        variants: Some of ``ntkdist.learning.label_aware.VARIANTS``; None takes all.
        multipliers: Of the label-aware part, at least 0; None takes the customary ladder.
        folds: Parts of the cross-validation.
        test_share: Of each class, held out.
        most: Of larger pairs of classes so many images are drawn: memory grows with their square.
        seed: Decides who is held out, folds and sketches.

    Returns:
        The accuracies.

    Raises:
        InputError: For settings that do not fit the run.
    """
    from ntkdist.learning.label_aware import (
        MULTIPLIERS,
        VARIANTS,
        Pairs,
        choose_multiplier,
        label_aware,
        pixel_pairs,
    )

    run = pipeline.run
    asked = list(dict.fromkeys(VARIANTS if variants is None else variants))
    if unknown := [name for name in asked if name not in VARIANTS]:
        raise InputError(
            f"variant {unknown[0]!r} is not one of {', '.join(VARIANTS)}"
            + did_you_mean(str(unknown[0]), VARIANTS)
        )
    if not asked:
        raise InputError(f"no variant to try; give some of {', '.join(VARIANTS)}")
    pair = None if classes is None else two_classes(classes, run.manifest.class_names)
    ladder = MULTIPLIERS if multipliers is None else multipliers
    pipeline.gram()
    store, given = pipeline.gram_store(), run.read("inputs", "labels")
    with pipeline.stage("label_aware") as detail:
        a, b = closest_classes(store, given, run.num_classes) if pair is None else pair
        train, test = split_classes(given, (a, b), test_share, most, seed)
        chosen = np.concatenate([train, test])
        y = np.where(given[chosen] == b, 1, -1)
        images = np.asarray(run.array("inputs", "images").oindex[chosen])
        everything = Pairs(store[chosen, chosen], pixel_pairs(images))
        n = len(train)
        rows, cols = np.arange(n, len(chosen)), np.arange(n)
        of_train, of_test = everything.take(cols, cols), everything.take(rows, cols)
        # multiplier 0 is the plain kernel, whatever the variant
        plain = choose_multiplier(
            of_train, y[:n], variant="kr-v1", multipliers=(0.0,), folds=folds, seed=seed
        )
        tried, values, curves = [], [], {}
        for name, variant in [("plain", "kr-v1"), *((v, v) for v in asked)]:
            choice = plain
            if name != "plain":
                choice = choose_multiplier(
                    of_train, y[:n], variant=variant, multipliers=ladder, folds=folds, seed=seed
                )
                curves[name] = choice.multipliers, choice.accuracy
            found = label_aware(
                of_train, y[:n], of_test,
                variant=variant, multiplier=choice.multiplier, seed=seed,
            )  # fmt: skip
            one = VariantTried(
                variant=name,
                multiplier=found.multiplier,
                ridge=found.ridge,
                definite=found.definite,
                validated=choice.best_accuracy,
                accuracy=float(np.mean(found.labels == y[n:])),
                elasticity=found.elasticity,
            )
            tried.append(one)
            values.append(found.values)
            pipeline.forward(one)
        names = run.manifest.class_names
        result = LabelAwareness(
            classes=(a, b),
            names=(names[a], names[b]),
            tried=tuple(tried),
            trained_on=n,
            held_out=len(test),
            curves=curves,
            place=run.url,
        )
        _store(pipeline, result, np.stack(values), train, test)
        detail.append(f"{names[a]} and {names[b]}, {n} trained on, {len(test)} held out")
    return result


def _store(
    pipeline: Pipeline,
    found: LabelAwareness,
    values: NDArray[np.float64],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
) -> None:
    from ntkdist.analyses.label_aware_plot import KernelPoint, draw_label_aware

    run = pipeline.run
    run.write("label_aware/values", values)
    run.write("label_aware/train", train)
    run.write("label_aware/test", test)
    rows = [
        {k: v for k, v in vars(one).items() if k not in ("time", "timestamp")}
        for one in found.tried
    ]
    summary = {
        "classes": list(found.classes),
        "names": list(found.names),
        "trained_on": found.trained_on,
        "held_out": found.held_out,
        "validated": {
            name: {"multipliers": r.tolist(), "accuracy": right.tolist()}
            for name, (r, right) in found.curves.items()
        },
        "kernels": rows,
    }
    run.write_attributes("label_aware", summary)
    points = [KernelPoint(o.variant, o.accuracy, o.validated, o.elasticity) for o in found.tried]
    title = (
        f"{found.names[0]} or {found.names[1]}: {found.trained_on} images to train on, "
        f"{found.held_out} held out"
    )
    with storage.writing(run.address("label_aware.svg")) as path:
        draw_label_aware(path, points=points, curves=found.curves, title=title)


def describe_label_aware(found: LabelAwareness) -> str:
    """Return what the command prints: one line a kernel."""
    lines = [
        f"{found.names[0]} or {found.names[1]}: {found.trained_on} images trained on, "
        f"{found.held_out} held out",
        "kernel    multiplier  accuracy  cross-validated  local elasticity",
    ]
    for one in found.tried:
        elasticity = "–" if one.elasticity is None else f"{one.elasticity:.4f}"
        line = f"{one.variant:<8}  {one.multiplier:>10g}  {one.accuracy:>8.2%}  "
        line += f"{one.validated:>15.2%}  {elasticity:>16}"
        lines.append(line + ("" if one.definite else "  (not positive definite)"))
    if found.tried[0].ridge:
        lines.append(f"all with a ridge of {found.tried[0].ridge:g}, which the plain kernel needs")
    lines.append(f"picture   {found.place}/label_aware.svg")
    return "\n".join(lines)
