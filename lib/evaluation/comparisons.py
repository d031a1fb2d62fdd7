"""A comparison: variants that score the same clips, each compared with a base, with intervals and verdicts.

Conventions
-----------
A table has a row a variant, and a row "<variant> against <rival>" for each extra pair without the base.
verdict : kept, dropped or unclear; "screened" where there are too few seeds or folds for a verdict; "failed" where a
    training diverged. The verdicts of a table hold together, each interval on its own (`metrics.compare_each`).
answer : what the interval says in words, screened or not, see `answer`.

Used in: 02, 03, 05 to 10; `pages`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from lib.data.datasets import Labelled
from lib.evaluation import metrics

__all__ = ["AGAINST", "DIFFERENCE", "MIN_SEEDS", "UNSETTLED", "Comparison", "answer", "answers", "differences"]
__all__ += ["enough", "format_clips", "format_difference", "format_range", "format_score", "screened", "shown"]

AGAINST = " against "  # in the name of a row that compares two variants, neither of them the base
DIFFERENCE = ["lwlrap_diff", "lwlrap_diff_low", "lwlrap_diff_high"]
FEW = 10  # groups that differ: with fewer, an interval says little
MANY = 100_000  # clips: no larger number is told
UNSETTLED = "not settled"
MIN_SEEDS = 3  # of the window models; with fewer, a verdict would be about models, not about recipes


@dataclass(frozen=True)
class Comparison(Labelled):
    """Variants that score the same clips, all compared with one of them; Holm corrects over all comparisons.

    Attributes
    ----------
    clips : labels (tuples) and group of each clip
    classes : in submission order
    scores : variant -> (n_clips, n_classes), or with a first axis of seeds, or of seeds and members of a seed, see
        `metrics`. A variant with one seed is compared with every seed of the others
    base : the variant that the others are compared with. Without scores of the base and another, nothing is compared
    enough : whether all folds and enough seeds of the window models are there. Then a difference with three seeds on
        either side gets a verdict; all others are screened
    rivals : variant -> another that it is also compared with; ignored where one of the two has no scores
    failed : variants without scores, because their trainings diverged; None where nothing is trained
    order : column that the table is sorted by, best first; by "lwlrap_diff" the base is on top. None: as in `scores`
    decimals : the table and all sentences are rounded to; None: not rounded
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
        """A row a variant, then a row a pair of rivals, then the variants that failed.

        Columns: variant, its scores and n as `metrics.bootstrap`, n_seeds; where something is compared, the difference
        to the base and the rest of `metrics.compare_each`
        """
        targets, groups = self.targets, self.groups
        seeds = {name: np.asarray(s) if np.ndim(s) > 2 else np.asarray(s)[None] for name, s in self.scores.items()}
        differences = {row["variant"]: row for row in metrics.compare_each(targets, self._pairs(seeds), groups)}
        rows = []
        for name, s in seeds.items():
            own = {"variant": name, **metrics.bootstrap(targets, s, groups), "n_seeds": len(s)}
            rows.append(own | differences.pop(name, {}) | own)  # its own number of seeds, not that of the comparison
        for name, pair in differences.items():
            pair["n_seeds"] = min(len(seeds[side]) for side in name.split(AGAINST))
        table = pd.DataFrame([*rows, *differences.values()], columns=None if rows else ["variant"])
        if "verdict" in table:
            table = screened(table, self.enough & enough(table["n_seeds"].clip(upper=len(seeds[self.base]))))
        if self.order in table:
            pair = table["variant"].isin(differences)
            ordered = table[~pair].sort_values(self.order, ascending=False, na_position="first")
            table = pd.concat([ordered, table[pair]], ignore_index=True)
        if self.failed is not None:
            failed = pd.DataFrame({"variant": list(self.failed), "verdict": "failed"})
            table = pd.concat([table, failed], ignore_index=True)
        table = table if self.decimals is None else table.round(self.decimals)
        return table.assign(answer=list(map(answer, table.itertuples()))) if "lwlrap_diff" in table else table

    @property
    def compared(self) -> pd.DataFrame:
        """The rows with a difference."""
        return self.rows.dropna(subset="lwlrap_diff") if "lwlrap_diff" in self.rows else self.rows[:0]

    def table(self, name: str = "variant") -> pd.DataFrame:
        """The rows, for a CSV or a figure; the column of variants is called `name`."""
        return self.rows.rename(columns={"variant": name})

    def metrics(self, of: str | None = None) -> dict[str, float]:
        """For `result.json`: scores of the base (or of the variant `of`), and every difference to the base."""
        rows, name = self.rows.set_index("variant"), of or self.base
        own = dict(rows.loc[name, [*metrics.SCORES, "n"]]) if name in self.scores else {}
        return own | differences(rows.drop(self.base, errors="ignore"))

    def verdict(self, among: Collection[str] | None = None, every: bool = False) -> str | None:
        """One verdict over all variants: kept if one is kept, dropped if all are dropped, else unclear.

        None where a variant is screened or nothing is compared. Comparisons with a rival don't count.

        Parameters
        ----------
        among : variants that count; None: all
        every : kept only if all are kept
        """
        counts = self.rows["variant"].isin(self.scores if among is None else among)
        verdicts = set(self.rows.loc[counts, "verdict"].dropna()) if "verdict" in self.rows else set()
        if not verdicts or "screened" in verdicts:
            return None
        if len(verdicts) == 1 and not self.failed:
            return verdicts.pop()
        return "kept" if "kept" in verdicts and not every else "unclear"

    def conclusion(self) -> str:
        """The `answers` of the table, then the `limits`, in Markdown; empty if nothing is compared."""
        return "" if self.compared.empty else f"{answers(self.compared)}\n\n{self.limits()}"

    def limits(self) -> str:
        """How to read the differences, in sentences; empty if nothing is compared.

        Verdicts hold together, intervals alone; which differences are unclear although their interval excludes zero;
        the smallest difference that this table could show; whether all is screened.
        """
        rows = self.compared
        if rows.empty:
            return ""
        is_screened, clear = rows["verdict"] == "screened", rows["lwlrap_diff_low"] * rows["lwlrap_diff_high"] > 0
        many = rows.get("n_differ", np.inf) >= FEW  # where few groups differ, `answers` says so
        stopped = ", ".join(rows.loc[clear & (rows["verdict"] == "unclear") & many, "variant"])
        levels, smallest = format_range(100 * rows["level"], ".4g"), format_range(rows["smallest_diff"], ".3f")
        sentences = {
            f"Verdicts hold together, at 5 % for all {len(rows)}": not is_screened.all(),
            f"Each interval holds alone, at its own level ({levels} %), which depends on how many are compared; "
            "so does each answer of no difference": True,
            f"Clear of zero yet unclear, as Holm's procedure stops at the first unclear one: {stopped}": stopped,
            f"Smallest difference that this table could have shown, 80 % power under the correction: {smallest}": True,
            "A screening, with fewer than three seeds or not all folds: no verdict is drawn from it": is_screened.all(),
        }
        return ". ".join(sentence for sentence, holds in sentences.items() if holds) + "."

    def _pairs(self, seeds: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Name -> the two scores that are compared, base first; all have the same number of seeds."""
        if self.base not in seeds:
            return {}
        n_seeds = max(map(len, seeds.values()))
        full = {name: np.repeat(s, n_seeds, axis=0) if len(s) == 1 else s for name, s in seeds.items()}
        pairs = {name: (full[self.base], s) for name, s in full.items() if name != self.base}
        rivals = {name: rival for name, rival in self.rivals.items() if {name, rival} <= full.keys()} if pairs else {}
        return pairs | {f"{name}{AGAINST}{rival}": (full[rival], full[name]) for name, rival in rivals.items()}


def answer(row: object) -> str | None:
    """What the difference of a row (of `itertuples`) says; None without a difference.

    It helps or hurts if its interval is clear of zero, unless Holm's procedure leaves it unclear, screened or not. Else
    there is no difference larger than `metrics.MARGIN` if the interval lies within it, and what is left is not settled.
    An interval says little where hardly a group differs: then it takes FEW groups that do, or so many groups that those
    which might are too few for the margin (three of n, if none of n was seen).
    """
    low, high = row.lwlrap_diff_low, row.lwlrap_diff_high
    if np.isnan(row.lwlrap_diff):
        return None
    is_unclear = row.verdict == "unclear" or getattr(row, "p_holm", 0) >= metrics.ERRORS
    if low * high > 0 and not is_unclear:
        return "it helps" if low > 0 else "it hurts"
    told = getattr(row, "n_differ", np.inf) >= FEW or row.n_groups * metrics.MARGIN >= 3  # older tables lack n_differ
    is_small = max(abs(low), abs(high)) <= metrics.MARGIN
    return f"no difference larger than {metrics.MARGIN}" if is_small and told else UNSETTLED


def answers(rows: pd.DataFrame, name: str = "variant") -> str:
    """A line of Markdown for each answer: who has it, with difference and interval; screened ones in other lines.

    What is not settled also has the probability that it helps, and the number of clips of this kind that would settle
    it.

    Parameters
    ----------
    rows : of `metrics.compare_each`, each with a difference
    name : of the column that names them
    """
    told: dict[str, list[str]] = {}
    for row in rows.itertuples():
        said = answer(row).capitalize() + " (screened)" * (row.verdict == "screened")
        told.setdefault(said, []).append(f"{getattr(row, name)} {format_difference(row)}{_unsettled(row)}")
    return "\n".join(f"- {said}: {'; '.join(told[said])}." for said in sorted(told))  # it helps, it hurts, no, not


def differences(table: pd.DataFrame) -> dict[str, float]:
    """<name>_lwlrap_diff, _low and _high for each row of a table indexed by name; empty if nothing is compared."""
    if not set(DIFFERENCE) <= set(table):
        return {}
    return {f"{name.replace(' ', '_')}_{key}": row[key] for name, row in table.iterrows() for key in DIFFERENCE}


def enough(n_seeds: int | pd.Series, n_folds: int = 1, of: int = 1) -> bool | pd.Series:
    """Whether there is enough for a verdict: three seeds of trainings, and `n_folds` not fewer than `of`, all folds."""
    return (n_seeds >= MIN_SEEDS) & (n_folds >= of)


def format_clips(number: float) -> str:
    """A number of clips that would settle a comparison, with two digits: about 9000, or more than MANY."""
    return f"about {float(f'{number:.2g}'):.0f}" if number <= MANY else f"more than {MANY}"


def format_difference(row: object) -> str:
    """The difference of a row (of `itertuples`) and its interval: +0.020 (-0.001 to +0.043)."""
    return f"{row.lwlrap_diff:+.3f} ({row.lwlrap_diff_low:+.3f} to {row.lwlrap_diff_high:+.3f})"


def format_range(values: pd.Series, form: str) -> str:
    """Minimum and maximum of numbers, as text: 3 to 5; once if both read the same."""
    return " to ".join(dict.fromkeys(format(value, form) for value in (values.min(), values.max())))


def format_score(row: Mapping[str, float], name: str = "lwlrap") -> str:
    """A metric of a row and its interval: 0.870 (0.841 to 0.902)."""
    return f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"


def screened(table: pd.DataFrame, has_enough: bool | pd.Series = False) -> pd.DataFrame:
    """The table with verdicts replaced by "screened", except where `has_enough` (for all rows, or row by row)."""
    return table.assign(verdict=table["verdict"].where(table["verdict"].isna() | has_enough, "screened"))


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The main columns of a comparison, of those that it has, rounded, for display."""
    numbers = ["lwlrap", *DIFFERENCE, "p_better", "n_to_settle"]
    return table.filter(["variant", "changed", "epochs", *numbers, "answer", "verdict", "compute"]).round(3)


def _unsettled(row: object) -> str:
    """What would settle a row; nothing if it is settled, or has no interval (one group of clips)."""
    if answer(row) != UNSETTLED or np.isnan(row.p_better):
        return ""
    chance, needed = f", helps with probability {row.p_better:.2f}", row.n_to_settle
    low, high = row.lwlrap_diff_low, row.lwlrap_diff_high
    if -metrics.MARGIN <= low <= high <= metrics.MARGIN or (low * high > 0 and getattr(row, "n_differ", np.inf) < FEW):
        return f"{chance}, but only {row.n_differ:.0f} groups of clips differ, too few to tell"
    return chance if np.isnan(needed) else f"{chance}, {format_clips(needed)} clips would settle it"
