"""What training by the workbook costs over a bare PyTorch loop: the share that data, augmentation and callbacks take.

Both train the same network on windows of the same shape in the same precision with the same optimiser. The bare loop
gets its batches ready-made. They take turns inside one run, so that a busy machine slows both. Target: at most 1.10.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch

from lib import batches, cache, datasets, demo, features, learners, models, runs, windows

EPOCHS, ROUNDS, TARGET = 4, 5, 1.10
NETWORK = models.Network("resnet18d", image_size=0)
RECIPE = learners.Recipe("bce", EPOCHS, batch_size=32, lr=5e-3, lr_body=0.0, mixup=0.4, mask_share=0.17)
LOGMEL = features.LogMel(22_050, n_fft=1024, hop_length=441, n_mels=64, fmin=20.0)
CUT = windows.Windows(window_s=4.0, hop_s=1.0)


def main() -> None:
    data = datasets.load(demo.make(runs.ROOT / "outputs" / "demo-data"))
    store = cache.build(data.clips.query("subset == 'curated'"), LOGMEL, runs.ROOT / "outputs" / "cache")
    clips = data.without(store.problems).clips.query("subset == 'curated'").reset_index(drop=True)
    rows, targets, width = store.rows(clips["fname"]), datasets.targets(clips, data.classes), CUT.n_frames(LOGMEL)
    training = batches.Training(store, rows, targets, width, batch_size=32, mask_share=0.17, seed=0)
    one_window = windows.rolling(rows.head(1), CUT, LOGMEL).head(1)
    validation = batches.Scoring(store, one_window, targets[:1], width)  # next to nothing: training is measured
    ready, statistics_db = list(training), store.statistics(clips["fname"])

    ratios, seconds = [], []
    for _ in range(ROUNDS):
        bare = bare_loop(ready, statistics_db)
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            learners.fit(NETWORK, RECIPE, training, validation, Path(folder) / "checkpoint.safetensors")
            ours = (time.perf_counter() - started) / EPOCHS
        ratios.append(ours / bare)
        seconds.append(ours)
    ratio, rate = statistics.median(ratios), len(clips) / statistics.median(seconds)
    print(
        f"{NETWORK.arch}, windows of {LOGMEL.n_mels} x {width}, {torch.get_num_threads()} threads: {rate:.0f} windows/s"
    )
    print(f"an epoch of training over a bare loop: {ratio:.3f} (rounds {[round(r, 3) for r in ratios]})")
    print(f"target at most {TARGET}: {'held' if ratio <= TARGET else 'MISSED'}")


def bare_loop(ready: list[tuple[torch.Tensor, torch.Tensor]], statistics_db: tuple) -> float:
    """Seconds an epoch of forward, backward and step on batches that lie ready."""
    started = time.perf_counter()
    model = models.WindowModel(NETWORK, ready[0][1].shape[1], *statistics_db).prepare()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    loss = torch.nn.BCEWithLogitsLoss()
    model.train()
    for _ in range(EPOCHS):
        for x, y in ready:
            loss(model(x), y).backward()
            optimiser.step()
            optimiser.zero_grad()
    return (time.perf_counter() - started) / EPOCHS


if __name__ == "__main__":
    main()
