"""Scores of rankings of tags: lwlrap, top-1 hit rate, and their intervals, differences and verdicts.

lwlrap (label-weighted label-ranking average precision) ranks all classes of a clip by score, reads the precision at the
rank of each true class, and averages over all true (clip, class) pairs. The mean of lwlrap over batches or folds is
another number: pool the rows, then call once.

Conventions
-----------
* Truth first: `targets` (n, n_classes) of exactly 0 or 1, `scores` (n, n_classes) of any scale, higher is likelier.
  Use logits or float64 probabilities: saturated float16 sigmoids are ties.
* Ties get the worst rank, as in scikit-learn: a tie never helps. (The contest's own code let the later column win.)
* Rows without a label are dropped; `n` counts the rows with one. All rates are in [0, 1].
* `groups` (n,) are resampled whole, because the clips of a group resemble each other.
* `bootstrap` and `compare_each` also take scores of seeds, (n_seeds, n, n_classes): the value is the mean over them;
  or (n_seeds, n_members, n, n_classes): members are averaged within a seed, and only seeds count as repeats.

Used in: every notebook that states a score.
"""

from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from lib.evaluation import folds

__all__ = ["SCORES", "baseline", "bootstrap", "clip_losses", "compare_classes", "compare_each", "confusions"]
__all__ += ["expected_best", "fresh", "fresh_in_words", "gap", "hit_rate", "holm", "in_words", "lwlrap"]
__all__ += ["per_class_lwlrap", "point_scores", "prior_by_fold", "prior_scores", "ratio", "spread", "to_settle"]
__all__ += ["validate"]

SCORES = ["lwlrap", "lwlrap_low", "lwlrap_high", "hit_rate", "hit_rate_low", "hit_rate_high"]  # of `bootstrap`
N_RESAMPLES = 2000  # of a bootstrap; `compare_each` draws more for long tables
CHUNK = 2**22  # numbers per step: 700,000 windows x 80 classes need some 100 MB of temporary memory
NORMAL = NormalDist()
MARGIN = 0.015  # lwlrap: no smaller difference is of interest
ERRORS = 0.05  # of tables in which a verdict may be false
POWER = 0.8  # the smallest difference that counts as detectable is detected in 80 of 100 studies


def validate(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check truth and scores, and drop the rows without a label.

    Returns
    -------
    truth bool (n_kept, n_classes), scores (n_kept, n_classes), bool (n,): which rows are kept

    Raises
    ------
    ValueError
        Arrays that are not two-dimensional or differ in shape, soft targets, NaN or infinite scores, no label at all.
    """
    targets, scores = np.asarray(targets), np.asarray(scores)
    if targets.ndim != 2 or targets.shape != scores.shape:
        raise ValueError(
            f"targets {targets.shape} and scores {scores.shape} must both be (n_clips, n_classes). "
            "Give one row a clip and one column a class, truth first."
        )
    truth = targets == 1
    soft = ~(truth | (targets == 0))
    if soft.any():
        raise ValueError(
            f"targets hold {targets[soft][0]}, expected only 0 and 1. Mixup and label smoothing make soft targets, "
            "for which lwlrap is not defined: score against the labels before mixing."
        )
    bad = ~np.isfinite(scores)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"scores hold {bad.sum()} NaN or infinite values, the first at row {row}, column {column}: they can't be "
            "ranked. Find where they come from (a training that diverged, the logarithm of zero)."
        )
    labelled = truth.any(1)
    if not labelled.any():
        raise ValueError(f"none of the {len(truth)} rows has a label: nothing to score. Pass clips with known labels.")
    return (truth, scores, labelled) if labelled.all() else (truth[labelled], scores[labelled], labelled)


def lwlrap(targets: np.ndarray, scores: np.ndarray) -> float:
    """Label-weighted label-ranking average precision, in (0, 1]; raises as `validate`.

    Source: Fonseca et al. 2019, "Audio tagging with noisy labels and minimal supervision" (DCASE 2019 task 2).
    """
    truth, scores, _ = validate(targets, scores)
    return float(_precisions(truth, scores)[2].mean())


def per_class_lwlrap(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean precision and weight of each class, two float64 arrays (n_classes,); raises as `validate`.

    The precision is nan where a class never occurs; the weight is the class's share of all labels, so that
    `np.nansum(per_class * weight)` is lwlrap.
    """
    truth, scores, _ = validate(targets, scores)
    _, columns, precision = _precisions(truth, scores)
    n_labels = truth.sum(0)
    per_class = np.full(len(n_labels), np.nan)
    np.divide(np.bincount(columns, precision, len(n_labels)), n_labels, out=per_class, where=n_labels > 0)
    return per_class, n_labels / n_labels.sum()


def hit_rate(targets: np.ndarray, scores: np.ndarray) -> float:
    """Top-1 hit rate: share of clips whose best class is among the labels, in [0, 1]; raises as `validate`.

    Where classes tie for the best, all of them must be labels (ties get the worst rank).
    """
    truth, scores, _ = validate(targets, scores)
    return float(_hits(truth, scores).mean())


def point_scores(targets: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """lwlrap and hit_rate, without intervals; parameters and errors as `validate`."""
    return {"lwlrap": lwlrap(targets, scores), "hit_rate": hit_rate(targets, scores)}


def confusions(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How often the best wrong class of a clip outranks (or ties with) a label of it; raises as `validate`.

    Returns
    -------
    int (n_classes, n_classes): row the label, column the wrong class
    """
    truth, scores, _ = validate(targets, scores)
    wrong = np.where(truth, -np.inf, scores)
    rival = wrong.argmax(1)
    rows, columns = (truth & (wrong.max(1, keepdims=True) >= scores)).nonzero()
    counts = np.zeros((truth.shape[1],) * 2, int)
    np.add.at(counts, (columns, rival[rows]), 1)
    return counts


def clip_losses(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Loss of a clip's labels: the mean of -log(score) over them, nats, float64 (n,); nan without a label.

    `scores` are in [0, 1]. Other classes don't count, because a class that is not labelled may be present all the same.
    """
    surprise = -np.log(np.clip(np.asarray(scores, float), 1e-12, 1)) * (np.asarray(targets) == 1)
    n_labels = (np.asarray(targets) == 1).sum(1)
    return np.divide(surprise.sum(1), n_labels, out=np.full(len(surprise), np.nan), where=n_labels > 0)


def bootstrap(
    targets: np.ndarray, scores: np.ndarray, groups: np.ndarray, *, n_resamples: int = N_RESAMPLES
) -> dict[str, float | int]:
    """lwlrap, lwlrap_low, lwlrap_high, hit_rate, hit_rate_low, hit_rate_high (95 % intervals) and n, for `result.json`.

    Percentile bootstrap: all n groups are drawn with replacement, n at a time. Seeds are drawn too, the same ones for
    all groups of a resample, and one fewer than there are: n draws of n would understate the spread between few seeds.
    The interaction of seeds and groups is counted more than once, so intervals over seeds tend to be too wide
    (simulated, 2 to 5 seeds: they contained the truth in 90 to 99 % of cases). With fewer than about 20 groups they are
    too narrow. With one group (a fold may be one) there is no interval: its limits are NaN. Raises ValueError as
    `validate`.

    Source: Rao and Wu 1988 (n - 1 draws); Owen 2007, "The pigeonhole bootstrap" (crossed draws).
    """
    sums, n = _group_sums(targets, [scores], groups)
    return _intervals("", _rates(sums, n_resamples)[:, 0], 0.95) | {"n": n}


def fresh(
    targets: np.ndarray, scores: np.ndarray, groups: np.ndarray, fold: np.ndarray, developed_on: list[int]
) -> dict[str, float | int]:
    """`bootstrap` on the folds that a recipe was not developed on: fresh_lwlrap ... fresh_n; raises as `bootstrap`.

    Empty if all clips are in such folds. Only fresh_n = 0 if no clip is.

    Parameters
    ----------
    scores : as in `bootstrap`
    fold : (n,), the fold of each clip
    developed_on : folds whose scores were seen while the recipe was made
    """
    new = ~np.isin(fold, developed_on)
    if new.all() or not new.any():
        return {} if new.all() else {"fresh_n": 0}
    values = bootstrap(np.asarray(targets)[new], np.asarray(scores)[..., new, :], np.asarray(groups)[new])
    return {f"fresh_{key}": value for key, value in values.items()}


def in_words(scores: dict[str, float], name: str) -> str:
    """A metric and its interval in words, from the result of `bootstrap`: 0.870 (95 % interval 0.841 to 0.902)."""
    low, high = scores[f"{name}_low"], scores[f"{name}_high"]
    interval = "one group of clips: no interval" if np.isnan(low) else f"95 % interval {low:.3f} to {high:.3f}"
    return f"{scores[name]:.3f} ({interval})"


def fresh_in_words(scores: dict[str, float]) -> str:
    """The result of `fresh` as a sentence; empty if that is empty."""
    if "fresh_n" not in scores:
        return ""
    if not scores["fresh_n"]:
        return " The recipe was developed on all of these folds."
    return (
        f" On the {scores['fresh_n']} clips of folds that the recipe was not developed on, lwlrap is "
        f"{in_words(scores, 'fresh_lwlrap')} and the top-1 hit rate {in_words(scores, 'fresh_hit_rate')}."
    )


def compare_each(
    targets: np.ndarray, pairs: dict[str, tuple[np.ndarray, np.ndarray]], groups: np.ndarray
) -> list[dict[str, float | int | str]]:
    """One table of comparisons: is the second of each pair better than the first? Corrected by Holm.

    Both sides of a pair are scored on the same resamples, drawn as in `bootstrap`. The verdicts hold together: in 95 of
    100 tables none of them is false. Each interval holds alone, at its row's `level`; nothing is claimed of all
    intervals of a table at once. With one seed a side, a verdict is about these two models. A verdict about two recipes
    needs three seeds or more.

    Parameters
    ----------
    pairs : name -> scores of the base, scores of the other, as in `bootstrap`

    Returns
    -------
    A dict for each, in the order of `pairs`:
        variant: its name
        lwlrap_diff, lwlrap_diff_low, lwlrap_diff_high, hit_rate_diff, hit_rate_diff_low, hit_rate_diff_high:
            other - base, with intervals at `level`
        level: at which Holm's procedure tests the row: 1 - .05 / m for the smallest p of m, ..., .95 for the largest.
            It depends on m and on the order of the p, so another comparison in the table changes the interval
        n, n_groups, n_seeds: clips with a label, their groups, seeds a side
        n_differ: groups whose precision differs between the sides
        smallest_diff: the smallest difference in lwlrap that this table could have shown, with 80 % power at 5 %
            two-sided: (z(1 - .025 / m) + .84) bootstrap standard errors, 2.80 for m = 1, 3.65 for m = 10
        n_to_settle: clips of this kind, with the same grouping and number of seeds, that settle the observed
            difference, see `to_settle`; NaN where nothing varies or there is no interval
        p_better: share of the resamples in which the other is ahead, ties count half; NaN where there is no interval
        p, p_holm: two-sided, of the difference in lwlrap, and Holm's correction of it; 1 where there is no interval.
            Never below 2 / (n_resamples + 1), nor below 2 / 2**n_differ, the chance that so few groups all go one way
        verdict: of lwlrap, corrected: "kept" (interval above zero), "dropped" (below), "unclear" (zero is inside).
            Holm's procedure stops at the first row that is not clear: all rows after it are unclear, even where their
            interval excludes zero

    Raises
    ------
    ValueError
        As `bootstrap`; the sides of a pair differ in clips, classes or number of seeds.
    """
    n_resamples = 1000 * max(2, len(pairs))  # some 25 resamples are in a tail of .025 / m
    differences = [_paired(targets, *pair, groups, n_resamples) for pair in pairs.values()]
    p = np.array([_verdict(*difference, 0.95, len(pairs))["p"] for difference in differences])
    adjusted, rank = holm(p), np.argsort(np.argsort(p, kind="stable"), kind="stable")
    rows = []
    for i, name in enumerate(pairs):
        row = _verdict(*differences[i], 1 - ERRORS / (len(pairs) - rank[i]), len(pairs))
        verdict = row["verdict"] if adjusted[i] < ERRORS else "unclear"
        rows.append({"variant": name, **row, "p_holm": float(adjusted[i]), "verdict": verdict})
    return rows


def compare_classes(
    targets: np.ndarray, base: np.ndarray, other: np.ndarray, groups: np.ndarray, x: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Which classes does `other` help? Differences in per-class lwlrap, and their slope over a property `x` of classes.

    Parameters
    ----------
    base, other : (n, n_classes) or (n_seeds, n, n_classes), paired and resampled as in `compare_each`
    x : (n_classes,), such as log2 of the seconds of audio; classes that never occur are left out of the slope

    Returns
    -------
    Arrays (n_classes,): n (clips with the label), base, other, diff, diff_low, diff_high (95 %; nan where n is 0; each
    class on its own, uncorrected)
    slope, slope_low, slope_high : least squares, difference in lwlrap for one more unit of x, each class once;
        nan where x is the same for all
    """
    truth, _, labelled = validate(targets, base if np.ndim(base) == 2 else base[0])
    names, group = np.unique(np.asarray(groups, str)[labelled], return_inverse=True)
    rows, columns = truth.nonzero()
    n_classes, sums = truth.shape[1], []
    place, shape = group[rows] * n_classes + columns, (len(names), n_classes)
    for sides in zip(*(_by_seed(side)[:, 0] for side in (base, other)), strict=True):
        weights = [None, *(_precisions(truth, validate(targets, scores)[1])[2] for scores in sides)]  # None: labels
        sums.append(np.hstack([np.bincount(place, w, np.prod(shape)).reshape(shape) for w in weights]))
    totals = _resample(np.stack(sums)).reshape(-1, 3, n_classes)
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = totals[:, 1:] / totals[:, :1]
        diffs = rates[:, 1] - rates[:, 0]
    there = totals[0, 0] > 0
    low, high = np.full((2, n_classes), np.nan)
    low[there], high[there] = np.nanquantile(diffs[1:, there], [0.025, 0.975], axis=0)
    slopes = _slopes(np.asarray(x, float)[there], diffs[:, there])
    table = {"n": totals[0, 0].astype(int), "base": rates[0, 0], "other": rates[0, 1]}
    table |= {"diff": diffs[0], "diff_low": low, "diff_high": high}
    return table, _interval("slope", slopes)


def gap(
    one: tuple[np.ndarray, np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> dict[str, float]:
    """lwlrap of `one` minus lwlrap of `other`, on different clips or windows: gap, gap_low, gap_high (95 %).

    An example is the score that a validation reports, and the score of the model on other clips. Groups that are on
    both sides are resampled together.

    Parameters
    ----------
    one, other : (targets, scores, groups) each, as in `bootstrap`
    """
    names = np.unique(np.concatenate([np.asarray(side[2], str) for side in (one, other)]))
    sums = np.zeros((1, len(names), 4))
    for column, (targets, scores, groups) in ((0, one), (2, other)):
        labelled = validate(targets, scores)[2]
        there = np.searchsorted(names, np.unique(np.asarray(groups, str)[labelled]))
        sums[0, there, column : column + 2] = _group_sums(targets, [scores], groups)[0][0][:, [2, 0]]
    totals = _resample(sums)
    return _interval("gap", totals[:, 0] / totals[:, 1] - totals[:, 2] / totals[:, 3])


def ratio(name: str, upper: np.ndarray, lower: np.ndarray) -> dict[str, float]:
    """A share, such as the precision of a choice, and its interval: name, name_low, name_high (95 %).

    Parameters
    ----------
    upper, lower : (n_groups,) counts; groups are resampled. NaN where there is nothing to divide by, and no
        interval for one group.
    """
    times = _times_drawn(len(lower)) if len(lower) > 1 else np.full((N_RESAMPLES, len(lower)), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _interval(name, np.append(upper.sum() / lower.sum(), (times @ upper) / (times @ lower)))


@lru_cache(maxsize=1)
def _times_drawn(n: int) -> np.ndarray:
    """How often each of n groups is drawn in each resample, (N_RESAMPLES, n). Cached: many shares have the same n."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), N_RESAMPLES).astype(float)  # float for BLAS


def expected_best(n_tries: int) -> float:
    """By how many standard errors the best of n equally good models leads by chance, if their errors are independent.

    This is the expected maximum of n standard normal draws: 0 for one, .56 for two, 1.82 for eighteen.
    """
    return float(np.mean([NORMAL.inv_cdf(u ** (1 / n_tries)) for u in (np.arange(5000) + 0.5) / 5000]))


def to_settle(n: float, diff: float, smallest: float) -> float:
    """Clips that would settle a difference with 80 % power: its interval is clear of zero, or lies within MARGIN.

    The true difference is taken to be the observed one. The standard error falls with the root of the number of clips;
    the part that seeds have in it does not, so that with few seeds more clips may be needed.

    Parameters
    ----------
    n, diff, smallest : clips, difference in lwlrap, and smallest difference that these clips can show
    """
    z, away = NORMAL.inv_cdf(0.975), abs(diff)
    here = smallest / (z + NORMAL.inv_cdf(POWER))  # standard error; a correction makes it larger

    def power(error: float) -> float:
        clear = NORMAL.cdf(away / error - z) + NORMAL.cdf(-away / error - z)
        inside = NORMAL.cdf((MARGIN - away) / error - z) - NORMAL.cdf(z - (MARGIN + away) / error)
        return clear + max(0.0, inside)

    surely = MARGIN / (2 * z)  # the standard error below which every estimate settles it
    needed = brentq(lambda error: power(error) - POWER, surely, max(away, MARGIN))
    return float(np.ceil(n * (here / needed) ** 2))


def spread(targets: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Standard error of one model on these clips, without the error that all models share: lwlrap, hit_rate.

    Multiplied by `expected_best`, it is the false gain of picking the best of equally good models on the clips that
    report it. It falls with the square root of the number of clips. NaN for one model or one group.

    Parameters
    ----------
    scores : (n_models, n, n_classes) of the models that are compared; their mean scores have no influence
    """
    sums = _group_sums(targets, list(scores), groups)[0][0]
    if len(scores) < 2 or len(sums) < 2:
        return {"lwlrap": np.nan, "hit_rate": np.nan}
    counts, reached = sums[:, None, :2], sums[:, 2:].reshape(len(sums), -1, 2)
    errors = (reached - counts * reached.sum(0) / counts.sum(0)) / counts.sum(0)  # of each group, model and metric
    errors -= errors.mean(1, keepdims=True)
    variances = (errors**2).sum((0, 1)) / (len(scores) - 1)
    return dict(zip(("lwlrap", "hit_rate"), np.sqrt(variances).tolist(), strict=True))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjusted p-values of one table of comparisons, in the same order; below .05 is significant for the whole table.

    Raises ValueError unless all are in [0, 1]. Source: Holm 1979.
    """
    p = np.asarray(p_values, float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p_values must be one list of numbers in [0, 1], got {p_values}. Leave out rows without a p.")
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def prior_scores(train_targets: np.ndarray, n: int) -> np.ndarray:
    """The baseline: each of n clips gets the class frequencies of the training clips, float64 (n, n_classes)."""
    return np.tile(np.asarray(train_targets, float).mean(0), (n, 1))


def prior_by_fold(targets: np.ndarray, folds_table: pd.DataFrame) -> np.ndarray:
    """The baseline out of fold: each clip gets the class frequencies of the clips that train without its fold.

    Parameters
    ----------
    folds_table : group and fold of each clip, see `folds.training`

    Returns
    -------
    float64 (n, n_classes)
    """
    targets, fold = np.asarray(targets), folds_table["fold"].to_numpy()
    scores = np.empty(targets.shape)
    for f in np.unique(fold):
        scores[fold == f] = prior_scores(targets[folds.training(folds_table, [f])], (fold == f).sum())
    return scores


def baseline(targets: np.ndarray, folds_table: pd.DataFrame, scored: np.ndarray | None = None) -> float:
    """lwlrap of the baseline out of fold, which any model must beat; NaN if no clip counts.

    Parameters
    ----------
    targets, folds_table : as in `prior_by_fold`
    scored : which clips count, bool (n,); None: all
    """
    scored = np.ones(len(targets), bool) if scored is None else np.asarray(scored)
    return lwlrap(targets[scored], prior_by_fold(targets, folds_table)[scored]) if scored.any() else np.nan


def _precisions(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and precision of every true (clip, class) pair: three arrays (n_labels,)."""
    rows, columns = truth.nonzero()
    precision = np.empty(len(rows))
    step = max(1, CHUNK // truth.shape[1])
    for start in range(0, len(rows), step):
        r, c = rows[start : start + step], columns[start : start + step]
        at_or_above = scores[r] >= scores[r, c][:, None]
        precision[start : start + step] = (at_or_above & truth[r]).sum(1) / at_or_above.sum(1)
    return rows, columns, precision


def _hits(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Bool array (n,): is every class that ties for the best score a label?"""
    return ~((scores == scores.max(1, keepdims=True)) & ~truth).any(1)


def _group_sums(targets: np.ndarray, sides: list[np.ndarray], groups: np.ndarray) -> tuple[np.ndarray, int]:
    """Numerators and denominators per group, (n_seeds, n_groups, 2 + 2 n_sides), and the number of labelled clips.

    Last axis: labels, clips, then for each side the sum of precisions and the number of hits.
    """
    if len(groups) != len(targets):
        raise ValueError(f"{len(groups)} groups for {len(targets)} rows of targets. Give each clip its group.")
    sums = []
    for sides_of_seed in zip(*map(_by_seed, sides), strict=True):
        columns = []
        for members in sides_of_seed:
            of_members = []
            for scores in members:
                truth, scores, labelled = validate(targets, scores)
                names, group = np.unique(np.asarray(groups, str)[labelled], return_inverse=True)
                rows, _, precision = _precisions(truth, scores)
                of_members.append([np.bincount(group[rows], precision), np.bincount(group, _hits(truth, scores))])
            columns += list(np.mean(of_members, axis=0))
        sums.append(np.stack([np.bincount(group[rows]), np.bincount(group), *columns], axis=1))
    return np.stack(sums), len(truth)


def _by_seed(scores: np.ndarray) -> np.ndarray:
    """Scores of one model, of seeds, or of seeds with members, as (n_seeds, n_members, n, n_classes)."""
    scores = np.asarray(scores)
    return scores[:, None] if scores.ndim == 3 else scores[None, None] if scores.ndim == 2 else scores


def _rates(sums: np.ndarray, n_resamples: int) -> np.ndarray:
    """lwlrap and hit rate of all clips, then of each resample, (1 + n_resamples, n_sides, 2)."""
    totals = _resample(sums, n_resamples)
    return totals[:, 2:].reshape(len(totals), -1, 2) / totals[:, None, :2]


def _resample(sums: np.ndarray, n_resamples: int = N_RESAMPLES) -> np.ndarray:
    """Sums over groups, means over seeds: of all groups in the first row, then of each resample.

    NaN for the resamples of a single group: they would all be equal, which is no interval.

    Parameters
    ----------
    sums : (n_seeds, n_groups, n_sums)

    Returns
    -------
    (1 + n_resamples, n_sums)
    """
    rng = np.random.default_rng(0)
    n_seeds, n_groups, n_sums = sums.shape
    n_drawn = max(1, n_seeds - 1)
    seed_shares = rng.multinomial(n_drawn, np.full(n_seeds, 1 / n_seeds), n_resamples) / n_drawn
    totals = [sums.mean(0).sum(0)]
    if n_groups < 2:
        return np.vstack([*totals, np.full((n_resamples, n_sums), np.nan)])
    for shares in np.array_split(seed_shares, n_resamples * n_groups // CHUNK + 1):
        n = len(shares)
        drawn = rng.integers(n_groups, size=(n, n_groups)) + n_groups * np.arange(n)[:, None]
        times_drawn = np.bincount(drawn.ravel(), minlength=n * n_groups).reshape(n, n_groups)
        totals.extend((np.tensordot(times_drawn, sums, (1, 1)) * shares[:, :, None]).sum(1))
    return np.array(totals)


def _slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares slope of each row of y over x; NaN in y (a class that a resample lacks) is left out of its row."""
    there = ~np.isnan(y)
    at = np.where(there, x, np.nan)
    at = at - np.nanmean(at, axis=1, keepdims=True)
    spread = np.nansum(at**2, axis=1)
    return np.divide(np.nansum(at * y, axis=1), spread, out=np.full(len(y), np.nan), where=spread > 0)


def _paired(
    targets: np.ndarray, base: np.ndarray, other: np.ndarray, groups: np.ndarray, n_resamples: int
) -> tuple[np.ndarray, dict[str, int]]:
    """other - base of both metrics, of all clips, then of each resample, (1 + n_resamples, 2); its counts."""
    shapes = [(side.shape[0], *side.shape[2:]) for side in map(_by_seed, (base, other))]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"base {np.shape(base)} and other {np.shape(other)} differ: a paired comparison needs the same clips, "
            "classes and number of seeds on both sides. Leave out what only one side has."
        )
    sums, n = _group_sums(targets, [base, other], groups)
    rates, of_groups = _rates(sums, n_resamples), sums.mean(0)
    counts = {"n": n, "n_groups": sums.shape[1], "n_differ": int((of_groups[:, 2] != of_groups[:, 4]).sum())}
    return rates[:, 1] - rates[:, 0], counts | {"n_seeds": sums.shape[0]}


def _verdict(diffs: np.ndarray, counts: dict[str, int], level: float, n_compared: int) -> dict[str, float | int | str]:
    """A row of `compare_each` before correction, from differences as `_paired` gives them; one of `n_compared`."""
    intervals, diff, resampled = _intervals("_diff", diffs, level), diffs[0, 0], diffs[1:, 0]
    low, high = intervals["lwlrap_diff_low"], intervals["lwlrap_diff_high"]
    against = min((resampled <= 0).sum(), (resampled >= 0).sum())
    ahead = ((resampled > 0).mean() + (resampled >= 0).mean()) / 2
    p = max(2 * (1 + against) / (1 + len(resampled)), 2.0 ** (1 - counts["n_differ"]))  # bootstrap, sign test
    n_errors = NORMAL.inv_cdf(1 - 0.025 / n_compared) + NORMAL.inv_cdf(POWER)
    smallest = n_errors * resampled.std(ddof=1)
    return {
        **intervals,
        "level": float(level),
        **counts,
        "smallest_diff": float(smallest),
        "n_to_settle": to_settle(counts["n"], diff, smallest) if smallest > 0 else np.nan,
        "p_better": np.nan if np.isnan(low) else float(ahead),
        "p": 1.0 if np.isnan(low) else float(min(1, p)),
        "verdict": "kept" if low > 0 else "dropped" if high < 0 else "unclear",
    }


def _intervals(suffix: str, rates: np.ndarray, level: float) -> dict[str, float]:
    """Value, low and high of both metrics as flat keys, from `rates` of all clips and of each resample, (1 + n, 2)."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    return _interval(f"lwlrap{suffix}", rates[:, 0], tails) | _interval(f"hit_rate{suffix}", rates[:, 1], tails)


def _interval(name: str, values: np.ndarray, tails: Sequence[float] = (0.025, 0.975)) -> dict[str, float]:
    """The first value, and quantiles of the other values, its resamples: name, name_low, name_high."""
    resampled = values[1:]
    low, high = np.nanquantile(resampled, tails) if np.isfinite(resampled).any() else (np.nan, np.nan)
    return {name: float(values[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
