"""One backend computes a matrix; matrices of several backends, of earlier versions, are read."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkdist import kernel_matrix
from ntkdist.analyses.status import read_status
from ntkdist.api import execute
from ntkdist.config import DataConfig, GramConfig, RunConfig
from ntkdist.errors import InputError, StageError
from ntkdist.events.types import TileStarted
from ntkdist.gram.compute import compute_gram
from ntkdist.gram.executors.inline import InlineExecutor
from ntkdist.gram.executors.ray import RayExecutor
from ntkdist.gram.store import GramStore
from ntkdist.kernels.registry import arithmetic_of, get_backend, of_version
from ntkdist.networks.architecture import Architecture
from ntkdist.pipeline import Pipeline
from ntkdist.pipeline.verify import verify_run
from ntkdist.runs.run import Run
from tests.gram.fakes import FakeBackend, fake_executor, make_job, random_images
from tests.status_text import describe

DEEP = str(Architecture.parse("cntk-gap-11"))


class Interrupting:
    """Stops a job behind the first tile."""

    def __init__(self) -> None:
        import threading

        self.stop = threading.Event()

    def __call__(self, event: object) -> None:
        if isinstance(event, TileStarted):
            self.stop.set()


def begun(folder: Path):
    """Return a job of six tiles of which one is computed, by "fake 1"."""
    job, tiling = make_job(folder, random_images(30), 10)
    halt = Interrupting()
    with pytest.raises(Exception, match="still missing"):
        compute_gram(
            job, fake_executor(FakeBackend()), tiling=tiling, on_event=halt, stop=halt.stop
        )
    return job, tiling, GramStore.open(job.outputs[0][1])


def test_another_arithmetic_is_refused(tmp_path):
    job, tiling, store = begun(tmp_path)
    other = dataclasses.replace(job, arithmetic="other 2")
    with pytest.raises(
        InputError, match=r"are fake 1, this job is other 2; use the backend of the stored tiles"
    ):
        compute_gram(other, fake_executor(FakeBackend(arithmetic="other 2")), tiling=tiling)
    assert len(store.done()) == 1


def test_a_job_of_bits_that_have_changed_since_is_refused(tmp_path):
    """Erf networks are computed otherwise than in earlier versions."""
    erf, images = "[Dense(), Erf(), Dense()]", random_images(20)
    job, tiling = make_job(tmp_path, images, 10, backend="cpu", arithmetic="cpu-3", arch=erf)
    with pytest.raises(InputError, match=r"computes cpu-4, the job is cpu-3;.* or begin a new run"):
        compute_gram(job, InlineExecutor(), tiling=tiling)
    now = dataclasses.replace(job, arithmetic="cpu-4", outputs=(("ntk", f"{tmp_path}/ntk"),))
    assert compute_gram(now, InlineExecutor(), tiling=tiling).computed == 3


def test_a_job_of_the_version_before_gets_its_bits(tmp_path):
    """Flat patches of several contrasts: what is left of their angle is rounding."""
    images = np.random.default_rng(0).normal(size=(20, 8, 8, 3)).astype(np.float32)
    images[:, 3:] = np.linspace(0.2, 0.9, 20)[:, None, None, None]
    tiles = {}
    for version in ("cpu-3", "cpu-4"):
        (tmp_path / version).mkdir()
        job, tiling = make_job(
            tmp_path / version, images, 20, backend="cpu", arithmetic=version, arch="cntk-v-3"
        )
        assert compute_gram(job, InlineExecutor(), tiling=tiling).computed == 1
        tiles[version] = GramStore.open(job.outputs[0][1])[:, :]
    arch = Architecture.parse("cntk-v-3")
    older = of_version(get_backend("cpu"), "cpu-3", arch, (8, 8, 3))
    state = older.prepare(arch, images)
    np.testing.assert_array_equal(tiles["cpu-3"], older.block(state, state)["ntk"])
    exact = kernel_matrix("cntk-v-3", images, backend="reference", dtype="float64")
    errors = {name: np.abs(tile / exact - 1).max() for name, tile in tiles.items()}
    assert errors["cpu-4"] < errors["cpu-3"] / 3, errors


def run_config(folder: Path, **gram: Any) -> RunConfig:
    return RunConfig(
        run=str(folder / "run"),
        architecture="fc-2",
        data=DataConfig(n=12),
        gram=GramConfig(**{"backend": "cpu", "executor": "inline", "tile": 6, **gram}),
    )


@pytest.fixture(scope="module")
def two_gpus() -> Iterator[None]:
    """A Ray with three cores and two GPUs, as far as Ray knows."""
    import ray

    from ntkdist.gram.executors.cluster import package_path

    if ray.is_initialized():
        ray.shutdown()
    before = {name: os.environ.get(name) for name in package_path()}
    os.environ.update(package_path())
    ray.init(
        address="local", num_cpus=3, num_gpus=2, include_dashboard=False, log_to_driver=False,
        object_store_memory=80 * 2**20,
    )  # fmt: skip
    yield
    ray.shutdown()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def test_another_backend_is_refused(tmp_path: Path) -> None:
    Run.create(run_config(tmp_path))
    with pytest.raises(InputError, match=r"gram.backend='cpu', now gram.backend='reference'"):
        Run.create(run_config(tmp_path, backend="reference"))


def test_a_mixed_run_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    with Pipeline(config) as pipeline:
        execute(pipeline, ["gram"])
    place = Path(config.run)
    manifest = json.loads((place / "zarr.json").read_text())
    manifest["attributes"]["ntkdist"]["config"]["gram"]["mix_backends"] = True
    (place / "zarr.json").write_text(json.dumps(manifest))
    record = place / "gram" / "ntk" / "made_by" / "r0000c0001"
    record.parent.mkdir()
    record.write_text("cuda-9")
    (record.parent / "r0001c0009").write_text("cuda-9")  # of a tile that was never stored
    own = arithmetic_of("cpu")
    assert read_status(config.run).gram[0].made_by == {own: 2, "cuda-9": 1}
    assert f"2 by {own}, 1 by cuda-9" in describe(config.run)
    assert verify_run(Run.open(config.run)).problems == []
    with Pipeline(config) as pipeline:
        execute(pipeline, ["gram"], recompute=["r0000c0001"])
    assert read_status(config.run).gram[0].made_by == {own: 3}


def _fail() -> None:
    raise ZeroDivisionError


def _refuse() -> None:
    raise InputError("too old")


def _visible() -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "unset")


@pytest.mark.slow
def test_a_worker_with_a_gpu_sees_it_and_others_do_not(two_gpus):
    assert RayExecutor(num_gpus=1).call(functools.partial(_visible)) in ("0", "1")
    with pytest.raises(StageError, match="ZeroDivisionError"):
        RayExecutor(num_gpus=1).call(_fail)
    with pytest.raises(InputError, match=r"^too old$"):
        RayExecutor(num_gpus=1).call(_refuse)


@pytest.mark.slow
def test_a_process_that_was_called_on_a_gpu_does_not_keep_it(two_gpus):
    used = [RayExecutor(num_gpus=1).call(os.getpid) for _ in range(3)]
    assert len(set(used)) == 3


@pytest.mark.slow
def test_a_driver_without_a_gpu_can_begin_a_run_for_workers_with_one(
    two_gpus, tmp_path, monkeypatch
):
    monkeypatch.setattr("ntkdist.kernels.cuda.device.cuda_unavailable", lambda: "no GPU here")
    run = Run.create(run_config(tmp_path, backend="cuda", executor="ray"))
    assert (run.manifest.backend, run.manifest.arithmetic) == ("cuda", arithmetic_of("cuda"))
    padded = dataclasses.replace(
        run_config(tmp_path / "other", backend="cuda", executor="ray"),
        architecture="[Conv(), AvgPool(3, 2, 'SAME'), Conv(), Flatten(), Dense()]",
    )
    with pytest.raises(InputError, match="backend 'cuda' cannot compute this"):
        Run.create(padded)
