"""What a store says when it refuses, as one clear line without a secret in it."""

from __future__ import annotations

import errno
import os
import re
from urllib.parse import urlparse

from ntkdist.errors import InputError, NtkdistError, StoreError
from ntkdist.storage._addresses import CREDENTIALS, Place

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>\s*(\w+)\s*</Code>")
#: Sent with status codes that are otherwise final.
_PASSING_CODES = ("RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable")
_PASSING_STATUS = (408, 409, 425, 429)
_DENIED = (
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
)
_SECRETS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_CLIENT_SECRET",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
)
ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}


def write_error(error: OSError, address: str) -> NtkdistError:
    """Turn a failed write of a file into one clear line.

    Args:
        error: What the file system said.
        address: What was to be written.

    Returns:
        The error to raise: ``StoreError`` for a full disk, else ``InputError``.
    """
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"{address}: cannot be written ({reason}); free some space and resume")
    return InputError(f"{address}: cannot be written ({reason}); take a folder that can be")


def is_absence(error: Exception) -> bool:
    """Return whether an object is missing, and not its bucket."""
    return isinstance(error, FileNotFoundError) and _code(error) != "NoSuchBucket"


def is_passing(error: Exception) -> bool:
    """Return whether a request that failed so may succeed when it is sent again."""
    from obstore.exceptions import GenericError

    if not isinstance(error, GenericError):
        return False
    if _code(error) in _PASSING_CODES:
        return True
    text = _head(error)
    status = _STATUS.search(text)
    if status is not None:
        number = int(status[1])
        return number >= 500 or number in _PASSING_STATUS
    return "HTTP error" in text and "builder error" not in text


def refusal(error: Exception, place: Place, waited: float) -> NtkdistError:
    """Turn what an object store said into one clear line.

    Args:
        error: What obstore raised. Its own message is a dump of many lines, in which some
            services repeat the access key.
        place: What was asked for.
        waited: Seconds of retries.

    Returns:
        The error to raise: ``InputError`` for a bucket or credentials that are not there,
        else ``StoreError``.
    """
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    code = _code(error)
    status = _STATUS.search(_head(error))
    root = f"{place.scheme}://{place.bucket}"
    if code in ("NoSuchBucket", "ContainerNotFound"):
        return InputError(f"{root}: there is no such bucket{_at(place)}; create it first")
    denied = (PermissionDeniedError, UnauthenticatedError)
    if isinstance(error, denied) or code in _DENIED or (status and status[1] in ("401", "403")):
        why = code or (f"status {status[1]}" if status else "credentials")
        return InputError(
            f"{root}: access is refused{_at(place)} ({why}); check {CREDENTIALS[place.scheme]} "
            "in the environment"
        )
    if is_passing(error):
        return StoreError(
            f"{place}: no answer{_at(place)} after {waited:.0f} s of retries ({_reason(error)}); "
            "start again when it is back: what is stored is kept"
        )
    return StoreError(f"{place}: the store refused ({_reason(error)})")


def endpoint(scheme: str) -> str:
    """Return the service's URL if the environment names one, else an empty text."""
    return next((v for name in ENDPOINTS.get(scheme, ()) if (v := os.environ.get(name))), "")


def _at(place: Place) -> str:
    url = urlparse(endpoint(place.scheme))
    if not url.hostname:
        return ""
    return f" at {url.hostname}:{url.port}" if url.port else f" at {url.hostname}"


def _code(error: Exception) -> str:
    found = _CODE.search(_head(error))
    return found[1] if found else ""


def _head(error: Exception) -> str:
    return str(error).partition("\n\nDebug source")[0]


def _reason(error: Exception) -> str:
    line = _head(error).partition("<?xml")[0]
    line = " ".join(line.split()).rpartition(" - ")[2].rstrip(": ")
    code = _code(error)
    line = f"{line}: {code}" if code else line
    for name in _SECRETS:
        if secret := os.environ.get(name):
            line = line.replace(secret, "***")
    return line or type(error).__name__
