"""Building blocks of figures: panels on a page, names down an axis, dots with intervals.

Conventions
-----------
A figure is WIDTH inches wide, so a page of the report shows it in full size. No text is
smaller than "small". Colours are seaborn's colour-blind palette.

Used in: all modules of figures.
"""

import textwrap

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["BLUE", "ORANGE", "by_name", "dots", "name_rows", "panels", "wrapped"]

WIDTH = 8.3  # inches; 925 pixels as a run saves it, and a page of the report has 928
ROW = 0.25  # inches, height of a row with a name
LEAST_ROWS = 2  # a figure with fewer names is as high as with this many
BLUE, ORANGE, *_ = sns.color_palette("colorblind")

sns.set_theme(
    context="notebook", style="whitegrid", palette="colorblind", font_scale=0.85,
    rc={
        "figure.constrained_layout.use": True, "figure.constrained_layout.w_pad": 0.08,  # inches
        "figure.titlesize": "medium", "legend.fontsize": "small",
        "text.parse_math": False,  # a name may hold a $
    },
)  # fmt: skip


def panels(n: int, height: float, across: int = 0, **more: object) -> tuple[Figure, list[Axes]]:
    """A figure of n panels, in rows of equal length.

    Parameters
    ----------
    height : inches, of one row of panels
    across : most panels side by side; 0: all of them
    more : keywords of `pyplot.subplots`
    """
    down = -(-n // (across or n))
    figure, grid = plt.subplots(down, -(-n // down), figsize=(WIDTH, height * down), squeeze=False, **more)
    for axes in grid.flat[n:]:
        axes.set_visible(False)
    return figure, list(grid.flat[:n])


def by_name(names: list[str], n: int = 1, row: float = ROW) -> tuple[Figure, list[Axes]]:
    """Panels side by side with one row for each name, the first on top. `row`: inches."""
    figure, grid = panels(n, 1.4 + row * max(LEAST_ROWS, len(names)), sharey=True)
    for axes in grid:
        name_rows(axes, names)
    return figure, grid


def name_rows(axes: Axes, names: list[str]) -> None:
    """Write names down the vertical axis at 0, 1, ..., the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def dots(axes: Axes, table: pd.DataFrame, column: str, at: object, upright: bool = False, **style: object) -> None:
    """A dot for each row of a table, with its interval from the columns `<column>_low` and `<column>_high`.

    Parameters
    ----------
    at : (n,), place of each dot on the other axis
    upright : True draws the intervals along the vertical axis
    style : keywords of `Axes.plot` for the dots, with `color`, which the lines take too
    """
    lines, place = (axes.vlines, (at, table[column])) if upright else (axes.hlines, (table[column], at))
    lines(at, table[f"{column}_low"], table[f"{column}_high"], color=style["color"], lw=1.8, alpha=0.7)
    axes.plot(*place, "o", **style)


def wrapped(text: str, letters: int = 100) -> str:
    """Text broken into lines of at most `letters` characters; a title over the whole width has room for 100."""
    return textwrap.fill(text, letters, break_on_hyphens=False)
