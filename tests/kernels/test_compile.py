import subprocess
import sys

from ntkdist.kernels import _compile

BLOCK = """
import time
import numpy as np
started = time.perf_counter()
from ntkdist import Architecture
from ntkdist.kernels import get_backend
backend = get_backend("cpu")
state = backend.prepare(Architecture.parse("cntk-gap-4"), np.ones((2, 3, 3, 1)))
backend.block(state, state)
from ntkdist.kernels._cpu_loops import entries
hits = sum(entries.stats.cache_hits.values())
misses = sum(entries.stats.cache_misses.values())
print(hits, misses, time.perf_counter() - started)
"""


def run() -> list[str]:
    done = subprocess.run([sys.executable, "-c", BLOCK], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_second_process_does_not_compile():
    run()
    hits, misses, _ = run()
    assert (hits, misses) == ("1", "0")


def test_a_change_in_any_source_is_seen(monkeypatch):
    from ntkdist.kernels._cpu_loops import entries

    def key():
        return entries._cache._index_key((), entries.targetctx.codegen())

    before = key()
    assert key() == before
    monkeypatch.setattr(_compile, "sources_digest", lambda: "another version")
    assert key() != before


def test_every_compiled_source_counts():
    from pathlib import Path

    folder = Path(_compile.__file__).parent
    compiled = {
        path.name
        for path in folder.glob("*.py")
        if "import numba" in path.read_text() or "import compiled" in path.read_text()
    }
    assert compiled | {"duals.py", "_compile.py"} <= set(_compile._SOURCES) | {"_compile.py"}
    assert all((folder / name).exists() for name in _compile._SOURCES)
