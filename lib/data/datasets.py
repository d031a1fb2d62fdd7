"""Reads five layouts of tagged audio into one table of clips, and lists what is wrong with them.

Conventions
-----------
clips    : DataFrame, a row for each usable clip, default index, in the order of the tables; columns
           fname (str, as in the table, unique), path (str, "" without audio; see `audio`),
           subset ("curated" | "noisy" | "test"), labels (tuple of str, () if unknown),
           group (str; its clips stay in one fold), fold (Int64; published folds 0-based, else <NA>),
           usage (str; "Public" | "Private" | ""), true_labels (tuple of str; None if not known; see `tables`),
           duration_s (s; NaN without audio), sample_rate (Hz; 0 without audio)
problems : DataFrame, a row for each finding about a clip; see `audit`. Every clip that is left out is listed.
layouts  : "kaggle", "zenodo" (FSDKaggle2019 as released), "esc50", "demo", and "table" (one CSV file, see `tables`, or
           a folder with clips.csv that has none of the other layouts). A folder of audio may be a zip of the same name.
           A clip converted to .wav, .ogg or .flac is found by its stem, and a name is found in either Unicode form (a
           Mac writes an accent as a character of its own). `fname` stays as in the table.
Data folders may be read-only: nothing is written there.

Used in: every notebook.
"""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lib.data import audio, audit, tables
from lib.files import digest

__all__ = ["RESERVED", "Dataset", "Labelled", "group_digests", "label_digests", "load", "load_test", "targets"]
__all__ += ["with_audio"]

RESERVED = ("fname", "group", "fold", "labels", "model", "variant", "seed", "window_start_s")  # columns of score tables


class _Part(NamedTuple):
    """The files of a subset: its table, its audio (a folder, or zip of that name), the needed columns of the table."""

    table: str
    audio: str
    columns: tuple[str, ...]  # the first holds the clip's name


_KAGGLE = {  # the first subset that names a clip keeps it
    "curated": _Part("train_curated.csv", "train_curated", ("fname", "labels")),
    "noisy": _Part("train_noisy.csv", "train_noisy", ("fname", "labels")),
    "test": _Part("sample_submission.csv", "test", ("fname",)),
}
_ZENODO = {
    "curated": _Part("train_curated_post_competition.csv", "FSDKaggle2019.audio_train_curated", ("fname", "labels")),
    "noisy": _Part("train_noisy_post_competition.csv", "FSDKaggle2019.audio_train_noisy", ("fname", "labels")),
    "test": _Part("test_post_competition.csv", "FSDKaggle2019.audio_test", ("fname", "labels", "usage")),
}
_ESC50 = {"curated": _Part("meta/esc50.csv", "audio", ("filename", "category", "fold", "target", "esc10", "src_file"))}
_LAYOUTS = {  # layout: (the files that identify it, its subsets); the first layout that fits counts
    "demo": (("demo.json", "train_curated.csv", "sample_submission.csv"), _KAGGLE),
    "kaggle": (("train_curated.csv", "sample_submission.csv"), _KAGGLE),
    "zenodo": (("train_curated_post_competition.csv", "vocabulary.csv"), _ZENODO),
    "esc50": (("meta/esc50.csv",), _ESC50),
    "table": (("clips.csv",), {}),  # the table itself names its audio
}
_META = "FSDKaggle2019.meta"  # Zenodo's tables are in this folder, or in the root


@dataclass(frozen=True, eq=False)
class Dataset:
    """A loaded data set; see the module's conventions.

    Attributes
    ----------
    layout : "kaggle", "zenodo", "esc50", "demo" or "table"
    root : the folder or table that it was loaded from
    classes : names, in the order of the submission
    clips, problems : DataFrames
    """

    layout: str
    root: Path
    classes: tuple[str, ...]
    clips: pd.DataFrame
    problems: pd.DataFrame

    def without(self, problems: pd.DataFrame, *, strict: bool = False) -> "Dataset":
        """The same set with these findings listed too, and without the clips that they call unusable.

        For `Cache.problems`, which only decoding finds (NaN, silence, a truncated compressed file). With `strict`,
        raises ValueError as `load` does.
        """
        rows = [row for part in (self.problems, problems) for row in part[audit.COLUMNS].itertuples(False, None)]
        lost = {(fname, subset) for fname, subset, _, usable in rows if not usable}
        kept = [key not in lost for key in zip(self.clips["fname"], self.clips["subset"], strict=True)]
        clips = self.clips[np.array(kept, dtype=bool)].reset_index(drop=True)
        data = replace(self, clips=clips, problems=audit.table(rows))
        if strict:
            _check_enough(data, strict)
        return data


def load(root: str | Path, *, with_audio: bool = True, strict: bool = False, esc10_only: bool = False) -> Dataset:
    """Identify a data set by its files, read its tables, find its audio, and audit its clips.

    Faults that only decoding finds come later, from `lib.sound.cache`: see `Dataset.without`.

    Parameters
    ----------
    root : folder of the data set, or the CSV file of a table
    with_audio : False reads only the tables, for label statistics and folds
    strict : True raises on clips that can't be used, False lists them and leaves them out. The known bad files of
        FSDKaggle2019 don't count: a new download doesn't repair them
    esc10_only : True takes only the clips of ESC-10, for ESC-50

    Raises
    ------
    FileNotFoundError
        No such folder or table, or no audio beside the tables.
    ValueError
        Unknown layout, a table without the needed columns, a truncated archive, a contradictory vocabulary, no usable
        clip; with `strict`, any clip that can't be used.
    """
    root = Path(root).expanduser()
    layout, base = _recognised(root)
    if esc10_only and layout != "esc50":
        raise ValueError(f"esc10_only=True, but {root} is {layout!r} and not 'esc50'. Set esc10_only=False.")
    findings: list[tuple] = []  # every step below adds to it; unusable clips are left out at the end
    if layout == "table":
        clips, classes = _of_table(base, findings, with_audio)
    else:
        clips, classes = _of_folders(root, base, layout, findings, with_audio, esc10_only)
    _check_vocabulary(base, clips, classes, findings)
    columns = ["fname", "path", "subset", "labels", "group", "fold", "usage", "true_labels"]
    frame = pd.DataFrame(list(clips.values()), columns=columns).astype({"fold": "Int64"})
    data = Dataset(layout, root, classes, frame.assign(duration_s=np.nan, sample_rate=0), audit.table(()))
    data = data.without(audit.table(findings))
    if layout in ("kaggle", "zenodo"):
        data = data.without(audit.known_bad(data.clips))
    if with_audio:
        inspected, problems = audit.inspect(data.clips)
        data = replace(data, clips=inspected).without(problems)
    _check_enough(data, strict)
    return data


def load_test(root: str | Path, known: Iterable[str] = ()) -> Dataset:
    """The clips that a submission must score: one row for each row of its table, in that order.

    No clip is left out and no header is read: a clip without a file has the path "". `problems` lists labels that can't
    be used; their clips count as not labelled. For a table of clips, it lists malformed rows too, and true labels count
    as labels.

    Parameters
    ----------
    root : folder with sample_submission.csv and test/ or test.zip; or FSDKaggle2019 as released on Zenodo; or a table
    known : classes of a table of test clips alone, which has none of its own; without them its labels stay as they are

    Returns
    -------
    Dataset. Its classes are the columns of the sample, in their order; for a table of clips they are as from `load`, or
    `known` without curated clips. Groups are those of a table of clips, elsewhere each clip is one. Labels and usage
    are known in Zenodo's layout, beside Kaggle's with Zenodo's tables, in the demo set, and from a table of clips; else
    they are () and "".

    Raises
    ------
    FileNotFoundError
        No such table, no test clips in a table of clips, or no audio of test clips at all.
    ValueError
        A table that has no rows, another first column than fname, a row without a name, or a class twice; a truncated
        archive.
    """
    root, findings = Path(root).expanduser(), []
    layout, base = _fits(root) or ("", root)
    if layout == "table":
        clips, classes = _of_table(base, findings)
        clips = [clip for clip in clips.values() if clip["subset"] == "test"]
        findings = [row for row in findings if row[1] in ("test", "")]
        if not clips:
            raise FileNotFoundError(f"{base}: no clips to tag. Give them a row each, with the subset test.")
        for clip in clips:
            clip["labels"] = clip["labels"] if clip["true_labels"] is None else clip["true_labels"]
    else:
        layout, clips, classes = _test_of_folders(root, findings)
    classes = classes or tuple(known)
    for clip in clips if classes else ():
        if unknown := [name for name in clip["labels"] if name not in classes]:
            reason = f"{tables.unknown(unknown[0], classes)}: it counts as not labelled"
            findings.append((clip["fname"], "test", reason, True))
            clip["labels"] = ()
    frame = pd.DataFrame(clips, columns=["fname", "path", "subset", "labels", "group", "usage"])
    return Dataset(layout, root, classes, frame, audit.table(findings))


def label_digests(clips: pd.DataFrame, classes: Iterable[str]) -> dict[str, str]:
    """subset -> digest of the classes, and of the names and labels of its clips in any order.

    Parameters
    ----------
    clips : DataFrame with fname, subset, labels
    """
    ordered = clips.sort_values("fname")
    return {
        subset: digest(list(classes), rows["fname"].tolist(), [sorted(labels) for labels in rows["labels"]])
        for subset, rows in ordered.groupby("subset", sort=True)
    }


def group_digests(clips: pd.DataFrame) -> dict[str, str]:
    """subset -> digest of the names of its clips, in any order, each with its group; `clips` as for `label_digests`."""
    pairs = clips.sort_values("fname").groupby("subset", sort=True)[["fname", "group"]]
    return {subset: digest(rows.to_numpy(str).tolist()) for subset, rows in pairs}


def with_audio(root: str | Path) -> frozenset[str]:
    """Subsets that have audio: a folder or archive beside their table. Raises as `load` if the layout is unknown."""
    root = Path(root).expanduser()
    layout, base = _recognised(root)
    if layout == "table":
        with suppress(FileNotFoundError):
            return frozenset(clip["subset"] for clip in _of_table(base, [])[0].values() if clip["path"])
    there = {subset: part for subset, part in _LAYOUTS[layout][1].items() if (base / part.table).is_file()}
    return frozenset(subset for subset, part in there.items() if audio.files(root, part.audio, subset, []))


class Labelled:
    """Mixin: targets and groups, for a class that has `clips` (labels, group) and `classes`."""

    clips: pd.DataFrame
    classes: Iterable[str]

    @property
    def targets(self) -> np.ndarray:
        """float32 (n_clips, n_classes) of 0 and 1."""
        return targets(self.clips, self.classes)

    @property
    def groups(self) -> np.ndarray:
        """str (n_clips,)."""
        return self.clips["group"].to_numpy(str)


def targets(clips: pd.DataFrame, classes: tuple[str, ...]) -> np.ndarray:
    """Labels as float32 (n_clips, n_classes) of 0 and 1, columns in the order of `classes`.

    Raises
    ------
    ValueError
        A label is not one of `classes`.
    """
    column = {name: position for position, name in enumerate(classes)}
    if unknown := sorted({label for labels in clips["labels"] for label in labels} - set(column)):
        raise ValueError(f"labels {unknown[:5]}: not among {len(classes)} classes. Pass those of the same Dataset.")
    result = np.zeros((len(clips), len(classes)), dtype=np.float32)
    for row, labels in enumerate(clips["labels"]):
        result[row, [column[label] for label in labels]] = 1
    return result


def _recognised(root: Path) -> tuple[str, Path]:
    """Layout of a folder, and the folder of its tables; or "table" and its CSV file. Raises as `load`."""
    if fits := _fits(root):
        return fits
    if root.is_file():
        raise ValueError(f"{root}: a file, but not a .csv. Set data_dir to a folder or to a table in CSV.")
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder. Set data_dir to the folder of the tables, or to demo.")
    looked_for = "; ".join(f"{layout}: {', '.join(markers)}" for layout, (markers, _) in _LAYOUTS.items())
    entries = sorted(root.iterdir())
    inside = next((entry for entry in entries if entry.is_dir() and _fits(entry)), None)
    hint = f"Did you mean {inside}?" if inside else "Give the folder that holds the tables."
    names = [entry.name for entry in entries[:10]] or "nothing"
    raise ValueError(f"{root}: no known layout. Looked for {looked_for}. Found {names}. {hint}")


def _fits(root: Path) -> tuple[str, Path] | None:
    """As `_recognised`; None if no layout fits."""
    if root.is_file() and root.suffix.lower() == ".csv":
        return "table", root
    for layout, (markers, _) in _LAYOUTS.items():
        for base in (root, root / _META):
            if all((base / marker).is_file() for marker in markers):
                return layout, base / markers[0] if layout == "table" else base
    return None


def _of_folders(
    root: Path, base: Path, layout: str, findings: list[tuple], with_audio: bool, esc10_only: bool
) -> tuple[dict[str, dict], tuple[str, ...]]:
    """Clips by fname (unusable ones too), and the classes, of a layout with one audio folder for each subset."""
    parts = _LAYOUTS[layout][1]
    some = parts.items() if with_audio else ()
    files = {subset: audio.files(root, part.audio, subset, findings) for subset, part in some}
    if with_audio and not any(files.values()):
        looked_for = ", ".join(f"{part.audio}/ or {part.audio}.zip" for part in parts.values())
        raise FileNotFoundError(
            f"{root}: has tables ({layout}), but no audio. Looked for {looked_for}. "
            "Put the audio there, or load with with_audio=False for the tables only."
        )
    clips, classes = _read_tables(base, layout, esc10_only, findings)
    _regroup(root, base, layout, clips, findings)
    for subset, beside in files.items():
        mine = {fname: clip for fname, clip in clips.items() if clip["subset"] == subset}
        folder = parts[subset].audio
        _set_paths(mine, beside, findings, "missing" if beside else f"missing: neither {folder}/ nor {folder}.zip")
    return clips, classes


def _of_table(table: Path, findings: list[tuple], with_audio: bool = True) -> tuple[dict[str, dict], tuple[str, ...]]:
    """Clips by fname (unusable ones too), and the classes, of a table of clips, which names its audio itself."""
    clips, classes = tables.clips(table, findings)
    _regroup(table.parent, table.parent, "table", clips, findings)
    if not with_audio:
        return clips, classes
    folders = defaultdict(dict)  # folder -> base name -> clip
    for fname, clip in clips.items():
        folder, _, name = fname.rpartition("/")
        folders[folder][name] = clip
    for folder in sorted(folders):
        _set_paths(folders[folder], audio.files(table.parent, folder, "", findings), findings, "missing")
    if clips and not any(clip["path"] for clip in clips.values()):
        raise FileNotFoundError(
            f"{table}: has {len(clips)} clips, but no audio. Looked for {next(iter(clips))} in {table.parent}, and so "
            "on. Write fname as a path from there, or load with with_audio=False for the table only."
        )
    return clips, classes


def _set_paths(clips: dict[str, dict], files: dict[str, str], findings: list[tuple], reason: str) -> None:
    """Find the clips, by their names, among the files of a folder; clips without one are listed with the reason."""
    for name, path in audio.located(clips, files).items():
        clips[name]["path"] = path
        if not path:
            findings.append((clips[name]["fname"], clips[name]["subset"], reason, False))


def _test_of_folders(root: Path, findings: list[tuple]) -> tuple[str, list[dict], tuple[str, ...]]:
    """The layout, the rows to score (in the order of their table) and the classes, for `load_test`."""
    kaggle, zenodo = _KAGGLE["test"], _ZENODO["test"]
    released = next((base for base in (root / _META, root) if (base / zenodo.table).is_file()), None)
    labels, usage = _released(released / zenodo.table, findings) if released else ({}, {})
    if (root / kaggle.table).is_file():
        layout, part = ("demo" if (root / "demo.json").is_file() else "kaggle"), kaggle
        header, fnames, malformed = tables.read(root / kaggle.table, ("fname",), lambda row: row["fname"])
        if header[0] != "fname" or malformed or not fnames:
            why = "; ".join(reason for _, reason in malformed[:3]) or f"{len(fnames)} rows, first column {header[0]!r}"
            raise ValueError(f"{root / kaggle.table}: {why}; expected fname first, and a name in all rows. Repair it.")
        classes = _in_order(enumerate(header[1:]), root / kaggle.table)
        if layout == "demo":
            labels, _ = _released(root / "truth" / "labels.csv", [])
    elif released:
        layout, part, fnames = "zenodo", zenodo, list(labels)
        classes = _vocabulary(released / "vocabulary.csv")
    else:
        raise FileNotFoundError(f"{root} has neither {kaggle.table} nor {zenodo.table}. Set data_dir to their folder.")
    files = audio.files(root, part.audio, "test", [])
    if not files:
        raise FileNotFoundError(f"{root}: no audio of test clips. Looked for {part.audio}/ and {part.audio}.zip.")
    paths = audio.located(fnames, files)
    clips = [
        {"fname": fname, "path": paths[fname], "subset": "test", "group": fname}
        | {"labels": labels.get(fname, ()), "usage": usage.get(fname, "")}
        for fname in fnames
    ]
    return layout, clips, classes


def _released(path: Path, findings: list[tuple]) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Labels and usage of test clips by fname, from a table that has them; a malformed row has none."""
    _, rows, malformed = tables.read(path, ("fname",), dict)
    findings += [(fname, "test", reason, True) for fname, reason in malformed]
    labels = {fname: () for fname, _ in malformed if "," not in fname}
    labels |= {row["fname"]: tables.labels(row.get("labels", "")) for row in rows}
    return labels, {row["fname"]: row.get("usage", "").capitalize() for row in rows}


def _read_tables(base: Path, layout: str, esc10_only: bool, findings: list[tuple]) -> tuple[dict[str, dict], tuple]:
    """Clips by fname (unusable ones too), and the names of the classes in order."""
    clips: dict[str, dict] = {}
    for subset, part in _LAYOUTS[layout][1].items():
        if not (base / part.table).is_file():
            continue  # the noisy and the released test table are optional
        header, rows, malformed = tables.read(base / part.table, part.columns, _clip, blank=("usage",))
        if part is _KAGGLE["test"] and header[0] != "fname":
            raise ValueError(f"{base / part.table}: first column {header[0]!r}, expected fname. Repair it.")
        findings += [(fname, subset, reason, False) for fname, reason in malformed]
        for row in rows:
            if esc10_only and not row["esc10"]:
                continue
            first = clips.get(row["fname"])
            if first is None:
                clips[row["fname"]] = row | {"subset": subset}
            elif first["subset"] != subset:
                findings.append((row["fname"], subset, f"a {first['subset']} clip has the same name", False))
            elif set(first["labels"]) != set(row["labels"]):
                findings.append((row["fname"], subset, "rows with different labels", False))
            else:
                findings.append((row["fname"], subset, "row repeated: one is used", True))
    if layout == "esc50":
        published = _check_published(clips, base / part.table, malformed)
        reason = "malformed row: published folds are counted from 1"
        findings += [(fname, "curated", reason, False) for fname in clips.keys() - published.keys()]
        clips = published
        classes = _in_order({(clip["target"], clip["labels"][0]) for clip in clips.values()}, base / "meta/esc50.csv")
    elif layout == "zenodo":
        classes = _vocabulary(base / "vocabulary.csv")
    else:
        classes = _in_order(enumerate(name for name in header if name != "fname"), base / "sample_submission.csv")
    return clips, classes


def _check_vocabulary(base: Path, clips: dict[str, dict], classes: tuple[str, ...], findings: list[tuple]) -> None:
    """Refuse no classes and ambiguous names; list clips with labels that are not among the classes."""
    if not classes:
        why = "; ".join(f"{fname}: {reason}" for fname, _, reason, usable in findings if not usable)[:500]
        why = why or "Add curated rows"
        raise ValueError(f"{base}: no curated clip has a label, so no class can be learned. {why}.")
    if odd := [name for name in classes if "," in name or name in RESERVED]:
        raise ValueError(
            f"{base}: classes {odd} have a comma, which separates labels, or the name of a column of score tables. "
            f"Rename them: no comma, and none of {', '.join(RESERVED)}."
        )
    groups = sorted({clip["group"] for clip in clips.values()} - clips.keys())
    for what, kind in (("classes", classes), ("groups", groups)):
        alike = pd.Series(kind, dtype=str).groupby([tables.look(name) for name in kind]).agg(list)
        for names in alike[alike.map(len) > 1]:
            reason = f"{what} {', '.join(map(ascii, names))} look alike, but count as different: rename all but one"
            findings.append((base.name, "", reason, True))
    for name in classes:
        if (parts := re.split(r"[;|/]", name))[1:] and {*map(tables.composed, parts)} <= {*classes}:
            reason = f"class {name!r} is made of other classes: labels are joined by commas, and then quoted"
            findings.append((base.name, "", reason, True))
    unknown = {label for clip in clips.values() for label in clip["labels"]} - set(classes)
    reasons = {label: tables.unknown(label, classes) for label in unknown}
    for fname, clip in clips.items():
        for label in unknown.intersection(clip["labels"]):
            findings.append((fname, clip["subset"], reasons[label], False))


def _clip(row: dict[str, str]) -> dict[str, Any]:
    """A clip from a row of any layout's table. Raises ValueError if the row is malformed."""
    fname = row.get("filename") or row["fname"]
    if re.search(r"[/\\]", fname) or fname in (".", ".."):
        raise ValueError("the name points outside the folder of audio")
    text = row.get("category") or row.get("labels", "")
    labels = (tables.composed(text),) if row.get("category") else tables.labels(text)
    if text and not labels:
        raise ValueError("no labels")
    clip = {"fname": fname, "path": "", "labels": labels, "group": _group(row) or fname, "fold": pd.NA}
    if "filename" in row:
        clip |= {"fold": tables.whole(row, "fold") - 1, "target": tables.whole(row, "target")}
        clip["esc10"] = row["esc10"].lower() == "true"
    return clip | {"usage": row.get("usage", ""), "true_labels": None}


def _check_published(clips: dict[str, dict], path: Path, malformed: list[tuple[str, str]]) -> dict[str, dict]:
    """The clips of ESC-50's table that have a published fold. A clip without one has fold -1 here.

    Raises
    ------
    ValueError
        All rows are malformed, or the whole table counts its folds from 0.
    """
    if not clips:
        why = "; ".join(why for _, why in malformed[:3]) or "it is empty, or no row has esc10 True"
        raise ValueError(f"{path}: no row can be read: {why}.")
    n = Counter(clip["fold"] for clip in clips.values())
    if n[-1] * 2 * len(n) > len(clips) and sorted(n) == list(range(-1, len(n) - 1)):
        raise ValueError(f"{path}: folds are {sorted(f + 1 for f in n)}, but published ones are counted from 1. Add 1.")
    return {fname: clip for fname, clip in clips.items() if clip["fold"] >= 0}


def _group(row: dict[str, str]) -> str:
    """The group of a clip: its recording, Freesound sound or Flickr user; else ""."""
    if user := re.search(r"/videos/([^/]+)/", row.get("flickr_video_URL", "")):
        return f"flickr:{user[1]}"
    sources = (("freesound_id", "freesound"), ("src_file", "esc"))
    return next((f"{source}:{row[column]}" for column, source in sources if row.get(column)), "")


def _regroup(root: Path, base: Path, layout: str, clips: dict[str, dict], findings: list[tuple]) -> None:
    """Replace groups of the tables by those of Zenodo's tables beside Kaggle's, then by those of groups.csv."""
    released = [place / part.table for place in (root / _META, root) for part in _ZENODO.values()]
    groups: dict[str, str] = {}
    for path in filter(Path.is_file, released if layout in ("kaggle", "demo") else ()):
        _, rows, malformed = tables.read(path, ("fname",), lambda row: (row["fname"], _group(row)))
        groups |= {fname: group for fname, group in rows if group}
        findings += [(fname, "", reason, True) for fname, reason in malformed]
    beside = {base} | {(base / part.table).parent for part in _LAYOUTS[layout][1].values()}  # ESC-50 has it in meta/
    paths = [place / "groups.csv" for place in sorted(beside) if (place / "groups.csv").is_file()]
    if len(paths) > 1:
        raise ValueError(f"{' and '.join(map(str, paths))}: two tables of groups. Keep one.")
    for path in paths:
        _, rows, malformed = tables.read(path, ("fname", "group"), lambda row: (row["fname"], row["group"]))
        findings += [(fname, "", reason, True) for fname, reason in malformed]
        if twice := [fname for fname, n in Counter(fname for fname, _ in set(rows)).items() if n > 1]:
            raise ValueError(f"{path}: {twice[:5]} have two groups. Keep one row a clip.")
        if not clips.keys() & dict(rows).keys():
            raise ValueError(f"{path}: names none of the {len(clips)} clips. Write fname as the other tables do.")
        groups |= dict(rows)
        mine = {fname for fname, clip in clips.items() if clip["subset"] != "test"}
        if left := len(mine - dict(rows).keys()):
            reason = f"lacks {left} of {len(mine)} clips: their groups are those of the tables"
            findings.append((path.name, "", reason, True))
    for fname in clips.keys() & groups.keys():
        clips[fname]["group"] = groups[fname]


def _vocabulary(path: Path) -> tuple[str, ...]:
    """Classes of Zenodo's vocabulary.csv: index,name without a header."""
    try:
        rows = csv.reader(filter(str.strip, tables.lines(path)))
        numbered = {(int(index), tables.composed(name)) for index, name in rows}
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: expected rows of index,name and no header ({error}). Download it again.") from error
    return _in_order(numbered, path)


def _in_order(numbered: Iterable[tuple[int, str]], path: Path) -> tuple[str, ...]:
    """Names in the order of their numbers. Raises ValueError if a number or a name is repeated or empty."""
    numbered = sorted(numbered)
    faults = [x for x, n in Counter(x for pair in numbered for x in pair).items() if n > 1 or x == ""]
    if faults or not numbered:
        raise ValueError(f"{path}: a vocabulary with {faults or 'nothing'} twice or empty. Name every class once.")
    return tuple(name for _, name in numbered)


def _check_enough(data: Dataset, strict: bool) -> None:
    """Refuse a set without a usable clip and, if `strict`, one with any unusable clip."""
    lost = data.problems[~data.problems["usable"] & ~data.problems["reason"].str.startswith("known bad")]
    lost = lost.sort_values("subset", key=lambda subset: subset != "curated", kind="stable")
    none = not (data.clips["subset"] == "curated").any()
    if none or (strict and len(lost)):
        first = "; ".join(f"{row.fname} ({row.subset}): {row.reason}" for row in lost.head(10).itertuples())
        can = f"{len(data.clips)} can" + ", none of them curated" * (none and len(data.clips) > 0)
        remedy = "Repair or download them again" + ("." if none else ", or load with strict=False.")
        raise ValueError(f"{data.root}: {len(lost)} clips can't be used, {can}: {first}. {remedy}")
