"""Tests of ideas of one's own: names and digests, what is refused before training, what is told, and that it trains."""

import dataclasses
import linecache
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import test_learners
import torch
from test_learners import NETWORK, RECIPE, fit

from lib import ideas, settings
from lib.clips import pooling
from lib.experiments import compute, sweep
from lib.files import digest
from lib.runs.run import Run
from lib.sound.features import LogMel
from lib.submission import kaggle
from lib.training import learners, models, tryout
from lib.training.models import Network

tones = test_learners.tones
ROOT = Path(__file__).resolve().parents[1]
HEAD = "import torch\n\n"
SMALL = dataclasses.replace(RECIPE, epochs=2)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file into the ideas/ of a checkout of its own."""
    monkeypatch.setattr(ideas, "CHECKOUT", tmp_path)
    (tmp_path / "ideas").mkdir()

    def write(text, name="mine.py"):
        (tmp_path / "ideas" / name).write_text(HEAD + text)
        ideas._function.cache_clear()
        return f"ideas/{name}"

    return write


def recipe(**changes):
    return dataclasses.replace(SMALL, **changes)


def define(source, cell="<cell 1>"):
    """The function f that a cell of a notebook defines."""
    linecache.cache[cell] = len(source), None, source.splitlines(keepends=True), cell
    namespace = {}
    exec(compile(source, cell, "exec"), namespace)
    return namespace["f"]


# names


def test_a_name_gets_the_digest_of_its_file_and_is_found(write):
    file = write("def louder(x, in_db, generator):\n    return x + 1\n")
    (name,) = settings.check({"augment": f"{file}:louder"})["augment"]
    assert name == f"{file}:louder@{digest(ideas._source(file))}"
    assert ideas.find({}, name)(torch.zeros(2), [True], None).tolist() == [1, 1]
    assert settings.check({"augment": [name, "gain"]})["augment"] == [name, "gain"]
    assert ideas.named({"a": [name], "b": {"c": name}}) == [name]
    assert ideas.sources([name]).keys() == {file}


def test_the_idea_of_a_variant_has_its_digest_too(write):
    file = write("def f(x, in_db, generator):\n    return x + 1\n")
    run = Run("03_augmentation", {"augment": [], "seed": 1}, Path(), Path())
    before = run.trial("own", "", 0, augment=[f"{file}:f"]).params["augment"]
    key = compute._key(run, {"mix": f"{file}:f"})
    assert before == [f"{file}:f@{digest(ideas._source(file))}"]
    write("def f(x, in_db, generator):\n    return x + 2\n")
    assert run.trial("own", "", 0, augment=[f"{file}:f"]).params["augment"] != before
    assert compute._key(run, {"mix": f"{file}:f"}) != key
    assert compute._key(run, {"lr": 1, "trial_epochs": 2}) == (key := compute._key(run, {"lr": 1}))
    run.params["image_size"] = 64  # another base
    assert compute._key(run, {"lr": 1}) != key


def test_a_file_that_changed_is_another_idea(write):
    file = write("def f(x, in_db, generator):\n    return x + 1\n")
    before = settings.check({"augment": [f"{file}:f"]})["augment"][0]
    write("def f(x, in_db, generator):\n    return x + 2\n")
    after = settings.check({"augment": [f"{file}:f"]})["augment"][0]
    assert before != after
    with pytest.raises(ValueError, match=r"ideas/mine.py has changed since: .*-p overwrite True"):
        ideas.find({}, before)


def test_the_copy_beside_a_result_is_the_one_that_trained(write):
    """An idea may be edited while it trains."""
    file = write("def f(x, in_db, generator):\n    return x + 1\n")
    (name,) = settings.check({"augment": [f"{file}:f"]})["augment"]
    write("def f(x, in_db, generator):\n    return x + 2\n")
    assert digest(ideas.sources([name])[file]) == name.rpartition("@")[2]
    ideas.READ.clear()  # as another process
    with pytest.raises(ValueError, match="ideas/mine.py has changed since"):
        ideas.sources([name])


@pytest.mark.parametrize("line", ["from ideas.helper import GAIN", "import helper", "import ideas.helper as h"])
def test_an_idea_is_one_file(write, line):
    write("GAIN = 3\n", "helper.py")
    file = write(f"{line}\n\n\ndef f(x, in_db, generator):\n    return x\n")
    with pytest.raises(ValueError, match=r"should be one file: ideas/mine.py imports .*helper.*Copy what it needs"):
        settings.check({"augment": [f"{file}:f"]})


def test_a_cell_is_saved_whole_and_again_by_the_same_kernel(write, tmp_path):
    source = "import math\n\n\ndef f(x, in_db, generator):\n    return x + math.pi\n"
    name = ideas.save(define(source))
    assert (tmp_path / "ideas" / "mine_f.py").read_text() == source
    assert name == f"ideas/mine_f.py:f@{digest(source.encode())}"
    assert ideas.find({}, name)(torch.zeros(1), [True], None).item() == pytest.approx(3.14159, abs=1e-4)
    again = ideas.save(define(source.replace("math.pi", "math.e"), "<cell 2>"))
    assert again.startswith("ideas/mine_f.py:f@") and again != name
    assert [path.name for path in (tmp_path / "ideas").iterdir()] == ["mine_f.py"]


def test_a_file_that_another_has_written_is_not_overwritten(write, tmp_path):
    write("mine = True\n", "mine_f.py")
    kept, source = (tmp_path / "ideas" / "mine_f.py").read_text(), "def f(x, in_db, generator):\n    return x\n"
    assert ideas.save(define(source)).startswith("ideas/mine_f_2.py:f@")
    ideas.SAVED.clear()  # as a new kernel
    assert ideas.save(define(source)).startswith("ideas/mine_f_2.py:f@")  # it holds the same
    assert ideas.save(define(source + "\n\n", "<cell 2>")).startswith("ideas/mine_f_2.py:f@")
    (tmp_path / "ideas" / "mine_f_2.py").write_text("edited = True\n")
    assert ideas.save(define(source)).startswith("ideas/mine_f_3.py:f@")
    assert (tmp_path / "ideas" / "mine_f.py").read_text() == kept


LAMBDA, GONE = define("f = lambda x: x\n", "<cell 3>"), define("def f(): ...", "<gone>")


@pytest.mark.parametrize("function", [len, 3, LAMBDA, GONE])
def test_what_no_cell_defines_is_not_saved(write, tmp_path, function):
    linecache.cache.pop("<gone>", None)
    with pytest.raises(ValueError, match="should be a function that a cell of this notebook defines by `def`"):
        ideas.save(function)
    assert not list((tmp_path / "ideas").iterdir())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("ideas/none.py:f", r"augment=.*should name a file in .*ideas: ideas/none.py is missing. There are: mine.py"),
        ("ideas/mine.py", r"should be written ideas/FILE.py:FUNCTION"),
        ("ideas/../x.py:f", r"should be written ideas/FILE.py:FUNCTION"),
        ("ideas/mine.py:gain", r"should have another name: gain is built in"),
        ("loud", r"should be one of gain, .*; or ideas/FILE.py:FUNCTION, one of your own"),
    ],
)
def test_names_that_can_not_be_are_refused(write, value, message):
    write("def gain(x, in_db, generator):\n    return x\n")
    with pytest.raises(ValueError, match=message):
        settings.check({"augment": [value]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def g(x):\n    return x\n", r"ideas/mine.py has no function 'f'. There are: g"),
        ("import no_such_package\n", r"ideas/mine.py raises ModuleNotFoundError: No module named .* \(line 3\). Rep"),
        ("def f(x\n", r"ideas/mine.py raises SyntaxError: .* \(mine.py, line 3\). Repair"),
        ("def f():\n    return torch.nowhere\n\n\nf()\n", r"raises AttributeError: .*nowhere.* \(line 4\)"),
        ("torch.zeros(2).view(3)\n", r"raises RuntimeError: .* \(line 3\)"),
    ],
)
def test_files_that_can_not_be_read_are_refused(write, text, message):
    write(text)
    with pytest.raises(ValueError, match=message):
        ideas.find({}, "ideas/mine.py:f")
    left = f"_mine_f_{digest(ideas._source('ideas/mine.py'))}" in sys.modules
    assert left == ("no function" in message)  # what raised is no module


FULL = """from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Gain:
    by: float = 1.0
    seen: list[int] = field(default_factory=list)


HERE = Path(__file__).name


def f(x, in_db, generator):
    return x + Gain().by, HERE, Gain
"""


def test_an_idea_has_what_a_module_has(write, tmp_path):
    """Its path, and a place where dataclasses find it, which is no other module's."""
    file = write("", "mine.py")
    (tmp_path / file).write_text(FULL)
    x, here, made = ideas.find({}, f"{file}:f")(torch.zeros(1), [True], None)
    assert (x.item(), here) == (1, "mine.py")
    assert digest(FULL.encode()) in made.__module__ and sys.modules[made.__module__].__file__ == str(tmp_path / file)
    assert "mine" not in sys.modules


# refused before training


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return x[:, :, :, 1:]",
            r"f@\w+ makes float32 \(3, 1, 16, 31\) of float32 \(3, 1, 16, 32\): expected",
        ),
        ("return x.double()", "makes float64"),
        ("return None", "makes a NoneType"),
        ("return x / 0", "makes NaN or infinite numbers"),
        ("x += 1\n    return x.clone()", r"changes its input in place.*Work on a copy"),
        ("return x + torch.rand(1)", "differs under the same seed. Draw by the generator"),
        ("return y", r"fails on three windows: NameError: name 'y' is not defined. Expected: f\(x, in_db, generator\)"),
        ("return x[[]][9]", "fails on three windows: IndexError"),
        (
            "return x.view(len(x), -1).view(x.shape)",
            "fails on three windows: RuntimeError: view size",
        ),  # not contiguous
        ("return x @ x[0, 0, :3]", r"f@\w+ fails on three windows: .*Expected: f\(x, in_db, generator\) -> x"),
    ],
)
def test_a_wrong_augmentation_is_refused_before_training(write, tones, tmp_path, body, message):
    name = write(f"def f(x, in_db, generator):\n    {body}\n") + ":f"
    with pytest.raises(ValueError, match=message):
        fit(tones, tmp_path / "checkpoint", recipe=recipe(augment=(name,)))
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        ("def f(x, y, in_db, generator, alpha):\n    return x, y[:1]\n", {"mix": "{}"}, "makes float32 \\(1, 3\\)"),
        ("def f(x, y, in_db, generator, alpha):\n    return x, 5 * y\n", {"mix": "{}"}, "not between 0 and 1"),
        ("def f(x, y, in_db, generator, alpha):\n    return x, y / 0 * 0\n", {"mix": "{}"}, "or all unknown"),
        ("def f(x):\n    return x\n", {"mix": "{}"}, r"Expected: f\(x, y, in_db, generator, alpha\) -> x, y"),
        ("def f(x, y, in_db, generator, alpha):\n    return x\n", {"mix": "{}"}, "gives float32 .*: expected x and y"),
        ("def f(logits):\n    return logits\n", {"loss": "{}"}, r"The loss fails .*Expected: f\(logits, targets\)"),
        ("def f(logits, y):\n    return (logits - y.zero_()).sum()\n", {"loss": "{}"}, "changes its targets in place"),
        ("def f(logits, y):\n    return 1.0\n", {"loss": "{}"}, "can't be trained"),
        ("def f(logits, targets):\n    return logits\n", {"loss": "{}"}, "The loss makes float32 \\(3, 3\\)"),
        ("def f(logits, targets):\n    return torch.zeros(())\n", {"loss": "{}"}, "can't be trained"),
        (
            "N = []\n\n\ndef f(logits, targets):\n    N.append(1)\n    return len(N) * logits.mean()\n",
            {"loss": "{}"},
            "gives another number for the same logits and targets",
        ),
    ],
)
def test_a_wrong_mix_or_loss_is_refused_before_training(write, tones, tmp_path, text, changes, message):
    name = write(text) + ":f"
    with pytest.raises(ValueError, match=message):
        fit(tones, tmp_path / "checkpoint", recipe=recipe(**{key: name for key in changes}))


@pytest.mark.parametrize("text", ["def f():\n    return 1\n", "def f(n):\n    return len\n"])
def test_what_is_no_network_is_refused(write, text):
    name = write(text) + ":f"
    with pytest.raises(ValueError, match=r"fails on n_channels=1 .*Expected: f\(n_channels\) -> a torch.nn.Module"):
        learners.WindowModel(Network(name, image_size=0), 3, [0.0], [1.0])


def test_a_network_that_is_one_and_the_same_each_time_is_refused(write, tones, tmp_path):
    """A training would go on from the weights of the one before, and of several loaded models all would be the last."""
    layers = "torch.nn.Flatten(), torch.nn.Linear(16 * 32, 4)"
    name = write(f"BODY = torch.nn.Sequential({layers})\n\n\ndef f(n):\n    return BODY\n") + ":f"
    with pytest.raises(ValueError, match=r"f@\w+ gives the same layers each time.*Build them within the function"):
        fit(tones, tmp_path / "checkpoint", recipe=recipe(), network=Network(name, image_size=0))


def test_what_an_idea_draws_as_its_file_runs_is_no_draw_of_the_training(write, tones, tmp_path):
    """Else the first training of a kernel would differ from the next ones."""
    text = "DRAWN = torch.randn(3)\n\n\ndef f(n):\n"
    text += "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16 * 32, 4))\n"
    network = Network(write(text) + ":f", image_size=0)
    first, second = (fit(tones, tmp_path / name, recipe=recipe(), network=network)[0] for name in "ab")
    assert test_learners.same(first, second)


def test_a_network_must_give_features(write):
    name = write("def f(n):\n    return torch.nn.Conv2d(n, 4, 3)\n") + ":f"
    with pytest.raises(ValueError, match=r"makes \(2, 4, 62, 94\) of \(2, 1, 64, 96\): expected \(2, n_features\)"):
        learners.WindowModel(Network(name, image_size=0), 3, [0.0], [1.0])


@pytest.mark.parametrize("kind", ["augment", "mix"])
def test_an_idea_may_be_given_clips_whose_labels_are_not_known(write, tones, kind):
    """The first clips of a training set may be noisy ones, with no label that is known."""
    text = "def f(x, in_db, generator):\n    return x + 1\n\n\n"
    text += "def g(x, y, in_db, generator, alpha):\n    return x, y.flip(0)\n"
    file, (cache, clips, _) = write(text), tones
    own = recipe(augment=(f"{file}:f",)) if kind == "augment" else recipe(mix=f"{file}:g", mixup=0.4)
    y = torch.eye(3)[torch.arange(20) % 3].numpy()
    y[:3] = np.nan
    training = test_learners.Training(cache, cache.rows(clips["fname"]), y, 32, own, 0)
    tryout.check(training, lambda logits, _: logits.mean(), learners.WindowModel(NETWORK, 3, [-50.0], [10.0]))


@pytest.mark.parametrize("layer", ["Linear(n * 16 * 32, 4)", "LazyLinear(4)"])
def test_a_network_may_need_windows_of_the_size_that_it_trains_on(write, tones, tmp_path, layer):
    """Such as a GRU over the bands: it is tried on windows of that size, and built again for them."""
    name = write(f"def f(n):\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.{layer})\n") + ":f"
    model = fit(tones, tmp_path / "checkpoint", recipe=recipe(), network=Network(name, image_size=0))[2]
    models.save(tmp_path / "weights.safetensors", model, {"classes": ["a", "b", "c"]})
    again, sidecar = models.load(tmp_path / "weights.safetensors")
    model.precision, x = torch.float32, torch.randn(3, 1, 16, 32)
    assert sidecar["shape"] == [16, 32] and torch.equal(again(x), model.eval()(x))


def test_a_network_must_fit_the_windows(write, tones, tmp_path):
    layers = "torch.nn.Flatten(), torch.nn.Linear(n * 64 * 96, 4)"
    name = write(f"def f(n):\n    return torch.nn.Sequential({layers})\n") + ":f"
    with pytest.raises(ValueError, match=r"fails on n_channels=1 and windows \(2, 1, 16, 32\): RuntimeError"):
        fit(tones, tmp_path / "checkpoint", recipe=recipe(), network=Network(name, image_size=0))


NET = """class f(torch.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.a, self.b = torch.nn.Linear(n, 4), torch.nn.Linear(4, 4)
        {}

    def forward(self, x):
        return self.b(self.a(x.mean((2, 3)))) {}
"""


@pytest.mark.parametrize(
    ("drawn", "used"),
    [
        ("self.r = torch.randn(4, 4)", "@ self.r"),
        ("self.register_buffer('r', torch.randn(4, 4), persistent=False)", "@ self.r"),
        ("", "+ torch.randn(4)"),
    ],
)
def test_a_network_whose_weights_do_not_tell_all_is_refused(write, tones, tmp_path, drawn, used):
    name = write(NET.format(drawn or "pass", used)) + ":f"
    with pytest.raises(ValueError, match=r"makes other numbers .* built anew and given its weights.*register_buffer"):
        fit(tones, tmp_path / "checkpoint", recipe=recipe(), network=Network(name, image_size=0))


def test_a_network_may_share_weights_and_keep_what_it_draws(write, tones, tmp_path):
    drawn = (
        "self.b.weight = torch.nn.Linear(4, 4).weight; self.c = torch.nn.Linear(4, 4); self.c.weight = self.b.weight"
    )
    drawn += "; self.register_buffer('r', torch.randn(4, 4))"
    network = Network(write(NET.format(drawn, "@ self.r")) + ":f", image_size=0)
    model = fit(tones, tmp_path / "checkpoint", recipe=recipe(), network=network)[2]
    models.save(tmp_path / "weights.safetensors", model, {"classes": ["a", "b", "c"]})
    again, _ = models.load(tmp_path / "weights.safetensors")
    model.precision, x = torch.float32, torch.randn(3, 1, 16, 32)
    assert torch.equal(again(x), model.eval()(x)) and again.body.b.weight is again.body.c.weight


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return spectrum.abs()", r"makes \(257, 101\) of a spectrum: expected \(16, 101\) \(n_mels, n_frames\)"),
        ("return spectrum[:16]", r"makes complex \(16, 101\) of"),
        ("return spectrum[:16].abs().log() * torch.inf", r"makes \(16, 101\) with NaN or infinite numbers of"),
        ("return spectrum[:16].abs() * 1e9", r"makes numbers over 65504, the largest that is kept. Divide"),
        ("return torch.rand(16, 101)", r"makes another channel of the same clip each time"),
        ("return settings.mels", r"f@\w+ fails on a clip: AttributeError: .*Expected: f\(settings, spectrum\) -> "),
    ],
)
def test_a_channel_must_fit(write, body, message):
    name = write(f"def f(settings, spectrum):\n    {body}\n") + ":f"
    settings_of = LogMel(sample_rate=8000, n_fft=512, hop_length=80, n_mels=16, fmin=20, channels=("logmel", name))
    with pytest.raises(ValueError, match=message):
        settings_of(torch.randn(8000))


def test_a_channel_that_changes_the_spectrum_changes_no_other(write):
    name = write("def f(settings, spectrum):\n    return spectrum.zero_()[:16].abs()\n") + ":f"
    how = {"sample_rate": 8000, "n_fft": 512, "hop_length": 80, "n_mels": 16, "fmin": 20}
    audio = torch.randn(8000)
    both = LogMel(**how, channels=(name, "logmel"))(audio)
    assert torch.equal(both[1], LogMel(**how)(audio)[0])


@pytest.mark.parametrize(("seconds", "told"), [((60.0, 90.0), True), ((60.0, 30.0), False)])
def test_a_slow_idea_is_told_with_minutes_an_epoch(write, tones, monkeypatch, seconds, told):
    """Of a step of the base, and of the idea: more than twice the base's step is told."""
    name = write("def f(x, in_db, generator):\n    return x + 0\n") + ":f"
    found = iter(seconds)
    monkeypatch.setattr(tryout, "_seconds", lambda work: (work(), next(found))[1])
    cache, clips, _ = tones
    rows, y = cache.rows(clips["fname"]), torch.eye(3)[torch.arange(20) % 3].numpy()
    training = test_learners.Training(cache, rows, y, 32, recipe(augment=(name,)), 0)
    model = learners.WindowModel(NETWORK, 3, [-50.0], [10.0])
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tryout.check(training, learners.LOSSES["bce"], model)
    words = [str(one.message) for one in caught if "an epoch takes" in str(one.message)]
    n = len(training)
    assert len(words) == told and all(f"about {2.5 * n:.2g} minutes instead of {n:.2g}." in text for text in words)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


# trained with


OWN = """
class Body(torch.nn.Sequential):
    pass


def net(n_channels):
    return Body(torch.nn.Conv2d(n_channels, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())


def brighter(x, in_db, generator):
    return x + torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device)


def half(x, y, in_db, generator, alpha):
    return (x + x.flip(0)) / 2, (y + y.flip(0)) / 2


def square(logits, targets):
    return (logits.sigmoid() - targets).square().nanmean()
"""


def test_an_idea_of_every_kind_trains_to_the_same_weights_again(write, tones, tmp_path):
    file = write(OWN)
    own = recipe(augment=(f"{file}:brighter", "gain"), mix=f"{file}:half", loss=f"{file}:square")
    network = Network(f"{file}:net", image_size=0)
    weights, curve, model, _ = fit(tones, tmp_path / "a", recipe=own, network=network)
    assert test_learners.same(weights, fit(tones, tmp_path / "b", recipe=own, network=network)[0])
    assert type(model.body).__name__ == "Body" and curve["train_loss"].notna().all()
    assert not test_learners.same(weights, fit(tones, tmp_path / "c", recipe=recipe(), network=network)[0])


@pytest.mark.parametrize("idea", ["lowpass.py:lowpass", "between_class.py:between_class"])
def test_the_worked_ideas_train_and_are_short(tones, tmp_path, idea):
    file = ROOT / "ideas" / idea.partition(":")[0]
    assert len(file.read_text().splitlines()) < 40
    changes = {"mix": f"ideas/{idea}"} if "between" in idea else {"augment": (f"ideas/{idea}",)}
    _, curve, _, _ = fit(tones, tmp_path / "a", recipe=recipe(**changes))
    assert curve["train_loss"].notna().all()


def test_lowpass_takes_from_the_high_bands_of_half_of_the_windows():
    x = torch.zeros(400, 2, 64, 5)
    y = ideas.find({}, "ideas/lowpass.py:lowpass")(x, [True, False], torch.Generator().manual_seed(0))
    lost = -y[:, 0, :, 0]
    assert (y[:, 1] == 0).all() and (lost[:, :25] == 0).all() and (lost.diff(dim=1) >= 0).all()
    assert 0.4 < (lost.sum(dim=1) > 0).float().mean() < 0.6


def test_between_class_mixes_other_classes_by_their_loudness():
    """Two sounds, 20 dB apart: at a ratio of a half the louder one is turned down to a tenth of the amplitude."""
    x, y = torch.tensor([0.0, 20.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4).clone(), torch.eye(2)
    for seed in range(5):
        mixed, labels = ideas.find({}, "ideas/between_class.py:between_class")(
            x, y, [True], torch.Generator().manual_seed(seed), 0.4
        )
        ratio = labels[0, 0]
        share = 1 / (1 + 10 ** (-20 / 20) * (1 - ratio) / ratio)
        power = (share**2 * 1 + (1 - share) ** 2 * 100) / (share**2 + (1 - share) ** 2)
        assert mixed[0, 0, 0, 0] == pytest.approx(float(10 * power.log10()), abs=1e-3)
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(2))


# in the middle of a training


def test_an_idea_that_raises_leaves_failed_txt_and_no_result(write, tones, tmp_path, monkeypatch):
    late = "seen = []\n\n\ndef f(x, in_db, generator):\n    seen.append(1)\n    if len(seen) > 9:\n"
    name = write(late + "        raise KeyError('late')\n    return x + 0\n") + ":f"
    cache, clips, dealt = tones
    with pytest.raises(ideas.Failed, match=r"KeyError: 'late'\nThis training uses ideas/mine.py:f@\w+; .*failed.txt"):
        test_learners.train_fold(tmp_path / "without_0", tones, recipe=recipe(augment=(name,), epochs=6))
    told = (tmp_path / "without_0" / "failed.txt").read_text()
    assert "in f\n" in told and "KeyError: 'late'" in told
    assert not (tmp_path / "without_0" / "result.json").exists()
    write("def f(x, in_db, generator):\n    return x + 0\n")
    test_learners.train_fold(tmp_path / "without_0", tones, recipe=recipe(augment=("ideas/mine.py:f",)))
    assert not (tmp_path / "without_0" / "failed.txt").exists()


def test_an_idea_that_gives_nan_or_another_shape_late_is_named(write, tones, tmp_path):
    late = "seen = []\n\n\ndef f(x, in_db, generator):\n    seen.append(1)\n    return x + 0 if len(seen) < 9 else "
    for i, (given, error, told) in enumerate(
        [
            (
                "x * float('nan')",
                learners.Diverged,
                r"Lower lr. Or an idea gives no finite numbers: .*ideas/mine.py:f@",
            ),
            ("x[..., :-1]", ideas.Failed, r"An augmentation makes .*: the shape must stay.\n.*ideas/mine.py:f@"),
        ]
    ):
        name = write(f"{late}{given}\n") + ":f"
        with pytest.raises(error, match=told):
            test_learners.train_fold(tmp_path / f"{i}" / "without_0", tones, recipe=recipe(augment=(name,), epochs=6))


def test_a_trial_whose_idea_raises_has_failed_and_is_tried_again(tmp_path, monkeypatch):
    def train_fold(*args, checkpoint, **more):
        checkpoint.parent.mkdir(parents=True)
        checkpoint.with_name("failed.txt").write_text("Traceback\nKeyError: 'late'\n")
        raise ideas.Failed("KeyError: 'late'")

    monkeypatch.setattr(learners, "train_fold", train_fold)
    folder = tmp_path / "louder" / "without_0" / "seed_1"
    trial = Run("03_augmentation", {**settings.defaults(), "seed": 1, "epochs": 2}, folder, folder.parents[1])
    assert sweep._train(trial, None, 0) is None
    assert not trial.done and sweep._facts(trial)[0] == 2 and sweep._facts(trial)[-1] == "KeyError: 'late'"


# packed


def test_a_packed_kernel_finds_its_ideas_and_refuses_others(tmp_path):
    packed = tmp_path / "lib.zip"
    full = {"ideas/full.py": FULL.encode()}
    packed.write_bytes(kaggle._zipped(ROOT / "lib", {**ideas.sources(["ideas/lowpass.py:lowpass"]), **full}))
    code = (
        "from lib import ideas\nprint(ideas.find({}, 'ideas/full.py:f')(1, [True], None)[:2])\n"
        "print(ideas.__file__, ideas.find({}, 'ideas/lowpass.py:lowpass').__name__)\n"
        "ideas.find({}, 'ideas/between_class.py:between_class')"
    )
    words = [sys.executable, "-c", code]
    env = {**os.environ, "PYTHONPATH": str(packed)}
    answer = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert answer.stdout.startswith("(2.0, 'full.py')\n"), answer.stderr
    assert "lib.zip" in answer.stdout and answer.stdout.endswith("lowpass\n")
    assert "ideas/between_class.py is missing" in answer.stderr


# a pooling

SECOND = """
def second(scores, first):
    ends = [*first[1:], len(scores)]
    import numpy as np
    return np.stack([np.sort(scores[a:b], axis=0)[-min(2, b - a)] for a, b in zip(first, ends)])


def wrong(scores, first):
    return scores
"""


def test_an_idea_pools_clips(write):
    """Of each clip the second highest window, or the only one."""
    file = write(SECOND)
    scores = np.array([[0.1, 0.9], [0.8, 0.3], [0.5, 0.5], [0.2, 0.7]])
    (name,) = settings.check({"readouts": f"{file}:second"})["readouts"]
    fnames, pooled = pooling.pool(name, np.array(["b", "b", "b", "a"]), scores)
    assert fnames.tolist() == ["a", "b"] and pooled.tolist() == [[0.2, 0.7], [0.5, 0.5]]
    assert pooling.choose(name, fnames, pooled, None) is None  # no parameter
    with pytest.raises(ValueError, match=r"makes \(4, 2\) of \(4, 2\): expected \(2, 2\), all in \[0, 1\]"):
        pooling.pool(f"{file}:wrong", np.array(["b", "b", "b", "a"]), scores)
