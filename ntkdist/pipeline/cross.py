"""Held-out images of a run or its source, and their kernel with the images trained on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist.config import RunConfig
from ntkdist.errors import InputError, MissingSplitError, StageError
from ntkdist.networks.architecture import Architecture
from ntkdist.pipeline.gram import Matrix, on_worker
from ntkdist.pipeline.stages import Pipeline
from ntkdist.runs.inputs import names_test_features
from ntkdist.runs.run import Run
from ntkdist.runs.source_match import locate, preprocessor_of, stored_inputs

# Images whose kernel with themselves is computed as one block, of which the diagonal is kept.
_TOGETHER = 8


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Images to predict, those trained on, and the kernels of both.

    Attributes:
        how: ``test``, ``rest`` or ``holdout``, as ``PredictConfig.on``.
        name: What its arrays are stored under; differs for other images.
        labels: (M,) int64 labels of the images to predict, before any label noise that was put on
            for an experiment.
        indices: (M,) int64, their places: in the run for ``holdout``, else in the source's split.
        train: (n,) int64, the images of the run that are trained on, ascending.
        train_labels: (n,) int64 labels of ``train``; the given ones if no true ones are stored.
        images: (M, H, W, C) float32, preprocessed as the run's.
        pictures: (M, H, W, C) uint8, for display; None for features without images.
    """

    how: str
    name: str
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    train: NDArray[np.int64]
    train_labels: NDArray[np.int64]
    images: NDArray[np.float32] = field(repr=False)
    pictures: NDArray[np.uint8] | None = field(repr=False)
    _pipeline: Pipeline = field(repr=False)

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return self._pipeline.run.num_classes

    def gram(self, kind: str = "ntk") -> Any:
        """Return the kernel of the images trained on, (n, n): a ``GramStore``, or an array."""
        from ntkdist.linalg import submatrix

        store = self._pipeline.gram_store(kind)
        if self.how != "holdout":
            return store
        self._check_memory(len(self.train))
        return submatrix(store, self.train, self.train)

    def cross(self, kind: str = "ntk") -> Any:
        """Return the kernel of the images to predict with those trained on, (M, n).

        Tiles that are missing are computed first, by the run's own backend and executor.
        """
        from ntkdist.gram.store import GramStore
        from ntkdist.linalg import submatrix

        pipeline, run = self._pipeline, self._pipeline.run
        if self.how == "holdout":
            self._check_memory(len(self.indices))
            return submatrix(pipeline.gram_store(kind), self.indices, self.train)
        kinds = pipeline.config.gram.kinds
        if kind not in kinds:
            raise InputError(_no_kind(kind, kinds))
        matrix = Matrix(
            outputs=tuple((k, run.address("cross", self.name, k)) for k in kinds),
            fingerprint=self.fingerprint,
            rows=run.address("cross", self.name, "images"),
            shape=(len(self.indices), len(self.train)),
            columns=run.address("inputs", "images"),
        )
        with pipeline.stage("cross") as detail:
            detail += pipeline.compute(matrix)
        return GramStore.open(dict(matrix.outputs)[kind], "r", self.fingerprint)

    def diagonal(self, kind: str = "ntk") -> NDArray[np.float64]:
        """Return k(x, x) of each image to predict, (M,) float64."""
        run = self._pipeline.run
        if self.how == "holdout":
            return self._pipeline.gram_store(kind).diagonal()[self.indices].astype(np.float64)
        stored = ("cross", self.name, f"diagonal_{kind}")
        if run.attributes(*stored).get("fingerprint") != self.fingerprint:
            values = self._diagonal(kind)
            run.write("/".join(stored), values, {"fingerprint": self.fingerprint})
        return run.read(*stored)

    @property
    def fingerprint(self) -> str:
        """sha256 of the run's fingerprint, the images to predict and those trained on."""
        return _digest(self._pipeline, self.images, self.train)

    def factor_address(self, kind: str, ridge: float) -> str:
        """Return where the factor of ``gram(kind)`` with a ridge is kept; the run's own if all."""
        matrix = f"{kind}-{self.name}" if self.how == "holdout" else kind
        return self._pipeline.run.address("factor", matrix, f"ridge-{ridge:g}")

    def _diagonal(self, kind: str) -> NDArray[np.float64]:
        run, config = self._pipeline.run, self._pipeline.config
        own = partial(
            _own_entries,
            run.address("cross", self.name, "images"),
            config.architecture,
            run.manifest.backend,
            run.manifest.arithmetic,
            config.gram.dtype,
            config.gram.invariance,
            kind,
        )
        return on_worker(config, run.manifest.backend, own)

    def _check_memory(self, rows: int) -> None:
        from ntkdist.linalg import parse_memory

        limit = self._pipeline.config.factor.memory_limit
        needed = 8 * rows * len(self.train)
        if needed > parse_memory(limit):
            raise InputError(
                f"predict.on=holdout reads {needed / 2**30:.1f} GiB of the Gram into memory, and "
                f"factor.memory_limit is {limit}; raise it, or use predict.on=test or rest, which "
                "are read in tiles"
            )


def _own_entries(
    address: str,
    architecture: str,
    backend: str,
    arithmetic: str,
    dtype: str,
    invariance: str,
    kind: str,
) -> NDArray[np.float64]:
    """Return k(x, x) of each of the images (M, H, W, C) at an address, (M,)."""
    from ntkdist.gram.executors.cluster import cores
    from ntkdist.kernels.registry import get_backend, of_version
    from ntkdist.storage.arrays import open_array

    images, arch = np.asarray(open_array(address)[:]), Architecture.parse(architecture)
    newest = get_backend(backend, dtype=dtype, threads=cores(), invariance=invariance)
    H, W, C = images.shape[1:]
    chosen = of_version(newest, arithmetic, arch, (H, W, C)) or newest
    parts = []
    for start in range(0, len(images), _TOGETHER):
        state = chosen.prepare(arch, images[start : start + _TOGETHER])
        parts.append(np.diagonal(chosen.block(state, state, (kind,))[kind]))
    return np.concatenate(parts).astype(np.float64)


def held_out(pipeline: Pipeline) -> HeldOut:
    """Return the images that ``predict`` of the configuration names.

    Raises:
        InputError: If there are no such images, or ``predict.kind`` is not in ``gram.kinds``.
        StageError: If refurbished labels are asked for and the run has none yet.
    """
    config, run = pipeline.config, pipeline.run
    settings = config.predict
    if settings.kind not in config.gram.kinds:
        raise InputError(_no_kind(settings.kind, config.gram.kinds))
    kinds = ("test", "rest", "holdout") if settings.on == "auto" else (settings.on,)
    for how in kinds:
        if how == "holdout":
            return _holdout(pipeline)
        try:
            images, pictures, labels, indices = _others(run, config, how)
        except InputError as error:
            # a split that is there and cannot be read must be reported, and so must an error in
            # features that the settings name
            named = how == "test" and names_test_features(config.data)
            if settings.on == "auto" and isinstance(error, MissingSplitError) and not named:
                continue
            text = str(error)
            text = text if text.startswith("predict.on") else f"predict.on={how}: {text}"
            if settings.on == "auto":
                text += "; --predict.on holdout predicts images of the run instead"
            raise type(error)(text) from None
        train = np.arange(run.array("inputs", "labels").shape[0])
        name = f"{how}-{_digest(pipeline, images, train)[:12]}"
        held = HeldOut(
            how, name, labels, indices, train, _trained_on(pipeline, train), images, pictures,
            pipeline,
        )  # fmt: skip
        if run.attributes("cross", name, "labels").get("fingerprint") != held.fingerprint:
            run.write(f"cross/{name}/images", images)
            run.write(f"cross/{name}/labels", labels, {"fingerprint": held.fingerprint})
        return held
    raise AssertionError("the loop returns or raises")


def _others(
    run: Run, config: RunConfig, how: str
) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None, NDArray[np.int64], NDArray[np.int64]]:
    """Return images, pictures, labels and indices of the test split, or of what is left out."""
    from ntkdist.data import Preprocessor, select
    from ntkdist.runs.inputs import kernel_view, load_data, pictures_of

    data, settings = config.data, config.predict
    if how == "test" and data.split == "test":
        raise MissingSplitError(
            "predict.on=test: the run is of the test split; use rest or holdout"
        )
    if how == "test":
        source = load_data(data, "test", size=run.scaled_to, channels=run.channels)
        left = np.arange(len(source.labels))
        preprocess = preprocessor_of(run) or Preprocessor.fit(
            load_data(data, size=run.scaled_to).images,
            data.preprocess,
            mirrored=config.gram.invariance == "flip",
        )
    else:
        held = stored_inputs(run)
        match = locate(config, held)
        source, preprocess = match.source, match.preprocess
        if held.preprocess is None and (match.places < 0).any():
            raise InputError(
                f"predict.on=rest: {data.source} has changed since the run was made, and the run's "
                "images cannot be found in it; use predict.on=holdout"
            )
        left = np.sort(match.others)
        if len(left) < 2:
            raise MissingSplitError(
                "predict.on=rest: the run has all images of its split; use predict.on="
                "holdout, or a run with fewer images (data.n)"
            )
    if settings.n is not None:
        left = left[select(source.labels[left], settings.n, "balanced", settings.seed)]
    images = kernel_view(preprocess.apply(source.images[left], of=source.pixel_range))
    size = tuple(run.array("inputs", "images").shape[1:])
    if images.shape[1:] != size:
        found, wanted = ("×".join(map(str, shape)) for shape in (images.shape[1:], size))
        raise InputError(
            f"predict.on={how}: images of {found} are compared with the run's of {wanted}; bring "
            "both to one size, or begin a run that does, with --data.size"
        )
    pictures = None if source.shown is None else pictures_of(source.shown[left])
    return images, pictures, source.labels_in(run.manifest.class_names, left), left


def _holdout(pipeline: Pipeline) -> HeldOut:
    """Take a share of the run's images away from those trained on, equally from each class."""
    from ntkdist.data import select

    run, settings = pipeline.run, pipeline.config.predict
    which = "labels_true" if run.has("inputs", "labels_true") else "labels"
    labels = run.read("inputs", which)
    count = max(1, round(settings.share * len(labels)))
    if len(labels) - count < 2 or count < 2:
        raise InputError(
            f"predict.on=holdout: {count} of {len(labels)} images leave too few; at least 2 to "
            "predict and 2 to train on are needed"
        )
    chosen = select(labels, count, "balanced", settings.seed)
    train = np.setdiff1d(np.arange(len(labels)), chosen)
    digest = hashlib.sha256(chosen.tobytes()).hexdigest()
    return HeldOut(
        how="holdout",
        name=f"holdout-{digest[:12]}",
        labels=labels[chosen],
        indices=chosen,
        train=train,
        train_labels=_trained_on(pipeline, train),
        images=run.read("inputs", "images")[chosen],
        pictures=run.read("inputs", "pictures")[chosen] if run.has_pictures else None,
        _pipeline=pipeline,
    )


def _trained_on(pipeline: Pipeline, train: NDArray[np.int64]) -> NDArray[np.int64]:
    run, wanted = pipeline.run, pipeline.config.predict.labels
    if wanted == "refurbished":
        if not run.has("labels", "refurbished"):
            raise StageError(f"{run.url}: has no refurbished labels yet; ntkdist labels {run.url}")
        return run.read("labels", "refurbished").astype(np.int64)[train]
    if wanted == "true" and run.has("inputs", "labels_true"):
        return run.read("inputs", "labels_true")[train]
    return run.read("inputs", "labels")[train]


def _digest(pipeline: Pipeline, images: NDArray[np.float32], train: NDArray[np.int64]) -> str:
    digest = hashlib.sha256(pipeline.run.fingerprint.encode())
    digest.update(str(images.shape).encode())
    digest.update(np.ascontiguousarray(images).data)
    digest.update(train.tobytes())
    return digest.hexdigest()


def _no_kind(kind: str, kinds: tuple[str, ...]) -> str:
    return (
        f"kind {kind} is not one of this run's, {', '.join(kinds)}; begin a run with "
        "--gram.kinds ntk,nngp, under another --run"
    )
