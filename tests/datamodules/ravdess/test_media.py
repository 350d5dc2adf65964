from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest

from ntdh_bench.datamodules.ravdess import media
from ntdh_bench.datamodules.ravdess.layout import dataset_folder, find_clips
from ntdh_bench.datamodules.ravdess.media import (
    ACTION_UNITS,
    action_units,
    frames,
    functionals,
    mfcc,
    mfcc_batch,
    samples,
)
from ntdh_bench.errors import UserError
from tests.datamodules.ravdess.files import csv_bytes, encoded, every_frame, mp4_bytes, wav_bytes

TOLERANCE = 0.02  # of torchaudio against librosa, as documented


def by_librosa(content: bytes) -> np.ndarray:
    """40 x 256 straight from librosa."""
    audio, _ = librosa.load(io.BytesIO(content), sr=22050, mono=True)
    found = np.zeros((40, 256), np.float32)
    computed = librosa.feature.mfcc(y=audio, sr=22050, n_mfcc=40)[:, :256]
    found[:, : computed.shape[1]] = computed
    return found


WAVS = {
    "mono": wav_bytes(),
    "stereo": wav_bytes(1, channels=2),
    "odd rate": wav_bytes(2, rate=37_123),
    "low rate": wav_bytes(3, rate=8_000, seconds=0.5),
    "24 bit": wav_bytes(4, subtype="PCM_24"),
    "float": wav_bytes(5, subtype="FLOAT"),
    "silent": encoded(np.zeros(20_000)),
    "shorter than a window": wav_bytes(6, seconds=0.02),
    "longer than 256 windows": wav_bytes(7, seconds=7, rate=22_050),
}


@pytest.mark.parametrize("name", WAVS)
def test_mfccs_are_those_of_librosa(name: str) -> None:
    content = WAVS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = mfcc(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.array_equal(found, by_librosa(content))
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


def test_torchaudio_agrees_within_the_stated_tolerance() -> None:
    batch = mfcc_batch([samples(content) for content in WAVS.values()])
    for content, found in zip(WAVS.values(), batch, strict=True):
        assert found.shape == (40, 256)
        np.testing.assert_allclose(found, mfcc(content), atol=TOLERANCE, rtol=0)


def test_chunks_before_and_after_the_samples() -> None:
    content = wav_bytes()
    extra = b"FLLR" + (100).to_bytes(4, "little") + b"\0" * 100
    later = b"bext" + (8).to_bytes(4, "little") + b"\0" * 8
    data = content.index(b"data")
    body = content[12:data] + extra + content[data:] + later
    size = (len(body) + 4).to_bytes(4, "little")
    assert np.array_equal(mfcc(b"RIFF" + size + b"WAVE" + body), mfcc(content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a wav file"),
        (b"just some words", "not a wav file"),
        (wav_bytes(format="FLAC"), "not a wav file, but FLAC"),
        (wav_bytes()[:40], "not a wav file"),
        (wav_bytes()[:-500], r"cut off: \d+ of \d+ bytes"),
        (encoded(np.zeros(0)), "no samples"),
        (encoded(np.ones(1)), "1 samples in all: no speech"),
        (encoded(np.zeros(3000), rate=2**31 - 1), "2147483647 Hz, expected 1000 to 384000"),
        (encoded(np.zeros(3000), rate=999), "999 Hz"),
        (encoded(np.zeros(3000), subtype="GSM610", rate=8000), "kind GSM610, expected PCM"),
        (encoded(np.full(3000, np.nan), subtype="FLOAT"), "NaN, infinite"),
        (encoded(np.full(3000, np.inf), subtype="FLOAT"), "NaN, infinite"),
        (encoded(np.full(3000, 1e30), subtype="FLOAT"), "beyond 1e6"),
        (encoded(np.zeros(40_000), rate=1_000), "40 s in 1 channels, expected at most 30 s"),
    ],
)
def test_wavs_that_cannot_be_used(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        samples(content)


def test_functionals_are_mean_and_deviation_of_coefficients_and_changes() -> None:
    content = wav_bytes(seconds=1.0)
    audio, _ = librosa.load(io.BytesIO(content), sr=22050)
    found = librosa.feature.mfcc(y=audio, sr=22050, n_mfcc=40)
    changes = found[:, 1:] - found[:, :-1]
    expected = [part for x in (found, changes) for part in (x.mean(axis=1), x.std(axis=1))]
    np.testing.assert_allclose(functionals(content), np.concatenate(expected), rtol=1e-4, atol=1e-4)
    assert not functionals(encoded(np.ones(600)))[80:].any()  # one window: nothing changes


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bf": "0"},
        {"x264-params": "open-gop=1:bframes=3:scenecut=0"},
        {"g": "250"},
        {"x264-params": "intra-refresh=1"},
    ],
)
@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_frames_are_those_of_decoding_everything(options: dict[str, str], count: int) -> None:
    content = mp4_bytes(options=options, count=23)
    everything = every_frame(content, 32, 40)
    expected = [everything[int((i + 0.5) / count * 23)] for i in range(count)]
    found = frames(content, count, 32, 40)
    assert found.shape == (count, 3, 32, 40)
    assert np.array_equal(found, np.stack(expected))


def test_tags_need_not_be_text() -> None:
    content = mp4_bytes()
    assert content.count(b"Lavf") == 1
    tagged = content.replace(b"Lavf", b"\xff\xfe\x80\x81")
    assert np.array_equal(frames(tagged, 3, 16, 16), frames(content, 3, 16, 16))


def test_the_middle_frame_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    scaled: list[Any] = []
    real = media._scaled
    monkeypatch.setattr(media, "_scaled", lambda *a: scaled.append(a) or real(*a))
    frames(mp4_bytes(count=23), 1, 16, 16)
    assert len(scaled) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an mp4"),
        (b"no video", "not an mp4"),
        (wav_bytes(), "not an mp4"),
        (mp4_bytes()[:-3000], "not an mp4|cut off"),
        (mp4_bytes()[:1000], "not an mp4|cut off"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "not an mp4"),
    ],
)
def test_videos_that_cannot_be_used(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        frames(content, 1, 16, 16)


def test_a_cut_video_whose_index_comes_first(tmp_path: Path) -> None:
    content = faststart(mp4_bytes(count=20))
    assert frames(content, 1, 16, 16).any()
    with pytest.raises(UserError, match=r"cut off: \d+ of 20 frames"):
        frames(content[:-200], 1, 16, 16)


def faststart(content: bytes) -> bytes:
    """Move the index to the front: offsets to the samples grow by its length."""
    boxes, at = [], 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        boxes.append(content[at : at + size])
        at += size
    index = next(box for box in boxes if box[4:8] == b"moov")
    start = index.index(b"stco")
    moved = bytearray(index)
    for entry in range(int.from_bytes(index[start + 8 : start + 12], "big")):
        place = slice(start + 12 + 4 * entry, start + 16 + 4 * entry)
        moved[place] = (int.from_bytes(index[place], "big") + len(index)).to_bytes(4, "big")
    rest = [box for box in boxes if box is not index]
    return b"".join([rest[0], bytes(moved), *rest[1:]])


def test_limits_are_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    content = mp4_bytes()
    monkeypatch.setattr(media, "_MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(UserError, match="12 frames of 64x48, expected at most"):
        frames(content, 1, 16, 16)
    monkeypatch.undo()
    monkeypatch.setattr(media, "_MAX_PACKETS", 11)
    with pytest.raises(UserError, match="12 frames of 64x48"):
        frames(content, 1, 16, 16)


def test_damaged_bytes_never_give_more_than_a_user_error() -> None:
    random = np.random.default_rng(0)
    for content, read in (
        (mp4_bytes(), lambda damaged: frames(damaged, 2, 16, 16)),
        (wav_bytes(subtype="FLOAT", seconds=0.05), mfcc),
        (csv_bytes(), action_units),
    ):
        for _ in range(40):
            damaged = bytearray(content)
            for place in random.integers(0, len(damaged), 8):
                damaged[place] = random.integers(256)
            try:
                assert np.isfinite(read(bytes(damaged))).all()
            except UserError:
                continue


def with_value(column: str, value: str) -> bytes:
    """A table with one value replaced."""
    lines = [line.split(", ") for line in csv_bytes().decode().splitlines()]
    lines[2][lines[0].index(column)] = value
    return "\n".join(map(", ".join, lines)).encode()


def test_action_units_are_averaged_over_frames_with_a_face() -> None:
    lines = csv_bytes(rows=4).decode().splitlines()
    header = lines[0].split(", ")
    table = np.array([[float(value) for value in line.split(", ")] for line in lines[1:]])
    table[1, header.index("success")] = 0
    table[1, header.index("AU45_r")] = np.nan
    text = "\n".join([", ".join(header), *(", ".join(map(str, row)) for row in table)])
    found = action_units(text.encode())
    columns = [header.index(name) for name in ACTION_UNITS]
    np.testing.assert_allclose(found, table[[0, 2, 3]][:, columns].mean(axis=0), rtol=1e-6)
    assert len(ACTION_UNITS) == len(set(ACTION_UNITS)) == 35
    assert ACTION_UNITS[16:18] == ("AU45_r", "AU01_c")
    assert ACTION_UNITS[-2:] == ("AU28_c", "AU45_c")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (csv_bytes(leave_out="AU12_r"), r"no column AU12_r \(1 missing in all\)"),
        (csv_bytes(leave_out="success"), "no column success"),
        (b"", "no column success"),
        (b"\x00\xff\x00binary", "no column"),
        (csv_bytes(success=0), "none of 4 frames has a face"),
        (csv_bytes(rows=0), "none of 0 frames"),
        (csv_bytes() + b"1, 2, 3\n", "not a table of numbers"),
        (csv_bytes().replace(b"0.", b"x.", 9), "not a table of numbers"),
        (with_value("AU12_r", "-9"), r"AU12_r is not always in \[0, 5\]"),
        (with_value("AU12_r", "3e38"), r"AU12_r is not always in \[0, 5\]"),
        (with_value("AU12_c", "2"), r"AU12_c is not always in \[0, 1\]"),
        (with_value("AU12_c", "nan"), r"AU12_c is not always in \[0, 1\]"),
    ],
)
def test_tables_that_cannot_be_used(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        action_units(content)


def test_real_files_give_librosas_mfccs(data_root: Path) -> None:
    files = list(find_clips(dataset_folder(data_root), "audio").files.values())[::12]
    for file in files:
        audio, _ = librosa.load(file.path, sr=22050)
        expected = librosa.feature.mfcc(y=audio, sr=22050, n_mfcc=40)
        found = mfcc(file.read(1 << 21))
        assert np.array_equal(found[:, : expected.shape[1]], expected)
        assert not found[:, expected.shape[1] :].any()
    batch = mfcc_batch([samples(file.read(1 << 21)) for file in files])
    expected_batch = np.stack([mfcc(file.read(1 << 21)) for file in files])
    np.testing.assert_allclose(np.stack(batch), expected_batch, atol=TOLERANCE, rtol=0)
