"""Tests of pooling: known values, the literal mean, order, refusals."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.clips.pooling import POOLINGS, choose, pool
from lib.evaluation.window_scores import pool_mean


def test_known_values_with_unequal_numbers_of_windows():
    scores = np.array([[0.2, 0.8], [0.5, 0.5], [0.4, 0.0], [0.6, 0.1]], np.float32)
    fnames, pooled = pool_mean(pd.Series(["b.wav", "a.wav", "b.wav", "b.wav"], index=[7, 7, 8, 9]), scores)
    assert list(fnames) == ["a.wav", "b.wav"] and pooled.dtype == np.float64
    np.testing.assert_allclose(pooled, [[0.5, 0.5], [0.4, 0.3]], atol=1e-7)


@settings(deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_equals_the_mean_clip_by_clip_in_any_order_of_windows(n_windows, n_classes, seed):
    rng = np.random.default_rng(seed)
    fnames = np.repeat([f"{rng.integers(1000):03d}-{i}.wav" for i in range(len(n_windows))], n_windows)
    scores = rng.random((len(fnames), n_classes))
    order = rng.permutation(len(fnames))
    clips, pooled = pool_mean(fnames[order], scores[order])
    assert list(clips) == sorted(set(fnames))
    np.testing.assert_allclose(pooled, [scores[fnames == clip].mean(axis=0) for clip in clips], rtol=1e-12)


def test_a_clip_is_pooled_without_a_look_at_the_others():
    scores = np.random.default_rng(0).random((5, 3))
    _, alone = pool_mean(["a", "a"], scores[:2])
    _, together = pool_mean(["a", "a", "b", "c", "c"], scores)
    np.testing.assert_array_equal(together[:1], alone)


def test_the_plain_mean_is_the_pooling_of_that_name_to_the_last_bit():
    rng = np.random.default_rng(1)
    fnames, scores = rng.choice(list("abcdef"), 200), rng.random((200, 7)).astype(np.float32)
    for one, other in zip(pool_mean(fnames, scores), pool("mean", fnames, scores), strict=True):
        np.testing.assert_array_equal(one, other)


def test_refuses_lengths_that_differ():
    with pytest.raises(ValueError, match="2 fnames for 3 rows of scores: one fname a window"):
        pool_mean(["a", "b"], np.zeros((3, 4)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_what_is_no_number(bad):
    with pytest.raises(ValueError, match=r"NaN or infinity.*did not converge.*Lower lr"):
        pool_mean(["a", "b"], np.array([[0.1, 0.2], [bad, 0.3]]))


# all poolings

THREE = np.array([[0.5, 0.9], [0.25, 0.1], [0.125, 0.5]])  # three windows of one clip, two classes
KNOWN = {  # worked by hand
    "mean": (None, [0.875 / 3, 0.5]),
    "geometric": (None, [0.25, (0.9 * 0.1 * 0.5) ** (1 / 3)]),
    "max": (None, [0.5, 0.9]),
    "median": (None, [0.25, 0.5]),
    "power": (2, [np.sqrt((0.25 + 0.0625 + 0.015625) / 3), np.sqrt((0.81 + 0.01 + 0.25) / 3)]),
    "log_sum_exp": (1, [np.log((np.exp(0.5) + np.exp(0.25) + np.exp(0.125)) / 3), 0.5526]),
    "noisy_or": (None, [1 - 0.5 * 0.75 * 0.875, 1 - 0.1 * 0.9 * 0.5]),
    "top": (2, [0.375, 0.7]),
    "energy": (None, [(0.5 + 3 * 0.125) / 4, (0.9 + 3 * 0.5) / 4]),  # weights 1, 0, 3
    "mean_logits": (None, [1 / (1 + 21 ** (1 / 3)), 0.5]),  # odds 1, 1/3, 1/7; 9, 1/9, 1
    "median_logits": (None, [0.25, 0.5]),
    "log_sum_exp_logits": (1, [(31 / 63) / (1 + 31 / 63), (91 / 27) / (1 + 91 / 27)]),  # the mean of the odds
    "top_logits": (2, [1 / (1 + np.sqrt(3)), 0.75]),
    "energy_logits": (None, [1 / (1 + 7**0.75), 9**0.25 / (1 + 9**0.25)]),
}


@pytest.mark.parametrize("method", POOLINGS)
def test_values_worked_by_hand(method):
    parameter, expected = KNOWN[method]
    weights = np.array([1.0, 0.0, 3.0]) if POOLINGS[method].weighted else None
    clips, pooled = pool(method, ["a"] * 3, THREE, parameter=parameter, weights=weights)
    assert list(clips) == ["a"]
    np.testing.assert_allclose(pooled, [expected], atol=1e-4)


def default(method):
    return POOLINGS[method].grid[0] if POOLINGS[method].grid else None


@pytest.mark.parametrize("method", POOLINGS)
@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_each_clip_is_pooled_on_its_own_in_any_order_of_windows(method, n_windows, seed):
    rng = np.random.default_rng(seed)
    fnames = np.repeat([f"{i:02}.wav" for i in range(len(n_windows))], n_windows)
    scores, weights = rng.random((len(fnames), 4)), rng.random(len(fnames)) + 0.01
    order = rng.permutation(len(fnames))
    settings_ = {"parameter": default(method)}

    def weighted(w):
        return {"weights": w} if POOLINGS[method].weighted else {}

    clips, together = pool(method, fnames[order], scores[order], **settings_, **weighted(weights[order]))
    assert list(clips) == sorted(set(fnames))
    for clip, row in zip(clips, together, strict=True):
        mine = fnames == clip
        _, alone = pool(method, fnames[mine], scores[mine], **settings_, **weighted(weights[mine]))
        np.testing.assert_allclose(row, alone[0], rtol=1e-9)
    assert ((together >= 0) & (together <= 1)).all()


@pytest.mark.parametrize("method", POOLINGS)
def test_one_window_ranks_as_it_is(method):
    scores = np.random.default_rng(1).random((1, 6))
    weights = np.ones(1) if POOLINGS[method].weighted else None
    _, pooled = pool(method, ["a"], scores, parameter=default(method), weights=weights)
    np.testing.assert_allclose(pooled, scores, rtol=1e-9)


def test_limits_of_the_families():
    rng = np.random.default_rng(2)
    fnames, scores = np.repeat(["a", "b"], 5), rng.random((10, 3))
    plain = {name: pool(name, fnames, scores)[1] for name in ("mean", "geometric", "max")}
    for method, parameter, limit in (
        ("power", 1, "mean"),
        ("power", 1e-6, "geometric"),
        ("power", 200, "max"),
        ("log_sum_exp", 1e-6, "mean"),
        ("log_sum_exp", 1e4, "max"),
        ("top", 1, "max"),
        ("top", 99, "mean"),
    ):
        _, found = pool(method, fnames, scores, parameter=parameter)
        np.testing.assert_allclose(found, plain[limit], atol=0.01, err_msg=f"{method} {parameter}")


def test_a_silent_window_costs_a_geometric_mean_most():
    loud, silent = np.full((4, 1), 0.8), np.full((1, 1), 1e-4)
    fnames = ["a"] * 5
    _, arithmetic = pool("mean", fnames, np.concatenate([loud, silent]))
    _, geometric = pool("geometric", fnames, np.concatenate([loud, silent]))
    np.testing.assert_allclose(arithmetic, 0.64, atol=1e-4)
    np.testing.assert_allclose(geometric, (0.8**4 * 1e-4) ** 0.2, rtol=1e-9)  # 0.13: one window in five


def test_scores_of_0_and_1_stay_finite():
    for method in POOLINGS:
        weights = np.ones(2) if POOLINGS[method].weighted else None
        _, pooled = pool(method, ["a", "a"], np.array([[0.0, 1.0]] * 2), parameter=default(method), weights=weights)
        np.testing.assert_allclose(pooled, [[0, 1]], atol=1e-6)


def test_choose_takes_what_ranks_the_given_clips_best_and_the_first_of_equals():
    """One loud window tells in the first set, most windows in the second: the best sharpness differs."""
    targets = pd.DataFrame([[1, 0]] * 4, index=list("abcd"), columns=["x", "y"])
    fnames = np.repeat(list("abcd"), 4)
    peaks = np.tile([[0.9, 0.6], [0.1, 0.6], [0.1, 0.6], [0.1, 0.6]], (4, 1))
    assert choose("power", fnames, peaks, targets) == 5  # 3 gives .57 to .6, 5 gives .68
    assert choose("power", fnames, peaks[:, ::-1], targets) == POOLINGS["power"].grid[0]
    assert choose("mean", fnames, peaks, targets) is None


@pytest.mark.parametrize(
    ("method", "given", "told"),
    [
        ("men", {}, "'men' is no pooling. There are: mean, geometric"),
        ("mean", {"parameter": 2}, "takes no parameter"),
        ("power", {}, "parameter=None for 'power', which takes a parameter above 0"),
        ("power", {"parameter": 0}, "above 0"),
        ("energy", {}, "needs a weight for each of 2 windows, got none"),
        ("energy", {"weights": [1.0]}, "got 1"),
        ("energy", {"weights": [0.0, 0.0]}, "above 0 in one window of every clip"),
        ("energy", {"weights": [-1.0, 2.0]}, "at least 0"),
    ],
)
def test_refusals(method, given, told):
    with pytest.raises(ValueError, match=told):
        pool(method, ["a", "a"], np.full((2, 2), 0.5), **given)
