"""Real runs: papermill runs every notebook, from any folder, and what it leaves is what was promised.

A chain is a sequence of runs and what must be true after each. Runs are called test-<process>-... below outputs/;
conftest.py removes them at the end.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import forked
import numpy as np
import pandas as pd
import psutil
import pytest
import soundfile
from safetensors import safe_open

from lib import settings
from lib.clips import stage2
from lib.evaluation import folds
from lib.runs import oof, pages
from lib.training import models

pytestmark = pytest.mark.notebooks

ROOT = Path(__file__).resolve().parents[1]
OUTPUTS = ROOT / "outputs"
NAME = os.environ["TEST_RUNS"]
PAPERMILL = Path(sys.executable).with_name("papermill")
METRICS = {"lwlrap", "lwlrap_low", "lwlrap_high", "hit_rate", "hit_rate_low", "hit_rate_high", "n"}
TABLES = {"clips.csv", "epochs.csv", "per_class.csv"}
FIGURES = {"learning_curves.png", "per_class.png", "confusions.png", "hardest.png"}
TRAINED = {"weights.safetensors", "weights.json", "oof_windows.npz"}
REPORT = {"manifest.json", "result.json"}
SECONDS = 400  # of one run, at most
TINY = ["-p", "n_folds", "2", "-p", "epochs", "20", "-p", "batch_size", "8"]


def command(folder, out, run, *options, notebook="04_kfold", **parameters):
    """papermill with the notebook's path as a person in that folder would type it."""
    notebook = ROOT / "notebooks" / f"{notebook}.ipynb"
    typed = notebook.relative_to(folder) if notebook.is_relative_to(folder) else notebook
    given = [word for key, value in {"run": f"{NAME}-{run}", **parameters}.items() for word in ("-p", key, str(value))]
    return [str(PAPERMILL), str(typed), str(out), *options, *given, "--no-progress-bar"]


def papermill(folder, tmp, run, *options, kernel=False, **parameters):
    """Run the notebook, started in `folder`; rc, and all that was printed. With a kernel, or quicker: `forked`."""
    words = command(folder, tmp / "executed.ipynb", run, *options, **parameters)
    if not kernel:
        rc = forked.papermill(words[1:], folder, tmp / "printed.txt", SECONDS)
        return rc, (tmp / "printed.txt").read_text()
    ran = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=SECONDS)
    return ran.returncode, ran.stdout + ran.stderr


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def succeeds(*words, **parameters):
    rc, printed = papermill(*words, **parameters)
    assert rc == 0, printed[-3000:]
    return printed


def fails(*words, saying, **parameters):
    rc, printed = papermill(*words, **parameters)
    assert rc != 0
    for text in saying:
        assert text in printed, printed[-3000:]


def part(run, name, variant="curated"):
    return OUTPUTS / f"{NAME}-{run}" / "04_kfold" / variant / name


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def result(folder):
    """result.json, after checking that it holds what the contract says."""
    told = json.loads((folder / "result.json").read_text())
    assert set(told) == {
        "schema",
        "notebook",
        "parameters",
        "audio",
        "groups",
        "labels",
        "folds",
        "metrics",
        "verdict",
        "conclusion",
    }
    assert set(told["metrics"]) - {"fresh_n"} == METRICS | {"baseline_lwlrap", "best_epoch_gain", "complete"}
    assert f"{told['metrics']['lwlrap']:.3f}" in told["conclusion"]
    return told


def tiny_data(folder):
    """24 clips of about a second in Kaggle's layout: noise, which is coloured, plain or humming; and 3 test clips."""
    (folder / "train_curated").mkdir(parents=True)
    (folder / "test").mkdir()
    rng, rows = np.random.default_rng(0), []
    for i in range(24):
        noise = 0.1 * rng.standard_normal(rng.integers(20_000, 30_000))
        hum = 0.3 * np.sin(np.arange(len(noise)) * 0.1)
        sound = [np.cumsum(noise) / 50, noise, noise / 50 + hum][i % 3]
        name = f"{NAME}-{i:02}.wav"
        soundfile.write(folder / "train_curated" / name, np.clip(sound, -1, 1), 22_050)
        rows.append({"fname": name, "labels": ["brown", "white", "hum"][i % 3]})
    pd.DataFrame(rows).to_csv(folder / "train_curated.csv", index=False)
    sample = pd.DataFrame({"fname": [f"{NAME}-test{i}.wav" for i in (2, 0, 1)]})
    for name in sample["fname"]:
        soundfile.write(folder / "test" / name, 0.1 * rng.standard_normal(30_000), 22_050)
    sample.assign(brown=0, white=0, hum=0).to_csv(folder / "sample_submission.csv", index=False)
    return folder


# chains


def a_fold_of_the_demo_set(tmp, data):
    """From the notebooks' folder, as the README says."""
    succeeds(ROOT / "notebooks", tmp, "demo", kernel=True, fold=2, epochs=1)
    folder = part("demo", "without_2")
    assert set(contents(folder)) == TRAINED | TABLES | FIGURES | REPORT
    assert {path.name for path in (OUTPUTS / f"{NAME}-demo").iterdir()} == {"04_kfold", "folds.csv"}
    told = result(folder)
    assert told["notebook"] == "04_kfold"
    assert told["verdict"] == "measured"
    assert told["parameters"]["fold"] == 2
    assert told["parameters"]["epochs"] == 1
    dealt = pd.read_csv(OUTPUTS / f"{NAME}-demo" / "folds.csv")
    assert told["folds"] == folds.digest(dealt)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted(manifest["clips"]["scored"]) == sorted(dealt.loc[dealt["fold"] == 2, "fname"])
    assert sorted(manifest["clips"]["train"]) == sorted(dealt.loc[dealt["fold"] != 2, "fname"])
    read = oof.read(folder)
    assert told["metrics"]["n"] == len(read.table) == (dealt["fold"] == 2).sum()


def what_papermill_lets_through_is_refused(tmp, data):
    """A misspelt name from the root, text for a number from elsewhere; neither leaves a trace."""
    saying = ["'fodl' is no parameter of this workbook. Did you mean 'fold'?"]
    fails(ROOT, tmp, "typo", kernel=True, fodl=2, saying=saying)
    (tmp / "mine.yaml").write_text("epochs: 1e3\n")
    fails(tmp, tmp, "text", "-f", "mine.yaml", kernel=True, saying=["epochs='1e3' should be a valid integer"])
    assert not list(OUTPUTS.glob(f"{NAME}-t[ye]*"))


def folds_one_by_one_and_then_pooled(tmp, data):
    """From an unrelated folder, from the root, from the notebooks' folder."""
    common = {"data_dir": data("tiny")}
    succeeds(tmp, tmp, "pool", *TINY, **common, fold=0)
    first = contents(part("pool", "without_0"))
    succeeds(ROOT, tmp, "pool", *TINY, **common, fold=-1)
    told = result(part("pool", "pooled"))
    assert told["metrics"]["complete"] is False
    assert told["verdict"] is None
    assert told["metrics"]["n"] == 12
    fails(tmp, tmp, "pool", *TINY, **common, fold=7, saying=["fold=7 is neither a fold, 0 to 1, nor -1"])
    saying = ["n_mels: 64 there, 32 now", "-p run NAME", "-p overwrite True"]
    fails(tmp, tmp, "pool", *TINY, **common, fold=1, n_mels=32, saying=saying)
    succeeds(ROOT / "notebooks", tmp, "pool", *TINY, **common, fold=1)
    succeeds(tmp, tmp, "pool", *TINY, **common, fold=-1)
    told = result(part("pool", "pooled"))
    assert told["metrics"]["complete"] is True
    assert told["verdict"] == "measured"
    assert told["metrics"]["n"] == 24
    assert told["metrics"]["lwlrap"] > told["metrics"]["baseline_lwlrap"]
    succeeds(tmp, tmp, "pool", *TINY, **common, fold=-1, developed_on=0)  # a summary is made again
    assert json.loads((part("pool", "pooled") / "result.json").read_text())["metrics"]["fresh_n"] == 12
    assert set(contents(part("pool", "pooled"))) == {"per_class.csv"} | FIGURES | REPORT
    assert contents(part("pool", "without_0")) == first  # nothing that came later has touched it
    assert {path.name for path in part("pool", "").iterdir()} == {
        *("configuration.json", "without_0", "without_1", "pooled")
    }
    a_submission_of_what_was_trained(tmp, data)


def a_submission_of_what_was_trained(tmp, data):
    """After all folds of the run "pool"; before that it is refused by what is missing."""
    common = {"data_dir": data("tiny"), "notebook": "08_submission"}
    fails(tmp, tmp, "pool", **common, window_s=2.0, saying=["window_s=2.0 (trained with 1.0)", "of the weights"])
    fails(tmp, tmp, "nothing", **common, saying=["is not there", "folds.csv", "make run NB=04 RUN="])
    assert not (OUTPUTS / f"{NAME}-nothing").exists()
    succeeds(ROOT / "notebooks", tmp, "pool", kernel=True, **common)
    folder = OUTPUTS / f"{NAME}-pool" / "08_submission" / "curated"
    figures = {"predicted.png", "examples.png"}
    tables = {"submission.csv", "how.csv", "window_scores.csv"}
    assert set(contents(folder)) == {"configuration.json"} | tables | figures | REPORT
    first, told = contents(folder), json.loads((folder / "result.json").read_text())
    sample = pd.read_csv(data("tiny") / "sample_submission.csv")
    table = pd.read_csv(folder / "submission.csv")
    assert (table["fname"] == sample["fname"]).all() and (table.columns == sample.columns).all()
    assert (told["metrics"]["n_clips"], told["metrics"]["n_prior"], told["metrics"]["n_models"]) == (3, 0, 2)
    pooled = json.loads((part("pool", "pooled") / "result.json").read_text())["metrics"]
    assert told["metrics"]["promised_lwlrap"] == pooled["lwlrap"] and "labels are not known" in told["conclusion"]
    succeeds(tmp, tmp, "pool", **common)
    assert contents(folder) == first  # loaded, not scored again
    the_journal_tells_of_it(tmp)


def the_journal_tells_of_it(tmp):
    """09 beside the run "pool", and where there is no run; then the report of what papermill left."""
    succeeds(ROOT / "notebooks", tmp, "pool", notebook="09_journal", only="eda,submission")
    home = OUTPUTS / f"{NAME}-pool"
    written = {"against_base.csv", "drafts.md", "learning_curves.png"}
    assert set(contents(home / "09_journal")) == written | REPORT
    drafts = (home / "09_journal" / "drafts.md").read_text()
    assert drafts.count("## ") == 1 and "08_submission curated" in drafts and str(tmp) not in drafts
    table = pd.read_csv(OUTPUTS / "journal.csv", keep_default_na=False)
    mine = table[table["run"] == home.name]
    assert set(mine["notebook"] + " " + mine["part"]) == {"04_kfold curated", "08_submission curated"}
    told = json.loads((part("pool", "pooled") / "result.json").read_text())
    assert mine.set_index("notebook").loc["04_kfold", "conclusion"] == told["conclusion"]
    succeeds(tmp, tmp, "no-run", kernel=True, notebook="09_journal")
    told = json.loads((OUTPUTS / f"{NAME}-no-run" / "09_journal" / "result.json").read_text())
    assert told["verdict"] is None and f"Run {NAME}-no-run holds no finished part yet" in told["conclusion"]
    shutil.copy(tmp / "executed.ipynb", OUTPUTS / f"{NAME}-no-run" / "09_journal")
    assert told["conclusion"] in pages.build(OUTPUTS / f"{NAME}-no-run").read_text()


def a_killed_kernel_is_started_again(tmp, data):
    """kill -9 in the middle of training, then the same command: everything equals an undisturbed run."""
    startup = tmp / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("from lib.training import callbacks\ncallbacks.CHECKPOINT_S = 0\n")  # every epoch
    words = command(tmp, tmp / "executed.ipynb", "killed", *TINY, data_dir=data("tiny"), fold=0)
    ran = subprocess.Popen(
        words,
        cwd=tmp,
        env=environment(IPYTHONDIR=str(tmp / "ipython")),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoint, until = part("killed", "without_0") / "checkpoint.safetensors", time.monotonic() + SECONDS
    while not checkpoint.is_file():
        assert ran.poll() is None and time.monotonic() < until, "it ended without a checkpoint"
        time.sleep(0.02)
    kernels = [child for child in psutil.Process(ran.pid).children() if "ipykernel_launcher" in child.cmdline()]
    assert len(kernels) == 1
    kernels[0].kill()
    assert ran.wait(SECONDS) != 0
    with safe_open(checkpoint, "pt") as file:
        assert 0 < len(json.loads(file.metadata()["rows"])) < 20
    assert not (checkpoint.parent / "result.json").exists()
    succeeds(tmp, tmp, "killed", *TINY, kernel=True, data_dir=data("tiny"), fold=0)
    succeeds(tmp, tmp, "whole", *TINY, kernel=True, data_dir=data("tiny"), fold=0)
    killed, whole = contents(part("killed", "without_0")), contents(part("whole", "without_0"))
    assert killed.keys() == whole.keys() == TRAINED | TABLES | FIGURES | REPORT
    for name in killed.keys() - REPORT:
        assert killed[name] == whole[name], name
    told = [result(part(run, "without_0")) for run in ("killed", "whole")]
    assert [t["parameters"].pop("run") for t in told] == [f"{NAME}-killed", f"{NAME}-whole"]
    assert told[0] == told[1]


def an_experiment_goes_on_where_it_was_left(tmp, data):
    """Fanned out, put together, one trial lost and made again, and another base refused."""
    tiny = ["-p", "n_folds", "2", "-p", "trial_epochs", "2", "-p", "batch_size", "8", "-p", "data_dir", data("tiny")]
    words = [str(word) for word in tiny]
    home = OUTPUTS / f"{NAME}-trials" / "02_features"
    succeeds(tmp, tmp, "trials", *words, notebook="02_features", variants="delta", folds=1)
    assert {path.parent.relative_to(home).as_posix() for path in home.rglob("result.json")} == {
        "delta/without_1/seed_2019"  # nothing to compare: no result of the notebook
    }
    succeeds(tmp, tmp, "trials", *words, notebook="02_features", folds=1, tabulate=False)  # a job of many
    assert not (home / "result.json").exists()
    assert {path.name for path in (home / "trials" / "without_1_seed_2019").iterdir()} > {"result.json"}
    assert (home / "base" / "without_1" / "seed_2019" / "result.json").is_file()
    succeeds(tmp, tmp, "trials", *words, notebook="02_features")
    told = json.loads((home / "result.json").read_text())
    assert set(told["metrics"]) == METRICS | {f"delta_lwlrap_diff{end}" for end in ("", "_low", "_high")}
    assert told["verdict"] is None and "no verdict" in told["conclusion"]  # one seed
    comparison = pd.read_csv(home / "comparison.csv").set_index("variant")
    assert list(comparison.index) == ["base", "delta"] and (comparison["n"] == 24).all()
    trials = sorted(path.parent for path in home.glob("*/*/seed_*/result.json"))
    assert [t.relative_to(home).as_posix() for t in trials] == [
        f"{variant}/without_{fold}/seed_2019" for variant in ("base", "delta") for fold in (0, 1)
    ]
    made = {trial: contents(trial) for trial in trials}
    assert not any(path.suffix == ".safetensors" for path in home.rglob("*"))
    (trials[2] / "result.json").unlink()  # as a kill would leave it
    succeeds(tmp, tmp, "trials", *words, notebook="02_features")
    for trial in trials:
        for name, content in contents(trial).items():
            assert content == made[trial][name] or (trial == trials[2] and name == "manifest.json"), (trial, name)
    saying = ["lr: 0.005 there, 0.01 now", "-p run NAME"]
    fails(tmp, tmp, "trials", *words, notebook="02_features", lr=0.01, saying=saying)
    saying = ["variants=['detla'] are not in the table of this experiment: base, delta"]
    fails(tmp, tmp, "trials", *words, notebook="02_features", variants="base,detla", saying=saying)


def augmentation_is_compared_on_the_demo_set(tmp, data):
    """As it lies, but for the epochs; every figure and table is there."""
    succeeds(ROOT / "notebooks", tmp, "augment", notebook="03_augmentation", trial_epochs=1)
    home = OUTPUTS / f"{NAME}-augment" / "03_augmentation"
    assert {path.name for path in home.iterdir()} == {
        *("base", "no_mixup", "comparison.csv", "costs.csv", "by_class.csv"),
        *("configuration.json", "manifest.json", "result.json"),
        *("augmented.png", "lr_search.png", "differences.png", "convergence.png", "convergence.csv"),
    }
    told = json.loads((home / "result.json").read_text())
    assert told["metrics"]["n"] == len(pd.read_csv(home / "base" / "without_0" / "seed_2019" / "clips.csv")) + len(
        pd.read_csv(home / "base" / "without_1" / "seed_2019" / "clips.csv")
    )


def an_idea_is_written_in_a_cell(tmp, data):
    """00 shows and plays windows, saves the cell, trains with it; what lies in ideas/ stays, and git sees nothing."""
    before, status = ideas_and_status()
    try:
        typed = {"data_dir": data("tiny"), "n_folds": 2, "epochs": 1, "batch_size": 8, "notebook": "00_scratch"}
        succeeds(ROOT / "notebooks", tmp, "scratch", kernel=True, **typed)
        after, status_after = ideas_and_status()
    finally:
        for name in ideas_and_status()[0].keys() - before.keys():
            (ROOT / "ideas" / name).unlink()
    cells = [cell for cell in json.loads((tmp / "executed.ipynb").read_text())["cells"] if cell["cell_type"] == "code"]
    shown = {"".join(cell["source"]): json.dumps(cell["outputs"]) for cell in cells}
    for what, players in {"show_batch": 9, "show_results": 9, "lr_find": 0}.items():
        assert [shown[f"learn.{what}()"].count(kind) for kind in ("image/png", "<audio")] == [1, players]
    (idea,) = (source for source in shown if "\ndef tilt(" in source)
    file = re.search(r"ideas/(mine_tilt\w*.py):tilt@", shown["name = ideas.save(tilt)\nname"])[1]
    assert after[file].decode() == idea + "\n" and "screened" in json.dumps(cells)
    assert {name: after[name] for name in before} == before and status_after == status
    assert not list((OUTPUTS / f"{NAME}-scratch").rglob("result.json"))


def ideas_and_status():
    """The files of ideas/, and what git says of the checkout."""
    answer = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True)
    return {path.name: path.read_bytes() for path in (ROOT / "ideas").glob("*.py")}, answer.stdout


def models_become_one(tmp, data):
    """07 trains its own members for one outer fold and compares them; a second call trains nothing."""
    words = ["-p", "n_folds", "3", "-p", "folds", "1", "-p", "ensemble_epochs", "3", "-p", "ensemble_folds", "2"]
    common = {"data_dir": data("tiny"), "batch_size": 8, "notebook": "07_ensemble"}
    succeeds(tmp, tmp, "ensemble", *words, **common)
    home = OUTPUTS / f"{NAME}-ensemble" / "07_ensemble"
    members = {"one", "long", "long_fresh", "seed_1", "seed_2", "cycle_1", "cycle_2", "swa", "folds_2_0", "folds_2_1"}
    reports = ["members.csv", "strategies.csv", "parts.csv", "orders.csv", "strategies.png", "members.png"]
    about = {"configuration.json", "manifest.json", "result.json"}
    assert {path.name for path in home.iterdir()} == {*members, *reports, *about}
    dealt = pd.read_csv(OUTPUTS / f"{NAME}-ensemble" / "folds.csv").set_index("fname")
    made = {}
    for name in members:
        trial = home / name / "without_1" / "seed_2019"
        made[name] = contents(trial)
        trained = json.loads(made[name]["manifest.json"])["clips"]["train"]
        assert trained and not (dealt.loc[trained, "fold"] == 1).any()
    told = json.loads((home / "result.json").read_text())
    assert told["verdict"] is None and told["metrics"]["n"] == (dealt["fold"] == 1).sum()
    printed = succeeds(ROOT, tmp, "ensemble", *words, **common)
    assert {name: contents(home / name / "without_1" / "seed_2019") for name in members} == made
    assert f"{len(members)} trainings were done already, on " in printed


def a_fold_of_esc10(tmp, data):
    """Real audio, a real profile, two epochs; the published folds are kept."""
    esc10 = data("esc10")
    succeeds(ROOT, tmp, "esc10", "-f", "params/esc10.yaml", data_dir=esc10, fold=0, epochs=2, kernel=True)
    told = result(part("esc10", "without_0"))
    assert told["parameters"]["profile"] == "esc10"
    profile = settings.load_profile(ROOT / "params" / "esc10.yaml")
    assert told["parameters"]["mask_share"] == profile["mask_share"] and told["parameters"]["epochs"] == 2
    published = pd.read_csv(esc10 / "meta" / "esc50.csv")
    scored = oof.read(part("esc10", "without_0")).table
    assert set(scored["fname"]) == set(published.loc[published["fold"] == 1, "filename"])
    assert told["metrics"]["n"] == 80 and told["metrics"]["fresh_n"] == 0  # the recipe was developed on this fold


def what_is_made_of_pair_models(tmp, data):
    """One set of trainings for 05, 06 and 10: each says what is missing, and is made once that is there."""
    common = {"data_dir": data("tiny"), "n_folds": 3, "epochs": 20, "batch_size": 8}
    asks = {**common, "notebook": "05_curation", "rules": "top_1,relative_0.5", "folds": 0}
    fails(ROOT, tmp, "pairs", **asks, saying=["lacks without_0_1/result.json, ", "-p fold 0 -p holdout_fold 1"])
    nested = "-p", "stage2_models", "conv1d,logistic", "-p", "stage2_epochs", "2", "-p", "max_clip_s", "2"
    saying = ["Make them first", "04_kfold.ipynb", "-p fold 0"]
    fails(tmp, tmp, "pairs", *nested, data_dir=data("tiny"), notebook="06_stage2", saying=saying)
    a_pair_model_is_the_same_either_way_round(tmp, common)
    curation_takes_turns_with_training(tmp, common, asks)
    clips_are_read_nested_once_all_models_are_there(tmp, common, nested)


def a_pair_model_is_the_same_either_way_round(tmp, common):
    succeeds(tmp, tmp, "pairs", **common, fold=0, holdout_fold=1)
    made = contents(part("pairs", "without_0_1"))
    assert set(oof.read(part("pairs", "without_0_1")).table["fold"]) == {0, 1}
    printed = succeeds(tmp, tmp, "pairs", **common, fold=1, holdout_fold=0)
    assert contents(part("pairs", "without_0_1")) == made  # loaded, not trained again
    assert "1 training was done already, on " in printed and "without_0_1." in printed
    assert {path.name for path in part("pairs", "").iterdir()} == {"configuration.json", "without_0_1"}


def curation_takes_turns_with_training(tmp, common, asks):
    """05 selects, 04 trains on what was kept, 05 compares and tells what is still to do."""
    for pair in ((0, 2), (1, 2)):
        succeeds(ROOT, tmp, "pairs", **common, fold=pair[0], holdout_fold=pair[1])
    saying = ["holds no finished selection", "-p part select"]
    kept = {"train_windows": "kept", "rule": "relative_0.5", "variant": "kept_curated"}
    fails(ROOT, tmp, "pairs", **common, **kept, fold=0, saying=saying)
    succeeds(ROOT, tmp, "pairs", **asks)
    home = OUTPUTS / f"{NAME}-pairs" / "05_curation"
    rules = {path.parents[1].name for path in home.glob("select/*/without_[012]/kept_windows.csv")}
    assert rules == {"top_1", "relative_0.5"}
    told = json.loads((home / "select" / "manifest.json").read_text())["clips"]
    dealt = pd.read_csv(OUTPUTS / f"{NAME}-pairs" / "folds.csv").set_index("fname")["fold"]
    for g in range(3):  # no clip of an outer fold had a part in what was kept for it
        assert set(told[f"without_{g}"]) == set(dealt.index[dealt != g])
    succeeds(ROOT, tmp, "pairs", **common, **kept, fold=0)
    trained = json.loads((part("pairs", "without_0", "kept_curated") / "manifest.json").read_text())["clips"]["train"]
    assert set(trained) == set(dealt.index[dealt != 0])  # relative loses no clip
    saying = ["without_0_1 would train on windows whose judges saw one of its folds"]
    fails(ROOT, tmp, "pairs", **common, **kept, fold=0, holdout_fold=1, saying=saying)
    succeeds(ROOT, tmp, "pairs", **common, fold=0)
    succeeds(ROOT, tmp, "pairs", **asks)
    compared = json.loads((home / "compare" / "result.json").read_text())
    assert compared["verdict"] is None and compared["metrics"]["complete"] is False
    effects = pd.read_csv(home / "compare" / "leaks.csv")
    assert effects["setup"].tolist()[-2:] == [
        "trained on what others kept",
        "validated on kept windows, a window at a time",
    ]
    assert {path.parents[1].name for path in home.glob("compare/*/without_0/seed_2019")} == {
        *("split_by_window", "self_judged")
    }


def clips_are_read_nested_once_all_models_are_there(tmp, common, words):
    """06 compares, chooses without the outer fold, and writes what 08 reads; so does 10."""
    for fold in (1, 2):
        succeeds(tmp, tmp, "pairs", **common, fold=fold)
    succeeds(ROOT / "notebooks", tmp, "pairs", *words, kernel=True, data_dir=common["data_dir"], notebook="06_stage2")
    home = OUTPUTS / f"{NAME}-pairs" / "06_stage2" / "curated"
    tables = "by_length changed comparison learning_curve parameters poolings random_windows selection shift silence"
    assert {path.name for path in home.iterdir()} == {
        *(f"{name}.csv" for name in tables.split()),
        *(f"{name}.png" for name in ("images", "comparison", "poolings", "silence", "why")),
        *("choice.json", "configuration.json"),
        *("weights.safetensors", "weights.json", "manifest.json", "result.json"),
        *(["changed.png"] if len(pd.read_csv(home / "changed.csv")) else []),
    }
    drawn = pd.read_csv(home / "random_windows.csv")
    assert (drawn["n_seeds"] == 1).all()  # draws of windows are no seeds
    told = json.loads((home / "manifest.json").read_text())["clips"]
    dealt = pd.read_csv(OUTPUTS / f"{NAME}-pairs" / "folds.csv").set_index("fname")
    nested = [use for use in told["uses"] if use["outer"] is not None]
    assert {use["outer"] for use in nested} == {0, 1, 2}
    for use in nested:
        clips = dealt.loc[told["sets"][use["clips"]]]
        assert not (clips["fold"] == use["outer"]).any(), use["what"]
        assert not set(clips["group"]) & set(dealt.loc[dealt["fold"] == use["outer"], "group"])
    assert json.loads((home / "result.json").read_text())["metrics"]["n"] == 24
    models.load(home / "weights.safetensors", stage2.Stage2Model)
    fails(tmp, tmp, "pairs", "-p", "repeats", "2", notebook="10_best", saying=["curated.seed_2020", "make run NB=10"])
    succeeds(tmp, tmp, "pairs", notebook="10_best", stage2_epochs=2)
    home = OUTPUTS / f"{NAME}-pairs" / "10_best"
    tables = {f"{name}.csv" for name in ("readouts", "judged", "comparison", "by_fold")}
    about = {"configuration.json", "manifest.json", "result.json"}
    assert set(contents(home)) == tables | about | {"comparison.png", "confusions.png"}
    assert pd.read_csv(home / "by_fold.csv")["candidate"].tolist() == ["curated"] * 3


CHAINS = [
    what_is_made_of_pair_models,
    folds_one_by_one_and_then_pooled,
    models_become_one,
    a_killed_kernel_is_started_again,
    an_experiment_goes_on_where_it_was_left,
    a_fold_of_esc10,
    augmentation_is_compared_on_the_demo_set,
    an_idea_is_written_in_a_cell,
    a_fold_of_the_demo_set,
    what_papermill_lets_through_is_refused,
]


@pytest.fixture(scope="module")
def data(tmp_path_factory, shared_data):
    """Data by name: tiny, or real audio."""
    tiny = tiny_data(tmp_path_factory.mktemp("data") / "tiny")
    return lambda name: tiny if name == "tiny" else shared_data(name)


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain.__name__)
def test_chain(chain, tmp_path, data):
    chain(tmp_path, data)
