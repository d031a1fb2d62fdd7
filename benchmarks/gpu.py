"""What a GPU gains by an epoch that is drawn at once on it: the commit before and this one, on one card in one call.

    make bench-gpu                    with git, which gives the commit before
    make bench-gpu BEFORE=folder      where there is no git: a folder with that commit's files

Both run their own bench_training.py, in turns: windows a second and an epoch over a bare loop, under the determinism
flags that training sets. Then, of this commit: the share of the card's bf16 peak, the same seed twice, and a kill and a
resume, with equal weights. Under ten minutes on one H100.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from table import record
from torch.utils.flop_counter import FlopCounterMode

from lib.data import datasets, demo
from lib.runs import run as runs
from lib.sound import cache, features, windows
from lib.training import batches, callbacks, learners, models

BEFORE, TURNS = "5f8a478", 2
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L4": 121e12}  # bf16 multiplications and additions a second
RATE = re.compile(
    r"(\w+), windows of (\d+ x \d+), .*: (\d+) windows a second\nan epoch of training over a bare loop: (\S+)"
)


def checkout(folder: Path) -> Path:
    """The files of the commit before."""
    archive = subprocess.run(["git", "archive", BEFORE], cwd=runs.ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    return folder


def measured(tree: Path) -> list[dict[str, object]]:
    """network, shape, rate (windows a second), ratio (an epoch over a bare loop), as that tree's own benchmark says."""
    there = {**os.environ, "PYTHONPATH": str(tree)}
    words = [sys.executable, "benchmarks/bench_training.py"]
    answer = subprocess.run(words, cwd=tree, env=there, capture_output=True, text=True, check=False)
    if answer.returncode:
        sys.exit(f"{tree}: {' '.join(words)} failed:\n{answer.stderr[-2000:]}")
    return [
        {"network": network, "shape": shape, "rate": float(rate), "ratio": float(ratio)}
        for network, shape, rate, ratio in RATE.findall(answer.stdout)
    ]


def speed(before: Path) -> None:
    found = [
        {"tree": name, **row}
        for _ in range(TURNS)
        for name, tree in (("before", before), ("now", runs.ROOT))
        for row in measured(tree)
    ]
    table = pd.DataFrame(found).groupby(["network", "shape", "tree"])[["rate", "ratio"]].median().unstack()
    print(table.round(3).to_string())
    for (network, shape), row in table.iterrows():
        gain, where = row["rate", "now"] / row["rate", "before"], f"{network}, {shape}"
        record(f"GPU, windows a second over {BEFORE} ({where})", gain, "ratio")
        record(f"GPU, an epoch over a bare loop ({where})", row["ratio", "now"], "ratio")
        share = row["rate", "now"] * flops(network, *map(int, shape.split(" x "))) / peak()
        print(f"{where}: {gain:.2f} times the windows a second, {share:.1%} of the card's bf16 peak")


def flops(network: str, n_mels: int, n_frames: int) -> float:
    """Multiplications and additions that a window takes in a training step: forward, and twice that backward."""
    model = models.WindowModel(models.Network(network, image_size=0), 80, [-40.0], [15.0]).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 1, n_mels, n_frames))
    return 3 * counter.get_total_flops()


def peak() -> float:
    name = torch.cuda.get_device_name()
    return next((most for card, most in PEAK.items() if card in name), np.nan)


def train(folder: Path, epochs: int = 6) -> dict[str, torch.Tensor]:
    """The weights of a small training with masks and mixup, on the demo set."""
    data = datasets.load(demo.make(runs.ROOT / "outputs" / "demo-data"))
    logmel, cut = features.LogMel(22_050, n_fft=1024, hop_length=441, n_mels=64, fmin=20.0), windows.Windows(1.0, 0.5)
    store = cache.build(data.clips.query("subset == 'curated'"), logmel, runs.ROOT / "outputs" / "cache")
    clips = data.without(store.problems).clips.query("subset == 'curated'").reset_index(drop=True)
    recipe = learners.Recipe("bce", epochs, batch_size=32, lr=5e-3, lr_body=0.0, mixup=0.4, mask_share=0.2)
    training = learners.training_batches(store, clips, data.classes, cut, recipe, seed=0)
    table = windows.rolling(store, store.rows(clips["fname"]), cut).merge(clips[["fname", "labels"]], on="fname")
    scoring = batches.Scoring(store, table, datasets.targets(table, data.classes), cut.n_frames(logmel))
    network = models.Network("resnet18d", image_size=0)
    return learners.fit(network, recipe, training, scoring, folder / "checkpoint")[0].state_dict()


def sameness() -> None:
    """The same seed twice, and a training that is killed and goes on: equal to the last bit?"""
    save = callbacks.Checkpoint.after_epoch

    def killed(self: callbacks.Checkpoint) -> None:
        save(self)
        if self.epoch == 2:
            raise KeyboardInterrupt

    callbacks.CHECKPOINT_S = 0.0
    weights = []
    for name in ("one", "again", "resumed"):
        with tempfile.TemporaryDirectory() as folder:
            if name == "resumed":
                callbacks.Checkpoint.after_epoch = killed
                try:
                    train(Path(folder))
                except KeyboardInterrupt:
                    callbacks.Checkpoint.after_epoch = save
            weights.append(train(Path(folder)))
    for name, other in zip(("the same seed twice", "killed and resumed"), weights[1:], strict=True):
        equal = all(torch.equal(weights[0][key], other[key]) for key in other)
        print(f"{name}: weights {'equal' if equal else 'DIFFER'}")


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("There is no GPU here: make bench measures the processor.")
    print(torch.cuda.get_device_name())
    sameness()
    with tempfile.TemporaryDirectory() as folder:
        speed(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else checkout(Path(folder)))


if __name__ == "__main__":
    main()
