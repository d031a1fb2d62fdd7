"""Tests of journal: every finished part is a row, what can't be read is listed, drafts have the journal's form."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from fake_run import make_variant, write_notebook, write_part

from lib.runs import journal

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def outputs(tmp_path):
    """Two runs: an experiment with two trainings and a variant of 04 that is worse than the base; one look at data."""
    make_variant(tmp_path / "mine", right=1.0)
    make_variant(tmp_path / "mine", "noisy", right=0.2, train_set="curated_noisy")
    found = {"lwlrap": 0.9, "delta_lwlrap_diff": 0.01, "delta_lwlrap_diff_low": -0.02, "delta_lwlrap_diff_high": 0.04}
    write_part(tmp_path / "mine" / "02_features", metrics=found, verdict="unclear", finished="2026-01-02T10:00:00+0000")
    for seed in (1, 2):
        write_part(tmp_path / "mine" / "02_features" / "delta" / "without_0" / f"seed_{seed}", seconds=30.0)
    write_part(tmp_path / "other" / "01_eda", finished="2026-01-03T10:00:00+0000", metrics={"n": 7})
    return tmp_path


def row(table, notebook, part=""):
    (found,) = table[(table["notebook"] == notebook) & (table["part"] == part)].to_dict("records")
    return found


def test_a_row_a_part_newest_first_and_the_same_on_disk(outputs):
    table = journal.rebuild(outputs)
    assert (table["run"] + " " + table["notebook"] + " " + table["part"]).tolist() == [
        *("other 01_eda ", "mine 02_features ", "mine 04_kfold noisy", "mine 04_kfold curated")
    ]
    on_disk = pd.read_csv(outputs / "journal.csv", keep_default_na=False, na_values={"n": "", "lwlrap": ""})
    assert on_disk.columns.tolist() == [*journal.TEXTS, *journal.NUMBERS]
    assert (
        on_disk["conclusion"].tolist() == table["conclusion"].tolist()
        and on_disk["seconds"].tolist() == table["seconds"].tolist()
    )
    assert (table["note"] == "").all()


def test_results_of_the_first_schema_are_read_too(outputs):
    """There the conclusion was called `says`."""
    path = outputs / "other" / "01_eda" / "result.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "schema": 2, "conclusion": "It is new."}))
    assert row(journal.rebuild(outputs), "01_eda")["conclusion"] == "It is new."
    del told["schema"], told["conclusion"]
    path.write_text(json.dumps({**told, "says": "It is old."}))
    assert row(journal.rebuild(outputs), "01_eda")["conclusion"] == "It is old."
    path.write_text(json.dumps(told))
    assert "can't be read (KeyError: 'says')" in row(journal.rebuild(outputs), "01_eda")["note"]


def test_it_is_rebuilt_and_not_appended_to(outputs):
    assert len(journal.rebuild(outputs)) == len(journal.rebuild(outputs)) == 4
    shutil.rmtree(outputs / "other")
    assert set(journal.rebuild(outputs)["run"]) == {"mine"}


def test_seconds_of_trainings_are_those_of_their_part(outputs):
    table = journal.rebuild(outputs)
    features, kfold = row(table, "02_features"), row(table, "04_kfold", "curated")
    assert (features["trainings"], features["seconds"]) == (2, 2 + 2 * 30)
    assert (kfold["trainings"], kfold["seconds"]) == (2, 1 + 2 * 10)


def test_seconds_of_one_kernel_count_once(tmp_path):
    """What a part trained itself is in its seconds, and what a job of it trained is in those of the job."""
    one, many = tmp_path / "run" / "02_features", tmp_path / "run" / "03_augmentation"
    write_part(one, seconds=100.0, finished="2026-01-02T10:02:00+0000")
    write_part(one / "delta" / "without_0" / "seed_1", seconds=40.0, finished="2026-01-02T10:01:30+0000")
    write_part(one / "delta" / "without_1" / "seed_1", seconds=40.0, finished="2026-01-02T09:00:00+0000")  # earlier
    assert journal.cost(one) == (2, 140.0)
    write_part(many, seconds=5.0, finished="2026-01-02T12:00:00+0000")
    for fold in (0, 1):  # two jobs, side by side
        write_part(many / "trials" / f"without_{fold}_seed_1", seconds=50.0, finished="2026-01-02T11:00:00+0000")
        write_part(many / "mix" / f"without_{fold}" / "seed_1", seconds=44.0, finished="2026-01-02T10:59:58+0000")
    assert journal.cost(many) == (2, 105.0)
    (many / "manifest.json").write_text("{")
    assert journal.cost(many) == (2, 100.0)


def test_its_own_results_and_half_made_folders_are_no_rows(outputs):
    write_part(outputs / "mine" / "09_journal")
    write_part(outputs / "mine" / "05_curation" / ".select.x.partial")
    assert len(journal.rebuild(outputs)) == 4


def test_a_variant_whose_name_begins_like_a_trainings_is_a_row(outputs):
    make_variant(outputs / "mine", "without_masks", right=0.5, mask_share=0.0)
    write_part(outputs / "mine" / "02_features" / "trials" / "without_0_seed_1")  # a job's: no row
    table = journal.rebuild(outputs)
    assert len(table) == 5 and row(table, "04_kfold", "without_masks")["trainings"] == 2


def test_no_run_at_all_is_an_empty_table(tmp_path):
    table = journal.rebuild(tmp_path)
    assert table.empty and (tmp_path / "journal.csv").is_file()
    assert journal.headline(table).empty and journal.answers(table) == "Nothing is finished here yet."
    assert journal.summary(table, "demo") == "Run demo holds no finished part yet; 0 other runs hold 0."


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("result.json", "{", "ValueError: .*is damaged"),
        ("result.json", '{"notebook": "01_eda"}', "KeyError: 'metrics'"),
        ("result.json", "[]", "TypeError"),
        ("manifest.json", None, "FileNotFoundError"),
    ],
)
def test_what_cannot_be_read_is_listed_beside_the_others(outputs, name, text, reason):
    path = outputs / "other" / "01_eda" / name
    path.unlink() if text is None else path.write_text(text)
    table = journal.rebuild(outputs)
    assert len(table) == 4
    note = row(table, "01_eda")["note"]
    assert re.search(reason, note) and "-p overwrite True" in note and str(outputs) not in note


def test_what_is_not_complete_says_so(tmp_path):
    write_part(tmp_path / "mine" / "05_curation" / "compare", metrics={"complete": False}, verdict=None)
    found = row(journal.rebuild(tmp_path), "05_curation", "compare")
    assert found["verdict"] == "" and found["note"].startswith("not complete")


def test_what_other_code_has_made_is_marked(outputs):
    older = outputs / "mine" / "04_kfold" / "noisy" / "without_1" / "manifest.json"
    older.write_text(json.dumps({**json.loads(older.read_text()), "code": "0" * 12}))
    table = journal.rebuild(outputs)
    assert "made by other code than is here now" in row(table, "04_kfold", "noisy")["note"]
    assert "(04_kfold/noisy/without_1)" in row(table, "04_kfold", "noisy")["note"]
    shown = journal.headline(table).set_index("part")["commit"]
    assert shown["04_kfold noisy"] == "0123456 (other code)" and shown["04_kfold curated"] == "0123456"


def test_a_variant_of_04_is_judged_against_the_base_of_its_run(outputs):
    table = journal.rebuild(outputs)
    noisy, base = row(table, "04_kfold", "noisy"), row(table, "04_kfold", "curated")
    assert (noisy["verdict"], base["verdict"]) == ("screened", "measured")
    assert noisy["against_base"].startswith("noisy -.400 [-") and base["against_base"] == ""
    assert noisy["changed"] == "train_set curated_noisy"
    assert row(table, "02_features")["against_base"] == "delta +.010 [-.020, +.040]"
    draft = journal.draft(noisy)
    assert "paired: noisy -.400" in draft
    assert "\nQuestion    What does train_set curated_noisy change against curated?\nExpected    ...\n" in draft
    assert base["question"] != noisy["question"] and base["expected"]


def test_what_differs_from_the_profile_and_the_command_name_no_place_of_this_machine(tmp_path):
    given = {"profile": "demo", "run": "mine", "data_dir": "/home/me/secret/ESC 10", "epochs": 3, "seed": 2019}
    given |= {"folds": [0, 2], "variants": ["base", "phase"], "lr": 0.005, "fold": -1}
    write_part(tmp_path / "mine" / "02_features", parameters=given)
    found = row(journal.rebuild(tmp_path), "02_features")
    assert found["changed"] == "epochs 3, folds 0,2, variants base,phase"  # seed and lr are the profile's
    assert found["command"] == (
        "papermill notebooks/02_features.ipynb out.ipynb -f params/demo.yaml -p run mine -p data_dir 'path/to/ESC 10' "
        "-p epochs 3 -p folds 0,2 -p variants base,phase -p fold -1"
    )
    assert "secret" not in (tmp_path / "journal.csv").read_text()


def test_a_profile_that_is_gone_is_said_to_be(tmp_path):
    write_part(tmp_path / "mine" / "01_eda", parameters={"profile": "lost", "run": "mine"})
    assert row(journal.rebuild(tmp_path), "01_eda")["changed"] == "not known: there is no params/lost.yaml"


def test_question_and_expectation_are_those_of_the_executed_notebook_or_else_of_the_source(outputs):
    source = row(journal.rebuild(outputs), "01_eda")
    assert source["question"].endswith("?") and source["expected"]
    write_notebook(outputs / "other" / "01_eda" / "executed.ipynb", title="01 · Is it so?")
    executed = row(journal.rebuild(outputs), "01_eda")
    assert (executed["question"], executed["expected"]) == ("Is it so?", "It rather is.")
    write_part(outputs / "other" / "77_new")
    assert row(journal.rebuild(outputs), "77_new")["question"] == ""


def test_rows_are_chosen_by_words_of_notebook_or_question(outputs):
    table = journal.rebuild(outputs)
    assert journal.select(table, []).equals(table)
    assert set(journal.select(table, ["01_EDA"])["notebook"]) == {"01_eda"}
    assert set(journal.select(table, ["never saw", "eda"])["notebook"]) == {"01_eda", "04_kfold"}
    assert journal.select(table, ["no such word"]).empty


def test_the_headline_has_intervals_and_short_commits(outputs):
    shown = journal.headline(journal.rebuild(outputs)).set_index("part")
    assert shown.loc["04_kfold curated", "lwlrap"] == ".750 [.700, .800]"
    assert shown.loc["04_kfold curated", "commit"] == "0123456"
    assert shown.loc["02_features ", "against base"] == "delta +.010 [-.020, +.040]"
    assert shown.loc["04_kfold curated", "against base"] == ""
    assert shown.loc["01_eda ", "lwlrap"] == "" and shown.loc["01_eda ", "n"] == "7"


def test_of_many_differences_the_headline_says_how_many_and_names_no_winner(tmp_path):
    intervals = {"a": (0.02, 0.01, 0.03), "b": (0.01, -0.01, 0.03), "c": (0.0, 0.0, 0.0), "d": (-0.3, -0.4, -0.2)}
    ends = ("", "_low", "_high")
    found = {f"{k}_lwlrap_diff{end}": v for k, of in intervals.items() for end, v in zip(ends, of, strict=True)}
    write_part(tmp_path / "mine" / "02_features", metrics=found)
    table = journal.rebuild(tmp_path)
    assert journal.headline(table)["against base"].tolist() == ["4 differences"]
    assert row(table, "02_features")["against_base"].startswith("a +.020 [+.010, +.030]; b +.010 [-.010, +.030]; c ")


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (119, "119 s"), (120, "2.0 min"), (7200, "2.0 h")])
def test_durations(seconds, text):
    assert journal.duration(seconds) == text


def test_a_draft_has_the_form_of_the_journals_entries(outputs):
    entry = re.split(r"^(?=## )", (ROOT / "JOURNAL.md").read_text(), flags=re.MULTILINE)[1].strip()
    form = [line[:12] for line in entry.splitlines()[1:] if re.match(r"\w+ +", line[:12])]
    form = [key for key in form if key != "Changed     "]  # the newest entries may compare nothing
    lines = journal.draft(row(journal.rebuild(outputs), "02_features")).splitlines()
    assert [line[:12] for line in lines[1:] if line[:12] != "Changed     "] == form
    assert lines[0] == "## 2026-01-02 · 02_features · mine"
    told = {line[:12].strip(): line[12:] for line in lines[1:]}
    assert (told["Because"], told["Next"]) == ("...", "...")
    assert (told["Verdict"], told["Measured"], told["Cost"]) == ("unclear", "It is so.", "2 trainings, 62 s in all")


def test_a_screening_has_no_verdict_and_says_so(tmp_path):
    write_part(tmp_path / "mine" / "02_features", verdict=None)
    assert "\nVerdict     none: a screening" in journal.draft(row(journal.rebuild(tmp_path), "02_features"))


def test_the_answer_in_sentences_counts_verdicts(outputs):
    table = journal.rebuild(outputs)
    said = journal.summary(table, "mine")
    assert said.startswith("Run mine holds 3 finished parts (") and said.endswith("all runs (2): 4.")
    for part in ("1 unclear", "1 measured", "1 screened", "6 trainings);"):
        assert part in said
    assert "**How much audio" in journal.answers(table) and "It is so." in journal.answers(table)


def test_a_broken_variant_spoils_neither_its_run_nor_the_table(outputs):
    (outputs / "mine" / "04_kfold" / "noisy" / "configuration.json").write_text("{")
    noisy = row(journal.rebuild(outputs), "04_kfold", "noisy")
    assert noisy["against_base"] == "" and noisy["verdict"] == "measured"
    assert json.loads((outputs / "mine" / "04_kfold" / "noisy" / "pooled" / "result.json").read_text())
