"""Side experiments that explain scores: of the readouts in 06, and of the rules of 05 where the truth is known.

Conventions
-----------
As in `nested` and `curation`. An experiment that reads the reported fold to show a leak states it, and nothing is
chosen by it. Known true labels measure rules, and choose none.
A window holds a label if at least HOLDS_S of a sound of that class is within it. A noisy label is wrong if the class is
not in the clip; a rule flags the label if it keeps no window of the clip for it.
precision : share of the kept pairs that hold their label (of the flagged labels that are wrong)
recall    : share of the pairs that hold their label that are kept (of the wrong labels that are flagged). Silent
            windows count too.

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

__all__ = ["by_length", "changed", "holds", "learning_curve", "poolings", "random_windows", "rates", "rescored"]
__all__ += ["selection", "selection_conclusion", "shift", "silence_kept", "silenced", "silent_example"]
__all__ += ["truth_conclusion", "truth_curves", "typical", "wrong"]

HOLDS_S = 0.1  # s
SHARES = (0.25, 0.5)  # of the training groups
WRITEUP = {"tries": 3, "n": 990, "gain": 0.04}  # mean, geometric mean, stage 2: .67 to .71, then gone


def shift(design: Design, stage2: dict[str, dict[int, Readout]]) -> pd.DataFrame:
    """Does stage 2 lose its gain when its input comes from other models than in training?

    Input, always compared with the arithmetic mean of the same input:
    one model       : scores of one pair model, as in training; each pair model counts as a member
    averaged after  : stage 2 reads each pair model's windows, and its clip scores are averaged
    averaged before : stage 2 reads the windows averaged over the pair models
    larger model    : windows of without_g, which was trained on one fold more
    Holm corrects over the stage-2 models with the same input. All verdicts are "screened": window models have one seed.

    Parameters
    ----------
    stage2 : kind -> outer fold -> readout, from `nested.fit_readouts`

    Returns
    -------
    model (kind), fed (input), mean and stage2 (lwlrap), then as `metrics.compare_each`
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
    """The false gain of picking a model on the fold that reports it, in gain over `base` for each fold.

    Parameters
    ----------
    stage2 : kind -> scores (n_seeds, n_clips, n_classes)
    honest : scores (n_seeds, n_clips, n_classes) of the model that was best on the training folds
    base : (1, n_clips, n_classes)

    Returns
    -------
    outer, metric (hit_rate or lwlrap); chosen elsewhere: gain of `honest`, mean over seeds; picked there: gain of the
    best of all models and seeds on the outer fold itself (a leak, shown for its size and used for nothing); by chance:
    gain of the best of as many models if all were as good as `base`; tries (models times seeds), n (clips), spread
    (`metrics.spread` of the models)
    """
    rows, targets = [], design.targets.to_numpy()
    scores = np.concatenate(list(stage2.values()))
    for outer in design.outer_folds:
        here = (design.clips["fold"] == outer).to_numpy()
        errors = metrics.spread(targets[here], scores[:, here], design.groups[here])
        for metric in (metrics.hit_rate, metrics.lwlrap):
            base_score = metric(targets[here], base[0, here])
            elsewhere = np.mean([metric(targets[here], s[here]) for s in honest]) - base_score
            there = max(metric(targets[here], s[here]) for s in scores) - base_score
            row = {"outer": outer, "metric": metric.__name__, "chosen elsewhere": elsewhere, "picked there": there}
            error = errors[metric.__name__]
            row |= {"by chance": error * metrics.expected_best(len(scores)), "tries": len(scores), "n": int(here.sum())}
            rows.append(row | {"spread": error})
    return pd.DataFrame(rows)


def selection_conclusion(selection: pd.DataFrame) -> str:
    """The false gain of picking on the reported fold, beside chance, here and in the write-up's case, in sentences."""
    mean = selection[selection["metric"] == "hit_rate"].mean(numeric_only=True)
    if mean["tries"] < 2:
        return "One model of one seed: nothing was picked."
    elsewhere = (mean["spread"] * np.sqrt(mean["n"] / WRITEUP["n"])) * metrics.expected_best(WRITEUP["tries"])
    sentences = (
        f"Picked on the fold that reports it, the best of {mean['tries']:.0f} models and seeds gains "
        f"{mean['picked there']:+.3f} in hit rate on {mean['n']:.0f} clips (mean of the folds); as many equally good "
        f"ones would gain {mean['by chance']:+.3f} by chance. Chosen on the other folds, it gains "
        f"{mean['chosen elsewhere']:+.3f}. In the write-up's case, the best of {WRITEUP['tries']} on some "
        f"{WRITEUP['n']} clips, chance would give {elsewhere:+.3f} by the spread of this run; "
        f"a gain of {WRITEUP['gain']:+.3f} vanished there"
    )
    is_small = elsewhere < WRITEUP["gain"] / 2
    return sentences + (": picking does not explain it, and what does is not settled." if is_small else ".")


def learning_curve(
    design: Design, reader: Reader, kind: str, full: np.ndarray, seeds: list[int]
) -> dict[str, np.ndarray]:
    """A stage-2 model trained on SHARES of the training groups: share (text) -> scores (n_seeds, n_clips, n_classes).

    Parameters
    ----------
    full : its scores when trained on all groups, for the share 1
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
    """Scores of the models `without_f`: of windows with a hop of a quarter window, and of one silent window a clip.

    Stored scores are used if they have that hop; else the models score the windows again.
    """
    fine, silent = [], []
    cut = replace(windows.Windows(**design.sidecar["windows"]), hop_s=design.window_s / 4)
    width = cut.n_frames(cache.logmel)
    for name, stored in design.single.by_model():
        model, sidecar = models.load(design.variant / name / "weights.safetensors")
        model.prepare(precision=sidecar["precision"])
        clips = cache.rows(sorted(stored.table["fname"].unique()))
        table = windows.rolling(cache, clips, cut)
        is_stored = np.isclose(design.hop_s, cut.hop_s)
        fine.append(stored if is_stored else _score(model, cache, table, width, name, design))
        padding = clips.assign(start_frame=clips["n_frames"], window_start_s=0.0)  # nothing but padding
        silent.append(_score(model, cache, padding, width, name, design))
    return WindowScores.join(fine), WindowScores.join(silent)


def poolings(designs: list[Design]) -> dict[str, np.ndarray]:
    """Clip scores by every pooling without a parameter, read from the models `without_f` of each seed.

    Nothing is chosen, so this takes no pair models.

    Parameters
    ----------
    designs : of one recipe, one a seed of the window models, `nested.with_energy`

    Returns
    -------
    name -> (n_seeds, n_clips, n_classes)
    """
    names, clips = [name for name, made in pooling.POOLINGS.items() if not made.grid], designs[0].clips.index
    return {name: np.stack([nested.pooled(d.single, name).loc[clips] for d in designs]) for name in names}


def random_windows(fine: list[WindowScores], n_draws: int = 10) -> dict[str, np.ndarray]:
    """Clip scores from the mean of 1, 2 or 5 random windows, and of rolling windows at three hops.

    Parameters
    ----------
    fine : as from `rescored`, one a seed of the window models
    n_draws : of random windows; they are members of a seed, see `metrics`

    Returns
    -------
    name -> (n_seeds, n_draws or 1, n_clips, n_classes)
    """
    drawn = [_random_windows(of_seed, n_draws) for of_seed in fine]
    return {name: np.stack([one[name] for one in drawn]) for name in drawn[0]}


def silenced(
    design: Design, silent: WindowScores, methods: tuple[str, ...], counts: tuple[int, ...] = (0, 1, 2, 4)
) -> pd.DataFrame:
    """lwlrap and hit rate when silent windows are added to every clip: method, silent (how many), lwlrap, hit_rate."""
    rows, targets = [], design.targets.to_numpy()
    for n in counts:
        padded = WindowScores.join([design.single, *[silent] * n])
        for method in methods:
            _, pooled = pooling.pool(method, padded.table["fname"], padded.scores)
            rows.append({"method": method, "silent": n, **metrics.point_scores(targets, pooled)})
    return pd.DataFrame(rows)


def silent_example(design: Design, silent: WindowScores) -> tuple[pd.DataFrame, str]:
    """The clip of 4 to 12 windows (or nearly so) whose label scores highest, with a silent window added at its end.

    Returns
    -------
    A row a window: window (from 1), score (of the label), silent (bool); and the label
    """
    table = design.single.table.assign(row=np.arange(len(design.single.table)))
    candidates = []
    for fname, rows in table.sort_values("window_start_s").groupby("fname"):
        label = design.classes.index(design.clips.loc[fname, "labels"][0])
        scores = design.single.scores[rows["row"], label]
        candidates.append(((4 <= len(scores) <= 12, min(len(scores), 4), scores.mean()), fname, scores, label))
    _, fname, scores, label = max(candidates, key=lambda candidate: candidate[0])
    quiet = silent.scores[(silent.table["fname"] == fname).to_numpy(), label]
    window = np.arange(len(scores) + 1) + 1
    shown = {"window": window, "score": np.concatenate([scores, quiet]), "silent": window > len(scores)}
    return pd.DataFrame(shown), design.classes[label]


def by_length(design: Design, scores: dict[str, np.ndarray]) -> pd.DataFrame:
    """lwlrap of each method for clips of one window, and for the shorter and longer half of the others.

    Returns
    -------
    windows (range), n (clips), then a column a method
    """
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
    """Clips that `other` rescues (its best class is a label, that of `base` is not) or breaks (the reverse).

    Parameters
    ----------
    base, other : scores (n_clips, n_classes)

    Returns
    -------
    fname, fold, labels, base, other (best classes), margin (change of the label's lead over the best other class;
    largest first), wrong (the best class that is not a label), change (rescued or broken)
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
    """Clips to show: for each class the longest clip with that label whose best class is a label.

    Returns
    -------
    fnames; a class without such a clip gets another clip with its label, or none
    """
    scores = nested.pooled(design.single, BASE_POOLING)
    clips, targets = scores.index, design.targets.loc[scores.index]
    is_hit = targets.to_numpy()[np.arange(len(clips)), scores.to_numpy().argmax(1)] == 1
    length = design.single.table.groupby("fname").size().loc[clips].to_numpy()
    order = np.lexsort((-length, ~is_hit))  # hits first, the longest of them before the others
    shown = []
    for name in design.classes:
        clips_of_class = [clips[i] for i in order if targets[name].iloc[i] and clips[i] not in shown]
        shown += clips_of_class[:1]
    return shown


# --- rules of curation by known truth --------------------------------------------------------------------------------


def holds(truth: Truth, evidence: Evidence) -> np.ndarray:
    """Which pairs of window and label hold the label by the known truth, bool (n_pairs,)."""
    table = evidence.pairs.join(evidence.windows[["window_start_s", "window_end_s"]], on="window")
    table = table.join(evidence.clips["fname"], on="clip").rename_axis("pair").reset_index()
    table["class"] = np.array(evidence.classes, dtype=object)[table["column"]]
    table = table.merge(truth.spans, on=["fname", "class"])
    overlap_s = table[["window_end_s", "end_s"]].min(axis=1) - table[["window_start_s", "start_s"]].max(axis=1)
    result = np.zeros(len(evidence.pairs), bool)
    result[table["pair"][overlap_s >= HOLDS_S]] = True
    return result


def wrong(truth: Truth, clips: pd.DataFrame, classes: tuple[str, ...]) -> np.ndarray:
    """Which labels of the clips are wrong, bool (n_clips, n_classes)."""
    true = clips.assign(labels=[truth.labels.get(fname, ()) for fname in clips["fname"]])
    return (datasets.targets(clips, classes) == 1) & (datasets.targets(true, classes) == 0)


def rates(truth: Truth, evidences: Iterable[Evidence], rule: str) -> pd.DataFrame:
    """Precision and recall of a rule over all outer folds, for curated windows, noisy windows and flagged noisy labels.

    If the truth has no spans, clips replace windows: each counts once for each of its labels. Clips without a known
    truth are left out.

    Returns
    -------
    what (curated windows, noisy windows, noisy labels; or curated clips, noisy clips, noisy labels), rule, n_kept,
    n_true, n (all pairs, once an outer fold), precision, recall, each with _low and _high: 95 % intervals that resample
    groups
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
    """`rates` of every rule at every number of its curve; also columns name, at (the number) and default (bool)."""
    return pd.concat(
        [
            rates(truth, evidences, f"{name}_{at:g}").assign(name=name, at=at, default=at == rule.default)
            for name, rule in curation.RULES.items()
            for at in rule.curve
        ],
        ignore_index=True,
    )


def truth_conclusion(curves: pd.DataFrame, rule: str) -> str:
    """Precision and recall of a rule in a sentence, from `truth_curves`; empty for a rule that is not in them."""
    parts = []
    for row in curves[curves["rule"] == rule].itertuples():
        precision = f"{row.precision:.2f} ({row.precision_low:.2f} to {row.precision_high:.2f})"
        recall = f"{row.recall:.2f} ({row.recall_low:.2f} to {row.recall_high:.2f})"
        parts.append(f"{row.what} precision {precision}, recall {recall}, where all have {row.n_true / row.n:.2f}")
    return f" By the known truth, {rule} has: {'; '.join(parts)}." if parts else ""


def silence_kept(truth: Truth, clips: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    """Windows that are wholly in the silent start or end of a curated clip, where the truth has spans.

    Scenes are left out: their background fills the whole clip.

    Parameters
    ----------
    clips : fname, subset, labels, duration_s
    kept : as from `curation.select`

    Returns
    -------
    Rows of `kept` for all windows in silence; in none of them should the column `kept` be True
    """
    if truth.spans is None:
        return kept.head(0)
    sounds = truth.spans.groupby("fname").agg(first_s=("start_s", "min"), last_s=("end_s", "max"))
    table = kept.merge(sounds, on="fname").merge(clips[["fname", "duration_s"]], on="fname")
    curated = (table["subset"] == "curated") & ~table["labels"].str.contains("then")
    start, end = table["window_start_s"].clip(lower=0), table[["window_end_s", "duration_s"]].min(axis=1)
    return table[curated & ((end <= table["first_s"]) | (start >= table["last_s"]))]


def _random_windows(fine: WindowScores, n_draws: int) -> dict[str, np.ndarray]:
    """`random_windows` of one seed: name -> (n_draws or 1, n_clips, n_classes)."""
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
    """Pairs of window (or clip) and label, and labels of noisy clips: what, group, kept (flagged), true (wrong)."""
    pairs, ok, clips = evidence.pairs, curation.confirmed(evidence, rule), evidence.clips
    kept = np.zeros(evidence.mean.shape, bool)
    kept[pairs["clip"][ok], pairs["column"][ok]] = True
    known = clips["fname"].isin(truth.labels.index).to_numpy()[:, None]
    clip, column = np.nonzero((datasets.targets(clips, evidence.classes) == 1) & known)
    labels = clips[["group", "subset"]].iloc[clip].reset_index(drop=True)
    labels = labels.assign(kept=kept[clip, column], true=~wrong(truth, clips, evidence.classes)[clip, column])
    flags = labels[labels["subset"] == "noisy"].assign(what="noisy labels")
    flags[["kept", "true"]] = ~flags[["kept", "true"]]
    if truth.spans is None:
        return labels.assign(what=labels["subset"] + " clips"), flags
    of_pairs = clips[["group", "subset"]].iloc[pairs["clip"]].reset_index(drop=True)
    return of_pairs.assign(what=of_pairs["subset"] + " windows", kept=ok, true=holds(truth, evidence)), flags
