from __future__ import annotations

import numpy as np
import pytest

from ntdh_bench.pictures.drawings import drawings
from ntdh_bench.pictures.scores import class_scores, mistakes
from tests.ntdh_bench.pictures.made import made_pictures


def test_scores_of_classes() -> None:
    student = made_pictures().confusion["student"]
    accuracy, iou = class_scores(student, "accuracy"), class_scores(student, "miou")
    assert accuracy[:2] == pytest.approx([0.5, 1.0])
    assert iou[:2] == pytest.approx([5 / 10, 10 / 15])
    assert np.isnan(accuracy[2])
    assert np.isnan(iou[2])


def test_mistakes_are_named_the_most_frequent_first() -> None:
    found = mistakes(made_pictures(), "teacher", 5)
    assert [(m.true, m.predicted, m.number) for m in found] == [
        ("cat", "dog <b>", 2),
        ("dog <b>", "cat", 1),
    ]
    assert found[0].share == pytest.approx(0.2)


def test_all_that_is_there_is_drawn() -> None:
    found = drawings(made_pictures(), "accuracy")
    assert found.keys() == {
        "confusion/teacher", "confusion/student", "per_class/teacher_accuracy",
        "per_class/student_accuracy", "per_class/ncjsd", "samples",
    }  # fmt: skip
    for image in found.values():
        assert image.ndim == 3
        assert image.dtype == np.uint8
        assert image.min() < image.max()
