"""What is said of a table of comparisons: a verdict for all of it, its numbers for `result.json`, a row in words.

Conventions
-----------
table : a row a variant, as `metrics.score_all` makes it: lwlrap_diff, lwlrap_diff_low, lwlrap_diff_high, level,
    smallest_diff and verdict; NaN in the row of the base. A row "<variant> against <rival>" compares these two, not the
    variant with the base.
verdict : kept, dropped or unclear; "screened" where there are too few seeds or folds for one, in every notebook. The
    verdicts of a table hold together, its intervals one by one (`metrics.compare_each`)

Used in: `experiments`, `ensembles`, `clipwise`, `probes`, `candidates`, `retraining`, `variants`.
"""

import pandas as pd

from lib.evaluation import metrics

__all__ = ["DIFFERENCE", "MIN_SEEDS", "best_first", "differences", "enough", "limits", "rows", "screened", "told"]
__all__ += ["verdict"]

DIFFERENCE = ["lwlrap_diff", "lwlrap_diff_low", "lwlrap_diff_high"]
MIN_SEEDS = 3  # of trainings of the window models; fewer tell of models, not of recipes


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


def enough(n_seeds: int | pd.Series, n_folds: int, of: int) -> bool | pd.Series:
    """Whether that many seeds of trainings, and that many of all folds, carry a verdict: three seeds and all folds."""
    return (n_seeds >= MIN_SEEDS) & (n_folds >= of)


def limits(table: pd.DataFrame) -> str:
    """What a reader of its rows must know besides: what holds together and what alone, which rows are unclear though
    their interval is clear of zero, which difference could have been shown, and which rows have no verdict."""
    some = rows(table)
    if some.empty:
        return ""
    is_screened, levels = some["verdict"] == "screened", _range(100 * some["level"], ".4g")
    told = [] if is_screened.all() else [f"Verdicts hold together, at 5 % for all {len(some)}"]
    told.append(f"Each interval holds alone, at its own level ({levels} %), which depends on how many are compared")
    clear = (some["lwlrap_diff_low"] > 0) | (some["lwlrap_diff_high"] < 0)
    if late := some.loc[clear & (some["verdict"] == "unclear"), "variant"].tolist():
        told.append(f"Clear of zero yet unclear, as Holm's procedure stops at the first unclear one: {', '.join(late)}")
    smallest = _range(some["smallest_diff"], ".3f")
    told.append(f"Smallest difference that this table could have shown, 80 % power under the correction: {smallest}")
    if is_screened.all():
        told.append("A screening, with fewer than three seeds or not all folds: no verdict is drawn from it")
    elif is_screened.any():
        told.append(f"Screened, without a verdict: {', '.join(some.loc[is_screened, 'variant'])}")
    return ". ".join(told) + "."


def rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that are compared with the base; none where nothing is."""
    return table.dropna(subset="lwlrap_diff") if "lwlrap_diff" in table else table[:0]


def screened(table: pd.DataFrame, has_enough: bool | pd.Series = False) -> pd.DataFrame:
    """The table, each verdict turned into "screened" unless there is `enough` behind it (for all, or row by row)."""
    if "verdict" not in table:
        return table
    return table.assign(verdict=table["verdict"].where(table["verdict"].isna() | has_enough, "screened"))


def told(row: object) -> str:
    """The difference of a row (of `itertuples`) and its interval: +0.020 (-0.001 to +0.043)."""
    return f"{row.lwlrap_diff:+.3f} ({row.lwlrap_diff_low:+.3f} to {row.lwlrap_diff_high:+.3f})"


def verdict(table: pd.DataFrame) -> str | None:
    """kept if a variant is; dropped if all are; None where rows are only screened; else, and where nothing is compared,
    unclear. What a variant is against another one than the base decides nothing."""
    if "variant" in table:
        table = table[~_of_rivals(table)]
    verdicts = set(table["verdict"].dropna()) if "verdict" in table else set()
    if "screened" in verdicts:
        return None
    return "kept" if "kept" in verdicts else "dropped" if verdicts == {"dropped"} else "unclear"


def _range(values: pd.Series, form: str) -> str:
    """The least and the most of some numbers, once where they are written alike."""
    return " to ".join(dict.fromkeys(format(value, form) for value in (values.min(), values.max())))


def _of_rivals(table: pd.DataFrame) -> pd.Series:
    return table["variant"].str.contains(metrics.AGAINST, regex=False)
