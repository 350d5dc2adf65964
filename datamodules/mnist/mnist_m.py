"""MNIST-M: built from digits and photographs, or read from the published archive."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from ntdh_bench.errors import FileError, UserError
from ntdh_bench.files.images import opened_image
from ntdh_bench.files.text import read_text
from ntdh_bench.seeding import generator

from .idx import MAX_COUNT, Bytes
from .layout import ARCHIVE_FOLDER

SIDE = 28
_DIGITS = set("0123456789")
_MAX_LABELS = 1 << 21  # the published file has 0.9 MB
MAX_PIXELS = 4_000_000  # BSDS500 photographs have 154,401: more is another file or a bomb
_REMEDY = {
    "JPEG": "remove it or get BSDS500 again with `ntdh-bench data prepare mnist`",
    "PNG": "unpack the MNIST-M archive again",
}
# ITU-R BT.601 luma, in 1/65536, rounded: what PIL's convert("L") computes.
_LUMA = np.array([19595, 38470, 7471], dtype=np.uint32)


def read_image(path: Path, kind: Literal["JPEG", "PNG"] = "JPEG") -> Bytes:
    """Decode a photograph (JPEG) or an image of the archive (PNG): uint8 RGB (height, width, 3).

    Raises:
        UserError: the file is no such image, is damaged, or has more than 4 million pixels.
    """
    with opened_image(path, MAX_PIXELS, (kind,), _REMEDY[kind]) as image:
        return np.asarray(image.convert("RGB"))


def luma(rgb: Bytes) -> Bytes:
    """Return the ITU-R BT.601 luma of uint8 RGB (..., 3), rounded: uint8 (...)."""
    weighted = rgb[..., 0] * _LUMA[0] + rgb[..., 1] * _LUMA[1] + rgb[..., 2] * _LUMA[2]
    grey: Bytes = ((weighted + 0x8000) >> 16).astype(np.uint8)
    return grey


def build_mnist_m(
    digits: Bytes, photographs: list[Path], *, rgb: bool, data_seed: int, split: str
) -> Bytes:
    """Blend each digit with a random crop of a photograph: |crop - digit|, the digit at 0 or 255.

    The photograph and the corner of each crop are uniform and depend on (data_seed, split) only.
    Grey is the luma of the blended colours, as if the published colour image were converted.

    Source: Ganin and Lempitsky, ICML 2015, Sec. 4; binarised as in the published archive.

    Args:
        digits: uint8 (n, 28, 28).
        photographs: where crops come from; each at least 28x28.
        rgb: three channels instead of grey.
        data_seed: of the crops.
        split: name in the seed.

    Returns:
        uint8 (n, 3, 28, 28), or (n, 1, 28, 28) if grey.

    Raises:
        UserError: a photograph cannot be decoded or is too small.
    """
    draws = torch.rand(
        len(digits), 3, generator=generator(data_seed, f"mnist_m/{split}"), dtype=torch.float64
    ).numpy()
    chosen = (draws[:, 0] * len(photographs)).astype(np.int64)
    blended = np.empty((len(digits), 3 if rgb else 1, SIDE, SIDE), dtype=np.uint8)
    for number, path in enumerate(photographs):
        rows = np.flatnonzero(chosen == number)
        crops = _crops(path, draws[rows, 1:])
        strokes = np.where(digits[rows] > 0, np.uint8(255), np.uint8(0))
        # |crop - 0| = crop and |crop - 255| = 255 - crop, which is an exclusive or.
        colours = crops ^ strokes[..., None]
        blended[rows] = colours.transpose(0, 3, 1, 2) if rgb else luma(colours)[:, None]
    return blended


def _crops(path: Path, corners: np.ndarray) -> Bytes:
    """Return uint8 (n, 28, 28, 3) crops whose corners are given in [0, 1) (n, 2)."""
    photograph = read_image(path)
    height, width, _ = photograph.shape
    if min(height, width) < SIDE:
        raise FileError(
            f"{path}: {width}x{height} pixels, expected at least {SIDE}x{SIDE}; {_REMEDY['JPEG']}"
        )
    top = (corners[:, 0] * (height - SIDE + 1)).astype(np.int64)
    left = (corners[:, 1] * (width - SIDE + 1)).astype(np.int64)
    windows = sliding_window_view(photograph, (SIDE, SIDE), axis=(0, 1))
    crops: Bytes = windows[top, left].transpose(0, 2, 3, 1)
    return crops


def archive_files(root: Path, split: str) -> list[tuple[Path, int]]:
    """Return (image, label) of the published MNIST-M archive, in MNIST's order.

    The published archive has 59,001 training and 9,001 test images; fewer are read as well.

    Raises:
        UserError: the label file is missing or broken, or its images are not numbered from 0.
    """
    labels = root / ARCHIVE_FOLDER / f"mnist_m_{split}_labels.txt"
    if not labels.is_file():
        raise UserError(
            f"the MNIST-M archive is missing: no {labels}; expected mnist_m_{{train,test}}/"
            f"NNNNNNNN.png and mnist_m_{{train,test}}_labels.txt in {labels.parent}; unpack the "
            "published archive there, or use `--data.mnist_m build`"
        )
    folder = labels.parent / f"mnist_m_{split}"
    found = []
    for number, line in enumerate(read_text(labels, _MAX_LABELS, _REMEDY["PNG"]).split("\n")):
        if not line.strip():
            continue
        name, _, label = line.strip().partition(" ")
        if number >= MAX_COUNT or name != f"{number:08d}.png" or label not in _DIGITS:
            raise FileError(
                f"{labels}: line {number + 1} is not '{number:08d}.png' and a digit, or there are "
                f"more than {MAX_COUNT}: the images must be MNIST's, in order; {_REMEDY['PNG']}"
            )
        found.append((folder / name, int(label)))
    return found


def read_archive(files: list[Path], *, rgb: bool) -> Bytes:
    """Read archive images, cropped to their central 28x28: uint8 (n, 3 or 1, 28, 28).

    The archive's 32x32 images are 28x28 digits with a margin of two pixels, so the centre is the
    part that shows what MNIST shows, pixel by pixel, and nothing is interpolated.

    Raises:
        UserError: an image is missing, cannot be decoded, or is smaller than 28x28.
    """
    images = np.empty((len(files), 3 if rgb else 1, SIDE, SIDE), dtype=np.uint8)
    for row, path in enumerate(files):
        image = read_image(path, "PNG")
        top, left = (image.shape[0] - SIDE) // 2, (image.shape[1] - SIDE) // 2
        if min(top, left) < 0:
            raise FileError(f"{path}: smaller than {SIDE}x{SIDE}; {_REMEDY['PNG']}")
        centre = image[top : top + SIDE, left : left + SIDE]
        images[row] = centre.transpose(2, 0, 1) if rgb else luma(centre)[None]
    return images
