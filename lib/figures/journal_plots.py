"""Figures of the journal; see `plots` for conventions.

Used in: 09_journal.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

__all__ = ["learning_curves"]

SHARES = np.linspace(5, 100, 20)  # % of a training: variants, and folds of one, can have different numbers of epochs


def learning_curves(curves: pd.DataFrame) -> Figure:
    """Loss and lwlrap over the training, a line a variant: the mean of its folds, with their range behind it.

    Parameters
    ----------
    curves : variant, model, epoch, train_loss, valid_loss, lwlrap, from `variants.against_base`; the base comes first
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    ends = []
    for i, (name, curve) in enumerate(curves.groupby("variant", sort=False)):
        style = {"color": "black" if i == 0 else f"C{(i - 1) % 10}", "ls": "-" if i <= 10 else "--"}
        for side, column in zip(axes, ("train_loss", "lwlrap"), strict=True):
            folds = np.array([_over_shares(one, column) for _, one in curve.groupby("model")])
            side.fill_between(SHARES, folds.min(0), folds.max(0), color=style["color"], alpha=0.08, lw=0)
            side.plot(SHARES, folds.mean(0), lw=2.5 if i == 0 else 1.3, marker=".", label=name, **style)
        ends.append(folds.mean(0)[-1])
    for side, what in zip(axes, ("training loss, as augmented (nats)", "lwlrap of held-out windows"), strict=True):
        side.set(xlabel="share of the training (%)", ylabel=what)
    low, high = (f"{end(ends[1:] or [0]):.3f}" for end in (min, max))
    others = "" if not ends[1:] else f", the rest at {low}" if low == high else f", the others between {low} and {high}"
    axes[0].set_title("Lines: means of the folds; shades: their range")
    axes[1].set_title(f"The base ends at {ends[0]:.3f}{others}")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    return figure


def _over_shares(curve: pd.DataFrame, column: str) -> np.ndarray:
    """The column of one model's curve at SHARES, between the epochs that measured it; NaN before the first."""
    share = 100 * (curve["epoch"] + 1) / (curve["epoch"].max() + 1)
    there = curve[column].notna()
    return np.interp(SHARES, share[there], curve.loc[there, column], left=np.nan)
