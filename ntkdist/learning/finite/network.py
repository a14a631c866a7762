"""An architecture at finite width: drawing its parameters and applying them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ntkdist.errors import InputError
from ntkdist.learning.checks import check_whole, require_jax
from ntkdist.learning.finite.layers import executed, forward, weight_shapes, weighted
from ntkdist.networks.architecture import Architecture

Params: TypeAlias = tuple[tuple[Any, Any], ...]

# this purpose of a seed, beside the order of the images in training
_WEIGHTS = 11


@dataclass(frozen=True)
class FiniteNetwork:
    """An architecture at finite width, in the NTK parameterisation.

    Weights and biases are N(0, 1); a weight layer computes W_std/√fan_in · (W ∗ x) + b_std · b,
    so that the NNGP and tangent kernels at initialisation tend to ``kernel_matrix`` with an
    error of O(width^−1/2). The last Dense has ``num_classes`` outputs, whose kernels are equal and
    independent. Layers with ``trainable=False`` keep their initial weights: with both ends of
    ``cntk-gap-D`` fixed, its readout stays as random as it was drawn.

    Attributes:
        arch: The architecture; whatever ``Architecture.parse`` takes can be given.
        width: Channels or units of every weight layer but the last.
        num_classes: K, units of the last layer.

    Raises:
        InputError: For a width or number of classes below 1.

    Source:
        Jacot et al. 2018 (parameterisation); Lee et al. 2019 (width^−1/2).
    """

    arch: Architecture
    width: int
    num_classes: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "arch", Architecture.parse(self.arch))
        check_whole("width", self.width, 1, "give the channels of each hidden layer, such as 64")
        check_whole("num_classes", self.num_classes, 1, "give the number of classes")

    def init(self, seed: int, image_shape: tuple[int, int, int]) -> Params:
        """Draw the parameters.

        Args:
            seed: At least 0; the same seed gives the same bits.
            image_shape: (H, W, C).

        Returns:
            (W, b) of every weight layer in order, float32 jax arrays; b is None where
            b_std = 0. Of a Residual, the branch stands before the shortcut.

        Raises:
            InputError: If the images do not fit the architecture.
        """
        require_jax()
        import jax.numpy as jnp

        check_whole("seed", seed, 0, "give a whole number of at least 0")
        random = np.random.default_rng([seed, _WEIGHTS])
        params = []
        for layer, shape in zip(
            weighted(executed(self.arch)), self._shapes(image_shape), strict=True
        ):
            W = jnp.asarray(random.standard_normal(shape, dtype=np.float32))
            b = None
            if layer.b_std:
                b = jnp.asarray(random.standard_normal(shape[-1], dtype=np.float32))
            params.append((W, b))
        return tuple(params)

    def apply(self, params: Params, x: Any) -> Any:
        """Return the outputs for images; may be differentiated and compiled by jax.

        Args:
            params: As ``init`` returns them.
            x: (N, H, W, C) images, or (N, D) features.

        Returns:
            (N, K) float32 jax array.

        Raises:
            InputError: If images and parameters have shapes that do not fit the network.
        """
        import jax.numpy as jnp

        x = jnp.asarray(x, jnp.float32)
        if x.ndim == 2:
            self.arch.check_features()
            x = x[:, None, None, :]
        if x.ndim != 4:
            raise InputError(f"images have shape {x.shape}; (N, H, W, C) is needed")
        self.check(params, x.shape[1:])
        return forward(executed(self.arch), iter(params), x)

    def check(self, params: Params, image_shape: tuple[int, ...]) -> None:
        """Refuse parameters whose shapes do not fit the network and images.

        Args:
            params: As ``init`` returns them.
            image_shape: (H, W, C).

        Raises:
            InputError: If they do not fit.
        """
        needed = self._shapes(image_shape)
        found = tuple(W.shape for W, _ in params)
        if needed != found:
            raise InputError(
                f"parameters of shapes {found} do not fit images {image_shape}, which need "
                f"{needed}; draw them with init(seed, {image_shape})"
            )

    def trainable(self) -> tuple[bool, ...]:
        """Return whether each (W, b) of ``init`` trains."""
        return tuple(layer.trainable for layer in weighted(executed(self.arch)))

    def _shapes(self, image_shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return weight_shapes(self.arch, self.width, self.num_classes, image_shape)
