"""Ways to hold it wrong: one line with what to do, exit code 2, nothing overwritten."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntkdist import Run
from ntkdist.cli import main as cli
from ntkdist.config import DataConfig, GramConfig, RunConfig
from ntkdist.kernels import registry


class Bench:
    """A folder with good and bad things in it, and a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.monkeypatch: Any = None
        pictures = np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4, 1)
        floats = pictures.astype(np.float32)
        floats[3, 1, 2, 0] = np.nan
        self.archive("good", pictures, np.arange(6) % 2)
        self.archive("short", pictures, np.arange(5) % 2)
        self.archive("negative", pictures, np.array([0, 1, 0, -1, 0, 1]))
        self.archive("one-class", pictures, np.zeros(6, int))
        self.archive("nan", floats, np.arange(6) % 2)
        self.image("loose/a.png", 8)
        self.image("sizes/a/a.png", 8)
        self.image("sizes/b/b.png", 9)
        self.image("classes/a/a.png", 8)
        self.image("classes/b/b.png", 8)
        (folder / "empty").mkdir()
        (folder / "notes").mkdir()
        (folder / "notes" / "todo.txt").write_text("x")
        (folder / "pictures.zip").write_bytes(b"PK")
        (folder / "file").write_text("mine")
        for name, text in YAML.items():
            (folder / f"{name}.yaml").write_text(text)
        gram = GramConfig(executor="inline")
        data = DataConfig(source=f"npz:{folder}/good.npz")
        self.run = str(folder / "run")
        Run.create(RunConfig(run=self.run, architecture="fc-1", data=data, gram=gram))
        np.save(folder / "five.npy", np.zeros(5, int))
        np.save(folder / "high.npy", np.full(6, 7))
        (folder / "words.txt").write_text("cat\ndog\n")

    def archive(self, name: str, x: np.ndarray, y: np.ndarray) -> None:
        np.savez(self.folder / f"{name}.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])

    def image(self, name: str, height: int) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, height)).save(path)

    def contents(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.name not in ("events.jsonl", "lease.json")
        }

    def schema(self, number: int) -> None:
        path = Path(self.run) / "zarr.json"
        found = json.loads(path.read_text())
        found["attributes"]["ntkdist"]["schema"] = number
        path.write_text(json.dumps(found))

    def full(self) -> None:
        usage = shutil.disk_usage("/")._replace(free=100)
        self.monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    def no_gpu(self) -> None:
        why = "no NVIDIA GPU is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES"
        self.monkeypatch.delenv("RAY_ADDRESS", raising=False)
        self.monkeypatch.setattr(registry, "cuda_unavailable", lambda: why)
        self.monkeypatch.setattr("ntkdist.kernels.cuda.device.cuda_unavailable", lambda: why)


YAML = {
    "good": "data: {n: 6}\ngram: {executor: inline}\n",
    "key": "factor:\n  rigde: 1\n",
    "type": "data:\n  n: many\n",
    "list": "- run\n",
    "broken": "data: [\n",
    "section": "gram: 5\n",
}
NEW = "--run new"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One bench for all: whatever is held wrong writes nothing."""
    return Bench(tmp_path_factory.mktemp("wrong"))


@pytest.fixture
def bench(shared: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(shared.folder)
    return shared


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench that may be spoilt."""
    found = Bench(tmp_path)
    found.monkeypatch = monkeypatch
    monkeypatch.chdir(tmp_path)
    return found


# command line, words of the answer that name what is wrong, and words that say what to do
CASES = [
    ("rnu good.yaml", "Unknown command", 'Did you mean "run"'),
    ("demo --factor.rigde 1", "--factor.rigde", "Did you mean --factor.ridge"),
    ("demo --gram.executor rai", '"rai"', 'Did you mean "ray"'),
    ("demo --architecture cntk-gp-4", "unknown preset 'cntk-gp-4'", "did you mean 'cntk-gap-4'"),
    ("demo --data.subset ballanced", '"ballanced"', 'Did you mean "balanced"'),
    ("demo --data.source digit", "data source 'digit'", "did you mean 'digits'"),
    ("demo --data.n many", "--data.n 'many'", "give a whole number"),
    ("demo --factor.ridge some", "--factor.ridge 'some'", "give a number or auto"),
    ("demo --factor.ridge -1", "factor.ridge=-1.0", "at least 0"),
    ("demo --noise.rate 2", "noise.rate=2.0", "at most 1"),
    ("demo --gram.workers 0", "gram.workers=0", "at least 1 and at most 100000, or auto"),
    ("demo --gram.memory 1XB", "gram.memory='1XB'", "write 2GiB or 500MB"),
    ("demo --gram.kinds nngp", "gram.kinds=['nngp']", "add nngp beside it"),
    ("demo --gram.kinds ntk,nggp", "'nggp' is not one of ntk, nngp", "did you mean 'nngp'"),
    ("demo --data.n 5000", "5000", "at most 1797"),
    ("demo --gram.executor", "--gram.executor", "--help lists"),
    ("demo --run s3://key:secret@bucket/x", "a user, a port", "credentials in the environment"),
    ("status s3://key:secret@bucket/x", "a user, a port", "credentials in the environment"),
    ("demo --run htp://x/y", "htp://", "give a folder's path"),
    ("demo --run file", "file: is a file", "give a folder"),
    ("demo --run file/x", "cannot be written", "give another --run"),
    ("demo --run /proc/nothing", "cannot be written", "give another --run"),
    ("demo --run notes", "other things in it", "give a new or empty one"),
    ("run", "run: give a run file", "the folder of a run, or --data.source"),
    ("run key.yaml", "unknown key 'factor.rigde'", "did you mean 'ridge'"),
    ("run type.yaml", "data.n='many'", "a whole number or nothing"),
    ("run list.yaml", "holds a list", "key: value lines are needed"),
    ("run broken.yaml", "is not valid YAML", "line 2"),
    ("run section.yaml", "gram is 5", "key: value lines are needed"),
    ("run god.yaml", "no such run file", "did you mean 'good.yaml'"),
    ("run nowhere", "there is no run here", "start one with"),
    ("run classes", "holds images", "ntkdist audit classes"),
    ("status good.npz", "holds images", "ntkdist audit good.npz"),
    (f"run good.yaml --data.source images:loose {NEW}", "no class folders", "folder of its own"),
    (f"run good.yaml --data.source images:sizes {NEW}", "8x8 pixels but", "--data.size"),
    (f"run good.yaml --data.source npz:god.npz {NEW}", "god.npz", "did you mean 'good.npz'"),
    (
        f"run good.yaml --data.source npz:good.npz --architecture myrtle-5 {NEW}",
        "does not fit",
        "larger images or fewer pools",
    ),
    (f"audit short.npz {NEW}", "6 images but 5 labels", "one label for each image"),
    (f"audit nan.npz {NEW}", "1 NaN", "repair or leave out"),
    (f"audit negative.npz {NEW}", "-1", "label"),
    (f"audit one-class.npz {NEW}", "all 6 labels are '0'", "give images of two"),
    (f"audit good.npz --data.n 1 {NEW}", "1", "at least 2"),
    ("audit", "audit: give a folder", "a .csv file with columns file and label"),
    ("audit clases", "there is no such file", "did you mean 'classes'"),
    ("audit loose", "no class folders (1 images", "a folder of image files for each class"),
    ("audit empty", "is an empty folder", "a folder of image files for each class"),
    ("audit notes", "holds 1 .txt", "a folder of image files for each class"),
    ("audit pictures.zip", "is an archive", "unpacked first"),
    ("audit good.yaml", "is a run file", "ntkdist run good.yaml"),
    ("audit run", "is a run, not images", "ntkdist labels run"),
    ("gram run --architecture fc-2", "with architecture='fc-1', now architecture='fc-2'", "--run"),
    ("gram run --recompute r1", "'r1' is not a tile key", "write it like r0003c0012"),
    ("labelings run", "--files", "--help lists"),
    ("labelings run --files five.npy", "5 labels for 6 images", "give one for each image"),
    ("labelings run --files high.npy", "label 7", "outside the classes 0..1"),
    (
        "labelings run --files words.txt",
        "label 'cat' at index 0 is none of the 2",
        "names of classes: 0, 1",
    ),
    ("compare good.yaml --architectures fc-2", "1 architectures", "give at least two"),
    ("report run --port 80", "--port", "give it too"),
    ("completion csh", "csh", '"zsh"'),
    ("status run --quiet --verbose", "contradict each other", "give one"),
    ("doctor nowhere --quick", "there is no run here", "start one with"),
]


def refused(bench: Bench, command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must be refused, and return its one line."""
    before = bench.contents()
    with pytest.raises(SystemExit) as caught:
        cli.main(command.split())
    said = capsys.readouterr()
    assert caught.value.code == 2, said.err
    assert said.out == ""
    answer = said.err.strip().splitlines()[-1]
    assert answer.startswith("ntkdist: ")
    if "--verbose" not in command:
        assert "Traceback" not in said.err
    assert "secret" not in said.err.replace("it may be a secret", "")
    assert bench.contents() == before, "something was written"
    return answer


@pytest.mark.parametrize(("command", "wrong", "remedy"), CASES, ids=[case[0] for case in CASES])
def test_one_line_says_what_is_wrong_and_what_to_do(
    bench: Bench, capsys: pytest.CaptureFixture[str], command: str, wrong: str, remedy: str
) -> None:
    answer = refused(bench, command, capsys)
    assert wrong in answer
    assert remedy in answer


@pytest.mark.parametrize(
    ("spoil", "command", "words"),
    [
        (lambda b: b.schema(99), "gram run", "schema 99, this version reads up to 1; update"),
        (lambda b: b.schema(0), "gram run", "schema 0 by an older version"),
        (lambda b: b.full(), f"audit good.npz {NEW}", "give a --run with more room"),
        (lambda b: b.no_gpu(), f"demo --gram.backend cuda {NEW}", "check nvidia-smi"),
    ],
    ids=["newer", "older", "full", "no GPU"],
)
def test_places_and_machines_that_do_not_do(
    own: Bench,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Bench], None],
    command: str,
    words: str,
) -> None:
    spoil(own)
    assert words in refused(own, command, capsys)


def test_a_bug_is_one_line_too_and_verbose_shows_where(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("ntkdist.analyses.status.read_status", broken)
    for flags, traced in (([], False), (["--verbose"], True)):
        with pytest.raises(SystemExit) as caught:
            cli.main(["status", bench.run, *flags])
        said = capsys.readouterr().err
        assert caught.value.code == 1
        assert "ntkdist: ZeroDivisionError: a bug; --verbose shows where" in said
        assert ("Traceback" in said) == traced
