"""How long the first minutes take: the demo run by notebook, and the tests by file.

Seconds, so only comparable on one machine with nothing else running. Parts run side by side, so they add up to more
than the whole.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from table import record

ROOT = Path(__file__).resolve().parents[1]
RUN = "bench-demo"
# A make of its own: what was said to the one that has started this (NB=...) is not meant for it.
APART = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "NB")}


def demo() -> None:
    """The demo run, in a run folder of its own; the cache and the demo set may be there already."""
    shutil.rmtree(ROOT / "outputs" / RUN, ignore_errors=True)
    started, parts = time.monotonic(), Counter()
    words = ["make", "run", f"RUN={RUN}", "PROFILE=demo"]
    with subprocess.Popen(words, cwd=ROOT, env=APART, stdout=subprocess.PIPE, text=True) as made:
        for line in made.stdout:
            sys.stdout.write(line)
            if found := re.match(r"\[ *\d+/\d+\] (\w+).*: (\d+) s, about", line):
                parts[found[1]] += int(found[2])
    shutil.rmtree(ROOT / "outputs" / RUN, ignore_errors=True)
    if made.returncode:
        raise SystemExit("the demo run failed")
    record("demo, in all", time.monotonic() - started, "s")
    for name, seconds in parts.items():
        record(f"demo, {name}", seconds, "s")


def tests() -> None:
    """All tests, by file."""
    with tempfile.TemporaryDirectory() as folder:
        report, started = Path(folder) / "report.xml", time.monotonic()
        ran = subprocess.run(["make", "test", f"ARGS=--junitxml={report}"], cwd=ROOT, env=APART, check=False)
        seconds, parts = time.monotonic() - started, Counter()
        if ran.returncode:
            raise SystemExit("tests failed")
        for case in ElementTree.parse(report).iter("testcase"):
            parts[case.get("classname").removeprefix("tests.")] += float(case.get("time"))
    record("tests, in all", seconds, "s")
    for name, spent in parts.items():
        record(f"tests, {name}", spent, "s")


if __name__ == "__main__":
    demo()
    tests()
