"""Tests of pages, the README's numbers: they are those of outputs/findings; what names nothing, or was made by other
code, is refused."""

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from lib import code
from lib.files import write_json
from lib.runs import pages as findings

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "outputs" / "findings"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "t.csv").write_text(
        "variant,kind,n,ratio,lwlrap,lwlrap_low,lwlrap_high,lwlrap_diff,lwlrap_diff_low,lwlrap_diff_high,verdict,"
        "smallest_diff,n_seeds\n"
        "base,a,400,9.7046,0.92384,0.9,0.945,,,,,,1\n"
        "slice,a,400,1.5,0.91,0.89,0.93,-0.01384,-0.03,-0.0004,unclear,0.03,3\n"
        "slice,b,400,2,1.0,0.99,1.0,0.0762,0.05,1.0,kept,0.03,3\n"
        "slice,c,400,2,1.0,0.99,1.0,0.001,-0.01,0.02,screened,0.03,1\n"
        "slice,d,400,2,1.0,0.99,1.0,0.001,-0.01,0.012,unclear,0.03,3\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("place", "written"),
    [
        ("{{ n('t', 'base', 'lwlrap+-') }}", ".924 [.900, .945]"),
        ("{{ n('t', 'base', 'lwlrap') }}", ".924"),
        ("{{ n('t', 'base', 'n') }}", "400"),
        ("{{ n('t', 'base', 'n_seeds') }}", "1"),
        ("{{ n('t', 'base', 'ratio') }} {{ n('t', 'slice/a', 'ratio') }}", "9.7 1.5"),
        ("{{ n('t', 'slice/a') }}", "-.014 [-.030, -.000]"),
        ("{{ n('t', 'slice/b') }}", "+.076 [+.050, +1.000]"),
        ("{{ n('t', 'slice/b', 'lwlrap') }}", "1.000"),
        ("{{ n('t', 'slice/b', 'verdict') }}", "kept"),
        ("{{ n('t', 'slice/b', 'answer') }}", "it helps"),
        ("{{ n('t', 'slice/a', 'answer') }}", "not settled: about 1700 clips would"),
        ("{{ n('t', 'slice/d', 'answer') }}", "no difference larger than .015"),
        ("{{ n('t', 'slice/c', 'answer') }}", "not settled (screened): about 2000 clips would"),
        (
            "n = {{ n('t', 'base', 'n') }}, {{ n('t', 'slice/a', 'verdict') }}; {no place} {}",
            "n = 400, unclear; {no place} {}",
        ),
    ],
)
def test_a_place_becomes_its_number(folder, place, written):
    assert findings.fill(place, folder) == written


def test_a_row_may_hold_the_sign_that_joins_values(tmp_path):
    (tmp_path / "w.csv").write_text("method,lwlrap\nhop 1/2 window,0.7\nhop 1,0.6\n")
    assert findings.fill("{{ n('w', 'hop 1/2 window', 'lwlrap') }}", tmp_path) == ".700"


def test_numbers_are_rounded_as_in_the_notebooks(tmp_path):
    (tmp_path / "t.csv").write_text("run,hit_rate\none,0.8725\n")
    assert findings.fill("{{ n('t', 'one', 'hit_rate') }}", tmp_path) == f"{0.8725:.3f}".removeprefix("0") == ".873"


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("{{ n('u', 'base') }}", "there is no table u.csv"),
        ("{{ n('t', 'basis') }}", "0 rows of t.csv hold basis"),
        ("{{ n('t', 'slice') }}", "4 rows of t.csv hold slice, one must"),
        (
            "{{ n('t', 'base', 'hit_rate+-') }}",
            "has no column hit_rate, hit_rate_low, hit_rate_high. It has: variant, kind",
        ),
    ],
)
def test_a_place_that_names_nothing_is_refused_in_words(folder, place, why):
    with pytest.raises(ValueError, match=why) as error:
        findings.fill(place, folder)
    assert place.split("'")[3] in str(error.value)  # the row


def test_blocks_are_written_anew_and_the_rest_is_left_alone(folder):
    front = (
        "about this page\n<!-- one -->\n{{ n('t', 'base', 'lwlrap') }}\n<!-- /one -->\n<!-- two -->\nx\n<!-- /two -->\n"
    )
    readme = "# Title {{ n('t', 'base') }}\n<!-- one -->\nold\n<!-- /one -->\nwords\n<!-- two -->\n<!-- /two -->\nend\n"
    expected = (
        "# Title {{ n('t', 'base') }}\n<!-- one -->\n.924\n<!-- /one -->\nwords\n<!-- two -->\nx\n<!-- /two -->\nend\n"
    )
    assert findings.render({"a": readme}, front, folder) == {"a": expected}
    assert findings.render({"a": expected}, front, folder) == {"a": expected}
    one, two = "<!-- one -->\n<!-- /one -->\n", "<!-- two -->\n<!-- /two -->\n"
    for pages in ({"a": one}, {"a": one, "b": two, "c": two}):
        with pytest.raises(ValueError, match=r"Blocks \['two'\] must be once"):
            findings.render(pages, front, folder)


def leave(outputs, path, table="variant,lwlrap_diff,n_seeds\na,0.1,3\n", manifest=None, **params):
    """What a run of 07 leaves at a path below outputs/: a table, result.json and manifest.json."""
    (outputs / path).parent.mkdir(parents=True, exist_ok=True)
    (outputs / path).write_text(table)
    params = {"run": path.split("/")[0], "profile": "fsd-mini", "data_dir": "demo", **params}
    write_json((outputs / path).with_name("result.json"), {"parameters": params, "metrics": {"n": 3, "lwlrap": 0.5}})
    made = {"code": code.digest(path.split("/")[1])} if manifest is None else manifest
    write_json((outputs / path).with_name("manifest.json"), made)


@pytest.fixture
def outputs(tmp_path):
    """Three findings, of which two have an old copy, and what is awaited of runs."""
    here = tmp_path / "findings"
    here.mkdir()
    (here / "sources.yaml").write_text(
        "a.csv: mine/07_ensemble/parts.csv\nb.csv: other/07_ensemble/parts.csv\nd.csv: made.csv\n"
        "c.csv: [mine/07_ensemble/result.json, other/07_ensemble/result.json]\n"
    )
    for name in "ab":
        (here / f"{name}.csv").write_text("old")
    (tmp_path / "made.csv").write_text("by a script\n")
    leave(tmp_path, "mine/07_ensemble/parts.csv", seeds=[1, 2, 3])
    return tmp_path


def test_what_runs_have_left_is_collected_and_the_rest_stays(outputs):
    missing, refused = findings.collect(outputs)
    assert missing == [
        "b.csv stays as it is: there is no outputs/other/07_ensemble/parts.csv here",
        "c.csv stays as it is: there is no outputs/other/07_ensemble/result.json here",
    ]
    assert refused == []
    here = outputs / "findings"
    assert (here / "a.csv").read_text().startswith("variant,") and (here / "b.csv").read_text() == "old"
    assert (here / "d.csv").read_text() == "by a script\n"
    leave(outputs, "other/07_ensemble/parts.csv", seeds=[1, 2, 3])
    assert findings.collect(outputs) == ([], [])
    assert findings.fill("{{ n('c', 'other', 'n') }} {{ n('c', 'mine', 'lwlrap') }}", here) == "3 .500"


@pytest.mark.parametrize(
    ("left", "why"),
    [
        ({"manifest": {"code": "0123456789ab"}}, r"It, .* made by other code .* \(other/07_ensemble\)"),
        ({"manifest": {}}, r"It, .* made by other code .* \(other/07_ensemble\)"),  # from before it was recorded
        (
            {"manifest": {"code": code.digest("07_ensemble"), "other_code": ["other/04_kfold/curated/without_0"]}},
            r"It, or a part that it read, was made by other code .* \(other/04_kfold/curated/without_0\)",
        ),
        (
            {"table": "variant,n_seeds\nbase,\na,3\nb,90\n"},
            r"outputs/other/07_ensemble/parts.csv counts 90 seeds, but its result has 3: ",
        ),
        ({"seeds": [1, 1, 1]}, r"outputs/\S+ counts 3 seeds, but its result has 1: members of an ensemble and draws"),
    ],
)
def test_a_table_of_other_code_or_of_too_many_seeds_is_refused(outputs, left, why):
    leave(outputs, "other/07_ensemble/parts.csv", **{"seeds": [1, 2, 3], **left})
    missing, refused = findings.collect(outputs)
    assert missing == []
    assert re.match(f"b.csv stays as it is: {why}", refused[0]), refused
    assert "make run NB=07 RUN=other PROFILE=fsd-mini DATA=... AGAIN=1" in refused[0]
    assert (outputs / "findings" / "b.csv").read_text() == "old"
    of_code = "other code" in why  # a table of results counts no seeds
    assert [text.split(" ")[0] for text in refused] == ["b.csv", *["c.csv"] * of_code]


def test_seeds_may_be_repeats_and_one_seed_is_enough(outputs):
    leave(outputs, "other/07_ensemble/parts.csv", repeats=3)
    assert findings.collect(outputs)[1] == []
    leave(outputs, "other/07_ensemble/parts.csv", table="variant,n_seeds\na,1\n")
    assert findings.collect(outputs)[1] == []


def test_what_is_not_finished_is_refused(outputs):
    leave(outputs, "other/07_ensemble/parts.csv", seeds=[1, 2, 3])
    (outputs / "other/07_ensemble/manifest.json").unlink()
    told = "outputs/other/07_ensemble is not finished, it lacks manifest.json: make run RUN=other ..."
    assert told in findings.collect(outputs)[1][0]


def test_make_findings_fails_where_something_is_refused(outputs, monkeypatch, capsys):
    monkeypatch.setattr(findings, "ROOT", outputs.parent)
    outputs = outputs.rename(outputs.parent / "outputs")
    monkeypatch.setattr(findings, "PAGES", ("README.md",))
    for path in (outputs.parent / "README.md", outputs / "findings" / "front.md"):
        path.write_text("<!-- x -->\n{{ n('a', 'a', 'lwlrap_diff') }} {{ n('b', 'a', 'lwlrap_diff') }}\n<!-- /x -->\n")
    leave(outputs, "other/07_ensemble/parts.csv", manifest={})
    (outputs / "findings" / "b.csv").unlink()
    assert findings.main([]) == 1
    assert "made by other code than is here now" in capsys.readouterr().err
    assert (outputs.parent / "README.md").read_text() == "<!-- x -->\n+.100 still to be measured again\n<!-- /x -->\n"


def test_a_struck_table_is_measured_again_later(outputs):
    here = outputs / "findings"
    (here / "a.csv").unlink()
    assert (
        findings.fill("{{ n('a', 'folds_5') }} and {{ n('a', 'x', 'n') }}", here)
        == "still to be measured again and still to be measured again"
    )
    with pytest.raises(ValueError, match=r"there is no table aa\.csv"):
        findings.fill("{{ n('aa', 'folds_5') }}", here)


def test_the_pages_and_findings_agree():
    pages = {name: (ROOT / name).read_text(encoding="utf-8") for name in findings.PAGES}
    front = (FOLDER / "front.md").read_text(encoding="utf-8")
    assert findings.render(pages, front, FOLDER) == pages, "make findings writes their numbers anew"


def test_every_finding_has_a_source_and_what_is_struck_is_named():
    sources = yaml.safe_load((FOLDER / "sources.yaml").read_text(encoding="utf-8"))
    here = {path.name for path in FOLDER.iterdir()} - {"sources.yaml", "front.md"}
    assert set(sources) - here == {"07_ensemble_fsd-mini_parts.csv"}, "struck, or lost?"
    assert here <= set(sources)


def test_no_finding_counts_members_as_seeds():
    for path in sorted(FOLDER.glob("*.csv")):
        table = pd.read_csv(path)
        assert table.get("n_seeds", pd.Series([0])).max() <= 3, path.name  # no run had more


def test_one_seed_of_the_window_models_is_screened():
    names = ("05_curation_fsd-mini.csv", "06_stage2_*.csv", "06_windows_fsd-mini.csv")
    for path in (path for name in names for path in FOLDER.glob(name)):
        assert set(pd.read_csv(path)["verdict"].dropna()) == {"screened"}, path.name
