"""Adversarial validation: how well a small model tells two subsets apart by simple statistics of their clips.

AUC .5: they look alike, and a score on one may carry over to the other. AUC 1: every clip shows where it comes from,
and a model trained on one subset hears the other for the first time.

Conventions
-----------
features : DataFrame, a row a clip, numbers without gaps.
AUC      : probability that a clip of the second subset gets a higher score than one of the first; 0 to 1. Always
           out-of-fold: groups are never split.

Used in: 01_eda.
"""

from itertools import combinations

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from lib.sound import signals

__all__ = ["features", "subsets", "summary", "tell_apart"]

LENGTH = ["duration_s"]  # the giveaway that a loader, not a microphone, made
SOUND = ["peak_db", "rms_db", "loudness_db", "clipped", "zeros", "centroid_hz", "rolloff_hz", "band_limit_hz"]
SILENCE = ["lead", "trail", "inner"]  # shares of the clip
N_FOLDS, N_TREES, N_RESAMPLES, N_SHUFFLES, N_HALVES = 5, 100, 500, 2, 5
FEWEST = 20  # groups of a subset; fewer show nothing
NOTICED = 0.005  # least fall of the AUC that is worth a name


def features(clips: pd.DataFrame, measured: pd.DataFrame, silence_db: float) -> pd.DataFrame:
    """Numbers to tell subsets by, index fname.

    Parameters
    ----------
    clips : table of `lib.datasets`
    measured : from `signals.measure`
    silence_db : dB below the peak, one of those measured
    """
    table = signals.silence(clips, measured, silence_db).merge(measured, on="fname").set_index("fname")
    shares = {part: table[f"{part}_s"] / table["duration_s"] for part in SILENCE}
    return table[[*LENGTH, *SOUND]].assign(**shares)


def tell_apart(
    x: pd.DataFrame, y: np.ndarray, groups: np.ndarray, seed: int, n_shuffles: int = N_SHUFFLES
) -> tuple[dict, pd.DataFrame]:
    """Out-of-fold AUC of a random forest, and which features tell.

    Parameters
    ----------
    x : (n, n_features)
    y : (n,) of 0 and 1
    groups : (n,), never split
    seed : of folds, forest and resampling
    n_shuffles : of each feature, averaged; 0 leaves drop empty

    Returns
    -------
    found : auc, auc_low, auc_high (95 % interval over groups), n
    tells : feature, alone (AUC of the feature by itself; under .5: the second subset has less of it), drop (fall of the
        out-of-fold AUC when the feature is shuffled)

    Raises
    ------
    ValueError
        A side with fewer groups than folds.
    """
    y, groups = np.asarray(y, int), np.asarray(groups)
    if min(len(set(groups[y == side])) for side in (0, 1)) < N_FOLDS:
        raise ValueError(f"y has a side with fewer than {N_FOLDS} groups: nothing can be held out. Add clips.")
    values, score, rng = x.to_numpy(float), np.zeros(len(y)), np.random.default_rng(seed)
    shuffled = np.zeros((x.shape[1], n_shuffles, len(y)))
    for train, held_out in StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=seed).split(values, y, groups):
        forest = RandomForestClassifier(N_TREES, min_samples_leaf=3, class_weight="balanced", random_state=seed)
        forest.fit(values[train], y[train])
        score[held_out] = forest.predict_proba(values[held_out])[:, 1]
        spoilt = np.tile(values[held_out], (*shuffled.shape[:2], 1, 1))
        for feature, turn in np.ndindex(*shuffled.shape[:2]):
            spoilt[feature, turn, :, feature] = rng.permutation(spoilt[feature, turn, :, feature])
        if spoilt.size:
            told = forest.predict_proba(spoilt.reshape(-1, x.shape[1]))[:, 1]
            shuffled[:, :, held_out] = told.reshape(spoilt.shape[:3])
    auc = _auc(y, score)
    names, numbers = np.unique(groups, return_inverse=True)
    draws = []
    for _ in range(N_RESAMPLES):
        weight = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))[numbers]
        if min(weight[y == 0].sum(), weight[y == 1].sum()):
            draws.append(_auc(y, score, weight))
    low, high = np.quantile(draws, (0.025, 0.975))
    tells = pd.DataFrame(
        {
            "feature": x.columns,
            "alone": [_auc(y, column) for column in values.T],
            "drop": [auc - np.mean([_auc(y, turn) for turn in turns] or [np.nan]) for turns in shuffled],
        }
    ).sort_values("drop", ascending=False, ignore_index=True)
    return {"auc": auc, "auc_low": low, "auc_high": high, "n": len(y)}, tells


def _auc(y: np.ndarray, score: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Area under the ROC curve, as scikit-learn's `roc_auc_score`, which checks its input for milliseconds a call.

    Parameters
    ----------
    y : (n,) of 0 and 1
    score, weight : (n,); by default all weigh the same
    """
    _, rank = np.unique(score, return_inverse=True)
    weight = np.ones(len(y)) if weight is None else weight
    lower, upper = (np.bincount(rank, weights=weight * (y == side)) for side in (0, 1))
    below = np.cumsum(lower) - lower / 2  # a tie counts half
    return float((upper * below).sum() / (lower.sum() * upper.sum()))


def subsets(x: pd.DataFrame, clips: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every two subsets told apart, with and without the length of the clips, beside random halves of one subset.

    Parameters
    ----------
    x : from `features`, index fname
    clips : DataFrame with fname, subset, group

    Returns
    -------
    gaps : pair ("curated | noisy"), by ("all" | "sound": without length), auc, auc_low, auc_high, n. The last row, pair
        "chance", is the dumb baseline: mean, least and greatest AUC of N_HALVES random halves of the curated clips
    tells : pair, by, feature, alone, drop
    """
    clips = clips[clips["fname"].isin(x.index)]
    n_groups = clips.groupby("subset")["group"].nunique()
    names = [name for name in ("curated", "noisy", "test") if n_groups.get(name, 0) >= FEWEST]
    tasks = [(a, b, by) for a, b in combinations(names, 2) for by in ("all", "sound")]
    gaps, tells = [], []
    for a, b, by in tqdm(tasks, desc="telling subsets apart", leave=False):
        rows = clips[clips["subset"].isin([a, b])]
        columns = x.columns if by == "all" else x.columns.difference(LENGTH, sort=False)
        found, told = tell_apart(x.loc[rows["fname"], columns], rows["subset"] == b, rows["group"], seed)
        gaps.append({"pair": f"{a} | {b}", "by": by, **found})
        tells.append(told.assign(pair=f"{a} | {b}", by=by))
    if "curated" in names:
        rows = clips[clips["subset"] == "curated"]
        groups, aucs = rows["group"].unique(), []
        for turn in range(N_HALVES):
            half = np.random.default_rng([seed, turn]).permutation(groups)[: len(groups) // 2]
            found, _ = tell_apart(x.loc[rows["fname"]], rows["group"].isin(half), rows["group"], seed, 0)
            aucs.append(found["auc"])
        chance = {"auc": np.mean(aucs), "auc_low": min(aucs), "auc_high": max(aucs), "n": len(rows)}
        gaps.append({"pair": "chance", "by": "all", **chance})
    gaps = pd.DataFrame(gaps, columns=["pair", "by", "auc", "auc_low", "auc_high", "n"])
    columns = ["pair", "by", "feature", "alone", "drop"]
    return gaps, pd.concat(tells, ignore_index=True)[columns] if tells else pd.DataFrame(columns=columns)


def summary(gaps: pd.DataFrame, tells: pd.DataFrame) -> dict[str, object]:
    """The domain gap: AUC of each pair by all features and by sound alone, chance, and what they say in a sentence."""
    found, parts = {}, []
    for row in gaps.itertuples():
        key = row.pair.replace(" | ", "_") + ("" if row.pair == "chance" else f"_{row.by}")
        found |= {key: row.auc, f"{key}_low": row.auc_low, f"{key}_high": row.auc_high}
    for pair, rows in gaps[gaps["pair"] != "chance"].groupby("pair", sort=False):
        row = rows.set_index("by")
        best = tells[(tells["pair"] == pair) & (tells["by"] == "sound") & (tells["drop"] > NOTICED)]["feature"].head(3)
        told = f"mostly by {', '.join(best)}" if len(best) else "no single feature tells"
        parts.append(
            f"{pair.replace(' | ', ' against ')}: AUC {row.at['all', 'auc']:.2f} ({row.at['all', 'auc_low']:.2f} to "
            f"{row.at['all', 'auc_high']:.2f}, n = {row.at['all', 'n']}), without length {row.at['sound', 'auc']:.2f} "
            f"({told if row.at['sound', 'auc_low'] > 0.5 else 'not told apart'})"
        )
    says = "Fewer than two subsets with audio: no domain gap to measure"
    if parts:
        says = "Domain gap, by a small model on simple statistics of the clips: " + "; ".join(parts)
    if "chance" in found:
        says += f". Random halves of the curated clips: {found['chance_low']:.2f} to {found['chance_high']:.2f}"
    return {**found, "says": says + "."}
