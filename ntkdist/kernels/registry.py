"""The backends by name, and the choice of one for a network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from ntkdist.checks import check_choice, check_whole
from ntkdist.errors import InputError
from ntkdist.kernels import cuda
from ntkdist.kernels.backend import Backend
from ntkdist.kernels.cuda.device import cuda_unavailable, gpu_visible
from ntkdist.kernels.graph import not_covered
from ntkdist.kernels.invariance import INVARIANCES, FlipAveraged, in_words
from ntkdist.networks.architecture import Architecture

NAMES = ("cuda", "cpu", "stax", "reference")
MOST_THREADS = 1024
DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Selection:
    """A backend and why it was chosen.

    Attributes:
        backend: The backend.
        reason: One sentence for the user.
    """

    backend: Backend
    reason: str


def get_backend(
    name: str, *, dtype: str = "float32", threads: int = 1, invariance: str = "none"
) -> Backend:
    """Create a backend by name.

    Args:
        name: ``cuda``, ``cpu``, ``stax`` or ``reference``.
        dtype: ``float32`` or ``float64``.
        threads: How many threads it may use.
        invariance: ``none``, or ``flip`` for kernels averaged over horizontal flips.

    Returns:
        The backend.

    Raises:
        InputError: If the name, dtype or invariance is unknown, or what it needs is not
            installed.
    """
    check_choice("backend", name, ("auto", *NAMES))
    check_choice("dtype", dtype, DTYPES)
    check_choice("invariance", invariance, INVARIANCES)
    check_whole("threads", threads, 1, "give the cores to use", most=MOST_THREADS)
    backend = _create(name, dtype, threads)
    return FlipAveraged(backend) if invariance == "flip" else backend


def _create(name: str, dtype: str, threads: int) -> Backend:
    if name == "cuda":
        if reason := cuda_unavailable():
            raise InputError(f"backend 'cuda': {reason}; or take backend cpu")
        from ntkdist.kernels.cuda.backend import CudaBackend

        return CudaBackend(dtype=dtype, threads=threads)
    if name == "cpu":
        from ntkdist.kernels.cpu import CpuBackend

        return CpuBackend(dtype=dtype, threads=threads)
    if name == "stax":
        from ntkdist.kernels.stax import StaxBackend

        return StaxBackend(dtype=dtype, threads=threads)
    if name == "reference":
        from ntkdist.kernels.reference import ReferenceBackend

        return ReferenceBackend(dtype=dtype, threads=threads)
    raise InputError("backend='auto' names none; select_backend chooses one for a network")


def select_backend(
    arch: Architecture,
    image_shape: tuple[int, int, int],
    *,
    name: str = "auto",
    dtype: str = "float32",
    threads: int = 1,
    invariance: str = "none",
) -> Selection:
    """Choose the fastest backend that can compute ``arch``, or check the one named.

    Args:
        arch: The network.
        image_shape: (H, W, C).
        name: ``auto`` takes cuda where there is a GPU, else cpu, else stax; any other name is
            the backend to take.
        dtype: ``float32`` or ``float64``.
        threads: How many threads it may use.
        invariance: ``none``, or ``flip`` for kernels averaged over horizontal flips.

    Returns:
        The backend with the reason for it, which says how many entries an average takes.

    Raises:
        InputError: If the named backend cannot compute the network, or under ``auto`` none can.
    """
    check_choice("backend", name, ("auto", *NAMES))
    check_choice("invariance", invariance, INVARIANCES)
    if arch.is_spatial:
        arch.check_image(*image_shape[:2])
    make = partial(get_backend, dtype=dtype, threads=threads, invariance=invariance)
    average = in_words(invariance, arch, image_shape)
    if name != "auto":
        backend = make(name)
        why_not = backend.supports(arch, image_shape)
        if why_not:
            raise InputError(f"backend {name!r} cannot compute this: {why_not}; take auto")
        return Selection(backend, f"{name}: asked for by name{average}")
    refusals = []
    names = ["cuda", "cpu", "stax"]
    if why_no_gpu := cuda_unavailable():
        names.remove("cuda")
        # do not report a missing GPU unless one was asked for
        if gpu_visible():
            refusals.append(f"cuda: {why_no_gpu}")
    for candidate in names:
        try:
            backend = make(candidate)
        except InputError as error:
            refusals.append(f"{candidate}: {error}")
            continue
        why_not = backend.supports(arch, image_shape)
        if why_not is None:
            reason = f"{candidate}: the fastest that covers this network"
            reason += f" ({'; '.join(refusals)})" if refusals else ""
            return Selection(backend, reason + average)
        refusals.append(f"{candidate} cannot: {why_not}")
    raise InputError(f"no backend can compute this network: {'; '.join(refusals)}")


def arithmetic_of(name: str) -> str:
    """Return the ``arithmetic`` of a backend, which for ``cuda`` is known without a GPU.

    Raises:
        InputError: If the name is unknown, or the backend cannot be imported here.
    """
    return cuda.ARITHMETIC if name == "cuda" else get_backend(name).arithmetic


def of_version(
    backend: Backend, arithmetic: str, arch: Architecture, image_shape: tuple[int, int, int]
) -> Backend | None:
    """Return the backend that computes the bits of a version of its arithmetic.

    Args:
        backend: The present one.
        arithmetic: A version, as in ``cpu-3``; runs of earlier versions are resumed with theirs.
        arch: The network.
        image_shape: (H, W, C).

    Returns:
        ``backend`` itself if it is of this version; None if the bits can no longer be computed.
    """
    if arithmetic == backend.arithmetic:
        return backend
    older = getattr(backend, "of_version", None)
    return None if older is None else older(arithmetic, arch, image_shape)


def coverage(name: str, arch: Architecture, image_shape: tuple[int, int, int]) -> str | None:
    """Return why a backend cannot compute a network, else None; for ``cuda`` without a GPU too."""
    if name == "cuda":
        return not_covered(arch, image_shape)
    return get_backend(name).supports(arch, image_shape)
