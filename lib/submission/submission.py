"""Test clips -> submission.csv, within a time budget; a clip that can't be scored gets the class prior.

Conventions
-----------
Clips are scored in chunks: log-mels in memory, windows, all models, then for each model the pooling or stage 2 that the
run chose; the models' clip scores are averaged. After every chunk the speed is measured again. The next chunk is scored
at the first `Step` of a ladder with which the rest fits into the budget: wider hops first (stage 2 keeps its hop), then
fewer models.
A clip that can't be read, or for which no time is left, gets the class frequencies of the training clips, and `how`
states the problem.
scores : float64 (n_rows, n_classes) in [0, 1], rows and columns in the order of the sample.
how    : DataFrame, one row for each clip: fname, n_windows, n_models, hop_s (s), problem ("" if it was scored).

Imports neither fastai nor librosa, so a Kaggle kernel can run it.

Used in: 08.
"""

import contextlib
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from lib.clips import pooling, stage2
from lib.data import datasets
from lib.evaluation import metrics
from lib.evaluation.comparisons import format_range
from lib.evaluation.window_scores import WindowScores
from lib.files import read_json, set_aside, whole_file
from lib.runs import changes
from lib.runs import run as runs
from lib.runs.changes import LATE
from lib.runs.recipes import other_data
from lib.runs.run import Run
from lib.sound import cache, windows
from lib.sound.features import LogMel
from lib.submission.bundle import Bundle
from lib.training import models

__all__ = ["Prediction", "Step", "check", "class_notes", "compare", "conclude", "examples", "ladder", "load"]
__all__ += ["organisers", "out_of_fold", "predict", "read", "read_clips", "write"]

FIRST, CHUNK = 8, 64  # clips: the first chunk is small, to measure the speed early
WINDOW = ["fname", "window_start_s"]
MARGIN = 0.9  # share of the remaining budget that is planned


@dataclass(frozen=True)
class Step:
    """How a clip is scored: the number of models, and the s between the starts of its windows."""

    n_models: int
    hop_s: float


@dataclass(frozen=True)
class Prediction:
    """Scores of the rows of a sample, how each clip was scored, and what the budget changed; see the conventions.

    over_time : scores of windows, the mean over the models: fname, window_start_s (s), then a column a class that the
        models know; empty where the submission was read again
    """

    scores: np.ndarray
    how: pd.DataFrame
    notes: list[str]
    over_time: pd.DataFrame = field(default_factory=pd.DataFrame)


def read_clips(
    run: Run, classes: Sequence[str] = (), trained: Sequence[Path] = ()
) -> tuple[datasets.Dataset, dict[str, dict[str, str]]]:
    """The test clips of a run's data set, and their digests for `Run.settle`.

    An earlier submission that lacks clips which have since been added is set aside, so that it is made again with them.
    If clips have other audio or labels now, the submission stays, and `Run.settle` refuses to continue.

    Parameters
    ----------
    classes : classes of the weights; used for a table with test clips only, which has no classes of its own
    trained : folders of the models; a warning tells whether the data set has other clips to train on now

    Returns
    -------
    data : as from `datasets.load_test`; its clips have one more column, `content`, the hash of their file
    digests : for `Run.settle`
    """
    data = datasets.load_test(run.data_dir(), classes)
    for configuration in (read_json(folder / "configuration.json") for folder in trained):
        with contextlib.suppress(FileNotFoundError, ValueError):  # the data set may have test clips alone
            now = changes.now(run.home, configuration, run.data_dir(), None, with_folds=False)
            if differ := other_data(configuration, now):
                warnings.warn(f"The models were trained on other clips than those of data_dir: {differ}.", stacklevel=2)
    digests, contents = changes.of_test(run.data_dir(), run.cache)
    if changes.has_come_since(run.folder, contents):
        set_aside(run.folder, run.home.parent)
    return replace(data, clips=data.clips.assign(content=data.clips["fname"].map(contents))), digests


def load(packed: Bundle) -> list[models.WindowModel]:
    """The models of a run, ready to score on this machine's device."""
    return [models.load(path)[0].prepare() for path in packed.weights]


def ladder(n_models: int, cut: windows.Windows, *, widen: bool = True) -> list[Step]:
    """The steps, most expensive first: all models at wider and wider hops (if `widen`), then fewer and fewer models."""
    hops = [cut.hop_s]
    while widen and hops[-1] < cut.window_s:
        hops.append(min(2 * hops[-1], cut.window_s))
    return [Step(n_models, hop) for hop in hops] + [Step(n, hops[-1]) for n in range(n_models - 1, 0, -1)]


def predict(
    data: datasets.Dataset,
    packed: Bundle,
    networks: list[models.WindowModel],
    *,
    budget_s: float = 0.0,
    started: float | None = None,
    clock: Callable[[], float] = time.time,
) -> Prediction:
    """Score every row of a sample.

    Parameters
    ----------
    data : from `datasets.load_test`
    packed : the run, with its settings, choice and prior
    networks : from `load`
    budget_s : s that scoring may take, counted from `started`; 0: no limit
    started : when the budget began, by `clock`; None: now
    clock : gives the time in s; tests replace it

    Raises
    ------
    ValueError
        The sample and the weights share no class, or the run chose a method that this workbook does not know.
    """
    sidecar, choice = packed.sidecar, packed.manifest["choice"]
    if not set(data.classes) & set(sidecar["classes"]):
        raise ValueError(
            f"The sample asks for {list(data.classes)[:3]}..., the weights know {sidecar['classes'][:3]}...: no class "
            "is in both. Set data_dir and weights to the same data set."
        )
    known = {"pooling": pooling.POOLINGS, "stage2": stage2.MODELS}[choice["kind"]]
    if choice["method"] not in known:
        raise ValueError(
            f"The run chose the {choice['kind']} {choice['method']!r}, expected one of {', '.join(known)}. "
            "Run 06_stage2 again, and pack the run again (make kaggle)."
        )
    logmel, cut = LogMel(**sidecar["audio"]), windows.Windows(**sidecar["windows"])
    second = models.load(packed.stage2, stage2.Stage2Model)[0] if packed.stage2 else None
    clips = data.clips.drop_duplicates("fname", ignore_index=True)
    steps = ladder(len(networks), cut, widen=second is None)
    pace = _Pace(steps, cut, logmel, budget_s, clock() if started is None else started, clock, step=steps[0])
    found = pd.DataFrame([packed.prior] * len(clips), clips["fname"], dtype=float)
    how, over_time, at = [], [pd.DataFrame(columns=WINDOW)], 0
    with tqdm(total=len(clips), desc="scoring", unit="clip") as bar:
        while at < len(clips) and (size := pace.next_chunk(at, len(clips))):
            rows, step, begun = clips.iloc[at : at + size], pace.step, clock()
            store = cache.hold(rows, logmel)
            read_at = clock()
            cut_now = replace(cut, hop_s=step.hop_s)
            scored, timed = _score(store, networks[: step.n_models], cut_now, choice, second, sidecar)
            found.loc[scored.index] = scored
            n_windows = timed["fname"].value_counts()
            over_time.append(timed)
            pace.frames += store.index["n_frames"].tolist()
            pace.spent.append((size, read_at - begun, n_windows.sum() * step.n_models, clock() - read_at))
            reasons = store.problems.set_index("fname")["reason"]
            for fname in rows["fname"]:
                how.append((fname, n_windows.get(fname, 0), step.n_models, step.hop_s, reasons.get(fname, "")))
            at += size
            bar.update(size)
    how += [(fname, 0, 0, 0.0, LATE) for fname in clips["fname"].iloc[at:]]
    table = pd.DataFrame(how, columns=["fname", "n_windows", "n_models", "hop_s", "problem"])
    scores = found.reindex(columns=list(data.classes), fill_value=0.0).loc[data.clips["fname"]].to_numpy()
    return Prediction(scores, table, pace.notes, pd.concat(over_time))


def class_notes(data: datasets.Dataset, packed: Bundle) -> list[str]:
    """A sentence for each class whose scores are missing or mean nothing."""
    prior, asked = packed.prior, set(data.classes)
    unknown = [f"{name}: the models don't know this class, it gets 0." for name in data.classes if name not in prior]
    untrained = [f"{name}: no training clip has it, its scores mean nothing." for name in prior if prior[name] == 0]
    return unknown + untrained + [f"{name}: known, but not asked for." for name in prior if name not in asked]


def write(folder: Path, data: datasets.Dataset, prediction: Prediction) -> Path:
    """Write submission.csv, how.csv and, outside of a kernel, window_scores.csv: the scores over time.

    In a kernel, submission.csv is also copied into the working folder, as Kaggle expects.

    Raises
    ------
    ValueError
        As `check`, which reads the written file.
    """
    table = pd.DataFrame(prediction.scores, columns=list(data.classes))
    table.insert(0, "fname", data.clips["fname"].to_numpy())
    with whole_file(folder / "submission.csv") as partial:
        table.to_csv(partial, index=False, lineterminator="\n")
    with whole_file(folder / "how.csv") as partial:
        contents = data.clips.drop_duplicates("fname").set_index("fname")["content"]
        how = prediction.how.assign(content=prediction.how["fname"].map(contents))
        how.to_csv(partial, index=False, lineterminator="\n")
    check(folder / "submission.csv", data)
    if runs.IN_KERNEL:
        shutil.copyfile(folder / "submission.csv", "submission.csv")
    else:
        with whole_file(folder / "window_scores.csv") as partial:
            prediction.over_time.to_csv(partial, index=False, lineterminator="\n", float_format="%.4f")
    return folder / "submission.csv"


def read(folder: Path, data: datasets.Dataset) -> Prediction:
    """The prediction that `write` wrote, checked; without the notes of the budget. ValueError where it is damaged."""
    path = folder / "submission.csv"
    try:
        check(path, data)
        scores = pd.read_csv(path, float_precision="round_trip")[list(data.classes)].to_numpy(float)
        how = pd.read_csv(folder / "how.csv", dtype={"fname": str, "problem": str}, keep_default_na=False)
        return Prediction(scores, how.drop(columns="content"), [])
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} is damaged ({error}). Make it again: -p overwrite True.") from error


def check(path: Path, data: datasets.Dataset) -> None:
    """Refuse a submission that Kaggle would refuse, or whose rows are all alike.

    Raises
    ------
    ValueError
        Other columns or rows than the sample has, or another order; a score that is not a number in [0, 1]; rows of
        different clips, and all alike.
    """
    table = pd.read_csv(path, dtype={"fname": str}, keep_default_na=False, na_values=[""])
    wrong = []
    if list(table.columns) != ["fname", *data.classes]:
        wrong.append(f"columns {list(table.columns)[:4]}..., expected fname, {', '.join(data.classes[:3])}...")
    elif len(table) != len(data.clips):
        wrong.append(f"{len(table)} rows, the sample has {len(data.clips)}")
    elif len(differ := np.flatnonzero(table["fname"].to_numpy() != data.clips["fname"].to_numpy())):
        ours, theirs = table["fname"][differ[0]], data.clips["fname"].iloc[differ[0]]
        wrong.append(f"{len(differ)} rows out of order, the first is {ours}, expected {theirs}")
    else:
        scores = table[list(data.classes)].apply(pd.to_numeric, errors="coerce").to_numpy(float)
        if n := int((~((scores >= 0) & (scores <= 1))).sum()):
            wrong.append(f"{n} scores are not numbers from 0 to 1")
        elif data.clips.get("content", data.clips["fname"]).nunique() > 1 and (scores == scores[0]).all():
            wrong.append("all rows are alike: no clip could be scored. See the problems in how.csv")
    if wrong:
        raise ValueError(f"{path} can't be submitted: {'; '.join(wrong)}.")


def compare(data: datasets.Dataset, scores: np.ndarray, packed: Bundle) -> pd.DataFrame:
    """lwlrap on the test clips whose labels are known, beside the out-of-fold score and the organisers' system.

    Returns
    -------
    DataFrame, a row for all classes and then one for each: class, n (test clips), public, private, all, out_of_fold
    (on curated clips; of classes by the arithmetic mean), gap (out_of_fold - all, if both are read alike), organisers
    (their system, on all clips). NaN: not known.
    """
    targets = datasets.targets(data.clips, data.classes)
    usage = data.clips["usage"].to_numpy(str)
    parts = {"public": usage == "Public", "private": usage == "Private", "all": np.ones(len(usage), bool)}
    table = pd.DataFrame({"class": ["all classes", *data.classes]})
    table["n"] = [int(targets.any(axis=1).sum()), *targets.sum(axis=0).astype(int)]
    for name, rows in parts.items():
        table[name] = np.nan
        if targets[rows].any():
            single, weight = metrics.per_class_lwlrap(targets[rows], scores[rows])
            table[name] = [np.nansum(single * weight), *single]
    oof, theirs = packed.manifest["oof_per_class"], organisers()
    table["out_of_fold"] = [out_of_fold(packed)["lwlrap"], *(oof.get(name, np.nan) for name in data.classes)]
    table["gap"] = table["out_of_fold"] - table["all"]
    if packed.manifest["choice"]["method"] != "mean":  # the classes were not read so out of fold
        table.loc[1:, "gap"] = np.nan
    weight = targets.sum(axis=0) / targets.sum()
    known = np.array([theirs.get(name, np.nan) for name in data.classes])
    same = set(data.classes) == set(theirs.index)  # another set can have a class of the same name
    table["organisers"] = [float(known @ weight), *known] if same else np.nan
    return table


def organisers() -> pd.Series:
    """lwlrap of the organisers' own system on the test clips, public and private, of each of the 80 classes.

    Source: README of DCASE-REPO/dcase2019_task2_baseline (MobileNet v1, trained on noisy, then on curated clips),
    "Per-class Lwlraps on the entire test set", rounded to four decimals. Its lwlrap over all classes was about .546.
    """
    with (files("lib.data") / "organisers.csv").open() as table:  # in a kernel, lib/ is a zip
        return pd.read_csv(table, index_col="class")["lwlrap"]


def examples(data: datasets.Dataset, prediction: Prediction, n: int = 2) -> pd.DataFrame:
    """The n most and the n least confident predictions: fname, path, subset, labels, caption."""
    rows = data.clips[["fname", "path", "subset", "labels"]].assign(row=range(len(data.clips))).drop_duplicates("fname")
    rows = rows[rows["fname"].isin(prediction.how.loc[prediction.how["problem"] == "", "fname"])]
    order = rows.iloc[np.argsort(prediction.scores[rows["row"]].max(axis=1), kind="stable")]
    shown = pd.concat([order[::-1].head(n), order.head(n)]).drop_duplicates("fname", ignore_index=True)
    captions = []
    for clip in shown.itertuples():
        scores = prediction.scores[clip.row]
        top = [f"{data.classes[i]} {scores[i]:.2f}" for i in np.argsort(-scores, kind="stable")[:3]]
        captions.append(f"{clip.fname}: {', '.join(top)}" + f"; labels: {', '.join(clip.labels)}" * bool(clip.labels))
    return shown.drop(columns="row").assign(caption=captions)


def conclude(data: datasets.Dataset, prediction: Prediction, packed: Bundle) -> tuple[dict[str, float], str]:
    """Numbers for result.json, and the conclusion: how the clips were scored, and which score to expect."""
    how, expected, choice = prediction.how, out_of_fold(packed), packed.manifest["choice"]
    nested = expected is choice
    whose = "models that lack two folds, read as was best on the other folds," if nested else "single models"
    scored = how[how["problem"] == ""]
    numbers: dict[str, float] = {"n_clips": len(how), "n_prior": len(how) - len(scored)}
    numbers |= {"n_windows": how["n_windows"].sum(), "n_models": scored["n_models"].min()}
    numbers |= {f"promised_{name}": expected[name] for name in ("lwlrap", "lwlrap_low", "lwlrap_high")}
    conclusion = f"None of {len(how)} test clips could be scored; "
    if len(scored):
        conclusion = (
            f"{len(scored)} of {len(how)} test clips were scored by {format_range(scored['n_models'], 'g')} models of "
            f"run {packed.manifest['run']}, a window of {packed.sidecar['windows']['window_s']:g} s every "
            f"{format_range(scored['hop_s'], 'g')} s, {choice['kind']}: {choice['method']}; "
        )
    conclusion += f"{numbers['n_prior']} got the class prior. Out of fold, on {expected['n']} curated clips, "
    conclusion += f"{whose} reached lwlrap {metrics.in_words(expected, 'lwlrap')}."
    if lost := len(data.problems.query("not usable")):
        conclusion += f" {lost} rows or labels of the test clips could not be used."
    if empty := [name for name in data.classes if not packed.prior.get(name)]:
        conclusion += f" Classes whose scores mean nothing, since no training clip has them: {', '.join(empty)}."
    targets = datasets.targets(data.clips, data.classes)
    if not targets.any():
        return numbers, conclusion + " The test labels are not known here."
    groups = data.clips["group"].to_numpy(str)
    trained = pd.read_csv(packed.files["folds.csv"], dtype=str, keep_default_na=False)["group"]
    known = int((targets.any(axis=1) & np.isin(groups, trained)).sum())
    reached = metrics.bootstrap(targets, prediction.scores, groups)
    return numbers | reached, conclusion + (
        f" On the {reached['n']} test clips whose labels are known it is {reached['lwlrap']:.3f} "
        f"({reached['lwlrap_low']:.3f} to {reached['lwlrap_high']:.3f}): a gap of "
        f"{expected['lwlrap'] - reached['lwlrap']:+.3f}."
        + f" {known} of them are of a group that also trained, so that this may be too good."
        * bool(known)
    )


def out_of_fold(packed: Bundle) -> dict:
    """The run's score on clips that its models never saw: the nested score of its choice, else that of the mean."""
    choice = packed.manifest["choice"]
    return choice if "lwlrap" in choice else packed.manifest["oof"]


def _score(
    store: cache.Cache,
    networks: list[models.WindowModel],
    cut: windows.Windows,
    choice: dict,
    second: stage2.Stage2Model | None,
    sidecar: dict,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Clip scores (index fname); fname, window_start_s and the models' mean scores of the windows. A column a class."""
    classes, loss, table = sidecar["classes"], sidecar["recipe"]["loss"], windows.rolling(store, store.index, cut)
    if table.empty:
        return pd.DataFrame(columns=classes, dtype=float), pd.DataFrame(columns=WINDOW)
    weighted = second is None and pooling.POOLINGS[choice["method"]].weighted
    weights = windows.energy(store, table, cut.window_s).to_numpy() if weighted else None
    total, of_windows = 0.0, 0.0
    for logits in models.score(networks, store, table, cut.n_frames(store.logmel)):
        scores = models.activate(logits, loss)
        if second is None:
            clips, one = pooling.pool(
                choice["method"], table["fname"], scores, parameter=choice["parameter"], weights=weights
            )
        else:
            clips, one = stage2.clip_scores(second, WindowScores(table, scores), loss)
        total, of_windows = total + one / len(networks), of_windows + scores / len(networks)
    timed = pd.concat([table[WINDOW], pd.DataFrame(of_windows, table.index, classes)], axis=1)
    return pd.DataFrame(total, clips, classes), timed


@dataclass
class _Pace:
    """The cost of a clip and of a window so far, and the budget for the rest."""

    steps: list[Step]
    cut: windows.Windows
    logmel: LogMel
    budget_s: float
    started: float
    clock: Callable[[], float]
    step: Step
    notes: list[str] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)  # of each clip so far
    spent: list[tuple] = field(default_factory=list)  # by chunk: clips, s of reading, windows x models, s of scoring

    def next_chunk(self, at: int, n: int) -> int:
        """Set the step for the rest, and return the number of clips to score now; 0: no time is left."""
        if not self.budget_s or not self.spent:
            return min(CHUNK if self.spent else FIRST, n - at)
        left_s, left = MARGIN * (self.budget_s - (self.clock() - self.started)), n - at
        costs = {step: self._clip_s(step) for step in self.steps}
        step = next((step for step, cost in costs.items() if cost * left <= left_s), self.steps[-1])
        if step != self.step:
            self.notes.append(
                f"From clip {at + 1} of {n}: {step.n_models} of {self.steps[0].n_models} models, a window every "
                f"{step.hop_s:g} s. All models every {self.cut.hop_s:g} s would take {costs[self.steps[0]] * left:.0f} "
                f"s, {max(left_s, 0):.0f} s are left of budget_s={self.budget_s:g}."
            )
            self.step = step
        size = min(CHUNK, left, int(left_s / costs[step]) if costs[step] else CHUNK)
        if size <= 0:
            self.notes.append(f"{left} clips get the class prior: {LATE} of budget_s={self.budget_s:g}.")
        return max(0, size)

    def _clip_s(self, step: Step) -> float:
        """Expected s for a clip at a step, measured without the first chunk (a warm-up) as soon as there are more."""
        clips, reading, windows_, scoring = np.sum(self.spent[1:] or self.spent, axis=0)
        width, hop = self.cut.n_frames(self.logmel), replace(self.cut, hop_s=step.hop_s).hop_frames(self.logmel)
        each = np.mean(1 + np.ceil(np.maximum(0, np.array(self.frames or [0]) - width) / hop))  # as in windows.rolling
        return reading / clips + step.n_models * each * (scoring / windows_ if windows_ else 0.0)
