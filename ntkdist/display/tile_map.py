"""A kernel matrix as a map of its tiles, in inline SVG: what is stored, in work, failed, absent.

Every state has a pattern as well as a colour, and a legend names them. The same states give the
same text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

ABSENT, FLIGHT, DONE, FAILED = range(4)
"""States of a tile."""

_PART = 4  # of a cell of several tiles, some of which are stored
_SIDE = 400

States: TypeAlias = NDArray[np.uint8]

# in the order of the legend: state, id of its pattern, what it is called
_LOOKS = (
    (DONE, "done", "stored"),
    (_PART, "part", "some stored"),
    (FLIGHT, "flight", "in work"),
    (FAILED, "failed", "failed"),
    (ABSENT, "absent", "not yet"),
)

_DONE, _FLIGHT = "var(--accent,#1f62ad)", "var(--map-flight,#c26a00)"
_FAILED, _ABSENT = "var(--bad,#b03a27)", "var(--line,#dfe2e6)"
_BACK = "var(--surface,#fff)"


def tile_map(states: States, *, most: int = 200) -> str:
    """Draw the upper triangle of a symmetric matrix."""
    cells = _cells(states, most)
    paths = "".join(
        f'<path fill="url(#map-{name})" d="{path}"/>'
        for state, name, _ in _LOOKS
        if (path := "".join(_runs(cells, state)))
    )
    return (
        f'<svg class="map" viewBox="0 0 {_SIDE} {_SIDE}" role="img" '
        f'aria-label="{describe(states)}" shape-rendering="crispEdges">'
        f"<defs>{''.join(map(_pattern, (name for _, name, _ in _LOOKS)))}</defs>{paths}</svg>"
    )


def legend(*, parts: bool) -> str:
    """Return what the patterns mean, as an HTML list for the page that has the map."""
    entries = "".join(
        '<li><svg width="18" height="18" viewBox="0 0 18 18" aria-hidden="true">'
        f'<rect width="18" height="18" fill="url(#map-{name})"/></svg> {words}</li>'
        for state, name, words in _LOOKS
        if parts or state != _PART
    )
    return f'<ul class="legend">{entries}</ul>'


def counts(states: States) -> dict[int, int]:
    """Return how many tiles on and above the diagonal are in each state."""
    found = np.bincount(states[np.triu_indices(len(states))], minlength=4)
    return {state: int(found[state]) for state in (ABSENT, FLIGHT, DONE, FAILED)}


def describe(states: States) -> str:
    """Return the numbers that the map shows, in one sentence."""
    found = counts(states)
    return (
        f"Map of {sum(found.values())} tiles: {found[DONE]} stored, {found[FLIGHT]} in work, "
        f"{found[FAILED]} failed, {found[ABSENT]} not yet"
    )


def _cells(states: States, most: int) -> States:
    """Return the states of at most ``most`` cells along an edge; below the diagonal 255."""
    blocks = len(states)
    upper = np.triu(np.ones((blocks, blocks), bool))
    if blocks <= most:
        return np.where(upper, states, np.uint8(255)).astype(np.uint8)
    # tiles of row i go to cell i·most // blocks
    starts = -(-np.arange(most) * blocks // most)

    def total(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        rows = np.add.reduceat((chosen & upper).astype(np.int64), starts, axis=0)
        return np.add.reduceat(rows, starts, axis=1)

    tiles, done = total(upper), total(states == DONE)
    cells = np.full((most, most), ABSENT, np.uint8)
    cells[done > 0] = _PART
    cells[done == tiles] = DONE
    cells[total(states == FLIGHT) > 0] = FLIGHT
    cells[total(states == FAILED) > 0] = FAILED
    cells[tiles == 0] = 255
    return cells


def _runs(cells: States, state: int) -> Iterator[str]:
    """Yield a rectangle for every run of cells of one state in a row."""
    side = _SIDE / len(cells)
    for i, row in enumerate(cells == state):
        edges = np.flatnonzero(np.diff(row.astype(np.int8), prepend=0, append=0))
        for start, stop in edges.reshape(-1, 2).tolist():
            width = (stop - start) * side
            yield f"M{start * side:g} {i * side:g}h{width:g}v{side:g}h{-width:g}z"


def _pattern(name: str) -> str:
    """Return a pattern of 8 units a side, drawn from its colour and the page's background."""
    lines = {
        "done": f'<rect width="8" height="8" style="fill:{_DONE}"/>',
        "part": (
            f'<rect width="8" height="8" style="fill:{_BACK}"/>'
            f'<path d="M0 2h8M0 6h8" style="stroke:{_DONE};stroke-width:2"/>'
        ),
        "flight": (
            f'<rect width="8" height="8" style="fill:{_BACK}"/>'
            f'<path d="M-2 2l4-4M0 8l8-8M6 10l4-4" style="stroke:{_FLIGHT};stroke-width:3"/>'
        ),
        "failed": (
            f'<rect width="8" height="8" style="fill:{_BACK}"/>'
            f'<path d="M0 0l8 8M0 8l8-8" style="stroke:{_FAILED};stroke-width:2"/>'
        ),
        "absent": (
            f'<rect width="8" height="8" style="fill:{_BACK}"/>'
            f'<circle cx="4" cy="4" r="1.5" style="fill:{_ABSENT}"/>'
        ),
    }
    return (
        f'<pattern id="map-{name}" width="8" height="8" patternUnits="userSpaceOnUse">'
        f"{lines[name]}</pattern>"
    )
