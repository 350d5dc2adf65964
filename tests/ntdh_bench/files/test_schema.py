from __future__ import annotations

import math
from typing import Any

import pytest

from ntdh_bench.files.schema import mismatch


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        (1, int), (1, float), (1.5, float), ("a", str), (None, None), ([], [int]), ([1, 2], [int]),
        ([1, "a"], (int, str)), ({"a": 1, "b": 2}, {"a": int}), ({"a": 1}, {str: int}),
        (None, {int, None}), (3, lambda v: v > 2), ({}, dict),
    ],
)  # fmt: skip
def test_what_fits(value: Any, schema: Any) -> None:
    assert mismatch(value, schema) is None


@pytest.mark.parametrize(
    ("value", "schema", "where"),
    [
        (True, int, "the value"), (math.nan, float, "the value"), (1.0, int, "the value"),
        ([1, "a"], [int], "the value[1]"), ([1], (int, int), "the value"),
        (None, [int], "the value"),
        ({}, {"a": int}, "the value, 'a'"), ({"a": {"b": []}}, {"a": {"b": int}},
         "the value, 'a', 'b'"), ({"x": "y"}, {str: int}, "the value, entry 1"),
        ("x", {int, None}, "the value"), (1, lambda v: v > 2, "the value"),
    ],
)  # fmt: skip
def test_the_first_place_that_does_not_fit(value: Any, schema: Any, where: str) -> None:
    assert mismatch(value, schema) == where
