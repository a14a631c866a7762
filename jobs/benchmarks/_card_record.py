"""What ``card.py`` leaves in its folder: outcomes, logs, and the rows of all networks."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _card_runner import Outcome
from _card_steps import HERE, ROOT, Refusal, Step
from _gpu_table import markdown

# what the figures follow from; a folder holds those of one state of it
MEASURED = (
    *("ntkdist/kernels/*.py", "jobs/benchmarks/gpu.py", "jobs/benchmarks/_gpu_*.py"),
    *("jobs/benchmarks/_xla.py", "jobs/benchmarks/_work.py"),
)


def code() -> str:
    """Return a digest of the kernels, and of what times them."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in MEASURED for path in ROOT.glob(pattern)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(text)
    part.replace(path)


class Record:
    """The folder of a card.

    Args:
        output: The folder.
        work: Where the steps write.
        about: What is written in front of the outcomes; its ``code`` and ``simulated`` must be
            those of what the folder holds.

    Raises:
        Refusal: If the folder holds something else; one line says what, and the remedy.
    """

    def __init__(self, output: Path, work: Path, about: dict[str, Any]) -> None:
        self._output, self._work, self._about = output, work, about
        self._outcomes: dict[str, dict[str, Any]] = {}
        try:
            found = json.loads((output / "card.json").read_text())
            held = {key: found[key] for key in ("code", "simulated")}
            earlier = {outcome["name"]: outcome for outcome in found["outcomes"]}
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError):
            raise Refusal(f"{output}/card.json is damaged; name another --output") from None
        for key, value in held.items():
            if about[key] != value:
                raise Refusal(
                    f"{output} holds figures of other {key} ({value}, now {about[key]}); name "
                    "another --output"
                )
        self._outcomes = earlier

    def is_done(self, step: Step) -> bool:
        """Return whether a step was done before, with the same command."""
        earlier = self._outcomes.get(step.name, {})
        return earlier.get("state") == "done" and earlier.get("command") == _movable(step)

    def add(self, step: Step, outcome: Outcome) -> None:
        """Take in what became of a step, and write all there is so far."""
        result = self._work / f"{step.name}.json"
        found: Any = None
        if result.exists():
            found = json.loads(result.read_text())
            if is_of_networks(found):
                self._merge(found)
                found = None
        self._outcomes[step.name] = {
            **asdict(outcome),
            "command": _movable(step),
            "result": found,
        }
        self.write()

    def write(self) -> None:
        """Write outcomes, summary and logs."""
        content = {**self._about, "outcomes": list(self._outcomes.values())}
        replace(self._output / "card.json", json.dumps(content, indent=1) + "\n")
        replace(self._output / "summary.md", self.summary() + "\n")
        self.write_logs()

    def write_logs(self) -> None:
        """Write the logs of all steps into one file."""
        logs = sorted(self._work.glob("*.log"), key=lambda path: path.stat().st_mtime)
        text = "\n".join(f"== {log.stem}\n{log.read_text(errors='replace')}" for log in logs)
        replace(self._output / "log.txt", text)

    def summary(self) -> str:
        """Return a line for each step, and a table of the networks."""
        lines = ["| step | | on the GPU, s | in all, s | |", "|---|---|---:|---:|---|"]
        for outcome in self._outcomes.values():
            held = sum(end - begin for begin, end in outcome["turns"])
            cells = (
                outcome["name"],
                outcome["state"],
                f"{held:.0f}",
                f"{outcome['seconds']:.0f}",
                outcome["words"].strip("| ").replace("|", ","),
            )
            lines.append(f"| {' | '.join(cells)} |")
        tables = []
        for path in sorted(self._output.glob("gpu-*.json")):
            found = json.loads(path.read_text())
            if found["machine"]["gpu"]:
                tables.append(markdown(found))
        return "\n\n".join(["\n".join(lines), *tables])

    def _merge(self, found: dict[str, Any]) -> None:
        gpu = found["machine"]["gpu"]
        name = gpu[0]["name"] if gpu else "simulator"
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        path = self._output / f"gpu-{slug}.json"
        kept = json.loads(path.read_text())["rows"] if path.exists() else []
        command = f"python {HERE / 'card.py'}"
        merged = {**found, "command": command, "rows": merge_rows(kept, found["rows"])}
        replace(path, json.dumps(merged, indent=1) + "\n")


def _movable(step: Step) -> list[str]:
    """Return a step's words, without the folders that may be others another time."""
    words = [Path(word) for word in step.command[1:]]
    return [word.name if word.is_absolute() else str(word) for word in words]


def is_of_networks(found: Any) -> bool:
    """Return whether a step's result holds rows of ``gpu.py``."""
    rows = found.get("rows") if isinstance(found, dict) else None
    return isinstance(rows, list) and all("network" in row for row in rows)


def merge_rows(
    kept: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return rows of networks with new ones, each network once.

    A new row takes the place of one that says no more than it: timed with a peer says most, then
    timed or refused, then checked alone.
    """

    def worth(row: dict[str, Any]) -> int:
        if "refused" in row:
            return 2
        return 1 + ("us_per_entry" in row) + bool(row.get("xla"))

    rows = {row["network"]: row for row in kept}
    for row in new:
        old = rows.get(row["network"])
        if old is None or worth(row) >= worth(old):
            rows[row["network"]] = row
    return list(rows.values())
