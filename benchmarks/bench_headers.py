"""How long the header scan of a large set takes, and what memory it needs: 20,000 generated wav files.

Kaggle's layout in a temporary folder, clips of 0.1 to 0.5 s; `datasets.load` reads the tables, every header and the
first bytes of every clip, which tell duplicates. The files are in the page cache, as they are right after a download.
Beside it a loop over soundfile.info, file by file: what reading nothing but headers costs.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from table import record

from lib.data import datasets

N, RATE = 20_000, 44_100


def write_set(folder: Path, n: int) -> None:
    """n curated clips of noise, one test clip, and their tables."""
    for name in ("train_curated", "test"):
        (folder / name).mkdir()
    rng = np.random.default_rng(0)
    samples = (3000 * rng.standard_normal(RATE)).astype(np.int16)
    names = [f"{i:08x}.wav" for i in range(n)]
    for name in names:
        first, length = rng.integers(0, RATE // 2), rng.integers(RATE // 10, RATE // 2)
        soundfile.write(folder / "train_curated" / name, samples[first : first + length], RATE, subtype="PCM_16")
    soundfile.write(folder / "test" / "t.wav", samples, RATE, subtype="PCM_16")
    rows = [f"{name},{'AB'[i % 2]}" for i, name in enumerate(names)]
    (folder / "train_curated.csv").write_text("\n".join(["fname,labels", *rows]))
    (folder / "sample_submission.csv").write_text("fname,A,B\nt.wav,0,0\n")


def scan(folder: Path) -> None:
    """Print seconds and added peak memory, MB, of one load; in a process of its own."""
    before = peak_mb()
    started = time.perf_counter()
    data = datasets.load(folder)
    seconds = time.perf_counter() - started
    print(len(data.clips), f"{seconds:.2f}", f"{peak_mb() - before:.0f}")


def peak_mb() -> float:
    """Largest memory of this process so far."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_set(folder, N)
        words = [sys.executable, __file__, str(folder)]
        answers = [subprocess.run(words, capture_output=True, text=True, check=True) for _ in range(3)]
        n, seconds, grown = min((answer.stdout.split() for answer in answers), key=lambda words: float(words[1]))
        started = time.perf_counter()
        for path in (folder / "train_curated").iterdir():
            soundfile.info(path)
        plain = time.perf_counter() - started
    print(f"header scan of {n} wav files: {seconds} s, {grown} MB of memory above the imports (best of three)")
    print(f"plain loop over soundfile.info, without any audit: {plain:.2f} s")
    record("audit, over a plain loop over headers", float(seconds) / plain, "ratio")


if __name__ == "__main__":
    scan(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
