"""What ``ntkdist doctor`` finds out: machine, GPU, backend, room and time, and when it refuses."""

import dataclasses
import os
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from ntkdist import Run, cli, doctor
from ntkdist.config import DataConfig, FactorConfig, GramConfig, RunConfig
from ntkdist.doctor import diagnose, missing_entries
from ntkdist.errors import InputError
from ntkdist.kernels import Selection, backend, cuda_device
from ntkdist.kernels.cpu import CpuBackend
from ntkdist.kernels.cuda_device import DeviceInfo, KernelReport
from ntkdist.pipeline import Pipeline

N = 12
GPU = DeviceInfo(0, "Test GPU", "9.0", "580.1", 132, 80 * 2**30, 79 * 2**30, False)
REPORT = KernelReport("fused 4 × 4", 128, "4 classes", 96, 8, 2048, 5, 0.3125)
NO_GPU = "no NVIDIA GPU is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """Pretend that there is no GPU, nor a simulator of one, nor a cluster."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(backend, "cuda_unavailable", lambda: NO_GPU)
    monkeypatch.setattr(cuda_device, "devices", lambda: [])
    monkeypatch.setattr(cuda_device, "cuda_unavailable", lambda: NO_GPU)


@pytest.fixture
def config(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (N, 4, 4, 1), np.uint8)
    y = np.arange(N) % 2
    np.savez(tmp_path / "set.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    data = DataConfig(source=f"npz:{tmp_path / 'set.npz'}")
    gram = GramConfig(executor="inline", tile=5, threads=1)
    return RunConfig(run=str(tmp_path / "run"), architecture="cntk-gap-4", data=data, gram=gram)


@pytest.fixture
def gpus(monkeypatch):
    """Return a function that puts two GPUs into this machine, whose kernels run on the CPU."""

    class FakeCuda(CpuBackend):
        name = "cuda"

    def put(device=GPU):
        two = [device, dataclasses.replace(device, index=1)]
        monkeypatch.setattr(cuda_device, "devices", lambda: two)
        monkeypatch.setattr(cuda_device, "cuda_unavailable", lambda: None)
        monkeypatch.setattr(cuda_device, "kernel_reports", lambda *of: [REPORT])
        selection = Selection(FakeCuda(), "cuda: the fastest that covers this network")
        monkeypatch.setattr(doctor, "select_backend", lambda *_, **__: selection)

    return put


def told(config, **options):
    """Return what doctor says, name → the texts of that name."""
    found = {}
    for line in diagnose(config, **options):
        found.setdefault(line[:10].strip(), []).append(line[10:])
    return found


def with_gram(config, **changes):
    return dataclasses.replace(config, gram=dataclasses.replace(config.gram, **changes))


def rate_of(found):
    return float(re.match(r"([\d,.e+]+) entries/s", found["rate"][0])[1].replace(",", ""))


def test_without_a_gpu_it_says_why_and_takes_the_cpu(config):
    found = told(config)
    assert found["gpu"] == [f"none: {NO_GPU}"]
    assert found["backend"][0].startswith("cpu:")
    assert found["images"][0].startswith("12 × 4 × 4 × 1")
    assert found["gram"][0].startswith("78 entries to compute, at most 312 bytes")
    assert found["run"] == [f"{config.run}: new"]
    assert f"numpy {np.__version__}" in found["packages"][0]
    assert rate_of(found) > 0
    assert "kernel" not in found
    assert not os.path.exists(config.run)


def test_a_package_that_is_missing_is_said_to_be(config, monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no-such-package"))
    assert told(config, quick=True)["packages"][0].endswith("no-such-package not installed")


def test_gpus_are_described_with_their_kernels(config, gpus):
    gpus()
    found = told(config, quick=True)
    assert found["gpu"][1] == (
        "1: Test GPU, compute capability 9.0, driver 580.1, 79 GiB of 80 GiB free, "
        "132 multiprocessors"
    )
    assert found["kernel"] == [
        "fused 4 × 4: 128 threads a block (4 classes), 96 registers, 8 bytes a thread spilled, "
        "2048 bytes of shared memory, 5 blocks a multiprocessor, occupancy 31%"
    ]
    assert found["time"] == ["not measured"]


def test_time_is_entries_over_rate_and_workers(config, gpus, monkeypatch):
    gpus()
    measured = SimpleNamespace(entries_per_second=1e-3)
    asked = []
    monkeypatch.setattr(doctor, "choose_edge", lambda *a, **k: asked.append((a, k)) or measured)
    found = told(with_gram(config, executor="ray"))
    assert found["time"] == ["about 10.8 hours for the Gram on 2 GPUs"]  # 78 / 1e-3 / 2 seconds
    ((_, _, images, n), options), *more = asked
    assert (images.shape, n, options["workers"], more) == ((N, 4, 4, 1), N, 2, [])
    found = told(with_gram(config, executor="ray", workers=1, address="10.0.0.1:6379"))
    assert found["time"][0].startswith("about 21.7 hours for the Gram on 1 GPU; the cluster 10")


def test_gpus_of_a_cluster_are_not_asked_for_here(config):
    far = with_gram(config, executor="ray", backend="cuda", address="10.0.0.1:6379")
    found = told(far)
    assert found["backend"] == ["cuda: asked for by name, on the workers' GPUs"]
    assert found["time"] == ["not measured: the GPUs are those of the cluster 10.0.0.1:6379"]
    with pytest.raises(InputError, match="stride"):
        told(dataclasses.replace(far, architecture="[Conv(stride=2), Relu(), Flatten(), Dense()]"))
    for here in (with_gram(far, address=None), with_gram(far, executor="inline")):
        with pytest.raises(InputError, match=r"backend 'cuda': .*nvidia-smi"):
            told(here)


def test_the_simulator_is_not_timed(config, gpus, monkeypatch):
    gpus(dataclasses.replace(GPU, simulated=True))
    monkeypatch.delattr(cuda_device, "kernel_reports")
    monkeypatch.delattr(doctor, "choose_edge")
    found = told(config)
    assert all("simulator: for tests, no speed" in x for x in found["gpu"] + found["time"])
    assert "rate" not in found


def test_images_are_read_once(config, monkeypatch):
    calls, load = [], doctor.load_inputs
    monkeypatch.setattr(doctor, "load_inputs", lambda c: calls.append(c) or load(c))
    told(config)
    assert calls == [config]


def test_a_run_brings_its_images_and_only_missing_tiles_count(config, monkeypatch):
    with Pipeline(config) as pipeline:
        pipeline.gram()
    monkeypatch.delattr(doctor, "load_inputs")
    assert told(config)["verdict"] == ["the Gram is done"]
    tiles = config.run + "/gram/ntk/c"  # 12 images in tiles of 4
    os.unlink(f"{tiles}/0/2")
    os.unlink(f"{tiles}/1/1")
    assert missing_entries(Run.open(config.run), config, N) == 4 * 4 + 4 * 5 // 2
    assert told(config, quick=True)["gram"][0].startswith("26 entries")


def test_another_configuration_of_the_run_is_refused(config):
    Run.create(config)
    with pytest.raises(InputError, match="architecture="):
        told(dataclasses.replace(config, architecture="fc-2"), quick=True)
    assert told(dataclasses.replace(config, factor=FactorConfig(ridge=0.5)), quick=True)["verdict"]


def test_no_room_for_the_gram_is_refused(config, monkeypatch):
    usage = shutil.disk_usage("/")
    for free, refused in ((311, True), (312, False)):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _, f=free: usage._replace(free=f))
        if refused:
            with pytest.raises(InputError, match="takes up to 312 bytes, 311 bytes are free"):
                told(config, quick=True)
        else:
            assert told(config, quick=True)["verdict"]
    with pytest.raises(InputError, match=r"takes up to 1\.219 KiB"):
        told(with_gram(config, kinds=("ntk", "nngp"), dtype="float64"), quick=True)


def test_a_place_with_other_things_is_refused(config):
    open(config.run, "w").close()
    with pytest.raises(InputError, match="is a file"):
        told(config, quick=True)
    os.unlink(config.run)
    os.makedirs(config.run + "/mine")
    with pytest.raises(InputError, match=r"not empty: a new run needs another --run"):
        told(config, quick=True)


def test_ray_is_needed_only_where_it_is_used(config, monkeypatch):
    def refuse(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(doctor.importlib, "import_module", refuse)
    assert told(config, quick=True)["ray"][0].startswith("cannot be imported")
    with pytest.raises(InputError, match=r"--gram\.executor inline"):
        told(with_gram(config, executor="ray"), quick=True)


def test_the_command_prints_lines_and_exits_with_2_where_it_cannot(config, tmp_path, capsys):
    cli.main(["doctor", "--quick"])  # the digits
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("images    1797 × 8 × 8 × 1, digits") for line in lines)
    assert lines[-1].startswith("verdict")
    path = tmp_path / "bad.yaml"
    path.write_text("architecture: myrtle-5\n")
    flags = ["--data.source", config.data.source, "--run", config.run]
    with pytest.raises(SystemExit) as caught:
        cli.main(["doctor", str(path), "--quick", *flags])
    err = capsys.readouterr().err.strip()
    assert caught.value.code == 2
    assert "does not fit" in err
    assert len(err.splitlines()) == 1
