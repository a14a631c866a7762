"""Ray, its token and its cluster, and credentials of an object store."""

from __future__ import annotations

import importlib
import os
import socket
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from packaging.version import Version

from ntkdist.cli.doctor.finding import Finding
from ntkdist.cli.doctor.packages import installed
from ntkdist.config import RunConfig
from ntkdist.storage.addresses import CREDENTIALS, Place, parse
from ntkdist.storage.object_stores import SOURCES, endpoint

_TOKENS_SINCE = Version("2.59")  # a local cluster asks for a token unless told not to
_ANSWER = 3.0  # seconds
_PORT = 6379
_CURRENT = (
    Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
)


def check_ray(config: RunConfig) -> Iterator[Finding]:
    """Yield whether Ray can be imported, lets this driver in, and answers where it has to."""
    used = config.gram.executor == "ray"
    problem = _import_problem()
    if problem:
        remedy = "pip install ray, or take --gram.executor inline"
        yield Finding("ray", problem, "problem" if used else "ok", remedy if used else "")
        return
    yield Finding("ray", "can be imported")
    if not used:
        return
    address = cluster_of(config)
    yield from check_token(address)
    if address is not None and address != "local":
        yield _answer(address)


def cluster_of(config: RunConfig) -> str | None:
    """Return the address of the cluster that the workers run on, if they do not run here."""
    if config.gram.executor == "inline":
        return None
    return config.gram.address or os.environ.get("RAY_ADDRESS") or None


def check_token(address: str | None) -> Iterator[Finding]:
    """Yield whether there is the token that Ray asks for."""
    version = installed("ray")
    if version is None or Version(version) < _TOKENS_SINCE:
        return
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(path or "~/.ray/auth_token").expanduser()
    has_token = bool(os.environ.get("RAY_AUTH_TOKEN")) or file.is_file()
    if mode not in ("", "disabled", "token"):
        text = f"RAY_AUTH_MODE={mode!r} is not known"
        yield Finding("token", text, "problem", "set it to token or disabled")
    elif mode == "disabled":
        text = "RAY_AUTH_MODE=disabled: no token is asked for, and the cluster's must say the same"
        yield Finding("token", text if address else "RAY_AUTH_MODE=disabled: none is asked for")
    elif has_token:
        yield Finding("token", "there is one; nodes of a cluster need the same")
    elif path or (mode and address):
        where = f"RAY_AUTH_TOKEN_PATH={path}: there is no such file" if path else f"{file}: missing"
        remedy = "copy the head node's token there, or set RAY_AUTH_MODE=disabled on every node"
        yield Finding("token", where, "problem", remedy)
    elif address:
        text = f"none in {file}; a cluster with tokens refuses this driver"
        remedy = "if it has them: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE"
        yield Finding("token", text, "warning", remedy)
    elif not os.access(_above(file), os.W_OK):
        text = f"Ray makes a token in {file}, which cannot be written"
        yield Finding("token", text, "problem", "export RAY_AUTH_MODE=disabled")
    else:
        yield Finding("token", f"none yet; Ray makes one in {file}")


def check_store(url: str) -> Iterator[Finding]:
    """Yield whether the environment has what the object store of a run's URL asks for."""
    place = parse(url)
    if not isinstance(place, Place) or place.scheme not in SOURCES:
        return
    names = [name for name in SOURCES[place.scheme] if os.environ.get(name)]
    where = f"{place.scheme}://{place.bucket}"
    if not names:
        text = f"{where}: no credentials in the environment"
        yield Finding("store", text, "problem", f"set {CREDENTIALS[place.scheme]}")
        return
    if "AWS_ACCESS_KEY_ID" in names and not os.environ.get("AWS_SECRET_ACCESS_KEY"):
        text = f"{where}: AWS_ACCESS_KEY_ID is set, AWS_SECRET_ACCESS_KEY is not"
        yield Finding("store", text, "problem", "set both")
        return
    at = endpoint(place.scheme)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if place.scheme == "s3" and not at and not region:
        text = f"{where}: AWS_REGION is not set, us-east-1 is taken"
        yield Finding("store", text, "warning", "set AWS_REGION to the bucket's")
        return
    yield Finding("store", f"{where}: credentials by {names[0]}{f', at {at}' if at else ''}")


def _answer(address: str) -> Finding:
    """Return whether somebody listens at the address of a cluster."""
    told = address
    if address == "auto":
        try:
            told = _CURRENT.read_text(encoding="utf-8").strip()
        except OSError:
            text = "address auto: no cluster runs on this machine"
            return Finding("cluster", text, "problem", "start one: ray start --head")
    host, _, port = told.rpartition("://")[2].partition(":")
    remedy = "start it there with ray start --head, or unset RAY_ADDRESS to use this machine"
    if not port.isdecimal():
        return Finding("cluster", f"{address}: is not HOST:PORT", "problem", f"write HOST:{_PORT}")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER).close()
    except (OSError, OverflowError) as error:
        text = f"{address}: no answer ({getattr(error, 'strerror', None) or error})"
        return Finding("cluster", text, "problem", remedy)
    return Finding("cluster", f"{address}: answers")


def _import_problem() -> str | None:
    """Return why Ray cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("ray")
    except ImportError as error:
        return f"cannot be imported ({' '.join(str(error).split())})"
    return None


def _above(path: Path) -> Path:
    return next(folder for folder in path.parents if folder.exists())
