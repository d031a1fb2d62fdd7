"""How fast log-mels are cached, beside a plain librosa loop on the same clips, and what memory a longer set takes.

Speed: seconds of audio a second on one core, both in turns inside one run. Memory: peak anonymous memory (mapped pages
apart) of building a cache and gathering an epoch of batches, for a set and for one ten times as long.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import librosa
import numpy as np
import pandas as pd
import soundfile
import torch
from table import record

from lib import settings
from lib.sound import cache, features
from lib.training import batches

LOGMEL = features.LogMel(22_050, n_fft=1024, hop_length=441, n_mels=64, fmin=20.0)
CLIP_S, RATE = 10.0, 44_100


def write_clips(folder: Path, n: int) -> pd.DataFrame:
    """n clips of noise as a table of clips."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{i:05d}.wav" for i in range(n)]
    for path in paths:
        soundfile.write(path, 0.1 * rng.standard_normal(int(CLIP_S * RATE)), RATE, subtype="PCM_16")
    names = [path.name for path in paths]
    return pd.DataFrame({"fname": names, "path": [str(p) for p in paths], "subset": "curated"})


def speed() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(Path(folder), 60)
        ours, theirs = [], []
        for turn in range(5):
            started = time.perf_counter()
            cache.build(clips, LOGMEL, Path(folder) / f"cache{turn}", n_threads=1)
            ours.append(time.perf_counter() - started)
            started = time.perf_counter()
            for path in clips["path"]:
                samples, _ = librosa.load(path, sr=LOGMEL.sample_rate)
                power = librosa.feature.melspectrogram(
                    y=samples,
                    sr=LOGMEL.sample_rate,
                    n_fft=LOGMEL.n_fft,
                    hop_length=LOGMEL.hop_length,
                    n_mels=LOGMEL.n_mels,
                    fmin=LOGMEL.fmin,
                    pad_mode="constant",
                )
                librosa.power_to_db(power, top_db=LOGMEL.top_db)
            theirs.append(time.perf_counter() - started)
    total = CLIP_S * len(clips)
    ratio = statistics.median(t / o for t, o in zip(theirs, ours, strict=True))
    rate, plain = total / statistics.median(ours), total / statistics.median(theirs)
    print(f"cache: {rate:.0f} s of audio a second on one core (44.1 kHz to 22.05 kHz, 64 mels)")
    print(f"plain librosa loop: {plain:.0f} s a second; the cache is {ratio:.2f} times as fast")
    record("cache, times as fast as a plain librosa loop", ratio, "ratio")


def memory(n: int) -> None:
    """Print the anonymous memory, MB, that building and one epoch add; runs in a process of its own."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(Path(folder), n)
        cache.build(clips.head(8), LOGMEL, Path(folder) / "warm", n_threads=2)  # load what is loaded on first use
        before = anonymous_mb()
        store = cache.build(clips, LOGMEL, Path(folder) / "cache", n_threads=2)
        built = anonymous_mb()
        rows = store.rows(clips["fname"])
        recipe = settings.Training(batch_size=32, mask_share=0.15)
        training = batches.Training(store, rows, np.ones((n, 10), np.float32), 100, recipe, 0)
        peak = max(anonymous_mb() for _ in training)
        print(f"{max(built, peak) - before:.1f}")


def anonymous_mb() -> float:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


def main() -> None:
    speed()
    grown = {}
    for n in (60, 600):
        answer = subprocess.run([sys.executable, __file__, str(n)], capture_output=True, text=True, check=True)
        grown[n] = float(answer.stdout.split()[-1])
    short, long = grown[60], grown[600]
    print(f"anonymous memory that {60 * CLIP_S:.0f} s of audio add: {short:.0f} MB; ten times that: {long:.0f} MB")
    record("cache, memory that 60 clips add", short, "MB")
    record("cache, memory that 600 clips add", long, "MB")


if __name__ == "__main__":
    memory(int(sys.argv[1])) if len(sys.argv) > 1 else main()
