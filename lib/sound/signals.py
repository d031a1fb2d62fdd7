"""What a clip's signal tells before anything is learned: level, clipping, silence, spectrum.

Conventions
-----------
Every clip is decoded once at its own rate, so that nothing above half the run's sample rate is lost. dB are relative to
full scale (a full-scale sine has peak_db 0 and rms_db -3).
silence : a frame of 10 ms is silent at a threshold of x dB if its largest |sample| lies more than x dB below the clip's
          largest. Leading, trailing (s, from the ends) and inner (s, all silent frames between). Columns lead_<x>_s,
          trail_<x>_s, inner_<x>_s, whole numbers of dB without a point.
spectrum: mean over Hann windows of 2048 samples, half overlapping.
Results are kept in outputs/cache/signals-<settings>/, rows named by the content of their clip, a file a batch: a killed
run goes on where it stood, and two at once are safe.

Used in: 01_eda.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from lib.data import audio
from lib.files import digest, whole_file
from lib.sound.cache import Cache

__all__ = ["LEFT_S", "THRESHOLDS_DB", "gap", "measure", "silence", "spectra", "statistics", "summary", "trimming"]

THRESHOLDS_DB = (20.0, 30.0, 40.0, 50.0, 60.0)  # below the clip's peak
FRAME_S = 0.01
N_FFT = 2048
FULL_SCALE = 0.9999  # |sample| from here up is at full scale: 16 bit end at 0.99997
BAND_LIMIT_DB = 60.0  # a band this far below the strongest holds no sound: lowpass, or a lower rate in the past
LEFT_S = 0.1  # a clip of which trimming leaves less is emptied
BATCH = 256  # clips in a file of results
VERSION = "lib.signals 1"


def statistics(samples: np.ndarray, sample_rate: int, thresholds_db: Iterable[float] = THRESHOLDS_DB) -> dict:
    """Statistics of one clip.

    Parameters
    ----------
    samples : float (n_samples,), mono, not all zero
    sample_rate : Hz
    thresholds_db : dB below the clip's peak

    Returns
    -------
    peak_db, rms_db, loudness_db (A-weighted level), clipped (share of samples at full scale), zeros (share of samples
    that are 0), centroid_hz, rolloff_hz (95 % of the power lies below), band_limit_hz, and silence at each threshold

    Source
    ------
    A-weighting: IEC 61672-1, its closed formula.
    """
    size = np.abs(samples)
    peak = float(size.max())
    power = _spectrum(samples)
    hz = np.fft.rfftfreq(N_FFT, 1 / sample_rate)
    total = power.sum() or 1.0  # a clip of one sample has no spectrum
    reached = np.cumsum(power) / total
    loud = np.flatnonzero(power >= power.max() * 10 ** (-BAND_LIMIT_DB / 10))
    found = {
        "peak_db": _db(peak**2),
        "rms_db": _db(np.mean(np.square(samples, dtype=np.float64))),
        "loudness_db": _db(power @ _a_weight(hz)),
        "clipped": float(np.mean(size >= FULL_SCALE)),
        "zeros": float(np.mean(size == 0)),
        "centroid_hz": float(hz @ power / total),
        "rolloff_hz": float(hz[np.searchsorted(reached, 0.95) % len(hz)]),
        "band_limit_hz": float(hz[loud[-1]]),
    }
    width = max(1, round(FRAME_S * sample_rate))
    frames = np.maximum.reduceat(size, np.arange(0, len(size), width))
    for threshold in thresholds_db:
        active = np.flatnonzero(frames >= peak * 10 ** (-threshold / 20))
        end = min((active[-1] + 1) * width, len(size))
        found[f"lead_{threshold:g}_s"] = active[0] * width / sample_rate
        found[f"trail_{threshold:g}_s"] = (len(size) - end) / sample_rate
        found[f"inner_{threshold:g}_s"] = (active[-1] + 1 - active[0] - len(active)) * width / sample_rate
    return found


def measure(clips: pd.DataFrame, folder: Path, silence_db: float) -> pd.DataFrame:
    """Statistics of all clips, in parallel; what was measured before is not decoded again.

    Parameters
    ----------
    clips : DataFrame with fname, path, subset, sample_rate
    folder : where caches lie (outputs/cache)
    silence_db : dB below the peak, measured beside THRESHOLDS_DB

    Returns
    -------
    fname, then the columns of `statistics`; a row a clip that can be decoded, in the order of clips
    """
    thresholds = sorted({*THRESHOLDS_DB, float(silence_db)})
    home = Path(folder) / f"signals-{digest(VERSION, thresholds, FRAME_S, N_FFT, FULL_SCALE, BAND_LIMIT_DB)}"
    keys = pd.Series(audio.content_hashes(clips["path"], Path(folder) / "hashes.csv"), index=clips.index, dtype=object)
    made = sorted(home.glob("*.csv"))
    known = [pd.read_csv(path, dtype={"content": str}, float_precision="round_trip") for path in made]
    done = set(pd.concat(known)["content"]) if known else set()
    todo = clips.assign(content=keys)[~keys.isin(done)].drop_duplicates("content")

    def work(row: object) -> dict | None:
        try:
            samples = audio.read(row.path, row.sample_rate)
        except audio.AudioError:
            return None  # listed by lib.cache, which decodes the same files
        return {"content": row.content, **statistics(samples, row.sample_rate, thresholds)}

    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=len(todo), desc="signal statistics", unit="clip", leave=False) as bar,
    ):
        for first in range(0, len(todo), BATCH):
            batch = todo.iloc[first : first + BATCH]
            table = pd.DataFrame([row for row in pool.map(work, batch.itertuples()) if row])
            bar.update(len(batch))
            if len(table):
                with whole_file(home / f"{digest(table['content'].tolist())}.csv") as partial:
                    table.to_csv(partial, index=False)
                known.append(table)
    if not known:
        return pd.DataFrame(columns=["fname", *statistics(np.ones(N_FFT), 8000, thresholds)])
    rows = pd.concat(known).drop_duplicates("content").set_index("content")
    kept = keys[keys.isin(rows.index)]
    table = rows.loc[kept].reset_index(drop=True)
    table.insert(0, "fname", clips.loc[kept.index, "fname"].to_numpy())
    return table


def silence(clips: pd.DataFrame, measured: pd.DataFrame, threshold_db: float) -> pd.DataFrame:
    """Clips with lead_s, trail_s, inner_s and active_s at one threshold.

    Parameters
    ----------
    clips : table of `lib.datasets`
    measured : from `measure`
    threshold_db : one of those measured
    """
    names = {f"{part}_{threshold_db:g}_s": f"{part}_s" for part in ("lead", "trail", "inner")}
    table = clips.merge(measured[["fname", *names]].rename(columns=names), on="fname")
    return table.assign(active_s=table["duration_s"] - table[["lead_s", "trail_s", "inner_s"]].sum(axis=1))


def trimming(clips: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """What trimming would cost, a row a subset and threshold.

    Returns
    -------
    subset, threshold_db, ends (share of the seconds that trimming both ends removes), all (inner silence too), emptied
    (clips of which trimming all leaves less than LEFT_S)
    """
    rows = []
    for threshold in sorted(float(name[5:-2]) for name in measured if name.startswith("lead_")):
        for subset, table in silence(clips, measured, threshold).groupby("subset"):
            total_s, ends_s = table["duration_s"].sum(), (table["lead_s"] + table["trail_s"]).sum()
            emptied = int(((table["active_s"] < LEFT_S) & (table["duration_s"] >= LEFT_S)).sum())
            rows.append((subset, threshold, ends_s / total_s, (ends_s + table["inner_s"].sum()) / total_s, emptied))
    return pd.DataFrame(rows, columns=["subset", "threshold_db", "ends", "all", "emptied"])


def spectra(store: Cache, fnames: pd.Series) -> np.ndarray:
    """Long-term average log-mel spectrum of each clip: mean power over its frames, float32 (n_clips, n_mels), dB."""
    result = np.zeros((len(fnames), store.logmel.n_mels), np.float32)
    for i, clip in enumerate(store.rows(fnames).itertuples()):
        frames = store.frames(clip)[:, 0].double()
        result[i] = 10 * (10 ** (frames / 10)).mean(dim=0).log10()
    return result


def gap(clips: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Medians of sound by subset: the acoustic mismatch in numbers; a row a subset, and the number of its clips.

    `full_scale` is the share of clips with a sample at full scale.
    """
    names = ["peak_db", "rms_db", "loudness_db", "centroid_hz", "rolloff_hz", "band_limit_hz"]
    groups = clips[["fname", "subset"]].merge(measured, on="fname").assign(n=1).groupby("subset")
    medians = groups[names].median().round(1)
    return medians.assign(
        full_scale=groups["clipped"].agg(lambda share: (share > 0).mean()).round(3), n=groups["n"].sum()
    ).reset_index()


def summary(clips: pd.DataFrame, measured: pd.DataFrame, silence_db: float) -> dict[str, object]:
    """Silence and sound of the subsets as flat numbers, and two sentences: `says_silence` and `says_sound`."""
    if measured.empty:
        says = "There is no audio: silence, level and spectrum can't be shown."
        return {"says_silence": says, "says_sound": says}
    cut, sound = trimming(clips, measured), gap(clips, measured).set_index("subset")
    here = cut[cut["threshold_db"] == silence_db].set_index("subset")
    curated = silence(clips, measured, silence_db).query("subset == 'curated'").explode("labels")
    share = 1 - curated.groupby("labels")["active_s"].sum() / curated.groupby("labels")["duration_s"].sum()
    ends = ", ".join(f"{row.ends:.0%} of the {name} seconds" for name, row in here.iterrows())
    emptied = ", ".join(f"{n} at {db:g} dB" for db, n in cut.groupby("threshold_db")["emptied"].sum().items())
    levels = "; ".join(
        f"{name} {row.loudness_db:.0f} dB(A), 95 % of the power below {row.rolloff_hz / 1000:.1f} kHz, nothing above "
        f"{row.band_limit_hz / 1000:.1f} kHz, {row.full_scale:.0%} touch full scale"
        for name, row in sound.iterrows()
    )
    return {
        **{f"silent_ends_{name}": row.ends for name, row in here.iterrows()},
        **{f"silent_{name}": row["all"] for name, row in here.iterrows()},
        "most_silent": share.idxmax(),
        "silent_most_silent": share.max(),
        **{f"loudness_db_{name}": row.loudness_db for name, row in sound.iterrows()},
        **{f"rolloff_hz_{name}": row.rolloff_hz for name, row in sound.iterrows()},
        "says_silence": (
            f"Trimming both ends {silence_db:g} dB below the peak removes {ends}. Most silent is {share.idxmax()}: "
            f"{share.max():.0%} of its seconds, pauses within included. Cutting all silence leaves less than "
            f"{LEFT_S:g} s of this many clips: {emptied}."
        ),
        "says_sound": f"Median clips: {levels}.",
    }


def _spectrum(samples: np.ndarray) -> np.ndarray:
    """Mean power in each bin, (N_FFT // 2 + 1,); its sum is about the mean square of the samples."""
    samples = np.pad(samples, (0, max(0, N_FFT - len(samples))))
    window = np.hanning(N_FFT + 1)[:-1]
    power = np.zeros(N_FFT // 2 + 1)
    frames = np.lib.stride_tricks.sliding_window_view(samples, N_FFT)[:: N_FFT // 2]
    for block in np.array_split(frames, max(1, len(frames) // 256)):  # bounds the memory of a long clip
        power += np.square(np.abs(np.fft.rfft(block * window))).sum(axis=0)
    power[1:-1] *= 2
    return power / (len(frames) * N_FFT * np.square(window).sum())


def _a_weight(hz: np.ndarray) -> np.ndarray:
    """A-weighting as a factor on power; 1 at 1 kHz."""

    def amplitude(f: np.ndarray) -> np.ndarray:
        f2 = np.square(f, dtype=np.float64)
        poles = (f2 + 20.6**2) * np.sqrt((f2 + 107.7**2) * (f2 + 737.9**2)) * (f2 + 12194**2)
        return 12194**2 * f2**2 / poles

    return np.square(amplitude(hz) / amplitude(np.array(1000.0)))


def _db(power: float) -> float:
    """dB re 1; -120 at the least, so that a table holds numbers."""
    return float(10 * np.log10(max(power, 1e-12)))
