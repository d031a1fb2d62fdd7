"""Packs a notebook as a Kaggle kernel: the notebook with lib/ inside, its metadata, and the data set of its weights.

The kaggle command checks little: a title that is too long fails on the server as an error 500, and a missing key turns
the internet on. So titles and names are checked here, and every key is written.

Conventions
-----------
kernel folder   : <notebook>.ipynb, kernel-metadata.json. The notebook's second cell holds lib/ as a zip in base64 with
                  its SHA-256; the cell after the parameters sets those of the run.
data set folder : a packed run (see `bundle`), dataset-metadata.json.
The same notebook, library, run and options give the same bytes.

Used in: `make kaggle` (python -m lib.submission.kaggle).
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
from collections.abc import Mapping
from pathlib import Path

from lib import ideas, settings
from lib.evaluation import folds
from lib.files import read_json, throw_away, whole_file, write_json
from lib.runs import inputs
from lib.runs.plan import Plan
from lib.runs.recipes import is_judged
from lib.submission import bundle

__all__ = ["COMPETITION", "main", "pack", "pack_notebook"]

COMPETITION = "freesound-audio-tagging-2019"
KERNEL, DATASET = "kernel-metadata.json", "dataset-metadata.json"
SOURCE = r"[^/\s]+/[a-z0-9]+(-[a-z0-9]+)*(/\d+)?"  # owner/slug, or owner/slug/version
OWN = ("run", "variant", "data_dir", "weights", "folds_csv")  # of a kernel: those of what is packed
READS = {  # notebooks that read results of other notebooks in the run folder, which a kernel does not have
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
    """Write the kernel folder and the data set folder for a notebook and a run.

    Parameters
    ----------
    notebook : one that declares `weights` (08) gets the weights of all folds, any other only the folds. Refused: the
        notebooks in READS, and the parts of 04 that read the run folder
    home : outputs/<run>
    values : parameters of the kernel; those that the notebook does not declare are ignored
    folder : the two folders are written into it
    owner : Kaggle user name
    variant : variant of 04_kfold whose weights and folds are packed
    gpu : whether the kernel asks for a GPU
    sources : data sets ("owner/slug") to attach in place of the competition's files

    Returns
    -------
    The kernel folder and the data set folder.

    Raises
    ------
    FileNotFoundError, ValueError
        The run is not complete, the notebook reads what a kernel does not have, or Kaggle would refuse the metadata.
        The message names what is missing or wrong.
    """
    if not re.fullmatch(r"[^/\s]+", owner):
        raise ValueError(f"owner {owner!r}: give your Kaggle user name (make kaggle OWNER=name).")
    if wrong := [source for source in sources if not re.fullmatch(SOURCE, source)]:
        raise ValueError(f"sources {wrong}: expected owner/slug, as in the address of a data set on Kaggle.")
    results = sorted(home.glob(f"04_kfold/{variant}/*/result.json"))
    made = [read_json(path).get("parameters", {}) for path in results[:1]]  # DATA=... is in no profile
    profiles = [str(one.get("profile", "")) for one in (*made, values)]
    if all(profiles) and len(set(profiles)) > 1:
        raise ValueError(f"{home} was made with PROFILE={profiles[0]}, not with {values['profile']}. Say that one.")
    tables = [place for one in (values, *made) if _is_table(place := str(one.get("data_dir", "")))]
    if tables and not sources:
        raise ValueError(
            f"data_dir={tables[0]!r} is a table, and the kernel would get the competition's clips in its place. Upload "
            "the table as clips.csv, with its audio, as a data set (kaggle datasets create), and name it: "
            "make kaggle SOURCES=owner/slug ..."
        )
    if notebook.stem == "00_scratch":
        raise ValueError("00_scratch can't be packed: it is for JupyterLab on this machine (make lab). Pack 04_kfold.")
    content = json.loads(Path(notebook).read_text(encoding="utf-8"))
    declared = settings.declared(content)
    if read := _reads_run(notebook.stem, {name: value for name, value in values.items() if name in declared}):
        raise ValueError(
            f"{notebook.stem} can't be packed: it reads {read}, from outputs/{home.name}. A kernel has no run folder. "
            "01, 02, 03, 04, 07 and 08 can be packed. Bring their outputs back, and run this notebook here: "
            f"make run NB={notebook.stem[:2]} RUN={home.name} PROFILE=... DATA=..."
        )
    packed = bundle.gather(home, variant, with_weights="weights" in declared)
    if "fold" in declared:
        n_folds = folds.parse(packed.files["folds.csv"])["fold"].nunique()
        folds.check_fold(values.get("fold", 0), values.get("holdout_fold", -1), n_folds)
    fold = f" fold {values['fold']}" if "fold" in declared & values.keys() else ""
    about = _named(owner, f"{home.name} {notebook.stem}{fold}", 5)
    about_data = _named(owner, f"{home.name} {variant} weights" if "weights" in declared else f"{home.name} folds", 6)
    own = dict.fromkeys(OWN, f"kaggle@{packed.digest}")
    own |= {"run": home.name, "variant": variant, "data_dir": "kaggle"}
    kernel, data = (Path(folder, named["id"].rpartition("/")[2]) for named in (about, about_data))
    for place in (kernel, data):
        throw_away(place)  # of an earlier packing
    bundle.write(packed, data)
    write_json(data / DATASET, {**about_data, "licenses": [{"name": "other"}]})
    with whole_file(kernel / notebook.name) as partial:
        used = ideas.sources([values, packed.sidecar if "weights" in declared else {}])
        partial.write_text(pack_notebook(content, {**values, **own}, used), encoding="utf-8")
    about |= {"code_file": notebook.name, "language": "python", "kernel_type": "notebook"}
    about |= {"is_private": True, "enable_gpu": gpu, "enable_tpu": False, "enable_internet": False}
    about |= {"dataset_sources": [about_data["id"], *sources], "competition_sources": [] if sources else [COMPETITION]}
    write_json(kernel / KERNEL, {**about, "kernel_sources": [], "model_sources": [], "keywords": []})
    return kernel, data


def pack_notebook(content: dict, values: dict[str, object], own: Mapping[str, bytes]) -> str:
    """The JSON text of a notebook (given as parsed JSON) with library, ideas and parameters inside, without outputs."""
    not_run = {"outputs": [], "execution_count": None}
    cells = [cell | not_run if cell["cell_type"] == "code" else cell for cell in content["cells"]]
    at = next(i for i, cell in enumerate(cells) if "parameters" in cell["metadata"].get("tags", []))
    declared = settings.declared(content)
    lines = [f"{name} = {value!r}" for name, value in values.items() if name in declared]
    hidden = {"_kg_hide-input": True, "collapsed": True, "jupyter": {"source_hidden": True}, "tags": ["generated"]}
    cells.insert(at + 1, _cell("injected", "\n".join(lines), {"tags": ["injected-parameters"]}))
    cells.insert(at, _cell("library", _library(own), hidden))
    return json.dumps({**content, "cells": cells}, indent=1, ensure_ascii=False) + "\n"


def main(words: list[str]) -> int:
    """The command line of `make kaggle`; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.submission.kaggle", description=pack.__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path, help="its path, or that path with the number alone: notebooks/04.ipynb")
    parser.add_argument("home", type=Path, help="outputs/<run>")
    parser.add_argument("--owner", required=True, help="Kaggle user name")
    parser.add_argument("--profile", required=True, help="names of parameter files; later ones overwrite earlier ones")
    parser.add_argument("--variant", default="curated")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--sources", default="", help="data sets instead of the competition's files: owner/slug,...")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a parameter, such as fold=2")
    parser.add_argument("--folder", type=Path, required=True, help="folder that receives the two folders")
    given = parser.parse_args(words)
    given.notebook = next(iter(sorted(given.notebook.parent.glob(f"{given.notebook.stem}*.ipynb"))), given.notebook)
    if not given.notebook.is_file():
        parser.error(f"there is no notebook {given.notebook.stem}. Say its number: make kaggle NB=08 ...")
    if not given.home.name or given.home.name == "outputs":
        parser.error("which run is to be packed? make kaggle RUN=name ...")
    try:
        values = Plan.read(given.profile, given.home.name).recipe(given.variant)
        values = {key: value for key, value in values.items() if key not in ("fold", "holdout_fold")}  # from --set only
        typed = dict(map(_typed, given.set))
        if taken := sorted(typed.keys() & set(OWN)):
            raise ValueError(
                f"SET={taken[0]}=...: a kernel's {', '.join(OWN)} are those of what is packed. Leave it out."
            )
        values = settings.check(values | typed)
        about = {"owner": given.owner, "variant": given.variant, "gpu": given.gpu}
        sources = tuple(filter(None, given.sources.split(",")))
        kernel, data = pack(given.notebook, given.home, values, given.folder, **about, sources=sources)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sizes = [sum(path.stat().st_size for path in folder.iterdir()) / 1e6 for folder in (kernel, data)]
    sys.stdout.write(
        f"{kernel} ({sizes[0]:.1f} MB) and {data} ({sizes[1]:.1f} MB) are packed. Now:\n"
        f"  kaggle datasets create -p {data}      (later versions: kaggle datasets version -p {data} -m MESSAGE)\n"
        f"  kaggle kernels push -p {kernel}      (when the data set is ready: kaggle datasets status)\n"
        f"  kaggle kernels status {given.owner}/{kernel.name}\n"
    )
    return 0


def _is_table(place: str) -> bool:
    """Whether a data_dir is a table of clips, or a folder that holds one."""
    folders = Path(place).expanduser(), inputs.ROOT / place
    return place.lower().endswith(".csv") or any((folder / "clips.csv").is_file() for folder in folders)


def _reads_run(notebook: str, values: dict[str, object]) -> str:
    """What a notebook with these parameters reads from the run folder; "" if nothing."""
    if is_judged(settings.defaults() | values):
        return "what 05 selected"
    return "the scores of all folds" if values.get("fold") == -1 else READS.get(notebook, "")


def _library(own: Mapping[str, bytes]) -> str:
    """Source of the generated cell: it checks lib/ (a zip in base64) and puts it first on the import path."""
    raw = _zipped(Path(__file__).resolve().parents[1], own)
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


def _zipped(folder: Path, own: Mapping[str, bytes]) -> bytes:
    """The sources of lib/ and of the ideas as a zip; the same sources give the same bytes."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".csv"))
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths} | dict(own)
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(f"lib/{name}", (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr, entry.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
            archive.writestr(entry, content)
    return raw.getvalue()


def _cell(name: str, source: str, metadata: dict) -> dict:
    kind = {"cell_type": "code", "execution_count": None, "id": name, "metadata": metadata, "outputs": []}
    return {**kind, "source": source}


def _typed(word: str) -> tuple[str, object]:
    """Name and value of "name=value"; the value is read as a Python literal, else as text."""
    name, _, text = word.partition("=")
    try:
        return name, literal_eval(text)
    except (ValueError, SyntaxError):
        return name, text


def _named(owner: str, text: str, shortest: int) -> dict[str, str]:
    """Id and title of a kernel or data set. Raises ValueError if Kaggle would refuse the title (as an error 500)."""
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    title = slug.replace("-", " ").capitalize()  # Kaggle makes the same slug from this title
    if not shortest <= len(title) <= 50:
        what = "Shorten" if len(title) > 50 else "Lengthen"
        raise ValueError(
            f"title {title!r} has {len(title)} characters, Kaggle allows {shortest} to 50. {what} the run's name."
        )
    return {"id": f"{owner}/{slug}", "title": title}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
