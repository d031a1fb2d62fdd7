"""Figures, and sounds to hear.

Conventions
-----------
A figure takes tables or arrays and returns a matplotlib Figure: axes carry units, the title says what is seen. Colours
are seaborn's colour-blind palette. `gallery` and `listen` read audio, through `lib.audio` alone.

Used in: every notebook. With `explore` and `browse`, the only modules that import matplotlib and seaborn.
"""

import base64
import html
import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import soundfile
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib import audio
from lib.cache import Cache

__all__ = ["confusions", "draw_logmel", "gallery", "learning_curves", "listen", "per_class"]

PLAYER_RATE = 22_050  # Hz: small enough to lie inside a notebook
PLAYER_S = 12.0  # s of a long clip that a player holds

sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.85)


def learning_curves(epochs: pd.DataFrame) -> Figure:
    """Loss and lwlrap over epochs.

    Parameters
    ----------
    epochs : model, epoch, train_loss, valid_loss, lwlrap; one curve a model
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained")
    for i, (name, curve) in enumerate(epochs.groupby("model")):
        dots = {"color": f"C{i}", "marker": "."}
        left.plot(curve["epoch"] + 1, curve["train_loss"], color=f"C{i}", lw=1, alpha=0.5)
        curve = curve.dropna(subset="lwlrap")
        left.plot(curve["epoch"] + 1, curve["valid_loss"], **dots)
        right.plot(curve["epoch"] + 1, curve["lwlrap"], label=name, **dots)
    last = epochs.groupby("model").tail(1)
    left.set(xlabel="epoch", ylabel="loss (nats)", title="Thin: training, as augmented; dotted: held-out windows")
    right.set(
        xlabel="epoch",
        ylabel="lwlrap of single windows",
        ylim=(None, 1),
        title=f"Held-out windows end at lwlrap {last['lwlrap'].mean():.3f}",
    )
    right.legend(loc="lower right", ncols=2)
    return figure


def per_class(table: pd.DataFrame) -> Figure:
    """A bar a class, the hardest on top.

    Parameters
    ----------
    table : class, n (clips that have it), lwlrap (NaN where n is 0)
    """
    table = table.sort_values("lwlrap", na_position="first").head(80)
    figure, axes = plt.subplots(figsize=(8, 0.8 + 0.24 * len(table)), layout="constrained")
    axes.barh(np.arange(len(table)), table["lwlrap"].fillna(0), color=sns.color_palette("colorblind")[0])
    axes.set_yticks(np.arange(len(table)), table["class"] + "  (" + table["n"].astype(str) + ")")
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    hardest = table.dropna(subset="lwlrap").iloc[0]
    axes.set(
        xlim=(0, 1),
        xlabel="lwlrap (clips of the class in brackets)",
        title=f"{hardest['class']} is the hardest class: lwlrap {hardest['lwlrap']:.2f}",
    )
    return figure


def confusions(counts: np.ndarray, classes: list[str], n_shown: int = 12) -> Figure:
    """The most confused classes: how often a class that is no label (column) outranked a label (row).

    Parameters
    ----------
    counts : (n_classes, n_classes), from `metrics.confusions`
    n_shown : classes in the picture, those with the most confusions
    """
    busy = np.sort(np.argsort(-(counts.sum(0) + counts.sum(1)), kind="stable")[:n_shown])
    names = [classes[i] for i in busy]
    row, column = np.unravel_index(counts.argmax(), counts.shape)
    figure, axes = plt.subplots(figsize=(2.5 + 0.5 * len(busy), 2 + 0.4 * len(busy)), layout="constrained")
    shown = counts[np.ix_(busy, busy)]
    sns.heatmap(shown, annot=True, fmt="d", cmap="Blues", xticklabels=names, yticklabels=names, ax=axes, cbar=False)
    axes.set_xticks(axes.get_xticks(), names, rotation=40, ha="right")
    axes.set(
        xlabel="class ranked first though it is no label",
        ylabel="label of the clip",
        title=f"Most confused: {classes[row]} taken for {classes[column]}, {counts[row, column]} clips",
    )
    return figure


def gallery(cache: Cache, fnames: list[str], captions: list[str]) -> Figure:
    """Log-mels of a few clips, one below the other, to look at.

    Parameters
    ----------
    cache : holds the clips
    captions : title of each
    """
    figure, rows = plt.subplots(len(fnames), 1, figsize=(10, 1.9 * len(fnames)), layout="constrained", squeeze=False)
    for axes, clip, caption in zip(rows[:, 0], cache.rows(fnames).itertuples(), captions, strict=True):
        draw_logmel(axes, cache, clip)
        axes.set_title(caption, loc="left", fontsize="small")
    rows[-1, 0].set_xlabel("time (s)")
    return figure


def draw_logmel(axes: Axes, cache: Cache, clip: object) -> None:
    """The log-mel of a clip (a row of `Cache.index`) into axes, with its scale of dB beside them."""
    frames = cache.frames(clip)[:, 0].float().numpy().T
    extent = (0, clip.n_frames / cache.logmel.frames_per_s, 0, len(frames))
    mesh = axes.imshow(frames, origin="lower", aspect="auto", cmap="magma", extent=extent)
    axes.set_ylabel("mel band")
    axes.grid(visible=False)
    axes.figure.colorbar(mesh, ax=axes, label="dB", pad=0.01)


def listen(paths: list[str], captions: list[str]) -> HTML:
    """Players, each below its caption; the sound lies in the notebook, so they work in any copy of it.

    Parameters
    ----------
    paths : files, or members of archives, as in the table of clips; a clip that can't be read says so in its place
    """
    players = []
    for path, caption in zip(paths, captions, strict=True):
        try:
            samples = audio.read(path, PLAYER_RATE)[: int(PLAYER_S * PLAYER_RATE)]
            sound = io.BytesIO()
            soundfile.write(sound, samples / max(1.0, float(np.abs(samples).max())), PLAYER_RATE, format="MP3")
            data = base64.b64encode(sound.getvalue()).decode()
            player = f'<audio controls preload="none" src="data:audio/mpeg;base64,{data}"></audio>'
        except audio.AudioError as error:
            player = f"<em>can't be played: {html.escape(str(error))}</em>"
        players.append(f"<div style='margin:0.4em 0'>{html.escape(caption)}<br>{player}</div>")
    return HTML("\n".join(players))
