"""Kernel entries of the cuda backend on one GPU: rates, shares of what it can do, and a peer.

    python jobs/benchmarks/gpu.py                                  # every network, about 20 minutes
    python jobs/benchmarks/gpu.py --networks cntk-gap-11,fc-10 --repeats 9 --output gap11.json
    NUMBA_ENABLE_CUDASIM=1 python jobs/benchmarks/gpu.py --simulate           # tests this script
    python jobs/benchmarks/gpu.py --markdown results/gpu.json                 # the tables again

Needs numpy, scipy, numba and numba-cuda; with jax, a plain XLA implementation (``_xla.py``) is
timed on the same GPU in turns, and neural-tangents where it can be imported. Both kinds of
kernel come out of one pass, in float32, on random standardised images. Medians of alternating
repeats, each with synchronisation, the entries left on the device on both sides; bringing ours
to the host, as ``block`` does, is timed beside. Preparing images, which a tile's many entries
share, is timed apart, and compiling not at all.

No network is timed before its results are checked: entries against the float64 reference, two
runs equal to the bit, and the peer against the reference on small images (``--check`` ends
here), then as it is timed against the cuda backend. Operations are counted in ``_work.py``, and the
GPU's peak and copy bandwidth measured between the repeats (``_gpu_peak.py``). Device traffic is
the least there can be: prepared images read once a block, entries written, cells in front of
pools written and read. GPU-hours are the rate extrapolated to the N(N + 1)/2 entries of
N = 50,000, and to several GPUs by division alone.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from _gpu_check import Refused, check_backend, check_peer, compare, differ
from _record import RESULTS, write
from _work import CELL_LAYER, work_of

from ntkdist import Architecture
from ntkdist.errors import InputError
from ntkdist.kernels import cuda_device, get_backend

NETWORKS = (
    *("cntk-gap-4", "cntk-gap-11", "cntk-gap-21", "myrtle-5", "myrtle-7", "myrtle-10"),
    *("cnn-3", "cntk-v-21", "fc-10"),
)
SHAPE, TOY_SHAPE = (32, 32, 3), (3, 4, 2)
TOY_NETWORKS = ("cntk-gap-4", "cntk-v-4", "fc-2")
KINDS = ("ntk", "nngp")
N = 50_000
ENTRIES = N * (N + 1) // 2
FLEETS = (1, 8, 64)  # GPUs
LARGEST_EDGE, LARGEST_DENSE_EDGE = 2048, 8192  # images a side of a block that is timed
PEER_SHARE = 0.3  # of the free device memory, for one call of the peer
PREPARED = 256  # images whose preparation is timed
TABLE = ("network", "µs/entry", "entries/s", "µs/entry/layer", "of fp32 peak", "of fp32 slots",
         "of copy", "XLA µs/entry", "ratio (range)", "GPU-hours on 1, 8, 64")  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A block of entries that can be timed again and again.

    Attributes:
        run: Computes it, and returns when it is done.
        rows: Entries in a column.
        columns: Entries in a row.
        calls: Calls in one timing.
    """

    run: Callable[[], Any]
    rows: int
    columns: int
    calls: int = 1

    def us(self) -> float:
        """Time it; microseconds an entry."""
        start = time.perf_counter()
        for _ in range(self.calls):
            self.run()
        return (time.perf_counter() - start) / (self.calls * self.rows * self.columns) * 1e6

    def lasting(self, seconds: float) -> Block:
        """Compile it and return it with the calls that make a timing that long."""
        self.run()
        once = self.us() * self.rows * self.columns / 1e6
        return replace(self, calls=max(1, math.ceil(seconds / once)))


def images(count: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Draw (count, H, W, C) standardised float32 images."""
    return np.random.default_rng(seed).standard_normal((count, *shape), np.float32)


def our_blocks(arch: Architecture, seconds: float) -> tuple[dict[str, Block], dict[str, Any]]:
    """Return a block of the cuda backend that takes that long, or is as large as may be.

    By name: ``cuda`` leaves the entries on the device, ``host`` brings them to the host.
    """
    backend: Any = get_backend("cuda")
    largest = LARGEST_EDGE if arch.is_spatial else LARGEST_DENSE_EDGE
    rows = columns = 16
    while True:
        a, b = (backend.prepare(arch, images(n, SHAPE, k)) for k, n in ((1, rows), (2, columns)))
        block = Block(lambda a=a, b=b: _on_device(backend, a, b), rows, columns)
        block.run()
        us = block.us()
        if us * rows * columns / 1e6 > seconds or columns == largest:
            break
        rows, columns = (2 * rows, columns) if rows < columns else (rows, 2 * columns)
    to_host = Block(lambda: backend.block(a, b, KINDS), rows, columns)
    first, second = to_host.run(), to_host.run()
    if any(differ(first[kind], second[kind]) for kind in KINDS):
        raise Refused(f"two runs of {rows} × {columns} entries differ in their bits")
    several = images(PREPARED, SHAPE, 3)
    times = []
    for _ in range(4):  # the first allocates
        _synchronize()
        start = time.perf_counter()
        backend.prepare(arch, several)
        _synchronize()
        times.append((time.perf_counter() - start) / PREPARED * 1e6)
    about = {
        "rows": rows,
        "columns": columns,
        "prepare_us_per_image": statistics.median(times[1:]),
        "state_bytes_per_image": b.nbytes / columns,
        "traffic_bytes_per_entry": (a.nbytes + b.nbytes) / (rows * columns) + 8,
    }
    return {"cuda": block.lasting(seconds), "host": to_host.lasting(seconds)}, about


def _on_device(backend: Any, a: Any, b: Any) -> None:
    backend.block_on_device(a, b, KINDS)
    _synchronize()


def _synchronize() -> None:
    from numba import cuda

    cuda.synchronize()


def peer_block(arch: Architecture, seconds: float) -> tuple[Block, dict[str, Any]]:
    """Return the XLA peer's fastest block: filters in one pass or two, and images a side."""
    from _xla import XlaPeer

    free = cuda_device.devices()[0].free
    tried: dict[str, float] = {}
    found: dict[str, Block] = {}

    def attempt(peer: Any, side: int) -> float:
        name = f"{side} × {side}, {'2 passes' if peer.separable else '1 pass'}"
        if side**2 * peer.bytes_of_pair(SHAPE) > PEER_SHARE * free:
            return math.inf
        try:
            a, b = (peer.prepare(images(side, SHAPE, k)) for k in (1, 2))
            block = Block(lambda: peer.block(a, b), side, side).lasting(seconds / 4)
            tried[name] = block.us()
        except Exception as error:  # XLA's own type moves from version to version
            if "RESOURCE_EXHAUSTED" not in str(error) and "ut of memory" not in str(error):
                raise
            return math.inf
        found[name] = block
        return tried[name]

    side = 4 if arch.is_spatial else 512
    peers = [XlaPeer(arch, separable=True)]
    if arch.is_spatial:
        peers.append(XlaPeer(arch, separable=False))
    times = [attempt(peer, side) for peer in peers]
    best, us = peers[int(np.argmin(times))], min(times)
    while side < LARGEST_DENSE_EDGE:
        side *= 2
        slower, us = us, attempt(best, side)
        if us > 1.05 * slower:  # small steps back may be noise
            break
    if not tried:
        raise Refused("not even a few pairs fit the device memory")
    name = min(tried, key=lambda name: tried[name])
    block = found[name].lasting(seconds)
    x, y = images(4, SHAPE, 1), images(4, SHAPE, 2)  # its first ones
    difference = compare(np.asarray(block.run())[:, :4, :4], arch, x, y)
    return block, {"block": name, "tried_us_per_entry": tried, "difference": difference}


def neural_tangents_block(arch: Architecture) -> Any:
    """Return neural-tangents' fastest block (see ``kernel.py``); raises ``InputError`` if none."""
    from ntkdist.kernels.stax import import_neural_tangents

    import_neural_tangents()
    import kernel

    case = kernel.Case(str(arch), arch, SHAPE, 1, True)
    return kernel.peer_block(case, [2, 4], 2000, 8.0)[0]


def measure(name: str, arch: Architecture, args: argparse.Namespace) -> dict[str, Any]:
    """Check and time one network; its row."""
    from _gpu_peak import copy_gbs, peak_gflops, registers_of_chains

    row: dict[str, Any] = {"network": name, "shape": list(SHAPE), "kinds": list(KINDS)}
    row["checks"] = check_backend(arch, SHAPE)
    work = work_of(arch, SHAPE)
    row["work"] = asdict(work)
    seconds = args.seconds / (3 * args.repeats)  # three sides at least
    blocks: dict[str, Any]
    blocks, row["block"] = our_blocks(arch, seconds)
    row["xla"], row["neural_tangents"] = None, None
    try:  # first: importing it changes jax's settings, for which the peer would compile again
        blocks["neural_tangents"] = neural_tangents_block(arch)
    except (ImportError, InputError) as error:
        row["neural_tangents_reason"] = str(error)
    try:
        row["checks"] |= check_peer(arch, SHAPE)
        blocks["xla"], row["xla"] = peer_block(arch, seconds)
    except (ImportError, Refused) as error:
        row["xla_reason"] = str(error)
    times: dict[str, list[float]] = {who: [] for who in blocks}
    peaks, copies = [], []
    for _ in range(args.repeats):
        for who, block in blocks.items():
            times[who].append(block.us() if isinstance(block, Block) else block.ms() * 1e3)
        peaks.append(peak_gflops())
        copies.append(copy_gbs())
    row |= {"peak_gflops": max(peaks), "copy_gbs": max(copies), "us": times}
    us = statistics.median(times["cuda"])
    row |= rates(us, work, row)
    row["us_per_entry_to_host"] = statistics.median(times["host"])
    row["peak_kernel"] = registers_of_chains()
    for who in ("xla", "neural_tangents"):
        if who in times:
            ratios = [p / c for p, c in zip(times[who], times["cuda"], strict=True)]
            row[who] = (row[who] or {}) | {
                "us_per_entry": statistics.median(times[who]),
                "ratio": statistics.median(times[who]) / us,
                "ratio_range": [min(ratios), max(ratios)],
            }
    row["kernels"] = [asdict(x) for x in cuda_device.kernel_reports(arch, SHAPE, "float32")]
    return row


def rates(us: float, work: Any, row: dict[str, Any]) -> dict[str, Any]:
    """Return everything that follows from microseconds an entry and the measured peaks."""
    traffic = row["block"]["traffic_bytes_per_entry"] + work.exchanged
    bound = work.slots / (row["peak_gflops"] / 2 * 1e3)  # µs: a slot is one multiply-add's time
    return {
        "us_per_entry": us,
        "entries_per_second": 1e6 / us,
        "us_per_entry_layer": us / work.layers,
        "ps_per_cell_layer": us * 1e6 / work.cell_layers,
        "share_of_peak": work.flops / (us * 1e3) / row["peak_gflops"],
        "bound_us_per_entry": bound,
        "share_of_slots": bound / us,
        "share_of_copy": traffic / (us * 1e3) / row["copy_gbs"],
        "gpu_hours": {str(k): ENTRIES * us / 1e6 / 3600 / k for k in FLEETS},
    }


def check(name: str, arch: Architecture, simulated: bool) -> dict[str, Any]:
    """Check one network and time nothing; on the simulator at toy size."""
    from _gpu_peak import copy_gbs, peak_gflops

    shape = TOY_SHAPE if simulated else SHAPE
    row: dict[str, Any] = {"network": name, "shape": list(shape), "simulated": simulated}
    row["checks"] = check_backend(arch, shape)
    row["checks"] |= check_peer(arch, shape, need_gpu=not simulated)
    row["work"] = asdict(work_of(arch, shape))
    row["kernels"] = [asdict(x) for x in cuda_device.kernel_reports(arch, shape, "float32")]
    if simulated:
        peak_gflops(runs=1), copy_gbs(runs=1)  # they check what they computed
    return row


def markdown(result: dict[str, Any]) -> str:
    """Return a result as a GitHub table."""
    lines = [TABLE, ("---", *["---:"] * (len(TABLE) - 1))]
    lines += [_cells(row) for row in result["rows"]]
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    timed = [row for row in result["rows"] if "us_per_entry" in row]
    gpu, peak = result["machine"]["gpu"][0], max((x["peak_gflops"] for x in timed), default=0)
    copy = max((x["copy_gbs"] for x in timed), default=0)
    return (
        f"{text}\n\n{gpu['name']}, compute capability {gpu['compute_capability']}, driver "
        f"{gpu['driver']}, {result['machine']['time'][:10]}; measured peak {peak / 1e3:.1f} "
        f"TFLOP/s of float32, copy {copy:.0f} GB/s; {'×'.join(map(str, SHAPE))} images, NTK and "
        f"NNGP in one pass, float32; GPU-hours for N = {N:,}, several GPUs by division."
    )


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    if "refused" in row:
        return (row["network"], f"not timed: {row['refused']}", *[""] * (len(TABLE) - 2))
    peer = row["xla"]
    low, high = peer["ratio_range"] if peer else (0, 0)
    return (
        row["network"],
        f"{row['us_per_entry']:.3g}",
        f"{row['entries_per_second']:,.0f}",
        f"{row['us_per_entry_layer']:.3g}",
        f"{row['share_of_peak']:.0%}",
        f"{row['share_of_slots']:.0%}",
        f"{row['share_of_copy']:.1%}",
        f"{peer['us_per_entry']:.3g}" if peer else "",
        f"{peer['ratio']:.3g} ({low:.3g} to {high:.3g})" if peer else "",
        ", ".join(f"{row['gpu_hours'][str(k)]:.3g}" for k in FLEETS),
    )


def why_not(simulate: bool) -> str | None:
    """Return why nothing can be done here."""
    if simulate:
        return None if cuda_device.simulated() else "--simulate needs NUMBA_ENABLE_CUDASIM=1"
    if cuda_device.simulated():
        return "this is the simulator, which has no speed; --simulate tests the script on it"
    return cuda_device.cuda_unavailable()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", help=f"presets, by commas ({','.join(NETWORKS)})")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each, in turns (5)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing a network (10)")
    parser.add_argument("--output", type=Path, help="JSON to write (results/gpu.json)")
    parser.add_argument("--check", action="store_true", help="check, time nothing")
    parser.add_argument("--simulate", action="store_true", help="check at toy size, time nothing")
    parser.add_argument("--markdown", type=Path, metavar="JSON", help="print a result and leave")
    args = parser.parse_args()
    if args.markdown:
        here = args.markdown if args.markdown.exists() else RESULTS.parent / args.markdown
        try:
            print(markdown(json.loads(here.read_text())))
        except OSError as error:
            parser.error(str(error))
        return
    if reason := why_not(args.simulate):
        print(f"gpu.py: nothing is measured: {reason}", file=sys.stderr)
        sys.exit(2)
    default = TOY_NETWORKS if args.simulate else NETWORKS
    try:
        names = args.networks.split(",") if args.networks else default
        networks = {name: Architecture.parse(name) for name in names}
        for arch in networks.values():
            if arch.is_spatial:
                arch.check_image(*(TOY_SHAPE if args.simulate else SHAPE)[:2])
    except InputError as error:
        parser.error(str(error))
    timed = not (args.check or args.simulate)
    path = args.output or (RESULTS / "gpu.json" if timed else None)
    command = " ".join(["python jobs/benchmarks/gpu.py", *sys.argv[1:]])
    rows: list[dict[str, Any]] = []
    for name, arch in networks.items():
        try:
            rows.append(measure(name, arch, args) if timed else check(name, arch, args.simulate))
        except (Refused, ImportError) as error:
            rows.append({"network": name, "refused": str(error)})
        print(f"{name}: {summary(rows[-1])}", flush=True)
        if path:  # after each network: the next may take long
            write(path, rows, command, {"cell_layer": CELL_LAYER})
    if path:
        print(path)
    if path and timed:
        print(markdown(json.loads(path.read_text())))
    if any("refused" in row for row in rows):
        sys.exit(1)


def summary(row: dict[str, Any]) -> str:
    """Return a row as one line of progress."""
    if "refused" in row:
        return f"refused: {row['refused']}"
    if "us_per_entry" not in row:
        return f"checked, largest error {row['checks']['largest_error']:.1e}"
    peer = f"XLA {row['xla']['ratio']:.3g} times that" if row["xla"] else row["xla_reason"]
    return f"{row['us_per_entry']:.3g} µs an entry, {row['share_of_peak']:.0%} of peak; {peer}"


if __name__ == "__main__":
    main()
