"""What goes where: results on standard output, progress on standard error, and how much of it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from ntkdist.cli import main as cli
from ntkdist.cli.console import EventLines, Table, Terminal
from ntkdist.cli.result import plain
from ntkdist.events.types import StageDone

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of a few digits, whose Gram is computed."""
    place = str(tmp_path_factory.mktemp("output") / "run")
    cli.main(["demo", "--run", place, "--data.n", "30", "--architecture", "fc-1",
              "--gram.executor", "inline", "--quiet"])  # fmt: skip
    return place


@pytest.mark.slow
def test_the_next_command_is_said_after_the_result(run: str, capsys: Captured) -> None:
    cli.main(["factor", run])
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1] == f"next: ntkdist labels {run}"


@pytest.mark.slow
def test_quiet_leaves_the_result(run: str, capsys: Captured) -> None:
    cli.main(["labels", run, "--quiet"])
    said = capsys.readouterr()
    assert said.out.startswith("L(Z) ")
    assert said.err == ""


def test_quiet_leaves_errors(capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        cli.main(["status", "nowhere", "--quiet"])
    assert capsys.readouterr().err.startswith("ntkdist: nowhere: there is no run here")


def test_verbose_adds_every_event_with_its_time(run: str, capsys: Captured) -> None:
    cli.main(["gram", run, "--verbose"])
    lines = capsys.readouterr().err.splitlines()
    assert any("RunStarted run=" in line for line in lines)
    assert any("StageDone stage='gram'" in line for line in lines)
    assert "gram ..." in lines


def test_flags_for_output_may_stand_anywhere(run: str, capsys: Captured) -> None:
    outs = []
    for tokens in (["--json", "gram", run], ["gram", "--json", run], ["gram", run, "--json"]):
        cli.main(tokens)
        outs.append(json.loads(capsys.readouterr().out)["result"]["gram"])
    assert outs[0] == outs[1] == outs[2]


def test_nothing_but_the_object_is_on_standard_output(
    run: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ntkdist.pipeline import Pipeline

    real = Pipeline.gram
    monkeypatch.setattr(Pipeline, "gram", lambda *a: print("a library talks") or real(*a))
    cli.main(["gram", run, "--json"])
    said = capsys.readouterr()
    json.loads(said.out)
    assert "a library talks" in said.err


def test_an_interrupted_command_says_how_to_resume(
    run: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ntkdist.errors import InterruptedRunError
    from ntkdist.pipeline import Pipeline

    def stopped(*_: object) -> None:
        raise InterruptedRunError("stopped by SIGINT; what was finished is kept")

    monkeypatch.setattr(Pipeline, "gram", stopped)
    with pytest.raises(SystemExit) as caught:
        cli.main(["gram", run, "--json"])
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert caught.value.code == found["exit_code"] == 130
    assert found["error"]["kind"] == "interrupted"
    assert found["next"] == [f"ntkdist gram {run} --json"]
    assert said.err.splitlines()[-1] == f"resume with: ntkdist gram {run} --json"


def test_watching_prints_the_address_first(
    run: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def watch(url: str, *, port: int, open_browser: bool, on_ready: object) -> None:
        on_ready("http://127.0.0.1:8123")  # type: ignore[operator]
        calls.append((url, port, open_browser, capsys.readouterr().out))

    monkeypatch.setattr("ntkdist.report.live.watch", watch)
    cli.main(["report", run, "--watch", "--port", "8123", "--open"])
    cli.main(["report", run, "--watch", "--json"])
    (_, port, opened, text), (url, free, shut, object_) = calls
    assert (port, opened, text) == (8123, True, "http://127.0.0.1:8123\n")
    found = json.loads(object_)
    assert found["result"]["address"] == "http://127.0.0.1:8123"
    assert (url, free, shut) == (run, 0, False)
    with pytest.raises(SystemExit):
        cli.main(["report", run, "--watch", "--port", "99999"])


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


TABLE = Table(("file", "quality"), (("cat/[1].png", "0.010"), ("dog.png", "0.2")), right=(1,))


def test_a_table_is_plain_columns_where_nobody_looks(capsys: Captured) -> None:
    Terminal().show(TABLE)
    assert capsys.readouterr().out == (
        "file         quality\ncat/[1].png    0.010\ndog.png          0.2\n"
    )


@pytest.mark.parametrize("no_color", [False, True])
def test_a_table_on_a_terminal_has_lines_and_heeds_no_color(
    monkeypatch: pytest.MonkeyPatch, no_color: bool
) -> None:
    screen = Screen()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", screen)
    Terminal().show(TABLE)
    text = screen.getvalue()
    assert "cat/[1].png" in text
    assert "┃" in text
    assert not any(f"\x1b[{code}m" in text for code in range(30, 48))


def test_help_has_no_colours_where_it_is_piped(capsys: Captured) -> None:
    cli.main(["--help"])
    assert "\x1b" not in capsys.readouterr().out


def test_an_event_is_a_line_with_its_fields() -> None:
    stream = io.StringIO()
    EventLines(stream)(StageDone("gram", 1.5, "x" * 200))
    line = stream.getvalue()
    assert "StageDone stage='gram' seconds='1.5' detail='xxx" in line
    assert len(line) < 140


def test_plain_values_are_strict_json() -> None:
    values = {
        "nan": float("nan"),
        "numpy": np.float32(0.5),
        "array": np.array([[1.0, np.inf], [2.0, 3.0]]),
        "whole": np.int64(3),
        "flags": np.array([True]),
        "path": Path("a/b"),
        3: (1, None),
    }
    found = plain(values)
    assert found == {
        "nan": None,
        "numpy": 0.5,
        "array": [[1.0, None], [2.0, 3.0]],
        "whole": 3,
        "flags": [True],
        "path": "a/b",
        "3": [1, None],
    }
    json.dumps(found, allow_nan=False)


@pytest.mark.slow
def test_long_commands_say_what_they_have_got_to(
    run: str, tmp_path: Path, capsys: Captured
) -> None:
    np.savetxt(tmp_path / "zeros.txt", np.arange(30) % 10, fmt="%d")
    cli.main(["labelings", run, "--files", str(tmp_path / "zeros.txt")])
    said = capsys.readouterr().err
    assert "\nlabelings: 1 of 3, given: L(Z) " in said
    assert f"\nlabelings: 3 of 3, {tmp_path}/zeros.txt: L(Z) " in said
    for stored in ("", " (as stored)"):
        cli.main(["sweep", run, "--over", "W_std", "--values", "1,2", "--images", "20"])
        lines = capsys.readouterr().err.splitlines()
        steps = [line for line in lines if line.startswith("W_std ") and " of 2" in line]
        assert [step.split(",")[0] for step in steps] == ["W_std 1: 1 of 2", "W_std 2: 2 of 2"]
        assert all(step.endswith(f"% right{stored}") for step in steps)


def test_bias_says_by_which_labels_and_shows_scores(run: str, capsys: Captured) -> None:
    cli.main(["labels", run, "--quiet"])
    for flags, labels in (([], "refurbished"), (["--by", "given"], "given")):
        capsys.readouterr()
        cli.main(["bias", run, *flags])
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split("  ")[0] == f"class, hardest first, by the {labels} labels"
        scores = [float(line.split()[-1]) for line in lines[1 : lines.index("")]]
        assert scores == sorted(scores, reverse=True)


def test_status_says_once_what_is_next(run: str, capsys: Captured) -> None:
    cli.main(["status", run])
    said = capsys.readouterr()
    assert "next" not in said.out
    assert said.err == f"next: ntkdist predict {run}\n"
    cli.main(["report", run])
    assert capsys.readouterr().err.splitlines()[-1] == f"next: ntkdist predict {run}"
