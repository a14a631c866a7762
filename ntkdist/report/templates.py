"""The templates of the report and of the live page, all text escaped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ntkdist.display.words import count, counted, duration, number, percent

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent


def templates() -> Environment:
    """Return the templates of this folder, with the words of ``words`` as filters."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=count, counted=counted, duration=duration, number=number, percent=percent
    )
    return environment
