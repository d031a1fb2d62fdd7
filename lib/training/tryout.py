"""Ideas of your own tried on three clips before anything is trained: shapes, numbers, repeatability, and time.

Used in: `learners`.
"""

import copy
import timeit
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch

from lib import ideas
from lib.sound import windows
from lib.training.augment import AUGMENTATIONS, MIXES
from lib.training.batches import Training
from lib.training.models import WindowModel

__all__ = ["check"]

SLOW = 2.0  # times the base's step: then a person is told
ROUNDING = 1e-4  # by which targets may leave 0 to 1
ANOTHER = 20  # of the seeds that must make no difference where an idea draws by its generator alone


def check(training: Training, loss: Callable, model: WindowModel) -> None:
    """Try the ideas of a training; what is built in is passed over.

    Parameters
    ----------
    training : where its batches will be made; its recipe names augmentations and mix
    loss : (logits, targets) -> a number
    model : as it will be trained, on its device; it is left as it is

    Warns
    -----
    UserWarning
        With its ideas a step takes over SLOW times as long; the message tells minutes an epoch.

    Raises
    ------
    ValueError
        An idea can't be called, what it gives has another shape or range or is not finite, it differs under the same
        seed (a network: when it is built anew with its weights; a loss: when it is called again), a network shares its
        layers with another one, or what the idea is given has changed. The message names the idea and says what is
        expected.
    """
    x, y = _windows(training, 3)
    in_db, recipe = training.cache.logmel.in_db, training.recipe
    changes = {
        name: lambda x, y, g, name=name: (ideas.find(AUGMENTATIONS, name)(x, in_db, g),)
        for name in filter(ideas.is_idea, recipe.augment)
    }
    if recipe.mixup and ideas.is_idea(recipe.mix):
        changes[recipe.mix] = lambda x, y, g: _pair(ideas.find(MIXES, recipe.mix)(x, y, in_db, g, recipe.mixup))
    for name, change in changes.items():
        form = "f(x, y, in_db, generator, alpha) -> x, y" if name == recipe.mix else "f(x, in_db, generator) -> x"
        with ideas.expecting(name, form):
            _check_change(name, change, x, y)
    if ideas.is_idea(model.network.arch):
        _check_network(model, x)
    step = _step(model, loss)
    logits, value = step(x, y)
    if logits.shape != y.shape or not logits.isfinite().all():
        raise ValueError(
            f"{model.network.arch} makes {_of(logits)} of {_of(x)}: expected {tuple(y.shape)}, all finite."
        )
    if value.ndim or not value.isfinite():
        raise ValueError(f"The loss makes {_of(value)} of {_of(logits)}: expected one finite number.")
    _check_loss(loss, logits, y)
    if changes:
        _warn_if_slow(training, changes, step)


def _check_change(name: str, change: Callable, x: torch.Tensor, y: torch.Tensor) -> None:
    """Try it twice under one seed, while torch's own random numbers differ."""
    given = (x.clone(), y.clone())
    found = []
    for k in range(2):
        torch.manual_seed(ANOTHER + k)  # which an idea has no business with
        found.append(change(x, y, torch.Generator(x.device).manual_seed(0)))
    for made, of in zip(found[0], (x, y), strict=False):
        if not isinstance(made, torch.Tensor) or made.shape != of.shape or made.dtype != of.dtype:
            raise ValueError(f"{name} makes {_of(made)} of {_of(of)}: expected the same shape and type.")
    if not found[0][0].isfinite().all():
        raise ValueError(f"{name} makes NaN or infinite numbers of three windows. Guard logarithms and divisions.")
    for targets in found[0][1:]:  # of a mix
        outside = (targets < -ROUNDING) | (targets > 1 + ROUNDING)
        if outside.any() or targets.isnan().all() > y.isnan().all():
            raise ValueError(f"{name} makes targets not between 0 and 1, or all unknown (NaN). Share out the labels.")
    if not (torch.equal(x, given[0]) and torch.equal(y.nan_to_num(-1), given[1].nan_to_num(-1))):
        raise ValueError(
            f"{name} changes its input in place: other augmentations see that. Work on a copy (x.clone())."
        )
    if not all(torch.equal(*pair) for pair in zip(*([part.nan_to_num(-1) for part in f] for f in found), strict=True)):
        raise ValueError(
            f"{name} differs under the same seed. Draw by the generator: torch.rand(..., generator=generator)."
        )


def _check_network(model: WindowModel, x: torch.Tensor) -> None:
    """Compare its logits with those of the same network, built anew and given its weights, as scoring does later."""
    about = {**model.settings, "classes": range(model.head[1].out_features)}
    form = "a network of (n, n_channels, n_mels, n_frames) -> (n, n_features)"
    with _same_draws_after(x), torch.inference_mode(), ideas.expecting(model.network.arch, form):
        again = WindowModel.rebuild(about).to(x.device)  # what it draws now is not what the model drew
        if {id(weights) for weights in again.parameters()} & {id(weights) for weights in model.parameters()}:
            raise ValueError(
                f"{model.network.arch} gives the same layers each time, so trainings would go on from each other's "
                "weights. Build them within the function."
            )
        again.load_state_dict(model.state_dict())
        again.precision = model.precision
        found = [tried.eval()(x) for tried in (copy.deepcopy(model), again)]
    if not torch.allclose(*found, rtol=1e-3, atol=1e-3, equal_nan=True):
        raise ValueError(
            f"{model.network.arch} makes other numbers of the same windows when it is built anew and given its weights."
            " Give what it draws to register_buffer or nn.Parameter, and let it draw nothing in eval()."
        )


def _check_loss(loss: Callable, logits: torch.Tensor, y: torch.Tensor) -> None:
    """Call it twice: what it keeps would go from one training to the next, and be lost where one is stopped."""
    found = []
    for _ in range(2):
        with _same_draws_after(y):
            found.append(loss(logits, y.clone()))
    if not torch.equal(*found):
        raise ValueError(
            "The loss gives another number for the same logits and targets: let it keep nothing, and draw by torch."
        )


def _step(model: WindowModel, loss: Callable) -> Callable:
    """(x, y) -> logits and loss of a training step on a copy of the model; the state of torch's generator stays."""
    tried = copy.deepcopy(model).train()

    def step(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with _same_draws_after(x):
            with ideas.expecting(
                model.network.arch, "a network of (n, n_channels, n_mels, n_frames) -> (n, n_features)"
            ):
                logits = tried(x)
            given = y.clone()
            with ideas.expecting("The loss", "f(logits, targets) -> a number"):
                value = loss(logits, given)
            if not torch.equal(given.nan_to_num(-1), y.nan_to_num(-1)):
                raise ValueError("The loss changes its targets in place. Work on a copy (targets.clone()).")
            if not isinstance(value, torch.Tensor) or not value.requires_grad:
                raise ValueError("The loss can't be trained: it is no differentiable function of the logits.")
            value.sum().backward()
        return logits.detach(), value.detach()

    return step


def _same_draws_after(x: torch.Tensor) -> AbstractContextManager:
    """What is drawn within, on the device of x, leaves torch's generators as they were."""
    return torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else [])


def _warn_if_slow(training: Training, changes: dict[str, Callable], step: Callable) -> None:
    x, y = _windows(training, training.recipe.batch_size)
    generator = torch.Generator(x.device).manual_seed(0)
    plain = _seconds(lambda: step(x, y))
    own = sum(_seconds(lambda change=change: change(x, y, generator)) for change in changes.values())
    if own + plain > SLOW * plain:
        minutes = (len(training) * seconds / 60 for seconds in (plain + own, plain))
        warnings.warn(
            "With {} an epoch takes about {:.2g} minutes instead of {:.2g}.".format(", ".join(changes), *minutes),
            stacklevel=4,
        )


def _windows(training: Training, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first windows of up to n clips, and their targets."""
    rows = training.rows.drop_duplicates("fname").head(n)
    device = training.device or training.cache.device
    x = windows.batch(training.cache, rows, np.zeros(len(rows), int), training.width)
    return x.to(device), training.targets[: len(rows)].to(device)


def _seconds(work: Callable) -> float:
    """Of the faster one of two calls."""

    def done() -> None:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return min(timeit.repeat(done, repeat=2, number=1))


def _pair(made: object) -> tuple[torch.Tensor, torch.Tensor]:
    """What a mix gives, if that is windows and targets."""
    if not (isinstance(made, tuple | list) and len(made) == 2):
        raise ValueError(f"The mix gives {_of(made)}: expected x and y, windows and targets.")
    return tuple(made)


def _of(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
