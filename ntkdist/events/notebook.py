"""A bar in a notebook that is drawn anew in its place, where lines would fill the page."""

from __future__ import annotations

import sys
import time
from html import escape
from typing import Any

_PAUSE = 0.25  # seconds between two drawings: each is a message to the browser


def in_notebook() -> bool:
    """Return whether this process is a notebook's kernel, where IPython shows what is displayed."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class NotebookBar:
    """Progress of one matrix in the output of a cell: a bar, and the last notes below it.

    Args:
        total: Tiles of the matrix.
        clock: Seconds; for tests.
    """

    def __init__(self, total: int, clock: Any = time.monotonic) -> None:
        self._total, self._clock = total, clock
        self._notes: list[str] = []
        self._handle: Any = None
        self._drawn = -_PAUSE
        self._state: tuple[int, str] = (0, "")

    def show(self, done: int, text: str) -> None:
        """Draw the state, unless it was drawn a moment ago."""
        self._state = done, text
        if self._clock() - self._drawn >= _PAUSE:
            self._draw()

    def note(self, text: str) -> None:
        """Add a line below the bar; the latest five stay."""
        self._notes = [*self._notes, text][-5:]
        self._draw()

    def close(self) -> None:
        """Draw the last state, which stays."""
        self._draw()

    def _draw(self) -> None:
        from IPython.display import display

        done, text = self._state
        line = f"gram: {done} of {self._total} tiles, {text}"
        notes = "".join(f"<br>{escape(note)}" for note in self._notes)
        shown = {
            "text/plain": "\n".join([line, *self._notes]),
            "text/html": (
                f'<progress max="{self._total}" value="{done}" aria-label="tiles of the Gram" '
                'style="width:16em;vertical-align:middle;color-scheme:light dark"></progress> '
                f"{escape(line)}{notes}"
            ),
        }
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)
        self._drawn = self._clock()
