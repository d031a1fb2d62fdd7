"""From models to one: what k fold models, one model on all the data, seeds, snapshots and averaged weights give.

Conventions
-----------
One fold is the outer fold, held out from everything; "all data" are the other folds. A strategy is a way to spend
`ensemble_epochs` passes over all data, a member one of its trainings (or what is made of the weights of some):

one         one model for a third of the passes: what "the epochs chosen beforehand" cost; the rest is not spent
long        one model for all of the passes
long_fresh  the same weights, their batch statistics (of BatchNorm) taken anew, as those of swa have to be
seeds       three models for a third each, with other seeds; the first is `one`
snapshots   three times a third, each going on from the weights of the last; their scores are averaged
swa         the same three, their weights are averaged; compared with long_fresh as well, like with like
folds_<k>   k models, each on all but one of k parts, so that together they cost the same passes

Every member is a result of its own in 07_ensemble/<member>/without_<outer fold>/seed_<seed>. Scores are those of the
outer fold; there the parts are numbered on from the last fold: `without_2_5` saw neither fold 2 nor part 5.

Used in: 07.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata

from lib import files
from lib.data import datasets
from lib.evaluation import comparisons, folds, metrics
from lib.evaluation.comparisons import Comparison
from lib.evaluation.window_scores import WindowScores, pool_mean
from lib.experiments import trials
from lib.runs.run import Run
from lib.sound.windows import Windows
from lib.training import learners, models
from lib.training.models import Network, WindowModel
from lib.training.task import Fit, Task

__all__ = [
    "MEANS",
    "Ensembles",
    "combine",
    "conclusion",
    "mean_weights",
    "members",
    "orders",
    "parts",
    "plan",
    "result_metrics",
    "train",
    "trained_on",
    "verdict",
]

TIMES = 3  # members of seeds and snapshots
SMALLEST = 1.0e-12
WEIGHTS = "weights.safetensors"
MEANS = ("arithmetic", "geometric", "rank")
RIVALS = {"swa": "long_fresh"}  # compared beside what all are compared with: both have fresh batch statistics


@dataclass(frozen=True)
class Member:
    """One training.

    Parameters
    ----------
    name : folder
    epochs : passes over its own clips; 0 where weights are averaged
    shift : of the seed
    k, part : which of k parts it does not see; k = 0: it sees all data
    start : member whose weights it goes on from
    of : members whose weights are averaged; of one, they are its own
    kept : whether its own weights are written, since other members are made of them
    """

    name: str
    epochs: int
    shift: int = 0
    k: int = 0
    part: int = 0
    start: str = ""
    of: tuple[str, ...] = ()
    kept: bool = False


def plan(passes: int, ks: list[int]) -> dict[str, list[Member]]:
    """The members of each strategy; a member may belong to several.

    Parameters
    ----------
    passes : over all data, for each strategy
    ks : numbers of fold models

    Raises
    ------
    ValueError
        Fewer passes than members have to share.
    """
    third = passes // TIMES
    if third < 1 or any(round(passes / (k - 1)) < 1 for k in ks):
        raise ValueError(f"ensemble_epochs={passes} is less than {max([TIMES, *ks])} models can share. Raise it.")
    one = Member("one", third, kept=True)
    cycles = [
        Member(f"cycle_{i}", third, i, start=f"cycle_{i - 1}" if i > 1 else "one", kept=True) for i in range(1, TIMES)
    ]
    return {
        "one": [one],
        "long": [Member("long", passes, kept=True)],
        "long_fresh": [Member("long_fresh", 0, of=("long",))],
        "seeds": [one, *(Member(f"seed_{i}", third, i) for i in range(1, TIMES))],
        "snapshots": [one, *cycles],
        "swa": [Member("swa", 0, of=("one", *(cycle.name for cycle in cycles)))],
        **{
            f"folds_{k}": [Member(f"folds_{k}_{i}", round(passes / (k - 1)), k=k, part=i) for i in range(k)] for k in ks
        },
    }


@dataclass(frozen=True)
class Ensembles(datasets.Labelled):
    """Scores of the outer folds by every member.

    Attributes
    ----------
    clips : group, fold, labels; index fname, sorted: the clips of the outer folds that were asked for
    classes : in submission order
    fnames : (n_windows,) the clip of each window
    windows : strategy -> float64 (n_seeds, n_members, n_windows, n_classes)
    passes : strategy -> over all data, summed over its members
    n_folds : outer folds that there are
    withheld : sentence about clips that train no member of an outer fold, as `folds.withheld`
    """

    clips: pd.DataFrame
    classes: list[str]
    fnames: np.ndarray
    windows: dict[str, np.ndarray]
    passes: dict[str, float]
    n_folds: int
    withheld: str = ""

    @property
    def decides(self) -> bool:
        """Whether there is enough for verdicts: all outer folds and three seeds."""
        n_seeds = len(next(iter(self.windows.values())))
        return comparisons.enough(n_seeds, self.clips["fold"].nunique(), self.n_folds)

    def singles(self, strategy: str) -> np.ndarray:
        """Clip scores of each member alone, (n_seeds, n_members, n_clips, n_classes)."""
        return _pooled(self.fnames, self.windows[strategy])

    def average(self, strategy: str) -> np.ndarray:
        """Clip scores of the members' arithmetic mean, (n_seeds, n_clips, n_classes)."""
        return self.singles(strategy).mean(1)

    @cached_property
    def comparison(self) -> Comparison:
        """Every strategy against one long training, and those of RIVALS against each other; best first."""
        averages = {name: self.average(name) for name in self.windows}
        return Comparison(self.clips, self.classes, averages, "long", self.decides, RIVALS, order="lwlrap")

    def table(self) -> pd.DataFrame:
        """The rows of the comparison.

        After `variant` (strategy): passes, n_members, single (mean lwlrap of a member), disagreement (share of clips
        for which two members put different classes first)
        """
        table = pd.DataFrame([{"variant": name, **self._row(name)} for name in self.windows])
        table = table.merge(self.comparison.table(), how="right", on="variant")
        return table.astype({"n_members": "Int64"})  # none, of a pair

    def _row(self, name: str) -> dict[str, float]:
        singles = self.singles(name)
        alone = [metrics.lwlrap(self.targets, member) for seed in singles for member in seed]
        best = singles.argmax(-1)  # (n_seeds, n_members, n_clips)
        pairs = [(best[:, i] != best[:, j]).mean() for i, j in combinations(range(best.shape[1]), 2)]
        return {
            "passes": self.passes[name],
            "n_members": best.shape[1],
            "single": float(np.mean(alone)),
            "disagreement": float(np.mean(pairs)) if pairs else 0.0,
        }


def members(run: Run) -> pd.DataFrame:
    """What will be trained, or is: a row a member: strategy, member, epochs, share (of all data), passes."""
    rows = []
    for strategy, some in plan(run.params["ensemble_epochs"], run.params["ensemble_folds"]).items():
        for m in some:
            share = 1 - 1 / m.k if m.k else 1.0
            rows.append({"strategy": strategy, "member": m.name, "epochs": m.epochs, "share": round(share, 3)})
    table = pd.DataFrame(rows)
    return table.assign(passes=(table["epochs"] * table["share"]).round(1))


def train(run: Run, task: Task) -> Ensembles:
    """Train the members that are not done yet, for the outer folds and seeds of the run, and read the rest.

    Raises
    ------
    ValueError
        A fold is asked for that there is not, `ensemble_folds` that are more than the groups, or a member's folder
        that holds another configuration.
    """
    asked, seeds = task.asked(run.params["folds"]), run.params["seeds"]
    for outer in asked:
        n_groups = task.split(outer)[0]["group"].nunique()
        if max(run.params["ensemble_folds"], default=0) > n_groups:
            raise ValueError(
                f"ensemble_folds={run.params['ensemble_folds']}: the {n_groups} groups outside fold {outer} can't fill "
                f"that many parts. Take numbers up to {n_groups}."
            )
    strategies = plan(run.params["ensemble_epochs"], run.params["ensemble_folds"])
    todo = {m.name: m for some in strategies.values() for m in some}
    run.settle(**task.identity)

    def start(name: str, outer: int, seed: int) -> Run:
        return run.trial(name, folds.model_name(outer), seed, epochs=max(1, todo[name].epochs))

    def train(trial: Run, name: str, outer: int, seed: int) -> WindowScores:
        return _train(trial, todo[name], task, outer)

    def is_whole(trial: Run, name: str, outer: int, seed: int) -> bool:
        return not todo[name].kept or (trial.folder / WEIGHTS).is_file()

    keys = [(name, outer, seed) for outer in asked for seed in seeds for name in todo]
    found = {
        key: scored.where(scored.table["fold"] == key[1])
        for key, _, scored in trials.do(run, keys, start, train, is_whole=is_whole)
    }
    fnames = np.concatenate([found["one", outer, seeds[0]].table["fname"].to_numpy(str) for outer in asked])
    shown = {
        name: np.stack([np.stack([_joined(found, m.name, asked, seed, fnames) for m in some]) for seed in seeds])
        for name, some in strategies.items()
    }
    table = task.folds[task.folds["fold"].isin(asked)].merge(task.curated[["fname", "labels"]], on="fname")
    passes = members(run).groupby("strategy")["passes"].sum().to_dict()
    passes |= {name: float(run.params["ensemble_epochs"]) for name in ("long_fresh", "swa")}  # of what they are made of
    withheld = folds.withheld(task.folds, [folds.model_name(outer) for outer in asked])
    table = table.set_index("fname").sort_index()
    return Ensembles(table, list(task.classes), fnames, shown, passes, task.n_folds, withheld)


def combine(scores: np.ndarray, how: str) -> np.ndarray:
    """The models' scores as one.

    Parameters
    ----------
    scores : (n_models, ..., n_classes), in [0, 1]
    how : arithmetic, geometric, or rank: the mean over the models of each class's rank within its row, as a share of
        the classes; what ties there goes by the arithmetic mean

    Returns
    -------
    (..., n_classes), in [0, 1]

    Raises
    ------
    ValueError
        If there is no such mean.
    """
    scores = np.asarray(scores, float)
    if how == "arithmetic":
        return scores.mean(0)
    if how == "geometric":
        return np.exp(np.log(np.maximum(scores, SMALLEST)).mean(0))
    if how == "rank":
        n_classes = scores.shape[-1]
        ranks = rankdata(scores, axis=-1).mean(0)  # 1 is the lowest
        return (ranks + scores.mean(0) / (2 * len(scores))) / (n_classes + 1)
    raise ValueError(f"how={how!r} is no mean between models. There are: {', '.join(MEANS)}.")


def orders(found: Ensembles, strategies: list[str]) -> pd.DataFrame:
    """Means between models, before and after the windows are pooled, each against the arithmetic mean.

    Returns
    -------
    strategy, variant (mean and order), lwlrap, then as `metrics.compare_each` (Holm over the rows of a strategy)
    """
    tables = []
    for name in strategies:
        base, others = found.average(name), {}
        for how in MEANS:
            after = np.stack([combine(seed, how) for seed in found.singles(name)])
            before = np.stack([combine(seed, how) for seed in found.windows[name]])
            others[f"{how}, after pooling"] = after
            others[f"{how}, before pooling"] = _pooled(found.fnames, before)
        del others["arithmetic, before pooling"], others["arithmetic, after pooling"]  # the two are one
        pairs = {how: (base, other) for how, other in others.items()}
        rows = metrics.compare_each(found.targets, pairs, found.groups)
        reached = [np.mean([metrics.lwlrap(found.targets, seed) for seed in s]) for s in others.values()]
        tables.append(pd.DataFrame(rows).assign(strategy=name, lwlrap=reached))
    return comparisons.screened(pd.concat(tables, ignore_index=True), found.decides)


def parts(found: Ensembles) -> pd.DataFrame:
    """Where the gain of k fold models over one of them comes from, or does not: data, averaging, passes.

    Returns
    -------
    part, base, other (what is compared), then as `metrics.compare_each`; what holds of a member is its seed's mean
    """
    single = {name: found.singles(name) for name in found.windows}
    folds_ = [name for name in single if name.startswith("folds_")]
    pairs = {}
    for name in [name for name in single if name in ("seeds", "snapshots", *folds_)]:
        pairs[f"averaging, {name}"] = ("a member", "their average", single[name], found.average(name))
    for name in folds_:
        one = "a model on all data, a third of the passes"
        pairs[f"more data, {name}"] = ("a member", one, single[name], single["seeds"])
    pairs["more passes"] = ("one", "long", found.average("one"), found.average("long"))
    rows = metrics.compare_each(found.targets, {part: pair[2:] for part, pair in pairs.items()}, found.groups)
    words = pd.DataFrame([(part, *pair[:2]) for part, pair in pairs.items()], columns=["part", "base", "other"])
    return comparisons.screened(words.join(pd.DataFrame(rows).drop(columns="variant")), found.decides)


def trained_on(run: Run, found: Ensembles) -> dict[tuple[str, int, int], list[str]]:
    """(member, outer fold, seed) -> the clips of its fit, from the manifests."""
    names = {
        m.name for some in plan(run.params["ensemble_epochs"], run.params["ensemble_folds"]).values() for m in some
    }
    clips = {}
    for name in sorted(names):
        for outer in sorted(found.clips["fold"].unique().tolist()):
            for seed in run.params["seeds"]:
                manifest = run.trial(name, folds.model_name(outer), seed).folder / "manifest.json"
                clips[name, outer, seed] = files.read_json(manifest)["clips"]["train"]
    return clips


def result_metrics(found: Ensembles, parts_: pd.DataFrame) -> dict[str, float]:
    """For `result.json`: the long training's scores, every strategy's difference to it, and the parts."""
    return found.comparison.metrics() | comparisons.differences(
        parts_.set_index("part_" + parts_["part"].str.replace(",", ""))
    )


def verdict(found: Ensembles) -> str | None:
    """Of fold models against one long training: kept if all numbers of folds are, dropped if all are; None: too few."""
    return found.comparison.verdict([name for name in found.windows if name.startswith("folds_")], every=True)


def conclusion(found: Ensembles, parts_: pd.DataFrame) -> str:
    """The conclusion in sentences, from the measured values."""
    n_seeds, scored = len(next(iter(found.windows.values()))), found.comparison.rows.dropna(subset="lwlrap")
    told = [
        f"On {len(found.clips)} clips of {found.clips['fold'].nunique()} of {found.n_folds} outer folds, {n_seeds} "
        "seed(s), lwlrap: " + ", ".join(f"{r.variant} {r.lwlrap:.3f}" for r in scored.itertuples()),
        "Parts, a table of its own: "
        + "; ".join(f"{r.part} {comparisons.format_difference(r)}" for r in parts_.itertuples()),
        "Differences to one long training: " + found.comparison.conclusion(),
    ]
    return f"{'. '.join(told)} {found.withheld}".strip()


def _train(trial: Run, member: Member, task: Task, outer: int) -> WindowScores:
    """Train one member and score what it did not see."""
    network, cut, recipe = trial.pick(Network), trial.pick(Windows), trial.pick(learners.Recipe)
    seed = trial.params["seed"] + 1000 * member.shift
    place, beside = (folds.model_name(outer), trial.folder.name), trial.folder.parents[2]
    if member.of:
        models_of = [models.load(beside.joinpath(name, *place, WEIGHTS))[0] for name in member.of]
        fit = _average(models_of, task, outer, cut, recipe, seed)
    else:
        name = folds.model_name(outer, task.n_folds + member.part if member.k else -1)
        start = beside.joinpath(member.start, *place, WEIGHTS) if member.start else None
        mine = replace(task, folds=_parted(task, outer, member.k, trial.params["seed"])) if member.k else task
        how = {"checkpoint": trial.checkpoint, "start": start}
        fit = learners.train_fold(mine, name, network, cut, recipe, seed, **how)
    return trials.keep(trial, fit, outer, keep_weights=member.kept)


def _average(some: list[WindowModel], task: Task, outer: int, cut: Windows, recipe: learners.Recipe, seed: int) -> Fit:
    """The mean of some weights, its batch statistics taken anew from training windows; scores of the outer fold."""
    train, scored = task.split(outer)
    folds.assert_no_leak(task.folds, train["fname"], [outer])
    model = mean_weights(some).prepare()
    batches = learners.training_batches(task.cache, train, task.classes, cut, recipe, seed)
    torch.optim.swa_utils.update_bn((x for x, _ in batches), model, device=next(model.parameters()).device)
    table = task.windows(scored, cut)
    (logits,) = models.score([model], task.cache, table, cut.n_frames(task.cache.logmel))
    about = {"classes": task.classes, "recipe": recipe.settings()}
    curve = pd.DataFrame(columns=["epoch", "lr", "train_loss", "valid_loss", "lwlrap"])
    return Fit(folds.model_name(outer), model, about, curve, scored, table, logits, train["fname"].tolist())


def mean_weights(some: list[WindowModel]) -> WindowModel:
    """The first model with the mean of all models' weights; counters stay the first's."""
    states = [model.state_dict() for model in some]
    mean = {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }
    some[0].load_state_dict(mean)
    return some[0]


def _parted(task: Task, outer: int, k: int, seed: int) -> pd.DataFrame:
    """The folds table, all but the outer fold parted anew in k, the parts numbered on from the last fold."""
    rest, _ = task.split(outer)
    targets = datasets.targets(rest, task.classes)
    table = folds.make(rest.drop(columns="fold"), targets, k, seed).assign(fold=lambda t: t["fold"] + task.n_folds)
    return pd.concat([task.folds[task.folds["fold"] == outer], table]).sort_values("fname", ignore_index=True)


def _joined(found: dict[tuple, WindowScores], name: str, asked: list[int], seed: int, fnames: np.ndarray) -> np.ndarray:
    """A member's window scores over all outer folds; the windows must be those of all others."""
    whole = WindowScores.join(found[name, outer, seed] for outer in asked)
    if not np.array_equal(whole.table["fname"].to_numpy(str), fnames):
        raise ValueError(f"{name} scored other windows than the first member. Train it anew (-p overwrite True).")
    return whole.scores


def _pooled(fnames: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(..., n_windows, n_classes) -> (..., n_clips, n_classes), clips sorted by fname."""
    flat = scores.reshape(-1, *scores.shape[-2:])
    pooled = np.stack([pool_mean(fnames, one)[1] for one in flat])
    return pooled.reshape(*scores.shape[:-2], *pooled.shape[1:])
