"""Ten kills of a demo run, and the same numbers in the end: python tests/ten_kills.py [SEED]  (about 15 minutes).

At random moments `kill -9` of the driver, of a worker (papermill) or of a kernel, and the run is started again. In the
end all metrics equal those of an undisturbed run, and nothing was made twice but what was running at a kill.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from test_pipeline import Workbook

KILLS = 10
VICTIMS = {"driver": "snakemake --profile", "worker": "papermill --no-progress-bar", "kernel": "ipykernel_launcher"}


def metrics(workbook: Workbook) -> dict[str, object]:
    return {place: json.loads(text)["metrics"] for place, text in workbook.results().items()}


def ages(workbook: Workbook) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (workbook.root / "outputs").rglob("result.json")}


def descendants(pid: int) -> set[int]:
    """Processes below a process."""
    parents = {}
    for line in subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout.splitlines():
        child, parent = map(int, line.split())
        parents.setdefault(parent, []).append(child)
    found, left = set(), [pid]
    while left:
        children = parents.get(left.pop(), [])
        found.update(children)
        left += children
    return found


def kill_one(kind: str, pid: int) -> bool:
    """kill -9 of one process of that kind below `pid`, if there is one."""
    ran = subprocess.run(["pgrep", "-f", VICTIMS[kind]], capture_output=True, text=True)
    mine = sorted(descendants(pid) & {int(word) for word in ran.stdout.split()})
    if mine:
        os.kill(random.choice(mine), signal.SIGKILL)
    return bool(mine)


def main() -> None:
    random.seed(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    with tempfile.TemporaryDirectory() as folder:
        calm, disturbed = Workbook(Path(folder, "calm"), real=True), Workbook(Path(folder, "disturbed"), real=True)
        begun = time.monotonic()
        code, said = calm.run()
        assert code == 0, said
        seconds = time.monotonic() - begun
        print(f"undisturbed: {len(metrics(calm))} results in {seconds:.0f} s", flush=True)
        for number in range(KILLS):
            before, started = ages(disturbed), disturbed.start()
            time.sleep(random.uniform(0.02, 0.12) * seconds)
            kind = random.choice(list(VICTIMS))
            hit = kill_one(kind, started.pid)
            made = ages(disturbed)
            if kind != "driver":  # the rest would go on to the end: that takes no kill any more
                kill_one("driver", started.pid)
            started.communicate()
            again = [path for path in before if made.get(path) != before[path]]
            print(f"kill {number + 1}: {kind if hit else 'nothing to kill'}, {len(made)} results", flush=True)
            assert len(again) <= 2 * os.cpu_count(), again  # results of jobs that were killed before they had ended
        before = ages(disturbed)
        code, said = disturbed.run()
        assert code == 0, said
        again = [path for path, age in before.items() if ages(disturbed)[path] != age]
        assert len(again) <= 2 * os.cpu_count(), again
        differ = [place for place, found in metrics(calm).items() if metrics(disturbed).get(place) != found]
        assert not differ and metrics(calm).keys() == metrics(disturbed).keys(), differ
        print(f"after {KILLS} kills all {len(metrics(calm))} results are equal")


if __name__ == "__main__":
    main()
