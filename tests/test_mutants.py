"""Tests of tests/mutants.yaml: every mutant has its line and its tests, and changes what Python does."""

import ast
import functools
import re
from collections import Counter

import mutants
import pytest

TABLE = mutants.read()


@functools.cache
def meaning(text: str) -> str:
    """The syntax tree without docstrings: two texts with the same one do the same."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
    return ast.dump(tree)


@pytest.mark.parametrize("mutant", TABLE, ids=lambda mutant: mutant.id)
def test_a_mutant_has_its_line_and_its_tests(mutant):
    path, _ = mutant.place()
    assert "\n" not in mutant.old + mutant.new
    assert meaning(mutant.text()) != meaning(mutants.library()[path])
    for test in mutant.tests.split():
        name, _, function = test.partition("::")
        assert f"\ndef {function}(" in (mutants.ROOT / "tests" / name).read_text(encoding="utf-8"), test


def test_no_mutant_has_vanished():
    """Ids count on within their kind, so that one that is taken out leaves a gap or a smaller number of all."""
    assert len(TABLE) >= 129  # as many as there are: raised with the table, never lowered
    text = (mutants.ROOT / "tests" / "mutants.yaml").read_text(encoding="utf-8")
    assert len(re.findall(r"^  [a-z]+-\d+:$", text, re.MULTILINE)) == len(TABLE)  # YAML drops the first of two
    counts = Counter(mutant.kind for mutant in TABLE)
    assert len(counts) == 10 and min(counts.values()) >= 3
    for kind, n in counts.items():
        names, numbers = zip(*(mutant.id.split("-") for mutant in TABLE if mutant.kind == kind), strict=True)
        assert len(set(names)) == 1 and list(map(int, numbers)) == list(range(1, n + 1)), kind


def test_a_line_that_is_gone_or_not_alone_is_told():
    gone = mutants.Mutant("gone-1", "kind", "", "no such line", "", "")
    with pytest.raises(ValueError, match="gone-1: `no such line` stands nowhere, expected one line of lib/"):
        gone.place()
    with pytest.raises(ValueError, match=r"stands lib/.*\.py:\d+, lib/.*\.py:\d+, "):
        mutants.Mutant("many-1", "kind", "", "import", "", "").place()
