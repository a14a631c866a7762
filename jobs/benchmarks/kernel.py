"""Kernel entries of the cpu backend against neural-tangents, in one process and in turns.

    python jobs/benchmarks/kernel.py                         # every case, many minutes
    python jobs/benchmarks/kernel.py --case cntk-gap-11:32x32x3 --repeats 9 --name gap11
    python jobs/benchmarks/kernel.py --case cntk-lap-11-2:32x32x3 --case strided-residual:32x32x3
    python jobs/benchmarks/kernel.py --alone cntk-gap-11:8x8x1            # cpu only, one core
    python jobs/benchmarks/kernel.py --markdown results/kernel.json       # the table of a README

Both get the same images and all cores, and medians of alternating repeats are compared, with
the range of the ratio over the repeats. neural-tangents runs as its users run it: its jitted
kernel function in float32, NTK alone, in batches of the size that suits it best. The cpu
backend computes NTK and NNGP in one pass, in blocks of whole lanes of columns and with rows
for every thread. Compiling is not timed. ``prepare``, which a tile's many entries share, is timed
apart and recorded for an image; neural-tangents computes its diagonals with every call, and
larger batches share them.

The bound beside the result, from counting operations: a cell of a full layer (ReLU duals, NTK
and NNGP, 3 × 3 sums) issues 17 vector instructions to the multiply pipes and a square root, two
issue slots, for every 16 cells; 10 additions go to other pipes. About 20 cycles for 16 cells are
0.34 ns a cell and layer at 3.68 GHz on one core that issues one 512-bit multiply-add a cycle
(512-bit vectors at half rate). The additions make that slightly more than the measured
"peak", which is of multiply-adds alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _measure import Block, images, in_turns, ratios, timed, write
from _networks import NETWORKS, cells_of, network
from cpu_peak import peak_gflops

from ntkdist import Architecture, AvgPool, Conv, GlobalAvgPool
from ntkdist.errors import InputError
from ntkdist.kernels import get_backend
from ntkdist.kernels.stax import build, import_neural_tangents

CASES = (
    *(f"{preset}:32x32x3" for preset in ("cntk-gap-4", "cntk-gap-11", "cntk-gap-21")),
    *(f"{preset}:32x32x3" for preset in ("cntk-v-11", "myrtle-5", "myrtle-7", "myrtle-10")),
    *(f"{preset}:28x28x1" for preset in ("cnn-3", "fc-2", "fc-10")),
)
ALONE = ("cntk-gap-11:8x8x1", "cntk-gap-11:14x14x1")
TABLE = {  # columns and their widths in a terminal
    "network": 18,
    "image": 10,
    "cores": 6,
    "neural-tangents": 17,
    "cpu": 11,
    "ratio (range)": 30,
    "ns/cell/layer": 15,
    "of peak": 9,
}
HEADER, WIDTHS = tuple(TABLE), tuple(TABLE.values())

# Operations of a cell and full layer (ReLU duals, NTK and NNGP, 3 × 3 sums): 10 additions, 4
# multiplications, 13 fused multiply-adds that count 2, and a square root. The first ReLU, where
# correlations may be negative, takes a few more, which are not counted.
FLOPS = 41
LANES = 16  # columns a block of the cpu backend holds a whole number of
SETTLE = 0.1  # seconds before each timing, in which the other side's threads go to sleep
SHORTEST = 0.3  # seconds that one timing takes at least
LARGEST_BATCH = 2**28  # bytes of one array of neural-tangents' state
LARGEST_DIFFERENCE = 1e-2  # relative; beyond it the two do not compute the same thing


@dataclass(frozen=True)
class Case:
    """A network on one size of images.

    Attributes:
        name: The preset.
        arch: Its layers.
        shape: (H, W, C) of the images.
        cores: Cores to use.
        peer: Whether neural-tangents is timed too.
    """

    name: str
    arch: Architecture
    shape: tuple[int, int, int]
    cores: int
    peer: bool

    @property
    def layers(self) -> int:
        """The number of convolutions."""
        return sum(isinstance(x, Conv) for x in self.arch.layers)

    @property
    def cells(self) -> int | None:
        """As ``cells_of``; None without filters."""
        return cells_of(self.arch, self.shape) if self.layers else None

    def images(self, count: int, seed: int) -> np.ndarray:
        """Draw images; fewer of one seed are the first of more."""
        return images(count, self.shape, seed)


def cpu_block(case: Case, threads: int, edge: int) -> Block:
    """Return a block of the cpu backend, grown until one call takes ``SHORTEST`` seconds."""
    backend = get_backend("cpu", dtype="float32", threads=threads)

    def block(rows: int, columns: int) -> Block:
        x, y = case.images(rows, seed=1), case.images(columns, seed=2)
        seconds, (a, b) = timed(lambda: [backend.prepare(case.arch, side) for side in (x, y)])
        ms = seconds / (rows + columns) * 1e3
        run = lambda: backend.block(a, b, ("ntk", "nngp"))["ntk"]  # noqa: E731
        return Block(run, rows, columns, settle=SETTLE, prepare_ms=ms).lasting(SHORTEST)

    if not case.arch.is_spatial:
        return block(edge, edge)
    rows, columns = LANES * -(-threads // 2), LANES
    while (grown := block(rows, columns)).calls > 1 and columns < 1024:
        rows, columns = (2 * rows, columns) if rows <= columns else (rows, 2 * columns)
    return grown


def peer_block(
    case: Case, sizes: list[int], edge: int, limit: float
) -> tuple[Block, dict[int, float]]:
    """Return neural-tangents' fastest block and milliseconds an entry by images a side.

    The largest of ``sizes`` is doubled while that is faster and a call takes less than
    ``limit`` seconds.
    """
    import_neural_tangents()
    import jax
    import jax.numpy as jnp

    build_kernel = build(case.arch)[2]
    kernel_fn = jax.jit(lambda a, b: build_kernel(a, b, "ntk"))

    def block(n: int) -> Block:
        x, y = (jnp.asarray(case.images(n, seed)) for seed in (1, 2))
        run = lambda: kernel_fn(x, y).block_until_ready()  # noqa: E731
        return Block(run, n, n, settle=SETTLE).lasting(SHORTEST)

    pooled = any(isinstance(x, (AvgPool, GlobalAvgPool)) for x in case.arch.layers)
    pixels = case.shape[0] * case.shape[1]
    each = 4 * (pixels**2 if pooled else pixels)
    todo = sorted(sizes) if case.arch.is_spatial else [edge]
    tried: dict[int, tuple[float, Block]] = {}
    for n in todo:
        candidate = block(n)
        ms = candidate.us() / 1e3
        tried[n] = ms, candidate
        fastest = min(tried, key=lambda n: tried[n][0])
        seconds = 4 * n**2 * ms / 1e3
        room = 4 * n**2 * each <= LARGEST_BATCH
        if case.arch.is_spatial and n == todo[-1] == fastest and seconds < limit and room:
            todo.append(2 * n)
    return tried[fastest][1], {n: ms for n, (ms, _) in tried.items()}


def measure(case: Case, args: argparse.Namespace) -> dict[str, Any]:
    """Time one case; the row of the table."""
    row: dict[str, Any] = {"arch": case.name, "shape": list(case.shape), "cores": case.cores}
    why_not = get_backend("cpu").supports(case.arch, case.shape)
    if why_not:
        return row | {"skipped": why_not}
    blocks: dict[str, Block] = {}
    if case.peer:
        blocks["peer"], tried = peer_block(case, args.images, args.block, args.limit)
        row["neural_tangents_images"] = blocks["peer"].rows
        row["neural_tangents_tried_ms"] = tried
    blocks["cpu"] = cpu_block(case, case.cores, args.block)
    if case.peer:
        row["largest_difference"] = difference(case, blocks["peer"], blocks["cpu"])
    if case.cores > 1 and case.cells:
        blocks["core"] = cpu_block(case, 1, args.block)
    clocks = {name: block.us for name, block in blocks.items()}
    times = in_turns({**clocks, "peak": peak_gflops}, args.repeats)
    row["peak_gflops"] = max(times.pop("peak"))
    times = {name: [us / 1e3 for us in each] for name, each in times.items()}  # ms
    if case.peer:
        row["neural_tangents_ms"] = statistics.median(times["peer"])
        row["ratio"], row["ratio_range"] = ratios(times["peer"], times["cpu"])
    row["cpu_ms"] = statistics.median(times["cpu"])
    row["cpu_prepare_ms_per_image"] = blocks["cpu"].prepare_ms
    row["cpu_ns_per_cell_layer_core"] = row["share_of_peak"] = None
    if case.cells:
        ns = statistics.median(times.get("core", times["cpu"])) * 1e6 / (case.cells * case.layers)
        row["cpu_ns_per_cell_layer_core"] = ns
        if all(x.size == 3 for x in case.arch.layers if isinstance(x, Conv)):
            row["share_of_peak"] = FLOPS / ns / row["peak_gflops"]
            row["flops_per_cell_layer"] = FLOPS
    row["blocks"] = {
        name: {"rows": b.rows, "columns": b.columns, "calls": b.calls} for name, b in blocks.items()
    }
    row["ms"] = times
    return row


def difference(case: Case, peer: Block, ours: Block) -> float:
    """Return the largest difference of the entries both have, relative to the largest entry."""
    theirs, found = np.asarray(peer.run()), ours.run()
    rows, columns = min(peer.rows, ours.rows), min(peer.columns, ours.columns)
    theirs, found = theirs[:rows, :columns], found[:rows, :columns]
    largest = float(np.max(np.abs(found - theirs)) / np.max(np.abs(theirs)))
    if not largest < LARGEST_DIFFERENCE:
        sys.exit(f"{case.name}: the cpu backend and neural-tangents differ by {largest:.1e}")
    return largest


def read_case(text: str, cores: int, peer: bool) -> Case:
    """Read ``PRESET:HxWxC``; raises ``ValueError`` with the form that is needed."""
    name, _, size = text.partition(":")
    try:
        height, width, channels = (int(x) for x in size.split("x"))
        arch = network(name)
        arch.check_image(height, width)
        return Case(name, arch, (height, width, channels), cores, peer)
    except (ValueError, InputError) as error:
        known = ", ".join(NETWORKS)
        raise ValueError(f"case {text!r} should be PRESET:HxWxC, or {known}: {error}") from error


def texts_of(row: dict[str, Any]) -> list[str]:
    """Return one row as texts under ``HEADER``; times are of one entry."""
    cells = [row["arch"], "×".join(map(str, row["shape"]))]
    if "skipped" in row:
        return [*cells, f"skipped: {row['skipped']}"]
    peer, ratio = "", ""
    if "ratio" in row:
        low, high = row["ratio_range"]
        peer = duration(row["neural_tangents_ms"])
        ratio = f"{row['ratio']:.3g} ({low:.3g} to {high:.3g})"
    ns, share = row["cpu_ns_per_cell_layer_core"], row["share_of_peak"]
    rates = [f"{ns:.2f}" if ns else "", f"{share:.0%}" if share else ""]
    return [*cells, str(row["cores"]), peer, duration(row["cpu_ms"]), ratio, *rates]


def duration(ms: float) -> str:
    """Return milliseconds with three digits, in the unit that suits them."""
    units = ((1.0, "ms"), (1e3, "µs"), (1e6, "ns"))
    factor, unit = next((x for x in units if ms * x[0] >= 1), units[-1])
    value = ms * factor
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def line(cells: Sequence[str]) -> str:
    """Return a row of the table in a terminal."""
    padded = [f"{x:<{w}}" for x, w in zip(cells, WIDTHS, strict=False)]
    if len(cells) == len(HEADER):  # else a sentence instead of figures
        padded[2:] = [f"{x:>{w}}" for x, w in zip(cells[2:], WIDTHS[2:], strict=True)]
    return "".join(padded).rstrip()


def markdown(path: Path) -> str:
    """Return a result as a GitHub table; ``path`` counts from here or from this file's folder."""
    if not path.exists():
        path = Path(__file__).parent / path
    result = json.loads(path.read_text())
    lines = [HEADER, ("---", "---", *["---:"] * (len(HEADER) - 2))]
    for row in result["rows"]:
        cells = [x.replace("|", "\\|") for x in texts_of(row)]
        lines.append((*cells, *[""] * (len(HEADER) - len(cells))))
    peak = max((row.get("peak_gflops", 0.0) for row in result["rows"]), default=0.0)
    found = result["machine"]
    return (
        "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        + f"\n\n{found['cpu']}, {found['cores']} cores, {found['time'][:10]}; "
        + f"one core's measured float32 peak is {peak:.0f} GFLOP/s."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--case", action="append", metavar="PRESET:HxWxC", help="a network; may be repeated"
    )
    parser.add_argument(
        "--alone",
        action="append",
        metavar="PRESET:HxWxC",
        help="a network for the cpu backend alone, on one core; may be repeated",
    )
    parser.add_argument("--no-peer", action="store_true", help="leave neural-tangents out")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each (5)")
    parser.add_argument(
        "--images",
        type=lambda text: [int(x) for x in text.split(",")],
        default=[1, 2, 4],
        help="images a side to try with neural-tangents; the largest is doubled while "
        "that is faster (1,2,4)",
    )
    parser.add_argument(
        "--limit", type=float, default=8.0, help="seconds no doubled call may take (8)"
    )
    parser.add_argument(
        "--block", type=int, default=2000, help="images a side for fully connected networks (2000)"
    )
    parser.add_argument("--name", default="kernel", help="results/NAME.json (kernel)")
    parser.add_argument("--markdown", type=Path, metavar="JSON", help="print a result and leave")
    args = parser.parse_args()
    if args.markdown:
        try:
            print(markdown(args.markdown))
        except OSError as error:
            parser.error(str(error))
        return
    if not args.case and not args.alone:
        args.case, args.alone = CASES, ALONE
    peer = not args.no_peer
    if peer and args.case:
        try:
            import_neural_tangents()
        except InputError as error:
            print(f"the cpu backend alone: {error}")
            peer = False
    cores = len(os.sched_getaffinity(0))
    try:
        cases = [read_case(x, cores, peer) for x in args.case or ()]
        cases += [read_case(x, 1, False) for x in args.alone or ()]
    except ValueError as error:
        parser.error(str(error))
    print(line(HEADER), flush=True)
    rows: list[dict[str, Any]] = []
    for case in cases:
        rows.append(measure(case, args))
        print(line(texts_of(rows[-1])), flush=True)
        path = write(args.name, rows)  # after each case: the next may take long
    print(path)


if __name__ == "__main__":
    main()
