"""The trials of an experiment, one after the other: what is done is read, what is not is trained.

Conventions
-----------
A trial is a result of its own (`Run.trial`), known by its key: (variant, fold, seed) or the like.

Used in: `sweep` (02, 03), `ensembles` (07), `leaks` (05).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from tqdm import tqdm

from lib.evaluation import metrics
from lib.evaluation.window_scores import WindowScores
from lib.files import read_json
from lib.runs import oof
from lib.runs.run import Run, already
from lib.training.task import Fit

__all__ = ["do", "keep"]


def do(
    run: Run,
    keys: Iterable[tuple],
    start: Callable[..., Run],
    train: Callable[..., WindowScores | None],
    *,
    is_whole: Callable[..., bool] = lambda trial, *key: True,
) -> Iterator[tuple[tuple, Run, WindowScores | None]]:
    """Each trial with its window scores; those that are not done yet are trained.

    Parameters
    ----------
    run : of the experiment, settled; its trials are made of the same labels, audio and folds
    start : key -> the trial
    train : trial, key -> its window scores, None where it diverged or failed; finishes the trial
    is_whole : trial that is done, key -> whether all that others need of it is there

    Yields
    ------
    key, trial and scores, in the order of `keys`

    Raises
    ------
    ValueError
        As `Run.settle`.
    """
    done = []
    for key in tqdm(list(keys), desc="trials", unit="training"):
        trial = start(*key)
        trial.settle(**run.read)
        if not trial.done or not is_whole(trial, *key):
            yield key, trial, train(trial, *key)
            continue
        done.append(trial)
        failed = read_json(trial.folder / "result.json")["verdict"] == "failed"
        yield key, trial, None if failed else oof.read_windows(trial.folder, trial.params["loss"])
    if done:
        tqdm.write(already(done))


def keep(trial: Run, fit: Fit, fold: int, *, keep_weights: bool = False) -> WindowScores:
    """Save what a training gave, finish the trial with its clip scores of `fold`, and give back its window scores."""
    clips = oof.save(trial.folder, fit, keep_weights=keep_weights)
    clips = replace(clips, table=clips.table[clips.table["fold"] == fold])
    found = metrics.bootstrap(clips.targets, clips.scores, clips.groups)
    says = f"lwlrap {found['lwlrap']:.3f} on {found['n']} clips."
    trial.finish(found, "measured", says, again=True, **fit.facts)
    return fit.scored
