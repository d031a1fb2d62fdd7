"""Shared fixtures: where the real audio lies, and small sets made on the fly."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from lib.clips import nested
from lib.data import demo
from lib.evaluation.window_scores import WindowScores
from lib.runs import journal

ROOT = Path(__file__).resolve().parents[1]
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests compare to the last bit, on the processor
os.environ.setdefault("TEST_RUNS", f"test-{os.getpid()}")  # begins the names of their runs; workers inherit it
APART = ["test_run_notebooks", "test_pipeline"]  # whose tests are long, and independent of each other
LONG = [*APART, "test_eda", "test_versions", "test_kernel"]  # begun first, so that workers end together


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """Long tests first; the others stay together by module, so that what a module makes once is made once."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
    for item in items:
        if item.path.stem not in APART:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_sessionfinish(session):
    """Remove the runs that tests have made below outputs/, and their caches."""
    if hasattr(session.config, "workerinput"):
        return  # others still work
    outputs, name = ROOT / "outputs", os.environ["TEST_RUNS"]
    runs = list(outputs.glob(f"{name}-*"))
    for run in runs:
        shutil.rmtree(run)
    if runs and (outputs / "journal.csv").is_file():
        journal.rebuild(outputs)  # without them
    for index in outputs.glob("cache/logmel-*/*/index.csv"):
        if name in index.read_text():
            shutil.rmtree(index.parent)
            if not any(index.parent.parent.iterdir()):
                index.parent.parent.rmdir()


@pytest.fixture(scope="session")
def assert_legible():
    """Asserts that a page of the report, 928 pixels wide, shows a figure unshrunk, and no letter below 12 pixels."""

    def check(figure) -> None:
        from matplotlib.text import Text  # here: most tests draw nothing

        figure.canvas.draw()
        assert figure.get_tightbbox().width * 110 < 945  # pixels as saved; 2 % smaller can still be read
        texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
        assert min(text.get_fontsize() for text in texts) * 110 / 72 > 12

    return check


@pytest.fixture(scope="session")
def demo_folder():
    """The demo set where the notebooks have it: to be read only."""
    return demo.make(ROOT / "outputs" / "demo-data")


@pytest.fixture(scope="session")
def shared_data():
    """Path of a folder of real audio beside the checkout; skips, or fails under REQUIRE_SHARED_DATA=1, without it."""

    def find(name: str) -> Path:
        folder = ROOT.parent / "shared" / "data" / name
        if not folder.is_dir():
            message = f"real audio {name!r} is not beside this checkout (shared/data)"
            if os.environ.get("REQUIRE_SHARED_DATA") == "1":
                pytest.fail(message)
            pytest.skip(message)
        return folder

    return find


@pytest.fixture
def make_clips(tmp_path):
    """Writes sounds (samples: a 16-bit wav; bytes: as they are; None: no file) and returns fname, path, subset."""

    def make(sounds: dict, subset: str = "curated", folder: str = "audio", sample_rate: int = 8000) -> pd.DataFrame:
        home = tmp_path / folder
        home.mkdir(exist_ok=True)
        for fname, sound in sounds.items():
            if isinstance(sound, bytes):
                (home / fname).write_bytes(sound)
            elif sound is not None:
                soundfile.write(home / fname, np.asarray(sound, np.float32), sample_rate)
        return pd.DataFrame({"fname": list(sounds), "path": [str(home / f) for f in sounds], "subset": subset})

    return make


@pytest.fixture(scope="session")
def make_design():
    """A design in memory: three folds, two scenes (order of the same sounds) and a third class that tells the sounds.

    `n` clips; every window score is drawn from (seed, clip, model), so that pair models differ.
    """

    def make(n: int = 48, seed: int = 0):
        rng = np.random.default_rng(seed)
        fnames = [f"{i:03}.wav" for i in range(n)]
        label, fold = np.arange(n) % 2, np.arange(n) // 2 % 3
        clips = pd.DataFrame({"group": fnames, "fold": fold, "labels": [("ab"[k],) for k in label]}, index=fnames)
        clips.index.name = "fname"
        sides = []
        for names in (
            [f"without_{f}_{g}" for f in range(3) for g in range(f + 1, 3)],
            [f"without_{f}" for f in range(3)],
        ):
            rows, scores = [], []
            for name in names:
                for i in np.flatnonzero(np.isin(fold, [int(f) for f in name.split("_")[1:]])):
                    own = rng.uniform(0.3, 0.5, (8, 3))
                    own[:, 2] = 0.02
                    own[1 if label[i] == 0 else 6, 2] = 0.7
                    rows += [(fnames[i], 0.5 * t, fold[i], name) for t in range(8)]
                    scores.append(own)
            table = pd.DataFrame(rows, columns=["fname", "window_start_s", "fold", "model"])
            sides.append(WindowScores(table.assign(energy=1.0), np.concatenate(scores)))
        sidecar = {"recipe": {"loss": "bce"}, "windows": {"window_s": 1.0, "hop_s": 0.5}, "audio": {}, "folds": "x"}
        sidecar |= {"network": {"arch": "a"}, "seed": 0}
        sidecar["classes"] = ["a", "b", "c"]
        return nested.Design(
            Path("curated"),
            clips,
            ["a", "b", "c"],
            *sides,
            sidecar,
            dict.fromkeys(["without_0", "without_1", "without_2"], "0"),
        )

    return make
