"""Kernel entries per second of the cpu backend against neural-tangents, in one process.

    python jobs/benchmarks/kernel.py                        # cntk-gap-4 on 32x32x3
    python jobs/benchmarks/kernel.py --arch cntk-gap-11 --shape 32x32x3 --repeats 5

Both get the same images and all cores, and take turns; medians are compared. One block is
timed after a block that compiles. neural-tangents runs as its users run it: its jitted
kernel function in float32, NTK alone; the cpu backend gives NTK and NNGP in its one pass.

The bound beside the result: a cell of the (P·Q)² state takes about 55 float32 operations and
one square root a layer; at 8 lanes and two fused multiply-adds a cycle (AVX2) that is about
0.5 ns a cell and layer on one core at 3.5 GHz.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from _record import write

from ntkdist import Architecture, Conv
from ntkdist.kernels import get_backend
from ntkdist.kernels.stax import build, import_neural_tangents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", action="append", help="preset; may be given several times")
    parser.add_argument("--shape", default="32x32x3", help="height x width x channels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=2, help="images a side for neural-tangents")
    parser.add_argument("--name", default="kernel", help="results/NAME.json")
    args = parser.parse_args()
    shape = tuple(int(x) for x in args.shape.split("x"))
    rows = [compare(name, shape, args.images, args.repeats) for name in args.arch or ["cntk-gap-4"]]
    print(
        f"{'network':<14}{'image':<10}{'neural-tangents':>17}{'cpu':>12}{'ratio':>8}{'ns/cell/layer/core':>20}"
    )
    for row in rows:
        each = row["cpu_ns_per_cell_layer_core"]
        print(
            f"{row['arch']:<14}{args.shape:<10}{row['neural_tangents_ms']:>14.2f} ms"
            f"{row['cpu_ms']:>9.3f} ms{row['ratio']:>8.0f}{each or float('nan'):>20.2f}"
        )
    print(write(args.name, rows, "python jobs/benchmarks/kernel.py " + " ".join(sys.argv[1:])))


def compare(name: str, shape: tuple[int, ...], images: int, repeats: int) -> dict:
    """Time both on one architecture; milliseconds an entry, medians of alternating repeats."""
    arch = Architecture.parse(name)
    cores = len(os.sched_getaffinity(0))
    rng = np.random.default_rng(0)

    import_neural_tangents()
    import jax
    import jax.numpy as jnp

    build_kernel = build(arch)[2]
    kernel_fn = jax.jit(lambda a, b: build_kernel(a, b, "ntk"))
    x = jnp.asarray(rng.normal(size=(images, *shape)), jnp.float32)
    y = jnp.asarray(rng.normal(size=(images, *shape)), jnp.float32)

    backend = get_backend("cpu", threads=cores)
    # whole lanes of columns, and rows for every thread, as a tile has them
    ours_a, ours_b = (rng.normal(size=(n, *shape)) for n in (8 * cores, 16))
    a, b = backend.prepare(arch, ours_a), backend.prepare(arch, ours_b)

    def peer() -> None:
        kernel_fn(x, y).block_until_ready()

    def ours() -> None:
        backend.block(a, b, ("ntk", "nngp"))

    peer()
    ours()
    times: dict[Callable[[], None], list[float]] = {peer: [], ours: []}
    for _ in range(repeats):
        for run, taken in times.items():
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    peer_ms = statistics.median(times[peer]) / images**2 * 1e3
    cpu_ms = statistics.median(times[ours]) / (len(ours_a) * len(ours_b)) * 1e3
    layers = sum(isinstance(x, Conv) for x in arch.layers)
    pooled = "gap" in name
    cells = (shape[0] * shape[1]) ** 2 if pooled else shape[0] * shape[1]
    return {
        "arch": name,
        "shape": list(shape),
        "cores": cores,
        "repeats": repeats,
        "neural_tangents_images": images,
        "neural_tangents_ms": peer_ms,
        "cpu_ms": cpu_ms,
        "ratio": peer_ms / cpu_ms,
        "cpu_ns_per_cell_layer_core": cpu_ms * 1e6 * cores / (cells * layers) if layers else None,
    }


if __name__ == "__main__":
    main()
