"""Compare variants of 04 with their base: the curated models of the same run, or of another run with the same folds.

Variants are never compared with the best one so far, whose score is partly luck. A variant that was scored on other
folds, labels, audio or clips is refused, because its difference to the base could come from the clips. The same recipe
with another seed is not a variant: a variant is compared on all seeds of the base, or on its own seed if it lacks one.

05 compares training sets (`compare`). They have the same folds, seed and network as the base, and show the same number
of windows; only the parameters in VARIANTS may differ. So noisy clips take passes away from the curated clips. The
exception is `fewer_passes`: the curated clips alone, as often as in curated_noisy. So the pair in RIVALS measures what
noisy clips add at the same number of curated passes. 09 compares all variants of a run (`against_base`), and reports
differences in compute.

Used in: 05_curation, 09_journal, `journal`.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import fields
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
from lib.runs.recipes import BASE, VARIANTS, compared, differences, of_seeds, other_data, papermill, selection, unseeded
from lib.runs.run import Run
from lib.training.batches import image_pixels

__all__ = ["Variants", "against_base", "commands", "compare", "conclusion"]

RIVALS = {"curated_noisy": "fewer_passes"}
MAY_DIFFER = {field.name for field in fields(settings.TrainingSet)} | {"loss"}  # and what is trained on
UNEQUAL = 0.02  # compute that differs by more than this share is reported


def commands(run: Run, n_folds: int, subsets: Collection[str]) -> list[str]:
    """The papermill commands of all trainings that 05 compares and that are not done yet, those of the base first.

    Parameters
    ----------
    run : of 05; with `repeats`, every training set is trained with so many seeds
    subsets : of the data set, for `recipes.compared`
    """
    todo, own = [], run.params["seed"]
    for recipe, changes in {BASE: {}, **_asked(run, subsets)}.items():
        for name in of_seeds(recipe, own, run.params["repeats"]):
            for fold in ModelSet(run.home, name, n_folds).missing:
                given = {"run": run.params["run"], "data_dir": run.params["data_dir"], "variant": name, "fold": fold}
                more = {**unseeded(name)[1], **changes}
                todo.append(papermill("04_kfold", str(run.params["profile"]), **given, **more))
    return todo


def compare(run: Run, n_folds: int, subsets: Collection[str]) -> Comparison:
    """The training sets that are done on all folds, and the pairs of RIVALS, against the base, seed by seed.

    Only the base if nothing else is done; no scores if the base is not done.

    Parameters
    ----------
    run : of 05; compared are its `repeats` seeds, or its own alone where the base or a training set lacks one of them
    subsets : of the data set, for `recipes.compared`

    Raises
    ------
    ValueError
        A variant that differs from the base in more than its training set, scored other clips or audio, or was trained
        on another selection than that of this run.
    """
    sets = {name: ModelSet(run.home, name, n_folds) for name in (BASE, *_asked(run, subsets))}
    whole, read, seeds = {name: models for name, models in sets.items() if not models.missing}, {}, {}
    asked = range(run.params["seed"], run.params["seed"] + run.params["repeats"])
    for name in whole if BASE in whole else []:
        _check_recipe(run, whole[BASE], whole[name])
        read[name] = _clips(whole[name], read.get(BASE))
        seeds[name] = _by_seed(whole[name], read[name], seeds.get(BASE, asked))
    clips, classes = (read[BASE].table, read[BASE].classes) if read else (pd.DataFrame({"labels": [], "group": []}), [])
    scores = {name: [*by_seed.values()] for name, by_seed in seeds.items()}
    return Comparison(clips, classes, scores, BASE, True, RIVALS)


def conclusion(comparison: Comparison) -> str:
    """The result of `compare` in sentences, from its values."""
    differences = comparison.conclusion()
    if not differences:
        return "Nothing is retrained yet on what was kept."
    base = comparison.rows.set_index("variant").loc[BASE]
    head = f"lwlrap of the curated clips as they are is {comparisons.format_score(base)}, n = {base['n']:.0f}"
    return f"{head}. Compared with that, {base['n_seeds']:.0f} seed(s):\n\n{differences}"


class Variants(NamedTuple):
    """Variants of 04 against the base.

    Attributes
    ----------
    table : of the comparison, the base on top; also `changed` (the settings that differ from the base) and `compute`
        (pixels of all training inputs over those of the base). Empty if the base is not complete
    curves : learning curves of the same variants: variant, model, epoch, train_loss, valid_loss, lwlrap
    refused : a sentence for each reason why variants are not compared
    comparison : that of the table; variants with fewer than three seeds are screened. None without a base
    """

    table: pd.DataFrame
    curves: pd.DataFrame
    refused: list[str]
    comparison: Comparison | None = None

    def conclusion(self) -> str:
        """Every difference to the base, and the variants whose compute differs, in sentences; empty without any."""
        differences = self.comparison.conclusion() if self.comparison else ""
        if not differences:
            return ""
        unequal = self.table[(self.table["compute"] - 1).abs() > UNEQUAL]
        costs = ", ".join(f"{row.variant} {row.compute:.2f}" for row in unequal.itertuples())
        more = f" Not at equal compute (epochs x pixels, the base's 1): {costs}." if costs else ""
        return f"Difference in lwlrap to the base on {self.table['n'].iloc[0]} clips:\n\n{differences}{more}"


def against_base(home: Path, base_home: Path | None = None) -> Variants:
    """All variants of a run against the base, on the same clips.

    Parameters
    ----------
    home : outputs/<run>
    base_home : outputs/<run> of the run whose curated models are the base; None: the same run
    """
    folder = (base_home or home) / "04_kfold" / BASE
    base_name = f"{folder.parents[1].name}/{BASE}"
    try:
        base = _models(folder)
        read, made = {BASE: _clips(base)}, {BASE: base.configuration}
        seeds = {BASE: _by_seed(base, read[BASE])}
    except (OSError, ValueError, KeyError) as error:
        empty = pd.DataFrame({"variant": [], "verdict": []})
        return Variants(empty, empty, [f"Nothing is compared with {base_name}: {error}"])
    causes = defaultdict(list)
    folders = (path.parent for path in (home / "04_kfold").glob("[!.]*/configuration.json"))
    for other in sorted(place for place in folders if place != folder and not unseeded(place.name)[1]):
        name = other.name if other.parent == folder.parent else f"{home.name}/{other.name}"
        try:
            models = _models(other)
            _check_data(base, models)
            clips = _clips(models, read[BASE])
            seeds[name] = _by_seed(models, clips, seeds[BASE])
            read[name], made[name] = clips, models.configuration
        except (OSError, ValueError, KeyError) as error:
            causes[str(error)].append(name)
    scores = {name: [*by_seed.values()] for name, by_seed in seeds.items()}
    comparison = Comparison(read[BASE].table, read[BASE].classes, scores, BASE, enough=True, order=None)
    table = comparison.table()
    table.insert(1, "changed", [_changed(made[name], made[BASE]) for name in table["variant"]])
    compute = [_compute(made[name], read[name].epochs) for name in table["variant"]]
    table["compute"] = np.array(compute) / compute[0]
    curves = pd.concat([clips.epochs.assign(variant=name) for name, clips in read.items()], ignore_index=True)
    refused = [f"Not compared with {base_name}: {', '.join(names)}. {why}" for why, names in causes.items()]
    return Variants(table, curves, refused, comparison)


def _asked(run: Run, subsets: Collection[str]) -> dict[str, dict]:
    """The training sets to compare, with the parameters that they change."""
    return {name: VARIANTS[name] for name in compared(run.params["retrain"], run.params["loss"], subsets)}


def _models(folder: Path) -> ModelSet:
    """The models of a variant, with the number of folds in its configuration; ValueError if it does not exist."""
    home, path = folder.parents[1], folder / "configuration.json"
    if not path.is_file():
        raise ValueError(f"It is not there yet. Train it: make run NB=04 RUN={home.name} PROFILE=... DATA=...")
    return ModelSet(home, folder.name, read_json(path)["n_folds"])


def _clips(models: ModelSet, base: oof.Clips | None = None) -> oof.Clips:
    """Out-of-fold scores; ValueError unless all folds are done and the clips are those of the base."""
    if models.missing:
        raise ValueError(f"Folds {models.missing} are still to be trained.")
    clips = models.clips()
    if base and clips.table["fname"].tolist() != base.table["fname"].tolist():
        raise ValueError(f"{models.variant} scored other clips than {BASE}. Train both on the same data and folds.")
    return clips


def _by_seed(models: ModelSet, own: oof.Clips, asked: Collection[int] = ()) -> dict[int, np.ndarray]:
    """Seed -> scores (n_clips, n_classes): the variant's own seed, then further ones trained alike on all folds.

    Parameters
    ----------
    own : the clips of its own seed
    asked : seeds of the base: these and no others, or the variant's own alone if it lacks one of them
    """
    setting = models.configuration
    found = {setting["seed"]: own.scores}
    for path in sorted(models.folder.parent.glob(f"{models.variant}.seed_*/configuration.json")):
        more = _models(path.parent)
        if not more.missing and not differences({**more.configuration, "seed": setting["seed"]}, setting):
            found[more.configuration["seed"]] = _clips(more, own).scores
    if not asked:
        return found
    return {seed: found[seed] for seed in (asked if found.keys() >= set(asked) else [setting["seed"]])}


def _check_recipe(run: Run, base: ModelSet, models: ModelSet) -> None:
    """Refuse a variant whose configuration differs in more than the training set."""
    name, theirs, mine = models.variant, base.configuration, models.configuration
    recipes = ({k: v for k, v in side.items() if k in settings.KNOBS.keys() - MAY_DIFFER} for side in (theirs, mine))
    if differ := differences(*recipes) or other_data(theirs, mine):
        raise ValueError(f"{BASE} and {name} differ in more ({differ}): no fair comparison. Train it again.")
    if "curation" in mine and mine["curation"] != selection(run.home, mine.get("rule", "")):
        raise ValueError(
            f"{name} was trained on another selection than the one in {run.home / '05_curation' / 'select'}. Train it "
            f"again: -p variant {name} -p overwrite True, all folds."
        )


def _check_data(base: ModelSet, models: ModelSet) -> None:
    """Refuse a variant whose difference to the base could come from folds, labels or audio."""
    of_base, setting = base.configuration, models.configuration
    if setting["folds"] != of_base["folds"]:
        raise ValueError(
            f"Their folds are {setting['folds']}, those of the base {of_base['folds']}: other models saw other clips. "
            f"Train with the same ones: -p folds_csv outputs/{base.home.name}/folds.csv"
        )
    if differ := other_data(setting, of_base):
        raise ValueError(f"They were made from other clips ({differ}, in the base). Train both on the same data.")


def _changed(setting: Mapping, base: Mapping) -> str:
    """The knobs that differ from the base, in words."""
    return ", ".join(f"{k} {value}" for k, value in setting.items() if k in settings.KNOBS and value != base.get(k))


def _compute(setting: Mapping, curves: pd.DataFrame) -> float:
    """Epochs times pixels of a training input; NaN if the configuration lacks them.

    All training sets show as many windows as `epochs` of the base. Only fewer_passes shows fewer: its epochs are
    counted in its curves.
    """
    try:
        fewer = setting.get("train_set") == "fewer_passes"
        epochs = len(curves) / curves["model"].nunique() if fewer else setting["epochs"]
        return epochs * image_pixels(setting)
    except KeyError:
        return float("nan")
