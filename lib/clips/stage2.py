"""Stage 2: prediction images, and the small models that read an image and score the whole clip.

Conventions
-----------
image : float32 (n_classes, n_columns), scores times 255, from `make_images`. A row is a class, a column a window, in
    order of time. A shorter clip is centred, with columns of zeros on both sides; a longer one is cut to its middle
    `max_clip_s`. A score is never exactly 0, so a column of zeros means: no window.
logits : float32 (n, n_classes), classes in submission order.
Normalisation and the order of rows are stored in the model's weights and sidecar, so scoring uses those of training.
Only the 2-D networks and the dense one see the columns of zeros; the other models mask them.

Used in: 06, 08, 10. Imports neither fastai nor librosa; `learners.fit_images` trains.

Source: the write-up's second stage, "80 x N prediction images".
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from lib.evaluation.window_scores import WindowScores
from lib.settings import STAGE2_MODELS
from lib.training.models import activate

__all__ = ["MODELS", "WHITE", "Stage2Model", "clip_scores", "confusion_order", "make_images", "n_columns"]

WHITE = 255.0  # a score of 1
SMALLEST = 1.0e-5  # scores are clipped to [SMALLEST, 1 - SMALLEST] before the logarithm: the precision of float32 at 1


class _Image(nn.Module):
    """The write-up's model: a 2-D network on the image. It pools over time only: a class is known by its row."""

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

    def forward(self, images: torch.Tensor, evidence: torch.Tensor, is_window: torch.Tensor) -> torch.Tensor:
        x = evidence if self.reads_logits else images / WHITE
        x = self.body(x[:, None])
        return self.head(torch.cat([x.mean(-1).flatten(1), x.amax(-1).flatten(1)], 1))


class _Dense(nn.Module):
    """Fully connected layers on the scores of all windows, one after the other: each column has weights of its own."""

    def __init__(self, n_classes: int, columns: int, width: int = 64) -> None:
        super().__init__()
        first = nn.Linear(n_classes * columns, width, bias=False)
        self.body = nn.Sequential(nn.Flatten(), first, nn.BatchNorm1d(width), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(width, n_classes))

    def forward(self, images: torch.Tensor, evidence: torch.Tensor, is_window: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(evidence))


class _Convolution(nn.Module):
    """Convolution over time with classes as channels, then mean and maximum over time."""

    def __init__(self, n_classes: int, width: int = 48) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv1d(n_classes, width, 5, padding=2, bias=False), nn.BatchNorm1d(width), nn.ReLU()),
            *(nn.Conv1d(width, width, 5, padding=4, dilation=2, bias=False), nn.BatchNorm1d(width), nn.ReLU()),
        )
        self.head = nn.Sequential(nn.Dropout(0.25), nn.Linear(2 * width, n_classes))

    def forward(self, images: torch.Tensor, evidence: torch.Tensor, is_window: torch.Tensor) -> torch.Tensor:
        return self.head(_mean_and_max(self.body(evidence), is_window))


class _Attention(nn.Module):
    """A weighted mean over windows; the weights are learned for each class. The order of windows has no effect."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.vote, self.weight = nn.Linear(n_classes, n_classes), nn.Linear(n_classes, n_classes)

    def forward(self, images: torch.Tensor, evidence: torch.Tensor, is_window: torch.Tensor) -> torch.Tensor:
        x = evidence.transpose(1, 2)
        weight = self.weight(x).masked_fill(~is_window[:, :, None], -torch.inf).softmax(1)
        return (weight * self.vote(x)).sum(1)


class _Recurrent(nn.Module):
    """A small bidirectional GRU, then mean and maximum over time."""

    def __init__(self, n_classes: int, width: int = 24) -> None:
        super().__init__()
        self.body = nn.GRU(n_classes, width, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Dropout(0.25), nn.Linear(4 * width, n_classes))

    def forward(self, images: torch.Tensor, evidence: torch.Tensor, is_window: torch.Tensor) -> torch.Tensor:
        return self.head(_mean_and_max(self.body(evidence.transpose(1, 2))[0].transpose(1, 2), is_window))


class _Logistic(nn.Module):
    """The baseline: logistic regression on mean, maximum and standard deviation over windows, in any order."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3 * n_classes, n_classes)

    def forward(self, images: torch.Tensor, evidence: torch.Tensor, is_window: torch.Tensor) -> torch.Tensor:
        n = is_window.sum(1)[:, None]
        mean = evidence.sum(2) / n
        spread = ((evidence - mean[:, :, None]).square() * is_window[:, None]).sum(2) / n
        return self.head(torch.cat([_mean_and_max(evidence, is_window), (spread + 1e-6).sqrt()], 1))


MODELS = {
    "cnn": _Image,
    "cnn_logits": partial(_Image, reads_logits=True),
    "dense": _Dense,
    "conv1d": _Convolution,
    "attention": _Attention,
    "gru": _Recurrent,
    "logistic": _Logistic,
}
assert tuple(MODELS) == STAGE2_MODELS


class Stage2Model(nn.Module):
    """One of MODELS with normalised input, from images float32 (n, n_classes, columns) to logits.

    Attributes
    ----------
    settings : what `rebuild` needs, for the sidecar: `stage2` with kind, columns and rows

    Parameters
    ----------
    kind : one of MODELS
    columns : width of the images that it reads
    rows : class of each row of the images, from the top
    images : those that it will be trained on; their mean and standard deviation normalise the input

    Raises
    ------
    ValueError
        If there is no model of that kind, or images are not of the declared shape.
    """

    written_by = "06_stage2 writes it."

    def __init__(self, kind: str, columns: int, rows: Sequence[int], images: torch.Tensor | None = None) -> None:
        super().__init__()
        if kind not in MODELS:
            raise ValueError(f"stage 2 has no model {kind!r}. There are: {', '.join(MODELS)}.")
        self.settings = {"stage2": {"kind": kind, "columns": columns, "rows": list(rows)}}
        self.columns, self.rows, n_classes = columns, np.array(rows), len(rows)
        self.net = MODELS[kind](n_classes, **({"columns": columns} if kind == "dense" else {}))
        self.register_buffer("mean", torch.zeros(n_classes, 1))
        self.register_buffer("std", torch.ones(n_classes, 1))
        self.register_buffer("back", torch.from_numpy(np.argsort(rows)), persistent=False)
        if images is not None:
            is_window = self._checked(images)
            logits = _logits(images).transpose(0, 1)[:, is_window]  # (n_classes, windows of all clips)
            self.mean, self.std = logits.mean(1, keepdim=True), logits.std(1, keepdim=True) + 1e-3

    @classmethod
    def rebuild(cls, sidecar: dict) -> "Stage2Model":
        """The model that a sidecar describes, before its weights are loaded."""
        return cls(**sidecar["stage2"])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        is_window = self._checked(images)
        evidence = (_logits(images) - self.mean) / self.std * is_window[:, None]
        return self.net(images, evidence, is_window)[:, self.back]

    def _checked(self, images: torch.Tensor) -> torch.Tensor:
        """Which columns hold a window, bool (n, columns); ValueError for images of another shape."""
        expected = (len(self.rows), self.columns)
        if images.ndim != 3 or tuple(images.shape[1:]) != expected:
            raise ValueError(f"images {tuple(images.shape)}: expected (n, {expected[0]}, {expected[1]}).")
        return images.amax(1) > 0


def n_columns(window_s: float, hop_s: float, max_clip_s: float) -> int:
    """Columns of an image: the number of windows of a clip of length `max_clip_s`; all in s.

    Raises
    ------
    ValueError
        If no window fits into max_clip_s.
    """
    if max_clip_s < window_s:
        raise ValueError(f"max_clip_s={max_clip_s} is shorter than window_s={window_s}: no window fits. Raise it.")
    return 1 + round((max_clip_s - window_s) / hop_s)


def make_images(windows: WindowScores, columns: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images of all clips at once.

    Parameters
    ----------
    windows : by one model, in any order
    columns : width, from `n_columns`
    rows : (n_classes,) class of each row, from the top

    Returns
    -------
    fnames (n_clips,) sorted, images float32 (n_clips, n_classes, columns)

    Raises
    ------
    ValueError
        Scores outside [0, 1], or rows that don't hold every class once.
    """
    scores = windows.scores
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("scores lie outside [0, 1]: images are made of scores, not logits. Pass them by `activate`.")
    if sorted(rows.tolist()) != list(range(scores.shape[1])):
        raise ValueError(f"rows={rows.tolist()} must name each of {scores.shape[1]} classes once.")
    fnames = windows.table["fname"].to_numpy(str)
    order = np.lexsort((windows.table["window_start_s"], fnames))
    clips, first, n = np.unique(fnames[order], return_index=True, return_counts=True)
    clip = np.repeat(np.arange(len(clips)), n)
    column = np.arange(len(order)) - first[clip] + ((columns - n) // 2)[clip]
    is_inside = (column >= 0) & (column < columns)
    images = np.zeros((len(clips), scores.shape[1], columns), np.float32)
    images[clip[is_inside], :, column[is_inside]] = WHITE * scores[order[is_inside]][:, rows]
    return clips, images


def confusion_order(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """An order of the classes in which those that are confused stand side by side.

    It starts with the most confused pair. Then the class that is most confused with either end is added at that end,
    until all are placed. Use training folds only: it reads labels.

    Parameters
    ----------
    targets, scores : (n_clips, n_classes). The confusion of i with j is the mean score of j where i is a label, plus
        the mean score of i where j is one.

    Returns
    -------
    int (n_classes,)
    """
    targets, scores = np.asarray(targets, float), np.asarray(scores, float)
    mean_score = targets.T @ scores / np.maximum(targets.sum(0), 1)[:, None]
    confusion = mean_score + mean_score.T
    np.fill_diagonal(confusion, -np.inf)
    chain = [int(i) for i in np.unravel_index(confusion.argmax(), confusion.shape)]
    while len(chain) < len(confusion):
        remaining = np.setdiff1d(np.arange(len(confusion)), chain)
        left, right = confusion[chain[0], remaining], confusion[chain[-1], remaining]
        if left.max() > right.max():
            chain.insert(0, int(remaining[left.argmax()]))
        else:
            chain.append(int(remaining[right.argmax()]))
    return np.array(chain)[: len(confusion)]  # the only class is no pair


def clip_scores(model: Stage2Model, windows: WindowScores, loss: str) -> tuple[np.ndarray, np.ndarray]:
    """Clip scores of a stage-2 model, from the window scores of one stage-1 model.

    With several stage-1 models, call it for each and average the clip scores: the stage-2 model was trained on scores
    of one model (06 measures the difference).

    Parameters
    ----------
    windows : as in `make_images`
    loss : that of the training; it decides how logits become scores

    Returns
    -------
    fnames (n_clips,) sorted, scores float64 (n_clips, n_classes)
    """
    clips, images = make_images(windows, model.columns, model.rows)
    model.eval()
    with torch.inference_mode():
        logits = model(torch.from_numpy(images)).numpy()
    return clips, activate(logits, loss)


def _logits(images: torch.Tensor) -> torch.Tensor:
    """The window model's logits, recovered from scores times 255."""
    scores = (images / WHITE).clamp(SMALLEST, 1 - SMALLEST)
    return scores.log() - (-scores).log1p()


def _mean_and_max(x: torch.Tensor, is_window: torch.Tensor) -> torch.Tensor:
    """Mean and maximum over the columns that hold a window: (n, channels, columns) -> (n, 2 channels)."""
    is_window = is_window[:, None]
    mean = (x * is_window).sum(2) / is_window.sum(2)
    return torch.cat([mean, x.masked_fill(~is_window, -torch.inf).amax(2)], 1)
