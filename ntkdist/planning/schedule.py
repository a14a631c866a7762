"""How long tiles take on so many workers: the Gram stage's hand-out, played through on paper."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from ntkdist.gram.executors.ray.scheduler import RowQueue
from ntkdist.gram.tiling import TileKey, Tiling

_PLAYED = 20_000  # tiles; of more, the last ones that leave workers idle are next to nothing


@dataclass(frozen=True)
class TileCost:
    """What tiles cost one worker.

    Attributes:
        entry: Seconds of an entry, writing included.
        diagonal: Seconds of a diagonal tile by those of a full one; a half and a little.
        image: Seconds to prepare one image.
        kept: Whether a worker keeps the prepared states of all images, or has to prepare the
            columns of each tile.
    """

    entry: float
    diagonal: float = 0.5
    image: float = 0.0
    kept: bool = True

    def seconds(self, tiling: Tiling, key: TileKey) -> float:
        """Return the seconds of one tile."""
        rows, cols = tiling.tile_shape(key)
        on_diagonal = tiling.symmetric and key.row == key.col
        seconds = rows * cols * self.entry * (self.diagonal if on_diagonal else 1.0)
        return seconds if self.kept else seconds + cols * self.image

    def once(self, tiling: Tiling) -> float:
        """Return the seconds that every worker takes to prepare the images it keeps."""
        return tiling.n_rows * self.image if self.kept else 0.0


def gram_seconds(tiling: Tiling, missing: Sequence[TileKey], costs: Sequence[TileCost]) -> float:
    """Return the seconds from the first tile handed out to the last one stored.

    Args:
        tiling: The grid.
        missing: Tiles to compute.
        costs: Of each worker.

    Returns:
        Seconds; 0 where nothing is missing. Workers beyond the tiles stay idle.
    """
    if not missing:
        return 0.0
    if len(missing) > _PLAYED:
        return _on_average(tiling, missing, costs)
    queue = RowQueue(missing)
    free = [(cost.once(tiling), worker) for worker, cost in enumerate(costs)]
    heapq.heapify(free)
    end = 0.0
    while len(queue):
        now, worker = heapq.heappop(free)
        key = queue.take(worker)
        if key is None:
            break
        now += costs[worker].seconds(tiling, key)
        end = max(end, now)
        heapq.heappush(free, (now, worker))
    return end


def _on_average(tiling: Tiling, missing: Sequence[TileKey], costs: Sequence[TileCost]) -> float:
    """Return all tiles by the joint rate, and half a tile for the wait for the last one."""
    diagonal = sum(key.row == key.col for key in missing) if tiling.symmetric else 0
    full = TileKey(0, tiling.grid[1] - 1 if tiling.grid[1] < 2 else 1)
    rate = last = once = 0.0
    for cost in costs:
        seconds = cost.seconds(tiling, full)
        work = (len(missing) - diagonal) * seconds
        if diagonal:
            work += diagonal * cost.seconds(tiling, TileKey(0, 0))
        rate += 1.0 / work
        last, once = max(last, seconds), max(once, cost.once(tiling))
    return once + 1.0 / rate + last / 2
