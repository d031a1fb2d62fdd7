"""Tests of lib.learners: equal runs are equal to the last bit, killed or not; held-out clips teach nothing."""

import dataclasses
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from lib import batches, datasets, folds, learners, metrics, models, oof, windows
from lib.batches import Scoring, Training
from lib.cache import Cache
from lib.features import LogMel
from lib.learners import Recipe
from lib.models import Network

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
            "part": 0,
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


def feed(cache, rows, targets, width, recipe, seed):
    """Training batches as `train_fold` makes them."""
    knobs = {"batch_size": recipe.batch_size, "mask_share": recipe.mask_share}
    return Training(cache, rows, targets, width, seed=seed, **knobs)


def fit(tones, checkpoint, *, seed=1, recipe=RECIPE, network=NETWORK, width=WIDTH, targets=None):
    """Train on folds 1 and 2, validate on fold 0."""
    cache, clips, dealt = tones
    table = clips.merge(dealt, on="fname")
    train, held = table[table["fold"] > 0], table[table["fold"] == 0]
    targets = datasets.targets(train, CLASSES) if targets is None else targets
    rolled = windows.rolling(cache.rows(held["fname"]), CUT, LOGMEL).merge(held, on="fname")
    training = feed(cache, cache.rows(train["fname"]), targets, width, recipe, seed)
    validation = Scoring(cache, rolled, datasets.targets(rolled, CLASSES), width)
    model, curve = learners.fit(network, recipe, training, validation, checkpoint)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, curve, model, validation


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def undisturbed(tones, tmp_path_factory):
    checkpoint = tmp_path_factory.mktemp("undisturbed") / "checkpoint"
    return (*fit(tones, checkpoint), checkpoint)


def raise_after(monkeypatch, epochs):
    """Checkpoint every epoch, and die right after that of the last of `epochs`."""
    save = learners._Checkpoint.after_epoch

    def killed(self):
        save(self)
        if self.epoch == epochs - 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(learners, "CHECKPOINT_S", 0)
    monkeypatch.setattr(learners._Checkpoint, "after_epoch", killed)


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
        training = feed(cache, rows, targets[:n], 8, dataclasses.replace(PLAIN, batch_size=batch_size), 0)
        batches = [x[:, 0, 0, 0].int().tolist() for x, _ in training]
        sizes = [len(batch) for batch in batches]
        assert len(batches) == len(training)
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 2  # batch normalisation needs two
        assert sorted(sum(batches, [])) == list(range(n))


def test_targets_are_those_of_the_clip_and_frames_are_whole_windows(counted):
    cache, targets = counted
    training = feed(cache, cache.rows(cache.index["fname"]), targets, 8, PLAIN, 0)
    for x, y in training:
        assert x.shape[1:] == (1, 16, 8)
        assert (x[:, 0, 0] == y.argmax(1)[:, None]).all()
        assert (y.sum(1) == 1).all()
        assert (x[:, 0, 1].diff() == 1).all()  # one frame after the other


def test_windows_and_order_differ_between_epochs_and_seeds_and_return_with_them(counted):
    cache, targets = counted

    def drawn(seed, epoch):
        training = feed(cache, cache.rows(cache.index["fname"]), targets, 8, RECIPE, seed)
        training.epoch = epoch
        return torch.cat([x for x, _ in training])

    assert torch.equal(drawn(1, 0), drawn(1, 0))
    for other in (drawn(1, 1), drawn(2, 0)):
        assert (drawn(1, 0)[:, 0, 0] != other[:, 0, 0]).any()
        assert (drawn(1, 0)[:, 0, 1] != other[:, 0, 1]).any()


def test_windows_start_anywhere_in_the_clip(counted):
    cache, targets = counted
    training = feed(cache, cache.rows(cache.index["fname"]), targets, 36, PLAIN, 0)
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
    training = feed(cache, rows, targets, WIDTH, recipe, 0)
    scoring = Scoring(cache, windows.rolling(rows, CUT, LOGMEL)[:11], targets, WIDTH)
    learners.fit(NETWORK, recipe, training, scoring, tmp_path / "checkpoint")
    starts = [tuple(x[x[:, 0, 0, 0].argsort(), 0, 1, 0].tolist()) for x in seen[0::2]]  # by clip
    assert len(set(starts)) == 3


def test_training_windows_are_masked_and_inference_windows_are_exact(counted):
    cache, targets = counted
    masked = dataclasses.replace(PLAIN, mask_share=0.9)
    rows = cache.rows(cache.index["fname"])
    assert any((x[:, 0, 1].diff() != 1).any() for x, _ in feed(cache, rows, targets, 8, masked, 0))
    cut = windows.Windows(window_s=0.08, hop_s=0.04)
    rolled = windows.rolling(rows, cut, LOGMEL)
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


@pytest.mark.parametrize("changed", ["seed", "recipe", "network", "width", "targets"])
def test_a_checkpoint_of_another_configuration_is_not_gone_on_from(tones, checkpoint_of_2, tmp_path, steps, changed):
    other = {
        "seed": 2,
        "recipe": dataclasses.replace(RECIPE, lr=0.005),
        "network": dataclasses.replace(NETWORK, dropout=0.0),
        "width": 40,
        "targets": np.eye(3, dtype=np.float32)[np.arange(12)[::-1] % 3],
    }
    (tmp_path / "checkpoint").write_bytes(checkpoint_of_2.read_bytes())
    _, curve, _, _ = fit(tones, tmp_path / "checkpoint", **{changed: other[changed]})
    assert len(steps) == 4 * 3  # it began anew
    assert curve["epoch"].tolist() == [0, 1, 2, 3]


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tones, undisturbed, tmp_path, monkeypatch):
    whole_file, written = learners.whole_file, []

    @contextmanager
    def killed(path):
        with whole_file(path) as partial:
            if len(written) == 2:
                partial.write_bytes(b"half a check")
                raise KeyboardInterrupt
            yield partial
        written.append(path)

    with monkeypatch.context() as patched:
        patched.setattr(learners, "CHECKPOINT_S", 0)
        patched.setattr(learners, "whole_file", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(tones, tmp_path / "checkpoint")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert len(load_file(tmp_path / "checkpoint")) > 10
    assert same(fit(tones, tmp_path / "checkpoint")[0], undisturbed[0])


def test_checkpoints_are_spaced_and_the_last_epoch_has_one(tones, tmp_path, monkeypatch):
    whole_file, written = learners.whole_file, []
    monkeypatch.setattr(learners, "whole_file", lambda path: (written.append(path), whole_file(path))[1])
    weights, _, _, _ = fit(tones, tmp_path / "checkpoint")
    assert len(written) == 1  # 30 s have not passed
    kept = {k.removeprefix("model/"): v for k, v in load_file(tmp_path / "checkpoint").items() if "model/" in k}
    assert same(weights, kept)  # the result is the last epoch, not the best


# the curve


def test_the_curve_is_computed_over_all_windows_at_once(tones, tmp_path, monkeypatch):
    """Batches of 4: a mean over batches would be another number."""
    monkeypatch.setattr(batches, "SCORING_BATCH", 4)
    _, curve, model, validation = fit(tones, tmp_path / "checkpoint")
    assert len(validation) > 3
    logits = models.score(model, validation.cache, validation.table, WIDTH, batch_size=4)
    truth = validation.targets.numpy()
    last = curve.iloc[-1]
    assert last["lwlrap"] == pytest.approx(metrics.lwlrap(truth, logits), abs=1e-12)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(torch.from_numpy(logits), torch.from_numpy(truth))
    assert last["valid_loss"] == pytest.approx(float(loss), rel=1e-5)
    chunks = [slice(i, i + 4) for i in range(0, len(truth), 4)]
    assert last["lwlrap"] != pytest.approx(np.mean([metrics.lwlrap(truth[c], logits[c]) for c in chunks]), abs=1e-6)


def test_the_curve_has_a_row_an_epoch_and_about_as_many_points_as_asked(tones, tmp_path, monkeypatch):
    monkeypatch.setattr(learners, "VALIDATIONS", 2)
    _, curve, _, _ = fit(tones, tmp_path / "checkpoint", recipe=dataclasses.replace(RECIPE, epochs=5))
    assert list(curve.columns) == ["epoch", "lr", "train_loss", "valid_loss", "lwlrap"]
    assert curve["epoch"].tolist() == [0, 1, 2, 3, 4]
    assert curve["lwlrap"].notna().tolist() == [True, False, True, False, True]  # the last one always
    assert (curve["valid_loss"].notna() == curve["lwlrap"].notna()).all()
    assert curve["train_loss"].between(0, 10).all()


# what is trained, and how


@pytest.mark.parametrize("lr_body", [0.0, 0.0001, 0.1])
def test_learning_rates_lie_between_that_of_the_body_and_that_of_the_head(tones, tmp_path, monkeypatch, lr_body):
    rates, after_batch = [], learners._Curve.after_batch

    def spy(self):
        if self.training:
            rates.append([group["lr"] for group in self.opt.hypers])
        after_batch(self)

    monkeypatch.setattr(learners._Curve, "after_batch", spy)
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

    class Spy(learners.LOSSES[loss]):
        def forward(self, logits, y):
            seen[-1].append(y)
            return super().forward(logits, y)

    monkeypatch.setitem(learners.LOSSES, loss, Spy)
    cut = windows.Windows(0.32, 0.32)
    rolled = windows.rolling(rows, cut, LOGMEL)
    scoring = Scoring(cache, rolled, targets[rolled["fname"].str[:2].astype(int)], WIDTH)
    learners.fit(NETWORK, recipe, feed(cache, rows, targets, WIDTH, recipe, 0), scoring, tmp_path / "checkpoint")
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

    class Spy(torch.nn.BCEWithLogitsLoss):
        def forward(self, logits, y):
            seen.append(y)
            return super().forward(logits, y)

    monkeypatch.setitem(learners.LOSSES, "bce", Spy)
    rows = cache.rows(cache.index["fname"])
    rolled = windows.rolling(rows, CUT, LOGMEL)
    scoring = Scoring(cache, rolled, targets[rolled["fname"].str[:2].astype(int)], WIDTH)
    learners.fit(NETWORK, PLAIN, feed(cache, rows, targets, WIDTH, PLAIN, 0), scoring, tmp_path / "checkpoint")
    assert set(torch.cat(seen).flatten().tolist()) == {0.0, 1.0}


def test_a_training_that_diverges_is_refused_with_the_remedy(tones, tmp_path):
    with pytest.raises(ValueError, match="training diverged. Lower lr"):
        fit(tones, tmp_path / "checkpoint", recipe=dataclasses.replace(RECIPE, lr=1e3, epochs=10))


def test_what_cannot_be_trained_is_refused_before_anything_is_written(tones, counted, tmp_path):
    two_labels = np.tile(np.array([[1, 1, 0]], dtype=np.float32), (12, 1))
    with pytest.raises(ValueError, match="loss='ce' needs one label a clip, but 12 training clips .* loss='bce'"):
        fit(tones, tmp_path / "checkpoint", recipe=dataclasses.replace(RECIPE, loss="ce"), targets=two_labels)
    cache, targets = counted
    alone = feed(cache, cache.rows(["00.wav"]), targets[:1], 8, RECIPE, 0)
    with pytest.raises(ValueError, match="1 training clips: at least 2 are needed"):
        learners.fit(NETWORK, RECIPE, alone, None, tmp_path / "checkpoint")
    assert not list(tmp_path.iterdir())


# a whole fold


def train_fold(part, tones, *, recipe=PLAIN, network=NETWORK, dealt=None):
    cache, clips, folds_table = tones
    folds_table = folds_table if dealt is None else dealt
    clips = clips.assign(group=folds_table["group"])
    return learners.train_fold(part, cache, clips, CLASSES, folds_table, network, CUT, recipe, seed=1)


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
    assert set(fit_on["scored"]) == set(dealt.index[dealt == 0])
    assert set(fit_on["train"]) == set(dealt.index[dealt != 0])
    mean, std = tones[0].statistics(fit_on["train"])
    assert sidecar["normalisation"] == {"mean": pytest.approx(mean), "std": pytest.approx(std)}
    read = oof.read(part, 3)
    assert set(read.table["fname"]) == set(fit_on["scored"])
    assert len(read.epochs) == 12


def test_the_weights_file_scores_as_the_training_did(tones, fold_0):
    part, fit_on = fold_0
    model, _ = models.load(part / "weights.safetensors")
    stored = oof.read_windows(part)
    rolled = windows.rolling(tones[0].rows(fit_on["scored"]), CUT, LOGMEL)
    assert stored["fname"].tolist() == rolled["fname"].tolist()
    np.testing.assert_allclose(stored["window_start_s"], rolled["window_start_s"])
    logits = models.score(model.prepare(), tones[0], rolled, WIDTH)
    np.testing.assert_array_equal(logits, stored["logits"])


def test_a_toy_is_learnt(fold_0):
    read = oof.read(fold_0[0], 3)
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
    assert (oof.read_windows(a)["logits"] != oof.read_windows(b)["logits"]).any()


def test_a_pair_model_sees_neither_fold(tones, tmp_path):
    fit_on = train_fold(tmp_path / "without_0_2", tones, recipe=dataclasses.replace(PLAIN, epochs=1))
    dealt = tones[2].set_index("fname")["fold"]
    assert set(dealt[fit_on["train"]]) == {1}
    assert set(dealt[fit_on["scored"]]) == {0, 2}
    assert models.load(tmp_path / "without_0_2" / "weights.safetensors")[1]["unseen_folds"] == [0, 2]


def test_a_group_in_two_folds_stops_the_training(tones, tmp_path):
    leaky = tones[2].assign(group=lambda table: table["group"].where(table.index > 3, "shared"))
    assert leaky.groupby("group")["fold"].nunique().max() == 2
    with pytest.raises(folds.LeakError, match="groups are held out"):
        train_fold(tmp_path / "without_0", tones, dealt=leaky)
    assert not (tmp_path / "without_0").exists()
