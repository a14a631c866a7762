"""Help of a command: its own parameters, and the settings of a run where they are asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ntkdist.config import RunConfig
from ntkdist.networks.architecture import Architecture, preset_of

# whose values are shown as the settings' defaults; None shows no settings
_SHOWN: ContextVar[RunConfig | None] = ContextVar("shown settings", default=None)


@contextmanager
def all_settings(command: Callable[..., Any] | None) -> Iterator[None]:
    """Show the settings of a run in the help, with what a command takes where nothing is typed."""
    base: Any = None
    if command is not None and "settings" in (known := inspect.signature(command).parameters):
        base = known["settings"].default
    token = _SHOWN.set(base if isinstance(base, RunConfig) else RunConfig())
    try:
        yield
    finally:
        _SHOWN.reset(token)


class SettingsHelp:
    """Formatter of the panel of settings: the whole of it, or a line that says how to see it."""

    def __call__(self, console: Any, options: Any, panel: Any) -> None:
        """Print the panel; the arguments are those of cyclopts' formatters."""
        base = _SHOWN.get()
        if base is None:
            console.print(
                "--help-all lists the settings of a run (any key of a run file) as well.",
                highlight=False, markup=False,
            )  # fmt: skip
            return
        from cyclopts.help.formatters import DefaultFormatter

        values = base.to_dict()
        network = Architecture.parse(base.architecture)
        values["architecture"] = preset_of(network) or base.architecture
        entries = [_with_default(entry, values) for entry in panel.entries]
        DefaultFormatter()(console, options, panel.copy(entries=entries))


def _with_default(entry: Any, values: dict[str, Any]) -> Any:
    """Return an entry of the panel with the default that the command has."""
    name = next(iter(entry.positive_names), "").removeprefix("--")
    value: Any = values
    for key in name.split("."):
        if not isinstance(value, dict) or key.replace("-", "_") not in value:
            return entry
        value = value[key.replace("-", "_")]
    return entry.copy(default=shown_default(value))


def shown_default(value: Any) -> str | None:
    """Return a default as help shows it: nothing for a switch that is off or a list of none."""
    if value is None or value is False or value in ((), []):
        return None
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
