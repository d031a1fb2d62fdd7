"""Tests of leaks and of the gap between what is reported and what is reached."""

import dataclasses
import shutil
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from fake_run import make_task

from lib.data import demo
from lib.evaluation import folds, metrics
from lib.experiments import curation, leaks, probes
from lib.files import write_json
from lib.runs import oof
from lib.runs import run as runs
from lib.runs.modelset import ModelSet
from lib.runs.run import Run
from lib.sound import windows
from lib.sound.cache import Cache
from lib.sound.features import LogMel
from lib.training import learners, models
from lib.training.models import activate
from lib.training.task import Task

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


class World(NamedTuple):
    """What the functions of leaks take."""

    run: Run
    task: Task
    judges: ModelSet
    evidences: dict


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
        about = {"classes": CLASSES, "unseen_folds": [g], "recipe": {"loss": "bce"}}
        models.save(part / "weights.safetensors", network, about | {"folds": folds.digest(world.task.folds)})
        write_json(part / "result.json", {})
    return world


def make_world(tmp_path, monkeypatch, n_noisy=0):
    """18 clips in three folds, 04's models of them (untrained but for what they say), and a run of 05."""
    monkeypatch.setattr(Run, "home", property(lambda self: tmp_path))
    names, rng = [f"c{i:02}" for i in range(18)] + [f"n{i:02}" for i in range(n_noisy)], np.random.default_rng(0)
    n = len(names)
    index = pd.DataFrame({"fname": names, "first_frame": np.arange(n) * 60, "n_frames": 60})
    frames = torch.from_numpy(rng.normal(-50, 10, (n * 60, 1, 16)).astype(np.float16))
    store = Cache(LOGMEL, (frames,), index.assign(floor_db=-80.0), pd.DataFrame(), "a-name")
    clips = pd.DataFrame({"fname": names, "subset": "curated", "group": names, "duration_s": 0.6, "fold": -1})
    clips.loc[18:, "subset"] = "noisy"
    clips["labels"] = [(CLASSES[i // 3 % 2],) for i in range(n)]
    clips["group"] = clips["group"].replace("n05", "c00")
    curated = clips[:18]
    dealt = curated[["fname", "group"]].assign(fold=np.arange(18) % 3)
    folds.settle(tmp_path / "folds.csv", dealt)
    cut = windows.Windows(0.2, 0.1)
    task = make_task(clips, dealt, store, CLASSES)
    every = curation.inference_windows(task, cut, 100.0)
    table = every[every["fname"].isin(curated["fname"])].reset_index(drop=True)
    judges = ModelSet(tmp_path, "curated", 3, "pairs")
    network = models.WindowModel(models.Network("test_resnet", 0), 2, [-50.0], [10.0])
    fold = table.merge(dealt, on="fname")["fold"]
    for name in ["without_0", "without_1", "without_2", *folds.pair_models(3)]:
        logits = rng.normal(0, 2, (len(table), 2))
        mine, part = fold.isin(folds.unseen(name)).to_numpy(), judges.folder / name
        oof.write_windows(part, table[mine].assign(fold=fold[mine]), logits[mine], list(CLASSES))
        sidecar = {"classes": CLASSES, "unseen_folds": sorted(folds.unseen(name)), "recipe": {"loss": "bce"}}
        models.save(part / "weights.safetensors", network, sidecar | {"folds": folds.digest(dealt)})
        write_json(part / "result.json", {})
    evidences = curation.all_evidence(tmp_path / "noisy", judges.folder, task, every, cut)
    folder = tmp_path / "05_curation" / "compare"
    return World(Run("05_curation", PARAMS, folder, folder), task, judges, evidences)


def tables_of(world, known=None):
    return leaks.tables(*world, leaks.train(*world), known)


def training_set(world, leak, g, task=None, seed=1):
    """What the model of a leak trains on, its clips, and the windows that it reports on."""
    trial = world.run.trial(leak, folds.model_name(g), seed)
    return leaks.training_set(trial, task or world.task, world.judges, world.evidences[g], leak, g)


def self_evidence(world, leak, g):
    return leaks.self_evidence(world.run.trial(leak, folds.model_name(g), 1), world.evidences[g], g)


def as_if_trained(world, variant):
    """Any models of 04 will do here."""
    shutil.copytree(world.judges.folder, world.judges.folder.with_name(variant))


def label_of(world):
    return world.task.clips.set_index("fname")["labels"].map(lambda names: CLASSES.index(names[0]))


def test_the_leaks_are_trained_once_and_told_whole(world, tmp_path, monkeypatch):
    tables = tables_of(world)
    trained = sorted(
        path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.glob("05_curation/**/result.json")
    )
    names = ("self_judged", "split_by_window")
    assert trained == [f"05_curation/compare/{leak}/without_{g}/seed_1" for leak in names for g in range(3)]
    monkeypatch.setattr(learners, "fit", None)  # a second training would fail
    effects = tables["leaks"]
    pd.testing.assert_frame_equal(tables_of(world)["leaks"], effects)
    assert effects["leak"].tolist() == list("aabbc")
    assert effects["control"].tolist() == [False, True, False, True, False]
    assert effects["n_reached"].tolist() == [18] * 5  # every clip once
    assert effects["n_reported"].tolist()[1] == effects["n_reported"].tolist()[3] == 18
    assert 18 <= effects["n_reported"][0] <= 36  # a clip twice, where one of its windows was held back
    assert effects["n_reported"][2] < 18  # clips that keep nothing do not report
    kept = tables["judged_by"]
    assert kept["judged_by"].tolist() == ["itself", "others"] and (kept["n"] == 3 * 12 * 5).all()  # windows, one label
    shares = [curation.select(world.evidences[g], "top_1").query("subset == 'curated'")["kept"] for g in range(3)]
    assert kept["share"][1] == pytest.approx(pd.concat(shares).mean())
    assert (kept["share_low"] < kept["share"]).all() and (kept["share"] < kept["share_high"]).all()
    told = leaks.conclusion(tables)
    assert told.count("reports") == 4 and f"{kept['share'][0]:.0%} if judged by itself" in told
    assert "(d) is left out: 04 has not trained kept_curated without each fold. (e) is left out: the set has no" in told
    assert tables["leak_effects"]["leak"].tolist() == ["a", "a", "b"]
    as_if_trained(world, "kept_curated")
    tables = tables_of(world)
    assert tables["leaks"]["setup"].tolist()[-2:] == [
        "trained on what others kept",
        "validated on kept windows, a window at a time",
    ]
    assert tables["leak_effects"]["leak"].tolist() == ["a", "a", "b", "c", "d", "d"]
    told = leaks.conclusion(tables)
    assert told.count("reports") == 5 and "(d)" not in told and "(e) is left out" in told


def test_the_write_ups_90_is_that_of_kept_windows_of_the_held_out_fold_a_window_at_a_time(world):
    """The windows of fold g that without_g_(g + 1), which never saw them, keeps; scored by the models of fold g."""
    truth, found, judges = label_of(world), [], world.judges.folder
    for g in range(3):
        judge, model = (stored(judges / folds.model_name(*m)) for m in ((g, (g + 1) % 3), (g,)))
        mine = judge["fold"] == g
        keys = zip(judge["fname"][mine], judge["window_start_s"][mine], judge["logits"][mine], strict=True)
        kept = {(fname, start) for fname, start, logits in keys if logits.argmax() == truth[fname]}
        for fname, start, logits in zip(model["fname"], model["window_start_s"], model["logits"], strict=True):
            if (fname, start) in kept:
                found.append((np.eye(2)[truth[fname]], logits))
    targets, logits = map(np.stack, zip(*found, strict=True))
    as_if_trained(world, "kept_curated")
    tables = tables_of(world)
    effects = tables["leaks"].set_index("setup")
    row = effects.loc["validated on kept windows, a window at a time"]
    assert row["reported"] == pytest.approx(metrics.lwlrap(targets, logits)) and row["n_reported"] == len(found) > 20
    honest = effects.loc["trained on what others kept"]
    assert row["reached"] == honest["reached"] and row["n_reached"] == 18 and not row["control"]
    assert row["gap"] == pytest.approx(row["reported"] - row["reached"])
    every, reached = tables["leak_effects"].query("leak == 'd'")["gap"]
    arrays = [stored(judges / f"without_{g}") for g in range(3)]
    all_targets = np.eye(2)[np.concatenate([truth[a["fname"]] for a in arrays])]
    assert reached == pytest.approx(row["gap"])
    expected = metrics.lwlrap(all_targets, np.concatenate([a["logits"] for a in arrays]))
    assert every == pytest.approx(row["reported"] - expected)


def test_the_first_attempt_judges_the_clips_that_its_judge_was_trained_on(noisy_world):
    chosen, n_base, reported = training_set(noisy_world, "first_attempt", 0)
    found = self_evidence(noisy_world, "first_attempt", 0)
    own = {f"c{i:02}" for i in range(18) if i % 3} | {f"n{i:02}" for i in range(5)}  # n05 is related to fold 0
    assert set(found.clips["fname"]) == own and set(found.clips["judged_by"]) == {"without_0"}
    kept = curation.select(found, "top_1").query("kept")
    kept = set(zip(kept["fname"], (kept["window_start_s"] * 100).round().astype(int), strict=True))
    rows, first = chosen.rows, noisy_world.task.cache.index.set_index("fname")["first_frame"]
    trained = set(zip(rows["fname"], rows["first_frame"] - first[rows["fname"]].to_numpy(), strict=True))
    held = set(zip(reported["fname"], reported["start_frame"], strict=True))
    assert trained | held == kept and not trained & held and (rows["n_frames"] == 20).all()
    assert {fname[0] for fname in set(rows["fname"]) & set(reported["fname"])} == {"c", "n"}  # on both sides
    assert n_base == 12  # as 04 counts its epochs


def test_the_first_attempt_is_told_beside_judges_that_saw_no_noisy_clip(noisy_world, tmp_path):
    as_if_trained(noisy_world, "kept_curated")
    tables = tables_of(noisy_world)
    (row,) = tables["leaks"].query("leak == 'e'").itertuples()
    assert row.setup == "noisy clips judged by the model that trained on them" and not row.control
    assert row.n_reached == 18 and np.isfinite([row.reported, row.reached, row.gap]).all()
    kept = tables["judged_by"]
    assert kept["subset"].tolist() == ["curated"] * 3 + ["noisy"] * 2
    assert kept.loc[kept["subset"] == "noisy", "judged_by"].tolist() == ["others", leaks.NOISY_JUDGE]
    assert kept["n"].tolist() == [180] * 3 + [5 * (5 + 6 + 6)] * 2  # windows; n05 not for outer fold 0
    own = {g: self_evidence(noisy_world, "first_attempt", g) for g in range(3)}
    for who, some in (("others", noisy_world.evidences), (leaks.NOISY_JUDGE, own)):
        selected = pd.concat([curation.select(found, "top_1") for found in some.values()])
        share = selected.query("subset == 'noisy'")["kept"].mean()
        assert kept.set_index(["subset", "judged_by"]).loc[("noisy", who), "share"] == pytest.approx(share)
    told = leaks.conclusion(tables)
    assert "- Noisy clips judged by the model that trained on them: reports" in told and "left out" not in told
    assert "of the noisy windows " in told
    assert tables["leak_effects"]["leak"].tolist()[-1] == "e"
    as_if_trained(noisy_world, "kept_curated_kept_noisy")
    effects = tables_of(noisy_world)["leaks"]
    assert effects["leak"].tolist() == list("aabbccdee") and effects["control"].tolist()[-1]
    (tmp_path / "04_kfold" / "curated_noisy" / "without_1" / "result.json").unlink()
    tables = tables_of(noisy_world)
    assert "e" not in set(tables["leaks"]["leak"])
    assert "(e) is left out: 04 has not trained curated_noisy for without_1." in leaks.conclusion(tables)


def test_a_noisy_judge_that_saw_the_outer_fold_is_refused(noisy_world, tmp_path):
    part = tmp_path / "04_kfold" / "curated_noisy"
    (part / "without_0").rename(part / "kept")
    shutil.copytree(part / "without_1", part / "without_0")
    with pytest.raises(folds.LeakError, match="without_0 is not a model without fold 0 of these folds"):
        training_set(noisy_world, "first_attempt", 0)


def test_by_known_truth_the_first_attempt_is_told_of_noisy_windows_and_labels(noisy_world):
    fnames = noisy_world.task.clips["fname"]
    spans = pd.DataFrame({"fname": fnames, "class": "low", "start_s": 0.0, "end_s": 0.6})
    known = demo.Truth(spans, pd.Series([("low",)] * len(fnames), index=fnames))
    table = tables_of(noisy_world, known)["self_judging"]
    assert set(table.loc[table["judged_by"] == leaks.NOISY_JUDGE, "what"]) == {
        *("curated windows", "noisy windows", "noisy labels"),
    }
    mine = table.set_index(["judged_by", "what"]).loc[(leaks.NOISY_JUDGE, "noisy windows")]
    some = [self_evidence(noisy_world, "first_attempt", g) for g in range(3)]
    expected = probes.rates(known, some, "top_1").set_index("what").loc["noisy windows"]
    assert mine["precision"] == expected["precision"] and mine["n"] == expected["n"] == 85


def test_windows_of_a_clip_stand_on_both_sides_but_never_the_same_window(world):
    chosen, n_base, reported = training_set(world, "split_by_window", 0)
    rows = chosen.rows
    trained = set(zip(rows["fname"], rows["first_frame"], strict=True))
    held = set(zip(reported["fname"], reported["first_frame"] + reported["start_frame"], strict=True))
    assert not trained & held
    assert len(trained) + len(held) == 12 * 5  # five windows a clip of folds 1 and 2
    assert set(rows["fname"]) & set(reported["fname"])  # the leak
    assert (rows["n_frames"] == 20).all()
    assert not set(rows["fname"]) & {f"c{i:02}" for i in range(0, 18, 3)}
    assert (reported["fold"] == reported["fname"].str[1:].astype(int) % 3).all()
    assert n_base == 6  # clips that the pair model trains on


@pytest.mark.parametrize("n_folds", [3, 6])
def test_the_share_of_windows_that_is_held_back_is_that_of_a_fold(world, n_folds, monkeypatch):
    """As many windows validate as where the split is by group: one of the folds that are not the outer one."""
    monkeypatch.setattr(Task, "n_folds", n_folds)
    found = [training_set(world, "split_by_window", g, seed=seed) for seed in range(12) for g in range(3)]
    held, kept = sum(len(reported) for _, _, reported in found), sum(len(chosen.rows) for chosen, _, _ in found)
    assert held / (held + kept) == pytest.approx(1 / (n_folds - 1), abs=0.03)  # 2160 windows: sd below .011


def test_clips_of_a_group_that_stands_in_the_outer_fold_train_no_leak(world):
    """c00 and c01, of folds 0 and 1, are of one group."""
    clips, dealt = (
        table.assign(group=table["group"].where(~table["fname"].isin(["c00", "c01"]), "of folds 0 and 1"))
        for table in (world.task.data.clips, world.task.folds)
    )
    task = make_task(clips, dealt, world.task.cache, CLASSES)
    every = curation.inference_windows(task, windows.Windows(0.2, 0.1), 100.0)
    noisy = world.run.home / "noisy"
    evidences = {g: curation.evidence_for(g, world.judges.folder, noisy, task, every) for g in range(3)}
    world, n_base = world._replace(task=task, evidences=evidences), []
    for g in range(3):
        own = set(dealt.loc[dealt["fold"] != g, "fname"]) - {*(["c01"] if g == 0 else ["c00"] if g == 1 else [])}
        for leak in ("split_by_window", "self_judged"):
            chosen, n, _ = training_set(world, leak, g)
            assert set(chosen.rows["fname"]) <= own, leak
            folds.assert_no_leak(dealt, chosen.rows["fname"], {g})
            n_base += [n] * (leak == "split_by_window")
    assert n_base == [6, 5, 5]  # what without_0_1, without_1_2 and without_0_2 train on


def test_the_filter_of_b_is_another_model_than_the_one_that_is_validated(world):
    """Fold 1 is validated by without_0_1 on the windows that without_1_2 keeps."""
    arrays = stored(world.judges.folder / "without_0_1")
    other = stored(world.judges.folder / "without_1_2")
    mine = other["fold"] == 1
    top = other["logits"][mine].argmax(1) == label_of(world).loc[other["fname"][mine]].to_numpy()
    kept = set(zip(other["fname"][mine][top], other["window_start_s"][mine][top], strict=True))
    run = dataclasses.replace(world.run, params={**PARAMS, "folds": [0]})
    targets, scores, groups = leaks._measure(run, *world[1:], {})["filtered reports"]
    assert set(groups) == {fname for fname, _ in kept} and len(targets) == len(groups)
    fname = groups[0]
    rows = [i for i, key in enumerate(zip(arrays["fname"], arrays["window_start_s"], strict=True)) if key in kept]
    rows = [i for i in rows if arrays["fname"][i] == fname]
    np.testing.assert_allclose(scores[0], activate(arrays["logits"][rows], "bce").mean(0))


def test_a_clip_of_the_outer_fold_stops_the_training(world):
    with pytest.raises(folds.LeakError, match="held out train"):
        leaks.train(*world._replace(evidences={g: world.evidences[(g + 1) % 3] for g in range(3)}))


def test_self_judging_reads_the_clips_that_the_model_was_trained_on(world):
    training_set(world, "self_judged", 0)
    found = self_evidence(world, "self_judged", 0)
    assert set(found.clips["fname"]) == {f"c{i:02}" for i in range(18) if i % 3}
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
    run = dataclasses.replace(world.run, params={**PARAMS, "folds": [1, 2]})
    trained = leaks.train(*world._replace(run=run))
    assert set(trained) == {(leak, g) for leak in ("split_by_window", "self_judged") for g in (1, 2)}
    assert leaks.tables(run, *world[1:], trained, None)["leaks"]["n_reached"].tolist() == [12] * 5
    as_if_trained(world, "kept_curated")
    shutil.rmtree(world.judges.folder.with_name("kept_curated") / "without_0")  # nobody asks for it
    assert leaks.tables(run, *world[1:], trained, None)["leaks"]["leak"].tolist() == list("aabbccd")
