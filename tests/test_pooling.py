"""Tests of lib.pooling: known values, the literal mean, order, refusals."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.pooling import pool_mean


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


def test_refuses_lengths_that_differ():
    with pytest.raises(ValueError, match="2 fnames for 3 rows of scores: one fname a window"):
        pool_mean(["a", "b"], np.zeros((3, 4)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_what_is_no_number(bad):
    with pytest.raises(ValueError, match=r"NaN or infinity.*did not converge.*Lower lr"):
        pool_mean(["a", "b"], np.array([[0.1, 0.2], [bad, 0.3]]))
