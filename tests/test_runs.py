"""Tests of run: what is refused, what a part's folder holds, and that `result.json` alone means done."""

import json
import os
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot

from lib import files
from lib.evaluation import folds
from lib.runs import run as runs

FLAT = {"run": "r", "seed": 1, "overwrite": False, "lr": 0.1, "n_mels": 64, "data_dir": "demo", "folds_csv": ""}
FOLD = {**FLAT, "variant": "curated", "fold": 0, "holdout_fold": -1, "n_folds": 2}
CLIPS = pd.DataFrame({"fname": list("abcd"), "group": list("ppqq")})


ROOT = runs.ROOT  # before a test moves it


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """The workbook is at tmp_path/book, the current folder elsewhere."""
    monkeypatch.setattr(runs, "ROOT", tmp_path / "book")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "book"


def start(**changes):
    return runs.start({**FOLD, **changes}, "04_kfold")


def finish(run, **changes):
    said = {"metrics": {"lwlrap": 0.5, "complete": True}, "verdict": "measured", "conclusion": "half"}
    return run.finish(**{**said, **changes})


def result(run):
    return json.loads((run.folder / "result.json").read_text())


def left_over(folder):
    return [path for path in folder.rglob("*") if path.name.startswith(".") or path.suffix == ".partial"]


# start


def test_start_names_the_folder_of_the_part_and_writes_nothing(root):
    home = root / "outputs" / "r"
    assert runs.start(dict(FLAT), "01_eda").folder == home / "01_eda"
    assert start().folder == home / "04_kfold" / "curated" / "without_0"
    assert start(fold=-1).folder == home / "04_kfold" / "curated" / "pooled"
    assert start(fold=4, holdout_fold=2).folder == start(fold=2, holdout_fold=4).folder
    assert start(fold=4, holdout_fold=2).folder.name == "without_2_4"
    assert start().home == home
    assert start().cache == root / "outputs" / "cache"
    assert not root.exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fodl": 2}, "'fodl' is no parameter of this workbook. Did you mean 'fold'"),
        ({"knobs": [1, 2]}, "'knobs' is no parameter"),
        ({"remark": None}, "'remark' is no parameter"),
        ({"lr": "0,001"}, "Write it as 0.001 or 1.0e-3"),
        ({"run": "../x"}, "run='../x' should be letters"),
        ({"fold": 2, "holdout_fold": 2}, "name no model. Give one fold, or two that differ"),
        ({"fold": -1, "holdout_fold": 2}, "fold=-1, holdout_fold=2 name no model"),
    ],
)
def test_the_first_start_refuses_what_is_no_parameter(wrong, message):
    namespace = {**FOLD, **wrong}
    for _ in range(2):  # a refused start is not a first start
        with pytest.raises(ValueError, match=message):
            runs.start(namespace, "04_kfold")


@pytest.mark.parametrize(
    "change", [{"train_set": "curated_noisy"}, {"train_windows": "kept"}, {"ignore_missing": True}]
)
def test_the_bases_name_means_curated_clips_as_they_are(root, change):
    plain = {"train_set": "curated", "train_windows": "all", "ignore_missing": False}
    for variant in ("curated", "curated.seed_3"):
        with pytest.raises(
            ValueError, match=rf"{next(iter(change))}=.*variant='{variant}' is the name.*-p variant NAME"
        ):
            start(variant=variant, **{**plain, **change})
        assert start(variant=variant, **plain).folder.parent.name == variant
    assert start(variant="mine", **{**plain, **change}).folder.parent.name == "mine"
    assert not root.exists()


def test_what_is_no_plain_value_or_not_the_persons_own_passes():
    def helper():
        return 1

    namespace = {
        **FOLD,
        **{"pd": pd, "helper": helper, "Path": Path, "table": CLIPS, "array": np.zeros(2)},
        **{"In": ["1"], "Out": {1: 2}, "_i1": "text", "__name__": "__main__", "_": 3},
        **{"PAPERMILL_INPUT_PATH": "a.ipynb", "PAPERMILL_OUTPUT_PATH": "b.ipynb"},
    }
    assert runs.start(namespace, "04_kfold").params == FOLD


def test_a_second_start_leaves_the_notebooks_own_variables_alone():
    namespace = dict(FOLD)
    namespace["run"] = runs.start(namespace, "04_kfold")  # as the notebook does
    namespace.update(fit={}, says="text", baseline=0.1, hardest=[1])
    again = runs.start(namespace, "04_kfold")  # the cell is run again
    assert again.params == FOLD
    namespace.update(run="other", fold=1)  # the parameters cell is run again, changed
    again = runs.start(namespace, "04_kfold")
    assert again.params == {**FOLD, "run": "other", "fold": 1}
    with pytest.raises(ValueError, match="fold='1' should be a valid integer"):
        runs.start({**namespace, "fold": "1"}, "04_kfold")


def test_parameters_come_checked_and_in_their_types():
    run = start(lr=1, run=7)
    assert run.params["run"] == "7"
    assert type(run.params["lr"]) is float


def test_a_number_or_a_list_that_came_as_text_is_one_for_the_notebook_too():
    namespace = {**FOLD, "lr": "1e-3", "channels": "logmel,delta"}
    assert runs.start(namespace, "04_kfold").params.items() >= {"lr": 0.001, "channels": ["logmel", "delta"]}.items()
    assert (namespace["lr"], namespace["channels"]) == (0.001, ["logmel", "delta"])


def test_the_workbook_is_where_its_code_is():
    assert Path(__file__).resolve().parents[1] == ROOT


def test_keys_that_only_other_notebooks_declare_are_checked_and_passed_over():
    declared = {"__annotations__": {name: str for name in FLAT}}
    assert runs.start({**FLAT, **declared, "epochs": 3}, "01_eda").params == FLAT
    with pytest.raises(ValueError, match="epochs='3' should be a valid integer"):
        runs.start({**FLAT, **declared, "epochs": "3"}, "01_eda")


def test_the_code_is_known_as_it_is_at_the_start(monkeypatch):
    """A long notebook may end after an edit of lib/: what it imported is the code before."""
    asked = []
    monkeypatch.setattr(runs.code, "digest", asked.append)
    start()
    assert asked == ["04_kfold"]


def test_start_seeds_everything():
    def draws(seed):
        start(seed=seed)
        return random.random(), np.random.rand(), float(torch.rand(1))

    first, again, other = draws(5), draws(5), draws(6)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))
    assert torch.are_deterministic_algorithms_enabled()


def test_pick_takes_the_parameters_of_the_same_names():
    @dataclass
    class Settings:
        n_mels: int
        lr: float
        fmax: float = 3.0

    assert start().pick(Settings) == Settings(n_mels=64, lr=0.1, fmax=3.0)


# what is read


def test_demo_data_is_made_below_outputs(root, monkeypatch):
    monkeypatch.setattr(runs.demo, "make", lambda folder: folder)
    assert start().data_dir() == root / "outputs" / "demo-data"


def test_data_dir_is_relative_to_the_current_folder_or_to_the_workbook(root, tmp_path):
    run = start(data_dir="data/x")
    with pytest.raises(FileNotFoundError, match=rf"data_dir='data/x' is neither in {Path.cwd()} nor in {root}"):
        run.data_dir()
    (root / "data" / "x").mkdir(parents=True)
    assert run.data_dir() == root / "data" / "x"
    (tmp_path / "elsewhere" / "data" / "x").mkdir(parents=True)
    assert run.data_dir() == tmp_path / "elsewhere" / "data" / "x"  # as typed, where the person is
    assert start(data_dir=str(root)).data_dir() == root


def test_folds_are_made_once_and_kept(root):
    targets = np.ones((4, 1))
    made = start().folds(CLIPS, targets)
    assert made.groupby("group")["fold"].nunique().tolist() == [1, 1]
    pd.testing.assert_frame_equal(start(fold=1).folds(CLIPS, targets), made)
    assert (root / "outputs" / "r" / "folds.csv").is_file()
    run = start()
    run.settle(folds=folds.digest(made))
    finish(run)
    with pytest.raises(ValueError, match=r"its clips, labels, groups or n_folds differ.*-p run NAME"):
        start().folds(CLIPS.assign(group=list("abcd")), targets)


def test_seeds_share_their_folds():
    """Seeds of one recipe are read on the same clips: their difference is chance, not another split."""
    clips = pd.DataFrame({"fname": [f"{i:02}" for i in range(20)], "group": [f"g{i:02}" for i in range(20)]})
    made = [start(run=f"r{seed}", seed=seed).folds(clips, np.ones((20, 1)))["fold"].tolist() for seed in range(4)]
    assert made == [made[0]] * 4
    assert len({tuple(folds.make(clips, np.ones((20, 1)), 2, seed)["fold"]) for seed in range(4)}) > 1


def test_a_folds_csv_is_used_instead_and_looked_for_in_both_places(root):
    run = start(folds_csv="mine.csv")
    with pytest.raises(FileNotFoundError, match=rf"folds_csv='mine.csv' is neither in .* nor in {root}"):
        run.folds(CLIPS, np.ones((4, 1)))
    root.mkdir()
    (root / "mine.csv").write_text("fname,fold\na,1\nb,1\nc,0\nd,0\n")
    with pytest.raises(ValueError, match="n_folds=3, but folds_csv='mine.csv' holds 2. Set n_folds to that"):
        start(folds_csv="mine.csv", n_folds=3).folds(CLIPS, np.ones((4, 1)))
    assert start(folds_csv="mine.csv", n_folds=2).folds(CLIPS, np.ones((4, 1)))["fold"].tolist() == [1, 1, 0, 0]


# settle


def test_the_same_configuration_settles_silently():
    start().settle(data="d1")
    finish(start())
    again = start()
    again.settle(data="d1")
    assert again.done
    start(fold=1).settle(data="d1")
    start(fold=0, holdout_fold=1).settle(data="d1")
    start(fold=-1, data_dir="moved", folds_csv="the/same.csv").settle(data="d1")  # where, not what


@pytest.mark.parametrize(
    ("changes", "read", "named"),
    [
        ({"lr": 0.2}, "d1", "(lr: 0.1 there, 0.2 now)"),
        ({"lr": 0.2, "n_mels": 32, "fold": 1}, "d1", "(lr: 0.1 there, 0.2 now, n_mels: 64 there, 32 now)"),
        ({}, "d2", "(data: 'd1' there, 'd2' now)"),
        ({"epochs": 3}, "d1", "(epochs: None there, 3 now)"),
    ],
)
def test_another_configuration_is_refused_with_keys_and_ways_out(changes, read, named):
    run = start()
    run.settle(data="d1")
    finish(run)
    before = (run.folder.parent / "configuration.json").read_bytes()
    with pytest.raises(ValueError, match="-p variant NAME or -p run NAME.*-p overwrite True") as refused:
        start(**changes).settle(data=read)
    assert named in str(refused.value)
    assert (run.folder.parent / "configuration.json").read_bytes() == before
    assert run.done
    start(**changes, variant="other").settle(data=read)
    start(**changes, run="other").settle(data=read)


def test_a_part_that_is_done_keeps_its_result_and_tells_where_it_would_say_something_else(recwarn):
    finish(start())
    finish(start())
    assert not [warned for warned in recwarn if "keeps what it said" in str(warned.message)]
    for changed in ({"metrics": {"lwlrap": 0.6, "complete": True}}, {"conclusion": "more"}):
        with pytest.warns(UserWarning, match=r"result.json keeps what it said before: -p overwrite True"):
            finish(start(), **changed)
    assert result(start())["metrics"]["lwlrap"] == 0.5


def test_what_an_older_result_did_not_note_is_not_compared():
    start().settle(data="d1")
    finish(start())
    before = (start().variant / "configuration.json").read_bytes()
    start().settle(data="d1", groups={"noisy": "g1"})
    assert (start().variant / "configuration.json").read_bytes() == before  # it may have had others
    with pytest.raises(ValueError, match="data: 'd1' there, 'd2' now"):
        start().settle(data="d2", groups={"noisy": "g1"})
    start(variant="new").settle(data="d1", groups={"noisy": "g1"})
    finish(start(variant="new"))
    with pytest.raises(ValueError, match="groups of noisy clips: 'g1' there, 'g2' now"):
        start(variant="new").settle(data="d1", groups={"noisy": "g2"})


def settled(**parts):
    """Finished parts of one configuration."""
    for which in parts.values():
        run = start(**which)
        run.settle(data="d1")
        finish(run)
    return {name: start(**which) for name, which in parts.items()}


def test_overwriting_with_the_same_configuration_moves_this_part_and_what_was_pooled():
    made = settled(first={"fold": 0}, second={"fold": 1}, pooled={"fold": -1}, pair={"fold": 0, "holdout_fold": 1})
    start(overwrite=True).settle(data="d1")
    assert [name for name, run in made.items() if run.done] == ["second", "pair"]
    assert made["first"].folder.is_dir()
    assert not left_over(made["first"].folder.parent)


def test_overwriting_with_another_configuration_throws_away_the_variant_and_no_more():
    made = settled(first={"fold": 0}, second={"fold": 1}, pooled={"fold": -1}, other={"variant": "other"})
    start(overwrite=True, lr=0.2).settle(data="d1")
    assert [name for name, run in made.items() if run.done] == ["other"]
    start(lr=0.2).settle(data="d1")
    assert not left_over(made["first"].folder.parent.parent)


def test_a_notebook_without_variants_moves_its_own_folder_alone(root):
    other = settled(other={})["other"]
    eda = runs.start(dict(FLAT), "01_eda")
    eda.settle(data="d1")
    finish(eda)
    changed = runs.start({**FLAT, "lr": 0.2}, "01_eda")
    with pytest.raises(ValueError, match="01_eda was made with another configuration"):
        changed.settle(data="d1")
    runs.start({**FLAT, "lr": 0.2}, "06_other").settle(data="d1")  # another notebook is asked nothing
    runs.start({**FLAT, "lr": 0.2, "overwrite": True}, "01_eda").settle(data="d1")
    assert not eda.done
    assert other.done


def test_what_is_overwritten_is_moved_aside_whole(root):
    run = settled(first={})["first"]
    for number in (1, 2):
        start(overwrite=True).settle(data="d1")
        assert not run.done
        old = root / "outputs" / "replaced" / str(number) / run.folder.relative_to(root / "outputs")
        assert json.loads((old / "result.json").read_text())["metrics"]["lwlrap"] == 0.5
        finish(run)
    unfinished = start(fold=1, variant="other")
    unfinished.settle(data="d1")
    start(fold=1, variant="other", overwrite=True).settle(data="d1")  # nothing in it that anybody could read
    assert not list((root / "outputs" / "replaced").rglob("other"))


def test_a_refused_call_binds_nobody(root):
    refused = start(lr=0.9)
    refused.settle(data="d1")  # what is refused after this leaves a configuration, and no result
    corrected = start()
    corrected.settle(data="d1")
    finish(corrected)
    with pytest.raises(ValueError, match="lr: 0.1 there, 0.9 now"):
        start(lr=0.9).settle(data="d1")


def test_folds_of_a_call_that_came_to_no_result_bind_nobody(root):
    alone, targets = CLIPS.assign(group=CLIPS["fname"]), np.ones((4, 1))
    refused = start(n_folds=2)
    refused.settle(folds=folds.digest(refused.folds(alone, targets)))
    corrected = start(n_folds=4)
    table = corrected.folds(alone, targets)
    assert table["fold"].nunique() == 4
    corrected.settle(folds=folds.digest(table))
    finish(corrected)
    with pytest.raises(ValueError, match="folds.csv holds folds .* but this run makes folds"):
        start(n_folds=2).folds(alone, targets)
    assert start(n_folds=4).folds(alone, targets).equals(table)


def test_a_result_does_not_come_to_lie_under_another_configuration(root):
    slow = start()
    slow.settle(data="d1")
    start(lr=0.9).settle(data="d1")  # meanwhile, while nothing was finished
    with pytest.raises(ValueError, match=r"was changed meanwhile \(lr: 0.9 there, 0.1 now\)"):
        finish(slow)
    assert not slow.done


def test_of_two_calls_at_once_the_slower_one_does_not_finish_the_others_result():
    slow = start()
    slow.settle(data="d1")
    quick = start(lr=0.9)  # nothing is finished yet, so the variant is bound to nobody
    quick.settle(data="d1")
    finish(quick)
    for late in (slow.check_unchanged, lambda: finish(slow)):
        with pytest.raises(ValueError, match=r"was changed meanwhile \(lr: 0.9 there, 0.1 now\)"):
            late()
    assert result(slow)["parameters"]["lr"] == 0.9
    finish(quick)  # a part that is done may be asked for again


def test_what_is_made_of_other_data_is_refused_and_named(root):
    base = settled(first={})["first"].variant
    labels, audio = {"curated": "l1", "noisy": "l2"}, {"curated": "a1"}
    files.write_json(base / "configuration.json", {"labels": labels, "audio": audio, "folds": "f1", "lr": 7})
    reader = runs.start(dict(FLAT), "06_other")
    reader.settle(base, labels={"curated": "l1"}, audio={"curated": "a1", "test": "a9"}, folds="f1")
    for changed, named in (
        ({"labels": {"curated": "l9"}}, "labels of curated clips: 'l1' there, 'l9' now"),
        ({"audio": {"curated": "a9"}}, "audio of curated clips: 'a1' there, 'a9' now"),
        ({"folds": "f9"}, "folds: 'f1' there, 'f9' now"),
    ):
        with pytest.raises(ValueError, match=f"{named}.*make run RUN=.* AGAIN=1"):
            reader.settle(base, **{"labels": labels, "audio": audio, "folds": "f1", **changed})


def test_results_of_other_code_are_read_and_said(monkeypatch, recwarn):
    made = settled(first={}, second={"fold": 1})
    again = start()
    again.settle(data="d1")
    assert again.other_code == [] and not recwarn
    monkeypatch.setattr(runs.code, "digest", lambda notebook: "another")
    with pytest.warns(UserWarning, match="Made by other code than is here now: .*without_0.* AGAIN=1"):
        again.settle(data="d1")
    pooled = start(fold=-1)
    with pytest.warns(UserWarning, match="without_0.*without_1"):
        pooled.settle(data="d1")
    finish(pooled)
    told = json.loads((pooled.folder / "manifest.json").read_text())
    assert told["code"] == "another" and len(told["other_code"]) == len(made)


def test_an_experiment_tells_once_of_trials_that_other_code_has_made(monkeypatch, recwarn):
    run = runs.start({**FLAT, "seeds": [1], "tabulate": True, "folds": [0]}, "02_features")
    run.settle(folds="f")
    for variant in "abcdefg":
        trial = run.trial(variant, "without_0", 1)
        trial.settle(folds="f")
        finish(trial)
    monkeypatch.setattr(runs.code, "digest", lambda notebook: "another")
    with pytest.warns(UserWarning, match="02_features/a/without_0/seed_1.* and 2 more. It is used") as told:
        run.settle(folds="f")
        for variant in "abcdefg":
            run.trial(variant, "without_0", 1).settle(folds="f")
    assert len(told) == 1


# what is written


def test_tables_come_back_to_be_looked_at_and_figures_are_drawn_once_and_shown(monkeypatch):
    run, shown = start(), []
    monkeypatch.setattr(runs, "display", shown.append)
    table = pd.DataFrame({"class": ["a,b", 'say "x"'], "n": [1, 2]})
    assert run.save_table("per_class", table) is table
    pd.testing.assert_frame_equal(pd.read_csv(run.folder / "per_class.csv"), table)
    figure, axes = pyplot.subplots()
    axes.plot([1, 2])
    run.save_figure("curve", figure)
    first = (run.folder / "curve.png").read_bytes()
    assert [image.data for image in shown] == [first] and not pyplot.fignum_exists(figure.number)
    run.save_figure("curve", figure)
    assert (run.folder / "curve.png").read_bytes() == first
    assert first.startswith(b"\x89PNG")
    assert not left_over(run.folder)


def test_finish_writes_the_manifest_and_last_the_result(monkeypatch):
    run = start()
    run.settle(data="d1")
    written, write = [], files.write_json

    def killed_before_the_result(path, content):
        written.append(path.name)
        if path.name == "result.json":
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(runs, "write_json", killed_before_the_result)
    (run.folder / "checkpoint.safetensors").touch()
    with pytest.raises(KeyboardInterrupt):
        finish(run)
    assert written == ["manifest.json", "result.json"]
    assert not run.done
    assert (run.folder / "checkpoint.safetensors").exists()  # what a second start goes on from
    monkeypatch.setattr(runs, "write_json", write)
    assert finish(run) == f"04_kfold is done: {os.path.relpath(run.folder)}"
    assert run.done
    assert sorted(path.name for path in run.folder.iterdir()) == ["manifest.json", "result.json"]


def test_the_note_of_a_profile_stands_beside_the_answer(root):
    run = runs.start({**FOLD, "note": "Noise was planted here."}, "04_kfold")
    run.settle()
    assert finish(run).endswith("without_0. Noise was planted here.")
    assert result(run)["conclusion"] == "half Noise was planted here."
    assert "note" not in json.loads((run.variant / "configuration.json").read_text())  # it is no other result


def test_result_json_holds_what_the_contract_says():
    run = start()
    run.settle(data="d1", folds="f1")
    numbers = {"lwlrap": np.float32(0.5), "n": np.int64(4), "complete": np.True_, "spread": np.nan, "low": -np.inf}
    finish(run, metrics=numbers, verdict=None, clips={"train": ["a"], "scored": ["b"]})
    assert result(run) == {
        "schema": 2,
        "notebook": "04_kfold",
        "parameters": FOLD,
        "data": "d1",
        "folds": "f1",
        "metrics": {"lwlrap": 0.5, "n": 4, "complete": True, "spread": None, "low": None},
        "verdict": None,
        "conclusion": "half",
    }
    manifest = json.loads((run.folder / "manifest.json").read_text())
    made_by = {"commit", "dirty", "code", "other_code", "device", "threads", "versions"}
    assert made_by | {"finished", "seconds", "read", "clips"} == set(manifest)
    assert manifest["clips"] == {"train": ["a"], "scored": ["b"]}
    assert manifest["read"] == {"data": "d1", "folds": "f1"}
    assert {"python", "torch", "fastai", "numpy"} <= set(manifest["versions"])


def test_two_equal_runs_have_equal_results_whatever_time_and_commit(monkeypatch):
    run = settled(first={})["first"]
    before = (run.folder / "result.json").read_bytes()
    (run.folder / "result.json").unlink()
    monkeypatch.setattr(runs, "_git", lambda *_: "another commit")
    monkeypatch.setattr(runs.time, "time", lambda: 0.0)
    settled(again={})
    assert (run.folder / "result.json").read_bytes() == before
    assert json.loads((run.folder / "manifest.json").read_text())["commit"] == "another commit"


@pytest.mark.filterwarnings("ignore:.*keeps what it said")
def test_a_finished_part_keeps_its_own_result():
    run = start()
    run.settle(data="d1")
    finish(run)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    finish(start(), metrics={"lwlrap": 0.9}, conclusion="more")
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before


def test_a_pooled_part_with_missing_folds_is_not_done_and_is_written_again():
    run = start(fold=-1)
    finish(run, metrics={"complete": False}, verdict=None)
    assert not run.done
    finish(run)
    assert run.done
    assert result(run)["verdict"] == "measured"


# trials


def test_a_trial_is_a_part_of_its_variant(root):
    run = runs.start({**FLAT, "seeds": [1, 2], "variants": ["base"], "folds": [0]}, "02_features")
    one = run.trial("delta", "without_0", 1, lr=0.5)
    assert one.folder == root / "outputs" / "r" / "02_features" / "delta" / "without_0" / "seed_1"
    assert (one.params["lr"], one.params["seed"]) == (0.5, 1)
    assert (run.params["lr"], run.folder.name) == (0.1, "02_features")  # the run itself stays as it was
    one.settle(data="d")
    finish(one)
    assert one.done and not run.trial("delta", "without_0", 2, lr=0.5).done
    run.trial("delta", "without_0", 2, lr=0.5).settle(data="d")  # another seed, another fold: the same configuration
    run.trial("delta", "without_1", 1, lr=0.5).settle(data="d")
    run.trial("base", "without_0", 1).settle(data="d")  # another variant: a configuration of its own
    with pytest.raises(ValueError, match="delta was made with another configuration .lr: 0.5 there, 0.1 now"):
        run.trial("delta", "without_0", 1).settle(data="d")
    with pytest.raises(ValueError, match="data: 'd' there, 'e' now"):
        run.trial("delta", "without_0", 1, lr=0.5).settle(data="e")


@pytest.mark.filterwarnings("ignore:.*keeps what it said")
def test_a_table_of_results_is_written_again(root):
    run = runs.start({**FLAT, "seeds": [1]}, "02_features")
    finish(run)
    finish(run, conclusion="more")
    assert result(run)["conclusion"] == "half"
    finish(run, conclusion="more", again=True)
    assert result(run)["conclusion"] == "more"


def test_overwrite_throws_a_part_away_but_an_experiment_only_with_another_configuration(root):
    """02, 03 and 07 hold trials that settle one by one; 06 has several seeds too, but is one part."""
    for notebook, more, stays in (("06_stage2", {}, False), ("02_features", {"tabulate": True}, True)):
        values = {**FLAT, "seeds": [1], **more}
        run = runs.start(values, notebook)
        run.settle(folds="f")
        finish(run)
        kept = root / "outputs" / "r" / notebook / "kept"
        kept.write_text("")
        runs.start({**values, "overwrite": True}, notebook).settle(folds="f")
        assert kept.exists() == stays
        runs.start({**values, "overwrite": True, "lr": 0.2}, notebook).settle(folds="f")
        assert not kept.exists()
