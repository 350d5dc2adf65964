"""AVLetters: lips and voice of ten people who say the alphabet three times.

Matthews et al., Extraction of visual features for lipreading, IEEE PAMI 2002. Published layout:
``Lips/<letter><repetition>_<speaker>-lips.mat`` with ``vid``, grey values 0 to 255 of a frame a
column, and ``siz``, its height, width and number of frames (60, 80, T); and
``Audio/mfcc/Clean/<letter><repetition>_<speaker>.mfcc``, a parameter file of HTK with 26 values a
frame: 12 cepstra, the energy and their differences. Names and formats are those that published
loaders use; no original file was at hand, only the names of all.

Repetitions 1 and 2 are for training and 3 is for testing, as published: by known speakers.
"""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.errors import FileError
from ntdh_bench.files.listing import visible
from ntdh_bench.files.reading import read_bytes

from .arrays import TEST, TRAIN, PairedArrays
from .layouts import Floats, inner, latent, read_variable, resampled, shown, waves
from .published import published_set

_LIPS, _SPEECH = Path("Lips"), Path("Audio", "mfcc", "Clean")
_NAME = re.compile(r"([A-Z])([1-3])_([A-Za-z]{1,20})-lips\.mat")
_LETTERS = tuple(string.ascii_uppercase)
_HEIGHT, _WIDTH = 60, 80
_COEFFICIENTS = 26
_LIP_FRAMES, _SPEECH_FRAMES = 12, 24
_MOST_FRAMES = 400
_MAX_BYTES = 1 << 24
_HTK_HEADER = 12
_HTK_PACKED = 0o12000  # compressed, or with a checksum
_REMEDY = "expected Lips/*-lips.mat and Audio/mfcc/Clean/*.mfcc of AVLetters"


class _Clip(NamedTuple):
    letter: str
    repetition: int
    speaker: str

    @property
    def stem(self) -> str:
        return f"{self.letter}{self.repetition}_{self.speaker}"


def read(folder: Path) -> PairedArrays:
    """Read all clips, by letter, repetition and speaker.

    Lips are halved in size, scaled to [0, 1] and resampled to 12 frames, float16 (N, 12, 30, 40);
    the speech is resampled to 24, float32 (N, 24, 26).

    Raises:
        FileError: a file is missing, damaged or misnamed, or a letter has none.
    """
    folder = inner(folder, "avletters")
    clips = _clips(folder / _LIPS)
    lips = np.empty((len(clips), _LIP_FRAMES, _HEIGHT // 2, _WIDTH // 2), np.float16)
    speech = np.empty((len(clips), _SPEECH_FRAMES, _COEFFICIENTS), np.float32)
    for row, clip in enumerate(clips):
        frames = _halved(_read_lips(folder / _LIPS / f"{clip.stem}-lips.mat"))
        lips[row] = resampled(frames, _LIP_FRAMES) / 255
        speech[row] = resampled(_read_htk(folder / _SPEECH / f"{clip.stem}.mfcc"), _SPEECH_FRAMES)
    speakers = sorted({clip.speaker for clip in clips})
    return PairedArrays(
        {"lips": lips, "mfcc": speech},
        np.array([_LETTERS.index(clip.letter) for clip in clips]),
        np.array([TEST if clip.repetition == 3 else TRAIN for clip in clips], np.int8),
        np.array([speakers.index(clip.speaker) for clip in clips]),
    )


def _clips(folder: Path) -> list[_Clip]:
    clips = []
    for path in visible(folder):
        if not (match := _NAME.fullmatch(path.name)):
            raise FileError(f"{path} is not called like A1_Anya-lips.mat; {_REMEDY}")
        clips.append(_Clip(match[1], int(match[2]), match[3]))
    if lacking := sorted(set(_LETTERS) - {clip.letter for clip in clips}):
        raise FileError(f"{folder}: no clips of the letter {lacking[0]}; {_REMEDY}")
    return sorted(clips)


def _read_lips(path: Path) -> Floats:
    """Return grey values 0 to 255, (T, 60, 80)."""
    vid, siz = (read_variable(path, name, _REMEDY) for name in ("vid", "siz"))
    frames = vid.shape[-1]
    if vid.shape != (_HEIGHT * _WIDTH, frames) or not 0 < frames <= _MOST_FRAMES:
        raise FileError(f"{path}: vid is {vid.shape}, expected (4800, T); {_REMEDY}")
    if siz.ravel().tolist() != [_HEIGHT, _WIDTH, frames] or vid.min() < 0 or vid.max() > 255:
        raise FileError(f"{path}: not {frames} frames of 60x80 grey values 0 to 255; {_REMEDY}")
    return vid.T.reshape(frames, _WIDTH, _HEIGHT).transpose(0, 2, 1)  # columns come first


def _halved(frames: Floats) -> Floats:
    """Return the means of squares of 2x2 pixels."""
    rows = frames[:, ::2] + frames[:, 1::2]
    return (rows[..., ::2] + rows[..., 1::2]) / 4


def _read_htk(path: Path) -> NDArray[np.float32]:
    """Return the frames of an HTK parameter file, (T, 26).

    The header is big-endian: frames, period in 100 ns, bytes a frame, kind (The HTK Book, 5.10.1).
    """
    content = read_bytes(path, _MAX_BYTES, _REMEDY)
    header = content[:_HTK_HEADER].ljust(_HTK_HEADER, b"\0")
    count = int(np.frombuffer(header, ">i4", 1)[0])
    width, kind = (int(number) for number in np.frombuffer(header, ">u2", 2, 8))
    whole = len(content) == _HTK_HEADER + count * width
    if width != 4 * _COEFFICIENTS or kind & _HTK_PACKED or not whole or count < 1:
        raise FileError(f"{path}: not an HTK file of plain frames of 26 values; {_REMEDY}")
    frames = np.frombuffer(content, ">f4", offset=_HTK_HEADER).reshape(count, _COEFFICIENTS)
    if not np.isfinite(frames).all():
        raise FileError(f"{path}: values that are not finite; {_REMEDY}")
    return frames.astype(np.float32)


# -- simulated files -----------------------------------------------------------------------------

_SPEAKERS = ("Anya", "Bill", "Faye", "John")


def write_simulated(folder: Path, seed: int) -> None:
    """Write 312 clips of four speakers: mouths that open and close, and smooth cepstra."""
    clips = [
        _Clip(letter, repetition, speaker)
        for letter in _LETTERS
        for repetition in (1, 2, 3)
        for speaker in _SPEAKERS
    ]
    target = np.repeat(np.arange(len(_LETTERS)), len(clips) // len(_LETTERS))
    hidden = latent(target, 10, 0.5, seed)
    mouths = shown(hidden, (2, 4), 0.3, seed + 1)
    cepstra = shown(hidden, (13, 2), 0.8, seed + 2)
    random = np.random.default_rng(seed + 3)
    for name in (_LIPS, _SPEECH):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for row, clip in enumerate(clips):
        frames = int(random.integers(8, 13))
        _write_lips(folder / _LIPS / f"{clip.stem}-lips.mat", mouths[row], frames, random)
        _write_htk(folder / _SPEECH / f"{clip.stem}.mfcc", cepstra[row] @ waves(2, 2 * frames))


def _write_lips(path: Path, mouth: Floats, frames: int, random: np.random.Generator) -> None:
    """Write a dark ellipse on grey: ``mouth`` (2, 4) says how its height and width change."""
    from scipy.io import savemat

    height, width = np.exp(0.25 * mouth @ waves(4, frames)) * [[10], [24]]
    y, x = np.mgrid[:_HEIGHT:1.0, :_WIDTH:1.0]
    x_part = ((x - _WIDTH / 2) / width[:, None, None]) ** 2
    y_part = ((y - _HEIGHT / 2) / height[:, None, None]) ** 2
    grey = 140 - 80 * np.exp(-((x_part + y_part) ** 2)) + random.normal(0, 6, x_part.shape)
    vid = grey.clip(0, 255).astype(np.uint8).transpose(0, 2, 1).reshape(frames, -1).T
    savemat(path, {"vid": vid, "siz": np.array([[_HEIGHT, _WIDTH, frames]], np.float64)})


def _write_htk(path: Path, static: Floats) -> None:
    """Write cepstra and energy (13, T) and their differences as HTK does."""
    values = np.concatenate([static, np.gradient(static, axis=1)]).T.astype(">f4")
    header = np.array([len(values), 100_000], ">i4").tobytes()
    kind = np.array([values.shape[1] * 4, 6 | 0o100 | 0o400], ">u2").tobytes()  # MFCC_E_D
    path.write_bytes(header + kind + values.tobytes())


AVLETTERS = published_set(
    name="avletters",
    title="lips and voice, the alphabet",
    modalities=("lips", "mfcc"),
    class_names=_LETTERS,
    samples=780,
    licence="none stated (University of East Anglia, Matthews et al. 2002)",
    how_to_get="Lips and Audio of AVLetters, from its authors",
    read=read,
    write=write_simulated,
    images=("lips",),
)
