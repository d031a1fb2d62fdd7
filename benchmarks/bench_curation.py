"""What curation costs at full size: FSDKaggle2019's real tables, made-up scores, one outer fold.

    python benchmarks/bench_curation.py path/to/fsdkaggle2019-meta [n_clips]

4,964 curated and 19,815 noisy clips of made-up lengths (median 4.7 s and 15.5 s), windows of 1 s every 0.5 s: about
700,000. Four judges score a quarter of the curated and all of the noisy windows each. Scores lean towards the labels,
so that about half of the windows is kept. Everything but reading audio and running networks is timed.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from table import record

from lib.data import datasets
from lib.evaluation import folds
from lib.experiments import curation
from lib.files import whole_file
from lib.sound import windows

WINDOW_S, HOP_S, OUTER = 1.0, 0.5, 0


def peak_mb() -> float:
    """Largest memory of this process so far."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


class Clock:
    """Prints what a step took."""

    def __init__(self) -> None:
        self.began = self.last = time.perf_counter()

    def __call__(self, step: str) -> None:
        now = time.perf_counter()
        print(f"{now - self.last:7.1f} s  {step}")
        self.last = now


def made_up_windows(clips: pd.DataFrame, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Clips with a duration, and their windows."""
    curated = (clips["subset"] == "curated").to_numpy()
    duration_s = np.where(curated, rng.lognormal(np.log(4.7), 1.0, len(clips)).clip(0.3, 57.6), 15.5)
    n = np.maximum(1, np.ceil((duration_s - WINDOW_S) / HOP_S + 1)).astype(int)
    row = np.repeat(np.arange(len(clips)), n)
    start_s = ((np.arange(len(row)) - np.repeat(np.cumsum(n) - n, n)) * HOP_S).round(3)
    table = pd.DataFrame({"fname": clips["fname"].to_numpy()[row], "window_start_s": start_s})
    table["window_end_s"] = table["window_start_s"] + WINDOW_S
    return clips.assign(duration_s=duration_s), table.assign(silent=rng.random(len(table)) < 0.1)


def made_up_judges(clips: pd.DataFrame, table: pd.DataFrame, truth: np.ndarray, dealt: pd.DataFrame):
    """Name, rows and scores of the judges, one at a time."""
    fold = clips["fname"].map(dealt.set_index("fname")["fold"]).fillna(-1).to_numpy(int)
    clip = pd.Index(clips["fname"]).get_indexer(table["fname"])
    for name in folds.pair_models(5, OUTER):
        (own,) = folds.unseen(name) - {OUTER}
        rows = np.flatnonzero((fold[clip] == own) | (fold[clip] == -1))
        scores = np.random.default_rng(own).random((len(rows), truth.shape[1]), dtype=np.float32)
        scores[truth[clip[rows]]] **= 1 / 80  # as likely as not the best of 80
        yield name, rows, scores


def main() -> None:
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_dir():
        print("no folder of FSDKaggle2019's tables given: skipped. Usage: bench_curation.py FSDKaggle2019.meta")
        return
    rng, clock, before = np.random.default_rng(0), Clock(), peak_mb()
    data = datasets.load(sys.argv[1], with_audio=False)
    clips = data.clips[data.clips["subset"] != "test"].sort_values("fname", ignore_index=True)
    curated = clips[clips["subset"] == "curated"]
    dealt = folds.make(curated, datasets.targets(curated, data.classes), 5, 42)
    clock(f"tables and folds of {len(clips)} clips")
    clips = clips[~clips["fname"].isin(dealt.loc[dealt["fold"] == OUTER, "fname"])].reset_index(drop=True)
    clips, table = made_up_windows(clips, rng)
    truth = datasets.targets(clips, data.classes) == 1
    clock(f"{len(table)} windows made up; {peak_mb() - before:.0f} MB so far")
    evidence = curation.gather(clips, table, data.classes, made_up_judges(clips, table, truth, dealt))
    groups = dict(zip(evidence.clips["fname"], evidence.clips["group"], strict=True))
    folds.assert_no_leak(dealt, evidence.clips["fname"], {OUTER}, groups=groups, judges=evidence.clips)
    clock(
        f"scores of 4 judges made up and gathered: {len(evidence.judgements)} rows; {peak_mb() - before:.0f} MB so far"
    )
    for name, rule in curation.RULES.items():
        share = curation.confirmed(evidence, f"{name}_{rule.default:g}").mean()
        clock(f"rule {name}_{rule.default:g}: {share:.0%} of the pairs confirmed")
    kept = curation.select(evidence, "top_1")
    clock(f"table of all windows: {kept['kept'].mean():.0%} kept")
    with tempfile.TemporaryDirectory() as folder, whole_file(Path(folder) / "kept_windows.csv") as partial:
        kept.to_csv(partial, index=False)
        clock(f"written, {partial.stat().st_size / 1e6:.0f} MB")
        pd.read_csv(partial, dtype={"fname": str}, keep_default_na=False)
        clock("and read")
    spans = windows.spans(kept, clips.set_index("fname")["duration_s"], WINDOW_S)
    clock(f"merged into {len(spans)} spans")
    curation.by_class(kept, clips, WINDOW_S)
    clock("before and after, by class")
    clock(f"{len(curation.predicted_labels(evidence))} classes listed or heard")
    record("curation of the real set's windows", time.perf_counter() - clock.began, "s")
    print(f"{time.perf_counter() - clock.began:.0f} s in all, {peak_mb() - before:.0f} MB of memory above the imports")


if __name__ == "__main__":
    main()
