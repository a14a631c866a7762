"""What compilers make of the fused GPU kernel: registers, spills, instructions a cell and layer.

    pip install -r deploy/constraints-cuda.txt nvidia-cuda-nvdisasm
    python jobs/benchmarks/instructions.py [--networks cntk-gap-21,myrtle-10] [--targets 8.0,9.0]

Needs no GPU. These are counts in machine code, not times: ``gpu.py`` measures times. Counted is the
loop over the layers behind the first two, on 32 × 32 × 3 images in float32. Each group of rows has
two pieces of code: one for the group with the cut, which compares floats (FSET), and one for all
other groups. They are counted by how many groups run them.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from _measure import write

from ntkdist import Architecture
from ntkdist.kernels.chain import chain_of

SHAPE = (32, 32, 3)
NETWORKS = ("cntk-gap-21", "myrtle-10")
SHARED_KIB = {(8, 6): 100, (8, 9): 100, (12, 0): 100, (8, 0): 164}  # else 228
_LABEL = re.compile(r"(\.L_x_\d+):")
_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]+\*/\s+(@!?U?P\w+\s+)?([A-Z0-9_]+)(.*);")
_TARGET = re.compile(r"\((\.L_x_\d+)\)")


class Code:
    """A kernel's instructions, from what ``nvdisasm -c`` prints.

    Attributes:
        names: Of the instructions, without their options: ``FFMA``.
        after: For each, the indices of those that may follow it.
    """

    def __init__(self, listing: str) -> None:
        self.names: list[str] = []
        labels: dict[str, int] = {}
        ways: list[tuple[bool, str | None]] = []  # whether it may go on, and to which label
        for line in listing.splitlines():
            if label := _LABEL.match(line):
                labels[label[1]] = len(self.names)
            if found := _INSTRUCTION.match(line):
                to = _TARGET.search(found[3]) if found[2] == "BRA" else None
                # a branch may have a second predicate in front of its target
                guarded = bool(found[1]) or (to is not None and "P" in found[3][: to.start()])
                goes_on = guarded or (to is None and found[2] not in ("EXIT", "RET"))
                self.names.append(found[2])
                ways.append((goes_on, to[1] if to else None))
        self.after = [
            ([at + 1] if goes_on and at + 1 < len(ways) else [])
            + ([labels[to]] if to in labels else [])
            for at, (goes_on, to) in enumerate(ways)
        ]

    def loops(self) -> list[set[int]]:
        """Return the instructions of each loop, those within it included."""
        before: list[list[int]] = [[] for _ in self.names]
        for at, follow in enumerate(self.after):
            for to in follow:
                before[to].append(at)
        bodies: dict[int, set[int]] = {}
        for at, follow in enumerate(self.after):
            for head in (to for to in follow if to <= at):
                body = bodies.setdefault(head, {head})
                waiting = [at]
                while waiting:
                    here = waiting.pop()
                    if here not in body:
                        body.add(here)
                        waiting += before[here]
        return list(bodies.values())

    def basic_blocks(self, body: set[int]) -> list[list[int]]:
        """Cut a loop's instructions where branches begin or end."""
        entered = Counter(to for at in body for to in self.after[at])
        blocks: list[list[int]] = []
        for at in sorted(body):
            previous = blocks[-1][-1] if blocks else -1
            goes_on = previous >= 0 and self.after[previous] == [at] and entered[at] == 1
            if goes_on:
                blocks[-1].append(at)
            else:
                blocks.append([at])
        return blocks


def executed(code: Code, cells: int, groups: int) -> Counter[str]:
    """Count what a lane executes in one pass of the loop over layers.

    Args:
        code: Of a fused kernel.
        cells: Of a lane; each has one reciprocal root in each layer.
        groups: Of rows, each with two pieces of code; 1 if there is one piece for all rows.
    """
    most = 2 * cells if groups > 1 else cells

    def roots(body: set[int]) -> int:
        return sum(code.names[at] == "MUFU" for at in body)

    loop = min((body for body in code.loops() if cells <= roots(body) <= most), key=len)
    counted: Counter[str] = Counter()
    for block in code.basic_blocks(loop):
        names = Counter(code.names[at] for at in block)
        share = 1.0
        if groups > 1 and names["MUFU"]:
            share = 1 / groups if names["FSET"] > 2 else 1 - 1 / groups
        for name, count in names.items():
            counted[name] += share * count  # type: ignore[assignment]
    return counted


def tool(name: str) -> str:
    """Return the path of a tool of CUDA that a Python package installs."""
    for folder in map(Path, sys.path):
        for path in sorted(folder.glob(f"nvidia/*/bin/{name}")):
            return str(path)
    raise SystemExit(f"{name} is not found; pip install nvidia-cuda-nvcc-cu12 nvidia-cuda-nvdisasm")


def compiled(spec: Any, target: tuple[int, int]) -> str:
    """Return PTX of the fused kernel of a block."""
    from numba import cuda, float32, float64, int64, types

    from ntkdist.kernels.cuda.fused import fused_kernel

    def array(kind: Any, ndim: int) -> Any:
        return types.Array(kind, ndim, "C")

    real = float32 if spec.dtype == "float32" else float64
    signature = (
        *(array(int64, 2), int64, int64, int64, array(int64, 1), array(int64, 1)),
        *(array(real, 2), array(real, 2), int64, array(real, 5), array(int64, 2), array(real, 2)),
        *(int64, array(real, 1), array(float64, 4), array(real, 5)),
    )
    function = fused_kernel(spec).py_func
    text, _ = cuda.compile(function, signature, cc=target, output="ptx", device=False, abi="numba")
    return str(text)


def count(spec: Any, target: tuple[int, int]) -> dict[str, Any]:
    """Compile one fused kernel, and count."""
    from ntkdist.kernels.cuda.fused import fused_kernel, known_of

    most = fused_kernel(spec).targetoptions.get("max_registers")
    with tempfile.TemporaryDirectory() as folder:
        ptx, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        ptx.write_text(compiled(spec, target))
        command = [tool("ptxas"), "-v", f"-arch=sm_{target[0]}{target[1]}", "-o", cubin, ptx]
        command += [f"-maxrregcount={most}"] if most else []
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        command = [tool("nvdisasm"), "-c", cubin]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = [
        int(found[1]) if (found := re.search(pattern, said)) else 0
        for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores", r"(\d+) bytes smem")
    ]
    row = dict(zip(("registers", "spilled_bytes", "shared_bytes"), numbers, strict=True))
    if spec.layers < 3:
        return row
    cells = spec.H * spec.columns
    counted = executed(Code(listing), cells, known_of(spec)["row_groups"])
    return row | {
        "instructions_a_cell_and_layer": round(counted.total() / cells, 1),
        "by_kind": {name: round(n / cells, 2) for name, n in counted.most_common(14)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--targets", default="8.0,9.0", help="compute capabilities")
    options = parser.parse_args()
    from numba import cuda
    from numba.cuda import dispatcher

    from ntkdist.kernels.cuda.layout import layout_of

    rows = []
    for text in options.targets.split(","):
        major, minor = map(int, text.split("."))

        class Device:  # what is laid out and compiled for
            compute_capability = (major, minor)
            MAX_SHARED_MEMORY_PER_MULTIPROCESSOR = SHARED_KIB.get((major, minor), 228) * 1024

        cuda.get_current_device = dispatcher.get_current_device = lambda device=Device: device
        layout_of.cache_clear()
        for name in options.networks.split(","):
            chain = chain_of(Architecture.parse(name))
            if chain is None:
                raise SystemExit(f"{name} has no fused kernel")
            for block in layout_of(chain, SHAPE, "float32").blocks:
                if block.fused is None:
                    continue
                row = {"network": name, "block": f"{block.H}×{block.W}", "target": text}
                row |= {"columns": block.fused.columns, "buffers": block.fused.buffers}
                rows.append(row | count(block.fused, (major, minor)))
                print({k: v for k, v in rows[-1].items() if k != "by_kind"}, flush=True)
    print(write("instructions", rows))


if __name__ == "__main__":
    main()
