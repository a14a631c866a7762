"""Compiled kernels kept on disk; without a GPU they are compiled for one, and never launched."""

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("numba_cuda")

import numba.cuda
from numba import types

from ntkdist.kernels.cuda import compile as cache
from ntkdist.kernels.cuda.device import _report
from tests.driverless import Driver

SMALL, WIDE = types.Array(types.float32, 1, "C"), types.Array(types.float64, 1, "C")


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """A stand-in for the driver, and an empty folder for kernels."""
    monkeypatch.setattr("numba.cuda.core.config.CACHE_DIR", str(tmp_path))
    forget_folder = cache.kernel_folder.cache_clear
    forget_folder()
    yield Driver(monkeypatch)
    forget_folder()


def made(text="x[0] = one + other(x[0])", one=1.0, other="return 2 * value", **options):
    """Return a new kernel from generated text, with a constant and a device function bound."""
    scope = {"one": one}
    exec(f"def other(value):\n    {other}\ndef _fill(x):\n    {text}\n", scope)
    scope["other"] = numba.cuda.jit(scope["other"], device=True)
    options = numba.cuda.jit(scope["_fill"], **options).targetoptions
    return cache.KeptKernel(scope["_fill"], options)


def files():
    return sorted(path.name for path in cache.kernel_folder().iterdir())


def test_a_kept_kernel_is_loaded_without_typing_or_compiling(driver):
    first, second = made(), made()
    first.compile((SMALL,))
    assert driver.compiled
    second.compile((SMALL,))
    assert not driver.compiled
    assert (second.stats.cache_hits[(SMALL,)], second.stats.cache_misses[(SMALL,)]) == (1, 0)
    report = _report("fill", "an element", 128, second)
    assert (report.registers, report.local, report.shared, report.blocks) == (64, 8, 1024, 8)
    assert driver.loaded[0] == driver.loaded[1]
    assert driver.loaded[0].startswith(b"\x7fELF")
    assert not driver.compiled
    assert len(files()) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"text": "x[0] = one - other(x[0])"},
        {"one": 2.0},
        {"one": 1},
        {"other": "return 3 * value"},
        {"max_registers": 32},
        {"fastmath": True},
    ],
    ids=str,
)
def test_another_kernel_is_compiled(driver, other):
    made().compile((SMALL,))
    assert driver.compiled
    made(**other).compile((SMALL,))
    assert driver.compiled
    made(**other).compile((SMALL,))
    made().compile((SMALL,))
    assert not driver.compiled
    assert len(files()) == 2


def test_another_limit_of_registers_reaches_the_linker(driver):
    made(max_registers=32).compile((SMALL,))
    loaded = made(max_registers=32)
    loaded.compile((SMALL,))
    assert loaded.overloads[(SMALL,)].library._max_registers == 32


def test_other_types_and_another_kind_of_gpu_are_compiled(driver):
    made().compile((SMALL,))
    assert driver.compiled
    made().compile((WIDE,))
    assert driver.compiled
    driver.capability = (8, 0)
    made().compile((SMALL,))
    assert driver.compiled
    driver.capability = (9, 0)
    made().compile((SMALL,))
    assert not driver.compiled
    assert len(files()) == 3


@pytest.mark.parametrize("changed", ["sources_digest", "_toolchain"])
def test_other_sources_and_compilers_compile_again(driver, monkeypatch, changed):
    made().compile((SMALL,))
    assert driver.compiled
    monkeypatch.setattr(cache, changed, lambda: "another version")
    made().compile((SMALL,))
    assert driver.compiled


def test_files_of_other_sources_are_removed(driver, monkeypatch):
    made().compile((SMALL,))
    (stale,) = files()
    monkeypatch.setattr(cache, "sources_digest", lambda: "another version of the sources")
    made().compile((SMALL,))
    (kept,) = files()
    assert kept != stale


def test_the_files_unused_for_longest_are_removed_beyond_the_limit(driver, monkeypatch):
    made().compile((SMALL,))
    (name,) = files()
    old = cache.kernel_folder() / name
    made(one=2.0).compile((SMALL,))
    (unused,) = set(files()) - {name}
    os.utime(cache.kernel_folder() / unused, (1, 1))
    os.utime(old, (0, 0))
    made().compile((SMALL,))  # used again
    monkeypatch.setattr(cache, "MOST_BYTES", 5 * old.stat().st_size // 2)
    made(one=3.0).compile((SMALL,))
    assert name in files()
    assert unused not in files()
    assert len(files()) == 2


@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: content[:-9], lambda content: content[:-1] + b"?"],
    ids=["empty", "half", "one byte"],
)
def test_a_damaged_file_is_written_anew(driver, damage):
    made().compile((SMALL,))
    assert driver.compiled
    (path,) = cache.kernel_folder().iterdir()
    path.write_bytes(damage(path.read_bytes()))
    made().compile((SMALL,))
    assert driver.compiled
    made().compile((SMALL,))
    assert not driver.compiled


@pytest.mark.parametrize("writable", [False, None])
def test_a_kernel_compiles_where_no_file_can_be_written(driver, monkeypatch, tmp_path, writable):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "folder" if writable is False else None
    monkeypatch.setattr(cache, "kernel_folder", lambda: folder)
    for _ in range(2):
        kernel = made()
        kernel.compile((SMALL,))
        assert driver.compiled
        assert kernel.get_regs_per_thread() == {(SMALL,): 64}


def test_numbas_rules_say_where_kernels_are_kept(driver, monkeypatch, tmp_path):
    assert cache.kernel_folder().parent == tmp_path
    for rules, place in (([], None), (cache.CacheImpl._locator_classes[1:], "__pycache__")):
        cache.kernel_folder.cache_clear()
        monkeypatch.setattr(cache.CacheImpl, "_locator_classes", rules)
        folder = cache.kernel_folder()
        assert (folder and folder.name) == place


def test_a_value_without_a_text_is_refused(driver):
    with pytest.raises(TypeError, match=r"a kernel reads object <object object at 0x"):
        made(one=object()).compile((SMALL,))


@pytest.fixture
def locked(driver):
    """The lock of a kernel that another process compiles; its file, not yet written."""
    path = made()._cache.path((SMALL,))
    with open(path.with_suffix(".kernel.lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path, lock


def test_a_process_waits_for_another_that_compiles_the_same(driver, locked, monkeypatch):
    path, lock = locked
    with monkeypatch.context() as patch:
        patch.setattr(cache, "MOST_SECONDS", 0.0)
        made().compile((SMALL,))  # what the other process writes
    assert driver.compiled
    content = path.read_bytes()
    path.unlink()
    waiting = made()
    thread = threading.Thread(target=waiting.compile, args=((SMALL,),))
    thread.start()
    time.sleep(3 * cache._POLL_SECONDS)
    assert thread.is_alive()
    path.write_bytes(content)
    fcntl.flock(lock, fcntl.LOCK_UN)
    thread.join(30)
    assert waiting.stats.cache_hits[(SMALL,)] == 1
    assert not driver.compiled
    assert files() == [path.name]


def test_a_process_that_waits_too_long_compiles(driver, locked, monkeypatch):
    path, _ = locked
    monkeypatch.setattr(cache, "MOST_SECONDS", 2 * cache._POLL_SECONDS)
    started = time.monotonic()
    made().compile((SMALL,))
    assert time.monotonic() - started >= cache.MOST_SECONDS
    assert driver.compiled
    assert path.exists()


def test_a_lock_is_released_where_compiling_fails(driver):
    with pytest.raises(numba.cuda.core.errors.TypingError):
        made("x.y = 1").compile((SMALL,))
    assert files() == []


def run(code, folder, **environment):
    """Run code in a process that keeps kernels in a folder; return what it prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder), **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_of_processes_that_start_at_once_one_compiles(tmp_path):
    code = "from tests.driverless import compile_pool; compile_pool()"
    with ThreadPoolExecutor() as pool:
        at_once = sorted(pool.map(lambda _: run(code, tmp_path), range(3)))
    assert at_once[:2] == [[0, 0, 64]] * 2
    typed, translated, registers = at_once[2]
    assert (typed > 0, translated > 0, registers) == (True, True, 64)
    (folder,) = tmp_path.iterdir()
    (kept,) = folder.iterdir()
    assert kept.name.startswith("pool-")
    for seed in "12":
        assert run(code, tmp_path, PYTHONHASHSEED=seed) == [0, 0, 64]


@pytest.mark.slow
def test_every_kernel_has_a_key_that_is_the_same_in_every_process(tmp_path):
    code = "from tests.driverless import describe_kernels; describe_kernels()"
    keys = run(code, tmp_path, PYTHONHASHSEED="1")
    apart, _ = keys
    assert len(apart) > 20
    assert len(set(apart)) == len(apart)
    assert run(code, tmp_path, PYTHONHASHSEED="2") == keys


@pytest.mark.gpu
def test_a_second_process_computes_the_same_bits_with_kept_kernels(tmp_path):
    code = """
import hashlib, json
import numpy as np
from numba.cuda import dispatcher
from numba.cuda.cudadrv import nvvm
from ntkdist import kernel_matrix
from ntkdist.kernels.cuda.device import kernel_reports

compiled = []
for module, name in ((dispatcher, "compile_cuda"), (nvvm, "compile_ir")):
    function = getattr(module, name)
    counted = lambda *args, f=function, **options: (compiled.append(f), f(*args, **options))[1]
    setattr(module, name, counted)
images = np.random.default_rng(0).normal(size=(4, 8, 8, 3))
digest = hashlib.sha256()
for arch in ("cntk-gap-4", "cnn-3", "fc-3", ["Conv", "Gelu", "AvgPool(2)", "Flatten", "Dense"]):
    digest.update(kernel_matrix(arch, images, backend="cuda").tobytes())
reports = [str(report) for report in kernel_reports("cnn-3", (8, 8, 3))]
print(json.dumps([len(compiled), digest.hexdigest(), reports]))
"""
    first, second = run(code, tmp_path), run(code, tmp_path)
    assert first[0] > 0
    assert second == [0, *first[1:]]
