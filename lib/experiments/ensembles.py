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

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from tqdm import tqdm

from lib import files
from lib.clips import pooling
from lib.data import datasets
from lib.evaluation import comparisons, folds, metrics
from lib.evaluation.comparisons import Comparison
from lib.runs import oof
from lib.runs.run import Run, already
from lib.sound import windows
from lib.sound.cache import Cache
from lib.sound.windows import Windows
from lib.training import learners, models
from lib.training.models import Network, WindowModel

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


def train(run: Run, cache: Cache, curated: pd.DataFrame, classes: list[str], dealt: pd.DataFrame) -> Ensembles:
    """Train the members that are not done yet, for the outer folds and seeds of the run, and read all of them.

    Parameters
    ----------
    curated : table of the clips (fname, group, labels), sorted by fname
    dealt : fname, group, fold

    Raises
    ------
    ValueError
        A fold is asked for that there is not, `ensemble_folds` that are more than the groups, or a member's folder
        that holds another configuration.
    """
    n_folds = dealt["fold"].nunique()
    asked = run.params["folds"] or list(range(n_folds))
    for outer in asked:
        folds.check_fold(outer, -1, n_folds)
        n_groups = dealt.loc[folds.training(dealt, [outer]), "group"].nunique()
        if max(run.params["ensemble_folds"], default=0) > n_groups:
            raise ValueError(
                f"ensemble_folds={run.params['ensemble_folds']}: the {n_groups} groups outside fold {outer} can't fill "
                f"that many parts. Take numbers up to {n_groups}."
            )
    strategies = plan(run.params["ensemble_epochs"], run.params["ensemble_folds"])
    todo = {m.name: m for some in strategies.values() for m in some}.values()
    run.settle(labels=datasets.label_digests(curated, classes), audio=cache.audio, folds=folds.digest(dealt))
    read, done = {}, []
    trials = [(m, outer, seed) for outer in asked for seed in run.params["seeds"] for m in todo]
    for m, outer, seed in tqdm(trials, desc="members", unit="model"):
        trial = run.trial(m.name, folds.model_name(outer), seed, epochs=max(1, m.epochs))
        trial.settle(**run.read)
        if not trial.done or (m.kept and not (trial.folder / WEIGHTS).is_file()):
            _train(trial, m, cache, curated, classes, _dealt(curated, classes, dealt, outer, m.k, seed), outer, n_folds)
        else:
            done.append(trial)
        found = oof.read_windows(trial.folder)
        here = found["fold"] == outer
        read[m.name, outer, seed] = found["fname"][here], models.activate(found["logits"][here], run.params["loss"])
    if done:
        tqdm.write(already(done))
    fnames = np.concatenate([read["one", outer, run.params["seeds"][0]][0] for outer in asked])
    shown = {
        name: np.stack(
            [np.stack([_joined(read, m.name, asked, seed, fnames) for m in some]) for seed in run.params["seeds"]]
        )
        for name, some in strategies.items()
    }
    table = dealt[dealt["fold"].isin(asked)].merge(curated[["fname", "labels"]], on="fname").set_index("fname")
    passes = members(run).groupby("strategy")["passes"].sum().to_dict()
    passes |= {name: float(run.params["ensemble_epochs"]) for name in ("long_fresh", "swa")}  # of what they are made of
    withheld = folds.withheld(dealt, [folds.model_name(outer) for outer in asked])
    return Ensembles(table.sort_index(), classes, fnames, shown, passes, n_folds, withheld)


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


def _train(
    trial: Run,
    member: Member,
    cache: Cache,
    curated: pd.DataFrame,
    classes: list[str],
    dealt: pd.DataFrame,
    outer: int,
    n_folds: int,
) -> None:
    """Train one member and score what it did not see."""
    network, cut, recipe = trial.pick(Network), trial.pick(Windows), trial.pick(learners.Recipe)
    seed = trial.params["seed"] + 1000 * member.shift
    beside = trial.folder.parents[2]
    place = (folds.model_name(outer), trial.folder.name)
    if member.of:
        weights = [beside.joinpath(name, *place, WEIGHTS) for name in member.of]
        fit = _average_weights(trial, weights, cache, curated, classes, dealt, outer, cut, recipe, seed)
    else:
        model = folds.model_name(outer, n_folds + member.part if member.k else -1)
        start = beside.joinpath(member.start, *place, WEIGHTS) if member.start else None
        some = (trial.folder, model, cache, curated, classes, dealt, network, cut, recipe, seed)
        fit = learners.train_fold(*some, keep_weights=member.kept, start=start)
    clips = oof.read(trial.folder, 1)
    here = (clips.table["fold"] == outer).to_numpy()
    found = metrics.bootstrap(clips.targets[here], clips.scores[here], clips.groups[here])
    fit.pop("images_per_s", None)
    trial.finish(found, "measured", f"lwlrap {found['lwlrap']:.3f} on {found['n']} clips.", again=True, clips=fit)


def _average_weights(
    trial: Run,
    weights: list,
    cache: Cache,
    curated: pd.DataFrame,
    classes: list[str],
    dealt: pd.DataFrame,
    outer: int,
    cut: Windows,
    recipe: learners.Recipe,
    seed: int,
) -> dict:
    """The mean of some weights, its batch statistics taken anew from training windows; scores of the outer fold."""
    parts_ = dealt[folds.training(dealt, [outer])], dealt[dealt["fold"] == outer]
    train, scored = (part.merge(curated[["fname", "labels"]], on="fname") for part in parts_)
    folds.assert_no_leak(dealt, train["fname"], [outer])
    model = mean_weights([models.load(path)[0] for path in weights]).prepare()
    batches = learners.training_batches(cache, train, classes, cut, recipe, seed)
    torch.optim.swa_utils.update_bn((x for x, _ in batches), model, device=next(model.parameters()).device)
    table = windows.rolling(cache, cache.rows(scored["fname"]), cut).merge(scored, on="fname")
    logits = models.score(model, cache, table, cut.n_frames(cache.logmel))
    oof.write(trial.folder, table, logits, scored, classes, recipe.loss)
    with files.whole_file(trial.folder / "epochs.csv") as partial:
        pd.DataFrame(columns=["epoch", "lr", "train_loss", "valid_loss", "lwlrap"]).to_csv(partial, index=False)
    return {"train": train["fname"].tolist(), "scored": scored["fname"].tolist()}


def mean_weights(some: list[WindowModel]) -> WindowModel:
    """The first model with the mean of all models' weights; counters stay the first's."""
    states = [model.state_dict() for model in some]
    mean = {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }
    some[0].load_state_dict(mean)
    return some[0]


def _dealt(
    curated: pd.DataFrame, classes: list[str], dealt: pd.DataFrame, outer: int, k: int, seed: int
) -> pd.DataFrame:
    """The folds table, all but the outer fold dealt anew to k parts, numbered on from the last fold."""
    if not k:
        return dealt
    n_folds = dealt["fold"].nunique()
    rest = curated[curated["fname"].isin(dealt.loc[folds.training(dealt, [outer]), "fname"])]
    rest = rest.drop(columns="fold", errors="ignore")
    table = folds.make(rest, datasets.targets(rest, classes), k, seed).assign(fold=lambda t: t["fold"] + n_folds)
    return pd.concat([dealt[dealt["fold"] == outer], table]).sort_values("fname", ignore_index=True)


def _joined(read: dict, name: str, asked: list[int], seed: int, fnames: np.ndarray) -> np.ndarray:
    """A member's window scores over all outer folds; the windows must be those of all others."""
    parts_ = [read[name, outer, seed] for outer in asked]
    if not np.array_equal(np.concatenate([part[0] for part in parts_]), fnames):
        raise ValueError(f"{name} scored other windows than the first member. Train it anew (-p overwrite True).")
    return np.concatenate([part[1] for part in parts_])


def _pooled(fnames: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(..., n_windows, n_classes) -> (..., n_clips, n_classes), clips sorted by fname."""
    flat = scores.reshape(-1, *scores.shape[-2:])
    pooled = np.stack([pooling.pool_mean(fnames, one)[1] for one in flat])
    return pooled.reshape(*scores.shape[:-2], *pooled.shape[1:])
