"""Scoring with the oldest versions that are supported (Kaggle's image has older ones than ours), beside the pinned."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OLDEST = {"numpy": "2.0.2", "pandas": "2.2.2", "pydantic": "2.12.0"}
NEEDED = ["pytz", "pydantic_core==2.41.1"]  # by that pandas, by that pydantic
PATH = (
    "bundle",
    "features",
    "pooling",
    "prediction_images",
    "settings",
    "stage2",
    "submission",
    "windows",
)  # from clip to file


@pytest.fixture(scope="module")
def oldest(tmp_path_factory) -> Path:
    """A folder with the oldest versions, to stand before the installed ones."""
    folder = tmp_path_factory.mktemp("oldest")
    asked = [f"{name}=={version}" for name, version in OLDEST.items()] + NEEDED
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--only-binary", ":all:"]
    done = subprocess.run([*pip, "--target", str(folder), *asked], capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"{', '.join(asked)} can't be installed here: {done.stderr.strip().splitlines()[-1:]}")
    return folder


def test_the_oldest_are_those_that_the_project_asks_for():
    asked = (ROOT / "pyproject.toml").read_text()
    for name, version in OLDEST.items():
        assert version.startswith(re.search(rf'"{name}>=([\d.]+)"', asked)[1])


def test_scoring_passes_its_tests_with_the_oldest_versions(oldest, tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{oldest}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    show = "import numpy, pandas, pydantic as p; print(numpy.__version__, pandas.__version__, p.__version__)"
    found = subprocess.run([sys.executable, "-c", show], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == list(OLDEST.values())
    files = [str(ROOT / "tests" / f"test_{name}.py") for name in PATH]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--basetemp",
        str(tmp_path / "t"),
        *files,
    ]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stdout[-3000:]
