"""Nested cross-validation of readouts: for an outer fold, they are fitted and chosen without any trace of that fold.

The pair model `without_f_g` saw neither fold f nor fold g. For outer fold g, its scores of fold f are out-of-fold, and
g had no part in them. Readouts for g are fitted and chosen on the scores of all f != g. The result is scored once on g,
by the same models. Each fold is the outer fold in turn.

A readout turns window scores into clip scores: a pooling with its parameter, or a stage-2 model. It is fitted for one
outer fold, on scores from models that never saw that fold (`Design.training`).

Conventions
-----------
Every fit and every choice passes `Design.check_and_record`, which refuses leakage and records the clips for the
manifest. Windows are found by (fname, fold, model), never by position; clip scores are sorted by fname. Stage-1 models
are averaged after pooling or stage 2, unless a docstring states otherwise.

Used in: 06, 10.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lib import ideas, settings
from lib.clips import pooling, stage2
from lib.clips.stage2 import MODELS, Stage2Model
from lib.data import datasets
from lib.evaluation import folds, metrics
from lib.evaluation.window_scores import WindowScores, pool_mean
from lib.files import digest
from lib.runs.modelset import ModelSet
from lib.runs.recipes import differences, of_seeds, other_data
from lib.sound import windows
from lib.sound.cache import Cache
from lib.training import learners

__all__ = ["BASE_POOLING", "Design", "Reader", "Readout", "averaged", "choose_parameter"]
__all__ += ["check_alike", "fit_readouts", "inner_scores", "pooled", "prediction_images", "reached_on", "read"]
__all__ += ["read_outer", "read_seeds", "with_energy"]

BASE_POOLING = "mean"


@dataclass
class Design:
    """All window scores of one variant, and the clips.

    Attributes
    ----------
    variant : folder of the models
    clips : group, fold, labels; index fname, sorted
    classes : in submission order
    pairs : the windows that the pair models scored
    single : windows of every fold f, scored by `without_f`
    sidecar : of the weights: audio, windows, recipe
    scored : of the models, as `ModelSet.scored`
    configuration : what the parts of the variant share, as `ModelSet.configuration`
    uses : every fit and choice so far: what, outer (fold), clips (a name in `sets`)
    sets : name -> fnames, sorted
    """

    variant: Path
    clips: pd.DataFrame
    classes: list[str]
    pairs: WindowScores
    single: WindowScores
    sidecar: dict
    scored: dict[str, str]
    uses: list[dict] = field(default_factory=list)
    sets: dict[str, list[str]] = field(default_factory=dict)
    configuration: dict = field(default_factory=dict)

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
        """Windows of every other fold f, scored by the model that saw neither f nor `outer`.

        Clips whose group is also in the outer fold are left out.
        """
        scorer = {fold: folds.model_name(fold, outer) for fold in self.outer_folds if fold != outer}
        is_inner = self.pairs.table["model"] == self.pairs.table["fold"].map(scorer)
        return self.pairs.where(is_inner & self.may_train(self.pairs, outer))

    def may_train(self, windows: WindowScores, *held_out: int) -> np.ndarray:
        """Which windows belong to clips that `folds.training` allows, bool (n_windows,)."""
        clips = self.clips.index[folds.training(self.clips, held_out)]
        return windows.table["fname"].isin(clips).to_numpy()

    def reported(self, outer: int) -> WindowScores:
        """Windows of fold `outer`, scored by each of the k - 1 pair models that did not see it."""
        return self.pairs.in_fold(outer)

    def check_and_record(self, what: str, windows: WindowScores, outer: int | None) -> None:
        """Refuse a fit or choice on windows that leak the outer fold (None: there is none); record its clips.

        Parameters
        ----------
        what : the fit or choice, for the manifest
        windows : those that it reads

        Raises
        ------
        LeakError
            A clip is in the outer fold or shares a group with it, or its scoring model saw the outer fold or the clip's
            own fold.
        """
        folds_table = self.clips.reset_index()[["fname", "group", "fold"]]
        judges = windows.table[["fname", "model"]].rename(columns={"model": "judged_by"})
        held_out = set() if outer is None else {outer}
        folds.assert_no_leak(folds_table, windows.table["fname"], held_out, judges=judges)
        fnames = sorted(set(windows.table["fname"]))
        name = digest(fnames)
        self.sets[name] = fnames
        self.uses.append({"what": what, "outer": outer, "clips": name})

    def manifest(self) -> dict[str, object]:
        """`uses`, `sets`, and `reported`: outer fold (as text) -> the clips that are scored there."""
        reported = {str(g): self.clips.index[self.clips["fold"] == g].tolist() for g in self.outer_folds}
        return {"uses": self.uses, "sets": self.sets, "reported": reported}


def read(home: Path, variant: str, profile: str, *, selects: bool = True) -> Design:
    """The design of a run's variant, from outputs/<run>/04_kfold/<variant> and the run's folds.csv.

    Parameters
    ----------
    home : outputs/<run>
    profile : named in the commands that train what is missing
    selects : whether anything is fitted or chosen; else there are no pair models, and `pairs` is empty

    Raises
    ------
    FileNotFoundError, ValueError, LeakError
        As `ModelSet.open`, of all models, and as `ModelSet.labelled` and `ModelSet.windows`.
    """
    models = ModelSet.open(home, variant, "all" if selects else "single", profile=profile)
    single = models.windows(models.single)
    pairs = models.windows(folds.pair_models(models.n_folds)) if selects else single.where(np.arange(0))
    of_models = models.labelled(), models.sidecar["classes"], pairs, single, models.sidecar, models.scored
    return Design(models.folder, *of_models, configuration=models.configuration)


def read_seeds(design: Design, home: Path, profile: str, seed: int, repeats: int) -> list[Design]:
    """The design, whose models have `seed`, and those of the following seeds, which need no pair models.

    Parameters
    ----------
    home, profile : as for `read`
    repeats : number of seeds

    Raises
    ------
    FileNotFoundError, ValueError
        As `read`; a seed that scored other clips than the design, or other labels or folds of them, or whose models
        have another recipe or seed.
    """
    further = [read(home, name, profile, selects=False) for name in of_seeds(design.variant.name, seed, repeats)[1:]]
    check_alike([design, *further])
    for number, one in enumerate(further, seed + 1):
        differ = differences(*({**part.configuration, "seed": seed} for part in (one, design)), common=True)
        if differ or one.sidecar["seed"] != number:
            why = differ or f"its models have seed {one.sidecar['seed']}"
            raise ValueError(
                f"{one.variant.name} is not {design.variant.name} with seed {number} ({why}). Train it again: "
                f"-p seed {number} -p overwrite True."
            )
    return [design, *further]


def check_alike(designs: list[Design]) -> None:
    """ValueError unless all designs are of the same clips, labels, audio, folds and classes."""
    one = designs[0]
    for other in designs[1:]:
        differ = other_data(one.configuration, other.configuration)
        if differ or one.classes != other.classes or not one.clips.equals(other.clips):
            what = f"({differ})" if differ else "in clips, labels, folds or classes"
            names = f"{one.variant.name} and {other.variant.name}"
            raise ValueError(f"{names} differ {what}. Train one of them again: -p overwrite True.")


def pooled(windows: WindowScores, method: str, parameter: float | None = None) -> pd.DataFrame:
    """Clip scores by a pooling: each model's windows are pooled, then the models are averaged; index fname, sorted."""
    key = windows.table["model"] + "/" + windows.table["fname"]  # names of models hold no "/"
    weights = windows.table["energy"].to_numpy() if pooling.find(method).weighted else None
    keys, scores = pooling.pool(method, key, windows.scores, parameter=parameter, weights=weights)
    fnames, scores = pool_mean([name.split("/", 1)[1] for name in keys], scores)
    return pd.DataFrame(scores, fnames)


def averaged(windows: WindowScores) -> WindowScores:
    """The mean over models of each window's scores, as if one model had given them; `model` lists all names."""
    key = windows.table["window_start_s"].map("{:012.3f}".format) + "/" + windows.table["fname"]
    keys, scores = pool_mean(key, windows.scores)
    first = windows.table.assign(key=key).drop_duplicates("key").set_index("key")
    names = " ".join(sorted(windows.table["model"].unique()))
    return WindowScores(first.loc[keys].reset_index(drop=True).assign(model=names), scores)


@settings.group
class Reader(settings.Stage2):
    """Makes prediction images and trains stage-2 models, by the knobs of `settings.Stage2`."""

    def rows(self, design: Design, training: WindowScores) -> np.ndarray:
        """The class of each row, int (n_classes,): by alphabet, or by the confusions of the training windows."""
        if self.class_order == "alphabetical":
            return np.arange(len(design.classes))
        scores = pooled(training, BASE_POOLING)
        return stage2.confusion_order(design.targets.loc[scores.index].to_numpy(), scores)

    def images(self, design: Design, windows: WindowScores, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Prediction images, each clip scored by one model: fnames, images float32 (n_clips, n_classes, n_columns)."""
        columns = stage2.n_columns(design.window_s, design.hop_s, self.max_clip_s)
        return stage2.make_images(windows, columns, rows)

    def fit(
        self, design: Design, kind: str, training: WindowScores, outer: int | None, seed: int, what: str
    ) -> Stage2Model:
        """Train a stage-2 model for an outer fold (None: for use, on all folds).

        Parameters
        ----------
        kind : one of `stage2.MODELS`
        training : the windows to train on
        what : name of this fit in the manifest

        Raises
        ------
        LeakError
            As `Design.check_and_record`.
        """
        design.check_and_record(what, training, outer)
        rows = self.rows(design, training)
        clips, images = self.images(design, training, rows)
        torch.manual_seed(seed)
        model = Stage2Model(kind, images.shape[2], rows.tolist(), torch.from_numpy(images))
        targets = design.targets.loc[clips].to_numpy()
        return learners.fit_images(model, images, targets, loss=design.loss, epochs=self.stage2_epochs, seed=seed)


@dataclass(frozen=True)
class Readout:
    """A pooling or a stage-2 model, fitted for one outer fold.

    Attributes
    ----------
    name : in `pooling.POOLINGS` or `stage2.MODELS`, or an idea
    parameter : of the pooling; None where it has none
    models : stage-2 models, one a seed; empty for a pooling
    loss : that of the window models
    inner : scores of the training clips, which selection may use. A stage-2 model that scores a clip was not fitted on
        the clip's fold. float64, index fname, a column a class
    """

    name: str
    parameter: float | None = None
    models: tuple[Stage2Model, ...] = ()
    loss: str = ""
    inner: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)

    def read(self, windows: WindowScores) -> list[pd.DataFrame]:
        """Clip scores by each seed, index fname, sorted; a pooling has one seed."""
        by_seed = [_by_stage2(model, windows, self.loss) for model in self.models]
        return by_seed or [pooled(windows, self.name, self.parameter)]


def fit_readouts(
    design: Design, reader: Reader, names: Collection[str] = (), seeds: Collection[int] = ()
) -> dict[str, dict[int, Readout]]:
    """Fit poolings and stage-2 models for every outer fold: name -> outer fold -> readout.

    Parameters
    ----------
    names : of poolings, stage-2 models or ideas; none: all. Poolings that weigh windows by energy need `with_energy`.
    seeds : of the stage-2 models; `Readout.inner` comes from the first

    Raises
    ------
    LeakError
        As `Design.check_and_record`.
    ValueError
        An unknown name, or a pooling by energy without energy.
    """
    energy = "energy" in design.pairs.table
    known = [*(name for name, made in pooling.POOLINGS.items() if energy or not made.weighted), *MODELS]
    if unknown := [name for name in names if name not in known and not ideas.is_idea(name)]:
        raise ValueError(f"readouts: {', '.join(unknown)} can't be made here. There are: {', '.join(known)}.")
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
            fitted[name][outer] = Readout(name, parameter, inner=pooled(training, name, parameter))
    return fitted


def inner_scores(design: Design, fitted: dict[str, dict[int, Readout]]) -> pd.DataFrame:
    """Scores of every readout on the training folds: the only ones that selection may use.

    Returns
    -------
    outer, method, parameter, lwlrap, hit_rate; the methods in the order of `fitted`
    """
    rows, targets = [], design.targets
    for name, by_fold in fitted.items():
        for outer, readout in by_fold.items():
            reached = reached_on(targets, readout.inner)
            rows.append({"outer": outer, "method": name, "parameter": readout.parameter, **reached})
    return pd.DataFrame(rows)


def reached_on(targets: pd.DataFrame, inner: pd.DataFrame) -> dict[str, float]:
    """lwlrap and hit_rate of clip scores, both with the index fname; NaN without any clip."""
    if inner.empty:
        return dict.fromkeys(("lwlrap", "hit_rate"), np.nan)
    return metrics.point_scores(targets.loc[inner.index].to_numpy(), inner.to_numpy())


def read_outer(
    design: Design, by_fold: dict[int, Readout], source: Callable[[int], WindowScores] | None = None
) -> np.ndarray:
    """Scores of each outer fold by the readout that was fitted for it, (n_seeds, n_clips, n_classes).

    Clips are in the order of `Design.clips`.

    Parameters
    ----------
    by_fold : outer fold -> readout
    source : outer fold -> the windows of that fold to read; None: `Design.reported`
    """
    source = source or design.reported
    seeds = zip(*[readout.read(source(g)) for g, readout in by_fold.items()], strict=True)
    whole, clips = [pd.concat(parts) for parts in seeds], design.clips.index
    for scores in whole:
        if sorted(scores.index) != sorted(clips):
            raise ValueError(
                f"{len(scores)} scores of {scores.index.nunique()} clips, expected one for each of {len(clips)} clips. "
                "Give every outer fold once."
            )
    return np.stack([scores.loc[clips].to_numpy() for scores in whole])


def with_energy(design: Design, cache: Cache) -> Design:
    """Add the column `energy` to the windows: mean power, relative to the loudest window of the clip, in [0, 1]."""
    for side in (s for s in (design.pairs, design.single) if len(s.table)):
        rows = side.table[["fname", "window_start_s"]].drop_duplicates()
        power = windows.energy(cache, rows, design.window_s)
        table = rows.assign(energy=power / power.groupby(rows["fname"]).transform("max"))
        side.table["energy"] = side.table.merge(table, how="left", validate="many_to_one")["energy"].to_numpy()
    return design


def prediction_images(design: Design, reader: Reader, fnames: list[str]) -> tuple[np.ndarray, list[str]]:
    """Prediction images of clips, from scores of the models `without_f`, and the class of each row.

    Returns
    -------
    images float32 (n, n_classes, n_columns), scores in [0, 1], 0 where there is no window; names of the n_classes rows
    """
    rows = reader.rows(design, design.single)
    clips, images = reader.images(design, design.single.where(design.single.table["fname"].isin(fnames)), rows)
    return images[pd.Index(clips).get_indexer(fnames)] / stage2.WHITE, [design.classes[i] for i in rows]


def choose_parameter(design: Design, method: str, training: WindowScores, outer: int | None) -> float | None:
    """The parameter of a pooling that is best on the training windows; None where it has none.

    Raises LeakError as `Design.check_and_record`.
    """
    if not pooling.find(method).grid:
        return None
    design.check_and_record(f"choose the parameter of {method}", training, outer)
    return pooling.choose(method, training.table["fname"], training.scores, design.targets)


def _inner(design: Design, reader: Reader, kind: str, outer: int, seed: int) -> pd.DataFrame:
    """Clip scores of each training fold, by a stage-2 model that was fitted on the other folds and groups."""
    training, parts = design.training(outer), []
    for fold in [fold for fold in design.outer_folds if fold != outer]:
        rest = training.where(design.may_train(training, outer, fold))
        model = reader.fit(design, kind, rest, outer, seed, f"fit {kind} without {fold}")
        parts.append(_by_stage2(model, training.in_fold(fold), design.loss))
    return pd.concat(parts).sort_index()


def _by_stage2(model: Stage2Model, source: WindowScores, loss: str) -> pd.DataFrame:
    """Stage 2 reads the windows of each stage-1 model; the clip scores are averaged; index fname, sorted."""
    parts = [stage2.clip_scores(model, one, loss) for _, one in source.by_model()]
    fnames, scores = pool_mean(*(np.concatenate(side) for side in zip(*parts, strict=True)))
    return pd.DataFrame(scores, fnames)
