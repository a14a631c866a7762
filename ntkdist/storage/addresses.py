"""Addresses of folders and object stores, and the place that each names."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from ntkdist.errors import InputError, did_you_mean, shown

#: The environment variables with the credentials of each kind of object store, for messages.
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "memory": "nothing",
}
_KNOWN = ("file", *CREDENTIALS)
_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes; what file systems and Linux take
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


@dataclass(frozen=True)
class Place:
    """A key in a bucket of an object store.

    Attributes:
        scheme: ``s3``, ``gs``, ``az`` or ``memory`` (this process's own, for tests).
        bucket: Bucket or container.
        key: Names joined by ``/``; empty for the bucket itself.
    """

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}".rstrip("/")

    def shares_bucket(self, other: Place) -> bool:
        """Return whether another place is in the same bucket."""
        return (self.scheme, self.bucket) == (other.scheme, other.bucket)

    def below(self, name: str) -> str:
        """Return the key of a name inside this place; an empty name is the place itself."""
        return "/".join(part for part in (self.key, name) if part)

    def relative(self, key: str) -> str:
        """Return a key relative to this place."""
        return key[len(self.key) + 1 :] if self.key else key


def parse(address: str | os.PathLike[str]) -> Path | Place:
    """Return the place that an address names.

    Args:
        address: A path, a ``file://`` URL, or ``s3://BUCKET/PREFIX`` and the like.

    Raises:
        InputError: The scheme is unknown, the address carries credentials (which the message
            does not repeat), or a name in it is not valid.
    """
    address = _as_text(address)
    if "://" not in address:
        return Path(address)
    scheme, _, rest = address.partition("://")
    if scheme == "file":
        return Path(unquote(urlparse(address).path))
    if scheme not in CREDENTIALS:
        raise InputError(
            f"{scheme}:// begins no known kind of address; give a folder's path, "
            f"{', '.join(f'{name}://' for name in _KNOWN[1:-1])} or file://"
            f"{did_you_mean(scheme, _KNOWN[:-1])}"
        )
    bucket, _, key = rest.partition("/")
    if "@" in bucket or ":" in bucket or "?" in rest or "#" in rest:
        raise InputError(
            f"an address that begins with {scheme}:// contains a user, a port or a query (not "
            f"repeated here, as it may be a secret); give {scheme}://BUCKET/PREFIX alone, and "
            f"credentials in the environment: {CREDENTIALS[scheme]}"
        )
    if not bucket:
        raise InputError(f"{address}: names no bucket; give {scheme}://BUCKET/PREFIX")
    names = [name for name in key.split("/") if name]
    for name in names:
        _check_name(name, address)
    return Place(scheme, bucket, "/".join(names))


def expand(address: str | os.PathLike[str]) -> str:
    """Return an address as a user means it: a path with ``~``, ``$NAME`` or ``${NAME}`` replaced.

    Where a folder or file has a name that holds ``$``, it is meant. URLs stay as they are.

    Raises:
        InputError: It is no text, cannot be the name of a file, or a variable is unset or empty.
    """
    text = _as_text(address)
    if "://" in text:
        return text
    text = os.path.expanduser(text)
    if "$" not in text or _names_a_file(text):
        return text
    unset: list[str] = []

    def value(match: re.Match[str]) -> str:
        name = match.group(1) or match.group(2)
        folder = os.environ.get(name)
        if not folder:
            unset.append(name)
        return folder or match.group()

    replaced = os.path.expanduser(_VARIABLE.sub(value, text))
    if unset and not _names_a_file(replaced):
        raise InputError(
            f"{os.fspath(address)!r}: the environment variable {unset[0]} is not set; "
            f"export {unset[0]}=FOLDER, or write the path out"
        )
    return replaced


def _as_text(address: Any) -> str:
    """Return a path or URL as text; ``InputError`` for what cannot name a file."""
    text = os.fspath(address) if isinstance(address, str | os.PathLike) else None
    if not isinstance(text, str):
        raise InputError(f"{shown(address)} is no path or URL; give text")
    try:
        names = text.encode("utf-8").split(b"/")
    except UnicodeEncodeError:
        raise InputError(f"{shown(text)} is not in UTF-8; rename the file or folder") from None
    if "\0" in text or "\n" in text:
        raise InputError(f"{shown(text)} holds a zero byte or a line break; leave it out")
    longest = max(map(len, names))
    if longest > _LONGEST_NAME or len(text) > _LONGEST_PATH:
        raise InputError(
            f"{shown(text)} is too long for a path, with a name of {longest} bytes; a name may "
            f"have {_LONGEST_NAME}, a path {_LONGEST_PATH}: give a shorter one"
        )
    return text


def _names_a_file(path: str) -> bool:
    """Return whether the part of a path up to its last name with ``$`` exists."""
    behind = path.find("/", path.rfind("$"))
    return os.path.exists(path if behind < 0 else path[:behind])


def normal(address: str | os.PathLike[str]) -> str:
    """Return an address in its one spelling, expanded, a ``file://`` URL as its path.

    Raises:
        InputError: It is not a valid address, or carries credentials; they are not repeated.
    """
    return str(parse(expand(address)))


def local_path(address: str | os.PathLike[str]) -> Path | None:
    """Return the path of an address on this machine, or None for an object store."""
    place = parse(address)
    return place if isinstance(place, Path) else None


def join(address: str, *names: str) -> str:
    """Return the address of names, or of several joined by ``/``, inside a folder or prefix.

    Raises:
        InputError: A name is empty, absolute, or would lead out of the folder.
    """
    for given in names:
        for name in given.split("/"):
            _check_name(name, given)
    return "/".join([address.rstrip("/"), *names])


def _check_name(name: str, given: str) -> None:
    if name in ("", ".", "..") or "\\" in name or "\0" in name:
        raise InputError(
            f"{given!r} is not a valid name inside a folder: it contains an empty part, '.', "
            "'..', a backslash or NUL"
        )
