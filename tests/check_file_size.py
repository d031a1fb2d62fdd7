"""Refuse to commit large files: audio, weights and caches never belong into the repository. Used by pre-commit."""

import sys
from pathlib import Path

LIMIT_KB = 500


def main(names: list[str]) -> int:
    large = [name for name in names if Path(name).is_file() and Path(name).stat().st_size > LIMIT_KB * 1000]
    for name in large:
        print(f"{name} is over {LIMIT_KB} kB. Data, weights and figures of runs stay in outputs/ (ignored by git).")
    return int(bool(large))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
