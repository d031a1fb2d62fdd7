"""Changes to training batches.

Conventions
-----------
x : float32 (n, n_channels, n_mels, n_frames), dB. Every function returns a new tensor and leaves its input alone.
Randomness is a `torch.Generator`. Validation is never augmented: `learners` calls these for training batches only.

Used in: 03, 04.
"""

import torch

__all__ = ["spec_augment"]


def spec_augment(x: torch.Tensor, n_masks: int, mask_share: float, generator: torch.Generator) -> torch.Tensor:
    """Hide bands of mels and stretches of time, each window its own, behind the window's mean.

    Parameters
    ----------
    x : (n, n_channels, n_mels, n_frames), dB
    n_masks : masks along each of the two axes
    mask_share : largest width of a mask as a share of its axis, [0, 1]; widths are uniform from 0 to it

    Returns
    -------
    Tensor of the same shape

    Source
    ------
    Park et al. 2019, SpecAugment, without time warping.
    """
    hidden = torch.zeros(x.shape[0], 1, x.shape[2], x.shape[3], dtype=torch.bool)
    for axis in (2, 3):
        for _ in range(n_masks):
            hidden |= _stretch(x.shape[0], x.shape[axis], mask_share, generator).view(
                x.shape[0], 1, *((-1, 1) if axis == 2 else (1, -1))
            )
    return torch.where(hidden.to(x.device), x.mean(dim=(2, 3), keepdim=True), x)


def _stretch(n: int, length: int, share: float, generator: torch.Generator) -> torch.Tensor:
    """A random stretch of each of n rows, bool (n, length), at most floor(share * length) wide."""
    width = torch.floor(torch.rand(n, 1, generator=generator) * (int(share * length) + 1))
    start = torch.floor(torch.rand(n, 1, generator=generator) * (length - width + 1))
    at = torch.arange(length)
    return (at >= start) & (at < start + width)
