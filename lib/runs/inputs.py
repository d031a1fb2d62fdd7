"""Find the inputs of a run: at the path that was given, or among the inputs that Kaggle mounts for a kernel.

Standard library only.

Conventions
-----------
"kaggle" as a path : the data set, weights or folds are found among a kernel's inputs by their contents, not by a fixed
                  path, because Kaggle has moved its mounts. "kaggle@<digest>" names the packed run.

Used in: `run`, `recipes`, `journal`, `bundle`, `kaggle`.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import lib
from lib.files import digest

__all__ = ["IN_KERNEL", "MANIFEST", "ROOT", "find", "path"]

CODE = Path(lib.__file__).resolve().parents[1]
# A checkout has its outputs beside lib/. Code packed into a kernel has no checkout and uses the working folder.
IN_KERNEL = not (CODE / "pyproject.toml").is_file()
ROOT = Path.cwd() if IN_KERNEL else CODE
MANIFEST = "manifest.json"  # of a packed run
INPUT = Path("/kaggle/input")
DEPTH = 4  # levels below INPUT that are searched: datasets/<owner>/<slug>/<folder>
DATA_MARKERS = ("sample_submission.csv", "vocabulary.csv", "meta/esc50.csv", "clips.csv")  # one a layout of `datasets`


def path(name: str, key: str, root: Path = ROOT) -> Path:
    """An existing path, relative to the current folder or else to `root`, the workbook; or an input of a kernel.

    Parameters
    ----------
    name : the path, or "kaggle" or "kaggle@<digest>"
    key : the parameter that it comes from: data_dir, weights or folds_csv

    Raises
    ------
    FileNotFoundError
        There is no such path; and as `find`.
    """
    special, _, wanted = name.partition("@")
    if special == "kaggle":
        return find(key, wanted)
    for place in (Path(name).expanduser(), root / name):
        if place.exists():
            return place.absolute()  # a link to a table lies beside the audio that it names
    raise FileNotFoundError(f"{key}={name!r} is neither in {Path.cwd()} nor in {root}. Give its full path.")


def find(key: str, wanted: str = "", root: Path | None = None) -> Path:
    """The path of an input of a kernel.

    Parameters
    ----------
    key : data_dir (the folder of a data set), weights (of a packed run) or folds_csv (the file in a packed run)
    wanted : digest of the packed run; "": there must be exactly one
    root : where inputs are mounted; None: the environment's KERNEL_INPUT, or /kaggle/input

    Raises
    ------
    FileNotFoundError
        No folder fits, or several do; the message lists them.
    """
    root = Path(root or os.environ.get("KERNEL_INPUT") or INPUT)
    markers = DATA_MARKERS if key == "data_dir" else (MANIFEST,)
    folders = [folder for folder in _folders(root) if any((folder / marker).is_file() for marker in markers)]
    if key == "data_dir":
        folders = [folder.parent if folder.name == "FSDKaggle2019.meta" else folder for folder in folders]
        names = [str(folder) for folder in folders]
    else:
        packed = {folder: _packed(folder) for folder in folders}
        names = [f"{folder} ({run or 'no packed run'})" for folder, run in packed.items()]
        folders = [folder for folder, run in packed.items() if run and wanted in ("", run)]
    if len(folders) == 1:
        return folders[0] / "folds.csv" if key == "folds_csv" else folders[0]
    there = sorted(place.name for place in root.iterdir())[:10] if root.is_dir() else f"no folder {root}"
    what = f"holds {' or '.join(markers)}" + (f" of the packed run {wanted}" if wanted else "")
    raise FileNotFoundError(
        f"{len(folders)} folders below {root}, expected one that {what}. Found {names or there}. "
        "Attach the input to the kernel, or detach the others. A data set that was just pushed takes minutes to be "
        "processed, and an older version is mounted until then: wait, or pack and push both again."
    )


def _folders(root: Path) -> Iterator[Path]:
    """Folders below `root`, at most DEPTH levels deep, sorted by name."""
    for place, names, _ in os.walk(root):
        names.sort()
        if len(Path(place).relative_to(root).parts) >= DEPTH:
            names.clear()
        yield Path(place)


def _packed(folder: Path) -> str:
    """Digest of the packed run in a folder; "" if its manifest is not one of a packed run."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return digest(manifest) if "schema" in manifest and "files" in manifest else ""
    except (OSError, ValueError, TypeError):
        return ""
