"""Tests of training_sets: what comes of the parameters, at equal compute, and that a planted leak is caught."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fake_run import make_task

from lib.evaluation import folds
from lib.experiments import curation, training_sets
from lib.files import digest, write_json
from lib.runs import oof
from lib.runs.run import Run
from lib.sound import windows
from lib.sound.cache import Cache
from lib.sound.features import LogMel
from lib.training import learners, models
from lib.training.batches import Phases
from lib.training.learners import Recipe

CLASSES = ["low", "high"]
LOGMEL = LogMel(sample_rate=8000, n_fft=512, hop_length=80, n_mels=16, fmin=20)  # 100 frames a second
CUT = windows.Windows(window_s=0.2, hop_s=0.1)
RECIPE = Recipe(loss="bce", epochs=6, batch_size=4, lr=0.01, lr_body=0.0, mixup=0.4, mask_share=0.0)
N = 12  # curated clips c00 ... in folds 0, 1, 2; noisy clips n00 ... n05; each of 100 frames


@pytest.fixture
def store():
    names = [f"c{i:02}" for i in range(N)] + [f"n{i:02}" for i in range(6)]
    index = pd.DataFrame({"fname": names, "first_frame": np.arange(len(names)) * 100, "n_frames": 100})
    frames = np.random.default_rng(0).normal(-50, 10, (len(names) * 100, 1, 16)).astype(np.float16)
    return Cache(LOGMEL, (torch.from_numpy(frames),), index.assign(floor_db=-80.0), pd.DataFrame(), "a-name")


@pytest.fixture
def clips():
    names = [f"c{i:02}" for i in range(N)] + [f"n{i:02}" for i in range(6)]
    table = pd.DataFrame({"fname": names, "subset": ["curated"] * N + ["noisy"] * 6, "duration_s": 1.0})
    table["group"] = [f"g{name}" for name in names]
    table.loc[table["fname"] == "n05", "group"] = "gc00"  # a noisy clip that is related to a clip of fold 0
    table["labels"] = [("low",) if i % 2 else ("low", "high") for i in range(len(names))]
    return table


@pytest.fixture
def dealt(clips):
    return clips[["fname", "group"]][:N].assign(fold=np.arange(N) % 3)


@pytest.fixture
def run(tmp_path, clips, dealt, monkeypatch):
    """A function that makes a run of 04 with these parameters, beside what 05 has selected for fold 0."""
    monkeypatch.setattr(Run, "home", property(lambda self: tmp_path))
    selected = tmp_path / "05_curation" / "select"
    fold = dict(zip(dealt["fname"], dealt["fold"], strict=True))
    rows, heard = [], []
    for clip in clips[clips["group"].map(dict(zip(dealt["group"], dealt["fold"], strict=True))) != 0].itertuples():
        judge = f"without_0_{fold[clip.fname]}" if clip.fname in fold else "without_0_1 without_0_2"
        for start in (0.0, 0.1, 0.5):  # the first two become a span; c01 and n01 keep nothing
            kept = start < 0.3 and clip.fname not in ("c01", "n01")
            rows.append([clip.subset, clip.fname, start, start + 0.2, ",".join(clip.labels), kept, "low", judge])
        heard.append([clip.subset, clip.fname, "low", True, 0.8 if clip.fname != "n02" else 0.2, 0.9, judge])
        heard.append([clip.subset, clip.fname, "high", len(clip.labels) == 2, 0.6, 0.95, judge])
    columns = ["subset", "fname", "window_start_s", "window_end_s", "labels", "kept", "confirmed", "judged_by"]
    write(pd.DataFrame(rows, columns=columns), selected / "top_1" / "without_0" / "kept_windows.csv")
    columns = ["subset", "fname", "class", "listed", "mean", "best", "judged_by"]
    write(pd.DataFrame(heard, columns=columns), selected / "heard" / "without_0" / "heard.csv")
    write_json(selected / "configuration.json", {"folds": folds.digest(dealt)})
    write_json(selected / "result.json", {})
    plain = {
        "run": "test",
        "profile": "demo",
        "data_dir": "demo",
        "train_set": "curated",
        "train_windows": "all",
        "rule": "top_1",
        "ignore_missing": False,
        "loss": "bce",
    }

    def make(model="without_0", **params):
        folder = tmp_path / "04_kfold" / "x" / model
        return Run("04_kfold", {**plain, "window_s": 0.2, "trim_train_db": 0.0, **params}, folder, folder.parent)

    return make


def write(table, path):
    path.parent.mkdir(parents=True)
    table.to_csv(path, index=False)


def made(run, store, clips, dealt, **params):
    return training_sets.make(run(**params), make_task(clips, dealt, store, CLASSES))


def target(chosen, fname):
    return chosen.targets[list(chosen.rows["fname"].unique()).index(fname)].tolist()


def test_the_default_is_the_curated_clips_as_they_are(run, store, clips, dealt):
    assert made(run, store, clips, dealt) is None
    assert training_sets.sources(run()) == {}


def test_kept_windows_are_spans_whose_unconfirmed_labels_are_not_known(run, store, clips, dealt):
    found = made(run, store, clips, dealt, train_windows="kept")
    assert found.rows["fname"].tolist() == [f"c{i:02}" for i in range(N) if i % 3 and i != 1]
    row = found.rows.iloc[0]  # c02: 0 to 0.3 s of a clip that starts at frame 200
    assert (row["first_frame"], row["n_frames"]) == (200, 30)
    assert target(found, "c05") == [1, 0]
    np.testing.assert_equal(target(found, "c02"), [1, np.nan])
    assert set(training_sets.sources(run(train_windows="kept"))) == {"curation"}


def test_another_selection_is_another_configuration(run):
    kept = run(train_windows="kept")
    before = training_sets.sources(kept)
    assert training_sets.sources(kept) == before
    write_json(kept.home / "05_curation" / "select" / "configuration.json", {"folds": "others", "gate_db": 20.0})
    assert training_sets.sources(kept) != before


@pytest.mark.parametrize(
    ("params", "fnames"),
    [
        ({"train_set": "curated_noisy"}, "c01 c02 c04 c05 c07 c08 c10 c11 n00 n01 n02 n03 n04"),
        ({"train_set": "curated_noisy", "train_windows": "kept"}, "c02 c04 c05 c07 c08 c10 c11 n00 n02 n03 n04"),
        (
            {"train_set": "curated_noisy", "train_windows": "kept_noisy"},
            "c01 c02 c04 c05 c07 c08 c10 c11 n00 n02 n03 n04",
        ),
        ({"train_set": "pseudo"}, "c01 c02 c04 c05 c07 c08 c10 c11 n00 n01 n02 n03 n04"),
        ({"train_set": "fewer_passes"}, "c01 c02 c04 c05 c07 c08 c10 c11"),
        ({"ignore_missing": True}, "c01 c02 c04 c05 c07 c08 c10 c11"),
    ],
)
def test_which_clips_train(run, store, clips, dealt, params, fnames):
    """Never those of fold 0, nor n05, which is related to one of them."""
    found = made(run, store, clips, dealt, **params)
    assert found.rows["fname"].tolist() == fnames.split()
    assert len(found.targets) == len(fnames.split())


def test_clips_of_a_group_in_two_folds_train_neither_of_their_models(run, store, clips, dealt):
    clips.loc[clips["fname"].isin(["c01", "c02", "n04"]), "group"] = "of folds 1 and 2"
    dealt = clips[["fname", "group"]][:N].assign(fold=dealt["fold"])
    trained = {}
    for fold in range(3):
        found = made(run, store, clips, dealt, model=f"without_{fold}", train_set="curated_noisy")
        trained[fold] = set(found.rows["fname"])
        folds.assert_no_leak(dealt, found.rows["fname"], {fold}, groups=found.groups)
    assert {"c01", "c02", "n04"} <= trained[0]
    assert not {"c01", "c02", "n04"} & (trained[1] | trained[2])
    assert {"c00", "n05"} <= trained[1] & trained[2] and not {"c00", "n05"} & trained[0]


def test_pseudo_labels_are_what_judges_hear_on_average(run, store, clips, dealt):
    found = made(run, store, clips, dealt, train_set="pseudo")
    assert target(found, "n00") == [1, 1]
    assert target(found, "n02") == [0, 1]  # low scores .2
    assert target(found, "n01") == [1, 1]  # high is not listed
    assert target(found, "c01") == [1, 0]  # curated labels stay
    assert set(found.judges["fname"]) == {f"n{i:02}" for i in range(5)}


def test_missing_labels_are_not_known(run, store, clips, dealt):
    found = made(run, store, clips, dealt, ignore_missing=True)
    np.testing.assert_equal(target(found, "c01"), [1, np.nan])
    assert target(found, "c02") == [1, 1]


def test_contradictions_are_refused(run, store, clips, dealt):
    for train_set in ("curated", "pseudo"):
        with pytest.raises(ValueError, match="no labels of noisy clips to keep windows for"):
            made(run, store, clips, dealt, train_set=train_set, train_windows="kept_noisy")
    with pytest.raises(ValueError, match="without_0_1 would train on windows whose judges saw one of its folds"):
        made(run, store, clips, dealt, model="without_0_1", train_windows="kept")
    assert made(run, store, clips, dealt, model="without_0_1", train_set="curated_noisy")  # nothing was judged
    with pytest.raises(FileNotFoundError, match="Make it: 05_curation, -p rules top_7 -p part select"):
        made(run, store, clips, dealt, train_windows="kept", rule="top_7")
    with pytest.raises(ValueError, match="exactly one label there, so no class can be unknown"):
        made(run, store, clips, dealt, ignore_missing=True, loss="ce")
    with pytest.raises(ValueError, match="selected on folds"):
        made(run, store, clips, dealt.assign(fold=(dealt["fold"] + 1) % 3), train_windows="kept")
    (Path(run().home) / "05_curation" / "select" / "result.json").unlink()
    with pytest.raises(FileNotFoundError, match="-p part select"):
        training_sets.sources(run(train_windows="kept"))


def test_a_set_without_noisy_clips_trains_on_none(run, store, clips, dealt):
    curated = clips[clips["subset"] == "curated"]
    for train_set in ("curated_noisy", "warm_up", "pseudo", "fewer_passes"):
        with pytest.raises(ValueError, match=f"train_set='{train_set}', but the data set holds no usable noisy clip"):
            made(run, store, curated, dealt, train_set=train_set)


def test_a_selection_that_leaves_nothing_is_told(run, store, clips, dealt):
    path = Path(run().home) / "05_curation" / "select" / "top_1" / "without_0" / "kept_windows.csv"
    pd.read_csv(path).assign(kept=False).to_csv(path, index=False)
    for train_set in ("curated", "warm_up"):
        with pytest.raises(ValueError, match="leaves without_0 no clip to train on. Take a rule that keeps more"):
            made(run, store, clips, dealt, train_set=train_set, train_windows="kept")
    assert len(made(run, store, clips, dealt, train_set="curated_noisy", train_windows="kept_noisy").targets) == 8


def test_a_selection_that_was_changed_since_is_refused(run, store, clips, dealt):
    selected = Path(run().home) / "05_curation" / "select"
    path = selected / "top_1" / "without_0" / "kept_windows.csv"
    write_json(selected / "digests.json", {"top_1/without_0/kept_windows.csv": digest(path.read_bytes())})
    made(run, store, clips, dealt, train_windows="kept")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match=r"kept_windows.csv was changed since 05 wrote it. Select again"):
        made(run, store, clips, dealt, train_windows="kept")


def test_classes_that_are_numbers_stay_names(tmp_path):
    table = pd.DataFrame({"fname": ["1"], "labels": ["1"], "confirmed": ["3"], "class": ["1"], "best": [0.5]})
    table.to_csv(tmp_path / "heard.csv", index=False)
    read = training_sets._read(tmp_path, "heard.csv")
    assert read.loc[0, ["fname", "labels", "confirmed", "class", "best"]].tolist() == ["1", "1", "3", "1", 0.5]


@pytest.mark.parametrize(
    "params",
    [{"train_windows": "kept"}, {"train_set": "curated_noisy"}, {"train_set": "pseudo"}, {"train_set": "warm_up"}],
)
def test_every_training_set_costs_the_same(run, store, clips, dealt, params):
    chosen = made(run, store, clips, dealt, **params)
    training, recipe = learners.feed(store, chosen, 8, CUT, RECIPE, seed=1)
    shown = 0
    for epoch in range(recipe.epochs):
        training.epoch = epoch
        shown += sum(len(x) for x, _ in training)
    assert abs(shown - 6 * 8) <= 0.5 * max(len(chosen.targets), 8)
    assert recipe.epochs == {"kept": 7, "curated_noisy": 4, "pseudo": 4, "warm_up": 8}[list(params.values())[0]]


@pytest.mark.parametrize("train_windows", ["all", "kept", "kept_noisy"])
def test_the_control_of_noisy_clips_has_as_many_curated_passes(run, store, clips, dealt, train_windows):
    """8 curated and 5 noisy clips: 6 * 8 / 13 epochs of both; as many of the curated ones alone, and no more."""
    both = made(run, store, clips, dealt, train_set="curated_noisy", train_windows=train_windows)
    alone = made(run, store, clips, dealt, train_set="fewer_passes", train_windows=train_windows)
    n = alone.rows["fname"].nunique()
    assert set(alone.rows["fname"]) == {name for name in both.rows["fname"] if name.startswith("c")}
    np.testing.assert_array_equal(alone.targets, both.targets[:n])
    for epochs in (6, 40, 120):
        recipe = dataclasses.replace(RECIPE, epochs=epochs)
        (_, with_noisy), (training, control) = (learners.feed(store, c, 8, CUT, recipe, 1) for c in (both, alone))
        assert control.epochs == with_noisy.epochs == round(epochs * 8 / len(both.targets))
        assert sum(len(x) for x, _ in training) == n  # windows of an epoch: one a curated clip


def test_a_warm_up_shows_noisy_clips_first(run, store, clips, dealt):
    chosen = made(run, store, clips, dealt, train_set="warm_up", train_windows="kept_noisy")
    training, recipe = learners.feed(store, chosen, 8, CUT, RECIPE, seed=1)
    assert isinstance(training, Phases) and training.n_first == 6  # 6 * 8 / 2 windows of 4 clips
    for epoch in range(recipe.epochs):
        training.epoch = epoch
        n = sum(len(x) for x, _ in training)
        assert n == (4 if epoch < 6 else 8)
    assert len(training.fnames) == len(training.targets) == 12


def fit(part, run, store, clips, dealt, chosen):
    """Train without fold 0 and save; the clips of the fit."""
    network, recipe = models.Network("test_resnet", 0), dataclasses.replace(RECIPE, epochs=1)
    what = make_task(clips, dealt, store, CLASSES), "without_0", network, CUT, recipe, 1
    fitted = learners.train_fold(*what, checkpoint=part / "checkpoint.safetensors", training_set=chosen)
    oof.save(part, fitted)
    return fitted.facts["clips"]


def test_the_control_trains_on_no_noisy_clip(tmp_path, run, store, clips, dealt):
    told = fit(tmp_path / "part", run, store, clips, dealt, made(run, store, clips, dealt, train_set="fewer_passes"))
    assert told["train"] == ["c01", "c02", "c04", "c05", "c07", "c08", "c10", "c11"]
    assert models.sidecar(tmp_path / "part" / "weights.safetensors")["trained_on"] == "fewer_passes_all"


@pytest.mark.parametrize("train_set", ["curated_noisy", "warm_up"])
def test_a_model_is_trained_on_what_was_chosen(tmp_path, run, store, clips, dealt, train_set):
    chosen = made(run, store, clips, dealt, train_set=train_set, train_windows="kept")
    told = fit(tmp_path / "part", run, store, clips, dealt, chosen)
    assert told["train"] == ["c02", "c04", "c05", "c07", "c08", "c10", "c11", "n00", "n02", "n03", "n04"]
    assert told["scored"] == ["c00", "c03", "c06", "c09"]
    sidecar = models.sidecar(tmp_path / "part" / "weights.safetensors")
    assert sidecar["trained_on"] == f"{train_set}_kept_top_1"
    assert np.isfinite(np.load(tmp_path / "part" / "oof_windows.npz")["logits"]).all()


# a leak planted in retraining; those of models, judges and rules are in test_judging


@pytest.mark.parametrize(
    "plant",
    [
        lambda c: dataclasses.replace(c, judges=c.judges.assign(judged_by="without_1_2")),  # judges that saw fold 0
        lambda c: dataclasses.replace(c, judges=c.judges.replace("without_0_2", "without_0")),  # that saw the clip
        lambda c: dataclasses.replace(c, judges=c.judges.assign(judged_by="")),  # nobody knows
        lambda c: dataclasses.replace(c, rows=c.rows.replace("c02", "c00")),  # a clip of fold 0
        lambda c: dataclasses.replace(c, rows=c.rows.replace("n00", "n05")),  # a noisy clip related to one
        lambda c: dataclasses.replace(c, groups=c.groups | {"n00": "gc00"}),
        lambda c: dataclasses.replace(c.warm_up, warm_up=dataclasses.replace(c, rows=c.rows.replace("c02", "c00"))),
    ],
)
def test_a_leak_into_retraining_is_caught(tmp_path, run, store, clips, dealt, plant):
    chosen = made(run, store, clips, dealt, train_set="warm_up", train_windows="kept")
    chosen = plant(dataclasses.replace(chosen + chosen.warm_up, warm_up=chosen.warm_up))
    with pytest.raises(folds.LeakError):
        fit(tmp_path / "part", run, store, clips, dealt, chosen)
    assert not (tmp_path / "part").exists()  # nothing was trained


def test_a_selection_for_another_fold_is_caught(tmp_path, run, store, clips, dealt):
    """What was kept for fold 0 may not train the model that is read on fold 1, wherever the file lies."""
    selected = Path(run().home) / "05_curation" / "select"
    for folder in ("top_1", "heard"):
        (selected / folder / "without_0").rename(selected / folder / "without_1")
    chosen = made(run, store, clips, dealt, model="without_1", train_windows="kept")
    fnames, groups, judges = chosen.provenance
    with pytest.raises(folds.LeakError, match="judged by without_0_2"):
        folds.assert_no_leak(dealt, fnames, {1}, groups=groups, judges=judges)


def test_names_of_judges_reach_the_check_from_the_table_itself(store, clips, dealt):
    """From scores to training set: the names that `curation` gives are those that retraining checks."""
    own = clips[clips["fname"].isin(["c01", "c02"])]
    table = pd.DataFrame({"fname": ["c01", "c02"], "window_start_s": 0.0, "window_end_s": 0.2, "silent": False})
    said = [("without_0_1", np.array([0]), np.ones((1, 2))), ("without_0_2", np.array([1]), np.ones((1, 2)))]
    kept = curation.select(curation.gather(own, table, tuple(CLASSES), said), "threshold")
    chosen = training_sets.from_kept("kept", make_task(clips, dealt, store, CLASSES), own, kept, 0.2)
    fnames, groups, judges = chosen.provenance
    folds.assert_no_leak(dealt, fnames, {0}, groups=groups, judges=judges)
    with pytest.raises(folds.LeakError, match="c02"):
        folds.assert_no_leak(dealt, ["c02"], {1}, groups=groups, judges=judges)
    assert folds.pair_models(3, 0) == sorted(judges["judged_by"])
