"""What a result file of ``gpu.py`` holds, and what is missing of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _measure import command, replace_text

from ntkdist.errors import InputError
from ntkdist.kernels.cuda import ARITHMETIC
from ntkdist.kernels.sources import sources_digest
from on_gpu.work import CELL_LAYER

ENTRIES, FACTOR = "entries", "factor"
NAMES = {"xla": "XLA", "neural_tangents": "neural-tangents"}


@dataclass(frozen=True)
class Task:
    """A part of a row.

    Attributes:
        row: Its name: the network, or of the factor.
        part: ``entries``, ``factor`` or a peer.
        seconds: About how long it takes.
    """

    row: str
    part: str
    seconds: float

    @property
    def of_peer(self) -> bool:
        """Whether it times a peer, and needs the rest of the row."""
        return self.part in NAMES

    def __str__(self) -> str:
        return f"{self.row} with {NAMES[self.part]}" if self.of_peer else self.row


class Record:
    """What was measured of one GPU and one version of the kernels, in a file.

    Args:
        path: The file, renamed if it holds rows of another GPU or version; None for no file.
        about: What is written in front of the rows; ``machine`` and ``kernels`` must agree.
        tasks: All that are asked for.

    Raises:
        InputError: If the file is no result of this script.
    """

    def __init__(self, path: Path | None, about: dict[str, Any], tasks: Sequence[Task]) -> None:
        self.path, self.about, self.tasks = path, about, tasks
        self.rows: dict[str, dict[str, Any]] = {}
        self.skipped: dict[Task, str] = {}
        self.renamed: Path | None = None
        if path is None or not path.exists():
            return
        try:
            old = json.loads(path.read_text())
            rows = {row["network"]: row for row in old["rows"]}
            if _made_by(old) == _made_by(about):
                self.rows = rows
                return
        except (ValueError, KeyError, TypeError, LookupError) as error:
            raise InputError(
                f"{path} is no result of this script ({type(error).__name__}: {error}); "
                "name another --output"
            ) from error
        others = (path.with_stem(f"{path.stem}-{k}") for k in itertools.count(1))
        self.renamed = path.rename(next(other for other in others if not other.exists()))

    def of(self, task: Task) -> dict[str, Any]:
        """Return what a task found, or why it found nothing; empty if it was never begun."""
        row = self.rows.get(task.row, {})
        return row.get(task.part) or {} if task.of_peer else row

    def has(self, task: Task) -> bool:
        """Return whether a task was done."""
        return is_timed(self.of(task))

    def waits(self, task: Task) -> bool:
        """Return whether a task is of a peer and the network itself is not timed yet."""
        return task.of_peer and not is_timed(self.rows.get(task.row, {}))

    def failed(self, task: Task) -> bool:
        """Return whether a task, or the network's own in front of it, failed the last time."""
        found = self.rows.get(task.row, {}) if self.waits(task) else self.of(task)
        return "failed" in found or "refused" in found

    def add(self, task: Task, found: Mapping[str, Any]) -> None:
        """Keep what a task found so far, and write the file."""
        if task.of_peer:
            self.rows[task.row][task.part] = dict(found)
        else:
            self.rows[task.row] = {"network": task.row, **found}
        self.write()

    def skip(self, task: Task, why: str) -> None:
        """Keep why a task was not begun, and write the file."""
        self.skipped[task] = why
        self.write()

    def missing(self) -> dict[Task, str]:
        """Return why tasks are not done, where another start may do them.

        Peers of networks that are missing themselves are left out.
        """
        found = {}
        for task in self.tasks:
            of = self.of(task)
            not_possible = task.part != ENTRIES and "refused" in of  # as without CuPy or jax
            if not (is_timed(of) or not_possible or self.waits(task)):
                why = of.get("refused") or of.get("failed") or self.skipped.get(task)
                found[task] = why or ("not finished" if of else "not begun")
        return found

    def content(self) -> dict[str, Any]:
        """Return what the file holds."""
        return {
            "command": command(),
            **self.about,
            "cell_layer": CELL_LAYER,
            "rows": list(self.rows.values()),
            "missing": {str(task): why for task, why in self.missing().items()},
        }

    def write(self) -> None:
        """Write the file, so that a reader sees the old content or the new one."""
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(self.path, json.dumps(self.content(), indent=1) + "\n")


def _made_by(content: Mapping[str, Any]) -> tuple[Any, ...]:
    gpus = content["machine"]["gpu"] or [{}]
    return gpus[0].get("name"), content.get("kernels"), content.get("simulated", False)


def is_timed(found: Mapping[str, Any]) -> bool:
    """Return whether a row, or what it says of a peer, is complete."""
    return not {"us_per_entry", "seconds_on_gpu", "simulated"}.isdisjoint(found)


def version_of_kernels() -> dict[str, str]:
    """Return the versions of the kernels' arithmetic and of their sources."""
    return {"arithmetic": ARITHMETIC, "sources": sources_digest()[:12]}
