from __future__ import annotations

import pytest

from ntdh_bench.errors import UserError
from ntdh_bench.runs.measuring import metrics_by_name


def test_everything_that_a_module_logs_is_kept_by_its_name() -> None:
    logged = {"val/accuracy": 0.5, "test/iou/road": 0.25, "brier": 1.0, "own/x": 2.0}
    assert metrics_by_name(logged) == {
        "accuracy": 0.5,
        "iou/road": 0.25,
        "brier": 1.0,
        "own/x": 2.0,
    }
    with pytest.raises(UserError, match="the metric brier is logged twice, also as test/brier"):
        metrics_by_name({"brier": 1.0, "test/brier": 2.0})
