"""The camera of NYU Depth V2: its depth images, the voxel behind a pixel, and what it sees."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ntdh_bench.errors import FileError
from ntdh_bench.files.images import opened_image

from .layout import MAX_PIXELS
from .voxels import BLOCK, GRID, VOXEL_SIZE, Grid, over_blocks

Depth = NDArray[np.uint16]
Double = NDArray[np.float64]

#: (height, width) of the published images.
IMAGE_SIZE = (480, 640)

#: What a depth image says of a voxel, see :func:`visibility`.
OUTSIDE, FREE, OCCLUDED, SURFACE = range(4)
_LEAST_SURFACE = 3  # voxels that make a block one of the surface
# SSCNet takes other depths for unknown ones, and hides what lies this far behind; metres.
_NEAREST, _FARTHEST, _BEHIND = 0.5, 8.0, 1e-4


class Camera(NamedTuple):
    """A pinhole camera; the centre of pixel (row, column) has these coordinates.

    Attributes:
        focal: in pixels.
        column: of the principal point.
        row: of the principal point.
    """

    focal: float = 518.8579
    column: float = 320.0
    row: float = 240.0

    def every(self, stride: int) -> Camera:
        """Return the camera of the image that :func:`every` leaves of this one's."""
        first = stride // 2
        return Camera(
            self.focal / stride, (self.column - first) / stride, (self.row - first) / stride
        )


#: The intrinsics of SSCNet's NYU data at 480 x 640.
NYU_CAMERA = Camera()


def every(image: Depth, stride: int) -> Depth:
    """Return every ``stride``-th row and column of an image, from the middle of the first."""
    return image[stride // 2 :: stride, stride // 2 :: stride]


def read_depth(path: Path, size: tuple[int, int] = IMAGE_SIZE) -> Depth:
    """Read a depth image in SSCNet's format: uint16 ``size``, millimetres, 0 where none is known.

    16 bits a pixel, rotated left by 3.

    Raises:
        FileError: the file is missing, damaged, of another size, or no 16-bit grey PNG.
    """
    with opened_image(path, MAX_PIXELS, ("PNG",)) as image:
        if image.size != size[::-1] or not image.mode.startswith("I"):
            raise FileError(
                f"{path}: {image.width}x{image.height}, mode {image.mode}, expected 16-bit grey "
                f"{size[1]}x{size[0]}; get it again"
            )
        return _rotated(np.asarray(image).astype(np.uint16), 13)


def write_depth(path: Path, millimetres: Depth) -> None:
    """Write a depth image as :func:`read_depth` reads it."""
    Image.fromarray(_rotated(millimetres, 3)).save(path)


def _rotated(bits: Depth, left: int) -> Depth:
    return (bits << np.uint16(left)) | (bits >> np.uint16(16 - left))


def positions(
    metres: NDArray[np.floating],
    pose: Double,
    origin: Double,
    camera: Camera = NYU_CAMERA,
    grid: Grid = GRID,
    voxel_size: float = VOXEL_SIZE,
) -> NDArray[np.int32]:
    """Return the voxel that every pixel's point falls into: int32 (H, W), flat in C order.

    The index along an axis is ``floor((world - origin) / voxel_size)``, as SSCNet takes it. -1
    where no depth is known or the point lies outside the grid.

    Args:
        metres: (H, W), depth along the optical axis, 0 where none is known.
        pose: float64 (4, 4), from the camera (x right, y down, z forward) to the world.
        origin: float64 (3,), corner of the grid in the world, metres (x, y, z).
        camera: of the depth image.
        grid: number of voxels along world x, height (world z) and world y.
        voxel_size: metres.
    """
    height, width = metres.shape
    across = (np.arange(width) - camera.column) / camera.focal
    down = (np.arange(height)[:, None] - camera.row) / camera.focal
    flat = np.zeros(metres.shape, dtype=np.int32)
    inside = metres > 0
    for axis, side in zip((0, 2, 1), grid, strict=True):
        ray = (pose[axis, 0] * across + pose[axis, 2]) + pose[axis, 1] * down
        index = ray * metres
        index += pose[axis, 3] - origin[axis]
        index /= voxel_size
        inside &= (index >= 0) & (index < side)
        # Cutting off is rounding down where it counts, for no index inside is negative.
        flat = flat * side + np.where(inside, index, 0).astype(np.int32)
    return np.where(inside, flat, -1)


def visibility(
    metres: NDArray[np.floating],
    pose: Double,
    origin: Double,
    camera: Camera = NYU_CAMERA,
    grid: Grid = GRID,
    voxel_size: float = VOXEL_SIZE,
) -> NDArray[np.uint8]:
    """Return what a depth image says of every voxel: uint8 ``grid``.

    SURFACE, the point of a pixel falls into it. Of the others, by the pixel nearest to the
    projection of its lower corner: OUTSIDE, there is none, the corner lies behind the camera, or
    the pixel's depth is not known (outside 0.5 to 8 m); FREE, it is no deeper than the pixel;
    OCCLUDED, it is deeper. These are what the sign of SSCNet's truncated signed distance tells: see
    :func:`tsdf_state`.

    Source: Song et al., CVPR 2017 (SSCNet).

    Args:
        metres: (H, W), depth along the optical axis, 0 where none is known.
        pose: float64 (4, 4), from the camera to the world.
        origin: float64 (3,), corner of the grid, metres (x, y, z).
        camera: of the depth image.
        grid: number of voxels along world x, height and world y.
        voxel_size: metres.
    """
    x, up, y = (
        origin[axis] + voxel_size * np.arange(side)
        for axis, side in zip((0, 2, 1), grid, strict=True)
    )
    along_x, along_y, along_z, shift = np.linalg.inv(pose)[:3].T[:, :, None, None]
    layer = along_y * y + along_z * up[:, None] + shift
    state = np.empty(grid, dtype=np.uint8)
    # Layer by layer: all voxels at once would take 0.5 GB, and longer.
    for index, place in enumerate(x):
        state[index] = _seen(metres, layer + along_x * place, camera)
    position = positions(metres, pose, origin, camera, grid, voxel_size)
    state.ravel()[position[position >= 0]] = SURFACE
    return state


def _seen(metres: NDArray[np.floating], points: Double, camera: Camera) -> NDArray[np.uint8]:
    """Return OUTSIDE, FREE or OCCLUDED of points (3, ...) in the camera's frame: uint8 (...)."""
    right, down, deep = points
    before = deep > 0
    scale = camera.focal / np.where(before, deep, np.inf)
    column, row = np.rint(right * scale + camera.column), np.rint(down * scale + camera.row)
    inside = before & (column >= 0) & (column < metres.shape[1])
    inside &= (row >= 0) & (row < metres.shape[0])
    pixel = np.where(inside, row * metres.shape[1] + column, 0).astype(np.intp)
    depth = metres.ravel()[pixel]
    inside &= (depth >= _NEAREST) & (depth <= _FARTHEST)
    state = np.where(deep - depth >= _BEHIND, np.uint8(OCCLUDED), np.uint8(FREE))
    return np.where(inside, state, np.uint8(OUTSIDE))


def tsdf_state(tsdf: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return FREE, OCCLUDED or SURFACE by truncated signed distances: uint8 of their shape.

    Those of DDRNet's ``.npz`` are 1 on the surface, not above 0 behind it, and another positive
    number elsewhere, outside the view and behind unknown depth as well.

    Source: Li et al., CVPR 2019 (DDRNet), its data release.
    """
    state = np.full(tsdf.shape, FREE, dtype=np.uint8)
    state[tsdf <= 0] = OCCLUDED
    state[tsdf == 1] = SURFACE
    return state


def coarser_state(state: NDArray[np.uint8], factor: int = BLOCK) -> NDArray[np.uint8]:
    """Return the state of every block of ``factor``³ voxels: uint8, the grid over ``factor``.

    SURFACE with three or more voxels of it; else OCCLUDED with any voxel of the two; else FREE with
    any voxel of it; else OUTSIDE.

    Source: Li et al., CVPR 2019 (DDRNet), its data loader.
    """
    highest = over_blocks(np.maximum, state, factor)
    surface = over_blocks(np.add, (state == SURFACE).view(np.uint8), factor)
    return np.where(surface < _LEAST_SURFACE, np.minimum(highest, OCCLUDED), SURFACE)


def scored(state: NDArray[np.uint8]) -> dict[str, NDArray[np.bool_]]:
    """Return where results count: bool of the shape of the state, by kind.

    ``occluded`` is where completion is scored; ``evaluated`` is where semantic scene completion is:
    on the surface, too, but not in the air that the camera sees, nor where it measured no depth.

    Source: Song et al., CVPR 2017 (SSCNet), which scores air within 0.24 m of a surface as well; Li
    et al., CVPR 2019 (DDRNet), and those after it, do not.
    """
    return {"occluded": state == OCCLUDED, "evaluated": state >= OCCLUDED}
