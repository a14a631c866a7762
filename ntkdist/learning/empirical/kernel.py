"""Tangent kernels of networks of finite width, from their parameters as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError, did_you_mean
from ntkdist.learning.checks import check_images, check_whole, require_jax
from ntkdist.learning.empirical.contraction import add_layer
from ntkdist.learning.empirical.states import image_bytes, states
from ntkdist.learning.finite.network import FiniteNetwork, Params

KINDS = ("ntk", "trace", "pntk", "logit")
PARAMETERIZATIONS = ("ntk", "standard")

# Of what is held for rows and columns together.
_STATE_BYTES = 2**30


def empirical_kernel(
    network: FiniteNetwork,
    params: Params,
    x1: Any,
    x2: Any = None,
    *,
    kind: str = "ntk",
    parameterization: str = "ntk",
    batch: int | None = None,
) -> NDArray[np.float64]:
    """Return the tangent kernel Θ = ∇f(x) ∇f(x')ᵀ of a network of finite width.

    The Jacobian is never formed: each layer's part is contracted from its inputs and deltas
    (``contraction``). The network is passed through, and products are taken, in float32;
    layers are added up in float64. Layers with ``trainable=False`` add nothing.

    Args:
        network: The network.
        params: Its parameters, as ``FiniteNetwork.init`` or training leave them.
        x1: (n, H, W, C) images, or (n, D) features.
        x2: (m, H, W, C) images; None means ``x1``, and little more than half of the
            entries are computed.
        kind: What becomes of the K outputs. ``ntk``: all pairs of outputs. ``trace``: the mean
            over outputs, (1/K) Σ_o Θ_oo. ``pntk``: (1/K) Σ_oo' Θ_oo', the kernel of
            (1/√K) Σ_o f_o. ``logit``: Θ_00, of the first output. At initialisation the last three
            have the infinite network's kernel for their mean at large width; ``pntk`` and
            ``logit`` go back through the network once instead of K times.
        parameterization: ``ntk``, in which networks are drawn and trained here, or ``standard``:
            derivatives by weights and biases whose own deviations are W_std/√fan_in and b_std.
        batch: Images whose activations are held at once, of rows and of columns; None takes as
            many as 1 GiB holds. Where it is smaller than n, images are passed through repeatedly.

    Returns:
        (n, K, m, K) for ``ntk``, else (n, m), float64; symmetric to the bit when ``x2`` is None.

    Raises:
        InputError: For images, parameters or settings that do not fit, a network without
            trainable layers, or derivatives beyond float32.

    Source:
        Jacot et al. 2018 (tangent kernel); Novak, Sohl-Dickstein and Schoenholz 2022 (structured
        derivatives); Mohamadi, Bae and Sutherland 2023 (pNTK); Sohl-Dickstein et al. 2020
        (parameterisations).
    """
    require_jax()
    _check_choice("kind", kind, KINDS)
    _check_choice("parameterization", parameterization, PARAMETERIZATIONS)
    first = check_images(x1, arch=network.arch)
    second = first if x2 is None else check_images(x2, first.shape[1:])
    network.check(params, first.shape[1:])
    if not any(network.trainable()):
        raise InputError(
            f"architecture {network.arch}: no layer is trainable; give one trainable=True"
        )
    cotangents = _cotangents(kind, network.num_classes)
    if batch is None:
        each = image_bytes(network, params, first.shape[1:], len(cotangents))
        batch = max(1, _STATE_BYTES // (2 * each))
    check_whole("batch", batch, 1, "give the images to hold at once, or None")
    V = len(cotangents) if kind == "ntk" else 1

    def states_at(images: NDArray[np.float32], start: int) -> Any:
        part, standard = images[start : start + batch], parameterization == "standard"
        fold = kind == "trace"
        return states(network, params, part, cotangents, fold=fold, standard=standard)

    out = np.zeros((len(first), V, len(second), V))
    for i in range(0, len(first), batch):
        rows = states_at(first, i)
        for j in range(i if x2 is None else 0, len(second), batch):
            columns = rows if x2 is None and i == j else states_at(second, j)
            block = out[i : i + batch, :, j : j + batch]
            for a, b in zip(rows, columns, strict=True):
                add_layer(block, a, b)
    flat = out.reshape(len(first) * V, -1)
    if x2 is None:
        _mirror(flat)
    if not np.isfinite(flat).all():
        raise InputError(
            "the network's derivatives are beyond float32; give smaller images or parameters"
        )
    return out if kind == "ntk" else flat


def _cotangents(kind: str, K: int) -> NDArray[np.float32]:
    """Return the combinations (V, K) of outputs whose kernels are asked for."""
    if kind == "pntk":
        return np.full((1, K), K**-0.5, dtype=np.float32)
    if kind == "logit":
        return np.eye(1, K, dtype=np.float32)
    return np.eye(K, dtype=np.float32) * np.float32(1.0 if kind == "ntk" else K**-0.5)


def _mirror(square: NDArray[np.float64]) -> None:
    """Copy the upper triangle to the lower one, in bands so that no second matrix is needed."""
    band = 512
    for start in range(0, len(square), band):
        stop = start + band
        corner = square[start:stop, start:stop]
        corner[...] = np.triu(corner) + np.triu(corner, 1).T
        square[stop:, start:stop] = square[start:stop, stop:].T


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(
            f"{name}={value!r} is unknown; use {', '.join(known)}" + did_you_mean(str(value), known)
        )
