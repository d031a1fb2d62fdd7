"""Leaks: five ways to get a score that is too high, each beside its control.

a. Clips are split by window at random instead of by group: windows of one clip are on both sides.
b. Selection effect: a model is validated on windows that passed a filter, instead of on all windows.
c. A model judges the clips that it was trained on, instead of clips that it never saw.
d. The write-up's .90: a model is trained on kept windows and validated on the kept windows of its held-out fold, each
   window on its own. All windows were judged by models that never saw them, so nothing leaks; but the task scores whole
   clips, not kept windows.
e. The write-up's first attempt: a model is trained on curated and noisy clips and judges the windows of these same
   clips. The windows that it keeps are split at random to train and validate the next model.

Each but (c) has two scores: the one that it reports, and the one that the same model reaches on an outer fold g, which
took no part in training or selection.

Conventions
-----------
judges     : the `ModelSet` of 04's curated models
evidences  : outer fold -> evidence of its judges, from `curation.all_evidence`
inner fold : g + 1, or 0 after the last. The control of (a) and (b) is the pair model without g and the inner fold,
             validated on the inner fold.
Each training has a result, <run>/05_curation/compare/<leak>/without_<g>/seed_<seed>/, at the compute of that pair model
(a) or of 04's model (c, e). (d) trains nothing: it reads 04's kept_curated. (e) starts from 04's curated_noisy. A setup
whose models 04 has not trained is left out; `tables` gives the reason.

Used in: 05_curation.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lib.data import datasets, demo
from lib.evaluation import folds, metrics
from lib.evaluation.window_scores import WindowScores
from lib.experiments import curation, probes, training_sets, trials
from lib.experiments.curation import Evidence
from lib.runs import oof
from lib.runs.modelset import ModelSet
from lib.runs.run import Run
from lib.sound.windows import Windows
from lib.training import learners, models
from lib.training.batches import TrainingSet
from lib.training.models import Network, activate
from lib.training.task import Task

__all__ = ["RULE", "conclusion", "self_evidence", "tables", "train", "training_set"]

RULE = "top_1"  # the write-up's
BY_WINDOW, SELF_JUDGED, FIRST_ATTEMPT = "split_by_window", "self_judged", "first_attempt"  # (a), (c), (e)
KEPT, KEPT_NOISY, NOISY = "kept_curated", "kept_curated_kept_noisy", "curated_noisy"  # training sets of 04
NOISY_JUDGE = "the model trained on noisy clips too"  # the judge in (e)
NOISY_SETUP = "noisy clips judged by the model that trained on them"
NOISY_DIFFERENCE = "reported less reached, noisy clips judged by their own model"
ClipScores = tuple[np.ndarray, np.ndarray, np.ndarray]  # targets, scores, groups; a row a clip and outer fold
Evidences = Mapping[int, Evidence]  # outer fold -> the evidence of its judges
Trained = Mapping[tuple[str, int], WindowScores]  # (leak, outer fold) -> windows that the model scored

# leak, setup, control, what it reports, what it reaches: names in `_measure`
SETUPS = (
    ("a", "split by window at random", False, f"{BY_WINDOW} reports", f"{BY_WINDOW} reaches"),
    ("a", "split by group", True, "by group reports", "by group reaches"),
    ("b", "by group, on windows that passed the filter", False, "filtered reports", "by group reaches"),
    ("b", "by group, on all windows", True, "by group reports", "by group reaches"),
    ("c", "trained on what the model itself kept", False, None, f"{SELF_JUDGED} reaches"),
    ("c", "trained on what others kept", True, None, f"{KEPT} reaches"),
    ("d", "validated on kept windows, a window at a time", False, f"{KEPT}, kept windows", f"{KEPT} reaches"),
    ("e", NOISY_SETUP, False, f"{FIRST_ATTEMPT} reports", f"{FIRST_ATTEMPT} reaches"),
    ("e", "noisy clips judged by models of curated clips", True, None, f"{KEPT_NOISY} reaches"),
)
# leak, what, one side of the difference, the other
DIFFERENCES = (
    ("a", "reported less reached, split by window", f"{BY_WINDOW} reports", f"{BY_WINDOW} reaches"),
    ("a", "reported less reached, split by group", "by group reports", "by group reaches"),
    ("b", "reported on windows that passed less reported on all", "filtered reports", "by group reports"),
    ("c", "reached when others judged less when the model did itself", f"{KEPT} reaches", f"{SELF_JUDGED} reaches"),
    ("d", "reported on kept windows less on all windows", f"{KEPT}, kept windows", f"{KEPT}, all windows"),
    ("d", "reported on kept windows less reached on clips", f"{KEPT}, kept windows", f"{KEPT} reaches"),
    ("e", NOISY_DIFFERENCE, f"{FIRST_ATTEMPT} reports", f"{FIRST_ATTEMPT} reaches"),
)


def train(run: Run, task: Task, judges: ModelSet, evidences: Evidences) -> Trained:
    """Train what is not done yet, for every outer fold: (leak, outer fold) -> windows that the model scored.

    Parameters
    ----------
    run : of 05, part compare; `folds` are the outer folds
    task : of the curated and noisy clips

    Raises
    ------
    LeakError
        A clip of the outer fold would train a model; and as `training_set`.
    """
    leaks = [BY_WINDOW, SELF_JUDGED, *([] if _why_no_first_attempt(run, task, judges) else [FIRST_ATTEMPT])]
    keys = [(leak, g, run.params["seed"]) for g in task.asked(run.params["folds"]) for leak in leaks]

    def train_one(trial: Run, leak: str, g: int, seed: int) -> WindowScores:
        return _fit(trial, task, g, *training_set(trial, task, judges, evidences[g], leak, g))

    return {(leak, g): scored for (leak, g, _), _, scored in trials.do(run, keys, train_one)}


def training_set(
    trial: Run, task: Task, judges: ModelSet, evidence: Evidence, leak: str, g: int
) -> tuple[TrainingSet, int, pd.DataFrame]:
    """The training set of a leak's model, the number of clips that its epochs count, and the windows that it reports.

    Raises
    ------
    LeakError
        The judge of (e) is not a model without fold g of these folds.
    """
    cut, inner = trial.pick(Windows), _inner_fold(task, g)
    clips = task.clips[task.clips["fname"].isin(evidence.clips["fname"])]
    clips = clips[(clips["subset"] == "curated") | (leak == FIRST_ATTEMPT)]
    clips = clips.assign(fold=clips["fname"].map(task.folds.set_index("fname")["fold"]).fillna(-1))
    table, n_base = task.windows(clips[["fname", "fold"]], cut), folds.training(task.folds, [g]).sum()
    if leak == BY_WINDOW:
        n_base = folds.training(task.folds, [g, inner]).sum()
    else:
        judge = (judges if leak == SELF_JUDGED else _other_variant(judges, NOISY)).folder / folds.model_name(g)
        if leak == FIRST_ATTEMPT:
            _check_judge(judge, task, g)
        model, _ = models.load(judge / "weights.safetensors")
        (logits,) = models.score([model.prepare()], task.cache, table, cut.n_frames(task.cache.logmel))
        oof.write_windows(trial.folder / "judged", table, logits, list(task.classes))
        kept = curation.select(self_evidence(trial, evidence, g), RULE)
        if leak == SELF_JUDGED:
            return training_sets.from_kept(leak, task, clips, kept, cut.window_s), n_base, table[:0]
        table = table[_is_kept(table, kept)]
    held_back = np.random.default_rng([trial.params["seed"], g]).random(len(table)) < 1 / (task.n_folds - 1)
    return _of_windows(leak, task, clips, table[~held_back], cut), n_base, table[held_back]


def self_evidence(trial: Run, evidence: Evidence, g: int) -> Evidence:
    """Evidence from the model without fold g on its own training clips: curated ones, in (e) noisy ones too."""
    judged = oof.read_windows(trial.folder / "judged", trial.params["loss"])
    rows = judged.table[["fname", "window_start_s"]].assign(row=np.arange(len(judged.table)))
    table = evidence.windows.assign(fname=evidence.clips["fname"].to_numpy()[evidence.windows["clip"]])
    table = table.drop(columns="clip").merge(rows, on=["fname", "window_start_s"], validate="one_to_one")
    clips = evidence.clips[evidence.clips["fname"].isin(table["fname"])]
    judge = folds.model_name(g), np.arange(len(table)), judged.scores[table.pop("row")].astype(np.float32)
    return curation.gather(clips, table, evidence.classes, [judge])


def tables(
    run: Run, task: Task, judges: ModelSet, evidences: Evidences, trained: Trained, known: demo.Truth | None
) -> dict[str, pd.DataFrame]:
    """The results as tables; scores are lwlrap, with 95 % intervals that resample groups.

    Parameters
    ----------
    trained : from `train`
    known : the true labels, as from `demo.read_truth`

    Returns
    -------
    leaks : a row a setup: leak (a to e), setup, control (bool), reported, reached, gap (reported - reached), each with
        _low and _high; n_reported, n_reached (clips; in (d) windows are reported). (c) reports nothing.
    leak_effects : leak, what, gap, gap_low, gap_high
    judged_by : share of the labels in windows that pass the filter: subset (noisy only with (e)), judged_by (itself,
        others, and in (e) the model trained on noisy clips), n (labels in windows, once an outer fold), share with
        _low and _high
    self_judging : (c) and (e) by known truth: `probes.rates` of windows, with (e) also of noisy labels, for each
        judge; empty where no truth is known
    left_out : leak, why
    """
    measured = _measure(run, task, judges, evidences, trained)
    others = [evidences[g] for g in task.asked(run.params["folds"])]
    by_judge = {"itself": _self_evidences(run, evidences, trained, SELF_JUDGED), "others": others}
    left_out = {} if f"{KEPT} reaches" in measured else {"d": f"04 has not trained {KEPT} without each fold"}
    if why := _why_no_first_attempt(run, task, judges):
        left_out["e"] = why
    else:
        by_judge[NOISY_JUDGE] = _self_evidences(run, evidences, trained, FIRST_ATTEMPT)
    return {
        "leaks": pd.DataFrame([_row(measured, *setup) for setup in SETUPS if setup[-1] in measured]),
        "leak_effects": _differences(measured),
        "judged_by": _pass_rates(by_judge),
        "self_judging": pd.DataFrame() if known is None else _by_truth(known, by_judge),
        "left_out": pd.DataFrame({"leak": left_out.keys(), "why": left_out.values()}),
    }


def conclusion(tables: Mapping[str, pd.DataFrame]) -> str:
    """What each setup reports and reaches, in sentences, from `tables`."""
    sentences = []
    for row in tables["leaks"].itertuples():
        reached = f"{row.reached:.3f} ({row.reached_low:.3f} to {row.reached_high:.3f})"
        reported = "" if np.isnan(row.reported) else f"reports {row.reported:.3f} and "
        sentences.append(f"- {row.setup[0].upper()}{row.setup[1:]}: {reported}reaches {reached}.")
    shares = " and ".join(
        f"of the {subset} windows "
        + ", ".join(f"{row.share:.0%} if judged by {row.judged_by}" for row in rows.itertuples())
        for subset, rows in tables["judged_by"].groupby("subset", sort=False)
    )
    left_out = "".join(f" ({row.leak}) is left out: {row.why}." for row in tables["left_out"].itertuples())
    return "\n".join(["The leaks, lwlrap:", "", *sentences, "", f"The filter lets through {shares}.{left_out}"])


def _inner_fold(task: Task, g: int) -> int:
    return (g + 1) % task.n_folds


def _other_variant(judges: ModelSet, variant: str) -> ModelSet:
    """The models without one fold of another variant of 04."""
    return replace(judges, variant=variant, need="single")


def _why_no_first_attempt(run: Run, task: Task, judges: ModelSet) -> str:
    """Why (e) is left out; empty if it is not."""
    if "noisy" not in set(task.clips["subset"]):
        return "the set has no noisy clips"
    there = _other_variant(judges, NOISY)
    missing = [folds.model_name(g) for g in task.asked(run.params["folds"]) if g in there.missing]
    return f"04 has not trained {NOISY} for {', '.join(missing)}" if missing else ""


def _check_judge(judge: Path, task: Task, g: int) -> None:
    """LeakError unless the judge held out fold g of these folds."""
    sidecar = models.sidecar(judge / "weights.safetensors")
    if set(sidecar["unseen_folds"]) != {g} or sidecar["folds"] != folds.digest(task.folds):
        raise folds.LeakError(f"{judge} is not a model without fold {g} of these folds. Train it again.")


def _of_windows(name: str, task: Task, clips: pd.DataFrame, table: pd.DataFrame, cut: Windows) -> TrainingSet:
    """A training set of single windows of the clips."""
    start = table["start_frame"].clip(lower=0)
    n_frames = (table["n_frames"] - start).clip(upper=cut.n_frames(task.cache.logmel))
    rows = table.assign(first_frame=table["first_frame"] + start, n_frames=n_frames)
    clips = clips.set_index("fname").loc[rows["fname"].unique()].reset_index()
    return replace(training_sets.whole(name, task, clips), rows=rows)


def _fit(trial: Run, task: Task, g: int, chosen: TrainingSet, n_base: int, reported: pd.DataFrame) -> WindowScores:
    """Train, and score the reported windows and the outer fold."""
    folds.assert_no_leak(task.folds, chosen.rows["fname"], {g}, groups=chosen.groups)  # judges: the leak itself
    cut, recipe, cache = trial.pick(Windows), trial.pick(learners.Recipe), task.cache
    training, recipe = learners.feed(cache, chosen, n_base, cut, recipe, trial.params["seed"])
    validation = task.scoring(task.split(g)[1], cut)
    label = f"{trial.variant.name} {folds.model_name(g)}"
    model, _ = learners.fit(trial.pick(Network), recipe, training, validation, trial.checkpoint, label)
    table = pd.concat([reported, validation.table], ignore_index=True)
    (logits,) = models.score([model], cache, table, validation.width)
    oof.write_windows(trial.folder, table, logits, list(task.classes))
    scored = WindowScores(table, activate(logits, recipe.loss))
    targets, scores, _ = _scores_of(task, [scored.in_fold(g)])
    reached = metrics.lwlrap(targets, scores)
    trial.finish({"lwlrap": reached, "n": len(targets)}, "measured", f"lwlrap {reached:.3f} on fold {g}.")
    return scored


def _measure(run: Run, task: Task, judges: ModelSet, evidences: Evidences, trained: Trained) -> dict[str, ClipScores]:
    """Clip scores that the setups report and reach, by the names in SETUPS and DIFFERENCES; only of trained models."""
    outer = task.asked(run.params["folds"])
    inner = {g: _inner_fold(task, g) for g in outer}
    kept = {g: curation.select(evidence, RULE) for g, evidence in evidences.items()}
    pairs = {g: judges.windows([folds.model_name(g, inner[g])]) for g in outer}
    validated = {g: pairs[g].in_fold(inner[g]) for g in outer}
    # the windows of the inner fold were judged by a model that neither saw them nor scores them here
    passed = [some.where(_is_kept(some.table, kept[_inner_fold(task, inner[g])])) for g, some in validated.items()]
    parts = {"by group reports": validated.values(), "filtered reports": passed}
    parts["by group reaches"] = [pairs[g].in_fold(g) for g in outer]
    for leak in dict.fromkeys(leak for leak, _ in trained):
        mine = {g: trained[leak, g] for g in outer}
        parts[f"{leak} reports"] = [scored.where(scored.table["fold"] != g) for g, scored in mine.items()]
        parts[f"{leak} reaches"] = [scored.in_fold(g) for g, scored in mine.items()]
    for variant in (KEPT, KEPT_NOISY) if FIRST_ATTEMPT in {leak for leak, _ in trained} else (KEPT,):
        if not set(outer) & set((others := _other_variant(judges, variant)).missing):
            parts[f"{variant} reaches"] = [others.windows([folds.model_name(g)]) for g in outer]
    measured = {name: _scores_of(task, some) for name, some in parts.items()}
    if every := parts.get(f"{KEPT} reaches"):
        passed = [some.where(_is_kept(some.table, kept[inner[g]])) for g, some in zip(outer, every, strict=True)]
        measured[f"{KEPT}, kept windows"] = _scores_of(task, passed, pool=False)
        measured[f"{KEPT}, all windows"] = _scores_of(task, every, pool=False)
    return measured


def _scores_of(task: Task, parts: Iterable[WindowScores], *, pool: bool = True) -> ClipScores:
    """Clip scores (mean over windows) of the parts, one after the other; with pool=False, a row a window."""
    fnames, scores = [], [np.zeros((0, len(task.classes)))]
    for part in parts:
        if len(part.table):
            names, some = part.pool_mean() if pool else (part.table["fname"], part.scores)
            fnames += list(names)
            scores.append(some)
    clips = task.clips.set_index("fname").loc[fnames]
    return datasets.targets(clips, task.classes), np.concatenate(scores), clips["group"].to_numpy(str)


def _is_kept(some: pd.DataFrame, kept: pd.DataFrame) -> np.ndarray:
    """Which windows (fname, window_start_s) `curation.select` kept: bool (n_windows,)."""
    kept_windows = pd.MultiIndex.from_frame(kept.loc[kept["kept"], ["fname", "window_start_s"]].round(3))
    return pd.MultiIndex.from_frame(some[["fname", "window_start_s"]].round(3)).isin(kept_windows)


def _row(
    measured: Mapping[str, ClipScores], leak: str, setup: str, control: bool, reports: str | None, reaches: str
) -> dict[str, object]:
    row = {"leak": leak, "setup": setup, "control": control}
    sides = {"reported": measured[reports] if reports else None, "reached": measured[reaches]}
    for name, side in sides.items():
        if _has_interval(side):
            scores = metrics.bootstrap(*side)
            row |= {f"{name}{end}": scores[f"lwlrap{end}"] for end in ("", "_low", "_high")}
            row[f"n_{name}"] = scores["n"]
    return row | (metrics.gap(sides["reported"], sides["reached"]) if _has_interval(sides["reported"]) else {})


def _differences(measured: Mapping[str, ClipScores]) -> pd.DataFrame:
    return pd.DataFrame(
        {"leak": leak, "what": what, **metrics.gap(measured[one], measured[other])}
        for leak, what, one, other in DIFFERENCES
        if {one, other} <= set(measured) and _has_interval(measured[one])
    )


def _has_interval(side: ClipScores | None) -> bool:
    """Whether there are two groups to resample; a filter may leave fewer."""
    return side is not None and len(set(side[2])) > 1


def _self_evidences(run: Run, evidences: Evidences, trained: Trained, leak: str) -> list[Evidence]:
    outer = [g for name, g in trained if name == leak]
    return [self_evidence(run.trial(leak, folds.model_name(g), run.params["seed"]), evidences[g], g) for g in outer]


def _pass_rates(by_judge: Mapping[str, list[Evidence]]) -> pd.DataFrame:
    """The table `judged_by` of `tables`."""
    rows = []
    for judge, evidences in by_judge.items():
        clips = [evidence.clips.iloc[evidence.pairs["clip"]] for evidence in evidences]
        kept = np.concatenate([curation.confirmed(evidence, RULE) for evidence in evidences])
        for subset, labels in pd.concat(clips).assign(kept=kept, all=1).groupby("subset"):
            if subset == "curated" or (NOISY_JUDGE in by_judge and judge != "itself"):
                sums = labels.groupby("group")[["kept", "all"]].sum().to_numpy(float)
                share = metrics.ratio("share", *sums.T)
                rows.append({"subset": subset, "judged_by": judge, "n": int(sums[:, 1].sum()), **share})
    return pd.DataFrame(rows).sort_values("subset", kind="stable", ignore_index=True)


def _by_truth(known: demo.Truth, by_judge: Mapping[str, list[Evidence]]) -> pd.DataFrame:
    tables = [probes.rates(known, evidences, RULE).assign(judged_by=judge) for judge, evidences in by_judge.items()]
    table = pd.concat(tables, ignore_index=True)
    return table if NOISY_JUDGE in by_judge else table[table["what"].str.startswith("curated")]
