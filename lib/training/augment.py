"""Changes to training batches.

Conventions
-----------
x       : float32 (n, n_channels, n_mels, n_frames), as `windows.batch` gives it. Every function returns a new tensor
          and leaves its input alone.
in_db   : a bool a channel (`LogMel.in_db`): changes of level apply to channels in dB only.
y       : targets, float32 (n, n_classes); NaN where it is not known whether the class is heard.
change  : f(x, in_db, generator) -> x of the same shape
mix     : f(x, y, in_db, generator, alpha) -> x, y: every window and its labels with those of another one of the batch
Randomness is a `torch.Generator` on the device of x, and each window of a batch has its own draw. In training it is a
`Draws`, which draws for all windows of an epoch at once what is asked of it by `uniform` and `weights`. Training
batches only: what is validated or scored is never changed.

Used in: `batches`, `callbacks`, `tryout`, 00, ideas/; explained in 03.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from lib import settings

__all__ = [
    "AUGMENTATIONS", "MIXES", "Draws", "add_powers", "equaliser", "from_power", "gain", "larger", "louder", "mean_of",
    "partners", "shift_pad", "shift_wrap", "spec_augment", "stretch", "to_power", "uniform", "weights", "wrapped",
]  # fmt: skip

GAIN_DB = 6.0  # +- dB
EQUALISER_DB, EQUALISER_POINTS = 8.0, 5  # +- dB at points spread evenly over the mel bands
WRAP_SHARE, PAD_SHARE = 0.5, 0.25  # largest shift as a share of the window
STRETCH_LOG, MEL_SHARE = 0.2, 0.08  # time by exp(+-0.2); mel axis zoomed and shifted by +- 8 % of it
PER_DB = math.log(10) / 10  # power = exp(PER_DB * dB)

Mixed = tuple[Tensor, Tensor]  # windows and targets


class Draws(Generator):
    """A generator that draws for all windows of an epoch at once, and hands it out batch by batch.

    Parameters
    ----------
    device : of the windows
    seed : of the epoch
    n : windows of the epoch
    """

    def __new__(cls, device: torch.device, seed: int, n: int) -> "Draws":
        return super().__new__(cls, device)

    def __init__(self, device: torch.device, seed: int, n: int) -> None:
        self.manual_seed(seed)
        self.n, self.drawn, self.asked, self.chosen = n, {}, Counter(), slice(0)

    def batch(self, chosen: slice) -> None:
        """From now on it is asked for the windows `chosen` of the epoch."""
        self.chosen, self.asked = chosen, Counter()

    def once(self, n: int, kind: tuple, draw: Callable[[int], Tensor]) -> Tensor:
        """What `draw` gives for the batch's windows out of all; called anew where `n` windows are not those of a batch.

        A batch may ask several times for a kind, or not at all: the first time is always handed the same draw.
        """
        if n != len(range(self.n)[self.chosen]):
            return draw(n)
        self.asked[kind] += 1
        asked = kind, self.asked[kind]
        if asked not in self.drawn:
            self.drawn[asked] = draw(self.n)
        return self.drawn[asked][self.chosen]


def uniform(generator: Generator, x: Tensor, k: int) -> Tensor:
    """Uniform in [0, 1), float32 (n, k), for the n windows of x."""
    return _once(generator, len(x), (k,), lambda n: torch.rand(n, k, generator=generator, device=x.device))


def weights(generator: Generator, x: Tensor, alpha: float) -> Tensor:
    """Drawn from Beta(alpha, alpha), float32 (n,), for the n windows of x."""

    def draw(n: int) -> Tensor:
        alphas = torch.full((n, 2), alpha, dtype=torch.float64, device=x.device)
        return torch._sample_dirichlet(alphas, generator)[:, 0].float()  # torch's Beta takes no generator

    return _once(generator, len(x), ("beta", alpha), draw)


def _once(generator: Generator, n: int, kind: tuple, draw: Callable[[int], Tensor]) -> Tensor:
    return generator.once(n, kind, draw) if isinstance(generator, Draws) else draw(n)


def gain(x: Tensor, in_db: Sequence[bool], generator: Generator) -> Tensor:
    """Each window louder or quieter by one level, uniform within +-GAIN_DB; shape stays."""
    return louder(x, _spread(generator, x, 1, GAIN_DB)[..., None, None], in_db)


def shift_wrap(x: Tensor, in_db: Sequence[bool], generator: Generator) -> Tensor:
    """Each window rotated in time by up to half of it; what leaves at one end enters at the other. Shape stays."""
    return wrapped(x, _shifts(generator, x, WRAP_SHARE))


def shift_pad(x: Tensor, in_db: Sequence[bool], generator: Generator) -> Tensor:
    """Each window moved in time by up to a quarter of it; its own minimum of the channel enters. Shape stays."""
    shift = _shifts(generator, x, PAD_SHARE)
    source = torch.arange(x.shape[3], device=x.device) - shift[:, None]
    inside = (source >= 0) & (source < x.shape[3])
    return torch.where(inside[:, None, None, :], wrapped(x, shift), x.amin(dim=(2, 3), keepdim=True))


def equaliser(x: Tensor, in_db: Sequence[bool], generator: Generator) -> Tensor:
    """Each window as if recorded by another microphone: a curve over the mel bands is added, the same in every frame.

    The curve is linear between EQUALISER_POINTS levels, each uniform within +-EQUALISER_DB. Shape stays.
    """
    points = _spread(generator, x, EQUALISER_POINTS, EQUALISER_DB)
    curve = torch.nn.functional.interpolate(points[:, None], size=x.shape[2], mode="linear", align_corners=True)
    return louder(x, curve[..., None], in_db)


def stretch(x: Tensor, in_db: Sequence[bool], generator: Generator) -> Tensor:
    """Each window slower or faster, and wider and higher in pitch or the reverse, about its middle; shape stays.

    Time is stretched by exp(uniform +-STRETCH_LOG), the mel axis by 1 + uniform +-MEL_SHARE, and shifted by up to
    MEL_SHARE of itself. Bilinear; beyond an edge, its value is repeated.
    """
    tempo = _spread(generator, x, 1, STRETCH_LOG)[:, 0].exp()
    zoom, shift = _spread(generator, x, 2, MEL_SHARE).T
    zero = torch.zeros_like(tempo)
    rows = torch.stack([1 / tempo, zero, zero]), torch.stack([zero, 1 / (1 + zoom), 2 * shift])  # the axis is 2 long
    places = torch.nn.functional.affine_grid(torch.stack(rows).permute(2, 0, 1), list(x.shape), align_corners=False)
    return torch.nn.functional.grid_sample(x, places, padding_mode="border", align_corners=False)


AUGMENTATIONS = {f.__name__: f for f in (gain, shift_wrap, shift_pad, equaliser, stretch)}
assert tuple(AUGMENTATIONS) == settings.AUGMENTATIONS


def spec_augment(x: Tensor, n_masks: int, mask_share: float | Tensor, generator: Generator) -> Tensor:
    """Replace random bands of mels and stretches of time by the window's mean, separately for each window.

    Parameters
    ----------
    n_masks : masks along each of the two axes
    mask_share : largest width of a mask as a share of its axis, [0, 1], for all windows or (n,) for each; widths are
        uniform from 0 to it

    Returns
    -------
    Tensor of the same shape

    Source
    ------
    Park et al. 2019, SpecAugment, without time warping.
    """
    share = torch.as_tensor(mask_share, dtype=torch.float32, device=x.device).view(-1, 1)
    drawn = uniform(generator, x, 4 * n_masks).view(len(x), 2, n_masks, 2)
    mels, frames = (_masked(drawn[:, i], x.shape[2 + i], share) for i in range(2))
    hidden = mels[:, None, :, None] | frames[:, None, None, :]
    return torch.where(hidden, x.mean(dim=(2, 3), keepdim=True), x)


def mixup(x: Tensor, y: Tensor, in_db: Sequence[bool], generator: Generator, alpha: float) -> Mixed:
    """The weighted mean of both log-mels and of their labels; the larger weight is the window's own.

    Source
    ------
    Zhang et al. 2018, mixup.
    """
    other, weight = partners(generator, x), larger(weights(generator, x, alpha))
    return mean_of(x, x[other], weight), mean_of(y, y[other], weight)


def mixup_power(x: Tensor, y: Tensor, in_db: Sequence[bool], generator: Generator, alpha: float) -> Mixed:
    """The weighted mean of both powers, and of their labels: what two sounds at these shares of their power give."""
    power, y = mixup(to_power(x, in_db), y, in_db, generator, alpha)
    return from_power(power, in_db), y


MIXES = {f.__name__: f for f in (mixup, mixup_power)}
assert tuple(MIXES) == settings.MIXES


def louder(x: Tensor, decibels: Tensor, in_db: Sequence[bool]) -> Tensor:
    """x raised by `decibels` (broadcast over x) in channels in dB, the others as they are; shape stays."""
    return x + decibels * _channels(in_db, x)


def wrapped(x: Tensor, shift: Tensor) -> Tensor:
    """Each window of x turned to the right in time by its own number of frames, int (n,); shape stays."""
    source = (torch.arange(x.shape[3], device=x.device) - shift[:, None]) % x.shape[3]
    return x.take_along_dim(source[:, None, None, :], dim=3)


def to_power(x: Tensor, in_db: Sequence[bool]) -> Tensor:
    """Channels in dB as linear power, the others as they are; shape stays."""
    return torch.where(_channels(in_db, x), (x * PER_DB).exp(), x)


def from_power(x: Tensor, in_db: Sequence[bool]) -> Tensor:
    """The reverse of `to_power`."""
    chosen = _channels(in_db, x)
    return torch.where(chosen, x.where(chosen, 1).log() / PER_DB, x)


def add_powers(one: Tensor, other: Tensor, in_db: Sequence[bool]) -> Tensor:
    """Both sounds at once: powers are added in channels in dB; in the others, which have none, the mean. Shape stays.

    Equals the sum of two waveforms except for the cross term of their phases, which is 0 on average.
    """
    both = torch.logaddexp(one * PER_DB, other * PER_DB) / PER_DB
    return torch.where(_channels(in_db, one), both, (one + other) / 2)


def partners(generator: Generator, x: Tensor) -> Tensor:
    """Another window for each of a batch, int (n,), every window once; now and then its own."""
    return uniform(generator, x, 1)[:, 0].argsort()


def larger(weight: Tensor) -> Tensor:
    """The larger share of two that add up to 1."""
    return weight.maximum(1 - weight)


def mean_of(one: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """weight of one and 1 - weight of the other, (n,); NaN where either is."""
    return torch.lerp(other, one, weight.view(-1, *(1,) * (one.ndim - 1)))


def _masked(drawn: Tensor, length: int, share: Tensor) -> Tensor:
    """Random stretches of an axis, each at most floor(share * length) wide: (n, n_masks, 2) -> bool (n, length)."""
    widest = (share * length + 1e-4).floor()  # 0.3 of 10 is 3 in float32 too
    width = (drawn[..., 0] * (widest + 1)).floor()
    start = (drawn[..., 1] * (length - width + 1)).floor()
    at = torch.arange(length, device=drawn.device)
    return ((at >= start[..., None]) & (at < (start + width)[..., None])).any(dim=1)


def _shifts(generator: Generator, x: Tensor, share: float) -> Tensor:
    """Frames to shift each window by, int (n,), uniform from -share to share of its length."""
    most = int(share * x.shape[3])
    return (uniform(generator, x, 1)[:, 0] * (2 * most + 1)).long() - most


def _spread(generator: Generator, x: Tensor, k: int, most: float) -> Tensor:
    """Uniform from -most to most, float32 (n, k)."""
    return (2 * uniform(generator, x, k) - 1) * most


def _channels(in_db: Sequence[bool], x: Tensor) -> Tensor:
    """A bool a channel in the shape that fits x."""
    return _bools(tuple(in_db), x.device)


@functools.lru_cache(maxsize=64)
def _bools(in_db: tuple[bool, ...], device: torch.device) -> Tensor:
    return torch.tensor(in_db, device=device).view(-1, 1, 1)  # moved to the device once
