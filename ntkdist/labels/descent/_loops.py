"""The compiled loops of a refurbishment step, over the rows of one block.

Every number of a row comes from elementwise arithmetic in a fixed order, so that it does not
depend, to the bit, on which block the row is in.

A step costs O(m), not O(mK): each row keeps the least entry of its G, which bounds its best
value from below (``bounds``), and only rows whose bound can beat the best value found so far are
looked at class by class. The result is that of looking at all (``every``).

Three tuples go from loop to loop:

    state   G (K, m) with row k for class k; diagonal (m,) of H⁻¹; labels (m,); h (m,) Σ_d G_id/n_d;
            locked (m,); least (m,), each row's least entry of G, and where (m,), its class
    tables  what the step needs of the classes (``_classes``)
    change  what a move does: the class left and the class entered, 1/n of the two before the move,
            and after it
"""

from __future__ import annotations

import numpy as np

from ntkdist.labels.compiled import compiled, inlined

# Share of a bound's terms that rounding may take: far above it, far below any decision.
SLACK = 1e-12


@inlined
def _value(i, G, diagonal, labels, h, offset, slope, curve, pull, own, push):  # type: ignore[no-untyped-def]
    """Return (value, class) of row i's best move; (inf, 0) where it has none."""
    o = labels[i]
    g, a, h_i = G[o, i], diagonal[i], h[i]
    force = push[o, 0] * h_i + push[o, 1] * a + push[o, 2] * g
    lowest, place = np.inf, 0
    for j in range(len(curve)):
        value = offset[o, j] + G[j, i] * slope[o, j] + a * curve[j] + force * pull[j]
        if value < lowest:
            lowest, place = value, j
    return lowest + (own[o, 0] + own[o, 1] * a + own[o, 2] * g + own[o, 3] * h_i), place


@inlined
def _bound(i, G, diagonal, labels, h, locked, least, own, push, low):  # type: ignore[no-untyped-def]
    """Return a lower bound of row i's best value; inf where it has no move."""
    o = labels[i]
    if locked[i] or low[o, 0] == np.inf:
        return np.inf
    g, a, h_i, l = G[o, i], diagonal[i], h[i], least[i]
    by_a, by_g, by_h = own[o, 1] * a, own[o, 2] * g, own[o, 3] * h_i
    alone = own[o, 0] + by_a + by_g + by_h
    force = push[o, 0] * h_i + push[o, 1] * a + push[o, 2] * g
    steep = l * (low[o, 4] if l < 0 else low[o, 1])
    bent = a * low[o, 2]
    pulled = force * (low[o, 3] if force >= 0 else low[o, 5])
    size = abs(alone) + abs(low[o, 0]) + abs(steep) + abs(bent) + abs(pulled)
    size += abs(own[o, 0]) + abs(by_a) + abs(by_g) + abs(by_h)
    return alone + low[o, 0] + steep + bent + pulled - SLACK * size


@inlined
def _follow(i, G, h, least, where, c, change):  # type: ignore[no-untyped-def]
    """Follow a move in row i, whose entry of the moved row's column of H⁻¹ is c."""
    old, new, w_old, w_new, w_old_after, w_new_after = change
    a, b = G[old, i], G[new, i]
    x, y = a - c, b + c
    G[old, i], G[new, i] = x, y
    h[i] += (x * w_old_after + y * w_new_after) - (a * w_old + b * w_new)
    at = where[i]
    if (at == old and x > a) or (at == new and y > b):
        # the least entry has grown: look for it anew
        l, p = G[0, i], 0
        for k in range(1, G.shape[0]):
            if G[k, i] < l:
                l, p = G[k, i], k
    else:
        l, p = least[i], at
        if at == old:
            l = x
        elif at == new:
            l = y
        if x < l:
            l, p = x, old
        if y < l:
            l, p = y, new
    least[i], where[i] = l, p


@compiled
def every(state, tables):  # type: ignore[no-untyped-def]
    """Return value and class of every row's best move, (m,) and (m,); locked rows have none."""
    G, diagonal, labels, h, locked, _, _ = state
    offset, slope, curve, pull, own, push, _ = tables
    m = len(locked)
    values, classes = np.empty(m), np.zeros(m, dtype=np.int64)
    for i in range(m):
        if locked[i]:
            values[i] = np.inf
        else:
            values[i], classes[i] = _value(
                i, G, diagonal, labels, h, offset, slope, curve, pull, own, push
            )
    return values, classes


@compiled
def bounds(state, tables, out):  # type: ignore[no-untyped-def]
    """Write a lower bound of every row's best value into ``out`` (m,); return the lowest's row."""
    G, diagonal, labels, h, locked, least, _ = state
    _, _, _, _, own, push, low = tables
    lowest, place = np.inf, -1
    for i in range(len(out)):
        bound = _bound(i, G, diagonal, labels, h, locked, least, own, push, low)
        out[i] = bound
        if bound < lowest:
            lowest, place = bound, i
    return place


@compiled
def move(state, column, change):  # type: ignore[no-untyped-def]
    """Add a column of H⁻¹ (m,) to the class entered, take it from the one left, h following."""
    G, _, _, h, _, least, where = state
    for i in range(len(column)):
        _follow(i, G, h, least, where, column[i], change)


@compiled
def best(state, tables, bound, first):  # type: ignore[no-untyped-def]
    """Return (value, row, class) of the best move, ties to the smallest row and class.

    ``bound`` is what ``bounds`` wrote and ``first`` the row it returned.
    """
    G, diagonal, labels, h, _, _, _ = state
    offset, slope, curve, pull, own, push, _ = tables
    value, kind = _value(first, G, diagonal, labels, h, offset, slope, curve, pull, own, push)
    row = first
    for i in range(len(bound)):
        if bound[i] <= value and i != first:
            now, j = _value(i, G, diagonal, labels, h, offset, slope, curve, pull, own, push)
            if now < value or (now == value and i < row):
                value, row, kind = now, i, j
    return value, row, kind


@compiled
def weigh(G, w, h):  # type: ignore[no-untyped-def]
    """Write h = Σ_d G_d w_d (m,), added class by class."""
    for i in range(G.shape[1]):
        h[i] = 0.0
    for k in range(len(w)):
        for i in range(G.shape[1]):
            h[i] += G[k, i] * w[k]


@compiled
def least_entries(G, least, where):  # type: ignore[no-untyped-def]
    """Write each row's least entry of G and its class, (m,) and (m,)."""
    for i in range(G.shape[1]):
        least[i], where[i] = G[0, i], 0
    for k in range(1, G.shape[0]):
        for i in range(G.shape[1]):
            if G[k, i] < least[i]:
                least[i], where[i] = G[k, i], k
