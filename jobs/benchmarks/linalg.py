"""The Dask stage against LAPACK, against memory and against kills: seconds, bytes, errors.

    python jobs/benchmarks/linalg.py                       # all parts, about a quarter of an hour
    python jobs/benchmarks/linalg.py --part factor --repeats 5
    python jobs/benchmarks/linalg.py --scale 0.1           # a tenth of the rows: does it run

Matrices are NTK Gram matrices (fc-3) of scikit-learn's digits with noise, stored as a run stores
them; where a condition number is asked for, random ones with known eigenvalues. Times that are
compared come from alternating repeats in one process on the same cores, as medians.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _matrices import Leading, PeakMemory, gram, targets
from _measure import RESULTS, in_turns, timed, write

from ntkdist.events.types import PanelDone
from ntkdist.gram.store import GramStore
from ntkdist.linalg import CholeskyFactor, cg_solve, factorize, top_eigenpairs
from ntkdist.linalg.matrix import Source, SymmetricOperator
from ntkdist.linalg.tasks import task_runner

GIB = 2**30


def fresh(place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    return place


def factor(folder: Path, n: int, repeats: int) -> dict[str, Any]:
    """LAPACK in memory, this in a store from a store, Dask's own in memory."""
    import dask.array as da
    from scipy.linalg import cho_factor
    from threadpoolctl import threadpool_limits

    store = gram(folder, n)
    whole = store[:, :].astype(np.float64)
    whole[np.diag_indices(n)] *= 1 + 1e-6
    lazy = da.from_array(whole, chunks=1024)
    url = folder / "factor"

    def by_dask() -> None:
        with threadpool_limits(1, user_api="blas"):
            da.linalg.cholesky(lazy, lower=True).compute(scheduler="threads")

    runs: dict[str, Callable[[], Any]] = {
        "cho_factor": lambda: cho_factor(whole),
        "factorize": lambda: factorize(store, fresh(url), ridge=1e-6, memory_limit="4GiB"),
        "factorize from memory": lambda: factorize(
            whole, fresh(url), memory_limit="4GiB", fingerprint="benchmark"
        ),
    }
    if n % 1024 == 0:  # it refuses ragged tiles
        runs["da.linalg.cholesky"] = by_dask
    seconds = in_turns({name: lambda run=run: timed(run)[0] for name, run in runs.items()}, repeats)
    peer = seconds["cho_factor"]
    row: dict[str, Any] = {"n": n, "memory_limit": "4GiB", "seconds": seconds}
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(peer, times, strict=True)]
        row[name] = {
            "gflops": n**3 / 3 / statistics.median(times) / 1e9,
            "share_of_cho_factor": statistics.median(ratios),
            "range": [min(ratios), max(ratios)],
        }
        print(f"  {name:>22}: {statistics.median(times):6.2f} s, {row[name]['gflops']:5.1f} "
              f"GFLOP/s, {statistics.median(ratios):.2f} of cho_factor")  # fmt: skip
    return row


def child(url: str, matrix: str, limit: str) -> None:
    """Factor, and tell each panel: what the part ``memory`` starts and kills."""

    def tell(event: object) -> None:
        if isinstance(event, PanelDone):
            print(json.dumps([event.index, event.count, event.resumed, event.gflops]), flush=True)

    factorize(GramStore.open(matrix, "r"), url, ridge=1e-6, memory_limit=limit, on_event=tell)


def memory(folder: Path, n: int, repeats: int) -> dict[str, Any]:
    """Peak memory of a factorisation far larger than its limit; killed twice, and not at all."""
    limit = "1GiB" if n >= 20_000 else f"{max(40, n // 20)}MB"
    store = gram(folder, n)

    def start(url: Path, kill_in: int | None) -> tuple[list[list[Any]], float, int]:
        command = [sys.executable, __file__, "--child", str(url), store.address, limit]
        began = time.perf_counter()
        panels = []
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
            PeakMemory(process.pid) as peak,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                panels.append(json.loads(line))
                if kill_in is not None and panels[-1][0] == kill_in - 1:
                    time.sleep(1.0 if n >= 20_000 else 0.02)  # into the work on the next one
                    os.kill(process.pid, signal.SIGKILL)
                    break
        if process.wait() != 0 and kill_in is None:
            sys.exit(f"the factorisation ended with {process.returncode}")
        return panels, time.perf_counter() - began, peak.bytes

    panels, seconds, peak = start(fresh(folder / "undisturbed"), None)
    expected = CholeskyFactor.open(folder / "undisturbed")
    url = fresh(folder / "killed")
    starts = [start(url, 2), start(url, 4), start(url, None)]
    computed = [sum(not panel[2] for panel in found) for found, _, _ in starts]
    again = sum(computed) - len(panels)  # a panel in work when it is killed is not told
    same = CholeskyFactor.open(url).digest() == expected.digest()
    row = {
        "n": n, "memory_limit": limit, "panels": len(panels), "seconds": seconds,
        "gflops": n**3 / 3 / seconds / 1e9,
        "peak_gib": max(peak, *(found[2] for found in starts)) / GIB,
        "kills": 2, "stored_panels_computed_again": again, "equal_to_the_bit": same,
    }  # fmt: skip
    print(f"  {limit}: {len(panels)} panels, {seconds:.0f} s, {row['gflops']:.1f} GFLOP/s, peak "
          f"{row['peak_gib']:.2f} GiB; after two kills {again} stored panels were computed again, "
          f"bits equal: {same}")  # fmt: skip
    return row


def solve(folder: Path, n: int, repeats: int) -> dict[str, Any]:
    """Errors of solutions at condition number 1e8, plain and refined."""
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    a = (q * np.geomspace(1.0, 1e-8, n)) @ q.T
    a = (a + a.T) / 2
    b = rng.standard_normal((n, 10))
    found = factorize(a, fresh(folder / "solve"), memory_limit="256MB")
    direct = np.linalg.solve(a, b)
    norm = np.linalg.norm
    row: dict[str, Any] = {"n": n, "condition": 1e8, "panels": found.panel_count}
    for name, matrix in (("plain", None), ("refined", a)):
        seconds, x = timed(lambda matrix=matrix: found.solve(b, matrix=matrix))
        row[name] = {
            "seconds": seconds,
            "backward_error": norm(a @ x - b) / (norm(a, 2) * norm(x) + norm(b)),
            "difference_to_direct_solve": norm(x - direct) / norm(direct),
        }
        print(f"  {name:>8}: backward error {row[name]['backward_error']:.1e}, "
              f"{row[name]['difference_to_direct_solve']:.1e} from a direct solve")  # fmt: skip
    return row


def inverse(folder: Path, n: int, repeats: int) -> dict[str, Any]:
    """The whole inverse at a condition number of about 1e4, its rows, its diagonal alone."""
    store = gram(folder, n)
    found = factorize(store, fresh(folder / "inverse"), ridge=0.15)
    seconds, stored = timed(found.inverse)
    whole = store[:, :].astype(np.float64)
    whole[np.diag_indices(n)] += found.ridge_absolute
    eigenvalues = top_eigenpairs(store, 1).values[0] + found.ridge_absolute
    error = 0.0
    for r in range(0, n, 1000):
        product = stored.rows(r, min(r + 1000, n)) @ whole
        product[np.arange(len(product)), np.arange(r, r + len(product))] -= 1
        error = max(error, float(np.abs(product).max()))
    smallest = 1 / top_eigenpairs(np.asarray(stored), 1).values[0]
    rows = [
        timed(lambda i=i: stored.rows(i, i + 1))[0]
        for i in np.random.default_rng(0).integers(0, n, 300).tolist()
    ]
    alone, diagonal = timed(lambda: found.diagonal_of_inverse(overwrite=True))
    row = {
        "n": n, "condition": eigenvalues / smallest, "seconds": seconds,
        "largest_error": error, "row_read_ms": 1e3 * statistics.median(rows),
        "row_read_ms_slowest": 1e3 * max(rows), "diagonal_seconds": alone,
        "diagonal_error": float(np.abs(diagonal / stored.diagonal() - 1).max()),
    }  # fmt: skip
    print(f"  {seconds:.1f} s, max |H H⁻¹ - I| {error:.1e} at condition {row['condition']:.2g}, "
          f"a row {row['row_read_ms']:.1f} ms, diagonal alone {alone:.1f} s")  # fmt: skip
    return row


def cg(folder: Path, n: int, repeats: int) -> dict[str, Any]:
    """Conjugate gradients with and without the preconditioner, ten right-hand sides."""
    store, b = gram(folder, n), targets(n)
    row: dict[str, Any] = {"n": n, "right_hand_sides": 10, "ridge": 1e-3, "tolerance": 1e-8}
    with PeakMemory(os.getpid()) as peak:
        seconds, helped = timed(lambda: cg_solve(store, b, ridge=1e-3, memory_limit="1.6GiB"))
    passes = {}
    with task_runner(None) as run:
        for name, limit in (("streamed", GIB // 2), ("kept", 4 * GIB)):
            multiply = SymmetricOperator(Source(store), run, memory_limit=limit)
            once = lambda multiply=multiply: multiply(b)  # noqa: E731
            passes[name] = [timed(once)[0] for _ in range(1 + repeats)]
    most = 3 * helped.iterations
    plain = cg_solve(store, b, ridge=1e-3, rank=0, max_iterations=most, throw=False)
    row |= {
        "rank": helped.rank, "iterations": helped.iterations, "passes": helped.passes,
        "seconds": seconds, "residual": float(helped.residuals.max()),
        "peak_gib": peak.bytes / GIB, "memory_limit": "1.6GiB",
        # the first pass reads in either case
        "seconds_a_pass": {name: statistics.median(times[1:]) for name, times in passes.items()},
        "without_preconditioner": {
            "iterations": plain.iterations, "outcome": plain.outcome.name,
            "residual": float(plain.residuals.max()),
        },
    }  # fmt: skip
    print(f"  rank {helped.rank}: {helped.passes} passes, {seconds:.0f} s, residual "
          f"{row['residual']:.1e}, peak {row['peak_gib']:.2f} GiB; without: "
          f"{row['without_preconditioner']['residual']:.1e} after {plain.iterations}; a pass "
          f"{row['seconds_a_pass']['streamed']:.2f} s, "
          f"kept {row['seconds_a_pass']['kept']:.2f} s")  # fmt: skip
    return row


def append(folder: Path, n: int, repeats: int) -> dict[str, Any]:
    """A twentieth more rows, appended against factored anew."""
    m = n // 20
    store = gram(folder, n + m)
    seconds: dict[str, list[float]] = {"append": [], "anew": []}
    for _ in range(repeats):
        small = fresh(folder / "append")
        factorize(Leading(store, n), small, ridge=0.0)
        opened = CholeskyFactor.open(small)
        t, grown = timed(lambda opened=opened: opened.append(store))
        seconds["append"].append(t)
        t, anew = timed(lambda: factorize(store, fresh(folder / "anew"), ridge=0.0))
        seconds["anew"].append(t)
    b = targets(n + m)
    x, y = grown.solve(b), anew.solve(b)
    ratios = [a / b for a, b in zip(seconds["anew"], seconds["append"], strict=True)]
    row = {
        "n": n, "rows": m, "seconds": seconds, "ratio": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
        "difference": float(np.abs(x - y).max() / np.abs(y).max()),
    }  # fmt: skip
    print(f"  {m} rows: {row['ratio']:.1f} times as fast as anew ({min(ratios):.1f} to "
          f"{max(ratios):.1f}), solutions differ by {row['difference']:.1e}")  # fmt: skip
    return row


def eigen(folder: Path, n: int, repeats: int) -> dict[str, Any]:
    """The 16 largest eigenvalues against LAPACK's."""
    from scipy.linalg import eigh

    store = gram(folder, n)
    whole = store[:, :].astype(np.float64)
    lapack, expected = timed(
        lambda: eigh(whole, eigvals_only=True, subset_by_index=[n - 16, n - 1])[::-1]
    )
    row: dict[str, Any] = {"n": n, "k": 16, "lapack_seconds": lapack}
    for method in ("lobpcg", "lanczos"):
        seconds, found = timed(lambda method=method: top_eigenpairs(store, 16, method=method))
        row[method] = {
            "seconds": seconds, "passes": found.passes,
            "largest_error": float(np.abs(found.values / expected - 1).max()),
        }  # fmt: skip
        print(f"  {method:>8}: {found.passes} passes, {seconds:.1f} s (LAPACK {lapack:.0f} s), "
              f"relative error {row[method]['largest_error']:.1e}")  # fmt: skip
    return row


PARTS: dict[str, tuple[Callable[[Path, int, int], dict[str, Any]], int]] = {
    "factor": (factor, 12_288),
    "memory": (memory, 20_000),
    "solve": (solve, 4_000),
    "inverse": (inverse, 10_000),
    "cg": (cg, 20_000),
    "append": (append, 10_000),
    "eigen": (eigen, 10_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=["all", *PARTS], default="all")
    parser.add_argument("--scale", type=float, default=1.0, help="of the rows")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return
    path = RESULTS / "linalg.json"
    rows = {}
    if path.exists():
        rows = {row["part"]: row for row in json.loads(path.read_text())["rows"]}
    with tempfile.TemporaryDirectory() as folder:
        for name, (function, size) in PARTS.items():
            if args.part not in ("all", name):
                continue
            n = max(256, round(size * args.scale))
            print(f"{name}, N = {n}", flush=True)
            rows[name] = {"part": name, **function(Path(folder), n, args.repeats)}
    if args.scale == 1.0:
        print(write("linalg", list(rows.values())))


if __name__ == "__main__":
    main()
