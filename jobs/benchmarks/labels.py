"""How fast labels are refurbished: flips a second, against one pass over the same memory.

    python jobs/benchmarks/labels.py [--part NAME] [--work FOLDER] [--repeats R]

Kernel of noisy digits (``_matrices``), labels symmetric noise of 30 %. A flip has to read or write
two classes' columns of G, a column of H⁻¹ and four vectors of N (8 bytes each); reading all of G
and one vector, N·(K+1) doubles, is the pass that it is compared with: a step that looked at every
row class by class could not be faster than that.

parts: memory (paper and exact, inverse in memory, N = 2,500 to 10,000), classes (exact, K = 100),
store (paper, N = 20,000, rows of the stored inverse), workers (16 blocks on two workers).
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _matrices import digits, gram
from _measure import RESULTS, timed, write

from ntkdist.data import symmetric
from ntkdist.labels import invert, refurbish
from ntkdist.linalg import factorize

RIDGE = {"paper": 0.3, "exact": 1e-2}


class Clock:
    """Listener that notes when each flip was made."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, flip: Any) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())

    def rate(self) -> float:
        """Return flips a second, from the first flip to the last."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])


def memory_pass(n: int, K: int) -> float:
    """Return the seconds of one pass over N·(K+1) doubles: a sum over them."""
    values = np.ones(n * (K + 1))
    return float(np.median([timed(values.sum)[0] for _ in range(9)]))


def many_classes(labels: np.ndarray, K: int) -> np.ndarray:
    """Split classes at random until there are K."""
    parts = K // (int(labels.max()) + 1)
    return labels * parts + np.random.default_rng(0).integers(0, parts, len(labels))


def measure(
    inverse: Any, true: np.ndarray, K: int, method: str, flips: int, repeats: int, **more: Any
) -> dict[str, Any]:
    """Return the median rate of refurbishing noisy labels."""
    noisy, _ = symmetric(true, K, 0.3, 0)
    rates, passes = [], []
    for _ in range(repeats):
        clock = Clock()
        refurbish(inverse, noisy, K, method=method, steps=flips, on_step=clock, **more)
        rates.append(clock.rate())
        passes.append(memory_pass(len(true), K))
    rate = float(np.median(rates))
    return {
        "n": len(true),
        "K": K,
        "method": method,
        "flips": len(clock.times),
        "flips_per_second": rate,
        "range": [min(rates), max(rates)],
        "microseconds_a_flip": 1e6 / rate,
        "pass_microseconds": 1e6 * float(np.median(passes)),
        "flips_a_pass": rate * float(np.median(passes)),
    }


def in_memory(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Both methods over N; the slope says what a row costs, the rest what a step costs."""
    rows = []
    for n in (2500, 5000, 10000):
        H = np.asarray(gram(folder, n)[:, :])
        true = digits(n)[1]
        for method in ("paper", "exact"):
            inverse = invert(H, RIDGE[method])
            found = measure(inverse, true, 10, method, min(2000, n // 4), repeats)
            rows.append({"part": "memory", **found})
            print_row(rows[-1])
            del inverse
    for method in ("paper", "exact"):
        mine = [r for r in rows if r["method"] == method]
        n, t = [r["n"] for r in mine], [r["microseconds_a_flip"] for r in mine]
        slope, start = np.polyfit(n, t, 1)
        worst = max(abs(start + slope * a - b) / b for a, b in zip(n, t, strict=True))
        line = {
            "part": "linear in N",
            "method": method,
            "microseconds_a_thousand_rows": 1000 * slope,
            "microseconds_a_step": start,
            "largest_deviation": worst,
        }
        rows.append(line)
        print(
            f"{method}: {start:.0f} µs a flip and {1000 * slope:.1f} µs a thousand rows, "
            f"within {100 * worst:.0f} %"
        )
    return rows


def classes(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """The exact method with a hundred classes."""
    n = 10000
    H = np.asarray(gram(folder, n)[:, :])
    true = many_classes(digits(n)[1], 100)
    found = measure(invert(H, RIDGE["exact"]), true, 100, "exact", 2000, repeats)
    print_row({"part": "classes", **found})
    return [{"part": "classes", **found}]


def stored(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Algorithm 1 with rows of H⁻¹ read from disk as flips need them."""
    n = 20000
    store = gram(folder, n)
    factor = factorize(store, folder / "labels-factor", ridge=RIDGE["paper"], memory_limit="6GiB")
    inverse = factor.inverse(folder / "labels-inverse")
    found = measure(inverse, digits(n)[1], 10, "paper", 2000, repeats)
    print_row({"part": "store", **found})
    return [{"part": "store", **found}]


def workers(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Sixteen blocks on two workers of a cluster."""
    from distributed import Client, LocalCluster

    n = 10000
    H = np.asarray(gram(folder, n)[:, :])
    inverse, true = invert(H, RIDGE["paper"]), digits(n)[1]
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        found = measure(inverse, true, 10, "paper", 500, repeats, blocks=16, client=client)
        many = measure(
            *(inverse, true, 10, "paper", 500, repeats),
            blocks=16,
            client=client,
            flips_per_step=8,
        )
    rows = [
        {"part": "workers", **found, "flips_per_step": 1},
        {"part": "workers", **many, "flips_per_step": 8},
    ]
    for row in rows:
        print_row(row)
    return rows


def print_row(row: dict[str, Any]) -> None:
    """Print one measurement."""
    low, high = row["range"]
    print(
        f"{row['part']:8} N {row['n']:6} K {row['K']:3} {row['method']:6}"
        f" {row['flips_per_second']:7.0f} flips/s ({low:.0f} to {high:.0f}),"
        f" {row['flips_a_pass']:.2f} flips a pass",
        flush=True,
    )


PARTS: dict[str, Callable[[Path, int], list[dict[str, Any]]]] = {
    "memory": in_memory,
    "classes": classes,
    "store": stored,
    "workers": workers,
}


def main() -> None:
    """Run the parts and write results/labels.json."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--part", choices=PARTS, action="append")
    options.add_argument("--work", type=Path, default=Path("runs/benchmarks"))
    options.add_argument("--repeats", type=int, default=3)
    given = options.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for part in given.part or PARTS:
        rows += PARTS[part](given.work, given.repeats)
    for name in ("labels-factor", "labels-inverse"):
        shutil.rmtree(given.work / name, ignore_errors=True)
    path = RESULTS / "labels.json"
    if path.exists():  # parts measured another time stay
        new = {row["part"] for row in rows}
        old = json.loads(path.read_text())["rows"]
        rows = [row for row in old if row["part"] not in new] + rows
    print(write("labels", rows))


if __name__ == "__main__":
    main()
