"""Tests of comparisons: own scores and differences side by side, one verdict, numbers, sentences."""

from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lib.evaluation import comparisons, metrics
from lib.evaluation.comparisons import Comparison
from lib.figures import experiments as figures

CLASSES = list("abcde")
TABLE = pd.DataFrame(
    {
        "variant": ["base", "one", "two"],
        "lwlrap_diff": [np.nan, 0.02, -0.1234],
        "lwlrap_diff_low": [np.nan, -0.001, -0.2],
        "lwlrap_diff_high": [np.nan, 0.043, -0.05],
        "level": [np.nan, 0.95, 0.975],
        "smallest_diff": [np.nan, 0.03, 0.1],
        "n_to_settle": [np.nan, 1234.0, 40.0],
        "p_better": [np.nan, 0.83, 0.01],
        "verdict": [None, "unclear", "dropped"],
    }
)
PAIR = {"variant": "one against two", "lwlrap_diff": 0.1, "lwlrap_diff_low": 0.05, "lwlrap_diff_high": 0.2}
PAIR |= {"level": 0.95, "smallest_diff": 0.04, "n_to_settle": 9.0, "p_better": 0.99, "verdict": "kept"}


def study(seed, n=60, enough=True, base="base", **changes):
    """A comparison of clips with one label each; `scores` maps names to (number of seeds, skill)."""
    rng = np.random.default_rng(seed)
    clips = pd.DataFrame({"group": np.arange(n).astype(str), "labels": [(c,) for c in rng.choice(CLASSES, n)]})
    truth = np.array([[c in labels for c in CLASSES] for labels in clips["labels"]])
    alike = truth + rng.normal(size=truth.shape)
    given = changes.pop("scores", {"base": (3, 0), "better": (3, 2), "chance": (3, 0)})
    scores = {
        name: alike + skill * truth + rng.normal(0, 0.3, (n_seeds, *truth.shape))
        for name, (n_seeds, skill) in given.items()
    }
    return Comparison(clips, CLASSES, scores, base, enough, **changes)


def told(table, failed=None):
    """A comparison of which this is the table."""
    names = [name for name in table["variant"] if " against " not in name]
    found = Comparison(pd.DataFrame(), [], dict.fromkeys(names), "base", True, failed=failed)
    found.__dict__["rows"] = table
    return found


# the table


def test_side_by_side_are_own_scores_and_differences_to_the_base():
    found = study(0, scores={"base": (1, 0), "a": (3, 1)})
    table = found.table().set_index("variant")
    assert table.index.tolist() == ["base", "a"] and table["n_seeds"].tolist() == [1, 3]
    for name, scores in found.scores.items():
        own = metrics.bootstrap(found.targets, scores, found.groups)
        assert table.loc[name, list(own)].to_dict() == own
    pairs = {"a": (np.repeat(found.scores["base"], 3, axis=0), found.scores["a"])}  # one seed stands for all three
    [pair] = metrics.compare_each(found.targets, pairs, found.groups)
    assert (
        table.loc["a"].to_dict().items() >= {k: v for k, v in pair.items() if k not in ("variant", "verdict")}.items()
    )
    assert table.loc["base", ["lwlrap_diff", "verdict"]].isna().all()
    flat = replace(found, scores={name: s[0] for name, s in found.scores.items()})  # without an axis of seeds
    assert flat.rows.equals(replace(found, scores={name: s[:1] for name, s in found.scores.items()}).rows)


@pytest.mark.parametrize("names", [[], ["base"], ["a", "b"]])
def test_without_a_base_and_another_nothing_is_compared(names):
    found = study(1, scores={name: (3, 0) for name in names}, rivals={"a": "b"})
    assert found.table()["variant"].tolist() == names and "verdict" not in found.table()
    assert found.compared.empty and found.verdict() is None and found.conclusion() == found.limits() == ""
    assert list(found.metrics()) == ([*metrics.SCORES, "n"] if "base" in names else [])


def test_rivals_are_compared_in_the_same_table():
    given = {"a": (3, 0), "b": (3, 1), "base": (3, 0)}
    found = study(2, scores=given, rivals={"a": "b", "b": "gone"})
    table = found.table().set_index("variant")
    assert table.index.tolist() == ["base", "b", "a", "a against b"]  # the base, from best to worst, pairs
    s = found.scores
    pairs = {"a": (s["base"], s["a"]), "b": (s["base"], s["b"]), "a against b": (s["b"], s["a"])}
    together = {row["variant"]: row for row in metrics.compare_each(found.targets, pairs, found.groups)}
    for name, row in together.items():  # three comparisons, corrected by Holm as one table
        assert (table.loc[name, "p_holm"], table.loc[name, "level"]) == (row["p_holm"], row["level"])
    assert np.isnan(table.loc["a against b", "lwlrap"]) and table.loc["a against b", "n_seeds"] == 3


def test_a_table_has_its_order_its_name_and_its_places():
    given = {"a": (3, 0), "b": (3, 1), "base": (3, 2)}
    assert study(3, scores=given).table()["variant"].tolist() == ["base", "b", "a"]
    assert study(3, scores=given, order="lwlrap").table()["variant"].tolist() == ["base", "b", "a"]
    assert study(3, scores=given, order=None).table("way")["way"].tolist() == ["a", "b", "base"]
    given["base"] = (3, -1)
    assert study(3, scores=given, order="lwlrap").table()["variant"].tolist() == ["b", "a", "base"]
    found = study(3, decimals=2)
    assert found.table().equals(study(3).table().round(2))
    assert found.metrics()["lwlrap"] == found.table()["lwlrap"][0] == round(study(3).metrics()["lwlrap"], 2)


def test_what_failed_is_listed_last():
    table = study(4, failed=["lost"]).table()
    assert table["variant"].tolist()[-1] == "lost" and table["verdict"].tolist()[-1] == "failed"
    assert np.isnan(table["lwlrap"].iloc[-1])
    alone = study(4, scores={"base": (3, 0)}, failed=["lost"])
    assert alone.table()["verdict"].tolist()[1] == "failed" and alone.verdict() is None


# verdicts


@pytest.mark.parametrize(
    ("verdicts", "of_all", "of_every"),
    [
        (["kept", "dropped"], "kept", "unclear"),
        (["kept", "kept"], "kept", "kept"),
        (["dropped", "dropped"], "dropped", "dropped"),
        (["unclear", "dropped"], "unclear", "unclear"),
        (["screened", "screened"], None, None),
        (["kept", "screened"], None, None),
    ],
)
def test_a_table_has_one_verdict(verdicts, of_all, of_every):
    table = pd.DataFrame({"variant": ["base", "one", "two"], "verdict": [None, *verdicts]})
    found = told(table)
    assert (found.verdict(), found.verdict(every=True)) == (of_all, of_every)
    assert found.verdict(["one"]) == (None if verdicts[0] == "screened" else verdicts[0])
    assert found.verdict(["none of them"]) is None


def test_all_are_not_dropped_where_one_failed():
    table = pd.DataFrame({"variant": ["base", "one", "lost"], "verdict": [None, "dropped", "failed"]})
    assert told(table, failed=["lost"]).verdict() == "unclear" and told(table[:2]).verdict() == "dropped"
    assert told(table.assign(verdict=[None, "kept", "failed"]), failed=["lost"]).verdict() == "kept"


def test_what_one_variant_is_against_another_is_told_and_decides_nothing():
    found = told(pd.concat([TABLE, pd.DataFrame([PAIR])], ignore_index=True))
    assert found.verdict() == told(TABLE).verdict() == "unclear"
    assert found.compared["variant"].tolist() == ["one", "two", "one against two"]
    assert found.conclusion().startswith(
        "- It helps: one against two +0.100 (+0.050 to +0.200).\n"
        "- It hurts: two -0.123 (-0.200 to -0.050).\n"
        "- Not settled: one +0.020 (-0.001 to +0.043), helps with probability 0.83, about 1200 clips would settle it."
        "\n\nVerdicts hold together"
    )


def test_without_enough_for_a_verdict_a_row_that_has_one_is_screened():
    assert set(study(5).table()["verdict"].dropna()) == {"kept", "unclear"} and study(5).verdict() == "kept"
    few = study(5, enough=False)
    assert set(few.table()["verdict"].dropna()) == {"screened"} and few.verdict() is None
    mixed = study(5, scores={"base": (3, 0), "better": (3, 2), "one": (1, 2)}).table().set_index("variant")
    assert mixed.loc["better", "verdict"] == "kept" and mixed.loc["one", "verdict"] == "screened"
    assert np.isnan(mixed["lwlrap_diff"]["base"]) and pd.isna(mixed["verdict"]["base"])
    assert comparisons.screened(TABLE)["verdict"].tolist()[1:] == ["screened", "screened"]
    assert comparisons.screened(TABLE, True).equals(TABLE) and TABLE["verdict"][1] == "unclear"
    of_one = study(5, scores={"base": (1, 0), "better": (3, 2)}).table()  # about this base, not about its recipe
    assert set(of_one["verdict"].dropna()) == {"screened"}


def test_a_pair_of_rivals_has_the_seeds_of_the_side_with_fewer():
    scores = {"base": (3, 0), "better": (1, 2), "control": (1, 0.5)}
    table = study(5, scores=scores, rivals={"better": "control"}).table().set_index("variant")
    pair = table.loc["better against control"]
    assert pair["n_seeds"] == 1 and pair["verdict"] == "screened"


def test_a_screened_row_that_holm_leaves_unclear_does_not_help():
    row = {"lwlrap_diff": 0.04, "lwlrap_diff_low": 0.001, "lwlrap_diff_high": 0.09, "p_holm": 0.094, "n_groups": 60}
    for verdict in ("unclear", "screened"):
        assert comparisons.answer(SimpleNamespace(**row, verdict=verdict)) == "not settled"
    assert comparisons.answer(SimpleNamespace(**{**row, "p_holm": 0.04}, verdict="screened")) == "it helps"


def test_no_difference_takes_groups_that_differ_or_very_many():
    row = {"lwlrap_diff": 0.0, "lwlrap_diff_low": -0.001, "lwlrap_diff_high": 0.001, "verdict": "unclear"}
    for n_groups, n_differ, said in [(40, 2, False), (40, 10, True), (200, 0, True), (199, 9, False)]:
        row |= {"n_groups": n_groups, "n_differ": n_differ}
        assert (comparisons.answer(SimpleNamespace(**row)) != "not settled") is said


@pytest.mark.parametrize(
    ("n_seeds", "n_folds", "enough"), [(3, 5, True), (4, 5, True), (2, 5, False), (3, 4, False), (1, 1, False)]
)
def test_a_verdict_wants_three_seeds_and_all_folds(n_seeds, n_folds, enough):
    assert comparisons.enough(n_seeds, n_folds, 5) == enough


# numbers and sentences


def test_metrics_are_flat_numbers():
    found = study(6)
    rows, numbers = found.table().set_index("variant"), found.metrics()
    ends = [f"{v}_lwlrap_diff{end}" for v in rows.index[1:] for end in ("", "_low", "_high")]
    assert list(numbers) == [*metrics.SCORES, "n", *ends]
    assert numbers["lwlrap"] == rows.loc["base", "lwlrap"] and numbers["n"] == 60
    assert numbers["better_lwlrap_diff_low"] == rows.loc["better", "lwlrap_diff_low"]
    assert found.metrics(of="better") == {**numbers, **rows.loc["better", [*metrics.SCORES, "n"]]}
    pair = pd.DataFrame([PAIR]).set_index("variant")
    assert comparisons.differences(pair)["one_against_two_lwlrap_diff"] == 0.1
    assert comparisons.differences(pair[["level"]]) == {}


@pytest.mark.parametrize(
    ("low", "high", "verdict", "answer"),
    [
        (0.001, 0.043, "kept", "it helps"),
        (-0.043, -0.001, "dropped", "it hurts"),
        (0.001, 0.043, "screened", "it helps"),
        (0.001, 0.043, "unclear", "not settled"),  # clear of zero, yet Holm's procedure has stopped
        (-0.015, 0.015, "unclear", "no difference larger than 0.015"),
        (0.001, 0.009, "unclear", "no difference larger than 0.015"),
        (-0.015, 0.016, "unclear", "not settled"),
        (-0.016, 0.015, "screened", "not settled"),
        (0.0, 0.0, "unclear", "no difference larger than 0.015"),
        (np.nan, np.nan, "unclear", "not settled"),  # one group: no interval
    ],
)
def test_an_interval_is_an_answer(low, high, verdict, answer):
    middle = 0.0 if np.isnan(low) else (low + high) / 2
    row = {"variant": "one", "lwlrap_diff": middle, "lwlrap_diff_low": low, "lwlrap_diff_high": high}
    [row] = pd.DataFrame([row | {"verdict": verdict}]).itertuples()
    assert comparisons.answer(row) == answer
    assert comparisons.answer(row._replace(lwlrap_diff=np.nan)) is None


def test_a_table_says_its_answers():
    table = study(6, scores={"base": (3, 0), "better": (3, 2), "same": (3, 0)}).table().set_index("variant")
    assert table["answer"].dropna().to_dict() == {"better": "it helps", "same": "not settled"}
    assert "answer" not in study(6, scores={"base": (3, 0)}).table()


def test_what_is_not_settled_is_told_with_what_would_settle_it():
    """Where the interval holds zero or Holm's procedure has stopped, screened or not; nothing where there is none."""
    one = TABLE.iloc[[1]]

    def said(**values):
        return comparisons.answers(one.assign(**values))

    assert said(verdict="screened") == (
        "- Not settled (screened): one +0.020 (-0.001 to +0.043), helps with probability 0.83, about 1200 clips would "
        "settle it."
    )
    assert said(lwlrap_diff_low=0.001).endswith("would settle it.")  # clear of zero, yet unclear
    assert said(lwlrap_diff_low=0.001, verdict="screened") == "- It helps (screened): one +0.020 (+0.001 to +0.043)."
    assert said(n_to_settle=np.nan).endswith(", helps with probability 0.83.")  # nothing varies
    assert said(n_to_settle=4.3e6).endswith(", helps with probability 0.83, more than 100000 clips would settle it.")
    assert said(p_better=np.nan, lwlrap_diff_low=np.nan).endswith(" to +0.043).")  # one group: no interval
    small = said(lwlrap_diff_low=-0.01, lwlrap_diff_high=0.012)
    assert small == "- No difference larger than 0.015: one +0.020 (-0.010 to +0.012)."
    few = said(
        lwlrap_diff_low=-0.01, lwlrap_diff_high=0.012, n_differ=4, n_groups=40
    )  # a number of clips would mislead
    assert few.endswith("helps with probability 0.83, but only 4 groups of clips differ, too few to tell.")


def test_what_a_reader_must_know_besides():
    assert told(TABLE).limits() == (
        "Verdicts hold together, at 5 % for all 2. Each interval holds alone, at its own level (95 to 97.5 %), which "
        "depends on how many are compared; so does each answer of no difference. "
        "Smallest difference that this table could have shown, 80 % power under the correction: 0.030 to 0.100."
    )
    late = TABLE.assign(lwlrap_diff_low=[np.nan, 0.001, -0.2])  # one is unclear all the same
    sentence = "Clear of zero yet unclear, as Holm's procedure stops at the first unclear one: one."
    assert sentence in told(late).limits() and sentence not in told(TABLE).limits()
    screened = told(comparisons.screened(TABLE)).limits()
    assert screened.startswith("Each interval holds alone") and "Verdicts hold" not in screened
    assert screened.endswith("A screening, with fewer than three seeds or not all folds: no verdict is drawn from it.")
    by_row = told(comparisons.screened(TABLE, pd.Series([True, False, True])))
    assert "\n- Not settled (screened): one " in by_row.conclusion() and by_row.limits() == told(TABLE).limits()
    alone = told(TABLE[:2]).limits()
    assert "own level (95 %), which" in alone and alone.endswith("under the correction: 0.030.")
    assert told(TABLE[:1]).limits() == told(TABLE[["variant"]]).limits() == ""


def test_a_figure_counts_as_against_the_base_what_is():
    table = pd.concat([TABLE, pd.DataFrame([PAIR])], ignore_index=True).assign(n=20)
    figure = figures.differences(table)
    assert figure.axes[0].get_title() == "Against the base: 1 dropped, 1 unclear"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][0] == "one against two  kept"
    plt.close(figure)
