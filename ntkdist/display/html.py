"""Small tables for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def html_table(rows: Sequence[tuple[str, str]]) -> str:
    """Return a table of names and values for a notebook of either theme.

    Args:
        rows: Names, which are escaped, and values, which are HTML.

    Returns:
        HTML without a style sheet: text and lines take the colour that surrounds them.
    """
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
