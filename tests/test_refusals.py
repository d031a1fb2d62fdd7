"""Every refusal to read models that don't belong together: what is refused, what is said, and the remedy.

Each case plants one fault in the run of `fake_run.make_models_of_all` and names who must refuse it.
"""

import shutil

import numpy as np
import pandas as pd
import pytest
from fake_run import SIDECAR, SINGLE, TABLE, XY, change, make_models_of_all, make_task, seal, without

from lib.clips import choice, nested
from lib.evaluation import folds
from lib.evaluation.folds import LeakError
from lib.experiments import training_sets
from lib.files import write_json
from lib.runs import run as runs
from lib.runs import variants
from lib.runs.modelset import ModelSet
from lib.runs.run import Run
from lib.submission import bundle

PARAMS = {"run": "mine", "profile": "demo", "data_dir": "demo", "retrain": [], "loss": "bce", "rule": "top_1"}
PARAMS |= {"train_set": "curated", "train_windows": "kept", "ignore_missing": False, "window_s": 1.0}
PARAMS |= {"seed": 2019, "repeats": 1}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_models_of_all(tmp_path_factory.mktemp("refusals") / "outputs" / "mine")


@pytest.fixture
def home(original, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    return shutil.copytree(original, tmp_path / "outputs" / "mine")


# who reads: as the notebooks do


def read_05(home):
    return ModelSet.open(home, "curated", "pairs", weights=True, profile="demo")


def read_06(home, variant="curated"):
    return nested.read(home, variant, "demo")


def read_08(home, variant="curated"):
    return bundle.gather(home, variant)


def read_10(home, names=("curated", "wide")):
    return choice.read_candidates(home, list(names), ["mean", "max"], seed=7, repeats=2, profile="demo")


def read_04(home, variant="curated"):
    """Call 04 with fold -1."""
    return ModelSet(home, variant, 3).clips()


def read_09(home, base=None):
    """Variants against their base; what is refused is listed there."""
    if refused := variants.against_base(home, base).refused:
        raise ValueError("\n".join(refused))


def read_05_compare(home):
    comparison = variants.compare(Run("05_curation", PARAMS, home, home), 3, ["curated", "noisy"])
    assert {"curated", "kept_curated"} <= set(comparison.scores)


def train_04(home, model="without_0"):
    """A training of 04 on what 05 has selected, up to the training set."""
    run = Run("04_kfold", PARAMS, home / "04_kfold" / "kept_curated" / model, home / "04_kfold" / "kept_curated")
    training_sets.sources(run)
    clips = TABLE[["fname", "group"]].assign(subset="curated", labels=[("x",)] * 12, duration_s=1.0)
    training_sets.make(run, make_task(clips, TABLE, classes=XY))


READERS = [read_04, read_05, read_06, read_08, read_09, read_10, read_05_compare]


@pytest.mark.parametrize("read", READERS)
def test_what_belongs_together_is_read(home, read):
    read(home)


# faults: each takes the run's home


def change_clips(name, **columns):
    """Other values in a clips.csv, or in those that a pattern finds."""

    def plant(home):
        for path in sorted(home.glob(name)):
            pd.read_csv(path, dtype=str).assign(**columns).to_csv(path, index=False)
            seal(path.parent)

    return plant


def rename_clip(variant):
    """A model of a variant scored another clip than the models beside it."""

    def plant(home):
        part = home / "04_kfold" / variant / "without_0"
        (part / "clips.csv").write_text((part / "clips.csv").read_text().replace("00.wav", "xx.wav"))
        arrays = dict(np.load(part / "oof_windows.npz"))
        kept = arrays["fname"] != "00.wav"
        arrays |= {key: arrays[key][kept] for key in ("fname", "window_start_s", "fold", "logits")}
        np.savez(part / "oof_windows.npz", **arrays)
        (part / "oof_windows.npz").rename(part / "kept.npz")  # 09 and 05 read clips alone, 10 windows
        if variant.endswith("seed_8"):
            (part / "kept.npz").rename(part / "oof_windows.npz")

    return plant


def score_a_seen_clip(variant, model, told):
    """The windows of 00.wav are said to be those of 04.wav, a clip of fold 1, which the model was trained on."""

    def plant(home):
        path = home / "04_kfold" / variant / model / "oof_windows.npz"
        arrays = dict(np.load(path))
        planted = arrays["fname"] == "00.wav"
        arrays |= {"fname": np.where(planted, "04.wav", arrays["fname"])}
        np.savez(path, **arrays | {"fold": np.where(planted, told, arrays["fold"])})

    return plant


def cut_short(name):
    """A file that lacks its last line, or half of its bytes."""

    def plant(home):
        path = home / name
        whole = path.read_bytes()
        path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]) if path.suffix == ".csv" else whole[:200])

    return plant


def cut_in_a_row(name):
    """A table whose last row lacks its last letter."""

    def plant(home):
        (home / name).write_bytes((home / name).read_bytes().rstrip()[:-1])

    return plant


def two_folds(home):
    (home / "folds.csv").unlink()
    folds.settle(home / "folds.csv", TABLE[:8])


def other_folds(home):
    (home / "folds.csv").unlink()
    folds.settle(home / "folds.csv", TABLE.assign(fold=(TABLE["fold"] + 1) % 3))


def other_base(home):
    shutil.copytree(home, home.parent / "base")
    change("04_kfold/*/configuration.json", folds="a" * 12)(home)


def both_score_a_clip(home):
    """without_1 scored a clip of fold 0 too."""
    part = home / "04_kfold" / "curated"
    first = (part / "without_0" / "clips.csv").read_text().splitlines()[1]
    (part / "without_1" / "clips.csv").write_text((part / "without_1" / "clips.csv").read_text() + first + "\n")
    (part / "without_1" / "oof_windows.npz").unlink()


BASE = "04_kfold/curated"
PAPERMILL = "papermill notebooks/04_kfold.ipynb out.ipynb -f params/"
AGAIN = "-p overwrite True"
WINDOWS_2S = {"windows": {"window_s": 2.0, "hop_s": 0.5}}
CASES = {
    # 05: judges
    "05 a pair model is missing": (
        *(read_05, without(f"{BASE}/without_1_2/result.json"), FileNotFoundError),
        ["without_1_2", PAPERMILL, "-p run mine -p fold 1 -p holdout_fold 2", "make run NB=05 RUN=mine"],
    ),
    "05 weights are missing": (
        *(read_05, without(f"{BASE}/without_1_2/weights.safetensors"), FileNotFoundError),
        ["without_1_2/weights.safetensors", "04_kfold"],
    ),
    "05 a sidecar is missing": (
        *(read_05, without(f"{BASE}/without_1_2/weights.json"), FileNotFoundError),
        ["without_1_2/weights.json", "04_kfold"],
    ),
    "05 two folds": (read_05, two_folds, ValueError, ["a pair model needs a third", "Set n_folds to 3 or more"]),
    "05 a model saw other folds than its name says": (
        *(read_05, change(f"{BASE}/without_0_1/weights.json", unseen_folds=[0, 2]), LeakError),
        ["without_0_1", "did not see folds [0, 2]", AGAIN],
    ),
    "05 a pair model that is a single one": (
        *(read_05, change(f"{BASE}/without_0_1/weights.json", unseen_folds=[1]), LeakError),
        ["without_0_1", "did not see folds [1]", AGAIN],
    ),
    "05 a model of other folds": (
        *(read_05, change(f"{BASE}/without_0_1/weights.json", folds="of another"), LeakError),
        ["without_0_1", "of another", AGAIN],
    ),
    "05 a judge was trained on noisy clips": (
        *(read_05, change(f"{BASE}/without_0_2/weights.json", trained_on="curated_noisy_all"), LeakError),
        ["without_0_2 was trained on curated_noisy_all", AGAIN, "-p variant curated_noisy_all"],
    ),
    # 06: all models of a variant, and their windows
    "06 no folds": (
        *(read_06, without("folds.csv"), FileNotFoundError),
        [f"{PAPERMILL}demo.yaml -p data_dir DATA -p run mine -p fold 0"],
    ),
    "06 two folds": (read_06, two_folds, ValueError, ["a pair model needs a third", "Set n_folds to 3 or more"]),
    "06 a model is missing": (
        *(read_06, without(f"{BASE}/without_2/result.json"), FileNotFoundError),
        [f"{PAPERMILL}demo.yaml -p data_dir DATA -p run mine -p fold 2"],
    ),
    "06 each missing model has its command": (
        *(read_06, without(f"{BASE}/without_2", f"{BASE}/without_0_2", f"{BASE}/without_1_2"), FileNotFoundError),
        ["-p run mine -p fold 2\n", "-p run mine -p fold 0 -p holdout_fold 2\n", "-p fold 1 -p holdout_fold 2"],
    ),
    "06 models of an experiment are missing": (
        *(lambda home: read_06(home, "short"), lambda home: None, FileNotFoundError),
        ["short", "make run NB=10 RUN=mine PROFILE=demo DATA=...", "with short among the candidates"],
    ),
    "06 models of other folds": (read_06, other_folds, ValueError, ["folds", folds.digest(TABLE)]),
    "06 a model of other folds": (
        *(read_06, change(f"{BASE}/without_0_2/weights.json", folds="of another"), ValueError),
        ["without_0_2", "folds", "Train"],
    ),
    "06 clips in other folds": (
        *(read_06, change_clips(f"{BASE}/without_0/clips.csv", fold="1"), ValueError),
        ["scored clips in other folds than those in folds.csv", "-p run NAME"],
    ),
    "06 a table is damaged": (
        *(read_06, cut_short(f"{BASE}/without_0/clips.csv"), ValueError),
        ["without_0/clips.csv is damaged", AGAIN],
    ),
    "06 the folds are cut off": (
        *(read_06, cut_in_a_row("folds.csv"), ValueError),
        ["folds.csv: folds are not whole numbers", "it was cut off: delete it"],
    ),
    "06 window scores are damaged": (
        *(read_06, cut_short(f"{BASE}/without_0_1/oof_windows.npz"), ValueError),
        ["without_0_1/oof_windows.npz is damaged", AGAIN],
    ),
    # 08, and what is packed for Kaggle
    "08 no folds": (read_08, without("folds.csv"), FileNotFoundError, ["folds.csv", "make run NB=04 RUN=mine"]),
    "08 a model is missing": (
        *(read_08, without(f"{BASE}/without_1"), FileNotFoundError),
        ["without_1", "make run NB=04 RUN=mine"],
    ),
    "08 two things are missing": (
        *(read_08, without(f"{BASE}/without_1/weights.json", f"{BASE}/pooled/per_class.csv"), FileNotFoundError),
        ["without_1/weights.json", "pooled/per_class.csv", "make run NB=04 RUN=mine"],
    ),
    "08 a model of other folds": (
        *(read_08, change(f"{BASE}/without_1/weights.json", folds="of another"), ValueError),
        ["without_1", "folds", AGAIN],
    ),
    "08 a model that is called as another": (
        *(read_08, change(f"{BASE}/without_1/weights.json", unseen_folds=[0]), ValueError),
        ["without_1", "folds", AGAIN],
    ),
    "08 pooled too early": (
        *(read_08, change(f"{BASE}/pooled/result.json", metrics={"complete": False}), ValueError),
        ["pooled before all folds were trained", "-p fold -1"],
    ),
    "08 a choice for other models": (
        read_08,
        lambda home: write_json(home / "06_stage2" / "curated" / "choice.json", {"kind": "pooling", "settings": "x"}),
        *(ValueError, ["choice.json", "other settings", "Run 06_stage2 again: -p overwrite True"]),
    ),
    # 10: candidates
    "10 no candidates": (
        *(lambda home: read_10(home, []), lambda home: None, ValueError),
        ["There are no candidates", "-p candidates curated,wide,curated+wide"],
    ),
    "10 a recipe is missing": (
        *(lambda home: read_10(home, ["curated", "other"]), lambda home: None, FileNotFoundError),
        ["other", "make run NB=10 RUN=mine PROFILE=demo"],
    ),
    "10 a model of another seed is missing": (
        *(read_10, without("04_kfold/wide.seed_8/without_1/result.json"), FileNotFoundError),
        ["wide.seed_8", "without_1", "make run NB=10 RUN=mine PROFILE=demo"],
    ),
    "10 other labels": (
        *(read_10, change_clips("04_kfold/wide/*/clips.csv", labels="x"), ValueError),
        ["wide and wide.seed_8 differ in clips, labels, folds or classes"],
    ),
    "10 other classes": (
        *(read_10, change("04_kfold/wide/*/weights.json", classes=["y", "x"]), ValueError),
        ["wide and wide.seed_8 differ in clips, labels, folds or classes"],
    ),
    "10 other audio": (
        *(read_10, change("04_kfold/wide.seed_8/configuration.json", audio={"curated": "a"}), ValueError),
        ["wide and wide.seed_8 differ", "audio of curated clips: '000000000000' there, 'a' now", "Train"],
    ),
    "10 another seed scored other clips": (
        *(read_10, rename_clip("wide.seed_8"), ValueError),
        ["wide.seed_8", "scored other clips", "Train"],
    ),
    # 04, fold -1: what is done of a variant
    "04 nothing is done": (
        *(read_04, without(*(f"{BASE}/{name}" for name in SINGLE)), FileNotFoundError),
        [BASE, PAPERMILL, "-p run mine -p fold 0"],
    ),
    "04 nothing is done of an experiment": (
        *(lambda home: read_04(home, "short"), lambda home: None, FileNotFoundError),
        ["short", "make run RUN=short", "NB=05 RUN=mine"],
    ),
    "04 a table is damaged": (
        *(read_04, cut_short(f"{BASE}/without_0/clips.csv"), ValueError),
        ["without_0/clips.csv is damaged", AGAIN],
    ),
    "04 window scores are damaged": (
        *(read_04, cut_short(f"{BASE}/without_0/oof_windows.npz"), ValueError),
        ["without_0/oof_windows.npz is damaged", AGAIN],
    ),
    "04 two models scored a clip": (read_04, both_score_a_clip, ValueError, [BASE, "scored by more than one model"]),
    # 09: variants against the base
    "09 no base": (
        *(read_09, without(BASE), ValueError),
        ["Nothing is compared with mine/curated", "make run NB=04 RUN=mine PROFILE=... DATA=..."],
    ),
    "09 the base is not whole": (
        *(read_09, without(f"{BASE}/without_1"), ValueError),
        ["Nothing is compared with mine/curated", "Folds [1] are still to be trained"],
    ),
    "09 a variant is not whole": (
        *(read_09, without("04_kfold/wide/without_0", "04_kfold/wide/without_2"), ValueError),
        ["Not compared with mine/curated: wide", "Folds [0, 2] are still to be trained"],
    ),
    "09 other folds": (
        *(lambda home: read_09(home, home.parent / "base"), other_base, ValueError),
        ["Not compared with base/curated", "mine/wide", "Their folds are aaaaaaaaaaaa, those of the base",
         "-p folds_csv outputs/base/folds.csv"],
    ),
    "09 other labels": (
        *(read_09, change("04_kfold/wide/configuration.json", labels={"curated": "a"}), ValueError),
        ["wide", "labels of curated clips: 'a'", "Train both on the same data"],
    ),
    "09 other audio": (
        *(read_09, change("04_kfold/wide/configuration.json", audio={"curated": "a"}), ValueError),
        ["wide", "audio of curated clips: 'a'", "Train both on the same data"],
    ),
    "09 other clips": (
        *(read_09, rename_clip("wide"), ValueError),
        ["wide", "ther clips", "scored", "Train both on the same data"],
    ),
    # 05, part compare: what was trained on kept windows
    "05 compares another recipe": (
        *(read_05_compare, change("04_kfold/kept_curated/configuration.json", epochs=2), ValueError),
        ["curated and kept_curated differ in more (epochs: 1 there, 2 now)", "Train it again"],
    ),
    "05 compares other audio": (
        *(read_05_compare, change("04_kfold/kept_curated/configuration.json", audio={"curated": "a"}), ValueError),
        ["curated and kept_curated differ in more (audio of curated clips", "Train it again"],
    ),
    "05 compares other clips": (
        *(read_05_compare, rename_clip("kept_curated"), ValueError),
        ["kept_curated", "scored other clips", "Train both on the same data"],
    ),
    "05 compares what was trained on another selection": (
        *(read_05_compare, change("05_curation/select/configuration.json", gate_db=20.0), ValueError),
        ["kept_curated was trained on another selection", "-p variant kept_curated -p overwrite True", "all folds"],
    ),
    # 04 on kept windows: the selection that it trains on
    "04 trains on a selection that is not finished": (
        *(train_04, without("05_curation/select/result.json"), FileNotFoundError),
        ["holds no finished selection", "papermill notebooks/05_curation.ipynb out.ipynb -f params/demo.yaml",
         "-p data_dir demo", "-p run mine", "-p part select"],
    ),
    "04 trains on a selection on other folds": (
        *(train_04, change("05_curation/select/configuration.json", folds="of another"), ValueError),
        ["selected on folds of another", folds.digest(TABLE), "Select again"],
    ),
    "04 trains on a rule that was not selected by": (
        *(train_04, lambda home: heard(home), FileNotFoundError),
        ["top_1/without_0/kept_windows.csv is not there", "-p rules top_1 -p part select"],
    ),
    "04 trains a pair model on judged windows": (
        *(lambda home: train_04(home, "without_0_1"), lambda home: None, ValueError),
        ["without_0_1 would train on windows whose judges saw one of its folds", "Train single folds"],
    ),
}  # fmt: skip
for values, read, models in ((WINDOWS_2S, read_08, ["without_1"]), (WINDOWS_2S, read_06, ["without_1", "without_0_1"])):
    for model in models:
        CASES[f"{read.__name__[-2:]} {model} has other windows"] = (
            *(read, change(f"{BASE}/{model}/weights.json", **values), ValueError),
            [model, "differ", "windows", "Train"],
        )
for name, values in {
    "classes": ["y", "x"],
    "audio": {**SIDECAR["audio"], "n_mels": 32},
    "network": {"arch": "b", "image_size": 0},
    "recipe": {**SIDECAR["recipe"], "epochs": 2},
}.items():
    for read in (read_06, read_08):
        CASES[f"{read.__name__[-2:]} a model of other {name}"] = (
            *(read, change(f"{BASE}/without_2/weights.json", **{name: values}), ValueError),
            ["without_2", "differ", name, "Train"],
        )
for told in (0, 1):
    for read, variant, model in ((read_06, "curated", "without_0_2"), (read_10, "wide.seed_8", "without_0")):
        CASES[f"{read.__name__[-2:]} {model} scored a clip that it saw, said to be of fold {told}"] = (
            *(read, score_a_seen_clip(variant, model, told), LeakError),
            [f"{variant}/{model} scored 04.wav, which it may have seen"],
        )
for name in ("weights.safetensors", "weights.json", "clips.csv", "result.json"):
    CASES[f"08 {name} is missing"] = (
        *(read_08, without(f"{BASE}/without_1/{name}"), FileNotFoundError),
        [f"without_1/{name}", "make run NB=04 RUN=mine"],
    )
for name in ("per_class.csv", "result.json"):
    CASES[f"08 pooled {name} is missing"] = (
        *(read_08, without(f"{BASE}/pooled/{name}"), FileNotFoundError),
        [f"pooled/{name}", "make run NB=04 RUN=mine"],
    )


def heard(home):
    """What judges hear is there, but not what the rule keeps."""
    path = home / "05_curation" / "select" / "heard" / "without_0" / "heard.csv"
    path.parent.mkdir(parents=True)
    pd.DataFrame(columns=["fname", "class", "listed", "mean", "best", "judged_by"]).to_csv(path, index=False)


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_belong_together_is_refused_with_a_remedy(home, case):
    read, plant, error, words = CASES[case]
    plant(home)
    with pytest.raises(error) as caught:
        read(home)
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)
