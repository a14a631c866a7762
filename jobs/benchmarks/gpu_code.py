"""What the compilers make of the GPU kernels: registers, spills, instructions a cell and layer.

    python jobs/benchmarks/gpu_code.py [--networks cntk-gap-11,myrtle-10] [--target 9.0]

Needs no GPU: numba-cuda with libNVVM, ptxas and nvdisasm (PyPI: numba-cuda, cuda-bindings,
cuda-core, nvidia-nvvm, nvidia-cuda-nvcc, nvidia-cuda-nvrtc, nvidia-cuda-nvdisasm), and no
NUMBA_ENABLE_CUDASIM. These are counts of instructions, not times: what a GPU needs for them is
for ``gpu.py`` to measure. The inner loop of a fused kernel is one layer of all cells of a lane,
so its instructions divided by the cells are what a cell and layer takes of the issue slots.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from _record import write

from ntkdist import Architecture
from ntkdist.kernels._chain import chain_of
from ntkdist.kernels._cuda_plan import layout_of

SHAPE = (32, 32, 3)
NETWORKS = ("cntk-gap-11", "cnn-3")


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
        *(array(int64, 2), array(real, 2), int64, array(float64, 3), array(real, 5)),
    )
    function = fused_kernel(spec).py_func
    text: str = cuda.compile(
        function, signature, cc=target, output="ptx", device=False, abi="numba"
    )[0]
    return text


def count(spec: Any, target: tuple[int, int]) -> dict[str, Any]:
    """Compile one fused kernel, and count."""
    architecture = f"sm_{target[0]}{target[1]}"
    with tempfile.TemporaryDirectory() as folder:
        ptx, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        ptx.write_text(compiled(spec, target))
        limit = ["-maxrregcount", "128"] if spec.dtype == "float32" else []
        said = subprocess.run(
            [tool("ptxas"), "-v", f"-arch={architecture}", *limit, "-o", cubin, ptx],
            capture_output=True, text=True, check=True,
        ).stderr  # fmt: skip
        listing = subprocess.run(
            [tool("nvdisasm"), "-c", cubin], capture_output=True, text=True, check=True
        ).stdout
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert registers
    assert spills
    cells = spec.H * spec.columns
    loop = _layer_loop(listing, cells)
    return {
        "registers": int(registers[1]),
        "spill_bytes": [int(spills[1]), int(spills[2])],
        "cells_a_lane": cells,
        "instructions_a_cell_and_layer": round(sum(loop.values()) / cells, 1),
        "by_kind": {name: round(n / cells, 2) for name, n in loop.most_common(14)},
    }


def _layer_loop(listing: str, cells: int) -> Counter[str]:
    """Return the instructions of the shortest loop that has a root for each cell and no more."""
    names: list[str] = []
    labels: dict[str, int] = {}
    loops: list[tuple[int, int]] = []
    for line in listing.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(names)
        if not (
            found := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_]+)(.*);", line)
        ):
            continue
        if (
            found[1] == "BRA"
            and (to := re.search(r"\((\.L_x_\d+)\)", found[2]))
            and to[1] in labels
        ):
            loops.append((labels[to[1]], len(names)))
        names.append(found[1])
    counted = [Counter(names[start : stop + 1]) for start, stop in loops]
    layers = [loop for loop in counted if loop["MUFU"] == cells]
    return min(layers, key=lambda loop: sum(loop.values()))


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
            # a block of two layers has no loop over layers
            if block.fused is None or block.fused in seen or block.fused.layers < 3:
                continue
            seen.add(block.fused)
            row = {"network": name, "block": f"{block.H}×{block.W}"}
            row |= count(block.fused, (major, minor))
            rows.append(row)
            print(row, flush=True)
    write("gpu_code", rows, f"python jobs/benchmarks/gpu_code.py --target {options.target}")


if __name__ == "__main__":
    main()
