"""``--json``: one strict JSON object for every command, as its schema says."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

from ntkdist.cli import main as cli
from ntkdist.cli.commands import app
from ntkdist.cli.console import Terminal

SCHEMAS = Path(__file__).parent / "schemas"
COMMANDS = [name for name in app if not name.startswith("-")]

#: Command → what follows it on the command line. RUN is a finished run, COPY a copy of it.
LINES = {
    "audit": "PHOTOS --run RUN",
    "bias": "RUN",
    "compare": "RUN --architectures fc-1,fc-2",
    "completion": "fish",
    "demo": "--run DEMO --data.n 40 --gram.executor inline --architecture fc-1",
    "doctor": "RUN --quick",
    "dynamics": "RUN --times 6 --folds 3 --cross-entropy",
    "export": "RUN FILE",
    "extend": "COPY --data.n 48",
    "factor": "RUN",
    "gram": "RUN",
    "label-aware": "RUN --variants kr-v1 --folds 2",
    "labelings": "RUN --files LABELS",
    "labels": "RUN",
    "lookahead": "RUN --criteria mlmoc,random --start 6 --rounds 2 --count 3 --seeds 2",
    "plan": "RUN --seconds 0.2 --workers 1,2 --price 2",
    "predict": "RUN",
    "report": "RUN",
    "run": "RUN",
    "status": "RUN",
    "sweep": "RUN --over W_std --values 1,2 --images 20",
    "verify": "RUN --tiles 1 --entries 2",
    "widths": "RUN --widths 8,16 --images 6 --test 6 --seeds 2 --trained 1",
}


def said(*tokens: str) -> tuple[int, str, str]:
    """Run a command; return exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(list(tokens))
        except SystemExit as exit:
            code = exit.code
    return int(code or 0), out.getvalue(), err.getvalue()


def strict(text: str) -> Any:
    """Read JSON, with NaN and infinity refused."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def schema_of(command: str) -> Any:
    return json.loads((SCHEMAS / f"{command}.json").read_text())


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Images in class folders, a finished run of 40 of them, a copy of it, other labels."""
    folder = tmp_path_factory.mktemp("json")
    rng = np.random.default_rng(0)
    for i in range(60):
        name = ("dark", "light", "mixed")[i % 3]
        (folder / "photos" / name).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(80 * (i % 3), 80 + 80 * (i % 3), (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / name / f"{i:02d}.png")
    found = {
        "PHOTOS": str(folder / "photos"),
        "RUN": str(folder / "run"),
        "COPY": str(folder / "copy"),
        "DEMO": str(folder / "demo"),
        "LABELS": str(folder / "other.npy"),
        "FILE": str(folder / "gram.npy"),
    }
    np.save(found["LABELS"], rng.integers(0, 3, 40))
    flags = ["--architecture", "fc-1", "--data.n", "40", "--data.subset", "balanced"]
    code, _, err = said("audit", found["PHOTOS"], "--run", found["RUN"], *flags)
    assert code == 0, err
    shutil.copytree(found["RUN"], found["COPY"])
    return found


def line(command: str, places: dict[str, str]) -> list[str]:
    words = [places.get(word, word) for word in LINES[command].split()]
    if command == "audit":
        words += ["--architecture", "fc-1", "--data.n", "40", "--data.subset", "balanced"]
    return [command, *words, "--json"]


def test_every_command_has_a_schema() -> None:
    assert {path.stem for path in SCHEMAS.glob("*.json")} == set(COMMANDS)
    assert set(LINES) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_schemas_refuse_what_they_do_not_name(command: str) -> None:
    schema = schema_of(command)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False
    assert schema["properties"]["result"]["additionalProperties"] is False
    assert schema["properties"]["command"] == {"const": command}


@pytest.fixture(scope="module")
def once(places: dict[str, str]) -> Callable[[str], tuple[int, str, str]]:
    """Return a function that runs a command the first time it is asked for."""
    return functools.cache(lambda command: said(*line(command, places)))


Once = Callable[[str], tuple[int, str, str]]


@pytest.mark.slow(but="plan")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_prints_what_its_schema_says(command: str, once: Once) -> None:
    code, out, err = once(command)
    assert code == 0, err
    found = strict(out)
    jsonschema.Draft202012Validator(schema_of(command)).validate(found)
    assert (found["ok"], found["exit_code"], found["error"]) == (True, 0, None)
    assert found["result"] is not None


@pytest.mark.parametrize("command", COMMANDS)
def test_an_error_is_told_by_the_same_schema(command: str) -> None:
    code, out, err = said(command, "--no-such-flag", "1", "--json")
    found = strict(out)
    jsonschema.Draft202012Validator(schema_of(command)).validate(found)
    assert code == 2
    assert (found["ok"], found["exit_code"], found["result"]) == (False, 2, None)
    assert found["error"]["kind"] == "input"
    assert found["error"]["message"] in err
    assert found["error"]["exit_code"] == 2


@pytest.mark.slow(but="plan")
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_that_may_follow_can_be_typed(command: str, once: Once) -> None:
    _, out, _ = once(command)
    for proposed in strict(out)["next"]:
        program, *words = shlex.split(proposed)
        assert program == "ntkdist"
        assert cli._parse(words, Terminal()).name in COMMANDS


@pytest.mark.slow
def test_a_result_may_come_with_an_error(places: dict[str, str]) -> None:
    """A plan over its budget is shown all the same."""
    tokens = ["plan", places["RUN"], "--seconds", "0.2", "--price", "1e9", "--budget", "1e-9"]
    code, out, _ = said(*tokens, "--json")
    found = strict(out)
    jsonschema.Draft202012Validator(schema_of("plan")).validate(found)
    assert code == found["exit_code"] == 2
    assert found["result"]["refusal"] == found["error"]["message"]
