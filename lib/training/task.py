"""The input and the result of a training.

Conventions
-----------
A model is named by the folds that it did not see, as `folds.model_name` says it: without_2, without_2_4.
Curated clips have a fold; noisy clips have none, but may share a group with a clip that has.

Used in: 00, 02 to 05, 07; made by `Run.task`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from lib.data import datasets
from lib.evaluation import folds
from lib.evaluation.window_scores import WindowScores
from lib.sound.cache import Cache
from lib.sound.windows import Windows, rolling
from lib.training.batches import Scoring
from lib.training.models import WindowModel, activate

__all__ = ["Fit", "Task"]


@dataclass(frozen=True, eq=False)
class Task:
    """The clips that are trained on and scored, with their folds and log-mels.

    Attributes
    ----------
    data : the clips in use, and the problems of the set that they come from
    folds : folds table of the curated clips, sorted by fname
    cache : log-mels of the clips
    """

    data: datasets.Dataset
    folds: pd.DataFrame
    cache: Cache

    @property
    def classes(self) -> tuple[str, ...]:
        """In submission order."""
        return tuple(self.data.classes)

    @cached_property
    def clips(self) -> pd.DataFrame:
        """All clips in use (columns as of `datasets`), sorted by fname."""
        return self.data.clips.sort_values("fname", ignore_index=True)

    @cached_property
    def curated(self) -> pd.DataFrame:
        """The curated ones."""
        return self.clips[self.clips["subset"] == "curated"].reset_index(drop=True)

    @property
    def targets(self) -> np.ndarray:
        """0/1 float32 (n_clips, n_classes), of the curated clips."""
        return datasets.targets(self.curated, self.classes)

    @property
    def n_folds(self) -> int:
        return self.folds["fold"].nunique()

    @property
    def identity(self) -> dict[str, object]:
        """What a result is made of, for `Run.settle`: digests of labels, groups and audio by subset, and of folds."""
        clips = self.data.clips
        by_subset = {"labels": datasets.label_digests(clips, self.classes), "groups": datasets.group_digests(clips)}
        return {**by_subset, "audio": self.cache.audio, "folds": folds.digest(self.folds)}

    @property
    def by_fold(self) -> pd.DataFrame:
        """How many clips and groups a fold has; index fold."""
        return self.folds.groupby("fold").agg(clips=("fname", "size"), groups=("group", "nunique"))

    @property
    def notes(self) -> list[str]:
        """What these folds can't measure, see `folds.notes`."""
        return folds.notes(self.folds, self.targets, self.classes)

    def asked(self, some: Collection[int]) -> list[int]:
        """The folds that a run asks for, all if it names none; ValueError for one that does not exist."""
        for fold in some:
            folds.check_fold(fold, -1, self.n_folds)
        return list(some) or list(range(self.n_folds))

    def split(self, *held_out: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The clips that may train a model that is evaluated on the folds `held_out`, and the clips of these folds.

        A clip of another fold whose group also stands in a held-out one is in neither.

        Returns
        -------
        Two tables: fname, group, fold, labels, sorted by fname
        """
        clips = self.folds.merge(self.curated[["fname", "labels"]], on="fname", validate="one_to_one")
        return clips[folds.training(clips, held_out)], clips[clips["fold"].isin(held_out)]

    def windows(self, clips: pd.DataFrame, cut: Windows) -> pd.DataFrame:
        """Inference windows of clips in the cache, as `windows.rolling`, beside the columns of `clips` (fname ...)."""
        return rolling(self.cache, self.cache.rows(clips["fname"]), cut).merge(clips, on="fname")

    def scoring(self, clips: pd.DataFrame, cut: Windows) -> Scoring:
        """Batches of the inference windows of clips (fname, labels ...), with their targets."""
        table = self.windows(clips, cut)
        return Scoring(self.cache, table, datasets.targets(table, self.classes), cut.n_frames(self.cache.logmel))


@dataclass(frozen=True, eq=False)
class Fit:
    """A trained model, and its scores of the clips that it did not see.

    Attributes
    ----------
    name : what the model did not see
    sidecar : for the file beside its weights: classes, recipe and everything else that scoring needs
    epochs : the learning curve, see `learners.fit`
    clips : fname, group, fold, labels (tuples) of the scored clips
    table : a row a window of these: fname, window_start_s (s), fold
    logits : float32 (n_windows, n_classes)
    trained_on : fnames
    images_per_s : training windows a second; NaN where it was not measured
    """

    name: str
    model: WindowModel
    sidecar: dict[str, object]
    epochs: pd.DataFrame
    clips: pd.DataFrame
    table: pd.DataFrame
    logits: np.ndarray
    trained_on: list[str]
    images_per_s: float = np.nan

    @property
    def scored(self) -> WindowScores:
        """The windows and their scores."""
        scores = activate(self.logits, self.sidecar["recipe"]["loss"])
        return WindowScores(self.table.assign(model=self.name), scores)

    @property
    def facts(self) -> dict[str, object]:
        """For the manifest: the clips that trained the model and those that it scored, pace and precision."""
        clips = {"train": self.trained_on, "scored": self.clips["fname"].tolist()}
        return {"clips": clips, "images_per_s": self.images_per_s, "precision": self.sidecar["precision"]}
