"""What scoring needs from a run: the weights of all folds, the pooling or stage 2, and the out-of-fold scores.

It is gathered from a run folder (`gather`), or packed into a flat folder (`write`, `read`): the kaggle command skips
folders within a data set.

Conventions
-----------
packed folder : manifest.json, folds.csv and, with weights, without_<f>.safetensors with without_<f>.json for each fold,
                stage2.safetensors with stage2.json if the run chose a stage-2 model.
manifest      : schema, run, variant, files (name: SHA-256); with weights also parameters, models, classes (in order of
                submission), prior (share of training clips that have each class), n_train, choice (see `read_choice`),
                oof (metrics of the pooled out-of-fold scores), oof_per_class (name: lwlrap). It holds no times or
                paths: the same run gives the same bytes.
digest        : of the manifest, and so of every file. A kernel names its data set by this digest.

Used in: 08; `kaggle`.
"""

import csv
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from lib import settings
from lib.files import digest, read_json, write_json
from lib.runs import inputs
from lib.runs.inputs import MANIFEST
from lib.runs.modelset import SHARED, ModelSet, settings_digest
from lib.runs.run import Run

__all__ = ["SCHEMA", "Bundle", "gather", "of", "read", "read_choice", "write"]

POOLED = ("pooled/per_class.csv", "pooled/result.json")
SCHEMA = 1  # raise it when this code can no longer read older packed folders


@dataclass(frozen=True)
class Bundle:
    """The parts of a run that scoring needs.

    Attributes
    ----------
    manifest : see the module's conventions
    files : name in the packed folder -> path of the file now
    parts : the folders of the run that it was gathered from; () for a packed folder
    """

    manifest: dict
    files: dict[str, Path]
    parts: tuple[Path, ...] = ()

    @property
    def digest(self) -> str:
        return digest(self.manifest)

    @property
    def weights(self) -> list[Path]:
        """The files of the models' weights, in the order of their held-out folds."""
        return [self.files[f"{model}.safetensors"] for model in self.manifest["models"]]

    @property
    def stage2(self) -> Path | None:
        """The file of the chosen stage-2 model's weights; None if the run chose a pooling."""
        return self.files.get("stage2.safetensors")

    @property
    def prior(self) -> dict[str, float]:
        """Share of the training clips that have each class."""
        return dict(zip(self.manifest["classes"], self.manifest["prior"], strict=True))

    @property
    def sidecar(self) -> dict:
        """The settings that all models share: classes, audio, windows, network, recipe."""
        first = read_json(self.files[f"{self.manifest['models'][0]}.json"])
        return {name: first[name] for name in SHARED}


def gather(home: Path, variant: str, *, with_weights: bool = True) -> Bundle:
    """The bundle of a run folder.

    Parameters
    ----------
    home : outputs/<run>
    variant : of 04_kfold
    with_weights : False takes only the folds, for a notebook that trains

    Raises
    ------
    FileNotFoundError, ValueError, LeakError
        As `ModelSet.open`; or the scores were pooled before all folds were trained.
    """
    home, need = Path(home), "single" if with_weights else "folds"
    models = ModelSet.open(home, variant, need, weights=with_weights, also=POOLED if with_weights else ())
    files = {"folds.csv": home / "folds.csv"}
    manifest: dict = {"schema": SCHEMA, "run": home.name, "variant": variant}
    if with_weights:
        manifest |= {"models": models.names, **_facts(models), "choice": read_choice(models)}
        folders = {name: models.folder / name for name in models.names}
        if manifest["choice"]["kind"] == "stage2":
            folders["stage2"] = home / "06_stage2" / variant
        for name, folder in folders.items():
            files |= {f"{name}.{kind}": folder / f"weights.{kind}" for kind in ("safetensors", "json")}
    if lost := [str(path) for path in files.values() if not path.is_file()]:
        raise FileNotFoundError(f"{', '.join(lost)}: gone, though 06_stage2 is done. Run 06_stage2 again.")
    manifest["files"] = {name: _sha256(path) for name, path in sorted(files.items())}
    return Bundle(manifest, files, (models.folder,))


def of(run: Run) -> Bundle:
    """The bundle of a run, or the packed run that its parameter `weights` names. Raises as `gather` and `read`."""
    if run.params["weights"]:
        return read(inputs.path(str(run.params["weights"]), "weights"))
    return gather(run.home, str(run.params["variant"]))


def read_choice(models: ModelSet) -> dict:
    """How a run turns window scores into clip scores: the choice of 06, else the arithmetic mean.

    Parameters
    ----------
    models : those without one fold

    Returns
    -------
    kind : pooling or stage2
    method : a name in `pooling.POOLINGS` or in `stage2.MODELS`
    parameter : of a pooling that has one, else None
    and, from 06, lwlrap, lwlrap_low, lwlrap_high, n : the nested score of the selection, on folds without a part in it

    Raises
    ------
    FileNotFoundError
        06 is done, and its choice is gone.
    ValueError
        06 chose for models that have since been trained again.
    """
    path = models.home / "06_stage2" / models.variant / "choice.json"
    if not path.is_file():
        if path.with_name("result.json").is_file():
            raise FileNotFoundError(f"{path} is gone, though 06_stage2 is done. Run 06_stage2 again.")
        return {"kind": "pooling", "method": "mean", "parameter": None}
    choice = read_json(path)
    scored, differ = choice.pop("models", None), ""  # older choices don't name the models
    if choice.pop("settings") != settings_digest(models.sidecar):
        differ = "other settings"
    elif scored is not None and scored != models.scored:
        differ = "other scores"
    if differ:
        raise ValueError(
            f"{path} was chosen on scores of models with {differ} than the models in {models.home} have now. "
            "Run 06_stage2 again: -p overwrite True."
        )
    return choice


def write(packed: Bundle, folder: Path) -> None:
    """Copy all files into a flat folder, the manifest last."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in packed.files.items():
        shutil.copyfile(path, folder / name)
    write_json(folder / MANIFEST, packed.manifest)


def read(folder: Path) -> Bundle:
    """The bundle of a packed folder, checked.

    Raises
    ------
    FileNotFoundError
        There is no manifest, or a file that it lists is missing.
    ValueError
        The folder was packed by another version of the workbook, or a file has changed since.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"{folder} has no {MANIFEST}, so it is not a packed run. Make one: make kaggle RUN=...")
    manifest = read_json(folder / MANIFEST)
    if manifest.get("schema") != SCHEMA:
        raise ValueError(
            f"{folder} was packed with schema {manifest.get('schema')}, this code reads {SCHEMA}. "
            "Pack the run again (make kaggle) and push data set and kernel together."
        )
    files = {name: folder / name for name in manifest["files"]}
    if missing := [name for name, path in files.items() if not path.is_file()]:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}. Push the data set again, or wait until it is uploaded."
        )
    if changed := [name for name, path in files.items() if _sha256(path) != manifest["files"][name]]:
        raise ValueError(f"{folder}: {', '.join(changed)} changed after packing. Push the data set again.")
    return Bundle(manifest, files)


def _facts(models: ModelSet) -> dict:
    """Parameters, classes, prior and out-of-fold scores of a run, for the manifest."""
    folder = models.folder / "pooled"
    pooled = read_json(folder / "result.json")
    if not pooled["metrics"].get("complete", True):
        raise ValueError(f"{folder} was pooled before all folds were trained. Pool again: -p fold -1.")
    labels = models.labelled()["labels"]
    with open(folder / "per_class.csv", newline="", encoding="utf-8") as file:
        per_class = {row["class"]: float(row["lwlrap"]) for row in csv.DictReader(file) if row["lwlrap"]}
    return {
        "parameters": {k: v for k, v in pooled["parameters"].items() if k not in settings.PLACE},
        "classes": models.sidecar["classes"],
        "prior": [round(sum(name in names for names in labels) / len(labels), 6) for name in models.sidecar["classes"]],
        "n_train": len(labels),
        "oof": pooled["metrics"],
        "oof_per_class": per_class,
    }


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
