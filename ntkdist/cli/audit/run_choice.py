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
        digest: Digest of its pixels, features or both.
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
        images: Whether images, not only labels or file names, differ.
        removed: Whether images of the run are no longer in the source.
        words: What differs.
    """

    images: bool
    removed: bool
    words: str


def run_name(name: str, architecture: str, usual: str) -> str:
    """Return the run folder of an audit."""
    network = Architecture.parse(architecture)
    if network == Architecture.parse(usual):
        return f"runs/{name}"
    digest = hashlib.sha256(str(network).encode()).hexdigest()[:8]
    return f"runs/{name}-{preset_of(network) or digest}"


@dataclass(frozen=True, eq=False)
class Choice:
    """The run that is chosen for an audit.

    Attributes:
        settings: Settings of the audit, with that run.
        prepared: Inputs of a new run; None if the run exists or its source has not been read.
    """

    settings: RunConfig
    prepared: Prepared | None = None


def choose_run(settings: RunConfig, out: Terminal, *, named: bool) -> Choice:
    """Choose the stored run that matches the source as it is now, or a new one.

    If labels or file names have changed, ``runs/photos`` is kept and ``runs/photos-2`` is new;
    later audits find it. Its images have the order of the run whose Gram it takes.

    Raises:
        InputError: The images have changed, or labels or file names of a ``named`` run; or a run
            has other settings.
    """
    first = url = storage.normal(settings.run)
    run = Run.find(settings)
    if run is None:
        return _new_run(settings, _names_before(url))
    if run.has_pending_extension:
        return Choice(settings)
    stamp = stamp_of(settings.data)
    # a later run with other settings: raised below, if it matters
    with contextlib.suppress(InputError):
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
    said = f"{source}: has changed since {url} was made from it: {change.words}"
    if not named and not change.images:
        out.note(f"{said}; {url} is kept, what is there now goes to {new}")
        settings = dataclasses.replace(settings, run=new)
        return Choice(settings, _with_gram(inputs, now, others))
    again = f"{audit_command(settings)} --run {shlex.quote(new)}"
    remedy = f"begin another run: {again}"
    if change.images and not change.removed:
        remedy += f"; or add the new images to {url}: ntkdist extend {shlex.quote(url)}"
    raise InputError(f"{said}; {remedy}")


def _candidates(settings: RunConfig, run: Run, *, named: bool) -> Iterator[Run]:
    """Yield a run and, unless it was ``named``, its successors: mine, mine-2, mine-3."""
    yield run
    first = run.url
    for count in () if named else itertools.count(2):
        later = Run.find(dataclasses.replace(settings, run=f"{first}-{count}"))
        if later is None:
            return
        yield later


def _names_before(url: str) -> list[str]:
    """Return the addresses of stored earlier runs: mine and mine-2 for mine-3."""
    found = re.fullmatch(r"(.+)-([1-9]\d*)", url)
    if found is None:
        return []
    names = [found[1], *(f"{found[1]}-{count}" for count in range(2, int(found[2])))]
    return list(itertools.takewhile(_is_run, names))


def _new_run(settings: RunConfig, urls: Sequence[str]) -> Choice:
    """Begin a new run, with the Gram of an earlier run if one has it."""
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
    """Return inputs in the order of the run with most tiles of their Gram, if there is one."""
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
    """Return the index in the source of each stored image; None if the images differ.

    Images match by ``digest``. Among duplicates, one with the same label and file is taken first.
    """
    if len(held) != len(now):
        return None
    places = np.full(len(held), -1)
    _match(places, held, now)
    _match(places, [one.digest for one in held], [one.digest for one in now])
    return None if (places < 0).any() else places


def _match(places: np.ndarray, held: Sequence[Hashable], now: Sequence[Hashable]) -> None:
    """Set each missing place to the first unused index with the same key."""
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
    """Return the labelled images that a run holds, with their labels before noise."""
    name = "labels_true" if run.has("inputs", "labels_true") else "labels"
    names = run.manifest.class_names
    pictures = run.read("inputs", "pictures") if run.has_pictures else None
    digests = run.read("inputs", "digests") if run.manifest.is_features else None
    return _items(pictures, digests, run.read("inputs", name), names, run.files())


def compare(stored: Sequence[Item], now: Sequence[Item]) -> Change | None:
    """Return how a source has changed; None where it holds the same images, labels and files.

    Images match by ``digest``, in any order.
    """
    gone, new = Counter(stored), Counter(now)
    gone, new = gone - new, new - gone
    if not gone and not new:
        return None
    old_images, new_images = (Counter(one.digest for one in part) for part in (stored, now))
    if old_images != new_images:
        removed = bool(old_images - new_images)
        return Change(True, removed, _counts(old_images, new_images, len(stored)))
    # the images are the same: pair old and new items by digest
    pairs = list(zip(sorted(gone.elements()), sorted(new.elements()), strict=True))
    moved = [(old, one) for old, one in pairs if old.label != one.label]
    if not moved:
        old, one = pairs[0]
        what = "files has" if len(pairs) == 1 else "files have"
        example = f"{old.file} is now {one.file}"
        return Change(False, False, f"{len(pairs)} of {len(now)} {what} another name ({example})")
    old, one = moved[0]
    what = "labels differs" if len(moved) == 1 else "labels differ"
    name = old.file or f"one of {old.label}"
    return Change(False, False, f"{len(moved)} of {len(now)} {what} ({name} is now {one.label})")


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
    def digest_of(i: int) -> bytes:
        parts = [] if digests is None else [digests[i].tobytes()]
        if pictures is not None:
            parts += [str(pictures.shape[1:]).encode(), pictures[i].tobytes()]
        return hashlib.blake2b(b"".join(parts), digest_size=16).digest()

    return [
        Item(digest_of(i), names[label], files[i] if files else "")
        for i, label in enumerate(labels)
    ]


def _is_run(url: str) -> bool:
    try:
        Run.open(url, pending_extension=True)
    except InputError:
        return False
    return True
