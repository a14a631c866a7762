"""Label-aware kernels on a run: what the labels inside the kernel add for two of its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from ntkdist.display.words import counted, percent
from ntkdist.errors import InputError, did_you_mean
from ntkdist.events.types import VariantTried
from ntkdist.pipeline.stages import Pipeline
from ntkdist.runs.run import Run

_BAND_BYTES = 64 * 2**20  # rows of the Gram that are read together


@dataclass(frozen=True, eq=False)
class LabelAwareResult:
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
) -> LabelAwareResult:
    """Hold out images of two classes and predict them with plain and label-aware kernels.

    The Gram is the run's; the pair features of the variants are made from its preprocessed
    images. Both training and evaluation use the given labels. Multipliers are chosen by
    cross-validation on the training images; the held-out ones are predicted once, with what was
    chosen. Figures go into label_aware/ of the run, with a picture in label_aware.svg.

    Args:
        pipeline: Of a run; missing tiles of its Gram are computed first.
        classes: Two, by number or name. None takes the two whose means are closest in the space
            of the normalised kernel.
        variants: Some of ``ntkdist.learning.label_aware.VARIANTS``; None takes all.
        multipliers: Of the label-aware part, at least 0; None takes the customary ladder.
        folds: Parts of the cross-validation.
        test_share: Of each class, held out.
        most: Images of both classes together, at most; of more so many are drawn, because memory
            grows with their square.
        seed: Of the held-out images, the folds and the sketches.

    Raises:
        InputError: For settings that do not fit the run.
    """
    from ntkdist.learning.label_aware import (
        MULTIPLIERS,
        VARIANTS,
        choose_multiplier,
        label_aware,
    )
    from ntkdist.learning.pairs import Pairs, pixel_pairs

    run = pipeline.run
    asked = list(dict.fromkeys(VARIANTS if variants is None else variants))
    if unknown := [name for name in asked if name not in VARIANTS]:
        raise InputError(
            f"variant {unknown[0]!r} is not one of {', '.join(VARIANTS)}"
            + did_you_mean(str(unknown[0]), VARIANTS)
        )
    if not asked:
        raise InputError(f"no variant to try; give some of {', '.join(VARIANTS)}")
    pair = None if classes is None else _two_classes(classes, run.manifest.class_names)
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
            predicted = label_aware(
                of_train, y[:n], of_test,
                variant=variant, multiplier=choice.multiplier, seed=seed,
            )  # fmt: skip
            one = VariantTried(
                variant=name,
                multiplier=predicted.multiplier,
                ridge=predicted.ridge,
                definite=predicted.definite,
                validated=choice.best_accuracy,
                accuracy=float(np.mean(predicted.labels == y[n:])),
                elasticity=predicted.elasticity,
            )
            tried.append(one)
            values.append(predicted.values)
            pipeline.forward(one)
        names = run.manifest.class_names
        result = LabelAwareResult(
            classes=(a, b),
            names=(names[a], names[b]),
            tried=tuple(tried),
            trained_on=n,
            held_out=len(test),
            curves=curves,
            place=run.url,
        )
        settings = {"classes": [a, b], "variants": asked, "multipliers": [float(r) for r in ladder]}
        settings |= {"folds": folds, "test_share": test_share, "most": most, "seed": seed}
        _store(run, result, settings, np.stack(values), train, test)
        detail.append(f"{names[a]} and {names[b]}, {n} trained on, {len(test)} held out")
    return result


def closest_classes(gram: Any, labels: NDArray[np.int64], num_classes: int) -> tuple[int, int]:
    """Return the two classes whose means are closest in the space of the normalised kernel.

    Args:
        gram: (N, N) that can be sliced by rows and has ``diagonal()``.
        labels: (N,) in 0..K−1.
        num_classes: K; classes of fewer than 10 images are left out.

    Raises:
        InputError: If there are no two such classes.
    """
    counts = np.bincount(labels, minlength=num_classes)
    usable = np.flatnonzero(counts >= 10)
    if len(usable) < 2:
        raise InputError(
            f"{len(usable)} classes have ten images or more; label-aware kernels need two of them"
        )
    Y = np.eye(num_classes)[labels] / np.sqrt(np.asarray(gram.diagonal(), np.float64))[:, None]
    sums = np.zeros((num_classes, num_classes))
    rows = max(1, _BAND_BYTES // (8 * len(labels)))
    for start in range(0, len(labels), rows):
        band = np.asarray(gram[start : start + rows, :], dtype=np.float64)
        sums += Y[start : start + rows].T @ (band @ Y)
    means = sums[np.ix_(usable, usable)] / np.outer(counts[usable], counts[usable])
    own = np.diagonal(means)
    apart = own[:, None] + own - 2.0 * means
    apart[np.tril_indices(len(usable))] = np.inf
    a, b = np.unravel_index(int(apart.argmin()), apart.shape)
    return int(usable[a]), int(usable[b])


def _two_classes(classes: Sequence[int | str], names: Sequence[str]) -> tuple[int, int]:
    """Return the numbers of two classes given by number or name, or raise ``InputError``."""
    if isinstance(classes, str) or len(classes) != 2:
        raise InputError(f"classes={classes!r}: label-aware kernels are for two; give two of them")
    numbers = []
    for one in classes:
        number = names.index(one) if one in names else one
        if isinstance(number, str) and number.isdecimal():
            number = int(number)
        if isinstance(number, str) or not 0 <= number < len(names):
            raise InputError(
                f"class {one!r} is neither a name nor a number from 0 to {len(names) - 1}; the "
                f"names begin {', '.join(names[:5])}{did_you_mean(str(one), names)}"
            )
        numbers.append(int(number))
    if numbers[0] == numbers[1]:
        raise InputError(f"classes {classes[0]!r} and {classes[1]!r} are one; give two of them")
    return numbers[0], numbers[1]


def split_classes(
    labels: NDArray[np.int64], classes: tuple[int, int], share: float, most: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ascending training and held-out indices; of each class the same share is held out.

    Args:
        labels: (N,) of the run.
        classes: The two.
        share: Of each class, held out.
        most: Images taken of both together, at most; of more so many are drawn.
        seed: Of the split.

    Raises:
        InputError: For a share outside 0 to 1, or a class with too few images.
    """
    if not 0 < share < 1:
        raise InputError(f"test_share={share!r} must lie between 0 and 1, such as 0.2")
    random = np.random.default_rng(seed)
    members = [random.permutation(np.flatnonzero(labels == k)) for k in classes]
    total = sum(len(m) for m in members)
    if total > most:
        members = [m[: len(m) * most // total] for m in members]
    train, test = [], []
    for k, m in zip(classes, members, strict=True):
        held = max(1, round(share * len(m)))
        if len(m) - held < 4:
            raise InputError(
                f"class {k} leaves {max(len(m) - held, 0)} images to train on; at least 4 are "
                "needed: take other classes, a smaller test_share or a larger most"
            )
        test.append(m[:held])
        train.append(m[held:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


def _store(
    run: Run,
    result: LabelAwareResult,
    settings: Mapping[str, Any],
    values: NDArray[np.float64],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
) -> None:
    times = ("time", "timestamp")
    rows = [{k: v for k, v in vars(one).items() if k not in times} for one in result.tried]
    summary = {
        "classes": list(result.classes),
        "names": list(result.names),
        "trained_on": result.trained_on,
        "held_out": result.held_out,
        "validated": {
            name: {"multipliers": r.tolist(), "accuracy": right.tolist()}
            for name, (r, right) in result.curves.items()
        },
        "kernels": rows,
    }
    arrays = {"values": values, "train": train, "test": test}
    store_result(run, "label_aware", settings, arrays, summary)
    a, b = result.names
    title = f"{a} or {b}: {result.trained_on} images to train on, {result.held_out} held out"
    small = FONT_SIZE - 4
    with svg_file(run.address("label_aware.svg"), 8.6, 3.4) as figure:
        figure.suptitle(title, fontsize=FONT_SIZE - 2)
        left, right = figure.subplots(1, 2)
        _plot_kernels(left, rows, small)
        _plot_choices(right, result.curves, small)


def describe_label_aware(result: LabelAwareResult) -> str:
    """Return what the command prints: one line a kernel."""
    lines = [
        f"{result.names[0]} or {result.names[1]}: {result.trained_on} images trained on, "
        f"{result.held_out} held out",
        "kernel    multiplier  accuracy  cross-validated  local elasticity",
    ]
    for one in result.tried:
        elasticity = "–" if one.elasticity is None else f"{one.elasticity:.4f}"
        line = f"{one.variant:<8}  {one.multiplier:>10g}  {words.percent(one.accuracy, 2):>8}  "
        line += f"{words.percent(one.validated, 2):>15}  {elasticity:>16}"
        lines.append(line + ("" if one.definite else "  (not positive definite)"))
    if result.tried[0].ridge:
        lines.append(f"all with a ridge of {result.tried[0].ridge:g}, which the plain kernel needs")
    lines.append(f"picture   {result.place}/label_aware.svg")
    return "\n".join(lines)


def _plot_kernels(ax: Any, kernels: Sequence[Mapping[str, Any]], small: float) -> None:
    """Draw the accuracy of each kernel as it is stored, the plain one first."""
    at = -np.arange(len(kernels))
    ax.axvline(100 * kernels[0]["accuracy"], color="0.8", lw=1)
    ax.scatter([100 * k["accuracy"] for k in kernels], at, s=40, color="C0", label="held out")
    ax.scatter(
        [100 * k["validated"] for k in kernels], at, s=40, label="cross-validated",
        facecolors="none", edgecolors="C1",
    )  # fmt: skip
    below = ("" if (e := k["elasticity"]) is None else f"\nelasticity {e:.3f}" for k in kernels)
    names = [k["variant"] + line for k, line in zip(kernels, below, strict=True)]
    ax.set_yticks(at, names, fontsize=small)
    ax.set_ylim(at[-1] - 0.6, 0.6)
    ax.margins(x=0.15)
    ax.set_xlabel("accuracy in %", fontsize=small)
    ax.tick_params(axis="x", labelsize=small)
    ax.legend(fontsize=small - 1, frameon=False)


def _plot_choices(
    ax: Any, curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], small: float
) -> None:
    """Draw cross-validated accuracies over the multipliers of each variant."""
    tried = sorted({r for multipliers, _ in curves.values() for r in multipliers})
    for name, (multipliers, accuracy) in curves.items():
        order = np.argsort(multipliers)
        at = np.searchsorted(tried, multipliers[order])  # side by side: 0 has no logarithm
        ax.plot(at, 100 * accuracy[order], "o-", ms=3, lw=1, label=name)
    ax.set_xticks(range(len(tried)), [f"{r:g}" for r in tried], fontsize=small, rotation=45)
    ax.tick_params(axis="y", labelsize=small)
    ax.set_xlabel("multiplier r of the label-aware part (0: plain)", fontsize=small)
    ax.set_ylabel("cross-validated accuracy in %", fontsize=small)
    ax.legend(fontsize=small - 1, frameon=False)


def _sections(run: Run) -> list[ReportSection]:
    """Read the accuracies of the kernels on two classes."""
    keys = ("names", "trained_on", "held_out", "validated", "kernels")
    return numbered([_section(*one) for one in stored_results(run, "label_aware", *keys)])


def _section(group: str, kept: Mapping[str, Any]) -> ReportSection:
    at = group.replace("/", "-").replace("_", "-")
    kernels = kept["kernels"]
    plain, *others = kernels
    best = max(others, key=lambda one: one["accuracy"])
    a, b = kept["names"]
    sentence = (
        f"The plain kernel tells {a} from {b} for {percent(plain['accuracy'])} of "
        f"{counted(kept['held_out'], 'held-out image')}; "
    )
    if best["accuracy"] > plain["accuracy"]:
        sentence += f"a label-aware one, {best['variant']}, for {percent(best['accuracy'])}."
    else:
        sentence += "no label-aware one does better."
    curves = {
        name: (np.asarray(tried["multipliers"]), np.asarray(tried["accuracy"]))
        for name, tried in kept["validated"].items()
    }
    listed = ", ".join(f"{one['variant']} {percent(one['accuracy'])}" for one in kernels)
    alt = f"Accuracy of each kernel: {listed}."
    figures = (
        (
            panel(f"{at}-kernels", alt, _plot_kernels, kernels),
            "Accuracy on images held out. Elasticity: how much more images of one class move "
            "together in training than others; ½ where classes do not matter.",
        ),
        (
            panel(
                f"{at}-choice",
                "Cross-validated accuracy over the weight of the label-aware part.",
                _plot_choices,
                curves,
            ),
            "How the weight of the label-aware part was chosen, on the training images.",
        ),
    )
    title = f"Labels inside the kernel: {a} or {b}"
    return ReportSection(at, title, (sentence,), (), figures)


ANALYSIS = Analysis(
    command="label-aware",
    question="Do labels inside the kernel help to tell two classes apart?",
    place=5,
    sections=_sections,
)
