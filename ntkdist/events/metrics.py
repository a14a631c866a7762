"""Prometheus metrics of a Gram job, told to Ray, which exports them on every node's metrics port.

Ray's metric objects need nothing beyond ``ray``; only the agent that Prometheus scrapes comes with
``ray[default]``. Where Ray is not connected, nothing is kept and nothing is said.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ntkdist.events.types import (
    GramStarted,
    StageDone,
    StageStarted,
    TileDone,
    TileFailed,
    TileStarted,
    WorkerLost,
    WorkerStarted,
)

SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Boundaries of the histogram of a tile's seconds."""

_GAUGES = {
    "ntkdist_tiles_total": "Tiles of the matrix.",
    "ntkdist_tiles_done": "Tiles that are stored.",
    "ntkdist_tiles_in_flight": "Tiles that workers have.",
    "ntkdist_workers_alive": "Workers that take tiles.",
}
# Prometheus' names of these end in _total, which the exporter adds
_COUNTERS = {
    "ntkdist_tiles_failed": "Tiles given up.",
    "ntkdist_tiles_retried": "Failures after which a tile was tried again.",
    "ntkdist_entries": "Kernel entries computed, of one kind.",
    "ntkdist_workers_lost": "Deaths of workers.",
}
_SECONDS = "ntkdist_tile_seconds"
_STAGE = "ntkdist_stage"


class RayMetrics:
    """Subscriber that keeps Ray's gauges, counters and a histogram of one run.

    ``ntkdist_tiles_total``, ``ntkdist_tiles_done``, ``ntkdist_tiles_in_flight`` and
    ``ntkdist_workers_alive`` are gauges; ``ntkdist_tiles_failed``, ``ntkdist_tiles_retried``,
    ``ntkdist_entries`` and ``ntkdist_workers_lost`` counters; ``ntkdist_tile_seconds`` a
    histogram. ``ntkdist_stage`` is 1 for the running stage, 0 for one that is done. All have
    the tag ``run``.
    """

    def __init__(self, run: str) -> None:
        self._run = tag_of(run)
        self._metrics: dict[str, Any] = {}
        self._workers: set[str] = set()
        self._in_flight: set[str] = set()
        self._total = self._done = 0
        self._stages: dict[str, float] = {}

    def __call__(self, event: Any) -> None:
        """Take one event in; those of no interest here are ignored."""
        match event:
            case GramStarted():
                self._workers.clear()
                self._in_flight.clear()
                self._total, self._done = event.total, event.done
            case WorkerStarted():
                self._workers.add(event.worker)
            case WorkerLost():
                self._workers.discard(event.worker)
                self._in_flight.difference_update(event.keys)
                self._count("ntkdist_workers_lost", 1)
            case TileStarted():
                self._in_flight.add(event.key)
            case TileDone():
                self._in_flight.discard(event.key)
                self._done += 1
                self._count("ntkdist_entries", event.entries)
                self._tell(_SECONDS, lambda metric: metric.observe(float(event.seconds)))
            case TileFailed():
                self._in_flight.discard(event.key)
                self._count("ntkdist_tiles_failed" if event.final else "ntkdist_tiles_retried", 1)
            case StageStarted():
                self._stages[event.stage] = 1.0
            case StageDone():
                self._stages[event.stage] = 0.0
                if event.stage == "gram":
                    self._workers.clear()
            case _:
                return
        self._tell_gauges()

    def _tell_gauges(self) -> None:
        """Tell them all: what happened before Ray was connected is still to be told."""
        values = (self._total, self._done, len(self._in_flight), len(self._workers))
        for name, value in zip(_GAUGES, values, strict=True):
            self._tell(name, lambda metric, value=value: metric.set(float(value)))
        for stage, at_work in self._stages.items():
            tags = {"stage": stage}
            self._tell(_STAGE, lambda metric, value=at_work, tags=tags: metric.set(value, tags))

    def _count(self, name: str, more: int) -> None:
        if more > 0:  # Ray refuses others
            self._tell(name, lambda metric: metric.inc(float(more)))

    def _tell(self, name: str, say: Callable[..., None]) -> None:
        """Pass a value to Ray's metric, made now if it is new; nothing where Ray is not there."""
        if not connected():
            self._metrics.clear()  # those of a Ray that has ended
            return
        if name not in self._metrics:
            self._metrics[name] = self._make(name)
        say(self._metrics[name])

    def _make(self, name: str) -> Any:
        from ray.util import metrics

        if name == _STAGE:
            made: Any = metrics.Gauge(name, "1 for the running stage.", ("run", "stage"))
        elif name == _SECONDS:
            made = metrics.Histogram(
                name, "Seconds of a tile, reading and writing included.", list(SECONDS), ("run",)
            )
        elif name in _COUNTERS:
            made = metrics.Counter(name, _COUNTERS[name], ("run",))
        else:
            made = metrics.Gauge(name, _GAUGES[name], ("run",))
        return made.set_default_tags({"run": self._run})


def connected() -> bool:
    """Return whether Ray is imported and connected; imports nothing."""
    ray = sys.modules.get("ray")
    return bool(ray is not None and ray.is_initialized())


def tag_of(run: str) -> str:
    """Return the last part of a run's address, without user, password and query."""
    path = run.split("?", 1)[0].split("#", 1)[0].rstrip("/")
    path = path.split("://", 1)[-1]
    last = path.rsplit("/", 1)[-1]
    return last.rsplit("@", 1)[-1] or "run"
