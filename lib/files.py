"""Files that are whole or not there.

A process can be killed, and a disk can fill, at any moment. What later work reads is therefore written under a
temporary name beside its place and renamed when it is complete: no half-written file is seen under its real name.

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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["digest", "read_json", "set_aside", "throw_away", "whole_file", "whole_folder", "write_json"]


def digest(*parts: object) -> str:
    """12 hex digits that name the given texts, bytes or JSON-able values, in their order."""
    state = hashlib.blake2b(digest_size=6)
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, default=_plain).encode()
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it takes the place of `path` when the block ends without an error.

    Raises
    ------
    OSError
        A full disk, with what to do; nothing is left behind.
    """
    path = Path(path)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        with _explained(path):
            yield partial
        partial.chmod(0o666 & ~_umask())  # mkstemp makes private files
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill; renamed to `path` at the end. If `path` came into being meanwhile, that one stays.

    Raises
    ------
    OSError
        A full disk, with what to do; nothing is left behind.
    """
    path = Path(path)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        with _explained(path):
            yield partial
        partial.chmod(0o777 & ~_umask())
        try:
            os.rename(partial, path)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_json(path: Path) -> dict:
    """What a JSON file of a run holds.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It was damaged, by whatever else than these runs: they write it whole.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Delete {path.parent} and make it again.") from error


def write_json(path: Path, content: object) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2, default=_plain) + "\n", encoding="utf-8")


def throw_away(folder: Path) -> None:
    """Remove a folder; renamed first, so that a kill half-way leaves no part of it under its name."""
    if folder.is_dir():
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent) as aside:
            folder.rename(Path(aside) / folder.name)


def set_aside(path: Path, outputs: Path) -> Path | None:
    """Move a folder or file below `outputs` to the first free place below outputs/replaced: where it lies now.

    None where a folder holds no finished result: it is removed, since nothing could read it.
    """
    if not path.is_file() and not any(path.rglob("result.json")):
        throw_away(path)
        return None
    places = (outputs / "replaced" / f"{number}" / path.relative_to(outputs) for number in range(1, 10_000))
    place = next(place for place in places if not place.exists())
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, place)
    return place


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say what a full disk means for the person in front of it."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free_mb = shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.exists())).free / 1e6
        raise OSError(
            error.errno,
            f"The disk is full ({free_mb:.0f} MB free) while writing {path}. Nothing half-written was left behind: "
            "free some space and start again; what was finished is kept.",
        ) from error


def _plain(value: object) -> object:
    """What JSON doesn't know: numpy's numbers and arrays as Python's, anything else as its text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
