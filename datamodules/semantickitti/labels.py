"""SemanticKITTI's raw ids and the 20 classes they are learnt as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

_MAP: dict[str, Any] = yaml.safe_load(
    Path(__file__).with_name("learning_map.yaml").read_text(encoding="utf-8")
)

#: The 20 classes in order of their number; 0 is not learnt.
CLASS_NAMES: tuple[str, ...] = tuple(_MAP["classes"])
#: The name of each of the 34 raw ids.
RAW_NAMES: dict[int, str] = {raw: label["name"] for raw, label in _MAP["labels"].items()}
#: Stands in ``RAW_TO_CLASS`` for ids outside the map.
UNKNOWN = 255


def _raw_to_class() -> NDArray[np.uint8]:
    table = np.full(1 << 16, UNKNOWN, dtype=np.uint8)
    for raw, label in _MAP["labels"].items():
        table[raw] = CLASS_NAMES.index(label["class"])
    return table


def _class_frequencies() -> NDArray[np.float64]:
    shares = np.zeros(len(CLASS_NAMES))
    for raw, label in _MAP["labels"].items():
        shares[RAW_TO_CLASS[raw]] += label["share"]
    return shares


#: uint8 (65536,): the class of every 16-bit id.
RAW_TO_CLASS = _raw_to_class()
#: float64 (20,): share of each class in the points of the training sequences.
CLASS_FREQUENCIES = _class_frequencies()


# Points of each class in the training sequences as 2DPASS publishes them, class 0 left out: not
# those of the shares above, by which its weights would be up to 15 % others.
_POINTS = (
    55437630, 320797, 541736, 2578735, 3274484, 552662, 184064, 78858, 240942562, 17294618,
    170599734, 6369672, 230413074, 101130274, 476491114, 9833174, 129609852, 4506626, 1168181,
)  # fmt: skip


def class_weights() -> NDArray[np.float64]:
    """Return PMF's class weights of the focal loss: float64 (20,) in [0, 1], 0 for class 0.

    ``log(1 + 1 / (f + 1e-3))`` over its maximum, f the frequency of the class.

    Source: Zhuang et al., ICCV 2021 (PMF), as published with its code.
    """
    weights = np.log1p(1 / (CLASS_FREQUENCIES + 1e-3))
    weights[0] = 0
    normalised: NDArray[np.float64] = weights / weights.max()
    return normalised


def point_class_weights() -> NDArray[np.float64]:
    """Return 2DPASS's class weights of the cross entropy: float64 (20,), 1 to 18.2, 0 for class 0.

    The cube root of the number of points of the commonest class over that of the class.

    Source: Yan et al., ECCV 2022 (2DPASS), as published with its code.
    """
    points = np.array(_POINTS, dtype=np.float64)
    return np.append(0, np.cbrt(points.max() / points))
