"""Plain data out of a pickle stream, without unpickling it.

The python distributions of CIFAR are pickles, and unpickling runs whatever program the
file holds. A restricted unpickler still calls NumPy's own constructors with arguments
from the file, so this goes one step further: ``pickletools.genops`` only splits the
bytes into opcodes and executes nothing, and the small machine below knows just the
opcodes that build numbers, text, lists, tuples and dicts. Where the stream names a
function, the name is compared with ``_KNOWN`` and what it would have returned is built
here from dtype, shape and bytes. Nothing is imported or called by a name from the file.
"""

from __future__ import annotations

import pickletools
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ntkdist.errors import InputError

_KNOWN = {
    "numpy.core.multiarray _reconstruct": "array",
    "numpy._core.multiarray _reconstruct": "array",
    "numpy.core.numeric _frombuffer": "frombuffer",
    "numpy._core.numeric _frombuffer": "frombuffer",
    "numpy ndarray": "type",
    "numpy dtype": "dtype",
    "_codecs encode": "bytes",
}
_DTYPE = re.compile(r"[biuf][1248]")

_NUMBERS = {"INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"}
_TEXT = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}  # text or bytes of Python 2
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_VALUES = _NUMBERS | _TEXT | _STRINGS | _BYTES
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUT = frozenset(["PUT", "BINPUT", "LONG_BINPUT"])
_GET = frozenset(["GET", "BINGET", "LONG_BINGET"])
_NOTHING_TO_DO = frozenset(["PROTO", "FRAME", "STOP"])
_MARK = object()

# What a stream cut short or overwritten makes of the operations below, e.g. an append to
# a number (AttributeError) or a length of 2**62 bytes (MemoryError).
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class _RefusedError(Exception):
    """The stream asks for more than plain data."""


@dataclass(frozen=True)
class _Name:
    meaning: str


@dataclass
class _Dtype:
    code: str
    order: str = "|"

    def numpy(self) -> np.dtype[Any]:
        if not _DTYPE.fullmatch(self.code) or self.order not in "|<>=":
            raise _RefusedError(f"an array of dtype {(self.order + self.code)[:80]!r}")
        return np.dtype(self.order.replace("|", "") + self.code)


@dataclass
class _Array:
    value: np.ndarray[Any, Any] | None = None


def read_plain(path: Path) -> dict[str, Any]:
    """Read a pickled dict of numbers, text, lists and NumPy arrays.

    Args:
        path: A file written by pickle protocol 0 to 5, from Python 2 or 3.

    Returns:
        The dict, its keys as text. Text and bytes written by Python 2 come back as str,
        one character a byte.

    Raises:
        InputError: The file is no such pickle, is cut short, or asks for anything else.
    """
    try:
        with path.open("rb") as stream, warnings.catch_warnings():
            # pickletools decodes escapes in names; damaged bytes make it warn of odd ones
            warnings.simplefilter("ignore", DeprecationWarning)
            result = _interpret(stream)
        if not isinstance(result, dict):
            raise _RefusedError(f"a {type(result).__name__} where a dict is expected")
        return {
            key.decode("latin-1") if isinstance(key, bytes) else str(key): (
                value.value if isinstance(value, _Array) else value
            )
            for key, value in result.items()
        }
    except _RefusedError as error:
        raise InputError(
            f"{path} is refused: it is a pickle that holds {error}; plain numbers, text and "
            "arrays only are read, get the original file"
        ) from None
    except _DAMAGE as error:
        raise InputError(f"{path} is not a readable pickle ({error}); copy it again") from None


def _interpret(stream: Any) -> Any:
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name in _VALUES:
            stack.append(argument)
        elif name in _PUT:
            memo[argument] = stack[-1]
        elif name in _GET:
            stack.append(memo[argument])
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "APPENDS":
            items = _since_mark(stack)
            stack[-1].extend(items)
        elif name == "APPEND":
            item = stack.pop()
            stack[-1].append(item)
        elif name == "SETITEMS":
            items = _since_mark(stack)
            stack[-1].update(_pairs(items))
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1].update(_pairs([key, value]))
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "LIST":
            stack.append(_since_mark(stack))
        elif name == "DICT":
            stack.append(dict(_pairs(_since_mark(stack))))
        elif name == "TUPLE":
            stack.append(tuple(_since_mark(stack)))
        elif name in _TUPLES:
            start = len(stack) - _TUPLES[name]
            stack[start:] = [tuple(stack[start:])]
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "GLOBAL":
            stack.append(_name(str(argument)))
        elif name == "STACK_GLOBAL":
            function, module = stack.pop(), stack.pop()
            stack.append(_name(f"{module} {function}"))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_reduce(function, arguments))
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
        elif name not in _NOTHING_TO_DO:
            raise _RefusedError(f"the instruction {name}")
    return stack.pop()


def _since_mark(stack: list[Any]) -> list[Any]:
    items: list[Any] = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _pairs(items: list[Any]) -> Any:
    for key in items[::2]:
        # hashing a deeply nested tuple would overflow the C stack
        if not isinstance(key, str | bytes | int):
            raise _RefusedError(f"a key of type {type(key).__name__}")
    return zip(items[::2], items[1::2], strict=True)


def _name(full: str) -> _Name:
    if full not in _KNOWN:
        # repr: the name comes from the file and may hold line ends
        raise _RefusedError(f"a call to {full[:80].replace(' ', '.')!r}")
    return _Name(_KNOWN[full])


def _reduce(function: Any, arguments: Any) -> Any:
    meaning = function.meaning if isinstance(function, _Name) else None
    if meaning == "array":
        return _Array()
    if meaning == "dtype":
        return _Dtype(_text(arguments[0]))
    if meaning == "bytes" and _text(arguments[1]) == "latin1":
        return _bytes(arguments[0])
    if meaning == "frombuffer":
        raw, dtype, shape, order = arguments
        return _Array(_filled(raw, dtype, shape, fortran=_text(order) == "F"))
    raise _RefusedError("an unknown call")


def _build(target: Any, state: Any) -> None:
    if isinstance(target, _Dtype):
        target.order = _text(state[1])
    elif isinstance(target, _Array):
        _, shape, dtype, fortran, raw = state
        target.value = _filled(raw, dtype, shape, fortran=bool(fortran))
    else:
        raise _RefusedError("the state of an unknown object")


def _filled(raw: Any, dtype: Any, shape: Any, *, fortran: bool) -> np.ndarray[Any, Any]:
    if not isinstance(dtype, _Dtype):
        raise _RefusedError("an array without a dtype")
    values = np.frombuffer(_bytes(raw), dtype.numpy())
    return values.reshape(tuple(shape), order="F" if fortran else "C")


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _bytes(value: Any) -> bytes:
    # Python 2 wrote bytes as text; pickletools hands them over as latin-1
    if isinstance(value, str):
        return value.encode("latin-1")
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    raise _RefusedError(f"array values of type {type(value).__name__}")
