"""What a look at the folders and zips of RAVDESS tells, without unpacking a file."""

from __future__ import annotations

from pathlib import Path

from .layout import ENDINGS, channels, dataset_folder, expected_names, find_clips


def lacking(root: Path) -> str | None:
    """Return what is missing of the published files, a few words, or None."""
    folder = dataset_folder(root)
    expected = expected_names(songs=True)
    notes, faults = [], 0
    for kind, ending in ENDINGS.items():
        listing = find_clips(folder, kind, songs=True)
        faults += len(listing.faults)
        for keys, there in channels(listing, kind, expected):
            if len(found := keys & there.keys()) < len(keys):
                notes.append(f"{len(found):,} of {len(keys):,} {ending[1:]}")
    if faults:
        notes.append(f"{faults} unusable")
    return ", ".join(notes) or None
