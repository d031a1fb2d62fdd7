"""Tests of lib.augment: what is hidden, how much of it, and that nothing else changes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.augment import spec_augment

calm = settings(deadline=None, max_examples=60)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed)) * 20 - 40  # no two values alike, and none equal to the mean


def n_stretches(hidden: torch.Tensor) -> torch.Tensor:
    """Runs of True in each row of a bool tensor (n, length)."""
    edges = torch.diff(hidden.int(), dim=1, prepend=torch.zeros(len(hidden), 1, dtype=torch.int))
    return (edges == 1).sum(dim=1)


@calm
@given(
    st.integers(1, 5), st.integers(1, 3), st.integers(2, 20), st.integers(2, 20),
    st.integers(0, 3), st.floats(0, 0.33), st.integers(0, 2**31),
)  # fmt: skip
def test_hides_few_and_narrow_stretches_and_nothing_else(n, n_channels, n_mels, n_frames, n_masks, share, seed):
    x = noise(n, n_channels, n_mels, n_frames, seed=seed)
    before = x.clone()
    y = spec_augment(x, n_masks, share, seeded(seed))
    assert torch.equal(x, before) and y.shape == x.shape and y.data_ptr() != x.data_ptr()
    hidden = y != x
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden))  # channels are hidden together
    mels, frames = hidden[:, 0].all(dim=2), hidden[:, 0].all(dim=1)  # share * n_masks < 1: never a whole axis
    assert torch.equal(hidden[:, 0], mels[:, :, None] | frames[:, None, :])
    for stretches, length in ((mels, n_mels), (frames, n_frames)):
        assert (stretches.sum(dim=1) <= n_masks * int(share * length)).all()
        assert (n_stretches(stretches) <= n_masks).all()
    mean = x.mean(dim=(2, 3), keepdim=True).expand_as(x)
    assert torch.equal(y[hidden], mean[hidden])
    assert torch.equal(y, spec_augment(x, n_masks, share, seeded(seed)))


def test_windows_differ_and_so_do_calls():
    x, generator = noise(50, 1, 40, 60), seeded(1)
    first, second = (spec_augment(x, 1, 0.5, generator) != x for _ in range(2))
    assert len({row.numpy().tobytes() for row in torch.cat([first, second])}) > 90


@pytest.mark.parametrize(("n_masks", "share"), [(0, 0.5), (2, 0.0), (2, 0.04)])  # 0.04 of 20 is less than one
def test_nothing_to_hide_changes_nothing(n_masks, share):
    x = noise(4, 2, 20, 20)
    assert torch.equal(spec_augment(x, n_masks, share, seeded(0)), x)


@pytest.mark.parametrize("axis", [2, 3])
def test_widths_are_uniform_and_places_reach_both_ends(axis):
    shape = [6000, 1, 1, 1]
    shape[axis] = 10
    x = noise(*shape)
    hidden = (spec_augment(x, 1, 0.5, seeded(3)) != x).reshape(6000, 10)  # the other axis is too short to be masked
    width = hidden.sum(dim=1)
    counts = np.bincount(width, minlength=6)
    assert len(counts) == 6 and (abs(counts - 1000) < 4 * np.sqrt(1000)).all()  # 0 to 5 of 10
    starts = hidden[width == 5].int().argmax(dim=1)
    counts = np.bincount(starts, minlength=6)
    assert len(counts) == 6 and (abs(counts - len(starts) / 6) < 4 * np.sqrt(len(starts) / 6)).all()


def test_a_share_of_one_may_hide_all():
    x = noise(400, 1, 3, 1)
    y = spec_augment(x, 1, 1.0, seeded(0))
    whole = (y == x.mean(dim=(2, 3), keepdim=True)).all(dim=2).squeeze()
    assert whole.any() and not whole.all()
