"""Object stores through obstore: one client per bucket and process, retries, and clear errors."""

from __future__ import annotations

import asyncio
import os
import random
import re
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlparse

from ntkdist.errors import InputError, NtkdistError, StoreError
from ntkdist.storage.addresses import CREDENTIALS, Place

if TYPE_CHECKING:
    from obstore.store import ObjectStore

T = TypeVar("T")

PATIENCE = "NTKDIST_STORE_PATIENCE"
_PATIENCE = 300.0
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 5.0
#: Larger objects are uploaded in parts.
MULTIPART_BYTES = 128 * 2**20
_LIST_CHUNK = 1000
_LISTERS = 16
# Timeouts of one request; a tile of 64 MB then needs 0.6 MB/s.
_CLIENT = {"connect_timeout": "5s", "read_timeout": "120s", "timeout": "600s"}
#: Each of these names a source of credentials; without any of them no request is sent.
SOURCES = {
    "s3": (
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_METADATA_ENDPOINT",
        "AWS_SKIP_SIGNATURE",
    ),
    "gs": (
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GCE_METADATA_HOST",
        "GOOGLE_SERVICE_ACCOUNT",
        "GOOGLE_SERVICE_ACCOUNT_PATH",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        "GOOGLE_SKIP_SIGNATURE",
    ),
    "az": ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_USE_EMULATOR"),
}
_SETTINGS = {
    "s3": (
        *SOURCES["s3"],
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
    ),
    "gs": SOURCES["gs"],
    "az": (*SOURCES["az"], "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN"),
}

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>\s*(\w+)\s*</Code>")
#: Transient, although their status codes are otherwise final.
_TRANSIENT_CODES = ("RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable")
_TRANSIENT_STATUS = (408, 409, 425, 429)
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

_stores: dict[tuple[Any, ...], ObjectStore] = {}
_lock = threading.Lock()
_used_by: int | None = None


def store_of(place: Place, *, retries: bool = True) -> ObjectStore:
    """Return the client of a bucket, created once per process and environment.

    Raises:
        InputError: The environment has no credentials.
        StoreError: This process was forked from one that has used an object store.
    """
    global _used_by
    scheme = place.scheme
    if scheme == "memory":
        key: tuple[Any, ...] = (scheme, place.bucket)
    else:
        settings = tuple(os.environ.get(name) for name in _SETTINGS[scheme])
        key = (scheme, place.bucket, retries, endpoint(scheme), settings)
    if _used_by not in (None, os.getpid()):
        raise StoreError(
            f"{place}: this process was forked from one that has used an object store, whose "
            "threads it lacks; start processes with the method 'spawn'"
        )
    with _lock:
        if key not in _stores:
            _stores[key] = _connect(place, retries)
            _used_by = os.getpid()
        return _stores[key]


def _connect(place: Place, retries: bool) -> ObjectStore:
    from obstore.store import AzureStore, GCSStore, MemoryStore, S3Store

    scheme = place.scheme
    if scheme == "memory":
        return MemoryStore()
    if not any(os.environ.get(name) for name in SOURCES[scheme]):
        raise InputError(
            f"{scheme}://{place.bucket}: no credentials in the environment; set "
            f"{CREDENTIALS[scheme]}"
        )
    # short: longer waits are in this module, where Python handles signals
    retry: Any = {
        "max_retries": 5 if retries else 0,
        "retry_timeout": timedelta(seconds=10),
        "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=1)},
    }
    client: Any = {**_CLIENT, "allow_http": endpoint(scheme).startswith("http://")}
    kinds: dict[str, Any] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
    problem: Exception
    try:
        return kinds[scheme](place.bucket, client_options=client, retry_config=retry)
    except Exception as error:
        problem = error
    raise request_error(problem, place, 0)


class _Retries:
    """Tracks how long a request has been failing, and how long to wait before the next attempt."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._since: float | None = None
        self._wait = _FIRST_WAIT

    def after(self, error: Exception) -> float:
        """Return the seconds to wait after a failure, or raise if a retry is useless."""
        now = time.monotonic()
        self._since = self._since or now
        waited = now - self._since
        if not is_transient(error) or waited >= patience():
            raise request_error(error, self._place, waited)
        wait = min(self._wait, max(0.0, patience() - waited))
        self._wait = min(2 * self._wait, _LONGEST_WAIT)
        return wait * random.uniform(0.75, 1.0)


def patience() -> float:
    """Return the seconds for which a failing request is retried."""
    given = os.environ.get(PATIENCE, "")
    try:
        return float(given or _PATIENCE)
    except ValueError:
        raise InputError(f"{PATIENCE}={given!r} is not a number of seconds") from None


def with_retries(place: Place, request: Callable[[], T]) -> T | None:
    """Send a request, and send it again while it fails for a transient reason.

    Raises:
        InputError: There is no such bucket, or the credentials are refused.
        StoreError: There was no answer for too long, or the request failed otherwise.
    """
    retries = _Retries(place)
    while True:
        try:
            return request()
        except NtkdistError:
            raise
        except Exception as error:
            problem = error
        # outside the handler: obstore's error, which may hold secrets, must not be the context
        if is_missing(problem):
            return None
        time.sleep(retries.after(problem))


async def with_retries_async(place: Place, request: Callable[[], Awaitable[T]]) -> T | None:
    """Do the same as :func:`with_retries` in an event loop."""
    retries = _Retries(place)
    while True:
        try:
            return await request()
        except NtkdistError:
            raise
        except Exception as error:
            problem = error
        if is_missing(problem):
            return None
        await asyncio.sleep(retries.after(problem))


def is_missing(error: Exception) -> bool:
    """Return whether an object, and not its bucket, is missing."""
    return isinstance(error, FileNotFoundError) and _code(error) != "NoSuchBucket"


def is_transient(error: Exception) -> bool:
    """Return whether a request with this error may succeed when it is sent again."""
    from obstore.exceptions import GenericError

    if not isinstance(error, GenericError):
        return False
    if _code(error) in _TRANSIENT_CODES:
        return True
    text = _head(error)
    status = _STATUS.search(text)
    if status is not None:
        number = int(status[1])
        return number >= 500 or number in _TRANSIENT_STATUS
    return "HTTP error" in text and "builder error" not in text


def request_error(error: Exception, place: Place, waited: float) -> NtkdistError:
    """Return the one-line error for a failed request."""
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
    if is_transient(error):
        return StoreError(
            f"{place}: no answer{_at(place)} after {waited:.0f} s of retries ({_reason(error)}); "
            "start again when the server can be reached: what is stored is kept"
        )
    return StoreError(f"{place}: the request failed ({_reason(error)})")


def endpoint(scheme: str) -> str:
    """Return the service's URL from the environment, or an empty text."""
    return next((v for name in ENDPOINTS.get(scheme, ()) if (v := os.environ.get(name))), "")


def _at(place: Place) -> str:
    url = urlparse(endpoint(place.scheme))
    if not url.hostname:
        return ""
    return f" at {url.hostname}:{url.port}" if url.port else f" at {url.hostname}"


def _code(error: Exception) -> str:
    match = _CODE.search(_head(error))
    return match[1] if match else ""


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


def read(place: Place) -> bytes | None:
    """Return an object; None if it does not exist."""
    answer = read_versioned(place)
    return None if answer is None else answer[0]


def read_versioned(place: Place) -> tuple[bytes, str] | None:
    """Return an object and its entity tag; None if it does not exist."""
    import obstore

    def request() -> tuple[bytes, str]:
        answer = obstore.get(store_of(place), place.key)
        tag = answer.meta["e_tag"] or ""
        return bytes(answer.bytes()), tag

    return with_retries(place, request)


def write(place: Place, content: bytes) -> None:
    """Store an object; readers see it whole or not at all."""
    import obstore

    multipart = len(content) > MULTIPART_BYTES
    with_retries(
        place, lambda: obstore.put(store_of(place), place.key, content, use_multipart=multipart)
    )


def copy(source: Place, target: Place) -> bool:
    """Copy an object within its bucket, on the server; return False if it does not exist."""
    import obstore

    def request() -> bool:
        obstore.copy(store_of(source), source.key, target.key)
        return True

    return bool(with_retries(source, request))


def create(place: Place, content: bytes) -> bool:
    """Store an object only if there is none; return whether it was stored."""
    return _write_if(place, content, "create")


def replace(place: Place, content: bytes, version: str) -> bool:
    """Store an object only if it still has this version; return whether it was stored."""
    return _write_if(place, content, {"e_tag": version})


def _write_if(place: Place, content: bytes, mode: Any) -> bool:
    """Store an object under a condition, and return whether it was stored.

    A request whose answer was lost is sent again. If it then fails the condition, the first
    request may have been the reason, so the stored content decides.
    """
    import obstore
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    lost = False

    def request() -> bool:
        nonlocal lost
        store = store_of(place, retries=False)
        try:
            obstore.put(store, place.key, content, mode=mode, use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            return lost and read(place) == content
        except Exception:
            lost = True
            raise
        return True

    return bool(with_retries(place, request))


def remove(place: Place) -> None:
    """Delete an object if it exists."""
    import obstore

    with_retries(place, lambda: obstore.delete(store_of(place), place.key))


def remove_all(place: Place) -> None:
    """Delete every object below a place."""
    import obstore

    def request() -> None:
        store = store_of(place)
        for chunk in obstore.list(store, place.key or None, chunk_size=_LIST_CHUNK):
            obstore.delete(store, [meta["path"] for meta in chunk])

    with_retries(place, request)


def exists(place: Place) -> bool:
    """Return whether an object exists."""
    import obstore

    return with_retries(place, lambda: obstore.head(store_of(place), place.key)) is not None


def walk(place: Place) -> list[str]:
    """List the objects below a place that hold at least one byte, by relative key.

    A server returns pages of 1,000, one after the other. If there is more than one page, the
    folders directly below are therefore listed in parallel.
    """
    import obstore

    def request() -> tuple[list[str], bool]:
        listing = obstore.list(store_of(place), place.key or None, chunk_size=_LIST_CHUNK)
        first = next(listing, [])
        return [place.relative(m["path"]) for m in first if m["size"]], len(first) < _LIST_CHUNK

    names, complete = with_retries(place, request) or ([], True)
    return names if complete else _walk_folders(place)


def _walk_folders(place: Place) -> list[str]:
    import obstore

    def request() -> tuple[list[str], list[str]]:
        listing = obstore.list_with_delimiter(store_of(place), place.key or None)
        names = [place.relative(m["path"]) for m in listing["objects"] if m["size"]]
        return names, list(listing["common_prefixes"])

    def below(folder: str) -> list[str]:
        def request() -> list[str]:
            listing = obstore.list(store_of(place), folder, chunk_size=_LIST_CHUNK)
            return [place.relative(m["path"]) for chunk in listing for m in chunk if m["size"]]

        return with_retries(place, request) or []

    names, folders = with_retries(place, request) or ([], [])
    with ThreadPoolExecutor(_LISTERS) as pool:
        for more in pool.map(below, folders):
            names += more
    return names


def children(place: Place) -> list[str]:
    """Return the names directly below a place."""
    import obstore

    def request() -> list[str]:
        listing = obstore.list_with_delimiter(store_of(place), place.key or None)
        keys = [*listing["common_prefixes"], *(m["path"] for m in listing["objects"])]
        return [place.relative(key) for key in keys]

    return with_retries(place, request) or []
