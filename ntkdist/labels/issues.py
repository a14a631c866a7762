"""Wrong labels in a table, from images or from a Gram matrix in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import (
    check_choice,
    check_classes,
    check_labels,
    check_made,
    check_ridge,
    check_square,
    count_classes,
    is_auto,
    label_values,
    number_names,
)
from ntkdist.errors import InputError
from ntkdist.labels.inverse import MemoryFactor, invert
from ntkdist.labels.options import Options, check_locked
from ntkdist.labels.refurbish import refurbish
from ntkdist.labels.result import Flip, RefurbishResult
from ntkdist.labels.ridge import POSTERIOR_RIDGE, choose_ridge
from ntkdist.networks.architecture import POOLING_PRESET
from ntkdist.pixels import image_array

if TYPE_CHECKING:
    import pandas as pd

    from ntkdist.networks.architecture import ArchitectureSpec

#: What ``find_label_issues`` takes where no architecture is given.
IMAGES_ARCHITECTURE, FEATURES_ARCHITECTURE = POOLING_PRESET, "fc-2"


def label_report(labels: Any, result: RefurbishResult) -> pd.DataFrame:
    """Return one row for each image: its label, a suggested one, and the label's quality.

    ``label_quality`` is the probability that the given label is right, by the predictions from
    all other images and the noise model (``Posterior.quality``). Sorted by it, the most suspicious
    labels come first, whichever method chose the flips.

    Args:
        labels: (N,) the labels given to ``refurbish``.
        result: What ``refurbish`` returned for them.

    Returns:
        A table in the order of the images with the columns ``index``, ``given_label``,
        ``suggested_label``, ``label_quality`` (0 to 1, low = suspicious), ``is_label_issue``
        (``posterior``: flagged as more probably wrong than right, if the verdict allows flags;
        ``exact`` and ``paper``: the refurbished label differs), ``abstained`` (no class has a
        probability of ``confidence``), ``round`` (the step of the image's last flip, −1 if none;
        for ``posterior`` its rank, 1 for the most probable change) and ``delta_loss`` (the change
        of L(Z) by that flip, NaN if none; for ``posterior`` by that flip alone). If a label is
        flagged and no other class is more probable, ``suggested_label`` is the given one. Its
        ``attrs`` hold ``reliability``, the dictionary of ``Reliability.to_dict``, ``transition``,
        P(given label | true class) as K lists of K numbers, and ``unused_classes``, the list of
        classes that no image has, which are never suggested.

    Raises:
        InputError: If labels and result have different numbers of images.
    """
    import pandas as pd

    check_made("result", result, RefurbishResult, "give what refurbish returned")
    n, num_classes = result.G.shape
    given = check_labels(labels, num_classes)
    if len(given) != n:
        raise InputError(
            f"the result is of {n} images, {len(given)} labels are given; give the labels from "
            "which it was computed"
        )
    rounds, deltas = np.full(n, -1), np.full(n, np.nan)
    for flip in result.history:
        rounds[flip.index], deltas[flip.index] = flip.step, flip.delta_loss
    table = pd.DataFrame(
        {
            "index": np.arange(n),
            "given_label": given,
            "suggested_label": result.labels,
            "label_quality": result.posterior.quality,
            "is_label_issue": result.flagged,
            "abstained": result.abstained,
            "round": rounds,
            "delta_loss": deltas,
        }
    )
    table.attrs["reliability"] = result.reliability.to_dict()
    table.attrs["transition"] = result.noise.transition.tolist()
    unused = np.bincount(given, minlength=num_classes) == 0
    table.attrs["unused_classes"] = np.flatnonzero(unused).tolist()
    return table


def find_label_issues(
    images: Any,
    labels: Any,
    *,
    architecture: ArchitectureSpec | None = None,
    num_classes: int | None = None,
    preprocess: str = "auto",
    ridge: float | str = "auto",
    method: str = "posterior",
    steps: int | str | None = "auto",
    beta: float = 1.0,
    noise: str = "auto",
    noise_rate: float | None = None,
    locked: Any = None,
    confidence: float = 0.0,
    backend: str = "auto",
    threads: int | None = None,
    invariance: str = "none",
    on_event: Callable[[Flip], None] | None = None,
) -> pd.DataFrame:
    """Find wrong labels of images or features: kernel, ridge, factor, refurbishment, table.

    The (N, N) matrix must fit memory twice, in float32 and in float64 (``exact`` and ``paper``
    invert it in place); a run does the same from a store.

    Args:
        images: (N, H, W, C) or (N, H, W), uint8 or any real dtype, or a list of images of one
            size; or features (N, D), from a pretrained network or a table.
        labels: (N,) integers in 0..K−1, or names of classes (text), which are numbered in sorted
            order, by number where all are whole numbers. At least two classes; those that no label
            has are never suggested.
        architecture: A preset name, a list of layers, canonical text or an ``Architecture``; None
            takes ``cntk-lap-6-2`` for images and ``fc-2`` for features.
        num_classes: K; None takes the largest label plus one, or the number of names.
        preprocess: ``none`` or steps of ``ntkdist.data.Preprocessor`` joined by ``+``, such as
            ``center+unit-norm``, which suits fully connected networks and is what ``auto`` takes
            for features; for images it takes ``standardize``. ``contrast+zca`` suits photographs.
        ridge: λ ≥ 0 added to the Gram's diagonal, relative to its mean; ``"auto"`` takes 1e-3
            for ``posterior`` and the most likely one (``choose_ridge``) for the others.
        method: ``posterior``, ``exact`` or ``paper``, as for ``refurbish``.
        steps: Most label changes; ``"auto"``; or None for no limit.
        beta: Weight β ≥ 0 of the between-class term.
        noise: Noise model: ``symmetric``, ``class-conditional``, or ``auto`` to choose one by
            the given labels.
        noise_rate: ε of symmetric noise, 0 to (K−1)/K; None estimates it from the Gram
            (``choose_ridge``).
        locked: Labels known to be right, (N,) bool or indices.
        confidence: Least probability of another class for a label to be changed.
        backend: Kernel backend, ``auto`` for the fastest that supports the architecture.
        threads: Threads for the kernel; None takes all cores.
        invariance: ``none``, or ``flip`` for a kernel averaged over horizontal flips, as for
            ``ntkdist.kernel_matrix``; it suits photographs.
        on_event: Called with each ``Flip``.

    Returns:
        The table of ``label_report``, its reliability in ``attrs["reliability"]``; for names also
        ``given_class`` and ``suggested_class``, after the numbers.

    Raises:
        InputError: For images, labels or options that do not fit, or a Gram matrix that is
            not positive definite at this ridge.
    """
    from ntkdist.data import Preprocessor
    from ntkdist.kernels import kernel_matrix
    from ntkdist.kernels.invariance import INVARIANCES

    check_choice("invariance", invariance, INVARIANCES)
    Options(
        method=method,
        steps=steps,
        beta=beta,
        noise=noise,
        noise_rate=noise_rate,
        confidence=confidence,
    )
    if not is_auto(ridge):
        check_ridge(ridge, otherwise=", or auto")
    images = image_array(images)
    what = "rows" if images.ndim == 2 else "images"
    if architecture is None:
        architecture = FEATURES_ARCHITECTURE if images.ndim == 2 else IMAGES_ARCHITECTURE
    given = label_values(labels)
    names: tuple[str, ...] = ()
    if len(given) != len(images):
        raise InputError(f"{len(given)} labels for {len(images)} {what}; give one each")
    if len(images) < 2:
        raise InputError(f"{len(images)} {what}; at least 2 are needed")
    if any(isinstance(one, str) for one in given):
        given, names = number_names(given.tolist(), lambda i: f"at index {i}")
    if names and num_classes not in (None, len(names)):
        raise InputError(
            f"num_classes={num_classes}, the labels name {len(names)} classes; leave it out, or "
            "give numbers"
        )
    if num_classes is None:
        num_classes = len(names) if names else count_classes(given)
    given = check_labels(given, num_classes, len(images))
    prepared = Preprocessor.fit(images, preprocess, mirrored=invariance == "flip").apply(images)
    gram = kernel_matrix(
        architecture, prepared, backend=backend, threads=threads, invariance=invariance
    )
    result = refurbish_gram(
        gram,
        given,
        num_classes,
        ridge=ridge,
        method=method,
        steps=steps,
        beta=beta,
        noise=noise,
        noise_rate=noise_rate,
        locked=locked,
        confidence=confidence,
        on_event=on_event,
    )
    table = label_report(given, result)
    if names:
        for name in ("given", "suggested"):
            numbers = table[f"{name}_label"]
            place = int(np.flatnonzero(table.columns == numbers.name)[0]) + 1
            table.insert(place, f"{name}_class", [names[k] for k in numbers])
    return table


def refurbish_gram(
    gram: NDArray[Any],
    labels: Any,
    num_classes: int,
    *,
    ridge: float | str = "auto",
    method: str = "posterior",
    steps: int | str | None = "auto",
    beta: float = 1.0,
    noise: str = "auto",
    noise_rate: float | None = None,
    locked: Any = None,
    confidence: float = 0.0,
    on_event: Callable[[Flip], None] | None = None,
) -> RefurbishResult:
    """Refurbish labels with a Gram matrix in memory: ridge, noise, factor or inverse, labels.

    ``find_label_issues`` computes the Gram matrix, calls this function, and makes the table with
    ``label_report``.

    Args:
        gram: (N, N) symmetric Gram matrix H.
        labels: (N,) given labels, integers in 0..K−1.
        num_classes: K.
        ridge: As for ``find_label_issues``.
        method: ``posterior``, ``exact`` or ``paper``, as for ``refurbish``.
        steps: Most label changes; ``"auto"``; or None for no limit.
        beta: Weight β ≥ 0 of the between-class term.
        noise: ``auto``, ``symmetric`` or ``class-conditional``.
        noise_rate: ε of symmetric noise; None estimates it.
        locked: Labels known to be right, (N,) bool or indices.
        confidence: Least probability of another class for a label to be changed.
        on_event: Called with each ``Flip``.

    Returns:
        The result.

    Raises:
        InputError: For labels or options that do not fit, or a Gram matrix that is not positive
            definite at this ridge.
    """
    Options(
        method=method,
        steps=steps,
        beta=beta,
        noise=noise,
        noise_rate=noise_rate,
        confidence=confidence,
    )
    if not is_auto(ridge):
        check_ridge(ridge, otherwise=", or auto")
    gram = check_square("gram", gram)
    given = check_labels(labels, num_classes, len(gram))
    num_classes = check_classes(num_classes)
    lock = check_locked(locked, len(given))
    choice = choose_ridge(gram, given, num_classes, noise=noise, noise_rate=noise_rate, locked=lock)
    if is_auto(ridge):
        ridge = POSTERIOR_RIDGE if method == "posterior" else choice.ridge
    inverse = MemoryFactor if method == "posterior" else invert
    return refurbish(
        inverse(gram, float(ridge)),
        given,
        num_classes,
        method=method,
        steps=steps,
        beta=beta,
        noise=noise,
        noise_rate=noise_rate,
        estimate=choice.estimate,
        locked=lock,
        confidence=confidence,
        on_step=on_event,
    )
