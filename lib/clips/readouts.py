"""Readouts: ways from the scores of a clip's windows to the clip, made for an outer fold from what knows nothing of it.

Conventions
-----------
A readout is a pooling, its parameter chosen, or a stage-2 model, fitted: both on `Design.training(g)` alone, while
`Design.admit` watches. Clip scores are float64 (n_seeds, n_clips, n_classes), clips in the order of `Design.clips`:
each is in one outer fold. Stage-1 models are averaged after pooling or stage 2, unless a name says otherwise.

Used in: 06, 10.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lib import settings
from lib.clips import nested, pooling, prediction_images, stage2
from lib.clips.nested import Design
from lib.clips.stage2 import MODELS, Stage2, Stage2Model
from lib.evaluation import metrics
from lib.evaluation.window_scores import WindowScores, pool_mean
from lib.sound import windows
from lib.sound.cache import Cache
from lib.training import learners

__all__ = [
    "BASE",
    "Reader",
    "Readout",
    "Stage2Scores",
    "made_for",
    "on_outer",
    "parameter",
    "pictured",
    "pool_all",
    "read_stage2",
    "with_energy",
]

BASE = "mean"


@settings.group
class Reader(settings.Stage2):
    """How stage-2 models are made: the knobs of `settings.Stage2`."""

    def rows(self, design: Design, training: WindowScores) -> np.ndarray:
        """The class that stands in each row, by what the training windows confuse."""
        if self.class_order == "alphabetical":
            return np.arange(len(design.classes))
        clips, scores = nested.pooled(training, BASE)
        return prediction_images.confusion_order(design.targets.loc[clips].to_numpy(), scores)

    def images(self, design: Design, windows: WindowScores, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Prediction images of windows of one model a clip: fnames and float32 (n_clips, n_classes, n_columns)."""
        columns = prediction_images.n_columns(design.window_s, design.hop_s, self.max_clip_s)
        start_s = windows.table["window_start_s"].to_numpy()
        return prediction_images.make(windows.table["fname"].to_numpy(str), start_s, windows.scores, columns, rows)

    def fit(
        self, design: Design, kind: str, training: WindowScores, outer: int | None, seed: int, what: str
    ) -> Stage2Model:
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
    read: Callable[[WindowScores], tuple[np.ndarray, np.ndarray]]


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
            value = parameter(design, method, training, outer)
            clips, found = nested.pooled(training, method, value)
            reached = metrics.lwlrap(design.targets.loc[clips].to_numpy(), found)
            chosen.append({"outer": outer, "method": method, "parameter": value, "lwlrap": reached})
            parts.append(nested.pooled(design.reported(outer), method, value))
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


def made_for(design: Design, reader: Reader, names: list[str], outer: int, seed: int) -> Iterator[Readout]:
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
            value = parameter(design, name, training, outer)
            read = partial(nested.pooled, method=name, parameter=value)
            yield Readout(name, *read(training), read)


def on_outer(
    design: Design, fitted: dict, kind: str, n_seeds: int, source: Callable[[int], WindowScores]
) -> np.ndarray:
    """What the models that were fitted for g say of g, (n_seeds, n_clips, n_classes).

    Parameters
    ----------
    fitted : (kind, outer fold, number of the seed) -> model
    source : outer fold -> WindowScores, the windows of that fold that they are fed
    """
    return np.stack(
        [
            nested.shown_once(
                [_read(fitted[kind, g, seed], source(g), design.loss) for g in design.outer_folds], design.clips.index
            )
            for seed in range(n_seeds)
        ]
    )


def pictured(design: Design, reader: Reader, fnames: list[str]) -> tuple[np.ndarray, list[str]]:
    """Prediction images of clips by the models `without_f`, (n, n_classes, n_columns), and the class of each row."""
    rows = reader.rows(design, design.single)
    clips, images = reader.images(design, design.single.where(design.single.table["fname"].isin(fnames)), rows)
    return images[pd.Index(clips).get_indexer(fnames)], [design.classes[i] for i in rows]


def parameter(design: Design, method: str, training: WindowScores, outer: int | None) -> float | None:
    """The parameter of a pooling that is best on training windows; None where it has none."""
    if not pooling.POOLINGS[method].grid:
        return None
    design.admit(f"choose the parameter of {method}", training, outer)
    return pooling.choose(method, training.table["fname"], training.scores, design.targets)


def _inner(
    design: Design, reader: Reader, kind: str, outer: int, seed: int, each: Callable[[], None] = lambda: None
) -> tuple[np.ndarray, np.ndarray]:
    """What a stage-2 model says of each training fold, fitted on other folds and groups: fnames and scores."""
    training, parts = design.training(outer), []
    for fold in [fold for fold in design.outer_folds if fold != outer]:
        there = (training.table["fold"] == fold).to_numpy()
        rest = training.where(design.may_train(training, outer, fold))
        model = reader.fit(design, kind, rest, outer, seed, f"fit {kind} without {fold}")
        parts.append(_read(model, training.where(there), design.loss))
        each()
    fnames, scores = (np.concatenate(side) for side in zip(*parts, strict=True))
    order = np.argsort(fnames, kind="stable")
    return fnames[order], scores[order]


def _read(model: Stage2Model, source: WindowScores, loss: str) -> tuple[np.ndarray, np.ndarray]:
    """Stage 2 on each stage-1 model's windows, then averaged."""
    said = [
        stage2.clip_scores(model, t["fname"].to_numpy(str), t["window_start_s"].to_numpy(), one.scores, loss)
        for _, one in source.by_model()
        for t in [one.table]
    ]
    return pool_mean(*(np.concatenate(side) for side in zip(*said, strict=True)))
