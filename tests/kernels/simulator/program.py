"""PTX, the assembly language of NVIDIA's GPUs, as Python: one NumPy operation an instruction.

A register is an array with one element a thread. A basic block becomes a function of a mask, the
threads that execute it. Known are the instructions that the project's kernels compile to; any
other is an error.

Roundings are those of the hardware, with three exceptions: ``fma`` of float32 is rounded twice (to
float64 first), ``fma`` of float64 has an error of 2⁻⁶⁴ before it is rounded, and approximate
functions (``rsqrt.approx``, ``ex2.approx``) are rounded correctly here.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

DTYPES: dict[str, Any] = {
    "pred": np.bool_,
    **{f"{kind}8": np.uint8 for kind in "bu"},
    **{f"{kind}16": np.uint16 for kind in "bu"},
    **{f"{kind}32": np.uint32 for kind in "bu"},
    **{f"{kind}64": np.uint64 for kind in "bu"},
    **{f"s{bits}": np.dtype(f"i{bits // 8}").type for bits in (8, 16, 32, 64)},
    "f32": np.float32,
    "f64": np.float64,
}
#: Where generic addresses of shared and local memory begin; those of device memory lie below.
SHARED, LOCAL = 1 << 40, 1 << 42
WHOLE_WARP = 0xFFFFFFFF

_INSTRUCTION = re.compile(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.:]*)\s*(.*)")
_LABEL = re.compile(r"(\$[\w$]+):\s*(.*)")
_COMPARISONS = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal",
                "gt": "greater", "ge": "greater_equal"}  # fmt: skip
_UFUNCS = {"add": "add", "sub": "subtract", "mul": "multiply", "and": "bitwise_and",
           "or": "bitwise_or", "xor": "bitwise_xor"}  # fmt: skip


@dataclass
class Block:
    """Instructions that are executed one after the other.

    Attributes:
        first: Index of the first instruction.
        count: How many instructions.
        ending: What follows: ``branch`` to ``target`` under ``guard``, ``return`` under ``guard``,
            ``barrier`` of all threads, or ``next`` block.
        target: Index of a block.
        guard: Name of a predicate register, empty for no condition.
        negated: Whether the predicate must be false.
        meets: Whether the lanes of a warp must execute it together.
        lines: The statements of its function, all but the ending.
    """

    first: int
    count: int = 0
    ending: str = "next"
    target: int = -1
    guard: str = ""
    negated: bool = False
    meets: bool = False
    lines: list[str] = field(default_factory=list)


class Program:
    """A kernel.

    Args:
        ptx: Text with one kernel in it.

    Attributes:
        name: The kernel's.
        parameters: (name, type) of each.
        registers: Type of each register.
        shared_size: Bytes of a block's shared memory.
        shared: Where each array of it starts.
        local_size: Bytes of a thread's local memory.
        local: Where each array of it starts.
        blocks: The basic blocks in order.
        text: Of each instruction, for reports.
    """

    def __init__(self, ptx: str) -> None:
        ptx = re.sub(r"//[^\n]*", "", ptx)
        entry = re.search(r"\.entry\s+(\S+?)\s*\((.*?)\)\s*(.*?)\{", ptx, re.S)
        if entry is None:
            raise SyntaxError("no kernel in this PTX")
        self.name = entry[1]
        self.parameters = [
            (found[2], found[1])
            for found in re.finditer(r"\.param\s+\.(\w+)\s+(?:\.[\w.]+\s+|\d+\s+)*(\w+)", entry[2])
        ]
        self.registers: dict[str, str] = {}
        self.shared, self.shared_size = _arrays(ptx, "shared")
        self.local, self.local_size = _arrays(ptx, "local")
        self.text: list[str] = []
        self.blocks: list[Block] = []
        self._views: set[tuple[str, str]] = set()
        self._read(ptx[entry.end() :])
        source = "\n".join(
            f"def block_{k}(m):\n    " + "\n    ".join(block.lines or ["pass"])
            for k, block in enumerate(self.blocks)
        )
        self._code = compile(source, f"<{self.name}>", "exec")

    def bind(self, machine: Any, threads: int) -> list[Callable[[Any], None]]:
        """Return the blocks as functions, on new registers of so many threads.

        ``machine`` has ``values`` (special registers and parameters by name) and the methods
        ``load``, ``store``, ``check_aligned``, ``shuffle``, ``copy_async``, ``await_copies`` and
        ``meet``. Its ``registers`` are set.
        """
        scope: dict[str, Any] = {"np": np, "M": machine, **_HELPERS}
        for name, kind in self.registers.items():
            dtype = np.dtype(DTYPES[kind])
            values = np.zeros(threads, dtype)
            if dtype.kind != "b":
                values.view(np.uint8).fill(0xFF)  # NaN, and no valid address
            scope[_name(name)] = values
            for view in (view for of, view in self._views if of == name):
                scope[f"{_name(name)}_{view}"] = values.view(DTYPES[view])
        exec(self._code, scope)  # our own text
        machine.registers = {name: scope[_name(name)] for name in self.registers}
        return [scope[f"block_{k}"] for k in range(len(self.blocks))]

    def _read(self, text: str) -> None:
        depths = itertools.accumulate(((x == "{") - (x == "}") for x in text), initial=1)
        stop = next(k for k, depth in enumerate(depths) if depth == 0) - 1
        labels: dict[str, int] = {}
        jumps: list[tuple[Block, str]] = []
        block = self._begin()
        for raw in re.split(r"[;\n]", text[:stop]):
            line = raw.strip().removeprefix("{").strip()
            while label := _LABEL.match(line):
                if block.count:
                    block = self._begin()
                labels[label[1]] = len(self.blocks) - 1
                line = label[2].strip()
            if line.startswith(".reg"):
                self._declare(line)
            if not line or line[0] in "{}.":
                continue
            found = _INSTRUCTION.fullmatch(line)
            if found is None:
                raise SyntaxError(line)
            negated, guard, op, rest = found.groups()
            operands = _split(rest)
            self.text.append(line)
            block.count += 1
            head = op.split(".")[0]
            if head in ("bra", "ret", "exit") or op.startswith("bar.sync"):
                block.guard, block.negated = guard or "", bool(negated)
                block.ending = {"bra": "branch", "bar": "barrier"}.get(head, "return")
                if head == "bra":
                    jumps.append((block, operands[0]))
                elif head == "bar" and (guard or operands != ["0"]):
                    raise SyntaxError(line)
                block = self._begin()
                continue
            block.meets |= head in ("shfl", "bar")
            if guard:
                block.lines.append(f"g = m & {'~' if negated else ''}{_name(guard)}")
            block.lines += self._translate(op, operands, "g" if guard else "m", len(self.text) - 1)
        if not block.count:
            self.blocks.pop()
        for jumping, label in jumps:
            jumping.target = labels[label]

    def _begin(self) -> Block:
        self.blocks.append(Block(len(self.text)))
        return self.blocks[-1]

    def _declare(self, line: str) -> None:
        found = re.match(r"\.reg\s+\.(\w+)\s+(%?\w+)(?:<(\d+)>)?", line)
        assert found is not None
        names = [found[2]] if not found[3] else [f"{found[2]}{k}" for k in range(int(found[3]))]
        self.registers |= dict.fromkeys(names, found[1])

    def _view(self, register: str, kind: str) -> str:
        """Return the expression of a register as a type of its size."""
        own, wanted = np.dtype(DTYPES[self.registers[register]]), np.dtype(DTYPES[kind])
        if own == wanted:
            return _name(register)
        if own.itemsize != wanted.itemsize:
            raise SyntaxError(f"{register} as {kind}")
        self._views.add((register, kind))
        return f"{_name(register)}_{kind}"

    def _value(self, operand: str, kind: str) -> str:
        """Return the expression of an operand that is read as a type."""
        if operand in self.registers:
            own = np.dtype(DTYPES[self.registers[operand]])
            if own.itemsize > np.dtype(DTYPES[kind]).itemsize:  # its lower part
                return f"{_name(operand)}.astype(np.{np.dtype(DTYPES[kind]).name})"
            return self._view(operand, kind)
        if operand.startswith("%"):
            return f"M.values['{operand}'].astype(np.{np.dtype(DTYPES[kind]).name})"
        dtype = np.dtype(DTYPES[kind])
        if operand in self.shared:
            return f"np.{dtype.name}({self.shared[operand]})"
        if operand in self.local:
            return f"np.{dtype.name}({self.local[operand] + LOCAL})"
        if operand[:2].lower() in ("0f", "0d"):
            bits, size = int(operand[2:], 16), "u4" if operand[1] in "fF" else "u8"
            return f"np.array({bits}, '{size}').view(np.{dtype.name})[()]"
        if kind == "pred":
            return f"np.bool_({int(operand)})"
        number = int(operand, 0) & ((1 << 8 * dtype.itemsize) - 1)
        if dtype.kind == "i" and number >> (8 * dtype.itemsize - 1):
            number -= 1 << 8 * dtype.itemsize
        return f"np.{dtype.name}({number})"

    def _translate(self, op: str, operands: list[str], m: str, at: int) -> list[str]:
        """Return the statements of an instruction under the mask named ``m``."""
        parts = op.split(".")
        head, kind = parts[0], parts[-1]

        def value(k: int, as_kind: str = kind) -> str:
            return self._value(operands[k], as_kind)

        def into(as_kind: str = kind, k: int = 0) -> str:
            return self._view(operands[k], as_kind)

        def ufunc(name: str, *inputs: str) -> list[str]:
            return [f"np.{name}({', '.join(inputs)}, out={into()}, where={m})"]

        def put(expression: str, as_kind: str = kind, k: int = 0) -> list[str]:
            return [f"np.copyto({into(as_kind, k)}, {expression}, where={m})"]

        if head in ("ld", "st"):
            return self._memory(parts, operands, m, at)
        if head == "mov":
            return self._move(kind, operands, m)
        if head in _UFUNCS and parts[1] not in ("wide", "hi"):
            return ufunc(_UFUNCS[head], value(1), value(2))
        if head in ("min", "max"):
            name = f"f{head}" if kind[0] == "f" else f"{head}imum"
            return ufunc(name, value(1), value(2))
        if head == "fma":
            return put(f"fma_{kind}({value(1)}, {value(2)}, {value(3)})")
        if op in ("mul.wide.s32", "mul.wide.u32"):
            wide = f"{kind[0]}64"
            dtype = np.dtype(DTYPES[wide]).name
            return put(f"np.multiply({value(1)}, {value(2)}, dtype=np.{dtype})", wide)
        if head == "mul" and parts[1] == "hi":
            return put(f"high_{kind}({value(1)}, {value(2)})")
        if head == "mad" and parts[1] == "lo":
            return put(f"{value(1)} * {value(2)} + {value(3)}")
        if head in ("div", "rem"):
            if kind[0] == "f":
                return ufunc("divide", value(1), value(2))
            return put(f"{head}_whole({value(1)}, {value(2)})")
        if head in ("shl", "shr"):
            name = "left_shift" if head == "shl" else "right_shift"
            most = 8 * np.dtype(DTYPES[kind]).itemsize
            dtype = np.dtype(DTYPES[kind]).name
            return put(f"shifted(np.{name}, {value(1)}, {value(2, 'u32')}, {most}, np.{dtype})")
        if head == "not":
            return ufunc("logical_not" if kind == "pred" else "invert", value(1))
        if head in ("neg", "abs"):
            return ufunc({"neg": "negative", "abs": "absolute"}[head], value(1))
        if head == "setp":
            return put(self._comparison(parts, value(1), value(2)), "pred")
        if head == "selp":
            return put(f"np.where({self._value(operands[3], 'pred')}, {value(1)}, {value(2)})")
        if head == "cvt":
            to, of = parts[-2:]
            how = next((part for part in parts if part in ("rmi", "rni", "rzi", "rpi")), "")
            dtype = np.dtype(DTYPES[to]).name
            return put(f"converted({value(1, of)}, np.{dtype}, '{how}')", to)
        if head == "cvta":
            return put(value(1))
        if head in ("rsqrt", "rcp", "sqrt", "ex2", "lg2"):
            return put(f"{head}({value(1)}, {'ftz' in parts})")
        if head == "bfi":
            return put(f"inserted({value(1)}, {value(2)}, {operands[3]}, {operands[4]})")
        if head == "shfl":
            return self._shuffle(parts, operands, m, at)
        if op == "bar.warp.sync":
            return [f"M.meet({m})"]
        if op == "cp.async.cg.shared.global":
            to, start = (self._address(operand) for operand in operands[:2])
            return [f"M.copy_async({to}, {start}, {operands[2]}, {m}, {at})"]
        if op == "cp.async.wait_all":
            return [f"M.await_copies({m})"]
        raise SyntaxError(f"not known: {self.text[at]}")

    def _comparison(self, parts: list[str], x: str, y: str) -> str:
        compare, kind = parts[1], parts[-1]
        compare = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.get(compare, compare)
        if kind[0] == "f" and compare in ("num", "nan"):
            return f"{'~' if compare == 'num' else ''}(np.isnan({x}) | np.isnan({y}))"
        unordered = kind[0] == "f" and compare.endswith("u")
        compare = compare[:2]
        if unordered:
            return f"(np.{_COMPARISONS[compare]}({x}, {y}) | np.isnan({x}) | np.isnan({y}))"
        if kind[0] == "f" and compare == "ne":
            return f"(np.less({x}, {y}) | np.greater({x}, {y}))"
        return f"np.{_COMPARISONS[compare]}({x}, {y})"

    def _move(self, kind: str, operands: list[str], m: str) -> list[str]:
        to, of = operands
        if to.startswith("{"):  # the parts of a number
            low, high = _split(to[1:-1])
            bits = self._value(of, "u64")
            return [
                f"np.copyto({self._view(part, 'u32')}, ({bits} >> np.uint64({shift}))"
                f".astype(np.uint32), where={m})"
                for part, shift in ((low, 0), (high, 32))
                if part != "_"
            ]
        if of.startswith("{"):
            low, high = (self._value(part, "u32") for part in _split(of[1:-1]))
            return [
                f"np.copyto({self._view(to, 'u64')}, np.uint64({low}) | "
                f"(np.uint64({high}) << np.uint64(32)), where={m})"
            ]
        if of in self.shared and kind in ("u64", "b64"):
            return [f"np.copyto({self._view(to, 'u64')}, {self.shared[of] + SHARED}, where={m})"]
        return [f"np.copyto({self._view(to, kind)}, {self._value(of, kind)}, where={m})"]

    def _address(self, operand: str) -> str:
        """Return register and offset, as two arguments, of an address in brackets."""
        register, _, offset = operand.strip("[]").partition("+")
        if register in self.shared:
            return f"None, {self.shared[register] + int(offset or 0)}"
        return f"{_name(register)}, {int(offset or 0)}"

    def _memory(self, parts: list[str], operands: list[str], m: str, at: int) -> list[str]:
        load, kind = parts[0] == "ld", parts[-1]
        reference, values = operands if not load else operands[::-1]
        if "param" in parts:
            register, name = operands
            wide = self.registers[register]
            dtype = np.dtype(DTYPES[wide])
            of = f"M.values['{name.strip('[]')}']"
            return [f"np.copyto({_name(register)}, {of}.astype(np.{dtype.name}), where={m})"]
        space = next((part for part in parts if part in ("global", "shared", "local")), "generic")
        names = _split(values[1:-1]) if values.startswith("{") else [values]
        size = np.dtype(DTYPES[kind]).itemsize
        address = self._address(reference)
        made = []
        if len(names) > 1:
            made.append(f"M.check_aligned({address}, {size * len(names)}, {m}, {at})")
        register, offset = address.split(", ")
        for k, name in enumerate(names):
            where = f"{register}, {int(offset) + k * size}, '{space}'"
            if load:
                wide = self.registers[name]
                own = np.dtype(DTYPES[wide]).itemsize
                to = self._view(name, kind) if own == size else _name(name)
                read_only = "nc" in parts
                made.append(f"M.load({to}, {where}, '{kind}', {m}, {at}, {read_only})")
            else:
                made.append(f"M.store({self._value(name, kind)}, {where}, '{kind}', {m}, {at})")
        return made

    def _shuffle(self, parts: list[str], operands: list[str], m: str, at: int) -> list[str]:
        to, _, inside = operands[0].partition("|")
        named = _name(inside) if inside else "None"
        values = ", ".join(self._value(operand, "u32") for operand in operands[1:])
        return [f"M.shuffle({self._view(to, 'u32')}, {named}, '{parts[2]}', {values}, {m}, {at})"]


def _name(register: str) -> str:
    return register[1:] if register.startswith("%") else f"own_{register}"


def _split(text: str) -> list[str]:
    """Return operands, which commas separate unless they stand in brackets."""
    parts = re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", text)
    return [part.strip() for part in parts if part.strip()]


def _arrays(ptx: str, space: str) -> tuple[dict[str, int], int]:
    """Return where the arrays of a memory start, and its size."""
    starts: dict[str, int] = {}
    size = 0
    for found in re.finditer(rf"\.{space}\s+\.align\s+(\d+)\s+\.b8\s+(\w+)\[(\d+)\]", ptx):
        align = int(found[1])
        size = -(-size // align) * align
        starts[found[2]] = size
        size += int(found[3])
    return starts, size


def _fma_f32(x: Any, y: Any, z: Any) -> Any:
    return (np.multiply(x, y, dtype=np.float64) + z).astype(np.float32)


def _fma_f64(x: Any, y: Any, z: Any) -> Any:
    return (np.multiply(x, y, dtype=np.longdouble) + z).astype(np.float64)


def _high(x: Any, y: Any) -> Any:
    wide = np.dtype(f"{x.dtype.kind}8")
    if x.dtype.itemsize == 4:
        return (np.multiply(x, y, dtype=wide) >> wide.type(32)).astype(x.dtype)
    products = x.astype(object) * np.asarray(y).astype(object)
    mask = (1 << 64) - 1
    return np.array([(p >> 64) & mask for p in products], np.uint64).view(x.dtype)


def _div_whole(x: Any, y: Any) -> Any:
    """Return quotients rounded towards zero; by zero, which the hardware leaves open, all bits."""
    by = np.where(y == 0, y.dtype.type(1), y)
    if by.dtype.kind == "i":
        size = np.abs(x) // np.abs(by)
        quotient = np.where((x < 0) ^ (by < 0), -size, size)
    else:
        quotient = x // by
    return np.where(y == 0, ~by.dtype.type(0), quotient)


def _rem_whole(x: Any, y: Any) -> Any:
    return np.where(y == 0, x, np.fmod(x, np.where(y == 0, y.dtype.type(1), y)))


def _shifted(ufunc: Any, x: Any, by: Any, bits: int, dtype: Any) -> Any:
    moved = ufunc(x, np.minimum(by, bits - 1).astype(dtype))
    if ufunc is np.right_shift and np.dtype(dtype).kind == "i":
        return moved
    return np.where(np.asarray(by) >= bits, dtype(0), moved)


def _converted(x: Any, dtype: Any, how: str) -> Any:
    rounded = {"rmi": np.floor, "rni": np.rint, "rzi": np.trunc, "rpi": np.ceil}
    if how:
        x = rounded[how](x)
    if np.dtype(dtype).kind in "iu" and np.asarray(x).dtype.kind == "f":
        x = np.nan_to_num(x)
    return np.asarray(x).astype(dtype)


def _flushed(x: Any, ftz: bool) -> Any:
    """Return numbers with zero in place of those below the smallest normal one, if ``ftz``."""
    return np.where(np.abs(x) < np.finfo(x.dtype).tiny, np.copysign(0, x), x) if ftz else x


def _approximate(function: Callable[[Any], Any]) -> Callable[[Any, bool], Any]:
    def made(x: Any, ftz: bool) -> Any:
        dtype = np.asarray(x).dtype
        return _flushed(function(_flushed(x, ftz).astype(np.float64)).astype(dtype), ftz)

    return made


def _inserted(part: Any, x: Any, at: int, bits: int) -> Any:
    kind = np.asarray(x).dtype.type
    mask = kind(((1 << bits) - 1) << at)
    return (x & ~mask) | ((part << kind(at)) & mask)


_HELPERS: dict[str, Any] = {
    "fma_f32": _fma_f32,
    "fma_f64": _fma_f64,
    **{f"high_{kind}{bits}": _high for kind in "su" for bits in (32, 64)},
    "div_whole": _div_whole,
    "rem_whole": _rem_whole,
    "shifted": _shifted,
    "converted": _converted,
    "rsqrt": _approximate(lambda x: 1 / np.sqrt(x)),
    "rcp": _approximate(lambda x: 1 / x),
    "sqrt": _approximate(np.sqrt),
    "ex2": _approximate(np.exp2),
    "lg2": _approximate(np.log2),
    "inserted": _inserted,
}
