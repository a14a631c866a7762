"""Listeners that stop a computation at one event, as a signal does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class StopError(Exception):
    """Raised by the listener."""


def stop_at(kind: type, **fields: Any) -> Callable[[Any], None]:
    """Return a listener that raises at the first event of a kind with these fields."""

    def listen(event: Any) -> None:
        if isinstance(event, kind) and all(getattr(event, k) == v for k, v in fields.items()):
            raise StopError

    return listen
