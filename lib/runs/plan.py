"""The plan of a run: its results, the notebook and the parameters that make each, and what it needs before.

The Snakefile asks it and snakemake does the rest; nothing here schedules, retries or resumes.

Conventions
-----------
target : the result.json of a part, a path below outputs/ relative to the workbook. It is written last and means done.
layers : parameter files, each over the one before: those of `profile`, then params/<run>.yaml if there is one, which
         may name a `run` and a `variant` of its own: then it is an experiment, laid over the file of that run.
Light imports only: every job of a cluster reads the Snakefile again.

Used in: Snakefile, `pipeline`, `kaggle`, `pages`.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lib import settings
from lib.data import datasets
from lib.evaluation import folds
from lib.files import read_json, set_aside
from lib.runs import changes, recipes
from lib.runs.recipes import BASE, VARIANTS

__all__ = ["ROOT", "Plan"]

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("profile", "run", "data_dir")  # what a profile says itself: by default they are those of the demo run
SPREAD = 2  # trainings of an experiment that stay in one kernel; more are spread over jobs, by fold and seed


@dataclass(frozen=True)
class Plan:
    """What the `layers` of parameter files define.

    Attributes
    ----------
    params : of the run, all layers over the defaults, but for a knob whose default is not the same in all notebooks
    base : of its base variant: without the last layer, where that is an experiment
    variant : of 04 that is asked for
    """

    params: dict[str, object]
    base: dict[str, object]
    variant: str

    @classmethod
    def read(cls, profile: str = "demo", run: str = "", data_dir: str = "") -> "Plan":
        """The plan of a run.

        Parameters
        ----------
        profile : names of parameter files, one over the other
        run : folder under outputs/; empty: as the files say
        data_dir : folder or table of the data set; empty: as the files say

        Raises
        ------
        FileNotFoundError, ValueError
            As `settings.load_profile` and `settings.check`; a run whose name snakemake would take for a number;
            layers that are no complete profile; as `recipes.check_base`.
        """
        own = ROOT / "params" / f"{run}.yaml"
        layers = [ROOT / "params" / f"{name}.yaml" for name in profile.split()]
        layers += [own] if run and own.is_file() and own not in layers else []
        read = [settings.load_profile(layer) for layer in layers]
        is_demo = any(layer.stem == "demo" for layer in layers)  # whose file says nothing: it is the defaults
        its_run = ROOT / "params" / f"{read[-1].get('run', '')}.yaml" if read else own
        if its_run.is_file() and its_run not in layers:  # an experiment lies over the run that it belongs to
            layers.insert(-1, its_run)
            read.insert(-1, settings.load_profile(its_run))
        typed = {"data_dir": data_dir} if data_dir else {}
        said = {name: value for layer in read for name, value in layer.items()} | typed
        if run and "run" not in (read[-1] if own in layers else {}):
            said["run"] = run
        params = settings.check(settings.defaults() | said)
        if re.fullmatch(r"(?i)[\d_.e+-]+|true|false|none|null", str(params.get("run", ""))):
            raise ValueError(f"run={params['run']!r} would be read as a number or a constant. Begin it with a word.")
        if missing := [name for name in NEEDED if name not in said and not is_demo]:
            raise ValueError(
                f"PROFILE={profile!r} is no complete profile: it lacks {', '.join(missing)}. Put the profile that it "
                f"changes first, such as PROFILE='esc10 {profile}', or add these keys to it (what else it lacks is as "
                "in the demo run)."
            )
        variant = str(params.pop("variant"))
        below = {name: value for layer in read[:-1] for name, value in layer.items()}
        base = params if variant == BASE else {**settings.defaults(), **below, **typed, "run": params["run"]}
        recipes.check_base({**base, "variant": BASE})
        return cls(params, base, variant)

    @cached_property
    def subsets(self) -> frozenset[str]:
        """Of the data set, those with audio: curated, noisy, test; raises as `datasets.load`."""
        return _subsets(str(self.params["data_dir"]))

    @property
    def home(self) -> str:
        return f"outputs/{self.params['run']}"

    @property
    def models(self) -> list[str]:
        """Models without one fold."""
        return folds.single_models(self.params["n_folds"])

    @property
    def pairs(self) -> list[str]:
        """Models without two folds."""
        return folds.pair_models(self.params["n_folds"])

    @property
    def retrained(self) -> list[str]:
        """Variants that 05 compares with the base: `recipes.compared`."""
        return recipes.compared(self.base["retrain"], self.base["loss"], self.subsets)

    def is_retrained(self, variant: str) -> bool:
        """Whether a variant, of whatever seed, is trained on what 05 has selected."""
        return recipes.is_judged(self.values("04_kfold", variant))

    def target(self, *parts: str) -> str:
        return "/".join([self.home, *parts, "result.json"])

    def kfold(self, variant: str, models: list[str]) -> list[str]:
        return [self.target("04_kfold", variant, model) for model in models]

    @property
    def raced(self) -> dict[str, list[str]]:
        """Variants of 04 that 10 reads, and their models: of a recipe all, of its further seeds those without one fold.

        Raises
        ------
        ValueError
            A recipe that is neither the base nor a training set of 05 nor an experiment.
        """
        found, seed = {}, self.base["seed"]
        for recipe in recipes.of_candidates(self.base["candidates"]):
            if recipe not in (BASE, *VARIANTS) and not _experiment(recipe):
                what = f"no training set of 05, and no params/{recipe}.yaml says `variant: {recipe}`"
                raise ValueError(f"candidates: {recipe!r} is {what}.")
            found[recipe] = self.models + self.pairs
            for more in range(seed + 1, seed + self.base["repeats"]):
                found[recipes.seeded(recipe, more, seed)] = self.models
        return found

    @property
    def candidates(self) -> list[str]:
        """Targets of what 10 reads; raises as `raced`."""
        return [target for variant, models in self.raced.items() for target in self.kfold(variant, models)]

    @property
    def choice(self) -> list[str]:
        """What 08 reads of 06: nothing of two folds, which have no pair models to choose by."""
        return [self.target("06_stage2", BASE)] if self.has_pairs else []

    @property
    def has_pairs(self) -> bool:
        """Whether a model without two folds has a third one to train on: 05, 06 and 10 want such."""
        return self.params["n_folds"] > 2

    def pooled(self, variants: list[str]) -> list[str]:
        return [self.target("04_kfold", variant, "pooled") for variant in variants]

    def trials(self, part: str) -> list[str]:
        """Targets of the trainings of an experiment, by fold and seed; none where one kernel does them all."""
        seeds = [self.base["seed"]] if part.startswith("05") else self.base["seeds"]
        pairs = [(f, s) for f in self.base["folds"] or range(self.base["n_folds"]) for s in seeds]
        if len(pairs) <= SPREAD:
            return []
        return [self.target(part, "trials", f"{folds.model_name(f)}_seed_{s}") for f, s in pairs]

    def wanted(self, only: str = "") -> list[str]:
        """Targets of the notebooks named by their numbers ("04 05"); all that the data allow by default.

        Raises
        ------
        ValueError
            Of numbers that name no notebook, or none that has something to make; as `raced`.
        FileNotFoundError, ValueError
            As `datasets.load`, of an experiment too: before anything is moved or started.
        """
        subsets = self.subsets
        if self.variant != BASE:  # an experiment is trained beside its base, and journalled
            found = {"04_kfold": self.pooled([BASE, self.variant]), "09_journal": [self.target("09_journal")]}
        else:
            found = {name: [self.target(name)] for name in ("01_eda", "02_features", "03_augmentation", "07_ensemble")}
            found["04_kfold"] = self.pooled([BASE])
            found["05_curation"] = [self.target("05_curation", "compare")] if self.has_pairs else []
            found["06_stage2"] = self.choice
            found["08_submission"] = [self.target("08_submission", BASE)] if "test" in subsets else []
            found["09_journal"] = [self.target("09_journal")]
            found["10_best"] = [self.target("10_best")] if self.has_pairs and self.candidates else []
        numbers = [word.zfill(2) for word in only.split()]  # YAML reads 06 as 6
        chosen = [name for name in settings.NOTEBOOKS if not numbers or name[:2] in numbers]
        if not chosen:
            there = " ".join(sorted(name[:2] for name in settings.NOTEBOOKS))
            raise ValueError(f"NB={only!r} names no notebook. There are: {there}.")
        targets = [target for name in chosen for target in found.get(name, [])]
        if not targets:
            why = (
                "00 is for JupyterLab, 08 wants test clips, 05, 06 and 10 three folds, 10 `candidates`, an experiment "
                "only 04 and 09"
            )
            raise ValueError(f"NB={only!r} has nothing to make here: {why}.")
        return targets

    def before_journal(self) -> list[str]:
        return [target for target in self.wanted() if "/09_journal/" not in target]

    def given(self, notebook: str, variant: str = BASE, **changes: object) -> str:
        """The parameters that a notebook is started with, as JSON (which is YAML), but for `place`."""
        values = self.values(notebook, variant, **changes)
        return json.dumps({k: v for k, v in values.items() if k not in settings.PLACE}, sort_keys=True)

    def given_model(self, variant: str, model: str) -> str:
        """The parameters of a training of 04."""
        fold, *holdout = sorted(folds.unseen(model))
        return self.given("04_kfold", variant, fold=fold, holdout_fold=holdout[0] if holdout else -1)

    def given_trial(self, part: str, fold: int, seed: int) -> str:
        """The parameters of the trainings of an experiment for one fold and one seed."""
        notebook, _, name = part.partition("/")
        return self.given(notebook, folds=[fold], seeds=[seed], part=name, tabulate=False)

    def values(self, notebook: str, variant: str = BASE, **changes: object) -> dict[str, object]:
        asked = {**self.recipe(variant), **changes}
        return {name: asked.get(name, default) for name, default in settings.defaults(notebook).items()}

    def recipe(self, variant: str) -> dict[str, object]:
        """All parameters of a variant of 04, those of other notebooks among them."""
        recipe, seed = recipes.unseeded(variant)
        own = self.params if recipe == self.variant else {**self.base, **_experiment(recipe)}
        return {**own, "variant": variant, **VARIANTS.get(recipe, {}), **seed}

    @property
    def place(self) -> str:
        """The parameters that say where things are. Results do not depend on them, so snakemake ignores them."""
        return json.dumps({k: v for k, v in self.params.items() if k in settings.PLACE})

    def stale(self, changed: Mapping[str, str] | None = None) -> dict[str, str]:
        """Folders below outputs/<run> that were made with other parameters, or of such: why each.

        Parameters
        ----------
        changed : folders that are to be made again for another reason, with it
        """
        found, changed = {}, changed or {}
        for name, (values, needs) in self._parts().items():
            file = ROOT / self.home / name / "configuration.json"
            if not file.is_file():
                continue
            theirs, mine = read_json(file), settings.configuration(values)
            why = [recipes.differences({k: theirs[k] for k in mine if k in theirs}, mine)]
            why = [text for text in dict.fromkeys([*why, *_below(changed, name).values()]) if text]
            if why or found.keys() & set(needs):
                found[name] = ", ".join(why) or "it was made of that"
        known = [path for name in found for path in _below(changed, name)]
        return found | {path: why for path, why in changed.items() if path not in known}

    def check_profile(self) -> None:
        """Refuse a run that was made with another profile; else a forgotten PROFILE would rebuild the whole run.

        Raises
        ------
        ValueError
            With both profiles, and what to do.
        """
        for file in sorted((ROOT / self.home).glob("[0-9]*/**/result.json"))[:1]:
            theirs = read_json(file).get("parameters", {}).get("profile", self.params["profile"])
            if theirs != self.params["profile"]:
                raise ValueError(
                    f"{self.home} was made with PROFILE={theirs}, not with {self.params['profile']}. "
                    f"Say PROFILE={theirs}, or give this run another name: RUN=..."
                )

    def changes(self) -> tuple[dict[str, str], dict[str, str]]:
        """What was made from other data than lie there now, and what only lacks some: `changes.since`."""
        places = {name: str(self.params.get(name) or "") for name in ("data_dir", "folds_csv")}
        found = {name: _place(place) if place else None for name, place in places.items()}
        if not found["data_dir"].exists():  # a demo set that is not made yet
            return {}, {}
        return changes.since(ROOT / self.home, self.params, **found)

    def set_aside(self, changed: Mapping[str, str] | None = None) -> list[str]:
        """Move what is stale to outputs/replaced/; sentences about it.

        A notebook refuses to mix configurations within a folder; here the change is meant: a parameter was asked for
        by file, and `changed` (as for `stale`) by the person who says AGAIN=1.
        """
        told, outputs = [], ROOT / "outputs"
        for name, why in self.stale(changed).items():
            place = set_aside(ROOT / self.home / name, outputs)
            kept = f"; the old one is kept in {os.path.relpath(place, ROOT)}" if place else ""
            told.append(f"{self.home}/{name} is made again ({why}){kept}")
        if "folds:" in " ".join((changed or {}).values()):
            set_aside(ROOT / self.home / "folds.csv", outputs)
        return told

    def _parts(self) -> dict[str, tuple[dict, list[str]]]:
        """Folders with a configuration of their own: their parameters, and the folders that they are made of."""
        base, select, compare = f"04_kfold/{BASE}", "05_curation/select", "05_curation/compare"
        stage2, submission = f"06_stage2/{BASE}", f"08_submission/{BASE}"
        parts = {name: (self.values(name), []) for name in ("01_eda", "02_features", "03_augmentation", "07_ensemble")}
        parts[base] = self.values("04_kfold"), []
        parts[select] = self.values("05_curation", part="select"), [base]
        for name in dict.fromkeys([self.variant, *self.retrained, *self.raced]):
            made_of = [select] if self.is_retrained(name) else []
            parts.setdefault(f"04_kfold/{name}", (self.values("04_kfold", name), made_of))
        parts[compare] = self.values("05_curation", part="compare"), [f"04_kfold/{name}" for name in self.retrained]
        parts[stage2] = self.values("06_stage2"), [base]
        parts[submission] = self.values("08_submission"), [base, stage2]
        parts["10_best"] = self.values("10_best"), [f"04_kfold/{name}" for name in self.raced]
        return parts


def _experiment(name: str) -> dict[str, object]:
    """What the experiment params/<name>.yaml changes; nothing, where there is no such file or it is none."""
    path = ROOT / "params" / f"{name}.yaml"
    values = settings.load_profile(path) if path.is_file() else {}
    changes = {key: value for key, value in values.items() if key not in ("run", "variant")}
    return changes if values.get("variant") == name else {}


def _subsets(data_dir: str) -> frozenset[str]:
    """What a data set holds with its audio; the demo set, which may not be made yet, holds all."""
    if data_dir == "demo":
        return frozenset(["curated", "noisy", "test"])
    folder = _place(data_dir)
    return datasets.with_audio(folder) & frozenset(datasets.load(folder, with_audio=False).clips["subset"])


def _place(name: str) -> Path:
    """A path as typed: relative to the current folder or, failing that, to the workbook; the demo set's own."""
    if name == "demo":
        return ROOT / "outputs" / "demo-data"
    return next((place for place in (Path(name).expanduser(), ROOT / name) if place.exists()), Path(name))


def _below(changed: Mapping[str, str], name: str) -> dict[str, str]:
    """What of the changed folders is, or lies in, the folder of that name."""
    return {path: why for path, why in changed.items() if f"{path}/".startswith(f"{name}/")}
