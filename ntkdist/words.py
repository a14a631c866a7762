"""Words that several packages write: verdicts, numbers with their nouns, times, sizes, columns."""

from __future__ import annotations

from collections.abc import Sequence

#: Verdicts on how far the results about labels can be trusted, as they are stored and printed.
RELIABLE, WEAK, CANNOT_JUDGE = VERDICTS = ("reliable", "weak", "cannot judge")
#: Labels are called clean where at most this share of them may be wrong.
CLEAN_SHARE = 0.03


def counted(value: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: ``1 tile``, ``2 tiles``."""
    return f"{value} {one if value == 1 else many or one + 's'}"


def first_of(items: Sequence[str], most: int = 4) -> str:
    """Return the first items and how many more there are: ``a, b, c, d and 3 more``."""
    more = len(items) - most
    return ", ".join(items[:most]) + (f" and {more} more" if more > 0 else "")


def percent(share: float, digits: int = 1) -> str:
    """Return a share in percent: ``6.2 %``."""
    return f"{100 * share:.{digits}f} %"


def duration(seconds: float, *, whole: bool = False) -> str:
    """Return a time that was measured: ``0.04 s``, ``12.3 s``, ``4 min 05 s``, ``2 h 07 min``.

    With ``whole``, seconds are rounded to whole ones, as for a time that still changes.
    """
    if whole and seconds < 59.5:
        return f"{round(seconds)} s"
    if not whole and seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def rough_duration(seconds: float) -> str:
    """Return a time that was estimated, in three digits: ``12.3 s``, ``4.1 min``, ``1,230 h``."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:,.3g} h" if seconds < 3.6e6 else f"{seconds / 3600:,.0f} h"


def format_bytes(size: float) -> str:
    """Return a size in binary units: ``500 B``, ``12.3 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if size >= 999.5 else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Return a line for each row, in which the cells of a column line up.

    The cells of the columns ``right`` line up at their right ends. Lines end without spaces.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:>{width}}" if place in right else f"{cell:<{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
