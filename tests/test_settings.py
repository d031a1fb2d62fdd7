"""Tests of parameters: what papermill and YAML let through silently is refused, with the remedy."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import settings
from lib.settings import check, load_profile


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


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lr", "fast", r"lr='fast' is a str, but a number is needed .*Write it as 0\.001 or 1\.0e-3"),
        ("epochs", "1e3", "epochs='1e3' is a str, but a whole number is needed .*YAML reads 1e3 as text: write 1000"),
        ("lr", "nan", r"lr='nan' is a str, but a number is needed"),
        ("seed", "12", "seed='12' is a str, but a whole number is needed"),
        ("epochs", 2.0, "epochs=2.0 is a float, but a whole number is needed"),
        ("epochs", True, "epochs=True is a bool, but a whole number is needed"),
        ("lr", True, "lr=True is a bool, but a number is needed"),
        ("overwrite", "true", "overwrite='true' is a str, but True or False is needed .*-p overwrite True"),
        ("overwrite", "off", "overwrite='off' .*-p overwrite True and -p overwrite False"),
        ("overwrite", 1, "overwrite=1 is a int, but True or False is needed"),
        ("run", True, "run=True is a bool, but text is needed"),
        ("run", None, "run=None is a NoneType, but text is needed"),
        ("folds_csv", ["a"], "folds_csv=.* is a list, but text is needed"),
    ],
)
def test_a_wrong_type_is_refused_with_the_remedy(name, value, message):
    with pytest.raises(ValueError, match=message):
        check({name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("fold", -2, r"fold=-2 is out of range: -1 to 99 is allowed \(fold held out"),
        ("seed", -1, "seed=-1 is out of range"),
        ("batch_size", 1, "batch_size=1 is out of range: 2 to 4096"),
        ("mask_share", 0.91, "mask_share=0.91 is out of range: 0 to 0.9"),
        ("lr", 0.0, "lr=0.0 is out of range"),
        ("lr", math.nan, "lr=nan is out of range"),
        ("lr", math.inf, "lr=inf is out of range"),
        ("fmin", -math.inf, "fmin=-inf is out of range"),
        ("loss", "mse", "loss='mse' is not one of bce, ce, lq"),
    ],
)
def test_what_is_out_of_range_is_refused_naming_the_range(name, value, message):
    with pytest.raises(ValueError, match=message):
        check({name: value})


@pytest.mark.parametrize("name", ["run", "variant"])
@pytest.mark.parametrize("value", ["../x", "a/b", "..", ".", "", "/tmp", "~", ".hidden", "a\n", "a b", "a\\b", "-x"])
def test_a_name_that_would_leave_its_folder_is_refused(name, value):
    with pytest.raises(ValueError, match="must be letters, digits"):
        check({name: value})


@pytest.mark.parametrize("name", ["cache", "demo-data", "findings", "replaced"])
def test_a_run_cannot_take_the_folder_of_something_else(name):
    with pytest.raises(ValueError, match=f"run='{name}' must be .* demo-data, findings and replaced are taken"):
        check({"run": name})
    assert check({"run": f"{name}-2"}) == {"run": f"{name}-2"}


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
        ("folds", "0,two", "folds='two' is a str, but a whole number is needed"),
        ("folds", [0, 1.5], "folds=1.5 is a float, but a whole number is needed"),
        ("seeds", None, "seeds=None is a NoneType, but a whole number is needed"),
        ("folds", [0, -1], "folds=-1 is out of range: 0 to 99"),
        ("variants", "base, ../x", r"variants='\.\./x' must be letters, digits"),
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
    with pytest.raises(ValueError, match=rf"{name}=\[.*\] names one more than once.*Name each once"):
        check({name: value})
    assert check({"seeds": "1,2,3", "progressive": [64, 64]}) == {"seeds": [1, 2, 3], "progressive": [64, 64]}


def test_a_profile_is_read_and_checked(tmp_path):
    path = profile(tmp_path, "# mine\nlr: 1.0e-3\nepochs: 5\nstrict: true\ndata_dir: déjà/vu\n")
    assert load_profile(path) == {"lr": 0.001, "epochs": 5, "strict": True, "data_dir": "déjà/vu"}
    assert load_profile(profile(tmp_path, "# nothing yet\n")) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1,5", r"lr='1,5' is a str, but a number is needed.*Write it as 0\.001 or 1\.0e-3"),
        ("lr: .nan", "lr=nan is out of range"),
        ("lr: .inf", "lr=inf is out of range"),
        ("fodl: 2", "Did you mean 'fold'"),
        ("on: 2", "True is no parameter of this workbook"),
        ("1: 2", "1 is no parameter of this workbook"),
        ("train:\n  lr: 0.1", "'train' is no parameter"),
        ("epochs: {a: 1}", "epochs={'a': 1} is a dict, but a whole number is needed"),
        ("- lr\n- 1", "must hold `key: value` lines, not a list"),
        ("[]", "must hold `key: value` lines, not a list"),
        ("no", "must hold `key: value` lines, not a bool"),
        ("just words", "must hold `key: value` lines, not a str"),
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


FOLDS = "folds: 'f' there, 'g' now"


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"audio": {"curated": "a"}, "folds": "f"}, ""),
        ({"audio": {"curated": "a", "noisy": "b"}}, ""),  # trained on more, scored on the same
        ({"audio": {"curated": "x", "noisy": "b"}}, "audio of curated clips: 'a' there, 'x' now"),
        (
            {"audio": {"curated": "x"}, "folds": "g"},
            "audio of curated clips: 'a' there, 'x' now, " + FOLDS,
        ),
        ({"data": "made before it was noted", "lr": 7}, ""),
    ],
)
def test_other_data_are_those_of_subsets_that_both_know(other, told):
    assert settings.other_data({"audio": {"curated": "a"}, "folds": "f", "lr": 1}, other) == told


def test_differences_of_whole_configurations_tell_what_one_side_lacks():
    told = settings.differences({"lr": 1, "audio": {"curated": "a"}}, {"audio": {"curated": "a", "noisy": "b"}})
    assert told == "audio of noisy clips: None there, 'b' now, lr: 1 there, None now"
    assert settings.differences({"lr": 1}, {"lr": 1}) == ""
