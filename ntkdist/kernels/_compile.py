"""Compiled functions kept on disk for the next process, as long as no source changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache

_SOURCES = (
    "duals.py",
    "_compile.py",
    "_vector.py",
    "_cpu_cells.py",
    "_cpu_sweeps.py",
    "_cpu_pools.py",
    "_cpu_loops.py",
    "_cpu_dense.py",
    "_cpu_finish.py",
)


@lru_cache(maxsize=1)
def sources_digest() -> str:
    """Return a digest of everything that goes into the compiled loops, as it was first asked."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()


class _Cache(FunctionCache):
    """Numba's cache on disk looks at one file alone; these functions call others' code."""

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), sources_digest())


def compiled(function: Callable[..., Any]) -> Any:
    """Compile without the interpreter's lock, once per machine and version of the sources."""
    sources_digest()  # now: later the files might be newer than what was imported
    dispatcher = numba.njit(nogil=True)(function)
    dispatcher._cache = _Cache(function)
    return dispatcher
