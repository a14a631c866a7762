"""What a plan is of: the run where it is there, else what a new one would store; writes nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntkdist.config import RunConfig
from ntkdist.errors import InputError, StoreError
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey, Tiling
from ntkdist.networks.architecture import Architecture
from ntkdist.pipeline.growth import is_ready, is_stale
from ntkdist.runs.inputs import load_inputs
from ntkdist.runs.run import Run

SAMPLE = 512  # images to choose a tile's edge with, as the Gram stage does
_PIECES = 64  # that a sample is taken in


@dataclass(frozen=True, eq=False)
class Subject:
    """What is to be computed.

    Attributes:
        config: The run's configuration.
        run: The run, where it is there already.
        images: (N, H, W, C) float32, an array or a Zarr array; of features (N, 1, 1, D).
        labels: (N,) int64.
        num_classes: K.
        backend: Name of the backend that computes the Gram.
        reason: Why.
        is_features: Whether the images are features.
        picture_bytes: Of the pictures of one image; 0 for features of no images.
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

    @classmethod
    def of(cls, config: RunConfig) -> Subject:
        """Find the run, or read what a new one would store.

        Raises:
            InputError: For bad data or settings, or a run with other settings.
        """
        try:
            Run.open(config.run)
        except StoreError as error:
            raise InputError(str(error)) from error
        except InputError:
            inputs = load_inputs(config)
            name, reason = _choose_backend(config, inputs.images.shape[1:])
            labels = inputs.labels.astype(np.int64)
            shown = inputs.pictures
            return cls(
                config,
                None,
                inputs.images,
                labels,
                inputs.num_classes,
                name,
                reason,
                inputs.is_features,
                0 if shown is None else shown[:1].nbytes,
            )
        run = Run.create(config)  # there already: this refuses other settings and writes nothing
        asked, manifest = config.gram.backend, run.manifest
        name, reason = manifest.backend, manifest.reason
        if config.gram.mix_backends and asked not in ("auto", name):
            name, reason = asked, f"{asked}: beside {name}, as asked"
        return cls(
            config,
            run,
            run.array("inputs", "images"),
            run.read("inputs", "labels"),
            run.num_classes,
            name,
            reason,
            run.manifest.is_features,
            math.prod(run.array("inputs", "pictures").shape[1:]) if run.has_pictures else 0,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C) of images, (N, D) of features."""
        n, *size = map(int, self.images.shape)
        return (n, size[-1]) if self.is_features else (n, *size)

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
        if self.run is None:
            return None
        address = self.run.address("gram", self.config.gram.kinds[0])
        if not GramStore.exists(address):
            return None
        return GramStore.open(address, "r", self.run.fingerprint).tiling.edge

    def missing(self, tiling: Tiling) -> list[TileKey]:
        """Return the tiles that are missing for some kind, row by row."""
        whole: list[TileKey] = tiling.keys()
        if self.run is None:
            return whole
        found: set[TileKey] = set()
        for kind in self.config.gram.kinds:
            address = self.run.address("gram", kind)
            if not GramStore.exists(address):
                return whole
            found |= set(GramStore.open(address, "r", self.run.fingerprint).missing())
        return sorted(found)

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
        found = {"factor"}
        if self.run.attributes("labels").get("summary") and self.run.is_current("labels"):
            found.add("labels")
        return found


def _choose_backend(config: RunConfig, shape: tuple[int, ...]) -> tuple[str, str]:
    """Return name and reason of the backend that a new run would take."""
    from ntkdist.kernels.backend import coverage, select_backend
    from ntkdist.kernels.cuda_device import cuda_unavailable

    settings, arch = config.gram, Architecture.parse(config.architecture)
    image = (int(shape[0]), int(shape[1]), int(shape[2]))
    if settings.backend == "cuda" and settings.executor == "ray" and cuda_unavailable():
        if arch.is_spatial:
            arch.check_image(*image[:2])
        if why_not := coverage("cuda", arch, image):
            raise InputError(f"backend 'cuda' cannot compute this: {why_not}; take auto")
        return "cuda", "cuda: asked for by name, on the workers' GPUs"
    chosen = select_backend(arch, image, name=settings.backend, dtype=settings.dtype)
    return chosen.backend.name, chosen.reason
