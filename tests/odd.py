"""Values that nobody means, for tests that feed them to every argument and every setting."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ntkdist.errors import NtkdistError

NUMBERS: dict[str, Any] = {
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": -float("inf"),
    "1e300": 1e300,
    "-1e300": -1e300,
    "1e-300": 1e-300,
    "-1": -1,
    "0": 0,
    "-0.0": -0.0,
    "0.5": 0.5,
    "10**9": 10**9,
    "10**30": 10**30,
    "-10**30": -(10**30),
    "10**400": 10**400,
    "10**5000": 10**5000,  # has no repr
    "True": True,
    "False": False,
    "complex": 1 + 2j,
    "float32": np.float32(1),
    "int64": np.int64(2),
    "uint8": np.uint8(200),
    "NumPy's nan": np.float64("nan"),
    "NumPy's bool": np.bool_(True),
    "NumPy's complex": np.complex64(1j),
}
#: What a command line can have, too.
TEXTS: dict[str, Any] = {
    "empty": "",
    "x": "x",
    "zero byte": "a\0b",
    "blank": " ",
    "new line": "\n",
    "two words": "a b",
    "umlaut": "ü",
    "half a character": "caf\udce9",
    "nan in text": "nan",
    "inf in text": "inf",
    "1e400 in text": "1e400",
    "-1 in text": "-1",
    "long": "x" * 5000,
    "long number": "1" * 5000,
    "bracket": "[",
    "brackets": "[" * 300,
    "tilde": "~",
    "variable": "$NO_SUCH_VARIABLE/x",
    "no address": "://",
    "colon": ":",
    "no place": "npz:",
    "no unit": "-1GB",
}
OTHERS: dict[str, Any] = {
    "None": None,
    "bytes": b"x",
    "no bytes": b"",
    "list": [],
    "nested": [[]],
    "ragged": [[1, 2], [3]],
    "list of None": [None],
    "list of text": ["x"],
    "tuple": (),
    "dict": {},
    "dict of None": {None: None},
    "dict of one": {"x": 1},
    "set": {"x"},
    "object": object(),
    "class": int,
    "function": len,
    "range": range(3),
    "ellipsis": ...,
    "date": datetime.date(2020, 2, 29),
    "path": Path("no such file"),
    "path of zero": Path("a\0b"),
    "NumPy's text": np.str_("x"),
    "NumPy's date": np.datetime64("NaT"),
    "array of none": np.array([]),
    "array of one": np.array(3),
    "array of two": np.array([1, 2]),
    "array of text": np.array(["x", "y"]),
    "array of objects": np.array([None, object()], dtype=object),
    "array of nan": np.full((2, 2), np.nan),
    "array of complex": np.ones((2, 2), complex),
    "array of dates": np.array(["2020-01-01"], dtype="datetime64[D]"),
    "structured array": np.zeros(2, dtype=[("a", "f4")]),
    "array of zero rows": np.zeros((0, 4)),
    "array of zero columns": np.zeros((4, 0)),
    "array of five axes": np.zeros((1, 1, 1, 1, 1)),
}
ODD = NUMBERS | TEXTS | OTHERS


def faults(
    call: Callable[[Any], Any], values: Mapping[str, Any] = ODD, wrong: Callable[[Any], Any] = bool
) -> list[str]:
    """Call with each value and list the answers that are no one-line error of this package.

    ``wrong`` says of what a call returns whether, or why, it is no valid result. Warnings are
    faults.
    """
    found = []
    for name, value in values.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                why = wrong(call(value))
            if why:
                found.append(f"{name}: returns {why}")
        except NtkdistError as error:
            text = str(error)
            if "\n" in text or len(text) > 900:
                found.append(f"{name}: says {len(text)} characters: {text[:200]}")
        except Exception as error:
            found.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
    return found
