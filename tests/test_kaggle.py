"""Tests of kaggle: the same bytes, metadata that Kaggle takes, inputs found wherever they are mounted."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from fake_run import make_run

from lib.runs import inputs, plan
from lib.submission import bundle, kaggle

ROOT = Path(__file__).resolve().parents[1]
SCORE, TRAIN = ROOT / "notebooks" / "08_submission.ipynb", ROOT / "notebooks" / "04_kfold.ipynb"
VALUES = {"profile": "demo", "seed": 2019, "budget_s": 60.0, "epochs": 3, "weights": "", "data_dir": "data/here"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "first")


@pytest.fixture
def packed(home, tmp_path):
    return kaggle.pack(SCORE, home, VALUES, tmp_path / "build", owner="me")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_inputs_give_the_same_bytes(home, packed, tmp_path):
    for folder in (tmp_path / "again", tmp_path / "build"):  # a new place, and over what is there
        kaggle.pack(SCORE, home, VALUES, folder, owner="me")
    assert contents(tmp_path / "again") == contents(tmp_path / "build")
    assert {str(path) for path in contents(tmp_path / "again")} == {
        *("first-08-submission/08_submission.ipynb", "first-08-submission/kernel-metadata.json"),
        *(f"first-curated-weights/{name}" for name in ("dataset-metadata.json", "manifest.json", "folds.csv")),
        *(f"first-curated-weights/without_{fold}.{kind}" for fold in (0, 1) for kind in ("json", "safetensors")),
    }


def test_what_is_packed_is_complete_and_offline(packed):
    kernel, data = packed
    told = json.loads((kernel / "kernel-metadata.json").read_text())
    assert told["id"] == "me/first-08-submission" and told["title"] == "First 08 submission"
    assert told["enable_internet"] is False and told["enable_gpu"] is False and told["is_private"] is True
    assert told["dataset_sources"] == ["me/first-curated-weights"]
    assert told["competition_sources"] == [kaggle.COMPETITION]
    assert bundle.read(data).manifest["models"] == ["without_0", "without_1"]


def test_the_notebook_holds_the_library_and_the_runs_parameters(home, packed):
    content = nbformat.read(packed[0] / SCORE.name, as_version=4)
    nbformat.validate(content)
    original = nbformat.read(SCORE, as_version=4)
    tags = [cell.metadata.get("tags", []) for cell in content.cells[:4]]
    assert tags == [[], ["generated"], ["parameters"], ["injected-parameters"]]
    assert [cell.source for cell in content.cells[4:]] == [cell.source for cell in original.cells[2:]]
    assert content.cells[1].metadata["jupyter"]["source_hidden"] and content.cells[1].metadata["_kg_hide-input"]
    given: dict = {}
    exec(content.cells[3].source, given)
    given.pop("__builtins__")
    digest = bundle.gather(home, "curated").digest
    own = {"run": "first", "variant": "curated", "data_dir": "kaggle", "weights": f"kaggle@{digest}"}
    assert given == {"profile": "demo", "seed": 2019, "budget_s": 60.0} | own  # epochs is no key of 08


def test_a_notebook_that_trains_takes_folds_and_no_weights(home, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "folds.csv").write_text((home / "folds.csv").read_text())
    values = {**VALUES, "fold": 1}
    kernel, data = kaggle.pack(TRAIN, tmp_path / "bare", values, tmp_path, owner="me", gpu=True, sources=("a/b-c",))
    told = json.loads((kernel / "kernel-metadata.json").read_text())
    assert told["id"] == "me/bare-04-kfold-fold-1" and told["enable_gpu"] is True
    assert told["dataset_sources"] == ["me/bare-folds", "a/b-c"] and told["competition_sources"] == []
    assert {path.name for path in data.iterdir()} == {"folds.csv", "manifest.json", "dataset-metadata.json"}
    source = nbformat.read(kernel / TRAIN.name, as_version=4).cells[3].source
    assert "fold = 1" in source and "folds_csv = 'kaggle@" in source and "weights" not in source


def test_an_incomplete_run_is_not_packed(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(FileNotFoundError, match=r"(?s)folds\.csv is not there.*make run NB=04 RUN=run"):
        kaggle.pack(SCORE, tmp_path / "run", VALUES, tmp_path / "build", owner="me")
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize(
    ("notebook", "values", "reads"),
    [
        ("05_curation", {}, "the scores of 04's pair models"),
        ("06_stage2", {}, "the scores of 04's models and pair models"),
        ("09_journal", {}, "the results of all other notebooks"),
        ("10_best", {}, "the scores of 04's models and pair models"),
        ("04_kfold", {"fold": -1}, "the scores of all folds"),
        ("04_kfold", {"train_windows": "kept"}, "what 05 selected"),
        ("04_kfold", {"train_set": "pseudo"}, "what 05 selected"),
        ("04_kfold", {"ignore_missing": True}, "what 05 selected"),
    ],
)
def test_a_notebook_that_reads_the_run_folder_is_not_packed(home, tmp_path, notebook, values, reads):
    with pytest.raises(ValueError, match=f"{notebook} can't be packed: it reads {reads}.*04, 07 and 08 can"):
        kaggle.pack(SCORE.with_name(f"{notebook}.ipynb"), home, {**VALUES, **values}, tmp_path / "build", owner="me")
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize("notebook", ["01_eda", "02_features", "03_augmentation", "04_kfold", "07_ensemble"])
def test_a_notebook_that_needs_the_folds_alone_is_packed(home, tmp_path, notebook):
    values = {**VALUES, "train_set": "curated_noisy", "train_windows": "all", "ignore_missing": False}
    kernel, data = kaggle.pack(SCORE.with_name(f"{notebook}.ipynb"), home, values, tmp_path / "build", owner="me")
    assert (kernel / f"{notebook}.ipynb").is_file()
    assert {path.name for path in data.iterdir()} == {"folds.csv", "manifest.json", "dataset-metadata.json"}


def test_a_run_whose_name_is_too_long_for_kaggle_is_not_packed(home, tmp_path):
    long = home.rename(home.with_name("r" * 40))
    try:
        with pytest.raises(ValueError, match="54 characters, Kaggle allows 5 to 50. Shorten the run's name"):
            kaggle.pack(SCORE, long, VALUES, tmp_path, owner="me")
    finally:
        long.rename(home)


def test_the_library_is_imported_from_the_notebook_and_a_damaged_one_refused(packed, tmp_path):
    source = nbformat.read(packed[0] / SCORE.name, as_version=4).cells[1].source
    at = source.index("\n", source.index("b64decode")) + 40
    damaged = source[:at] + ("A" if source[at] != "A" else "B") + source[at + 1 :]
    answers = []
    for code in (source + "\nimport lib.files\nprint(lib.files.__file__)", damaged):
        (tmp_path / "cell.py").write_text(code)
        command = [sys.executable, "-I", str(tmp_path / "cell.py")]
        answers.append(subprocess.run(command, capture_output=True, text=True, cwd=tmp_path))
    assert answers[0].stdout.strip().endswith("lib.zip/lib/files.py"), answers[0].stderr
    assert answers[1].returncode == 1
    assert "library inside this notebook is damaged. Pack it again" in answers[1].stderr


@pytest.mark.parametrize(
    ("options", "saying"),
    [
        ({"owner": "me/you"}, "owner 'me/you': give your Kaggle user name"),
        ({"sources": ("first-weights",)}, r"sources \['first-weights'\]: expected owner/slug"),
        ({"sources": ("me/First_08",)}, "expected owner/slug"),
    ],
)
def test_names_that_kaggle_would_misread_are_refused(home, tmp_path, options, saying):
    with pytest.raises(ValueError, match=saying):
        kaggle.pack(SCORE, home, VALUES, tmp_path / "build", **{"owner": "me", **options})
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize("place", ["mine/noisy.csv", "folder", "~/folder"])
def test_a_table_is_not_packed_beside_the_competitions_clips(home, tmp_path, monkeypatch, place):
    monkeypatch.setattr(inputs, "ROOT", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "clips.csv").touch()
    values = VALUES | {"data_dir": place}
    with pytest.raises(
        ValueError, match=r"is a table, .* Upload the table as clips.csv, .* make kaggle SOURCES=owner/sl"
    ):
        kaggle.pack(SCORE, home, values, tmp_path / "build", owner="me")
    assert not (tmp_path / "build").exists()
    for result in home.glob("04_kfold/curated/*/result.json"):  # made with DATA=..., which no profile tells
        result.write_text(json.dumps({**json.loads(result.read_text()), "parameters": {"data_dir": place}}))
    with pytest.raises(ValueError, match=r"is a table"):
        kaggle.pack(SCORE, home, VALUES, tmp_path / "build", owner="me")
    kernel, _ = kaggle.pack(SCORE, home, values, tmp_path / "build", owner="me", sources=("me/mine",))
    assert json.loads((kernel / "kernel-metadata.json").read_text())["dataset_sources"][1:] == ["me/mine"]
    assert inputs.find("data_dir", root=tmp_path) == tmp_path / "folder"  # where the kernel finds it


# --- inputs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["{slug}", "competitions/{slug}", "datasets/me/{slug}"])
def test_inputs_are_found_wherever_they_are_mounted(home, tmp_path, shape):
    there = tmp_path / shape.format(slug="fsd")
    (there / "test").mkdir(parents=True)
    (there / "sample_submission.csv").write_text("fname,a\n")
    packed = bundle.gather(home, "curated")
    weights = tmp_path / shape.format(slug="first-weights")
    bundle.write(packed, weights)
    assert inputs.find("data_dir", root=tmp_path) == there
    assert inputs.find("weights", packed.digest, tmp_path) == inputs.find("weights", root=tmp_path) == weights
    assert inputs.find("folds_csv", packed.digest, tmp_path) == weights / "folds.csv"


def test_the_packed_run_that_is_meant_is_taken_and_another_refused(home, tmp_path):
    packed = bundle.gather(home, "curated")
    old = bundle.Bundle({**packed.manifest, "run": "older"}, packed.files)
    bundle.write(old, tmp_path / "older")
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger" / "manifest.json").write_text("[]")
    with pytest.raises(FileNotFoundError, match=rf"0 folders .* run {packed.digest}.*{old.digest}.*an older version"):
        inputs.find("weights", packed.digest, tmp_path)
    bundle.write(packed, tmp_path / "newer")
    assert inputs.find("weights", packed.digest, tmp_path) == tmp_path / "newer"
    with pytest.raises(FileNotFoundError, match="2 folders below .*, expected one"):
        inputs.find("weights", "", tmp_path)


def test_nothing_attached_is_told_with_what_is_there(tmp_path):
    (tmp_path / "some-data").mkdir()
    with pytest.raises(FileNotFoundError, match=r"0 folders .*sample_submission\.csv.*some-data.*Attach the input"):
        inputs.find("data_dir", root=tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        inputs.find("data_dir", root=tmp_path / "none")


def test_tables_of_zenodo_stand_for_the_folder_above_them(tmp_path):
    (tmp_path / "fsd" / "FSDKaggle2019.meta").mkdir(parents=True)
    (tmp_path / "fsd" / "FSDKaggle2019.meta" / "vocabulary.csv").write_text("0,a\n")
    assert inputs.find("data_dir", root=tmp_path) == tmp_path / "fsd"


# --- command line --------------------------------------------------------------------------------------------------


def test_the_command_line_packs_and_says_how_to_push(home, tmp_path, capsys):
    words = [str(SCORE), str(home), "--owner", "me", "--profile", "demo"]
    words += ["--folder", str(tmp_path), "--gpu", "--set", "budget_s=9.5"]
    assert kaggle.main(words) == 0
    said = capsys.readouterr().out
    assert "kaggle datasets create -p" in said and "kaggle kernels push -p" in said
    kernel = tmp_path / "first-08-submission"
    assert "budget_s = 9.5" in (kernel / SCORE.name).read_text()
    assert json.loads((kernel / "kernel-metadata.json").read_text())["enable_gpu"] is True


def test_a_notebook_may_be_named_by_its_number_and_the_run_must_be_said(home, tmp_path, capsys):
    words = ["--owner", "me", "--profile", "demo", "--folder", str(tmp_path)]
    assert kaggle.main([str(SCORE.with_name("08.ipynb")), str(home), *words]) == 0
    assert (tmp_path / "first-08-submission" / SCORE.name).is_file()
    with pytest.raises(SystemExit):
        kaggle.main([str(SCORE), "outputs/", *words])
    assert "make kaggle RUN=name" in capsys.readouterr().err


def test_a_variant_is_packed_with_the_parameters_that_it_is_trained_with(tmp_path, monkeypatch):
    """Of the experiment's own file, and of profiles that lie over one another, as `make run` has them."""
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    shutil.copytree(ROOT / "params", tmp_path / "params")
    (tmp_path / "params" / "mels32.yaml").write_text("run: mine\nvariant: mels32\nn_mels: 32\n")
    home = tmp_path / "outputs" / "mine"
    home.mkdir(parents=True)
    (home / "folds.csv").write_text("fname,group,fold\na,a,0\nb,b,1\n")
    words = [str(TRAIN), str(home), "--owner", "me", "--folder", str(tmp_path / "packed")]
    assert kaggle.main([*words, "--profile", "fsd2019-writeup writeup-small", "--variant", "mels32"]) == 0
    assert kaggle.main([*words, "--profile", "demo", "--variant", "mels32", "--set", "fold=2"]) == 1
    text = (tmp_path / "packed" / "mine-04-kfold" / TRAIN.name).read_text()
    assert all(line in text for line in ("n_mels = 32", "variant = 'mels32'", "batch_size = 16", "run = 'mine'"))


def test_the_notebook_for_jupyterlab_is_no_kernel(home, tmp_path):
    with pytest.raises(ValueError, match="00_scratch can't be packed: it is for JupyterLab"):
        kaggle.pack(ROOT / "notebooks" / "00_scratch.ipynb", home, {}, tmp_path / "packed", owner="me")
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize(
    ("change", "saying"),
    [
        (["--set", "budgets=3"], "Did you mean 'budget_s'?"),
        (
            ["--set", "run=other"],
            "SET=run=...: a kernel's run, variant, data_dir, weights, folds_csv are those of what",
        ),
        (["--variant", "other"], "is not complete"),
        (["--owner", ""], "make kaggle OWNER=name"),
    ],
)
def test_the_command_line_explains_what_it_refuses(home, tmp_path, capsys, change, saying):
    words = [str(SCORE), str(home), "--owner", "me", "--profile", "demo"]
    assert kaggle.main([*words, "--folder", str(tmp_path), *change]) == 1
    assert saying in capsys.readouterr().err


def test_a_notebook_that_there_is_not_is_told(home, tmp_path, capsys):
    words = [str(SCORE.with_name("11.ipynb")), str(home), "--owner", "me", "--profile", "demo"]
    with pytest.raises(SystemExit):
        kaggle.main([*words, "--folder", str(tmp_path)])
    assert "there is no notebook 11. Say its number: make kaggle NB=08" in capsys.readouterr().err


def test_a_run_of_another_profile_is_not_packed(tmp_path, capsys):
    """A forgotten PROFILE= would be demo's, with no limit of time."""
    words = [str(SCORE), str(make_run(tmp_path / "first")), "--owner", "me", "--folder", str(tmp_path / "packed")]
    assert kaggle.main([*words, "--profile", "esc10"]) == 1 and not (tmp_path / "packed").exists()
    assert "first was made with PROFILE=demo, not with esc10. Say that one." in capsys.readouterr().err
