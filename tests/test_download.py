"""Tests of `make data` with the real kaggle command and a server on loopback that stands for Kaggle."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from stub_kaggle import Stub

from lib.submission.kaggle import COMPETITION

ROOT = Path(__file__).resolve().parents[1]
TABLES = {"train_curated.csv": b"fname,labels\n", "sample_submission.csv": b"fname,a\n"}
AUDIO = {f"test/{i}.wav": np.random.default_rng(i).bytes(1_000_000) for i in range(3)}
pytestmark = pytest.mark.skipif(not (shutil.which("make") and shutil.which("unzip")), reason="needs make and unzip")


@pytest.fixture
def stub():
    raw, server = io.BytesIO(), Stub()
    with zipfile.ZipFile(raw, "w") as archive:
        for name, content in {**AUDIO, **TABLES}.items():
            archive.writestr(name, content)
    server.archive = raw.getvalue()
    yield server
    server.close()


@pytest.fixture
def folder(stub, tmp_path, monkeypatch):
    """Where the data go, in the environment of the server."""
    (tmp_path / "home").mkdir()
    for name, value in stub.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    return tmp_path / "data"


def make_data(folder):
    command = ["make", "-o", "setup", "data", f"DATA={folder}", f"BIN={Path(sys.executable).parent}"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=pipe, stderr=pipe, text=True)


def test_a_download_that_was_killed_goes_on_where_it_was(stub, folder):
    stub.stop_at = 2_500_000
    first = make_data(folder)
    archive, until = folder / f"{COMPETITION}.zip", time.monotonic() + 100
    while not archive.is_file() or archive.stat().st_size < 2**20:
        assert first.poll() is None and time.monotonic() < until, "the download neither began nor went on"
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    had, stub.stop_at = archive.stat().st_size, 0
    (folder / "test").mkdir()
    (folder / "test/1.wav").write_bytes(b"cut short")  # as a kill within unzip leaves it
    said, _ = (second := make_data(folder)).communicate()
    assert second.returncode == 0 and f"{folder} holds FSDKaggle2019: give it as DATA." in said
    assert stub.ranges[-1] == f"bytes={had}-"
    there = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert there == {**AUDIO, **TABLES}
    n_calls = len(stub.calls)
    assert "already" in make_data(folder).communicate()[0] and len(stub.calls) == n_calls


def test_without_a_token_or_a_whole_archive_it_says_what_to_do(stub, folder, monkeypatch):
    stub.archive = b"not a zip"
    said, _ = (broken := make_data(folder)).communicate()
    assert broken.returncode != 0 and "Is the archive damaged? Delete it first." in said
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)
    shutil.rmtree(folder)
    said, _ = (stopped := make_data(folder)).communicate()
    assert stopped.returncode != 0 and "run the same again to go on. It needs 60 GB of disk, an API token" in said
    assert f"/{COMPETITION}/rules" in said and "By hand, from Zenodo: docs/data.md" in said
    page = (ROOT / "docs" / "data.md").read_text()
    for text in ("zenodo.org/records/3612637", "FSDKaggle2019.audio_test.zip", "`.z01` to `.z06`", "7z x"):
        assert text in page
