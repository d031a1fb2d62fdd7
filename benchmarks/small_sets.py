"""Four small data sets of ten classes each, cut from ESC-50, to choose a recipe for a few clips by.

    python benchmarks/small_sets.py path/to/ESC-50

None holds a class of ESC-10, so nothing that is chosen by them has seen a recording of ESC-10 or fsd-mini. A set has
twelve training clips per class (fold 1, of the published folds 3 to 5) and sixteen that are scored (fold 0: the
published folds 1 and 2). Writes small-0.csv to small-3.csv into the data set's folder, beside audio/.
"""

import sys
from pathlib import Path

import pandas as pd

N_SETS, N_TRAINED, SEED = 4, 12, 1


def main() -> None:
    place = Path(sys.argv[1])
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


if __name__ == "__main__":
    main()
