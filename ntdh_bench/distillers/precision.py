"""Losses are computed in float32 or better, also inside autocast, in a stack as alone.

On a CPU a member of a stack gets the bits of a call of its own.
"""

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
    float64 stays float64. An empty batch gives 0 with a zero gradient instead of 0 / 0. The rows
    are dimension 0, in a call with ``stacked=True`` dimension 1.
    """

    @functools.wraps(loss)
    def wrapped(student: Tensor, teacher: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows = int(kwargs.get("stacked", False))
        if student.shape[: rows + 1] != teacher.shape[: rows + 1]:
            counts = (" x ".join(map(str, x.shape[: rows + 1])) for x in (student, teacher))
            raise ValueError(
                "{}: student has {} rows and teacher {}".format(loss.__name__, *counts)
            )
        with torch.autocast(device_type=student.device.type, enabled=False):
            student, teacher = promote(student, teacher)
            if not student.shape[rows]:
                return student.flatten(rows).sum(dim=-1) + teacher.flatten(rows).sum(dim=-1)
            return loss(student, teacher, *args, **kwargs)

    return wrapped  # type: ignore[return-value]


def product(x: Tensor, y: Tensor) -> Tensor:
    """Product of matrices ``(..., N, M)`` and ``(..., M, L)``.

    On a CPU members are multiplied one by one, from memory of their own: a batched product sums in
    another order, and so does one at another alignment.
    """
    if x.dim() == 2 or x.device.type != "cpu":
        return x @ y
    return torch.stack([a.clone() @ b.clone() for a, b in zip(x, y, strict=True)])


def unit_rows(x: Tensor, epsilon: float = 0.0) -> Tensor:
    """Divide rows ``(..., D)`` by their L2 norm + epsilon; zero rows stay zero, gradient too."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    zero = norm == 0
    return torch.where(zero, 0.0, x / (norm + epsilon).masked_fill(zero, 1.0))
