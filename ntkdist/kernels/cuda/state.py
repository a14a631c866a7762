"""Prepared images on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ntkdist.kernels.cuda.layout import Layout


@dataclass(frozen=True)
class CudaState:
    """What ``prepare`` made of n images; the arrays are on the device.

    Attributes:
        layout: The network on images of this shape.
        numbers: (n, size) of the dtype.
        spreads: For each network of the layout (n,) float64, the mean over pixels of K(x, x) at the
            end of its blocks.
        variance: (n,) float64, K(x, x) behind the mean over positions where it matters.
        norm: (n,) float64, what each image was divided by.
    """

    layout: Layout
    numbers: Any
    spreads: tuple[Any, ...]
    variance: Any
    norm: Any

    @property
    def nbytes(self) -> int:
        """Bytes held on the device."""
        return int(self.numbers.nbytes)

    def __len__(self) -> int:
        return int(self.numbers.shape[0])
