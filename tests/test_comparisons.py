"""Tests of comparisons: one verdict for a table, its numbers, a row in words."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lib.evaluation import comparisons
from lib.figures import scores as figures

TABLE = pd.DataFrame(
    {
        "variant": ["base", "one", "two"],
        "lwlrap_diff": [np.nan, 0.02, -0.1234],
        "lwlrap_diff_low": [np.nan, -0.001, -0.2],
        "lwlrap_diff_high": [np.nan, 0.043, -0.05],
        "level": [np.nan, 0.95, 0.975],
        "smallest_diff": [np.nan, 0.03, 0.1],
        "verdict": [None, "unclear", "dropped"],
    }
)


@pytest.mark.parametrize(
    ("verdicts", "of_all"),
    [
        ([None, "kept", "dropped"], "kept"),
        ([None, "dropped", "dropped"], "dropped"),
        ([None, "unclear", "dropped"], "unclear"),
        ([None], "unclear"),
        ([None, "screened", "screened"], None),
    ],
)
def test_a_table_has_one_verdict(verdicts, of_all):
    assert comparisons.verdict(pd.DataFrame({"verdict": verdicts})) == of_all
    assert comparisons.verdict(pd.DataFrame({"variant": ["base"]})) == "unclear"


def test_what_one_variant_is_against_another_is_told_and_decides_nothing():
    row = {"variant": "one against two", "lwlrap_diff": 0.1, "lwlrap_diff_low": 0.05, "verdict": "kept"}
    table = pd.concat([TABLE, pd.DataFrame([row])], ignore_index=True)
    assert comparisons.verdict(table) == comparisons.verdict(TABLE) == "unclear"
    assert comparisons.rows(table)["variant"].tolist() == ["one", "two", "one against two"]
    ordered = comparisons.best_first(table[::-1])["variant"].tolist()
    assert ordered == ["base", "one", "two", "one against two"]  # the last one though its difference is the best
    found = comparisons.differences(table.set_index("variant").drop("base"))
    assert found["one_against_two_lwlrap_diff"] == 0.1


def test_differences_are_flat_numbers():
    found = comparisons.differences(TABLE.set_index("variant").drop("base"))
    assert list(found) == [f"{v}_lwlrap_diff{end}" for v in ("one", "two") for end in ("", "_low", "_high")]
    assert found["two_lwlrap_diff_low"] == -0.2
    assert comparisons.differences(TABLE[["variant"]]) == {}


def test_a_difference_in_words():
    assert [comparisons.told(row) for row in TABLE[1:].itertuples()] == [
        "+0.020 (-0.001 to +0.043)",
        "-0.123 (-0.200 to -0.050)",
    ]


def test_without_enough_for_a_verdict_a_row_that_has_one_is_screened():
    found = comparisons.screened(TABLE)
    assert found["verdict"].tolist()[1:] == ["screened", "screened"] and found["verdict"].isna()[0]
    assert TABLE["verdict"][1] == "unclear"
    assert comparisons.screened(TABLE, True).equals(TABLE)
    by_row = comparisons.screened(TABLE, comparisons.enough(pd.Series([3, 1, 3]), 5, 5))
    assert by_row["verdict"].tolist()[1:] == ["screened", "dropped"]
    assert comparisons.screened(TABLE[["variant"]]).equals(TABLE[["variant"]])  # nothing is compared


@pytest.mark.parametrize(
    ("n_seeds", "n_folds", "enough"), [(3, 5, True), (4, 5, True), (2, 5, False), (3, 4, False), (1, 1, False)]
)
def test_a_verdict_wants_three_seeds_and_all_folds(n_seeds, n_folds, enough):
    assert comparisons.enough(n_seeds, n_folds, 5) == enough


def test_what_a_reader_must_know_besides():
    assert comparisons.limits(TABLE) == (
        "Verdicts hold together, at 5 % for all 2. Each interval holds alone, at its own level (95 to 97.5 %), which "
        "depends on how many are compared. "
        "Smallest difference that this table could have shown, 80 % power under the correction: 0.030 to 0.100."
    )
    late = TABLE.assign(lwlrap_diff_low=[np.nan, 0.001, -0.2])  # one is unclear all the same
    assert "Clear of zero yet unclear, as Holm's procedure stops at the first unclear one: one." in comparisons.limits(
        late
    )
    told = comparisons.limits(comparisons.screened(TABLE))
    assert told.startswith("Each interval holds alone") and "Verdicts hold" not in told
    assert told.endswith("A screening, with fewer than three seeds or not all folds: no verdict is drawn from it.")
    by_row = comparisons.screened(TABLE, pd.Series([True, False, True]))
    assert comparisons.limits(by_row).endswith("0.100. Screened, without a verdict: one.")
    alone = comparisons.limits(TABLE[:2])
    assert "own level (95 %), which" in alone and alone.endswith("under the correction: 0.030.")
    assert comparisons.limits(TABLE[:1]) == comparisons.limits(TABLE[["variant"]]) == ""


def test_rows_that_are_compared():
    assert comparisons.rows(TABLE)["variant"].tolist() == ["one", "two"]
    assert comparisons.rows(TABLE[["variant"]]).empty


def test_a_figure_counts_as_against_the_base_what_is():
    pair = {"variant": "one against two", "lwlrap_diff": 0.1, "lwlrap_diff_low": 0.05, "lwlrap_diff_high": 0.2}
    table = pd.concat([TABLE, pd.DataFrame([pair | {"verdict": "kept"}])], ignore_index=True).assign(n=20)
    figure = figures.differences(table)
    assert figure.axes[0].get_title() == "Against the base: 1 dropped, 1 unclear"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][0] == "one against two  kept"
    plt.close(figure)
