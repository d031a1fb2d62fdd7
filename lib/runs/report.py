"""The report: the executed notebooks of a run as static pages, to be opened from disk or passed on as a folder.

Conventions
-----------
A page is made of every executed.ipynb below outputs/<run>/. Single trainings (`without_2` ...) are linked from the page
of the part they belong to. A page holds its figures, sounds and styles itself: nothing is loaded from elsewhere, and
its Content-Security-Policy has the browser refuse scripts and the network.

Used in: `make report`.
"""

import argparse
import base64
import html
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from lib import files
from lib.runs import journal

__all__ = ["Page", "build", "find", "main"]

EXECUTED = "executed.ipynb"
# What a part is best told by, the first of these that it holds.
HEADLINES = ("against_base", "against_promise", "differences", "strategies", "comparison", "seconds", "per_class")
SHORT = 120  # characters of an answer that the index shows at once, rounded up to a sentence
WIDGET = "application/vnd.jupyter.widget-view+json"
PROGRESS = re.compile(r"\[\d+:\d\d")  # of a bar: [00:12<00:03, ...
REMOTE = re.compile(r"(?is)<script\b.*?</script>|<link\b[^>]*>|\s(src|srcset|poster)=[\"'](https?:)?//[^\"']*[\"']")
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 0 auto; padding: 1rem }
h1 { line-height: 1.2 } h2 { margin: 1.6em 0 0.4em } a { color: #05609e } small, .meta { color: #555 }
nav { display: flex; justify-content: space-between; gap: 1rem }
img { max-width: 100%; height: auto } audio { width: 100%; max-width: 26rem }
table { border-collapse: collapse; font-size: 0.85rem }
td, th { padding: 0.2em 0.6em; text-align: left !important; vertical-align: top !important; border: 0 }
tr:nth-child(even) { background: #f4f4f4 } table.dataframe { border: 0; margin: 0.6em 0 }
pre { font-size: 0.8rem; white-space: pre-wrap; margin: 0.4em 0 } pre, code { overflow-wrap: anywhere }
.input { background: #f7f7f7; border-left: 3px solid #ccc; padding: 0 0.8em; margin: 0.6em 0 }
.output_wrapper, .rendered_html { overflow-x: auto } .prompt, .anchor-link { display: none }
#code:not(:checked) ~ main .input { display: none } .stopped { color: #a40000; font-weight: 600 }
article { border-top: 1px solid #ccc; padding: 1rem 0; display: grid }
article { grid-template-columns: 3fr 2fr; gap: 0.5rem 1.5rem }
article > div { min-width: 0 } article h2 { margin: 0; font-size: 1.2rem }
@media (max-width: 45rem) { article { grid-template-columns: 1fr } }
"""


@dataclass
class Page:
    """An executed notebook and what its part says.

    Attributes
    ----------
    folder : of the part, relative to outputs/<run>
    told, made : result.json and manifest.json; empty while the part is not done
    stopped : the error that stopped the notebook, or nothing
    below : pages of single trainings
    """

    folder: Path
    title: str
    told: dict
    made: dict
    stopped: str
    figure: Path | None
    below: list["Page"] = field(default_factory=list)

    @property
    def name(self) -> str:
        return " ".join(part for part in self.folder.parts if part != "pooled")

    @property
    def file(self) -> str:
        return f"{'-'.join(self.folder.parts)}.html"


def build(home: Path) -> Path:
    """Render the run `home` (outputs/<run>) into `home`/report, whole or not at all; the path of its index.html.

    Raises
    ------
    FileNotFoundError
        No such run, or no executed notebook in it; the message tells what to do.
    """
    pages, site = find(home), home / "report"
    with files.whole_folder(site) as partial:
        for page in [page for top in pages for page in (top, *top.below)]:
            below = f"<p>Single trainings: {_links(page.below)}</p>" if page.below else ""
            nav = f'<nav><a href="index.html">Run {_quoted(home.name)}</a> {_quoted(page.name)}</nav>'
            toggle = '<input type="checkbox" id="code"> <label for="code">show code</label>'
            body = f"{nav}{toggle}<main>{_stopped(page)}{_rendered(home / page.folder / EXECUTED)}{below}</main>"
            body = _anywhere(body, page, home.resolve().parents[1])
            (partial / page.file).write_text(_document(f"{page.name} · {home.name}", body), encoding="utf-8")
        (partial / "index.html").write_text(_document(f"Run {home.name}", _index(home, pages)), encoding="utf-8")
        files.throw_away(site)
    return site / "index.html"


def find(home: Path) -> list[Page]:
    """The pages of a run in the order of its notebooks, single trainings below the part that they belong to."""
    if not home.is_dir():
        there = sorted({path.parent.name for path in home.parent.glob("*/[0-9][0-9]_*/")})
        raise FileNotFoundError(f"There is no run {home}. There are: {', '.join(there) or 'none yet'}.")
    found = sorted(path.parent for path in home.glob(f"[0-9][0-9]_*/**/{EXECUTED}"))
    if not found:
        raise FileNotFoundError(
            f"{home} holds no {EXECUTED}, the notebook that papermill leaves beside a result. Make them: make run "
            f"RUN={home.name}; or by hand: papermill notebooks/01_eda.ipynb {home}/01_eda/{EXECUTED} -p run {home.name}"
        )
    shown = [folder for folder in found if not any(name[0] == "." for name in folder.relative_to(home).parts)]
    pages = [_page(folder, home) for folder in shown]
    tops = {page.folder: page for page in pages if not _single(page)}
    alone = []
    for page in filter(_single, pages):
        above = [folder for other in page.folder.parents for folder in (other / "pooled", other) if folder in tops]
        (tops[above[0]].below if above else alone).append(page)
    return sorted([*tops.values(), *alone], key=lambda page: page.folder)


def main(words: list[str]) -> int:
    """The command line behind `make report`."""
    parser = argparse.ArgumentParser(prog="python -m lib.runs.report", description="Render a run as static pages.")
    parser.add_argument("home", type=Path, help="outputs/<run>")
    try:
        index = build(parser.parse_args(words).home)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{index} is the report: open it in a browser.\n")
    return 0


def _single(page: Page) -> bool:
    return any(name.startswith("without_") for name in page.folder.parts)


def _page(folder: Path, home: Path) -> Page:
    notebook = _json(folder / EXECUTED)
    cells = notebook.get("cells", [])
    titles = [re.search(r"^# (.+)$", "".join(cell["source"]), re.MULTILINE) for cell in cells]
    errors = [o for cell in cells for o in cell.get("outputs", []) if o["output_type"] == "error"]
    figures = {path.stem: path for path in sorted(folder.glob("*.png"))}
    shown = [figures[name] for name in HEADLINES if name in figures] or list(figures.values())
    return Page(
        folder=folder.relative_to(home),
        title=next((match[1] for match in titles if match), folder.name),
        told=_json(folder / "result.json"),
        made=_json(folder / "manifest.json"),
        stopped=f"{errors[-1]['ename']}: {errors[-1]['evalue']}" if errors else "",
        figure=shown[0] if shown else None,
    )


def _index(home: Path, pages: list[Page]) -> str:
    days = sorted(page.made["finished"][:10] for page in pages if "finished" in page.made)
    when = f", {' to '.join(dict.fromkeys([days[0], days[-1]]))}" if days else ""
    alone = [page for page in pages if _single(page)]
    rest = f"<h2>Trainings that nothing pools yet</h2><p>{_links(alone)}</p>" if alone else ""
    tops = [page for page in pages if page not in alone]
    head = f"<h1>Run {_quoted(home.name)}</h1><p class='meta'>{len(tops)} notebooks{when}.</p>"
    return f"{head}<main>{''.join(_article(home, page) for page in tops)}{rest}</main>"


def _article(home: Path, page: Page) -> str:
    """A question, its answer, and the figure that tells it best."""
    link, commit = f'<a href="{_quoted(page.file)}">', page.made.get("commit", "")[:7]
    trainings, seconds = journal.cost(home / page.folder)
    facts = [page.name, page.told.get("verdict") or "no verdict", journal.duration(seconds) + " in all"]
    facts += [f"{trainings} trainings"] * bool(trainings) + [f"commit {commit}"] * bool(commit)
    text = f"<h2>{link}{_quoted(page.title)}</a></h2>{_stopped(page)}{_answer(page.told.get('says') or '')}"
    data = base64.b64encode(page.figure.read_bytes()).decode() if page.figure else ""
    figure = f'{link}<img alt="{_quoted(page.figure.stem)}" src="data:image/png;base64,{data}"></a>' if data else ""
    return f"<article><div>{text}<small>{_quoted(' · '.join(facts))}</small></div><div>{figure}</div></article>"


def _answer(says: str) -> str:
    """The first sentences of a conclusion, of about SHORT characters; the rest behind a click."""
    sentences = re.split(r"(?<=[.!?]) (?=[A-Z0-9])", says)
    n = next((i for i in range(1, len(sentences)) if len(" ".join(sentences[:i])) >= SHORT), len(sentences))
    more = f"<details><summary>more</summary>{_quoted(' '.join(sentences[n:]))}</details>" if sentences[n:] else ""
    return f"<p>{_quoted(' '.join(sentences[:n]))}</p>{more}"


def _links(pages: list[Page]) -> str:
    return " · ".join(
        f'<a href="{_quoted(page.file)}">{_quoted("/".join(page.folder.parts[1:]))}</a>' for page in pages
    )


def _stopped(page: Page) -> str:
    if page.stopped:
        return f"<p class='stopped'>This notebook stopped: {_quoted(page.stopped[:500])}</p>"
    return "" if page.told else "<p class='stopped'>This part is not done: there is no result.json.</p>"


def _rendered(path: Path) -> str:
    """The cells as HTML: nothing remote, no widget (its still picture instead), no bars of progress."""
    import nbformat  # slow, like nbconvert
    from nbconvert import HTMLExporter

    try:
        notebook = nbformat.read(path, as_version=4)
    except ValueError as error:
        return f"<p class='stopped'>{path.name} can't be read: {_quoted(str(error))}</p>"
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _quiet(cell.outputs)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    return REMOTE.sub("", body)


def _anywhere(body: str, page: Page, root: Path) -> str:
    """The page without the places of this machine: the workbook's folder and that of the data set."""
    data = Path(str(page.told.get("parameters", {}).get("data_dir", "demo"))).expanduser()
    for place in (data, (root / data).resolve()):
        if len(place.parent.parts) > 1 and place.parent != root:
            body = body.replace(f"{_quoted(str(place.parent))}/", "path/to/")
    return body.replace(f"{_quoted(str(root))}/", "")


def _quiet(outputs: list) -> list:
    """Outputs without widgets, and without what bars of progress wrote to stderr; other warnings stay."""
    kept = []
    for output in outputs:
        output.get("data", {}).pop(WIDGET, None)
        if output.get("name") == "stderr":
            lines = [line.rsplit("\r", 1)[-1].rstrip() for line in output.text.split("\n")]
            output.text = "\n".join(line for line in lines if line and not PROGRESS.search(line))
        if output.get("text", output.get("data", True)):
            kept.append(output)
    return kept


def _document(title: str, body: str) -> str:
    from pygments.formatters import HtmlFormatter

    style = STYLE + HtmlFormatter().get_style_defs(".highlight")
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{_quoted(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" '
        f'content="{POLICY}"><style>{style}</style></head><body>{body}</body></html>'
    )


def _json(path: Path) -> dict:
    """What a file holds; nothing where it is not there or broken, which the page then says."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _quoted(text: str) -> str:
    return html.escape(text)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
