"""Browse the clips of a data set: pick a class, see and hear its clips, longest first.

Conventions
-----------
In JupyterLab the browser is a widget. Where no kernel serves it (papermill, a copy on the web), its first page stands
there as plain HTML with the pictures and the players.

Used in: 01_eda.
"""

import base64
import html
import io

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.data import audio
from lib.figures.explore import NO_AUDIO, blank
from lib.figures.plots import draw_logmel, listen
from lib.sound.cache import Cache

__all__ = ["Browser", "caption", "clips_of", "page"]

PER_PAGE = 5  # clips shown at once
UNKNOWN = "(unknown)"  # stands for the labels of a test clip


def clips_of(clips: pd.DataFrame, label: str) -> pd.DataFrame:
    """The clips with a label (UNKNOWN: those without any), longest first."""
    chosen = [label in (labels or (UNKNOWN,)) for labels in clips["labels"]]
    chosen = clips[np.array(chosen, bool)]
    return chosen.sort_values(["duration_s", "fname"], ascending=[False, True], ignore_index=True)


def page(store: Cache | None, clips: pd.DataFrame, title: str) -> Figure:
    """Wave and log-mel of a few clips, one below the other."""
    if store is None or clips.empty:
        return blank(f"{NO_AUDIO}: clips can't be shown" if store is None else f"{title}: there are none")
    size = (12, 0.5 + 1.3 * len(clips))
    figure, rows = plt.subplots(len(clips), 2, figsize=size, layout="constrained", squeeze=False)
    table = zip(rows, clips.itertuples(), store.rows(clips["fname"]).itertuples(), strict=True)
    for (left, right), clip, at in table:
        samples = audio.read(clip.path, store.logmel.sample_rate)
        width = max(1, len(samples) // 2000)
        edges = np.arange(0, len(samples), width)
        time_s = edges / store.logmel.sample_rate
        left.fill_between(time_s, np.minimum.reduceat(samples, edges), np.maximum.reduceat(samples, edges), lw=0.3)
        peak = float(np.abs(samples).max())
        left.set(xlim=(0, clip.duration_s), ylim=(-1.05 * peak, 1.05 * peak), ylabel="amplitude")
        left.set_title(caption(clip), fontsize="x-small", loc="left")
        draw_logmel(right, store, at)
    for axes in rows[-1]:
        axes.set_xlabel("time (s)")
    figure.suptitle(title)
    return figure


def caption(clip: object) -> str:
    """Name, subset, length and labels of a row of the table of clips."""
    return f"{clip.fname} ({clip.subset}, {clip.duration_s:.1f} s): {', '.join(clip.labels) or 'labels unknown'}"


class Browser(ipywidgets.VBox):
    """Pick a class, see and hear its clips, longest first. Where no kernel serves it, the first page is shown.

    Parameters
    ----------
    label : shown first; the first one that there is, if no clip has it
    """

    def __init__(self, store: Cache | None, clips: pd.DataFrame, label: str) -> None:
        self.store, self.clips = store, clips
        names = {name for labels in clips["labels"] for name in labels or (UNKNOWN,)}
        names = sorted(names, key=lambda name: (name == UNKNOWN, name))
        first = label if label in names else names[0]
        self.label = ipywidgets.Dropdown(options=names, value=first, description="class")
        self.first = ipywidgets.IntSlider(0, 0, 0, PER_PAGE, description="from clip", continuous_update=False)
        self.shown = ipywidgets.HTML()
        self.label.observe(self._turn_to_start, "value")
        self.first.observe(self._show, "value")
        super().__init__([ipywidgets.HBox([self.label, self.first]), self.shown])
        self._turn_to_start()

    def _turn_to_start(self, _: object = None) -> None:
        self.chosen = clips_of(self.clips, self.label.value)
        self.first.max = max(0, len(self.chosen) - 1)
        if self.first.value:
            self.first.value = 0  # shows it
        else:
            self._show()

    def _show(self, _: object = None) -> None:
        first = self.first.value
        here, image = self.chosen.iloc[first : first + PER_PAGE], io.BytesIO()
        which = f"clips {first + 1} to {first + len(here)} of {len(self.chosen)}, longest first"
        figure = page(self.store, here, f"{self.label.value}: {which}")
        figure.savefig(image, format="png", dpi=80)
        plt.close(figure)
        players = listen(here["path"].tolist(), [caption(clip) for clip in here.itertuples()]).data
        alt = html.escape(f"Wave and log-mel of {len(here)} clips of {self.label.value}")
        data = base64.b64encode(image.getvalue()).decode()
        picture = f'<img style="max-width:100%" alt="{alt}" src="data:image/png;base64,{data}">'
        self.shown.value = f"{picture}{players}"

    def _repr_mimebundle_(self, **options: object) -> dict[str, object]:
        return {**super()._repr_mimebundle_(**options), "text/html": self.shown.value}
