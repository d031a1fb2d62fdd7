"""Tests of changes: what of a data set differs from what a run was made of, and what only has come since."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile

from lib.data import datasets
from lib.evaluation import folds
from lib.runs import changes, recipes
from lib.sound import cache
from lib.sound.features import LogMel

LOGMEL = LogMel(sample_rate=8000, n_fft=512, hop_length=160, n_mels=16, fmin=20)
PARAMS = {"n_folds": 2}


def write_clip(path, seed):
    path.parent.mkdir(exist_ok=True, parents=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(4000), 8000)


@pytest.fixture
def data(tmp_path):
    """Kaggle's layout: 8 curated clips, 4 noisy ones, 3 test clips."""
    root = tmp_path / "data"
    for number, (part, n) in enumerate({"train_curated": 8, "train_noisy": 4, "test": 3}.items()):
        names = [f"{part[6] if n > 3 else 't'}{i}.wav" for i in range(n)]
        for i, name in enumerate(names):
            write_clip(root / part / name, 100 * number + i)
        table = pd.DataFrame({"fname": names, "labels": ["a", "b"] * (n // 2) if n > 3 else ""})
        if part == "test":
            table = pd.DataFrame({"fname": names, "a": 0, "b": 0})
        table.to_csv(root / ("sample_submission.csv" if part == "test" else f"{part}.csv"), index=False)
    return root


def make_run(home, data_dir, folds_csv=None):
    """What 04 and 08 would leave of it."""
    data = datasets.load(data_dir)
    store = cache.build(data.clips[data.clips["subset"] == "curated"], LOGMEL, home.parent / "cache")
    data = data.without(store.problems)
    curated = data.clips.query("subset == 'curated'").sort_values("fname", ignore_index=True)
    given = folds.read(folds_csv, curated) if folds_csv else None
    made = folds.make(curated, datasets.targets(curated, data.classes), 2, folds.SEED) if given is None else given
    folds.settle(home / "folds.csv", made)
    read = {"labels": datasets.label_digests(curated, data.classes), "audio": store.audio, "folds": folds.digest(made)}
    test, contents = changes.of_test(data_dir, home.parent / "cache")
    for part, told in {"04_kfold/curated": read, "08_submission/curated": {**test, "packed": "p"}}.items():
        folder = home / part
        (folder / "without_0").mkdir(parents=True)
        (folder / "without_0" / "result.json").write_text("{}")
        (folder / "configuration.json").write_text(json.dumps({"lr": 0.1, **told}))
    problem = contents.index.map(lambda fname: "" if contents[fname] != "missing" else "missing")
    how = pd.DataFrame({"fname": contents.index, "problem": problem, "content": contents.to_numpy()})
    how.to_csv(home / "08_submission" / "curated" / "how.csv", index=False)


def since(home, data_dir, folds_csv=None):
    differing, lacking = changes.since(home, PARAMS, data_dir, folds_csv)
    assert not lacking
    return differing


def test_the_same_data_differ_in_nothing_wherever_they_lie(data, tmp_path):
    home = tmp_path / "outputs" / "mine"
    assert since(home, data) == {}  # nothing is made yet
    make_run(home, data)
    assert since(home, data) == {}
    shutil.move(data, tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere").rglob("*.wav"):
        os.utime(path)
    assert since(home, tmp_path / "elsewhere") == {}


def swap_labels(data):
    path = data / "train_curated.csv"
    path.write_text(path.read_text().replace("0.wav,a", "0.wav,b"))


def lose_half(data):
    path = data / "train_curated.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:5]) + "\n")


def first(data):
    return sorted((data / "train_curated").glob("*"))[0]


def lose_one(data):
    first(data).unlink()


def test_the_group_of_a_noisy_clip_is_one_of_its_data(data, tmp_path):
    """A noisy clip of a held-out recording must not train: what was trained before its group was known is outdated."""
    home = tmp_path / "outputs" / "mine"
    make_run(home, data)
    noisy = home / "04_kfold" / "curated_noisy"
    (noisy / "without_0").mkdir(parents=True)
    (noisy / "without_0" / "result.json").write_text("{}")
    digests = changes.now(home, PARAMS, data, None)
    (noisy / "configuration.json").write_text(json.dumps({**digests, "lr": 0.1}))
    assert since(home, data) == {}
    curated, wrong = (pd.read_csv(data / f"train_{part}.csv")["fname"][0] for part in ("curated", "noisy"))
    (data / "groups.csv").write_text(f"fname,group\n{wrong},{curated}\n")
    differing = since(home, data)
    assert list(differing) == ["04_kfold/curated_noisy"]
    assert "groups of noisy clips" in differing["04_kfold/curated_noisy"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (swap_labels, ["labels of curated clips", "folds"]),
        (lose_half, ["labels of curated clips", "audio of curated clips", "folds"]),
        (lambda data: write_clip(first(data), 77), ["audio of curated clips"]),
        (lose_one, ["labels of curated clips", "audio of curated clips", "folds"]),
    ],
)
def test_what_differs_is_named(data, tmp_path, change, named):
    home = tmp_path / "outputs" / "mine"
    make_run(home, data)
    change(data)
    (why,) = since(home, data).values()
    assert all(words in why for words in named) and " there, " in why and why.count(" now") == len(named)


def test_noisy_clips_that_a_part_did_not_read_are_no_difference(data, tmp_path):
    home = tmp_path / "outputs" / "mine"
    make_run(home, data)
    write_clip(sorted((data / "train_noisy").glob("*"))[0], 77)
    assert since(home, data) == {}


def test_other_folds_and_other_groups_are_told(data, tmp_path):
    home, csv = tmp_path / "outputs" / "mine", tmp_path / "mine.csv"
    make_run(home, data)
    table = pd.read_csv(home / "folds.csv")
    table.assign(fold=1 - table["fold"]).to_csv(csv, index=False)
    assert (
        list(since(home, data, csv)) == ["04_kfold/curated"] and "folds: " in since(home, data, csv)["04_kfold/curated"]
    )
    other = tmp_path / "outputs" / "other"
    make_run(other, data, csv)
    assert since(other, data, csv) == {} and "folds: " in since(other, data)["04_kfold/curated"]
    pairs = table["fname"].tolist()
    pd.DataFrame({"fname": pairs, "group": [f"g{i // 4}" for i in range(8)]}).to_csv(data / "groups.csv", index=False)
    assert "folds: " in since(home, data)["04_kfold/curated"]


def test_a_clip_that_cannot_be_decoded_is_left_out_as_the_run_did(data, tmp_path):
    home = tmp_path / "outputs" / "mine"
    bad = first(data)
    soundfile.write(bad, np.full(4000, np.nan, np.float32), 8000, subtype="FLOAT")
    make_run(home, data)
    assert len(pd.read_csv(home / "folds.csv")) == 7 and since(home, data) == {}


def test_test_clips_that_come_are_no_difference_but_those_that_change_are(data, tmp_path):
    home = tmp_path / "outputs" / "mine"
    late = data / "test" / "t2.wav"
    late.rename(tmp_path / "t2.wav")
    make_run(home, data)
    submission = home / "08_submission" / "curated"

    def contents():
        return changes.of_test(data, home.parent / "cache")[1]

    assert since(home, data) == {} and not changes.has_come_since(submission, contents())  # nothing has come
    how = (submission / "how.csv").read_text()
    (submission / "how.csv").write_text(how.replace(",missing,", f",{changes.LATE},"))
    assert changes.has_come_since(submission, contents())  # there may be time now
    (submission / "how.csv").write_text(how)
    (tmp_path / "t2.wav").rename(late)
    differing, lacking = changes.since(home, PARAMS, data, None)
    assert differing == {} and "audio of test clips" in lacking["08_submission/curated"]
    (submission / "how.csv").write_text("\n".join(line for line in how.splitlines() if not line.startswith("t2.wav")))
    assert changes.has_come_since(submission, contents())  # a clip more
    for damaged in ("", "fname\n"):
        (submission / "how.csv").write_text(damaged)
        assert not changes.has_come_since(submission, contents())
    (submission / "how.csv").write_text(how)
    write_clip(data / "test" / "t0.wav", 77)
    assert not changes.has_come_since(submission, contents())
    assert list(since(home, data)) == ["08_submission/curated"]
    assert "audio of test clips" in since(home, data)["08_submission/curated"]


def test_a_subset_that_came_or_went_is_told_to_those_that_read_it(data, tmp_path):
    home = tmp_path / "outputs" / "mine"
    noisy = data / "train_noisy"
    noisy.rename(tmp_path / "noisy")
    make_run(home, data)
    all_there = changes.now(home, PARAMS, data, None, with_folds=False)
    curated = {key: {"curated": found["curated"]} for key, found in all_there.items()}
    for part, told in {"01_eda": all_there, "05_curation/select": curated}.items():
        (home / part).mkdir(parents=True)
        (home / part / "result.json").write_text("{}")
        (home / part / "configuration.json").write_text(json.dumps(told))
    assert since(home, data) == {}
    (tmp_path / "noisy").rename(noisy)
    found = since(home, data)
    assert list(found) == ["01_eda", "05_curation/select"]
    for why in found.values():
        assert "audio of noisy clips: None there" in why and "labels of noisy clips: None there" in why
    shutil.rmtree(data / "test")
    assert "audio of test clips: '" in since(home, data)["08_submission/curated"]


def test_tables_alone_were_another_set_than_tables_with_audio(data, tmp_path):
    home = tmp_path / "outputs" / "mine"
    labels = changes.now(home, PARAMS, data, None, with_folds=False)["labels"]
    (home / "01_eda").mkdir(parents=True)
    (home / "01_eda" / "result.json").write_text("{}")
    (home / "01_eda" / "configuration.json").write_text(json.dumps({"labels": labels, "audio": {}}))
    assert "audio of curated clips: None there" in since(home, data)["01_eda"]


# configurations


FOLDS = "folds: 'f' there, 'g' now"


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"audio": {"curated": "a"}, "folds": "f"}, ""),
        ({"audio": {"curated": "a", "noisy": "b"}}, ""),  # trained on more, scored on the same
        ({"audio": {"curated": "x", "noisy": "b"}}, "audio of curated clips: 'a' there, 'x' now"),
        (
            {"audio": {"curated": "x"}, "folds": "g"},
            "audio of curated clips: 'a' there, 'x' now, " + FOLDS,
        ),
        ({"data": "made before it was noted", "lr": 7}, ""),
    ],
)
def test_other_data_are_those_of_subsets_that_both_know(other, told):
    assert recipes.other_data({"audio": {"curated": "a"}, "folds": "f", "lr": 1}, other) == told


def test_differences_of_whole_configurations_tell_what_one_side_lacks():
    told = recipes.differences({"lr": 1, "audio": {"curated": "a"}}, {"audio": {"curated": "a", "noisy": "b"}})
    assert told == "audio of noisy clips: None there, 'b' now, lr: 1 there, None now"
    assert recipes.differences({"lr": 1}, {"lr": 1}) == ""
