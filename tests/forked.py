"""papermill without its ten seconds: a notebook runs in a fork of a process that has imported what notebooks import.

papermill itself reads the command line, puts the parameters in and writes the notebook; only the kernel is missing:
cells run in IPython's shell within the fork. What must be seen with a kernel is run by the real command.
"""

import multiprocessing
import os
import sys
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["papermill.cli", "lib.training.learners", "lib.experiments.sweep", "lib.figures.logmels", "lib.figures.scores"]
)


def papermill(words: list[str], folder: Path, printed: Path, seconds: float) -> int:
    """Run papermill's command line in `folder`; the exit status. What it prints goes to the file `printed`."""
    fork = FORKS.Process(target=_run, args=(words, str(folder), str(printed)))
    fork.start()
    fork.join(seconds)
    if fork.exitcode is None:
        fork.kill()
        raise AssertionError(f"{words} took more than {seconds} s")
    return fork.exitcode


def _run(words: list[str], folder: str, printed: str) -> None:
    file = os.open(printed, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    for number in (1, 2):
        os.dup2(file, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", buffering=1) for number in (1, 2))
    os.chdir(folder)
    from papermill.cli import papermill as command
    from papermill.engines import Engine, papermill_engines

    class Shell(Engine):
        """Cells, one after the other, in IPython's shell of this process; the first error ends it."""

        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **options) -> None:
            from IPython.core.interactiveshell import InteractiveShell
            from traitlets.config import Config

            shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
            for index, cell in enumerate(nb_man.nb.cells):
                if cell.cell_type == "code":
                    nb_man.cell_start(cell, index)
                    shell.run_cell(cell.source).raise_error()
                    nb_man.cell_complete(cell, index)

    papermill_engines.register("shell", Shell)
    command.main(args=[*words, "--engine", "shell"])
