"""Tests of figures: what a figure says is what its table holds."""

import base64
import dataclasses
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from lib.experiments import curation
from lib.figures import drawing, experiments, logmels
from lib.sound.cache import Cache
from lib.sound.features import LogMel

LOGMEL = LogMel(sample_rate=8000, n_fft=512, hop_length=80, n_mels=16, fmin=20)  # 100 frames a second


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_curves_stand_where_the_table_says_and_defaults_are_large(assert_legible):
    rows = [
        (what, name, at, at == rule.default, at / 10, None if at == 1 and what == "noisy windows" else 0.5)
        for what in ("curated windows", "noisy windows", "noisy labels")
        for name, rule in curation.RULES.items()
        for at in rule.curve
    ]
    table = pd.DataFrame(rows, columns=["what", "name", "at", "default", "recall", "precision"])
    figure = experiments.truth_curves(table.assign(n_true=3, n=10))
    left, middle, right = figure.axes
    assert [axes.get_xlabel() for axes in figure.axes] == ["recall"] * 3 and left.get_ylabel() == "precision"
    lines = {line.get_label(): line for line in left.lines}
    assert lines["threshold"].get_xdata().tolist() == pytest.approx(
        [at / 10 for at in curation.RULES["threshold"].curve]
    )
    assert [line for line in left.lines if line.get_markersize() == 9][1].get_xdata().tolist() == [0.05]
    assert [line.get_ydata()[0] for line in right.lines if line.get_linestyle() == ":"] == [0.3]
    assert "0.50 / 0.10" in figure.get_suptitle()
    assert_legible(figure)


def test_truth_of_whole_clips_has_their_titles(assert_legible):
    whats, names = ("curated clips", "noisy clips", "noisy labels"), curation.RULES
    rows = [(w, n, r.default, True, 0.1, 0.5, 3, 10) for w in whats for n, r in names.items()]
    table = pd.DataFrame(rows, columns=["what", "name", "at", "default", "recall", "precision", "n_true", "n"])
    figure = experiments.truth_curves(table)
    titles = [axes.get_title().replace("\n", " ") for axes in figure.axes]
    assert titles == [
        "Curated clips kept (once a label)",
        "Noisy clips kept (once a label)",
        "Noisy labels flagged as wrong",
    ]
    assert_legible(figure)


def test_seconds_before_and_after_and_lost_clips():
    table = pd.DataFrame(
        [
            ("curated", "bark", 2, 1, 1, 10.0, 4.0),
            ("curated", "rain", 1, 1, 0, 30.0, 6.0),
            ("noisy", "bark", 1, 0, 1, 5.0, 0),
        ],
        columns=["subset", "class", "clips_before", "clips_after", "clips_lost", "seconds_before", "seconds_after"],
    )
    figure = experiments.before_after(table)
    assert [axes.get_title() for axes in figure.axes] == [
        "curated: 25% of the seconds kept",
        "noisy: 0% of the seconds kept",
    ]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["rain", "bark"]  # from the top
    assert [text.get_text() for text in figure.axes[0].texts if text.get_text()] == ["1 lost"]


@pytest.fixture
def store():
    index = pd.DataFrame({"fname": ["a", "b"], "first_frame": [0, 200], "n_frames": [200, 50]})
    frames = torch.from_numpy(np.random.default_rng(0).normal(-50, 9, (250, 1, 16)).astype(np.float16))
    return Cache(LOGMEL, (frames,), index.assign(floor_db=-80.0), pd.DataFrame(), "a-name")


@pytest.fixture
def kept():
    kept = pd.DataFrame(
        {"fname": list("aaab"), "window_start_s": [0, 0.5, 1.0, -0.25], "kept": [True, True, False, False]}
    )
    kept = kept.assign(window_end_s=kept["window_start_s"] + 1, subset="curated", labels="bark,rain", judged_by="x")
    kept["scores"], kept["confirmed"] = ["0.9,0.1", "0.8,0.2", "0.1,0.3", "0.2,0.1"], ["bark", "bark", "", ""]
    return kept


def test_a_clip_its_scores_its_kept_spans_and_the_window_in_question(store, kept, assert_legible):
    figure = logmels.with_scores(store, kept, kept.iloc[[1, 3]].reset_index(drop=True), 1.0)
    above, below, _, last = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert above.get_title("left").startswith("a (curated, bark,rain): 2 of 3 windows kept")
    assert [line.get_label() for line in below.lines[:2]] == ["bark", "rain"]
    assert below.lines[2].get_xdata().tolist() == [1.5]  # dropped
    assert below.lines[0].get_xdata().tolist() == [0.5, 1.0, 1.5]
    span, frame = [patch.get_x() for patch in below.patches], [patch.get_width() for patch in below.patches]
    assert (span, frame) == ([0.0, 0.5], [1.5, 1.0])  # kept, merged; and the window
    assert [patch.get_width() for patch in last.patches] == [0.5]  # nothing kept; the window is cut to its clip
    assert "time (s)" in last.get_xlabel()
    assert_legible(figure)


def test_a_clip_may_be_shown_for_two_of_its_windows(store, kept):
    twice = kept[kept["fname"] == "a"].iloc[[0, 2]].reset_index(drop=True)
    figure = logmels.with_scores(store, kept, twice, 1.0)
    shown = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert shown[0].get_title("left") == shown[2].get_title("left")
    assert [axes.patches[-1].get_x() for axes in shown[1::2]] == twice["window_start_s"].clip(lower=0).tolist()


def test_leaks_show_what_is_reported_and_what_is_reached():
    table = pd.DataFrame(
        [("a", "by window", False, 0.9, 0.5), ("a", "by group", True, 0.6, 0.55), ("c", "itself", False, np.nan, 0.4)],
        columns=["leak", "setup", "control", "reported", "reached"],
    )
    for name in ("reported", "reached"):
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - 0.1, table[name] + 0.05
    figure = experiments.leaks(table)
    (axes,) = figure.axes
    assert axes.get_title() == "Split by window reports 0.90 and reaches 0.50"
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["by window", "by group (control)", "itself"]  # from the top
    reported, reached = (line.get_xdata().tolist() for line in axes.lines)
    assert reported[:2] == [0.9, 0.6] and np.isnan(reported[2]) and reached == [0.5, 0.55, 0.4]
    ends = axes.collections[1].get_segments()[0][:, 0]
    assert ends.tolist() == pytest.approx([0.4, 0.55])  # the interval of what is reached, by window


def test_log_mels_of_one_unit_share_one_scale_of_colours_and_tell_their_means(assert_legible):
    base = np.random.default_rng(0).normal(-40, 10, (16, 50))
    figure = logmels.side_by_side({"as it is": base, "gain": base + 6}, 1.0, "dB")
    left, right, bar = figure.axes
    assert left.images[0].get_clim() == right.images[0].get_clim() and bar.get_ylabel() == "dB"
    assert left.get_title() == f"as it is: mean {base.mean():.1f} dB"
    assert right.get_title() == f"gain: mean {base.mean() + 6:.1f} dB"
    assert_legible(figure)
    apart = logmels.side_by_side({"logmel": base, "delta": base / 10}, 1.0)
    first, second = (axes.images[0].get_clim() for axes in apart.axes[:2])
    assert first[0] < 5 * second[0] and apart.axes[0].get_title() == "logmel"


@pytest.mark.parametrize(("sample_rate", "media"), [(8000, "mpeg"), (10_000, "wav")])
def test_windows_of_a_batch_are_drawn_and_can_be_heard(monkeypatch, assert_legible, sample_rate, media):
    shown, logmel = [], dataclasses.replace(LOGMEL, sample_rate=sample_rate)
    monkeypatch.setattr(logmels, "display", shown.append)
    t = np.arange(sample_rate) / sample_rate
    x = torch.stack([logmel(np.sin(2 * np.pi * hz * t)) for hz in (500, 1000, 2000)])
    logmels.show(x, ["low", "Traffic_noise_and_roadway_noise; model: Church_bell 0.43", "<high>"], logmel)
    figure, players = shown
    assert_legible(figure)
    assert [axes.get_title().partition(" ")[0] for axes in figure.axes[:3]] == ["1:", "2:", "3:"]
    assert "3: &lt;high&gt;<br>" in players.data and not plt.get_fignums()
    sounds = re.findall(rf'src="data:audio/{media};base64,([^"]+)"', players.data)
    for hz, data in zip((500, 1000, 2000), sounds, strict=True):
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
        loudest = np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples)
        assert rate == sample_rate and abs(loudest - hz) < 150
    logmels.show(x, ["a", "b", "c"], dataclasses.replace(LOGMEL, channels=("delta",)))
    assert len(shown) == 3  # no players


def test_what_a_silent_window_costs():
    example = pd.DataFrame({"window": [1, 2], "score": [0.8, 0.2], "silent": [False, True]})
    rows = [(m, n, 0.6 - 0.1 * n - 0.2 * n * (m == "geometric")) for m in ("mean", "geometric") for n in (0, 1, 2)]
    figure = experiments.silence(example, "Tick-tock", pd.DataFrame(rows, columns=["method", "silent", "lwlrap"]))
    left, right = figure.axes
    assert left.get_title() == "arithmetic 0.80 to 0.50; geometric 0.80 to 0.40"
    assert right.get_title().replace("\n", " ") == "A silent window costs 0.100 (arithmetic), 0.300 (geometric mean)"


def test_images_mark_the_rows_of_the_labels_and_leave_out_where_there_is_no_window(assert_legible):
    shown = np.zeros((6, 3, 4), np.float32)
    shown[:, 1, :3] = 1
    rows = ["Bark", "Rain", "Tap_(a_very_long_name_of_a_class)"]
    figure = experiments.images(shown, ["a caption, of_a_clip"] * 6, [("Rain",)] * 6, rows, 0.5, "What is heard")
    image = figure.axes[0].images[0]
    drawn = image.get_array()
    assert drawn.max() == 1 and drawn.mask[:, 3].all() and not drawn.mask[:, :3].any()
    assert figure.axes[0].lines[0].get_ydata().tolist() == [1] and list(image.get_extent()[:2]) == [0, 2]
    assert_legible(figure)


def test_dots_hold_their_intervals_lying_and_upright():
    table = pd.DataFrame({"x": [1.0, 2.0], "x_low": [0.5, 1.0], "x_high": [1.5, 4.0]})
    _, (lying, upright) = drawing.panels(2, 2)
    drawing.dots(lying, table, "x", [0, 1], color="C0")
    drawing.dots(upright, table, "x", [0, 1], upright=True, color="C0")
    assert [line.tolist() for line in lying.collections[0].get_segments()][1] == [[1, 1], [4, 1]]
    assert [line.tolist() for line in upright.collections[0].get_segments()][1] == [[1, 1], [1, 4]]
    assert lying.lines[0].get_xdata().tolist() == upright.lines[0].get_ydata().tolist() == [1, 2]


def test_panels_that_are_not_needed_are_hidden_and_names_begin_at_the_top():
    figure, found = drawing.panels(3, 2, across=2)
    assert [axes.get_visible() for axes in figure.axes] == [True, True, True, False] and found == figure.axes[:3]
    _, (axes,) = drawing.by_name(["first", "last"])
    top, bottom = axes.transData.transform([(0, 0), (0, 1)])[:, 1]
    assert top > bottom and [label.get_text() for label in axes.get_yticklabels()] == ["first", "last"]
