"""Prediction images: the scores of a clip's overlapping windows, stacked over time, as a second model reads them.

Conventions
-----------
image : float32 (n_classes, n_columns), a row a class, a column a window in the order of time; scores times 255.
A clip of fewer windows stands in the middle, with columns of zeros around it; of a longer one the middle `max_clip_s`
is taken. A score is never exactly 0, so a column of zeros is one where there is no window.

Used in: 06, 08, 10. Numpy alone, as it runs where no fastai is.

Source: the write-up's second stage, "80 x N prediction images".
"""

import numpy as np

__all__ = ["WHITE", "confusion_order", "make", "n_columns"]

WHITE = 255.0  # a score of 1


def n_columns(window_s: float, hop_s: float, max_clip_s: float) -> int:
    """Columns of an image: windows of a clip of `max_clip_s`.

    Raises
    ------
    ValueError
        If no window fits into max_clip_s.
    """
    if max_clip_s < window_s:
        raise ValueError(f"max_clip_s={max_clip_s} is shorter than window_s={window_s}: no window fits. Raise it.")
    return 1 + round((max_clip_s - window_s) / hop_s)


def make(
    fnames: np.ndarray, start_s: np.ndarray, scores: np.ndarray, columns: int, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Images of all clips at once.

    Parameters
    ----------
    fnames, start_s : (n_windows,) clip and start (s) of each window, in any order
    scores : (n_windows, n_classes), in [0, 1]
    columns : width, from `n_columns`
    rows : (n_classes,) class that stands in each row, from the top; None: as the classes come

    Returns
    -------
    fnames (n_clips,) sorted, images float32 (n_clips, n_classes, columns)

    Raises
    ------
    ValueError
        Scores outside [0, 1]; rows that are not each class once.
    """
    scores = np.asarray(scores)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("scores lie outside [0, 1]: images are made of scores, not logits. Pass them by `activate`.")
    rows = np.arange(scores.shape[1]) if rows is None else np.asarray(rows)
    if sorted(rows.tolist()) != list(range(scores.shape[1])):
        raise ValueError(f"rows={rows.tolist()} must name each of {scores.shape[1]} classes once.")
    order = np.lexsort((start_s, np.asarray(fnames, str)))
    clips, first, n = np.unique(np.asarray(fnames, str)[order], return_index=True, return_counts=True)
    clip = np.repeat(np.arange(len(clips)), n)
    column = np.arange(len(order)) - first[clip] + ((columns - n) // 2)[clip]
    shown = (column >= 0) & (column < columns)
    images = np.zeros((len(clips), scores.shape[1], columns), np.float32)
    images[clip[shown], :, column[shown]] = WHITE * scores[order[shown]][:, rows]
    return clips, images


def confusion_order(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Classes in a row in which those that are taken for each other stand side by side.

    The pair that is confused most comes first; then the class that is closest to either end joins there, until all
    stand. Compute it on training folds: it reads labels.

    Parameters
    ----------
    targets, scores : (n_clips, n_classes); how much class j is scored where i is the label is their confusion

    Returns
    -------
    int (n_classes,)
    """
    targets, scores = np.asarray(targets, float), np.asarray(scores, float)
    taken = targets.T @ scores / np.maximum(targets.sum(0), 1)[:, None]
    close = taken + taken.T
    np.fill_diagonal(close, -np.inf)
    chain = [int(i) for i in np.unravel_index(close.argmax(), close.shape)]
    while len(chain) < len(close):
        free = np.setdiff1d(np.arange(len(close)), chain)
        left, right = close[chain[0], free], close[chain[-1], free]
        if left.max() > right.max():
            chain.insert(0, int(free[left.argmax()]))
        else:
            chain.append(int(free[right.argmax()]))
    return np.array(chain)
