"""Prepared states of a backend: how much memory they take, and keeping the last few."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


def state_bytes(state: Any) -> int:
    """Return the bytes of the arrays inside a state, whatever it is made of.

    Args:
        state: An array, or nested dataclasses, objects, dictionaries, lists of arrays.

    Returns:
        The sum of their ``nbytes``; an array that is there twice counts once.
    """
    return _bytes(state, set())


def _bytes(value: Any, seen: set[int]) -> int:
    if value is None or isinstance(value, (str, bytes, int, float)) or id(value) in seen:
        return 0
    seen.add(id(value))
    nbytes = getattr(value, "nbytes", None)
    if isinstance(nbytes, int):
        return nbytes
    if isinstance(value, dict):
        return sum(_bytes(item, seen) for item in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_bytes(item, seen) for item in value)
    if dataclasses.is_dataclass(value):
        return sum(_bytes(getattr(value, f.name), seen) for f in dataclasses.fields(value))
    return sum(_bytes(item, seen) for item in getattr(value, "__dict__", {}).values())


class StateCache:
    """Keeps the states used last, up to a number of bytes; the two newest always stay.

    Args:
        limit: Bytes of all states together.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._states: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, name: Hashable, make: Callable[[], Any]) -> Any:
        """Return the state of this name, made now if it is not kept."""
        if name in self._states:
            self._states.move_to_end(name)
            return self._states[name][0]
        state = make()
        self._states[name] = state, state_bytes(state)
        while len(self._states) > 2 and self.bytes > self._limit:
            self._states.popitem(last=False)
        return state

    @property
    def bytes(self) -> int:
        """What the states that are kept take."""
        return sum(size for _, size in self._states.values())

    def __len__(self) -> int:
        return len(self._states)
