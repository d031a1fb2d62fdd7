"""Figures of experiments: variants beside their base, curation, leaks, and the way from windows to clips.

Conventions
-----------
A figure takes tables or arrays and returns a matplotlib Figure. Its axes have units, its title states what it shows.

Used in: 02, 03, 05 to 07, 09, 10.
"""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.evaluation.comparisons import AGAINST
from lib.figures.drawing import BLUE, ORANGE, by_name, dots, name_rows, panels, wrapped

__all__ = [
    "before_after", "class_differences", "convergence", "differences", "images", "leaks", "lr_search", "members",
    "over_seconds", "possible_causes", "silence", "truth_curves",
]  # fmt: skip

SHARES = np.linspace(5, 100, 20)  # % of a training, since trainings can have different numbers of epochs
VERDICT_COLOURS = {"kept": "C2", "dropped": "C3", "unclear": "C7", "screened": "C0"}
MARKS = "osD^vP"  # one for each curation rule
IMAGES_ACROSS = 5  # prediction images side by side


# --- variants beside their base --------------------------------------------------------------------------------------


def differences(table: pd.DataFrame, base: str = "the base") -> Figure:
    """Each variant's difference in lwlrap to the base, with its interval; the colour is the verdict.

    Parameters
    ----------
    table : variant, lwlrap_diff, lwlrap_diff_low, lwlrap_diff_high, verdict, n (from `sweep.Trials.table`)
    base : name of the base in the labels
    """
    table = table.dropna(subset="lwlrap_diff").sort_values("lwlrap_diff", ascending=False, ignore_index=True)
    same = table["verdict"].nunique() == 1  # then the title says it
    figure, (axes,) = by_name(list(table["variant"] if same else table["variant"] + "  " + table["verdict"]))
    axes.axvline(0, color="0.3", lw=1)
    for verdict, part in table.groupby("verdict"):
        dots(axes, part, "lwlrap_diff", part.index, color=VERDICT_COLOURS[verdict])
    is_pair = table["variant"].str.contains(AGAINST, regex=False)
    counts = table.loc[~is_pair, "verdict"].value_counts()
    decided = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICT_COLOURS if verdict in counts)
    level = f"lines: each at its own level, Holm; {int(table['n'].iloc[0])} clips"
    to = f"{base}; x{AGAINST}y: to y" if is_pair.any() else base
    axes.set(xlabel=f"difference in lwlrap to {to}\n({level})", title=f"Against {base}: {decided}")
    return figure


def over_seconds(table: pd.DataFrame) -> Figure:
    """lwlrap over the seconds of a training, with intervals: a line for each variant, through its budgets.

    Parameters
    ----------
    table : variant (`<name>+longer`: with a larger budget; `longer`: so the base), train_s (s), lwlrap, lwlrap_low,
        lwlrap_high
    """
    name = table["variant"].str.removesuffix("+longer").replace("longer", "base")
    figure, (axes,) = panels(1, 4.6)
    for i, (label, part) in enumerate(table.assign(name=name).groupby("name", sort=False)):
        part = part.sort_values("train_s")
        colour = "black" if label == "base" else f"C{i % 10}"
        dots(axes, part, "lwlrap", part["train_s"], upright=True, color=colour)
        axes.plot(part["train_s"], part["lwlrap"], color=colour, ls=("-", "--")[i // 10 % 2], marker="o", label=label)
    axes.set(xlabel="seconds of training (log)", ylabel="lwlrap, with 95 % intervals")
    axes.set(xscale="log", title="What seconds of training buy")
    axes.set_xlim(table["train_s"].min() / 1.3, table["train_s"].max() * 1.3)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    figure.legend(loc="outside lower center", ncols=5)
    return figure


def class_differences(table: pd.DataFrame) -> Figure:
    """Which classes a variant helps: each class's difference in lwlrap over its seconds of audio, a panel a variant.

    Parameters
    ----------
    table : variant, class, seconds, diff, diff_low, diff_high (from `sweep.Trials.by_class`)
    """
    names = table["variant"].unique()
    figure, grid = panels(len(names), 2.9, across=1, sharex=True)
    for axes, name in zip(grid, names, strict=True):
        mine = table[table["variant"] == name].dropna(subset="diff")
        axes.axhline(0, color="0.3", lw=1)
        dots(axes, mine, "diff", mine["seconds"], upright=True, color=BLUE)
        for x, y, label in mine[["seconds", "diff_high", "class"]].to_numpy() if len(mine) <= 20 else ():
            axes.text(x, y, label[:12], fontsize="small", rotation=50, ha="left", va="bottom")
        axes.set(xscale="log", ylabel="difference in lwlrap", title=f"{name} against the base, by class")
        axes.margins(y=0.3)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.get_minor_locator().set_params(subs=(2, 5))
        axes.xaxis.set_minor_formatter("{x:g}")
    grid[-1].set_xlabel("seconds of training audio in the class (log; bars: 95 % intervals, each class on its own)")
    return figure


def members(table: pd.DataFrame) -> Figure:
    """Diversity against accuracy: lwlrap of single models and of their average, over how much the models disagree.

    Parameters
    ----------
    table : variant (strategy), single (mean lwlrap of the members), lwlrap (of their average), disagreement, n_members;
        NaN in rows that compare two strategies
    """
    figure, (axes,) = panels(1, 4.6)
    for i, row in enumerate(table.dropna(subset="single").itertuples()):
        label = f"{row.variant} ({row.n_members})"
        axes.plot([row.disagreement] * 2, [row.single, row.lwlrap], "-o", color=f"C{i}", mfc="white", ms=8)
        axes.plot(row.disagreement, row.lwlrap, "o", color=f"C{i}", ms=8, label=label)
    axes.set(xlabel="disagreement: share of clips where two members rank different classes first", ylabel="lwlrap")
    axes.set_title("Hollow: a single member; full: the average of all members")
    figure.legend(title="strategy (members)", loc="outside lower center", ncols=5)
    return figure


def convergence(curves: pd.DataFrame) -> Figure:
    """Loss and lwlrap over the course of the training: for each variant, the mean and the range of its models.

    Parameters
    ----------
    curves : variant, model (fold and seed), epoch (from 0), train_loss, lwlrap (NaN in epochs that did not measure it);
        the base is named "base", or comes first
    """
    names = list(curves["variant"].unique())
    base = "base" if "base" in names else names[0]
    over = {column: _over_shares(curves, column) for column in ("train_loss", "lwlrap")}
    ends = over["lwlrap"].iloc[-1].groupby("variant").mean().sort_values(ascending=False)
    others = [name for name in names if name != base and name in ends]  # not what has measured nothing
    looks = [{"color": f"C{i % 10}", "ls": ("-", "--", ":")[i // 10 % 3], "lw": 1.3} for i in range(len(others))]
    styles = {base: {"color": "black", "lw": 2.5}, **dict(zip(others, looks, strict=True))}
    figure, (left, right) = panels(2, 3.6 + 0.07 * len(names))
    for axes, models in zip((left, right), over.values(), strict=True):
        for name in ends.index:
            style = styles[name]
            low, mean, high = models[name].agg(["min", "mean", "max"], axis=1, skipna=False).to_numpy().T
            axes.fill_between(SHARES, low, high, color=style["color"], alpha=0.08, lw=0)
            axes.plot(SHARES, mean, label=name, **style)
        axes.set_xlabel("share of the training (%)")
    low, high = (f"{end(ends[others], default=0):.3f}" for end in (min, max))
    rest = "" if not others else f", the rest at {low}" if low == high else f",\nthe others between {low} and {high}"
    left.set(ylabel="training loss, as augmented (nats)", title="Lines: means of the models;\nshades: their range")
    right.set(ylabel="lwlrap of held-out windows", title=f"Windows: the base ends at {ends[base]:.3f}{rest}")
    title = "in the order of where they end" if others else ""
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=4, title=title)
    return figure


def lr_search(search: pd.DataFrame, suggested: float) -> Figure:
    """Loss while the learning rate rises from batch to batch.

    Parameters
    ----------
    search : lr, loss (from `learners.find_lr`)
    suggested : learning rate to mark
    """
    figure, (axes,) = panels(1, 3)
    lr, loss = search["lr"], search["loss"]
    axes.plot(lr, loss)
    axes.axvline(suggested, color=ORANGE, ls="--")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss (nats)", ylim=(0, 1.5 * loss.iloc[0]))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title(f"Suggested learning rate, where the loss falls steeply: about {suggested:.1g} (dashed)")
    return figure


# --- curation --------------------------------------------------------------------------------------------------------


def truth_curves(curves: pd.DataFrame) -> Figure:
    """Precision over recall of every curation rule. `curves` comes from `probes.truth_curves`.

    Each dot is one value of the rule's number; the dot of its default is filled.
    """
    kinds = {
        "curated windows": "Curated windows kept",
        "noisy windows": "Noisy windows kept",
        "curated clips": "Curated clips kept\n(once a label)",
        "noisy clips": "Noisy clips kept\n(once a label)",
        "noisy labels": "Noisy labels flagged\nas wrong",
    }
    kinds = {kind: title for kind, title in kinds.items() if (curves["what"] == kind).any()}
    figure, row = panels(len(kinds), 4, sharey=True)
    for axes, (kind, title) in zip(row, kinds.items(), strict=True):
        part = curves[curves["what"] == kind]
        for i, (name, curve) in enumerate(part.groupby("name", sort=False)):
            curve = curve.dropna(subset="precision").sort_values("at")
            line = {"color": f"C{i}", "marker": MARKS[i]}
            axes.plot(curve["recall"], curve["precision"], lw=1, mfc="white", ms=5, label=name, **line)
            axes.plot(*curve.loc[curve["default"], ["recall", "precision"]].to_numpy().T, "", ms=9, **line)
        axes.axhline(part["n_true"].iloc[0] / part["n"].iloc[0], color="black", lw=0.8, ls=":")
        axes.set(xlabel="recall", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), title=title)
    row[0].set_ylabel("precision")
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    best = curves[(curves["name"] == "top") & curves["default"]].set_index("what")
    scores = ", ".join(f"{kind} {best.loc[kind, 'precision']:.2f} / {best.loc[kind, 'recall']:.2f}" for kind in kinds)
    figure.suptitle(f"top_1: precision / recall of {scores}\n(large: a rule's default; dotted: keeping all)")
    return figure


def before_after(table: pd.DataFrame) -> Figure:
    """Seconds of each class before and after curation, subsets side by side. `table` comes from `curation.by_class`."""
    subsets = table["subset"].unique()
    order = table.groupby("class")["seconds_before"].sum().sort_values(ascending=False).index
    figure, row = by_name(list(order), len(subsets))
    for axes, subset in zip(row, subsets, strict=True):
        part = table[table["subset"] == subset].set_index("class").reindex(order)
        before = axes.barh(range(len(order)), part["seconds_before"].fillna(0), color="0.85", label="before")
        axes.barh(range(len(order)), part["seconds_after"], color=BLUE, height=0.5, label="kept")
        lost = [f"{clips:.0f} lost" if clips > 0 else "" for clips in part["clips_lost"]]
        axes.bar_label(before, lost, padding=3, fontsize="small")
        kept = part["seconds_after"].sum() / part["seconds_before"].sum()
        axes.set(xlabel="audio (s)", title=f"{subset}: {kept:.0%} of the seconds kept")
        axes.margins(x=0.2)
    row[0].legend(loc="lower right")
    return figure


def leaks(effects: pd.DataFrame) -> Figure:
    """What each leaky setup reports, and what it reaches. `effects` is the table `leaks` of `leaks.tables`."""
    names = effects["setup"] + np.where(effects["control"], " (control)", "")
    figure, (axes,) = by_name(list(names), row=0.45)
    for name, colour, aside in (("reported", ORANGE, -0.12), ("reached", BLUE, 0.12)):
        dots(axes, effects, name, np.arange(len(effects)) + aside, color=colour, label=name)
    worst = effects.iloc[0]
    title = f"Split by window reports {worst['reported']:.2f} and reaches {worst['reached']:.2f}"
    axes.set(xlabel="lwlrap, 95 % interval", title=title)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))  # beside them: inside it would cover an interval
    return figure


# --- from windows to clips -------------------------------------------------------------------------------------------


def images(
    shown: np.ndarray, captions: list[str], labels: list[tuple[str, ...]], rows: list[str], hop_s: float, title: str
) -> Figure:
    """Prediction images: x is time, y the classes, brightness the score. Arrows at the left mark a clip's labels.

    Parameters
    ----------
    shown : (n, n_classes, n_columns), scores in [0, 1]; a column of zeros is no window
    captions, labels : (n,), of the images
    rows : (n_classes,), the class of each row, from the top
    hop_s : s between columns
    """
    figure, grid = panels(len(shown), 1.1 + 0.17 * len(rows), across=IMAGES_ACROSS, sharey=True)
    extent = (0, shown.shape[2] * hop_s, len(rows) - 0.5, -0.5)
    names_of_rows = [name.replace("_", " ") if len(name) <= 26 else name.replace("_", " ")[:25] + "…" for name in rows]
    for axes, image, caption, names in zip(grid, shown, captions, labels, strict=True):
        scores = np.ma.masked_where(np.broadcast_to(image.max(0) == 0, image.shape), image)
        mesh = axes.imshow(scores, cmap="magma", vmin=0, vmax=1, aspect="auto", extent=extent, interpolation="nearest")
        axes.set_facecolor("0.93")
        axes.grid(visible=False)
        axes.set_title(wrapped(caption.replace("_", " "), 17), fontsize="small", loc="left")
        axes.set_yticks(range(len(rows)), names_of_rows, fontsize="small")
        at = [rows.index(name) for name in names if name in rows]
        axes.plot(np.zeros(len(at)), at, ">", color="C2", ms=7, clip_on=False, zorder=5)
        axes.set_xlabel("time (s)")
    figure.colorbar(mesh, ax=grid, label="score", pad=0.01, fraction=0.025, aspect=30)
    figure.suptitle(wrapped(title))
    return figure


def silence(example: pd.DataFrame, name: str, table: pd.DataFrame) -> Figure:
    """The effect of silent windows on pooled scores: of one clip, and of all.

    Parameters
    ----------
    example : window, score (of the clip's label), silent (bool)
    name : that label
    table : method, silent (windows added), lwlrap
    """
    figure, (left, right) = panels(2, 3.6)
    left.bar(example["window"], example["score"], color=np.where(example["silent"], "C7", "C0"))
    active, changes = example.loc[~example["silent"], "score"], []
    for mean, of, style in (("arithmetic", np.mean, "C2-"), ("geometric", lambda s: np.exp(np.log(s).mean()), "C3--")):
        after = of(example["score"])
        left.axhline(after, color=style[:2], ls=style[2:], label=f"{mean} mean, with silence")
        changes.append(f"{mean} {of(active):.2f} to {after:.2f}")
    for window in example.loc[example["silent"], "window"]:  # its score can be too small to be seen
        left.axvspan(window - 0.4, window + 0.4, color="0.9", lw=0, zorder=0)
    left.set(ylim=(0, 1.4), yticks=np.arange(0, 1.1, 0.2), xlabel="window (grey: silent)")
    left.set(ylabel=f"score of {name.replace('_', ' ')}", title="; ".join(changes))
    left.legend(loc="upper left")
    sns.lineplot(table, x="silent", y="lwlrap", hue="method", marker="o", markeredgecolor="none", ax=right)
    at = table.pivot(index="method", columns="silent", values="lwlrap")
    loss = at[0] - at[1]
    right.set(xticks=at.columns, xlabel="silent windows added to every clip", ylabel="lwlrap")
    right.set_title(f"A silent window costs {loss['mean']:.3f} (arithmetic),\n{loss['geometric']:.3f} (geometric mean)")
    right.legend(ncols=2, fontsize="small")
    right.margins(y=0.25)
    return figure


def possible_causes(shift: pd.DataFrame, selection: pd.DataFrame, data: pd.DataFrame) -> Figure:
    """Three possible causes of a gain that vanishes: other scores than in training, biased selection, too little data.

    Parameters
    ----------
    shift : model, fed, lwlrap_diff, lwlrap_diff_low, lwlrap_diff_high (`probes.shift`)
    selection : outer, metric, chosen elsewhere, picked there, by chance, tries, n (`probes.selection`)
    data : method (share of the training groups), lwlrap_diff, lwlrap_diff_low, lwlrap_diff_high
    """
    figure, (fed, chosen, learnt) = panels(3, 3.4, across=2)
    _fed(fed, shift)
    _chosen(chosen, selection[selection["metric"] == "hit_rate"])
    dots(learnt, data, "lwlrap_diff", range(len(data)), color=BLUE)
    name_rows(learnt, list(data["method"]))
    learnt.set(ylabel="share of the training groups", title="By the size of the training set of stage 2")
    for axes in (fed, learnt):
        axes.axvline(0, color="0.3", lw=1)
        axes.set_xlabel("stage 2 minus arithmetic mean, lwlrap")
    return figure


def _fed(axes: Axes, shift: pd.DataFrame) -> None:
    """Gains of stage 2 by its input scores, a colour for each model."""
    fed, kinds = list(shift["fed"].unique()), list(shift["model"].unique())
    for i, kind in enumerate(kinds):
        mine = shift[shift["model"] == kind].set_index("fed").loc[fed]
        aside = 0.7 * (i + 0.5) / len(kinds) - 0.35
        dots(axes, mine, "lwlrap_diff", np.arange(len(fed)) + aside, color=f"C{i}", label=kind)
    name_rows(axes, [name.replace(" ", "\n", 1) for name in fed])
    axes.set_title("By the input scores of stage 2")
    axes.set_ylim(len(fed) - 0.5, -0.6 - 0.25 * len(kinds))  # room for the legend
    axes.legend(loc="upper right", ncols=2)


def _chosen(axes: Axes, hits: pd.DataFrame) -> None:
    """Gains in hit rate of the stage-2 model selected on other folds, and of the one selected on the reported fold."""
    for column, colour, aside in (("chosen elsewhere", "C0", -0.1), ("picked there", "C3", 0.1)):
        gains = 100 * hits[column]
        label = f"{column}: {gains.mean():+.1f}"
        axes.plot(gains, hits["outer"] + aside, "o", color=colour, ms=8, alpha=0.8, label=label)
        axes.axvline(gains.mean(), color=colour, ls="--", lw=1)
    chance = 100 * hits["by chance"].mean()
    axes.axvline(0, color="0.3", lw=1)
    axes.axvline(chance, color="C3", ls=":", lw=1, label=f"as many equally good, by chance: {chance:+.1f}")
    axes.set_yticks(hits["outer"])
    axes.set(xlabel="gain in top-1 hit rate over the mean (points)", ylabel="reported fold")
    tries = f"The best of {hits['tries'].iloc[0]} on {hits['n'].mean():.0f} clips"
    axes.set_title(f"{tries},\nselected on other folds or on this one")
    axes.set_ylim(hits["outer"].min() - 0.5, hits["outer"].max() + 0.5 + 0.8 * len(hits))  # room for the legend
    axes.legend(title="mean of folds", loc="upper right", fontsize="small")


def _over_shares(curves: pd.DataFrame, column: str) -> pd.DataFrame:
    """Values of a column at SHARES (rows), interpolated between epochs; a column for each variant and model."""
    values = {}
    for key, curve in curves.groupby(["variant", "model"]):
        share, there = 100 * (curve["epoch"] + 1) / (curve["epoch"].max() + 1), curve[column].notna()
        if there.any():
            values[key] = np.interp(SHARES, share[there], curve.loc[there, column], left=np.nan)
    return pd.DataFrame(values, index=SHARES).rename_axis(columns=["variant", "model"])
