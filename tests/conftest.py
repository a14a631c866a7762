"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run, and no failure because a machine is busy.
# HYPOTHESIS_PROFILE=default looks for new ones.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# Before anything imports ray: local clusters otherwise ask for a token file.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# No workers in advance: where a cluster is joined, actors ask for an environment of their own.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# XLA compiles most of the time: networks that are run once need not be fast
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

#: Files that take minutes begin first, so that none of them is left alone at the end.
LONGEST = (
    "kernels/test_cuda.py",
    "kernels/test_cuda_pools.py",
    "deploy/test_slurm.py",
    "faults/test_nodes.py",
    "faults/test_kills.py",
    "faults/test_soak.py",
)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with mnist.npz, fashion_mnist.npz, cifar10.npz and cifar100.npz."""
    folder = os.environ.get("NTKDIST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("NTKDIST_DATA does not name a folder with the image sets")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def _draw_figures() -> Iterator[Callable[..., dict[str, str]]]:
    """Reports without figures: drawing takes longer than all else of a small run."""
    from ntkdist.report.page import draw_figures

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ntkdist.report.page.draw_figures", lambda *_: {})
        yield draw_figures


@pytest.fixture(scope="module")
def figures(_draw_figures: Callable[..., dict[str, str]]) -> Iterator[None]:
    """A module whose reports have figures, except in tests that are ``undrawn``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ntkdist.report.page.draw_figures", _draw_figures)
        yield


@pytest.fixture(scope="module")
def gpu() -> Iterator[None]:
    """The cuda backend can be taken: on a GPU, or on a simulated one in its place."""
    from ntkdist.kernels import registry
    from tests.kernels import COMPILES, SIMULATED

    if not COMPILES:
        pytest.skip("numba-cuda is not installed; pip install -r deploy/constraints-cuda.txt")
    with pytest.MonkeyPatch.context() as patch:
        if SIMULATED:
            patch.setattr(registry, "cuda_unavailable", lambda: None)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ntkdist.report.page.draw_figures", lambda *_: {})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Begin with the longest files; one case of slow tests stays quick; skip what needs a GPU."""
    for item in items:
        for mark in [mark for mark in item.own_markers if mark.name == "slow"]:
            if "but" in mark.kwargs and item.callspec.id == mark.kwargs["but"]:
                item.own_markers.remove(mark)
    here = Path(__file__).parent
    places = {here / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    if Path("/dev/nvidiactl").exists():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
