"""What the linear algebra is measured on, and how much memory a tree of processes takes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ntkdist import Architecture
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import Tiling
from ntkdist.kernels import get_backend

ARCHITECTURE = "fc-3"


def digits(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits, drawn with repetition and noise, (n, 8, 8, 1), and labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    rng = np.random.default_rng(seed)
    pick = rng.integers(0, len(found.images), n)
    x = found.images[pick][..., None] / 16.0
    x = x + 0.1 * rng.standard_normal(x.shape)
    return ((x - x.mean(0)) / (x.std(0) + 1e-3)).astype(np.float32), found.target[pick]


def gram(folder: Path, n: int) -> GramStore:
    """Compute the NTK Gram of n digits as a run stores it: float32 tiles, block upper triangle."""
    place = str(folder / f"gram-{n}")
    if GramStore.exists(place):
        return GramStore.open(place, "r")
    x, _ = digits(n)
    backend, arch = get_backend("cpu"), Architecture.parse(ARCHITECTURE)
    tiling = Tiling.from_target(n, 1000)
    store = GramStore.create(place, tiling, fingerprint="benchmark", kind="ntk")
    edge = tiling.edge
    states = [backend.prepare(arch, x[i : i + edge]) for i in range(0, n, edge)]
    for key in tiling.keys():  # noqa: SIM118
        store.write(key, backend.block(states[key.row], states[key.col])["ntk"])
    return store


def targets(n: int) -> np.ndarray:
    """Return zero-centred one-hot labels of the same digits, (n, 10) float64."""
    return np.eye(10)[digits(n)[1]] - 0.1


class Leading:
    """The first n rows and columns of a stored matrix."""

    def __init__(self, store: Any, n: int) -> None:
        self.store, self.shape = store, (n, n)
        self.dtype, self.chunks = store.dtype, store.chunks

    def __getitem__(self, key: Any) -> np.ndarray:
        return self.store[key]


class PeakMemory:
    """Watches the resident memory of a process and all it started.

    Args:
        pid: The process.
    """

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            try:
                tree = [self._process, *self._process.children(recursive=True)]
                self.bytes = max(self.bytes, sum(one.memory_info().rss for one in tree))
            except psutil.NoSuchProcess:
                continue
