"""Tests of folds: groups stay whole, folds are even, planted leaks are caught, no file is overwritten."""

import errno
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.data import datasets
from lib.evaluation import folds

calm = settings(deadline=None)  # machines that others use too are slow at times


def table(rows: str) -> pd.DataFrame:
    """'a g0 0, b g1 1' -> a folds table."""
    found = pd.DataFrame([row.split() for row in rows.split(", ")], columns=["fname", "group", "fold"])
    return found.astype({"fold": int})


FOLDS = table("a g0 0, b g0 0, c g1 1, d g2 2, e g2 2")


@st.composite
def problems(draw):
    """Clips of random groups with random labels, and a number of folds that the groups can fill."""
    n_groups = draw(st.integers(2, 12))
    group = [*range(n_groups), *draw(st.lists(st.integers(0, n_groups - 1), max_size=20))]
    n_classes = draw(st.integers(1, 4))
    label = st.lists(st.integers(0, 1), min_size=n_classes, max_size=n_classes)
    targets = np.array(draw(st.lists(label, min_size=len(group), max_size=len(group))))
    clips = pd.DataFrame({"fname": [f"{i:02}.wav" for i in range(len(group))], "group": [f"g{g}" for g in group]})
    return clips, targets, draw(st.integers(2, n_groups)), draw(st.integers(0, 3))


@calm
@given(problems(), st.randoms(use_true_random=False))
def test_every_clip_once_no_group_parted_no_fold_empty_any_order(problem, random):
    clips, targets, n_folds, seed = problem
    made = folds.make(clips, targets, n_folds, seed)
    assert list(made.columns) == ["fname", "group", "fold"]
    pd.testing.assert_frame_equal(made[["fname", "group"]], clips)  # fnames were sorted
    assert (made.groupby("group")["fold"].nunique() == 1).all()
    assert set(made["fold"]) == set(range(n_folds))
    order = random.sample(range(len(clips)), len(clips))
    again = folds.make(clips.iloc[order].reset_index(drop=True), targets[order], n_folds, seed)
    pd.testing.assert_frame_equal(again, made)


@calm
@given(problems())
def test_no_move_of_one_group_would_even_the_folds_further(problem):
    clips, targets, n_folds, seed = problem
    columns = np.column_stack([np.ones(len(clips)), targets[:, targets.any(0)]])
    weight = np.array([1 + targets.shape[1], *[1] * (columns.shape[1] - 1)])  # size as much as all classes

    def cost(fold):
        load = np.stack([columns[fold == f].sum(0) for f in range(n_folds)])
        return (((load / (columns.sum(0) / n_folds) - 1) ** 2) @ weight).sum()

    fold = folds.make(clips, targets, n_folds, seed)["fold"].to_numpy()
    for group in clips["group"].unique():
        for f in range(n_folds):
            assert cost(np.where(clips["group"] == group, f, fold)) >= cost(fold) - 1e-9


def test_four_groups_of_two_classes_are_halved():
    clips = pd.DataFrame({"fname": list("abcdefgh"), "group": list("ppqqrrss")})
    targets = np.repeat([[1, 0], [1, 0], [0, 1], [0, 1]], 2, axis=0)
    made = folds.make(clips, targets, 2, 0)["fold"].to_numpy()
    assert made[0] != made[2]  # p and q hold the first class
    assert made[4] != made[6]


def test_moves_repair_what_groups_of_unequal_size_do():
    """One group as large as all others together: with groups taken as equal, its fold would hold far more clips."""
    clips = pd.DataFrame(
        {"fname": [f"{i:03}" for i in range(80)], "group": ["big"] * 40 + [f"g{i}" for i in range(40)]}
    )
    made = folds.make(clips, np.ones((80, 1)), 2, 0)
    assert made["fold"].value_counts().tolist() == [40, 40]


@pytest.fixture(scope="module")
def fsdkaggle2019(shared_data):
    dataset = datasets.load(shared_data("fsdkaggle2019-meta"), with_audio=False)
    assert len(dataset.classes) == 80
    return dataset


@pytest.mark.parametrize(("subsets", "n_clips"), [(["curated"], 4964), (["curated", "noisy"], 24779)])
def test_real_tables_are_even_and_fast(fsdkaggle2019, subsets, n_clips):
    clips = fsdkaggle2019.clips[fsdkaggle2019.clips["subset"].isin(subsets)].reset_index(drop=True)
    assert len(clips) == n_clips  # the six known bad files are left out
    targets = datasets.targets(clips, fsdkaggle2019.classes)
    started = time.perf_counter()
    made = folds.make(clips, targets, 5, 2019)
    assert time.perf_counter() - started < 20  # measured: 0.1 s and 0.5 s
    assert (made.groupby("group")["fold"].nunique() == 1).all()

    fold = clips["fname"].map(made.set_index("fname")["fold"]).to_numpy()
    sizes = np.bincount(fold)
    assert np.abs(sizes / (n_clips / 5) - 1).max() <= 0.02
    labels = np.stack([targets[fold == f].sum(0) for f in range(5)])
    even = labels.sum(0) / 5
    assert (np.abs(labels - even) <= np.maximum(0.1 * even, 8)).all()

    order = np.random.default_rng(0).permutation(n_clips)
    again = folds.make(clips.iloc[order].reset_index(drop=True), targets[order], 5, 2019)
    assert folds.digest(again) == folds.digest(made)
    assert folds.digest(folds.make(clips, targets, 5, 2020)) != folds.digest(made)


def test_published_folds_are_kept(shared_data):
    dataset = datasets.load(shared_data("esc10"), with_audio=False)
    targets = datasets.targets(dataset.clips, dataset.classes)
    made = folds.make(dataset.clips, targets, 5, 0)
    published = dataset.clips.set_index("fname")["fold"]
    assert (made["fold"] == made["fname"].map(published)).all()
    with pytest.raises(ValueError, match="n_folds=4, but these clips have 5 published folds"):
        folds.make(dataset.clips, targets, 4, 0)


def test_published_folds_stay_as_published():
    """Whatever the seed, and however uneven they are."""
    published = FOLDS.assign(fold=pd.array([1, 1, 0, 1, 1], dtype="Int64"))
    for seed in range(3):
        assert folds.make(published, np.ones((5, 1)), 2, seed)["fold"].tolist() == [1, 1, 0, 1, 1]


def test_make_refuses():
    clips = FOLDS[["fname", "group"]]
    targets = np.ones((5, 2))
    with pytest.raises(ValueError, match=r"3 groups can't fill n_folds=4.*Set n_folds to 3"):
        folds.make(clips, targets, 4, 0)
    with pytest.raises(ValueError, match=r"n_folds=1.*2 or more"):
        folds.make(clips, targets, 1, 0)
    with pytest.raises(ValueError, match="targets have 4 rows, clips 5"):
        folds.make(clips, targets[1:], 2, 0)
    with pytest.raises(ValueError, match=r"listed twice.*a\)"):
        folds.make(clips.replace("b", "a"), targets, 2, 0)
    published = FOLDS.astype({"fold": "Int64"})
    with pytest.raises(ValueError, match=r"published folds: every group .*folds_csv.*without_1, without_2\)"):
        folds.make(published.replace(["g0", "g2"], "g1"), targets, 3, 0)
    with pytest.raises(ValueError, match=r"folds are \[1, 2, 3\].*from 0"):
        folds.make(published.assign(fold=published["fold"] + 1), targets, 3, 0)


SPLIT = table("a g0 0, b g1 0, c g1 1, d g2 1, e g2 2, f g3 2")  # g1 in folds 0 and 1, g2 in 1 and 2


@pytest.mark.parametrize(
    ("held_out", "names"), [([0], "def"), ([1], "af"), ([2], "abc"), ([0, 1], "f"), ({0, 2}, ""), ((), "abcdef")]
)
def test_a_clip_trains_no_model_that_holds_out_a_fold_of_its_group(held_out, names):
    assert "".join(SPLIT["fname"][folds.training(SPLIT, held_out)]) == names
    folds.assert_no_leak(SPLIT, list(names), set(held_out))
    for other in set("abcdef") - set(names):
        with pytest.raises(folds.LeakError, match="whose groups are held out"):
            folds.assert_no_leak(SPLIT, [*names, other], set(held_out))


def test_clips_without_a_fold_go_by_their_group():
    groups = pd.Series(["g1", "g9", "g2", "g0"], index=[4, 2, 7, 7])  # noisy clips, as a filter has left them
    assert folds.training(SPLIT, [0], groups).tolist() == [False, True, True, False]
    assert folds.training(SPLIT, [1], groups).tolist() == [False, True, False, True]


def test_where_no_group_is_split_all_other_folds_train():
    for held_out in ([0], [1, 2]):
        assert folds.training(FOLDS, held_out).tolist() == (~FOLDS["fold"].isin(held_out)).tolist()


def test_folds_that_split_groups_stay_as_they_are(tmp_path):
    published, targets = SPLIT.astype({"fold": "Int64"}), np.ones((6, 1))
    pd.testing.assert_frame_equal(folds.make(published, targets, 3, 0), SPLIT)
    SPLIT[["fname", "fold"]].to_csv(tmp_path / "mine.csv", index=False)
    pd.testing.assert_frame_equal(folds.read(tmp_path / "mine.csv", SPLIT[["fname", "group"]]), SPLIT)
    pd.testing.assert_frame_equal(folds.settle(tmp_path / "folds.csv", SPLIT), SPLIT)


def test_what_is_withheld_is_counted_for_each_model():
    said = folds.withheld(SPLIT, ["without_0", "without_1", "without_0_2"])
    assert "several folds: 2 (g1, g2)" in said
    assert said.endswith("Withheld: 1 clip from without_0, 2 clips from without_1, 2 clips from without_0_2.")
    assert folds.withheld(FOLDS, ["without_0", "without_0_2"]) == ""
    (note,) = folds.notes(SPLIT, np.ones((6, 1)), ["rain"])
    assert note == folds.withheld(SPLIT, ["without_0", "without_1", "without_2"])


def test_esc50_loads_and_four_recordings_are_withheld(shared_data):
    dataset = datasets.load(shared_data("esc50"), with_audio=False)
    made = folds.make(dataset.clips, datasets.targets(dataset.clips, dataset.classes), 5, 0)
    published = dataset.clips.set_index("fname")["fold"]
    assert len(made) == 2000 and (made["fold"] == made["fname"].map(published)).all()
    n_folds = made.groupby("group")["fold"].nunique()
    split = sorted(n_folds.index[n_folds > 1])
    assert split == ["esc:131943", "esc:134049", "esc:209698", "esc:234879"]
    assert f"4 ({', '.join(split)})" in folds.withheld(made, ["without_0", "without_1"])
    for f in range(5):
        rows = made[folds.training(made, [f])]
        assert not set(rows["group"]) & set(made.loc[made["fold"] == f, "group"])
        lost = set(made.loc[made["fold"] != f, "fname"]) - set(rows["fname"])
        assert set(made.set_index("fname").loc[sorted(lost), "group"]) <= set(split)


def test_half_published_folds_count_for_nothing():
    clips = FOLDS.assign(fold=pd.array([0, 0, 1, 2, None], dtype="Int64"))
    pd.testing.assert_frame_equal(
        folds.make(clips, np.ones((5, 1)), 2, 0), folds.make(clips[["fname", "group"]], np.ones((5, 1)), 2, 0)
    )


@calm
@given(st.integers(0, 20), st.integers(-1, 20))
def test_model_names_are_symmetric_and_read_back(fold, holdout_fold):
    if fold == holdout_fold:
        with pytest.raises(ValueError, match="name no model"):
            folds.model_name(fold, holdout_fold)
        return
    name = folds.model_name(fold, holdout_fold)
    assert folds.unseen(name) == {fold, holdout_fold} - {-1}
    if holdout_fold >= 0:
        assert name == folds.model_name(holdout_fold, fold)


def test_models_without_one_fold_and_without_two():
    assert folds.single_models(2) == ["without_0", "without_1"]
    assert folds.pair_models(3) == ["without_0_1", "without_0_2", "without_1_2"]
    assert folds.pair_models(4, 2) == ["without_0_2", "without_1_2", "without_2_3"]
    assert len(folds.pair_models(12)) == 66


def test_model_names():
    assert folds.model_name(2) == "without_2"
    assert folds.model_name(4, 2) == "without_2_4"
    assert folds.model_name(10, 9) == "without_9_10"  # by number, not by text
    with pytest.raises(ValueError, match="name no model"):
        folds.model_name(-1)
    for text in ("all", "without_", "without_1_2_3", "without_-1", "within_2"):
        with pytest.raises(ValueError, match="expected without_2 or without_2_4"):
            folds.unseen(text)


@pytest.mark.parametrize(
    ("fold", "holdout_fold", "message"),
    [(5, -1, "fold=5"), (-2, -1, "fold=-2"), (0, 5, "holdout_fold=5"), (2, 2, "both 2"), ("1", -1, "fold='1'")],
)
def test_folds_out_of_range_are_refused(fold, holdout_fold, message):
    with pytest.raises(ValueError, match=message):
        folds.check_fold(fold, holdout_fold, 5)


def test_folds_in_range_pass_and_both_ends_count():
    for fold, holdout_fold in ((-1, -1), (0, -1), (4, 0), (0, 4)):
        folds.check_fold(fold, holdout_fold, 5)
    with pytest.raises(ValueError, match="0 to 3"):
        folds.check_fold(4, -1, 4)


def test_notes_name_what_can_t_be_told():
    #                  rain everywhere, bark in folds 0 and 1, sigh in fold 2, tick nowhere
    targets = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 0]])
    bark, sigh, tick = folds.notes(FOLDS, targets, ["rain", "bark", "sigh", "tick"])
    assert bark.startswith("bark: 2 clips, none in folds [2]")
    assert "without_0_1 never trains on it" in bark
    assert sigh.startswith("sigh: 2 clips, none in folds [0, 1]")
    assert "without_2 never trains on it. Lower n_folds" in sigh
    assert tick.startswith("tick: no clip")
    with pytest.raises(ValueError, match="targets have 4 rows, folds 5"):
        folds.notes(FOLDS, targets[1:], ["rain", "bark", "sigh", "tick"])


def test_training_clips_of_other_folds_pass():
    folds.assert_no_leak(FOLDS, ["c", "d", "e", "d"], {0})
    folds.assert_no_leak(FOLDS, ["c"], {0, 2})
    folds.assert_no_leak(FOLDS, np.array(["c", "noisy"]), [np.int64(0)], groups={"noisy": "g9"})
    folds.assert_no_leak(FOLDS, pd.Series(["c", "noisy"]), {0}, groups=pd.Series({"noisy": "g1"}))
    folds.assert_no_leak(FOLDS, list("abcde"), set())  # a model of all data, which no fold reads


def test_planted_leaks_are_caught():
    with pytest.raises(folds.LeakError, match=r"Leave them out of training. \(1: b \(group g0\)\)"):
        folds.assert_no_leak(FOLDS, ["b", "c"], {0})
    with pytest.raises(folds.LeakError, match=r"folds \[0, 2\].*\(2: b \(group g0\), d \(group g2\)\)"):
        folds.assert_no_leak(FOLDS, ["b", "c", "d"], {0, 2})
    with pytest.raises(folds.LeakError, match=r"noisy \(group g0\)"):
        folds.assert_no_leak(FOLDS, ["c", "noisy"], {0}, groups={"noisy": "g0"})
    with pytest.raises(folds.LeakError, match=r"unknown group.*Pass their groups. \(1: noisy\)"):
        folds.assert_no_leak(FOLDS, ["c", "noisy"], {0})
    with pytest.raises(folds.LeakError, match="unknown group"):
        folds.assert_no_leak(FOLDS, ["c", "noisy"], {0}, groups={"noisy": float("nan")})
    with pytest.raises(folds.LeakError, match=r"c \(group g0\)"):  # a table that parts a group, whoever made it
        folds.assert_no_leak(FOLDS.replace("g1", "g0"), ["c"], {0})
    with pytest.raises(ValueError, match=r"no fold \[3\]"):
        folds.assert_no_leak(FOLDS, ["c"], {3})


def test_a_leak_names_five_clips_and_counts_the_rest():
    many = pd.DataFrame({"fname": [f"{i}.wav" for i in range(9)], "group": "g", "fold": 0})
    with pytest.raises(folds.LeakError, match=r"\(9: 0.wav .*4.wav \(group g\) and 4 more\)") as caught:
        folds.assert_no_leak(many, many["fname"], {0})
    assert "5.wav" not in str(caught.value)


def test_judges_that_saw_neither_pass():
    judges = pd.DataFrame(
        {
            "fname": ["c", "c", "d", "noisy", "noisy", "a"],
            "judged_by": [
                "without_0_1",
                "without_0_1",
                "without_0_2",
                "without_0_1 without_0_2",
                "without_0",
                "without_1",
            ],
        }
    )  # the last one would leak, but its clip doesn't train this model
    folds.assert_no_leak(FOLDS, ["c", "d", "noisy"], {0}, groups={"noisy": "g9"}, judges=judges)


@pytest.mark.parametrize(
    ("fname", "judged_by"),
    [
        ("c", "without_1"),  # saw fold 0, which is read
        ("c", "without_0"),  # saw fold 1, the clip's own
        ("c", "without_0_2"),
        ("c", "without_0_1 without_1_2"),  # one good judge does not make up for a bad one
        ("noisy", "without_1_2"),  # saw fold 0
        ("noisy", "without_0 without_2"),
        ("related", "without_0"),  # a noisy clip of group g1, which stands in fold 1
        ("c", ""),  # nobody says who judged
    ],
)
def test_planted_judges_are_caught(fname, judged_by):
    judges = pd.DataFrame({"fname": ["d", fname], "judged_by": ["without_0_2", judged_by]})
    with pytest.raises(folds.LeakError, match=rf"{fname} \(group g\d, judged by {judged_by}\)"):
        folds.assert_no_leak(
            FOLDS, ["c", "d", "noisy", "related"], {0}, groups={"noisy": "g9", "related": "g1"}, judges=judges
        )


def test_a_judge_holds_out_one_fold_of_a_group_that_folds_split():
    """Each model that holds out a fold of a group saw no clip of it; none may hold out the reported fold's place."""
    judges = pd.DataFrame({"fname": ["d", "e"], "judged_by": ["without_0_1", "without_0_1 without_0_2"]})
    folds.assert_no_leak(SPLIT, ["d", "e", "f"], {0}, judges=judges)
    for judged_by in ("without_0", "without_1_2", "without_0_1 without_1_2"):
        with pytest.raises(folds.LeakError, match=rf"d \(group g2, judged by {judged_by}\)"):
            folds.assert_no_leak(SPLIT, ["d"], {0}, judges=judges.assign(judged_by=judged_by)[:1])
    with pytest.raises(folds.LeakError, match=r"f \(group g3, judged by without_0_1\)"):
        folds.assert_no_leak(SPLIT, ["f"], {0}, judges=judges.assign(fname="f")[:1])


def test_a_judge_without_a_name_is_refused():
    with pytest.raises(ValueError, match="doesn't say what it did not see"):
        folds.assert_no_leak(FOLDS, ["c"], {0}, judges=pd.DataFrame({"fname": ["c"], "judged_by": ["all_data"]}))


def test_digest_is_stable():
    assert folds.digest(FOLDS) == "f2f06c29e896"  # a change here renames every run's folds
    assert folds.digest(FOLDS.sample(frac=1, random_state=0)) == folds.digest(FOLDS)
    assert folds.digest(FOLDS.astype({"fname": object, "group": "category", "fold": "Int64"})) == folds.digest(FOLDS)
    assert folds.digest(FOLDS.replace({"fold": {2: 1}})) != folds.digest(FOLDS)


@pytest.fixture(params=["hard links", "none"])
def links(request, monkeypatch):
    """With hard links, and on a file system that has none."""
    if request.param == "none":
        monkeypatch.setattr(folds.os, "link", no_link)


def no_link(*paths):
    raise OSError(errno.EPERM, "Operation not permitted")


def test_settle_writes_once_and_returns_what_is_there(tmp_path, links):
    path = tmp_path / "run" / "folds.csv"
    awkward = table("a NA 0, b g1 1").replace("b", 'b, "2".wav')
    pd.testing.assert_frame_equal(folds.settle(path, awkward), awkward, check_dtype=False)
    assert path.read_bytes() == b'fname,group,fold\na,NA,0\n"b, ""2"".wav",g1,1\n'
    before = path.stat().st_mtime_ns
    folds.settle(path, awkward.iloc[::-1])
    assert path.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=f"{folds.digest(awkward)}.*{folds.digest(FOLDS)}.*-p run NAME.*folds_csv"):
        folds.settle(path, FOLDS)
    assert folds.digest(folds.settle(path, awkward)) == folds.digest(awkward)
    assert [p.name for p in path.parent.iterdir()] == ["folds.csv"]  # nothing left behind


def test_a_claim_that_was_left_behind_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(folds.os, "link", no_link)
    monkeypatch.setattr(folds, "CLAIM_S", 0.05)
    (tmp_path / ".folds.csv.claim").touch()
    with pytest.raises(TimeoutError, match=r"\.folds\.csv\.claim .*Delete it"):
        folds.settle(tmp_path / "folds.csv", FOLDS)
    assert [p.name for p in tmp_path.iterdir()] == [".folds.csv.claim"]
    (tmp_path / ".folds.csv.claim").unlink()
    folds.settle(tmp_path / "folds.csv", FOLDS)
    (tmp_path / ".folds.csv.claim").touch()  # of no importance where the folds are there
    folds.settle(tmp_path / "folds.csv", FOLDS)


def test_settle_of_many_at_once_has_one_winner(tmp_path, links):
    path = tmp_path / "folds.csv"
    offers = [FOLDS.assign(group=[f"{g}-{i}" for g in FOLDS["group"]]) for i in range(16)]

    def offer(folds_table):
        try:
            return folds.digest(folds.settle(path, folds_table))
        except ValueError:
            return "refused"

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(offer, offers))
    (winner,) = set(found) - {"refused"}
    assert found.count("refused") == 15
    assert winner == folds.digest(folds.read(path, pd.read_csv(path)))
    assert [p.name for p in tmp_path.iterdir()] == ["folds.csv"]


def test_folds_of_a_user_are_read(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("fname,fold,remark\nc,1,x\na,0,\nb,0,\nz,7,another clip\n")
    clips = FOLDS[["fname", "group"]].iloc[[2, 1, 0]].reset_index(drop=True)
    pd.testing.assert_frame_equal(folds.read(path, clips), FOLDS.iloc[:3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fname,part\na,0\n", r"lacks the columns \['fold'\]"),
        ("", r"mine.csv can't be read \(No columns.*CSV in UTF-8"),
        ('fname,fold\n"a,0\n', r"mine.csv can't be read .*EOF inside string"),
        ("fname,fold\na,0\nb,0\nd,1\n", r"no row. Add theirs. \(2: c, e\)"),
        ("fname,fold\na,0\na,0\nb,0\nc,1\nd,2\ne,2\n", r"listed twice.*\(1: a\)"),
        ("fname,fold\na,0\nb,1\nc,0\nd,0\ne,1\n", r"mine.csv: every group is also in the held-out .*\(1: without_0\)"),
        ("fname,fold\na,1\nb,1\nc,2\nd,3\ne,3\n", r"folds are \[1, 2, 3\].*from 0"),
        ("fname,fold\na,0\nb,0\nc,1\nd,3\ne,3\n", r"without a gap"),
        ("fname,fold\na,0\nb,0\nc,one\nd,-1\ne,2\n", r"not whole numbers.*\(2: -1, one\)"),
    ],
)
def test_folds_of_a_user_are_checked(tmp_path, text, message):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        folds.read(path, FOLDS[["fname", "group"]])
