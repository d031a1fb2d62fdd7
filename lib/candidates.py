"""As good as it gets: of candidates that were fixed beforehand, the best one for each outer fold, chosen without it.

Conventions
-----------
recipe : a variant of 04, with its pair models; trainings with another seed are `<recipe>.seed_<n>`, without pairs
candidate : recipes joined by "+"; its clip scores are the mean of theirs, each the mean over the clip's windows
For the outer fold g, candidates are judged on every other fold f by `without_f_g`, which saw neither, and the best one
is read on g once, by the models `without_g` of every seed.

Used in: 10.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib import clipwise, folds, metrics, nested, oof, plan
from lib.nested import Design

__all__ = ["CHOSEN", "TOGETHER", "Candidates", "read"]

CHOSEN = "chosen for each fold"
TOGETHER = "the same, seeds averaged"
SCORES = ("lwlrap", "hit_rate")


@dataclass(frozen=True)
class Candidates:
    """What the models of all recipes say.

    Attributes
    ----------
    names : of the candidates
    designs : recipe -> its models, all of the same clips and folds
    seeds : of the models that are reported
    scores : candidate -> float64 (n_seeds, n_clips, n_classes), clips in the order of `design.clips`
    minutes : recipe -> of one training on all folds but one, mean
    """

    names: list[str]
    designs: dict[str, Design]
    seeds: list[int]
    scores: dict[str, np.ndarray]
    minutes: dict[str, float]

    @property
    def design(self) -> Design:
        """Of the first recipe: the clips, classes and folds of all."""
        return next(iter(self.designs.values()))

    def judged(self) -> pd.DataFrame:
        """Every candidate on the training folds of every outer fold: outer, method (candidate), lwlrap, hit_rate."""
        rows = []
        for outer in self.design.outer_folds:
            known = {}
            for recipe, design in self.designs.items():
                design.admit(f"judge {recipe}", design.training(outer), outer)
                clips, known[recipe] = nested.pooled(design.training(outer), clipwise.BASE)
            targets = self.design.targets.loc[clips].to_numpy()
            for name in self.names:
                scores = _mean(known, name)
                reached = {"lwlrap": metrics.lwlrap(targets, scores), "hit_rate": metrics.hit_rate(targets, scores)}
                rows.append({"outer": outer, "method": name, **reached})
        return pd.DataFrame(rows)

    def reported(self, judged: pd.DataFrame) -> dict[str, np.ndarray]:
        """All candidates' scores, and those of the best for each outer fold: CHOSEN, and its mean over seeds, TOGETHER.

        Parameters
        ----------
        judged : what the choice goes by, from `judged`; the highest lwlrap, the first of equal ones
        """
        chosen = clipwise.choose(self.design, self.scores, judged)
        return {**self.scores, CHOSEN: chosen, TOGETHER: chosen.mean(0, keepdims=True)}

    def by_fold(self, judged: pd.DataFrame, scores: np.ndarray) -> pd.DataFrame:
        """What was chosen for each outer fold and what it reached there.

        Returns
        -------
        outer, candidate, minutes (of training, one seed, one core), then a column of hit rates for each seed, in [0, 1]
        """
        rows = []
        for outer, row in judged.groupby("outer")["lwlrap"].idxmax().items():
            here = (self.design.clips["fold"] == outer).to_numpy()
            targets, name = self.design.targets.to_numpy()[here], judged.loc[row, "method"]
            hits = {f"seed_{n}": metrics.hit_rate(targets, s[here]) for n, s in zip(self.seeds, scores, strict=True)}
            minutes = sum(self.minutes[recipe] for recipe in name.split("+"))
            rows.append({"outer": outer, "candidate": name, "minutes": minutes, **hits})
        return pd.DataFrame(rows)

    def found(self, comparison: pd.DataFrame) -> dict[str, float]:
        """For `result.json`: scores of what was chosen, and those of its seeds averaged (together_...)."""
        rows, keys = comparison.set_index("method"), [f"{m}{end}" for m in SCORES for end in ("", "_low", "_high")]
        together = {f"together_{key}": rows.loc[TOGETHER, key] for key in keys}
        return {**rows.loc[CHOSEN, [*keys, "n"]], **together}

    def manifest(self) -> dict[str, object]:
        """Every judging and choice of all recipes with its clips, as `Design.manifest`."""
        found = self.design.manifest()
        for design in list(self.designs.values())[1:]:
            found["uses"], found["sets"] = found["uses"] + design.uses, found["sets"] | design.sets
        return found

    def says(self, comparison: pd.DataFrame, by_fold: pd.DataFrame) -> str:
        """The conclusion in sentences, from the measured values."""
        rows = comparison.set_index("method")
        hits = by_fold.filter(regex="^seed_")
        counts = by_fold["candidate"].value_counts()
        told = [
            f"Of {len(self.names)} candidate(s), chosen for each outer fold on the others by lwlrap: "
            + ", ".join(f"{name} ({n} of {len(by_fold)})" for name, n in counts.items()),
            f"On the outer folds, n = {int(rows.loc[CHOSEN, 'n'])}, mean of {len(self.seeds)} seed(s): top-1 hit rate "
            f"{_interval(rows.loc[CHOSEN], 'hit_rate')}, lwlrap {_interval(rows.loc[CHOSEN], 'lwlrap')}",
            f"Hit rates of folds {_spread(hits.mean(axis=1))}, of seeds {_spread(hits.mean())}",
        ]
        if len(self.seeds) > 1:
            together = rows.loc[TOGETHER]
            told.append(
                f"The scores of all seeds averaged: hit rate {_interval(together, 'hit_rate')}, "
                f"lwlrap {_interval(together, 'lwlrap')}"
            )
        return ". ".join(told) + "."


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
    ValueError
        No candidates, or recipes that were read on other clips, folds or classes.
    """
    if not names:
        raise ValueError("There are no candidates. Name some: -p candidates curated,wide,curated+wide")
    recipes = plan.recipes(names)
    seeds = list(range(seed, seed + repeats))
    try:
        designs = {recipe: nested.read(home, recipe, profile) for recipe in recipes}
        models = {recipe: [home / "04_kfold" / plan.seeded(recipe, s, seed) for s in seeds] for recipe in recipes}
        first = designs[recipes[0]]
        own = {recipe: np.stack([_scores(variant, first) for variant in models[recipe]]) for recipe in recipes}
    except FileNotFoundError as error:
        command = f"make run NB=10 RUN={home.name} PROFILE={profile}"
        raise FileNotFoundError(f"Not all candidates are trained ({error}). All at once: {command}") from None
    minutes = {recipe: np.mean([_minutes(variant, first) for variant in models[recipe]]) for recipe in recipes}
    return Candidates(names, designs, seeds, {name: _mean(own, name) for name in names}, minutes)


def _mean(known: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The scores of a candidate from those of its recipes."""
    return np.mean([known[recipe] for recipe in name.split("+")], axis=0)


def _scores(variant: Path, design: Design) -> np.ndarray:
    """Clip scores of the models `without_f`, (n_clips, n_classes), in the order of `design.clips`."""
    clips = oof.read(variant / "pooled", len(design.outer_folds))
    if clips.missing:
        raise FileNotFoundError(f"{variant} lacks folds {clips.missing}")
    theirs = clips.table.set_index("fname")
    if clips.classes != design.classes or theirs["fold"].to_dict() != design.clips["fold"].to_dict():
        raise ValueError(f"{variant} was read on other clips, folds or classes than {design.variant}. Train one anew.")
    return clips.scores


def _minutes(variant: Path, design: Design) -> float:
    """Mean minutes of the trainings `without_f`."""
    parts = [variant / folds.model_name(fold) / "manifest.json" for fold in design.outer_folds]
    return float(np.mean([json.loads(part.read_text())["seconds"] for part in parts])) / 60


def _interval(row: pd.Series, name: str) -> str:
    return f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"


def _spread(values: pd.Series) -> str:
    sd = values.std() if len(values) > 1 else 0.0
    return f"{values.min():.3f} to {values.max():.3f} (sd {sd:.3f})"
