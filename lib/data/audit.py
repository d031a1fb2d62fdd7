"""What is wrong with the clips of a data set, found from names, headers and bytes.

Conventions
-----------
problems : DataFrame, a row for each finding about a clip: fname, subset, reason, usable (False: the clip is left out;
           True: it is used, but worth a look), sorted by subset and fname.
Decoding alone finds faults of the signal (NaN, silence, a truncated compressed file). `lib.sound.cache` decodes every
clip once and lists these faults in the same form; pass its list to `Dataset.without`.

Used in: `datasets`, `cache`, `duplicates`, `changes`; 01 shows its tables.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from lib.data import audio
from lib.files import digest

__all__ = ["COLUMNS", "inspect", "known_bad", "read", "table"]

COLUMNS = ["fname", "subset", "reason", "usable"]
N_THREADS = 8  # more than the cores: opening files waits for the disk
KNOWN_BAD = dict.fromkeys(
    ("f76181c4.wav", "77b925c2.wav", "6a1f682a.wav", "c7db12aa.wav", "7752cc8a.wav"), "known bad file: wrong label"
) | {"1d44b0bd.wav": "known bad file: no signal"}  # curated clips of FSDKaggle2019; source: its competition forum


def table(rows: Iterable[tuple]) -> pd.DataFrame:
    """Findings (fname, subset, reason, usable) as a sorted table without repeats."""
    findings = pd.DataFrame(sorted(set(rows), key=lambda row: (row[1], row[0], row[2])), columns=COLUMNS)
    return findings.astype({"usable": bool})


def read(path: Path) -> pd.DataFrame:
    """Findings from a CSV file, in the form of `table`."""
    findings = pd.read_csv(path, dtype={"fname": str, "subset": str, "reason": str}, keep_default_na=False)
    return findings[COLUMNS].astype({"usable": bool})


def known_bad(clips: pd.DataFrame) -> pd.DataFrame:
    """The curated clips of FSDKaggle2019 that are known to be bad, as problems."""
    bad = clips[clips["fname"].isin(list(KNOWN_BAD)) & (clips["subset"] == "curated")]
    return table((fname, "curated", KNOWN_BAD[fname], False) for fname in bad["fname"])


def inspect(clips: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read every header, in parallel, and find clips with the same bytes.

    Parameters
    ----------
    clips : DataFrame with fname, path, subset, labels

    Returns
    -------
    clips : the same rows with duration_s (s; NaN if unreadable) and sample_rate (Hz; 0 if unreadable)
    problems : DataFrame. Left out: missing, empty, unreadable and truncated clips. Used: clips with several channels,
        or with another rate than most clips. If train clips have the same bytes, the later name is left out; the noisy
        clip, if the other is curated; both, if their labels differ within a subset. A test clip is never left out,
        since its row must be scored.
    """
    with ThreadPoolExecutor(N_THREADS) as pool:
        results = pool.map(_read_header, clips["path"])
        results = list(tqdm(results, total=len(clips), desc="reading headers", unit="clip", leave=False, delay=1))
    found = clips.assign(**pd.DataFrame(results, clips.index, [*audio.Header._fields, "reason", "fingerprint"]))
    bad, good = found[found["reason"] != ""], found[found["reason"] == ""]
    rows = [(clip.fname, clip.subset, clip.reason, False) for clip in bad.itertuples()]
    rates = good["sample_rate"].mode()
    for clip in good.itertuples():
        if clip.n_channels != 1:
            rows.append((clip.fname, clip.subset, f"{clip.n_channels} channels: averaged to mono", True))
        if clip.sample_rate != rates[0]:
            reason = f"{clip.sample_rate} Hz, most clips have {rates[0]}: resampled"
            rows.append((clip.fname, clip.subset, reason, True))
    return found.drop(columns=["n_channels", "reason", "fingerprint"]), table([*rows, *_duplicates(good)])


def _read_header(path: str) -> tuple[float, int, int, str, str]:
    """Header of a clip, why it can't be read ("" if it can), and a fingerprint: its size, a digest of its start."""
    try:
        n_bytes, head = audio.peek(path)
        return *audio.header(path), "", f"{n_bytes} {digest(head)}"
    except audio.AudioError as error:
        return np.nan, 0, 0, str(error), ""


def _duplicates(clips: pd.DataFrame) -> Iterator[tuple]:
    """Findings about clips with the same bytes; only clips with the same fingerprint are read whole."""
    same = defaultdict(list)
    for clip in clips[clips["fingerprint"].duplicated(keep=False)].itertuples():
        try:
            same[digest(audio.read_bytes(clip.path))].append(clip)
        except audio.AudioError as error:
            yield clip.fname, clip.subset, str(error), False
    for copies in same.values():
        if len(copies) > 1:
            yield from _duplicate_findings(sorted(copies, key=lambda clip: clip.fname))


def _duplicate_findings(copies: list) -> Iterator[tuple]:
    """Findings about clips (sorted by fname) that all have the same bytes."""
    curated, noisy, test = ([c for c in copies if c.subset == subset] for subset in ("curated", "noisy", "test"))
    for clip in noisy if curated else ():
        yield clip.fname, clip.subset, f"same bytes as curated clip {curated[0].fname}", False
    for clips in (curated, () if curated else noisy):
        conflict = len({frozenset(clip.labels) for clip in clips}) > 1
        for clip in clips if conflict else clips[1:]:
            other = next(other for other in clips if other is not clip)
            but = ", but other labels" if conflict else ""
            yield clip.fname, clip.subset, f"same bytes as {clip.subset} clip {other.fname}{but}", False
    for clip in test:
        for other in [*curated, *noisy, *(other for other in test if other is not clip)][:1]:
            leak = "" if other.subset == "test" else ": its score says nothing about unheard sound"
            yield clip.fname, "test", f"same bytes as {other.subset} clip {other.fname}{leak}", True
