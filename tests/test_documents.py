"""The documents say what is so: their examples run and print what they say, what they name exists.

A ```python block runs as it stands; comments ``# -> text`` are the lines that it prints. One that
needs a reader's own data is marked ```python no-run. In the top README a block that uses names
which it does not make, such as ``images``, is a fragment: its imports and ``ntkdist.X`` must exist.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import io
import re
import shlex
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ntkdist"
PACKAGES = ("kernels", "gram", "linalg", "labels", "learning", "storage", "data", "networks")
CONCEPTS = [PACKAGE / name / "README.md" for name in PACKAGES]
# where a file may be that is named without its folder, which the text names before
EXAMPLES = (ROOT / "jobs" / "examples", ROOT / "jobs" / "benchmarks", ROOT / "jobs" / "tables")
DOCUMENTS = [ROOT / "README.md", *CONCEPTS]

_FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```[ \t]*$", re.M | re.S)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# what ends like a source, a document or a script, or starts in a folder of the repository
_PATH = re.compile(r"(?<![\w./-])(?:[\w.-]+/)*[\w-]+\.(?:py|md|sh|yaml)(?![\w])")
_FOLDER = re.compile(r"(?<![\w./-])(?:jobs|tests|deploy|ntkdist)/[\w./-]*\w")
_DOTTED = re.compile(r"(?<![\w./-])ntkdist(?:\.\w+)+(?![\w/])")


class Block(NamedTuple):
    """A fenced block of a document."""

    path: Path
    line: int
    info: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    return [
        Block(path, text[: m.start()].count("\n") + 1, tuple(m[1].split()), m[2])
        for m in _FENCE.finditer(text)
    ]


def python_blocks(path: Path) -> list[Block]:
    return [b for b in blocks(path) if b.info[:1] == ("python",) and "no-run" not in b.info]


def prose(path: Path) -> str:
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def code_of(path: Path) -> list[str]:
    """Return everything that a document writes as code: spans, and lines of blocks."""
    lines = [
        line.partition(" #")[0] if b.info[:1] == ("bash",) else line
        for b in blocks(path)
        if b.info[:1] != ("math",)
        for line in b.text.replace("\\\n", " ").splitlines()
    ]
    # a span may be broken over two lines
    return lines + [" ".join(m.split()) for m in re.findall(r"`([^`]+)`", prose(path))]


def commands_of(path: Path) -> list[str]:
    return [c for c in code_of(path) if re.match(r"(ntkdist|python|bash) \S", c)]


def undefined(text: str) -> set[str]:
    tree = ast.parse(text)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    made = {n.id for n in names if isinstance(n.ctx, ast.Store)} | set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            made |= {(a.asname or a.name).partition(".")[0] for a in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            made.add(node.name)
    return {n.id for n in names} - made


def run(block: Block) -> list[str]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block.text, str(block), "exec"), {"__name__": "__main__"})
    return printed.getvalue().splitlines()


def found(name: str) -> bool:
    """Return whether a dotted name leads to a module or to something in one."""
    parts = name.split(".")
    for known in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:known]))
        except ModuleNotFoundError:
            continue
        for part in parts[known:]:
            if not hasattr(thing, part):
                fields = getattr(thing, "__dataclass_fields__", {})
                return part in fields and part == parts[-1]
            thing = getattr(thing, part)
        return True
    return False


RUN = [block for path in CONCEPTS for block in python_blocks(path)]
TOP = python_blocks(ROOT / "README.md")
WHOLE = [block for block in TOP if not undefined(block.text)]
named = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


@pytest.mark.parametrize("block", RUN + WHOLE, ids=str)
def test_an_example_prints_what_it_says(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = re.findall(r"# -> (.*)$", block.text, re.M)
    printed = run(block)
    if expected or block in RUN:
        assert printed == expected
    assert "print(" in block.text or block not in RUN


def test_fragments_name_what_exists() -> None:
    for block in TOP:
        if not undefined(block.text):
            continue
        tree = ast.parse(block.text)
        imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        exec(compile(ast.Module(imports, []), str(block), "exec"), {})
        for name in _DOTTED.findall(block.text):
            assert found(name), f"{block}: {name}"


@pytest.mark.parametrize("path", CONCEPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_concept_has_its_length_and_an_example(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert 60 <= len(lines) <= 220
    examples = python_blocks(path)
    assert examples
    for block in examples:
        code = [line for line in block.text.splitlines() if re.match(r" *[^#\s]", line)]
        assert 5 <= len(code) <= 20


@named
def test_links_lead_somewhere(path: Path) -> None:
    for link in _LINK.findall(prose(path)):
        if not re.match(r"https?://|#|mailto:", link):
            assert (path.parent / link.partition("#")[0]).exists(), link


@named
def test_paths_exist(path: Path) -> None:
    near = (path.parent, ROOT, PACKAGE)
    for code in code_of(path):
        if "://" in code:
            continue
        for name in {*_PATH.findall(code), *_FOLDER.findall(code)}:
            if name.partition(".")[0].isupper():  # CONFIG.yaml: the reader's own
                continue
            places = [*near, *EXAMPLES] if "/" not in name else near
            assert any((folder / name).exists() for folder in places), name


@named
def test_names_of_the_package_exist(path: Path) -> None:
    for code in code_of(path):
        for name in _DOTTED.findall(code):
            assert found(name) or (ROOT / name).exists(), name


@named
def test_commands_exist(path: Path) -> None:
    from ntkdist.cli.main import app

    known = {name for name in app if not name.startswith("-")}
    for command in commands_of(path):
        for part in re.split(r" (?:\||&&|;) ", command):
            words = shlex.split(part)
            if words[:1] != ["ntkdist"] or len(words) < 2 or words[1].startswith("-"):
                continue
            name = words[1]
            if name.isupper():  # COMMAND: any of them
                continue
            assert name in known, command
            flags = {w.partition("=")[0] for w in words[2:] if w.startswith("--")}
            unknown = {f.replace("_", "-") for f in flags} - flags_of(name)
            assert not unknown, command


@lru_cache
def flags_of(command: str) -> set[str]:
    """Return the flags that a command of ntkdist takes."""
    from ntkdist.cli.main import app

    arguments = app[command].assemble_argument_collection()
    return {name for argument in arguments for name in argument.names} | {
        "--json",
        "--quiet",
        "--verbose",
        "--help",
    }
