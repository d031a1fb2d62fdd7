"""The leak demonstrator: three ways in which a score fools, each beside its honest twin.

a. The same clips, split by window at random instead of by group: windows of a clip stand on both sides.
b. The selection effect: a model validated on windows that passed a filter, instead of on all of them.
c. A model that judges the clips that it was trained on, instead of clips that it never saw.

Each is read twice: what it reports, and what the same model reaches on an outer fold g that had no part in anything.

Conventions
-----------
The honest model of (a) and (b) is the pair model `without_f_g` with f = g + 1: its validation is fold f. Trainings
write <run>/05_curation/compare/<sin>/without_<g>/seed_<seed>/, one result each, at the compute of that pair model (a)
or of 04's model (c). A `Side` is (targets, scores, groups): a row a clip and outer fold.

Used in: 05_curation.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lib import curation, datasets, folds, learners, metrics, models, oof, training_sets, windows
from lib.batches import Scoring
from lib.cache import Cache
from lib.curation import Evidence
from lib.models import activate
from lib.pooling import pool_mean
from lib.runs import Run
from lib.truth import Truth, rates

__all__ = ["RULE", "Demonstrator", "says"]

RULE = "top_1"  # the write-up's
Side = tuple[np.ndarray, np.ndarray, np.ndarray]


class Demonstrator:
    """Trains what the demonstration needs, once, and tells the three effects.

    Parameters
    ----------
    run : of 05, part compare; `folds` are the outer folds
    store : log-mels of the curated clips
    curated : fname, group, labels, duration_s
    dealt : folds table
    judges : folder of 04's models
    evidences : outer fold -> `judging.evidence`
    table : windows of the curated clips, from `judging.roll`
    """

    def __init__(
        self,
        run: Run,
        store: Cache,
        curated: pd.DataFrame,
        classes: tuple[str, ...],
        dealt: pd.DataFrame,
        judges: Path,
        evidences: Mapping[int, Evidence],
        table: pd.DataFrame,
    ) -> None:
        self.run, self.store, self.classes, self.judges = run, store, tuple(classes), judges
        self.clips = curated.merge(dealt[["fname", "fold"]], on="fname", suffixes=("_published", ""))
        self.dealt, self.evidences, self.table = dealt, evidences, table[table["fname"].isin(curated["fname"])]
        self.n_folds = dealt["fold"].nunique()
        self.outer = run.params["folds"] or list(range(self.n_folds))
        self.cut, self.network = run.pick(windows.Windows), run.pick(models.Network)
        self.recipe, self.width = run.pick(learners.Recipe), self.cut.n_frames(store.logmel)

    def train(self) -> None:
        """Both trainings of every outer fold that are not done yet. Raises LeakError if a clip of it trains a model."""
        for g in self.outer:
            for sin, do in (("split_by_window", self._split_by_window), ("self_judged", self._self_judged)):
                trial = self._trial(sin, g)
                trial.settle(**self.run.read)
                if not trial.done:
                    do(trial, g)

    def tables(self, kept_curated: Path, known: Truth | None) -> dict[str, pd.DataFrame]:
        """All that is told: leaks (`effects`), leak_effects (`differences`), judged_by (`kept`), self_judging
        (`judging`; no row where no truth is known)."""
        judging = pd.DataFrame() if known is None else self.judging(known)
        effects, differences = self.effects(kept_curated), self.differences(kept_curated)
        return {"leaks": effects, "leak_effects": differences, "judged_by": self.kept(), "self_judging": judging}

    def effects(self, kept_curated: Path) -> pd.DataFrame:
        """What each way reports and reaches: a row a way.

        Parameters
        ----------
        kept_curated : 04's folder of models trained on what judges that never saw it kept; where a fold of it is not
            done, the last row is left out

        Returns
        -------
        sin (a, b, c), way, honest (bool), reported, reached, gap (reported - reached), each with _low and _high, and
        n_reported, n_reached (clips); lwlrap, 95 % intervals that resample groups. (c) reports nothing.
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
        return pd.DataFrame([{"sin": sin, "what": what, **found} for sin, what, found in rows])

    def self_evidence(self, g: int) -> Evidence:
        """What `without_g` says of the curated clips that it was trained on."""
        arrays = oof.read_windows(self._trial("self_judged", g).folder / "judged")
        return self._evidence(g, arrays["logits"])

    def kept(self) -> pd.DataFrame:
        """(c) as seen by the filter: what share of the labels in curated windows it lets through, by who judges.

        Returns
        -------
        judged_by (itself, others), n (labels in windows, once an outer fold), share with _low and _high (95 %)
        """
        rows = []
        for who, evidences in self._judges().items():
            tables = [
                pd.DataFrame({"group": found.clips["group"].to_numpy()[found.pairs["clip"]], "all": 1}).assign(
                    kept=curation.confirmed(found, RULE)
                )[(found.clips["subset"] == "curated").to_numpy()[found.pairs["clip"]]]
                for found in evidences
            ]
            sums = pd.concat(tables).groupby("group")[["kept", "all"]].sum().to_numpy(float)
            rows.append({"judged_by": who, "n": int(sums[:, 1].sum()), **metrics.ratio("share", *sums.T)})
        return pd.DataFrame(rows)

    def judging(self, known: Truth) -> pd.DataFrame:
        """(c) by known truth: `truth.rates` of curated windows, judged by the model itself and by others."""
        tables = [rates(known, found, RULE).assign(judged_by=who) for who, found in self._judges().items()]
        return pd.concat(tables, ignore_index=True).query("what == 'curated windows'")

    def _judges(self) -> dict[str, list[Evidence]]:
        return {
            "itself": [self.self_evidence(g) for g in self.outer],
            "others": [self.evidences[g] for g in self.outer],
        }

    def _split_by_window(self, trial: Run, g: int) -> None:
        own = self.clips[self.clips["fold"] != g]
        table = windows.rolling(self.store, self.store.rows(own["fname"]), self.cut).merge(own[["fname", "fold"]])
        held = np.random.default_rng([trial.params["seed"], g]).random(len(table)) < 1 / (self.n_folds - 1)
        rows, start = table[~held], table.loc[~held, "start_frame"].clip(lower=0)
        n_frames = (rows["n_frames"] - start).clip(upper=self.width)
        rows = rows.assign(first_frame=rows["first_frame"] + start, n_frames=n_frames)
        clips = own.set_index("fname").loc[rows["fname"].unique()].reset_index()
        chosen = training_sets.whole(trial.variant.name, self.store, clips, self.classes)
        chosen = replace(chosen, rows=rows)
        n_base = (~self.dealt["fold"].isin([g, self._next(g)])).sum()
        self._fit(trial, g, chosen, n_base, table[held])

    def _self_judged(self, trial: Run, g: int) -> None:
        own = self.clips[self.clips["fold"] != g]
        model, _ = models.load(self.judges / folds.model_name(g) / "weights.safetensors")
        table = windows.rolling(self.store, self.store.rows(own["fname"]), self.cut).merge(own[["fname", "fold"]])
        logits = models.score(model.prepare(), self.store, table, self.width)
        oof.write_windows(trial.folder / "judged", table, logits, list(self.classes))
        kept = curation.select(self._evidence(g, logits), RULE)
        chosen = training_sets.from_kept(trial.variant.name, self.store, own, kept, self.classes, self.cut.window_s)
        self._fit(trial, g, chosen, len(own), table[:0])

    def _fit(self, trial: Run, g: int, chosen: training_sets.TrainingSet, n_base: int, reported: pd.DataFrame) -> None:
        """Train, and score the reported windows and the outer fold."""
        folds.assert_no_leak(self.dealt, chosen.rows["fname"], {g}, groups=chosen.groups)  # judges: the sin itself
        outer = self.clips[self.clips["fold"] == g]
        table = windows.rolling(self.store, self.store.rows(outer["fname"]), self.cut).merge(outer[["fname", "fold"]])
        training, recipe = learners.feed(self.store, chosen, n_base, self.cut, self.recipe, trial.params["seed"])
        truth = datasets.targets(table.merge(outer[["fname", "labels"]], on="fname"), self.classes)
        validation = Scoring(self.store, table, truth, self.width)
        checkpoint, label = trial.folder / "checkpoint.safetensors", f"{trial.variant.name} {folds.model_name(g)}"
        model, _ = learners.fit(self.network, recipe, training, validation, checkpoint, label)
        scored = pd.concat([reported, table], ignore_index=True)
        oof.write_windows(trial.folder, scored, models.score(model, self.store, scored, self.width), list(self.classes))
        side = self._side(oof.read_windows(trial.folder), g)
        reached = metrics.lwlrap(*side[:2])
        trial.finish({"lwlrap": reached, "n": len(side[0])}, "measured", f"lwlrap {reached:.3f} on fold {g}.")

    def _trial(self, sin: str, g: int) -> Run:
        return self.run.trial(sin, folds.model_name(g), self.run.params["seed"])

    def _next(self, g: int) -> int:
        return (g + 1) % self.n_folds

    def _pair(self, g: int) -> dict[str, np.ndarray]:
        return oof.read_windows(self.judges / folds.model_name(g, self._next(g)))

    def _by_group(self) -> tuple[Side, Side]:
        pairs = {g: self._pair(g) for g in self.outer}
        reported = _join([self._side(arrays, self._next(g)) for g, arrays in pairs.items()])
        return reported, _join([self._side(arrays, g) for g, arrays in pairs.items()])

    def _pooled(self, sin: str) -> tuple[Side, Side]:
        """What the models of a sin report (all but the outer fold) and reach."""
        read = {g: oof.read_windows(self._trial(sin, g).folder) for g in self.outer}
        reported = [self._side(arrays, *[f for f in range(self.n_folds) if f != g]) for g, arrays in read.items()]
        return _join(reported), _join([self._side(arrays, g) for g, arrays in read.items()])

    def _passed(self, g: int, arrays: dict[str, np.ndarray]) -> Side:
        """The pair model's validation on the windows that another pair model without its fold keeps."""
        f = self._next(g)
        kept = curation.select(self.evidences[self._next(f)], RULE)
        kept = pd.MultiIndex.from_frame(kept.loc[kept["kept"], ["fname", "window_start_s"]].round(3))
        mine = pd.MultiIndex.from_arrays([arrays["fname"], arrays["window_start_s"].round(3)]).isin(kept)
        return self._side({name: values[mine] for name, values in arrays.items() if name != "classes"}, f)

    def _kept_by_others(self, kept_curated: Path) -> Side | None:
        parts = [kept_curated / folds.model_name(g) for g in self.outer]
        if not all((part / "result.json").is_file() for part in parts):
            return None
        return _join([self._side(oof.read_windows(part), g) for part, g in zip(parts, self.outer, strict=True)])

    def _side(self, arrays: dict[str, np.ndarray], *which: int) -> Side:
        """Clip scores (mean over windows) of some folds."""
        rows = np.isin(arrays["fold"], which)
        scores = activate(arrays["logits"][rows], self.recipe.loss)
        if not rows.any():
            none = np.zeros((0, len(self.classes)))
            return none, none, np.zeros(0, str)
        fnames, scores = pool_mean(arrays["fname"][rows], scores)
        clips = self.clips.set_index("fname").loc[fnames].reset_index()
        return datasets.targets(clips, self.classes), scores, clips["group"].to_numpy(str)

    def _evidence(self, g: int, logits: np.ndarray) -> Evidence:
        """What a model says of the curated clips outside fold g, windows in the order of `windows.rolling`."""
        own = self.clips[self.clips["fold"] != g]
        rolled = windows.rolling(self.store, self.store.rows(own["fname"]), self.cut)
        table = rolled[["fname", "window_start_s"]].merge(self.table, on=["fname", "window_start_s"], how="left")
        scores = activate(logits, self.recipe.loss).astype(np.float32)
        judge = folds.model_name(g), np.arange(len(table)), scores
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
    shares = " and ".join(f"{row.share:.0%} judged by {row.judged_by}" for row in tables["judged_by"].itertuples())
    return f"The leaks, lwlrap: {'; '.join(told)}. The filter lets through {shares}."


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
