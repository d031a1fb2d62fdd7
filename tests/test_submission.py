"""Tests of submission: the scores of a plain pipeline, whatever the clips, the rows and the time are like."""

import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from fake_run import CLASSES, CUT, LOGMEL, make_run

from lib import files
from lib.clips import pooling, stage2
from lib.data import datasets
from lib.evaluation import metrics
from lib.evaluation.window_scores import WindowScores, pool_mean
from lib.figures import scores as figures
from lib.runs import changes
from lib.runs.modelset import refuse_other_settings
from lib.sound import cache, windows
from lib.submission import bundle, submission
from lib.submission.submission import Step
from lib.training import models

ROOT = Path(__file__).resolve().parents[1]
PRIOR = [0.75, 0.5, 0.0]  # of CLASSES in the run of fake_run


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return bundle.gather(make_run(tmp_path_factory.mktemp("runs") / "first"), "curated")


@pytest.fixture(scope="module")
def networks(packed):
    return submission.load(packed)


@pytest.fixture
def asked(tmp_path):
    """Makes a sample of clips: fname -> seconds, bytes, or None where there is no file."""

    def make(clips, rows=None, classes=CLASSES):
        (tmp_path / "test").mkdir(exist_ok=True)
        for i, (fname, sound) in enumerate(clips.items()):
            if isinstance(sound, bytes):
                (tmp_path / "test" / fname).write_bytes(sound)
            elif sound is not None:
                noise = 0.1 * np.random.default_rng(i).standard_normal(int(8000 * sound))
                soundfile.write(tmp_path / "test" / fname, noise, 8000)
        table = pd.DataFrame({"fname": list(clips) if rows is None else rows})
        table.assign(**dict.fromkeys(classes, 0)).to_csv(tmp_path / "sample_submission.csv", index=False)
        return submission.read_clips(run_on(tmp_path))[0]

    return make


def run_on(folder):
    """A run whose data, results and caches lie in one folder."""
    return SimpleNamespace(folder=folder, home=folder, cache=folder, data_dir=lambda: folder)


def choosing(packed, method, *, kind="pooling", parameter=None):
    """The same run, had 06 chosen otherwise."""
    choice = {"kind": kind, "method": method, "parameter": parameter}
    return replace(packed, manifest={**packed.manifest, "choice": choice})


def fade_in(paths):
    """From -60 dB to full level, so that a clip's windows differ."""
    for path in paths:
        sound, rate = soundfile.read(path)
        soundfile.write(path, sound * np.geomspace(1e-3, 1, len(sound)), rate)


def stage2_files(folder):
    return {f"stage2.{kind}": folder / f"stage2.{kind}" for kind in ("safetensors", "json")}


def test_the_scores_are_those_of_the_plain_pipeline(asked, packed, networks, tmp_path):
    data = asked({f"t{i}.wav": seconds for i, seconds in enumerate((0.3, 1.0, 2.6, 5.1))})
    found = submission.predict(data, packed, networks)
    store = cache.build(data.clips, LOGMEL, tmp_path / "cache")
    table = windows.rolling(store, store.index, CUT)
    each = []
    for path in packed.weights:
        model = models.load(path)[0].prepare()
        (logits,) = models.score([model], store, table, CUT.n_frames(LOGMEL))
        each.append(pool_mean(table["fname"], models.activate(logits, "bce"))[1])
    np.testing.assert_allclose(found.scores, np.mean(each, axis=0), atol=1e-6)
    assert found.how["n_windows"].tolist() == table["fname"].value_counts().loc[data.clips["fname"]].tolist()
    assert (found.how[["n_models", "hop_s"]] == [2, 0.25]).all(axis=None) and found.notes == []
    over_time = found.over_time.set_index(["fname", "window_start_s"])
    assert over_time.index.is_unique and over_time.columns.tolist() == packed.sidecar["classes"]
    means = over_time.groupby("fname").mean().loc[data.clips["fname"], list(data.classes)]
    np.testing.assert_allclose(means, found.scores, atol=1e-6)
    assert np.ptp(found.scores, axis=0).min() > 1e-4  # clips are told apart, so the equality above says something


def test_many_rows_in_any_order_repeated_or_not(asked, packed, networks):
    clips = {f"t{i:02}.wav": 0.5 for i in range(40)}
    plain = submission.predict(asked(clips), packed, networks)
    rows = [*reversed(clips), *list(clips) * 3]
    found = submission.predict(data := asked(clips, rows), packed, networks)
    assert data.clips["fname"].tolist() == rows and len(found.how) == 40
    np.testing.assert_allclose(found.scores[:40], plain.scores[::-1], atol=1e-6)
    np.testing.assert_allclose(found.scores[40:], np.tile(plain.scores, (3, 1)), atol=1e-6)


def test_clips_that_cannot_be_read_get_the_prior_and_are_listed(asked, packed, networks, tmp_path):
    bad = {"gone.wav": None, "empty.wav": b"", "text.wav": b"no audio", "../out.wav": None}
    found = submission.predict(asked({"a.wav": 0.4, **bad, "long.wav": 60.0}), packed, networks)
    problems = found.how.set_index("fname")["problem"]
    assert problems[["gone.wav", "empty.wav", "../out.wav"]].tolist() == ["missing", "empty", "missing"]
    assert problems["text.wav"].startswith("unreadable") and (problems[["a.wav", "long.wav"]] == "").all()
    assert found.scores[1:5].tolist() == [PRIOR] * 4
    assert found.how["n_windows"].tolist() == [1, 0, 0, 0, 0, 238]  # ceil((60.01 - 1) / 0.25) + 1, with a centred frame


def test_a_chunk_without_a_usable_clip_stops_nothing(asked, packed, networks):
    clips = {f"bad{i}.wav": None for i in range(submission.FIRST)} | {"good.wav": 0.5}
    found = submission.predict(asked(clips), packed, networks, budget_s=1e6)
    assert found.scores[:-1].tolist() == [PRIOR] * submission.FIRST and found.scores[-1].tolist() != PRIOR


def test_classes_in_another_order_too_many_or_too_few(asked, packed, networks):
    clips = {"a.wav": 0.5, "b.wav": 0.9}
    plain = submission.predict(asked(clips), packed, networks).scores
    data = asked(clips, classes=["Tap_(a)", "Gong", "Rain"])
    found = submission.predict(data, packed, networks).scores
    np.testing.assert_allclose(found, np.column_stack([plain[:, 2], [0, 0], plain[:, 0]]), atol=1e-6)
    assert submission.class_notes(data, packed) == [
        "Gong: the models don't know this class, it gets 0.",
        "Tap_(a): no training clip has it, its scores mean nothing.",
        "Bark: known, but not asked for.",
    ]
    with pytest.raises(ValueError, match="no class is in both. Set data_dir and weights to the same data set"):
        submission.predict(asked(clips, classes=["Gong", "Hiss"]), packed, networks)


def test_a_pooling_that_is_not_known_is_refused(asked, packed, networks):
    other = choosing(packed, "midday")
    with pytest.raises(ValueError, match="chose the pooling 'midday', expected one of mean"):
        submission.predict(asked({"a.wav": 0.5}), other, networks)


@pytest.mark.parametrize("method", [name for name in pooling.POOLINGS if name != "mean"])
def test_a_chosen_pooling_is_applied_model_by_model(method, asked, packed, networks):
    chosen = choosing(packed, method, parameter=next(iter(pooling.POOLINGS[method].grid), None))
    data = asked({"a.wav": 2.5, "b.wav": 1.7})
    fade_in(data.clips["path"])
    found = submission.predict(data, chosen, networks).scores
    singles = [submission.predict(data, chosen, [network]).scores for network in networks]
    np.testing.assert_allclose(found, np.mean(singles, axis=0), atol=1e-6)
    assert not np.allclose(found, submission.predict(data, packed, networks).scores, atol=1e-4)


def test_a_weighted_mean_is_weighted_by_the_energy_of_windows(asked, packed, networks):
    data = asked({"a.wav": 3.0})
    fade_in(data.clips["path"])
    found = submission.predict(data, choosing(packed, "energy"), networks[:1]).scores
    store = cache.hold(data.clips, LOGMEL)
    table = windows.rolling(store, store.index, CUT)
    scores = models.activate(models.score(networks[:1], store, table, CUT.n_frames(LOGMEL))[0], "bce")
    power = windows.energy(store, table, CUT.window_s)
    np.testing.assert_allclose(found[0], np.average(scores, axis=0, weights=power), atol=1e-6)


def test_a_chosen_stage_2_reads_each_models_windows_and_keeps_its_hop(asked, packed, networks, tmp_path):
    torch.manual_seed(0)
    second = stage2.Stage2Model("conv1d", 9, (0, 1, 2))
    models.save(tmp_path / "stage2.safetensors", second, {})
    chosen = replace(choosing(packed, "conv1d", kind="stage2"), files=packed.files | stage2_files(tmp_path))
    data = asked({"a.wav": 2.5, "b.wav": 0.6})
    found = submission.predict(data, chosen, networks)
    store = cache.hold(data.clips, LOGMEL)
    table = windows.rolling(store, store.index, CUT)
    each = [models.activate(s, "bce") for s in models.score(networks, store, table, CUT.n_frames(LOGMEL))]
    expected = [stage2.clip_scores(second, WindowScores(table, scores), "bce")[1] for scores in each]
    np.testing.assert_allclose(found.scores, np.mean(expected, axis=0), atol=1e-6)
    clock = Clock(1.0)
    many = asked({f"t{i:03}.wav": 4.0 for i in range(60)})
    slow = [Slow(clock) for _ in range(3)]
    late = submission.predict(many, chosen, slow, budget_s=1500, started=1000.0, clock=clock)
    assert set(late.how["hop_s"]) <= {0.0, CUT.hop_s} and late.how["n_models"].iloc[-1] < 3


def test_other_settings_than_those_of_the_weights_are_refused(packed):
    given = {"window_s": 1, "n_mels": 16, "channels": "logmel", "hop_s": 0.25, "epochs": 7, "anything": object()}
    refuse_other_settings(packed.sidecar, "mine", given)
    with pytest.raises(ValueError, match=r"window_s=2.0 \(trained with 1.0\), loss='ce' \(trained with 'bce'\)"):
        refuse_other_settings(packed.sidecar, "mine", {"loss": "ce", "window_s": 2.0, "n_mels": 16})
    with pytest.raises(ValueError, match=r"trim_inference_db=30.0 \(trained with 0.0\)"):
        refuse_other_settings(packed.sidecar, "mine", {"trim_inference_db": 30})


# --- time ----------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes only in a network: `cost` s a window of a model."""

    def __init__(self, cost: float) -> None:
        self.now, self.cost = 1000.0, cost

    def __call__(self) -> float:
        return self.now


class Slow(torch.nn.Module):
    """Gives constant logits, and takes its time."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.weight = clock, torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.clock.now += self.clock.cost * len(x)
        return torch.tensor([[1.0, 0.0, -1.0]]).repeat(len(x), 1)


def test_the_ladder():
    cut = windows.Windows(1.0, 0.3)
    expected = [Step(3, 0.3), Step(3, 0.6), Step(3, 1.0), Step(2, 1.0), Step(1, 1.0)]
    assert submission.ladder(3, cut) == expected
    assert submission.ladder(1, windows.Windows(1.0, 1.0)) == [Step(1, 1.0)]


# A clip of 4 s (401 frames) has 14 windows at a hop of 0.25 s, 8 at 0.5 s, 5 at 1 s. For 200 clips
# and 3 models the steps take 8400, 4800, 3000, 2000 (two models) and 1000 windows of a model (one), 1 s each.
@pytest.mark.parametrize(
    ("budget_s", "last"), [(9500, (3, 0.25)), (6500, (3, 0.5)), (3600, (3, 1.0)), (2700, (2, 1.0)), (1700, (1, 1.0))]
)
def test_a_budget_is_kept_by_wider_hops_and_then_by_fewer_models(asked, packed, budget_s, last):
    clock = Clock(1.0)
    data, slow = asked({f"t{i:03}.wav": 4.0 for i in range(200)}), [Slow(clock) for _ in range(3)]
    found = submission.predict(data, packed, slow, budget_s=budget_s, started=1000.0, clock=clock)
    assert 0.6 * budget_s < clock.now - 1000 <= budget_s
    assert (found.how["problem"] == "").all()
    steps = found.how[["n_models", "hop_s"]].iloc[submission.FIRST :].value_counts().index.tolist()
    assert last in steps  # a later chunk may climb back, when less is spent than was feared
    if budget_s < 8400:
        assert "From clip 9 of 200:" in found.notes[0] and f"budget_s={budget_s}" in found.notes[0]
    else:
        assert found.notes == []


def test_when_even_the_cheapest_does_not_fit_the_rest_gets_the_prior(asked, packed):
    clock = Clock(1.0)
    data = asked({f"t{i:03}.wav": 4.0 for i in range(60)})
    found = submission.predict(data, packed, [Slow(clock) for _ in range(3)], budget_s=400, started=1000.0, clock=clock)
    late = found.how["problem"] == submission.LATE
    assert clock.now - 1000 <= 400 and 0 < late.sum() < 52
    assert found.scores[late].tolist() == [PRIOR] * late.sum() and "get the class prior" in found.notes[-1]


def test_without_a_budget_nothing_is_dropped(asked, packed):
    clock = Clock(1e6)
    data = asked({f"t{i:03}.wav": 1.5 for i in range(80)})
    found = submission.predict(data, packed, [Slow(clock) for _ in range(2)], clock=clock)
    assert (found.how[["n_models", "hop_s"]] == [2, 0.25]).all(axis=None) and found.notes == []


# --- the file ------------------------------------------------------------------------------------------------------


def written(asked, folder):
    data = asked({"a.wav": 0.5, "b.wav": 0.5, "c.wav": None})
    how = pd.DataFrame({"fname": ["a.wav", "b.wav", "c.wav"], "n_windows": 1, "n_models": 2, "hop_s": 0.1})
    how["problem"] = ["", "", "NaN"]
    scores = np.random.default_rng(0).random((3, 3)) ** 30
    submission.write(folder, data, submission.Prediction(scores, how, []))
    return data, scores, how


def test_written_and_read_again(asked, tmp_path, monkeypatch):
    data, scores, how = written(asked, tmp_path / "run")
    again = submission.read(tmp_path / "run", data)
    assert (again.scores == scores).all() and again.how.equals(how)
    assert not (Path.cwd() / "submission.csv").exists()
    (tmp_path / "kernel").mkdir()
    monkeypatch.chdir(tmp_path / "kernel")
    monkeypatch.setattr(submission.runs, "IN_KERNEL", True)
    assert (tmp_path / "run/window_scores.csv").is_file()
    (tmp_path / "run/window_scores.csv").unlink()
    written(asked, tmp_path / "run")
    assert not (tmp_path / "run/window_scores.csv").exists()
    assert (tmp_path / "kernel/submission.csv").read_bytes() == (tmp_path / "run/submission.csv").read_bytes()


def test_a_submission_that_lacks_clips_is_made_again_and_one_of_changed_clips_stays(asked, tmp_path):
    home = tmp_path / "outputs" / "mine"
    run = run_on(tmp_path)
    run.folder, run.home = home / "08_submission" / "curated", home
    data, _, _ = written(asked, run.folder)  # c.wav is not there
    (run.folder / "result.json").write_text("{}")
    old = tmp_path / "outputs" / "replaced" / "1" / "mine" / "08_submission" / "curated"
    (tmp_path / "test" / "b.wav").rename(tmp_path / "b.wav")
    submission.read_clips(run)
    assert (run.folder / "result.json").is_file()  # what was scored is another clip now: for a person to decide
    (tmp_path / "b.wav").rename(tmp_path / "test" / "b.wav")
    shutil.copy(tmp_path / "test" / "a.wav", tmp_path / "test" / "c.wav")
    again, digests = submission.read_clips(run)
    assert not run.folder.exists() and (old / "submission.csv").is_file()
    assert (
        digests.keys() == {"labels", "groups", "audio"}
        and again.clips["content"].tolist()[2] != data.clips["content"].tolist()[2]
    )


def test_a_data_set_whose_training_clips_were_changed_since_is_told(tmp_path, recwarn):
    for name in "abt":
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * np.random.default_rng(ord(name)).standard_normal(8000), 8000)
    table = tmp_path / "clips.csv"
    table.write_text("fname,labels,subset\na.wav,Bark,curated\nb.wav,Rain,curated\nt.wav,,test\n")
    run = run_on(tmp_path)
    files.write_json(tmp_path / "configuration.json", changes.now(tmp_path, {}, tmp_path, None, with_folds=False))
    submission.read_clips(run, CLASSES, [tmp_path])
    assert not [warned for warned in recwarn if "trained on other clips" in str(warned.message)]
    table.write_text(table.read_text().replace("b.wav,Rain", "b.wav,Bark"))
    with pytest.warns(UserWarning, match="trained on other clips than those of data_dir: labels of curated clips"):
        submission.read_clips(run, CLASSES, [tmp_path])
    table.write_text("fname,labels,subset\nt.wav,,test\n")  # clips to tag alone
    recwarn.clear()
    data, untold = submission.read_clips(run, CLASSES, [tmp_path])
    assert data.clips["fname"].tolist() == ["t.wav"] and data.classes == tuple(CLASSES)
    table.write_text("fname,labels,subset,true_labels\nt.wav,,test,Bark\n")  # whose classes are known
    data, told = submission.read_clips(run, CLASSES, [tmp_path])
    assert "outside" not in str(data.problems.values) and data.clips["labels"].tolist() == [("Bark",)]
    assert told["labels"] != untold["labels"]
    table.write_text("fname,labels,subset\nt.wav,Gong,test\n")
    data, _ = submission.read_clips(run, CLASSES, [tmp_path])
    assert data.clips["labels"].tolist() == [()] and "'Gong' is outside the vocabulary" in str(data.problems.values)
    assert not [warned for warned in recwarn if "trained on other clips" in str(warned.message)]


@pytest.mark.parametrize(
    ("change", "saying"),
    [
        (lambda t: t.rename(columns={"Bark": "bark"}), "columns"),
        (lambda t: t[["fname", "Bark", "Rain", "Tap_(a)"]], "columns"),
        (lambda t: t.iloc[:2], "2 rows, the sample has 3"),
        (lambda t: t.iloc[[1, 0, 2]], "2 rows out of order, the first is b.wav, expected a.wav"),
        (lambda t: t.assign(Bark=[0.1, np.nan, 0.2]), "1 scores are not numbers from 0 to 1"),
        (lambda t: t.assign(Bark=[0.1, 1.1, -0.2]), "2 scores are not numbers"),
        (lambda t: t.assign(Bark=["x", "0.1", "0.2"]), "1 scores are not numbers"),
        (lambda t: t.assign(Rain=0.1, Bark=0.2, **{"Tap_(a)": 0.3}), "all rows are alike"),
    ],
)
def test_a_file_that_kaggle_would_refuse_is_refused(asked, tmp_path, change, saying):
    data, _, _ = written(asked, tmp_path / "run")
    path = tmp_path / "run" / "submission.csv"
    submission.check(path, data)
    change(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(ValueError, match=saying):
        submission.check(path, data)


def test_copies_of_one_clip_may_be_scored_alike(asked, tmp_path):
    data, scores, how = written(asked, tmp_path / "run")
    data.clips["content"] = "the same"
    alike = submission.Prediction(np.tile(scores[:1], (3, 1)), how, [])
    assert submission.write(tmp_path / "alike", data, alike).is_file()


@pytest.mark.parametrize("name", ["submission.csv", "how.csv"])
@pytest.mark.parametrize("content", [None, "", "fname\n"])
def test_a_damaged_submission_is_told_with_a_way_out(asked, tmp_path, name, content):
    data, _, _ = written(asked, tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    if content is not None:
        (tmp_path / "run" / name).write_text(content)
    with pytest.raises(ValueError, match=r"run is damaged \(.*\)\. Make it again: -p overwrite True\."):
        submission.read(tmp_path / "run", data)


# --- test clips of every layout ------------------------------------------------------------------------------------


def test_an_archive_is_as_good_as_a_folder(asked, tmp_path):
    folder = asked({"a.wav": 0.5, "b.wav": 0.7}, rows=["b.wav", "a.wav"])
    with zipfile.ZipFile(tmp_path / "test.zip", "w") as archive:
        for path in (tmp_path / "test").iterdir():
            archive.write(path, f"test/{path.name}")
            path.unlink()
    data = datasets.load_test(tmp_path)
    assert data.clips["path"].tolist() == [f"{tmp_path / 'test.zip'}!test/{name}" for name in ("b.wav", "a.wav")]
    assert data.layout == folder.layout == "kaggle" and data.classes == tuple(CLASSES)


def zenodo(root):
    """Zenodo's layout with four test clips, one of them without a file."""
    meta, audio = root / "FSDKaggle2019.meta", root / "FSDKaggle2019.audio_test"
    meta.mkdir(parents=True)
    audio.mkdir()
    (meta / "vocabulary.csv").write_text("0,Rain\n1,Bark\n2,Tap_(a)\n")
    rows = ["a.wav,Rain,Public", 'b.wav,"Rain,Bark",Private', "c.wav,Bark,Private", "d.wav,Bark,Public"]
    (meta / "test_post_competition.csv").write_text("\n".join(["fname,labels,usage", *rows]) + "\n")
    for name in "abc":
        soundfile.write(audio / f"{name}.wav", np.ones(4000) * 0.1, 8000)
    return root


def test_labels_and_usage_are_known_in_zenodos_layout_and_beside_kaggles_tables(asked, tmp_path):
    data = datasets.load_test(zenodo(tmp_path / "zenodo"))
    assert data.layout == "zenodo" and data.classes == ("Rain", "Bark", "Tap_(a)")
    assert data.clips["labels"].tolist() == [("Rain",), ("Rain", "Bark"), ("Bark",), ("Bark",)]
    assert data.clips["usage"].tolist() == ["Public", "Private", "Private", "Public"]
    assert data.clips["path"].iloc[3] == ""
    (tmp_path / "zenodo" / "FSDKaggle2019.meta").rename(tmp_path / "FSDKaggle2019.meta")
    beside = asked({"c.wav": 0.5, "new.wav": 0.5})
    assert beside.layout == "kaggle" and beside.clips["labels"].tolist() == [("Bark",), ()]
    assert beside.clips["usage"].tolist() == ["Private", ""]


def test_a_folder_without_sample_or_audio_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither sample_submission\.csv nor test_post_competition\.csv"):
        datasets.load_test(tmp_path)
    (tmp_path / "sample_submission.csv").write_text("fname,Rain\na.wav,0\n")
    with pytest.raises(FileNotFoundError, match=r"Looked for test/ and test\.zip"):
        datasets.load_test(tmp_path)
    for text in ("Rain,fname\n0,a.wav\n", "fname,Rain\n", ""):
        (tmp_path / "sample_submission.csv").write_text(text)
        with pytest.raises(ValueError, match=r"expected fname first|lacks \['fname'\]"):
            datasets.load_test(tmp_path)


# --- what it is worth ----------------------------------------------------------------------------------------------


def test_test_clips_are_scored_by_part_and_class_beside_the_promise(packed, tmp_path):
    data = datasets.load_test(zenodo(tmp_path))
    scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.3, 0.5], [0.7, 0.6, 0.1], [0.1, 0.9, 0.2]])
    table = submission.compare(data, scores, packed).set_index("class")
    assert table.loc["all classes", ["public", "private"]].tolist() == [1.0, pytest.approx((1 + 2 / 3 + 1 / 2) / 3)]
    targets = datasets.targets(data.clips, data.classes)
    assert table.loc["all classes", "all"] == pytest.approx(metrics.lwlrap(targets, scores))
    assert table.loc["Bark", ["n", "all"]].tolist() == [3, pytest.approx((2 / 3 + 1 / 2 + 1) / 3)]
    assert table.loc["all classes", ["n", "out_of_fold"]].tolist() == [4, 0.75]
    assert table.loc["Rain", "gap"] == 0.5 - 1 and np.isnan(table.loc["Tap_(a)", "all"])
    assert table["organisers"].isna().all()  # Bark of another data set is another class
    found, says = submission.conclude(data, submission.Prediction(scores, how_of(data), []), packed)
    assert found["lwlrap"] == pytest.approx(table.loc["all classes", "all"]) and found["promised_lwlrap"] == 0.75
    assert "0.833 (" in says and says.endswith("a gap of -0.083.")
    assert "3 of 4 test clips" in says and "1 got the class prior" in says
    assert "since no training clip has them: Tap_(a)." in says
    joined = replace(data, clips=data.clips.assign(group=["c0.wav", "walk", "walk", "walk"]))
    of_groups, says = submission.conclude(joined, submission.Prediction(scores, how_of(data), []), packed)
    assert says.endswith("a gap of -0.083. 1 of them are of a group that also trained, so that this may be too good.")
    assert of_groups["lwlrap"] == found["lwlrap"] and of_groups["lwlrap_low"] != found["lwlrap_low"]
    none = how_of(data).assign(problem="missing")
    _, says = submission.conclude(data, submission.Prediction(scores, none, []), packed)
    assert says.startswith("None of 4 test clips could be scored; 4 got the class prior.") and "nan" not in says


def how_of(data):
    how = pd.DataFrame({"fname": data.clips["fname"], "n_windows": 1, "n_models": 2, "hop_s": 0.25, "problem": ""})
    return how.assign(problem=["", "", "", "missing"])


def test_the_choices_own_score_is_the_promise_where_it_has_one(packed):
    choice = {"kind": "pooling", "method": "mean", "lwlrap": 0.8, "lwlrap_low": 0.7, "lwlrap_high": 0.9, "n": 4}
    assert submission.out_of_fold(packed)["lwlrap"] == 0.75
    assert submission.out_of_fold(replace(packed, manifest={**packed.manifest, "choice": choice})) == choice


def test_examples_are_the_surest_and_the_least_sure_of_those_that_were_scored(packed, tmp_path):
    data = datasets.load_test(zenodo(tmp_path))
    scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.3, 0.5], [0.7, 0.6, 0.1], [1.0, 0.9, 0.2]])
    shown = submission.examples(data, submission.Prediction(scores, how_of(data), []), n=1)
    assert shown["fname"].tolist() == ["a.wav", "c.wav"]
    assert shown["caption"].tolist() == [
        "a.wav: Rain 0.90, Tap_(a) 0.20, Bark 0.10; labels: Rain",
        "c.wav: Rain 0.70, Bark 0.60, Tap_(a) 0.10; labels: Bark",
    ]


def test_the_figures_say_what_is_seen(packed, tmp_path):
    data = datasets.load_test(zenodo(tmp_path))
    scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.3, 0.5], [0.7, 0.6, 0.1], [0.1, 0.9, 0.2]])
    left, right = figures.predicted(scores, list(data.classes), packed.prior).axes
    assert left.get_title() == "Rain ranks first most often: 75 % of 4 clips"
    assert [bar.get_width() for bar in left.patches] == [75, 25, 0]  # from the top
    assert list(left.lines[0].get_xdata()) == [75, 50, 0] and right.get_title().endswith("above 0.85")
    table = submission.compare(data, scores, packed)
    (axes,) = figures.against_oof(table).axes
    assert axes.get_title() == "lwlrap of all classes: 0.833 on test clips, 0.750 out of fold"
    assert [line.get_label() for line in axes.lines] == ["out of fold, arithmetic mean", "test clips"]
    (axes,) = figures.against_oof(table.assign(organisers=0.5)).axes
    assert axes.lines[-1].get_label().startswith("organisers")


def test_the_organisers_numbers_are_those_of_the_real_test_set(shared_data):
    """Their scores by class, weighted by the released labels, give the lwlrap that they tell."""
    root = shared_data("fsdkaggle2019-meta")
    labels = pd.read_csv(root / "test_post_competition.csv")["labels"].str.split(",").explode().value_counts()
    theirs = submission.organisers()
    assert set(theirs.index) == set(labels.index) and len(theirs) == 80
    assert round(float((theirs * labels).sum() / labels.sum()), 3) == 0.546


# --- what it needs -------------------------------------------------------------------------------------------------


def test_scoring_imports_nothing_that_kaggle_lacks_or_that_is_slow():
    code = """if True:
        import sys
        sys.path[:0] = ["", "tests"]
        from simulated_kaggle import BLOCKED, Absent
        sys.meta_path.insert(0, Absent(BLOCKED))
        from lib import files
        from lib.data import datasets
        from lib.figures import logmels, scores
        from lib.runs import run as runs
        from lib.sound import cache, features
        from lib.submission import bundle, kaggle, submission
        print(sorted(BLOCKED & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
