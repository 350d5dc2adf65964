"""AV-MNIST from files that anyone may have: a spoken digit and a written one of the same class.

The Free Spoken Digit Dataset (Jackson et al., doi 10.5281/zenodo.1342401), ``recordings/*.wav``
called ``<digit>_<speaker>_<index>.wav``, mono at 8 kHz; and the four IDX files of MNIST. The set
that the field calls AV-MNIST (Vielzeuf et al. 2018) pairs MNIST with speech that is licensed; this
one is built anew, and its numbers are comparable with none of theirs.

The last third of the speakers by name is for testing (theo and yweweler of the six), with digits
from MNIST's test file; the others are for training, with digits from its training file.
"""

from __future__ import annotations

import re
import wave
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.errors import FileError, UserError
from ntdh_bench.files.listing import below
from ntdh_bench.files.reading import read_bytes

from ..mnist.idx import Bytes, read_images, read_labels
from ..mnist.simulate import write_digits
from ..ravdess.media import samples
from .arrays import TEST, TRAIN, PairedArrays
from .layouts import (
    Floats,
    check_classes,
    latent,
    refuse_mixed,
    resampled,
    shown,
    tracked,
    waves,
)
from .published import published_set

_DIGITS = tuple("0123456789")
_NAME = re.compile(r"(\d)_([a-z]{1,20})_(\d{1,4})\.wav")
_PREFIX = {TRAIN: "train", TEST: "t10k"}
_RATE = 8000  # Hz
_WINDOW, _HOP = 256, 64  # samples
_BANDS, _FRAMES = 32, 32
_MAX_BYTES = 1 << 22
_REMEDY = "expected recordings/*.wav of the Free Spoken Digit Dataset and MNIST's four IDX files"


class _Recording(NamedTuple):
    digit: int
    speaker: str
    number: int
    path: Path


def read(folder: Path) -> PairedArrays:
    """Read all recordings, by digit, speaker and number; their files in whatever sub-folders.

    Speech is the mel spectrogram in dB below its largest value, at least -80: 32 bands by 32
    frames, resampled from windows of 32 ms every 8 ms over the whole recording; float32
    (N, 32, 32). The n-th recording of a class has the n-th digit of the class in MNIST's file;
    uint8 (N, 28, 28).

    Raises:
        FileError: a file is missing or damaged, or MNIST has too few digits of a class.
        UserError: some of the files are simulated.
    """
    recordings = _recordings(folder)
    speakers = sorted({recording.speaker for recording in recordings})
    group = np.array([speakers.index(recording.speaker) for recording in recordings])
    target = np.array([recording.digit for recording in recordings])
    tested = group >= len(speakers) - len(speakers) // 3
    split = np.where(tested, TEST, TRAIN).astype(np.int8)
    digit = np.empty((len(recordings), 28, 28), np.uint8)
    for part in (TRAIN, TEST):
        digit[split == part] = _written(folder, part, target[split == part])
    paths = [recording.path for recording in recordings]
    speech = np.stack([_spoken(path) for path in tracked("AV-MNIST", paths)])
    arrays = PairedArrays({"speech": speech, "digit": digit}, target, split, group)
    check_classes(folder, arrays, _DIGITS, _REMEDY)
    return arrays


def _recordings(folder: Path) -> list[_Recording]:
    found = []
    for path in below(folder, "recordings/*.wav"):
        if not (match := _NAME.fullmatch(path.name)):
            raise FileError(f"{path} is not called like 7_theo_12.wav; {_REMEDY}")
        found.append(_Recording(int(match[1]), match[2], int(match[3]), path))
    if not found:
        raise FileError(f"{folder}: no recordings/*.wav in it; {_REMEDY}")
    refuse_mixed(folder, found[0].path.parent)
    return sorted(found)


def _spoken(path: Path) -> NDArray[np.float32]:
    """Return the mel spectrogram of a recording, (32, 32): bands by frames."""
    import librosa

    content = read_bytes(path, _MAX_BYTES, _REMEDY)
    try:
        audio = samples(content, _RATE)
    except UserError as error:
        raise FileError(f"{path}: {error}") from None
    spectrum = np.abs(librosa.stft(audio, n_fft=_WINDOW, hop_length=_HOP, pad_mode="constant"))
    decibels = librosa.power_to_db(_bank() @ spectrum**2, ref=np.max)
    return resampled(decibels.T, _FRAMES).T.astype(np.float32)


@lru_cache(maxsize=1)
def _bank() -> NDArray[np.float32]:
    import librosa

    bank: NDArray[np.float32] = librosa.filters.mel(sr=_RATE, n_fft=_WINDOW, n_mels=_BANDS)
    return bank


def _written(folder: Path, part: int, target: NDArray[Any]) -> Bytes:
    """Return the first digits of each class in a file of MNIST, in the order of ``target``."""
    images_path, labels_path = (
        _idx_file(folder, f"{_PREFIX[part]}-{kind}-ubyte")
        for kind in ("images-idx3", "labels-idx1")
    )
    images, labels = read_images(images_path), read_labels(labels_path)
    if len(images) != len(labels):
        raise FileError(f"{labels_path}: {len(labels)} labels, but {len(images)} images; {_REMEDY}")
    chosen = np.empty(len(target), np.int64)
    for label in range(len(_DIGITS)):
        wanted = target == label
        rows = np.flatnonzero(labels == label)[: wanted.sum()]
        if len(rows) < wanted.sum():
            counted = f"{len(rows)} times {label}, {wanted.sum()} wanted"
            raise FileError(f"{labels_path}: {counted}; {_REMEDY}")
        chosen[wanted] = rows
    return images[chosen]


def _idx_file(folder: Path, name: str) -> Path:
    for path in below(folder, f"{name}*"):
        if path.name in (name, f"{name}.gz"):
            refuse_mixed(folder, path.parent)
            return path
    raise FileError(f"{folder}: no {name}[.gz] in it; {_REMEDY}")


# -- simulated files -----------------------------------------------------------------------------

_SPEAKERS = ("anna", "ben", "carla", "david", "eva", "finn")
_TONES = (400, 900, 1500, 2200, 3100)  # Hz
_EACH = 6  # recordings of a speaker and digit


def write_simulated(folder: Path, seed: int) -> None:
    """Write 360 recordings of six speakers, who sing, and MNIST as ``mnist`` simulates it.

    A digit is a course of the loudness of five tones; their pitch is the speaker's.
    """
    names = [
        (digit, speaker, number)
        for digit in range(len(_DIGITS))
        for speaker in _SPEAKERS
        for number in range(_EACH)
    ]
    hidden = latent(np.array([digit for digit, _, _ in names]), 8, 0.4, seed)
    loudness = shown(hidden, (5, 3), 0.3, seed + 1)
    random = np.random.default_rng(seed + 2)
    place = folder / "recordings"
    place.mkdir(parents=True, exist_ok=True)
    for row, (digit, speaker, number) in enumerate(names):
        tract = 0.9 + 0.04 * _SPEAKERS.index(speaker) + 0.01 * random.normal()
        audio = _sung(loudness[row], tract, int(random.integers(2000, 3200)), random)
        with wave.open(str(place / f"{digit}_{speaker}_{number}.wav"), "wb") as file:
            file.setparams((1, 2, _RATE, 0, "NONE", ""))
            file.writeframes((32_767 * audio).astype("<i2").tobytes())
    write_digits(folder / "mnist", {"train": 600, "test": 300}, seed)


def _sung(loudness: Floats, tract: float, length: int, random: np.random.Generator) -> Floats:
    """Return five tones whose loudness (5, 3) changes, and noise; ``tract`` scales their pitch."""
    course = np.exp(loudness @ waves(3, length))
    turns = tract * np.array(_TONES)[:, None] * np.arange(length) / _RATE
    audio = (course * np.sin(2 * np.pi * turns)).sum(0) + 0.3 * random.normal(size=length)
    return np.asarray(0.7 * audio / np.abs(audio).max())


AV_MNIST = published_set(
    name="av_mnist",
    title="digits, spoken and written",
    modalities=("speech", "digit"),
    class_names=_DIGITS,
    samples=3000,
    licence="speech CC BY-SA 4.0 (Jackson et al. 2018); terms of MNIST at its publisher",
    how_to_get=(
        "clone github.com/Jakobovski/free-spoken-digit-dataset beside MNIST (data prepare mnist)"
    ),
    read=read,
    write=write_simulated,
    page_urls=("https://github.com/Jakobovski/free-spoken-digit-dataset",),
    images=("speech", "digit"),
)
