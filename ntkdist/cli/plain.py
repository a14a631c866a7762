"""Results as plain values, such as JSON holds them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Return a result as dictionaries, lists, text, numbers, booleans and None.

    Strict JSON: a number that is not finite becomes None. Of a dataclass, fields that its
    ``repr`` leaves out (large arrays, which the run keeps) are left out here too.

    Args:
        value: A dataclass, mapping, sequence, NumPy array or scalar, or plain already; anything
            else is taken by its ``str``, as a tile's key is.

    Returns:
        The same in plain values.
    """
    if value is None or isinstance(value, (bool, str, int)):
        return value
    import numpy as np

    if isinstance(value, (float, np.floating)):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value) and type(value).__str__ is object.__str__:
        fields = (one for one in dataclasses.fields(value) if one.repr)
        return {one.name: plain(getattr(value, one.name)) for one in fields}
    return str(value)
