"""A digest of the code that made a result: of all code that its numbers depend on, and of no other code.

Every definition of lib/ that a notebook's entry points reach is read as a syntax tree. Docstrings, type annotations,
the texts of errors and the names of modules are left out. So a comment, a figure or a move to another module changes
no digest; a changed line of arithmetic changes the digests of all results that depend on it.

Conventions
-----------
An entry point is "module.name", with the last part of the module's name. Names are followed through imports to
functions, classes (with all methods) and constants of modules. Other packages are not followed: manifest.json has their
versions. Code that an entry point only gets as an argument (such as settings) needs an entry point of its own.

Used in: `cache` and `contents` (names of caches), `run` (manifest.json), `learners` (checkpoints), `journal`.
"""

import ast
from collections.abc import Iterable, Mapping
from functools import cache as remember
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from lib.files import digest as digest_of
from lib.files import read_json

__all__ = ["ENTRIES", "by_other_code", "digest"]

FRAMES = ("audio.read", "features.LogMel", "cache._transformed")
SCORING = ("models.score", "oof.save", "oof.read", "metrics.bootstrap")
TRAINED = ("learners.Recipe", "learners.train_fold", "task.Task", "training_sets.make", "windows.Windows")
TRAINING = (*FRAMES, *SCORING, *TRAINED)
TRIALS = (*TRAINING, "sweep.train", "comparisons.Comparison", "metrics.baseline")
POOLED = ("metrics.baseline", "metrics.confusions", "metrics.fresh", "metrics.per_class_lwlrap")
CONTENTS = ("contents.by_class", "contents.cardinality", "contents.domain_gap", "contents.measure", "contents.medians")
CONTENTS += ("contents.co_occurrence", "contents.imbalance", "contents.priors", "contents.traits", "contents.trimming")
JUDGED = ("curation.all_evidence", "curation.inference_windows", "curation.write_selection", "probes.truth_curves")
JUDGED += ("curation.by_class", "curation.result_metrics", "curation.surprising", "metrics.baseline")
JUDGED += ("probes.silence_kept",)
NESTED = ("nested.read", "nested.read_seeds", "nested.Reader", "nested.fit_readouts", "nested.inner_scores")
NESTED += ("nested.read_outer",)
CLIPS = (*NESTED, "choice.compare", "choice.take_best", "choice.result_metrics")
ENSEMBLES = ("ensembles.members", "ensembles.orders", "ensembles.parts", "ensembles.result_metrics", "ensembles.train")
PROBES = ("probes.by_length", "probes.changed", "probes.learning_curve", "probes.poolings", "probes.random_windows")
PROBES += ("probes.rescored", "probes.selection", "probes.shift", "probes.silenced")
ENTRIES = {
    "frames": FRAMES,
    "signals": ("audio.read", "contents.statistics"),
    "01_eda": (*FRAMES, *CONTENTS, "duplicates.find", "duplicates.proposed_groups"),
    "02_features": (*TRIALS, "sweep.costs"),
    "03_augmentation": (*TRIALS, "contents.by_class", "sweep.find_lr"),
    "04_kfold": (*TRAINING, *POOLED, "modelset.ModelSet"),
    "05_curation": (*FRAMES, *JUDGED, "leaks.train", "leaks.tables", "variants.compare", "task.Task"),
    "06_stage2": (*FRAMES, *CLIPS, *PROBES, "nested.with_energy", "choice.write_choice"),
    "07_ensemble": (*TRAINING, *ENSEMBLES, "ensembles.verdict", "metrics.baseline"),
    "08_submission": (*FRAMES, "submission.load", "submission.predict", "submission.conclude", "submission.compare"),
    "10_best": (*CLIPS, *POOLED, "choice.read_candidates"),
}
NOT_FOLLOWED = ("files", "ideas", "settings")  # paths change no number; the configuration has the values of the knobs
IGNORED_FIELDS = ("annotation", "returns", "ctx", "kind", "type_comment", "type_params")


def digest(notebook: str) -> str:
    """12 hex digits of the code that the results of a notebook depend on.

    A notebook without entry points (09 computes no numbers itself) has the digest of no code.

    Parameters
    ----------
    notebook : a key of ENTRIES: a notebook, "frames" (for log-mels) or "signals" (for statistics of clips); any other
        has no entry points

    Raises
    ------
    LookupError
        lib/ does not define an entry point.
    """
    return _digest(ENTRIES.get(notebook, ()))


def by_other_code(folders: Iterable[Path], outputs: Path) -> list[str]:
    """Folders, relative to `outputs`, of the finished results that were made by other code than the code here now.

    Parameters
    ----------
    folders : folders of parts, or folders above them; all below `outputs`
    """
    made_by_other = []
    for path in sorted({path for folder in folders for path in folder.rglob("result.json")}):
        beside = path.with_name("manifest.json")
        made_by = read_json(beside).get("code") if beside.is_file() else None
        if made_by != digest(next((name for name in path.parts if name in ENTRIES and name[0].isdigit()), "")):
            made_by_other.append(path.parent.relative_to(outputs).as_posix())
    return made_by_other


@remember
def _digest(entries: tuple[str, ...]) -> str:
    modules = _modules()
    todo = [(name, entry.split(".")[1]) for entry in entries for name in modules if _last(name) == entry.split(".")[0]]
    if len(todo) != len(entries) or any(name not in _definitions(module) for module, name in todo):
        raise LookupError(f"lib/ does not define each of {', '.join(entries)} once. Mend code.ENTRIES.")
    reached: dict[tuple[str, str], str] = {}
    while todo:
        module, name = todo.pop()
        known = _definitions(module) if module in modules and _last(module) not in NOT_FOLLOWED else {}
        if (module, name) not in reached and name in known:
            reached[module, name], leads_to = known[name]
            todo += leads_to
    return digest_of(sorted(reached.values()))


@remember
def _modules() -> dict[str, Traversable]:
    """Name -> file of every module of lib/, in a folder or in the zip of a kernel."""
    root = resources.files("lib")
    packages = {"lib": root} | {f"lib.{room.name}": room for room in root.iterdir() if room.is_dir()}
    files = [(package, file) for package, folder in packages.items() for file in folder.iterdir()]
    return {f"{package}.{file.name.removesuffix('.py')}": file for package, file in files if file.name.endswith(".py")}


@remember
def _definitions(module: str) -> dict[str, tuple[str, set]]:
    """Top-level names of a module: name -> (text of its definition, the (module, name) pairs that it leads to)."""
    modules = _modules()
    tree = ast.parse(modules[module].read_text(encoding="utf-8"))
    aliases = {}  # name here -> (module, name there), or (module, "") for a module
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lib":
            for item in node.names:
                full = f"{node.module}.{item.name}"
                aliases[item.asname or item.name] = (full, "") if full in modules else (node.module, item.name)
    definitions: dict[str, tuple[str, set]] = {}
    for node in tree.body:
        leads_to: set[tuple[str, str]] = set()
        text = _text(node, module, aliases, leads_to)
        for name in _defined(node):
            before, leads_before = definitions.get(name, ("", set()))
            definitions[name] = before + text, leads_before | leads_to
    return definitions


def _defined(node: ast.stmt) -> list[str]:
    """The names that a top-level statement defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]


def _text(node: object, module: str, aliases: Mapping[str, tuple[str, str]], leads_to: set) -> str:
    """A syntax tree as text, without the parts that change no number. Adds the names in it to `leads_to`."""

    def text(part: object) -> str:
        if isinstance(part, list):
            return f"[{', '.join(map(text, part))}]"
        if not isinstance(part, ast.AST):
            return repr(part)
        if isinstance(part, ast.Raise):  # the text of an error changes no number
            return "Raise"
        if isinstance(part, ast.Name):
            place, name = aliases.get(part.id, (module, part.id))
            leads_to.add((place, name))
            return name or part.id
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            place, name = aliases.get(part.value.id, ("", "-"))
            if not name:  # module.name, without the name of the module
                leads_to.add((place, part.attr))
                return part.attr
        if isinstance(part, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(part) is not None:
            part.body = part.body[1:]
        fields = (
            (key, value)
            for key, value in ast.iter_fields(part)
            if key not in IGNORED_FIELDS and (value or isinstance(part, ast.Constant))
        )
        return f"{type(part).__name__}({', '.join(f'{key}={text(value)}' for key, value in fields)})"

    return text(node)


def _last(name: str) -> str:
    return name.rpartition(".")[2]
