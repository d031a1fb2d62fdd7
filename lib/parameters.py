"""The keys of the workbook: every parameter that any notebook knows, with type, range and unit.

papermill only logs a misspelt key and goes on with the default, and YAML reads `lr: 1e-3` as text. So every notebook
has its parameters checked here before anything is read or written.

Conventions
-----------
A parameters cell holds `name: type = literal  # help`, one a line; the help text is the one of `KEYS`.
A parameter file (params/<profile>.yaml) is flat. A list may come as comma-separated text (`-p variants a,b`).

Standard library only, but for reading a file: kernels are packed without an environment.

Used in: `runs.start`, `kaggle`, the pipeline, and the test that holds notebooks and profiles together.
"""

import ast
import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

__all__ = [
    "DATA",
    "KEYS",
    "PLACE",
    "Key",
    "check",
    "configuration",
    "declared",
    "differences",
    "image_pixels",
    "load_profile",
    "other_data",
]


@dataclass(frozen=True)
class Key:
    """One parameter: its type, what it means (with unit) and, for numbers, the closed range it must lie in.

    Range, choices and pattern of a list are those of its items, which are of the type `items`; each must be there once
    where it is `unique`.
    """

    kind: type
    help: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    pattern: str = ""
    items: type = str
    unique: bool = False


RULE = r"[a-z]+(_[0-9.]+)?"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # names become folders
VARIANT = rf"{NAME}(\+{NAME})*"  # of an experiment; several are made together
PLACE = (
    *("run", "profile", "data_dir", "folds_csv", "weights", "overwrite", "strict"),
    *("variant", "fold", "holdout_fold", "variants", "retrain", "folds", "seeds", "ensemble_folds", "tabulate"),
    "developed_on",
)
DATA = ("labels", "audio", "folds")  # of a configuration: digests of what a result is made of
TAKEN = r"(?!(cache|demo-data|findings|replaced)$)"

KEYS = {
    # what is run
    "run": Key(
        str, "folder under outputs/, but cache, demo-data, findings and replaced are taken", pattern=TAKEN + NAME
    ),
    "profile": Key(str, "name of the parameter file, params/<profile>.yaml"),
    "tabulate": Key(bool, "False: a job of many, that only trains; tables are left to a last call"),
    "overwrite": Key(bool, "True moves what this variant holds to outputs/replaced and starts again"),
    "seed": Key(int, "seed of weights and batches", 0, 2**31 - 1),
    # data and folds
    "data_dir": Key(str, "folder of the data set; demo: synthesise one"),
    "esc10_only": Key(bool, "ESC-50: only the clips of ESC-10"),
    "strict": Key(bool, "True stops at an unusable clip; False lists it and leaves it out"),
    "n_folds": Key(int, "folds, where the set has no published ones", 2, 100),
    "folds_csv": Key(str, "folds to use instead (fname,fold); empty: make them"),
    "developed_on": Key(
        list,
        "folds whose scores were seen while the recipe was made; the others are scored apart",
        *(0, 99),
        items=int,
        unique=True,
    ),
    # features
    "sample_rate": Key(int, "Hz, clips are resampled to it", 1000, 192_000),
    "n_fft": Key(int, "samples in the Hann window", 16, 65_536),
    "hop_length": Key(int, "samples between frames", 1, 65_536),
    "n_mels": Key(int, "mel bands", 8, 1024),
    "fmin": Key(float, "Hz, lowest band edge", 0, 96_000),
    "channels": Key(list, "one to three pictures of the sound: logmel, logmel_2048, delta, acceleration, phase, pcen"),
    # windows
    "window_s": Key(float, "s, length of a window", 0.05, 120),
    "hop_s": Key(float, "s, between starts of inference windows", 0.01, 120),
    "trim_train_db": Key(
        float, "dB below the loudest frame; clips are cut to what is louder, in training; 0: off", 0, 120
    ),
    "trim_inference_db": Key(float, "the same at inference", 0, 120),
    # 02, 03: experiments
    "variants": Key(list, "names in the table of the experiment, a+b: both; empty: all", pattern=VARIANT),
    "folds": Key(list, "folds held out, one training each; empty: all", 0, 99, items=int, unique=True),
    "seeds": Key(
        list,
        "seeds of weights and batches, one training each; a verdict wants three",
        *(0, 2**31 - 1),
        items=int,
        unique=True,
    ),
    "trial_epochs": Key(
        int, "passes over the training clips in each training, at the base's size of pictures", 1, 100_000
    ),
    # 01: what is in a clip
    "silence_db": Key(float, "dB below a clip's peak; what stays below is silence", 1, 120),
    # 04: which model
    "variant": Key(str, "name of training set x recipe; one configuration a name", pattern=NAME),
    "fold": Key(int, "fold held out, from 0; -1 pools the folds that are done", -1, 99),
    "holdout_fold": Key(int, "second fold held out (pair model); -1: none", -1, 99),
    "train_set": Key(
        str,
        "clips: curated, curated_noisy, warm_up (noisy first), pseudo (judges label), fewer_passes",
        choices=("curated", "curated_noisy", "warm_up", "pseudo", "fewer_passes"),
    ),
    "train_windows": Key(
        str,
        "windows: all, kept (by 05), kept_noisy (of noisy clips; all of curated ones)",
        choices=("all", "kept", "kept_noisy"),
    ),
    "rule": Key(str, "rule of 05 by which windows are kept", pattern=RULE),
    "ignore_missing": Key(bool, "True: classes that judges hear though a clip lists them not count for nothing"),
    # 05: curation
    "part": Key(
        str,
        "select windows; compare what was trained on them; auto: what comes next",
        choices=("auto", "select", "compare"),
    ),
    "rules": Key(list, "rules that select windows, name_number; empty: all with their own number", pattern=RULE),
    "retrain": Key(list, "training sets of 04 to compare, as 05 lists them; empty: all", pattern=NAME),
    "gate_db": Key(float, "dB below a clip's loudest frame; windows that stay below are silent", 1, 120),
    "keep_best": Key(bool, "True: a curated clip that would lose all its windows keeps its best"),
    # 06: from windows to clips
    "max_clip_s": Key(float, "s, longest stretch that stage 2 reads: the middle of longer clips", 0.1, 600),
    "class_order": Key(
        str, "rows of prediction images: alphabetical, confusion (by likeness)", choices=("alphabetical", "confusion")
    ),
    "stage2_models": Key(list, "of cnn, cnn_logits, conv1d, attention, gru, logistic; empty: all", pattern=NAME),
    "stage2_epochs": Key(int, "passes over the training images", 1, 100_000),
    # 07: from models to one
    "ensemble_epochs": Key(int, "passes over the training clips that each strategy may spend", 3, 100_000),
    "ensemble_folds": Key(list, "numbers of fold models to compare, at equal compute; empty: none", 2, 20, items=int),
    # 10: as good as it gets
    "candidates": Key(
        list, "variants of 04 to choose among, a+b: the average of both; empty: none", pattern=VARIANT, unique=True
    ),
    "readouts": Key(list, "poolings and stage-2 models to choose among; empty: all but energy's", pattern=NAME),
    "repeats": Key(int, "trainings of each 04 model of a candidate, with seeds that count on from `seed`", 1, 100),
    # network and training
    "arch": Key(str, "timm model, from scratch"),
    "image_size": Key(int, "pixels a side that windows are resized to; 0: as they are", 0, 1024),
    "normalise": Key(str, "by mean and std of: set (training clips), band (each mel band of them), window (itself)"),
    "loss": Key(
        str, "bce: any labels; ce: one label a clip; lq: bce's noise-robust rival", choices=("bce", "ce", "lq")
    ),
    "epochs": Key(int, "passes over the training clips, one window each", 1, 100_000),
    "batch_size": Key(int, "windows in a training batch", 2, 4096),
    "lr": Key(float, "peak learning rate of the last layer", 1e-8, 10),
    "lr_body": Key(float, "peak learning rate of the first layers; 0: as lr", 0, 10),
    "schedule": Key(str, "of the learning rate: one_cycle, flat, flat_cosine"),
    "progressive": Key(list, "image sizes before image_size, equal compute each; empty: none", 32, 1024, items=int),
    "mixup": Key(float, "alpha of mixup's Beta distribution; 0: no mixing", 0, 10),
    "mix": Key(str, "how two windows are mixed: mixup, mixup_or, mixup_or_bounded, mixup_power, cutmix, overlay"),
    "mask_share": Key(float, "SpecAugment: widest mask, share of its axis; 0: off", 0, 0.9),
    "augment": Key(list, "changes to training windows, in order: gain, shift_wrap, shift_pad, equaliser, stretch"),
    "balance": Key(
        str, "an epoch's windows: clip (one each), seconds, effective, augment (wider masks for rare audio)"
    ),
    # 08: scoring of test clips
    "weights": Key(str, "folder of a packed run; empty: what this run trained; kaggle: a kernel's input"),
    "budget_s": Key(float, "s, from the start, that scoring may take; 0: as long as it takes", 0, 1_000_000),
    # 09: the journal
    "only": Key(list, "words of a notebook's name or question; rows without any are hidden; empty: all rows"),
    "base_run": Key(
        str, "run whose curated models are the base; empty: those of the same run", pattern=f"({TAKEN}{NAME})?"
    ),
}


def check(values: Mapping[str, object]) -> dict[str, object]:
    """The values in their right types.

    Raises
    ------
    ValueError
        An unknown key (with the nearest known one), a wrong type, a value out of range, or one fold or seed twice.
    """
    return {name: _checked(name, value) for name, value in values.items()}


def load_profile(path: Path) -> dict[str, object]:
    """Read and check a parameter file.

    Raises
    ------
    FileNotFoundError
        With the profiles that there are.
    ValueError
        If it is not a flat mapping, or `check` refuses a value.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise FileNotFoundError(f"There is no parameter file {path}. There are: {', '.join(there) or 'none'}.")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict | None):
        raise ValueError(f"{path} must hold `key: value` lines, not a {type(values).__name__}.")
    return check(values or {})


def declared(notebook: dict) -> set[str]:
    """Names in the parameters cell of a notebook, as read from its JSON; ValueError if it has none."""
    for cell in notebook["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            lines = ast.parse("".join(cell["source"])).body
            return {line.target.id for line in lines if isinstance(line, ast.AnnAssign)}
    raise ValueError("The notebook has no cell that is tagged `parameters`. Take one of notebooks/.")


def configuration(params: Mapping[str, object]) -> dict[str, object]:
    """The parameters that make a variant what it is; the others say where it lies and which part of it is made."""
    place = (*PLACE, "seed") if "seeds" in params else PLACE
    return {name: value for name, value in params.items() if name not in place}


def differences(theirs: Mapping[str, object], mine: Mapping[str, object], *, common: bool = False) -> str:
    """What differs between two configurations, in words; "" where nothing does.

    A value by subset (digests of labels, of audio) is compared subset by subset. With `common`, only what both know.
    """
    sides = [
        {(name, subset): value for name, found in side.items() for subset, value in _by_subset(found).items()}
        for side in (theirs, mine)
    ]
    keys = sides[0].keys() & sides[1].keys() if common else sides[0].keys() | sides[1].keys()
    pairs = {key: (sides[0].get(key), sides[1].get(key)) for key in sorted(keys)}
    return ", ".join(
        f"{f'{name} of {subset} clips' if subset else name}: {there!r} there, {here!r} now"
        for (name, subset), (there, here) in pairs.items()
        if there != here
    )


def other_data(theirs: Mapping[str, object], mine: Mapping[str, object]) -> str:
    """What differs in the data that two results were made of (`DATA`), in words, of what both of them know."""
    sides = ({name: side[name] for name in DATA if name in side} for side in (theirs, mine))
    return differences(*sides, common=True)


def _by_subset(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {"": value}


def image_pixels(params: Mapping[str, object]) -> float:
    """Pixels of a training picture under these parameters; with progressive resizing, of its mean epoch.

    Compute is counted in them: epochs times pixels.
    """
    if params["image_size"]:
        sizes = [*params["progressive"], params["image_size"]]
        return len(sizes) / sum(1 / size**2 for size in sizes)  # equal compute at each size: epochs go with 1 / size^2
    return params["n_mels"] * params["window_s"] * params["sample_rate"] / params["hop_length"]


def _checked(name: str, value: object) -> object:
    if name not in KEYS:
        near = difflib.get_close_matches(str(name), KEYS, n=1, cutoff=0.5)  # YAML reads `1:` and `on:` as no text
        hint = f" Did you mean {near[0]!r}?" if near else f" Known are: {', '.join(sorted(KEYS))}."
        raise ValueError(f"{name!r} is no parameter of this workbook.{hint}")
    key = KEYS[name]
    if key.kind is list:
        items = [_checked_value(name, item, replace(key, kind=key.items)) for item in _listed(value, key.items)]
        if key.unique and len(set(items)) < len(items):
            raise ValueError(
                f"{name}={items} names one more than once, which adds nothing. Name each once ({key.help})."
            )
        return items
    return _checked_value(name, value, key)


def _listed(value: object, kind: type) -> list:
    """A list as typed: YAML's, comma-separated text, or one item alone (`-p folds 2`)."""
    if isinstance(value, str):
        items = [item.strip() for item in value.split(",") if item.strip()]
        return [int(item) if kind is int and item.isdecimal() else item for item in items]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _checked_value(name: str, value: object, key: Key) -> object:
    if key.kind is float and type(value) is int:
        value = float(value)
    if key.kind is str and type(value) in (int, float):
        value = str(value)  # -p run 7
    if type(value) is not key.kind:
        raise ValueError(_wrong_type(name, value, key))
    if key.kind in (int, float) and not key.low <= value <= key.high:
        raise ValueError(f"{name}={value} is out of range: {key.low:g} to {key.high:g} is allowed ({key.help}).")
    if key.choices and value not in key.choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(key.choices)} ({key.help}).")
    if key.pattern and not re.fullmatch(key.pattern, value):
        raise ValueError(f"{name}={value!r} must be letters, digits, '.', '_' and '-' ({key.help}).")
    return value


def _wrong_type(name: str, value: object, key: Key) -> str:
    need = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}[key.kind]
    message = f"{name}={value!r} is a {type(value).__name__}, but {need} is needed ({key.help})."
    if isinstance(value, str) and key.kind in (int, float):
        return message + " YAML reads 1e-3 as text: write 1.0e-3."
    if isinstance(value, str) and key.kind is bool:
        return message + f" papermill's -p knows -p {name} True and -p {name} False."
    return message
