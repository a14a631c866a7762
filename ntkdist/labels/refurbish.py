"""Refurbishment: change labels, one after another or all at once, and record every change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.checks import check_classes, check_labels, refuse_one_class
from ntkdist.labels.block_error import block_error, left_out_terms, reciprocal
from ntkdist.labels.class_matrix import class_matrix
from ntkdist.labels.compiled import exact_tables, moved
from ntkdist.labels.descent import start_descent
from ntkdist.labels.inverse import as_inverse, checked_diagonal
from ntkdist.labels.noise import NoiseEstimate
from ntkdist.labels.options import Options, check_locked, check_noise_rate, check_probs
from ntkdist.labels.posterior import ROUNDS, Posterior, class_posterior
from ntkdist.labels.reliability import assess
from ntkdist.labels.result import Flip, RefurbishResult
from ntkdist.words import counted


def refurbish(
    inverse: Any,
    labels: Any,
    num_classes: int,
    *,
    method: str = "exact",
    steps: int | str | None = None,
    beta: float = 1.0,
    noise: str = "auto",
    noise_rate: float | None = None,
    estimate: NoiseEstimate | None = None,
    first_probs: Any = None,
    locked: Any = None,
    confidence: float = 0.0,
    blocks: int = 1,
    flips_per_step: int = 1,
    client: Any = None,
    checkpoint: str | None = None,
    checkpoint_every: int = 500,
    on_step: Callable[[Flip], None] | None = None,
    on_round: Callable[[int], None] | None = None,
) -> RefurbishResult:
    """Change labels towards a labelling that fits the kernel better.

    ``posterior`` (this package's own) gives each image the class that is most probable given
    all labels and the noise model (``class_posterior``). Its best ridge is small, 1e-3, at any
    noise rate. All labels are changed at once. It needs solutions H⁻¹Y and the diagonal of the
    inverse, but none of its columns, so that a Cholesky factor serves as well as the inverse. The
    history lists the most probable changes first; ``delta_loss`` is the change of L(Z) by that
    flip alone, made in the given labels, and ``loss`` is L(Z) with that flip; ``losses`` is (2,),
    L(Z) before and after all of them. If a flip empties a class, leaves it one member or is the
    first of a class, other terms of L(Z) are left out as 0/0; its ``delta_loss`` is the difference
    of the two sums without them. ``steps`` limits the number of changes.

    ``exact`` (this package's own) takes the flip with the most negative change of L(Z),
    class sizes included. It cannot cycle, and it ends when no flip lowers L(Z). It takes no image
    out of a class with two members or fewer and puts none into a class without members, because
    L(Z) leaves the terms of such classes out and would fall for that reason alone. Run to the end
    it also changes correct labels of unusual images; ``steps="auto"`` ends it as soon as the
    number of changed labels is that of labels estimated wrong. Its best ridge depends on the noise
    (``choose_ridge``).

    ``paper`` is Algorithm 1: of the gradient m = −∂L/∂Y, the row with the largest difference
    between its largest entry and that of its label gets the class of the largest entry. It does
    not end by itself and may change the same labels back and forth, so that it needs ``steps``;
    ``"auto"`` takes as many as labels are estimated wrong. Classes without members are no targets
    (their gradient is 0/0).

    The noise is estimated from leave-one-out predictions with this inverse (``estimate_noise``).
    An estimate from the Gram itself (``choose_ridge``) is better: with most labels wrong, a small
    ridge alone gives the rate within 0.1 at best. If the verdict of ``Reliability`` is ``cannot
    judge``, ``posterior`` changes no label, and no method flags one. Ties go to the smallest image,
    then the smallest class.

    Args:
        inverse: H⁻¹ (N, N), float: an array, or anything that ``as_inverse`` takes, such as a
            ``CholeskyFactor`` for ``posterior``.
        labels: (N,) given labels, integers in 0..K−1.
        num_classes: K.
        method: ``posterior``, ``exact`` or ``paper``.
        steps: Most label changes; ``"auto"``; or None for no limit (not for ``paper``).
        beta: Weight β ≥ 0 of the between-class term; not published, 1 is our choice.
        noise: Noise model: ``symmetric``, ``class-conditional``, or ``auto`` to choose one by the
            given labels (``estimate_noise``).
        noise_rate: ε of symmetric noise, 0 to (K−1)/K; None estimates it.
        estimate: The noise as ``choose_ridge`` estimates it; None estimates it from this inverse.
        first_probs: (N, K) class probabilities of the first round, computed without each image's
            own label, such as another model's out-of-sample predictions; None takes those of the
            estimate, or computes them from this inverse.
        locked: Labels known to be right: (N,) bool or indices. They are never changed and
            count as certain.
        confidence: Least probability of another class for a label to be changed. Images for which
            no class has it, the given one included, are ``abstained``.
        blocks: Number of row blocks of G (``exact`` and ``paper``); any number gives the same
            flips. On a cluster at most one for each worker.
        flips_per_step: Flips made from one scan of all rows, each evaluated again after those
            before it; more than 1 changes the order of flips somewhat and saves scans.
        client: A Dask ``distributed.Client`` whose workers hold the blocks (``exact`` and
            ``paper``); None keeps them in this process. Any number of workers gives the same
            flips.
        checkpoint: Folder or URL where the state is stored every ``checkpoint_every`` flips; a
            call with the same inputs continues from there with the same flips. ``posterior``
            stores none, because it has no steps.
        checkpoint_every: Flips between two stored states, at least 1.
        on_step: Called with each ``Flip`` after it was made.
        on_round: Called with the number of each finished round of ``class_posterior``.

    Returns:
        The labels, the history of flips, the losses, the probabilities, and why it stopped.

    Raises:
        InputError: For labels, an inverse, or options that do not fit.
        StageError: If a worker that held rows was lost.
        StoreError: If the stored state is damaged.

    Source:
        DeOliveira et al. 2025, Algorithm 1 (``paper``); ``exact`` is derived from their L(Z).
    """
    options = Options(
        method=method,
        steps=steps,
        beta=beta,
        noise=noise,
        noise_rate=noise_rate,
        confidence=confidence,
        blocks=blocks,
        flips_per_step=flips_per_step,
        checkpoint_every=checkpoint_every,
    )
    source = as_inverse(inverse)
    num_classes = check_classes(num_classes)
    given = check_labels(labels, num_classes, source.shape[0])
    refuse_one_class(given)
    check_noise_rate(noise_rate, num_classes)
    lock = check_locked(locked, len(given))
    diagonal = checked_diagonal(source)
    G, Z = class_matrix(source, given, num_classes)
    posterior = class_posterior(
        source,
        diagonal,
        G,
        given,
        noise=noise,
        noise_rate=noise_rate,
        estimate=estimate,
        first_probs=check_probs(first_probs, G.shape),
        rounds=ROUNDS if method == "posterior" else 1,
        locked=lock,
        on_round=on_round,
    )
    reliability, flags = assess(posterior, given, lock)
    probability, other = _most_probable_other(posterior, given)
    keep = lock | (probability < confidence)
    counts = np.bincount(given, minlength=num_classes)
    before = block_error(Z, counts, beta)
    limit = None if steps is None or isinstance(steps, str) else int(steps)
    if method == "posterior":
        current = posterior.probabilities[np.arange(len(given)), given]
        changed = np.flatnonzero(flags & ~keep & (probability > current))
        # the most probable change first, then by image
        changed = changed[np.argsort(current[changed], kind="stable")]
        reached = limit is not None and limit <= len(changed)
        changed = changed[:limit]
        result, history = given.copy(), []
        result[changed] = other[changed]
        changes = _changes_alone(G, Z, diagonal, given, changed, other[changed], float(beta))
        for step, (i, change) in enumerate(zip(changed.tolist(), changes.tolist(), strict=True), 1):
            flip = Flip(step, i, int(given[i]), int(result[i]), change, before + change)
            history.append(flip)
            if on_step is not None:
                on_step(flip)
        after = before
        if len(changed):
            G, Z = class_matrix(source, result, num_classes)
            after = block_error(Z, np.bincount(result, minlength=num_classes), beta)
        losses = [before, after]
    else:
        if steps == "auto":
            limit = round(posterior.noise.rate * int((~lock).sum()))
        descent = start_descent(source, diagonal, G, Z, given, keep, options, client, checkpoint)
        del G  # the blocks have their own
        reached = descent.run(options, limit, on_step)
        result, history, G = descent.labels, descent.history, descent.finish()
        losses = [before, *(flip.loss for flip in history)]
        flags = (result != given) & reliability.can_judge
        share = float(1.0 - posterior.quality[flags].mean()) if flags.any() else None
        reliability = replace(reliability, expected_precision=share)
    counts_after = np.bincount(result, minlength=num_classes)
    left_out = (*left_out_terms(counts), *left_out_terms(counts_after))
    return RefurbishResult(
        labels=result,
        history=tuple(history),
        losses=np.array(losses),
        G=G,
        noise=posterior.noise,
        posterior=posterior,
        reliability=reliability,
        flagged=flags,
        abstained=~lock & (posterior.probabilities.max(axis=1) < confidence),
        left_out=tuple(dict.fromkeys(left_out)),
        stopped=_why_stopped(
            options,
            limit if reached else None,
            counts if method == "posterior" else counts_after,
            reliability.can_judge,
        ),
    )


def _changes_alone(
    G: NDArray[np.float64],
    Z: NDArray[np.float64],
    diagonal: NDArray[np.float64],
    given: NDArray[np.int64],
    images: NDArray[np.int64],
    classes: NDArray[np.int64],
    beta: float,
) -> NDArray[np.float64]:
    """Return the change of L(Z) by each of F flips alone, (F,), by the formula of ``exact``."""
    counts = np.bincount(given, minlength=len(Z)).astype(np.float64)
    offset, slope, curve, pull, own, push, _ = exact_tables(Z, counts, beta)
    old, new, a = given[images], classes, diagonal[images]
    rows = G[images]
    left, entered = rows[np.arange(len(old)), old], rows[np.arange(len(old)), new]
    h = rows @ reciprocal(counts)
    out = own[old, 0] + own[old, 1] * a + own[old, 2] * left + own[old, 3] * h
    out += offset[old, new] + entered * slope[old, new] + a * curve[new]
    out += (push[old, 0] * h + push[old, 1] * a + push[old, 2] * left) * pull[new]
    # moves that the tables exclude, because they change which terms are left out
    before = block_error(Z, counts, beta)
    for place in np.flatnonzero(np.isinf(offset[old, new])):
        o, j = int(old[place]), int(new[place])
        sizes = counts.copy()
        sizes[o] -= 1
        sizes[j] += 1
        after = block_error(moved(Z, rows[place], float(a[place]), o, j), sizes, beta)
        out[place] = after - before
    return out


def _most_probable_other(
    posterior: Posterior, given: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the probability of each image's most probable other class, (N,), and that class.

    It is one that has given labels.
    """
    q = posterior.probabilities.copy()
    q[np.arange(len(given)), given] = -1.0
    q[:, np.bincount(given, minlength=q.shape[1]) == 0] = -1.0
    classes = q.argmax(axis=1)
    return q.max(axis=1), classes.astype(np.int64)


def _why_stopped(
    options: Options, limit: int | None, counts: NDArray[np.int64], can_judge: bool
) -> str:
    """Return why no more labels were changed; ``limit`` is None if none was reached."""
    if limit is not None:
        if options.steps != "auto":
            return f"the limit of {counted(limit, 'step')} was reached"
        what = "changed labels" if options.method == "exact" else "steps"
        return f"the number of {what} reached the number of labels estimated wrong ({limit})"
    if np.count_nonzero(counts) < 2:
        return "all labels are of one class, so that there is no other class"
    if options.method == "posterior" and not can_judge:
        return "the labels cannot be judged, so that none was changed"
    return {
        "paper": "the gradient favours no label change",
        "exact": "no change of one label lowers L(Z)",
        "posterior": "no label change is more probable than keeping the label",
    }[options.method]
