"""Compiled functions kept on disk for the next process, as long as no source changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache


def sources() -> list[Path]:
    """Return every source file of ``ntkdist.kernels``; compiled code depends on some of them."""
    return sorted(Path(__file__).parents[1].rglob("*.py"))


@lru_cache(maxsize=1)
def sources_digest() -> str:
    """Return the SHA-256 digest of ``sources`` as they were when first asked."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _Cache(FunctionCache):
    """Numba's cache on disk, which by itself only sees changes of the function's own file."""

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), sources_digest())


def compiled(function: Callable[..., Any]) -> Any:
    """Compile without the interpreter's lock, once per machine and version of the sources."""
    sources_digest()  # now: later the files might be newer than what was imported
    dispatcher: Any = numba.njit(nogil=True)(function)
    dispatcher._cache = _Cache(function)
    return dispatcher
