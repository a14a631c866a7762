from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.s3 import S3Server


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3")).start()
    yield server
    server.kill()


@pytest.fixture
def s3(shared_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A server that nobody kills, and an environment that reaches it."""
    _take(shared_server, monkeypatch)
    return shared_server


@pytest.fixture
def mortal(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[S3Server]:
    """A server of the test's own, to be killed and started again."""
    server = S3Server(tmp_path_factory.mktemp("mortal")).start()
    _take(server, monkeypatch)
    yield server
    server.kill()


def _take(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
