"""Reads CSV files, and a data set that is one CSV file: a table of clips.

Conventions
-----------
A malformed row doesn't affect the others: it is listed with its name and line.
table of clips : a CSV file with a row for each clip; columns
    fname        path of the audio, relative to the table's folder and within it
    labels       joined by commas; only test clips may have none
    subset       curated, noisy or test; blank or no such column: curated
    group        clips of a group stay in one fold; blank: the clip is its own group
    fold         published folds, counted from 0 or from 1; used if every curated clip has one
    usage        public or private, for test clips
    true_labels  the classes that the clip really holds. Blank: none of the classes; "?": not known; no such column: not
                 known of any clip. Only reports use them: they train and select nothing, and no digest includes them.
The classes are the labels of the curated clips, sorted.

Used in: `datasets`.
"""

import csv
import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

__all__ = ["COLUMNS", "SUBSETS", "clips", "composed", "labels", "lines", "look", "read", "unknown", "whole"]

COLUMNS = ("fname", "labels", "subset", "group", "fold", "usage", "true_labels")
SUBSETS = ("curated", "noisy", "test")
_BYTES = re.compile("[\udc80-\udcff]")  # what `lines` makes of bytes that are not UTF-8


def lines(path: Path) -> list[str]:
    """Lines of a text file, with or without BOM and CR. Bytes that are not UTF-8 become lone surrogates."""
    return path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")


def read(
    path: Path, columns: tuple[str, ...], parse: Callable, *, blank: tuple[str, ...] = ()
) -> tuple[list[str], list, list[tuple[str, str]]]:
    """Header, parsed rows, and (name, reason) of the malformed rows of a CSV file.

    Every line is read on its own, so an unclosed quote spoils one row and not the rest of the table.

    Parameters
    ----------
    columns : columns that the file must have; no field of them may be empty
    parse : f(row: dict of column -> text) -> the parsed row; if it raises ValueError, the row is malformed
    blank : those of `columns` whose fields may be empty

    Raises
    ------
    ValueError
        The file lacks some of `columns`.
    """
    numbered = [(number, line) for number, line in enumerate(lines(path), 1) if line.strip()]
    header = [
        composed(name) for name in next(csv.reader([numbered[0][1] if numbered else ""], skipinitialspace=True), [])
    ]
    if any(map(_BYTES.search, header)):
        raise ValueError(f"{path}: the first line has bytes that are no UTF-8. Save it as CSV in UTF-8.")
    if missing := [name for name in columns if name not in header]:
        near = {name: meant for name in header if (meant := _nearest(name, missing))}
        remedy = f"Rename {near}." if near else "Save it as CSV with commas, in UTF-8."
        raise ValueError(f"{path}: has columns {header[:8]}, lacks {missing}. {remedy}")
    rows, malformed = [], []
    for number, line in numbered[1:]:
        try:
            fields = [field.strip() for field in next(csv.reader([line], skipinitialspace=True, strict=True))]
            row = dict(zip(header, fields, strict=False))
            if len(fields) != len(header):
                quote = " (quote labels that are joined by commas)" if "labels" in row else ""
                raise ValueError(f"{len(fields)} fields, expected {len(header)}" + quote * (len(fields) > len(header)))
            if empty := [name for name in columns if not (row[name] or name in blank)]:
                raise ValueError(f"no {' and no '.join(empty)}")
            if _BYTES.search(line):
                raise ValueError("bytes that are no UTF-8")
            rows.append(parse(row))
        except (ValueError, csv.Error) as error:
            error = "a quote is not closed" if str(error) == "unexpected end of data" else error
            name = line.split(",")[0].strip(' "').encode("utf-8", "backslashreplace").decode()
            where = f"{path.name}, line {number}"
            malformed.append((name or where, f"malformed row ({where}): {error}"))
    return header, rows, malformed


def composed(name: str) -> str:
    """A name without spaces around it, in composed form: "é" may be one letter, or an "e" and an accent."""
    return unicodedata.normalize("NFC", name.strip())


def labels(text: str) -> tuple[str, ...]:
    """Names joined by commas, each once."""
    return tuple(dict.fromkeys(filter(None, map(composed, text.split(",")))))


def whole(row: dict[str, str], column: str) -> int:
    """The whole number in a column of a row, such as "1" or "1.0"; none is negative."""
    text = row[column]
    if not re.fullmatch(r"\d{1,9}(\.0)?", text):
        raise ValueError(f"{column} {text!r} is no whole number from 0")
    return int(text.removesuffix(".0"))


def look(name: str) -> str:
    """A name without what is hardly seen in it: case, invisible characters, kinds of spaces."""
    seen = (letter for letter in unicodedata.normalize("NFKC", name) if unicodedata.category(letter) != "Cf")
    return " ".join("".join(seen).casefold().split())


def unknown(label: str, classes: Iterable[str]) -> str:
    """The finding that a label is not one of the classes, with the nearest class."""
    nearest = difflib.get_close_matches(label, classes, n=1, cutoff=0)
    shown = ascii if [look(name) for name in nearest] == [look(label)] else repr  # ascii shows what looks alike
    return f"label {shown(label)} is outside the vocabulary" + (f" (nearest: {shown(nearest[0])})" if nearest else "")


def clips(path: Path, findings: list[tuple]) -> tuple[dict[str, dict], tuple[str, ...]]:
    """The clips of a table of clips, by fname in its order, and its classes; see the module's conventions.

    Parameters
    ----------
    path : the CSV file
    findings : findings as in `audit` are added to it. Clips that are unusable by these are still among the clips.

    Raises
    ------
    ValueError
        The table lacks fname or labels, has a column twice, or has a column that looks like a misspelt one.
    """
    header, rows, malformed = read(path, ("fname", "labels"), _clip, blank=("labels",))
    _check_header(path, header, findings)
    table: dict[str, dict] = {}
    for row in rows:
        first = table.setdefault(row["fname"], row)
        if first is not row:
            differ = [name for name in row if str(first[name]) != str(row[name])]
            reason = f"rows with different {' and '.join(differ)}" if differ else "row repeated: one is used"
            if "subset" in differ and "test" in {first["subset"], row["subset"]}:  # it must be scored
                table[row["fname"]], first = (first, row) if first["subset"] == "test" else (row, first)
                reason += ": scored as a test clip, not trained on"
            findings.append((row["fname"], first["subset"], reason, not differ))
    findings += [(fname, table.get(fname, {"subset": ""})["subset"], reason, False) for fname, reason in malformed]
    classes = tuple(sorted({name for clip in table.values() if clip["subset"] == "curated" for name in clip["labels"]}))
    _count_folds(path, [clip for clip in table.values() if clip["subset"] == "curated"], findings)
    if not classes:  # a table of test clips alone: those of the weights come later
        return table, classes
    others = Counter(name for clip in table.values() for name in clip["true_labels"] or () if name not in classes)
    if others:
        reason = f"true_labels name {', '.join(map(repr, list(others)[:3]))}{' ...' * (len(others) > 3)}"
        findings.append((path.name, "", f"{reason}: they are not among the classes and are ignored", True))
    for clip in table.values():
        if clip["true_labels"]:
            clip["true_labels"] = tuple(name for name in clip["true_labels"] if name in classes)
    return table, classes


def _clip(row: dict[str, str]) -> dict[str, Any]:
    """A clip from a row of a table of clips. Raises ValueError if the row is malformed."""
    fname, subset, true = row["fname"], row.get("subset", "").lower() or "curated", row.get("true_labels", "?")
    if "\\" in fname:
        raise ValueError("a backslash in fname: write / between folders")
    if fname.startswith("/") or re.match("[A-Za-z]:/", fname) or ".." in fname.split("/"):
        raise ValueError("the name points outside the table's folder: give a path within it, relative to it")
    if row["labels"][:1] == "[":
        raise ValueError("labels are a list in brackets: write dog,cat")
    if subset not in SUBSETS:
        raise ValueError(f"subset {subset!r}, expected {', '.join(SUBSETS)}")
    names = labels(row["labels"])
    if not names and (subset != "test" or row["labels"]):
        raise ValueError("no labels: only test clips may be without")
    fold = whole(row, "fold") if row.get("fold") else pd.NA
    return {
        **{"fname": fname, "path": "", "subset": subset, "labels": names},
        "group": composed(row.get("group", "")) or fname,
        **{"fold": fold, "usage": row.get("usage", "").capitalize()},
        "true_labels": None if true == "?" else labels(true),
    }


def _nearest(name: str, columns: Iterable[str]) -> str:
    """The column that a name is a misspelling of, else ""."""
    return next(iter(difflib.get_close_matches(name.lower().replace(" ", "_"), columns, n=1, cutoff=0.8)), "")


def _check_header(path: Path, header: list[str], findings: list[tuple]) -> None:
    """Refuse repeated and misspelt columns; list columns that are not read, and a missing column group."""
    if twice := [name for name, n in Counter(header).items() if n > 1]:
        raise ValueError(f"{path}: columns {twice} appear twice. Keep one of each.")
    others = [name for name in header if name not in COLUMNS]
    for name in others:
        if meant := _nearest(name, [column for column in COLUMNS if column not in header]):
            raise ValueError(f"{path}: there is no column {name!r} in a table of clips. Rename it: {meant}.")
    if others:
        findings.append((path.name, "", f"columns that are not read: {', '.join(others)}", True))
    if "group" not in header:
        risk = "clips of one recording can be in training and test folds at once, and then scores are too good"
        findings.append((path.name, "", f"no column group: every clip is its own group, so {risk}", True))


def _count_folds(path: Path, curated: list[dict], findings: list[tuple]) -> None:
    """Count the folds of curated clips from 0. If some clips have none, list that the folds are not used."""
    known = [clip for clip in curated if clip["fold"] is not pd.NA]
    if known and len(known) < len(curated):
        reason = f"{len(curated) - len(known)} of {len(curated)} curated clips have no fold: folds are made anew"
        findings.append((path.name, "", reason, True))
    numbers = {clip["fold"] for clip in known}
    if len(numbers) == 1:
        findings.append((path.name, "", "all clips are in one fold: folds are made anew", True))
    for clip in known:
        clip["fold"] = clip["fold"] - (min(numbers) == 1) if len(numbers) > 1 else pd.NA
