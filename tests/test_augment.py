"""Tests of augment: each change does what it says, as far as it says, and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.sound.features import LogMel
from lib.training import augment
from lib.training.augment import AUGMENTATIONS, add_powers, from_power, spec_augment, to_power, wrapped

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


def test_every_window_has_its_own_widest_mask():
    """One width for all and the same width for each are the same draws."""
    x = noise(40, 1, 20, 30)
    alike = spec_augment(x, 2, torch.full((40,), 0.3, dtype=torch.float64), seeded(1))
    assert torch.equal(alike, spec_augment(x, 2, 0.3, seeded(1)))
    shares = torch.linspace(0, 0.45, 40, dtype=torch.float64)
    hidden = spec_augment(x, 1, shares, seeded(1)) != x
    frames, mels = hidden.all(dim=2).sum(dim=2)[:, 0], hidden.all(dim=3).sum(dim=2)[:, 0]
    assert (frames <= (30 * shares).floor()).all() and (mels <= (20 * shares).floor()).all()
    assert frames[20:].float().mean() > frames[:20].float().mean()


# the table

each = pytest.mark.parametrize("change", AUGMENTATIONS.values(), ids=AUGMENTATIONS)


@each
@calm
@given(st.integers(1, 4), st.integers(1, 3), st.integers(2, 20), st.integers(1, 20), st.integers(0, 2**31))
def test_a_change_keeps_shape_and_input_and_returns_with_its_generator(change, n, n_channels, n_mels, n_frames, seed):
    x, in_db = noise(n, n_channels, n_mels, n_frames, seed=seed), [True, False, True][:n_channels]
    before = x.clone()
    y = change(x, in_db, seeded(seed))
    assert torch.equal(x, before) and y.data_ptr() != x.data_ptr()
    assert y.shape == x.shape and y.dtype == x.dtype and y.isfinite().all()
    assert torch.equal(y, change(x, in_db, seeded(seed)))


@each
def test_windows_are_changed_each_in_its_own_way(change):
    x = noise(1, 1, 16, 64).expand(20, -1, -1, -1).contiguous()
    generator = seeded(0)
    results = torch.cat([change(x, [True], generator), change(x, [True], generator)])
    assert len({window.numpy().tobytes() for window in results}) > 15  # shift_pad has 33 ways


def test_gain_adds_one_level_to_channels_in_decibels():
    x = noise(2000, 2, 3, 5)
    added = augment.gain(x, [True, False], seeded(0)) - x
    assert (added[:, 1] == 0).all()
    level = added[:, 0].mean(dim=(1, 2))
    torch.testing.assert_close(added[:, 0], level[:, None, None].expand(-1, 3, 5), atol=1e-4, rtol=0)
    assert -6.001 < level.min() < -5.9 and 5.9 < level.max() < 6.001
    assert abs(level.mean()) < 4 * 12 / np.sqrt(12 * 2000)


def test_shift_wrap_turns_all_bands_and_channels_by_up_to_half():
    frame = torch.arange(20.0).expand(3000, 2, 4, 20) + 100 * torch.arange(4)[:, None]
    y = augment.shift_wrap(frame, [True, False], seeded(0))
    shift = -y[:, 0, 0, 0].int() % 20
    assert torch.equal(y, torch.stack([x.roll(int(k), dims=2) for x, k in zip(frame, shift, strict=True)]))
    counts = np.bincount(shift, minlength=20)
    assert (counts[:10] > 0).all() and (counts[11:] > 0).all()  # -10 and 10 are the same


def test_shift_pad_lets_each_channels_minimum_in():
    x = noise(3000, 2, 4, 20)
    y = augment.shift_pad(x, [True, False], seeded(0))
    shifts = set()
    for one, other in zip(x, y, strict=True):
        low = one.amin(dim=(1, 2), keepdim=True)
        left = other == low
        entered = left.all(dim=1).all(dim=0)
        k = int(entered.sum()) * (1 if entered[0] else -1)
        kept = (one[..., : 20 - k], other[..., k:]) if k >= 0 else (one[..., -k:], other[..., : 20 + k])
        assert torch.equal(*kept)
        shifts.add(k)
    assert shifts == set(range(-5, 6))


def test_equaliser_adds_one_smooth_curve_to_every_frame():
    x = noise(500, 2, 41, 6)
    added = augment.equaliser(x, [True, False], seeded(0)) - x
    assert (added[:, 1] == 0).all()
    curve = added[:, 0].mean(dim=2)
    torch.testing.assert_close(added[:, 0], curve[..., None].expand(-1, -1, 6), atol=1e-4, rtol=0)
    bends = curve.diff(n=2, dim=1).abs() > 1e-3
    assert set((bends.any(dim=0).nonzero()[:, 0] + 1).tolist()) == {10, 20, 30}  # 5 points, 3 of them inside
    assert 7.8 < curve.abs().max() < 8.001


def test_stretch_moves_a_spike_as_far_as_it_says():
    x = torch.zeros(3000, 1, 101, 101)
    x[:, :, 50, 75] = 1  # half way from the middle to the end
    y = augment.stretch(x, [True], seeded(0))
    mels, frames = (y.sum(dim=d)[:, 0] / y.sum(dim=(2, 3)) for d in (3, 2))
    at_mel, at_frame = mels @ torch.arange(101.0), frames @ torch.arange(101.0)
    factor = (at_frame - 50) / 25
    assert np.exp(-0.2) - 0.02 < factor.min() < np.exp(-0.19) and np.exp(0.19) < factor.max() < np.exp(0.2) + 0.02
    assert abs(factor.log().mean()) < 0.02
    moved = (at_mel - 50) / 101
    assert -0.095 < moved.min() < -0.075 and 0.075 < moved.max() < 0.095


def test_stretch_without_a_draw_changes_nothing(monkeypatch):
    monkeypatch.setattr(augment, "STRETCH_LOG", 0.0)
    monkeypatch.setattr(augment, "MEL_SHARE", 0.0)
    x = noise(3, 2, 16, 33)
    torch.testing.assert_close(augment.stretch(x, [True, True], seeded(0)), x, atol=1e-3, rtol=0)


def test_a_constant_stays_one_under_what_only_moves():
    x = torch.full((4, 1, 8, 12), -37.0)
    for name in ("shift_wrap", "shift_pad", "stretch"):
        torch.testing.assert_close(AUGMENTATIONS[name](x, [True], seeded(0)), x)


# powers


def test_wrapped_is_a_roll_of_each_window():
    x = noise(3, 2, 4, 7)
    y = wrapped(x, torch.tensor([0, 3, -2]))
    assert torch.equal(y, torch.stack([x[0], x[1].roll(3, dims=2), x[2].roll(-2, dims=2)]))


def test_powers_of_ten_decibels():
    x = torch.tensor([0.0, 10.0, -20.0]).view(1, 1, 3, 1).repeat(1, 2, 1, 1)
    power = to_power(x, [True, False])
    torch.testing.assert_close(power[0, :, :, 0], torch.tensor([[1, 10, 0.01], [0.0, 10.0, -20.0]]))
    torch.testing.assert_close(from_power(power, [True, False]), x, atol=1e-5, rtol=0)


def test_two_equal_sounds_are_three_decibels_louder_and_a_faint_one_adds_nothing():
    one, other = torch.full((1, 2, 1, 2), -30.0), torch.tensor([-30.0, -100.0]).expand(1, 2, 1, 2)
    both = add_powers(one, other, [True, False])
    torch.testing.assert_close(both[0, 0, 0], torch.tensor([-30 + 10 * np.log10(2), -30.0]), check_dtype=False)
    assert both[0, 1, 0].tolist() == [-30.0, -65.0]


@calm
@given(st.floats(-100, 60), st.floats(-100, 60))
def test_a_sum_of_powers_is_never_below_either_and_order_does_not_matter(a, b):
    one, other = torch.full((1, 1, 1, 1), a), torch.full((1, 1, 1, 1), b)
    both = add_powers(one, other, [True])
    assert both >= max(a, b) - 1e-4 and both <= max(a, b) + 3.0104
    torch.testing.assert_close(both, add_powers(other, one, [True]))


def test_a_sum_of_powers_is_the_log_mel_of_a_sum_of_waveforms_but_for_phases():
    logmel, rng = LogMel(22_050, n_fft=1024, hop_length=441, n_mels=32, fmin=20), np.random.default_rng(0)
    one, other = rng.normal(0, 0.1, 44_100), np.convolve(rng.normal(0, 0.1, 44_100), [0.5, 0.5], "same")
    a, b, real = (logmel(wave)[None] for wave in (one, other, one + other))
    difference = add_powers(a, b, [True]) - real
    assert difference.abs().median() < 1  # dB
    assert abs(difference.median()) < 0.3  # on average there is none
    assert torch.minimum((a - real).abs(), (b - real).abs()).median() > 1.5  # neither sound alone is their sum


# draws of an epoch


def test_an_epoch_is_drawn_at_once_and_handed_out_by_batch():
    draws, x = augment.Draws(torch.device("cpu"), 3, 7), noise(4, 1, 2, 2)
    found = {"uniform": [], "weights": []}
    for chosen in (slice(0, 4), slice(4, 7)):
        draws.batch(chosen)
        found["uniform"].append(augment.uniform(draws, x[: chosen.stop - chosen.start], 3))
        found["weights"].append(augment.weights(draws, x[: chosen.stop - chosen.start], 0.4))
    whole = torch.Generator().manual_seed(3)
    numbers, drawn = noise(7, 1, 2, 2), {name: torch.cat(parts) for name, parts in found.items()}
    assert torch.equal(drawn["uniform"], augment.uniform(whole, numbers, 3))
    assert torch.equal(drawn["weights"], augment.weights(whole, numbers, 0.4))
    assert drawn["uniform"].shape == (7, 3) and drawn["weights"].shape == (7,)


def test_a_change_may_draw_for_some_batches_and_for_a_part_of_one():
    draws, x = augment.Draws(torch.device("cpu"), 3, 8), noise(4, 1, 2, 2)
    found = {}
    for number, is_louder in enumerate([False, True]):
        draws.batch(slice(4 * number, 4 * number + 4))
        if is_louder:
            augment.gain(x, [True], draws)
            assert augment.gain(x[:2], [True], draws).shape == (2, 1, 2, 2)
        found[number] = augment.uniform(draws, x, 5)
    assert torch.equal(torch.cat([found[0], found[1]]), augment.uniform(seeded(3), noise(8, 1, 2, 2), 5))


def test_weights_are_those_of_the_beta_distribution():
    weights = augment.weights(seeded(0), noise(20_000, 1, 1, 1), 0.4).double()
    assert weights.mean().item() == pytest.approx(0.5, abs=0.02)
    assert weights.var().item() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.005)  # of Beta(a, a)


def test_a_change_of_ones_own_may_draw_within_the_step():
    """What it draws comes after what was drawn for the epoch, and is the same again under the same seed."""
    drawn = []
    for _ in range(2):
        draws = augment.Draws(torch.device("cpu"), 3, 4)
        draws.batch(slice(0, 4))
        drawn.append((augment.gain(noise(4, 1, 2, 2), [True], draws), torch.rand(5, generator=draws)))
    assert all(map(torch.equal, *drawn))
