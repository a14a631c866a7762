"""The GPU kernels compiled without a GPU: PTX, and the registers and memory of its threads."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numba.core import types
from numba.cuda.compiler import compile_cuda, kernel_fixup
from numba.np.numpy_support import from_dtype

from ntkdist.kernels.cuda.compile import described
from ntkdist.kernels.sources import sources_digest
from tests.kernels.simulator.program import Program

Target = tuple[int, int]


@dataclass(frozen=True)
class Compiled:
    """A kernel for one kind of GPU.

    Attributes:
        ptx: Its text.
        registers: Of a thread. This and the next two are 0 where no machine code was made.
        spilled: Bytes that a thread stores because registers do not suffice.
        shared: Bytes of a block's shared memory.
    """

    ptx: str
    registers: int = 0
    spilled: int = 0
    shared: int = 0


def signature(args: Sequence[Any]) -> tuple[Any, ...]:
    """Return the types that a launch compiles for."""
    return tuple(_type(arg) for arg in args)


def _type(arg: Any) -> Any:
    if hasattr(arg, "dtype") and hasattr(arg, "shape") and not isinstance(arg, np.generic):
        return types.Array(from_dtype(np.dtype(arg.dtype)), len(arg.shape), "C")
    if isinstance(arg, (bool, np.bool_)):
        return types.boolean
    if isinstance(arg, (int, np.integer)):
        return types.int64
    return types.float32 if isinstance(arg, np.float32) else types.float64


def compiled(
    function: Callable[..., Any], options: Mapping[str, Any], kinds: tuple[Any, ...],
    target: Target, *, link: bool = False,
) -> Compiled:  # fmt: skip
    """Compile a kernel for argument types, once a process.

    What is compiled is kept in a folder that ``NTKDIST_PTX_CACHE`` names, for other processes too.

    Args:
        function: The kernel's Python function.
        options: Of ``intrinsics.kernel``.
        kinds: As from ``signature``.
        target: Compute capability.
        link: Whether to make machine code of it too, for registers, spills and shared memory.
    """
    return _compiled(function, tuple(sorted(options.items())), kinds, target, link)


@lru_cache(maxsize=1024)
def _compiled(
    function: Callable[..., Any], options: tuple[tuple[str, Any], ...], kinds: tuple[Any, ...],
    target: Target, link: bool,
) -> Compiled:  # fmt: skip
    folder = os.environ.get("NTKDIST_PTX_CACHE")
    path = None
    if folder:
        told = described((sources_digest(), function, kinds, target, options, link), {})
        digest = hashlib.sha256("\n".join(told).encode()).hexdigest()[:24]
        path = Path(folder) / f"{digest}.pickle"
        if path.exists():
            made: Compiled = pickle.loads(path.read_bytes())
            return made
    most = dict(options).get("max_registers")
    result = compile_cuda(
        function, types.void, kinds, nvvm_options={"fastmath": False, "opt": 3}, cc=target,
        max_registers=most, lto=True,
    )  # fmt: skip
    library = result.library
    entry = library.get_function(result.fndesc.llvm_func_name)
    library._entry_name = result.fndesc.llvm_func_name
    kernel_fixup(entry, False)
    capability = (*target, "a" if target >= (9, 0) else "")
    made = Compiled("\n".join(library.get_asm_strs(cc=capability)))
    if link:
        made = _assembled(made.ptx, most, target)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(pickle.dumps(made))
        part.replace(path)
    return made


def _assembled(ptx: str, most: int | None, target: Target) -> Compiled:
    """Return PTX with what NVIDIA's assembler says of its machine code."""
    import nvidia

    (assembler,) = Path(next(iter(nvidia.__path__))).glob("cuda_nvcc/bin/ptxas")
    command = [str(assembler), "-v", f"-arch=sm_{target[0]}{target[1]}", "-o", os.devnull, "-"]
    command += [f"-maxrregcount={most}"] if most else []
    done = subprocess.run(command, input=_of_target(ptx, target), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    numbers = []
    for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores", r"(\d+) bytes smem"):
        found = re.search(pattern, done.stderr)
        numbers.append(int(found[1]) if found else 0)
    return Compiled(ptx, *numbers)


def _of_target(ptx: str, target: Target) -> str:
    """Return PTX without the features of one processor alone, which these kernels do not use."""
    return re.sub(r"\.target sm_\w+", f".target sm_{target[0]}{target[1]}", ptx)


@lru_cache(maxsize=256)
def program(ptx: str) -> Program:
    """Return PTX as a program."""
    return Program(ptx)
