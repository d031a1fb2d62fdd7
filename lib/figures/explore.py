"""Figures of what is in a data set.

Conventions
-----------
A figure takes the tables of `balance`, `signals` and `shift`; axes carry units and the title says what is seen. Classes
are sorted by their curated seconds, shared evenly among the labels of a clip. Where there is nothing to draw (no audio,
one subset), the figure says so. Colours: blue curated, orange noisy, green test.

Used in: 01_eda.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.sound import signals
from lib.sound.cache import Cache
from lib.sound.features import mel_filters

__all__ = ["company", "fresh", "gaps", "lengths", "priors", "seconds", "silence", "sound", "spectra", "trimming"]

COLOURS = dict(zip(("curated", "noisy", "test"), sns.color_palette("colorblind"), strict=False))
NO_AUDIO = "There is no audio"
ROW = 0.25  # inches that a class takes


def seconds(table: pd.DataFrame) -> Figure:
    """Clips and seconds per class, subsets side by side. `table` comes from `balance.by_class`."""
    order, subsets = _order(table), list(dict.fromkeys(table["subset"]))
    heard = table["seconds_even"].notna().any()
    panels = ["clips", *(subsets if heard else [])]
    size = (3.5 + 3.2 * len(panels), 1.4 + ROW * len(order))
    figure, row = plt.subplots(1, len(panels), figsize=size, sharey=True, layout="constrained", squeeze=False)
    for axes, panel in zip(row[0], panels, strict=True):
        _names(axes, order)
        if panel == "clips":
            for subset, part in table.groupby("subset", sort=False):
                clips = part.set_index("class").loc[order, "clips"]
                axes.plot(clips, range(len(order)), "o", color=COLOURS[subset], label=subset)
            axes.set(xlabel="clips with the label", xlim=(0, None), title="Clips")
        else:
            part = table[table["subset"] == panel].set_index("class").loc[order]
            axes.barh(range(len(order)), part["seconds_even"], color=COLOURS[panel], alpha=0.6, label="even share")
            for way, mark, name in (("every", "o", "every label"), ("single", "|", "single-label clips")):
                axes.plot(part[f"seconds_{way}"], range(len(order)), mark, color="black", ms=5, label=name)
            axes.set(xlabel="audio (s)", xlim=(0, None), title=f"Seconds, {panel}")
    handles = [handle for axes in row[0][:2] for handle in axes.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize="x-small")
    curated = table[(table["subset"] == "curated") & (table["clips"] > 0)]
    title = f"Curated clips per class differ by a factor of {curated['clips'].max() / curated['clips'].min():.1f}"
    if heard:
        even = curated["seconds_even"]
        title += f", seconds by {even.max() / even.min():.1f}"
        title += f": {order[0]} has most, {order[-1]} least" if even.max() > 1.1 * even.min() else ": balanced"
    figure.suptitle(title if heard else f"{title}. {NO_AUDIO}: seconds can't be shown")
    return figure


def lengths(clips: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """How long the clips of each class are, by subset: box from quartile to quartile, whiskers to the extremes."""
    if clips["duration_s"].isna().all():
        return blank(f"{NO_AUDIO}: lengths can't be shown")
    rows = clips.assign(labels=[labels or ("(unknown)",) for labels in clips["labels"]]).explode("labels")
    unknown = ["(unknown)"] * bool((rows["labels"] == "(unknown)").any())
    order, subsets = _order(table) + unknown, [s for s in COLOURS if s in set(rows["subset"])]
    size = (8.5, 1.4 + (0.1 + 0.15 * len(subsets)) * len(order))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    sns.boxplot(
        rows, x="duration_s", y="labels", hue="subset", order=order, hue_order=subsets, palette=COLOURS, ax=axes,
        log_scale=True, whis=(0, 100), linewidth=0.8, gap=0.15,
    )  # fmt: skip
    low, high = clips["duration_s"].min(), clips["duration_s"].max()
    ticks = [x for x in (0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 60) if low * 0.8 <= x <= high * 1.2]
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.xaxis.set_minor_formatter("")
    median = rows[rows["subset"] == "curated"].groupby("labels")["duration_s"].median()
    axes.set(xlabel="length of a clip (s, logarithmic)", ylabel="")
    title = (
        f"The median clip of {median.idxmax()} lasts {median.max():.1f} s, of {median.idxmin()} {median.min():.1f} s"
    )
    same = f"The median clip of every class lasts about {median.mean():.1f} s"
    axes.set_title(title if median.max() > 1.1 * median.min() else same, fontsize="medium")
    axes.legend(fontsize="x-small")
    return figure


def fresh(table: pd.DataFrame) -> Figure:
    """Share of new audio among the windows that ten epochs show of each class."""
    part = table[(table["subset"] == "curated") & table["fresh"].notna()].set_index("class")
    if part.empty:
        return blank(f"{NO_AUDIO}: windows can't be counted")
    part = part.sort_values("fresh", ascending=False)
    figure, axes = plt.subplots(figsize=(8.5, 1.2 + ROW * len(part)), layout="constrained")
    axes.barh(range(len(part)), 100 * part["fresh"], color=COLOURS["curated"], alpha=0.7)
    for y, (share, places, n) in enumerate(zip(part["fresh"], part["places"], part["clips"], strict=True)):
        axes.text(100 * share + 1, y, f"{places:.0f} places in {n:.0f} clips", va="center", fontsize="x-small")
    _names(axes, list(part.index))
    axes.set(
        xlim=(0, 119),
        xticks=range(0, 101, 20),
        xlabel="windows that hold new audio, of those shown in ten epochs (%)",
        title=f"Of {part.index[-1]}, {1 - part['fresh'].iloc[-1]:.0%} of the windows repeat what was shown before",
    )
    return figure


def silence(table: pd.DataFrame, order_by: pd.DataFrame, silence_db: float) -> Figure:
    """Where the seconds of each class go: sound, inner silence, silent ends.

    Parameters
    ----------
    table : from `signals.silence`
    order_by : from `balance.by_class`
    silence_db : dB below the peak, for the label
    """
    if table.empty:
        return blank(f"{NO_AUDIO}: silence can't be shown")
    parts = ["active_s", "inner_s", "lead_s", "trail_s"]
    curated = table[table["subset"] == "curated"].explode("labels").groupby("labels")[parts].sum()
    whole = table.groupby("subset")[parts].sum().rename("all {}".format)
    rows = pd.concat([curated.reindex(_order(order_by)).dropna(), whole])
    share = 100 * rows.div(rows.sum(axis=1), axis=0)
    figure, axes = plt.subplots(figsize=(8.5, 1.4 + ROW * len(rows)), layout="constrained")
    names = ("sound", "silence within", "silent head", "silent tail")
    for part, name, colour in zip(parts, names, sns.color_palette("colorblind")[:4], strict=True):
        left = share[parts[: parts.index(part)]].sum(axis=1)
        axes.barh(range(len(rows)), share[part], left=left, color=colour, label=name)
    _names(axes, list(rows.index))
    axes.axhline(len(curated) - 0.5, color="black", lw=0.8)
    figure.legend(loc="outside lower center", ncols=4, fontsize="x-small")
    quiet = share.loc[curated.index, "active_s"].idxmin()
    axes.set(
        xlim=(0, 100),
        xlabel=f"share of the seconds (%); silent: {silence_db:g} dB or more below the clip's peak",
        title=f"{quiet} (curated) is silent for {100 - share.at[quiet, 'active_s']:.0f} % of its seconds, the most",
    )
    return figure


def trimming(table: pd.DataFrame) -> Figure:
    """Seconds lost by trimming, over the threshold. `table` comes from `signals.trimming`."""
    if table.empty:
        return blank(f"{NO_AUDIO}: trimming can't be judged")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    for subset, part in table.groupby("subset"):
        left.plot(part["threshold_db"], 100 * part["ends"], "o-", color=COLOURS[subset], label=f"{subset}: ends")
        left.plot(part["threshold_db"], 100 * part["all"], "o:", color=COLOURS[subset], label=f"{subset}: all silence")
        right.plot(part["threshold_db"], part["emptied"], "o-", color=COLOURS[subset], label=subset)
    x_axis = "threshold (dB below the clip's peak)"
    low, high = 100 * table["all"].min(), 100 * table["all"].max()
    left.set(xlabel=x_axis, ylabel="seconds removed (%)", ylim=(0, None))
    left.set_title(f"The threshold decides: {low:.0f} to {high:.0f} % of a subset is lost")
    right.set(xlabel=x_axis, ylabel=f"clips left with under {signals.LEFT_S:g} s", ylim=(-0.2, None))
    right.set_title(f"Up to {table['emptied'].max()} clips of a subset would be emptied")
    right.yaxis.get_major_locator().set_params(integer=True)
    left.legend(fontsize="x-small")
    return figure


def priors(shares: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Share of each class in the labels of each subset. `shares` comes from `balance.priors`."""
    order = _order(table)
    figure, axes = plt.subplots(figsize=(8.5, 1.3 + ROW * len(order)), layout="constrained")
    for subset in (name for name in COLOURS if name in shares):
        axes.plot(100 * shares.loc[order, subset], range(len(order)), "o", color=COLOURS[subset], label=subset)
    spread = shares.max() / shares.replace(0, np.nan).min()
    seen = ", ".join(f"{spread[name]:.1f} ({name})" for name in COLOURS if name in shares)
    _names(axes, order)
    axes.set(xlabel="share of the labels of its subset (%)", xlim=(0, None))
    axes.set_title(f"The most frequent class has so many times the labels of the rarest: {seen}")
    axes.legend(fontsize="x-small")
    return figure


def company(shares: pd.DataFrame) -> Figure:
    """Which labels come together. `shares` comes from `balance.co_occurrence`."""
    if shares.empty:
        return blank("No clip has two labels: nothing comes together")
    row, column = np.unravel_index(np.nanargmax(shares.to_numpy()), shares.shape)
    side = 2.2 + 0.28 * len(shares)
    figure, axes = plt.subplots(figsize=(side + 3.5, side + 1), layout="constrained")
    sns.heatmap(
        100 * shares, cmap="Blues", vmin=0, ax=axes, xticklabels=True, yticklabels=True,
        cbar_kws={"label": "clips of the row's class (%)"},
    )  # fmt: skip
    axes.grid(visible=False)
    axes.set_xticks(axes.get_xticks(), shares.columns, rotation=90, fontsize="x-small")
    axes.set_yticks(axes.get_yticks(), shares.index, rotation=0, fontsize="x-small")
    axes.set(xlabel="... have this label too", ylabel="of the clips with this label ...")
    most = f"{shares.iat[row, column]:.0%} of the clips with {shares.index[row]}\nhave {shares.columns[column]} too"
    axes.set_title(most, fontsize="small")
    return figure


def spectra(store: Cache | None, clips: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Average log-mel spectrum of each class (curated), and of each subset with its quartiles."""
    if store is None:
        return blank(f"{NO_AUDIO}: spectra can't be shown")
    values = signals.spectra(store, clips["fname"])
    values -= values.max(axis=1, keepdims=True)  # shape, not level
    hz = mel_filters(store.logmel).argmax(axis=1) * store.logmel.sample_rate / store.logmel.n_fft
    order = _order(table)
    rows = clips[["subset", "labels"]].assign(row=range(len(clips))).explode("labels")
    rows = rows[rows["subset"] == "curated"].groupby("labels")["row"].agg(list)
    order = [name for name in order if name in rows]
    means = np.array([values[rows[name]].mean(axis=0) for name in order])
    size = (13, max(4, 1.4 + ROW * len(order)))
    figure, (left, right) = plt.subplots(1, 2, figsize=size, layout="constrained", width_ratios=(3, 2))
    mesh = left.imshow(means, aspect="auto", cmap="magma", extent=(0, len(hz), len(order) - 0.5, -0.5))
    ticks = np.linspace(0, len(hz) - 1, 8).astype(int)
    left.set_xticks(ticks + 0.5, [f"{hz[i] / 1000:.1f}" for i in ticks])
    _names(left, order)
    left.grid(visible=False)
    figure.colorbar(mesh, ax=left, label="dB below the strongest band", pad=0.01)
    centre = [float(hz @ 10 ** (row / 10) / (10 ** (row / 10)).sum()) for row in means]
    high, low = order[int(np.argmax(centre))], order[int(np.argmin(centre))]
    left.set(xlabel="frequency (kHz, mel scale)", title=f"Curated: brightest is {high}, darkest {low}")
    for subset in (name for name in COLOURS if name in set(clips["subset"])):
        quartiles = np.quantile(values[(clips["subset"] == subset).to_numpy()], (0.25, 0.5, 0.75), axis=0)
        right.plot(hz / 1000, quartiles[1], color=COLOURS[subset], label=subset)
        right.fill_between(hz / 1000, quartiles[0], quartiles[2], color=COLOURS[subset], alpha=0.15, lw=0)
    right.set(xscale="log", xlabel="frequency (kHz, logarithmic)", ylabel="dB below the strongest band")
    right.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    right.set_title(_furthest(values, clips["subset"].to_numpy(), hz), fontsize="medium")
    right.legend(fontsize="x-small")
    return figure


def sound(clips: pd.DataFrame, measured: pd.DataFrame) -> Figure:
    """Level and bandwidth by subset: what a microphone, a codec or a lower rate in the past leaves behind."""
    if measured.empty:
        return blank(f"{NO_AUDIO}: level and bandwidth can't be shown")
    rows = clips[["fname", "subset", "sample_rate"]].merge(measured, on="fname")
    rows = rows.assign(rolloff=rows["rolloff_hz"] / 1000, limit=rows["band_limit_hz"] / 1000)
    median = rows.groupby("subset")[["peak_db", "loudness_db", "rolloff", "limit"]].median()
    shown = {
        "loudness_db": ("A-weighted level (dBFS)", "Level", " dB"),
        "peak_db": ("peak (dBFS)", "Peak", " dB"),
        "rolloff": ("95 % of power below (kHz)", "Rolloff", " kHz"),
        "limit": ("power under -60 dB above (kHz)", "Band limit", " kHz"),
    }
    order = [name for name in COLOURS if name in median.index]
    figure, panels = plt.subplots(1, 4, figsize=(13, 3.6), layout="constrained")
    for axes, (column, (label, name, unit)) in zip(panels, shown.items(), strict=True):
        sns.boxplot(rows, x="subset", y=column, hue="subset", order=order, palette=COLOURS, ax=axes, fliersize=2)
        medians = " / ".join(f"{median.at[subset, column]:.1f}" for subset in order)
        axes.set(xlabel="", ylabel=label)
        axes.set_title(f"{name}: {medians}{unit}", fontsize="small")
    full = rows["clipped"].gt(0).groupby(rows["subset"]).mean()
    rates = ", ".join(f"{rate} Hz" for rate in sorted(rows["sample_rate"].unique()))
    touch = ", ".join(f"{full[name]:.0%} ({name})" for name in order)
    figure.suptitle(f"Clips that touch full scale: {touch}. Files at {rates}")
    return figure


def gaps(gaps: pd.DataFrame, tells: pd.DataFrame) -> Figure:
    """How well subsets are told apart, and by what. Both tables come from `shift.subsets`."""
    pairs = gaps[gaps["pair"] != "chance"]
    if pairs.empty:
        return blank("Fewer than two subsets with audio: there is nothing to tell apart")
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.8), layout="constrained")
    names = [row.pair if row.pair == "chance" else f"{row.pair}: {row.by}" for row in gaps.itertuples()]
    left.hlines(range(len(gaps)), gaps["auc_low"], gaps["auc_high"], color="grey")
    left.plot(gaps["auc"], range(len(gaps)), "o", color="black")
    left.axvline(0.5, color="grey", ls=":")
    _names(left, names)
    top = pairs.loc[pairs["auc"].idxmax()]
    left.set(xlim=(min(0.3, gaps["auc_low"].min() - 0.02), 1.02), xlabel="AUC out of fold (.5: alike, 1: always told)")
    apart = f"Furthest apart: {top['pair']}, AUC {top['auc']:.2f}"
    left.set_title(apart if top["auc_low"] > 0.5 else f"No two subsets are told apart: AUC at most {top['auc']:.2f}")
    told = tells[(tells["pair"] == top["pair"]) & (tells["by"] == "sound")]
    right.barh(range(len(told)), told["drop"], color="grey")
    _names(right, [f"{row.feature} ({row.alone:.2f} alone)" for row in told.itertuples()])
    right.set(xlabel="fall of the AUC when the feature is shuffled")
    right.set_title(f"{top['pair']} without length: {told['feature'].iloc[0]} tells most", fontsize="small")
    return figure


def _furthest(values: np.ndarray, subset: np.ndarray, hz: np.ndarray) -> str:
    """Where the median spectra of curated and another subset differ most, in words."""
    names = [name for name in ("noisy", "test") if name in subset and "curated" in subset]
    if not names:
        return "Median clip, with quartiles: one subset"
    middle = np.median(values[subset == "curated"], axis=0)
    differ = np.array([np.median(values[subset == name], axis=0) - middle for name in names])
    which, band = np.unravel_index(np.abs(differ).argmax(), differ.shape)
    return (
        f"Medians, quartiles: {names[which]} is {differ[which, band]:+.0f} dB from curated at {hz[band] / 1000:.1f} kHz"
    )


def _order(table: pd.DataFrame) -> list[str]:
    """Classes by curated seconds, or by clips without audio, most first."""
    part = table[table["subset"] == "curated"]
    by = ["seconds_even", "clips"] if part["seconds_even"].notna().any() else ["clips"]
    return part.sort_values([*by, "class"], ascending=[False] * len(by) + [True])["class"].tolist()


def _names(axes: Axes, names: list[str]) -> None:
    """Names on the vertical axis, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def blank(reason: str) -> Figure:
    """A figure that says why there is nothing to see."""
    figure, axes = plt.subplots(figsize=(8, 1.2), layout="constrained")
    axes.set_axis_off()
    axes.set_title(reason, y=0.3)
    return figure
