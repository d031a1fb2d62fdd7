"""Tests of ensembles: equal compute, means between models, what members see, trainings that are not repeated."""

import copy
import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from fake_run import make_task

from lib.evaluation import folds
from lib.evaluation.window_scores import WindowScores
from lib.experiments import ensembles
from lib.experiments.ensembles import Ensembles
from lib.runs import oof
from lib.runs.run import Run
from lib.sound import windows
from lib.sound.cache import Cache
from lib.sound.features import LogMel
from lib.training import learners, models

LOGMEL = LogMel(sample_rate=8000, n_fft=512, hop_length=80, n_mels=16, fmin=20)
CLASSES = ["low", "high"]
PARAMS = {
    **{"folds": [1], "seeds": [1, 2], "ensemble_epochs": 3, "ensemble_folds": [2], "overwrite": False, "seed": 0},
    **{"arch": "test_resnet", "image_size": 0, "normalise": "set", "window_s": 0.32, "hop_s": 0.16},
    **{"loss": "bce", "batch_size": 8, "lr": 0.01, "lr_body": 0.0, "mixup": 0.0, "mask_share": 0.0},
}


def test_every_strategy_spends_the_same_passes_but_one():
    run = Run("07_ensemble", {**PARAMS, "ensemble_epochs": 180, "ensemble_folds": [3, 5, 10]}, None, None)
    table = ensembles.members(run)
    passes = table.groupby("strategy")["passes"].sum()
    assert passes.drop(["one", "swa", "long_fresh"]).between(178, 182).all() and passes["one"] == 60
    epochs = table.groupby("strategy")["epochs"].max()
    assert epochs.to_dict() == {
        **{"one": 60, "long": 180, "long_fresh": 0, "seeds": 60, "snapshots": 60, "swa": 0},
        **{"folds_3": 90, "folds_5": 45, "folds_10": 20},
    }
    assert table.groupby("strategy").size()[["folds_3", "folds_5", "folds_10"]].tolist() == [3, 5, 10]
    with pytest.raises(ValueError, match="ensemble_epochs=3 is less than 10 models can share"):
        ensembles.plan(3, [10])


def test_a_snapshot_goes_on_from_the_one_before_and_the_first_is_shared():
    strategies = ensembles.plan(9, [])
    assert [m.start for m in strategies["snapshots"]] == ["", "one", "cycle_1"]
    assert strategies["seeds"][0] == strategies["snapshots"][0] == strategies["one"][0]
    assert strategies["swa"][0].of == ("one", "cycle_1", "cycle_2") and strategies["long_fresh"][0].of == ("long",)
    members = {m.name: m for some in ensembles.plan(9, [3]).values() for m in some}
    used = {name for m in members.values() for name in (m.start, *m.of) if name}
    assert used == {"one", "long", "cycle_1", "cycle_2"}  # weights that others are made of


def test_means_between_models_worked_by_hand():
    scores = np.array([[[0.9, 0.1, 0.2]], [[0.4, 0.1, 0.8]]])  # two models, one clip
    np.testing.assert_allclose(ensembles.combine(scores, "arithmetic"), [[0.65, 0.1, 0.5]])
    np.testing.assert_allclose(ensembles.combine(scores, "geometric"), [[0.6, 0.1, 0.4]])
    ranks = ensembles.combine(scores, "rank")  # ranks 3 1 2 and 2 1 3: a tie of the first and the third
    assert ranks[0, 0] > ranks[0, 2] > ranks[0, 1]  # .65 is above .5
    np.testing.assert_allclose(ranks * 4, [[2.5, 1, 2.5]], atol=0.25)
    with pytest.raises(ValueError, match="no mean between models. There are: arithmetic, geometric, rank"):
        ensembles.combine(scores, "median")


def test_ranks_of_many_models_are_never_overruled_by_their_scores():
    rng = np.random.default_rng(0)
    for n in (2, 3, 10):
        scores = rng.random((n, 50, 6))
        ranks = scores.argsort(-1).argsort(-1).mean(0)
        found = ensembles.combine(scores, "rank")
        above = ranks[:, :, None] > ranks[:, None, :] + 1e-9
        assert (found[:, :, None] > found[:, None, :])[above].all()
        assert ((found >= 0) & (found <= 1)).all()


def test_averaged_weights_are_their_mean():
    some = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        some.append(models.WindowModel(models.Network("test_resnet", 0), 2, [0.0], [1.0]))
    states = [{name: value.clone() for name, value in model.state_dict().items()} for model in some]
    mean = ensembles.mean_weights(some).state_dict()
    for name, value in mean.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (states[0][name] + states[1][name]) / 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """24 noisy clips in three folds, two classes; every member trained once: outer fold 1, two seeds."""
    home = tmp_path_factory.mktemp("run") / "07_ensemble"
    rng, n = np.random.default_rng(0), 24
    lengths = rng.integers(20, 60, n)
    frames = [rng.normal(-50, 4, (k, 16)) for k in lengths]
    for i, clip in enumerate(frames):
        clip[:, slice(0, 6) if i % 2 else slice(10, 16)] += 20
    fnames = [f"{i:02}.wav" for i in range(n)]
    index = pd.DataFrame({"fname": fnames, "first_frame": lengths.cumsum() - lengths, "n_frames": lengths})
    stored = torch.from_numpy(np.concatenate(frames)[:, None].astype(np.float16))
    cache = Cache(LOGMEL, (stored,), index.assign(floor_db=-80.0), pd.DataFrame(), "a-cache")
    curated = pd.DataFrame({"fname": fnames, "subset": "curated", "group": [f"g{i // 2}" for i in range(n)]})
    curated["labels"] = [("low",) if i % 2 else ("high",) for i in range(n)]
    dealt = curated[["fname", "group"]].assign(fold=np.arange(n) // 2 % 3)
    run = Run("07_ensemble", PARAMS, home, home)
    task = make_task(curated, dealt, cache, CLASSES)
    return run, task, ensembles.train(run, task)


def test_no_member_saw_the_outer_fold_and_fold_members_saw_all_but_their_part(run):
    run, task, found = run
    curated, dealt = task.curated, task.folds
    outside = set(dealt.loc[dealt["fold"] != 1, "fname"])
    trained = ensembles.trained_on(run, found)
    assert len(trained) == 2 * (1 + 2 + 2 + 2 + 1 + 2)  # one, long (and fresh), seeds, cycles, swa, folds_2
    for (name, outer, _), clips in trained.items():
        assert outer == 1 and set(clips) <= outside
        if not name.startswith("folds_"):
            assert set(clips) == outside, name
    for seed in (1, 2):
        parts = [set(trained[f"folds_2_{i}", 1, seed]) for i in range(2)]
        assert parts[0] | parts[1] == outside and not parts[0] & parts[1]  # of two parts each sees one
        groups = curated.set_index("fname")["group"]
        assert not set(groups[list(parts[0])]) & set(groups[list(parts[1])])
    assert trained["folds_2_0", 1, 1] != trained["folds_2_0", 1, 2]  # a seed deals its own parts


def test_scores_are_those_of_the_outer_fold_by_seed_and_member(run):
    run, task, found = run
    dealt = task.folds
    assert found.clips.index.tolist() == sorted(dealt.loc[dealt["fold"] == 1, "fname"])
    assert {name: len(s[0]) for name, s in found.windows.items()} == {
        **{"one": 1, "long": 1, "long_fresh": 1, "seeds": 3, "snapshots": 3, "swa": 1},
        "folds_2": 2,
    }
    folder = run.folder / "folds_2_1" / "without_1" / "seed_2"
    stored, logits = oof.read_logits(folder)
    here = (stored["fold"] == 1).to_numpy()
    np.testing.assert_array_equal(found.fnames, stored["fname"][here])
    expected = models.activate(logits[here], "bce")
    np.testing.assert_array_equal(found.windows["folds_2"][1, 1], expected)
    assert sorted(set(stored["fold"])) == [1, 4]  # part 1 of two, numbered on from fold 2
    clips = oof.read(folder).table.set_index("fname")
    alone = found.singles("folds_2")[1, 1]
    np.testing.assert_allclose(alone, clips.loc[found.clips.index, CLASSES].to_numpy(), atol=1e-9)
    np.testing.assert_allclose(found.average("folds_2"), found.singles("folds_2").mean(1))


def test_members_differ_and_snapshots_share_the_first(run):
    found = run[2].windows
    np.testing.assert_array_equal(found["seeds"][:, 0], found["snapshots"][:, 0])
    for name in ("seeds", "snapshots", "folds_2"):
        assert not np.allclose(found[name][:, 0], found[name][:, 1])
    assert not np.allclose(found["one"][0], found["one"][1])  # another seed


def test_what_is_done_is_not_done_again_and_another_recipe_is_refused(run, monkeypatch):
    run, task, found = run
    monkeypatch.setattr(ensembles, "_train", lambda *_: pytest.fail("trained again"))
    again = ensembles.train(run, task)
    for name, scores in found.windows.items():
        np.testing.assert_array_equal(scores, again.windows[name])
    other = Run("07_ensemble", {**PARAMS, "lr": 0.02}, run.folder, run.folder)
    with pytest.raises(ValueError, match="lr: 0.01 there, 0.02 now"):
        ensembles.train(other, task)
    with pytest.raises(ValueError, match="fold=7"):
        ensembles.train(Run("07_ensemble", {**PARAMS, "folds": [7]}, run.folder, run.folder), task)
    many = Run("07_ensemble", {**PARAMS, "ensemble_folds": [2, 9]}, run.folder, run.folder)
    with pytest.raises(ValueError, match=r"ensemble_folds=\[2, 9\]: the \d groups outside fold 1 can't fill that many"):
        ensembles.train(many, task)  # before anything is trained


def batch_statistics(model):
    """Means and variances of all BatchNorm layers, one after the other."""
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    return torch.cat([values for layer in layers for values in (layer.running_mean, layer.running_var)])


def test_averaged_weights_are_compared_with_one_training_whose_batch_statistics_are_fresh_too(run, monkeypatch):
    run, task, found = run
    made, real = [], models.score
    monkeypatch.setattr(models, "score", lambda nets, *rest: (made.append(nets[0]), real(nets, *rest))[1])
    for name in ("swa", "long_fresh"):
        (run.folder / name / "without_1" / "seed_1" / "result.json").unlink()
    again = ensembles.train(run, task)
    for name, scores in found.windows.items():
        np.testing.assert_array_equal(scores, again.windows[name])
    fresh, average = made
    long, _ = models.load(run.folder / "long" / "without_1" / "seed_1" / "weights.safetensors")
    for (name, mine), theirs in zip(fresh.named_parameters(), long.parameters(), strict=True):
        assert torch.equal(mine, theirs), name  # the same weights
    assert not torch.allclose(batch_statistics(fresh), batch_statistics(long))
    clips, _ = task.split(1)
    cut, recipe = run.pick(windows.Windows), run.trial("long_fresh", "without_1", 1, epochs=1).pick(learners.Recipe)
    for model in (fresh, average):  # both as the one function has it, from the same windows
        expected = copy.deepcopy(model)
        batches = learners.training_batches(task.cache, clips, CLASSES, cut, recipe, 1)
        torch.optim.swa_utils.update_bn((x for x, _ in batches), expected)
        torch.testing.assert_close(batch_statistics(model), batch_statistics(expected))
    table = found.table().set_index("variant")
    row = table.loc["swa against long_fresh"]
    assert table["n_members"].astype(str)[["seeds", "swa"]].tolist() == ["3", "1"] and pd.isna(row["n_members"])
    assert row["lwlrap_diff"] == pytest.approx(table.loc["swa", "lwlrap"] - table.loc["long_fresh", "lwlrap"])
    assert table["passes"][["long", "long_fresh", "swa"]].tolist() == [3, 3, 3] and table["p_holm"].notna().sum() == 7
    says = ensembles.conclusion(found, ensembles.parts(found))
    assert "swa against long_fresh +" in says or "swa against long_fresh -" in says
    assert "nan" not in says


def test_weights_that_others_need_are_made_again_where_they_are_missing(run, tmp_path):
    """As `long` of a run that was made before anything was made of its weights."""
    run, task, found = run
    shutil.copytree(run.folder, tmp_path / "07_ensemble")
    mine = Run("07_ensemble", PARAMS, tmp_path / "07_ensemble", tmp_path / "07_ensemble")
    weights = mine.folder / "long" / "without_1" / "seed_2" / "weights.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    shutil.rmtree(mine.folder / "long_fresh")
    again = ensembles.train(mine, task)
    assert weights.read_bytes() == before
    np.testing.assert_array_equal(again.windows["long_fresh"], found.windows["long_fresh"])


def test_batch_statistics_of_averaged_weights_come_from_training_clips(run, monkeypatch):
    run, task, _ = run
    fed, real = [], learners.training_batches
    monkeypatch.setattr(learners, "training_batches", lambda *args: (fed.append(set(args[1]["fname"])), real(*args))[1])
    (run.folder / "swa" / "without_1" / "seed_2" / "result.json").unlink()
    ensembles.train(run, task)
    assert fed == [set(task.folds.loc[task.folds["fold"] != 1, "fname"])]


@pytest.fixture
def split(run):
    """Clip 02 in fold 0, though its group's other clip stays in fold 1, the outer one; and a run of its own."""
    run, task, _ = run
    dealt = task.folds.assign(fold=task.folds["fold"].where(task.folds["fname"] != "02.wav", 0))
    params = {**PARAMS, "seeds": [1]}
    return Run("07_ensemble", params, run.folder / "split", run.folder / "split"), dataclasses.replace(
        task, folds=dealt
    )


def test_a_clip_whose_group_stands_in_the_outer_fold_trains_no_member(split):
    run, task = split
    dealt = task.folds
    found = ensembles.train(run, task)
    trained = ensembles.trained_on(run, found)
    outside = set(dealt.loc[dealt["fold"] != 1, "fname"]) - {"02.wav"}
    assert set.union(*map(set, trained.values())) == outside == set(trained["swa", 1, 1])
    assert set(found.clips.index) == set(dealt.loc[dealt["fold"] == 1, "fname"])
    said = ensembles.conclusion(found, ensembles.parts(found))
    assert said.endswith(
        "Groups that are in several folds: 1 (g1). A clip does not train a model that holds out another "
        "fold of its group. Withheld: 1 clip from without_1."
    )


def test_a_planted_leak_is_caught(split, monkeypatch):
    run, task = split
    monkeypatch.setattr(folds, "training", lambda dealt, held_out: ~dealt["fold"].isin(held_out))  # a rule of clips
    beside = Run("07_ensemble", run.params, run.folder / "leaky", run.folder / "leaky")
    with pytest.raises(folds.LeakError, match="whose groups are held out"):
        ensembles.train(beside, task)


def made(n_seeds, **strategies):
    """Ensembles of 40 clips in two folds from functions (rng, n_members) -> scores of the right class."""
    rng = np.random.default_rng(0)
    fnames = np.array([f"{i:02}.wav" for i in range(40)])
    clips = pd.DataFrame({"group": fnames, "fold": np.arange(40) % 2, "labels": [("low",)] * 40}, index=fnames)
    shown = {}
    for name, (n, sharpness) in strategies.items():
        right = 0.5 + sharpness * rng.standard_normal((n_seeds, n, 40)) + 0.05
        shown[name] = np.stack([right, np.full_like(right, 0.5)], axis=-1).clip(0, 1)
    return Ensembles(clips, CLASSES, fnames, shown, dict.fromkeys(shown, 3.0), 2)


def test_tables_tell_averaging_from_single_models():
    found = made(3, one=(1, 0.1), long=(1, 0.1), seeds=(8, 0.1), folds_3=(3, 0.1), folds_5=(5, 0.1))
    table = found.table().set_index("variant")
    assert table.loc["seeds", "lwlrap"] > table.loc["seeds", "single"] + 0.05
    assert table.loc["long", "lwlrap"] == pytest.approx(table.loc["long", "single"])
    assert table.loc["long", "disagreement"] == 0 and 0.2 < table.loc["seeds", "disagreement"] < 0.6
    assert np.isnan(table.loc["long", "lwlrap_diff"]) and table.loc["seeds", "lwlrap_diff"] > 0
    parts = ensembles.parts(found).set_index("part")
    assert parts.loc["averaging, seeds", "verdict"] == "kept"
    for some in (parts, table, ensembles.orders(found, ["seeds", "folds_3"])):
        assert (some["n_seeds"] == 3).all()  # members are no further seeds
    assert parts.loc["more data, folds_3", "verdict"] == "unclear"  # the same members
    assert "data and passes, folds_5" in parts.index and "more data, folds_5" not in parts.index
    assert ensembles.verdict(found) in ("kept", "unclear")
    says = ensembles.conclusion(found, ensembles.parts(found))
    assert f"seeds {table.loc['seeds', 'lwlrap']:.3f}" in says
    told = ensembles.result_metrics(found, ensembles.parts(found))
    assert told["n"] == 40 and told["part_averaging_seeds_lwlrap_diff"] > 0
    json.dumps({name: float(value) for name, value in told.items()})


def test_one_seed_is_a_screening():
    found = made(1, one=(1, 0.1), long=(1, 0.1), seeds=(3, 0.1), folds_3=(3, 0.1))
    assert not found.decides
    assert "Each interval holds alone, at its own level" in ensembles.conclusion(found, ensembles.parts(found))
    for table in (found.table(), ensembles.parts(found), ensembles.orders(found, ["seeds"])):
        assert set(table["verdict"].dropna()) == {"screened"}
    assert ensembles.verdict(found) is None
    assert ensembles.conclusion(found, ensembles.parts(found)).endswith("no verdict is drawn from it.")


def test_some_folds_are_a_screening():
    found = made(3, one=(1, 0.1), long=(1, 0.1))
    assert found.decides and not dataclasses.replace(found, n_folds=3).decides


def test_members_that_scored_other_windows_are_refused():
    read = {("long", 0, 1): WindowScores(pd.DataFrame({"fname": ["a", "a", "b"]}), np.zeros((3, 2)))}
    assert ensembles._joined(read, "long", [0], 1, np.array(["a", "a", "b"])).shape == (3, 2)
    with pytest.raises(ValueError, match="long scored other windows than the first member"):
        ensembles._joined(read, "long", [0], 1, np.array(["a", "b", "b"]))


def test_orders_of_means(run):
    table = ensembles.orders(run[2], ["seeds"])
    assert set(table["variant"]) == {
        *("geometric, after pooling", "geometric, before pooling", "rank, after pooling", "rank, before pooling"),
    }
