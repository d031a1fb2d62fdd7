"""Where windows start, trimming of silence, and batches of windows from the cache.

Conventions
-----------
window_s, hop_s : s, length of a window and distance between the starts of inference windows.
start_frame     : first frame of a window, counted from first_frame of its row (start of the clip, or of what `trim`
  left of it); negative where padding comes first.
window_start_s  : s, the same from the start of the whole clip.
batch           : float32 tensor (n, n_channels, n_mels, n_frames), units as in `features`; frames outside the row hold
  its floor_db in channels that are in dB, 0 in the others.
Windows inherit the fold of their clip: nothing is split below the clip.

Used in: 00, 02 to 08.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch

from lib import settings
from lib.sound.cache import Cache
from lib.sound.features import LogMel

__all__ = ["Windows", "ahead", "batch", "batches", "energy", "gather", "places", "random_starts", "rolling", "spans"]
__all__ += ["trim"]

TOUCH_S = 0.002  # starts are rounded to 1 ms: what is this near touches


@settings.group
class Windows(settings.Windows):
    """Length and hop of windows, and whether inference skips silence at the ends of clips: `settings.Windows`.

    With trim_inference_db, `rolling` skips the quieter stretches at both ends of a clip.

    Raises
    ------
    ValueError
        If a setting is out of range, or hop_s is longer than window_s (windows would skip audio).
    """

    def __post_init__(self) -> None:
        if self.hop_s > self.window_s:
            raise ValueError(
                f"hop_s={self.hop_s} is longer than window_s={self.window_s}: windows would skip audio. Lower hop_s."
            )

    def n_frames(self, logmel: LogMel) -> int:
        """Frames in one window."""
        return max(1, round(self.window_s * logmel.frames_per_s))

    def hop_frames(self, logmel: LogMel) -> int:
        """Frames between the starts of two inference windows."""
        return max(1, round(self.hop_s * logmel.frames_per_s))


def trim(cache: Cache, rows: pd.DataFrame, trim_db: float) -> pd.DataFrame:
    """Rows narrowed to the stretch between the first and the last frame that come near the clip's loudest one.

    A frame is as loud as its loudest band of channel 0. The loudest frame stays, so no row is ever empty.

    Parameters
    ----------
    rows : of `Cache.index`
    trim_db : dB below the loudest frame down to which a frame counts; 0: rows stay as they are

    Returns
    -------
    The rows with first_frame and n_frames narrowed, and offset_frames (frames cut off at the head) added

    Raises
    ------
    ValueError
        If trim_db is negative, or channel 0 is not in dB.
    """
    if not trim_db >= 0:  # nor NaN
        raise ValueError(f"trim_db={trim_db} must be 0 (off) or above: dB below the loudest frame.")
    if not trim_db:
        return rows.assign(offset_frames=0)
    if not cache.logmel.in_db[0]:
        raise ValueError(
            f"trim_db={trim_db} needs channel 0 in dB, but it is {cache.logmel.channels[0]!r}. "
            "Put logmel first in channels, or set trim_db to 0."
        )
    kept = np.array([_loud_stretch(cache.frames(clip)[:, 0], trim_db) for clip in rows.itertuples()], int)
    first, n_frames = kept.reshape(-1, 2).T
    return rows.assign(first_frame=rows["first_frame"] + first, n_frames=n_frames, offset_frames=first)


def rolling(cache: Cache, clips: pd.DataFrame, windows: Windows) -> pd.DataFrame:
    """Inference windows that cover every clip (as trimmed by trim_inference_db): one per hop, and one at the end.

    A clip shorter than a window gets one window, the clip in its middle.

    Parameters
    ----------
    clips : rows of `Cache.index`, untrimmed

    Returns
    -------
    The rows, as `trim` returns them, repeated, a row a window, with start_frame and window_start_s (s from the start of
    the untrimmed clip, 3 decimals) added; index 0, 1, ...
    """
    logmel, clips = cache.logmel, trim(cache, clips, windows.trim_inference_db)
    width, hop = windows.n_frames(logmel), windows.hop_frames(logmel)
    table = clips.assign(start_frame=[_starts(n, width, hop) for n in clips["n_frames"]])
    table = table.explode("start_frame", ignore_index=True).astype({"start_frame": int})
    table["window_start_s"] = ((table["offset_frames"] + table["start_frame"]) / logmel.frames_per_s).round(3)
    return table


def random_starts(n_frames: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    """A random start for one training window of each clip.

    Uniform over the places where a window fits into a long clip, or a short clip into the window.

    Parameters
    ----------
    n_frames : (n,) frames of each clip
    width : frames of a window

    Returns
    -------
    start_frame, int (n,), between min(0, n_frames - width) and max(0, n_frames - width)
    """
    slack = np.asarray(n_frames) - width
    return np.minimum(slack, 0) + rng.integers(0, np.abs(slack) + 1)


def places(cache: Cache, rows: pd.DataFrame, start_frame: np.ndarray) -> dict[str, torch.Tensor]:
    """Where windows lie in a cache: `rows` of `Cache.index` and the start of a window for each, int (n,).

    Returns
    -------
    first_frame, n_frames, floor_db, start_frame, each (n,), on the device of the frames
    """
    columns = {name: rows[name].to_numpy(np.int64, copy=True) for name in ("first_frame", "n_frames")}
    columns["floor_db"] = rows["floor_db"].to_numpy(np.float32, copy=True)
    columns["start_frame"] = np.array(start_frame, dtype=np.int64)
    return {name: torch.from_numpy(column).to(cache.device) for name, column in columns.items()}


def batch(cache: Cache, rows: pd.DataFrame, start_frame: np.ndarray, width: int) -> torch.Tensor:
    """The windows at `start_frame`, int (n,), of index rows; of `width` frames."""
    return gather(cache, places(cache, rows, start_frame), width)


def gather(cache: Cache, at: dict[str, torch.Tensor], width: int) -> torch.Tensor:
    """Gather windows where the frames lie (`Cache.on`): one indexing of the array of each subset, no loop over clips.

    Parameters
    ----------
    width : frames of a window

    Returns
    -------
    float32 (n, n_channels, n_mels, width)
    """
    n_frames, first_frame = at["n_frames"][:, None], at["first_frame"]
    frame = at["start_frame"][:, None] + torch.arange(width, device=cache.device)  # frame within the row
    source = first_frame[:, None] + frame.clamp_min(0).minimum(n_frames - 1)
    if len(cache.parts) == 1:
        frames = _frames(cache.parts[0], source)
    else:
        frames = torch.empty(*source.shape, *cache.parts[0].shape[1:], device=cache.device)
        part_of = torch.bucketize(first_frame, torch.tensor(cache.starts[1:-1], device=cache.device), right=True)
        for k, part in enumerate(cache.parts):
            chosen = (part_of == k).nonzero()[:, 0]
            frames[chosen] = _frames(part, source[chosen] - cache.starts[k])
    inside = (frame >= 0) & (frame < n_frames)
    padding = at["floor_db"][:, None, None, None] * cache.in_db[:, None]  # (n, 1, n_channels, 1)
    return torch.where(inside[:, :, None, None], frames, padding).permute(0, 2, 3, 1)


def batches(cache: Cache, table: pd.DataFrame, width: int, size: int) -> Iterator[torch.Tensor]:
    """The windows of `table` (from `rolling`) in its order, `size` at a time, as `batch` gives them."""
    at = places(cache, table, table["start_frame"].to_numpy())
    for first in range(0, len(table), size):
        yield gather(cache, {name: column[first : first + size] for name, column in at.items()}, width)


def ahead(made: Iterator[torch.Tensor], device: torch.device) -> Iterator[torch.Tensor]:
    """The same tensors on `device`; while one is in use, a thread makes the next one, in pinned memory for a GPU."""

    def following() -> torch.Tensor | None:
        x = next(made, None)
        return x.pin_memory() if x is not None and device.type == "cuda" else x

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(following)
        while (x := coming.result()) is not None:
            coming = pool.submit(following)
            yield x.to(device, non_blocking=True)


def energy(cache: Cache, table: pd.DataFrame, window_s: float) -> pd.Series:
    """Mean power of windows over frames and mel bands of channel 0; padding outside the clip does not count.

    Parameters
    ----------
    table : fname, window_start_s, a row a window

    Returns
    -------
    float64, above 0 where channel 0 is in dB, with the index of `table`
    """
    power = pd.Series(0.0, table.index)
    width = Windows(window_s, window_s).n_frames(cache.logmel)
    for fname, starts in table.groupby("fname")["window_start_s"]:
        frames = cache.frames(next(cache.rows([fname]).itertuples()))[:, 0].double().numpy()
        power_of = 10 ** (frames / 10) if cache.logmel.in_db[0] else frames
        total = np.concatenate([[0.0], np.cumsum(power_of.mean(axis=1))])
        first = (starts * cache.logmel.frames_per_s).round().to_numpy(int)
        ends = np.clip([first, first + width], 0, len(frames))
        power[starts.index] = (total[ends[1]] - total[ends[0]]) / width
    return power


def spans(kept: pd.DataFrame, durations_s: pd.Series, window_s: float) -> pd.DataFrame:
    """Kept windows that overlap or touch, merged, padded to window_s where the clip is long enough.

    Parameters
    ----------
    kept : a row a window: subset, fname, window_start_s, window_end_s, kept (bool), confirmed (labels, comma-joined),
        judged_by
    durations_s : s, by fname

    Returns
    -------
    subset, fname, start_s, end_s (within the clip), labels (tuple: those confirmed in any of its windows), judged_by
    """
    rows = kept[kept["kept"].astype(bool)].sort_values(["fname", "window_start_s"], ignore_index=True)
    new = rows["fname"].ne(rows["fname"].shift()) | rows["window_start_s"].gt(rows["window_end_s"].shift() + TOUCH_S)
    groups = rows.groupby(new.cumsum().to_numpy())
    table = groups.agg(
        subset=("subset", "first"),
        fname=("fname", "first"),
        start_s=("window_start_s", "min"),
        end_s=("window_end_s", "max"),
        labels=("confirmed", lambda texts: tuple(dict.fromkeys(filter(None, ",".join(texts).split(","))))),
        judged_by=("judged_by", "first"),
    ).reset_index(drop=True)
    end = table["fname"].map(durations_s).to_numpy(float)
    short = (window_s - (table["end_s"] - table["start_s"])).clip(lower=0) / 2
    start_s = (table["start_s"] - short).clip(lower=0, upper=np.maximum(end - window_s, 0))
    return table.assign(start_s=start_s, end_s=np.minimum(np.maximum(table["end_s"] + short, start_s + window_s), end))


def _frames(part: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Frames of one array by number: int (n, width) -> float32 (n, width, n_channels, n_mels)."""
    return part.index_select(0, source.flatten()).view(*source.shape, *part.shape[1:]).float()


def _starts(n_frames: int, width: int, hop: int) -> np.ndarray:
    if n_frames <= width:
        return np.array([-((width - n_frames) // 2)])
    last = n_frames - width
    return np.append(np.arange(0, last, hop), last)


def _loud_stretch(decibels: torch.Tensor, trim_db: float) -> tuple[int, int]:
    """First frame, and number of frames to the last one, of those within trim_db of the loudest; (n_frames, n_mels)."""
    level = decibels.float().amax(dim=1)
    loud = (level >= level.max() - trim_db).nonzero()
    return int(loud[0]), int(loud[-1] - loud[0]) + 1
