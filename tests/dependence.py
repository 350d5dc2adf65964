"""Linear CKA and mutual information as they are defined, in float64."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor


def gram_cka(first: Tensor, second: Tensor) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) of the centred Gram matrices (Eq. 3 there)."""
    count = len(first)
    centre = torch.eye(count, dtype=torch.float64) - 1 / count
    one, two = (centre @ (x.double() @ x.double().T) @ centre for x in (first, second))
    hsic = [float((a * b).sum()) for a, b in ((one, two), (one, one), (two, two))]
    return hsic[0] / math.sqrt(hsic[1] * hsic[2])


def information(first: Sequence[int], second: Sequence[int]) -> float:
    """The sum of p(a, b) log(p(a, b) / p(a) p(b)) over the pairs that there are."""
    count, total = len(first), 0.0
    one, two = Counter(first), Counter(second)
    for (a, b), times in Counter(zip(first, second, strict=True)).items():
        joint = times / count
        total += joint * math.log(joint / (one[a] / count * two[b] / count))
    return total
