"""Why a way from windows to clips wins or loses: experiments beside the comparison of 06.

Conventions
-----------
As in `nested`. What reads the reported fold to show a leak says so, and nothing is chosen by it.

Used in: 06.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from lib.clips import nested, pooling
from lib.clips.nested import BASE_POOLING, Design, Reader, Readout
from lib.evaluation import comparisons, metrics
from lib.evaluation.window_scores import WindowScores
from lib.sound import windows
from lib.sound.cache import Cache
from lib.training import models

__all__ = [
    "by_length",
    "changed",
    "learning_curve",
    "picked",
    "random_windows",
    "rescored",
    "selection",
    "shift",
    "silenced",
    "silent_example",
    "typical",
]

SHARES = (0.25, 0.5)  # of the training groups
WRITEUP = {"tries": 3, "n": 990, "gain": 0.04}  # mean, geometric mean and stage 2 on its fold; .67 to .71, then gone


def shift(design: Design, stage2: dict[str, dict[int, Readout]]) -> pd.DataFrame:
    """Does stage 2 lose its gain when it is fed other scores than it was trained on? Rows: kind x what it is fed.

    Fed with: `one model`, the scores of a pair model, each a seed, as in training; `averaged after`, the same, and what
    stage 2 says is averaged over the models; `averaged before`, stage 2 reads the average of the models' windows;
    `larger model`, windows of without_g, which saw a fold more. The arithmetic mean is fed the same. Levels are by Holm
    over the models that are fed alike; verdicts are "screened", as the window models have one seed.

    Parameters
    ----------
    stage2 : kind -> outer fold -> readout, from `nested.fit_readouts`
    """
    fed = {
        "one model": [lambda g, i=i: _nth_model(design.reported(g), i) for i in range(len(design.outer_folds) - 1)],
        "averaged after": [design.reported],
        "averaged before": [lambda g: nested.averaged(design.reported(g))],
        "larger model": [design.single.in_fold],
    }
    rows, targets, mean = [], design.targets.to_numpy(), dict.fromkeys(design.outer_folds, Readout(BASE_POOLING))
    for name, sources in fed.items():  # the sources are members of every seed of stage 2
        base = np.stack([nested.read_outer(design, mean, source) for source in sources], axis=1)
        read = {
            kind: np.stack([nested.read_outer(design, by_fold, source) for source in sources], axis=1)
            for kind, by_fold in stage2.items()
        }
        pairs = {kind: (np.repeat(base, len(scores), axis=0), scores) for kind, scores in read.items()}
        of_mean = np.mean([metrics.lwlrap(targets, s) for s in base[0]])
        for row in metrics.compare_each(targets, pairs, design.groups):
            reached = np.mean([metrics.lwlrap(targets, s) for some in read[row["variant"]] for s in some])
            rows.append({"model": row.pop("variant"), "fed": name, "mean": of_mean, "stage2": reached, **row})
    return comparisons.screened(pd.DataFrame(rows))


def selection(design: Design, stage2: dict[str, np.ndarray], honest: np.ndarray, base: np.ndarray) -> pd.DataFrame:
    """What picking the model on the fold that is reported pretends: its gain over `base` by fold.

    `picked there`: the best of all models and seeds on the outer fold itself (a leak, shown for its size and used for
    nothing); `chosen elsewhere`: `honest`, the model that was best on the training folds, the mean over its seeds.

    Parameters
    ----------
    stage2 : kind -> scores (n_seeds, n_clips, n_classes)

    Returns
    -------
    outer, metric (hit_rate or lwlrap), chosen elsewhere, picked there, by chance (what the best of as many models would
    gain if all were as good as `base`), tries (models and seeds), n (clips), spread (`metrics.spread` of the models)
    """
    rows, targets = [], design.targets.to_numpy()
    every = np.concatenate(list(stage2.values()))
    for outer in design.outer_folds:
        here = (design.clips["fold"] == outer).to_numpy()
        errors = metrics.spread(targets[here], every[:, here], design.groups[here])
        for metric in (metrics.hit_rate, metrics.lwlrap):
            start = metric(targets[here], base[0, here])
            elsewhere = np.mean([metric(targets[here], s[here]) for s in honest]) - start
            there = max(metric(targets[here], s[here]) for s in every) - start
            row = {"outer": outer, "metric": metric.__name__, "chosen elsewhere": elsewhere, "picked there": there}
            error = errors[metric.__name__]
            row |= {"by chance": error * metrics.expected_best(len(every)), "tries": len(every), "n": int(here.sum())}
            rows.append(row | {"spread": error})
    return pd.DataFrame(rows)


def picked(selection: pd.DataFrame) -> str:
    """What picking on the reported fold pretends, and what chance alone gives here and in the write-up's own case."""
    found = selection[selection["metric"] == "hit_rate"].mean(numeric_only=True)
    if found["tries"] < 2:
        return "One model of one seed: nothing was picked."
    elsewhere = (found["spread"] * np.sqrt(found["n"] / WRITEUP["n"])) * metrics.expected_best(WRITEUP["tries"])
    told = (
        f"Picked on the fold that reports it, the best of {found['tries']:.0f} models and seeds gains "
        f"{found['picked there']:+.3f} in hit rate on {found['n']:.0f} clips (mean of the folds); as many equally good "
        f"ones would gain {found['by chance']:+.3f} by chance. Chosen on the other folds, it gains "
        f"{found['chosen elsewhere']:+.3f}. In the write-up's case, the best of {WRITEUP['tries']} on some "
        f"{WRITEUP['n']} clips, chance would give {elsewhere:+.3f}; a gain of {WRITEUP['gain']:+.3f} vanished there"
    )
    small = elsewhere < WRITEUP["gain"] / 2
    return told + (": picking does not explain it, and what does is not settled." if small else ".")


def learning_curve(
    design: Design, reader: Reader, kind: str, full: np.ndarray, seeds: list[int]
) -> dict[str, np.ndarray]:
    """The model trained on a part of the training groups: share (as text) -> scores (n_seeds, n_clips, n_classes).

    Parameters
    ----------
    full : its scores when trained on all, the share 1
    """
    scores = {}
    for share in SHARES:
        by_fold = {}
        for outer in design.outer_folds:
            some = {seed: _some_groups(design, design.training(outer), share, seed) for seed in seeds}
            fits = [reader.fit(design, kind, w, outer, seed, f"fit {kind} on {share:g}") for seed, w in some.items()]
            by_fold[outer] = Readout(kind, models=tuple(fits), loss=design.loss)
        scores[f"{share:g}"] = nested.read_outer(design, by_fold)
    return {**scores, "1": full}


def rescored(design: Design, cache: Cache) -> tuple[WindowScores, WindowScores]:
    """Out-of-fold windows at hops of a quarter window, and one silent window a clip, by the models `without_f`.

    What is stored is taken where its hop is a quarter of a window; else the weights score anew.
    """
    fine, silent = [], []
    cut = replace(windows.Windows(**design.sidecar["windows"]), hop_s=design.window_s / 4)
    width = cut.n_frames(cache.logmel)
    for name, stored in design.single.by_model():
        model, sidecar = models.load(design.variant / name / "weights.safetensors")
        model.prepare(precision=sidecar["precision"])
        clips = cache.rows(sorted(stored.table["fname"].unique()))
        table = windows.rolling(cache, clips, cut)
        known = np.isclose(design.hop_s, cut.hop_s)
        fine.append(stored if known else _score(model, cache, table, width, name, design))
        empty = clips.assign(start_frame=clips["n_frames"], window_start_s=0.0)  # nothing but padding
        silent.append(_score(model, cache, empty, width, name, design))
    return WindowScores.join(fine), WindowScores.join(silent)


def random_windows(fine: WindowScores, n_draws: int = 10) -> dict[str, np.ndarray]:
    """Arithmetic means of 1, 2 and 5 random windows (n_draws times, as seeds) and of rolling windows at three hops."""
    ordered = fine.where(np.lexsort((fine.table["window_start_s"], fine.table["fname"])))
    at = ordered.table.groupby("fname").cumcount()
    last = at == ordered.table.groupby("fname")["fname"].transform("size") - 1
    scores = {
        f"hop {name} window": chosen.pool_mean()[1][None]
        for name, step in (("1/4", 1), ("1/2", 2), ("1", 4))
        for chosen in [ordered.where((at % step == 0) | last)]
    }
    for n in (5, 2, 1):
        draws = []
        for seed in range(n_draws):
            order = np.random.default_rng([seed, n]).permutation(len(ordered.table))
            first = ordered.table.iloc[order].groupby("fname").cumcount().to_numpy() < n
            draws.append(ordered.where(order[first]).pool_mean()[1])
        scores[f"{n} random"] = np.stack(draws)
    return scores


def silenced(
    design: Design, silent: WindowScores, methods: tuple[str, ...], counts: tuple[int, ...] = (0, 1, 2, 4)
) -> pd.DataFrame:
    """lwlrap and hit rate when silent windows are put beside a clip's own: method, silent, lwlrap, hit_rate."""
    rows, targets = [], design.targets.to_numpy()
    for n in counts:
        fnames = np.concatenate([design.single.table["fname"], *[silent.table["fname"]] * n])
        scores = np.concatenate([design.single.scores, *[silent.scores] * n])
        for method in methods:
            _, found = pooling.pool(method, fnames, scores)
            rows.append({"method": method, "silent": n, **metrics.point_scores(targets, found)})
    return pd.DataFrame(rows)


def silent_example(design: Design, silent: WindowScores) -> tuple[pd.DataFrame, str]:
    """The clearest clip of 4 to 12 windows (or the nearest to that), with a silent one put at its end.

    Returns
    -------
    A row a window: window (from 1), score (of the label), silent; and the label
    """
    table = design.single.table.assign(row=np.arange(len(design.single.table)))
    found = {}
    for fname, mine in table.sort_values("window_start_s").groupby("fname"):
        label = design.classes.index(design.clips.loc[fname, "labels"][0])
        scores = design.single.scores[mine["row"], label]
        found[fname] = (4 <= len(scores) <= 12, min(len(scores), 4), scores.mean()), scores, label
    fname = max(found, key=lambda name: found[name][0])
    _, scores, label = found[fname]
    quiet = silent.scores[(silent.table["fname"] == fname).to_numpy(), label]
    window = np.arange(len(scores) + 1) + 1
    shown = {"window": window, "score": np.concatenate([scores, quiet]), "silent": window > len(scores)}
    return pd.DataFrame(shown), design.classes[label]


def by_length(design: Design, scores: dict[str, np.ndarray]) -> pd.DataFrame:
    """lwlrap of each method by the number of a clip's windows: one, and the shorter and longer half of the others."""
    n = design.single.table.groupby("fname").size().reindex(design.clips.index).to_numpy()
    middle = int(np.median(n[n > 1])) if (n > 1).any() else 1
    bins = {"1": n == 1, f"2 to {middle}": (n > 1) & (n <= middle), f"more than {middle}": n > middle}
    rows = []
    for name, here in bins.items():
        if here.any():
            targets = design.targets.to_numpy()[here]
            reached = {method: np.mean([metrics.lwlrap(targets, s[here]) for s in v]) for method, v in scores.items()}
            rows.append({"windows": name, "n": int(here.sum()), **reached})
    return pd.DataFrame(rows)


def changed(design: Design, base: np.ndarray, other: np.ndarray) -> pd.DataFrame:
    """Clips that the second rescues (its best class is a label, the first's is not) or breaks.

    Parameters
    ----------
    base, other : (n_clips, n_classes)

    Returns
    -------
    fname, fold, labels, base, other (best classes), margin (how far the label's score moved against its best rival; the
    largest first), wrong (the best class that is no label), change (rescued or broken)
    """
    truth, names = design.targets.to_numpy() == 1, np.array(design.classes)
    margins = [np.where(truth, s, -1).max(1) - np.where(truth, -1, s).max(1) for s in (base, other)]
    table = design.clips.reset_index()[["fname", "fold", "labels"]].assign(
        base=names[base.argmax(1)], other=names[other.argmax(1)], margin=np.abs(margins[1] - margins[0])
    )
    hit = [margin > 0 for margin in margins]
    table["wrong"] = np.where(hit[1], table["base"], table["other"])
    table["change"] = np.select([hit[1] & ~hit[0], hit[0] & ~hit[1]], ["rescued", "broken"], "")
    return table[table["change"] != ""].sort_values(["margin", "fname"], ascending=[False, True], ignore_index=True)


def typical(design: Design) -> list[str]:
    """Clips to show: for each class in turn the longest that has the label and is taken for one of its labels."""
    clips, scores = nested.pooled(design.single, BASE_POOLING)
    targets = design.targets.loc[clips]
    right = targets.to_numpy()[np.arange(len(clips)), scores.argmax(1)] == 1
    length = design.single.table.groupby("fname").size().loc[clips].to_numpy()
    order = np.lexsort((-length, ~right))  # right ones first, the longest of them before the others
    shown = []
    for name in design.classes:
        mine = [clips[i] for i in order if targets[name].iloc[i] and clips[i] not in shown]
        shown += mine[:1]
    return shown


def _nth_model(scored: WindowScores, i: int) -> WindowScores:
    return scored.where(scored.table["model"] == sorted(scored.table["model"].unique())[i])


def _some_groups(design: Design, training: WindowScores, share: float, seed: int) -> WindowScores:
    """The windows of a share of the groups, drawn at random."""
    group = design.clips["group"].reindex(training.table["fname"]).to_numpy(str)
    names = np.unique(group)
    drawn = np.random.default_rng(seed).permutation(names)[: max(2, round(share * len(names)))]
    return training.where(np.isin(group, drawn))


def _score(
    model: models.WindowModel, cache: Cache, table: pd.DataFrame, width: int, name: str, design: Design
) -> WindowScores:
    scores = models.activate(models.score([model], cache, table, width)[0], design.loss)
    fold = design.clips["fold"].reindex(table["fname"]).to_numpy()
    return WindowScores(table[["fname", "window_start_s"]].assign(fold=fold, model=name), scores)
