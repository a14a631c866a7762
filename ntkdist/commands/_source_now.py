"""Which run an audit is of: one that was made from what its source holds now, or a new one."""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ntkdist import storage
from ntkdist.architecture import Architecture, preset_of
from ntkdist.config import RunConfig
from ntkdist.console import Terminal
from ntkdist.errors import InputError
from ntkdist.inputs import Inputs, load_inputs, source_of
from ntkdist.run import Run


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
    """Return the run folder of an audit.

    Args:
        name: Of the source.
        architecture: Of the network that it is audited with.
        usual: The architecture that no name is needed for.

    Returns:
        ``runs/NAME``, the architecture behind it where it is not the usual one: the name of a
        preset, or the beginning of a digest of its layers.
    """
    network = Architecture.parse(architecture)
    if network == Architecture.parse(usual):
        return f"runs/{name}"
    digest = hashlib.sha256(str(network).encode()).hexdigest()[:8]
    return f"runs/{name}-{preset_of(network) or digest}"


def choose_run(settings: RunConfig, out: Terminal, *, named: bool) -> RunConfig:
    """Return the settings with the run that holds what the source holds now.

    Where labels or file names have changed since, that is a new run beside the old one, which is
    kept as it is: ``runs/photos-2`` after ``runs/photos``. A later audit finds it again.

    Args:
        settings: Of the audit.
        out: Where to say that a new run is begun.
        named: Whether the run's folder was asked for; then no other is taken.

    Returns:
        The settings.

    Raises:
        InputError: The source holds other images than the run, or other labels than a run that
            was asked for; or the run there has other settings.
    """
    first = url = storage.normal(settings.run)
    if not _is_run(url):
        return settings
    run = Run.create(settings)  # there already: this refuses other settings and writes nothing
    if run.unsettled:
        return settings
    now = items_of(load_inputs(settings))
    change, count = compare(items_stored(run), now), 2
    while change is not None and _is_run(after := f"{first}-{count}") and not named:
        url, settings = after, dataclasses.replace(settings, run=after)
        change, count = compare(items_stored(Run.create(settings)), now), count + 1
    if change is None:
        return settings
    while _is_run(new := f"{first}-{count}"):
        count += 1
    source = source_of(settings.data)
    said = f"{source}: has changed since {url} was made from it: {change.said}"
    if not named and not change.images:
        out.note(f"{said}; {url} is kept, what is there now goes to {new}")
        return dataclasses.replace(settings, run=new)
    again = f"{audit_command(settings)} --run {shlex.quote(new)}"
    remedy = f"begin another run: {again}"
    if change.images:
        remedy += f"; or add new images to this one: ntkdist extend {shlex.quote(url)}"
    raise InputError(f"{said}; {remedy}")


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
        Run.open(url, unsettled=True)
    except InputError:
        return False
    return True
