"""What a user types, and what comes back: parsed settings, one-line errors, exit codes."""

import re
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from ntkdist import Run, cli
from ntkdist.config import DataConfig, GramConfig, RunConfig

EVERYTHING = {
    "architecture": ["Conv(5)", "Relu", "GlobalAvgPool", "Dense"],
    "data": {
        "source": "npz:x.npz",
        "split": "test",
        "n": 50,
        "subset": "balanced",
        "seed": 3,
        "preprocess": "center",
    },
    "noise": {"rate": 0.25, "seed": 4},
    "gram": {
        "kinds": ["ntk", "nngp"],
        "backend": "reference",
        "mix_backends": True,
        "dtype": "float64",
        "tile": 60,
        "memory": "2GiB",
        "executor": "inline",
        "workers": 3,
        "address": "auto",
        "threads": 2,
        "time_limit": 90.0,
        "grace": 20.0,
    },
    "factor": {"ridge": 0.5, "memory_limit": "1GiB", "scheduler": "threads"},
    "labels": {
        "method": "paper",
        "steps": 7,
        "beta": 2.0,
        "noise_rate": 0.25,
        "confidence": 0.5,
        "locked": "trusted.txt",
        "flips_per_step": 4,
        "blocks": 16,
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


@pytest.fixture
def parsed(monkeypatch):
    """Return a function that parses a command line into the settings it would run with."""

    def parse(*tokens):
        found = []
        monkeypatch.setattr(cli, "_execute", lambda settings, *_: found.append(settings))
        cli._parse([str(t) for t in tokens])()
        return found[0]

    return parse


def fails(capsys, *tokens):
    """Run a command that must fail; return its exit code and its one line."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(t) for t in tokens])
    lines = capsys.readouterr().err.strip().splitlines()
    return caught.value.code, lines[-1]


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
    config = RunConfig(run=str(tmp_path / "r"), data=DataConfig(n=30), gram=GramConfig(tile=16))
    Run.create(config)
    assert parsed("gram", tmp_path / "r") == config
    assert parsed("labels", tmp_path / "r", "--labels.beta", 3).labels.beta == 3.0


class ReachedError(Exception):
    """A command has got as far as its run."""


ANALYSES = {
    "bias": (),
    "dynamics": (),
    "labelings": ("--files", "a.npy"),
    "label-aware": ("--classes", "1,2"),
    "lookahead": ("--criteria", "mlmoc,random"),
    "predict": (),
    "sweep": ("--over", "depth", "--values", "2,3"),
    "widths": ("--widths", "8,16"),
}


@pytest.mark.parametrize("command", ANALYSES)
def test_analyses_take_the_settings_of_their_run(tmp_path, monkeypatch, command):
    config = RunConfig(run=str(tmp_path / "r"), data=DataConfig(n=30), architecture="fc-1")
    Run.create(config)
    found = []

    def reached(settings):
        found.append(settings)
        raise ReachedError

    monkeypatch.setattr(cli, "_pipeline", reached)
    with pytest.raises(ReachedError):
        cli._parse([command, str(tmp_path / "r"), *ANALYSES[command]])()
    assert found == [config]


def test_demo_needs_no_file(parsed, tmp_path):
    assert parsed("demo") == cli.DEMO
    assert parsed("demo", "--run", tmp_path / "d").noise.rate == 0.3


def test_help_answers_within_a_second():
    command = [sys.executable, "-m", "ntkdist", "--help"]
    times = []
    for _ in range(3):
        start = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        times.append(time.monotonic() - start)
    assert "refurbish" in done.stdout.lower()
    assert min(times) < 1.0


def npz(tmp_path, **arrays):
    base = {
        "x_train": np.zeros((6, 4, 4, 1), np.uint8)
        + np.arange(6, dtype=np.uint8)[:, None, None, None],
        "y_train": np.array([0, 1, 0, 1, 0, 1]),
        "x_test": np.zeros((2, 4, 4, 1), np.uint8),
        "y_test": np.array([0, 1]),
    }
    np.savez(tmp_path / "set.npz", **{**base, **arrays})
    return f"npz:{tmp_path / 'set.npz'}"


def test_bad_data_is_one_line_and_writes_nothing(tmp_path, capsys):
    nan = np.zeros((6, 4, 4, 1), np.float32)
    nan[3, 1, 2, 0] = np.nan
    (tmp_path / "base.yaml").write_text("gram: {executor: inline}\n")
    for make, more, pattern in [
        (lambda: f"npz:{tmp_path}/none.npz", (), r"none\.npz"),
        (lambda: npz(tmp_path, y_train=np.arange(5) % 2), (), "6.*5|5.*6"),
        (lambda: npz(tmp_path, x_train=nan), (), "NaN"),
        (lambda: npz(tmp_path, y_train=np.array([0, 1, 0, -1, 0, 1])), (), "-1"),
        (lambda: npz(tmp_path), ("--data.n", 1), "1"),
        (lambda: npz(tmp_path), ("--data.n", 7), "7"),
        (lambda: "digit", (), "did you mean 'digits'"),
    ]:
        run = tmp_path / "r"
        code, line = fails(
            capsys, "run", tmp_path / "base.yaml", "--run", run, "--data.source", make(), *more
        )
        assert code == 2
        assert re.search(pattern, line), line
        assert not run.exists()


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["run"], "give a run file"),
        (["run", "jobs/nothing.yaml"], "no such run file"),
        (["run", "nowhere"], "there is no run here"),
        (["rnu", "x"], 'Did you mean "run"'),
        (["demo", "--factor.rigde", "1"], "Did you mean --factor.ridge"),
        (["demo", "--gram.executor", "rai"], 'Did you mean "ray"'),
        (["demo", "--architecture", "cntk-gp-4"], "did you mean 'cntk-gap-4'"),
        (["demo", "--noise.rate", "2"], "noise.rate=2.0 must be"),
        (["demo", "--run", "/proc/nothing"], "cannot be written"),
        (["status", "nowhere"], "there is no run here"),
        (["doctor", "nowhere"], "there is no run here"),
        (["doctor", "--architecture", "cntk-gp-4"], "did you mean 'cntk-gap-4'"),
    ],
    ids=str,
)
def test_bad_commands_are_one_line_and_exit_2(tokens, words, capsys):
    code, line = fails(capsys, *tokens)
    assert code == 2
    assert words in line
    assert "Traceback" not in line


def test_unknown_yaml_key_is_named(tmp_path, capsys):
    (tmp_path / "r.yaml").write_text("factor:\n  rigde: 1\n")
    code, line = fails(capsys, "run", tmp_path / "r.yaml")
    assert code == 2
    assert "unknown key 'factor.rigde'" in line
    assert "did you mean 'ridge'" in line


def test_another_architecture_is_refused(tmp_path, capsys):
    Run.create(RunConfig(run=str(tmp_path / "r"), data=DataConfig(n=20)))
    code, line = fails(capsys, "gram", tmp_path / "r", "--architecture", "fc-2")
    assert code == 2
    assert "architecture=" in line
    assert "now architecture='[Flatten()" in line
