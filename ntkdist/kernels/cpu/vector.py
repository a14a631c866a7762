"""A Numba type for one vector register: 16 float32 or 8 float64 side by side.

Numba's own loops over 16 numbers are not always vectorised: short constant trip counts are
unrolled into scalar code, others check for aliasing in every iteration. A value of
type ``Lanes`` is an LLVM vector instead: ``+``, ``-``, ``*`` and the functions here are one
instruction each where registers are wide enough (LLVM splits them where they are narrower),
with every operation in the order written, so that results have the same bits on any processor.

``load`` and ``store`` take addresses as integers. The caller keeps the arrays alive, and aligned
to ``BYTES``: a vector that straddles two cache lines costs double. An argument ``unit`` is the
number 1 of a dtype, which selects the type of the vector.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

from ntkdist.kernels.duals import ARCCOS, ROUNDING, SINE_GAP

BYTES = 64
LANES = {"float32": 16, "float64": 8}

_INDEX = types.intp


class Lanes(types.Type):
    """The type of a vector of ``BYTES`` bytes with elements of type ``scalar``."""

    def __init__(self, scalar: Any) -> None:
        self.scalar = scalar
        super().__init__(name=f"Lanes({scalar})")

    @property
    def element(self) -> Any:
        """LLVM's type of one element."""
        return ir.FloatType() if self.scalar == types.float32 else ir.DoubleType()

    @property
    def llvm(self) -> Any:
        """LLVM's type of the vector."""
        return ir.VectorType(self.element, LANES[self.scalar.name])

    @property
    def suffix(self) -> str:
        """How LLVM's intrinsic functions name the vector."""
        return f"v{LANES[self.scalar.name]}f{self.scalar.bitwidth}"

    def constant(self, value: float) -> Any:
        """Return LLVM's constant with the value in every lane."""
        # rounded here: LLVM wants float32 constants with digits that are exact
        exact = float(np.float32(value)) if self.scalar == types.float32 else float(value)
        return ir.Constant(self.llvm, [exact] * LANES[self.scalar.name])


_BY_SCALAR = {types.float32: Lanes(types.float32), types.float64: Lanes(types.float64)}


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, kind.llvm)


def _call(builder: Any, kind: Lanes, name: str, args: list[Any]) -> Any:
    full = f"llvm.{name}.{kind.suffix}"
    signature = ir.FunctionType(kind.llvm, [kind.llvm] * len(args))
    function = builder.module.globals.get(full) or ir.Function(builder.module, signature, full)
    return builder.call(function, args)


def _at(builder: Any, address: Any, target: Any) -> Any:
    return builder.inttoptr(address, target.as_pointer())


def _align(kind: Lanes) -> int:
    return kind.scalar.bitwidth // 8


def _splatted(builder: Any, kind: Lanes, scalar: Any) -> Any:
    undefined = ir.Constant(kind.llvm, ir.Undefined)
    single = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), kind.llvm.count), [0] * kind.llvm.count)
    return builder.shuffle_vector(single, undefined, mask)


@intrinsic
def splat(typingctx, x):
    """Return the number ``x`` in every lane."""
    kind = _BY_SCALAR[x]

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splatted(builder, kind, args[0])

    return kind(x), generate


@intrinsic
def word(typingctx, unit):
    """Return the size of one number in bytes."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.get_constant(_INDEX, unit.bitwidth // 8)

    return _INDEX(unit), generate


@intrinsic
def integer(typingctx, address):
    """Return the 64-bit integer at ``address``."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_at(builder, args[0], ir.IntType(64)), align=8)

    return types.int64(_INDEX), generate


@intrinsic
def number(typingctx, address, unit):
    """Return the one number at ``address``."""
    kind = _BY_SCALAR[unit]

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_at(builder, args[0], kind.element), align=_align(kind))

    return unit(_INDEX, unit), generate


@intrinsic
def load(typingctx, address, unit):
    """Return the vector at ``address``."""
    kind = _BY_SCALAR[unit]

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_at(builder, args[0], kind.llvm), align=_align(kind))

    return kind(_INDEX, unit), generate


@intrinsic
def store(typingctx, x, address):
    """Store the vector ``x`` at ``address``."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[0], _at(builder, args[1], x.llvm), align=_align(x))
        return context.get_dummy_value()

    return types.void(x, _INDEX), generate


def _fused(negated: int | None) -> Any:
    @intrinsic
    def operation(typingctx, x, y, z):
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            terms = [builder.fneg(v) if k == negated else v for k, v in enumerate(args)]
            return _call(builder, x, "fma", terms)

        return x(x, x, x), generate

    return operation


fma = _fused(None)  # x·y + z, rounded once
fms = _fused(2)  # x·y − z
fnma = _fused(0)  # z − x·y


def _unary(name: str) -> Any:
    @intrinsic
    def operation(typingctx, x):
        return x(x), lambda context, builder, sig, args: _call(builder, x, name, list(args))

    return operation


sqrt = _unary("sqrt")
magnitude = _unary("fabs")


@intrinsic
def where_above(typingctx, x, limit, yes, no):
    """Return ``yes`` in the lanes where x > limit, else ``no``."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[2], args[3])

    return x(x, x, x, x), generate


def _constant(value: float) -> Any:
    @intrinsic
    def constant(typingctx, unit):
        kind = _BY_SCALAR[unit]
        return kind(unit), lambda context, builder, sig, args: kind.constant(value)

    return constant


half = _constant(0.5)
quarter = _constant(0.25)
over_two_pi = _constant(0.5 / math.pi)
root_half = _constant(math.sqrt(0.5))
four_over_pi = _constant(4 / math.pi)


# e^x = 2^n e^r: n is the integer nearest x/ln 2, and r what is left of x after n times ln 2, which
# is subtracted in two parts
_EXP_LEAST = {"float32": -87.0, "float64": -708.0}
_LN_2 = {
    "float32": (0.693145751953125, 1.428606765330187e-06),
    "float64": (0.6931471803691238, 1.9082149292705877e-10),
}
_EXP_DEGREE = {"float32": 7, "float64": 13}  # of the series for |r| ≤ ln(2)/2
_MANTISSA = {"float32": (32, 23, 127), "float64": (64, 52, 1023)}


@intrinsic
def exp(typingctx, x):
    """Return e^x, 1 exactly at 0; numbers beyond the range of the dtype are taken for its ends."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        name = x.scalar.name
        low, high = x.constant(_EXP_LEAST[name]), x.constant(-_EXP_LEAST[name])
        value = _call(builder, x, "maxnum", [_call(builder, x, "minnum", [args[0], high]), low])
        n = _call(builder, x, "rint", [builder.fmul(value, x.constant(1 / math.log(2)))])
        rest = value
        for part in _LN_2[name]:
            rest = _call(builder, x, "fma", [n, x.constant(-part), rest])
        total = x.constant(1 / math.factorial(_EXP_DEGREE[name]))
        for k in range(_EXP_DEGREE[name] - 1, -1, -1):
            total = _call(builder, x, "fma", [total, rest, x.constant(1 / math.factorial(k))])
        bits, shift, bias = _MANTISSA[name]
        integers = ir.VectorType(ir.IntType(bits), x.llvm.count)
        power = builder.add(
            builder.fptosi(n, integers), ir.Constant(integers, [bias] * x.llvm.count)
        )
        power = builder.shl(power, ir.Constant(integers, [shift] * x.llvm.count))
        return builder.fmul(total, builder.bitcast(power, x.llvm))

    return x(x), generate


def _operator(symbol: Callable[..., Any], name: str) -> None:
    @intrinsic
    def operation(typingctx, x, y):
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return getattr(builder, name)(*args)

        return x(x, y), generate

    @overload(symbol)
    def of_lanes(x, y):
        if isinstance(x, Lanes) and x == y:
            return lambda x, y: operation(x, y)
        return None


for _symbol, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _operator(_symbol, _name)


def _table(polynomial: dict[str, tuple[float, ...]], *, behind: bool) -> Any:
    """Return the function that reads a polynomial's coefficients from ``coefficients``."""

    @intrinsic
    def read(typingctx, address, unit):
        kind, count = _BY_SCALAR[unit], len(polynomial[unit.name])
        start = len(ARCCOS[unit.name]) if behind else 0

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            vectors = []
            for k in range(start, start + count):
                at = builder.add(args[0], args[0].type(k * _align(kind)))
                scalar = builder.load(_at(builder, at, kind.element), align=_align(kind))
                vectors.append(_splatted(builder, kind, scalar))
            return context.make_tuple(builder, sig.return_type, vectors)

        return types.UniTuple(kind, count)(_INDEX, unit), generate

    return read


def coefficients(dtype: str, *, rounding: bool = True) -> np.ndarray:
    """Return the coefficients of both polynomials over π, and ``ROUNDING`` or 0 in its place.

    The loops keep them in registers.
    """
    both = np.array([*ARCCOS[dtype], *SINE_GAP[dtype]], np.float64).astype(dtype) / math.pi
    return np.append(both, np.array(ROUNDING[dtype] if rounding else 0.0, dtype))


arccos_over_pi = _table(ARCCOS, behind=False)  # P/π, arccos(1 − s) = √s·P(s)
sine_gap_over_pi = _table(SINE_GAP, behind=True)  # R/π, sin θ − θ cos θ = s√s·R(s)


@intrinsic
def rounding(typingctx, address, unit):
    """Return the last of ``coefficients``."""
    kind = _BY_SCALAR[unit]
    at = (len(ARCCOS[unit.name]) + len(SINE_GAP[unit.name])) * _align(kind)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _at(builder, builder.add(args[0], args[0].type(at)), kind.element)
        return _splatted(builder, kind, builder.load(place, align=_align(kind)))

    return kind(_INDEX, unit), generate


@intrinsic
def polynomial(typingctx, table, s):
    """Return the polynomial with these coefficients, lowest power first, at s (Horner)."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        parts = [builder.extract_value(args[0], k) for k in range(table.count)]
        value = parts[-1]
        for part in reversed(parts[:-1]):
            value = _call(builder, s, "fma", [value, args[1], part])
        return value

    return s(table, s), generate
