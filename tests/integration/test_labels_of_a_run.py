"""The label stage of a run: its settings, its resumption, and the tools beside it."""

from __future__ import annotations

import dataclasses
import io
import shutil

import numpy as np
import pandas as pd
import pytest

import ntkdist
import ntkdist.labels
from ntkdist.analyses.bias import find_bias
from ntkdist.analyses.labelings import score_labelings
from ntkdist.api import execute
from ntkdist.cli.main import main
from ntkdist.config import (
    DataConfig,
    FactorConfig,
    GramConfig,
    LabelsConfig,
    NoiseConfig,
    RunConfig,
)
from ntkdist.data import load
from ntkdist.errors import InputError, InterruptedRunError, StageError
from ntkdist.labels import POSTERIOR_RIDGE
from ntkdist.pipeline import Pipeline


def settings(folder, **changes):
    base = {
        "run": str(folder),
        "architecture": "fc-2",
        "data": DataConfig(n=200),
        "noise": NoiseConfig(0.3),
        "gram": GramConfig(executor="inline", tile=100),
    }
    return RunConfig(**{**base, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = settings(tmp_path_factory.mktemp("run") / "whole")
    with Pipeline(config) as pipeline:
        execute(pipeline, ("gram", "factor", "labels"))
    return config


def labels_again(config, **changes):
    own = dataclasses.replace(config, labels=LabelsConfig(**changes))
    with Pipeline(own) as pipeline:
        execute(pipeline, ("factor", "labels"))
        return pipeline.run.read("labels", "refurbished"), pipeline.run.attributes("labels")


@pytest.mark.slow
def test_the_noise_of_the_given_labels_is_estimated_once_and_kept(finished):
    with Pipeline(finished) as pipeline:
        choice = pipeline.choice()
        summary = pipeline.run.attributes("labels")["summary"]
        probs = pipeline.run.read("noise", "pred_probs")
    assert summary["noise_rate"] == choice["noise_rate"] == pytest.approx(0.3, abs=0.08)
    assert summary["ridge"] == POSTERIOR_RIDGE
    assert choice["images"] == 200
    np.testing.assert_allclose(probs.sum(axis=1), 1)


@pytest.mark.slow
def test_an_automatic_ridge_is_the_likeliest_for_exact_and_small_for_posterior(finished):
    own = dataclasses.replace(finished, factor=FactorConfig(ridge="auto"))
    with Pipeline(own) as pipeline:
        assert pipeline.ridge() == POSTERIOR_RIDGE
    own = dataclasses.replace(own, labels=LabelsConfig(method="exact"))
    with Pipeline(own) as pipeline:
        execute(pipeline, ("factor", "labels"))
        assert pipeline.ridge() == pipeline.choice()["ridge"] != POSTERIOR_RIDGE
        summary = pipeline.run.attributes("labels")["summary"]
    assert summary["ridge"] == pipeline.choice()["ridge"]
    assert summary["accuracy_refurbished"] > summary["accuracy_given"] + 0.15


@pytest.mark.slow
def test_trusted_images_named_in_a_file_keep_their_labels(finished, tmp_path):
    with Pipeline(finished) as pipeline:
        given = pipeline.run.read("inputs", "labels")
    plain, _ = labels_again(finished)
    changed = np.flatnonzero(plain != given)[:5]
    path = tmp_path / "trusted.txt"
    path.write_text("\n".join(map(str, changed)) + "\n\n")
    better, _ = labels_again(finished, locked=str(path))
    np.testing.assert_array_equal(better[changed], given[changed])
    assert (better != given).sum() > 20
    for text, said in (("3\nfour\n", "line 2 is 'four'"), ("200\n", "line 1 is '200'.*0 to 199")):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            labels_again(finished, locked=str(path))
    with pytest.raises(InputError, match=r"labels.locked='.*none.txt': cannot be read"):
        labels_again(finished, locked=str(tmp_path / "none.txt"))


@pytest.mark.slow
def test_a_known_noise_rate_and_confidence_go_in(finished):
    _, sure = labels_again(finished, noise_rate=0.3, confidence=0.99)
    _, all_of_them = labels_again(finished, noise_rate=0.3)
    assert sure["summary"]["noise_rate"] == 0.3
    assert 0 < sure["summary"]["flips"] < all_of_them["summary"]["flips"]
    assert sure["summary"]["abstained"] > 0


@pytest.mark.slow
def test_stopped_in_the_middle_the_stage_goes_on_with_the_same_flips(finished, monkeypatch):
    method = "exact"
    labels_again(finished, method=method, beta=0.75)
    with Pipeline(finished) as pipeline:
        whole = pipeline.run.read("labels", "history", "index")
        losses = pipeline.run.read("labels", "losses")
    labels_again(finished, method="paper", steps=1)  # another result in its place
    plain = ntkdist.labels.refurbish
    monkeypatch.setattr(
        "ntkdist.labels.refurbish", lambda *a, **k: plain(*a, **k, checkpoint_every=8)
    )
    own = dataclasses.replace(finished, labels=LabelsConfig(method=method, beta=0.75))
    seen = []

    def stopping(stop_at):
        def listen(self, flip):
            seen.append(flip.step)
            if flip.step == stop_at:
                raise InterruptedRunError("stopped by SIGTERM; what was finished is kept")

        return listen

    monkeypatch.setattr("ntkdist.pipeline.labels.FlipProgress.__call__", stopping(21))
    with pytest.raises(InterruptedRunError), Pipeline(own) as pipeline:
        execute(pipeline, ("labels",))
    monkeypatch.setattr("ntkdist.pipeline.labels.FlipProgress.__call__", stopping(-1))
    seen.clear()
    with Pipeline(own) as pipeline:
        execute(pipeline, ("labels",))
        again = pipeline.run.read("labels", "history", "index")
        np.testing.assert_array_equal(pipeline.run.read("labels", "losses"), losses)
    assert min(seen) > 15
    np.testing.assert_array_equal(again, whole)


def test_labelings_are_ranked_by_how_clean_they_are(finished, tmp_path):
    with Pipeline(finished) as pipeline:
        true = pipeline.run.read("inputs", "labels_true")
        random = np.random.default_rng(0).integers(0, 10, 200)
        np.save(tmp_path / "random.npy", random)
        better = true.copy()
        better[:10] = (better[:10] + 1) % 10
        np.savetxt(tmp_path / "better.txt", better, fmt="%d")
        files = [str(tmp_path / name) for name in ("random.npy", "better.txt")]
        found = score_labelings(pipeline, files)
        assert [one.name for one in found] == ["true", files[1], "given", files[0]]
        assert found[0].noise_rate < 0.1 < found[2].noise_rate
        assert found[2].changed == 0
        for name, content, said in (
            ("short.txt", "1\n2\n", "2 labels for 200 images"),
            ("words.txt", "cat\n", "label 'cat' at index 0 is none of the 10 names"),
            ("one.txt", "1\n" * 200, "all 200 labels are '1'; at least two classes are needed"),
            ("gap.txt", "\nnan" * 200, "the label at index 0 is missing"),
        ):
            (tmp_path / name).write_text(content)
            with pytest.raises(InputError, match=f"{name}.*{said}"):
                score_labelings(pipeline, [str(tmp_path / name)])
        np.savetxt(tmp_path / "decimals.txt", better, fmt="%.1f")
        files = [str(tmp_path / name) for name in ("decimals.txt", "better.txt")]
        found = [one for one in score_labelings(pipeline, files) if one.name in files]
        assert found[0].block_error == found[1].block_error


def test_numbers_that_are_names_of_classes_are_taken_as_such(tmp_path):
    """A table of classes 1 to K has the places 0 to K-1."""
    digits = load("digits")
    labels = digits.labels[:80] % 3 + 1
    np.savez(tmp_path / "a.npz", x_train=digits.images[:80], y_train=labels.astype(str))
    np.savetxt(tmp_path / "numbers.txt", labels, fmt="%d")
    config = RunConfig(
        run=str(tmp_path / "r"), architecture="fc-1", gram=GramConfig(executor="inline"),
        data=DataConfig(source=f"npz:{tmp_path / 'a.npz'}"),
    )  # fmt: skip
    with Pipeline(config) as pipeline:
        execute(pipeline, ("gram", "factor"))
        found = score_labelings(pipeline, [str(tmp_path / "numbers.txt")])
    assert [one.changed for one in found] == [0, 0]


def test_bias_ranks_all_classes_and_pairs(finished):
    with Pipeline(finished) as pipeline:
        bias, by_given = find_bias(pipeline), find_bias(pipeline, "given")
    assert (bias.labels, by_given.labels) == ("refurbished", "given")
    assert not np.array_equal(bias.ranking.intra_scores, by_given.ranking.intra_scores)
    found = bias.ranking
    assert sorted(found.intra) == list(range(10))
    assert len({tuple(pair) for pair in found.inter}) == 45


@pytest.mark.slow
def test_bias_labelings_and_compare_are_commands(finished, tmp_path, capsys):
    np.savetxt(tmp_path / "other.txt", np.arange(200) % 2, fmt="%d")
    for command, words in (
        (["bias", finished.run], "pair, most entangled first (20 of 45)"),
        (["labelings", finished.run, "--files", str(tmp_path / "other.txt")], "differ from given"),
    ):
        main(command)
        assert words in capsys.readouterr().out
    run_file = tmp_path / "run.yaml"
    run_file.write_text(f"run: {tmp_path / 'set'}\ndata: {{n: 60}}\ngram: {{executor: inline}}\n")
    main(["compare", str(run_file), "--architectures", "fc-1,[Flatten(), Dense()]"])
    out = capsys.readouterr().out
    assert "architecture" in out.splitlines()[0]
    assert any(line.startswith("fc-1 ") for line in out.splitlines())
    with pytest.raises(SystemExit) as stopped:
        main(["compare", str(run_file), "--architectures", "fc-1"])
    assert stopped.value.code == 2
    assert "give at least two" in capsys.readouterr().err


@pytest.mark.slow
def test_row_blocks_on_the_workers_of_a_cluster_give_the_same_flips(finished):
    from distributed import LocalCluster

    labels_again(finished, method="exact")
    with Pipeline(finished) as pipeline:
        here = pipeline.run.read("labels", "history", "index")
    labels_again(finished, method="paper", steps=1)  # another result in its place
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:
        own = dataclasses.replace(
            finished,
            factor=FactorConfig(scheduler=cluster.scheduler_address),
            labels=LabelsConfig(method="exact", blocks=16),
        )
        with Pipeline(own) as pipeline:
            execute(pipeline, ("labels",))
            there = pipeline.run.read("labels", "history", "index")
    assert len(here) > 20
    np.testing.assert_array_equal(there, here)


def test_probabilities_of_the_classes_are_kept_and_given_later(finished, tmp_path):
    config = dataclasses.replace(finished, run=str(tmp_path / "run"))
    shutil.copytree(finished.run, config.run)
    file = tmp_path / "run/labels.csv"
    with Pipeline(config) as pipeline:
        execute(pipeline, ("factor", "labels"))  # other tests may have run it with other settings
        stored = pipeline.run.read("labels", "pred_probs")
    before = file.read_text()
    assert stored.dtype == np.float32
    assert stored.shape == (200, 10)
    np.testing.assert_allclose(stored.sum(axis=1), 1, rtol=1e-5)
    assert "probability" not in before
    table = ntkdist.labels_table(config.run, probabilities=True)
    columns = [f"probability_{k}" for k in range(10)]
    np.testing.assert_allclose(table[columns], stored[table["index"]], atol=1e-6)
    assert not table["index"].is_monotonic_increasing
    assert not set(columns) & set(ntkdist.labels_table(config.run).columns)
    # asked for later, they come without the stage running again, and other cells stay as they are
    told = []
    own = dataclasses.replace(config, labels=LabelsConfig(probabilities=True))
    with Pipeline(own, [told.append]) as pipeline:
        pipeline.labels()
    assert [e.detail for e in told if hasattr(e, "detail")][-1] == "as stored"
    head, *rows = file.read_text().splitlines()
    assert head.split(",")[-10:] == columns
    assert "\n".join(",".join(row.split(",")[:-10]) for row in [head, *rows]) + "\n" == before
    assert all(len(cell) <= 8 for row in rows for cell in row.split(",")[-10:])
    written = pd.read_csv(file)
    np.testing.assert_allclose(written[columns], stored[written["index"]], atol=5.1e-7)
    pd.testing.assert_frame_equal(ntkdist.labels_table(config.run), pd.read_csv(io.StringIO(before),
        dtype={"given_class": str, "suggested_class": str}, keep_default_na=False))  # fmt: skip


def test_a_run_whose_version_kept_no_probabilities_computes_them(finished, tmp_path):
    config = dataclasses.replace(finished, run=str(tmp_path / "run"))
    shutil.copytree(finished.run, config.run)
    shutil.rmtree(tmp_path / "run/labels/pred_probs")
    with pytest.raises(StageError, match=r"stored no probabilities; ntkdist labels .*--probabil"):
        ntkdist.labels_table(config.run, probabilities=True)
    main(["labels", config.run, "--probabilities", "--quiet"])
    table = ntkdist.labels_table(config.run, probabilities=True)
    assert table["probability_3"].between(0, 1).all()
    assert "probability_3" in (tmp_path / "run/labels.csv").read_text()


def test_probabilities_of_a_new_table_are_those_of_its_images(tmp_path):
    config = settings(tmp_path / "run", labels=LabelsConfig(probabilities=True))
    with Pipeline(config) as pipeline:
        execute(pipeline, ("gram", "factor", "labels"))
        stored = pipeline.run.read("labels", "pred_probs")
    table = pd.read_csv(tmp_path / "run/labels.csv")
    columns = [f"probability_{k}" for k in range(10)]
    np.testing.assert_allclose(table[columns], stored[table["index"]], atol=5.1e-7)


@pytest.mark.parametrize("probabilities", [False, True])
def test_a_table_that_was_deleted_is_written_again(finished, tmp_path, probabilities):
    shutil.copytree(finished.run, tmp_path / "run")
    own = settings(tmp_path / "run", labels=LabelsConfig(probabilities=probabilities))
    table = tmp_path / "run/labels.csv"
    texts = []
    for _ in range(2):
        with Pipeline(own) as pipeline:
            execute(pipeline, ("labels",))
        texts.append(table.read_text())
        table.unlink()
    assert texts[0] == texts[1]
    assert ("probability_3" in texts[0]) == probabilities


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": LabelsConfig(locked="none.txt")}, "labels.locked='none.txt': cannot be read"),
        ({"labels": LabelsConfig(noise_rate=0.95)}, r"noise_rate=0.95 is above \(K−1\)/K = 0.9"),
        ({"factor": FactorConfig(memory_limit="10B")}, "memory_limit 10 B is below"),
    ],
)
def test_settings_of_later_stages_are_checked_before_the_gram(tmp_path, changes, words):
    config = settings(tmp_path / "run", data=DataConfig(n=30), **changes)
    with Pipeline(config) as pipeline, pytest.raises(InputError, match=words):
        execute(pipeline)
    assert not (tmp_path / "run" / "gram").exists()
