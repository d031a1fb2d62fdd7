"""Tests of the shape of notebooks and parameter files: a notebook calls and looks, and runs without arguments."""

import ast
import json
import re
import statistics
from pathlib import Path

import nbformat
import papermill
import pytest
from click.testing import CliRunner
from papermill.cli import papermill as papermill_command

from lib import settings
from lib.runs.run import LITERAL
from lib.settings import KNOBS, check, load_profile

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
LAYERS = sorted((ROOT / "params").glob("*.yaml"))
PROFILES = [path for path in LAYERS if path.stem == "demo" or "profile" in load_profile(path)]  # others lie over them
SECTIONS = ["Load", "Experiment", "Look", "Check", "Conclusion", "Limits and next"]
PUBLISHED = json.loads((ROOT / "tests" / "profiles.json").read_text())  # what each profile, and some layers, come to
SCRATCH = ROOT / "notebooks" / "00_scratch.ipynb"  # which defines a function, in one cell, and has no result
# what a line of the parameters cell looks like: name: type = literal  # help
PARAMETER = re.compile(r"(?P<name>\w+): (?P<kind>\w+) = (?P<literal>.+?)  # (?P<help>.+)")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_profile = pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def prose(path):
    return [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]


def code_lines(source):
    return [line for line in source.splitlines() if line.strip() and not line.strip().startswith("#")]


def trees(path):
    """The syntax of every code cell but the idea of 00; what is no Python (a magic, a shell line) fails the test."""
    return [ast.parse(cell.source) for cell in code(path) if not is_idea(path, cell)]


def is_idea(path, cell):
    return path == SCRATCH and "\ndef " in cell.source


def nodes(path, *kinds):
    return [node for tree in trees(path) for node in ast.walk(tree) if isinstance(node, kinds)]


def declared(path):
    """Parameters of a notebook: name -> (type, default, help)."""
    found = [PARAMETER.fullmatch(line) for line in code(path)[0].source.splitlines()]
    assert all(found), "every line of the parameters cell must be `name: type = literal  # help`"
    return {m["name"]: (m["kind"], ast.literal_eval(m["literal"]), m["help"]) for m in found}


def row(path, name):
    """The text of a row of the table in the first cell."""
    return re.search(rf"^\| \*\*{name}\*\* \| (.+) \|$", prose(path)[0], re.MULTILINE)[1]


def quoted_files(text):
    return re.findall(r"`([^`]*[./][^`]*)`", text)


def test_there_are_notebooks_and_their_numbers_differ():
    assert NOTEBOOKS
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert len(set(numbers)) == len(numbers)


@each_notebook
def test_the_file_is_valid_and_clean(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "papermill" not in notebook.metadata
    for cell in notebook.cells:
        assert not set(cell.metadata) & {"papermill", "execution"}
        assert cell.source.strip() == cell.source != ""
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@each_notebook
def test_it_opens_with_a_question_and_what_it_takes(path):
    first = prose(path)[0]
    title = first.splitlines()[0]
    assert title.startswith(f"# {path.name[:2]} · ")
    assert title.endswith("?")
    assert read(path).cells[0].source == first
    for needed in (r"^\*\*Question\.\*\* \w", r"^\*\*Expectation\.\*\* \w"):
        assert re.search(needed, first, re.MULTILINE), needed
    for name in ("Reads", "Writes", "Cost"):
        assert len(row(path, name)) > 10


@each_notebook
def test_sections_come_in_their_order_and_limits_last(path):
    titles = re.findall(r"^## (.+)$", "\n\n".join(prose(path)), re.MULTILINE)
    assert [title for title in titles if title in SECTIONS] == SECTIONS
    assert titles[-1] == SECTIONS[-1]
    assert read(path).cells[-1].cell_type == "markdown"


@each_notebook
def test_parameters_are_the_second_cell_and_nothing_else_is_tagged(path):
    cells = read(path).cells
    tagged = [i for i, cell in enumerate(cells) if cell.metadata.get("tags")]
    assert tagged == [1]
    assert cells[1].metadata.tags == ["parameters"]
    assert cells[1].cell_type == "code"


@each_notebook
def test_parameters_are_those_of_the_workbook_as_it_describes_them(path):
    assert code(path)[0].source == settings.cell(path.stem), "run make cells: the cell is written from lib/settings.py"
    parameters = declared(path)
    assert len(parameters) == len(code(path)[0].source.splitlines())  # each once
    assert {"run", "profile", "seed"} <= set(parameters)
    defaults = {name: default for name, (_, default, _) in parameters.items()}
    assert check(defaults) == defaults == settings.defaults(path.stem)
    seen = papermill.inspect_notebook(str(path))  # what `papermill --help-notebook` shows
    assert {name: (p["inferred_type_name"], p["help"]) for name, p in seen.items()} == {
        name: (kind, told) for name, (kind, _, told) in parameters.items()
    }


@each_notebook
def test_imports_come_next_and_then_the_run_is_started(path):
    imports, start = trees(path)[1:3]
    assert all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in imports.body)
    assert len(nodes(path, ast.Import, ast.ImportFrom)) == len(imports.body)  # none later
    assert code(path)[2].source == f'run = start(globals(), "{path.stem}")'
    assert ("run.finish(" in code(path)[-1].source) == (path != SCRATCH)


@each_notebook
def test_it_calls_and_looks_and_the_library_computes(path):
    assert not nodes(path, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    imported = nodes(path, ast.Import, ast.ImportFrom)
    assert not [alias.name for node in imported for alias in node.names if alias.name == "*"]
    modules = {getattr(node, "module", None) or node.names[0].name for node in imported}
    assert not {module.split(".")[0] for module in modules} & {"fastai", "matplotlib", "seaborn", "soundfile", "timm"}
    assert nodes(path, ast.Assert)  # what must be true of the data just loaded


def test_the_idea_of_00_is_one_short_cell_and_an_augmentation():
    (cell,) = (cell for cell in code(SCRATCH) if is_idea(SCRATCH, cell))
    *_, function = ast.parse(cell.source).body
    assert isinstance(function, ast.FunctionDef) and ast.get_docstring(function)
    assert [argument.arg for argument in function.args.args] == ["x", "in_db", "generator"]
    assert len(code_lines(cell.source)) <= 10


@each_notebook
def test_no_magic_no_absolute_path_no_blanket_filter_no_dead_code(path):
    trees(path)  # `!pip` and `%cd` are no Python
    calls = {node.attr for node in nodes(path, ast.Attribute)} | {node.id for node in nodes(path, ast.Name)}
    assert not calls & {"filterwarnings", "simplefilter", "get_ipython", "chdir", "exit", "quit", "system"}
    texts = [node.value for node in nodes(path, ast.Constant) if isinstance(node.value, str)]
    assert not [text for text in texts if re.match(r"/\w|~|[A-Za-z]:\\", text)]
    for cell in code(path):
        for comment in re.findall(r"^\s*# ?(.+)$", cell.source, re.MULTILINE):
            assert not is_code(comment), f"commented-out code: {comment}"


def is_code(text):
    try:
        body = ast.parse(text.strip()).body
    except SyntaxError:
        return False
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, (ast.Name, ast.Constant))) for node in body)


@each_notebook
def test_cells_are_short_and_words_are_neither_few_nor_many(path):
    lines = [len(code_lines(cell.source)) for cell in code(path)]
    assert max(lines[1:]) <= 20  # the parameters cell has a line a knob
    assert sum(lines) <= 120
    assert statistics.median(lines) <= 4
    words = len(" ".join(prose(path)).split())
    assert 150 <= words <= 500


@each_notebook
def test_what_is_read_is_data_or_written_by_an_earlier_notebook(path):
    earlier = [other for other in NOTEBOOKS if other.name[:2] < path.name[:2]]
    for file in quoted_files(row(path, "Reads")):
        if file == "outputs/<run>/folds.csv":  # made by whichever comes first
            assert any(file in row(other, "Writes") for other in [*earlier, path])
        elif file.startswith("outputs/"):
            writers = [other for other in earlier if f"/{other.stem}/" in file]
            assert writers, f"{file} is written by no earlier notebook"
            assert Path(file).name in row(writers[0], "Writes") or file.endswith("/"), file


@each_notebook
def test_it_writes_into_its_own_folder(path):
    places = [file for file in quoted_files(row(path, "Writes")) if file.startswith("outputs/")]
    assert places
    allowed = (f"outputs/<run>/{path.stem}/", "outputs/<run>/folds.csv", "outputs/journal.csv")
    assert all(place.startswith(allowed) for place in places)


def test_every_key_of_the_workbook_is_declared_by_a_notebook():
    assert set(KNOBS) == set().union(*map(declared, NOTEBOOKS))
    assert {path.stem for path in NOTEBOOKS} == set(settings.NOTEBOOKS)


# profiles


def resolved(*names):
    """What parameter files come to, each over the one before."""
    found = settings.defaults()
    for name in names:
        found |= load_profile(ROOT / "params" / f"{name}.yaml")
    return found


@pytest.mark.parametrize("names", PUBLISHED)
def test_no_published_profile_changes_in_silence(names):
    """A changed default would. Where that is meant, change tests/profiles.json too, and say so in the commit."""
    found = resolved(*names.split())
    assert {name: found[name] for name in PUBLISHED[names]} == PUBLISHED[names]


@each_profile
def test_a_profile_names_itself_and_holds_only_what_differs(path):
    assert path.stem in PUBLISHED
    values, defaults = load_profile(path), settings.defaults()
    assert path.stem == "demo" or values["profile"] == path.stem
    assert not [name for name, value in values.items() if value == defaults[name]]
    keys = re.findall(r"^(\w+):", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(set(keys)) == len(keys)  # YAML takes the last of two in silence
    assert not {"fold", "holdout_fold", "variant", "overwrite"} & set(keys)  # which part, not what: those are typed


def test_what_lies_over_a_profile_says_little_and_what_it_knows():
    for path in LAYERS:
        assert path in PROFILES or 0 < len(load_profile(path)) < 10, path


def test_papermill_takes_a_profile_that_says_nothing(tmp_path):
    """It is all comment: YAML reads nothing at all."""
    out, profile = tmp_path / "out.ipynb", ROOT / "params" / "demo.yaml"
    assert load_profile(profile) == {}
    words = [str(ROOT / "notebooks" / "09_journal.ipynb"), str(out), "-f", str(profile), "--prepare-only"]
    answer = CliRunner().invoke(papermill_command, words)
    assert answer.exit_code == 0 and out.is_file(), answer.output


@each_notebook
def test_what_a_notebook_imports_is_no_plain_value(path):
    """`start` takes every plain value in the namespace for a parameter, and refuses one that there is not."""
    namespace = {}
    exec(code(path)[1].source, namespace)
    plain = [name for name, value in namespace.items() if isinstance(value, LITERAL) and not name.startswith("_")]
    assert "start" in namespace and plain == []
