"""Arrays as small images: inputs, maps of labels, and what a mask leaves out of them."""

from __future__ import annotations

import colorsys
import io
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ntdh_bench.pictures.file import Array

Rgb = NDArray[np.uint8]
_GOLDEN = 0.618034  # of a turn of the hue: neighbours in a list of classes differ
_IGNORED, _DROPPED = (128, 128, 128), (230, 60, 50)
_CLOSER = 0.6  # how much of a pixel is the mask's colour


@cache
def palette(classes: int) -> Rgb:
    """Return a colour for each class and, last, grey for what does not count: ``(C + 1, 3)``."""
    hues = [(place * _GOLDEN) % 1 for place in range(classes)]
    parts = [colorsys.hls_to_rgb(hue, 0.42 + 0.2 * (n % 2), 0.7) for n, hue in enumerate(hues)]
    colours = [tuple(round(255 * part) for part in colour) for colour in parts]
    return np.array([*colours, _IGNORED], dtype=np.uint8)


def label_map(labels: Array, classes: int) -> Rgb:
    """Return a map of labels ``(H, W)`` in colours; -1 is grey."""
    return palette(classes)[labels]


def marked(image: Array, where: Array) -> Rgb:
    """Return an image ``(H, W)`` or ``(H, W, 3)`` with pixels of a mask in red."""
    colours = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image.copy()
    red = _CLOSER * np.array(_DROPPED) + (1 - _CLOSER) * colours[where]
    colours[where] = red.astype(np.uint8)
    return colours


def png(image: Array) -> bytes:
    """Return an image ``(H, W)`` or ``(H, W, 3)`` in uint8 as PNG."""
    written = io.BytesIO()
    Image.fromarray(image).save(written, "PNG", optimize=True)
    return written.getvalue()
