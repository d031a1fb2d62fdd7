"""Which code made a result: a digest of what its numbers depend on, and of nothing else.

Every definition of lib/ that a notebook's entry points reach is read as a syntax tree, without docstrings, type
annotations and the words of its errors, and without the names of the modules that it lies in. So a comment, a figure
or a move to another module changes no digest; another line of arithmetic changes those of all results behind it.

Conventions
-----------
An entry point is "module.name", the module as it is called within lib/. What is reached is followed by name: functions,
classes (whole, with their methods) and constants of modules, through imports. Other packages are not followed:
manifest.json tells their versions. What an entry point is only handed (settings, for one) is an entry point too.

Used in: `cache` (the name of a cache), `runs` (manifest.json), `learners` (checkpoints), `plan`, 09.
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
TRIALS = (*TRAINING, "sweep.train", "comparisons.Comparison")
JUDGED = ("curation.all_evidence", "curation.inference_windows", "curation.write_selection")
CLIPS = (
    "nested.read",
    "nested.Reader",
    "nested.fit_readouts",
    "nested.read_outer",
    "choice.compare",
    "choice.take_best",
)
ENTRIES = {
    "frames": FRAMES,
    "signals": ("audio.read", "contents.statistics"),
    "01_eda": (*FRAMES, "contents.by_class", "contents.measure", "duplicates.find", "contents.domain_gap"),
    "02_features": TRIALS,
    "03_augmentation": TRIALS,
    "04_kfold": (*TRAINING, "modelset.ModelSet"),
    "05_curation": (*FRAMES, *JUDGED, "leaks.train", "leaks.tables", "variants.compare", "task.Task"),
    "06_stage2": (*FRAMES, *CLIPS, "nested.with_energy", "probes.rescored", "choice.write_choice"),
    "07_ensemble": (*TRAINING, "ensembles.train", "ensembles.orders", "ensembles.parts"),
    "08_submission": (*FRAMES, "submission.load", "submission.predict", "submission.conclude"),
    "10_best": (*CLIPS, "choice.read_candidates"),
}
COMPUTES_NOTHING = (
    "files",
    "ideas",
    "settings",
)  # modules that are not followed: where bytes lie is no number, and a knob's
# value stands in the configuration
PASSED_OVER = ("annotation", "returns", "ctx", "kind", "type_comment", "type_params")


def digest(notebook: str) -> str:
    """12 hex digits of the code that the results of a notebook depend on; of "frames", what log-mels depend on; of
    "signals", what statistics of clips do.

    A notebook without entry points (09 computes nothing of its own) has the digest of no code.

    Raises
    ------
    LookupError
        An entry point that lib/ does not define.
    """
    return _digest(ENTRIES.get(notebook, ()))


def by_other_code(folders: Iterable[Path], outputs: Path) -> list[str]:
    """Which finished results other code has made than what lies here now: their folders, relative to `outputs`.

    Parameters
    ----------
    folders : parts, or folders of parts; all below `outputs`
    """
    found = []
    for path in sorted({path for folder in folders for path in folder.rglob("result.json")}):
        beside = path.with_name("manifest.json")
        made_by = read_json(beside).get("code") if beside.is_file() else None
        if made_by != digest(next((name for name in path.parts if name in ENTRIES), "")):
            found.append(path.parent.relative_to(outputs).as_posix())
    return found


@remember
def _digest(entries: tuple[str, ...]) -> str:
    modules = _modules()
    todo = [(name, entry.split(".")[1]) for entry in entries for name in modules if _last(name) == entry.split(".")[0]]
    if len(todo) != len(entries) or any(name not in _definitions(module) for module, name in todo):
        raise LookupError(f"lib/ does not define each of {', '.join(entries)} once. Mend code.ENTRIES.")
    reached: dict[tuple[str, str], str] = {}
    while todo:
        module, name = todo.pop()
        known = _definitions(module) if module in modules and _last(module) not in COMPUTES_NOTHING else {}
        if (module, name) not in reached and name in known:
            reached[module, name], leads_to = known[name]
            todo += leads_to
    return digest_of(sorted(reached.values()))


@remember
def _modules() -> dict[str, Traversable]:
    """The files of all modules of lib/, in a folder or in the zip that a kernel holds."""
    found, folders = {}, [("lib", resources.files("lib"))]
    while folders:
        package, folder = folders.pop()
        for entry in folder.iterdir():
            name = f"{package}.{entry.name.removesuffix('.py')}"
            if entry.is_dir():
                folders.append((name, entry))
            elif entry.name.endswith(".py") and entry.name != "__init__.py":
                found[name] = entry
    return found


@remember
def _definitions(module: str) -> dict[str, tuple[str, set]]:
    """Top-level names of a module: name -> (text of what defines it, the (module, name) that it leads to)."""
    modules = _modules()
    tree = ast.parse(modules[module].read_text(encoding="utf-8"))
    aliases = {}  # name here -> (module, name there), or (module, "") for a module
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lib":
            for item in node.names:
                full = f"{node.module}.{item.name}"
                aliases[item.asname or item.name] = (full, "") if full in modules else (node.module, item.name)
    found: dict[str, tuple[str, set]] = {}
    for node in tree.body:
        leads_to: set[tuple[str, str]] = set()
        text = _text(node, module, aliases, leads_to)
        for name in _defined(node):
            before, leads_before = found.get(name, ("", set()))
            found[name] = before + text, leads_before | leads_to
    return found


def _defined(node: ast.stmt) -> list[str]:
    """The names that a statement of a module defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]


def _text(node: object, module: str, aliases: Mapping[str, tuple[str, str]], leads_to: set) -> str:
    """A syntax tree as text, without what changes no number; what it names is added to `leads_to`."""

    def text(part: object) -> str:
        if isinstance(part, list):
            return f"[{', '.join(map(text, part))}]"
        if not isinstance(part, ast.AST):
            return repr(part)
        if isinstance(part, ast.Raise):  # the words of an error
            return "Raise"
        if isinstance(part, ast.Name):
            place, name = aliases.get(part.id, (module, part.id))
            leads_to.add((place, name))
            return name or part.id
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            place, name = aliases.get(part.value.id, ("", "-"))
            if not name:  # module.name, wherever the module lies
                leads_to.add((place, part.attr))
                return part.attr
        if isinstance(part, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(part) is not None:
            part.body = part.body[1:]
        fields = ((key, value) for key, value in ast.iter_fields(part) if key not in PASSED_OVER and value)
        return f"{type(part).__name__}({', '.join(f'{key}={text(value)}' for key, value in fields)})"

    return text(node)


def _last(name: str) -> str:
    return name.rpartition(".")[2]
