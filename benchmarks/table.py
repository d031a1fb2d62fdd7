"""Run every benchmark, and print one table of what this machine measured; benchmarks/results.csv keeps all machines'.

    python benchmarks/table.py [bench_cache ...]    all of them take half an hour on two cores

Conventions
-----------
what  : what is measured; a row a quantity and machine, the newest measurement only
unit  : `ratio`, of two things measured in turns within one run, so that a busy machine slows both; or s, MB
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch

__all__ = ["record"]

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.csv"
COLUMNS = ["machine", "date", "what", "value", "unit"]


def machine() -> str:
    """The processor, how many cores this process may use, and the GPU if there is one."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{names[0] if names else 'unknown processor'}, {len(os.sched_getaffinity(0))} cores{gpu}"


def record(what: str, value: float, unit: str) -> None:
    """Write a row, in the place of this machine's earlier one of the same quantity."""
    table = pd.read_csv(RESULTS) if RESULTS.is_file() else pd.DataFrame(columns=COLUMNS)
    row = [machine(), time.strftime("%Y-%m-%d"), what, float(f"{value:.3g}"), unit]
    rest = table[(table["machine"] != row[0]) | (table["what"] != what)]
    rows = [*rest.itertuples(index=False, name=None), row]
    pd.DataFrame(rows, columns=COLUMNS).sort_values(["machine", "what"]).to_csv(RESULTS, index=False)


def main(names: list[str]) -> int:
    """Run the scripts named, or all; the exit status."""
    failed = []
    for script in sorted(HERE.glob("bench_*.py")):
        if not names or script.stem in names:
            sys.stderr.write(f"== {script.stem}\n")
            failed += [script.stem] if subprocess.run([sys.executable, str(script)], check=False).returncode else []
    if RESULTS.is_file():
        table = pd.read_csv(RESULTS)
        mine = table[table["machine"] == machine()].drop(columns="machine")
        print(f"{machine()}:\n{mine.to_string(index=False)}")
    if failed:
        sys.stderr.write(f"Not measured: {', '.join(failed)} (the errors stand above).\n")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
