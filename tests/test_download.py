"""Tests of download with the real kaggle command and a server on loopback that stands for Kaggle."""

import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from stub_kaggle import Stub

from lib.submission import download
from lib.submission.kaggle import COMPETITION

ROOT = Path(__file__).resolve().parents[1]
TABLES = {"train_curated.csv": b"fname,labels\n", "sample_submission.csv": b"fname,a\n"}
AUDIO = {f"test/{i}.wav": np.random.default_rng(i).bytes(1_000_000) for i in range(3)}


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


def test_a_download_that_was_killed_goes_on_where_it_was(stub, folder, monkeypatch):
    stub.stop_at = 2_500_000
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    code = "from lib.submission import download; from pathlib import Path; "
    code += f"download.fetch(Path({str(folder)!r}), free_gb=99)"
    first = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.DEVNULL)
    archive, until = folder / f"{COMPETITION}.zip", time.monotonic() + 100
    while not archive.is_file() or archive.stat().st_size < 2**20:
        assert first.poll() is None and time.monotonic() < until, "the download neither began nor went on"
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    had, stub.stop_at = archive.stat().st_size, 0
    assert "5 files" in download.fetch(folder, free_gb=99)
    assert stub.ranges[-1] == f"bytes={had}-"
    there = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert there == {**AUDIO, **TABLES}
    n_calls = len(stub.calls)
    assert "already" in download.fetch(folder, free_gb=99) and len(stub.calls) == n_calls


def test_what_is_unpacked_is_passed_over(stub, folder):
    folder.mkdir()
    (folder / f"{COMPETITION}.zip").write_bytes(stub.archive)
    (folder / "test").mkdir()
    (folder / "test/0.wav").write_bytes(AUDIO["test/0.wav"])
    (folder / "test/1.wav").write_bytes(b"cut short")
    before = (folder / "test/0.wav").stat().st_mtime_ns
    assert download._unpack(folder / f"{COMPETITION}.zip", folder) == 5
    assert (folder / "test/0.wav").stat().st_mtime_ns == before
    assert (folder / "test/1.wav").read_bytes() == AUDIO["test/1.wav"]


def test_a_full_disk_is_seen_before_anything_is_asked(stub, folder):
    with pytest.raises(download.DownloadError, match=r"40 GB are free and 0 GB are there, 59 GB are needed.*DATA="):
        download.fetch(folder, free_gb=40)
    assert stub.calls == []


def test_an_archive_that_is_none_or_points_outside_is_refused(folder, tmp_path):
    folder.mkdir()
    archive = tmp_path / "archive.zip"
    archive.write_bytes(b"not a zip")
    with pytest.raises(download.DownloadError, match="damaged.*Delete it and run the same again"):
        download._unpack(archive, folder)
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("../outside.csv", "x")
    with pytest.raises(download.DownloadError, match="points outside"):
        download._unpack(archive, folder)
    assert not (tmp_path / "outside.csv").exists()


def test_without_the_command_or_a_token_it_tells_how_to_do_it_by_hand(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(download, "AUDIO_GB", 0)
    monkeypatch.setattr(download, "ARCHIVE_GB", 0)
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)
    assert download.main([str(folder)]) == 1
    said = capfd.readouterr().err
    assert "It needs an API token" in said and f"/{COMPETITION}/rules" in said
    for text in ("zenodo.org/records/3612637", "FSDKaggle2019.audio_test.zip", ".z01 to .z06", "7z x", str(folder)):
        assert text in said
    monkeypatch.setattr(download.shutil, "which", lambda *_, **__: None)
    assert download.main([str(folder)]) == 1
    assert "There is no kaggle command: make setup installs it." in capfd.readouterr().err
