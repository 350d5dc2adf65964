"""What the name of a RAVDESS file says: ``03-01-06-01-02-01-12.wav``."""

from __future__ import annotations

import re
from typing import NamedTuple

from ntdh_bench.errors import UserError

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
ACTORS = range(1, 25)
SPEECH, SONG = 1, 2

_NAME = re.compile(r"(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)", re.ASCII)
_HIGHEST = (3, 2, 8, 2, 2, 2, 24)

#: Every field but the modality: what the files of one clip have in common.
ClipKey = tuple[int, int, int, int, int, int]


class ClipName(NamedTuple):
    """The seven fields of a file name (Livingstone and Russo 2018).

    Attributes:
        modality: 1 audio and video, 2 video only, 3 audio only.
        channel: 1 speech, 2 song.
        emotion: 1 to 8, see ``EMOTIONS``.
        intensity: 1 normal, 2 strong (not of neutral).
        statement: 1 "Kids are talking by the door", 2 "Dogs are sitting by the door".
        repetition: 1 or 2.
        actor: 1 to 24; odd numbers are male, even ones female.
    """

    modality: int
    channel: int
    emotion: int
    intensity: int
    statement: int
    repetition: int
    actor: int

    @classmethod
    def parse(cls, stem: str) -> ClipName:
        """Read a file name without its ending.

        Raises:
            UserError: it is not a RAVDESS name, or a field is out of its range.
        """
        match = _NAME.fullmatch(stem)
        fields = tuple(map(int, match.groups())) if match else ()
        if not fields or not all(1 <= f <= top for f, top in zip(fields, _HIGHEST, strict=True)):
            raise UserError(
                f"{stem!r} is not the name of a RAVDESS file: expected seven numbers of two digits "
                "(modality 01-03, channel 01-02, emotion 01-08, intensity 01-02, statement 01-02, "
                "repetition 01-02, actor 01-24), such as 03-01-06-01-02-01-12"
            )
        return cls(*fields)

    @property
    def key(self) -> ClipKey:
        """All fields but the modality."""
        return self[1:]

    @property
    def target(self) -> int:
        """The class: emotion - 1, in [0, 8)."""
        return self.emotion - 1

    def __str__(self) -> str:
        """Return the name as it is written."""
        return "-".join(f"{field:02}" for field in self)
