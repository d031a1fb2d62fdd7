"""The numbers of the README: copied from runs to outputs/findings/, and from there into its text, never by hand.

Conventions
-----------
outputs/findings/sources.yaml : file here -> where a run leaves it, below outputs/; a list of result.json becomes a
    table of their metrics, a row a run. What other code has made than what lies here now is not copied, nor is a table
    of more seeds than its result has.
outputs/findings/front.md : the blocks of the README that hold numbers, each between `<!-- name -->` and
    `<!-- /name -->`, with `{table: row: column}` in their place
table : a CSV file here, without its ending; row : values of some of its text columns, joined by "/", that one row alone
has; column : `lwlrap_diff`, or with its interval `lwlrap_diff+-`, which is what stands if there is no column. A table
that sources.yaml names and that is not there was struck: LATER stands for its numbers.
Numbers up to 1 have three digits and no nought before the point, larger ones one digit, counts none; differences and
gaps have their sign.

Used in: `make findings`, and the test that holds README and findings together.
"""

import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import yaml

from lib.files import read_json, whole_file
from lib.runs import journal
from lib.runs.plan import ROOT

__all__ = ["collect", "fill", "render"]

BLOCK = re.compile(r"<!-- (?P<name>\w+) -->\n(?P<text>.*?)<!-- /(?P=name) -->", re.DOTALL)
PLACE = re.compile(r"\{(?P<table>[^{}:]+): (?P<row>[^{}:]+)(?:: (?P<column>[^{}:]+))?\}")
SIGNED = ("diff", "gap")
LATER = "measured again later"


def collect(outputs: Path) -> tuple[list[str], list[str]]:
    """Copy what `sources.yaml` names and a run has left; the rest stays as it is.

    Returns
    -------
    Sentences about what is not there, and about what is refused: with the command that makes it again.
    """
    folder, missing, refused = outputs / "findings", [], []
    for name, source in yaml.safe_load((folder / "sources.yaml").read_text(encoding="utf-8")).items():
        some = source if isinstance(source, list) else [source]
        if lost := [f"outputs/{path}" for path in some if not (outputs / path).is_file()]:
            missing.append(f"{name} stays as it is: there is no {', '.join(lost)} here")
        elif why := list(filter(None, (_refusal(outputs, Path(path)) for path in some))):
            refused.append(f"{name} stays as it is: {' '.join(why)}")
        elif isinstance(source, list):
            results = [read_json(outputs / path) for path in some]
            rows = [{"run": result["parameters"]["run"], **result["metrics"]} for result in results]
            pd.DataFrame(rows).to_csv(folder / name, index=False)
        else:
            shutil.copyfile(outputs / source, folder / name)
    return missing, refused


def fill(template: str, folder: Path) -> str:
    """The template with its numbers.

    Parameters
    ----------
    folder : of the tables

    Raises
    ------
    ValueError
        A table, row or column that there is not, or a row that is not one alone; the message names the place.
    """
    return PLACE.sub(lambda place: _number(place, folder), template)


def render(readme: str, front: str, folder: Path) -> str:
    """The README with its blocks written anew; ValueError if it and the front page don't hold the same blocks."""
    blocks = {block["name"]: fill(block["text"], folder) for block in BLOCK.finditer(front)}
    there = {block["name"] for block in BLOCK.finditer(readme)}
    if blocks.keys() != there:
        raise ValueError(f"Blocks {sorted(blocks.keys() ^ there)} stand in one of README.md and front.md alone.")
    return BLOCK.sub(
        lambda block: f"<!-- {block['name']} -->\n{blocks[block['name']]}<!-- /{block['name']} -->", readme
    )


def main() -> None:
    outputs = ROOT / "outputs"
    missing, refused = collect(outputs)
    print("\n".join(missing + refused), file=sys.stderr)
    readme, front = ROOT / "README.md", outputs / "findings" / "front.md"
    text = render(readme.read_text(encoding="utf-8"), front.read_text(encoding="utf-8"), front.parent)
    with whole_file(readme) as partial:
        partial.write_text(text, encoding="utf-8")
    sys.exit(1 if refused else 0)


def _refusal(outputs: Path, path: Path) -> str:
    """Why a file that a run has left, at this path below outputs/, is not copied; "" if it is."""
    if len(path.parts) == 1:
        return ""  # of no run: a script has left it
    home, run = outputs / path.parent, path.parts[0]
    if lost := [name for name in ("result.json", "manifest.json") if not (home / name).is_file()]:
        return f"outputs/{path.parent} is not finished, it lacks {' and '.join(lost)}: make run RUN={run} ..."
    params = read_json(home / "result.json")["parameters"]
    again = f"make run NB={path.parts[1][:2]} RUN={run} PROFILE={params['profile']} DATA=... AGAIN=1"
    if other := journal.other_code(home, outputs):
        what = ", ".join(other[:3]) + (" ..." if other[3:] else "")
        return (
            f"other code than what lies here now has made it, or some of what it read ({what}). Make it again: {again}"
        )
    n_seeds = max(len(set(params.get("seeds", [0]))), params.get("repeats", 1))
    counted = _table(outputs / path).get("n_seeds", pd.Series([0])).max() if path.suffix == ".csv" else 0
    if counted > n_seeds:
        what = f"outputs/{path} counts {counted:.0f} seeds, but its result has {n_seeds}"
        return f"{what}: members of an ensemble and draws are no seeds. Mend what makes it, and then: {again}"
    return ""


def _table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values=[""])  # a row may be called "NA"


def _number(place: re.Match, folder: Path) -> str:
    path, keys = folder / f"{place['table']}.csv", place["row"].split("/")
    if not path.is_file() and path.name in _awaited(folder):
        return LATER
    if not path.is_file():
        raise ValueError(f"{place[0]}: there is no table {path.name} in {folder.name}.")
    table = _table(path)
    texts = table.select_dtypes(exclude="number").astype(str)
    rows = table[[set(keys) <= set(row) for row in texts.itertuples(index=False, name=None)]]
    if len(rows) != 1:
        raise ValueError(f"{place[0]}: {len(rows)} rows of {path.name} hold {' and '.join(keys)}, one must.")
    column, interval, _ = (place["column"] or "lwlrap_diff+-").partition("+-")
    wanted = [column, f"{column}_low", f"{column}_high"] if interval else [column]
    if missing := [name for name in wanted if name not in table]:
        raise ValueError(f"{place[0]}: {path.name} has no column {', '.join(missing)}. It has: {', '.join(table)}.")
    value, *limits = (_text(rows[name].iloc[0], name) for name in wanted)
    return f"{value} [{', '.join(limits)}]" if limits else value


def _awaited(folder: Path) -> list[str]:
    """Names of all tables and figures that runs leave."""
    sources = folder / "sources.yaml"
    return list(yaml.safe_load(sources.read_text(encoding="utf-8"))) if sources.is_file() else []


def _text(value: object, column: str) -> str:
    """A value as it is written."""
    if isinstance(value, str):
        return value
    if float(value).is_integer() and abs(value) > 1:
        return f"{value:.0f}"
    digits = 3 if abs(value) <= 1 else 1
    value = round(float(value), digits) + 0.0  # rounded as everywhere else; no minus before nought
    written = f"{value:+.{digits}f}" if any(word in column for word in SIGNED) else f"{value:.{digits}f}"
    return re.sub(r"^([+-]?)0\.", r"\1.", written)


if __name__ == "__main__":
    main()
