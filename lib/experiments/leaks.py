"""The leak demonstrator: five ways in which a score fools, beside what is honest.

a. The same clips, split by window at random instead of by group: windows of a clip stand on both sides.
b. The selection effect: a model validated on windows that passed a filter, instead of on all of them.
c. A model that judges the clips that it was trained on, instead of clips that it never saw.
d. The write-up's .90 as it was made: a model trained on kept windows, validated on the kept windows of its held-out
   fold, a window at a time. All windows were judged by models that never saw them; nothing leaks, but nobody is asked
   for kept windows alone.
e. The write-up's first attempt: a model is trained on curated and noisy clips, judges the windows of these same clips,
   and what it keeps is split by window at random to train and validate the next model.

Each is read twice: what it reports, and what the same model reaches on an outer fold g that had no part in anything.

Conventions
-----------
The honest model of (a) and (b) is the pair model `without_f_g` with f = g + 1: its validation is fold f. Trainings
write <run>/05_curation/compare/<sin>/without_<g>/seed_<seed>/, one result each, at the compute of that pair model (a)
or of 04's model (c, e). (d) trains nothing: it reads 04's kept_curated; (e) starts from 04's curated_noisy. What 04 has
not trained is left out, and `tables` says why.
A `Side` is (targets, scores, groups): a row a clip and outer fold, or a window.

Used in: 05_curation.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lib.data import datasets
from lib.evaluation import folds, metrics
from lib.evaluation.window_scores import WindowScores
from lib.experiments import curation, training_sets, trials
from lib.experiments.curation import Evidence
from lib.experiments.truth import Truth, rates
from lib.runs import oof
from lib.runs.run import Run
from lib.sound import windows
from lib.training import learners, models
from lib.training.batches import Scoring, TrainingSet
from lib.training.models import activate
from lib.training.task import Task

__all__ = ["RULE", "Demonstrator", "says"]

RULE = "top_1"  # the write-up's
FIRST = "the model trained on noisy clips too"  # who judges in (e)
Side = tuple[np.ndarray, np.ndarray, np.ndarray]


class Demonstrator:
    """Trains what the demonstration needs, once, and tells the five effects.

    Parameters
    ----------
    run : of 05, part compare; `folds` are the outer folds
    task : of the curated and noisy clips
    judges : folder of 04's models; beside it lie those of its variants
    evidences : outer fold -> `judging.evidence`
    table : windows of the clips, from `judging.roll`
    """

    def __init__(
        self, run: Run, task: Task, judges: Path, evidences: Mapping[int, Evidence], table: pd.DataFrame
    ) -> None:
        self.run, self.task, self.judges, self.evidences, self.table = run, task, judges, evidences, table
        curated, self.noisy = (task.clips[task.clips["subset"] == s].assign(fold=-1) for s in ("curated", "noisy"))
        self.clips = curated.drop(columns="fold").merge(task.folds[["fname", "fold"]], on="fname")
        self.n_folds, self.classes = task.n_folds, task.classes
        self.outer = task.asked(run.params["folds"])
        self.cut, self.network = run.pick(windows.Windows), run.pick(models.Network)
        self.recipe, self.width = run.pick(learners.Recipe), self.cut.n_frames(task.cache.logmel)
        self.scored: dict[tuple, WindowScores] = {}

    def train(self) -> None:
        """The trainings of every outer fold that are not done yet. Raises LeakError if a clip of it trains a model."""
        sins = {"split_by_window": self._split_by_window, "self_judged": self._self_judged}
        if not self.no_first_attempt:
            sins["first_attempt"] = self._first_attempt
        keys = [(sin, g) for g in self.outer for sin in sins]
        trained = trials.do(self.run, keys, self._trial, lambda trial, sin, g: sins[sin](trial, g))
        self.scored = {key: scored for key, _, scored in trained}

    @property
    def no_first_attempt(self) -> str:
        """Why (e) is left out; empty where it is not."""
        if self.noisy.empty:
            return "the set has no noisy clips"
        missing = [g for g in self.outer if not (self._noisy_judge(g) / "result.json").is_file()]
        return f"04 has not trained curated_noisy without fold {', '.join(map(str, missing))}" if missing else ""

    def tables(self, kept_curated: Path, known: Truth | None) -> dict[str, pd.DataFrame]:
        """All that is told: leaks (`effects`), leak_effects (`differences`), judged_by (`kept`), self_judging
        (`judging`; no row where no truth is known), left_out (sin, why)."""
        judging = pd.DataFrame() if known is None else self.judging(known)
        effects, differences = self.effects(kept_curated), self.differences(kept_curated)
        why = {} if self._kept_by_others(kept_curated) else {"d": "04 has not trained kept_curated without each fold"}
        why |= {"e": self.no_first_attempt} if self.no_first_attempt else {}
        left_out = pd.DataFrame({"sin": why.keys(), "why": why.values()})
        return {
            **{"leaks": effects, "leak_effects": differences, "judged_by": self.kept(), "self_judging": judging},
            "left_out": left_out,
        }

    def effects(self, kept_curated: Path) -> pd.DataFrame:
        """What each way reports and reaches: a row a way.

        Parameters
        ----------
        kept_curated : 04's folder of models trained on what judges that never saw it kept; where a fold of it is not
            done, the honest row of (c) and that of (d) are left out

        Returns
        -------
        sin (a to e), way, honest (bool), reported, reached, gap (reported - reached), each with _low and _high, and
        n_reported, n_reached (clips; in d windows are reported); lwlrap, 95 % intervals that resample groups. (c)
        reports nothing.
        """
        rows = []
        window = self._pooled("split_by_window")
        rows.append(_row("a", "split by window at random", False, *window))
        reported, reached = self._by_group()
        rows.append(_row("a", "split by group", True, reported, reached))
        passed = _join([self._passed(g, self._pair(g)) for g in self.outer])
        rows.append(_row("b", "by group, on windows that passed the filter", False, passed, reached))
        rows.append(_row("b", "by group, on all windows", True, reported, reached))
        rows.append(_row("c", "trained on what the model itself kept", False, None, self._pooled("self_judged")[1]))
        if honest := self._kept_by_others(kept_curated):
            rows.append(_row("c", "trained on what others kept", True, None, honest))
            reported = self._a_window_at_a_time(kept_curated)[0]
            rows.append(_row("d", "validated on kept windows, a window at a time", False, reported, honest))
        if not self.no_first_attempt:
            way = "noisy clips judged by the model that trained on them"
            rows.append(_row("e", way, False, *self._pooled("first_attempt")))
            if honest := self._kept_by_others(self.judges.with_name("kept_curated_kept_noisy")):
                rows.append(_row("e", "noisy clips judged by models of curated clips", True, None, honest))
        return pd.DataFrame(rows)

    def differences(self, kept_curated: Path) -> pd.DataFrame:
        """The effects as differences: sin, what, gap, gap_low, gap_high (lwlrap, 95 %)."""
        window, (g_reported, g_reached) = self._pooled("split_by_window"), self._by_group()
        passed = _join([self._passed(g, self._pair(g)) for g in self.outer])
        rows = [
            ("a", "reported less reached, split by window", metrics.gap(*window)),
            ("a", "reported less reached, split by group", metrics.gap(g_reported, g_reached)),
        ]
        if _enough(passed):
            rows.append(("b", "reported on windows that passed less reported on all", metrics.gap(passed, g_reported)))
        if honest := self._kept_by_others(kept_curated):
            own = self._pooled("self_judged")[1]
            rows.append(("c", "reached when others judged less when the model did itself", metrics.gap(honest, own)))
            kept, every = self._a_window_at_a_time(kept_curated)
            if _enough(kept):
                rows.append(("d", "reported on kept windows less on all windows", metrics.gap(kept, every)))
                rows.append(("d", "reported on kept windows less reached on clips", metrics.gap(kept, honest)))
        if not self.no_first_attempt and _enough((first := self._pooled("first_attempt"))[0]):
            rows.append(("e", "reported less reached, noisy clips judged by their own model", metrics.gap(*first)))
        return pd.DataFrame([{"sin": sin, "what": what, **found} for sin, what, found in rows])

    def self_evidence(self, g: int, sin: str = "self_judged") -> Evidence:
        """What `without_g` says of the clips that it was trained on: curated ones, and noisy ones in (e)."""
        judged = self._read(self._trial(sin, g).folder / "judged")
        return self._evidence(g, self._own(g, noisy=sin == "first_attempt"), judged.scores)

    def kept(self) -> pd.DataFrame:
        """(c) and (e) as seen by the filter: what share of the labels in windows it lets through, by who judges.

        Returns
        -------
        subset (noisy only with (e)), judged_by (itself, others, and in (e) a model of noisy clips), n (labels in
        windows, once an outer fold), share with _low and _high (95 %)
        """
        judges = self._judges()
        return pd.DataFrame(
            {"subset": subset, "judged_by": who, **_let_through(evidences, subset)}
            for subset in ("curated", "noisy")
            for who, evidences in judges.items()
            if subset == "curated" or (FIRST in judges and who != "itself")
        )

    def judging(self, known: Truth) -> pd.DataFrame:
        """(c) and (e) by known truth: `truth.rates` of windows, and with (e) of noisy labels, by who judges."""
        judges = self._judges()
        tables = [rates(known, found, RULE).assign(judged_by=who) for who, found in judges.items()]
        found = pd.concat(tables, ignore_index=True)
        return found if FIRST in judges else found.query("what == 'curated windows'")

    def _judges(self) -> dict[str, list[Evidence]]:
        found = {
            "itself": [self.self_evidence(g) for g in self.outer],
            "others": [self.evidences[g] for g in self.outer],
        }
        if not self.no_first_attempt:
            found[FIRST] = [self.self_evidence(g, "first_attempt") for g in self.outer]
        return found

    def _own(self, g: int, noisy: bool = False) -> pd.DataFrame:
        """The clips that a model without fold g was trained on."""
        own = self.clips[folds.training(self.clips, [g])]
        some = self.noisy[self.noisy["fname"].isin(self.evidences[g].clips["fname"])] if noisy else self.noisy[:0]
        return pd.concat([own, some]).sort_values("fname", ignore_index=True)

    def _noisy_judge(self, g: int) -> Path:
        return self.judges.with_name("curated_noisy") / folds.model_name(g)

    def _rolled(self, clips: pd.DataFrame) -> pd.DataFrame:
        return self.task.windows(clips[["fname", "fold"]], self.cut)

    def _split_by_window(self, trial: Run, g: int) -> WindowScores:
        n_base = folds.training(self.task.folds, [g, self._next(g)]).sum()
        own = self._own(g)
        return self._fit_on_a_part(trial, g, own, self._rolled(own), n_base)

    def _first_attempt(self, trial: Run, g: int) -> WindowScores:
        sidecar = models.sidecar(self._noisy_judge(g) / "weights.safetensors")
        if set(sidecar["unseen_folds"]) != {g} or sidecar["folds"] != folds.digest(self.task.folds):
            raise folds.LeakError(
                f"{self._noisy_judge(g)} is no model without fold {g} of these folds. Train it again."
            )
        own = self._own(g, noisy=True)
        table, kept = self._judge(trial, g, own, self._noisy_judge(g))
        n_base = folds.training(self.clips, [g]).sum()
        return self._fit_on_a_part(trial, g, own, table[_among(table, kept)], n_base)

    def _fit_on_a_part(self, trial: Run, g: int, own: pd.DataFrame, table: pd.DataFrame, n_base: int) -> WindowScores:
        """Train on some of these windows, drawn at random, and report on the others."""
        held = np.random.default_rng([trial.params["seed"], g]).random(len(table)) < 1 / (self.n_folds - 1)
        rows, start = table[~held], table.loc[~held, "start_frame"].clip(lower=0)
        n_frames = (rows["n_frames"] - start).clip(upper=self.width)
        rows = rows.assign(first_frame=rows["first_frame"] + start, n_frames=n_frames)
        clips = own.set_index("fname").loc[rows["fname"].unique()].reset_index()
        chosen = training_sets.whole(trial.variant.name, self.task.cache, clips, self.classes)
        chosen = replace(chosen, rows=rows)
        return self._fit(trial, g, chosen, n_base, table[held])

    def _judge(self, trial: Run, g: int, own: pd.DataFrame, judge: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
        """All windows of the clips, and what a model that was trained on them keeps (`curation.select`)."""
        model, _ = models.load(judge / "weights.safetensors")
        table = self._rolled(own)
        (logits,) = models.score([model.prepare()], self.task.cache, table, self.width)
        oof.write_windows(trial.folder / "judged", table, logits, list(self.classes))
        return table, curation.select(self._evidence(g, own, activate(logits, self.recipe.loss)), RULE)

    def _self_judged(self, trial: Run, g: int) -> WindowScores:
        own = self._own(g)
        table, kept = self._judge(trial, g, own, self.judges / folds.model_name(g))
        cache, window_s = self.task.cache, self.cut.window_s
        chosen = training_sets.from_kept(trial.variant.name, cache, own, kept, self.classes, window_s)
        return self._fit(trial, g, chosen, len(own), table[:0])

    def _fit(self, trial: Run, g: int, chosen: TrainingSet, n_base: int, reported: pd.DataFrame) -> WindowScores:
        """Train, and score the reported windows and the outer fold."""
        cache, dealt = self.task.cache, self.task.folds
        folds.assert_no_leak(dealt, chosen.rows["fname"], {g}, groups=chosen.groups)  # judges: the sin itself
        outer = self.clips[self.clips["fold"] == g]
        table = self._rolled(outer)
        training, recipe = learners.feed(cache, chosen, n_base, self.cut, self.recipe, trial.params["seed"])
        truth = datasets.targets(table.merge(outer[["fname", "labels"]], on="fname"), self.classes)
        validation = Scoring(cache, table, truth, self.width)
        label = f"{trial.variant.name} {folds.model_name(g)}"
        model, _ = learners.fit(self.network, recipe, training, validation, trial.checkpoint, label)
        scored = pd.concat([reported, table], ignore_index=True)
        (logits,) = models.score([model], cache, scored, self.width)
        oof.write_windows(trial.folder, scored, logits, list(self.classes))
        found = WindowScores(scored, activate(logits, self.recipe.loss))
        side = self._side(found, g)
        reached = metrics.lwlrap(*side[:2])
        trial.finish({"lwlrap": reached, "n": len(side[0])}, "measured", f"lwlrap {reached:.3f} on fold {g}.")
        return found

    def _trial(self, sin: str, g: int) -> Run:
        return self.run.trial(sin, folds.model_name(g), self.run.params["seed"])

    def _next(self, g: int) -> int:
        return (g + 1) % self.n_folds

    def _read(self, part: Path) -> WindowScores:
        return oof.read_windows(part, self.recipe.loss)

    def _pair(self, g: int) -> WindowScores:
        return self._read(self.judges / folds.model_name(g, self._next(g)))

    def _by_group(self) -> tuple[Side, Side]:
        pairs = {g: self._pair(g) for g in self.outer}
        reported = _join([self._side(pair, self._next(g)) for g, pair in pairs.items()])
        return reported, _join([self._side(pair, g) for g, pair in pairs.items()])

    def _pooled(self, sin: str) -> tuple[Side, Side]:
        """What the models of a sin report (all but the outer fold) and reach."""
        found = {g: self.scored[sin, g] for g in self.outer}
        reported = [self._side(some, *[f for f in range(-1, self.n_folds) if f != g]) for g, some in found.items()]
        return _join(reported), _join([self._side(some, g) for g, some in found.items()])

    def _passed(self, g: int, pair: WindowScores) -> Side:
        """The pair model's validation on the windows that another pair model without its fold keeps."""
        f = self._next(g)
        return self._side(pair.where(_among(pair.table, curation.select(self.evidences[self._next(f)], RULE))), f)

    def _kept_by_others(self, kept_curated: Path) -> Side | None:
        parts = [kept_curated / folds.model_name(g) for g in self.outer]
        if not all((part / "result.json").is_file() for part in parts):
            return None
        return _join([self._side(self._read(part), g) for part, g in zip(parts, self.outer, strict=True)])

    def _a_window_at_a_time(self, kept_curated: Path) -> tuple[Side, Side]:
        """What models trained on kept windows say of the kept windows of their own fold, and of all windows of it."""
        kept, every = [], []
        for g in self.outer:
            found = self._read(kept_curated / folds.model_name(g))
            found = found.where(found.table["fold"] == g)
            passed = _among(found.table, curation.select(self.evidences[self._next(g)], RULE))
            for sides, some in ((kept, found.where(passed)), (every, found)):
                clips = self.clips.set_index("fname").loc[some.table["fname"]]
                sides.append((datasets.targets(clips, self.classes), some.scores, clips["group"].to_numpy(str)))
        return _join(kept), _join(every)

    def _side(self, found: WindowScores, *which: int) -> Side:
        """Clip scores (mean over windows) of some folds."""
        rows = np.isin(found.table["fold"], which)
        if not rows.any():
            none = np.zeros((0, len(self.classes)))
            return none, none, np.zeros(0, str)
        fnames, scores = found.where(rows).pool_mean()
        clips = pd.concat([self.clips, self.noisy]).set_index("fname").loc[fnames].reset_index()
        return datasets.targets(clips, self.classes), scores, clips["group"].to_numpy(str)

    def _evidence(self, g: int, own: pd.DataFrame, scores: np.ndarray) -> Evidence:
        """What a model without fold g says of these clips, windows in the order of `windows.rolling`."""
        table = self._rolled(own)[["fname", "window_start_s"]].merge(
            self.table, on=["fname", "window_start_s"], how="left"
        )
        judge = folds.model_name(g), np.arange(len(table)), scores.astype(np.float32)
        return curation.gather(own, table, self.classes, [judge])


def says(tables: dict[str, pd.DataFrame]) -> str:
    """What fools and by how much, in sentences, from the values of `Demonstrator.tables`."""
    told = []
    for row in tables["leaks"].itertuples():
        reached = f"{row.reached:.3f} ({row.reached_low:.3f} to {row.reached_high:.3f})"
        if np.isnan(row.reported):
            told.append(f"{row.way} reaches {reached}")
        else:
            told.append(f"{row.way} reports {row.reported:.3f} and reaches {reached}")
    shares = " and ".join(
        f"of {subset} windows " + ", ".join(f"{row.share:.0%} judged by {row.judged_by}" for row in rows.itertuples())
        for subset, rows in tables["judged_by"].groupby("subset", sort=False)
    )
    left_out = "".join(f" ({row.sin}) is left out: {row.why}." for row in tables["left_out"].itertuples())
    return f"The leaks, lwlrap: {'; '.join(told)}. The filter lets through {shares}.{left_out}"


def _let_through(evidences: list[Evidence], subset: str) -> dict[str, float]:
    """Labels in windows of a subset, and the share that the filter keeps: n, share, share_low, share_high."""
    tables = []
    for found in evidences:
        clip = found.pairs["clip"].to_numpy()
        table = pd.DataFrame({"group": found.clips["group"].to_numpy()[clip], "kept": curation.confirmed(found, RULE)})
        tables.append(table[(found.clips["subset"] == subset).to_numpy()[clip]].assign(all=1))
    sums = pd.concat(tables).groupby("group")[["kept", "all"]].sum().to_numpy(float)
    return {"n": int(sums[:, 1].sum()), **metrics.ratio("share", *sums.T)}


def _among(some: pd.DataFrame, kept: pd.DataFrame) -> np.ndarray:
    """Which windows (fname, window_start_s) were kept by `curation.select`: bool (n_windows,)."""
    there = pd.MultiIndex.from_frame(kept.loc[kept["kept"], ["fname", "window_start_s"]].round(3))
    return pd.MultiIndex.from_frame(some[["fname", "window_start_s"]].round(3)).isin(there)


def _join(sides: list[Side]) -> Side:
    return tuple(np.concatenate(parts) for parts in zip(*sides, strict=True))


def _row(sin: str, way: str, honest: bool, reported: Side | None, reached: Side) -> dict[str, object]:
    row = {"sin": sin, "way": way, "honest": honest}
    for name, side in (("reported", reported), ("reached", reached)):
        if _enough(side):
            found = metrics.bootstrap(*side)
            row |= {f"{name}{end}": found[f"lwlrap{end}"] for end in ("", "_low", "_high")} | {f"n_{name}": found["n"]}
    return row | (metrics.gap(reported, reached) if _enough(reported) else {})


def _enough(side: Side | None) -> bool:
    """Whether there are groups to resample: a filter may leave none."""
    return side is not None and len(set(side[2])) > 1
