"""A run's images found in their source again, and the inputs of a run with more of them."""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ntkdist.config import RunConfig
from ntkdist.data import ImageSet, Preprocessor, symmetric
from ntkdist.data.sampling import subset_order
from ntkdist.errors import InputError
from ntkdist.pixels import ScaleError
from ntkdist.runs.inputs import (
    PREPROCESS,
    Inputs,
    kernel_view,
    load_data,
    notes_of,
    pictures_of,
    row_digests,
    stamp_of,
)
from ntkdist.runs.run import Run

_TOGETHER = 4096


@dataclass(frozen=True, eq=False)
class StoredInputs:
    """The inputs that a run stores; fields that are not listed are those of ``Inputs``.

    Attributes:
        preprocess: What prepared the images; None for a run that does not say.
        scaled_to: (height, width) that they were scaled to as they were read; None where they
            were not.
        channels: C of the images as they were read; None for features of no images.
    """

    images: NDArray[np.float32] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    labels_true: NDArray[np.int64] | None = field(repr=False)
    class_names: tuple[str, ...]
    preprocess: Preprocessor | None
    scaled_to: tuple[int, int] | None
    channels: int | None


def stored_inputs(run: Run) -> StoredInputs:
    """Read images, labels and the statistics that the images were prepared with."""
    noisy = run.has("inputs", "labels_true")
    return StoredInputs(
        images=run.read("inputs", "images"),
        labels=run.read("inputs", "labels"),
        labels_true=run.read("inputs", "labels_true") if noisy else None,
        class_names=run.manifest.class_names,
        preprocess=preprocessor_of(run),
        scaled_to=run.scaled_to,
        channels=run.channels,
    )


def preprocessor_of(run: Run) -> Preprocessor | None:
    """Return what prepared a run's images; None for one that does not say."""
    stored = run.attributes("inputs", "images").get(PREPROCESS)
    if stored is None:
        return None

    def read(name: str) -> NDArray[np.float64]:
        run.has("inputs", name)  # raises an error where it was stored and is missing
        return run.read("inputs", name)

    return Preprocessor.from_dict(stored, read)


@dataclass(frozen=True, eq=False)
class SourceMatch:
    """The images of a run in its source, as it is now.

    Attributes:
        source: All of the source's split.
        preprocess: What prepares its images as the run's.
        order: (S,) int64, the order in which the run's kind of subset chooses images.
        places: (N,) int64, where each image of the run is in the source; -1 where it is not.
    """

    source: ImageSet
    preprocess: Preprocessor
    order: NDArray[np.int64]
    places: NDArray[np.int64]

    @property
    def others(self) -> NDArray[np.int64]:
        """The images of the source that are not in the run, in ``order``."""
        return self.order[~np.isin(self.order, self.places)]


def grown_inputs(config: RunConfig, held: StoredInputs) -> Inputs | None:
    """Return the inputs of a run with more images of its source.

    The images of the run keep their places and labels. Those behind them come in the source's
    order. Where the run has label noise, it is put on the new labels alone, with a seed made of
    ``noise.seed`` and the number of old ones: other labels are wrong than in a run begun with all
    images, as many of them up to rounding.

    Raises:
        InputError: The source has fewer images than are asked for, lacks images of the run, or
            has other classes; or fewer are asked for than the run has.
    """
    n, before = config.data.n, len(held.labels)
    if n is not None and n < before:
        raise InputError(
            f"data.n={n} is fewer than the {before} images of the run; begin another --run with it"
        )
    if n == before:
        return None
    stamp = stamp_of(config.data)
    match = locate(config, held)
    source = match.source
    _check_source(config, held, match)
    wanted = None if n is None else n - before
    new = np.sort(match.others[:wanted])
    if not new.size:
        return None
    chosen = np.concatenate([match.places, new])
    true = source.labels[new]
    labels, labels_true = true, None
    if held.labels_true is not None:
        seed = _noise_seed(config.noise.seed, before)
        labels, _ = symmetric(true, source.num_classes, config.noise.rate, seed)
        labels_true = np.concatenate([held.labels_true, true])
    prepared = kernel_view(match.preprocess.apply(source.images[new], of=source.pixel_range))
    return Inputs(
        images=np.concatenate([held.images, prepared]),
        pictures=None if source.shown is None else pictures_of(source.shown[chosen]),
        labels=np.concatenate([held.labels, labels]),
        labels_true=labels_true,
        num_classes=source.num_classes,
        class_names=source.class_names,
        files=tuple(source.files[i] for i in chosen) if source.files else (),
        preprocess=match.preprocess,
        digests=row_digests(source.images[chosen]) if source.is_features else None,
        stamp=stamp,
        notes=notes_of(source, np.concatenate([held.labels, labels])),
    )


def locate(config: RunConfig, held: StoredInputs) -> SourceMatch:
    """Find the images of a run in its source, by what they hold.

    An image that is there several times is taken where its label is the run's too, and then in
    the order in which images are chosen.

    Raises:
        InputError: The source cannot be read, or its images cannot be prepared as the run's.
    """
    # what data.size=auto and the colours came to when the run was made, not to what they would now
    source = load_data(config.data, size=held.scaled_to, channels=held.channels)
    order = subset_order(source.labels, config.data.subset, config.data.seed)
    preprocess = held.preprocess or Preprocessor.fit(
        source.images, config.data.preprocess, mirrored=config.gram.invariance == "flip"
    )
    try:
        there = list(_digests(source, preprocess))
    except ScaleError as error:
        raise ScaleError(f"{config.data.source}: {error}") from None
    mine = [_digest(image) for image in held.images]
    labels = held.labels if held.labels_true is None else held.labels_true
    places = np.full(len(mine), -1, dtype=np.int64)
    named = [source.class_names[k] for k in source.labels]
    mine_named = [held.class_names[k] for k in labels]
    match_places(places, _pairs(mine, mine_named), _pairs(there, named), order)
    left = order[~np.isin(order, places)]
    match_places(places, mine, there, left)
    return SourceMatch(source, preprocess, order, places)


def match_places(
    places: NDArray[np.int64],
    mine: Sequence[Hashable],
    there: Sequence[Hashable],
    order: NDArray[np.int64],
) -> None:
    """Give every image without a place the first one in order with the same key, each once."""
    free: defaultdict[Hashable, deque[int]] = defaultdict(deque)
    for place in order.tolist():
        free[there[place]].append(place)
    for i in np.flatnonzero(places < 0).tolist():
        if free[mine[i]]:
            places[i] = free[mine[i]].popleft()


def _pairs(digests: Sequence[bytes], labels: Sequence[str]) -> list[Hashable]:
    return list(zip(digests, labels, strict=True))


def _digests(source: ImageSet, preprocess: Preprocessor) -> Iterator[bytes]:
    pixels = source.pixel_range
    for start in range(0, len(source), _TOGETHER):
        part = source.images[start : start + _TOGETHER]
        yield from map(_digest, kernel_view(preprocess.apply(part, of=pixels)))


def _digest(image: NDArray[np.float32]) -> bytes:
    digest = hashlib.blake2b(str(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def _check_source(config: RunConfig, held: StoredInputs, match: SourceMatch) -> None:
    """Refuse a source that no larger run can be made of."""
    where, n, total = config.data.source, config.data.n, len(match.source)
    missing = np.flatnonzero(match.places < 0)
    if len(missing) and held.preprocess is None:
        raise InputError(
            f"{where}: {len(missing)} images of the run are not found in it, the first of them "
            f"number {missing[0]}; the run does not say what {config.data.preprocess} subtracted "
            "and divided by, and the source has changed since: begin another --run"
        )
    if len(missing):
        raise InputError(
            f"{where}: holds {len(missing)} of the run's {len(held.labels)} images no longer, the "
            f"first of them number {missing[0]}; put them back, or begin another --run"
        )
    if match.source.class_names != held.class_names:
        new = [name for name in match.source.class_names if name not in held.class_names]
        what = f"has class {new[0]!r}, which the run has not" if new else "has lost a class"
        raise InputError(
            f"{where}: {what}; an extension keeps the run's {len(held.class_names)} classes: take "
            "those images away, or begin another --run"
        )
    if n is not None and n > total:
        raise InputError(f"data.n={n} images, but {where} has only {total}; use at most {total}")


def _noise_seed(seed: int, images: int) -> int:
    digest = hashlib.sha256(f"noise {seed} after {images} images".encode()).digest()
    return int.from_bytes(digest[:8])
