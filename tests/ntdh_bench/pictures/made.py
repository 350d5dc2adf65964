"""Pictures of three classes and two samples, an image beside a series."""

from __future__ import annotations

import numpy as np

from ntdh_bench.pictures.file import Pictures


def made_pictures() -> Pictures:
    teacher = np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]])
    student = np.array([[5, 5, 0], [0, 10, 0], [0, 0, 0]])
    random = np.random.default_rng(0)
    return Pictures(
        ("cat", "dog <b>", "bird"),
        {"teacher": teacher, "student": student},
        np.array([0.25, 0.125, 0.0]),
        np.array([3, 1, 0]),
        np.array([0, 1], np.int16),
        {"teacher": np.array([0, 1], np.int16), "student": np.array([1, 1], np.int16)},
        {"teacher": np.array([0.9, 0.8], np.float32), "student": np.array([0.6, 0.5], np.float32)},
        None,
        {
            "teacher": random.integers(0, 256, (2, 6, 4, 3)).astype(np.uint8),
            "student": random.normal(size=(2, 3, 20)).astype(np.float32),
        },
        np.array([True, False, True]),
        np.array([0.1, 0.4, -0.2]),
    )
