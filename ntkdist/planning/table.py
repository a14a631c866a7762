"""A plan in words: a few lines, a table of devices, and what is not in it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from ntkdist.data.features import feature_words
from ntkdist.linalg.status import format_bytes
from ntkdist.networks.architecture import Architecture
from ntkdist.planning.plan import PlanEstimate


def describe_plan(plan: PlanEstimate) -> str:
    """Return a plan as a user reads it.

    Args:
        plan: The plan.

    Returns:
        Lines of ``status``'s form, and the table of devices.
    """
    shape = " × ".join(map(str, plan.shape))
    if features := len(plan.shape) == 2:
        shape = feature_words(*plan.shape)
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in plan.store_bytes.items())
    total = format_bytes(sum(plan.store_bytes.values()))
    lines = [
        _line("run", f"{plan.run}: {plan.about}"),
        _line("network", _layers(plan.architecture)),
        _line("features" if features else "images", shape),
        _line(
            "tiles",
            f"{plan.missing:,} of {plan.tiles:,} to compute, edge {plan.edge}, "
            f"{plan.entries:,} entries of {' and '.join(plan.kinds)}",
        ),
        _line("store", f"at most {total}: {parts}"),
        _line("memory", _memory(plan)),
        _line("stages", f"on {plan.devices[0].name}:"),
        *_stages(plan),
        "",
        *_devices(plan),
        "",
        *_scaling(plan),
        "",
        _line("without", "; ".join(plan.not_included)),
        *(_line("note", note) for note in plan.notes),
    ]
    return "\n".join(lines)


def _memory(plan: PlanEstimate) -> str:
    worker = f"{format_bytes(plan.worker_bytes)} a worker, " if plan.worker_bytes else ""
    return f"{worker}{format_bytes(plan.factor_bytes)} the factor stage"


def _layers(architecture: str) -> str:
    """Return how many layers of each kind there are, in the order in which they come."""
    layers = Architecture.parse(architecture).layers
    counts = Counter(type(layer).__name__ for layer in layers)
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def duration(seconds: float) -> str:
    """Return seconds in the unit that suits them."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:,.3g} h" if seconds < 3.6e6 else f"{seconds / 3600:,.0f} h"


def _stages(plan: PlanEstimate) -> list[str]:
    rows = [(f"  {name}", duration(seconds)) for name, seconds in plan.stages.items() if seconds]
    rows.append(("  together", duration(plan.seconds)))
    return _columns(rows, right=(1,))


def _devices(plan: PlanEstimate) -> list[str]:
    priced = plan.cost is not None
    head = ["device", "rate of one", "workers", "Gram", "whole run", "device hours"]
    rows: list[list[str]] = [head + (["cost"] if priced else []) + [""]]
    for device in plan.devices:
        row = [
            device.name,
            _rate(device.rate),
            f"{device.workers:,}",
            duration(device.gram),
            duration(device.seconds),
            f"{device.hours:,.3g}",
        ]
        row += ["" if device.cost is None else f"{device.cost:,.2f}"] if priced else []
        rows.append([*row, device.source + (f", {device.backend}" if device.backend else "")])
    return _columns(rows, right=range(1, len(rows[0]) - 1))


def _rate(rate: float) -> str:
    if math.isnan(rate):
        return "not measured"
    return f"{rate:,.3g} entries/s" if rate < 1000 else f"{rate:,.0f} entries/s"


def _scaling(plan: PlanEstimate) -> list[str]:
    counts = list(plan.devices[0].scaling)
    rows: list[list[str]] = [["Gram on so many workers", *map(str, counts)]]
    rows += [
        [device.name, *(duration(device.scaling[count]) for count in counts)]
        for device in plan.devices
    ]
    return _columns(rows, right=range(1, len(counts) + 1))


def _line(name: str, text: str) -> str:
    return f"{name:<10}{text}"


def _columns(rows: Sequence[Sequence[str]], *, right: Sequence[int]) -> list[str]:
    """Return lines in which the cells of a column line up, numbers at their right ends."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:>{width}}" if place in right else f"{cell:<{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
