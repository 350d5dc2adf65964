from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

from ntdh_bench.distillers import Distiller, functional
from ntdh_bench.paper import authors
from tests.typed import some

ROWS, CLASSES = 6, 4
STREAM = torch.Generator().manual_seed(0)
STUDENT, TEACHER = ({"logits": torch.randn(ROWS, CLASSES, generator=STREAM)} for _ in range(2))
TARGET = torch.tensor([0, 1, 2, 3, 0, 1])
INDEX = torch.arange(ROWS)
WIDTHS = {"logits": CLASSES}, {"logits": CLASSES}
PRESETS = [kind for name, kind in vars(authors).items() if name.startswith("Authors")]


@pytest.mark.parametrize("preset", PRESETS)
def test_all_is_on_the_logits_and_trains(preset: type[Distiller]) -> None:
    assert not inspect.signature(preset).parameters
    distiller = preset()
    assert distiller.student_layers == distiller.teacher_layers == ["logits"]
    distiller.build(*WIDTHS, ROWS, seed=0)
    student = {"logits": STUDENT["logits"].clone().requires_grad_()}
    loss = distiller.distill(student, TEACHER, TARGET, INDEX)
    loss.backward()
    assert loss.isfinite()
    assert some(student["logits"].grad).isfinite().all()
    for parameter in distiller.parameters():
        assert parameter.grad is not None


def test_formulas() -> None:
    student, teacher = STUDENT["logits"], TEACHER["logits"]
    kl = functional.kd(student, teacher, 1.0)
    expected: dict[str, Tensor] = {
        "KD": kl,
        "PKT": functional.pkt(student, teacher) + kl,
        "SP": functional.sp(student, teacher) + kl,
        "RKD": functional.rkd(student, teacher, 25, 50),
        "DKD": functional.dkd(student, teacher, TARGET, 0.5, 0.5, 1.0),
    }
    for name, value in expected.items():
        loss = getattr(authors, f"Authors{name}")().distill(STUDENT, TEACHER, TARGET, INDEX)
        torch.testing.assert_close(loss, value)
    combined = authors.AuthorsFitNet()
    combined.build(*WIDTHS, ROWS, seed=0)
    hint = combined.distillers[0](student, teacher)
    loss = combined.distill(STUDENT, TEACHER, TARGET, INDEX)
    torch.testing.assert_close(loss, 0.1 * hint + kl)
