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
from ntkdist.labels.result import Flip, RefurbishResult

METHODS = ("exact", "paper")
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
    source = as_inverse(inverse)
    n = source.shape[0]
    start = check_labels(labels, num_classes, n)
    beta = check_beta(beta)
    diagonal = checked_diagonal(source)
    G, Z = class_matrix(source, start, num_classes)
    counts = np.bincount(start, minlength=num_classes)
    rows = Rows(G, diagonal, start, blocks)
    columns = Columns(source)
    intra, inter = sums(Z, counts.astype(np.float64), beta)
    losses = [intra - inter]
    history: list[Flip] = []
    left_out = left_out_terms(counts)
    make_scan = _exact.scan if method == "exact" else _paper.scan
    limit = steps
    while True:
        if limit is not None and len(history) >= limit:
            stopped = "steps"
            break
        value, index, new = rows.best(make_scan(Z, counts, beta))
        if not value < -ROUNDING * (abs(intra) + abs(inter)):
            stopped = "none"
            break
        g, a, old = rows.row(index)
        Z = moved(Z, g, a, old, new)
        counts[old] -= 1
        counts[new] += 1
        rows.flip(index, old, new, columns.get(index, rows.likely))
        intra, inter = sums(Z, counts.astype(np.float64), beta)
        losses.append(intra - inter)
        history.append(Flip(len(history) + 1, index, old, new, losses[-1] - losses[-2], losses[-1]))
        if on_step is not None:
            on_step(history[-1])
    return RefurbishResult(rows.labels(), tuple(history), np.array(losses), rows.G(), left_out, stopped)
