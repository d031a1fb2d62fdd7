"""Four more ways to mix two windows of a batch; none was found to be ahead of mixup.

mix: ideas/mixes.py:cutmix
"""

import torch

from lib.training.augment import add_powers, larger, louder, mean_of, partners, uniform, weights, wrapped

OR_SHARE = 0.25  # of the input: the least that the second window has under mixup_or_bounded
OVERLAY_SHARE, OVERLAY_DB = 0.5, 6.0  # how many windows get a second sound, and how its level is changed, +- dB


def mixup_or(x, y, in_db, generator, alpha, least=0.0):
    """The mixture of mixup, labelled with all classes of both; weights are drawn in to [least, 1 - least]."""
    other, weight = partners(generator, x), larger(least + (1 - 2 * least) * weights(generator, x, alpha))
    return mean_of(x, x[other], weight), torch.maximum(y, y[other])  # NaN if either is


def mixup_or_bounded(x, y, in_db, generator, alpha):
    """`mixup_or` in which no window has less than OR_SHARE of the mixture: no class labelled is hardly present."""
    return mixup_or(x, y, in_db, generator, alpha, OR_SHARE)


def cutmix(x, y, in_db, generator, alpha):
    """A rectangle of one in the other, about 1 - weight of its area; labels by area (Yun et al. 2019, CutMix)."""
    other, side = partners(generator, x), (1 - weights(generator, x, alpha)).sqrt()
    middle = uniform(generator, x, 2)
    rows, columns = (around(middle[:, i], side, x.shape[2 + i]) for i in range(2))
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    share = 1 - inside.float().mean(dim=(1, 2, 3))
    return torch.where(inside, x[other], x), torch.where(share[:, None] < 1, mean_of(y, y[other], share), y)


def overlay(x, y, in_db, generator, alpha):
    """Both sounds whole, labelled with all classes of both, in half of the windows (alpha plays no part).

    The second sound is louder or quieter by up to OVERLAY_DB, from any point of time, wrapped.
    """
    other, (chosen, level, start) = partners(generator, x), uniform(generator, x, 3).T
    second = wrapped(x[other], (start * x.shape[3]).long())
    both = add_powers(x, louder(second, ((2 * level - 1) * OVERLAY_DB).view(-1, 1, 1, 1), in_db), in_db)
    chosen = chosen < OVERLAY_SHARE
    return torch.where(chosen.view(-1, 1, 1, 1), both, x), torch.where(chosen[:, None], torch.maximum(y, y[other]), y)


def around(middle, side, length):
    """The part of an axis about each middle, both as shares of it, cut off at its ends: (n,) -> bool (n, length)."""
    at = torch.arange(length, device=middle.device)
    half = (side * length).round()[:, None] / 2
    return ((at + 0.5) - (middle * length).floor()[:, None]).abs() <= half
