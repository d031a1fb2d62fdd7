"""Tests of metrics: stored answers, the literal definition, scikit-learn, honest intervals, refusals."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import label_ranking_average_precision_score

from lib.evaluation import metrics
from lib.evaluation.comparisons import Comparison

NAN = np.nan
calm = settings(deadline=None)  # machines that others use too are slow at times


def rows(text: str) -> np.ndarray:
    """'100 001' -> [[1, 0, 0], [0, 0, 1]]."""
    return np.array([[int(digit) for digit in row] for row in text.split()])


# name: truth, scores, lwlrap, per class, weight (worked by hand)
VECTORS = {
    "A": (
        rows("1000 1001 0000"),
        [[0.3, 0.4, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]],
        2 / 3,
        [(1 / 2 + 1 / 2) / 2, NAN, NAN, 1],
        [2 / 3, 0, 0, 1 / 3],
    ),
    "B": (rows("100 001"), [[0.75, 0.5, 1], [1, 0.2, 0.1]], 5 / 12, [1 / 2, NAN, 1 / 3], [1 / 2, 0, 1 / 2]),
    "C": (
        rows("1100 0010 0101"),
        [[0.9, 0.1, 0.5, 0.3], [0.2, 0.8, 0.7, 0.1], [0.1, 0.4, 0.2, 0.3]],
        0.8,
        [1, (1 / 2 + 1) / 2, 1 / 2, 1],
        [1 / 5, 2 / 5, 1 / 5, 1 / 5],
    ),
    "G": (rows("1110 0001"), [[0.9, 0.8, 0.7, 0.1]] * 2, 0.8125, [1, 1, 1, 1 / 4], [1 / 4] * 4),
    "F": (rows("100 001"), np.full((2, 3), 0.5), 1 / 3, [1 / 3, NAN, 1 / 3], [1 / 2, 0, 1 / 2]),
}


@pytest.mark.parametrize("name", VECTORS)
def test_stored_answers(name):
    targets, scores, value, per_class, weight = VECTORS[name]
    assert metrics.lwlrap(targets, scores) == pytest.approx(value, abs=1e-12)
    found, found_weight = metrics.per_class_lwlrap(targets, scores)
    np.testing.assert_allclose(found, per_class, atol=1e-12)  # equal nan at equal places
    np.testing.assert_allclose(found_weight, weight, atol=1e-12)


def test_class_macro_mean_and_plain_lrap_are_other_numbers():
    targets, scores, value, *_ = VECTORS["C"]
    assert np.nanmean(metrics.per_class_lwlrap(targets, scores)[0]) == pytest.approx(0.8125)
    assert label_ranking_average_precision_score(targets, scores) == pytest.approx(0.75)
    assert value == 0.8


def test_mean_over_batches_is_another_number():
    targets, scores, *_ = VECTORS["C"]
    scores = np.array(scores)
    batches = [metrics.lwlrap(targets[part], scores[part]) for part in (slice(0, 2), slice(2, 3))]
    assert np.mean(batches) == pytest.approx(((1 + 1 / 2 + 1 / 2) / 3 + 1) / 2)  # 5/6, where pooled is 4/5
    assert metrics.lwlrap(targets, scores) == pytest.approx(0.8)


@st.composite
def tables(draw):
    """0/1 targets with at least one label and scores of few values, so that ties are common."""
    shape = (draw(st.integers(1, 8)), draw(st.integers(2, 6)))
    targets = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 1)))
    targets[draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))] = 1
    return targets, draw(hnp.arrays(np.float64, shape, elements=st.sampled_from([-2.0, 0.0, 0.1, 0.5, 3.0])))


def literal(targets, scores):
    """Clip by clip, class by class, as the definition says; ties to the worst rank."""
    precisions, hits = [], []
    for truth, score in zip(targets, scores, strict=True):
        if truth.any():
            for c in np.flatnonzero(truth):
                above = [d for d in range(len(score)) if score[d] >= score[c]]
                precisions.append(sum(truth[d] for d in above) / len(above))
            hits.append(all(truth[d] for d in range(len(score)) if score[d] == max(score)))
    return np.mean(precisions), np.mean(hits)


@calm
@given(tables())
def test_fast_is_the_literal_definition(table):
    value, hits = literal(*table)
    assert metrics.lwlrap(*table) == pytest.approx(value, abs=1e-12)
    assert metrics.hit_rate(*table) == pytest.approx(hits, abs=1e-12)


@calm
@given(tables())
def test_equals_scikit_learn_weighted_by_number_of_labels(table):
    targets, scores = table
    expected = label_ranking_average_precision_score(targets, scores, sample_weight=targets.sum(1))
    assert metrics.lwlrap(targets, scores) == pytest.approx(expected, abs=1e-12)


@calm
@given(tables(), st.randoms(use_true_random=False))
def test_order_of_clips_and_scale_of_scores_make_no_difference(table, random):
    targets, scores = table
    order = random.sample(range(len(targets)), len(targets))
    assert metrics.lwlrap(targets[order], 2 * scores[order] + 1) == pytest.approx(metrics.lwlrap(targets, scores))


@calm
@given(tables())
def test_per_class_times_weight_is_the_whole(table):
    per_class, weight = metrics.per_class_lwlrap(*table)
    assert np.nansum(per_class * weight) == pytest.approx(metrics.lwlrap(*table))
    assert weight.sum() == pytest.approx(1)
    np.testing.assert_array_equal(np.isnan(per_class), table[0].sum(0) == 0)


def test_chunks_give_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    targets, scores = rng.random((50, 7)) < 0.3, rng.random((50, 7), dtype=np.float32)
    whole = metrics.lwlrap(targets, scores)
    monkeypatch.setattr(metrics, "CHUNK", 20)
    assert metrics.lwlrap(targets, scores) == whole


def test_a_tie_at_the_top_is_a_hit_only_if_all_of_it_is_true():
    scores = [[0.9, 0.9, 0.1], [0.9, 0.9, 0.1], [0.9, 0.1, 0.1], [0.9, 0.1, 0.1]]
    assert metrics.hit_rate(rows("110 100 100 000"), scores) == pytest.approx(2 / 3)  # hit, miss, hit, no label


@pytest.mark.parametrize("bad", [NAN, np.inf, -np.inf])
def test_scores_without_rank_are_refused(bad):
    with pytest.raises(ValueError, match="row 1, column 0"):
        metrics.lwlrap(rows("10 01"), [[0.5, 0.1], [bad, 0.2]])


@pytest.mark.parametrize(
    ("targets", "scores", "message"),
    [
        ([[0.6, 0.4]], [[1, 0]], "0.6.*[Mm]ixup"),
        ([[NAN, 1]], [[1, 0]], "expected only 0 and 1"),
        ([[2, 1]], [[1, 0]], "targets hold 2"),
        ([[0, 0]], [[1, 0]], "none of the 1 rows has a label"),
        ([[0, 1]], [[1, 0, 0]], r"\(1, 2\) and scores \(1, 3\)"),
        ([0, 1], [1, 0], r"\(n_clips, n_classes\)"),
    ],
)
def test_refusals_of_every_metric(targets, scores, message):
    for metric in (metrics.lwlrap, metrics.per_class_lwlrap, metrics.hit_rate):
        with pytest.raises(ValueError, match=message):
            metric(targets, scores)


def study(seed: int, n: int = 60, n_classes: int = 5, skill: float = 1.0, per_group: int = 1):
    """One label a clip; scores whose noise is shared within a group; groups of `per_group` clips."""
    rng = np.random.default_rng(seed)
    group = np.arange(n) // per_group
    labels = rng.integers(n_classes, size=group.max() + 1)[group]
    targets = np.eye(n_classes, dtype=int)[labels]
    noise = rng.normal(size=(group.max() + 1, n_classes))[group]
    return targets, skill * targets + noise, group.astype(str)


def compare(targets, base, other, groups, n_resamples=2000, level=0.95):
    """A comparison alone, with as many resamples and at any level: a row before any correction."""
    return metrics._verdict(*metrics._paired(targets, base, other, groups, n_resamples), level, 1)


def compare_all(targets, base, others, groups):
    """One table of comparisons with the same base."""
    return metrics.compare_each(targets, {name: (base, other) for name, other in others.items()}, groups)


def test_bootstrap_of_two_groups_by_hand():
    targets, scores = rows("10 10 10"), [[1, 0], [0, 1], [0, 1]]  # precisions 1, .5, .5; groups a, b, b
    found = metrics.bootstrap(targets, scores, ["a", "b", "b"], n_resamples=4000)
    assert found["lwlrap"] == pytest.approx(2 / 3)
    assert (found["lwlrap_low"], found["lwlrap_high"]) == (0.5, 1)  # only b and b, only a and a: a quarter each
    assert (found["hit_rate_low"], found["hit_rate_high"], found["n"]) == (0, 1, 3)


def test_bootstrap_is_deterministic_holds_its_value_and_ignores_clips_without_label():
    targets, scores, groups = study(0)
    found = metrics.bootstrap(targets, scores, groups)
    assert list(found) == ["lwlrap", "lwlrap_low", "lwlrap_high", "hit_rate", "hit_rate_low", "hit_rate_high", "n"]
    assert found["lwlrap_low"] < found["lwlrap"] < found["lwlrap_high"]
    assert found["lwlrap"] == pytest.approx(metrics.lwlrap(targets, scores))
    assert found["hit_rate"] == pytest.approx(metrics.hit_rate(targets, scores))
    assert found["n"] == 60
    unlabelled = np.zeros_like(targets[:5])
    more = np.vstack([targets, unlabelled]), np.vstack([scores, scores[:5]]), [*groups, *"vwxyz"]
    assert metrics.bootstrap(*more) == found


def test_order_of_clips_makes_no_difference_to_the_intervals():
    targets, scores, groups = study(1)
    order = np.random.default_rng(0).permutation(len(targets))
    found = metrics.bootstrap(targets[order], scores[order], groups[order])
    assert found == pytest.approx(metrics.bootstrap(targets, scores, groups))


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    truth = np.mean([metrics.lwlrap(*study(s, n=2000)[:2]) for s in range(20)])
    held = 0
    for s in range(200):
        found = metrics.bootstrap(*study(1000 + s), n_resamples=300)
        held += found["lwlrap_low"] <= truth <= found["lwlrap_high"]
    assert 0.89 <= held / 200 <= 0.99


@pytest.mark.parametrize(("level", "errors"), [(0.95, 1.96), (0.99, 2.576)])
def test_intervals_are_those_of_the_level(level, errors):
    """400 clips, half of them hits: the standard error is sqrt(.25 / 400), of the share and of its lead over none."""
    truth, scores = np.tile(rows("10"), (400, 1)), np.repeat([[1, 0], [0, 1]], 200, axis=0)
    found = compare(truth, np.tile([0, 1], (400, 1)), scores, np.arange(400), n_resamples=20_000, level=level)
    width = found["hit_rate_diff_high"] - found["hit_rate_diff_low"]
    assert found["hit_rate_diff"] == 0.5 and width == pytest.approx(2 * errors * np.sqrt(0.25 / 400), rel=0.05)
    if level == 0.95:
        alone = metrics.bootstrap(truth, scores, np.arange(400), n_resamples=20_000)
        assert alone["hit_rate_high"] - alone["hit_rate_low"] == pytest.approx(width, rel=0.05)


def test_groups_that_repeat_widen_the_interval():
    targets, scores, groups = study(2, n=200, per_group=5)  # five clips a group, all alike
    alone = metrics.bootstrap(targets, scores, np.arange(200))
    grouped = metrics.bootstrap(targets, scores, groups)
    ratio = (grouped["lwlrap_high"] - grouped["lwlrap_low"]) / (alone["lwlrap_high"] - alone["lwlrap_low"])
    assert ratio == pytest.approx(np.sqrt(5), rel=0.25)


def test_paired_comparison_is_narrower_than_unpaired():
    targets, base, groups = study(3)
    other = base + np.random.default_rng(0).normal(scale=0.1, size=base.shape)
    paired = compare(targets, base, other, groups)
    one, two = (metrics.bootstrap(targets, s, groups) for s in (base, other))
    unpaired = np.hypot(one["lwlrap_high"] - one["lwlrap_low"], two["lwlrap_high"] - two["lwlrap_low"])
    assert paired["lwlrap_diff_high"] - paired["lwlrap_diff_low"] < 0.5 * unpaired
    assert paired["lwlrap_diff"] == pytest.approx(two["lwlrap"] - one["lwlrap"])
    assert paired["hit_rate_diff"] == pytest.approx(two["hit_rate"] - one["hit_rate"])
    assert (paired["n"], paired["n_groups"], paired["n_seeds"]) == (60, 60, 1)


def test_verdicts():
    targets, base, groups = study(4, n=100)
    better, worse = base + 3 * targets, base - 3 * targets
    kept = compare(targets, base, better, groups)
    assert kept["verdict"] == "kept"
    assert 0 < kept["lwlrap_diff_low"] < kept["lwlrap_diff"] < kept["lwlrap_diff_high"]
    assert kept["p"] == pytest.approx(2 / 2001)
    assert kept["lwlrap_diff"] > kept["smallest_diff"] > 0
    dropped = compare(targets, base, worse, groups)
    assert (dropped["verdict"], dropped["p"]) == ("dropped", kept["p"])
    same = compare(targets, base, base, groups)
    assert (same["verdict"], same["p"], same["lwlrap_diff"], same["smallest_diff"]) == ("unclear", 1, 0, 0)


def test_smallest_difference_shrinks_with_the_root_of_n():
    def smallest(n):
        targets, base, groups = study(5, n=n)
        return compare(targets, base, study(6, n=n)[1] + targets, groups)["smallest_diff"]

    assert smallest(100) / smallest(1600) == pytest.approx(4, rel=0.3)


def test_seeds_that_disagree_widen_the_interval_and_equal_seeds_do_not():
    targets, scores, groups = study(7, n=200)
    rng = np.random.default_rng(0)
    noisy = np.stack([scores + skill * targets + rng.normal(size=scores.shape) for skill in (-1, 0, 1)])
    one = metrics.bootstrap(targets, scores, groups)
    assert metrics.bootstrap(targets, np.stack([scores] * 3), groups)["lwlrap_low"] == pytest.approx(
        one["lwlrap_low"], abs=0.01
    )
    several = metrics.bootstrap(targets, noisy, groups)
    assert several["lwlrap"] == pytest.approx(np.mean([metrics.lwlrap(targets, s) for s in noisy]))
    assert several["lwlrap_high"] - several["lwlrap_low"] > 1.5 * (one["lwlrap_high"] - one["lwlrap_low"])
    assert several["n"] == 200


def test_spread_between_seeds_is_not_understated():
    """Groups all alike: the interval's variance must be that of a mean of three seeds, s^2 / 3, not 2/3 of it."""
    truth = np.tile(rows("10"), (50, 1))
    seeds = np.stack([np.tile(score, (50, 1)) for score in ([1, 0], [0, 1], [0, 1])])  # lwlrap 1, .5, .5
    rates = metrics._rates(metrics._group_sums(truth, [seeds], np.arange(50))[0], 20_000)
    assert rates[1:, 0, 0].var() == pytest.approx(np.var([1, 0.5, 0.5], ddof=1) / 3, rel=0.03)


def test_comparison_of_seeds_is_paired_and_counts_them():
    targets, scores, groups = study(8)
    base = np.stack([scores, scores + targets, scores + 2 * targets])  # seeds differ much, the gain is alike in each
    found = compare(targets, base, base + targets, groups)
    assert (found["n_seeds"], found["verdict"]) == (3, "kept")
    with pytest.raises(ValueError, match="number of seeds"):
        compare(targets, base, base[:2], groups)


def test_one_group_has_scores_but_no_interval():
    targets, scores, groups = study(9)
    found, all_of_them = metrics.bootstrap(targets, scores, ["a"] * 60), metrics.bootstrap(targets, scores, groups)
    assert (found["lwlrap"], found["hit_rate"], found["n"]) == tuple(
        all_of_them[k] for k in ("lwlrap", "hit_rate", "n")
    )
    assert np.isnan([found[f"{name}_{end}"] for name in ("lwlrap", "hit_rate") for end in ("low", "high")]).all()
    assert metrics.in_words(found, "lwlrap") == f"{found['lwlrap']:.3f} (one group of clips: no interval)"
    assert metrics.in_words(all_of_them, "hit_rate").startswith(f"{found['hit_rate']:.3f} (95 % interval 0.")
    [row] = compare_all(targets, scores, {"other": scores + targets}, ["a"] * 60)
    assert row["lwlrap_diff"] > 0 and np.isnan(row["lwlrap_diff_low"])
    assert (row["verdict"], row["p"], row["p_holm"]) == ("unclear", 1, 1)


def test_intervals_refuse_what_has_none():
    targets, scores, groups = study(9)
    with pytest.raises(ValueError, match="59 groups for 60 rows"):
        metrics.bootstrap(targets, scores, groups[1:])
    with pytest.raises(ValueError, match="Mixup"):
        compare(targets * 0.9, scores, scores, groups)
    with pytest.raises(ValueError, match="differ"):
        compare(targets, scores, scores[:, :4], groups)


def test_holm_by_hand():
    # sorted .01 x 4, .02 x 3, .03 x 2, .04 x 1, never falling
    np.testing.assert_allclose(metrics.holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(metrics.holm([0.6, 0.9]), [1, 1])
    assert len(metrics.holm([])) == 0
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        metrics.holm([0.1, NAN])


@calm
@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_order_and_never_lowers(p_values):
    adjusted = metrics.holm(p_values)
    assert (adjusted >= np.array(p_values)).all()
    assert (np.diff(adjusted[np.argsort(p_values)]) >= 0).all()


def test_prior_scores_are_the_class_frequencies():
    scores = metrics.prior_scores(rows("100 110 000 100"), 2)
    np.testing.assert_array_equal(scores, [[0.75, 0.25, 0]] * 2)
    assert metrics.lwlrap(rows("100 010"), scores) == pytest.approx((1 + 1 / 2) / 2)


def test_the_baseline_of_a_clip_is_the_frequency_of_its_classes_where_it_was_not_held_out():
    targets = rows("10 10 01 01 01 10")
    dealt = pd.DataFrame({"group": list("abcdef"), "fold": [0, 0, 0, 1, 1, 1]})
    scores = metrics.prior_by_fold(targets, dealt)
    np.testing.assert_allclose(scores, [[1 / 3, 2 / 3]] * 3 + [[2 / 3, 1 / 3]] * 3)
    assert metrics.baseline(targets, dealt) == pytest.approx((0.5 + 0.5 + 1 + 0.5 + 0.5 + 1) / 6)
    assert metrics.baseline(targets, dealt, dealt["fold"] == 0) == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert np.isnan(metrics.baseline(targets, dealt, dealt["fold"] == 2))  # all trainings diverged


def test_a_table_of_comparisons_is_corrected_by_holm():
    targets, scores, groups = study(10)
    rng = np.random.default_rng(0)
    others = {f"chance {i}": scores + rng.normal(0, 0.3, scores.shape) for i in range(4)} | {"better": scores + targets}
    found = {row["variant"]: row for row in compare_all(targets, scores, others, groups)}
    assert list(found) == list(others)
    p = np.array([row["p"] for row in found.values()])
    np.testing.assert_allclose([row["p_holm"] for row in found.values()], metrics.holm(p))
    assert found["better"]["verdict"] == "kept" and found["better"]["p_holm"] < 0.05
    alone = compare(targets, scores, others["better"], groups, n_resamples=5000)
    assert found["better"]["lwlrap_diff"] == alone["lwlrap_diff"]
    assert found["better"]["lwlrap_diff_low"] < alone["lwlrap_diff_low"]  # .99 instead of .95: the smallest of five
    largest = max(found.values(), key=lambda row: row["p"])  # tested at .95
    again = compare(targets, scores, others[largest["variant"]], groups, n_resamples=5000)
    assert largest["lwlrap_diff_low"] == again["lwlrap_diff_low"]


def test_a_table_of_chance_seldom_finds_something():
    kept = 0
    for seed in range(20):
        targets, scores, groups = study(100 + seed)
        rng = np.random.default_rng(seed)
        others = {str(i): scores + rng.normal(0, 0.5, scores.shape) for i in range(6)}
        base = scores + rng.normal(0, 0.5, scores.shape)
        kept += any(row["verdict"] != "unclear" for row in compare_all(targets, base, others, groups))
    assert kept <= 4  # 5 % of 20 tables, and chance


def test_members_of_a_seed_are_averaged_and_count_as_no_seeds():
    targets, scores, groups = study(13)
    rng = np.random.default_rng(0)
    members = scores + rng.normal(0, 0.4, (3, 5, *scores.shape))  # three seeds of five members
    found = compare(targets, members, members[:, :2], groups)  # another number of members on the other side
    lwlrap = np.array([[metrics.lwlrap(targets, one) for one in seed] for seed in members])
    assert found["lwlrap_diff"] == pytest.approx(lwlrap[:, :2].mean() - lwlrap.mean()) and found["n_seeds"] == 3
    assert metrics.bootstrap(targets, members, groups)["lwlrap"] == pytest.approx(lwlrap.mean())
    alone = compare(targets, members[:, 0], members[:, 1], groups)
    assert compare(targets, members[:, :1], members[:, 1], groups) == alone
    with pytest.raises(ValueError, match="number of seeds"):
        compare(targets, members, members[:2], groups)


def test_comparisons_with_a_base_each_are_one_table():
    targets, scores, groups = study(14)
    rng = np.random.default_rng(0)
    noisy = {name: scores + rng.normal(0, 0.5, scores.shape) for name in "abc"}
    pairs = {"up": (noisy["a"], scores + targets), "none": (noisy["b"], noisy["b"])}
    up, none = metrics.compare_each(targets, pairs, groups)
    assert up["verdict"] == "kept" and (none["lwlrap_diff"], none["verdict"]) == (0, "unclear")
    assert up["p_holm"] == pytest.approx(2 * up["p"])
    assert metrics.compare_each(targets, {}, groups) == []


def test_classes_are_compared_one_by_one():
    targets, scores, groups = study(11)
    better = scores + targets * (np.arange(targets.shape[1]) == 2)  # helps class 2 and no other
    seconds = np.arange(targets.shape[1], dtype=float)
    table, slope = metrics.compare_classes(targets, scores, better, groups, seconds)
    for side, values in (("base", scores), ("other", better)):
        np.testing.assert_allclose(table[side], metrics.per_class_lwlrap(targets, values)[0])
    np.testing.assert_array_equal(table["n"], targets.sum(0))
    assert table["diff_low"][2] > 0
    assert (table["diff_low"] <= table["diff"]).all() and (table["diff"] <= table["diff_high"]).all()
    assert slope["slope"] == pytest.approx(np.polyfit(seconds, table["diff"], 1)[0])
    assert slope["slope_low"] <= slope["slope"] <= slope["slope_high"]
    seeds, same = metrics.compare_classes(targets, np.stack([scores] * 3), np.stack([better] * 3), groups, seconds)
    np.testing.assert_allclose(seeds["diff"], table["diff"])
    assert np.isnan(metrics.compare_classes(targets, scores, better, groups, np.ones_like(seconds))[1]["slope"])


def test_a_class_that_never_occurs_has_no_difference():
    targets, scores, groups = study(12)
    targets[:, 1] = 0
    table, slope = metrics.compare_classes(targets, scores, -scores, groups, np.arange(targets.shape[1], dtype=float))
    assert np.isnan([table[k][1] for k in ("base", "other", "diff", "diff_low", "diff_high")]).all()
    assert table["n"][1] == 0 and np.isfinite(slope["slope"])


def test_a_share_and_its_interval():
    upper, lower = np.array([1.0, 2, 3, 4]), np.array([4.0, 4, 4, 4])
    found = metrics.ratio("share", upper, lower)
    assert found["share"] == 10 / 16 and 0.25 < found["share_low"] < 10 / 16 < found["share_high"] < 1
    assert np.isnan(metrics.ratio("share", upper * 0, lower * 0)["share_low"])


# what a table of comparisons could show, and what holds in it


def test_the_smallest_difference_counts_the_correction_in():
    targets, scores, groups = study(15)
    noisy = scores + np.random.default_rng(0).normal(0, 0.5, scores.shape)
    sums, _ = metrics._group_sums(targets, [scores, noisy], groups)
    resampled = metrics._rates(sums, 10_000)[1:]
    error = (resampled[:, 1, 0] - resampled[:, 0, 0]).std(ddof=1)  # standard error of the difference
    alone = compare(targets, scores, noisy, groups, n_resamples=10_000)
    assert alone["smallest_diff"] == pytest.approx((1.95996 + 0.84162) * error, rel=1e-5)
    table = compare_all(targets, scores, {str(i): noisy for i in range(10)}, groups)  # 10,000 resamples
    expected = [(2.80703 + 0.84162) * error] * 10  # z(1 - .0025), whatever the rank: the table was asked as a whole
    np.testing.assert_allclose([row["smallest_diff"] for row in table], expected, rtol=1e-5)


@pytest.mark.parametrize("diff", [0.0, 0.001, -0.003, 0.0075, 0.012, -0.02, 0.1])
def test_so_many_clips_settle_a_difference_in_80_of_100_studies(diff):
    error = 0.02  # standard error at 100 clips
    needed = metrics.to_settle(100, diff, (1.95996 + 0.84162) * error)
    there = error * np.sqrt(100 / needed)
    seen = np.random.default_rng(0).normal(diff, there, 100_000)
    low, high = seen - 1.95996 * there, seen + 1.95996 * there
    settled = (low * high > 0) | (np.maximum(-low, high) <= 0.015)
    assert settled.mean() == pytest.approx(0.8, abs=0.01)


def test_the_clips_that_settle_a_difference_count_the_correction_and_the_spread_of_clips_in():
    targets, scores, groups = study(20, n=200)
    noisy = scores + np.random.default_rng(0).normal(0, 0.5, scores.shape)
    one, two = compare_all(targets, scores, {"one": noisy + 0.1 * targets, "two": noisy}, groups)
    even = compare(np.array([[1, 0], [0, 1]]), np.array([[0, 1], [0, 1]]), np.array([[1, 0], [1, 0]]), ["a", "b"])
    assert even["lwlrap_diff"] == 0 and even["n"] == 2  # a clip each way
    for row in (one, two, even):
        given = row["n"], row["lwlrap_diff"], row["smallest_diff"]
        assert row["n_to_settle"] == metrics.to_settle(*given) > 0
    alone = compare(targets, scores, noisy, groups)
    assert alone["n_to_settle"] < two["n_to_settle"]
    doubled = compare(*(np.concatenate([a, a]) for a in (targets, scores, noisy)), np.arange(400))
    assert doubled["n_to_settle"] == pytest.approx(alone["n_to_settle"], rel=0.15)  # of twice as many clips
    assert np.isnan(compare(targets, scores, scores, groups)["n_to_settle"])


def test_the_share_of_resamples_in_which_the_other_is_ahead():
    targets, scores, groups = study(21)
    noisy = scores + np.random.default_rng(0).normal(0, 0.5, scores.shape)
    there, back = compare(targets, scores, noisy, groups), compare(targets, noisy, scores, groups)
    assert 0 < there["p_better"] < 1 and there["p_better"] + back["p_better"] == pytest.approx(1)
    assert compare(targets, scores, scores + 3 * targets, groups)["p_better"] > 0.99
    assert compare(targets, scores, scores, groups)["p_better"] == 0.5  # ties count by halves
    assert np.isnan(compare(targets, scores, noisy, ["a"] * 60)["p_better"])
    # three groups, ahead in one, behind in one, a tie: by hand, the larger number of draws wins
    truth, base = rows("10 10 10"), np.array([[1, 0], [0, 1], [1, 0]])
    found = compare(truth, base, base[[1, 0, 2]], list("abc"), n_resamples=50_000)
    assert found["p_better"] == pytest.approx(0.5, abs=0.01)


def test_a_row_after_holm_has_stopped_is_unclear_though_its_interval_is_clear_of_zero():
    """Twice the same difference with p between .025 and .05: the first is tested at .975 and is not clear."""
    targets, scores, groups = study(16)
    noisy = scores + np.random.default_rng(5).normal(0, 0.5, scores.shape)
    gains = (noisy + gain * targets for gain in np.arange(0, 1, 0.005))
    other = next(better for better in gains if compare(targets, scores, better, groups)["verdict"] == "kept")
    one, two = compare_all(targets, scores, {"one": other, "two": other}, groups)
    assert (one["level"], two["level"]) == (0.975, 0.95)
    assert one["lwlrap_diff_low"] < 0 < two["lwlrap_diff_low"]
    assert one["p_holm"] == two["p_holm"] > 0.05
    assert (one["verdict"], two["verdict"]) == ("unclear", "unclear")


def test_every_row_tells_its_level():
    targets, scores, groups = study(17)
    others = {"better": scores + targets, "same": scores}
    assert [row["level"] for row in compare_all(targets, scores, others, groups)] == [0.975, 0.95]
    assert compare(targets, scores, scores, groups, level=0.9)["level"] == 0.9


# the best of several, picked where it is reported


def test_the_expected_best_of_normal_draws():
    """Harter 1961: expected values of the largest of n standard normal draws."""
    found = [metrics.expected_best(n) for n in (1, 2, 3, 10, 18)]
    np.testing.assert_allclose(found, [0, 0.56419, 0.84628, 1.53875, 1.82003], atol=0.002)


def test_the_best_of_more_tries_on_fewer_clips_leads_by_more():
    """Models that hit three clips in four by chance: what the spread promises is what the best of them shows."""
    rng = np.random.default_rng(0)

    def study_of(n_models, n):
        hits = rng.random((n_models, n)) < 0.75
        scores = np.stack([np.where(hits, 1.0, 0.0), np.full(hits.shape, 0.5)], axis=-1)
        return np.tile([1.0, 0.0], (n, 1)), scores, np.arange(n)

    def promised(n_models, n):
        errors = [metrics.spread(*study_of(n_models, n))["hit_rate"] for _ in range(40)]
        return np.mean(errors) * metrics.expected_best(n_models)

    def shown(n_models, n):
        return np.mean([study_of(n_models, n)[1][..., 0].mean(1).max() - 0.75 for _ in range(400)])

    for case in ((3, 29), (18, 29), (18, 990)):
        assert promised(*case) == pytest.approx(shown(*case), rel=0.15), case
    assert promised(18, 29) > promised(3, 29) > promised(3, 990) > 0
    assert promised(3, 29) / promised(3, 990) == pytest.approx(np.sqrt(990 / 29), rel=0.1)


def test_the_spread_is_of_what_models_do_not_share():
    targets, scores, groups = study(18)
    same = metrics.spread(targets, np.stack([scores] * 3), groups)
    assert same == pytest.approx({"lwlrap": 0, "hit_rate": 0}, abs=1e-12)
    for alone in ((scores[None], groups), (np.stack([scores] * 3), ["a"] * 60)):
        assert np.isnan(list(metrics.spread(targets, *alone).values())).all()
    rng = np.random.default_rng(0)
    two = scores + rng.normal(0, 0.5, (2, *scores.shape))
    paired = compare(targets, two[0], two[1], groups, n_resamples=20_000)
    error = paired["smallest_diff"] / (1.95996 + 0.84162)
    assert metrics.spread(targets, two, groups)["lwlrap"] == pytest.approx(error / np.sqrt(2), rel=0.05)


def test_folds_that_were_not_used_for_developing_stand_apart():
    targets, scores, groups = study(19)
    fold = np.arange(60) % 5
    found = metrics.fresh(targets, scores, groups, fold, [0, 1])
    new = fold >= 2
    assert found == {f"fresh_{k}": v for k, v in metrics.bootstrap(targets[new], scores[new], groups[new]).items()}
    assert found["fresh_n"] == targets[new].any(1).sum()
    seeds = np.stack([scores, scores + targets])
    assert metrics.fresh(targets, seeds, groups, fold, [0, 1])["fresh_lwlrap"] > found["fresh_lwlrap"]
    assert metrics.fresh(targets, scores, groups, fold, []) == {}
    assert metrics.fresh(targets, scores, groups, fold, [0, 1, 2, 3, 4]) == {"fresh_n": 0}
    told = metrics.fresh_in_words(found)
    assert f"On the {found['fresh_n']} clips of folds that the recipe was not developed on" in told
    assert f"lwlrap is {found['fresh_lwlrap']:.3f} (95 % interval" in told
    assert f"hit rate {found['fresh_hit_rate']:.3f}" in told
    assert metrics.fresh_in_words({"fresh_n": 0}) == " The recipe was developed on all of these folds."
    assert metrics.fresh_in_words({}) == ""


@pytest.mark.parametrize(("n", "verdict"), [(2, "unclear"), (5, "unclear"), (6, "kept")])
def test_few_groups_that_all_go_one_way_are_no_verdict(n, verdict):
    """By chance alone n groups go one way once in 2 ** (n - 1) times."""
    targets = np.eye(4)[np.arange(n) % 4]
    base, other = np.stack([1 - targets] * 3), np.stack([targets] * 3)
    (row,) = metrics.compare_each(targets, {"other": (base, other)}, np.arange(n).astype(str))
    assert row["verdict"] == verdict and row["lwlrap_diff_low"] > 0
    assert row["p"] == pytest.approx(max(2.0 ** (1 - n), 2 / 2001))
    table = Comparison(
        pd.DataFrame({"labels": [("abcd"[k % 4],) for k in range(n)], "group": list(map(str, range(n)))}),
        "abcd",
        {"base": base, "other": other},
        "base",
        enough=True,
    )
    told = f"only {n} groups of clips differ, too few to tell"
    assert (told in table.conclusion()) == (verdict == "unclear") and "as Holm's" not in table.conclusion()
