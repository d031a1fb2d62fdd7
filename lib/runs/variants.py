"""Variants of 04 against their base: the curated models of the same run, or of another one with the same folds.

Never against the best so far, whose score is partly luck. Variants that were scored on other folds, labels or audio are
refused, with the reason in words: their difference to the base could be that of the clips. The same recipe with another
seed, as 10 trains it, is no variant.

Used in: 09_journal.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib import settings
from lib.evaluation import comparisons
from lib.evaluation.comparisons import Comparison
from lib.files import read_json
from lib.runs import oof
from lib.runs.modelset import ModelSet
from lib.runs.recipes import BASE, other_data, unseeded
from lib.training.batches import image_pixels

__all__ = ["Variants", "against_base"]

UNEQUAL = 0.02  # from there on two trainings are not said to have cost the same


class Variants(NamedTuple):
    """Variants of 04 against the base.

    Attributes
    ----------
    table : of the comparison; with `changed`, the settings that differ from the base, and `compute`, pixels of all
        training inputs over the base's; the base on top; no row where the base is not whole
    curves : learning curves of the same variants: variant, model, epoch, train_loss, valid_loss, lwlrap
    refused : a sentence for each reason why variants are not compared
    comparison : what the table is made of; all are screened, as a variant has one seed. None without a base
    """

    table: pd.DataFrame
    curves: pd.DataFrame
    refused: list[str]
    comparison: Comparison | None = None

    def shown(self) -> pd.DataFrame:
        """The columns of the table that fit on a page, rounded."""
        columns = ["variant", "changed", "lwlrap", *comparisons.DIFFERENCE, "verdict", "compute"]
        return self.table[[name for name in columns if name in self.table]].round(3)

    def conclusion(self) -> str:
        """Every difference to the base in a sentence, and where the compute was not equal."""
        found = self.comparison.conclusion() if self.comparison else ""
        if not found:
            return ""
        unequal = self.table[(self.table["compute"] - 1).abs() > UNEQUAL]
        costs = ", ".join(f"{row.variant} {row.compute:.2f}" for row in unequal.itertuples())
        more = f" Not at equal compute (epochs x pixels, the base's 1): {costs}." if costs else ""
        return f"Difference in lwlrap to the base on {self.table['n'].iloc[0]} clips: {found}{more}"


def against_base(home: Path, base_home: Path | None = None) -> Variants:
    """All variants of a run against the base, on the same clips.

    Parameters
    ----------
    home : outputs/<run>
    base_home : the run whose curated models are the base; none: the same
    """
    base = (base_home or home) / "04_kfold" / BASE
    whom = f"{base.parents[1].name}/{BASE}"
    try:
        setting, clips = _read(base)
    except (OSError, ValueError, KeyError) as error:
        empty = pd.DataFrame({"variant": [], "verdict": []})
        return Variants(empty, empty, [f"Nothing is compared with {whom}: {error}"])
    read, made, causes = {BASE: clips}, {BASE: setting}, defaultdict(list)
    folders = (path.parent for path in (home / "04_kfold").glob("[!.]*/configuration.json"))
    for folder in sorted(folder for folder in folders if folder != base and not unseeded(folder.name)[1]):
        name = folder.name if folder.parent == base.parent else f"{home.name}/{folder.name}"
        try:
            made[name], read[name] = _comparable(folder, base, setting, clips)
        except (OSError, ValueError, KeyError) as error:
            causes[str(error)].append(name)
    scores = {name: of.scores for name, of in read.items()}
    comparison = Comparison(clips.table, clips.classes, scores, BASE, enough=False, order=None)
    table = comparison.table()
    table.insert(1, "changed", [_changed(made[name], setting) for name in table["variant"]])
    compute = [_compute(made[name], read[name].epochs) for name in table["variant"]]
    table["compute"] = np.array(compute) / compute[0]
    curves = pd.concat([of.epochs.assign(variant=name) for name, of in read.items()], ignore_index=True)
    refused = [f"Not compared with {whom}: {', '.join(names)}. {why}" for why, names in causes.items()]
    return Variants(table, curves, refused, comparison)


def _changed(setting: Mapping, base: Mapping) -> str:
    """What a person changed of the base, in words."""
    return ", ".join(f"{k} {value}" for k, value in setting.items() if k in settings.KNOBS and value != base.get(k))


def _compute(setting: Mapping, curves: pd.DataFrame) -> float:
    """Epochs times pixels of a training input; NaN where a setting does not tell them.

    All training sets show as many windows as `epochs` say, but fewer_passes: its curves tell how many epochs it had.
    """
    try:
        fewer = setting.get("train_set") == "fewer_passes"
        epochs = len(curves) / curves["model"].nunique() if fewer else setting["epochs"]
        return epochs * image_pixels(setting)
    except KeyError:
        return float("nan")


def _read(variant: Path) -> tuple[dict, oof.Clips]:
    """Configuration and out-of-fold scores; ValueError unless all folds are done."""
    home, path = variant.parents[1], variant / "configuration.json"
    if not path.is_file():
        raise ValueError(f"It is not there yet. Train it: make run NB=04 RUN={home.name} PROFILE=... DATA=...")
    setting = read_json(path)
    models = ModelSet(home, variant.name, setting["n_folds"])
    if models.missing:
        raise ValueError(f"Folds {models.missing} are still to be trained.")
    return setting, models.clips()


def _comparable(variant: Path, base: Path, of_base: Mapping, clips: oof.Clips) -> tuple[dict, oof.Clips]:
    """As `_read`; ValueError too where the difference to the base could come from folds, labels, audio or clips."""
    setting = read_json(variant / "configuration.json")
    if setting["folds"] != of_base["folds"]:
        raise ValueError(
            f"Their folds are {setting['folds']}, those of the base {of_base['folds']}: other models saw other clips. "
            f"Train with the same ones: -p folds_csv outputs/{base.parents[1].name}/folds.csv"
        )
    if differ := other_data(setting, of_base):
        raise ValueError(f"They were made of other clips ({differ}, in the base). Train both on the same data.")
    setting, mine = _read(variant)
    if mine.table["fname"].tolist() != clips.table["fname"].tolist():
        raise ValueError("Other clips were scored. Train both on the same data.")
    return setting, mine
