"""The audio field's own small network: blocks of two 3 x 3 convolutions and a pooling, no stride before them.

    arch: ideas/cnn.py:cnn

CNN10 of Kong et al. 2020 (PANNs) with a quarter of its channels: the mean over the bands, then the largest value over
time plus the mean.
"""

from torch import nn

CHANNELS = (16, 32, 64, 128)


class Block(nn.Sequential):
    """Two convolutions, each with batch normalisation, and the mean of 2 x 2."""

    def __init__(self, n_in, n_out):
        layers = []
        for n in (n_in, n_out):
            layers += [nn.Conv2d(n, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]
        super().__init__(*layers, nn.AvgPool2d(2))


class Pooled(nn.Module):
    def forward(self, x):
        frames = x.mean(dim=2)  # (n, channels, time)
        return frames.amax(dim=2) + frames.mean(dim=2)


def cnn(n_channels):
    """(n, n_channels, n_mels, n_frames) -> (n, 128); at least 16 bands and 16 frames."""
    return nn.Sequential(*map(Block, (n_channels, *CHANNELS), CHANNELS), Pooled())
