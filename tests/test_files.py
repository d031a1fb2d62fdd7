"""Tests of files: whole or not there, whatever happens in between."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lib import files

ROOT = Path(__file__).parents[1]


def leftovers(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_digest_is_blake2b_over_lengths_and_contents():
    text = b"\x03" + bytes(7) + b"abc" + b"\x08" + bytes(7) + b'{"a": 1}'  # a length (8 bytes) before each part
    assert files.digest(b"abc", {"a": 1}) == hashlib.blake2b(text, digest_size=6).hexdigest()
    assert files.digest() == hashlib.blake2b(digest_size=6).hexdigest()


def test_digest_tells_apart_what_differs():
    different = [("ab", "c"), ("a", "bc"), ("abc",), ("c", "ab"), ("ab", "c", ""), (["ab", "c"],), (1,), (True,)]
    assert len({files.digest(*parts) for parts in different}) == len(different)


def test_digest_depends_on_the_value_alone():
    assert files.digest({"a": 1, "b": [2.5]}) == files.digest({"b": [2.5], "a": 1})
    assert files.digest([np.int64(3), np.float32(0.5), np.arange(2)]) == files.digest([3, 0.5, [0, 1]])


@pytest.mark.parametrize("before", [None, "old"])
def test_a_file_appears_whole(tmp_path, before):
    path = tmp_path / "new" / "table.csv"
    if before:
        path.parent.mkdir()
        path.write_text(before)
    with files.whole_file(path) as partial:
        partial.write_text("half ")
        assert (path.read_text() if before else path.exists()) == (before or False)
        assert partial.parent == path.parent and partial.name[0] == "." and partial.name.endswith(".partial")
        partial.write_text("whole")
        same_file = partial.stat().st_ino  # renamed, not copied
    assert path.stat().st_ino == same_file and path.read_text() == "whole" and leftovers(path.parent) == ["table.csv"]


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="why"), files.whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError("why")
    assert path.read_text() == "old" and leftovers(tmp_path) == ["table.csv"]


def test_a_folder_appears_whole(tmp_path):
    with files.whole_folder(tmp_path / "new" / "part") as partial:
        (partial / "a").write_text("half")
        assert not (tmp_path / "new" / "part").exists()
    assert (tmp_path / "new" / "part" / "a").read_text() == "half" and leftovers(tmp_path / "new") == ["part"]


def test_an_error_leaves_no_folder(tmp_path):
    with pytest.raises(RuntimeError, match="why"), files.whole_folder(tmp_path / "part") as partial:
        (partial / "a").write_text("half")
        raise RuntimeError("why")
    assert leftovers(tmp_path) == []


def test_a_folder_that_came_into_being_meanwhile_stays(tmp_path):
    with files.whole_folder(tmp_path / "part") as partial:
        (partial / "a").write_text("mine")
        with files.whole_folder(tmp_path / "part") as other:
            (other / "a").write_text("theirs")
    assert (tmp_path / "part" / "a").read_text() == "theirs" and leftovers(tmp_path) == ["part"]


def test_what_is_thrown_away_is_gone_at_once(tmp_path, monkeypatch):
    """A kill while it is removed leaves nothing under its name."""
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "result.json").write_text("{}")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.tempfile.TemporaryDirectory, "__exit__", killed)
    with pytest.raises(KeyboardInterrupt):
        files.throw_away(tmp_path / "part")
    assert not (tmp_path / "part").exists()


def test_others_may_read_what_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_json(tmp_path / "a.json", {})
        with files.whole_folder(tmp_path / "part"):
            pass
        assert os.umask(0o027) == 0o027  # left as it was
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "part").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("whole", [files.whole_file, files.whole_folder])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_explained(tmp_path, whole, code):
    with (
        pytest.raises(OSError, match=r"full .*while writing .*table.*free some space") as found,
        whole(tmp_path / "table"),
    ):
        raise OSError(code, "No space left on device")
    assert found.value.errno == code and leftovers(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, code):
    refused = pytest.raises(OSError, match=f"{tmp_path} can't be written to .*Make it writable")
    with refused as found, files.whole_file(tmp_path / "table"):
        raise OSError(code, "no")
    assert found.value.errno == code


@pytest.mark.parametrize("whole", [files.whole_file, files.whole_folder])
def test_a_disk_that_is_full_from_the_start_is_explained(tmp_path, monkeypatch, whole):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.Path, "mkdir", full)
    with pytest.raises(OSError, match="free some space"), whole(tmp_path / "a" / "b" / "table"):
        pass
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("whole", [files.whole_file, files.whole_folder])
def test_other_errors_of_the_system_pass_unchanged(tmp_path, whole):
    with pytest.raises(PermissionError, match="^not yours$"), whole(tmp_path / "table"):
        raise PermissionError("not yours")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize("whole", ["whole_file", "whole_folder"])
def test_killed_in_the_middle(tmp_path, whole):
    code = f"""if True:
        import os, signal, sys
        from lib import files
        with files.{whole}(sys.argv[1]) as partial:
            (partial if partial.is_file() else partial / "a").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "result")], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "result").exists()
    with getattr(files, whole)(tmp_path / "result") as partial:  # and the next one succeeds
        (partial if partial.is_file() else partial / "a").write_text("whole")
    assert (tmp_path / "result").exists()


def test_json_reads_back_as_plain_values(tmp_path):
    content = {"n": np.int64(3), "x": np.float32(0.5), "v": np.arange(2), "b": np.True_, "p": tmp_path, "ä": None}
    files.write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"n": 3, "x": 0.5, "v": [0, 1], "b": True, "p": str(tmp_path), "ä": None}
    assert text.endswith("\n")


def test_json_that_was_damaged_says_where_and_what_to_do(tmp_path):
    files.write_json(tmp_path / "a.json", {"x": 1})
    assert files.read_json(tmp_path / "a.json") == {"x": 1}
    (tmp_path / "a.json").write_text('{"x"')
    with pytest.raises(ValueError, match=r"a.json is damaged .* Delete .* and make it again"):
        files.read_json(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError):
        files.read_json(tmp_path / "b.json")
