"""Fixtures that the tests of the Gram have as well."""

from tests.gram.conftest import ray_session

__all__ = ["ray_session"]
