"""Every analysis is found by the report, the command line and the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from ntkdist.analyses import Analysis, analyses
from ntkdist.cli.main import app

README = Path(__file__).parents[2] / "README.md"
each = pytest.mark.parametrize("analysis", analyses(), ids=lambda one: one.command)


def test_a_module_of_the_package_is_found_by_its_definition() -> None:
    modules = {path.stem for path in (README.parent / "ntkdist" / "analyses").glob("*.py")}
    defined = {one.group for one in analyses()}
    assert defined == modules - {"__init__", "section", "status"}
    assert [one.place for one in analyses()] == list(range(1, len(defined) + 1))


@each
def test_the_help_of_its_command_begins_with_its_question(analysis: Analysis) -> None:
    assert app[analysis.command].help.startswith(analysis.question)


@each
def test_the_readme_says_which_command_answers_it(analysis: Analysis) -> None:
    assert f"| `ntkdist {analysis.command} " in README.read_text(encoding="utf-8")
