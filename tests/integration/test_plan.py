"""What a plan says before a run is begun: sizes, times, money, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkdist.api import execute
from ntkdist.config import (
    DataConfig,
    FactorConfig,
    GramConfig,
    LabelsConfig,
    RunConfig,
    load_yaml,
)
from ntkdist.errors import InputError
from ntkdist.gram.tiling import TileKey, Tiling
from ntkdist.gram.worker import TileRecord
from ntkdist.linalg.panels import least_memory, plan_panels
from ntkdist.pipeline import Pipeline
from ntkdist.planning import devices, plan as planning
from ntkdist.planning.devices import (
    Measured,
    Probe,
    TileCost,
    added_seconds,
    gram_seconds,
    measure_on_ray,
    probe_edge,
)
from ntkdist.planning.plan import Limits, describe_plan, largest, make_plan
from ntkdist.planning.planned_run import PlannedRun
from ntkdist.planning.stages import (
    STAGES,
    Rates,
    StageCosts,
    measure_stages,
    scaled_limit,
    stages_of,
)
from tests.gram.conftest import ray_session

__all__ = ["ray_session"]  # fixture

COST = TileCost(entry=1e-3, diagonal=0.5)


def config(folder: Path, **gram: Any) -> RunConfig:
    return RunConfig(
        run=str(folder / "run"),
        architecture="cntk-gap-3",
        data=DataConfig(n=100),
        gram=GramConfig(**{"executor": "inline", "threads": 1, "tile": 20, **gram}),
    )


def behind(n: int = 100, seconds: float = 1.0) -> StageCosts:
    nothing = dict.fromkeys((*STAGES, "noise"), 0.0)
    stages = {**dict.fromkeys(STAGES, seconds), "noise": 0.0}
    return StageCosts(n, stages, nothing, nothing, Rates(1e9, 1e9, 1e9, 1e9), 2**31, n)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of known speed, and a second for every stage behind."""
    monkeypatch.setattr(planning, "measure_stages", lambda *args: behind())
    one = Measured("core", "here", 1e-3, 0.5, 0.0, 0.0, 10.0, 2**20, 1)
    monkeypatch.setattr(devices, "measure_here", lambda *args: ([one], 3.0))
    monkeypatch.setattr(devices, "measure_on_ray", lambda *args, **more: ([one, one], 3.0))


# -- tiles on workers -------------------------------------------------------------


def test_tiles_of_one_worker_add_up() -> None:
    tiling = Tiling(50, 20)  # edges 20, 20, 10
    full, ragged = 20 * 20 * 1e-3, 20 * 10 * 1e-3
    diagonal = (400 + 400 + 100) * 0.5e-3
    assert gram_seconds(tiling, tiling.keys(), [COST]) == pytest.approx(
        full + 2 * ragged + diagonal
    )


@pytest.mark.parametrize(
    ("backend", "computing", "seconds"),
    [("cuda", 4.0, 4.0), ("cuda", 1.0, 4.0), ("cpu", 4.0, 5.0)],
)
def test_beside_a_gpu_writing_counts_where_it_takes_longer(
    backend: str, computing: float, seconds: float
) -> None:
    record = TileRecord("r0000c0001", "w", 1, 5.0, computing=computing)
    assert added_seconds(record, backend) == seconds


def test_workers_without_a_last_tile_are_idle() -> None:
    tiling = Tiling(60, 20)  # 3 full tiles of 0.4 s, 3 diagonal ones of 0.2 s
    alone = gram_seconds(tiling, tiling.keys(), [COST])
    assert alone == pytest.approx(1.8)
    assert gram_seconds(tiling, tiling.keys(), [COST] * 2) > alone / 2 - 1e-9
    # more workers than tiles: as long as the longest tile
    assert gram_seconds(tiling, tiling.keys(), [COST] * 50) == pytest.approx(0.4)


def test_a_slow_worker_gets_fewer_tiles() -> None:
    tiling = Tiling(400, 20)
    fast, slow = COST, replace(COST, entry=3e-3)
    alone = gram_seconds(tiling, tiling.keys(), [fast])
    both = gram_seconds(tiling, tiling.keys(), [fast, slow])
    assert both == pytest.approx(alone * 3 / 4, rel=0.05)


def test_only_missing_tiles_are_counted() -> None:
    tiling = Tiling(60, 20)
    assert gram_seconds(tiling, [], [COST]) == 0.0
    assert gram_seconds(tiling, [TileKey(0, 1)], [COST] * 2) == pytest.approx(0.4)


def test_many_tiles_are_estimated_by_their_average(monkeypatch: pytest.MonkeyPatch) -> None:
    tiling = Tiling(1200, 20)
    played = gram_seconds(tiling, tiling.keys(), [COST] * 7)
    monkeypatch.setattr("ntkdist.planning.devices._PLAYED", 10)
    assert gram_seconds(tiling, tiling.keys(), [COST] * 7) == pytest.approx(played, rel=0.02)


def test_preparing_counts_once_where_states_are_kept_else_every_tile() -> None:
    tiling = Tiling(60, 20)
    plain = gram_seconds(tiling, tiling.keys(), [COST])
    kept = gram_seconds(tiling, tiling.keys(), [replace(COST, image=0.01)])
    anew = gram_seconds(tiling, tiling.keys(), [replace(COST, image=0.01, kept=False)])
    assert kept - plain == pytest.approx(60 * 0.01)
    assert anew - plain == pytest.approx(6 * 20 * 0.01)


@pytest.mark.parametrize(
    ("edge", "n", "rate", "seconds", "expected"),
    [
        (100, 1000, 1e9, 9, 100),  # the real one
        (100, 1000, 300, 12, 32),  # a third of the time, in whole lanes
        (100, 60, 1e9, 9, 16),  # there are no more images
        (7, 1000, 1e9, 9, 7),
        (100, 1, 1e9, 9, 1),
    ],
)
def test_measured_tiles_are_smaller_where_time_or_images_are_few(
    edge: int, n: int, rate: float, seconds: float, expected: int
) -> None:
    assert probe_edge(edge, n, rate, seconds) == expected


# -- stages behind ----------------------------------------------------------------


def test_cubic_parts_grow_with_the_cube_and_the_rest_with_the_square() -> None:
    rates = Rates(1e9, 2e9, 1e9, 1e9)
    small = {
        "factor": 3.0 + 8e9 / 3 / 1e9,
        "inverse": 5.0,
        "labels": 2.0,
        "report": 1.5,
        "noise": 1.25,
    }
    tiny = {"factor": 1.0, "inverse": 0.0, "labels": 1.0, "report": 1.0, "noise": 0.25}
    once = {"factor": 0.25, "inverse": 0.0, "labels": 0.0, "report": 0.0, "noise": 0.0}
    costs = StageCosts(2000, small, tiny, once, rates, 2**40, 2000)
    assert costs.seconds("factor", 2000) == pytest.approx(0.25 + small["factor"])
    assert costs.seconds("factor", 4000) == pytest.approx(0.25 + 1 + 2 * 4 + 64e9 / 3 / 1e9)
    # of the noise no more than a sample of 3,000 images is looked at
    assert costs.seconds("labels", 4000) == pytest.approx(1 + 4 + 0.25 + 1.5**3)
    assert costs.seconds("labels", 2500) == pytest.approx(1 + 1.25**2 + 0.25 + 1.25**3)
    assert costs.seconds("report", 4000) == pytest.approx(1.5)


def test_a_factor_that_does_not_fit_is_read_again_for_the_inverse() -> None:
    rates = Rates(1e9, 1e9, 1e11, 1e7)
    nothing = dict.fromkeys((*STAGES, "noise"), 0.0)

    def seconds(memory: int) -> float:
        costs = StageCosts(1000, nothing, nothing, nothing, rates, memory, 20_000)
        return costs.seconds("inverse", 20_000)

    operations = 2 / 3 * 20_000**3 / 1e11
    assert seconds(2**31) == pytest.approx(operations)
    assert seconds(2**29) > 10 * operations


def test_a_sample_is_from_all_over_the_set(tmp_path: Path) -> None:
    subject = PlannedRun.of(config(tmp_path))
    ordered = replace(subject, labels=np.repeat(np.arange(10), 10))
    images, labels = ordered.spread(50)
    assert len(images) == len(labels) == 50
    assert len(np.unique(labels)) >= 9
    whole, all_labels = ordered.spread(1000)
    np.testing.assert_array_equal(whole, subject.images)
    np.testing.assert_array_equal(all_labels, ordered.labels)


@pytest.mark.slow(but="posterior")
@pytest.mark.parametrize("method", ["posterior", "exact"])
def test_stages_behind_are_measured_on_a_small_run(tmp_path: Path, method: Any) -> None:
    subject = PlannedRun.of(replace(config(tmp_path), labels=LabelsConfig(method=method)))
    costs = measure_stages(subject.config, subject.some(60), subject.labels[:60], 90)
    assert set(costs.small) == {*stages_of(method), "noise"}
    assert all(0 < costs.seconds(stage, 60) < 60 for stage in stages_of(method))
    assert all(0 < costs.seconds(stage, 90) < 60 for stage in stages_of(method))
    assert list(tmp_path.iterdir()) == []


def test_the_limit_of_a_small_run_is_enough_for_its_panels() -> None:
    for n in (300, 5_000, 50_000, 1_000_000):
        for memory in (least_memory(n), 2**31, 2**34):
            for m in (2, 63, 65, 256, 2048):
                limit = scaled_limit(max(memory, least_memory(n)), min(m, n), n)
                assert plan_panels(min(m, n), limit).projected_bytes() <= limit


def test_stages_of_a_large_run_are_measured_within_a_small_ones_limit() -> None:
    random = np.random.default_rng(0)
    images = random.normal(size=(300, 4, 4, 1)).astype(np.float32)
    labels = np.arange(300) % 3
    settings = RunConfig(factor=FactorConfig(memory_limit="16GiB"))
    costs = measure_stages(settings, images, labels, 50_000, small=256)
    assert costs.seconds("factor", 50_000) > costs.seconds("factor", 256)


def test_a_factor_on_a_gpu_is_timed_on_the_cpu(tmp_path: Path) -> None:
    """The machine that plans need not have the GPU that computes."""
    on_gpu = replace(config(tmp_path), factor=FactorConfig(device="cuda"))
    notes = make_plan(on_gpu).notes
    assert "the factor is timed on the CPU here, not by factor.device=cuda" in notes


RUN_FILES = sorted(Path(__file__).parents[2].glob("jobs/*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("file", RUN_FILES, ids=lambda file: file.stem)
@pytest.mark.usefixtures("ray_session")
def test_every_run_file_is_planned_at_its_own_size(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    sizes = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
    for name, size in sizes.items():
        x = random.integers(0, 256, (10_000, *size), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=np.arange(len(x)) % 10)
    for number in range(1, 6):
        rows = random.integers(0, 256, (10_000, 3073), dtype=np.uint8)
        rows[:, 0] = np.arange(10_000) % 10
        rows.tofile(tmp_path / f"data_batch_{number}.bin")
    (tmp_path / "batches.meta.txt").write_text("\n".join("abcdefghij"))
    monkeypatch.setenv("NTKDIST_DATA", str(tmp_path))
    monkeypatch.setenv("CIFAR10", str(tmp_path))
    settings = RunConfig.from_dict(load_yaml(str(file)), where=str(file))
    plan = make_plan(replace(settings, run=str(tmp_path / "run")))
    whole = {"cifar10-full": 50_000, "demo": 1_797}
    assert plan.shape[0] == (settings.data.n or whole[file.stem])
    assert plan.missing == plan.tiles > 0
    assert all(seconds > 0 for seconds in plan.stages.values())


def test_a_posterior_has_no_inverse() -> None:
    assert stages_of("posterior") == ("factor", "diagonal", "labels", "report")
    assert stages_of("exact") == stages_of("paper") == ("factor", "inverse", "labels", "report")


def test_the_diagonal_grows_with_the_cube_and_reads_a_factor_that_does_not_fit_again() -> None:
    rates = Rates(1e9, 1e9, 1e11, 1e9)
    nothing = dict.fromkeys((*STAGES, "noise"), 0.0)

    def seconds(part: str, memory: int) -> float:
        costs = StageCosts(1000, nothing, nothing, nothing, rates, memory, 50_000)
        return costs.seconds(part, 50_000)

    operations = 50_000**3 / 3 / 1e11
    assert seconds("diagonal", 2**36) == pytest.approx(operations)
    # 49 blocks of 1,024 columns, each of which reads a third of 10 GB on average
    assert seconds("diagonal", 2**31) - operations == pytest.approx(49 * 3.33, rel=0.02)
    assert seconds("diagonal", 2**31) < seconds("inverse", 2**31) / 2


# -- the plan ---------------------------------------------------------------------


def test_a_new_run_is_planned_with_its_sizes_and_times(tmp_path: Path, quick: None) -> None:
    plan = make_plan(config(tmp_path, kinds=("ntk", "nngp")), workers=(1, 4))
    assert not plan.is_done
    assert (plan.tiles, plan.missing, plan.edge) == (15, 15, 20)
    assert plan.entries == 100 * 101 // 2
    assert plan.store_bytes["gram"] == 15 * 20 * 20 * 4 * 2
    assert plan.store_bytes["factor"] == 8 * 100 * 101 // 2
    assert plan.store_bytes["diagonal"] == 8 * 100
    assert "inverse" not in plan.store_bytes
    assert set(plan.stages) == {"start", "gram", *stages_of("posterior")}
    exact = make_plan(replace(config(tmp_path), labels=LabelsConfig(method="exact")))
    assert exact.store_bytes["inverse"] == 8 * 100**2
    assert set(exact.stages) == {"start", "gram", *stages_of("exact")}
    tiles = 10 * 0.4 + 5 * 0.2
    assert plan.stages["gram"] == pytest.approx(3.0 + tiles)
    assert plan.seconds == pytest.approx(sum(plan.stages.values()))
    assert plan.devices[0].hours == pytest.approx(plan.seconds / 3600)
    assert plan.devices[0].scaling[1] == pytest.approx(3.0 + tiles)
    assert plan.devices[0].scaling[4] == pytest.approx(3.0 + tiles / 4, abs=0.4)
    assert plan.cost is None
    assert not (tmp_path / "run").exists()


def test_two_workers_are_measured_together_and_cost_twice(tmp_path: Path, quick: None) -> None:
    plan = make_plan(config(tmp_path, executor="ray"), Limits(price=3.6))
    assert plan.devices[0].workers == 2
    assert plan.cost == pytest.approx(3.6 * 2 * plan.seconds / 3600)


@pytest.mark.slow
def test_what_a_run_has_stored_is_not_planned_again(tmp_path: Path, quick: None) -> None:
    settings = config(tmp_path)
    with Pipeline(settings) as pipeline:
        pipeline.gram()
        store = pipeline.gram_store()
        for key in (TileKey(0, 1), TileKey(4, 4)):
            store.remove(key)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    plan = make_plan(settings)
    assert (plan.missing, plan.tiles) == (2, 15)
    assert plan.entries == 400 + 20 * 21 // 2
    assert plan.stages["gram"] == pytest.approx(3.0 + 0.6)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with Pipeline(settings) as pipeline:
        execute(pipeline, ("gram", "factor"))
    plan = make_plan(settings)
    assert (plan.missing, plan.stages["gram"]) == (0, 0.0)
    assert (plan.stages["factor"], plan.stages["diagonal"]) == (0.0, 0.0)
    assert plan.stages["labels"] == pytest.approx(1.0)
    other = make_plan(replace(settings, labels=LabelsConfig(method="exact")))
    assert other.stages["inverse"] == pytest.approx(1.0)  # there is a diagonal only


def test_each_step_is_told_before_it_is_measured(tmp_path: Path, quick: None) -> None:
    steps: list[str] = []
    make_plan(config(tmp_path), seconds=7, on_step=steps.append)
    assert [step.split()[0] for step in steps] == ["reading", *["measuring"] * 3]
    assert "tiles of edge 20: 7 s" in steps[2]


@pytest.mark.slow
def test_nothing_is_measured_where_all_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **more: object) -> None:
        raise AssertionError("measured")

    settings = config(tmp_path)
    with Pipeline(settings) as pipeline:
        execute(pipeline, ("gram", "factor"))
    for name in ("choose_tile", "measure_groups"):
        monkeypatch.setattr(planning, name, never)
    with monkeypatch.context() as patched:
        patched.setattr(planning, "measure_stages", lambda *args: behind())
        plan = make_plan(settings)  # what is left is measured
        assert plan.stages["labels"] == pytest.approx(1.0)
    monkeypatch.setattr(planning, "measure_stages", never)
    with Pipeline(settings) as pipeline:
        pipeline.labels()
    plan = make_plan(settings, Limits(price=2.0))
    assert (plan.missing, plan.devices[0].gram, plan.stages["labels"]) == (0, 0.0, 0.0)
    assert plan.is_done
    assert plan.seconds < 5
    text = describe_plan(plan)
    assert "0 of 15 to compute" in text
    assert "not measured" in text
    assert "every tile is stored, so none was measured" in text


def test_a_price_is_that_of_the_devices_given(tmp_path: Path, quick: None) -> None:
    plan = make_plan(config(tmp_path), Limits(price=2.0), rates={"h200": 25_000.0})
    assert [device.cost is None for device in plan.devices] == [False, True]
    assert "cost is at 2 an hour of one worker of h200; the others" in describe_plan(plan)
    own = make_plan(config(tmp_path), Limits(price=2.0))
    assert own.cost == pytest.approx(2 * own.devices[0].hours)
    assert "cost is at 2 an hour of one worker\n" in describe_plan(own) + "\n"


def test_a_busy_machine_is_said_to_be_busy(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any("other programs" in note for note in make_plan(config(tmp_path)).notes)
    one = Measured("core", "here", 1e-3, 0.5, 0.0, 0.0, 10.0, 2**20, 1, share=0.25)
    monkeypatch.setattr(devices, "measure_here", lambda *args: ([one], 3.0))
    assert any("had 25 % of their cores" in note for note in make_plan(config(tmp_path)).notes)


def test_devices_that_are_not_here_take_the_rate_given(tmp_path: Path, quick: None) -> None:
    rates = {"slow": 2e3, "quick": 2e6}
    plan = make_plan(config(tmp_path), Limits(price=2.0), rates=rates)
    assert [device.name for device in plan.devices] == ["quick", "slow", "core"]
    assert [device.source for device in plan.devices][:2] == ["rate given", "rate given"]
    assert plan.devices[0].rate == pytest.approx(2e6)
    assert plan.devices[1].gram == pytest.approx(3.0 + (10 * 400 + 5 * 200) / 2e3)


def test_over_budget_names_both_and_what_would_fit(tmp_path: Path, quick: None) -> None:
    settings = config(tmp_path, executor="ray")
    whole = make_plan(settings, Limits(price=3600.0))
    assert whole.refusal is None
    limits = Limits(price=3600.0, budget=0.8 * (whole.cost or 0))
    plan = make_plan(settings, limits)
    assert f"{plan.cost:.2f}" in str(plan.refusal)
    assert f"--budget {limits.budget:g}" in str(plan.refusal)
    with pytest.raises(InputError, match=r"--data.n \d+ would fit"):
        plan.check()
    fits = int(str(plan.refusal).split("--data.n ")[1].split()[0])
    assert 0 < fits < 100
    smaller = replace(settings, data=replace(settings.data, n=fits))
    assert (make_plan(smaller, limits).cost or math.inf) <= (limits.budget or 0) * 1.05


def test_over_time_is_refused_and_nothing_may_fit(tmp_path: Path, quick: None) -> None:
    plan = make_plan(config(tmp_path), Limits(max_hours=1e-6))
    assert "--max-hours 1e-06" in str(plan.refusal)
    assert "no number of images would fit" in str(plan.refusal)


def test_the_largest_number_of_images_within_a_limit_is_found() -> None:
    assert largest(1000, 50.0, lambda n: float(n)) == 50
    assert largest(1000, 5e9, lambda n: float(n)) == 1000
    assert largest(1000, 0.5, lambda n: float(n)) == 0


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"budget": 5.0}, "--budget 5 needs the price"),
        ({"price": -1.0}, "--price -1.0 must be a number above 0"),
        ({"max_hours": 0.0}, "--max-hours 0.0 must be"),
        ({"price": float("nan"), "budget": 1.0}, "--price nan"),
    ],
)
def test_limits_that_are_not_positive_are_refused(limits: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Limits(**limits)


def test_a_factor_that_fits_no_limit_is_refused_at_once(tmp_path: Path) -> None:
    settings = replace(config(tmp_path), factor=FactorConfig(memory_limit="10kB"))
    with pytest.raises(InputError, match="memory"):
        make_plan(settings)


def test_table_names_what_a_user_asks_for(tmp_path: Path, quick: None) -> None:
    plan = make_plan(config(tmp_path), Limits(price=2.0), rates={"h200": 25_000.0})
    text = describe_plan(plan)
    for words in (
        "15 of 15 to compute, edge 20",
        "factor 39.5 KiB",
        "a worker",
        "device hours",
        "rate given",
        "measured here, cpu",
        "25,000 entries/s",
        "without   compiling",
        "64",
    ):
        assert words in text, words


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_real_workers_measure_real_tiles_together(tmp_path: Path) -> None:
    probe = Probe("fc-2", "cpu", "float32", "none", ("ntk", "nngp"), 1, 20, 0.2)
    subject = PlannedRun.of(config(tmp_path))
    found, start = measure_on_ray(probe, subject.some(40), workers=2, address=None)
    assert len(found) == 2
    assert start > 0
    for one in found:
        assert one.entry > 0
        assert one.tiles >= 1
        assert one.state_bytes > 0
