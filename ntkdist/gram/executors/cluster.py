"""Joining a Ray cluster, or starting a quiet one on this machine for the length of a job."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntkdist.errors import InputError, shown
from ntkdist.gram.signals import keep_signal_handlers

_OBJECT_STORE_BYTES = 80 * 2**20  # records only; Ray takes no less than 75 MiB
#: Seconds for which a cluster that does not answer yet is waited for.
WAIT = 30
_EVERY, _CONNECT = 2.0, 5.0  # seconds between two attempts, and for one
_SOCKET_PATH = 103 if sys.platform == "darwin" else 107  # bytes that its path may have
_BELOW = len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def cluster(
    address: str | None,
    *,
    cpus: int,
    gpus: int,
    environment: Mapping[str, str] | None = None,
    on_wait: Callable[[str, float], None] | None = None,
) -> Iterator[tuple[Any, bool]]:
    """Connect to Ray; yield the module ``ray`` and whether the cluster was started here.

    A Ray that is initialised already is used as it is. Otherwise ``address``, or the
    environment's RAY_ADDRESS, names a cluster to join; without one, or for ``local``, a
    local cluster is started and shut down at the end. ``on_wait`` is called with words and the
    seconds so far while a cluster at the address does not answer.

    Raises:
        InputError: If nothing answers at the address for ``WAIT`` seconds, or no folder is left
            whose path is short enough for Ray's sockets.
    """
    # Ray reads both when it is imported and started. The first turns usage reports off. The
    # second chooses the default of Ray's next version (CPU actors keep their GPUs visible)
    # and so silences the warning about it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with _quiet():
        import ray
    if ray.is_initialized():
        yield ray, False
        return
    address = address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None or address == "local":
        options |= {
            "address": "local",
            "num_cpus": cpus,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
        if folder := _short_folder():
            options["_temp_dir"] = folder
        if gpus:
            options["num_gpus"] = gpus
    else:
        options["address"] = address
        _await(address, on_wait)
    try:
        # Ray takes SIGTERM for itself and would exit instead of finishing the tiles
        local = options["address"] == "local"
        # Inherited by the workers Ray starts in advance; a runtime_env would start others
        # beside them, seconds later.
        variables = environment if local and environment else {}
        with keep_signal_handlers(), _quiet(), _environment(variables):
            ray.init(**options)
    except ConnectionError as error:
        raise _no_cluster(address, str(error)) from error
    try:
        yield ray, local
    finally:
        with keep_signal_handlers(), _quiet():
            ray.shutdown()


def _no_cluster(address: str | None, reason: str) -> InputError:
    return InputError(
        f"no Ray cluster at {shown(address)} ({reason}); start one with 'ray start --head', or "
        "give no address to use this machine"
    )


def _await(address: str, on_wait: Callable[[str, float], None] | None) -> None:
    """Wait until something answers at ``HOST:PORT``; Ray itself would wait for minutes, silently.

    Raises:
        InputError: Nothing answers for ``WAIT`` seconds, or it is no address.
    """
    if address == "auto":  # is found by a file of this machine
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(
            f"gram.address={shown(address)} must be HOST:PORT of a Ray cluster, auto for the one "
            "of this machine, or nothing to start one"
        )
    began = time.monotonic()
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT):
                return
        except (OSError, UnicodeError) as error:
            waited = time.monotonic() - began
            if waited + _EVERY > WAIT:
                reason = f"{error}; nothing answered for {waited:.0f} s"
                raise _no_cluster(address, reason) from None
        if on_wait is not None:
            on_wait(f"waiting up to {WAIT} s for the Ray cluster at {address}", waited)
        time.sleep(_EVERY)


def _short_folder() -> str | None:
    """Return a folder for Ray's sockets where the path of its own choice would be too long.

    Raises:
        InputError: There is none.
    """
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    given = os.environ.get(name, "/tmp")
    longest = _SOCKET_PATH - _BELOW
    if len(os.fsencode(given)) <= longest or not hasattr(os, "getuid"):
        return None
    short = f"/tmp/ray-{os.getuid()}"
    try:
        os.makedirs(short, mode=0o700, exist_ok=True)
        if os.stat(short).st_uid == os.getuid() and os.access(short, os.W_OK):
            return short
    except OSError:
        pass
    raise InputError(
        f"{name}={shown(given)} has {len(os.fsencode(given))} bytes, and Ray's sockets below it "
        f"would exceed the {_SOCKET_PATH} that a socket's path may have; set {name} to a folder of "
        f"at most {longest} bytes, or take --gram.executor inline"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Ignore Ray's warnings about itself, which some callers turn into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def actor_environment(*, threads: int, gpus: float) -> dict[str, str]:
    """Return the environment variables of an actor."""
    names = ("OMP", "OPENBLAS", "MKL", "NUMBA")
    variables = {f"{name}_NUM_THREADS": str(threads) for name in names}
    if not gpus:
        variables["JAX_PLATFORMS"] = "cpu"  # Ray no longer hides GPUs from CPU actors
    return variables


def package_path() -> dict[str, str]:
    """Return the variable PYTHONPATH with the folder that holds this package in front."""
    here = str(Path(__file__).parents[__name__.count(".")])
    rest = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([here, rest] if rest else [here])}


@dataclass(frozen=True)
class Nodes:
    """The nodes of a cluster at one time.

    Attributes:
        workers: How many workers its resources allow.
        alive: Ids of the nodes that are alive.
        draining: Ids of those that are draining; they get no worker.
    """

    workers: int
    alive: frozenset[str]
    draining: frozenset[str]


def current_nodes(ray: Any, *, threads: int, gpus: float) -> Nodes:
    """Return the nodes of a cluster, and how many workers fit on them.

    Spot pre-emptions, and nodes that an autoscaler or ``ray drain-node`` takes away, are
    announced some time before; nothing new is placed on such a node.
    """
    # what Ray's own libraries read; there is no public call for it
    draining = frozenset(ray._private.state.state.get_draining_nodes())
    workers = 0
    alive = set()
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        alive.add(node["NodeID"])
        if node["NodeID"] in draining:
            continue
        cpus = int(node["Resources"].get("CPU", 0) // threads)
        workers += min(cpus, int(node["Resources"].get("GPU", 0) / gpus)) if gpus else cpus
    return Nodes(workers, frozenset(alive), draining & alive)
