"""KR-V1 and KR-V2: a vote of all training pairs, those of like kernel entries counting more."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError

Matrix = NDArray[np.float64]


class LabelVotes:
    """Z̃ as a function of one kernel entry h, from five sums over the training pairs.

    Z̃(h) = Σ_ij w_ij v_i v_j / Σ_ij w_ij with w_ij = (max H − min H)² − (h − H_ij)². With the
    square expanded the numerator is ((max H − min H)² − h²) S + 2h S_H − S_HH, where S = Σ v_i v_j,
    S_H = Σ H_ij v_i v_j and S_HH = Σ H_ij² v_i v_j, and the denominator is the same with v = 1:
    O(n²) once, O(1) an entry. H and h are counted from the mean of H, so that the squares do not
    cancel. An h outside min H..max H, as a test image may have, counts as the nearer end: beyond
    it the published weights turn negative.

    Args:
        gram: (n, n) H of the training images.
        votes: (n,) v: the labels (KR-V1) or H⁻¹y (KR-V2).

    Raises:
        InputError: If all entries of H are equal, which leaves 0/0.

    Source:
        Chen, He and Su 2020 (LANTK-KR-V1 and V2).
    """

    def __init__(self, gram: Matrix, votes: Matrix) -> None:
        self._low, self._high = float(gram.min()), float(gram.max())
        if not self._high > self._low:
            raise InputError(
                f"all entries of the kernel are {self._low:.6g}; a label-aware part needs a kernel "
                "that tells images apart"
            )
        self._mean = float(gram.mean())
        u = gram - self._mean
        self._labelled = float(votes.sum() ** 2), float(votes @ u @ votes), votes @ u**2 @ votes
        self._plain = float(u.size), float(u.sum()), float(np.sum(u**2))

    def __call__(self, h: Matrix) -> Matrix:
        """Return Z̃ of kernel entries, of their shape."""
        h = np.clip(h, self._low, self._high) - self._mean
        reach = (self._high - self._low) ** 2 - h**2
        above, below = (
            reach * total + 2.0 * h * first - second
            for total, first, second in (self._labelled, self._plain)
        )
        return above / below
