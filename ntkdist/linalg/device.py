"""Where panels are computed: on the CPU by BLAS, or on a GPU by CuPy, with the same operations.

CuPy is never needed: :func:`load_cupy` alone imports it, where a GPU is asked for or looked for.

What the tasks of a panel share goes to a GPU once in a process and stays there for the whole panel;
all other blocks are streamed. A process whose tasks share no memory with others (Ray, Dask's
processes) copies the shared blocks for each of its tasks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import numpy as np

from ntkdist.checks import check_choice
from ntkdist.errors import DeviceLostError, InputError
from ntkdist.linalg import blas
from ntkdist.linalg.blas import Matrix
from ntkdist.linalg.panels import PanelPlan
from ntkdist.linalg.tasks import Scheduler, task, task_runner
from ntkdist.words import format_bytes

T = TypeVar("T")
DEVICES = ("auto", "cpu", "cuda")

#: Bytes of a GPU's memory that are left to the workspaces of cuBLAS and cuSOLVER.
WORKSPACE = 256 * 2**20
_INSTALL = "pip install 'cupy-cuda12x[ctk]'"
_MAKE_ROOM = (
    "end what else uses the GPU (see nvidia-smi), or compute a new factor with a smaller "
    "memory_limit, which makes its panels narrower"
)


def load_cupy() -> tuple[Any, Any]:
    """Import CuPy; return the modules ``cupy`` and ``cupyx``.

    The only place that imports it: tests put a stand-in here.
    """
    import cupy
    import cupy.cublas
    import cupyx
    import cupyx.scipy.linalg

    return cupy, cupyx


@dataclass(frozen=True)
class Place:
    """Where panels are computed.

    Attributes:
        device: ``cpu`` or ``cuda``; ``cpu+cuda`` where tasks of one panel differ.
        reason: The GPU's name, or why none is used.
        expected: Whether ``reason`` need not be reported: no GPU was asked for, or none is there.
    """

    device: str
    reason: str = ""
    expected: bool = False


def joined(devices: Iterable[str]) -> str:
    """Return the name of several devices together, as in ``cpu+cuda``; empty for none."""
    return "+".join(sorted({name for device in devices for name in device.split("+")}))


def together(places: Sequence[Place]) -> Place:
    """Return where the tasks of one panel were computed, with the reason of those on the CPU."""
    first = min(places, key=lambda place: place.device)
    return replace(first, device=joined(place.device for place in places))


def missing() -> Place | None:
    """Return None where CuPy finds a GPU, else the CPU with the reason; opens no context on one.

    A context takes memory, and keeps all other processes from a GPU in exclusive-process mode.
    """
    try:
        cupy, _ = load_cupy()
    except Exception as error:  # CuPy, or a library of CUDA that it loads, is not here
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            return Place("cpu", f"CuPy is not installed; {_INSTALL}", expected=True)
        return Place("cpu", f"CuPy cannot be imported ({_one_line(error)}); {_INSTALL}")
    try:
        if cupy.cuda.runtime.getDeviceCount():
            return None
        reason = "there is none"
    except Exception as error:
        reason = _one_line(error)
    remedy = "check nvidia-smi and CUDA_VISIBLE_DEVICES"
    return Place("cpu", f"CuPy finds no GPU ({reason}); {remedy}", expected=True)


def unavailable() -> Place | None:
    """Return None where CuPy computes on a GPU, else the CPU with the reason and the remedy."""
    if place := missing():
        return place
    reason = _failure(*load_cupy())
    return Place("cpu", reason) if reason else None


@cache
def _failure(cupy: Any, cupyx: Any) -> str:
    """Compute a small panel; return why CuPy fails on the GPU, empty if it does not."""
    ones, lower = np.ones((2, 1)), np.array([[5.0, 0.0], [3.0, 6.0]])
    rows = np.array([[3.0, 4.0]])
    try:
        gpu = Cuda(cupy, cupyx, tasks=1)
        with gpu.turn():
            row, square, x = gpu.put(ones), gpu.put(lower), gpu.put(rows)
            gpu.subtract_gram(square, row)
            factor = gpu.cholesky(square)
            gpu.subtract_product(x, gpu.put(ones[:1]), row)
            gpu.fetch(gpu.solve_lower(factor, x), rows)
        if np.array_equal(rows, [[1.0, 1.0]]):
            return ""
        reason = f"a product and a solve give {rows.tolist()} for [[1, 1]]"
    except Exception as error:  # a busy GPU, or a library that is missing or does not fit it
        reason = _one_line(error)
    return f"CuPy fails on the GPU ({reason}); check nvidia-smi, or {_INSTALL}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


class Cpu:
    """A panel's operations on NumPy arrays, in place.

    Args:
        place: The CPU, with the reason why panels are computed there.
    """

    def __init__(self, place: Place) -> None:
        self.place = place

    def put(self, a: Matrix) -> Matrix:
        """Return the array itself: it is here."""
        return a

    def fetch(self, a: Matrix, out: Matrix) -> None:
        """Do nothing: ``a`` is ``out``."""

    def subtract_gram(self, c: Matrix, a: Matrix) -> None:
        """C <- C - A Aᵀ, lower triangle only."""
        blas.subtract_gram(c, a)

    def subtract_product(self, c: Matrix, a: Matrix, b: Matrix) -> None:
        """C <- C - A Bᵀ."""
        blas.subtract_product(c, a, b, tb=True)

    def cholesky(self, a: Matrix) -> Matrix | None:
        """Return None: the caller then factors the block on the CPU."""
        return None

    def solve_lower(self, lower: Matrix, x: Matrix) -> Matrix:
        """X <- X L⁻ᵀ; return X."""
        blas.solve_lower(lower, x, transposed=True, from_right=True)
        return x


class Cuda:
    """The same operations on CuPy arrays (float64, C order), for one panel in one process.

    Threads share the GPU, so that some read from the store while it multiplies for another: all
    calls go to one stream, which keeps their order, CuPy's memory pools can be used by several
    threads, and the handles of cuBLAS and cuSOLVER are each thread's own. Only the number of
    tasks with arrays there is limited, to those that fit its memory.

    Args:
        cupy: The module.
        cupyx: The module.
        tasks: Most tasks that have arrays on the GPU at a time.
    """

    def __init__(self, cupy: Any, cupyx: Any, *, tasks: int) -> None:
        self._cupy, self._cupyx = cupy, cupyx
        self._turns = threading.Semaphore(tasks)
        # a pool of its own: it is freed with the panel
        self._pool = cupy.cuda.MemoryPool()
        cuda, runtime = cupy.cuda, cupy.cuda.runtime
        self.out_of_memory: type[Exception] = cuda.memory.OutOfMemoryError
        self.errors: tuple[type[Exception], ...] = (
            self.out_of_memory,
            runtime.CUDARuntimeError,
            cuda.cublas.CUBLASError,
            cuda.cusolver.CUSOLVERError,
        )
        name = runtime.getDeviceProperties(runtime.getDevice())["name"]
        self.place = Place("cuda", name.decode() if isinstance(name, bytes) else name)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a task's share of the GPU's memory, and hold it."""
        with self._turns, self._cupy.cuda.using_allocator(self._pool.malloc):
            yield

    def put(self, a: Matrix) -> Any:
        """Copy an array to the GPU."""
        there = self._cupy.empty(a.shape, dtype=np.float64)
        there.set(a)  # cupy.asarray would first copy it to page-locked memory of the host
        return there

    def fetch(self, a: Any, out: Matrix) -> None:
        """Copy an array from the GPU into ``out``; returns when it is there."""
        a.get(out=out)

    def subtract_gram(self, c: Any, a: Any) -> None:
        """C <- C - A Aᵀ, lower triangle only."""
        self._cupy.cublas.syrk("N", a, out=c, alpha=-1.0, beta=1.0, lower=True)

    def subtract_product(self, c: Any, a: Any, b: Any) -> None:
        """C <- C - A Bᵀ."""
        self._cupy.cublas.gemm("N", "T", a, b, out=c, alpha=-1.0, beta=1.0)

    def cholesky(self, a: Any) -> Any | None:
        """Return L of A = LLᵀ, zero above the diagonal; None where A is not positive definite.

        CuPy does not say which pivot failed. A is kept, from which the CPU finds it.
        """
        try:
            with self._cupyx.errstate(linalg="raise"):
                return self._cupy.linalg.cholesky(a)
        except np.linalg.LinAlgError:
            return None

    def solve_lower(self, lower: Any, x: Any) -> Any:
        """Return X L⁻ᵀ, computed in the memory of X."""
        # the transposes are in column-major order, which is not copied: L Xᵀ <- Xᵀ
        return self._cupyx.scipy.linalg.solve_triangular(
            lower.T, x.T, trans="T", lower=False, overwrite_b=True
        ).T


Device = Cpu | Cuda


def take_device(device: str, plan: PanelPlan) -> Device:
    """Return the device that computes panels in this process.

    Args:
        device: ``auto`` (a GPU where CuPy finds one and panels fit its free memory), ``cpu`` or
            ``cuda``.
        plan: The cut of the factor.

    Raises:
        InputError: ``device`` is ``cuda`` and there is no GPU, or panels do not fit it.
    """
    if device == "cpu":
        return Cpu(Place("cpu", expected=True))
    found = unavailable() or _fit(plan)
    if isinstance(found, Cuda):
        return found
    if device == "cuda":
        raise _refusal(found.reason)
    return Cpu(found)


def _fit(plan: PanelPlan) -> Cuda | Place:
    """Return the GPU for as many tasks as fit its free memory, or the CPU if none does."""
    cupy, cupyx = load_cupy()
    try:
        free, total = cupy.cuda.runtime.memGetInfo()
        if tasks := plan.device_tasks(free - WORKSPACE):
            return Cuda(cupy, cupyx, tasks=tasks)
    except cupy.cuda.runtime.CUDARuntimeError as error:  # it failed after it was tried
        return Place("cpu", _lost(error))
    need, width = format_bytes(plan.device_bytes() + WORKSPACE), min(plan.width, plan.n)
    return Place(
        "cpu",
        f"panels of {width} columns need {need} on the GPU, where {format_bytes(free)} of "
        f"{format_bytes(total)} are free; {_MAKE_ROOM}",
    )


def probe(device: str, plan: PanelPlan) -> Place:
    """Return where this process computes panels; see :func:`take_device`."""
    return take_device(device, plan).place


def check_device(device: str, scheduler: Scheduler = None) -> None:
    """Check a device's name and, where ``cuda`` is asked for, that a worker has CuPy and a GPU.

    To be called long before panels are computed: it opens no context on the GPU.

    Args:
        device: As for :func:`take_device`.
        scheduler: As for :func:`ntkdist.linalg.factorize`; one of its workers is asked.

    Raises:
        InputError: ``device`` is no device's name, or it is ``cuda`` and a worker has none.
    """
    check_choice("device", device, DEVICES)
    if device == "cuda":
        with task_runner(scheduler) as run:
            place: Place | None = run([task(missing)()])[0]
        if place is not None:
            raise _refusal(place.reason)


def _lost(error: Exception) -> str:
    return f"the GPU failed ({_one_line(error)}); check nvidia-smi and the system's log"


def _refusal(reason: str) -> InputError:
    return InputError(f"device 'cuda': {reason}; or take device cpu")


class Shared:
    """Arrays that tasks share, and their copies on the GPU of this process, made when needed.

    A pickled copy takes the host's arrays alone.

    Args:
        arrays: On the host.
        copies: The same arrays on the GPU, if they were copied before.
    """

    def __init__(self, arrays: list[Matrix], copies: list[Any] | None = None) -> None:
        self.arrays, self._copies = arrays, copies
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.arrays,)

    def __sizeof__(self) -> int:  # by which a distributed scheduler plans its memory
        return sum(array.nbytes for array in self.arrays)

    def on(self, device: Device) -> list[Any]:
        """Return the arrays where the device computes."""
        if isinstance(device, Cpu):
            return self.arrays
        with self._lock:
            if self._copies is None:
                self._copies = [device.put(array) for array in self.arrays]
            return self._copies


class PanelRow:
    """A panel's rows of the earlier panels, L[k, 0], ..., L[k, k-1], and where it is computed.

    All tasks of the panel have it. Each process that they run in chooses its own device, once.

    Args:
        blocks: The rows, one array for each earlier panel.
        device: As for :func:`take_device`.
        plan: The cut of the factor.
    """

    def __init__(self, blocks: list[Matrix], device: str, plan: PanelPlan) -> None:
        self._shared, self._wanted, self._plan = Shared(blocks), device, plan
        self._device: Device | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._shared.arrays, self._wanted, self._plan)

    def __sizeof__(self) -> int:
        return self._shared.__sizeof__()

    def compute(self, work: Callable[[Device, list[Any]], T]) -> tuple[T, Place]:
        """Do a task's work on the device of this process, and return where that was.

        Under ``auto`` a task that runs out of the GPU's memory, or whose GPU fails, does its work
        again on the CPU, as do later ones of the panel.

        Args:
            work: Called with the device and with the rows there.

        Raises:
            InputError: ``cuda`` was asked for, and there is no GPU or too little memory.
            DeviceLostError: ``cuda`` was asked for, and the GPU failed.
        """
        with self._lock:
            if self._device is None:
                self._device = take_device(self._wanted, self._plan)
            device = self._device
        if isinstance(device, Cuda):
            try:
                with device.turn():
                    return work(device, self._shared.on(device)), device.place
            except device.errors as error:
                full = isinstance(error, device.out_of_memory)
                reason = f"the GPU ran out of memory ({_one_line(error)}); {_MAKE_ROOM}"
                reason = reason if full else _lost(error)
                if self._wanted == "cuda" and full:
                    raise _refusal(reason) from error
                if self._wanted == "cuda":
                    raise DeviceLostError(
                        f"device 'cuda': {reason}; panels that are stored are kept: start again, "
                        "or continue with device cpu"
                    ) from error
            device = Cpu(Place("cpu", reason))
            with self._lock:
                self._device, self._shared = device, Shared(self._shared.arrays)
        return work(device, self._shared.arrays), device.place
