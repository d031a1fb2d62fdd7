"""Changes to training batches.

Conventions
-----------
x       : float32 (n, n_channels, n_mels, n_frames), as `windows.batch` gives it. Every function returns a new tensor
          and leaves its input alone.
in_db   : a bool a channel (`LogMel.in_db`): changes of level apply to channels in dB only.
Randomness is a `torch.Generator`, and each window of a batch has its own draw. Training batches only: what is validated
or scored is never changed.

Used in: `batches` and `callbacks`; explained in 03.
"""

import math
from collections.abc import Sequence

import torch

from lib import settings

__all__ = [
    "AUGMENTATIONS",
    "add_powers",
    "equaliser",
    "from_power",
    "gain",
    "louder",
    "shift_pad",
    "shift_wrap",
    "spec_augment",
    "stretch",
    "to_power",
    "wrapped",
]

GAIN_DB = 6.0  # +- dB
EQUALISER_DB, EQUALISER_POINTS = 8.0, 5  # +- dB at points spread evenly over the mel bands
WRAP_SHARE, PAD_SHARE = 0.5, 0.25  # largest shift as a share of the window
STRETCH_LOG, MEL_SHARE = 0.2, 0.08  # time by exp(+-0.2); mel axis zoomed and shifted by +- 8 % of it
PER_DB = math.log(10) / 10  # power = exp(PER_DB * dB)


def gain(x: torch.Tensor, in_db: Sequence[bool], generator: torch.Generator) -> torch.Tensor:
    """Each window louder or quieter by one level, uniform within +-GAIN_DB; shape stays."""
    return louder(x, _spread(len(x), 1, GAIN_DB, generator, x)[..., None, None], in_db)


def shift_wrap(x: torch.Tensor, in_db: Sequence[bool], generator: torch.Generator) -> torch.Tensor:
    """Each window rotated in time by up to half of it; what leaves at one end enters at the other. Shape stays."""
    return wrapped(x, _shifts(x, WRAP_SHARE, generator))


def shift_pad(x: torch.Tensor, in_db: Sequence[bool], generator: torch.Generator) -> torch.Tensor:
    """Each window moved in time by up to a quarter of it; its own minimum of the channel enters. Shape stays."""
    shift = _shifts(x, PAD_SHARE, generator)
    source = torch.arange(x.shape[3], device=x.device) - shift[:, None]
    inside = (source >= 0) & (source < x.shape[3])
    return torch.where(inside[:, None, None, :], wrapped(x, shift), x.amin(dim=(2, 3), keepdim=True))


def equaliser(x: torch.Tensor, in_db: Sequence[bool], generator: torch.Generator) -> torch.Tensor:
    """Each window as if recorded by another microphone: a curve over the mel bands is added, the same in every frame.

    The curve is linear between EQUALISER_POINTS levels, each uniform within +-EQUALISER_DB. Shape stays.
    """
    points = _spread(len(x), EQUALISER_POINTS, EQUALISER_DB, generator, x)
    curve = torch.nn.functional.interpolate(points[:, None], size=x.shape[2], mode="linear", align_corners=True)
    return louder(x, curve[..., None], in_db)


def stretch(x: torch.Tensor, in_db: Sequence[bool], generator: torch.Generator) -> torch.Tensor:
    """Each window slower or faster, and wider and higher in pitch or the reverse, about its middle; shape stays.

    Time is stretched by exp(uniform +-STRETCH_LOG), the mel axis by 1 + uniform +-MEL_SHARE, and shifted by up to
    MEL_SHARE of itself. Bilinear; beyond an edge, its value is repeated.
    """
    tempo = _spread(len(x), 1, STRETCH_LOG, generator, x)[:, 0].exp()
    zoom, shift = _spread(len(x), 2, MEL_SHARE, generator, x).T
    zero = torch.zeros_like(tempo)
    rows = torch.stack([1 / tempo, zero, zero]), torch.stack([zero, 1 / (1 + zoom), 2 * shift])  # the axis is 2 long
    places = torch.nn.functional.affine_grid(torch.stack(rows).permute(2, 0, 1), list(x.shape), align_corners=False)
    return torch.nn.functional.grid_sample(x, places, padding_mode="border", align_corners=False)


AUGMENTATIONS = {f.__name__: f for f in (gain, shift_wrap, shift_pad, equaliser, stretch)}
assert tuple(AUGMENTATIONS) == settings.AUGMENTATIONS


def spec_augment(
    x: torch.Tensor, n_masks: int, mask_share: float | torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
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
    hidden = torch.zeros(x.shape[0], 1, x.shape[2], x.shape[3], dtype=torch.bool)
    share = torch.as_tensor(mask_share, dtype=torch.float64).view(-1, 1)
    for axis in (2, 3):
        for _ in range(n_masks):
            hidden |= _stretch(x.shape[0], x.shape[axis], share, generator).view(
                x.shape[0], 1, *((-1, 1) if axis == 2 else (1, -1))
            )
    return torch.where(hidden.to(x.device), x.mean(dim=(2, 3), keepdim=True), x)


def louder(x: torch.Tensor, decibels: torch.Tensor, in_db: Sequence[bool]) -> torch.Tensor:
    """x raised by `decibels` (broadcast over x) in channels in dB, the others as they are; shape stays."""
    return x + decibels * _channels(in_db, x)


def wrapped(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Each window of x turned to the right in time by its own number of frames, int (n,); shape stays."""
    source = (torch.arange(x.shape[3], device=x.device) - shift[:, None]) % x.shape[3]
    return x.take_along_dim(source[:, None, None, :], dim=3)


def to_power(x: torch.Tensor, in_db: Sequence[bool]) -> torch.Tensor:
    """Channels in dB as linear power, the others as they are; shape stays."""
    return torch.where(_channels(in_db, x), (x * PER_DB).exp(), x)


def from_power(x: torch.Tensor, in_db: Sequence[bool]) -> torch.Tensor:
    """The reverse of `to_power`."""
    chosen = _channels(in_db, x)
    return torch.where(chosen, x.where(chosen, 1).log() / PER_DB, x)


def add_powers(one: torch.Tensor, other: torch.Tensor, in_db: Sequence[bool]) -> torch.Tensor:
    """Both sounds at once: powers are added in channels in dB; in the others, which have none, the mean. Shape stays.

    Equals the sum of two waveforms except for the cross term of their phases, which is 0 on average.
    """
    both = torch.logaddexp(one * PER_DB, other * PER_DB) / PER_DB
    return torch.where(_channels(in_db, one), both, (one + other) / 2)


def _stretch(n: int, length: int, share: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random stretch of each of n rows, bool (n, length), at most floor(share * length) wide; share (n or 1, 1)."""
    widest = (share * length).floor().float()
    width = torch.floor(torch.rand(n, 1, generator=generator) * (widest + 1))
    start = torch.floor(torch.rand(n, 1, generator=generator) * (length - width + 1))
    at = torch.arange(length)
    return (at >= start) & (at < start + width)


def _shifts(x: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Frames to shift each window by, int (n,), uniform from -share to share of its length."""
    most = int(share * x.shape[3])
    return torch.randint(-most, most + 1, (len(x),), generator=generator).to(x.device)


def _spread(n: int, k: int, most: float, generator: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    """Uniform from -most to most, float32 (n, k), on the device of `like`."""
    return ((2 * torch.rand(n, k, generator=generator) - 1) * most).to(like.device)


def _channels(in_db: Sequence[bool], x: torch.Tensor) -> torch.Tensor:
    """A bool a channel in the shape that fits x."""
    return torch.tensor(in_db, device=x.device).view(-1, 1, 1)
