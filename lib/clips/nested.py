"""The nested design: what may be known of which clips while fold g is still to be reported.

The pair model `without_f_g` saw neither f nor g. So for the outer fold g, its scores of fold f are out-of-fold scores
that know nothing of g: on those of all f, poolings are chosen and second models trained. The result is then read once
on g, by the same models, and g rotates over all folds.

Conventions
-----------
Every fit and every choice passes `Design.admit`, which refuses a leak and writes down the clips for the manifest.
Clips are found by (fname, fold, model), never by position; clip scores come sorted by fname.

Used in: 06, 10.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from lib.clips import pooling
from lib.data import datasets
from lib.evaluation import folds
from lib.evaluation.window_scores import WindowScores, pool_mean
from lib.files import digest
from lib.runs.modelset import ModelSet

__all__ = ["Design", "averaged", "pooled", "read", "shown_once"]


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
        return self.pairs.where(self.pairs.table["fold"] == outer)

    def admit(self, what: str, windows: WindowScores, outer: int | None) -> None:
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
    weights = windows.table["energy"].to_numpy() if pooling.POOLINGS[method].weighted else None
    keys, scores = pooling.pool(method, key, windows.scores, parameter=parameter, weights=weights)
    return pool_mean([name.split("/", 1)[1] for name in keys], scores)


def averaged(windows: WindowScores) -> WindowScores:
    """The models' scores averaged window by window, as if one model had given them (`model` names all of them)."""
    starts = windows.table["window_start_s"].map("{:012.3f}".format)
    keys, scores = pool_mean(starts + "/" + windows.table["fname"], windows.scores)
    first = windows.table.assign(key=starts + "/" + windows.table["fname"]).drop_duplicates("key").set_index("key")
    names = " ".join(sorted(windows.table["model"].unique()))
    return WindowScores(first.loc[keys].reset_index(drop=True).assign(model=names), scores)


def shown_once(parts: Iterable[tuple[np.ndarray, np.ndarray]], clips: pd.Index) -> np.ndarray:
    """Clip scores of all outer folds in the order of `clips`, float64 (n_clips, n_classes).

    Raises
    ------
    ValueError
        Unless every clip is scored just once.
    """
    parts = list(parts)
    fnames = np.concatenate([names for names, _ in parts])
    if len(fnames) != len(clips) or set(fnames) != set(clips):
        raise ValueError(f"{len(fnames)} scores of {len(set(fnames))} clips for {len(clips)}: each is reported once.")
    return np.concatenate([scores for _, scores in parts])[pd.Index(fnames).get_indexer(clips)]
