from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from numpy.testing import assert_allclose

from ntkdist.errors import InputError, StoreError
from ntkdist.events.types import PanelDone, PanelStarted
from ntkdist.linalg import CholeskyFactor, factorize
from tests.linalg.matrices import SMALL, spd, stored_bytes
from tests.linalg.stopping import StopError, stop_at

N = 450


def computed(events: list) -> list[int]:
    return [e.index for e in events if isinstance(e, PanelStarted)]


@pytest.fixture(scope="module")
def matrix() -> np.ndarray:
    return spd(N)


@pytest.fixture(scope="module")
def undisturbed(matrix, tmp_path_factory) -> Path:
    url = tmp_path_factory.mktemp("undisturbed") / "f"
    factorize(matrix, url, memory_limit=SMALL)
    return url


@pytest.mark.parametrize("panel", [0, 2, 5])
def test_a_stopped_factorisation_resumes_at_the_next_panel(tmp_path, matrix, undisturbed, panel):
    url = tmp_path / "f"
    with pytest.raises(StopError):
        factorize(matrix, url, memory_limit=SMALL, on_event=stop_at(PanelDone, index=panel))
    if panel < 5:
        with pytest.raises(StoreError, match=rf"has {panel + 1} of 6 panels; start the factor"):
            CholeskyFactor.open(url)
    events: list = []
    factor = factorize(matrix, url, memory_limit=SMALL, on_event=events.append)
    assert computed(events) == list(range(panel + 1, factor.panel_count))
    assert [e.resumed for e in events if isinstance(e, PanelDone)] == [
        k <= panel for k in range(factor.panel_count)
    ]
    assert stored_bytes(url) == stored_bytes(undisturbed)


SCRIPT = """
import sys, time
import numpy as np
from ntkdist.events.types import PanelDone, PanelStarted
from ntkdist.linalg import factorize
def listen(event):
    print(type(event).__name__, event.index, flush=True)
    if isinstance(event, PanelDone):
        time.sleep(0.05)
factorize(np.load(sys.argv[1]), sys.argv[2], memory_limit=sys.argv[3], on_event=listen)
"""


@pytest.mark.slow(but="PanelStarted 3")
@pytest.mark.parametrize("line", ["PanelDone 1", "PanelStarted 3"])
def test_a_killed_process_loses_one_panel_at_most(tmp_path, matrix, undisturbed, line):
    np.save(tmp_path / "a.npy", matrix)
    url = tmp_path / "f"
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "a.npy"), str(url), SMALL],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        for seen in process.stdout:
            if seen.strip() == line:
                break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    events: list = []
    factorize(matrix, url, memory_limit=SMALL, on_event=events.append)
    first = 2 if line == "PanelDone 1" else 3
    assert computed(events)[0] in (first, first + 1)  # the signal may arrive a panel late
    assert stored_bytes(url) == stored_bytes(undisturbed)


def test_a_finished_factor_is_not_computed_again(undisturbed, matrix):
    events: list = []
    factorize(matrix, undisturbed, memory_limit=SMALL, on_event=events.append)
    assert computed(events) == []
    assert len(events) == 6


def test_the_stored_width_wins_over_a_new_limit(tmp_path, matrix, undisturbed):
    url = tmp_path / "f"
    with pytest.raises(StopError):
        factorize(matrix, url, memory_limit=SMALL, on_event=stop_at(PanelDone, index=1))
    factor = factorize(matrix, url, memory_limit="2GiB")
    assert factor.panel_count == 6
    assert stored_bytes(url) == stored_bytes(undisturbed)


def test_half_written_chunks_without_a_record_are_computed_again(tmp_path, matrix, undisturbed):
    url = tmp_path / "f"
    with pytest.raises(StopError):
        factorize(matrix, url, memory_limit=SMALL, on_event=stop_at(PanelDone, index=2))
    (url / "lower" / "c" / "4" / "3").write_bytes(b"torn")
    (url / "lower" / "c" / "3").mkdir(exist_ok=True)
    (url / "lower" / "c" / "3" / "3").write_bytes(b"")
    factorize(matrix, url, memory_limit=SMALL)
    assert stored_bytes(url) == stored_bytes(undisturbed)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"ridge": 1e-3}, r"ridge = 0\.0, and ridge = 0\.001 was asked for; keep ridge = 0\.0"),
        ({"fingerprint": "other"}, "fingerprint = mine, and fingerprint = other was asked for"),
        ({"a": spd(N + 1)}, "n = 450, and n = 451 was asked for"),
    ],
)
def test_another_configuration_is_refused(tmp_path, matrix, change, text):
    given = {"a": matrix, "url": tmp_path / "f", "memory_limit": SMALL, "fingerprint": "mine"}
    factorize(**given)
    before = stored_bytes(tmp_path / "f")
    with pytest.raises(InputError, match=text + ".*overwrite=True"):
        factorize(**{**given, **change})
    assert stored_bytes(tmp_path / "f") == before
    again = factorize(**{**given, **change}, overwrite=True)
    assert again.ridge == change.get("ridge", 0.0)
    assert stored_bytes(tmp_path / "f") != before or "fingerprint" in change


def test_without_a_fingerprint_another_matrix_is_noticed(undisturbed):
    with pytest.raises(InputError, match="fingerprint = sample-sha256:"):
        factorize(spd(N, seed=1), undisturbed, memory_limit=SMALL)


def test_overwriting_drops_the_old_inverse(tmp_path):
    a = spd(50)
    factorize(a, tmp_path / "f").inverse()
    factor = factorize(a, tmp_path / "f", ridge=0.5, overwrite=True)
    expected = np.linalg.inv(a + factor.ridge_absolute * np.eye(50))
    assert_allclose(np.asarray(factor.inverse()), expected, rtol=1e-9, atol=1e-12)


def test_nothing_foreign_is_touched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    a = spd(40)
    factorize(a, tmp_path)
    factorize(a, tmp_path, ridge=0.1, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    zarr.create_group(str(tmp_path / "other"), attributes={"mine": 1})
    zarr.create_array(str(tmp_path / "arr"), shape=(3,), dtype="f8")
    zarr.create_array(str(tmp_path / "bare" / "inner"), shape=(3,), dtype="f8")
    zarr.open_group(str(tmp_path / "bare"), mode="a")
    for name in ("other", "arr", "bare"):
        with pytest.raises(InputError, match="holds other content and no factor"):
            factorize(a, tmp_path / name, overwrite=True)
    assert zarr.open_array(str(tmp_path / "bare" / "inner"), mode="r").shape == (3,)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (3, "written in schema 3, and this version reads up to 2; upgrade"),
        (1, "written in schema 1, and this version reads schema 2; .* pass overwrite=True"),
    ],
)
def test_another_schema_is_refused(tmp_path, schema, text):
    factorize(spd(40), tmp_path)
    zarr.open_group(str(tmp_path), mode="r+").attrs["schema"] = schema
    with pytest.raises(InputError, match=text):
        CholeskyFactor.open(tmp_path)


def test_an_older_schema_can_be_overwritten(tmp_path):
    expected = factorize(spd(40), tmp_path).digest()
    zarr.open_group(str(tmp_path), mode="r+").attrs["schema"] = 1
    assert factorize(spd(40), tmp_path, overwrite=True).digest() == expected


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.slow(but="truncated")
@pytest.mark.parametrize("loss", ["flipped", "missing", "truncated"])
def test_damage_is_found_named_and_repaired(tmp_path, matrix, undisturbed, loss):
    url = tmp_path / "f"
    factorize(matrix, url, memory_limit=SMALL)
    chunk = url / "lower" / "c" / "4" / "2"
    if loss == "flipped":
        flip(chunk)
    elif loss == "missing":
        chunk.unlink()
    else:
        chunk.write_bytes(chunk.read_bytes()[:100])
    text = r"panel 2 of the factor at .* is damaged: lower/c/4/2 .*; remove .*panels/00002 and"
    for use in (
        lambda f: f.solve(np.ones(N)),
        lambda f: f.verify(),
        lambda f: f.inverse_columns([0]),
    ):
        with pytest.raises(StoreError, match=text):
            use(CholeskyFactor.open(url))
    for item in (url / "panels" / "00002").iterdir():
        item.unlink()
    events: list = []
    factorize(matrix, url, memory_limit=SMALL, on_event=events.append)
    assert computed(events) == [2, 3, 4, 5]
    assert stored_bytes(url) == stored_bytes(undisturbed)


def test_damage_is_found_while_resuming(tmp_path, matrix):
    url = tmp_path / "f"
    with pytest.raises(StopError):
        factorize(matrix, url, memory_limit=SMALL, on_event=stop_at(PanelDone, index=2))
    flip(url / "lower" / "c" / "5" / "1")
    with pytest.raises(StoreError, match=r"panel 1 .* lower/c/5/1 fails its checksum"):
        factorize(matrix, url, memory_limit=SMALL)


def test_a_chunk_swapped_for_a_whole_one_is_found_by_verify(tmp_path, matrix):
    url = tmp_path / "f"
    factor = factorize(matrix, url, memory_limit=SMALL)
    factor.verify()
    chunk = url / "lower" / "c" / "4" / "2"
    chunk.write_bytes((url / "lower" / "c" / "3" / "2").read_bytes())
    with pytest.raises(StoreError, match=r"panel 2 .* differs from the sha256"):
        factor.verify()


def test_a_full_disk_keeps_what_is_done(tmp_path, matrix, undisturbed, monkeypatch):
    from ntkdist.linalg.groups import CheckedArray

    class Full:
        def __init__(self, array):
            self.array, self.metadata = array, array.metadata

        def __getitem__(self, key):
            return self.array[key]

        def __setitem__(self, key, values):
            raise OSError(28, "No space left on device")

    url = tmp_path / "f"
    with pytest.raises(StopError):
        factorize(matrix, url, memory_limit=SMALL, on_event=stop_at(PanelDone, index=1))
    real = CheckedArray.array.fget
    assert real is not None
    with monkeypatch.context() as patch:
        patch.setattr(CheckedArray, "array", property(lambda self: Full(real(self))))
        with pytest.raises(StoreError, match=r"writing panel 2 to .*No space left.*free space"):
            factorize(matrix, url, memory_limit=SMALL)
    factorize(matrix, url, memory_limit=SMALL)
    assert stored_bytes(url) == stored_bytes(undisturbed)
