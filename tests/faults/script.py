"""Faults on purpose: a table of what goes wrong with which tile, read by the workers themselves.

``script.json`` in the run's folder maps a tile's key to a list of ``[execution, fault, value]``:
what happens when the tile is computed for the first, second, ... time, whichever worker and
driver does it (0: every time). Each execution leaves a line in ``executions``. ``pace`` in the
folder holds the seconds that every tile takes longer.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ntkdist.errors import DeviceLostError
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey
from ntkdist.gram.worker import TileRecord, TileWorker

FAULTS = ("slow", "hang", "raise", "kill", "kill after", "corrupt", "lose GPU")


class LostDevice:
    """A backend whose GPU fails in every call, until the process ends."""

    def block(self, *args: Any, **kwargs: Any) -> Any:
        raise DeviceLostError("CUDA_ERROR_ILLEGAL_ADDRESS on GPU 0: this process cannot use it")

    prepare = block


def write_script(folder: str | Path, table: Mapping[str, list[tuple[int, str, float]]]) -> None:
    assert all(fault in FAULTS for rules in table.values() for _, fault, _ in rules)
    Path(folder, "script.json").write_text(json.dumps(table))


def executions(folder: str | Path) -> Counter[str]:
    """Return how often each tile was begun to be computed."""
    path = Path(folder, "executions")
    return Counter(path.read_text().split() if path.exists() else [])


class ScriptedWorker(TileWorker):
    """A worker to whom the script happens."""

    @property
    def _folder(self) -> Path:
        return Path(self.job.outputs[0][1]).parents[1]

    def compute(self, key: TileKey, attempt: int = 1) -> TileRecord:
        with open(self._folder / "executions", "a") as file:
            file.write(f"{key}\n")
        fault, value = self._fault(str(key))
        if fault == "slow":
            time.sleep(value)
        elif fault == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault == "raise":
            raise RuntimeError(f"scripted failure of {key}")
        elif fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        record = super().compute(key, attempt)
        if fault == "kill after":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == "corrupt":
            flip_byte(self.job.outputs[0][1], key)
        return record

    def blocks(self, key: TileKey) -> dict[str, np.ndarray]:
        pace = self._folder / "pace"
        if pace.exists():
            time.sleep(float(pace.read_text()))
        if self._fault(str(key))[0] == "lose GPU":  # here no other tile is computed
            self._backend = LostDevice()  # type: ignore[assignment]
        return super().blocks(key)

    def _fault(self, key: str) -> tuple[str, float]:
        script = self._folder / "script.json"
        if not script.exists():
            return "", 0.0
        count = executions(self._folder)[key]
        for execution, fault, value in json.loads(script.read_text()).get(key, []):
            if execution in (0, count):
                return fault, value
        return "", 0.0


def flip_byte(address: str, key: TileKey, store: Any = None) -> None:
    """Change one byte in the middle of a stored tile."""
    path = Path((store or GramStore.open(address)).path_of(key))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)
