"""The float32 rate that one core reaches with fused multiply-adds alone, measured.

    python jobs/benchmarks/cpu_peak.py

Independent accumulators in registers, no memory: what the processor can issue. With one
512-bit multiply-add a cycle this is 32 operations a cycle.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

# More than latency times issue rate of any processor, and few enough to stay in registers
ACCUMULATORS = 12
STEPS = 2**19  # of the loop, a few milliseconds


def lanes() -> int:
    """Return the float32 lanes of an accumulator: a register of AVX-512, else of AVX2."""
    return 16 if llvm.get_host_cpu_features().get("avx512f") else 8


@functools.cache
def _loop() -> Callable[..., np.float32]:
    """Compile a loop of (steps, factor, summand) that returns a number made of all sums."""
    width = lanes()
    vector = ir.VectorType(ir.FloatType(), width)
    index = ir.IntType(32)

    @intrinsic
    def chains(typingctx: Any, steps: Any, factor: Any, summand: Any) -> Any:
        signature = types.float32(types.intp, types.float32, types.float32)

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            kind = ir.FunctionType(vector, [vector] * 3)
            fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{width}f32")

            def splat(scalar: Any) -> Any:
                undefined = ir.Constant(vector, ir.Undefined)
                single = builder.insert_element(undefined, scalar, ir.Constant(index, 0))
                mask = ir.Constant(ir.VectorType(index, width), [0] * width)
                return builder.shuffle_vector(single, undefined, mask)

            m, c = splat(args[1]), splat(args[2])
            # different starts, or the compiler would keep one chain for all
            sums = [
                cgutils.alloca_once_value(builder, ir.Constant(vector, [float(k)] * width))
                for k in range(ACCUMULATORS)
            ]
            with cgutils.for_range(builder, args[0]):
                for x in sums:
                    builder.store(builder.call(fma, [builder.load(x), m, c]), x)
            total = builder.load(sums[0])
            for x in sums[1:]:
                total = builder.fadd(total, builder.load(x))
            # every lane counts, or the compiler would keep one
            found = builder.extract_element(total, ir.Constant(index, 0))
            for lane in range(1, width):
                found = builder.fadd(
                    found, builder.extract_element(total, ir.Constant(index, lane))
                )
            return found

        return signature, generate

    @numba.njit
    def run(steps: int, factor: np.float32, summand: np.float32) -> np.float32:
        return chains(steps, factor, summand)  # type: ignore[call-arg]  # compiled

    return run


def peak_gflops(runs: int = 8) -> float:
    """Measure the float32 peak of one core.

    Args:
        runs: Short runs to take the fastest of.

    Returns:
        10⁹ operations a second, a fused multiply-add counted as two.

    Raises:
        RuntimeError: If the loop did not compute what it should.
    """
    loop = _loop()
    factor, summand = np.float32(0.5), np.float32(0.5)
    loop(1, factor, summand)
    fastest = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        total = loop(STEPS, factor, summand)
        fastest = min(fastest, time.perf_counter() - start)
        if total != ACCUMULATORS * lanes():  # every chain x ← x/2 + 1/2 ends at 1
            raise RuntimeError(f"the chains sum to {total}, not to {ACCUMULATORS * lanes()}")
    return 2 * ACCUMULATORS * lanes() * STEPS / fastest / 1e9


if __name__ == "__main__":
    print(f"{peak_gflops():.1f} GFLOP/s of float32 on one core, {lanes()} lanes a register")
