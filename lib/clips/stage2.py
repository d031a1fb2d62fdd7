"""Stage 2: prediction images, and the small models that read one and score the whole clip.

Conventions
-----------
image : float32 (n_classes, n_columns), 0 to 255, from `make_images`: a row a class, a column a window in the order of
    time; scores times 255. A clip with fewer windows stands in the middle, with columns of zeros around it; of a longer
    one the middle `max_clip_s` is taken. A score is never exactly 0, so a column of zeros is one without a window.
logits : float32 (n, n_classes), classes in submission order again.
Normalisation and the order of rows belong to the model and lie in its weights and sidecar: scoring cannot differ from
training. Only the 2-D network, which reads the image as it is drawn, sees the columns of zeros.

Used in: 06, 08, 10. Imports neither fastai nor librosa; `learners.fit_images` trains.

Source: the write-up's second stage, "80 x N prediction images".
"""

from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from lib.settings import STAGE2_MODELS
from lib.training.models import activate

__all__ = ["MODELS", "WHITE", "Stage2", "Stage2Model", "clip_scores", "confusion_order", "make_images", "n_columns"]

WHITE = 255.0  # a score of 1
SMALLEST = 1.0e-5  # of a score, before its logarithm is taken: float32 holds no more below 1


@dataclass(frozen=True)
class Stage2:
    """What is needed to build and to feed a stage-2 model.

    Parameters
    ----------
    kind : one of MODELS
    columns : width of the images it reads
    rows : class that stands in each row of the images
    """

    kind: str
    columns: int
    rows: tuple[int, ...]


class _Image(nn.Module):
    """The write-up's: a 2-D network on the image. It keeps the rows, as only its row tells which class it is."""

    def __init__(self, n_classes: int, reads_logits: bool = False) -> None:
        super().__init__()
        self.reads_logits = reads_logits
        layers, channels = [], 1
        for width in (16, 32, 32):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.25), nn.Linear(2 * channels * -(-n_classes // 8), n_classes))

    def forward(self, images: torch.Tensor, evidence: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        x = evidence if self.reads_logits else images / WHITE
        x = self.body(x[:, None])
        return self.head(torch.cat([x.mean(-1).flatten(1), x.amax(-1).flatten(1)], 1))


class _Convolution(nn.Module):
    """Classes as channels, convolution over time, mean and maximum over it."""

    def __init__(self, n_classes: int, width: int = 48) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv1d(n_classes, width, 5, padding=2, bias=False), nn.BatchNorm1d(width), nn.ReLU()),
            *(nn.Conv1d(width, width, 5, padding=4, dilation=2, bias=False), nn.BatchNorm1d(width), nn.ReLU()),
        )
        self.head = nn.Sequential(nn.Dropout(0.25), nn.Linear(2 * width, n_classes))

    def forward(self, images: torch.Tensor, evidence: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        return self.head(_mean_and_max(self.body(evidence), there))


class _Attention(nn.Module):
    """Every window votes, and how much its vote counts is learned for each class. Blind to the order of windows."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.vote, self.weight = nn.Linear(n_classes, n_classes), nn.Linear(n_classes, n_classes)

    def forward(self, images: torch.Tensor, evidence: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        x = evidence.transpose(1, 2)
        weight = self.weight(x).masked_fill(~there[:, :, None], -torch.inf).softmax(1)
        return (weight * self.vote(x)).sum(1)


class _Recurrent(nn.Module):
    """A small GRU in both directions, mean and maximum over time."""

    def __init__(self, n_classes: int, width: int = 24) -> None:
        super().__init__()
        self.body = nn.GRU(n_classes, width, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Dropout(0.25), nn.Linear(4 * width, n_classes))

    def forward(self, images: torch.Tensor, evidence: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        return self.head(_mean_and_max(self.body(evidence.transpose(1, 2))[0].transpose(1, 2), there))


class _Logistic(nn.Module):
    """The baseline: logistic regression on mean, maximum and standard deviation over time. Blind to order."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3 * n_classes, n_classes)

    def forward(self, images: torch.Tensor, evidence: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        n = there.sum(1)[:, None]
        mean = evidence.sum(2) / n
        spread = ((evidence - mean[:, :, None]).square() * there[:, None]).sum(2) / n
        return self.head(torch.cat([_mean_and_max(evidence, there), (spread + 1e-6).sqrt()], 1))


MODELS = {
    "cnn": _Image,
    "cnn_logits": partial(_Image, reads_logits=True),
    "conv1d": _Convolution,
    "attention": _Attention,
    "gru": _Recurrent,
    "logistic": _Logistic,
}
assert tuple(MODELS) == STAGE2_MODELS


class Stage2Model(nn.Module):
    """Normalise, one of MODELS, float32.

    Parameters
    ----------
    images : float32 (n, n_classes, columns), those it will be trained on: their mean and spread normalise

    Raises
    ------
    ValueError
        If there is no model of that kind, or images are not of the declared shape.
    """

    written_by = "06_stage2 writes it."

    def __init__(self, stage2: Stage2, images: torch.Tensor | None = None) -> None:
        super().__init__()
        if stage2.kind not in MODELS:
            raise ValueError(f"stage 2 has no model {stage2.kind!r}. There are: {', '.join(MODELS)}.")
        self.stage2, n_classes = stage2, len(stage2.rows)
        self.net = MODELS[stage2.kind](n_classes)
        self.register_buffer("mean", torch.zeros(n_classes, 1))
        self.register_buffer("std", torch.ones(n_classes, 1))
        self.register_buffer("back", torch.from_numpy(np.argsort(stage2.rows)), persistent=False)
        if images is not None:
            there = self._checked(images)
            logits = _logits(images).transpose(0, 1)[:, there]  # (n_classes, windows of all clips)
            self.mean, self.std = logits.mean(1, keepdim=True), logits.std(1, keepdim=True) + 1e-3

    @classmethod
    def rebuild(cls, sidecar: dict) -> "Stage2Model":
        """The model that a sidecar describes, before its weights are loaded."""
        made = sidecar["stage2"]
        return cls(Stage2(made["kind"], made["columns"], tuple(made["rows"])))

    @property
    def settings(self) -> dict:
        """What `rebuild` needs, for the sidecar."""
        return {"stage2": asdict(self.stage2)}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        there = self._checked(images)
        evidence = (_logits(images) - self.mean) / self.std * there[:, None]
        return self.net(images, evidence, there)[:, self.back]

    def _checked(self, images: torch.Tensor) -> torch.Tensor:
        """Which columns are windows, bool (n, columns)."""
        expected = (len(self.stage2.rows), self.stage2.columns)
        if images.ndim != 3 or tuple(images.shape[1:]) != expected:
            raise ValueError(f"images {tuple(images.shape)}: expected (n, {expected[0]}, {expected[1]}).")
        return images.amax(1) > 0


def n_columns(window_s: float, hop_s: float, max_clip_s: float) -> int:
    """Columns of an image: windows of a clip of `max_clip_s`.

    Raises
    ------
    ValueError
        If no window fits into max_clip_s.
    """
    if max_clip_s < window_s:
        raise ValueError(f"max_clip_s={max_clip_s} is shorter than window_s={window_s}: no window fits. Raise it.")
    return 1 + round((max_clip_s - window_s) / hop_s)


def make_images(
    fnames: np.ndarray, start_s: np.ndarray, scores: np.ndarray, columns: int, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Images of all clips at once.

    Parameters
    ----------
    fnames, start_s : (n_windows,) clip and start (s) of each window, in any order
    scores : (n_windows, n_classes), in [0, 1]
    columns : width, from `n_columns`
    rows : (n_classes,) class that stands in each row, from the top; None: as the classes come

    Returns
    -------
    fnames (n_clips,) sorted, images float32 (n_clips, n_classes, columns)

    Raises
    ------
    ValueError
        Scores outside [0, 1]; rows that are not each class once.
    """
    scores = np.asarray(scores)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("scores lie outside [0, 1]: images are made of scores, not logits. Pass them by `activate`.")
    rows = np.arange(scores.shape[1]) if rows is None else np.asarray(rows)
    if sorted(rows.tolist()) != list(range(scores.shape[1])):
        raise ValueError(f"rows={rows.tolist()} must name each of {scores.shape[1]} classes once.")
    order = np.lexsort((start_s, np.asarray(fnames, str)))
    clips, first, n = np.unique(np.asarray(fnames, str)[order], return_index=True, return_counts=True)
    clip = np.repeat(np.arange(len(clips)), n)
    column = np.arange(len(order)) - first[clip] + ((columns - n) // 2)[clip]
    shown = (column >= 0) & (column < columns)
    images = np.zeros((len(clips), scores.shape[1], columns), np.float32)
    images[clip[shown], :, column[shown]] = WHITE * scores[order[shown]][:, rows]
    return clips, images


def confusion_order(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Classes in a row in which those that are taken for each other stand side by side.

    The pair that is confused most comes first; then the class that is closest to either end joins there, until all
    stand. Compute it on training folds: it reads labels.

    Parameters
    ----------
    targets, scores : (n_clips, n_classes); how much class j is scored where i is the label is their confusion

    Returns
    -------
    int (n_classes,)
    """
    targets, scores = np.asarray(targets, float), np.asarray(scores, float)
    taken = targets.T @ scores / np.maximum(targets.sum(0), 1)[:, None]
    close = taken + taken.T
    np.fill_diagonal(close, -np.inf)
    chain = [int(i) for i in np.unravel_index(close.argmax(), close.shape)]
    while len(chain) < len(close):
        free = np.setdiff1d(np.arange(len(close)), chain)
        left, right = close[chain[0], free], close[chain[-1], free]
        if left.max() > right.max():
            chain.insert(0, int(free[left.argmax()]))
        else:
            chain.append(int(free[right.argmax()]))
    return np.array(chain)


def clip_scores(
    model: Stage2Model, fnames: np.ndarray, start_s: np.ndarray, scores: np.ndarray, loss: str
) -> tuple[np.ndarray, np.ndarray]:
    """What stage 2 says of clips, from the window scores of one stage-1 model.

    Several stage-1 models: call it for each and average, since it was trained on scores of one (06 measures the
    difference).

    Parameters
    ----------
    fnames, start_s, scores : as `make_images` takes them
    loss : that of the training, tells how logits become scores

    Returns
    -------
    fnames (n_clips,) sorted, scores float64 (n_clips, n_classes)
    """
    rows = np.array(model.stage2.rows)
    clips, images = make_images(fnames, start_s, scores, model.stage2.columns, rows)
    model.eval()
    with torch.inference_mode():
        logits = model(torch.from_numpy(images)).numpy()
    return clips, activate(logits, loss)


def _logits(images: torch.Tensor) -> torch.Tensor:
    """What the window model gave before the logistic function, from scores times 255."""
    scores = (images / WHITE).clamp(SMALLEST, 1 - SMALLEST)
    return scores.log() - (-scores).log1p()


def _mean_and_max(x: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Over the columns that are windows: (n, channels, columns) -> (n, 2 channels)."""
    there = there[:, None]
    mean = (x * there).sum(2) / there.sum(2)
    return torch.cat([mean, x.masked_fill(~there, -torch.inf).amax(2)], 1)
