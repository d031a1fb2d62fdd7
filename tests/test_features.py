"""Tests of features: librosa's numbers on every kind of clip, known phases, and refusals."""

import json
from dataclasses import replace

import librosa
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lib.data import audio
from lib.sound.features import CHANNELS, LogMel, mel_filters, to_audio

pytestmark = pytest.mark.filterwarnings("ignore:n_fft=.* is too large:UserWarning")  # librosa, of short clips
RNG = np.random.default_rng(0)
SMALL = LogMel(8000, 256, 80, 16, 20)
SETTINGS = {
    "small machine": LogMel(22050, 1024, 441, 64, 20),
    "winners": LogMel(44100, 2560, 690, 128, 20),
    "narrow": LogMel(16000, 512, 160, 40, 60, fmax=7800, top_db=60),
    "wide range": LogMel(32000, 1024, 320, 64, 50, fmax=14000, top_db=100),
    "hop as long as n_fft, odd": LogMel(8000, 401, 401, 20, 0),
}


def oracle(x: np.ndarray, s: LogMel) -> np.ndarray:
    """librosa in float64: its own float32 is off by 0.005 dB in the quiet bands of a pure tone."""
    power = librosa.feature.melspectrogram(
        y=np.asarray(x, np.float64), sr=s.sample_rate, n_fft=s.n_fft, hop_length=s.hop_length, n_mels=s.n_mels,
        fmin=s.fmin, fmax=s.fmax or None, pad_mode="constant",
    )  # fmt: skip
    return librosa.power_to_db(power, top_db=s.top_db)


def assert_equal_to_librosa(x: np.ndarray, s: LogMel) -> None:
    found = s(x)
    assert found.dtype == torch.float32 and found.shape[:2] == (1, s.n_mels)
    np.testing.assert_allclose(found[0].numpy(), oracle(x, s), atol=0.03, rtol=0)


def sounds(rate: int) -> dict[str, np.ndarray]:
    t = np.arange(rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * t)
    return {
        "noise": RNG.normal(0, 0.1, rate),
        "tone": tone,
        "tone between bins": np.sin(2 * np.pi * 1234.5 * t),
        "tone on a bin": np.sin(2 * np.pi * rate / 16 * t),
        "chord, clipped": np.clip(tone + np.sin(2 * np.pi * 1234.5 * t), -1, 1),
        "near-silence, then a tone": np.concatenate([RNG.normal(0, 1e-6, rate), tone]),
        "one click": np.eye(1, rate, rate // 3)[0],
        "quieter than the floor": RNG.normal(0, 1e-9, rate),
        "10 ms": tone[: rate // 100],
        "one sample": np.array([0.5]),
    }


def with_channels(*names: str, settings: LogMel = SMALL) -> LogMel:
    return replace(settings, channels=names)


@pytest.mark.parametrize("name", SETTINGS)
def test_equal_to_librosa(name):
    for sound in sounds(SETTINGS[name].sample_rate).values():
        assert_equal_to_librosa(sound.astype(np.float32), SETTINGS[name])


@pytest.mark.parametrize("name", ["small machine", "winners"])
def test_equal_to_librosa_on_real_clips(shared_data, name):
    for path in sorted((shared_data("esc10") / "audio").glob("*.ogg"))[::60]:
        assert_equal_to_librosa(audio.read(path, SETTINGS[name].sample_rate), SETTINGS[name])


@settings(deadline=None, max_examples=30)
@given(
    rate=st.sampled_from([8000, 16000, 22050, 44100]),
    n_fft=st.integers(128, 1500),
    overlap=st.floats(0, 0.95),
    n_mels=st.integers(8, 32),
    band=st.tuples(st.floats(0, 0.5), st.floats(0.3, 1)),
    top_db=st.floats(10, 120),
    n_samples=st.integers(1, 4000),
    seed=st.integers(0, 1000),
)
def test_equal_to_librosa_for_any_settings(rate, n_fft, overlap, n_mels, band, top_db, n_samples, seed):
    fmin, fmax = band[0] * rate / 2, band[1] * rate / 2
    hop = max(1, round(n_fft * (1 - overlap)))
    try:
        logmel = LogMel(rate, n_fft, hop, n_mels, fmin, fmax=fmax, top_db=top_db)
    except ValueError:
        assume(False)
    assume(n_samples + 2 * (n_fft // 2) >= n_fft)  # a single sample and an odd n_fft: not one frame
    theirs = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax)
    np.testing.assert_allclose(mel_filters(logmel), theirs, atol=1e-7 * theirs.max(), rtol=1e-5)
    assert_equal_to_librosa(np.random.default_rng(seed).normal(0, 0.1, n_samples), logmel)


@pytest.mark.parametrize("name", SETTINGS)
def test_filters_are_librosas(name):
    s = SETTINGS[name]
    theirs = librosa.filters.mel(sr=s.sample_rate, n_fft=s.n_fft, n_mels=s.n_mels, fmin=s.fmin, fmax=s.fmax or None)
    assert mel_filters(s).dtype == np.float32
    np.testing.assert_allclose(mel_filters(s), theirs, atol=1e-8, rtol=1e-5)


def test_frame_t_is_centred_on_its_sample():
    click = np.eye(1, 8000, 40 * 80)[0]
    assert SMALL(click)[0].max(dim=0).values.argmax() == 40
    assert SMALL.frames_per_s == 100
    assert [SMALL(np.ones(n)).shape[2] for n in (1, 79, 80, 8000)] == [1, 1, 2, 101]


def test_dynamic_range_is_cut_at_top_db():
    loud = np.r_[RNG.normal(0, 0.1, 4000), RNG.normal(0, 1e-7, 4000)]
    for top_db in (20.0, 80.0):
        decibels = LogMel(8000, 256, 80, 16, 20, top_db=top_db)(loud)
        assert (decibels.max() - decibels.min()).item() == pytest.approx(top_db, abs=1e-4)


def test_arrays_and_tensors_give_the_same_and_stay_as_they_are():
    x = RNG.normal(0, 0.1, 1000).astype(np.float32)
    before = x.copy()
    assert torch.equal(SMALL(x), SMALL(torch.from_numpy(x)))
    np.testing.assert_array_equal(x, before)


# --- channels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("channel", "order"), [("delta", 1), ("acceleration", 2)])
def test_derivatives_are_librosas(name, channel, order):
    """Within 0.001 dB a frame: the log-mels themselves are that close."""
    s = SETTINGS[name]
    for sound in sounds(s.sample_rate).values():
        found = with_channels(channel, settings=s)(sound)[0]
        decibels = oracle(sound, s)
        assert found.shape == decibels.shape
        if decibels.shape[1] >= 9:
            np.testing.assert_allclose(found, librosa.feature.delta(decibels, width=9, order=order), atol=0.03, rtol=0)


def test_a_clip_of_few_frames_has_the_derivatives_of_all_it_has():
    for n_frames in range(1, 12):
        sound = RNG.normal(0, 0.1, 80 * n_frames - 1)
        delta, acceleration = with_channels("delta", "acceleration")(sound)
        decibels = oracle(sound, SMALL)
        assert delta.shape == acceleration.shape == decibels.shape == (16, n_frames)
        first = decibels[:, :9].T
        for order, found in ((1, delta), (2, acceleration)):
            expected = order * np.polyfit(range(len(first)), first, order)[0] if len(first) > order else np.zeros(16)
            np.testing.assert_allclose(found[:, 0], expected, atol=1e-3)


def librosas_pcen(x: np.ndarray, s: LogMel) -> np.ndarray:
    magnitude = librosa.feature.melspectrogram(
        y=np.asarray(x, np.float64), sr=s.sample_rate, n_fft=s.n_fft, hop_length=s.hop_length, n_mels=s.n_mels,
        fmin=s.fmin, fmax=s.fmax or None, pad_mode="constant", power=1,
    )  # fmt: skip
    return librosa.pcen(magnitude * 2**31, sr=s.sample_rate, hop_length=s.hop_length)


@pytest.mark.parametrize("name", SETTINGS)
def test_pcen_is_librosas(name):
    """Within 0.01 %, and 1e-5 where it is near 0."""
    for sound in [*sounds(SETTINGS[name].sample_rate).values(), np.zeros(3000)]:
        found = with_channels("pcen", settings=SETTINGS[name])(sound)[0]
        np.testing.assert_allclose(found, librosas_pcen(sound, SETTINGS[name]), rtol=1e-4, atol=1e-5)


BIN_A_BAND = LogMel(8000, 256, 80, 31, 0, fmax=1000, channels=("phase",))  # band m holds bin m + 1 alone, 31.25 Hz each


@pytest.mark.parametrize("offset", [-0.5, -0.2, 0.0, 0.3, 0.5])
def test_a_tone_between_bins_shows_its_offset_from_each(offset):
    tone = 0.5 * np.sin(2 * np.pi * (20 + offset) * 31.25 * np.arange(8000) / 8000 + 1)
    (found,) = BIN_A_BAND(tone)
    assert (found[:, 0] == 0).all()
    steady = found[:, 5:-5]  # frames that do not reach into the padding
    for band, expected in ((18, offset + 1), (19, offset), (20, offset - 1)):
        np.testing.assert_allclose(steady[band], expected, atol=1e-3)
    assert found.abs().max() <= 256 / (2 * 80) + 1e-3


def test_the_offset_of_a_tone_beyond_the_range_wraps():
    tone = np.sin(2 * np.pi * 20.3 * 31.25 * np.arange(8000) / 8000)
    assert BIN_A_BAND(tone)[0, 21, 50].item() == pytest.approx(-1.7 + 256 / 80, abs=0.01)


def test_phase_is_the_power_weighted_mean_of_unwrapped_advances():
    s = with_channels("phase", settings=SETTINGS["narrow"])
    sound = RNG.normal(0, 0.1, 4000)
    spectrum = librosa.stft(sound, n_fft=s.n_fft, hop_length=s.hop_length, pad_mode="constant")
    turn = 2 * np.pi * s.hop_length / s.n_fft
    advance = np.diff(np.angle(spectrum), axis=1) - turn * np.arange(len(spectrum))[:, None]
    offset = (np.mod(advance + np.pi, 2 * np.pi) - np.pi) / turn
    weights = mel_filters(s)[:, :, None] * np.abs(spectrum[:, 1:]) ** 2
    expected = (weights * offset).sum(axis=1) / weights.sum(axis=1)
    np.testing.assert_allclose(s(sound)[0, :, 1:], expected, atol=1e-3)


def test_silence_and_single_samples_give_numbers():
    for sound in (np.zeros(1000), np.array([0.5]), np.r_[np.zeros(800), 0.1 * np.ones(80), np.zeros(800)]):
        for names in (("delta", "acceleration", "phase"), ("logmel", "pcen", "logmel_512")):
            assert with_channels(*names)(sound).isfinite().all()
    assert with_channels("delta", "phase", "pcen")(np.zeros(1000)).abs().max() < 1e-6


@settings(deadline=None, max_examples=30)
@given(
    names=st.lists(st.sampled_from([*CHANNELS, "logmel_128", "logmel_512", "logmel_1024"]), min_size=1, max_size=3),
    n_samples=st.integers(1, 2000),
    seed=st.integers(0, 1000),
)
def test_each_channel_is_what_it_is_alone(names, n_samples, seed):
    sound = np.random.default_rng(seed).normal(0, 0.1, n_samples)
    logmel = LogMel(8000, 256, 80, 12, 20, channels=names)
    found = logmel(sound)
    assert found.dtype == torch.float32 and found.shape == (logmel.n_channels, 12, 1 + n_samples // 80)
    assert logmel.channels == tuple(names) and logmel.in_db == tuple(name[:6] == "logmel" for name in names)
    for channel, name in zip(found, names, strict=True):
        n_fft = int(name[7:] or 256) if name.startswith("logmel") else 256
        alone = LogMel(8000, n_fft, 80, 12, 20, channels=("logmel" if "_" in name else name,))
        assert torch.equal(channel, alone(sound)[0])


def test_one_transform_for_each_n_fft_and_precision(monkeypatch):
    lengths, rfft = [], torch.fft.rfft
    monkeypatch.setattr(torch.fft, "rfft", lambda frames: (lengths.append(frames.shape[1]), rfft(frames))[1])
    with_channels("logmel", "delta", "acceleration")(np.ones(900))
    with_channels("phase", "pcen")(np.ones(900))
    assert lengths == [256, 256]
    with_channels("logmel", "logmel_512", "pcen")(np.ones(900))
    assert sorted(lengths[2:]) == [256, 256, 512]


# --- settings ------------------------------------------------------------------------------------------------------


def test_settings_make_the_same_one_again():
    for logmel in (SMALL, with_channels("logmel", "logmel_512", "pcen")):
        assert LogMel(**json.loads(json.dumps(logmel.settings()))) == logmel
        assert json.loads(json.dumps(logmel.settings())) == logmel.settings()
    assert SMALL.settings()["fmax"] == 0 and SMALL.top_hz == 4000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hop_length": 257}, r"hop_length=257 is longer than n_fft=256: samples would be skipped. Lower hop_length"),
        ({"fmin": -1.0}, r"fmin=-1.0 should be greater than or equal to 0 \(Hz, lowest band edge\)"),
        ({"fmin": 4000.0}, r"fmin=4000.0 and fmax=0.0 Hz must satisfy 0 <= fmin < fmax <= sample_rate / 2 = 4000 Hz"),
        ({"fmin": 500.0, "fmax": 400.0}, r"fmin=500.0 and fmax=400.0 Hz must satisfy"),
        ({"fmax": 4001.0}, r"fmax=4001.0 Hz must satisfy .*fmax 0 means that limit"),
        ({"fmin": float("nan")}, r"fmin=nan"),
        ({"channels": []}, r"channels=\[\] should have at least 1 item.* \(one to three input channels: logmel"),
        ({"channels": ["logmel"] * 4}, r"should have at most 3 items"),
        ({"channels": ["mfcc"]}, r"unknown name 'mfcc'. There are: logmel, delta, .*pcen, logmel_<n_fft>"),
        ({"channels": ["logmel_0512"]}, r"unknown name 'logmel_0512'"),
        ({"channels": ["logmel", "logmel_511"]}, r"'logmel_511' beside n_fft=256: one is odd and one even"),
        ({"channels": ["logmel_64"]}, r"hop_length=80 is longer than n_fft=64"),
        ({"channels": ["logmel_128"], "n_mels": 80}, r"of n_mels=80 bands are narrower than one of the n_fft=128 bins"),
        ({"n_mels": 200}, r"\d+ of n_mels=200 bands are narrower than one of the n_fft=256 bins .*raise n_fft"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        LogMel(**{**SMALL.settings(), **change})


@pytest.mark.parametrize("shape", [(), (0,), (2, 800)])
def test_audio_that_is_no_row_of_samples_is_refused(shape):
    with pytest.raises(ValueError, match=r"audio of shape .*: expected \(n_samples,\) with at least one sample"):
        SMALL(np.zeros(shape))


@pytest.mark.parametrize("s", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("name", ["noise", "tone"])
def test_the_sound_of_a_log_mel_has_about_that_log_mel(name, s):
    decibels = s(sounds(s.sample_rate)[name])[0]
    samples = to_audio(s, decibels)
    assert samples.shape == (decibels.shape[1] * s.hop_length,) and np.isfinite(samples).all()
    assert (samples == to_audio(s, decibels)).all()
    found, loud = s(samples)[0][:, : decibels.shape[1]], decibels > decibels.max() - 20
    assert (found - decibels)[loud].abs().mean() < 3
    assert to_audio(s, decibels[:, :1]).shape == (s.hop_length,)
