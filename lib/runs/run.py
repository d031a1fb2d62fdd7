"""Runs: checked parameters, seeds, the folder of a run, and what is written there.

Conventions
-----------
outputs/<run>/<notebook>/<part>/ holds one result. `result.json` is written last, completely or not at all: a part with
it is done. `manifest.json`, written just before, holds what may differ between two equal runs (commit, digest of the
code, versions, seconds) and what was read. `configuration.json` beside the parts of a variant holds what they share:
parameters, and digests of labels, groups, audio and folds. The first result fixes it; a part with another one is
refused.

Used in: every notebook.
"""

import contextlib
import os
import platform
import random
import subprocess
import time
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import Image, display

from lib import code, ideas, settings
from lib.data import datasets, demo
from lib.evaluation import folds
from lib.files import read_json, set_aside, whole_file, write_json
from lib.runs import inputs, recipes
from lib.runs.inputs import IN_KERNEL, ROOT
from lib.sound import cache as caches
from lib.sound.features import LogMel
from lib.training.task import Task

__all__ = ["IN_KERNEL", "ROOT", "Run", "already", "seed_everything", "start"]

PACKAGES = ("fastai", "librosa", "numpy", "pandas", "safetensors", "scikit-learn", "timm", "torch")
SCHEMA = 2  # of result.json; in the first, `conclusion` was called `says`
LITERAL = (bool, int, float, str, list, tuple, dict, type(None))


@dataclass
class Run:
    """One execution of a notebook: parameters, folder, and what it writes.

    Attributes
    ----------
    folder : of this part
    variant : the folder whose parts share one configuration; `folder` itself or a folder above it
    read : digests of labels, audio and folds (and what else was read), from `settle`
    is_trial : whether it is one training of an experiment
    configuration : from `settle`
    other_code : the parts read that were made by other code than is here now, from `settle`
    """

    notebook: str
    params: dict[str, object]
    folder: Path
    variant: Path
    read: dict[str, object] = field(default_factory=dict)
    started: float = field(default_factory=time.time)
    is_trial: bool = False
    configuration: dict[str, object] = field(default_factory=dict)
    other_code: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """outputs/<run>"""
        return ROOT / "outputs" / str(self.params["run"])

    @property
    def cache(self) -> Path:
        """outputs/cache, shared by all runs"""
        return ROOT / "outputs" / "cache"

    @property
    def checkpoint(self) -> Path:
        """The file that a killed training of this part continues from; `finish` removes it."""
        return self.folder / "checkpoint.safetensors"

    @property
    def done(self) -> bool:
        """Whether this part is finished (a pooled part: with all folds)."""
        path = self.folder / "result.json"
        result = read_json(path) if path.is_file() else {}
        return "metrics" in result and result["metrics"].get("complete", True)

    def pick(self, group: type) -> object:
        """A group of settings (`LogMel`, `Windows` ...), with the run's parameters of the same names."""
        return group(**{f.name: self.params[f.name] for f in fields(group) if f.name in self.params})

    def data_dir(self) -> Path:
        """The folder of the data set. `demo` is synthesised if it does not exist; `kaggle` is found in a kernel.

        Raises
        ------
        FileNotFoundError
            As `inputs.path`.
        """
        name = str(self.params["data_dir"])
        if name == "demo":
            return demo.make(ROOT / "outputs" / "demo-data")
        return inputs.path(name, "data_dir", ROOT)

    def folds(self, clips: pd.DataFrame, targets: np.ndarray) -> pd.DataFrame:
        """The folds of this run, shared by all its notebooks: outputs/<run>/folds.csv, made by the first one.

        Parameters
        ----------
        clips : the curated clips
        targets : (n_clips, n_classes), in the order of clips

        Raises
        ------
        ValueError
            `folds_csv` with another number of folds than n_folds; and as `folds.read`, `folds.make` and `folds.settle`.
        """
        if self.params["folds_csv"]:
            table = folds.read(inputs.path(str(self.params["folds_csv"]), "folds_csv", ROOT), clips)
            if (n := table["fold"].nunique()) != self.params["n_folds"]:
                asked = f"n_folds={self.params['n_folds']}"
                raise ValueError(f"{asked}, but folds_csv={self.params['folds_csv']!r} holds {n}. Set n_folds to that.")
        else:
            table = folds.make(clips, targets, self.params["n_folds"], folds.SEED)
        path = self.home / "folds.csv"
        try:
            return folds.settle(path, table)
        except ValueError:
            made = [file.parent for file in self.home.rglob("configuration.json") if "folds" in read_json(file)]
            if any(next(part.rglob("result.json"), None) for part in made):
                raise
        path.unlink(missing_ok=True)  # nothing was finished with it
        return folds.settle(path, table)

    def task(self, subsets: Collection[str] = ("curated",)) -> Task:
        """The clips of these subsets, their log-mels, and the folds of the curated clips.

        Clips that can't be used are left out and listed in `Task.data.problems`; with `strict` they raise an error.

        Raises
        ------
        FileNotFoundError, ValueError
            As `datasets.load`, `cache.build` and `Run.folds`.
        """
        strict = self.params["strict"]
        data = datasets.load(self.data_dir(), strict=strict, esc10_only=self.params["esc10_only"])
        clips = data.clips[data.clips["subset"].isin(subsets)]
        store = caches.build(clips, self.pick(LogMel), self.cache)
        data = data.without(store.problems, strict=strict)
        data = replace(data, clips=data.clips[data.clips["subset"].isin(subsets)].reset_index(drop=True))
        curated = data.clips[data.clips["subset"] == "curated"]
        return Task(data, self.folds(curated, datasets.targets(curated, data.classes)), store)

    def trial(self, variant: str, model: str, seed: int, **changes: object) -> "Run":
        """One training of an experiment: a run of its own in <notebook>/<variant>/<model>/seed_<seed>.

        Parameters
        ----------
        variant : name in the table of the experiment
        model : name by the folds that it does not see, such as without_2
        changes : parameters that differ from those of this run
        """
        params, own = settings.check({**self.params, **changes, "seed": seed}), self.variant / variant
        folder = own / model / f"seed_{seed}"
        return replace(self, params=params, folder=folder, variant=own, read={}, started=time.time(), is_trial=True)

    def settle(self, *made_of: Path, **read: object) -> None:
        """Write the configuration of this variant, its parameters and what it `read`, or check that it is the same.

        With `overwrite`, this part and the pooled one are moved to outputs/replaced; all parts of the variant are, if
        their configuration differs. An experiment is moved only if it differs, since each of its trials calls this too.

        Parameters
        ----------
        made_of : folders of variants that this part reads
        read : digests of what was read: by subset (`labels`, `audio`), or one digest (`folds` ...)

        Warns
        -----
        UserWarning
            This part, or one that it reads, was made by other code than is here now.

        Raises
        ------
        ValueError
            The variant was made with another configuration, or a variant that it reads was made from other labels,
            audio or folds; the message names the differences and the ways out.
        """
        self.read, outputs = read, ROOT / "outputs"
        for folder in made_of:
            theirs = read_json(folder / "configuration.json") if (folder / "configuration.json").is_file() else {}
            if differ := recipes.other_data(theirs, read):
                raise ValueError(
                    f"{folder} was made from other data ({differ}). Make it and all that depends on it again: make run "
                    f"RUN={self.params['run']} PROFILE=... DATA=... AGAIN=1 (the old results are kept in "
                    "outputs/replaced). Or take another name: -p run NAME."
                )
        mine = {**settings.configuration(self.params), **read}
        path = self.variant / "configuration.json"
        is_bound = path.is_file() and any(self.variant.rglob("result.json"))
        theirs = read_json(path) if is_bound else mine
        known = mine.keys() | settings.RECIPE  # drop knobs that were in a recipe once and no longer are
        theirs = {name: value for name, value in theirs.items() if name in known or name not in settings.KNOBS}
        # an older version may not have noted all that is read now: nobody knows what it was then
        noted = {name: value for name, value in mine.items() if name in theirs or name not in read}
        differ = recipes.differences(theirs, noted)
        if self.params["overwrite"]:
            experiment = self.folder == self.variant and {"seeds", "tabulate"} <= self.params.keys()
            part = [] if experiment else [self.folder]
            for made in [self.variant] if differ else [*part, self.variant / "pooled"]:
                set_aside(made, outputs)
        elif differ:
            names = " or ".join(f"-p {name} NAME" for name in ("variant", "run") if name in self.params)
            raise ValueError(
                f"{self.variant} was made with another configuration ({differ}). Give this one a name of its own "
                f"({names}), or make that one again with all its folds (-p overwrite True; the "
                "old one is kept in outputs/replaced)."
            )
        self.configuration = mine if differ else noted
        write_json(path, self.configuration)
        self.folder.mkdir(parents=True, exist_ok=True)
        mine_too = self.variant if self.folder.name == "pooled" else self.folder
        self.other_code = code.by_other_code([mine_too, *made_of], outputs)
        if self.other_code and not self.is_trial:  # the run of its experiment has warned already
            names = ", ".join(self.other_code[:5]) + (f" and {n} more" if (n := len(self.other_code) - 5) > 0 else "")
            warnings.warn(
                f"Made by other code than is here now: {names}. It is used as it is; -p overwrite True (or make run "
                "with AGAIN=1) makes it again.",
                stacklevel=2,
            )

    def check_unchanged(self) -> None:
        """ValueError if another call has changed the configuration since `settle`; call it before weights are saved."""
        there = self.variant / "configuration.json"
        if self.configuration and (differ := recipes.differences(read_json(there), self.configuration)):
            raise ValueError(f"{there} was changed meanwhile ({differ}). Start this part again.")

    def save_table(self, name: str, table: pd.DataFrame) -> pd.DataFrame:
        """Write a table as CSV into the folder of this part, and return it for display."""
        with whole_file(self.folder / f"{name}.csv") as partial:
            table.to_csv(partial, index=False)
        return table

    def save_figure(self, name: str, figure: object) -> None:
        """Write a matplotlib figure as PNG into the folder of this part, and show it below the cell."""
        from matplotlib import pyplot  # here: whoever draws has imported it already

        path, quick = self.folder / f"{name}.png", {"compress_level": 1}  # a fifth larger, in a quarter of the time
        how = {"format": "png", "dpi": 110, "bbox_inches": "tight", "metadata": {"Software": None}}
        with whole_file(path) as partial:
            figure.savefig(partial, pil_kwargs=quick, **how)
        pyplot.close(figure)  # else Jupyter shows it twice
        display(Image(filename=path, alt=name))

    def finish(
        self, metrics: dict[str, float], verdict: str | None, conclusion: str, *, again: bool = False, **facts: object
    ) -> str:
        """Write manifest.json, copies of ideas and, last, result.json; a part that is done keeps its files.

        Parameters
        ----------
        metrics : name -> number
        verdict : kept, dropped or unclear; measured where nothing is compared; None where there is no verdict yet
        conclusion : sentences built from the measured values; the parameter `note` is added at the end
        again : write even if the part is done, for a summary of results of which there may be more now
        facts : further entries of the manifest, such as the clips of the fit

        Returns
        -------
        A line with the folder, and the note

        Warns
        -----
        UserWarning
            The part is done, and its result says something else.

        Raises
        ------
        ValueError
            The configuration of the variant was changed meanwhile.
        """
        note, path = str(self.params.get("note", "")), self.folder / "result.json"
        self.check_unchanged()
        result = {"schema": SCHEMA, "notebook": self.notebook, "parameters": self.params, **self.read}
        result |= {"metrics": {name: _plain(value) for name, value in metrics.items()}}
        result |= {"verdict": verdict, "conclusion": f"{conclusion} {note}".strip()}
        if again or not self.done:
            manifest = {**_surroundings(), "code": code.digest(self.notebook), "other_code": self.other_code}
            manifest |= {"seconds": round(time.time() - self.started, 1), "read": self.read, **facts}
            write_json(self.folder / "manifest.json", manifest)
            for file, content in ideas.sources(self.params).items():
                (self.folder / file).parent.mkdir(exist_ok=True)
                (self.folder / file).write_bytes(content)
            write_json(path, result)
        elif any(read_json(path).get(name) != result[name] for name in ("metrics", "conclusion")):
            warnings.warn(f"{path} keeps what it said before: -p overwrite True makes it again.", stacklevel=2)
        for checkpoint in self.folder.glob("checkpoint.*"):
            checkpoint.unlink()
        return f"{self.notebook} is done: {os.path.relpath(self.folder)}" + f". {note}" * bool(note)


def start(namespace: dict[str, object], notebook: str) -> Run:
    """Check the parameters in a notebook's namespace, seed everything, choose the folder. It writes nothing.

    On the first call, every public plain value in the namespace must be a parameter of the workbook, so a typo such as
    `-p fodl 2` is refused. Later calls in the same kernel ignore the notebook's other variables. The run has the
    parameters that the parameters cell declares (`name: type = literal`).

    Parameters
    ----------
    namespace : the notebook's globals()
    notebook : its name, such as "04_kfold"

    Raises
    ------
    ValueError
        A parameter that is misspelt, of a wrong type or out of range; a fold and holdout_fold that name no model; the
        base's name for another training set (`recipes.check_base`).
    """
    before = namespace.get("_started", {})  # `run = start(...)` has taken the name of a parameter
    named = {
        name: value
        for name, value in namespace.items()
        if isinstance(value, LITERAL) and not name.startswith(("_", "PAPERMILL_")) and name not in ("In", "Out")
    }
    params = settings.check({k: v for k, v in named.items() if not before or k in settings.KNOBS})
    declared = namespace.get("__annotations__") or params  # a profile also holds keys of other notebooks: passed over
    params = {name: value for name, value in params.items() if name in declared}
    namespace.update(params)  # the notebook reads them too, and `lr: 1e-3` came as text
    recipes.check_base(params)
    params = namespace["_started"] = before | params
    folder = variant = ROOT / "outputs" / str(params["run"]) / notebook
    if "variant" in params:
        folder = variant = variant / str(params["variant"])
    if "fold" in params:
        which = params["fold"], params.get("holdout_fold", -1)
        folder = variant / ("pooled" if which == (-1, -1) else folds.model_name(*which))
    if "part" in params:  # of 05: select comes before compare
        done = (folder / "select" / "result.json").is_file()
        params["part"] = {"auto": "compare" if done else "select"}.get(params["part"], params["part"])
        folder = variant = folder / str(params["part"])
    if not params.get("tabulate", True):  # one job of an experiment, with a folder of its own
        held_out, seeds = params["folds"], params.get("seeds", [params["seed"]])
        if len(held_out) != 1 or len(seeds) != 1:
            raise ValueError("tabulate=False is for a job of one fold and one seed: -p folds 2 -p seeds 1.")
        folder = variant / "trials" / f"{folds.model_name(held_out[0])}_seed_{seeds[0]}"
    seed_everything(params["seed"])
    code.digest(notebook)  # of the code as it is now: it is remembered, whatever is edited while the notebook runs
    pd.set_option("display.precision", 3, "display.max_colwidth", 120)  # of tables in notebooks
    return Run(notebook, params, folder, variant)


def already(parts: Sequence[Run]) -> str:
    """A sentence about trainings that were already done: when, on which machine, and their folder."""
    manifests = [read_json(part.folder / "manifest.json") for part in parts]
    minutes = [manifest["finished"][:16].replace("T", " ") for manifest in manifests]
    when = " to ".join(dict.fromkeys([min(minutes), max(minutes)]))
    machines = ", ".join(sorted({manifest["device"] for manifest in manifests}))
    where = os.path.relpath(os.path.commonpath([part.folder for part in parts]))
    were = "training was" if len(parts) == 1 else "trainings were"
    return f"{len(parts)} {were} done already, on {when} ({machines}), read from {where}."


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch, and switch torch to deterministic algorithms, on a GPU too."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else matrix products on CUDA vary from run to run
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_deterministic_debug_mode("warn")  # as use_deterministic_algorithms, which imports the compiler: a second


def _surroundings() -> dict[str, object]:
    """For the manifest: code, versions, machine, time."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "device": device,
        "threads": torch.get_num_threads(),
        "versions": versions,
    }


def _git(*words: str) -> str:
    """The output of git, or "" outside a checkout."""
    try:
        return subprocess.check_output(["git", *words], cwd=ROOT, text=True, stderr=subprocess.DEVNULL).strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _plain(value: object) -> object:
    """A plain Python number for JSON; NaN and infinity become None."""
    number = np.asarray(value).item()
    return number if np.isfinite(number) else None
