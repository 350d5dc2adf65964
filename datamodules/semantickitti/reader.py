"""Reading scans, labels, calibrations and images; every file is checked before it is used."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ntdh_bench.errors import FileError
from ntdh_bench.files.images import opened_image
from ntdh_bench.files.reading import checked_size, reading
from ntdh_bench.files.text import read_text

from ..images import nearest
from .labels import RAW_TO_CLASS, UNKNOWN
from .projection import MAX_DEPTH

Bytes = NDArray[np.uint8]

MAX_POINTS = 2_000_000  # a 64-beam scan has about 120,000: more is another file
MAX_PIXELS = 4_000_000  # KITTI's images have 460,000: more is another file or a bomb
_MAX_CALIBRATION = 1 << 16
_POINT_BYTES = 16
_MISSING = "get the colour images of KITTI odometry"
_GET_SCANS = "get the velodyne scans of KITTI odometry"
_GET_LABELS = "get the scan and its labels again"
_GET_CALIBRATION = "get the calibration of KITTI odometry"
_OTHER_FORMATS = (b"\x93NUMPY", b"\x89PNG", b"PK\x03\x04", b"\x1f\x8b", b"# .PCD", b"ply\n")
_FAR = 1e6  # pixels or metres that no calibration has
_ROTATION = 1e-3
_GREY = {"L", "I;16", "I"}  # of a PNG, in at most 16 bits
_SHAPES = {"P2": (3, 4), "Tr": (3, 4), "Tr_velo_to_cam": (3, 4), "R0_rect": (3, 3)}


def read_scan(path: Path) -> NDArray[np.float32]:
    """Read a velodyne scan: float32 (N, 4), N at least 1: x, y, z in metres and remission.

    x is forward, y left, z up. Points that are not finite stay in, so that they keep their labels;
    :func:`.projection.project` never sees them in an image.

    Raises:
        UserError: the file is missing, empty, no whole number of points, or too large.
    """
    count = scan_length(path)
    with reading(path, "a velodyne scan", _GET_SCANS):
        points = np.fromfile(path, dtype="<f4", count=4 * count).reshape(-1, 4)
    if not (np.abs(points) < MAX_DEPTH).all(axis=1).any():  # NaN is not below anything
        raise FileError(f"{path}: no point is within {MAX_DEPTH:.0f} m: no scan; {_GET_SCANS}")
    return points.astype(np.float32, copy=False)


def scan_length(path: Path) -> int:
    """Return the number of points of a scan by the size of its file.

    Raises:
        UserError: as :func:`read_scan`.
    """
    size = checked_size(path, MAX_POINTS * _POINT_BYTES, _GET_SCANS)
    if not size:
        raise FileError(f"{path}: empty scan, expected at least one point; {_GET_SCANS}")
    if size % _POINT_BYTES:
        raise FileError(
            f"{path}: {size} bytes, expected a multiple of 16 (4 float32 per point); {_GET_SCANS}"
        )
    with reading(path, "a velodyne scan", _GET_SCANS), path.open("rb") as file:
        start = file.read(_POINT_BYTES)
    if start.startswith(_OTHER_FORMATS):  # their size may be a multiple of 16 as well
        raise FileError(f"{path}: a file of another format, expected bare float32; {_GET_SCANS}")
    return size // _POINT_BYTES


def read_classes(path: Path, count: int) -> Bytes:
    """Read the labels of a scan of ``count`` points as classes 0..19: uint8 (count,).

    A label is 32 bits: the lower 16 are the raw id, the upper 16 the instance.

    Raises:
        UserError: the file is missing, has another length, or an id outside the learning map.
    """
    size = checked_size(path, 1 << 62, _GET_LABELS)
    if size != 4 * count:
        raise FileError(
            f"{path}: {size} bytes, expected {4 * count}: 4 for each of the {count} points of its "
            "scan; get both again"
        )
    with reading(path, "labels", _GET_LABELS):
        raw = np.fromfile(path, dtype="<u4", count=count)
    return _classes(path, (raw & 0xFFFF).astype(np.uint16))


def _classes(path: Path, raw: NDArray[np.uint16]) -> Bytes:
    classes: Bytes = RAW_TO_CLASS[raw]
    unknown = raw[classes == UNKNOWN]
    if len(unknown):
        raise FileError(
            f"{path}: label {unknown[0]} ({len(unknown)} times an unknown one) is not in the "
            "learning map of SemanticKITTI; get the file again"
        )
    return classes


def read_calibration(path: Path) -> NDArray[np.float64]:
    """Return the matrix from homogeneous lidar points to pixels of image_2: float64 (3, 4).

    ``P2 [Tr; 0 0 0 1]`` of KITTI odometry, or ``P2 R0_rect Tr_velo_to_cam`` of KITTI object.

    Raises:
        UserError: the file is missing, lacks a matrix, or has a broken one.
    """
    text = read_text(path, _MAX_CALIBRATION, _GET_CALIBRATION)
    lines = [line.partition(":") for line in text.splitlines()]
    entries = {key.strip(): value.split() for key, _, value in lines}
    camera = _camera(path, entries)
    if "Tr" not in entries and "Tr_velo_to_cam" in entries:
        camera[:, :3] = camera[:, :3] @ _rigid(path, entries, "R0_rect")
        lidar = _rigid(path, entries, "Tr_velo_to_cam")
    else:
        lidar = _rigid(path, entries, "Tr")
    matrix: NDArray[np.float64] = camera @ np.vstack([lidar, [0, 0, 0, 1]])
    return matrix


def _camera(path: Path, entries: dict[str, list[str]]) -> NDArray[np.float64]:
    """Return P2 if a camera can have it: focal lengths in pixels, and depth in its last row."""
    matrix = _matrix(path, entries, "P2")
    focal = matrix[[0, 1], [0, 1]]
    if not ((focal > 1) & (focal < _FAR)).all() or not np.allclose(matrix[2, :3], (0, 0, 1)):
        raise FileError(f"{path}: P2 is no projection of a camera; {_GET_CALIBRATION}")
    return matrix


def _rigid(path: Path, entries: dict[str, list[str]], key: str) -> NDArray[np.float64]:
    """Return a matrix whose first three columns are a rotation, to the digits that files have."""
    matrix = _matrix(path, entries, key)
    turn = matrix[:, :3]
    if not np.allclose(turn @ turn.T, np.eye(3), atol=_ROTATION) or np.linalg.det(turn) < 0:
        raise FileError(f"{path}: {key} is no rotation; {_GET_CALIBRATION}")
    return matrix


def _matrix(path: Path, entries: dict[str, list[str]], key: str) -> NDArray[np.float64]:
    shape = _SHAPES[key]
    if key not in entries:
        raise FileError(f"{path}: no {key}, expected a line '{key}: ...'; {_GET_CALIBRATION}")
    try:
        matrix = np.array(entries[key], dtype=np.float64).reshape(shape)
    except ValueError:
        raise FileError(
            f"{path}: {key} is not the {shape[0] * shape[1]} numbers expected; {_GET_CALIBRATION}"
        ) from None
    if not (np.abs(matrix) < _FAR).all():  # false of NaN as well
        raise FileError(
            f"{path}: {key} holds values that are not finite or beyond {_FAR:.0e}; "
            f"{_GET_CALIBRATION}"
        )
    return matrix


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image by its header.

    Raises:
        UserError: the file is missing, no image, or has more than 4 million pixels.
    """
    with _opened(path) as image:
        return image.height, image.width


def read_image(path: Path, size: tuple[int, int] | None = None) -> Bytes:
    """Decode an image: uint8 RGB (height, width, 3).

    Args:
        path: the file.
        size: (height, width) to shrink it to by averaging.

    Raises:
        UserError: as :func:`image_size`, or the image is damaged.
    """
    with _opened(path) as image:
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
    with _opened(path) as image:
        if (image.height, image.width) != size or image.mode not in _GREY:
            raise FileError(
                f"{path}: {image.width}x{image.height}, mode {image.mode}, expected grey "
                f"{size[1]}x{size[0]} as its image; replace it or set data.dense_labels false"
            )
        sampled = nearest(np.asarray(image), shrunk)
    return _classes(path, sampled.astype(np.uint16))


def _opened(path: Path) -> AbstractContextManager[Image.Image]:
    return opened_image(path, MAX_PIXELS, ("PNG",), _MISSING)
