"""A window model by name, its weights file, and its scores of windows.

Conventions
-----------
input   : float32 (n, n_channels, n_mels, n_frames), units as in `features`, as `windows.batch` gives it.
logits  : float32 (n, n_classes), classes in submission order; `activate` makes scores in [0, 1] of them.
Normalisation, resizing and precision are inside the model, so that scoring cannot differ from training.
A weights file is <name>.safetensors with <name>.json beside it: everything needed to rebuild the model. No pickle.

Used in: 00, 02 to 08, 10.
"""

import difflib
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import nn
from tqdm import tqdm

from lib import ideas, settings
from lib.files import digest, read_json, whole_file, write_json
from lib.sound import windows
from lib.sound.cache import Cache

__all__ = ["Network", "WindowModel", "activate", "best_device", "best_precision", "load", "save", "score", "sidecar"]
__all__ += ["weights"]

SCORING_BATCH = 128
CNN = r"cnn(8|10|12|14)_([1-9]\d{0,2})"  # cnn<layers>_<channels of the first block>
SHAPE = (64, 96)  # of a window, where nobody says it
STD_FLOOR = 1.0e-3  # of a window that is all the same, such as silence; that of `Cache.statistics` too


@settings.group
class Network(settings.Network):
    """What is needed to build the network, from scratch (no pretrained weights, no download).

    Parameters
    ----------
    the knobs of `settings.Network`; normalise says what windows are centred and scaled by. set: mean and std a channel,
        of the training clips; band: a channel and mel band, of the training clips; window: a channel of the window
        itself, padding included
    dropout : share of pooled features dropped before the last layer, [0, 1)

    Raises
    ------
    ValueError
        If a setting is out of range or none of its choices.
    """

    dropout: float = 0.0


class CnnBlock(nn.Sequential):
    """Two 3 x 3 convolutions with batch normalisation, then 2 x 2 average pooling unless an axis has one element."""

    def __init__(self, n_in: int, n_out: int) -> None:
        layers = []
        for n in (n_in, n_out):
            layers += [nn.Conv2d(n, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]
        super().__init__(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x)
        return nn.functional.avg_pool2d(x, 2) if min(x.shape[2:]) > 1 else x


class Cnn(nn.Sequential):
    """The audio field's own CNN: no stride before its blocks, each of which has twice the channels of the one before.

    cnn10_64 is the body of PANNs' CNN10, with four blocks; cnn14_64 that of CNN14, with six. At the end the mean over
    the bands, then the largest value over time plus the mean: (n, n_channels, n_mels, n_frames) -> (n, n_features).

    Source
    ------
    Kong et al. 2020, PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern Recognition.
    """

    def __init__(self, n_channels: int, n_layers: int, width: int) -> None:
        widths = [width * 2**block for block in range((n_layers - 2) // 2)]
        super().__init__(*map(CnnBlock, (n_channels, *widths), widths))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frames = super().forward(x).mean(dim=2)
        return frames.amax(dim=2) + frames.mean(dim=2)


class WindowModel(nn.Module):
    """Normalise, resize, a network as `body` (timm's, a `Cnn` or an idea), dropout and a linear `head` in float32.

    The head stays in float32 under bfloat16 and float16, since rounded logits tie and lwlrap counts ties as errors.

    Parameters
    ----------
    mean, std : from `Cache.statistics`: a number a channel, or for normalise `band` a list a channel,
        (n_channels, n_mels); normalise `window` takes from them only how many channels there are
    shape : (n_mels, n_frames) of its windows; an idea is tried on them, and saved with them

    Attributes
    ----------
    image_size : pixels a side, at first the network's; may be changed between batches of a training, and is saved

    Raises
    ------
    ValueError
        If there is no network of that name (the message names the nearest ones), or mean and std do not fit normalise.
    """

    written_by = "04_kfold writes it when a fold is trained."

    def __init__(self, network: Network, n_classes: int, mean: list, std: list, shape: Sequence[int] = SHAPE) -> None:
        super().__init__()
        self.network, self.image_size, self.shape = network, network.image_size, tuple(shape)
        size = (self.image_size,) * 2 if self.image_size else self.shape
        self.body, n_features = _body(network.arch, len(mean), size)
        self.head = nn.Sequential(nn.Dropout(network.dropout), nn.Linear(n_features, n_classes))
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        per_band = network.normalise == "band"
        if not self.mean.ndim == self.std.ndim == 1 + per_band:
            raise ValueError(
                f"mean and std of shapes {tuple(self.mean.shape)} and {tuple(self.std.shape)} do not fit "
                f"normalise={network.normalise!r}. Take Cache.statistics(fnames, per_band={per_band})."
            )
        self.precision = torch.float32
        self.to(memory_format=torch.channels_last)

    @classmethod
    def rebuild(cls, sidecar: dict) -> "WindowModel":
        """The model that a sidecar describes, before its weights are loaded."""
        how = {**sidecar["normalisation"], "shape": sidecar.get("shape", SHAPE)}
        return cls(Network(**sidecar["network"]), len(sidecar["classes"]), **how)

    @property
    def settings(self) -> dict:
        """What `rebuild` needs, for the sidecar."""
        normalisation = {"mean": self.mean.tolist(), "std": self.std.tolist()}
        network = {**self.network.settings(), "image_size": self.image_size}
        own = {"shape": list(self.shape)} if ideas.is_idea(self.network.arch) else {}
        return {"network": network, "normalisation": normalisation, **own}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self._normalised(x)
        if self.image_size:
            x = nn.functional.interpolate(x, size=(self.image_size,) * 2, mode="bilinear", align_corners=False)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, self.precision, enabled=self.precision != torch.float32):
            features = self.body(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.head(features.float())

    def _normalised(self, x: torch.Tensor) -> torch.Tensor:
        if self.network.normalise == "window":
            std, mean = torch.std_mean(x, dim=(2, 3), correction=0, keepdim=True)
            return (x - mean) / std.clamp_min(STD_FLOOR)
        shape = (1, len(self.mean), -1, 1)  # one band, or all
        return (x - self.mean.view(shape)) / self.std.view(shape)

    def prepare(self, device: str = "auto", precision: str = "auto") -> "WindowModel":
        """Move to the device, and choose the precision: a torch dtype by name, or auto, which is `best_precision`."""
        device = best_device() if device == "auto" else torch.device(device)
        self.precision = best_precision(device) if precision == "auto" else getattr(torch, precision)
        return self.to(device)

    def param_groups(self) -> list[list[nn.Parameter]]:
        """First half of the body's layers, second half, head: the groups that a slice of learning rates reaches."""
        own = nn.ParameterList(self.body.parameters(recurse=False))  # such as a transformer's positions
        layers = [layer for layer in (own, *self.body.children()) if any(True for _ in layer.parameters())]
        half = (len(layers) + 1) // 2
        seen, groups = set(), []
        for part in (nn.ModuleList(layers[:half]), nn.ModuleList(layers[half:]), self.head):
            groups.append([one for one in part.parameters() if one not in seen])  # layers of an idea may share weights
            seen.update(groups[-1])
        return groups


def _body(arch: str, n_channels: int, size: Sequence[int] = SHAPE) -> tuple[nn.Module, int]:
    """A network without its last layer, and how many features it gives; an idea is tried on inputs of that size."""
    if own := re.fullmatch(CNN, arch):
        body = Cnn(n_channels, *map(int, own.groups()))
        return body, body[-1][0].out_channels
    if ideas.is_idea(arch):
        form, given = "f(n_channels) -> a torch.nn.Module", torch.zeros(2, n_channels, *size)
        with ideas.expecting(arch, form, f"n_channels={n_channels} and windows {tuple(given.shape)}"), torch.no_grad():
            body = ideas.find({}, arch)(n_channels)
            features = body.eval()(given)
        if features.ndim != 2 or len(features) != 2:
            raise ValueError(f"{arch} makes {tuple(features.shape)} of {tuple(given.shape)}: expected (2, n_features).")
        return body.train(), features.shape[1]
    import timm  # here, for it takes two seconds (it imports torchvision), and many notebooks build no network

    if arch not in timm.list_models():
        near = difflib.get_close_matches(arch, timm.list_models(), n=5, cutoff=0)
        raise ValueError(f"timm has no model {arch!r}; near it: {near}. See timm.list_models(), or take cnn10_16.")
    body = timm.create_model(arch, pretrained=False, in_chans=n_channels, num_classes=0)
    return body, body.head_hidden_size


def activate(logits: np.ndarray, loss: str) -> np.ndarray:
    """Scores in [0, 1], float64: a softmax for `ce`, else a sigmoid per class. Shape (..., n_classes) stays."""
    logits = np.asarray(logits, dtype=np.float64)
    if loss != "ce":
        return np.exp(-np.logaddexp(0, -logits))  # 1 / (1 + exp(-logits)), without overflow
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def score(
    nets: Sequence[WindowModel], cache: Cache, table: pd.DataFrame, width: int, batch_size: int = SCORING_BATCH
) -> list[np.ndarray]:
    """Logits of each network for the same windows. All networks are on one device.

    Parameters
    ----------
    table : at least one window, from `windows.rolling`
    width : frames of a window

    Returns
    -------
    Of each network its logits, float32 (n_windows, n_classes), in the order of `table`
    """
    device = next(nets[0].parameters()).device
    cache, logits = cache.on(device), [[] for _ in nets]
    for net in nets:
        net.eval()
    told = {"total": -(-len(table) // batch_size), "desc": "scoring windows", "unit": "batch", "leave": False}
    with torch.inference_mode():
        for x in tqdm(windows.batches(cache, table, width, batch_size), delay=1, **told):
            for net, own in zip(nets, logits, strict=True):
                own.append(net(x.to(device)).float().cpu().numpy())
    return [np.concatenate(own) for own in logits]


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's state for safetensors: on the CPU, contiguous, and copied, since layers may share weights."""
    state = model.state_dict().items()
    return {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state}


def save(path: Path, model: nn.Module, sidecar: dict) -> None:
    """Write the weights to `path` (.safetensors) and, last, the .json beside it.

    Parameters
    ----------
    model : a `WindowModel` or a `stage2.Stage2Model`; its `settings` are added to the sidecar
    sidecar : what else scoring needs, see `learners.train_fold` and `choice.write_choice`
    """
    path = Path(path)
    path.with_suffix(".json").unlink(missing_ok=True)  # new weights never stand beside an old sidecar
    content = safetensors.save(weights(model))
    with whole_file(path) as partial:
        partial.write_bytes(content)
    write_json(path.with_suffix(".json"), {**sidecar, **model.settings, "weights": digest(content)})


def load(path: Path, kind: type[nn.Module] = WindowModel) -> tuple[nn.Module, dict]:
    """The model of a weights file, on the CPU in float32 (`prepare` moves a window model), and its sidecar.

    Parameters
    ----------
    kind : `WindowModel` or `stage2.Stage2Model`

    Raises
    ------
    FileNotFoundError
        If weights or sidecar are not there; the message says which notebook writes them.
    ValueError
        If the weights were damaged or changed since they were written.
    """
    about, content = sidecar(path, kind), Path(path).read_bytes()
    model = kind.rebuild(about)
    try:
        if about.get("weights") not in (None, digest(content)):  # older ones have none
            raise SafetensorError("they are not those that the .json beside them tells of")
        model.load_state_dict(safetensors.load(content))
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged, or was changed since ({error}). Train it again: -p overwrite True."
        ) from error
    return model.eval(), about


def sidecar(path: Path, kind: type[nn.Module] = WindowModel) -> dict:
    """The sidecar of a weights file; raises as `load`."""
    path = Path(path)
    for file in (path, path.with_suffix(".json")):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is not there: {kind.written_by}")
    return read_json(path.with_suffix(".json"))


def best_device() -> torch.device:
    """The GPU where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def best_precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies in it, else float16 on a GPU with tensor cores, else float32."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability >= (8, 0):
            return torch.bfloat16
        return torch.float16 if capability >= (7, 0) else torch.float32
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if platform.system() == "Linux" and cpuinfo.is_file() else []
    return torch.bfloat16 if "amx_bf16" in flags or "avx512_bf16" in flags else torch.float32
