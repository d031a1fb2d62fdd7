"""Scores of windows, with the model that gave them, and their mean over each clip.

Conventions
-----------
scores : float (n_windows, n_classes), in [0, 1], in the order of the table's rows.
fnames : (n_windows,) the clip of each window, in any order. Clip scores are sorted by fname.
Windows are found by (fname, window_start_s, fold, model), never by position.

Used in: `training`, `runs.oof`, `clips`, 02 to 07, 10.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

__all__ = ["WindowScores", "by_clip", "pool_mean"]


@dataclass(frozen=True)
class WindowScores:
    """Window scores of one or more models.

    Attributes
    ----------
    table : fname, window_start_s (s), fold, model (that scored it, such as without_2); energy if it was measured
    scores : float64 (n_windows, n_classes), in [0, 1]
    """

    table: pd.DataFrame
    scores: np.ndarray

    def where(self, chosen: np.ndarray) -> "WindowScores":
        """Some of the windows, chosen by bool (n_windows,) or by row numbers, in their order."""
        chosen = np.asarray(chosen)
        return WindowScores(self.table.iloc[chosen].reset_index(drop=True), self.scores[chosen])

    def in_fold(self, fold: int) -> "WindowScores":
        """The windows of the clips of a fold."""
        return self.where(self.table["fold"] == fold)

    def by_model(self) -> Iterator[tuple[str, "WindowScores"]]:
        """Each model's name and windows, sorted by name."""
        for name in sorted(self.table["model"].unique()):
            yield name, self.where(self.table["model"] == name)

    def pool_mean(self) -> tuple[np.ndarray, np.ndarray]:
        """Clip scores: the arithmetic mean over all windows of each clip, see the function `pool_mean`."""
        return pool_mean(self.table["fname"], self.scores)

    @classmethod
    def join(cls, parts: Iterable["WindowScores"]) -> "WindowScores":
        """The windows of all parts, one part after the other."""
        parts = list(parts)
        tables = [part.table for part in parts]
        return cls(pd.concat(tables, ignore_index=True), np.concatenate([part.scores for part in parts]))


def by_clip(
    fnames: pd.Series | np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The windows sorted by clip.

    Returns
    -------
    fnames (n_clips,) sorted; order int (n_windows,): the row of each sorted window; the sorted scores, float64
    (n_windows, n_classes); int (n_clips,): the first sorted window of each clip; int (n_clips,): its number of windows

    Raises
    ------
    ValueError
        Lengths differ, or scores are not finite.
    """
    fnames, scores = np.asarray(fnames, dtype=str), np.asarray(scores)
    if len(fnames) != len(scores):
        raise ValueError(f"{len(fnames)} fnames for {len(scores)} rows of scores: one fname a window is needed.")
    if not np.isfinite(scores).all():
        raise ValueError("Scores hold NaN or infinity: the model that made them did not converge. Lower lr.")
    order = np.argsort(fnames, kind="stable")
    clips, first, n = np.unique(fnames[order], return_index=True, return_counts=True)
    return clips, order, scores[order].astype(np.float64), first, n


def pool_mean(fnames: pd.Series | np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clip scores: the arithmetic mean over the windows of each clip. Parameters and errors as `by_clip`.

    Returns
    -------
    fnames (n_clips,) sorted, scores float64 (n_clips, n_classes)
    """
    clips, _, values, first, n = by_clip(fnames, scores)
    return clips, np.add.reduceat(values, first, axis=0) / n[:, None]
