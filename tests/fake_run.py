"""A run as 04_kfold leaves it, with networks that were never trained, for tests of what reads runs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lib import features, folds, models, windows

LOGMEL = features.LogMel(8000, n_fft=256, hop_length=80, n_mels=16, fmin=20.0)
CUT = windows.Windows(1.0, 0.25)
CLASSES = ["Rain", "Bark", "Tap_(a)"]
LABELS = [("Rain",), ("Bark",), ("Rain", "Bark"), ("Rain",)]  # of the training clips, two in each fold; no Tap_(a)


def make_run(home: Path, *, n_folds: int = 2, classes: list[str] = CLASSES, arch: str = "test_resnet") -> Path:
    """outputs/<run> with all folds and the pooled score; the same bytes each time."""
    fnames = [f"c{i}.wav" for i in range(n_folds * 2)]
    table = pd.DataFrame({"fname": fnames, "group": fnames, "fold": [i // 2 for i in range(len(fnames))]})
    folds.settle(home / "folds.csv", table)
    part = home / "04_kfold" / "curated"
    for fold in range(n_folds):
        torch.manual_seed(fold)
        model = models.WindowModel(models.Network(arch, 0), len(classes), [-40.0], [15.0])
        torch.nn.init.normal_(model.head[1].weight)  # scores that differ, as those of a trained one
        sidecar = {"classes": classes, "audio": LOGMEL.settings(), "windows": CUT.settings(), "recipe": {"loss": "bce"}}
        sidecar |= {"seed": 0, "unseen_folds": [fold], "folds": folds.digest(table)}
        models.save(part / f"without_{fold}" / "weights.safetensors", model, sidecar)
        rows = table[table["fold"] == fold].assign(labels=[",".join(LABELS[i % 4]) for i in (2 * fold, 2 * fold + 1)])
        scores = pd.DataFrame(0.5, index=rows.index, columns=classes)
        pd.concat([rows, scores], axis=1).to_csv(part / f"without_{fold}" / "clips.csv", index=False)
        (part / f"without_{fold}" / "result.json").write_text("{}")
    found = {"lwlrap": 0.75, "lwlrap_low": 0.7, "lwlrap_high": 0.8, "n": len(fnames), "complete": True}
    (part / "pooled").mkdir()
    told = {"parameters": {"run": home.name, "epochs": 1, "data_dir": "here", "folds_csv": ""}, "metrics": found}
    (part / "pooled" / "result.json").write_text(json.dumps(told))
    per_class = pd.DataFrame(
        {"class": classes, "n": 1, "lwlrap": [0.5, np.nan, 1.0, *[0.5] * len(classes)][: len(classes)]}
    )
    per_class.to_csv(part / "pooled" / "per_class.csv", index=False)
    return home
