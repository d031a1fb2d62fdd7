"""What training by the workbook costs over a bare PyTorch loop: the share that data, augmentation and callbacks take.

Both train the same network on windows of the same shape in the same precision with the same optimiser; the bare loop
gets its batches ready-made, on a GPU where there is one. They take turns inside one run, so that a busy machine slows
both. Epochs are timed, from the first batch asked for to the last step done; the first one of a turn warms up. Target:
at most 1.10. On a GPU the network and the windows of the profile fsd2019 are measured too.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from table import record

from lib import settings
from lib.data import datasets, demo
from lib.runs import run as runs
from lib.sound import cache, features, windows
from lib.training import batches, learners, models

EPOCHS, TURNS, TARGET = 4, 5, 1.10
SMALL = {
    **{"sample_rate": 22_050, "n_fft": 1024, "hop_length": 441, "n_mels": 64, "fmin": 20.0},
    **{"window_s": 3.0, "hop_s": 1.0, "batch_size": 32, "mask_share": 0.17},
}


def now(device: torch.device) -> float:
    """s, when all that the device was given is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Timed(batches.Training):
    """Training batches that note how long each epoch took, s."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        started = now(models.best_device())
        yield from super().__iter__()
        self.seconds = [*getattr(self, "seconds", []), now(models.best_device()) - started]


def bare_loop(model: models.WindowModel, ready: list[tuple[torch.Tensor, torch.Tensor]]) -> list[float]:
    """Seconds of each epoch of forward, backward and step on batches that lie ready."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    loss, seconds, device = torch.nn.BCEWithLogitsLoss(), [], next(model.parameters()).device
    ready = [(x.to(device), y.to(device)) for x, y in ready]
    model.train()
    for _ in range(EPOCHS):
        started = now(device)
        for x, y in ready:
            loss(model(x), y).backward()
            optimiser.step()
            optimiser.zero_grad()
        seconds.append(now(device) - started)
    return seconds


def compare(data: datasets.Dataset, arch: str, values: dict[str, object]) -> None:
    """Print what a network trains a second on windows of these settings, and the ratio to the bare loop."""
    logmel = features.LogMel(*(values[name] for name in ("sample_rate", "n_fft", "hop_length", "n_mels", "fmin")))
    cut = windows.Windows(values["window_s"], values["hop_s"])
    store = cache.build(data.clips.query("subset == 'curated'"), logmel, runs.ROOT / "outputs" / "cache")
    clips = data.without(store.problems).clips.query("subset == 'curated'").reset_index(drop=True)
    rows, targets, width = store.rows(clips["fname"]), datasets.targets(clips, data.classes), cut.n_frames(logmel)
    share, size, device = values["mask_share"], values["batch_size"], models.best_device()
    scored = windows.rolling(store, rows.head(1), cut)
    validation = batches.Scoring(store, scored, targets[[0] * len(scored)], width)
    recipe = learners.Recipe("bce", EPOCHS, batch_size=size, lr=5e-3, lr_body=0.0, mixup=0.4, mask_share=share)
    training = Timed(store.on(device), rows, targets, width, recipe, 0)
    ready, level = list(training), store.statistics(clips["fname"])
    network, ours, bare = models.Network(arch, image_size=0), [], []
    for _ in range(TURNS):
        bare += bare_loop(models.WindowModel(network, targets.shape[1], *level).prepare(), ready)[1:]
        training.seconds = []
        with tempfile.TemporaryDirectory() as folder:
            learners.fit(network, recipe, training, validation, Path(folder) / "checkpoint.safetensors")
        ours += training.seconds[1:]
    ratio, rate = statistics.median(ours) / statistics.median(bare), len(clips) / statistics.median(ours)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    record(f"training, an epoch over a bare loop ({arch}, {logmel.n_mels} x {width})", ratio, "ratio")
    verdict = "held" if ratio <= TARGET else "MISSED"
    print(f"{arch}, windows of {logmel.n_mels} x {width}, {where}: {rate:.0f} windows a second")
    print(f"an epoch of training over a bare loop: {ratio:.3f} (target at most {TARGET}: {verdict})")


def main() -> None:
    data = datasets.load(demo.make(runs.ROOT / "outputs" / "demo-data"))
    for arch in ("regnetx_002", "resnet18d"):
        compare(data, arch, SMALL)
    if models.best_device().type == "cuda":
        real = settings.defaults() | settings.load_profile(runs.ROOT / "params" / "fsd2019.yaml")
        compare(data, real["arch"], real)


if __name__ == "__main__":
    main()
