"""What the variants of an experiment look like and what they cost, before they are trained.

Conventions
-----------
Nothing here trains a result: it is to look at. Tables of variants and runs are those of `experiments`.

Used in: 02, 03.
"""

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from lib.data import audio
from lib.experiments import sweep
from lib.runs.run import Run
from lib.sound import cache as caches
from lib.sound import windows
from lib.sound.features import LogMel
from lib.sound.windows import Windows
from lib.training import augment, learners
from lib.training.batches import N_MASKS, image_pixels
from lib.training.models import Network, WindowModel
from lib.training.task import Task

__all__ = ["augmented", "costs", "find_lr", "learning_rates", "pictures"]


def costs(table: sweep.Table, run: Run, clips: pd.DataFrame) -> pd.DataFrame:
    """What the picture of each variant costs: compute, times the base's in the same run, and bytes cached per second.

    Parameters
    ----------
    clips : a few clips to compute on, with `path`

    Returns
    -------
    variant, times_base (processor time, ratio), bytes_per_s (of audio), pixels (of a training picture)
    """
    heard = [audio.read(path, run.params["sample_rate"]) for path in clips["path"]]
    rows, timed = [], {}
    for name, changes in {"base": {}, **table}.items():
        trial = run.trial(name, "", 0, **changes)
        logmel = trial.pick(LogMel)
        if logmel not in timed:
            timed[logmel] = min(_seconds(logmel, heard) for _ in range(3))
        size = logmel.n_channels * logmel.n_mels * 2 * logmel.frames_per_s
        rows.append([name, timed[logmel], round(size), round(image_pixels(trial.params))])
    found = pd.DataFrame(rows, columns=["variant", "times_base", "bytes_per_s", "pixels"])
    found["times_base"] = (found["times_base"] / found["times_base"].iloc[0]).round(2)
    return found.drop_duplicates("variant", ignore_index=True)


def pictures(table: sweep.Table, run: Run, samples: np.ndarray) -> dict[str, np.ndarray]:
    """Every channel that the base and the variants of `table` use, of one clip, as the first that uses it makes it.

    Returns
    -------
    name -> (n_mels, n_frames)
    """
    shown = {}
    for name, changes in {"base": {}, **table}.items():
        logmel = run.trial(name, "", 0, **changes).pick(LogMel)
        for channel, picture in zip(logmel.channels, logmel(samples).numpy(), strict=True):
            shown.setdefault(channel, picture)
    return shown


def augmented(store: caches.Cache, fnames: list[str], run: Run) -> dict[str, np.ndarray]:
    """What training sees of a clip's loudest window: as it is, changed in every way of 03, and mixed with another one.

    Parameters
    ----------
    fnames : two clips

    Returns
    -------
    name -> (n_mels, n_frames) of the first channel, dB
    """
    rows, width = store.rows(fnames), run.pick(Windows).n_frames(store.logmel)
    loudest = [int(store.frames(row)[:, 0].float().mean(dim=1).argmax()) for row in rows.itertuples()]
    slack = rows["n_frames"].to_numpy() - width
    starts = np.clip(np.array(loudest) - width // 3, np.minimum(slack, 0), np.maximum(slack, 0))
    x = windows.batch(store, rows, starts, width)
    in_db, generator = store.logmel.in_db, torch.Generator().manual_seed(run.params["seed"])
    shown = {"as it is": x[0], "another clip": x[1]}
    shown |= {name: change(x, in_db, generator)[0] for name, change in augment.AUGMENTATIONS.items()}
    shown["masks"] = augment.spec_augment(x, N_MASKS, run.params["mask_share"] or 0.15, generator)[0]
    powers = augment.to_power(x, in_db).mean(dim=0, keepdim=True)
    shown["mixup, half and half"] = x.mean(dim=0)
    shown["mixup of powers"] = augment.from_power(powers, in_db)[0]
    shown["overlay"] = augment.add_powers(x[:1], x[1:], in_db)[0]
    return {name: picture[0].numpy() for name, picture in shown.items()}


def learning_rates(table: sweep.Table, run: Run) -> pd.DataFrame:
    """Which layers are in which parameter group, and the peak learning rate that each gets, as the optimiser holds it.

    Returns
    -------
    A row a group: group, first_layer, last_layer, n_parameters, then a column of learning rates for the base and each
    variant of `table` that changes them
    """
    found = pd.DataFrame()
    for name, changes in {"base": {}, **table}.items():
        if name == "base" or {"lr", "lr_body"} & set(changes):
            trial = run.trial(name, "", 0, **changes, epochs=1)
            n_channels = len(trial.params["channels"])
            network = replace(trial.pick(Network), normalise="set")  # the same layers, without statistics of bands
            model = WindowModel(network, 2, [0.0] * n_channels, [1.0] * n_channels)
            groups = learners.groups(model, trial.pick(learners.Recipe))
            found = groups.drop(columns="lr") if found.empty else found
            found[name] = groups["lr"]
    return found


def find_lr(run: Run, task: Task) -> pd.DataFrame:
    """The loss of the base over a growing learning rate, on the clips outside the first asked fold; see `learners`."""
    trial = run.trial("base", "", run.params["seed"], epochs=1)
    train, _ = task.split(task.asked(run.params["folds"])[0])
    cut, recipe = trial.pick(Windows), trial.pick(learners.Recipe)
    training = learners.training_batches(task.cache, train, task.classes, cut, recipe, run.params["seed"])
    return learners.find_lr(trial.pick(Network), recipe, training)


def _seconds(logmel: LogMel, heard: list[np.ndarray]) -> float:
    started = time.process_time()
    for samples in heard:
        logmel(samples)
    return time.process_time() - started
