"""What fastai calls while `learners` trains: mixing, seeds, input sizes, the curve and the checkpoint.

Conventions
-----------
Mixing pairs every window of a batch with another of it, in training only. What a callback draws comes from torch's
generator, which `Reseed` sets from (seed, epoch) before each epoch. Targets may be NaN, not known: a mixture of a known
and an unknown label is not known.

Used in: `learners`. These two are the only modules that import fastai.
"""

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback, CancelValidException
from fastai.callback.mixup import CutMix, MixHandler, MixUp
from fastai.learner import Learner
from safetensors import safe_open
from safetensors import torch as safetensors
from torch.distributions import AffineTransform, TransformedDistribution
from tqdm import tqdm

from lib import settings
from lib.files import whole_file
from lib.training.augment import add_powers, from_power, louder, to_power, wrapped

__all__ = ["MIXES", "Checkpoint", "Curve", "Diverged", "ImageSize", "Reseed", "image_sizes", "mixing"]

VALIDATIONS = 20  # points of the learning curve
CHECKPOINT_S = 30.0  # s between checkpoints: a killed training loses that and an epoch at most
OR_SHARE = 0.25  # of the input: the least that the second window has under mixup_or_bounded
OVERLAY_SHARE, OVERLAY_DB = 0.5, 6.0  # how many windows get a second sound, and how its level is changed, +- dB


class Diverged(ValueError):
    """The loss is NaN or infinite."""


class MixUpOr(MixUp):
    """MixUp whose labels are those of both windows; `whole`: each at 1, else sharing 1.

    least : share of the input that each window has at least: weights are drawn from [least, 1 - least]
    """

    def __init__(self, alpha: float, whole: bool, least: float = 0.0) -> None:
        super().__init__(alpha)
        self.whole = whole
        self.distrib = TransformedDistribution(self.distrib, AffineTransform(least, 1 - 2 * least))

    def before_batch(self) -> None:
        y = self.y
        super().before_batch()
        self.learn.yb = (_either(y, self.yb1[0], self.whole),)


class MixUpPower(MixUp):
    """MixUp of linear powers: what two sounds at the weights' shares of their power give."""

    def __init__(self, alpha: float, in_db: Sequence[bool]) -> None:
        super().__init__(alpha)
        self.in_db = in_db

    def before_batch(self) -> None:
        self.learn.xb = (to_power(self.x, self.in_db),)
        super().before_batch()
        self.learn.xb = (from_power(self.x, self.in_db),)


class Overlay(MixHandler):
    """A second sound over half of the windows, louder or quieter by up to 6 dB, from any point of time, wrapped."""

    def __init__(self, whole: bool, in_db: Sequence[bool]) -> None:
        super().__init__()
        self.whole, self.in_db = whole, in_db

    def before_batch(self) -> None:
        n, device = len(self.x), self.x.device
        partner, shift = torch.randperm(n).to(device), torch.randint(self.x.shape[3], (n,)).to(device)
        level = ((2 * torch.rand(n, 1, 1, 1) - 1) * OVERLAY_DB).to(device)
        chosen = (torch.rand(n) < OVERLAY_SHARE).to(device)
        second = louder(wrapped(self.x[partner], shift), level, self.in_db)
        both = add_powers(self.x, second, self.in_db)
        self.learn.xb = (torch.where(chosen.view(-1, 1, 1, 1), both, self.x),)
        self.learn.yb = (torch.where(chosen[:, None], _either(self.y, self.y[partner], self.whole), self.y),)


MIXES = {
    "mixup": lambda alpha, whole, in_db: MixUp(alpha),
    "mixup_or": lambda alpha, whole, in_db: MixUpOr(alpha, whole),
    "mixup_or_bounded": lambda alpha, whole, in_db: MixUpOr(alpha, whole, OR_SHARE),
    "mixup_power": lambda alpha, whole, in_db: MixUpPower(alpha, in_db),
    "cutmix": lambda alpha, whole, in_db: CutMix(alpha),
    "overlay": lambda alpha, whole, in_db: Overlay(whole, in_db),
}
assert tuple(MIXES) == settings.MIXES


def mixing(mix: str, alpha: float, loss: str, in_db: Sequence[bool]) -> list[Callback]:
    """The callback that makes one window of two; none where alpha is 0.

    mixup : the weighted mean of both log-mels and of their labels (Zhang et al. 2018)
    mixup_or : the same mixture, labelled with all classes of both
    mixup_or_bounded : as mixup_or, but no window has less than OR_SHARE of the mixture, so no class is labelled that
        is hardly present; the weight is that of the Beta distribution, drawn in to [OR_SHARE, 1 - OR_SHARE]
    mixup_power : the weighted mean of both powers, and of their labels
    cutmix : a rectangle of one in the other; labels by area (Yun et al. 2019)
    overlay : both sounds whole, labelled with all classes of both; half of the windows

    Parameters
    ----------
    mix : one of MIXES
    alpha : of the Beta distribution of the weight (cutmix: area); for overlay only whether it is 0
    loss : under ce a window that is labelled with k classes has 1 / k of each
    in_db : a bool a channel (`LogMel.in_db`), whether it knows powers
    """
    return [MIXES[mix](alpha, loss != "ce", in_db)] if alpha else []


class Reseed(Callback):
    """Draw everything random in an epoch from (seed, epoch), so that a resumed training cannot tell the difference."""

    order = -20

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_epoch(self) -> None:
        state = int(np.random.default_rng([self.seed, self.epoch, 1]).integers(2**31))
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)
        self.dls.train.epoch = self.epoch


def image_sizes(epochs: int, progressive: Sequence[int], image_size: int) -> list[int]:
    """The input size of every epoch: `progressive` in turn, then image_size, each with the same compute.

    An epoch costs the square of its size, so a size has epochs in proportion to 1 / size ** 2, and at least one.

    Raises
    ------
    ValueError
        If windows are not resized at all, or there are fewer epochs than sizes.
    """
    sizes = np.array([*progressive, image_size])
    if len(sizes) > 1 and not image_size:
        raise ValueError(f"progressive={tuple(progressive)} leads up to image_size, but that is 0. Set it above 0.")
    if epochs < len(sizes):
        raise ValueError(f"epochs={epochs} is fewer than the {len(sizes)} input sizes of progressive. Raise epochs.")
    if len(sizes) == 1:
        return [image_size] * epochs
    share, k = 1 / sizes**2, np.arange(len(sizes))
    ends = np.round(epochs * share.cumsum() / share.sum()).astype(int)
    ends = np.maximum.accumulate(np.maximum(ends - k, 1)) + k  # at least one epoch each, from the first size on ...
    ends = np.minimum(ends, epochs - k[::-1])  # ... and up to the last
    return np.repeat(sizes, np.diff(ends, prepend=0)).tolist()


class ImageSize(Callback):
    """Windows are resized to sizes[epoch] in training and validation."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes

    def before_epoch(self) -> None:
        self.model.image_size = self.sizes[self.epoch]


class Curve(Callback):
    """A row an epoch and a progress bar; validates at about VALIDATIONS epochs, the last one among them."""

    order = 55  # after the Recorder
    COLUMNS = ("epoch", "lr", "train_loss", "valid_loss", "lwlrap")

    def __init__(self, epochs: int, label: str) -> None:
        self.every, self.label, self.rows, self.bar = max(1, epochs // VALIDATIONS), label, [], None
        self.n_images, self.train_s = 0, 0.0

    def before_fit(self) -> None:
        self.bar = tqdm(total=self.n_epoch, initial=len(self.rows), desc=self.label or "training", unit="epoch")

    def before_train(self) -> None:
        self.total, self.seen, self.validated, self.started = 0.0, 0, False, time.perf_counter()

    def after_batch(self) -> None:
        if self.training:
            self.total, self.seen = self.total + self.loss_grad.detach() * len(self.x), self.seen + len(self.x)
        else:
            self._stop_if_diverged(float(self.loss))  # the last step of an epoch may be the one that goes astray

    def after_train(self) -> None:
        self.loss_now = float(self.total) / self.seen  # waits for the device, so that the clock is right
        self.n_images, self.train_s = self.n_images + self.seen, self.train_s + time.perf_counter() - self.started
        self._stop_if_diverged(self.loss_now)

    def before_validate(self) -> None:
        if (self.n_epoch - 1 - self.epoch) % self.every:
            raise CancelValidException
        self.validated = True

    def after_epoch(self) -> None:
        if len(self.rows) > self.epoch:
            return  # an epoch that the checkpoint already had
        scores = [float(v) for v in self.recorder.log[2:4]] if self.validated else [np.nan, np.nan]
        self.rows.append([self.epoch, float(self.opt.hypers[-1]["lr"]), self.loss_now, *scores])
        self.bar.set_postfix(loss=f"{self.loss_now:.3f}")
        self.bar.update()

    @property
    def images_per_s(self) -> float:
        """Training windows a second, validation excluded; NaN if all epochs came from a checkpoint."""
        return self.n_images / self.train_s if self.n_images else np.nan

    def close(self) -> None:
        """Leave no open bar behind, whether the training ended well or not."""
        if self.bar is not None:
            self.bar.close()

    def _stop_if_diverged(self, loss: float) -> None:
        if not np.isfinite(loss):
            raise Diverged(f"The loss is {loss} in epoch {self.epoch}: training diverged. Lower lr.")


class Checkpoint(Callback):
    """Weights, optimiser and curve in one safetensors file, written whole every CHECKPOINT_S seconds."""

    order = 60

    def __init__(self, path: Path, configuration: str, curve: Curve) -> None:
        self.path, self.configuration, self.curve = Path(path), configuration, curve

    def before_fit(self) -> None:
        self.saved = time.monotonic()

    def after_epoch(self) -> None:
        last = self.epoch == self.n_epoch - 1
        if self.epoch < self.first or not (last or time.monotonic() - self.saved >= CHECKPOINT_S):
            return
        tensors = {f"model/{name}": tensor.contiguous() for name, tensor in self.model.state_dict().items()}
        state = self.opt.opt.state_dict()["state"]
        tensors |= {f"opt/{i}/{name}": t.contiguous() for i, values in state.items() for name, t in values.items()}
        about = {"configuration": self.configuration, "rows": json.dumps(self.curve.rows)}
        with whole_file(self.path) as partial:
            partial.write_bytes(safetensors.save(tensors, metadata=about))
        self.saved = time.monotonic()

    def restore(self, learn: Learner) -> int:
        """Load the checkpoint, if it is of this configuration; the epoch to go on with."""
        self.first = 0
        learn.create_opt()
        if not self.path.is_file():
            return 0
        with safe_open(self.path, "pt", device=str(next(learn.model.parameters()).device)) as file:
            if file.metadata()["configuration"] != self.configuration:
                return 0
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            self.curve.rows = json.loads(file.metadata()["rows"])
        learn.model.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
        optimiser = learn.opt.opt
        places = [place for group in optimiser.param_groups for place in group["params"]]
        state: dict[int, dict] = {i: {} for i in range(len(places))}
        for name, tensor in tensors.items():
            if name.startswith("opt/"):
                i, key = name.split("/")[1:]
                place = places[int(i)]  # moments lie in memory as their weights do: the fused optimiser counts on it
                state[int(i)][key] = torch.empty_like(place).copy_(tensor) if tensor.shape == place.shape else tensor
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        self.first = len(self.curve.rows)
        return self.first


def _either(one: torch.Tensor, other: torch.Tensor, whole: bool) -> torch.Tensor:
    """The labels of both, (n, n_classes): each at its larger value, or (not whole) the classes sharing 1."""
    both = torch.maximum(one, other)  # NaN if either is
    return both if whole else both / both.sum(dim=1, keepdim=True)
