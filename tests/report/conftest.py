"""A run as the stages leave it, with made-up results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkdist.analyses import ReportSection, read_sections
from ntkdist.config import DataConfig, NoiseConfig, RunConfig
from ntkdist.runs.run import Run

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


def read_section(run: Run, name: str) -> ReportSection:
    """Return the one section of a run's later results that has a name."""
    (found,) = [one for one in read_sections(run)[0] if one.name == name]
    return found


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


def noise_matrix(num_classes: int, seed: int = 0) -> np.ndarray:
    """Return T (K, K) with one confusion above all others: of class 1, 23.45 % are called 0."""
    rng = np.random.default_rng(seed)
    T = rng.dirichlet(np.full(num_classes, 0.5), num_classes) * 0.05
    T[1, 0] = 0.2345
    np.fill_diagonal(T, 0.0)
    np.fill_diagonal(T, 1.0 - T.sum(axis=1))
    return T


def add_reliability(
    run: Run,
    verdict: str = "reliable",
    noise: str = "symmetric",
    interval: tuple[float, float] = (0.0612, 0.1234),
    **others: Any,
) -> dict[str, Any]:
    """Write what the label stage says of how far to trust it; after ``add_labels``.

    With ``cannot judge`` nothing is flagged and nothing was changed, as the stage leaves it.
    """
    summary = dict(run.attributes("labels")["summary"])
    stored = {
        "verdict": verdict,
        "leave_one_out_accuracy": 0.7654,
        "chance": 0.1357,
        "chance_error": 0.0246,
        "noise": noise,
        "noise_rate": 0.0912,
        "noise_interval": list(interval),
        "expected_precision": None if verdict == "cannot judge" else 0.8765,
        "reason": f"a reason for <{verdict}>; more images may help",
    }
    summary |= {
        "reliability": stored | others,
        "noise_reason": f"{noise} noise, for <this> reason",
        "noise_rate": 0.0912,
        "method": "posterior",
    }
    run.write("labels/transition", noise_matrix(run.num_classes))
    if verdict == "cannot judge":
        given = run.read("inputs", "labels")
        run.write("labels/is_label_issue", np.zeros(len(given), bool))
        for name in ("refurbished", "suggested_label"):
            run.write(f"labels/{name}", given)
        run.write("labels/losses", np.array([1.57017, 1.57017]))
        summary |= {
            "flips": 0,
            "num_issues": 0,
            "block_error": summary["block_error"] | {"refurbished": 1.57017},
            "stopped": "the labels cannot be judged, so that none was changed",
        }
    run.write_attributes("labels", {"summary": summary})
    return summary


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


def add_geometry(run: Run, seed: int = 0) -> None:
    """Write what the label stage writes about the kernel itself."""
    rng = np.random.default_rng(seed)
    run.write("noise/eigenvalues", np.geomspace(40.0, 1e-4, N))
    run.write_attributes("noise", {"fingerprint": "f"})
    run.write("labels/kpca/images", np.arange(N))
    explained = {"explained": [0.3, 0.2, 0.1, 0.05]}
    run.write("labels/kpca/points", rng.normal(size=(N, 4)), explained)


def add_predictions(run: Run, labels: str = "given", accuracy: float = 0.9) -> None:
    """Write what ``ntkdist predict`` writes."""
    confusion = np.diag(np.full(K, 9)) + np.eye(K, k=1, dtype=int)
    found = {
        "on": "rest-0123456789ab",
        "images": 100,
        "trained_on": N,
        "ridge": 0.1,
        "labels": labels,
        "accuracy": accuracy,
        "log_loss": 0.4321,
        "brier": 0.1234,
        "calibration_error": 0.056,
        "confusion": confusion.tolist(),
        "bins": [[40, 0.6, 0.5], [60, 0.9, 0.95]],
        "ridges": [
            {"ridge": r, "accuracy": 0.8 + r, "squared_error": 0.3 - r} for r in (0.0, 0.01, 0.1)
        ],
    }
    run.write_attributes("predict", found)
    run.write_attributes(f"predict/{labels}", found)


def add_dynamics(run: Run, spread: dict[str, Any] | None = None) -> None:
    """Write what ``ntkdist dynamics`` writes."""
    T = 12
    times = np.array([0.0, *np.geomspace(0.1, 1e4, T - 2), np.inf])
    falling, rising = np.linspace(0.45, 0.05, T), np.linspace(0.1, 0.97, T)
    curves = {
        "times": times,
        "train_loss": falling,
        "train_accuracy": rising,
        "true_accuracy": rising,
        "test_loss": falling + 0.02,
        "test_accuracy": rising - 0.05,
    }
    for name, values in curves.items():
        run.write(f"dynamics/squared/{name}", values)
    run.write("dynamics/stopping/losses", falling + 0.1)
    run.write("dynamics/eigenvalues", np.geomspace(40.0, 1e-4, N))
    run.write("dynamics/energy", np.full(N, 1 / N))
    at = {"test_accuracy": 0.871, "test_loss": 0.2, "true_accuracy": 0.95}
    run.write_attributes(
        "dynamics",
        {
            "on": "rest",
            "trained_on": N,
            "tested_on": 100,
            "learning_rate": 0.5,
            "held_out": N,
            "stopping_time": float(times[5]),
            "learned_at_stopping": 17,
            "squared": {"stopped": at, "end": {**at, "test_loss": 0.4, "test_accuracy": 0.762}},
            "cross_entropy": None,
            "spread": spread,
        },
    )


def add_networks(run: Run) -> None:
    """Write what ``widths``, ``sweep``, ``label-aware`` and ``lookahead`` write."""
    sizes = np.array([32, 64, 128])
    run.write("widths/widths", sizes)
    for name in ("kernel_gap", "difference", "linear_gap"):
        run.write(f"widths/{name}", 2.0 * sizes**-0.5)
    law = {"exponent": -0.5, "constant": 2.0, "error": 0.01}
    laws = dict.fromkeys(("kernel_gap", "difference", "linear_gap"), law)
    run.write_attributes("widths", {"images": 20, "test": 20, "exponents": laws})
    rows = [
        {"value": value, "accuracy": accuracy, "cosine": 0.4, "condition": condition,
         "effective_rank": 4.0}
        for value, accuracy, condition in (("3", 0.61, 1e3), ("6", 0.72, 1e5), ("9", 0.65, None))
    ]  # fmt: skip
    run.write_attributes("sweep/depth", {"images": N, "rows": rows})
    kernels = [
        {"variant": name, "accuracy": accuracy, "validated": 0.8, "elasticity": elasticity}
        for name, accuracy, elasticity in (("plain", 0.81, 0.52), ("kr-v1", 0.86, None))
    ]
    tried = {"kr-v1": {"multipliers": [0.0, 0.01], "accuracy": [0.8, 0.82]}}
    run.write_attributes(
        "label_aware",
        {"names": list(NAMES[:2]), "trained_on": 40, "held_out": 10, "validated": tried,
         "kernels": kernels},
    )  # fmt: skip
    run.write("lookahead/accuracy", np.array([[[0.4, 0.5, 0.66]], [[0.4, 0.45, 0.55]]]))
    run.write("lookahead/counts", np.array([10, 20, 30]))
    run.write_attributes(
        "lookahead",
        {"criteria": ["eer", "random"], "model": "kernel regression", "pool": 40, "held_out": 20},
    )
