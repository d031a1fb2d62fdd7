"""One run of the pipeline: move outdated results away, start snakemake, report progress.

Everything that snakemake prints goes to outputs/<run>/pipeline.log; what a person wants to know is passed on.

Used in: `make run` (python -m lib.runs.pipeline).
"""

import argparse
import fcntl
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lib import code
from lib.files import read_json
from lib.runs.job import MARK, count_gpus, end_with_caller
from lib.runs.plan import ROOT, Plan

__all__ = ["follow", "main"]


def follow(lines: Iterable[str], clock: Callable[[], float] = time.monotonic) -> Iterator[str]:
    """Progress from snakemake's lines, for a person: how much there is to make, what begins, what was made in which
    time, what failed, how much is left. Beginnings are reported only until a first part is made.

    Parameters
    ----------
    lines : what snakemake prints. What `lib.job` marks is passed on; and all of it, if no job begins (nothing to do, or
        a plan at fault).
    """
    started, began, names, ended, unread, told = clock(), {}, {}, [], [], False
    for line in lines:
        if found := re.match(r"total +(\d+)", line):
            yield f"{int(found[1]) - 1} parts to make, each a notebook"  # one job is only the end
        elif found := re.match(r"Job (\d+): (.*)", line):
            names[found[1]], began[found[1]] = found[2], clock()
            if not told:
                yield f"{found[2]} has begun"
        elif found := re.match(r"Finished jobid: (\d+)", line):
            ended.append(found[1])
        elif found := re.match(r"(\d+) of (\d+) steps", line):
            done, total = int(found[1]), int(found[2]) - 1  # the last step is only the end
            left = _span((clock() - started) / done * (total - done))
            for job in [job for job in ended if job in names]:
                told = True
                yield f"[{done:>3}/{total}] {names[job]}: {_span(clock() - began[job])}, about {left} left"
            ended.clear()
        elif line.startswith(MARK):
            yield line.removeprefix(MARK)
        else:
            unread.append(line)
    yield from () if names else unread


def _span(seconds: float) -> str:
    """12 s, 3 min, 2.1 h"""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def main(words: list[str]) -> int:
    """The command line behind `make run`: move outdated results away, run snakemake, report progress."""
    given = _read(words)
    asked = {"RUN": given.run, "PROFILE": given.profile, "DATA": given.data, "NB": given.only}
    again = " ".join(["make run", *(f"{name}={shlex.quote(word)}" for name, word in asked.items() if word), "AGAIN=1"])
    try:
        plan = Plan.read(given.profile, given.run, given.data)
        last = plan.wanted(given.only)[-1]
        plan.check_profile()
        changed, lacking = plan.changes()
        if changed and not given.again:
            told = "\n".join(f"  {part}: {why}" for part, why in changed.items())
            raise ValueError(
                f"{plan.home} was made from other data than are there now:\n{told}\nTo make that again, with what is "
                f"made of it (the old results are kept in outputs/replaced):\n  {again}\nTo keep it, give another RUN."
            )
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    home = ROOT / plan.home
    other = [part.removeprefix(f"{home.name}/") for part in code.by_other_code([home], home.parent)]
    if given.again:
        changed |= {part: "made by other code" for part in other if part not in changed}
    if {"-n", "--dry-run", "--dryrun"} & set(given.snakemake):
        return subprocess.run(_command(given), cwd=ROOT, stderr=subprocess.STDOUT, check=False).returncode
    with _alone(home):
        for sentence in plan.set_aside(changed | lacking):
            _tell(sentence)
        _tell(f"{plan.home}: finding out what is to be made ...")
        if status := _followed(_command(given), home / "pipeline.log"):
            _tell(f"{plan.home} is not complete; all of it: {home / 'pipeline.log'}")
            return status
    told = read_json(ROOT / last)
    _tell(f"{plan.home} is done. {told.get('conclusion') or told['says']}")
    if other and not given.again:
        _tell(
            f"{len(other)} of its results were made by other code than what lies here now ({', '.join(other[:3])} "
            f"...); they were kept. To make them again: {again}"
        )
    return 0


def _read(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lib.runs.pipeline", description="Run the notebooks of a run.")
    parser.add_argument("--profile", default="demo", help="names of parameter files, one over the other")
    parser.add_argument("--run", default="", help="folder under outputs/")
    parser.add_argument("--data", default="", help="folder of the data set")
    parser.add_argument("--only", default="", help="numbers of notebooks, such as '04 05'; what they need comes along")
    parser.add_argument("--gpus", type=int, default=count_gpus(), help="trainings at once on GPUs; by default one each")
    parser.add_argument("--again", action="store_true", help="make again what other data or other code has made")
    parser.add_argument("--on", default="default", help="profiles/<name>: default (this machine), slurm")
    parser.add_argument("snakemake", nargs="*", help="further words for snakemake, after --")
    return parser.parse_args(words)


def _command(given: argparse.Namespace) -> list[str]:
    """The call of snakemake that makes what was asked for."""
    config = {name: getattr(given, name) for name in ("run", "profile", "data", "only")}
    config = [f"{name}={value}" for name, value in config.items() if value] + [f"gpus={given.gpus}"]
    resources = ["--resources", f"gpu={given.gpus}"] if given.gpus else []
    command = [sys.executable, "-m", "snakemake", "--profile", f"profiles/{given.on}"]
    return [*command, *given.snakemake, *resources, "--config", *config]


def _followed(command: list[str], log: Path) -> int:
    """The exit status of snakemake, after telling how it went; all that it prints goes to the log."""
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with log.open("w") as file, subprocess.Popen(command, cwd=ROOT, preexec_fn=end_with_caller, **pipe) as made:
        for line in follow(_copied(made.stdout, file)):
            _tell(line)
    return made.returncode


def _tell(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")
    sys.stdout.flush()


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Wait until no other process makes this run, and say so; killed processes hold nothing."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _tell(f"{home.relative_to(ROOT)} is being made by another process; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _copied(lines: Iterator[str], log) -> Iterator[str]:
    for line in lines:
        log.write(line)
        log.flush()
        yield line.rstrip("\n")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
