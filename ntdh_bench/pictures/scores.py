"""What counts by class say: each one's accuracy or IoU, and what is mistaken for what."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.pictures.file import Array, Pictures


def class_scores(confusion: Array, measure: str) -> NDArray[np.float64]:
    """Return the score of each class in [0, 1], ``(C,)``; NaN of a class that does not occur.

    Args:
        confusion: ``(C, C)``, a row a true class.
        measure: ``miou``: the intersection over union; else the share of a class that is found.
    """
    hits, occurring = np.diag(confusion).astype(float), confusion.sum(axis=1)
    found = confusion.sum(axis=0) - hits if measure == "miou" else 0
    with np.errstate(invalid="ignore"):
        return np.where(occurring > 0, hits / np.maximum(occurring + found, 1), np.nan)


def shares(confusion: Array) -> NDArray[np.float64]:
    """Return the confusion matrix as shares of each true class, 0 where there is none of it."""
    result: NDArray[np.float64] = confusion / confusion.sum(axis=1, keepdims=True).clip(1)
    return result


class Mistake(NamedTuple):
    """A class that is taken for another."""

    true: str
    predicted: str
    number: int
    share: float  # of the true class


def mistakes(pictures: Pictures, network: str, most: int) -> list[Mistake]:
    """Return the most frequent mistakes of a network, the most frequent first."""
    counts = pictures.confusion[network].copy()
    np.fill_diagonal(counts, 0)
    part, names = shares(pictures.confusion[network]), pictures.classes
    order = np.argsort(counts, axis=None, kind="stable")[::-1][:most]
    places = [divmod(int(place), len(names)) for place in order]
    return [
        Mistake(names[i], names[j], int(counts[i, j]), float(part[i, j]))
        for i, j in places
        if counts[i, j] > 0
    ]


def described(label: Any, pictures: Pictures) -> str:
    """Return the name of a label, ``-`` of one that does not count."""
    return pictures.classes[int(label)] if int(label) >= 0 else "-"
