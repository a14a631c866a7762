"""Loops written out, so that a compiler keeps small arrays in registers (Python source to source).

A thread of a GPU keeps an array in registers only if every index is known when it is compiled,
and Numba gives no way to ask for a loop to be unrolled. So a kernel is written as
ordinary Python with three marks: ``for r in unroll(n)``, ``x, y = registers(n)`` and ``paste(f)``.
``written_out`` repeats the loops' bodies, makes a variable of every element, puts the body of ``f``
in its place, and drops branches whose condition is known. What it returns is plain Python again,
for Numba to compile or for Python to run.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any


def unroll(count: int) -> range:
    """Mark a loop to write out; only known to ``written_out``."""
    return range(count)


def registers(count: int) -> Any:
    """Mark arrays to keep in registers, as many as there are names in front of the equals sign."""
    raise NotImplementedError("only known to written_out")


def paste(function: Callable[..., Any], *needed: Any) -> None:
    """Mark where to put another function's body, whose parameters are variables of the same name.

    Names of its own become variables too, and so do all that it assigns to. ``needed`` are
    variables that nothing else reads.
    """
    raise NotImplementedError("only known to written_out")


def written_out(
    function: Callable[..., Any], constants: Mapping[str, Any], names: Mapping[str, Any]
) -> Callable[..., Any]:
    """Return ``function`` with its marked loops and arrays written out.

    Args:
        function: Plain Python; its source must be at hand.
        constants: Integers, booleans, and tuples of them that are known, by name.
        names: Further globals of the function, such as typed constants.

    Returns:
        A new function.

    Raises:
        ValueError: If a mark's count or an index of a marked array is not known.
    """
    definition = _definition(function)
    definition.decorator_list = []
    definition.args.args = [_plain(argument) for argument in definition.args.args]
    definition.returns = None
    writer = _Writer(dict(constants), function.__globals__)
    definition.body = writer.statements(definition.body)
    tree = ast.fix_missing_locations(ast.Module([definition], []))
    text = ast.unparse(tree)
    marks = "_".join(f"{name}{value}" for name, value in constants.items())
    place = f"<{function.__module__}.{function.__name__} {marks}>"
    # for tracebacks, and for Numba, which reads the source of what it compiles
    linecache.cache[place] = (len(text), None, text.splitlines(True), place)
    scope = {**writer.pasted, **names, **function.__globals__}
    exec(compile(text, place, "exec"), scope)  # our own source
    made: Callable[..., Any] = scope[function.__name__]
    return made


def _definition(function: Callable[..., Any]) -> ast.FunctionDef:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(definition, ast.FunctionDef)
    return definition


def _plain(argument: ast.arg) -> ast.arg:
    return ast.arg(argument.arg)


class _Writer(ast.NodeTransformer):
    """Rewrites statements under what is known; a loop's variable is known in each copy.

    Nodes are not changed, so that a loop's body is visited once for each copy of it.
    """

    def __init__(self, known: dict[str, Any], scope: Mapping[str, Any]) -> None:
        self.known = known
        self.scope = scope
        self.pasted: dict[str, Any] = {}  # globals of functions that were pasted
        self.arrays: set[str] = set()

    def statements(self, body: list[ast.stmt]) -> list[ast.stmt]:
        written: list[ast.stmt] = []
        for statement in body:
            new = self.visit(statement)
            written += new if isinstance(new, list) else [] if new is None else [new]
        return written

    def value(self, node: ast.expr) -> Any:
        """Return what an expression is if only known names are in it, else raise ``ValueError``."""
        if any(isinstance(x, (ast.Call, ast.Attribute)) for x in ast.walk(node)):
            raise ValueError("not a known value")
        for name in (x.id for x in ast.walk(node) if isinstance(x, ast.Name)):
            if name not in self.known:
                raise ValueError(f"{name} is not known")
        code = compile(ast.Expression(node), "<known>", "eval")
        return eval(code, {"__builtins__": {}}, self.known)  # names, indices and operators only

    def decided(self, test: ast.expr) -> Any:
        """Return what a condition is if that is known, of ``and`` by a part that is false."""
        if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
            for part in test.values:
                with suppress(ValueError):
                    if not self.value(part):
                        return False
        return self.value(test)

    def generic_visit(self, node: ast.AST) -> Any:
        fields = {}
        for name, value in ast.iter_fields(node):
            if isinstance(value, list):
                fields[name] = self.statements(value)
            else:
                fields[name] = self.visit(value) if isinstance(value, ast.AST) else value
        return ast.copy_location(type(node)(**fields), node)

    def visit_For(self, node: ast.For) -> Any:
        call = node.iter
        if not (isinstance(call, ast.Call) and getattr(call.func, "id", "") == "unroll"):
            return self.generic_visit(node)
        assert isinstance(node.target, ast.Name)
        written: list[ast.stmt] = []
        outside = self.known.get(node.target.id)
        for index in range(self.value(call.args[0])):
            self.known[node.target.id] = index
            written += self.statements(node.body)
        self.known.pop(node.target.id, None)
        if outside is not None:
            self.known[node.target.id] = outside
        return written

    def visit_If(self, node: ast.If) -> Any:
        try:
            chosen = node.body if self.decided(node.test) else node.orelse
        except ValueError:
            return self.generic_visit(node)
        return self.statements(chosen)

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        try:
            return self.visit(node.body if self.value(node.test) else node.orelse)
        except ValueError:
            return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> Any:
        if isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "registers":
            self.arrays |= {x.id for x in ast.walk(node.targets[0]) if isinstance(x, ast.Name)}
            return None
        return self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> Any:
        if isinstance(node.value, ast.Name) and node.value.id in self.arrays:
            return ast.copy_location(
                ast.Name(f"{node.value.id}_{self.value(node.slice)}", node.ctx), node
            )
        if isinstance(node.value, ast.Name) and node.value.id in self.known:
            return ast.copy_location(ast.Constant(self.value(node)), node)
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> Any:
        if isinstance(node.ctx, ast.Load) and node.id in self.known:
            return ast.copy_location(ast.Constant(self.known[node.id]), node)
        return node

    def visit_Expr(self, node: ast.Expr) -> Any:
        if isinstance(node.value, ast.Constant):  # a docstring
            return None
        if isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "paste":
            name = node.value.args[0]
            assert isinstance(name, ast.Name)
            function = self.scope[name.id]
            self.pasted |= function.__globals__
            return self.statements(_definition(function).body)
        return self.generic_visit(node)
