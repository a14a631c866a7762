"""The GPU benchmark: its peer is right, it times nothing unchecked, and nothing without a GPU."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ntkdist import Architecture
from ntkdist.kernels import get_backend
from ntkdist.kernels.cpu import CpuBackend
from ntkdist.kernels.cuda import device as cuda_device
from ntkdist.kernels.cuda.device import DeviceInfo
from tests.kernels import SIMULATED
from tests.kernels.simulator import ON_SIMULATOR

BENCHMARKS = Path(__file__).parents[1] / "jobs" / "benchmarks"
KINDS = ("ntk", "nngp")
NETWORKS = {
    "cntk-gap-6": ("cntk-gap-6", (4, 5, 2)),
    "cntk-v-4": ("cntk-v-4", (4, 3, 3)),
    "fc-3": ("fc-3", (2, 3, 2)),
    "cnn-3, ragged": ("cnn-3", (5, 6, 3)),
    "wide, biases, fixed": (
        "[Conv(size=5, b_std=0.3, trainable=False), Relu(), Conv(size=1), Relu(), "
        "GlobalAvgPool(), Dense(b_std=0.1), Relu(), Dense()]",
        (4, 4, 2),
    ),
    "windows flattened": (
        "[Conv(), Relu(), AvgPool(size=2), Conv(), Relu(), Flatten(), Dense()]",
        (5, 4, 2),
    ),
}
GPU = DeviceInfo(0, "Test GPU", "9.0", "580.1", 132, 80 * 2**30, 79 * 2**30)


class FakeCuda(CpuBackend):
    """The cpu backend in the place of the cuda backend."""

    name = "cuda"

    def block_on_device(self, a, b, kinds):
        return self.block(a, b, kinds)


class WrongCuda(FakeCuda):
    def block(self, a, b, kinds=("ntk",)):
        return {k: x * np.float32(1 + 1e-4) for k, x in super().block(a, b, kinds).items()}


class RestlessCuda(FakeCuda):
    calls = 0

    def block(self, a, b, kinds=("ntk",)):
        RestlessCuda.calls += 1
        found = super().block(a, b, kinds)
        return {k: np.nextafter(x, np.float32(RestlessCuda.calls % 2)) for k, x in found.items()}


@pytest.fixture
def scripts(monkeypatch):
    """Put the benchmarks' folder on the path and return the script as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


@pytest.fixture
def fake(scripts, monkeypatch):
    """Return a function that puts a backend in the place of the GPU's, on small images."""
    import gpu_peak

    def put(backend):
        def get(name, **options):
            return backend() if name == "cuda" else get_backend(name, **options)

        monkeypatch.setattr(scripts, "get_backend", get)
        monkeypatch.setattr(scripts, "SHAPE", (4, 5, 3))
        monkeypatch.setattr(scripts, "LARGEST_EDGE", 32)
        monkeypatch.setattr(scripts, "LARGEST_DENSE_EDGE", 32)
        monkeypatch.setattr(cuda_device, "cuda_unavailable", lambda: None)
        monkeypatch.setattr(scripts, "neural_tangents_block", refuse)
        monkeypatch.setattr(gpu_peak, "peak_gflops", lambda runs=5: 2000.0)
        monkeypatch.setattr(gpu_peak, "copy_gbs", lambda: 100.0)
        monkeypatch.setattr(gpu_peak, "registers_of_chains", lambda: {"registers": 20})
        monkeypatch.setattr(cuda_device, "devices", lambda: [GPU])
        monkeypatch.setattr(cuda_device, "kernel_reports", lambda *of: [])
        check = scripts.check_peer
        monkeypatch.setattr(scripts, "check_peer", lambda *of: check(*of, need_gpu=False))

    def refuse(arch):
        raise ImportError("not in this test")

    return put


@pytest.mark.slow(but="cntk-v-4-True")
@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_peer_agrees_with_the_reference(scripts, name, separable):
    from xla_peer import XlaPeer

    spec, shape = NETWORKS[name]
    arch = Architecture.parse(spec)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, *shape)), rng.standard_normal((3, *shape))
    peer = XlaPeer(arch, separable=separable)
    found = np.asarray(peer.block(peer.prepare(x), peer.prepare(y)))
    reference = get_backend("reference", dtype="float64")
    right = reference.block(reference.prepare(arch, x), reference.prepare(arch, y), KINDS)
    assert found.dtype == np.float32
    for of_kind, kind in zip(found, KINDS, strict=True):
        np.testing.assert_allclose(of_kind, right[kind], rtol=2e-5)


def test_the_peer_refuses_layers_it_does_not_know(scripts):
    from xla_peer import XlaPeer

    with pytest.raises(ValueError, match="stride=2"):
        XlaPeer(Architecture.parse("[Conv(stride=2), Relu(), Flatten(), Dense()]"))


def test_operations_are_those_of_all_cells(scripts):
    from gpu_work import work_of

    deep = work_of(Architecture.parse("cntk-gap-21"), (32, 32, 3))
    assert (deep.layers, deep.cell_layers) == (20, 20 * 1024**2)
    assert deep.slots == 1024**2 * (20 * 29 + 3 * 2 + 2)
    assert deep.flops == 1024**2 * (20 * 44 + 3 * 3 + 2)
    assert work_of(Architecture.parse("cntk-v-21"), (32, 32, 3)).cell_layers == 20 * 1024
    myrtle = work_of(Architecture.parse("myrtle-5"), (32, 32, 3))
    assert myrtle.cell_layers == 2 * 1024**2 + 256**2 + 64**2
    # windows in runs of 2 and 4 displacements, each with one more; what is left is one average
    assert myrtle.exchanged == 16 * (16**3 * 24 + 8**3 * 10)
    assert work_of(Architecture.parse("fc-10"), (32, 32, 3)).flops == 3072 * 3 + 10 * 36 + 2
    with pytest.raises(ValueError, match="not counted"):
        work_of(Architecture.parse("[Conv(size=5), Relu(), Flatten(), Dense()]"), (8, 8, 1))


@pytest.mark.slow
def test_rows_follow_from_the_times(scripts, fake, tmp_path, capsys, monkeypatch):
    fake(FakeCuda)
    path = tmp_path / "out" / "gpu.json"
    words = ["--networks", "cntk-gap-4,fc-2", "--repeats", "2", "--seconds", "0.1"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *words, "--output", str(path)])
    scripts.main()
    result = json.loads(path.read_text())
    gap, dense = result["rows"]
    assert result["machine"]["gpu"] == [dataclasses.asdict(GPU)]
    assert gap["checks"]["equal_bits"]
    assert max(gap["checks"]["largest_error"], dense["checks"]["largest_error"]) < 2e-5
    us = gap["us_per_entry"]
    assert us == np.median(gap["us"]["cuda"])
    assert gap["entries_per_second"] == pytest.approx(1e6 / us)
    assert gap["us_per_entry_layer"] == pytest.approx(us / 3)
    flops = 400 * (3 * 44 + 3 * 3 + 2)
    assert gap["share_of_peak"] == pytest.approx(flops / (us * 1e-6) / 2000e9)
    assert gap["bound_us_per_entry"] == pytest.approx(400 * (3 * 29 + 3 * 2 + 2) / 1e12 * 1e6)
    assert gap["share_of_slots"] == pytest.approx(gap["bound_us_per_entry"] / us)
    assert gap["gpu_hours"]["8"] == pytest.approx(50_000 * 50_001 / 2 * us / 1e6 / 3600 / 8)
    ratio = np.median(gap["us"]["xla"]) / us
    assert gap["xla"]["ratio"] == pytest.approx(ratio)
    assert gap["neural_tangents"] is None
    assert gap["neural_tangents_reason"] == "not in this test"
    table = capsys.readouterr().out.split("| network")[1]
    assert f"| cntk-gap-4 | {us:.3g} |" in table
    assert "Test GPU, compute capability 9.0, driver 580.1" in table


def test_a_check_is_kept_although_its_timing_is_cut_short(scripts, fake, tmp_path, monkeypatch):
    fake(FakeCuda)
    path = tmp_path / "gpu.json"
    words = ["gpu.py", "--alone", "--networks", "cntk-gap-3", "--seconds", "0.1"]
    monkeypatch.setattr(sys, "argv", [*words, "--output", str(path)])
    blocks = scripts.our_blocks

    def cut(*of):
        raise KeyboardInterrupt

    monkeypatch.setattr(scripts, "our_blocks", cut)
    with pytest.raises(KeyboardInterrupt):
        scripts.main()
    found = json.loads(path.read_text())
    (row,) = found["rows"]
    assert row["checks"]["equal_bits"]
    assert "us_per_entry" not in row
    assert "| cntk-gap-3 | checked, not timed |" in scripts.markdown(found)
    monkeypatch.setattr(scripts, "our_blocks", blocks)
    scripts.main()
    (row,) = json.loads(path.read_text())["rows"]
    assert set(row["us"]) == {"cuda", "host"}
    assert row["xla_reason"] == row["neural_tangents_reason"] == "not asked for"


@pytest.mark.parametrize(
    ("backend", "words"),
    [(WrongCuda, "differs from the reference by 1.0e-04"), (RestlessCuda, "differ in their bits")],
)
def test_what_fails_its_check_is_not_timed(scripts, fake, tmp_path, monkeypatch, backend, words):
    fake(backend)
    path = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--networks", "cntk-gap-4", "--output", str(path)])
    with pytest.raises(SystemExit) as caught:
        scripts.main()
    assert caught.value.code == 1
    (row,) = json.loads(path.read_text())["rows"]
    assert words in row["refused"]
    assert set(row) == {"network", "refused"}


def test_a_peer_that_is_wrong_is_not_timed(scripts, fake, monkeypatch):
    import xla_peer

    fake(FakeCuda)
    right = xla_peer._relu

    def wrong(K, A, B):
        new, slope = right(K, A, B)
        return new, slope * 1.1

    monkeypatch.setattr(xla_peer, "_relu", wrong)
    with pytest.raises(scripts.Refused, match="XLA peer is off by"):
        scripts.check_peer(Architecture.parse("cntk-gap-4"), scripts.SHAPE)


def run(*words, start=()):
    """Run the script in a process of its own."""
    return subprocess.run(
        [sys.executable, *start, str(BENCHMARKS / "gpu.py"), *words],
        cwd=BENCHMARKS.parents[1], env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not SIMULATED, reason="there is a GPU")
def test_at_toy_size_it_checks_and_times_nothing(tmp_path):
    path = tmp_path / "sim.json"
    words = ("--simulate", "--networks", "cntk-gap-3,fc-1", "--output", str(path))
    done = run(*words, start=ON_SIMULATOR)
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    assert result["machine"]["gpu"] is None
    for row in result["rows"]:
        assert set(row) == {"network", "shape", "simulated", "checks", "work", "kernels"}
        assert row["checks"]["largest_error"] < 2e-5
        assert row["checks"]["peer_error"] < 1e-4


@pytest.mark.skipif(not SIMULATED, reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path):
    path = tmp_path / "gpu.json"
    done = run("--output", str(path))
    assert done.returncode == 2
    assert done.stderr.startswith("gpu.py: nothing is measured: ")
    assert (done.stdout, len(done.stderr.splitlines())) == ("", 1)
    assert not path.exists()
