"""The run that a plan or ``doctor`` is about: the stored one, or what a new one would store."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntkdist.config import RunConfig
from ntkdist.data.preprocess import ZCA_ARRAYS
from ntkdist.errors import InputError, StoreError
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey, Tiling
from ntkdist.networks.architecture import Architecture
from ntkdist.pipeline.gram import stored_gram
from ntkdist.pipeline.growth import is_ready, is_stale
from ntkdist.runs.inputs import load_inputs
from ntkdist.runs.run import Run, choose_backend

SAMPLE = 512  # images to choose a tile's edge with, as the Gram stage does
_PIECES = 64  # that a sample is taken in


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """A run that is to be computed; nothing is written into it.

    Attributes:
        config: The run's configuration.
        run: The run, where it is stored already.
        images: (N, H, W, C) float32, an array or a Zarr array; of features (N, 1, 1, D).
        labels: (N,) int64.
        num_classes: K.
        backend: Name of the backend that computes the Gram.
        reason: Why that backend is chosen.
        is_features: Whether the images are features.
        picture_bytes: Size of the pictures of one image; 0 for features of no images.
        zca_bytes: Size of what ``zca`` was fitted to; 0 for recipes without it.
    """

    config: RunConfig
    run: Run | None
    images: Any
    labels: np.ndarray
    num_classes: int
    backend: str
    reason: str
    is_features: bool
    picture_bytes: int
    zca_bytes: int

    @classmethod
    def of(cls, config: RunConfig) -> PlannedRun:
        """Open the run, or read what a new one would store.

        Raises:
            InputError: For bad data or settings, or a run with other settings.
        """
        try:
            run = Run.find(config)
        except StoreError as error:
            raise InputError(str(error)) from error
        if run is None:
            inputs = load_inputs(config)
            arch = Architecture.parse(config.architecture)
            backend, _, reason = choose_backend(config, arch, inputs.images.shape[1:])
            return cls(
                config,
                None,
                inputs.images,
                inputs.labels.astype(np.int64),
                inputs.num_classes,
                backend,
                reason,
                inputs.is_features,
                0 if inputs.pictures is None else inputs.pictures[:1].nbytes,
                sum(values.nbytes for values in inputs.preprocess.arrays().values()),
            )
        return cls(
            config,
            run,
            run.array("inputs", "images"),
            run.read("inputs", "labels"),
            run.num_classes,
            run.manifest.backend,
            run.manifest.reason,
            run.manifest.is_features,
            math.prod(run.array("inputs", "pictures").shape[1:]) if run.has_pictures else 0,
            sum(run.array("inputs", name).nbytes for name in ZCA_ARRAYS if run.has("inputs", name)),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C) of images, (N, D) of features."""
        n, *size = map(int, self.images.shape)
        return (n, size[-1]) if self.is_features else (n, *size)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one image as kernels take it."""
        _, H, W, C = map(int, self.images.shape)
        return H, W, C

    @property
    def arch(self) -> Architecture:
        """The network."""
        return Architecture.parse(self.config.architecture)

    @property
    def n(self) -> int:
        """N."""
        return int(self.images.shape[0])

    def some(self, count: int) -> np.ndarray:
        """Return ``count`` images, the first ones, again from the first where there are fewer."""
        first = np.asarray(self.images[: min(count, self.n)])
        return first if len(first) == count else first[np.arange(count) % len(first)]

    def spread(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return images and labels from all over the set, which may be in order of its classes."""
        count = min(count, self.n)
        each = -(-count // _PIECES)
        starts = np.linspace(0, self.n - each, -(-count // each)).round().astype(int)
        images = np.concatenate([np.asarray(self.images[s : s + each]) for s in starts])
        labels = np.concatenate([self.labels[s : s + each] for s in starts])
        return images[:count], labels[:count]

    def stored_edge(self) -> int | None:
        """Return the edge of the tiles that are stored."""
        store = self._store(self.config.gram.kinds[0])
        return None if store is None else store.tiling.edge

    def missing(self, tiling: Tiling) -> list[TileKey]:
        """Return the tiles that are missing for some kind, row by row."""
        missing: set[TileKey] = set()
        for kind in self.config.gram.kinds:
            store = self._store(kind)
            if store is None:
                return tiling.keys()
            missing |= set(store.missing())
        return sorted(missing)

    def missing_entries(self) -> int:
        """Return the entries that are to be computed; all kinds come out of one pass."""
        edge = self.stored_edge()
        tiling = Tiling(self.n, edge or self.n)
        return count_entries(tiling, self.missing(tiling))

    def is_whole(self) -> bool:
        """Return whether every tile of every kind is stored."""
        edge = self.stored_edge()
        return edge is not None and not self.missing(Tiling(self.n, edge))

    def finished(self) -> set[str]:
        """Return which of factor, labels and report are stored, for what is configured now."""
        if self.run is None:
            return set()
        from ntkdist.labels import POSTERIOR_RIDGE

        ridge = self.config.factor.ridge
        if ridge == "auto":
            if self.config.labels.method != "posterior":
                return set()  # which ridge it will be is not known yet
            ridge = POSTERIOR_RIDGE
        name = f"ntk/ridge-{ridge:g}"
        ready = is_ready(self.run, name, self.config.labels.method)
        if not ready or is_stale(self.run, name):
            return set()
        if self.run.attributes("labels").get("summary") and self.run.is_current("labels"):
            return {"factor", "labels"}
        return {"factor"}

    def _store(self, kind: str) -> GramStore | None:
        return None if self.run is None else stored_gram(self.run, kind)


def count_entries(tiling: Tiling, tiles: list[TileKey]) -> int:
    """Return the entries of some tiles, those on the diagonal counted once."""
    shapes = ((key, *tiling.tile_shape(key)) for key in tiles)
    return sum(
        rows * (rows + 1) // 2 if key.row == key.col else rows * cols for key, rows, cols in shapes
    )
