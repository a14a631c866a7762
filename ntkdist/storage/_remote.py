"""Object stores through obstore: one client a bucket and process, and retries that outlast a
server's restart.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from ntkdist.errors import InputError, NtkdistError, StoreError
from ntkdist.storage._addresses import CREDENTIALS, Place
from ntkdist.storage._refusals import endpoint, is_absence, is_passing, refusal

if TYPE_CHECKING:
    from obstore.store import ObjectStore

T = TypeVar("T")

PATIENCE = "NTKDIST_STORE_PATIENCE"
_PATIENCE = 300.0
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 5.0
#: Above this an object goes up in parts.
MULTIPART_BYTES = 128 * 2**20
_LIST_CHUNK = 1000
_LISTERS = 16
# A request must end within these. A tile of 64 MB then needs 0.6 MB/s.
_CLIENT = {"connect_timeout": "5s", "read_timeout": "120s", "timeout": "600s"}
#: Any of these says where credentials come from; without one nothing is asked over the network.
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

_stores: dict[tuple[Any, ...], ObjectStore] = {}
_lock = threading.Lock()
_used_by: int | None = None


def store_of(place: Place, *, retries: bool = True) -> ObjectStore:
    """Return the client of a bucket, made once a process and environment.

    Args:
        place: A place in the bucket.
        retries: Whether a request that failed is sent again unseen.

    Returns:
        The obstore client. It holds credentials: never keep or send it.

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
    # short, and the rest is waited for here, where a signal is heard
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
    raise refusal(problem, place, 0)


class _Patience:
    """How long one request has been failing, and how long to wait before it is sent again."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._since: float | None = None
        self._wait = _FIRST_WAIT

    def after(self, error: Exception) -> float:
        """Return the seconds to wait after a failure, or raise if there is no point in it."""
        now = time.monotonic()
        self._since = self._since or now
        waited = now - self._since
        if not is_passing(error) or waited >= patience():
            raise refusal(error, self._place, waited)
        wait = min(self._wait, max(0.0, patience() - waited))
        self._wait = min(2 * self._wait, _LONGEST_WAIT)
        return wait * random.uniform(0.75, 1.0)


def patience() -> float:
    """Return for how many seconds a request that fails is sent again."""
    given = os.environ.get(PATIENCE, "")
    try:
        return float(given or _PATIENCE)
    except ValueError:
        raise InputError(f"{PATIENCE}={given!r} is no number of seconds") from None


def patiently(place: Place, request: Callable[[], T]) -> T | None:
    """Send a request until it is answered.

    Args:
        place: What it is about, for messages.
        request: Sends it; it may be called several times.

    Returns:
        Its answer; None if the object is not there.

    Raises:
        InputError: There is no such bucket, or the credentials are refused.
        StoreError: There was no answer for too long, or another refusal.
    """
    waiting = _Patience(place)
    while True:
        try:
            return request()
        except NtkdistError:
            raise
        except Exception as error:
            problem = error
        # outside the handler, so that nothing of obstore's hangs on what is raised
        if is_absence(problem):
            return None
        time.sleep(waiting.after(problem))


async def patiently_async(place: Place, request: Callable[[], Awaitable[T]]) -> T | None:
    """Do like :func:`patiently` in an event loop."""
    waiting = _Patience(place)
    while True:
        try:
            return await request()
        except NtkdistError:
            raise
        except Exception as error:
            problem = error
        if is_absence(problem):
            return None
        await asyncio.sleep(waiting.after(problem))


def read(place: Place) -> tuple[bytes, str] | None:
    """Return an object and its entity tag; None if it is not there."""
    import obstore

    def request() -> tuple[bytes, str]:
        answer = obstore.get(store_of(place), place.key)
        tag = answer.meta["e_tag"] or ""
        return bytes(answer.bytes()), tag

    return patiently(place, request)


def write(place: Place, content: bytes) -> None:
    """Store an object; readers see it whole or not at all."""
    import obstore

    multipart = len(content) > MULTIPART_BYTES
    patiently(
        place, lambda: obstore.put(store_of(place), place.key, content, use_multipart=multipart)
    )


def copy(source: Place, target: Place) -> bool:
    """Copy an object within its bucket, on the server; False if it is not there."""
    import obstore

    def request() -> bool:
        obstore.copy(store_of(source), source.key, target.key)
        return True

    return bool(patiently(source, request))


def write_if(place: Place, content: bytes, mode: Any) -> bool:
    """Store an object under a condition, and return whether it held.

    A request whose answer was lost is sent again; that it is refused then may be its own doing,
    so what is there decides.
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
            there = read(place) if lost else None
            return there is not None and there[0] == content
        except Exception:
            lost = True
            raise
        return True

    return bool(patiently(place, request))


def remove(place: Place) -> None:
    """Delete an object; its absence is fine."""
    import obstore

    patiently(place, lambda: obstore.delete(store_of(place), place.key))


def remove_all(place: Place) -> None:
    """Delete every object below a place."""
    import obstore

    def request() -> None:
        store = store_of(place)
        for chunk in obstore.list(store, place.key or None, chunk_size=_LIST_CHUNK):
            obstore.delete(store, [meta["path"] for meta in chunk])

    patiently(place, request)


def exists(place: Place) -> bool:
    """Return whether an object is there."""
    import obstore

    return patiently(place, lambda: obstore.head(store_of(place), place.key)) is not None


def walk(place: Place) -> list[str]:
    """List the objects below a place that hold at least one byte, by relative key.

    A server answers with a page of 1,000 at a time, each after the one before. Beyond the first
    page the folders right below are therefore listed side by side.
    """
    import obstore

    def request() -> tuple[list[str], bool]:
        listing = obstore.list(store_of(place), place.key or None, chunk_size=_LIST_CHUNK)
        first = next(listing, [])
        return [place.relative(m["path"]) for m in first if m["size"]], len(first) < _LIST_CHUNK

    names, complete = patiently(place, request) or ([], True)
    return names if complete else _walk_folders(place)


def _walk_folders(place: Place) -> list[str]:
    import obstore

    def request() -> tuple[list[str], list[str]]:
        found = obstore.list_with_delimiter(store_of(place), place.key or None)
        names = [place.relative(m["path"]) for m in found["objects"] if m["size"]]
        return names, list(found["common_prefixes"])

    def below(folder: str) -> list[str]:
        def request() -> list[str]:
            listing = obstore.list(store_of(place), folder, chunk_size=_LIST_CHUNK)
            return [place.relative(m["path"]) for chunk in listing for m in chunk if m["size"]]

        return patiently(place, request) or []

    names, folders = patiently(place, request) or ([], [])
    with ThreadPoolExecutor(_LISTERS) as pool:
        for more in pool.map(below, folders):
            names += more
    return names


def children(place: Place) -> list[str]:
    """Return the names right below a place."""
    import obstore

    def request() -> list[str]:
        found = obstore.list_with_delimiter(store_of(place), place.key or None)
        keys = [*found["common_prefixes"], *(m["path"] for m in found["objects"])]
        return [place.relative(key) for key in keys]

    return patiently(place, request) or []
