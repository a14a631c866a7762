"""What this machine is, whether a run can be done on it, and about how long that takes.

Reads only. A run that is there brings its stored images; the images of any other are read from
their source, once, and not stored.
"""

from __future__ import annotations

from collections.abc import Iterator

from ntkdist.cli.doctor.finding import Finding, describe_finding
from ntkdist.cli.doctor.machine import check_gpus, check_machine
from ntkdist.cli.doctor.packages import check_packages
from ntkdist.cli.doctor.run import check_run
from ntkdist.cli.doctor.services import check_ray, check_store
from ntkdist.config import RunConfig
from ntkdist.errors import InputError
from ntkdist.kernels.cuda import device as cuda_device

__all__ = ["Finding", "describe_finding", "diagnose"]


def diagnose(config: RunConfig, *, quick: bool = False) -> Iterator[Finding]:
    """Look at machine and run, and tell what is found in the order in which it is found out."""
    yield from check_packages()
    yield from check_machine(config)
    blocked = False
    for one in check_ray(config):
        blocked = blocked or one.state == "problem"
        yield one
    devices = cuda_device.devices()
    yield from check_gpus(devices)
    try:
        for one in check_store(config.run):
            blocked = blocked or one.state == "problem"
            yield one
        if not blocked:
            yield from check_run(config, devices, quick=quick)
    except InputError as error:
        yield Finding("run", " ".join(str(error).split()), "problem")
