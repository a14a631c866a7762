"""Where tiles are computed: in this process (``inline``) or on a Ray cluster (``ray``)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ntkdist.gram.job import GramJob
from ntkdist.gram.tiling import TileKey


@dataclass(frozen=True)
class ExecutorSummary:
    """What became of the tiles that an executor was given.

    Attributes:
        done: Tiles computed and stored, in the order they were finished.
        failed: Tile → its last error in one line.
        left: Tiles not computed because the job was stopped.
    """

    done: tuple[TileKey, ...] = ()
    failed: dict[TileKey, str] = field(default_factory=dict)
    left: tuple[TileKey, ...] = ()


class Executor(Protocol):
    """Computes tiles somewhere.

    Attributes:
        name: ``inline`` or ``ray``.
        workers: How many workers are asked for; 0 if that is found out later.
    """

    name: str

    @property
    def workers(self) -> int:
        """How many workers are asked for; 0 if that is found out later."""

    def run(
        self,
        job: GramJob,
        keys: Sequence[TileKey],
        emit: Callable[[Any], None],
        stop: threading.Event,
    ) -> ExecutorSummary:
        """Compute the tiles, whatever happens to the workers.

        Raises:
            StageError: If no worker is left, or none can start.
        """
