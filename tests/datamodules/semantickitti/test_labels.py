from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ntdh_bench.datamodules.semantickitti.labels import (
    CLASS_FREQUENCIES,
    CLASS_NAMES,
    RAW_NAMES,
    RAW_TO_CLASS,
    UNKNOWN,
    class_weights,
    point_class_weights,
)


def test_map() -> None:
    assert len(CLASS_NAMES) == 20
    assert len(RAW_NAMES) == 34
    assert (RAW_TO_CLASS != UNKNOWN).sum() == 34
    assert set(RAW_TO_CLASS[sorted(RAW_NAMES)]) == set(range(20))
    for raw, name in {10: "car", 60: "road", 81: "traffic-sign", 99: "unlabeled"}.items():
        assert CLASS_NAMES[RAW_TO_CLASS[raw]] == name


def test_moving_objects_are_learnt_as_their_kind() -> None:
    by_name = {name: raw for raw, name in RAW_NAMES.items()}
    moving = [name for name in by_name if name.startswith("moving-")]
    assert len(moving) == 8
    for name in moving:
        resting = by_name[name.removeprefix("moving-")]
        assert RAW_TO_CLASS[by_name[name]] == RAW_TO_CLASS[resting]


def test_weights() -> None:
    weights = class_weights()
    assert CLASS_FREQUENCIES.sum() == pytest.approx(1, abs=1e-5)
    assert weights[0] == 0
    assert weights.max() == 1
    order = np.argsort(CLASS_FREQUENCIES[1:])
    assert (np.diff(weights[1:][order]) < 0).all()


def test_weights_of_points() -> None:
    weights = point_class_weights()
    assert weights[0] == 0
    assert (weights[1:].min(), weights.max()) == (1, pytest.approx(18.2139, abs=1e-4))
    assert CLASS_NAMES[weights.argmax()] == "motorcyclist"


def test_golden(golden: Path) -> None:
    with np.load(golden / "focal.npz", allow_pickle=False) as arrays:
        assert np.allclose(CLASS_FREQUENCIES, arrays["semantickitti.cls_freq"], rtol=1e-6)
        assert np.allclose(class_weights(), arrays["semantickitti.focal_alpha"], rtol=1e-6)
    with np.load(golden / "kd_2dpass.npz", allow_pickle=False) as arrays:
        assert np.allclose(point_class_weights()[1:], arrays["ce_class_weights"][1:], rtol=1e-6)
