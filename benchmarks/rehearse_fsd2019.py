"""FSDKaggle2019 rehearsed: its true tables with all rows, made-up audio of a tenth of the seconds, each stage measured.

    python benchmarks/rehearse_fsd2019.py path/to/fsdkaggle2019-meta [shares of the rows, such as 0.25,0.5,1]

Lengths are drawn as the set's are (curated: median 4.7 s, quartiles 1.6 and 11.1; noisy: mostly 15 s; test: as curated)
and divided by ten; a clip is noise and a tone of its class. The profile fsd2019 runs on it, but for a small network,
one epoch, three folds and 1 s windows every 0.5 s: the way through the rows is rehearsed, not a score. Each stage is a
process of its own; its memory is the anonymous memory of that process and those it starts, the largest of looks 0.2 s
apart. What lies in mapped files, which the system takes back when it needs to, does not count.

From that, and from how many windows of its own the profile's network trains and scores a second here, it computes what
the real set would take on this machine: the set's published hours, one window a second of audio. Two shares of the rows
are the least that shows how memory grows.

Needs 6 GB of disk while it runs; leaves outputs/rehearsal.csv and outputs/expected.csv.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from tqdm import tqdm

from lib import settings
from lib.training import models

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_RATE = 44_100  # Hz, as the set's
SHORTER = 10
HOURS = {"curated": 10.5, "noisy": 80.0, "test": 12.9}  # of the real set, as published
N_FOLDS = 3
STEPS = 3
CHANGES = {"arch": "cnn10_16", "epochs": 1, "n_folds": N_FOLDS, "window_s": 1.0, "hop_s": 0.5, "budget_s": 0.0}
TABLES = {"curated": "train_curated", "noisy": "train_noisy", "test": "test"}
CACHE = """
import sys
from pathlib import Path
from lib import settings
from lib.data import datasets
from lib.sound import cache, features
values = settings.defaults() | settings.load_profile(Path("params/fsd2019.yaml"))
logmel = features.LogMel(**{k: values[k] for k in ("sample_rate", "n_fft", "hop_length", "n_mels", "fmin")})
clips = datasets.load(sys.argv[1]).clips
cache.build(clips[clips["subset"] != "test"], logmel, Path("outputs/cache"))
"""


def make_data(meta: Path, share: float, folder: Path) -> dict[str, float]:
    """Every n-th row of the tables, in Zenodo's layout, with audio; how many clips and seconds that are."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.05, 60 * SAMPLE_RATE)
    place = folder / "FSDKaggle2019.meta"
    place.mkdir(parents=True)
    shutil.copy(meta / "vocabulary.csv", place)
    vocabulary = pd.read_csv(meta / "vocabulary.csv", header=None, keep_default_na=False)[1].tolist()
    found = {}
    for subset, name in TABLES.items():
        rows = pd.read_csv(meta / f"{name}_post_competition.csv", dtype=str, keep_default_na=False)
        rows = rows.iloc[:: round(1 / share)]
        rows.to_csv(place / f"{name}_post_competition.csv", index=False)
        audio = folder / f"FSDKaggle2019.audio_{name}"
        audio.mkdir()
        if subset == "noisy":
            length_s = np.where(rng.random(len(rows)) < 0.8, 15, rng.uniform(1, 16, len(rows)))
        else:
            length_s = rng.lognormal(np.log(4.7), 1.35, len(rows)).clip(0.3, 57.6)
        n_samples = (length_s / SHORTER * SAMPLE_RATE).astype(int)
        for fname, labels, n in tqdm(zip(rows["fname"], rows["labels"], n_samples, strict=True), subset, len(rows)):
            hz = 100 * 1.05 ** vocabulary.index(labels.split(",")[0])
            start = rng.integers(len(noise) - n)
            tone = 0.2 * np.sin(2 * np.pi * hz * np.arange(n) / SAMPLE_RATE)
            soundfile.write(audio / fname, noise[start : start + n] + tone, SAMPLE_RATE, subtype="PCM_16")
        n_hops = np.ceil((n_samples / SAMPLE_RATE - CHANGES["window_s"]).clip(0) / CHANGES["hop_s"])
        found |= {subset: len(rows), f"{subset}_s": n_samples.sum() / SAMPLE_RATE}
        found[f"{subset}_windows"] = int((1 + n_hops).sum())
    return found


def anonymous_mb(pid: int) -> float:
    """Anonymous memory of a process and all below it."""
    words = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout.split()
    parents = dict(zip(map(int, words[::2]), map(int, words[1::2]), strict=True))
    family, total = {pid}, 0
    while more := {p for p, parent in parents.items() if parent in family} - family:
        family |= more
    for member in family:
        try:
            lines = Path(f"/proc/{member}/status").read_text().splitlines()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    return total / 1024


def measure(command: list[str], folder: Path) -> dict[str, float]:
    """Run a stage: seconds and anonymous memory; what it says is shown if it fails."""
    env = {**os.environ, "PYTHONPATH": str(folder)}
    began, peak = time.perf_counter(), 0.0
    with open(folder / "log", "w+") as log:
        started = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
        while started.poll() is None:
            peak = max(peak, anonymous_mb(started.pid))
            time.sleep(0.2)
        if started.returncode:
            log.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{log.read()[-3000:]}")
    return {"seconds": time.perf_counter() - began, "memory_mb": peak}


def disk_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def rehearse(meta: Path, share: float) -> pd.DataFrame:
    """All stages on a share of the rows, in a copy of the workbook that is thrown away."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "workbook")
        for name in ("lib", "notebooks", "params"):
            shutil.copytree(ROOT / name, folder / name)
        shutil.copy(ROOT / "pyproject.toml", folder)
        data = Path(temporary, "data")
        held = make_data(meta, share, data)

        def notebook(name: str, **parameters: object) -> list[str]:
            given = json.dumps({**CHANGES, **parameters, "run": "rehearsal", "data_dir": str(data)})
            words = [
                "--no-progress-bar",
                f"notebooks/{name}.ipynb",
                "out.ipynb",
                "-f",
                "params/fsd2019.yaml",
                "-y",
                given,
            ]
            return [sys.executable, "-m", "papermill", *words]

        load = "import sys; from lib.data import datasets; datasets.load(sys.argv[1])"
        folds = [{"fold": fold} for fold in range(N_FOLDS)]
        pairs = [{"fold": f, "holdout_fold": g} for f, g in itertools.combinations(range(N_FOLDS), 2)]
        stages = [
            ("tables and headers", [sys.executable, "-c", load, str(data)]),
            ("cache of curated and noisy", [sys.executable, "-c", CACHE, str(data)]),
            *(("04, an epoch without a fold", notebook("04_kfold", **fold)) for fold in folds),
            *(("04, an epoch without two folds", notebook("04_kfold", **pair)) for pair in pairs),
            ("04, pooled", notebook("04_kfold", fold=-1)),
            ("05, select", notebook("05_curation", part="select")),
            (
                "04, an epoch on what is kept",
                notebook("04_kfold", train_set="curated_noisy", train_windows="kept", variant="kept"),
            ),
            ("08, submission", notebook("08_submission")),
        ]
        rows = []
        for stage, command in stages:
            rows.append(
                {"share": share, "stage": stage, **measure(command, folder), "disk_mb": disk_mb(folder / "outputs")}
            )
            print(f"{share:5} {stage}: {rows[-1]['seconds']:.0f} s, {rows[-1]['memory_mb']:.0f} MB", flush=True)
        return pd.DataFrame(rows).assign(**held, data_mb=disk_mb(data), cache_mb=disk_mb(folder / "outputs" / "cache"))


def windows_per_s(values: dict[str, object]) -> dict[str, float]:
    """Windows that the network of a profile trains and scores a second, on all cores: median of a few batches."""
    n_frames = round(values["window_s"] * values["sample_rate"] / values["hop_length"])
    x, targets = torch.randn(values["batch_size"], 1, values["n_mels"], n_frames), torch.zeros(values["batch_size"], 80)
    model = models.WindowModel(models.Network(values["arch"], values["image_size"]), 80, [0.0], [1.0]).prepare("cpu")
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)

    def train() -> None:
        torch.nn.functional.binary_cross_entropy_with_logits(model(x), targets).backward()
        optimiser.step()
        optimiser.zero_grad()

    def score() -> None:
        with torch.inference_mode():
            model(x)

    found = {}
    for name, step in (("train", train), ("score", score)):
        model.train(name == "train")
        step()  # warms up
        seconds = []
        for _ in range(STEPS):
            began = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began)
        found[name] = len(x) / float(np.median(seconds))
    return found


def memory_mb(rehearsed: pd.DataFrame, stage: str, windows: dict[str, float]) -> float:
    """Memory of the stages whose names begin so, drawn out along a line to this many windows of each subset.

    At most: what grows with the rows, which the rehearsal has all, is taken to grow with the windows too.
    """
    mine = rehearsed[rehearsed["stage"].str.startswith(stage)].groupby("share").max(numeric_only=True)
    x, seen = mine[[f"{subset}_windows" for subset in windows]].sum(axis=1), mine["memory_mb"]
    slope = max(0, np.polyfit(x, seen, 1)[0]) if windows and len(x) > 1 else 0
    return seen.iloc[-1] + slope * (sum(windows.values()) - x.iloc[-1])


def expected(rehearsed: pd.DataFrame) -> pd.DataFrame:
    """What the real set takes here with the profile fsd2019, computed: stage, hours, memory_gb (at most), disk_gb.

    Hours of training and scoring are windows over windows a second; those of the cache, and disk, go with the seconds
    of audio. Memory grows with the windows whose scores a stage holds: see `memory_mb`.
    """
    values = settings.defaults() | settings.load_profile(ROOT / "params" / "fsd2019.yaml")
    rate, whole = windows_per_s(values), rehearsed[rehearsed["share"] == rehearsed["share"].max()].iloc[0]
    longer = 3600 * (HOURS["curated"] + HOURS["noisy"]) / (whole["curated_s"] + whole["noisy_s"])
    cached_s = rehearsed.loc[rehearsed["stage"].str.startswith("cache"), "seconds"].iloc[-1]
    windows = {subset: 3600 * hours / values["hop_s"] for subset, hours in HOURS.items()}
    listened = {subset: n / 3600 / rate["score"] for subset, n in windows.items()}  # hours of one model
    k = values["n_folds"]
    n_pairs, judges = k * (k - 1) / 2, (k - 1) / (N_FOLDS - 1)  # judges of a window for each that it has here
    n_curated = whole["curated"] / whole["share"]
    all_clips = values["epochs"] * n_curated / 3600 / rate["train"]  # hours of a training on all
    hours = {
        "cache": longer * cached_s / 3600,
        "04, five folds": (k - 1) * all_clips + listened["curated"],
        "04, ten pair models": n_pairs * (k - 2) / k * all_clips + (k - 1) * listened["curated"],
        "05, noisy windows judged by ten models": n_pairs * listened["noisy"],
        "08, test clips by five models": k * listened["test"],
    }
    held = {
        "cache": {},
        "04": {"curated": windows["curated"]},
        "05": {subset: judges * windows[subset] for subset in ("curated", "noisy")},
        "08": {"test": windows["test"]},
    }
    table = pd.DataFrame({"stage": hours.keys(), "hours": hours.values()})
    first = table["stage"].str.partition(",")[0]
    table["memory_gb"] = [memory_mb(rehearsed, stage, held[stage]) / 1024 for stage in first]
    table["disk_gb"] = np.where(first == "cache", rehearsed["cache_mb"].max() * longer / 1024, np.nan)
    return table.assign(windows_trained_per_s=rate["train"], windows_scored_per_s=rate["score"])


def main() -> None:
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_dir():
        print("no folder of FSDKaggle2019's tables given: skipped. Usage: rehearse_fsd2019.py FSDKaggle2019.meta")
        return
    shares = [float(share) for share in (sys.argv[2] if len(sys.argv) > 2 else "0.25,0.5,1").split(",")]
    table = pd.concat([rehearse(Path(sys.argv[1]).resolve(), share) for share in shares])
    # of a stage that was done for each fold, the most
    most = table.groupby(["stage", "share"], sort=False)[["seconds", "memory_mb", "disk_mb"]].max()
    print(most.unstack().round(0).to_string())
    most = most.reset_index()
    most["rows"] = most.pop("share").map("{:.0%} of the rows".format)
    most.to_csv(ROOT / "outputs" / "rehearsal.csv", index=False, float_format="%.1f")
    found = expected(table)
    print(found.round(2).to_string(index=False))
    found.to_csv(ROOT / "outputs" / "expected.csv", index=False, float_format="%.3f")


if __name__ == "__main__":
    main()
