"""A run as 04_kfold leaves it, with networks that were never trained, for tests of what reads runs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import torch

from lib import code
from lib.data import audit, datasets
from lib.evaluation import folds
from lib.files import digest, write_json
from lib.runs import oof
from lib.sound import features, windows
from lib.sound.cache import Cache
from lib.training import models
from lib.training.task import Task

LOGMEL = features.LogMel(8000, n_fft=256, hop_length=80, n_mels=16, fmin=20.0)
CUT = windows.Windows(1.0, 0.25)
CLASSES = ["Rain", "Bark", "Tap_(a)"]
LABELS = [("Rain",), ("Bark",), ("Rain", "Bark"), ("Rain",)]  # of the training clips, two in each fold; no Tap_(a)

XY = ["x", "y"]  # classes of the run of `make_models_of_all`
TABLE = pd.DataFrame({"fname": [f"{i:02}.wav" for i in range(12)], "group": [f"g{i:02}" for i in range(12)]})
TABLE["fold"] = np.arange(12) // 4
SINGLE, PAIRS = ["without_0", "without_1", "without_2"], ["without_0_1", "without_0_2", "without_1_2"]
SIDECAR = {
    "classes": XY,
    "audio": features.LogMel(sample_rate=8000, n_fft=512, hop_length=80, n_mels=16, fmin=20).settings(),
    "windows": {"window_s": 1.0, "hop_s": 0.5},
    "network": {"arch": "a", "image_size": 0},
    "recipe": {"loss": "bce", "epochs": 1, "batch_size": 4, "lr": 0.01, "lr_body": 0, "mixup": 0, "mask_share": 0},
    "folds": folds.digest(TABLE),
    "seed": 7,
}
SETTING = {"n_folds": 3, "folds": folds.digest(TABLE), "epochs": 1, "train_windows": "all", "seed": 7}
SETTING |= {"labels": {"curated": "1" * 12}, "audio": {"curated": "0" * 12}}
SELECTION = {"gate_db": 30.0, "folds": folds.digest(TABLE)}


def seal(part: Path) -> None:
    """Let oof_windows.npz of a part name its present clips.csv, as if it had been trained so."""
    arrays = dict(np.load(part / "oof_windows.npz"))
    np.savez(part / "oof_windows.npz", **arrays | {"clips": digest((part / "clips.csv").read_bytes())})


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
    told = {
        "parameters": {"run": home.name, "profile": "demo", "epochs": 1, "data_dir": "here", "folds_csv": ""},
        "metrics": found,
    }
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
    setting = {"n_folds": n_folds, "folds": "f" * 12, **clips, "lr": 0.01, "seed": 2019, **setting}
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


def make_models_of_all(home: Path) -> Path:
    """outputs/<run> of 12 clips in three folds, made up without any network, with all that other notebooks ask of 04.

    `curated` and `wide` with their pair models, a second seed of both (without pairs), and `kept_curated`, trained on
    what 05 has selected. Scores tell which model gave them.
    """
    folds.settle(home / "folds.csv", TABLE)
    for variant in ("curated", "wide"):
        make_models(home, variant, SINGLE + PAIRS)
        make_models(home, f"{variant}.seed_8", SINGLE, seed=8)
    make_models(home, "kept_curated", SINGLE, train_windows="kept", curation=digest(SELECTION))
    pooled = home / "04_kfold" / "curated" / "pooled"
    write_json(pooled / "result.json", {"parameters": {"run": "mine"}, "metrics": {"lwlrap": 0.7, "complete": True}})
    pd.DataFrame({"class": XY, "lwlrap": 0.5}).to_csv(pooled / "per_class.csv", index=False)
    select = home / "05_curation" / "select"
    write_json(select / "configuration.json", SELECTION)
    write_json(select / "result.json", {})
    return home


def make_models(home: Path, variant: str, names: list[str], **setting: object) -> None:
    """Finished models of a variant of that run; `setting` is what its configuration has besides."""
    clips = TABLE.assign(labels=[("x",) if i % 2 else ("y",) for i in range(12)])
    write_json(home / "04_kfold" / variant / "configuration.json", {**SETTING, **setting})
    for name in names:
        part = home / "04_kfold" / variant / name
        scored = clips[clips["fold"].isin(folds.unseen(name))]
        windows = scored.loc[scored.index.repeat(2)].assign(window_start_s=[0.0, 0.5] * len(scored))
        logits = np.full((len(windows), 2), float(sum(10**f for f in folds.unseen(name))) / 100)
        oof.write(part, windows, logits, scored, XY, "bce")
        pd.DataFrame({"epoch": [0], "lwlrap": [0.5]}).to_csv(part / "epochs.csv", index=False)
        own = {"seed": setting.get("seed", SIDECAR["seed"]), "unseen_folds": sorted(folds.unseen(name))}
        write_json(part / "weights.json", SIDECAR | own)
        (part / "weights.safetensors").write_bytes(name.encode())
        write_json(part / "manifest.json", {"seconds": 60.0})
        write_json(part / "result.json", {})


def without(*names: str) -> Callable[[Path], None]:
    """What deletes files or folders of a run."""

    def plant(home):
        for name in names:
            path = home / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return plant


def change(name: str, **values: object) -> Callable[[Path], None]:
    """What puts other values into a JSON file of a run, or into those that a pattern finds."""

    def plant(home):
        paths = sorted(home.glob(name))
        assert paths
        for path in paths:
            write_json(path, {**json.loads(path.read_text()), **values})

    return plant


def write_part(
    folder: Path, *, seconds: float = 2.0, finished: str = "2026-01-01T10:00:00+0000", **told: object
) -> Path:
    """result.json and manifest.json of a finished part; `told` goes into the result."""
    folder.mkdir(parents=True)
    result = {"schema": 2, "parameters": {"run": "demo", "profile": "demo"}, "verdict": "measured"}
    result |= {"conclusion": "It is so."}
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
