"""Which run an audit is of: one that was made from what its source holds now, or a new one."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import re
import shlex
from collections import Counter, defaultdict, deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ntkdist import storage
from ntkdist.cli.console import Terminal
from ntkdist.config import RunConfig
from ntkdist.errors import InputError
from ntkdist.networks.architecture import Architecture, preset_of
from ntkdist.pipeline.reuse import finished_tiles
from ntkdist.runs.inputs import STAMP, Inputs, fingerprint, load_inputs, source_of, stamp_of
from ntkdist.runs.run import Prepared, Run
from ntkdist.runs.source_match import preprocessor_of


@dataclass(frozen=True, order=True)
class Item:
    """One labelled image, or row of features.

    Attributes:
        digest: Of its pixels, and of its features where it has some.
        label: Name of its class.
        file: Its file; empty where images come from no files.
    """

    digest: bytes
    label: str
    file: str


@dataclass(frozen=True)
class Change:
    """How a source differs from the run that was made from it.

    Attributes:
        images: Whether the images are others, not only their labels or file names.
        said: What differs, in words.
    """

    images: bool
    said: str


def run_name(name: str, architecture: str, usual: str) -> str:
    """Return the run folder of an audit."""
    network = Architecture.parse(architecture)
    if network == Architecture.parse(usual):
        return f"runs/{name}"
    digest = hashlib.sha256(str(network).encode()).hexdigest()[:8]
    return f"runs/{name}-{preset_of(network) or digest}"


@dataclass(frozen=True, eq=False)
class Choice:
    """Which run an audit is of.

    Attributes:
        settings: Of the audit, with that run.
        prepared: What a new run is begun with, if the source has been read; None for one that is
            there, or whose source has not been read.
    """

    settings: RunConfig
    prepared: Prepared | None = None


def choose_run(settings: RunConfig, out: Terminal, *, named: bool) -> Choice:
    """Return the settings with the run that holds what the source holds now.

    Where labels or file names have changed since, that is a new run beside the old one, which is
    kept as it is: ``runs/photos-2`` after ``runs/photos``. A later audit finds it again. It keeps
    the images in the order of the old one, so that it can take the old one's Gram.

    Raises:
        InputError: The source holds other images than the run, or other labels than a run that
            was asked for; or the run there has other settings.
    """
    first = url = storage.normal(settings.run)
    run = Run.find(settings)
    if run is None:
        return _after_others(settings, _names_before(url))
    if run.has_pending_extension:
        return Choice(settings)
    stamp = stamp_of(settings.data)
    with contextlib.suppress(InputError):  # a later run has other settings: that counts below
        for one in _candidates(settings, run, named=named):
            if stamp is not None and one.attributes("inputs", "images").get(STAMP) == stamp:
                return Choice(dataclasses.replace(settings, run=one.url))
    inputs = load_inputs(settings, prepared_as=preprocessor_of(run))
    now = items_of(inputs)
    others: dict[Run, Sequence[Item]] = {}
    for one in _candidates(settings, run, named=named):
        others[one] = held = items_stored(one)
        change, url = compare(held, now), one.url
        if change is None:
            break
    settings = dataclasses.replace(settings, run=url)
    if change is None:
        return Choice(settings)
    new = next(at for count in itertools.count(2) if not _is_run(at := f"{first}-{count}"))
    source = source_of(settings.data)
    said = f"{source}: has changed since {url} was made from it: {change.said}"
    if not named and not change.images:
        out.note(f"{said}; {url} is kept, what is there now goes to {new}")
        settings = dataclasses.replace(settings, run=new)
        return Choice(settings, _with_gram(inputs, now, others))
    again = f"{audit_command(settings)} --run {shlex.quote(new)}"
    remedy = f"begin another run: {again}"
    if change.images:
        remedy += f"; or add new images to this one: ntkdist extend {shlex.quote(url)}"
    raise InputError(f"{said}; {remedy}")


def _candidates(settings: RunConfig, run: Run, *, named: bool) -> Iterator[Run]:
    """Yield a run, and unless it was named those that follow it: mine, mine-2, mine-3."""
    yield run
    first = run.url
    for count in () if named else itertools.count(2):
        later = Run.find(dataclasses.replace(settings, run=f"{first}-{count}"))
        if later is None:
            return
        yield later


def _names_before(url: str) -> list[str]:
    """Return the runs that one of this name follows: mine and mine-2 for mine-3."""
    found = re.fullmatch(r"(.+)-([1-9]\d*)", url)
    if found is None:
        return []
    names = [found[1], *(f"{found[1]}-{count}" for count in range(2, int(found[2])))]
    return list(itertools.takewhile(_is_run, names))


def _after_others(settings: RunConfig, urls: Sequence[str]) -> Choice:
    """Return how a run is begun beside others of its settings, which may have its Gram."""
    others = {}
    for url in urls:
        try:
            run = Run.find(dataclasses.replace(settings, run=url))
        except InputError:  # with other settings
            continue
        if run is not None and not run.has_pending_extension:
            others[run] = items_stored(run)
    if not others:
        return Choice(settings)
    inputs = load_inputs(settings, prepared_as=preprocessor_of(next(iter(others))))
    return Choice(settings, _with_gram(inputs, items_of(inputs), others))


def _with_gram(
    inputs: Inputs, now: Sequence[Item], others: Mapping[Run, Sequence[Item]]
) -> Prepared:
    """Return inputs in the order of the run that has most of their Gram, if any has."""
    best, most = Prepared(inputs), 0
    for run, held in others.items():
        places = places_in(held, now)
        count = 0 if places is None else finished_tiles(run.url)
        if places is None or count == 0 or count < most:
            continue
        ordered = inputs.in_order(places)
        gram = run.config.gram
        digest = fingerprint(
            ordered.images, run.architecture, gram.kinds, gram.dtype, run.manifest.arithmetic
        )
        if digest == run.fingerprint:
            best, most = Prepared(ordered, run.url), count
    return best


def places_in(held: Sequence[Item], now: Sequence[Item]) -> np.ndarray | None:
    """Return where each image of a run is among those of its source now; None for other images.

    Images are told by their pixels. Of those that are there several times, one with the same label
    and file is taken first.
    """
    if len(held) != len(now):
        return None
    places = np.full(len(held), -1)
    _match(places, held, now)
    _match(places, [one.digest for one in held], [one.digest for one in now])
    return None if (places < 0).any() else places


def _match(places: np.ndarray, held: Sequence[Hashable], now: Sequence[Hashable]) -> None:
    """Give every image without a place the first one with the same key, each once."""
    free: defaultdict[Hashable, deque[int]] = defaultdict(deque)
    for place in np.setdiff1d(np.arange(len(now)), places).tolist():
        free[now[place]].append(place)
    for i in np.flatnonzero(places < 0).tolist():
        if free[held[i]]:
            places[i] = free[held[i]].popleft()


def audit_command(settings: RunConfig) -> str:
    """Return the command that audits the source of some settings, with its features."""
    words = ["ntkdist", "audit", settings.data.source]
    for name in ("features", "features_test"):
        value = getattr(settings.data, name)
        words += [f"--data.{name}", value] if value is not None else []
    return shlex.join(words)


def items_of(inputs: Inputs) -> list[Item]:
    """Return the labelled images that a run of these inputs would hold."""
    true = inputs.labels if inputs.labels_true is None else inputs.labels_true
    return _items(inputs.pictures, inputs.digests, true, inputs.class_names, inputs.files)


def items_stored(run: Run) -> list[Item]:
    """Return the labelled images that a run holds, noise on its labels taken off."""
    name = "labels_true" if run.has("inputs", "labels_true") else "labels"
    names = run.manifest.class_names
    pictures = run.read("inputs", "pictures") if run.has_pictures else None
    digests = run.read("inputs", "digests") if run.manifest.is_features else None
    return _items(pictures, digests, run.read("inputs", name), names, run.files())


def compare(stored: Sequence[Item], now: Sequence[Item]) -> Change | None:
    """Return how a source has changed; None where it holds the same images, labels and files.

    Images are told by their pixels, in whatever order they come.
    """
    gone, new = Counter(stored), Counter(now)
    gone, new = gone - new, new - gone
    if not gone and not new:
        return None
    old_images, new_images = (Counter(one.digest for one in part) for part in (stored, now))
    if old_images != new_images:
        return Change(True, _counts(old_images, new_images, len(stored)))
    # the same images: pair each with what became of it, by its pixels
    pairs = list(zip(sorted(gone.elements()), sorted(new.elements()), strict=True))
    moved = [(old, one) for old, one in pairs if old.label != one.label]
    if not moved:
        old, one = pairs[0]
        what = "files has" if len(pairs) == 1 else "files have"
        example = f"{old.file} is now {one.file}"
        return Change(False, f"{len(pairs)} of {len(now)} {what} another name ({example})")
    old, one = moved[0]
    what = "labels differs" if len(moved) == 1 else "labels differ"
    name = old.file or f"one of {old.label}"
    return Change(False, f"{len(moved)} of {len(now)} {what} ({name} is now {one.label})")


def _counts(old: Counter[bytes], new: Counter[bytes], count: int) -> str:
    added, removed = (new - old).total(), (old - new).total()
    words = [f"{added} new"] if added else []
    words += [f"{removed} of {count} gone"] if removed else []
    return ", ".join(words)


def _items(
    pictures: np.ndarray | None,
    digests: np.ndarray | None,
    labels: np.ndarray,
    names: Sequence[str],
    files: Sequence[str],
) -> list[Item]:
    def seen(i: int) -> bytes:
        parts = [] if digests is None else [digests[i].tobytes()]
        if pictures is not None:
            parts += [str(pictures.shape[1:]).encode(), pictures[i].tobytes()]
        return hashlib.blake2b(b"".join(parts), digest_size=16).digest()

    return [
        Item(seen(i), names[label], files[i] if files else "") for i, label in enumerate(labels)
    ]


def _is_run(url: str) -> bool:
    try:
        Run.open(url, pending_extension=True)
    except InputError:
        return False
    return True
