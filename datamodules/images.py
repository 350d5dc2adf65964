"""Image files: opening what cannot be trusted, and shrinking labels. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ntdh_bench.errors import UserError

Number = TypeVar("Number", bound=np.generic)

#: Mean and deviation of the channels of ImageNet's RGB images in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@contextmanager
def opened_image(path: Path, missing: str = "get it again") -> Iterator[Image.Image]:
    """Open an image; what keeps it from being decoded inside the block becomes a UserError.

    Args:
        path: the file.
        missing: what to do if it is not there.
    """
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {missing}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be decoded ({error}); get it again") from None


def nearest(array: NDArray[Number], size: tuple[int, int]) -> NDArray[Number]:
    """Return the pixels of ``array`` (H, W) nearest to the centres of those of another size."""
    rows, columns = (
        ((np.arange(small) + 0.5) * full / small).astype(np.int64)
        for small, full in zip(size, array.shape, strict=True)
    )
    return array[np.ix_(rows, columns)]
