"""Shell completion: scripts that shells accept, and the words they offer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ntkdist import Run
from ntkdist.cli import main as cli
from ntkdist.config import DataConfig, RunConfig


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    cli.main(["completion", shell])
    return capsys.readouterr().out


@pytest.mark.slow
def test_the_bash_script_is_valid_and_completes_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ntkdist.bash"
    path.write_text(script("bash", capsys))
    subprocess.run(["bash", "-n", str(path)], check=True)
    typed = {"ntkdist aud": "audit", "ntkdist run --factor.rid": "--factor.ridge"}
    for line, word in typed.items():
        words = line.split()
        code = f"""
            source {path}
            COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}
            COMP_LINE='{line}'; COMP_POINT={len(line)}
            _ntkdist
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        done = subprocess.run(["bash", "-c", code], check=True, capture_output=True, text=True)
        assert [one.strip() for one in done.stdout.split()] == [word]


@pytest.mark.slow(but="fish")
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_that_names_the_commands(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = script(shell, capsys)
    for word in ("audit", "label-aware", "--json"):
        assert word.lstrip("-") in text
    if shutil.which(shell):
        path = tmp_path / "script"
        path.write_text(text)
        subprocess.run([shell, "-n", str(path)], check=True)


def offered(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """Return what the script is told for the last word."""
    cli.main(["__complete", *words])
    lines = capsys.readouterr().out.splitlines()
    return [line.split("\t")[0] for line in lines[lines.index("\x1fbegin") + 1 :]]


def test_presets_and_choices_are_offered(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"cntk-gap-4", "myrtle-10"} <= set(offered(capsys, "demo", "--architecture", ""))
    assert {"cuda", "cpu"} <= set(offered(capsys, "demo", "--gram.backend", "c"))
    assert "posterior" in offered(capsys, "demo", "--labels.method", "")
    assert {"images:", "digits"} <= set(offered(capsys, "run", "x.yaml", "--data.source", ""))


def test_run_files_runs_and_folders_are_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Run.create(RunConfig(run="runs/mine", data=DataConfig(n=20), architecture="fc-1"))
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "mnist.yaml").write_text("")
    (tmp_path / "jobs" / "notes.txt").write_text("")
    assert offered(capsys, "run", "") == ["runs/mine", "jobs/", "runs/"]
    assert offered(capsys, "run", "jobs/") == ["jobs/mnist.yaml"]
    assert offered(capsys, "status", "runs/m") == ["runs/mine"]
    (tmp_path / "table.csv").write_text("")
    assert offered(capsys, "audit", "ta") == ["table.csv"]
