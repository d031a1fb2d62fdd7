"""Window scores to clip scores.

Conventions
-----------
scores : float (n_windows, n_classes), in [0, 1]. Pooling never looks at labels or at other clips.

Used in: 04, 06, 07, 08.
"""

import numpy as np
import pandas as pd

__all__ = ["POOLINGS", "pool_mean"]


def pool_mean(fnames: pd.Series | np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Arithmetic mean over the windows of each clip.

    Parameters
    ----------
    fnames : (n_windows,) clip of each window
    scores : (n_windows, n_classes)

    Returns
    -------
    fnames (n_clips,) sorted, scores float64 (n_clips, n_classes)

    Raises
    ------
    ValueError
        If the lengths differ or a score is not finite.
    """
    if len(fnames) != len(scores):
        raise ValueError(f"{len(fnames)} fnames for {len(scores)} rows of scores: one fname a window is needed.")
    if not np.isfinite(scores).all():
        raise ValueError("Scores hold NaN or infinity: the model that made them did not converge. Lower lr.")
    clips, clip = np.unique(np.asarray(fnames, dtype=str), return_inverse=True)
    total = np.zeros((len(clips), scores.shape[1]))
    np.add.at(total, clip, scores)
    return clips, total / np.bincount(clip)[:, None]


POOLINGS = {"mean": pool_mean}  # by the name that a run's choice gives
