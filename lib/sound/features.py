"""Log-mel spectrograms and their companions (deltas, phase, PCEN), as channels of one tensor.

The same numbers as librosa's `melspectrogram` followed by `power_to_db` (within 0.03 dB, down to 80 dB below the peak),
and as its `delta` and `pcen` (the tests compare with librosa), computed without librosa and numba, so that scoring
needs neither.

Conventions
-----------
audio   : float array or tensor (n_samples,), mono, about [-1, 1], at `sample_rate` Hz.
spectrum: tensor (n_fft // 2 + 1, n_frames), complex64, or complex128 for phase and PCEN.
channel : float32 tensor (n_mels, n_frames); `CHANNELS` holds the functions (settings, spectrum) -> channel by name:
  logmel       : dB re 1 (librosa's ref), no lower than `top_db` below the clip's maximum
  logmel_<n>   : the same with n_fft=n, such as logmel_512; same hop, centred on the same samples
  delta        : dB a frame, slope of the log-mel over 9 frames
  acceleration : dB a frame squared, its second derivative over 9 frames
  phase        : bins of n_fft, how far the frequencies lie from the centres of the bins they are found in
  pcen         : per-channel energy normalisation, no unit, 0 and up
frame t is centred on sample t * hop_length; n_frames = 1 + n_samples // hop_length (n_fft even).

Used in: 00 to 08, through `cache` and the sidecar of the weights.
"""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import torch

from lib import ideas
from lib.settings import CHANNELS as NAMES
from lib.settings import Audio, group

__all__ = ["CHANNELS", "HALF_MAX", "LogMel", "mel_filters", "to_audio"]

AMIN = 1.0e-10  # librosa's floor on power before the logarithm: -100 dB
HALF_MAX = float(torch.finfo(torch.float16).max)  # caches hold half precision
DELTA_FRAMES = 9  # librosa's default
INVERSION_STEPS = 32  # librosa's default of Griffin and Lim's
PCEN_SCALE = 2.0**31  # librosa's advice for audio in [-1, 1]: its PCEN constants expect 32-bit integers
PCEN_TIME_S, PCEN_GAIN, PCEN_BIAS, PCEN_POWER, PCEN_EPS = 0.4, 0.98, 2.0, 0.5, 1.0e-6  # librosa's defaults


@group
class LogMel(Audio):
    """The settings of a log-mel spectrogram; calling it computes one. Terms and defaults of the formulas are librosa's.

    Parameters
    ----------
    the knobs of `settings.Audio`
    fmax : Hz, upper edge of the highest mel band; 0 means half the sample rate
    top_db : dB below the clip's maximum at which values are cut off

    Raises
    ------
    ValueError
        If a setting is out of range, settings contradict each other, or a channel is unknown; the message names them.
    """

    fmax: float = 0.0
    top_db: float = 80.0

    def __post_init__(self) -> None:
        if self.hop_length > self.n_fft:
            raise ValueError(
                f"hop_length={self.hop_length} is longer than n_fft={self.n_fft}: samples would be skipped. "
                "Lower hop_length."
            )
        if not 0 <= self.fmin < self.top_hz <= self.sample_rate / 2:
            raise ValueError(
                f"fmin={self.fmin} and fmax={self.fmax} Hz must satisfy 0 <= fmin < fmax <= sample_rate / 2 = "
                f"{self.sample_rate / 2:g} Hz (fmax 0 means that limit)."
            )
        empty = int((mel_filters(self).sum(axis=1) == 0).sum())
        if empty:
            raise ValueError(
                f"{empty} of n_mels={self.n_mels} bands are narrower than one of the n_fft={self.n_fft} bins and would "
                "always be silent. Lower n_mels or raise n_fft."
            )
        for name in self.channels:
            _channel(self, name)

    @property
    def n_channels(self) -> int:
        return len(self.channels)

    @property
    def in_db(self) -> tuple[bool, ...]:
        """Which channels are in dB: only these have a gain and a floor."""
        return tuple(name.startswith("logmel") for name in self.channels)

    @property
    def top_hz(self) -> float:
        return self.fmax or self.sample_rate / 2

    @property
    def frames_per_s(self) -> float:
        return self.sample_rate / self.hop_length

    def __call__(self, audio: np.ndarray | torch.Tensor) -> torch.Tensor:
        """The channels of one clip, (n_samples,) -> (n_channels, n_mels, n_frames) float32; one STFT for each n_fft.

        Raises
        ------
        ValueError
            If `audio` is not one-dimensional or has no sample.
        """
        audio = torch.as_tensor(audio)
        if audio.ndim != 1 or not len(audio):
            raise ValueError(f"audio of shape {tuple(audio.shape)}: expected (n_samples,) with at least one sample.")
        made_by = [_channel(self, name) for name in self.channels]
        kinds = [
            (settings.n_fft, EXACT.get(name, torch.float32))
            for name, (_, settings) in zip(self.channels, made_by, strict=True)
        ]
        spectra = {kind: _spectrum(audio.to(kind[1]), kind[0], self.hop_length) for kind in set(kinds)}
        return torch.stack(
            [make(settings, spectra[kind]) for (make, settings), kind in zip(made_by, kinds, strict=True)]
        )


def log_mel(settings: LogMel, spectrum: torch.Tensor) -> torch.Tensor:
    """Mel power in dB, cut off `top_db` below the clip's maximum.

    Source
    ------
    Slaney's mel scale and area normalisation; 10 log10(power), as in librosa 0.11.
    """
    decibels = 10 * torch.log10((_filters(settings) @ _power(spectrum)).clamp_min(AMIN))
    return decibels.clamp_min(decibels.max() - settings.top_db)


def derivative(settings: LogMel, spectrum: torch.Tensor, order: int) -> torch.Tensor:
    """Derivative of the log-mel along time: that of the polynomial of degree `order` through 9 frames, at their middle.

    The first and last four frames repeat the nearest value, which is that of librosa's mode `interp` too. A clip of
    fewer frames has one value a band, fitted to all it has; 0 where these are too few for the degree.

    Source
    ------
    Savitzky and Golay 1964; librosa 0.11 `feature.delta`.
    """
    decibels = log_mel(settings, spectrum)
    width = min(DELTA_FRAMES, decibels.shape[1])
    if width <= order:
        return torch.zeros_like(decibels)
    at = np.arange(width) - (width - 1) / 2
    weights = math.factorial(order) * np.linalg.pinv(np.vander(at, order + 1, increasing=True))[order]
    slopes = torch.nn.functional.conv1d(decibels[:, None], torch.from_numpy(weights).float()[None, None])[:, 0]
    return torch.nn.functional.pad(slopes, ((width - 1) // 2, width // 2), mode="replicate")


def phase(settings: LogMel, spectrum: torch.Tensor) -> torch.Tensor:
    """Instantaneous frequency less that of the bin, in bins (of sample_rate / n_fft Hz), power-weighted mean of a band.

    The phase advance of a bin since the frame before, less the advance of a tone in the middle of the bin, wrapped to
    [-pi, pi]: a tone between two bins shows its offset from each. Offsets beyond n_fft / (2 hop_length) bins are
    ambiguous and wrap. 0 in frame 0 and where there is no sound.

    Source
    ------
    Flanagan and Golden 1966, Phase vocoder.
    """
    turn_a_bin = 2 * torch.pi * settings.hop_length / settings.n_fft
    expected = torch.exp(-1j * turn_a_bin * torch.arange(len(spectrum), dtype=torch.float64))[:, None]
    advance = torch.angle(spectrum[:, 1:] * spectrum[:, :-1].conj() * expected)
    offset = torch.nn.functional.pad(advance / turn_a_bin, (1, 0)).float()
    filters, power = _filters(settings), _power(spectrum)
    return (filters @ (power * offset)) / (filters @ power).clamp_min(AMIN)


def pcen(settings: LogMel, spectrum: torch.Tensor) -> torch.Tensor:
    """Mel magnitude over its own recent past (a first-order low-pass of 0.4 s), as the root of a range-limited ratio.

    Source
    ------
    Wang et al. 2017, Trainable frontend; librosa 0.11 `pcen` with its defaults, scaled by 2 ** 31 as it advises.
    """
    magnitude = PCEN_SCALE * (_filters(settings) @ spectrum.abs().float())
    frames = PCEN_TIME_S * settings.frames_per_s
    b = (math.sqrt(1 + 4 * frames**2) - 1) / (2 * frames**2)
    start = np.full((len(magnitude), 1), 1 - b)  # librosa's: as if the past had been 1
    from scipy.signal import lfilter  # here, since it takes most of a second and few runs use PCEN

    past = torch.from_numpy(lfilter([b], [1, b - 1], magnitude.double().numpy(), zi=start)[0])
    gain = torch.exp(-PCEN_GAIN * (math.log(PCEN_EPS) + torch.log1p(past / PCEN_EPS))).float()
    return PCEN_BIAS**PCEN_POWER * torch.expm1(PCEN_POWER * torch.log1p(magnitude * gain / PCEN_BIAS))


CHANNELS = {
    "logmel": log_mel,
    "delta": partial(derivative, order=1),
    "acceleration": partial(derivative, order=2),
    "phase": phase,
    "pcen": pcen,
}
assert tuple(CHANNELS) == NAMES
EXACT = dict.fromkeys(("phase", "pcen"), torch.float64)  # in float32 they are off in a pure tone's quiet bands


def mel_filters(settings: LogMel) -> np.ndarray:
    """Triangular filters of equal area on Slaney's mel scale, float32 (n_mels, n_fft // 2 + 1).

    Source
    ------
    M. Slaney, Auditory Toolbox (1998): linear below 1 kHz (200/3 Hz a mel), logarithmic above (27 mels from 1 to
    6.4 kHz).
    """
    edges = _mel_to_hz(np.linspace(_hz_to_mel(settings.fmin), _hz_to_mel(settings.top_hz), settings.n_mels + 2))
    bins = np.fft.rfftfreq(settings.n_fft, 1 / settings.sample_rate)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def to_audio(settings: LogMel, decibels: torch.Tensor) -> np.ndarray:
    """A sound whose log-mel is about this one, to hear what a log-mel holds; phases are made up.

    First the powers of the bins whose bands come nearest to these, none negative; then phases that fit them.

    Parameters
    ----------
    decibels : (n_mels, n_frames), dB

    Returns
    -------
    float32 (n_frames * hop_length,)

    Source
    ------
    Lee and Seung 2001, multiplicative updates; Griffin and Lim 1984, from random phases (of the same seed each time).
    """
    again = torch.nn.functional.pad(decibels.float().cpu(), (0, 1), mode="replicate")  # a sound needs two frames
    filters, power = _filters(settings), 10 ** (again / 10)
    bins = torch.full((filters.shape[1], power.shape[1]), AMIN)
    for _ in range(INVERSION_STEPS):
        ratio = power / (filters @ bins).clamp_min(AMIN)
        bins = bins * (filters.T @ ratio) / filters.sum(dim=0).clamp_min(AMIN)[:, None]
    window = _hann(settings.n_fft, torch.float32).clamp_min(1e-3)  # not 0: hop_length may be as long
    how = {"n_fft": settings.n_fft, "hop_length": settings.hop_length, "window": window}
    phases = 2 * torch.pi * torch.rand(bins.shape, generator=torch.Generator().manual_seed(0))
    for _ in range(INVERSION_STEPS):
        samples = torch.istft(torch.polar(bins.sqrt(), phases), **how)
        phases = torch.stft(samples, pad_mode="constant", return_complex=True, **how).angle()
    return samples[: decibels.shape[1] * settings.hop_length].numpy()


HZ_PER_MEL, BREAK_HZ = 200 / 3, 1000.0
BREAK_MEL, LOG_STEP = BREAK_HZ / HZ_PER_MEL, np.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    return hz / HZ_PER_MEL if hz < BREAK_HZ else BREAK_MEL + np.log(hz / BREAK_HZ) / LOG_STEP


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < BREAK_MEL, mel * HZ_PER_MEL, BREAK_HZ * np.exp(LOG_STEP * (mel - BREAK_MEL)))


_TRIED: set[Callable] = set()  # channels that are ideas, called twice on a clip


def _own(function: Callable, name: str, settings: LogMel, spectrum: torch.Tensor) -> torch.Tensor:
    """A channel that is an idea, checked."""
    with ideas.expecting(name, "f(settings, spectrum) -> (n_mels, n_frames)", "a clip"):
        channel = function(settings, spectrum.clone())  # other channels read the spectrum too
    expected, got = (settings.n_mels, spectrum.shape[1]), type(channel).__name__
    if isinstance(channel, torch.Tensor):
        got = f"{'complex ' * channel.is_complex()}{tuple(channel.shape)}"
        got += "" if channel.isfinite().all() else " with NaN or infinite numbers"
    if got != str(expected):
        raise ValueError(f"{name} makes {got} of a spectrum: expected {expected} (n_mels, n_frames), finite numbers.")
    if channel.abs().max() > HALF_MAX:
        raise ValueError(f"{name} makes numbers over {HALF_MAX:.0f}, the largest that is kept. Divide, or take a log.")
    if function not in _TRIED and not torch.equal(channel, function(settings, spectrum.clone())):
        raise ValueError(f"{name} makes another channel of the same clip each time. Draw no random numbers in it.")
    _TRIED.add(function)
    return channel.float()


@lru_cache(maxsize=32)
def _channel(settings: LogMel, name: str) -> tuple[Callable, LogMel]:
    """The function behind a channel's name, and the settings for it: logmel_<n> has its own n_fft."""
    if name in CHANNELS:
        return CHANNELS[name], settings
    if ideas.is_idea(name):
        return partial(_own, ideas.find({}, name), name), settings
    if not (match := re.fullmatch(r"logmel_([1-9]\d*)", str(name))):
        raise ValueError(f"channels has an unknown name {name!r}. There are: {', '.join(CHANNELS)}, logmel_<n_fft>.")
    n_fft = int(match[1])
    if (n_fft - settings.n_fft) % 2:
        raise ValueError(
            f"channel {name!r} beside n_fft={settings.n_fft}: one is odd and one even, so they can differ by a frame. "
            "Take two even numbers."
        )
    return log_mel, replace(settings, n_fft=n_fft, channels=("logmel",))


def _spectrum(audio: torch.Tensor, n_fft: int, hop_length: int) -> torch.Tensor:
    padded = torch.nn.functional.pad(audio, (n_fft // 2, n_fft // 2))
    return torch.fft.rfft(padded.unfold(0, n_fft, hop_length) * _hann(n_fft, audio.dtype)).T


def _power(spectrum: torch.Tensor) -> torch.Tensor:
    return (spectrum.real.square() + spectrum.imag.square()).float()


@lru_cache(maxsize=8)
def _filters(settings: LogMel) -> torch.Tensor:
    return torch.from_numpy(mel_filters(settings))


@lru_cache(maxsize=8)
def _hann(n_fft: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.hann_window(n_fft, dtype=dtype)
