"""Tests of the pipeline: what is made, what is made again after a change or a kill, and what a person is told.

Real snakemake, and a stand-in for papermill that leaves at once what a notebook would (tests/fake_papermill.py).
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml

from lib import settings
from lib.runs import changes, job, pipeline, plan, recipes
from lib.sound import features, windows

ROOT = Path(__file__).resolve().parents[1]
DEMO = 21  # parts of the demo run


class Workbook:
    """A copy of what the pipeline needs of the workbook, and the parts that were started in it."""

    def __init__(self, root: Path, *, real: bool = False) -> None:
        self.root, self.log, self.patience_s = root, root / "calls", 3600 if real else 300
        for name in ("lib", "notebooks", "params", "profiles"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "scratch"))
        for name in ("Snakefile", "pyproject.toml"):
            shutil.copy(ROOT / name, root)
        if real:
            return
        (root / "bin").mkdir()
        fake = (ROOT / "tests" / "fake_papermill.py").read_text().partition("\n")[2]
        (root / "bin" / "papermill").write_text(f"#!{sys.executable}\n{fake}")
        (root / "bin" / "papermill").chmod(0o755)

    def start(self, *words: str, **environment: str) -> subprocess.Popen:
        path = f"{self.root / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {**os.environ, "PATH": path, "PYTHONPATH": str(self.root), "CALLS": str(self.log), **environment}
        command = [sys.executable, "-m", "lib.runs.pipeline", *words]
        return subprocess.Popen(
            command, cwd=self.root, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *words: str, **environment: str) -> tuple[int, str]:
        """Exit status, and what was printed."""
        started = self.start(*words, **environment)
        said, _ = started.communicate(timeout=self.patience_s)
        return started.returncode, said

    def calls(self) -> list[str]:
        """Parts that were started since the last time, sorted."""
        made = sorted(self.log.read_text().split()) if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return made

    def profile(self, name: str = "demo", **changes: object) -> None:
        path = self.root / "params" / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**((path.exists() and yaml.safe_load(path.read_text())) or {}), **changes}))

    def results(self) -> dict[str, str]:
        return {str(p.relative_to(self.root)): p.read_text() for p in (self.root / "outputs").rglob("result.json")}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workbook whose demo run is made, and what was printed."""
    workbook = Workbook(tmp_path_factory.mktemp("made"))
    code, said = workbook.run()
    assert code == 0, said
    return workbook, said


@pytest.fixture
def workbook(made, tmp_path):
    """A copy of it, of the same age."""
    shutil.copytree(made[0].root, tmp_path / "copy", symlinks=True)
    copy = object.__new__(Workbook)
    copy.root, copy.log, copy.patience_s = tmp_path / "copy", tmp_path / "copy" / "calls", 300
    copy.calls()
    return copy


def test_all_notebooks_are_made_once_each_after_what_it_needs(made):
    workbook, said = made
    order = workbook.log.read_text().split()
    assert len(order) == len(set(order)) == DEMO
    at = {name: i for i, name in enumerate(order)}
    assert all(at["05_curation/select"] > at[f"04_kfold/curated/without_{f}_{g}"] for g in range(3) for f in range(g))
    assert at["04_kfold/kept_curated/without_0"] > at["05_curation/select"]
    assert at["05_curation/compare"] > at["04_kfold/kept_curated/pooled"]
    assert at["08_submission/curated"] > at["06_stage2/curated"] and order[-1] == "09_journal"
    lines = said.splitlines()
    assert lines[:2] == ["outputs/demo: finding out what is to be made ...", f"{DEMO} parts to make, each a notebook"]
    begun = [line for line in lines if line.endswith(" has begun")]
    assert lines[2] == begun[0] and {line.removesuffix(" has begun") for line in begun} < {*map(named, order)}
    assert len(lines) - 2 - len(begun) == DEMO + 1 and lines[-1].startswith(
        "outputs/demo is done. 04_kfold/curated/pooled"
    )
    assert lines[-2].startswith(f"[ {DEMO}/{DEMO}] 09_journal: ") and lines[-2].endswith("about 0 s left")


def named(part):
    """As the pipeline calls a part: 04_kfold: curated without_0."""
    notebook, _, rest = part.partition("/")
    return (
        notebook if notebook in ("06_stage2", "08_submission") or not rest else f"{notebook}: {rest.replace('/', ' ')}"
    )


def test_what_is_done_is_not_done_again_and_a_touch_is_no_change(workbook):
    for file in [*workbook.root.glob("notebooks/*"), *workbook.root.glob("params/*"), workbook.root / "Snakefile"]:
        file.touch()
    code, said = workbook.run()
    assert (code, workbook.calls()) == (0, []) and "Nothing to be done" in said


def test_a_changed_parameter_makes_what_depends_on_it_again(workbook):
    workbook.profile(max_clip_s=7.0)
    whole = workbook.results()
    code, said = workbook.run("--", "-n")
    assert code == 0 and "06_stage2" in said and (workbook.calls(), workbook.results()) == ([], whole)
    code, said = workbook.run()
    assert code == 0, said
    assert workbook.calls() == ["06_stage2/curated", "08_submission/curated", "09_journal", "10_best"]
    assert (
        "06_stage2/curated is made again (max_clip_s: 6.0 there, 7.0 now); the old one is kept in outputs/replaced/1"
        in said
    )
    assert (workbook.root / "outputs/replaced/1/demo/06_stage2/curated/result.json").is_file()
    workbook.profile(n_mels=32)
    code, said = workbook.run()
    assert code == 0 and len(workbook.calls()) == DEMO, said


def test_changed_data_stop_the_run_and_again_makes_what_differs_anew(workbook):
    data = write_set(workbook.root / "data")
    asked = "--run", "mine", "--data", str(data)
    made_of = {"labels": changes.now(workbook.root / "outputs" / "mine", {}, data, None, with_folds=False)["labels"]}
    assert workbook.run(*asked, MADE_OF=json.dumps(made_of))[0] == 0
    workbook.calls()
    assert workbook.run(*asked)[0] == 0 and workbook.calls() == []  # the same data
    table = data / "train_curated.csv"
    table.write_text(table.read_text().replace(",b", ",a", 1))
    whole = workbook.results()
    code, said = workbook.run(*asked)
    assert code == 1 and workbook.calls() == [] and workbook.results() == whole
    assert "outputs/mine was made from other data than are there now" in said
    assert "04_kfold/curated: labels of curated clips: " in said
    assert f"make run RUN=mine PROFILE=demo DATA={data} AGAIN=1" in said
    now = {"labels": changes.now(workbook.root / "outputs" / "mine", {}, data, None, with_folds=False)["labels"]}
    assert now != made_of
    code, said = workbook.run(*asked, "--again", MADE_OF=json.dumps(now))
    assert code == 0 and "04_kfold/curated is made again (labels of curated clips" in said
    assert len(workbook.calls()) == DEMO
    assert (workbook.root / "outputs" / "replaced" / "1" / "mine" / "04_kfold" / "curated").is_dir()
    assert workbook.run(*asked)[0] == 0 and workbook.calls() == []


def test_results_of_other_code_are_kept_and_said_and_again_makes_them_anew(workbook):
    path = workbook.root / "lib" / "training" / "augment.py"
    path.write_text(path.read_text().replace("GAIN_DB = 6.0", "GAIN_DB = 6.0  # louder"))
    code, said = workbook.run()
    assert code == 0 and "other code" not in said  # a comment
    path.write_text(path.read_text().replace("GAIN_DB = 6.0", "GAIN_DB = 7.0"))
    code, said = workbook.run()
    assert code == 0 and workbook.calls() == []
    assert "results were made by other code than is here now (02_features" in said
    assert "make run PROFILE=demo AGAIN=1" in said
    code, said = workbook.run("--again")
    made = workbook.calls()
    assert code == 0 and "04_kfold/curated/without_0_1" in made and "01_eda" not in made, said
    assert "other code" not in workbook.run()[1]


def test_a_changed_notebook_is_run_again_and_what_reads_it(workbook):
    path = workbook.root / "notebooks" / "06_stage2.ipynb"
    path.write_text(path.read_text().replace("## Load", "## Load it"))
    assert workbook.run()[0] == 0
    assert workbook.calls() == ["06_stage2/curated", "08_submission/curated", "09_journal"]


def test_more_seeds_are_no_other_run_and_data_may_move(workbook):
    workbook.profile(seeds=[2019, 1])
    assert workbook.run()[0] == 0
    calls = workbook.calls()
    trials = [f"{name}/trials/without_{f}_seed_{s}" for name in EXPERIMENTS for f in (0, 1) for s in (1, 2019)]
    assert calls == sorted([*trials, *EXPERIMENTS, "06_stage2/curated", "08_submission/curated", "09_journal"])
    for name in [*trials, *EXPERIMENTS]:  # what one fold and seed tell is no result of the experiment
        assert json.loads(workbook.results()[f"outputs/demo/{name}/result.json"])["conclusion"] == f"{name} is made"
    assert not (workbook.root / "outputs" / "replaced").exists()
    workbook.profile(data_dir=str(write_set(workbook.root / "elsewhere")))
    assert workbook.run()[0] == 0 and workbook.calls() == []


EXPERIMENTS = ["02_features", "03_augmentation", "07_ensemble"]


def test_a_failing_notebook_stops_what_depends_on_it_and_nothing_else(workbook):
    shutil.rmtree(workbook.root / "outputs")
    code, said = workbook.run(FAIL="05_curation/select")
    assert code == 1
    assert "05_curation/select/executed.ipynb: code cell 1 failed." in said and "    fail(x)" in said
    assert "ValueError: 05_curation/select can't be made" in said and "papermill would tell much" not in said
    left = ["04_kfold/kept_curated/pooled", *(f"04_kfold/kept_curated/without_{f}" for f in range(3))]
    left += ["05_curation/compare", "09_journal"]
    assert len(workbook.calls()) == DEMO - len(left)
    code, said = workbook.run()
    assert code == 0 and workbook.calls() == sorted(["05_curation/select", *left]), said


@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_a_kill_costs_at_most_what_was_running(workbook, victim):
    whole = workbook.results()
    shutil.rmtree(workbook.root / "outputs")
    started = workbook.start(S="2" if victim == "driver" else "0.2")
    wait_until(lambda: workbook.log.exists() and len(workbook.log.read_text().split()) > 2)
    if victim == "driver":
        kill(f"-P {started.pid}")  # snakemake; its jobs end with it
        wait_until(
            lambda: not subprocess.run(["pgrep", "-f", f"{workbook.root}/bin/papermill"], capture_output=True).stdout,
            1.5,
        )
        started.communicate(timeout=60)
    else:
        kill(f"-f {workbook.root}/bin/papermill")
        started.communicate(timeout=300)
    assert started.returncode != 0
    code, said = workbook.run()
    assert code == 0, said
    calls = workbook.calls()
    assert len(set(calls)) == DEMO and len(calls) <= DEMO + os.cpu_count()  # a job a core
    assert workbook.results() == whole


def test_two_runs_at_once_do_not_disturb_each_other(workbook):
    shutil.copy(workbook.root / "params" / "demo.yaml", workbook.root / "params" / "other.yaml")
    workbook.profile("other", run="other", profile="other", data_dir="demo", n_mels=32)
    both = [workbook.start("--profile", name, "--run", run) for name, run in (("demo", "again"), ("other", ""))]
    said = [one.communicate(timeout=300)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    calls = workbook.calls()
    assert len(calls) == 2 * DEMO and len(set(calls)) == DEMO
    mels = [
        json.loads((workbook.root / f"outputs/{run}/02_features/configuration.json").read_text())["n_mels"]
        for run in ("again", "other")
    ]
    assert mels == [64, 32]


def test_the_same_run_twice_waits_for_itself(workbook):
    first = workbook.start("--run", "twice", S="3")
    wait_until(workbook.log.exists)
    code, said = workbook.run("--run", "twice", "--", "-n")  # only to look is to wait for nobody
    assert code == 0 and "waiting for it" not in said and "09_journal" in said and first.poll() is None
    code, said = workbook.run("--run", "twice")
    assert code == 0 and "is being made by another process; waiting for it" in said
    assert first.wait(timeout=60) == 0 and len(workbook.calls()) == DEMO
    first.communicate()


def test_one_notebook_and_what_it_needs(workbook):
    shutil.rmtree(workbook.root / "outputs")
    assert workbook.run("--only", "06")[0] == 0
    calls = workbook.calls()
    assert len(calls) == 7 and {name.split("/")[0] for name in calls} == {"04_kfold", "06_stage2"}
    for numbers in ("11", "6 11"):  # nor is 6 made without a word
        code, said = workbook.run("--only", numbers)
        assert code == 1 and f"NB='{numbers}': 11 is no notebook. There are: 00 01 02" in said
    workbook.profile(candidates=[])
    code, said = workbook.run("--only", "10")
    assert (code, said.splitlines()) == (1, [said.strip()])
    assert "nothing to make here: 00 is for JupyterLab, 08 needs test clips, 05, 06 and 10 three folds, 10 `" in said


def test_an_experiment_moves_nothing_that_it_does_not_make(workbook):
    (workbook.root / "params" / "mels32.yaml").write_text("run: demo\nvariant: mels32\nn_mels: 32\n")
    best = workbook.root / "outputs" / "demo" / "10_best"
    made = json.loads((best / "configuration.json").read_text())
    (best / "configuration.json").write_text(json.dumps({**made, "max_clip_s": 3.0}))  # by papermill, with -p
    code, said = workbook.run("--profile", "demo", "--run", "mels32")
    assert code == 0 and "10_best is made again" not in said and (best / "result.json").is_file()
    code, said = workbook.run()
    assert code == 0 and "10_best is made again" in said


def test_an_experiment_is_one_file(workbook):
    """A few keys, a variant: trained beside the base of a run, which is left as it is, and journalled."""
    (workbook.root / "params" / "mels32.yaml").write_text("run: demo\nvariant: mels32\nn_mels: 32\n")
    code, said = workbook.run("--profile", "demo", "--run", "mels32")
    assert code == 0, said
    assert workbook.calls() == sorted([*(f"04_kfold/mels32/{m}" for m in MODELS), "09_journal"])
    read = json.loads((workbook.root / "outputs/demo/04_kfold/mels32/configuration.json").read_text())
    base = json.loads((workbook.root / "outputs/demo/04_kfold/curated/configuration.json").read_text())
    assert (read["n_mels"], base["n_mels"]) == (32, 64) and read.keys() == base.keys()
    (workbook.root / "params" / "mels32.yaml").write_text("run: demo\nvariant: mels32\nn_mels: 32\nrepeats: 2\n")
    code, said = workbook.run("--profile", "demo", "--run", "mels32", "--only", "04")
    more = [f"04_kfold/{name}.seed_2020/{m}" for name in ("curated", "mels32") for m in MODELS[1:]]
    assert (code, workbook.calls()) == (0, sorted(more)), said  # of both, to be compared seed by seed


def test_candidates_are_trained_with_their_pairs_and_further_seeds_without(workbook):
    (workbook.root / "params" / "mels32.yaml").write_text("run: demo\nvariant: mels32\nn_mels: 32\n")
    workbook.profile(candidates=["curated", "curated+mels32"], repeats=2)
    code, said = workbook.run("--only", "10")
    assert code == 0, said
    pairs = [f"without_{f}_{g}" for g in range(3) for f in range(g)]
    trained = [
        f"04_kfold/{name}/{m}" for name in ("mels32", "mels32.seed_2020", "curated.seed_2020") for m in MODELS[1:]
    ]
    assert workbook.calls() == sorted([*trained, *(f"04_kfold/mels32/{m}" for m in pairs), "10_best"])
    read = {
        name: json.loads((workbook.root / f"outputs/demo/04_kfold/{name}/configuration.json").read_text())
        for name in ("curated", "curated.seed_2020", "mels32", "mels32.seed_2020")
    }
    assert [made["seed"] for made in read.values()] == [2019, 2020, 2019, 2020]
    assert [made["n_mels"] for made in read.values()] == [64, 64, 32, 32]
    assert in_workbook(workbook, "Plan.read('demo').stale()") == {}
    workbook.profile(candidates=["curated", "curated+mels32"], repeats=3)
    assert in_workbook(workbook, "Plan.read('demo').stale()") == {"10_best": "repeats: 2 there, 3 now"}
    workbook.profile(candidates=["curated", "curated+mels32"], repeats=2)
    code, said = workbook.run(
        "--profile", "demo", "--run", "mels32", "--only", "04"
    )  # as an experiment: the same models
    assert (code, workbook.calls()) == (0, ["04_kfold/mels32/pooled"]), said
    workbook.profile(candidates=["kept_curated"])
    needs = in_workbook(workbook, "{name: n for name, (_, n) in Plan.read('demo')._parts().items()}")
    assert needs["04_kfold/kept_curated"] == needs["04_kfold/kept_curated.seed_2020"] == ["05_curation/select"]
    assert needs["10_best"] == ["04_kfold/kept_curated", "04_kfold/kept_curated.seed_2020"]
    workbook.profile(candidates=["mels32"], readouts=["mean"], repeats=2)
    alone = in_workbook(workbook, "Plan.read('demo').candidate_models")
    assert alone == {name: MODELS[1:] for name in ("mels32", "mels32.seed_2020")}  # nothing is selected: no pairs
    workbook.profile(candidates=["mels23"])
    code, said = workbook.run("--only", "10")
    assert code == 1 and "'mels23' is no training set of 05, and no params/mels23.yaml says `variant: mels23`" in said
    assert "Traceback" not in said


MODELS = ["pooled", *(f"without_{f}" for f in range(3))]


def test_a_run_over_a_profile_that_says_less_than_it(workbook):
    (workbook.root / "params" / "small.yaml").write_text("n_mels: 32\n")
    made = in_workbook(workbook, "Plan.read('demo', 'small')")
    assert made.params["run"] == "small" and made.params["n_mels"] == 32 and made.variant == "curated"


def test_a_layer_alone_is_no_profile(workbook):
    (workbook.root / "params" / "small.yaml").write_text("n_mels: 32\n")
    code, said = workbook.run("--profile", "small")
    assert code == 1 and "'small' is no complete profile: it lacks profile, run, data_dir. Put the profile" in said


def test_an_experiment_lies_over_the_file_of_its_run(workbook):
    """So the base has what the run's own file says, whether PROFILE names that file or not."""
    (workbook.root / "params" / "quick.yaml").write_text("run: quick\nepochs: 3\n")
    (workbook.root / "params" / "mels32.yaml").write_text("run: quick\nvariant: mels32\nn_mels: 32\n")
    for words in ("'demo', 'mels32'", "'demo quick', 'mels32'", "'demo mels32'"):
        made = in_workbook(workbook, f"Plan.read({words})")
        assert (made.base["epochs"], made.base["n_mels"], made.home) == (3, 64, "outputs/quick")
        assert (made.params["epochs"], made.params["n_mels"], made.variant) == (3, 32, "mels32")


@pytest.mark.parametrize("name", ["007", "1e5", "1_0", "true", "../evil", "findings", "a b"])
def test_a_run_that_is_no_name_is_refused_before_anything_is_written(workbook, name):
    before = sorted(workbook.root.rglob("*"))
    code, said = workbook.run("--run", name)
    assert code == 1 and "run=" in said and len(said.splitlines()) == 1
    assert sorted(workbook.root.rglob("*")) == before


def test_a_damaged_result_is_not_taken_for_done(workbook):
    path = workbook.root / "outputs" / "demo" / "04_kfold" / "curated" / "without_1" / "result.json"
    whole = path.read_text()
    path.write_text(whole[:20])
    code, said = workbook.run("--only", "04")
    assert code == 1 and f"without_1{os.sep}result.json is damaged" in said and "make it again" in said
    shutil.rmtree(path.parent)
    assert workbook.run("--only", "04")[0] == 0
    assert path.read_text() == whole


def test_a_profile_that_was_forgotten_sets_nothing_aside(workbook):
    """An experiment within a run that another profile made: demo, which nobody meant, would have it all made anew."""
    for path in (workbook.root / "outputs" / "demo").rglob("result.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "parameters": {"profile": "esc10"}}))
    (workbook.root / "params" / "mels32.yaml").write_text("run: demo\nvariant: mels32\nn_mels: 32\n")
    workbook.profile(n_fft=2048)
    whole = workbook.results()
    for words in (["--run", "mels32"], []):
        code, said = workbook.run(*words)
        assert code == 1 and "outputs/demo was made with PROFILE=esc10, not with demo. Say PROFILE=esc10" in said
    assert (workbook.calls(), workbook.results()) == ([], whole)


def test_an_experiment_on_judged_windows_waits_for_their_selection(workbook):
    (workbook.root / "params" / "mine.yaml").write_text("run: demo\nvariant: mine\ntrain_windows: kept\n")
    mine = "Plan.read('demo', 'mine')"
    assert in_workbook(workbook, f"{mine}.is_retrained('mine')")
    assert in_workbook(workbook, f"{mine}._parts()['04_kfold/mine'][1]") == ["05_curation/select"]
    assert not in_workbook(workbook, f"{mine}.is_retrained('curated')")
    assert not in_workbook(workbook, f"{mine}.is_retrained('curated_noisy')")  # all of them, whatever judges say


def in_workbook(workbook, expression):
    """A plan as it is read in a copy of the workbook."""
    root, plan.ROOT = plan.ROOT, workbook.root
    try:
        return eval(expression, {"Plan": plan.Plan})  # noqa: S307
    finally:
        plan.ROOT = root


def test_what_the_data_do_not_have_is_not_made(tmp_path):
    lean = plan.Plan.read("fsd-mini", data_dir=str(write_set(tmp_path, noisy=False)))
    assert lean.retrained == []  # all that the profile asks for train on noisy clips
    assert any("08_submission" in target for target in lean.wanted())
    full = plan.Plan.read("fsd-mini", data_dir=str(write_set(tmp_path / "b")))
    assert full.retrained == full.base["retrain"] and len(full.retrained) == 4
    seeds = {f"outputs/fsd-mini/04_kfold/pseudo{s}/without_4/result.json" for s in ("", ".seed_2020", ".seed_2021")}
    assert seeds <= set(full.compared) and len(full.compared) == 5 * (1 + 3 * 5)  # each pooled once, three seeds
    trials = full.trials("05_curation/compare")
    assert len(trials) == 5 and trials[0].endswith("05_curation/compare/trials/without_0_seed_2019/result.json")
    for name in ("train_noisy", "test"):  # tables without their audio
        shutil.rmtree(tmp_path / "b" / name)
    rest = plan.Plan.read("fsd-mini", data_dir=str(tmp_path / "b"))
    assert rest.subsets == {"curated"} and rest.retrained == lean.retrained
    assert not any("08_submission" in target for target in rest.wanted())


def test_clips_are_tagged_by_the_mean_where_nothing_is_selected(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    shutil.copytree(ROOT / "params", tmp_path / "params")
    data = str(write_set(tmp_path / "data"))
    plain, choice = plan.Plan.read("fsd-mini", data_dir=data), ["outputs/fsd-mini/06_stage2/curated/result.json"]
    assert plain.choice("1 4 8") == [] and plain.choice("06 08") == plain.choice("8 9") == plain.choice() == choice
    assert plan.Plan.read("demo", data_dir=data).choice("08") == ["outputs/demo/06_stage2/curated/result.json"]
    (tmp_path / choice[0]).parent.mkdir(parents=True)
    (tmp_path / choice[0]).touch()  # 06 is done: 08 reads it, so it must come first where it is stale
    assert plain.choice("08") == choice


def test_one_label_a_clip_leaves_none_unknown(tmp_path):
    assert "ignore_missing" not in recipes.compared([], "ce", ["curated"]) and "ignore_missing" in recipes.VARIANTS
    assert recipes.compared([], "bce", ["curated"]) == ["kept_curated", "ignore_missing"]
    assert recipes.compared([], "bce", ["curated", "noisy"]) == list(recipes.VARIANTS)


def test_data_that_are_not_there_are_told_of_an_experiment_too(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    shutil.copytree(ROOT / "params", tmp_path / "params")
    (tmp_path / "params" / "mels32.yaml").write_text("run: mine\nvariant: mels32\nn_mels: 32\n")
    mine = plan.Plan.read("fsd-mini", "mels32", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        mine.wanted()


def test_two_folds_have_no_pair_models(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    shutil.copytree(ROOT / "params", tmp_path / "params")
    (tmp_path / "params" / "two.yaml").write_text("n_folds: 2\n")
    two = plan.Plan.read("fsd-mini two", data_dir=str(write_set(tmp_path / "data")))
    made = {target.split("/")[2] for target in two.wanted()}
    assert made == {*settings.NOTEBOOKS} - {"00_scratch", "05_curation", "06_stage2", "10_best"} and two.choice() == []
    with pytest.raises(ValueError, match="05, 06 and 10 three folds"):
        two.wanted("06")


def test_a_profile_that_lacks_keys_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "mine.yaml").write_text("run: mine\nn_folds: 5\n")
    with pytest.raises(ValueError, match="it lacks profile, data_dir. .*PROFILE='esc10 mine', or add these keys"):
        plan.Plan.read("mine")
    with pytest.raises(ValueError, match="it lacks profile. "):  # else the demo set's name would be the run's
        plan.Plan.read("mine", data_dir="here")


def test_an_experiment_with_a_key_that_nobody_would_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "demo.yaml").write_text("")
    mine = tmp_path / "params" / "mels32.yaml"
    mine.write_text("run: demo\nvariant: mels32\nn_mels: 32\nrepeats: 1\n")
    assert plan.Plan.read("demo", "mels32").params["n_mels"] == 32
    mine.write_text(mine.read_text() + "fold: 1\nfolds: [0]\nholdout_fold: 2\nseeds: [1]\nn_folds: 4\n")
    unread = "fold, folds, holdout_fold, n_folds, seeds"
    with pytest.raises(ValueError, match=f"04 trains it on .* and would not read {unread}. Leave that out"):
        plan.Plan.read("demo", "mels32")


CONTRADICTIONS = [
    ("window_s: 0.2\n", "hop_s=0.5 is longer than window_s=0.2.*Lower hop_s"),
    ("fmin: 5000\nsample_rate: 8000\n", "fmin=5000.0 and fmax=0.0 Hz must satisfy"),
    ("hop_length: 2048\n", "hop_length=2048 is longer than n_fft=1024"),
    ("n_mels: 512\n", "of n_mels=512 bands are narrower"),
    ("channels: logmel_2049\n", "one is odd and one even"),
]


@pytest.mark.parametrize(("text", "message"), CONTRADICTIONS)
@pytest.mark.parametrize("head", ["run: mine\n", "run: demo\nvariant: mine\n"])
def test_settings_of_sound_that_contradict_each_other_are_refused_before_any_job(
    tmp_path, monkeypatch, head, text, message
):
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "demo.yaml").write_text("")
    (tmp_path / "params" / "mine.yaml").write_text(head + text)
    with pytest.raises(ValueError, match=message):
        plan.Plan.read("demo", "mine")


def test_settings_of_sound_agree_by_default_so_that_a_plan_need_not_import_torch():
    of = settings.defaults()
    for group in (features.LogMel, windows.Windows):
        group(**{field.name: of[field.name] for field in fields(group) if field.name in of})
    code = "import sys\nfrom lib.runs.plan import Plan\nPlan.read('demo')\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("words", [("demo", "second"), ("demo first", "second"), ("demo second", "")])
def test_an_experiment_is_no_run(tmp_path, monkeypatch, words):
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    (tmp_path / "params").mkdir()
    for name, text in (("demo", ""), ("first", "run: demo\nvariant: first\n"), ("second", "run: first\nvariant: b\n")):
        (tmp_path / "params" / f"{name}.yaml").write_text(text)
    told = "params/second.yaml: first is an experiment of the run demo, not a run: set run: demo"
    with pytest.raises(ValueError, match=told):
        plan.Plan.read(*words)
    assert plan.Plan.read("demo", "first").variant == "first"


def test_a_profile_whose_base_trains_on_more_than_curated_clips_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    (tmp_path / "params").mkdir()
    text = "profile: mine\nrun: mine\ndata_dir: demo\ntrain_set: curated_noisy\n"
    (tmp_path / "params" / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match="train_set='curated_noisy', but variant='curated' is the name"):
        plan.Plan.read("mine")
    (tmp_path / "params" / "mine.yaml").write_text(text.replace("curated_noisy", "curated"))
    (tmp_path / "params" / "idea.yaml").write_text("variant: idea\ntrain_set: curated_noisy\n")
    assert plan.Plan.read("mine idea").variant == "idea"


def write_set(root, *, noisy=True):
    """Kaggle's tables, and clips of noise."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"fname": [f"{i}.wav" for i in range(10)], "labels": ["a", "b"] * 5})
    tables = {"train_curated": rows, "test": pd.DataFrame({"fname": ["t.wav"], "a": 0, "b": 0})}
    if noisy:
        tables["train_noisy"] = rows.assign(fname="n" + rows["fname"])
    for name, table in tables.items():
        (root / name).mkdir(parents=True)
        table.to_csv(root / f"{'sample_submission' if name == 'test' else name}.csv", index=False)
        for fname in table["fname"]:
            soundfile.write(root / name / fname, 0.1 * rng.standard_normal(800), 8000)
    return root


# --- what is told --------------------------------------------------------------------------------------------------


def test_progress_is_told_with_the_time_that_is_left():
    now = iter([0.0, 0.0, 10.0, 30.0, 30.0, 40.0, 40.0, 3000.0, 3000.0])
    lines = [
        "Building DAG of jobs...",
        "total                4",
        "[Sun Nov 22 20:00:00 2026]",
        "Job 3: 04_kfold: curated without_1",
        "Job 2: 01_eda",
    ]
    lines += ["Finished jobid: 3 (Rule: kfold)", "1 of 4 steps (25%) done", "! cell 4 failed.", "Error in rule eda:"]
    lines += ["Finished jobid: 2 (Rule: eda)", "2 of 4 steps (50%) done"]
    assert list(pipeline.follow(lines, lambda: next(now))) == [
        "3 parts to make, each a notebook",
        "04_kfold: curated without_1 has begun",
        "01_eda has begun",
        "[  1/3] 04_kfold: curated without_1: 30 s, about 60 s left",
        "cell 4 failed.",
        "[  2/3] 01_eda: 30 s, about 20 s left",
    ]
    assert list(pipeline.follow(["WorkflowError:", "no rule"])) == ["WorkflowError:", "no rule"]


@pytest.mark.parametrize("data", ["a folder #2/clips.csv", "a: b", "'quoted'", "1e3", "[a]"])
def test_a_path_that_snakemake_would_read_as_another_is_refused(data, capsys):
    assert pipeline.main(["--data", data]) == 1
    assert f"DATA={data!r} would be read as" in (said := capsys.readouterr().err) and "Make a link to it" in said


@pytest.mark.parametrize("data", ["ein Ordner/\u00fc, it's (1)", "~/x#y", "C:/data", ""])
def test_other_paths_are_taken(data):
    pipeline._check_name(data)


def test_a_kernel_that_died_is_told_by_the_end_of_its_log(tmp_path):
    executed, log = tmp_path / "executed.ipynb", tmp_path / "log.txt"
    assert job.failure(executed, log).startswith(f"{executed}: no cell failed, but the run did.")
    log.write_text("\n".join(f"line {i}" for i in range(99)))
    assert job.failure(executed, log).splitlines()[-1] == "line 98" and "line 50" not in job.failure(executed, log)


def test_each_training_has_a_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(job.tempfile, "gettempdir", lambda: str(tmp_path))
    (first, file), (second, other) = job.claim_gpu(2, 2), job.claim_gpu(2, 2)
    assert (first, second) == (0, 1) and job.claim_gpu(2, 2) is None and job.claim_gpu(0, 2) is None
    file.close()
    again, file = job.claim_gpu(2, 2)
    assert again == 0
    file.close()
    other.close()


def test_more_trainings_than_gpus_share_them_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(job.tempfile, "gettempdir", lambda: str(tmp_path))
    claims = [job.claim_gpu(5, 2) for _ in range(5)]
    assert [gpu for gpu, _ in claims] == [0, 1, 0, 1, 0] and job.claim_gpu(5, 2) is None
    assert job.claim_gpu(6, 0) is None  # a GPU that is not there would be taken for a processor
    for _, file in claims:
        file.close()


# --- helpers ---------------------------------------------------------------------------------------------------------


def wait_until(holds, seconds=60):
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def kill(words):
    """kill -9 of one process, found by pgrep."""
    found = []

    def there():
        ran = subprocess.run(["pgrep", *words.split()], capture_output=True, text=True)
        found[:] = [int(pid) for pid in ran.stdout.split()]
        return found

    wait_until(there)
    os.kill(found[-1], signal.SIGKILL)


class Full:
    """A log on a full disk."""

    def write(self, line):
        raise OSError(28, "No space left on device")


def test_a_log_on_a_full_disk_stops_nothing():
    assert list(pipeline._logged(iter(["one\n", "two\n"]), Full())) == ["one", "two"]


def test_snakemake_ends_when_nobody_reads_the_report(tmp_path, monkeypatch):
    def closed(sentence):
        raise BrokenPipeError

    monkeypatch.setattr(pipeline, "_report", closed)
    waits = [sys.executable, "-c", "print('Job 1: one', flush=True); import time; time.sleep(600)"]
    began = time.monotonic()
    with pytest.raises(BrokenPipeError):
        pipeline._run_snakemake(waits, tmp_path / "pipeline.log")
    assert time.monotonic() - began < 300


def test_a_run_whose_name_is_nearly_an_experiments_is_told_so():
    assert "To make params/small-sets.yaml: RUN=small-sets" in pipeline._hint(plan.Plan.read("demo", "smal-sets", ""))
    assert pipeline._hint(plan.Plan.read("demo", "xyz", "")) == ""
