"""The golden run: does a demo run still leave the same numbers? For changes that move code and should change none.

    python tests/golden.py            make the run, and print what differs from tests/golden.json
    python tests/golden.py --write    make the run, and keep it as the golden one

Of another run, kept in a file of one's own (say, while lib/ is being rebuilt):

    python tests/golden.py --profile "fsd-mini quick" --data ../shared/data/fsd-mini --only "04 06" --golden FILE.json

Tables, scores and weights are compared to the last byte, result.json by its content. Left out is what tells of time,
place and code: manifest.json, configuration.json, costs.csv, minutes, notebooks, figures. The last bits of a training
depend on the processor, so golden.json names the one it was made on: on another one, make it anew from the commit
before yours.
"""

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
GOLDEN, RUN = ROOT / "tests" / "golden.json", "golden"
SUFFIXES = (".csv", ".npz", ".safetensors")
LEFT_OUT = ("/09_journal/", "/costs.csv")  # what is said of all runs that lie there; seconds
TIMES = ("minutes", "seconds")  # columns
RENAMED: dict[str, str] = {}  # key of a result.json then -> now


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def made(home: Path) -> dict[str, object]:
    """What a run holds: path -> digest, or the content of a result.json."""
    found: dict[str, object] = {}
    for path in sorted(home.rglob("*")):
        name = path.relative_to(home).as_posix()
        if any(part in f"/{name}" for part in LEFT_OUT):
            continue
        if path.name == "result.json":
            found[name] = json.loads(path.read_text())
        elif path.suffix in SUFFIXES:
            found[name] = hashlib.sha256(untimed(path)).hexdigest()[:16]
    return found


def untimed(path: Path) -> bytes:
    """The bytes of a file; of a table, without the columns that tell how long something took."""
    raw = path.read_bytes()
    columns = set(raw.partition(b"\n")[0].decode(errors="replace").strip().split(","))
    if path.suffix != ".csv" or not columns & set(TIMES):
        return raw
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table.drop(columns=list(TIMES), errors="ignore").to_csv(index=False).encode()


def renamed(value: object) -> object:
    """A result.json under the names of today."""
    if not isinstance(value, dict):
        return value
    return {RENAMED.get(key, key): renamed(part) for key, part in value.items()}


def differences(golden: dict[str, object], now: dict[str, object], at: str = "") -> list[str]:
    """A line each for what is gone, what is new and what changed."""
    lines = []
    for name in sorted({**golden, **now}):
        place = f"{at} {name}".strip()
        if name not in now or name not in golden:
            lines.append(f"{place}: {'gone' if name not in now else 'new'}")
        elif isinstance(golden[name], dict) and isinstance(now[name], dict):
            lines += differences(golden[name], now[name], place)
        elif golden[name] != now[name]:
            lines.append(f"{place}: {golden[name]} then, {now[name]} now")
    return lines


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Does a demo run still leave the same numbers?")
    parser.add_argument("--write", action="store_true", help="keep what is made as the golden run")
    parser.add_argument("--golden", type=Path, default=GOLDEN, help="where it is kept (tests/golden.json)")
    parser.add_argument("--profile", default="demo", help="parameter files, one over the other (demo)")
    for name in ("data", "only"):
        parser.add_argument(f"--{name}", default="", help="as DATA and NB of make run")
    asked = parser.parse_args(words)
    home = ROOT / "outputs" / RUN
    shutil.rmtree(home, ignore_errors=True)
    what = ["--run", RUN, "--profile", asked.profile, "--data", asked.data, "--only", asked.only]
    if code := subprocess.run([sys.executable, "-m", "lib.runs.pipeline", *what], cwd=ROOT).returncode:
        return code
    now = {"processor": processor(), "made": made(home)}
    if asked.write:
        asked.golden.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
        print(f"{len(now['made'])} files are golden now: {asked.golden}")
        return 0
    golden = json.loads(asked.golden.read_text())
    if golden["processor"] != now["processor"]:
        print(f"{asked.golden} was made on {golden['processor']}, this is {now['processor']}: last bits may differ.")
    found = differences({name: renamed(value) for name, value in golden["made"].items()}, now["made"])
    print("\n".join(found) or f"Equal: {len(now['made'])} files.")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
