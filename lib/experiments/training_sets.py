"""What a model trains on: which clips, which windows of them, which labels.

Conventions
-----------
judges        : the pair models of 04's curated variant, which select windows and labels in 05
train_set     : curated; curated_noisy (both at once); warm_up (noisy, then curated); pseudo (both, but noisy clips get
                the classes that their judges detect as labels); fewer_passes (the curated clips alone, as many passes
                as they get in curated_noisy: the control of curated_noisy).
train_windows : all; kept (only windows that 05 kept); kept_noisy (the same for noisy clips, all windows of curated).
targets       : 1 present, 0 absent, NaN unknown. Unknown is a label that no kept window of the clip confirms and, with
                ignore_missing, a class that the judges detect strongly but the clip does not list.
A model that is evaluated on fold g is trained on what judges without g selected. Their names are passed on with the
windows, and `folds.assert_no_leak` checks them.

Used in: 04_kfold, 05_curation (`leaks`).
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lib import settings
from lib.data import datasets
from lib.evaluation import folds
from lib.files import digest, read_json
from lib.runs.recipes import is_judged, papermill, selection
from lib.runs.run import Run
from lib.sound import windows
from lib.training.batches import TrainingSet
from lib.training.task import Task

__all__ = ["MISSING", "PSEUDO", "SUBSETS", "from_kept", "make", "sources", "whole"]

SUBSETS = {name: ["curated", "noisy"] for name in settings.TRAIN_SETS}
SUBSETS["curated"] = ["curated"]  # fewer_passes counts the noisy clips, but trains on none
PSEUDO = 0.5  # mean score over a clip's windows from which on a class is a pseudo-label
MISSING = 0.9  # score of a clip's best window from which on a class that is not listed is unknown


def sources(run: Run) -> dict[str, str]:
    """For `Run.settle`: `curation`, the digest of the selection that this run trains on; empty if it uses none.

    Raises
    ------
    FileNotFoundError
        05 has not selected yet; the message holds the command.
    """
    if not is_judged(run.params):
        return {}
    if not (_selected(run) / "result.json").is_file():
        where = {"data_dir": run.params["data_dir"], "run": run.params["run"]}
        how = papermill("05_curation", str(run.params["profile"]), **where, part="select")
        raise FileNotFoundError(f"{_selected(run)} holds no finished selection. Make it first: {how}")
    return {"curation": selection(run.home, run.params["rule"])}


def make(run: Run, task: Task) -> TrainingSet | None:
    """The training set for the parameters of a run of 04; None for the curated clips as they are.

    Parameters
    ----------
    task : of the subsets in SUBSETS for this train_set

    Raises
    ------
    FileNotFoundError
        05 has not selected by this rule and for this fold.
    ValueError
        Parameters that contradict each other; a subset without usable clips; a pair model that would train on judged
        windows (their judges saw one of its folds); a selection made on other folds, or one that leaves no clip.
    """
    params, clips, folds_table = run.params, task.clips, task.folds
    wanted = params["train_set"], params["train_windows"], params["ignore_missing"]
    if wanted == ("curated", "all", False):
        return None
    name = "_".join([*wanted[:2], *([params["rule"]] if wanted[1] != "all" else []), *(["ignore_missing"] * wanted[2])])
    if params["train_windows"] == "kept_noisy" and params["train_set"] in ("curated", "pseudo"):
        raise ValueError(
            f"train_windows='kept_noisy' and train_set={params['train_set']!r}: there are no labels of noisy clips to "
            "keep windows for. Take train_set curated_noisy or warm_up, or train_windows all."
        )
    if params["ignore_missing"] and params["loss"] == "ce":
        raise ValueError(
            "ignore_missing=True and loss='ce': each clip has exactly one label there, so no class can be unknown. "
            "Take loss bce, or leave ignore_missing out."
        )
    if gone := set(SUBSETS[params["train_set"]]) - set(clips["subset"]):
        raise ValueError(
            f"train_set={params['train_set']!r}, but the data set holds no usable {' and no '.join(sorted(gone))} "
            "clip. Put its audio there, or take train_set curated."
        )
    held_out = folds.unseen(run.folder.name)
    if is_judged(run.params) and len(held_out) > 1:
        raise ValueError(
            f"{run.folder.name} would train on windows whose judges saw one of its folds. Train single folds."
        )
    clips = clips[folds.training(folds_table, held_out, clips["group"])]
    clips = clips[clips["subset"].isin(SUBSETS[params["train_set"]])]
    predicted = _predicted_labels(run, folds_table) if is_judged(run.params) else None
    parts = []
    for subset in SUBSETS[params["train_set"]]:
        here = clips[clips["subset"] == subset].reset_index(drop=True)
        if (params["train_set"], subset) == ("pseudo", "noisy"):
            part = _pseudo(name, task, here, predicted, params["trim_train_db"])
        elif params["train_windows"] in ("kept", f"kept_{subset}"):
            kept = _read(_selected(run), f"{params['rule']}/{run.folder.name}/kept_windows.csv")
            part = from_kept(name, task, here, kept[kept["subset"] == subset], params["window_s"])
        else:
            part = whole(name, task, here, params["trim_train_db"])
        parts.append(_ignoring(part, predicted, task.classes) if params["ignore_missing"] else part)
    if params["train_set"] == "warm_up":
        training_set = replace(parts[0], warm_up=parts[1])
    elif params["train_set"] == "fewer_passes":
        training_set = replace(parts[0], share=len(parts[0].targets) / sum(len(part.targets) for part in parts))
    else:
        training_set = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    if not all(len(part.targets) for part in training_set.phases):
        raise ValueError(f"{name} leaves {run.folder.name} no clip to train on. Take a rule that keeps more.")
    return training_set


def whole(name: str, task: Task, clips: pd.DataFrame, trim_db: float = 0.0) -> TrainingSet:
    """Clips (fname, group, labels) as they are, without the silence that `windows.trim` removes at trim_db (dB)."""
    no_judges = pd.DataFrame({"fname": [], "judged_by": []}, dtype=str)
    groups = dict(zip(clips["fname"], clips["group"], strict=True))
    rows = windows.trim(task.cache, task.cache.rows(clips["fname"]), trim_db)
    return TrainingSet(name, rows, datasets.targets(clips, task.classes), groups, no_judges)


def from_kept(name: str, task: Task, clips: pd.DataFrame, kept: pd.DataFrame, window_s: float) -> TrainingSet:
    """The kept windows of the clips, merged into spans; a clip without a kept window is left out.

    Parameters
    ----------
    clips : fname, group, labels, duration_s; those that may train
    kept : a row a window, as 05 writes it (`curation.select`)
    window_s : length of a window, s
    """
    kept = kept[kept["fname"].isin(clips["fname"])]
    spans = windows.spans(kept, clips.set_index("fname")["duration_s"], window_s)
    rows, per_s = task.cache.rows(spans["fname"]), task.cache.logmel.frames_per_s
    first = (spans["start_s"] * per_s).round().astype(int)
    last = np.minimum((spans["end_s"] * per_s).round().astype(int), rows["n_frames"])
    rows = rows.assign(first_frame=rows["first_frame"] + first, n_frames=(last - first).clip(lower=1))
    confirmed = spans.groupby("fname")["labels"].agg(lambda parts: tuple({name for part in parts for name in part}))
    own = clips.set_index("fname").loc[confirmed.index].reset_index()
    part = replace(whole(name, task, own), rows=rows, judges=spans[["fname", "judged_by"]].drop_duplicates())
    is_confirmed = datasets.targets(own.assign(labels=confirmed.to_numpy()), task.classes) == 1
    part.targets[(part.targets == 1) & ~is_confirmed] = np.nan
    return part


def _pseudo(name: str, task: Task, clips: pd.DataFrame, predicted: pd.DataFrame, trim_db: float) -> TrainingSet:
    """Clips with pseudo-labels, the classes that their judges detect; clips without any are left out."""
    detected = predicted[predicted["fname"].isin(clips["fname"]) & (predicted["mean"] >= PSEUDO)]
    labels = detected.groupby("fname")["class"].agg(tuple)
    clips = clips[clips["fname"].isin(labels.index)]
    clips = clips.assign(labels=labels.loc[clips["fname"]].to_numpy())
    judges = detected[["fname", "judged_by"]].drop_duplicates()
    return replace(whole(name, task, clips, trim_db), judges=judges)


def _ignoring(part: TrainingSet, predicted: pd.DataFrame, classes: tuple[str, ...]) -> TrainingSet:
    """The same set, with NaN targets for classes that are detected strongly but not listed."""
    fnames = pd.Index(part.rows["fname"].unique())
    strong = predicted[~predicted["listed"] & (predicted["best"] >= MISSING) & predicted["fname"].isin(fnames)]
    row, column = fnames.get_indexer(strong["fname"]), pd.Index(classes).get_indexer(strong["class"])
    targets = part.targets.copy()
    targets[row, column] = np.where(targets[row, column] == 0, np.nan, targets[row, column])
    judges = pd.concat([part.judges, strong[["fname", "judged_by"]]], ignore_index=True)
    return replace(part, targets=targets, judges=judges.drop_duplicates(ignore_index=True))


def _selected(run: Run) -> Path:
    return run.home / "05_curation" / "select"


def _predicted_labels(run: Run, folds_table: pd.DataFrame) -> pd.DataFrame:
    """`curation.predicted_labels` of this fold's judges, as 05 wrote it; ValueError if it selected on other folds."""
    theirs = read_json(_selected(run) / "configuration.json")["folds"]
    if theirs != (mine := folds.digest(folds_table)):
        raise ValueError(f"{_selected(run)} selected on folds {theirs}, but these are {mine}. Select again.")
    return _read(_selected(run), f"heard/{run.folder.name}/heard.csv")


def _read(selected: Path, name: str) -> pd.DataFrame:
    """A table that 05 wrote below its folder `selected`; ValueError if it was changed since."""
    path, listed = selected / name, selected / "digests.json"
    if not path.is_file():
        rule = name.partition("/")[0]
        how = "-p overwrite True" if rule == "heard" else f"-p rules {rule}"  # what was heard comes with every rule
        raise FileNotFoundError(f"{path} is not there. Make it: 05_curation, {how} -p part select")
    mine = digest(path.read_bytes())
    if listed.is_file() and read_json(listed).get(name, mine) != mine:
        raise ValueError(f"{path} was changed since 05 wrote it. Select again: 05_curation, -p overwrite True")
    names = ("fname", "labels", "confirmed", "class", "judged_by", "scores")  # a class may be called 1
    return pd.read_csv(path, dtype=dict.fromkeys(names, str), keep_default_na=False)
