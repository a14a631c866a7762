"""Plain data out of a pickle: numbers, text, lists, tuples, dicts and NumPy arrays.

The python distributions of CIFAR are pickles, and unpickling calls the functions that a file names.
Here each of NumPy's functions has a stand-in, which builds the array from its bytes, shape and
dtype; other names are refused, and so are instructions that plain data do not need.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ntkdist.errors import InputError

_INSTRUCTIONS = frozenset(
    re.findall(
        r"\w+",
        """PROTO FRAME STOP MARK PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL
        STACK_GLOBAL REDUCE BUILD NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4
        FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE
        BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3
        TUPLE EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS""",
    )
)
_DTYPE = re.compile(r"[|<>=]?[biuf][1248]")


class _RefusedError(Exception):
    """The pickle asks for more than plain data."""


def read_plain(path: Path) -> dict[str, Any]:
    """Return a dict of plain data, written by pickle protocol 0 to 5 of Python 2 or 3.

    Text and bytes of Python 2 come back as str, one character a byte. InputError where the file is
    damaged or asks for anything else.
    """
    stream = io.BytesIO(path.read_bytes())
    try:
        result = _Unpickler(stream, encoding="latin-1").load()
        if not isinstance(result, dict):
            raise _RefusedError(f"a {type(result).__name__} where a dict is expected")
    except _RefusedError as error:
        raise InputError(
            f"{path} is refused: it is a pickle that holds {error}; plain numbers, text and "
            "arrays only are read, get the original file"
        ) from None
    except Exception as error:
        # a file cut short or overwritten makes the unpickler raise errors of many kinds
        reason = str(error) or "it is cut short"
        raise InputError(f"{path} is not a readable pickle ({reason}); copy it again") from None
    return {
        key.decode("latin-1") if isinstance(key, bytes) else str(key): (
            value.values if isinstance(value, _Array) else value
        )
        for key, value in result.items()
    }


class _Dtype:
    """Stands in for ``numpy.dtype``, whose own state could be made to corrupt memory."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _Array:
    """Stands in for the array that ``_reconstruct`` returns empty and BUILD fills."""

    values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        self.values = _from_buffer(raw, dtype, shape, "F" if fortran else "C")


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    code = dtype.order + dtype.code
    if not _DTYPE.fullmatch(code):
        raise _RefusedError(f"an array of dtype {code[:80]!r}")
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw  # bytes of Python 2
    return np.frombuffer(raw, code).reshape(shape, order=order)


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin-1") if encoding == "latin1" else _never_called()


def _never_called(*_: Any) -> Any:
    raise _RefusedError("an unknown call")


_STAND_INS = {
    "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy._core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
    "numpy.ndarray": _never_called,
    "numpy.dtype": _Dtype,
    "_codecs.encode": _encode,
}


class _Unpickler(pickle._Unpickler):
    """Follows the instructions that plain data need.

    It derives from the unpickler written in Python, since the one in C cannot leave out
    instructions, overflows its stack when it hashes a deeply nested tuple as a key, and allocates
    as much memory as one memo index says.
    """

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in _STAND_INS:
            # repr: the name comes from the file and may hold line ends
            raise _RefusedError(f"a call to {full[:80]!r}")
        return _STAND_INS[full]


def _refuse(name: str, _: Any) -> None:
    raise _RefusedError(f"the instruction {name}")


def _build(unpickler: Any) -> None:
    state = unpickler.stack.pop()
    if not isinstance(unpickler.stack[-1], _Dtype | _Array):
        raise _RefusedError("the state of an unknown object")
    unpickler.stack[-1].__setstate__(state)


def _set_items(code: int, first: int, unpickler: Any) -> None:
    """Follow an instruction that sets items, the first of whose keys is ``stack[first]``."""
    for key in unpickler.stack[first::2]:
        if not isinstance(key, str | bytes | int):
            raise _RefusedError(f"a key of type {type(key).__name__}")
    pickle._Unpickler.dispatch[code](unpickler)


_Unpickler.dispatch = pickle._Unpickler.dispatch | {
    ord(op.code): partial(_refuse, op.name)
    for op in pickletools.opcodes
    if op.name not in _INSTRUCTIONS
}
_Unpickler.dispatch[pickle.BUILD[0]] = _build
for _code, _first in ((pickle.DICT[0], 0), (pickle.SETITEM[0], -2), (pickle.SETITEMS[0], 0)):
    _Unpickler.dispatch[_code] = partial(_set_items, _code, _first)
