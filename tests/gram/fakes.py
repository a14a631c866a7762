"""A backend whose entries are easy to predict, and jobs on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from ntkdist.errors import DeviceLostError
from ntkdist.gram.executors.inline import InlineExecutor
from ntkdist.gram.tiling import Tiling
from ntkdist.gram.worker import GramJob, TileWorker
from ntkdist.networks.architecture import Architecture

ARCH = str(Architecture.parse("cntk-gap-4"))


@dataclass
class FakeBackend:
    """Entry = (x·x')², with a list of what it was asked for.

    ``fail`` has the calls of ``block`` that fail, ``loses_device`` the one that loses the device.
    """

    name: str = "fake"
    arithmetic: str = "fake 1"
    dtype: str = "float32"
    threads: int = 1
    prepared: list[int] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)
    fail: dict[int, int] = field(default_factory=dict)
    loses_device: int = 0

    def supports(self, arch: Architecture, image_shape: tuple[int, int, int]) -> str | None:
        return None

    def prepare(self, arch: Architecture, images: np.ndarray) -> Any:
        self.prepared.append(len(images))
        return images.reshape(len(images), -1).astype(np.float64)

    def block(self, a: Any, b: Any, kinds: Sequence[str] = ("ntk",)) -> dict[str, np.ndarray]:
        self.same.append(a is b)
        call = len(self.same)
        if self.loses_device and call >= self.loses_device:
            raise DeviceLostError("CUDA_ERROR_LAUNCH_FAILED on GPU 0: this process cannot use it")
        if self.fail.get(call):
            raise RuntimeError(f"scripted failure of call {call}")
        k = (a @ b.T).astype(self.dtype)
        return {kind: k**2 if kind == "ntk" else k for kind in kinds}


def write_images(address: str, images: np.ndarray) -> str:
    zarr.create_array(address, data=images, chunks=(min(16, len(images)), *images.shape[1:]))
    return address


def random_images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 4, 4, 1)).astype("f4")


def make_job(
    folder: Path | str,
    images: np.ndarray,
    edge: int,
    *,
    columns: np.ndarray | None = None,
    kinds: Sequence[str] = ("ntk",),
    backend: str = "fake",
    arithmetic: str = "fake 1",
    arch: str = ARCH,
) -> tuple[GramJob, Tiling]:
    tiling = Tiling(len(images), edge, None if columns is None else len(columns))
    job = GramJob(
        images=write_images(f"{folder}/images", images),
        columns=None if columns is None else write_images(f"{folder}/columns", columns),
        architecture=arch,
        backend=backend,
        arithmetic=arithmetic,
        dtype="float32",
        outputs=tuple((kind, f"{folder}/gram/{kind}") for kind in kinds),
        edge=edge,
        fingerprint="f1",
    )
    return job, tiling


def fake_executor(backend: FakeBackend, **options: Any) -> InlineExecutor:
    make = partial(TileWorker, make_backend=lambda name, **_: backend)
    return InlineExecutor(make_worker=make, **options)
