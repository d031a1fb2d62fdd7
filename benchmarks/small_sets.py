"""Four small data sets of ten classes each, cut from ESC-50, to choose a recipe for a few clips by.

    python benchmarks/small_sets.py path/to/ESC-50     # writes small-0.csv to small-3.csv there, beside audio/
    make run RUN=small-0 PROFILE="fsd-mini small-sets" DATA=path/to/ESC-50/small-0.csv NB=02     # and so on to small-3
    python benchmarks/small_sets.py small              # compares the variants that all four have, over all their clips

Later rounds are on top of what the first one chose: runs long-0 to long-3 with PROFILE="fsd-mini long-sets", and
trimmed-0 to trimmed-3 with "fsd-mini trimmed".

None holds a class of ESC-10, so nothing that is chosen by them has heard a clip of ESC-10 or fsd-mini; two recordings
(134049, 209698) have a clip of another class there. A set has twelve training clips per class (fold 1, of the published
folds 3 to 5) and sixteen that are scored (fold 0: the published folds 1 and 2).
"""

import sys
from pathlib import Path

import pandas as pd

from lib.evaluation.comparisons import Comparison
from lib.runs import oof

N_SETS, N_TRAINED, SEED = 4, 12, 1
RIVALS = {"cnn+recording": "cnn"}
OUTPUTS = Path(__file__).resolve().parents[1] / "outputs"


def make(place: Path) -> None:
    """Write the tables of the sets into the folder of ESC-50."""
    clips = pd.read_csv(place / "meta" / "esc50.csv").sample(frac=1, random_state=SEED)
    clips = clips[~clips["esc10"]]
    classes = clips["category"].drop_duplicates().to_list()
    scored = clips[clips["fold"] <= 2]
    trained = clips[~clips["src_file"].isin(scored["src_file"])].groupby("category").head(N_TRAINED)
    for i in range(N_SETS):
        chosen = pd.concat([scored.assign(fold=0), trained.assign(fold=1)])
        chosen = chosen[chosen["category"].isin(classes[i::N_SETS])].sort_values("filename")
        table = chosen[["fold"]].assign(
            fname="audio/" + chosen["filename"], labels=chosen["category"], group=chosen["src_file"]
        )
        table[["fname", "labels", "group", "fold"]].to_csv(place / f"small-{i}.csv", index=False)


def compare(name: str) -> pd.DataFrame:
    """The variants that all sets have against the base, over the clips of all sets; written to outputs/<name>-sets.csv.

    A clip is ranked among the classes of its own set: those of the others have the score 0.

    Parameters
    ----------
    name : the runs are <name>-0 to <name>-3
    """
    homes = [OUTPUTS / f"{name}-{i}" / "02_features" for i in range(N_SETS)]
    there = [place.parent.name for place in homes[-1].glob("*/without_0")]
    shared = sorted(variant for variant in there if all((home / variant / "without_0").is_dir() for home in homes))
    tables = {}
    for variant in shared:
        parts = [oof.read(home / variant / "without_0" / f"seed_{SEED}") for home in homes]
        classes = sorted({c for part in parts for c in part.classes})
        table = pd.concat([part.table for part in parts])
        tables[variant] = table.fillna(dict.fromkeys(classes, 0.0)).sort_values("fname", ignore_index=True)
    scores = {variant: table[classes].to_numpy(float) for variant, table in tables.items()}
    table = Comparison(tables["base"], classes, scores, "base", enough=False, rivals=RIVALS).table()
    table.to_csv(OUTPUTS / f"{name}-sets.csv", index=False)
    return table


if __name__ == "__main__":
    given = sys.argv[1]
    if Path(given).is_dir():
        make(Path(given))
    else:
        sys.stdout.write(compare(given).to_string(index=False) + "\n")
