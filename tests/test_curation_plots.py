"""Tests of curation_plots: what a figure says is what its table holds."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from lib.experiments import curation
from lib.figures import curation_plots
from lib.sound.cache import Cache
from lib.sound.features import LogMel

LOGMEL = LogMel(sample_rate=8000, n_fft=512, hop_length=80, n_mels=16, fmin=20)  # 100 frames a second


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_curves_stand_where_the_table_says_and_defaults_are_large():
    rows = [
        (what, name, at, at == rule.default, at / 10, None if at == 1 and what == "noisy windows" else 0.5)
        for what in ("curated windows", "noisy windows", "noisy labels")
        for name, rule in curation.RULES.items()
        for at in rule.curve
    ]
    table = pd.DataFrame(rows, columns=["what", "name", "at", "default", "recall", "precision"])
    figure = curation_plots.truth_curves(table.assign(n_true=3, n=10))
    left, middle, right = figure.axes
    assert [axes.get_xlabel() for axes in figure.axes] == ["recall"] * 3 and left.get_ylabel() == "precision"
    lines = {line.get_label(): line for line in left.lines}
    assert lines["threshold"].get_xdata().tolist() == pytest.approx(
        [at / 10 for at in curation.RULES["threshold"].curve]
    )
    assert [line for line in left.lines if line.get_markersize() == 9][1].get_xdata().tolist() == [0.05]
    assert [line.get_ydata()[0] for line in right.lines if line.get_linestyle() == ":"] == [0.3]
    assert "0.50 / 0.10" in figure.get_suptitle()


def test_seconds_before_and_after_and_lost_clips():
    table = pd.DataFrame(
        [
            ("curated", "bark", 2, 1, 1, 10.0, 4.0),
            ("curated", "rain", 1, 1, 0, 30.0, 6.0),
            ("noisy", "bark", 1, 0, 1, 5.0, 0),
        ],
        columns=["subset", "class", "clips_before", "clips_after", "clips_lost", "seconds_before", "seconds_after"],
    )
    figure = curation_plots.before_after(table)
    assert [axes.get_title() for axes in figure.axes] == [
        "curated: 25% of the seconds kept",
        "noisy: 0% of the seconds kept",
    ]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["bark", "rain"]
    assert [text.get_text() for text in figure.axes[0].texts] == [" 1 lost"]


@pytest.fixture
def store():
    index = pd.DataFrame({"fname": ["a", "b"], "part": 0, "first_frame": [0, 200], "n_frames": [200, 50]})
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


def test_a_clip_its_scores_its_kept_spans_and_the_window_in_question(store, kept):
    figure = curation_plots.clips_with_scores(store, kept, kept.iloc[[1, 3]].reset_index(drop=True), 1.0)
    above, below, _, last = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert above.get_title("left").startswith("a (curated): 67% of 3 windows")
    assert [line.get_label() for line in below.lines] == ["bark", "rain"]
    assert below.lines[0].get_xdata().tolist() == [0.5, 1.0, 1.5]
    span, frame = [patch.get_x() for patch in below.patches], [patch.get_width() for patch in below.patches]
    assert (span, frame) == ([0.0, 0.5], [1.5, 1.0])  # kept, merged; and the window
    assert [patch.get_width() for patch in last.patches] == [0.5]  # nothing kept; the window is cut to its clip
    assert "time (s)" in last.get_xlabel()


def test_a_clip_may_be_shown_for_two_of_its_windows(store, kept):
    twice = kept[kept["fname"] == "a"].iloc[[0, 2]].reset_index(drop=True)
    figure = curation_plots.clips_with_scores(store, kept, twice, 1.0)
    shown = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert shown[0].get_title("left") == shown[2].get_title("left")
    assert [axes.patches[-1].get_x() for axes in shown[1::2]] == twice["window_start_s"].clip(lower=0).tolist()


def test_leaks_show_what_is_reported_and_what_is_reached():
    table = pd.DataFrame(
        [("a", "by window", False, 0.9, 0.5), ("a", "by group", True, 0.6, 0.55), ("c", "itself", False, np.nan, 0.4)],
        columns=["sin", "way", "honest", "reported", "reached"],
    )
    for name in ("reported", "reached"):
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - 0.1, table[name] + 0.05
    figure = curation_plots.leaks(table)
    (axes,) = figure.axes
    assert axes.get_title() == "Split by window reports 0.90 and reaches 0.50"
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["c: itself", "a: by group (honest)", "a: by window"]
    reported, reached = (container.lines[0].get_xdata().tolist() for container in axes.containers)
    assert reported == [0.6, 0.9] and reached == [0.4, 0.55, 0.5]
