"""Tests of modelset: what it gives of models that belong together, and how missing ones are made.

What it refuses is in test_refusals.
"""

import json

import numpy as np
import pytest
from fake_run import PAIRS, SIDECAR, SINGLE, TABLE, change, make_models_of_all, without

from lib.evaluation import folds
from lib.files import digest, write_json
from lib.runs.modelset import ModelSet, WrongModel, settings_digest
from lib.training.models import activate

BASE = "04_kfold/curated"


@pytest.fixture
def home(tmp_path):
    return make_models_of_all(tmp_path / "mine")


@pytest.mark.parametrize(
    ("need", "names"), [("single", SINGLE), ("pairs", PAIRS), ("all", SINGLE + PAIRS), ("folds", [])]
)
def test_what_is_needed_is_opened(home, need, names):
    models = ModelSet.open(home, "curated", need, weights=True)
    assert (models.names, models.n_folds, models.missing) == (names, 3, [])
    assert models.folder == home / BASE and models.fold_table.equals(TABLE)
    assert [models.sidecars[name]["unseen_folds"] for name in names] == [sorted(folds.unseen(n)) for n in names]
    assert models.identity == digest(*[name.encode() for name in names])  # the weights of this made-up run


def test_what_is_not_needed_may_be_missing(home):
    without(*(f"{BASE}/{name}" for name in SINGLE), f"{BASE}/without_0_1/weights.safetensors")(home)
    assert ModelSet.open(home, "curated", "pairs").names == PAIRS
    assert ModelSet(home, "curated", 3).missing == [0, 1, 2]


def test_clips_of_one_model_of_all_and_of_those_that_are_done(home):
    models = ModelSet.open(home, "curated", "all")
    assert models.clips("without_0_2").table["fold"].tolist() == [0] * 4 + [2] * 4
    assert models.clips().table["fname"].tolist() == TABLE["fname"].tolist()
    assert models.labelled()["fold"].tolist() == TABLE["fold"].tolist()
    assert models.labelled().loc["01.wav", "labels"] == ("x",)
    without(f"{BASE}/without_1/result.json")(home)
    some = models.clips()
    assert (some.missing, set(some.table["fold"])) == ([1], {0, 2}) and models.missing == [1]


def test_windows_are_those_of_each_model_and_tell_who_scored_them(home):
    scored = ModelSet.open(home, "curated", "all").windows(["without_0", "without_1_2"])
    table, scores = scored.table, scored.scores
    assert table.groupby("model")["fold"].unique().map(sorted).to_dict() == {"without_0": [0], "without_1_2": [1, 2]}
    assert table.groupby("fname")["window_start_s"].apply(list).map(tuple).unique().tolist() == [(0.0, 0.5)]
    said = table["model"].map({"without_0": 0.01, "without_1_2": 1.1}).to_numpy()
    np.testing.assert_allclose(scores[:, 0], activate(said, "bce"), rtol=1e-6)


def test_a_setting_that_an_older_version_did_not_know_is_no_difference(home):
    models = [*SINGLE, *PAIRS]
    for name, settings in {"recipe": {"schedule": "one_cycle"}, "network": {"normalise": "set"}}.items():
        change(f"{BASE}/without_1/weights.json", **{name: {**SIDECAR[name], **settings}})(home)
    assert ModelSet.open(home, "curated", "all").names == models
    for strange in ({"schedule": "flat"}, {"of_a_newer_version": 1}):
        change(f"{BASE}/without_1/weights.json", recipe={**SIDECAR["recipe"], **strange})(home)
        with pytest.raises(ValueError, match="without_1 and without_0 differ in recipe"):
            ModelSet.open(home, "curated", "all")


def test_only_the_bases_models_must_be_trained_on_curated_clips(home):
    for variant in ("curated", "wide"):
        change(f"04_kfold/{variant}/*/weights.json", trained_on="curated_noisy_all")(home)
    assert ModelSet.open(home, "wide", "all").names == [*SINGLE, *PAIRS]
    with pytest.raises(WrongModel, match="without_0_1 was trained on curated_noisy_all"):
        ModelSet.open(home, "curated", "pairs")


def test_a_training_set_of_another_size_in_each_fold_has_other_epochs(home):
    """At equal compute, what a rule keeps decides how many passes there are; all else must be equal."""
    for variant in ("curated", "wide"):
        change(f"04_kfold/{variant}/without_1/weights.json", recipe={**SIDECAR["recipe"], "epochs": 77})(home)
    with pytest.raises(ValueError, match="without_1 and without_0 differ in recipe"):
        ModelSet.open(home, "curated", "all")
    change("04_kfold/wide/*/weights.json", trained_on="curated_noisy_kept_noisy_top_1")(home)
    assert ModelSet.open(home, "wide", "all").names == [*SINGLE, *PAIRS]
    change("04_kfold/wide/without_1/weights.json", recipe={**SIDECAR["recipe"], "epochs": 77, "loss": "lq"})(home)
    with pytest.raises(ValueError, match="without_1 and without_0 differ in recipe"):
        ModelSet.open(home, "wide", "all")


@pytest.mark.parametrize("name", [*SIDECAR])
def test_the_digest_of_settings_tells_each_of_them(home, name):
    sidecar = json.loads((home / BASE / "without_0" / "weights.json").read_text())
    assert settings_digest(sidecar | {"unseen_folds": [1]}) == settings_digest(sidecar)
    assert settings_digest(sidecar | {name: "another"}) != settings_digest(sidecar)


@pytest.mark.parametrize(
    ("variant", "need", "commands"),
    [
        (
            *("curated", "pairs"),
            [
                "papermill notebooks/04_kfold.ipynb out.ipynb -f params/esc10.yaml -p data_dir DATA -p run mine "
                "-p fold 0 -p holdout_fold 2",
                "make run NB=05 RUN=mine PROFILE=esc10 DATA=...      (all at once)",
            ],
        ),
        ("wide", "all", ["make run NB=10 RUN=mine PROFILE=esc10 DATA=...      (with wide among the candidates)"]),
        ("wide.seed_8", "single", ["make run NB=10 RUN=mine PROFILE=esc10 DATA=...      (with wide among the candid"]),
        ("wide", "single", ["make run RUN=wide PROFILE=... DATA=... (an experiment), or NB=05 RUN=mine (a training"]),
    ],
)
def test_what_is_missing_is_made_by_what_knows_its_parameters(home, variant, need, commands):
    gone = "without_0" if need == "single" else "without_0_2"
    without(f"04_kfold/{variant}/{gone}/result.json")(home)
    with pytest.raises(FileNotFoundError) as caught:
        ModelSet.open(home, variant, need, profile="esc10")
    first, *lines = str(caught.value).splitlines()
    assert first.endswith(f"{variant} is not complete, it lacks {gone}/result.json. Make them first:")
    assert [line[: len(told)] for line, told in zip(lines, commands, strict=True)] == commands


@pytest.mark.parametrize("gone", ["weights.json", "weights.safetensors", "clips.csv"])
def test_a_model_that_lost_a_file_is_to_be_deleted_since_it_would_not_be_trained_again(home, gone):
    without(f"{BASE}/without_1/{gone}")(home)
    with pytest.raises(FileNotFoundError) as caught:
        ModelSet.open(home, "curated", "single", weights=True, profile="esc10")
    told = f"it lacks without_1/{gone}. Delete what counts as done but has lost a file: without_1. Make them first:"
    assert told in str(caught.value)


def test_a_configuration_is_there_or_empty(home):
    assert ModelSet(home, "curated", 3).configuration["epochs"] == 1
    write_json(home / "04_kfold" / "new" / "without_0" / "result.json", {})
    assert ModelSet(home, "new", 3).configuration == {}
