"""A small table of votes in the layout of CREMA-D's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

CLIPS = ("1001_IEO_ANG_HI", "1001_IEO_NEU_XX", "1002_TIE_SAD_LO", "1003_WSI_HAP_X")


def counts() -> np.ndarray:
    """Votes of voice, face and both on four clips, (3, 4, 6)."""
    return np.random.default_rng(0).integers(0, 9, (3, len(CLIPS), 6))


def lines(votes: np.ndarray | None = None) -> list[str]:
    """Return the lines of a table, the first one its header."""
    header = '"","A","D","F","H","N","S","fileName","numResponses","emoVote"'
    values = counts() if votes is None else votes
    return [header] + [
        f'"{modality + 1}{row + 1:05d}",{",".join(map(str, own))},"{CLIPS[row]}",{sum(own)},"A"'
        for modality, table in enumerate(values.tolist())
        for row, own in enumerate(table)
    ]


def write_votes(folder: Path, text: Sequence[str] | None = None) -> Path:
    """Write a table."""
    path = folder / "tabulatedVotes.csv"
    path.write_text("\n".join(lines() if text is None else text) + "\n")
    return path
