"""Figures, and sounds to hear.

Conventions
-----------
A figure takes tables or arrays and returns a matplotlib Figure: axes carry units, the title says what is seen. Colours
are seaborn's colour-blind palette. `gallery` and `listen` read audio, through `lib.audio` alone.

Used in: every notebook. Only modules of figures (`plots`, `..._plots`, `explore`, `browse`) import matplotlib, seaborn.
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

from lib.data import audio
from lib.evaluation.metrics import AGAINST
from lib.sound.cache import Cache

__all__ = [
    "class_differences",
    "confusions",
    "convergence",
    "differences",
    "draw_logmel",
    "gallery",
    "learning_curves",
    "listen",
    "lr_search",
    "per_class",
    "pictures",
]

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
    left.set(xlabel="epoch", ylabel="loss (nats)", title="Thin: training, as augmented; with dots: held-out windows")
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


VERDICT_COLOURS = {"kept": "C2", "dropped": "C3", "unclear": "C7", "screened": "C0"}


def differences(table: pd.DataFrame, base: str = "the base") -> Figure:
    """Each variant's difference in lwlrap to the base, with its interval; the colour is the verdict.

    Parameters
    ----------
    table : variant, lwlrap_diff, lwlrap_diff_low, lwlrap_diff_high, verdict, n (from `sweep.Trials.table`)
    base : what they are compared to, in words
    """
    table = table.dropna(subset="lwlrap_diff").sort_values("lwlrap_diff", ascending=False)
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.3 * len(table)), layout="constrained")
    axes.axvline(0, color="0.3", lw=1)
    for y, row in enumerate(table.itertuples()):
        colour = VERDICT_COLOURS[row.verdict]
        axes.plot([row.lwlrap_diff_low, row.lwlrap_diff_high], [y, y], color=colour, lw=2)
        axes.plot(row.lwlrap_diff, y, "o", color=colour)
    axes.set_yticks(np.arange(len(table)), table["variant"] + "  " + table["verdict"])
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    counts = table.loc[~table["variant"].str.contains(AGAINST, regex=False), "verdict"].value_counts()
    decided = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICT_COLOURS if verdict in counts)
    axes.set(
        xlabel=f"difference in lwlrap to {base} (lines: each at its own level, Holm; {int(table['n'].iloc[0])} clips)",
        title=f"Against {base}: {decided}",
    )
    return figure


def convergence(curves: pd.DataFrame) -> Figure:
    """Held-out lwlrap over the course of the training, a line a variant (mean over folds and seeds).

    Parameters
    ----------
    curves : variant, model, epoch, lwlrap (NaN where it was not measured)
    """
    figure, axes = plt.subplots(figsize=(10, 4.6), layout="constrained")
    curves = curves.dropna(subset="lwlrap")
    ends = curves.groupby(["variant", "model"])["lwlrap"].last().groupby("variant").mean()
    for i, name in enumerate(ends.sort_values(ascending=False).index):
        mine = curves[curves["variant"] == name].groupby("epoch")["lwlrap"].mean()
        share = 100 * (mine.index + 1) / (mine.index.max() + 1)
        style = {"color": "black", "lw": 2.5} if name == "base" else {"color": f"C{i % 10}", "lw": 1.2}
        axes.plot(share, mine, ls=["-", "--", ":"][i // 10 % 3], label=name.replace("_", " "), **style)
    axes.set(
        xlabel="share of the training (%; equal compute for all)",
        ylabel="lwlrap of held-out windows",
        title="How fast each variant learns; the legend is in the order of where they end",
    )
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="x-small")
    return figure


def class_differences(table: pd.DataFrame) -> Figure:
    """Whom does a variant help: each class's difference in lwlrap against its seconds of audio, a row a variant.

    Parameters
    ----------
    table : variant, class, seconds, diff, diff_low, diff_high (from `sweep.Trials.by_class`)
    """
    names = table["variant"].unique()
    size = (9, 2.9 * len(names))
    figure, rows = plt.subplots(len(names), 1, figsize=size, layout="constrained", squeeze=False, sharex=True)
    for axes, name in zip(rows[:, 0], names, strict=True):
        mine = table[table["variant"] == name].dropna(subset="diff")
        axes.axhline(0, color="0.3", lw=1)
        axes.vlines(mine["seconds"], mine["diff_low"], mine["diff_high"], color="C0", lw=1.5, alpha=0.6)
        axes.plot(mine["seconds"], mine["diff"], "o", color="C0")
        for _, row in mine.iterrows() if len(mine) <= 20 else []:
            place = row["seconds"], row["diff_high"]
            axes.annotate(row["class"][:12], place, fontsize="x-small", rotation=50, ha="left", va="bottom")
        axes.set(
            xscale="log", ylabel="difference in lwlrap", title=f"{name.replace('_', ' ')} against the base, by class"
        )
        axes.margins(y=0.3)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
    rows[-1, 0].set_xlabel("seconds of training audio in the class (log; bars: 95 % intervals, each class on its own)")
    return figure


def lr_search(found: pd.DataFrame, suggested: float) -> Figure:
    """Loss while the learning rate grows from batch to batch.

    Parameters
    ----------
    found : lr, loss (from `learners.find_lr`)
    suggested : learning rate to mark
    """
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    axes.plot(found["lr"], found["loss"])
    axes.axvline(suggested, color="C1", ls="--")
    axes.set(
        xscale="log",
        xlabel="learning rate",
        ylabel="training loss (nats)",
        ylim=(0, 1.5 * found["loss"].iloc[0]),
        title=f"Where the loss falls best: a learning rate of about {suggested:.1g} (dashed)",
    )
    return figure


def pictures(shown: dict[str, np.ndarray], duration_s: float) -> Figure:
    """Several pictures of one clip side by side, each with its own scale.

    Parameters
    ----------
    shown : name -> (n_mels, n_frames)
    duration_s : of the clip
    """
    n_rows = -(-len(shown) // 2)
    figure, rows = plt.subplots(n_rows, 2, figsize=(11, 2.1 * n_rows), layout="constrained", squeeze=False)
    for axes in rows.ravel()[len(shown) :]:
        axes.set_visible(False)
    for axes, (name, picture) in zip(rows.ravel(), shown.items(), strict=False):
        _draw(axes, picture, duration_s)
        axes.set(title=name, xlabel="time (s)")
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
    _draw(axes, frames, clip.n_frames / cache.logmel.frames_per_s, label="dB")


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


def _draw(axes: Axes, picture: np.ndarray, duration_s: float, label: str = "") -> None:
    """A picture (n_mels, n_frames) over time, with its scale beside it."""
    mesh = axes.imshow(picture, origin="lower", aspect="auto", cmap="magma", extent=(0, duration_s, 0, len(picture)))
    axes.set_ylabel("mel band")
    axes.grid(visible=False)
    axes.figure.colorbar(mesh, ax=axes, label=label, pad=0.01)
