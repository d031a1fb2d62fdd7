"""The synthesised set: same seed same bytes, planted numbers, faults that are what they say, whole or not at all."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from lib.data import demo

FOLDERS = {"curated": "train_curated", "noisy": "train_noisy", "test": "test"}
UNDECODABLE = {"missing", "empty", "unreadable", "truncated", "contains NaN"}


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.csv", keep_default_na=False)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def level_db(samples) -> float:
    return 10 * np.log10(np.mean(np.square(samples)))


def power_share(samples, above_hz: float) -> float:
    power = np.abs(np.fft.rfft(samples, 2**18)) ** 2
    return power[np.fft.rfftfreq(2**18, 1 / demo.SAMPLE_RATE) > above_hz].sum() / power.sum()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return demo.make(tmp_path_factory.mktemp("demo") / "set")


@pytest.fixture(scope="module")
def facts(made) -> dict:
    return json.loads((made / "truth" / "facts.json").read_text())


@pytest.fixture(scope="module")
def spans(made) -> pd.DataFrame:
    return table(made, "truth/spans")


@pytest.fixture(scope="module")
def clips(made) -> pd.DataFrame:
    """A row a clip: subset, labels of the table, true labels, group, fault, usable, path; samples where it decodes."""
    tables = [table(made, name).assign(subset=name[6:]) for name in ("train_curated", "train_noisy")]
    tables.append(table(made, "sample_submission")[["fname"]].assign(labels="", subset="test"))
    truth = table(made, "truth/labels").rename(columns={"labels": "true"})
    clips = pd.concat(tables).merge(truth, on=["fname", "subset"], how="outer", validate="1:1", indicator=True)
    assert (clips.pop("_merge") == "both").all()
    clips = clips.merge(table(made, "groups"), validate="1:1")
    clips = clips.merge(table(made, "truth/faults"), on=["fname", "subset"], how="left").fillna({"fault": ""})
    clips["usable"] = clips.usable.ne(False)
    clips["path"] = [made / FOLDERS[subset] / fname for subset, fname in zip(clips.subset, clips.fname, strict=True)]
    decodes = ~clips.fault.isin(UNDECODABLE)
    clips["samples"] = [soundfile.read(path)[0] if d else None for path, d in zip(clips.path, decodes, strict=True)]
    return clips.set_index("fname")


@pytest.fixture(scope="module")
def plain(clips) -> pd.DataFrame:
    """Those without a planted fault."""
    return clips[clips.fault == ""].assign(seconds=lambda c: c.samples.map(len) / demo.SAMPLE_RATE)


def test_same_seed_same_bytes(made, tmp_path):
    assert digests(demo.make(tmp_path / "again", seed=2019)) == digests(made)
    assert os.listdir(tmp_path) == ["again"]


def test_another_seed_gives_other_names_and_sounds():
    one, two = demo._plan(1), demo._plan(2)
    assert one == demo._plan(1) and not {clip.fname for clip in one} & {clip.fname for clip in two}
    for clip in one[:20]:
        (a, _), (b, _), (again, _) = (demo._render(clip, seed) for seed in (1, 2, 1))
        assert np.array_equal(a, again) and not np.array_equal(a[:1000], b[:1000])


def test_a_finished_set_is_returned_at_once(made, monkeypatch):
    monkeypatch.setattr(demo, "_write", None)
    assert demo.make(made) == made


def test_form_of_the_files(made, plain):
    for path in plain.path:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (22_050, 1, "PCM_16")
    assert plain.index.str.fullmatch(r"[0-9a-f]{8}\.wav").all()
    assert plain.seconds.between(0.29, 12.01).all() and plain.seconds.sum() < 25 * 60
    assert all(len(list((made / folder).iterdir())) > 60 for folder in FOLDERS.values())
    submission = table(made, "sample_submission")
    assert list(submission)[1:] == sorted(demo.CLASSES) and (submission.iloc[:, 1:] == 0).all(axis=None)
    for name in ("train_curated", "train_noisy", "sample_submission", "groups", "truth/labels", "truth/faults"):
        assert table(made, name).fname.is_monotonic_increasing


def test_counts_and_seconds_are_the_planted_ones(clips, plain, facts):
    curated, test = plain[plain.subset == "curated"], plain[plain.subset == "test"]
    n_labels = curated.labels.str.count(",") + 1
    single = curated[n_labels == 1].groupby("labels").seconds
    # The later of the two duplicates may be one of these clips: its copy, the same sound, stands in for it.
    spare = clips[(clips.fault == "duplicate") & (clips.labels == clips.true)].labels
    assert len(single) == 10 and (single.count() == [40 if c in facts["scenes"] else 15 for c in single.groups]).all()
    assert single.count().to_dict() == facts["single_label_clips"] and len(spare) >= 1
    assert single.sum().to_dict() == pytest.approx(facts["single_label_seconds"], abs=1e-3)
    events = single.sum().drop(facts["scenes"])
    assert (events.idxmax(), events.idxmin()) == (facts["longest"], facts["shortest"])
    assert events.max() / events.min() == pytest.approx(facts["seconds_ratio"], rel=0.05)
    assert facts["seconds_ratio"] == 10 and n_labels.value_counts().to_dict() == {1: 200, 2: 15}
    assert len(test) == 60 and test.true.str.contains(",").sum() == 10


def test_noisy_clips_are_mostly_wrong_and_recorded_otherwise(plain, facts):
    noisy = plain[plain.subset == "noisy"]
    wrong = noisy.labels != noisy.true
    assert len(noisy) == 80 and wrong.sum() == 48 and facts["noisy_wrong_share"] == 0.6
    assert (noisy.true == "").sum() == 24  # out of the vocabulary
    assert noisy.seconds.between(3, 6).all() and (noisy.labels.value_counts() == 8).all()

    treble = plain[plain.subset != "curated"].samples.map(lambda samples: power_share(samples, above_hz=6000))
    assert treble[noisy.index].mean() < treble.drop(noisy.index).mean() / 3


def test_spans_lie_in_their_clips_and_agree_with_the_labels(clips, spans):
    assert set(spans.fname) == set(clips.index[~clips.fault.isin({*UNDECODABLE, "silent"})])
    length_s = spans.fname.map(clips.samples.map(len, na_action="ignore")) / demo.SAMPLE_RATE
    length_s[spans.fname.map(clips.fault) == "sample rate"] /= 2  # that clip has twice the rate
    assert ((spans.start_s >= 0) & (spans.start_s < spans.end_s) & (spans.end_s <= length_s)).all()
    for fname, sounds in spans.groupby("fname"):
        clip, heard = clips.loc[fname], set(sounds["class"])
        named = set((clip.true if clip.subset == "test" else clip.labels).split(","))
        assert heard - set(demo.OTHERS) == set(filter(None, clip.true.split(",")))
        assert (sounds.labelled == sounds["class"].isin(named)).all()
        assert clip.subset == "noisy" or clip.fault or named <= heard  # curated labels are right, perhaps incomplete
    unlabelled = spans[~spans.labelled].fname.map(clips.subset)
    assert (unlabelled == "curated").sum() >= 10 and not (unlabelled == "test").any()


def test_heads_and_tails_are_silent(plain, spans):
    quiet = plain[(plain.subset != "noisy") & ~plain.true.isin(list(demo.SCENES))]
    ends = spans.groupby("fname").agg(start_s=("start_s", "min"), end_s=("end_s", "max"))
    for fname, samples in quiet.samples.items():
        start, end = (ends.loc[fname] * demo.SAMPLE_RATE).round().astype(int)
        outside = np.concatenate([samples[:start], samples[end:]])
        assert len(outside) < 2000 or level_db(outside) == pytest.approx(-70, abs=0.5)
        assert level_db(samples[start:end]) > -50
    assert (ends.start_s > 0.2).sum() > 50


def test_no_sound_pauses_for_as_long_as_a_second():
    for name, sound in demo.SOUNDS.items():
        for seed in range(3):
            samples = demo._sound(4 * demo.SAMPLE_RATE, sound, *np.random.default_rng(seed).spawn(2))
            loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
            assert np.diff(loud).max() < demo.SAMPLE_RATE, name
            assert np.mean(samples**2) == pytest.approx(1)


def test_scenes_differ_in_nothing_but_order(plain, spans):
    scenes = plain[plain.true.isin(list(demo.SCENES)) & (plain.subset != "noisy")]
    assert scenes.groupby(["subset", "true"]).size().tolist() == [40, 40, 5, 5]
    assert not plain.true[plain.true.str.contains(",")].str.contains("_then_").any()
    rows = []
    for fname, clip in scenes.iterrows():
        first, second = spans[spans.fname == fname][["start_s", "end_s"]].to_numpy()
        assert min(first[0], clip.seconds - second[1]) >= 0.999 and second[0] - first[1] >= 1.3
        for place, (start_s, end_s) in enumerate((first, second)):
            part = clip.samples[int(start_s * demo.SAMPLE_RATE) : int(end_s * demo.SAMPLE_RATE)]
            rows.append((clip.true, place, power_share(part, above_hz=500) > 0.2, end_s - start_s, level_db(part)))
    parts = pd.DataFrame(rows, columns=["scene", "place", "is_bell", "length_s", "level_db"])
    assert (parts.is_bell == ((parts.scene == "Doorbell_then_knock") == (parts.place == 0))).all()
    means = parts.groupby(["is_bell", "place"])[["length_s", "level_db"]].mean()
    assert (means.xs(0, level="place") - means.xs(1, level="place")).abs().max().lt([0.04, 1.0]).all()
    assert parts.length_s.between(0.34, 0.56).all()


def test_groups_hold_every_clip_and_stay_in_one_subset(clips):
    assert (clips.groupby("group").subset.nunique() == 1).all()
    sizes = clips[clips.fault == ""].groupby("group").size()
    assert set(sizes) == {1, 2, 3}
    assert sizes[sizes > 1].sum() / sizes.sum() == pytest.approx(0.25, abs=0.03)


def test_every_fault_is_what_it_says(clips):
    faults = clips[clips.fault != ""]
    assert faults.groupby("fault").size().to_dict() == {
        **dict.fromkeys(demo.FAULTS.keys() - {""}, 1), "duplicate": 3, "truncated": 2,
    }  # fmt: skip
    assert set(faults.fault[faults.usable]) == {"stereo", "sample rate", "near duplicate"}
    assert faults.subset[faults.subset != "curated"].tolist() == ["test"]
    path = faults[faults.fault != "duplicate"].set_index(["fault", "subset"]).path.xs("curated", level="subset")
    assert not path["missing"].exists()
    assert path["empty"].read_bytes() == b""
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.read(path["unreadable"])
    for cut in faults.path[faults.fault == "truncated"]:
        raw = cut.read_bytes()
        assert int.from_bytes(raw[40:44], "little") > 1.5 * (len(raw) - 44)  # size of the data chunk
    assert soundfile.info(path["contains NaN"]).subtype == "FLOAT"
    assert 0 < np.isnan(soundfile.read(path["contains NaN"])[0]).mean() < 0.01
    assert not soundfile.read(path["silent"])[0].any()
    assert soundfile.info(path["stereo"]).channels == 2
    assert soundfile.info(path["sample rate"]).samplerate == 44_100
    unknown = faults[faults.fault == "unknown label"].iloc[0]
    assert (unknown.labels, unknown.true) == ("Kazoo", "")


def test_duplicates_share_bytes_and_near_duplicates_the_sound(clips):
    decoded = clips[clips.samples.notna() & (clips.fault != "silent")]
    content = decoded.path.map(lambda path: path.read_bytes())
    twins = [rows.sort_index() for _, rows in decoded.groupby(content) if len(rows) > 1]
    assert [len(twin) for twin in twins] == [2, 2]
    same, other = sorted(twins, key=lambda twin: twin.labels.nunique())
    assert same.labels.nunique() == 1 and same.fault.tolist() == ["", "duplicate"] and same.group.nunique() == 2
    assert other.labels.nunique() == 2 and (other.fault == "duplicate").all() and other.true.nunique() == 1
    near = decoded[decoded.fault == "near duplicate"].iloc[0]
    alike = decoded[decoded.samples.map(len) == len(near.samples)].drop(near.name)
    (original,) = [c for _, c in alike.iterrows() if np.corrcoef(c.samples, near.samples)[0, 1] > 0.99]
    assert (original.labels, original.fault) == (near.labels, "") and original.group != near.group


def test_an_interrupted_making_leaves_nothing(tmp_path, monkeypatch):
    write, calls = Path.write_bytes, []

    def fails_at_the_tenth(path, data):
        calls.append(path)
        if len(calls) == 10:
            raise OSError("disk full")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fails_at_the_tenth)
    with pytest.raises(OSError, match="disk full"):
        demo.make(tmp_path / "set")
    assert len(calls) == 10 and os.listdir(tmp_path) == []


def small_set(folder: Path, marker: dict, by: str = "this process") -> None:
    """Stands in for the making: takes no time."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "by").write_text(by)
    (folder / "demo.json").write_text(json.dumps(marker))


@pytest.mark.parametrize("old_seed", [None, 7])
def test_of_two_processes_the_first_wins(tmp_path, monkeypatch, old_seed):
    folder = tmp_path / "set"

    def overtaken(made, marker):
        small_set(made, marker)
        if old_seed is not None:
            folder.rename(tmp_path / "moved by the other")
        small_set(folder, marker, by="the other process")

    if old_seed is not None:
        small_set(folder, {"made_by": "lib.demo", "version": demo.VERSION, "seed": old_seed})
    monkeypatch.setattr(demo, "_write", overtaken)
    assert (demo.make(folder) / "by").read_text() == "the other process"
    assert len(os.listdir(tmp_path)) == (1 if old_seed is None else 2)


def test_another_version_is_replaced_and_an_empty_folder_is_filled(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_write", small_set)
    (tmp_path / "set").mkdir()
    for version in (1, 2):
        monkeypatch.setattr(demo, "VERSION", version)
        marker = json.loads((demo.make(tmp_path / "set") / "demo.json").read_text())
        assert marker == {"made_by": "lib.demo", "version": version, "seed": 2019}
    assert os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize("content", [None, "{}", "[]", "not json", '{"made_by": "hand"}'])
def test_a_folder_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "thesis.txt").write_text("years of work")
    if content is not None:
        (tmp_path / "demo.json").write_text(content)
    with pytest.raises(FileExistsError, match="no demo.json of lib.demo: name another folder"):
        demo.make(tmp_path)
    with pytest.raises(FileExistsError, match="name another folder"):
        demo.make(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_negative_seed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="seed=-1 is negative"):
        demo.make(tmp_path / "set", seed=-1)
