"""Tests of choice: what is chosen does not depend on the reported fold, and stage 2 detects what pooling can't."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from lib.clips import choice, nested, pooling, stage2
from lib.clips.nested import Reader
from lib.evaluation import comparisons
from lib.evaluation.folds import LeakError
from lib.experiments import probes
from lib.runs.modelset import settings_digest
from lib.training import models

READER = Reader(max_clip_s=4.5, class_order="alphabetical", stage2_epochs=16)
KINDS = ["conv1d", "logistic"]


@pytest.fixture(scope="module")
def read(make_design):
    design = make_design()
    readouts = nested.fit_readouts(design, READER, [*pooling.POOLINGS, *KINDS], [1])
    scores = {name: nested.read_outer(design, by_fold) for name, by_fold in readouts.items()}
    table = nested.inner_scores(design, readouts)
    scores["best_of_all"] = choice.take_best(design, scores, table)
    scores["best_stage2"] = choice.take_best(design, scores, table, KINDS)
    return design, scores, table, readouts


def test_on_scenes_stage_2_beats_every_pooling_with_an_interval_clear_of_zero(read):
    design, scores, table, _ = read
    rivals = {name: scores[name] for name in ["best_stage2", *pooling.POOLINGS]}
    proof = choice.compare(design, rivals, "best_stage2").table("method").set_index("method").drop("best_stage2")
    assert (proof["p_holm"] < 0.05).all() and (proof["lwlrap_diff_high"] < 0).all()
    assert (table.loc[table.groupby("outer")["lwlrap"].idxmax(), "method"] == "conv1d").all()
    np.testing.assert_array_equal(scores["best_of_all"], scores["conv1d"])
    comparison = choice.compare(design, scores)
    trained = {name: np.repeat(s, 3, axis=0) for name, s in scores.items()}  # as if by three seeds of window models
    assert choice.compare(design, trained, n_trainings=3).verdict(KINDS) == "kept"
    assert comparison.table()["variant"].iloc[0] in ("conv1d", "best_of_all", "best_stage2")
    assert comparison.table().set_index("variant").loc["mean"].isna()["verdict"]
    selection = pd.DataFrame({"outer": [0, 1, 0], "metric": ["hit_rate", "hit_rate", "lwlrap"], "tries": 6, "n": 16})
    ways = {"chosen elsewhere": [0.1, 0.2, 1], "picked there": 0.3, "by chance": [0.05, 0.07, 1]}
    found = choice.result_metrics(comparison, selection.assign(**ways))
    assert found["chosen_elsewhere_hit_rate_diff"] == pytest.approx(0.15) and found["picked_there_hit_rate_diff"] == 0.3
    assert found["by_chance_hit_rate_diff"] == pytest.approx(0.06)
    assert (found["picked_tries"], found["picked_n"]) == (6, 16)
    assert found["lwlrap"] > found["mean_lwlrap"] + 0.1 and found["n"] == 48
    assert f"{found['lwlrap']:.3f}" in choice.conclusion(comparison, {"method": "conv1d"})


def test_one_seed_of_window_models_is_a_screening_whatever_stage_2_has(read):
    design, scores, _, _ = read
    several = {name: np.repeat(s, 3, axis=0) for name, s in scores.items()}  # stage 2 with three seeds
    for comparison in (choice.compare(design, scores), choice.compare(design, several)):
        assert set(comparison.table()["verdict"].dropna()) == {"screened"}
        assert comparison.verdict(KINDS) is None
        says = choice.conclusion(comparison, {"method": "conv1d"})
        assert "- It helps (screened): " in says and "no verdict is drawn from it" in says
        assert "under the correction" in says
        unclear = comparison.compared.query("lwlrap_diff_low < 0 < lwlrap_diff_high")
        row = unclear[unclear["n_to_settle"].between(1, 100_000)].iloc[0]
        n = float(f"{row.n_to_settle:.2g}")
        settles = f"helps with probability {row.p_better:.2f}, about {n:.0f} clips would settle it"
        assert f"{row.variant} {comparisons.format_difference(row)}, {settles}" in says
        assert "No difference" not in says  # hardly one of 48 clips differs
        assert "geometric +0.000 (-0.042 to +0.042), helps with probability 0.50, about " in says  # to be within .015
    one = choice.compare(design, {**several, "alone": scores["conv1d"]}, n_trainings=3)
    one = one.table("method").set_index("method")
    assert one.loc["alone", "verdict"] == "screened" and one.loc["conv1d", "verdict"] == "kept"


def test_no_choice_and_no_fit_reads_the_outer_fold(make_design):
    """Whatever fold 0 holds, whatever is said of it: what is fitted and chosen for it stays the same."""
    plain, changed = make_design(), make_design()
    here = (changed.clips["fold"] == 0).to_numpy()
    changed.clips.loc[here, "labels"] = pd.Series([("c",)] * here.sum(), changed.clips.index[here])
    rng = np.random.default_rng(9)
    for side in (changed.pairs, changed.single):
        rows = (side.table["fold"] == 0).to_numpy()
        side.scores[rows] = rng.random((rows.sum(), 3))
    made = []
    for design in (plain, changed):
        reader = dataclasses.replace(READER, stage2_epochs=2)
        readouts = nested.fit_readouts(design, reader, [*pooling.POOLINGS, *KINDS], [1])
        table, (model,) = nested.inner_scores(design, readouts), readouts["conv1d"][0].models
        mean = nested.read_outer(design, readouts["mean"])
        made.append((table[table["outer"] == 0], model.state_dict(), mean))
    pd.testing.assert_frame_equal(made[0][0], made[1][0])
    assert all((made[0][1][name] == made[1][1][name]).all() for name in made[0][1])
    assert (made[0][2] != made[1][2]).any()  # what is reported has changed, of course


def test_stage_2_is_judged_on_folds_that_it_was_not_fitted_on(make_design):
    """Whatever labels fold 1 has, what the choice for fold 0 is told of fold 1's clips stays the same."""
    plain, changed = make_design(n=24), make_design(n=24)
    here = (changed.clips["fold"] == 1).to_numpy()
    changed.clips.loc[here, "labels"] = pd.Series([("c",)] * here.sum(), changed.clips.index[here])
    reader, found = dataclasses.replace(READER, stage2_epochs=2), []
    for design in (plain, changed):
        found.append(nested.fit_readouts(design, reader, ["logistic"], [1])["logistic"][0].inner)
    before, after = (inner.to_numpy() for inner in found)
    of_fold_1 = here[plain.clips.index.get_indexer(found[0].index)]
    assert of_fold_1.sum() == (~of_fold_1).sum() == 8
    np.testing.assert_array_equal(before[of_fold_1], after[of_fold_1])
    assert (before[~of_fold_1] != after[~of_fold_1]).all()  # by a model that was fitted on fold 1


def test_stage_2_is_not_fitted_on_groups_of_the_fold_that_judges_it(make_design):
    """Whatever label a clip of fold 2 has: what is told of fold 1, where its group also stands, stays the same."""
    told = []
    for label in ("a", "c"):
        design = make_design(n=24)
        design.clips.loc[["002.wav", "004.wav"], "group"] = "of folds 1 and 2"
        design.clips.loc[["004.wav"], "labels"] = pd.Series([(label,)], ["004.wav"])
        reader = dataclasses.replace(READER, stage2_epochs=2)
        inner = nested.fit_readouts(design, reader, ["logistic"], [1])["logistic"][0].inner
        told.append(inner[design.clips["fold"].reindex(inner.index) == 1])
    np.testing.assert_array_equal(*told)


def test_every_fit_and_choice_is_in_the_manifest_and_none_names_a_reported_clip(read):
    design = read[0]
    told = design.manifest()
    fits = [use for use in told["uses"] if use["what"].startswith("fit ")]
    assert len(fits) == len(KINDS) * 3 * (1 + 2)  # outer folds; all of the training folds, or all but one of them
    grids = [name for name, kind in pooling.POOLINGS.items() if kind.grid]
    assert len([u for u in told["uses"] if u["what"].startswith("choose the parameter")]) == 3 * len(grids)
    assert len([u for u in told["uses"] if u["what"] == "choose a method"]) == 3 * 2
    for use in told["uses"]:
        assert not set(told["sets"][use["clips"]]) & set(told["reported"][str(use["outer"])])


def test_a_leak_planted_in_the_training_of_stage_2_is_caught(make_design):
    design = make_design()
    leaks = {
        "the reported fold": design.pairs.where(design.pairs.table["model"] == "without_0_1"),
        "a judge that saw it": design.single.where(design.single.table["fold"] != 0),
    }
    for windows in leaks.values():
        with pytest.raises(LeakError):
            READER.fit(design, "logistic", windows, 0, 1, "fit logistic")
        with pytest.raises(LeakError):
            nested.choose_parameter(design, "power", windows, 0)
    assert design.uses == []


def test_each_clip_is_read_by_stage_2_of_its_own_fold_on_each_models_windows(read):
    design, scores, _, readouts = read
    fname = design.clips.index[design.clips["fold"] == 2][3]
    (model,), said = readouts["conv1d"][2].models, []
    for name in ("without_0_2", "without_1_2"):
        rows = ((design.pairs.table["fname"] == fname) & (design.pairs.table["model"] == name)).to_numpy()
        said.append(stage2.clip_scores(model, design.pairs.where(rows), "bce")[1][0])
    place = design.clips.index.get_loc(fname)
    np.testing.assert_allclose(scores["conv1d"][0, place], np.mean(said, axis=0), atol=1e-6)


def test_rows_by_confusion_come_from_the_training_folds(make_design):
    design = make_design()
    reader = Reader(4.5, "confusion", 1)
    rows = reader.rows(design, design.training(0))
    other = make_design()  # fold 0 holds a third class, which is taken for the first: nobody may know
    here = (other.clips["fold"] == 0).to_numpy()
    other.clips.loc[here, "labels"] = pd.Series([("c",)] * here.sum(), other.clips.index[here])
    for side in (other.pairs, other.single):
        side.scores[(side.table["fold"] == 0).to_numpy()] = [1, 0, 0]
    assert reader.rows(other, other.training(0)).tolist() == rows.tolist()
    assert reader.rows(other, other.training(1)).tolist() != reader.rows(design, design.training(1)).tolist()
    assert sorted(rows.tolist()) == [0, 1, 2] and set(rows[:2]) | set(rows[1:]) >= {0, 1}
    model = reader.fit(design, "logistic", design.training(0), 0, 1, "fit")
    assert model.rows.tolist() == rows.tolist()


def test_clips_that_change(make_design):
    design = make_design(n=12)
    base, other = np.zeros((12, 3)), np.zeros((12, 3))
    truth = design.targets.to_numpy()
    base[:] = other[:] = 0.5 * truth + 0.1
    base[3] = [0.9, 0.1, 0.2]  # 003 is "b": the first is wrong, the second right
    other[4] = [0.1, 0.2, 0.4]
    found = probes.changed(design, base, other)
    assert found["fname"].tolist() == ["003.wav", "004.wav"]
    assert found["change"].tolist() == ["rescued", "broken"] and found["wrong"].tolist() == ["a", "c"]


def test_lengths_and_images_to_show(read):
    design, scores, _, _ = read
    table = probes.by_length(design, {"mean": scores["mean"]})
    assert table["n"].sum() == 48
    shown = probes.typical(design)
    assert len(shown) == 2 and len(set(shown)) == 2  # c has no clip
    assert [design.clips.loc[fname, "labels"] for fname in shown] == [("a",), ("b",)]
    images, rows = nested.prediction_images(design, READER, shown[::-1])
    assert rows == ["a", "b", "c"] and images.shape == (2, 3, 8)
    for fname, image in zip(shown[::-1], images, strict=True):
        own = design.single.scores[(design.single.table["fname"] == fname).to_numpy()]
        np.testing.assert_allclose(image, own.T, rtol=1e-5)


def test_what_is_written_for_use(read, tmp_path):
    design, scores = dataclasses.replace(read[0], uses=[], sets={}), read[1]
    comparison = choice.compare(design, scores).table("method")
    written = choice.write_choice(tmp_path, design, READER, comparison, 1)
    assert written == json.loads((tmp_path / "choice.json").read_text())
    assert written["method"] == "conv1d" and written["kind"] == "stage2" and written["parameter"] is None
    reached = comparison.set_index("method").loc["best_of_all", ["lwlrap", "lwlrap_low", "lwlrap_high", "n"]]
    assert {name: written[name] for name in reached.index} == reached.to_dict()
    assert written["settings"] == settings_digest(design.sidecar)
    model, sidecar = models.load(tmp_path / "weights.safetensors", stage2.Stage2Model)
    assert (
        model.settings["stage2"]["kind"] == "conv1d" and sidecar["unseen_folds"] == [] and sidecar["max_clip_s"] == 4.5
    )
    poolings = comparison[~comparison["method"].isin(["conv1d", "best_of_all", "best_stage2"])]
    first = pd.concat([poolings.query("method == 'power'"), poolings, comparison.query("method == 'best_of_all'")])
    written = choice.write_choice(tmp_path, design, READER, first, 1)
    assert written["method"] == "power" and written["kind"] == "pooling"
    assert written["lwlrap"] == reached["lwlrap"] != first["lwlrap"].iloc[0]
    fnames, windows = design.single.table["fname"], design.single.scores
    assert written["parameter"] == pooling.choose("power", fnames, windows, design.targets)


def test_nested_pooling_is_that_of_the_pair_models(make_design):
    design = make_design()
    scores = nested.read_outer(design, nested.fit_readouts(design, READER, ["mean"])["mean"])
    pooled = [nested.pooled(design.reported(g), "mean") for g in (0, 1, 2)]
    np.testing.assert_array_equal(scores[0], pd.concat(pooled).loc[design.clips.index])
