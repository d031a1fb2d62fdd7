"""What has changed in the data set since a run was made: labels, groups, audio and folds.

A notebook refuses changed data itself (`Run.settle`). The pipeline starts no notebook if all results exist, so it
checks here first.

Conventions
-----------
digests : "labels", "groups" and "audio" by subset, and "folds", as the notebooks write them into
          configuration.json. A part is compared in the subsets that it was made from; 01 reads all, 05 all but test.

Used in: `plan`, `submission`.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from lib.data import audio, audit, datasets
from lib.evaluation import folds
from lib.files import read_json
from lib.runs.recipes import DATA, differences

__all__ = ["LATE", "has_come_since", "now", "of_test", "since"]

LATE = "no time was left"  # the problem of a test clip that was left out to keep a time limit


def since(
    home: Path, params: Mapping[str, object], data_dir: Path, folds_csv: Path | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Which parts of a run were made from other data than the present ones, each with the difference in words.

    Parameters
    ----------
    home : outputs/<run>
    params : n_folds and esc10_only
    data_dir, folds_csv : their paths; folds_csv is None where the run makes its folds

    Returns
    -------
    Part (such as "04_kfold/curated") -> the difference; and the same for submissions that only lack clips which were
    added since (`has_come_since`): they can be made again without losing a score
    """
    made = {path.parent: read_json(path) for path in sorted(home.rglob("configuration.json"))}
    made = {part: configuration for part, configuration in made.items() if any(part.rglob("result.json"))}
    differing, lacking = {}, {}
    if not made:
        return differing, lacking
    here = now(home, params, data_dir, folds_csv, with_folds=any("folds" in one for one in made.values()))
    for part, configuration in made.items():
        name, of_part, target = part.relative_to(home).as_posix(), here, differing
        notebook = name.split("/")[0]
        if notebook == "08_submission":  # it lists all test clips, also those that can't be used
            of_part, contents = of_test(data_dir, home.parent / "cache")
            target = lacking if has_come_since(part, contents) else differing
        theirs = {key: value for key, value in configuration.items() if key in DATA and not isinstance(value, str)}
        mine = {key: _read_by(notebook, theirs[key], of_part.get(key, {})) for key in theirs}
        if "folds" in configuration:
            theirs["folds"], mine["folds"] = configuration["folds"], of_part["folds"]
        if differ := differences(theirs, mine):
            target[name] = differ
    return differing, lacking


def now(
    home: Path, params: Mapping[str, object], data_dir: Path, folds_csv: Path | None, *, with_folds: bool = True
) -> dict[str, object]:
    """The present digests of a data set, without the clips that could not be decoded; parameters as in `since`."""
    with_audio = bool(datasets.with_audio(data_dir))
    data = datasets.load(data_dir, with_audio=with_audio, esc10_only=bool(params.get("esc10_only")))
    digests: dict[str, object] = {}
    if with_audio:
        digests["audio"] = audio.contents(data.clips, home.parent / "cache")
        for subset, content in digests["audio"].items():
            for problems in sorted((home.parent / "cache").glob(f"logmel-*/{subset}-{content}/problems.csv"))[:1]:
                data = data.without(audit.read(problems))
    digests["labels"] = datasets.label_digests(data.clips, data.classes)
    digests["groups"] = datasets.group_digests(data.clips)
    curated = data.clips.query("subset == 'curated'")
    if not with_folds:
        return digests
    if folds_csv:
        table = folds.read(folds_csv, curated)
    else:
        table = folds.make(curated, datasets.targets(curated, data.classes), params["n_folds"], folds.SEED)
    return digests | {"folds": folds.digest(table)}


def _read_by(notebook: str, theirs: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str | None]:
    """The present digests of the subsets that a result was made from, and of those that its notebook reads now."""
    reads = {"01_eda": now.keys(), "05_curation": now.keys() - {"test"}}.get(notebook, set())
    return {subset: now.get(subset) for subset in theirs.keys() | reads}


def of_test(data_dir: Path, cache: Path) -> tuple[dict[str, dict[str, str]], pd.Series]:
    """The digests of a data set's test clips, and the hash of each clip's file, by fname; both empty if it has none.

    Parameters
    ----------
    cache : folder of caches
    """
    try:
        data = datasets.load_test(data_dir)
    except FileNotFoundError:
        return {}, pd.Series(dtype=str)
    clips = data.clips.drop_duplicates("fname")
    contents = pd.Series(audio.content_hashes(clips["path"], cache / "sha256.csv"), index=clips["fname"])
    digests = {"labels": datasets.label_digests(clips, data.classes), "groups": datasets.group_digests(clips)}
    return digests | {"audio": audio.contents(clips, cache)}, contents


def has_come_since(folder: Path, contents: pd.Series) -> bool:
    """Whether a submission may be made again without asking, because it gains scores and loses none.

    That is: clips without scores have another file now, or no time was left for them, or there are further clips; clips
    with scores are unchanged.

    Parameters
    ----------
    folder : of the submission
    contents : as from `of_test`
    """
    try:
        how = pd.read_csv(folder / "how.csv", dtype=str, keep_default_na=False).set_index("fname")
        is_same, late = how["content"] == contents.reindex(how.index), LATE in how["problem"].tolist()
    except (OSError, ValueError, KeyError):  # not there, or damaged
        return False
    if not is_same[how["problem"] == ""].all():
        return False
    return late or not (is_same.all() and contents.index.isin(how.index).all())
