"""The pipeline on a real SLURM: a fold is a job, one is cancelled, the node is drained, and the numbers are the same.

`make test-slurm` starts a cluster of one node on this machine (tests/slurm.sh installs Debian's packages; root).
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from test_pipeline import Workbook, wait_until

pytestmark = pytest.mark.skipif("TEST_SLURM" not in os.environ, reason="make test-slurm runs it")
SCRIPT = Path(__file__).with_name("slurm.sh")


def slurm(*words: str) -> list[str]:
    """The lines that a command of SLURM prints."""
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture(scope="module")
def node():
    """Name of the one node of a cluster that runs until the tests end."""
    started = subprocess.run(["bash", str(SCRIPT), "start"], capture_output=True, text=True, timeout=600)
    if started.returncode == 77:
        pytest.skip(started.stderr.strip())
    assert started.returncode == 0, started.stderr
    yield slurm("sinfo", "-h", "-o", "%n")[0]
    subprocess.run(["bash", str(SCRIPT), "stop"], timeout=60, check=True)


def made(workbook: Workbook) -> dict[str, object]:
    """Metrics and weights of every part."""
    parts = workbook.root / "outputs" / "demo" / "04_kfold" / "curated"
    metrics = {path.parent.name: json.loads(path.read_text())["metrics"] for path in parts.rglob("result.json")}
    return metrics | {f"{path.parent.name} weights": path.read_bytes() for path in parts.rglob("weights.safetensors")}


def test_a_cancelled_job_and_a_drained_node_change_nothing(node, tmp_path):
    here, there = (Workbook(tmp_path / name, real=True) for name in ("here", "there"))
    for workbook in (here, there):
        workbook.profile(epochs=2)
    code, said = here.run("--only", "04")
    assert code == 0, said
    started = there.start("--only", "04", "--on", "slurm")
    wait_until(lambda: slurm("squeue", "-h", "-t", "R", "-o", "%i"), seconds=120)
    cancelled = slurm("squeue", "-h", "-t", "R", "-o", "%i")[0]
    slurm("scancel", cancelled)
    slurm("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    wait_until(lambda: not slurm("squeue", "-h", "-t", "R,CG", "-o", "%i"), seconds=300)
    waiting = slurm("squeue", "-h", "-t", "PD", "-o", "%i")
    assert waiting  # nothing starts on a drained node
    slurm("scontrol", "update", f"NodeName={node}", "State=RESUME")
    said = started.communicate(timeout=1200)[0]
    assert started.returncode == 0, said
    log = (there.root / "outputs" / "demo" / "pipeline.log").read_text()
    assert f"SLURM jobid {cancelled} " in log and "Trying to restart job" in log
    first, second = made(here), made(there)
    pooled = there.root / "outputs" / "demo" / "04_kfold" / "curated" / "pooled" / "result.json"
    n_folds = json.loads(pooled.read_text())["parameters"]["n_folds"]
    assert len(first) == 2 * n_folds + 1 and first == second
    assert log.count("has been submitted with SLURM jobid") == n_folds + 2  # one fold twice, and the pooled score
