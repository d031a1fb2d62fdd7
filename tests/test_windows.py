"""Tests of windows: every frame is seen, silence is cut where it is, a batch equals the literal loop."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.sound.cache import Cache
from lib.sound.features import LogMel
from lib.sound.windows import Windows, batch, random_starts, rolling, trim

calm = settings(deadline=None, max_examples=60)
LOGMEL = LogMel(8000, 256, 80, 8, 20)  # 100 frames a second


def index_of(lengths: list[int]) -> pd.DataFrame:
    """Index rows of clips that lie one after the other."""
    table = pd.DataFrame({"fname": [f"{i:03d}.wav" for i in range(len(lengths))], "n_frames": lengths})
    table.insert(1, "first_frame", table["n_frames"].cumsum() - table["n_frames"])
    return table.assign(floor_db=-80.0 - np.arange(len(lengths)))


def cache_of(index: pd.DataFrame, channels: tuple[str, ...] = ("logmel",), n_parts: int = 1) -> Cache:
    """A cache of made-up frames in parts of whole clips; neighbours differ."""
    n_channels = len(channels)
    parts, n = [], LOGMEL.n_mels * n_channels
    for part, clips in enumerate(np.array_split(index["n_frames"].to_numpy(), n_parts)):
        values = torch.arange(clips.sum() * n).half() / 8 - 100 * part
        parts.append(values.view(-1, n_channels, LOGMEL.n_mels))
    return Cache(replace(LOGMEL, channels=channels), tuple(parts), index, pd.DataFrame(), "name")


def scene(*levels: list[float], channels: tuple[str, ...] = ("logmel",)) -> Cache:
    """A cache of clips whose frames are as loud as given, dB, in one band, and 20 dB below in the others."""
    index = index_of([len(clip) for clip in levels]).assign(floor_db=-80.0)
    frames = torch.full((sum(index["n_frames"]), len(channels), LOGMEL.n_mels), 90.0).half()
    frames[:, 0] = torch.tensor(np.concatenate(levels))[:, None].half() - 20
    frames[:, 0, 3] += 20
    return Cache(replace(LOGMEL, channels=channels), (frames,), index, pd.DataFrame(), "name")


# --- where windows start -------------------------------------------------------------------------------------------


def test_known_starts():
    index = index_of([250, 100, 99, 96, 1, 101])
    table = rolling(cache_of(index), index, Windows(window_s=1.0, hop_s=0.5))
    starts = {fname: rows["start_frame"].tolist() for fname, rows in table.groupby("fname")}
    assert list(starts.values()) == [[0, 50, 100, 150], [0], [0], [-2], [-49], [0, 1]]
    assert table["window_start_s"].tolist()[:4] == [0, 0.5, 1, 1.5] and table.index.tolist() == list(range(10))
    assert list(table.columns) == [*index.columns, "offset_frames", "start_frame", "window_start_s"]


@calm
@given(st.lists(st.integers(1, 400), max_size=8), st.integers(1, 120), st.floats(0.01, 1))
def test_every_frame_of_every_clip_is_covered(lengths, width, overlap):
    cut = Windows(width / 100, max(1, int(width * overlap)) / 100)
    index = index_of(lengths)
    table = rolling(cache_of(index), index, cut)
    assert cut.n_frames(LOGMEL) == width and cut.hop_frames(LOGMEL) <= width
    assert table["fname"].drop_duplicates().tolist() == index["fname"].tolist()  # each clip, in order
    assert not table[["fname", "window_start_s"]].duplicated().any()
    for n_frames, (_, rows) in zip(lengths, table.groupby("fname"), strict=True):
        starts = rows["start_frame"].to_numpy()
        if n_frames <= width:
            before, after = -starts[0], starts[0] + width - n_frames
            assert len(starts) == 1 and 0 <= after - before <= 1  # in the middle
            continue
        seen = np.zeros(n_frames, bool)
        for start in starts:
            assert 0 <= start <= n_frames - width
            seen[start : start + width] = True
        assert seen.all() and (np.diff(starts) > 0).all() and (np.diff(starts) <= cut.hop_frames(LOGMEL)).all()


def test_rows_are_repeated_whatever_their_index():
    index = index_of([250, 30, 120]).set_axis([5, 5, 0])
    store = cache_of(index)
    for cut in (Windows(1.0, 0.5), Windows(1.0, 0.5, trim_inference_db=1.0)):
        table = rolling(store, index, cut)
        pd.testing.assert_frame_equal(table, rolling(store, index.reset_index(drop=True), cut))
        assert len(rolling(store, index.iloc[:0], cut)) == 0 < len(table)


@pytest.mark.parametrize(("n_frames", "low", "high"), [(15, 0, 5), (5, -5, 0), (10, 0, 0)])
def test_random_starts_are_uniform_from_end_to_end(n_frames, low, high):
    starts = random_starts(np.full(12_000, n_frames), 10, np.random.default_rng(0))
    values, counts = np.unique(starts, return_counts=True)
    assert values.tolist() == list(range(low, high + 1))
    mean = 12_000 / len(values)
    assert (abs(counts - mean) <= 4 * np.sqrt(mean)).all()


@calm
@given(st.lists(st.integers(1, 300), min_size=1, max_size=50), st.integers(1, 120), st.integers(0, 2**32 - 1))
def test_random_starts_lie_where_they_may_and_follow_the_generator(lengths, width, seed):
    slack = np.array(lengths) - width
    starts = random_starts(lengths, width, np.random.default_rng(seed))
    assert starts.dtype.kind == "i"
    assert (starts >= np.minimum(slack, 0)).all() and (starts <= np.maximum(slack, 0)).all()
    np.testing.assert_array_equal(starts, random_starts(np.array(lengths), width, np.random.default_rng(seed)))


# --- silence -------------------------------------------------------------------------------------------------------


def test_trim_keeps_from_the_first_to_the_last_loud_frame():
    store = scene([-60, -30, -70, -31, -10, -80], [-20] * 3, [-80, -90, -5], [-7])
    found = trim(store, store.index, 21.0)
    assert found["offset_frames"].tolist() == [1, 0, 2, 0]  # a quiet frame between loud ones stays
    assert found["n_frames"].tolist() == [4, 3, 1, 1]
    assert found["first_frame"].tolist() == [1, 6, 11, 12]
    assert trim(store, store.index, 20.0)["n_frames"].tolist() == [4, 3, 1, 1]  # the limit counts as loud
    assert trim(store, store.index, 19.0)["n_frames"].tolist() == [1, 3, 1, 1]
    off = trim(store, store.index, 0.0)
    pd.testing.assert_frame_equal(off.drop(columns="offset_frames"), store.index)
    assert (off["offset_frames"] == 0).all()


@calm
@given(st.lists(st.lists(st.integers(-80, 0), min_size=1, max_size=30), min_size=1, max_size=5), st.floats(0.01, 90))
def test_trim_cuts_only_quiet_ends(levels, trim_db):
    store = scene(*levels)
    for clip, row in zip(levels, trim(store, store.index, trim_db).itertuples(), strict=True):
        end = row.offset_frames + row.n_frames
        limit = max(clip) - trim_db
        assert row.n_frames >= 1 and clip[row.offset_frames] >= limit and clip[end - 1] >= limit
        assert all(level < limit for level in clip[: row.offset_frames] + clip[end:])


def test_windows_of_trimmed_clips_know_where_they_are_in_the_whole_clip():
    store = scene([-80] * 30 + [-10] * 50 + [-80] * 40, [-10] * 20)
    table = rolling(store, store.index, Windows(0.2, 0.2, trim_inference_db=40.0))
    assert table["start_frame"].tolist() == [0, 20, 30, 0]
    assert table["window_start_s"].tolist() == [0.3, 0.5, 0.6, 0]
    assert table["n_frames"].tolist() == [50, 50, 50, 20]
    x = batch(store, table, table["start_frame"].to_numpy(copy=True), 20)
    assert (x[:, 0, 3] == -10).all()
    (long,) = rolling(store, store.index[:1], Windows(0.54, 0.2, 40.0)).itertuples()  # longer than what is left
    assert long.start_frame == -2 and long.window_start_s == 0.28


def test_trim_asks_channel_0_alone_and_in_db():
    store = scene([-80, -10, -80], channels=("logmel", "pcen"))
    assert trim(store, store.index, 5.0)["n_frames"].tolist() == [1]
    store = scene([-80, -10, -80], channels=("pcen", "logmel"))
    with pytest.raises(ValueError, match=r"trim_db=5.0 needs channel 0 in dB, but it is 'pcen'. Put logmel first"):
        trim(store, store.index, 5.0)
    assert trim(store, store.index, 0.0)["n_frames"].tolist() == [3]


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_trim_that_is_no_distance_is_refused(value):
    store = scene([-80, -10])
    with pytest.raises(ValueError, match=r"trim_db=.* must be 0 \(off\) or above"):
        trim(store, store.index, value)
    with pytest.raises(ValueError, match=r"trim_inference_db=.* should be .*0: off"):
        Windows(1.0, 0.5, value)


# --- batches -------------------------------------------------------------------------------------------------------


def literal(cache: Cache, rows: pd.DataFrame, starts: np.ndarray, width: int) -> np.ndarray:
    frames = torch.cat(cache.parts)
    out = np.empty((len(rows), cache.logmel.n_channels, LOGMEL.n_mels, width), np.float32)
    for i, row in enumerate(rows.itertuples()):
        for t in range(width):
            frame = starts[i] + t
            inside = 0 <= frame < row.n_frames
            for c, name in enumerate(cache.logmel.channels):
                padding = row.floor_db if name.startswith("logmel") else 0
                out[i, c, :, t] = frames[row.first_frame + frame, c].numpy() if inside else padding
    return out


@calm
@given(st.data())
def test_a_batch_equals_the_literal_loop(data):
    n_parts = data.draw(st.integers(1, 3))
    index = index_of(data.draw(st.lists(st.integers(1, 40), min_size=n_parts, max_size=6)))
    names = st.sampled_from(["logmel", "delta", "phase", "pcen", "logmel_512"])
    cache = cache_of(index, tuple(data.draw(st.lists(names, min_size=1, max_size=3))), n_parts)
    chosen = data.draw(st.lists(st.integers(0, len(index) - 1), max_size=8))  # in any order, some twice
    starts = np.array(data.draw(st.lists(st.integers(-50, 50), min_size=len(chosen), max_size=len(chosen))), int)
    width = data.draw(st.integers(1, 30))
    found = batch(cache, index.iloc[chosen], starts, width)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), literal(cache, index.iloc[chosen], starts, width))


def test_padding_holds_the_floor_of_its_own_clip():
    index = index_of([3, 4])
    x = batch(cache_of(index, n_parts=2), index, np.array([-2, 0]), 6)
    outside = torch.tensor([[1, 1, 0, 0, 0, 1], [0, 0, 0, 0, 1, 1]]).bool()
    assert x[0, 0, 0, outside[0]].unique().tolist() == [-80] and x[1, 0, 0, outside[1]].unique().tolist() == [-81]
    assert (x[0, 0, :, ~outside[0]] > -80).all()


def test_channels_that_are_not_in_db_are_padded_with_0():
    index = index_of([1])
    x = batch(cache_of(index, ("delta", "logmel", "pcen")), index, np.array([-1]), 3)
    assert x[0, :, :, 0].unique(dim=1).T.tolist() == x[0, :, :, 2].unique(dim=1).T.tolist() == [[0, -80, 0]]


def test_no_rows_give_an_empty_batch():
    index = index_of([3])
    assert batch(cache_of(index), index.iloc[:0], np.zeros(0, int), 5).shape == (0, 1, 8, 5)


# --- settings ------------------------------------------------------------------------------------------------------


def test_lengths_in_frames():
    cut = Windows(window_s=2.0, hop_s=0.128)
    assert (cut.n_frames(LOGMEL), cut.hop_frames(LOGMEL)) == (200, 13)
    assert (Windows(0.01, 0.01).n_frames(LOGMEL), Windows(0.01, 0.01).hop_frames(LOGMEL)) == (1, 1)
    assert Windows(**cut.settings()) == cut


@pytest.mark.parametrize(
    ("window_s", "hop_s", "message"),
    [
        (1.0, 1.5, r"hop_s=1.5 is longer than window_s=1.0: windows would skip audio. Lower hop_s"),
        (0.0, 0.0, "window_s=0.0 should be greater than or equal to 0.01"),
        (1.0, -0.5, "hop_s=-0.5 should be greater than or equal to 0.01"),
    ],
)
def test_settings_that_lose_audio_are_refused(window_s, hop_s, message):
    with pytest.raises(ValueError, match=message):
        Windows(window_s, hop_s)
