"""Run a command that ends with its caller, logs its output, and reports which cell of a notebook failed.

    python -m lib.runs.job papermill [options] notebook.ipynb executed.ipynb ...

The output (progress of a training) goes to log.txt beside the executed notebook. With GPUS=n in the environment, at
most n such jobs run on this machine's GPUs at once. Standard library only: it runs before every notebook of the
pipeline.

Used in: Snakefile, `pipeline`.
"""

import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TextIO

__all__ = ["MARK", "claim_gpu", "count_gpus", "end_with_caller", "failure", "main"]

MARK = "! "  # start of the lines that `pipeline` shows to the user

PR_SET_PDEATHSIG = 1  # prctl(2)
SHOWN = 15  # last lines of a log or an error


def end_with_caller() -> None:
    """On Linux, have this process killed when its parent ends, even by `kill -9`; elsewhere do nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def count_gpus() -> int:
    """The number of GPUs of this machine, by nvidia-smi."""
    if not shutil.which("nvidia-smi"):
        return 0
    return subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout.count("GPU ")


def claim_gpu(n: int, n_gpus: int) -> tuple[int, TextIO] | None:
    """Claim a GPU for one of n simultaneous trainings, which share n_gpus.

    Jobs of other users of the machine are not taken into account.

    Returns
    -------
    The number of the GPU, and the open file that holds the claim; None without a GPU, or if all n places are taken
    """
    for place in range(n if n_gpus else 0):
        lock = Path(tempfile.gettempdir(), f"sound-tagging-{os.getuid()}-gpu-{place}.lock")
        file = lock.open("a")  # noqa: SIM115 - open as long as the claim
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return place % n_gpus, file
        except BlockingIOError:
            file.close()
    return None


def failure(executed: Path, log: Path) -> str:
    """Which cell of an executed notebook failed, and its error; without one (the kernel died), the end of the log."""
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"] if executed.is_file() else []
    for number, cell in enumerate([cell for cell in cells if cell["cell_type"] == "code"], 1):
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                source = [f"    {line}" for line in "".join(cell["source"]).splitlines()[:SHOWN]]
                error = f"{output['ename']}: {output['evalue']}".splitlines()[:SHOWN]
                return "\n".join([f"{executed}: code cell {number} failed.", *source, *error])
    last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN:] if log.is_file() else []
    return "\n".join([f"{executed}: no cell failed, but the run did. The end of {log}:", *last])


def main(words: list[str]) -> int:
    """Run the command `words`; return 1 if it failed, else 0."""
    end_with_caller()
    at_once = int(os.environ.get("GPUS", "0"))
    claimed = claim_gpu(at_once, count_gpus()) if at_once and "CUDA_VISIBLE_DEVICES" not in os.environ else None
    if claimed:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(claimed[0])
    executed = Path([word for word in words if word.endswith(".ipynb")][-1])
    log = executed.with_name("log.txt")
    executed.parent.mkdir(parents=True, exist_ok=True)
    executed.unlink(missing_ok=True)  # of an earlier try
    with log.open("w", encoding="utf-8") as file:
        code = subprocess.run(words, stderr=file, stdout=file, preexec_fn=end_with_caller, check=False).returncode
    if code:
        sys.stderr.writelines(f"{MARK}{line}\n" for line in failure(executed, log).splitlines())
    return 1 if code else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    raise SystemExit(main(sys.argv[1:]))
