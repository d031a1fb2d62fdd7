"""What a run publishes: its executed notebooks as pages, and the numbers in README and docs.

Conventions
-----------
report   : a folder of pages, one for every executed.ipynb below outputs/<run>/, and an index with the question, answer
           and main figure of each part. Pages of single trainings (`without_2` ...) are linked from the page of their
           part. A page contains its figures, sounds and styles. It loads nothing and names no folder of this machine,
           so it can be opened from disk or sent to others.
findings : outputs/findings/sources.yaml maps each file there to a file of a run, below outputs/. A list of result.json
           becomes a table of their metrics, a row a run. Results of other code than is here now are not copied, nor are
           tables with more seeds than their result has.
front.md : in outputs/findings, a Jinja2 template of the blocks with numbers in PAGES, each between `<!-- name -->` and
           `<!-- /name -->`. `{{ n("table", "row", "column") }}` is a number from a CSV file there. The row is named by
           values of its text columns, joined by "/". The column is such as `lwlrap_diff`, or `lwlrap_diff+-` (the
           default) with its interval; `answer` says in words what the difference of the row says, and what would settle
           it. LATER replaces the numbers of a table that must be measured again.
Numbers up to 1 have three digits and no zero before the point, larger ones one digit, counts none. Differences and gaps
have a sign.

Used in: `make report`, `make findings`, and the test that compares the pages with findings.
"""

import argparse
import base64
import html
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import nbformat
import pandas as pd
import yaml
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from pygments.formatters import HtmlFormatter

from lib import files, settings
from lib.evaluation import comparisons, metrics
from lib.runs import journal
from lib.runs.plan import ROOT

__all__ = ["PAGES", "Page", "build", "collect", "fill", "find", "main", "render"]

EXECUTED = "executed.ipynb"
PAGES = ("README.md", "docs/findings.md", "docs/data.md", "benchmarks/README.md")  # pages with blocks of numbers
# The index shows one figure of each part: the first of these that the part has.
HEADLINES = ("against_base", "against_promise", "differences", "strategies", "comparison", "seconds", "per_class")
WIDGET = "application/vnd.jupyter.widget-view+json"
PROGRESS = re.compile(r"\[\d+:\d\d")  # of a progress bar: [00:12<00:03, ...
REMOTE = re.compile(r"(?is)<script\b.*?</script>|<link\b[^>]*>|\s(src|srcset|poster)=[\"'](https?:)?//[^\"']*[\"']")
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
PAGE = Path(__file__).with_name("page.html.j2")  # of the report, and of its index
BLOCK = re.compile(r"<!-- (?P<name>\w+) -->\n(?P<text>.*?)<!-- /(?P=name) -->", re.DOTALL)
SIGNED = ("diff", "gap")
LATER = "still to be measured again"


@dataclass
class Page:
    """An executed notebook, with the result of its part.

    Attributes
    ----------
    folder : of the part, relative to outputs/<run>
    title : of the notebook
    result : result.json; empty while the part is not done
    stopped : the error that stopped the notebook, or ""
    facts : verdict, cost and commit
    figure : PNG in base64, or ""
    below : pages of the single trainings of this part
    """

    folder: Path
    title: str
    result: dict
    stopped: str
    facts: list[str]
    figure: str
    below: list["Page"] = field(default_factory=list)

    @property
    def name(self) -> str:
        return " ".join(part for part in self.folder.parts if part != "pooled")

    @property
    def heading(self) -> str:
        """The title and the name of the part: two variants of 04 have the same title."""
        part = self.name.partition(" ")[2]
        return f"{self.title} ({part})" if part else self.title

    @property
    def file(self) -> str:
        return f"{'-'.join(self.folder.parts)}.html"

    @property
    def conclusion(self) -> str:
        """The conclusion of the result as HTML."""
        said = self.result.get("conclusion") or self.result.get("says") or ""
        return markdown2html(html.escape(str(said), quote=False))

    @property
    def single(self) -> bool:
        return any(re.fullmatch(settings.SINGLE, name) for name in self.folder.parts)


def build(home: Path) -> Path:
    """Render the run `home` (outputs/<run>) into `home`/report, completely or not at all; return its index.html.

    Raises
    ------
    FileNotFoundError
        No such run, or no executed notebook in it.
    """
    pages, site = find(home), home / "report"
    below = [single.folder for page in pages for single in page.below]
    alone = [page for page in pages if page.single and page.folder not in below]
    template = jinja2.Environment(autoescape=True, undefined=jinja2.ChainableUndefined).from_string(PAGE.read_text())
    style = HtmlFormatter().get_style_defs(".highlight")
    shared = {"run": home.name, "pages": pages, "alone": alone, "policy": POLICY, "highlight": style}
    with files.whole_folder(site) as partial:
        for page in pages:
            body = _without_paths(_rendered(home / page.folder / EXECUTED), page, home.resolve().parents[1])
            (partial / page.file).write_text(template.render(shared, page=page, body=body), encoding="utf-8")
        (partial / "index.html").write_text(template.render(shared), encoding="utf-8")
        files.throw_away(site)
    return site / "index.html"


def find(home: Path) -> list[Page]:
    """The pages of a run in the order of its notebooks; single trainings are also listed in `below` of their part.

    Raises FileNotFoundError as `build`.
    """
    if not home.is_dir():
        there = sorted({path.parent.name for path in home.parent.glob("*/[0-9][0-9]_*/")})
        raise FileNotFoundError(f"There is no run {home}. There are: {', '.join(there) or 'none yet'}.")
    folders = [path.parent.relative_to(home) for path in sorted(home.glob(f"[0-9][0-9]_*/**/{EXECUTED}"))]
    if not folders:
        raise FileNotFoundError(
            f"{home} holds no {EXECUTED}, the notebook that papermill writes beside a result. Make them: make run "
            f"RUN={home.name}; or by hand: papermill notebooks/01_eda.ipynb {home}/01_eda/{EXECUTED} -p run {home.name}"
        )
    pages = [_page(home, folder) for folder in folders if not any(name[0] == "." for name in folder.parts)]
    for page in pages:
        variant = page.folder.parent if page.folder.name == "pooled" else page.folder
        page.below = [other for other in pages if other.single and not page.single and variant in other.folder.parents]
    return pages


def collect(outputs: Path) -> tuple[list[str], list[str]]:
    """Copy the files that `sources.yaml` names from the runs; a file without a source, or with a refused one, stays.

    Returns
    -------
    Sentences about sources that don't exist, and about refused ones, with the command that makes them again
    """
    folder, missing, refused = outputs / "findings", [], []
    for name, source in _sources(folder).items():
        paths = source if isinstance(source, list) else [source]
        if lost := [f"outputs/{path}" for path in paths if not (outputs / path).is_file()]:
            missing.append(f"{name} stays as it is: there is no {', '.join(lost)} here")
        elif why := list(filter(None, (_refusal(outputs, Path(path)) for path in paths))):
            refused.append(f"{name} stays as it is: {' '.join(why)}")
        elif isinstance(source, list):
            results = [files.read_json(outputs / path) for path in paths]
            rows = [{"run": result["parameters"]["run"], **result["metrics"]} for result in results]
            pd.DataFrame(rows).to_csv(folder / name, index=False)
        else:
            shutil.copyfile(outputs / source, folder / name)
    return missing, refused


def fill(template: str, folder: Path) -> str:
    """A template with its numbers, `{{ n("table", "row", "column") }}`, from tables in `folder`.

    Raises
    ------
    ValueError
        A table, row or column that does not exist, or several rows of that name; the message quotes the template.
    """
    environment = jinja2.Environment(keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(template).render(n=_number(folder))


def render(pages: dict[str, str], front: str, folder: Path) -> dict[str, str]:
    """The pages with their blocks replaced.

    Parameters
    ----------
    pages : name -> text; every block of `front` is in exactly one of them
    front : the template, front.md
    folder : of the tables

    Raises
    ------
    ValueError
        A block that is only in `front`, only in the pages, or in two places; and as `fill`.
    """
    blocks = {block["name"]: block["text"] for block in BLOCK.finditer(front)}
    in_pages = [block["name"] for page in pages.values() for block in BLOCK.finditer(page)]
    if wrong := sorted(blocks.keys() ^ set(in_pages) | {name for name in in_pages if in_pages.count(name) > 1}):
        raise ValueError(f"Blocks {wrong} must be once in front.md and once in {', '.join(pages)}. Add or remove them.")
    texts = {name: f"<!-- {name} -->\n{fill(text, folder)}<!-- /{name} -->" for name, text in blocks.items()}
    return {name: BLOCK.sub(lambda block: texts[block["name"]], page) for name, page in pages.items()}


def main(words: list[str]) -> int:
    """The command line behind `make report` and `make findings`."""
    parser = argparse.ArgumentParser(prog="python -m lib.runs.pages", description="Pages of a run, numbers of docs.")
    parser.add_argument("home", type=Path, nargs="?", help="outputs/<run>: its pages; else the docs' numbers")
    home = parser.parse_args(words).home
    try:
        message, refused = (f"{build(home)} is the report: open it in a browser.\n", []) if home else _write_numbers()
    except OSError as error:
        message, refused = "", [str(error)]
    sys.stdout.write(message)
    sys.stderr.write("".join(f"{line}\n" for line in refused))
    return 1 if refused else 0


def _write_numbers() -> tuple[str, list[str]]:
    """Collect findings and write their numbers into PAGES: what is missing, as text, and what is refused."""
    findings = ROOT / "outputs" / "findings"
    missing, refused = collect(findings.parent)
    pages = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
    for name, text in render(pages, (findings / "front.md").read_text(encoding="utf-8"), findings).items():
        with files.whole_file(ROOT / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return "".join(f"{line}\n" for line in missing), refused


def _page(home: Path, folder: Path) -> Page:
    part = home / folder
    notebook, result, made = (journal.read_or_nothing(part / name) for name in (EXECUTED, *journal.FILES))
    cells = notebook.get("cells", [])
    titles = [re.search(r"^# (.+)$", "".join(cell["source"]), re.MULTILINE) for cell in cells]
    errors = [out for cell in cells for out in cell.get("outputs", []) if out["output_type"] == "error"]
    figures = [part / f"{name}.png" for name in HEADLINES if (part / f"{name}.png").is_file()]
    figures += sorted(part.glob("*.png"))
    trainings, seconds = journal.cost(part)
    facts = [result.get("verdict") or "no verdict", f"{journal.duration(seconds)} in all"]
    facts += [f"{trainings} trainings"] * bool(trainings) + [f"commit {made.get('commit', '')[:7]}"] * bool(made)
    return Page(
        folder=folder,
        title=next((match[1] for match in titles if match), folder.name),
        result=result,
        stopped=f"{errors[-1]['ename']}: {errors[-1]['evalue']}" if errors else "",
        facts=facts,
        figure=base64.b64encode(figures[0].read_bytes()).decode() if figures else "",
    )


def _rendered(path: Path) -> str:
    """The cells as HTML, without remote content, progress bars and widgets (a static picture replaces a widget)."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except ValueError as error:
        return f"<p class='stopped'>{path.name} can't be read: {html.escape(str(error))}</p>"
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in list(cell.get("outputs", [])):
            data = output.get("data", {})
            if data.pop(WIDGET, None) and data.keys() <= {"text/plain"}:
                cell.outputs.remove(output)
            if output.get("name") == "stderr":
                lines = [line.rsplit("\r", 1)[-1].rstrip() for line in output.text.split("\n")]
                output.text = "\n".join(line for line in lines if line and not PROGRESS.search(line))
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    return REMOTE.sub("", body)


def _without_paths(body: str, page: Page, root: Path) -> str:
    """The page without paths of this machine: those of the workbook and of the data set are shortened."""
    data = Path(str(page.result.get("parameters", {}).get("data_dir", "demo"))).expanduser()
    parents = {place.parent: "path/to/" for place in (data, (root / data).resolve()) if len(place.parent.parts) > 1}
    for place, short in {**parents, root: ""}.items():  # root last: data may be below it
        body = body.replace(f"{html.escape(str(place))}/", short)
        if place.is_relative_to(Path.home()):  # as IPython writes it in an error
            body = body.replace(f"~/{html.escape(place.relative_to(Path.home()).as_posix())}/", short)
    return body


def _refusal(outputs: Path, path: Path) -> str:
    """Why the file of a run at this path below outputs/ is not copied; "" if it is."""
    if len(path.parts) == 1:
        return ""  # not of a run: written by a script
    home, run = outputs / path.parent, path.parts[0]
    if lost := [name for name in journal.FILES if not (home / name).is_file()]:
        return f"outputs/{path.parent} is not finished, it lacks {' and '.join(lost)}: make run RUN={run} ..."
    params = files.read_json(home / "result.json")["parameters"]
    again = f"make run NB={path.parts[1][:2]} RUN={run} PROFILE={params['profile']} DATA=... AGAIN=1"
    if other := journal.other_code(home, outputs):
        what = ", ".join(other[:3]) + (" ..." if other[3:] else "")
        return f"It, or a part that it read, was made by other code than is here now ({what}). Make it again: {again}"
    n_seeds = max(len(set(params.get("seeds", [0]))), params.get("repeats", 1))
    counted = _table(outputs / path).get("n_seeds", pd.Series([0])).max() if path.suffix == ".csv" else 0
    if counted > n_seeds:
        what = f"outputs/{path} counts {counted:.0f} seeds, but its result has {n_seeds}"
        return f"{what}: members of an ensemble and draws are not seeds. Correct the notebook, then: {again}"
    return ""


def _sources(folder: Path) -> dict[str, str | list[str]]:
    path = folder / "sources.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values=[""])  # a row may be called "NA"


def _number(folder: Path) -> Callable[..., str]:
    """The function `n` of the templates, see the conventions."""
    awaited = _sources(folder)

    def number(name: str, row: str, column: str = "lwlrap_diff+-") -> str:
        path, place = folder / f"{name}.csv", f"n({name!r}, {row!r}, {column!r})"
        if not path.is_file() and path.name in awaited:
            return LATER
        if not path.is_file():
            raise ValueError(f"{place}: there is no table {path.name} in {folder.name}. Name one of sources.yaml.")
        table = _table(path)
        texts = table.select_dtypes(exclude="number").astype(str)
        keys = {row} if (texts == row).to_numpy().any() else set(row.split("/"))
        rows = table[[keys <= set(values) for values in texts.itertuples(index=False, name=None)]]
        if len(rows) != 1:
            raise ValueError(f"{place}: {len(rows)} rows of {path.name} hold {row}, one must. Name more of its values.")
        if column == "answer":
            return _answer(rows.iloc[0])
        key, interval, _ = column.partition("+-")
        wanted = [key, f"{key}_low", f"{key}_high"] if interval else [key]
        if missing := [name for name in wanted if name not in table]:
            raise ValueError(f"{place}: {path.name} has no column {', '.join(missing)}. It has: {', '.join(table)}.")
        value, *limits = (_text(rows[name].iloc[0], name) for name in wanted)
        return f"{value} [{', '.join(limits)}]" if limits else value

    return number


def _answer(row: pd.Series) -> str:
    """What the difference of a row says, and the number of clips that would settle it, as `comparisons.answers`."""
    said, screened = comparisons.answer(row), " (screened)" * (row["verdict"] == "screened")
    if said != comparisons.UNSETTLED:
        return said.replace(" 0.", " .") + screened  # as _text writes numbers
    needed = metrics.to_settle(row["n"], row["lwlrap_diff"], row["smallest_diff"])  # a column that old tables lack
    return f"{said}{screened}: {comparisons.format_clips(needed)} clips would"


def _text(value: object, column: str) -> str:
    """A value as text, see the conventions."""
    if isinstance(value, str):
        return value
    if float(value).is_integer() and (abs(value) > 1 or column.startswith("n_")):
        return f"{value:.0f}"
    digits = 3 if abs(value) <= 1 else 1
    value = float(value) + 0.0  # not -0.0; a limit of -.0002 stays below zero: -.000
    written = f"{value:+.{digits}f}" if any(word in column for word in SIGNED) else f"{value:.{digits}f}"
    return re.sub(r"^([+-]?)0\.", r"\1.", written)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
