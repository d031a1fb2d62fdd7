"""What figures are made of: panels on a page, names down an axis, dots with intervals.

Conventions
-----------
A figure is WIDTH inches wide: a page of the report shows it as it was saved, unshrunk. No letter is smaller than
"small". Colours are seaborn's colour-blind palette.

Used in: `data`, `logmels` and `scores`.
"""

import textwrap

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["BLUE", "ORANGE", "by_name", "dots", "name_rows", "panels", "wrapped"]

WIDTH = 8.3  # inches; 925 pixels as a run saves it, and a page of the report has 928
ROW = 0.25  # inches that a name takes
LEAST_ROWS = 2  # a figure of fewer names is as high as with these
BLUE, ORANGE, *_ = sns.color_palette("colorblind")

sns.set_theme(
    context="notebook", style="whitegrid", palette="colorblind", font_scale=0.85,
    rc={
        "figure.constrained_layout.use": True, "figure.constrained_layout.w_pad": 0.08,  # inches
        "figure.titlesize": "medium", "legend.fontsize": "small",
    },
)  # fmt: skip


def panels(n: int, height: float, across: int = 0, **more: object) -> tuple[Figure, list[Axes]]:
    """A figure of n panels, rows of equal length.

    Parameters
    ----------
    height : inches, of a row of panels
    across : panels side by side, at most; 0: all
    more : for `pyplot.subplots`
    """
    down = -(-n // (across or n))
    figure, grid = plt.subplots(down, -(-n // down), figsize=(WIDTH, height * down), squeeze=False, **more)
    for axes in grid.flat[n:]:
        axes.set_visible(False)
    return figure, list(grid.flat[:n])


def by_name(names: list[str], n: int = 1, row: float = ROW, **more: object) -> tuple[Figure, list[Axes]]:
    """Panels side by side that share a row for each name, the first on top; `row` in inches, `more` as in `panels`."""
    figure, found = panels(n, 1.4 + row * max(LEAST_ROWS, len(names)), sharey=True, **more)
    for axes in found:
        name_rows(axes, names)
    return figure, found


def name_rows(axes: Axes, names: list[str]) -> None:
    """Names down the axis at 0, 1, ..., the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def dots(axes: Axes, table: pd.DataFrame, column: str, at: object, upright: bool = False, **style: object) -> None:
    """A dot a row with its interval, which `<column>_low` and `<column>_high` hold.

    Parameters
    ----------
    at : (n,), where each dot stands on the other axis
    upright : intervals along the vertical axis
    style : of the dots; the lines take their colour
    """
    lines, place = (axes.vlines, (at, table[column])) if upright else (axes.hlines, (table[column], at))
    lines(at, table[f"{column}_low"], table[f"{column}_high"], color=style["color"], lw=1.8, alpha=0.7)
    axes.plot(*place, "o", **style)


def wrapped(text: str, letters: int = 100) -> str:
    """Text in lines of so many letters at the most; a full page holds 100 of a title."""
    return textwrap.fill(text, letters, break_on_hyphens=False)
