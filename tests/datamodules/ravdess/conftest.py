"""A small table of features in the public format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

NAMES = [
    f"01-01-{emotion:02}-01-01-{repetition:02}-{actor:02}"
    for actor in range(1, 25)
    for emotion in range(1, 9)
    for repetition in (1, 2)
]


def write_features(path: Path, **changes: Any) -> Path:
    """Write a ``.npz`` of pairs; ``changes`` replace or (None) remove arrays."""
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "name": np.array(NAMES),
        "actor": np.array([int(name[-2:]) for name in NAMES]),
        "emotion": np.array([int(name[6:8]) for name in NAMES]),
        "audio_x": random.normal(3, 2, (len(NAMES), 6)).astype(np.float32),
        "face_x": random.normal(size=(len(NAMES), 4)),
        "face_x_columns": np.array(list("abcd")),
    }
    kept = {name: value for name, value in {**arrays, **changes}.items() if value is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **kept)
    return path
