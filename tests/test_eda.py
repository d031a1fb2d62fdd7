"""Tests of what 01_eda computes: balance, signals, near-duplicates, domain gap; on made-up clips and on known sets."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from lib.data import audio, datasets
from lib.figures import data as figures
from lib.sound import cache, contents, duplicates, features
from lib.sound.windows import Windows, rolling

ROOT = Path(__file__).resolve().parents[1]
RATE = 8000
LOGMEL = features.LogMel(RATE, n_fft=256, hop_length=80, n_mels=32, fmin=50.0)  # 100 frames a second
CUT = Windows(1.0, 0.5)


def table_of(*rows):
    """Clips from (fname, subset, labels, duration_s)."""
    clips = pd.DataFrame(rows, columns=["fname", "subset", "labels", "duration_s"])
    return clips.assign(group=clips["fname"], path="x", sample_rate=RATE)


def noise(seconds, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def textured(seconds, seed):
    """Noise bursts at random times: a sound that one can tell from another of its kind."""
    rng = np.random.default_rng(seed)
    envelope = np.repeat(rng.uniform(0.02, 1, round(seconds * 20)), RATE // 20)
    return (envelope * noise(seconds, seed))[: round(seconds * RATE)]


# balance


@pytest.fixture
def counted():
    clips = table_of(
        ("a", "curated", ("Rain",), 8.0),
        ("b", "curated", ("Bark",), 0.5),
        ("c", "curated", ("Bark", "Rain"), 4.0),
        ("d", "noisy", ("Bark",), 2.0),
        ("e", "test", (), 3.0),
    )
    return contents.by_class(clips, ("Rain", "Bark", "Cat"), CUT, LOGMEL)


def test_clips_and_seconds_are_counted_in_three_ways(counted):
    curated = counted[counted["subset"] == "curated"].set_index("class")
    assert counted["subset"].unique().tolist() == ["curated", "noisy"]  # nothing is known of the test clip
    assert curated["clips"].tolist() == [2, 2, 0]
    assert curated["single"].tolist() == [1, 1, 0]
    assert curated["seconds_every"].tolist() == [12.0, 4.5, 0.0]
    assert curated["seconds_even"].tolist() == [10.0, 2.5, 0.0]
    assert curated["seconds_single"].tolist() == [8.0, 0.5, 0.0]
    assert curated["places"].tolist() == [8 + 4, 1 + 4, 0]


def test_fresh_windows_are_those_that_ten_random_draws_reach(counted):
    curated = counted[counted["subset"] == "curated"].set_index("class")
    expected = (1 + 4 * (1 - 0.75**10)) / 20  # one place: always the same; four places: those that ten draws reach
    assert curated.loc["Bark", "fresh"] == pytest.approx(expected)
    assert np.isnan(curated.loc["Cat", "fresh"])
    assert "of Bark, 24% hold new audio (5 windows" in (said := contents.describe_repeats(counted, CUT))
    assert said.index("of Bark") < said.index("of Rain")


@given(st.lists(st.floats(0.01, 20), min_size=1, max_size=8), st.floats(0.1, 3), st.floats(0.1, 1))
def test_windows_are_those_that_rolling_makes(durations, window_s, share):
    cut = Windows(window_s, window_s * share)
    clips = table_of(*[(str(i), "curated", ("x",), duration) for i, duration in enumerate(durations)])
    index = clips[["fname"]].assign(n_frames=[1 + round(d * RATE) // LOGMEL.hop_length for d in durations])
    store = cache.Cache(LOGMEL, (), index, pd.DataFrame(), "")
    assert contents.by_class(clips, ("x",), cut, LOGMEL)["windows"].tolist() == [len(rolling(store, index, cut))]


def test_imbalance_names_the_pair_and_all_three_ratios(counted):
    found, sentence = contents.imbalance(counted)
    assert (found["longest"], found["shortest"]) == ("Rain", "Bark")
    assert [found[f"ratio_{way}"] for way in ("single", "every", "even")] == [16.0, pytest.approx(12 / 4.5), 4.0]
    assert "16.0 over single-label clips, 2.7 counting every label, 4.0 by even share" in sentence
    equal = counted.assign(seconds_even=2.0, clips=1)
    assert contents.imbalance(equal)[0]["effective_classes_even"] == pytest.approx(3)
    one_silent = equal.assign(seconds_even=equal["seconds_even"].where(equal["class"] != "Cat", 1e-12))
    assert contents.imbalance(one_silent)[0]["effective_classes_even"] == pytest.approx(2)
    assert found["effective_classes_even"] == pytest.approx(np.exp(-(0.8 * np.log(0.8) + 0.2 * np.log(0.2))))


def test_without_audio_clips_are_counted_and_seconds_are_not_made_up(counted):
    clips = table_of(("a", "curated", ("x",), np.nan), ("b", "curated", ("y",), np.nan))
    table = contents.by_class(clips, ("x", "y"), CUT, LOGMEL)
    assert table["clips"].tolist() == [1, 1] and table[contents.MEASURED].isna().all(axis=None)
    assert "there is no audio" in contents.imbalance(table)[1]
    assert "there is no audio" in contents.describe_repeats(table, CUT)


def test_gini():
    assert contents.gini([3, 3, 3]) == pytest.approx(0)
    assert contents.gini([0, 0, 6]) == pytest.approx(2 / 3)
    assert contents.gini([1, 3]) == pytest.approx(0.25)


def test_cardinality_and_priors(counted):
    clips = table_of(("a", "curated", ("x", "y"), 1), ("b", "curated", ("x",), 1), ("c", "test", (), 1))
    rows = contents.cardinality(clips).set_index("subset")
    assert rows.loc["curated", ["clips", "labelled", "labels_per_clip", "several", "most"]].tolist() == [
        2,
        2,
        1.5,
        0.5,
        2,
    ]
    assert rows.loc["test", "labelled"] == 0
    shares, sentence = contents.priors(counted)
    assert shares["curated"].tolist() == [0.5, 0.5, 0.0] and shares["noisy"].tolist() == [0, 1, 0]
    assert sentence.startswith("50% of the labels of noisy clips would have to change") and sentence.endswith(": Cat.")


def test_co_occurrence_is_a_share_of_the_row_and_puts_like_by_like():
    targets = np.array([[1, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 1], [0, 1, 0, 1]])
    shares = contents.co_occurrence(targets, ("a", "b", "c", "d"))
    assert shares.at["a", "c"] == 0.5 and shares.at["c", "a"] == 1 and shares.at["b", "d"] == 1
    assert abs(shares.index.get_loc("a") - shares.index.get_loc("c")) == 1
    assert np.isnan(shares.at["a", "a"])
    assert contents.co_occurrence(np.eye(3), ("a", "b", "c")).empty


# signals


def test_a_full_scale_sine_has_known_level_and_spectrum():
    found = contents.statistics(np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE), RATE)
    assert found["peak_db"] == pytest.approx(0, abs=1e-3)
    assert found["rms_db"] == pytest.approx(-3.01, abs=0.01)
    assert found["loudness_db"] == pytest.approx(found["rms_db"], abs=0.02)  # A-weighting is 0 dB at 1 kHz
    assert found["centroid_hz"] == pytest.approx(1000, abs=2)
    assert found["rolloff_hz"] == pytest.approx(1000, abs=5)


def test_a_weighting_takes_away_low_sound():
    time_s = np.arange(2 * RATE) / RATE
    low = contents.statistics(np.sin(2 * np.pi * 100 * time_s), RATE)
    assert low["loudness_db"] - low["rms_db"] == pytest.approx(-19.1, abs=0.3)  # IEC 61672-1, table 3


def test_the_shortest_clip_has_finite_statistics():
    assert np.isfinite(list(contents.statistics(np.ones(1), RATE).values())).all()


def test_silence_is_measured_from_the_ends_and_within():
    parts = [np.zeros(2 * RATE), noise(1), np.full(RATE, 1e-4), noise(0.5), np.zeros(RATE // 2)]
    found = contents.statistics(np.concatenate(parts), RATE, (40.0,))
    seconds = [found[f"{part}_40_s"] for part in ("lead", "inner", "trail")]
    assert seconds == pytest.approx([2.0, 1.0, 0.5], abs=0.02)
    quiet = contents.statistics(np.concatenate(parts), RATE, (80.0,))
    assert quiet["inner_80_s"] == pytest.approx(0, abs=0.02)  # 1e-4 is less than 80 dB below the peak


def test_clipping_and_digital_silence_are_shares_of_samples():
    found = contents.statistics(np.array([0, 0, 1, -1, 0.5, 0, 0, 0]), RATE)
    assert found["clipped"] == 0.25 and found["zeros"] == 0.625


def test_a_lowpass_shows_as_band_limit():
    spectrum = np.fft.rfft(noise(2))
    spectrum[2000 * 2 :] = 0  # above 2 kHz
    assert contents.statistics(np.fft.irfft(spectrum), RATE)["band_limit_hz"] == pytest.approx(2000, abs=20)
    assert contents.statistics(noise(2), RATE)["band_limit_hz"] == RATE / 2


def test_the_same_clips_are_measured_once(make_clips, tmp_path, monkeypatch):
    clips = make_clips({"a.wav": noise(1), "b.wav": noise(2, 1), "bad.wav": b"no audio", "copy.wav": noise(1)})
    clips = clips.assign(sample_rate=RATE).replace({"fname": {"copy.wav": "NA"}})
    read, real = [], audio.read
    monkeypatch.setattr(contents.audio, "read", lambda path, rate: read.append(Path(path).name) or real(path, rate))
    table = contents.measure(clips, tmp_path / "cache", 40.0)
    assert len(read) == 4 and table["fname"].tolist() == ["a.wav", "b.wav", "NA"]
    expected = [contents.statistics(real(path, RATE), RATE) for path in clips["path"][[0, 1, 3]]]
    pd.testing.assert_frame_equal(table.drop(columns="fname"), pd.DataFrame(expected), check_exact=True)
    read.clear()
    pd.testing.assert_frame_equal(contents.measure(clips, tmp_path / "cache", 40.0), table)
    assert read == []
    contents.measure(clips.head(1), tmp_path / "cache", 40.0)
    contents.measure(clips.head(1), tmp_path / "cache", 35.0)
    assert read == ["a.wav", "a.wav"]  # other clips or another threshold: other results


def test_trimming_counts_seconds_and_emptied_clips():
    clips = table_of(("a", "curated", ("x",), 4.0), ("b", "curated", ("x",), 1.0))
    measured = pd.DataFrame(
        {"fname": ["a", "b"], "lead_30_s": [1, 0.5], "trail_30_s": [0.5, 0.45], "inner_30_s": [0.5, 0]}
    )
    row = contents.trimming(clips, measured).iloc[0]
    assert (row["ends"], row["all"], row["emptied"]) == (pytest.approx(2.45 / 5), pytest.approx(2.95 / 5), 1)


def test_nothing_is_measured_where_there_is_no_audio(tmp_path):
    none = table_of(("a", "curated", ("x",), np.nan)).head(0)
    measured = contents.measure(none, tmp_path, 40.0)
    assert measured.empty and "lead_40_s" in measured
    assert contents.trimming(none, measured).empty and contents.medians(none, measured).empty
    assert "no audio" in contents.describe_sound(none, measured, 40.0)[0]
    assert duplicates.find(None, none).empty
    gaps, tells = contents.domain_gap(contents.traits(none, measured, 40.0), none, seed=0)
    assert gaps.empty and tells.empty and "no domain gap" in contents.describe_gap(gaps, tells)


# near-duplicates


def test_a_shifted_log_mel_is_found_at_its_lag():
    frames = np.random.default_rng(0).normal(size=(400, 32)).astype(np.float32)
    similarity, lag, overlap = duplicates.aligned(frames[100:], frames)
    assert (round(similarity, 3), lag) == (1.0, 100) and overlap in (298, 300)
    assert duplicates.aligned(frames, frames[100:])[1] == -100
    assert duplicates.aligned(frames[:200], frames[200:])[0] < 0.2


def test_copies_are_found_and_other_takes_are_not(make_clips, tmp_path):
    sound, other = textured(4, 1), textured(4, 2)
    clips = make_clips(
        {
            "a.wav": sound,
            "b.wav": 0.3 * sound[4321:] + 1e-4 * noise(4, 3)[4321:],  # quieter, trimmed, a little noise
            "c.wav": other,
            "d.wav": textured(4, 4),
            "e.wav": 0.5 * other,
        }
    ).assign(group=["g1", "g2", "g3", "g4", "g3"])
    store = cache.build(clips, LOGMEL, tmp_path / "cache")
    pairs = duplicates.find(store, clips)
    assert pairs[["fname", "other"]].to_numpy().tolist() == [["a.wav", "b.wav"]]  # c and e share a group already
    assert pairs["lag_s"].iloc[0] == pytest.approx(-4321 / RATE, abs=0.02)
    problems = duplicates.as_problems(pairs)
    assert duplicates.side_by_side(pairs, clips)["fname"].tolist() == ["a.wav", "b.wav"]
    assert problems["usable"].all() and "sounds like curated clip a.wav" in problems["reason"].iloc[0]


def test_whole_groups_move_together():
    clips = pd.DataFrame({"fname": list("abcdef"), "group": ["g1", "g2", "g2", "g3", "g4", "g5"]})
    pairs = pd.DataFrame({"group": ["g2", "g3"], "other_group": ["g1", "g2"]})
    proposed = duplicates.proposed_groups(pairs, clips)
    assert proposed.to_numpy().tolist() == [["b", "g1"], ["c", "g1"], ["d", "g1"]]
    assert duplicates.proposed_groups(pairs.head(0), clips).empty


# domain gap


def test_what_differs_is_told_and_named():
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    x = pd.DataFrame({"same": rng.normal(size=200), "level": rng.normal(size=200) + 3 * y})
    found, tells = contents.tell_apart(x, y, np.arange(200), seed=0)
    assert found["auc"] > 0.95 and found["auc_low"] <= found["auc"] <= found["auc_high"] and found["n"] == 200
    assert tells["feature"].iloc[0] == "level" and tells["alone"].iloc[0] > 0.95


@given(st.integers(0, 2**32 - 1), st.integers(2, 60))
def test_the_area_under_the_curve_is_scikit_learns(seed, n):
    rng = np.random.default_rng(seed)
    y, score = np.arange(n) % 2, rng.integers(0, 8, n) / 7
    assert contents._auc(y, score) == pytest.approx(roc_auc_score(y, score))


def test_the_probability_of_a_forest_is_scikit_learns():
    x = np.random.default_rng(0).standard_normal((60, 4))
    forest = contents.RandomForestClassifier(9, class_weight="balanced", random_state=0).fit(x, x[:, 0] > 1)
    np.testing.assert_array_equal(contents._probability(forest, x), forest.predict_proba(x)[:, 1])


def test_groups_are_never_split(monkeypatch):
    monkeypatch.setattr(contents, "N_TREES", 30)
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(30), 10)
    y = rng.permutation(np.arange(30) % 2)[groups]
    x = pd.DataFrame({"microphone": rng.normal(size=30)[groups]})  # tells the group, and nothing else
    assert contents.tell_apart(x, y, np.arange(300), seed=0, n_shuffles=0)[0]["auc"] > 0.95  # leaks
    assert contents.tell_apart(x, y, groups, seed=0, n_shuffles=0)[0]["auc"] < 0.75


def test_too_few_groups_are_refused():
    with pytest.raises(ValueError, match="fewer than 5 groups"):
        contents.tell_apart(pd.DataFrame({"x": np.zeros(20)}), np.arange(20) % 2, np.arange(20) // 10, seed=0)


# known sets


@pytest.fixture(scope="module")
def demo_set(demo_folder, tmp_path_factory):
    """The demo set, decoded: usable clips, cache, measurements, near-duplicates."""
    data, place = datasets.load(demo_folder), tmp_path_factory.mktemp("cache")
    store = cache.build(data.clips, features.LogMel(22_050, 1024, 441, 64, 20.0), place)
    data = data.without(store.problems)
    return data, store, contents.measure(data.clips, place, 40.0), duplicates.find(store, data.clips)


def test_the_audit_of_the_demo_set_finds_every_planted_fault_and_no_other(demo_set):
    data, _, _, pairs = demo_set
    planted = pd.read_csv(data.root / "truth" / "faults.csv", keep_default_na=False)
    by_usable = data.problems.groupby("usable")["fname"].agg(set)
    near = planted[planted["fault"] == "near duplicate"]["fname"]
    assert len(pairs) == len(near) == 1 and near.iloc[0] in set(pairs[["fname", "other"]].iloc[0])
    assert by_usable[False] == set(planted.loc[~planted["usable"], "fname"])
    assert by_usable[True] == set(planted.loc[planted["usable"], "fname"]) - set(near)
    proposed = duplicates.proposed_groups(pairs, data.clips)
    regrouped = data.clips.set_index("fname")["group"].to_dict() | dict(proposed.to_numpy())
    assert len({regrouped[name] for name in pairs[["fname", "other"]].iloc[0]}) == 1


def test_the_planted_imbalance_of_the_demo_set_is_stated(demo_set):
    data, store, _, _ = demo_set
    facts = json.loads((data.root / "truth" / "facts.json").read_text())
    found, sentence = contents.imbalance(contents.by_class(data.clips, data.classes, CUT, store.logmel))
    assert (found["longest"], found["shortest"]) == (facts["longest"], facts["shortest"])
    assert found["ratio_single"] == pytest.approx(facts["seconds_ratio"], rel=0.05)
    assert f"{found['ratio_single']:.1f} over single-label clips" in sentence


def test_silent_heads_and_tails_of_the_demo_set_are_found(demo_set):
    data, _, measured, _ = demo_set
    spans = pd.read_csv(data.root / "truth" / "spans.csv").groupby("fname").agg({"start_s": "min", "end_s": "max"})
    table = contents.silence(data.clips, measured, 30.0).query("subset == 'curated'").set_index("fname").join(spans)
    table = table[~table["labels"].map(lambda labels: "knock" in labels[0])]  # scenes have background throughout
    late = (table["lead_s"] - table["start_s"]).abs()
    early = (table["trail_s"] - (table["duration_s"] - table["end_s"])).abs()
    assert late.median() < 0.05 and early.median() < 0.1


def test_the_noisy_demo_clips_betray_themselves(demo_set, monkeypatch):
    data, _, measured, _ = demo_set
    clips = data.clips[data.clips["subset"] != "test"]
    monkeypatch.setattr(contents, "N_TREES", 30)
    gaps, tells = contents.domain_gap(contents.traits(clips, measured, 40.0), clips, seed=0)
    rows = gaps.set_index(["pair", "by"])["auc"]
    assert rows["curated | noisy", "sound"] > 0.9 and 0.35 < rows["chance", "all"] < 0.65
    assert "curated against noisy: AUC" in contents.describe_gap(gaps, tells)


def test_every_figure_is_drawn_with_titles_and_units(demo_set, assert_legible):
    data, store, measured, _ = demo_set
    table = contents.by_class(data.clips, data.classes, CUT, store.logmel)
    clips = figures.clips_of(data.clips, "Sigh")
    together = contents.co_occurrence(datasets.targets(data.clips, data.classes), data.classes)
    drawn = [
        figures.seconds(table),
        figures.lengths(data.clips, table),
        figures.fresh(table),
        figures.silence(contents.silence(data.clips, measured, 40.0), table, 40.0),
        figures.trimming(contents.trimming(data.clips, measured)),
        figures.priors(contents.priors(table)[0], table),
        figures.co_occurrence(together),
        figures.spectra(store, data.clips, table),
        figures.sound(data.clips, measured),
        figures.page(store, clips.head(3), "Sigh"),
    ]
    for figure in drawn:
        assert figure.get_suptitle() or all(
            axes.get_title() for axes in figure.axes if axes.get_label() != "<colorbar>"
        )
        assert any("(s)" in text or "(%)" in text or "Hz" in text or "(s," in text for text in labels_of(figure))
        assert_legible(figure)
    assert clips["duration_s"].is_monotonic_decreasing and clips["labels"].map(lambda names: "Sigh" in names).all()


def labels_of(figure):
    return [axes.get_xlabel() for axes in figure.axes] + [axes.get_ylabel() for axes in figure.axes]


def test_the_title_of_the_seconds_names_the_way_they_are_counted(demo_set):
    data, store, _, _ = demo_set
    table = contents.by_class(data.clips, data.classes, CUT, store.logmel)
    figure = figures.seconds(table)
    even = table.loc[table["subset"] == "curated", "seconds_even"]
    assert f"seconds by {even.max() / even.min():.1f} (even share" in figure.get_suptitle()
    assert {text.get_text() for text in figure.legends[0].get_texts()} >= {"even share", "every label"}


def test_the_class_that_has_most_above_the_dashed_line_is_the_brightest_row_there(demo_set):
    data, store, _, _ = demo_set
    figure = figures.spectra(store, data.clips, contents.by_class(data.clips, data.classes, CUT, store.logmel))
    axes = figure.axes[0]
    shown, names = axes.images[0].get_array(), [label.get_text() for label in axes.get_yticklabels()]
    middle = int(axes.lines[0].get_xdata()[0])
    level = shown[:, middle:].mean(axis=1)
    title = axes.get_title().replace("\n", " ")
    assert f"{names[level.argmax()]} has most, {names[level.argmin()]} least" in title


def test_the_browser_begins_with_a_class_that_has_clips(demo_set):
    data = demo_set[0]
    (pick, _), shown = parts_of(figures.browser(None, data.clips, "Yodel"))
    assert pick.value in data.classes and shown.value


def test_the_browser_turns_pages(demo_set):
    data, store, _, _ = demo_set
    (pick, first), shown = parts_of(figures.browser(store, data.clips, "Sigh"))
    assert shown.value.count("<audio") == figures.PER_PAGE and "data:image/png;base64" in shown.value
    pick.value = "Whistling"
    assert "Whistling" in shown.value and "Sigh" not in shown.value.split(" src=")[0]
    before = shown.value
    first.value = 5
    assert shown.value != before and "clips 6 to 10 of" in shown.value
    pick.value = "(unknown)"
    assert first.value == 0 and "labels unknown" in shown.value


def parts_of(browser):
    """Its class and its first clip, and what it shows."""
    controls, shown = browser.children
    return controls.children, shown


def test_fsd_mini_rain_against_bark(shared_data):
    data = datasets.load(shared_data("fsd-mini"))
    found, sentence = contents.imbalance(contents.by_class(data.clips, data.classes, CUT, LOGMEL))
    assert (found["longest"], found["shortest"]) == ("Rain", "Bark")
    assert "9.7 over single-label clips, 2.3 counting every label, 3.7 by even share" in sentence


def test_unrelated_clips_of_the_demo_set_are_far_from_near_duplicates(demo_set, monkeypatch):
    data, store, _, _ = demo_set
    monkeypatch.setattr(duplicates, "SAME", 0.45)
    assert duplicates.find(store, data.clips)["similarity"].round(1).tolist() == [1.0]


@pytest.mark.parametrize(("name", "n"), [("esc10", 4), ("fsd-mini", 14)])
def test_near_duplicates_of_real_sets_stand_apart_from_the_rest(shared_data, tmp_path, monkeypatch, name, n):
    data = datasets.load(shared_data(name))
    store = cache.build(data.clips, features.LogMel(22_050, 1024, 441, 64, 20.0), tmp_path)
    monkeypatch.setattr(duplicates, "SAME", 0.45)
    pairs = duplicates.find(store, data.clips)
    assert len(pairs) == n and pairs["similarity"].min() >= 0.5
    if name == "esc10":  # one recording on both sides of the published folds
        assert ("3-151080-A-20.ogg", "5-151085-A-20.ogg") in set(zip(pairs["fname"], pairs["other"], strict=True))
    else:  # three clips of one recording: the lags add up
        lag_s = pairs.set_index(["fname", "other"])["lag_s"]
        there = lag_s["067c1c19.wav", "331ece06.wav"] + lag_s["331ece06.wav", "deae8f33.wav"]
        assert there == pytest.approx(lag_s["067c1c19.wav", "deae8f33.wav"], abs=0.05)


def test_the_real_tables_without_audio(shared_data):
    root = shared_data("fsdkaggle2019-meta")
    assert not datasets.with_audio(root) and datasets.with_audio(shared_data("fsd-mini")) == {
        "curated",
        "noisy",
        "test",
    }
    data = datasets.load(root, with_audio=False)
    table = contents.by_class(data.clips, data.classes, CUT, LOGMEL)
    assert table.groupby("subset")["clips"].sum().to_dict() == {
        subset: int(rows["labels"].map(len).sum()) for subset, rows in data.clips.groupby("subset")
    }
    assert contents.cardinality(data.clips).set_index("subset").loc["test", "labels_per_clip"] == pytest.approx(
        1.4, abs=0.05
    )
    shares, sentence = contents.priors(table)
    assert shares.sum().tolist() == pytest.approx([1, 1, 1]) and "of the labels of test clips would have to" in sentence
    assert "can't be shown: there is no audio" in contents.imbalance(table)[1]
    assert figures.lengths(data.clips, table).axes[0].get_title() == "There is no audio: lengths can't be shown"
    together = contents.co_occurrence(datasets.targets(data.clips, data.classes), data.classes)
    assert together.at["Sink_(filling_or_washing)", "Water_tap_and_faucet"] > 0.5


# the notebook, headless


TABLES = [
    "audit",
    "balance",
    "cardinality",
    "gaps",
    "groups_proposed",
    "near_duplicates",
    "signals",
    "sound",
    "tells",
    "trimming",
]
FIGURES = [
    "clips",
    "company",
    "fresh",
    "gaps",
    "lengths",
    "near_duplicates",
    "priors",
    "seconds",
    "silence",
    "sound",
    "spectra",
    "trimming",
]


@pytest.mark.notebooks
@pytest.mark.parametrize("name", ["demo", "fsdkaggle2019-meta"])
def test_the_notebook_runs_headless_and_leaves_what_it_says(shared_data, tmp_path, name):
    run = f"{os.environ['TEST_RUNS']}-eda-{name}"
    folder = ROOT / "outputs" / run / "01_eda"
    where = "demo" if name == "demo" else str(shared_data(name))
    words = ["notebooks/01_eda.ipynb", str(tmp_path / "executed.ipynb"), "-p", "run", run, "-p", "data_dir", where]
    try:
        papermill = str(Path(sys.executable).with_name("papermill"))
        ran = subprocess.run(
            [papermill, "--no-progress-bar", *words], cwd=ROOT, capture_output=True, text=True, timeout=400,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr[-3000:]
        assert {path.stem for path in folder.glob("*.csv")} == set(TABLES)
        assert {path.stem for path in folder.glob("*.png")} == set(FIGURES)
        result = json.loads((folder / "result.json").read_text())
        found, said = result["metrics"], result["conclusion"]
        executed = (tmp_path / "executed.ipynb").read_text()
        if name == "demo":
            assert found["ratio_single"] == pytest.approx(10, rel=0.05) and "10.0 over single-label" in said
            assert found["unusable"] == 11 and found["near_duplicates"] == 1
            assert executed.count("<audio") >= figures.PER_PAGE  # the static gallery
        else:
            assert "there is no audio" in said and "No audio beside the tables" in executed
    finally:
        shutil.rmtree(ROOT / "outputs" / run, ignore_errors=True)
