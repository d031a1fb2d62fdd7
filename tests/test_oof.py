"""Tests of oof: what is written is what is read, every clip once, and nothing of a clip's own fold in its prior."""

import numpy as np
import pandas as pd
import pytest

from lib.evaluation import metrics
from lib.runs import oof
from lib.runs.modelset import ModelSet
from lib.training.models import activate

VARIANT = "04_kfold/curated"
CLASSES = ["NA", "bark", "rain"]  # one is called as what pandas takes for nothing


def clips_of(fold, n=3):
    """n clips of a fold, each with its own label, in an order that is not that of their names."""
    fnames = [f"f{fold}c{i}.wav" for i in reversed(range(n))]
    labels = [(CLASSES[i % 3],) for i in reversed(range(n))]
    return pd.DataFrame({"fname": fnames, "group": [f"g{fold}"] * n, "fold": fold, "labels": labels})


def write_part(part, clips, seed=0, done=True, classes=CLASSES, loss="bce"):
    """A part with two windows a clip; returns the logits."""
    part.mkdir(parents=True)
    windows = clips.loc[clips.index.repeat(2), ["fname", "fold"]].reset_index(drop=True)
    windows["window_start_s"] = np.tile([0.0, 0.5], len(clips))
    logits = np.random.default_rng(seed).normal(size=(len(windows), len(classes))).astype(np.float32)
    oof.write(part, windows, logits, clips, classes, loss)
    curve = pd.DataFrame(
        {"epoch": [0, 1], "train_loss": [0.5, 0.25], "valid_loss": [np.nan, 0.5], "lwlrap": [np.nan, 1]}
    )
    curve.to_csv(part / "epochs.csv", index=False)
    if done:
        (part / "result.json").write_text("{}")
    return logits


def dealt(*tables):
    table = pd.concat(tables).sort_values("fname", ignore_index=True)
    return table[["fname", "group", "fold"]], oof.datasets.targets(table, CLASSES)


def test_what_is_written_is_what_is_read(tmp_path):
    part, clips = tmp_path / "without_0", clips_of(0)
    logits = write_part(part, clips)
    read = oof.read(part)
    assert read.table["fname"].tolist() == sorted(clips["fname"])
    assert read.classes == CLASSES
    assert read.missing == []
    assert set(read.table["model"]) == {"without_0"}
    both = read.table.merge(clips, on="fname", suffixes=("", "_given"))
    for column in ("group", "fold", "labels"):
        assert both[column].tolist() == both[f"{column}_given"].tolist()
    scores = 1 / (1 + np.exp(-logits.astype(float)))
    by_hand = {fname: scores[2 * i : 2 * i + 2].mean(0) for i, fname in enumerate(clips["fname"])}
    np.testing.assert_allclose(read.scores, [by_hand[fname] for fname in read.table["fname"]], rtol=1e-12)
    np.testing.assert_array_equal(read.targets, np.eye(3))
    assert read.groups.tolist() == ["g0"] * 3
    assert read.epochs["epoch"].tolist() == [0, 1]
    assert np.isnan(read.epochs["lwlrap"][0])
    assert sorted(path.name for path in part.iterdir()) == ["clips.csv", "epochs.csv", "oof_windows.npz", "result.json"]


def test_tables_that_were_damaged_are_refused(tmp_path):
    part = tmp_path / "without_0"
    write_part(part, clips_of(0))
    rows = (part / "clips.csv").read_text().splitlines(keepends=True)
    (part / "clips.csv").write_text("".join(rows[:-1]))
    with pytest.raises(ValueError, match=r"clips.csv is damaged: it is not the one .* -p overwrite True"):
        oof.read(part)
    (part / "oof_windows.npz").write_bytes((part / "oof_windows.npz").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"oof_windows.npz is damaged"):
        oof.read_logits(part)
    (part / "oof_windows.npz").unlink()
    with pytest.raises(ValueError, match=r"oof_windows.npz is damaged .* -p overwrite True"):
        oof.read_logits(part)


@pytest.mark.parametrize("file", ["clips.csv", "epochs.csv"])
@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_text("")])
def test_tables_that_are_missing_or_empty_are_refused(tmp_path, file, change):
    write_part(tmp_path / "without_0", clips_of(0))
    change(tmp_path / "without_0" / file)
    with pytest.raises(ValueError, match=r"without_0: scores are damaged .* -p overwrite True"):
        oof.read(tmp_path / "without_0")


def test_scores_that_were_changed_since_are_refused(tmp_path):
    write_part(part := tmp_path / "without_0", clips_of(0))
    whole = (part / "clips.csv").read_text()
    (part / "clips.csv").write_text(whole[:-3] + "\n")
    with pytest.raises(ValueError, match=r"clips.csv is damaged"):
        oof.read(part)


def test_scores_come_back_to_the_last_bit_or_nearly(tmp_path):
    """Written as decimal text; pandas before 3 may lose a last bit."""
    logits = write_part(tmp_path / "without_0", clips_of(0, n=300))
    scores = activate(logits, "bce").reshape(300, 2, 3).sum(1) / 2
    read = oof.read(tmp_path / "without_0")
    written = pd.DataFrame(scores, index=clips_of(0, n=300)["fname"]).loc[read.table["fname"]]
    np.testing.assert_allclose(read.scores, written, rtol=3e-16)


def test_ce_shares_one_among_the_classes(tmp_path):
    write_part(tmp_path / "without_0", clips_of(0), loss="ce")
    np.testing.assert_allclose(oof.read(tmp_path / "without_0").scores.sum(1), 1)


def test_window_logits_need_no_pickle_and_are_found_by_key(tmp_path):
    part, clips = tmp_path / "without_1", clips_of(1)
    logits = write_part(part, clips)
    with np.load(part / "oof_windows.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"fname", "window_start_s", "fold", "logits", "classes", "clips"}
        assert arrays["classes"].tolist() == CLASSES
    windows, stored = oof.read_logits(part)
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, logits)
    assert windows["fname"].tolist() == np.repeat(clips["fname"], 2).tolist()
    assert windows["window_start_s"].tolist() == [0.0, 0.5] * 3
    assert windows["fold"].tolist() == [1] * 6
    scored = oof.read_windows(part, "ce")
    np.testing.assert_array_equal(scored.scores, activate(logits, "ce"))
    pd.testing.assert_frame_equal(scored.table, windows.assign(model="without_1"))


def test_the_same_scores_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_part(tmp_path / name / "without_0", clips_of(0))
    for file in ("oof_windows.npz", "clips.csv"):
        assert (tmp_path / "a/without_0" / file).read_bytes() == (tmp_path / "b/without_0" / file).read_bytes()


def test_pooled_is_every_clip_of_the_folds_that_are_done(tmp_path):
    for fold in (0, 2):
        write_part(tmp_path / VARIANT / f"without_{fold}", clips_of(fold), seed=fold)
    write_part(tmp_path / VARIANT / "without_1", clips_of(1), done=False)  # scored, but killed before its result
    write_part(tmp_path / VARIANT / "without_0_2", pd.concat([clips_of(0), clips_of(2)], ignore_index=True))
    pooled = ModelSet(tmp_path, "curated", 4).clips()
    assert pooled.missing == [1, 3]
    assert pooled.table["fname"].tolist() == sorted([*clips_of(0)["fname"], *clips_of(2)["fname"]])
    assert (pooled.table["model"] == "without_" + pooled.table["fold"].astype(str)).all()
    for fold in (0, 2):
        alone = oof.read(tmp_path / VARIANT / f"without_{fold}")
        np.testing.assert_array_equal(pooled.scores[pooled.table["fold"] == fold], alone.scores)
    assert pooled.epochs.groupby("model").size().to_dict() == {"without_0": 2, "without_2": 2}


def test_a_part_is_read_before_it_has_a_result(tmp_path):
    write_part(tmp_path / "without_1", clips_of(1), done=False)  # as the notebook does, right after training
    assert len(oof.read(tmp_path / "without_1").table) == 3


def test_a_pair_model_scores_both_folds_that_it_did_not_see(tmp_path):
    write_part(tmp_path / "without_0_2", pd.concat([clips_of(0), clips_of(2)], ignore_index=True))
    pair = oof.read(tmp_path / "without_0_2")
    assert sorted(set(pair.table["fold"])) == [0, 2]
    assert pair.missing == []
    folds_table, targets = dealt(clips_of(0), clips_of(1), clips_of(2).assign(labels=[("rain",)] * 3))
    np.testing.assert_allclose(pair.prior(folds_table, targets), np.full((6, 3), 1 / 3))  # of fold 1 alone


@pytest.mark.parametrize("part", ["pooled", "without_0", "without_0_1"])
def test_nothing_done_is_answered_with_the_command(tmp_path, part):
    with pytest.raises(
        FileNotFoundError, match=r"(?s)No fold is done .*papermill notebooks/04_kfold.ipynb .* -p fold 0"
    ):
        ModelSet(tmp_path / "mine", "curated", 2).clips(part)
    with pytest.raises(FileNotFoundError, match="make run RUN=short .* or NB=05 RUN=mine"):
        ModelSet(tmp_path / "mine", "short", 2).clips(part)


def test_clips_scored_twice_are_refused(tmp_path):
    write_part(tmp_path / VARIANT / "without_0", clips_of(0))
    write_part(tmp_path / VARIANT / "without_1", pd.concat([clips_of(1), clips_of(0)[:1]], ignore_index=True))
    with pytest.raises(ValueError, match="clips are scored by more than one model"):
        ModelSet(tmp_path, "curated", 2).clips()


def test_the_prior_of_a_clip_knows_nothing_of_its_own_fold(tmp_path):
    """Planted: every fold holds one class alone. A prior that saw the clip's own fold would give it something."""
    tables = [clips_of(fold).assign(labels=[(CLASSES[fold],)] * 3) for fold in range(3)]
    for fold, clips in enumerate(tables):
        write_part(tmp_path / VARIANT / f"without_{fold}", clips)
    pooled = ModelSet(tmp_path, "curated", 3).clips()
    prior = pooled.prior(*dealt(*tables))
    np.testing.assert_array_equal(prior, (1 - pooled.targets) / 2)  # the two classes of the other two folds, evenly
    assert metrics.hit_rate(pooled.targets, prior) == 0


def test_the_prior_of_a_clip_knows_nothing_of_its_group_in_another_fold(tmp_path):
    tables = [clips_of(fold).assign(labels=[(CLASSES[fold],)] * 3) for fold in range(3)]
    tables[1] = tables[1].assign(group=["g0", "g1", "g1"])
    for fold, clips in enumerate(tables):
        write_part(tmp_path / VARIANT / f"without_{fold}", clips)
    pooled = ModelSet(tmp_path, "curated", 3).clips()
    prior = pooled.prior(*dealt(*tables))
    mine = (pooled.table["fold"] == 0).to_numpy()
    np.testing.assert_allclose(prior[mine], np.tile([0, 2 / 5, 3 / 5], (3, 1)))  # two of fold 1, three of fold 2
    np.testing.assert_allclose(prior, metrics.prior_by_fold(pooled.targets, pooled.table))


def test_what_the_best_epoch_would_add_is_read_from_each_models_own_curve():
    curves = {"without_0": [0.5, np.nan, 0.9, 0.7], "without_1": [0.4, 0.6, np.nan, 0.8]}
    epochs = pd.DataFrame([(name, e, y) for name, ys in curves.items() for e, y in enumerate(ys)])
    epochs = epochs.set_axis(["model", "epoch", "lwlrap"], axis=1)
    assert oof.Clips(pd.DataFrame(), CLASSES, epochs, []).best_epoch_gain == pytest.approx((0.2 + 0.0) / 2)
    assert np.isnan(oof.Clips(pd.DataFrame(), CLASSES, epochs[epochs["lwlrap"].isna()], []).best_epoch_gain)


def test_the_hardest_clips_come_first_and_ties_by_name():
    table = pd.DataFrame(
        {
            "fname": ["a", "b", "c", "d"],
            "labels": [("NA",), ("bark", "rain"), ("rain",), ("NA",)],
            "NA": [0.5, 0.9, 0.1, 0.5],
            "bark": [0.2, 0.25, 0.2, 0.2],
            "rain": [0.1, 0.25, 1.0, 0.1],
        }
    )
    hardest = oof.Clips(table, CLASSES, pd.DataFrame(), []).hardest(3)
    assert hardest["fname"].tolist() == ["b", "a", "d"]
    assert hardest["first"].tolist() == ["NA", "NA", "NA"]
    np.testing.assert_allclose(hardest["loss"], np.round([np.log(4), np.log(2), np.log(2)], 3))
    assert hardest["labels"].tolist() == [("bark", "rain"), ("NA",), ("NA",)]


@pytest.mark.parametrize("name", ["rain, heavy", "fname", "group", "fold", "labels", "model", "variant", "seed"])
def test_a_class_that_could_be_taken_for_something_else_is_refused_before_anything_is_written(tmp_path, name):
    clips = clips_of(0).assign(labels=[(name,)] * 3)
    with pytest.raises(ValueError, match=rf"Classes \['{name}'\] hold a comma or have the name of a column"):
        write_part(tmp_path / "without_0", clips, classes=["rain", name, "heavy"])
    assert not list((tmp_path / "without_0").iterdir())


@pytest.mark.parametrize("name", ["NaN", "null", "1e5", "007", "True", 'say "hi"', "Bark.1", " é ", "Frying_(food)"])
def test_odd_names_of_classes_clips_and_groups_come_back_as_they_are(tmp_path, name):
    classes = ["Bark", name]
    clips = pd.DataFrame(
        {"fname": [name, "z"], "group": [name, "NA"], "fold": 0, "labels": [(name, "Bark"), ("Bark",)]}
    )
    write_part(tmp_path / "without_0", clips, classes=classes)
    read = oof.read(tmp_path / "without_0")
    assert read.classes == classes
    assert read.table["fname"].tolist() == sorted([name, "z"])
    row = read.table.set_index("fname").loc[name]
    assert row["labels"] == (name, "Bark")
    assert row["group"] == name
    assert read.targets.sum() == 3
