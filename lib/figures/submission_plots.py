"""Figures of what is submitted.

Conventions
-----------
As in `plots`: a figure takes tables or arrays and returns a matplotlib Figure whose title says what is seen.

Used in: 08.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

__all__ = ["against_promise", "predicted"]

BLUE, ORANGE, *_ = sns.color_palette("colorblind")
N_SHOWN = 80  # classes in a figure


def predicted(scores: np.ndarray, classes: list[str], prior: dict[str, float]) -> Figure:
    """How often each class is a clip's best, beside how often the training clips have it; and how sure the best is.

    Parameters
    ----------
    scores : (n_clips, n_classes), in [0, 1]
    prior : share of training clips that have each class
    """
    best = np.bincount(scores.argmax(axis=1), minlength=len(classes)) / len(scores)
    order = np.argsort(best, kind="stable")[-N_SHOWN:]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 1.2 + 0.24 * max(8, len(order))), width_ratios=(3, 2), layout="constrained"
    )
    left.barh(np.arange(len(order)), 100 * best[order], color=BLUE, label="best class of a test clip")
    shares = [100 * prior.get(classes[i], np.nan) for i in order]
    left.plot(shares, np.arange(len(order)), "|", color="black", ms=9, mew=2, label="label of a training clip")
    left.set_yticks(np.arange(len(order)), [classes[i] for i in order])
    left.grid(visible=False, axis="y")
    left.margins(y=0.01)
    often = order[-1]
    title = f"{classes[often]} comes first most often: {100 * best[often]:.0f} % of {len(scores)} clips"
    left.set(xlabel="share of clips (%)", title=title)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2)
    surest = scores.max(axis=1)
    right.hist(surest, bins=np.linspace(0, 1, 21), color=BLUE)
    right.axvline(np.median(surest), color="black", lw=1, ls="--")
    title = f"Half of the clips' best scores are above {np.median(surest):.2f}"
    right.yaxis.get_major_locator().set_params(integer=True)
    right.set(xlabel="score of the best class", ylabel="clips", xlim=(0, 1), title=title)
    return figure


def against_promise(table: pd.DataFrame) -> Figure:
    """lwlrap of each class on the test clips beside what was promised out of fold and what the organisers reached.

    Parameters
    ----------
    table : from `submission.compare`
    """
    total, rows = table.iloc[0], table.iloc[1:].dropna(subset="all").sort_values("all").tail(N_SHOWN)
    at = np.arange(len(rows))
    figure, axes = plt.subplots(figsize=(8.5, 1.3 + 0.24 * max(4, len(rows))), layout="constrained")
    axes.hlines(at, rows[["all", "out_of_fold"]].min(axis=1), rows[["all", "out_of_fold"]].max(axis=1), color="0.75")
    axes.plot(rows["out_of_fold"], at, "o", mfc="none", color=ORANGE, label="promised (out of fold)")
    axes.plot(rows["all"], at, "o", color=BLUE, label="test clips")
    if rows["organisers"].notna().any():
        axes.plot(rows["organisers"], at, "|", color="black", ms=9, mew=2, label="organisers' system, test clips")
    axes.set_yticks(at, rows["class"] + "  (" + rows["n"].astype(str) + ")")
    axes.grid(visible=False, axis="y")
    axes.set(
        xlim=(0, 1.02),
        ylim=(-0.6, len(rows) - 0.4),
        xlabel="lwlrap (test clips of the class in brackets)",
        title=f"lwlrap {total['all']:.3f} on test clips, {total['out_of_fold']:.3f} was promised",
    )
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
