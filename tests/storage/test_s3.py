"""What is peculiar to a server: keys, buckets, and being away."""

from __future__ import annotations

import os
import re
import threading
import time
import traceback

import pytest

from ntkdist import storage
from ntkdist.errors import InputError, NtkdistError, StoreError
from tests.s3 import ACCESS_KEY, SECRET_KEY, S3Server

ACTS = {
    "read": storage.read_bytes,
    "write": lambda address: storage.write_text(address, "x"),
    "list": storage.list_objects,
    "children": storage.children,
    "remove": storage.remove,
    "create": lambda address: storage.create_text(address, "x"),
}


def _refused(act: str, address: str, kind: type[NtkdistError]) -> str:
    with pytest.raises(kind) as caught:
        ACTS[act](address)
    message = str(caught.value)
    assert "\n" not in message
    whole = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__context__)
    for secret in (ACCESS_KEY, SECRET_KEY, "wrongsecret12345", "Debug source"):
        assert secret not in whole
    return message


@pytest.mark.parametrize("act", ACTS)
def test_a_bucket_that_is_not_there_is_named(s3: S3Server, act: str) -> None:
    message = _refused(act, "s3://nobucket/run/x", InputError)
    assert message.startswith(f"s3://nobucket: there is no such bucket at 127.0.0.1:{s3.port}")


@pytest.mark.parametrize("act", ACTS)
def test_a_wrong_key_points_to_the_environment(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrongsecret12345")
    message = _refused(act, "s3://bucket/run/x", InputError)
    assert "access is refused" in message
    assert "AWS_SECRET_ACCESS_KEY" in message


@pytest.mark.slow(but="create")
@pytest.mark.parametrize("act", ACTS)
def test_a_server_that_stays_away_is_given_up_after_retries(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NTKDIST_STORE_PATIENCE", "0.1")
    message = _refused(act, "s3://bucket/run/x", StoreError)
    assert re.search(r"no answer at 127\.0\.0\.1:9 after \d+ s of retries", message)


def test_without_keys_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    message = _refused("read", "s3://bucket/run/x", InputError)
    assert "no credentials in the environment; set AWS_ACCESS_KEY_ID and" in message


def test_patience_must_be_a_number(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NTKDIST_STORE_PATIENCE", "long")
    with pytest.raises(InputError, match="PATIENCE='long' is not a number of seconds"):
        storage.read_bytes("s3://bucket/run/x")


def test_a_forked_process_is_told_so_instead_of_waiting_for_ever(s3: S3Server) -> None:
    storage.write_text("s3://bucket/fork", "x")
    child = os.fork()
    if not child:
        try:
            storage.read_bytes("s3://bucket/fork")
        except StoreError as error:
            os._exit(7 if "forked" in str(error) else 8)
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.slow
def test_requests_outlast_a_server_that_is_killed(mortal: S3Server) -> None:
    """Reads, writes and listings go on around two kills; none fails, none is wrong."""
    content = os.urandom(2_000_000)
    for i in range(50):
        storage.write_text(f"s3://bucket/many/{i}", "x")
    storage.write_bytes("s3://bucket/read", content)
    stop, wrong, done = threading.Event(), [], dict.fromkeys("rwl", 0)

    def repeat(name: str, act) -> None:  # type: ignore[no-untyped-def]
        while not stop.is_set():
            try:
                if not act():
                    wrong.append(f"{name}: wrong content")
            except Exception as error:
                wrong.append(f"{name}: {error!r}")
            done[name] += 1

    def write() -> bool:
        storage.write_bytes("s3://bucket/written", content)
        return True

    acts = {
        "r": lambda: storage.read_bytes("s3://bucket/read") == content,
        "w": write,
        "l": lambda: len(storage.list_objects("s3://bucket/many")) == 50,
    }
    threads = [threading.Thread(target=repeat, args=item) for item in acts.items()]
    for thread in threads:
        thread.start()
    for _ in range(2):
        before = dict(done)
        while any(done[name] < before[name] + 2 for name in done):
            time.sleep(0.01)
        mortal.kill()
        time.sleep(0.5)
        mortal.start()
    before = dict(done)
    while any(done[name] == before[name] for name in done):
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert storage.read_bytes("s3://bucket/written") == content
