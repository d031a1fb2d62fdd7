"""Figures of what is in a data set, and a browser of its clips.

Conventions
-----------
A figure takes the tables of `contents`. Its axes have units, and its title states what it shows. If there is nothing to
draw (no audio, one subset), the title gives the reason. Classes are sorted by their curated seconds; the labels of a
clip share its seconds evenly. Colours: blue curated, orange noisy, green test.

Used in: 01_eda.
"""

import html

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.core.pylabtools import print_figure
from matplotlib.figure import Figure

from lib.data import audio
from lib.figures import logmels
from lib.figures.drawing import by_name, dots, name_rows, panels, wrapped
from lib.sound import contents
from lib.sound.cache import Cache
from lib.sound.features import mel_filters

__all__ = [
    "browser", "caption", "clips_of", "co_occurrence", "fresh", "gaps", "lengths", "page", "priors", "seconds",
    "silence", "sound", "spectra", "trimming",
]  # fmt: skip

COLOURS = dict(zip(("curated", "noisy", "test"), sns.color_palette("colorblind"), strict=False))
NO_AUDIO = "There is no audio"
TICKS_S = (0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 60)  # ticks on the axis of clip lengths
PARTS = {"active_s": "sound", "inner_s": "silence within", "lead_s": "silent head", "trail_s": "silent tail"}
PER_PAGE = 5  # clips on a page of the browser
UNKNOWN = "(unknown)"  # in place of labels, for test clips that have none


def seconds(table: pd.DataFrame) -> Figure:
    """Clips and seconds per class, subsets side by side. `table` comes from `contents.by_class`."""
    order, has_audio = _order(table), table["seconds_even"].notna().any()
    subsets = table["subset"].unique()
    figure, (left, *rest) = by_name(order, 1 + len(subsets) * int(has_audio))
    left.set(xlabel="clips with the label", title="Clips")
    for i, subset in enumerate(subsets):
        part, places = table[table["subset"] == subset].set_index("class").loc[order], range(len(order))
        left.plot(part["clips"], places, "o", color=COLOURS[subset], label=subset)
        if has_audio:
            rest[i].barh(places, part["seconds_even"], color=COLOURS[subset], alpha=0.6, label="even share")
            for way, mark, name in (("every", "o", "every label"), ("single", "|", "single-label clips")):
                rest[i].plot(part[f"seconds_{way}"], places, mark, color="black", ms=5, label=name)
            rest[i].set(xlabel="audio (s)", title=f"Seconds, {subset}")
    for axes in figure.axes:
        axes.set_xlim(0, None)
    handles = [handle for axes in figure.axes[:2] for handle in axes.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=5)
    curated = table[(table["subset"] == "curated") & (table["clips"] > 0)]
    title = f"Curated clips per class differ by a factor of {curated['clips'].max() / curated['clips'].min():.1f}"
    if has_audio:
        even = curated["seconds_even"]
        title += f", their seconds by {even.max() / even.min():.1f} (even share among the labels of a clip)"
        title += f": {order[0]} has most, {order[-1]} least" if even.max() > 1.1 * even.min() else ": balanced"
    figure.suptitle(wrapped(title if has_audio else f"{title}. {NO_AUDIO}: seconds can't be shown"))
    return figure


def lengths(clips: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Lengths of the clips of each class, by subset: boxes span the quartiles, whiskers end at the extremes."""
    if clips["duration_s"].isna().all():
        return _blank(f"{NO_AUDIO}: lengths can't be shown")
    rows = clips.assign(labels=[labels or (UNKNOWN,) for labels in clips["labels"]]).explode("labels")
    order = _order(table) + [UNKNOWN] * bool((rows["labels"] == UNKNOWN).any())
    subsets = [name for name in COLOURS if name in set(rows["subset"])]
    figure, (axes,) = panels(1, 1.4 + (0.1 + 0.15 * len(subsets)) * len(order))
    sns.boxplot(
        rows, x="duration_s", y="labels", hue="subset", order=order, hue_order=subsets, palette=COLOURS, ax=axes,
        log_scale=True, whis=(0, 100), linewidth=0.8, gap=0.15,
    )  # fmt: skip
    low, high = clips["duration_s"].min(), clips["duration_s"].max()
    ticks = [x for x in TICKS_S if low * 0.8 <= x <= high * 1.2]
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.xaxis.set_minor_formatter("")
    median = rows[rows["subset"] == "curated"].groupby("labels")["duration_s"].median()
    title = (
        f"The median clip of {median.idxmax()} lasts {median.max():.1f} s, of {median.idxmin()} {median.min():.1f} s"
        if median.max() > 1.1 * median.min()
        else f"The median clip of every class lasts about {median.mean():.1f} s"
    )
    axes.set(xlabel="length of a clip (s, logarithmic)", ylabel="", title=wrapped(title, 80))
    axes.legend()
    return figure


def fresh(table: pd.DataFrame) -> Figure:
    """Share of new audio among the windows shown in ten epochs, by class. `table` comes from `contents.by_class`."""
    part = table[(table["subset"] == "curated") & table["fresh"].notna()].set_index("class")
    if part.empty:
        return _blank(f"{NO_AUDIO}: windows can't be counted")
    part = part.sort_values("fresh", ascending=False)
    figure, (axes,) = by_name(list(part.index))
    bars = axes.barh(range(len(part)), 100 * part["fresh"], color=COLOURS["curated"], alpha=0.7)
    places = [f"{row.places:.0f} separate windows in {row.clips:.0f} clips" for row in part.itertuples()]
    axes.bar_label(bars, places, padding=4, fontsize="small")
    axes.set(xlim=(0, 125), xticks=range(0, 101, 20))
    axes.set_xlabel("windows that hold new audio, of those shown in ten epochs (%)")
    axes.set_title(f"Of {part.index[-1]}, {1 - part['fresh'].iloc[-1]:.0%} of the windows repeat earlier audio")
    return figure


def silence(table: pd.DataFrame, order_by: pd.DataFrame, silence_db: float) -> Figure:
    """The seconds of each class, divided into sound, inner silence and silent ends.

    Parameters
    ----------
    table : from `contents.silence`
    order_by : from `contents.by_class`
    silence_db : dB below the peak; stated in the label of the axis
    """
    if table.empty:
        return _blank(f"{NO_AUDIO}: silence can't be shown")
    parts = list(PARTS)
    curated = table[table["subset"] == "curated"].explode("labels").groupby("labels")[parts].sum()
    curated = curated.reindex(_order(order_by)).dropna()
    rows = pd.concat([curated, table.groupby("subset")[parts].sum().rename("all {}".format)])
    share = 100 * rows.div(rows.sum(axis=1), axis=0)
    figure, (axes,) = by_name(list(rows.index))
    share.rename(columns=PARTS).plot.barh(stacked=True, width=0.8, ylabel="", legend=False, ax=axes)
    name_rows(axes, list(rows.index))
    axes.axhline(len(curated) - 0.5, color="black", lw=0.8)
    figure.legend(loc="outside lower center", ncols=4)
    quiet = share.loc[curated.index, "active_s"].idxmin()
    title = f"{quiet} (curated) is silent for {100 - share.at[quiet, 'active_s']:.0f} % of its seconds, the most"
    label = f"share of the seconds (%); silent: {silence_db:g} dB or more below the clip's peak"
    axes.set(xlim=(0, 100), xlabel=label, title=title)
    return figure


def trimming(table: pd.DataFrame) -> Figure:
    """Seconds that trimming removes, by threshold. `table` comes from `contents.trimming`."""
    if table.empty:
        return _blank(f"{NO_AUDIO}: trimming can't be shown")
    figure, (left, right) = panels(2, 3.6)
    ways = {"ends": "both ends", "all": "all silence"}
    lost = table.rename(columns=ways).melt(["subset", "threshold_db"], list(ways.values()), "trimmed", "lost")
    looks = {"x": "threshold_db", "hue": "subset", "palette": COLOURS, "marker": "o", "clip_on": False}
    sns.lineplot(lost.assign(lost=100 * lost["lost"]), y="lost", style="trimmed", ax=left, **looks)
    sns.lineplot(table, y="emptied", ax=right, legend=False, **looks)
    low, high = 100 * table["all"].min(), 100 * table["all"].max()
    left.set_title(f"The threshold decides:\n{low:.0f} to {high:.0f} % of a subset is lost")
    left.set_ylabel("seconds removed (%)")
    right.set_title(f"Up to {table['emptied'].max()} clips of a subset\nwould be emptied")
    right.set_ylabel(f"clips left with under {contents.LEFT_S:g} s")
    right.yaxis.get_major_locator().set_params(integer=True)
    for axes in (left, right):
        axes.set(xlabel="threshold (dB below the clip's peak)", ylim=(0, None))
    return figure


def priors(shares: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Share of each class in the labels of each subset. `shares` comes from `contents.priors`."""
    order, subsets = _order(table), [name for name in COLOURS if name in shares]
    figure, (axes,) = by_name(order)
    for subset in subsets:
        axes.plot(100 * shares.loc[order, subset], range(len(order)), "o", color=COLOURS[subset], label=subset)
    spread = shares.max() / shares.replace(0, np.nan).min()
    ratios = ", ".join(f"{spread[name]:.1f} ({name})" for name in subsets)
    axes.set(xlabel="share of the labels of its subset (%)", xlim=(0, None))
    axes.set_title(wrapped(f"Labels of the most frequent class, as a multiple of the rarest: {ratios}", 80))
    axes.legend()
    return figure


def co_occurrence(shares: pd.DataFrame) -> Figure:
    """Which labels occur together. `shares` comes from `contents.co_occurrence`."""
    if shares.empty:
        return _blank("No clip has two labels: no labels occur together")
    row, column = np.unravel_index(np.nanargmax(shares.to_numpy()), shares.shape)
    figure, (axes,) = panels(1, 3.4 + 0.2 * len(shares))
    bar = {"label": "clips of the row's class (%)"}
    sns.heatmap(100 * shares, cmap="Blues", vmin=0, ax=axes, xticklabels=True, yticklabels=True, cbar_kws=bar)
    axes.grid(visible=False)
    axes.tick_params(labelsize="small", length=0)
    axes.set(xlabel="... have this label too", ylabel="of the clips with this label ...")
    most = f"{shares.iat[row, column]:.0%} of the clips with {shares.index[row]} have {shares.columns[column]} too"
    axes.set_title(wrapped(most, 70))
    return figure


def spectra(store: Cache | None, clips: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Average log-mel spectrum of each class (curated), and the median of each subset with its quartiles."""
    if store is None:
        return _blank(f"{NO_AUDIO}: spectra can't be shown")
    values = contents.spectra(store, clips["fname"])
    values -= values.max(axis=1, keepdims=True)  # compare the shape, not the level
    hz = mel_filters(store.logmel).argmax(axis=1) * store.logmel.sample_rate / store.logmel.n_fft
    subset = clips["subset"].to_numpy()
    each = pd.DataFrame(values).assign(label=clips["labels"].to_numpy())[subset == "curated"].explode("label")
    means = each.groupby("label").mean()
    means = means.loc[[name for name in _order(table) if name in means.index]]
    figure, (left, right) = panels(2, max(4, 1.6 + 0.25 * len(means)), width_ratios=(3, 2))
    extent = (0, len(hz), len(means) - 0.5, -0.5)
    mesh = left.imshow(means, aspect="auto", cmap="magma", extent=extent, interpolation="nearest")
    name_rows(left, list(means.index))
    left.grid(visible=False)
    figure.colorbar(mesh, ax=left, label="dB, the strongest band at 0", location="bottom")
    ticks, middle = np.linspace(0, len(hz) - 1, 6).astype(int), len(hz) // 2
    left.set_xticks(ticks + 0.5, [f"{hz[i] / 1000:.1f}" for i in ticks])
    left.axvline(middle, color="white", ls="--", lw=1)
    above = means.iloc[:, middle:].mean(axis=1)
    title = f"Curated, above {hz[middle] / 1000:.1f} kHz (dashed): {above.idxmax()} has most, {above.idxmin()} least"
    left.set(xlabel="frequency (kHz, mel scale)", title=wrapped(title, 46))
    medians = pd.DataFrame()
    for name in (name for name in COLOURS if name in subset):
        low, medians[name], high = np.quantile(values[subset == name], (0.25, 0.5, 0.75), axis=0)
        right.plot(hz / 1000, medians[name], color=COLOURS[name], label=name)
        right.fill_between(hz / 1000, low, high, color=COLOURS[name], alpha=0.15, lw=0)
    right.set(xscale="log", xlabel="frequency (kHz, logarithmic)", ylabel="dB, the strongest band at 0")
    right.xaxis.set_major_formatter("{x:g}")
    right.set_title(wrapped(_furthest(medians, hz), 34))
    right.legend()
    return figure


def sound(clips: pd.DataFrame, measured: pd.DataFrame) -> Figure:
    """Level and bandwidth by subset. Microphones, codecs and earlier lower sample rates leave their traces here."""
    if measured.empty:
        return _blank(f"{NO_AUDIO}: level and bandwidth can't be shown")
    rows = clips[["fname", "subset", "sample_rate"]].merge(measured, on="fname")
    rows = rows.assign(rolloff=rows["rolloff_hz"] / 1000, limit=rows["band_limit_hz"] / 1000)
    shown = {
        "loudness_db": ("A-weighted level (dBFS)", "Level", "dB"),
        "peak_db": ("peak (dBFS)", "Peak", "dB"),
        "rolloff": ("95 % of power below (kHz)", "Rolloff", "kHz"),
        "limit": ("power under -60 dB above (kHz)", "Band limit", "kHz"),
    }
    order = [name for name in COLOURS if name in set(rows["subset"])]
    median = rows.groupby("subset")[list(shown)].median().loc[order]
    figure, grid = panels(4, 2.8, across=2)
    for axes, (column, (label, name, unit)) in zip(grid, shown.items(), strict=True):
        sns.boxplot(rows, x=column, y="subset", hue="subset", order=order, palette=COLOURS, ax=axes, fliersize=2)
        medians = " / ".join(f"{value:.1f}" for value in median[column])
        axes.set(ylabel="", xlabel=label, title=f"{name}: medians {medians} {unit}")
    at_full_scale = rows["clipped"].gt(0).groupby(rows["subset"]).mean()
    rates = ", ".join(f"{rate} Hz" for rate in sorted(rows["sample_rate"].unique()))
    shares = ", ".join(f"{at_full_scale[name]:.0%} ({name})" for name in order)
    figure.suptitle(wrapped(f"Clips that touch full scale: {shares}. Files at {rates}"))
    return figure


def gaps(gaps: pd.DataFrame, tells: pd.DataFrame) -> Figure:
    """How well a small model tells subsets apart, and by which features. The tables come from `contents.domain_gap`."""
    pairs = gaps[gaps["pair"] != "chance"]
    if pairs.empty:
        return _blank("Fewer than two subsets with audio: there is nothing to tell apart")
    figure, (left, right) = panels(2, 3.8)
    dots(left, gaps, "auc", range(len(gaps)), color="black")
    left.axvline(0.5, color="grey", ls=":")
    name_rows(left, [row.pair if row.pair == "chance" else f"{row.pair}: {row.by}" for row in gaps.itertuples()])
    top = pairs.loc[pairs["auc"].idxmax()]
    apart = f"Furthest apart:\n{top['pair']}, AUC {top['auc']:.2f}"
    alike = f"No two subsets are told apart:\nAUC at most {top['auc']:.2f}"
    left.set(xlim=(min(0.3, gaps["auc_low"].min() - 0.02), 1.04), title=apart if top["auc_low"] > 0.5 else alike)
    left.set_xlabel("AUC out of fold\n(.5: alike, 1: always told apart)")
    by_sound = tells[(tells["pair"] == top["pair"]) & (tells["by"] == "sound")]
    right.barh(range(len(by_sound)), by_sound["drop"], color="grey")
    name_rows(right, [f"{row.feature} ({row.alone:.2f} alone)" for row in by_sound.itertuples()])
    right.set_xlabel("fall of the AUC\nwhen the feature is shuffled")
    right.set_title(f"{top['pair']} without length:\n{by_sound['feature'].iloc[0]} matters most")
    return figure


def clips_of(clips: pd.DataFrame, label: str) -> pd.DataFrame:
    """The clips with a label (UNKNOWN: the clips without labels), longest first."""
    chosen = clips[np.array([label in (labels or (UNKNOWN,)) for labels in clips["labels"]], bool)]
    return chosen.sort_values(["duration_s", "fname"], ascending=[False, True], ignore_index=True)


def page(store: Cache | None, clips: pd.DataFrame, title: str) -> Figure:
    """Waveform and log-mel of a few clips, one clip below the other."""
    if store is None or clips.empty:
        return _blank(f"{NO_AUDIO}: clips can't be shown" if store is None else f"{title}: there are none")
    figure, grid = panels(2 * len(clips), 1.3 + 0.5 / len(clips), across=2)
    rows = zip(grid[::2], grid[1::2], clips.itertuples(), store.rows(clips["fname"]).itertuples(), strict=True)
    for left, right, clip, at in rows:
        samples = audio.read(clip.path, store.logmel.sample_rate)
        edges = np.arange(0, len(samples), max(1, len(samples) // 2000))
        ends = np.minimum.reduceat(samples, edges), np.maximum.reduceat(samples, edges)
        left.fill_between(edges / store.logmel.sample_rate, *ends, lw=0.3)
        peak = 1.05 * float(np.abs(samples).max())
        left.set(xlim=(0, clip.duration_s), ylim=(-peak, peak), ylabel="amplitude")
        left.set_title(caption(clip), fontsize="small", loc="left")
        logmels.draw(right, store, at)
    for axes in grid[-2:]:
        axes.set_xlabel("time (s)")
    figure.suptitle(title)
    return figure


def caption(clip: object) -> str:
    """Name, subset, length and labels of a clip (a row of the table of clips)."""
    return f"{clip.fname} ({clip.subset}, {clip.duration_s:.1f} s): {', '.join(clip.labels) or 'labels unknown'}"


def browser(store: Cache | None, clips: pd.DataFrame, label: str) -> ipywidgets.VBox:
    """A widget to pick a class, and to see and hear its clips, longest first. It works only while a kernel runs.

    Parameters
    ----------
    label : the class to show first; if no clip has it, the first class of the list
    """
    names = {name for labels in clips["labels"] for name in labels or (UNKNOWN,)}
    names = sorted(names, key=lambda name: (name == UNKNOWN, name))
    pick = ipywidgets.Dropdown(options=names, value=label if label in names else names[0], description="class")
    first = ipywidgets.IntSlider(0, 0, 0, PER_PAGE, description="from clip", continuous_update=False)
    shown = ipywidgets.HTML()

    def show(change: dict | None = None) -> None:
        chosen = clips_of(clips, pick.value)
        first.max = max(0, len(chosen) - 1)
        if change and change["owner"] is pick and first.value:
            first.value = 0  # its observer shows the page
        else:
            shown.value = _page_of(store, chosen, first.value, pick.value)

    for control in (pick, first):
        control.observe(show, "value")
    show()
    return ipywidgets.VBox([ipywidgets.HBox([pick, first]), shown])


def _page_of(store: Cache | None, chosen: pd.DataFrame, first: int, label: str) -> str:
    """A page of the browser as HTML: up to PER_PAGE clips from number `first` on, and their players."""
    here = chosen.iloc[first : first + PER_PAGE]
    title = f"{label}: clips {first + 1} to {first + len(here)} of {len(chosen)}, longest first"
    figure = page(store, here, title)
    image = print_figure(figure, bbox_inches=None, base64=True, dpi=110)
    plt.close(figure)
    players = logmels.listen(here["path"].tolist(), [caption(clip) for clip in here.itertuples()]).data
    return f'<img style="max-width:100%" alt="{html.escape(title)}" src="data:image/png;base64,{image}">{players}'


def _furthest(medians: pd.DataFrame, hz: np.ndarray) -> str:
    """A title: the subset and band where the median spectrum (a column a subset) differs most from the curated one."""
    if "curated" not in medians or len(medians.columns) == 1:
        return "Median clip and quartiles: one subset"
    differ = medians.sub(medians["curated"], axis=0).unstack()
    name, band = differ.abs().idxmax()
    return f"Medians and quartiles: {name} is {differ[name, band]:+.0f} dB from curated at {hz[band] / 1000:.1f} kHz"


def _order(table: pd.DataFrame) -> list[str]:
    """Classes by their curated seconds (without audio: by their clips), most first."""
    part = table[table["subset"] == "curated"]
    return part.sort_values(["seconds_even", "clips", "class"], ascending=[False, False, True])["class"].tolist()


def _blank(reason: str) -> Figure:
    """An empty figure with the reason as its title."""
    figure, (axes,) = panels(1, 1.2)
    axes.set_axis_off()
    axes.set_title(reason, y=0.3)
    return figure
