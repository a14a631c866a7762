"""Any dataclass as a plain JSON object."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import PurePath
from typing import Any


def to_record(event: Any) -> dict[str, Any]:
    """Turn any dataclass into a JSON object with ``event`` and ``time``.

    Args:
        event: A dataclass instance, of this module or any other.

    Returns:
        Its fields as plain JSON values, ``event`` = the name of its class, and
        ``time`` = now if it has none.
    """
    record: dict[str, Any] = {"event": type(event).__name__, "time": time.time()}
    for item in dataclasses.fields(event):
        record[item.name] = _plain(getattr(event, item.name))
    return record


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, PurePath) or type(value).__str__ is not object.__str__:
        to_list = getattr(value, "tolist", None)  # NumPy scalars and arrays
        return _plain(to_list()) if to_list is not None else str(value)
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return repr(value)
