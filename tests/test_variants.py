"""Tests of variants and their curves: paired against the base of the run, or refused with the reason."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from fake_run import make_variant

from lib import settings
from lib.evaluation import metrics
from lib.figures import experiments as figures
from lib.files import write_json
from lib.runs import oof, variants
from lib.runs.modelset import ModelSet
from lib.runs.recipes import VARIANTS, compared, selection
from lib.runs.run import Run

CLASSES = ("low", "high")


def test_variants_are_compared_with_the_base_on_top(tmp_path):
    base = make_variant(tmp_path / "mine", right=0.9)
    worse = make_variant(tmp_path / "mine", "worse", right=0.3, lr=0.5)
    labels = {"curated": "1" * 12, "noisy": "2" * 12}
    make_variant(tmp_path / "mine", "same", right=0.9, train_set="curated_noisy", labels=labels)
    found = variants.against_base(tmp_path / "mine")
    assert found.refused == []
    table = found.table.set_index("variant")
    assert table.index.tolist() == ["curated", "same", "worse"]
    assert table["changed"].to_dict() == {"curated": "", "same": "train_set curated_noisy", "worse": "lr 0.5"}
    assert np.isnan(table.loc["curated", "lwlrap_diff"])
    one, other = (ModelSet(tmp_path / "mine", folder.name, 2).clips() for folder in (base, worse))
    expected = metrics.lwlrap(other.targets, other.scores) - metrics.lwlrap(one.targets, one.scores)
    assert table.loc["worse", "lwlrap_diff"] == pytest.approx(expected) == pytest.approx(-0.3)
    assert table.loc["worse", "lwlrap_diff_high"] < 0
    assert (table.loc["worse", "verdict"], table.loc["same", "verdict"]) == ("screened", "screened")  # one seed a side
    assert set(found.curves["variant"]) == set(table.index) and set(found.curves["model"]) == {"without_0", "without_1"}


def test_a_variant_with_the_three_seeds_of_the_base_gets_a_verdict(tmp_path):
    right = {"curated": (0.9, 0.8, 0.7), "worse": (0.3, 0.2, 0.4), "begun": (0.9, 0.9), "longer": (0.3, 0.3, 0.3)}
    for name, shares in right.items():
        for seed, share in enumerate(shares):
            of_seed = name if seed == 0 else f"{name}.seed_{seed}"
            make_variant(
                tmp_path / "mine", of_seed, right=share, seed=seed, epochs=2 if "longer.seed" in of_seed else 1
            )
    found = variants.against_base(tmp_path / "mine")
    table = found.table.set_index("variant")
    assert found.refused == [] and set(table.index) == set(right)
    assert table["n_seeds"].to_dict() == dict(curated=3, worse=3, begun=1, longer=1)  # trained alike or left out
    assert table.loc["curated", "hit_rate"] == pytest.approx(0.8)
    assert table.loc["worse", "hit_rate_diff"] == pytest.approx(-0.5)  # of three seeds, each against its own
    assert table.loc["begun", "hit_rate_diff"] == pytest.approx(0.1)  # one seed against the mean of three
    assert table["verdict"].drop("curated").to_dict() == dict(worse="dropped", begun="screened", longer="screened")
    assert "- It hurts: worse -0." in found.conclusion()


def test_the_answer_is_told_with_what_it_cost(tmp_path):
    pixels = {"image_size": 0, "progressive": [], "n_mels": 64, "window_s": 1.0, "sample_rate": 100, "hop_length": 1}
    make_variant(tmp_path / "mine", right=0.9, epochs=4, **pixels)
    make_variant(tmp_path / "mine", "alike", right=0.3, epochs=2, **pixels | {"n_mels": 128})
    make_variant(tmp_path / "mine", "short", right=0.9, epochs=1, **pixels)
    found = variants.against_base(tmp_path / "mine")
    says = found.conclusion()
    assert (
        says.startswith("Difference in lwlrap to the base on 20 clips:\n\n- It hurts (screened): alike -0.300 (-0.")
        and "\n- Not settled (screened): short +0.000" in says  # of 20 clips none differs
    )
    assert says.endswith(
        "no verdict is drawn from it. Not at equal compute (epochs x pixels, the base's 1): short 0.25."
    )
    assert found.table["compute"].tolist() == [1, 1, 0.25]
    assert variants.against_base(tmp_path / "none").conclusion() == ""


def test_the_compute_of_fewer_passes_is_read_from_its_curves(tmp_path):
    pixels = {"image_size": 0, "progressive": [], "n_mels": 64, "window_s": 1.0, "sample_rate": 100, "hop_length": 1}
    make_variant(tmp_path / "mine", right=0.9, epochs=4, **pixels)
    make_variant(tmp_path / "mine", "fewer_passes", right=0.9, epochs=4, train_set="fewer_passes", **pixels)
    n_epochs = len(pd.read_csv(tmp_path / "mine" / "04_kfold" / "fewer_passes" / "without_0" / "epochs.csv"))
    found = variants.against_base(tmp_path / "mine")
    assert found.table["compute"].tolist() == [1, n_epochs / 4] and n_epochs < 4
    assert f"(epochs x pixels, the base's 1): fewer_passes {n_epochs / 4:.2f}." in found.conclusion()


def test_other_seeds_of_a_recipe_are_no_variants(tmp_path):
    for name in ("curated", "good", "good.seed_2020", "curated.seed_2020"):
        make_variant(tmp_path / "mine", name, right=0.5)
    found = variants.against_base(tmp_path / "mine")
    assert found.table["variant"].tolist() == ["curated", "good"] and found.refused == []


def test_the_base_alone_is_a_table_of_one(tmp_path):
    make_variant(tmp_path / "mine", right=0.9)
    found = variants.against_base(tmp_path / "mine")
    assert found.table["variant"].tolist() == ["curated"] and found.table["n"].tolist() == [20]
    assert found.refused == [] and len(found.curves) == 4


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"folds": "a" * 12}, "Their folds are aaaaaaaaaaaa, those of the base ffffffffffff"),
        (
            {"labels": {"curated": "a" * 12}},
            "They were made from other clips (labels of curated clips: 'aaa",
        ),
        (
            {"audio": {"curated": "a" * 12}},
            "They were made from other clips (audio of curated clips: 'aaa",
        ),
        ({"done": 1}, "Folds [1] are still to be trained."),
        ({"n_folds": 4, "done": 0}, "Folds [0, 1, 2, 3] are still to be trained."),
    ],
)
def test_what_cannot_be_compared_is_refused_with_its_reason(tmp_path, setting, reason):
    make_variant(tmp_path / "mine")
    make_variant(tmp_path / "mine", "good", right=0.5, audio={"curated": "0" * 12, "noisy": "b"})
    make_variant(tmp_path / "mine", "odd", right=0.0, **setting)
    found = variants.against_base(tmp_path / "mine")
    assert found.table["variant"].tolist() == ["curated", "good"] and "odd" not in set(found.curves["variant"])
    (sentence,) = found.refused
    assert sentence.startswith(f"Not compared with mine/curated: odd. {reason}")


def test_other_clips_are_refused(tmp_path):
    make_variant(tmp_path / "mine")
    path = make_variant(tmp_path / "mine", "odd") / "without_0" / "clips.csv"
    path.write_text(path.read_text().replace("c00.wav", "x00.wav"))
    assert "odd scored other clips than curated. Train both" in variants.against_base(tmp_path / "mine").refused[0]


def test_another_run_can_be_the_base_if_its_folds_are_the_same(tmp_path):
    make_variant(tmp_path / "base", right=1.0)
    make_variant(tmp_path / "base", "not_asked", right=0.5)
    make_variant(tmp_path / "mine", right=0.2, lr=0.5)
    found = variants.against_base(tmp_path / "mine", tmp_path / "base")
    assert found.table["variant"].tolist() == ["curated", "mine/curated"]
    assert found.table["verdict"].tolist()[1] == "screened" and found.table["changed"].tolist()[1] == "lr 0.5"
    make_variant(tmp_path / "third", folds="a" * 12)
    found = variants.against_base(tmp_path / "third", tmp_path / "base")
    assert found.table["variant"].tolist() == ["curated"]
    assert "Not compared with base/curated: third/curated. Their folds are" in found.refused[0]
    assert "-p folds_csv outputs/base/folds.csv" in found.refused[0]


def test_without_a_base_nothing_is_compared_and_the_way_to_it_is_told(tmp_path):
    make_variant(tmp_path / "mine", "noisy")
    found = variants.against_base(tmp_path / "mine")
    assert found.table.empty and found.curves.empty
    assert found.refused == [
        "Nothing is compared with mine/curated: It is not there yet. "
        "Train it: make run NB=04 RUN=mine PROFILE=... DATA=..."
    ]
    make_variant(tmp_path / "begun", done=1)
    assert "Folds [1] are still to be trained" in variants.against_base(tmp_path / "begun").refused[0]


def test_curves_of_different_length_are_drawn_over_the_share_of_the_training(tmp_path):
    make_variant(tmp_path / "mine", right=0.9)
    make_variant(tmp_path / "mine", "other", right=0.4)
    curves = variants.against_base(tmp_path / "mine").curves
    first = curves["variant"] == "curated"
    curves.loc[first & (curves["model"] == "without_0"), "epoch"] += 2  # this fold was trained for longer
    unmeasured = curves[~first].assign(variant="unmeasured", lwlrap=float("nan"))
    curves = pd.concat([curves, unmeasured], ignore_index=True)
    losses, scores = figures.convergence(curves).axes
    base, other = scores.lines
    assert base.get_xdata().tolist() == list(range(5, 101, 5))
    assert base.get_ydata()[-1] == pytest.approx(0.9) and other.get_ydata()[-1] == pytest.approx(0.4)
    assert base.get_color() == "black" and base.get_label() == "curated"
    assert scores.get_title() == "Windows: the base ends at 0.900, the rest at 0.400"
    assert losses.lines[0].get_ydata()[-1] == pytest.approx(0.5) and "(nats)" in losses.get_ylabel()
    assert "(%)" in scores.get_xlabel()


def test_the_base_alone_has_a_title_of_its_own(tmp_path):
    make_variant(tmp_path / "mine", right=0.9)
    scores = figures.convergence(variants.against_base(tmp_path / "mine").curves).axes[1]
    assert scores.get_title() == "Windows: the base ends at 0.900"


# the training sets of 05

ALL = ["curated", "noisy", "test"]
OF_SEED = {"seed": 2019, "n_folds": 2}  # in every configuration


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A run whose base, and a variant that is better, are done on both folds."""
    monkeypatch.setattr(Run, "home", property(lambda self: tmp_path))
    params = {"run": "r", "profile": "demo", "data_dir": "demo", "retrain": [], "loss": "bce"}
    params |= OF_SEED | {"repeats": 1}
    run = Run("05_curation", params, tmp_path, tmp_path)
    truth, rng = np.arange(40) % 2, np.random.default_rng(0)
    for name, skill in (("curated", 0.0), ("kept_curated", 3.0)):
        for fold in (0, 1):
            part = tmp_path / "04_kfold" / name / f"without_{fold}"
            mine = np.arange(40) // 2 % 2 == fold
            fnames = np.array([f"{i:02}" for i in range(40)])[mine]
            table = pd.DataFrame({"fname": fnames, "group": fnames, "fold": fold, "window_start_s": 0.0})
            table["labels"] = [(CLASSES[k],) for k in truth[mine]]
            logits = rng.normal(0, 1, (mine.sum(), 2)) + skill * np.eye(2)[truth[mine]]
            oof.write(part, table, logits, table, list(CLASSES), "bce")
            pd.DataFrame({"epoch": [0]}).to_csv(part / "epochs.csv")
            write_json(part / "result.json", {})
        made = {"epochs": 3, "train_windows": name, **OF_SEED}
        write_json(tmp_path / "04_kfold" / name / "configuration.json", made)
    return run


def test_what_is_done_is_compared_and_the_rest_is_told_as_commands(trained):
    todo = variants.commands(trained, 2, ALL)
    assert len(todo) == 2 * (len(VARIANTS) - 1)
    assert todo[0].endswith("-p data_dir demo -p variant curated_noisy -p fold 0 -p train_set curated_noisy")
    comparison = variants.compare(trained, 2, ALL)
    table, says = comparison.table(), variants.conclusion(comparison)
    assert table["variant"].tolist() == ["curated", "kept_curated"]
    assert table["verdict"][1] == "screened" and table["lwlrap_diff"][1] > 0.2  # one seed, however clear it is
    assert table["lwlrap_diff_low"][1] > 0 and comparison.verdict() is None
    assert "no verdict is drawn from it" in says
    assert f"kept_curated {table['lwlrap_diff'][1]:+.3f}" in says
    assert comparison.metrics()["kept_curated_lwlrap_diff"] == table["lwlrap_diff"][1]
    begun = variants.compare(trained, 3, ALL)  # a third fold of the base is to be done
    assert begun.table().empty and begun.metrics() == {} and begun.verdict() is None
    alone = dataclasses.replace(comparison, scores={"curated": comparison.scores["curated"]})
    for found in (begun, alone):
        assert "Nothing is retrained" in variants.conclusion(found)


def test_training_sets_are_compared_seed_by_seed_and_three_make_a_verdict(trained, tmp_path):
    done = tmp_path / "04_kfold"
    trained.params |= {"repeats": 3, "retrain": ["kept_curated"]}
    todo = variants.commands(trained, 2, ALL)  # two further seeds of both, the base first
    assert len(todo) == 2 * 2 * 2
    assert todo[0].endswith("-p variant curated.seed_2020 -p fold 0 -p seed 2020")
    assert todo[-1].endswith("-p variant kept_curated.seed_2021 -p fold 1 -p seed 2021 -p train_windows kept")

    def further(name, seed):
        made = shutil.copytree(done / name, done / f"{name}.seed_{seed}") / "configuration.json"
        write_json(made, {"epochs": 3, "train_windows": name, **OF_SEED, "seed": seed})

    for seed in (2020, 2021):
        further("curated", seed)
    further("kept_curated", 2020)
    (begun,) = variants.compare(trained, 2, ALL).compared.itertuples()  # one seed is to be trained: its own alone
    assert begun.verdict == "screened"
    further("kept_curated", 2021)
    comparison = variants.compare(trained, 2, ALL)
    (row,) = comparison.compared.itertuples()
    assert (row.n_seeds, row.verdict, comparison.verdict()) == (3, "kept", "kept")
    assert "Compared with that, 3 seed(s):" in variants.conclusion(comparison)
    assert variants.commands(trained, 2, ALL) == []
    trained.params["repeats"] = 1  # a first look reads one seed of those that are there
    (row,) = variants.compare(trained, 2, ALL).compared.itertuples()
    assert (row.n_seeds, row.verdict) == (1, "screened")


def test_noisy_clips_are_compared_with_as_many_curated_passes_too(trained, tmp_path):
    """The row of the pair comes once both are done, and is corrected together with the others."""
    done = tmp_path / "04_kfold"
    shutil.copytree(done / "kept_curated", done / "curated_noisy")
    assert not variants.compare(trained, 2, ALL).table()["variant"].str.contains("against").any()
    shutil.copytree(done / "curated", done / "fewer_passes")
    comparison = variants.compare(trained, 2, ALL)
    table = comparison.table().set_index("variant")
    row = table.loc["curated_noisy against fewer_passes"]
    assert row["lwlrap_diff"] == table.loc["curated_noisy", "lwlrap"] - table.loc["fewer_passes", "lwlrap"]
    assert sorted(table["p_holm"].dropna()) == sorted(metrics.holm(table["p"].dropna()))  # of all four
    assert (
        row["lwlrap_diff_low"] > 0
        and row["verdict"] == "screened"
        and "curated_noisy against fewer_passes +" in variants.conclusion(comparison)
    )
    assert "fewer_passes" not in {name for name in compared([], "bce", ["curated"])}
    assert {"curated_noisy", "fewer_passes"} <= set(compared([], "bce", ALL))


def test_commands_name_the_parameter_file_of_the_run(trained):
    trained.params |= {"run": "noisy-study", "profile": "esc50-noisy"}
    assert (
        " -f params/esc50-noisy.yaml -f params/noisy-study.yaml -p run noisy-study"
        in variants.commands(trained, 3, ALL)[0]
    )
    trained.params |= {"run": "demo", "profile": "demo"}
    assert variants.commands(trained, 3, ALL)[0].count("-f params/demo.yaml") == 1


def test_only_what_is_asked_for_is_compared(trained):
    trained.params["retrain"] = ["kept_curated"]
    assert variants.commands(trained, 2, ALL) == []
    trained.params |= {"retrain": [], "loss": "ce", "data_dir": "my data"}
    todo = variants.commands(trained, 2, ["curated", "test"])  # no noisy clips, and one label a clip: nothing is left
    assert todo == [] and "'my data'" in variants.commands(trained, 2, ALL)[0]
    trained.params["retrain"] = ["kept_courated"]
    with pytest.raises(ValueError, match="retrain names kept_courated. There are: kept_curated, curated_noisy"):
        variants.commands(trained, 2, ALL)


def test_an_unfair_comparison_is_refused(trained, tmp_path):
    path = tmp_path / "04_kfold" / "kept_curated" / "configuration.json"
    path.write_text(json.dumps({"epochs": 4, "train_windows": "kept"} | OF_SEED))
    with pytest.raises(ValueError, match="curated and kept_curated differ in more .epochs: 3 there, 4 now."):
        variants.compare(trained, 2, ALL)
    path.write_text(json.dumps({"epochs": 3, "train_windows": "kept", "curation": "of before"} | OF_SEED))
    selected = tmp_path / "05_curation" / "select"
    write_json(selected / "configuration.json", {"gate_db": 20.0})
    with pytest.raises(ValueError, match="kept_curated was trained on another selection than the one in"):
        variants.compare(trained, 2, ALL)
    made = {"epochs": 3, "train_windows": "kept", "rule": "top_1", "curation": selection(tmp_path, "top_1")} | OF_SEED
    path.write_text(json.dumps(made))
    variants.compare(trained, 2, ALL)
    write_json(selected / "digests.json", {"max_2/without_0/kept_windows.csv": "a"})  # of another rule
    variants.compare(trained, 2, ALL)
    write_json(selected / "digests.json", {"top_1/without_0/kept_windows.csv": "a"})  # as other code selects
    with pytest.raises(ValueError, match="kept_curated was trained on another selection than the one in"):
        variants.compare(trained, 2, ALL)


def test_other_audio_is_refused(trained, tmp_path):
    base, mine = (tmp_path / "04_kfold" / name / "configuration.json" for name in ("curated", "kept_curated"))
    write_json(base, OF_SEED | {"epochs": 3, "audio": {"curated": "a"}})
    write_json(mine, OF_SEED | {"epochs": 3, "audio": {"curated": "a", "noisy": "b"}})
    assert len(variants.compare(trained, 2, ALL).table()) == 2
    write_json(mine, OF_SEED | {"epochs": 3, "audio": {"curated": "x", "noisy": "b"}})
    with pytest.raises(ValueError, match="curated and kept_curated differ in more .audio of curated clips: 'a' there"):
        variants.compare(trained, 2, ALL)


def test_every_variant_is_a_training_set_that_04_knows():
    for name, changes in VARIANTS.items():
        assert settings.check(changes) == changes, name
    assert len({json.dumps(changes) for changes in VARIANTS.values()}) == len(VARIANTS)
