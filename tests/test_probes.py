"""Tests of probes: random windows, silence, what stage 2 is fed, picking where it is reported."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from lib.clips import nested
from lib.clips.nested import Reader
from lib.evaluation import metrics
from lib.evaluation.window_scores import WindowScores
from lib.experiments import probes

READER = Reader(max_clip_s=4.5, class_order="alphabetical", stage2_epochs=8)


@pytest.fixture(scope="module")
def fitted(make_design):
    design = make_design()
    return design, nested.fit_readouts(design, READER, ["conv1d", "logistic"], [1, 2])


def test_shift_feeds_what_it_says(fitted):
    design, stage2 = fitted
    table = probes.shift(design, stage2)
    assert len(table) == 8 and table["p_holm"].between(0, 1).all()
    assert (table["verdict"] == "screened").all()
    rows = table.set_index(["model", "fed"])
    assert (table["n_seeds"] == 2).all()  # the two pair models that saw neither are no further seeds
    assert rows.loc[("conv1d", "averaged after"), "lwlrap_diff"] > 0.1
    # models that all say the same leave nothing to shift
    key = ["fname", "window_start_s"]
    first = design.pairs.table.assign(row=np.arange(len(design.pairs.table))).drop_duplicates(key).set_index(key)["row"]
    rows = [first.loc[pd.MultiIndex.from_frame(s.table[key])].to_numpy() for s in (design.pairs, design.single)]
    sides = [
        WindowScores(s.table, design.pairs.scores[r]) for s, r in zip((design.pairs, design.single), rows, strict=True)
    ]
    same = dataclasses.replace(design, pairs=sides[0], single=sides[1])
    alike = probes.shift(same, stage2).set_index(["model", "fed"])["stage2"]
    assert alike["conv1d"].nunique() == 1


def test_picking_on_the_reported_fold_pretends_at_least_what_is_honest(fitted):
    design, stage2 = fitted
    mean = nested.fit_readouts(design, READER, ["mean"])
    scores = {name: nested.read_outer(design, by_fold) for name, by_fold in (stage2 | mean).items()}
    base = scores.pop("mean")
    table = probes.selection(design, scores, scores["logistic"], base)
    assert len(table) == 6 and table["n"].sum() == 2 * 48
    assert (table["picked there"] >= table["chosen elsewhere"] - 1e-12).all()
    assert (table["picked there"] > table["chosen elsewhere"]).any()  # conv1d was there to be picked
    assert (table["tries"] == 4).all()  # two models of two seeds
    every = np.concatenate(list(scores.values()))
    here = (design.clips["fold"] == 1).to_numpy()
    spread = metrics.spread(design.targets.to_numpy()[here], every[:, here], design.groups[here])
    row = table.set_index(["outer", "metric"]).loc[(1, "lwlrap")]
    assert row["by chance"] == pytest.approx(spread["lwlrap"] * metrics.expected_best(4))


def test_what_was_picked_is_told_with_tries_clips_and_chance():
    columns = {"chosen elsewhere": -0.02, "picked there": 0.08, "by chance": 0.09, "tries": 18, "n": 29}
    spread = 0.09 / metrics.expected_best(18)
    table = pd.DataFrame({"outer": [0, 1], "metric": "hit_rate", **columns, "spread": spread})
    told = probes.selection_conclusion(table)
    assert "the best of 18 models and seeds gains +0.080 in hit rate on 29 clips" in told
    assert "as many equally good ones would gain +0.090 by chance" in told and "it gains -0.020" in told
    # .0494 on 29 clips is .0085 on 990; times .846
    assert "the best of 3 on some 990 clips, chance would give +0.007 by the spread of this run; " in told
    assert "; a gain of +0.040 vanished there: picking" in told
    assert told.endswith("picking does not explain it, and what does is not settled.")
    assert probes.selection_conclusion(table.assign(spread=10 * spread)).endswith("vanished there.")
    assert probes.selection_conclusion(table.assign(tries=1)) == "One model of one seed: nothing was picked."


def test_less_data_is_less_data(fitted):
    design, full = dataclasses.replace(fitted[0], uses=[], sets={}), np.zeros((2, 48, 3))
    scores = probes.learning_curve(design, READER, "conv1d", full, [1, 2])
    assert scores["1"] is full
    assert list(scores) == ["0.25", "0.5", "1"] and scores["0.25"].shape == (2, 48, 3)
    sizes = {use["what"]: len(design.sets[use["clips"]]) for use in design.uses if " on " in use["what"]}
    assert sizes == {"fit conv1d on 0.25": 8, "fit conv1d on 0.5": 16}  # of 32 clips, each a group


def windows(n_windows):
    """A `WindowScores` of rolling windows whose first class counts them, for two clips."""
    rows = [("000.wav", t) for t in range(n_windows)] + [("001.wav", t) for t in range(2)]
    table = pd.DataFrame(rows, columns=["fname", "window_start_s"]).assign(model="m", fold=0)
    return WindowScores(table, np.stack([table["window_start_s"] / 100, np.zeros(len(table))], axis=1))


def test_hops_take_every_second_and_fourth_window_and_always_the_last():
    found = probes.random_windows([windows(7), windows(5)], n_draws=50)
    assert {name: scores.shape for name, scores in found.items()} == {
        **{f"hop {name} window": (2, 1, 2, 2) for name in ("1/4", "1/2", "1")},
        **{f"{n} random": (2, 50, 2, 2) for n in (5, 2, 1)},
    }
    assert found["hop 1/4 window"][1, 0, 0, 0] == pytest.approx(0.02)  # the second seed has five
    scores = {name: of_seeds[0] for name, of_seeds in found.items()}
    assert scores["hop 1/4 window"][0, 0, 0] == pytest.approx(0.03)
    assert scores["hop 1/2 window"][0, 0, 0] == pytest.approx(0.03)  # 0, 2, 4, 6
    assert scores["hop 1 window"][0, 0, 0] == pytest.approx(np.mean([0, 4, 6]) / 100)
    assert scores["hop 1 window"][0, 1, 0] == pytest.approx(0.005)  # of two windows both
    one = scores["1 random"][:, 0, 0]
    assert set(one.round(2)) == {k / 100 for k in range(7)}
    assert scores["5 random"].std(axis=0)[1, 0] < 1e-12  # all windows, where there are fewer
    pairs = {round((i + j) / 200, 3) for i in range(7) for j in range(i)}
    assert set(scores["2 random"][:, 0, 0].round(3)) <= pairs  # without repetition


def test_silent_windows_are_put_beside_the_others(make_design):
    design = make_design()
    table = design.clips.reset_index()[["fname", "fold"]].assign(model="m", window_start_s=0.0)
    against = WindowScores(table, np.where(design.targets.to_numpy() == 1, 1e-6, 1e-3))
    found = probes.silenced(design, against, ("mean", "geometric", "max"), (0, 1)).set_index(["method", "silent"])
    assert found.loc[("max", 0), "lwlrap"] == found.loc[("max", 1), "lwlrap"]  # silence is never the loudest
    assert found.loc[("geometric", 0), "lwlrap"] - found.loc[("geometric", 1), "lwlrap"] > 0.05
    assert abs(found.loc[("mean", 0), "lwlrap"] - found.loc[("mean", 1), "lwlrap"]) < 0.01
    example, label = probes.silent_example(design, against)
    assert example["silent"].tolist() == [False] * 8 + [True] and label in ("a", "b")
    assert example["score"].iloc[-1] == 1e-6
