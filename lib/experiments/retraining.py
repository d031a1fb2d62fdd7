"""Does training on what was kept help? The training sets of 04 that 05 compares, with the commands that train them.

All but one show as many windows as the curated clips alone, with the same folds, seed and network; only what VARIANTS
names may differ. So noisy clips take passes from the curated ones. `fewer_passes`, the one, shows these
alone, as often as curated_noisy does, and the pair of RIVALS tells what noisy clips add to as many curated passes.

Used in: 05_curation.
"""

from collections.abc import Collection
from dataclasses import fields

import pandas as pd

from lib import settings
from lib.evaluation.comparisons import Comparison, format_score
from lib.files import digest, read_json
from lib.runs.modelset import ModelSet
from lib.runs.recipes import BASE, VARIANTS, compared, differences, other_data, papermill
from lib.runs.run import Run

__all__ = ["commands", "compare", "conclusion"]

RIVALS = {"curated_noisy": "fewer_passes"}
MAY_DIFFER = {field.name for field in fields(settings.TrainingSet)} | {"loss"}  # and what is trained on


def commands(run: Run, n_folds: int, subsets: Collection[str]) -> list[str]:
    """A papermill command for every training that is still to be done, the base's first.

    Parameters
    ----------
    subsets : of the data set, for `recipes.compared`
    """
    todo = []
    for name, changes in {BASE: {}, **_asked(run, subsets)}.items():
        for fold in ModelSet(run.home, name, n_folds).missing:
            given = {"run": run.params["run"], "data_dir": run.params["data_dir"], "variant": name, "fold": fold}
            todo.append(papermill("04_kfold", str(run.params["profile"]), **given, **changes))
    return todo


def compare(run: Run, n_folds: int, subsets: Collection[str]) -> Comparison:
    """Variants that are done on all folds, and pairs of RIVALS, against the base; screened, as each has one seed.

    The base alone while nothing else is done, no scores while it isn't.

    Parameters
    ----------
    subsets : of the data set, for `recipes.compared`

    Raises
    ------
    ValueError
        A variant that differs from the base in more than its training set, scored other clips or audio, or was trained
        on another selection than the one that lies in this run.
    """
    sets = {name: ModelSet(run.home, name, n_folds) for name in (BASE, *_asked(run, subsets))}
    whole, read = {name: models for name, models in sets.items() if not models.missing}, {}
    for name in whole if BASE in whole else []:
        _check(run, whole[BASE], whole[name])
        read[name] = whole[name].clips()
        if read[name].table["fname"].tolist() != read[BASE].table["fname"].tolist():
            raise ValueError(f"{name} scored other clips than {BASE}. Train both on the same data and folds.")
    clips, classes = (read[BASE].table, read[BASE].classes) if read else (pd.DataFrame({"labels": [], "group": []}), [])
    return Comparison(clips, classes, {name: found.scores for name, found in read.items()}, BASE, False, RIVALS)


def conclusion(comparison: Comparison) -> str:
    """The comparison in sentences, from its values."""
    found = comparison.conclusion("{} {}, {}")
    if not found:
        return "Nothing is retrained yet on what was kept."
    base = comparison.rows.set_index("variant").loc[BASE]
    head = f"lwlrap of the curated clips as they are is {format_score(base)}, n = {base['n']:.0f}"
    return f"{head}. Differences to it, one seed: {found}"


def _asked(run: Run, subsets: Collection[str]) -> dict[str, dict]:
    """The variants that are compared, with what they change."""
    return {name: VARIANTS[name] for name in compared(run.params["retrain"], run.params["loss"], subsets)}


def _check(run: Run, base: ModelSet, models: ModelSet) -> None:
    """Refuse a variant whose configuration differs in more than the training set."""
    name, theirs, mine = models.variant, base.configuration, models.configuration
    recipes = ({k: v for k, v in side.items() if k in settings.KNOBS.keys() - MAY_DIFFER} for side in (theirs, mine))
    if differ := differences(*recipes) or other_data(theirs, mine):
        raise ValueError(f"{BASE} and {name} differ in more ({differ}): no fair comparison. Train it anew.")
    selection = run.home / "05_curation" / "select" / "configuration.json"
    if "curation" in mine and mine["curation"] != digest(read_json(selection)):
        raise ValueError(
            f"{name} was trained on another selection than the one in {selection.parent}. Train it anew: "
            f"-p variant {name} -p overwrite True, all folds."
        )
