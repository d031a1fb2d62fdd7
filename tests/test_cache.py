"""Tests of cache: the right numbers under the right name, whole or not there, whoever else is building."""

import builtins
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lib.data import audio
from lib.sound import cache
from lib.sound.features import LogMel

ROOT = Path(__file__).parents[1]
SMALL = LogMel(8000, 256, 80, 16, 20)
RNG = np.random.default_rng(0)


def noise(n_samples: int) -> np.ndarray:
    return RNG.uniform(-0.5, 0.5, n_samples)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and its bytes, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def clips(make_clips):
    return make_clips({"b.wav": noise(4000), "a.wav": noise(900), "d.wav": noise(80), "c.wav": noise(8000)})


@pytest.fixture
def home(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def n_fills(monkeypatch):
    """Counts how often a subset is filled."""
    fills, fill = [], cache._fill
    monkeypatch.setattr(cache, "_fill", lambda *args: (fills.append(args[0].name), fill(*args)))
    return lambda: len(fills)


def frames_of(store: cache.Cache, fname: str) -> torch.Tensor:
    (row,) = store.rows([fname]).itertuples()
    return torch.cat(store.parts)[row.first_frame : row.first_frame + row.n_frames]


# --- the right numbers ---------------------------------------------------------------------------------------------


def test_frames_are_the_log_mels_of_the_clips(clips, home):
    store = cache.build(clips, SMALL, home)
    for clip in clips.itertuples():
        found, expected = frames_of(store, clip.fname), SMALL(audio.read(clip.path, 8000))
        assert found.dtype == torch.float16 and found.shape == (expected.shape[2], 1, 16)
        torch.testing.assert_close(found[:, 0].T.float(), expected[0], atol=0.05, rtol=0)
        assert store.index.set_index("fname").loc[clip.fname, "floor_db"] == found.min()


@pytest.mark.parametrize(
    ("channels", "floored"),
    [
        (("delta", "logmel", "logmel_512"), [1, 2]),  # in dB
        (("phase", "logmel"), [1]),
        (("phase", "pcen"), [0, 1]),  # none is in dB
    ],
)
def test_frames_hold_any_channels_and_their_floor(clips, home, channels, floored):
    logmel = replace(SMALL, channels=channels)
    store = cache.build(clips, logmel, home)
    assert store.logmel.n_channels == len(channels)
    for clip in clips.itertuples():
        found, expected = frames_of(store, clip.fname), logmel(audio.read(clip.path, 8000))
        torch.testing.assert_close(found.permute(1, 2, 0), expected.half(), atol=0, rtol=0)
        assert store.index.set_index("fname").loc[clip.fname, "floor_db"] == found[:, floored].min()


def test_the_floor_of_a_clip_is_in_db_even_where_another_channel_lies_below_it(make_clips, home):
    loud = make_clips({"a.wav": 0.9 * np.sin(2 * np.pi * 1000 * np.arange(4000) / 8000)})
    store = cache.build(loud, replace(SMALL, top_db=5.0, channels=("delta", "logmel")), home)
    delta, decibels = frames_of(store, "a.wav").unbind(dim=1)
    assert store.index["floor_db"].tolist() == [decibels.min()] and decibels.min() > 0 > delta.min()


def test_the_index_adds_up(clips, home):
    store = cache.build(clips, SMALL, home)
    index = store.index
    assert index.columns.tolist() == ["fname", "first_frame", "n_frames", "floor_db"]
    assert index["fname"].tolist() == ["a.wav", "b.wav", "c.wav", "d.wav"]
    assert index["n_frames"].tolist() == [1 + n // 80 for n in (900, 4000, 8000, 80)]
    assert index["first_frame"].tolist() == [0, *index["n_frames"].cumsum()[:-1]]
    assert len(store.parts[0]) == index["n_frames"].sum() and store.logmel.n_channels == 1
    assert len(store.problems) == 0 and store.logmel == SMALL


def test_several_subsets_are_several_parts(make_clips, home):
    sets = [make_clips({f"{s}{i}.wav": noise(500) for i in range(2)}, s) for s in ("test", "curated", "noisy")]
    store = cache.build(pd.concat(sets), SMALL, home)
    assert [len(part) for part in store.parts] == [14, 14, 14]
    assert store.index["fname"].tolist() == [f"{s}{i}.wav" for s in ("curated", "noisy", "test") for i in range(2)]
    assert store.index["first_frame"].tolist() == [0, 7, 14, 21, 28, 35]
    for clip in pd.concat(sets).itertuples():
        expected = SMALL(audio.read(clip.path, 8000))[0]
        torch.testing.assert_close(frames_of(store, clip.fname)[:, 0].T.float(), expected, atol=0.05, rtol=0)
        (row,) = store.rows([clip.fname]).itertuples()
        assert torch.equal(store.frames(row), frames_of(store, clip.fname))


def test_a_subset_is_shared_by_whoever_asks_for_it(make_clips, home, n_fills):
    curated, noisy = make_clips({"a.wav": noise(500)}), make_clips({"n.wav": noise(500)}, "noisy")
    both, one = cache.build(pd.concat([noisy, curated]), SMALL, home), cache.build(noisy, SMALL, home)
    assert n_fills() == 2 and both.name != one.name
    assert torch.equal(frames_of(both, "n.wav"), frames_of(one, "n.wav"))


def test_audio_is_known_by_content_whatever_the_settings(make_clips, home):
    curated, noisy = make_clips({"a.wav": noise(500)}), make_clips({"n.wav": noise(500)}, "noisy")
    one, both = cache.build(curated, SMALL, home), cache.build(pd.concat([noisy, curated]), SMALL, home)
    assert set(both.audio) == {"curated", "noisy"} and both.audio["curated"] == one.audio["curated"]
    assert cache.build(curated, replace(SMALL, n_mels=32), home).audio == one.audio
    other = make_clips({"a.wav": 0.5 * noise(500)})  # under the same name
    assert cache.build(other, SMALL, home).audio != one.audio


def test_statistics_are_numpys(make_clips, home):
    curated = make_clips({"a.wav": noise(3000), "b.wav": 0.01 * noise(800), "c.wav": noise(100)})
    noisy = make_clips({"n.wav": 0.1 * noise(2000)}, "noisy")
    store = cache.build(pd.concat([curated, noisy]), SMALL, home)
    chosen = pd.Series(["n.wav", "b.wav", "a.wav"], index=[9, 9, 3])
    values = np.concatenate([frames_of(store, fname).double().numpy() for fname in chosen])
    mean, std = store.statistics(chosen)
    np.testing.assert_allclose(mean, [values.mean()], rtol=1e-10)
    np.testing.assert_allclose(std, [values.std()], rtol=1e-8)


def test_statistics_are_per_channel():
    frames = torch.stack([torch.tensor([[1.0, 3.0]]), torch.tensor([[5.0, 5.0]])], dim=1).half()  # (1, 2 channels, 2)
    index = pd.DataFrame({"fname": ["a"], "first_frame": 0, "n_frames": 1, "floor_db": 1.0})
    mean, std = cache.Cache(SMALL, (frames,), index, pd.DataFrame(), "").statistics(pd.Series(["a"]))
    assert mean == [2, 5]
    assert std == pytest.approx([1, 1e-3])  # never 0: one divides by it


def test_statistics_per_band_are_numpys(clips, home):
    store = cache.build(clips, replace(SMALL, channels=("logmel", "delta")), home)
    values = np.concatenate([frames_of(store, fname).double().numpy() for fname in ("b.wav", "a.wav")])
    mean, std = store.statistics(pd.Series(["a.wav", "b.wav"]), per_band=True)
    assert np.shape(mean) == np.shape(std) == (2, 16) and isinstance(mean[0], list)
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(std, values.std(axis=0), rtol=1e-8)
    whole = store.statistics(pd.Series(["a.wav", "b.wav"]))
    np.testing.assert_allclose(np.mean(mean, axis=1), whole[0], rtol=1e-10)  # bands are of the same size


def test_rows_come_in_the_order_that_is_asked_for(clips, home):
    store = cache.build(clips, SMALL, home)
    assert store.rows(pd.Series(["c.wav", "a.wav", "c.wav"]))["fname"].tolist() == ["c.wav", "a.wav", "c.wav"]
    assert store.rows(["d.wav"]).columns.tolist() == store.index.columns.tolist()
    with pytest.raises(KeyError, match=r"7 clips are not in the cache \(build it with them\): \['0', .*'4'\]"):
        store.rows([*"0123456", "a.wav"])


def test_the_file_cannot_be_changed_through_the_tensor(clips, home):
    store = cache.build(clips, SMALL, home)
    before = tree(home)
    store.parts[0][:] = 0
    assert tree(home) == before
    assert cache.build(clips, SMALL, home).parts[0].min() < 0


# --- the right name ------------------------------------------------------------------------------------------------


def test_the_name_follows_the_content_not_the_place(clips, home, tmp_path, n_fills):
    first = cache.build(clips, SMALL, home)
    made = tree(home)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in clips["path"]:
        (moved / Path(path).name).write_bytes(Path(path).read_bytes())
        os.utime(path, ns=(1, 1))
    touched = cache.build(clips.iloc[::-1], SMALL, home)  # in another order, too
    again = cache.build(clips.assign(path=[str(moved / fname) for fname in clips["fname"]]), SMALL, home)
    assert first.name == touched.name == again.name and n_fills() == 1
    assert made.items() - tree(home).items() <= {("sha256.csv", made["sha256.csv"])}


def test_files_are_not_read_again(clips, home, monkeypatch):
    cache.build(clips, SMALL, home)
    monkeypatch.setattr(audio, "read_bytes", None)
    assert len(cache.build(clips, SMALL, home).index) == 4


def test_other_bytes_other_settings_or_other_names_make_another_one(clips, home, n_fills):
    names = [cache.build(clips, SMALL, home).name]
    changes = [{"n_mels": 15}, {"hop_length": 81}, {"fmin": 21.0}, {"top_db": 70.0}, {"sample_rate": 8001}]
    for change in (*changes, {"channels": ["pcen"]}):
        names.append(cache.build(clips, LogMel(**{**SMALL.settings(), **change}), home).name)
    names.append(cache.build(clips.iloc[:3], SMALL, home).name)
    names.append(cache.build(clips.assign(fname=["x.wav", *clips["fname"][1:]]), SMALL, home).name)
    names.append(cache.build(clips.assign(subset="noisy"), SMALL, home).name)
    path = Path(clips["path"][0])
    path.write_bytes(path.read_bytes()[:-2] + b"\x01\x02")  # of the same size
    os.utime(path, ns=(1, 1))
    names.append(cache.build(clips, SMALL, home).name)
    assert len(set(names)) == len(names) == n_fills()


def test_two_files_whose_names_were_swapped_are_read_again(make_clips, home):
    """`mv` keeps the time of the content."""
    clips = make_clips({"a.wav": noise(800), "b.wav": -noise(800)})
    a, b = (Path(path) for path in clips["path"])
    for path in (a, b):
        os.utime(path, ns=(1, 1))
    before = frames_of(cache.build(clips, SMALL, home), "a.wav")
    name = cache.build(clips, SMALL, home).name
    aside = a.rename(a.with_name("c.wav"))
    b.rename(a)
    aside.rename(b)
    swapped = cache.build(clips, SMALL, home)
    assert swapped.name != name and torch.equal(frames_of(swapped, "b.wav"), before)


def test_frames_of_other_code_are_not_served_but_the_audio_is_the_same(clips, home, n_fills, monkeypatch):
    before = cache.build(clips, SMALL, home)
    monkeypatch.setattr(cache.code, "digest", lambda which: f"another {which}")
    after = cache.build(clips, SMALL, home)
    assert (
        n_fills() == 2
        and after.name != before.name
        and after.audio == before.audio == {"curated": after.audio["curated"]}
    )
    louder = cache.build(clips, LogMel(**{**SMALL.settings(), "n_mels": 15}), home)
    assert louder.audio == before.audio  # whatever is made of it


def test_members_of_an_archive_and_folders_with_marks(clips, home, tmp_path, n_fills):
    odd = tmp_path / "wow!.zip files!"
    odd.mkdir()
    with zipfile.ZipFile(odd / "set.zip", "w") as archive:
        for clip in clips.itertuples():
            archive.write(clip.path, f"in/{clip.fname}")
    store = cache.build(clips, SMALL, home)
    zipped = cache.build(clips.assign(path=[f"{odd}/set.zip!in/{f}" for f in clips["fname"]]), SMALL, home)
    assert zipped.name == store.name and n_fills() == 1


# --- clips that cannot be used -------------------------------------------------------------------------------------


def test_undecodable_clips_are_listed_and_left_out(make_clips, home):
    good = {"a.wav": noise(900), "e.wav": noise(700)}
    bad = {"b.wav": b"", "c.wav": b"no sound at all", "d.wav": np.zeros(900), "f.wav": None}
    alone, store = (cache.build(make_clips(sounds), SMALL, home) for sounds in (good, {**good, **bad}))
    assert store.index["fname"].tolist() == ["a.wav", "e.wav"] and torch.equal(store.parts[0], alone.parts[0])
    found = store.problems.set_index("fname")
    assert found["reason"]["b.wav"] == "empty" and found["reason"]["d.wav"] == "all silent"
    assert found["reason"]["f.wav"] == "missing" and found["reason"]["c.wav"].startswith("unreadable: ")
    assert len(found) == 4 and (found["subset"] == "curated").all()
    again = cache.build(make_clips({**good, **bad}), SMALL, home)  # read back from the disk
    pd.testing.assert_frame_equal(again.problems, store.problems)


def test_a_subset_that_is_all_bad_beside_a_good_one(make_clips, home):
    curated, noisy = make_clips({"z.wav": b"", "y.wav": b"x"}), make_clips({"n.wav": noise(500)}, "noisy")
    for _ in range(2):  # made, and opened
        store = cache.build(pd.concat([curated, noisy]), SMALL, home)
        assert store.index[["fname", "first_frame"]].to_numpy().tolist() == [["n.wav", 0]] and len(store.parts) == 1
        assert store.problems["fname"].tolist() == ["y.wav", "z.wav"]
        assert store.problems["usable"].dtype == bool  # else ~ means something else


@pytest.mark.parametrize("name", ["index.csv", "frames.f16"])
def test_a_cache_that_was_damaged_is_refused(clips, home, name):
    cache.build(clips, SMALL, home)
    (file,) = home.glob(f"*/*/{name}")
    content = file.read_bytes()
    file.write_bytes(content[: content.rstrip(b"\n").rfind(b"\n") + 1] if name == "index.csv" else content[:-2])
    with pytest.raises(ValueError, match="is damaged: .* Delete that folder: it is made again"):
        cache.build(clips, SMALL, home)
    next(home.glob("sha256.csv")).write_bytes(b"\xff\x00")  # of the memo only time is lost
    with pytest.raises(ValueError, match="is damaged: .* Delete that folder"):
        cache.build(clips, SMALL, home)


def test_no_clip_at_all(make_clips, home):
    bad = make_clips({f"{i}.wav": b"" for i in range(7)})
    for _ in range(2):
        with pytest.raises(ValueError, match=r"None of 7 clips can be used: \['0.wav: empty', .*\]. Look at data.prob"):
            cache.build(bad, SMALL, home)
    with pytest.raises(ValueError, match=r"None of 0 clips"):
        cache.build(bad.iloc[:0], SMALL, home)


def test_a_clip_that_could_not_be_read_is_tried_again(clips, home, monkeypatch):
    right = audio.read_bytes

    def read_bytes(path: str) -> bytes:
        if path.endswith("a.wav"):
            raise audio.AudioError("unreadable: Permission denied")
        return right(path)

    monkeypatch.setattr(audio, "read_bytes", read_bytes)
    assert cache.build(clips, SMALL, home).problems["fname"].tolist() == ["a.wav"]
    monkeypatch.setattr(audio, "read_bytes", right)  # chmod changes neither size nor time stamp
    assert len(cache.build(clips, SMALL, home).problems) == 0


# --- whole or not there --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_the_same_bytes_by_any_number_of_threads(make_clips, home, n_threads, monkeypatch):
    monkeypatch.setattr(cache, "IN_FLIGHT", 3)
    sounds = np.random.default_rng(1)
    many = make_clips({f"{i:02d}.wav": sounds.uniform(-1, 1, 400 + 90 * i) for i in range(10)})
    cache.build(many, SMALL, home, n_threads=n_threads)
    monkeypatch.setattr(cache, "IN_FLIGHT", 64)
    cache.build(many, SMALL, home / "other", n_threads=3)
    for name, content in tree(home / "other").items():
        assert (home / name).read_bytes() == content, name


def test_torchs_number_of_threads_is_restored(clips, home, monkeypatch):
    def seen_by_a_new_thread() -> int:
        seen = []
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return seen[0]

    def broken(*args):
        raise RuntimeError("broken")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        cache.build(clips, SMALL, home)
        assert torch.get_num_threads() == seen_by_a_new_thread() == 2
        monkeypatch.setattr(cache, "float", broken, raising=False)  # used once a clip, after it is written
        with pytest.raises(RuntimeError, match="broken"):
            cache.build(clips.assign(subset="noisy"), SMALL, home)
        assert torch.get_num_threads() == seen_by_a_new_thread() == 2
    finally:
        torch.set_num_threads(before)


def test_an_error_in_the_middle_leaves_nothing(clips, home, monkeypatch):
    def read(path: str, sample_rate: int) -> np.ndarray:
        if path.endswith("c.wav"):
            raise MemoryError("too long")
        return right(path, sample_rate)

    right = audio.read
    monkeypatch.setattr(audio, "read", read)
    with pytest.raises(MemoryError, match="too long"):
        cache.build(clips, SMALL, home)
    assert list(tree(home)) == ["sha256.csv"]
    monkeypatch.setattr(audio, "read", right)
    assert len(cache.build(clips, SMALL, home).index) == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("victim", ["frames.f16", "sha256.csv"])
def test_a_full_disk(clips, home, monkeypatch, victim):
    def full(path, *args, **kwargs):
        return builtins.open("/dev/full" if victim in str(path) else path, *args, **kwargs)

    for module in (cache, audio):
        monkeypatch.setattr(module, "open", full, raising=False)
    with pytest.raises(OSError, match=r"The disk is full .*free some space and start again; finished results are kept"):
        cache.build(clips, SMALL, home)
    assert victim not in " ".join(tree(home))
    assert not list(home.rglob("*.partial"))


BUILDERS = """if True:
    import os, sys, time
    from pathlib import Path
    import pandas as pd
    from lib.sound import cache
    from lib.sound.features import LogMel
    transformed = cache._transformed

    def slowly(*args):
        for item in transformed(*args):
            yield item  # one clip is written; go on when there is a second builder
            while len(list(home.glob("*/.*.partial"))) < 2 and not list(home.glob("*/curated-*")):
                time.sleep(0.01)

    cache._transformed = slowly
    for home in map(Path, sys.argv[2:]):
        if not os.fork():
            cache.build(pd.read_csv(sys.argv[1]), LogMel(8000, 256, 80, 16, 20), home, n_threads=1)
            os._exit(0)
    for _ in sys.argv[2:]:
        print(*os.wait(), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_two_builders_at_once_and_one_that_is_killed(clips, home, tmp_path):
    """Three processes: two meet in the middle of the same part, one waits in vain for a second and is killed."""
    clips.to_csv(tmp_path / "clips.csv", index=False)
    alone = tmp_path / "alone"
    command = [sys.executable, "-c", BUILDERS, tmp_path / "clips.csv", home, home, alone]
    builders = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        name = cache.build(clips, SMALL, tmp_path / "reference").name
        reference = tree(tmp_path / "reference")
        assert [builders.stdout.readline().split()[1] for _ in range(2)] == ["0", "0"]
        assert tree(home) == reference
        while not list(alone.glob("*/.*.partial/frames.f16")):
            assert builders.poll() is None
            time.sleep(0.01)
    finally:
        os.killpg(builders.pid, signal.SIGKILL)
        builders.communicate()
    assert {path for path in tree(alone) if ".partial" not in path} == {"sha256.csv"}
    assert cache.build(clips, SMALL, alone).name == name
    assert {path: content for path, content in tree(alone).items() if ".partial" not in path} == reference
