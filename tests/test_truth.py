"""Tests of the known truth: precision and recall by hand, and the gate against the planted silence of the demo set."""

import numpy as np
import pandas as pd
import pytest
from fake_run import make_task

from lib.data import datasets, demo
from lib.experiments import curation, probes
from lib.sound import cache, features, windows

CLASSES = ("bark", "rain")


@pytest.fixture
def known():
    """Two curated clips and two noisy ones, of which one label is wrong."""
    spans = pd.DataFrame(
        [("a", "bark", 0.0, 0.3), ("a", "rain", 1.95, 2.0), ("n", "bark", 0.0, 9.0), ("x", "rain", 0.0, 1.0)],
        columns=["fname", "class", "start_s", "end_s"],
    )
    labels = pd.Series({"a": ("bark", "rain"), "n": ("bark",), "x": ("rain",)})
    return demo.Truth(spans, labels)


@pytest.fixture
def evidence():
    clips = pd.DataFrame({"fname": ["a", "n", "x"], "subset": ["curated", "noisy", "noisy"], "group": ["a", "n", "x"]})
    clips["labels"] = [("bark", "rain"), ("bark",), ("bark",)]
    table = pd.DataFrame({"fname": ["a", "a", "n", "x"], "window_start_s": [0.0, 1.0, 0.0, 0.0]})
    table = table.assign(window_end_s=table["window_start_s"] + 1, silent=False)
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.9, 0.1], [0.4, 0.6]], np.float32)
    return curation.gather(clips, table, CLASSES, [("without_0_1", np.arange(4), scores)])


def test_a_window_holds_a_label_if_a_tenth_of_a_second_of_it_is_inside(known, evidence):
    # a0 bark, a0 rain, a1 bark, a1 rain (0.05 s: too little), n0 bark, x0 bark (never heard)
    assert probes.holds(known, evidence).tolist() == [True, False, False, False, True, False]
    assert probes.wrong(known, evidence.clips, CLASSES).tolist() == [[False, False], [False, False], [True, False]]


def test_precision_and_recall_by_hand(known, evidence):
    found = probes.rates(known, [evidence, evidence], "top_1").set_index("what")
    one = found.loc["curated windows"]  # kept: bark in both windows, in one of them rightly
    assert (one["n_kept"], one["n_true"], one["precision"], one["recall"]) == (4, 2, 0.5, 1.0)
    one = found.loc["noisy windows"]
    assert (one["n_kept"], one["n_true"], one["precision"], one["recall"]) == (2, 2, 1.0, 1.0)
    one = found.loc["noisy labels"]
    assert (one["n_kept"], one["n_true"], one["precision"], one["recall"]) == (2, 2, 1.0, 1.0)
    strict = probes.rates(known, [evidence], "threshold_1").set_index("what")
    assert np.isnan(strict.loc["curated windows", "precision"]) and strict.loc["curated windows", "recall"] == 0
    assert (strict.loc["noisy labels", "precision"], strict.loc["noisy labels", "recall"]) == (0.5, 1.0)


def test_every_rule_has_a_curve_through_its_default(known, evidence):
    found = probes.truth_curves(known, [evidence])
    assert set(found["name"]) == set(curation.RULES)
    assert (found[found["default"]].groupby("name").size() == 3).all()


@pytest.fixture(scope="module")
def demo_set(demo_folder, tmp_path_factory):
    data, place = datasets.load(demo_folder), tmp_path_factory.mktemp("cache")
    store = cache.build(data.clips.query("subset != 'test'"), features.LogMel(22_050, 1024, 441, 64, 20.0), place)
    return data.without(store.problems), store


def test_no_window_in_planted_silence_is_kept_even_by_judges_who_confirm_all(demo_set):
    data, store = demo_set
    known = demo.read_truth(data.root, data.clips, data.classes)
    clips = data.clips.query("subset != 'test'").sort_values("fname", ignore_index=True)
    task = make_task(clips, pd.DataFrame({"fname": [], "fold": []}), store, data.classes)
    table = curation.inference_windows(task, windows.Windows(1.0, 0.25), 30.0)
    yes = ("without_0_1", np.arange(len(table)), np.ones((len(table), len(data.classes)), np.float32))
    evidence = curation.gather(clips, table, data.classes, [yes])
    kept = curation.select(evidence, "threshold_0.5")
    silence = probes.silence_kept(known, clips, kept)
    assert len(silence) > 50
    assert not silence["kept"].any()
    held = kept.loc[evidence.pairs["window"][probes.holds(known, evidence)]]
    assert held["kept"].all()  # and no sound is taken for silence


def test_other_sets_have_no_truth(tmp_path):
    assert demo.read_truth(tmp_path, pd.DataFrame({"fname": ["a"], "true_labels": [None]}), CLASSES) is None


def test_what_is_known_of_whole_clips_tells_of_clips(tmp_path, evidence):
    """By hand, top_1: a is kept for bark and not for rain, both are heard; n is kept rightly; x has a wrong label."""
    clips = evidence.clips.assign(true_labels=[("bark", "rain"), ("bark",), ("rain",)])
    known = demo.read_truth(tmp_path, clips, CLASSES)
    found = probes.rates(known, [evidence], "top_1").set_index("what")
    assert set(found.index) == {"curated clips", "noisy clips", "noisy labels"}
    one = found.loc["curated clips"]
    assert (one["n"], one["n_kept"], one["n_true"], one["precision"], one["recall"]) == (2, 1, 2, 1.0, 0.5)
    one = found.loc["noisy clips"]
    assert (one["n"], one["n_kept"], one["n_true"], one["precision"], one["recall"]) == (2, 1, 1, 1.0, 1.0)
    assert found.loc["noisy labels", ["n_kept", "precision", "recall"]].tolist() == [1, 1.0, 1.0]
    part = demo.read_truth(
        tmp_path, clips.assign(true_labels=[None, None, ("bark",)]), CLASSES
    )  # of the others nothing is said
    assert probes.rates(part, [evidence], "top_1")["n"].tolist() == [1, 1]
    kept = curation.select(evidence, "top_1")
    assert probes.silence_kept(part, evidence.clips, kept).empty and len(probes.truth_curves(known, [evidence])) > 10
