"""The nested design: what may be known of which clips while fold g is still to be reported, and readouts fitted so.

The pair model `without_f_g` saw neither f nor g. So for the outer fold g, its scores of fold f are out-of-fold scores
that know nothing of g: on those of all f, readouts are fitted and chosen. The result is then read once on g, by the
same models, and g rotates over all folds.

A readout turns window scores into clip scores: a pooling with its parameter, or a stage-2 model. It is fitted for one
outer fold, on scores from models that never saw that fold (`Design.training`).

Conventions
-----------
Every fit and every choice passes `Design.check_and_record`, which refuses a leak and writes down the clips for the
manifest. Clips are found by (fname, fold, model), never by position; clip scores come sorted by fname. Stage-1 models
are averaged after pooling or stage 2, unless a name says otherwise.

Used in: 06, 10.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lib import ideas, settings
from lib.clips import pooling, stage2
from lib.clips.stage2 import MODELS, Stage2, Stage2Model
from lib.data import datasets
from lib.evaluation import folds, metrics
from lib.evaluation.window_scores import WindowScores, pool_mean
from lib.files import digest
from lib.runs.modelset import ModelSet
from lib.sound import windows
from lib.sound.cache import Cache
from lib.training import learners

__all__ = ["BASE_POOLING", "Design", "Reader", "Readout", "averaged", "choose_parameter", "fit_readouts"]
__all__ += ["inner_scores", "join_outer_folds", "pooled", "prediction_images", "read", "read_outer", "with_energy"]

BASE_POOLING = "mean"


@dataclass
class Design:
    """All window scores of one variant, and the clips; see the module's head.

    Attributes
    ----------
    variant : folder of the models
    clips : group, fold, labels; index fname, sorted
    classes : in submission order
    pairs, single : windows of the pair models; windows of fold f by `without_f`
    sidecar : of the weights: audio, windows, recipe
    uses : what was fitted or chosen for which outer fold, on which clips
    """

    variant: Path
    clips: pd.DataFrame
    classes: list[str]
    pairs: WindowScores
    single: WindowScores
    sidecar: dict
    uses: list[dict] = field(default_factory=list)
    sets: dict[str, list[str]] = field(default_factory=dict)

    @property
    def outer_folds(self) -> list[int]:
        return sorted(self.clips["fold"].unique().tolist())

    @property
    def targets(self) -> pd.DataFrame:
        """0/1 float32, index fname, a column a class."""
        return pd.DataFrame(datasets.targets(self.clips, self.classes), self.clips.index, self.classes)

    @property
    def groups(self) -> np.ndarray:
        return self.clips["group"].to_numpy(str)

    @property
    def loss(self) -> str:
        return self.sidecar["recipe"]["loss"]

    @property
    def window_s(self) -> float:
        return self.sidecar["windows"]["window_s"]

    @property
    def hop_s(self) -> float:
        return self.sidecar["windows"]["hop_s"]

    def training(self, outer: int) -> WindowScores:
        """Windows of every other fold f, by the model that saw neither f nor `outer`; of no group that stands there."""
        judge = {fold: folds.model_name(fold, outer) for fold in self.outer_folds if fold != outer}
        mine = self.pairs.table["model"] == self.pairs.table["fold"].map(judge)
        return self.pairs.where(mine & self.may_train(self.pairs, outer))

    def may_train(self, windows: WindowScores, *held_out: int) -> np.ndarray:
        """Which windows are of clips that `folds.training` allows, bool (n_windows,)."""
        clips = self.clips.index[folds.training(self.clips, held_out)]
        return windows.table["fname"].isin(clips).to_numpy()

    def reported(self, outer: int) -> WindowScores:
        """Windows of fold `outer`, by each of the k - 1 pair models that did not see it."""
        return self.pairs.in_fold(outer)

    def check_and_record(self, what: str, windows: WindowScores, outer: int | None) -> None:
        """Refuse to fit or choose on windows that know of `outer` (None: of no outer fold), and write down the clips.

        Raises
        ------
        LeakError
            A clip of the outer fold or of its groups, or one whose scoring model saw the outer fold or the clip's own.
        """
        dealt = self.clips.reset_index()[["fname", "group", "fold"]]
        judges = windows.table[["fname", "model"]].rename(columns={"model": "judged_by"})
        held_out = set() if outer is None else {outer}
        folds.assert_no_leak(dealt, windows.table["fname"], held_out, judges=judges)
        fnames = sorted(set(windows.table["fname"]))
        name = digest(fnames)
        self.sets[name] = fnames
        self.uses.append({"what": what, "outer": outer, "clips": name})

    def manifest(self) -> dict[str, object]:
        """Every fit and choice with the name of its set of clips, the sets, and the clips reported for each fold."""
        reported = {str(g): self.clips.index[self.clips["fold"] == g].tolist() for g in self.outer_folds}
        return {"uses": self.uses, "sets": self.sets, "reported": reported}


def read(home: Path, variant: str, profile: str) -> Design:
    """The design of a run's variant, from outputs/<run>/04_kfold/<variant> and the run's folds.csv.

    Parameters
    ----------
    home : outputs/<run>
    profile : named in the commands that train what is missing

    Raises
    ------
    FileNotFoundError, ValueError, LeakError
        As `ModelSet.open`, of all models, and as `ModelSet.labelled` and `ModelSet.windows`.
    """
    models = ModelSet.open(home, variant, "all", profile=profile)
    sides = models.windows(folds.pair_models(models.n_folds)), models.windows(models.single)
    return Design(models.folder, models.labelled(), models.sidecar["classes"], *sides, models.sidecar)


def pooled(windows: WindowScores, method: str, parameter: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Clip scores by a pooling: each model's windows are pooled, then the models are averaged.

    Returns
    -------
    fnames (n_clips,) sorted, scores (n_clips, n_classes)
    """
    key = windows.table["model"] + "/" + windows.table["fname"]  # names of models hold no "/"
    weights = windows.table["energy"].to_numpy() if pooling.find(method).weighted else None
    keys, scores = pooling.pool(method, key, windows.scores, parameter=parameter, weights=weights)
    return pool_mean([name.split("/", 1)[1] for name in keys], scores)


def averaged(windows: WindowScores) -> WindowScores:
    """The models' scores averaged window by window, as if one model had given them (`model` names all of them)."""
    starts = windows.table["window_start_s"].map("{:012.3f}".format)
    keys, scores = pool_mean(starts + "/" + windows.table["fname"], windows.scores)
    first = windows.table.assign(key=starts + "/" + windows.table["fname"]).drop_duplicates("key").set_index("key")
    names = " ".join(sorted(windows.table["model"].unique()))
    return WindowScores(first.loc[keys].reset_index(drop=True).assign(model=names), scores)


def join_outer_folds(parts: Iterable[tuple[np.ndarray, np.ndarray]], clips: pd.Index) -> np.ndarray:
    """Clip scores of all outer folds in the order of `clips`, float64 (..., n_clips, n_classes).

    Parameters
    ----------
    parts : of each outer fold, fnames (n,) and scores (..., n, n_classes)

    Raises
    ------
    ValueError
        Unless every clip is scored just once.
    """
    parts = list(parts)
    fnames = np.concatenate([names for names, _ in parts])
    if len(fnames) != len(clips) or set(fnames) != set(clips):
        raise ValueError(f"{len(fnames)} scores of {len(set(fnames))} clips for {len(clips)}: each is reported once.")
    return np.concatenate([scores for _, scores in parts], axis=-2)[..., pd.Index(fnames).get_indexer(clips), :]


@settings.group
class Reader(settings.Stage2):
    """How stage-2 models are made: the knobs of `settings.Stage2`."""

    def rows(self, design: Design, training: WindowScores) -> np.ndarray:
        """The class that stands in each row, by what the training windows confuse."""
        if self.class_order == "alphabetical":
            return np.arange(len(design.classes))
        clips, scores = pooled(training, BASE_POOLING)
        return stage2.confusion_order(design.targets.loc[clips].to_numpy(), scores)

    def images(self, design: Design, windows: WindowScores, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Prediction images of windows of one model a clip: fnames and float32 (n_clips, n_classes, n_columns)."""
        columns = stage2.n_columns(design.window_s, design.hop_s, self.max_clip_s)
        start_s = windows.table["window_start_s"].to_numpy()
        return stage2.make_images(windows.table["fname"].to_numpy(str), start_s, windows.scores, columns, rows)

    def fit(
        self, design: Design, kind: str, training: WindowScores, outer: int | None, seed: int, what: str
    ) -> Stage2Model:
        """Train a model on windows that know nothing of `outer`; a leak is refused."""
        design.check_and_record(what, training, outer)
        rows = self.rows(design, training)
        clips, images = self.images(design, training, rows)
        torch.manual_seed(seed)
        model = Stage2Model(Stage2(kind, images.shape[2], tuple(rows.tolist())), torch.from_numpy(images))
        targets = design.targets.loc[clips].to_numpy()
        return learners.fit_images(model, images, targets, loss=design.loss, epochs=self.stage2_epochs, seed=seed)


@dataclass(frozen=True)
class Readout:
    """A pooling or a stage-2 model, fitted for one outer fold.

    Attributes
    ----------
    name : in `pooling.POOLINGS` or `stage2.MODELS`, or an idea
    parameter : of the pooling; None where it has none
    models : stage-2 models, one a seed; none: a pooling
    loss : that of the window models
    inner : scores of the training clips by which a choice may go, each by a model that was not fitted on the clip's
        fold; float64, index fname, a column a class
    """

    name: str
    parameter: float | None = None
    models: tuple[Stage2Model, ...] = ()
    loss: str = ""
    inner: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)

    def read(self, windows: WindowScores) -> tuple[np.ndarray, np.ndarray]:
        """Clip scores: fnames (n_clips,) sorted, scores (n_seeds, n_clips, n_classes); a pooling has one seed."""
        if not self.models:
            fnames, scores = pooled(windows, self.name, self.parameter)
            return fnames, scores[None]
        read = [_by_stage2(model, windows, self.loss) for model in self.models]
        return read[0][0], np.stack([scores for _, scores in read])


def fit_readouts(
    design: Design, reader: Reader, names: Collection[str] = (), seeds: Collection[int] = ()
) -> dict[str, dict[int, Readout]]:
    """Poolings and stage-2 models, fitted for every outer fold: name -> outer fold -> readout.

    Parameters
    ----------
    names : none: all; but poolings that weigh windows by energy only where it was measured (`with_energy`)
    seeds : of the stage-2 models; `Readout.inner` is of the first

    Raises
    ------
    LeakError
        A score is read that knows of the outer fold.
    ValueError
        A name that is no such pooling or model.
    """
    energy = "energy" in design.pairs.table
    known = [*(name for name, made in pooling.POOLINGS.items() if energy or not made.weighted), *MODELS]
    if unknown := [name for name in names if name not in known and not ideas.is_idea(name)]:
        raise ValueError(f"readouts: {', '.join(unknown)} are none that scores alone can give: {', '.join(known)}.")
    fitted: dict[str, dict[int, Readout]] = {name: {} for name in names or known}
    keys = [(name, outer) for name in fitted for outer in design.outer_folds]
    for name, outer in tqdm(keys, desc="readouts", unit="outer fold"):
        training = design.training(outer)
        if name in MODELS:
            models = tuple(reader.fit(design, name, training, outer, seed, f"fit {name}") for seed in seeds)
            inner = _inner(design, reader, name, outer, next(iter(seeds)))
            fitted[name][outer] = Readout(name, None, models, design.loss, inner)
        else:
            parameter = choose_parameter(design, name, training, outer)
            fitted[name][outer] = Readout(name, parameter, inner=_table(*pooled(training, name, parameter)))
    return fitted


def inner_scores(design: Design, fitted: dict[str, dict[int, Readout]]) -> pd.DataFrame:
    """What every readout reaches on the training folds: the only scores that selection may use.

    Returns
    -------
    outer, method, parameter, lwlrap, hit_rate; the methods in the order of `fitted`
    """
    rows, targets = [], design.targets
    for name, by_fold in fitted.items():
        for outer, readout in by_fold.items():
            reached = metrics.point_scores(targets.loc[readout.inner.index].to_numpy(), readout.inner.to_numpy())
            rows.append({"outer": outer, "method": name, "parameter": readout.parameter, **reached})
    return pd.DataFrame(rows)


def read_outer(
    design: Design, by_fold: dict[int, Readout], source: Callable[[int], WindowScores] | None = None
) -> np.ndarray:
    """What the readouts that were fitted for g say of g, (n_seeds, n_clips, n_classes), in the order of the design.

    Parameters
    ----------
    by_fold : outer fold -> readout
    source : outer fold -> the windows of that fold that are read; None: `Design.reported`
    """
    source = source or design.reported
    return join_outer_folds([readout.read(source(g)) for g, readout in by_fold.items()], design.clips.index)


def with_energy(design: Design, cache: Cache) -> Design:
    """Add to every window its energy: mean power, 1 for the loudest window of a clip."""
    for side in (design.pairs, design.single):
        rows = side.table[["fname", "window_start_s"]].drop_duplicates()
        power = windows.energy(cache, rows, design.window_s)
        table = rows.assign(energy=power / power.groupby(rows["fname"]).transform("max"))
        side.table["energy"] = side.table.merge(table, how="left", validate="many_to_one")["energy"].to_numpy()
    return design


def prediction_images(design: Design, reader: Reader, fnames: list[str]) -> tuple[np.ndarray, list[str]]:
    """Prediction images of clips by the models `without_f`, and the class of each row.

    Returns
    -------
    Scores in [0, 1], float32 (n, n_classes, n_columns), 0 where there is no window; n_classes names
    """
    rows = reader.rows(design, design.single)
    clips, images = reader.images(design, design.single.where(design.single.table["fname"].isin(fnames)), rows)
    return images[pd.Index(clips).get_indexer(fnames)] / stage2.WHITE, [design.classes[i] for i in rows]


def choose_parameter(design: Design, method: str, training: WindowScores, outer: int | None) -> float | None:
    """The parameter of a pooling that is best on training windows; None where it has none."""
    if not pooling.find(method).grid:
        return None
    design.check_and_record(f"choose the parameter of {method}", training, outer)
    return pooling.choose(method, training.table["fname"], training.scores, design.targets)


def _inner(design: Design, reader: Reader, kind: str, outer: int, seed: int) -> pd.DataFrame:
    """Scores of each training fold by a stage-2 model that was fitted on other folds and groups."""
    training, parts = design.training(outer), []
    for fold in [fold for fold in design.outer_folds if fold != outer]:
        rest = training.where(design.may_train(training, outer, fold))
        model = reader.fit(design, kind, rest, outer, seed, f"fit {kind} without {fold}")
        parts.append(_table(*_by_stage2(model, training.in_fold(fold), design.loss)))
    return pd.concat(parts).sort_index()


def _by_stage2(model: Stage2Model, source: WindowScores, loss: str) -> tuple[np.ndarray, np.ndarray]:
    """Stage 2 on each stage-1 model's windows, then averaged: fnames and scores."""
    parts = [
        stage2.clip_scores(model, t["fname"].to_numpy(str), t["window_start_s"].to_numpy(), one.scores, loss)
        for _, one in source.by_model()
        for t in [one.table]
    ]
    return pool_mean(*(np.concatenate(side) for side in zip(*parts, strict=True)))


def _table(fnames: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(scores, fnames)
