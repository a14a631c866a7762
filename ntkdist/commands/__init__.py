"""The commands: one module for each group of the help, each registering itself with ``app``.

A command takes what was typed, calls one function of the package and returns an ``Outcome``;
``ntkdist.cli`` prints it.
"""

from ntkdist.commands import after, compute, labels, learn, start
from ntkdist.commands._app import app, run_settings

__all__ = ["after", "app", "compute", "labels", "learn", "run_settings", "start"]
