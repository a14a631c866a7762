"""What a kernel backend is: prepare once per image, then blocks of kernel entries.

A backend runs on one device and knows no cluster, store or scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ntkdist.errors import InputError, did_you_mean
from ntkdist.kernels.chain import chain_of
from ntkdist.kernels.cuda.device import cuda_unavailable, simulated
from ntkdist.networks.architecture import Architecture

KINDS = ("ntk", "nngp")
NAMES = ("cuda", "cpu", "stax", "reference")
DTYPES = ("float32", "float64")
CUDA_ARITHMETIC = "cuda-3"  # here, so that a driver without a GPU knows it


class Backend(Protocol):
    """One way to compute kernel entries on one device.

    Attributes:
        name: Short name, as in ``backend="cpu"``.
        arithmetic: Name and version of the arithmetic. Equal arithmetic and equal
            inputs give equal bits, so it is part of a run's fingerprint.
        dtype: The dtype of the entries, ``float32`` or ``float64``.
        threads: How many threads ``block`` uses.
    """

    name: str
    arithmetic: str
    dtype: str
    threads: int

    def supports(
        self, arch: Architecture, image_shape: tuple[int, int, int], dtype: str | None = None
    ) -> str | None:
        """Return None if (H, W, C) images can go through ``arch``, else the reason.

        ``dtype`` None asks about the backend's own.
        """

    def prepare(self, arch: Architecture, images: np.ndarray) -> Any:
        """Do everything that costs O(n): diagonals per layer, layouts.

        Args:
            arch: The network.
            images: (n, H, W, C), any float dtype.

        Returns:
            A state to hand to ``block``; it can be kept and used in many blocks.
        """

    def block(self, a: Any, b: Any, kinds: Sequence[str] = ("ntk",)) -> dict[str, np.ndarray]:
        """Compute one block of entries.

        Args:
            a: State of the rows' images.
            b: State of the columns' images. The same object as ``a`` means a
                diagonal block, which is symmetric to the bit.
            kinds: Which of ``ntk`` and ``nngp``; all come out of one pass.

        Returns:
            kind → (n_a, n_b) of ``dtype``.
        """


@dataclass(frozen=True)
class Selection:
    """A backend and why it was taken.

    Attributes:
        backend: The backend.
        reason: One sentence for the user.
    """

    backend: Backend
    reason: str


def get_backend(name: str, *, dtype: str = "float32", threads: int = 1) -> Backend:
    """Create a backend by name.

    Args:
        name: ``cuda``, ``cpu``, ``stax`` or ``reference``.
        dtype: ``float32`` or ``float64``.
        threads: How many threads it may use.

    Returns:
        The backend.

    Raises:
        InputError: If the name or dtype is unknown, or what it needs is not installed.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if threads < 1:
        raise InputError(f"threads={threads} must be at least 1")
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
    raise InputError(
        f"backend {name!r} is unknown; take auto or one of {', '.join(NAMES)}"
        + did_you_mean(name, ("auto", *NAMES))
    )


def select_backend(
    arch: Architecture,
    image_shape: tuple[int, int, int],
    *,
    name: str = "auto",
    dtype: str = "float32",
    threads: int = 1,
) -> Selection:
    """Choose the fastest backend that can compute ``arch``, or check the one named.

    Args:
        arch: The network.
        image_shape: (H, W, C).
        name: ``auto`` takes cuda where there is a GPU, else cpu, else stax; other names are
            taken as they are.
        dtype: ``float32`` or ``float64``.
        threads: How many threads it may use.

    Returns:
        The backend with the reason for it.

    Raises:
        InputError: If the named backend cannot, or under ``auto`` none can.
    """
    if arch.is_spatial:
        arch.check_image(*image_shape[:2])
    if name != "auto":
        backend = get_backend(name, dtype=dtype, threads=threads)
        why_not = backend.supports(arch, image_shape)
        if why_not:
            raise InputError(f"backend {name!r} cannot compute this: {why_not}; take auto")
        return Selection(backend, f"{name}: asked for by name")
    refusals = []
    # never the simulator, which is for tests, nor a word about a GPU that nobody expects
    names = ("cpu", "stax") if simulated() or cuda_unavailable() else ("cuda", "cpu", "stax")
    for candidate in names:
        try:
            backend = get_backend(candidate, dtype=dtype, threads=threads)
        except InputError as error:
            refusals.append(f"{candidate}: {error}")
            continue
        why_not = backend.supports(arch, image_shape)
        if why_not is None:
            reason = f"{candidate}: the fastest that covers this network"
            return Selection(backend, reason + (f" ({'; '.join(refusals)})" if refusals else ""))
        refusals.append(f"{candidate} cannot: {why_not}")
    raise InputError(f"no backend can compute this network: {'; '.join(refusals)}")


def arithmetic_of(name: str) -> str:
    """Return the arithmetic of a backend that need not be usable here.

    Args:
        name: ``cuda``, ``cpu``, ``stax`` or ``reference``.

    Returns:
        What the backend's ``arithmetic`` is.

    Raises:
        InputError: If the name is unknown, or the backend cannot be imported here.
    """
    if name == "cuda":
        return CUDA_ARITHMETIC
    return get_backend(name).arithmetic


def coverage(name: str, arch: Architecture, image_shape: tuple[int, int, int]) -> str | None:
    """Return why a backend, which need not be usable here, cannot compute a network; else None."""
    if name == "cuda":
        chain = chain_of(arch)
        return chain if isinstance(chain, str) else None
    return get_backend(name).supports(arch, image_shape)


def check_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """Return ``kinds`` as a tuple in the order of ``KINDS``, or raise ``InputError``."""
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    if not kinds:
        raise InputError(f"no kind of kernel asked for; take one or more of {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in kinds)


def as_images(images: np.ndarray) -> np.ndarray:
    """Return (n, H, W, C) images as float64, or raise ``InputError``."""
    x = np.asarray(images, dtype=np.float64)
    if x.ndim != 4 or 0 in x.shape:
        raise InputError(f"images have shape {np.shape(images)}; (n, H, W, C) is needed")
    if not np.isfinite(x).all():
        first = int(np.argwhere(~np.isfinite(x))[0][0])
        raise InputError(f"image {first} holds NaN or infinite pixels; clean or drop it")
    return x


def check_pair(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    """Raise ``InputError`` unless rows' and columns' images have one shape (H, W, C)."""
    if a != b:
        raise InputError(f"images of shape {a} meet images of shape {b}; both must be alike")
