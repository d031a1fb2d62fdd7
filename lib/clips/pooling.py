"""Pooling: from window scores to clip scores, by one of many named formulas.

Conventions
-----------
scores  : float (n_windows, n_classes), in [0, 1]. Pooled scores are in [0, 1] too.
fnames  : (n_windows,) the clip of each window, in any order. Pooled clips are sorted by fname.
logits  : log(score / (1 - score)), the network's output before the logistic function (clipped at +-27).
weights : (n_windows,) at least 0, such as the energy of the window; only the weighted mean uses them.
Pooling reads no labels and no other clips. `choose` reads the labels of the clips that it is given, and no others.

Used in: 06, 08, 10.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from lib import ideas
from lib.evaluation import metrics
from lib.evaluation.window_scores import by_clip

__all__ = ["POOLINGS", "Pooling", "choose", "find", "pool"]

SMALLEST = 1.0e-12  # below it a score's logarithm is rounding


@dataclass(frozen=True)
class Pooling:
    """A formula that pools the windows of a clip.

    Parameters
    ----------
    formula : (values (n_windows, n_classes) sorted by clip, their `_Clips`, parameter) -> (n_clips, n_classes)
    grid : parameters to choose among, of equals the first wins; empty where the formula has none
    on_logits : whether the formula reads logits instead of scores
    weighted : whether it needs the weights of windows
    """

    formula: Callable
    grid: tuple[float, ...] = ()
    on_logits: bool = False
    weighted: bool = False


@dataclass(frozen=True)
class _Clips:
    """Where each clip begins among the sorted windows, how many it has, and the windows' weights."""

    first: np.ndarray
    n: np.ndarray
    weights: np.ndarray | None

    def sum(self, values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, self.first, axis=0)

    def mean(self, values: np.ndarray) -> np.ndarray:
        return self.sum(values) / self.n[:, None]

    def descending(self, values: np.ndarray) -> np.ndarray:
        """The values of each class sorted within each clip, highest first; the clips keep their order."""
        clip = np.repeat(np.arange(len(self.n)), self.n)
        order = np.lexsort((-values, np.broadcast_to(clip[:, None], values.shape)), axis=0)
        return np.take_along_axis(values, order, axis=0)


def _maximum(scores: np.ndarray, clips: _Clips, _: float) -> np.ndarray:
    return np.maximum.reduceat(scores, clips.first, axis=0)


def _median(values: np.ndarray, clips: _Clips, _: float) -> np.ndarray:
    values = clips.descending(values)
    return (values[clips.first + (clips.n - 1) // 2] + values[clips.first + clips.n // 2]) / 2


def _log_sum_exp(values: np.ndarray, clips: _Clips, sharpness: float) -> np.ndarray:
    highest = _maximum(values, clips, 0)
    above = np.exp(sharpness * (values - np.repeat(highest, clips.n, axis=0)))
    return highest + np.log(clips.mean(above)) / sharpness


def _top(values: np.ndarray, clips: _Clips, k: float) -> np.ndarray:
    rank = np.arange(len(values)) - np.repeat(clips.first, clips.n)
    return clips.sum(clips.descending(values) * (rank < k)[:, None]) / np.minimum(clips.n, k)[:, None]


def _weighted(values: np.ndarray, clips: _Clips, _: float) -> np.ndarray:
    return clips.sum(values * clips.weights[:, None]) / clips.sum(clips.weights)[:, None]


POOLINGS = {
    "mean": Pooling(lambda scores, clips, _: clips.mean(scores)),
    "geometric": Pooling(lambda scores, clips, _: np.exp(clips.mean(np.log(np.maximum(scores, SMALLEST))))),
    "max": Pooling(_maximum),
    "median": Pooling(_median),
    # 1 is the mean, 0 the geometric mean, infinity the maximum
    "power": Pooling(lambda scores, clips, p: clips.mean(scores**p) ** (1 / p), (2, 0.5, 3, 0.25, 5, 8)),
    "log_sum_exp": Pooling(_log_sum_exp, (1, 3, 10, 30)),  # 0 is the mean, infinity the maximum
    "noisy_or": Pooling(lambda scores, clips, _: -np.expm1(clips.sum(np.log1p(-np.minimum(scores, 1 - SMALLEST))))),
    "top": Pooling(_top, (3, 2, 5, 10)),  # windows; 1 is the maximum
    "energy": Pooling(_weighted, weighted=True),
    "mean_logits": Pooling(lambda logits, clips, _: clips.mean(logits), on_logits=True),
    "median_logits": Pooling(_median, on_logits=True),
    "log_sum_exp_logits": Pooling(_log_sum_exp, (0.1, 0.3, 1, 3), on_logits=True),
    "top_logits": Pooling(_top, (3, 2, 5, 10), on_logits=True),
    "energy_logits": Pooling(_weighted, on_logits=True, weighted=True),
}  # no max_logits: the highest logit belongs to the highest score, so it would equal max


def find(method: str) -> Pooling:
    """The pooling of that name, or one from ideas/; ValueError where it is neither."""
    if ideas.is_idea(method):
        return Pooling(partial(_idea, method))
    if method not in POOLINGS:
        raise ValueError(f"{method!r} is no pooling. There are: {', '.join(POOLINGS)}.")
    return POOLINGS[method]


def _idea(name: str, scores: np.ndarray, clips: _Clips, _: float) -> np.ndarray:
    pooled = np.asarray(ideas.find({}, name)(scores.copy(), clips.first.copy()), float)
    expected = len(clips.first), scores.shape[1]
    if pooled.shape != expected or not ((pooled >= 0) & (pooled <= 1)).all():
        nan = " with NaN" * bool(np.isnan(pooled).any())
        raise ValueError(f"{name} makes {pooled.shape}{nan} of {scores.shape}: expected {expected}, all in [0, 1].")
    return pooled


def pool(
    method: str,
    fnames: pd.Series | np.ndarray,
    scores: np.ndarray,
    *,
    parameter: float | None = None,
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Clip scores by one of POOLINGS, or by an idea.

    Parameters
    ----------
    parameter : exponent, sharpness or number of windows; required if the method has a grid, refused otherwise
    weights : (n_windows,), required if the method is weighted

    Returns
    -------
    fnames (n_clips,) sorted, scores float64 (n_clips, n_classes) in [0, 1]

    Raises
    ------
    ValueError
        An unknown method; a parameter that is missing, not above 0, or not allowed; weights that are missing, negative
        or all 0 in a clip; an idea that gives another shape or values outside [0, 1]; and as `by_clip`.
    """
    pooling = find(method)
    clips, order, values, first, n = by_clip(fnames, scores)
    if bool(pooling.grid) != (parameter is not None) or (parameter is not None and parameter <= 0):
        need = f"a parameter above 0, such as {pooling.grid}" if pooling.grid else "no parameter"
        raise ValueError(f"parameter={parameter} for {method!r}, which takes {need}.")
    sorted_clips = _Clips(first, n, _checked(weights, order, first, method) if pooling.weighted else None)
    if not pooling.on_logits:
        return clips, pooling.formula(values, sorted_clips, parameter)
    values = np.clip(values, SMALLEST, 1 - SMALLEST)
    logits = pooling.formula(np.log(values) - np.log1p(-values), sorted_clips, parameter)
    return clips, 1 / (1 + np.exp(-logits))


def choose(method: str, fnames: pd.Series | np.ndarray, scores: np.ndarray, targets: pd.DataFrame) -> float | None:
    """The parameter from the method's grid with the highest lwlrap on these clips; None where it has no grid.

    The first of equals in the grid is taken.

    Parameters
    ----------
    fnames, scores : windows of training folds, scored by models that saw neither them nor the fold to be reported
    targets : 0/1, a row a clip (index fname), a column a class; clips without windows are ignored
    """
    reached = {}
    for parameter in find(method).grid:
        clips, pooled = pool(method, fnames, scores, parameter=parameter)
        reached[parameter] = metrics.lwlrap(targets.loc[clips].to_numpy(), pooled)
    return max(reached, key=reached.get) if reached else None


def _checked(weights: np.ndarray | None, order: np.ndarray, first: np.ndarray, method: str) -> np.ndarray:
    """The weights, checked, in the order of the sorted windows. A clip whose weights are all 0 has no weighted mean."""
    if weights is None or len(weights) != len(order):
        n = "none" if weights is None else len(weights)
        raise ValueError(f"{method!r} needs a weight for each of {len(order)} windows, got {n}.")
    weights = np.asarray(weights, float)[order]
    if not (np.isfinite(weights).all() and (weights >= 0).all() and np.add.reduceat(weights, first).all()):
        raise ValueError("weights must be finite, at least 0, and above 0 in one window of every clip.")
    return weights
