"""Which windows hold their label: an energy gate, then rules, and a table that says why. Nothing is deleted.

For outer fold g, a curated clip of fold f is judged by `without_f_g`, a noisy clip by all pair models without g. What
they say of the labels is all that a rule sees, so every rule is a function of one long table.

Conventions
-----------
clips   : DataFrame, a row a clip that was judged: fname, subset, group, labels (tuple), judged_by (names of models with
          blanks between), sorted by fname.
windows : DataFrame, a row a window: clip (row of clips), window_start_s, window_end_s (s), silent (bool), by clip and
          start. A window is judged on the labels of its clip, each on its own.
said    : DataFrame, a row a judge, window and label: pair (of window and label), window, clip, column (of the class),
          judge (number), score in [0, 1], rank (1 is best; ties take the worst).
A rule is written name_number, such as top_1; it is asked of each judge, then most judges must agree.
kept windows : DataFrame, a row a window; see `COLUMNS` and `select`.

Used in: 05_curation, `judging`, `leaks`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from lib.data import datasets
from lib.sound.cache import Cache
from lib.sound.windows import spans

__all__ = ["COLUMNS", "RULES", "Evidence", "by_class", "confirmed", "gather", "heard", "rule_of", "select", "silent"]
__all__ += ["surprising"]

COLUMNS = ["subset", "fname", "window_start_s", "window_end_s", "labels", "scores", "rule", "kept", "reason"]
COLUMNS += ["confirmed", "judged_by"]  # which of the labels the window is kept for, and who said so
HEARD = 0.5  # a class whose best window scores less is not listed as heard
CHUNK = 2**24  # scores compared at once


@dataclass(frozen=True)
class Evidence:
    """What the judges of one outer fold say; see the module's conventions.

    Attributes
    ----------
    classes : in submission order
    mean, best : float32 (n_clips, n_classes), over the windows of a clip that are not silent, averaged over judges
    """

    classes: tuple[str, ...]
    clips: pd.DataFrame
    windows: pd.DataFrame
    said: pd.DataFrame
    mean: np.ndarray = field(repr=False)
    best: np.ndarray = field(repr=False)

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """window, clip, column, score (mean over the judges) of each pair, in the order of `pair`."""
        first = self.said.drop_duplicates("pair").sort_values("pair")
        score = np.bincount(self.said["pair"], self.said["score"]) / np.bincount(self.said["pair"])
        return first[["window", "clip", "column"]].assign(score=score).reset_index(drop=True)


def silent(cache: Cache, table: pd.DataFrame, width: int, gate_db: float) -> np.ndarray:
    """Which windows hold no frame within gate_db of their clip's loudest: bool (n_windows,).

    A frame is as loud as its loudest band of channel 0. Frames that see beyond the window (half an n_fft at either end)
    don't count, unless there are no others.

    Parameters
    ----------
    table : windows of `windows.rolling`
    width : frames of a window
    gate_db : dB

    Raises
    ------
    ValueError
        If channel 0 is not in dB.
    """
    if not cache.logmel.in_db[0]:
        raise ValueError(
            f"channel 0 is {cache.logmel.channels[0]!r}, but the gate needs dB. Put logmel first in channels."
        )
    edge = -(-cache.logmel.n_fft // 2 // cache.logmel.hop_length)
    loud = [_loud(cache, part, gate_db) for part in range(len(cache.parts))]
    result = np.empty(len(table), bool)
    for part in np.unique(table["part"]):
        here = (table["part"] == part).to_numpy()
        first, n, start = table.loc[here, ["first_frame", "n_frames", "start_frame"]].to_numpy().T
        left, right = start.clip(0), np.minimum(start + width, n)
        inner = np.where(right - left > 2 * edge, edge, 0)
        result[here] = loud[part][first + right - inner] == loud[part][first + left + inner]
    return result


def gather(
    clips: pd.DataFrame,
    windows: pd.DataFrame,
    classes: tuple[str, ...],
    judges: Iterable[tuple[str, np.ndarray, np.ndarray]],
) -> Evidence:
    """Boil the scores of all judges down to what rules need; one judge's scores are held at a time.

    Parameters
    ----------
    clips : fname, subset, group, labels; only clips that are to be judged
    windows : fname, window_start_s, window_end_s, silent
    judges : name, rows (which windows, ascending, int), scores float (n_rows, n_classes)

    Raises
    ------
    ValueError
        A window that nobody judged, clips and windows that don't match, or scores outside [0, 1].
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
    place = np.argsort(windows.pop("row").to_numpy())  # row of the table that was given -> window
    tables, judged_by = [], []
    mean, best = np.zeros((2, *truth.shape), np.float32)
    for number, (name, rows, scores) in enumerate(judges):
        if scores.size and not (scores.min() >= 0 and scores.max() <= 1):  # NaN fails too
            raise ValueError(f"{name}: scores must lie in [0, 1]. Pass what `models.activate` makes of logits.")
        window = place[rows]
        tables.append(_read(pairs, window, scores).assign(judge=np.int16(number)))
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
    said = pd.concat(tables, ignore_index=True)
    return Evidence(tuple(classes), clips, windows.drop(columns="fname"), said, mean, best)


# rules: which rows of `said` a judge confirms


def top(evidence: Evidence, k: float) -> np.ndarray:
    """The label is among the k best classes of the window. k = 1 is the write-up's rule, and the default."""
    return evidence.said["rank"].to_numpy() <= k


def threshold(evidence: Evidence, at: float) -> np.ndarray:
    """The label scores at least `at`."""
    return evidence.said["score"].to_numpy() >= at


def quantile(evidence: Evidence, q: float) -> np.ndarray:
    """The label scores at least what a share q of the curated windows with that label stays below."""
    said, loud = evidence.said, ~evidence.windows["silent"].to_numpy()
    curated = (evidence.clips["subset"] == "curated").to_numpy()
    known = said[curated[said["clip"]] & loud[said["window"]]]
    least = known.groupby("column")["score"].quantile(q).reindex(range(len(evidence.classes)))
    return said["score"].to_numpy() >= least.fillna(known["score"].quantile(q)).to_numpy()[said["column"]]


def relative(evidence: Evidence, share: float) -> np.ndarray:
    """The label scores at least `share` of what it scores in the best window of the clip: no curated clip is lost.

    A silent window, which can't be kept, is no best one.
    """
    said, loud = evidence.said, ~evidence.windows["silent"].to_numpy()
    scores = said["score"].where(loud[said["window"]])
    best = scores.groupby([said["judge"], said["clip"], said["column"]]).transform("max")
    return (said["score"] >= share * best).to_numpy()


def confident(evidence: Evidence, share: float) -> np.ndarray:
    """Confident learning does not flag the label; all windows of a clip share its fate.

    Clip scores (mean over windows and judges), each subset on its own; `share` of the errors that it estimates are
    flagged. Source: Northcutt et al. 2021, through cleanlab's multi-label filter.
    """
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class  # here: it takes seconds

    flagged = np.zeros(evidence.mean.shape, bool)
    truth = datasets.targets(evidence.clips, evidence.classes).astype(bool)
    for _, rows in evidence.clips.groupby("subset").indices.items():
        tells = np.flatnonzero(truth[rows].any(0) & ~truth[rows].all(0))  # cleanlab refuses a class of one kind
        if len(tells):
            labels = [np.flatnonzero(row).tolist() for row in truth[np.ix_(rows, tells)]]
            scores = evidence.mean[np.ix_(rows, tells)].astype(float)
            issues = find_multilabel_issues_per_class(labels, scores, frac_noise=share, n_jobs=1)
            flagged[np.ix_(rows, tells)] = issues
    return ~flagged[evidence.said["clip"], evidence.said["column"]]


@dataclass(frozen=True)
class Rule:
    """What a judge must find, the number that it takes by default, and numbers for its curve.

    most : more than half of the judges must agree; else the rule's number is the least share of them.
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
    """The rule and the number of a text such as top_1 or threshold_0.5; the number may be left out.

    Raises
    ------
    ValueError
        With the rules that there are.
    """
    name, _, number = text.partition("_")
    try:
        rule = RULES[name]
        return rule, float(number) if number else rule.default
    except (KeyError, ValueError):
        known = ", ".join(f"{name}_{rule.default:g}" for name, rule in RULES.items())
        raise ValueError(f"{text!r} is no rule. Write name_number, such as {known}.") from None


def confirmed(evidence: Evidence, text: str) -> np.ndarray:
    """Which pairs of window and label a rule confirms, after the gate and the vote: bool (n_pairs,)."""
    rule, at = rule_of(text)
    pair = evidence.said["pair"]
    share = np.bincount(pair, rule.confirms(evidence, at)) / np.bincount(pair)
    agreed = share > 0.5 if rule.most else share >= at
    return agreed & ~evidence.windows["silent"].to_numpy()[evidence.pairs["window"]]


def select(evidence: Evidence, rule: str, *, keep_best: bool = False) -> pd.DataFrame:
    """Every window with its fate: a row a window, by fname and start, columns `COLUMNS`.

    Parameters
    ----------
    keep_best : a curated clip that would lose all its windows keeps the one in which a label of it scores best

    Returns
    -------
    labels, scores, confirmed : comma-joined; scores (mean over the judges) in the order of labels
    reason : silent, confirmed, not confirmed, or best of its clip
    """
    pairs, ok = evidence.pairs, confirmed(evidence, rule)
    n = len(evidence.windows)
    kept = np.bincount(pairs["window"], ok, n) > 0
    hush = evidence.windows["silent"].to_numpy()
    reason = np.select([kept, hush], ["confirmed", "silent"], "not confirmed").astype(object)
    if keep_best:
        lost = ~(np.bincount(evidence.windows["clip"], kept, len(evidence.clips)) > 0)
        lost &= (evidence.clips["subset"] == "curated").to_numpy()
        rescued = pairs[lost[pairs["clip"]] & ~hush[pairs["window"]]]
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


def by_class(kept: pd.DataFrame, clips: pd.DataFrame, window_s: float) -> pd.DataFrame:
    """Clips and seconds of each class before and after; a clip counts for each of its labels.

    Parameters
    ----------
    kept : as from `select`
    clips : fname, subset, labels, duration_s

    Returns
    -------
    subset, class, clips_before, clips_after, clips_lost (no window left at all), seconds_before, seconds_after
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


def heard(evidence: Evidence) -> pd.DataFrame:
    """Classes that a clip lists, or that its judges hear: pseudo-labels, and candidates for missing labels.

    Returns
    -------
    subset, fname, class, listed (bool), mean, best (clip scores over its windows that are not silent), judged_by; a row
    a class that is listed or whose best window scores HEARD or more
    """
    truth = datasets.targets(evidence.clips, evidence.classes).astype(bool)
    clip, column = np.nonzero(truth | (evidence.best >= HEARD))
    table = evidence.clips.iloc[clip][["subset", "fname", "judged_by"]].reset_index(drop=True)
    table["class"] = np.array(evidence.classes, dtype=object)[column]
    table = table.assign(listed=truth[clip, column])
    for name, scores in (("mean", evidence.mean), ("best", evidence.best)):
        table[name] = scores[clip, column].astype(float).round(4)
    return table[["subset", "fname", "class", "listed", "mean", "best", "judged_by"]]


def surprising(kept: pd.DataFrame, n: int) -> pd.DataFrame:
    """The n kept windows that score least, and the n dropped ones (not silent) that score most; one a clip.

    Returns
    -------
    Rows of `kept` with score, that of the best label; kept first
    """
    table = kept.assign(score=[max(map(float, text.split(","))) for text in kept["scores"]])
    least = table[table["kept"]].sort_values(["score", "fname"]).drop_duplicates("fname").head(n)
    loud = table[~table["kept"] & (table["reason"] != "silent")]
    most = loud.sort_values(["score", "fname"], ascending=[False, True]).drop_duplicates("fname").head(n)
    return pd.concat([least, most], ignore_index=True)


def _loud(cache: Cache, part: int, gate_db: float) -> np.ndarray:
    """Frames before each frame of a part that lie within gate_db of their clip's loudest, int (n_frames + 1,)."""
    level = np.concatenate([block[:, 0].amax(dim=1).float().numpy() for block in cache.parts[part].split(2**17)])
    near = np.zeros(len(level) + 1, np.int64)
    for clip in cache.index[cache.index["part"] == part].itertuples():
        frames = slice(clip.first_frame, clip.first_frame + clip.n_frames)
        near[1:][frames] = level[frames] >= level[frames].max() - gate_db
    return near.cumsum()


def _read(pairs: pd.DataFrame, window: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    """What one judge says of the labels of its windows; see `said`.

    Parameters
    ----------
    pairs : pair, window, clip, column, of all windows
    window : those that it judged, int (n,)
    scores : (n, n_classes)
    """
    row_of = pd.Series(np.arange(len(window)), window)
    said = pairs[pairs["window"].isin(window)]
    row, column = row_of[said["window"]].to_numpy(), said["column"].to_numpy()
    score, rank = scores[row, column], np.empty(len(row), np.int16)
    step = max(1, CHUNK // max(1, scores.shape[1]))
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        rank[part] = (scores[row[part]] >= score[part, None]).sum(1)
    return said.assign(score=score.astype(np.float32), rank=rank)


def _by_clip(windows: pd.DataFrame, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clips that a judge judged, and the mean and best of their windows that are not silent (of all, if all are).

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
    result = np.full(n, "", dtype=object)
    window = np.asarray(window)
    first = np.append(True, np.diff(window) > 0) if len(window) else np.zeros(0, bool)
    result[window[first]] = texts[first]
    for i in np.flatnonzero(~first):
        result[window[i]] += "," + texts[i]
    return result
