"""Tests of lib.findings: the README says what outputs/findings holds, and a place that names nothing is refused."""

import json
from pathlib import Path

import pytest
import yaml

from lib import findings

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "outputs" / "findings"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "t.csv").write_text(
        "variant,kind,n,ratio,lwlrap,lwlrap_low,lwlrap_high,lwlrap_diff,lwlrap_diff_low,lwlrap_diff_high,verdict\n"
        "base,a,400,9.7046,0.92384,0.9,0.945,,,,\n"
        "slice,a,400,1.5,0.91,0.89,0.93,-0.01384,-0.03,-0.0004,unclear\n"
        "slice,b,400,2,1.0,0.99,1.0,0.0762,0.05,1.0,kept\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("place", "written"),
    [
        ("{t: base: lwlrap+-}", ".924 [.900, .945]"),
        ("{t: base: lwlrap}", ".924"),
        ("{t: base: n}", "400"),
        ("{t: base: ratio} {t: slice/a: ratio}", "9.7 1.5"),
        ("{t: slice/a}", "-.014 [-.030, +.000]"),
        ("{t: slice/b}", "+.076 [+.050, +1.000]"),
        ("{t: slice/b: lwlrap}", "1.000"),
        ("{t: slice/b: verdict}", "kept"),
        ("n = {t: base: n}, {t: slice/a: verdict}; {no place} {}", "n = 400, unclear; {no place} {}"),
    ],
)
def test_a_place_becomes_its_number(folder, place, written):
    assert findings.fill(place, folder) == written


def test_numbers_are_rounded_as_in_the_notebooks(tmp_path):
    (tmp_path / "t.csv").write_text("run,hit_rate\none,0.8725\n")
    assert findings.fill("{t: one: hit_rate}", tmp_path) == f"{0.8725:.3f}".removeprefix("0") == ".873"


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("{u: base}", "there is no table u.csv"),
        ("{t: basis}", "0 rows of t.csv hold basis"),
        ("{t: slice}", "2 rows of t.csv hold slice, one must"),
        ("{t: base: hit_rate+-}", "has no column hit_rate, hit_rate_low, hit_rate_high. It has: variant, kind"),
    ],
)
def test_a_place_that_names_nothing_is_refused_in_words(folder, place, why):
    with pytest.raises(ValueError, match=why) as error:
        findings.fill(place, folder)
    assert place in str(error.value)


def test_blocks_are_written_anew_and_the_rest_is_left_alone(folder):
    front = "about this page\n<!-- one -->\n{t: base: lwlrap}\n<!-- /one -->\n<!-- two -->\nx\n<!-- /two -->\n"
    readme = "# Title {t: base}\n<!-- one -->\nold\n<!-- /one -->\nwords\n<!-- two -->\n<!-- /two -->\nend\n"
    expected = "# Title {t: base}\n<!-- one -->\n.924\n<!-- /one -->\nwords\n<!-- two -->\nx\n<!-- /two -->\nend\n"
    assert findings.render(readme, front, folder) == expected
    assert findings.render(expected, front, folder) == expected
    with pytest.raises(ValueError, match=r"Blocks \['two'\]"):
        findings.render("<!-- one -->\n<!-- /one -->\n", front, folder)


def test_what_runs_have_left_is_collected_and_the_rest_stays(tmp_path):
    here = tmp_path / "findings"
    here.mkdir()
    (here / "sources.yaml").write_text(
        "a.csv: mine/a/table.csv\nb.csv: mine/b/table.csv\nc.csv: [mine/a/result.json, x/result.json]\n"
    )
    for run, n in (("mine/a", 3), ("x", 4)):
        (tmp_path / run).mkdir(parents=True)
        result = {"parameters": {"run": run[0]}, "metrics": {"n": n, "lwlrap": n / 8}}
        (tmp_path / run / "result.json").write_text(json.dumps(result))
    (here / "b.csv").write_text("old")
    (tmp_path / "mine" / "a" / "table.csv").write_text("new")
    assert findings.collect(tmp_path) == ["b.csv stays as it is: there is no outputs/mine/b/table.csv here"]
    assert (here / "a.csv").read_text() == "new" and (here / "b.csv").read_text() == "old"
    assert findings.fill("{c: x: n} {c: m: lwlrap}", here) == "4 .375"


def test_readme_and_findings_agree():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    front = (FOLDER / "front.md").read_text(encoding="utf-8")
    assert findings.render(readme, front, FOLDER) == readme, "make findings writes the README's numbers anew"


def test_every_finding_is_there_and_has_a_source():
    sources = yaml.safe_load((FOLDER / "sources.yaml").read_text(encoding="utf-8"))
    here = {path.name for path in FOLDER.iterdir()} - {"sources.yaml", "front.md"}
    assert here == set(sources)
