"""Variants of the GPU kernel: what they set, what is told of them, and turns within turns."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ntkdist import Architecture
from ntkdist.errors import InputError
from ntkdist.kernels._chain import chain_of
from ntkdist.kernels._cuda_plan import layout_of

BENCHMARKS = Path(__file__).parents[1] / "jobs" / "benchmarks"
SCRIPT = BENCHMARKS / "gpu_variants.py"


@pytest.fixture
def scripts(monkeypatch):
    """Put the benchmarks' folder on the path and return the script as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_variants

    return gpu_variants


def layout(network, shape=(4, 4, 2)):
    return layout_of(chain_of(Architecture.parse(network)), shape, "float32")


def python(code, **variables):
    """Run lines of Python in a process of its own, and return what they print."""
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1", **variables}
    begin = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
    command = [sys.executable, "-c", begin + code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


APPLY = """
from _variants_list import apply, settings_of
apply(settings_of({name!r}))
from ntkdist.kernels import _cuda_batches, _cuda_fused, _cuda_spec, cuda
assert _cuda_fused.THREADS == _cuda_spec.THREADS == cuda.THREADS == 8 * _cuda_spec.LANES
assert _cuda_spec.TEAMS == cuda.TEAMS == 8
assert _cuda_fused.MOST_REGISTERS == 96
assert (_cuda_batches.MOST_BYTES, _cuda_batches.WAVES) == (2**28, 128)
from ntkdist import Architecture
from ntkdist.errors import InputError
from ntkdist.kernels._chain import chain_of
from ntkdist.kernels._cuda_plan import layout_of
from _variants_list import check_layout, Impossible
made = layout_of(chain_of(Architecture.parse("cnn-3")), (4, 4, 2), "float32")
assert [block.fused.kept for block in made.blocks] == [0, 0, 0]
check_layout(made)
_cuda_spec.SHARED_BYTES = 64
try:
    check_layout(made)
except Impossible as reason:
    print(reason)
"""


def test_a_variant_is_set_before_anything_reads_it_and_what_has_no_room_is_impossible():
    name = "threads 256 + registers 96 + sums in memory + batch 256 MiB + waves 128"
    said = python(APPLY.format(name=name))
    assert re.fullmatch(
        r"a block of threads of 4 × 4 cells needs [\d,]+ bytes of .*, it has 64", said
    )


def test_a_variant_that_comes_too_late_is_an_error(scripts):
    from _variants_list import apply

    with pytest.raises(RuntimeError, match=r"imported before its constants were set: .*_cuda_plan"):
        apply({})


def test_what_cannot_matter_to_a_network_is_left_out(scripts):
    from _variants_list import variants_of

    of_pools, of_none = variants_of(layout("cnn-3")), variants_of(layout("cntk-gap-3"))
    assert of_pools[0] == of_none[0] == "present"
    assert set(of_pools) - set(of_none) == {
        *("sums in memory", "batch 256 MiB", "batch 8192 MiB", "waves 128"),
    }
    assert "registers 96" in of_none
    assert not {"registers 128", "batch 2048 MiB", "waves 8", "sums in registers"} & set(of_pools)


RIGHT = {"ntk": [[2.0, 1.0]], "nngp": [[1.0, 0.5]]}


def result(us, entries=RIGHT):
    return {"entries": entries, "kernels": [], "rows": 2, "columns": 2, "us": us}


def test_rows_tell_times_only_of_right_entries(scripts):
    names = ["present", "threads 64", "threads 256", "waves 128", "present again"]
    found = scripts.Findings({"cnn-3": names})
    found.results["cnn-3", "threads 64"] = result([3.0, 9.0, 4.0])
    (row,) = found.rows()
    assert row["error"] == "not checked: no reference yet"
    assert "us_per_entry" not in row
    found.references["cnn-3"] = RIGHT
    (row,) = found.rows()
    assert row["us_per_entry"] == 4.0
    assert "ratio" not in row
    wrong = {"ntk": [[2.0, 1.0001]], "nngp": [[1.0, 0.5]]}
    found.results |= {
        ("cnn-3", "present"): result([5.0, 5.0, 5.0]),
        ("cnn-3", "threads 256"): result([1.0], wrong),
        ("cnn-3", "waves 128"): {"error": "killed: over its limit of 190 s"},
        ("cnn-3", "present again"): result(
            [6.0], {"ntk": [[2.0, 1.0]], "nngp": [[1.0, float("nan")]]}
        ),
    }
    rows = {row["variant"]: row for row in found.rows()}
    assert list(rows) == names
    assert rows["threads 64"]["ratio"] == pytest.approx(0.8)
    assert rows["threads 64"]["settings"] == {"warps": 2}
    assert rows["threads 256"]["error"] == "an entry differs from the reference by 1.0e-04"
    assert rows["present again"]["error"].endswith("by nan")
    assert {name for name, row in rows.items() if "us_per_entry" in row} == {
        "present",
        "threads 64",
    }
    table = scripts.markdown(list(rows.values()))
    assert "| cnn-3 | threads 64 | 4 | 0.800 |" in table
    assert "| cnn-3 | waves 128 |  |  |  |  |  |  | killed: over its limit of 190 s |" in table
    assert scripts.best(list(rows.values())) == "measured: 2 of 5, cnn-3 4 µs (threads 64)"


@pytest.fixture
def children(scripts, monkeypatch, tmp_path):
    """Return a function that measures with a few lines of Python in the children's place."""

    def of(code, variants):
        child = tmp_path / "child.py"
        head = f"import json, sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        head += "from pathlib import Path; from _turns import turn\n"
        head += "network, variant = sys.argv[1:3]; output = Path(sys.argv[-1])\n"
        child.write_text(head + code)
        monkeypatch.setattr(scripts, "HERE", tmp_path)
        child.rename(tmp_path / "_variants_child.py")
        monkeypatch.setattr(scripts, "LIMIT", 3.0)
        args = scripts.options().parse_args(["--seconds", "0.1", "--processes", "9", "--simulate"])
        path = tmp_path / "out.json"
        return scripts.measure({"cnn-3": variants}, args, path), path

    return of


CHILD = f"""
import time
found = {RIGHT!r}
if variant == "threads 64":
    sys.exit("broken")
if variant == "threads 256":
    time.sleep(60)
if variant == "registers 96":
    found = {{"skipped": "no room"}}
elif variant != "--reference":
    time.sleep(0.5 if variant == "present" else 0)
    with turn():
        us = [time.monotonic()]
    found = dict(entries=found, kernels=[], rows=2, columns=2, us=us)
output.write_text(json.dumps(found))
"""


def test_one_that_fails_or_overruns_is_a_row_and_the_present_is_timed_again_at_the_end(children):
    names = ["present", "threads 64", "threads 256", "registers 96", "waves 128", "present again"]
    findings, path = children(CHILD, names)
    rows = {row["variant"]: row for row in findings.rows()}
    assert json.loads(path.read_text())["rows"] == findings.rows()
    assert rows["threads 64"]["error"] == "failed: exit code 1: broken"
    assert rows["threads 256"]["error"] == "killed: over its limit of 3.5 s"
    assert rows["registers 96"]["skipped"] == "no room"
    times = {name: row["us"][0] for name, row in rows.items() if "us" in row}
    assert set(times) == {"present", "waves 128", "present again"}
    assert max(times, key=times.get) == "present again"


INNER = """
import sys; sys.path.insert(0, {benchmarks!r})
import time
from pathlib import Path
from _card_runner import Runner, Step
takes = "import sys, time; sys.path.insert(0, {benchmarks!r}); from _turns import turn\\n"
takes += "time.sleep({{}})\\nwith turn():\\n    print(time.monotonic()); time.sleep(0.2)"
takes += "; print(time.monotonic())"
steps = [Step(f"inner-{{x}}", (sys.executable, "-c", takes.format(x)), 0.0, 20.0) for x in (0, 1.5)]
work = Path({work!r})
Runner(steps, work, seconds=30, cores=4, environment={{}}, on_outcome=lambda outcome: None).run()
for step in steps:
    print("turn", *(work / f"{{step.name}}.log").read_text().split())
"""


def test_turns_are_passed_on_within_a_turn_and_given_back_while_all_prepare(scripts, tmp_path):
    from _card_runner import Runner, Step

    code = INNER.format(benchmarks=str(BENCHMARKS), work=str(tmp_path))
    inner = Step("outer", (sys.executable, "-c", code), 0.0, 20.0)
    begin = time.monotonic()
    outcomes = []
    Runner([inner], tmp_path, seconds=30, cores=2, environment={}, on_outcome=outcomes.append).run()
    (outcome,) = outcomes
    assert outcome.state == "done"
    lines = (tmp_path / "outer.log").read_text().splitlines()
    held = [tuple(float(x) - begin for x in line.split()[1:]) for line in lines]
    assert len(held) == len(outcome.turns) == 2
    for (first, last), (start, stop) in zip(sorted(held), sorted(outcome.turns), strict=True):
        assert start < first < last < stop + 0.1


def run(*words, **variables):
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"} | variables
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_on_the_simulator_every_step_runs_and_no_time_is_told(tmp_path):
    path = tmp_path / "variants.json"
    words = ("--simulate", "--variants", "threads 256 + sums in memory + waves 128")
    done = run(*words, "--output", path, "--processes", 2, NUMBA_ENABLE_CUDASIM="1")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())
    assert [row["variant"] for row in found["rows"]] == [
        *("present", "threads 256 + sums in memory + waves 128", "present again")
    ]
    assert all(row["largest_error"] < 2e-5 for row in found["rows"])
    assert not any("us_per_entry" in row for row in found["rows"])
    assert found["simulated"]
    assert done.stdout.splitlines()[-1] == "measured: 3 of 3"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--variants", "threads 63"], "no variant 'threads 63'; there are present, threads 64,"),
        (["--networks", "cnn-0x"], "cnn-0x"),
        (["--repeats", "0"], "--repeats 0 must be at least 1"),
    ],
)
def test_bad_options_are_refused_by_name(scripts, words, message):
    with pytest.raises(InputError, match=re.escape(message)):
        scripts.run(scripts.options().parse_args(words))


def test_where_nothing_can_be_timed_it_says_so_and_writes_nothing(tmp_path):
    path = tmp_path / "none.json"
    done = run("--output", path, NUMBA_ENABLE_CUDASIM="1")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("gpu_variants.py: nothing is measured: this is the simulator")
    assert not path.exists()


def test_on_a_card_variants_come_behind_what_is_asked_first(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "card.py"), "--list", "--simulate"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kinds = [line.split()[0].split("-")[0] for line in done.stdout.splitlines()[1:]]
    at = kinds.index("variants")
    assert kinds[at - 1] == "busy"
    assert kinds[at : at + 4] == ["variants"] * 3 + ["peer"]
