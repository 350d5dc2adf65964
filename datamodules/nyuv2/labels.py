"""Classes of NYU Depth V2: 40 and 13 in the image, 11 in voxels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Target of pixels without a class.
UNLABELLED = 255

#: Classes 1..40 of Gupta et al. (CVPR 2013), spelt as published; 0 is unlabelled.
NYU40_NAMES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf",
    "picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror",
    "floor mat", "clothes", "ceiling", "books", "refridgerator", "television", "paper", "towel",
    "shower curtain", "box", "whiteboard", "person", "night stand", "toilet", "sink", "lamp",
    "bathtub", "bag", "otherstructure", "otherfurniture", "otherprop",
)  # fmt: skip

#: Classes 1..13 of Couprie et al. (ICLR 2013); 0 is unlabelled.
NYU13_NAMES = (
    "bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa",
    "table", "TV", "wall", "window",
)  # fmt: skip

#: Classes 0..11 of scene completion (Song et al., CVPR 2017); 0 is empty space.
SSC_NAMES = (
    "empty", "ceiling", "floor", "wall", "window", "chair", "bed", "sofa", "table", "tvs",
    "furniture", "objects",
)  # fmt: skip

#: uint8 (41,): the class 0..13 of each class 0..40. It is that of the published 13-class labels of
#: Handa et al. (SceneNet, CVPR 2016); those of Couprie et al. were drawn from the 894 raw ids
#: instead and can differ.
NYU40_TO_NYU13: NDArray[np.uint8] = np.array(
    [
        0,
        12, 5, 6, 1, 4, 9, 10, 12, 13, 6,  # wall .. bookshelf
        8, 6, 13, 10, 6, 13, 6, 7, 7, 5,  # picture .. floor mat
        7, 3, 2, 6, 11, 7, 7, 7, 7, 7,  # clothes .. whiteboard
        7, 6, 7, 7, 7, 7, 7, 7, 6, 7,  # person .. otherprop
    ],
    dtype=np.uint8,
)  # fmt: skip


def target_table(num_classes: int) -> NDArray[np.uint8]:
    """Return the target of each label 0..40: uint8 (41,), class k is k - 1, 255 is unlabelled.

    Args:
        num_classes: 40 or 13.
    """
    classes = np.arange(41, dtype=np.uint8) if num_classes == 40 else NYU40_TO_NYU13
    return np.where(classes > 0, classes - 1, UNLABELLED).astype(np.uint8)
