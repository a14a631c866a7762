"""An audit: what lies at a path, which run it belongs to, and which labels look wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ntkdist import storage
from ntkdist.cli.console import Table, Terminal
from ntkdist.config import RunConfig
from ntkdist.data.paths import resolve
from ntkdist.data.readers import READERS, SOURCES, reader_of
from ntkdist.data.readers.image_files import SUFFIXES, UNREAD
from ntkdist.errors import InputError, did_you_mean
from ntkdist.networks.architecture import Architecture, preset_of
from ntkdist.pipeline.reuse import finished_tiles
from ntkdist.runs.inputs import (
    STAMP,
    Inputs,
    fingerprint,
    load_inputs,
    same_data,
    source_of,
    stamp_of,
)
from ntkdist.runs.run import Prepared, Run
from ntkdist.runs.source_match import match_places, preprocessor_of
from ntkdist.words import first_of

_PICTURES = SUFFIXES | UNREAD  # what is not read is refused by the reader, with its name
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z")
WANTED = (
    "give a folder that holds a folder of image files for each class, a .csv file with "
    "columns file and label, an .npz file with x_train (images or features) and y_train, or "
    "MNIST's idx files"
)


def recognise(source: str) -> str:
    """Return the data source that a user's word means.

    Raises:
        InputError: There is nothing at the path, or nothing that is known: what was found there
            and what would do.
    """
    name, colon, _ = source.partition(":")
    if name in READERS and (colon or (source in SOURCES and not Path(source).exists())):
        return source
    source = source.rstrip("/") or "/"  # the same run, however the folder is written
    path = resolve(source, None)
    if not path.exists():
        raise InputError(f"{source}: {_nothing(path)}")
    kind = kind_of(source)
    if kind == "run":
        raise InputError(
            f"{source}: is a run, not images; what it found: ntkdist labels {source}, or resume "
            f"it: ntkdist run {source}"
        )
    if kind is None:
        inner = [str(one) for one in _folders(path) if reader_of(one)] if path.is_dir() else []
        if inner:
            raise InputError(
                f"{source}: has its images one folder further down ({first_of(inner)}); give the "
                "folder that holds the class folders, or, where these are splits, call them train "
                "and test"
            )
        raise InputError(f"{source}: {_found(path)}; {WANTED}")
    return f"{kind}:{source}"


def kind_of(source: str) -> str | None:
    """Return the name of the reader for a path, or run; None for anything else.

    Raises:
        InputError: It cannot be read, for want of rights or for another reason.
    """
    if "://" in source:
        return None
    path = resolve(source, None)
    try:
        return "run" if os.path.isfile(path / "zarr.json") else reader_of(path)
    except OSError as error:
        raise InputError(
            f"{error.filename or path} cannot be read: {error.strerror or error}"
        ) from None


def run_name_of(source: str, features: str | None) -> str:
    """Return a short name for the runs of a data source with some features beside it."""
    name = name_of(source)
    if features is None:
        return name
    stem = Path(features.strip()).stem
    return f"{name}-" + ("".join(c if c.isalnum() or c in "-_." else "-" for c in stem))


def name_of(source: str) -> str:
    """Return a short name for the runs of a data source."""
    kind, _, place = source.partition(":")
    path = Path(os.path.abspath(resolve(place, None))) if place else Path(kind)
    name = path.stem if path.is_file() else path.name
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name) or kind


def _folders(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def _pictures(folder: Path) -> int:
    return sum(path.suffix.lower() in _PICTURES for path in folder.iterdir() if path.is_file())


def _nothing(path: Path) -> str:
    siblings = path.parent.iterdir() if path.parent.is_dir() else ()
    near = did_you_mean(path.name, (one.name for one in siblings))
    return f"there is no such file or folder{near}"


def _found(path: Path) -> str:
    """Return in words what lies at a path that is not an image set."""
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix in (".yaml", ".yml"):
            return f"is a run file, which ntkdist run {path} takes"
        if suffix in _ARCHIVES:
            return f"is an archive ({suffix}), which has to be unpacked first"
        if suffix == ".npy":
            return (
                "is an array without labels (features go beside their images: ntkdist audit "
                f"FOLDER --data.features {path})"
            )
        return f"is a file of kind {suffix or 'unknown'}"
    loose = _pictures(path)
    if loose:
        return f"holds no class folders ({loose} images lie in it directly)"
    folders = _folders(path)
    if folders:
        names = first_of([p.name for p in folders])
        return f"holds folders ({names}), and no image file in any of them"
    kinds = Counter(p.suffix.lower() or p.name for p in sorted(path.iterdir()))
    if not kinds:
        return "is an empty folder"
    return f"holds {first_of([f'{count} {kind}' for kind, count in kinds.most_common()])}"


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


def run_name(name: str, settings: RunConfig, usual: str) -> str:
    """Return the run folder of an audit, by its architecture and the average that it takes."""
    network, invariance = Architecture.parse(settings.architecture), settings.gram.invariance
    if network != Architecture.parse(usual):
        digest = hashlib.sha256(str(network).encode()).hexdigest()[:8]
        name += f"-{preset_of(network) or digest}"
    return f"runs/{name}" if invariance == "none" else f"runs/{name}-{invariance}"


@dataclass(frozen=True, eq=False)
class Choice:
    """Settings with the run that is chosen for an audit, and the inputs of a new run if read."""

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
    # a later run with other settings: raised below, if it matters
    with contextlib.suppress(InputError):
        for one in _candidates(settings, run, named=named):
            if _has_stamp(one):
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
        out.note(f"{said}; {url} is kept, the changed source is stored in {new}")
        settings = dataclasses.replace(settings, run=new)
        return Choice(settings, _with_gram(inputs, now, others))
    again = f"{audit_command(settings)} --run {shlex.quote(new)}"
    remedy = f"begin another run: {again}"
    if change.images and not change.removed and inputs.class_names == one.manifest.class_names:
        remedy += f"; or add the new images to {url}: ntkdist extend {shlex.quote(url)}"
    raise InputError(f"{said}; {remedy}")


def _has_stamp(run: Run) -> bool:
    """Return whether the files of a run's source are as they were when it was read."""
    stored = run.attributes("inputs", "images").get(STAMP)
    # the digest holds paths as the run was told them
    paths = same_data(run.manifest.config["data"], dataclasses.asdict(run.config.data))
    names = {name: paths[name] for name in ("source", "features", "features_test")}
    return stored is not None and stored == stamp_of(dataclasses.replace(run.config.data, **names))


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
    match = re.fullmatch(r"(.+)-([1-9]\d*)", url)
    if match is None:
        return []
    names = [match[1], *(f"{match[1]}-{count}" for count in range(2, int(match[2])))]
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
        digest = fingerprint(
            ordered.images, run.architecture, run.config.gram, run.manifest.arithmetic
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
    match_places(places, held, now, np.arange(len(now)))
    left = np.setdiff1d(np.arange(len(now)), places)
    match_places(places, [one.digest for one in held], [one.digest for one in now], left)
    return None if (places < 0).any() else places


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


MOST = 10
FEWEST = 10
"""Images of a class, below which what is said of its labels is a guess."""


@dataclass(frozen=True)
class LabelIssue:
    """An image whose label looks wrong.

    Attributes:
        index: Its number in the run.
        file: Its file; None where images came from no files.
        given: Name of the class that it is labelled as.
        suggested: Name of the class that it looks like; None where no other class is more
            probable than the given one, which is probably wrong all the same.
        quality: Probability that the given label is right.
    """

    index: int
    file: str | None
    given: str
    suggested: str | None
    quality: float


def worst_labels(run: Run, most: int = MOST) -> list[LabelIssue]:
    """Return the labels that look wrong, the most suspicious first."""
    quality = run.read("labels", "label_quality")
    issue = np.flatnonzero(run.read("labels", "is_label_issue"))
    order = issue[np.argsort(quality[issue], kind="stable")][:most]
    given, suggested = run.read("inputs", "labels"), run.read("labels", "suggested_label")
    files, names = run.files(), run.manifest.class_names
    return [
        LabelIssue(
            index=int(i),
            file=files[i] if files else None,
            given=names[given[i]],
            suggested=None if suggested[i] == given[i] else names[suggested[i]],
            quality=float(quality[i]),
        )
        for i in order
    ]


def warn_of_few(run: Run, most: int = 5) -> str | None:
    """Return a warning where classes have so few images that verdicts on them are guesses."""
    names = run.manifest.class_names
    counts = np.bincount(run.read("inputs", "labels"), minlength=len(names))
    few = [int(k) for k in np.argsort(counts, kind="stable") if 0 < counts[k] < FEWEST]
    if not few:
        return None
    shown = ", ".join(f"{names[k]} has {counts[k]}" for k in few[:most])
    more = f" and {len(few) - most} more are as small" if len(few) > most else ""
    return f"verdicts on classes of fewer than {FEWEST} images are guesses: {shown}{more}"


def table_of(issues: list[LabelIssue], what: str = "image") -> Table:
    """Return the list for people; images, or rows, without a file go by their number."""
    by_file = any(one.file is not None for one in issues)
    return Table(
        ("file" if by_file else what, "given", "suggested", "quality"),
        tuple(
            (
                one.file or str(one.index),
                one.given,
                one.suggested or "unclear",
                _shown(one.quality),
            )
            for one in issues
        ),
        right=(3,),
    )


def _shown(quality: float) -> str:
    return "<0.001" if quality < 0.001 else f"{quality:.3f}"
