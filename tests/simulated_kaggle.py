"""Run a kernel's notebook as Kaggle would, but for its image: python -I simulated_kaggle.py NOTEBOOK ALLOWED...

Packages that Kaggle hasn't got, or that scoring must not need, can't be imported (unless named after the notebook), nor
can an installed `lib`; a connection to anywhere is an error. The working folder is the current one, inputs are mounted
at KERNEL_INPUT. The cells run in IPython, one after the other, as they were sent.
"""

import json
import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

BLOCKED = {"fastai", "fastcore", "librosa", "numba", "iterstrat", "papermill", "kaggle", "snakemake"}


class Absent:
    """Finds nothing where there is something."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r} (it is not on this Kaggle)", name=name)


def refuse(*_: object) -> None:
    raise OSError("no network inside a kernel")


def main(notebook: str, *allowed: str) -> None:
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in f"{finder} {finder.__module__}"]
    sys.path[:] = [folder for folder in sys.path if not Path(folder, "lib", "files.py").is_file()]
    assert find_spec("lib") is None, "an installed lib is still in reach"
    sys.meta_path.insert(0, Absent(BLOCKED - set(allowed)))
    socket.socket.connect = socket.socket.connect_ex = refuse
    from IPython.core.interactiveshell import InteractiveShell

    os.environ["MPLBACKEND"] = "agg"
    shell = InteractiveShell.instance()
    for cell in json.loads(Path(notebook).read_text())["cells"]:
        if cell["cell_type"] == "code":
            shell.run_cell(cell["source"]).raise_error()
    import lib

    assert "lib.zip" in lib.__file__ and not (BLOCKED - set(allowed)) & set(sys.modules)


if __name__ == "__main__":
    main(*sys.argv[1:])
