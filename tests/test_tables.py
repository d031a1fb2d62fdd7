"""A table as a data set: what its rows may be like, what is said of those that can't be used, and what truth may do."""

import re
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from fake_run import LOGMEL

from lib.data import audio, datasets, demo, tables
from lib.evaluation import folds
from lib.experiments import probes
from lib.runs import plan
from lib.runs.run import Run
from lib.sound import cache, windows
from lib.training import learners
from lib.training.models import Network
from lib.training.task import Task

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["a0.wav", "deep/a1.wav", "a2.wav", "b0.wav", "b1.wav", "n0.wav", "t0.wav", "t1.wav"]
ROWS = [
    "a0.wav,dog,curated,g0,dog",
    "deep/a1.wav,dog,curated,g1,dog",
    'a2.wav,"cat,dog",curated,g2,"cat,dog"',
    "b0.wav,cat,curated,g3,?",
    "b1.wav,cat,curated,g3,cat",
    "n0.wav,dog,noisy,g4,",
    "t0.wav,,test,g5,cat",
    "t1.wav,,test,g6,?",
]
# the same without their true labels
UNTOLD = [row.rpartition(',"' if row.endswith('"') else ",")[0] for row in ROWS]
HEADER = "fname,labels,subset,group,true_labels"


def save(path: Path, seed: int = 0, rate: int = 8000, n_channels: int = 1, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = np.random.default_rng(seed).uniform(-0.5, 0.5, (int(rate * seconds), n_channels))
    soundfile.write(path, sound, rate)


@pytest.fixture
def make(tmp_path):
    """Writes a table of these rows below a header, with the sounds of NAMES beside it, and returns its path."""
    for seed, name in enumerate(NAMES):
        save(tmp_path / name, seed)

    def write(rows=ROWS, header=HEADER, name="clips.csv") -> Path:
        (tmp_path / name).write_bytes("\n".join([header, *rows, ""]).encode("utf-8", "surrogateescape"))
        return tmp_path / name

    return write


def found(data: datasets.Dataset) -> list[tuple]:
    return list(data.problems.itertuples(index=False, name=None))


def names(data: datasets.Dataset) -> list[str]:
    return data.clips["fname"].tolist()


# What it says


def test_a_table_or_its_folder_is_a_data_set(make, tmp_path):
    table = make()
    for root in (table, tmp_path):
        data = datasets.load(root)
        assert data.layout == "table" and data.classes == ("cat", "dog") and data.problems.empty
        assert names(data) == NAMES and data.clips["path"].tolist() == [str(tmp_path / name) for name in NAMES]
        assert data.clips["subset"].tolist() == ["curated"] * 5 + ["noisy"] + ["test"] * 2
        assert data.clips["group"].tolist() == ["g0", "g1", "g2", "g3", "g3", "g4", "g5", "g6"]
        assert data.clips["labels"].tolist()[2] == ("cat", "dog") and data.clips["labels"].tolist()[-1] == ()
        assert data.clips["true_labels"].tolist() == [
            *(("dog",), ("dog",), ("cat", "dog"), None, ("cat",), (), ("cat",), None),
        ]
        assert datasets.with_audio(root) == {"curated", "noisy", "test"}
    assert datasets.load(make(name="other.csv")).classes == ("cat", "dog")


def test_fname_and_labels_are_enough(make):
    data = datasets.load(make(["a0.wav,dog", "b0.wav,cat"], "fname,labels"))
    assert set(data.clips["subset"]) == {"curated"} and names(data) == data.clips["group"].tolist()
    assert data.clips["true_labels"].tolist() == [None, None] and data.clips["fold"].isna().all()
    ((name, subset, reason, usable),) = found(data)
    assert (name, subset, usable) == ("clips.csv", "", True)
    assert reason.startswith(
        "no column group: every clip is its own group, so clips of one recording can be in training"
    )


def test_tables_alone_tell_labels_without_audio(make, tmp_path):
    table = make()
    for name in NAMES:
        (tmp_path / name).unlink()
    assert len(datasets.load(table, with_audio=False).clips) == 8 and datasets.with_audio(table) == frozenset()
    with pytest.raises(
        FileNotFoundError, match=r"has 8 clips, but no audio. Looked for a0.wav in .*as a path from there"
    ):
        datasets.load(table)


@pytest.mark.parametrize("first", [0, 1])
def test_published_folds_count_from_0_or_from_1(make, first):
    rows = [f"{name},{'dog' if i % 2 else 'cat'},g{i},{first + i % 2}" for i, name in enumerate(NAMES[:4])]
    header = "fname,labels,group,fold"
    data = datasets.load(make(rows, header))
    assert data.clips["fold"].tolist() == [0, 1, 0, 1] and not found(data)
    data = datasets.load(make([*rows, "b1.wav,cat,g9,"], header))
    assert found(data) == [("clips.csv", "", "1 of 5 curated clips have no fold: folds are made anew", True)]
    dealt = folds.make(data.clips, datasets.targets(data.clips, data.classes), 2, folds.SEED)
    assert dealt["fold"].nunique() == 2 and len(dealt) == 5


def test_true_labels_that_are_no_class_count_as_none(make):
    data = datasets.load(make([*ROWS[:5], 'n0.wav,dog,noisy,g4,"frog,cat"']))
    assert data.clips["true_labels"].tolist()[-1] == ("cat",)
    assert found(data) == [
        ("clips.csv", "", "true_labels name 'frog': they are not among the classes and are ignored", True)
    ]


# Rows and clips that can't be used


@pytest.mark.parametrize(
    "row, fname, reason",
    [
        ("gone.wav,dog,curated,g9,", "gone.wav", "missing"),
        ("/etc/a0.wav,dog,curated,g9,", "/etc/a0.wav", "points outside the table's folder: give a path within it"),
        ("C:/a0.wav,dog,curated,g9,", "C:/a0.wav", "points outside the table's folder: give a path within it"),
        ("deep/../../x.wav,dog,curated,g9,", "deep/../../x.wav", "points outside the table's folder"),
        ("deep\\a1.wav,dog,curated,g9,", "deep\\a1.wav", "a backslash in fname: write / between folders"),
        ("x.wav,dog,cat,curated,g9,", "x.wav", "6 fields, expected 5 (quote labels that are joined by commas)"),
        ("x.wav,dog,train,g9,", "x.wav", "subset 'train', expected curated, noisy, test"),
        ("x.wav,,curated,g9,", "x.wav", "no labels: only test clips may be without"),
        ('x.wav,",",test,g9,', "x.wav", "no labels: only test clips may be without"),
        (",dog,curated,g9,", "clips.csv, line 10", "no fname"),
        ('x.wav,"dog,curated,g9,', "x.wav", "a quote is not closed"),
        ("x\udcff.wav,dog,curated,g9,", "x\\udcff.wav", "bytes that are no UTF-8"),
        ("x.wav,frog,test,g9,", "x.wav", "label 'frog' is outside the vocabulary (nearest: 'dog')"),
        ("x.wav,Dog,noisy,g9,", "x.wav", "label 'Dog' is outside the vocabulary (nearest: 'dog')"),
        ("a0.wav,dog,curated,g1,dog", "a0.wav", "rows with different group"),
    ],
)
def test_a_bad_row_is_listed_and_costs_no_other(make, tmp_path, row, fname, reason):
    save(tmp_path / "x.wav", 99)
    data = datasets.load(make([*ROWS, row]))
    ((name, _, why, usable),) = found(data)
    assert (name, usable) == (fname, False) and reason in why
    assert names(data) == [name for name in NAMES if name != fname]
    assert not data.problems.merge(data.clips, on=["fname", "subset"]).query("not usable").size
    with pytest.raises(ValueError, match=r"1 clips can't be used, [78] can: .*strict=False"):
        datasets.load(tmp_path, strict=True)


@pytest.mark.parametrize("rows", [[*ROWS, "a0.wav,cat,test,g0,dog"], ["a0.wav,cat,test,g0,dog", *ROWS]])
def test_a_test_clip_that_is_listed_for_training_too_is_scored_and_not_trained_on(make, rows):
    table = make(rows)
    data = datasets.load(table)
    ((name, subset, why, usable),) = found(data)
    assert (name, subset, usable) == ("a0.wav", "curated", False)
    assert why == "rows with different subset and labels: scored as a test clip, not trained on"
    assert data.clips.set_index("fname").at["a0.wav", "subset"] == "test"
    assert "a0.wav" in datasets.load_test(table).clips["fname"].tolist()


def test_a_label_in_composed_or_decomposed_letters_is_one_class(make):
    table = make([*ROWS, "x.wav,\u00e9cho,curated,g7,", "y.wav,e\u0301cho,curated,g8,"])
    for seed, name in enumerate(("x.wav", "y.wav"), 90):
        save(table.parent / name, seed)
    data = datasets.load(table)
    assert data.classes == ("cat", "dog", "\u00e9cho") and found(data) == []


@pytest.mark.parametrize("alike", ["Dog", "dog\u200b", "\uff44og"])
def test_classes_that_look_alike_are_listed(make, alike):
    table = make([*ROWS, f"x.wav,{alike},curated,g7,"])
    save(table.parent / "x.wav", 90)
    data = datasets.load(table)
    ((name, _, reason, usable),) = found(data)
    assert (name, usable) == ("clips.csv", True) and len(data.classes) == 3
    assert "'dog'" in reason and ascii(alike) in reason and "look alike" in reason


def test_groups_that_look_alike_are_listed_and_accents_make_no_second_one(make):
    table = make([*ROWS, "x.wav,dog,curated,Room 1,", "y.wav,dog,curated,room 1,", "z.wav,cat,curated,\u00e9,"])
    table.write_text(table.read_text().rstrip("\n") + "\nw.wav,cat,curated,e\u0301,\n", encoding="utf-8")
    for seed, name in enumerate("xyzw", 90):
        save(table.parent / f"{name}.wav", seed)
    data = datasets.load(table)
    ((name, _, reason, usable),) = found(data)
    assert (name, usable) == ("clips.csv", True) and "groups 'Room 1', 'room 1' look alike" in reason
    assert data.clips.set_index("fname").loc[["z.wav", "w.wav"], "group"].nunique() == 1


@pytest.mark.parametrize("joined", ["cat;dog", "cat | dog", "dog/cat"])
def test_labels_that_are_not_joined_by_commas_are_listed(make, joined):
    table = make([*ROWS, f"x.wav,{joined},curated,g7,"])
    save(table.parent / "x.wav", 90)
    ((_, _, reason, usable),) = found(datasets.load(table))
    assert usable and f"class {joined!r} is made of other classes: labels are joined by commas" in reason


def test_an_unknown_label_that_looks_like_a_class_is_shown_by_its_letters(make):
    table = make([*ROWS, "x.wav,dog\u200b,test,g7,"])
    save(table.parent / "x.wav", 90)
    ((_, _, reason, _),) = found(datasets.load(table))
    assert reason == r"label 'dog\u200b' is outside the vocabulary (nearest: 'dog')"


def test_a_row_that_stands_twice_is_one(make):
    data = datasets.load(make([*ROWS, ROWS[2]]))
    assert names(data) == NAMES and found(data) == [("a2.wav", "curated", "row repeated: one is used", True)]
    data = datasets.load(make([*ROWS, "a0.wav,dog,cat,curated,g0,dog"]))  # the second makes no sense: which is meant?
    assert names(data) == NAMES[1:] and not found(data)[0][3]


def test_bom_crlf_blank_lines_and_blanks_change_nothing(make):
    plain = datasets.load(make())
    text = "\r\n\r\n".join([HEADER, *ROWS, ""]).replace(",", " , ").replace('" ', '"').replace(' "', '"')
    path = make(name="clips.csv")
    path.write_bytes(b"\xef\xbb\xbf" + text.replace(' ,"', ',"').encode())
    spaced = datasets.load(path)
    pd.testing.assert_frame_equal(spaced.clips, plain.clips)
    assert spaced.classes == plain.classes and spaced.problems.empty


@pytest.mark.parametrize("kind, rate, n_channels", [("mp3", 44100, 2), ("flac", 8000, 1), ("ogg", 22050, 1)])
def test_any_format_rate_and_number_of_channels(make, tmp_path, kind, rate, n_channels):
    name = f"sounds here/ä {kind}.{kind}"
    save(tmp_path / name, 9, rate, n_channels)
    data = datasets.load(make([*ROWS, f"{name},dog,curated,g9,dog"]))
    assert names(data)[-1] == name and data.clips["sample_rate"].tolist()[-1] == rate
    assert all(usable for *_, usable in found(data)) and len(found(data)) == (n_channels > 1) + (rate != 8000)
    store = cache.build(data.clips, LOGMEL, tmp_path / "cache")
    assert store.problems.empty and store.rows([name])["n_frames"].item() > 10


def test_a_clip_and_a_class_may_be_called_NA(make, tmp_path):
    save(tmp_path / "NA.wav", 9)
    data = datasets.load(make([*ROWS[:5], "NA,NA,curated,NA,NA"]))
    assert names(data)[-1] == "NA" and data.classes == ("NA", "cat", "dog") and data.problems.empty
    store = cache.build(data.clips, LOGMEL, tmp_path / "cache")
    again = cache.build(data.clips, LOGMEL, tmp_path / "cache")  # as it lies on disk
    assert again.index["fname"].tolist() == store.index["fname"].tolist() and "NA" in set(again.index["fname"])
    dealt = folds.make(data.clips, datasets.targets(data.clips, data.classes), 2, folds.SEED)
    assert folds.settle(tmp_path / "folds.csv", dealt).equals(folds.settle(tmp_path / "folds.csv", dealt))


def test_clips_of_an_archive_beside_the_table(make, tmp_path):
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as opened:
        opened.write(tmp_path / "a0.wav", "packed/z.wav")
    data = datasets.load(make([*ROWS[1:], "packed/z.wav,dog,curated,g9,"]))
    assert data.problems.empty and data.clips["path"].tolist()[-1].endswith("packed.zip!packed/z.wav")


@pytest.mark.parametrize(
    "header, message",
    [
        ("fname;labels", r"has columns \['fname;labels'\], lacks \['fname', 'labels'\]. Save it as CSV with commas"),
        ("name,labels", r"lacks \['fname'\]"),
        ("fname,labels,labels", r"columns \['labels'\] appear twice. Keep one"),
        ("fname,labels,groups", "no column 'groups' in a table of clips. Rename it: group"),
        ("fname,labels,true labels", "no column 'true labels' in a table of clips. Rename it: true_labels"),
    ],
)
def test_a_table_that_cannot_be_understood_is_refused(make, header, message):
    row = ",".join(["a0.wav", *["dog"] * header.count(",")])
    for read in (datasets.load, datasets.load_test, datasets.with_audio):
        with pytest.raises(ValueError, match=message):
            read(make([row], header))


def test_other_columns_are_listed_and_not_read(make):
    data = datasets.load(make([f"{row},CC BY" for row in ROWS], f"{HEADER},license"))
    assert found(data) == [("clips.csv", "", "columns that are not read: license", True)] and names(data) == NAMES


def test_a_table_without_a_curated_clip_has_nothing_to_learn(make, tmp_path):
    with pytest.raises(ValueError, match="no curated clip has a label, so no class can be learned. Add curated rows"):
        datasets.load(make([row for row in ROWS if "curated" not in row]))
    (tmp_path / "table.xlsx").touch()
    with pytest.raises(ValueError, match=r"table.xlsx: a file, but not a .csv"):
        datasets.load(tmp_path / "table.xlsx")
    with pytest.raises(ValueError, match=r"classes \['seed'\] have a comma, .* or the name of a column"):
        datasets.load(make(["a0.wav,seed"], "fname,labels"))


def test_a_missing_clip_is_not_given_the_file_of_another(make, tmp_path):
    """s/1.mp3 may be there as s/1.wav, unless that is a clip of its own."""
    for seed, name in enumerate(["s/1.wav", "s/2.WAV", "s/3.flac"]):
        save(tmp_path / name, 20 + seed)
    more = [
        "s/1.mp3,dog,",
        "s/1.wav,cat,",
        "s/2.wav,cat,",
        "s/3.mp3,dog,",
        "s/2.flac,,test",
        "b0.mp3,,test",
        "b1.WAV,dog,",
    ]
    table = make([*more, "b0.wav,cat,", "b1.wav,cat,"], "fname,labels,subset")
    data = datasets.load(table)
    given = dict(zip(names(data), data.clips["path"].map(lambda path: Path(path).name), strict=True))
    own = {"s/1.wav": "1.wav", "s/2.wav": "2.WAV", "s/3.mp3": "3.flac", "b0.wav": "b0.wav", "b1.wav": "b1.wav"}
    assert given == own
    lost = {row[0]: row[2] for row in found(data) if not row[3]}
    assert lost == dict.fromkeys(["s/1.mp3", "s/2.flac", "b0.mp3", "b1.WAV"], "missing")
    assert datasets.load_test(table).clips.set_index("fname")["path"]["b0.mp3"] == ""


def test_groups_csv_beside_a_table_goes_before_its_groups(make, tmp_path):
    table = make()
    (tmp_path / "groups.csv").write_text("fname,group\na0.wav,one\ndeep/a1.wav,one\n")
    data = datasets.load(table)
    assert data.clips["group"].tolist() == ["one", "one", "g2", "g3", "g3", "g4", "g5", "g6"]
    assert found(data) == [("groups.csv", "", "lacks 4 of 6 clips: their groups are those of the tables", True)]


def test_one_published_fold_is_none(make):
    data = datasets.load(make(["a0.wav,dog,1", "b0.wav,cat,1", "b1.wav,cat,1"], "fname,labels,fold"))
    assert data.clips["fold"].isna().all() and len(data.clips) == 3
    assert ("clips.csv", "", "all clips are in one fold: folds are made anew", True) in found(data)


def test_a_folder_is_found_in_another_unicode_form_and_an_unreadable_one_costs_its_own_clips(
    make, tmp_path, monkeypatch
):
    save(tmp_path / "Gera\u0308usche" / "A\u0308" / "x.wav", 31)
    table = make(["Ger\u00e4usche/\u00e4/x.wav,dog", "b0.wav,cat", "deep/a1.wav,dog"], "fname,labels")
    assert datasets.load(table).clips["path"].map(bool).all()
    scan = audio.os.scandir

    def locked(place):
        if Path(place).name == "deep":
            raise PermissionError(13, "Permission denied")
        return scan(place)

    monkeypatch.setattr(audio.os, "scandir", locked)
    data = datasets.load(table)
    assert names(data) == ["Ger\u00e4usche/\u00e4/x.wav", "b0.wav"]
    assert ("deep/", "", "unreadable: Permission denied", True) in found(data)
    assert ("deep/a1.wav", "curated", "missing", False) in found(data)


@pytest.mark.parametrize(
    "rows, header, message",
    [
        (["a0.wav,dog,train"], "fname,labels,subset", "no class can be learned. a0.wav: .*'train', expected curated"),
        (["a0.wav,dog"], "fname,label", r"lacks \['labels'\]. Rename {'label': 'labels'}"),
        (["a0.wav,dog,g"], "fname,labels,Gr\udcf6\udcdfe", "first line has bytes that are no UTF-8"),
        (
            ["x.wav,dog,", "t0.wav,,test"],
            "fname,labels,subset",
            r"1 can, none of them curated: x.wav .*: missing",
        ),
    ],
)
def test_a_refusal_says_what_was_found(make, rows, header, message):
    with pytest.raises(ValueError, match=message):
        datasets.load(make(rows, header))


def test_a_column_that_only_sounds_like_one_that_is_there_is_not_read(make):
    data = datasets.load(make(["a0.wav,dog,g,0,x", "b0.wav,cat,h,1,y"], "fname,labels,group,fold,folder"))
    assert found(data) == [("clips.csv", "", "columns that are not read: folder", True)]


def test_a_refused_table_costs_nothing_that_is_there(make, tmp_path, monkeypatch):
    """Neither a run nor a cache is begun; the pipeline stops before it moves anything."""
    monkeypatch.setattr("lib.runs.run.ROOT", tmp_path / "workbook")
    params = {"run": "r", "data_dir": str(make(["a0.wav"], "fname")), "strict": False, "esc10_only": False}
    run = Run("04_kfold", params, tmp_path / "workbook/outputs/r/04_kfold", tmp_path / "workbook/outputs/r/04_kfold")
    with pytest.raises(ValueError, match="lacks"):
        run.task()
    with pytest.raises(ValueError, match="lacks"):
        plan.Plan.read("esc50-noisy", "r", params["data_dir"]).wanted("04")
    assert not (tmp_path / "workbook").exists()


def test_20_000_rows_take_seconds(tmp_path):
    save(tmp_path / "audio/0.wav", seconds=0.02)
    sound = (tmp_path / "audio/0.wav").read_bytes()
    for i in range(20_000):
        (tmp_path / f"audio/{i}.wav").write_bytes(sound + i.to_bytes(3, "little"))
    rows = [f'audio/{i}.wav,"dog,c{i % 50}",clip {i % 999}' for i in range(20_000)]
    (tmp_path / "clips.csv").write_text("\n".join(["fname,labels,group", *rows]))
    begun = time.monotonic()
    data = datasets.load(tmp_path)
    assert time.monotonic() - begun < 30  # 5 on two idle cores
    assert len(data.clips) == 20_000 and data.problems.empty and len(data.classes) == 51


# Test clips


def test_test_clips_may_be_without_labels_and_true_ones_score(make):
    data = datasets.load_test(make([*ROWS, "gone.wav,dog,test,g9,?", "odd.wav,frog,test,g9,?", "x.wav,a,b,test,g9,?"]))
    assert names(data) == ["t0.wav", "t1.wav", "gone.wav", "odd.wav"] and data.classes == ("cat", "dog")
    assert data.clips["labels"].tolist() == [("cat",), (), ("dog",), ()]
    assert data.clips["path"].map(bool).tolist() == [True, True, False, False]
    reasons = {name: reason for name, _, reason, _ in found(data) if reason != "missing"}
    assert reasons["odd.wav"].endswith("outside the vocabulary (nearest: 'dog'): it counts as not labelled")
    assert reasons["x.wav"].startswith("malformed row (clips.csv, line 12): 6 fields, expected 5")
    with pytest.raises(FileNotFoundError, match="no clips to tag. Give them a row each, with the subset test"):
        datasets.load_test(make(ROWS[:5]))


def test_a_table_of_test_clips_alone_has_the_classes_of_the_weights(make):
    data = datasets.load_test(make(["t0.wav,,test", "t1.wav,,test"], "fname,labels,subset"))
    assert data.classes == () and names(data) == ["t0.wav", "t1.wav"] and set(data.clips["labels"]) == {()}


# Truth


def test_clips_whose_truth_is_known_tell_what_a_rule_keeps(make):
    data = datasets.load(make())
    clips = data.clips[data.clips["subset"] != "test"]
    known = demo.read_truth(data.root, clips, data.classes)
    assert known.spans is None and "b0.wav" not in known.labels.index and len(known.labels) == 5
    assert probes.wrong(known, clips, data.classes).any(axis=1).tolist()[-1]  # n0: none of the classes is heard
    without = datasets.load(make(UNTOLD, HEADER[:-12]))
    assert demo.read_truth(without.root, without.clips, without.classes) is None


@pytest.mark.parametrize("rows, header", [([f"{row},cat" for row in UNTOLD], HEADER), (UNTOLD, HEADER[:-12])])
def test_true_labels_choose_nothing(make, tmp_path, rows, header):
    """Clips, digests, folds, caches and a training are the same to the last bit, whatever they say."""
    made = []
    for table in (make(), make(rows, header, "other.csv")):
        data = datasets.load(table)
        store = cache.build(data.clips, LOGMEL, tmp_path / "cache")
        curated = data.clips[data.clips["subset"] == "curated"]
        dealt = folds.make(curated, datasets.targets(curated, data.classes), 2, folds.SEED)
        task, recipe = Task(data, dealt, store), learners.Recipe(epochs=2, batch_size=2)
        how = (Network("test_resnet", 0), windows.Windows(0.32, 0.16), recipe, 1)
        fit = learners.train_fold(task, "without_0", *how, checkpoint=tmp_path / "checkpoint.safetensors")
        made.append((data, task.identity, store.name, fit.logits))
    (data, *one), (other, *two) = made
    assert not data.clips["true_labels"].equals(other.clips["true_labels"])
    pd.testing.assert_frame_equal(data.clips.drop(columns="true_labels"), other.clips.drop(columns="true_labels"))
    assert one[:2] == two[:2] and np.array_equal(one[2], two[2])


def test_nobody_reads_true_labels_but_reports():
    """05 reports by `demo.read_truth`, 08 by `datasets.load_test`; what trains, selects or caches never reads them."""
    read = [path.name for path in (ROOT / "lib").rglob("*.py") if re.search("true_labels", path.read_text())]
    assert sorted(read) == ["datasets.py", "demo.py", "tables.py"]


# Real audio


def test_a_blank_before_a_quote_is_no_part_of_a_label(tmp_path):
    (tmp_path / "clips.csv").write_text('fname, labels, group\n0.wav, "dog", a\n1.wav,dog,b\n2.wav, "dog,rain", c\n')
    found, classes = tables.clips(tmp_path / "clips.csv", [])
    assert classes == ("dog", "rain") and found["2.wav"]["labels"] == ("dog", "rain")


def test_labels_in_brackets_are_refused(tmp_path):
    (tmp_path / "clips.csv").write_text("fname,labels,group\n0.wav,\"['dog', 'cat']\",a\n1.wav,dog,b\n")
    found, classes = tables.clips(tmp_path / "clips.csv", findings := [])
    assert classes == ("dog",) and list(found) == ["1.wav"]
    assert "labels are a list in brackets: write dog,cat" in findings[0][2]


def test_real_esc50_noisy(shared_data):
    data = datasets.load(shared_data("esc50") / "noisy.csv", strict=True)
    assert data.clips["subset"].value_counts().to_dict() == {"noisy": 798, "curated": 640, "test": 320}
    assert len(data.classes) == 40 and data.problems.empty
    noisy = data.clips[data.clips["subset"] == "noisy"]
    heard = [true == labels for true, labels in zip(noisy["true_labels"], noisy["labels"], strict=True)]
    assert np.mean(heard) == pytest.approx(0.45, abs=0.01) and (
        noisy["true_labels"].map(len) == 0
    ).mean() == pytest.approx(0.2, abs=0.01)
    test = datasets.load_test(shared_data("esc50") / "noisy.csv")
    assert len(test.clips) == 320 and test.clips["labels"].map(len).eq(1).all()
