"""Figures of what windows say together: prediction images, silent windows, where stage 2 gains, what averaging gives.

Conventions
-----------
As in `plots`: tables or arrays in, a matplotlib Figure out; axes carry units, the title says what is seen.

Used in: 06, 07.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.clips import prediction_images

__all__ = ["images", "members", "silence", "why"]

N_ACROSS, MOST_ACROSS = 5, 6  # images side by side
CAPTION = 24  # letters in a line above an image


def images(
    shown: np.ndarray,
    captions: list[str],
    labels: list[tuple[str, ...]],
    rows: list[str],
    hop_s: float,
    title: str,
) -> Figure:
    """Prediction images: x time, y classes, brightness the score. A clip's labels are marked at the left of their rows.

    Parameters
    ----------
    shown : (n, n_classes, n_columns), 0 to 255
    captions, labels : of each image
    rows : class in each row, from the top
    hop_s : s between columns
    """
    across = len(shown) if len(shown) <= MOST_ACROSS else N_ACROSS
    down = -(-len(shown) // across)
    height = 0.55 + 0.17 * len(rows)
    size = (2.2 + 2.35 * across, 0.7 + height * down)
    figure, grid = plt.subplots(down, across, figsize=size, layout="constrained", squeeze=False, sharey=True)
    extent = (0, shown.shape[2] * hop_s, len(rows) - 0.5, -0.5)
    for axes, image, caption, names in zip(grid.ravel(), shown, captions, labels, strict=False):
        scores = np.ma.masked_where(np.broadcast_to(image.max(0) == 0, image.shape), image / prediction_images.WHITE)
        mesh = axes.imshow(scores, cmap="magma", vmin=0, vmax=1, aspect="auto", extent=extent, interpolation="nearest")
        axes.set_facecolor("0.93")
        axes.grid(visible=False)
        axes.set_title(textwrap.fill(caption.replace("_", " "), CAPTION), fontsize="small", loc="left")
        axes.set_yticks(np.arange(len(rows)), [name.replace("_", " ")[:26] for name in rows], fontsize="x-small")
        axes.tick_params(axis="x", labelsize="x-small")
        at = [rows.index(name) for name in names if name in rows]
        axes.plot(np.zeros(len(at)), at, ">", color="C2", ms=7, clip_on=False, zorder=5)
    for axes in grid.ravel()[len(shown) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("time (s)", fontsize="small")
    figure.colorbar(mesh, ax=grid, label="score", pad=0.01, fraction=0.025, aspect=30)
    figure.suptitle(title, fontsize="medium")
    return figure


def silence(example: pd.DataFrame, name: str, table: pd.DataFrame) -> Figure:
    """What a silent window does: to one clip, and to all.

    Parameters
    ----------
    example : window, score (of the clip's label), silent (bool)
    name : the label
    table : method, silent (windows added), lwlrap
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    colours = np.where(example["silent"], "C7", "C0")
    left.bar(example["window"], example["score"], color=colours)
    heard = example.loc[~example["silent"], "score"]
    means = {"arithmetic": np.mean, "geometric": lambda s: np.exp(np.mean(np.log(s)))}
    told = []
    for style, (mean, formula) in zip(("-", "--"), means.items(), strict=True):
        before, after = formula(heard), formula(example["score"])
        left.axhline(after, color="C3" if mean == "geometric" else "C2", ls=style, label=f"{mean} mean, with silence")
        told.append(f"{mean} {before:.2f} to {after:.2f}")
    left.set(
        ylim=(0, 1.3),
        yticks=np.arange(0, 1.1, 0.2),
        xlabel="window (the grey one is silent)",
        ylabel=f"score of {name.replace('_', ' ')}",
        title="; ".join(told),
    )
    left.legend(fontsize="x-small", loc="upper left", ncols=2)
    for i, (method, mine) in enumerate(table.groupby("method", sort=False)):
        right.plot(mine["silent"], mine["lwlrap"], marker="o", color=f"C{i}", label=method.replace("_", " of "))
    one = table[table["silent"] == 1].set_index("method")["lwlrap"]
    none = table[table["silent"] == 0].set_index("method")["lwlrap"]
    loss = none - one
    right.set(
        xticks=sorted(table["silent"].unique()),
        xlabel="silent windows added to every clip",
        ylabel="lwlrap",
        title=f"One costs {loss['mean']:.3f} (arithmetic), {loss['geometric']:.3f} (geometric mean)",
    )
    right.legend(fontsize="x-small")
    return figure


def why(shift: pd.DataFrame, selection: pd.DataFrame, data: pd.DataFrame) -> Figure:
    """Three suspects: other scores than in training; choosing where it is reported; too little data.

    Parameters
    ----------
    shift : model, fed, lwlrap_diff, lwlrap_diff_low, lwlrap_diff_high (`probes.shift`)
    selection : outer, metric, chosen elsewhere, picked there, by chance, tries, n (`probes.selection`)
    data : method (share of the training groups), lwlrap_diff, lwlrap_diff_low, lwlrap_diff_high
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    fed = list(dict.fromkeys(shift["fed"]))
    kinds = list(dict.fromkeys(shift["model"]))
    for i, kind in enumerate(kinds):
        mine = shift[shift["model"] == kind].set_index("fed").loc[fed]
        x = np.arange(len(fed)) + 0.7 * (i + 0.5) / len(kinds) - 0.35
        _with_bars(left, x, mine, f"C{i}", kind)
    left.set_xticks(np.arange(len(fed)), [name.replace(" ", "\n", 1) for name in fed])
    left.set(ylabel="stage 2 minus arithmetic mean, lwlrap", title="By the scores that stage 2 is fed")
    left.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=len(kinds), columnspacing=1)
    hits = selection[selection["metric"] == "hit_rate"]
    for column, colour, aside in (("chosen elsewhere", "C0", -0.1), ("picked there", "C3", 0.1)):
        gains = 100 * hits[column]
        middle.plot(
            gains, hits["outer"] + aside, "o", color=colour, ms=8, alpha=0.8, label=f"{column}: {gains.mean():+.1f}"
        )
        middle.axvline(gains.mean(), color=colour, ls="--", lw=1)
    middle.axvline(0, color="0.3", lw=1)
    chance = 100 * hits["by chance"].mean()
    middle.axvline(chance, color="C3", ls=":", lw=1, label=f"as many equally good, by chance: {chance:+.1f}")
    middle.set_yticks(hits["outer"])
    middle.set(
        xlabel="gain in top-1 hit rate over the mean (points)",
        ylabel="fold that is reported",
        title=f"The best of {hits['tries'].iloc[0]} on {hits['n'].mean():.0f} clips, chosen honestly or not",
    )
    middle.legend(fontsize="x-small", title="mean of folds", title_fontsize="x-small", loc="best")
    _with_bars(right, np.arange(len(data)), data, "C0", "")
    right.set_xticks(np.arange(len(data)), data["method"])
    right.set(xlabel="share of the training groups", title="By how much stage 2 has to learn from")
    for axes in (left, right):
        axes.axhline(0, color="0.3", lw=1)
    return figure


def members(table: pd.DataFrame) -> Figure:
    """Diversity against accuracy: what single models reach, how much they disagree, and what their average reaches.

    Parameters
    ----------
    table : variant (strategy), single (mean lwlrap of the members), lwlrap (of their average), disagreement, n_members;
        rows that compare two strategies have none of these
    """
    figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for i, row in enumerate(table.dropna(subset="single").itertuples()):
        axes.plot([row.disagreement] * 2, [row.single, row.lwlrap], color=f"C{i}", lw=1.5, alpha=0.7)
        axes.plot(row.disagreement, row.single, "o", mfc="white", color=f"C{i}", ms=8)
        label = f"{row.variant.replace('_', ' ')} ({row.n_members})"
        axes.plot(row.disagreement, row.lwlrap, "o", color=f"C{i}", ms=8, label=label)
    axes.set(
        xlabel="disagreement: share of clips where two members name another best class",
        ylabel="lwlrap",
        title="Hollow: a single member; full: their average. Averaging pays where members disagree",
    )
    axes.legend(fontsize="x-small", title="strategy (members)", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _with_bars(axes: Axes, x: np.ndarray, table: pd.DataFrame, colour: str, label: str) -> None:
    """Differences with their intervals."""
    axes.vlines(x, table["lwlrap_diff_low"], table["lwlrap_diff_high"], color=colour, lw=1.5, alpha=0.6)
    axes.plot(x, table["lwlrap_diff"], "o", color=colour, label=label)
