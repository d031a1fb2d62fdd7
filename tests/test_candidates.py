"""Tests of candidates: the choice knows nothing of the fold that reports it, and says what it is made of."""

import json
import shutil
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from fake_run import seal

from lib.clips import choice
from lib.clips.nested import Reader
from lib.evaluation import folds
from lib.evaluation.folds import LeakError
from lib.runs import oof
from lib.sound.features import LogMel

N_FOLDS = 3
CLASSES = ["x", "y"]
AUDIO = LogMel(sample_rate=8000, n_fft=512, hop_length=80, n_mels=16, fmin=20)
RECIPE = {"loss": "bce", "epochs": 1, "batch_size": 4, "lr": 0.01, "lr_body": 0.0, "mixup": 0.0, "mask_share": 0.0}
TABLE = pd.DataFrame({"fname": [f"{i:02}.wav" for i in range(24)], "group": [f"g{i}" for i in range(24)]})
TABLE["fold"] = np.arange(24) // 8
MODELS = [folds.model_name(f) for f in range(N_FOLDS)]
PAIRS = [folds.model_name(*pair) for pair in combinations(range(N_FOLDS), 2)]


def make(home, variant, right, models=(*MODELS, *PAIRS), strength=1.0, seconds=60.0):
    """A variant's models: right[fold] is the share of that fold's clips whose label ranks first."""
    folds.settle(home / "folds.csv", TABLE)
    clips = TABLE.assign(labels=[("x",) if i % 2 else ("y",) for i in range(24)])
    for name in models:
        part = home / "04_kfold" / variant / name
        scored = clips[clips["fold"].isin(folds.unseen(name))]
        hits = np.array([i % 8 < round(8 * right[fold]) for i, fold in scored["fold"].items()])
        is_x = scored["labels"].map(lambda labels: labels == ("x",)).to_numpy()
        logits = np.where(np.stack([is_x, ~is_x], 1) == hits[:, None], strength, -strength)
        oof.write(part, scored.assign(window_start_s=0.0), logits, scored, CLASSES, "bce")
        pd.DataFrame(columns=["epoch"]).to_csv(part / "epochs.csv", index=False)
        sidecar = {"classes": CLASSES, "audio": AUDIO.settings(), "windows": {"window_s": 1.0, "hop_s": 0.5}}
        sidecar |= {
            "recipe": RECIPE,
            "network": {"arch": "a", "image_size": 0},
            "folds": folds.digest(TABLE),
            "seed": int(variant.partition(".seed_")[2] or 7),
            "unseen_folds": sorted(folds.unseen(name)),
        }
        (part / "weights.json").write_text(json.dumps(sidecar))
        (part / "manifest.json").write_text(json.dumps({"seconds": seconds}))
        (part / "result.json").write_text("{}")


@pytest.fixture
def home(tmp_path):
    """`early` is perfect on folds 0 and 1, `late` on fold 2 and good elsewhere; both have a second seed."""
    home = tmp_path / "mine"
    make(home, "early", [1, 1, 0], seconds=60)
    make(home, "late", [0.75, 0.75, 1], strength=3, seconds=120)
    make(home, "early.seed_8", [1, 1, 0.5], MODELS, seconds=180)
    make(home, "late.seed_8", [0.75, 0.75, 1], MODELS, strength=3, seconds=120)
    return home


READER = Reader(max_clip_s=1.0, class_order="alphabetical", stage2_epochs=2)


def evaluate(models, readouts=("mean",)):
    return models.evaluate(READER, list(readouts), seed=1)


def read(home, names=("early", "late", "early+late"), repeats=2, readouts=("mean", "max")):
    return choice.read_candidates(home, list(names), list(readouts), seed=7, repeats=repeats, profile="demo")


def test_the_best_of_the_other_folds_is_taken_even_where_the_outer_fold_says_otherwise(home):
    models = read(home, ["early", "late"])
    evaluation = evaluate(models)
    inner = evaluation.candidates
    best = inner.loc[inner.groupby("outer")["lwlrap"].idxmax()].set_index("outer")["method"]
    # outer 2: early is perfect on 0 and 1; outer 0: late has .75 and 1, early 1 and 0
    assert best.to_dict() == {0: "late", 1: "late", 2: "early"}
    comparison = models.compare(evaluation)
    told = models.by_fold(evaluation, comparison.scores[choice.CHOSEN_PER_FOLD]).set_index("outer")
    assert told["seed_7"].to_dict() == {0: 0.75, 1: 0.75, 2: 0.0}
    assert told["seed_8"].to_dict() == {0: 0.75, 1: 0.75, 2: 0.5}
    assert told["minutes"].to_dict() == {0: 2.0, 1: 2.0, 2: 2.0}  # early: one and three minutes
    row = comparison.table().set_index("variant").loc[choice.CHOSEN_PER_FOLD]
    assert row["hit_rate"] == pytest.approx((0.75 + 0.75 + 0 + 0.75 + 0.75 + 0.5) / 6)
    assert comparison.table()["hit_rate"].max() > row["hit_rate"]  # the best from behind


def test_what_is_judged_by_hand(home):
    inner = evaluate(read(home)).candidates.set_index(["outer", "method"])
    assert inner.loc[(2, "early"), "hit_rate"] == 1.0
    assert inner.loc[(2, "late"), "hit_rate"] == 0.75
    assert inner.loc[(0, "early"), "hit_rate"] == 0.5
    assert inner.loc[(0, "late"), "lwlrap"] == pytest.approx((8 + 6 + 2 / 2) / 16)
    assert inner.loc[(0, "early+late"), "hit_rate"] == inner.loc[(0, "late"), "hit_rate"]  # late is the surer one


def test_an_average_is_that_of_the_clip_scores_seed_by_seed(home):
    models = read(home)
    scores = models.compare(evaluate(models)).scores
    early, late = scores["early"], scores["late"]
    assert early.shape == (2, 24, 2)
    np.testing.assert_allclose(scores["early+late"], (early + late) / 2)
    own = models.designs["late"][1].single  # one window a clip: its mean is its score
    here = pd.Index(models.design.clips.index).get_indexer(own.table["fname"])
    np.testing.assert_allclose(late[1][here], own.scores)
    np.testing.assert_allclose(scores[models.base], early)
    np.testing.assert_allclose(scores[choice.SEEDS_AVERAGED][0], scores[choice.CHOSEN_PER_FOLD].mean(0))


def test_every_choice_lists_its_clips_and_none_is_of_the_outer_fold(home):
    models = read(home)
    models.compare(evaluate(models, ["mean", "power", "logistic"]))
    made = models.manifest()
    assert {use["what"].split(" without ")[0] for use in made["uses"]} == {
        *("choose a readout of early", "choose a readout of late", "choose the parameter of power", "fit logistic"),
        "choose a method",
    }
    assert sum(use["what"].startswith("fit logistic") for use in made["uses"]) == 2 * N_FOLDS * (1 + N_FOLDS - 1)
    for use in made["uses"]:
        used = set(made["sets"][use["clips"]])
        assert used and not used & set(made["reported"][str(use["outer"])])


def test_a_planted_leak_is_caught(home):
    models = read(home)
    late = models.designs["late"][0]
    table = late.pairs.table
    planted = (table["fold"] == 0) & (table["model"] == "without_0_1")
    table["model"] = table["model"].where(~planted, "without_0")  # it saw fold 1
    late.training = lambda outer: late.pairs.where(table["fold"].to_numpy() != outer)
    with pytest.raises(LeakError):
        evaluate(models)


def test_the_conclusion_tells_choice_and_scores(home):
    models = read(home, ["early", "late"])
    evaluation = evaluate(models)
    comparison = models.compare(evaluation)
    table = comparison.table().set_index("variant")
    by_fold = models.by_fold(evaluation, comparison.scores[choice.CHOSEN_PER_FOLD])
    says = models.conclusion(comparison, by_fold)
    assert "late (2 of 3), early (1 of 3)" in says
    assert "n = 24, mean of 2 seed(s): top-1 hit rate 0.583 (" in says
    assert "Hit rates of folds 0.250 to 0.750 (sd 0.289), of seeds 0.500 to 0.667" in says
    assert "The scores of all seeds averaged: hit rate 0.5" in says
    best = table.loc[["early", "late"], "hit_rate"]
    assert f"the best of 2 tries, {best.idxmax()}, hit rate {best.max():.3f}" in says and "same 24 clips" in says
    found = models.result_metrics(comparison, by_fold)
    assert (found["folds_low"], found["folds_high"]) == (0.25, 0.75)
    assert (found["seeds_low"], found["seeds_high"]) == (0.5, pytest.approx(2 / 3))
    assert found["hit_rate"] == pytest.approx(0.5833, abs=1e-4) and found["n"] == 24
    assert found["together_hit_rate"] == table.loc[choice.SEEDS_AVERAGED, "hit_rate"]


def test_one_candidate_is_its_own_choice(home):
    models = read(home, ["late"], repeats=1)
    evaluation = evaluate(models)
    comparison = models.compare(evaluation)
    np.testing.assert_array_equal(comparison.scores[choice.CHOSEN_PER_FOLD], comparison.scores["late"])
    assert evaluation.candidates["method"].eq("late").all()
    table = comparison.table().set_index("variant")
    assert models.base == "late, mean" and table.loc[choice.CHOSEN_PER_FOLD, "lwlrap_diff"] == 0
    assert table.loc[choice.CHOSEN_PER_FOLD, "verdict"] == "screened"


def test_where_nothing_is_selected_no_pair_model_is_needed(home):
    """One candidate, read by the mean: the same scores as beside pair models, and a choice that says so."""
    with_pairs = read(home, ["late"])
    expected = with_pairs.compare(evaluate(with_pairs)).scores["late"]
    for pair in PAIRS:
        shutil.rmtree(home / "04_kfold" / "late" / pair)
    with pytest.raises(FileNotFoundError, match="lacks"):
        read(home, ["late"])
    models = read(home, ["late"], readouts=["mean"])
    evaluation = evaluate(models)
    comparison = models.compare(evaluation)
    by_fold = models.by_fold(evaluation, comparison.scores[choice.CHOSEN_PER_FOLD])
    np.testing.assert_array_equal(comparison.scores[choice.CHOSEN_PER_FOLD], expected)
    assert by_fold["candidate"].eq("late").all() and by_fold["readouts"].eq("mean").all()
    assert evaluation.readouts["lwlrap"].isna().all() and evaluation.readouts["chosen"].all()
    says = models.conclusion(comparison, by_fold)
    assert says.startswith("Nothing is selected: late, read by the mean. On the outer folds, n = 24, mean of 2 seed(s)")
    uses = models.manifest()
    assert all(uses["sets"][use["clips"]] == [] for use in uses["uses"])


def test_models_that_are_missing_are_named_with_the_command_that_makes_them(home):
    (home / "04_kfold" / "late.seed_8" / "without_1" / "result.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"(?s)late\.seed_8 .* lacks without_1/.*at once: make run NB=10 RUN=mine PROFILE=demo"
    ):
        read(home)
    with pytest.raises(FileNotFoundError, match="make run NB=10"):
        read(home, ["early", "other"])
    with pytest.raises(ValueError, match="There are no candidates"):
        read(home, [])


def test_models_of_other_folds_are_refused(home):
    part = home / "04_kfold" / "late.seed_8" / "without_0"
    arrays = dict(np.load(part / "oof_windows.npz"))
    kept = arrays["fname"] != "00.wav"
    arrays |= {name: arrays[name][kept] for name in ("fname", "window_start_s", "fold", "logits")}
    np.savez(part / "oof_windows.npz", **arrays)
    with pytest.raises(ValueError, match="scored other clips"):
        read(home)


def test_recipes_of_other_labels_are_refused(home):
    for path in (home / "04_kfold" / "late").glob("without_*/clips.csv"):
        table = pd.read_csv(path)
        table["labels"] = table["labels"].map({"x": "y", "y": "x"})
        table.to_csv(path, index=False)
        seal(path.parent)
    with pytest.raises(ValueError, match="late and late.seed_8 differ in clips, labels, folds or classes"):
        read(home, ["early", "late"])
    with pytest.raises(ValueError, match="early and late differ in clips, labels, folds or classes"):
        read(home, ["early", "late"], repeats=1)


def test_models_of_other_audio_are_refused(home):
    for variant in ("early", "early.seed_8", "late", "late.seed_8"):
        path = home / "04_kfold" / variant / "configuration.json"
        path.write_text(json.dumps({"audio": {"curated": "x" if variant == "late.seed_8" else "a"}}))
    read(home, repeats=1)
    with pytest.raises(ValueError, match=r"late and late\.seed_8 differ \(audio of curated clips: .a. there"):
        read(home)


def test_the_best_readout_is_that_of_the_training_folds(home):
    """Logits of two windows a clip: their mean is right on folds 0 and 1, their maximum on fold 2."""
    for name in (*MODELS, *PAIRS):
        part = home / "04_kfold" / "early" / name
        arrays = dict(np.load(part / "oof_windows.npz"))
        is_x = np.array([int(fname[:2]) % 2 == 1 for fname in arrays["fname"]])
        right = np.where(np.stack([is_x, ~is_x], 1), 1.0, -1.0)
        loud = np.where((arrays["fold"] == 2)[:, None], 3, -3) * right
        arrays |= {"fname": np.repeat(arrays["fname"], 3), "fold": np.repeat(arrays["fold"], 3)}
        arrays |= {"window_start_s": np.tile([0.0, 0.5, 1.0], len(is_x))}
        quiet = np.where((arrays["fold"][::3] == 2)[:, None], -2, 2) * right
        np.savez(part / "oof_windows.npz", **arrays | {"logits": np.stack([loud, quiet, quiet], 1).reshape(-1, 2)})
    models = read(home, ["early"], repeats=1)
    evaluation = evaluate(models, ["mean", "max"])
    best = evaluation.readouts[evaluation.readouts["chosen"]].set_index("outer")["readout"]
    assert best[2] == "mean"
    told = models.by_fold(evaluation, models.compare(evaluation).scores[choice.CHOSEN_PER_FOLD]).set_index("outer")
    assert told.loc[2, "readouts"] == "mean" and told.loc[2, "seed_7"] == 0.0  # the maximum would have been right
    assert len(evaluation.readouts) == 2 * N_FOLDS and evaluation.readouts["chosen"].sum() == N_FOLDS


def test_a_readout_that_there_is_not_is_named(home):
    with pytest.raises(ValueError, match="readouts: best, energy can't be made here. There are: mean, "):
        evaluate(read(home), ["mean", "best", "energy"])
