"""What ``ntkdist doctor`` finds out: machine, GPU, backend, room and time, and when it refuses."""

import dataclasses
import os
import re
import shutil
import socket
from types import SimpleNamespace

import numpy as np
import pytest

from ntkdist import Run
from ntkdist.cli import doctor, main as cli
from ntkdist.cli.doctor import describe_finding, diagnose
from ntkdist.config import DataConfig, FactorConfig, GramConfig, RunConfig
from ntkdist.errors import DeviceLostError
from ntkdist.kernels import Selection, registry
from ntkdist.kernels.cpu import CpuBackend
from ntkdist.kernels.cuda import device as cuda_device
from ntkdist.kernels.cuda.device import DeviceInfo, KernelReport
from ntkdist.pipeline import Pipeline
from ntkdist.planning import planned_run
from ntkdist.planning.planned_run import PlannedRun

N = 12
GPU = DeviceInfo(0, "Test GPU", "9.0", "580.1", 132, 80 * 2**30, 79 * 2**30)
REPORT = KernelReport("fused 4 × 4", 128, "4 classes", 96, 8, 2048, 5, 0.3125)
NO_GPU = "no NVIDIA GPU is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """Pretend that there is neither a GPU nor a cluster."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(doctor, "_answer", lambda a: doctor.Finding("cluster", f"{a}: answers"))
    monkeypatch.setattr(doctor, "_DRIVER", ())
    monkeypatch.setattr(registry, "cuda_unavailable", lambda: NO_GPU)
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
        monkeypatch.setattr(registry, "select_backend", lambda *_, **__: selection)
        monkeypatch.setattr(doctor, "get_backend", lambda *_, **__: selection.backend)

    return put


def told(config, **options):
    """Return what doctor says, name → the texts of that name."""
    found = {}
    for one in diagnose(config, **options):
        found.setdefault(one.name, []).append(one.sentence)
    return found


def refused(config, **options):
    """Return what stands in the run's way, which must be the last thing that is told."""
    found = list(diagnose(config, **options))
    assert found[-1].state == "problem"
    return found[-1].sentence


def states(findings):
    return [(one.name, one.state, one.sentence) for one in findings]


def with_gram(config, **changes):
    return dataclasses.replace(config, gram=dataclasses.replace(config.gram, **changes))


def rate_of(found):
    return float(re.match(r"([\d,.e+]+) entries/s", found["rate"][0])[1].replace(",", ""))


def test_without_a_gpu_it_says_why_and_takes_the_cpu(config):
    found = told(config)
    assert found["gpu"] == [f"none: {NO_GPU}"]
    assert found["backend"][0].startswith("cpu:")
    assert found["images"][0].startswith("12 × 4 × 4 × 1")
    assert found["gram"][0].startswith("78 entries to compute, at most 312 B")
    assert found["run"] == [f"{config.run}: new"]
    assert f"numpy {np.__version__}" in found["packages"][0]
    assert rate_of(found) > 0
    assert "kernel" not in found
    assert not os.path.exists(config.run)


def test_a_package_that_is_missing_is_said_to_be():
    found = list(doctor.check_packages(("numpy", "no-such-package")))
    assert found[1].text.endswith("no-such-package not installed")


def test_gpus_are_described_with_their_kernels(config, gpus):
    gpus()
    found = told(config, quick=True)
    assert found["gpu"][1] == (
        "1: Test GPU, compute capability 9.0, driver 580.1, 79 GiB of 80 GiB free, "
        "132 multiprocessors"
    )
    assert found["kernel"] == [
        "fused 4 × 4: 128 threads a block (4 classes), 96 registers, 8 bytes a thread spilled, "
        "2048 bytes of shared memory, 5 blocks a multiprocessor, occupancy 31 %"
    ]
    assert found["time"] == ["not measured"]


def test_gpus_that_cannot_be_used_are_told_with_the_reason(config, gpus, monkeypatch):
    old = "GPU 0 (Tesla T4) has compute capability 7.5, and the kernels need 8.0 or more"
    gpus(dataclasses.replace(GPU, unusable=old, free=None, exclusive=True))
    monkeypatch.setattr(cuda_device, "cuda_unavailable", lambda: f"{old}; hide this GPU")
    remedy = "take --gram.backend cpu, or hide it by CUDA_VISIBLE_DEVICES"
    two = states(doctor.check_gpus(cuda_device.devices()))
    assert two == [("gpu", "warning", f"{old}; {remedy}")] * 2
    (gpu, *_) = doctor.check_gpus([dataclasses.replace(GPU, free=None, exclusive=True)])
    assert gpu.state == "ok"
    assert gpu.text.endswith(
        "driver 580.1, 80 GiB (how much is free is not known), 132 multiprocessors, "
        "exclusive-process mode: one process at a time"
    )


def test_what_keeps_good_gpus_from_being_used_is_told(config, gpus, monkeypatch):
    gpus()
    reason = "numba-cuda 0.30.4 does not work with numpy 2.5.5 (...); pip install 'numpy<2.5'"
    monkeypatch.setattr(cuda_device, "cuda_unavailable", lambda: reason)
    (*_, last) = states(doctor.check_gpus(cuda_device.devices()))
    assert last == ("gpu", "warning", f"not used: {reason}")


def test_a_gpu_that_another_process_holds_is_a_problem(config, gpus, monkeypatch):
    def held(*_):
        raise DeviceLostError("CUDA_ERROR_DEVICE_UNAVAILABLE on GPU 0: this process cannot use it")

    gpus()
    monkeypatch.setattr(cuda_device, "kernel_reports", held)
    assert refused(config).startswith("CUDA_ERROR_DEVICE_UNAVAILABLE on GPU 0")


def test_time_is_of_the_gpus_that_can_be_used(config, gpus, monkeypatch):
    gpus()
    two = [GPU, dataclasses.replace(GPU, index=1, unusable="GPU 1 is too old")]
    monkeypatch.setattr(cuda_device, "devices", lambda: two)
    found = told(with_gram(config, executor="ray"))
    assert found["time"][0].endswith("for the Gram on 1 GPU")


def test_time_is_entries_over_rate_and_workers(config, gpus, monkeypatch):
    gpus()
    measured = SimpleNamespace(entries_per_second=1e-3)
    asked = []
    monkeypatch.setattr(doctor, "choose_edge", lambda *a, **k: asked.append((a, k)) or measured)
    found = told(with_gram(config, executor="ray"))
    assert found["time"] == ["about 10.8 h for the Gram on 2 GPUs"]  # 78 / 1e-3 / 2 seconds
    ((_, _, images, n), options), *more = asked
    assert (images.shape, n, options["workers"], more) == ((N, 4, 4, 1), N, 2, [])
    found = told(with_gram(config, executor="ray", workers=1, address="10.0.0.1:6379"))
    assert found["time"][0].startswith("about 21.7 h for the Gram on 1 GPU; the cluster 10")


def test_gpus_of_a_cluster_are_not_asked_for_here(config):
    far = with_gram(config, executor="ray", backend="cuda", address="10.0.0.1:6379")
    found = told(far)
    assert found["backend"] == ["cuda: asked for by name, on the workers' GPUs"]
    assert found["time"] == ["not measured: the GPUs are those of the cluster 10.0.0.1:6379"]
    layers = "[Conv(), AvgPool(3, 2, 'SAME'), Conv(), Flatten(), Dense()]"
    assert "padded windows" in refused(dataclasses.replace(far, architecture=layers))
    for here in (with_gram(far, address=None), with_gram(far, executor="inline")):
        assert re.search(r"backend 'cuda': .*nvidia-smi", refused(here))


def test_images_are_read_once(config, monkeypatch):
    calls, load = [], planned_run.load_inputs
    monkeypatch.setattr(planned_run, "load_inputs", lambda c: calls.append(c) or load(c))
    told(config)
    assert calls == [config]


def test_a_run_brings_its_images_and_only_missing_tiles_count(config, monkeypatch):
    with Pipeline(config) as pipeline:
        pipeline.gram()
    monkeypatch.delattr(planned_run, "load_inputs")
    assert told(config)["verdict"] == ["the Gram is done"]
    tiles = config.run + "/gram/ntk/c"  # 12 images in tiles of 4
    os.unlink(f"{tiles}/0/2")
    os.unlink(f"{tiles}/1/1")
    assert PlannedRun.of(config).missing_entries() == 4 * 4 + 4 * 5 // 2
    assert told(config, quick=True)["gram"][0].startswith("26 entries")


def test_another_configuration_of_the_run_is_refused(config):
    Run.create(config)
    assert "architecture=" in refused(dataclasses.replace(config, architecture="fc-2"), quick=True)
    assert told(dataclasses.replace(config, factor=FactorConfig(ridge=0.5)), quick=True)["verdict"]


def test_no_room_for_the_gram_is_refused(config, monkeypatch):
    usage = shutil.disk_usage("/")
    for free, fits in ((311, False), (312, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, f=free: usage._replace(free=f))
        if not fits:
            assert "takes up to 312 B, 311 B are free" in refused(config, quick=True)
        else:
            assert told(config, quick=True)["verdict"]
    wide = with_gram(config, kinds=("ntk", "nngp"), dtype="float64")
    assert "takes up to 1.22 KiB" in refused(wide, quick=True)


def test_a_place_with_other_things_is_refused(config):
    open(config.run, "w").close()
    assert "is a file" in refused(config, quick=True)
    os.unlink(config.run)
    os.makedirs(config.run + "/mine")
    assert "is a folder with other things in it; give a new or empty one" in refused(
        config, quick=True
    )


def test_ray_is_needed_only_where_it_is_used(config, monkeypatch):
    def refuse(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(doctor.importlib, "import_module", refuse)
    assert told(config, quick=True)["ray"][0].startswith("cannot be imported")
    found = list(diagnose(with_gram(config, executor="ray"), quick=True))
    (problem,) = (one for one in found if one.state == "problem")
    assert "--gram.executor inline" in problem.remedy
    assert "verdict" not in [one.name for one in found]


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
    said = capsys.readouterr()
    assert caught.value.code == 2
    assert "does not fit" in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert said.out.splitlines()[-1].startswith("run       PROBLEM: ")


def test_without_a_target_problems_are_told_and_nothing_fails(capsys, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "tokens")
    cli.main(["doctor", "--quick"])
    assert "token     PROBLEM: RAY_AUTH_MODE='tokens' is not known" in capsys.readouterr().out


def test_a_finding_is_a_line_with_what_to_do():
    finding = doctor.Finding("gpu", "none", "warning", "buy one")
    assert describe_finding(finding) == "gpu       warning: none; buy one"


@pytest.mark.parametrize(
    ("package", "version", "state", "words"),
    [
        (
            "zarr",
            "2.18.3",
            "problem",
            "zarr 2.18.3, zarr>=3.1 is needed for every run; pip",
        ),
        ("jax", "0.6.1", "warning", "cannot be imported with jax 0.6"),
        ("numpy", "2.5.2", "warning", "numpy 2.5.2, numpy<2.5 is needed for backend cuda"),
        ("dask", None, "problem", "dask is not installed, dask>=2026.1 is needed for the factor"),
    ],
)
def test_wrong_versions_are_named_with_feature_and_remedy(
    monkeypatch, package, version, state, words
):
    real = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda n: version if n == package else real(n))
    found = [one for one in doctor.check_packages() if one.name == "versions"]
    assert [one.state for one in found] == [state]
    assert words in found[0].sentence
    assert f"pip install '{package}" in found[0].remedy


def test_an_old_python_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.10.4")
    found = next(doctor.check_packages())
    assert (found.name, found.state) == ("python", "problem")
    assert ">=3.11" in found.sentence


def test_a_driver_without_numba_cuda_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_DRIVER", (tmp_path,))
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    ((_, state, words),) = states(doctor.check_gpus([]))
    assert state == "warning"
    assert "pip install 'numba-cuda[cu12]'" in words


def test_numba_cuda_without_a_gpu_is_told(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    assert states(doctor.check_gpus([])) == [("gpu", "warning", f"none: {NO_GPU}")]


def test_little_room_for_ray_is_a_warning(config, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=64 * 2**20))
    found = list(doctor.check_machine(with_gram(config, executor="ray")))
    words = {one.sentence for one in found if one.state == "warning"}
    assert any("Ray's session" in text and "RAY_TMPDIR" in text for text in words)
    assert any("/dev/shm" in text and "--shm-size" in text for text in words)
    assert not any("Ray" in one.text for one in doctor.check_machine(config))


@pytest.mark.parametrize(("quota", "warned"), [("100000 100000", True), ("max 100000", False)])
def test_a_cgroup_that_allows_fewer_cores_is_told(tmp_path, monkeypatch, quota, warned):
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(doctor, "_CGROUP", tmp_path)
    monkeypatch.setattr(doctor, "cores", lambda: 8)
    for name in doctor._THREADS:
        monkeypatch.delenv(name, raising=False)
    ((_, state, words),) = states(doctor.check_threads())
    assert (state == "warning") == warned
    assert ("may use 1 CPUs of the 8 cores" in words and "OMP_NUM_THREADS=1" in words) == warned


@pytest.mark.parametrize(("value", "words"), [("1", "uses 1 of 8 cores"), ("all", "is no number")])
def test_threads_in_the_environment_are_told(tmp_path, monkeypatch, value, words):
    monkeypatch.setattr(doctor, "_CGROUP", tmp_path)
    monkeypatch.setattr(doctor, "cores", lambda: 8)
    for name in doctor._THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    ((_, state, said),) = states(doctor.check_threads())
    assert state == "warning"
    assert words in said
    assert "unset OMP_NUM_THREADS" in said


@pytest.mark.parametrize(
    ("environment", "address", "state", "words"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, None, "ok", "none is asked for"),
        ({"RAY_AUTH_MODE": "disabled"}, "h:1", "ok", "the cluster's must say the same"),
        ({"RAY_AUTH_MODE": "tokens"}, None, "problem", "set it to token or disabled"),
        ({"RAY_AUTH_MODE": "token"}, "h:1", "problem", "copy the head node's token"),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere/t"}, None, "problem", "/nowhere/t: there is no such"),
        ({"RAY_AUTH_TOKEN": "secret"}, "h:1", "ok", "nodes of a cluster need the same"),
        ({}, "h:1", "warning", "a cluster with tokens refuses"),
        ({}, None, "ok", "Ray makes one"),
    ],
)
def test_the_token_that_ray_asks_for(monkeypatch, tmp_path, environment, address, state, words):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(doctor, "installed", lambda _: "2.60.0")
    ((_, found, said),) = states(doctor.check_token(address))
    assert found == state
    assert words in said
    assert "secret" not in said
    monkeypatch.setattr(doctor, "installed", lambda _: "2.58.1")
    assert list(doctor.check_token(address)) == []


def test_a_cluster_that_does_not_answer_is_a_problem(monkeypatch):
    monkeypatch.undo()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert doctor._answer(f"127.0.0.1:{port}").state == "ok"
        assert doctor._answer(f"ray://127.0.0.1:{port}").state == "ok"
    gone = doctor._answer(f"127.0.0.1:{port}")
    assert gone.state == "problem"
    assert "no answer" in gone.text
    assert "unset RAY_ADDRESS" in gone.remedy
    assert doctor._answer("head").remedy == "write HOST:6379"


@pytest.mark.parametrize(
    ("environment", "state", "words"),
    [
        ({}, "problem", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "a"}, "problem", "AWS_SECRET_ACCESS_KEY is not"),
        ({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "hidden"}, "warning", "us-east-1"),
        (
            {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "hidden", "AWS_REGION": "eu"},
            "ok",
            "credentials by AWS_ACCESS_KEY_ID",
        ),
    ],
)
def test_credentials_that_the_runs_url_needs(monkeypatch, environment, state, words):
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ((_, found, said),) = states(doctor.check_store("s3://bucket/run"))
    assert found == state
    assert words in said
    assert "hidden" not in said
    assert list(doctor.check_store("runs/mine")) == []
