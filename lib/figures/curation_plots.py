"""Figures of curation: curves over thresholds, seconds before and after, a clip and its scores, leaks.

Conventions
-----------
A figure takes the tables of `curation`, `truth` and `leaks`; axes carry units and the title says what is seen.

Used in: 05_curation.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from lib.experiments import curation
from lib.figures.plots import draw_logmel
from lib.sound.cache import Cache

__all__ = ["before_after", "clips_with_scores", "leaks", "truth_curves"]

MARKS = "osD^vP"


def truth_curves(curves: pd.DataFrame) -> Figure:
    """Precision over recall of every rule, a dot a number, its default filled; `curves` comes from `truth.curves`."""
    kinds = ["curated windows", "noisy windows", "noisy labels"]
    figure, row = plt.subplots(1, 3, figsize=(12, 4.2), sharey=True, layout="constrained")
    for axes, kind in zip(row, kinds, strict=True):
        part = curves[curves["what"] == kind]
        for i, (name, curve) in enumerate(part.groupby("name", sort=False)):
            curve = curve.dropna(subset="precision").sort_values("at")
            line = {"color": f"C{i}", "marker": MARKS[i]}
            axes.plot(curve["recall"], curve["precision"], lw=1, mfc="white", ms=5, label=name, **line)
            axes.plot(*curve.loc[curve["default"], ["recall", "precision"]].to_numpy().T, "", ms=9, **line)
        axes.axhline(part["n_true"].iloc[0] / part["n"].iloc[0], color="black", lw=0.8, ls=":")
        flags = kind == "noisy labels"
        axes.set(xlabel="recall", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.set_title("Noisy labels flagged as wrong" if flags else f"{kind.capitalize()} kept", fontsize="medium")
    row[0].set_ylabel("precision")
    row[1].legend(loc="lower center", ncols=2, fontsize="x-small")
    best = curves[(curves["name"] == "top") & curves["default"]].set_index("what")
    told = ", ".join(f"{kind} {best.loc[kind, 'precision']:.2f} / {best.loc[kind, 'recall']:.2f}" for kind in kinds)
    figure.suptitle(f"top_1: precision / recall of {told} (large: a rule's default; dotted: keeping all)")
    return figure


def before_after(table: pd.DataFrame) -> Figure:
    """Seconds of each class before and after, subsets side by side; `table` comes from `curation.by_class`."""
    subsets = list(dict.fromkeys(table["subset"]))
    order = table.groupby("class")["seconds_before"].sum().sort_values().index
    size = (3 + 4.2 * len(subsets), 1.3 + 0.25 * len(order))
    figure, row = plt.subplots(1, len(subsets), figsize=size, sharey=True, layout="constrained", squeeze=False)
    for axes, subset in zip(row[0], subsets, strict=True):
        part = table[table["subset"] == subset].set_index("class").reindex(order)
        places = np.arange(len(order))
        axes.barh(places, part["seconds_before"], color="0.85", label="before")
        axes.barh(places, part["seconds_after"], color="C0", height=0.5, label="kept")
        for place, lost in zip(places, part["clips_lost"], strict=True):
            if lost > 0:
                axes.annotate(f" {lost:.0f} lost", (part["seconds_before"].iloc[place], place), va="center", fontsize=7)
        axes.set_yticks(places, order)
        axes.grid(visible=False, axis="y")
        kept = part["seconds_after"].sum() / part["seconds_before"].sum()
        axes.set(xlabel="audio (s)", title=f"{subset}: {kept:.0%} of the seconds kept")
        axes.margins(x=0.12)
    row[0, 0].legend(loc="lower right", fontsize="small")
    return figure


def clips_with_scores(cache: Cache, kept: pd.DataFrame, chosen: pd.DataFrame, window_s: float) -> Figure:
    """Log-mels of clips, each with the scores of its labels over time below it; kept spans are green.

    Parameters
    ----------
    kept : as from `curation.select`
    chosen : fname, window_start_s, window_end_s: clips in the order to show, and the window to be framed in each
    window_s : s
    """
    n, ratios = len(chosen), [1.3, 1]
    size = {"figsize": (10, 2.9 * n), "height_ratios": ratios * n, "layout": "constrained"}
    figure, rows = plt.subplots(2 * n, 1, squeeze=False, **size)
    clips = cache.rows(chosen["fname"])
    end_s = clips["n_frames"] / cache.logmel.frames_per_s
    durations_s = pd.Series(dict(zip(clips["fname"], end_s, strict=True)))  # a clip may be chosen twice
    spans = curation.spans(kept[kept["fname"].isin(clips["fname"])], durations_s, window_s)
    for i, (clip, at) in enumerate(zip(clips.itertuples(), chosen.itertuples(), strict=True)):
        above, below = rows[2 * i : 2 * i + 2, 0]
        part = kept[kept["fname"] == clip.fname].sort_values("window_start_s")
        draw_logmel(above, cache, clip)
        middle = part[["window_start_s", "window_end_s"]].mean(axis=1)
        scores = np.array([[float(score) for score in text.split(",")] for text in part["scores"]])
        for j, label in enumerate(part["labels"].iloc[0].split(",")):
            below.plot(middle, scores[:, j], marker=".", color=f"C{j}", label=label)
        for span in spans[spans["fname"] == clip.fname].itertuples():
            below.axvspan(span.start_s, span.end_s, color="C2", alpha=0.2, lw=0)
            above.axvspan(span.start_s, span.end_s, ymax=0.04, color="C2", lw=0)
        frame = {"fill": False, "ec": "black", "ls": "--", "lw": 1}
        below.axvspan(max(at.window_start_s, 0), min(at.window_end_s, end_s[i]), **frame)
        share = part["kept"].mean()
        above.set_title(f"{clip.fname} ({part['subset'].iloc[0]}): {share:.0%} of {len(part)} windows kept", loc="left")
        above.set_xticklabels([])
        for axes in (above, below):
            axes.set_xlim(0, end_s[i])
        below.set(ylim=(-0.03, 1.03), ylabel="score")
        below.legend(loc="upper right", fontsize="x-small")
    told = "scores stand at the middle of their window; green: kept; dashed: the window in question"
    rows[-1, 0].set_xlabel(f"time (s); {told}")
    return figure


def leaks(effects: pd.DataFrame) -> Figure:
    """What each way reports and what it reaches; `effects` comes from `leaks.Demonstrator.effects`."""
    table = effects.iloc[::-1].reset_index(drop=True)
    figure, axes = plt.subplots(figsize=(9.5, 1.3 + 0.5 * len(table)), layout="constrained")
    colours = sns.color_palette("colorblind")
    for name, colour, shift in (("reported", colours[1], 0.12), ("reached", colours[0], -0.12)):
        part = table.dropna(subset=name)
        ends = np.abs(part[[f"{name}_low", f"{name}_high"]].to_numpy().T - part[name].to_numpy())
        axes.errorbar(part[name], part.index + shift, xerr=ends, fmt="o", color=colour, capsize=3, label=name)
    labels = table["sin"] + ": " + table["way"] + np.where(table["honest"], " (honest)", "")
    axes.set_yticks(np.arange(len(table)), labels)
    axes.set(xlabel="lwlrap, 95 % interval", ylim=(-0.6, len(table) - 0.4))
    axes.grid(visible=False, axis="y")
    axes.legend(loc="best", fontsize="small")
    worst = effects.iloc[0]
    axes.set_title(f"Split by window reports {worst['reported']:.2f} and reaches {worst['reached']:.2f}")
    return figure
