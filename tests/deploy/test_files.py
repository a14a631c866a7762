"""What holds for every file of deploy/: shell, pins, Dockerfile, no secrets."""

from __future__ import annotations

import fnmatch
import re
import shlex
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.conftest import DEPLOY, ROOT

SHELLCHECK = Path(sys.executable).with_name("shellcheck")
SCRIPTS = sorted(
    path
    for folder in ("deploy", "jobs", ".ci")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".sh", ".sbatch") or path.parent.name == ".ci"
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_is_clean(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    sources = ["--external-sources", "--source-path=SCRIPTDIR", f"--source-path={ROOT}"]
    found = subprocess.run(
        [SHELLCHECK, "--shell=bash", *sources, script], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout
    sourced = script.name == "setup.sh"
    assert sourced or "\nset -euo pipefail\n" in script.read_text()


def test_shellcheck_finds_a_fault(tmp_path: Path) -> None:
    script = tmp_path / "bad.sh"
    script.write_text("#!/usr/bin/env bash\nrm -r $1/*\n")
    assert subprocess.run([SHELLCHECK, script], capture_output=True).returncode == 1


def pins(name: str) -> dict[str, str]:
    lines = (DEPLOY / name).read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in pinned)
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in pinned}


def test_no_package_is_pinned_twice() -> None:
    files = [pins(path.name) for path in DEPLOY.glob("constraints*.txt")]
    assert len(files) == 3
    assert sum(map(len, files)) == len({name for pinned in files for name in pinned})


def test_all_of_rays_extra_for_clusters_is_pinned() -> None:
    pinned = pins("constraints.txt") | pins("constraints-cluster.txt")
    for line in requires("ray") or []:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": "default"}):
            assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), line


def instructions() -> list[tuple[str, str]]:
    text = (DEPLOY / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    parts = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(name.upper(), arguments) for name, arguments in parts]


def test_the_image_is_of_a_pinned_base_and_not_roots() -> None:
    steps = instructions()
    assert steps[0][0] == "ARG"
    assert re.fullmatch(r"PYTHON=3\.11\.\d+-slim-[a-z]+", steps[0][1])
    assert [arguments for name, arguments in steps if name == "FROM"] == ["python:${PYTHON}"]
    users = [arguments for name, arguments in steps if name == "USER"]
    assert users
    assert users[-1].split(":")[0] not in ("root", "0")
    assert ("ENTRYPOINT", '["ntkdist"]') in steps
    assert not any(name == "ADD" for name, _ in steps)


def test_the_image_installs_pins_alone() -> None:
    installs = [arguments for name, arguments in instructions() if "pip install" in arguments]
    assert len(installs) == 2
    assert all("--no-deps" in arguments for arguments in installs)
    for name in ("constraints.txt", "constraints-cluster.txt"):
        assert f"--requirement deploy/{name}" in installs[0]
    assert (DEPLOY / "constraints-cuda.txt").exists()  # CUDA=-cuda


def test_the_image_copies_what_is_there_and_its_context_holds() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    allowed = [line[1:] for line in ignored if line.startswith("!")]
    for name, arguments in instructions():
        if name == "COPY":
            *sources, _ = shlex.split(arguments)
            for source in sources:
                assert (ROOT / source).exists(), source
                assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed), source


SECRETS = {
    "an AWS key": r"\b(AKIA|ASIA)[A-Z0-9]{16}\b",
    "a value of a secret": r"(?i)(secret|password|passwd|token|access_key(_id)?)[\"']?\s*[:=]\s*"
    r"[\"']?(?=[A-Za-z0-9+/]*\d)[A-Za-z0-9+/=_-]{16,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{30,}",
    "a Google key": r"\bAIza[0-9A-Za-z_-]{30,}",
    "64 hexadecimal digits": r"\b[0-9a-f]{64}\b",
}


@pytest.mark.parametrize("what", SECRETS)
def test_no_file_holds_a_secret(what: str) -> None:
    for path in sorted(DEPLOY.rglob("*")):
        if path.is_file():
            found = re.search(SECRETS[what], path.read_text())
            assert not found, f"{path}: {what}"


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("an AWS key", "AKIA" + "IOSFODNN7EXAMPLE"),
        ("a value of a secret", "AWS_SECRET_ACCESS_KEY" + ": wJalrXUtnFEMI/K7MDENG/bPxRfiCY"),
        ("a value of a secret", "token='" + "0123456789abcdef" * 2),
        ("a private key", "-----BEGIN RSA " + "PRIVATE KEY-----"),
        ("a GitHub token", "ghp_" + "a1B2c3D4e5" * 4),
        ("a Google key", "AIza" + "Sy0123456789" * 3),
        ("64 hexadecimal digits", "0123456789abcdef" * 4),
    ],
)
def test_a_secret_would_be_found(what: str, text: str) -> None:
    assert re.search(SECRETS[what], f"  {text}\n")
