"""Tests of sweep: variants that can be trained, fair compute, and verdicts only where they may be."""

import json
import re
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fake_run import make_task

from lib import files, settings
from lib.data import datasets
from lib.evaluation import folds, metrics
from lib.experiments import compute, sweep
from lib.runs import run as runs
from lib.sound import cache
from lib.sound.features import LogMel
from lib.sound.windows import Windows
from lib.training import batches, learners
from lib.training.callbacks import image_sizes
from lib.training.models import Network, _body

ROOT = Path(__file__).resolve().parents[1]
PROFILES = ["demo", "esc10", "esc50", "fsd-mini", "fsd2019", "fsd2019-writeup"]
TABLES = {"features": sweep.features, "augmentation": sweep.augmentation}


def base(profile="demo", **changes):
    params = settings.defaults() | settings.load_profile(ROOT / "params" / f"{profile}.yaml")
    return {**params, "variants": [], "overwrite": False, **changes}


def all_variants():
    return [(table, name) for table, make in TABLES.items() for name in make(base())]


def a_run(tmp_path, **changes):
    params = base(**changes)
    folder = tmp_path / "outputs" / "02_features"
    return runs.Run("02_features", params, folder, folder)


def a_task(run, clips, dealt):
    """The task of these clips, with the log-mels of the run's base."""
    return make_task(clips, dealt, cache.build(clips, run.pick(LogMel), run.cache), ["fading", "steady"])


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """Runs and caches lie in tmp_path."""
    monkeypatch.setattr(runs, "ROOT", tmp_path)


@pytest.fixture
def small(make_clips, tmp_path):
    """24 clips of two classes in 12 groups, dealt into three folds; 1.5 s of noise each, every other one fading."""
    rng = np.random.default_rng(0)
    noise = [0.1 * rng.standard_normal(12_000) * np.linspace(1, i % 2, 12_000) for i in range(24)]
    clips = make_clips({f"{i:02}.wav": sound for i, sound in enumerate(noise)})
    clips["labels"] = [(["steady", "fading"][(i + 1) % 2],) for i in range(24)]
    clips["group"] = [f"g{i // 2:02}" for i in range(24)]
    dealt = pd.DataFrame({"fname": clips["fname"], "group": clips["group"], "fold": np.arange(24) // 2 % 3})
    return clips, dealt


SMALL = dict(sample_rate=8000, n_fft=512, hop_length=160, n_mels=16, window_s=0.5, hop_s=0.25, arch="test_resnet")
SMALL |= dict(trial_epochs=2, batch_size=8)


# tables


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("table", TABLES)
def test_every_variant_is_a_base_with_one_thing_changed_and_can_be_built(table, profile):
    params = base(profile)
    variants = TABLES[table](params)
    assert variants["base"] == {}
    for name, changes in variants.items():
        checked = settings.check(changes)  # known keys, right types, in range; an idea gets its digest
        assert settings.check(checked) == checked and checked.keys() == changes.keys(), name
        assert re.sub("@[0-9a-f]{12}", "", str(checked)) == str(changes), name
        assert name == "base" or any(params[key] != value for key, value in changes.items()), name
        run = replace(a_run(ROOT, **params), params={**params, **changes, "epochs": 10})
        for group in (LogMel, Windows, Network, learners.Recipe):
            run.pick(group)


def test_there_are_as_many_variants_as_the_question_has():
    assert len(sweep.features(base("esc10"))) >= 7
    assert len(sweep.augmentation(base("esc10"))) >= 11


def test_networks_are_compared_and_a_larger_budget_beside_its_own_base(tmp_path):
    params = base("esc50")
    table = sweep.networks(params)
    names = [params["arch"], *(changes["arch"] for name, changes in table.items() if name != "longer")]
    assert len(set(names)) == len(names) == 10 and table["longer"] == {"trial_epochs": 3 * params["trial_epochs"]}
    joint = sweep.select(sweep.features(params), ["resnet10t+longer"], table)
    assert joint == {"resnet10t+longer": {**table["resnet10t"], **table["longer"]}}
    for arch in names:
        body, n_features = _body(arch, 1)
        assert body(torch.zeros(2, 1, 64, 50)).shape == (2, n_features)


def test_what_the_base_does_already_is_no_variant():
    assert "window_2s" in sweep.features(base(window_s=3.0))
    assert "window_2s" not in sweep.features(base(window_s=2.0))
    assert "no_mixup" not in sweep.augmentation(base(mixup=0.0))


IMPOSSIBLE = [
    ({"n_fft": 1102}, {"several_n_fft"}),  # 551 is odd
    ({"hop_length": 600}, {"several_n_fft"}),  # longer than 512
    ({"n_mels": 160}, {"several_n_fft", "double_mels"}),  # bands narrower than a bin
]


@pytest.mark.parametrize(("settings", "lost"), IMPOSSIBLE)
def test_what_the_base_can_not_make_is_no_variant_and_keeps_no_other_from_being_shown(settings, lost, tmp_path):
    run = a_run(tmp_path, **settings)
    table = sweep.features(run.params)
    assert set(sweep.features(base())) - set(table) == lost
    samples = np.random.default_rng(0).standard_normal(22050).astype(np.float32)
    assert list(sweep.channels(table, run, samples)) == ["logmel", "delta", "acceleration", "phase", "pcen"]
    assert list(sweep.channels({"base": {}}, run, samples)) == ["logmel"]
    with pytest.raises(ValueError, match=r"variants=\['several_n_fft'\] .* n_fft, hop_length and n_mels can't make"):
        sweep.select(table, ["several_n_fft"])


def test_a_picture_is_that_of_the_first_variant_that_uses_it(tmp_path):
    run = a_run(tmp_path)
    table = sweep.select(sweep.features(run.params), ["half_mels+delta", "delta"])
    shown = sweep.channels(table, run, np.ones(22050, np.float32))
    assert {name: len(picture) for name, picture in shown.items()} == {"logmel": 64, "delta": 32, "acceleration": 32}


def test_variants_are_chosen_by_name_and_may_be_joined():
    table, more = sweep.features(base()), sweep.augmentation(base())
    assert sweep.select(table, ["pcen", "base"]) == {"pcen": table["pcen"], "base": {}}
    assert list(sweep.select(table, ["pcen", "base"])) == ["pcen", "base"]
    assert sweep.select(table, []) == table
    assert sweep.select(table, ["base", "gain"], more)["gain"] == more["gain"]
    joint = sweep.select(table, ["base", "half_mels+slice"], more)["half_mels+slice"]
    assert joint == {"n_mels": 32, "lr_body": 0.01, "lr": 0.1}
    assert settings.check({"variants": "base,half_mels+slice"}) == {"variants": ["base", "half_mels+slice"]}
    for unknown in ("detla", "delta+detla", "gain"):
        with pytest.raises(ValueError, match=r"variants=\['.*'\] are not in the table .*: base, delta"):
            sweep.select(table, ["base", unknown])


def test_how_soon_a_variant_is_near_its_end_is_compared_model_by_model():
    curves = {("base", "a"): [0.2, 0.6, 0.8, 0.8], ("base", "b"): [0.2, 0.4, 0.6, 0.8]}
    curves |= {("slow", "a"): [0.1, 0.2, 0.5, 0.6], ("slow", "b"): [0.1, 0.2, np.nan, 0.6]}
    curves["quick", "a"] = [0.5, 0.5, 0.5, 0.5]  # one model: no interval
    rows = [(*key, epoch, value) for key, values in curves.items() for epoch, value in enumerate(values)]
    epochs = pd.DataFrame(rows, columns=["variant", "model", "epoch", "lwlrap"])
    found = sweep.Trials(pd.DataFrame(), [], {}, pd.DataFrame(), epochs, 3).convergence().set_index("variant")
    assert found["epochs_to_near"].to_dict() == {"base": 3.5, "slow": 4.0, "quick": 1.0}
    assert found.loc["slow", ["diff", "diff_low", "diff_high"]].tolist() == [0.5, 0.0, 1.0]
    assert found.loc[["base", "quick"], "diff"].isna().all()


# equal compute


def test_epochs_go_with_the_pixels_of_a_picture():
    params = base(n_mels=64, window_s=3.0, sample_rate=22050, hop_length=441, image_size=0, trial_epochs=40)
    assert batches.image_pixels(params) == 64 * 150
    assert epochs(params, {}) == 40
    assert epochs(params, {"n_mels": 128}) == 20
    assert epochs(params, {"window_s": 1.0}) == 120
    assert epochs(params, {"image_size": 224}) == round(40 * 9600 / 224**2) == 8
    assert epochs(params, {"n_mels": 128, "trial_epochs": 120}) == 60
    assert epochs({**params, "compute": "windows"}, {"n_mels": 128}) == 40


def test_progressive_resizing_has_the_compute_of_a_fixed_size():
    params = base(n_mels=64, window_s=3.0, image_size=0, trial_epochs=400)
    changes = {"image_size": 224, "progressive": [64, 128]}
    spent = (np.array(image_sizes(epochs(params, changes), (64, 128), 224), float) ** 2).sum()
    assert spent == pytest.approx(epochs(params, {"image_size": 224}) * 224**2, rel=0.02)
    assert epochs({**params, "trial_epochs": 1}, changes) == 3  # one for each size


def test_equal_seconds_are_measured_once_beside_the_base(small, tmp_path, monkeypatch):
    seconds = {"test_resnet": 0.002, "test_byobnet": 0.004, "test_vit": 0.001}
    timed = []

    def pace(network, recipe, training):
        timed.append(network.arch)
        return lambda: seconds[network.arch] * (1 + 3 * (network.image_size == 64))

    monkeypatch.setattr(learners, "pace", pace)
    run = a_run(tmp_path, **SMALL | {"trial_epochs": 30}, compute="seconds", folds=[0], seeds=[1])
    task = a_task(run, *small)
    table = {"base": {}, "slow": {"arch": "test_byobnet"}, "slow+longer": {"arch": "test_byobnet", "trial_epochs": 90}}
    table["sizes"] = {"image_size": 64, "progressive": [32]}  # half of the compute at each, so 8 windows in 0.04 s
    found = compute.epochs(run, table, lambda trial: task)
    assert found == {"base": 30, "slow": 15, "slow+longer": 45, "sizes": round(30 * (1 + 1 / 4) / 2)}
    assert timed == ["test_resnet", "test_byobnet", "test_resnet", "test_resnet"]  # the budget makes no new step
    seconds["test_byobnet"] = 0.1  # another day
    more = {**table, "quick": {"arch": "test_vit"}}
    assert compute.epochs(run, more, lambda trial: task) == found | {"quick": 60}
    assert timed[4:] == ["test_resnet", "test_vit"]
    assert compute.seconds(run, more) == pytest.approx(  # beside one and the same base
        {"base": 0.002, "slow": 0.004, "slow+longer": 0.004, "sizes": 0.0032, "quick": 0.001}
    )
    done = pd.DataFrame({"variant": ["slow", "other"], "seconds": 9.0, "train_s": 5.0, "images_per_s": 100.0})
    speed = sweep.Trials(pd.DataFrame(), [], {}, done, pd.DataFrame(), 3, pace={"slow": 0.004}).speed()
    assert speed["train_s"].tolist() == [2.0, 5.0]  # 500 windows, however long they took that time


def test_a_pace_is_that_of_training_steps(small, tmp_path):
    run = a_run(tmp_path, **SMALL, compute="seconds", folds=[0], seeds=[1])
    found = compute.epochs(run, {"base": {}, "wide": {"batch_size": 16}}, lambda trial: a_task(run, *small))
    table = pd.read_csv(tmp_path / "outputs" / "02_features" / "seconds_cpu.csv")
    assert table["variant"].tolist() == ["wide"] and (table[["seconds", "base_seconds"]] > 0).all(axis=None)
    assert found == {"base": 2, "wide": max(1, round(2 * table["base_seconds"][0] / table["seconds"][0]))}


def epochs(params, changes):
    """Of a variant, as its experiment has them."""
    run = replace(a_run(ROOT), params={**params, "compute": params.get("compute", "pixels")})
    return compute.epochs(run, {"it": changes}, None)["it"]


# a step of each


@pytest.mark.parametrize(("table", "name"), all_variants(), ids=lambda value: value)
def test_a_training_of_every_variant_scores_what_it_did_not_see(table, name, small, tmp_path):
    clips, dealt = small
    run = a_run(tmp_path, **SMALL, folds=[0], seeds=[1])
    variants = TABLES[table](run.params)
    if "224" in name:  # the same, smaller; under 32 pixels oneDNN has been seen to return NaN gradients in bf16
        small_sizes = {"image_size": 40, "progressive": [32, 36]}
        variants[name] = {key: small_sizes[key] for key in variants[name]}
    trials = sweep.train(run, {name: variants[name]}, a_task(run, clips, dealt))
    assert trials.trainings["problem"].tolist() == [""]
    assert trials.scores[name].shape == (1, 8, 2)
    assert np.isfinite(trials.scores[name]).all() and np.ptp(trials.scores[name]) > 0
    assert set(trials.clips["fname"]) == set(dealt.loc[dealt["fold"] == 0, "fname"])
    assert trials.curves["train_loss"].notna().all()


# trials


def train(small, tmp_path, variants=("base", "delta"), **changes):
    clips, dealt = small
    run = a_run(tmp_path, **{**SMALL, "folds": [], "seeds": [1, 2, 3], **changes})
    table = sweep.select(sweep.features(run.params), list(variants))
    return sweep.train(run, table, a_task(run, clips, dealt))


def test_all_folds_and_three_seeds_are_pooled_into_verdicts(small, tmp_path):
    trials = train(small, tmp_path)
    assert {name: scores.shape for name, scores in trials.scores.items()} == {"base": (3, 24, 2), "delta": (3, 24, 2)}
    assert len(trials.trainings) == 2 * 3 * 3 and (trials.trainings["problem"] == "").all()
    table = trials.table()
    assert list(table["variant"]) == ["base", "delta"]
    assert table["verdict"][1] in ("kept", "dropped", "unclear") and table["n"].eq(24).all()
    assert trials.comparison.verdict() == table["verdict"][1]
    part = tmp_path / "outputs" / "02_features" / "delta" / "without_1" / "seed_2"
    read = pd.read_csv(part / "clips.csv", dtype={"fname": str}).set_index("fname")
    mine = trials.clips["fname"].isin(read.index).to_numpy()
    ordered = read.loc[trials.clips["fname"][mine], trials.classes]
    np.testing.assert_allclose(trials.scores["delta"][1][mine], ordered)  # seed 2 is the second, rows found by fname
    assert trials.conclusion().startswith(
        "Difference in lwlrap to the base on 24 clips, 3 seed(s), 3 of 3 folds, at equal pixels.\n\n- "
    )


def test_growing_pictures_are_compared_with_large_ones_too(small, tmp_path, monkeypatch):
    clips, dealt = small
    run = a_run(tmp_path, **{**SMALL, "folds": [], "seeds": [1]})
    few = {"fixed_224": {"image_size": 40}, "progressive_224": {"image_size": 40, "progressive": [32]}}
    trials = sweep.train(run, {"base": {}, **few}, a_task(run, clips, dealt))
    table = replace(trials.comparison, decimals=None).table().set_index("variant")
    row = table.loc["progressive_224 against fixed_224"]
    ends = [metrics.lwlrap(trials.targets, trials.scores[name][0]) for name in ("progressive_224", "fixed_224")]
    assert row["lwlrap_diff"] == pytest.approx(ends[0] - ends[1]) and np.isnan(row["lwlrap"])
    epochs = trials.table().set_index("variant")["epochs"]
    assert epochs["progressive_224 against fixed_224"] == epochs["progressive_224"]
    assert sorted(table["p_holm"].dropna()) == sorted(metrics.holm(table["p"].dropna()))  # of three comparisons
    assert "progressive_224 against fixed_224" in trials.conclusion()
    assert "progressive_224_against_fixed_224_lwlrap_diff" in trials.comparison.metrics()
    for gone in few:
        left = replace(trials, scores={k: v for k, v in trials.scores.items() if k != gone})
        assert not left.table()["variant"].str.contains("against").any()


@pytest.mark.parametrize("changes", [{"seeds": [1, 2]}, {"folds": [0, 1]}, {"variants": ("base",)}])
def test_with_less_there_is_no_verdict(small, tmp_path, changes):
    trials = train(small, tmp_path, **changes)
    table = trials.table()
    assert trials.comparison.verdict() is None
    assert set(table["verdict"].dropna()) <= {"screened"}
    assert ("no verdict" if len(table) > 1 else "Nothing to compare") in trials.conclusion()


def test_clips_that_are_withheld_from_a_model_are_counted(small, tmp_path):
    clips, dealt = small
    first, other = dealt.index[dealt["fold"] == 0][0], dealt.index[dealt["fold"] == 1][0]
    split = dealt.assign(group=dealt["group"].where(dealt.index != other, dealt.loc[first, "group"]))
    trials = train((clips, split), tmp_path, ("base",), seeds=[1], folds=[0])
    manifest = tmp_path / "outputs" / "02_features" / "base" / "without_0" / "seed_1" / "manifest.json"
    trained = files.read_json(manifest)["clips"]["train"]
    assert set(trained) == set(dealt.loc[dealt["fold"] != 0, "fname"]) - {dealt.loc[other, "fname"]}
    assert trials.conclusion().endswith("Withheld: 1 clip from without_0.")
    assert train(small, tmp_path / "whole", ("base",), seeds=[1], folds=[0]).withheld == ""


def test_what_is_done_is_not_done_again(small, tmp_path, monkeypatch):
    first = train(small, tmp_path, seeds=[1])
    lost = tmp_path / "outputs" / "02_features" / "delta" / "without_1" / "seed_1"
    (lost / "result.json").unlink()
    trained = []
    real = learners.train_fold
    monkeypatch.setattr(
        learners, "train_fold", lambda *a, **k: (trained.append((k["checkpoint"].parent, a[1])), real(*a, **k))[1]
    )
    second = train(small, tmp_path, seeds=[1])
    assert trained == [(lost, "without_1")]
    for name in first.scores:
        np.testing.assert_array_equal(first.scores[name], second.scores[name])


def test_a_training_that_diverges_is_listed_and_costs_nothing_else(small, tmp_path, monkeypatch):
    real = learners.train_fold

    def fragile(*what, checkpoint):
        if "delta" in checkpoint.parts:
            raise learners.Diverged("The loss is nan in epoch 0: training diverged. Lower lr.")
        return real(*what, checkpoint=checkpoint)

    monkeypatch.setattr(learners, "train_fold", fragile)
    trials = train(small, tmp_path, variants=("base", "delta", "pcen"), seeds=[1])
    table = trials.table().set_index("variant")
    assert set(trials.scores) == {"base", "pcen"}
    assert table.loc["delta", "verdict"] == "failed" and np.isnan(table.loc["delta", "lwlrap"])
    assert trials.trainings.query("variant == 'delta'")["problem"].str.contains("diverged").all()
    result = tmp_path / "outputs" / "02_features" / "delta" / "without_0" / "seed_1" / "result.json"
    assert json.loads(result.read_text())["verdict"] == "failed"


@pytest.mark.parametrize("notebook", ["02_features", "03_augmentation"])
@pytest.mark.parametrize("diverges", ["all", "all but the base", "base"])
def test_a_notebook_whose_trainings_diverge_ends_with_the_failures(small, tmp_path, monkeypatch, notebook, diverges):
    clips, dealt = small
    real = learners.train_fold

    def fragile(*what, checkpoint):
        if diverges == "all" or ("base" in checkpoint.parts) == (diverges == "base"):
            raise learners.Diverged("The loss is nan in epoch 0: training diverged. Lower lr.")
        return real(*what, checkpoint=checkpoint)

    monkeypatch.setattr(learners, "train_fold", fragile)
    run = a_run(tmp_path, **SMALL, folds=[0, 1], seeds=[1])
    table = {name: sweep.features(run.params)[name] for name in ("base", "half_mels")}
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    at = next(i for i, source in enumerate(code) if "sweep.train(" in source)
    given = {"run": run, "table": table, "task": a_task(run, clips.assign(duration_s=1.5), dealt), "tabulate": True}
    for source in (code[1], *code[at:]):
        exec(source, given)
    failed = {"all": {"base", "half_mels"}, "all but the base": {"half_mels"}, "base": {"base"}}[diverges]
    assert set(given["problems"]["variant"]) == failed and len(given["problems"]) == 2 * len(failed)
    told = json.loads((run.folder / "result.json").read_text())
    assert told["verdict"] is None and f"{2 * len(failed)} of 4 trainings diverged or failed." in told["conclusion"]
    assert (run.folder / "convergence.png").exists() == (diverges != "all")
    plt.close("all")


def test_another_base_under_the_same_names_is_refused(small, tmp_path):
    train(small, tmp_path, variants=("base",), seeds=[1])
    with pytest.raises(ValueError, match=r"lr: 0\.005 there, 0\.02 now.*-p run NAME"):
        train(small, tmp_path, variants=("base",), seeds=[1], lr=0.02)
    train(small, tmp_path, variants=("base",), seeds=[1, 2])  # another seed is another part, not another configuration


def test_a_fold_that_there_is_not_is_refused(small, tmp_path):
    with pytest.raises(ValueError, match="fold=3 is neither a fold, 0 to 2"):
        train(small, tmp_path, folds=[0, 3])


def test_a_training_that_would_see_a_relative_is_stopped(small, tmp_path, monkeypatch):
    clips, dealt = small
    monkeypatch.setattr(folds, "training", lambda dealt, held_out: ~dealt["fold"].isin(held_out))  # a rule of clips
    dealt.loc[0, "fold"] = 2  # its group is in fold 0
    run = a_run(tmp_path, **SMALL, folds=[0], seeds=[1])
    with pytest.raises(folds.LeakError):
        sweep.train(run, {"base": {}}, a_task(run, clips, dealt))


# what is shown


def test_who_is_helped_is_answered_class_by_class(small, tmp_path):
    clips, dealt = small
    run = a_run(tmp_path, **{**SMALL, "folds": [], "seeds": [1]})
    table = sweep.select(sweep.augmentation(run.params), ["base", "by_seconds"])
    trials = sweep.train(run, table, a_task(run, clips, dealt))
    found, slopes = trials.by_class(pd.Series({"steady": 10.0, "fading": 40.0}))
    assert found[["variant", "class", "seconds", "n"]].to_numpy().tolist() == [
        ["by_seconds", "steady", 10.0, 12],
        ["by_seconds", "fading", 40.0, 12],
    ]
    assert slopes["slope"][0] == pytest.approx((found["diff"][1] - found["diff"][0]) / 2)  # two doublings
    nothing, none = train(small, tmp_path / "other", seeds=[1]).by_class(pd.Series(dtype=float))
    assert nothing.empty and none.empty


def test_a_slice_of_learning_rates_is_shown_as_the_optimiser_has_it(tmp_path):
    run = a_run(tmp_path, **SMALL)
    found = sweep.learning_rates(sweep.augmentation(run.params), run)
    assert found["slice_reversed"].tolist() == pytest.approx([0.1, 0.1**1.5, 0.01])
    assert found["slice"].tolist() == pytest.approx([0.01, 0.1**1.5, 0.1])
    assert found["base"].tolist() == [0.005] * 3
    assert "no_mixup" not in found and (found["n_parameters"] > 0).all()


@pytest.mark.parametrize("normalise", ["band", "window"])
def test_learning_rates_are_shown_for_any_normalisation_and_channels(tmp_path, normalise):
    channels = ["logmel", "delta", "acceleration"]
    one, three = a_run(tmp_path, **SMALL), a_run(tmp_path, **SMALL, normalise=normalise, channels=channels)
    table = sweep.augmentation(three.params)
    few, many = (sweep.learning_rates(table, run)["n_parameters"] for run in (one, three))
    assert many[0] > few[0] and many[1:].tolist() == few[1:].tolist()  # the first layer reads all channels


def test_costs_are_told_beside_the_base(small, tmp_path):
    clips, _ = small
    run = a_run(tmp_path, **SMALL)
    found = sweep.costs(sweep.features(run.params), run, clips.head(2)).set_index("variant")
    assert found.loc["base", "times_base"] == 1 and (found["times_base"] > 0).all()
    assert found.loc["delta", "bytes_per_s"] == 3 * found.loc["base", "bytes_per_s"] == 3 * 16 * 2 * 50
    assert found.loc["window_1s", "pixels"] == 2 * found.loc["base", "pixels"]


def test_pictures_and_augmented_windows_are_those_of_the_clip(small, tmp_path):
    clips, _ = small
    run = a_run(tmp_path, **SMALL)
    logmel = run.pick(LogMel)
    samples = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    shown = sweep.channels(sweep.features(run.params), run, samples)
    assert list(shown)[:3] == ["logmel", "delta", "acceleration"] and "pcen" in shown and "logmel_256" in shown
    np.testing.assert_array_equal(shown["logmel"], logmel(samples)[0])
    store = cache.build(clips, logmel, tmp_path / "cache")
    windows = sweep.augmented(store, clips["fname"].tolist()[:2], run)
    assert {picture.shape for picture in windows.values()} == {(16, 25)}
    overlay, one, other = (10 ** (windows[k] / 10) for k in ("overlay", "as it is", "another clip"))
    np.testing.assert_allclose(overlay, one + other, rtol=1e-4)


def test_the_search_for_a_learning_rate_leaves_the_held_out_fold_alone(small, tmp_path, monkeypatch):
    clips, dealt = small
    run = a_run(tmp_path, **{**SMALL, "folds": [1]})
    store = cache.build(clips, run.pick(LogMel), tmp_path / "cache")
    seen = []
    real = learners.training_batches
    monkeypatch.setattr(learners, "training_batches", lambda *a: (seen.append(a[1]), real(*a))[1])
    found = sweep.find_lr(run, make_task(clips, dealt, store, ["fading", "steady"]))
    assert set(seen[0]["fname"]) == set(dealt.loc[dealt["fold"] != 1, "fname"])
    assert found["lr"].is_monotonic_increasing and found.attrs["suggested"] > 0
    assert datasets.targets(seen[0], ["fading", "steady"]).shape == (16, 2)
