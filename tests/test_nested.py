"""Tests of nested: who judged what, planted leaks that are caught, models that are missing or of another kind."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from fake_run import seal

from lib.clips import nested
from lib.evaluation import folds
from lib.evaluation.folds import LeakError
from lib.evaluation.window_scores import WindowScores
from lib.experiments import probes
from lib.runs import oof
from lib.runs.modelset import ModelSet
from lib.sound.features import LogMel
from lib.training.models import activate

N_FOLDS = 3
AUDIO = LogMel(sample_rate=8000, n_fft=512, hop_length=80, n_mels=16, fmin=20)
RECIPE = {"loss": "bce", "epochs": 1, "batch_size": 4, "lr": 0.01, "lr_body": 0.0, "mixup": 0.0, "mask_share": 0.0}


@pytest.fixture
def home(tmp_path):
    """A run's folder with all models of 12 clips (two of a group) in three folds; a score says who gave it."""
    fnames = [f"{i:02}.wav" for i in range(12)]
    table = pd.DataFrame({"fname": fnames, "group": [f"g{i // 2}" for i in range(12)], "fold": np.arange(12) // 4})
    folds.settle(tmp_path / "folds.csv", table)
    clips = table.assign(labels=[("x",) if i % 2 else ("y",) for i in range(12)])
    for name in [f"without_{f}" for f in range(3)] + ["without_0_1", "without_0_2", "without_1_2"]:
        write(tmp_path / "04_kfold" / "curated" / name, clips, folds.digest(table))
    return tmp_path


def write(part, clips, dealt, **changes):
    scored = clips[clips["fold"].isin(folds.unseen(part.name))]
    windows = scored.loc[scored.index.repeat(2)].assign(window_start_s=[0.0, 0.5] * len(scored))
    logits = np.full((len(windows), 2), float(sum(10**f for f in folds.unseen(part.name))) / 100)
    oof.write(part, windows, logits, scored, ["x", "y"], "bce")
    pd.DataFrame(columns=["epoch"]).to_csv(part / "epochs.csv", index=False)
    sidecar = {"classes": ["x", "y"], "audio": AUDIO.settings(), "windows": {"window_s": 1.0, "hop_s": 0.5}}
    sidecar |= {"recipe": RECIPE, "network": {"arch": "a", "image_size": 0}, "folds": dealt, "seed": 1, **changes}
    sidecar["unseen_folds"] = sorted(folds.unseen(part.name))
    (part / "weights.json").write_text(json.dumps(sidecar))
    (part / "result.json").write_text("{}")


def test_an_outer_fold_is_known_by_scores_of_models_that_saw_neither_it_nor_the_clips_own_fold(home):
    design = nested.read(home, "curated", "demo")
    assert design.outer_folds == [0, 1, 2]
    for g in design.outer_folds:
        training, reported = design.training(g), design.reported(g)
        assert set(training.table["fold"]) == set(range(N_FOLDS)) - {g}
        for row in training.table.itertuples():
            assert folds.unseen(row.model) == {row.fold, g}
        assert set(reported.table["fold"]) == {g}
        assert sorted(reported.table["model"].unique()) == sorted(folds.model_name(f, g) for f in {0, 1, 2} - {g})
        for side in (training, reported):
            said = side.table["model"].map(lambda name: sum(10**f for f in folds.unseen(name)) / 100)
            np.testing.assert_allclose(side.scores[:, 0], activate(said.to_numpy(), "bce"), rtol=1e-6)
    assert [folds.unseen(m) for m in design.single.table["model"]] == [{f} for f in design.single.table["fold"]]
    assert design.targets.loc["01.wav"].tolist() == [1, 0]


def test_further_seeds_are_read_without_pair_models_and_score_the_same_clips(home):
    design, variant = nested.read(home, "curated", "demo"), home / "04_kfold" / "curated"
    assert nested.read_seeds(design, home, "demo", seed=1, repeats=1) == [design]
    with pytest.raises(FileNotFoundError, match=r"curated\.seed_2"):
        nested.read_seeds(design, home, "demo", seed=1, repeats=2)
    for fold in range(3):
        shutil.copytree(variant / f"without_{fold}", variant.with_name("curated.seed_2") / f"without_{fold}")
    with pytest.raises(ValueError, match=r"curated.seed_2 is not curated with seed 2 \(its models have seed 1\)"):
        nested.read_seeds(design, home, "demo", seed=1, repeats=2)
    for path in variant.parent.glob("curated.seed_2/*/weights.json"):
        path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))
    for folder, epochs in (("curated", 1), ("curated.seed_2", 2)):
        (variant.parent / folder / "configuration.json").write_text(json.dumps({"epochs": epochs}))
    with pytest.raises(ValueError, match=r"curated.seed_2 is not curated with seed 2 \(epochs: 2 there, 1 now\)"):
        nested.read_seeds(nested.read(home, "curated", "demo"), home, "demo", seed=1, repeats=2)
    for folder in ("curated", "curated.seed_2"):
        (variant.parent / folder / "configuration.json").unlink()
    _, other = designs = nested.read_seeds(design, home, "demo", seed=1, repeats=2)
    assert other.variant.name == "curated.seed_2" and other.pairs.table.empty and not other.single.table.empty
    for one in designs:
        one.single.table["energy"] = 1.0
    read = probes.poolings(designs)
    assert not {"power", "top", "log_sum_exp"} & set(read) and {"mean", "median", "energy"} <= set(read)
    assert {scores.shape for scores in read.values()} == {(2, 12, 2)}
    one_model = activate(np.array(1 / 100), "bce")  # without_0, of the first fold's clips
    np.testing.assert_allclose(read["mean"][:, :4, 0], one_model, rtol=1e-6)
    table = pd.read_csv(path := variant.with_name("curated.seed_2") / "without_0" / "clips.csv")
    table.assign(labels="x").to_csv(path, index=False)
    seal(path.parent)
    with pytest.raises(ValueError, match="curated and curated.seed_2 differ in clips, labels, folds or classes"):
        nested.read_seeds(design, home, "demo", seed=1, repeats=2)


def test_a_planted_leak_is_caught_whichever_way_it_comes(home):
    design = nested.read(home, "curated", "demo")
    design.check_and_record("an honest fit", design.training(1), 1)
    with pytest.raises(LeakError, match="judged by models that saw held-out folds or their own group"):
        design.check_and_record(
            "scores of without_f, which saw fold 1", design.single.where(design.single.table["fold"] != 1), 1
        )
    with pytest.raises(LeakError, match="whose groups are held out"):
        design.check_and_record("the reported fold itself", design.reported(1), 1)
    both = design.training(1)
    stray = both.where(np.arange(len(both.table)) == 0)
    stray.table["fname"] = design.clips.index[design.clips["fold"] == 1][0]
    with pytest.raises(LeakError):
        design.check_and_record("one clip of it among the others", join(both, stray), 1)
    seen = both.table.assign(model="without_1_2")  # did not see fold 1, but was trained on fold 0
    with pytest.raises(LeakError, match="judged by"):
        design.check_and_record("scores by a model that was trained on the clip", WindowScores(seen, both.scores), 1)
    assert [use["what"] for use in design.uses] == ["an honest fit"]  # what was refused is no use


def test_a_group_that_stands_in_the_outer_fold_is_no_training_clip_of_it(home):
    design = nested.read(home, "curated", "demo")
    design.clips.loc[["00.wav", "04.wav"], "group"] = "of folds 0 and 1"
    whole = {g: set(design.clips.index[design.clips["fold"] != g]) for g in range(N_FOLDS)}
    assert set(design.training(0).table["fname"]) == whole[0] - {"04.wav"}
    assert set(design.training(1).table["fname"]) == whole[1] - {"00.wav"}
    assert set(design.training(2).table["fname"]) == whole[2]
    for g in range(N_FOLDS):
        design.check_and_record("an honest fit", design.training(g), g)
        assert set(design.reported(g).table["fname"]) == set(design.clips.index[design.clips["fold"] == g])
    every = design.pairs.where(design.pairs.table["model"] == "without_0_1")
    with pytest.raises(LeakError, match=r"held out train.*04.wav \(group of folds 0 and 1\)"):
        design.check_and_record("the clip of the group among them", every.where(every.table["fold"] == 1), 0)


def join(*sides):
    return WindowScores.join(sides)


@pytest.mark.parametrize("told", [1, 0])  # the model says of its clip that it is of fold 1, as it is, or of fold 0
def test_scores_of_clips_that_a_model_may_have_seen_are_refused(home, told):
    variant, models = home / "04_kfold" / "curated", ModelSet.open(home, "curated", "all")
    arrays = dict(np.load(variant / "without_0" / "oof_windows.npz"))
    planted = arrays["fname"] == "00.wav"
    arrays |= {"fname": np.where(planted, "04.wav", arrays["fname"]), "fold": np.where(planted, told, arrays["fold"])}
    np.savez(variant / "without_0" / "oof_windows.npz", **arrays)
    with pytest.raises(LeakError, match="without_0 scored 04.wav, which it may have seen"):
        models.windows(["without_0"])


def test_the_manifest_names_the_clips_of_every_use(home):
    design = nested.read(home, "curated", "demo")
    design.check_and_record("fit", design.training(0), 0)
    design.check_and_record("fit for use", design.single, None)
    told = design.manifest()
    assert told["sets"][told["uses"][0]["clips"]] == design.clips.index[design.clips["fold"] != 0].tolist()
    assert told["sets"][told["uses"][1]["clips"]] == design.clips.index.tolist()
    assert told["reported"]["0"] == design.clips.index[design.clips["fold"] == 0].tolist()
    json.dumps(told)


def test_models_are_averaged_after_pooling_and_windows_before(home):
    design = nested.read(home, "curated", "demo")
    here = design.reported(2)
    after = nested.pooled(here, "mean")
    assert list(after.index) == design.clips.index[design.clips["fold"] == 2].tolist()
    expected = activate(np.array([1.01, 1.10]), "bce").mean()
    np.testing.assert_allclose(after, expected, rtol=1e-6)
    one = nested.averaged(here)
    assert len(one.table) == len(here.table) / 2
    assert one.table.duplicated(["fname", "window_start_s"]).sum() == 0
    np.testing.assert_allclose(one.scores, expected, rtol=1e-6)
    assert set(one.table["model"]) == {"without_0_2 without_1_2"}


def test_geometric_means_before_and_after_differ_where_windows_do():
    table = pd.DataFrame({"fname": "a", "window_start_s": [0.0, 1.0] * 2, "model": ["m"] * 2 + ["n"] * 2})
    scored = WindowScores(table, np.array([[0.9], [0.1], [0.1], [0.9]]))
    assert nested.pooled(scored, "geometric").iloc[0, 0] == pytest.approx(0.3)
    assert nested.pooled(nested.averaged(scored), "geometric").iloc[0, 0] == pytest.approx(0.5)


def test_every_clip_is_read_once(home):
    design = nested.read(home, "curated", "demo")
    by_fold = nested.fit_readouts(design, nested.Reader(max_clip_s=4.5), ["mean"])["mean"]
    assert nested.read_outer(design, by_fold).shape == (1, len(design.clips), len(design.classes))
    with pytest.raises(ValueError, match=r"scores of \d+ clips, expected one for each of \d+ clips"):
        nested.read_outer(design, by_fold, lambda outer: design.reported(0))
    with pytest.raises(ValueError, match="Give every outer fold once"):
        nested.read_outer(design, {0: by_fold[0]})


def test_what_is_missing_is_said_with_the_commands_that_train_it(home):
    (home / "04_kfold" / "curated" / "without_1_2" / "result.json").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        nested.read(home, "curated", "fsd-mini")
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("curated is not complete, it lacks without_1_2/result.json. Make them first:")
    assert lines[1] == (
        "papermill notebooks/04_kfold.ipynb out.ipynb -f params/fsd-mini.yaml -p data_dir DATA "
        f"-p run {home.name} -p fold 1 -p holdout_fold 2"
    )
    with pytest.raises(FileNotFoundError, match="make run NB=10 .* .with short among the candidates"):
        nested.read(home, "short", "fsd-mini")  # by hand it would be trained with the base's parameters
    (home / "folds.csv").unlink()
    with pytest.raises(FileNotFoundError, match="-p fold 0"):
        nested.read(home, "curated", "demo")


def test_models_of_another_kind_are_refused(home):
    design = nested.read(home, "curated", "demo")
    clips, dealt = design.clips.reset_index(), design.sidecar["folds"]
    part = home / "04_kfold" / "curated" / "without_0_1"
    write(part, clips, dealt, recipe={**RECIPE, "epochs": 2})
    with pytest.raises(ValueError, match="without_0_1 and without_0 differ in recipe"):
        nested.read(home, "curated", "demo")
    write(part, clips, dealt, recipe={**RECIPE, "schedule": "one_cycle"})  # the default, written by a newer version
    nested.read(home, "curated", "demo")
    listed = home / "04_kfold" / "curated" / "without_0" / "clips.csv"
    before = listed.read_text()
    pd.read_csv(listed).assign(fold=1).to_csv(listed, index=False)
    seal(listed.parent)
    with pytest.raises(ValueError, match="scored clips in other folds than those in folds.csv"):
        nested.read(home, "curated", "demo")
    listed.write_text(before)
    seal(listed.parent)
    other = clips[["fname", "group"]].assign(fold=(clips["fold"] + 1) % 3)
    (home / "folds.csv").unlink()
    folds.settle(home / "folds.csv", other)
    with pytest.raises(ValueError, match="did not see folds .* but is called without_0 beside folds"):
        nested.read(home, "curated", "demo")
