"""Other programs for the same entries on the same GPU, timed in turns with the cuda backend."""

from __future__ import annotations

import importlib.util
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from _measure import Block, images, in_turns, ratios

from ntkdist import Architecture, Residual
from ntkdist.errors import InputError
from ntkdist.kernels import get_backend
from on_gpu.entries import KINDS, Scale, error, our_blocks
from on_gpu.worker import Refused
from on_gpu.xla import XlaPeer, not_known

SHARE = 0.3  # of the free device memory, for one call of a peer
# The textbook form loses digits in float32 where 1 − c is small; more is a mistake
LARGEST_ERROR = 1e-3


def time_peer(name: str, arch: Architecture, scale: Scale, seconds: float) -> dict[str, Any]:
    """Compare a peer with the cuda backend, and time it in turns with it.

    Args:
        name: ``xla`` or ``neural_tangents``.
        arch: The network.
        scale: Sizes.
        seconds: For everything, as far as the least timings fit.

    Returns:
        The times of both, and their ratio.

    Raises:
        Refused: If the peer is not here, does not take the network, or is wrong.
    """
    start = time.monotonic()
    try:
        _need_jax(scale)
        block, row = PEERS[name](arch, scale, scale.each(2, seconds))
    except (ImportError, InputError, NotImplementedError) as why:
        raise Refused(str(why)) from why
    few = min(4, block.rows)
    x, y = images(few, scale.shape, 1), images(few, scale.shape, 2)  # its first ones
    theirs = np.asarray(block.run())
    theirs = theirs.reshape(-1, block.rows, block.columns)[:, :few, :few]
    row["difference"] = compare(theirs, arch, x, y)
    ours, _ = our_blocks(arch, scale, scale.each(2, seconds - (time.monotonic() - start)))
    times = in_turns({name: block.us, "cuda": ours["cuda"].us}, scale.repeats)
    if scale.simulated:
        del row["tried_us_per_entry"]
        return row | {"simulated": True}
    ratio, extremes = ratios(times[name], times["cuda"])
    us = statistics.median(times[name])
    return row | {"us": times, "us_per_entry": us, "ratio": ratio, "ratio_range": extremes}


def why_not(name: str, arch: Architecture) -> str | None:
    """Return why a peer cannot be timed, as far as that is known without importing it."""
    for package in ("jax", *(() if name == "xla" else (name,))):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    if name == "xla" and (layer := not_known(arch)) is not None:
        return f"it is not written for {'Residual' if isinstance(layer, Residual) else layer}"
    return None


def _need_jax(scale: Scale) -> None:
    import jax

    try:
        platform = jax.devices()[0].platform
    except RuntimeError as why:
        raise Refused(f"jax {jax.__version__} finds no device: {why}") from why
    if platform not in ("gpu", "cuda") and not scale.simulated:
        raise Refused(f"jax {jax.__version__} sees no GPU here, only {platform}")


def xla_block(arch: Architecture, scale: Scale, seconds: float) -> tuple[Block, dict[str, Any]]:
    """Return the XLA peer's fastest block: filters in one pass or two, and images a side."""
    from ntkdist.kernels.cuda.intrinsics import free_bytes

    free = free_bytes()
    tried: dict[str, float] = {}
    found: dict[str, Block] = {}

    def attempt(peer: Any, side: int) -> float:
        name = f"{side} × {side}, {'2 passes' if peer.separable else '1 pass'}"
        if side**2 * peer.bytes_of_pair(scale.shape) > SHARE * free:
            return math.inf
        try:
            a, b = (peer.prepare(images(side, scale.shape, k)) for k in (1, 2))
            block = Block(lambda: peer.block(a, b), side, side).lasting(seconds / 4)
            tried[name] = block.us()
        except Exception as why:  # XLA's own type moves from version to version
            if "RESOURCE_EXHAUSTED" not in str(why) and "ut of memory" not in str(why):
                raise
            return math.inf
        found[name] = block
        return tried[name]

    largest = scale.largest if arch.is_spatial else scale.largest_dense
    side = scale.peer if arch.is_spatial else scale.peer_dense
    peers = [XlaPeer(arch, separable=True)]
    if arch.is_spatial:
        peers.append(XlaPeer(arch, separable=False))
    times = [attempt(peer, side) for peer in peers]
    best, us = peers[int(np.argmin(times))], min(times)
    while side < largest:
        side *= 2
        slower, us = us, attempt(best, side)
        if us > 1.05 * slower:  # small steps back may be noise
            break
    if not tried:
        raise Refused("not even a few pairs fit the device memory")
    name = min(tried, key=lambda name: tried[name])
    block = found[name].lasting(seconds)
    return block, {"block": name, "tried_us_per_entry": tried}


def compare(theirs: np.ndarray, arch: Architecture, x: np.ndarray, y: np.ndarray) -> float:
    """Compare entries of a peer, as it is timed, with those of the cuda backend.

    Args:
        theirs: (k, n, m), the first k of ``KINDS``.
        arch: The network.
        x: The n row images.
        y: The m column images.

    Returns:
        The largest relative difference.

    Raises:
        Refused: If it is beyond ``LARGEST_ERROR``.
    """
    backend = get_backend("cuda")
    ours = backend.block(backend.prepare(arch, x), backend.prepare(arch, y), KINDS)
    largest = max(error(t, ours[kind]) for t, kind in zip(theirs, KINDS, strict=False))
    if not largest <= LARGEST_ERROR:
        raise Refused(f"its entries differ from ours by {largest:.1e}")
    return largest


def neural_tangents_block(
    arch: Architecture, scale: Scale, seconds: float
) -> tuple[Block, dict[str, Any]]:
    """Return neural-tangents' fastest block, of the NTK alone (see ``kernel.py``)."""
    import kernel

    case = kernel.Case(str(arch), arch, scale.shape, 1, True)
    first = scale.peer if arch.is_spatial else scale.peer_dense
    block, tried = kernel.peer_block(case, [first], first, seconds)
    us = {f"{n} × {n}": 1e3 * ms for n, ms in tried.items()}
    name = f"{block.rows} × {block.columns}"
    return replace(block, settle=0.0), {"block": name, "tried_us_per_entry": us}


#: For each peer, its block that is timed, and what a row says of it.
PEERS: dict[str, Callable[[Architecture, Scale, float], tuple[Block, dict[str, Any]]]] = {
    "xla": xla_block,
    "neural_tangents": neural_tangents_block,
}
