"""Parts of HTML pages: tables for notebooks, pictures of single images as PNG data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BUDGET = 4_500_000  # characters for all pictures of a page
_EDGES = (96, 64, 48, 32, 24, 16)


def html_table(rows: Sequence[tuple[str, str]]) -> str:
    """Return a table of names and values for a notebook of either theme."""
    cell = "padding:.2em .8em;text-align:left;border-bottom:1px solid rgba(128,128,128,.35)"
    body = "".join(
        f'<tr><th scope="row" style="{cell};font-weight:600">{escape(name)}</th>'
        f'<td style="{cell}">{value}</td></tr>'
        for name, value in rows
    )
    return (
        '<table style="border-collapse:collapse;color:inherit;background:none">'
        f"<tbody>{body}</tbody></table>"
    )


def data_uris(pictures: NDArray[np.uint8], budget: int = _BUDGET) -> list[str]:
    """Encode pictures; if they exceed the budget, all are scaled to the same smaller size.

    Args:
        pictures: (n, H, W, C) uint8; of other than 1 or 3 channels the first is shown.
        budget: Most characters for all of them; exceeded only at the smallest size.
    """
    uris: list[str] = []
    for edge in _EDGES:
        uris = []
        total = 0
        for picture in pictures:
            uris.append(_data_uri(picture, edge))
            total += len(uris[-1])
            if total > budget:
                break
        if total <= budget:
            return uris
    return [_data_uri(picture, _EDGES[-1]) for picture in pictures]


def _data_uri(picture: NDArray[np.uint8], edge: int) -> str:
    from PIL import Image

    pixels: Any = picture if picture.shape[-1] == 3 else picture[..., 0]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    longest = max(image.size)
    if longest > edge:
        scaled = [max(1, round(side * edge / longest)) for side in image.size]
        image = image.resize((scaled[0], scaled[1]), Image.Resampling.BOX)
    out = io.BytesIO()
    image.save(out, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")
