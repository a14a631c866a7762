"""Vector operations on LANES float32 at an address, as LLVM vectors.

Numba's own loops over 16 numbers are at the compiler's mercy: short constant trip counts are
unrolled into scalar code, others are guarded by aliasing checks at every turn. These
functions emit vector code and explicit fused multiply-adds on any processor (LLVM splits the
vectors where registers are narrower), with every operation in the order written here, so that
entries have the same bits on all of them.

Addresses are integers. The caller keeps the arrays alive. Numba's cache on disk looks at
``_cpu_loops.py`` alone: after a change here or in ``duals``, touch that file too.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ntkdist.kernels.duals import ARCCOS, SINE_GAP

LANES = 16

_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_INDEX = types.intp
_FLOAT = types.float32
# θ and sin θ − cθ are only ever needed over 2π
_P = [c / (2 * math.pi) for c in ARCCOS]
_R = [c / (2 * math.pi) for c in SINE_GAP]


class _Code:
    """A thin layer over an llvmlite builder for float32 vectors."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def constant(self, value: float) -> Any:
        # rounded here: a float32 constant must be written with digits that are exact
        return ir.Constant(_VECTOR, [float(np.float32(value))] * LANES)

    def splat(self, scalar: Any) -> Any:
        single = self.builder.insert_element(
            ir.Constant(_VECTOR, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0)
        )
        mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.builder.shuffle_vector(single, ir.Constant(_VECTOR, ir.Undefined), mask)

    def load(self, address: Any) -> Any:
        return self.builder.load(self._pointer(address), align=4)

    def store(self, value: Any, address: Any) -> None:
        self.builder.store(value, self._pointer(address), align=4)

    def _pointer(self, address: Any) -> Any:
        return self.builder.inttoptr(address, _VECTOR.as_pointer())

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        return self.builder.call(self._function(f"llvm.fma.v{LANES}f32", kind), [a, b, c])

    def sqrt(self, a: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR])
        return self.builder.call(self._function(f"llvm.sqrt.v{LANES}f32", kind), [a])

    def _function(self, name: str, kind: Any) -> Any:
        module = self.builder.module
        return module.globals.get(name) or ir.Function(module, kind, name)

    def smaller(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), a, b)

    def larger(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def polynomial(self, coefficients: list[float], s: Any) -> Any:
        value = self.constant(coefficients[-1])
        for c in reversed(coefficients[:-1]):
            value = self.fma(value, s, self.constant(c))
        return value


@intrinsic
def relu(typingctx, delta, theta, trained, a, inv_a, b, inv_b, to_delta, to_theta):
    """Push LANES cells through K ← E[σσ], Θ ← (Θ + trained·K)·E[σ̇σ̇], in Δ for K.

    Args:
        delta: Address of Δ.
        theta: Address of Θ.
        trained: 1 if the linear layer before adds its K to Θ, else 0.
        a: √K(x, x) of the first image's pixel.
        inv_a: Its reciprocal, or 0.
        b: Address of √K(x', x') of the second images' pixels.
        inv_b: Address of their reciprocals.
        to_delta: Address for the new Δ.
        to_theta: Address for the new Θ.
    """
    signature = types.void(_INDEX, _INDEX, _FLOAT, _FLOAT, _FLOAT, _INDEX, _INDEX, _INDEX, _INDEX)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at_delta, at_theta, add, first, inv_first, at_b, at_inv, to_d, to_t = args
        v = _Code(builder)
        half, one, two = v.constant(0.5), v.constant(1.0), v.constant(2.0)
        a_v, b_v = v.splat(first), v.load(at_b)
        d = builder.fsub(a_v, b_v)
        half_d2 = builder.fmul(builder.fmul(half, d), d)
        e = builder.fsub(v.load(at_delta), half_d2)
        ab = builder.fmul(a_v, b_v)
        th = v.fma(v.splat(add), builder.fsub(ab, e), v.load(at_theta))
        w = builder.fmul(e, builder.fmul(v.splat(inv_first), v.load(at_inv)))
        s = v.larger(v.smaller(w, builder.fsub(two, w)), v.constant(0.0))
        t = v.sqrt(s)
        p = builder.fmul(v.polynomial(_P, s), t)
        r = builder.fmul(v.polynomial(_R, s), builder.fmul(t, s))
        positive = builder.fcmp_ordered("<=", w, one)
        kept = builder.select(positive, e, ab)
        slope = builder.select(positive, builder.fsub(half, p), p)
        new = builder.fmul(half, builder.fadd(kept, half_d2))
        v.store(v.fma(builder.fneg(ab), r, new), to_d)
        v.store(builder.fmul(th, slope), to_t)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def linear(typingctx, delta, theta, trained, a, b, to_delta, to_theta):
    """Pass LANES cells on where no nonlinearity stands: Δ ← Δ, Θ ← Θ + trained·K.

    The arguments are those of ``relu``.
    """
    signature = types.void(_INDEX, _INDEX, _FLOAT, _FLOAT, _INDEX, _INDEX, _INDEX)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at_delta, at_theta, add, first, at_b, to_d, to_t = args
        v = _Code(builder)
        a_v, b_v = v.splat(first), v.load(at_b)
        d = builder.fsub(a_v, b_v)
        old = v.load(at_delta)
        e = builder.fsub(old, builder.fmul(builder.fmul(v.constant(0.5), d), d))
        K = builder.fsub(builder.fmul(a_v, b_v), e)
        v.store(v.fma(v.splat(add), K, v.load(at_theta)), to_t)
        v.store(old, to_d)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add3(typingctx, x, y, z, scale, to):
    """Store scale·(x + y + z) of the LANES numbers at three addresses."""
    signature = types.void(_INDEX, _INDEX, _INDEX, _FLOAT, _INDEX)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        v = _Code(builder)
        total = builder.fadd(builder.fadd(v.load(args[0]), v.load(args[1])), v.load(args[2]))
        v.store(builder.fmul(v.splat(args[3]), total), args[4])
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add(typingctx, x, to):
    """Add the LANES numbers at address ``x`` to those at ``to``."""
    signature = types.void(_INDEX, _INDEX)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        v = _Code(builder)
        v.store(builder.fadd(v.load(args[1]), v.load(args[0])), args[1])
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def add_number(typingctx, x, to):
    """Add the number ``x`` to the LANES numbers at ``to``."""
    signature = types.void(_FLOAT, _INDEX)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        v = _Code(builder)
        v.store(builder.fadd(v.load(args[1]), v.splat(args[0])), args[1])
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def fill(typingctx, x, to):
    """Store the number ``x`` LANES times."""
    signature = types.void(_FLOAT, _INDEX)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        v = _Code(builder)
        v.store(v.splat(args[0]), args[1])
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def copy(typingctx, x, to):
    """Copy the LANES numbers at address ``x``."""
    signature = types.void(_INDEX, _INDEX)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        v = _Code(builder)
        v.store(v.load(args[0]), args[1])
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def total(typingctx, x, count, to):
    """Store the sum of ``count`` groups of LANES numbers that follow each other from ``x``."""
    signature = types.void(_INDEX, _INDEX, _INDEX)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        v = _Code(builder)
        found = cgutils.alloca_once_value(builder, v.constant(0.0))
        with cgutils.for_range(builder, args[1]) as loop:
            here = builder.add(args[0], builder.mul(loop.index, args[0].type(4 * LANES)))
            builder.store(builder.fadd(builder.load(found), v.load(here)), found)
        v.store(builder.load(found), args[2])
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def half_distance(typingctx, x, y, count, to):
    """Store Σ (x − y)²/2 over ``count`` channels: x numbers in a row, y groups of LANES."""
    signature = types.void(_INDEX, _INDEX, _INDEX, _INDEX)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        v = _Code(builder)
        number = ir.FloatType().as_pointer()
        found = cgutils.alloca_once_value(builder, v.constant(0.0))
        with cgutils.for_range(builder, args[2]) as loop:
            at_x = builder.add(args[0], builder.mul(loop.index, args[0].type(4)))
            at_y = builder.add(args[1], builder.mul(loop.index, args[1].type(4 * LANES)))
            scalar = builder.load(builder.inttoptr(at_x, number), align=4)
            d = builder.fsub(v.splat(scalar), v.load(at_y))
            half = builder.fmul(v.constant(0.5), d)
            builder.store(v.fma(half, d, builder.load(found)), found)
        v.store(builder.load(found), args[3])
        return context.get_dummy_value()

    return signature, generate
