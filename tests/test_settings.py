"""Tests of settings: a knob stands once and reaches everything, and what papermill and YAML let through is refused."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import settings
from lib.settings import check, load_profile

ROOT = Path(__file__).resolve().parents[1]


def profile(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_right_values_come_back_as_they_are():
    values = {"run": "a.b-c_1", "overwrite": True, "seed": 0, "lr": 0.5, "fold": -1, "folds_csv": "", "loss": "ce"}
    assert check(values) == values
    assert check({}) == {}


@pytest.mark.parametrize(("wrong", "near"), [("fodl", "fold"), ("epoch", "epochs"), ("learning_rate", "sample_rate")])
def test_a_misspelt_key_names_the_nearest(wrong, near):
    with pytest.raises(ValueError, match=rf"'{wrong}' is no parameter .* Did you mean '{near}'\?"):
        check({"seed": 1, wrong: 2})


def test_a_key_like_no_other_is_answered_with_the_list():
    with pytest.raises(ValueError, match="'xyzzy' is no parameter .* Known are: arch, augment"):
        check({"xyzzy": 1})


def test_a_whole_number_serves_for_a_float_and_a_number_for_text():
    lr = check({"lr": 1})["lr"]
    assert lr == 1.0
    assert type(lr) is float
    assert check({"run": 7, "variant": 1.5}) == {"run": "7", "variant": "1.5"}  # -p run 7 arrives as a number


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001", "1E-03", "+.001"])
def test_a_number_may_come_as_text(text):
    assert check({"lr": text}) == {"lr": 0.001}  # YAML reads 1e-3 as text


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lr", "fast", r"lr='fast' should be a valid number .*Write it as 0\.001 or 1\.0e-3"),
        ("epochs", "1e3", "epochs='1e3' should be a valid integer .*YAML reads 1e3 as text: write 1000"),
        ("lr", "nan", r"lr='nan' should be a valid number"),
        ("seed", "12", "seed='12' should be a valid integer"),
        ("epochs", 2.0, "epochs=2.0 should be a valid integer"),
        ("epochs", True, "epochs=True should be a valid integer"),
        ("lr", True, "lr=True should be a valid number"),
        ("overwrite", "true", "overwrite='true' should be a valid boolean .*-p overwrite True"),
        ("overwrite", "off", "overwrite='off' .*-p overwrite True and -p overwrite False"),
        ("overwrite", 1, "overwrite=1 should be a valid boolean"),
        ("run", True, "run=True should be a valid string"),
        ("run", None, "run=None should be a valid string"),
        ("folds_csv", ["a"], "folds_csv=.* should be a valid string"),
    ],
)
def test_a_wrong_type_is_refused_with_the_remedy(name, value, message):
    with pytest.raises(ValueError, match=message):
        check({name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("fold", -2, r"fold=-2 should be greater than or equal to -1 \(fold held out"),
        ("seed", -1, "seed=-1 should be greater than or equal to 0"),
        ("batch_size", 1, "batch_size=1 should be greater than or equal to 2"),
        ("mask_share", 0.91, "mask_share=0.91 should be less than or equal to 0.9"),
        ("lr", 0.0, "lr=0.0 should be greater than"),
        ("lr", math.nan, "lr=nan should be a finite number"),
        ("lr", math.inf, "lr=inf should be a finite number"),
        ("fmin", -math.inf, "fmin=-inf should be a finite number"),
        ("loss", "mse", "loss='mse' should be one of bce, ce, lq"),
    ],
)
def test_what_is_out_of_range_is_refused_naming_the_range(name, value, message):
    with pytest.raises(ValueError, match=message):
        check({name: value})


@pytest.mark.parametrize("name", ["run", "variant"])
@pytest.mark.parametrize("value", ["../x", "a/b", "..", ".", "", "/tmp", "~", ".hidden", "a\n", "a b", "a\\b", "-x"])
def test_a_name_that_would_leave_its_folder_is_refused(name, value):
    with pytest.raises(ValueError, match="should be letters, digits"):
        check({name: value})


@pytest.mark.parametrize("name", ["cache", "demo-data", "findings", "replaced"])
def test_a_run_cannot_take_the_folder_of_something_else(name):
    with pytest.raises(ValueError, match=f"run='{name}' should be .* demo-data, findings and replaced are taken"):
        check({"run": name})
    assert check({"run": f"{name}-2"}) == {"run": f"{name}-2"}


@pytest.mark.parametrize("name", ["pooled", "without_0", "without_2_14", "without_0_seed_1"])
def test_a_variant_cannot_take_the_folder_of_a_training(name):
    with pytest.raises(ValueError, match=f"variant='{name}' should be another name: .*such as no_masks"):
        check({"variant": name})
    assert check({"variant": f"{name}_x", "run": name}) == {"variant": f"{name}_x", "run": name}


@given(st.text(max_size=8))
def test_a_name_that_passes_is_one_plain_folder(name):
    try:
        check({"run": name})
    except ValueError:
        return
    assert "/" not in name
    assert not name.startswith(".")  # not ".", not "..", not hidden
    assert name.isprintable()


def test_a_list_may_come_as_text_with_commas_or_as_one_item():
    for value in ("a, b,", ["a", "b"], ("a", "b")):
        assert check({"variants": value}) == {"variants": ["a", "b"]}
    assert check({"variants": ""}) == {"variants": []}
    for value in ("1, 2", [1, 2]):
        assert check({"folds": value}) == {"folds": [1, 2]}
    assert check({"folds": 2, "variants": 7}) == {"folds": [2], "variants": ["7"]}  # -p folds 2


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("folds", "0,two", "folds='two' should be a valid integer"),
        ("folds", [0, 1.5], "folds=1.5 should be a valid integer"),
        ("seeds", None, "seeds=None should be a valid integer"),
        ("folds", [0, -1], "folds=-1 should be greater than or equal to 0"),
        ("variants", "base, ../x", r"variants='\.\./x' should be letters, digits"),
    ],
)
def test_an_item_of_a_list_is_checked_like_a_value(name, value, message):
    with pytest.raises(ValueError, match=message):
        check({name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("seeds", "1,1,1"), ("seeds", [1, 2, 1]), ("folds", "0,0"), ("candidates", "a,a")]
)
def test_what_is_named_twice_is_refused(name, value):
    """Equal seeds would count as several, though they are one training."""
    with pytest.raises(ValueError, match=rf"{name}=\[.*\] should name each once"):
        check({name: value})
    assert check({"seeds": "1,2,3", "progressive": [64, 64]}) == {"seeds": [1, 2, 3], "progressive": [64, 64]}


def test_a_profile_is_read_and_checked(tmp_path):
    path = profile(tmp_path, "# mine\nlr: 1.0e-3\nepochs: 5\nstrict: true\ndata_dir: déjà/vu\n")
    assert load_profile(path) == {"lr": 0.001, "epochs": 5, "strict": True, "data_dir": "déjà/vu"}
    assert load_profile(profile(tmp_path, "# nothing yet\n")) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1,5", r"lr='1,5' should be a valid number.*Write it as 0\.001 or 1\.0e-3"),
        ("lr: .nan", "lr=nan should be a finite number"),
        ("lr: .inf", "lr=inf should be a finite number"),
        ("fodl: 2", "mine.yaml: 'fodl' is no parameter.*Did you mean 'fold'"),
        ("lr: 0.1\0", "mine.yaml is not text in UTF-8"),
        ("on: 2", "True is no parameter of this workbook"),
        ("1: 2", "1 is no parameter of this workbook"),
        ("train:\n  lr: 0.1", "'train' is no parameter"),
        ("epochs: {a: 1}", "epochs={'a': 1} should be a valid integer"),
        ("- lr\n- 1", "must hold `key: value` lines, not a list"),
        ("[]", "must hold `key: value` lines, not a list"),
        ("no", "must hold `key: value` lines, not a bool"),
        ("just words", "must hold `key: value` lines, not a str"),
        ("lr: 0.1\n\tepochs: 3", "mine.yaml, line 2: .*without tabs"),
        ("lr: 0.1\nepochs: [1", "mine.yaml, line 2: .*key: value. lines"),
        ("lr: 0.1\nepochs: 3\nlr: 0.2", "names lr twice. Keep one of the lines"),
    ],
)
def test_a_profile_that_says_something_else_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_profile(profile(tmp_path, text))


def test_a_missing_profile_is_answered_with_those_that_there_are(tmp_path):
    profile(tmp_path, "")
    (tmp_path / "another.yaml").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"no parameter file .*esc11\.yaml\. There are: another, mine\."):
        load_profile(tmp_path / "esc11.yaml")
    with pytest.raises(FileNotFoundError, match="There are: none"):
        load_profile(tmp_path / "nowhere" / "esc11.yaml")


@pytest.mark.parametrize("name", settings.KNOBS)
def test_every_knob_is_told_in_one_line_and_its_default_passes(name):
    knob = settings.KNOBS[name]
    assert name.isidentifier()
    assert knob.kind in (bool, int, float, str, list)
    assert knob.help.strip() == knob.help and "\n" not in knob.help and len(knob.help) > 4
    assert knob.role in ("recipe", "which", "place", "view")
    assert type(knob.default) is knob.kind
    assert check({name: knob.default}) == {name: knob.default}


@pytest.mark.parametrize("name", [name for name, knob in settings.KNOBS.items() if knob.kind in (int, float)])
def test_every_number_has_a_range_which_is_told(name):
    for value in (-1e10, 1e10, math.inf, -math.inf, math.nan):
        value = int(value) if settings.KNOBS[name].kind is int and math.isfinite(value) else value
        with pytest.raises(ValueError, match=f"{name}=.*({re.escape(settings.KNOBS[name].help)})"):
            check({name: value})


def test_a_knob_of_another_role_than_recipe_makes_no_other_configuration():
    params = settings.defaults("02_features")
    mine = settings.configuration(params)
    assert {"n_mels", "epochs", "loss", "n_folds", "esc10_only"} - mine.keys() == {"epochs"}  # 02 has trial_epochs
    assert not mine.keys() & {"run", "profile", "data_dir", "strict", "overwrite", "folds", "seeds", "variants"}
    assert "seed" not in mine and "seed" in settings.configuration(settings.defaults("04_kfold"))  # seeds stand for it
    assert "repeats" not in settings.configuration(settings.defaults("05_curation"))  # or what 05 selected were stale


def test_a_default_of_one_notebook_is_no_default_of_all():
    assert settings.defaults("02_features")["variants"] == ["base", "delta"] and "variants" not in settings.defaults()
    assert settings.defaults("11_of_a_person") == settings.defaults()


def test_a_setting_that_a_group_lacks_is_refused_with_those_that_it_has():
    with pytest.raises(ValueError, match="Network has no setting 'depth'. There are: arch, image_size, normalise"):
        settings.Network(depth=3)
    with pytest.raises(ValueError, match=r"image_size=-1 should be greater than or equal to 0 \(pixels a side"):
        settings.Network("test_resnet", -1)


# a knob stands once


NEW = '    sharpness: float = knob(0.25, "of nothing; a test has added it", ge=0, le=1)\n'
REACHED = """
import json, sys
from lib import settings
from lib.runs import plan
from lib.runs.run import start

namespace = {}
exec(json.loads(open("notebooks/04_kfold.ipynb").read())["cells"][1]["source"], namespace)
run = start(namespace | {"sharpness": "5e-1"}, "04_kfold")
run.settle(folds="f")
run.finish({}, "measured", "It is so.")
given = json.loads(plan.Plan.read("mine").given("04_kfold"))
print(json.dumps([given["sharpness"], str(run.folder)]))
try:
    settings.load_profile("params/wrong.yaml")
except ValueError as error:
    print(error)
"""


def test_a_new_knob_is_one_field_and_nothing_else(tmp_path):
    """Parameters cell, help, profile, configuration and result know it, with no other edit than the field itself."""
    for name in ("lib", "notebooks", "params"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    source, after = tmp_path / "lib" / "settings.py", "    mask_share: float = knob(0.15"
    assert source.read_text().count(after) == 1
    source.write_text(source.read_text().replace(after, NEW + after))
    (tmp_path / "params" / "mine.yaml").write_text("profile: mine\nrun: mine\ndata_dir: demo\nsharpness: 0.75\n")
    (tmp_path / "params" / "wrong.yaml").write_text("sharpness: 2\n")

    def python(*words):
        return subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert python("-m", "lib.settings").count("parameters cell written") == 6  # 00, 02, 03, 04, 05, 07
    assert python("-m", "lib.settings") == ""
    told = python("-m", "papermill", "--help-notebook", "notebooks/04_kfold.ipynb")
    assert re.search(r"sharpness: float \(default 0\.25\)\s+of nothing; a test has\s+added it", told)
    given, refused = python("-c", REACHED).splitlines()
    number, folder = json.loads(given)
    assert number == 0.75
    assert (
        refused == "params/wrong.yaml: sharpness=2 should be less than or equal to 1 (of nothing; a test has added it)."
    )
    assert json.loads((Path(folder) / "result.json").read_text())["parameters"]["sharpness"] == 0.5
    assert json.loads((Path(folder).parent / "configuration.json").read_text())["sharpness"] == 0.5
