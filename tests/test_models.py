"""Tests of models: a model by name, its file, its scores; and what the whole tree must not do."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lib import settings
from lib.sound import windows
from lib.sound.cache import Cache
from lib.sound.features import LogMel
from lib.training import models
from lib.training.models import Network, WindowModel, activate

ROOT = Path(__file__).parents[1]
TINY = Network("test_resnet", image_size=0)
CLASSES = ["Bark", "Meow", "Purr", "Hiss", "Chirp"]


def make(network: Network = TINY, n_channels: int = 1, n_classes: int = 5) -> WindowModel:
    """A model that has seen some batches, so that its batch norms are not the identity."""
    torch.manual_seed(0)
    mean, std = [-40.0 + i for i in range(n_channels)], [15.1] * n_channels
    if network.normalise == "band":
        mean, std = [[m + k / 7 for k in range(32)] for m in mean], [[s] * 32 for s in std]
    model = WindowModel(network, n_classes, mean, std)
    with torch.no_grad():
        model.train()(decibels(4, n_channels))
    return model.eval()


def decibels(n: int, n_channels: int = 1, n_mels: int = 32, n_frames: int = 40) -> torch.Tensor:
    x = torch.randn(n, n_channels, n_mels, n_frames, generator=torch.Generator().manual_seed(n))
    return x * 15 - 40


@torch.inference_mode()
def logits_of(model: WindowModel, x: torch.Tensor) -> torch.Tensor:
    return model.eval()(x)


# --- the network ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_channels", [1, 3])
def test_input_is_normalised_per_channel(n_channels):
    model, x = make(n_channels=n_channels), decibels(3, n_channels)
    found = logits_of(model, x)
    assert found.shape == (3, 5) and found.dtype == torch.float32
    normal = (x - torch.tensor([-40.0, -39, -38][:n_channels]).view(1, -1, 1, 1)) / torch.full((1, 1, 1, 1), 15.1)
    with torch.inference_mode():
        torch.testing.assert_close(found, model.head(model.body(normal)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("image_size", "seen"), [(0, (32, 40)), (48, (48, 48))])
def test_image_size(image_size, seen):
    model, sizes = make(Network("test_resnet", image_size)), []
    model.body.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape)))
    logits_of(model, decibels(2))
    assert sizes == [(2, 1, *seen)]


def test_image_size_may_change_while_training(tmp_path):
    model, sizes = make(Network("test_resnet", 48)), []
    model.body.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[2:])))
    assert model.image_size == 48
    for model.image_size in (24, 32, 0):
        logits_of(model, decibels(2))
    assert sizes == [(24, 24), (32, 32), (32, 40)]
    model.image_size = 32
    models.save(tmp_path / "weights.safetensors", model, {"classes": CLASSES})
    assert models.load(tmp_path / "weights.safetensors")[0].image_size == 32  # scoring sees what training saw last


def seen_by_the_body(model: WindowModel, x: torch.Tensor) -> torch.Tensor:
    seen = []
    model.body.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    logits_of(model, x)
    return seen[0]


def test_normalised_by_band():
    x = decibels(3, 2)
    mean, std = -40 + torch.arange(64.0).view(2, 32), 10 + torch.arange(64.0).view(2, 32)
    model = WindowModel(Network("test_resnet", 0, normalise="band"), 5, mean.tolist(), std.tolist())
    expected = (x - mean[None, :, :, None]) / std[None, :, :, None]
    torch.testing.assert_close(seen_by_the_body(model, x), expected, atol=1e-6, rtol=1e-6)
    assert next(model.body.parameters()).shape[1] == 2


def test_normalised_by_window():
    x = decibels(4, 2)
    x[0], x[1, 1] = x[0] * 9 + 500, -80.0  # louder than the others; one silent channel
    model = WindowModel(Network("test_resnet", 0, normalise="window"), 5, [0.0] * 2, [1.0] * 2)
    seen = seen_by_the_body(model, x)
    expected = (x.numpy() - x.numpy().mean((2, 3), keepdims=True)) / x.numpy().std((2, 3), keepdims=True).clip(1e-3)
    np.testing.assert_allclose(seen.numpy(), expected, atol=1e-4)
    assert (seen[1, 1] == 0).all() and logits_of(model, x).isfinite().all()
    torch.testing.assert_close(logits_of(model, x * 2 - 7)[[0, 2, 3]], logits_of(model, x)[[0, 2, 3]])


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match=r"normalise='batch' should be 'set', 'band' or 'window'"):
        Network("test_resnet", 0, normalise="batch")


@pytest.mark.parametrize(("normalise", "level"), [("set", [[0.0] * 32]), ("band", [0.0]), ("window", [[0.0] * 32])])
def test_statistics_that_do_not_fit_the_normalisation_are_refused(normalise, level):
    match = rf"do not fit normalise='{normalise}'. Take Cache.statistics\(fnames, per_band={normalise == 'band'}\)"
    with pytest.raises(ValueError, match=match):
        WindowModel(Network("test_resnet", 0, normalise=normalise), 5, level, level)


@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet", "test_vit", "mobilenetv3_small_050", "cnn8_4"])
def test_param_groups_are_all_parameters_once(arch):
    model = WindowModel(Network(arch, 0), 5, [0.0], [1.0])
    groups = model.param_groups()
    assert len(groups) == 3 and all(groups)
    ids = [id(parameter) for group in groups for parameter in group]
    assert len(set(ids)) == len(ids) and set(ids) == {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in groups[2]} == {id(parameter) for parameter in model.head.parameters()}
    first = next(iter(model.body.parameters()))
    assert any(parameter is first for parameter in groups[0])


def test_networks_whose_features_pass_a_further_layer():
    assert logits_of(make(Network("mobilenetv3_small_050", 0)), decibels(1)).shape == (1, 5)


@pytest.mark.parametrize(("arch", "n_features"), [("cnn8_8", 32), ("cnn10_16", 128), ("cnn14_4", 128)])
def test_the_own_cnn_doubles_its_channels_and_reads_every_band_and_frame(arch, n_features):
    torch.manual_seed(0)
    model = make(Network(arch, 0)).eval()
    x = decibels(2)
    assert model.body(x).shape == (2, n_features)
    base = model.body(x)
    for band, frame in ((0, 0), (x.shape[2] // 2, x.shape[3] // 2)):
        other = x.clone()
        other[:, :, band, frame] += 40
        assert not torch.equal(model.body(other), base)
    assert model.body(x[:, :, :8, :5]).isfinite().all()  # fewer bands and frames than there are halvings


@pytest.mark.parametrize("arch", ["cnn9_16", "cnn10", "cnn10_1600", "cnn10_0"])
def test_other_names_of_the_own_cnn_are_refused(arch):
    with pytest.raises(ValueError, match=f"no model '{arch}'.*cnn10_16"):
        WindowModel(Network(arch, 0), 5, [0.0], [1.0])


def test_dropout_works_in_training_only():
    model, x = make(Network("test_resnet", 0, dropout=0.9)), decibels(8)
    assert torch.equal(logits_of(model, x), logits_of(model, x))
    with torch.no_grad():
        features = torch.ones(1, model.body.num_features)
        assert len({tuple(model.train().head(features)[0].tolist()) for _ in range(5)}) > 1


@pytest.mark.parametrize(("arch", "near"), [("renset18", "resnet18"), ("regnetx_02", "regnetx_002"), ("", "near it")])
def test_an_unknown_network_is_refused_with_the_nearest(arch, near):
    with pytest.raises(ValueError, match=rf"timm has no model '{arch}'; .*{near}.*timm.list_models"):
        WindowModel(Network(arch, 0), 5, [0.0], [1.0])


def test_the_head_stays_in_float32_under_bfloat16():
    x = decibels(64)
    full = logits_of(make(n_classes=80).prepare("cpu", "float32"), x)
    model = make(n_classes=80).prepare("cpu", "bfloat16")
    model.body.register_forward_hook(lambda _, inputs, output: dtypes.append(output.dtype))
    dtypes = []
    half = logits_of(model, x)
    assert dtypes == [torch.bfloat16] and half.dtype == torch.float32
    assert not torch.equal(half, full) and (half - full).abs().max() < 0.1 * full.abs().max()
    ties = [int((rows.sort(dim=1).values.diff(dim=1) == 0).sum()) for rows in (half, half.bfloat16())]
    assert ties[0] == 0 < ties[1]  # what a head in bf16 would do to the ranks


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((6, 0), torch.float32), ((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_precision_goes_by_what_a_gpu_is_fast_in(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert models.best_precision(torch.device("cuda")) == expected


@pytest.mark.parametrize(("precision", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_is_chosen(precision, expected):
    assert make().prepare("cpu", precision).precision == expected
    assert make().precision == torch.float32
    assert make().prepare("cpu").precision in (torch.float32, torch.bfloat16)


# --- scores --------------------------------------------------------------------------------------------------------


def test_known_scores():
    np.testing.assert_allclose(activate([[0, np.log(3), -np.log(3)]], "bce"), [[0.5, 0.75, 0.25]], rtol=1e-12)
    np.testing.assert_array_equal(activate([[0, 1, -2]], "lq"), activate([[0, 1, -2]], "bce"))
    np.testing.assert_allclose(activate([[0, np.log(3), np.log(4)]], "ce"), [[1 / 8, 3 / 8, 4 / 8]], rtol=1e-12)
    assert activate(np.zeros((2, 3, 4), np.float32), "ce").shape == (2, 3, 4)
    assert activate(np.zeros(4, np.float32), "bce").dtype == np.float64


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_extreme_logits_give_scores(loss):
    scores = activate(np.array([[-1e4, 0, 1e4], [1e30, 1e30, -1e30]], np.float32), loss)
    assert np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()
    assert scores[0, 2] == 1 and scores[0, 0] == 0


def test_small_scores_keep_their_order():
    logits = np.linspace(-600, 30, 2000)  # 1 - score has no room above 36
    assert (np.diff(activate(logits, "bce")) > 0).all()


def scene(lengths: tuple[int, ...]) -> tuple[Cache, pd.DataFrame, int]:
    """A cache of noise, the table of its windows (with an index that means nothing), and their width."""
    logmel = LogMel(8000, 256, 80, 32, 20)
    index = pd.DataFrame({"fname": [f"{i}.wav" for i in range(len(lengths))], "n_frames": lengths})
    index = index.assign(first_frame=index["n_frames"].cumsum() - index["n_frames"], floor_db=-80.0)
    store = Cache(logmel, (decibels(1, sum(lengths), 1, 32)[0].half(),), index, pd.DataFrame(), "name")
    cut = windows.Windows(0.4, 0.2)
    table = windows.rolling(store, index, cut)
    return store, table.set_axis(np.zeros(len(table))), cut.n_frames(logmel)


def test_scores_equal_a_loop_over_windows():
    store, table, width = scene((130, 20, 41))
    model = make().train()
    found = models.score([model], store, table, width, batch_size=3)[0]
    assert found.shape == (len(table), 5) and found.dtype == np.float32 and not model.training
    for logits, row in zip(found, table.itertuples(), strict=True):
        frames = [row.start_frame + t for t in range(width)]
        picture = torch.full((1, 1, 32, width), -80.0)
        for t, frame in enumerate(frames):
            if 0 <= frame < row.n_frames:
                picture[0, :, :, t] = store.parts[0][row.first_frame + frame].float()
        np.testing.assert_allclose(logits, logits_of(model, picture)[0], atol=1e-5)


# --- the file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("normalise", settings.NORMALISE)
def test_a_model_comes_back_to_the_last_bit(tmp_path, n_channels, normalise):
    network, x = Network("test_resnet", 24, dropout=0.25, normalise=normalise), decibels(5, n_channels)
    model = make(network, n_channels).prepare("cpu", "float32")
    sidecar = {"classes": CLASSES, "audio": {"n_mels": 32}, "unseen_folds": [2]}
    models.save(tmp_path / "part" / "weights.safetensors", model, sidecar)
    assert sorted(p.name for p in (tmp_path / "part").iterdir()) == ["weights.json", "weights.safetensors"]
    loaded, about = models.load(tmp_path / "part" / "weights.safetensors")
    assert not loaded.training and loaded.precision == torch.float32 and loaded.network == network
    assert about.items() >= sidecar.items()
    assert torch.equal(logits_of(loaded, x), logits_of(model, x))
    assert torch.equal(logits_of(loaded.prepare("cpu", "float32"), x), logits_of(model, x))
    assert torch.equal(loaded.mean, model.mean) and torch.equal(loaded.std, model.std)


def test_the_sidecar_is_written_last_and_never_stands_beside_other_weights(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    models.save(path, make(), {"classes": CLASSES})
    monkeypatch.setattr(models, "write_json", None)  # the second save is cut off between its two files
    with pytest.raises(TypeError):
        models.save(path, make(Network("test_resnet", 24)), {"classes": CLASSES})
    with pytest.raises(FileNotFoundError, match=r"weights.json is not there: 04_kfold writes it"):
        models.load(path)


@pytest.mark.parametrize("lost", ["weights.safetensors", "weights.json"])
def test_a_missing_file_names_the_notebook_that_writes_it(tmp_path, lost):
    models.save(tmp_path / "weights.safetensors", make(), {"classes": CLASSES})
    (tmp_path / lost).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{lost} is not there: 04_kfold writes it when a fold is trained"):
        models.load(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("change", [lambda c: c[: len(c) // 2], lambda c: c[:-1] + bytes([c[-1] ^ 1]), lambda c: b""])
def test_weights_that_are_not_those_that_were_written_are_refused(tmp_path, change):
    path = tmp_path / "weights.safetensors"
    models.save(path, make(), {"classes": CLASSES})
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match="weights.safetensors is damaged, or was changed since .* -p overwrite True"):
        models.load(path)


def test_weights_of_an_older_version_without_a_digest_are_read_unless_they_are_cut_short(tmp_path):
    path = tmp_path / "weights.safetensors"
    models.save(path, make(), {"classes": CLASSES})
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({name: about[name] for name in about if name != "weights"}))
    models.load(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="weights.safetensors is damaged"):
        models.load(path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk(tmp_path, monkeypatch):
    def full(path: Path, data: bytes) -> None:
        with open("/dev/full", "wb") as file:
            file.write(data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="disk is full .*free some space"):
        models.save(tmp_path / "weights.safetensors", make(), {"classes": CLASSES})
    assert list(tmp_path.iterdir()) == []


def test_the_sidecar_is_plain_json(tmp_path):
    models.save(tmp_path / "w.safetensors", make(), {"classes": CLASSES, "unseen_folds": [np.int64(2)]})
    sidecar = json.loads((tmp_path / "w.json").read_text())
    assert sidecar["network"] == TINY.settings() and sidecar["unseen_folds"] == [2]
    assert sidecar["normalisation"] == {"mean": [-40.0], "std": [pytest.approx(15.1)]}


# --- the whole tree ------------------------------------------------------------------------------------------------


def test_inference_imports_neither_fastai_nor_librosa():
    code = """if True:
        import sys
        import lib.clips.pooling, lib.clips.stage2, lib.data.audio
        import lib.sound.cache, lib.sound.windows, lib.training.models
        heavy = {"fastai", "librosa", "numba", "matplotlib", "seaborn", "sklearn", "papermill", "IPython"}
        print(sorted(heavy & {name.split(".")[0] for name in sys.modules}))"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


RUNS_CODE = re.compile(  # reading such a file can run code that is hidden in it
    r"\b(import|from)\s+(c?pickle|dill|cloudpickle|joblib|shelve|marshal)\b|_pickle\(|torch\.(load|save)\(|"
    r"allow_pickle\s*=\s*True|yaml\.(unsafe_|full_)?load(_all)?\(|load_learner\(|learn\.(export|save|load)\("
)


def test_nothing_is_pickled():
    files = [p for top in ("lib", "notebooks", "tests", "benchmarks") for p in (ROOT / top).rglob("*.*")]
    files = [p for p in files if p.suffix in (".py", ".ipynb") and "checkpoint" not in p.parent.name]
    assert len(files) > 20
    found = [f"{p.relative_to(ROOT)}: {m.group()}" for p in files for m in RUNS_CODE.finditer(p.read_text("utf-8"))]
    assert found == []
    bad = ["import " + "pickle", "torch" + ".load(path)", "np.load(path, allow_pickle" + "=True)", "df.to_csv(path)"]
    assert [bool(RUNS_CODE.search(text)) for text in bad] == [True, True, True, False]
