"""One self-contained HTML page about a run; reads what the stages stored and imports none."""

from ntkdist.report.page import write_report

__all__ = ["write_report"]
