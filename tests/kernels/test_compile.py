import subprocess
import sys
from pathlib import Path

import pytest

from ntkdist.kernels import sources
from ntkdist.kernels.cpu import compile as cache

BLOCK = """
import time
import numpy as np
started = time.perf_counter()
from ntkdist import Architecture
from ntkdist.kernels import get_backend
backend = get_backend("cpu")
state = backend.prepare(Architecture.parse("cntk-gap-4"), np.ones((2, 3, 3, 1)))
backend.block(state, state)
from ntkdist.kernels.cpu.loops import entries
hits = sum(entries.stats.cache_hits.values())
misses = sum(entries.stats.cache_misses.values())
print(hits, misses, time.perf_counter() - started)
"""


def run() -> list[str]:
    done = subprocess.run([sys.executable, "-c", BLOCK], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.slow
def test_a_second_process_does_not_compile():
    run()
    hits, misses, _ = run()
    assert (hits, misses) == ("1", "0")


def test_a_change_in_any_source_is_seen(monkeypatch):
    from ntkdist.kernels.cpu.loops import entries

    def key():
        return entries._cache._index_key((), entries.targetctx.codegen())

    before = key()
    assert key() == before
    monkeypatch.setattr(cache, "sources_digest", lambda: "another version")
    assert key() != before


def test_functions_compile_where_no_folder_can_be_written(monkeypatch):
    from numba.core.caching import CompileResultCacheImpl

    monkeypatch.setattr(CompileResultCacheImpl, "_locator_classes", [])
    twice = cache.compiled(lambda x: 2 * x)
    assert twice(3) == 6


def test_every_source_that_compiled_code_is_made_of_counts():
    digested = {path.resolve() for path in sources.sources()}
    from ntkdist.kernels import chain, duals
    from ntkdist.kernels.cpu import backend, cells, dense, loops, vector

    for module in (cache, duals, chain, backend, cells, dense, loops, vector):
        assert Path(module.__file__).resolve() in digested
