"""Folds: which clips are held out together, and the check that no model is evaluated on clips that it was trained on.

Groups, never single clips, are assigned to folds, balanced over all labels; windows inherit the fold of their clip. A
model is named by the folds that it did not see: `without_2` saw every fold but 2, `without_2_4` neither 2 nor 4.

Published folds, and folds from a user's file, are never changed, even where they split a group. A clip whose group is
also in a held-out fold then does not train that model (`training`); it is scored in its own fold, like any other.

Conventions
-----------
* A folds table has the columns `fname`, `group` (text) and `fold` (int, from 0), one row a clip, sorted by `fname`.
* Only curated clips have folds. A noisy clip has none, but may share a group with a clip that has one.
* On disk it is a CSV file in exactly this form, so equal tables have equal digests.

Used in: 02 to 07 (every notebook that trains or chooses), 08 (the names of the weights).
"""

import os
import re
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from lib import files

__all__ = ["LeakError", "assert_no_leak", "check_fold", "check_pairs", "digest", "make", "model_name", "notes"]
__all__ += ["pair_models", "parse", "read", "settle", "single_models", "training", "unseen", "withheld"]

SEED = 42  # of a run's folds, not its `seed`: trainings with several seeds share their folds
COLUMNS = ("fname", "group", "fold")  # of folds.csv
CLAIM_S = 10.0  # how long another process may take to rename a file


class LeakError(AssertionError):
    """A model would be evaluated on clips that it, or a judge of its training windows, was trained on."""


def make(clips: pd.DataFrame, targets: np.ndarray, n_folds: int, seed: int) -> pd.DataFrame:
    """Assign clips to folds: the published folds if every clip has one, else groups stratified over labels.

    The result does not depend on the order of the clips. `seed` breaks ties; published folds ignore it.

    Parameters
    ----------
    clips : columns `fname`, `group` and, where folds are published, `fold`
    targets : (n_clips, n_classes) of 0/1, in the order of `clips`

    Returns
    -------
    Folds table (see Conventions); no fold is empty.

    Raises
    ------
    ValueError
        Fewer than 2 folds, fewer groups than folds, targets of another length, a clip listed twice; published folds
        that aren't 0 to n_folds - 1, or that leave a model without a training clip.

    Source: Sechidis et al. 2011, "On the stratification of multi-label data", applied to groups.
    """
    if n_folds < 2:
        raise ValueError(f"n_folds={n_folds}: one fold is held out and the others train. Set n_folds to 2 or more.")
    if len(targets) != len(clips):
        raise ValueError(f"targets have {len(targets)} rows, clips {len(clips)}. Give one row a clip.")
    if "fold" not in clips or clips["fold"].isna().any():
        fold = _stratify(clips["group"].to_numpy(str), np.asarray(targets, bool), n_folds, seed)
        return _table(clips, fold, "new folds")
    table = _table(clips, clips["fold"].to_numpy(int), "published folds")
    if (n_published := table["fold"].nunique()) != n_folds:
        raise ValueError(f"n_folds={n_folds}, but these clips have {n_published} published folds. Set n_folds to that.")
    return table


def check_pairs(n_folds: int) -> None:
    """ValueError unless there are three folds: a pair model holds out two and needs a third to train on."""
    if n_folds < 3:
        raise ValueError(f"{n_folds} folds: a pair model needs a third one to train on. Set n_folds to 3 or more.")


def model_name(fold: int, holdout_fold: int = -1) -> str:
    """`without_2`, or `without_2_4` for a pair model, in either order; ValueError for no fold or two equal ones."""
    if fold < 0 or fold == holdout_fold:
        raise ValueError(f"fold={fold}, holdout_fold={holdout_fold} name no model. Give one fold, or two that differ.")
    return "_".join(["without", *(str(f) for f in sorted([fold, holdout_fold]) if f >= 0)])


def single_models(n_folds: int) -> list[str]:
    """Names of the models that did not see one fold."""
    return [model_name(fold) for fold in range(n_folds)]


def pair_models(n_folds: int, outer: int = -1) -> list[str]:
    """Names of the models that did not see two folds; with `outer`, only of those that did not see that fold."""
    return [model_name(*pair) for pair in combinations(range(n_folds), 2) if outer in (-1, *pair)]


def unseen(model_name: str) -> frozenset[int]:
    """The folds that a model did not see, read from its name; ValueError for any other text."""
    if not re.fullmatch(r"without_\d+(_\d+)?", model_name):
        raise ValueError(f"{model_name!r} doesn't say what it did not see: expected without_2 or without_2_4.")
    return frozenset(map(int, model_name.split("_")[1:]))


def check_fold(fold: int, holdout_fold: int, n_folds: int) -> None:
    """ValueError unless each is -1 (fold: pool all; holdout_fold: none) or 0 to n_folds - 1, and the two differ."""
    for name, value in (("fold", fold), ("holdout_fold", holdout_fold)):
        if value not in range(-1, n_folds):
            raise ValueError(
                f"{name}={value!r} is neither a fold, 0 to {n_folds - 1}, nor -1 (fold: pool all; holdout_fold: none). "
                "Folds count from 0: published fold p is p - 1."
            )
    if fold == holdout_fold != -1:
        raise ValueError(f"fold and holdout_fold are both {fold}. Leave holdout_fold at -1, or hold out another fold.")


def training(folds: pd.DataFrame, held_out: Collection[int], groups: pd.Series | None = None) -> np.ndarray:
    """Which clips may train a model that is evaluated on the folds `held_out`: those whose group is in none of them.

    Every choice of training clips goes through here.

    Parameters
    ----------
    groups : group of each clip to decide on, for clips outside the table (noisy ones); None: the clips of the table

    Returns
    -------
    bool (n_clips,)
    """
    held_groups = folds.loc[folds["fold"].isin(list(held_out)), "group"]
    return ~(folds["group"] if groups is None else groups).isin(held_groups).to_numpy()


def withheld(folds: pd.DataFrame, models: Iterable[str]) -> str:
    """A sentence that counts, for each model, the clips of other folds that it can't train on: their group is held out.

    Empty where folds split no group.
    """
    held_out = {name: unseen(name) for name in models}
    lost = {name: (~folds["fold"].isin(f) & ~training(folds, f)).sum() for name, f in held_out.items()}
    if not any(lost.values()):
        return ""
    counts = [f"{n} clip{'' if n == 1 else 's'} from {name}" for name, n in lost.items()]
    n_folds = folds.groupby("group")["fold"].nunique()
    split = sorted(n_folds.index[n_folds > 1])
    names = ", ".join(split[:5]) + (f" and {len(split) - 5} more" if len(split) > 5 else "")
    return (
        f"Groups that are in several folds: {len(split)} ({names}). A clip does not train a model that holds out "
        f"another fold of its group. Withheld: {', '.join(counts)}."
    )


def notes(folds: pd.DataFrame, targets: np.ndarray, classes: Iterable[str]) -> list[str]:
    """What these folds can't measure: a sentence for each class that is missing in a fold.

    Another sentence counts the clips that are `withheld` from models. `targets` (n_clips, n_classes) are in the order
    of `folds`, sorted by `fname`; ValueError for another length.
    """
    if len(targets) != len(folds):
        raise ValueError(f"targets have {len(targets)} rows, folds {len(folds)}. Give them in the order of the folds.")
    sentences = []
    for name, has_class in zip(classes, np.asarray(targets, bool).T, strict=True):
        counts = np.bincount(folds["fold"][has_class], minlength=folds["fold"].max() + 1)
        present, absent = np.flatnonzero(counts).tolist(), np.flatnonzero(counts == 0).tolist()
        if not present:
            sentences.append(f"{name}: no clip, so nothing learns or measures it. Add clips or drop the class.")
        elif absent:
            untrained = f"; {model_name(*present)} never trains on it" if len(present) <= 2 else ""
            sentences.append(
                f"{name}: {counts.sum()} clips, none in folds {absent}, so nothing measures it there{untrained}. "
                "Lower n_folds or add clips of other groups."
            )
    return [*sentences, *filter(None, [withheld(folds, map(model_name, sorted(set(folds["fold"]))))])]


def assert_no_leak(
    folds: pd.DataFrame,
    train_fnames: Iterable[str],
    held_out: Collection[int],
    *,
    groups: Mapping[str, str] | None = None,
    judges: pd.DataFrame | None = None,
) -> None:
    """Refuse training clips whose group is held out, or whose judges saw a held-out fold or the clip's own group.

    Parameters
    ----------
    train_fnames : clips that train the model, with or without a fold, repeated or not
    held_out : folds that the model will be evaluated on (none for a model of all data)
    groups : dict or Series, fname -> group, for the training clips that have no fold (noisy ones)
    judges : kept windows, one row each: `fname`, and `judged_by`, the names of the models that judged the window,
        separated by blanks. Each judge must have held out every held-out fold, and a fold of the clip's group if that
        has one. (A noisy clip has no fold, so a name can't tell whether the judge was trained on it: `ModelSet.open`
        refuses judges that were trained on other than curated clips.)

    Raises
    ------
    LeakError
        The message names up to five clips, their groups and judges. Training clips of unknown group are refused too.
    ValueError
        A fold in `held_out` that is not in the table, or a judge whose name doesn't say what it did not see.
    """
    held_out = {int(fold) for fold in held_out}
    if unknown := held_out - set(folds["fold"]):
        raise ValueError(f"held_out={sorted(held_out)}: the table has no fold {sorted(unknown)}. Count from 0.")
    group_of = dict(groups if groups is not None else {}) | dict(zip(folds["fname"], folds["group"], strict=True))
    held_groups = set(folds["group"][folds["fold"].isin(held_out)])
    train = {fname: group_of.get(fname) for fname in train_fnames}
    model = f"a model that is evaluated on folds {sorted(held_out)}"
    strangers = [fname for fname, group in train.items() if not isinstance(group, str)]
    _refuse(strangers, f"Clips of unknown group train {model}. Pass their groups.", LeakError)
    leaked = [f"{fname} (group {group})" for fname, group in train.items() if group in held_groups]
    _refuse(leaked, f"Clips whose groups are held out train {model}. Leave them out of training.", LeakError)
    if judges is None:
        return
    misjudged, folds_of = [], folds.groupby("group")["fold"].agg(set)  # published folds may split a group
    for fname, judged_by in sorted(set(zip(judges["fname"], judges["judged_by"], strict=True)), key=str):
        if fname in train:
            own, names = folds_of.get(train[fname]), str(judged_by).split()
            if not names or any(not held_out <= unseen(n) or own and not own & unseen(n) for n in names):
                misjudged.append(f"{fname} (group {train[fname]}, judged by {judged_by})")
    who = "Clips judged by models that saw held-out folds or their own group"
    _refuse(misjudged, f"{who} train {model}. Keep windows by models that saw neither.", LeakError)


def digest(folds: pd.DataFrame) -> str:
    """12 hex digits of the table as written to disk; the order of rows and the version of pandas don't change it."""
    return files.digest(_text(folds).encode())


def settle(path: str | Path, folds: pd.DataFrame) -> pd.DataFrame:
    """Write the table to `path` unless that exists, and return the table on disk. Safe for several processes at once.

    Raises
    ------
    ValueError
        `path` holds another table; it is never overwritten.
    TimeoutError
        As `_place`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".partial", dir=path.parent) as aside:
        partial = Path(aside) / path.name
        partial.write_text(_text(folds), encoding="utf-8", newline="\n")
        _place(partial, path)
    there = parse(path)
    if (old := digest(there)) != (new := digest(folds)):
        raise ValueError(
            f"{path} holds folds {old}, but this run makes folds {new}: its clips, labels, groups or n_folds differ. "
            f"Take another name (-p run NAME), and add -p folds_csv {path} if those folds are to stay."
        )
    return there


def read(path: str | Path, clips: pd.DataFrame) -> pd.DataFrame:
    """A folds table for these clips, from a user's file (`folds_csv`: columns `fname` and `fold`, from 0).

    Rows of other clips are ignored: the data in use may be a part of the set. Groups are those of `clips`. A column
    `group` in the file is ignored: put it into `groups.csv` beside the data.

    Raises
    ------
    ValueError
        Columns are missing; a clip is missing or listed twice; folds aren't 0 to k - 1; a model has no training clip,
        because every group is also in the fold that it holds out.
    """
    table = parse(path, ["fname", "fold"])
    _refuse(table["fname"][table["fname"].duplicated()], f"{path}: clips are listed twice. Leave one row a clip.")
    fold = clips["fname"].map(table.set_index("fname")["fold"])
    _refuse(clips["fname"][fold.isna()], f"{path}: clips of the data set have no row. Add theirs.")
    return _table(clips, fold.to_numpy(int), path)


def _stratify(groups: np.ndarray, truth: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Fold of each clip, int (n_clips,). Groups are stratified by label, then moved while that evens the folds."""
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold  # only here: Kaggle does not have it

    names, group = np.unique(groups, return_inverse=True)
    if len(names) < n_folds:
        raise ValueError(
            f"{len(names)} groups can't fill n_folds={n_folds}, as a group is never split. "
            + (f"Set n_folds to {len(names)} or less, or add" if len(names) > 1 else "Add")
            + " clips of other groups."
        )
    counts = np.zeros((len(names), 1 + truth.shape[1]))  # of each group: clips, then clips of each class
    np.add.at(counts, group, np.column_stack([np.ones(len(truth)), truth]))
    holds = np.column_stack([counts[:, 1:] > 0, counts[:, 0] > 1])
    fold = np.empty(len(names), int)
    splitter = MultilabelStratifiedKFold(n_folds, shuffle=True, random_state=seed)
    for number, (_, held_out) in enumerate(splitter.split(holds, holds)):
        fold[held_out] = number
    return _even_out(counts, fold, n_folds)[group]


def _even_out(counts: np.ndarray, fold: np.ndarray, n_folds: int) -> np.ndarray:
    """Move one group at a time, best move first, until no move lowers the squared relative deviation from even folds.

    It is needed because the stratifier treats all groups as equally large, but a Flickr user may have 290 clips. Rare
    classes weigh as much as common ones, the size of a fold as much as all classes together. An empty fold always gets
    a group.

    Parameters
    ----------
    counts : (n_groups, 1 + n_classes), clips of each group, then clips of each class
    fold : (n_groups,); it is changed and returned
    """
    from scipy.sparse import csr_array

    even = counts.sum(0) / n_folds
    weight = np.divide(1, even**2, out=np.zeros_like(even), where=even > 0)
    weight[0] *= counts.shape[1]
    load = np.stack([counts[fold == f].sum(0) for f in range(n_folds)])
    sparse, every = csr_array(counts), np.arange(len(counts))  # a group holds few of the classes
    own = sparse.power(2) @ weight
    while True:
        pull = sparse @ (weight * load).T
        change = own[:, None] + pull - pull[every, fold][:, None]  # half the change in cost if a group moves to a fold
        change = np.round(change, 10)  # alike on every machine
        change[every, fold] = 0
        moved, to = np.unravel_index(change.argmin(), change.shape)
        if change[moved, to] >= 0:
            return fold
        load[fold[moved]] -= counts[moved]
        load[to] += counts[moved]
        fold[moved] = to


def _table(clips: pd.DataFrame, fold: np.ndarray, source: object) -> pd.DataFrame:
    """The folds table of the clips; ValueError for clips listed twice, fold numbers with gaps, models without clips."""
    table = clips[["fname", "group"]].assign(fold=fold).sort_values("fname", ignore_index=True)
    _refuse(table["fname"][table["fname"].duplicated()], f"{source}: clips are listed twice. Give each clip once.")
    if (numbers := sorted(set(table["fold"].tolist()))) != list(range(len(numbers))):
        raise ValueError(
            f"{source}: folds are {numbers}, counted from 0 here, expected 0 to {len(numbers) - 1} without a gap. "
            "Number them so, or give folds of your own (folds_csv)."
        )
    idle = [model_name(fold) for fold in numbers if len(numbers) > 1 and not training(table, [fold]).any()]
    remedy = "Give folds that split fewer groups (folds_csv), or smaller groups (groups.csv beside the data)."
    _refuse(idle, f"{source}: every group is also in the held-out fold: these models have no training clips. {remedy}")
    return table


def _text(folds: pd.DataFrame) -> str:
    return folds[[*COLUMNS]].sort_values([*COLUMNS]).to_csv(index=False, lineterminator="\n")


def _place(partial: Path, path: Path) -> None:
    """Rename `partial` to `path` unless that exists; of several processes, one succeeds.

    TimeoutError where a killed process left its claim behind.
    """
    try:
        os.link(partial, path)  # unlike a rename, this fails where the name is taken
        return
    except FileExistsError:
        return
    except OSError:  # no hard links on exFAT and on many mounts
        claim, patience = path.with_name(f".{path.name}.claim"), time.monotonic() + CLAIM_S
    while not path.exists():
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL))  # only the process with the claim renames
        except FileExistsError:
            if time.monotonic() > patience:
                raise TimeoutError(f"{claim} was left behind by a process that was killed. Delete it.") from None
            time.sleep(0.02)
            continue
        try:
            if not path.exists():
                os.replace(partial, path)
        finally:
            claim.unlink(missing_ok=True)


def parse(path: str | Path, columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """The columns of a table of folds, in the order of the file; ValueError if it is none, or was cut off."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)  # a group may be called "NA"
    except (ValueError, IsADirectoryError) as error:  # not in UTF-8, empty, quotes that are not closed
        raise ValueError(f"{path} can't be read ({error}). Save it as CSV in UTF-8.") from error
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"{path} lacks the columns {missing}, it has {list(table.columns)}. Expected {columns}.")
    bad = table["fold"][~table["fold"].str.fullmatch(r"\d{1,9}", na=False)]
    how = "Write 0 for the first, 1 for the second; if a run made this file, it was cut off: delete it"
    _refuse(bad.unique(), f"{path}: folds are not whole numbers from 0. {how}")
    return table[[*columns]].astype({"fold": "int64"})


def _refuse(names: Iterable[str], problem: str, error: type[Exception] = ValueError) -> None:
    """Raise the error, naming up to five names; do nothing if there are none."""
    if len(names):
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise error(f"{problem} ({len(names)}: {', '.join(sorted(map(str, names))[:5])}{more})")
