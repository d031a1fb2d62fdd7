"""What scoring costs: the whole inference path beside the bare forward passes of the same five models.

The path decodes clips, computes log-mels, cuts windows, runs five models and pools; the bare passes get their windows
ready-made. They take turns inside one run, so that a busy machine slows both. Target: at most 1.15 on a processor. From
the path's pace follows the time of FSDKaggle2019's 3,361 private test clips; their lengths are not public here, so
clips have the quartiles of its curated clips, and their mean is scaled to the test set's.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from table import record

from lib.data import audit, datasets
from lib.sound import cache, features, windows
from lib.submission import bundle, submission
from lib.training import models

LOGMEL = features.LogMel(22_050, n_fft=1024, hop_length=441, n_mels=64, fmin=20.0)
CUT = windows.Windows(window_s=2.0, hop_s=0.5)
ARCH, N_MODELS, N_CLIPS, TURNS, TARGET = "regnetx_002", 5, 64, 5, 1.15
N_PRIVATE, TEST_S = 3361, 12.9 * 3600 / 4481  # clips; mean s of a test clip
CLASSES = [f"class {i}" for i in range(80)]


def lengths(n: int) -> np.ndarray:
    """s of n clips: quartiles 1.6, 4.7 and 11.1 s, within 0.3 to 30 s, scaled to the mean of the test clips."""
    at = (np.arange(n) + 0.5) / n
    seconds = np.exp(np.interp(at, [0, 0.25, 0.5, 0.75, 1], np.log([0.3, 1.6, 4.7, 11.1, 30])))
    return seconds * TEST_S / seconds.mean()


def write_clips(folder: Path) -> datasets.Dataset:
    """N_CLIPS of 44.1 kHz noise, in random order, as a sample asks for them."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{i:04}.wav" for i in range(N_CLIPS)]
    for path, seconds in zip(paths, rng.permutation(lengths(N_CLIPS)), strict=True):
        soundfile.write(path, 0.1 * rng.standard_normal(int(seconds * 44_100)), 44_100, subtype="PCM_16")
    clips = pd.DataFrame({"fname": [p.name for p in paths], "path": [str(p) for p in paths], "subset": "test"})
    return datasets.Dataset("kaggle", folder, tuple(CLASSES), clips.assign(labels=[()] * N_CLIPS), audit.table(()))


def write_models(folder: Path) -> bundle.Bundle:
    """A packed run of untrained networks."""
    network, found = models.Network(ARCH, 0), {}
    sidecar = {"classes": CLASSES, "audio": LOGMEL.settings(), "windows": CUT.settings(), "recipe": {"loss": "bce"}}
    sidecar["folds"] = ""
    names = [f"without_{i}" for i in range(N_MODELS)]
    for name in names:
        models.save(folder / f"{name}.safetensors", models.WindowModel(network, 80, [-40.0], [15.0]), sidecar)
        found |= {f"{name}.{kind}": folder / f"{name}.{kind}" for kind in ("safetensors", "json")}
    choice = {"kind": "pooling", "method": "mean", "parameter": None}
    manifest = {"models": names, "classes": CLASSES, "prior": [0.0] * 80, "choice": choice}
    return bundle.Bundle(manifest, found)


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data, packed = write_clips(folder), write_models(folder)
        networks = submission.load(packed)
        store = cache.hold(data.clips, LOGMEL)
        table = windows.rolling(store, store.index, CUT)
        width, device = CUT.n_frames(LOGMEL), next(networks[0].parameters()).device
        starts = table["start_frame"].to_numpy()
        ready = [
            windows.batch(store, table.iloc[i : i + models.SCORING_BATCH], starts[i : i + models.SCORING_BATCH], width)
            for i in range(0, len(table), models.SCORING_BATCH)
        ]
        whole, bare = [], []
        for turn in range(TURNS + 1):
            started = time.perf_counter()
            with torch.inference_mode():
                for x in ready:
                    for network in networks:
                        network(x.to(device)).float().cpu()
            middle = time.perf_counter()
            submission.predict(data, packed, networks)
            if turn:  # the first one warms up
                bare.append(middle - started)
                whole.append(time.perf_counter() - middle)
    seconds, ratios = statistics.median(whole), sorted(w / b for w, b in zip(whole, bare, strict=True))
    print(f"{ARCH} x {N_MODELS} on {device}, {torch.get_num_threads()} threads, {networks[0].precision}")
    print(
        f"scoring: {N_CLIPS / seconds:.1f} clips and {len(table) / seconds:.0f} windows of {CUT.window_s:g} s a second"
    )
    record(f"scoring, over bare forward passes ({ARCH})", statistics.median(ratios), "ratio")
    spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f} in {TURNS} turns"
    print(f"over the bare forward passes: {statistics.median(ratios):.2f} ({spread}); target {TARGET}")
    print(f"{N_PRIVATE} clips of {TEST_S:.1f} s on average would take {N_PRIVATE * seconds / N_CLIPS / 60:.1f} minutes")


if __name__ == "__main__":
    main()
