"""A small residual network whose first layers keep every mel band and frame, instead of a quarter of them.

    arch: ideas/whole_stem.py:resnet10

Networks for photographs begin with two strides of two: 64 mel bands are 16 then, before much was learnt. This one has a
quarter of the channels instead, so that it costs about the same.
"""

import timm
from torch import nn


def resnet10(n_channels):
    """timm's resnet10t without the strides of its stem: (n, n_channels, n_mels, n_frames) -> (n, 128)."""
    widths = {"stem_width": 8, "channels": (16, 32, 64, 128)}
    body = timm.create_model("resnet10t", in_chans=n_channels, num_classes=0, **widths)
    body.conv1[0].stride, body.maxpool = (1, 1), nn.Identity()
    return body
