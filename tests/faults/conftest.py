from __future__ import annotations

from tests.gram.conftest import ray_session

__all__ = ["ray_session"]
