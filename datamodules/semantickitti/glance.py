"""What a look at the folders of SemanticKITTI tells, without opening a file."""

from __future__ import annotations

from pathlib import Path

from ntdh_bench.errors import UserError

from .layout import (
    CALIBRATION,
    KINDS,
    SEQUENCE_LENGTH,
    file_names,
    present_sequences,
    sequence_folder,
    sequences_folder,
)


def lacking(root: Path) -> str | None:
    """Return what is missing of the published files, a few words, or None."""
    try:
        folder = sequences_folder(root)
    except UserError:
        return "no folder `sequences`"
    there = SEQUENCE_LENGTH.keys() & present_sequences(folder)
    if len(there) < len(SEQUENCE_LENGTH):
        return f"{len(there)} of {len(SEQUENCE_LENGTH)} sequences"
    for number, expected in SEQUENCE_LENGTH.items():
        sequence = sequence_folder(folder, number)
        for kind in KINDS:
            if (found := len(file_names(sequence, kind))) != expected:
                return f"{number:02d}/{kind}: {found:,} of {expected:,}"
        if not (sequence / CALIBRATION).is_file():
            return f"no {number:02d}/{CALIBRATION}"
    return None
