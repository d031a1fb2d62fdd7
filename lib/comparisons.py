"""What is said of a table of comparisons: a verdict for all of it, its numbers for `result.json`, a row in words.

Conventions
-----------
table : a row a variant, as `metrics.score_all` makes it: lwlrap_diff, lwlrap_diff_low, lwlrap_diff_high and verdict;
    NaN in the row of the base. A row "<variant> against <rival>" compares these two, not the variant with the base.

Used in: `experiments`, `ensembles`, `clipwise`, `retraining`, `variants`.
"""

import pandas as pd

from lib import metrics

__all__ = ["DIFFERENCE", "best_first", "differences", "rows", "screened", "told", "verdict"]

DIFFERENCE = ["lwlrap_diff", "lwlrap_diff_low", "lwlrap_diff_high"]


def best_first(table: pd.DataFrame) -> pd.DataFrame:
    """The base on top, then its variants from the best difference on, then rows that compare two others."""
    pair = _of_rivals(table)
    ordered = table[~pair].sort_values("lwlrap_diff", ascending=False, na_position="first")
    return pd.concat([ordered, table[pair]], ignore_index=True)


def differences(table: pd.DataFrame) -> dict[str, float]:
    """<variant>_lwlrap_diff, _low and _high of a table whose index names the variants; nothing where none has one."""
    if not set(DIFFERENCE) <= set(table):
        return {}
    return {f"{name.replace(' ', '_')}_{key}": row[key] for name, row in table.iterrows() for key in DIFFERENCE}


def rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that are compared with the base; none where nothing is."""
    return table.dropna(subset="lwlrap_diff") if "lwlrap_diff" in table else table[:0]


def screened(table: pd.DataFrame) -> pd.DataFrame:
    """A table that has too little behind it for verdicts: each becomes "screened"."""
    return table.assign(verdict=table["verdict"].mask(table["verdict"].notna(), "screened"))


def told(row: object) -> str:
    """The difference of a row (of `itertuples`) and its interval: +0.020 (-0.001 to +0.043)."""
    return f"{row.lwlrap_diff:+.3f} ({row.lwlrap_diff_low:+.3f} to {row.lwlrap_diff_high:+.3f})"


def verdict(table: pd.DataFrame) -> str:
    """kept if a variant is; dropped if all are; else, and where nothing is compared, unclear.

    What a variant is against another one than the base, decides nothing.
    """
    if "variant" in table:
        table = table[~_of_rivals(table)]
    verdicts = set(table["verdict"].dropna()) if "verdict" in table else set()
    return "kept" if "kept" in verdicts else "dropped" if verdicts == {"dropped"} else "unclear"


def _of_rivals(table: pd.DataFrame) -> pd.Series:
    return table["variant"].str.contains(metrics.AGAINST, regex=False)
