from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ntkdist.errors import InputError
from ntkdist.gram import autotile
from ntkdist.gram.autotile import choose_edge
from ntkdist.gram.tiling import Tiling
from ntkdist.networks.architecture import Architecture
from tests.gram.fakes import FakeBackend, random_images

ARCH = Architecture.parse("cntk-gap-4")


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A backend of a known rate, on a clock that its blocks move."""

    def make(rate: float) -> FakeBackend:
        now = [0.0]
        backend = FakeBackend()
        block = backend.block

        def timed(a: Any, b: Any, kinds: Any = ("ntk",)) -> Any:
            now[0] += len(a) * len(b) / rate
            return block(a, b, kinds)

        backend.block = timed  # type: ignore[method-assign]
        monkeypatch.setattr(autotile.time, "perf_counter", lambda: now[0])
        return backend

    return make


@pytest.mark.parametrize("rate", [300.0, 20_000.0])
def test_large_matrix_gets_tiles_of_5_to_30_seconds(clocked: Any, rate: float) -> None:
    choice = choose_edge(clocked(rate), ARCH, random_images(300), 50_000, memory=2**30, workers=2)
    assert choice.entries_per_second == pytest.approx(rate)
    assert 5 <= choice.seconds_per_tile <= 30
    assert choice.edge**2 / rate == pytest.approx(choice.seconds_per_tile)
    assert choice.edge % 16 == 0
    assert "5 to 30 s" in choice.reason


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("n_cols", [None, 700])
def test_small_matrix_keeps_every_worker_busy(
    clocked: Any, workers: int, n_cols: int | None
) -> None:
    choice = choose_edge(
        clocked(1e6), ARCH, random_images(64), 600, memory=2**30, workers=workers, n_cols=n_cols
    )
    assert Tiling(600, choice.edge, n_cols).count >= 4 * workers
    assert "tiles for each" in choice.reason


def test_memory_bounds_the_tile(clocked: Any) -> None:
    images = random_images(64)
    backend = clocked(1e6)
    choice = choose_edge(backend, ARCH, images, 10**6, memory=2**22, workers=2)
    state = 16 * 8 * choice.edge  # FakeBackend keeps 16 doubles an image
    assert 2 * state + 3 * 4 * choice.edge**2 <= 2**22
    assert choice.edge > 400
    assert "4 MiB a worker" in choice.reason
    with pytest.raises(InputError, match="raise the memory budget"):
        choose_edge(backend, ARCH, images, 10**6, memory=100)


def test_compilation_is_not_measured(clocked: Any) -> None:
    backend = clocked(1000.0)
    calls = []
    block = backend.block

    def compiling(a: Any, b: Any, kinds: Any = ("ntk",)) -> Any:
        calls.append(len(a))
        if len(calls) == 1:
            block(np.zeros((100, 16)), np.zeros((100, 16)))  # ten seconds
        return block(a, b, kinds)

    backend.block = compiling
    choice = choose_edge(backend, ARCH, random_images(64), 5000, memory=2**30)
    assert choice.entries_per_second == pytest.approx(1000.0)


@pytest.mark.parametrize("n", [2, 3, 17])
def test_tiny_matrix_is_possible(clocked: Any, n: int) -> None:
    choice = choose_edge(clocked(1e6), ARCH, random_images(n), n, memory=2**30, workers=2)
    assert 1 <= choice.edge <= max(16, n)


def test_one_image_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2"):
        choose_edge(FakeBackend(), ARCH, random_images(1), 1, memory=2**30)
