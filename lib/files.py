"""Writes files and folders whole or not at all.

A process can be killed, and a disk can fill, at any moment. So a file is written under a temporary name in its folder,
and renamed when it is complete: a half-written file never has its final name.

Conventions
-----------
Temporary names start with "." and end in ".partial". A digest is 12 hex digits of BLAKE2b.

Used in: every module that writes.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["digest", "explained", "read_json", "set_aside", "throw_away", "whole_file", "whole_folder", "write_json"]


def digest(*parts: object) -> str:
    """12 hex digits computed from texts, bytes or values that JSON can hold, in their order."""
    state = hashlib.blake2b(digest_size=6)
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, default=_plain).encode()
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Add what to do to the error of a full disk, or of a folder that can't be written to."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            where = Path(path).absolute().parent
            words = f"{where} can't be written to ({os.strerror(error.errno)}). Make it writable and start again."
        elif error.errno in (errno.ENOSPC, errno.EDQUOT):
            folders = Path(path).absolute().parents
            free_mb = shutil.disk_usage(next(folder for folder in folders if folder.exists())).free / 1e6
            words = (
                f"The disk is full ({free_mb:.0f} MB free) while writing {path}. No partial file is left: "
                "free some space and start again; finished results are kept."
            )
        else:
            raise
        raise OSError(error.errno, words) from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it replaces `path` when the block ends without an error.

    Raises
    ------
    OSError
        As `explained`; no partial file is left.
    """
    partial = _partial(path)
    try:
        with explained(path):
            partial.parent.mkdir(parents=True, exist_ok=True)
            partial.touch()
            yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill; it is renamed to `path` at the end. If `path` exists by then, that folder stays.

    Raises
    ------
    OSError
        As `explained`; no partial file is left.
    """
    partial = _partial(path)
    try:
        with explained(path):
            partial.mkdir(parents=True)
            yield partial
        try:
            os.rename(partial, path)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_json(path: Path) -> dict:
    """The content of a JSON file of a run.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file is damaged. The workbook itself writes it whole.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Delete {path.parent} and make it again.") from error


def write_json(path: Path, content: object) -> None:
    """Write `content` as indented JSON, as `whole_file`."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2, default=_plain) + "\n", encoding="utf-8")


def throw_away(folder: Path) -> None:
    """Remove a folder. It is renamed first, so if the process is killed, no part of it is left under its name."""
    if folder.is_dir():
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent) as aside:
            folder.rename(Path(aside) / folder.name)


def set_aside(path: Path, outputs: Path) -> Path | None:
    """Move a folder or file below `outputs` to the first free place below outputs/replaced, and return its new path.

    A folder without a finished result is removed instead, since nothing could read it; then the return value is None.
    """
    if not path.is_file() and not any(path.rglob("result.json")):
        throw_away(path)
        return None
    places = (outputs / "replaced" / f"{number}" / path.relative_to(outputs) for number in range(1, 10_000))
    place = next(place for place in places if not place.exists())
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, place)
    return place


def _partial(path: Path) -> Path:
    """A temporary name beside `path`; no two processes get the same one."""
    path = Path(path)
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")


def _plain(value: object) -> object:
    """For types that JSON doesn't know: numpy numbers and arrays as Python's, anything else as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
