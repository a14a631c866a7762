"""The Slurm jobs, on a Slurm of scripts: with a real Ray once, else with stand-ins for it."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
from pathlib import Path

import pytest
import yaml

from tests.deploy.conftest import DEPLOY, FakeSlurm, eventually

TILES = 210
# 40 images in tiles of 2: seconds of work, of which a signal after the first tile leaves most
RUN = {
    "architecture": "fc-2",
    "data": {"source": "digits", "n": 40},
    "gram": {"backend": "cpu", "tile": 2},
}

RAY = """\
import pathlib, signal, socket, sys, time
pathlib.Path("ray.log").open("a").write(" ".join(sys.argv[1:]) + "\\n")
if pathlib.Path("ray-fails").exists():
    sys.exit(1)
options = dict(option.partition("=")[::2] for option in sys.argv[1:])
def end(*_):
    pathlib.Path("ends").open("a").write("ray\\n")
    sys.exit(1)
if "--head" in options:
    signal.signal(signal.SIGTERM, end)
    server = socket.create_server((options["--node-ip-address"], int(options["--port"])))
    time.sleep(600)
sys.exit(1)  # a worker whose head has gone
"""
NTKDIST = """\
trap 'sleep 0.5; echo driver >>ends; exit 130' TERM
echo "$RAY_AUTH_MODE $(cat "$RAY_AUTH_TOKEN_PATH") $AWS_REGION" >environment
echo "$*" >arguments
[ ! -f code ] || exit "$(cat code)"
sleep 600 & wait
"""


@pytest.fixture
def stand_ins(slurm: FakeSlurm, tmp_path: Path) -> FakeSlurm:
    """A Slurm on which ``ray`` only listens and ``ntkdist`` waits, or exits with what code says."""
    slurm.repository = tmp_path / "repository"
    shutil.copytree(DEPLOY / "slurm", slurm.repository / "deploy" / "slurm")
    commands = slurm.repository / ".venv" / "bin"
    commands.mkdir(parents=True)
    (commands / "python").symlink_to(sys.executable)
    for name, shebang, body in (("ray", sys.executable, RAY), ("ntkdist", "/bin/bash", NTKDIST)):
        (commands / name).write_text(f"#!{shebang}\n{body}")
        (commands / name).chmod(0o755)
    return slurm


def stored(run: Path) -> int:
    return sum(1 for path in run.glob("gram/ntk/c/*/*") if not path.name.startswith("."))


@pytest.mark.slow
def test_an_interrupted_job_is_queued_again_and_goes_on(slurm: FakeSlurm, tmp_path: Path) -> None:
    run, run_file = tmp_path / "run", tmp_path / "run.yaml"
    run_file.write_text(yaml.safe_dump(RUN | {"run": str(run)}))
    token, done = slurm.state / "token", slurm.state / "done"

    slurm.environment["SLURM_JOB_NUM_NODES"] = "1"
    job = slurm.start(str(run_file))
    eventually(lambda: stored(run), 300, "a tile")  # the first compiles, beside other tests
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    secret = token.read_text()
    job.send_signal(signal.SIGTERM)
    assert job.wait(120) == 130, slurm.output
    assert slurm.calls.read_text() == f"requeue {slurm.job}\n"
    assert 0 < stored(run) < TILES
    assert not done.exists()

    slurm.environment["SLURM_JOB_NUM_NODES"] = "2"
    assert slurm.start(str(run_file)).wait(240) == 0, slurm.output
    assert stored(run) == TILES
    assert (run / "report.html").exists()
    # the second node joins when its Ray is up, by when the rest may be done
    assert (slurm.state / "ray-1.log").exists()
    assert done.exists()
    assert not token.exists()

    assert slurm.start(str(run_file)).wait(30) == 0
    assert "is done already" in slurm.output
    assert slurm.calls.read_text() == f"requeue {slurm.job}\n"
    assert secret not in slurm.output
    assert not list(Path(slurm.environment["TMPDIR"]).iterdir())


@pytest.mark.slow(but="cancelled")
@pytest.mark.parametrize(
    ("number", "cancelled", "queued_again"),
    [
        pytest.param(signal.SIGTERM, False, True, id="out of time"),
        pytest.param(signal.SIGUSR1, False, False, id="stopped by its user"),
        pytest.param(signal.SIGTERM, True, False, id="cancelled"),
    ],
)
def test_who_stops_a_job_decides_whether_it_comes_back(
    stand_ins: FakeSlurm, number: signal.Signals, cancelled: bool, queued_again: bool
) -> None:
    job = stand_ins.start("a.yaml")
    eventually((stand_ins.repository / "arguments").exists, 30, "the driver")
    if cancelled:
        stand_ins.cancelled()
    job.send_signal(number)
    assert job.wait(30) == 130
    assert (stand_ins.repository / "ends").read_text() == "driver\nray\n"
    assert stand_ins.calls.read_text() == (f"requeue {stand_ins.job}\n" if queued_again else "")
    # the token and the address stay for the job that comes back, and for nobody else
    assert (stand_ins.state / "token").exists() is queued_again
    assert not (stand_ins.state / "done").exists()


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_exit_code_is_the_drivers(stand_ins: FakeSlurm, code: int) -> None:
    (stand_ins.repository / "code").write_text(str(code))
    assert stand_ins.start("a.yaml").wait(30) == code
    assert stand_ins.calls.read_text() == ""
    assert (stand_ins.state / "done").exists() is (code == 0)
    assert {path.name for path in stand_ins.state.iterdir()} <= {"done", "ray-0.log", "ray-1.log"}


def test_a_job_without_ray_fails_and_says_where_to_look(stand_ins: FakeSlurm) -> None:
    (stand_ins.repository / "ray-fails").touch()
    assert stand_ins.start("a.yaml").wait(30) == 1
    assert f"Ray did not start; see {stand_ins.state}/ray-0.log" in stand_ins.output
    assert not (stand_ins.repository / "arguments").exists()


@pytest.mark.slow
def test_jobs_of_an_array_differ_in_settings_and_ports(stand_ins: FakeSlurm) -> None:
    (stand_ins.repository / "code").write_text("1")
    seen = set()
    for index in (7, 8):
        stand_ins.environment |= {
            "SLURM_ARRAY_TASK_ID": str(index),
            "SLURM_JOB_ID": str(stand_ins.job + index),
        }
        stand_ins.start("a.yaml", "--noise.seed", "%a", "--run", "runs/seed-%a").wait(30)
        arguments = (stand_ins.repository / "arguments").read_text().split()
        assert arguments[:2] == ["run", "a.yaml"]
        assert arguments[2:7] == [
            "--noise.seed", str(index), "--run", f"runs/seed-{index}", "--gram.address",
        ]  # fmt: skip
        seen.add(arguments[7])
    assert len(seen) == 2
    heads = [line for line in (stand_ins.repository / "ray.log").read_text().splitlines()
             if "--head" in line]  # fmt: skip
    for line in heads:
        # every other port is one that is free
        assert "--min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0" in line


@pytest.mark.slow
def test_another_run_is_not_taken_for_done(stand_ins: FakeSlurm) -> None:
    (stand_ins.repository / "code").write_text("0")
    assert stand_ins.start("a.yaml").wait(30) == 0
    assert stand_ins.start("b.yaml").wait(30) == 0
    assert (stand_ins.repository / "arguments").read_text().startswith("run b.yaml ")


def test_token_and_credentials_reach_the_driver_and_no_log(stand_ins: FakeSlurm) -> None:
    home = stand_ins.state.parent
    home.mkdir()
    (home / "credentials").write_text("AWS_REGION=eu-central-1\n")
    (stand_ins.repository / "code").write_text("1")
    stand_ins.start("a.yaml").wait(30)
    mode, token, region = (stand_ins.repository / "environment").read_text().split()
    assert (mode, region) == ("token", "eu-central-1")
    assert len(token) == 64
    logs = stand_ins.output + "".join(p.read_text() for p in stand_ins.state.iterdir())
    assert token not in logs
    assert "eu-central-1" not in logs


@pytest.mark.slow
def test_more_nodes_join_a_run_and_end_with_it(stand_ins: FakeSlurm) -> None:
    assert stand_ins.start(str(stand_ins.job), script="join.sbatch").wait(30) == 2
    assert "is computing no run" in stand_ins.output
    stand_ins.state.mkdir(parents=True)
    (stand_ins.state / "address").write_text("192.0.2.1:20000\n")
    log = stand_ins.repository / "ray.log"
    job = stand_ins.start(str(stand_ins.job), script="join.sbatch")
    eventually(log.exists, 30, "a worker")
    assert "--address=192.0.2.1:20000" in log.read_text()
    (stand_ins.state / "address").unlink()
    assert job.wait(30) == 0


@pytest.mark.parametrize("script", ["gram.sbatch", "join.sbatch"])
def test_a_job_without_arguments_shows_how_to_start_it(slurm: FakeSlurm, script: str) -> None:
    assert slurm.start(script=script).wait(30) == 2
    assert f"usage: sbatch deploy/slurm/{script}" in slurm.output


def directives(script: str) -> dict[str, str]:
    lines = (DEPLOY / "slurm" / script).read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    options = [line.split(maxsplit=1)[1] for line in lines[:first] if line.startswith("#SBATCH ")]
    return dict(option.removeprefix("--").partition("=")[::2] for option in options)


def test_slurm_is_asked_to_warn_the_shell_and_to_queue_again() -> None:
    asked = directives("gram.sbatch")
    assert asked["signal"].startswith("B:TERM@")
    assert {"requeue", "no-kill"} <= set(asked)
    assert asked["open-mode"] == "append"
    assert asked["ntasks-per-node"] == directives("join.sbatch")["ntasks-per-node"] == "1"
    assert "%j" in asked["output"]  # the job's own, for jobs of an array too
    text = "".join((DEPLOY / "slurm" / name).read_text() for name in os.listdir(DEPLOY / "slurm"))
    assert text.count("#SBATCH") == len(asked) + len(directives("join.sbatch"))
