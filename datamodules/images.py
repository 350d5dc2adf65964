"""What data sets of images share: shrinking labels."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.generic)


def nearest(array: NDArray[Number], size: tuple[int, int]) -> NDArray[Number]:
    """Return the pixels of ``array`` (H, W) nearest to the centres of those of another size."""
    rows, columns = (
        ((np.arange(small) + 0.5) * full / small).astype(np.int64)
        for small, full in zip(size, array.shape, strict=True)
    )
    return array[np.ix_(rows, columns)]
