"""Why scores are what they are: experiments beside the comparison of 06, and the rules of 05 by known truth.

Conventions
-----------
As in `nested` and `curation`. What reads the reported fold to show a leak says so, and nothing is chosen by it; the
truth of the demo set reports on rules, and never chooses one.
A window holds a label if at least HOLDS_S of a sound of that class lies within it. A noisy label is wrong if the class
is not in the clip; a rule flags it if no window of the clip is kept for it.
precision : share of what was kept (flagged) that holds its label (is wrong); recall : share of what holds its label (is
wrong) that was kept (flagged). Silent windows count for recall as any other.

Used in: 05, 06.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from lib.clips import nested, pooling
from lib.clips.nested import BASE_POOLING, Design, Reader, Readout
from lib.data import datasets
from lib.data.demo import Truth
from lib.evaluation import comparisons, metrics
from lib.evaluation.window_scores import WindowScores
from lib.experiments import curation
from lib.experiments.curation import Evidence
from lib.sound import windows
from lib.sound.cache import Cache
from lib.training import models

__all__ = [
    "by_length",
    "changed",
    "holds",
    "learning_curve",
    "picked",
    "random_windows",
    "rates",
    "rescored",
    "selection",
    "shift",
    "silence_kept",
    "silenced",
    "silent_example",
    "truth_conclusion",
    "truth_curves",
    "typical",
    "wrong",
]

HOLDS_S = 0.1
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


# --- rules of curation by known truth --------------------------------------------------------------------------------


def holds(truth: Truth, evidence: Evidence) -> np.ndarray:
    """Which pairs of window and label are true, bool (n_pairs,)."""
    pairs = evidence.pairs
    windows = evidence.windows.iloc[pairs["window"]].reset_index(drop=True)
    table = windows[["window_start_s", "window_end_s"]].assign(
        pair=np.arange(len(pairs)), fname=evidence.clips["fname"].to_numpy()[pairs["clip"]]
    )
    table["class"] = np.array(evidence.classes, dtype=object)[pairs["column"]]
    table = table.merge(truth.spans, on=["fname", "class"])
    overlap_s = table[["window_end_s", "end_s"]].min(axis=1) - table[["window_start_s", "start_s"]].max(axis=1)
    result = np.zeros(len(pairs), bool)
    result[table["pair"][overlap_s >= HOLDS_S]] = True
    return result


def wrong(truth: Truth, clips: pd.DataFrame, classes: tuple[str, ...]) -> np.ndarray:
    """Which labels of the clips are wrong, bool (n_clips, n_classes)."""
    true = clips.assign(labels=[truth.labels.get(fname, ()) for fname in clips["fname"]])
    return (datasets.targets(clips, classes) == 1) & (datasets.targets(true, classes) == 0)


def rates(truth: Truth, evidences: Iterable[Evidence], rule: str) -> pd.DataFrame:
    """Precision and recall of one rule, over all outer folds: a row each for curated and noisy windows, and for flags.

    Where the truth has no spans, rows for curated and noisy clips replace those for windows: a clip counts once for
    each of its labels. Clips of which nothing is known count nowhere.

    Returns
    -------
    what (curated windows, noisy windows or curated clips, noisy clips; noisy labels), rule, n_kept, n_true, n (all
    pairs, once an outer fold), precision, recall, each with _low and _high: 95 % intervals that resample groups
    """
    table = pd.concat([part for evidence in evidences for part in _counts(truth, evidence, rule)], ignore_index=True)
    table["both"] = table["kept"] & table["true"]
    rows = []
    for what, part in table.groupby("what"):
        both, kept, true = part.groupby("group")[["both", "kept", "true"]].sum().to_numpy(float).T
        row = {"what": what, "rule": rule, "n_kept": int(kept.sum()), "n_true": int(true.sum()), "n": len(part)}
        rows.append(row | metrics.ratio("precision", both, kept) | metrics.ratio("recall", both, true))
    return pd.DataFrame(rows)


def truth_curves(truth: Truth, evidences: list[Evidence]) -> pd.DataFrame:
    """`rates` of every rule at every number of its curve, with the columns name, at and default (bool)."""
    return pd.concat(
        [
            rates(truth, evidences, f"{name}_{at:g}").assign(name=name, at=at, default=at == rule.default)
            for name, rule in curation.RULES.items()
            for at in rule.curve
        ],
        ignore_index=True,
    )


def truth_conclusion(curves: pd.DataFrame, rule: str) -> str:
    """What the truth says of a rule, in a sentence; `curves` from `truth_curves`. Nothing of a rule that
    they don't hold."""
    parts = []
    for row in curves[curves["rule"] == rule].itertuples():
        precision = f"{row.precision:.2f} ({row.precision_low:.2f} to {row.precision_high:.2f})"
        recall = f"{row.recall:.2f} ({row.recall_low:.2f} to {row.recall_high:.2f})"
        parts.append(f"{row.what} precision {precision}, recall {recall}, where all have {row.n_true / row.n:.2f}")
    return f" By the known truth, {rule} has: {'; '.join(parts)}." if parts else ""


def silence_kept(truth: Truth, clips: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    """Windows that were kept though they lie wholly in the silent head or tail of a curated clip, where that is known.

    Scenes have none: their background runs from end to end.

    Parameters
    ----------
    clips : fname, subset, labels, duration_s
    kept : as from `curation.select`

    Returns
    -------
    The rows of kept windows with the column `kept`, for all windows that lie in silence; none should be kept
    """
    if truth.spans is None:
        return kept.head(0)
    sounds = truth.spans.groupby("fname").agg(first_s=("start_s", "min"), last_s=("end_s", "max"))
    table = kept.merge(sounds, on="fname").merge(clips[["fname", "duration_s"]], on="fname")
    curated = (table["subset"] == "curated") & ~table["labels"].str.contains("then")
    start, end = table["window_start_s"].clip(lower=0), table[["window_end_s", "duration_s"]].min(axis=1)
    return table[curated & ((end <= table["first_s"]) | (start >= table["last_s"]))]


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


def _counts(truth: Truth, evidence: Evidence, rule: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pairs of window (or clip) and label, then labels of noisy clips: what, group, kept (flagged), true (wrong)."""
    pairs, ok, clips = evidence.pairs, curation.confirmed(evidence, rule), evidence.clips
    kept = np.zeros(evidence.mean.shape, bool)
    kept[pairs["clip"][ok], pairs["column"][ok]] = True
    known = clips["fname"].isin(truth.labels.index).to_numpy()[:, None]
    clip, column = np.nonzero((datasets.targets(clips, evidence.classes) == 1) & known)
    labels = clips[["group", "subset"]].iloc[clip].reset_index(drop=True)
    labels = labels.assign(kept=kept[clip, column], true=~wrong(truth, clips, evidence.classes)[clip, column])
    flags = labels[labels["subset"] == "noisy"].assign(what="noisy labels", kept=lambda t: ~t["kept"])
    flags["true"] = ~flags["true"]
    if truth.spans is None:
        return labels.assign(what=labels["subset"] + " clips"), flags
    of_pairs = clips[["group", "subset"]].iloc[pairs["clip"]].reset_index(drop=True)
    return of_pairs.assign(what=of_pairs["subset"] + " windows", kept=ok, true=holds(truth, evidence)), flags
