"""A digest of a source's files, by which a run tells without decoding whether they changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from ntkdist.data.paths import resolve
from ntkdist.data.readers import READERS
from ntkdist.errors import InputError


def source_stamp(source: str, *features: str | None) -> str | None:
    """Return a digest of the names, sizes and modification times of a source's files.

    Args:
        source: As for ``ntkdist.data.load``; one without files has a stamp of its name alone.
        features: Files of features beside it; None for none.

    Returns:
        64 hexadecimal digits; None where a file is missing or cannot be looked at, which the
        reader then reports.
    """
    digest = hashlib.sha256(source.encode())
    try:
        for path in _files(source, features):
            stat = path.stat()
            digest.update(
                f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "replace")
            )
    except (OSError, InputError):
        return None
    return digest.hexdigest()


def _files(source: str, features: tuple[str | None, ...]) -> Iterator[Path]:
    name, _, place = source.strip().partition(":")
    if place.strip():
        path = resolve(place.strip(), None)
        if path.is_dir():
            for folder, below, files in os.walk(path, followlinks=True):
                below.sort()
                yield from (Path(folder, file) for file in sorted(files))
        else:
            yield path
        if name in READERS:
            yield from READERS[name].more_files(path)
    yield from (resolve(one.strip(), None) for one in features if one is not None)
