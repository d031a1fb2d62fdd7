"""Sweeps: a base recipe and variants that change one thing each, on the same clips, folds and seeds.

Conventions
-----------
A table maps the name of a variant to the parameters that it changes; `base` changes none. A trial is one training of a
variant, for one fold and one seed. Its result is in <notebook>/<variant>/without_<fold>/seed_<seed>; a trial that is
done is never trained again.
Equal compute: a trial has `trial_epochs` epochs of the base, scaled by what `compute` keeps equal.
Comparisons are paired over clips, groups and seeds, on pooled out-of-fold scores of the last epoch; verdicts by Holm.

Used in: 02, 03.
"""

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from time import process_time
from timeit import repeat

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lib import files, ideas
from lib.data import audio, datasets
from lib.evaluation import folds, metrics
from lib.evaluation.comparisons import Comparison
from lib.evaluation.window_scores import WindowScores
from lib.experiments import compute, trials
from lib.runs.run import Run
from lib.sound import cache as caches
from lib.sound import windows
from lib.sound.features import LogMel
from lib.sound.windows import Windows
from lib.training import augment, learners
from lib.training.batches import N_MASKS, image_pixels
from lib.training.models import Network, WindowModel
from lib.training.task import Task

__all__ = ["Trials", "augmentation", "augmented", "channels", "costs", "features", "find_lr", "learning_rates"]
__all__ += ["networks", "select", "train"]

SILENCE_DB = 40.0  # dB below the loudest frame: quieter frames at either end are trimmed
RIVALS = {"progressive_224": "fixed_224"}  # an extra comparison: the final input size is the same
NEAR = 0.9  # share of the lwlrap at the end
N_RESAMPLES = 2000
LONGER = "+longer"  # an extra comparison: a variant with three times the budget against the base with the same
NETWORKS = {
    "regnetx_002": "regnetx_002",
    "resnet10t": "resnet10t",
    "resnet18d": "resnet18d",
    "mobilenetv3_small": "mobilenetv3_small_100",
    "mobilenetv4_small": "mobilenetv4_conv_small",
    "efficientnetv2_b0": "tf_efficientnetv2_b0",
    "cnn": "cnn10_16",  # a network made for audio
    "cnn_wide": "cnn10_32",
    "cnn_deep": "cnn12_16",
    "whole_stem": "ideas/whole_stem.py:resnet10",  # no band is strided away before the first block
}
BALANCING = ("by_seconds", "by_effective_number", "augment_rare")  # also compared class by class
TRAININGS = ["variant", "fold", "seed", "epochs", "seconds", "train_s", "images_per_s", "problem"]
CURVE = ["variant", "model", "epoch", "lr", "train_loss", "valid_loss", "lwlrap"]

Table = dict[str, dict[str, object]]


def features(base: dict[str, object]) -> Table:
    """The variants of 02: features and windows.

    Parameters
    ----------
    base : parameters of the base. A variant that would change nothing is left out, and so is one whose features they
        don't allow, such as more mel bands than n_fft has bins for.
    """
    n_fft, n_mels = base["n_fft"], base["n_mels"]
    table = {
        "base": {},
        "delta": {"channels": ["logmel", "delta", "acceleration"]},
        "several_n_fft": {"channels": ["logmel", f"logmel_{n_fft // 2}", f"logmel_{2 * n_fft}"]},
        "phase": {"channels": ["logmel", "delta", "phase"]},
        "pcen": {"channels": ["pcen"]},
        "half_mels": {"n_mels": n_mels // 2},
        "double_mels": {"n_mels": 2 * n_mels},
        **{f"window_{s}s": {"window_s": float(s), "hop_s": min(base["hop_s"], s / 2)} for s in (1, 1.5, 2, 3, 4)},
        "trim_train": {"trim_train_db": SILENCE_DB},
        "trim_inference": {"trim_inference_db": SILENCE_DB},
        "trim_both": {"trim_train_db": SILENCE_DB, "trim_inference_db": SILENCE_DB},
        "normalise_band": {"normalise": "band"},
        "normalise_window": {"normalise": "window"},
    }
    return _changing(table, base)


def networks(base: dict[str, object]) -> Table:
    """The networks of 02, and `longer`, three times the budget: resnet18d+longer. They are trained if they are named.

    Compare them at equal seconds (`compute`), as a pixel costs more in one than in another.
    """
    table = {name: {"arch": arch} for name, arch in NETWORKS.items()}
    return _changing({**table, "longer": {"trial_epochs": 3 * base["trial_epochs"]}}, base)


def augmentation(base: dict[str, object]) -> Table:
    """The variants of 03: augmentation, sampling, input size and learning rate; `base` as in `features`."""
    table = {
        "base": {},
        # SpecAugment
        "no_masks": {"mask_share": 0.0},
        "wide_masks": {"mask_share": 0.33},
        # two clips at once
        "no_mixup": {"mixup": 0.0},
        "mixup_alpha_1": {"mixup": 1.0},
        "mixup_power": {"mix": "mixup_power"},
        **{name: {"mix": f"ideas/mixes.py:{name}"} for name in ("mixup_or", "mixup_or_bounded", "cutmix", "overlay")},
        "between_class": {"mix": "ideas/between_class.py:between_class", "mixup": 1.0},
        # another recording of the same sound
        **{name: {"augment": [name]} for name in ("gain", "shift_wrap", "shift_pad", "equaliser", "stretch")},
        "recording": {"augment": ["equaliser", "gain", "stretch"]},
        "no_augment": {"augment": []},
        "lowpass": {"augment": ["ideas/lowpass.py:lowpass"]},
        # seconds of audio per class
        "by_seconds": {"balance": "seconds"},
        "by_effective_number": {"balance": "effective"},
        "augment_rare": {"balance": "augment"},
        # size of the input
        "fixed_224": {"image_size": 224},
        "progressive_224": {"image_size": 224, "progressive": [64, 128]},
        # learning rate: slices as fastai writes them, first layers to last
        "slice_reversed": {"lr_body": 0.1, "lr": 0.01},
        "slice": {"lr_body": 0.01, "lr": 0.1},
        "flat": {"schedule": "flat"},
        "flat_cosine": {"schedule": "flat_cosine"},
    }
    return _changing(table, base)


def select(table: Table, names: list[str], more: Table | None = None) -> Table:
    """The named variants, in that order; the whole table if no names are given.

    Parameters
    ----------
    table : of this notebook
    names : of variants; `a+b` makes the changes of both, to train winners together
    more : the table of another notebook, whose variants may be named too

    Raises
    ------
    ValueError
        A name that is in neither table; the message lists those that are.
    """
    known = {**table, **(more or {})}
    unknown = [name for name in names if not set(name.split("+")) <= set(known)]
    if unknown:
        raise ValueError(
            f"variants={unknown} are not in the table of this experiment: {', '.join(known)}. Variants that "
            "equal the base are left out, and so are those that its n_fft, hop_length and n_mels can't make."
        )
    if not names:
        return table
    return {name: {k: v for part in name.split("+") for k, v in known[part].items()} for name in names}


# --- before training: what variants look like and what they cost -----------------------------------------------------


def costs(table: Table, run: Run, clips: pd.DataFrame) -> pd.DataFrame:
    """What the features of each variant cost.

    Parameters
    ----------
    clips : a few clips to compute on, with `path`

    Returns
    -------
    variant, times_base (processor time over that of the base), bytes_per_s (in the cache, per second of audio), pixels
    (of a training input)
    """
    samples = [audio.read(path, run.params["sample_rate"]) for path in clips["path"]]
    rows, timed = [], {}
    for name, changes in {"base": {}, **table}.items():
        trial = run.trial(name, "", 0, **changes)
        logmel = trial.pick(LogMel)
        if logmel not in timed:
            timed[logmel] = _seconds(logmel, samples)
        size = logmel.n_channels * logmel.n_mels * 2 * logmel.frames_per_s
        rows.append([name, timed[logmel], round(size), round(image_pixels(trial.params))])
    table = pd.DataFrame(rows, columns=["variant", "times_base", "bytes_per_s", "pixels"])
    return table.assign(times_base=(table["times_base"] / table["times_base"].iloc[0]).round(2))


def channels(table: Table, run: Run, samples: np.ndarray) -> dict[str, np.ndarray]:
    """Every channel that the base or a variant of `table` uses, of one clip, with the settings of its first user.

    Parameters
    ----------
    samples : (n_samples,), at the run's sample rate

    Returns
    -------
    name -> (n_mels, n_frames)
    """
    arrays = {}
    for name, changes in {"base": {}, **table}.items():
        logmel = run.trial(name, "", 0, **changes).pick(LogMel)
        for channel, array in zip(logmel.channels, logmel(samples).numpy(), strict=True):
            arrays.setdefault(channel, array)
    return arrays


def augmented(store: caches.Cache, fnames: list[str], run: Run) -> dict[str, np.ndarray]:
    """A clip's loudest window: unchanged, after every augmentation of 03, and mixed with a window of another clip.

    Parameters
    ----------
    fnames : two clips

    Returns
    -------
    name -> (n_mels, n_frames) of the first channel, dB
    """
    rows, width = store.rows(fnames), run.pick(Windows).n_frames(store.logmel)
    loudest = [int(store.frames(row)[:, 0].float().mean(dim=1).argmax()) for row in rows.itertuples()]
    slack = rows["n_frames"].to_numpy() - width
    starts = np.clip(np.array(loudest) - width // 3, np.minimum(slack, 0), np.maximum(slack, 0))
    x = windows.batch(store, rows, starts, width)
    in_db, generator = store.logmel.in_db, torch.Generator().manual_seed(run.params["seed"])
    shown = {"as it is": x[0], "another clip": x[1]}
    shown |= {name: change(x, in_db, generator)[0] for name, change in augment.AUGMENTATIONS.items()}
    shown["masks"] = augment.spec_augment(x, N_MASKS, run.params["mask_share"] or 0.15, generator)[0]
    powers = augment.to_power(x, in_db).mean(dim=0, keepdim=True)
    shown["mixup, half and half"] = x.mean(dim=0)
    shown["mixup of powers"] = augment.from_power(powers, in_db)[0]
    shown["overlay"] = augment.add_powers(x[:1], x[1:], in_db)[0]
    return {name: window[0].numpy() for name, window in shown.items()}


def learning_rates(table: Table, run: Run) -> pd.DataFrame:
    """The parameter groups and their peak learning rates, as the optimiser has them.

    Returns
    -------
    A row a group: group, first_layer, last_layer, n_parameters, then a column of learning rates for the base and each
    variant of `table` that changes them
    """
    rates = {}
    for name, changes in {"base": {}, **table}.items():
        if name == "base" or {"lr", "lr_body"} & set(changes):
            trial = run.trial(name, "", 0, **changes, epochs=1)
            logmel, n_channels = trial.pick(LogMel), len(trial.params["channels"])
            network = replace(trial.pick(Network), normalise="set")  # the same layers, without statistics of bands
            shape = logmel.n_mels, trial.pick(Windows).n_frames(logmel)
            model = WindowModel(network, 2, [0.0] * n_channels, [1.0] * n_channels, shape)
            groups = learners.groups(model, trial.pick(learners.Recipe))
            rates[name] = groups["lr"]
    return groups.drop(columns="lr").assign(**rates)


def find_lr(run: Run, task: Task) -> pd.DataFrame:
    """`learners.find_lr` for the base, on the clips outside the first fold of the run."""
    trial = run.trial("base", "", run.params["seed"], epochs=1)
    train, _ = task.split(task.asked(run.params["folds"])[0])
    cut, recipe = trial.pick(Windows), trial.pick(learners.Recipe)
    training = learners.training_batches(task.cache, train, task.classes, cut, recipe, run.params["seed"])
    return learners.find_lr(trial.pick(Network), recipe, training)


# --- trials ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trials(datasets.Labelled):
    """The results of all trials, on the clips of the folds of the run.

    Attributes
    ----------
    clips : fname, group, fold, labels (tuples): the clips that every trial scored
    classes : in submission order
    scores : variant -> float64 (n_seeds, n_clips, n_classes), in the order of clips
    trainings : a row a trial: variant, fold, seed, epochs, seconds, train_s, images_per_s, problem (why it has no
        scores, or "")
    curves : variant, model (fold and seed), epoch, lr, train_loss, valid_loss, lwlrap
    n_folds : of the whole set; a verdict needs all of them
    withheld : a sentence about clips that some models could not train on, as `folds.withheld`
    compute : what is equal to the base in each trial: pixels, windows or seconds
    pace : variant -> seconds a window, measured beside the base (`compute.seconds`)
    """

    clips: pd.DataFrame
    classes: list[str]
    scores: dict[str, np.ndarray]
    trainings: pd.DataFrame
    curves: pd.DataFrame
    n_folds: int
    withheld: str = ""
    compute: str = "pixels"
    pace: dict[str, float] = field(default_factory=dict)

    @cached_property
    def comparison(self) -> Comparison:
        """Every variant against the base, and the pairs of RIVALS; rounded to four digits."""
        enough = self.trainings["fold"].nunique() == self.n_folds
        failed = self.trainings.loc[self.trainings["problem"] != "", "variant"].unique().tolist()
        longer = {name: LONGER[1:] for name in self.scores if name.endswith(LONGER)}
        how = {"rivals": RIVALS | longer, "failed": failed, "decimals": 4}
        return Comparison(self.clips, self.classes, self.scores, "base", enough, **how)

    def table(self) -> pd.DataFrame:
        """The rows of the comparison, and the column `epochs` (of a trial)."""
        epochs = self.trainings.drop_duplicates("variant").set_index("variant")["epochs"]
        table = self.comparison.table()
        return table.assign(epochs=table["variant"].str.split(" ").str[0].map(epochs))

    def speed(self) -> pd.DataFrame:
        """Medians over the trials of each variant.

        Returns
        -------
        variant, seconds (with scoring), train_s (s of training alone), images_per_s (training windows). train_s is
        computed from `pace` where there is one, since trials run at different times on a machine that may be busy
        """
        columns = ["seconds", "train_s", "images_per_s"]
        table = self.trainings.groupby("variant", sort=False)[columns].median().reset_index()
        alike = table["train_s"] * table["images_per_s"] * table["variant"].map(self.pace)
        return table.assign(train_s=alike.fillna(table["train_s"])).round(1)

    def convergence(self) -> pd.DataFrame:
        """How soon does each variant reach NEAR of the lwlrap that it ends with, over windows of the held-out fold?

        Returns
        -------
        A row a variant: variant, epochs_to_near (mean over its models), diff, diff_low, diff_high: epochs more than the
        base takes, model by model, and a 95 % interval that resamples models (fold and seed); NaN with fewer than two
        or without a base. It is as fine as the validated epochs, at most 20 of a training.
        """
        curves = self.curves.dropna(subset="lwlrap").sort_values("epoch")
        last = curves.groupby(["variant", "model"])["lwlrap"].transform("last")
        near = curves[curves["lwlrap"] >= NEAR * last].groupby(["variant", "model"])["epoch"].min().add(1).unstack(0)
        rows, rng = [], np.random.default_rng(0)
        for name in near:
            diff = near[name].sub(near.get("base")).dropna().to_numpy() if "base" in near else np.array([])
            found = [np.nan] * 3
            if name != "base" and len(diff) > 1:
                means = rng.choice(diff, (N_RESAMPLES, len(diff))).mean(axis=1)
                found = [diff.mean(), *np.quantile(means, [0.025, 0.975])]
            rows.append([name, near[name].mean(), *found])
        return pd.DataFrame(rows, columns=["variant", "epochs_to_near", "diff", "diff_low", "diff_high"]).round(2)

    def by_class(self, seconds: pd.Series) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Which classes do the variants that balance seconds of audio help?

        Parameters
        ----------
        seconds : s of training audio, index the classes

        Returns
        -------
        A row a variant and class, sorted by seconds: variant, class, seconds, n, base, other, diff, diff_low, diff_high
        (95 %, each class on its own). And a row a variant: slope, slope_low, slope_high: by how much the difference
        changes when seconds double.
        """
        amount = seconds.reindex(self.classes).to_numpy(float)
        doublings = np.log2(np.maximum(amount, 1e-3))
        tables, slopes = [], []
        for name in [name for name in BALANCING if {name, "base"} <= self.scores.keys()]:
            sides = self.scores["base"], self.scores[name]
            columns, slope = metrics.compare_classes(self.targets, *sides, self.groups, doublings)
            table = pd.DataFrame({"variant": name, "class": self.classes, "seconds": amount.round(1), **columns})
            tables.append(table.sort_values("seconds", ignore_index=True))
            slopes.append({"variant": name, **slope})
        table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["variant"])
        return table, pd.DataFrame(slopes)

    def conclusion(self) -> str:
        """The conclusion in sentences, from the measured values."""
        n_seeds, n_folds = self.trainings["seed"].nunique(), self.trainings["fold"].nunique()
        head = f"Difference in lwlrap to the base on {len(self.clips)} clips, {n_seeds} seed(s), "
        head += f"{n_folds} of {self.n_folds} folds, at equal {self.compute}. "
        if failed := (self.trainings["problem"] != "").sum():
            head += f"{failed} of {len(self.trainings)} trainings diverged or failed. "
        differences = self.comparison.conclusion() or "Nothing to compare: this takes the base and another variant."
        return "\n\n".join(filter(None, [head.rstrip(), differences, self.withheld]))


def train(run: Run, table: Table, task: Task) -> Trials:
    """Train the trials (variants x folds x seeds) that are not done yet, and read the others.

    Parameters
    ----------
    run : its parameters are those of the base; `folds` and `seeds` among them select the trials
    table : the variants, from `select`
    task : of the curated clips, with the base's log-mels

    Raises
    ------
    ValueError
        A fold in `folds` that does not exist, or a variant's folder that holds another configuration.
    """
    asked = task.asked(run.params["folds"])
    run.settle(**task.identity)
    tasks = {task.cache.logmel: task}

    def task_of(trial: Run) -> Task:
        if (logmel := trial.pick(LogMel)) not in tasks:
            tasks[logmel] = replace(task, cache=caches.build(task.curated, logmel, run.cache))
        return tasks[logmel]

    epochs = compute.epochs(run, table, task_of)
    changes = {name: {**own, "epochs": epochs[name]} for name, own in table.items()}

    def train(trial: Run, name: str, fold: int, seed: int) -> WindowScores | None:
        return _train(trial, task_of(trial), fold)

    trainings, curves, scores, seeds = [], [], {}, sorted(run.params["seeds"])
    keys = [(name, fold, seed) for name in table for fold in asked for seed in seeds]
    for (name, fold, seed), trial, scored in trials.do(run, keys, train, changes=changes):
        trainings.append([name, fold, seed, *_facts(trial)])
        if scored is not None:
            curve = pd.read_csv(trial.folder / "epochs.csv")
            curves.append(curve.assign(variant=name, model=f"without_{fold} seed_{seed}"))
            fnames, pooled = scored.pool_mean()
            scores[name, fold, seed] = pd.DataFrame(pooled, fnames)
    trainings = pd.DataFrame(trainings, columns=TRAININGS)
    clips = task.split(*{fold for _, fold, _ in scores})[1].reset_index(drop=True)
    withheld = folds.withheld(task.folds, [folds.model_name(fold) for fold in asked])
    how = {"compute": run.params["compute"], "pace": compute.seconds(run, table)}
    curve = pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=CURVE)
    failed = set(trainings.loc[trainings["problem"] != "", "variant"])
    whole = {
        name: np.stack([pd.concat([scores[name, f, seed] for f in asked]).loc[clips["fname"]] for seed in seeds])
        for name in table
        if name not in failed
    }
    return Trials(clips, list(task.classes), whole, trainings, curve, task.n_folds, withheld, **how)


def _changing(table: Table, base: dict[str, object]) -> Table:
    """The table without variants that equal the base, and without those whose features its settings don't allow."""
    return {name: changes for name, changes in table.items() if name == "base" or _is_variant(base, changes)}


def _is_variant(base: dict[str, object], changes: dict[str, object]) -> bool:
    """Whether the changes change anything, and to features that are possible."""
    params = {**base, **changes}
    try:
        LogMel(**{field.name: params[field.name] for field in fields(LogMel) if field.name in params})
    except ValueError:
        return False
    return params != base


def _train(trial: Run, task: Task, fold: int) -> WindowScores | None:
    """Train one trial; None where the loss diverges (a result too) or an idea fails."""
    settings = trial.pick(Network), trial.pick(Windows), trial.pick(learners.Recipe), trial.params["seed"]
    try:
        fit = learners.train_fold(task, folds.model_name(fold), *settings, checkpoint=trial.checkpoint)
    except learners.Diverged as error:
        trial.finish({}, "failed", str(error))
        return None
    except ideas.Failed as error:  # not finished: the next call trains it again
        tqdm.write(f"{trial.folder.name} of {trial.variant.name} failed, the others go on. {error}")
        return None
    return trials.keep(trial, fit, fold)


def _facts(trial: Run) -> list[object]:
    """epochs, seconds, train_s, images_per_s and problem of a trial that is done or failed."""
    if not trial.done:
        failed = (trial.folder / "failed.txt").read_text(encoding="utf-8").strip().splitlines()
        return [trial.params["epochs"], np.nan, np.nan, np.nan, failed[-1]]
    result, manifest = (files.read_json(trial.folder / f"{name}.json") for name in ("result", "manifest"))
    problem = (result.get("conclusion") or result["says"]) if result["verdict"] == "failed" else ""
    epochs, pace = result["parameters"]["epochs"], manifest.get("images_per_s") or np.nan
    train_s = epochs * len(manifest.get("clips", {}).get("train", [])) / pace
    return [epochs, manifest["seconds"], train_s, pace, problem]


def _seconds(logmel: LogMel, clips: list[np.ndarray]) -> float:
    """Processor time of the fastest of three passes over the clips, s."""
    return min(repeat(lambda: [logmel(samples) for samples in clips], timer=process_time, number=1, repeat=3))
