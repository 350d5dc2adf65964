"""AV-MNIST: which recording goes with which digit, and what is made of a recording."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from ntdh_bench.datamodules.mnist.idx import write_idx
from ntdh_bench.datamodules.pairs import av_mnist
from ntdh_bench.datasets import write_marker
from ntdh_bench.errors import FileError, UserError
from tests.typed import some

SPEAKERS = ("ada", "bob", "cy")


def _write_wav(path: Path, audio: NDArray[np.floating]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes((32_767 * audio).astype("<i2").tobytes())


def _write_mnist(folder: Path, each: int = 5) -> None:
    """Write digits in rounds of 9, 8, ..., 0; the first pixel of each is its place in the file."""
    for prefix, first in (("train", 0), ("t10k", 100)):
        labels = np.tile(np.arange(9, -1, -1), each).astype(np.uint8)
        images = np.zeros((len(labels), 28, 28), np.uint8)
        images[:, 0, 0] = first + np.arange(len(labels))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two recordings of each of three speakers and ten digits, with numbers 2 and 10."""
    random = np.random.default_rng(0)
    for digit in range(10):
        for speaker in SPEAKERS:
            for number in (2, 10):
                path = tmp_path / "fsdd" / "recordings" / f"{digit}_{speaker}_{number}.wav"
                _write_wav(path, random.uniform(-0.5, 0.5, 400))
    _write_mnist(tmp_path / "mnist")
    return tmp_path


def test_pairs_of_a_class(folder: Path) -> None:
    arrays = av_mnist.read(folder)
    assert arrays.fault() is None
    assert arrays.target.tolist() == [digit for digit in range(10) for _ in range(6)]
    assert some(arrays.group).tolist() == [0, 0, 1, 1, 2, 2] * 10
    assert some(arrays.split).tolist() == [0, 0, 0, 0, 1, 1] * 10
    for row, digit in enumerate(arrays.target):
        place = row % 6 if row % 6 < 4 else 10 + row % 6 - 4  # of its class; 100 a round
        expected = 10 * place + 9 - digit
        assert arrays.modalities["digit"][row, 0, 0] == expected
    paths = [folder / "fsdd" / "recordings" / f"3_bob_{number}.wav" for number in (2, 10)]
    for row, path in zip((20, 21), paths, strict=True):
        np.testing.assert_array_equal(arrays.modalities["speech"][row], av_mnist._spoken(path))


def _mel(bands: int, low: float, high: float) -> NDArray[np.float64]:
    """Edges of bands on Slaney's scale: linear up to 1 kHz, logarithmic above."""

    def to_mel(hertz: float) -> float:
        return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)

    mels = np.linspace(to_mel(low), to_mel(high), bands + 2)
    return np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))


def _reference(audio: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mel spectrogram (32, 32) in dB below its peak, window by window."""
    padded = np.pad(audio, 128)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    edges = _mel(32, 0, 4000)
    hertz = np.arange(129) * 8000 / 256
    frames = []
    for first in range(0, len(padded) - 255, 64):
        power = abs(np.fft.rfft(window * padded[first : first + 256])) ** 2
        loudness = []
        for low, middle, high in zip(edges[:-2], edges[1:-1], edges[2:], strict=True):
            rise, fall = (hertz - low) / (middle - low), (high - hertz) / (high - middle)
            loudness.append(np.clip(np.minimum(rise, fall), 0, None) @ power * 2 / (high - low))
        frames.append(loudness)
    values = np.array(frames)
    decibels = 10 * np.log10(np.maximum(values, 1e-10) / values.max())
    decibels = np.maximum(decibels, -80)
    times = np.linspace(0, len(decibels) - 1, 32)
    columns = [np.interp(times, np.arange(len(decibels)), band) for band in decibels.T]
    return np.array(columns)


@pytest.mark.parametrize("name", ["0_george_0", "7_theo_12", "9_yweweler_49"])
def test_speech_of_real_recordings(name: str, data_root: Path) -> None:
    path = data_root / "fsdd" / "recordings" / f"{name}.wav"
    found = av_mnist._spoken(path)
    assert (found.dtype, found.shape) == (np.float32, (32, 32))
    np.testing.assert_allclose(found, _reference(soundfile.read(path)[0]), atol=0.02)


def test_speech_of_silence(tmp_path: Path) -> None:
    _write_wav(tmp_path / "x.wav", np.zeros(300))
    assert not av_mnist._spoken(tmp_path / "x.wav").any()


def test_the_published_files(data_root: Path) -> None:
    recordings = av_mnist._recordings(data_root / "fsdd")
    assert len(recordings) == 3000
    speakers = {recording.speaker for recording in recordings}
    assert sorted(speakers) == ["george", "jackson", "lucas", "nicolas", "theo", "yweweler"]
    target = np.repeat(np.arange(10), 100)
    digits = av_mnist._written(data_root / "mnist", 1, target)
    again = av_mnist._written(data_root / "mnist", 1, target[::-1].copy())
    np.testing.assert_array_equal(digits[:100], again[-100:])


@pytest.mark.slow
def test_the_published_set_can_be_learnt(data_root: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    arrays = av_mnist.read(data_root)
    train = some(arrays.split) == 0
    assert (train.sum(), len(arrays)) == (2000, 3000)
    for name, least in (("speech", 0.84), ("digit", 0.83)):
        values = arrays.modalities[name].reshape(3000, -1).astype(np.float64)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
        model.fit(values[train], arrays.target[train])
        assert model.score(values[~train], arrays.target[~train]) > least


def test_files_that_are_missing(folder: Path) -> None:
    with pytest.raises(FileError, match=r"no recordings/\*\.wav in it; expected recordings"):
        av_mnist.read(folder / "mnist")
    with pytest.raises(FileError, match=r"no train-images-idx3-ubyte\[\.gz\] in it"):
        av_mnist.read(folder / "fsdd")
    _write_mnist(folder / "mnist", each=3)
    with pytest.raises(FileError, match="3 times 0, 4 wanted"):
        av_mnist.read(folder)
    labels = folder / "mnist" / "train-labels-idx1-ubyte.gz"
    write_idx(labels, np.zeros(3, np.uint8))
    with pytest.raises(FileError, match="3 labels, but 30 images"):
        av_mnist.read(folder)
    for path in (folder / "fsdd").rglob("*_cy_*"):
        path.unlink()
    _write_mnist(folder / "mnist")
    with pytest.raises(FileError, match="no test samples of '0'"):
        av_mnist.read(folder)


def test_files_that_are_broken(folder: Path) -> None:
    recording = folder / "fsdd" / "recordings" / "3_bob_10.wav"
    recording.write_bytes(recording.read_bytes()[:100])
    with pytest.raises(FileError, match=r"3_bob_10\.wav: cut off"):
        av_mnist.read(folder)
    recording.rename(recording.with_name("three_bob.wav"))
    with pytest.raises(FileError, match=r"three_bob\.wav is not called like 7_theo_12\.wav"):
        av_mnist.read(folder)


@pytest.mark.parametrize("part", ["fsdd", "mnist"])
def test_simulated_and_real_files_are_not_mixed(part: str, folder: Path) -> None:
    write_marker(folder / part, {})
    with pytest.raises(UserError, match="holds simulated data"):
        av_mnist.read(folder)
    write_marker(folder, {})
    assert len(av_mnist.read(folder)) == 60
