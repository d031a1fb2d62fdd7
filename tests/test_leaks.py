"""Tests of leaks and of the gap between what is reported and what is reached."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from fake_run import make_task

from lib.evaluation import folds, metrics
from lib.experiments import curation, judging, leaks, truth
from lib.files import write_json
from lib.runs import oof
from lib.runs import run as runs
from lib.runs.run import Run
from lib.sound import windows
from lib.sound.cache import Cache
from lib.sound.features import LogMel
from lib.training import learners, models
from lib.training.models import activate

CLASSES = ("low", "high")
LOGMEL = LogMel(sample_rate=8000, n_fft=512, hop_length=80, n_mels=16, fmin=20)  # 100 frames a second
PARAMS = {
    **{
        "run": "test",
        "part": "compare",
        "profile": "demo",
        "data_dir": "demo",
        "seed": 1,
        "overwrite": False,
        "folds": [],
    },
    **{"window_s": 0.2, "hop_s": 0.1, "arch": "test_resnet", "image_size": 0, "loss": "bce", "epochs": 1},
    **{"batch_size": 8, "lr": 0.01, "lr_body": 0.0, "mixup": 0.0, "mask_share": 0.0},
}


def test_a_gap_by_hand_and_its_interval():
    right, wrong = np.array([[0.9, 0.1]]), np.array([[0.1, 0.9]])
    truth = np.array([[1, 0]])
    one = np.repeat(truth, 40, 0), np.repeat(right, 40, 0), np.arange(40)
    other = np.repeat(truth, 40, 0), np.concatenate([np.repeat(right, 20, 0), np.repeat(wrong, 20, 0)]), np.arange(40)
    found = metrics.gap(one, other)
    assert found["gap"] == pytest.approx(1 - 0.75)
    assert 0.17 < found["gap_low"] < 0.21 and 0.29 < found["gap_high"] < 0.33  # 1.96 * .25 / sqrt(40) = .077
    assert metrics.gap(one, one) == {"gap": 0, "gap_low": 0, "gap_high": 0}  # the same groups are drawn on both sides
    shifted = *other[:2], np.arange(40) + 100
    assert metrics.gap(one, shifted)["gap"] == pytest.approx(0.25)


def stored(part):
    """The arrays of a part's window scores."""
    return dict(np.load(part / "oof_windows.npz"))


@pytest.fixture
def world(tmp_path, monkeypatch):
    return make_world(tmp_path, monkeypatch)


@pytest.fixture
def noisy_world(tmp_path, monkeypatch):
    """With six noisy clips, one of them related to a clip of fold 0, and models that were trained on them too."""
    world = make_world(tmp_path, monkeypatch, n_noisy=6)
    for g in range(3):
        torch.manual_seed(g)
        network = models.WindowModel(models.Network("test_resnet", 0), 2, [-50.0], [10.0])
        torch.nn.init.normal_(network.head[1].weight)  # scores that differ, as those of a trained one
        part = tmp_path / "04_kfold" / "curated_noisy" / f"without_{g}"
        about = {
            "classes": CLASSES,
            "unseen_folds": [g],
            "recipe": {"loss": "bce"},
            "folds": folds.digest(world.task.folds),
        }
        models.save(part / "weights.safetensors", network, about)
        write_json(part / "result.json", {})
    return world


def make_world(tmp_path, monkeypatch, n_noisy=0):
    """18 clips in three folds, 04's models of them (untrained but for what they say), and a run of 05."""
    monkeypatch.setattr(Run, "home", property(lambda self: tmp_path))
    names, rng = [f"c{i:02}" for i in range(18)] + [f"n{i:02}" for i in range(n_noisy)], np.random.default_rng(0)
    n = len(names)
    index = pd.DataFrame({"fname": names, "part": 0, "first_frame": np.arange(n) * 60, "n_frames": 60})
    frames = torch.from_numpy(rng.normal(-50, 10, (n * 60, 1, 16)).astype(np.float16))
    store = Cache(LOGMEL, (frames,), index.assign(floor_db=-80.0), pd.DataFrame(), "a-name")
    clips = pd.DataFrame({"fname": names, "subset": "curated", "group": names, "duration_s": 0.6})
    clips.loc[18:, "subset"] = "noisy"
    clips["labels"] = [(CLASSES[i // 3 % 2],) for i in range(n)]
    clips["group"] = clips["group"].replace("n05", "c00")
    curated = clips[:18]
    dealt = curated[["fname", "group"]].assign(fold=np.arange(18) % 3)
    cut = windows.Windows(0.2, 0.1)
    task = make_task(clips, dealt, store, CLASSES)
    every = judging.roll(task, cut, 100.0)
    table = every[every["fname"].isin(curated["fname"])].reset_index(drop=True)
    judges = tmp_path / "04_kfold" / "curated"
    network = models.WindowModel(models.Network("test_resnet", 0), 2, [-50.0], [10.0])
    fold = table.merge(dealt, on="fname")["fold"]
    for name in ["without_0", "without_1", "without_2", *folds.pair_models(3)]:
        logits = rng.normal(0, 2, (len(table), 2))
        mine = fold.isin(folds.unseen(name)).to_numpy()
        oof.write_windows(judges / name, table[mine].assign(fold=fold[mine]), logits[mine], list(CLASSES))
        sidecar = {"classes": CLASSES, "unseen_folds": sorted(folds.unseen(name)), "recipe": {"loss": "bce"}}
        models.save(judges / name / "weights.safetensors", network, sidecar | {"folds": folds.digest(dealt)})
        write_json(judges / name / "result.json", {})
    evidences = judging.all_evidence(tmp_path / "noisy", judges, task, every, cut)
    folder = tmp_path / "05_curation" / "compare"
    run = Run("05_curation", PARAMS, folder, folder)
    return leaks.Demonstrator(run, task, judges, evidences, every)


def test_the_demonstration_is_trained_once_and_told_whole(world, tmp_path, monkeypatch):
    world.train()
    trained = sorted(
        path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.glob("05_curation/**/result.json")
    )
    sins = ("self_judged", "split_by_window")
    assert trained == [f"05_curation/compare/{sin}/without_{g}/seed_1" for sin in sins for g in range(3)]
    monkeypatch.setattr(learners, "fit", None)  # a second training would fail
    world.train()
    effects = world.effects(tmp_path / "not there")
    assert effects["sin"].tolist() == list("aabbc")
    assert effects["honest"].tolist() == [False, True, False, True, False]
    assert effects["n_reached"].tolist() == [18] * 5  # every clip once
    assert effects["n_reported"].tolist()[1] == effects["n_reported"].tolist()[3] == 18
    assert 18 <= effects["n_reported"][0] <= 36  # a clip twice, where one of its windows was held back
    assert effects["n_reported"][2] < 18  # clips that keep nothing do not report
    kept = world.kept()
    assert kept["judged_by"].tolist() == ["itself", "others"] and (kept["n"] == 3 * 12 * 5).all()  # windows, one label
    shares = [curation.select(world.evidences[g], "top_1").query("subset == 'curated'")["kept"] for g in range(3)]
    assert kept["share"][1] == pytest.approx(pd.concat(shares).mean())
    assert (kept["share_low"] < kept["share"]).all() and (kept["share"] < kept["share_high"]).all()
    told = leaks.says(world.tables(tmp_path / "not there", None))
    assert told.count("reports") == 4 and f"{kept['share'][0]:.0%} judged by itself" in told
    assert "(d) is left out: 04 has not trained kept_curated without each fold. (e) is left out: the set has no" in told
    assert world.differences(tmp_path / "not there")["sin"].tolist() == ["a", "a", "b"]
    whole = world.effects(tmp_path / "04_kfold" / "curated")  # any models of 04 will do here
    assert whole["way"].tolist()[-2:] == [
        "trained on what others kept",
        "validated on kept windows, a window at a time",
    ]
    assert world.differences(tmp_path / "04_kfold" / "curated")["sin"].tolist() == ["a", "a", "b", "c", "d", "d"]
    told = leaks.says(world.tables(tmp_path / "04_kfold" / "curated", None))
    assert told.count("reports") == 5 and "(d)" not in told and "(e) is left out" in told


def test_the_write_ups_90_is_that_of_kept_windows_of_the_held_out_fold_a_window_at_a_time(world, tmp_path):
    """The windows of fold g that without_g_(g + 1), which never saw them, keeps; scored by the models of fold g."""
    world.train()
    truth = world.clips.set_index("fname")["labels"].map(lambda names: CLASSES.index(names[0]))
    found = []
    for g in range(3):
        judge, model = (stored(world.judges / folds.model_name(*m)) for m in ((g, (g + 1) % 3), (g,)))
        mine = judge["fold"] == g
        keys = zip(judge["fname"][mine], judge["window_start_s"][mine], judge["logits"][mine], strict=True)
        kept = {(fname, start) for fname, start, logits in keys if logits.argmax() == truth[fname]}
        for fname, start, logits in zip(model["fname"], model["window_start_s"], model["logits"], strict=True):
            if (fname, start) in kept:
                found.append((np.eye(2)[truth[fname]], logits))
    targets, logits = map(np.stack, zip(*found, strict=True))
    effects = world.effects(world.judges).set_index("way")  # any models of 04 will do here
    row = effects.loc["validated on kept windows, a window at a time"]
    assert row["reported"] == pytest.approx(metrics.lwlrap(targets, logits)) and row["n_reported"] == len(found) > 20
    honest = effects.loc["trained on what others kept"]
    assert row["reached"] == honest["reached"] and row["n_reached"] == 18 and not row["honest"]
    assert row["gap"] == pytest.approx(row["reported"] - row["reached"])
    every, reached = world.differences(world.judges).query("sin == 'd'")["gap"]
    arrays = [stored(world.judges / f"without_{g}") for g in range(3)]
    all_targets = np.eye(2)[np.concatenate([truth[a["fname"]] for a in arrays])]
    assert reached == pytest.approx(row["gap"])
    expected = metrics.lwlrap(all_targets, np.concatenate([a["logits"] for a in arrays]))
    assert every == pytest.approx(row["reported"] - expected)


def test_the_first_attempt_judges_the_clips_that_its_judge_was_trained_on(noisy_world):
    world, seen = noisy_world, {}
    world._fit = lambda trial, g, chosen, n_base, reported: seen.update(chosen=chosen, reported=reported, n=n_base)
    world._first_attempt(world._trial("first_attempt", 0), 0)
    found = world.self_evidence(0, "first_attempt")
    own = {f"c{i:02}" for i in range(18) if i % 3} | {f"n{i:02}" for i in range(5)}  # n05 is related to fold 0
    assert set(found.clips["fname"]) == own and set(found.clips["judged_by"]) == {"without_0"}
    kept = curation.select(found, "top_1").query("kept")
    kept = set(zip(kept["fname"], (kept["window_start_s"] * 100).round().astype(int), strict=True))
    rows, reported, first = (
        seen["chosen"].rows,
        seen["reported"],
        world.task.cache.index.set_index("fname")["first_frame"],
    )
    trained = set(zip(rows["fname"], rows["first_frame"] - first[rows["fname"]].to_numpy(), strict=True))
    held = set(zip(reported["fname"], reported["start_frame"], strict=True))
    assert trained | held == kept and not trained & held and (rows["n_frames"] == 20).all()
    assert {fname[0] for fname in set(rows["fname"]) & set(reported["fname"])} == {"c", "n"}  # on both sides
    assert seen["n"] == 12  # as 04 counts its epochs


def test_the_first_attempt_is_told_beside_judges_that_saw_no_noisy_clip(noisy_world, tmp_path):
    world = noisy_world
    world.train()
    tables = world.tables(world.judges, None)  # any models of 04 will do here
    (row,) = tables["leaks"].query("sin == 'e'").itertuples()
    assert row.way == "noisy clips judged by the model that trained on them" and not row.honest
    assert row.n_reached == 18 and np.isfinite([row.reported, row.reached, row.gap]).all()
    kept = tables["judged_by"]
    assert kept["subset"].tolist() == ["curated"] * 3 + ["noisy"] * 2
    assert kept.loc[kept["subset"] == "noisy", "judged_by"].tolist() == ["others", leaks.FIRST]
    assert kept["n"].tolist() == [180] * 3 + [5 * (5 + 6 + 6)] * 2  # windows; n05 not for outer fold 0
    for who, some in (
        ("others", world.evidences),
        (leaks.FIRST, {g: world.self_evidence(g, "first_attempt") for g in range(3)}),
    ):
        shares = pd.concat([curation.select(found, "top_1") for found in some.values()]).query("subset == 'noisy'")[
            "kept"
        ]
        assert kept.set_index(["subset", "judged_by"]).loc[("noisy", who), "share"] == pytest.approx(shares.mean())
    told = leaks.says(tables)
    assert "noisy clips judged by the model that trained on them reports" in told and "left out" not in told
    assert "of noisy windows " in told
    assert tables["leak_effects"]["sin"].tolist()[-1] == "e"
    shutil.copytree(world.judges, world.judges.with_name("kept_curated_kept_noisy"))
    effects = world.effects(world.judges)
    assert effects["sin"].tolist() == list("aabbccdee") and effects["honest"].tolist()[-1]
    (tmp_path / "04_kfold" / "curated_noisy" / "without_1" / "result.json").unlink()
    assert "e" not in set(world.effects(world.judges)["sin"])
    assert "(e) is left out: 04 has not trained curated_noisy without fold 1." in leaks.says(
        world.tables(world.judges, None)
    )


def test_a_noisy_judge_that_saw_the_outer_fold_is_refused(noisy_world, tmp_path):
    part = tmp_path / "04_kfold" / "curated_noisy"
    (part / "without_0").rename(part / "kept")
    shutil.copytree(part / "without_1", part / "without_0")
    with pytest.raises(folds.LeakError, match="without_0 is no model without fold 0 of these folds"):
        noisy_world._first_attempt(noisy_world._trial("first_attempt", 0), 0)


def test_by_known_truth_the_first_attempt_is_told_of_noisy_windows_and_labels(noisy_world):
    noisy_world.train()
    fnames = [*noisy_world.clips["fname"], *noisy_world.noisy["fname"]]
    spans = pd.DataFrame({"fname": fnames, "class": "low", "start_s": 0.0, "end_s": 0.6})
    known = truth.Truth(spans, pd.Series([("low",)] * len(fnames), index=fnames))
    table = noisy_world.judging(known)
    assert set(table.loc[table["judged_by"] == leaks.FIRST, "what"]) == {
        *("curated windows", "noisy windows", "noisy labels"),
    }
    mine = table.set_index(["judged_by", "what"]).loc[(leaks.FIRST, "noisy windows")]
    some = [noisy_world.self_evidence(g, "first_attempt") for g in range(3)]
    expected = truth.rates(known, some, "top_1").set_index("what").loc["noisy windows"]
    assert mine["precision"] == expected["precision"] and mine["n"] == expected["n"] == 85


@pytest.mark.parametrize("n_folds", [3, 6])
def test_a_fold_in_all_but_the_outer_one_is_held_out_by_window(world, n_folds):
    """As many windows as the pair model's fold would hold: one part of n_folds - 1."""
    world.n_folds, n_held = n_folds, []
    world._fit = lambda trial, g, chosen, n_base, reported: n_held.append(len(reported))
    for seed in range(20):
        world._split_by_window(world.run.trial("split_by_window", "without_0", seed), 0)
    assert sum(n_held) / (20 * 12 * 5) == pytest.approx(1 / (n_folds - 1), abs=0.04)


def test_windows_of_a_clip_stand_on_both_sides_but_never_the_same_window(world):
    seen = {}
    world._fit = lambda trial, g, chosen, n_base, reported: seen.update(chosen=chosen, reported=reported, n=n_base)
    world._split_by_window(world._trial("split_by_window", 0), 0)
    rows, reported = seen["chosen"].rows, seen["reported"]
    trained = set(zip(rows["fname"], rows["first_frame"], strict=True))
    held = set(zip(reported["fname"], reported["first_frame"] + reported["start_frame"], strict=True))
    assert not trained & held
    assert len(trained) + len(held) == 12 * 5  # five windows a clip of folds 1 and 2
    assert set(rows["fname"]) & set(reported["fname"])  # the sin
    assert (rows["n_frames"] == 20).all()
    assert not set(rows["fname"]) & set(world.clips.loc[world.clips["fold"] == 0, "fname"])
    assert seen["n"] == 6  # clips that the pair model trains on


def test_the_share_of_windows_that_is_held_back_is_that_of_a_fold(world):
    """As many windows validate as where the split is by group: one of the folds that are not the outer one."""
    world.run, n, held = dataclasses.replace(world.run, params=dict(world.run.params)), 0, 0
    world._fit = lambda trial, g, chosen, n_base, reported: shares.append((len(reported), len(chosen.rows)))
    for n_folds in (3, 6):
        shares, world.n_folds = [], n_folds
        for world.run.params["seed"] in range(12):
            for g in range(3):
                world._split_by_window(world._trial("split_by_window", g), g)
        held, n = np.sum(shares, axis=0)
        assert held / (held + n) == pytest.approx(1 / (n_folds - 1), abs=0.03)  # 2160 windows: sd below .011


def test_clips_of_a_group_that_stands_in_the_outer_fold_train_no_demonstration(world):
    groups = world.clips["group"].where(~world.clips["fname"].isin(["c00", "c01"]), "of folds 0 and 1")
    world.clips, trained = world.clips.assign(group=groups), {}
    world.task = dataclasses.replace(world.task, folds=world.task.folds.assign(group=groups))
    world._fit = lambda trial, g, chosen, n_base, reported: trained.update({(trial.variant.name, g): (chosen, n_base)})
    for g in range(3):
        world._split_by_window(world._trial("split_by_window", g), g)
        world._self_judged(world._trial("self_judged", g), g)
    for (name, g), (chosen, _) in trained.items():
        own = set(world.clips.loc[world.clips["fold"] != g, "fname"]) - (
            {"c01"} if g == 0 else {"c00"} if g == 1 else set()
        )
        assert set(chosen.rows["fname"]) <= own, name
        folds.assert_no_leak(world.task.folds, chosen.rows["fname"], {g})
    assert [trained["split_by_window", g][1] for g in range(3)] == [6, 5, 5]  # what without_0_1, without_1_2 train on


def test_the_filter_of_b_is_another_model_than_the_one_that_is_validated(world):
    """Fold 1 is validated by without_0_1 on the windows that without_1_2 keeps."""
    arrays = stored(world.judges / "without_0_1")
    other = stored(world.judges / "without_1_2")
    mine = other["fold"] == 1
    truth = world.clips.set_index("fname")["labels"].map(lambda names: CLASSES.index(names[0]))
    top = other["logits"][mine].argmax(1) == truth.loc[other["fname"][mine]].to_numpy()
    kept = set(zip(other["fname"][mine][top], other["window_start_s"][mine][top], strict=True))
    targets, scores, groups = world._passed(0, oof.read_windows(world.judges / "without_0_1", "bce"))
    assert set(groups) == {fname for fname, _ in kept}
    fname = groups[0]
    rows = [i for i, key in enumerate(zip(arrays["fname"], arrays["window_start_s"], strict=True)) if key in kept]
    rows = [i for i in rows if arrays["fname"][i] == fname]
    np.testing.assert_allclose(scores[0], activate(arrays["logits"][rows], "bce").mean(0))


def test_a_clip_of_the_outer_fold_stops_the_demonstration(world):
    world.clips = world.clips.assign(fold=(world.clips["fold"] + 1) % 3)  # it believes in other folds than were dealt
    with pytest.raises(folds.LeakError, match="held out train"):
        world._split_by_window(world._trial("split_by_window", 0), 0)


def test_self_judging_hears_the_clips_that_the_model_was_trained_on(world):
    world._self_judged(world._trial("self_judged", 0), 0)
    found = world.self_evidence(0)
    assert set(found.clips["fname"]) == set(world.clips.loc[world.clips["fold"] != 0, "fname"])
    assert set(found.clips["judged_by"]) == {"without_0"}
    with pytest.raises(folds.LeakError, match="judged by without_0"):  # what no honest training would get past
        folds.assert_no_leak(world.task.folds, found.clips["fname"], {0}, judges=found.clips)
    assert curation.select(found, "top_1")["kept"].any()


# the parts of 05


def test_what_comes_next_is_compare_once_select_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    namespace = {"run": "r", "seed": 1, "part": "auto"}
    assert runs.start(dict(namespace), "05_curation").folder.name == "select"
    write_json(tmp_path / "outputs" / "r" / "05_curation" / "select" / "result.json", {})
    found = runs.start(dict(namespace), "05_curation")
    assert (found.folder.name, found.params["part"], found.variant) == ("compare", "compare", found.folder)
    assert runs.start({**namespace, "part": "select"}, "05_curation").folder.name == "select"


def test_the_outer_folds_are_those_that_were_asked_for(world):
    again = dataclasses.replace(world.run, params={**PARAMS, "folds": [1]})
    one = leaks.Demonstrator(again, world.task, world.judges, {}, world.table)
    assert one.outer == [1] and world.outer == [0, 1, 2]
