"""Logits and targets of segmentation networks, for tests of what compares the two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

IGNORED = 255
CLASSES = 6


def draw(
    shape: Sequence[int] = (2, CLASSES, 5, 7), seed: int = 0, scale: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Logits of ``shape`` and targets, of which about a fifth are ignored; class 5 is absent."""
    stream = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(*shape, generator=stream, dtype=torch.float64)
    elements = (shape[0], *shape[2:])
    target = torch.randint(CLASSES - 1, elements, generator=stream)
    ignored = torch.rand(elements, generator=stream) < 0.2
    return logits.requires_grad_(), target.masked_fill(ignored, IGNORED)
