"""Training a window model from scratch with fastai.

Conventions
-----------
Everything random in an epoch is drawn from (seed, epoch) alone. So the same seed gives the same weights to the last
bit, and a training that was killed goes on from its checkpoint to the same weights.
The last epoch is the result; no epoch is picked.

Used in: 02, 03, 04, 07. The only module that imports fastai.
"""

import contextlib
import functools
import json
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback, CancelValidException
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import ParamScheduler  # noqa: F401  (adds fit_one_cycle to Learner)
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.metrics import AccumMetric
from fastai.optimizer import OptimWrapper
from safetensors import safe_open
from safetensors import torch as safetensors
from torch import nn
from tqdm import tqdm

from lib import datasets, folds, metrics, oof, windows
from lib.batches import Scoring, Training
from lib.cache import Cache
from lib.files import digest, whole_file
from lib.models import Network, WindowModel, save, score

__all__ = ["Recipe", "fit", "train_fold"]

WEIGHT_DECAY = 0.01
VALIDATIONS = 20  # points of the learning curve
CHECKPOINT_S = 30.0  # s between checkpoints: a killed training loses that and an epoch at most
LOSSES = {"bce": nn.BCEWithLogitsLoss, "ce": nn.CrossEntropyLoss}


@dataclass(frozen=True)
class Recipe:
    """How to train; one-cycle schedule, AdamW.

    Parameters
    ----------
    loss : bce (multi-hot targets) or ce (targets that sum to 1)
    epochs : passes over the training clips
    batch_size : windows
    lr, lr_body : peak learning rate of the head and of the first layers (0: as lr), geometric between them
    mixup : alpha of the Beta distribution; 0: off
    mask_share : widest SpecAugment mask as a share of its axis; 0: off
    """

    loss: str
    epochs: int
    batch_size: int
    lr: float
    lr_body: float
    mixup: float
    mask_share: float

    def settings(self) -> dict:
        return asdict(self)


def fit(
    network: Network,
    recipe: Recipe,
    training: Training,
    validation: Scoring,
    checkpoint: Path,
    label: str = "",
) -> tuple[WindowModel, pd.DataFrame]:
    """Train from scratch, or go on from `checkpoint` where that was written by the same configuration.

    Parameters
    ----------
    checkpoint : file that is written while training; the caller removes it when the result is safe
    label : shown at the progress bar

    Returns
    -------
    The trained model, and a table with a row an epoch: epoch, lr, train_loss, valid_loss, lwlrap (over the windows of
    `validation`, about 20 points; NaN between).

    Raises
    ------
    ValueError
        Fewer than two training clips, targets that do not fit the loss, or a loss that is no number any more.
    """
    _check(training, recipe.loss)
    torch.manual_seed(training.seed)
    mean, std = training.cache.statistics(training.rows["fname"])
    model = WindowModel(network, training.targets.shape[1], mean, std).prepare()
    curve = _Curve(recipe.epochs, label)
    clips = training.rows["fname"].tolist(), training.targets.numpy().tobytes()
    mine = digest(network.settings(), recipe.settings(), training.seed, training.cache.name, training.width, *clips)
    saver = _Checkpoint(checkpoint, mine, curve)
    learn = Learner(
        DataLoaders(training, validation, device=next(model.parameters()).device),
        model,
        loss_func=LOSSES[recipe.loss](),
        opt_func=functools.partial(OptimWrapper, opt=functools.partial(torch.optim.AdamW, fused=True)),
        splitter=WindowModel.param_groups,
        wd=WEIGHT_DECAY,
        metrics=AccumMetric(metrics.lwlrap, flatten=False, to_np=True, invert_arg=True, name="lwlrap"),
        cbs=[_Reseed(training.seed), curve, saver, *([MixUp(recipe.mixup)] if recipe.mixup else [])],
    )
    with learn.no_bar(), learn.no_logging(), contextlib.closing(curve):
        lr = slice(recipe.lr_body, recipe.lr) if recipe.lr_body else recipe.lr
        learn.fit_one_cycle(recipe.epochs, lr, start_epoch=saver.restore(learn))
    return model, pd.DataFrame(curve.rows, columns=_Curve.COLUMNS)


def train_fold(
    part: Path,
    cache: Cache,
    clips: pd.DataFrame,
    classes: list[str],
    fold_table: pd.DataFrame,
    network: Network,
    cut: windows.Windows,
    recipe: Recipe,
    seed: int,
) -> dict[str, list[str]]:
    """Train the model that `part` names (without_2, without_2_4) and score the clips that it did not see.

    Writes weights.safetensors, weights.json, oof_windows.npz, clips.csv and epochs.csv into `part`.

    Parameters
    ----------
    part : folder, called as `folds.model_name` calls the model
    cache, clips : log-mels and table (fname, group, labels) of the curated clips
    fold_table : fname, group, fold
    cut : length and hop of the windows

    Returns
    -------
    {"train": fnames, "scored": fnames}: the clips of the fit, for the manifest

    Raises
    ------
    LeakError
        If a training clip shares a group with a held-out fold.
    """
    held_out = folds.unseen(part.name)
    dealt = fold_table.merge(clips[["fname", "labels"]], on="fname", validate="one_to_one")
    train, scored = dealt[~dealt["fold"].isin(held_out)], dealt[dealt["fold"].isin(held_out)]
    folds.assert_no_leak(fold_table, train["fname"], held_out)
    width = cut.n_frames(cache.logmel)
    table = windows.rolling(cache.rows(scored["fname"]), cut, cache.logmel).merge(scored, on="fname")
    training = Training(
        cache,
        cache.rows(train["fname"]),
        datasets.targets(train, classes),
        width,
        batch_size=recipe.batch_size,
        mask_share=recipe.mask_share,
        seed=seed,
    )
    validation = Scoring(cache, table, datasets.targets(table, classes), width)
    model, epochs = fit(network, recipe, training, validation, part / "checkpoint.safetensors", part.name)
    sidecar = {
        "classes": classes,
        "audio": cache.logmel.settings(),
        "windows": cut.settings(),
        "recipe": recipe.settings(),
        "seed": seed,
        "unseen_folds": sorted(held_out),
        "folds": folds.digest(fold_table),
        "precision": str(model.precision).removeprefix("torch."),
    }
    save(part / "weights.safetensors", model, sidecar)
    oof.write(part, table, score(model, cache, table, width), scored, classes, recipe.loss)
    with whole_file(part / "epochs.csv") as partial:
        epochs.to_csv(partial, index=False)
    return {"train": train["fname"].tolist(), "scored": scored["fname"].tolist()}


class _Reseed(Callback):
    """Draw everything random in an epoch from (seed, epoch), so that a resumed training cannot tell the difference."""

    order = -20

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_epoch(self) -> None:
        state = int(np.random.default_rng([self.seed, self.epoch, 1]).integers(2**31))
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)
        self.dls.train.epoch = self.epoch


class _Curve(Callback):
    """A row an epoch and a progress bar; validates at about VALIDATIONS epochs, the last one among them."""

    order = 55  # after the Recorder
    COLUMNS = ("epoch", "lr", "train_loss", "valid_loss", "lwlrap")

    def __init__(self, epochs: int, label: str) -> None:
        self.every, self.label, self.rows, self.bar = max(1, epochs // VALIDATIONS), label, [], None

    def before_fit(self) -> None:
        self.bar = tqdm(total=self.n_epoch, initial=len(self.rows), desc=self.label or "training", unit="epoch")

    def before_train(self) -> None:
        self.total, self.seen, self.validated = 0.0, 0, False

    def after_batch(self) -> None:
        if self.training:
            self.total, self.seen = self.total + self.loss_grad.detach() * len(self.x), self.seen + len(self.x)
        else:
            self._stop_if_diverged(float(self.loss))  # the last step of an epoch may be the one that goes astray

    def after_train(self) -> None:
        self.loss_now = float(self.total) / self.seen
        self._stop_if_diverged(self.loss_now)

    def before_validate(self) -> None:
        if (self.n_epoch - 1 - self.epoch) % self.every:
            raise CancelValidException
        self.validated = True

    def after_epoch(self) -> None:
        if len(self.rows) > self.epoch:
            return  # an epoch that the checkpoint already had
        scores = [float(v) for v in self.recorder.log[2:4]] if self.validated else [np.nan, np.nan]
        self.rows.append([self.epoch, float(self.opt.hypers[-1]["lr"]), self.loss_now, *scores])
        self.bar.set_postfix(loss=f"{self.loss_now:.3f}")
        self.bar.update()

    def close(self) -> None:
        """Leave no open bar behind, whether the training ended well or not."""
        if self.bar is not None:
            self.bar.close()

    def _stop_if_diverged(self, loss: float) -> None:
        if not np.isfinite(loss):
            raise ValueError(f"The loss is {loss} in epoch {self.epoch}: training diverged. Lower lr.")


class _Checkpoint(Callback):
    """Weights, optimiser and curve in one safetensors file, written whole every CHECKPOINT_S seconds."""

    order = 60

    def __init__(self, path: Path, configuration: str, curve: _Curve) -> None:
        self.path, self.configuration, self.curve = Path(path), configuration, curve

    def before_fit(self) -> None:
        self.saved = time.monotonic()

    def after_epoch(self) -> None:
        last = self.epoch == self.n_epoch - 1
        if self.epoch < self.first or not (last or time.monotonic() - self.saved >= CHECKPOINT_S):
            return
        tensors = {f"model/{name}": tensor.contiguous() for name, tensor in self.model.state_dict().items()}
        state = self.opt.opt.state_dict()["state"]
        tensors |= {f"opt/{i}/{name}": t.contiguous() for i, values in state.items() for name, t in values.items()}
        about = {"configuration": self.configuration, "rows": json.dumps(self.curve.rows)}
        with whole_file(self.path) as partial:
            partial.write_bytes(safetensors.save(tensors, metadata=about))
        self.saved = time.monotonic()

    def restore(self, learn: Learner) -> int:
        """Load the checkpoint, if it is of this configuration; the epoch to go on with."""
        self.first = 0
        learn.create_opt()
        if not self.path.is_file():
            return 0
        with safe_open(self.path, "pt", device=str(next(learn.model.parameters()).device)) as file:
            if file.metadata()["configuration"] != self.configuration:
                return 0
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            self.curve.rows = json.loads(file.metadata()["rows"])
        learn.model.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
        optimiser = learn.opt.opt
        places = [place for group in optimiser.param_groups for place in group["params"]]
        state: dict[int, dict] = {i: {} for i in range(len(places))}
        for name, tensor in tensors.items():
            if name.startswith("opt/"):
                i, key = name.split("/")[1:]
                place = places[int(i)]  # moments lie in memory as their weights do: the fused optimiser counts on it
                state[int(i)][key] = torch.empty_like(place).copy_(tensor) if tensor.shape == place.shape else tensor
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        self.first = len(self.curve.rows)
        return self.first


def _check(training: Training, loss: str) -> None:
    """Refuse what cannot be trained, before anything is written."""
    if len(training.rows) < 2:
        raise ValueError(f"{len(training.rows)} training clips: at least 2 are needed. Look at data.problems.")
    labels = training.targets.sum(dim=1)
    if loss == "ce" and not bool((labels == 1).all()):
        n = int((labels != 1).sum())
        raise ValueError(f"loss='ce' needs one label a clip, but {n} training clips have more or none. Use loss='bce'.")
