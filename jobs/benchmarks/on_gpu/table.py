"""Results and predictions as GitHub tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from _networks import network

from on_gpu.entries import FLEETS, FULL, N, counted
from on_gpu.peers import PEERS
from on_gpu.record import NAMES, is_timed
from on_gpu.work import CARDS, predicted_us

COLUMNS = {  # of the table: keys of a row, and how they are written
    "µs/entry": ("us_per_entry", ".3g"),
    "entries/s": ("entries_per_second", ",.0f"),
    "µs/entry/layer": ("us_per_entry_layer", ".3g"),
    "of fp32 peak": ("share_of_peak", ".0%"),
    "of fp32 slots": ("share_of_slots", ".0%"),
    "of copy": ("share_of_copy", ".1%"),
}


def markdown(result: Mapping[str, Any]) -> str:
    """Return a result as a GitHub table."""
    rows = [row for row in result["rows"] if "n" not in row]
    peers = [peer for peer in PEERS if any(is_timed(row.get(peer) or {}) for row in rows)]
    headers = ["network", *COLUMNS]
    for peer in peers:
        headers += [f"{NAMES[peer]} µs/entry", "ratio (range)"]
    headers.append(f"GPU-hours on {', '.join(map(str, FLEETS))}")
    lines = [headers, ["---", *["---:"] * (len(headers) - 1)]]
    lines += [_cells(row, peers, len(headers)) for row in rows]
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    factors = [_factor(row) for row in result["rows"] if "seconds_on_gpu" in row]
    return "\n\n".join([text, *factors, _below(result)])


def _factor(row: Mapping[str, Any]) -> str:
    low, high = row["ratio_range"]
    return (
        f"Cholesky factor, N = {row['n']:,}, float64, from memory into a store: "
        f"{row['seconds_on_gpu']:.3g} s with panels on the GPU, {row['gflops']:,.0f} GFLOP/s; on "
        f"the CPU {row['ratio']:.3g} ({low:.3g} to {high:.3g}) times that."
    )


def _cells(row: Mapping[str, Any], peers: Sequence[str], count: int) -> list[str]:
    name = row["network"]
    if "us_per_entry" not in row:
        why = row.get("refused") or row.get("failed")
        words = f"not timed: {why}" if why else "checked, not timed"
        return [name, words, *[""] * (count - 2)]
    cells = [name, *(f"{row[key]:{form}}" if key in row else "" for key, form in COLUMNS.values())]
    for peer in peers:
        found = row.get(peer) or {}
        if "ratio" in found:
            low, high = found["ratio_range"]
            cells.append(f"{found['us_per_entry']:.3g}")
            cells.append(f"{found['ratio']:.3g} ({low:.3g} to {high:.3g})")
        else:
            cells += ["", ""]
    return [*cells, ", ".join(f"{row['gpu_hours'][str(k)]:.3g}" for k in FLEETS)]


def _below(result: Mapping[str, Any]) -> str:
    """Return what is to be known of a table: GPU, versions, peaks, images."""
    machine, rows = result["machine"], result["rows"]
    kernels = f"kernels {result['kernels']['arithmetic']}" if "kernels" in result else ""
    if not machine["gpu"]:
        return f"Simulated GPU, {kernels}; nothing was timed."
    gpu = machine["gpu"][0]
    words = [
        f"{gpu['name']}, compute capability {gpu['compute_capability']}, driver {gpu['driver']}"
    ]
    words += [kernels] if kernels else []
    text = ", ".join([*words, machine["time"][:10]])
    timed = [row for row in rows if "us_per_entry" in row]
    if not timed:
        return f"{text}; nothing was timed."
    peak = max(row["peak_gflops"] for row in timed) / 1e3
    copy = max(row["copy_gbs"] for row in timed)
    return (
        f"{text}; measured peak {peak:.1f} TFLOP/s of float32, copy {copy:.0f} GB/s; "
        f"{'×'.join(map(str, timed[0]['shape']))} images, NTK and NNGP in one pass, float32; "
        f"GPU-hours for N = {N:,}, several GPUs by division."
    )


def predictions(names: Iterable[str], instructions: float) -> str:
    """Return a table of bounds on other GPUs, from counts of instructions alone."""
    headers = ["network", *(card.name for card in CARDS)]
    lines = [headers, ["---", *["---:"] * len(CARDS)]]
    for name in names:
        work = counted(network(name), FULL.shape)
        if work is None:
            lines.append([name, "not counted", *[""] * (len(CARDS) - 1)])
            continue
        found = (predicted_us(work, card, instructions) for card in CARDS)
        lines.append([name, *(f"{us:.3g} ({bound})" for us, bound in found)])
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    sources = "\n".join(
        f"{card.name}: {card.multiprocessors} multiprocessors, {card.mhz} MHz boost clock, "
        f"{card.fp32_lanes} float32 lanes each; {card.source}."
        for card in CARDS
    )
    return (
        f"Predicted, not measured: µs an entry if nothing but arithmetic took time, with "
        f"{instructions:g} instructions a cell and layer; issue: every issue slot is used, fp32: "
        f"every float32 lane by the operations counted in on_gpu/work.py.\n\n{text}\n\n{sources}"
    )
