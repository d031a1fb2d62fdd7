"""Between-class mixing: two windows of different classes, and the network says in which ratio (Tokozume et al. 2018).

    mix: ideas/between_class.py:between_class

As its authors do it, but of powers instead of waveforms: the ratio is uniform, the louder sound is turned down so that
the ratio is one of what is heard, and the target is the ratio.
"""

import torch

from lib.training.augment import from_power, to_power


def between_class(x, y, in_db, generator, alpha):
    """Every window with one of other labels; alpha plays no part."""
    n = len(x)
    alike = (y.nan_to_num()[:, None] == y.nan_to_num()[None]).all(dim=2)
    draws = torch.rand(n, n + 1, generator=generator, device=x.device)
    other = (draws[:, :n] - alike.float()).argmax(dim=1)  # one of its own labels only where there is no other
    ratio = draws[:, n].clamp(1e-3, 1 - 1e-3)
    loudness = x[:, 0].amax(dim=(1, 2))  # dB
    share = 1 / (1 + 10 ** ((loudness - loudness[other]) / 20) * (1 - ratio) / ratio)  # of the amplitude
    one, two = share.square(), (1 - share).square()
    weight = (one / (one + two)).view(-1, 1, 1, 1)
    mixed = torch.lerp(to_power(x[other], in_db), to_power(x, in_db), weight)
    return from_power(mixed, in_db), torch.lerp(y[other], y, ratio[:, None])
