"""Where windows start, and batches of windows from the cache.

Conventions
-----------
window_s, hop_s : s, length of a window and distance between the starts of inference windows.
start_frame     : first frame of a window, counted from the start of its clip; negative where padding comes first.
batch           : float32 tensor (n, n_channels, n_mels, n_frames), dB; frames outside the clip hold its floor_db.
Windows inherit the fold of their clip: nothing is split below the clip.

Used in: 02 to 08.
"""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch

from lib.cache import Cache
from lib.features import LogMel

__all__ = ["Windows", "batch", "random_starts", "rolling"]


@dataclass(frozen=True)
class Windows:
    """Length and hop of windows, s.

    Raises
    ------
    ValueError
        If hop_s is longer than window_s (windows would skip audio) or one of them is not positive.
    """

    window_s: float
    hop_s: float

    def __post_init__(self) -> None:
        if min(self.window_s, self.hop_s) <= 0:
            raise ValueError(f"window_s={self.window_s} and hop_s={self.hop_s} must be above 0 s.")
        if self.hop_s > self.window_s:
            raise ValueError(
                f"hop_s={self.hop_s} is longer than window_s={self.window_s}: windows would skip audio. Lower hop_s."
            )

    def settings(self) -> dict:
        return asdict(self)

    def n_frames(self, logmel: LogMel) -> int:
        """Frames in one window."""
        return max(1, round(self.window_s * logmel.frames_per_s))

    def hop_frames(self, logmel: LogMel) -> int:
        """Frames between the starts of two inference windows."""
        return max(1, round(self.hop_s * logmel.frames_per_s))


def rolling(clips: pd.DataFrame, windows: Windows, logmel: LogMel) -> pd.DataFrame:
    """Inference windows that cover every clip whole: one a hop, and a last one that ends with the clip.

    A clip shorter than a window gets one window, the clip in its middle.

    Parameters
    ----------
    clips : rows of `Cache.index`

    Returns
    -------
    The rows repeated, a row a window, with start_frame and window_start_s (s, 3 decimals) added; index 0, 1, ...
    """
    width, hop = windows.n_frames(logmel), windows.hop_frames(logmel)
    starts = [_starts(n, width, hop) for n in clips["n_frames"]]
    table = clips.iloc[np.repeat(np.arange(len(clips)), [len(s) for s in starts])].reset_index(drop=True)
    table["start_frame"] = np.concatenate(starts) if starts else np.zeros(0, int)
    table["window_start_s"] = (table["start_frame"] / logmel.frames_per_s).round(3)
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


def batch(cache: Cache, rows: pd.DataFrame, start_frame: np.ndarray, width: int) -> torch.Tensor:
    """Gather windows: one indexing of the mapped array for each subset, no loop over clips.

    Parameters
    ----------
    rows : index rows (part, first_frame, n_frames, floor_db), one a window
    start_frame : int (n,)
    width : frames of a window

    Returns
    -------
    float32 (n, n_channels, n_mels, width), dB
    """
    first_frame, n_frames = torch.from_numpy(rows[["first_frame", "n_frames"]].to_numpy(np.int64, copy=True)).T[
        ..., None
    ]
    at = torch.as_tensor(start_frame)[:, None] + torch.arange(width)  # frame within the clip
    inside = (at >= 0) & (at < n_frames)
    source = first_frame + at.clamp_min(0).minimum(n_frames - 1)
    part = rows["part"].to_numpy()
    frames = torch.empty(len(rows), width, cache.n_channels, cache.logmel.n_mels)
    for k in np.unique(part):
        chosen = torch.from_numpy(part == k)
        frames[chosen] = cache.parts[k][source[chosen]].float()
    floor = torch.from_numpy(rows["floor_db"].to_numpy(np.float32, copy=True))[:, None, None, None]
    return torch.where(inside[:, :, None, None], frames, floor).permute(0, 2, 3, 1)


def _starts(n_frames: int, width: int, hop: int) -> np.ndarray:
    if n_frames <= width:
        return np.array([-((width - n_frames) // 2)])
    last = n_frames - width
    return np.append(np.arange(0, last, hop), last)
