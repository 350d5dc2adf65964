"""The examples in docstrings run and show what they say; every public function has one."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ntdh_bench import divergence, masks
from ntdh_bench.distillers import functional

_CHECKS = ("promote", "nontarget_columns", "check_targets")  # steps of the others
EXAMPLES: dict[str, Callable[..., Any]] = {
    **{
        f"divergence.{name}": function
        for name, function in inspect.getmembers(divergence, inspect.isfunction)
        if function.__module__ == divergence.__name__
        and not name.startswith("_")
        and name not in _CHECKS
    },
    **{f"functional.{name}": getattr(functional, name) for name in functional.__all__},
    "masks.FeatureSaliency": masks.FeatureSaliency,
    "masks.SampleMask.keep_rows": masks.SampleMask.keep_rows,
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_shows_what_comes_out(name: str) -> None:
    names = {"torch": torch, **vars(functional), **vars(divergence), **vars(masks)}
    (example,) = doctest.DocTestFinder(recurse=False).find(
        EXAMPLES[name], name, module=False, globs=names
    )
    assert len(example.examples) > 0
    told: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=told.append)
    assert not told, "".join(told)
