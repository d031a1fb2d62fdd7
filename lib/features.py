"""Log-mel spectrograms on tensors.

The same numbers as librosa's `melspectrogram` followed by `power_to_db` (librosa is the oracle in the tests), computed
with torch alone, so that scoring needs neither librosa nor numba.

Conventions
-----------
audio   : float array or tensor (n_samples,), mono, about [-1, 1], at `sample_rate` Hz.
log-mel : float32 tensor (n_mels, n_frames), dB re 1 (librosa's ref), no lower than `top_db` below the clip's maximum.
frame t is centred on sample t * hop_length; n_frames = 1 + n_samples // hop_length (n_fft even).

Used in: 01 to 08, through `cache` and the sidecar of the weights.
"""

from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
import torch

__all__ = ["LogMel", "mel_filters"]

AMIN = 1.0e-10  # librosa's floor on power before the logarithm: -100 dB


@dataclass(frozen=True)
class LogMel:
    """The settings of a log-mel spectrogram; calling it computes one. Terms and defaults of the formula are librosa's.

    Parameters
    ----------
    sample_rate : Hz
    n_fft : samples, length of the Hann window
    hop_length : samples between frames
    n_mels : number of mel bands
    fmin, fmax : Hz, edges of the mel bands; fmax 0 means half the sample rate
    top_db : dB below the clip's maximum at which values are cut off

    Raises
    ------
    ValueError
        If the settings contradict each other; the message names them.
    """

    sample_rate: int
    n_fft: int
    hop_length: int
    n_mels: int
    fmin: float
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

    @property
    def top_hz(self) -> float:
        return self.fmax or self.sample_rate / 2

    @property
    def frames_per_s(self) -> float:
        return self.sample_rate / self.hop_length

    def settings(self) -> dict:
        """The settings as a flat dict, for a sidecar or a hash."""
        return asdict(self)

    def __call__(self, audio: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Log-mel of one clip, (n_samples,) -> (n_mels, n_frames) float32.

        Raises
        ------
        ValueError
            If `audio` is not one-dimensional or has no sample.

        Source
        ------
        Slaney's mel scale and area normalisation; 10 log10(power), as in librosa 0.11.
        """
        audio = torch.as_tensor(audio, dtype=torch.float64)  # in float32 a pure tone's quiet bands are off by 0.005 dB
        if audio.ndim != 1 or not len(audio):
            raise ValueError(f"audio of shape {tuple(audio.shape)}: expected (n_samples,) with at least one sample.")
        padded = torch.nn.functional.pad(audio, (self.n_fft // 2, self.n_fft // 2))
        spectrum = torch.fft.rfft(padded.unfold(0, self.n_fft, self.hop_length) * _hann(self.n_fft))
        power = (spectrum.real.square() + spectrum.imag.square()).float().T  # (n_fft / 2 + 1, n_frames)
        decibels = 10 * torch.log10((_filters(self) @ power).clamp_min(AMIN))
        return decibels.clamp_min(decibels.max() - self.top_db)


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


HZ_PER_MEL, BREAK_HZ = 200 / 3, 1000.0
BREAK_MEL, LOG_STEP = BREAK_HZ / HZ_PER_MEL, np.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    return hz / HZ_PER_MEL if hz < BREAK_HZ else BREAK_MEL + np.log(hz / BREAK_HZ) / LOG_STEP


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < BREAK_MEL, mel * HZ_PER_MEL, BREAK_HZ * np.exp(LOG_STEP * (mel - BREAK_MEL)))


@lru_cache(maxsize=8)
def _filters(settings: LogMel) -> torch.Tensor:
    return torch.from_numpy(mel_filters(settings))


@lru_cache(maxsize=8)
def _hann(n_fft: int) -> torch.Tensor:
    return torch.hann_window(n_fft, dtype=torch.float64)
