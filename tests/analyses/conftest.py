"""The made-up run of the report's tests."""

from tests.report.conftest import make_run as make_run
