"""A comparison: named ways to score the same clips, each compared with a base, with intervals and verdicts.

Conventions
-----------
A table has a row a way (`variant`), and a row "<variant> against <rival>" for two that are compared beside the base.
verdict : kept, dropped or unclear; "screened" where there are too few seeds or folds for one, in every notebook;
    "failed" where a training diverged. The verdicts of a table hold together, its intervals one by one
    (`metrics.compare_each`).

Used in: 02, 03, 05 to 07, 09, 10.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from lib.data.datasets import Labelled
from lib.evaluation import metrics

__all__ = [
    "AGAINST",
    "DIFFERENCE",
    "MIN_SEEDS",
    "Comparison",
    "differences",
    "enough",
    "format_difference",
    "format_score",
    "screened",
    "to_settle",
]

AGAINST = " against "  # in the name of a row that compares two others than the base
DIFFERENCE = ["lwlrap_diff", "lwlrap_diff_low", "lwlrap_diff_high"]
MIN_SEEDS = 3  # of trainings of the window models; with fewer, a verdict is about models, not recipes


@dataclass(frozen=True)
class Comparison(Labelled):
    """Named ways to score the same clips, all compared with one of them; corrected together by Holm.

    Attributes
    ----------
    clips : labels (tuples) and group of each clip
    classes : in submission order
    scores : name -> (n_clips, n_classes), with a first axis of seeds where there are several, and a second of members
        of a seed, see `metrics`; what has one seed stands for every seed of another
    base : the name that the others are compared with; if it has no scores, or nothing else has, nothing is compared
    enough : whether all folds, and seeds of the window models enough, are there. If so, a way that has three seeds of
        its own gets a verdict; all others are screened
    rivals : name -> name of what it is compared with as well; passed over where one of the two has no scores
    failed : names that have no scores, since their trainings diverged; None where nothing is trained
    order : column that the table is sorted by, best first; by "lwlrap_diff" the base is on top. None: as in `scores`
    decimals : to which the table is rounded, and all that is said of it
    """

    clips: pd.DataFrame
    classes: Collection[str]
    scores: dict[str, np.ndarray]
    base: str
    enough: bool
    rivals: Mapping[str, str] = field(default_factory=dict)
    failed: Collection[str] | None = None
    order: str | None = "lwlrap_diff"
    decimals: int | None = None

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A row a way, then a row a pair of rivals, then those that failed.

        variant, its own scores and n as `metrics.bootstrap`, n_seeds; where something is compared, the difference to
        the base, its interval, level, p and verdict as `metrics.compare_each`
        """
        targets, groups = self.targets, self.groups
        seeds = {name: np.asarray(s) if np.ndim(s) > 2 else np.asarray(s)[None] for name, s in self.scores.items()}
        found = {row["variant"]: row for row in metrics.compare_each(targets, self._pairs(seeds), groups)}
        rows = []
        for name, s in seeds.items():
            own = {"variant": name, **metrics.bootstrap(targets, s, groups), "n_seeds": len(s)}
            rows.append(own | found.pop(name, {}) | own)  # the number of seeds is its own
        table = pd.DataFrame([*rows, *found.values()], columns=None if rows else ["variant"])
        if "verdict" in table:
            table = screened(table, self.enough & enough(table["n_seeds"]))
        if self.order in table:
            pair = table["variant"].isin(found)
            ordered = table[~pair].sort_values(self.order, ascending=False, na_position="first")
            table = pd.concat([ordered, table[pair]], ignore_index=True)
        if self.failed is not None:
            failed = pd.DataFrame({"variant": list(self.failed), "verdict": "failed"})
            table = pd.concat([table, failed], ignore_index=True)
        return table if self.decimals is None else table.round(self.decimals)

    @property
    def compared(self) -> pd.DataFrame:
        """The rows that tell a difference."""
        return self.rows.dropna(subset="lwlrap_diff") if "lwlrap_diff" in self.rows else self.rows[:0]

    def table(self, name: str = "variant") -> pd.DataFrame:
        """The rows, for a CSV or a figure; `name` is the column of the names."""
        return self.rows.rename(columns={"variant": name})

    def metrics(self, of: str | None = None) -> dict[str, float]:
        """For `result.json`: the scores of the base, or of another way, and the difference of every way to the base."""
        rows, name = self.rows.set_index("variant"), of or self.base
        own = dict(rows.loc[name, [*metrics.SCORES, "n"]]) if name in self.scores else {}
        return own | differences(rows.drop(self.base, errors="ignore"))

    def verdict(self, among: Collection[str] | None = None, every: bool = False) -> str | None:
        """One verdict of all that is compared with the base.

        kept if a way is, dropped if all are, else unclear; None where ways are screened or nothing is compared.

        Parameters
        ----------
        among : names that count; none: all. What one is against a rival decides nothing
        every : kept only if all are
        """
        mine = self.rows["variant"].isin(self.scores if among is None else among)
        found = set(self.rows.loc[mine, "verdict"].dropna()) if "verdict" in self.rows else set()
        if not found or "screened" in found:
            return None
        if len(found) == 1 and not self.failed:
            return found.pop()
        return "kept" if "kept" in found and not every else "unclear"

    def conclusion(self, form: str = "{} {}: {}") -> str:
        """Every difference to the base with its interval and verdict, and its `limits`; nothing if none is compared.

        Of one that is not settled also: the probability that it helps, and how many clips of this kind would tell.

        Parameters
        ----------
        form : of one of them: name, difference, verdict
        """
        rows = self.compared.itertuples()
        told = [form.format(row.variant, format_difference(row), row.verdict) + _unsettled(row) for row in rows]
        return f"{'; '.join(told)}. {self.limits()}" if told else ""

    def limits(self) -> str:
        """What a reader of the differences must know besides: what holds together and what alone, which are unclear
        though their interval is clear of zero, which could have been shown, and which have no verdict."""
        some = self.compared
        if some.empty:
            return ""
        is_screened, clear = some["verdict"] == "screened", some["lwlrap_diff_low"] * some["lwlrap_diff_high"] > 0
        late = ", ".join(some.loc[clear & (some["verdict"] == "unclear"), "variant"])
        levels, smallest = _range(100 * some["level"], ".4g"), _range(some["smallest_diff"], ".3f")
        told = {
            f"Verdicts hold together, at 5 % for all {len(some)}": not is_screened.all(),
            f"Each interval holds alone, at its own level ({levels} %), which depends on how many are compared": True,
            f"Clear of zero yet unclear, as Holm's procedure stops at the first unclear one: {late}": late,
            f"Smallest difference that this table could have shown, 80 % power under the correction: {smallest}": True,
            "A screening, with fewer than three seeds or not all folds: no verdict is drawn from it": is_screened.all(),
            f"Screened, without a verdict: {', '.join(some.loc[is_screened, 'variant'])}": 0 < is_screened.mean() < 1,
        }
        return ". ".join(sentence for sentence, holds in told.items() if holds) + "."

    def _pairs(self, seeds: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Name -> what is compared, base first; all with as many seeds."""
        if self.base not in seeds:
            return {}
        n_seeds = max(map(len, seeds.values()))
        alike = {name: np.repeat(s, n_seeds, axis=0) if len(s) == 1 else s for name, s in seeds.items()}
        pairs = {name: (alike[self.base], s) for name, s in alike.items() if name != self.base}
        there = {name: rival for name, rival in self.rivals.items() if {name, rival} <= alike.keys()} if pairs else {}
        return pairs | {f"{name}{AGAINST}{rival}": (alike[rival], alike[name]) for name, rival in there.items()}


def differences(table: pd.DataFrame) -> dict[str, float]:
    """<name>_lwlrap_diff, _low and _high of a table whose index has the names; nothing where none is compared."""
    if not set(DIFFERENCE) <= set(table):
        return {}
    return {f"{name.replace(' ', '_')}_{key}": row[key] for name, row in table.iterrows() for key in DIFFERENCE}


def enough(n_seeds: int | pd.Series, n_folds: int = 1, of: int = 1) -> bool | pd.Series:
    """Whether that many seeds of trainings, and that many of all folds, carry a verdict: three seeds and all folds."""
    return (n_seeds >= MIN_SEEDS) & (n_folds >= of)


def format_difference(row: object) -> str:
    """The difference of a row (of `itertuples`) and its interval: +0.020 (-0.001 to +0.043)."""
    return f"{row.lwlrap_diff:+.3f} ({row.lwlrap_diff_low:+.3f} to {row.lwlrap_diff_high:+.3f})"


def format_score(row: Mapping[str, float], name: str = "lwlrap") -> str:
    """A metric of a row and its interval: 0.870 (0.841 to 0.902)."""
    return f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"


def screened(table: pd.DataFrame, has_enough: bool | pd.Series = False) -> pd.DataFrame:
    """The table, each verdict turned into "screened" unless there is `enough` behind it (for all, or row by row)."""
    return table.assign(verdict=table["verdict"].where(table["verdict"].isna() | has_enough, "screened"))


def to_settle(row: object) -> tuple[float, float] | None:
    """What would settle a row: clips of this kind (two digits; not finite without a difference), and p_better.

    None if the row is settled (its interval is clear of zero, and Holm's procedure does not leave it unclear), or if it
    has no interval (one group of clips).
    """
    is_clear = row.lwlrap_diff_low * row.lwlrap_diff_high > 0 and row.verdict != "unclear"
    return None if is_clear or np.isnan(row.p_better) else (float(f"{row.n_to_settle:.2g}"), row.p_better)


def _unsettled(row: object) -> str:
    """What would settle a row, in brackets; nothing if it is settled."""
    if (needed := to_settle(row)) is None:
        return ""
    clips = f"about {needed[0]:.0f} clips of this kind would, " if needed[0] < np.inf else ""
    return f" (not settled: {clips}probability that it helps {needed[1]:.2f})"


def _range(values: pd.Series, form: str) -> str:
    """The least and the most of some numbers, once where they are written alike."""
    return " to ".join(dict.fromkeys(format(value, form) for value in (values.min(), values.max())))
