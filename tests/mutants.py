"""Do tests hold the honest lines? Every mutant of mutants.yaml changes a line of lib/, and its tests must then fail.

    python tests/mutants.py [ID ...]        (none: all of them, which is `make test-mutants`)

Nothing here is touched: each mutant is a copy of the checkout. The tests pass in a copy first, none of them skipped. A
mutant is killed if pytest says that a test failed (status 1); one that cannot be imported, or whose tests do not end,
is not. A line is found by its text in all of lib/, so a mutant moves along when its line does. Whoever rewrites such a
line rewrites its mutant too, and leaves the id as it is: tests/test_mutants.py holds that every mutant has its line.
"""

import functools
import importlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 600  # the tests of one mutant take seconds, those of all some minutes
SLOW = ("fastai.callback.schedule", "timm", "hypothesis", "matplotlib.pyplot")  # imported once, not once a mutant
TOO_LONG = 9  # status


@dataclass(frozen=True)
class Mutant:
    """One changed line.

    Parameters
    ----------
    breaks : what is no longer true with it
    old, new : a piece of a line, which stands once in lib/, and what takes its place
    tests : node ids below tests/, with blanks between
    """

    id: str
    kind: str
    breaks: str
    old: str
    new: str
    tests: str

    def place(self) -> tuple[Path, int]:
        """The file, relative to the checkout, and the number of the line; ValueError unless there is just one."""
        places = [
            (path, number)
            for path, text in library().items()
            if self.old in text
            for number, line in enumerate(text.splitlines(), 1)
            for _ in range(line.count(self.old))
        ]
        if len(places) != 1:
            told = ", ".join(f"{path}:{number}" for path, number in places) or "nowhere"
            raise ValueError(f"{self.id}: `{self.old}` stands {told}, expected one line of lib/. Give the line of now.")
        return places[0]

    def text(self) -> str:
        """The whole file with the changed line."""
        return library()[self.place()[0]].replace(self.old, self.new)


@functools.cache
def library() -> dict[Path, str]:
    """The modules of lib/: path, relative to the checkout -> text."""
    return {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in sorted((ROOT / "lib").rglob("*.py"))}


def read() -> list[Mutant]:
    """All mutants, in the order of the table."""
    kinds = yaml.safe_load((ROOT / "tests" / "mutants.yaml").read_text(encoding="utf-8"))
    return [Mutant(name, kind, **told) for kind, some in kinds.items() for name, told in some.items()]


def outcome(mutant: Mutant | None, tests: list[str]) -> tuple[int, list[str]]:
    """Pytest's status in a copy of the checkout (None: as it is), and its last lines. For a process of its own."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.exit(f"The tests took over {LIMIT_S} s.", TOO_LONG))
    signal.alarm(LIMIT_S)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
            if (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, root / name)
        if mutant is not None:
            (root / mutant.place()[0]).write_text(mutant.text(), encoding="utf-8")
        with open(root / "pytest.log", "w+", encoding="utf-8") as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
            os.chdir(root)
            os.environ["PYTHONPATH"] = sys.path[0] = folder  # in place of the folder of this script
            sys.dont_write_bytecode = True
            status = int(pytest.main(["-x", "--tb=short", *(f"tests/{test}" for test in tests)]))
            return status, (root / "pytest.log").read_text(encoding="utf-8").strip().splitlines()[-20:]


def main(ids: list[str]) -> int:
    """Try the mutants of these ids, print killed of all by kind; 0 if all are killed."""
    began, mutants = time.time(), [mutant for mutant in read() if not ids or mutant.id in ids]
    if unknown := set(ids) - {mutant.id for mutant in mutants}:
        print(f"There is no mutant {', '.join(sorted(unknown))}.")
        return 2
    for name in SLOW:
        importlib.import_module(name)
    cores = os.cpu_count() or 1
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests.split()))
    files = list(dict.fromkeys(test.split("::")[0] for test in tests))
    shares = [[test for test in tests if test.split("::")[0] in files[i::cores]] for i in range(cores)]
    with multiprocessing.get_context("fork").Pool(cores, maxtasksperchild=1) as pool:
        for status, said in pool.starmap(outcome, [(None, share) for share in shares if share], chunksize=1):
            if status or "skipped" in said[-1]:
                print("The tests must pass as the code is, none skipped:", *said, sep="\n")
                return 2
        print(f"{len(tests)} tests pass as the code is ({time.time() - began:.0f} s). Now with a line changed:")
        trials = [pool.apply_async(outcome, (mutant, mutant.tests.split())) for mutant in mutants]
        alive = [mutant for mutant, trial in zip(mutants, trials, strict=True) if not _killed(mutant, *trial.get())]
    print("\nkilled of all")
    for kind in [*dict.fromkeys(mutant.kind for mutant in mutants), "all"]:
        n, left = (sum(kind in (mutant.kind, "all") for mutant in some) for some in (mutants, alive))
        print(f"{n - left:4} of {n:2}  {kind}")
    for mutant in alive:
        print("{}, {}:{}: {}".format(mutant.id, *mutant.place(), mutant.breaks), mutant.old, mutant.new, sep="\n    ")
    print(f"{(time.time() - began) / 60:.1f} minutes")
    return 1 if alive else 0


def _killed(mutant: Mutant, status: int, said: list[str]) -> bool:
    """Whether a test failed; told in a line."""
    first = next((line for line in said if line.startswith(("FAILED", "ERROR"))), said[-1])
    verdict = {0: "ALIVE ", 1: "killed"}.get(status, f"NOT KILLED (pytest's status {status})")
    print(f"{verdict}  {mutant.id:12} {first[:160]}", flush=True)
    return status == 1


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main(sys.argv[1:]))
