"""Losses are computed in float32 or better, also inside autocast."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from ntdh_bench.divergence import promote

Loss = TypeVar("Loss", bound=Callable[..., Tensor])


def full_precision(loss: Loss) -> Loss:
    """Wrap ``loss(student, teacher, ...)``: promote both to one type, and keep autocast out.

    A Gram matrix or an exponential of half-precision features overflows; half becomes float32 and
    float64 stays float64. An empty batch gives 0 with a zero gradient instead of 0 / 0.
    """

    @functools.wraps(loss)
    def wrapped(student: Tensor, teacher: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if len(student) != len(teacher):
            raise ValueError(
                f"{loss.__name__}: student has {len(student)} rows and teacher {len(teacher)}"
            )
        with torch.autocast(device_type=student.device.type, enabled=False):
            student, teacher = promote(student, teacher)
            if not len(student):
                return student.sum() + teacher.sum()
            return loss(student, teacher, *args, **kwargs)

    return wrapped  # type: ignore[return-value]
