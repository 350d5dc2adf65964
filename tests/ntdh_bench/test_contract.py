from __future__ import annotations

import pytest
from lightning.pytorch import LightningModule

from ntdh_bench.contract import BenchModule, Distilling, described
from tests.helpers import distillation


def test_a_plain_module_has_the_answers_of_one() -> None:
    plain = described(LightningModule())
    assert (plain.arm, plain.method, plain.modality, plain.frozen_teacher) == (None,) * 4
    assert (plain.parameter_counts(), list(plain.test_per_class)) == ({}, [])
    with pytest.raises(NotImplementedError):
        plain.teacher_module("joint")


def test_a_module_of_others_answers_what_it_defines() -> None:
    class Other(LightningModule):
        arm = "kd"

        def __init__(self) -> None:
            super().__init__()
            self.test_per_class: list[float] = []

        def parameter_counts(self) -> dict[str, int]:
            return {"student": 3}

    other = Other()
    found = described(other)
    other.test_per_class = [0.5]
    assert (found.arm, found.method, found.parameter_counts()) == ("kd", None, {"student": 3})
    assert found.test_per_class == [0.5]
    assert not isinstance(other, Distilling)


def test_a_module_of_the_suite_answers_itself() -> None:
    module = distillation(None)
    assert isinstance(module, BenchModule)
    assert described(module) is module
    assert isinstance(module, Distilling)
