"""Tests of batches: which clips and spans an epoch shows, and how strongly they are masked."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from lib.settings import BALANCES
from lib.settings import Training as Recipe
from lib.sound import windows
from lib.sound.cache import Cache
from lib.sound.features import LogMel
from lib.training import batches
from lib.training.augment import AUGMENTATIONS, Draws
from lib.training.batches import Scoring, Training, draw_weights, mask_strengths

LOGMEL = LogMel(sample_rate=8000, n_fft=512, hop_length=80, n_mels=16, fmin=20)  # 100 frames a second
ALL_ON = {"mask_share": 0.9, "augment": tuple(AUGMENTATIONS), "balance": "augment"}
nan = np.nan


@pytest.fixture(scope="module")
def counted():
    """11 clips, 40 frames long but the last, 80: band 0 holds the clip's number, band 1 the frame's."""
    lengths = np.array([40] * 10 + [80])
    frames = [np.stack([np.full(n, k), np.arange(n), *np.zeros((14, n))], axis=1) for k, n in enumerate(lengths)]
    index = pd.DataFrame({"fname": [f"{k:02}.wav" for k in range(11)], "n_frames": lengths})
    index = index.assign(first_frame=np.cumsum(lengths) - lengths, floor_db=-80.0)
    stored = torch.from_numpy(np.concatenate(frames)[:, None].astype(np.float16))
    return Cache(LOGMEL, (stored,), index, pd.DataFrame(), "a-name")


def feed(cache, rows, targets, width=8, seed=0, **knobs):
    return Training(cache, rows, targets, width, Recipe(**{"batch_size": 4, "mask_share": 0.0, **knobs}), seed)


def shown(training, epochs):
    """(clips, first frames, targets) of all windows of these epochs."""
    found = []
    for training.epoch in range(epochs):
        found += [(x[:, 0, 0, 0], x[:, 0, 1, 0], y) for x, y in training]
    return tuple(torch.cat(parts).numpy() for parts in zip(*found, strict=True))


# weights of draws


def test_clip_and_augment_draw_all_clips_alike():
    for balance in ("clip", "augment"):
        np.testing.assert_allclose(draw_weights(np.array([1.0, 9.0]), np.eye(2), balance, 1.0), [0.5, 0.5])


def test_by_seconds_every_second_is_equally_likely():
    weights = draw_weights(np.array([1.0, 4.0, 5.0]), np.ones((3, 1)), "seconds", 1.0)
    np.testing.assert_allclose(weights, [0.1, 0.4, 0.5])


def test_effective_numbers_by_hand():
    """Windows of 2 s. Class 0: clips of 2 and 4 s, 3 windows; class 1: a clip of 1 s, which is one window."""
    seconds, targets = np.array([2.0, 4.0, 1.0]), np.array([[1, 0], [1, 0], [0, 1.0]])
    rare, common = 1.0, 0.01 / (1 - 0.99**3)  # 0.3367
    shares = np.array([common / 2, common / 2, rare]) / (common + rare)
    np.testing.assert_allclose(draw_weights(seconds, targets, "effective", 2.0), shares)
    both = np.array([[1, 0], [1, 0], [1, 1.0]])  # now class 0 has 4 windows in 3 clips, and clip 2 the mean
    common = 0.01 / (1 - 0.99**4) / 3
    raw = np.array([common, common, (common + rare) / 2])
    np.testing.assert_allclose(draw_weights(seconds, both, "effective", 2.0), raw / raw.sum())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(0.3, 60), st.integers(0, 3)), min_size=1, max_size=30))
def test_a_class_is_drawn_in_proportion_to_its_weight(clips):
    seconds, label = (np.array(column) for column in zip(*clips, strict=True))
    weights = draw_weights(seconds, np.eye(4)[label], "effective", 3.0)
    assert weights.sum() == pytest.approx(1) and (weights > 0).all()
    held = np.unique(label)
    n = np.array([np.maximum(seconds[label == k] / 3, 1).sum() for k in held])
    inverse = (1 - 0.99) / (1 - 0.99**n)
    np.testing.assert_allclose([weights[label == k].sum() for k in held], inverse / inverse.sum())


def test_unknown_labels_are_none_and_a_clip_without_any_gets_the_mean():
    seconds, targets = np.array([2.0, 6.0, 9.0]), np.array([[1, nan], [nan, 1], [nan, 0.0]])
    weights = draw_weights(seconds, targets, "effective", 1.0)
    assert weights[2] == pytest.approx((weights[0] + weights[1]) / 2)
    assert np.isfinite(mask_strengths(seconds, targets, "augment", 0.2)).all()


# strengths of masks


def test_mask_strengths_by_hand():
    """Classes of 1, 4, 16 and 100 s; the median is 10."""
    seconds, targets = np.array([1.0, 4.0, 16.0, 100.0]), np.eye(4)
    expected = 0.2 * np.array([2.0, np.sqrt(10 / 4), np.sqrt(10 / 16), 0.5])  # sqrt(10) and sqrt(0.1) are clipped
    np.testing.assert_allclose(mask_strengths(seconds, targets, "augment", 0.2), expected)
    assert mask_strengths(seconds, targets, "augment", 0.6)[0] == 0.9  # not 1.2
    targets[3] = [1, 0, 0, 1]  # 101, 4, 16 and 100 s: median 58
    scales = np.sqrt(58 / np.array([101, 100]))
    assert mask_strengths(seconds, targets, "augment", 0.2)[3] == pytest.approx(0.2 * scales.mean())
    assert mask_strengths(seconds, targets, "augment", 0.2)[0] == pytest.approx(0.2 * scales[0])


@pytest.mark.parametrize("balance", sorted(set(BALANCES) - {"augment"}))
def test_else_all_clips_are_masked_alike(balance):
    assert mask_strengths(np.array([1.0, 50.0]), np.eye(2), balance, 0.3).tolist() == [0.3, 0.3]


# epochs


@pytest.mark.parametrize("balance", ["clip", "augment"])
def test_every_clip_once_an_epoch(counted, balance):
    rows = counted.rows(counted.index["fname"])
    targets = np.eye(11, dtype=np.float32)
    clips, _, seen = shown(feed(counted, rows, targets, balance=balance), 3)
    assert sorted(clips) == sorted(list(range(11)) * 3)
    assert (seen.argmax(axis=1) == clips).all()


@pytest.mark.parametrize("balance", ["seconds", "effective"])
def test_clips_are_drawn_by_their_weights_and_keep_their_labels(counted, balance):
    rows, targets = counted.rows(counted.index["fname"]), np.zeros((11, 11), np.float32)
    targets[np.arange(11), np.r_[[0] * 9, 1, 2]] = 1  # by effective numbers: 1/9 of class 0 each
    training = feed(counted, rows, targets, balance=balance)
    clips, _, seen = shown(training, 300)
    assert len(clips) == 300 * 11
    expected = draw_weights(np.array([0.4] * 10 + [0.8]), targets, balance, 0.08)
    counts = np.bincount(clips.astype(int), minlength=11)
    assert (abs(counts - 3300 * expected) < 4.5 * np.sqrt(3300 * expected)).all()
    assert (seen == targets[clips.astype(int)]).all()
    training.epoch = 0
    again = torch.cat([x for x, _ in training])
    assert torch.equal(again, torch.cat([x for x, _ in training]))


def test_masks_are_as_wide_as_the_clip_wants(counted):
    rows, targets = counted.rows(counted.index["fname"]), np.zeros((11, 3), np.float32)
    targets[np.arange(11), np.r_[[0] * 9, 1, 2]] = 1  # 360, 40 and 80 frames: scales 0.5, sqrt(2), 1
    training, n_hidden = feed(counted, rows, targets, balance="augment", mask_share=0.3, width=36), np.zeros(11)
    np.testing.assert_allclose(training.masks[[0, 9, 10]], [0.15, 0.3 * np.sqrt(2), 0.3])
    for training.epoch in range(60):
        for x, y in training:
            frames = (x[:, 0] == x[:, 0, :1]).all(dim=1).sum(dim=1)  # all bands alike: hidden
            np.add.at(n_hidden, y.argmax(dim=1).numpy(), frames.numpy())
    assert n_hidden[0] / 9 < 0.7 * n_hidden[2] < 0.7 * n_hidden[1]


def test_scoring_windows_are_untouched_with_everything_on(counted):
    """Nothing that a training was told reaches them."""
    rows = counted.rows(counted.index["fname"])
    targets = np.eye(11, dtype=np.float32)
    assert next(iter(feed(counted, rows, targets, **ALL_ON)))[0][:, 0, 2:].any()
    rolled = windows.rolling(counted, rows, windows.Windows(0.08, 0.04))
    x = torch.cat([x for x, _ in Scoring(counted, rolled, np.zeros((len(rolled), 1), np.float32), 8)])
    assert torch.equal(x[:, 0, 1], (torch.tensor(rolled["start_frame"].to_numpy(copy=True))[:, None] + torch.arange(8)))
    assert not x[:, 0, 2:].any()


def test_changes_are_done_in_the_order_given_and_masks_last(counted, monkeypatch):
    done = []
    for name in AUGMENTATIONS:
        monkeypatch.setitem(AUGMENTATIONS, name, lambda x, in_db, generator, name=name: (done.append(name), x)[1])
    spec_augment = batches.spec_augment
    monkeypatch.setattr(batches, "spec_augment", lambda *args: (done.append("masks"), spec_augment(*args))[1])
    rows = counted.rows(counted.index["fname"])
    list(feed(counted, rows, np.eye(11, dtype=np.float32), augment=("stretch", "gain"), mask_share=0.1, batch_size=11))
    assert done == ["stretch", "gain", "masks"]


# spans


def spans(cache, table):
    """Rows for (clip, first frame within it, frames)."""
    rows = cache.rows([f"{k:02}.wav" for k, _, _ in table])
    first, n_frames = (np.array(column) for column in list(zip(*table, strict=True))[1:])
    return rows.assign(first_frame=rows["first_frame"] + first, n_frames=n_frames)


def test_a_clip_of_several_spans_is_shown_once_from_a_span_in_proportion_to_its_frames(counted):
    rows = spans(counted, [(3, 0, 10), (10, 60, 20), (3, 25, 15), (5, 7, 9), (10, 0, 10)])  # mixed up
    targets = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)  # 3, 10, 5: as they first appear
    training = feed(counted, rows, targets, batch_size=2)
    assert len(training) == 1
    clips, frames, seen = shown(training, 1000)
    assert sorted(clips) == [3] * 1000 + [5] * 1000 + [10] * 1000
    assert (np.array([3, 10, 5])[seen.argmax(axis=1)] == clips).all()
    for clip, allowed in ((3, [*range(3), *range(25, 33)]), (10, [*range(60, 73), *range(3)]), (5, [7, 8])):
        assert set(frames[clips == clip]) == set(allowed)  # whole windows of 8 frames within a span
    for clip, share in ((3, 10 / 25), (10, 10 / 30)):
        n = (frames[clips == clip] < 20).sum()
        assert abs(n - 1000 * share) < 4 * np.sqrt(1000 * share * (1 - share))


def test_a_clips_seconds_are_those_of_all_its_spans(counted):
    rows = spans(counted, [(0, 0, 20), (0, 20, 20), (1, 0, 10)])
    training = feed(counted, rows, np.eye(2, dtype=np.float32), balance="seconds")
    np.testing.assert_allclose(training.weights, [0.8, 0.2])


def test_targets_are_a_row_a_clip(counted):
    rows = spans(counted, [(0, 0, 20), (0, 20, 20), (1, 0, 10)])
    with pytest.raises(ValueError, match="3 rows of targets for 2 clips. Give a row a clip"):
        feed(counted, rows, np.eye(3, dtype=np.float32))


def test_windows_are_gathered_and_changed_where_the_frames_lie(counted, monkeypatch):
    """On a GPU that is only imagined: shapes and devices are followed, and what mixes two devices fails."""
    monkeypatch.setattr(Draws, "__new__", lambda cls, *_: torch.Generator.__new__(cls))  # there is no driver for it
    with FakeTensorMode(allow_non_fake_inputs=True):
        there = tuple(torch.empty(part.shape, dtype=part.dtype, device="cuda") for part in counted.parts)
        imagined = dataclasses.replace(counted, parts=there)
        x, y = next(iter(feed(imagined, counted.index, np.ones((11, 2), np.float32), **ALL_ON)))
    assert x.device.type == "cuda" and x.shape == (len(y), 1, 16, 8)


def test_a_cache_stays_where_there_is_no_gpu(counted):
    assert counted.on(torch.device("cpu")) is counted


def test_windows_of_joined_arrays_are_those_of_the_arrays(counted):
    """As on a GPU: the arrays of both subsets one after the other, the rows as they are."""
    first, whole, index = 6 * 40, counted.parts[0], counted.index
    two = dataclasses.replace(counted, parts=(whole[:first], whole[first:]))
    joined = two.joined(torch.device("cpu"))
    assert len(joined.parts) == 1 and joined.index is index
    starts = np.arange(-3, 8)
    expected = windows.batch(counted, index, starts, 50)
    for cache in (two, joined):
        assert torch.equal(windows.batch(cache, index, starts, 50), expected)
        assert torch.equal(cache.frames(index.iloc[8]), counted.frames(counted.index.iloc[8]))


def test_what_is_made_ahead_comes_in_order_and_fails_where_it_failed():
    made = [torch.full((3,), k) for k in range(5)]
    assert all(map(torch.equal, windows.ahead(iter(made), torch.device("cpu")), made))

    def failing():
        yield from made[:2]
        raise OSError("no space")

    seen = []
    with pytest.raises(OSError, match="no space"):
        seen.extend(x for x in windows.ahead(failing(), torch.device("cpu")))
    coming = windows.ahead(failing(), torch.device("cpu"))
    assert [int(next(coming)[0]), int(next(coming)[0])] == [0, 1]


def test_frames_that_do_not_fit_are_gathered_ahead_to_the_same_batches(counted, monkeypatch):
    targets = np.eye(11, dtype=np.float32)
    plain, far = (feed(counted, counted.index, targets, **ALL_ON) for _ in range(2))
    asked, ahead = [], windows.ahead
    monkeypatch.setattr(windows, "ahead", lambda made, device: (asked.append(device), ahead(made, device))[1])
    far.device = torch.device("cpu", 0)  # another one than "cpu", as far as torch can tell
    for (x, y), (other, labels) in zip(plain, far, strict=True):
        assert torch.equal(x, other) and torch.equal(y, labels)
    assert asked == [far.device]
