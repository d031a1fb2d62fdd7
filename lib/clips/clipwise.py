"""All readouts of a run side by side: compared with the mean, chosen among without the outer fold, and looked at.

Conventions
-----------
Clip scores are float64 (n_seeds, n_clips, n_classes), clips in the order of `Design.clips`: each is in one outer fold.
The choice among methods comes from `Design.training(g)` alone; `Design.admit` watches.

Used in: 06, 10.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from lib.clips import nested, pooling, readouts, stage2
from lib.clips.nested import Design
from lib.clips.readouts import BASE, Reader, Stage2Scores
from lib.clips.stage2 import MODELS
from lib.evaluation import comparisons, metrics
from lib.evaluation.comparisons import Comparison
from lib.files import write_json
from lib.runs.modelset import settings_digest

__all__ = [
    "best",
    "by_length",
    "candidates",
    "changed",
    "choose",
    "compare",
    "conclusion",
    "result_metrics",
    "typical",
    "write_choice",
]

BEST = "best_of_all"


def candidates(design: Design, parameters: pd.DataFrame, second: Stage2Scores) -> pd.DataFrame:
    """What a choice may go by: the table of `readouts.pool_all`, and each stage-2 model by its inner models."""
    rows = [parameters]
    for (kind, outer), (clips, found) in second.inner.items():
        reached = metrics.lwlrap(design.targets.loc[clips].to_numpy(), found)
        rows.append(pd.DataFrame({"outer": [outer], "method": [kind], "lwlrap": [reached]}))
    return pd.concat(rows, ignore_index=True)


def choose(
    design: Design, scores: dict[str, np.ndarray], table: pd.DataFrame, among: list[str] | None = None
) -> np.ndarray:
    """Scores of the method that is best on the training folds, for each outer fold: an honest "take the best".

    Parameters
    ----------
    table : from `candidates`
    among : methods; None: all

    Returns
    -------
    (n_seeds, n_clips, n_classes)
    """
    result = np.empty((max(map(len, scores.values())), *next(iter(scores.values())).shape[1:]))
    for outer, method in best(table, among).items():
        design.admit("choose a method", design.training(outer), outer)
        here = (design.clips["fold"] == outer).to_numpy()
        result[:, here] = scores[method][:, here]
    return result


def best(table: pd.DataFrame, among: list[str] | None = None) -> dict[int, str]:
    """Outer fold -> the method with the highest lwlrap in `table`, of equal ones the first; parameters as `choose`."""
    table = table if among is None else table[table["method"].isin(list(among))]
    return {outer: table.loc[row, "method"] for outer, row in table.groupby("outer")["lwlrap"].idxmax().items()}


def compare(
    design: Design,
    scores: dict[str, np.ndarray],
    base: str = BASE,
    only: np.ndarray | None = None,
    n_trainings: int = 1,
) -> Comparison:
    """All methods against `base`, best first.

    Parameters
    ----------
    scores : method -> (n_seeds, n_clips, n_classes); what has one seed stands for all of another's
    only : bool (n_clips,), clips to count; None: all
    n_trainings : seeds of the window models; those of stage 2 read the same windows and are no further ones: with fewer
        than three of either, a method is screened
    """
    keep = np.ones(len(design.clips), bool) if only is None else np.asarray(only)
    some = {name: s[:, keep] for name, s in scores.items()}
    enough = comparisons.enough(n_trainings)
    return Comparison(design.clips[keep], design.classes, some, base, enough, order="lwlrap")


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
    clips, scores = nested.pooled(design.single, BASE)
    targets = design.targets.loc[clips]
    right = targets.to_numpy()[np.arange(len(clips)), scores.argmax(1)] == 1
    length = design.single.table.groupby("fname").size().loc[clips].to_numpy()
    order = np.lexsort((-length, ~right))  # right ones first, the longest of them before the others
    shown = []
    for name in design.classes:
        mine = [clips[i] for i in order if targets[name].iloc[i] and clips[i] not in shown]
        shown += mine[:1]
    return shown


def write_choice(folder: Path, design: Design, reader: Reader, comparison: pd.DataFrame, seed: int) -> dict:
    """Write what is best for use: choice.json, and the best stage-2 model with its sidecar, trained on all clips.

    The choice goes by the scores of all outer folds, so none of them can report it. For use, each model `without_f`
    scores the windows, is pooled or read by stage 2 on its own, and the models are averaged: as it was measured.

    Parameters
    ----------
    comparison : the table of `compare`, the best first, its names in `method`

    Returns
    -------
    choice.json: kind (pooling or stage2), method, parameter (None: it has none), settings (of the models, as
    `modelset.settings_digest` names them), and lwlrap, lwlrap_low, lwlrap_high, n: what "take the best" reached nested
    """
    known = comparison[comparison["method"].isin([*pooling.POOLINGS, *MODELS])]
    method = known["method"].iloc[0]
    kind = known.loc[known["method"].isin(list(MODELS)), "method"].iloc[0]
    model = reader.fit(design, kind, design.single, None, seed, f"fit {kind} for use")
    about = {key: design.sidecar[key] for key in ("classes", "audio", "windows", "folds")}
    about |= {"loss": design.loss, "max_clip_s": reader.max_clip_s, "seed": seed, "unseen_folds": []}
    stage2.save(folder / "weights.safetensors", model, about)
    parameter = None if method in MODELS else readouts.parameter(design, method, design.single, None)
    chosen = {"kind": "stage2" if method in MODELS else "pooling", "method": method, "parameter": parameter}
    chosen["settings"] = settings_digest(design.sidecar)
    nested_ = comparison.set_index("method").loc[BEST]
    chosen |= {key: float(nested_[key]) for key in ("lwlrap", "lwlrap_low", "lwlrap_high")} | {"n": int(nested_["n"])}
    write_json(folder / "choice.json", chosen)
    return chosen


def result_metrics(comparison: Comparison, selection: pd.DataFrame) -> dict[str, float]:
    """For `result.json`: what "take the best of the other folds" reached, the mean, and all differences to the mean.

    And the mean over outer folds of what stage 2 gains in hit rate, picked there, by chance and chosen elsewhere, with
    the numbers of tries and of clips (`probes.selection`).
    """
    gains = selection[selection["metric"] == "hit_rate"].mean(numeric_only=True)
    ways = ("picked there", "by chance", "chosen elsewhere")
    picked = {f"{way.replace(' ', '_')}_hit_rate_diff": gains[way] for way in ways}
    picked |= {"picked_tries": gains["tries"], "picked_n": gains["n"]}
    return comparison.metrics(of=BEST) | {"mean_lwlrap": comparison.metrics()["lwlrap"]} | picked


def conclusion(comparison: Comparison, choice: dict) -> str:
    """The conclusion in sentences, from the measured values."""
    rows = comparison.rows.set_index("variant")
    base, best = rows.loc[BASE], rows.loc[BEST]
    told = [
        f"On {base['n']} clips, arithmetic mean: lwlrap {comparisons.format_score(base)}, hit rate "
        f"{base['hit_rate']:.3f}; the best of the other folds: {best['lwlrap']:.3f}, hit rate {best['hit_rate']:.3f}."
    ]
    above, below = rows["lwlrap_diff_low"] > 0, rows["lwlrap_diff_high"] < 0
    holds = rows["lwlrap_diff"].notna() & ~above & ~below
    for some, words in ((above, "Clear of zero, above the mean"), (below, "Below it"), (holds, "Not clear of zero")):
        diffs = [f"{r.Index} {r.lwlrap_diff:+.3f}" for r in rows[some].itertuples()]
        told += [f"{words}: {', '.join(diffs)}."] if diffs else []
    return " ".join([*told, comparison.limits(), f"For use: {choice['method']}."])
