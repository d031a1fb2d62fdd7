"""Tests of readouts: an inner model is read on clips that neither it nor a clip of its group was fitted on."""

import numpy as np
import pandas as pd
import pytest

from lib.clips import nested
from lib.clips.nested import Reader

READER = Reader(max_clip_s=4.5, class_order="alphabetical", stage2_epochs=2)


def inner(design, outer=0):
    """Scores by inner models, and the clips that each was fitted on: inner fold -> set."""
    found = nested.fit_readouts(design, READER, ["logistic"], [1])["logistic"][outer].inner
    uses = {use["what"]: set(design.sets[use["clips"]]) for use in design.uses if use["outer"] == outer}
    names = {fold: f"fit logistic without {fold}" for fold in design.outer_folds}
    return found, {fold: uses[name] for fold, name in names.items() if name in uses}


def test_an_inner_model_is_fitted_on_the_other_training_folds(make_design):
    design = make_design()
    found, fitted = inner(design)
    fold = design.clips["fold"]
    assert {f: set(fold[list(clips)]) for f, clips in fitted.items()} == {1: {2}, 2: {1}}
    assert list(found.index) == fold.index[fold != 0].tolist()


def test_labels_of_an_inner_fold_change_no_score_that_is_read_there(make_design):
    plain, changed = make_design(), make_design()
    here = (changed.clips["fold"] == 1).to_numpy()
    changed.clips.loc[here, "labels"] = pd.Series([("c",)] * here.sum(), changed.clips.index[here])
    scores = [found for found, _ in map(inner, (plain, changed))]
    first = plain.clips.index[here]
    np.testing.assert_array_equal(scores[0].loc[first], scores[1].loc[first])
    assert (scores[0].drop(first) != scores[1].drop(first)).any(axis=None)  # those of fold 2 come from fold 1


@pytest.fixture
def split(make_design):
    """A clip of each fold belongs to one group: no fold that is held out lets the others train."""
    design = make_design()
    members = [design.clips.index[design.clips["fold"] == fold][0] for fold in range(3)]
    design.clips.loc[members[1:], "group"] = "of folds 1 and 2"
    return design, members


def test_a_group_that_stands_in_the_inner_fold_is_not_fitted_on(split):
    design, (_, one, two) = split
    found, fitted = inner(design)
    fold = design.clips["fold"]
    assert fitted[1] == set(fold.index[fold == 2]) - {two}
    assert fitted[2] == set(fold.index[fold == 1]) - {one}
    assert {one, two} <= set(found.index)  # both are read, each in its own fold


def test_a_group_that_stands_in_the_outer_fold_is_neither_fitted_on_nor_chosen_by(split):
    design, (_, one, two) = split
    found, fitted = inner(design, outer=1)
    assert two not in found.index and one not in found.index
    used = [design.sets[use["clips"]] for use in design.uses if use["outer"] == 1]
    assert used and all(two not in clips for clips in used)
    assert set(design.reported(1).table["fname"]) == set(design.clips.index[design.clips["fold"] == 1])
    scores = nested.read_outer(design, nested.fit_readouts(design, READER, ["mean"])["mean"])
    assert scores.shape == (1, 48, 3)  # every clip is reported once
