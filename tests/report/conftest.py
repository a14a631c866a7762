"""A run as the stages leave it, with made-up results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkdist.config import DataConfig, NoiseConfig, RunConfig
from ntkdist.run import Run

N, K = 60, 10
NAMES = ("<b>x</b>", 'a "quoted" & long name', "$y$", *(str(k) for k in range(3, K)))
MakeRun = Callable[..., Run]


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Create a new run of 60 digits, without any results."""

    def make(noise: float = 0.3, **config: Any) -> Run:
        folder = tmp_path_factory.mktemp("runs") / "r"
        given = RunConfig(
            run=str(folder), data=DataConfig(n=N), noise=NoiseConfig(rate=noise), **config
        )
        run = Run.create(given)
        run.manifest = replace(run.manifest, class_names=NAMES)
        return run

    return make


def add_labels(run: Run, seed: int = 0, **summary: Any) -> dict[str, Any]:
    """Write what the label stage writes; returns its arrays and the summary."""
    rng = np.random.default_rng(seed)
    given = run.read("inputs", "labels")
    known = run.has("inputs", "labels_true")
    true = run.read("inputs", "labels_true") if known else given
    wrong = np.flatnonzero(given != true) if known else np.arange(9)
    refurbished = true.copy() if known else (given + np.isin(np.arange(N), wrong)) % K
    refurbished[wrong[0]] = (true[wrong[0]] + 2) % K
    if refurbished[wrong[0]] == given[wrong[0]]:
        refurbished[wrong[0]] = (true[wrong[0]] + 3) % K
    quality = rng.uniform(0.5, 1.0, N)
    quality[wrong] = rng.uniform(0.0, 0.4, len(wrong))
    S = len(wrong)
    wobble = rng.normal(size=(K, K))
    arrays: dict[str, Any] = {
        "refurbished": refurbished,
        "label_quality": quality,
        "suggested_label": refurbished,
        "is_label_issue": refurbished != given,
        "round": np.full(N, -1),
        "delta_loss": np.full(N, np.nan),
        "losses": np.linspace(1.57017, 0.39477, S + 1),
        "Z_given": wobble + wobble.T + 1234.5 * np.eye(K),
        "Z_refurbished": wobble + wobble.T + 77.25 * np.eye(K),
    }
    for name, values in arrays.items():
        run.write(f"labels/{name}", values)
    edges = np.concatenate([[0], np.cumsum(np.bincount(given, minlength=K))]).astype(float)
    run.write(
        "labels/gram_by_class",
        rng.uniform(size=(N, N)).astype(np.float32),
        {"boundaries": edges.tolist()},
    )
    written: dict[str, Any] = {
        "kind": "ntk",
        "method": "exact",
        "steps": "none",
        "beta": 1.0,
        "ridge": 0.01,
        "flips": S,
        "stopped": "no change of one label lowers L(Z)",
        "block_error": {"given": 1.57017, "refurbished": 0.39477, "true": 0.39743},
        "num_issues": S,
        "corrupted": S,
        "restored_share": (S - 1) / S,
        "accuracy_given": 1 - S / N,
        "accuracy_refurbished": 1 - 1 / N,
        "left_out": [],
        "noise_rate": 0.2875,
    }
    written |= summary
    run.write_attributes("labels", {"summary": written})
    return arrays | {"summary": written}


def add_events(run: Run, records: Iterable[dict[str, Any]], torn: str = "") -> None:
    """Write ``events.jsonl``."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    Path(run.url, "events.jsonl").write_text(text + torn, encoding="utf-8")


def gram_events(starts: Iterable[int], total: int, seconds: float = 2.0) -> list[dict[str, Any]]:
    """Events of drivers that computed so many tiles each, one worker, 100 entries a tile."""
    records: list[dict[str, Any]] = []
    now, done = 1000.0, 0
    for count in starts:
        records.append({"event": "StageStarted", "stage": "gram", "time": now})
        records.append(
            {
                "event": "GramStarted",
                "total": total,
                "done": done,
                "edge": 10,
                "workers": 2,
                "backend": "cpu",
                "executor": "ray",
                "time": now,
            }
        )
        for k in range(done, done + count):
            now += seconds
            records.append(
                {
                    "event": "TileDone",
                    "key": f"r{k:04d}c0000",
                    "worker": "w0",
                    "seconds": seconds,
                    "bytes": 400,
                    "attempt": 1,
                    "entries": 100,
                    "time": now,
                }
            )
        done += count
        if done == total:
            records.append(
                {"event": "StageDone", "stage": "gram", "seconds": count * seconds, "time": now}
            )
        now += 500.0
    return records
