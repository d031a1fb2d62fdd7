"""From windows to clips: every pooling and every stage-2 model, read on each outer fold by scores that never saw it.

Conventions
-----------
Clip scores are float64 (n_seeds, n_clips, n_classes), clips in the order of `Design.clips`: each is in one outer fold.
Parameters, models and the choice among methods come from `Design.training(g)` alone; `Design.admit` watches.
Stage-1 models are averaged after pooling or stage 2, unless a name says otherwise.

Used in: 06, 10.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lib import bundle, learners, metrics, nested, pooling, prediction_images, stage2, windows
from lib.cache import Cache
from lib.files import write_json
from lib.nested import Design, Scored
from lib.stage2 import MODELS, Stage2, Stage2Model

__all__ = [
    "BASE",
    "Reader",
    "Readout",
    "Stage2Scores",
    "by_length",
    "candidates",
    "changed",
    "choose",
    "compare",
    "found",
    "on_outer",
    "pictured",
    "pool_all",
    "read_stage2",
    "readouts",
    "says",
    "typical",
    "verdict",
    "with_energy",
    "write_choice",
]

BASE, BEST = "mean", "best_of_all"


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
    models : (kind, outer fold, number of the seed) -> model
    inner : (kind, outer fold) -> fnames and scores of the training clips, each by a model not fitted on its fold
    """

    scores: dict[str, np.ndarray]
    models: dict[tuple[str, int, int], Stage2Model]
    inner: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Readout:
    """A pooling or a stage-2 model, made for one outer fold.

    Attributes
    ----------
    fnames, scores : of the training clips, (n_clips,) and (n_clips, n_classes), by what a choice may go
    read : windows -> fnames and scores of their clips
    """

    name: str
    fnames: np.ndarray
    scores: np.ndarray
    read: Callable[[Scored], tuple[np.ndarray, np.ndarray]]


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


def read_stage2(design: Design, reader: Reader, kinds: list[str], seeds: list[int]) -> Stage2Scores:
    """Every stage-2 model (`kinds`; empty: all) on every outer fold; and, for the choice, on each training fold by a
    model that was not fitted on it."""
    fitted, inner, scores = {}, {}, {}
    kinds, outer_folds = kinds or list(MODELS), design.outer_folds
    with tqdm(total=len(kinds) * len(outer_folds) * (len(seeds) + len(outer_folds) - 1), desc="stage 2") as bar:
        for kind in kinds:
            for outer in outer_folds:
                training = design.training(outer)
                for i, seed in enumerate(seeds):
                    fitted[kind, outer, i] = reader.fit(design, kind, training, outer, seed, f"fit {kind}")
                    bar.update()
                inner[kind, outer] = _inner(design, reader, kind, outer, seeds[0], bar.update)
            scores[kind] = on_outer(design, fitted, kind, len(seeds), design.reported)
    return Stage2Scores(scores, fitted, inner)


def readouts(design: Design, reader: Reader, names: list[str], outer: int, seed: int) -> Iterator[Readout]:
    """The named poolings and stage-2 models, made for an outer fold from what knows nothing of it.

    Parameters
    ----------
    names : none: all but those that weigh windows by energy, which scores alone don't tell

    Raises
    ------
    ValueError
        A name that is no such pooling or model.
    """
    training = design.training(outer)
    known = [*(name for name, made in pooling.POOLINGS.items() if not made.weighted), *MODELS]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"readouts: {', '.join(unknown)} are none that scores alone can give: {', '.join(known)}.")
    for name in names or known:
        if name in MODELS:
            model = reader.fit(design, name, training, outer, seed, f"fit {name}")
            inner = _inner(design, reader, name, outer, seed)
            yield Readout(name, *inner, partial(_read, model, loss=design.loss))
        else:
            parameter = _parameter(design, name, training, outer)
            read = partial(nested.pooled, method=name, parameter=parameter)
            yield Readout(name, *read(training), read)


def on_outer(design: Design, fitted: dict, kind: str, n_seeds: int, source: Callable[[int], Scored]) -> np.ndarray:
    """What the models that were fitted for g say of g, (n_seeds, n_clips, n_classes).

    Parameters
    ----------
    fitted : (kind, outer fold, number of the seed) -> model
    source : outer fold -> Scored, the windows of that fold that they are fed
    """
    return np.stack(
        [
            nested.shown_once(
                [_read(fitted[kind, g, seed], source(g), design.loss) for g in design.outer_folds], design.clips.index
            )
            for seed in range(n_seeds)
        ]
    )


def candidates(design: Design, parameters: pd.DataFrame, second: Stage2Scores) -> pd.DataFrame:
    """What a choice may go by: the table of `pool_all` with the stage-2 models added, each by its inner models."""
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
    table = table if among is None else table[table["method"].isin(list(among))]
    result = np.empty((max(map(len, scores.values())), *next(iter(scores.values())).shape[1:]))
    for outer, row in table.groupby("outer")["lwlrap"].idxmax().items():
        design.admit("choose a method", design.training(outer), outer)
        here = (design.clips["fold"] == outer).to_numpy()
        result[:, here] = scores[table.loc[row, "method"]][:, here]
    return result


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


def pictured(design: Design, reader: Reader, fnames: list[str]) -> tuple[np.ndarray, list[str]]:
    """Prediction images of clips by the models `without_f`, (n, n_classes, n_columns), and the class of each row."""
    rows = reader.rows(design, design.single)
    clips, images = reader.images(design, design.single.where(design.single.table["fname"].isin(fnames)), rows)
    return images[pd.Index(clips).get_indexer(fnames)], [design.classes[i] for i in rows]


def write_choice(folder: Path, design: Design, reader: Reader, comparison: pd.DataFrame, seed: int) -> dict:
    """Write what is best for use: choice.json, and the best stage-2 model with its sidecar, trained on all clips.

    The choice goes by the scores of all outer folds, so none of them can report it. For use, each model `without_f`
    scores the windows, is pooled or read by stage 2 on its own, and the models are averaged: as it was measured.

    Parameters
    ----------
    comparison : from `compare`, the best first

    Returns
    -------
    choice.json: kind (pooling or stage2), method, parameter (None: it has none), settings (of the models, as
    `bundle.settings_digest` names them), and lwlrap, lwlrap_low, lwlrap_high, n: what "take the best" reached nested
    """
    known = comparison[comparison["method"].isin([*pooling.POOLINGS, *MODELS])]
    method = known["method"].iloc[0]
    kind = known.loc[known["method"].isin(list(MODELS)), "method"].iloc[0]
    model = reader.fit(design, kind, design.single, None, seed, f"fit {kind} for use")
    about = {key: design.sidecar[key] for key in ("classes", "audio", "windows", "folds")}
    about |= {"loss": design.loss, "max_clip_s": reader.max_clip_s, "seed": seed, "unseen_folds": []}
    stage2.save(folder / "weights.safetensors", model, about)
    parameter = None if method in MODELS else _parameter(design, method, design.single, None)
    chosen = {"kind": "stage2" if method in MODELS else "pooling", "method": method, "parameter": parameter}
    chosen["settings"] = bundle.settings_digest(design.sidecar)
    nested_ = comparison.set_index("method").loc[BEST]
    chosen |= {key: float(nested_[key]) for key in ("lwlrap", "lwlrap_low", "lwlrap_high")} | {"n": int(nested_["n"])}
    write_json(folder / "choice.json", chosen)
    return chosen


def found(comparison: pd.DataFrame, selection: pd.DataFrame) -> dict[str, float]:
    """For `result.json`: what "take the best of the other folds" reached, the mean, and all differences to the mean.

    And the mean over outer folds of what stage 2 gains in hit rate, picked there and chosen elsewhere
    (`probes.selection`).
    """
    rows = comparison.set_index("method")
    keys = ["lwlrap", "lwlrap_low", "lwlrap_high", "hit_rate", "hit_rate_low", "hit_rate_high", "n"]
    numbers = dict(rows.loc[BEST, keys]) | {"mean_lwlrap": rows.loc[BASE, "lwlrap"]}
    for method in rows.index.drop(BASE):
        for key in ("lwlrap_diff", "lwlrap_diff_low", "lwlrap_diff_high"):
            numbers[f"{method}_{key}"] = rows.loc[method, key]
    gains = selection[selection["metric"] == "hit_rate"].mean(numeric_only=True)
    return numbers | {
        f"{way.replace(' ', '_')}_hit_rate_diff": gains[way] for way in ("picked there", "chosen elsewhere")
    }


def verdict(comparison: pd.DataFrame) -> str:
    """Of stage 2 against the mean: kept if a model is, dropped if all are, else unclear."""
    verdicts = set(comparison.loc[comparison["method"].isin(list(MODELS)), "verdict"])
    return "kept" if "kept" in verdicts else "dropped" if verdicts == {"dropped"} else "unclear"


def says(comparison: pd.DataFrame, choice: dict) -> str:
    """The conclusion in sentences, from the measured values."""
    rows = comparison.set_index("method")
    base, best = rows.loc[BASE], rows.loc[BEST]
    told = [
        f"On {base['n']} clips, arithmetic mean: lwlrap {base['lwlrap']:.3f} ({base['lwlrap_low']:.3f} to "
        f"{base['lwlrap_high']:.3f}), hit rate {base['hit_rate']:.3f}; the best of the other folds: "
        f"{best['lwlrap']:.3f}, hit rate {best['hit_rate']:.3f}."
    ]
    for verdict_, words in (("kept", "Better than the mean"), ("dropped", "Worse"), ("unclear", "Unclear")):
        some = rows[rows["verdict"] == verdict_]
        diffs = [f"{r.Index} {r.lwlrap_diff:+.3f}" for r in some.itertuples()]
        limits = f", differences below {some['smallest_diff'].max():.3f} may hide" if verdict_ == "unclear" else ""
        told += [f"{words}: {', '.join(diffs)}{limits}."] if diffs else []
    return " ".join([*told, f"For use: {choice['method']}."])


def _parameter(design: Design, method: str, training: Scored, outer: int | None) -> float | None:
    if not pooling.POOLINGS[method].grid:
        return None
    design.admit(f"choose the parameter of {method}", training, outer)
    return pooling.choose(method, training.table["fname"], training.scores, design.targets)


def _inner(
    design: Design, reader: Reader, kind: str, outer: int, seed: int, each: Callable[[], None] = lambda: None
) -> tuple[np.ndarray, np.ndarray]:
    """What a stage-2 model says of each training fold, fitted on the other ones: fnames and scores."""
    training, parts = design.training(outer), []
    for fold in [fold for fold in design.outer_folds if fold != outer]:
        there = (training.table["fold"] == fold).to_numpy()
        model = reader.fit(design, kind, training.where(~there), outer, seed, f"fit {kind} without {fold}")
        parts.append(_read(model, training.where(there), design.loss))
        each()
    fnames, scores = (np.concatenate(side) for side in zip(*parts, strict=True))
    order = np.argsort(fnames, kind="stable")
    return fnames[order], scores[order]


def _read(model: Stage2Model, source: Scored, loss: str) -> tuple[np.ndarray, np.ndarray]:
    """Stage 2 on each stage-1 model's windows, then averaged."""
    said = [
        stage2.clip_scores(model, t["fname"].to_numpy(str), t["window_start_s"].to_numpy(), one.scores, loss)
        for _, one in source.by_model()
        for t in [one.table]
    ]
    return pooling.pool_mean(*(np.concatenate(side) for side in zip(*said, strict=True)))
