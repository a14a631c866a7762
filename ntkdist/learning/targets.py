"""What kernel regression fits: labels as vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError, did_you_mean
from ntkdist.learning.checks import check_labels, check_whole

TARGETS = ("centered", "one-hot")


def targets_of(labels: Any, num_classes: int, targets: str = "centered") -> NDArray[np.float64]:
    """Return the targets of labelled images.

    Args:
        labels: (N,) whole numbers 0..K−1.
        num_classes: K.
        targets: ``one-hot``, or ``centered``: one-hot less 1/K, so that each row sums to 0.

    Returns:
        (N, K) float64.

    Raises:
        InputError: For labels that are not class numbers, or unknown targets.

    Source:
        Arora et al. 2019 (centred targets: 0.9 and −0.1 for K = 10).
    """
    if targets not in TARGETS:
        raise InputError(
            f"targets={targets!r} is unknown; use {' or '.join(TARGETS)}"
            + did_you_mean(str(targets), TARGETS)
        )
    K = check_whole("num_classes", num_classes, 1, "give K")
    given = np.asarray(labels)
    Y = np.eye(K)[check_labels(given, len(given) if given.ndim else 0, K)]
    return Y - 1.0 / K if targets == "centered" else Y
