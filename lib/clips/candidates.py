"""As good as it gets: of candidates that were fixed beforehand, the best one for each outer fold, chosen without it.

Conventions
-----------
recipe : a variant of 04, with its pair models; trainings with another seed are `<recipe>.seed_<n>`, without pairs
readout : from the scores of a clip's windows to the clip: a pooling or a stage-2 model of 06
candidate : recipes joined by "+"; its clip scores are the mean of theirs, each by the readout that is best for it
For the outer fold g, readouts and candidates are judged on every other fold f by `without_f_g`, which saw neither; the
best one is read on g once, by the models `without_g` of every seed.

Used in: 10.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from lib.clips import clipwise, nested, readouts
from lib.clips.nested import Design
from lib.clips.readouts import BASE, Reader
from lib.evaluation import metrics
from lib.evaluation.comparisons import Comparison, format_score
from lib.evaluation.window_scores import WindowScores
from lib.files import read_json
from lib.runs.modelset import ModelSet
from lib.runs.recipes import of_candidates, other_data, seeded

__all__ = ["CHOSEN", "TOGETHER", "Candidates", "Judged", "read"]

CHOSEN = "chosen for each fold"
TOGETHER = "the same, seeds averaged"
ENDS = (("low", "min"), ("high", "max"))


@dataclass(frozen=True)
class Judged:
    """What a choice goes by, and what it would reach.

    Attributes
    ----------
    readouts : outer, recipe, readout, lwlrap and hit_rate (on the training folds), chosen (the recipe's best)
    candidates : outer, method (candidate), lwlrap and hit_rate (on the training folds)
    scores : candidate -> float64 (n_seeds, n_clips, n_classes) on the outer folds, clips in the order of the design
    """

    readouts: pd.DataFrame
    candidates: pd.DataFrame
    scores: dict[str, np.ndarray]


@dataclass(frozen=True)
class Candidates:
    """The models of all recipes.

    Attributes
    ----------
    names : of the candidates
    designs : recipe -> its pair models, all of the same clips and folds
    seeds : of the models that are reported
    windows : recipe -> for each seed, the windows of every fold f by `without_f`
    minutes : recipe -> of one training on all folds but one, mean
    """

    names: list[str]
    designs: dict[str, Design]
    seeds: list[int]
    windows: dict[str, list[WindowScores]]
    minutes: dict[str, float]

    @property
    def design(self) -> Design:
        """Of the first recipe: the clips, classes and folds of all."""
        return next(iter(self.designs.values()))

    def judge(self, reader: Reader, names: list[str], seed: int) -> Judged:
        """Every readout and every candidate on the training folds of every outer fold; the best readouts on that one.

        Parameters
        ----------
        names : of poolings and stage-2 models; none: all but those that weigh by energy
        seed : of the stage-2 models

        Raises
        ------
        LeakError
            A score is read that knows of the outer fold.
        ValueError
            A readout that there is not.
        """
        design, tried, judged = self.design, [], []
        reported = {name: [] for name in self.names}
        for outer in tqdm(design.outer_folds, desc="outer folds", unit="fold"):
            inner, outside = {}, {}
            for recipe in self.designs:
                inner[recipe], outside[recipe], rows = self._best(recipe, reader, names, outer, seed)
                tried += rows
            targets = design.targets.loc[inner[recipe].index].to_numpy()
            for name in self.names:
                judged.append({"outer": outer, "method": name, **_scored(targets, _mean(inner, name).to_numpy())})
                reported[name].append(_mean(outside, name))
        scores = {
            name: np.stack([pd.concat(parts).loc[design.clips.index].to_numpy() for parts in zip(*found, strict=True)])
            for name, found in reported.items()
        }
        return Judged(pd.DataFrame(tried), pd.DataFrame(judged), scores)

    @property
    def base(self) -> str:
        """What all is compared with: the first candidate, by the arithmetic mean over windows."""
        return f"{self.names[0]}, mean"

    def compare(self, judged: Judged) -> Comparison:
        """All candidates, the best for each outer fold (CHOSEN) and its seeds averaged (TOGETHER), against the base.

        The choice goes by the highest lwlrap on the training folds; of equal ones the first is taken.
        """
        chosen = clipwise.choose(self.design, judged.scores, judged.candidates)
        pooled = {
            recipe: [pd.DataFrame(*nested.pooled(windows, BASE)[::-1]) for windows in some]
            for recipe, some in self.windows.items()
        }
        plain = [seed.loc[self.design.clips.index].to_numpy() for seed in _mean(pooled, self.names[0])]
        ends = {CHOSEN: chosen, TOGETHER: chosen.mean(0, keepdims=True)}
        scores = {self.base: np.stack(plain), **judged.scores, **ends}
        return clipwise.compare(self.design, scores, self.base, n_trainings=len(self.seeds))

    def by_fold(self, judged: Judged, scores: np.ndarray) -> pd.DataFrame:
        """What was chosen for each outer fold and what it reached there.

        Returns
        -------
        outer, candidate, readouts (of its recipes), minutes (of training, one seed, one core), then a column of hit
        rates for each seed, in [0, 1]
        """
        rows, readout = [], judged.readouts[judged.readouts["chosen"]].set_index(["outer", "recipe"])["readout"]
        for outer, name in clipwise.best(judged.candidates).items():
            here = (self.design.clips["fold"] == outer).to_numpy()
            targets, recipes = self.design.targets.to_numpy()[here], name.split("+")
            told = {"outer": outer, "candidate": name}
            told["readouts"] = " + ".join(readout[outer, recipe] for recipe in recipes)
            told["minutes"] = sum(self.minutes[recipe] for recipe in recipes)
            hits = {f"seed_{n}": metrics.hit_rate(targets, s[here]) for n, s in zip(self.seeds, scores, strict=True)}
            rows.append(told | hits)
        return pd.DataFrame(rows)

    def result_metrics(self, comparison: Comparison, by_fold: pd.DataFrame) -> dict[str, float]:
        """For `result.json`: scores of what was chosen, those of its seeds averaged (together_...), and the lowest and
        highest hit rate of a fold (mean over seeds) and of a seed (over folds): folds_low, folds_high, seeds_low ..."""
        rows = comparison.rows.set_index("variant")
        together = {f"together_{key}": rows.loc[TOGETHER, key] for key in metrics.SCORES}
        spread = {f"{of}_{end}": rates.agg(least) for of, rates in _hit_rates(by_fold).items() for end, least in ENDS}
        return {**rows.loc[CHOSEN, [*metrics.SCORES, "n"]], **together, **spread}

    def manifest(self) -> dict[str, object]:
        """Every fit and choice of all recipes with its clips, as `Design.manifest`."""
        found = self.design.manifest()
        for design in list(self.designs.values())[1:]:
            found["uses"], found["sets"] = found["uses"] + design.uses, found["sets"] | design.sets
        return found

    def conclusion(self, comparison: Comparison, by_fold: pd.DataFrame) -> str:
        """The conclusion in sentences, from the measured values."""
        rows = comparison.rows.set_index("variant")
        rates = _hit_rates(by_fold)
        counts = by_fold["candidate"].value_counts()
        told = [
            f"Of {len(self.names)} candidate(s), chosen for each outer fold on the others by lwlrap: "
            + ", ".join(f"{name} ({n} of {len(by_fold)})" for name, n in counts.items()),
            f"On the outer folds, n = {int(rows.loc[CHOSEN, 'n'])}, mean of {len(self.seeds)} seed(s): top-1 hit rate "
            f"{format_score(rows.loc[CHOSEN], 'hit_rate')}, lwlrap {format_score(rows.loc[CHOSEN])}",
            f"Hit rates of folds {_spread(rates['folds'])}, of seeds {_spread(rates['seeds'])}",
        ]
        if len(self.names) > 1:
            best = rows.loc[self.names, "hit_rate"].idxmax()
            told.append(
                f"No result, as it is picked on the same {int(rows.loc[best, 'n'])} clips: the best of "
                f"{len(self.names)} tries, {best}, hit rate {rows.loc[best, 'hit_rate']:.3f}"
            )
        if len(self.seeds) > 1:
            together = rows.loc[TOGETHER]
            told.append(
                f"The scores of all seeds averaged: hit rate {format_score(together, 'hit_rate')}, "
                f"lwlrap {format_score(together)}"
            )
        return ". ".join(told) + "."

    def _best(
        self, recipe: str, reader: Reader, names: list[str], outer: int, seed: int
    ) -> tuple[pd.DataFrame, list[pd.DataFrame], list[dict]]:
        """Scores of the training clips by the best readout, of the outer fold seed by seed, and a row a readout."""
        design, rows, best = self.designs[recipe], [], None
        design.admit(f"choose a readout of {recipe}", design.training(outer), outer)
        for readout in readouts.made_for(design, reader, names, outer, seed):
            reached = _scored(design.targets.loc[readout.fnames].to_numpy(), readout.scores)
            rows.append({"outer": outer, "recipe": recipe, "readout": readout.name, **reached, "chosen": False})
            if best is None or reached["lwlrap"] > best[0]["lwlrap"]:
                best = rows[-1], readout
        best[0]["chosen"] = True
        inner = pd.DataFrame(best[1].scores, best[1].fnames)
        outside = []
        for windows in self.windows[recipe]:
            fnames, scores = best[1].read(windows.where(windows.table["fold"] == outer))
            outside.append(pd.DataFrame(scores, fnames))
        return inner, outside, rows


def read(home: Path, names: list[str], seed: int, repeats: int, profile: str) -> Candidates:
    """The candidates of a run, from outputs/<run>/04_kfold.

    Parameters
    ----------
    home : outputs/<run>
    names : candidates
    seed : of the recipes' own models
    repeats : number of seeds, counted on from `seed`
    profile : named in the command that trains what is missing

    Raises
    ------
    FileNotFoundError
        Models are missing; the message holds the command that makes them.
    ValueError, LeakError
        No candidates, recipes that were read on other clips, audio, folds or classes; and as `ModelSet.open` and
        `ModelSet.windows`.
    """
    if not names:
        raise ValueError("There are no candidates. Name some: -p candidates curated,wide,curated+wide")
    seeds, designs, sets = list(range(seed, seed + repeats)), {}, {}
    try:
        for recipe in of_candidates(names):
            designs[recipe] = nested.read(home, recipe, profile)
            variants = [seeded(recipe, s, seed) for s in seeds]
            sets[recipe] = [ModelSet.open(home, variant, "single", profile=profile) for variant in variants]
    except FileNotFoundError as error:
        command = f"make run NB=10 RUN={home.name} PROFILE={profile}"
        raise FileNotFoundError(f"{error}\nAll candidates at once: {command}") from None
    first, own = next(iter(designs.values())), next(iter(sets.values()))[0]
    for recipe, design in designs.items():
        if design.classes != first.classes or not design.clips.equals(first.clips):
            raise ValueError(f"{recipe} was read on other clips, folds or classes than {next(iter(designs))}.")
        for models in sets[recipe]:
            if differ := other_data(own.configuration, models.configuration):
                raise ValueError(f"{own.variant} and {models.variant} differ ({differ}). Train one of them anew.")
    windows = {recipe: [models.windows(models.single) for models in some] for recipe, some in sets.items()}
    minutes = {recipe: float(np.mean([_minutes(models) for models in some])) for recipe, some in sets.items()}
    return Candidates(names, designs, seeds, windows, minutes)


def _mean(known: dict, name: str) -> pd.DataFrame | list[pd.DataFrame]:
    """The scores of a candidate from those of its recipes; seed by seed, where there is a list of them."""
    parts = [known[recipe] for recipe in name.split("+")]
    if isinstance(parts[0], list):
        return [sum(some) / len(some) for some in zip(*parts, strict=True)]
    return sum(parts) / len(parts)


def _scored(targets: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    return {"lwlrap": metrics.lwlrap(targets, scores), "hit_rate": metrics.hit_rate(targets, scores)}


def _minutes(models: ModelSet) -> float:
    """Mean minutes of the trainings `without_f`."""
    parts = [models.folder / name / "manifest.json" for name in models.single]
    return float(np.mean([read_json(part)["seconds"] for part in parts])) / 60


def _hit_rates(by_fold: pd.DataFrame) -> dict[str, pd.Series]:
    """Of the folds, means over seeds; and of the seeds, means over folds."""
    hits = by_fold.filter(regex="^seed_")
    return {"folds": hits.mean(axis=1), "seeds": hits.mean()}


def _spread(values: pd.Series) -> str:
    sd = values.std() if len(values) > 1 else 0.0
    return f"{values.min():.3f} to {values.max():.3f} (sd {sd:.3f})"
