"""The trials of an experiment, one after the other: what is done is read, what is not is trained.

Used in: `sweep` (02, 03), `ensembles` (07), `leaks` (05).
"""

from collections.abc import Callable, Iterable
from typing import Any

from tqdm import tqdm

from lib.runs.run import Run, already

__all__ = ["run_all"]


def run_all(
    run: Run,
    asked: Iterable[tuple],
    start: Callable[..., Run],
    train: Callable[..., Any],
    read: Callable[..., Any],
    *,
    what: str = "trials",
    is_whole: Callable[..., bool] = lambda trial, *key: trial.done,
) -> dict[tuple, Any]:
    """What every trial of an experiment found.

    Parameters
    ----------
    run : of the experiment, settled; its trials are made of the same labels, audio and folds
    asked : keys of the trials, such as (variant, fold, seed)
    start : key -> the trial, as `Run.trial` makes it
    train : trial, key -> what it found; it finishes the trial
    read : trial, key -> the same of a trial that was done before
    is_whole : trial, key -> whether it was done before, with all that others read of it

    Returns
    -------
    key -> what the trial found, in the order that was asked for

    Raises
    ------
    ValueError
        As `Run.settle`.
    """
    found, done = {}, []
    for key in tqdm(list(asked), desc=what, unit="training"):
        trial = start(*key)
        trial.settle(**run.read)
        if is_whole(trial, *key):
            done.append(trial)
            found[key] = read(trial, *key)
        else:
            found[key] = train(trial, *key)
    if done:
        tqdm.write(already(done))
    return found
