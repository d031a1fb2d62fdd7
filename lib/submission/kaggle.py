"""A notebook as a Kaggle kernel: the notebook with this library inside, its metadata, and the data set of its weights.

The kaggle command checks little of what it is given (a title too long fails on the server as an error 500, a misspelt
key is passed over, the internet is on unless told otherwise), so both folders are checked here before a push.

Conventions
-----------
kernel folder   : <notebook>.ipynb, kernel-metadata.json. The notebook's second cell holds lib/ as a zip in base64 with
                  its SHA-256; the cell behind the parameters sets those of the run.
data set folder : a packed run (see `bundle`), dataset-metadata.json.
The same notebook, library, run and options give the same bytes.

Used by `make kaggle` for any notebook (python -m lib.submission.kaggle).
"""

import argparse
import base64
import hashlib
import io
import json
import re
import sys
import textwrap
import zipfile
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path

from lib import settings
from lib.files import whole_file, write_json
from lib.submission import bundle

__all__ = ["COMPETITION", "check", "main", "pack", "pack_notebook"]

COMPETITION = "freesound-audio-tagging-2019"
KERNEL, DATASET = "kernel-metadata.json", "dataset-metadata.json"
SLUG = r"[a-z0-9]+(-[a-z0-9]+)*"
LISTS = ("dataset_sources", "competition_sources", "kernel_sources", "model_sources", "keywords")
FLAGS = ("is_private", "enable_gpu", "enable_tpu", "enable_internet")
KERNEL_KEYS = {"id", "title", "code_file", "language", "kernel_type", *FLAGS, *LISTS}
DATASET_KEYS = {"id", "title", "licenses"}
READS = {  # notebooks that only read what others left in the run folder, which a kernel does not have
    "05_curation": "the scores of 04's pair models",
    "06_stage2": "the scores of 04's models and pair models",
    "09_journal": "the results of all other notebooks",
    "10_best": "the scores of 04's models and pair models",
}


def pack(
    notebook: Path,
    home: Path,
    values: dict[str, object],
    folder: Path,
    *,
    owner: str,
    variant: str = "curated",
    gpu: bool = False,
    sources: tuple[str, ...] = (),
) -> tuple[Path, Path]:
    """Write the kernel folder and the data set folder of a notebook and a run.

    Parameters
    ----------
    notebook : one that declares `weights` (08) gets those of all folds, any other the folds alone; those in READS and
        the parts of 04 that read the run folder are refused
    home : outputs/<run>
    values : parameters of the kernel; those that the notebook does not declare are passed over
    folder : two folders are written into it
    owner : Kaggle user name
    gpu : whether the kernel asks for one
    sources : further data sets ("owner/slug"); without any, the competition's files are attached

    Returns
    -------
    The kernel folder and the data set folder.

    Raises
    ------
    FileNotFoundError, ValueError
        The run is not complete (names what is missing), the notebook reads what a kernel does not have, or Kaggle would
        refuse the metadata (says why).
    """
    if not owner:
        raise ValueError("No owner: give your Kaggle user name (make kaggle OWNER=name).")
    content = json.loads(Path(notebook).read_text(encoding="utf-8"))
    declared = settings.declared(content)
    if read := _read_at_home(notebook.stem, {name: value for name, value in values.items() if name in declared}):
        raise ValueError(
            f"{notebook.stem} can't be packed: it reads {read}. They lie in outputs/{home.name}, and a kernel has no "
            "run folder. 01, 02, 03, 04, 07 and 08 can be packed. Bring their outputs back, and run this one here: "
            f"make run NB={notebook.stem[:2]} RUN={home.name} PROFILE=... DATA=..."
        )
    packed = bundle.gather(home, variant, with_weights="weights" in declared)
    fold = f" fold {values['fold']}" if "fold" in declared & values.keys() else ""
    kernel_slug = _slug(f"{home.name} {notebook.stem}{fold}")
    data_slug = _slug(f"{home.name} {variant} weights" if "weights" in declared else f"{home.name} folds")
    own = {"run": home.name, "variant": variant, "data_dir": "kaggle"}
    own |= dict.fromkeys(("weights", "folds_csv"), f"kaggle@{packed.digest}")
    kernel, data = Path(folder, kernel_slug), Path(folder, data_slug)
    for place in (kernel, data):  # nothing of an earlier packing stays
        for old in place.glob("*") if place.is_dir() else ():
            old.unlink()
    bundle.write(packed, data)
    write_json(
        data / DATASET, {"id": f"{owner}/{data_slug}", "title": _title(data_slug), "licenses": [{"name": "other"}]}
    )
    with whole_file(kernel / notebook.name) as partial:
        partial.write_text(pack_notebook(content, {**values, **own}), encoding="utf-8")
    metadata = {
        "id": f"{owner}/{kernel_slug}",
        "title": _title(kernel_slug),
        "code_file": notebook.name,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": gpu,
        "enable_tpu": False,
        "enable_internet": False,
        "dataset_sources": [f"{owner}/{data_slug}", *sources],
        "competition_sources": [] if sources else [COMPETITION],
        "kernel_sources": [],
        "model_sources": [],
        "keywords": [],
    }
    write_json(kernel / KERNEL, metadata)
    if problems := [problem for place in (kernel, data) for problem in check(place)]:
        raise ValueError("\n".join(problems))
    return kernel, data


def pack_notebook(content: dict, values: dict[str, object]) -> str:
    """The text of a notebook (parsed JSON) with the library and the parameters inside; outputs are dropped."""
    cells = [{**cell, "outputs": [], "execution_count": None} if _is_code(cell) else cell for cell in content["cells"]]
    at = next(i for i, cell in enumerate(cells) if "parameters" in cell["metadata"].get("tags", []))
    declared = settings.declared(content)
    lines = [f"{name} = {value!r}" for name, value in values.items() if name in declared]
    hidden = {"_kg_hide-input": True, "collapsed": True, "jupyter": {"source_hidden": True}, "tags": ["generated"]}
    cells.insert(at + 1, _cell("injected", "\n".join(lines), {"tags": ["injected-parameters"]}))
    cells.insert(at, _cell("library", _library(), hidden))
    return json.dumps({**content, "cells": cells}, indent=1, ensure_ascii=False) + "\n"


def check(folder: Path) -> list[str]:
    """What is wrong with a kernel folder or a data set folder, a sentence a fault; none: push it."""
    folder = Path(folder)
    for name, judge in ((KERNEL, _check_kernel), (DATASET, _check_dataset)):
        if (folder / name).is_file():
            try:
                metadata = json.loads((folder / name).read_text(encoding="utf-8"))
            except ValueError as error:
                return [f"{folder / name} is no JSON: {error}. Pack again."]
            return [f"{folder / name}: {problem}" for problem in judge(folder, metadata)]
    return [f"{folder} holds neither {KERNEL} nor {DATASET}. Pack it: make kaggle."]


def main(words: list[str]) -> int:
    """The command line behind `make kaggle`."""
    parser = argparse.ArgumentParser(
        prog="python -m lib.submission.kaggle", description="Pack a notebook and a run for Kaggle."
    )
    parser.add_argument("notebook", type=Path)
    parser.add_argument("home", type=Path, help="outputs/<run>")
    parser.add_argument("--owner", required=True, help="Kaggle user name")
    parser.add_argument("--profile", required=True, help="names of parameter files, one over the other")
    parser.add_argument("--variant", default="curated")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--sources", default="", help="data sets instead of the competition's files: owner/slug,...")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a parameter, such as fold=2")
    parser.add_argument("--folder", type=Path, required=True, help="where the two folders are written")
    given = parser.parse_args(words)
    from lib.runs.plan import Plan  # at home alone: a kernel has no pandas yet when this module finds its inputs

    try:
        values = Plan.read(given.profile, given.home.name).recipe(given.variant) | _typed(
            dict(word.split("=", 1) for word in given.set)
        )
        sources = tuple(filter(None, given.sources.split(",")))
        options = {"owner": given.owner, "variant": given.variant, "gpu": given.gpu, "sources": sources}
        kernel, data = pack(given.notebook, given.home, settings.check(values), given.folder, **options)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    slug = json.loads((kernel / KERNEL).read_text())["id"]
    kilobytes = sum(path.stat().st_size for path in kernel.iterdir()) // 1000
    megabytes = sum(path.stat().st_size for path in data.iterdir()) / 1e6
    sys.stdout.write(
        f"{kernel} ({kilobytes} kB) and {data} ({megabytes:.1f} MB) are packed and checked. Now:\n"
        f"  kaggle datasets create -p {data}      (later versions: kaggle datasets version -p {data} -m MESSAGE)\n"
        f"  kaggle kernels push -p {kernel}      (when the data set is ready: kaggle datasets status)\n"
        f"  kaggle kernels status {slug}\n"
    )
    return 0


def _read_at_home(notebook: str, values: dict[str, object]) -> str:
    """What a notebook with these parameters reads of a run folder; "" if nothing."""
    from lib.runs.plan import is_judged  # at home alone, as in `main`

    if is_judged({"train_windows": "all", "train_set": "curated", "ignore_missing": False} | values):
        return "what 05 selected"
    return "the scores of all folds" if values.get("fold") == -1 else READS.get(notebook, "")


def _library() -> str:
    """Source of the generated cell: lib/ as a zip in base64, checked, put first on the path of imports."""
    raw = _zipped(Path(__file__).resolve().parents[1])
    text = "\n".join(textwrap.wrap(base64.b64encode(raw).decode(), 116))
    return f'''# Generated by `make kaggle`: the workbook's lib/ as a zip, checked before use. To change it, pack again.
import base64 as _base64, hashlib as _hashlib, pathlib as _pathlib, sys as _sys, tempfile as _tempfile

_zip = _base64.b64decode("""
{text}
""")
if _hashlib.sha256(_zip).hexdigest() != "{hashlib.sha256(raw).hexdigest()}":
    raise ImportError("The library inside this notebook is damaged. Pack it again (make kaggle) and push that.")
_file = _pathlib.Path(_tempfile.mkdtemp(), "lib.zip")
_file.write_bytes(_zip)
_sys.path.insert(0, str(_file))'''


def _zipped(folder: Path) -> bytes:
    """The sources of lib/ as a zip that is the same whenever they are."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(folder.rglob("*.py")):
            entry = zipfile.ZipInfo(f"lib/{path.relative_to(folder).as_posix()}", (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr, entry.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
            archive.writestr(entry, path.read_bytes())
    return raw.getvalue()


def _cell(name: str, source: str, metadata: dict) -> dict:
    kind = {"cell_type": "code", "execution_count": None, "id": name, "metadata": metadata, "outputs": []}
    return {**kind, "source": source}


def _is_code(cell: dict) -> bool:
    return cell["cell_type"] == "code"


def _typed(words: dict[str, str]) -> dict[str, object]:
    """Values as typed on a command line: literals of Python where they are, else text."""
    typed: dict[str, object] = {}
    for name, word in words.items():
        try:
            typed[name] = literal_eval(word)
        except (ValueError, SyntaxError):
            typed[name] = word
    return typed


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _title(slug: str) -> str:
    """A title that Kaggle turns back into this slug."""
    return slug.replace("-", " ").capitalize()


def _check_names(metadata: dict, shortest: int) -> Iterator[str]:
    """Faults of id and title, which kernels and data sets have alike."""
    title, owner, slug = str(metadata.get("title", "")), *(str(metadata.get("id", "")).split("/") + [""])[:2]
    if str(metadata.get("id", "")).count("/") != 1 or not owner or not re.fullmatch(SLUG, slug):
        yield f"id {metadata.get('id')!r} must be owner/slug, the slug of small letters, digits and single hyphens."
    if not shortest <= len(title) <= 50:
        yield f"title {title!r} has {len(title)} characters, Kaggle takes {shortest} to 50. Shorten the run's name."
    if _slug(title) != slug:
        yield f"title {title!r} becomes {_slug(title)!r}, but id says {slug!r}: Kaggle would take another."


def _check_kernel(folder: Path, metadata: dict) -> Iterator[str]:
    yield from _check_names(metadata, 5)
    if unknown := sorted(set(metadata) - KERNEL_KEYS):
        yield f"unknown keys {unknown}: Kaggle would pass them over. Known are {', '.join(sorted(KERNEL_KEYS))}."
    for name in FLAGS:
        if not isinstance(metadata.get(name), bool):
            yield f"{name} is {metadata.get(name)!r}, write true or false: left out, the internet is on."
    if metadata.get("enable_internet") is True:
        yield "enable_internet is true: the competition takes kernels without it only. Set it to false."
    for name in LISTS:
        if not isinstance(metadata.get(name), list) or not all(isinstance(item, str) for item in metadata[name]):
            yield f"{name} is {metadata.get(name)!r}, expected a list of texts (a bare text is read letter by letter)."
    sources = metadata.get("dataset_sources")
    for source in sources if isinstance(sources, list) else ():
        if not re.fullmatch(rf"[^/\s]+/{SLUG}(/\d+)?", str(source)):
            yield f"dataset_sources holds {source!r}, expected owner/slug."
    if (metadata.get("language"), metadata.get("kernel_type")) != ("python", "notebook"):
        yield "language must be python and kernel_type notebook."
    code = folder / str(metadata.get("code_file", ""))
    if not code.is_file():
        yield f"code_file {metadata.get('code_file')!r} is not in the folder."
        return
    try:
        content = json.loads(code.read_text(encoding="utf-8"))
        if content["metadata"]["kernelspec"]["name"] != "python3" or not content["cells"]:
            yield f"{code.name} has no cells, or its kernel is not python3."
    except (ValueError, KeyError, TypeError) as error:
        yield f"{code.name} is no valid notebook ({type(error).__name__}: {error})."


def _check_dataset(folder: Path, metadata: dict) -> Iterator[str]:
    yield from _check_names(metadata, 6)
    if len(str(metadata.get("id", "")).rpartition("/")[2]) not in range(6, 51):
        yield f"the slug in id {metadata.get('id')!r} must have 6 to 50 characters."
    if unknown := sorted(set(metadata) - DATASET_KEYS):
        yield f"unknown keys {unknown}: known are {', '.join(sorted(DATASET_KEYS))}."
    licences = metadata.get("licenses")
    if not isinstance(licences, list) or len(licences) != 1:
        yield "licenses must hold exactly one licence."
    if folders := sorted(path.name for path in folder.iterdir() if path.is_dir()):
        yield f"holds the folders {folders}, which the kaggle command skips without a word. Keep it flat."
    try:
        bundle.read(folder)
    except (OSError, ValueError) as error:
        yield str(error)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
