"""The layouts with a folder a subset, every fault that a data set can have, and what is said about it."""

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from lib.data import audit, datasets

RATE = 44100
META = "FSDKaggle2019.meta"


def sound(seed: int, rate: int = RATE, n_channels: int = 1, n_samples: int = 441) -> np.ndarray:
    """Noise, 10 ms unless told, another one for each seed."""
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (n_samples, n_channels))


def save(path: Path, seed: int = 0, rate: int = RATE, n_channels: int = 1, **kind) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound(seed, rate, n_channels), rate, **kind)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def kaggle(tmp_path) -> Path:
    """Kaggle's layout: curated c0 to c3, noisy n0 and n1, test t0 and t1, classes in an order that no alphabet has."""
    root = tmp_path / "data"
    write(
        root / "train_curated.csv", "fname,labels", "c0.wav,Rain", 'c1.wav,"Rain,Bark"', "c2.wav,Bark", "c3.wav,Tap_(a)"
    )
    write(root / "train_noisy.csv", "fname,labels", "n0.wav,Bark", "n1.wav,Rain")
    write(root / "sample_submission.csv", "fname,Rain,Bark,Tap_(a)", "t0.wav,0,0,0", "t1.wav,0,0,0")
    for seed, name in enumerate(["c0", "c1", "c2", "c3", "n0", "n1", "t0", "t1"]):
        folder = {"c": "train_curated", "n": "train_noisy", "t": "test"}[name[0]]
        save(root / folder / f"{name}.wav", seed)
    return root


@pytest.fixture
def zenodo(tmp_path) -> Path:
    """Zenodo's layout, tables in the meta folder."""
    root, url = tmp_path / "zenodo", "http://www.flickr.com/videos/{}/{}/"
    released = "_post_competition.csv"
    write(
        root / META / f"train_curated{released}",
        "fname,labels,freesound_id,license",
        "c0.wav,Rain,77,CC-BY",
        "c1.wav,Bark,,CC-BY",
    )
    write(
        root / META / f"train_noisy{released}",
        "fname,labels,flickr_video_URL,license",
        f'n0.wav,"Bark,Rain",{url.format("1@N07", 5)},"CC, BY"',
        f"n1.wav,Bark,{url.format('1@N07', 6)},CC",
        "n2.wav,Bark,gone,CC",
    )
    write(root / META / f"test{released}", "fname,labels,usage,freesound_id,license", "t0.wav,Bark,Private,78,CC")
    write(root / META / "vocabulary.csv", "0,Rain", "1,Bark")
    for seed, name in enumerate(
        ["train_curated/c0", "train_curated/c1", "train_noisy/n0", "train_noisy/n1", "train_noisy/n2", "test/t0"]
    ):
        save(root / f"FSDKaggle2019.audio_{name}.wav", seed)
    return root


@pytest.fixture
def esc50(tmp_path) -> Path:
    """ESC-50's layout; the sounds are ogg and flac, the table says wav."""
    root = tmp_path / "esc"
    write(
        root / "meta/esc50.csv",
        "filename,fold,target,category,esc10,src_file,take",
        "1-7-A-9.wav,1,9,rain,True,7,A",
        "1-7-B-9.wav,1,9,rain,True,7,B",
        "5-8-A-0.wav,5,0,dog,True,8,A",
        "2-9-A-4.wav,2,4,frog,False,9,A",
    )
    for seed, name in enumerate(["1-7-A-9.ogg", "1-7-B-9.flac", "5-8-A-0.wav", "2-9-A-4.ogg"]):
        save(root / "audio" / name, seed)
    return root


def found(data: datasets.Dataset) -> list[tuple]:
    return list(data.problems.itertuples(index=False, name=None))


def names(data: datasets.Dataset) -> list[str]:
    return data.clips["fname"].tolist()


def zipped(folder: Path) -> Path:
    """The folder as an archive of the same name, in its place."""
    archive = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted(folder.iterdir()):
            opened.write(path, f"{folder.name}/{path.name}")
            path.unlink()
    folder.rmdir()
    return archive


# Layouts


def test_kaggle(kaggle):
    data = datasets.load(kaggle)
    assert data.layout == "kaggle" and data.classes == ("Rain", "Bark", "Tap_(a)") and data.problems.empty
    assert names(data) == ["c0.wav", "c1.wav", "c2.wav", "c3.wav", "n0.wav", "n1.wav", "t0.wav", "t1.wav"]
    first = data.clips.iloc[1].to_dict()
    assert pd.isna(first.pop("fold")) and Path(first.pop("path")).read_bytes()
    assert first == {
        "fname": "c1.wav",
        "subset": "curated",
        "labels": ("Rain", "Bark"),
        "group": "c1.wav",
        "usage": "",
        "true_labels": None,
        "duration_s": 0.01,
        "sample_rate": RATE,
    }
    assert data.clips["labels"].tolist()[-2:] == [(), ()]
    assert datasets.targets(data.clips[:4], data.classes).tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert datasets.targets(data.clips[:0], data.classes).shape == (0, 3)
    assert data.clips["fold"].dtype == "Int64" and data.clips["duration_s"].dtype == float
    assert pd.api.types.is_integer_dtype(data.clips["sample_rate"]) and data.problems["usable"].dtype == bool


def test_the_noisy_subset_is_optional_and_demo_is_marked(kaggle):
    (kaggle / "train_noisy.csv").unlink()
    (kaggle / "demo.json").write_text("{}")
    data = datasets.load(kaggle)
    assert data.layout == "demo" and set(data.clips["subset"]) == {"curated", "test"}


@pytest.mark.parametrize("in_root", [False, True])
def test_zenodo(zenodo, in_root):
    if in_root:
        for path in (zenodo / META).iterdir():
            path.rename(zenodo / path.name)
    clips = datasets.load(zenodo).clips.set_index("fname")
    assert clips["group"].tolist() == [
        "freesound:77",
        "c1.wav",
        "flickr:1@N07",
        "flickr:1@N07",
        "n2.wav",
        "freesound:78",
    ]
    assert clips.loc["t0.wav", ["subset", "labels", "usage"]].tolist() == ["test", ("Bark",), "Private"]
    assert clips["duration_s"].tolist() == [0.01] * 6 and datasets.load(zenodo).classes == ("Rain", "Bark")


def test_esc50(esc50):
    data = datasets.load(esc50)
    assert data.layout == "esc50" and data.classes == ("dog", "frog", "rain") and data.problems.empty
    assert data.clips["fold"].tolist() == [0, 0, 4, 1] and set(data.clips["subset"]) == {"curated"}
    assert data.clips["group"].tolist() == ["esc:7", "esc:7", "esc:8", "esc:9"]
    assert names(data)[0] == "1-7-A-9.wav" and data.clips["path"][0].endswith("1-7-A-9.ogg")
    ten = datasets.load(esc50, esc10_only=True)
    assert ten.classes == ("dog", "rain") and len(ten.clips) == 3


def test_a_name_without_ending_that_holds_a_dot_is_no_other_clip(esc50):
    table = esc50 / "meta/esc50.csv"
    table.write_text(table.read_text().replace("1-7-A-9.wav", "1-7-A_30.000").replace("1-7-B-9.wav", "1-7-A_30.500"))
    for name in ("1-7-A_30.000.wav", "1-7-A_30.wav"):
        save(esc50 / "audio" / name, 0)
    data = datasets.load(esc50)
    assert found(data) == [("1-7-A_30.500", "curated", "missing", False)]
    assert names(data)[0] == "1-7-A_30.000" and data.clips["path"][0].endswith("1-7-A_30.000.wav")


def test_archives_are_read_without_extracting(kaggle):
    plain = datasets.load(kaggle)
    archives = [zipped(kaggle / folder) for folder in ("train_curated", "test")]
    with zipfile.ZipFile(archives[0], "a") as opened:
        opened.writestr("../evil.wav", b"")
        opened.writestr("/etc/c9.wav", b"")
        opened.writestr("__MACOSX/train_curated/._c0.wav", b"")
        opened.writestr("again/c0.wav", b"")
    listing = sorted(kaggle.rglob("*"))
    data = datasets.load(kaggle)
    same = [name for name in plain.clips if name != "path"]
    pd.testing.assert_frame_equal(data.clips[same], plain.clips[same])
    assert data.clips["path"][0].endswith("train_curated.zip!train_curated/c0.wav")
    outside = "member of train_curated.zip that points outside: ignored"
    assert found(data) == [
        ("../evil.wav", "curated", outside, False),
        ("/etc/c9.wav", "curated", outside, False),
        ("c0.wav", "curated", "several times in train_curated.zip: the first is used", True),
    ]
    assert sorted(kaggle.rglob("*")) == listing


def test_an_archive_cut_short_is_refused_before_the_tables_are_read(kaggle):
    archive = zipped(kaggle / "train_noisy")
    archive.write_bytes(archive.read_bytes()[:-100])
    (kaggle / "train_curated.csv").write_text("nonsense")
    with pytest.raises(ValueError, match=r"train_noisy\.zip: not a whole zip archive .* Download it again"):
        datasets.load(kaggle)
    archive.with_suffix(".z01").touch()
    with pytest.raises(ValueError, match="split archive"):
        datasets.load(kaggle)


def test_nothing_is_written_into_the_data(kaggle):
    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [kaggle, *kaggle.rglob("*")]}

    zipped(kaggle / "test")
    before = state()
    datasets.load(kaggle)
    assert state() == before


def test_tables_alone(kaggle):
    for folder in ("train_curated", "train_noisy", "test"):
        zipped(kaggle / folder).unlink()
    with pytest.raises(FileNotFoundError, match=r"train_noisy/ or train_noisy.zip.*with_audio=False"):
        datasets.load(kaggle)
    data = datasets.load(kaggle, with_audio=False)
    assert len(data.clips) == 8 and data.problems.empty and data.clips["duration_s"].isna().all()
    assert set(data.clips["sample_rate"]) == {0} and set(data.clips["path"]) == {""}


# Groups


def test_groups_of_zenodos_tables_beside_kaggles_and_of_groups_csv(kaggle, zenodo):
    (zenodo / META).rename(kaggle / META)
    write(kaggle / "groups.csv", "fname,group", "c0.wav,mine", "n9.wav,other", "c1.wav", "c0.wav,mine")
    data = datasets.load(kaggle)
    groups = dict(zip(data.clips["fname"], data.clips["group"], strict=True))
    assert [groups[f"{name}.wav"] for name in ("c0", "c1", "n0", "n1", "t0")] == [
        "mine", "c1.wav", "flickr:1@N07", "flickr:1@N07", "freesound:78",
    ]  # fmt: skip
    assert found(data) == [
        ("c1.wav", "", "malformed row (groups.csv, line 4): 1 fields, expected 2", True),
        ("groups.csv", "", "lacks 5 of 6 clips: their groups are those of the tables", True),
    ]


@pytest.mark.parametrize("place", ["groups.csv", "meta/groups.csv"])
def test_groups_csv_lies_beside_esc50s_table_or_in_its_folder(esc50, place):
    write(esc50 / place, "fname,group", "5-8-A-0.wav,esc:7", "2-9-A-4.wav,esc:7")
    data = datasets.load(esc50)
    assert data.clips["group"].tolist() == ["esc:7"] * 4 and data.clips["fold"].nunique() == 3
    assert found(data) == [("groups.csv", "", "lacks 2 of 4 clips: their groups are those of the tables", True)]
    assert datasets.load(esc50, esc10_only=True).clips["group"].tolist() == ["esc:7"] * 3
    write(esc50 / "groups.csv", "fname,group", "5-8-A-0.wav,a")
    write(esc50 / "meta/groups.csv", "fname,group", "5-8-A-0.wav,b")
    with pytest.raises(ValueError, match=r"esc/groups.csv and .*meta/groups.csv: two tables of groups. Keep one"):
        datasets.load(esc50)


@pytest.mark.parametrize(
    "rows, message",
    [
        (["c0,g"], "names none of the 8 clips. Write fname as the other tables do"),
        (["c0.wav,g", "c0.wav,h"], r"\['c0.wav'\] have two groups. Keep one row"),
    ],
)
def test_groups_that_cannot_be_meant_are_refused(kaggle, rows, message):
    write(kaggle / "groups.csv", "fname,group", *rows)
    with pytest.raises(ValueError, match=message):
        datasets.load(kaggle)


# Rows


@pytest.mark.parametrize(
    "row, fname, reason",
    [
        ("c9.wav", "c9.wav", "malformed row (train_curated.csv, line 6): 1 fields, expected 2"),
        (
            "c9.wav,Rain,Bark",
            "c9.wav",
            "malformed row (train_curated.csv, line 6): 3 fields, expected 2 (quote labels that are joined by commas)",
        ),
        (",Rain", "train_curated.csv, line 6", "malformed row (train_curated.csv, line 6): no fname"),
        ("c9.wav,", "c9.wav", "malformed row (train_curated.csv, line 6): no labels"),
        ('c9.wav," ,, "', "c9.wav", "malformed row (train_curated.csv, line 6): no labels"),
        ('c9.wav,"Rain', "c9.wav", "malformed row (train_curated.csv, line 6): a quote is not closed"),
        ("c\udcff.wav,Rain", "c\\udcff.wav", "malformed row (train_curated.csv, line 6): bytes that are no UTF-8"),
        (
            "../c9.wav,Rain",
            "../c9.wav",
            "malformed row (train_curated.csv, line 6): the name points outside the folder of audio",
        ),
        (
            "a\\c9.wav,Rain",
            "a\\c9.wav",
            "malformed row (train_curated.csv, line 6): the name points outside the folder of audio",
        ),
        ("c9.wav,Rain", "c9.wav", "missing"),
        ("c..9.wav,Rain", "c..9.wav", "missing"),
        ("..,Rain", "..", "malformed row (train_curated.csv, line 6): the name points outside the folder of audio"),
        ("c9.wav,rain", "c9.wav", "label 'rain' is outside the vocabulary (nearest: 'Rain')"),
        ("c9.wav,Tap", "c9.wav", "label 'Tap' is outside the vocabulary (nearest: 'Tap_(a)')"),
    ],
)
def test_a_bad_row_is_listed_and_the_others_are_read(kaggle, row, fname, reason):
    with open(kaggle / "train_curated.csv", "ab") as file:
        file.write(f"{row}\n".encode("utf-8", "surrogateescape"))
    if "missing" not in reason:
        save(kaggle / "train_curated" / "c9.wav", 9)
    data = datasets.load(kaggle)
    assert found(data) == [(fname, "curated", reason, False)] and len(data.clips) == 8
    with pytest.raises(ValueError, match=r"1 clips can't be used, 8 can: .*strict=False"):
        datasets.load(kaggle, strict=True)


@pytest.mark.parametrize("fold", ["one", 20 * "9", "-1"])
def test_a_fold_that_is_no_number_is_told_with_its_column(esc50, fold):
    table = pd.read_csv(esc50 / "meta" / "esc50.csv", dtype=str)
    table.loc[0, "fold"] = fold
    table.to_csv(esc50 / "meta" / "esc50.csv", index=False)
    ((_, _, reason, usable),) = found(datasets.load(esc50))
    assert reason.endswith(f"line 2): fold {fold!r} is no whole number from 0") and not usable


def test_the_letters_of_a_label_may_be_composed_or_not(kaggle):
    letters_of = {"sample_submission": "Ra\u00efn", "train_curated": "Rai\u0308n", "train_noisy": "Ra\u00efn"}
    for name, letters in letters_of.items():
        text = (kaggle / f"{name}.csv").read_text().replace("Rain", letters)
        (kaggle / f"{name}.csv").write_text(text, encoding="utf-8")
    data = datasets.load(kaggle)
    assert "Ra\u00efn" in data.classes and found(data) == [] and len(data.clips) == 8


def test_repeated_rows(kaggle):
    with open(kaggle / "train_curated.csv", "a") as file:
        file.write('c0.wav,"Rain,Rain"\nc1.wav," Bark , Rain "\nc2.wav,Rain\nc3.wav,Bark,3\n')
    with open(kaggle / "sample_submission.csv", "a") as file:
        file.write("n0.wav,0,0,0\n")
    data = datasets.load(kaggle)
    assert names(data) == ["c0.wav", "c1.wav", "n0.wav", "n1.wav", "t0.wav", "t1.wav"]
    assert found(data) == [
        ("c0.wav", "curated", "row repeated: one is used", True),
        ("c1.wav", "curated", "row repeated: one is used", True),
        ("c2.wav", "curated", "rows with different labels", False),
        (
            "c3.wav",
            "curated",
            "malformed row (train_curated.csv, line 9): 3 fields, expected 2 (quote labels that are joined by commas)",
            False,
        ),
        ("n0.wav", "test", "a noisy clip has the same name", False),
    ]


def test_bom_crlf_blank_lines_and_spaces_change_nothing(kaggle):
    plain = datasets.load(kaggle)
    for path in kaggle.glob("*.csv"):
        text = path.read_text().replace(",", " , ").replace("\n", "\r\n\r\n").replace('" ', '"').replace(' "', '"')
        path.write_bytes(b"\xef\xbb\xbf" + text.replace(' ,"', ',"').encode())
    spaced = datasets.load(kaggle)
    pd.testing.assert_frame_equal(spaced.clips, plain.clips)
    assert spaced.classes == plain.classes


# Clips


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    "damage, reason, usable",
    [
        (Path.unlink, "missing", False),
        (lambda path: path.write_bytes(b""), "empty", False),
        (lambda path: path.write_bytes(b"no sound"), "unreadable: Format not recognised.", False),
        (cut, "truncated: 826 of 926 bytes", False),
        (lambda path: save(path, 9, n_channels=2), "2 channels: averaged to mono", True),
        (lambda path: save(path, 9, rate=8000), "8000 Hz, most clips have 44100: resampled", True),
        (lambda path: save(path, 9, rate=96000, subtype="PCM_24"), "96000 Hz, most clips have 44100: resampled", True),
        (lambda path: path.write_bytes((path.parent / "c3.wav").read_bytes()), None, False),
    ],
)
def test_a_bad_clip_is_listed_and_the_others_are_used(kaggle, damage, reason, usable):
    damage(kaggle / "train_curated" / "c1.wav")
    data = datasets.load(kaggle)
    if reason:
        assert found(data) == [("c1.wav", "curated", reason, usable)] and ("c1.wav" in names(data)) == usable
    else:  # c1 and c3 have other labels
        but = "same bytes as curated clip {}, but other labels"
        assert found(data) == [
            ("c1.wav", "curated", but.format("c3.wav"), False),
            ("c3.wav", "curated", but.format("c1.wav"), False),
        ]
        assert not {"c1.wav", "c3.wav"} & set(names(data))


@pytest.mark.parametrize("kind", [{"subtype": "FLOAT"}, {"subtype": "PCM_24"}, {"format": "OGG"}, {"format": "FLAC"}])
def test_other_formats_under_any_name_are_no_finding(kaggle, kind):
    save(kaggle / "train_curated" / "c1.wav", 9, **kind)
    assert datasets.load(kaggle).problems.empty


@pytest.mark.parametrize(
    "copies, lost, listed",
    [
        (["c0", "c4"], ["c4"], {"c4": "curated clip c0.wav"}),
        (["c2", "n0"], ["n0"], {"n0": "curated clip c2.wav"}),
        (["c0", "n0", "n1"], ["n0", "n1"], {"n0": "curated clip c0.wav", "n1": "curated clip c0.wav"}),
        (
            ["n0", "n1"],
            ["n0", "n1"],
            {"n0": "noisy clip n1.wav, but other labels", "n1": "noisy clip n0.wav, but other labels"},
        ),
        (["c0", "t0"], [], {"t0": "curated clip c0.wav: its score says nothing about unheard sound"}),
        (["t0", "t1"], [], {"t0": "test clip t1.wav", "t1": "test clip t0.wav"}),
    ],
    ids=["same labels", "across subsets", "noisy copies of curated", "other labels", "train and test", "test"],
)
@pytest.mark.parametrize("archived", [False, True])
def test_clips_of_the_same_bytes(kaggle, copies, lost, listed, archived):
    with open(kaggle / "train_curated.csv", "a") as file:
        file.write("c4.wav,Rain\n")
    folders = {"c": "train_curated", "n": "train_noisy", "t": "test"}
    save(kaggle / "train_curated" / "c4.wav", 4 + 50)
    for name in copies:
        save(kaggle / folders[name[0]] / f"{name}.wav", 99)
    if archived:
        zipped(kaggle / "train_noisy"), zipped(kaggle / "test")
    data = datasets.load(kaggle)
    assert {row.fname[:2]: row.reason.removeprefix("same bytes as ") for row in data.problems.itertuples()} == listed
    assert data.problems.loc[~data.problems["usable"], "fname"].tolist() == [f"{name}.wav" for name in lost]
    assert len(data.clips) == 9 - len(lost) and not {f"{name}.wav" for name in lost} & set(names(data))


def test_clips_that_only_start_alike_are_no_duplicates(kaggle):
    for name, last in (("c0", 0.25), ("c2", -0.25)):
        soundfile.write(kaggle / "train_curated" / f"{name}.wav", np.append(np.zeros(20000), last), RATE)
    assert datasets.load(kaggle).problems.empty


def test_known_bad_files_are_left_out_but_not_of_the_demo(kaggle):
    with open(kaggle / "train_curated.csv", "a") as file:
        file.write("f76181c4.wav,Rain\n1d44b0bd.wav,Rain\n")
    save(kaggle / "train_curated" / "f76181c4.wav", 20)
    save(kaggle / "train_curated" / "1d44b0bd.wav", 21)
    data = datasets.load(kaggle, strict=True)
    assert found(data) == [
        ("1d44b0bd.wav", "curated", "known bad file: no signal", False),
        ("f76181c4.wav", "curated", "known bad file: wrong label", False),
    ]
    (kaggle / "demo.json").touch()
    assert len(datasets.load(kaggle).clips) == 10


def test_a_subset_without_audio_says_where_it_was_looked_for(kaggle):
    zipped(kaggle / "test").unlink()
    data = datasets.load(kaggle)
    assert data.problems["reason"].tolist() == ["missing: neither test/ nor test.zip"] * 2
    assert set(data.clips["subset"]) == {"curated", "noisy"}


def test_without_leaves_out_what_decoding_found(kaggle):
    data = datasets.load(kaggle)
    later = audit.table(
        [
            ("n1.wav", "noisy", "all silent", False),
            ("c0.wav", "curated", "clipped", True),
            ("c1.wav", "test", "x", False),
        ]
    )
    less = data.without(later)
    assert names(less) == [name for name in names(data) if name != "n1.wav"] and less.clips.index.tolist() == list(
        range(7)
    )
    assert [row[:2] for row in found(less)] == [("c0.wav", "curated"), ("n1.wav", "noisy"), ("c1.wav", "test")]
    assert found(less.without(later)) == found(less) and len(data.clips) == 8 and data.problems.empty


# Refusals


def test_folders_that_are_none_of_the_layouts(kaggle, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder. Set data_dir"):
        datasets.load(tmp_path / "nowhere")
    with pytest.raises(
        ValueError,
        match=r"Looked for demo: .*meta/esc50.csv; table: clips.csv. Found \['data'\]. Did you mean .*data\?",
    ):
        datasets.load(tmp_path)
    (tmp_path / "void").mkdir()
    with pytest.raises(ValueError, match=r"Found nothing. Give the folder that holds the tables"):
        datasets.load(tmp_path / "void")
    with pytest.raises(ValueError, match="Set esc10_only=False"):
        datasets.load(kaggle, esc10_only=True)


@pytest.mark.parametrize(
    "table, text, message",
    [
        ("train_curated.csv", "", r"has columns \[\], lacks \['fname', 'labels'\]"),
        ("train_curated.csv", "fname;labels\nc0.wav;Rain", "Save it as CSV with commas"),
        ("train_noisy.csv", "fname,label\n", r"lacks \['labels'\]"),
        ("sample_submission.csv", "fname\nt0.wav", "vocabulary with nothing"),
        ("sample_submission.csv", "fname,Rain,Rain\n", r"vocabulary with \['Rain'\] twice"),
        ("sample_submission.csv", "fname,Rain,\n", r"vocabulary with \[''\] twice or empty"),
    ],
)
def test_tables_that_cannot_be_used(kaggle, table, text, message):
    (kaggle / table).write_text(text)
    with pytest.raises(ValueError, match=message):
        datasets.load(kaggle)


def test_vocabularies_that_cannot_be_used(zenodo, esc50):
    (zenodo / META / "vocabulary.csv").write_text("index,name\n0,Rain\n")
    with pytest.raises(ValueError, match="expected rows of index,name and no header"):
        datasets.load(zenodo)
    with open(esc50 / "meta/esc50.csv", "a") as file:
        file.write("x.wav,0,9,rain,True,7,A\ny.wav,one,9,rain,True,7,A\n")
    assert datasets.load(esc50).problems["reason"].str.startswith("malformed row").tolist() == [True, True]
    with open(esc50 / "meta/esc50.csv", "a") as file:
        file.write("z.wav,1,9,hail,True,7,A\n")
    with pytest.raises(ValueError, match=r"vocabulary with \[9\] twice"):
        datasets.load(esc50)


def test_a_set_without_a_usable_clip_is_refused(kaggle):
    for path in kaggle.glob("*/*.wav"):
        path.write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"8 clips can't be used, 0 can: c0.wav \(curated\): empty; .*download them again"
    ):
        datasets.load(kaggle)


def test_a_set_without_a_usable_curated_clip_is_refused(kaggle):
    (kaggle / "train_curated").rename(kaggle / "train_curatd")
    with pytest.raises(ValueError, match="4 can, none of them curated: c0.wav .*: missing: neither train_curated/ nor"):
        datasets.load(kaggle)


def test_a_sample_that_08_would_refuse_is_refused_before_anything_is_trained(kaggle):
    write(kaggle / "sample_submission.csv", "Rain,Bark,Tap_(a),fname", "0,0,0,t0.wav")
    with pytest.raises(ValueError, match="first column 'Rain', expected fname"):
        datasets.load(kaggle)


def test_a_label_that_is_no_class_is_refused(kaggle):
    data = datasets.load(kaggle)
    with pytest.raises(ValueError, match=r"labels \['Rain'\]: not among 2 classes"):
        datasets.targets(data.clips, ("Bark", "Tap_(a)"))


def test_published_folds_counted_from_0_are_refused_as_a_whole(esc50):
    """Taken row by row, the first fold would be lost, and the run would go on without it."""
    table = esc50 / "meta/esc50.csv"
    table.write_text(table.read_text().replace(",5,0,dog", ",0,0,dog"))
    with pytest.raises(ValueError, match=r"folds are \[0, 1, 2\], but published ones are counted from 1. Add 1"):
        datasets.load(esc50)


@pytest.mark.parametrize("name", ["seed", "variant", "fold"])
def test_a_class_that_is_called_as_a_column_of_scores_is_refused(esc50, name):
    table = esc50 / "meta/esc50.csv"
    table.write_text(table.read_text().replace(",dog,", f",{name},"))
    with pytest.raises(ValueError, match=rf"classes \['{name}'\] have .* or the name of a column of score tables"):
        datasets.load(esc50)


def test_whole_numbers_may_be_written_as_floats_and_a_category_is_one_label(esc50):
    table = esc50 / "meta/esc50.csv"
    table.write_text(table.read_text().replace(",5,0,dog", ",5.0,0.0,dog"))
    assert datasets.load(esc50).clips["fold"].max() == 4
    table.write_text(table.read_text().replace(",dog,", ',"dog, barking",'))
    with pytest.raises(ValueError, match=r"classes \['dog, barking'\] have a comma, which separates labels"):
        datasets.load(esc50)
    write(table, table.read_text().split("\n")[0], "x.wav,one,9,rain,True,7,A")
    with pytest.raises(ValueError, match=r"no row can be read: malformed row \(esc50.csv, line 2\)"):
        datasets.load(esc50)


def test_what_a_folder_lacks_is_taken_from_the_archive_beside_it(kaggle):
    archive = zipped(kaggle / "train_curated")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("__MACOSX/train_curated/c0.wav", b"no audio")
    save(kaggle / "train_curated" / "c0.wav", 70)
    (kaggle / "train_curated" / ".DS_Store").write_text("")
    data = datasets.load(kaggle)
    assert data.problems.empty and len(data.clips) == 8
    paths = data.clips.set_index("fname")["path"]
    assert "zip!" not in paths["c0.wav"] and ".zip!train_curated/c1.wav" in paths["c1.wav"]
    archive.write_bytes(archive.read_bytes()[:100])  # of no use, beside a folder that has what there is
    assert set(datasets.load(kaggle).problems["reason"]) == {"missing"}


def test_names_are_found_whatever_their_case(kaggle):
    for path in (kaggle / "test").iterdir():
        path.rename(path.with_name(path.name.upper()))
    assert datasets.load(kaggle).problems.empty and (datasets.load_test(kaggle).clips["path"] != "").all()


def test_labels_of_test_clips_that_cannot_be_used_are_listed_and_no_clip_is_lost(kaggle):
    rows = ["t0.wav,Meow,public", 't1.wav,"Rain, Bark",Private', "t2.wav,Bark"]
    write(kaggle / "test_post_competition.csv", "fname,labels,usage", *rows)
    data = datasets.load_test(kaggle)
    assert data.clips["labels"].tolist() == [(), ("Rain", "Bark")]
    assert data.clips["usage"].tolist() == ["Public", "Private"]
    reasons = data.problems.set_index("fname")["reason"]
    assert reasons["t0.wav"].startswith("label 'Meow' is outside the vocabulary") and "2 fields" in reasons["t2.wav"]
    assert data.problems["usable"].all()
    write(kaggle / "sample_submission.csv", "fname,Rain,Bark,Tap_(a)", "t0.wav,0,0,0", ",0,0,0")
    with pytest.raises(ValueError, match=r"sample_submission.csv, line 3\): no fname; expected fname first"):
        datasets.load_test(kaggle)


def test_of_a_released_test_clip_the_usage_may_be_blank(zenodo):
    """In both readings: the clip is scored, and counts neither as public nor as private."""
    table = zenodo / META / "test_post_competition.csv"
    table.write_text(table.read_text().replace("Private", ""))
    clips = datasets.load(zenodo, strict=True).clips
    assert clips.loc[clips["subset"] == "test", "usage"].tolist() == [""]
    assert datasets.load_test(zenodo).clips["usage"].tolist() == [""]


# Real data


def test_real_esc10(shared_data):
    data = datasets.load(shared_data("esc10"), strict=True)
    assert len(data.clips) == 400 and len(data.classes) == 10 and data.problems.empty
    assert data.clips["fold"].value_counts().to_dict() == dict.fromkeys(range(5), 80)
    assert data.clips.groupby("group")["fold"].nunique().max() == 1
    assert data.clips["duration_s"].between(3.5, 7.3).all()


def test_real_fsd_mini(shared_data):
    data = datasets.load(shared_data("fsd-mini"), strict=True)
    assert data.clips["subset"].value_counts().to_dict() == {"curated": 146, "test": 90, "noisy": 78}
    assert data.clips.loc[data.clips["subset"] == "curated", "group"].nunique() == 124
    header = (shared_data("fsd-mini") / "sample_submission.csv").read_text().split("\n")[0]
    assert data.classes == tuple(header.split(",")[1:])


def test_real_tables_of_fsdkaggle2019(shared_data):
    data = datasets.load(shared_data("fsdkaggle2019-meta"), with_audio=False)
    sizes = data.clips["subset"].value_counts().to_dict()
    assert sizes == {"noisy": 19815, "test": 4481, "curated": 4970 - 6} and len(data.problems) == 6
    assert len(data.classes) == 80 and data.classes == tuple(sorted(data.classes))
    noisy = data.clips.loc[data.clips["subset"] == "noisy", "group"].value_counts()
    assert len(noisy) == 5387 and noisy.iloc[0] == 290 and noisy.index.str.startswith("flickr:").all()
    assert data.clips["usage"].value_counts().to_dict() == {"": 24779, "Private": 3361, "Public": 1120}
    assert datasets.targets(data.clips, data.classes).sum(axis=1).min() >= 1
