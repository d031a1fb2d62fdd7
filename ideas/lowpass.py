"""Another microphone: each training window loses its highest bands, from a random band on.

augment: [ideas/lowpass.py:lowpass]
"""

import torch

from lib.training.augment import louder, uniform

SLOPE_DB = 1.5  # lost per mel band above the cutoff
LOWEST = 0.4  # of the mel axis: no cutoff lies below


def lowpass(x, in_db, generator):
    """Each window behind a low-pass filter of its own; half of the windows stay as they are."""
    cutoff, chosen = uniform(generator, x, 2).T
    bands = torch.linspace(0, 1, x.shape[2], device=x.device)
    above = (bands - LOWEST - (1 - LOWEST) * cutoff[:, None]).clamp_min(0) * x.shape[2]
    lost = SLOPE_DB * above * (chosen < 0.5)[:, None]
    return louder(x, -lost[:, None, :, None], in_db)
