"""Starting a driver in a process of its own, and reading what it did."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ntkdist.events.log import read_events

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0


@contextmanager
def driver(
    folder: Path, where: str, address: str | None = None, *options: str
) -> Iterator[subprocess.Popen[bytes]]:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    with open(folder / "driver.err", "w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.driver", str(folder), where, *options],
            cwd=ROOT,
            env=environment | ({"RAY_ADDRESS": address} if address else {}),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    try:
        yield process
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()


def tiles_done(folder: Path) -> int:
    return sum(record["event"] == "TileDone" for record in read_events(str(folder)))


def wait_for_tiles(folder: Path, process: subprocess.Popen[bytes], count: int) -> None:
    end = time.monotonic() + PATIENCE
    while tiles_done(folder) < count:
        if process.poll() is not None:
            raise AssertionError(f"driver ended early: {(folder / 'driver.err').read_text()}")
        assert time.monotonic() < end, "driver does not get on"
        time.sleep(0.005)


def drivers(folder: Path) -> list[list[dict[str, Any]]]:
    """Return the events of each driver that worked on the folder."""
    runs: list[list[dict[str, Any]]] = []
    for record in read_events(str(folder)):
        if record["event"] == "GramStarted":
            runs.append([])
        runs[-1].append(record)
    return runs


def keys(run: list[dict[str, Any]], event: str) -> list[str]:
    return [record["key"] for record in run if record["event"] == event]


def wait_for(what: Callable[[], object], process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until something holds while the driver works."""
    end = time.monotonic() + PATIENCE
    while not what():
        assert process is None or process.poll() is None, "the driver ended early"
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return the events of one kind."""
    return [record for record in read_events(str(folder)) if record["event"] == name]
