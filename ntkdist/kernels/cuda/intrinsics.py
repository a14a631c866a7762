"""What GPU kernels are written with, and how they are launched: all they take of numba.cuda.

A team is the threads that work on one displacement class together: the lanes of a warp, which
need no barrier in a block. Indices count elements, as in C.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import cuda, types
from numba.cuda import dispatcher, libdevice
from numba.cuda.extending import intrinsic

from ntkdist.kernels.cuda.compile import KeptKernel

LANES = 32  # threads of a team
TEAMS = 4  # of a block of threads
THREADS = TEAMS * LANES
SIMPLE = 256  # threads of a block whose threads share nothing
SIDE = 16  # threads of a block along each side, for entries of fully connected networks
_ALL = 0xFFFFFFFF

dispatcher.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # a small tile is no mistake


def each(function: Any, count: int) -> Any:
    """Return a kernel set up to run one thread for each of ``count`` things."""
    return function[max(1, -(-count // SIMPLE)), SIMPLE]


def free_bytes() -> int:
    """Return the bytes of device memory that are free."""
    return int(cuda.current_context().get_memory_info().free)


def multiprocessors() -> int:
    """Return how many multiprocessors the device has."""
    return int(cuda.get_current_device().MULTIPROCESSOR_COUNT)


def shared_bytes() -> int:
    """Return the bytes of shared memory of a multiprocessor, 100 to 228 KiB."""
    return int(cuda.get_current_device().MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)


def device(function: Any) -> Any:
    """Return a function that kernels call."""
    return cuda.jit(function, device=True)


def kernel(function: Any, **options: Any) -> Any:
    """Return a function as kernel, compiled once a machine (see ``cuda.compile``)."""
    return KeptKernel(function, cuda.jit(function, **options).targetoptions)


def _access(name: str, *, read_only: bool) -> Any:
    def typed(typingctx: Any, start: Any, by: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = builder.load(builder.gep(args[0], [args[1]], inbounds=True))
            if read_only:  # through the read-only cache
                value.set_metadata("invariant.load", builder.module.add_metadata([]))
            return value

        return start.dtype(start, types.int64), generate

    typed.__name__ = typed.__qualname__ = name
    return intrinsic(typed)


# both return the element ``by`` behind a pointer; ``fetch`` only of what no kernel is writing
fetch = _access("fetch", read_only=True)
peek = _access("peek", read_only=False)


@intrinsic
def pointer(typingctx: Any, array: Any, at: Any) -> Any:
    """Return a pointer to an element of a contiguous array, counted from its first."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.gep(data, [args[1]], inbounds=True)

    return types.CPointer(array.dtype)(array, types.int64), generate


@intrinsic
def advance(typingctx: Any, start: Any, by: Any) -> Any:
    """Return a pointer ``by`` elements further."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]], inbounds=True)

    return start(start, types.int64), generate


@intrinsic
def quotient(typingctx: Any, x: Any, y: Any) -> Any:
    """Return x // y of whole numbers below 2³¹, none negative, by the GPU's division of 32 bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        short = [builder.trunc(value, ir.IntType(32)) for value in args]
        return builder.zext(builder.udiv(*short), ir.IntType(64))

    return types.int64(types.int64, types.int64), generate


@intrinsic
def put(typingctx: Any, start: Any, by: Any, value: Any) -> Any:
    """Store an element ``by`` behind a pointer."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], builder.gep(args[0], [args[1]], inbounds=True))
        return context.get_dummy_value()

    return types.void(start, types.int64, start.dtype), generate


@device
def beside(d: Any, t: Any, e: Any, u: Any) -> tuple[Any, Any, Any, Any]:
    """Return e and u of the lane to the left, d and t of that to the right; own at an end."""
    return (
        cuda.shfl_up_sync(_ALL, e, 1),
        cuda.shfl_up_sync(_ALL, u, 1),
        cuda.shfl_down_sync(_ALL, d, 1),
        cuda.shfl_down_sync(_ALL, t, 1),
    )


@device
def beside_one(d: Any, e: Any) -> tuple[Any, Any]:
    """Return e of the lane to the left and d of that to the right; own at an end."""
    return cuda.shfl_up_sync(_ALL, e, 1), cuda.shfl_down_sync(_ALL, d, 1)


@device
def over_lanes(value: Any) -> Any:
    """Return the sum of all lanes' values, added in the same order in each."""
    value += cuda.shfl_xor_sync(_ALL, value, 1)
    value += cuda.shfl_xor_sync(_ALL, value, 2)
    value += cuda.shfl_xor_sync(_ALL, value, 4)
    value += cuda.shfl_xor_sync(_ALL, value, 8)
    return value + cuda.shfl_xor_sync(_ALL, value, 16)


@device
def barrier() -> None:
    """Wait for the lanes of a team; what they stored is seen by all."""
    cuda.syncwarp()


@intrinsic
def copy_unit(typingctx: Any, to: Any, at: Any, start: Any, by: Any) -> Any:
    """Begin to copy 16 bytes from device memory to shared memory; indices count elements."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        there = builder.gep(args[0], [args[1]], inbounds=True)
        here = builder.gep(args[2], [args[3]], inbounds=True)
        of = there.type.pointee
        there = builder.ptrtoint(builder.addrspacecast(there, of.as_pointer(3)), ir.IntType(32))
        here = builder.ptrtoint(builder.addrspacecast(here, of.as_pointer(1)), ir.IntType(64))
        kind = ir.FunctionType(ir.VoidType(), [there.type, here.type])
        text = "cp.async.cg.shared.global [$0], [$1], 16;"
        code = ir.InlineAsm(kind, text, "r,l,~{memory}", side_effect=True)
        builder.call(code, [there, here])
        return context.get_dummy_value()

    return types.void(to, types.int64, start, types.int64), generate


@intrinsic
def await_copies(typingctx: Any) -> Any:
    """Wait for the copies that this thread began."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [])
        code = ir.InlineAsm(kind, "cp.async.wait_all;", "~{memory}", side_effect=True)
        builder.call(code, [])
        return context.get_dummy_value()

    return types.void(), generate


@device
def block_barrier() -> None:
    """Wait for all teams of the block; what they stored or awaited is seen by all."""
    cuda.syncthreads()


@intrinsic
def _fast_inverse_root(typingctx: Any, x: Any) -> Any:
    """Return 1/√x of a normal float32 by the special function alone."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()])
        code = ir.InlineAsm(kind, "rsqrt.approx.ftz.f32 $0, $1;", "=f,f")
        return builder.call(code, args)

    return types.float32(types.float32), generate


def inverse_root(dtype: str) -> Any:
    """Return the function 1/√x of a dtype; x at least 1e-37 in float32."""
    return _fast_inverse_root if dtype == "float32" else libdevice.rsqrt


root = math.sqrt
exponential = math.exp
