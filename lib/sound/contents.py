"""Describes a set of clips before training: audio of each class, level, silence, and how subsets differ.

Conventions
-----------
clips    : table of `lib.data.datasets`. Clips without labels (test clips whose labels are unknown) count for no class.
seconds  : three ways to count a clip with several labels. every: all its seconds for each label; even: its seconds
           shared by its labels; single: only clips with one label count. NaN without audio.
places   : windows of a clip that share no audio, at least one. A clip shorter than a window has one place: it shows the
           same window in every epoch, at most shifted.
fresh    : share of windows with new audio among those shown in ten epochs (one random window for each clip and epoch).
measured : statistics of each clip, decoded at its own rate, so that no band above the run's Nyquist frequency is lost.
           dB are relative to full scale (a full-scale sine has peak_db 0 and rms_db -3). Kept in outputs/cache, in one
           file named by the content of all clips and by the code that measures them.
silence  : a frame of 10 ms is silent at a threshold of x dB if its largest |sample| is more than x dB below the largest
           of the clip. lead_<x>_s and trail_<x>_s: s of silence at the ends; inner_<x>_s: s of all silent frames
           between. x is written without a decimal point if it is whole.
AUC      : of a small model that tells two subsets apart (adversarial validation): the probability that a clip of the
           second gets a higher score than one of the first. .5: they look alike, and a score on one may carry over to
           the other. 1: every clip reveals its subset. Always out-of-fold: groups are never split.

Used in: 01, 03 (`by_class`); `duplicates`, `figures.data`.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.cluster import hierarchy
from scipy.stats import entropy, rankdata
from sklearn.ensemble import RandomForestClassifier
from sklearn.inspection import permutation_importance
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from lib import code
from lib.data import audio
from lib.files import digest, whole_file
from lib.sound.cache import Cache
from lib.sound.features import LogMel
from lib.sound.windows import Windows

__all__ = ["EPOCHS", "LEFT_S", "THRESHOLDS_DB", "by_class", "cardinality", "co_occurrence", "describe_gap"]
__all__ += ["describe_repeats", "describe_sound", "domain_gap", "gini", "imbalance", "measure", "medians"]
__all__ += ["priors", "silence", "spectra", "statistics", "tell_apart", "traits", "trimming"]

EPOCHS = 10  # over which fresh windows are counted
SHORT = 0.8  # a class is short of clips if it has fewer than this share of the median class
MEASURED = ["seconds_every", "seconds_even", "seconds_single", "windows", "places", "fresh"]
THRESHOLDS_DB = (20.0, 30.0, 40.0, 50.0, 60.0)  # below the clip's peak
FRAME_S = 0.01
N_FFT = 2048
FULL_SCALE = 0.9999  # a |sample| of at least this is at full scale; the largest of 16 bit is 0.99997
BAND_LIMIT_DB = 60.0  # a band this far below the strongest is empty, by a lowpass or an earlier lower rate
LEFT_S = 0.1  # s: a clip is emptied if trimming leaves less
LENGTH = ["duration_s"]  # a feature of how clips were cut, not of their sound
SOUND = ["peak_db", "rms_db", "loudness_db", "clipped", "zeros", "centroid_hz", "rolloff_hz", "band_limit_hz"]
N_FOLDS, N_TREES, N_RESAMPLES, N_SHUFFLES, N_HALVES = 5, 100, 500, 2, 5
FEWEST = 20  # groups that a subset needs to be compared
NOTICED = 0.005  # smallest fall of the AUC for which a feature is named


def by_class(clips: pd.DataFrame, classes: tuple[str, ...], windows: Windows, logmel: LogMel) -> pd.DataFrame:
    """Clips, seconds and windows of every class, for each subset that has labels.

    Returns
    -------
    A row for each subset and class, in their order: subset, class, clips, single (clips with no other label),
    seconds_every, seconds_even, seconds_single (s), windows (at hop_s), places and fresh (0 to 1; see the conventions)
    """
    width, hop = windows.n_frames(logmel), windows.hop_frames(logmel)
    n_frames = 1 + (clips["duration_s"] * logmel.sample_rate).round() // logmel.hop_length
    places = (n_frames // width).clip(lower=1)
    n_labels = clips["labels"].map(len)
    rows = clips.assign(
        clips=1,
        single=(n_labels == 1).astype(int),
        seconds_every=clips["duration_s"],
        seconds_even=clips["duration_s"] / n_labels.clip(lower=1),
        seconds_single=clips["duration_s"].where(n_labels == 1, 0.0),
        windows=np.ceil((n_frames - width).clip(lower=0) / hop) + 1,
        places=places,
        fresh=places * (1 - (1 - 1 / places) ** EPOCHS),  # expected number of places drawn
    )[n_labels > 0].explode("labels")
    subsets = [name for name in ("curated", "noisy", "test") if name in set(rows["subset"])]
    cells = pd.MultiIndex.from_product([subsets, classes], names=["subset", "class"])
    sums = rows.groupby(["subset", "labels"])[["clips", "single", *MEASURED]].sum()
    table = sums.rename_axis(["subset", "class"]).reindex(cells, fill_value=0).reset_index()
    table["fresh"] = table["fresh"] / (EPOCHS * table["clips"]).where(table["clips"] > 0)
    if clips["duration_s"].isna().all():
        table[MEASURED] = np.nan
    return table


def gini(amounts: np.ndarray) -> float:
    """Gini coefficient: 0 if all classes have the same amount, near 1 if one has all. Source: Gini (1912)."""
    x = np.sort(np.asarray(amounts, float))
    n, total = len(x), x.sum()
    return float((2 * np.arange(1, n + 1) - n - 1) @ x / (n * total)) if total > 0 else float("nan")


def imbalance(table: pd.DataFrame) -> tuple[dict[str, object], str]:
    """How balanced the classes of curated clips are, in clips and in seconds.

    Compares the two classes whose single-label clips are longest and shortest on average.

    Parameters
    ----------
    table : from `by_class`

    Returns
    -------
    numbers : name -> number, and the names of these two classes, `longest` and `shortest`
    sentence : states the numbers
    """
    table = table[(table["subset"] == "curated") & (table["clips"] > 0)].set_index("class")
    most, fewest = table["clips"].max(), table["clips"].min()
    numbers = {"classes": len(table), "clips_ratio": most / fewest}
    sentence = f"Clips per class are within a factor of {most / fewest:.1f} ({fewest} to {most})."
    if table["seconds_every"].isna().all():
        return numbers, f"{sentence} Seconds per class can't be shown: there is no audio."
    ways = {"single": "over single-label clips", "every": "counting every label", "even": "by even share"}
    even = table["seconds_even"]
    mean_s = (table["seconds_single"] / table["single"].where(table["single"] > 0)).dropna()
    if len(mean_s) < 2:  # hardly any clip has one label
        mean_s = even / table["clips"]
        del ways["single"]
    longest, shortest = mean_s.idxmax(), mean_s.idxmin()
    ratios = {way: table.at[longest, f"seconds_{way}"] / table.at[shortest, f"seconds_{way}"] for way in ways}
    numbers |= {"longest": longest, "shortest": shortest, **{f"ratio_{way}": ratio for way, ratio in ratios.items()}}
    numbers |= {"ratio_extremes_even": even.max() / even.min(), "gini_even": gini(even)}
    numbers["effective_classes_even"] = effective = float(np.exp(entropy(even)))
    by_way = ", ".join(f"{ratios[way]:.1f} {name}" for way, name in ways.items())
    sentence += (
        f" Seconds of {longest} over those of {shortest}: {by_way}. The extremes by even share are {even.idxmax()} and "
        f"{even.idxmin()}, {even.max() / even.min():.1f}; Gini {gini(even):.2f}: as uneven as {effective:.1f} "
        f"equal classes of {len(table)}."
    )
    return numbers, sentence


def describe_repeats(table: pd.DataFrame, windows: Windows) -> str:
    """A sentence: how many of the windows shown hold new audio, for the curated classes with the least and the most."""
    table = table[(table["subset"] == "curated") & (table["clips"] > 0)].set_index("class")
    if table["fresh"].isna().all():
        return "Windows can't be counted: there is no audio."
    shares = [
        f"of {name}, {row['fresh']:.0%} hold new audio ({row['places']:.0f} windows that share no audio in "
        f"{row['clips']:.0f} clips, {row['windows']:.0f} at a hop of {windows.hop_s:g} s)"
        for name, row in table.loc[[table["fresh"].idxmin(), table["fresh"].idxmax()]].iterrows()
    ]
    return (
        f"An epoch shows one window of {windows.window_s:g} s a clip. Of the windows that {EPOCHS} epochs show "
        f"{'; '.join(shares)}."
    )


def cardinality(clips: pd.DataFrame) -> pd.DataFrame:
    """Labels per clip, a row for each subset.

    Returns
    -------
    subset, clips, labelled (clips with labels); of these: labels_per_clip (mean), several (share with more than one),
    most
    """
    n = clips["labels"].map(len)
    known = n.where(n > 0).groupby(clips["subset"])
    table = known.agg(clips="size", labelled="count", labels_per_clip="mean")
    table["several"] = (n > 1).groupby(clips["subset"]).sum() / table["labelled"]
    return table.assign(most=known.max()).round(3).reset_index()


def priors(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Share of each class in the labels of a subset, and how much the subsets differ.

    Parameters
    ----------
    table : from `by_class`

    Returns
    -------
    shares : index class, a column for each subset, 0 to 1; each column adds up to 1
    sentence : total variation distance between curated and each other subset, and the classes short of curated clips
    """
    counts = table.pivot(index="class", columns="subset", values="clips").reindex(table["class"].unique())
    shares = counts / counts.sum()
    apart = (shares.sub(shares["curated"], axis=0).abs().sum() / 2).reindex(["noisy", "test"]).dropna()
    short = counts.index[counts["curated"] < SHORT * counts["curated"].median()].tolist()
    changes = [f"{share:.0%} of the labels of {name} clips would have to change" for name, share in apart.items()]
    sentence = f"{' and '.join(changes)} to give the class shares of the curated clips. " if changes else ""
    sentence += f"{len(short)} of {len(counts)} classes are short of curated clips (under {SHORT:.0%} of the median)"
    return shares, sentence + (f": {', '.join(short[:5])}{' ...' if short[5:] else ''}." if short else ".")


def co_occurrence(targets: np.ndarray, classes: tuple[str, ...], n_shown: int = 40) -> pd.DataFrame:
    """Which labels occur together: share of the clips of a row's class that have the column's class too.

    Parameters
    ----------
    targets : (n_clips, n_classes) of 0 and 1
    n_shown : most classes in the table: those that occur with others most often

    Returns
    -------
    Square table of shares, 0 to 1, diagonal NaN, similar classes side by side (average linkage of Jaccard distances).
    Empty if no clip has two labels.
    """
    together = targets.T.astype(float) @ targets
    alone = np.diag(together).copy()
    np.fill_diagonal(together, 0)
    busy = np.argsort(-together.sum(axis=1), kind="stable")[:n_shown]
    busy = np.sort(busy[together[busy].sum(axis=1) > 0])
    if not len(busy):
        return pd.DataFrame()
    joint, n, names = together[np.ix_(busy, busy)], alone[busy, None], [classes[i] for i in busy]
    shares = pd.DataFrame(joint / n, index=names, columns=names)
    if len(busy) > 2:
        distance = 1 - joint / (n + n.T - joint)
        tree = hierarchy.linkage(distance[np.triu_indices(len(busy), 1)], "average", optimal_ordering=True)
        order = hierarchy.leaves_list(tree)
        shares = shares.iloc[order, order]
    return shares.mask(np.eye(len(busy), dtype=bool))


def statistics(samples: np.ndarray, sample_rate: int, thresholds_db: Iterable[float] = THRESHOLDS_DB) -> dict:
    """Statistics of one clip.

    Parameters
    ----------
    samples : float (n_samples,), mono, not all zero
    sample_rate : Hz
    thresholds_db : dB below the clip's peak

    Returns
    -------
    peak_db, rms_db, loudness_db (A-weighted level), clipped (share of samples at full scale), zeros (share of samples
    that are 0), centroid_hz, rolloff_hz (95 % of the power lies below), band_limit_hz, and silence at each threshold

    Source
    ------
    A-weighting: IEC 61672-1, its closed formula.
    """
    size = np.abs(samples)
    peak = float(size.max())
    power = _spectrum(samples)
    hz = np.fft.rfftfreq(N_FFT, 1 / sample_rate)
    total = power.sum() or 1.0  # a clip of one sample has no spectrum
    reached = np.cumsum(power) / total
    loud = np.flatnonzero(power >= power.max() * 10 ** (-BAND_LIMIT_DB / 10))
    found = {
        "peak_db": _db(peak**2),
        "rms_db": _db(np.mean(np.square(samples, dtype=np.float64))),
        "loudness_db": _db(power @ _a_weight(hz)),
        "clipped": float(np.mean(size >= FULL_SCALE)),
        "zeros": float(np.mean(size == 0)),
        "centroid_hz": float(hz @ power / total),
        "rolloff_hz": float(hz[np.searchsorted(reached, 0.95) % len(hz)]),
        "band_limit_hz": float(hz[loud[-1]]),
    }
    width = max(1, round(FRAME_S * sample_rate))
    frames = np.maximum.reduceat(size, np.arange(0, len(size), width))
    for threshold in thresholds_db:
        active = np.flatnonzero(frames >= peak * 10 ** (-threshold / 20))
        end = min((active[-1] + 1) * width, len(size))
        found[f"lead_{threshold:g}_s"] = active[0] * width / sample_rate
        found[f"trail_{threshold:g}_s"] = (len(size) - end) / sample_rate
        found[f"inner_{threshold:g}_s"] = (active[-1] + 1 - active[0] - len(active)) * width / sample_rate
    return found


def measure(clips: pd.DataFrame, folder: Path, silence_db: float) -> pd.DataFrame:
    """Statistics of all clips, computed in parallel; the same clips are measured only once.

    Parameters
    ----------
    clips : DataFrame with fname, path, subset, sample_rate
    folder : folder of caches (outputs/cache)
    silence_db : dB below the peak, a threshold to measure beside THRESHOLDS_DB

    Returns
    -------
    fname, then the columns of `statistics`; a row for each clip that can be decoded, in the order of clips
    """
    thresholds = sorted({*THRESHOLDS_DB, float(silence_db)})
    contents = audio.content_hashes(clips["path"], Path(folder) / "sha256.csv")
    named = digest(code.digest("signals"), thresholds, clips["fname"].tolist(), contents)
    path = Path(folder) / f"signals-{named}.csv"

    def work(clip: object) -> dict | None:
        try:
            samples = audio.read(clip.path, clip.sample_rate)
        except audio.AudioError:
            return None  # listed by lib.sound.cache, which decodes the same files
        return {"fname": clip.fname, **statistics(samples, clip.sample_rate, thresholds)}

    if not path.is_file():
        columns = ["fname", *statistics(np.ones(N_FFT), 8000, thresholds)]
        with ThreadPoolExecutor() as pool, whole_file(path) as partial:
            rows = pool.map(work, clips.itertuples())
            rows = tqdm(rows, total=len(clips), desc="signal statistics", unit="clip", leave=False)
            pd.DataFrame(filter(None, rows), columns=columns).to_csv(partial, index=False)
    return pd.read_csv(path, dtype={"fname": str}, keep_default_na=False, float_precision="round_trip")


def silence(clips: pd.DataFrame, measured: pd.DataFrame, threshold_db: float) -> pd.DataFrame:
    """Clips with lead_s, trail_s, inner_s and active_s at one threshold.

    Parameters
    ----------
    clips : table of `lib.data.datasets`
    measured : from `measure`
    threshold_db : one of the measured thresholds
    """
    names = {f"{part}_{threshold_db:g}_s": f"{part}_s" for part in ("lead", "trail", "inner")}
    table = clips.merge(measured[["fname", *names]].rename(columns=names), on="fname")
    return table.assign(active_s=table["duration_s"] - table[["lead_s", "trail_s", "inner_s"]].sum(axis=1))


def trimming(clips: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """What trimming would remove, a row for each subset and threshold.

    Returns
    -------
    subset, threshold_db, ends (share of the seconds removed by trimming both ends), all (share with inner silence too),
    emptied (clips of which less than LEFT_S is left without all silence)
    """
    rows = []
    for threshold in sorted(float(name[5:-2]) for name in measured if name.startswith("lead_")):
        for subset, table in silence(clips, measured, threshold).groupby("subset"):
            total_s, ends_s = table["duration_s"].sum(), (table["lead_s"] + table["trail_s"]).sum()
            emptied = int(((table["active_s"] < LEFT_S) & (table["duration_s"] >= LEFT_S)).sum())
            rows.append((subset, threshold, ends_s / total_s, (ends_s + table["inner_s"].sum()) / total_s, emptied))
    return pd.DataFrame(rows, columns=["subset", "threshold_db", "ends", "all", "emptied"])


def spectra(store: Cache, fnames: pd.Series) -> np.ndarray:
    """Long-term average log-mel spectrum of each clip: mean power over its frames, float32 (n_clips, n_mels), dB."""
    result = np.zeros((len(fnames), store.logmel.n_mels), np.float32)
    for i, clip in enumerate(store.rows(fnames).itertuples()):
        frames = store.frames(clip)[:, 0].double()
        result[i] = 10 * (10 ** (frames / 10)).mean(dim=0).log10()
    return result


def medians(clips: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Medians of level and spectrum by subset, and the number of its clips (n): the acoustic mismatch in numbers.

    `full_scale` is the share of clips with a sample at full scale.
    """
    names = ["peak_db", "rms_db", "loudness_db", "centroid_hz", "rolloff_hz", "band_limit_hz"]
    rows = clips[["fname", "subset"]].merge(measured, on="fname")
    groups = rows.assign(full_scale=rows["clipped"] > 0).groupby("subset")
    values = groups[names].median().round(1)
    return values.assign(full_scale=groups["full_scale"].mean().round(3), n=groups.size()).reset_index()


def describe_sound(clips: pd.DataFrame, measured: pd.DataFrame, silence_db: float) -> tuple[str, str]:
    """A sentence on silence and one on sound, by subset, with the numbers of `trimming` and `medians`."""
    if measured.empty:
        return ("There is no audio: silence, level and spectrum can't be shown.",) * 2
    trimmed = trimming(clips, measured)
    here = trimmed[trimmed["threshold_db"] == silence_db].set_index("subset")["ends"]
    curated = silence(clips, measured, silence_db).query("subset == 'curated'").explode("labels").groupby("labels")
    share = 1 - curated["active_s"].sum() / curated["duration_s"].sum()
    ends = ", ".join(f"{part:.0%} of the {name} seconds" for name, part in here.items())
    emptied = ", ".join(f"{n} at {db:g} dB" for db, n in trimmed.groupby("threshold_db")["emptied"].sum().items())
    levels = "; ".join(
        f"{row.subset} {row.loudness_db:.0f} dB(A), 95 % of the power below {row.rolloff_hz / 1000:.1f} kHz, nothing "
        f"above {row.band_limit_hz / 1000:.1f} kHz, {row.full_scale:.0%} touch full scale"
        for row in medians(clips, measured).itertuples()
    )
    return (
        f"Trimming both ends {silence_db:g} dB below the peak removes {ends}. The class with most silence is "
        f"{share.idxmax()}: {share.max():.0%} of its seconds, with inner pauses. Cutting all silence would leave less "
        f"than {LEFT_S:g} s of this many clips: {emptied}."
    ), f"Median clips: {levels}."


def traits(clips: pd.DataFrame, measured: pd.DataFrame, silence_db: float) -> pd.DataFrame:
    """Features that tell subsets apart, index fname.

    Parameters
    ----------
    clips : table of `lib.data.datasets`
    measured : from `measure`
    silence_db : dB below the peak, one of the measured thresholds
    """
    table = silence(clips, measured, silence_db).merge(measured, on="fname").set_index("fname")
    shares = {part: table[f"{part}_s"] / table["duration_s"] for part in ("lead", "trail", "inner")}
    return table[[*LENGTH, *SOUND]].assign(**shares)


def tell_apart(
    x: pd.DataFrame, y: np.ndarray, groups: np.ndarray, seed: int, n_shuffles: int = N_SHUFFLES
) -> tuple[dict, pd.DataFrame]:
    """Out-of-fold AUC of a random forest, and the features that it uses.

    Parameters
    ----------
    x : (n, n_features)
    y : (n,) of 0 and 1
    groups : (n,), never split
    seed : of folds, forest and resampling
    n_shuffles : shuffles of each feature, averaged; 0: drop is NaN

    Returns
    -------
    result : auc, auc_low, auc_high (95 % interval over groups), n
    tells : feature, alone (AUC of the feature by itself; under .5: the second subset has less of it), drop (fall of the
        AUC of a held-out fold when the feature is shuffled in it, mean over folds)

    Raises
    ------
    ValueError
        One side of y has fewer groups than there are folds.
    """
    y, groups = np.asarray(y, int), np.asarray(groups)
    if min(len(set(groups[y == side])) for side in (0, 1)) < N_FOLDS:
        raise ValueError(f"y has a side with fewer than {N_FOLDS} groups, too few for {N_FOLDS} folds. Add clips.")
    values, score, drops = x.to_numpy(float), np.zeros(len(y)), []
    for train, held_out in StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=seed).split(values, y, groups):
        forest = RandomForestClassifier(N_TREES, min_samples_leaf=3, class_weight="balanced", random_state=seed)
        forest.fit(values[train], y[train])
        score[held_out] = _probability(forest, values[held_out])
        if n_shuffles:
            shuffled = permutation_importance(
                forest, values[held_out], y[held_out], scoring=_auc_of, n_repeats=n_shuffles, random_state=seed
            )
            drops.append(shuffled.importances_mean)
    auc = _auc(y, score)
    names, numbers = np.unique(groups, return_inverse=True)
    draws, rng = [], np.random.default_rng(seed)
    for _ in range(N_RESAMPLES):
        times = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))[numbers]
        drawn = np.repeat(np.arange(len(y)), times)
        if 0 < y[drawn].sum() < len(drawn):
            draws.append(_auc(y[drawn], score[drawn]))
    low, high = np.quantile(draws, (0.025, 0.975))
    alone, drop = [_auc(y, column) for column in values.T], np.mean(drops, axis=0) if drops else np.nan
    tells = pd.DataFrame({"feature": x.columns, "alone": alone, "drop": drop})
    tells = tells.sort_values("drop", ascending=False, ignore_index=True)
    return {"auc": auc, "auc_low": low, "auc_high": high, "n": len(y)}, tells


def _auc_of(forest: RandomForestClassifier, x: np.ndarray, y: np.ndarray) -> float:
    return _auc(y, _probability(forest, x))


def _probability(forest: RandomForestClassifier, x: np.ndarray) -> np.ndarray:
    """Of class 1: what `predict_proba` gives, several times as fast, since that prepares a job for each tree."""
    x = x.astype(np.float32)
    return sum(tree.tree_.predict(x)[:, 1] for tree in forest.estimators_) / len(forest.estimators_)


def _auc(y: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve: the value of scikit-learn's `roc_auc_score`, without its slow checks of the input.

    y : (n,) of 0 and 1; score : (n,). Source: Mann and Whitney 1947, its U over the number of pairs.
    """
    n_upper, n_lower = np.sum(y == 1), np.sum(y == 0)
    below = rankdata(score)[y == 1].sum() - n_upper * (n_upper + 1) / 2  # a tie counts half
    return float(below / (n_upper * n_lower))


def domain_gap(x: pd.DataFrame, clips: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`tell_apart` for every two subsets, with and without the length of the clips, beside random halves of one subset.

    Parameters
    ----------
    x : from `traits`, index fname
    clips : DataFrame with fname, subset, group

    Returns
    -------
    gaps : pair ("curated | noisy"), by ("all" | "sound": without length), auc, auc_low, auc_high, n. The last row, pair
        "chance", is the baseline: mean, least and greatest AUC of N_HALVES random halves of the curated clips
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
        result, features = tell_apart(x.loc[rows["fname"], columns], rows["subset"] == b, rows["group"], seed)
        gaps.append({"pair": f"{a} | {b}", "by": by, **result})
        tells.append(features.assign(pair=f"{a} | {b}", by=by))
    if "curated" in names:
        rows = clips[clips["subset"] == "curated"]
        groups, aucs = rows["group"].unique(), []
        for turn in range(N_HALVES):
            half = np.random.default_rng([seed, turn]).permutation(groups)[: len(groups) // 2]
            result, _ = tell_apart(x.loc[rows["fname"]], rows["group"].isin(half), rows["group"], seed, 0)
            aucs.append(result["auc"])
        chance = {"auc": np.mean(aucs), "auc_low": min(aucs), "auc_high": max(aucs), "n": len(rows)}
        gaps.append({"pair": "chance", "by": "all", **chance})
    gaps = pd.DataFrame(gaps, columns=["pair", "by", "auc", "auc_low", "auc_high", "n"])
    columns = ["pair", "by", "feature", "alone", "drop"]
    return gaps, pd.concat(tells, ignore_index=True)[columns] if tells else pd.DataFrame(columns=columns)


def describe_gap(gaps: pd.DataFrame, tells: pd.DataFrame) -> str:
    """The domain gap in a sentence: AUC of each pair by all features and without length, beside chance."""
    parts = []
    for pair, rows in gaps[gaps["pair"] != "chance"].groupby("pair", sort=False):
        every, sound = rows.set_index("by").loc[["all", "sound"]].itertuples()
        best = tells[(tells["pair"] == pair) & (tells["by"] == "sound") & (tells["drop"] > NOTICED)]["feature"].head(3)
        by = f"mostly by {', '.join(best)}" if len(best) else "no single feature tells"
        parts.append(
            f"{pair.replace(' | ', ' against ')}: AUC {every.auc:.2f} ({every.auc_low:.2f} to {every.auc_high:.2f}, "
            f"n = {every.n}), without length {sound.auc:.2f} ({by if sound.auc_low > 0.5 else 'not told apart'})"
        )
    if not parts:
        return "Fewer than two subsets with audio: no domain gap to measure."
    parts += [
        f"random halves of the curated clips: {row.auc_low:.2f} to {row.auc_high:.2f}"
        for row in gaps[gaps["pair"] == "chance"].itertuples()
    ]
    return f"Domain gap, by a small model on simple statistics of the clips: {'; '.join(parts)}."


def _spectrum(samples: np.ndarray) -> np.ndarray:
    """Mean power in each frequency bin, (N_FFT // 2 + 1,); its sum is about the mean square of the samples."""
    samples = np.pad(samples, (0, max(0, N_FFT - len(samples))))
    window = np.hanning(N_FFT + 1)[:-1]
    power = np.zeros(N_FFT // 2 + 1)
    frames = np.lib.stride_tricks.sliding_window_view(samples, N_FFT)[:: N_FFT // 2]
    for block in np.array_split(frames, max(1, len(frames) // 256)):  # limits the memory for a long clip
        power += np.square(np.abs(np.fft.rfft(block * window))).sum(axis=0)
    power[1:-1] *= 2
    return power / (len(frames) * N_FFT * np.square(window).sum())


def _a_weight(hz: np.ndarray) -> np.ndarray:
    """A-weighting as a factor of power; 1 at 1 kHz."""

    def amplitude(f: np.ndarray) -> np.ndarray:
        f2 = np.square(f, dtype=np.float64)
        poles = (f2 + 20.6**2) * np.sqrt((f2 + 107.7**2) * (f2 + 737.9**2)) * (f2 + 12194**2)
        return 12194**2 * f2**2 / poles

    return np.square(amplitude(hz) / amplitude(np.array(1000.0)))


def _db(power: float) -> float:
    """dB re 1, at least -120, so that silence has a number too."""
    return float(10 * np.log10(max(power, 1e-12)))
