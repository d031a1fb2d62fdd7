"""Tests of curation: rules by hand, the vote, the gate, spans, and the table that says why."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.data import datasets
from lib.experiments import curation
from lib.sound.cache import Cache
from lib.sound.features import LogMel
from lib.sound.windows import spans

CLASSES = ("bark", "rain", "sigh")


def make(clips, windows, judges):
    """clips: 'a curated bark'; windows: 'a 0.0'; judges: name -> {row of windows: scores}."""
    rows = [row.split() for row in clips]
    table = pd.DataFrame({"fname": [r[0] for r in rows], "subset": [r[1] for r in rows], "group": [r[0] for r in rows]})
    table["labels"] = [tuple(r[2].split(",")) for r in rows]
    cut = pd.DataFrame([row.split() for row in windows], columns=["fname", "window_start_s"])
    cut = cut.astype({"window_start_s": float}).assign(silent=False)
    cut["window_end_s"] = cut["window_start_s"] + 1
    said = [
        (name, np.array(list(s)), np.array(list(s.values()), np.float32).reshape(-1, 3)) for name, s in judges.items()
    ]
    return curation.gather(table, cut, CLASSES, said)


@pytest.fixture
def small():
    """A curated clip of two labels with three windows, a noisy one with two windows and three judges."""
    return make(
        ["a curated bark,rain", "n noisy sigh"],
        ["a 0", "a 0.5", "a 1", "n 0", "n 0.5"],
        {
            "without_0_1": {
                0: [0.9, 0.1, 0.0],
                1: [0.4, 0.3, 0.5],
                2: [0.2, 0.2, 0.1],
                3: [0, 0, 0.6],
                4: [0.5, 0, 0.2],
            },
            "without_0_2": {3: [0.7, 0, 0.6], 4: [0.1, 0, 0.3]},
            "without_0_3": {3: [0.1, 0, 0.9], 4: [0.9, 0, 0.1]},
        },
    )


def fate(evidence, rule):
    """What a rule confirms, as 'a0.0:bark'."""
    kept = curation.select(evidence, rule)
    rows = kept[kept["kept"]]
    return [f"{r.fname}{r.window_start_s}:{r.confirmed}" for r in rows.itertuples()]


def test_what_a_silent_window_scores_is_no_best_window_of_a_clip(small):
    small.windows.loc[0, "silent"] = True  # bark .9 in it, .4 and .2 beside it
    assert fate(small, "relative_0.5") == ["a0.5:bark,rain", "a1.0:bark,rain", "n0.0:sigh"]
    assert fate(small, "relative_0.9") == ["a0.5:bark,rain", "n0.0:sigh"]


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ("top_1", ["a0.0:bark", "n0.0:sigh"]),  # a1.0 is a tie: the worst rank; n0.0 by two of three
        ("top_2", ["a0.0:bark,rain", "a0.5:bark", "a1.0:bark,rain", "n0.0:sigh", "n0.5:sigh"]),
        ("threshold_0.5", ["a0.0:bark", "n0.0:sigh"]),
        ("threshold_0.2", ["a0.0:bark", "a0.5:bark,rain", "a1.0:bark,rain", "n0.0:sigh", "n0.5:sigh"]),
        ("relative_0.5", ["a0.0:bark", "a0.5:rain", "a1.0:rain", "n0.0:sigh"]),
        ("agreement_0.5", ["a0.0:bark", "n0.0:sigh"]),
        ("agreement_1", ["a0.0:bark"]),
        # least that half of the curated windows reach: bark .4, rain .2, sigh (no curated clip) .25 over all labels
        ("quantile_0.5", ["a0.0:bark", "a0.5:bark,rain", "a1.0:rain", "n0.0:sigh"]),
    ],
)
def test_rules_by_hand(small, rule, kept):
    assert fate(small, rule) == kept


def test_a_number_may_be_left_out_and_other_texts_are_refused():
    assert curation.rule_of("top") == (curation.RULES["top"], 1)
    assert curation.rule_of("threshold_0.3")[1] == 0.3
    for text in ("top_x", "best_1", "", "_1"):
        with pytest.raises(ValueError, match="is no rule. Write name_number, such as top_1"):
            curation.rule_of(text)


def test_the_table_says_why(small):
    small.windows.loc[0, "silent"] = True
    table = curation.select(small, "top_1")
    assert list(table.columns) == curation.COLUMNS
    assert table["fname"].tolist() == ["a", "a", "a", "n", "n"]
    assert table["reason"].tolist() == ["silent", "not confirmed", "not confirmed", "confirmed", "not confirmed"]
    assert table["labels"].tolist() == ["bark,rain"] * 3 + ["sigh"] * 2
    assert table["scores"].tolist() == ["0.900,0.100", "0.400,0.300", "0.200,0.200", "0.700", "0.200"]
    assert table["judged_by"].tolist() == ["without_0_1"] * 3 + ["without_0_1 without_0_2 without_0_3"] * 2
    assert set(table["rule"]) == {"top_1"}


def test_the_best_window_is_a_floor_for_curated_clips_that_is_not_silent():
    evidence = make(
        ["a curated bark,rain", "b curated bark", "n noisy sigh"],
        ["a 0", "a 1", "b 0", "n 0"],
        {"without_0_1": {0: [0.1, 0.3, 0.9], 1: [0.2, 0.8, 0.9], 2: [0.9, 0, 0], 3: [0.9, 0, 0.1]}},
    )
    evidence.windows.loc[1, "silent"] = True
    assert fate(evidence, "top_1") == ["b0.0:bark"]
    table = curation.select(evidence, "top_1", keep_best=True)
    assert table["kept"].tolist() == [True, False, True, False]
    assert table["reason"].tolist() == ["best of its clip", "silent", "confirmed", "not confirmed"]
    assert table["confirmed"].tolist() == ["rain", "", "bark", ""]


def test_confident_learning_finds_the_planted_errors_and_copes_with_a_class_that_a_subset_lacks():
    rng = np.random.default_rng(0)
    heard = np.arange(60) % 2  # bark or rain
    given = np.where(np.arange(60) < 6, 1 - heard, heard)  # six wrong labels
    scores = np.column_stack([heard == 0, heard == 1, np.zeros(60)]) * 0.9 + 0.05 + 0.01 * rng.random((60, 3))
    clips = [f"c{i:02} noisy {CLASSES[k]}" for i, k in enumerate(given)]
    evidence = make(clips, [f"c{i:02} 0" for i in range(60)], {"without_0_1": dict(enumerate(scores))})
    kept = curation.select(evidence, "confident_1")["kept"].to_numpy()
    assert np.flatnonzero(~kept).tolist() == list(range(6))


@st.composite
def problems(draw):
    """Random clips, windows and judges; scores of few values, so that there are ties."""
    n = draw(st.integers(1, 6))
    labels = draw(st.lists(st.sets(st.integers(0, 2), min_size=1), min_size=n, max_size=n))
    rows = [(i, k) for i in range(n) for k in range(draw(st.integers(1, 4)))]
    n_judges = draw(st.integers(1, 3))
    scores = draw(st.lists(st.integers(0, 4), min_size=n_judges * len(rows) * 3, max_size=n_judges * len(rows) * 3))
    scores = np.array(scores).reshape(n_judges, len(rows), 3) / 4
    clips = [
        f"{i} {'curated' if i % 2 else 'noisy'} {','.join(CLASSES[k] for k in sorted(labels[i]))}" for i in range(n)
    ]
    return clips, [f"{i} {k / 2}" for i, k in rows], scores


@settings(deadline=None)
@given(problems(), st.sampled_from([1, 2]))
def test_top_k_equals_its_definition_and_clip_scores_theirs(problem, k):
    clips, windows, scores = problem
    judges = {f"without_0_{j + 1}": dict(enumerate(s)) for j, s in enumerate(scores)}
    evidence = make(clips, windows, judges)
    labels = {row.split()[0]: row.split()[2].split(",") for row in clips}
    expected = []
    for i, window in enumerate(windows):
        for name in sorted(labels[window.split()[0]], key=CLASSES.index):
            ranks = [(s[i] >= s[i, CLASSES.index(name)]).sum() for s in scores]
            expected.append(np.mean(np.array(ranks) <= k) > 0.5)
    assert curation.confirmed(evidence, f"top_{k}").tolist() == expected
    of = np.array([int(window.split()[0]) for window in windows])
    for i in range(len(clips)):
        np.testing.assert_allclose(evidence.mean[i], scores[:, of == i].mean((0, 1)), atol=1e-6)
        np.testing.assert_allclose(evidence.best[i], scores[:, of == i].max(1).mean(0), atol=1e-6)


@settings(deadline=None)
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_windows_makes_no_difference(problem, random):
    clips, windows, scores = problem
    order = random.sample(range(len(windows)), len(windows))
    judges = {f"without_0_{j + 1}": dict(enumerate(s)) for j, s in enumerate(scores)}
    moved = {name: dict(enumerate(np.array(list(s.values()))[order])) for name, s in judges.items()}
    one = curation.select(make(clips, windows, judges), "threshold_0.5")
    other = curation.select(make(clips, [windows[i] for i in order], moved), "threshold_0.5")
    pd.testing.assert_frame_equal(one, other)


def test_silent_windows_do_not_count_for_a_clip_unless_all_are():
    clips, windows, scores = ["a curated bark"], ["a 0", "a 1"], {0: [0.9, 0, 0], 1: [0.3, 0, 0]}
    table = pd.DataFrame({"fname": ["a", "a"], "window_start_s": [0.0, 1.0], "window_end_s": [1.0, 2.0]})
    frame = make(clips, windows, {"j": scores}).clips
    for silent, mean in (([True, False], 0.3), ([False, False], 0.6), ([True, True], 0.6)):
        judges = [("j", np.arange(2), np.array(list(scores.values()), np.float32))]
        evidence = curation.gather(frame, table.assign(silent=silent), CLASSES, judges)
        assert evidence.mean[0, 0] == pytest.approx(mean)


def test_gather_refuses():
    with pytest.raises(ValueError, match=r"1 clips have no judge: \['b'\]"):
        make(["a curated bark", "b curated bark"], ["a 0", "b 0"], {"without_0_1": {0: [1, 0, 0]}})
    with pytest.raises(ValueError, match="give windows of each clip"):
        make(["a curated bark", "b curated bark"], ["a 0"], {"without_0_1": {0: [1, 0, 0]}})
    for bad in (1.5, -0.1, np.nan):
        with pytest.raises(ValueError, match=r"scores must lie in \[0, 1\]"):
            make(["a curated bark"], ["a 0"], {"without_0_1": {0: [bad, 0, 0]}})


# the gate

LOGMEL = LogMel(sample_rate=8000, n_fft=160, hop_length=80, n_mels=16, fmin=20)  # 100 frames a second, one sees an edge


def level_cache(*levels):
    """A cache of clips whose frames have these levels, dB."""
    lengths = np.array([len(level) for level in levels])
    index = pd.DataFrame({"fname": list("abcdef")[: len(levels)], "n_frames": lengths, "floor_db": -80.0})
    index.insert(2, "first_frame", np.cumsum(lengths) - lengths)
    frames = np.repeat(np.concatenate(levels)[:, None, None], 16, axis=2)
    return Cache(LOGMEL, (torch.from_numpy(frames.astype(np.float16)),), index, pd.DataFrame(), "a-name")


def test_a_window_is_silent_if_no_inner_frame_is_near_the_loudest():
    level = np.full(40, -60.0)
    level[20] = 0.0
    store = level_cache(np.full(30, -30.0), level, np.full(5, -70.0))
    table = store.rows(["b", "b", "b", "b", "b", "a", "c"])
    table["start_frame"] = [0, 10, 12, 19, 20, 0, -3]  # frame 20 is outside, the last, inside, inside, the first
    found = curation.silent(store, table, 11, 30.0)
    assert found.tolist() == [True, True, False, False, True, False, False]
    assert not curation.silent(store, table, 11, 60.0).any()  # a level of just the gate passes


# what comes of it


def kept_table(rows):
    """'a 0 1 bark' -> kept windows."""
    rows = [row.split() for row in rows]
    table = pd.DataFrame(rows, columns=["fname", "window_start_s", "window_end_s", "confirmed"])
    table = table.astype({"window_start_s": float, "window_end_s": float})
    return table.assign(subset="curated", kept=table["confirmed"] != "-", judged_by="without_0_1")


def test_kept_windows_become_spans():
    kept = kept_table(["a 0 1 bark", "a 0.5 1.5 -", "a 1.001 2 rain,bark", "a 2.5 3.5 rain", "b -0.2 0.8 sigh"])
    found = spans(kept, pd.Series({"a": 3.2, "b": 0.6}), 1.0)
    assert found[["fname", "start_s", "end_s"]].values.tolist() == [["a", 0, 2], ["a", 2.2, 3.2], ["b", 0, 0.6]]
    assert found["labels"].tolist() == [("bark", "rain"), ("rain",), ("sigh",)]


def test_spans_are_padded_within_their_clip():
    kept = kept_table(["a 0.2 0.4 bark", "b 1 1.5 bark", "c 2 2.5 bark"])
    found = spans(kept, pd.Series({"a": 5.0, "b": 5.0, "c": 2.5}), 1.0)
    assert found[["start_s", "end_s"]].to_numpy() == pytest.approx(np.array([[0, 1], [0.75, 1.75], [1.5, 2.5]]))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=12), st.floats(0.2, 15))
def test_spans_hold_every_kept_window_and_nothing_overlaps(windows, duration_s):
    starts = sorted({min(k / 2, max(duration_s - 1, 0)) for k, _ in windows})
    rows = [f"a {s:.3f} {s + 1:.3f} {'bark' if keep else '-'}" for s, (_, keep) in zip(starts, windows, strict=False)]
    kept = kept_table(rows)
    found = spans(kept, pd.Series({"a": duration_s}), 1.0)
    assert len(found) == 0 or (found["start_s"].to_numpy()[1:] > found["end_s"].to_numpy()[:-1]).all()
    assert ((found["start_s"] >= 0) & (found["end_s"] <= duration_s + 1e-9)).all()
    assert (found["end_s"] - found["start_s"] >= min(1, duration_s) - 2e-3).all()
    for row in kept[kept["kept"]].itertuples():
        end = min(row.window_end_s, duration_s)
        assert ((found["start_s"] <= row.window_start_s + 2e-3) & (found["end_s"] >= end - 2e-3)).any()


def test_before_and_after_by_class():
    clips = pd.DataFrame({"fname": list("abc"), "subset": "curated", "duration_s": [3.2, 0.6, 9.0]})
    clips["labels"] = [("bark", "rain"), ("sigh",), ("bark",)]
    kept = kept_table(["a 0 1 bark", "a 2.5 3.5 -", "b -0.2 0.8 -"])  # c was not judged
    found = curation.by_class(kept, clips, 1.0).set_index("class")
    assert found.loc["bark"].tolist() == ["curated", 1, 1, 0, 3.2, 1.0]
    assert found.loc["rain"].tolist() == ["curated", 1, 0, 0, 3.2, 0.0]  # its clip lives on
    assert found.loc["sigh"].tolist() == ["curated", 1, 0, 1, 0.6, 0.0]


def test_heard_lists_labels_and_what_the_judges_hear(small):
    found = curation.predicted_labels(small).set_index(["fname", "class"])
    assert found.index.tolist() == [("a", "bark"), ("a", "rain"), ("a", "sigh"), ("n", "bark"), ("n", "sigh")]
    assert found["listed"].tolist() == [True, True, False, False, True]
    assert found.loc[("a", "sigh"), "best"] == 0.5
    assert found.loc[("n", "bark"), "best"] == pytest.approx((0.5 + 0.7 + 0.9) / 3, abs=1e-4)
    assert found.loc[("n", "bark"), "mean"] == pytest.approx((0.25 + 0.4 + 0.5) / 3, abs=1e-4)
    truth = datasets.targets(small.clips, CLASSES)
    assert found["listed"].sum() == truth.sum()
