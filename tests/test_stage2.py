"""Tests of stage2 and its training: rows, padding, order in time, weights files, what inference imports."""

import numpy as np
import pandas as pd
import pytest
import torch

from lib.clips import stage2
from lib.clips.stage2 import MODELS, Stage2Model
from lib.evaluation.window_scores import WindowScores
from lib.training import learners, models
from lib.training.models import activate

COLUMNS = 9
ORDERLY = ("cnn", "cnn_logits", "dense", "conv1d", "gru")  # may tell an order of windows; the others are blind to it


def scenes(n, seed=0):
    """Windows of clips of two classes, the same three sounds in opposite order; a third class tells the first sound."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2
    scores = rng.uniform(0.4, 0.5, (n, COLUMNS, 3))
    scores[:, :, 2] = 0.02
    for clip, k in zip(scores, label, strict=True):
        clip[1 if k == 0 else 6, 2] = 0.8
    fnames = np.repeat([f"{i:03}" for i in range(n)], COLUMNS)
    start_s = np.tile(0.5 * np.arange(COLUMNS), n)
    windows = WindowScores(pd.DataFrame({"fname": fnames, "window_start_s": start_s}), scores.reshape(-1, 3))
    return windows, np.eye(3, dtype=np.float32)[label]


def images(n=40, seed=0, rows=(0, 1, 2)):
    windows, targets = scenes(n, seed)
    return stage2.make_images(windows, COLUMNS, np.array(rows))[1], targets


def fitted(kind, rows=(0, 1, 2), epochs=30, seed=0):
    shown, targets = images(rows=rows)
    torch.manual_seed(seed)
    model = Stage2Model(kind, COLUMNS, rows, torch.from_numpy(shown))
    return learners.fit_images(model, shown, targets, loss="bce", epochs=epochs, seed=seed)


@pytest.mark.parametrize("kind", MODELS)
def test_order_in_time_is_learned_by_those_that_can_tell_it_and_by_no_other(kind):
    model = fitted(kind)
    windows, targets = scenes(40, seed=1)
    clips, found = stage2.clip_scores(model, windows, "bce")
    assert list(clips) == sorted(set(windows.table["fname"]))
    hits = (found[:, :2].argmax(1) == targets[:, :2].argmax(1)).mean()
    assert hits > 0.9 if kind in ORDERLY else 0.25 < hits < 0.75


@pytest.mark.parametrize("kind", MODELS)
def test_logits_come_in_the_order_of_classes_whatever_the_rows(kind):
    """The network sees row 0 as class 2, 1 as 0, 2 as 1; what it says of its rows is put back."""
    model = fitted(kind, rows=(2, 0, 1), epochs=2)
    shown, _ = images(rows=(2, 0, 1))
    plain = model.net(*inside(model, shown))
    torch.testing.assert_close(model(torch.from_numpy(shown)), plain[:, [1, 2, 0]])


def inside(model, shown):
    x = torch.from_numpy(shown)
    there = x.amax(1) > 0
    scores = (x / 255).clamp(1e-5, 1 - 1e-5)
    return x, ((scores / (1 - scores)).log() - model.mean) / model.std * there[:, None], there


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind not in ORDERLY])
def test_padding_is_no_window(kind):
    model = fitted(kind, epochs=2)
    shown, _ = images()
    wide = Stage2Model(kind, COLUMNS + 8, (0, 1, 2))
    wide.load_state_dict(model.state_dict())
    padded = np.pad(shown, ((0, 0), (0, 0), (3, 5)))
    torch.testing.assert_close(wide.eval()(torch.from_numpy(padded)), model(torch.from_numpy(shown)))


def test_normalisation_comes_from_windows_alone():
    shown, _ = images()
    one, padded = (Stage2Model("gru", s.shape[2], (0, 1, 2), torch.from_numpy(s)) for s in (shown, pad(shown)))
    torch.testing.assert_close(one.mean, padded.mean)
    torch.testing.assert_close(one.std, padded.std)
    assert one.mean[2] == pytest.approx(np.log(shown[:, 2] / (255 - shown[:, 2])).mean(), abs=1e-4)


def pad(shown):
    return np.pad(shown, ((0, 0), (0, 0), (4, 4)))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    one, same, other = (fitted("conv1d", epochs=2, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_saved_says_the_same_when_it_is_loaded(tmp_path, kind):
    model = fitted(kind, rows=(1, 2, 0), epochs=2)
    models.save(tmp_path / "weights.safetensors", model, {"classes": ["a", "b", "c"]})
    loaded, sidecar = models.load(tmp_path / "weights.safetensors", Stage2Model)
    assert sidecar["classes"] == ["a", "b", "c"] and loaded.settings == model.settings
    shown = torch.from_numpy(images(rows=(1, 2, 0))[0])
    assert torch.equal(loaded(shown), model(shown))


def test_scores_are_those_of_the_images():
    model = fitted("conv1d", epochs=2)
    _, found = stage2.clip_scores(model, scenes(40)[0], "bce")
    with torch.inference_mode():
        np.testing.assert_array_equal(found, activate(model(torch.from_numpy(images()[0])).numpy(), "bce"))


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="stage 2 has no model 'rnn'. There are: cnn, cnn_logits"):
        Stage2Model("rnn", 3, (0, 1))
    model = Stage2Model("gru", 3, (0, 1))
    with pytest.raises(ValueError, match=r"images \(1, 2, 4\): expected \(n, 2, 3\)"):
        model(torch.ones(1, 2, 4))
    with pytest.raises(ValueError, match="1 images and 1 targets: two or more"):
        learners.fit_images(model, np.ones((1, 2, 3)), np.ones((1, 2)), loss="bce", epochs=1, seed=0)
    with pytest.raises(FileNotFoundError, match="06_stage2 writes it"):
        models.load(tmp_path / "weights.safetensors", Stage2Model)
