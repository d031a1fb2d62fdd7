"""What fastai calls while `learners` trains: mixing, seeds, input sizes, the curve and the checkpoint.

Conventions
-----------
What is drawn in an epoch comes from (seed, epoch). Nothing is read back from the device but once an epoch: the loss,
and what the validation of the epoch says. Targets may be NaN, not known.

Used in: `learners`. These two are the only modules that import fastai.
"""

import json
import random
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback, CancelStepException, CancelValidException
from fastai.learner import Learner
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors

from lib import ideas, settings
from lib.evaluation import metrics
from lib.files import whole_file
from lib.training.augment import MIXES, Draws
from lib.training.models import weights

__all__ = ["Checkpoint", "Curve", "Diverged", "ImageSize", "Mixing", "Reseed", "Scaler", "image_sizes"]

VALIDATIONS = 20  # points of the learning curve, at most
CHECKPOINT_S = 30.0  # s between checkpoints: a killed training loses that and an epoch at most


class Diverged(ValueError):
    """The loss is NaN or infinite."""


class Mixing(Callback):
    """Make one window of two, in training only.

    Parameters
    ----------
    recipe : its mix (one of `augment.MIXES`, or an idea), mixup (above 0: alpha of the Beta distribution of the weight,
        for cutmix of the area) and loss (under ce a window that is labelled with k classes has 1 / k of each)
    in_db : a bool a channel (`LogMel.in_db`), whether it knows powers
    seed : of all epochs
    """

    run_valid = False

    def __init__(self, recipe: settings.Training, in_db: Sequence[bool], seed: int) -> None:
        self.mix, self.alpha, self.shared = ideas.find(MIXES, recipe.mix), recipe.mixup, recipe.loss == "ce"
        self.in_db, self.seed = in_db, seed

    def before_train(self) -> None:
        seed = int(np.random.default_rng([self.seed, self.epoch, 2]).integers(2**62))
        self.draws, self.n = Draws(next(self.model.parameters()).device, seed, self.dls.train.n_windows), 0

    def before_batch(self) -> None:
        self.draws.batch(slice(self.n, self.n + len(self.x)))
        self.n += len(self.x)
        x, y = self.mix(self.x, self.y, self.in_db, self.draws, self.alpha)
        self.learn.xb, self.learn.yb = (x,), (y / y.sum(dim=1, keepdim=True) if self.shared else y,)


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
    """A row an epoch, told to `bar`, a tqdm; validates at VALIDATIONS epochs at most, the last one among them."""

    order = 55
    COLUMNS = ("epoch", "lr", "train_loss", "valid_loss", "lwlrap")

    def __init__(self, epochs: int) -> None:
        self.every, self.rows, self.n_images, self.train_s = -(-epochs // VALIDATIONS), [], 0, 0.0

    def before_train(self) -> None:
        self.total, self.seen, self.scored, self.started = 0.0, 0, [], time.perf_counter()

    def after_batch(self) -> None:
        if self.training:
            self.total, self.seen = self.total + self.loss.detach() * len(self.x), self.seen + len(self.x)
        else:
            self.scored.append((self.pred, self.y, self.loss * len(self.x)))

    def after_train(self) -> None:
        self.loss_now = float(self.total) / self.seen  # waits for the device, so that the clock is right
        self.n_images, self.train_s = self.n_images + self.seen, self.train_s + time.perf_counter() - self.started
        self._stop_if_diverged(self.loss_now)

    def before_validate(self) -> None:
        if (self.n_epoch - 1 - self.epoch) % self.every:
            raise CancelValidException

    def after_epoch(self) -> None:
        if len(self.rows) > self.epoch:
            return  # an epoch that the checkpoint already had
        self.rows.append([self.epoch, float(self.opt.hypers[-1]["lr"]), self.loss_now, *self._validated()])
        self.bar.set_postfix(loss=f"{self.loss_now:.3f}")
        self.bar.update()

    def _validated(self) -> list[float]:
        """Loss and lwlrap over all windows at once; NaN in an epoch that is not validated."""
        if not self.scored:
            return [np.nan, np.nan]
        logits, targets, losses = zip(*self.scored, strict=True)
        loss = float(torch.stack(losses).sum()) / sum(map(len, targets))
        self._stop_if_diverged(loss)  # the last step of an epoch may be the one that goes astray
        return [loss, metrics.lwlrap(torch.cat(targets).cpu().numpy(), torch.cat(logits).cpu().numpy())]

    @property
    def images_per_s(self) -> float:
        """Training windows a second, validation excluded; NaN if all epochs came from a checkpoint."""
        return self.n_images / self.train_s if self.n_images else np.nan

    def _stop_if_diverged(self, loss: float) -> None:
        if not np.isfinite(loss):
            raise Diverged(f"The loss is {loss} in epoch {self.epoch}: training diverged. Lower lr.")


class Scaler(Callback):
    """Scale the loss up and the gradients down again, so that small ones are not lost in float16."""

    def __init__(self, device: torch.device) -> None:
        self.scaler = torch.amp.GradScaler(device.type)

    def before_backward(self) -> None:
        self.learn.loss_grad = self.scaler.scale(self.loss_grad)

    def before_step(self) -> None:
        self.scaler.step(self.opt.opt)  # the fused optimiser skips a step of infinite gradients itself
        self.scaler.update()
        raise CancelStepException  # it is done


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
        tensors = {f"model/{name}": tensor for name, tensor in weights(self.model).items()}
        state = self.opt.opt.state_dict()["state"]
        tensors |= {f"opt/{i}/{name}": t.contiguous() for i, values in state.items() for name, t in values.items()}
        about = {"configuration": self.configuration, "rows": json.dumps(self.curve.rows)}
        if hasattr(self.learn, "scaler"):
            about["scaler"] = json.dumps(self.learn.scaler.scaler.state_dict())
        with whole_file(self.path) as partial:
            partial.write_bytes(safetensors.save(tensors, metadata=about))
        self.saved = time.monotonic()

    def restore(self, learn: Learner) -> int:
        """Load the checkpoint, if it is of this configuration; the epoch to go on with."""
        self.first = 0
        learn.create_opt()
        if not self.path.is_file():
            return 0
        try:
            file = safe_open(self.path, "pt", device=str(next(learn.model.parameters()).device))
        except SafetensorError as error:
            warnings.warn(f"{self.path} is damaged ({error}): the training starts again.", stacklevel=2)
            return 0
        with file:
            if file.metadata()["configuration"] != self.configuration:
                return 0
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            self.curve.rows = json.loads(file.metadata()["rows"])
            if hasattr(learn, "scaler"):
                learn.scaler.scaler.load_state_dict(json.loads(file.metadata()["scaler"]))
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
