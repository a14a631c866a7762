"""What the compilers make of the GPU kernels: registers, spills, instructions a cell.

    python jobs/benchmarks/gpu_code.py [--networks cntk-gap-11,myrtle-10] [--target 9.0]

Needs no GPU: numba-cuda with libNVVM, ptxas and nvdisasm (PyPI: numba-cuda, cuda-bindings,
cuda-core, nvidia-nvvm, nvidia-cuda-nvcc, nvidia-cuda-nvrtc, nvidia-cuda-nvdisasm), and no
NUMBA_ENABLE_CUDASIM. These are counts of instructions, not times: what a GPU needs for them is
for ``gpu.py`` to measure.

A step of a fused kernel is its loop over displacement classes: all layers of all cells of a lane.
Divided by the cells, ``instructions_a_cell_at_most`` is what a cell takes of the issue slots. The
loop over the layers behind the second ReLU counts as often as the network has such layers. In
front of a pool a step of an even row displacement takes one way and one of an odd another, known
by its barriers (``_cuda_windows``), and half of each is counted, since they alternate; of any
other branch both ways are, hence "at most". Of blocks with three layers or more, the
loop over layers alone gives the instructions of a cell and layer.
"""

from __future__ import annotations

import argparse
import functools
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from _record import write
from _sass import Code

from ntkdist import Architecture
from ntkdist.kernels._chain import chain_of
from ntkdist.kernels._cuda_plan import layout_of

SHAPE = (32, 32, 3)
NETWORKS = ("cnn-3", "myrtle-10", "cntk-gap-11")


def tool(name: str) -> str:
    """Return the path of a CUDA tool, from NVIDIA's Python packages or else from PATH."""
    for folder in map(Path, sys.path):
        for candidate in folder.glob(f"nvidia/*/bin/{name}"):
            return str(candidate)
    if found := shutil.which(name):
        return found
    raise SystemExit(f"{name} is not found; pip install nvidia-cuda-nvcc nvidia-cuda-nvdisasm")


def compiled(spec: Any, target: tuple[int, int]) -> str:
    """Return PTX of the fused kernel of a block."""
    import numba.cuda.dispatcher as dispatcher
    from numba import cuda, float32, float64, int64, types

    from ntkdist.kernels._cuda_fused import fused_kernel

    class Device:  # device functions ask for one while they are typed
        compute_capability = target

    dispatcher.get_current_device = lambda: Device
    real = float32 if spec.dtype == "float32" else float64

    def array(kind: Any, ndim: int) -> Any:
        return types.Array(kind, ndim, "C")

    signature = (
        *(array(int64, 2), int64, int64, int64, array(int64, 1), array(int64, 1)),
        *(array(real, 2), array(real, 2), int64, array(real, 5)),
        *(array(int64, 2), array(real, 2), int64, array(float64, 4), array(real, 5)),
    )
    function = fused_kernel(spec).py_func
    text: str = cuda.compile(
        function, signature, cc=target, output="ptx", device=False, abi="numba"
    )[0]
    return text


def count(spec: Any, last: int, target: tuple[int, int]) -> dict[str, Any]:
    """Compile one fused kernel, and count.

    Args:
        spec: What it is compiled for.
        last: Layers of the block.
        target: Compute capability.
    """
    said, listing = assembled(spec, target)
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    shared = re.search(r"(\d+) bytes smem", said)
    assert registers
    assert spills
    cells = spec.H * spec.columns
    step, layer = counts(Code.parse(listing), cells, last, pools=spec.pools)
    found = {
        "layers": last,
        "registers": int(registers[1]),
        "spill_bytes": [int(spills[1]), int(spills[2])],
        "shared_bytes": int(shared[1]) if shared else 0,
        "cells_a_lane": cells,
        "instructions_a_cell_at_most": _of_a_cell(step.total(), cells, 1),
        "by_kind_of_a_cell": _kinds(step, cells),
    }
    if layer is not None:
        found["instructions_a_cell_and_layer"] = _of_a_cell(layer.total(), cells, 1)
        found["by_kind"] = _kinds(layer, cells)
    return found


def _of_a_cell(count: float, cells: int, digits: int) -> float:
    return round(count / cells, digits)


def _kinds(counted: Counter[str], cells: int) -> dict[str, float]:
    return {name: _of_a_cell(n, cells, 2) for name, n in counted.most_common(14)}


@functools.lru_cache
def assembled(spec: Any, target: tuple[int, int]) -> tuple[str, str]:
    """Return what ptxas says of a fused kernel, and its listing."""
    from ntkdist.kernels._cuda_fused import fused_kernel

    architecture = f"sm_{target[0]}{target[1]}"
    most = fused_kernel(spec).targetoptions.get("max_registers")
    limit = ["-maxrregcount", str(most)] if most else []
    with tempfile.TemporaryDirectory() as folder:
        ptx, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        ptx.write_text(compiled(spec, target))
        said = subprocess.run(
            [tool("ptxas"), "-v", f"-arch={architecture}", *limit, "-o", cubin, ptx],
            capture_output=True, text=True, check=True,
        ).stderr  # fmt: skip
        listing = subprocess.run(
            [tool("nvdisasm"), "-c", cubin], capture_output=True, text=True, check=True
        ).stdout
    return said, listing


def counts(
    code: Code, cells: int, last: int, *, pools: bool
) -> tuple[Counter[str], Counter[str] | None]:
    """Count the instructions of a step, and those of a layer in the loop over layers.

    Args:
        code: Of a fused kernel.
        cells: Of a lane; each has a root in each layer.
        last: Layers of the block.
        pools: Whether the block ends in a pool's sums.

    Returns:
        Both; None in place of the second where the block has no loop over layers.
    """
    with_roots = [loop for loop in code.loops if code.count(loop)["MUFU"] >= cells]
    step = max(with_roots, key=len)
    found = code.count(step)
    if pools:
        ways = Counter[str]()
        for way in code.alternatives(step):
            ways += code.count(way)
        for name, n in ways.items():
            found[name] -= n / 2
    if last < 3:
        return found, None
    layers = [loop for loop in with_roots if code.count(loop)["MUFU"] == cells]
    layer = code.count(min(layers, key=len))
    for name, n in layer.items():
        found[name] += (last - 3) * n  # it was counted once
    return found, layer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--target", default="9.0", help="compute capability")
    options = parser.parse_args()
    major, minor = map(int, options.target.split("."))
    rows, seen = [], set()
    for name in options.networks.split(","):
        chain = chain_of(Architecture.parse(name))
        assert not isinstance(chain, str)
        for block in layout_of(chain, SHAPE, "float32").blocks:
            if block.fused is None or (block.fused, block.last) in seen:
                continue
            seen.add((block.fused, block.last))
            row = {"network": name, "block": f"{block.H}×{block.W}"}
            row |= count(block.fused, block.last, (major, minor))
            rows.append(row)
            print(row, flush=True)
    write("gpu_code", rows, f"python jobs/benchmarks/gpu_code.py --target {options.target}")


if __name__ == "__main__":
    main()
