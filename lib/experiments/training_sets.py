"""What a model trains on: which clips, which windows of them, which labels.

Conventions
-----------
train_set     : curated; curated_noisy (both at once); warm_up (noisy, then curated); pseudo (both, the noisy clips with
                the classes that their judges hear in place of their labels); fewer_passes (the curated clips alone, but
                only as often as curated_noisy shows them: what the noisy clips' share of the compute costs).
train_windows : all; kept (the windows that 05 kept, of all clips); kept_noisy (of the noisy clips alone).
targets       : 1 heard, 0 not heard, NaN not known: a label that no kept window of the clip confirms and, with
                ignore_missing, a class that the judges hear strongly though the clip does not list it.
What is read on fold g is chosen by judges without g alone, and carries their names, for `folds.assert_no_leak`.

Used in: 04_kfold, 05_curation (`leaks`).
"""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lib import settings
from lib.data import datasets
from lib.evaluation import folds
from lib.files import digest, read_json
from lib.runs.recipes import is_judged, papermill
from lib.runs.run import Run
from lib.sound import windows
from lib.sound.cache import Cache
from lib.training.batches import TrainingSet
from lib.training.task import Task

__all__ = ["MISSING", "PSEUDO", "SUBSETS", "from_kept", "make", "sources", "whole"]

SUBSETS = {name: ["curated", "noisy"] for name in settings.TRAIN_SETS}
SUBSETS["curated"] = ["curated"]  # fewer_passes counts the noisy clips, but trains on none
PSEUDO = 0.5  # mean score over a clip's windows from which on a class is a pseudo-label
MISSING = 0.9  # score of a clip's best window from which on a class that is not listed is not known


def sources(run: Run) -> dict[str, str]:
    """For `Run.settle`: the digest of the selection that this run trains on; nothing where it trains on none.

    Raises
    ------
    FileNotFoundError
        If 05 has not selected yet; the message holds the command.
    """
    if not is_judged(run.params):
        return {}
    path = _selected(run) / "configuration.json"
    if not (path.parent / "result.json").is_file():
        where = {"data_dir": run.params["data_dir"], "run": run.params["run"]}
        how = papermill("05_curation", str(run.params["profile"]), **where, part="select")
        raise FileNotFoundError(f"{path.parent} holds no finished selection. Make it first: {how}")
    return {"curation": digest(read_json(path))}


def make(run: Run, task: Task) -> TrainingSet | None:
    """The training set that the parameters of a run of 04 ask for; None: the curated clips as they are.

    Parameters
    ----------
    task : of the subsets that SUBSETS names for it

    Raises
    ------
    FileNotFoundError
        If 05 has not selected for this rule and fold.
    ValueError
        A pair model that would train on judged windows (their judges saw one of its folds), a selection made on other
        folds, parameters that contradict each other, a subset without usable clips, or a selection that leaves none.
    """
    params, clips, dealt, store = run.params, task.clips, task.folds, task.cache
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
            "ignore_missing=True and loss='ce': with one label a clip no other class can be in it, known or not. "
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
    clips = clips[folds.training(dealt, held_out, clips["group"])]
    clips = clips[clips["subset"].isin(SUBSETS[params["train_set"]])]
    heard = _heard(run, dealt) if is_judged(run.params) else None
    parts = []
    for subset in SUBSETS[params["train_set"]]:
        here = clips[clips["subset"] == subset].reset_index(drop=True)
        if (params["train_set"], subset) == ("pseudo", "noisy"):
            part = _pseudo(name, store, here, heard, task.classes, params["trim_train_db"])
        elif params["train_windows"] in ("kept", f"kept_{subset}"):
            kept = _read(_selected(run) / params["rule"] / run.folder.name / "kept_windows.csv")
            part = from_kept(name, store, here, kept[kept["subset"] == subset], task.classes, params["window_s"])
        else:
            part = whole(name, store, here, task.classes, params["trim_train_db"])
        parts.append(_ignoring(part, heard, task.classes) if params["ignore_missing"] else part)
    if params["train_set"] == "warm_up":
        found = replace(parts[0], warm_up=parts[1])
    elif params["train_set"] == "fewer_passes":
        found = replace(parts[0], share=len(parts[0].targets) / sum(len(part.targets) for part in parts))
    else:
        found = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    if not all(len(part.targets) for part in (found, found.warm_up) if part is not None):
        raise ValueError(f"{name} leaves {run.folder.name} no clip to train on. Take a rule that keeps more.")
    return found


def whole(name: str, store: Cache, clips: pd.DataFrame, classes: Collection[str], trim_db: float = 0.0) -> TrainingSet:
    """Clips (fname, group, labels) as they are, but for what `windows.trim` cuts off."""
    nobody = pd.DataFrame({"fname": [], "judged_by": []}, dtype=str)
    groups = dict(zip(clips["fname"], clips["group"], strict=True))
    rows = windows.trim(store, store.rows(clips["fname"]), trim_db)
    return TrainingSet(name, rows, datasets.targets(clips, tuple(classes)), groups, nobody)


def from_kept(
    name: str, store: Cache, clips: pd.DataFrame, kept: pd.DataFrame, classes: Collection[str], window_s: float
) -> TrainingSet:
    """The kept windows of the clips, merged into spans; a clip that keeps none trains nothing.

    Parameters
    ----------
    clips : fname, group, labels, duration_s; those that may train
    kept : a row a window, as 05 writes it (`curation.select`)
    window_s : s
    """
    classes = tuple(classes)
    kept = kept[kept["fname"].isin(clips["fname"])]
    spans = windows.spans(kept, clips.set_index("fname")["duration_s"], window_s)
    rows, per_s = store.rows(spans["fname"]), store.logmel.frames_per_s
    first = (spans["start_s"] * per_s).round().astype(int)
    last = np.minimum((spans["end_s"] * per_s).round().astype(int), rows["n_frames"])
    rows = rows.assign(first_frame=rows["first_frame"] + first, n_frames=(last - first).clip(lower=1))
    confirmed = spans.groupby("fname")["labels"].agg(lambda parts: tuple({name for part in parts for name in part}))
    own = clips.set_index("fname").loc[confirmed.index].reset_index()
    targets, known = datasets.targets(own, classes), datasets.targets(own.assign(labels=confirmed.to_numpy()), classes)
    targets[(targets == 1) & (known == 0)] = np.nan
    groups = dict(zip(own["fname"], own["group"], strict=True))
    return TrainingSet(name, rows, targets, groups, spans[["fname", "judged_by"]].drop_duplicates())


def _pseudo(
    name: str, store: Cache, clips: pd.DataFrame, heard: pd.DataFrame, classes: Collection[str], trim_db: float
) -> TrainingSet:
    """Clips with the classes that their judges hear; those without any train nothing."""
    found = heard[heard["fname"].isin(clips["fname"]) & (heard["mean"] >= PSEUDO)]
    labels = found.groupby("fname")["class"].agg(tuple)
    clips = clips[clips["fname"].isin(labels.index)]
    clips = clips.assign(labels=labels.loc[clips["fname"]].to_numpy())
    return replace(whole(name, store, clips, classes, trim_db), judges=found[["fname", "judged_by"]].drop_duplicates())


def _ignoring(part: TrainingSet, heard: pd.DataFrame, classes: Collection[str]) -> TrainingSet:
    """The same set, where strongly heard classes that are not listed are not known."""
    fnames = pd.Index(part.rows["fname"].unique())
    strong = heard[~heard["listed"] & (heard["best"] >= MISSING) & heard["fname"].isin(fnames)]
    row, column = fnames.get_indexer(strong["fname"]), pd.Index(list(classes)).get_indexer(strong["class"])
    targets = part.targets.copy()
    targets[row, column] = np.where(targets[row, column] == 0, np.nan, targets[row, column])
    judges = pd.concat([part.judges, strong[["fname", "judged_by"]]], ignore_index=True)
    return replace(part, targets=targets, judges=judges.drop_duplicates(ignore_index=True))


def _selected(run: Run) -> Path:
    return run.home / "05_curation" / "select"


def _heard(run: Run, dealt: pd.DataFrame) -> pd.DataFrame:
    """What the judges of this fold hear, after making sure that they judged these folds."""
    theirs = read_json(_selected(run) / "configuration.json")["folds"]
    if theirs != (mine := folds.digest(dealt)):
        raise ValueError(f"{_selected(run)} selected on folds {theirs}, but these are {mine}. Select again.")
    return _read(_selected(run) / "heard" / run.folder.name / "heard.csv")


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        how = f"-p rules {path.parents[1].name} -p part select"
        raise FileNotFoundError(f"{path} is not there. Select with that rule: 05_curation, {how}")
    names = ("fname", "labels", "confirmed", "class", "judged_by", "scores")  # a class may be called 1
    return pd.read_csv(path, dtype=dict.fromkeys(names, str), keep_default_na=False)
