"""Nested selection of a readout (06) and of a candidate (10).

For each outer fold, the readout or candidate that is best on the other folds (`Design.training`) is scored on the outer
fold, once. `Design.check_and_record` refuses a choice that reads the outer fold.

Conventions
-----------
recipe : a variant of 04 with its pair models; a training with another seed is the variant `<recipe>.seed_<n>`, which
    has no pair models
candidate : recipes joined by "+". Each recipe's clip scores come from its best readout; the candidate's are their mean.
scores : float64 (n_seeds, n_clips, n_classes), clips in the order of `Design.clips`; each is in one outer fold

Used in: 06, 10.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib.clips import nested, pooling
from lib.clips.nested import BASE_POOLING, Design, Reader
from lib.clips.stage2 import MODELS
from lib.evaluation import comparisons, metrics
from lib.evaluation.comparisons import Comparison, format_score
from lib.files import read_json, write_json
from lib.runs.modelset import settings_digest
from lib.runs.recipes import of_candidates, selects
from lib.training import models

__all__ = ["CHOSEN_PER_FOLD", "SEEDS_AVERAGED", "Candidates", "Evaluation", "best", "compare", "conclusion"]
__all__ += ["read_candidates", "result_metrics", "take_best", "write_choice"]

BEST = "best_of_all"
CHOSEN_PER_FOLD = "chosen for each fold"
SEEDS_AVERAGED = "the same, seeds averaged"


# --- among methods: the readouts of 06, the candidates of 10 ---------------------------------------------------------


def best(table: pd.DataFrame, among: list[str] | None = None) -> dict[int, str]:
    """Outer fold -> the method with the highest lwlrap on the training folds; the first of equal ones.

    Parameters
    ----------
    table : outer, method, lwlrap, as from `nested.inner_scores`
    among : methods that may be chosen; None: all
    """
    table = table if among is None else table[table["method"].isin(list(among))]
    rows = table["lwlrap"].fillna(0.0).groupby(table["outer"]).idxmax()  # without a score: the only method
    return {outer: table.loc[row, "method"] for outer, row in rows.items()}


def take_best(
    design: Design, scores: Mapping[str, np.ndarray], table: pd.DataFrame, among: list[str] | None = None
) -> np.ndarray:
    """Nested scores of "take the best": each outer fold is scored by the method that is `best` on its training folds.

    Returns
    -------
    (n_seeds, n_clips, n_classes)

    Raises
    ------
    LeakError
        As `Design.check_and_record`.
    """
    result = np.empty((max(map(len, scores.values())), *next(iter(scores.values())).shape[1:]))
    for outer, method in best(table, among).items():
        design.check_and_record("choose a method", design.training(outer), outer)
        here = (design.clips["fold"] == outer).to_numpy()
        result[:, here] = scores[method][:, here]
    return result


def compare(
    design: Design,
    scores: dict[str, np.ndarray],
    base: str = BASE_POOLING,
    only: np.ndarray | slice = slice(None),
    n_trainings: int = 1,
) -> Comparison:
    """All methods against `base`, best first.

    Parameters
    ----------
    scores : method -> (n_seeds, n_clips, n_classes), or with members of a seed, see `metrics`; one seed of a method is
        compared with every seed of the others
    only : bool (n_clips,), clips to count; else all
    n_trainings : seeds of the window models. Seeds of stage 2 read the same windows, so they don't count here. A method
        is screened if it has fewer than three seeds of either.
    """
    some, enough = {name: s[..., only, :] for name, s in scores.items()}, comparisons.enough(n_trainings)
    return Comparison(design.clips[only], design.classes, some, base, enough, order="lwlrap")


def write_choice(folder: Path, design: Design, reader: Reader, comparison: pd.DataFrame, seed: int) -> dict:
    """Choose for the submission: write choice.json, and the best stage-2 model, trained on all clips, with its sidecar.

    This choice reads the scores of all outer folds, so no fold can report it: choice.json holds the nested score of
    "take the best". 08 uses the choice as it was measured here: each model `without_f` scores the windows, its window
    scores are pooled (or read by stage 2), and the models' clip scores are averaged.

    Parameters
    ----------
    comparison : the table of `compare`, best first, with the names in the column `method`
    seed : of the stage-2 model

    Returns
    -------
    choice.json: kind (pooling or stage2), method, parameter (None: it has none), settings and models (those without one
    fold; see `modelset.settings_digest` and `ModelSet.scored`); lwlrap, lwlrap_low, lwlrap_high and n of the nested
    "take the best"
    """
    known = comparison[comparison["method"].isin([*pooling.POOLINGS, *MODELS])]
    method = known["method"].iloc[0]
    kind = known.loc[known["method"].isin(list(MODELS)), "method"].iloc[0]
    model = reader.fit(design, kind, design.single, None, seed, f"fit {kind} for use")
    about = {key: design.sidecar[key] for key in ("classes", "audio", "windows", "folds")}
    about |= {"loss": design.loss, "max_clip_s": reader.max_clip_s, "seed": seed, "unseen_folds": []}
    models.save(folder / "weights.safetensors", model, about)
    parameter = None if method in MODELS else nested.choose_parameter(design, method, design.single, None)
    choice = {"kind": "stage2" if method in MODELS else "pooling", "method": method, "parameter": parameter}
    choice["settings"] = settings_digest(design.sidecar)
    choice["models"] = {name: design.scored[name] for name in sorted(set(design.single.table["model"]))}
    reached = comparison.set_index("method").loc[BEST]
    choice |= {key: float(reached[key]) for key in ("lwlrap", "lwlrap_low", "lwlrap_high")} | {"n": int(reached["n"])}
    write_json(folder / "choice.json", choice)
    return choice


def result_metrics(comparison: Comparison, selection: pd.DataFrame) -> dict[str, float]:
    """For `result.json`: scores of the nested "take the best", lwlrap of the mean, all differences to the mean.

    Also the gain of stage 2 in hit rate, averaged over outer folds, when it is picked on the reported fold, by chance,
    and when it is chosen on the other folds; with the numbers of tries and of clips (`probes.selection`).
    """
    gains = selection[selection["metric"] == "hit_rate"].mean(numeric_only=True)
    ways = ("picked there", "by chance", "chosen elsewhere")
    picked = {f"{way.replace(' ', '_')}_hit_rate_diff": gains[way] for way in ways}
    picked |= {"picked_tries": gains["tries"], "picked_n": gains["n"]}
    return comparison.metrics(of=BEST) | {"mean_lwlrap": comparison.metrics()["lwlrap"]} | picked


def conclusion(comparison: Comparison, choice: dict) -> str:
    """The conclusion in sentences, from the measured values."""
    rows = comparison.rows.set_index("variant")
    base, best = rows.loc[BASE_POOLING], rows.loc[BEST]
    head = (
        f"On {base['n']} clips, arithmetic mean: lwlrap {format_score(base)}, hit rate "
        f"{base['hit_rate']:.3f}; the best of the other folds: {best['lwlrap']:.3f}, hit rate {best['hit_rate']:.3f}. "
        f"For use: {choice['method']}. Compared with the mean:"
    )
    return f"{head}\n\n{comparison.conclusion()}"


# --- among candidates: 10 -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluation:
    """Scores on the training folds, which a choice is made by, and on the outer folds, which report it.

    Attributes
    ----------
    readouts : outer, recipe, readout, lwlrap and hit_rate (on the training folds), chosen (bool: the recipe's best)
    candidates : outer, method (candidate), lwlrap and hit_rate (on the training folds)
    scores : candidate -> float64 (n_seeds, n_clips, n_classes) on the outer folds, clips in the order of the design
    """

    readouts: pd.DataFrame
    candidates: pd.DataFrame
    scores: dict[str, np.ndarray]


@dataclass(frozen=True)
class Candidates:
    """The candidates, and the models of all their recipes.

    Attributes
    ----------
    names : of the candidates
    designs : recipe -> a design for each seed, the first one with pair models; all have the same clips and folds
    seeds : of the models that score the outer folds
    """

    names: list[str]
    designs: dict[str, list[Design]]
    seeds: list[int]

    @property
    def design(self) -> Design:
        """The first recipe's; its clips, classes and folds are those of all recipes."""
        return next(iter(self.designs.values()))[0]

    @property
    def scored(self) -> dict[str, dict[str, str]]:
        """Variant -> its models' window scores, as `ModelSet.scored`."""
        return {one.variant.name: one.scored for some in self.designs.values() for one in some}

    def evaluate(self, reader: Reader, names: list[str], seed: int) -> Evaluation:
        """Score every readout and candidate on the training folds, and each recipe's best readout on the outer folds.

        Parameters
        ----------
        names : of poolings and stage-2 models; none: all but the poolings that weigh windows by energy
        seed : of the stage-2 models

        Raises
        ------
        LeakError, ValueError
            As `nested.fit_readouts`.
        """
        inner, outside, tables = {}, {}, []
        for recipe, designs in self.designs.items():
            design = designs[0]
            fitted = nested.fit_readouts(design, reader, names, [seed])
            table = nested.inner_scores(design, fitted)
            chosen = best(table)
            tables.append(table.assign(recipe=recipe, chosen=table["method"] == table["outer"].map(chosen)))
            for outer in chosen:
                design.check_and_record(f"choose a readout of {recipe}", design.training(outer), outer)
            by_fold = {outer: fitted[name][outer] for outer, name in chosen.items()}
            inner[recipe] = {outer: readout.inner for outer, readout in by_fold.items()}
            outside[recipe] = np.concatenate([nested.read_outer(design, by_fold, d.single.in_fold) for d in designs])
        rows, targets = [], self.design.targets
        for outer in self.design.outer_folds:
            for name in self.names:
                inner_mean = _mean({recipe: by_fold[outer] for recipe, by_fold in inner.items()}, name)
                rows.append({"outer": outer, "method": name, **nested.reached_on(targets, inner_mean)})
        readouts = pd.concat(tables).sort_values("outer", kind="stable", ignore_index=True)
        readouts = readouts.rename(columns={"method": "readout"})
        columns = ["outer", "recipe", "readout", "lwlrap", "hit_rate", "chosen"]
        return Evaluation(readouts[columns], pd.DataFrame(rows), {name: _mean(outside, name) for name in self.names})

    @property
    def base(self) -> str:
        """The baseline of the comparison: the first candidate, pooled by the arithmetic mean."""
        return f"{self.names[0]}, mean"

    def compare(self, evaluation: Evaluation) -> Comparison:
        """All candidates, the one chosen for each outer fold, and its seeds averaged, against the base."""
        index, first = self.design.clips.index, self.names[0]
        pooled = {
            recipe: np.stack([nested.pooled(d.single, BASE_POOLING).loc[index] for d in self.designs[recipe]])
            for recipe in of_candidates([first])
        }
        chosen = take_best(self.design, evaluation.scores, evaluation.candidates)
        ends = {CHOSEN_PER_FOLD: chosen, SEEDS_AVERAGED: chosen.mean(0, keepdims=True)}
        scores = {self.base: _mean(pooled, first), **evaluation.scores, **ends}
        return compare(self.design, scores, self.base, n_trainings=len(self.seeds))

    def by_fold(self, evaluation: Evaluation, scores: np.ndarray) -> pd.DataFrame:
        """The choice for each outer fold and its hit rates there.

        Parameters
        ----------
        scores : (n_seeds, n_clips, n_classes) of the chosen candidates, as `take_best`

        Returns
        -------
        outer, candidate, readouts (of its recipes), minutes (of training, one seed, one core), then a column of hit
        rates for each seed, in [0, 1]
        """
        rows, readout = [], evaluation.readouts[evaluation.readouts["chosen"]].set_index(["outer", "recipe"])["readout"]
        for outer, name in best(evaluation.candidates).items():
            here = (self.design.clips["fold"] == outer).to_numpy()
            targets, recipes = self.design.targets.to_numpy()[here], name.split("+")
            row = {"outer": outer, "candidate": name}
            row["readouts"] = " + ".join(readout[outer, recipe] for recipe in recipes)
            row["minutes"] = sum(_minutes(self.designs[recipe]) for recipe in recipes)
            hits = {f"seed_{n}": metrics.hit_rate(targets, s[here]) for n, s in zip(self.seeds, scores, strict=True)}
            rows.append(row | hits)
        return pd.DataFrame(rows)

    def result_metrics(self, comparison: Comparison, by_fold: pd.DataFrame) -> dict[str, float]:
        """For `result.json`: scores of the chosen candidates, and with their seeds averaged (together_...).

        Also the lowest and highest hit rate of a fold (mean over seeds) and of a seed (mean over folds): folds_low,
        folds_high, seeds_low, seeds_high.
        """
        rows = comparison.rows.set_index("variant")
        together = {f"together_{key}": rows.loc[SEEDS_AVERAGED, key] for key in metrics.SCORES}
        spread = {}
        for of, rates in _hit_rates(by_fold).items():
            spread |= {f"{of}_low": rates.min(), f"{of}_high": rates.max()}
        return {**rows.loc[CHOSEN_PER_FOLD, [*metrics.SCORES, "n"]], **together, **spread}

    def manifest(self) -> dict[str, object]:
        """Every fit and choice of all recipes with its clips, as `Design.manifest`."""
        manifest = self.design.manifest()
        for design, *_ in list(self.designs.values())[1:]:
            manifest["uses"], manifest["sets"] = manifest["uses"] + design.uses, manifest["sets"] | design.sets
        return manifest

    def conclusion(self, comparison: Comparison, by_fold: pd.DataFrame) -> str:
        """The conclusion in sentences, from the measured values."""
        rows = comparison.rows.set_index("variant")
        chosen, together = rows.loc[CHOSEN_PER_FOLD], rows.loc[SEEDS_AVERAGED]
        rates = _hit_rates(by_fold)
        counts = by_fold["candidate"].value_counts()
        candidates = "one candidate" if len(self.names) == 1 else f"{len(self.names)} candidates"
        chosen_by = f"Of {candidates}, chosen for each outer fold on the others by lwlrap: "
        chosen_by += ", ".join(f"{name} ({n} of {len(by_fold)})" for name, n in counts.items())
        sentences = [
            f"Nothing is selected: {self.names[0]}, read by the mean" if self.design.pairs.table.empty else chosen_by,
            f"On the outer folds, n = {int(chosen['n'])}, mean of {len(self.seeds)} seed(s): top-1 hit rate "
            f"{format_score(chosen, 'hit_rate')}, lwlrap {format_score(chosen)}",
            f"Hit rates of folds {_spread(rates['folds'])}"
            + (f", of seeds {_spread(rates['seeds'])}" if len(self.seeds) > 1 else ""),
        ]
        if len(self.names) > 1:
            best = rows.loc[self.names, "hit_rate"].idxmax()
            sentences.append(
                f"No result, as it is picked on the same {int(rows.loc[best, 'n'])} clips: the best of "
                f"{len(self.names)} tries, {best}, hit rate {rows.loc[best, 'hit_rate']:.3f}"
            )
        if len(self.seeds) > 1:
            sentences.append(
                f"The scores of all seeds averaged: hit rate {format_score(together, 'hit_rate')}, "
                f"lwlrap {format_score(together)}"
            )
        return ". ".join(sentences) + "."


def read_candidates(
    home: Path, names: list[str], readouts: list[str], seed: int, repeats: int, profile: str
) -> Candidates:
    """The candidates of a run, from outputs/<run>/04_kfold.

    Parameters
    ----------
    home : outputs/<run>
    names : candidates
    readouts : those that will be compared: the mean alone, for one candidate, takes no pair models
    seed : of the recipes' own models
    repeats : number of seeds, counted on from `seed`
    profile : named in the command that trains what is missing

    Raises
    ------
    FileNotFoundError
        Models are missing; the message holds the command that makes them.
    ValueError, LeakError
        No candidates; recipes that differ in clips, audio, folds or classes; and as `ModelSet.open` and
        `ModelSet.windows`.
    """
    if not names:
        raise ValueError("There are no candidates. Name some: -p candidates curated,wide,curated+wide")
    designs = {}
    try:
        for recipe in of_candidates(names):
            own = nested.read(home, recipe, profile, selects=selects(names, readouts))
            designs[recipe] = nested.read_seeds(own, home, profile, seed, repeats)
    except FileNotFoundError as error:
        command = f"make run NB=10 RUN={home.name} PROFILE={profile}"
        raise FileNotFoundError(f"{error}\nAll candidates at once: {command}") from None
    nested.check_alike([some[0] for some in designs.values()])
    return Candidates(names, designs, list(range(seed, seed + repeats)))


def _mean(scores: Mapping[str, np.ndarray | pd.DataFrame], name: str) -> np.ndarray | pd.DataFrame:
    """The scores of a candidate from those of its recipes."""
    parts = [scores[recipe] for recipe in name.split("+")]
    return sum(parts) / len(parts)


def _minutes(designs: list[Design]) -> float:
    """Mean minutes of a training on all folds but one."""
    parts = [one.variant / name / "manifest.json" for one in designs for name in one.single.table["model"].unique()]
    return float(np.mean([read_json(part)["seconds"] for part in parts])) / 60


def _hit_rates(by_fold: pd.DataFrame) -> dict[str, pd.Series]:
    """`folds`: the mean over seeds for each fold; `seeds`: the mean over folds for each seed."""
    hits = by_fold.filter(regex="^seed_")
    return {"folds": hits.mean(axis=1), "seeds": hits.mean()}


def _spread(values: pd.Series) -> str:
    sd = values.std() if len(values) > 1 else 0.0
    return f"{values.min():.3f} to {values.max():.3f} (sd {sd:.3f})"
