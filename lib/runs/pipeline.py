"""One run of the pipeline: move outdated results away, start snakemake, report progress.

The output of snakemake goes to outputs/<run>/pipeline.log; progress and errors are shown.

Used in: `make run` (python -m lib.runs.pipeline).
"""

import argparse
import difflib
import fcntl
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import yaml

from lib import code
from lib.files import explained, read_json
from lib.runs.job import MARK, count_gpus, end_with_caller
from lib.runs.plan import ROOT, Plan
from lib.runs.recipes import BASE

__all__ = ["follow", "main"]


def follow(lines: Iterable[str], clock: Callable[[], float] = time.monotonic) -> Iterator[str]:
    """Progress from the output of snakemake: the number of parts, which parts begin, finish and fail, the time left.

    Beginnings are reported only until the first part is finished.

    Parameters
    ----------
    lines : output of snakemake. Lines that `job` marks are passed on. If no job begins (nothing to do, or an error in
        the plan), all lines are passed on.
    """
    started, began, names, ended, unread, any_finished = clock(), {}, {}, [], [], False
    for line in lines:
        if match := re.match(r"total +(\d+)", line):
            yield f"{int(match[1]) - 1} parts to make, each a notebook"  # one job is only the end
        elif match := re.match(r"Job (\d+): (.*)", line):
            names[match[1]], began[match[1]] = match[2], clock()
            if not any_finished:
                yield f"{match[2]} has begun"
        elif match := re.match(r"Finished jobid: (\d+)", line):
            ended.append(match[1])
        elif match := re.match(r"(\d+) of (\d+) steps", line):
            done, total = int(match[1]), int(match[2]) - 1  # the last step is only the end
            left = _span((clock() - started) / done * (total - done))
            for job in [job for job in ended if job in names]:
                any_finished = True
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
    try:
        return _make(_parse(words))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _make(given: argparse.Namespace) -> int:
    """Make what is asked for; return the exit status. OSError or ValueError, with what to do, where that can't be."""
    asked = {"RUN": given.run, "PROFILE": given.profile, "DATA": given.data, "NB": given.only}
    again = " ".join(["make run", *(f"{name}={shlex.quote(word)}" for name, word in asked.items() if word), "AGAIN=1"])
    _check_name(given.data)
    plan = Plan.read(given.profile, given.run, given.data)
    targets = plan.wanted(given.only)
    last, score = targets[-1], plan.pooled([BASE])[0]
    plan.check_results()
    changed, lacking = plan.changes()
    if changed and not given.again:
        parts = "\n".join(f"  {part}: {why}" for part, why in changed.items())
        raise ValueError(
            f"{plan.home} was made from other data than are there now:\n{parts}\nTo make that and all that depends "
            f"on it again (the old results are kept in outputs/replaced):\n  {again}\nTo keep it, give another RUN."
        )
    home = ROOT / plan.home
    if hint := _hint(plan):
        _report(hint)
    other = [part.removeprefix(f"{home.name}/") for part in code.by_other_code([home], home.parent)]
    if given.again:
        changed |= {part: "made by other code" for part in other if part not in changed}
    if {"-n", "--dry-run", "--dryrun"} & set(given.snakemake):
        return subprocess.run(_command(given), cwd=ROOT, stderr=subprocess.STDOUT, check=False).returncode
    with _lock(home):
        for sentence in plan.set_aside(changed | lacking):
            _report(sentence)
        _report(f"{plan.home}: finding out what is to be made ...")
        if status := _run_snakemake(_command(given), home / "pipeline.log"):
            _report(f"{plan.home} is not complete; the full log: {home / 'pipeline.log'}")
            return status
    if not (ROOT / last).is_file():  # snakemake was asked for less, such as ARGS=--unlock
        return 0
    results = [read_json(ROOT / target) for target in dict.fromkeys([score, last]) if target in targets]
    _report(f"{plan.home} is done. {' '.join(result.get('conclusion') or result['says'] for result in results)}")
    if other and not given.again:
        _report(
            f"{len(other)} of its results were made by other code than is here now ({', '.join(other[:3])} "
            f"...); they were kept. To make them again: {again}"
        )
    return 0


def _check_name(data: str) -> None:
    """ValueError if snakemake would take a path for another one: it strips quotes, and reads YAML and numbers."""
    read = data.strip("'\"")
    with suppress(yaml.YAMLError):  # what is no YAML is read as text
        read = yaml.BaseLoader(read).get_single_data()
    with suppress(ValueError, TypeError):
        read = float(read)
    if data and read != data:
        raise ValueError(
            f"DATA={data!r} would be read as {read!r}. Make a link to it whose name has no quotes, no ' #' and no ': ' "
            "in it, and is no number."
        )


def _hint(plan: Plan) -> str:
    """For a run that is neither there nor named by a parameter file: which file its name may have meant; else ""."""
    run, there = Path(plan.home).name, [path.stem for path in (ROOT / "params").glob("*.yaml")]
    near = difflib.get_close_matches(run, there, n=1, cutoff=0.75)
    if run in there or not near or (ROOT / plan.home).exists():
        return ""
    return f"There is no params/{run}.yaml, so {run} is a run of its own. To make params/{near[0]}.yaml: RUN={near[0]}"


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lib.runs.pipeline", description="Run the notebooks of a run.")
    parser.add_argument("--profile", default="demo", help="names of parameter files, one over the other")
    parser.add_argument("--run", default="", help="folder under outputs/")
    parser.add_argument("--data", default="", help="folder of the data set")
    parser.add_argument("--only", default="", help="numbers of notebooks, such as '04 05'; what they need comes along")
    parser.add_argument("--gpus", type=int, default=count_gpus(), help="trainings at once on GPUs; by default one each")
    parser.add_argument("--again", action="store_true", help="make results of other data or other code again")
    parser.add_argument("--on", default="default", help="profiles/<name>: default (this machine), slurm")
    parser.add_argument("snakemake", nargs="*", help="further words for snakemake, after --")
    return parser.parse_args(words)


def _command(given: argparse.Namespace) -> list[str]:
    """The snakemake command for the given arguments."""
    config = {name: getattr(given, name) for name in ("run", "profile", "data", "only")}
    config = [f"{name}={value}" for name, value in config.items() if value] + [f"gpus={given.gpus}"]
    resources = ["--resources", f"gpu={given.gpus}"] if given.gpus else []
    command = [sys.executable, "-m", "snakemake", "--profile", f"profiles/{given.on}"]
    return [*command, *given.snakemake, *resources, "--config", *config]


def _run_snakemake(command: list[str], log: Path) -> int:
    """Run snakemake, report progress, write its output to the log; return its exit status."""
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    unbuffered = log.open("wb", buffering=0)
    with unbuffered as file, subprocess.Popen(command, cwd=ROOT, preexec_fn=end_with_caller, **pipe) as process:
        try:
            for line in follow(_logged(process.stdout, file)):
                _report(line)
        except OSError:  # nobody reads the report any more: snakemake would wait for ever for a reader of its own
            process.kill()
            raise
    return process.returncode


def _report(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")
    sys.stdout.flush()


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    """Hold the lock of a run; wait, with a message, while another process holds it. A killed process releases it."""
    with explained(home):
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / ".lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _report(f"{home.relative_to(ROOT)} is being made by another process; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _logged(lines: Iterator[str], log: BinaryIO) -> Iterator[str]:
    """The lines, each written to the log too; the log of a full disk ends there."""
    for line in lines:
        with suppress(OSError):
            log.write(line.encode())
        yield line.rstrip("\n")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
