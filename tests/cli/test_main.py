"""What a user types, and what comes back: parsed settings, one-line errors, exit codes."""

import contextlib
import functools
import inspect
import io
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ntkdist import Run
from ntkdist.cli import main as cli
from ntkdist.cli.commands import after, app, compute, labels, learn, start
from ntkdist.cli.console import Terminal
from ntkdist.config import DataConfig, GramConfig, RunConfig

EVERYTHING = {
    "architecture": ["Conv(5)", "Relu", "GlobalAvgPool", "Dense"],
    "data": {
        "source": "npz:x.npz",
        "split": "test",
        "features": "f.npy",
        "features_test": "t.npy",
        "size": 8,
        "n": 50,
        "subset": "balanced",
        "seed": 3,
        "preprocess": "center",
    },
    "noise": {"rate": 0.25, "seed": 4},
    "gram": {
        "kinds": ["ntk", "nngp"],
        "backend": "reference",
        "dtype": "float64",
        "invariance": "flip",
        "tile": 60,
        "memory": "2GiB",
        "executor": "inline",
        "workers": 3,
        "address": "auto",
        "threads": 2,
        "time_limit": 90.0,
        "grace": 20.0,
    },
    "factor": {"ridge": 0.5, "memory_limit": "1GiB", "scheduler": "threads", "device": "cpu"},
    "labels": {
        "method": "paper",
        "steps": 7,
        "beta": 2.0,
        "noise": "symmetric",
        "noise_rate": 0.25,
        "confidence": 0.5,
        "locked": "trusted.txt",
        "flips_per_step": 4,
        "blocks": 16,
        "probabilities": True,
    },
    "predict": {
        "on": "rest",
        "n": 40,
        "share": 0.5,
        "seed": 2,
        "labels": "true",
        "ridge": 0.1,
        "targets": "one-hot",
        "kind": "nngp",
    },
}


#: As a run keeps it: with the recipe that auto stands for.
STORED = DataConfig(n=30, preprocess="standardize")


class ReachedError(Exception):
    """A command has got as far as its run."""


@pytest.fixture
def parsed(monkeypatch):
    """Return a function that parses a command line into the settings it would open a run with."""
    found = []

    def reached(settings, out):
        found.append(settings)
        raise ReachedError

    for module in (start, compute, labels, learn, after):
        monkeypatch.setattr(module, "opened", reached)

    def parse(*tokens):
        found.clear()
        with pytest.raises(ReachedError):
            cli._parse([str(t) for t in tokens], Terminal()).invoke()
        return found[0]

    return parse


def test_every_key_of_a_run_file_arrives(tmp_path, parsed):
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump({"run": str(tmp_path / "r"), **EVERYTHING}))
    expected = RunConfig.from_dict({"run": str(tmp_path / "r"), **EVERYTHING})
    assert parsed("run", path) == expected
    defaults = RunConfig().to_dict()
    for section in ("data", "noise", "gram", "factor", "labels", "predict"):
        for key, value in expected.to_dict()[section].items():
            assert value != defaults[section][key], f"{section}.{key} is not tested"


@pytest.mark.parametrize("command", ["run", "gram", "factor", "labels", "report"])
def test_flags_go_over_the_run_file(tmp_path, parsed, command):
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump(EVERYTHING))
    flags = [
        "--run",
        tmp_path / "x",
        "--gram.tile",
        "auto",
        "--factor.ridge",
        "1e-3",
        "--data.n",
        60,
    ]
    found = parsed(command, path, *flags)
    assert found.run == str(tmp_path / "x")
    assert (found.gram.tile, found.factor.ridge, found.data.n) == ("auto", 1e-3, 60)
    assert (found.gram.executor, found.labels.steps) == ("inline", 7)


def test_a_run_brings_its_own_settings(tmp_path, parsed):
    config = RunConfig(run=str(tmp_path / "r"), data=STORED, gram=GramConfig(tile=16))
    Run.create(config)
    assert parsed("gram", tmp_path / "r") == config
    assert parsed("labels", tmp_path / "r", "--labels.beta", 3).labels.beta == 3.0


ANALYSES = {
    "bias": (),
    "dynamics": (),
    "labelings": ("--files", "a.npy", "b.txt"),
    "label-aware": ("--classes", "1,2"),
    "lookahead": ("--criteria", "mlmoc,random"),
    "predict": (),
    "sweep": ("--over", "depth", "--values", "2,3"),
    "widths": ("--widths", "8,16"),
}


@pytest.mark.parametrize("command", ANALYSES)
def test_analyses_take_the_settings_of_their_run(tmp_path, parsed, command):
    config = RunConfig(run=str(tmp_path / "r"), data=STORED, architecture="fc-1")
    Run.create(config)
    assert parsed(command, tmp_path / "r", *ANALYSES[command]) == config


def test_demo_needs_no_file(parsed, tmp_path):
    assert parsed("demo") == start.DEMO
    assert parsed("demo", "--run", tmp_path / "d").noise.rate == 0.3


@pytest.mark.slow
def test_help_is_quick():
    command = [sys.executable, "-m", "ntkdist", "--help"]
    quickest = math.inf
    for _ in range(5):
        before = os.times()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        after = os.times()
        # time of the processor, not of the clock: other tests run beside this one
        user = after.children_user - before.children_user
        quickest = min(quickest, user + after.children_system - before.children_system)
        assert "ntkdist audit photos/" in done.stdout
        if quickest < 0.7:
            break
    assert quickest < 0.7, "what is heavy is to be imported where it is used"


def test_help_imports_nothing_heavy():
    code = "import sys; import ntkdist.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "ray", "zarr", "dask", "jax", "matplotlib", "pandas", "numba", "ntkdist.data"}
    assert not heavy & set(done.stdout.split())


@functools.cache
def helped(*tokens):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        cli.main([*tokens, "--help"])
    return out.getvalue()


def test_help_groups_commands_by_the_question_they_answer():
    text = helped()
    places = [text.index(f"─ {name} ─") for name in HELP_GROUPS]
    assert places == sorted(places)
    for code in ("0    done", "1    some tiles", "2    bad input", "130  interrupted"):
        assert code in text
    assert "error (null, or kind" in " ".join(text.split())


HELP_GROUPS = ("Start here", "Compute", "Labels", "Predict and compare", "Look after a run")
COMMANDS = [name for name in app if not name.startswith("-")]


def example_in(text):
    return re.search(r"Example: (ntkdist .*)$", text, re.MULTILINE)[1]


@pytest.mark.slow(but="completion")
@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_asks_a_question_and_has_an_example(command):
    text = helped(command)
    summary = text.split("\n\n")[1]
    assert "?" in summary
    assert example_in(text).split()[1] == command
    assert "\nWrites " in text
    for flag in ("--json", "--quiet", "--verbose"):
        assert flag in text


@pytest.mark.parametrize("command", COMMANDS)
def test_paragraphs_of_several_lines_fit_a_terminal(command):
    text = inspect.cleandoc(app[command].default_command.__doc__).partition("Parameters\n---")[0]
    for paragraph in text.split("\n\n"):
        lines = paragraph.strip().splitlines()
        assert len(lines) < 2 or max(map(len, lines)) <= 78


@pytest.mark.slow(but="completion")
@pytest.mark.parametrize("command", COMMANDS)
def test_examples_of_the_help_can_be_parsed(command, monkeypatch):
    text = helped(command)
    words = re.search(r"Example: (ntkdist .*)$", text, re.MULTILINE)[1].split()[1:]
    known = {"settings": RunConfig().to_dict()}
    monkeypatch.setattr(cli, "run_settings", lambda *_: known["settings"])
    assert cli._parse(words, Terminal()).name == command


ROOT = Path(__file__).parents[2]


def documented():
    """Yield the commands that README and the notes on clusters show, as words."""
    for name in ("README.md", "deploy/README.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        shown = re.findall(r"`(ntkdist [^`|]+)`", text)
        shown += re.findall(r"^(ntkdist .+?)(?: {2,}#.*| #.*)?$", text, re.MULTILINE)
        for command in dict.fromkeys(shown):
            words = command.replace("[CONFIG.yaml", "CONFIG.yaml").split()[1:]
            if words[0] in COMMANDS and not {"...", "--help"} & set(words):
                yield words


@pytest.mark.parametrize("words", list(documented()), ids=" ".join)
def test_documented_commands_can_be_typed(words, monkeypatch):
    monkeypatch.setattr(cli, "run_settings", lambda *_: RunConfig().to_dict())
    assert cli._parse(words, Terminal()).name == words[0]


def test_help_of_a_command_is_about_it_and_help_all_about_every_setting(capsys):
    short = helped("sweep")
    assert "--over" in short
    assert "--gram.tile" not in short
    assert len(short.splitlines()) < 40
    assert "--help-all lists the settings of a run" in short
    assert "--help-all lists" not in helped("completion").split("Parameters")[1]
    cli.main(["sweep", "--help-all"])
    everything = capsys.readouterr().out
    for section in ("data", "noise", "gram", "factor", "labels", "predict"):
        for key in RunConfig().to_dict()[section]:
            assert f"--{section}.{key}".replace("_", "-") in everything


@pytest.mark.parametrize(
    ("command", "own"),
    [
        (
            "audit",
            {"run": "runs/NAME_OF_SOURCE", "architecture": "cnn-2", "gram.executor": "inline"},
        ),
        ("demo", {"run": "runs/demo", "architecture": "cntk-gap-4", "noise.rate": "0.3"}),
    ],
)
def test_help_all_shows_what_a_command_takes_itself(command, own, capsys):
    cli.main([command, "--help-all"])
    text = re.sub(r"[│\s]+", " ", capsys.readouterr().out.partition("Settings of the run")[2])
    for name, value in own.items():
        assert re.search(rf"--{name} .*?\[default: (.*?)\]", text)[1] == value


def test_kinds_are_joined_by_commas_or_given_one_by_one(parsed):
    for flags in (["--gram.kinds", "ntk,nngp"], ["--gram.kinds", "ntk", "--gram.kinds", "nngp"]):
        assert parsed("demo", *flags).gram.kinds == ("ntk", "nngp")
