"""Tests of learners: equal runs are equal to the last bit, killed or not; held-out clips teach nothing."""

import collections
import dataclasses
import os
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from fake_run import make_task
from fastai.learner import Learner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from lib.data import datasets
from lib.evaluation import folds, metrics
from lib.runs import oof
from lib.settings import BALANCES, NORMALISE
from lib.sound import windows
from lib.sound.cache import Cache
from lib.sound.features import LogMel
from lib.training import batches, callbacks, learners, models
from lib.training.augment import AUGMENTATIONS, MIXES
from lib.training.batches import Scoring, Training
from lib.training.callbacks import image_sizes
from lib.training.learners import LOSSES, SCHEDULES, Recipe
from lib.training.models import Network

LOGMEL = LogMel(sample_rate=8000, n_fft=512, hop_length=80, n_mels=16, fmin=20)  # 100 frames a second
CUT = windows.Windows(window_s=0.32, hop_s=0.16)
WIDTH = 32
CLASSES = ["low", "high", "both"]
NETWORK = Network("test_resnet", 0, dropout=0.3)
RECIPE = Recipe(loss="bce", epochs=4, batch_size=4, lr=0.01, lr_body=0.0, mixup=0.4, mask_share=0.3)
PLAIN = dataclasses.replace(RECIPE, mixup=0.0, mask_share=0.0)
FLOOR = -80.0


def make_cache(frames, fnames=None):
    """A cache of clips, each float (n_frames, n_mels)."""
    lengths = np.array([len(f) for f in frames])
    index = pd.DataFrame(
        {
            "fname": [f"{i:02}.wav" for i in range(len(frames))],
            "first_frame": np.cumsum(lengths) - lengths,
            "n_frames": lengths,
            "floor_db": FLOOR,
        }
    )
    stored = torch.from_numpy(np.concatenate(frames)[:, None].astype(np.float16))
    return Cache(LOGMEL, (stored,), index, pd.DataFrame(), "a-name")


@pytest.fixture(scope="module")
def tones():
    """20 noisy clips, 15 to 90 frames long; the first class is loud in low bands, the second in high ones."""
    rng = np.random.default_rng(0)
    label = np.arange(20) % 3
    frames = [rng.normal(-50, 4, (n, 16)) for n in rng.integers(15, 91, 20)]
    for clip, k in zip(frames, label, strict=True):
        clip[:, :6] += 25 * (k != 1)
        clip[:, 10:] += 25 * (k != 0)
    clips = pd.DataFrame({"fname": [f"{i:02}.wav" for i in range(20)], "labels": [(CLASSES[k],) for k in label]})
    dealt = pd.DataFrame({"fname": clips["fname"], "group": clips["fname"], "fold": np.arange(20) // 3 % 3})
    return make_cache(frames), clips, dealt


@pytest.fixture(scope="module")
def counted():
    """11 clips of 40 frames that say who they are: band 0 holds the clip's number, band 1 the frame's, and each has its
    own class."""
    frames = [np.stack([np.full(40, k), np.arange(40), *np.zeros((14, 40))], axis=1) for k in range(11)]
    return make_cache(frames), np.eye(11, dtype=np.float32)


@pytest.fixture(scope="module")
def solid():
    """11 clips of 40 frames that hold nothing but their own level, 0 to 10 dB; each has its own class."""
    return make_cache([np.full((40, 16), k) for k in range(11)]), np.eye(11, dtype=np.float32)


def fit(
    tones,
    checkpoint,
    *,
    seed=1,
    recipe=RECIPE,
    network=NETWORK,
    width=WIDTH,
    targets=None,
    rows=lambda rows: rows,
    cut=CUT,
    **more,
):
    """Train on folds 1 and 2, validate on fold 0."""
    cache, clips, dealt = tones
    table = clips.merge(dealt, on="fname")
    train, held = table[table["fold"] > 0], table[table["fold"] == 0]
    targets = datasets.targets(train, CLASSES) if targets is None else targets
    rolled = windows.rolling(cache, cache.rows(held["fname"]), cut).merge(held, on="fname")
    training = Training(cache, rows(cache.rows(train["fname"])), targets, width, recipe, seed)
    validation = Scoring(cache, rolled, datasets.targets(rolled, CLASSES), width)
    model, curve = learners.fit(network, recipe, training, validation, checkpoint, **more)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, curve, model, validation


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def undisturbed(tones, tmp_path_factory):
    checkpoint = tmp_path_factory.mktemp("undisturbed") / "checkpoint"
    return (*fit(tones, checkpoint), checkpoint)


def raise_after(monkeypatch, epochs):
    """Checkpoint every epoch, and die right after that of the last of `epochs`."""
    save = callbacks.Checkpoint.after_epoch

    def killed(self):
        save(self)
        if self.epoch == epochs - 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(callbacks, "CHECKPOINT_S", 0)
    monkeypatch.setattr(callbacks.Checkpoint, "after_epoch", killed)


@pytest.fixture(scope="module")
def checkpoint_of_2(tones, tmp_path_factory):
    """What a training leaves that was killed after its second epoch."""
    path = tmp_path_factory.mktemp("killed") / "checkpoint"
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        raise_after(patched, 2)
        fit(tones, path)
    return path


# batches


@pytest.mark.parametrize("batch_size", [2, 3, 4, 5, 8, 32])
def test_every_clip_once_an_epoch_in_even_batches(counted, batch_size):
    cache, targets = counted
    for n in range(2, 12):
        rows = cache.rows([f"{i:02}.wav" for i in range(n)])
        training = Training(cache, rows, targets[:n], 8, dataclasses.replace(PLAIN, batch_size=batch_size), 0)
        batches = [x[:, 0, 0, 0].int().tolist() for x, _ in training]
        sizes = [len(batch) for batch in batches]
        assert len(batches) == len(training)
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 2  # batch normalisation needs two
        assert sorted(sum(batches, [])) == list(range(n))


def test_targets_are_those_of_the_clip_and_frames_are_whole_windows(counted):
    cache, targets = counted
    training = Training(cache, cache.rows(cache.index["fname"]), targets, 8, PLAIN, 0)
    for x, y in training:
        assert x.shape[1:] == (1, 16, 8)
        assert (x[:, 0, 0] == y.argmax(1)[:, None]).all()
        assert (y.sum(1) == 1).all()
        assert (x[:, 0, 1].diff() == 1).all()  # one frame after the other


def test_windows_and_order_differ_between_epochs_and_seeds_and_return_with_them(counted):
    cache, targets = counted

    def drawn(seed, epoch):
        training = Training(cache, cache.rows(cache.index["fname"]), targets, 8, RECIPE, seed)
        training.epoch = epoch
        return torch.cat([x for x, _ in training])

    assert torch.equal(drawn(1, 0), drawn(1, 0))
    for other in (drawn(1, 1), drawn(2, 0)):
        assert (drawn(1, 0)[:, 0, 0] != other[:, 0, 0]).any()
        assert (drawn(1, 0)[:, 0, 1] != other[:, 0, 1]).any()


def test_windows_start_anywhere_in_the_clip(counted):
    cache, targets = counted
    training = Training(cache, cache.rows(cache.index["fname"]), targets, 36, PLAIN, 0)
    starts = set()
    for training.epoch in range(10):
        starts.update(start for x, _ in training for start in x[:, 0, 1, 0].int().tolist())
    assert starts == {0, 1, 2, 3, 4}


def test_every_epoch_of_a_training_sees_other_windows(counted, tmp_path, monkeypatch):
    cache, targets = counted
    seen, forward = [], models.WindowModel.forward
    monkeypatch.setattr(models.WindowModel, "forward", lambda self, x: (seen.append(x.clone()), forward(self, x))[1])
    rows = cache.rows(cache.index["fname"])
    recipe = dataclasses.replace(PLAIN, epochs=3, batch_size=11)
    training = Training(cache, rows, targets, WIDTH, recipe, 0)
    scoring = Scoring(cache, windows.rolling(cache, rows, CUT)[:11], targets, WIDTH)
    learners.fit(NETWORK, recipe, training, scoring, tmp_path / "checkpoint")
    starts = [tuple(x[x[:, 0, 0, 0].argsort(), 0, 1, 0].tolist()) for x in seen[0::2]]  # by clip
    assert len(set(starts)) == 3


def test_training_windows_are_masked_and_inference_windows_are_exact(counted):
    cache, targets = counted
    masked = dataclasses.replace(PLAIN, mask_share=0.9)
    rows = cache.rows(cache.index["fname"])
    assert any((x[:, 0, 1].diff() != 1).any() for x, _ in Training(cache, rows, targets, 8, masked, 0))
    cut = windows.Windows(window_s=0.08, hop_s=0.04)
    rolled = windows.rolling(cache, rows, cut)
    scoring = Scoring(cache, rolled, targets[rolled["fname"].str[:2].astype(int)], 8)
    x, y = (torch.cat(parts) for parts in zip(*scoring, strict=True))
    assert len(x) == len(rolled) == 11 * 9
    starts = torch.from_numpy(rolled["start_frame"].to_numpy(copy=True))
    assert torch.equal(x[:, 0, 1], (starts[:, None] + torch.arange(8)).float())
    assert (x[:, 0, 0] == y.argmax(1)[:, None]).all()
    assert (x[:, 0, 2:] == 0).all()


# the same to the last bit


def test_the_same_seed_gives_the_same_weights_and_curve(tones, undisturbed, tmp_path):
    torch.rand(5)  # what was drawn before makes no difference
    weights, curve, _, _ = fit(tones, tmp_path / "checkpoint")
    assert same(weights, undisturbed[0])
    pd.testing.assert_frame_equal(curve, undisturbed[1], check_exact=True)


def test_another_seed_gives_other_weights(tones, undisturbed, tmp_path):
    assert not same(fit(tones, tmp_path / "checkpoint", seed=2)[0], undisturbed[0])


@pytest.fixture
def steps(monkeypatch):
    """Counts the steps of the optimiser."""
    taken, step = [], torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *a, **k: (taken.append(1), step(*a, **k))[1])
    return taken


def test_a_killed_training_goes_on_to_the_same_weights_and_curve(
    tones, undisturbed, checkpoint_of_2, tmp_path, steps, monkeypatch
):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.write_bytes(checkpoint_of_2.read_bytes())
    with monkeypatch.context() as patched:
        raise_after(patched, 3)  # killed a second time
        with pytest.raises(KeyboardInterrupt):
            fit(tones, checkpoint)
    weights, curve, _, _ = fit(tones, checkpoint)
    assert len(steps) == 2 * 3  # it went on, it did not begin anew
    assert same(weights, undisturbed[0])
    pd.testing.assert_frame_equal(curve, undisturbed[1], check_exact=True)


def test_a_training_killed_after_its_last_epoch_is_only_read(tones, undisturbed, tmp_path, steps):
    (tmp_path / "checkpoint").write_bytes(undisturbed[4].read_bytes())
    weights, curve, _, _ = fit(tones, tmp_path / "checkpoint")
    assert not steps
    assert same(weights, undisturbed[0])
    pd.testing.assert_frame_equal(curve, undisturbed[1], check_exact=True)


@pytest.mark.parametrize("changed", ["seed", "recipe", "network", "width", "targets", "rows", "cut"])
def test_a_checkpoint_of_another_configuration_is_not_gone_on_from(tones, checkpoint_of_2, tmp_path, steps, changed):
    other = {
        "seed": 2,
        "recipe": dataclasses.replace(RECIPE, lr=0.005),
        "network": dataclasses.replace(NETWORK, dropout=0.0),
        "width": 40,
        "targets": np.eye(3, dtype=np.float32)[np.arange(12)[::-1] % 3],
        "rows": lambda rows: rows.assign(n_frames=rows["n_frames"] - 1),
        "cut": dataclasses.replace(CUT, hop_s=CUT.hop_s / 2),  # the curve would be of other windows
    }
    (tmp_path / "checkpoint").write_bytes(checkpoint_of_2.read_bytes())
    _, curve, _, _ = fit(tones, tmp_path / "checkpoint", **{changed: other[changed]})
    assert len(steps) == 4 * 3  # it began anew
    assert curve["epoch"].tolist() == [0, 1, 2, 3]


def test_a_checkpoint_of_other_audio_or_other_first_weights_is_not_gone_on_from(
    tones, undisturbed, checkpoint_of_2, tmp_path, steps
):
    cache, *rest = tones
    checkpoint, start = tmp_path / "checkpoint", tmp_path / "start.safetensors"
    models.save(start, undisturbed[2], {"classes": CLASSES})
    for world, more in (((dataclasses.replace(cache, name="other audio"), *rest), {}), (tones, {"start": start})):
        checkpoint.write_bytes(checkpoint_of_2.read_bytes())
        steps.clear()
        fit(world, checkpoint, **more)
        assert len(steps) == 4 * 3  # it began anew


def test_a_checkpoint_that_was_cut_off_is_not_gone_on_from(tones, checkpoint_of_2, tmp_path, steps):
    (tmp_path / "checkpoint").write_bytes(checkpoint_of_2.read_bytes()[:-9])
    with pytest.warns(UserWarning, match=r"checkpoint is damaged .*: the training starts again"):
        fit(tones, tmp_path / "checkpoint")
    assert len(steps) == 4 * 3


def test_a_checkpoint_of_other_code_is_not_gone_on_from(tones, checkpoint_of_2, tmp_path, steps, monkeypatch):
    (tmp_path / "checkpoint").write_bytes(checkpoint_of_2.read_bytes())
    monkeypatch.setattr(learners.code, "digest", lambda notebook: "another")
    fit(tones, tmp_path / "checkpoint")
    assert len(steps) == 4 * 3  # it began anew


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tones, undisturbed, tmp_path, monkeypatch):
    whole_file, written = callbacks.whole_file, []

    @contextmanager
    def killed(path):
        with whole_file(path) as partial:
            if len(written) == 2:
                partial.write_bytes(b"half a check")
                raise KeyboardInterrupt
            yield partial
        written.append(path)

    with monkeypatch.context() as patched:
        patched.setattr(callbacks, "CHECKPOINT_S", 0)
        patched.setattr(callbacks, "whole_file", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(tones, tmp_path / "checkpoint")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert len(load_file(tmp_path / "checkpoint")) > 10
    assert same(fit(tones, tmp_path / "checkpoint")[0], undisturbed[0])


def test_checkpoints_are_spaced_and_the_last_epoch_has_one(tones, tmp_path, monkeypatch):
    whole_file, written = callbacks.whole_file, []
    monkeypatch.setattr(callbacks, "whole_file", lambda path: (written.append(path), whole_file(path))[1])
    weights, _, _, _ = fit(tones, tmp_path / "checkpoint")
    assert len(written) == 1  # 30 s have not passed
    kept = {k.removeprefix("model/"): v for k, v in load_file(tmp_path / "checkpoint").items() if "model/" in k}
    assert same(weights, kept)  # the result is the last epoch, not the best


def test_the_last_epoch_is_the_result_even_where_an_earlier_one_was_better(tones, tmp_path):
    """Every clip is validated on the label of another class: the better it is learnt, the worse it scores."""
    cache, clips, dealt = tones
    trained = dealt["fold"] > 0
    table = windows.rolling(cache, cache.rows(dealt["fname"][~trained]), CUT).merge(clips, on="fname")
    wrong = np.roll(datasets.targets(table, CLASSES), 1, axis=1)
    recipe = dataclasses.replace(PLAIN, epochs=8)
    training = Training(
        cache, cache.rows(dealt["fname"][trained]), datasets.targets(clips[trained], CLASSES), WIDTH, recipe, 1
    )
    scoring = Scoring(cache, table, wrong, WIDTH)
    model, curve = learners.fit(NETWORK, recipe, training, scoring, tmp_path / "checkpoint")
    assert curve["lwlrap"].max() > curve["lwlrap"].iloc[-1] + 0.05
    reached = metrics.lwlrap(wrong, models.score([model], cache, table, WIDTH)[0])
    assert reached == pytest.approx(curve["lwlrap"].iloc[-1], abs=1e-6)


# a step is a gather and the network


class Watch(TorchDispatchMode):
    """Counts what reads numbers back, draws them (but for the network's own dropout), or asks how many there are."""

    WATCHED = ("_local_scalar_dense", "rand", "uniform_", "normal_", "dirichlet", "nonzero", "unique")

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in self.WATCHED):
            self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mix", MIXES)
def test_what_is_drawn_and_read_back_does_not_grow_with_the_steps(tones, tmp_path, monkeypatch, mix):
    monkeypatch.setattr(callbacks, "VALIDATIONS", 1)
    counts, host = [], []
    default_rng, iloc = np.random.default_rng, type(pd.DataFrame().iloc).__getitem__
    monkeypatch.setattr(np.random, "default_rng", lambda *a: (host.append("rng"), default_rng(*a))[1])
    monkeypatch.setattr(type(pd.DataFrame().iloc), "__getitem__", lambda *a: (host.append("iloc"), iloc(*a))[1])
    targets = np.eye(3, dtype=np.float32)[np.arange(12) % 3]
    targets[5, 0] = np.nan
    for batch_size in (7, 2):  # 2 steps an epoch, and 6
        knobs = {"mix": mix, "augment": tuple(AUGMENTATIONS), "batch_size": batch_size, "epochs": 3}
        recipe = dataclasses.replace(RECIPE, **knobs, schedule="flat")  # the others count on the host, a number a step
        with Watch() as watch:
            fit(tones, tmp_path / f"checkpoint{batch_size}", recipe=recipe, targets=targets)
        counts.append((watch.counts, len(host)))
        host.clear()
    assert counts[0] == counts[1] and counts[0][0]


# float16, where that is what the hardware is fast in


def test_float16_with_a_scaler_learns_as_float32_does_and_goes_on_to_the_same_weights(tones, tmp_path, monkeypatch):
    recipe, reached = dataclasses.replace(RECIPE, epochs=12), {}
    for precision in (torch.float32, torch.float16):
        monkeypatch.setattr(models, "best_precision", lambda device, chosen=precision: chosen)
        weights, curve, model, _ = fit(tones, tmp_path / str(precision), recipe=recipe)
        assert model.precision == precision
        reached[precision] = curve["lwlrap"].iloc[-1]
    assert reached[torch.float16] == pytest.approx(reached[torch.float32], abs=0.05) and reached[torch.float16] > 0.9
    with monkeypatch.context() as patched:
        raise_after(patched, 5)
        with pytest.raises(KeyboardInterrupt):
            fit(tones, tmp_path / "again", recipe=recipe)
    assert same(fit(tones, tmp_path / "again", recipe=recipe)[0], weights)


# the curve


def test_the_curve_is_computed_over_all_windows_at_once(tones, tmp_path, monkeypatch):
    """Batches of 4: a mean over batches would be another number."""
    monkeypatch.setattr(batches, "SCORING_BATCH", 4)
    begun = dataclasses.replace(RECIPE, epochs=1)  # while there are errors: all numbers of a perfect ranking are 1
    _, curve, model, validation = fit(tones, tmp_path / "checkpoint", recipe=begun)
    assert len(validation) > 3
    logits = models.score([model], validation.cache, validation.table, WIDTH, batch_size=4)[0]
    truth = validation.targets.numpy()
    last = curve.iloc[-1]
    assert last["lwlrap"] == pytest.approx(metrics.lwlrap(truth, logits), abs=1e-12)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(torch.from_numpy(logits), torch.from_numpy(truth))
    assert last["valid_loss"] == pytest.approx(float(loss), rel=1e-5)
    chunks = [slice(i, i + 4) for i in range(0, len(truth), 4)]
    assert last["lwlrap"] != pytest.approx(np.mean([metrics.lwlrap(truth[c], logits[c]) for c in chunks]), abs=1e-6)


def test_the_curve_has_a_row_an_epoch_and_about_as_many_points_as_asked(tones, tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "VALIDATIONS", 2)
    _, curve, _, _ = fit(tones, tmp_path / "checkpoint", recipe=dataclasses.replace(RECIPE, epochs=6))
    assert list(curve.columns) == ["epoch", "lr", "train_loss", "valid_loss", "lwlrap"]
    assert curve["epoch"].tolist() == [0, 1, 2, 3, 4, 5]
    assert curve["lwlrap"].notna().tolist() == [False, False, True, False, False, True]  # the last one always
    assert (curve["valid_loss"].notna() == curve["lwlrap"].notna()).all()
    assert curve["train_loss"].between(0, 10).all()


# what is trained, and how


@pytest.mark.parametrize("lr_body", [0.0, 0.0001, 0.1])
def test_learning_rates_lie_between_that_of_the_body_and_that_of_the_head(tones, tmp_path, monkeypatch, lr_body):
    rates, after_batch = [], callbacks.Curve.after_batch

    def spy(self):
        if self.training:
            rates.append([group["lr"] for group in self.opt.hypers])
        after_batch(self)

    monkeypatch.setattr(callbacks.Curve, "after_batch", spy)
    fit(tones, tmp_path / "checkpoint", recipe=dataclasses.replace(RECIPE, lr=0.01, lr_body=lr_body))
    rates = np.array(rates)
    assert rates.shape == (12, 3)
    body = lr_body or 0.01
    np.testing.assert_allclose(rates[:, 0] / rates[:, 2], body / 0.01)
    np.testing.assert_allclose(rates[:, 1], np.sqrt(rates[:, 0] * rates[:, 2]))
    assert rates[:, 2].argmax() in (2, 3)  # one cycle: up for a quarter, then down
    assert 0.009 < rates[:, 2].max() < 0.010001
    assert rates[-1, 2] < 0.001


@pytest.mark.parametrize("arch", ["test_resnet", "regnetx_002", "test_vit"])
def test_every_parameter_is_in_one_group(arch):
    model = models.WindowModel(Network(arch, 160 if "vit" in arch else 0), 3, [0.0], [1.0])
    grouped = [id(parameter) for group in model.param_groups() for parameter in group]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    assert all(model.param_groups())


@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_mixup_mixes_windows_and_targets_alike_in_training_only(counted, tmp_path, monkeypatch, loss):
    cache, targets = counted
    rows = cache.rows(cache.index["fname"])
    recipe = dataclasses.replace(PLAIN, loss=loss, mixup=0.4, epochs=2, batch_size=11)
    seen, forward = [], models.WindowModel.forward
    monkeypatch.setattr(models.WindowModel, "forward", lambda self, x: (seen.append([x]), forward(self, x))[1])

    plain = learners.LOSSES[loss]
    monkeypatch.setitem(learners.LOSSES, loss, lambda logits, y: (seen[-1].append(y), plain(logits, y))[1])
    cut = windows.Windows(0.32, 0.32)
    rolled = windows.rolling(cache, rows, cut)
    scoring = Scoring(cache, rolled, targets[rolled["fname"].str[:2].astype(int)], WIDTH)
    learners.fit(NETWORK, recipe, Training(cache, rows, targets, WIDTH, recipe, 0), scoring, tmp_path / "checkpoint")
    trained, validated = seen[0::2], seen[1::2]
    assert len(trained) == len(validated) == 2
    for x, y in trained:
        torch.testing.assert_close(x[:, 0, 0, 0], y @ torch.arange(11.0))  # the clips' numbers, mixed as their labels
        torch.testing.assert_close(y.sum(1), torch.ones(11))
        assert ((y > 0.01) & (y < 0.99)).any()
        assert ((y > 0).sum(1) <= 2).all()
    for _, y in validated:
        assert set(y.flatten().tolist()) == {0.0, 1.0}


def test_without_mixup_targets_are_whole(counted, tmp_path, monkeypatch):
    cache, targets = counted
    seen = []

    plain = learners.LOSSES["bce"]
    monkeypatch.setitem(learners.LOSSES, "bce", lambda logits, y: (seen.append(y), plain(logits, y))[1])
    rows = cache.rows(cache.index["fname"])
    rolled = windows.rolling(cache, rows, CUT)
    scoring = Scoring(cache, rolled, targets[rolled["fname"].str[:2].astype(int)], WIDTH)
    learners.fit(NETWORK, PLAIN, Training(cache, rows, targets, WIDTH, PLAIN, 0), scoring, tmp_path / "checkpoint")
    assert set(torch.cat(seen).flatten().tolist()) == {0.0, 1.0}


def test_a_training_that_diverges_is_refused_with_the_remedy(tones, tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=10)
    object.__setattr__(recipe, "lr", 1e3)  # more than a knob allows: so small a network diverges by nothing less
    with pytest.raises(learners.Diverged, match="training diverged. Lower lr"):
        fit(tones, tmp_path / "checkpoint", recipe=recipe)


def test_what_cannot_be_trained_is_refused_before_anything_is_written(tones, counted, tmp_path):
    two_labels = np.tile(np.array([[1, 1, 0]], dtype=np.float32), (12, 1))
    with pytest.raises(ValueError, match="loss='ce' needs one label a clip, but 12 training clips .* loss='bce'"):
        fit(tones, tmp_path / "checkpoint", recipe=dataclasses.replace(RECIPE, loss="ce"), targets=two_labels)
    cache, targets = counted
    alone = Training(cache, cache.rows(["00.wav"]), targets[:1], 8, RECIPE, 0)
    with pytest.raises(ValueError, match="1 training clips: at least 2 are needed"):
        learners.fit(NETWORK, RECIPE, alone, None, tmp_path / "checkpoint")
    assert not list(tmp_path.iterdir())


# choices of the recipe


def test_lists_become_tuples_and_lists_again_and_what_is_special_is_off_by_default():
    recipe = dataclasses.replace(RECIPE, augment=["gain", "stretch"], progressive=[32, 64])
    assert (recipe.augment, recipe.progressive) == (("gain", "stretch"), (32, 64))
    assert recipe.settings()["augment"] == ["gain", "stretch"]  # as JSON gives it back
    off = {"schedule": "one_cycle", "mix": "mixup", "augment": [], "balance": "clip", "progressive": []}
    assert RECIPE.settings().items() >= {**off, "trim_train_db": 0.0}.items()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "mse"}, "loss='mse' should be one of bce, ce, lq"),
        ({"schedule": "step"}, "schedule='step' should be 'one_cycle', 'flat' or 'flat_cosine'"),
        (
            {"mix": "cutout"},
            "mix='cutout' should be one of mixup, mixup_power; or ideas/FILE.py:FUNCTION, one of your own",
        ),
        ({"mix": "cutmix"}, "mix='cutmix' should be .*; or ideas/mixes.py:cutmix, which is there"),
        ({"balance": "even"}, "balance='even' should be 'clip', 'seconds', 'effective' or 'augment'"),
        ({"augment": ["gain", "echo"]}, "augment='echo' should be one of gain, shift_wrap"),
        ({"balance": "augment", "mask_share": 0.0}, "balance='augment' widens the masks, but mask_share=0.0 has none"),
    ],
)
def test_unknown_choices_are_refused_with_the_known_ones(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RECIPE, **changes)


MORE_MIXES = [f"ideas/mixes.py:{name}" for name in ("mixup_or", "mixup_or_bounded", "cutmix", "overlay")]
CHOICES = [
    *({"schedule": name} for name in SCHEDULES),
    *({"mix": name, "loss": loss} for name in (*MIXES, *MORE_MIXES) for loss in LOSSES),
    *({"augment": (name,)} for name in AUGMENTATIONS),
    *({"balance": name} for name in BALANCES),
    {"trim_train_db": 20.0},
]
EVERYTHING = dataclasses.replace(
    RECIPE, mix="ideas/mixes.py:overlay", augment=tuple(AUGMENTATIONS), balance="effective"
)


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(map(str, choice.values())))
def test_a_step_of_every_choice_reaches_every_parameter(tones, tmp_path, monkeypatch, choice):
    """Gradients are finite, and none is lost on the way; validation sees windows as they are."""
    recipe, n_steps, validated = dataclasses.replace(RECIPE, epochs=2, batch_size=16, **choice), [], []
    forward = models.WindowModel.forward

    def before_step(self):
        n_steps.append(1)
        assert self.x.shape[1:] == (1, 16, WIDTH) and self.pred.shape == self.y.shape
        assert self.y.min() >= 0 and self.y.max() <= 1
        assert recipe.loss != "ce" or torch.allclose(self.y.sum(1), torch.ones(len(self.y)))
        for name, parameter in self.model.named_parameters():
            assert parameter.grad.isfinite().all(), name
            assert len(n_steps) == 1 or parameter.grad.any(), name  # timm's residual branches start at 0

    def keep(self, x):
        if not self.training:
            validated.append(x.clone())
        return forward(self, x)

    monkeypatch.setattr(callbacks.Curve, "before_step", before_step, raising=False)
    monkeypatch.setattr(models.WindowModel, "forward", keep)
    _, _, _, validation = fit(tones, tmp_path / "checkpoint", recipe=recipe)
    assert len(n_steps) == 2
    assert torch.equal(torch.cat(validated), torch.cat([x for x, _ in validation] * 2))


@pytest.mark.parametrize(
    "changes",
    [*({"schedule": name} for name in SCHEDULES), {"progressive": (32, 36)}, {"everything": True}],
    ids=lambda changes: str(next(iter(changes.values()))),
)
def test_every_choice_goes_on_to_the_same_weights(tones, tmp_path, monkeypatch, changes):
    network = dataclasses.replace(NETWORK, image_size=40 if "progressive" in changes else 0)
    recipe = EVERYTHING if "everything" in changes else dataclasses.replace(RECIPE, **changes)
    recipe = dataclasses.replace(recipe, epochs=5, lr_body=0.001)
    whole, curve, _, _ = fit(tones, tmp_path / "whole", recipe=recipe, network=network)
    for epochs in (2, 4):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            raise_after(patched, epochs)
            fit(tones, tmp_path / "killed", recipe=recipe, network=network)
    weights, again, _, _ = fit(tones, tmp_path / "killed", recipe=recipe, network=network)
    assert same(weights, whole)
    pd.testing.assert_frame_equal(again, curve, check_exact=True)


def rates_of(tones, path, monkeypatch, **changes):
    rates, after_batch = [], callbacks.Curve.after_batch

    def spy(self):
        if self.training:
            rates.append(self.opt.hypers[-1]["lr"])
        after_batch(self)

    monkeypatch.setattr(callbacks.Curve, "after_batch", spy)
    fit(tones, path, recipe=dataclasses.replace(RECIPE, epochs=8, **changes))
    return np.array(rates)


def test_flat_is_flat_and_flat_cosine_falls_in_its_last_quarter(tones, tmp_path, monkeypatch):
    np.testing.assert_allclose(rates_of(tones, tmp_path / "a", monkeypatch, schedule="flat"), 0.01)
    rates = rates_of(tones, tmp_path / "b", monkeypatch, schedule="flat_cosine")
    np.testing.assert_allclose(rates[:18], 0.01)
    assert (np.diff(rates[18:]) < 0).all() and rates[-1] < 0.001


@pytest.mark.parametrize("normalise", NORMALISE)
def test_windows_are_normalised_as_the_network_says(tones, tmp_path, normalise):
    recipe, network = dataclasses.replace(PLAIN, epochs=1), dataclasses.replace(NETWORK, normalise=normalise)
    model = fit(tones, tmp_path / "checkpoint", recipe=recipe, network=network)[2]
    cache, _, dealt = tones
    mean, _ = cache.statistics(dealt["fname"][dealt["fold"] > 0], per_band=normalise == "band")
    torch.testing.assert_close(model.mean, torch.tensor(mean))


# sizes of pictures


def test_image_sizes_by_hand():
    assert image_sizes(3, (), 0) == [0, 0, 0]
    assert image_sizes(3, (), 64) == [64, 64, 64]
    assert image_sizes(5, (32,), 64) == [32] * 4 + [64]  # an epoch costs a quarter
    assert image_sizes(42, (16, 32), 64) == [16] * 32 + [32] * 8 + [64] * 2
    assert image_sizes(3, (16, 32), 64) == [16, 32, 64]
    assert image_sizes(5, (128, 64), 16) == [128, 64, 16, 16, 16]  # first sizes keep their one epoch


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(16, 300), min_size=1, max_size=5, unique=True), st.integers(0, 60))
def test_sizes_come_in_turn_and_cost_alike(sizes, more):
    epochs = len(sizes) + more
    every = image_sizes(epochs, sizes[:-1], sizes[-1])
    assert len(every) == epochs and list(dict.fromkeys(every)) == sizes
    counts, share = np.array([every.count(size) for size in sizes]), 1 / np.array(sizes) ** 2
    ideal = epochs * share / share.sum()
    if (ideal > 1.5).all():
        assert (abs(counts - ideal) <= 1).all()


def test_progressive_training_ends_at_the_networks_size(tones, tmp_path, monkeypatch):
    seen, forward = [], models.WindowModel.forward

    def spy(self, x):
        seen.append((self.training, self.image_size))
        return forward(self, x)

    monkeypatch.setattr(models.WindowModel, "forward", spy)
    recipe = dataclasses.replace(PLAIN, progressive=(32,), epochs=5)
    network = dataclasses.replace(NETWORK, image_size=64)
    model = fit(tones, tmp_path / "checkpoint", recipe=recipe, network=network)[2]
    trained, validated = ([size for training, size in seen if training is now] for now in (True, False))
    assert trained == [32] * 12 + [64] * 3
    assert list(dict.fromkeys(validated)) == [32, 64]  # with the size of the epoch
    assert model.image_size == 64


@pytest.mark.parametrize(
    ("image_size", "epochs", "message"),
    [(0, 4, r"progressive=\(32, 48\) leads up to image_size, but that is 0"), (64, 2, "epochs=2 is fewer than the 3")],
)
def test_sizes_that_cannot_be_are_refused(tones, tmp_path, image_size, epochs, message):
    recipe = dataclasses.replace(PLAIN, progressive=(32, 48), epochs=epochs)
    with pytest.raises(ValueError, match=message):
        fit(tones, tmp_path / "checkpoint", recipe=recipe, network=dataclasses.replace(NETWORK, image_size=image_size))
    assert not list(tmp_path.iterdir())


# mixing


def mixed(cache, targets, monkeypatch, folder, **changes):
    """(x, y) of the training batches of 6 epochs, as network and loss get them."""
    recipe = dataclasses.replace(PLAIN, **{"mixup": 0.4, "epochs": 6, "batch_size": 11, **changes})
    rows, seen, forward = cache.rows(cache.index["fname"]), [], models.WindowModel.forward

    plain = learners.LOSSES[recipe.loss]
    with monkeypatch.context() as patched:
        patched.setattr(models.WindowModel, "forward", lambda self, x: (seen.append([x]), forward(self, x))[1])
        patched.setitem(learners.LOSSES, recipe.loss, lambda logits, y: (seen[-1].append(y), plain(logits, y))[1])
        scoring = Scoring(cache, windows.rolling(cache, rows, CUT)[:11], np.nan_to_num(targets), WIDTH)
        learners.fit(NETWORK, recipe, Training(cache, rows, targets, WIDTH, recipe, 0), scoring, folder / "checkpoint")
    seen = seen[-12:]  # an idea is tried on three clips before
    trained, validated = seen[0::2], seen[1::2]
    assert len(trained) == len(validated) == 6
    assert all(set(y.flatten().tolist()) == set(np.nan_to_num(targets).flatten()) for _, y in validated)
    return tuple(torch.cat(parts) for parts in zip(*trained, strict=True))


LEVELS = torch.arange(11.0)  # dB, of the clips of `solid`


def partners(y):
    """The classes of each row, int (n, 2), and their labels; rows with one class alone are left out."""
    two = (y > 0).sum(1) == 2
    places = y[two].topk(2).indices
    return two, places, y[two].gather(1, places)


def test_mixup_or_mixes_the_picture_and_keeps_all_labels(solid, tmp_path, monkeypatch):
    x, y = mixed(*solid, monkeypatch, tmp_path / "or", mix="ideas/mixes.py:mixup_or")
    plain, weights = mixed(*solid, monkeypatch, tmp_path / "mixup", mix="mixup")
    assert torch.equal(x, plain)  # the same picture
    assert torch.equal(y, (weights > 0).float())
    assert ((y > 0).sum(1) == 2).any()
    assert torch.equal(mixed(*solid, monkeypatch, tmp_path / "lq", mix="ideas/mixes.py:mixup_or", loss="lq")[1], y)
    shared = mixed(*solid, monkeypatch, tmp_path / "ce", mix="ideas/mixes.py:mixup_or", loss="ce")[1]
    torch.testing.assert_close(shared, y / y.sum(1, keepdim=True))


def test_or_labels_may_be_bounded_to_what_is_there(solid, tmp_path, monkeypatch):
    """The clip of class k is k dB throughout, so the picture tells the share of each window."""
    least = {}
    for mix in ("mixup_or", "mixup_or_bounded"):
        x, y = mixed(*solid, monkeypatch, tmp_path / mix, mix=f"ideas/mixes.py:{mix}")
        two, places, labels = partners(y)
        assert two.sum() > 50 and (labels == 1).all()
        assert torch.equal(x[~two, 0, 0, 0], y[~two] @ LEVELS)  # a window with itself
        one, other = LEVELS[places].T
        share = (x[two, 0, 0, 0] - one) / (other - one)
        least[mix] = torch.minimum(share, 1 - share)
    bounded = least["mixup_or_bounded"]
    assert bounded.min() > 0.25 - 1e-4
    assert (least["mixup_or"] < 0.05).float().mean() > 0.3  # hardly there, but labelled
    torch.testing.assert_close(bounded, 0.25 + 0.5 * least["mixup_or"], atol=1e-4, rtol=0)  # of the same draws


def test_mixup_power_is_the_level_of_the_mean_power(solid, tmp_path, monkeypatch):
    x, y = mixed(*solid, monkeypatch, tmp_path, mix="mixup_power")
    torch.testing.assert_close(y.sum(1), torch.ones(len(y)))
    expected = 10 * torch.log10(y @ 10 ** (LEVELS / 10))
    torch.testing.assert_close(x, expected.view(-1, 1, 1, 1).expand_as(x), atol=1e-3, rtol=0)
    assert ((x[:, 0, 0, 0] - y @ LEVELS) > 0.01).any()  # no mean of decibels


def test_cutmix_labels_by_area(solid, tmp_path, monkeypatch):
    x, y = mixed(*solid, monkeypatch, tmp_path, mix="ideas/mixes.py:cutmix", mixup=1.0)
    area = (x[:, 0, :, :, None] == LEVELS).float().mean(dim=(1, 2))
    torch.testing.assert_close(area, y)
    two, _, labels = partners(y)
    assert two.sum() > 20 and (labels.min() > 0)


@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_overlay_holds_both_sounds_whole_in_half_of_the_windows(solid, counted, tmp_path, monkeypatch, loss):
    x, y = mixed(*solid, monkeypatch, tmp_path / "a", mix="ideas/mixes.py:overlay", loss=loss, epochs=6)
    two, places, labels = partners(y)
    assert 0.3 < two.float().mean() < 0.6  # a half, less those whose partner is themselves
    assert (labels == (0.5 if loss == "ce" else 1)).all() and (y[~two].sum(1) == 1).all()
    assert (x == x[:, :, :1, :1]).all()
    power, one, other = 10 ** (x[two, 0, 0, 0] / 10), *(10 ** (LEVELS[places] / 10)).T
    gains = torch.stack([10 * torch.log10((power - a).clamp_min(1e-9) / b) for a, b in ((one, other), (other, one))])
    assert ((gains.abs() < 6.01).any(dim=0)).all()  # one of them as it was, the other changed by up to 6 dB
    assert (gains.abs().amin(dim=0) > 0.5).float().mean() > 0.5
    whole = x[~two, 0, 0, 0] - y[~two] @ LEVELS
    assert (whole >= -1e-5).all() and (whole == 0).float().mean() > 0.6
    frames, labels = mixed(*counted, monkeypatch, tmp_path / "b", mix="ideas/mixes.py:overlay", loss=loss)
    alone = (labels > 0).sum(1) == 1
    steps = frames[~alone][:, 0, 1].diff(dim=1)
    assert len({tuple(row.tolist()) for row in steps.round(decimals=3)}) > 10  # partners enter at any frame


def test_mixing_is_off_at_0(solid, tmp_path, monkeypatch):
    for mix in MIXES:
        x, y = mixed(*solid, monkeypatch, tmp_path / mix, mix=mix, mixup=0.0)
        assert torch.equal(x[:, 0, 0, 0], y @ LEVELS) and (y.max(1).values == 1).all()


@pytest.mark.parametrize("mix", MIXES)
def test_what_is_unknown_in_either_stays_unknown(solid, tmp_path, monkeypatch, mix):
    """Column 0 is known in clips 0 to 4 only."""
    cache, targets = solid
    targets = targets.copy()
    targets[5:, 0] = np.nan
    x, y = mixed(cache, targets, monkeypatch, tmp_path, mix=mix)
    unknown = y[:, 0].isnan()
    assert not y[:, 1:].isnan().any()
    assert unknown[(y[:, 5:] > 0).any(dim=1)].all()
    assert not unknown[~(y[:, 5:] > 0).any(dim=1)].any()


# losses


def test_bce_is_torchs_and_leaves_out_what_is_unknown():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(32, 80, generator=rng).requires_grad_()
    targets = torch.rand(32, 80, generator=rng)
    gradients = []
    for loss in (LOSSES["bce"], torch.nn.BCEWithLogitsLoss()):
        value = loss(logits, targets)
        gradients.append((value.detach(), *torch.autograd.grad(value, logits)))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    unknown = torch.rand(32, 80, generator=rng) < 0.3
    value = LOSSES["bce"](logits, targets.masked_fill(unknown, torch.nan))
    torch.testing.assert_close(value, torch.nn.BCEWithLogitsLoss()(logits[~unknown], targets[~unknown]))
    (gradient,) = torch.autograd.grad(value, logits)
    assert (gradient[unknown] == 0).all() and (gradient[~unknown] != 0).all()


def test_generalised_cross_entropy_by_hand():
    loss, zero = LOSSES["lq"], torch.zeros(1, 1)
    by_hand = (1 - 0.5**0.7) / 0.7
    for label in (0.0, 1.0, 0.3):
        assert loss(zero, torch.tensor([[label]])).item() == pytest.approx(by_hand)
    logits = torch.logit(torch.tensor([[0.9, 0.2]]))
    expected = ((1 - 0.9**0.7) / 0.7 + (1 - 0.8**0.7) / 0.7) / 2
    assert loss(logits, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(expected)
    assert loss(logits, torch.tensor([[1.0, torch.nan]])).item() == pytest.approx((1 - 0.9**0.7) / 0.7)
    assert loss(torch.tensor([[-50.0]]), torch.ones(1, 1)).item() == pytest.approx(
        1 / 0.7
    )  # a wrong label costs no more


def test_a_wrong_label_pulls_less_than_under_bce():
    """The gradient of a clear contradiction fades; that of cross entropy is the largest there."""
    slopes = {}
    for name in ("bce", "lq"):
        logit = torch.full((1, 1), -8.0, requires_grad=True)
        LOSSES[name](logit, torch.ones(1, 1)).backward()
        slopes[name] = float(logit.grad.abs())
    assert slopes["bce"] > 0.99 and slopes["lq"] < 0.01


@pytest.mark.parametrize("name", ["bce", "lq"])
def test_nothing_known_is_no_loss(name):
    logits = torch.randn(3, 2, requires_grad=True)
    loss = LOSSES[name](logits, torch.full((3, 2), torch.nan))
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()


def test_unknown_labels_can_be_trained_with(tones, tmp_path):
    n = int((tones[2]["fold"] > 0).sum())
    targets = np.full((n, 3), np.nan, np.float32)
    targets[:, 0] = np.arange(n) % 2
    _, curve, _, _ = fit(tones, tmp_path / "checkpoint", recipe=dataclasses.replace(RECIPE, epochs=2), targets=targets)
    assert curve["train_loss"].between(0, 10).all()


# learning rates


def model_of(arch="test_resnet"):
    return models.WindowModel(Network(arch, 0), 3, [0.0], [1.0])


@pytest.mark.parametrize(("lr_body", "lr"), [(0.1, 0.01), (0.001, 0.1), (0.0, 0.02)])
def test_groups_show_what_a_slice_does(lr_body, lr):
    model = model_of()
    table = learners.groups(model, dataclasses.replace(RECIPE, lr=lr, lr_body=lr_body))
    assert list(table.columns) == ["group", "first_layer", "last_layer", "n_parameters", "lr"]
    body = lr_body or lr
    np.testing.assert_allclose(table["lr"], [body, np.sqrt(body * lr), lr])
    assert table["n_parameters"].tolist() == [sum(p.numel() for p in group) for group in model.param_groups()]
    assert table["group"].tolist() == [1, 2, 3]
    layers = dict(model.named_modules())
    assert set(table["first_layer"]) | set(table["last_layer"]) <= set(layers)
    assert table["first_layer"].tolist()[0].startswith("body.") and table["last_layer"].tolist()[2] == "head.1"


def test_find_lr_goes_up_suggests_between_and_leaves_no_file(tones, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache, clips, _ = tones
    training = Training(cache, cache.rows(clips["fname"]), datasets.targets(clips, CLASSES), WIDTH, RECIPE, 0)
    table = learners.find_lr(NETWORK, RECIPE, training)
    assert list(table.columns) == ["lr", "loss"] and 30 < len(table) <= 100
    assert (table["lr"].diff().dropna() > 0).all() and table["loss"].notna().all()
    assert table["lr"].iloc[0] == pytest.approx(1e-7)
    assert table["lr"].min() < table.attrs["suggested"] < table["lr"].max()
    again = learners.find_lr(NETWORK, RECIPE, training)
    pd.testing.assert_frame_equal(again, table, check_exact=True)
    assert again.attrs == table.attrs
    assert not os.listdir(tmp_path)


# a learner to try things with


def learner(tones, folder, *, fold=0, recipe=PLAIN, drawn=None):
    cache, clips, dealt = tones
    drawn = [] if drawn is None else drawn
    what = make_task(clips, dealt, cache, CLASSES), fold, NETWORK, CUT, recipe, 1
    return learners.learner(*what, show=lambda *shown: drawn.append(shown), folder=folder)


def test_a_learner_trains_to_the_weights_of_a_fold_and_its_metric_is_that_of_windows(tones, tmp_path):
    learn = learner(tones, tmp_path, recipe=RECIPE)
    assert isinstance(learn, Learner)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(RECIPE.epochs, RECIPE.peak)
        *_, last = learn.recorder.values[-1]
        _, lwlrap = learn.validate()
        logits, targets = learn.get_preds()
    fitted = train_fold(tmp_path / "without_0", tones, recipe=RECIPE)
    assert same(learn.model.state_dict(), fitted.model.state_dict())
    np.testing.assert_allclose(logits.numpy(), fitted.logits, atol=1e-6)
    assert lwlrap == pytest.approx(metrics.lwlrap(targets.numpy(), fitted.logits))
    assert last == lwlrap == pytest.approx(fitted.epochs["lwlrap"].iloc[-1])


def test_a_learner_shows_other_windows_each_time_with_what_they_are_and_what_the_model_says(tones, tmp_path):
    learn = learner(tones, tmp_path, drawn=(drawn := []))
    learn.show_batch()
    learn.show_batch()
    learn.show_batch(max_n=2)
    assert [len(x) for x, *_ in drawn] == [4, 4, 2] and not torch.equal(drawn[0][0], drawn[1][0])
    for x, captions, logmel in drawn:
        low, high = x[:, 0, :6].amax(dim=(1, 2)) > -35, x[:, 0, 10:].amax(dim=(1, 2)) > -35
        expected = ["both" if a and b else "low" if a else "high" for a, b in zip(low, high, strict=True)]
        assert captions == expected and logmel == LOGMEL
    with learn.no_bar(), learn.no_logging():
        learn.show_results()
    x, captions, _ = drawn[-1]
    scores = learn.model.eval()(x).detach().sigmoid()
    assert len(captions) == 9
    for caption, row in zip(captions, scores, strict=True):
        assert caption.split("; ")[1] == f"model: {CLASSES[row.argmax()]} {row.max():.2f}"


def test_a_learner_finds_rates_in_its_folder_and_goes_on_from_its_first_weights(tones, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    learn = learner(tones, tmp_path / "there")
    before = {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}
    with learn.no_bar(), learn.no_logging():
        assert 1e-7 < learn.lr_find(show_plot=False).valley < 10
    assert same(before, learn.model.state_dict())
    assert not os.listdir(".") and learn.path == tmp_path / "there"


@pytest.mark.parametrize("fold", [-1, 3])
def test_a_learner_without_a_fold_to_validate_on_is_refused(tones, tmp_path, fold):
    with pytest.raises(ValueError, match=f"fold={fold} holds out no clip to validate on. Take 0 to 2"):
        learner(tones, tmp_path, fold=fold)


# a whole fold


def train_fold(part, tones, *, model="", recipe=PLAIN, dealt=None, keep_weights=True):
    """Train a fold and save it in `part`."""
    cache, clips, folds_table = tones
    folds_table = folds_table if dealt is None else dealt
    what = make_task(clips, folds_table, cache, CLASSES), model or part.name, NETWORK, CUT, recipe, 1
    fitted = learners.train_fold(*what, checkpoint=part / "checkpoint.safetensors")
    saved, read = oof.save(part, fitted, keep_weights=keep_weights), oof.read(part)
    pd.testing.assert_frame_equal(saved.table, read.table, check_exact=True)  # what is in hand is what is read back
    pd.testing.assert_frame_equal(saved.epochs, read.epochs, check_exact=True)
    np.testing.assert_array_equal(fitted.scored.scores, oof.read_windows(part, recipe.loss).scores)
    assert saved.classes == read.classes and saved.missing == read.missing
    return fitted


@pytest.fixture(scope="module")
def fold_0(tones, tmp_path_factory):
    part = tmp_path_factory.mktemp("fold") / "without_0"
    return part, train_fold(part, tones, recipe=dataclasses.replace(PLAIN, epochs=12))


def test_a_fold_writes_what_the_contract_says(tones, fold_0):
    part, fit_on = fold_0
    names = ["checkpoint.safetensors", "clips.csv", "epochs.csv", "oof_windows.npz", "weights.json"]
    assert sorted(path.name for path in part.iterdir()) == [*names, "weights.safetensors"]
    model, sidecar = models.load(part / "weights.safetensors")
    assert sidecar["classes"] == CLASSES
    assert sidecar["unseen_folds"] == [0]
    assert sidecar["folds"] == folds.digest(tones[2])
    assert sidecar["audio"] == LOGMEL.settings()
    assert sidecar["windows"] == CUT.settings()
    assert sidecar["seed"] == 1
    dealt = tones[2].set_index("fname")["fold"]
    assert set(fit_on.facts["clips"]["scored"]) == set(dealt.index[dealt == 0])
    assert set(fit_on.facts["clips"]["train"]) == set(dealt.index[dealt != 0])
    mean, std = tones[0].statistics(fit_on.trained_on)
    assert sidecar["normalisation"] == {"mean": pytest.approx(mean), "std": pytest.approx(std)}
    read = oof.read(part)
    assert set(read.table["fname"]) == set(fit_on.facts["clips"]["scored"])
    assert len(read.epochs) == 12
    assert fit_on.images_per_s > 0


def test_the_model_is_named_apart_from_its_folder_and_its_weights_can_be_left_out(tones, tmp_path):
    recipe = dataclasses.replace(PLAIN, epochs=2)
    train_fold(tmp_path / "without_0", tones, recipe=recipe)
    seed_7 = tmp_path / "base" / "without_0" / "seed_7"
    train_fold(seed_7, tones, model="without_0", recipe=recipe, keep_weights=False)
    names = ["checkpoint.safetensors", "clips.csv", "epochs.csv", "oof_windows.npz"]
    assert sorted(path.name for path in seed_7.iterdir()) == names
    for name in names[1:]:
        assert (seed_7 / name).read_bytes() == (tmp_path / "without_0" / name).read_bytes()
    assert np.isnan(train_fold(seed_7, tones, model="without_0", recipe=recipe).images_per_s)  # from the checkpoint


def test_training_windows_are_as_the_recipe_says_and_scored_ones_keep_silent_ends(tones, tmp_path, monkeypatch):
    cache, clips, dealt = tones
    (frames,) = cache.parts
    quiet = frames.clone()
    for row in cache.index.itertuples():
        quiet[row.first_frame : row.first_frame + row.n_frames // 2] = -70
    made, init = [], batches.Training.__init__
    monkeypatch.setattr(
        batches.Training, "__init__", lambda self, *args, **kw: (init(self, *args, **kw), made.append(self))[0]
    )
    half = dataclasses.replace(cache, parts=(quiet,))
    recipe = dataclasses.replace(PLAIN, epochs=1, trim_train_db=30.0, augment=["gain"], balance="seconds")
    train_fold(tmp_path / "without_0", (half, clips, dealt), recipe=recipe)
    assert made[0].augment == [AUGMENTATIONS["gain"]] and made[0].recipe.balance == "seconds"  # all of it
    whole = cache.rows(made[0].rows["fname"])
    assert (made[0].rows["n_frames"].to_numpy() == np.ceil(whole["n_frames"] / 2)).all()
    assert torch.cat([x for x, _ in made[0]]).amax(dim=(1, 2)).median() > -60
    stored, _ = oof.read_logits(tmp_path / "without_0")
    assert len(stored) == len(windows.rolling(cache, cache.rows(dealt["fname"][dealt["fold"] == 0]), CUT))


def test_the_weights_file_scores_as_the_training_did(tones, fold_0):
    part, fit_on = fold_0
    model, _ = models.load(part / "weights.safetensors")
    stored, logits_then = oof.read_logits(part)
    rolled = windows.rolling(tones[0], tones[0].rows(fit_on.facts["clips"]["scored"]), CUT)
    assert stored["fname"].tolist() == rolled["fname"].tolist()
    np.testing.assert_allclose(stored["window_start_s"], rolled["window_start_s"])
    logits = models.score([model.prepare()], tones[0], rolled, WIDTH)[0]
    np.testing.assert_array_equal(logits, logits_then)


def test_a_toy_is_learnt(fold_0):
    read = oof.read(fold_0[0])
    prior = np.tile(np.arange(3.0), (len(read.table), 1))
    assert metrics.lwlrap(read.targets, read.scores) > 0.9
    assert metrics.lwlrap(read.targets, prior) < 0.7


def test_audio_of_held_out_clips_changes_no_weight(tones, tmp_path):
    """Neither the normalisation nor anything else reads it."""
    cache, clips, dealt = tones
    (frames,) = cache.parts
    changed = frames.clone()
    for row in cache.rows(dealt.loc[dealt["fold"] == 0, "fname"]).itertuples():
        changed[row.first_frame : row.first_frame + row.n_frames] *= -2
    louder = dataclasses.replace(cache, parts=(changed,))
    train_fold(tmp_path / "a" / "without_0", tones)
    train_fold(tmp_path / "b" / "without_0", (louder, clips, dealt))
    a, b = tmp_path / "a" / "without_0", tmp_path / "b" / "without_0"
    for file in ("weights.safetensors", "weights.json"):
        assert (a / file).read_bytes() == (b / file).read_bytes()
    assert (oof.read_logits(a)[1] != oof.read_logits(b)[1]).any()


def test_a_pair_model_sees_neither_fold(tones, tmp_path):
    fit_on = train_fold(tmp_path / "without_0_2", tones, recipe=dataclasses.replace(PLAIN, epochs=1))
    dealt = tones[2].set_index("fname")["fold"]
    assert set(dealt[fit_on.facts["clips"]["train"]]) == {1}
    assert set(dealt[fit_on.facts["clips"]["scored"]]) == {0, 2}
    assert models.load(tmp_path / "without_0_2" / "weights.safetensors")[1]["unseen_folds"] == [0, 2]


@pytest.fixture
def split(tones):
    """Folds that split a group: clips 0 to 2 of fold 0, clip 3 of fold 1."""
    dealt = tones[2].assign(group=lambda table: table["group"].where(table.index > 3, "shared"))
    assert dealt.groupby("group")["fold"].nunique().max() == 2
    return dealt


@pytest.mark.parametrize(
    ("name", "lost"), [("without_0", {"03.wav"}), ("without_0_2", {"03.wav"}), ("without_2", set())]
)
def test_a_clip_of_a_group_in_a_held_out_fold_trains_nothing_and_is_scored_in_its_own(
    tones, split, tmp_path, name, lost
):
    told = train_fold(tmp_path / name, tones, dealt=split, recipe=dataclasses.replace(PLAIN, epochs=1)).facts["clips"]
    here = split["fold"].isin(folds.unseen(name))
    assert set(told["train"]) == set(split.loc[~here, "fname"]) - lost
    assert told["scored"] == split.loc[here, "fname"].tolist()


def test_a_training_clip_whose_group_is_held_out_stops_the_training(tones, split, tmp_path, monkeypatch):
    monkeypatch.setattr(folds, "training", lambda dealt, held_out: ~dealt["fold"].isin(held_out))  # a rule of clips
    with pytest.raises(folds.LeakError, match="groups are held out"):
        train_fold(tmp_path / "without_0", tones, dealt=split)
    assert not (tmp_path / "without_0").exists()


@pytest.mark.parametrize(("threads", "busy", "told"), [(2, 50.0, True), (2, 5.0, False), (1, 100.0, False)])
def test_a_training_that_shares_the_cores_says_so_and_what_to_do(monkeypatch, threads, busy, told):
    monkeypatch.setattr(learners.torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(learners.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(learners.psutil, "cpu_percent", lambda seconds: busy)
    said = learners.crowding(torch.device("cpu"))
    assert bool(said) == told and (not told or "OMP_NUM_THREADS=1" in said and "1.0 of 2 cores" in said)
    assert learners.crowding(torch.device("cuda")) == ""
