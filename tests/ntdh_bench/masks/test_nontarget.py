from __future__ import annotations

import math

import pytest
import torch

from ntdh_bench.divergence import ncjsd
from ntdh_bench.masks.nontarget import Reference, class_rows


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_is_the_ncjsd_of_the_divergence_module(scale: float, classes: int) -> None:
    torch.manual_seed(0)
    student = scale * torch.randn(50, classes)
    teacher = scale * torch.randn(4, 50, classes)
    target = torch.randint(classes, (50,))
    reference = Reference.of("ncjsd", student.t(), target)
    values = reference.distances(class_rows(teacher.flatten(0, 1), 4))
    expected = torch.stack([ncjsd(t.double(), student.double(), target) for t in teacher])
    torch.testing.assert_close(values, expected, atol=1e-14, rtol=0)
    row = torch.tensor([3, 3, 49, 0])
    some = reference.distances_of_rows(teacher[1, row].t(), row)
    torch.testing.assert_close(some, expected[1, row], atol=1e-14, rtol=0)


def test_reaches_ln2_for_disjoint_distributions() -> None:
    student, teacher = torch.tensor([[0.0, 800.0, 0.0]]), torch.tensor([[0.0, 0.0, 800.0]])
    value = Reference.of("ncjsd", student.t(), torch.tensor([0])).distances(class_rows(teacher, 1))
    assert value.item() == pytest.approx(math.log(2), abs=1e-15)


def test_the_logit_of_the_target_does_not_matter() -> None:
    student, teacher = torch.tensor([[9e4, 1.0, 0.0]]), torch.tensor([[-9e4, 0.0, 1.0]])
    value = Reference.of("ncjsd", student.t(), torch.tensor([0])).distances(class_rows(teacher, 1))
    assert 0.05 < value.item() < 0.2


def test_class_rows_orders_copies_samples_and_positions() -> None:
    logits = torch.arange(2 * 3 * 4 * 5).view(6, 4, 5)  # 2 copies of 3 samples, 4 classes, 5 places
    rows = class_rows(logits, 2)
    assert rows.shape == (4, 2, 15)
    assert rows[2, 1, 7] == logits[1 * 3 + 1, 2, 2]
