"""Reading of clips: any format, rate and number of channels that libsndfile knows, guarded.

A clip that can't be read never becomes zeros: it raises AudioError with a short reason, which the caller lists.

Conventions
-----------
path    : a file, or a member of an archive written "folder/archive.zip!member.wav"; nothing is ever extracted.
samples : float32 (n_samples,), mono, in about [-1, 1] (resampling may overshoot); their rate is the one asked for.
reasons : "missing", "empty", "unreadable: ...", "truncated: ...", "contains NaN ...",
          "damaged: ...", "all silent". They hold no path and no address, so that tables of two machines are the same.

Used in: `datasets` and `changes` (files), `audit` (headers), `cache` and `contents` (samples); 02, `figures` (to hear).
"""

import contextlib
import csv
import hashlib
import io
import lzma
import os
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pandas as pd
import soundfile
import soxr
from tqdm import tqdm

from lib.files import digest, whole_file

__all__ = ["AudioError", "Header", "content_hashes", "contents", "files", "header", "located", "peek", "read"]
__all__ += ["read_bytes"]

HEAD_BYTES = 2**14  # a header and 0.2 s of 16-bit sound: enough to read a wav's header and to tell clips apart
LOUDEST = 1e6  # |sample|; full scale is 1, or 32,768 in files that hold whole numbers as floats
SILENT = 1e-5  # largest |sample| of a silent clip; a step of 16 bit is 3e-5, so any 16-bit sample but 0 is sound
CANCELLED = 0.1  # RMS of the mean over that of the loudest channel: under it the phases oppose (1 live of 8 has .125)
STREAMED = 0x7FFFF000  # sizes from here up (sox, ffmpeg) and 0 are placeholders of a writer that couldn't seek back
RATES = range(1000, 1_000_000)  # Hz; a damaged header of 1 Hz would be resampled to gigabytes
MP3_READ, MP3_FRAME = 0.9, 1500  # share of a file that is read where all of it was decoded; bytes of a frame
SLACK_BYTES = 8  # some writers count the RIFF chunk's own 8 bytes, or forget its pad byte


class AudioError(ValueError):
    """A clip that can't be used; its text is the reason."""


class Header(NamedTuple):
    """What a clip's header promises: seconds, Hz, number of channels."""

    duration_s: float
    sample_rate: int
    n_channels: int


def files(root: Path, folder: str, subset: str, found: list[tuple]) -> dict[str, str]:
    """Base name of every file in a folder below `root`, or a zip of its name -> its path.

    Members of archives that are not used are added to `found`, as findings of `audit` about that subset. Raises
    ValueError where there is only an archive, and that one cut short.
    """
    archive = root / f"{folder}.zip"
    try:
        place = _folder(root, folder)
        there = {e.name: e.path for e in os.scandir(place) if e.name[0] != "."} if place.is_dir() else {}
    except OSError as error:  # the clips of other folders don't suffer
        found.append((f"{folder}/", subset, f"unreadable: {error.strerror}", True))
        there = {}
    if archive.is_file():  # what a folder lacks may be in the archive that it was unpacked from
        try:
            there = _members(archive, subset, [] if there else found) | there
        except ValueError:
            if not there:
                raise
    return there


def located(fnames: Collection[str], files: dict[str, str]) -> dict[str, str]:
    """fname -> path among `files`, for all clips of a folder; "" if there is none.

    A clip may be there in another spelling (`_plain`) or another format, but never as the file of a clip that fits
    better. A name may lack its ending and still hold a dot: `a_30.000` is a_30.000.wav, and never a_30.wav, another
    clip.
    """
    found = {fname: files.get(fname, "") for fname in fnames}
    files = {_plain(name): path for name, path in files.items()} | files
    for spelled in (lambda fname: [_plain(fname)], _other_formats):
        taken = {"", *found.values()}
        for fname in (fname for fname, path in found.items() if not path):
            paths = (files[name] for name in spelled(fname) if files.get(name, "") not in taken)
            found[fname] = next(paths, "")
    return found


def peek(path: str | Path) -> tuple[int, bytes]:
    """Size of a clip in bytes, and its first `HEAD_BYTES` bytes. Raises AudioError (missing, unreadable)."""
    with _opened(path) as (stream, n_bytes):
        return n_bytes, stream.read(HEAD_BYTES)


def read_bytes(path: str | Path) -> bytes:
    """All bytes of a clip as stored. Raises AudioError (missing, unreadable; a bad checksum in an archive too)."""
    with _opened(path) as (stream, _):
        return stream.read()


def header(path: str | Path) -> Header:
    """Duration, rate and channels from the header alone, without decoding: some 10,000 wav files a second.

    Raises
    ------
    AudioError
        Missing, empty, unreadable, or a wav file that is shorter than its header says. What only decoding can tell
        (NaN, silence, other truncated formats) is found by `read`.
    """
    n_bytes, head = peek(path)
    if not n_bytes:
        raise AudioError("empty")
    reaches_samples = _check_riff(head, n_bytes)
    source = str(path)
    if ".zip!" in source:  # only the head of a wav is inflated: zeros stand for its samples
        source = io.BytesIO(head + bytes(n_bytes - len(head)) if reaches_samples else read_bytes(path))
    with _explained("unreadable"):
        info = soundfile.info(source)
    if not info.frames:
        raise AudioError("empty")
    return Header(info.frames / info.samplerate, info.samplerate, info.channels)


def read(path: str | Path, sample_rate: int) -> np.ndarray:
    """Decode a clip, average its channels and resample it (soxr HQ).

    Channels that cancel each other (opposite phase) would average to silence: then the loudest one is taken.

    Parameters
    ----------
    path : file, or member of an archive
    sample_rate : Hz, of the result

    Returns
    -------
    samples : float32 (n_samples,)

    Raises
    ------
    AudioError
        With one of the reasons under *Conventions*. Truncation shows in wav, ogg, flac and mp3, not in AIFF, AU, W64.
    """
    if sample_rate <= 0:
        raise ValueError(f"sample_rate={sample_rate}: expected Hz above 0. Use 44100 or 22050.")
    raw = read_bytes(path)
    if not raw:
        raise AudioError("empty")
    _check_riff(raw, len(raw))
    _check_ogg(raw)
    with _explained("unreadable"):
        file = soundfile.SoundFile(stream := io.BytesIO(raw))
    with file, _explained("truncated: decoding stopped"):
        promised, rate = file.frames, file.samplerate
        channels = _decoded(file)
    if not promised:
        raise AudioError("empty")
    if rate not in RATES:
        raise AudioError(f"unreadable: {rate} Hz")
    if file.format == "MP3" and not _tells_length(raw):  # then `promised` is an estimate from the first bit rate
        if stream.tell() < MP3_READ * len(raw):
            raise AudioError("unreadable: an mp3 that does not tell its length. Convert it: ffmpeg -i a.mp3 a.flac")
    elif len(channels) < promised:
        raise AudioError(f"truncated: {len(channels)} of {promised} samples")
    peak = _peak(channels)
    if not np.isfinite(peak):
        raise AudioError("contains NaN or infinite samples")
    if peak > LOUDEST:
        raise AudioError(f"damaged: samples up to {peak:.0e}, where 1 is full scale")
    samples = _mono(channels)
    if (peak if samples.base is channels else _peak(samples)) <= SILENT:
        raise AudioError("all silent")
    if rate != sample_rate:
        samples = soxr.resample(samples, rate, sample_rate, quality="HQ")
    if not len(samples):
        raise AudioError("empty")  # less than one sample at the new rate
    return np.ascontiguousarray(samples, dtype=np.float32)


def contents(clips: pd.DataFrame, folder: Path) -> dict[str, str]:
    """subset -> digest of the names and bytes of its files; it does not depend on where they are.

    Parameters
    ----------
    clips : fname, path, subset
    folder : of caches (outputs/cache), which keeps a memo of hashes
    """
    found = clips.sort_values("fname").assign(content=lambda t: content_hashes(t["path"], folder / "sha256.csv"))
    return {
        subset: digest(list(zip(rows["fname"], rows["content"], strict=True)))
        for subset, rows in found.groupby("subset", sort=True)
    }


def content_hashes(paths: pd.Series, memo: Path) -> list[str]:
    """A hash of every file's bytes; a file whose size and time stamps are known from earlier is not read again."""
    known = {}
    with contextlib.suppress(UnicodeDecodeError, csv.Error):  # a damaged memo: all are hashed anew
        if memo.is_file():
            with open(memo, newline="", encoding="utf-8") as file:
                known = {tuple(row[:3]): row[3] for row in csv.reader(file) if len(row) == 4}
    keys = [_stamp(path) for path in paths]
    todo = [(key, path) for key, path in zip(keys, paths, strict=True) if key not in known]
    if todo:
        with ThreadPoolExecutor() as pool:
            hashes = pool.map(lambda item: _content_hash(item[1]), todo)
            bar = tqdm(hashes, total=len(todo), desc="reading files", unit="clip", leave=False)
            known.update({key: value for (key, _), value in zip(todo, bar, strict=True)})
        with whole_file(memo) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([*key, value] for key, value in sorted(known.items()) if value.isalnum())
    return [known[key] for key in keys]


def _decoded(file: soundfile.SoundFile) -> np.ndarray:
    """All samples as float32 (n_samples, n_channels), full scale 1."""
    if file.subtype != "PCM_16":
        return file.read(dtype="float32", always_2d=True)
    whole = file.read(dtype="int16", always_2d=True)  # the same numbers, four times as fast
    return np.multiply(whole, np.float32(2**-15), dtype=np.float32)


def _peak(samples: np.ndarray) -> np.float32:
    """The largest |sample|; NaN if there is one."""
    return max(samples.max(), -samples.min(), key=lambda value: np.inf if np.isnan(value) else value)


def _folder(root: Path, folder: str) -> Path:
    """A folder below `root`; where it does not exist, one whose name is equal when made `_plain`."""
    if (place := root / folder).is_dir() or not folder:
        return place
    above, _, name = folder.rpartition("/")
    above = _folder(root, above)
    there = sorted(entry.name for entry in os.scandir(above)) if above.is_dir() else []
    return above / next((entry for entry in there if _plain(entry) == _plain(name)), name)


def _other_formats(fname: str) -> list[str]:
    stem, _, ending = fname.rpartition(".")
    stems = [fname] if not stem or ending.isdecimal() else [fname, stem]
    names = [f"{name}.{kind}" for name in stems for kind in ("wav", "ogg", "flac")]
    return [*names, *map(_plain, names)]


def _members(archive: Path, subset: str, found: list[tuple]) -> dict[str, str]:
    """Base name of every member of an archive -> its path; members that point outside are ignored and listed."""
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [name for name in opened.namelist() if not name.endswith("/")]
    except (zipfile.BadZipFile, OSError) as error:
        split = archive.with_suffix(".z01").exists()
        remedy = "It is the end of a split archive: unpack that (7z x)." if split else "Download it again."
        raise ValueError(f"{archive}: not a whole zip archive ({error}). {remedy}") from error
    files: dict[str, str] = {}
    for name in names:
        folders = re.split(r"[/\\]", name)
        fname = folders[-1]
        if folders[0] == "__MACOSX":
            continue  # what macOS adds to an archive: no audio
        if not folders[0] or ".." in folders or ":" in folders[0]:
            found.append((name, subset, f"member of {archive.name} that points outside: ignored", False))
        elif fname in files:
            found.append((fname, subset, f"several times in {archive.name}: the first is used", True))
        else:
            files[fname] = f"{archive}!{name}"
    return files


def _plain(name: str) -> str:
    """A name in lower case and composed form: a Mac unpacks "é" as "e" and an accent, where tables have one letter."""
    return unicodedata.normalize("NFC", name.lower())


def _mono(channels: np.ndarray) -> np.ndarray:
    """Mean of (n_samples, n_channels), or the loudest channel where the mean cancels."""
    if channels.shape[1] == 1:
        return channels[:, 0]
    samples = channels.mean(axis=1)
    loudness = np.sqrt(np.square(channels).mean(axis=0))
    if np.sqrt(np.square(samples).mean()) < CANCELLED * loudness.max():
        return channels[:, loudness.argmax()]
    return samples


def _check_riff(head: bytes, n_bytes: int) -> bool:
    """Refuse a RIFF/WAVE file of fewer bytes than it promises; True if `head` reaches its samples."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return False
    at, promised, found = 12, 8 + _size(head, 4) - SLACK_BYTES, False
    while at + 8 <= len(head) and not found:
        found, end = head[at : at + 4] == b"data", at + 8 + _size(head, at + 4)
        promised, at = max(promised, end) if found else promised, end + end % 2
    if n_bytes < promised:
        raise AudioError(f"truncated: {n_bytes} of {promised} bytes")
    return found


def _size(head: bytes, at: int) -> int:
    """Size of a RIFF chunk, bytes; 0 where it is a placeholder."""
    size = int.from_bytes(head[at : at + 4], "little")
    return size if size < STREAMED else 0


def _tells_length(mp3: bytes) -> bool:
    """Whether the first frame of an mp3, after its ID3 tag, holds the number of frames."""
    size = sum(byte << shift for byte, shift in zip(mp3[6:10], (21, 14, 7, 0), strict=False))  # seven bits a byte
    first = 10 + size if mp3[:3] == b"ID3" else 0
    return any(mark in mp3[first : first + MP3_FRAME] for mark in (b"Xing", b"Info", b"VBRI"))


def _check_ogg(raw: bytes) -> None:
    """Refuse an Ogg file without a whole last page: libsndfile decodes a truncated one without an error."""
    if raw[:4] != b"OggS":
        return
    page = raw[raw.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]) or not page[5] & 4:
        raise AudioError("truncated: the last Ogg page is not there")


@contextmanager
def _explained(reason: str) -> Iterator[None]:
    """Errors of the decoder as AudioError, without the address of the buffer that libsndfile puts in its text."""
    try:
        yield
    except (soundfile.SoundFileError, TypeError, ValueError, MemoryError) as error:
        raise AudioError(f"{reason}: {getattr(error, 'error_string', error)}") from error


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[BinaryIO, int]]:
    """A clip's bytes as a stream, and how many they are; errors of disk and archive become AudioError."""
    archive, mark, member = str(path).partition(".zip!")
    try:
        if mark:
            archive += ".zip"
            zipped = _archive(archive, os.stat(archive).st_mtime_ns, os.getpid())
            with zipped.open(member) as stream:
                yield stream, zipped.getinfo(member).file_size
        else:
            with open(path, "rb") as stream:
                yield stream, os.fstat(stream.fileno()).st_size
    except (FileNotFoundError, KeyError):
        raise AudioError("missing") from None
    except (OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise AudioError(f"unreadable: {getattr(error, 'strerror', None) or error}") from error


@lru_cache(maxsize=8)
def _archive(path: str, _changed: int, _process: int) -> zipfile.ZipFile:
    """An archive, opened once in each process: reading the list of 20,000 members takes longer than reading one."""
    return zipfile.ZipFile(path)


def _content_hash(path: str) -> str:
    try:
        return hashlib.sha256(read_bytes(path)).hexdigest()[:12]  # which processors have an instruction for
    except AudioError as error:  # listed when it is decoded
        return str(error)


def _stamp(path: str) -> tuple[str, str, str]:
    """(path, size, time stamps) of a clip's file, or of its archive; `mv` keeps the time of the content alone."""
    archive, marker, _ = str(path).partition(".zip!")
    file = Path(archive + ".zip") if marker else Path(path)
    status = file.stat() if file.exists() else None
    size, *stamps = (status.st_size, status.st_mtime_ns, status.st_ctime_ns) if status else (0, 0, 0)
    return str(Path(path).absolute()), str(size), " ".join(map(str, stamps))
