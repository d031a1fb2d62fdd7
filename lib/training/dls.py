"""Batches as the `dls` of a fastai Learner holds them: with one_batch, show_batch and show_results.

Conventions
-----------
show : f(x, captions, logmel), which draws windows, float32 (n, n_channels, n_mels, n_frames), a caption each, and lets
  hear them: `logmels.show`. It comes from whoever asks, since nothing here draws.

Used in: `learners.learner`, for 00.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from fastcore.basics import GetAttr

from lib.training.batches import Scoring, Training
from lib.training.models import SCORING_BATCH, activate

__all__ = ["Feed"]


class Feed(GetAttr):
    """Training or scoring batches that can be shown; everything else is that of the batches themselves.

    Parameters
    ----------
    classes : in submission order
    loss : of the recipe; it says what makes scores of logits
    show : see the module's conventions
    """

    _default = "batches"

    def __init__(self, batches: Training | Scoring, classes: Sequence[str], loss: str, show: Callable) -> None:
        self.batches, self.classes, self.loss, self.show = batches, classes, loss, show
        self.epoch, self.n_shown = 0, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.batches.epoch = self.epoch
        return iter(self.batches)

    def new(self, **_: object) -> "Feed":
        """fastai asks for a copy, shuffled or in order: `one_batch` draws at random, iteration is in order."""
        return self

    def one_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Another batch each time: the first one of a training epoch, or inference windows drawn at random."""
        self.n_shown += 1
        if isinstance(self.batches, Training):
            self.epoch = self.n_shown
            return next(iter(self))
        drawn = np.random.default_rng(self.n_shown).permutation(len(self.table))[:SCORING_BATCH]
        return next(iter(Scoring(self.cache, self.table.iloc[drawn], self.targets.numpy()[drawn], self.width)))

    def show_batch(self, b: tuple | None = None, max_n: int = 9, **_: object) -> None:
        """Windows as the network is given them (mixing comes later), with their labels."""
        x, y = b or self.one_batch()
        self.show(x[:max_n], self.labels(y[:max_n]), self.cache.logmel)

    def show_results(self, b: tuple, preds: torch.Tensor, max_n: int = 9, **_: object) -> None:
        """Windows with their labels, and the class that the model scores highest; `preds` are logits."""
        x, y = b
        scores = activate(preds[:max_n].float().cpu().numpy(), self.loss)
        best = zip(self.labels(y[:max_n]), scores.argmax(axis=1), scores.max(axis=1), strict=True)
        self.show(x[:max_n], [f"{y}; model: {self.classes[k]} {score:.2f}" for y, k, score in best], self.cache.logmel)

    def labels(self, y: torch.Tensor) -> list[str]:
        """The classes of each row of targets; one that is not known is none."""
        known = y.nan_to_num().cpu().numpy() > 0
        return [", ".join(name for name, heard in zip(self.classes, row, strict=True) if heard) for row in known]
