"""The models of a variant of 04, checked: complete, named correctly, with equal settings, on the folds of their run.

All models are opened here: 05 uses them as judges, 06 and 10 read their scores, 08 their weights. Models that don't
belong together are refused. Missing models are listed with the commands that train them.

Conventions
-----------
home    : outputs/<run>, with folds.csv and 04_kfold/<variant>/without_2[_4].
single  : the models without one fold, `without_2`; together they score every clip once.
pairs   : the models without two folds, `without_2_4`.
sidecar : weights.json: the settings of a model and the folds that it did not see.

Used in: 04 to 06, 08 to 10.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from lib import settings
from lib.evaluation import folds
from lib.evaluation.folds import LeakError
from lib.evaluation.window_scores import WindowScores
from lib.files import digest, read_json
from lib.runs import oof
from lib.runs.recipes import BASE, papermill, unseeded
from lib.settings import Training
from lib.sound.features import LogMel
from lib.sound.windows import Windows
from lib.training.models import Network

__all__ = ["SHARED", "ModelSet", "WrongModel", "refuse_other_settings", "settings_digest"]

SHARED = ("classes", "audio", "windows", "network", "recipe", "folds")  # equal for all models of a variant
KINDS = {"audio": LogMel, "windows": Windows, "network": Network, "recipe": Training}
TRAINED_BY = {"folds": "04", "single": "04", "pairs": "05", "all": "06"}  # the notebook whose `make run` trains them


class WrongModel(LeakError, ValueError):
    """A model saw other folds or clips than the name of its folder states: using it could leak."""


@dataclass(frozen=True)
class ModelSet:
    """The models of a variant. `open` checks them; the constructor checks nothing.

    Attributes
    ----------
    home : outputs/<run>
    variant : of 04
    n_folds : of the run
    need : which models are used: single, pairs, all (both), or folds (no models, only the folds of the run)
    profile : named in the commands that train what is missing
    """

    home: Path
    variant: str
    n_folds: int
    need: str = "single"
    profile: str = ""

    @classmethod
    def open(
        cls, home: Path, variant: str, need: str, *, weights: bool = False, also: Iterable[str] = (), profile: str = ""
    ) -> "ModelSet":
        """Check that the models exist and belong together, and return them.

        Parameters
        ----------
        home, variant, need, profile : see the class
        weights : whether their weights are needed, not only their scores
        also : further files of the variant that are needed, such as pooled/result.json

        Raises
        ------
        FileNotFoundError
            Folds or models are missing; the message lists all of them, and the commands that make them.
        WrongModel
            A model saw other folds than its name states, or its folds are not those of the run; or a model of the base
            was not trained on the unchanged curated clips.
        ValueError
            Fewer than three folds where pair models are needed, or models with different settings.
        """
        models = cls(Path(home), variant, 0, need, profile)
        if not (place := models.home / "folds.csv").is_file():
            how = models._how([folds.model_name(0)])
            raise FileNotFoundError(f"{place} is not there: nothing of this run is trained yet. {how}")
        models = replace(models, n_folds=models.fold_table["fold"].nunique())
        if need in ("pairs", "all"):
            folds.check_pairs(models.n_folds)
        models._check_files(weights, also)
        models._check_names()
        models._check_settings()
        return models

    @property
    def folder(self) -> Path:
        """outputs/<run>/04_kfold/<variant>"""
        return self.home / "04_kfold" / self.variant

    @property
    def single(self) -> list[str]:
        return folds.single_models(self.n_folds)

    @property
    def names(self) -> list[str]:
        """Names of the models that are needed."""
        pairs = folds.pair_models(self.n_folds) if self.need in ("pairs", "all") else []
        return (self.single if self.need in ("single", "all") else []) + pairs

    @property
    def missing(self) -> list[int]:
        """The folds whose models, `without_2`, are not done."""
        return [f for f, name in enumerate(self.single) if not (self.folder / name / "result.json").is_file()]

    @property
    def configuration(self) -> dict[str, object]:
        """What the parts of the variant share (see `run`); empty if none was written."""
        path = self.folder / "configuration.json"
        return read_json(path) if path.is_file() else {}

    @cached_property
    def fold_table(self) -> pd.DataFrame:
        """The folds of the run: fname, group, fold, sorted by fname."""
        return folds.parse(self.home / "folds.csv").sort_values("fname", ignore_index=True)

    @cached_property
    def sidecars(self) -> dict[str, dict]:
        """The sidecar of each model that is needed."""
        return {name: read_json(self.folder / name / "weights.json") for name in self.names}

    @property
    def sidecar(self) -> dict:
        """The sidecar of the first model; the keys in SHARED are equal for all models."""
        return self.sidecars[self.names[0]]

    @property
    def identity(self) -> str:
        """12 hex digits that identify the weights of these models."""
        return digest(*[(self.folder / name / "weights.safetensors").read_bytes() for name in self.names])

    @property
    def scored(self) -> dict[str, str]:
        """Name of each model that is needed -> 12 hex digits that identify its window scores."""
        return {name: digest((self.folder / name / "oof_windows.npz").read_bytes()) for name in self.names}

    def clips(self, part: str = "pooled") -> oof.Clips:
        """Clip scores of one model or, for `pooled`, of all finished models without one fold; each clip once.

        Raises
        ------
        FileNotFoundError
            No such model is done; the message holds the commands.
        ValueError
            Two models score the same clip, or a file was damaged since it was written.
        """
        names, missing = (self.single, self.missing) if part == "pooled" else ([part], [])
        done = [name for fold, name in enumerate(names) if fold not in missing]
        if not any((self.folder / name / file).is_file() for name in done for file in ("clips.csv", "result.json")):
            raise FileNotFoundError(f"No fold is done in {self.folder}. {self._how(names)}")
        parts = [oof.read(self.folder / name) for name in done]
        table = pd.concat([clips.table for clips in parts]).sort_values("fname", ignore_index=True)
        if table["fname"].duplicated().any():
            raise ValueError(
                f"{self.folder}: clips are scored by more than one model, so its parts are of different folds. Train "
                "all of them again: -p overwrite True."
            )
        epochs = pd.concat([clips.epochs for clips in parts], ignore_index=True)
        return oof.Clips(table, parts[0].classes, epochs, missing)

    def labelled(self) -> pd.DataFrame:
        """Group, fold and labels of every clip; index fname, sorted.

        Raises
        ------
        ValueError
            The models scored clips in other folds than those of the run; and as `clips`.
        """
        clips = self.clips().table.set_index("fname")[["group", "fold", "labels"]]
        if not clips["fold"].equals(self.fold_table.set_index("fname")["fold"].reindex(clips.index)):
            raise ValueError(
                f"{self.folder} scored clips in other folds than those in folds.csv. Take another run (-p run NAME)."
            )
        return clips

    def windows(self, names: Collection[str]) -> WindowScores:
        """The window scores of some models, for all clips that they did not see.

        Raises
        ------
        LeakError
            A model scored a clip that it may have seen.
        ValueError
            The scored clips of a model are not exactly those of the folds that it did not see, or a file was damaged.
        """
        fold_of, parts = self.fold_table.set_index("fname")["fold"], []
        for name in names:
            place = self.folder / name
            parts.append(oof.read_windows(place, read_json(place / "weights.json")["recipe"]["loss"]))
            table = parts[-1].table
            seen = ~table["fold"].isin(folds.unseen(name)) | (fold_of.reindex(table["fname"]).values != table["fold"])
            if seen.any():
                raise LeakError(f"{place} scored {table['fname'][seen].iloc[0]}, which it may have seen.")
            if set(table["fname"]) != set(fold_of.index[fold_of.isin(folds.unseen(name))]):
                raise ValueError(f"{place} scored other clips than folds.csv lists. Train it again: -p overwrite True.")
        return WindowScores.join(parts)

    def _check_files(self, weights: bool, also: Iterable[str]) -> None:
        """FileNotFoundError if files are missing; it names the first one of each model, and what is to be deleted."""
        needed, lacks = ["result.json", *(["weights.safetensors"] if weights else []), "weights.json"], []
        for name in self.names:
            here = [f"{name}/{file}" for file in needed + (["clips.csv"] if name in self.single else [])]
            lacks += [file for file in here if not (self.folder / file).is_file()][:1]
        models = [file.partition("/")[0] for file in lacks]
        lacks += [file for file in also if not (self.folder / file).is_file()]
        if lacks:
            what = f"{self.folder} is not complete, it lacks {', '.join(lacks)}."
            if lost := [name for name in models if (self.folder / name / "result.json").is_file()]:
                what += f" Delete what counts as done but has lost a file: {', '.join(lost)}."
            raise FileNotFoundError(f"{what} {self._how(models)}")

    def _check_names(self) -> None:
        """WrongModel unless each model saw the folds that its name states, on the folds of the run."""
        mine = folds.digest(self.fold_table)
        for name, sidecar in self.sidecars.items():
            place, theirs = self.folder / name, sidecar["folds"]
            if set(sidecar["unseen_folds"]) != folds.unseen(name) or theirs != mine:
                raise WrongModel(
                    f"{place} doesn't belong to this run: it did not see folds {sidecar['unseen_folds']} of folds "
                    f"{theirs}, but is called {name} beside folds {mine}. Train it again: -p overwrite True."
                )
            if (trained_on := sidecar.get("trained_on", BASE)) != BASE and self.variant == BASE:
                raise WrongModel(
                    f"{place} was trained on {trained_on}, so it may have seen the clips that it would judge. "
                    f"{BASE} is the name of models trained on the unchanged curated clips: train those again (-p "
                    f"overwrite True), and give these another name (-p variant {trained_on})."
                )

    def _check_settings(self) -> None:
        """ValueError unless all models were made with the same settings."""
        for name, sidecar in self.sidecars.items():
            if differ := [key for key in SHARED if not _alike(key, _shared(sidecar, key), _shared(self.sidecar, key))]:
                raise ValueError(
                    f"{self.folder}: {name} and {self.names[0]} differ in {', '.join(differ)}. Train one of them "
                    "again: -p overwrite True."
                )

    def _how(self, names: list[str]) -> str:
        """The commands that train models, for a message."""
        run, profile = self.home.name, self.profile or "..."
        recipe, seed = unseeded(self.variant)
        if self.variant == BASE:
            held_out = [dict(zip(("fold", "holdout_fold"), sorted(folds.unseen(name)), strict=False)) for name in names]
            where = {"data_dir": "DATA", "run": run}
            lines = [papermill("04_kfold", self.profile or "PROFILE", **where, **which) for which in held_out]
            lines.append(f"make run NB={TRAINED_BY[self.need]} RUN={run} PROFILE={profile} DATA=...      (all at once)")
        elif seed or self.need in ("pairs", "all"):
            lines = [f"make run NB=10 RUN={run} PROFILE={profile} DATA=...      (with {recipe} among the candidates)"]
        else:
            lines = [
                f"make run RUN={self.variant} PROFILE=... DATA=... (an experiment), "
                f"or NB=05 RUN={run} (a training set of 05)"
            ]
        return "Make them first:\n" + "\n".join(lines)


def refuse_other_settings(sidecar: dict, run: str, given: Mapping[str, object]) -> None:
    """Raise ValueError if `given` (parameters) contradicts the audio, windows, network or loss of the weights of a run.

    Parameters
    ----------
    sidecar : of the weights
    run : its name
    """
    groups = [KINDS[key](**sidecar[key]).settings() for key in ("audio", "windows", "network")]
    own = {name: value for group in groups for name, value in group.items()} | {"loss": sidecar["recipe"]["loss"]}
    given = settings.check({name: given[name] for name in own if name in given and name in settings.KNOBS})
    differ = [f"{name}={value!r} (trained with {own[name]!r})" for name, value in given.items() if value != own[name]]
    if differ:
        raise ValueError(
            f"{', '.join(differ)}: scoring uses the settings of the weights of run {run!r}. Leave these parameters "
            "out, use the profile of that run, or train a run with the new ones."
        )


def settings_digest(sidecar: dict) -> str:
    """12 hex digits that identify what all models share: classes, audio, windows, network, recipe, folds, seed."""
    return digest({name: sidecar[name] for name in (*SHARED, "seed")})


def _shared(sidecar: dict, key: str) -> object:
    """A setting that all models of a variant share: of a training set not the epochs, which follow from its size."""
    value = sidecar.get(key)
    return value if key != "recipe" or sidecar.get("trained_on", BASE) == BASE else {**value, "epochs": 1}


def _alike(key: str, one: object, other: object) -> bool:
    """Whether a value of two sidecars is equal, after adding defaults for settings that an older version lacked."""
    if one == other or key not in KINDS:
        return one == other
    try:
        return KINDS[key](**one) == KINDS[key](**other)
    except (TypeError, ValueError):  # settings that this version lacks
        return False
