"""The rooms of lib/: who may import whom. Arrows between rooms go one way, from the higher floor to a lower one."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = [
    {"figures"},
    {"submission", "experiments"},
    {"clips"},
    {"runs"},
    {"training"},
    {"sound", "evaluation"},
    {"data"},
    {"code", "files", "ideas", "settings"},  # modules in no room: they may import each other
]


def imported(path: Path) -> set[str]:
    """The modules of lib/ that a file imports anywhere, such as "data.audio"."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lib":
            full = [f"{node.module}.{item.name}".removeprefix("lib.") for item in node.names]
            found |= {name if (ROOT / "lib" / f"{name.replace('.', '/')}.py").is_file() else name.rpartition(".")[0]
                      for name in full}  # fmt: skip
    return found


def test_rooms_import_only_what_lies_below_them():
    floor = {room: number for number, rooms in enumerate(reversed(FLOORS)) for room in rooms}
    back = set()
    for path in sorted((ROOT / "lib").rglob("*.py")):
        here = ".".join(path.relative_to(ROOT / "lib").with_suffix("").parts)
        room = here.split(".")[0]
        for there in imported(path):
            other = there.split(".")[0]
            if other != room and floor[room] <= floor[other] and not {room, other} <= FLOORS[-1]:
                back.add((here, there))
    assert not back


@pytest.mark.parametrize("path", [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("ideas/*.py")], ids=lambda path: path.name)
def test_what_is_imported_from_the_rooms_is_there(path):
    """Also by programs that stand in a text, and by those that only a benchmark runs."""
    for module, names in re.findall(r"from (lib[\w.]*) import ([\w, ]+)", path.read_text(encoding="utf-8")):
        for name in re.findall(r"\w+", re.sub(r" as \w+", "", names)):
            room = importlib.import_module(module)
            assert hasattr(room, name) or importlib.util.find_spec(f"{module}.{name}"), f"{module}.{name}"
