import builtins
import importlib.util
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from ntkdist import Architecture
from ntkdist.errors import InputError
from ntkdist.kernels import get_backend, select_backend
from ntkdist.kernels.chain import chain_of
from ntkdist.kernels.cuda import device as cuda_device
from ntkdist.kernels.cuda.device import cuda_unavailable, devices, kernel_reports
from ntkdist.kernels.cuda.layout import layout_of
from ntkdist.kernels.registry import arithmetic_of, coverage


def test_a_machine_without_numba_cuda_says_so(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "numba_cuda" else find(name)
    )
    assert "pip install 'numba-cuda[cu12]'" in cuda_unavailable()
    assert devices() == []
    with pytest.raises(InputError, match=r"backend 'cuda': numba-cuda is not installed.*cpu"):
        get_backend("cuda")


def test_numbas_simulator_is_no_gpu(monkeypatch):
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    assert "unset it" in cuda_unavailable()
    with pytest.raises(InputError, match="NUMBA_ENABLE_CUDASIM is set"):
        get_backend("cuda")


def test_a_machine_without_a_gpu_says_so_in_a_fresh_process():
    pytest.importorskip("numba_cuda")
    code = "from ntkdist.kernels.cuda.device import cuda_unavailable; print(cuda_unavailable())"
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert re.match("no NVIDIA (GPU is visible|driver is found)", done.stdout)


def test_auto_takes_the_gpu_only_where_there_is_one():
    chosen = select_backend(Architecture.parse("cntk-gap-4"), (8, 8, 1))
    assert chosen.backend.name == ("cpu" if cuda_unavailable() else "cuda")
    assert "GPU" not in chosen.reason  # nobody asked for one


def test_auto_says_why_a_gpu_that_is_there_is_not_taken(monkeypatch):
    monkeypatch.setattr("ntkdist.kernels.registry.cuda_unavailable", lambda: "GPU 0 is too old")
    for visible, told in ((True, " (cuda: GPU 0 is too old)"), (False, "")):
        monkeypatch.setattr("ntkdist.kernels.registry.gpu_visible", lambda seen=visible: seen)
        chosen = select_backend(Architecture.parse("cntk-gap-4"), (8, 8, 1))
        assert chosen.reason == f"cpu: the fastest that covers this network{told}"


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr("ntkdist.kernels.registry.cuda_unavailable", lambda: None)
    chosen = select_backend(Architecture.parse("cntk-gap-4"), (8, 8, 1))
    assert chosen.backend.name == "cuda"
    assert "the fastest that covers" in chosen.reason
    padded = Architecture.parse(["Conv", "AvgPool(3, 2, 'SAME')", "Conv", "Flatten", "Dense"])
    chosen = select_backend(padded, (8, 8, 1))
    assert chosen.backend.name == "stax"
    assert "cuda cannot" in chosen.reason


def test_arithmetic_and_coverage_are_known_without_a_gpu(monkeypatch):
    monkeypatch.setattr("ntkdist.kernels.registry.cuda_unavailable", lambda: "no GPU here")
    assert arithmetic_of("cuda") == "cuda-5"
    assert arithmetic_of("cpu") == get_backend("cpu").arithmetic
    with pytest.raises(InputError, match="'gpu' is not one of"):
        arithmetic_of("gpu")
    padded = Architecture.parse(["Conv", "AvgPool(3, 2, 'SAME')", "Conv", "Flatten", "Dense"])
    for name in ("cuda", "cpu"):
        assert coverage(name, Architecture.parse("cnn-2"), (8, 8, 1)) is None
        assert "padded" in coverage(name, padded, (8, 8, 1))


#: The kernels of ``cnn-3`` on 32 × 32 pixels.
CNN_3 = ["fused 32 × 32 with its pool", "fused 16 × 16 with its pool", "fused 8 × 8"]


@pytest.mark.gpu
def test_kernels_of_a_network_are_reported():
    (device, *_) = devices()
    assert device.free <= device.memory
    reports = kernel_reports("cnn-3", (32, 32, 3))
    assert [report.name for report in reports] == CNN_3
    for report in reports:
        assert 0 < report.registers <= 255
        assert report.blocks >= 1
        assert 0 < report.occupancy <= 1


@pytest.mark.usefixtures("gpu")
def test_the_kernels_of_cnn_3_are_known_without_compiling_them():
    layout = layout_of(chain_of(Architecture.parse("cnn-3")), (32, 32, 3), "float32")
    backend = get_backend("cuda")
    assert [name for name, *_ in backend.kernels(SimpleNamespace(layout=layout))] == CNN_3


@pytest.mark.slow
def test_what_a_backend_yields_as_kernels_covers_every_block(monkeypatch):
    monkeypatch.setattr("ntkdist.kernels.registry.cuda_unavailable", lambda: None)
    backend = get_backend("cuda")
    layers = ["Conv", "Relu", {"AvgPool": {"size": 2}}, "Conv(5)", "Relu", "GlobalAvgPool", "Dense"]
    for arch, rows, expected in (
        (layers, 4, ["fused 4 × 4", "pool 4 × 4", "general 2 × 2"]),
        (layers, 80, ["streamed 80 × 4", "pool 80 × 4", "general 40 × 2"]),
        ("fc-2", 4, ["dense"]),
        (["Conv(3, stride=2)", "Gelu", "Flatten", "Dense"], 4, ["graph 4 × 4"]),
        (
            ["Conv", "Gelu", "AvgPool(2)", "Gelu", "Flatten", "Dense"],
            4,
            ["graph 4 × 4", "windows 4 × 4"],
        ),
        (["Dense", "Gelu", "Dense"], 4, ["dense", "graph"]),
    ):
        state = backend.prepare(Architecture.parse(arch), np.ones((1, rows, 4, 1)))
        assert [name for name, *_ in backend.kernels(state)] == expected


def test_the_driver_version_is_read_where_there_is_one(monkeypatch, tmp_path):
    file = tmp_path / "version"
    file.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release\n"
    )
    opened = builtins.open
    monkeypatch.setattr(builtins, "open", lambda path, **kwargs: opened(file, **kwargs))
    assert cuda_device._driver() == "580.159.04"
