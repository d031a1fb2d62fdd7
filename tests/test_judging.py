"""Tests of curation: who judges whom, and that a planted leak is caught at each stage of curation."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fake_run import make_task

from lib.evaluation import folds
from lib.experiments import curation
from lib.runs import oof
from lib.runs.modelset import ModelSet
from lib.training.models import activate

CLASSES = ["bark", "rain"]
DEALT = pd.DataFrame({"fname": ["a", "b", "c"], "group": ["ga", "gb", "gc"], "fold": [0, 1, 2]})
CLIPS = pd.DataFrame(
    {
        "fname": ["a", "b", "c", "n", "related"],
        "subset": ["curated"] * 3 + ["noisy"] * 2,
        "group": ["ga", "gb", "gc", "gn", "gb"],
        "labels": [("bark",)] * 5,
    }
)
NUMBER = {name: k for k, name in enumerate(["without_0_1", "without_0_2", "without_1_2"])}


def logit(name, fname, start_s):
    """A number that tells who said it, of which clip and window."""
    return NUMBER[name] + list(CLIPS["fname"]).index(fname) / 10 + start_s / 100


def open_judges(judges):
    return ModelSet.open(judges.parents[1], "curated", "pairs", weights=True)


@pytest.fixture
def models_of(tmp_path):
    """Folders of three pair models and of what they say of the noisy clips, windows at 0 and 0.5 s of every clip."""
    judges, noisy = tmp_path / "mine" / "04_kfold" / "curated", tmp_path / "noisy"
    folds.settle(tmp_path / "mine" / "folds.csv", DEALT)
    table = CLIPS.merge(pd.DataFrame({"window_start_s": [0.0, 0.5]}), how="cross")
    table = table.assign(window_end_s=table["window_start_s"] + 1, silent=False).merge(
        DEALT[["fname", "fold"]], how="left"
    )
    for name in NUMBER:
        own = table[table["fold"].isin(folds.unseen(name))]
        for part, rows in ((judges, own), (noisy, table[table["fold"].isna()].assign(fold=-1))):
            said = [[logit(name, r.fname, r.window_start_s), 0.0] for r in rows.itertuples()]
            (part / name).mkdir(parents=True)
            oof.write_windows(part / name, rows.iloc[::-1], np.array(said)[::-1], CLASSES)
        sidecar = {"unseen_folds": sorted(folds.unseen(name)), "folds": folds.digest(DEALT), "recipe": {"loss": "bce"}}
        (judges / name / "weights.json").write_text(json.dumps(sidecar))
        (judges / name / "weights.safetensors").touch()
        (judges / name / "result.json").touch()
    return judges, noisy, table.drop(columns=["subset", "group", "labels", "fold"])


def test_each_clip_is_judged_by_those_that_saw_neither_it_nor_the_outer_fold(models_of):
    judges, noisy, table = models_of
    found = curation.evidence_for(0, judges, noisy, make_task(CLIPS, DEALT, classes=CLASSES), table)
    assert dict(zip(found.clips["fname"], found.clips["judged_by"], strict=True)) == {
        "b": "without_0_1",
        "c": "without_0_2",
        "n": "without_0_1 without_0_2",
        "related": "without_0_1",  # noisy, of the group of a clip in fold 1
    }
    kept = curation.select(found, "threshold_0").set_index(["fname", "window_start_s"])["scores"]
    assert float(kept["b", 0.5]) == pytest.approx(activate(logit("without_0_1", "b", 0.5), "bce"), abs=1e-3)
    both = [activate(logit(name, "n", 0.5), "bce") for name in ("without_0_1", "without_0_2")]
    assert float(kept["n", 0.5]) == pytest.approx(np.mean(both), abs=1e-3)
    other = curation.evidence_for(1, judges, noisy, make_task(CLIPS, DEALT, classes=CLASSES), table)
    assert other.clips["fname"].tolist() == ["a", "c", "n"]  # `related` may not train what is read on fold 1


def test_a_group_in_two_folds_is_judged_by_models_without_either(models_of):
    judges, noisy, table = models_of
    dealt, clips = DEALT.replace("gc", "gb"), CLIPS.replace("gc", "gb")  # b in fold 1, c in fold 2, `related` in none
    found = curation.evidence_for(0, judges, noisy, make_task(clips, dealt, classes=CLASSES), table)
    assert dict(zip(found.clips["fname"], found.clips["judged_by"], strict=True)) == {
        "b": "without_0_1",
        "c": "without_0_2",
        "n": "without_0_1 without_0_2",
        "related": "without_0_1 without_0_2",
    }
    for outer in (1, 2):  # neither of the two, nor `related`, may train what is read on one of their folds
        found = curation.evidence_for(outer, judges, noisy, make_task(clips, dealt, classes=CLASSES), table)
        assert found.clips["fname"].tolist() == ["a", "n"]


def test_a_set_without_noisy_clips_is_judged_too(models_of, tmp_path):
    judges, _, table = models_of
    curated = CLIPS[CLIPS["subset"] == "curated"]
    table = table[table["fname"].isin(curated["fname"])]
    found = curation.evidence_for(2, judges, tmp_path / "none", make_task(curated, DEALT, classes=CLASSES), table)
    assert found.clips["judged_by"].tolist() == ["without_0_2", "without_1_2"]


def test_windows_of_other_settings_are_refused(models_of):
    judges, noisy, table = models_of
    with pytest.raises(ValueError, match="windows differ from those of this run. Take the window_s"):
        curation.evidence_for(
            0, judges, noisy, make_task(CLIPS, DEALT, classes=CLASSES), table[table["window_start_s"] == 0]
        )


def test_models_that_are_missing_are_named_with_the_command(models_of):
    judges, _, _ = models_of
    assert open_judges(judges).names == list(NUMBER)
    (judges / "without_1_2" / "result.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"(?s)lacks without_1_2/.*-p fold 1 -p holdout_fold 2\nmake run NB=05"):
        open_judges(judges)
    (judges.parents[1] / "folds.csv").unlink()
    folds.settle(judges.parents[1] / "folds.csv", DEALT[:2])
    with pytest.raises(ValueError, match="2 folds: a pair model needs a third"):
        open_judges(judges)


def test_other_judges_or_labels_are_another_selection(models_of):
    judges, _, _ = models_of
    before = open_judges(judges).identity
    assert open_judges(judges).identity == before
    (judges / "without_1_2" / "weights.safetensors").write_bytes(b"trained again")
    assert open_judges(judges).identity != before
    store = SimpleNamespace(audio={"curated": "a" * 12})
    one, other = (
        make_task(clips, DEALT, store, CLASSES).identity
        for clips in (CLIPS, CLIPS.assign(labels=[("rain",)] * len(CLIPS)))
    )
    assert {name for name in one if one[name] != other[name]} == {"labels"}


# a leak planted at each stage; that of retraining is in test_training_sets


@pytest.mark.parametrize("lie", [{"unseen_folds": [0, 2]}, {"unseen_folds": [1]}, {"folds": "of another run"}])
def test_a_model_that_saw_more_than_its_name_says_is_caught(models_of, lie):
    judges, _, _ = models_of
    path = judges / "without_0_1" / "weights.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | lie))
    with pytest.raises(folds.LeakError, match="without_0_1 doesn't belong to this run: it did not see folds"):
        open_judges(judges)


@pytest.mark.parametrize("trained_on", ["curated_noisy_all", "curated_kept_top_1"])
def test_a_judge_that_was_trained_on_more_than_curated_clips_is_caught(models_of, trained_on):
    judges, _, _ = models_of
    path = judges / "without_0_2" / "weights.json"
    honest = json.loads(path.read_text())
    path.write_text(json.dumps(honest | {"trained_on": trained_on}))
    what = rf"without_0_2 was trained on {trained_on}.*overwrite True.*-p variant {trained_on}"
    with pytest.raises(folds.LeakError, match=what):
        open_judges(judges)
    path.write_text(json.dumps(honest | {"trained_on": "curated"}))
    open_judges(judges)


def test_a_judge_that_saw_the_outer_fold_is_caught(models_of, monkeypatch):
    judges, noisy, table = models_of
    monkeypatch.setattr(folds, "pair_models", lambda n_folds, outer: ["without_0_1", "without_0_2"])  # of fold 0
    clips = CLIPS[CLIPS["fname"].isin(["a", "n"])]
    table = table[table["fname"].isin(clips["fname"])]
    monkeypatch.setattr(curation, "_judges", lambda *args: everyone(clips, table, ["without_0_1", "without_0_2"]))
    with pytest.raises(folds.LeakError, match=r"n \(group gn, judged by without_0_1 without_0_2\)"):
        curation.evidence_for(1, judges, noisy, make_task(clips, DEALT, classes=CLASSES), table)


def test_a_judge_that_saw_the_clip_is_caught(models_of, monkeypatch):
    judges, noisy, table = models_of
    clips = CLIPS[CLIPS["fname"].isin(["b", "c"])]
    table = table[table["fname"].isin(clips["fname"])]
    monkeypatch.setattr(curation, "_judges", lambda *args: everyone(clips, table, ["without_0_1"]))
    with pytest.raises(folds.LeakError, match=r"c \(group gc, judged by without_0_1\)"):
        curation.evidence_for(0, judges, noisy, make_task(clips, DEALT, classes=CLASSES), table)


def test_a_rule_whose_number_comes_from_the_outer_fold_is_caught(models_of, monkeypatch):
    """quantile and confident read all clips of the evidence: a clip of the outer fold may not be among them."""
    judges, noisy, table = models_of
    honest = curation.gather

    def with_outer_clip(clips, rows, classes, said):
        one = pd.concat([clips, CLIPS[CLIPS["fname"] == "a"]])
        more = pd.concat([rows, table[table["fname"] == "a"]], ignore_index=True)
        return honest(one, more, classes, [(n, np.arange(len(more)), np.ones((len(more), 2))) for n, _, _ in said])

    monkeypatch.setattr(curation, "gather", with_outer_clip)
    with pytest.raises(folds.LeakError, match=r"held out train.*\(1: a \(group ga\)\)"):
        curation.evidence_for(0, judges, noisy, make_task(CLIPS, DEALT, classes=CLASSES), table)


def everyone(clips, table, names):
    """Judges that say 0.5 of every window that they are given."""
    for name in names:
        yield name, np.arange(len(table)), np.full((len(table), 2), 0.5, np.float32)
