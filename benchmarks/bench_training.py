"""What training by the workbook costs over a bare PyTorch loop: the share that data, augmentation and callbacks take.

Both train the same network on windows of the same shape in the same precision with the same optimiser; the bare loop
gets its batches ready-made. They take turns inside one run, so that a busy machine slows both. Epochs are timed, from
the first batch asked for to the last step done; the first one of a turn warms up. Target: at most 1.10.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from lib import batches, cache, datasets, demo, features, learners, models, runs, windows

EPOCHS, TURNS, TARGET = 4, 5, 1.10
NETWORKS = ("regnetx_002", "resnet18d")
RECIPE = learners.Recipe("bce", EPOCHS, batch_size=32, lr=5e-3, lr_body=0.0, mixup=0.4, mask_share=0.17)
LOGMEL = features.LogMel(22_050, n_fft=1024, hop_length=441, n_mels=64, fmin=20.0)
CUT = windows.Windows(window_s=3.0, hop_s=1.0)


class Timed(batches.Training):
    """Training batches that note how long each epoch took, s."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        started = time.perf_counter()
        yield from super().__iter__()
        self.seconds = [*getattr(self, "seconds", []), time.perf_counter() - started]


def bare_loop(model: models.WindowModel, ready: list[tuple[torch.Tensor, torch.Tensor]]) -> list[float]:
    """Seconds of each epoch of forward, backward and step on batches that lie ready."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    loss, seconds = torch.nn.BCEWithLogitsLoss(), []
    model.train()
    for _ in range(EPOCHS):
        started = time.perf_counter()
        for x, y in ready:
            loss(model(x), y).backward()
            optimiser.step()
            optimiser.zero_grad()
        seconds.append(time.perf_counter() - started)
    return seconds


def main() -> None:
    data = datasets.load(demo.make(runs.ROOT / "outputs" / "demo-data"))
    store = cache.build(data.clips.query("subset == 'curated'"), LOGMEL, runs.ROOT / "outputs" / "cache")
    clips = data.without(store.problems).clips.query("subset == 'curated'").reset_index(drop=True)
    rows, targets, width = store.rows(clips["fname"]), datasets.targets(clips, data.classes), CUT.n_frames(LOGMEL)
    training = Timed(store, rows, targets, width, batch_size=32, mask_share=0.17, seed=0)
    scored = windows.rolling(store, rows.head(1), CUT)
    validation = batches.Scoring(store, scored, targets[[0] * len(scored)], width)
    ready, level = list(training), store.statistics(clips["fname"])
    for arch in NETWORKS:
        network, ours, bare = models.Network(arch, image_size=0), [], []
        for _ in range(TURNS):
            bare += bare_loop(models.WindowModel(network, targets.shape[1], *level).prepare(), ready)[1:]
            training.seconds = []
            with tempfile.TemporaryDirectory() as folder:
                learners.fit(network, RECIPE, training, validation, Path(folder) / "checkpoint.safetensors")
            ours += training.seconds[1:]
        ratio = statistics.median(ours) / statistics.median(bare)
        verdict = "held" if ratio <= TARGET else "MISSED"
        rate, threads = len(clips) / statistics.median(ours), torch.get_num_threads()
        print(f"{arch}, windows of {LOGMEL.n_mels} x {width}, {threads} threads: {rate:.0f} windows a second")
        print(f"an epoch of training over a bare loop: {ratio:.3f} (target at most {TARGET}: {verdict})")


if __name__ == "__main__":
    main()
