"""Ensembles: is it better to spend the same compute on several models, or on one long training?

Conventions
-----------
One fold is the outer fold: no model is trained on it, and all scores are of its clips. "All data" are the other folds.
A strategy spends `ensemble_epochs` passes over all data. A member is one of its trainings, or an average of the weights
of trainings:

one         one model with a third of the passes; the rest is not spent
long        one model with all of the passes
long_fresh  the weights of long, with BatchNorm statistics computed again, as swa needs it: the control of swa
seeds       three models with different seeds and a third of the passes each; the first is `one`
snapshots   three trainings of a third each; each continues from the weights of the one before. Scores are averaged
swa         the same three trainings; their weights are averaged. Also compared with long_fresh
folds_<k>   k models, each on all but one of k parts of all data. Together they cost the same passes

Each member has a result of its own, 07_ensemble/<member>/without_<outer fold>/seed_<seed>. In names of models, parts
are numbered after the last fold: with five folds, `without_2_5` saw neither fold 2 nor the first part.

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

__all__ = ["MEANS", "Ensembles", "combine", "conclusion", "mean_weights", "members", "orders", "parts", "plan"]
__all__ += ["result_metrics", "train", "trained_on", "verdict"]

N_THIRDS = 3  # members of seeds and of snapshots
SMALLEST = 1.0e-12  # of a score, before its logarithm is taken
WEIGHTS = "weights.safetensors"
MEANS = ("arithmetic", "geometric", "rank")
RIVALS = {"swa": "long_fresh"}  # an extra comparison: both have new batch statistics


@dataclass(frozen=True)
class Member:
    """One training of a strategy, or an average of weights.

    Parameters
    ----------
    name : of its folder
    epochs : passes over its own clips; 0 where weights are averaged
    shift : added (times 1000) to the seed
    k, part : it does not see part `part` of k parts of all data; k = 0: it sees all of them
    start : member whose weights the training starts from
    of : members whose weights are averaged
    """

    name: str
    epochs: int
    shift: int = 0
    k: int = 0
    part: int = 0
    start: str = ""
    of: tuple[str, ...] = ()


def plan(passes: int, ks: list[int]) -> dict[str, list[Member]]:
    """The members of each strategy; a member may belong to several.

    Parameters
    ----------
    passes : over all data, to be spent by each strategy
    ks : numbers of fold models

    Raises
    ------
    ValueError
        Too few passes: a member would get less than one.
    """
    third = passes // N_THIRDS
    if third < 1 or any(round(passes / (k - 1)) < 1 for k in ks):
        raise ValueError(f"ensemble_epochs={passes} is less than {max([N_THIRDS, *ks])} models can share. Raise it.")
    one = Member("one", third)
    cycles = [Member(f"cycle_{i}", third, i, start=f"cycle_{i - 1}" if i > 1 else "one") for i in range(1, N_THIRDS)]
    return {
        "one": [one],
        "long": [Member("long", passes)],
        "long_fresh": [Member("long_fresh", 0, of=("long",))],
        "seeds": [one, *(Member(f"seed_{i}", third, i) for i in range(1, N_THIRDS))],
        "snapshots": [one, *cycles],
        "swa": [Member("swa", 0, of=("one", *(cycle.name for cycle in cycles)))],
        **{
            f"folds_{k}": [Member(f"folds_{k}_{i}", round(passes / (k - 1)), k=k, part=i) for i in range(k)] for k in ks
        },
    }


@dataclass(frozen=True)
class Ensembles(datasets.Labelled):
    """Every member's scores of the outer folds.

    Attributes
    ----------
    clips : group, fold, labels; index fname, sorted: the clips of the outer folds of this run
    classes : in submission order
    fnames : (n_windows,) the clip of each window
    windows : strategy -> scores float64 (n_seeds, n_members, n_windows, n_classes)
    passes : strategy -> passes over all data, summed over its members
    n_folds : of the whole set
    withheld : a sentence about clips that train no member of an outer fold, as `folds.withheld`
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
        """Whether verdicts are drawn: with all outer folds and three seeds."""
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
        """Every strategy against one long training, and the pairs of RIVALS; best first."""
        averages = {name: self.average(name) for name in self.windows}
        return Comparison(self.clips, self.classes, averages, "long", self.decides, RIVALS, order="lwlrap")

    def table(self) -> pd.DataFrame:
        """The rows of the comparison.

        After `variant` (strategy): passes, n_members, single (mean lwlrap of a member), disagreement (share of clips
        for which two members put different classes first)
        """
        rows = []
        for name in self.windows:
            singles = self.singles(name)
            single = np.mean([metrics.lwlrap(self.targets, member) for seed in singles for member in seed])
            best = singles.argmax(-1)  # (n_seeds, n_members, n_clips)
            pairs = [(best[:, i] != best[:, j]).mean() for i, j in combinations(range(best.shape[1]), 2)]
            rows.append([name, self.passes[name], best.shape[1], single, np.mean(pairs) if pairs else 0.0])
        table = pd.DataFrame(rows, columns=["variant", "passes", "n_members", "single", "disagreement"])
        table = table.merge(self.comparison.table(), how="right", on="variant")
        return table.astype({"n_members": "Int64"})  # a pair has none


def members(run: Run) -> pd.DataFrame:
    """The plan of a run as a table, a row a member: strategy, member, epochs, share (of all data), passes."""
    rows = []
    for strategy, some in plan(run.params["ensemble_epochs"], run.params["ensemble_folds"]).items():
        for m in some:
            share = 1 - 1 / m.k if m.k else 1.0
            rows.append({"strategy": strategy, "member": m.name, "epochs": m.epochs, "share": round(share, 3)})
    table = pd.DataFrame(rows)
    return table.assign(passes=(table["epochs"] * table["share"]).round(1))


def train(run: Run, task: Task) -> Ensembles:
    """Train the members that are not done yet, for the outer folds and seeds of the run; read the others.

    Raises
    ------
    ValueError
        A fold in `folds` that does not exist; a number in `ensemble_folds` above that of the groups outside a fold;
        a member's folder that holds another configuration.
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
    sources = {name for m in todo.values() for name in (m.start, *m.of)}  # other members need their weights
    changes = {name: {"epochs": max(1, m.epochs)} for name, m in todo.items()}
    run.settle(**task.identity)

    def train(trial: Run, name: str, outer: int, seed: int) -> WindowScores:
        return _train(trial, todo[name], task, outer, keep_weights=name in sources)

    def is_whole(trial: Run, name: str, outer: int, seed: int) -> bool:
        return name not in sources or (trial.folder / WEIGHTS).is_file()

    keys = [(name, outer, seed) for outer in asked for seed in seeds for name in todo]
    done = trials.do(run, keys, train, changes=changes, is_whole=is_whole)
    scores = {key: scored.in_fold(key[1]) for key, _, scored in done}
    fnames = np.concatenate([scores["one", outer, seeds[0]].table["fname"].to_numpy(str) for outer in asked])
    by_strategy = {
        name: np.stack([np.stack([_joined(scores, m.name, asked, seed, fnames) for m in some]) for seed in seeds])
        for name, some in strategies.items()
    }
    clips = task.folds[task.folds["fold"].isin(asked)].merge(task.curated[["fname", "labels"]], on="fname")
    passes = members(run).groupby("strategy")["passes"].sum().to_dict()
    passes |= {name: float(run.params["ensemble_epochs"]) for name in ("long_fresh", "swa")}  # of their sources
    withheld = folds.withheld(task.folds, [folds.model_name(outer) for outer in asked])
    clips = clips.set_index("fname").sort_index()
    return Ensembles(clips, list(task.classes), fnames, by_strategy, passes, task.n_folds, withheld)


def combine(scores: np.ndarray, how: str) -> np.ndarray:
    """Average the scores of models.

    Parameters
    ----------
    scores : (n_models, ..., n_classes), in [0, 1]
    how : arithmetic, geometric or rank. rank: the mean rank of each class within its row, as a share of the classes;
        the arithmetic mean breaks ties.

    Returns
    -------
    (..., n_classes), in [0, 1]

    Raises
    ------
    ValueError
        `how` names no mean.
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


def orders(results: Ensembles, strategies: list[str]) -> pd.DataFrame:
    """Geometric and rank mean of the models, before or after the windows are pooled, against the arithmetic mean.

    Returns
    -------
    strategy, variant (mean and order), lwlrap, then as `metrics.compare_each` (Holm over the rows of a strategy)
    """
    tables = []
    for name in strategies:
        base, others = results.average(name), {}
        for how in MEANS[1:]:  # the arithmetic mean is the same before and after
            others[f"{how}, after pooling"] = np.stack([combine(seed, how) for seed in results.singles(name)])
            before = np.stack([combine(seed, how) for seed in results.windows[name]])
            others[f"{how}, before pooling"] = _pooled(results.fnames, before)
        pairs = {how: (base, other) for how, other in others.items()}
        rows = metrics.compare_each(results.targets, pairs, results.groups)
        reached = [np.mean([metrics.lwlrap(results.targets, seed) for seed in s]) for s in others.values()]
        tables.append(pd.DataFrame(rows).assign(strategy=name, lwlrap=reached))
    return comparisons.screened(pd.concat(tables, ignore_index=True), results.decides)


def parts(results: Ensembles) -> pd.DataFrame:
    """Where the gain of an ensemble over one of its members comes from: averaging, more data, more passes.

    A member of three has a third of the passes, as the model on all data that it is compared with. Members of other
    numbers have other passes, so what they lack is in data and passes together.

    Returns
    -------
    part, base, other (what is compared), then as `metrics.compare_each`. Members alone count by their mean in a seed.
    """
    single = {name: results.singles(name) for name in results.windows}
    folds_ = [name for name in single if name.startswith("folds_")]
    pairs = {}
    for name in [name for name in single if name in ("seeds", "snapshots", *folds_)]:
        pairs[f"averaging, {name}"] = ("a member", "their average", single[name], results.average(name))
    for name in folds_:
        one = "a model on all data, a third of the passes"
        part = "more data" if name == f"folds_{N_THIRDS}" else "data and passes"
        pairs[f"{part}, {name}"] = ("a member", one, single[name], single["seeds"])
    pairs["more passes"] = ("one", "long", results.average("one"), results.average("long"))
    rows = metrics.compare_each(results.targets, {part: pair[2:] for part, pair in pairs.items()}, results.groups)
    words = pd.DataFrame([(part, *pair[:2]) for part, pair in pairs.items()], columns=["part", "base", "other"])
    return comparisons.screened(words.join(pd.DataFrame(rows).drop(columns="variant")), results.decides)


def trained_on(run: Run, results: Ensembles) -> dict[tuple[str, int, int], list[str]]:
    """(member, outer fold, seed) -> the clips that it was trained on, from the manifests."""
    clips = {}
    for name in sorted(set(members(run)["member"])):
        for outer in sorted(results.clips["fold"].unique().tolist()):
            for seed in run.params["seeds"]:
                manifest = run.trial(name, folds.model_name(outer), seed).folder / "manifest.json"
                clips[name, outer, seed] = files.read_json(manifest)["clips"]["train"]
    return clips


def result_metrics(results: Ensembles, parts_: pd.DataFrame) -> dict[str, float]:
    """For `result.json`: scores of one long training, the difference of every strategy to it, and the parts."""
    return results.comparison.metrics() | comparisons.differences(
        parts_.set_index("part_" + parts_["part"].str.replace(",", ""))
    )


def verdict(results: Ensembles) -> str | None:
    """Fold models against one long training: kept or dropped if all are, else unclear; None if they are screened."""
    return results.comparison.verdict([name for name in results.windows if name.startswith("folds_")], every=True)


def conclusion(results: Ensembles, parts_: pd.DataFrame) -> str:
    """The conclusion in sentences, from the measured values."""
    n_seeds, scored = len(next(iter(results.windows.values()))), results.comparison.rows.dropna(subset="lwlrap")
    paragraphs = [
        f"On {len(results.clips)} clips of {results.clips['fold'].nunique()} of {results.n_folds} outer folds, "
        f"{n_seeds} seed(s), lwlrap: " + ", ".join(f"{r.variant} {r.lwlrap:.3f}" for r in scored.itertuples()) + ".",
        "Parts, a table of its own:",
        comparisons.answers(parts_, "part"),
        "Compared with one long training:",
        results.comparison.conclusion(),
        results.withheld,
    ]
    return "\n\n".join(filter(None, paragraphs))


def _train(trial: Run, member: Member, task: Task, outer: int, *, keep_weights: bool) -> WindowScores:
    """Train one member (or average weights) and score the outer fold."""
    network, cut, recipe = trial.pick(Network), trial.pick(Windows), trial.pick(learners.Recipe)
    seed = trial.params["seed"] + 1000 * member.shift
    place, beside = (folds.model_name(outer), trial.folder.name), trial.folder.parents[2]
    if member.of:
        sources = [models.load(beside.joinpath(name, *place, WEIGHTS))[0] for name in member.of]
        fit = _average(sources, task, outer, cut, recipe, seed)
    else:
        name = folds.model_name(outer, task.n_folds + member.part if member.k else -1)
        start = beside.joinpath(member.start, *place, WEIGHTS) if member.start else None
        parted = replace(task, folds=_parted(task, outer, member.k, trial.params["seed"])) if member.k else task
        how = {"checkpoint": trial.checkpoint, "start": start}
        fit = learners.train_fold(parted, name, network, cut, recipe, seed, **how)
    return trials.keep(trial, fit, outer, keep_weights=keep_weights)


def _average(some: list[WindowModel], task: Task, outer: int, cut: Windows, recipe: learners.Recipe, seed: int) -> Fit:
    """The mean of models' weights, with batch statistics of training windows; it scores the outer fold."""
    train, scored = task.split(outer)
    folds.assert_no_leak(task.folds, train["fname"], [outer])
    model = mean_weights(some).prepare()
    batches = learners.training_batches(task.cache, train, task.classes, cut, recipe, seed)
    torch.optim.swa_utils.update_bn((x for x, _ in batches), model, device=next(model.parameters()).device)
    scoring = task.scoring(scored, cut)
    (logits,) = models.score([model], task.cache, scoring.table, scoring.width)
    precision = str(model.precision).removeprefix("torch.")
    about = {"classes": task.classes, "recipe": recipe.settings(), "precision": precision}
    curve = pd.DataFrame(columns=["epoch", "lr", "train_loss", "valid_loss", "lwlrap"])
    return Fit(folds.model_name(outer), model, about, curve, scored, scoring.table, logits, train["fname"].tolist())


def mean_weights(some: list[WindowModel]) -> WindowModel:
    """The first model, with the mean of all models' weights; its counters stay."""
    states = [model.state_dict() for model in some]
    mean = {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }
    some[0].load_state_dict(mean)
    return some[0]


def _parted(task: Task, outer: int, k: int, seed: int) -> pd.DataFrame:
    """The folds table with all but the outer fold split into k parts, numbered after the last fold."""
    rest, _ = task.split(outer)
    targets = datasets.targets(rest, task.classes)
    table = folds.make(rest.drop(columns="fold"), targets, k, seed).assign(fold=lambda t: t["fold"] + task.n_folds)
    return pd.concat([task.folds[task.folds["fold"] == outer], table]).sort_values("fname", ignore_index=True)


def _joined(done: dict[tuple, WindowScores], name: str, asked: list[int], seed: int, fnames: np.ndarray) -> np.ndarray:
    """A member's window scores of all outer folds, (n_windows, n_classes); ValueError if they are of other windows."""
    whole = WindowScores.join(done[name, outer, seed] for outer in asked)
    if not np.array_equal(whole.table["fname"].to_numpy(str), fnames):
        raise ValueError(f"{name} scored other windows than the first member. Train it again (-p overwrite True).")
    return whole.scores


def _pooled(fnames: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(..., n_windows, n_classes) -> (..., n_clips, n_classes), clips sorted by fname."""
    flat = scores.reshape(-1, *scores.shape[-2:])
    pooled = np.stack([pool_mean(fnames, one)[1] for one in flat])
    return pooled.reshape(*scores.shape[:-2], *pooled.shape[1:])
