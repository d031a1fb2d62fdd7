"""Judges: which pair model may judge which clip, and what it says of it.

For outer fold g the judges are the pair models without g. A curated clip of fold f has one judge, `without_f_g`; a
noisy clip has all of them, or, where it shares a group with clips of fold f, only those without f (published folds may
split a group: each of its folds counts); a clip whose group stands in g has none, and trains nothing that is read on g.
Judges are trained on curated clips alone: of a noisy clip no name could tell whether the model saw it.

Conventions
-----------
judges  : folder outputs/<run>/04_kfold/<variant>, with a folder for each pair model; `ModelSet.open` has checked them.
windows : DataFrame, a row a window: fname, window_start_s, window_end_s (s), silent (bool); every window of every clip.

Used in: 05_curation, `leaks`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from lib.evaluation import folds
from lib.experiments import curation
from lib.files import whole_file, whole_folder
from lib.runs import oof
from lib.sound import windows
from lib.sound.cache import Cache
from lib.training import models
from lib.training.models import activate
from lib.training.task import Task

__all__ = [
    "all_evidence",
    "evidence",
    "found",
    "judge_noisy",
    "roll",
    "says",
    "write",
]

BLOCK = 2**16  # windows whose logits become scores at once


def roll(task: Task, cut: windows.Windows, gate_db: float) -> pd.DataFrame:
    """Inference windows of all clips with window_end_s and silent: see Conventions, and `windows.rolling`."""
    table = task.windows(task.clips[["fname"]], cut)
    table["window_end_s"] = (table["window_start_s"] + cut.window_s).round(3)
    return table.assign(silent=curation.silent(task.cache, table, cut.n_frames(task.cache.logmel), gate_db))


def judge_noisy(folder: Path, judges: Path, names: list[str], cache: Cache, table: pd.DataFrame, width: int) -> None:
    """Let each pair model score the windows of the noisy clips; a folder each, as 04's, but with fold -1.

    A model that has done so before is passed over, and all are where there are no such windows.

    Parameters
    ----------
    folder : written to, <folder>/without_2_4/oof_windows.npz
    table : windows of the noisy clips, from `roll`
    width : frames of a window
    """
    for name in names:
        if len(table) and not (folder / name).is_dir():
            model, sidecar = models.load(judges / name / "weights.safetensors")
            (logits,) = models.score([model.prepare()], cache, table, width)
            with whole_folder(folder / name) as partial:
                oof.write_windows(partial, table.assign(fold=-1), logits, sidecar["classes"])


def evidence(outer: int, judges: Path, noisy: Path, task: Task, table: pd.DataFrame) -> curation.Evidence:
    """What the models without fold `outer` say of every clip that may train a model that is read on it.

    Parameters
    ----------
    judges, noisy : folders of the pair models, and of what they say of noisy clips (`judge_noisy`)
    task : of the curated and noisy clips
    table : their windows, from `roll`

    Raises
    ------
    LeakError
        A clip or a judge that may not be there (`folds.assert_no_leak`).
    ValueError
        The windows are not those that the models scored.
    """
    clips, dealt = task.clips, task.folds
    chosen = clips[folds.training(dealt, [outer], clips["group"])]
    table = table[table["fname"].isin(chosen["fname"])].reset_index(drop=True)
    said = _judges(folds.pair_models(task.n_folds, outer), outer, judges, noisy, dealt, chosen, table)
    found = curation.gather(chosen, table, task.classes, said)
    group_of = dict(zip(found.clips["fname"], found.clips["group"], strict=True))
    folds.assert_no_leak(dealt, found.clips["fname"], {outer}, groups=group_of, judges=found.clips)
    return found


def all_evidence(
    noisy: Path, judges: Path, task: Task, table: pd.DataFrame, cut: windows.Windows
) -> dict[int, curation.Evidence]:
    """`judge_noisy`, then the `evidence` of every outer fold."""
    fnames = task.clips.loc[task.clips["subset"] == "noisy", "fname"]
    rows = table[table["fname"].isin(fnames)].reset_index(drop=True)
    judge_noisy(noisy, judges, folds.pair_models(task.n_folds), task.cache, rows, cut.n_frames(task.cache.logmel))
    return {g: evidence(g, judges, noisy, task, table) for g in range(task.n_folds)}


def write(folder: Path, evidences: Mapping[int, curation.Evidence], rules: list[str], keep_best: bool) -> pd.DataFrame:
    """Write <rule>/without_<g>/kept_windows.csv for every rule and outer fold, and heard/without_<g>/heard.csv.

    Parameters
    ----------
    evidences : outer fold -> `evidence`
    rules, keep_best : see `curation.select`

    Returns
    -------
    rule, subset, windows (share that was kept), clips (share of clips of which something was kept), silent (share of
    windows), over all outer folds
    """
    rows = []
    for g, found in tqdm(evidences.items(), desc="selecting", unit="outer fold"):
        tables = {f"heard/{folds.model_name(g)}/heard": curation.heard(found)}
        for rule in rules:
            kept = curation.select(found, rule, keep_best=keep_best)
            tables[f"{rule}/{folds.model_name(g)}/kept_windows"] = kept
            rows.append(kept.assign(rule=rule, outer=g)[["rule", "outer", "subset", "fname", "kept", "reason"]])
        for name, table in tables.items():
            with whole_file(folder / f"{name}.csv") as partial:
                table.to_csv(partial, index=False)
    every = pd.concat(rows, ignore_index=True).assign(silent=lambda t: t["reason"] == "silent")
    by = every.groupby(["rule", "subset"], sort=False)
    clips = every.groupby(["rule", "subset", "outer", "fname"], sort=False)["kept"].any()
    shares = by[["kept", "silent"]].mean().rename(columns={"kept": "windows"})
    return shares.assign(clips=clips.groupby(["rule", "subset"], sort=False).mean()).round(3).reset_index()


def found(shares: pd.DataFrame, rule: str) -> dict[str, float]:
    """For `result.json`: the shares that a rule keeps, kept_curated_windows and so on; `shares` from `write`."""
    rows = shares[shares["rule"] == rule].itertuples()
    return {f"kept_{row.subset}_{what}": getattr(row, what) for row in rows for what in ("windows", "clips")}


def says(shares: pd.DataFrame, rule: str) -> str:
    """What a rule keeps, in a sentence; `shares` from `write`."""
    rows = shares[shares["rule"] == rule].itertuples()
    told = [f"{row.windows:.0%} of the {row.subset} windows (some of {row.clips:.0%} of the clips)" for row in rows]
    return f"{rule} keeps {' and '.join(told)}."


def _judges(
    names: list[str],
    outer: int,
    judges: Path,
    noisy: Path,
    dealt: pd.DataFrame,
    clips: pd.DataFrame,
    table: pd.DataFrame,
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, rows of the table and scores of each judge, for `curation.gather`."""
    at = pd.MultiIndex.from_arrays([table["fname"], table["window_start_s"].round(3)])
    strange = ~clips["group"].isin(dealt["group"])  # noisy clips that are related to no curated one
    for name in names:
        (own,) = folds.unseen(name) - {outer}
        loss = models.sidecar(judges / name / "weights.safetensors")["recipe"]["loss"]
        held_out = dealt[dealt["fold"] == own]
        unseen = {"curated": clips["fname"].isin(held_out["fname"])}
        unseen["noisy"] = (clips["subset"] == "noisy") & (clips["group"].isin(held_out["group"]) | strange)
        rows, scores = [], []
        for part, subset in ((judges, "curated"), (noisy, "noisy")):
            if not (part / name).is_dir():
                continue  # a set without noisy clips
            judged, logits = oof.read_logits(part / name)
            mine = judged["fname"].isin(clips.loc[unseen[subset], "fname"]).to_numpy()
            place = at.get_indexer([judged["fname"][mine], judged["window_start_s"][mine].round(3)])
            if (place < 0).any():
                raise ValueError(
                    f"{part / name}: {(place < 0).sum()} windows are none of these. Take the window_s, hop_s and "
                    "features of the models, or train them again (-p overwrite True)."
                )
            rows.append(place)
            scores.append(_scores(logits[mine], loss))
        rows, scores = np.concatenate(rows), np.concatenate(scores)
        order = np.argsort(rows, kind="stable")
        yield name, rows[order], scores[order]


def _scores(logits: np.ndarray, loss: str) -> np.ndarray:
    """`models.activate` in float32, a block at a time."""
    blocks = [logits[i : i + BLOCK] for i in range(0, len(logits), BLOCK)]
    return np.concatenate([activate(block, loss).astype(np.float32) for block in blocks] or [logits])
