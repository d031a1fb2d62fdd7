"""The trials of an experiment, one after the other: trials that are done are read, the others are trained.

Conventions
-----------
A trial is a training with a result of its own (`Run.trial`). Its key is (variant, fold that it does not see, seed).

Used in: `sweep` (02, 03), `ensembles` (07), `leaks` (05).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from tqdm import tqdm

from lib.evaluation import folds, metrics
from lib.evaluation.window_scores import WindowScores
from lib.files import read_json
from lib.runs import oof
from lib.runs.run import Run, already
from lib.training.task import Fit

__all__ = ["do", "keep"]


def do(
    run: Run,
    keys: Iterable[tuple],
    train: Callable[..., WindowScores | None],
    *,
    changes: Mapping[str, dict[str, object]] | None = None,
    is_whole: Callable[..., bool] = lambda trial, *key: True,
) -> Iterator[tuple[tuple, Run, WindowScores | None]]:
    """Yield each trial with its window scores; train those that are not done yet.

    Parameters
    ----------
    run : of the experiment, settled; its trials read the same labels, audio and folds
    train : (trial, *key) -> its window scores, or None where it diverged or failed; it finishes the trial
    changes : variant -> the parameters of its trials that differ from those of the run; None: no variant changes any
    is_whole : (trial, *key) -> whether a trial that is done has all files that other trials need; else it is trained

    Yields
    ------
    key, trial and scores (None where the training failed), in the order of `keys`

    Raises
    ------
    ValueError
        As `Run.settle`.
    """
    done = []
    for key in tqdm(list(keys), desc="trials", unit="training"):
        variant, fold, seed = key
        trial = run.trial(variant, folds.model_name(fold), seed, **(changes or {}).get(variant, {}))
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
    """Save a fit and finish its trial, with the scores of the clips of `fold`; return the window scores."""
    trial.check_unchanged()
    clips = oof.save(trial.folder, fit, keep_weights=keep_weights)
    clips = replace(clips, table=clips.table[clips.table["fold"] == fold])
    scores = metrics.bootstrap(clips.targets, clips.scores, clips.groups)
    conclusion = f"lwlrap {scores['lwlrap']:.3f} on {scores['n']} clips."
    trial.finish(scores, "measured", conclusion, again=True, **fit.facts)
    return fit.scored
