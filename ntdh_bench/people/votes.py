"""Votes of people on clips of emotional speech: ``tabulatedVotes.csv`` of CREMA-D.

Cao et al., CREMA-D: Crowd-Sourced Emotional Multimodal Actors Dataset, IEEE Transactions on
Affective Computing 2014; Open Database License. A line holds how often each of six emotions was
named for one clip by people who only heard it (its number begins with 1), only saw it (2), or both
(3). The emotion that was played is in the clip's name. ``summaryTable.csv`` is made of the same
votes and not needed.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.errors import FileError
from ntdh_bench.files.reading import reading
from ntdh_bench.files.text import read_text

#: Letters of the columns, and what clips of these emotions are called.
EMOTIONS = {"A": "ANG", "D": "DIS", "F": "FEA", "H": "HAP", "N": "NEU", "S": "SAD"}
MODALITIES = ("voice", "face", "both")
_MAX_BYTES = 1 << 24
_MOST_VOTES = 10_000
_REMEDY = "expected tabulatedVotes.csv of CREMA-D"
_NUMBER = re.compile(r"([123])\d{5}")
_CLIP = re.compile(r"(\d{4})_[A-Z]{3}_([A-Z]{3})_[A-Z]{1,2}")


@dataclass(frozen=True)
class Votes:
    """Votes of each modality on N clips.

    Attributes:
        clips: their names, in order.
        actor: int64 ``(N,)``, who plays it.
        target: int64 ``(N,)``, the emotion that is played.
        counts: int64 ``(N, 6)`` by modality: ``voice``, ``face``, ``both``.
    """

    clips: tuple[str, ...]
    actor: NDArray[np.int64]
    target: NDArray[np.int64]
    counts: dict[str, NDArray[np.int64]]


def read_votes(path: Path) -> Votes:
    """Read the votes on all clips, in order of their names.

    Raises:
        FileError: the file is missing, damaged or another one, or a clip lacks a modality.
    """
    found: dict[str, dict[str, list[int]]] = {name: {} for name in MODALITIES}
    with reading(path, "a CSV", _REMEDY):
        table = csv.DictReader(read_text(path, _MAX_BYTES, _REMEDY).split("\n"))
        if lacking := {"", "fileName", *EMOTIONS} - set(table.fieldnames or ()):
            raise FileError(f"{path}: no column {min(lacking)!r}; {_REMEDY}")
        for line in table:
            number, clip = _NUMBER.fullmatch(line[""] or ""), line["fileName"] or ""
            counts = [_count(line[letter]) for letter in EMOTIONS]
            if number is None or _emotion(clip) is None or None in counts:
                raise FileError(f"{path}: line {table.line_num} is not of this table; {_REMEDY}")
            own = found[MODALITIES[int(number[1]) - 1]]
            if clip in own:
                raise FileError(f"{path}: line {table.line_num}: a clip twice; {_REMEDY}")
            own[clip] = [count or 0 for count in counts]
    clips = sorted(found["voice"])
    if not clips or any(found[name].keys() != set(clips) for name in MODALITIES):
        raise FileError(f"{path}: not every clip has votes of all three modalities; {_REMEDY}")
    return Votes(
        tuple(clips),
        np.array([int(clip[:4]) for clip in clips]),
        np.array([_emotion(clip) for clip in clips], np.int64),
        {name: np.array([found[name][clip] for clip in clips]) for name in MODALITIES},
    )


def _emotion(clip: str) -> int | None:
    match = _CLIP.fullmatch(clip)
    names = list(EMOTIONS.values())
    return names.index(match[2]) if match and match[2] in names else None


def _count(text: str | None) -> int | None:
    plain = text is not None and text.isascii() and text.isdigit() and len(text) < 6
    value = int(text) if plain and text else -1
    return value if 0 <= value <= _MOST_VOTES else None
