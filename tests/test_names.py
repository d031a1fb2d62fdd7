"""From end to end: clips whose names pandas takes for a missing value, and names that a Mac writes in another form."""

import unicodedata
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile
from fake_run import CLASSES, LOGMEL, make_run, make_task

from lib.data import datasets
from lib.evaluation import folds
from lib.experiments import curation, training_sets
from lib.files import write_json
from lib.runs import changes, oof, pages
from lib.runs.modelset import ModelSet
from lib.runs.run import Run
from lib.sound import cache, windows
from lib.submission import bundle, submission

NAMES = ["NA", "null", "nan", "None", "NaN"]  # each is a missing value by pandas' defaults
LABELS = ("null", "nan")  # of a set whose classes are called so too


def save(path, i, *, ok=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = 0.1 * np.random.default_rng(i).standard_normal(16000) if ok else np.full(16000, np.nan)
    soundfile.write(path, sound, 8000, subtype="FLOAT")


@pytest.fixture
def data(tmp_path):
    """Kaggle's layout: names without an ending, of which NaN can't be decoded; two clips are of the group NULL."""
    root = tmp_path / "data"
    for i, name in enumerate(NAMES):
        save(root / "train_curated" / f"{name}.wav", i, ok=name != "NaN")
    rows = [f"{name},{LABELS[i % 2]}" for i, name in enumerate(NAMES)]
    (root / "train_curated.csv").write_text("\n".join(["fname,labels", *rows]) + "\n")
    (root / "groups.csv").write_text("fname,group\nNA,NULL\nnull,NULL\nnan,nan\nNone,None\n")
    (root / "sample_submission.csv").write_text("fname,null,nan\nt,0,0\n")
    save(root / "test" / "t.wav", 7)
    return datasets.load(root)


@pytest.fixture
def clips(data):
    return data.clips[data.clips["subset"] == "curated"].reset_index(drop=True)


def test_the_set_and_its_cache_know_every_clip(data, clips, tmp_path):
    assert clips["fname"].tolist() == NAMES and clips["group"].tolist()[:4] == ["NULL", "NULL", "nan", "None"]
    assert data.classes == LABELS
    for _ in range(2):  # made, then read
        store = cache.build(data.clips, LOGMEL, tmp_path / "cache")
        assert sorted(store.index["fname"]) == ["NA", "None", "nan", "null", "t"]
        assert store.problems["fname"].tolist() == ["NaN"]
        assert store.rows(["None", "NA"])["fname"].tolist() == ["None", "NA"]
    assert data.without(store.problems).clips["fname"].tolist() == [*NAMES[:4], "t"]


def test_folds_scores_and_what_05_selected_keep_their_names(data, clips, tmp_path, monkeypatch):
    store = cache.build(data.clips, LOGMEL, tmp_path / "cache")
    clips = clips[clips["fname"] != "NaN"].reset_index(drop=True)
    home = tmp_path / "run"
    dealt = clips[["fname", "group"]].assign(fold=[0, 0, 1, 2])
    folds.settle(home / "folds.csv", dealt)
    dealt = folds.read(home / "folds.csv", clips)
    assert dict(zip(dealt["fname"], dealt["group"], strict=True))["None"] == "None"

    table = windows.rolling(store, store.rows(clips["fname"]), windows.Windows(1.0, 0.5))
    table["fold"] = table["fname"].map(dict(zip(dealt["fname"], dealt["fold"], strict=True)))
    labelled = dealt.merge(clips[["fname", "labels"]], on="fname")
    for fold in range(3):
        part, here = home / "04_kfold" / "curated" / f"without_{fold}", table["fold"] == fold
        part.mkdir(parents=True)
        logits = np.zeros((here.sum(), 2))
        oof.write(part, table[here], logits, labelled[labelled["fold"] == fold], list(LABELS), "bce")
        pd.DataFrame({"epoch": [0]}).to_csv(part / "epochs.csv", index=False)
        write_json(part / "result.json", {})
    scored = ModelSet(home, "curated", 3).clips()
    assert scored.table["fname"].tolist() == ["NA", "None", "nan", "null"]
    assert scored.table["labels"].tolist() == [("null",), ("nan",), ("null",), ("nan",)]
    assert scored.missing == [] and scored.classes == list(LABELS)

    inner = clips[clips["fname"].isin(["nan", "None"])].reset_index(drop=True)  # what may train without fold 0
    cut = windows.rolling(store, store.rows(inner["fname"]), windows.Windows(1.0, 0.5)).assign(silent=False)
    said = []
    for judge, fname, label in (("without_0_1", "nan", "null"), ("without_0_2", "None", "nan")):
        rows = np.flatnonzero(cut["fname"] == fname)
        said.append((judge, rows, np.float32(np.eye(2)[[LABELS.index(label)] * len(rows)])))
    evidence = curation.gather(inner, cut.assign(window_end_s=cut["window_start_s"] + 1), LABELS, said)
    selected = home / "05_curation" / "select"
    for path, found in (
        (selected / "top_1" / "without_0" / "kept_windows.csv", curation.select(evidence, "top_1")),
        (selected / "heard" / "without_0" / "heard.csv", curation.predicted_labels(evidence)),
    ):
        path.parent.mkdir(parents=True)
        found.to_csv(path, index=False)
    write_json(selected / "configuration.json", {"folds": folds.digest(dealt)})
    monkeypatch.setattr(Run, "home", property(lambda self: home))
    params = {"train_set": "curated", "train_windows": "kept", "rule": "top_1", "ignore_missing": False, "loss": "bce"}
    folder = home / "04_kfold" / "kept_curated" / "without_0"
    run = Run("04_kfold", {**params, "window_s": 1.0, "trim_train_db": 0.0, "data_dir": "demo"}, folder, folder.parent)
    found = training_sets.make(run, make_task(clips, dealt, store, LABELS))
    assert sorted(found.rows["fname"].unique()) == ["None", "nan"]
    assert found.targets.sum() == 2 and sorted(found.judges["fname"]) == ["None", "nan"]


def test_a_submission_keeps_their_rows(tmp_path):
    names = ["NA", "null", "None"]
    for i, name in enumerate(names[:2]):
        save(tmp_path / "test" / f"{name}.wav", i)
    rows = [f"{name},0,0,0" for name in names]
    (tmp_path / "sample_submission.csv").write_text("\n".join([f"fname,{','.join(CLASSES)}", *rows]) + "\n")
    data = datasets.load_test(tmp_path)
    _, contents = changes.of_test(tmp_path, tmp_path / "cache")
    data = replace(data, clips=data.clips.assign(content=data.clips["fname"].map(contents)))
    packed = bundle.gather(make_run(tmp_path / "runs" / "first"), "curated")
    made = submission.predict(data, packed, submission.load(packed))
    submission.write(tmp_path / "made", data, made)
    read = submission.read(tmp_path / "made", data)
    assert read.how["fname"].tolist() == names
    assert (read.how["problem"] != "").tolist() == [False, False, True]
    np.testing.assert_array_equal(read.scores, made.scores)
    assert not changes.has_come_since(tmp_path / "made", contents)
    save(tmp_path / "test" / "None.wav", 2)
    _, contents = changes.of_test(tmp_path, tmp_path / "cache")
    assert changes.has_come_since(tmp_path / "made", contents)  # None has come, the others are as they were


def test_a_finding_may_be_called_so(tmp_path):
    (tmp_path / "t.csv").write_text("variant,n,verdict\nNA,3,\nnull,4,None\n")
    assert (
        pages.fill("{{ n('t', 'NA', 'n') }} {{ n('t', 'null', 'n') }} {{ n('t', 'null', 'verdict') }}", tmp_path)
        == "3 4 None"
    )


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("in_table", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_is_found_in_either_form_of_unicode(tmp_path, in_table, on_disk, zipped):
    """A Mac unpacks "é" as "e" and an accent; fname stays as the table has it."""
    named, stored = (unicodedata.normalize(form, "Café Ñ") for form in (in_table, on_disk))
    assert named != stored
    root = tmp_path / "data"
    save(root / "train_curated" / f"{stored}.wav", 0)
    save(root / "test" / f"{stored}.wav", 1)
    if zipped:
        for folder in ("train_curated", "test"):
            with zipfile.ZipFile(root / f"{folder}.zip", "w") as archive:
                archive.write(root / folder / f"{stored}.wav", f"{folder}/{stored}.wav")
            (root / folder / f"{stored}.wav").unlink()
    (root / "train_curated.csv").write_text(f"fname,labels\n{named}.wav,Rain\n", encoding="utf-8")
    (root / "sample_submission.csv").write_text(f"fname,Rain\n{named}.WAV,0\n", encoding="utf-8")
    data = datasets.load(root)
    assert data.problems.empty and data.clips["fname"].tolist() == [f"{named}.wav", f"{named}.WAV"]
    assert cache.build(data.clips, LOGMEL, tmp_path / "cache").problems.empty
    asked = datasets.load_test(root).clips
    assert asked["fname"].tolist() == [f"{named}.WAV"] and asked["path"].tolist() == data.clips["path"].tolist()[1:]
