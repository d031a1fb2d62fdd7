"""Log-mels to look at and clips to hear.

Conventions
-----------
A log-mel is drawn with seconds to the right, mel bands upwards, and its colour scale beside it. `listen` plays the
audio of the clips, read by `lib.data.audio`; `show` plays sound that is made from log-mels.

Used in: 00, 01 (through `data`), 02, 03, 04, 05, 06, 08.
"""

import base64
import html
import io

import numpy as np
import pandas as pd
import soundfile
import torch
from IPython.display import HTML, display
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.data import audio
from lib.figures.drawing import panels, wrapped
from lib.sound import windows
from lib.sound.cache import Cache
from lib.sound.features import LogMel, to_audio

__all__ = ["draw", "gallery", "listen", "show", "side_by_side", "with_scores"]

PLAYER_RATE = 22_050  # Hz: keeps the notebook that stores the sound small
MP3_RATES = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)  # Hz, the rates that MP3 has
PLAYER_S = 12.0  # s: a player holds the first seconds of a longer clip


def draw(axes: Axes, cache: Cache, clip: object) -> None:
    """Draw the log-mel of a clip (a row of `Cache.index`) into axes, with its dB scale beside them."""
    frames = cache.frames(clip)[:, 0].float().numpy().T
    _draw(axes, frames, clip.n_frames / cache.logmel.frames_per_s, "dB")


def gallery(cache: Cache, fnames: list[str], captions: list[str]) -> Figure:
    """Log-mels of a few clips of the cache, one below the other, each with its caption."""
    figure, rows = panels(len(fnames), 1.8, across=1)
    for axes, clip, caption in zip(rows, cache.rows(fnames).itertuples(), captions, strict=True):
        draw(axes, cache, clip)
        axes.set_title(wrapped(caption), loc="left", fontsize="small")
    rows[-1].set_xlabel("time (s)")
    return figure


def side_by_side(shown: dict[str, np.ndarray], duration_s: float, unit: str = "") -> Figure:
    """One clip processed in several ways, two side by side.

    Parameters
    ----------
    shown : name -> (n_mels, n_frames)
    duration_s : s, of the clip
    unit : if all have the same unit, they share one colour scale, and the titles state their means. Empty: each has its
        own scale
    """
    titles = [f"{name}: mean {values.mean():.1f} {unit}" if unit else name for name, values in shown.items()]
    return _panels(list(shown.values()), titles, duration_s, unit, across=2)


def show(x: torch.Tensor, captions: list[str], logmel: LogMel, across: int = 3) -> None:
    """Display the first channel of each window of a batch, and below them a player for each.

    The sound is made from the log-mel alone (`features.to_audio`): what you can't hear, the network can't see. Only a
    channel in dB gets a player.

    Parameters
    ----------
    x : (n, n_channels, n_mels, n_frames), units as in `features`
    captions : (n,)
    logmel : the settings of x
    across : most windows side by side
    """
    values, in_db = x[:, 0].float().cpu(), logmel.in_db[0]
    numbered = [f"{i}: {caption.replace('_', ' ')}" for i, caption in enumerate(captions, 1)]
    titles = [wrapped(caption, 80 // across) for caption in numbered]  # a colour scale takes part of the width
    figure = _panels(list(values.numpy()), titles, x.shape[3] / logmel.frames_per_s, "dB" if in_db else "", across)
    display(figure)
    pyplot.close(figure)  # otherwise Jupyter draws it a second time
    if in_db:
        sounds = [_player(to_audio(logmel, window), logmel.sample_rate) for window in values]
        cells = [_captioned(*each) for each in zip(numbered, sounds, strict=True)]
        grid = f"display:grid;grid-template-columns:repeat({across},1fr);gap:0 1em;max-width:58em"
        display(HTML(f'<div style="{grid}">{"".join(cells)}</div>'))


def with_scores(cache: Cache, kept: pd.DataFrame, chosen: pd.DataFrame, window_s: float) -> Figure:
    """Log-mels of clips, each with the scores of its labels over time below it. The kept parts are green.

    Parameters
    ----------
    kept : the windows of these clips, from `curation.select`
    chosen : fname, window_start_s, window_end_s: the clips in order, each with the window to mark
    window_s : s, length of a window
    """
    figure, grid = panels(2 * len(chosen), 1.4, across=1, height_ratios=[1.3, 1] * len(chosen))
    clips = cache.rows(chosen["fname"])
    durations_s = clips.drop_duplicates("fname").set_index("fname")["n_frames"] / cache.logmel.frames_per_s
    spans = windows.spans(kept[kept["fname"].isin(clips["fname"])], durations_s, window_s)
    for above, below, clip, at in zip(grid[::2], grid[1::2], clips.itertuples(), chosen.itertuples(), strict=True):
        end_s, part = durations_s[clip.fname], kept[kept["fname"] == clip.fname].sort_values("window_start_s")
        draw(above, cache, clip)
        kept_here = f"{part['kept'].sum()} of {len(part)} windows kept"
        above.set_title(f"{clip.fname} ({part['subset'].iloc[0]}, {part['labels'].iloc[0]}): {kept_here}", loc="left")
        above.set_xticklabels([])
        middle = part[["window_start_s", "window_end_s"]].mean(axis=1)
        scores = np.array([[float(score) for score in text.split(",")] for text in part["scores"]])
        names = part["labels"].iloc[0].split(",")
        below.plot(middle, scores, marker=".", label=names)
        below.plot(middle[~part["kept"]], scores[~part["kept"].to_numpy()], "x", color="C3")
        for span in spans[spans["fname"] == clip.fname].itertuples():
            below.axvspan(span.start_s, span.end_s, color="C2", alpha=0.2, lw=0)
            above.axvspan(span.start_s, span.end_s, ymax=0.04, color="C2", lw=0)
        frame = {"fill": False, "ec": "black", "ls": "--", "lw": 1}
        below.axvspan(max(at.window_start_s, 0), min(at.window_end_s, end_s), **frame)
        below.set(xlim=(0, end_s), ylim=(-0.03, 1.03), ylabel="score")
        if len(names) > 1:
            below.legend(loc="upper right")
    grid[-1].set_xlabel(
        "time (s); each score at the middle of its window; green: kept; x: window dropped; dashed: marked"
    )
    return figure


def listen(paths: list[str], captions: list[str]) -> HTML:
    """Players, each below its caption. The sound is stored in the notebook, so they work in any copy of it.

    Parameters
    ----------
    paths : files, or members of archives, as in the table of clips. If a clip can't be read, the reason takes the place
        of its player
    """
    players = []
    for path, caption in zip(paths, captions, strict=True):
        try:
            samples = audio.read(path, PLAYER_RATE)[: int(PLAYER_S * PLAYER_RATE)]
            player = _player(samples, PLAYER_RATE)
        except audio.AudioError as error:
            player = f"<em>can't be played: {html.escape(str(error))}</em>"
        players.append(_captioned(caption, player))
    return HTML("\n".join(players))


def _player(samples: np.ndarray, rate: int) -> str:
    """An HTML player that holds the sound: as MP3 if that has the rate, else as WAV. A peak above 1 is scaled to 1."""
    sound, (kind, media) = io.BytesIO(), ("MP3", "mpeg") if rate in MP3_RATES else ("WAV", "wav")
    soundfile.write(sound, samples / max(1.0, float(np.abs(samples).max())), rate, format=kind)
    data = base64.b64encode(sound.getvalue()).decode()
    source = f"data:audio/{media};base64,{data}"
    return f'<audio controls preload="none" src="{source}" style="max-width:100%"></audio>'


def _captioned(caption: str, player: str) -> str:
    return f"<div style='margin:0.4em 0'>{html.escape(caption)}<br>{player}</div>"


def _panels(logmels: list[np.ndarray], titles: list[str], end_s: float, unit: str, across: int) -> Figure:
    """Log-mels (n_mels, n_frames) of the same length; with a unit, they share one colour scale."""
    figure, grid = panels(len(logmels), 2.1, across=across)
    limits = np.quantile(np.stack(logmels), (0.02, 1)) if unit else (None, None)
    for axes, values, title in zip(grid, logmels, titles, strict=True):
        mesh = _draw(axes, values, end_s, None if unit else "", limits)
        axes.set_title(title, fontsize="small")
        axes.set_xlabel("time (s)")
    if unit:
        figure.colorbar(mesh, ax=grid, label=unit, pad=0.01, fraction=0.03, aspect=60)
    return figure


def _draw(axes: Axes, values: np.ndarray, end_s: float, unit: str | None, limits: tuple = (None, None)) -> object:
    """Draw values (n_mels, n_frames) over time, with a colour scale beside them unless `unit` is None."""
    looks = {"cmap": "magma", "vmin": limits[0], "vmax": limits[1]}
    mesh = axes.imshow(values, origin="lower", aspect="auto", extent=(0, end_s, 0, len(values)), **looks)
    axes.set_ylabel("mel band")
    axes.grid(visible=False)
    if unit is not None:
        axes.figure.colorbar(mesh, ax=axes, label=unit, pad=0.01)
    return mesh
