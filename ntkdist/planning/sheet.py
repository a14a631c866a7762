"""All that a plan measured, and the arithmetic with it for any number of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ntkdist.gram.tiling import TileKey, Tiling
from ntkdist.planning.devices import Crew
from ntkdist.planning.schedule import gram_seconds
from ntkdist.planning.stages import StageCosts, stages_of


@dataclass(frozen=True, eq=False)
class Sheet:
    """What was measured.

    Attributes:
        edge: Of the tiles.
        before: Seconds until the Gram stage begins: data read and stored.
        choosing: Seconds in which the Gram stage chooses an edge.
        finished: Stages whose results are stored.
        behind: What comes after the Gram.
        method: Of the labels.
    """

    edge: int
    before: float
    choosing: float
    finished: frozenset[str]
    behind: StageCosts
    method: str = "posterior"

    def gram(self, crew: Crew, n: int, missing: Sequence[TileKey] | None = None) -> float:
        """Return the seconds of the Gram stage; ``missing`` are all tiles where it is None."""
        tiling = Tiling(n, min(self.edge, n))
        tiles = tiling.keys() if missing is None else missing
        if not tiles:
            return 0.0
        return self.choosing + crew.start + gram_seconds(tiling, tiles, crew.costs[: len(tiles)])

    def stages(self, n: int, *, anew: bool = False) -> dict[str, float]:
        """Return the seconds of each stage behind the Gram; 0 for what is stored, unless anew."""
        done = set() if anew else set(self.finished)
        if "factor" in done:
            done |= {"inverse", "diagonal"}
        stages = stages_of(self.method)
        return {s: 0.0 if s in done else self.behind.seconds(s, n) for s in stages}

    def whole(self, crew: Crew, n: int, missing: Sequence[TileKey] | None = None) -> float:
        """Return the seconds of the whole run; of a new one where ``missing`` is None."""
        behind = self.stages(n, anew=missing is None)
        return self.before + self.gram(crew, n, missing) + sum(behind.values())
