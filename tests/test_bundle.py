"""Tests of bundle: what a run must have before it is packed, and a packed folder that is what was packed."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from fake_run import CLASSES, make_run

from lib.runs import oof
from lib.runs.modelset import ModelSet, settings_digest
from lib.submission import bundle

MEAN = {"kind": "pooling", "method": "mean", "parameter": None}
PART = "04_kfold/curated"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "first")


@pytest.fixture
def home(original, tmp_path):
    return shutil.copytree(original, tmp_path / "first")


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_what_a_run_knows(home):
    packed = bundle.gather(home, "curated")
    assert packed.manifest["models"] == ["without_0", "without_1"] and packed.manifest["classes"] == CLASSES
    assert packed.prior == {"Rain": 0.75, "Bark": 0.5, "Tap_(a)": 0.0} and packed.manifest["n_train"] == 4
    assert packed.manifest["oof"]["lwlrap"] == 0.75 and packed.manifest["oof_per_class"] == {
        "Rain": 0.5,
        "Tap_(a)": 1.0,
    }
    assert packed.sidecar["windows"]["window_s"] == 1.0 and packed.manifest["choice"] == MEAN
    assert [path.parent.name for path in packed.weights] == ["without_0", "without_1"]
    assert "data_dir" not in packed.manifest["parameters"] and str(home) not in json.dumps(packed.manifest)


def write_choice(home, chosen):
    """As 06 leaves it, for the models of fake_run."""
    sidecar = json.loads((home / PART / "without_0" / "weights.json").read_text())
    folder = home / "06_stage2" / "curated"
    folder.mkdir(parents=True)
    (folder / "choice.json").write_text(json.dumps({**chosen, "settings": settings_digest(sidecar)}))
    (folder / "weights.safetensors").write_bytes(b"weights")
    (folder / "weights.json").write_text("{}")


@pytest.mark.parametrize(("kind", "method", "parameter"), [("pooling", "power", 2.0), ("stage2", "conv1d", None)])
def test_the_choice_of_06_is_read_and_packed(home, tmp_path, kind, method, parameter):
    chosen = {"kind": kind, "method": method, "parameter": parameter, "lwlrap": 0.8}
    write_choice(home, chosen)
    bundle.write(bundle.gather(home, "curated"), tmp_path / "packed")
    packed = bundle.read(tmp_path / "packed")
    assert packed.manifest["choice"] == chosen
    assert (packed.stage2 is None) == (kind == "pooling")
    if packed.stage2:
        assert packed.stage2.read_bytes() == b"weights" and packed.stage2.with_suffix(".json").read_text() == "{}"


@pytest.mark.parametrize("lost", ["choice.json", "weights.safetensors"])
def test_a_choice_that_is_gone_since_is_not_replaced_by_the_mean(home, lost):
    write_choice(home, {"kind": "stage2", "method": "conv1d", "parameter": None})
    folder = home / "06_stage2" / "curated"
    (folder / "result.json").write_text("{}")
    (folder / lost).unlink()
    with pytest.raises(FileNotFoundError, match=f"{lost}.* gone, though 06_stage2 is done. Run 06_stage2 again"):
        bundle.gather(home, "curated")


def score_windows(home, logit):
    """One window a clip, with the same logit for all classes."""
    for model in ("without_0", "without_1"):
        windows = pd.read_csv(home / PART / model / "clips.csv").assign(window_start_s=0.0)
        oof.write_windows(home / PART / model, windows, np.full((len(windows), len(CLASSES)), logit), CLASSES)


def test_a_choice_for_models_that_were_trained_again_is_refused(home):
    chosen = {"kind": "pooling", "method": "max", "parameter": None}
    score_windows(home, 0.0)
    models = ModelSet.open(home, "curated", "single")
    write_choice(home, {**chosen, "models": models.scored})
    assert bundle.gather(home, "curated").manifest["choice"] == chosen
    score_windows(home, 1.0)
    with pytest.raises(ValueError, match="models with other scores than the models in .* now. Run 06_stage2 again"):
        bundle.gather(home, "curated")


def test_a_choice_for_models_of_other_settings_is_refused(home):
    write_choice(home, {"kind": "pooling", "method": "max", "parameter": None})
    for changed in ({"seed": 7}, {"recipe": {"loss": "ce"}}):
        for model in ("without_0", "without_1"):
            change(home / PART / model / "weights.json", **changed)
        with pytest.raises(ValueError, match="other settings than the models in .* have now.*Run 06_stage2 again"):
            bundle.gather(home, "curated")


@pytest.mark.parametrize(
    "name",
    [
        "folds.csv",
        *(f"{PART}/without_1/{name}" for name in ("weights.safetensors", "weights.json", "clips.csv", "result.json")),
        *(f"{PART}/pooled/{name}" for name in ("per_class.csv", "result.json")),
    ],
)
def test_an_incomplete_run_is_refused_by_what_is_missing(home, name):
    (home / name).unlink()
    missing = re.escape(name.removeprefix(f"{PART}/"))
    with pytest.raises(FileNotFoundError, match=rf"(?s){missing}.*make run NB=04 RUN=first"):
        bundle.gather(home, "curated")


def test_all_that_is_missing_is_named_at_once(home):
    shutil.rmtree(home / PART / "without_0")
    (home / PART / "pooled" / "per_class.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"curated .* lacks without_0/\S+, pooled/per_class.csv\."):
        bundle.gather(home, "curated")


def test_folds_alone_are_enough_to_train(home):
    shutil.rmtree(home / PART)
    packed = bundle.gather(home, "curated", with_weights=False)
    assert list(packed.files) == ["folds.csv"] and "models" not in packed.manifest


@pytest.mark.parametrize(
    ("values", "saying"),
    [
        ({"windows": {"window_s": 2.0, "hop_s": 0.25}}, "without_1 and without_0 differ in windows"),
        ({"folds": "0123456789ab"}, r"without_1 doesn't belong to this run: .* folds \[1\] of folds 0123456789ab"),
        ({"unseen_folds": [0]}, r"without_1 doesn't belong to this run: it did not see folds \[0\]"),
    ],
)
def test_models_that_do_not_belong_together_are_refused(home, values, saying):
    change(home / PART / "without_1" / "weights.json", **values)
    with pytest.raises(ValueError, match=rf"{saying}.*-p overwrite True"):
        bundle.gather(home, "curated")


def test_a_pooled_score_of_some_folds_is_refused(home):
    change(home / PART / "pooled" / "result.json", metrics={"lwlrap": 0.7, "complete": False})
    with pytest.raises(ValueError, match="before all folds were trained.*-p fold -1"):
        bundle.gather(home, "curated")


def test_packed_and_read_again(home, tmp_path):
    packed = bundle.gather(home, "curated")
    bundle.write(packed, tmp_path / "packed")
    again = bundle.read(tmp_path / "packed")
    assert again.manifest == packed.manifest and again.digest == packed.digest and again.sidecar == packed.sidecar
    names = {f"without_{fold}.{kind}" for fold in (0, 1) for kind in ("json", "safetensors")}
    assert {path.name for path in (tmp_path / "packed").iterdir()} == {"folds.csv", "manifest.json"} | names
    assert [p.read_bytes() for p in again.weights] == [p.read_bytes() for p in packed.weights]


def test_the_digest_names_the_content_and_not_the_place(home, original):
    here, there = bundle.gather(home, "curated"), bundle.gather(original, "curated")
    assert here.digest == there.digest
    weights = home / PART / "without_0" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    assert bundle.gather(home, "curated").digest != there.digest


def test_a_packed_folder_that_is_not_what_was_packed_is_refused(home, tmp_path):
    folder = tmp_path / "packed"
    bundle.write(bundle.gather(home, "curated"), folder)
    content = (folder / "folds.csv").read_text()
    (folder / "folds.csv").write_text(content.replace("c0", "c9"))
    with pytest.raises(ValueError, match=r"folds\.csv changed after packing. Push the data set again"):
        bundle.read(folder)
    (folder / "folds.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks folds\.csv"):
        bundle.read(folder)
    change(folder / "manifest.json", schema=bundle.SCHEMA + 1)
    with pytest.raises(ValueError, match=r"schema 2, this code reads 1\. Pack the run again \(make kaggle\)"):
        bundle.read(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="it is not a packed run"):
        bundle.read(folder)
