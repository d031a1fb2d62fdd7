"""The plan of a run: its results, the notebook and parameters that make each, and the results that it needs.

The Snakefile reads the plan; snakemake schedules, retries and resumes.

Conventions
-----------
target : the result.json of a part, a path below outputs/ relative to the workbook. It is written last and means done.
layers : parameter files, each applied over the one before: those of `profile`, then params/<run>.yaml if it exists. A
         file with a `run` and a `variant` of its own is an experiment; it is applied over the file of that run.
Light imports only: every job of a cluster reads the Snakefile again. Only where a layer changes settings of sound is
torch imported, to check them.

Used in: Snakefile, `pipeline`, `kaggle`, `pages`.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
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
NEEDED = ("profile", "run", "data_dir")  # a profile must set them; the defaults are those of the demo run
SPREAD = 2  # up to so many trainings of an experiment stay in one kernel; more become jobs, by fold and seed


@dataclass(frozen=True)
class Plan:
    """The parameters of a run, from the `layers` of parameter files.

    Attributes
    ----------
    params : all layers over the defaults. A knob whose default differs between notebooks is only in it if a layer sets
        it
    base : the same for the base variant: without the last layer, if that is an experiment
    variant : of 04, the one to make
    """

    params: dict[str, object]
    base: dict[str, object]
    variant: str

    @classmethod
    def read(cls, profile: str = "demo", run: str = "", data_dir: str = "") -> "Plan":
        """The plan of a run.

        Parameters
        ----------
        profile : names of parameter files, each applied over the one before
        run : folder under outputs/; "": the one in the files
        data_dir : folder or table of the data set; "": the one in the files

        Raises
        ------
        FileNotFoundError, ValueError
            As `settings.load_profile`, `settings.check` and `recipes.check_base`; a name of a run that snakemake would
            read as a number, or that is an experiment's; layers that are not a complete profile; settings of sound that
            contradict each other.
        """
        own = ROOT / "params" / f"{run}.yaml"
        layers = [ROOT / "params" / f"{name}.yaml" for name in profile.split()]
        layers += [own] if run and own.is_file() and own not in layers else []
        read = [settings.load_profile(layer) for layer in layers]
        is_demo = any(layer.stem == "demo" for layer in layers)  # its file is empty: the defaults are the demo run
        its_run = ROOT / "params" / f"{read[-1].get('run', '')}.yaml" if read else own
        if its_run.is_file() and its_run not in layers:  # an experiment is applied over the file of its run
            layers.insert(-1, its_run)
            read.insert(-1, settings.load_profile(its_run))
        theirs = read[layers.index(its_run)] if its_run in layers[:-1] else {}
        if theirs.get("variant", BASE) != BASE and theirs.get("run", its_run.stem) != its_run.stem:
            what = f"{its_run.stem} is an experiment of the run {theirs['run']}, not a run"
            raise ValueError(f"params/{layers[-1].name}: {what}: set run: {theirs['run']}.")
        typed = {"data_dir": data_dir} if data_dir else {}
        given = {name: value for layer in read for name, value in layer.items()} | typed
        if run and "run" not in (read[-1] if own in layers else {}):
            given["run"] = run
        params = settings.check(settings.defaults() | given)
        if re.fullmatch(r"(?i)[\d_.e+-]+|true|false|none|null", str(params.get("run", ""))):
            raise ValueError(f"run={params['run']!r} would be read as a number or a constant. Begin it with a word.")
        if missing := [name for name in NEEDED if name not in given and not is_demo]:
            raise ValueError(
                f"PROFILE={profile!r} is no complete profile: it lacks {', '.join(missing)}. Put the profile that it "
                f"changes first, such as PROFILE='esc10 {profile}', or add these keys to it (other keys that it lacks "
                "are as in the demo run)."
            )
        variant = str(params.pop("variant"))
        set_for_it = {"fold", "holdout_fold", "n_folds", "folds_csv", "esc10_only"}
        read_by_04 = settings.defaults("04_kfold").keys() - set_for_it | {"repeats"}
        if variant != BASE and (unread := sorted(read[-1].keys() - read_by_04)):
            raise ValueError(
                f"params/{layers[-1].name} is an experiment (it has a variant): 04 trains it on the clips and all "
                f"folds of its base, and would not read {', '.join(unread)}. Leave that out."
            )
        below = {name: value for layer in read[:-1] for name, value in layer.items()}
        base = params if variant == BASE else {**settings.defaults(), **below, **typed, "run": params["run"]}
        recipes.check_base({**base, "variant": BASE})
        for values in (base, params):
            _check_sound(values)
        return cls(params, base, variant)

    @cached_property
    def subsets(self) -> frozenset[str]:
        """The subsets of the data set that have audio: of curated, noisy, test; raises as `datasets.load`."""
        if (name := str(self.params["data_dir"])) == "demo":  # it may not be made yet
            return frozenset(["curated", "noisy", "test"])
        folder = _path(name)
        return datasets.with_audio(folder) & frozenset(datasets.load(folder, with_audio=False).clips["subset"])

    @property
    def home(self) -> str:
        return f"outputs/{self.params['run']}"

    @property
    def models(self) -> list[str]:
        """Names of the models without one fold."""
        return folds.single_models(self.params["n_folds"])

    @property
    def pairs(self) -> list[str]:
        """Names of the models without two folds."""
        return folds.pair_models(self.params["n_folds"])

    @property
    def retrained(self) -> list[str]:
        """Variants that 05 compares with the base: `recipes.compared`."""
        return recipes.compared(self.base["retrain"], self.base["loss"], self.subsets)

    @property
    def compared(self) -> list[str]:
        """Targets of 04 that 05 compares: the base and the training sets, each with all seeds."""
        sets = [BASE, *self.retrained]
        seeds = [seed for name in sets for seed in self.seeds_of(name)]
        return [*self.pooled(sets), *(target for seed in seeds for target in self.kfold(seed, self.models))]

    def is_retrained(self, variant: str) -> bool:
        """Whether a variant (with any seed) is trained on a selection of 05."""
        return recipes.is_judged(self.values("04_kfold", variant))

    def seeds_of(self, recipe: str) -> list[str]:
        """The variants that train a recipe with each of its `repeats` seeds, its own first."""
        return recipes.of_seeds(recipe, self.base["seed"], self.params["repeats"])

    def target(self, *parts: str) -> str:
        return "/".join([self.home, *parts, "result.json"])

    def kfold(self, variant: str, models: list[str]) -> list[str]:
        return [self.target("04_kfold", variant, model) for model in models]

    @property
    def candidate_models(self) -> dict[str, list[str]]:
        """Variants of 04 that 10 reads, with their models: all models of a recipe, single ones of its other seeds.

        Without anything to select, there are only single models.

        Raises
        ------
        ValueError
            A recipe that is neither the base, nor a training set of 05, nor an experiment.
        """
        models, names = {}, self.base["candidates"]
        pairs = self.pairs if recipes.selects(names, self.base["readouts"]) else []
        for recipe in recipes.of_candidates(names):
            if recipe not in (BASE, *VARIANTS) and not _experiment(recipe):
                what = f"no training set of 05, and no params/{recipe}.yaml says `variant: {recipe}`"
                raise ValueError(f"candidates: {recipe!r} is {what}.")
            models |= dict.fromkeys(self.seeds_of(recipe), self.models) | {recipe: self.models + pairs}
        return models

    @property
    def candidates(self) -> list[str]:
        """Targets that 10 reads; raises as `candidate_models`."""
        return [target for variant, models in self.candidate_models.items() for target in self.kfold(variant, models)]

    @property
    def readouts(self) -> list[str]:
        """Targets that 06 reads: all models of the base, single ones of its other seeds."""
        pairs = self.kfold(BASE, self.pairs)
        return [*pairs, *(target for name in self.seeds_of(BASE) for target in self.kfold(name, self.models))]

    def choice(self, only: str = "") -> list[str]:
        """Targets of 06 that 08 reads, if the notebooks `only` are made.

        None with two folds, which have no pair models. Where nothing is to be selected, 08 takes the mean, unless 06 is
        made as well or is done already: so clips can be tagged without the pair models.
        """
        numbers, target = _numbers(only), self.target("06_stage2", BASE)
        made = not numbers or {"06", "09"} & set(numbers) or (ROOT / target).is_file()
        selects = recipes.selects(self.base["candidates"], self.base["readouts"])
        return [target] if self.has_pairs and (made or selects) else []

    @property
    def has_pairs(self) -> bool:
        """Whether a model without two folds has a third one to train on; 05, 06 and 10 need such models."""
        return self.params["n_folds"] > 2

    def pooled(self, variants: list[str]) -> list[str]:
        return [self.target("04_kfold", variant, "pooled") for variant in variants]

    def trials(self, part: str) -> list[str]:
        """Targets of the trainings of an experiment, by fold and seed; none if one kernel does all of them."""
        seeds = [self.base["seed"]] if part.startswith("05") else self.base["seeds"]
        pairs = [(f, s) for f in self.base["folds"] or range(self.base["n_folds"]) for s in seeds]
        if len(pairs) <= SPREAD:
            return []
        return [self.target(part, "trials", f"{folds.model_name(f)}_seed_{s}") for f, s in pairs]

    def wanted(self, only: str = "") -> list[str]:
        """Targets of the notebooks with these numbers ("04 05"); "": all that the data allow.

        Raises
        ------
        ValueError
            A number that names no notebook, or only notebooks with nothing to make; and as `candidate_models`.
        FileNotFoundError, ValueError
            As `datasets.load`, also for an experiment: before anything is moved or started.
        """
        subsets = self.subsets
        if self.variant != BASE:  # an experiment: 04 trains it and its base, 09 lists it
            seeds = [*self.seeds_of(BASE), *self.seeds_of(self.variant)]
            trained = [target for name in seeds for target in self.kfold(name, self.models)]
            targets = {"04_kfold": [*trained, *self.pooled([BASE, self.variant])]}
            targets["09_journal"] = [self.target("09_journal")]
        else:
            alone = ("01_eda", "02_features", "03_augmentation", "07_ensemble", "09_journal")
            targets = {name: [self.target(name)] for name in alone}
            targets["04_kfold"] = [*self.kfold(BASE, self.models), *self.pooled([BASE])]
            targets["05_curation"] = [self.target("05_curation", "compare")] if self.has_pairs else []
            targets["06_stage2"] = self.choice()
            targets["08_submission"] = [self.target("08_submission", BASE)] if "test" in subsets else []
            targets["10_best"] = [self.target("10_best")] if self.has_pairs and self.candidates else []
        numbers = _numbers(only)
        chosen = [name for name in settings.NOTEBOOKS if not numbers or name[:2] in numbers]
        there = sorted(name[:2] for name in settings.NOTEBOOKS)
        if unknown := [number for number in numbers if number not in there]:
            raise ValueError(f"NB={only!r}: {', '.join(unknown)} is no notebook. There are: {' '.join(there)}.")
        found = [target for name in chosen for target in targets.get(name, [])]
        if not found:
            why = (
                "00 is for JupyterLab, 08 needs test clips, 05, 06 and 10 three folds, 10 `candidates`; an experiment "
                "has only 04 and 09"
            )
            raise ValueError(f"NB={only!r} has nothing to make here: {why}.")
        return found

    def before_journal(self) -> list[str]:
        """All targets but that of 09, which reads them."""
        return [target for target in self.wanted() if "/09_journal/" not in target]

    def given(self, notebook: str, variant: str = BASE, **changes: object) -> str:
        """The parameters of a notebook as JSON (which is also YAML), without those in `place`."""
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
        """The parameters of a variant of 04, and those of all other notebooks."""
        recipe, seed = recipes.unseeded(variant)
        own = self.params if recipe == self.variant else {**self.base, **_experiment(recipe)}
        return {**own, "variant": variant, **VARIANTS.get(recipe, {}), **seed}

    @property
    def place(self) -> str:
        """The parameters that hold paths, as JSON. Results do not depend on them, so snakemake ignores them."""
        return json.dumps({k: v for k, v in self.params.items() if k in settings.PLACE})

    def stale(self, changed: Mapping[str, str] | None = None) -> dict[str, str]:
        """Folders below outputs/<run> to make again -> why: other parameters, or made from such a folder.

        Parameters
        ----------
        changed : folder -> another reason to make it again
        """
        outdated, changed = {}, changed or {}
        for name, (values, needs) in self._parts().items():
            file = ROOT / self.home / name / "configuration.json"
            if not file.is_file():
                continue
            theirs, mine = read_json(file), settings.configuration(values)
            is_made = self.variant == BASE or name.startswith("04_kfold/")  # an experiment makes 04 alone
            own = recipes.differences({k: theirs[k] for k in mine if k in theirs}, mine)
            own = own or self._other_repeats(name, values)
            why = [text for text in dict.fromkeys([own if is_made else "", *_below(changed, name).values()]) if text]
            if why or outdated.keys() & set(needs):
                outdated[name] = ", ".join(why) or "a part that it reads is made again"
        known = [path for name in outdated for path in _below(changed, name)]
        return outdated | {path: why for path, why in changed.items() if path not in known}

    def check_results(self) -> None:
        """Refuse a run with a damaged result, which snakemake would take for done, or one that another profile made.

        Forgetting PROFILE=... would rebuild all of it.

        Raises
        ------
        ValueError
            The message names the file, or both profiles.
        """
        results = [read_json(file) for file in sorted((ROOT / self.home).glob("[0-9]*/**/result.json"))]
        for result in results[:1]:
            theirs = result.get("parameters", {}).get("profile", self.params["profile"])
            if theirs != self.params["profile"]:
                raise ValueError(
                    f"{self.home} was made with PROFILE={theirs}, not with {self.params['profile']}. "
                    f"Say PROFILE={theirs}, or give this run another name: RUN=..."
                )

    def changes(self) -> tuple[dict[str, str], dict[str, str]]:
        """Parts made from other data than the present ones, and submissions that only lack clips: `changes.since`."""
        names = {key: str(self.params.get(key) or "") for key in ("data_dir", "folds_csv")}
        paths = {key: _path(name) if name else None for key, name in names.items()}
        if not paths["data_dir"].exists():  # the demo set, not made yet
            return {}, {}
        return changes.since(ROOT / self.home, self.params, **paths)

    def set_aside(self, changed: Mapping[str, str] | None = None) -> list[str]:
        """Move the folders that are `stale` to outputs/replaced/; return a sentence about each.

        A notebook refuses to mix configurations in a folder. Here the change is intended: the user changed a parameter
        file or, for `changed` (as in `stale`), gave AGAIN=1.
        """
        sentences, outputs = [], ROOT / "outputs"
        for name, why in self.stale(changed).items():
            place = set_aside(ROOT / self.home / name, outputs)
            kept = f"; the old one is kept in {os.path.relpath(place, ROOT)}" if place else ""
            sentences.append(f"{self.home}/{name} is made again ({why}){kept}")
        if "folds:" in " ".join((changed or {}).values()):
            set_aside(ROOT / self.home / "folds.csv", outputs)
        return sentences

    def _other_repeats(self, name: str, values: Mapping[str, object]) -> str:
        """How many seeds a finished part of 06 or 10 read, if that is not how many it is to read; else ""."""
        path, mine = ROOT / self.home / name / "result.json", values.get("repeats")
        if not name.startswith(("06", "10")) or not path.is_file():
            return ""
        theirs = read_json(path).get("parameters", {}).get("repeats", mine)
        return f"repeats: {theirs} there, {mine} now" if theirs != mine else ""

    def _parts(self) -> dict[str, tuple[dict, list[str]]]:
        """Folder with a configuration of its own -> its parameters, and the folders that it is made from."""
        base, select, compare = f"04_kfold/{BASE}", "05_curation/select", "05_curation/compare"
        stage2, submission = f"06_stage2/{BASE}", f"08_submission/{BASE}"
        parts = {name: (self.values(name), []) for name in ("01_eda", "02_features", "03_augmentation", "07_ensemble")}
        parts[base] = self.values("04_kfold"), []
        parts[select] = self.values("05_curation", part="select"), [base]
        seeds = [*self.seeds_of(BASE), *self.seeds_of(self.variant)]
        sets = [name for recipe in self.retrained for name in self.seeds_of(recipe)]
        for name in dict.fromkeys([*seeds, *sets, *self.candidate_models]):
            made_from = [select] if self.is_retrained(name) else []
            parts.setdefault(f"04_kfold/{name}", (self.values("04_kfold", name), made_from))
        parts[compare] = self.values("05_curation", part="compare"), [f"04_kfold/{name}" for name in sets]
        parts[stage2] = self.values("06_stage2"), [f"04_kfold/{name}" for name in self.seeds_of(BASE)]
        parts[submission] = self.values("08_submission"), [base, stage2]
        parts["10_best"] = self.values("10_best"), [f"04_kfold/{name}" for name in self.candidate_models]
        return parts


def _experiment(name: str) -> dict[str, object]:
    """The parameters that the experiment params/<name>.yaml changes; empty if there is no such experiment."""
    path = ROOT / "params" / f"{name}.yaml"
    values = settings.load_profile(path) if path.is_file() else {}
    changes = {key: value for key, value in values.items() if key not in ("run", "variant")}
    return changes if values.get("variant") == name else {}


def _check_sound(values: Mapping[str, object]) -> None:
    """ValueError if settings of windows or channels contradict each other, which else a job would be first to tell."""
    names = [field.name for group in (settings.Audio, settings.Windows) for field in fields(group)]
    if any(values[name] != settings.KNOBS[name].default for name in names):
        from lib.sound.features import LogMel  # here, since they import torch
        from lib.sound.windows import Windows

        for group in (LogMel, Windows):
            group(**{field.name: values[field.name] for field in fields(group) if field.name in values})


def _numbers(only: str) -> list[str]:
    return [word.zfill(2) for word in only.split()]  # YAML reads 06 as 6


def _path(name: str) -> Path:
    """A path relative to the current folder or else to the workbook; "demo" is the folder of the demo set."""
    if name == "demo":
        return ROOT / "outputs" / "demo-data"
    return next((place for place in (Path(name).expanduser(), ROOT / name) if place.exists()), Path(name))


def _below(changed: Mapping[str, str], name: str) -> dict[str, str]:
    """The changed folders that are the folder of that name, or are in it."""
    return {path: why for path, why in changed.items() if f"{path}/".startswith(f"{name}/")}
