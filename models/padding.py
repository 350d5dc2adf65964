"""Images of any size for networks that halve them several times."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Pad ``(B, C, H, W)`` with zeros, right and below, until ``multiple`` divides both sides."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple))
