"""What is known of the demo set: which windows really hold their label, and which noisy labels are wrong.

It reports on rules of curation, and never chooses one.

Conventions
-----------
A window holds a label if at least HOLDS_S of a sound of that class lies within it. A noisy label is wrong if the class
is not heard in the clip; a rule flags it if no window of the clip is kept for it.
precision : share of what was kept (flagged) that holds its label (is wrong); recall : share of what holds its label (is
wrong) that was kept (flagged). Silent windows count for recall as any other.

Used in: 05_curation.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from lib.data import datasets
from lib.evaluation import metrics
from lib.experiments import curation
from lib.experiments.curation import Evidence

__all__ = ["Truth", "curves", "rates", "read", "says", "silence_kept"]

HOLDS_S = 0.1


class Truth:
    """The spans and labels of `lib.demo`: spans (fname, class, start_s, end_s), labels (fname -> set of classes)."""

    def __init__(self, spans: pd.DataFrame, labels: pd.Series) -> None:
        self.spans, self.labels = spans, labels

    def holds(self, evidence: Evidence) -> np.ndarray:
        """Which pairs of window and label are true, bool (n_pairs,)."""
        pairs = evidence.pairs
        windows = evidence.windows.iloc[pairs["window"]].reset_index(drop=True)
        table = pd.DataFrame(
            {
                "pair": np.arange(len(pairs)),
                "fname": evidence.clips["fname"].to_numpy()[pairs["clip"]],
                "class": np.array(evidence.classes, dtype=object)[pairs["column"]],
                "window_start_s": windows["window_start_s"],
                "window_end_s": windows["window_end_s"],
            }
        ).merge(self.spans, on=["fname", "class"])
        overlap_s = table[["window_end_s", "end_s"]].min(axis=1) - table[["window_start_s", "start_s"]].max(axis=1)
        result = np.zeros(len(pairs), bool)
        result[table["pair"][overlap_s >= HOLDS_S]] = True
        return result

    def wrong(self, clips: pd.DataFrame, classes: tuple[str, ...]) -> np.ndarray:
        """Which labels of the clips are wrong, bool (n_clips, n_classes)."""
        heard = clips.assign(labels=[self.labels[fname] for fname in clips["fname"]])
        return (datasets.targets(clips, classes) == 1) & (datasets.targets(heard, classes) == 0)


def read(data_dir: Path, classes: tuple[str, ...]) -> Truth | None:
    """The truth that lies beside a demo set; None beside any other set. Sounds out of the vocabulary are left out."""
    folder = Path(data_dir) / "truth"
    if not (folder / "spans.csv").is_file():
        return None
    spans = pd.read_csv(folder / "spans.csv", keep_default_na=False)[["fname", "class", "start_s", "end_s"]]
    labels = pd.read_csv(folder / "labels.csv", keep_default_na=False).set_index("fname")["labels"]
    return Truth(spans, labels.map(lambda text: tuple(name for name in text.split(",") if name in classes)))


def rates(truth: Truth, evidences: Iterable[Evidence], rule: str) -> pd.DataFrame:
    """Precision and recall of one rule, over all outer folds: a row each for curated and noisy windows, and for flags.

    Returns
    -------
    what (curated windows, noisy windows, noisy labels), rule, n_kept, n_true, n (all pairs, once an outer fold),
    precision, recall, each with _low and _high: 95 % intervals that resample groups
    """
    counts = []
    for evidence in evidences:
        pairs, ok = evidence.pairs, curation.confirmed(evidence, rule)
        subset = evidence.clips["subset"].to_numpy()
        group = evidence.clips["group"].to_numpy()
        table = pd.DataFrame({"group": group[pairs["clip"]], "kept": ok, "true": truth.holds(evidence)})
        counts.append(table.assign(what=subset[pairs["clip"]] + " windows"))
        wrong, flagged = truth.wrong(evidence.clips, evidence.classes), _flagged(evidence, ok)
        clip, column = np.nonzero(datasets.targets(evidence.clips, evidence.classes) == 1)
        noisy = subset[clip] == "noisy"
        clip, column = clip[noisy], column[noisy]
        labels = pd.DataFrame({"group": group[clip], "kept": flagged[clip, column], "true": wrong[clip, column]})
        counts.append(labels.assign(what="noisy labels"))
    table = pd.concat(counts, ignore_index=True).assign(both=lambda t: t["kept"] & t["true"])
    rows = []
    for what, part in table.groupby("what"):
        sums = part.groupby("group")[["both", "kept", "true"]].sum().to_numpy(float)
        row = {"what": what, "rule": rule, "n_kept": int(sums[:, 1].sum()), "n_true": int(sums[:, 2].sum())}
        row |= {"n": len(part)}
        rows.append(
            row | metrics.ratio("precision", sums[:, 0], sums[:, 1]) | metrics.ratio("recall", sums[:, 0], sums[:, 2])
        )
    return pd.DataFrame(rows)


def curves(truth: Truth, evidences: list[Evidence]) -> pd.DataFrame:
    """`rates` of every rule at every number of its curve, with the columns name, at and default (bool)."""
    return pd.concat(
        [
            rates(truth, evidences, f"{name}_{at:g}").assign(name=name, at=at, default=at == rule.default)
            for name, rule in curation.RULES.items()
            for at in rule.curve
        ],
        ignore_index=True,
    )


def says(curves: pd.DataFrame, rule: str) -> str:
    """What the truth says of a rule, in a sentence; `curves` from `curves`. Nothing of a rule that they don't hold."""
    told = []
    for row in curves[curves["rule"] == rule].itertuples():
        precision = f"{row.precision:.2f} ({row.precision_low:.2f} to {row.precision_high:.2f})"
        recall = f"{row.recall:.2f} ({row.recall_low:.2f} to {row.recall_high:.2f})"
        told.append(f"{row.what} precision {precision}, recall {recall}, where all have {row.n_true / row.n:.2f}")
    return f" By the known truth, {rule} has: {'; '.join(told)}." if told else ""


def silence_kept(truth: Truth, clips: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    """Windows that were kept though they lie wholly in the silent head or tail of a curated clip.

    Scenes have none: their background runs from end to end.

    Parameters
    ----------
    clips : fname, subset, labels, duration_s
    kept : as from `curation.select`

    Returns
    -------
    The rows of kept windows with the column `kept`, for all windows that lie in silence; none should be kept
    """
    heard = truth.spans.groupby("fname").agg(first_s=("start_s", "min"), last_s=("end_s", "max"))
    table = kept.merge(heard, on="fname").merge(clips[["fname", "duration_s"]], on="fname")
    curated = (table["subset"] == "curated") & ~table["labels"].str.contains("then")
    start, end = table["window_start_s"].clip(lower=0), table[["window_end_s", "duration_s"]].min(axis=1)
    return table[curated & ((end <= table["first_s"]) | (start >= table["last_s"]))]


def _flagged(evidence: Evidence, ok: np.ndarray) -> np.ndarray:
    """Labels that no window is kept for, bool (n_clips, n_classes); true of what is no label too."""
    found = np.zeros(evidence.mean.shape, bool)
    found[evidence.pairs["clip"][ok], evidence.pairs["column"][ok]] = True
    return ~found
