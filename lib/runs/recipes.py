"""Recipes of window models by name: the base, the training sets that are compared with it, further seeds of each.

Conventions
-----------
recipe : a variant of 04 that 10 compares: the base, one of VARIANTS, or an experiment, params/<recipe>.yaml. Trained
         with another seed, it is the variant `<recipe>.seed_<n>`.
configuration : what all parts of a variant share, the content of configuration.json (`run`): parameters, and digests of
         "labels" and "audio" by subset and of "folds".
Light imports only: every job of a cluster reads the Snakefile, and with it this module.

Used in: Snakefile, 05 (BASE); all of `runs` that reads models; `training_sets`, `choice`, `kaggle`.
"""

import re
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path

from lib.files import digest, read_json
from lib.runs import inputs

__all__ = ["BASE", "DATA", "VARIANTS", "check_base", "compared", "differences", "is_judged", "of_candidates"]
__all__ += ["of_seeds", "other_data", "papermill", "selection", "selects", "unseeded"]

BASE = "curated"
# The training sets of 04 that 05 compares with the base, with the parameters that each changes.
VARIANTS = {
    "kept_curated": {"train_windows": "kept"},
    "curated_noisy": {"train_set": "curated_noisy"},
    "fewer_passes": {"train_set": "fewer_passes"},  # the control of curated_noisy: as many passes over curated clips
    "curated_kept_noisy": {"train_set": "curated_noisy", "train_windows": "kept_noisy"},
    "kept_curated_kept_noisy": {"train_set": "curated_noisy", "train_windows": "kept"},
    "warm_up": {"train_set": "warm_up"},
    "pseudo": {"train_set": "pseudo"},
    "curated_noisy_lq": {"train_set": "curated_noisy", "loss": "lq"},
    "ignore_missing": {"ignore_missing": True},
}
PLAIN = {"train_set": "curated", "train_windows": "all", "ignore_missing": False}  # what the base trains on
DATA = ("labels", "groups", "audio", "folds")  # digests in a configuration


def compared(retrain: list[str], loss: str, subsets: Collection[str]) -> list[str]:
    """The training sets that 05 compares with the base: those in `retrain`, or all that are possible.

    Training sets with noisy clips need noisy clips. With loss ce a clip has exactly one label, so no class can be
    unknown and ignore_missing is left out.

    Raises
    ------
    ValueError
        `retrain` names no training set.
    """
    if unknown := [name for name in retrain if name not in VARIANTS]:
        raise ValueError(f"retrain names {', '.join(unknown)}. There are: {', '.join(VARIANTS)}.")
    asked = retrain or [name for name in VARIANTS if loss != "ce" or "ignore_missing" not in VARIANTS[name]]
    return [name for name in asked if "noisy" in subsets or "train_set" not in VARIANTS[name]]


def check_base(params: Mapping[str, object]) -> None:
    """ValueError if another training set has the name of the base (with any seed).

    05 uses the models of the base as judges, and everything is compared with the base.
    """
    changed = [f"{name}={params[name]!r}" for name, value in PLAIN.items() if params.get(name, value) != value]
    if changed and unseeded(str(params.get("variant", "")))[0] == BASE:
        raise ValueError(
            f"{', '.join(changed)}, but variant={params['variant']!r} is the name of models that are trained on the "
            "curated clips as they are. Give these a name of their own: -p variant NAME, such as curated_noisy."
        )


def is_judged(params: Mapping[str, object]) -> bool:
    """Whether a training set of 04 needs windows or labels that 05 selected."""
    return params["train_windows"] != "all" or params["train_set"] == "pseudo" or bool(params["ignore_missing"])


def selection(home: Path, rule: str) -> str:
    """A digest of how 05 selected in the run at `home`, and of the tables that it wrote by a rule."""
    selected = home / "05_curation" / "select"
    listed = selected / "digests.json"
    tables = read_json(listed).items() if listed.is_file() else ()
    return digest(
        read_json(selected / "configuration.json"),
        *[[name, content] for name, content in sorted(tables) if name.partition("/")[0] in (rule, "heard")],
    )


def of_candidates(candidates: list[str]) -> list[str]:
    """The recipes in candidates ("a+b" is the average of a and b), each once."""
    return list(dict.fromkeys(recipe for name in candidates for recipe in name.split("+")))


def selects(candidates: list[str], readouts: list[str]) -> bool:
    """Whether 10 has anything to select, which takes pair models: not with one candidate that is read by the mean."""
    return len(candidates) > 1 or readouts != ["mean"]


def of_seeds(recipe: str, own: int, repeats: int) -> list[str]:
    """The variants of a recipe with `repeats` seeds, counted on from its `own`, which is first."""
    return [recipe, *(f"{recipe}.seed_{seed}" for seed in range(own + 1, own + repeats))]


def unseeded(variant: str) -> tuple[str, dict[str, int]]:
    """The recipe of a variant, and {"seed": n} if its name has a seed, else {}."""
    match = re.fullmatch(r"(.+)\.seed_(\d+)", variant)
    return (match[1], {"seed": int(match[2])}) if match else (variant, {})


def papermill(notebook: str, profile: str, **values: object) -> str:
    """The command that runs a notebook with a profile, the file of its `run` if there is one, and these parameters."""
    run = str(values.get("run", ""))
    layers = [profile, run] if run != profile and (inputs.CODE / "params" / f"{run}.yaml").is_file() else [profile]
    words = "".join(f" -f params/{layer}.yaml" for layer in layers)
    words += "".join(f" -p {name} {shlex.quote(str(value))}" for name, value in values.items())
    return f"papermill notebooks/{notebook}.ipynb out.ipynb{words}"


def differences(theirs: Mapping[str, object], mine: Mapping[str, object], *, common: bool = False) -> str:
    """The differences of two configurations in words; "" if they are equal.

    Values by subset (digests of labels and audio) are compared subset by subset. With `common`, only keys of both are.
    """
    there, here = _flat(theirs), _flat(mine)
    keys = there.keys() & here.keys() if common else there.keys() | here.keys()
    differ = [key for key in sorted(keys) if there.get(key) != here.get(key)]
    return ", ".join(f"{key}: {there.get(key)!r} there, {here.get(key)!r} now" for key in differ)


def other_data(theirs: Mapping[str, object], mine: Mapping[str, object]) -> str:
    """The differences in the `DATA` of two configurations, in words; only keys of both are compared."""
    sides = ({name: side[name] for name in DATA if name in side} for side in (theirs, mine))
    return differences(*sides, common=True)


def _flat(configuration: Mapping[str, object]) -> dict[str, object]:
    """The configuration with an entry for each value by subset, such as "labels of noisy clips"."""
    flat = {}
    for name, value in configuration.items():
        flat |= {f"{name} of {s} clips": v for s, v in value.items()} if isinstance(value, Mapping) else {name: value}
    return flat
