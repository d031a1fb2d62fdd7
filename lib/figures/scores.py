"""Figures of scores: over epochs, by class, and of the test clips beside the out-of-fold score.

Conventions
-----------
A figure takes tables or arrays and returns a matplotlib Figure. Its axes have units, its title states what it shows.

Used in: 04, 08, 10.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from lib.figures.drawing import BLUE, ORANGE, by_name, name_rows, panels, wrapped

__all__ = ["against_oof", "confusions", "learning_curves", "per_class", "predicted"]

MOST_CLASSES = 80  # in one figure


def learning_curves(epochs: pd.DataFrame) -> Figure:
    """Loss and lwlrap over epochs.

    Parameters
    ----------
    epochs : model, epoch (from 0), train_loss, valid_loss, lwlrap; one curve for each model
    """
    figure, (left, right) = panels(2, 3.4)
    for i, (name, curve) in enumerate(epochs.groupby("model")):
        left.plot(curve["epoch"] + 1, curve["train_loss"], color=f"C{i}", lw=1, alpha=0.5)
        curve = curve.dropna(subset="lwlrap")
        left.plot(curve["epoch"] + 1, curve["valid_loss"], color=f"C{i}", marker=".")
        right.plot(curve["epoch"] + 1, curve["lwlrap"], color=f"C{i}", marker=".", label=name)
    last = epochs.groupby("model").tail(1)["lwlrap"].mean()
    left.set(xlabel="epoch", ylabel="loss (nats)", title="Thin: training, as augmented;\nwith dots: held-out windows")
    right.set(xlabel="epoch", ylabel="lwlrap of single windows", ylim=(None, 1))
    right.set_title(f"Held-out windows end\nat lwlrap {last:.3f}")
    right.legend(loc="lower right", ncols=2)
    return figure


def per_class(table: pd.DataFrame) -> Figure:
    """lwlrap of each class as a bar, the hardest class on top.

    Parameters
    ----------
    table : class, n (clips with that label), lwlrap (NaN where n is 0)
    """
    table = table.sort_values("lwlrap", na_position="first").head(MOST_CLASSES)
    figure, (axes,) = by_name(list(table["class"] + "  (" + table["n"].astype(str) + ")"))
    axes.barh(range(len(table)), table["lwlrap"].fillna(0), color=BLUE)
    hardest = table.dropna(subset="lwlrap").iloc[0]
    title = f"{hardest['class']} is the hardest class: lwlrap {hardest['lwlrap']:.2f}"
    axes.set(xlim=(0, 1), xlabel="lwlrap (clips of the class in brackets)", title=title)
    return figure


def confusions(counts: np.ndarray, classes: list[str], n_shown: int = 12) -> Figure:
    """The most confused classes: how often a class that is not a label (column) ranked above a label (row).

    Parameters
    ----------
    counts : (n_classes, n_classes), from `metrics.confusions`
    n_shown : classes in the figure: those with the most confusions
    """
    busy = np.sort(np.argsort(-(counts.sum(0) + counts.sum(1)), kind="stable")[:n_shown])
    shown = pd.DataFrame(counts, classes, classes).iloc[busy, busy]
    row, column = np.unravel_index(counts.argmax(), counts.shape)
    figure, (axes,) = panels(1, 2.4 + 0.35 * len(busy))
    sns.heatmap(shown, annot=True, fmt="d", cmap="Blues", ax=axes, cbar=False, xticklabels=True, yticklabels=True)
    plt.setp(axes.get_xticklabels(), rotation=40, ha="right")
    title = f"Most confused: {classes[row]} taken for {classes[column]}, {counts[row, column]} clips"
    axes.set(xlabel="class that ranked first but is not a label", ylabel="label of the clip", title=wrapped(title, 80))
    return figure


def predicted(scores: np.ndarray, classes: list[str], prior: dict[str, float]) -> Figure:
    """How often each class ranks first, beside its share of the training clips; and the scores of first classes.

    Parameters
    ----------
    scores : (n_clips, n_classes), in [0, 1]
    prior : share of training clips that have each class
    """
    best = np.bincount(scores.argmax(axis=1), minlength=len(classes)) / len(scores)
    order = np.argsort(best, kind="stable")[::-1][:MOST_CLASSES]
    figure, (left, right) = panels(2, 1.8 + 0.25 * max(8, len(order)), width_ratios=(3, 2))
    left.barh(range(len(order)), 100 * best[order], color=BLUE, label="ranks first in a test clip")
    shares = [100 * prior.get(classes[i], np.nan) for i in order]
    left.plot(shares, range(len(order)), "|", color="black", ms=9, mew=2, label="label of a training clip")
    name_rows(left, [classes[i] for i in order])
    first = f"{classes[order[0]]} ranks first most often: {100 * best[order[0]]:.0f} % of {len(scores)} clips"
    left.set(xlabel="share of clips (%)", title=wrapped(first, 44))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2)
    top_scores = scores.max(axis=1)
    right.hist(top_scores, bins=np.linspace(0, 1, 21), color=BLUE)
    right.axvline(np.median(top_scores), color="black", lw=1, ls="--")
    right.yaxis.get_major_locator().set_params(integer=True)
    right.set(xlabel="score of the best class", ylabel="clips", xlim=(0, 1))
    right.set_title(f"Half of the clips' best scores\nare above {np.median(top_scores):.2f}")
    return figure


def against_oof(table: pd.DataFrame) -> Figure:
    """lwlrap of each class on the test clips, beside the out-of-fold score and the score of the organisers' system.

    Parameters
    ----------
    table : from `submission.compare`
    """
    total, rows = table.iloc[0], table.iloc[1:].dropna(subset="all").sort_values("all", ascending=False)
    rows = rows.head(MOST_CLASSES)
    at, both = range(len(rows)), rows[["all", "out_of_fold"]]
    figure, (axes,) = by_name(list(rows["class"] + "  (" + rows["n"].astype(str) + ")"))
    axes.hlines(at, both.min(axis=1), both.max(axis=1), color="0.75")
    axes.plot(rows["out_of_fold"], at, "o", mfc="none", color=ORANGE, label="out of fold, arithmetic mean")
    axes.plot(rows["all"], at, "o", color=BLUE, label="test clips")
    if rows["organisers"].notna().any():
        axes.plot(rows["organisers"], at, "|", color="black", ms=9, mew=2, label="organisers' system, test clips")
    axes.set(xlim=(0, 1.02), xlabel="lwlrap (test clips of the class in brackets)")
    axes.set_title(f"lwlrap of all classes: {total['all']:.3f} on test clips, {total['out_of_fold']:.3f} out of fold")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
