"""Batches for a network: random windows to train on, inference windows to score.

Conventions
-----------
A batch is (x, targets): float32 (n, n_channels, n_mels, n_frames), units as in `features`, and (n, n_classes).
targets : 0/1, NaN where it is not known whether the class is present.
An epoch shows as many windows as there are training clips: one of each, unless clips are drawn by weight. Batches
differ in size by at most one; none is dropped.
Everything random in an epoch is drawn from (seed, epoch) alone, before its first batch and on the device that holds
the frames: a batch is a gather and its changes. Scoring windows are never augmented.

Used in: `learners`, `task`, `training_sets`, `leaks`; balancing is compared in 03.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from lib import ideas, settings
from lib.sound import windows
from lib.sound.cache import Cache
from lib.training.augment import AUGMENTATIONS, Draws, spec_augment
from lib.training.models import SCORING_BATCH

__all__ = ["Images", "Phases", "Scoring", "Training", "TrainingSet", "draw_weights", "image_pixels", "mask_strengths"]

N_MASKS = 2  # SpecAugment masks along each axis
WIDEST_MASK = 0.9  # share of an axis, however little audio a class has
DRAWN = ("seconds", "effective")  # clips are drawn with replacement
BETA = 0.99  # of the effective number: a class counts for at most 1 / (1 - BETA) = 100 windows


@dataclass(frozen=True)
class TrainingSet:
    """Clips to train on, or spans of them.

    Attributes
    ----------
    name : for the sidecar
    rows : rows of `Cache.index`, a row a span, narrowed to it
    targets : float32 (n_clips, n_classes), a row a clip in the order in which they first appear in rows
    groups : fname -> group
    judges : fname, judged_by; empty where nothing was judged
    warm_up : training set of an earlier phase, or None
    share : of the windows that equal compute would show
    """

    name: str
    rows: pd.DataFrame
    targets: np.ndarray
    groups: dict[str, str]
    judges: pd.DataFrame
    warm_up: "TrainingSet | None" = None
    share: float = 1.0

    @property
    def phases(self) -> list["TrainingSet"]:
        """What is trained on, in order: the warm-up, if there is one, and this set."""
        return [self] if self.warm_up is None else [self.warm_up, self]

    @property
    def provenance(self) -> tuple[list[str], dict[str, str], pd.DataFrame]:
        """fnames, groups and judges of all that is trained on, for `folds.assert_no_leak`."""
        fnames = [fname for part in self.phases for fname in part.rows["fname"].unique()]
        groups = {fname: group for part in self.phases for fname, group in part.groups.items()}
        return fnames, groups, pd.concat([part.judges for part in self.phases], ignore_index=True)

    def __add__(self, other: "TrainingSet") -> "TrainingSet":
        """Both at once; no clip may be in both."""
        return replace(
            self,
            rows=pd.concat([self.rows, other.rows], ignore_index=True),
            targets=np.concatenate([self.targets, other.targets]),
            groups=self.groups | other.groups,
            judges=pd.concat([self.judges, other.judges], ignore_index=True),
        )


class Training:
    """Batches of random windows, one a clip, augmented; the same for the same (seed, epoch).

    Parameters
    ----------
    rows : index rows of the training clips (`Cache.rows`). A clip may have several, its spans: each epoch draws one of
        them, in proportion to its frames
    targets : float32 (n_clips, n_classes), a row a clip, in the order in which the clips first appear in `rows`
    width : frames of a window
    recipe : its batch_size (windows; what is over is shared out among the batches), mask_share (SpecAugment, widest
        mask as a share of its axis; 0: off), augment (names in `augment.AUGMENTATIONS`, or of ideas, done in this
        order; the masks come last) and balance: clip (every clip once an epoch), seconds, effective (see
        `draw_weights`: clips drawn with replacement) or augment (every clip once, masked the more the less audio its
        class has: `mask_strengths`)
    seed : of all epochs; the caller sets `epoch` before each

    Raises
    ------
    ValueError
        If targets are not a row a clip.
    """

    def __init__(
        self, cache: Cache, rows: pd.DataFrame, targets: np.ndarray, width: int, recipe: settings.Training, seed: int
    ) -> None:
        clip, self.fnames = pd.factorize(rows["fname"])
        if len(targets) != len(self.fnames):
            raise ValueError(
                f"{len(targets)} rows of targets for {len(self.fnames)} clips. Give a row a clip, not a row a span."
            )
        self.cache, self.targets, self.width = cache, torch.from_numpy(targets), width
        self.rows = rows.iloc[np.argsort(clip, kind="stable")]  # the spans of a clip one after the other
        self.device: torch.device | None = None  # of the batches; None: where the frames lie
        self.n_frames = np.bincount(clip, rows["n_frames"]).astype(int)  # of each clip
        self.recipe, self.seed, self.epoch = recipe, seed, 0
        self.augment = [ideas.find(AUGMENTATIONS, name) for name in recipe.augment]
        seconds, window_s = self.n_frames / cache.logmel.frames_per_s, width / cache.logmel.frames_per_s
        self.weights = draw_weights(seconds, targets, recipe.balance, window_s)
        self.masks = mask_strengths(seconds, targets, recipe.balance, recipe.mask_share)

    def __len__(self) -> int:
        return max(1, math.ceil(len(self.fnames) / self.recipe.batch_size - 0.5))  # halves down: no batch of one

    @property
    def n_windows(self) -> int:
        """Of an epoch."""
        return len(self.fnames)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        cache, device = self.cache, self.device or self.cache.device
        clips, rows = self._drawn(rng)
        order = rng.permutation(len(clips))
        clips, rows = clips[order], rows.iloc[order]
        at = windows.places(cache, rows, windows.random_starts(rows["n_frames"].to_numpy(), self.width, rng))
        targets, masks = self.targets[clips].to(device), torch.from_numpy(self.masks[clips]).float().to(device)
        draws = Draws(device, int(rng.integers(2**62)), len(clips))
        ends = np.cumsum([len(part) for part in np.array_split(order, len(self))]).tolist()
        batches = [slice(first, end) for first, end in zip([0, *ends], ends, strict=False)]
        gathered = (windows.gather(cache, {k: v[chosen] for k, v in at.items()}, self.width) for chosen in batches)
        for chosen, x in zip(
            batches, gathered if device == cache.device else windows.ahead(gathered, device), strict=True
        ):
            draws.batch(chosen)
            shape = x.shape
            for change in self.augment:
                x = change(x, cache.logmel.in_db, draws)
            if x.shape != shape:
                raise ValueError(f"An augmentation makes {tuple(x.shape)} of {tuple(shape)}: the shape must stay.")
            if self.masks.any():
                x = spec_augment(x, N_MASKS, masks[chosen], draws)
            yield x, targets[chosen]

    def _drawn(self, rng: np.random.Generator) -> tuple[np.ndarray, pd.DataFrame]:
        """The clips of an epoch's windows, int (n,), and a row for each."""
        n = len(self.fnames)
        clips = rng.choice(n, n, p=self.weights) if self.recipe.balance in DRAWN else np.arange(n)
        if len(self.rows) == n:
            return clips, self.rows.iloc[clips]
        frame = self.n_frames.cumsum()[clips] - rng.integers(0, self.n_frames[clips])  # counted from 1
        return clips, self.rows.iloc[np.searchsorted(self.rows["n_frames"].cumsum(), frame)]


class Phases:
    """One training set for the first epochs, another one for the rest, such as noisy clips before curated ones.

    Parameters
    ----------
    first, second : of the same cache, width and seed
    n_first : epochs that `first` feeds

    Attributes
    ----------
    rows, targets, fnames : of both, for statistics and checks; a clip may be in both
    """

    def __init__(self, first: Training, second: Training, n_first: int) -> None:
        self.parts, self.n_first, self.epoch = (first, second), n_first, 0
        self.cache, self.width, self.seed = second.cache, second.width, second.seed
        self.rows = pd.concat([first.rows, second.rows], ignore_index=True)
        self.targets = torch.cat([first.targets, second.targets])
        self.fnames = first.fnames.append(second.fnames)

    @property
    def now(self) -> Training:
        """The one that feeds the current epoch."""
        return self.parts[self.epoch >= self.n_first]

    @property
    def n_windows(self) -> int:
        return self.now.n_windows

    def __len__(self) -> int:
        return len(self.now)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.now.epoch = self.epoch
        return iter(self.now)


class Scoring:
    """Batches of inference windows (`windows.rolling`), in order, untouched."""

    def __init__(self, cache: Cache, table: pd.DataFrame, targets: np.ndarray, width: int) -> None:
        self.cache, self.table, self.targets, self.width = cache, table, torch.from_numpy(targets), width

    def __len__(self) -> int:
        return -(-len(self.table) // SCORING_BATCH)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        inputs = windows.batches(self.cache, self.table, self.width, SCORING_BATCH)
        return zip(inputs, self.targets.to(self.cache.device).split(SCORING_BATCH), strict=True)


class Images:
    """Batches of prediction images in a new order every epoch, drawn from (seed, epoch); none is augmented.

    Parameters
    ----------
    images : float32 (n, n_classes, n_columns)
    targets : float32 (n, n_classes)
    """

    def __init__(self, images: np.ndarray, targets: np.ndarray, batch_size: int, seed: int) -> None:
        self.images, self.targets = torch.from_numpy(images), torch.from_numpy(targets)
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0

    def __len__(self) -> int:
        return max(1, round(len(self.images) / self.batch_size))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.images))
        for chosen in np.array_split(order, len(self)):
            yield self.images[chosen], self.targets[chosen]


def draw_weights(seconds: np.ndarray, targets: np.ndarray, balance: str, window_s: float) -> np.ndarray:
    """How likely each clip is when the next training window is drawn.

    clip, augment : all alike.
    seconds : in proportion to the clip's length, so that every second of audio is equally likely.
    effective : a class is drawn in proportion to the inverse of its effective number of windows, (1 - BETA) /
        (1 - BETA ** n), and its clips alike; a clip of several classes has the mean. n counts the windows that fit
        side by side into the class's clips, at least one a clip: overlapping windows add nothing.

    Parameters
    ----------
    seconds : (n,) length of each clip
    targets : (n, n_classes), 0/1 or NaN; a clip without a label gets the mean of the others
    window_s : length of a window

    Returns
    -------
    float64 (n,), summing to 1

    Source
    ------
    Cui et al. 2019, Class-Balanced Loss Based on Effective Number of Samples, as weights of draws.
    """
    weights = np.ones(len(seconds))
    if balance == "seconds":
        weights = seconds
    elif balance == "effective":
        labels = np.nan_to_num(targets) > 0
        n_windows = np.maximum(seconds / window_s, 1) @ labels
        of_class = (1 - BETA) / (1 - BETA ** np.maximum(n_windows, 1))
        weights = _of_clips(of_class / np.maximum(labels.sum(axis=0), 1), labels)
    return weights / weights.sum()


def mask_strengths(seconds: np.ndarray, targets: np.ndarray, balance: str, mask_share: float) -> np.ndarray:
    """Widest mask of each clip as a share of its axis: with `augment`, the wider the less audio its class has.

    Then mask_share times the root of (median seconds of a class / seconds of the clip's class), that root between 1/2
    and 2 and the mean over the clip's classes; never above WIDEST_MASK. Else mask_share. Parameters as `draw_weights`.

    Returns
    -------
    float64 (n,)
    """
    if balance != "augment":
        return np.full(len(seconds), float(mask_share))
    labels = np.nan_to_num(targets) > 0
    of_class = seconds @ labels
    median = np.median(of_class[of_class > 0])
    scale = np.sqrt(median / np.where(of_class > 0, of_class, median)).clip(1 / 2, 2)
    return np.minimum(mask_share * _of_clips(scale, labels), WIDEST_MASK)


def image_pixels(params: Mapping[str, object]) -> float:
    """Pixels of a training input under these parameters; with progressive resizing, of its mean epoch.

    Compute is counted in them: epochs times pixels.
    """
    if params["image_size"]:
        sizes = [*params["progressive"], params["image_size"]]
        return len(sizes) / sum(1 / size**2 for size in sizes)  # equal compute at each size: epochs go with 1 / size^2
    return params["n_mels"] * params["window_s"] * params["sample_rate"] / params["hop_length"]


def _of_clips(of_class: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mean over the classes of each clip, (n,); for a clip without a class, that of the other clips."""
    n = labels.sum(axis=1)
    means = labels @ of_class / np.maximum(n, 1)
    return np.where(n > 0, means, means[n > 0].mean())
