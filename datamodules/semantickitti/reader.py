"""Reading scans, labels, calibrations and images; every file is checked before it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ntdh_bench.errors import UserError

from ..images import nearest, opened_image
from .labels import RAW_TO_CLASS, UNKNOWN

Bytes = NDArray[np.uint8]

MAX_POINTS = 2_000_000  # a 64-beam scan has about 120,000: more is another file
MAX_PIXELS = 4_000_000  # KITTI's images have 460,000: more is another file or a bomb
_MAX_CALIBRATION = 1 << 16
_POINT_BYTES = 16
_MISSING = "get the colour images of KITTI odometry"
_GREY = {"L", "I;16", "I;16B", "I"}
_SHAPES = {"P2": (3, 4), "Tr": (3, 4), "Tr_velo_to_cam": (3, 4), "R0_rect": (3, 3)}


def read_scan(path: Path) -> NDArray[np.float32]:
    """Read a velodyne scan: float32 (N, 4), N at least 1: x, y, z in metres and remission.

    x is forward, y left, z up. Points that are not finite stay in, so that they keep their labels;
    :func:`.projection.project` never sees them in an image.

    Raises:
        UserError: the file is missing, empty, no whole number of points, or too large.
    """
    count = scan_length(path)
    points = np.fromfile(path, dtype="<f4", count=4 * count).reshape(-1, 4)
    return points.astype(np.float32, copy=False)


def scan_length(path: Path) -> int:
    """Return the number of points of a scan by the size of its file.

    Raises:
        UserError: as :func:`read_scan`.
    """
    size = _size(path)
    if not size:
        raise UserError(f"{path}: empty scan, expected at least one point; get it again")
    if size % _POINT_BYTES or size > MAX_POINTS * _POINT_BYTES:
        raise UserError(
            f"{path}: {size} bytes, expected a multiple of 16 (4 float32 per point) and at most "
            f"{MAX_POINTS} points; get it again"
        )
    return size // _POINT_BYTES


def read_classes(path: Path, count: int) -> Bytes:
    """Read the labels of a scan of ``count`` points as classes 0..19: uint8 (count,).

    A label is 32 bits: the lower 16 are the raw id, the upper 16 the instance.

    Raises:
        UserError: the file is missing, has another length, or an id outside the learning map.
    """
    size = _size(path)
    if size != 4 * count:
        raise UserError(
            f"{path}: {size} bytes, expected {4 * count}: 4 for each of the {count} points of its "
            "scan; get both again"
        )
    raw = np.fromfile(path, dtype="<u4", count=count)
    return _classes(path, (raw & 0xFFFF).astype(np.uint16))


def _classes(path: Path, raw: NDArray[np.uint16]) -> Bytes:
    classes: Bytes = RAW_TO_CLASS[raw]
    _require_known(path, raw, classes == UNKNOWN)
    return classes


def _require_known(path: Path, raw: NDArray[Any], unknown: NDArray[np.bool_]) -> None:
    if unknown.any():
        raise UserError(
            f"{path}: label {raw[unknown][0]} ({unknown.sum()} times an unknown one) is not in the "
            "learning map of SemanticKITTI; get the file again"
        )


def read_calibration(path: Path) -> NDArray[np.float64]:
    """Return the matrix from homogeneous lidar points to pixels of image_2: float64 (3, 4).

    ``P2 [Tr; 0 0 0 1]`` of KITTI odometry, or ``P2 R0_rect Tr_velo_to_cam`` of KITTI object.

    Raises:
        UserError: the file is missing, lacks a matrix, or has a broken one.
    """
    size = _size(path)
    if size > _MAX_CALIBRATION:
        raise UserError(f"{path}: {size} bytes, expected at most {_MAX_CALIBRATION}; get it again")
    text = path.read_text(encoding="ascii", errors="replace")
    lines = [line.partition(":") for line in text.splitlines()]
    entries = {key.strip(): value.split() for key, _, value in lines}
    camera = _matrix(path, entries, "P2")
    if "Tr" not in entries and "Tr_velo_to_cam" in entries:
        camera[:, :3] = camera[:, :3] @ _matrix(path, entries, "R0_rect")
        lidar = _matrix(path, entries, "Tr_velo_to_cam")
    else:
        lidar = _matrix(path, entries, "Tr")
    matrix: NDArray[np.float64] = camera @ np.vstack([lidar, [0, 0, 0, 1]])
    return matrix


def _matrix(path: Path, entries: dict[str, list[str]], key: str) -> NDArray[np.float64]:
    shape = _SHAPES[key]
    if key not in entries:
        raise UserError(f"{path}: no {key}, expected a line '{key}: ...'; get it again")
    try:
        matrix = np.array(entries[key], dtype=np.float64).reshape(shape)
    except ValueError:
        raise UserError(
            f"{path}: {key} is not the {shape[0] * shape[1]} numbers expected; get it again"
        ) from None
    if not np.isfinite(matrix).all():
        raise UserError(f"{path}: {key} holds values that are not finite; get it again")
    return matrix


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image by its header.

    Raises:
        UserError: the file is missing, no image, or has more than 4 million pixels.
    """
    with opened_image(path, _MISSING) as image:
        return _checked_size(path, image)


def read_image(path: Path, size: tuple[int, int] | None = None) -> Bytes:
    """Decode an image: uint8 RGB (height, width, 3).

    Args:
        path: the file.
        size: (height, width) to shrink it to by averaging.

    Raises:
        UserError: as :func:`image_size`, or the image is damaged.
    """
    with opened_image(path, _MISSING) as image:
        _checked_size(path, image)
        colours = image.convert("RGB")
        if size is not None and size != (image.height, image.width):
            colours = colours.resize(size[::-1], Image.Resampling.BOX)
        return np.asarray(colours)


def read_dense_classes(path: Path, size: tuple[int, int], shrunk: tuple[int, int]) -> Bytes:
    """Read dense labels of an image as classes 0..19: uint8 of the shape ``shrunk``.

    The file is a grey PNG of 8 or 16 bits with the raw ids of SemanticKITTI.

    Args:
        path: the file.
        size: (height, width) of its image.
        shrunk: (height, width) to sample it at (nearest).

    Raises:
        UserError: the file is missing, damaged, no grey image, of another size, or has an id
            outside the learning map.
    """
    with opened_image(path, _MISSING) as image:
        if _checked_size(path, image) != size or image.mode not in _GREY:
            raise UserError(
                f"{path}: {image.width}x{image.height}, mode {image.mode}, expected grey "
                f"{size[1]}x{size[0]} as its image; replace it or set data.dense_labels false"
            )
        sampled = nearest(np.asarray(image), shrunk)
    _require_known(path, sampled, (sampled < 0) | (sampled > 0xFFFF))
    return _classes(path, sampled.astype(np.uint16))


def _checked_size(path: Path, image: Image.Image) -> tuple[int, int]:
    if image.width * image.height > MAX_PIXELS:
        raise UserError(
            f"{path}: {image.width}x{image.height} pixels, expected at most {MAX_PIXELS}; "
            "get it again"
        )
    return image.height, image.width


def _size(path: Path) -> int:
    if not path.is_file():
        raise UserError(f"{path} is missing; get it again")
    return path.stat().st_size
