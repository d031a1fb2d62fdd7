"""A small synthesised data set in the layout of Kaggle's FSDKaggle2019, with known truth.

Conventions
    16-bit mono wav, 22,050 Hz, clips of 0.3 to 12 s. Times are seconds from the start of the clip.
    Same seed, same bytes: a clip depends only on the seed and on its place in the plan.
    Clips of one group share a *recording*: pitch, rate, filter, background, level. No group is in two subsets.
    Silent heads and tails hold noise at -70 dBFS; in scenes and noisy clips the background runs from end to end.

Eight event classes have 15 single-label curated clips each, but their seconds differ tenfold. Two scene classes (40
clips each) consist of the same two parts in opposite order. At least 1.0, 1.3 and 1.0 s of background come before,
between and after the parts, so no 1 s window holds two parts, or a part and an edge of its clip: only the order of the
parts tells the two classes apart. Parts and background hardly vary, so a few clips are enough, and a model can't learn
chance differences instead.

`truth/` holds what is not known of a real set:
    spans.csv   fname, class, start_s, end_s, labelled: a row for each sound (two in a scene) of every clip with sound;
                labelled: the clip's labels include the class. No pause within a span lasts 1 s
    labels.csv  fname, subset, labels: all classes in the clip, comma-joined; some are empty (keep_default_na=False)
    faults.csv  fname, subset, fault, usable: planted faults, in extra clips that are counted nowhere else
    facts.json  longest and shortest event class, their seconds_ratio, scenes, single_label_clips, single_label_seconds
                (curated and usable, per class), noisy_wrong_share

Used in: every notebook (its default data), tests.
"""

import json
import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from lib.files import throw_away, whole_folder

__all__ = ["SAMPLE_RATE", "VERSION", "Truth", "make", "read_truth"]

SAMPLE_RATE = 22_050  # Hz
VERSION = 2  # raise it when the bytes of a seed change: sets of another version are made again
SILENCE = 10 ** (-70 / 20)  # RMS of silent heads and tails, about ten steps of 16 bit
FOLDERS = {"curated": "train_curated", "noisy": "train_noisy", "test": "test"}

# kind, then the ranges from which a recording is drawn: Hz (noise: upper edge), octaves (noise: width; else: glide per
# second), pulses per second, length of a pulse (s), level between pulses. Ranges overlap, so no threshold separates two
# classes.
SOUNDS = {
    "Traffic_noise_and_roadway_noise": ("puff", (150, 900), (2, 4), (0.5, 1.5), (0.5, 1.5), (0.3, 0.8)),
    "Frying_(food)": ("hit", (2000, 9000), (1, 3), (8, 30), (0.005, 0.03), (0.1, 0.5)),
    "Church_bell": ("bell", (250, 1100), (0, 0), (1.5, 3), (0.15, 0.6), (0, 0)),
    "Chirp_and_tweet": ("note", (1000, 4500), (-4, 4), (2, 7), (0.06, 0.25), (0, 0)),
    "Tick-tock": ("hit", (1000, 5000), (0.5, 2), (2, 6), (0.004, 0.02), (0, 0)),
    "Whistling": ("note", (500, 2500), (-1, 1), (1.2, 4), (0.2, 0.8), (0, 0.3)),
    "Finger_snapping": ("hit", (800, 4000), (1, 2), (1.5, 4), (0.01, 0.05), (0, 0)),
    "Sigh": ("puff", (500, 4000), (1, 2.5), (1.5, 3), (0.15, 0.5), (0, 0)),
    "doorbell": ("bell", (600, 700), (0, 0), (4.5, 5), (0.14, 0.16), (0, 0)),
    "knock": ("hit", (250, 300), (1.4, 1.6), (6, 7), (0.025, 0.03), (0, 0)),
    "Electric_shaver": ("hit", (2000, 8000), (2, 4), (80, 200), (0.001, 0.003), (0, 0)),
    "Zipper_(clothing)": ("puff", (3000, 9000), (1, 2), (20, 60), (0.01, 0.02), (0, 0)),
}
EVENTS = list(SOUNDS)[:8]
MEAN_S = dict(zip(EVENTS, (7.5, 4.0, 3.0, 2.4, 2.0, 1.5, 1.1, 0.75), strict=True))  # of single-label clips
SCENES = {"Doorbell_then_knock": ("doorbell", "knock"), "Knock_then_doorbell": ("knock", "doorbell")}
SCENE_S = ((1.0, 0.35, 1.3, 0.35, 1.0), (1.5, 0.55, 1.8, 0.55, 1.5))  # from, to: head, part, gap, part, tail
CLASSES = sorted([*EVENTS, *SCENES])
OTHERS = ("Electric_shaver", "Zipper_(clothing)")  # sounds that are not in the vocabulary
FAULTS = {  # fault: (usable, samples x -> bytes of the file)
    "missing": (False, lambda x: None),
    "empty": (False, lambda x: b""),
    "unreadable": (False, lambda x: b"This is text, not audio.\n"),
    "truncated": (False, lambda x: _wav(x)[: len(x)]),  # half of its bytes
    "contains NaN": (False, lambda x: _wav(np.where(np.arange(len(x)) % 1000 == 500, np.nan, x), as_float=True)),
    "silent": (False, lambda x: _wav(0 * x)),
    "unknown label": (False, lambda x: _wav(x)),
    "duplicate": (False, lambda x: _wav(x)),
    "stereo": (True, lambda x: _wav(np.stack([x, 0.7 * x], axis=1))),
    "sample rate": (True, lambda x: _wav(2 * np.fft.irfft(np.fft.rfft(x), 2 * len(x)), 2 * SAMPLE_RATE)),
    "near duplicate": (True, lambda x: _wav(0.7 * x + SILENCE * np.random.default_rng(0).standard_normal(len(x)))),
    "": (True, lambda x: _wav(x)),
}


@dataclass(frozen=True)
class Truth:
    """The classes that clips really hold: labels (fname -> tuple of classes) and spans (fname, class, start_s, end_s).

    A demo set has both. A table with true_labels has no spans (None), and may have the labels of some clips only.
    """

    spans: pd.DataFrame | None
    labels: pd.Series


def make(folder: str | Path, *, seed: int = 2019) -> Path:
    """Write the demo set (23 minutes of audio, 60 MB, about 4 s) into `folder`, once, and return its absolute path.

    It is written to a temporary folder beside `folder`, which is then renamed: the set is whole or not there. A set of
    this version and seed is kept, even if another process finished it first; another version or seed is replaced.

    Raises
    ------
    ValueError : `seed` is negative.
    FileExistsError : `folder` holds something other than a demo set.
    """
    folder = Path(folder).resolve()
    if seed < 0:
        raise ValueError(f"seed={seed} is negative: give 0 or greater")
    marker = {"made_by": "lib.demo", "version": VERSION, "seed": int(seed)}
    if (found := _marker(folder)) == marker:
        return folder
    with whole_folder(folder) as partial:
        _write(partial, marker)
        if found and _marker(folder) != marker:
            with suppress(FileNotFoundError):  # another process has just moved it away
                throw_away(folder)
    if _marker(folder) != marker:
        raise FileExistsError(f"{folder} was filled by another process meanwhile: name another folder")
    return folder


def read_truth(folder: Path, clips: pd.DataFrame, classes: tuple[str, ...]) -> Truth | None:
    """The truth of a demo set, else `true_labels` of the clips, both limited to the classes; None if not known."""
    folder = Path(folder) / "truth"
    if not (folder / "spans.csv").is_file():
        known = clips.dropna(subset="true_labels").set_index("fname")["true_labels"]
        return Truth(None, known) if len(known) else None
    spans = pd.read_csv(folder / "spans.csv", keep_default_na=False)[["fname", "class", "start_s", "end_s"]]
    labels = pd.read_csv(folder / "labels.csv", keep_default_na=False).set_index("fname")["labels"]
    return Truth(spans, labels.map(lambda text: tuple(name for name in text.split(",") if name in classes)))


def _marker(folder: Path) -> dict | None:
    """The content of demo.json in `folder`; None if `folder` is missing or empty. Refuses a folder of other files."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads((folder / "demo.json").read_text())
        if found["made_by"] == "lib.demo":
            return found
    raise FileExistsError(f"{folder} is not empty and holds no demo.json of lib.demo: name another folder")


@dataclass(frozen=True)
class _Clip:
    subset: str
    sounds: tuple[str, ...]  # sounds in the clip: classes or OTHERS; a scene is the only one
    labels: tuple[str, ...]  # labels in the table
    seconds: float = 0.0  # 0 for scenes, whose length is drawn later
    fault: str = ""
    fname: str = ""
    group: int = -1
    key: tuple[int, int] = (0, 0)  # seeds of the clip and of its recording; a copy has those of its original


def _plan(seed: int) -> list[_Clip]:
    """Every clip of the set, by fname."""
    rng = np.random.default_rng([seed, 2])

    def single(subset, n, n_scenes):
        for name in EVENTS:
            for i, share in enumerate(rng.permutation(np.linspace(0.4, 1.6, n))):  # the mean is exactly 1
                seconds, sounds = share * MEAN_S[name], (name,)
                if subset == "curated" and i % 4 == 1 and seconds > 1.5:  # a second sound that has no label
                    sounds = (name, str(rng.choice([c for c in EVENTS if c != name])))
                yield _Clip(subset, sounds, (name,), seconds)
        yield from [_Clip(subset, (name,), (name,)) for name in SCENES for _ in range(n_scenes)]

    def double(subset, n, *, fault=""):
        for i in range(n):  # every pair of classes once
            pair = tuple(sorted((EVENTS[i % 8], EVENTS[(i + 1 + i // 8) % 8])))
            yield _Clip(subset, pair, pair, rng.uniform(3, 6), fault)

    def noisy(i):  # 3 of 5 labels are wrong; for half of these, the sound is not in the vocabulary
        name = sound = CLASSES[i % 10]
        if (i + i // 10) % 5 < 3:
            sound = str(rng.choice(OTHERS if i % 2 else [c for c in CLASSES if c != name]))
        return _Clip("noisy", (sound,), (name,), rng.uniform(3, 6))

    clips = [*single("curated", 15, 40), *map(noisy, range(80)), *single("test", 5, 5)]
    clips += [*double("test", 10), *double("curated", 15)]
    for i, clip in enumerate(clips):  # of every twenty clips, three share one recording, and two another
        group = i - i % 20 + (0, 0, 0, 3, 3)[i % 20] if i % 20 < 5 else i
        clips[i] = replace(clip, group=group, key=(i, group))

    extra = [_Clip("curated", ("Electric_shaver",), ("Kazoo",), 2.0, "unknown label")]
    extra += [*double("curated", 1, fault="stereo"), *double("curated", 1, fault="sample rate")]
    for i, fault in enumerate(("missing", "empty", "unreadable", "truncated", "contains NaN", "silent", "duplicate")):
        name = (EVENTS[1 + i % 6],)
        extra.append(_Clip("curated", name, name, rng.uniform(1, 3), fault))
    extra.append(_Clip("test", ("Whistling",), ("Whistling",), 3.0, "truncated"))
    extra = [replace(clip, key=(i, i)) for i, clip in enumerate(extra, len(clips))]
    extra.append(replace(extra[9], labels=("Church_bell",)))  # the same bytes with another label
    extra.append(replace(clips[-1], fault="near duplicate"))
    extra.append(clips[50])  # the same bytes and label in another group: the later name is the duplicate
    clips += [replace(clip, group=i) for i, clip in enumerate(extra, len(clips))]
    fnames = [f"{number:08x}.wav" for number in rng.choice(2**32, len(clips), replace=False)]
    later = max(50, len(clips) - 1, key=lambda i: fnames[i])
    clips[later] = replace(clips[later], fault="duplicate")
    clips = [replace(clip, fname=fname) for clip, fname in zip(clips, fnames, strict=True)]
    return sorted(clips, key=lambda clip: clip.fname)


def _render(clip: _Clip, seed: int) -> tuple[np.ndarray, list[tuple[str, float, float]]]:
    """Samples (n,) within [-1, 1] and the spans (class, start_s, end_s) of the sounds in them."""
    rng, recording = np.random.default_rng([seed, 0, clip.key[0]]), np.random.default_rng([seed, 1, clip.key[1]])
    noisy, scene = clip.subset == "noisy", clip.sounds[0] in SCENES
    snr_db, level_db, colour_hz, cutoff_hz = recording.uniform((5, -20, 300, 1500), (25, -1, 6000, 3500))
    if noisy:
        snr_db = recording.uniform(-3, 9)
    elif scene:
        snr_db, level_db, colour_hz = 15.0, -9.0, 1500.0
    if scene:
        head, first, gap, second, tail = rng.uniform(*SCENE_S)
        seconds = head + first + gap + second + tail
        places = list(zip(SCENES[clip.sounds[0]], (head, head + first + gap), (first, second), strict=True))
    else:
        seconds, shares = clip.seconds, rng.uniform(0.3, 0.6, len(clip.sounds))
        shares[0] = rng.uniform(0.5, 1) if len(clip.labels) == 1 else shares[0]
        starts_s = rng.uniform(0, 1 - shares) * seconds
        places = list(zip(clip.sounds, starts_s, shares * seconds, strict=True))
    mix, spans = np.zeros(round(seconds * SAMPLE_RATE)), []
    for name, start_s, length_s in places:
        start, end = int(start_s * SAMPLE_RATE), int((start_s + length_s) * SAMPLE_RATE)
        gain_db = rng.uniform(-6, 0) if spans and not scene else 0.0
        mix[start:end] += 10 ** (gain_db / 20) * _sound(end - start, SOUNDS[name], recording, rng)
        spans.append((clip.sounds[0] if scene else name, start / SAMPLE_RATE, end / SAMPLE_RATE))
    background = 10 ** (-snr_db / 20) * _noise(len(mix), rng, 40, colour_hz)
    if not (noisy or scene):  # silent head and tail
        begin, end = min(span[1] for span in spans), max(span[2] for span in spans)
        background *= (_seconds(len(mix)) >= begin) & (_seconds(len(mix)) < end)
    mix += background
    mix = _band(mix, 0, cutoff_hz) if noisy else mix
    mix *= 10 ** (level_db / 20) / np.max(np.abs(mix))
    return mix + SILENCE * rng.standard_normal(len(mix)), spans


def _sound(n: int, sound: tuple, recording: np.random.Generator, rng: np.random.Generator) -> np.ndarray:
    """A train of pulses (n,) of one of SOUNDS, RMS 1, faded in and out over 10 ms."""
    kind, *ranges = sound
    hz, octaves, per_second, length_s, floor = (recording.uniform(*limits) for limits in ranges)
    onsets_s = np.cumsum(rng.uniform(0.8, 1.2, 2 + int(1.25 * per_second * n / SAMPLE_RATE)) / per_second)
    i = np.searchsorted(onsets_s, _seconds(n))  # number of the pulse, and seconds since it began
    since_s = _seconds(n) - np.concatenate([[0.0], onsets_s])[i]
    pitch, loudness = rng.uniform((0.8, 0.5), (1.2, 1.0), (len(onsets_s) + 1, 2)).T
    phase = 2 * np.pi * np.cumsum(hz * pitch[i] * 2 ** (octaves * since_s)) / SAMPLE_RATE
    if kind == "bell":
        carrier = sum(np.sin(k * phase) / k for k in (0.5, 1, 1.19, 1.5, 2.74))
    else:
        carrier = np.sin(phase) if kind == "note" else _noise(n, rng, hz / 2**octaves, hz)
    if kind in ("bell", "hit"):
        pulse = np.exp(-since_s / length_s)
    else:  # it ends before the next pulse begins
        pulse = np.sin(np.pi * np.minimum(since_s / min(length_s, 0.8 / per_second), 1)) ** 2
    samples = carrier * loudness[i] * (floor + (1 - floor) * pulse)
    samples *= np.minimum(1, 100 * np.minimum(_seconds(n), _seconds(n)[::-1]))
    return samples / np.sqrt(np.mean(samples**2))


def _noise(n: int, rng: np.random.Generator, low_hz: float, high_hz: float) -> np.ndarray:
    """Band-passed noise (n,), RMS 1."""
    noise = _band(rng.standard_normal(n), low_hz, high_hz)
    return noise / np.sqrt(np.mean(noise**2))


def _band(samples: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """Samples (n,) filtered with a soft slope (24 dB per octave) below `low_hz` and above `high_hz`."""
    size = -(-len(samples) // 4096) * 4096  # the transform of an odd length takes many times longer
    hz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    gain = 1 / np.sqrt((1 + (low_hz / np.maximum(hz, 1)) ** 8) * (1 + (hz / high_hz) ** 8))
    return np.fft.irfft(np.fft.rfft(samples, size) * gain, size)[: len(samples)]


def _seconds(n: int) -> np.ndarray:
    """Time of each of n samples, s."""
    return np.arange(n) / SAMPLE_RATE


def _wav(samples: np.ndarray, sample_rate: int = SAMPLE_RATE, *, as_float: bool = False) -> bytes:
    """A wav file of samples (n,) or (n, n_channels), 16 bit or float32 (libsndfile would add a time stamp)."""
    data = samples.astype("<f4") if as_float else np.round(32767 * samples).clip(-32768, 32767).astype("<i2")
    width, n_channels = data.itemsize, 1 if data.ndim == 1 else data.shape[1]
    form = (n_channels, sample_rate, sample_rate * n_channels * width, n_channels * width, 8 * width)
    head = struct.pack("<4sIHHIIHH4sI", b"fmt ", 16, 3 if as_float else 1, *form, b"data", data.nbytes)
    return struct.pack("<4sI4s", b"RIFF", 4 + len(head) + data.nbytes, b"WAVE") + head + data.tobytes()


def _write(folder: Path, marker: dict) -> None:
    """Render every clip and write the whole set into a new folder."""
    for name in [*FOLDERS.values(), "truth"]:
        (folder / name).mkdir(parents=True)
    rows, spans = [], []
    for clip in _plan(marker["seed"]):
        samples, sounds = _render(clip, marker["seed"])
        usable, damage = FAULTS[clip.fault]
        if (data := damage(samples)) is not None:
            (folder / FOLDERS[clip.subset] / clip.fname).write_bytes(data)
        if clip.fault not in ("missing", "empty", "unreadable", "truncated", "contains NaN", "silent"):
            spans += [(clip.fname, *span, span[0] in clip.labels) for span in sounds]
        true = ",".join(sorted(set(clip.sounds) - set(OTHERS)))
        seconds = len(samples) / SAMPLE_RATE
        rows.append((clip.fname, clip.subset, ",".join(clip.labels), true, clip.group, clip.fault, usable, seconds))
    clips = pd.DataFrame(rows, columns=["fname", "subset", "labels", "true", "group", "fault", "usable", "seconds"])
    curated, noisy, test = (clips[clips["subset"] == subset] for subset in FOLDERS)
    single = curated[curated["usable"] & curated["labels"].isin(CLASSES)].groupby("labels")["seconds"]
    longest, shortest = max(MEAN_S, key=MEAN_S.get), min(MEAN_S, key=MEAN_S.get)
    facts = {
        "longest": longest,
        "shortest": shortest,
        "seconds_ratio": MEAN_S[longest] / MEAN_S[shortest],
        "scenes": list(SCENES),
        "single_label_clips": single.count().to_dict(),
        "single_label_seconds": single.sum().round(3).to_dict(),
        "noisy_wrong_share": float((noisy["labels"] != noisy["true"]).mean()),
    }
    tables = {
        "train_curated": curated[["fname", "labels"]],
        "train_noisy": noisy[["fname", "labels"]],
        "sample_submission": test[["fname"]].assign(**dict.fromkeys(CLASSES, 0)),
        "groups": clips[["fname", "group"]].assign(group=clips["group"].map("g{:03d}".format)),
        "truth/spans": pd.DataFrame(spans, columns=["fname", "class", "start_s", "end_s", "labelled"]),
        "truth/labels": clips[["fname", "subset"]].assign(labels=clips["true"]),
        "truth/faults": clips.loc[clips["fault"] != "", ["fname", "subset", "fault", "usable"]],
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    for name, content in {"truth/facts": facts, "demo": marker}.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
