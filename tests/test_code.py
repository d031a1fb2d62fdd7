"""Tests of code: the digest moves with what computes numbers, and with nothing else."""

import ast
import json
import re
from importlib import resources
from pathlib import Path

import pytest

from lib import code

LIB = Path(code.__file__).parent


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """lib/ as it lies, to be edited: edit(module, old, new), and the digests of the copy."""
    for path in LIB.rglob("*.py"):
        place = tmp_path / "lib" / path.relative_to(LIB)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(resources, "files", lambda _: tmp_path / "lib")

    def edit(module, old="", new=""):
        path = next((tmp_path / "lib").rglob(f"{module}.py"))
        assert path.read_text().count(old) >= 1
        path.write_text(path.read_text().replace(old, new, 1))

    def digests():
        for remembered in (code._digest, code._modules, code._definitions):
            remembered.cache_clear()
        return {notebook: code.digest(notebook) for notebook in code.ENTRIES}

    yield edit, digests, tmp_path / "lib"
    for remembered in (code._digest, code._modules, code._definitions):
        remembered.cache_clear()


def changed(before, after):
    return {notebook for notebook in before if before[notebook] != after[notebook]}


TRAINED = {"02_features", "03_augmentation", "04_kfold", "05_curation", "06_stage2", "07_ensemble", "10_best"}


@pytest.mark.parametrize(
    ("module", "old", "new", "moved"),
    [
        (
            "features",
            "decibels.max() - settings.top_db",
            "decibels.max() + settings.top_db",
            {*code.ENTRIES} - {"signals"},
        ),
        ("augment", "GAIN_DB = 6.0", "GAIN_DB = 7.0", TRAINED - {"06_stage2", "10_best"}),
        ("learners", "WEIGHT_DECAY = 0.01", "WEIGHT_DECAY = 0.02", TRAINED),
    ],
)
def test_what_computes_numbers_moves_the_digests_of_what_is_made_with_it(copy, module, old, new, moved):
    edit, digests, _ = copy
    before = digests()
    edit(module, old, new)
    found = changed(before, digests())
    assert found == moved


@pytest.mark.parametrize(
    ("before", "after"),
    [("x.mean(0)", "x.mean(None)"), ("f(axis=0)", "f(axis=None)"), ("a[0]", "a[None]"), ("0", "0.0")],
)
def test_nothing_is_not_zero(before, after):
    texts = {code._text(ast.parse(line).body[0], "lib.x", {}, set()) for line in (before, after)}
    assert len(texts) == 2


def test_a_comment_a_docstring_an_annotation_a_figure_and_the_words_of_an_error_move_none(copy):
    edit, digests, lib = copy
    before = digests()
    edit("augment", "GAIN_DB = 6.0", "# louder, softer\nGAIN_DB = 6.0  # dB")
    edit("scores", "def ", "def unheard_of() -> None:\n    print('figure')\n\n\ndef ")
    edit("learners", '"""Train a model and score the clips', '"""Train one model and score all clips')
    edit("learners", "name: str,", "name: 'str',")
    edit("learners", "training clips: at least 2 are needed", "training clips: two or more are needed")
    edit("files", "MB free", "megabytes free")  # where bytes lie is no number
    assert changed(before, digests()) == set()


def test_a_move_to_another_module_moves_none(copy):
    edit, digests, lib = copy
    before = digests()
    source = (lib / "data" / "audio.py").read_text()
    start, end = source.index("def _mono("), source.index("def _check_riff(")
    head = "import numpy as np\n\nfrom lib.data.audio import CANCELLED, AudioError\n\n\n"
    (lib / "sound" / "mixing.py").write_text(head + source[start:end].rstrip() + "\n")
    (lib / "data" / "audio.py").write_text(source[:start] + source[end:])
    edit("audio", "from lib.files import", "from lib.sound import mixing\nfrom lib.files import")
    text = (lib / "data" / "audio.py").read_text()
    assert "_mono(" in text
    (lib / "data" / "audio.py").write_text(text.replace("_mono(", "mixing._mono("))
    assert changed(before, digests()) == set()


def reached(notebook):
    """module.name of all code that the digest of a notebook is made from."""
    place = {name.rpartition(".")[2]: name for name in code._modules()}
    todo = [(place[entry.split(".")[0]], entry.split(".")[1]) for entry in code.ENTRIES[notebook]]
    found = set()
    while todo:
        at = todo.pop()
        known = code._definitions(at[0]) if at[0] in code._modules() else {}
        if at not in found and at[1] in known:
            found.add(at)
            todo += known[at[1]][1]
    return {f"{module.rpartition('.')[2]}.{name}" for module, name in found}


def source_of(notebook):
    cells = json.loads((LIB.parent / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize("notebook", sorted(code.ENTRIES.keys() - {"frames", "signals"}))
def test_it_reaches_what_a_notebook_saves(notebook):
    """Or a changed formula would leave old numbers in place without a word."""
    source = source_of(notebook)
    imported = re.findall(r"^from lib\.(?!figures)\w+ import (.+)$", source, re.MULTILINE)
    modules = "|".join(name.strip() for line in imported for name in line.split(","))
    saved = re.findall(rf'save_table\(\s*"\w+",\s*((?:{modules})\.\w+)\(', source)
    saved += re.findall(rf"\b((?:{modules})\.result_metrics)\(", source)
    assert set(saved) <= reached(notebook)


def test_it_reaches_what_frames_batches_training_and_scoring_are_made_of():
    names = reached("04_kfold")
    assert {"features.LogMel", "audio.read", "batches.Training", "augment.spec_augment", "callbacks.Mixing"} <= names
    assert {"learners.fit", "models.WindowModel", "windows.rolling", "metrics.lwlrap", "folds.assert_no_leak"} <= names
    assert not {name for name in names if name.split(".")[0] in ("scores", "runs", "journal", "report", "kaggle")}


def test_an_entry_point_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setitem(code.ENTRIES, "04_kfold", ("learners.train_folds",))
    with pytest.raises(LookupError, match="does not define each of learners.train_folds once"):
        code.digest("04_kfold")


def test_results_without_a_digest_or_with_another_one_are_by_other_code(tmp_path):
    outputs = tmp_path / "signals"  # a folder may have the name of an entry
    for name, made in {"a": {"code": code.digest("04_kfold")}, "b": {"code": "0" * 12}, "c": {}}.items():
        part = outputs / "run" / "04_kfold" / name
        part.mkdir(parents=True)
        (part / "result.json").write_text("{}")
        (part / "manifest.json").write_text(json.dumps(made))
    assert code.by_other_code([outputs / "run"], outputs) == ["run/04_kfold/b", "run/04_kfold/c"]


def test_every_notebook_that_computes_has_entry_points():
    notebooks = {path.stem for path in (LIB.parent / "notebooks").glob("[01]*.ipynb")}
    assert notebooks - {"00_scratch", "09_journal"} <= code.ENTRIES.keys()
    assert all(ast.parse(entry) for entries in code.ENTRIES.values() for entry in entries)


# What notebooks call that makes no number of a result: what is read, words, what is only looked at, and files written.
NO_NUMBERS = {
    "ModelSet.open", "bundle.of", "cache.build", "choice.conclusion", "comparisons.shown", "contents.describe_gap",
    "contents.describe_repeats", "contents.describe_sound", "curation.conclusion", "datasets.group_digests",
    "datasets.label_digests", "datasets.load", "datasets.targets", "datasets.with_audio", "demo.read_truth",
    "duplicates.as_problems", "duplicates.side_by_side", "ensembles.conclusion", "ensembles.trained_on",
    "files.digest", "leaks.conclusion", "metrics.fresh_in_words", "metrics.in_words", "nested.prediction_images",
    "probes.selection_conclusion", "probes.silent_example", "probes.truth_conclusion", "probes.typical",
    "submission.check", "submission.class_notes", "submission.examples", "submission.read", "submission.read_clips",
    "modelset.refuse_other_settings", "submission.write", "sweep.augmentation", "sweep.augmented",
    "sweep.channels", "sweep.features", "sweep.learning_rates", "sweep.networks", "sweep.select",
    "training_sets.sources", "variants.commands", "variants.conclusion", "windows.Windows",
}  # fmt: skip


@pytest.mark.parametrize("notebook", sorted(code.ENTRIES.keys() - {"frames", "signals"}))
def test_the_digest_of_a_notebook_covers_what_it_calls(notebook):
    tree = ast.parse(re.sub(r"^%.*$", "", source_of(notebook), flags=re.MULTILINE))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module.startswith("lib")]
    named = {alias.asname or alias.name: (node.module, alias.name) for node in imported for alias in node.names}
    called = {
        f"{named[node.value.id][1]}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in named
        if named[node.value.id][0] != "lib.figures"
    }
    assert called - reached(notebook) <= NO_NUMBERS
