"""Numbers, times and architectures as the report writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime

from ntkdist import words
from ntkdist.networks.architecture import Architecture
from ntkdist.networks.layers import SQRT2, AvgPool, Conv, Dense, Layer, Residual

_MINUS = "−"
# of the layers whose names are not their words
_NAMES = {
    "Relu": "ReLU",
    "LeakyRelu": "leaky ReLU",
    "ABRelu": "ABReLU",
    "Gelu": "GELU",
    "Gaussian": "Gaussian",
    "ExpNormalized": "normalized Gaussian kernel",
    "LayerNorm": "layer norm",
    "GlobalAvgPool": "global average pool",
}
_GAP = "\u00a0"  # no line break between a number and its unit


def count(value: int) -> str:
    """Return a whole number with thousands separated: ``1,797``."""
    return f"{value:,}".replace("-", _MINUS)


def counted(value: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: ``1 label``, ``7 labels``."""
    return f"{count(value)}{_GAP}{one if value == 1 else many or one + 's'}"


def class_name(names: Sequence[str], label: int) -> str:
    """Return the name of a class, its number if it has none."""
    return names[label] if 0 <= label < len(names) else str(label)


def shorten(name: str, longest: int) -> str:
    """Return a name of at most so many characters, with an ellipsis for what is left out."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def number(value: float | None, digits: int = 5) -> str:
    """Return a number to ``digits`` significant digits; ``–`` where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if 1000 <= abs(value) < 10**7:
        decimals = max(0, digits - len(str(int(abs(value)))))
        return f"{value:,.{decimals}f}".replace("-", _MINUS)
    return f"{value:.{digits}g}".replace("-", _MINUS)


def quality(value: float) -> str:
    """Return a label quality, 0 to 1, to three decimals; ``< 0.001`` for smaller ones."""
    return "< 0.001" if 0 <= value < 0.001 else f"{value:.3f}".replace("nan", "–")


def percent(share: float | None) -> str:
    """Return a share in percent, never rounded up to 100 unless it is all."""
    if share is None or not math.isfinite(share):
        return "–"
    for digits in range(1, 7):
        text = f"{100 * share:.{digits}f}"
        if share >= 1 or float(text) < 100:
            break
    return f"{text}{_GAP}%".replace("-", _MINUS)


def duration(seconds: float) -> str:
    """Return a time: ``0.04 s``, ``12.3 s``, ``4 min 05 s``, ``2 h 07 min``."""
    return words.duration(seconds).replace(" ", _GAP)


def size(amount: float) -> str:
    """Return bytes in binary units: ``12.3 MiB``."""
    return words.format_bytes(amount).replace(" ", _GAP)


def rate(value: float) -> str:
    """Return a rate with at most three significant digits and thousands separated."""
    return f"{value:,.0f}" if value >= 100 else number(value, 3)


def moment(iso: str) -> str:
    """Return an ISO 8601 time as ``2025-01-31 14:05 UTC``; any other text stays as it is."""
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{when:%Y-%m-%d %H:%M}" + (f" {when:%Z}" if when.tzinfo else "")


def in_words(architecture: Architecture) -> str:
    """Return the layers in order, repeated groups once: ``conv 3×3 → 2 × (ReLU → conv 3×3)``."""
    return _sequence([_layer(layer) for layer in architecture.layers])


def _sequence(items: Sequence[str]) -> str:
    parts: list[str] = []
    at = 0
    while at < len(items):
        period, times = _repeated(items, at)
        if times > 1:
            group = " → ".join(items[at : at + period])
            parts.append(f"{times} × ({group})" if period > 1 else f"{times} × {group}")
        else:
            parts.append(items[at])
        at += period * times
    return " → ".join(parts)


def _repeated(items: Sequence[str], at: int) -> tuple[int, int]:
    """Return (period, times) of the longest repetition that starts at ``at``."""
    best = (1, 1)
    for period in range(1, (len(items) - at) // 2 + 1):
        times = 1
        group = items[at : at + period]
        while items[at + times * period : at + (times + 1) * period] == group:
            times += 1
        if times > 1 and period * times > best[0] * best[1]:
            best = (period, times)
    return best


def _layer(layer: Layer) -> str:
    if isinstance(layer, Residual):
        branch = _sequence([_layer(x) for x in layer.branch])
        shortcut = _sequence([_layer(x) for x in layer.shortcut]) or "identity"
        return f"sum of [{branch}] and [{shortcut}]"
    if isinstance(layer, AvgPool):
        text = f"average pool {layer.size}×{layer.size}"
        if layer.side_by_side:
            return text
        return f"{text} (stride {layer.stride}, {layer.padding})"
    if not isinstance(layer, (Conv, Dense)):
        name = type(layer).__name__
        numbers = [
            f"{field.name} {getattr(layer, field.name):.4g}"
            for field in fields(layer)
            if getattr(layer, field.name) != field.default
        ]
        text = _NAMES.get(name, name.lower())
        return f"{text} ({', '.join(numbers)})" if numbers else text
    text, notes = "dense", []
    if isinstance(layer, Conv):
        text = f"conv {layer.size}×{layer.size}"
        notes += [f"stride {layer.stride}"] if layer.stride != 1 else []
        notes += [layer.padding] if layer.padding != "SAME" else []
    notes += [f"W_std {layer.W_std:.4g}"] if layer.W_std != SQRT2 else []
    notes += [f"b_std {layer.b_std:.4g}"] if layer.b_std else []
    notes += [] if layer.trainable else ["not trained"]
    return f"{text} ({', '.join(notes)})" if notes else text
