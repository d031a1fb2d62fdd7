"""What a network is fed: random windows to train on, inference windows to be scored.

Conventions
-----------
A batch is (x, targets): float32 (n, n_channels, n_mels, n_frames) in dB, and float32 (n, n_classes).
An epoch shows one random window of every training clip. Batches differ in size by at most one; none is dropped.
Everything random in an epoch is drawn from (seed, epoch) alone. Scoring windows are never augmented.

Used in: `learners`.
"""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch

from lib import windows
from lib.augment import spec_augment
from lib.cache import Cache
from lib.models import SCORING_BATCH

__all__ = ["Scoring", "Training"]

N_MASKS = 2  # SpecAugment masks along each axis


class Training:
    """Batches of one random window a clip, augmented; the same for the same (seed, epoch).

    Parameters
    ----------
    rows : index rows of the training clips (`Cache.rows`)
    targets : float32 (n_clips, n_classes), in the same order
    width : frames of a window
    batch_size : windows; what is over is shared out among the batches
    mask_share : SpecAugment, widest mask as a share of its axis; 0: off
    seed : of all epochs; the caller sets `epoch` before each
    """

    def __init__(
        self,
        cache: Cache,
        rows: pd.DataFrame,
        targets: np.ndarray,
        width: int,
        *,
        batch_size: int,
        mask_share: float,
        seed: int,
    ) -> None:
        self.cache, self.rows, self.targets, self.width = cache, rows, torch.from_numpy(targets), width
        self.batch_size, self.mask_share, self.seed, self.epoch = batch_size, mask_share, seed, 0

    def __len__(self) -> int:
        return max(1, math.ceil(len(self.rows) / self.batch_size - 0.5))  # halves down: no batch of one

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        starts = windows.random_starts(self.rows["n_frames"].to_numpy(), self.width, rng)
        for chosen in np.array_split(rng.permutation(len(self.rows)), len(self)):
            x = windows.batch(self.cache, self.rows.iloc[chosen], starts[chosen], self.width)
            if self.mask_share:
                x = spec_augment(x, N_MASKS, self.mask_share, generator)
            yield x, self.targets[chosen]


class Scoring:
    """Batches of inference windows (`windows.rolling`), in order, untouched."""

    def __init__(self, cache: Cache, table: pd.DataFrame, targets: np.ndarray, width: int) -> None:
        self.cache, self.table, self.targets, self.width = cache, table, torch.from_numpy(targets), width

    def __len__(self) -> int:
        return -(-len(self.table) // SCORING_BATCH)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for first in range(0, len(self.table), SCORING_BATCH):
            rows = self.table.iloc[first : first + SCORING_BATCH]
            x = windows.batch(self.cache, rows, rows["start_frame"].to_numpy(copy=True), self.width)
            yield x, self.targets[first : first + SCORING_BATCH]
