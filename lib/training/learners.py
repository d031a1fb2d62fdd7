"""Training a window model from scratch with fastai.

Conventions
-----------
Everything random in an epoch is drawn from (seed, epoch) alone. So the same seed gives the same weights to the last
bit, and a training that was killed goes on from its checkpoint to the same weights.
The last epoch is the result; no epoch is picked.

Used in: 00, 02 to 05, 07; 06 and 10 (`fit_images`). Only this module and its `callbacks` import fastai.
"""

import contextlib
import functools
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import ParamScheduler  # noqa: F401  (adds fit_one_cycle and others to Learner)
from fastai.data.core import DataLoaders
from fastai.learner import CastToTensor, Learner, Recorder, SkipToEpoch
from fastai.optimizer import OptimWrapper
from torch import nn
from tqdm import tqdm

from lib import code, ideas, settings
from lib.data import datasets
from lib.evaluation import folds, metrics
from lib.files import digest
from lib.sound.cache import Cache
from lib.sound.windows import Windows, trim
from lib.training import tryout
from lib.training.batches import Images, Phases, Scoring, Training, TrainingSet
from lib.training.callbacks import Checkpoint, Curve, Diverged, ImageSize, Mixing, Reseed, Scaler, image_sizes
from lib.training.dls import Feed
from lib.training.models import Network, WindowModel, best_device, load, score
from lib.training.task import Fit, Task

__all__ = ["Diverged", "Recipe", "crowding", "feed", "find_lr", "fit", "fit_images", "groups", "learner", "pace"]
__all__ += ["train_fold", "training_batches"]

WEIGHT_DECAY = 0.01
Q = 0.7  # of the generalised cross entropy
BUSY_S = 0.2  # s in which other processes' use of the cores is measured
ADAMW = functools.partial(OptimWrapper, opt=functools.partial(torch.optim.AdamW, fused=True))
STAGE2_LR = 0.01  # one-cycle peak, usual for AdamW on networks this small; not tuned
STAGE2_BATCH = 64  # images


def known_bce(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of logits, (n, n_classes), the mean over the targets that are known (not NaN)."""
    losses = nn.functional.binary_cross_entropy_with_logits(logits, targets.nan_to_num(), reduction="none")
    return _mean_of_known(losses, targets)


def generalised_ce(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Generalised cross entropy, (1 - p ** Q) / Q with p the probability of the given label, per class by a sigmoid.

    Between cross entropy (Q -> 0) and the absolute error (Q = 1), which forgives wrong labels. The mean over the known
    targets; those between 0 and 1 weigh the loss of either label.

    Source
    ------
    Zhang and Sabuncu 2018, Generalized Cross Entropy Loss, there with a softmax.
    """
    heard, silent = ((1 - (Q * nn.functional.logsigmoid(z)).exp()) / Q for z in (logits, -logits))
    return _mean_of_known(torch.lerp(silent, heard, targets.nan_to_num()), targets)


def _mean_of_known(losses: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    known = ~targets.isnan()
    return (losses * known).sum() / known.sum().clamp_min(1)


class QuickLearner(Learner):
    """fastai's Learner with AdamW, which calls a callback only where it has a method for the event.

    Without such a method fastai looks for one in the learner and the model, dozens of times a step.
    """

    def __init__(self, dls: DataLoaders, model: nn.Module, loss: Callable, **how: object) -> None:
        super().__init__(dls, model, loss, ADAMW, wd=WEIGHT_DECAY, **how)

    def _call_one(self, event_name: str) -> None:
        for callback in self.cbs.sorted("order"):
            if hasattr(type(callback), event_name) or event_name == "after_fit":  # then all of them are reset
                callback(event_name)


LOSSES = {"bce": known_bce, "ce": nn.functional.cross_entropy, "lq": generalised_ce}
SCHEDULES = {"one_cycle": Learner.fit_one_cycle, "flat": Learner.fit, "flat_cosine": Learner.fit_flat_cos}
assert (tuple(LOSSES), tuple(SCHEDULES)) == (tuple(settings.LOSSES), settings.SCHEDULES)


@settings.group
class Recipe(settings.Training):
    """How to train, by AdamW: the knobs of `settings.Training`.

    loss bce takes multi-hot targets, ce targets that sum to 1, lq those of bce, but it forgives wrong labels. The
    learning rate is geometric between lr_body and lr; flat_cosine is flat for 3/4 of the training, then goes down.
    See `augment.MIXES` (mix), `augment.AUGMENTATIONS` (augment; the masks come last), `batches.Training` (balance),
    `callbacks.image_sizes` (progressive).

    Raises
    ------
    ValueError
        If a setting is out of range, or none of its choices, or contradicts another one.
    """

    def __post_init__(self) -> None:
        if self.balance == "augment" and not self.mask_share:
            raise ValueError("balance='augment' widens the masks, but mask_share=0.0 has none. Set it above 0.")

    @property
    def peak(self) -> float | slice:
        """The learning rates as fastai takes them."""
        return slice(self.lr_body, self.lr) if self.lr_body else self.lr


def fit(
    network: Network,
    recipe: Recipe,
    training: Training | Phases,
    validation: Scoring,
    checkpoint: Path,
    label: str = "training",
    start: Path | None = None,
) -> tuple[WindowModel, pd.DataFrame]:
    """Train from scratch, or continue from `checkpoint` if the same configuration and code wrote it.

    Parameters
    ----------
    checkpoint : file that is written while training; the caller removes it when the result is safe
    label : shown at the progress bar
    start : weights file of the same network to start from, instead of random weights

    Returns
    -------
    The trained model, and a table with a row an epoch: epoch, lr, train_loss, valid_loss, lwlrap (over the windows of
    `validation`, at most 20 points; NaN between). Its attrs hold images_per_s: training windows over the seconds of
    training batches.

    Warns
    -----
    RuntimeWarning
        As `crowding`.

    Raises
    ------
    ValueError
        Fewer than two training clips, targets that do not fit the loss, or impossible input sizes.
    Diverged
        A loss that is NaN or infinite.
    """
    if crowded := crowding(best_device()):
        warnings.warn(crowded, RuntimeWarning, stacklevel=2)
    sizes = image_sizes(recipe.epochs, recipe.progressive, network.image_size)
    model, cbs = _prepared(network, recipe, training, validation)
    if start is not None:
        model.load_state_dict(load(start)[0].state_dict())
    curve = Curve(recipe.epochs)
    rows = training.rows[["first_frame", "n_frames"]].to_numpy(np.int64).tobytes()
    clips = training.rows["fname"].tolist(), rows, training.targets.numpy().tobytes()
    begun = start.read_bytes() if start is not None else b""
    judged = validation.table[["fname", "start_frame"]].to_csv()  # the curve of a checkpoint is of these windows
    asked = network.settings(), recipe.settings(), training.seed, training.cache.name, training.width
    mine = digest(*asked, *clips, begun, judged, code.digest("04_kfold"))
    saver = Checkpoint(checkpoint, mine, curve)
    learn = _learner(model, recipe, (training, validation), [*cbs, curve, saver, ImageSize(sizes)])
    learn.remove_cbs([Recorder, CastToTensor])  # the first one reads every loss back
    done = saver.restore(learn)
    first = SkipToEpoch(done)  # fit_flat_cos takes a start_epoch, but forgets it
    curve.bar = tqdm(desc=label, total=recipe.epochs, initial=done, unit="epoch")
    with learn.no_bar(), learn.no_logging(), curve.bar:
        SCHEDULES[recipe.schedule](learn, recipe.epochs, recipe.peak, cbs=first)
    epochs = pd.DataFrame(curve.rows, columns=Curve.COLUMNS)
    epochs.attrs["images_per_s"] = curve.images_per_s
    return model, epochs


def crowding(device: torch.device) -> str:
    """A warning if a training on `device` would share the processor's cores with other processes; else empty.

    Threads of one training wait for each other many times a batch: with more threads than free cores it takes several
    times as long. A training of one thread only gets its share of a core.
    """
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    if device.type != "cpu" or threads == 1:
        return ""
    busy = psutil.cpu_percent(BUSY_S) / 100 * cores  # this process waits meanwhile
    if threads + busy < cores + 0.5:
        return ""
    return (
        f"Other processes keep {busy:.1f} of {cores} cores busy, and this training has {threads} threads: it can take "
        "ten times as long. Stop it and start it with one thread (OMP_NUM_THREADS=1 before papermill or jupyter; make "
        "lab and make run do so), or once the others are done."
    )


def fit_images(
    model: nn.Module, images: np.ndarray, targets: np.ndarray, *, loss: str, epochs: int, seed: int
) -> nn.Module:
    """Train a stage-2 model (`stage2.Stage2Model`), one-cycle with AdamW, and give it back; the last epoch counts.

    Parameters
    ----------
    images, targets : float32 (n, n_classes, n_columns) and (n, n_classes), of training folds, scored by models that
        did not see them: `nested` finds them
    seed : of the order of images and of dropout; weights are drawn when the model is built

    Raises
    ------
    ValueError
        Fewer than two images, or another number of targets.
    """
    if len(images) != len(targets) or len(images) < 2:
        raise ValueError(f"{len(images)} images and {len(targets)} targets: two or more are needed, one target each.")
    batches = Images(images, targets.astype(np.float32), STAGE2_BATCH, seed)
    learn = QuickLearner(DataLoaders(batches, []), model, LOSSES[loss], cbs=[Reseed(seed)])
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs, STAGE2_LR)
    return model.eval()


def train_fold(
    task: Task,
    name: str,
    network: Network,
    cut: Windows,
    recipe: Recipe,
    seed: int,
    *,
    checkpoint: Path,
    training_set: TrainingSet | None = None,
    start: Path | None = None,
) -> Fit:
    """Train a model and score the clips that it did not see. Only `checkpoint` is written: the caller saves.

    Parameters
    ----------
    name : what the model does not see, as `folds.model_name` says it: without_2, without_2_4
    cut : length and hop of the windows
    checkpoint, start : as in `fit`
    training_set : what to train on instead of the curated clips as they are, at equal compute; clips in the cache

    Raises
    ------
    LeakError
        If a training clip shares a group with a held-out fold, or was judged by a model that saw it or such a fold.
    ValueError, Diverged
        As `fit`.
    ideas.Failed
        An idea of your own raised: failed.txt beside the checkpoint holds the traceback.
    """
    held_out, cache = folds.unseen(name), task.cache
    train, scored = task.split(*held_out)
    fnames, groups, judges = (train["fname"], None, None) if training_set is None else training_set.provenance
    folds.assert_no_leak(task.folds, fnames, held_out, groups=groups, judges=judges)
    validation = task.scoring(scored, cut)
    if training_set is None:
        training = training_batches(cache, train, task.classes, cut, recipe, seed)
    else:
        training, recipe = feed(cache, training_set, len(train), cut, recipe, seed)
    with _told(checkpoint.with_name("failed.txt"), (network.settings(), recipe.settings(), cache.logmel.settings())):
        model, epochs = fit(network, recipe, training, validation, checkpoint, name, start)
    sidecar = {
        "classes": task.classes,
        "audio": cache.logmel.settings(),
        "windows": cut.settings(),
        "recipe": recipe.settings(),
        "seed": seed,
        "trained_on": "curated" if training_set is None else training_set.name,
        "unseen_folds": sorted(held_out),
        "folds": folds.digest(task.folds),
        "precision": str(model.precision).removeprefix("torch."),
    }
    (logits,) = score([model], cache, validation.table, validation.width)
    speed = epochs.attrs["images_per_s"]
    return Fit(name, model, sidecar, epochs, scored, validation.table, logits, sorted(set(fnames)), speed)


@contextlib.contextmanager
def _told(place: Path, settings: tuple) -> Iterator[None]:
    """What an idea raises goes into the file `place` too; of a training without ideas nothing is written."""
    place.unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        if not (used := ideas.named(settings)):
            raise
        if isinstance(error, Diverged):
            raise Diverged(
                f"{error} Or an idea gives no finite numbers: this training uses {', '.join(used)}."
            ) from error
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(traceback.format_exc(), encoding="utf-8")
        words = f"{type(error).__name__}: {error}"
        raise ideas.Failed(f"{words}\nThis training uses {', '.join(used)}; {place} holds the traceback.") from error


def training_batches(
    cache: Cache, clips: pd.DataFrame, classes: list[str], cut: Windows, recipe: Recipe, seed: int
) -> Training:
    """The training batches of a recipe. `clips` (fname, labels) are those to train on."""
    rows = trim(cache, cache.rows(clips["fname"]), recipe.trim_train_db)
    return Training(cache, rows, datasets.targets(clips, classes), cut.n_frames(cache.logmel), recipe, seed)


def feed(
    cache: Cache, chosen: TrainingSet, n_base: int, cut: Windows, recipe: Recipe, seed: int
) -> tuple[Training | Phases, Recipe]:
    """Batches of a training set, and the recipe with its epochs adjusted to equal compute.

    All training sets show recipe.epochs * n_base windows (or their `share` of these), up to rounding; a warm-up takes
    half of them.

    Parameters
    ----------
    n_base : clips that the recipe's epochs are counted in: the curated clips of this model
    """
    parts = chosen.phases
    share = recipe.epochs * n_base * chosen.share / len(parts)
    epochs = [max(1, round(share / len(part.targets))) for part in parts]
    fed = [Training(cache, part.rows, part.targets, cut.n_frames(cache.logmel), recipe, seed) for part in parts]
    training = fed[0] if len(fed) == 1 else Phases(*fed, epochs[0])
    return training, replace(recipe, epochs=sum(epochs))


def find_lr(network: Network, recipe: Recipe, training: Training) -> pd.DataFrame:
    """The loss while the learning rate grows, one batch per step, from 1e-7 until it diverges or reaches 10.

    Mixing and augmentation are those of the recipe; its learning rates and schedule play no part, and all layers have
    the same one. The model is thrown away.

    Returns
    -------
    A row a step: lr, loss (smoothed). Its attrs hold `suggested`, the lr of fastai's valley: the middle of the
    longest stretch in which the loss falls.

    Raises
    ------
    ValueError
        Fewer than two training clips, or targets that do not fit the loss.
    """
    model, cbs = _prepared(network, recipe, training, training)
    with tempfile.TemporaryDirectory() as folder:  # fastai keeps the first weights in a file, to go back to them
        learn = _learner(model, recipe, (training, training), cbs, folder)
        with learn.no_bar():
            suggested = learn.lr_find(show_plot=False).valley
    table = pd.DataFrame({"lr": learn.recorder.lrs, "loss": [float(loss) for loss in learn.recorder.losses]})
    table.attrs["suggested"] = suggested
    return table


def pace(network: Network, recipe: Recipe, training: Training) -> Callable[[], float]:
    """A function that trains another epoch of these batches and gives the seconds a window; the model is thrown away.

    Raises
    ------
    ValueError
        As `fit`.
    """
    model, cbs = _prepared(network, recipe, training, training)
    learn = _learner(model, recipe, (training, []), cbs)
    learn.remove_cbs([Recorder, CastToTensor])

    def epoch() -> float:
        started = time.perf_counter()
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, recipe.lr)
        next(model.parameters()).detach().cpu()  # waits for the device
        return (time.perf_counter() - started) / training.n_windows

    return epoch


def learner(
    task: Task, fold: int, network: Network, cut: Windows, recipe: Recipe, seed: int, *, show: Callable, folder: Path
) -> Learner:
    """A fastai Learner to try things with: it trains on the clips outside a fold and validates on the windows of that.

    Loss, optimiser, batches and what is drawn are those of `train_fold`; the schedule is whatever is called, such as
    `learn.fit_one_cycle(recipe.epochs, recipe.peak)`. It has no checkpoint, and what it reaches is no result.
    `learn.show_batch()` shows training windows, `learn.show_results()` validation windows with what the model says of
    them. Its metric is the lwlrap of windows.

    Parameters
    ----------
    cut : length and hop of the windows
    show : draws windows and lets hear them, see `dls`
    folder : for fastai's own files, such as those of `learn.save`

    Raises
    ------
    LeakError
        As `train_fold`.
    ValueError
        No such fold; fewer than two training clips; targets that do not fit the loss; an idea as `tryout.check` says.
    """
    if fold not in range(task.n_folds):
        raise ValueError(f"fold={fold} holds out no clip to validate on. Take 0 to {task.n_folds - 1}.")
    train, held_out = task.split(fold)
    folds.assert_no_leak(task.folds, train["fname"], (fold,))
    training = training_batches(task.cache, train, task.classes, cut, recipe, seed)
    validation = task.scoring(held_out, cut)
    model, cbs = _prepared(network, recipe, training, validation)
    feeds = [Feed(batches, task.classes, recipe.loss, show) for batches in (training, validation)]
    learn = _learner(model, recipe, feeds, cbs, folder)
    from fastai.metrics import AccumMetric  # here, for it takes a second, and no other training needs it

    learn.metrics = [AccumMetric(metrics.lwlrap, to_np=True, invert_arg=True, flatten=False)]
    learn.show_batch = learn.dls.show_batch
    return learn


def groups(model: WindowModel, recipe: Recipe) -> pd.DataFrame:
    """The parameter groups of the optimiser that trains `model`: a row each, from the first layers to the head.

    Returns
    -------
    group (1, 2, ...), first_layer, last_layer (their names), n_parameters, lr (peak): slice(lr_body, lr) gives lr_body
    to the first group, lr to the last, and the geometric mean to the one between
    """
    learn = _learner(model, recipe)
    learn.create_opt()
    learn.opt.set_hyper("lr", recipe.peak)
    names = {id(parameter): name.rpartition(".")[0] or name for name, parameter in model.named_parameters()}
    rows = [
        [k, names[id(group[0])], names[id(group[-1])], sum(map(torch.numel, group)), float(hyper["lr"])]
        for k, (group, hyper) in enumerate(zip(learn.opt.param_lists, learn.opt.hypers, strict=True), start=1)
    ]
    return pd.DataFrame(rows, columns=["group", "first_layer", "last_layer", "n_parameters", "lr"])


def _prepared(
    network: Network, recipe: Recipe, training: Training | Phases, validation: Scoring
) -> tuple[WindowModel, list[Callback]]:
    """A new model, drawn from the seed of `training`, its batches on its device and ideas tried; and callbacks."""
    _check(training, recipe.loss)
    torch.manual_seed(0)
    for name in (named := ideas.named((network.settings(), recipe.settings()))):
        ideas.find({}, name)  # what its file draws as it runs is no draw of the training
    torch.manual_seed(training.seed)
    mean, std = training.cache.statistics(training.fnames, per_band=network.normalise == "band")
    shape = training.cache.logmel.n_mels, training.width
    model = WindowModel(network, training.targets.shape[1], mean, std, shape).prepare()
    device = next(model.parameters()).device
    cache = training.cache.on(device)  # which all parts share; windows are gathered there, where the frames fit
    for part in (*_parts(training), validation):
        part.cache, part.device = cache, device
    if named:
        for part in _parts(training):
            tryout.check(part, ideas.find(LOSSES, recipe.loss), model)
    cbs: list[Callback] = [Reseed(training.seed)]
    if recipe.mixup:
        cbs.append(Mixing(recipe, training.cache.logmel.in_db, training.seed))
    if model.precision == torch.float16:
        cbs.append(Scaler(device))
    return model, cbs


def _learner(
    model: WindowModel, recipe: Recipe, feeds: Sequence = (), cbs: Sequence[Callback] = (), folder: str = "."
) -> Learner:
    """A learner with the recipe's loss; `feeds` are training and validation batches, `folder` is for fastai's files."""
    dls = DataLoaders(*feeds, device=next(model.parameters()).device)
    how = {"splitter": WindowModel.param_groups, "cbs": list(cbs), "path": folder}
    return QuickLearner(dls, model, ideas.find(LOSSES, recipe.loss), **how)


def _parts(feed: Training | Phases | Scoring) -> tuple:
    """The feeds of one training set each that a feed goes through."""
    return getattr(feed, "parts", (feed,))


def _check(training: Training, loss: str) -> None:
    """Refuse what cannot be trained, before anything is written."""
    if len(training.fnames) < 2:
        raise ValueError(f"{len(training.fnames)} training clips: at least 2 are needed. Look at data.problems.")
    labels = training.targets.sum(dim=1)
    if loss == "ce" and not bool((labels == 1).all()):
        n = int((labels != 1).sum())
        raise ValueError(f"loss='ce' needs one label a clip, but {n} training clips have more or none. Use loss='bce'.")
