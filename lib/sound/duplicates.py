"""Near-duplicates: clips of different groups that hold the same recording, although their bytes differ.

There are two steps. First, the clips with the nearest average spectra are candidates. Then the log-mels of both clips
are aligned at the best lag, and the pair counts if their fine structure agrees: two takes of a sound have the same
spectrum, but only the same recording has the same frames.

Conventions
-----------
fingerprint : average log-mel spectrum of a clip (`contents.spectra`), dB, minus its mean: a louder copy has the same.
similarity  : correlation, at the best lag, of the changes of two log-mels from frame to frame; at most 1.
Finds copies that are louder, trimmed, padded, re-encoded or a little noisy, but not those at another speed or pitch.

Used in: 01_eda.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from lib.data.audit import table as audit_table
from lib.sound.cache import Cache
from lib.sound.contents import spectra

__all__ = ["SAME", "aligned", "as_problems", "find", "proposed_groups", "side_by_side"]

SAME = 0.5  # least similarity of a near-duplicate; unrelated clips of the demo set and of ESC-10 stay under .45
SAME_SHORT = 0.9  # the same for an overlap under LONG_S, since any two clicks are similar
LONG_S = 2.0  # s
ALIKE_DB = 6.0  # greatest RMS difference between the fingerprints of candidates
NEIGHBOURS = 5  # candidates for each clip: the nearest ones
OVERLAP = 0.5  # least share of the shorter clip that overlaps the longer one
SHORTEST = 10  # frames; shorter clips are not compared
RANGE_DB = 40.0  # below the loudest value; quieter parts are ignored, since the noise of a copy may differ
BLOCK = 1024  # clips compared at once; limits the memory
COLUMNS = ["fname", "other", "subset", "other_subset", "group", "other_group", "lag_s", "overlap_s", "similarity"]


def find(store: Cache | None, clips: pd.DataFrame) -> pd.DataFrame:
    """Pairs of clips of different groups that hold the same recording, most similar first.

    Parameters
    ----------
    store : cache of the clips; None without audio
    clips : DataFrame with fname, subset, group

    Returns
    -------
    fname, other (fname < other), subset, other_subset, group, other_group, lag_s (time in other minus time in fname),
    overlap_s, similarity (SAME to 1)
    """
    if store is None or clips.empty:
        return pd.DataFrame(columns=COLUMNS)
    clips = clips.sort_values("fname", ignore_index=True)
    pairs = list(_candidates(spectra(store, clips["fname"]), clips["group"].to_numpy()))
    index = list(store.rows(clips["fname"]).itertuples())
    rate, rows = store.logmel.frames_per_s, []
    for i, j in tqdm(pairs, desc="comparing clips", unit="pair", leave=False, delay=1):
        similarity, lag, overlap = aligned(*(store.frames(index[k])[:, 0].float().numpy() for k in (i, j)))
        if similarity >= (SAME if overlap / rate >= LONG_S else SAME_SHORT):
            names = [clips.at[k, name] for name in ("fname", "subset", "group") for k in (i, j)]
            rows.append([*names, round(lag / rate, 2), round(overlap / rate, 2), round(similarity, 3)])
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(["similarity", "fname"], ascending=[False, True], ignore_index=True)


def aligned(a: np.ndarray, b: np.ndarray) -> tuple[float, int, int]:
    """Similarity of two log-mels at the best lag, and that lag.

    Parameters
    ----------
    a, b : float (n_frames, n_mels), dB

    Returns
    -------
    similarity : -1 to 1; 0 if the shorter one has fewer than SHORTEST frames
    lag : frames; frame t of a is aligned with frame t + lag of b
    overlap : frames of a that are aligned with a frame of b
    """
    if min(len(a), len(b)) < SHORTEST:
        return 0.0, 0, 0
    a, b = _fine(a), _fine(b)
    size = 1 << (len(a) + len(b) - 1).bit_length()
    product = np.conj(np.fft.rfft(a, size, axis=0)) * np.fft.rfft(b, size, axis=0)
    lags = np.arange(-len(a) + 1, len(b))
    cross = np.fft.irfft(product.sum(axis=1), size)[lags % size]
    first_a, first_b = np.maximum(0, -lags), np.maximum(0, lags)
    overlap = np.minimum(len(a) - first_a, len(b) - first_b)
    energy = _between(a, first_a, overlap) * _between(b, first_b, overlap)
    ratio = cross / np.sqrt(np.maximum(energy, 1e-9))
    ratio[(overlap < OVERLAP * min(len(a), len(b))) | (energy < 1e-6 * energy.max())] = 0
    best = int(ratio.argmax())
    return float(ratio[best]), int(lags[best]), int(overlap[best])


def proposed_groups(pairs: pd.DataFrame, clips: pd.DataFrame) -> pd.DataFrame:
    """Groups that keep near-duplicates together: rows of groups.csv for every clip whose group would change.

    Parameters
    ----------
    pairs : from `find`
    clips : all clips; if a clip of a pair gets another group, all clips of its group do

    Returns
    -------
    fname, group
    """
    groups, own = np.unique(clips["group"].to_numpy(str), return_inverse=True)
    ends = [np.searchsorted(groups, pairs[name].to_numpy(str)) for name in ("group", "other_group")]
    joined = coo_array((np.ones(len(pairs)), ends), shape=(len(groups), len(groups)))
    _, part = connected_components(joined, directed=False)
    proposed = clips.assign(group=pd.Series(groups).groupby(part).transform("first").to_numpy()[own])
    moved = proposed[proposed["group"] != clips["group"]]
    return moved[["fname", "group"]].sort_values("fname", ignore_index=True)


def side_by_side(pairs: pd.DataFrame, clips: pd.DataFrame) -> pd.DataFrame:
    """The clips of the pairs, one pair after the other, to see and to hear."""
    names = pairs[["fname", "other"]].to_numpy().ravel()
    return clips.set_index("fname", drop=False).loc[names].reset_index(drop=True)


def as_problems(pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs as findings (see `lib.data.audit`) for `Dataset.without`: the clips are used, but worth a look."""
    return audit_table(
        (p.other, p.other_subset, f"sounds like {p.subset} clip {p.fname} of another group: keep them together", True)
        for p in pairs.itertuples()
    )


def _candidates(fingerprints: np.ndarray, groups: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs i < j of different groups with similar fingerprints: each clip with its nearest ones, each pair once."""
    values = np.maximum(fingerprints, fingerprints.max(axis=1, keepdims=True) - RANGE_DB)
    values = values - values.mean(axis=1, keepdims=True)
    square, pairs = np.square(values).mean(axis=1), set()
    for first in range(0, len(values), BLOCK):
        here = slice(first, first + BLOCK)
        distance = square[here, None] + square - 2 / values.shape[1] * values[here] @ values.T
        distance[groups[here, None] == groups] = np.inf
        nearest = np.argpartition(distance, min(NEIGHBOURS, len(values)) - 1, axis=1)[:, :NEIGHBOURS]
        close = np.take_along_axis(distance, nearest, axis=1) <= ALIKE_DB**2
        for row, column in zip(*np.nonzero(close), strict=True):
            pairs.add(tuple(sorted((first + int(row), int(nearest[row, column])))))
    yield from sorted(pairs)


def _fine(frames: np.ndarray) -> np.ndarray:
    """Fine structure: changes over two frames, without changes of loudness and without the noise floor."""
    frames = np.maximum(frames, frames.max() - RANGE_DB)
    frames = frames[2:] - frames[:-2]
    return frames - frames.mean(axis=0) - frames.mean(axis=1, keepdims=True) + frames.mean()


def _between(frames: np.ndarray, first: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Energy of the n frames that begin at each `first`."""
    total = np.concatenate([[0.0], np.cumsum(np.square(frames, dtype=np.float64).sum(axis=1))])
    return total[first + n] - total[first]
