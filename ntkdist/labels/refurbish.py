"""Refurbishment: change one label at a time so that L(Z) falls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ntkdist.errors import InputError, did_you_mean
from ntkdist.labels import _exact, _paper
from ntkdist.labels._columns import Columns
from ntkdist.labels._rows import Rows, moved
from ntkdist.labels.block_error import check_beta, left_out_terms, sums
from ntkdist.labels.class_matrix import check_labels, class_matrix
from ntkdist.labels.inverse import as_inverse, checked_diagonal
from ntkdist.labels.leave_one_out import fit_noise, leave_one_out
from ntkdist.labels.result import Flip, RefurbishResult

METHODS = {"exact": _exact.scan, "paper": _paper.scan}
# A fall of L(Z) smaller than this part of its terms is rounding, not a gain.
ROUNDING = 1e-12


def refurbish(
    inverse: Any,
    labels: Any,
    num_classes: int,
    *,
    method: str = "exact",
    steps: int | str | None = None,
    beta: float = 1.0,
    blocks: int = 1,
    on_step: Callable[[Flip], None] | None = None,
) -> RefurbishResult:
    """Change labels one at a time so that L(Z) falls, and return every change.

    ``exact`` (this package's own) takes the flip with the most negative change of L(Z),
    class sizes included. It cannot cycle and ends by itself when no flip lowers L(Z). It
    takes no image out of a class with two members or fewer and puts none into a class
    without members, because L(Z) leaves such classes' terms out and would fall for that
    reason alone.

    ``paper`` is Algorithm 1: the row whose label the gradient most wants changed goes to
    the class the gradient most wants. It has no end of its own and may change the same
    labels back and forth, so it needs ``steps``. Classes without members are no targets
    (their gradient is 0/0).

    ``steps="auto"`` is this package's own rule. The noise rate ε is estimated from the
    leave-one-out predictions of the given labels (``NoiseModel``); ``exact`` then ends as
    soon as ε·N labels differ from the given ones, ``paper`` after ε·N steps. Run to the
    end, ``exact`` also changes correct labels of unusual images; this rule is what keeps
    most of those. The estimate assumes wrong labels of any kind equally often, and needs
    more than a few hundred images where most labels are wrong (``fit_noise``).

    Ties go to the smallest image, then the smallest class.

    Args:
        inverse: H⁻¹ (N, N), float: an array, or anything ``as_inverse`` takes.
        labels: (N,) given labels, integers in 0..K−1.
        num_classes: K.
        method: ``exact`` or ``paper``.
        steps: The most label changes; ``"auto"``; or None to run until no change lowers
            L(Z) (``exact`` only).
        beta: Weight β ≥ 0 of the between-class term; not published, 1 is our choice.
        blocks: Number of row blocks that G is held in; any number gives the same flips.
        on_step: Called with each ``Flip`` after it was made.

    Returns:
        The labels, the history of flips, the losses, and why it ended.

    Raises:
        InputError: For labels, an inverse, or options that do not fit.

    Source:
        DeOliveira et al. 2025, Algorithm 1 (``paper``); ``exact`` is derived from their L(Z).
    """
    check_options(method, steps, beta, blocks)
    beta = float(beta)
    source = as_inverse(inverse)
    given = check_labels(labels, num_classes, source.shape[0])
    diagonal = checked_diagonal(source)
    G, Z = class_matrix(source, given, num_classes)
    noise = fit_noise(leave_one_out(G, diagonal, given), given)
    estimate = round(noise.rate * len(given))

    rows = Rows(G, diagonal, given, blocks)
    del G  # the blocks hold their own
    columns = Columns(source)
    current = given.copy()
    counts = np.bincount(given, minlength=num_classes)
    left_out = left_out_terms(counts)
    intra, inter = sums(Z, counts.astype(np.float64), beta)
    losses, history, changed = [intra - inter], list[Flip](), 0
    by_changes = steps == "auto" and method == "exact"
    limit = estimate if steps == "auto" else None if steps is None else int(steps)
    while True:
        if limit is not None and (changed if by_changes else len(history)) >= limit:
            stopped = _why_enough(limit, steps == "auto", by_changes)
            break
        value, index, new = rows.best(METHODS[method](Z, counts, beta))
        # Algorithm 1 acts on any gradient; a descent must not take rounding for a gain.
        least = ROUNDING * (abs(intra) + abs(inter)) if method == "exact" else 0.0
        if not value < -least:
            stopped = _why_none(method, counts)
            break
        g, a, old = rows.row(index)
        rows.flip(index, old, new, columns.get(index, rows.likely))
        Z = moved(Z, g, a, old, new)
        counts[old] -= 1
        counts[new] += 1
        changed += int(new != given[index]) - int(old != given[index])
        current[index] = new
        intra, inter = sums(Z, counts.astype(np.float64), beta)
        losses.append(intra - inter)
        flip = Flip(len(history) + 1, index, old, new, losses[-1] - losses[-2], losses[-1])
        history.append(flip)
        if on_step is not None:
            on_step(flip)
    left_out += tuple(m for m in left_out_terms(counts) if m not in left_out)
    return RefurbishResult(
        labels=current,
        history=tuple(history),
        losses=np.array(losses),
        G=rows.whole(),
        noise=noise,
        left_out=left_out,
        stopped=stopped,
    )


def _why_enough(limit: int, auto: bool, by_changes: bool) -> str:
    if by_changes:
        return f"as many labels were changed as are estimated wrong ({limit})"
    if auto:
        return f"as many steps were taken as labels are estimated wrong ({limit})"
    return f"the {limit} steps asked for were taken"


def _why_none(method: str, counts: np.ndarray) -> str:
    if np.count_nonzero(counts) < 2:
        return "all labels are of one class: there is no other class to change to"
    if method == "paper":
        return "the gradient wants no label changed"
    return "no change of one label lowers L(Z)"


def check_options(method: str, steps: int | str | None, beta: float, blocks: int = 1) -> None:
    """Refuse options ``refurbish`` would refuse, before anything costly is done.

    Args:
        method: As for ``refurbish``.
        steps: As for ``refurbish``.
        beta: As for ``refurbish``.
        blocks: As for ``refurbish``.

    Raises:
        InputError: For the first that does not fit.
    """
    check_beta(beta)
    if method not in METHODS:
        raise InputError(
            f"method={method!r} is not one of {', '.join(METHODS)}"
            + did_you_mean(str(method), METHODS)
        )
    if isinstance(steps, str):
        if steps != "auto":
            raise InputError(
                f"steps={steps!r} must be a whole number ≥ 0, 'auto' or None"
                + did_you_mean(steps, ["auto"])
            )
    elif steps is None:
        if method == "paper":
            raise InputError(
                "method='paper' does not stop by itself: give steps (a number, or 'auto' for "
                "as many as labels are estimated wrong)"
            )
    elif isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 0:
        raise InputError(f"steps={steps!r} must be a whole number ≥ 0, 'auto' or None")
    if isinstance(blocks, bool) or not isinstance(blocks, (int, np.integer)) or blocks < 1:
        raise InputError(f"blocks={blocks!r} must be a whole number ≥ 1")
