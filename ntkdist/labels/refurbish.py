"""Refurbishment: change labels, one at a time or all at once, with the history of every change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError
from ntkdist.labels.block_error import left_out_terms, reciprocal
from ntkdist.labels.checks import METHODS, Options, check_locked, check_probs
from ntkdist.labels.class_matrix import check_labels, class_matrix
from ntkdist.labels.compiled import exact_tables, moved, sums
from ntkdist.labels.descent.blocks import place_rows
from ntkdist.labels.descent.checkpoint import Checkpoint, State, fingerprint
from ntkdist.labels.descent.columns import Columns
from ntkdist.labels.descent.loop import Descent
from ntkdist.labels.inverse import Inverse, as_inverse, checked_diagonal
from ntkdist.labels.noise import NoiseEstimate, highest_rate
from ntkdist.labels.posterior import ROUNDS, Posterior, class_posterior
from ntkdist.labels.reliability import Reliability, assess
from ntkdist.labels.result import Flip, RefurbishResult

__all__ = ["METHODS", "refurbish"]


class Judged(NamedTuple):
    """The posterior, how far it can be trusted, and the labels that may be flagged (N,)."""

    posterior: Posterior
    reliability: Reliability
    flags: NDArray[np.bool_]


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
    all labels and the noise rate (``class_posterior``). It works best at a small ridge, 1e-3,
    whatever the noise. All labels are decided at once, from solutions H⁻¹Y and the diagonal of
    the inverse, so that a Cholesky factor serves as well as the inverse and no column of it is
    asked for. The history lists the changed labels, the surest first; ``delta_loss`` is the
    change of L(Z) by that flip alone, made in the given labels, and ``loss`` is L(Z) with that
    flip; ``losses`` is (2,), L(Z) before and after all of them. A flip that empties a class,
    leaves it one member or begins one changes which terms of L(Z) are left out as 0/0; its
    ``delta_loss`` is then the difference of the two sums without them. ``steps`` bounds the
    number of changes; by itself it ends where no other class is more probable than the given
    one.

    ``exact`` (this package's own) takes the flip with the most negative change of L(Z),
    class sizes included. It cannot cycle and ends by itself when no flip lowers L(Z). It
    takes no image out of a class with two members or fewer and puts none into a class
    without members, because L(Z) leaves such classes' terms out and would fall for that
    reason alone. Run to the end it also changes correct labels of unusual images;
    ``steps="auto"`` ends as soon as as many labels differ from the given ones as are
    estimated wrong. Its best ridge depends on the noise (``choose_ridge``).

    ``paper`` is Algorithm 1: the row whose label the gradient most wants changed goes to
    the class the gradient most wants. It has no end of its own and may change the same
    labels back and forth, so it needs ``steps``; ``"auto"`` takes as many as labels are
    estimated wrong. Classes without members are no targets (their gradient is 0/0).

    The noise is estimated from leave-one-out predictions under this inverse
    (``estimate_noise``), better from the Gram itself (``choose_ridge``): with most labels wrong a
    small ridge alone says it within 0.1 at best. Where labels cannot be judged
    (``Reliability``), ``posterior`` changes none, and none is flagged by any method. Ties go to
    the smallest image, then the smallest class.

    Args:
        inverse: H⁻¹ (N, N), float: an array, or anything ``as_inverse`` takes, such as a
            ``CholeskyFactor`` for ``posterior``.
        labels: (N,) given labels, integers in 0..K−1.
        num_classes: K.
        method: ``posterior``, ``exact`` or ``paper``.
        steps: The most label changes; ``"auto"``; or None for no bound (not ``paper``).
        beta: Weight β ≥ 0 of the between-class term; not published, 1 is our choice.
        noise: How labels go wrong: ``symmetric``, ``class-conditional``, or ``auto`` to choose
            by the given labels (``estimate_noise``).
        noise_rate: ε of symmetric noise, 0 to (K−1)/K; None estimates it.
        estimate: The noise as ``choose_ridge`` estimates it; None estimates it from this inverse.
        first_probs: (N, K) class probabilities that an image's own label has no part in, to
            begin the posterior with, such as another model's out-of-sample predictions; None
            takes those of the estimate, or makes them from this inverse.
        locked: Labels known to be right: (N,) bool or indices. They are never changed and
            count as certain.
        confidence: Images for which no other class has at least this probability keep their
            label; those for which the given one has not either are ``abstained``.
        blocks: Number of row blocks that G is held in (``exact`` and ``paper``); any number
            gives the same flips.
        flips_per_step: Flips made from one scan of all rows, each judged anew with those
            before it; above 1 the order of flips changes somewhat, and scans are saved.
        client: A Dask ``distributed.Client`` whose workers hold the blocks (``exact`` and
            ``paper``); None keeps them in this process. Any number of workers gives the same
            flips.
        checkpoint: Folder or URL where the state is kept every ``checkpoint_every`` flips; a
            call with the same inputs goes on from there with the same flips. ``posterior``
            keeps none: it has no steps.
        checkpoint_every: Flips between two kept states, at least 1.
        on_step: Called with each ``Flip`` after it was made.
        on_round: Called with the number of each finished round of ``class_posterior``.

    Returns:
        The labels, the history of flips, the losses, the probabilities, and why it ended.

    Raises:
        InputError: For labels, an inverse, or options that do not fit.
        StageError: If a worker that held rows was lost.
        StoreError: If the kept state is damaged.

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
    given = check_labels(labels, num_classes, source.shape[0])
    if noise_rate is not None and num_classes > 1 and noise_rate > highest_rate(num_classes):
        raise InputError(
            f"noise_rate={noise_rate} is above (K−1)/K = {highest_rate(num_classes):.3g}, at which "
            "labels say nothing of the true class; give a lower rate, or leave it out"
        )
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
    keep = lock | (_surest(posterior, given)[0] < confidence)
    if method == "posterior":
        keep |= ~flags
        judged = Judged(posterior, reliability, flags)
        return _all_at_once(source, diagonal, G, Z, given, judged, lock, keep, options, on_step)

    kept, start = None, None
    if checkpoint is not None:
        decides = {"G": G, "diagonal": diagonal, "given": given, "keep": keep}
        settings = [method, float(beta), flips_per_step]
        kept = Checkpoint(checkpoint, fingerprint(**decides, settings=settings))
        start = kept.load()
    if start is None:
        h = G @ reciprocal(np.bincount(given, minlength=num_classes))
        start = State(G, h, Z, given.copy(), ())
    rows = place_rows(start.G, diagonal, start.labels, keep, start.h, blocks, client)
    del G  # the blocks hold their own
    descent = Descent(
        rows,
        Columns(source),
        given,
        start.labels.copy(),
        start.Z,
        float(beta),
        list(start.history),
        kept,
        int(checkpoint_every),
    )
    stopped = _run(descent, options, posterior, int((~lock).sum()), on_step)
    changed = descent.labels != given
    if not reliability.can_judge:
        changed[:] = False
    share = float(1.0 - posterior.quality[changed].mean()) if changed.any() else None
    reliability = replace(reliability, expected_precision=share)
    counts = np.bincount(given, minlength=num_classes)
    return RefurbishResult(
        labels=descent.labels,
        history=tuple(descent.history),
        losses=np.array([_loss(Z, counts, beta), *(f.loss for f in descent.history)]),
        G=descent.finish(),
        noise=posterior.noise,
        posterior=posterior,
        reliability=reliability,
        flagged=changed,
        abstained=~lock & (posterior.probabilities.max(axis=1) < confidence),
        left_out=_left_out(counts, descent.counts),
        stopped=stopped,
    )


def _all_at_once(
    source: Inverse,
    diagonal: NDArray[np.float64],
    G: NDArray[np.float64],
    Z: NDArray[np.float64],
    given: NDArray[np.int64],
    judged: Judged,
    lock: NDArray[np.bool_],
    keep: NDArray[np.bool_],
    options: Options,
    on_step: Callable[[Flip], None] | None,
) -> RefurbishResult:
    """Give every flagged image the class that the posterior decides for."""
    posterior = judged.posterior
    probability, other = _surest(posterior, given)
    current = posterior.probabilities[np.arange(len(given)), given]
    wanted = np.flatnonzero(~keep & (probability > current))
    # the surest first: by what is left for the given label, then by image
    wanted = wanted[np.argsort(current[wanted], kind="stable")]
    limit = None if options.steps in ("auto", None) else int(options.steps)
    counts = np.bincount(given, minlength=len(Z))
    if limit is None or limit > len(wanted):
        stopped = _why_none("posterior", counts)
        if not judged.reliability.can_judge and np.count_nonzero(counts) > 1:
            stopped = "the labels cannot be judged, so that none was changed"
    else:
        wanted, stopped = wanted[:limit], _why_enough(limit, False, False)
    loss = _loss(Z, counts, options.beta)
    changes = _changes_alone(G, Z, diagonal, given, wanted, other[wanted], float(options.beta))
    history = []
    for step, (index, change) in enumerate(zip(wanted.tolist(), changes.tolist(), strict=True), 1):
        old, new = int(given[index]), int(other[index])
        history.append(Flip(step, index, old, new, change, loss + change))
        if on_step is not None:
            on_step(history[-1])
    labels, after = given.copy(), loss
    labels[wanted] = other[wanted]
    counts_after = np.bincount(labels, minlength=len(Z))
    if len(wanted):
        G, Z = class_matrix(source, labels, len(Z))
        after = _loss(Z, counts_after, options.beta)
    return RefurbishResult(
        labels=labels,
        history=tuple(history),
        losses=np.array([loss, after]),
        G=G,
        noise=posterior.noise,
        posterior=posterior,
        reliability=judged.reliability,
        flagged=judged.flags,
        abstained=~lock & (posterior.probabilities.max(axis=1) < options.confidence),
        left_out=_left_out(counts, counts_after),
        stopped=stopped,
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
    """Return the change of L(Z) by each flip alone, (F,), by the formula of the exact method."""
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
    before = _loss(Z, counts, beta)
    for place in np.flatnonzero(np.isinf(offset[old, new])):
        o, j = int(old[place]), int(new[place])
        sizes = counts.copy()
        sizes[o] -= 1
        sizes[j] += 1
        out[place] = _loss(moved(Z, rows[place], float(a[place]), o, j), sizes, beta) - before
    return out


def _loss(Z: NDArray[np.float64], counts: NDArray[Any], beta: float) -> float:
    intra, inter = sums(Z, counts.astype(np.float64), float(beta))
    return float(intra - inter)


def _left_out(before: NDArray[np.int64], after: NDArray[np.int64]) -> tuple[str, ...]:
    """Return the messages about terms left out at the start or at the end."""
    messages = left_out_terms(before)
    return messages + tuple(m for m in left_out_terms(after) if m not in messages)


def _run(
    descent: Descent,
    options: Options,
    posterior: Posterior,
    unlocked: int,
    on_step: Callable[[Flip], None] | None,
) -> str:
    """Make flips until one of the ends is reached; return which, in words."""
    auto, steps = options.steps == "auto", options.steps
    flips = descent.choose(options.method, options.flips_per_step)
    limit = (
        round(posterior.noise.rate * unlocked) if auto else None if steps is None else int(steps)
    )
    by_changes = auto and options.method == "exact"
    while limit is None or (descent.changed if by_changes else len(descent.history)) < limit:
        flip = next(flips, None)
        if flip is None:
            return _why_none(options.method, descent.counts)
        if on_step is not None:
            on_step(flip)
    return _why_enough(int(limit), auto, by_changes)


def _surest(
    posterior: Posterior, given: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return each image's most probable class other than the given one, and its probability."""
    q = posterior.probabilities.copy()
    q[np.arange(len(given)), given] = -1.0
    classes = q.argmax(axis=1)
    return q.max(axis=1), classes.astype(np.int64)


def _why_enough(limit: int, auto: bool, by_changes: bool) -> str:
    if by_changes:
        return f"as many labels were changed as are estimated wrong ({limit})"
    if auto:
        return f"as many steps were taken as labels are estimated wrong ({limit})"
    return f"the {limit} steps asked for were taken"


def _why_none(method: str, counts: NDArray[np.int64]) -> str:
    if np.count_nonzero(counts) < 2:
        return "all labels are of one class: there is no other class to change to"
    return {
        "paper": "the gradient wants no label changed",
        "exact": "no change of one label lowers L(Z)",
        "posterior": "no other label is more probable than the one an image has",
    }[method]
