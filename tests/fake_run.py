"""A run as 04_kfold leaves it, with networks that were never trained, for tests of what reads runs."""

import json
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import torch

from lib import code
from lib.data import audit, datasets
from lib.evaluation import folds
from lib.sound import features, windows
from lib.sound.cache import Cache
from lib.training import models
from lib.training.task import Task

LOGMEL = features.LogMel(8000, n_fft=256, hop_length=80, n_mels=16, fmin=20.0)
CUT = windows.Windows(1.0, 0.25)
CLASSES = ["Rain", "Bark", "Tap_(a)"]
LABELS = [("Rain",), ("Bark",), ("Rain", "Bark"), ("Rain",)]  # of the training clips, two in each fold; no Tap_(a)


def make_task(
    clips: pd.DataFrame, dealt: pd.DataFrame, store: Cache | None = None, classes: list[str] = CLASSES
) -> Task:
    """A task of these clips (fname, labels; curated unless they say otherwise) and folds."""
    clips = clips if "subset" in clips else clips.assign(subset="curated")
    return Task(datasets.Dataset("demo", Path(), tuple(classes), clips, audit.table([])), dealt, store)


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
        (part / f"without_{fold}" / "epochs.csv").write_text("epoch,train_loss,valid_loss,lwlrap\n")
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


def make_variant(
    home: Path,
    name: str = "curated",
    *,
    right: float = 1.0,
    n_folds: int = 2,
    done: int | None = None,
    **setting: object,
) -> Path:
    """A variant of 04 in outputs/<run>, 20 clips of 20 groups in two classes; its pooled part, if all folds are done.

    Parameters
    ----------
    right : share of the clips whose own class ranks first
    done : how many folds are done; none: all
    setting : what its configuration has besides, such as folds="another digest"
    """
    clips = {"labels": {"curated": "1" * 12}, "audio": {"curated": "0" * 12}}
    setting = {"n_folds": n_folds, "folds": "f" * 12, **clips, "lr": 0.01, **setting}
    variant, done = home / "04_kfold" / name, n_folds if done is None else done
    write_part(variant / "pooled", seconds=1.0) if done == n_folds else variant.mkdir(parents=True)
    (variant / "configuration.json").write_text(json.dumps(setting))
    for fold in range(done):
        part = write_part(variant / f"without_{fold}", seconds=10.0)
        label = [i % 2 for i in range(20)]
        table = pd.DataFrame(
            {"fname": [f"c{i:02}.wav" for i in range(20)], "fold": [i // 2 % n_folds for i in range(20)]}
        )
        table["group"], table["labels"] = table["fname"], ["ab"[k] for k in label]
        hits = np.arange(20) < round(20 * right)
        table["a"] = np.where(np.equal(label, 0) == hits, 0.9, 0.1)
        table["b"] = 1 - table["a"]
        table[["fname", "group", "fold", "labels", "a", "b"]][table["fold"] == fold].to_csv(
            part / "clips.csv", index=False
        )
        epochs = {"epoch": [0, 1], "train_loss": [1.0, 0.5], "valid_loss": [1.0, 0.6], "lwlrap": [None, right]}
        pd.DataFrame(epochs).to_csv(part / "epochs.csv", index=False)
    return variant


def write_part(
    folder: Path, *, seconds: float = 2.0, finished: str = "2026-01-01T10:00:00+0000", **told: object
) -> Path:
    """result.json and manifest.json of a finished part; `told` goes into the result."""
    folder.mkdir(parents=True)
    result = {"parameters": {"run": "demo", "profile": "demo"}, "verdict": "measured", "says": "It is so."}
    found = {"lwlrap": 0.75, "lwlrap_low": 0.7, "lwlrap_high": 0.8, "n": 20, "baseline_lwlrap": 0.5}
    (folder / "result.json").write_text(json.dumps({**result, "metrics": found, **told}))
    made = {"finished": finished, "commit": "0123456789abcdef", "dirty": False, "seconds": seconds}
    made["code"] = code.digest(next((name for name in folder.parts if name in code.ENTRIES), ""))
    (folder / "manifest.json").write_text(json.dumps(made))
    return folder


def write_notebook(path: Path, *cells: object, title: str = "04 · Is it so?") -> Path:
    """An executed notebook: its first cell asks, each of `cells` is the list of outputs of a code cell."""
    first = nbformat.v4.new_markdown_cell(f"# {title}\n\n**Question.** Really?\n\n**Expectation.** It rather is.")
    code = [nbformat.v4.new_code_cell("look(1)", outputs=outputs) for outputs in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[first, *code]), path)
    return path
