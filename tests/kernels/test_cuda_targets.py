"""The GPU kernels compiled for every kind of GPU that is covered: registers, spills, values."""

import re

import pytest

from tests.kernels import COMPILES, SIMULATED

if not (SIMULATED and COMPILES):
    pytest.skip("a GPU is at hand, or no compiler for one", allow_module_level=True)

from ntkdist.kernels.cuda import layout
from tests.kernels.cuda_cases import TWICE, changed, sets
from tests.kernels.oracle import KINDS, entries_by
from tests.kernels.simulator import GPU, compiler, device
from tests.tolerances import RTOL, assert_close

pytestmark = pytest.mark.usefixtures("gpu")

#: Compute capabilities; those below 8.0 are refused (``test_cuda_stand_in``).
TARGETS = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]
#: Networks that take every kernel, on small images.
NETWORKS = {
    "fused": ("cntk-gap-4", (8, 8, 3)),
    "pools": ([*TWICE, "GlobalAvgPool", "Dense"], (8, 8, 1)),
    "streamed": ("cntk-lap-6-1", (40, 40, 1)),
    "general": (["Conv(5)", "Erf", "GlobalAvgPool", "Dense"], (6, 6, 2)),
    "connected": ("fc-2", (4, 4, 1)),
    "graph": (
        ["Conv(3, stride=2)", "LayerNorm", "Gelu", "Conv(3)", "Relu", "Flatten", "Dense"],
        (6, 6, 1),
    ),
}
#: Limits of each kernel over all targets: registers of a thread, bytes that it spills, bytes of a
#: block's shared memory. Kernels that are not listed have ``OTHERS``.
RESOURCES = {
    "_fused": (128, 8, 4096),
    "_streamed": (168, 0, 0),
    "_general": (152, 0, 0),
    "_dense": (91, 0, 8320),
    "_level": (128, 256, 0),
}
OTHERS = (48, 0, 0)
#: The kernel that computes most of a network.
COMPUTES = {
    "fused": "_fused", "pools": "_fused", "streamed": "_streamed", "general": "_general",
    "connected": "_dense", "graph": "_level",
}  # fmt: skip
#: Cases that are not marked as slow.
QUICK = {("fused", (8, 0)), ("general", (8, 6)), ("connected", (12, 0))}


@pytest.mark.parametrize(
    ("network", "target"),
    [
        pytest.param(name, target, marks=() if (name, target) in QUICK else pytest.mark.slow)
        for name in NETWORKS
        for target in TARGETS
    ],
    ids=lambda value: value if isinstance(value, str) else "{}.{}".format(*value),
)
def test_kernels_compile_for_a_gpu_within_their_resources_and_are_right(
    network, target, monkeypatch
):
    made = {}

    def compiled(function, options, kinds, target):
        one = compiler.compiled(function, options, kinds, target, link=True)
        made.setdefault(function.__name__, []).append(one)
        return one

    monkeypatch.setattr(device, "compiled", compiled)
    monkeypatch.setattr(GPU, "target", target)
    arch, shape = NETWORKS[network]
    x, y = sets(shape)
    with changed(layout):  # which depends on the GPU's shared memory
        found = entries_by("cuda", arch, x, y, "float32")
    right = entries_by("cpu", arch, x, y, "float64")
    for kind in KINDS:
        assert_close(found[kind], right[kind], RTOL["float32"])
    assert COMPUTES[network] in made
    for name, several in made.items():
        registers, spilled, shared = RESOURCES.get(name, OTHERS)
        for one in several:
            assert f"sm_{target[0]}{target[1]}" in one.ptx
            assert 0 < one.registers <= registers, (name, one.registers)
            assert one.spilled <= spilled, (name, one.spilled)
            assert one.shared <= shared, (name, one.shared)
            for align in re.findall(r"\.shared\s+\.align\s+(\d+)", one.ptx):
                assert name != "_fused" or int(align) >= 16
