"""Out-of-fold scores on disk: the scores of models for clips that they did not see.

Conventions
-----------
A part is a folder outputs/<run>/04_kfold/<variant>/without_2[_4] with
oof_windows.npz : fname, window_start_s (s), fold, logits (n_windows, n_classes) float32, classes; no pickle. Beside
                  clips.csv also that file's digest, so that a changed table is noticed.
clips.csv       : fname, group, fold, labels (comma-joined), then a column of scores in [0, 1] for each class: the
                  arithmetic mean over the clip's windows, always.
epochs.csv      : the learning curve.
Rows are matched by fname and fold, never by position.

Used in: 02 to 07, 10.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib.data import datasets
from lib.evaluation import folds, metrics
from lib.evaluation.window_scores import WindowScores, pool_mean
from lib.files import digest, whole_file
from lib.training import models
from lib.training.models import activate
from lib.training.task import Fit

__all__ = ["Clips", "read", "read_logits", "read_windows", "save", "write", "write_windows"]

COLUMNS = ["fname", "group", "fold", "labels"]
WINDOWS = {"fname": str, "window_start_s": float, "fold": np.int64}
AGAIN = "Train it again: -p overwrite True."


@dataclass(frozen=True)
class Clips:
    """Clip scores of one part, or of all parts that are done.

    Attributes
    ----------
    table : as clips.csv, sorted by fname; also the column `model` (without_2 ...); labels as tuples
    classes : in submission order
    epochs : learning curves, with the column `model`
    missing : folds that are not done yet
    """

    table: pd.DataFrame
    classes: list[str]
    epochs: pd.DataFrame
    missing: list[int]

    @property
    def targets(self) -> np.ndarray:
        """0/1 float32 (n_clips, n_classes)"""
        return datasets.targets(self.table, self.classes)

    @property
    def scores(self) -> np.ndarray:
        """float64 (n_clips, n_classes)"""
        return self.table[self.classes].to_numpy(float)

    @property
    def groups(self) -> np.ndarray:
        return self.table["group"].to_numpy(str)

    @property
    def best_epoch_gain(self) -> float:
        """What a model's best epoch, picked on its held-out fold, has above the last one: lwlrap of windows, the mean
        over the models. Such a pick is a leak; NaN where no epoch was validated."""
        of_model = self.epochs.dropna(subset="lwlrap").groupby("model")["lwlrap"]
        return float((of_model.max() - of_model.last()).mean())

    def hardest(self, n: int) -> pd.DataFrame:
        """The n clips with the highest loss on their labels: fname, labels, first (best-scored class), loss (nats)."""
        first = np.array(self.classes)[self.scores.argmax(axis=1)]
        losses = metrics.clip_losses(self.targets, self.scores).round(3)
        table = self.table[["fname", "labels"]].assign(first=first, loss=losses)
        return table.sort_values(["loss", "fname"], ascending=[False, True]).head(n).reset_index(drop=True)

    def prior(self, folds_table: pd.DataFrame, targets: np.ndarray) -> np.ndarray:
        """The baseline: for every clip, the class frequencies of its model's training clips.

        Parameters
        ----------
        folds_table : of all curated clips
        targets : (n, n_classes), in the order of `folds_table`

        Returns
        -------
        float64 (n_clips, n_classes), in the order of `table`
        """
        scores = np.empty((len(self.table), len(self.classes)))
        for model in self.table["model"].unique():
            rows, trained = self.table["model"] == model, folds.training(folds_table, folds.unseen(model))
            scores[rows] = metrics.prior_scores(targets[trained], rows.sum())
        return scores


def save(part: Path, fit: Fit, *, keep_weights: bool = True) -> Clips:
    """Write a fit: weights, oof_windows.npz, clips.csv and epochs.csv.

    Parameters
    ----------
    keep_weights : False: don't write weights.safetensors and weights.json (for experiments of many trainings)

    Returns
    -------
    The clip scores, as `read` returns them

    Raises
    ------
    ValueError
        As `write`.
    """
    classes = list(fit.sidecar["classes"])
    if keep_weights:
        models.save(part / "weights.safetensors", fit.model, fit.sidecar)
    table = write(part, fit.table, fit.logits, fit.clips, classes, fit.sidecar["recipe"]["loss"])
    with whole_file(part / "epochs.csv") as partial:
        fit.epochs.to_csv(partial, index=False)
    return Clips(table.assign(model=part.name), classes, fit.epochs.assign(model=part.name), [])


def write(
    part: Path, windows: pd.DataFrame, logits: np.ndarray, clips: pd.DataFrame, classes: list[str], loss: str
) -> pd.DataFrame:
    """Write oof_windows.npz and clips.csv.

    Parameters
    ----------
    windows : fname, window_start_s (s), fold, a row a window
    logits : (n_windows, n_classes)
    clips : fname, group, fold, labels (tuples) of the scored clips
    loss : of the training; it decides how logits become scores

    Returns
    -------
    The clips, sorted by fname, with a column of scores for each class

    Raises
    ------
    ValueError
        A class whose name holds a comma or is the name of a column: clips.csv would be ambiguous.
    """
    if confused := [name for name in classes if "," in name or name in datasets.RESERVED]:
        raise ValueError(f"Classes {confused} hold a comma or have the name of a column of score tables. Rename them.")
    fnames, scores = pool_mean(windows["fname"], activate(logits, loss))
    table = clips.set_index("fname").loc[fnames, COLUMNS[1:]].reset_index()
    table = pd.concat([table, pd.DataFrame(scores, columns=classes)], axis=1)
    with whole_file(part / "clips.csv") as partial:
        table.assign(labels=table["labels"].map(",".join)).to_csv(partial, index=False)
    write_windows(part, windows, logits, classes, clips=digest((part / "clips.csv").read_bytes()))
    return table


def write_windows(part: Path, windows: pd.DataFrame, logits: np.ndarray, classes: list[str], **digests: str) -> None:
    """Write oof_windows.npz: logits (n_windows, n_classes) of windows (fname, window_start_s, fold), and digests."""
    arrays = {name: windows[name].to_numpy(kind) for name, kind in WINDOWS.items()}
    with whole_file(part / "oof_windows.npz") as partial, open(partial, "wb") as file:
        np.savez(file, **arrays, logits=logits.astype(np.float32), classes=np.array(classes, str), **digests)


def read(part: Path) -> Clips:
    """Clip scores of one part.

    Raises
    ------
    ValueError
        A file was damaged since it was written.
    """
    text = {"fname": str, "group": str, "labels": str}
    try:
        table = pd.read_csv(part / "clips.csv", dtype=text, keep_default_na=False, float_precision="round_trip")
        epochs = pd.read_csv(part / "epochs.csv").assign(model=part.name)
    except (OSError, ValueError) as error:  # also a table that is empty, or was cut off
        raise ValueError(f"{part}: scores are damaged ({error}). {AGAIN}") from error
    if (part / "oof_windows.npz").is_file():
        written = _load(part)
        is_same = str(written.get("clips", "")) in ("", digest((part / "clips.csv").read_bytes()))
        if not is_same or set(table["fname"]) != set(written["fname"]):
            raise ValueError(f"{part}/clips.csv is damaged: it is not the one of oof_windows.npz. {AGAIN}")
    classes = list(table.columns[len(COLUMNS) :])
    table["labels"] = [tuple(labels.split(",")) for labels in table["labels"]]
    table = table.assign(model=part.name).sort_values("fname", ignore_index=True)
    return Clips(table, classes, epochs, [])


def read_windows(part: Path, loss: str) -> WindowScores:
    """The window scores of a part, by the model that its folder names; `loss` decides how logits become scores.

    Raises as `read_logits`.
    """
    table, logits = read_logits(part)
    return WindowScores(table.assign(model=part.name), activate(logits, loss))


def read_logits(part: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """The content of oof_windows.npz: fname, window_start_s (s), fold, a row a window; float32 (n_windows, n_classes).

    Raises
    ------
    ValueError
        The file was damaged since it was written.
    """
    arrays = _load(part)
    return pd.DataFrame({name: arrays[name] for name in WINDOWS}), arrays["logits"]


def _load(part: Path) -> dict[str, np.ndarray]:
    """The arrays of oof_windows.npz; raises as `read_logits`."""
    try:
        with np.load(part / "oof_windows.npz", allow_pickle=False) as arrays:
            return dict(arrays)
    except (zipfile.BadZipFile, EOFError, FileNotFoundError, ValueError) as error:
        raise ValueError(f"{part}/oof_windows.npz is damaged ({error}). {AGAIN}") from error
