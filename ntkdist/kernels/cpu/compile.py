"""Compiled functions kept on disk for the next process, as long as no source changes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numba
from numba.core.caching import FunctionCache

from ntkdist.kernels.sources import sources_digest


class _Cache(FunctionCache):
    """Numba's cache on disk, which by itself only sees changes of the function's own file."""

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), sources_digest())


def compiled(function: Callable[..., Any]) -> Any:
    """Compile without the interpreter's lock, once per machine and version of the sources."""
    sources_digest()  # now: later the files might be newer than what was imported
    dispatcher: Any = numba.njit(nogil=True)(function)
    with suppress(RuntimeError):  # no folder can be written: every process compiles
        dispatcher._cache = _Cache(function)
    return dispatcher
