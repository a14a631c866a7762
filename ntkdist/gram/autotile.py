"""``tile: auto``: an edge from a quick measurement, so that a tile takes 5 to 30 seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntkdist.errors import InputError
from ntkdist.gram.tiling import Tiling
from ntkdist.gram.worker import state_bytes
from ntkdist.kernels.backend import Backend
from ntkdist.kernels.registry import get_backend
from ntkdist.networks.architecture import Architecture

LANE = 16
"""Edges are multiples of this where that costs nothing; backends work in such groups."""

_MEASURE_SECONDS = 0.5
_TILES_PER_WORKER = 16
_FEWEST_PER_WORKER = 4
_SHORTEST_SECONDS = 0.5
_COPIES = 6  # of a block in memory: computed, contiguous and compressed, of two tiles each


@dataclass(frozen=True)
class TileChoice:
    """A tile's edge, and what it was chosen from.

    Attributes:
        edge: Rows and columns of a tile.
        entries_per_second: Measured, of one worker.
        seconds_per_tile: Expected for a full tile.
        reason: One sentence for the user.
    """

    edge: int
    entries_per_second: float
    seconds_per_tile: float
    reason: str


def choose_edge(
    backend: Backend,
    arch: Architecture,
    images: np.ndarray,
    n: int,
    *,
    memory: int,
    n_cols: int | None = None,
    seconds: tuple[float, float] = (5.0, 30.0),
    workers: int = 1,
    kinds: Sequence[str] = ("ntk",),
) -> TileChoice:
    """Choose the edge of a tile.

    The edge is the smallest of four. (1) A tile takes the geometric mean of ``seconds``.
    (2) Every worker gets 16 tiles, so that an interruption loses little, but a tile takes
    at least half a second, or ``seconds[0]`` if that is shorter. (3) Every worker gets 4
    tiles. (4) A tile fits ``memory``. The edge is then rounded to a multiple of 16, if the
    grid stays the same or has at least 16 rows and columns of tiles.

    Args:
        backend: Measured on this machine, after a warm-up that compiles.
        arch: The network.
        images: (m, H, W, C) with m ≥ 2: some of the images, a few hundred are plenty.
        n: Rows of the matrix.
        memory: Bytes one worker may take for the states of two groups of images and
            the blocks.
        n_cols: Columns; None for a symmetric matrix.
        seconds: Shortest and longest time of a tile that is wanted.
        workers: How many will compute.
        kinds: Kinds of kernel.

    Raises:
        InputError: If there are fewer than 2 images, or 2 do not fit ``memory``.
    """
    if len(images) < 2:
        raise InputError(f"{len(images)} images given to measure with; at least 2 are needed")
    rate, bytes_per_image = _measure(backend, arch, images, kinds)
    longest = max(n, n_cols or 0)
    by_memory = _edge_in_memory(memory, bytes_per_image, np.dtype(backend.dtype), len(kinds))
    if by_memory < min(2, longest):
        raise InputError(
            f"memory {memory / 2**20:.0f} MiB a worker is too little: one image's prepared state"
            f" takes {bytes_per_image / 2**20:.1f} MiB; raise the memory budget"
        )
    goal = max(1, int(math.sqrt(math.sqrt(seconds[0] * seconds[1]) * rate)))
    shortest = max(1, math.ceil(math.sqrt(min(seconds[0], _SHORTEST_SECONDS) * rate)))
    many = max(_edge_for(n, n_cols, _TILES_PER_WORKER * workers), shortest)
    few = _edge_for(n, n_cols, _FEWEST_PER_WORKER * workers)
    limits = {
        f"{seconds[0]:g} to {seconds[1]:g} s a tile": goal,
        f"{_TILES_PER_WORKER} tiles for each of {workers} workers": many,
        f"{_FEWEST_PER_WORKER} tiles for each of {workers} workers": few,
        f"{memory / 2**20:.0f} MiB a worker": by_memory,
    }
    why, target = min(limits.items(), key=lambda item: item[1])
    edge = _round(n, n_cols, Tiling.from_target(n, target, n_cols).edge, by_memory)
    expected = edge * edge / rate
    return TileChoice(
        edge,
        rate,
        expected,
        f"edge {edge}: {rate:.3g} entries/s measured, {expected:.2g} s a tile; limit: {why}",
    )


def choose_edge_there(
    name: str, dtype: str, invariance: str, arch: str, images: np.ndarray, **more: Any
) -> TileChoice:
    """Call ``choose_edge`` with a backend created by its name, as on a worker's node."""
    backend = get_backend(name, dtype=dtype, invariance=invariance)
    return choose_edge(backend, Architecture.parse(arch), images, **more)


def _measure(
    backend: Backend, arch: Architecture, images: np.ndarray, kinds: Sequence[str]
) -> tuple[float, float]:
    """Return entries/s of a block off the diagonal, and bytes of one image's state."""
    # One row at first: an entry of a deep network on large images takes tens of milliseconds.
    rows, cols = 1, min(LANE, len(images) // 2)
    backend.block(
        backend.prepare(arch, images[:rows]), backend.prepare(arch, images[-cols:]), kinds
    )
    while True:
        a = backend.prepare(arch, images[:rows])
        b = backend.prepare(arch, images[-cols:])
        start = time.perf_counter()
        backend.block(a, b, kinds)
        elapsed = max(time.perf_counter() - start, 1e-9)
        if elapsed >= _MEASURE_SECONDS or (rows == cols and 4 * cols > len(images)):
            return rows * cols / elapsed, max(1.0, state_bytes(b) / cols)
        if rows == cols:
            cols *= 2
        rows = min(2 * rows, cols)


def _edge_in_memory(memory: int, per_image: float, dtype: np.dtype, kinds: int) -> int:
    """Solve 2·per_image·e + copies·kinds·itemsize·e² ≤ memory for e."""
    square = _COPIES * kinds * dtype.itemsize
    return int((math.sqrt(per_image**2 + square * memory) - per_image) / square)


def _edge_for(n: int, n_cols: int | None, tiles: int) -> int:
    """Return the longest edge that gives at least this many tiles (1 if none does)."""
    low, high = 1, max(n, n_cols or 0)
    while low < high:
        middle = (low + high + 1) // 2
        if Tiling(n, middle, n_cols).count >= tiles:
            low = middle
        else:
            high = middle - 1
    return low


def _round(n: int, n_cols: int | None, edge: int, most: int) -> int:
    """Return a multiple of ``LANE`` near ``edge``, or ``edge`` where that would cost tiles."""
    up = -(-edge // LANE) * LANE
    grid = Tiling(n, edge, n_cols).grid
    if up <= most and Tiling(n, up, n_cols).grid == grid:
        return up
    nearest = round(edge / LANE) * LANE
    # among many tiles a ragged last row is nothing; among few it is a row too many
    return nearest if min(grid) >= LANE and 0 < nearest <= most else edge
