"""Equal compute: how many epochs each variant of an experiment is trained for.

Conventions
-----------
A budget is `trial_epochs` passes of the base over the training clips; a variant may change `trial_epochs`, and with it
the budget. The parameter `compute` says what is equal under a budget:
  pixels  : pixels of all training inputs, whatever the network makes of them
  windows : training windows
  seconds : seconds of training, measured on this machine: a step of the variant beside one of the base
Seconds a window are measured once for each variant and kind of device and kept in seconds_<device>.csv of the
experiment, so that a later call trains for the same number of epochs.

Used in: `sweep` (02, 03).
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import harmonic_mean, median

import pandas as pd
import torch
from tqdm import tqdm

from lib import ideas, settings
from lib.files import digest, whole_file
from lib.runs.run import Run
from lib.sound.windows import Windows
from lib.training import learners
from lib.training.batches import image_pixels
from lib.training.models import Network, best_device
from lib.training.task import Task

__all__ = ["epochs", "seconds"]

N_BATCHES = 4  # timed at once
TURNS = 5  # of all variants, one after the other; their median counts
COLUMNS = ["variant", "changes", "device", "seconds", "base_seconds"]

Table = dict[str, dict[str, object]]


def epochs(run: Run, table: Table, find_task: Callable[[Run], Task]) -> dict[str, int]:
    """Variant -> epochs of a training of it; at least one for each input size that it goes through.

    Parameters
    ----------
    run : of the experiment; its parameters are the base's
    table : variant -> the parameters that it changes
    find_task : trial -> the clips with the log-mels of that trial
    """
    params = run.params
    if params["compute"] == "seconds":
        ratios = _seconds(run, table, find_task)
    elif params["compute"] == "pixels":
        ratios = {name: image_pixels(params) / image_pixels({**params, **changes}) for name, changes in table.items()}
    else:
        ratios = dict.fromkeys(table, 1.0)
    budget = {name: changes.get("trial_epochs", params["trial_epochs"]) for name, changes in table.items()}
    least = {name: 1 + len(changes.get("progressive", params["progressive"])) for name, changes in table.items()}
    return {name: max(least[name], round(budget[name] * ratios[name])) for name in table}


def seconds(run: Run, table: Table) -> dict[str, float]:
    """Variant -> seconds a window of training, all beside the same seconds of the base; of those that were measured."""
    known, keys = _read(_place(run)), {name: _key(run, changes) for name, changes in table.items()}
    known = known[known["changes"].isin(keys.values())]
    if known.empty:
        return {}
    base = known["base_seconds"].iloc[0]
    own = dict(zip(known["changes"], base * known["seconds"] / known["base_seconds"], strict=True))
    own[_key(run, {})] = base
    return {name: float(own[key]) for name, key in keys.items() if key in own}


def _seconds(run: Run, table: Table, find_task: Callable[[Run], Task]) -> dict[str, float]:
    """Variant -> seconds a window of the base as a multiple of its own; what is not known yet is measured."""
    place = _place(run)
    keys = {name: _key(run, changes) for name, changes in table.items()}
    known = _read(place)
    missing = pd.Series(keys).drop_duplicates()  # that of the first name
    missing = missing[~missing.isin([*known["changes"], _key(run, {})])]
    if len(missing):
        found = _measured(run, {name: table[name] for name in missing.index}, find_task)
        rows = [[name, keys[name], _device(), found[name], found["base"]] for name in missing.index]
        new = pd.DataFrame(rows, columns=COLUMNS)
        known = _read(place)  # another job may have measured them meanwhile: the first counts
        known = pd.concat([known, new[~new["changes"].isin(known["changes"])]], ignore_index=True)
        with whole_file(place) as partial:
            known.to_csv(partial, index=False)
    ratio = dict(zip(known["changes"], known["base_seconds"] / known["seconds"], strict=True)) | {_key(run, {}): 1.0}
    return {name: ratio[key] for name, key in keys.items()}


def _measured(run: Run, table: Table, find_task: Callable[[Run], Task]) -> dict[str, float]:
    """Seconds a window of the base and of each variant, medians of turns that are interleaved."""
    paces = {name: _paces(run, name, changes, find_task) for name, changes in {"base": {}, **table}.items()}
    for pace in (pace for own in paces.values() for pace in own):
        pace()  # the first steps choose kernels and fill caches
    turns = []
    for _ in tqdm(range(TURNS), desc="seconds a window", unit="turn", leave=False):
        turns.append({name: harmonic_mean([pace() for pace in own]) for name, own in paces.items()})
    return {name: float(f"{median(turn[name] for turn in turns):.4g}") for name in paces}


def _paces(run: Run, name: str, changes: dict[str, object], find_task: Callable[[Run], Task]) -> list[Callable]:
    """What trains a few batches of a variant and gives seconds a window, for each of its input sizes.

    Sizes share the compute, so that a window takes the harmonic mean of their seconds.
    """
    trial = run.trial(name, "", run.params["seed"], **changes, epochs=1)
    task, network, recipe = find_task(trial), trial.pick(Network), trial.pick(learners.Recipe)
    train = task.split(task.asked(run.params["folds"])[0])[0].head(N_BATCHES * recipe.batch_size)
    batches = learners.training_batches(task.cache, train, task.classes, trial.pick(Windows), recipe, 0)
    plain = replace(recipe, progressive=())
    sizes = [*recipe.progressive, network.image_size]
    return [learners.pace(replace(network, image_size=size), plain, batches) for size in sizes]


def _place(run: Run) -> Path:
    return run.variant / f"seconds_{best_device().type}.csv"


def _read(place: Path) -> pd.DataFrame:
    return pd.read_csv(place, dtype={"changes": str}) if place.is_file() else pd.DataFrame(columns=COLUMNS)


def _key(run: Run, changes: dict[str, object]) -> str:
    """A digest of the base, of the changes, and of the ideas among them; a budget changes no step."""
    base = settings.configuration(run.params)
    base, changes = ({k: v for k, v in one.items() if k != "trial_epochs"} for one in (base, changes))
    return digest(base, changes, *ideas.sources(changes).values())


def _device() -> str:
    device = best_device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} thread(s)"
