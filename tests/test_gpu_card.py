"""Steps on one GPU: they prepare together and have it in turns; none of them harms another."""

import dataclasses
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "jobs" / "benchmarks"

TAKES_A_TURN = """
import sys, time
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
from _turns import turn
{prepare}
with turn():
    begin = time.monotonic()
    {hold}
    print(begin, time.monotonic())
"""


@pytest.fixture
def card(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import card

    return card


@pytest.fixture
def step(card):
    """Return a function that makes a step of a few lines of Python."""

    def make(name, code="", **more):
        options = {"seconds": 0.0, "limit": 20.0} | more
        return card.Step(name, (sys.executable, "-c", code), **options)

    return make


@pytest.fixture
def taking_turns(step):
    def make(name, prepare="", hold="time.sleep(0.1)", **more):
        code = TAKES_A_TURN.format(benchmarks=str(BENCHMARKS), prepare=prepare, hold=hold)
        return step(name, code, **more)

    return make


@pytest.fixture
def run(card, tmp_path):
    """Return a function that runs steps and returns their outcomes by name, in order of time."""

    def of(*steps, seconds=30.0, cores=4):
        outcomes = []
        runner = card.Runner(
            steps,
            tmp_path,
            seconds=seconds,
            cores=cores,
            environment={},
            on_outcome=outcomes.append,
        )
        runner.run()
        return {outcome.name: outcome for outcome in outcomes}

    return of


def intervals(outcomes):
    """Return (begin, end) of each turn as its program saw it."""
    return sorted(tuple(map(float, x.words.split())) for x in outcomes.values())


def test_no_two_steps_have_the_gpu_at_a_time(run, taking_turns):
    whole = taking_turns("whole", whole=True)
    found = run(whole, *(taking_turns(name) for name in "abcd"), taking_turns("last", whole=True))
    assert {outcome.state for outcome in found.values()} == {"done"}
    for turns in (intervals(found), sorted(turn for x in found.values() for turn in x.turns)):
        assert len(turns) == 6
        for (_, end), (begin, _) in itertools.pairwise(turns):
            assert end <= begin
    assert next(iter(found)) == "whole"
    assert list(found)[-1] == "last"


def touch(path):
    return f"Path({str(path)!r}).touch()"


def until(*paths):
    """Return a line that waits until files are there."""
    return f"while not all(map(Path.exists, map(Path, {[*map(str, paths)]!r}))): time.sleep(0.01)"


def test_of_those_that_wait_the_first_in_order_is_next(run, taking_turns, tmp_path):
    """The first two prepare until the third has its turn, which lasts until both have asked."""
    held, first, second = (tmp_path / name for name in ("held", "first", "second"))
    waiting = [taking_turns(path.name, f"{until(held)}\n{touch(path)}") for path in (first, second)]
    hold = f"{touch(held)}\n    {until(first, second)}\n    time.sleep(0.3)"
    found = run(*waiting, taking_turns("third", hold=hold))
    assert list(found) == ["third", "first", "second"]


def test_a_turn_is_for_nothing_where_nobody_gives_any(taking_turns):
    done = subprocess.run(taking_turns("alone").command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_that_fails_in_its_turn_stops_no_other(run, taking_turns):
    found = run(taking_turns("bad", hold="sys.exit('broken')"), taking_turns("good"))
    assert (found["bad"].state, found["bad"].words) == ("failed", "exit code 1: broken")
    assert found["good"].state == "done"


def gone(pid):
    """Return whether a process ends soon; one that is dead and not yet buried has ended."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_one_over_its_limit_is_killed_with_what_it_started(run, taking_turns, tmp_path):
    child = tmp_path / "child"
    hold = f"""
    import subprocess
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", deaf])
    open({str(child)!r}, "w").write(str(child.pid))
    time.sleep(60)"""
    found = run(taking_turns("endless", hold=hold, limit=1.5), taking_turns("other"))
    assert found["endless"].state == "killed"
    assert found["endless"].words == "over its limit of 1.5 s"
    assert found["endless"].seconds < 10
    assert found["other"].state == "done"
    assert gone(int(child.read_text()))


def test_waiting_for_a_turn_does_not_count_against_the_limit(run, taking_turns, tmp_path):
    held, prepared = tmp_path / "held", tmp_path / "prepared"
    hold = f"{touch(held)}\n    {until(prepared)}\n    time.sleep(3.1)"
    patient = taking_turns("patient", f"{until(held)}\n{touch(prepared)}", limit=3.0)
    found = run(taking_turns("long", hold=hold), patient)
    assert found["patient"].state == "done"
    assert found["patient"].seconds > 3.0


def test_at_the_end_of_the_budget_what_runs_is_cut_and_the_rest_is_skipped(run, step, taking_turns):
    steps = [
        step("long", "print('so far', flush=True); import time; time.sleep(60)", whole=True),
        taking_turns("queued"),
        step("later", whole=True),
        step("big", whole=True, seconds=99.0),
    ]
    begin = time.monotonic()
    found = run(*steps, seconds=1.5)
    assert time.monotonic() - begin < 8
    assert (found["long"].state, found["long"].words) == ("cut", "the time was up; so far")
    assert found["queued"].state == "cut"
    assert (found["later"].state, found["later"].words) == ("skipped", "the time was up")
    assert found["big"].words.endswith("s left, about 99 s needed")
    assert found["big"].turns == ()


def test_what_goes_on_another_time_is_told_the_seconds_left(card, run, step):
    code = "import sys; print(sys.argv[1]); sys.exit(1)"
    longer = step("part", code, goes_on=True, seconds=99.0)
    longer = dataclasses.replace(longer, command=(*longer.command, "{left}"))
    found = run(longer, step("part-2", code + "  # fails"), seconds=20.0)
    assert found["part"].state == "unfinished"
    assert 10 < float(found["part"].words) < 20
    assert found["part-2"].state == "failed"


def test_a_result_of_an_earlier_try_does_not_stay(run, step, tmp_path):
    (tmp_path / "again.json").write_text("{}")
    assert run(step("again", "raise SystemExit(3)"))["again"].state == "failed"
    assert not (tmp_path / "again.json").exists()


def test_what_is_not_installed_is_named(run, step):
    found = run(step("needy", needs=("numpy", "no_such_thing")), step("none", why_not="no --data"))
    assert found["needy"].state == found["none"].state == "skipped"
    assert found["needy"].words == "not installed: no_such_thing"
    assert found["none"].words == "no --data"


def test_the_plan_says_which_steps_do_not_fit(card, step):
    from _card_steps import plan

    todo = [
        step("a", seconds=30.0),
        step("b", needs=("no_such_thing",)),
        step("old", seconds=500.0),
        step("c", seconds=60.0, goes_on=True),
        step("d", seconds=60.0),
    ]
    lines = plan(todo, 100.0, lambda step: step.name == "old").splitlines()
    assert [line.split(maxsplit=1)[0] for line in lines[1:-1]] == ["a", "b", "old", "c", "d"]
    assert lines[1].split() == ["a", "30", "55"]
    assert lines[2].endswith("skipped, not installed: no_such_thing")
    assert lines[3].endswith("done before")
    assert lines[4].endswith("will be cut short")
    assert lines[5].endswith("will hardly fit")


def row(network, us=None, xla=None, **more):
    timed = {} if us is None else {"us_per_entry": us, "xla": xla}
    return {"network": network, "checks": {}} | timed | more


def test_rows_of_several_results_become_one_of_each_network(card):
    from _card_record import merge_rows

    checked, timed, beside = row("a"), row("a", 2.0), row("a", 3.0, {"ratio": 4})
    refused = {"network": "a", "refused": "an entry differs"}
    other = row("b", 5.0)
    assert merge_rows([other, checked], [timed]) == [other, timed]
    assert merge_rows([timed], [beside]) == [beside]
    assert merge_rows([beside], [timed]) == [beside]
    assert merge_rows([timed], [checked]) == [timed]
    assert merge_rows([timed], [refused]) == [refused]
    assert merge_rows([], [other, timed]) == [other, timed]


@pytest.fixture
def record(card, tmp_path):
    """Return a function that opens the folder of a card."""
    (tmp_path / "steps").mkdir()

    def of(code="abc"):
        about = {"code": code, "simulated": False}
        return card.Record(tmp_path, tmp_path / "steps", about)

    return of


def test_after_each_step_everything_so_far_is_there(card, record, step, tmp_path):
    first, second = step("time-a"), step("other")
    for name, text in (("time-a", "log of a"), ("other", "log of the other")):
        (tmp_path / "steps" / f"{name}.log").write_text(text)
    gpu = {"name": "Test GPU 80GB", "compute_capability": "9.0", "driver": "580.1"}
    machine = {"gpu": [gpu], "time": "2026-11-26T12:00:00+00:00"}
    result = {"machine": machine, "rows": [{"network": "a", "refused": "an entry differs"}]}
    (tmp_path / "steps" / "time-a.json").write_text(json.dumps(result))
    kept = record()
    kept.add(first, card.Outcome("time-a", "failed", "refused | here", 12.0, ((1.0, 3.0),)))
    assert "| time-a | failed | 2 | 12 | refused , here |" in (tmp_path / "summary.md").read_text()
    merged = json.loads((tmp_path / "gpu-test-gpu-80gb.json").read_text())
    assert merged["rows"] == result["rows"]
    kept.add(second, card.Outcome("other", "done", "well", 1.0))
    summary = (tmp_path / "summary.md").read_text()
    assert "| time-a | failed" in summary
    assert "| other | done | 0 | 1 | well |" in summary
    assert "log of a" in (tmp_path / "log.txt").read_text()
    again = record()
    assert again.is_done(second)
    assert not again.is_done(first)
    assert not again.is_done(dataclasses.replace(second, command=("python", "-c", "else")))
    with pytest.raises(card.Refusal, match=r"figures of other code \(abc, now new\)"):
        record("new")


def call(*words, **options):
    command = [sys.executable, str(BENCHMARKS / "card.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--seconds and --output are needed"),
        (["--seconds", "3", "--output", "FOLDER"], "must be more than 5"),
        (["--seconds", "60", "--output", "FOLDER", "--only", "tme"], "no step 'tme'"),
        (["--seconds", "60", "--output", "FOLDER", "--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_options_are_named_and_nothing_runs(tmp_path, words, message):
    done = call(*words, cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("card.py: ")
    assert message in done.stderr


def test_a_rehearsal_runs_the_scripts_themselves_and_goes_on(tmp_path):
    words = ("--simulate", "--seconds", 120, "--output", tmp_path, "--only", "time-fc-10,depths")
    done = call(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads((tmp_path / "card.json").read_text())["outcomes"]
    assert {outcome["state"] for outcome in outcomes} == {"done"}
    turns = {outcome["name"]: len(outcome["turns"]) for outcome in outcomes}
    assert turns == {"time-fc-10": 1, "depths": 2}  # a processor has no pass for several depths
    rows = json.loads((tmp_path / "depths.json").read_text())["rows"]
    assert [row["depth"] for row in rows] == [3, 4]
    (row,) = json.loads((tmp_path / "gpu-simulator.json").read_text())["rows"]
    assert row["checks"]["largest_error"] < 2e-5
    assert "fc-1: checked, largest error" in (tmp_path / "summary.md").read_text()
    again = call(*words)
    assert again.returncode == 0
    assert again.stdout.count("done before") == 2


def test_ended_by_a_signal_it_ends_its_steps_and_keeps_what_there_is(tmp_path):
    words = ("--simulate", "--seconds", 120, "--output", tmp_path, "--only", "tests,busy")
    command = [sys.executable, str(BENCHMARKS / "card.py"), *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        log = tmp_path / "steps" / "tests.log"
        for _ in range(400):
            if log.exists():
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"interrupted; the same command goes on" in error
    states = {
        outcome["name"]: outcome["state"]
        for outcome in json.loads((tmp_path / "card.json").read_text())["outcomes"]
    }
    assert states["tests"] == "cut"
    assert states["busy"] in ("cut", "skipped")  # it may have begun to prepare
