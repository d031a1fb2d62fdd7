"""Log-mels (and other channels) of all clips in one memory-mapped array.

A clip is decoded and transformed once per audio configuration. Training and scoring then gather windows from a mapped
array that the operating system pages in and out, so memory does not grow with the set.

Conventions
-----------
frames : float16 (n_frames, n_channels, n_mels), units as in `features`; the clips of a subset one after the other, in
  the order of fname.
index  : DataFrame, a row a clip: fname, first_frame (counted through all subsets), n_frames, floor_db (the
  minimum of its channels in dB: what these are padded with; without any such channel, of all).
A cache is named by the digest of the feature settings, of the code that makes frames (`code`) and of the content of
every file (not its path or time stamp): outputs/cache/logmel-<settings and code>/<subset>-<content>/. It is filled
beside its place and renamed when whole, so two builders at once are safe. A clip that cannot be decoded is left out and
listed in `problems`.

Used in: 00 to 08.
"""

import math
import os
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lib import code
from lib.data import audio, audit
from lib.files import digest, whole_folder, write_json
from lib.sound.features import HALF_MAX, LogMel

__all__ = ["Cache", "build", "hold"]

IN_FLIGHT = 64  # clips decoded ahead of the writer: bounds the memory, however long the set
INDEX_COLUMNS = ["fname", "first_frame", "n_frames", "floor_db"]


@dataclass(frozen=True)
class Cache:
    """The log-mels of some clips; see the module's conventions.

    Attributes
    ----------
    logmel : the settings they were made with
    parts : float16 tensors (n_frames, n_channels, n_mels), one a subset, mapped from disk; or all in one (`joined`)
    index : DataFrame fname, first_frame, n_frames, floor_db
    problems : DataFrame fname, subset, reason, usable: what could not be decoded
    name : digest over settings, code and content
    audio : subset -> digest of the names and contents of its files, whatever the settings
    """

    logmel: LogMel
    parts: tuple[torch.Tensor, ...]
    index: pd.DataFrame
    problems: pd.DataFrame
    name: str
    audio: dict[str, str] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the frames lie."""
        return self.parts[0].device

    @cached_property
    def in_db(self) -> torch.Tensor:
        """Which channels are in dB, bool (n_channels,), on the device."""
        return torch.tensor(self.logmel.in_db, device=self.device)

    @cached_property
    def starts(self) -> list[int]:
        """The first frame of each part, counted through all parts, and at last the number of all frames."""
        return list(accumulate(map(len, self.parts), initial=0))

    def rows(self, fnames: pd.Series) -> pd.DataFrame:
        """The index rows of `fnames`, in that order.

        Raises
        ------
        KeyError
            If a clip is not in the cache; the message names up to five.
        """
        missing = sorted(set(fnames) - set(self.index["fname"]))
        if missing:
            raise KeyError(f"{len(missing)} clips are not in the cache (build it with them): {missing[:5]}")
        return self.index.set_index("fname").loc[list(fnames)].reset_index()

    def frames(self, clip: object) -> torch.Tensor:
        """The frames of one clip (a row of the index), float16 (n_frames, n_channels, n_mels)."""
        part = bisect(self.starts, clip.first_frame) - 1
        first = clip.first_frame - self.starts[part]
        return self.parts[part][first : first + clip.n_frames]

    def on(self, device: torch.device) -> "Cache":
        """This cache with its frames in one array on a GPU, if half of what is free there holds them; else as it is."""
        if device.type != "cuda" or 2 * sum(part.nbytes for part in self.parts) > torch.cuda.mem_get_info(device)[0]:
            return self
        return self.joined(device)

    def joined(self, device: torch.device) -> "Cache":
        """This cache with its frames in one array on the device."""
        frames = torch.empty(self.starts[-1], *self.parts[0].shape[1:], dtype=torch.float16, device=device)
        for first, end, part in zip(self.starts, self.starts[1:], self.parts, strict=False):
            frames[first:end] = part
        return replace(self, parts=(frames,))

    def statistics(self, fnames: pd.Series, per_band: bool = False) -> tuple[list, list]:
        """Mean and standard deviation of the frames of the given clips: pass the training clips.

        Returns
        -------
        mean, std : a number a channel; with `per_band` a list a channel, (n_channels, n_mels). std is never 0
        """
        axes = (0,) if per_band else (0, 2)
        rows, total, square = self.rows(fnames), 0.0, 0.0
        for row in rows.itertuples():
            frames = self.frames(row).double()
            total, square = total + frames.sum(dim=axes), square + frames.square().sum(dim=axes)
        n = rows["n_frames"].sum() * (1 if per_band else self.parts[0].shape[2])
        mean = total / n
        return mean.tolist(), (square / n - mean.square()).clamp_min(1e-6).sqrt().tolist()


def build(clips: pd.DataFrame, logmel: LogMel, folder: Path, n_threads: int = 0) -> Cache:
    """Open the cache of `clips`, making what is not there yet, in parallel and with a progress bar.

    Parameters
    ----------
    clips : DataFrame with fname, path, subset
    logmel : feature settings
    folder : where caches lie (outputs/cache)
    n_threads : 0 means one a core

    Raises
    ------
    ValueError
        If a part was damaged since it was written, or no clip at all can be used; the message shows the first reasons.
    """
    settings = {"code": code.digest("frames"), **logmel.settings()}
    home = Path(folder) / f"logmel-{digest(settings)}"
    contents = audio.contents(clips, Path(folder))
    parts, indexes, problems = [], [], []
    for subset, rows in clips.sort_values("fname").groupby("subset", sort=True):
        place = home / f"{subset}-{contents[subset]}"
        frames = place / "frames.f16"
        if not place.is_dir():
            with whole_folder(place) as partial:
                _fill(partial, rows, logmel, settings, n_threads or os.cpu_count() or 1)
        # a clip may be called "NA"
        index = pd.read_csv(place / "index.csv", dtype={"fname": str}, keep_default_na=False)
        lost = audit.read(place / "problems.csv")
        shape = int(index["n_frames"].sum()), logmel.n_channels, logmel.n_mels
        n_listed, n_bytes, expected = len(index) + len(lost), frames.stat().st_size, 2 * math.prod(shape)  # float16
        if n_listed != len(rows) or n_bytes != expected:
            raise ValueError(
                f"{place} is damaged: {n_listed} of {len(rows)} clips, {n_bytes} of {expected} bytes of frames. "
                "Delete that folder: it is made again."
            )
        problems += lost.itertuples(index=False, name=None)
        if len(index):
            indexes.append(index)
            mapped = torch.from_file(str(frames), size=math.prod(shape), dtype=torch.float16)  # copy-on-write
            parts.append(mapped.view(shape))
    found = audit.table(problems)
    if not parts:
        reasons = (found["fname"] + ": " + found["reason"]).head(5).tolist()
        raise ValueError(f"None of {len(clips)} clips can be used: {reasons}. Look at data.problems.")
    index = pd.concat(indexes, ignore_index=True)
    index["first_frame"] = index["n_frames"].cumsum() - index["n_frames"]  # counted through all parts
    name = digest(settings, [f"{subset}-{content}" for subset, content in contents.items()])
    return Cache(logmel, tuple(parts), index, found, name, contents)


def hold(clips: pd.DataFrame, logmel: LogMel) -> Cache:
    """The log-mels of a few clips in memory: the same numbers as `build`. Writes nothing; unreadable clips are allowed.

    Parameters
    ----------
    clips : DataFrame with fname (each once), path, subset
    """
    parts: list[np.ndarray] = []
    index, problems = _written(_transformed(clips, logmel, os.cpu_count() or 1, quiet=True), parts.append)
    frames = np.concatenate(parts) if parts else np.empty((0, logmel.n_channels, logmel.n_mels), np.float16)
    return Cache(logmel, (torch.from_numpy(frames),), index, problems, "")


def _fill(place: Path, clips: pd.DataFrame, logmel: LogMel, settings: dict, n_threads: int) -> None:
    """Write frames.f16, index.csv, problems.csv and settings.json of one subset."""
    with open(place / "frames.f16", "wb") as frames:
        clips = _transformed(clips, logmel, n_threads)
        index, problems = _written(clips, lambda clip: frames.write(clip.tobytes()))
    index.to_csv(place / "index.csv", index=False)
    problems.to_csv(place / "problems.csv", index=False)
    write_json(place / "settings.json", settings)


def _written(clips: Iterable[tuple], write: Callable) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Hand the frames of the clips (from `_transformed`) to `write`; their index, and what could not be decoded."""
    index, problems, first_frame = [], [], 0
    for row, outcome in clips:
        if isinstance(outcome, audio.AudioError):
            problems.append((row.fname, row.subset, str(outcome), False))
            continue
        frames, floor_db = outcome
        write(frames)
        index.append([row.fname, first_frame, len(frames), floor_db])
        first_frame += len(frames)
    return pd.DataFrame(index, columns=INDEX_COLUMNS), audit.table(problems)


def _transformed(clips: pd.DataFrame, logmel: LogMel, n_threads: int, *, quiet: bool = False) -> Iterator[tuple]:
    """(row, outcome) for every clip, in order; threads, since decoding and FFT release Python's lock.

    An outcome is an AudioError, or frames (n_frames, n_channels, n_mels) and the least value of its channels in dB (of
    all channels, where none is in dB): its padding holds that.
    """

    in_db = [i for i, yes in enumerate(logmel.in_db) if yes] or slice(None)

    def work(row: object) -> tuple[np.ndarray, float] | audio.AudioError:
        try:
            channels = logmel(audio.read(row.path, logmel.sample_rate))
        except audio.AudioError as error:
            return error
        if not channels.abs().max() <= HALF_MAX:  # NaN is not either
            return audio.AudioError("damaged: its log-mel is no number")
        frames = channels.permute(2, 0, 1).half().numpy()
        return frames, float(channels[in_db].min().half())

    before = torch.get_num_threads()
    try:
        with (
            ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
            tqdm(
                desc=f"log-mels, {clips['subset'].iloc[0]}", total=len(clips), unit="clip", leave=False, disable=quiet
            ) as bar,
        ):
            table = clips.itertuples()
            while rows := list(islice(table, IN_FLIGHT)):
                for row, outcome in zip(rows, pool.map(work, rows), strict=True):
                    yield row, outcome
                    bar.update()
    finally:
        torch.set_num_threads(before)
