"""How much of each class there is: clips, seconds, windows and labels, from tables and headers alone.

Conventions
-----------
clips   : table of `lib.datasets`; clips without labels (a test subset whose truth is unknown) count nowhere here.
seconds : three ways to count a clip of several labels. every: whole for each of them; even: shared among them;
          single: only clips of one label count. NaN where there is no audio.
places  : windows of a clip that share no audio, at least one. A clip shorter than a window has one place: it shows the
          same picture in every epoch, at most shifted.
fresh   : share of the windows shown in ten epochs, one random window a clip and epoch, that hold new audio.

Used in: 01_eda.
"""

import numpy as np
import pandas as pd
from scipy.cluster import hierarchy

from lib.sound.features import LogMel
from lib.sound.windows import Windows

__all__ = ["EPOCHS", "by_class", "cardinality", "co_occurrence", "effective", "gini", "imbalance", "priors", "repeats"]

EPOCHS = 10  # over which fresh windows are counted
SHORT = 0.8  # a class with fewer clips than this share of the median class is short of them
MEASURED = ["seconds_every", "seconds_even", "seconds_single", "windows", "places", "fresh"]


def by_class(clips: pd.DataFrame, classes: tuple[str, ...], windows: Windows, logmel: LogMel) -> pd.DataFrame:
    """Clips, seconds and windows of every class, for each subset that has labels.

    Returns
    -------
    A row a subset and class, in their order: subset, class, clips, single (clips with no other label), seconds_every,
    seconds_even, seconds_single (s), windows (at hop_s), places (that share no audio), fresh (share, 0 to 1)
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
        fresh=places * (1 - (1 - 1 / places) ** EPOCHS),  # expected number of places that the draws of a clip reach
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
    """Gini coefficient: 0 where all classes have the same, near 1 where one has all. Source: Gini (1912)."""
    x = np.sort(np.asarray(amounts, float))
    n, total = len(x), x.sum()
    return float((2 * np.arange(1, n + 1) - n - 1) @ x / (n * total)) if total > 0 else float("nan")


def effective(amounts: np.ndarray) -> float:
    """Effective number of classes: exp of the entropy of their shares, from 1 to their number. Source: Hill (1973)."""
    share = np.asarray(amounts, float) / np.sum(amounts)
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum())) if len(share) else float("nan")


def imbalance(table: pd.DataFrame) -> dict[str, object]:
    """The balance of clips beside that of seconds, of curated clips.

    The pair that is compared are the classes of the longest and of the shortest mean clip, over single-label clips.

    Parameters
    ----------
    table : from `by_class`

    Returns
    -------
    Flat numbers, and what they say in a sentence
    """
    table = table[(table["subset"] == "curated") & (table["clips"] > 0)].set_index("class")
    most, fewest = table["clips"].max(), table["clips"].min()
    found = {"classes": len(table), "clips_ratio": most / fewest}
    clips = f"Clips per class are within a factor of {most / fewest:.1f} ({fewest} to {most})"
    if table["seconds_every"].isna().all():
        return {**found, "says": f"{clips}. Seconds per class can't be shown: there is no audio."}
    ways = ["single", "every", "even"]
    mean_s = (table["seconds_single"] / table["single"].where(table["single"] > 0)).dropna()
    if len(mean_s) < 2:  # hardly any clip with one label
        mean_s, ways = table["seconds_even"] / table["clips"], ways[1:]
    longest, shortest = mean_s.idxmax(), mean_s.idxmin()
    ratios = {way: table.loc[longest, f"seconds_{way}"] / table.loc[shortest, f"seconds_{way}"] for way in ways}
    even = table["seconds_even"]
    names = {"single": "over single-label clips", "every": "counting every label", "even": "by even share"}
    says = (
        f"{clips}; seconds are not that close. {longest} against {shortest}: "
        if even.max() / even.min() > 1.5 * most / fewest
        else f"{clips}, and so are the seconds. {longest} against {shortest}: "
    ) + ", ".join(f"{ratio:.1f} {names[way]}" for way, ratio in ratios.items())
    says += (
        f" (seconds over seconds). From {even.idxmax()} to {even.idxmin()}, the extremes by even share, it is "
        f"{even.max() / even.min():.1f}; Gini {gini(even):.2f}: as uneven as {effective(even):.1f} equal classes "
        f"of {len(table)}."
    )
    return {
        **found,
        "longest": longest,
        "shortest": shortest,
        **{f"ratio_{way}": ratio for way, ratio in ratios.items()},
        "ratio_extremes_even": even.max() / even.min(),
        "gini_even": gini(even),
        "effective_classes_even": effective(even),
        "says": says,
    }


def repeats(table: pd.DataFrame, windows: Windows) -> dict[str, object]:
    """How soon short classes show the same windows again, of curated clips; flat numbers and a sentence."""
    table = table[(table["subset"] == "curated") & (table["clips"] > 0)].set_index("class")
    if table["fresh"].isna().all():
        return {"says": "Windows can't be counted: there is no audio."}
    stale, fresh = table["fresh"].idxmin(), table["fresh"].idxmax()
    a, b = table.loc[stale], table.loc[fresh]
    says = (
        f"An epoch shows one window of {windows.window_s:g} s a clip. Of those that {EPOCHS} epochs show of {stale}, "
        f"{a['fresh']:.0%} hold new audio ({a['places']:.0f} windows that share no audio in {a['clips']:.0f} clips, "
        f"{a['windows']:.0f} at a hop of {windows.hop_s:g} s); of {fresh}, {b['fresh']:.0%} ({b['places']:.0f} in "
        f"{b['clips']:.0f} clips, {b['windows']:.0f} at that hop)."
    )
    return {"stalest": stale, "fresh_least": a["fresh"], "freshest": fresh, "fresh_most": b["fresh"], "says": says}


def cardinality(clips: pd.DataFrame) -> pd.DataFrame:
    """Labels a clip, a row a subset: clips, labelled, labels_per_clip (mean over labelled), several (share), most."""
    n = clips["labels"].map(len)
    rows = []
    for subset, counts in n.groupby(clips["subset"]):
        known = counts[counts > 0]
        rows.append((subset, len(counts), len(known), known.mean(), (known > 1).mean(), known.max()))
    names = ["subset", "clips", "labelled", "labels_per_clip", "several", "most"]
    return pd.DataFrame(rows, columns=names).round(3)


def priors(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, object]]:
    """Share of each class in the labels of a subset, and how far the subsets are apart.

    Parameters
    ----------
    table : from `by_class`

    Returns
    -------
    shares : index class, a column a subset, 0 to 1, each adds up to 1
    found : total variation distance between curated and each other subset (0: same, 1: disjoint), classes short of
        curated clips, and a sentence
    """
    counts = table.pivot(index="class", columns="subset", values="clips").reindex(table["class"].unique())
    shares = counts / counts.sum()
    others = [name for name in ("noisy", "test") if name in shares]
    apart = {f"priors_{name}": float((shares[name] - shares["curated"]).abs().sum() / 2) for name in others}
    short = counts.index[counts["curated"] < SHORT * counts["curated"].median()].tolist()
    told = [f"{apart[f'priors_{name}']:.0%} of the labels of {name} clips would have to change" for name in others]
    says = " and ".join(told) + " to give the class shares of the curated clips. " if told else ""
    says += f"{len(short)} of {len(counts)} classes are short of curated clips (under {SHORT:.0%} of the median)"
    says += f": {', '.join(short[:5])}{' ...' if len(short) > 5 else ''}." if short else "."
    return shares, {**apart, "classes_short_of_clips": short, "says": says}


def co_occurrence(targets: np.ndarray, classes: tuple[str, ...], n_shown: int = 40) -> pd.DataFrame:
    """Which labels come together: share of the clips of a row's class that have the column's class too.

    Parameters
    ----------
    targets : (n_clips, n_classes) of 0 and 1
    n_shown : classes in the table, those with the most company

    Returns
    -------
    Square table of shares, 0 to 1, diagonal NaN, neighbours similar (average linkage of Jaccard distances). Empty where
    no clip has two labels.
    """
    together = targets.T.astype(float) @ targets
    alone = np.diag(together).copy()
    np.fill_diagonal(together, 0)
    busy = np.argsort(-together.sum(axis=1), kind="stable")[:n_shown]
    busy = np.sort(busy[together[busy].sum(axis=1) > 0])
    if not len(busy):
        return pd.DataFrame()
    joint, n = together[np.ix_(busy, busy)], alone[busy]
    if len(busy) > 2:
        distance = 1 - joint / (n[:, None] + n - joint)
        tree = hierarchy.linkage(distance[np.triu_indices(len(busy), 1)], "average", optimal_ordering=True)
        order = hierarchy.leaves_list(tree)
        busy, joint, n = busy[order], joint[np.ix_(order, order)], n[order]
    names = [classes[i] for i in busy]
    shares = pd.DataFrame(joint / n[:, None], index=names, columns=names)
    return shares.mask(np.eye(len(names), dtype=bool))
