"""Tests of prediction images: columns worked by hand, padding around, the middle of long clips, rows."""

import numpy as np
import pandas as pd
import pytest

from lib.clips import stage2
from lib.evaluation.window_scores import WindowScores


def windows(n, name="a", first=0.0):
    """n windows of two classes; class 0 counts the windows up in tenths."""
    scores = np.stack([0.1 * (np.arange(n) + 1), np.full(n, 0.05)], axis=1)
    return WindowScores(pd.DataFrame({"fname": [name] * n, "window_start_s": first + 0.5 * np.arange(n)}), scores)


def make_images(of, columns, rows=(0, 1)):
    return stage2.make_images(of, columns, np.array(rows))


def test_a_clip_of_just_the_width_is_its_scores_times_255():
    fnames, images = make_images(windows(3), columns=3)
    assert list(fnames) == ["a"] and images.shape == (1, 2, 3) and images.dtype == np.float32
    np.testing.assert_allclose(images[0], [[25.5, 51, 76.5], [12.75] * 3])


@pytest.mark.parametrize(
    ("n", "row"),
    [
        (1, [0, 0, 1, 0, 0]),
        (2, [0, 1, 2, 0, 0]),
        (3, [0, 1, 2, 3, 0]),
        (6, [2, 3, 4, 5, 6]),
        (7, [2, 3, 4, 5, 6]),
        (9, [3, 4, 5, 6, 7]),
    ],
)
def test_short_clips_stand_in_the_middle_and_of_long_ones_the_middle_stays(n, row):
    _, images = make_images(windows(n), columns=5)
    np.testing.assert_allclose(images[0, 0], 25.5 * np.array(row), rtol=1e-6)


def test_windows_are_sorted_by_clip_and_time():
    both = WindowScores.join([windows(3, "b"), windows(2, "a")])
    clips, images = make_images(both.where(np.random.default_rng(0).permutation(5)), columns=4)
    assert list(clips) == ["a", "b"]
    np.testing.assert_allclose(images[:, 0], 25.5 * np.array([[0, 1, 2, 0], [1, 2, 3, 0]]), rtol=1e-6)


def test_rows_stand_in_the_order_that_is_given():
    _, straight = make_images(windows(3), columns=3)
    _, turned = make_images(windows(3), columns=3, rows=[1, 0])
    np.testing.assert_array_equal(turned, straight[:, ::-1])


def test_columns_of_a_clip_of_max_clip_s():
    assert stage2.n_columns(window_s=2.0, hop_s=0.5, max_clip_s=20.0) == 37  # 0, 0.5 ... 18
    assert stage2.n_columns(window_s=1.0, hop_s=0.5, max_clip_s=1.0) == 1


def test_classes_that_are_taken_for_each_other_stand_side_by_side():
    """a is taken for d, d for b; c for nothing but a little for b."""
    targets = np.eye(4)
    scores = np.array([[1, 0.1, 0, 0.9], [0, 1, 0.2, 0.5], [0, 0.2, 1, 0], [0.9, 0.5, 0, 1]])
    assert stage2.confusion_order(targets, scores).tolist() in ([0, 3, 1, 2], [2, 1, 3, 0])
    assert stage2.confusion_order(targets[:, :1], scores[:, :1]).tolist() == [0]


def test_refusals():
    with pytest.raises(ValueError, match=r"outside \[0, 1\]: images are made of scores, not logits"):
        make_images(WindowScores(windows(1).table, np.array([[2.0, 0.1]])), columns=3)
    with pytest.raises(ValueError, match="must name each of 2 classes once"):
        make_images(windows(2), columns=3, rows=[0, 0])
    with pytest.raises(ValueError, match="max_clip_s=0.5 is shorter than window_s=1.0"):
        stage2.n_columns(1.0, 0.5, 0.5)
