"""The journal: every finished part of every run in one table, and drafts of entries for JOURNAL.md.

Conventions
-----------
A row is a part that answers a question: a folder with result.json that is not a single training. Trainings below it
(`without_2`, `without_2_4/seed_1` ...) are counted and their seconds added; pair models belong to their variant.
outputs/journal.csv is rebuilt from all results, never appended to. The column `note` tells of a part that can't be
read, or that was made by other code than is here now.
Differences are to the base of the same run, never to the best run so far, whose score is partly luck.

Used in: 09_journal, `pages`.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from functools import cache as remember
from pathlib import Path

import pandas as pd

from lib import code, settings
from lib.files import read_json, whole_file
from lib.runs import inputs, variants
from lib.runs.recipes import BASE, papermill

__all__ = ["FILES", "NUMBERS", "TEXTS", "answers", "cost", "draft", "duration", "headline", "other_code"]
__all__ += ["read_or_nothing", "rebuild", "select", "summary"]

TEXTS = ["finished", "run", "notebook", "part", "question", "expected", "changed", "against_base", "verdict"]
TEXTS += ["conclusion", "commit", "command", "note"]
NUMBERS = ["n", "lwlrap", "lwlrap_low", "lwlrap_high", "baseline", "trainings", "seconds"]
FILES = ("result.json", "manifest.json")  # of a finished part
OWN = "09_journal"
DIFF = "_lwlrap_diff"
OTHER_CODE = "other code"


def rebuild(outputs: Path) -> pd.DataFrame:
    """Read all results below `outputs`, write `outputs`/journal.csv and return it: TEXTS, NUMBERS; newest first."""
    parts = sorted(path.parent for path in outputs.glob("*/[0-9][0-9]_*/**/result.json"))
    rows = [_row(part, outputs) for part in parts if _answers(part.relative_to(outputs).parts)]
    for home in {outputs / row["run"] for row in rows if row["notebook"] == "04_kfold" and row["part"] != BASE}:
        _compare([row for row in rows if (row["run"], row["notebook"]) == (home.name, "04_kfold")], home)
    table = pd.DataFrame(rows, columns=[*TEXTS, *NUMBERS]).astype(dict.fromkeys(NUMBERS, float))
    table[TEXTS] = table[TEXTS].astype(object).fillna("")
    table = table.sort_values(["finished", "run", "notebook", "part"], ascending=False, ignore_index=True)
    with whole_file(outputs / "journal.csv") as partial:
        table.to_csv(partial, index=False)
    return table


def select(table: pd.DataFrame, words: list[str]) -> pd.DataFrame:
    """The rows whose notebook or question contains one of the words, in upper or lower case; all rows without words."""
    texts = table["notebook"] + " " + table["question"]
    return table[texts.str.contains("|".join(map(re.escape, words)), case=False)]


def headline(table: pd.DataFrame) -> pd.DataFrame:
    """A short table of texts to look at; several differences to the base are only counted."""
    shown = {
        "finished": table["finished"].str[:16].str.replace("T", " "),
        "run": table["run"],
        "part": table["notebook"] + " " + table["part"],
        "lwlrap": [_interval(row, "lwlrap") for row in table.to_dict("records")],
        "n": [f"{n:.0f}" if n == n else "" for n in table["n"]],
        "against base": table["against_base"].map(
            lambda text: f"{text.count(';') + 1} differences" if ";" in text else text
        ),
        "verdict": table["verdict"],
        "cost": table["seconds"].map(duration),
        "changed": table["changed"],
        "commit": table["commit"].str.replace(r"^(.{7})[^-]*", r"\1", regex=True)
        + table["note"].str.contains(OTHER_CODE).map({True: f" ({OTHER_CODE})", False: ""}),
    }
    return pd.DataFrame(shown)


def answers(table: pd.DataFrame) -> str:
    """Markdown: each question with its answer, and what was changed."""
    entries = []
    for row in table[table["conclusion"] != ""].to_dict("records"):
        name = f"{row['notebook']} {row['part']}".strip()
        changed = f" Changed: {row['changed']}." if row["changed"] else ""
        head = f"**{row['question'] or name}** ({name}; {row['verdict'] or 'no verdict'})"
        entries.append(f"{head}  \n{_measured(row)}{changed}")
    return "\n\n".join(entries) or "Nothing is finished here yet."


def draft(row: Mapping[str, object]) -> str:
    """An entry for JOURNAL.md from a row of the table; "..." marks what only a person can fill in."""
    trainings = f"{row['trainings']:.0f} trainings, " if row["trainings"] else ""
    lines = {
        "Question": row["question"],
        "Expected": row["expected"],
        "Changed": row["changed"] or "No parameter: the profile as it is.",
        "Measured": re.sub(r"\n+(- )?", " ", _measured(row)),
        "Verdict": row["verdict"] or "none: a screening, or not all is done",
        "Because": "...",
        "Cost": f"{trainings}{duration(row['seconds'])} in all",
        "Next": "...",
        "Command": f"`{row['command']}`",
    }
    entry = [f"{key:<12}{value or '...'}" for key, value in lines.items()]
    name = f"{row['notebook']} {row['part']}".strip()
    return "\n".join([f"## {row['finished'][:10]} · {name} · {row['run']}", *entry])


def summary(table: pd.DataFrame, run: str) -> str:
    """The number of finished parts of the run, by verdict, and of all runs, in a sentence."""
    mine, n_runs = table[table["run"] == run], table["run"].nunique()
    if mine.empty:
        return f"Run {run} holds no finished part yet; {n_runs} other runs hold {len(table)}."
    verdicts = mine["verdict"].replace("", "without a verdict").value_counts()
    by_verdict = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.items())
    trainings = f"{mine['trainings'].sum():.0f} trainings"  # no seconds: equal runs have equal sentences
    return f"Run {run} holds {len(mine)} finished parts ({by_verdict}; {trainings}); all runs ({n_runs}): {len(table)}."


def cost(part: Path) -> tuple[int, float]:
    """The number of trainings of a part (of all its seeds), and the seconds of all of them and of the part.

    Trainings that a job made (the part itself, or one below `trials`) are in the seconds of that job already.
    """
    variant = part.parent if part.name == "pooled" else part
    places = [variant, *variant.parent.glob(f"{variant.name}.seed_*")]
    below = [path for place in places for path in place.glob("**/without_*/**/manifest.json")]
    trained = [_span(path) for path in below if "trials" not in path.relative_to(variant.parent).parts]
    jobs = [_span(path) for path in (part / "manifest.json", *part.glob("trials/*/manifest.json"))]
    rounded = 1.0  # s, to which it is noted when something was finished
    alone = [(a, b) for a, b in trained if not any(c - rounded <= a and b <= d + rounded for c, d in jobs)]
    return len(trained), float(sum(end - start for start, end in [*alone, *jobs]))


def read_or_nothing(path: Path) -> dict:
    """The content of a JSON file; empty if the file is missing or damaged (its row or page reports that)."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def other_code(part: Path, outputs: Path) -> list[str]:
    """Which of this part, its trainings and the parts that it read were made by other code than is here now.

    Returns
    -------
    Their folders, relative to `outputs`, sorted
    """
    mine = code.by_other_code([part.parent if part.name == "pooled" else part], outputs)
    return sorted({*mine, *read_json(part / "manifest.json").get("other_code", [])})


def duration(seconds: float) -> str:
    """Seconds as text: 12 s, 22.0 min, 2.0 h."""
    size, unit = next(((s, u) for s, u in ((3600, "h"), (60, "min")) if seconds >= 2 * s), (1, "s"))
    return f"{seconds / size:.{0 if size == 1 else 1}f} {unit}"


def _span(manifest: Path) -> tuple[float, float]:
    """When what a manifest describes was started and finished, in s; both 0 if it can't be read."""
    made = read_or_nothing(manifest)
    try:
        end = datetime.fromisoformat(made["finished"]).timestamp()
        return end - made["seconds"], end
    except (KeyError, TypeError, ValueError):
        return 0.0, 0.0


def _answers(names: tuple[str, ...]) -> bool:
    """Whether (run, notebook, ...) is a part that answers a question: no single training, no partial folder, not 09."""
    return names[1] != OWN and not any(name[0] == "." or re.fullmatch(settings.SINGLE, name) for name in names)


def _row(part: Path, outputs: Path) -> dict[str, object]:
    run, notebook, *names = part.relative_to(outputs).parts
    row = {"run": run, "notebook": notebook, "part": "/".join(name for name in names if name != "pooled")}
    source = inputs.CODE / "notebooks" / f"{notebook}.ipynb"
    row["question"], row["expected"] = _question(part / "executed.ipynb", source)
    row["trainings"], row["seconds"] = cost(part)
    try:
        result, made = (read_json(part / name) for name in FILES)
        numbers = result["metrics"]
        conclusion = result["conclusion" if result.get("schema", 1) > 1 else "says"]
        row |= {"verdict": result["verdict"], "conclusion": conclusion, "finished": made["finished"]}
        row |= {key: numbers.get(key) for key in ("lwlrap", "lwlrap_low", "lwlrap_high")}
        row |= {"n": numbers.get("n", numbers.get("n_clips")), "baseline": numbers.get("baseline_lwlrap")}
        names = [key.removesuffix(DIFF) for key in numbers if key.endswith(DIFF)]
        row["against_base"] = "; ".join(f"{name} {_interval(numbers, name + DIFF)}" for name in names)
        row["commit"] = made["commit"] + ("-dirty" if made["dirty"] else "")
        row["changed"], row["command"] = _changed(notebook, result["parameters"])
        notes = [] if numbers.get("complete", True) else ["not complete: parts of it are still to be trained"]
        if other := other_code(part, outputs):
            names = ", ".join(name.removeprefix(f"{run}/") for name in other[:5]) + (" ..." if other[5:] else "")
            notes.append(f"made by {OTHER_CODE} than is here now, or read from parts that were ({names})")
        row["note"] = "; ".join(notes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}".replace(f"{outputs}/", "")
        row["note"] = f"can't be read ({why}). Make it again: -p overwrite True"
    return row


def _compare(rows: list[dict[str, object]], home: Path) -> None:
    """Add to the rows of a run's variants of 04 the difference to the base, its verdict, and the changed settings."""
    compared = {of["variant"]: of for of in variants.against_base(home).table.to_dict("records")}
    for row in rows:
        if row["part"] != BASE and row["part"] in compared:
            of = compared[row["part"]]
            row["against_base"] = f"{row['part']} {_interval(of, 'lwlrap_diff')}"
            row |= {"verdict": of["verdict"], "changed": of["changed"]}
            # question and expectation of 04 are about the base; only a person knows what was expected here
            row |= {"question": f"What does {of['changed'] or row['part']} change against {BASE}?", "expected": ""}


def _question(*notebooks: Path) -> tuple[str, str]:
    """Question (the title) and expectation of the first of these notebooks that can be read."""
    for cells in filter(None, (read_or_nothing(path).get("cells") for path in notebooks)):
        forms = (r"^# \d+ · (.+)$", r"^\*\*Expectation\.\*\* (.+)$")
        matches = [re.search(form, "".join(cells[0]["source"]), re.MULTILINE) for form in forms]
        return tuple(match[1] if match else "" for match in matches)
    return "", ""


def _changed(notebook: str, params: Mapping[str, object]) -> tuple[str, str]:
    """The changes to the named profile, and the command that makes the part again, without paths of this machine."""
    name, profile = params["profile"], _profile(str(params["profile"]))
    usual = settings.defaults() | settings.defaults(notebook) | (profile or {})
    differ = {k: v for k, v in params.items() if k in usual.keys() - settings.PLACE and v != usual[k]}
    given = {"run": params["run"]} if params["run"] != usual["run"] else {}
    if params.get("data_dir", "demo") != "demo":
        given["data_dir"] = f"path/to/{Path(str(params['data_dir'])).name}"
    command = papermill(notebook, name, **{key: _typed(value) for key, value in {**given, **differ}.items()})
    what = [f"{key} {_typed(value) or '(empty)'}" for key, value in differ.items() if key not in ("fold", "part")]
    return ", ".join(what) if profile is not None else f"not known: there is no params/{name}.yaml", command


@remember
def _profile(name: str) -> dict[str, object] | None:
    """The parameters in params/<name>.yaml, read once for all rows; None if there is no such file any more."""
    path = inputs.CODE / "params" / f"{name}.yaml"
    return settings.load_profile(path) if path.is_file() else None


def _typed(value: object) -> str:
    """A value as papermill takes it on the command line."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _measured(row: Mapping[str, object]) -> str:
    """The conclusion; for a variant of 04, which does not read the base itself, also the difference to the base."""
    compared = row["against_base"] if row["notebook"] == "04_kfold" else ""
    return row["conclusion"] + (f" Against {BASE} of the same run, paired: {compared}." if compared else "")


def _interval(numbers: Mapping[str, object], key: str) -> str:
    """A number and its interval as in JOURNAL.md: .838 [.794, .880], differences with a sign; "" without a number."""
    values = [numbers.get(key + end) for end in ("", "_low", "_high")]
    if any(value is None or value != value for value in values):
        return ""
    form = "+.3f" if key.endswith("diff") else ".3f"
    value, low, high = (re.sub(r"^([+-]?)0\.", r"\1.", format(v, form)) for v in values)
    return f"{value} [{low}, {high}]"
