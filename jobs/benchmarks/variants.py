"""What the arithmetic of the cpu backend's inner loop costs and loses, variant by variant.

    python jobs/benchmarks/variants.py

Each variant is compiled in a process of its own and timed on one core on ``cntk-gap-11`` (NTK and
NNGP, 16x16x3 images, best of several repeats, variants in turns), and its largest relative error
against the float64 reference is taken on ``cntk-gap-21`` (6x6x3, near duplicates and
equal images among them).

* degrees of the two polynomials: θ = √s·P(s) and sin θ − θ cos θ = s√s·R(s);
* the square root: the processor's, or its 14-bit reciprocal root with one Newton step;
* float64 in place of float32.

The loop has no division: reciprocals of √K(x, x) are kept with the image.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
from _record import write

# name: (degree of P, degree of R, square root, dtype); the first is what the backend does
VARIANTS = {
    "5 and 4": (5, 4, "sqrt", "float32"),
    "4 and 3": (4, 3, "sqrt", "float32"),
    "4 and 4": (4, 4, "sqrt", "float32"),
    "7 and 6": (7, 6, "sqrt", "float32"),
    "5 and 4, reciprocal root": (5, 4, "newton", "float32"),
    "float64": (13, 12, "sqrt", "float64"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="timings of each, in turns (5)")
    parser.add_argument("--name", default="variants", help="results/NAME.json (variants)")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(*json.loads(args.serve))
        return
    with tempfile.TemporaryDirectory() as folder:
        workers = {}
        for name, variant in VARIANTS.items():
            command = [sys.executable, __file__, "--serve", json.dumps(variant)]
            env = os.environ | {"NUMBA_CACHE_DIR": os.path.join(folder, str(len(workers)))}
            workers[name] = subprocess.Popen(
                command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            error = ask(workers[name], "error")  # compiles: one after the other
            print(f"{name:<28} largest relative error {error:.1e}", flush=True)
            workers[name].error = error  # type: ignore[attr-defined]
        times: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(args.repeats):
            for name, worker in workers.items():
                times[name].append(ask(worker, "time"))
        for worker in workers.values():
            worker.communicate("stop\n")
    rows = []
    for name, variant in VARIANTS.items():
        error = workers[name].error  # type: ignore[attr-defined]
        best = min(times[name])
        rows.append(
            {"variant": name, "degrees": variant[:2], "root": variant[2], "dtype": variant[3]}
            | {"ns_per_cell_layer_core": best, "largest_relative_error": error, "ns": times[name]}
        )
        print(f"{name:<28}{best:8.3f} ns a cell and layer{error:12.1e}")
    print(write(args.name, rows, "python jobs/benchmarks/variants.py " + " ".join(sys.argv[1:])))


def ask(worker: subprocess.Popen, question: str) -> float:
    assert worker.stdin
    assert worker.stdout
    worker.stdin.write(question + "\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


def serve(P: int, R: int, root: str, dtype: str) -> None:
    """Answer questions about one variant until told to stop."""
    patch(P, R, root, dtype)
    from ntkdist import Architecture, kernel_matrix
    from ntkdist.kernels import get_backend

    backend = get_backend("cpu", dtype=dtype)
    rng = np.random.default_rng(0)
    arch, edge, n = Architecture.parse("cntk-gap-11"), 16, 16
    a, b = (backend.prepare(arch, rng.normal(size=(n, edge, edge, 3))) for _ in range(2))
    for line in sys.stdin:
        if line == "error\n":
            x = rng.normal(size=(4, 6, 6, 3))
            x[1] = x[0]
            x[1].flat[5] += 1 / 255
            x[3] = x[2]
            found = kernel_matrix("cntk-gap-21", x, backend="cpu", dtype=dtype)
            right = kernel_matrix("cntk-gap-21", x, backend="reference", dtype="float64")
            backend.block(a, b, ("ntk", "nngp"))
            print(np.abs(found / right - 1).max(), flush=True)
        elif line == "time\n":
            time.sleep(0.1)
            start = time.perf_counter()
            backend.block(a, b, ("ntk", "nngp"))
            seconds = time.perf_counter() - start
            print(seconds / (n * n * edge**4 * 10) * 1e9, flush=True)
        else:
            return


def patch(P: int, R: int, root: str, dtype: str) -> None:
    """Change the arithmetic before the loops are imported."""
    from ntkdist.kernels import duals
    from ntkdist.kernels.cpu import compile as cache

    nodes = (1 - np.cos(np.pi * (np.arange(40) + 0.5) / 40)) / 2
    theta = 2 * np.arcsin(np.sqrt(nodes / 2))
    gap = theta**3 * np.array([series(x) for x in theta])
    if (len(duals.ARCCOS[dtype]) - 1, len(duals.SINE_GAP[dtype]) - 1) != (P, R):
        for table, degree, values in (
            (duals.ARCCOS, P, theta / np.sqrt(nodes)),
            (duals.SINE_GAP, R, gap / nodes**1.5),
        ):
            fit = np.polynomial.Polynomial.fit(nodes, values, degree, domain=[0, 1], window=[0, 1])
            table[dtype] = tuple(float(c) for c in fit.convert().coef)
    if root == "newton":
        from ntkdist.kernels.cpu import vector

        vector.sqrt = newton_root()
    cache.sources_digest = lambda: f"{P} {R} {root} {dtype}"


def series(theta: float) -> float:
    """Return (sin θ − θ cos θ)/θ³, where the difference would lose its digits."""
    return sum(
        (-1) ** k * (2 * k + 2) / math.factorial(2 * k + 3) * theta ** (2 * k) for k in range(14)
    )


def newton_root():
    """Return a square root of 16 float32 by a reciprocal root of 14 bits and one Newton step."""
    from llvmlite import ir
    from numba.extending import intrinsic

    @intrinsic
    def sqrt(typingctx, x):
        def generate(context, builder, sig, args):
            vector = x.llvm
            name = "llvm.x86.avx512.rsqrt14.ps.512"
            kind = ir.FunctionType(vector, [vector, vector, ir.IntType(16)])
            function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
            tiny, half, more = (x.constant(c) for c in (1e-30, 0.5, 1.5))
            s = builder.select(builder.fcmp_ordered(">", args[0], tiny), args[0], tiny)
            y = builder.call(function, [s, tiny, ir.Constant(ir.IntType(16), -1)])
            t = builder.fmul(args[0], y)
            step = builder.fmul(builder.fmul(half, t), y)
            return builder.fmul(t, builder.fsub(more, step))

        return x(x), generate

    return sqrt


if __name__ == "__main__":
    main()
