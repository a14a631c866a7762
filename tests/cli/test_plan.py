"""``ntkdist plan`` as typed: what arrives, what is printed, and the exit codes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from ntkdist.cli import main as cli
from ntkdist.cli.commands import start
from ntkdist.cli.console import Terminal
from ntkdist.cli.options import read_rates
from ntkdist.errors import InputError
from ntkdist.planning import plan as planning
from ntkdist.planning.plan import WORKERS, Limits


class Found:
    """A plan that is refused or not."""

    is_done = False

    def __init__(self, refusal: str | None) -> None:
        self.refusal = refusal

    def check(self) -> None:
        if self.refusal:
            raise InputError(self.refusal)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the command hands on; the plan itself is not made."""
    found: list[Any] = []

    def make(settings: Any, limits: Limits, **more: Any) -> Found:
        found.append((settings, limits, more))
        return Found("too dear" if limits.budget else None)

    monkeypatch.setattr(planning, "make_plan", make)
    monkeypatch.setattr(planning, "describe_plan", lambda found: "the table")
    return found


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    path = tmp_path / "x.yaml"
    path.write_text("data: {n: 50}\n")
    return str(path)


def test_every_flag_arrives(calls: list[Any], run_file: str, capsys: Any) -> None:
    flags = ["--price", "2.5", "--max-hours", "3", "--workers", "2,8", "--seconds", "5"]
    rates = ["--rates", "h200=25000,b200=4e4", "--gram.workers", "3"]
    cli.main(["plan", run_file, *flags, *rates])
    settings, limits, more = calls[0]
    more.pop("on_step")("measuring tiles")
    assert (settings.data.n, settings.gram.workers) == (50, 3)
    assert limits == Limits(price=2.5, max_hours=3.0)
    assert more == {
        "rates": {"h200": 25000.0, "b200": 40000.0},
        "workers": (2, 8),
        "seconds": 5.0,
    }
    said = capsys.readouterr()
    assert said.out == "the table\n"
    assert "plan: measuring tiles\n" in said.err


def test_a_run_that_is_there_is_not_to_be_run_again(
    calls: list[Any], run_file: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Found, "is_done", True)
    cli.main(["plan", run_file, "--run", "runs/x"])
    assert capsys.readouterr().err == "next: ntkdist status runs/x\n"


def test_without_flags_the_defaults_are_the_modules(calls: list[Any], run_file: str) -> None:
    cli.main(["plan", run_file])
    calls[0][2].pop("on_step")
    assert calls[0][1:] == (Limits(), {"rates": {}, "workers": WORKERS, "seconds": 12.0})


def test_the_run_that_may_follow_has_the_settings_that_were_planned(
    calls: list[Any], run_file: str, capsys: Any, parsed_run: Any
) -> None:
    typed = ["--architecture", "cnn-1", "--run", "runs/a b", "--labels.probabilities",
             "--gram.kinds", "ntk", "--gram.kinds", "nngp", "--data.n", "70"]  # fmt: skip
    cli.main(["plan", run_file, *typed])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("next: ntkdist run ")
    assert parsed_run(shlex.split(last)[2:]) == calls[0][0]


@pytest.fixture
def parsed_run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that returns the settings that ``ntkdist run ...`` would open."""

    def parse(words: list[str]) -> Any:
        found = []

        def reached(settings: Any, out: Any) -> None:
            found.append(settings)
            raise InputError("far enough")

        monkeypatch.setattr(start, "opened", reached)
        with pytest.raises(InputError):
            cli._parse(words, Terminal()).invoke()
        return found[0]

    return parse


def test_over_budget_prints_the_table_and_exits_with_2(
    calls: list[Any], run_file: str, capsys: Any
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["plan", run_file, "--price", "2", "--budget", "1"])
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert printed.out == "the table\n"
    assert printed.err == "ntkdist: too dear\n"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--budget", "5"], "--price 2.5"),
        (["--price", "0"], "above 0"),
        (["--rates", "h200"], "NAME=ENTRIES_PER_SECOND"),
        (["--workers", "two"], "--workers 'two' is not a whole number"),
    ],
)
def test_bad_flags_are_one_line_and_2(
    calls: list[Any], run_file: str, capsys: Any, flags: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["plan", run_file, *flags])
    lines = capsys.readouterr().err.strip().splitlines()
    assert caught.value.code == 2
    assert len(lines) == 1
    assert words in lines[0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rates", "h200=-3"], "--rates h200=-3"),
        (["--workers", "0"], "--workers 0"),
        (["--seconds", "0"], "--seconds 0"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_measured(
    run_file: str, capsys: Any, flags: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["plan", run_file, *flags])
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_rates_are_read() -> None:
    assert read_rates(("a=1", " b = 2e3")) == {"a": 1.0, "b": 2000.0}
