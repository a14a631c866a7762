"""Compiled kernels kept on disk: typing and compiling those of a deep network takes half a minute.

They lie where Numba keeps compiled functions: below ``$NUMBA_CACHE_DIR`` if that is set, else in
``__pycache__`` beside this file, else, where that cannot be written, below the user's cache folder.
Where no folder can be written, every process compiles for itself.

Numba's own index of compiled functions does not serve: it finds a function by its source file, and
kernels are made from generated text; two processes that add to an index at once can exchange
their code; and a damaged file raises. So each kernel has a file of its own, and the file's name
holds a digest of everything that the code depends on.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pickle
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import IO, Any

from numba.cuda import get_current_device
from numba.cuda.core.caching import CacheImpl, NullCache
from numba.cuda.cuda_paths import get_cuda_paths
from numba.cuda.cudadrv import runtime
from numba.cuda.dispatcher import CUDADispatcher, _Kernel

from ntkdist.kernels.sources import sources_digest

MOST_BYTES = 2**28  # of the files; beyond, those not used for longest are removed
MOST_SECONDS = 180.0  # to wait for another process that compiles the same kernel
_POLL_SECONDS = 0.1
_DIGEST_BYTES = hashlib.sha256().digest_size
# compilers and what writes code for them, as far as they are packages (see ``_toolchain``)
_PACKAGES = (
    "numba", "numba-cuda", "llvmlite", "numpy", "cuda-core", "cuda-bindings",
    "nvidia-nvjitlink-cu12", "nvidia-nvjitlink",
)  # fmt: skip

sources_digest()  # now: later the files might be newer than what was imported


class KeptKernel(CUDADispatcher):
    """A kernel as ``numba.cuda.jit`` makes them, whose compiled code is kept on disk.

    Args:
        py_func: The function.
        targetoptions: Options that ``jit`` was called with, completed by it.
    """

    def __init__(self, py_func: Callable[..., None], targetoptions: dict[str, Any]) -> None:
        super().__init__(py_func, targetoptions)
        self._cache: Any = _KernelFiles(py_func, targetoptions)

    def compile(self, sig: Any) -> Any:
        """Return the code for argument types; of several processes one compiles, others wait."""
        with self._cache.turn(sig):
            return super().compile(sig)


class _KernelFiles(NullCache):
    """The files of one kernel, as Numba's dispatcher reads and writes them."""

    def __init__(self, function: Callable[..., None], options: dict[str, Any]) -> None:
        self._function = function
        self._options = options

    def path(self, sig: Any) -> Path | None:
        """Return the file of the code for argument types on this device; None without a folder."""
        folder = kernel_folder()
        if folder is None:
            return None
        key = kernel_key(self._function, self._options, sig)
        name = self._function.__name__.strip("_")
        return folder / f"{name}-{sources_digest()[:16]}-{key[:32]}.kernel"

    @contextmanager
    def turn(self, sig: Any) -> Iterator[None]:
        """Wait as long as another process compiles the same, at most ``MOST_SECONDS``."""
        path = self.path(sig)
        if path is None or path.exists():
            yield
            return
        with _locked(path.with_suffix(".kernel.lock")):
            yield

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return a compiled kernel, or None if there is no intact file."""
        path = self.path(sig)
        states = None if path is None else _read(path)
        return None if states is None else _Kernel._rebuild(**states)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write a compiled kernel, and remove files that are no longer of use."""
        path = self.path(sig)
        if path is None or getattr(data, "launch_config_sensitive", False):
            return  # code that depends on a launch would need it in the key; ours does not
        with suppress(OSError):
            _write(path, data._reduce_states())
            _tidy(path.parent)


@lru_cache(maxsize=1)
def kernel_folder() -> Path | None:
    """Return the folder where kernels are kept, by Numba's rules; None if none can be written."""
    for rule in CacheImpl._locator_classes:
        locator = rule.from_function(kernel_key, __file__)  # any function of this file
        if locator is not None:
            return Path(locator.get_cache_path())
    return None


def kernel_key(function: Callable[..., None], options: dict[str, Any], sig: Any) -> str:
    """Return the digest of everything that compiled code depends on.

    Args:
        function: The kernel's function.
        options: Numba's options for it.
        sig: Its argument types.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: If the kernel reads a value that no text describes.
    """
    capability = tuple(get_current_device().compute_capability)
    environment = sources_digest(), _toolchain(), capability
    digest = hashlib.sha256()
    for text in described((*environment, tuple(sig), sorted(options.items()), function), {}):
        digest.update(f"{len(text)} {text}\n".encode())
    return digest.hexdigest()


def described(value: Any, seen: dict[int, int]) -> Iterator[str]:
    """Yield texts that tell a value from all others; of a function its code and all that it reads.

    Modules are described by name: the digest of our sources and the packages' versions stand for
    their contents. ``seen`` numbers the functions that were described before.
    """
    match value:
        case FunctionType():
            if id(value) in seen:
                yield f"function {seen[id(value)]}"
                return
            seen[id(value)] = len(seen)
            code = value.__code__
            read = {name: value.__globals__.get(name) for name in _names(code)}
            cells = (cell.cell_contents for cell in value.__closure__ or ())
            read |= zip(code.co_freevars, cells, strict=True)
            yield from described((code, value.__defaults__, sorted(read)), seen)
            for name in sorted(read):
                yield from described(read[name], seen)
        case CodeType():
            yield f"code {value.co_code.hex()} {value.co_exceptiontable.hex()} {value.co_flags}"
            names = value.co_names, value.co_varnames, value.co_cellvars, value.co_freevars
            yield from described((value.co_argcount, *names, value.co_consts), seen)
        case CUDADispatcher():  # a device function
            yield from described(sorted(value.targetoptions.items()), seen)
            yield from described(value.py_func, seen)
        case object(_defn=FunctionType() as intrinsic):
            yield from described(intrinsic, seen)
        case ModuleType():
            yield f"module {value.__name__}"
        case tuple() | list():
            yield f"{len(value)} values"
            for part in value:
                yield from described(part, seen)
        case frozenset():
            yield from described(sorted(value, key=repr), seen)
        case _:
            text = f"{type(value).__name__} {value!r}"
            if " at 0x" in text:  # another text in every process
                raise TypeError(f"a kernel reads {text}, which has no text for the compile cache")
            yield text


def _names(code: CodeType) -> set[str]:
    """Return the names that code and the functions in it read from modules and objects."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)


@lru_cache(maxsize=1)
def _toolchain() -> tuple[Any, ...]:
    """Return what tells the installed compilers from others."""
    versions = []
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions.append((package, version(package)))
    libraries = []
    for library in ("nvvm", "libdevice"):  # their files: a toolkit's version has no patch level
        path = get_cuda_paths()[library].info
        if path and os.path.exists(path):
            status = os.stat(path)
            libraries.append((library, status.st_size, status.st_mtime_ns))
    return sys.version, runtime.get_version(), *versions, *libraries


def _read(path: Path) -> dict[str, Any] | None:
    """Return what ``_write`` wrote; None if the file is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, packed = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(packed).digest() != digest:
        return None
    with suppress(OSError):
        os.utime(path)  # was used now (see ``_tidy``)
    return pickle.loads(zlib.decompress(packed))  # noqa: S301  as Numba's own cache


def _write(path: Path, states: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    packed = zlib.compress(pickle.dumps(states))
    half = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        half.write_bytes(hashlib.sha256(packed).digest() + packed)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def _tidy(folder: Path) -> None:
    """Remove files of other versions of the sources, and the longest unused over the limit."""
    files = []
    for path in folder.glob("*.kernel*"):
        if f"-{sources_digest()[:16]}-" not in path.name:
            path.unlink(missing_ok=True)
            continue
        with suppress(FileNotFoundError):
            status = path.stat()
            files.append((status.st_mtime_ns, status.st_size, path))
    total = 0
    for _, size, path in sorted(files, reverse=True):
        total += size
        if total > MOST_BYTES:
            path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, unless that takes too long or locks do not work there."""
    with ExitStack() as stack:
        held = False
        with suppress(OSError):
            file = stack.enter_context(open(path, "ab"))
            held = _lock(file, time.monotonic() + MOST_SECONDS)
        try:
            yield
        finally:
            # a process that waits for the removed file and one that creates it anew may both go
            # on: both then find the kernel written
            if held:
                with suppress(OSError):
                    path.unlink()


def _lock(file: IO[bytes], deadline: float) -> bool:
    """Lock a file; return False if another process has it locked until the deadline."""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        time.sleep(_POLL_SECONDS)
