"""The commands: one module for each group of the help, each registering itself with ``app``.

A command takes what was typed, calls one function of the package and returns a ``CommandResult``;
``ntkdist.cli.main`` prints it.
"""

from ntkdist.cli.app import app, run_settings
from ntkdist.cli.commands import after, compute, labels, learn, start

__all__ = ["after", "app", "compute", "labels", "learn", "run_settings", "start"]
