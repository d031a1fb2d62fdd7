"""From a packed run to a submission, without an account: the real kaggle command pushes and submits to a server on
loopback, and what that recorded is what a simulated Kaggle then mounts and runs."""

import functools
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from fake_run import CLASSES, make_run
from stub_kaggle import Stub

from lib.data import datasets
from lib.submission import bundle, kaggle, submission

ROOT = Path(__file__).resolve().parents[1]
VALUES = {"profile": "demo", "seed": 2019, "budget_s": 0.0, "overwrite": False}
SHAPES = {"old": ("{slug}", "{slug}"), "new": ("competitions/{slug}", "datasets/me/{slug}")}
SECONDS = 400  # of one kernel, at most


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """What the server recorded of a data set, a kernel and a submission."""
    folder = tmp_path_factory.mktemp("push")
    kernel, data = kaggle.pack(
        ROOT / "notebooks" / "08_submission.ipynb",
        make_run(folder / "first", arch="ideas/whole_stem.py:resnet10"),  # a network of one's own goes along
        VALUES,
        folder / "build",
        owner="me",
    )
    stub, home = Stub(), folder / "home"
    home.mkdir()
    commands = [
        ["datasets", "create", "-p", str(data)],
        ["kernels", "push", "-p", str(kernel)],
        ["competitions", "submit", kaggle.COMPETITION, "-k", "me/first-08-submission"]
        + ["-v", "1", "-f", "submission.csv", "-m", "first"],
    ]
    with ThreadPoolExecutor(2) as pool:
        stub.said = list(pool.map(lambda words: stub.kaggle(home, *words), commands))
    stub.close()
    stub.folders = kernel, data
    return stub


def test_the_real_command_pushes_what_was_packed(pushed):
    kernel, data = pushed.folders
    (made,) = pushed.of("CreateDataset")
    assert (made["ownerSlug"], made["slug"], made["isPrivate"]) == ("me", "first-curated-weights", True)
    assert pushed.uploads == {p.name: p.read_bytes() for p in data.iterdir() if p.name != "dataset-metadata.json"}
    (saved,) = pushed.of("SaveKernel")
    assert (saved["slug"], saved["newTitle"]) == ("me/first-08-submission", "First 08 submission")
    assert (saved["enableInternet"], saved["enableGpu"], saved["isPrivate"]) == (False, False, True)
    assert saved["datasetDataSources"] == ["me/first-curated-weights"]
    assert saved["competitionDataSources"] == [kaggle.COMPETITION]
    sent, packed = json.loads(saved["text"]), json.loads((kernel / "08_submission.ipynb").read_text())
    assert [cell["source"] for cell in sent["cells"]] == ["".join(cell["source"]) for cell in packed["cells"]]
    (code,) = pushed.of("CreateCodeSubmission")
    assert code["kernelSlug"] == "first-08-submission" and code["fileName"] == "submission.csv"
    assert "surprising" not in pushed.said[1]  # the title fits the id


# --- a simulated Kaggle --------------------------------------------------------------------------------------------


@functools.cache
def walls() -> tuple[str, ...]:
    """A prefix that takes the network and, where it can, the right to write inputs away; () where that is forbidden."""
    for flags in (("-rmn",), ("-rn",)):
        if shutil.which("unshare") and subprocess.run(["unshare", *flags, "true"], capture_output=True).returncode == 0:
            return ("unshare", *flags)
    return ()


def run_kernel(text: str, inputs: Path, working: Path, *allowed: str) -> str:
    """Run a notebook in a clean working folder over read-only inputs; what it printed. Fails if it does."""
    working.mkdir()
    notebook = working.with_suffix(".ipynb")
    notebook.write_text(text)
    before = contents(inputs)
    command = [sys.executable, "-I", str(Path(__file__).with_name("simulated_kaggle.py")), str(notebook), *allowed]
    mount = f"mount --bind '{inputs}' '{inputs}' && mount -o remount,bind,ro '{inputs}'"
    if "-rmn" in walls():
        command = [*walls(), "sh", "-c", f'{mount}; exec "$@"', "sh", *command]
    else:
        command = [*walls(), *command]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(working), "KERNEL_INPUT": str(inputs), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=working, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert contents(inputs) == before
    return ran.stdout


def contents(folder: Path) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_test_clips(folder: Path) -> None:
    """Kaggle's files: a curated table, a sample of eight rows, seven of them with a clip and one of these empty."""
    (folder / "test").mkdir(parents=True)
    rng, fnames = np.random.default_rng(0), [f"t{i}.wav" for i in range(8)]
    for i, fname in enumerate(fnames[:6]):
        soundfile.write(folder / "test" / fname, 0.1 * rng.standard_normal(4000 * (i + 1)), 8000)
    (folder / "test" / fnames[6]).write_bytes(b"")
    pd.DataFrame({"fname": ["c0.wav"], "labels": ["Rain"]}).to_csv(folder / "train_curated.csv", index=False)
    sample = pd.DataFrame({"fname": fnames[::-1]})
    sample.assign(**dict.fromkeys(CLASSES[::-1], 0)).to_csv(folder / "sample_submission.csv", index=False)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_was_pushed_runs_on_a_simulated_kaggle(pushed, tmp_path, shape):
    competition, dataset = (
        tmp_path / "input" / place.format(slug=slug)
        for place, slug in zip(SHAPES[shape], (kaggle.COMPETITION, "first-curated-weights"), strict=True)
    )
    write_test_clips(competition)
    dataset.mkdir(parents=True)
    for name, content in pushed.uploads.items():
        (dataset / name).write_bytes(content)
    said = run_kernel(pushed.of("SaveKernel")[0]["text"], tmp_path / "input", tmp_path / "working")
    assert "8 rows, 8 clips, 3 classes" in said
    data = datasets.load_test(competition)
    submission.check(tmp_path / "working" / "submission.csv", data)
    table = pd.read_csv(tmp_path / "working" / "submission.csv").set_index("fname")
    assert list(table.columns) == CLASSES[::-1]
    prior = [0.0, 0.5, 0.75]  # of the classes in the sample's order
    assert table.loc["t6.wav"].tolist() == table.loc["t7.wav"].tolist() == prior
    packed = bundle.read(dataset)
    expected = submission.predict(data, packed, submission.load(packed)).scores
    np.testing.assert_allclose(table.to_numpy(), expected, atol=1e-3)  # bf16, another number of threads
    folder = tmp_path / "working" / "outputs" / "first" / "08_submission" / "curated"
    told = json.loads((folder / "result.json").read_text())
    assert told["metrics"]["n_prior"] == 2 and told["metrics"]["promised_lwlrap"] == 0.75
    assert {"submission.csv", "how.csv", "predicted.png", "examples.png"} <= {path.name for path in folder.iterdir()}


@pytest.mark.notebooks
def test_04_kfold_trains_on_a_simulated_kaggle(tmp_path):
    """With fastai, which Kaggle has, but without iterative-stratification: the folds are packed."""
    competition, rng = tmp_path / "input" / "competitions" / kaggle.COMPETITION, np.random.default_rng(0)
    (competition / "train_curated").mkdir(parents=True)
    fnames = [f"c{i}.wav" for i in range(4)]
    for fname in fnames:
        soundfile.write(competition / "train_curated" / fname, 0.1 * rng.standard_normal(20_000), 8000)
    labels = pd.DataFrame({"fname": fnames, "labels": ["Rain", "Bark", "Bark", "Rain"]})
    labels.to_csv(competition / "train_curated.csv", index=False)
    pd.DataFrame(columns=["fname", "Rain", "Bark"]).to_csv(competition / "sample_submission.csv", index=False)
    values = {"profile": "demo", "fold": 1, "n_folds": 2, "epochs": 1, "batch_size": 2, "sample_rate": 8000}
    values |= {"n_fft": 256, "hop_length": 80, "n_mels": 16, "arch": "test_resnet"}
    values |= {"augment": ["ideas/lowpass.py:lowpass"], "mix": "ideas/between_class.py:between_class"}
    home = make_run(tmp_path / "first")
    kernel, data = kaggle.pack(ROOT / "notebooks" / "04_kfold.ipynb", home, values, tmp_path, owner="me")
    shutil.copytree(data, tmp_path / "input" / "datasets" / "me" / data.name)
    text = (kernel / "04_kfold.ipynb").read_text()
    run_kernel(text, tmp_path / "input", tmp_path / "working", "fastai", "fastcore")
    part = tmp_path / "working" / "outputs" / "first" / "04_kfold" / "curated" / "without_1"
    result = json.loads((part / "result.json").read_text())
    assert result["metrics"]["n"] == 2 and result["parameters"]["mix"].startswith("ideas/between_class.py:")
    assert {path.name for path in (part / "ideas").iterdir()} == {"lowpass.py", "between_class.py"}
    assert (home / "folds.csv").read_bytes() == (tmp_path / "working/outputs/first/folds.csv").read_bytes()
