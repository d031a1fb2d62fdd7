"""Reading of clips: formats, mono, resampling, and every reason for which a clip is refused."""

import io
import re
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from lib.data import audio

RATE = 44100
SINE = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE // 2) / RATE)  # 1 kHz, half a second


def encoded(samples=SINE, rate=RATE, form="WAV", subtype="PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def with_sizes(riff=None, data=None) -> bytes:
    """A wav file whose header holds other sizes."""
    raw = bytearray(encoded())
    for at, size in ((4, riff), (40, data)):
        if size is not None:
            struct.pack_into("<I", raw, at, size)
    return bytes(raw)


def with_chunk(n_bytes: int, before: bool) -> bytes:
    """A wav file with another chunk before or after its samples."""
    raw, chunk = encoded(), b"LIST" + struct.pack("<I", n_bytes) + b"x" * n_bytes
    raw = raw[:36] + chunk + raw[36:] if before else raw + chunk
    return raw[:4] + struct.pack("<I", len(raw) - 8) + raw[8:]


@pytest.mark.parametrize(
    "form, subtype, rate, n_channels",
    [
        ("WAV", "PCM_16", 44100, 1),
        ("WAV", "PCM_24", 96000, 2),
        ("WAV", "FLOAT", 8000, 1),
        ("WAVEX", "PCM_16", 48000, 6),
        ("WAV", "PCM_U8", 11025, 1),
        ("OGG", "VORBIS", 44100, 2),
        ("FLAC", "PCM_24", 44100, 1),
        ("MP3", "MPEG_LAYER_III", 44100, 1),
    ],
)
def test_every_format_rate_and_channel_count_gives_the_same_sound(tmp_path, form, subtype, rate, n_channels):
    sine = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate // 2) / rate)
    path = tmp_path / "clip"
    path.write_bytes(encoded(np.repeat(sine[:, None], n_channels, axis=1), rate, form, subtype))
    head, samples = audio.header(path), audio.read(path, 22050)
    assert head == (pytest.approx(0.5, abs=0.06), rate, n_channels)
    assert samples.dtype == np.float32 and samples.ndim == 1 and samples.flags.c_contiguous
    assert len(samples) == pytest.approx(head.duration_s * 22050, abs=1)
    spectrum = np.abs(np.fft.rfft(samples))
    assert spectrum.argmax() * 22050 / len(samples) == pytest.approx(1000, abs=3)
    assert np.sqrt(np.mean(samples[2000:8000] ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)


@pytest.mark.parametrize("rate, length", [(44100, 441), (22050, 220), (8000, 80), (96000, 960)])
def test_ten_milliseconds_are_enough(tmp_path, rate, length):
    (tmp_path / "clip.wav").write_bytes(encoded(SINE[:441]))
    assert abs(len(audio.read(tmp_path / "clip.wav", rate)) - length) <= 1


def test_same_rate_is_bit_exact(tmp_path):
    (tmp_path / "clip.wav").write_bytes(encoded([0.5, -0.25, 2**-15]))
    assert audio.read(tmp_path / "clip.wav", RATE).tolist() == [0.5, -0.25, 2**-15]


@pytest.mark.parametrize(
    "gains, gain",
    [
        ((0.5, 1.0), 0.75),
        ((1.0, -1.0), 1.0),
        ((0.25, -0.26), 0.26),
        ((0, 0, 1, 0, 0, 0, 0, 0), 0.125),
        ((1, -0.5), 0.25),
    ],
    ids=["mean", "opposite phase", "almost opposite", "one live channel of eight", "partly cancelling"],
)
def test_channels_are_averaged_unless_they_cancel(tmp_path, gains, gain):
    (tmp_path / "clip.wav").write_bytes(encoded(SINE[:, None] * gains, subtype="FLOAT"))
    samples = audio.read(tmp_path / "clip.wav", RATE)
    assert np.abs(samples) == pytest.approx(np.abs(SINE) * gain, abs=1e-6)


def mp3(mode: str) -> bytes:
    """Ten seconds of noise that fades, without the first frame, which tells how long it is."""
    raw, loud = io.BytesIO(), np.random.default_rng(0).uniform(-1, 1, 10 * RATE) * np.linspace(1, 0, 10 * RATE) ** 4
    soundfile.write(raw, loud, RATE, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode=mode, compression_level=0.5)
    raw = raw.getvalue()
    assert b"Info" in raw[:200] or b"Xing" in raw[:200]
    return raw[raw.index(b"\xff\xfb", 4) :]


@pytest.mark.parametrize("tag", [b"", b"ID3\4\0\0\0\0\50\0" + bytes(40 * 128)], ids=["no tag", "a picture before it"])
def test_an_mp3_of_constant_rate_need_not_tell_its_length(tmp_path, tag):
    (tmp_path / "clip.mp3").write_bytes(tag + mp3("CONSTANT"))
    assert len(audio.read(tmp_path / "clip.mp3", RATE)) == pytest.approx(10 * RATE, rel=0.01)


REFUSED = {
    "unreadable: an mp3 that does not tell its length. Convert it: ffmpeg": mp3("VARIABLE"),
    "empty": b"",
    "^empty": encoded([]),
    "unreadable: Format not recognised": b"this is no sound",
    "truncated: 22100 of 44144 bytes": encoded()[:22100],
    "truncated: 44144 of 50044 bytes": with_sizes(data=50000),
    "truncated: 44144 of 60000 bytes": with_sizes(riff=60000),
    "truncated: decoding stopped": encoded(form="FLAC")[:-2000],
    "truncated: the last Ogg page": encoded(form="OGG", subtype="VORBIS")[:-1],
    r"truncated: \d+ of \d+ samples": encoded(form="MP3", subtype="MPEG_LAYER_III")[:3000],
    "unreadable: 3 Hz": encoded(rate=3),
    "contains NaN": encoded([0.5, np.nan, 0.5], subtype="FLOAT"),
    "damaged: samples up to 1e\\+30": encoded([0.5, -1e30, 0.5], subtype="FLOAT"),
    "contains NaN or inf": encoded([0.5, np.inf, 0.5], subtype="FLOAT"),
    "all silent": encoded(np.zeros(1000)),
    "all silent$": encoded(np.full((1000, 2), 9e-6), subtype="FLOAT"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refusals(tmp_path, reason):
    (tmp_path / "clip.wav").write_bytes(REFUSED[reason])
    with pytest.raises(audio.AudioError, match=reason) as caught:
        audio.read(tmp_path / "clip.wav", RATE)
    assert "0x" not in str(caught.value) and str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("reason", [reason for reason in REFUSED if re.search("empty|recognised|bytes", reason)])
def test_the_header_alone_shows_what_needs_no_decoding(tmp_path, reason):
    (tmp_path / "clip.wav").write_bytes(REFUSED[reason])
    with pytest.raises(audio.AudioError, match=reason):
        audio.header(tmp_path / "clip.wav")


def test_missing_clips_members_and_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x.wav", encoded())
    (tmp_path / "bad.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:-50])
    for path in (tmp_path / "no.wav", tmp_path / "a.zip!no.wav", tmp_path / "no.zip!x.wav", ""):
        with pytest.raises(audio.AudioError, match=r"^missing$"):
            audio.header(path)
    for path in (tmp_path, tmp_path / "bad.zip!x.wav"):
        with pytest.raises(audio.AudioError, match="unreadable: "):
            audio.read(path, RATE)
    with pytest.raises(ValueError, match="sample_rate=0: expected Hz above 0"):
        audio.read(tmp_path / "a.zip!x.wav", 0)


@pytest.mark.parametrize(
    "raw",
    [
        with_sizes(riff=0, data=0xFFFFFFFF),
        with_sizes(riff=0xFFFFFFFF, data=0xFFFFFFFF),
        with_sizes(riff=0x7FFFF024, data=0x7FFFF000),
        with_sizes(riff=len(encoded())),
    ],
    ids=["no size", "ffmpeg to a pipe", "sox to a pipe", "counts its own 8 bytes"],
)
def test_placeholder_sizes_are_no_truncation(tmp_path, raw):
    (tmp_path / "clip.wav").write_bytes(raw)
    assert len(audio.read(tmp_path / "clip.wav", RATE)) == len(SINE)
    assert audio.header(tmp_path / "clip.wav").duration_s == 0.5


@cache
def whole(form: str, subtype: str) -> bytes:
    return encoded(np.random.default_rng(0).normal(0, 0.1, 3000), form=form, subtype=subtype)


@given(
    kind=st.sampled_from([("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")]),
    share=st.floats(0, 1),
)
def test_no_cut_is_ever_taken_for_a_shorter_clip(tmp_path_factory, kind, share):
    raw = whole(*kind)
    path = tmp_path_factory.getbasetemp() / "cut"
    path.write_bytes(raw[: int(share * (len(raw) - 1))])
    with pytest.raises(audio.AudioError, match=r"empty|unreadable|truncated"):
        audio.read(path, RATE)


@given(
    kind=st.sampled_from([("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")]),
    damage=st.dictionaries(st.integers(0, 120), st.integers(0, 255), min_size=1, max_size=6),
)
def test_a_damaged_header_gives_sound_or_a_reason(tmp_path_factory, kind, damage):
    raw = bytearray(whole(*kind))
    for at, value in damage.items():
        raw[at] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(raw)
    try:
        samples = audio.read(path, 8000)
    except audio.AudioError as error:
        assert str(error) and "0x" not in str(error)
    else:
        assert samples.ndim == 1 and len(samples) and np.isfinite(samples).all() and np.abs(samples).max() > 0


def test_members_of_an_archive_are_read_as_files_are_and_nothing_is_extracted(tmp_path):
    kinds = {
        "plain.wav": encoded(),
        "deep/er/list_before.wav": with_chunk(20000, before=True),
        "list_after.wav": with_chunk(20001, before=False),
        "float.wav": encoded(subtype="FLOAT"),
        "clip.ogg": encoded(form="OGG", subtype="VORBIS"),
        "clip.flac": encoded(form="FLAC"),
    }
    archive, file = tmp_path / "we!rd.zip", tmp_path / "file"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, raw in kinds.items():
            opened.writestr(name, raw)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(audio.read_bytes, [f"{archive}!{name}" for name in kinds] * 20))
    assert together == [*kinds.values()] * 20
    for name, raw in kinds.items():
        file.write_bytes(raw)
        member = f"{archive}!{name}"
        assert audio.peek(member) == audio.peek(file) == (len(raw), raw[: audio.HEAD_BYTES])
        assert audio.header(member) == audio.header(file)
        assert (audio.read(member, 22050) == audio.read(file, 22050)).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "we!rd.zip"]


def test_damage_inside_an_archive_is_found_when_read(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("x.wav", encoded())
    raw = bytearray(archive.read_bytes())
    raw[30000] ^= 255
    archive.write_bytes(raw)
    assert audio.header(f"{archive}!x.wav").duration_s == 0.5
    with pytest.raises(audio.AudioError, match="unreadable: Bad CRC"):
        audio.read(f"{archive}!x.wav", RATE)


def test_real_clips(shared_data, tmp_path):
    for path in sorted((shared_data("esc10") / "audio").iterdir())[::40]:
        head, samples = audio.header(path), audio.read(path, RATE)
        assert head.sample_rate == RATE and len(samples) == round(head.duration_s * RATE)
        assert 0.01 < np.abs(samples).max() < 1.2
        (tmp_path / "half.ogg").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert audio.header(tmp_path / "half.ogg").duration_s < head.duration_s  # libsndfile sees nothing wrong
        with pytest.raises(audio.AudioError, match="truncated"):
            audio.read(tmp_path / "half.ogg", RATE)
