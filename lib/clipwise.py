"""From windows to clips: every pooling and every stage-2 model, read on each outer fold by scores that never saw it.

Conventions
-----------
Clip scores are float64 (n_seeds, n_clips, n_classes), clips in the order of `Design.clips`: each is in one outer fold.
Parameters, models and the choice among methods come from `Design.training(g)` alone; `Design.admit` watches.
Stage-1 models are averaged after pooling or stage 2, unless a name says otherwise.

Used in: 06.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lib import learners, metrics, models, nested, pooling, prediction_images, stage2, windows
from lib.cache import Cache
from lib.nested import Design, Scored
from lib.stage2 import Stage2, Stage2Model

__all__ = [
    "Reader",
    "Stage2Scores",
    "by_length",
    "changed",
    "choose",
    "compare",
    "final",
    "learning_curve",
    "pool_all",
    "random_windows",
    "read_stage2",
    "rescored",
    "selection",
    "shift",
    "silenced",
    "with_energy",
]

BASE = "mean"


@dataclass(frozen=True)
class Reader:
    """How stage-2 models are made.

    Parameters
    ----------
    max_clip_s : s, the middle of a longer clip is read
    class_order : rows of the images, alphabetical or by confusion
    stage2_epochs : passes over the training images
    """

    max_clip_s: float
    class_order: str
    stage2_epochs: int

    def rows(self, design: Design, training: Scored) -> np.ndarray:
        """The class that stands in each row, by what the training windows confuse."""
        if self.class_order == "alphabetical":
            return np.arange(len(design.classes))
        clips, scores = nested.pooled(training, BASE)
        return prediction_images.confusion_order(design.targets.loc[clips].to_numpy(), scores)

    def images(self, design: Design, windows: Scored, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Prediction images of windows of one model a clip: fnames and float32 (n_clips, n_classes, n_columns)."""
        columns = prediction_images.n_columns(design.window_s, design.hop_s, self.max_clip_s)
        start_s = windows.table["window_start_s"].to_numpy()
        return prediction_images.make(windows.table["fname"].to_numpy(str), start_s, windows.scores, columns, rows)

    def fit(self, design: Design, kind: str, training: Scored, outer: int | None, seed: int, what: str) -> Stage2Model:
        """Train a model on windows that know nothing of `outer`; a leak is refused."""
        design.admit(what, training, outer)
        rows = self.rows(design, training)
        clips, images = self.images(design, training, rows)
        torch.manual_seed(seed)
        made = Stage2Model(Stage2(kind, images.shape[2], tuple(rows.tolist())), torch.from_numpy(images))
        targets = design.targets.loc[clips].to_numpy()
        return learners.fit_images(made, images, targets, loss=design.loss, epochs=self.stage2_epochs, seed=seed)


@dataclass(frozen=True)
class Stage2Scores:
    """What stage 2 said.

    Attributes
    ----------
    scores : kind -> float64 (n_seeds, n_clips, n_classes)
    models : (kind, outer fold, seed) -> model
    inner : (kind, outer fold) -> fnames and scores of the training clips, each by a model that was not fitted on its fold
    """

    scores: dict[str, np.ndarray]
    models: dict[tuple[str, int, int], Stage2Model]
    inner: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]


def with_energy(design: Design, cache: Cache) -> Design:
    """Add to every window its energy: mean power, 1 for the loudest window of a clip."""
    for side in (design.pairs, design.single):
        rows = side.table[["fname", "window_start_s"]].drop_duplicates()
        power = windows.energy(cache, rows, design.window_s)
        table = rows.assign(energy=power / power.groupby(rows["fname"]).transform("max"))
        side.table["energy"] = side.table.merge(table, how="left", validate="many_to_one")["energy"].to_numpy()
    return design


def pool_all(design: Design) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Every pooling on every outer fold, its parameter chosen on the others.

    Returns
    -------
    method -> scores (1, n_clips, n_classes); and a table outer, method, parameter, lwlrap (on the training folds)
    """
    scores, chosen = {}, []
    for method in pooling.POOLINGS:
        parts = []
        for outer in design.outer_folds:
            training = design.training(outer)
            parameter = _parameter(design, method, training, outer)
            clips, found = nested.pooled(training, method, parameter)
            reached = metrics.lwlrap(design.targets.loc[clips].to_numpy(), found)
            chosen.append({"outer": outer, "method": method, "parameter": parameter, "lwlrap": reached})
            parts.append(nested.pooled(design.reported(outer), method, parameter))
        scores[method] = nested.shown_once(parts, design.clips.index)[None]
    return scores, pd.DataFrame(chosen)


def read_stage2(design: Design, reader: Reader, kinds: list[str], n_seeds: int) -> Stage2Scores:
    """Every stage-2 model on every outer fold; and, for the choice, on each training fold by a model without it."""
    models_, inner, scores = {}, {}, {}
    bar = tqdm(total=len(kinds) * len(design.outer_folds) * (n_seeds + len(design.outer_folds) - 1), desc="stage 2")
    with bar:
        for kind in kinds:
            for outer in design.outer_folds:
                training = design.training(outer)
                for seed in range(n_seeds):
                    models_[kind, outer, seed] = reader.fit(design, kind, training, outer, seed, f"fit {kind}")
                    bar.update()
                parts = []
                for fold in design.outer_folds:
                    if fold != outer:
                        others = training.where(training.table["fold"] != fold)
                        model = reader.fit(design, kind, others, outer, 0, f"fit {kind} without {fold}")
                        parts.append(_read(model, training.where(training.table["fold"] == fold), design.loss))
                        bar.update()
                inner[kind, outer] = tuple(np.concatenate(side) for side in zip(*parts, strict=True))
            scores[kind] = _on_outer(design, models_, kind, n_seeds, design.reported)
    return Stage2Scores(scores, models_, inner)


def choose(
    design: Design, scores: dict[str, np.ndarray], pooled: pd.DataFrame, second: Stage2Scores
) -> tuple[np.ndarray, pd.DataFrame]:
    """For each outer fold the method that is best on the training folds: an honest reading of "take the best".

    Returns
    -------
    scores (n_seeds, n_clips, n_classes) of the chosen; and the table of `pool_all` with stage 2 and `chosen` added
    """
    rows = [pooled]
    for (kind, outer), (clips, found) in second.inner.items():
        reached = metrics.lwlrap(design.targets.loc[clips].to_numpy(), found)
        rows.append(pd.DataFrame({"outer": [outer], "method": [kind], "lwlrap": [reached]}))
    table = pd.concat(rows, ignore_index=True)
    best = table.groupby("outer")["lwlrap"].idxmax()
    table["chosen"] = table.index.isin(best)
    n_seeds = max(len(found) for found in scores.values())
    result = np.empty((n_seeds, *next(iter(scores.values())).shape[1:]))
    for outer, row in best.items():
        design.admit("choose a method", design.training(outer), outer)
        here = (design.clips["fold"] == outer).to_numpy()
        result[:, here] = scores[table.loc[row, "method"]][:, here]
    return result, table


def compare(
    design: Design, scores: dict[str, np.ndarray], base: str = BASE, only: np.ndarray | None = None
) -> pd.DataFrame:
    """All methods, and each against `base`, paired, corrected by Holm.

    Parameters
    ----------
    scores : method -> (n_seeds, n_clips, n_classes); what has one seed stands for all of another's
    only : bool (n_clips,), clips to count; None: all

    Returns
    -------
    method, lwlrap, hit_rate (with _low, _high), n, then as `metrics.compare_all` (empty for `base`); best first
    """
    keep = np.ones(len(design.clips), bool) if only is None else np.asarray(only)
    targets, groups = design.targets.to_numpy()[keep], design.groups[keep]
    n_seeds = max(len(found) for found in scores.values())
    alike = {name: np.repeat(s[:, keep], n_seeds // len(s), axis=0) for name, s in scores.items()}
    own = [{"method": name, **metrics.bootstrap(targets, s[:, keep], groups)} for name, s in scores.items()]
    others = {name: found for name, found in alike.items() if name != base}
    pairs = pd.DataFrame(metrics.compare_all(targets, alike[base], others, groups)).drop(columns="n")
    table = pd.DataFrame(own).merge(pairs.rename(columns={"variant": "method"}), on="method", how="left")
    return table.sort_values("lwlrap", ascending=False, ignore_index=True)


def shift(design: Design, second: Stage2Scores) -> pd.DataFrame:
    """Does stage 2 lose its gain when it is fed other scores than it was trained on? Rows: kind x what it is fed.

    Fed with: `one model`, the scores of a pair model, each a seed, as in training; `averaged after`, the same, and what
    stage 2 says is averaged over the models; `averaged before`, stage 2 reads the average of the models' windows;
    `larger model`, windows of without_g, which saw a fold more. The arithmetic mean is fed the same.
    """
    n_seeds = len(next(iter(second.scores.values())))
    judges = [lambda g, i=i: _nth_model(design.reported(g), i) for i in range(len(design.outer_folds) - 1)]
    averaged = [lambda g: nested.averaged(design.reported(g))]
    larger = [lambda g: design.single.where(design.single.table["fold"] == g)]
    fed = {"one model": judges, "averaged after": [design.reported], "averaged before": averaged, "larger model": larger}
    rows = []
    for name, sources in fed.items():
        parts = [[nested.pooled(source(g), BASE) for g in design.outer_folds] for source in sources]
        base = np.stack([nested.shown_once(part, design.clips.index) for part in parts])
        for kind in second.scores:
            read = [_on_outer(design, second.models, kind, n_seeds, source).mean(0) for source in sources]
            found = metrics.compare(design.targets.to_numpy(), base, np.stack(read), design.groups)
            reached = [np.mean([metrics.lwlrap(design.targets.to_numpy(), s) for s in side]) for side in (base, read)]
            rows.append({"model": kind, "fed": name, "mean": reached[0], "stage2": reached[1], **found})
    table = pd.DataFrame(rows)
    table["p_holm"] = metrics.holm(table["p"].to_numpy())
    return table


def selection(design: Design, second: Stage2Scores, chosen: pd.DataFrame, base: np.ndarray) -> pd.DataFrame:
    """What picking the model on the fold that is reported pretends: gain in hit rate and lwlrap over the mean, by fold.

    `picked there`: the best of all models and seeds on the outer fold itself (a sin, shown for its size and used for
    nothing); `chosen elsewhere`: the model that was best on the training folds, its seeds averaged in the metric.
    """
    rows, targets = [], design.targets.to_numpy()
    names = chosen[chosen["method"].isin(list(second.scores))]
    for outer in design.outer_folds:
        here = (design.clips["fold"] == outer).to_numpy()
        inner = names[names["outer"] == outer].set_index("method")["lwlrap"].idxmax()
        for metric in (metrics.hit_rate, metrics.lwlrap):
            start = metric(targets[here], base[0, here])
            gains = {k: [metric(targets[here], s[here]) - start for s in v] for k, v in second.scores.items()}
            rows.append(
                {
                    "outer": outer,
                    "metric": metric.__name__,
                    "chosen elsewhere": float(np.mean(gains[inner])),
                    "picked there": max(max(values) for values in gains.values()),
                    "n": int(here.sum()),
                }
            )
    return pd.DataFrame(rows)


def learning_curve(
    design: Design, reader: Reader, kind: str, full: np.ndarray, shares: tuple[float, ...] = (0.25, 0.5)
) -> dict[str, np.ndarray]:
    """The model trained on a part of the training groups: share -> scores (n_seeds, n_clips, n_classes).

    Parameters
    ----------
    full : its scores when trained on all, added under "1"
    """
    scores = {}
    for share in shares:
        fitted = {}
        for outer in design.outer_folds:
            training = design.training(outer)
            for seed in range(len(full)):
                some = _some_groups(design, training, share, seed)
                fitted[kind, outer, seed] = reader.fit(design, kind, some, outer, seed, f"fit {kind} on {share:g}")
        scores[f"{share:g}"] = _on_outer(design, fitted, kind, len(full), design.reported)
    return {**scores, "1": full}


def final(design: Design, reader: Reader, kind: str) -> Stage2Model:
    """Stage 2 for use: trained on the out-of-fold scores of the k models `without_f`, all clips. No fold may read it."""
    return reader.fit(design, kind, design.single, None, 0, f"fit {kind} for use")


def by_length(design: Design, scores: dict[str, np.ndarray]) -> pd.DataFrame:
    """lwlrap of each method by the number of a clip's windows: one, and the shorter and longer half of the others."""
    n = design.single.table.groupby("fname").size().reindex(design.clips.index).to_numpy()
    middle = int(np.median(n[n > 1]))
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
    fname, fold, labels, base, other (best classes), change (rescued or broken), margin: how far the label's score moved
    against its best rival; the largest first
    """
    truth, names = design.targets.to_numpy() == 1, np.array(design.classes)
    margins = [np.where(truth, s, -1).max(1) - np.where(truth, -1, s).max(1) for s in (base, other)]
    table = design.clips.reset_index()[["fname", "fold", "labels"]].assign(
        base=names[base.argmax(1)], other=names[other.argmax(1)], margin=np.abs(margins[1] - margins[0])
    )
    hit = [margin > 0 for margin in margins]
    table["change"] = np.select([hit[1] & ~hit[0], hit[0] & ~hit[1]], ["rescued", "broken"], "")
    return table[table["change"] != ""].sort_values(["margin", "fname"], ascending=[False, True], ignore_index=True)


def rescored(design: Design, cache: Cache, variant: Path) -> tuple[Scored, Scored]:
    """Out-of-fold windows at hops of a quarter window, and one silent window a clip, by the models `without_f`.

    What is stored is taken where its hop is a quarter of a window; else the weights score anew.
    """
    fine, silent = [], []
    cut = replace(windows.Windows(**design.sidecar["windows"]), hop_s=design.window_s / 4)
    width = cut.n_frames(cache.logmel)
    for name, stored in design.single.by_model():
        model, sidecar = models.load(variant / name / "weights.safetensors")
        model.prepare(precision=sidecar["precision"])
        clips = cache.rows(sorted(stored.table["fname"].unique()))
        table = windows.rolling(cache, clips, cut)
        known = np.isclose(design.hop_s, cut.hop_s)
        fine.append(stored if known else _score(model, cache, table, width, name, design))
        empty = clips.assign(start_frame=clips["n_frames"], window_start_s=0.0)  # nothing but padding
        silent.append(_score(model, cache, empty, width, name, design))
    return tuple(
        Scored(pd.concat([s.table for s in side], ignore_index=True), np.concatenate([s.scores for s in side]))
        for side in (fine, silent)
    )


def random_windows(design: Design, fine: Scored, n_draws: int = 10) -> dict[str, np.ndarray]:
    """Arithmetic means of 1, 2 and 5 random windows (n_draws times, as seeds) and of rolling windows at three hops."""
    ordered = fine.where(np.lexsort((fine.table["window_start_s"], fine.table["fname"])))
    at = ordered.table.groupby("fname").cumcount()
    last = at == ordered.table.groupby("fname")["fname"].transform("size") - 1
    scores = {
        f"hop {name} window": pooling.pool_mean(chosen.table["fname"], chosen.scores)[1][None]
        for name, step in (("1/4", 1), ("1/2", 2), ("1", 4))
        for chosen in [ordered.where((at % step == 0) | last)]
    }
    for n in (5, 2, 1):
        draws = []
        for seed in range(n_draws):
            order = np.random.default_rng([seed, n]).permutation(len(ordered.table))
            first = ordered.table.iloc[order].groupby("fname").cumcount().to_numpy() < n
            draws.append(pooling.pool_mean(ordered.table["fname"].iloc[order[first]], ordered.scores[order[first]])[1])
        scores[f"{n} random"] = np.stack(draws)
    return scores


def silenced(
    design: Design, silent: Scored, methods: tuple[str, ...], counts: tuple[int, ...] = (0, 1, 2, 4)
) -> pd.DataFrame:
    """lwlrap and hit rate when silent windows are put beside a clip's own: method, silent, lwlrap, hit_rate."""
    rows, targets = [], design.targets.to_numpy()
    for n in counts:
        fnames = np.concatenate([design.single.table["fname"], *[silent.table["fname"]] * n])
        scores = np.concatenate([design.single.scores, *[silent.scores] * n])
        for method in methods:
            _, found = pooling.pool(method, fnames, scores)
            reached = {"lwlrap": metrics.lwlrap(targets, found), "hit_rate": metrics.hit_rate(targets, found)}
            rows.append({"method": method, "silent": n, **reached})
    return pd.DataFrame(rows)


def _parameter(design: Design, method: str, training: Scored, outer: int | None) -> float | None:
    if not pooling.POOLINGS[method].grid:
        return None
    design.admit(f"choose the parameter of {method}", training, outer)
    return pooling.choose(method, training.table["fname"], training.scores, design.targets)


def _read(model: Stage2Model, source: Scored, loss: str) -> tuple[np.ndarray, np.ndarray]:
    """Stage 2 on each stage-1 model's windows, then averaged."""
    said = [
        stage2.clip_scores(model, t["fname"].to_numpy(str), t["window_start_s"].to_numpy(), one.scores, loss)
        for _, one in source.by_model()
        for t in [one.table]
    ]
    return pooling.pool_mean(*(np.concatenate(side) for side in zip(*said, strict=True)))


def _on_outer(design: Design, fitted: dict, kind: str, n_seeds: int, source: object) -> np.ndarray:
    """(n_seeds, n_clips, n_classes): the models fitted for g read `source(g)`."""
    return np.stack(
        [
            nested.shown_once(
                [_read(fitted[kind, g, seed], source(g), design.loss) for g in design.outer_folds], design.clips.index
            )
            for seed in range(n_seeds)
        ]
    )


def _nth_model(scored: Scored, i: int) -> Scored:
    return scored.where(scored.table["model"] == sorted(scored.table["model"].unique())[i])


def _some_groups(design: Design, training: Scored, share: float, seed: int) -> Scored:
    """The windows of a share of the groups, drawn at random."""
    group = design.clips["group"].reindex(training.table["fname"]).to_numpy(str)
    names = np.unique(group)
    drawn = np.random.default_rng(seed).permutation(names)[: max(2, round(share * len(names)))]
    return training.where(np.isin(group, drawn))


def _score(
    model: models.WindowModel, cache: Cache, table: pd.DataFrame, width: int, name: str, design: Design
) -> Scored:
    scores = models.activate(models.score(model, cache, table, width), design.loss)
    fold = design.clips["fold"].reindex(table["fname"]).to_numpy()
    return Scored(table[["fname", "window_start_s"]].assign(fold=fold, model=name), scores)

