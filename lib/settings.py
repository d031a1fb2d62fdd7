"""Every knob of the workbook, once: its type, default, range, meaning and role.

A knob is a field of a group below, defined nowhere else. The parameters cells of the notebooks are written from here
(`make cells`); parameter files, `-p` and the settings of a computation are checked against it.

Conventions
-----------
role    : what a knob is for.
  recipe : what is computed; these make the configuration of a result
  which  : which part of it, or how much (fold, seeds, variant)
  place  : where things are, and how a run is started; these do not change a result
  view   : which existing results are shown
default : the demo run. A parameter file (params/<profile>.yaml) holds only what differs from it, in flat lines.
Where a choice is a function, one of your own may stand, ideas/FILE.py:FUNCTION: see `ideas`.
A list may come as comma-separated text (`-p variants a,b`) or as one item, a number as text (YAML reads `1e-3` so).
Light imports only: kernels are packed without an environment.

Used in: every notebook, through `run.start`; the pipeline, `kaggle`; what takes a group (`LogMel`, `Recipe` ...).
"""

import ast
import difflib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, dataclass_transform, get_args, get_origin

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic.dataclasses import dataclass

from lib.ideas import one_of

__all__ = [
    *("Audio", "Network", "Stage2", "Training", "TrainingSet", "Windows"),
    *("AUGMENTATIONS", "BALANCES", "CHANNELS", "LOSSES", "MIXES", "NORMALISE", "SCHEDULES", "STAGE2_MODELS"),
    *("TRAIN_SETS", "KNOBS", "NOTEBOOKS", "PLACE", "RECIPE"),
    *("cell", "check", "configuration", "declared", "defaults", "group", "load_profile", "main"),
]

# choices; what computes them holds the same names
CHANNELS = ("logmel", "delta", "acceleration", "phase", "pcen")  # and logmel_<n_fft>
NORMALISE = {"set": "training clips", "band": "their mel bands", "window": "itself"}
LOSSES = {"bce": "any labels", "ce": "one label a clip", "lq": "as bce, but more robust to wrong labels"}
SCHEDULES = ("one_cycle", "flat", "flat_cosine")
MIXES = ("mixup", "mixup_power")
AUGMENTATIONS = ("gain", "shift_wrap", "shift_pad", "equaliser", "stretch")
BALANCES = {"clip": "one each", "seconds": "", "effective": "", "augment": "wider masks for rare classes"}
TRAIN_SETS = {"curated": "", "curated_noisy": "", "warm_up": "noisy first", "pseudo": "model labels"}
TRAIN_SETS |= {"fewer_passes": ""}
COMPUTE = {"pixels": "", "windows": "", "seconds": "measured here"}
STAGE2_MODELS = ("cnn", "cnn_logits", "dense", "conv1d", "attention", "gru", "logistic")

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, regex_engine="python-re")
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # names become folders
SINGLE = r"without_\d+(_\d+)?(_seed_\d+)?"  # folders of single trainings: `folds.model_name`, the trials of a job
FREE = rf"(?!(cache|demo-data|findings|replaced)\Z){NAME}"  # below outputs/


def _each_once(items: tuple) -> tuple:
    if len(set(items)) < len(items):
        raise ValueError("name each once: another time adds nothing")
    return items


def _own_folder(variant: str) -> str:
    if variant == "pooled" or re.fullmatch(SINGLE, variant):
        raise ValueError("be another name: in a variant, this is a folder. Name what it changes, such as no_masks")
    return variant


Name = Annotated[str, Field(pattern=rf"^{NAME}\Z")]
VariantName = Annotated[Name, AfterValidator(_own_folder)]
Variant = Annotated[str, Field(pattern=rf"^{NAME}(\+{NAME})*\Z")]  # of an experiment; several are made together
Rule = Annotated[str, Field(pattern=r"^[a-z]+(_[0-9.]+)?\Z")]
Fold = Annotated[int, Field(ge=0, le=99)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Once = AfterValidator(_each_once)


def _named(choices: Mapping[str, str] | tuple[str, ...], form: str = "{} ({})", join: str = ", ") -> str:
    """Choices for a help text, those that need a word with it."""
    told = choices.items() if isinstance(choices, Mapping) else ((name, "") for name in choices)
    return join.join(form.format(name, word) if word else name for name, word in told)


def knob(default: object, description: str, role: str = "recipe", **limits: object) -> object:
    """A field of a group: default, what it means (with unit), role, and pydantic's limits (ge, le, pattern ...)."""
    return Field(default, description=description, json_schema_extra={"role": role}, **limits)


which, place, view = (partial(knob, role=role) for role in ("which", "place", "view"))


@dataclass_transform(frozen_default=True, field_specifiers=(knob, partial))
def group(cls: type) -> type:
    """A frozen dataclass that pydantic checks, with errors in the workbook's words: ValueError, see `check`."""
    made = dataclass(frozen=True, config=STRICT)(cls)
    build = made.__init__

    def checked(self: object, *values: object, **named: object) -> None:
        try:
            build(self, *values, **named)
        except ValidationError as error:
            raise ValueError(_in_words(made, error.errors(include_url=False)[0])) from None

    made.__init__ = checked
    return made


@group
class Group:
    """Common to all groups: reading values as they are typed, and writing settings down."""

    @field_validator("*", mode="before")
    @classmethod
    def _as_typed(cls, value: object, info: object) -> object:
        kind = cls.__pydantic_fields__[info.field_name].annotation
        if get_origin(kind) is tuple:
            return _listed(value, int if _kind(get_args(kind)[0]) is int else str)
        return _plain(value, _kind(kind))

    def settings(self) -> dict[str, object]:
        """The settings as a dict that JSON gives back unchanged, for a sidecar or a digest."""
        return {field.name: _as_list(getattr(self, field.name)) for field in fields(self)}


@group
class Run(Group):
    """What is run; every notebook has these."""

    run: str = place(
        "demo", "folder under outputs/; cache, demo-data, findings and replaced are taken", pattern=rf"^{FREE}\Z"
    )
    profile: str = place("demo", "name of the parameter file, params/<profile>.yaml")
    overwrite: bool = place(False, "True: move the results of this variant to outputs/replaced and start again")
    note: str = place("", "a sentence added to every conclusion, such as a limit of the data")
    seed: int = knob(2019, "seed of weights and batches", ge=0, le=2**31 - 1)


@group
class Data(Group):
    """Which clips."""

    data_dir: str = place("demo", "folder of the data set, or its table (.csv); demo: a synthesised one")
    esc10_only: bool = knob(False, "ESC-50: use only the clips of ESC-10")
    strict: bool = place(False, "True: stop at an unusable clip; False: list it and leave it out")


@group
class Folds(Group):
    """Which clips are held out together."""

    n_folds: int = knob(3, "number of folds, where the data set has no published ones", ge=2, le=100)
    folds_csv: str = place("", "CSV file of folds to use instead (fname,fold); empty: make them")


@group
class Audio(Group):
    """From a clip to its log-mel and other channels; librosa's terms."""

    sample_rate: int = knob(22050, "Hz, rate to which clips are resampled", ge=1000, le=192_000)
    n_fft: int = knob(1024, "samples in the Hann window", ge=16, le=65_536)
    hop_length: int = knob(441, "samples between frames", ge=1, le=65_536)
    n_mels: int = knob(64, "mel bands", ge=8, le=1024)
    fmin: float = knob(20.0, "Hz, lowest band edge", ge=0, le=96_000)
    channels: tuple[Annotated[str, one_of(None)], ...] = knob(
        ("logmel",),
        f"one to three input channels: {_named(CHANNELS).replace(',', ', logmel_2048,', 1)}",
        min_length=1,
        max_length=3,
    )


@group
class Windows(Group):
    """A clip as windows."""

    window_s: float = knob(1.0, "s, length of a window", ge=0.01, le=120)
    hop_s: float = knob(0.5, "s, between starts of inference windows", ge=0.01, le=120)
    trim_inference_db: float = knob(
        0.0, "dB below the loudest frame; inference skips quieter ends of a clip; 0: off", ge=0, le=120
    )


@group
class Network(Group):
    """What is needed to build the network."""

    arch: Annotated[str, one_of(None)] = knob("test_byobnet", "timm model or cnn10_16 (PANNs' CNN10, narrower)")
    image_size: int = knob(0, "pixels a side to which windows are resized; 0: not resized", ge=0, le=1024)
    normalise: Literal[*NORMALISE] = knob("set", f"scaled by mean and std of: {_named(NORMALISE)}")


@group
class Training(Group):
    """How it is trained, by AdamW."""

    loss: Annotated[str, one_of(LOSSES)] = knob("bce", _named(LOSSES, "{}: {}", "; "))
    epochs: int = knob(8, "passes over the training clips, one window each", ge=1, le=100_000)
    batch_size: int = knob(16, "windows in a training batch", ge=2, le=4096)
    lr: float = knob(0.005, "peak learning rate of the last layer", ge=1e-8, le=10)
    lr_body: float = knob(0.0, "peak learning rate of the first layers; 0: as lr", ge=0, le=10)
    schedule: Literal[*SCHEDULES] = knob("one_cycle", f"learning-rate schedule: {_named(SCHEDULES)}")
    progressive: tuple[Annotated[int, Field(ge=32, le=1024)], ...] = knob(
        (), "image sizes to train on before image_size, with equal compute each; empty: none"
    )
    mixup: float = knob(0.4, "alpha of mixup's Beta distribution; 0: no mixing", ge=0, le=10)
    mix: Annotated[str, one_of(MIXES)] = knob("mixup", f"how two windows are mixed: {_named(MIXES)}")
    mask_share: float = knob(0.15, "SpecAugment: widest mask as a share of its axis; 0: off", ge=0, le=0.9)
    augment: tuple[Annotated[str, one_of(AUGMENTATIONS)], ...] = knob(
        (), f"augmentations of training windows, in order: {_named(AUGMENTATIONS)}"
    )
    balance: Literal[*BALANCES] = knob("clip", f"clips of an epoch: {_named(BALANCES)}")
    trim_train_db: float = knob(0.0, "as trim_inference_db, in training; 0: off", ge=0, le=120)


@group
class Exploring(Group):
    """01: what counts as silence."""

    silence_db: float = knob(40.0, "dB below a clip's peak; anything quieter is silence", ge=1, le=120)


@group
class Trials(Group):
    """02, 03, 05, 07: which trainings of an experiment."""

    folds: Annotated[tuple[Fold, ...], Once] = which((0, 1), "folds held out, one training each; empty: all")
    seeds: Annotated[tuple[Seed, ...], Once] = which(
        (2019,), "seeds of weights and batches, one training each; a verdict needs three"
    )
    tabulate: bool = which(True, "False: train only (one fold, one seed); a later run makes the tables")


@group
class Variants(Group):
    """02, 03: which variants."""

    variants: tuple[Variant, ...] = which((), "variants of the experiment's table; a+b: both changes; empty: all")
    trial_epochs: int = knob(4, "passes of the base over the training clips in each training", ge=1, le=100_000)
    compute: Literal[*COMPUTE] = knob("pixels", f"what is equal in all trainings: {_named(COMPUTE)}")


@group
class Model(Group):
    """04: which model."""

    variant: VariantName = which("curated", "name of this training set and recipe; one configuration per name")
    fold: int = which(0, "fold held out, counted from 0; -1: pool the trained folds", ge=-1, le=99)
    holdout_fold: int = which(-1, "second fold held out (pair model); -1: none", ge=-1, le=99)
    developed_on: Annotated[tuple[Fold, ...], Once] = which(
        (), "folds used to develop the recipe; the others are also scored alone"
    )


@group
class TrainingSet(Group):
    """04: what it is trained on."""

    train_set: Literal[*TRAIN_SETS] = knob("curated", f"clips: {_named(TRAIN_SETS)}")
    train_windows: Literal["all", "kept", "kept_noisy"] = knob(
        "all", "windows: all, kept (by 05), kept_noisy (all of curated clips, kept ones of noisy clips)"
    )
    rule: Rule = knob("top_1", "rule of 05 that selects the kept windows")
    ignore_missing: bool = knob(
        False, "True: a class that models detect but the clip does not list is left out of the loss"
    )


@group
class Curation(Group):
    """05: which windows are kept."""

    part: Literal["auto", "select", "compare"] = knob(
        "auto", "select: select windows; compare: compare models trained on them; auto: what comes next"
    )
    rules: tuple[Rule, ...] = knob((), "rules that select windows, name_number; empty: all, default numbers")
    retrain: tuple[Name, ...] = which(("kept_curated",), "training sets of 04 to compare, as 05 lists them; empty: all")
    gate_db: float = knob(
        30.0, "dB below a clip's loudest frame; windows with no louder frame are silent", ge=1, le=120
    )
    keep_best: bool = knob(False, "True: a curated clip that would lose all its windows keeps its best one")


@group
class Stage2(Group):
    """06, 10: from window scores to clip scores."""

    max_clip_s: float = knob(6.0, "s, longest stretch that stage 2 reads; of a longer clip, its middle", ge=0.1, le=600)
    class_order: Literal["alphabetical", "confusion"] = knob(
        "alphabetical", "order of rows in prediction images: alphabetical, confusion (similar together)"
    )
    stage2_epochs: int = knob(24, "passes over the training images", ge=1, le=100_000)


@group
class Stage2Models(Group):
    """06: which stage-2 models."""

    stage2_models: tuple[Literal[*STAGE2_MODELS], ...] = knob(
        ("cnn", "conv1d", "logistic"), f"{_named(STAGE2_MODELS)}; []: all"
    )


@group
class Ensembles(Group):
    """07: ensembles at equal compute."""

    ensemble_epochs: int = knob(6, "passes over the training clips that each strategy may spend", ge=3, le=100_000)
    ensemble_folds: tuple[Annotated[int, Field(ge=2, le=20)], ...] = which(
        (3,), "numbers of fold models to compare, at equal compute; empty: none"
    )


@group
class Best(Group):
    """10: selection among candidates."""

    candidates: Annotated[tuple[Variant, ...], Once] = knob(
        ("curated",), "variants of 04 to select from; a+b: the average of both; empty: none"
    )
    readouts: tuple[Annotated[str, one_of(None)], ...] = knob(
        ("mean", "max", "logistic"), "poolings and stage-2 models to select from; empty: all but energy's"
    )
    repeats: int = which(
        1, "seeds of the window models: `seed`, `seed` + 1 and so on; a verdict needs three", ge=1, le=100
    )


@group
class Scoring(Group):
    """08: test clips."""

    weights: str = which("", "folder of a packed run; empty: the models of this run; kaggle: an input of the kernel")
    budget_s: float = knob(0.0, "s from the start, time limit of scoring; 0: no limit", ge=0, le=1_000_000)


@group
class Journal(Group):
    """09: what is shown."""

    only: tuple[str, ...] = view(
        (), "shows only rows whose notebook or question contains one of these words; empty: all"
    )
    base_run: str = view("", "run whose curated models are the base; empty: this run", pattern=rf"^({FREE})?\Z")


MODEL = (Audio, Windows, Network, Training)
# Which knobs a notebook has: whole groups, or single ones by name. In the order in which a run makes them.
NOTEBOOKS: dict[str, tuple[type | str, ...]] = {
    "00_scratch": (Run, Data, Folds, "fold", *MODEL),  # for JupyterLab: no run makes it
    "01_eda": (Run, Data, "sample_rate n_fft hop_length n_mels fmin window_s hop_s", Exploring),
    "02_features": (Run, Data, Folds, Variants, Trials, *MODEL),
    "03_augmentation": (Run, Data, Folds, Variants, Trials, *MODEL),
    "04_kfold": (Run, Data, Folds, Model, TrainingSet, *MODEL),
    "05_curation": (Run, Data, Folds, Curation, "folds tabulate repeats", *MODEL),
    "06_stage2": (Run, Data, "variant seeds repeats", Stage2Models, Stage2),
    "07_ensemble": (Run, Data, Folds, Trials, Ensembles, *MODEL),
    "08_submission": (Run, "data_dir variant", Scoring),
    "10_best": (Run, "developed_on", Best, Stage2),
    "09_journal": ("run profile seed", Journal),  # which reads what all others found
}
# What one notebook has otherwise: another default; None: it has no such knob, but one of its own instead.
OWN: dict[str, dict[str, object]] = {
    "02_features": {"variants": ["base", "delta"], "epochs": None},
    "03_augmentation": {"variants": ["base", "no_mixup"], "epochs": None},
    "07_ensemble": {"epochs": None},
}


class Knob(NamedTuple):
    """What is known of a knob: type in a cell (bool, int, float, str, list), default, help text, role, group."""

    kind: type
    default: object
    help: str
    role: str
    group: type


def _kind(annotation: object) -> type:
    """bool, int, float, str or list (a tuple, in a group)."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    return {Literal: str, tuple: list}.get(origin, annotation)


def _as_list(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


GROUPS = tuple(made for made in globals().values() if isinstance(made, type) and Group in made.__bases__)
KNOBS = {
    name: Knob(
        _kind(field.annotation), _as_list(field.default), field.description, field.json_schema_extra["role"], made
    )
    for made in GROUPS
    for name, field in made.__pydantic_fields__.items()
}


RECIPE, PLACE = ({name for name, knob in KNOBS.items() if knob.role == role} for role in ("recipe", "place"))


def defaults(notebook: str = "") -> dict[str, object]:
    """The knobs of a notebook with their defaults; of no notebook, all whose default is the same in every one."""
    if notebook not in NOTEBOOKS:
        differ = {name for own in OWN.values() for name, value in own.items() if value is not None}
        return {name: told.default for name, told in KNOBS.items() if name not in differ}
    own = OWN.get(notebook, {})
    parts = (part.split() if isinstance(part, str) else part.__pydantic_fields__ for part in NOTEBOOKS[notebook])
    found = {name: own.get(name, KNOBS[name].default) for part in parts for name in part}
    return {name: value for name, value in found.items() if value is not None}


def check(values: Mapping[str, object]) -> dict[str, object]:
    """The values in their right types.

    Raises
    ------
    ValueError
        An unknown knob (with the nearest known one), a wrong type, a value out of range or none of the choices, or one
        fold or seed twice. The message says what is allowed, what the knob means, and what to do.
    """
    if unknown := [name for name in values if name not in KNOBS]:
        name = str(unknown[0])  # YAML reads `1:` and `on:` as no text
        near = difflib.get_close_matches(name, KNOBS, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else f" Known are: {', '.join(sorted(KNOBS))}."
        raise ValueError(f"{unknown[0]!r} is no parameter of this workbook.{hint}")
    found: dict[str, object] = {}
    for made in GROUPS:
        named = {name: value for name, value in values.items() if KNOBS[name].group is made}
        found |= made(**named).settings() if named else {}
    return {name: found[name] for name in values}


def load_profile(path: Path) -> dict[str, object]:
    """Read and check a parameter file: what it says, without the defaults.

    Raises
    ------
    FileNotFoundError
        With the profiles that there are.
    ValueError
        If it is no flat mapping, names a key twice, or `check` refuses a value.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise FileNotFoundError(f"There is no parameter file {path}. There are: {', '.join(there) or 'none'}.")
    try:
        text = path.read_text(encoding="utf-8")
        values, tree = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except (UnicodeDecodeError, yaml.reader.ReaderError) as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}). Save it in that encoding.") from None
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}"
        raise ValueError(f"{path}, {where}: {error.problem}. Write `key: value` lines, without tabs.") from None
    if not isinstance(values, dict | None):
        raise ValueError(f"{path} must hold `key: value` lines, not a {type(values).__name__}.")
    names = [key.value for key, _ in tree.value] if values else []
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path} names {', '.join(twice)} twice. Keep one of the lines.")
    try:
        return check(values or {})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def declared(notebook: dict) -> set[str]:
    """Names in the parameters cell of a notebook, as read from its JSON; ValueError if it has none."""
    lines = ast.parse("".join(_cell_of(notebook)["source"])).body
    return {line.target.id for line in lines if isinstance(line, ast.AnnAssign)}


def cell(notebook: str) -> str:
    """The parameters cell of a notebook, a knob a line; the comments are what `papermill --help-notebook` prints."""
    lines = (
        f"{name}: {KNOBS[name].kind.__name__} = {json.dumps(value) if KNOBS[name].kind is not bool else value}"
        f"  # {KNOBS[name].help}"
        for name, value in defaults(notebook).items()
    )
    return "\n".join(lines)


def main(folder: Path = Path("notebooks")) -> int:
    """Rewrite the parameters cells of all notebooks in a folder; edits made in a cell are lost."""
    for name in NOTEBOOKS:
        path = folder / f"{name}.ipynb"
        notebook = json.loads(text := path.read_text(encoding="utf-8"))
        _cell_of(notebook)["source"] = cell(name)
        made = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        if made != text:
            path.write_text(made, encoding="utf-8")
            sys.stdout.write(f"{path}: parameters cell written from lib/settings.py\n")
    return 0


def configuration(params: Mapping[str, object]) -> dict[str, object]:
    """The parameters that define a variant; the others say where its results are and which part is made."""
    recipe = RECIPE - {"seed"} if "seeds" in params else RECIPE
    return {name: value for name, value in params.items() if name in recipe}


def _cell_of(notebook: dict) -> dict:
    for found in notebook["cells"]:
        if "parameters" in found["metadata"].get("tags", []):
            return found
    raise ValueError("The notebook has no cell that is tagged `parameters`. Take one of notebooks/.")


def _listed(value: object, kind: type) -> tuple:
    """A list as typed: YAML's, comma-separated text, or one item alone (`-p folds 2`)."""
    if isinstance(value, str):
        value = [item.strip() for item in value.split(",") if item.strip()]
        return tuple(int(item) if kind is int and item.isdecimal() else item for item in value)
    items = value if isinstance(value, (list, tuple)) else [value]
    return tuple(_plain(item, kind) for item in items)


def _plain(value: object, kind: type) -> object:
    """A single value as typed: a number that serves as text (`-p run 7`), a text that is a number (`lr: 1e-3`)."""
    if kind is str and type(value) in (int, float):
        return str(value)
    if kind is float and isinstance(value, str) and re.fullmatch(r"[-+\d.]+(e[-+]?\d+)?", value, re.IGNORECASE):
        return float(value)
    return value


def _in_words(made: type, error: Mapping) -> str:
    """What pydantic found wrong with a group: the value, what it should be, what the knob means, what to do."""
    if not error["loc"]:  # settings that contradict each other
        return str(error["ctx"]["error"])
    name, value, what, known = error["loc"][0], error["input"], error["type"], made.__pydantic_fields__
    name = name if isinstance(name, str) else [*known][name]  # given without its name
    if name not in known:
        return f"{made.__name__} has no setting {name!r}. There are: {', '.join(known)}."
    should = {"string_pattern_mismatch": "be letters, digits, '.', '_' and '-'"}.get(what) or (
        str(error["ctx"]["error"]) if what == "value_error" else error["msg"].partition("should ")[2]
    )
    meaning = f" ({known[name].description})" if known[name].description else ""
    remedy = REMEDIES.get(what, "").format(name=name) if isinstance(value, str) else ""
    return f"{name}={_as_list(value)!r} should {should}{meaning}.{remedy}"


REMEDIES = {  # where a text stands for a number or a truth value
    "bool_type": " papermill's -p knows -p {name} True and -p {name} False.",
    "int_type": " YAML reads 1e3 as text: write 1000, without quotes.",
    "float_type": " Write it as 0.001 or 1.0e-3.",
}


if __name__ == "__main__":
    raise SystemExit(main())
