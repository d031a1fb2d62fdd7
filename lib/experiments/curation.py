"""Selection of windows in which a label of the clip is detected: judges, an energy gate, rules, and a table of reasons.

For outer fold g the judges are the pair models without g. A curated clip of fold f has one judge, `without_f_g`. A
noisy clip has all judges or, if it shares a group with clips of fold f, only those without f (published folds may split
a group: then each of its folds counts). A clip whose group is in fold g is not judged, and is not used to train models
that are evaluated on g. Judges are trained on curated clips only, because a model's name does not tell which noisy
clips it saw. A rule reads nothing but the judges' scores of labels, so every rule is a function of one long table.
No audio is deleted.

Conventions
-----------
judges     : folder outputs/<run>/04_kfold/<variant>, with a folder for each pair model; `ModelSet.open` has checked it
clips      : a row a judged clip: fname, subset, group, labels (tuple), judged_by (names of models, separated by
    blanks), sorted by fname
windows    : a row a window: clip (row of clips), window_start_s, window_end_s (s), silent (bool), sorted by clip and
    start. Each label of the clip is judged in each window. Before `gather`, the column is fname instead of clip
judgements : a row a judge, window and label: pair (number of window and label), window, clip, column (of the class),
    judge (number), score in [0, 1], rank (1 is best; ties take the worst)
kept windows : a row a window; see `COLUMNS` and `select`
A rule is written name_number, such as top_1. It is applied to each judge; then most judges must agree.

Used in: 05_curation, `leaks`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from lib.data import datasets
from lib.evaluation import folds
from lib.files import digest, read_json, whole_file, whole_folder, write_json
from lib.runs import oof
from lib.sound.cache import Cache
from lib.sound.windows import Windows, spans
from lib.training import models
from lib.training.models import activate
from lib.training.task import Task

__all__ = ["COLUMNS", "RULES", "Evidence", "all_evidence", "by_class", "conclusion", "confirmed", "evidence_for"]
__all__ += ["gather", "inference_windows", "predicted_labels", "result_metrics", "rule_of", "select", "silent"]
__all__ += ["surprising", "write_selection"]

COLUMNS = ["subset", "fname", "window_start_s", "window_end_s", "labels", "scores", "rule", "kept", "reason"]
COLUMNS += ["confirmed", "judged_by"]  # the labels that the window is kept for, and the models that judged it
PREDICTED = 0.5  # a class whose best window scores less is not listed
CHUNK = 2**24  # scores compared at once
BLOCK = 2**16  # windows whose logits become scores at once

Judge = tuple[str, np.ndarray, np.ndarray]  # name, rows of the windows that it scored (ascending), their scores


@dataclass(frozen=True)
class Evidence:
    """The scores of the judges of one outer fold; tables as in the module's conventions.

    Attributes
    ----------
    classes : in submission order
    mean, best : float32 (n_clips, n_classes), mean and maximum over the clip's windows that are not silent (over all
        windows if all are), averaged over judges
    """

    classes: tuple[str, ...]
    clips: pd.DataFrame
    windows: pd.DataFrame
    judgements: pd.DataFrame
    mean: np.ndarray = field(repr=False)
    best: np.ndarray = field(repr=False)

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """A row a pair, in the order of `pair`: window, clip, column, score (mean over the judges)."""
        first = self.judgements.drop_duplicates("pair").sort_values("pair")
        score = np.bincount(self.judgements["pair"], self.judgements["score"]) / np.bincount(self.judgements["pair"])
        return first[["window", "clip", "column"]].assign(score=score).reset_index(drop=True)


def inference_windows(task: Task, cut: Windows, gate_db: float) -> pd.DataFrame:
    """Inference windows of all clips, as `windows.rolling`, with window_end_s and silent."""
    table = task.windows(task.clips[["fname"]], cut)
    table["window_end_s"] = (table["window_start_s"] + cut.window_s).round(3)
    return table.assign(silent=silent(task.cache, table, cut.n_frames(task.cache.logmel), gate_db))


def evidence_for(outer: int, judges: Path, noisy: Path, task: Task, table: pd.DataFrame) -> Evidence:
    """The judges' scores of every clip that may train a model evaluated on fold `outer`.

    Parameters
    ----------
    judges, noisy : folders of the pair models, and of their scores of noisy clips (`all_evidence`)
    task : of the curated and noisy clips
    table : their windows, from `inference_windows`

    Raises
    ------
    LeakError
        A clip is held out, or a judge saw fold `outer` or the clip's group (`folds.assert_no_leak`).
    ValueError
        The windows are not those that the models scored.
    """
    clips = task.clips[folds.training(task.folds, [outer], task.clips["group"])]
    table = table[table["fname"].isin(clips["fname"])].reset_index(drop=True)
    evidence = gather(clips, table, task.classes, _judges(outer, judges, noisy, task, clips, table))
    groups = dict(zip(evidence.clips["fname"], evidence.clips["group"], strict=True))
    folds.assert_no_leak(task.folds, evidence.clips["fname"], {outer}, groups=groups, judges=evidence.clips)
    return evidence


def all_evidence(noisy: Path, judges: Path, task: Task, table: pd.DataFrame, cut: Windows) -> dict[int, Evidence]:
    """The evidence of every outer fold, after each pair model has scored the windows of the noisy clips.

    Models whose folder in `noisy` exists are skipped. Files are as those of 04, with fold -1:
    <noisy>/without_2_4/oof_windows.npz. Parameters as `evidence_for`.
    """
    fnames = task.clips.loc[task.clips["subset"] == "noisy", "fname"]
    rows = table[table["fname"].isin(fnames)].reset_index(drop=True)
    for name in folds.pair_models(task.n_folds):
        if len(rows) and not (noisy / name).is_dir():
            model, sidecar = models.load(judges / name / "weights.safetensors")
            (logits,) = models.score([model.prepare()], task.cache, rows, cut.n_frames(task.cache.logmel))
            with whole_folder(noisy / name) as partial:
                oof.write_windows(partial, rows.assign(fold=-1), logits, sidecar["classes"])
    return {g: evidence_for(g, judges, noisy, task, table) for g in range(task.n_folds)}


def silent(cache: Cache, table: pd.DataFrame, width: int, gate_db: float) -> np.ndarray:
    """Which windows have no frame within gate_db of their clip's loudest frame: bool (n_windows,).

    A frame is as loud as its loudest band in channel 0. Frames at either end that reach beyond the window (by half an
    n_fft) don't count, unless there are no others.

    Parameters
    ----------
    table : windows of `windows.rolling`
    width : frames of a window
    gate_db : dB

    Raises
    ------
    ValueError
        Channel 0 is not in dB.
    """
    if not cache.logmel.in_db[0]:
        raise ValueError(
            f"channel 0 is {cache.logmel.channels[0]!r}, but the gate needs dB. Put logmel first in channels."
        )
    edge = -(-cache.logmel.n_fft // 2 // cache.logmel.hop_length)
    loud = _loud(cache, gate_db)
    first, n, start = table[["first_frame", "n_frames", "start_frame"]].to_numpy().T
    left, right = start.clip(0), np.minimum(start + width, n)
    inner = np.where(right - left > 2 * edge, edge, 0)
    return loud[first + right - inner] == loud[first + left + inner]


def gather(clips: pd.DataFrame, windows: pd.DataFrame, classes: tuple[str, ...], judges: Iterable[Judge]) -> Evidence:
    """Collect from all judges' scores what the rules need, one judge at a time to save memory.

    Parameters
    ----------
    clips : fname, subset, group, labels; only clips that are to be judged
    windows : fname, window_start_s, window_end_s, silent
    judges : for each its name, rows (of the windows that it scored, ascending, int), scores float (n_rows, n_classes)

    Raises
    ------
    ValueError
        A clip without a judge, clips and windows that don't match, or scores outside [0, 1].
    """
    clips = clips[["fname", "subset", "group", "labels"]].sort_values("fname", ignore_index=True)
    windows = windows.rename_axis("row").reset_index().sort_values(["fname", "window_start_s"], ignore_index=True)
    windows["clip"] = pd.Index(clips["fname"]).get_indexer(windows["fname"])
    if (windows["clip"] < 0).any() or windows["clip"].nunique() < len(clips):
        raise ValueError(f"{len(clips)} clips and windows of {windows['fname'].nunique()}: give windows of each clip.")
    truth = datasets.targets(clips, classes).astype(bool)
    labels = pd.DataFrame(np.argwhere(truth), columns=["clip", "column"])
    pairs = windows[["clip"]].rename_axis("window").reset_index().merge(labels, on="clip")  # by window, then column
    pairs = pairs.rename_axis("pair").reset_index().astype(np.int32)
    window_of_row = np.argsort(windows.pop("row").to_numpy())  # row of the given table -> window
    tables, judged_by = [], []
    mean, best = np.zeros((2, *truth.shape), np.float32)
    for number, (name, rows, scores) in enumerate(judges):
        if scores.size and not (scores.min() >= 0 and scores.max() <= 1):  # NaN fails too
            raise ValueError(f"{name}: scores must lie in [0, 1]. Pass what `models.activate` makes of logits.")
        window = window_of_row[rows]
        tables.append(_judge_scores(pairs, window, scores).assign(judge=np.int16(number)))
        judged, mean_of_clip, best_of_clip = _by_clip(windows.iloc[window], scores)
        mean[judged] += mean_of_clip
        best[judged] += best_of_clip
        judged_by.append(pd.Series(name, judged))
    names = pd.concat(judged_by).groupby(level=0) if judged_by else pd.Series(dtype=str).groupby(level=0)
    n_judges = names.size().reindex(clips.index, fill_value=0).to_numpy()
    if not n_judges.all():
        lost = clips["fname"][n_judges == 0].tolist()[:5]
        raise ValueError(
            f"{(n_judges == 0).sum()} clips have no judge: {lost}. Train the pair models, or leave them out."
        )
    mean, best = mean / n_judges[:, None], best / n_judges[:, None]
    clips["judged_by"] = names.agg(lambda some: " ".join(sorted(some)))
    table = pd.concat(tables, ignore_index=True)
    return Evidence(tuple(classes), clips, windows.drop(columns="fname"), table, mean, best)


# rules: which rows of the judgements are confirmed, bool (n_judgements,)


def top(evidence: Evidence, k: float) -> np.ndarray:
    """The label is among the k best classes of the window. k = 1 is the write-up's rule, and the default."""
    return evidence.judgements["rank"].to_numpy() <= k


def threshold(evidence: Evidence, at: float) -> np.ndarray:
    """The label scores at least `at`."""
    return evidence.judgements["score"].to_numpy() >= at


def quantile(evidence: Evidence, q: float) -> np.ndarray:
    """The label scores at least the q-quantile of the curated windows with that label that are not silent."""
    table, loud = evidence.judgements, ~evidence.windows["silent"].to_numpy()
    curated = (evidence.clips["subset"] == "curated").to_numpy()
    known = table[curated[table["clip"]] & loud[table["window"]]]
    least = known.groupby("column")["score"].quantile(q).reindex(range(len(evidence.classes)))
    return table["score"].to_numpy() >= least.fillna(known["score"].quantile(q)).to_numpy()[table["column"]]


def relative(evidence: Evidence, share: float) -> np.ndarray:
    """The label scores at least `share` of its score in the clip's best window, so a curated clip keeps that window.

    Silent windows, which can't be kept, don't count as the best.
    """
    table, loud = evidence.judgements, ~evidence.windows["silent"].to_numpy()
    scores = table["score"].where(loud[table["window"]])
    best = scores.groupby([table["judge"], table["clip"], table["column"]]).transform("max")
    return (table["score"] >= share * best).to_numpy()


def confident(evidence: Evidence, share: float) -> np.ndarray:
    """Confident learning does not flag the label; it decides for all windows of a clip at once.

    It reads clip scores (mean over windows and judges), each subset separately. `share` of the errors that it estimates
    are flagged. Source: Northcutt et al. 2021, by cleanlab's multi-label filter.
    """
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class  # here: it takes seconds

    flagged = np.zeros(evidence.mean.shape, bool)
    truth = datasets.targets(evidence.clips, evidence.classes).astype(bool)
    for _, rows in evidence.clips.groupby("subset").indices.items():
        mixed = np.flatnonzero(truth[rows].any(0) & ~truth[rows].all(0))  # cleanlab refuses the other classes
        if len(mixed):
            labels = [np.flatnonzero(row).tolist() for row in truth[np.ix_(rows, mixed)]]
            scores = evidence.mean[np.ix_(rows, mixed)].astype(float)
            issues = find_multilabel_issues_per_class(labels, scores, frac_noise=share, n_jobs=1)
            flagged[np.ix_(rows, mixed)] = issues
    return ~flagged[evidence.judgements["clip"], evidence.judgements["column"]]


@dataclass(frozen=True)
class Rule:
    """A rule of selection.

    Attributes
    ----------
    confirms : (evidence, number) -> which judgements it confirms, bool (n_judgements,)
    default : the number where none is given
    curve : numbers for its precision and recall curve
    most : whether more than half of the judges must agree; if not, the number is the share that must
    """

    confirms: Callable[[Evidence, float], np.ndarray]
    default: float
    curve: tuple[float, ...]
    most: bool = True


RULES = {
    "top": Rule(top, 1, (1, 2, 3, 4, 5)),
    "threshold": Rule(threshold, 0.5, (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
    "quantile": Rule(quantile, 0.25, (0.05, 0.1, 0.25, 0.5, 0.75, 0.9)),
    "relative": Rule(relative, 0.5, (0.1, 0.25, 0.5, 0.75, 0.9)),
    "agreement": Rule(lambda evidence, _: top(evidence, 1), 1, (0.25, 0.5, 0.75, 1), most=False),
    "confident": Rule(confident, 1, (0.25, 0.5, 0.75, 1)),
}


def rule_of(text: str) -> tuple[Rule, float]:
    """The rule and number of a text such as top_1 or threshold_0.5; the number may be left out.

    Raises
    ------
    ValueError
        No such rule; the message lists all of them.
    """
    name, _, number = text.partition("_")
    try:
        rule = RULES[name]
        return rule, float(number) if number else rule.default
    except (KeyError, ValueError):
        known = ", ".join(f"{name}_{rule.default:g}" for name, rule in RULES.items())
        raise ValueError(f"{text!r} is no rule. Write name_number, such as {known}.") from None


def confirmed(evidence: Evidence, text: str) -> np.ndarray:
    """Which pairs of window and label a rule confirms, after the vote of the judges and the gate: bool (n_pairs,)."""
    rule, at = rule_of(text)
    pair = evidence.judgements["pair"]
    share = np.bincount(pair, rule.confirms(evidence, at)) / np.bincount(pair)
    agreed = share > 0.5 if rule.most else share >= at
    return agreed & ~evidence.windows["silent"].to_numpy()[evidence.pairs["window"]]


def select(evidence: Evidence, rule: str, *, keep_best: bool = False) -> pd.DataFrame:
    """Which windows a rule keeps, and why: a row a window, sorted by fname and start, with the columns `COLUMNS`.

    Parameters
    ----------
    keep_best : whether a curated clip that would lose all its windows keeps the one in which a label scores best

    Returns
    -------
    labels, scores, confirmed : comma-joined; scores (mean over the judges) in the order of labels
    reason : silent, confirmed, not confirmed, or best of its clip
    """
    pairs, ok = evidence.pairs, confirmed(evidence, rule)
    n = len(evidence.windows)
    kept = np.bincount(pairs["window"], ok, n) > 0
    is_silent = evidence.windows["silent"].to_numpy()
    reason = np.select([kept, is_silent], ["confirmed", "silent"], "not confirmed").astype(object)
    if keep_best:
        lost = ~(np.bincount(evidence.windows["clip"], kept, len(evidence.clips)) > 0)
        lost &= (evidence.clips["subset"] == "curated").to_numpy()
        rescued = pairs[lost[pairs["clip"]] & ~is_silent[pairs["window"]]]
        rescued = rescued.sort_values("score", ascending=False, kind="stable").drop_duplicates("clip")
        ok[rescued.index], kept[rescued["window"]], reason[rescued["window"]] = True, True, "best of its clip"
    names = np.array(evidence.classes, dtype=object)[pairs["column"]]
    clips = evidence.clips.iloc[evidence.windows["clip"]].reset_index(drop=True)
    table = evidence.windows[["window_start_s", "window_end_s"]].join(clips[["subset", "fname", "judged_by"]])
    table = table.assign(rule=rule, kept=kept, reason=reason)
    table["labels"] = _joined(pairs["window"], names, n)
    table["scores"] = _joined(pairs["window"], np.char.mod("%.3f", pairs["score"].to_numpy()).astype(object), n)
    table["confirmed"] = _joined(pairs["window"][ok], names[ok], n)
    return table[COLUMNS]


def write_selection(folder: Path, evidences: Mapping[int, Evidence], rules: list[str], keep_best: bool) -> pd.DataFrame:
    """Write <rule>/without_<g>/kept_windows.csv for every rule and outer fold, and heard/without_<g>/heard.csv.

    digests.json has their digests: path below `folder` -> digest, also of rules that were written before.

    Parameters
    ----------
    evidences : outer fold -> evidence of its judges
    rules, keep_best : see `select`

    Returns
    -------
    rule, subset, windows (share kept), clips (share with a kept window), silent (share of windows), over all outer
    folds
    """
    rows, listed = [], folder / "digests.json"
    digests = read_json(listed) if listed.is_file() else {}
    for g, evidence in tqdm(evidences.items(), desc="selecting", unit="outer fold"):
        tables = {f"heard/{folds.model_name(g)}/heard": predicted_labels(evidence)}
        for rule in rules:
            kept = select(evidence, rule, keep_best=keep_best)
            tables[f"{rule}/{folds.model_name(g)}/kept_windows"] = kept
            rows.append(kept.assign(rule=rule, outer=g)[["rule", "outer", "subset", "fname", "kept", "reason"]])
        for name, table in tables.items():
            with whole_file(folder / f"{name}.csv") as partial:
                table.to_csv(partial, index=False)
            digests[f"{name}.csv"] = digest((folder / f"{name}.csv").read_bytes())
    write_json(listed, digests)
    every = pd.concat(rows, ignore_index=True).assign(silent=lambda t: t["reason"] == "silent")
    by = every.groupby(["rule", "subset"], sort=False)
    clips = every.groupby(["rule", "subset", "outer", "fname"], sort=False)["kept"].any()
    shares = by[["kept", "silent"]].mean().rename(columns={"kept": "windows"})
    return shares.assign(clips=clips.groupby(["rule", "subset"], sort=False).mean()).round(3).reset_index()


def result_metrics(shares: pd.DataFrame, rule: str) -> dict[str, float]:
    """For `result.json`: the shares that a rule keeps: kept_curated_windows ...; `shares` is from `write_selection`."""
    rows = shares[shares["rule"] == rule].itertuples()
    return {f"kept_{row.subset}_{what}": getattr(row, what) for row in rows for what in ("windows", "clips")}


def conclusion(shares: pd.DataFrame, rule: str) -> str:
    """The shares that a rule keeps, in a sentence; `shares` is from `write_selection`."""
    rows = shares[shares["rule"] == rule].itertuples()
    parts = [f"{row.windows:.0%} of the {row.subset} windows (some of {row.clips:.0%} of the clips)" for row in rows]
    return f"{rule} keeps {' and '.join(parts)}."


def by_class(kept: pd.DataFrame, clips: pd.DataFrame, window_s: float) -> pd.DataFrame:
    """Clips and seconds of each class before and after selection; a clip counts for each of its labels.

    Parameters
    ----------
    kept : as from `select`
    clips : fname, subset, labels, duration_s

    Returns
    -------
    subset, class, clips_before, clips_after, clips_lost (without a kept window), seconds_before, seconds_after
    """
    durations_s = clips.set_index("fname")["duration_s"]
    judged = clips[clips["fname"].isin(kept["fname"])]
    left = spans(kept, durations_s, window_s)
    before = judged.explode("labels").groupby(["subset", "labels"])["duration_s"].agg(["size", "sum"])
    lost = judged[~judged["fname"].isin(left["fname"])].explode("labels").groupby(["subset", "labels"]).size()
    after = left.assign(seconds=left["end_s"] - left["start_s"]).explode("labels").groupby(["subset", "labels"])
    table = pd.DataFrame(
        {
            "clips_before": before["size"],
            "clips_after": after["fname"].nunique(),
            "clips_lost": lost,
            "seconds_before": before["sum"].round(1),
            "seconds_after": after["seconds"].sum().round(1),
        }
    )
    table = table.rename_axis(["subset", "class"]).reset_index().fillna(0)
    return table.astype({name: int for name in table if name.startswith("clips")})


def predicted_labels(evidence: Evidence) -> pd.DataFrame:
    """Classes that a clip lists or its judges detect: for pseudo-labels and missing labels.

    Returns
    -------
    subset, fname, class, listed (bool), mean, best (as in `Evidence`), judged_by. A row for each class of a clip that
    is listed, or whose best window scores PREDICTED or more
    """
    truth = datasets.targets(evidence.clips, evidence.classes).astype(bool)
    clip, column = np.nonzero(truth | (evidence.best >= PREDICTED))
    table = evidence.clips.iloc[clip][["subset", "fname", "judged_by"]].reset_index(drop=True)
    table.insert(2, "class", np.array(evidence.classes, dtype=object)[column])
    table.insert(3, "listed", truth[clip, column])
    table.insert(4, "mean", evidence.mean[clip, column].astype(float).round(4))
    table.insert(5, "best", evidence.best[clip, column].astype(float).round(4))
    return table


def surprising(kept: pd.DataFrame, n: int) -> pd.DataFrame:
    """The n kept windows with the lowest scores and the n dropped ones (not silent) with the highest; one a clip.

    Returns
    -------
    Rows of `kept`, with the column score (of the best label); the kept ones first
    """
    table = kept.assign(score=[max(map(float, text.split(","))) for text in kept["scores"]])
    least = table[table["kept"]].sort_values(["score", "fname"]).drop_duplicates("fname").head(n)
    loud = table[~table["kept"] & (table["reason"] != "silent")]
    most = loud.sort_values(["score", "fname"], ascending=[False, True]).drop_duplicates("fname").head(n)
    return pd.concat([least, most], ignore_index=True)


def _loud(cache: Cache, gate_db: float) -> np.ndarray:
    """How many frames before each frame are within gate_db of their clip's loudest, int (n_frames + 1,)."""
    blocks = (block for part in cache.parts for block in part.split(2**17))
    level = np.concatenate([block[:, 0].amax(dim=1).float().numpy() for block in blocks])
    index = cache.index.sort_values("first_frame")  # the clips lie one after the other, without a gap
    loudest = np.repeat(np.maximum.reduceat(level, index["first_frame"]), index["n_frames"])
    return np.append(0, (level >= loudest - gate_db).cumsum())


def _judge_scores(pairs: pd.DataFrame, window: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    """One judge's scores and ranks of the labels of its windows, as rows of the judgements.

    Parameters
    ----------
    pairs : pair, window, clip, column, of all windows
    window : those that it judged, int (n,)
    scores : (n, n_classes)
    """
    row_of = pd.Series(np.arange(len(window)), window)
    table = pairs[pairs["window"].isin(window)]
    row, column = row_of[table["window"]].to_numpy(), table["column"].to_numpy()
    score, rank = scores[row, column], np.empty(len(row), np.int16)
    for part in np.array_split(np.arange(len(row)), 1 + len(row) * scores.shape[1] // CHUNK):
        rank[part] = (scores[row[part]] >= score[part, None]).sum(1)
    return table.assign(score=score.astype(np.float32), rank=rank)


def _by_clip(windows: pd.DataFrame, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The clips of a judge, and mean and maximum over their windows that are not silent (over all, if all are).

    Parameters
    ----------
    windows : clip, silent, a row a row of scores
    """
    loud = ~windows["silent"].to_numpy()
    use = loud | (windows["silent"].groupby(windows["clip"]).transform("all")).to_numpy()
    order = np.argsort(windows["clip"].to_numpy()[use], kind="stable")
    clips, first, n = np.unique(windows["clip"].to_numpy()[use][order], return_index=True, return_counts=True)
    scores = scores[use][order]
    return clips, np.add.reduceat(scores, first) / n[:, None], np.maximum.reduceat(scores, first)


def _joined(window: pd.Series, texts: np.ndarray, n: int) -> np.ndarray:
    """Texts of each window, comma-joined in their order; "" where there is none."""
    joined = pd.Series(texts, dtype=object).add(",").groupby(window.to_numpy()).sum().str[:-1]
    return joined.reindex(range(n), fill_value="").to_numpy()


def _judges(
    outer: int, judges: Path, noisy: Path, task: Task, clips: pd.DataFrame, table: pd.DataFrame
) -> Iterator[Judge]:
    """Name, rows of the table and scores of each judge, for `gather`."""
    at = pd.MultiIndex.from_arrays([table["fname"], table["window_start_s"].round(3)])
    unrelated = ~clips["group"].isin(task.folds["group"])  # noisy clips without a curated clip in their group
    for name in folds.pair_models(task.n_folds, outer):
        (own,) = folds.unseen(name) - {outer}
        loss = models.sidecar(judges / name / "weights.safetensors")["recipe"]["loss"]
        held_out = task.folds[task.folds["fold"] == own]
        unseen = {"curated": clips["fname"].isin(held_out["fname"])}
        unseen["noisy"] = (clips["subset"] == "noisy") & (clips["group"].isin(held_out["group"]) | unrelated)
        rows, scores = [], []
        for part, subset in ((judges, "curated"), (noisy, "noisy")):
            if not (part / name).is_dir():
                continue  # a set without noisy clips
            judged, logits = oof.read_logits(part / name)
            is_unseen = judged["fname"].isin(clips.loc[unseen[subset], "fname"]).to_numpy()
            place = at.get_indexer([judged["fname"][is_unseen], judged["window_start_s"][is_unseen].round(3)])
            if (place < 0).any():
                raise ValueError(
                    f"{part / name}: {(place < 0).sum()} windows differ from those of this run. Take the window_s, "
                    "hop_s and features of the models, or train them again (-p overwrite True)."
                )
            rows.append(place)
            scores.append(_scores(logits[is_unseen], loss))
        rows, scores = np.concatenate(rows), np.concatenate(scores)
        order = np.argsort(rows, kind="stable")
        yield name, rows[order], scores[order]


def _scores(logits: np.ndarray, loss: str) -> np.ndarray:
    """`models.activate` in float32, a block at a time."""
    blocks = [logits[i : i + BLOCK] for i in range(0, len(logits), BLOCK)]
    return np.concatenate([activate(block, loss).astype(np.float32) for block in blocks] or [logits])
