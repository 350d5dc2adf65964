"""Small generated scenes in the layouts of NYU Depth V2 and SSCNet, for offline runs and tests.

Made-up rooms are seen by the camera of NYU Depth V2 in colour and, noisily, in depth, and filled
into SSCNet's volume: a pixel's point lies in a voxel of what the pixel shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ntdh_bench.datasets import begin_simulated
from ntdh_bench.errors import UserError
from ntdh_bench.progress import progress_bar
from ntdh_bench.seeding import derive_seed

from ..raycast import Camera, Floats, Random, Single, Solids, cast, expose, rotation, texture
from .camera import IMAGE_SIZE, NYU_CAMERA, write_depth
from .layout import FOLDER, PART_FOLDERS, PARTS, PREPARED, SCENES, SPLIT, Pair, Part
from .pairs import resized, write_pair
from .rooms import MATERIALS, Room
from .voxels import GRID, IGNORED, VOXEL_SIZE, Labels, write_voxels

_FOLDERS = {part: PART_FOLDERS[part][0] for part in PARTS}
_TEST_SHARE = 1 / 3  # of the training rooms
_MOST = 7000  # training rooms: numbers have four digits

# Camera axes (x right, y down, z forward) in a world of x right, y forward, z up, as columns.
_LEVEL = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
# SSCNet's volume is centred below a point this far ahead of the camera, and begins this far below
# the floor (metres; found from the published origins and poses).
_AHEAD, _BELOW = 3.4, 0.05

# A Kinect's focal length times baseline, pixels x metres; its disparities have this deviation and
# step, pixels (Khoshelham and Elberink, Sensors 2012); what is nearer it does not see, metres.
_BASE, _DEVIATION, _STEP, _NEAREST = 43.5, 0.062, 0.125, 0.5
_GRAZING = 0.06  # cosine to the normal below which nothing comes back
_SPOT = 0.06  # metres, of lost depth
_BENEATH = np.float32(0.01)  # metres below a surface at which its pattern is taken

_VOXEL, _LABEL = (
    np.array([getattr(material, field) for material in MATERIALS.values()], dtype=np.uint8)
    for field in ("voxel", "label")
)
_TEXTURE, _GRAIN, _LOST = (
    np.array([getattr(material, field) for material in MATERIALS.values()], dtype=np.float32)
    for field in ("texture", "grain", "lost")
)


class View(NamedTuple):
    """A room as the camera sees it.

    Attributes:
        pose: (4, 4), camera (x right, y down, z forward) to world (x right, y forward, z up).
        distance: float32 (480, 640), true depth in metres.
        pair: colours, measured depth and labels of the pixels, 480 x 640.
    """

    pose: Floats
    distance: Single
    pair: Pair


def write_simulated(
    root: Path, rooms: int = 24, seed: int = 0, size: tuple[int, int] = IMAGE_SIZE
) -> None:
    """Write simulated files below ``root``; the same arguments, the same bytes.

    The same rooms are in SSCNet's layout (``nyu_ssc``, as published 480 x 640 pixels and
    240 x 144 x 240 voxels) and in the one of labelled pairs (``nyuv2/prepared``). A third as many
    rooms again are for the test.

    Args:
        root: data root; ``nyuv2`` and ``nyu_ssc`` in it must be empty, absent or generated.
        rooms: for training, 1 to 7000.
        seed: of rooms, light and noise.
        size: (height, width) of the labelled pairs, at most 480 x 640.

    Raises:
        UserError: a folder holds something else than generated files, or an argument is outside
            its range.
    """
    if not 1 <= rooms <= _MOST:
        raise UserError(f"{rooms} simulated rooms: expected 1 to {_MOST}")
    if not all(1 <= side <= full for side, full in zip(size, IMAGE_SIZE, strict=True)):
        raise UserError(f"simulated pairs of {size[0]}x{size[1]} pixels: expected up to 480x640")
    pairs, scenes = root / FOLDER / PREPARED, root / SCENES
    inside = [pairs, *(scenes / name for name in _FOLDERS.values())]
    begin_simulated(root, (FOLDER, SCENES), inside, rooms=rooms, seed=seed, size=list(size))
    _drop_old(pairs, scenes)
    last = rooms + max(1, round(_TEST_SHARE * rooms))
    split: dict[Part, list[int]] = {
        "train": list(range(1, rooms + 1)),
        "test": list(range(rooms + 1, last + 1)),
    }
    (pairs / SPLIT).write_text(json.dumps(split))
    with progress_bar("simulating NYU Depth V2", last) as update:
        for part, numbers in split.items():
            for number in numbers:
                random = np.random.default_rng(derive_seed(seed, "room", number))
                room = Room.furnished(random)
                view = look(room, random)
                _write_scene(scenes / _FOLDERS[part], number, room, view)
                write_pair(pairs, number, resized(view.pair, size))
                update(advance=1)


def _drop_old(pairs: Path, scenes: Path) -> None:
    """Remove the files that a longer run may have left."""
    for folder, pattern in ((pairs, "*/[0-9][0-9][0-9][0-9].*"), (scenes, "*/NYU[0-9]*_0000*")):
        for path in folder.glob(pattern):
            path.unlink()


def _write_scene(folder: Path, number: int, room: Room, view: View) -> None:
    name = f"NYU{number:04d}_0000"
    origin = volume_origin(view.pose)
    write_depth(folder / f"{name}.png", view.pair.depth)
    write_voxels(folder / f"{name}.bin", origin, view.pose, voxelise(room, view.pose, origin))
    Image.fromarray(view.pair.rgb).save(folder / f"{name}_rgb.jpg", quality=92)


def look(room: Room, random: Random) -> View:
    """Return what the camera sees of a room."""
    pose = _pose(room, random)
    camera, solids = _camera(pose), Solids(room.solids)
    distance, index = cast(camera, solids)
    rays = camera.directions.reshape(3, -1).T
    points = pose[:3, 3].astype(np.float32) + distance.reshape(-1, 1) * rays
    normals = solids.normals(index.ravel(), points)
    # Patterns are fixed in space, and the floor would lie on the edge between two spots.
    points -= _BENEATH * normals
    material = solids.material[index]
    light = _light(room, solids.colour[index.ravel()], material.ravel(), points, normals, random)
    slant = np.abs((normals * rays).sum(axis=1)) / np.linalg.norm(rays, axis=1)
    spots = texture(points, np.full(len(points), _SPOT, dtype=np.float32))
    # Spots are even in [-1, 1).
    lost = (slant < _GRAZING) | (spots < 2 * _LOST[material.ravel()] - 1)
    depth = _measure(distance, random)
    depth[lost.reshape(depth.shape)] = 0
    rgb = expose(light.reshape(*distance.shape, 3), random)
    return View(pose, distance, Pair(rgb, depth, _LABEL[material]))


def volume_origin(pose: Floats) -> Floats:
    """Return where SSCNet puts the corner of the volume, (3,) metres, for a camera pose (4, 4)."""
    middle = pose[:2, 3] + _AHEAD * pose[:2, 2]
    half = VOXEL_SIZE * np.array([GRID[0], GRID[2]]) / 2
    return np.append(middle - half, -_BELOW)


def voxelise(room: Room, pose: Floats, origin: Floats) -> Labels:
    """Return SSCNet's volume of a room: uint8 (240, 144, 240), world x, height, world y.

    A voxel that a solid reaches has its class, 1 to 36, one in the air 0, and one outside the view
    or the room 255.

    Args:
        room: what there is.
        pose: (4, 4), camera to world.
        origin: (3,), corner of the volume in the world, metres.
    """
    labels = np.full(GRID, IGNORED, dtype=np.uint8)
    labels[_window(room.low, room.high, origin)] = 0
    solids = Solids(room.solids)
    # Grown by half a voxel: else thin boards fall between the centres of voxels.
    grown = 1 + VOXEL_SIZE / 2 * np.linalg.norm(solids.to_unit, axis=2)
    for number, corners in enumerate(solids.corners):
        low, high = corners.min(axis=0) - VOXEL_SIZE, corners.max(axis=0) + VOXEL_SIZE
        window = _window(low, high, origin)
        planes = solids.to_unit[number]
        offsets = -planes @ solids.centre[number]
        inside = np.bool_(True)
        for plane, offset, reach in zip(planes, offsets, grown[number], strict=True):
            inside = inside & (np.abs(_affine(plane, offset, window, origin)) <= reach)
        labels[window][inside] = _VOXEL[solids.material[number]]
    everything = slice(0, GRID[0]), slice(0, GRID[1]), slice(0, GRID[2])
    for plane in _sides(_camera(pose)):
        labels[_affine(plane[:3], plane[3], everything, origin) < 0] = IGNORED
    return labels


_Window = tuple[slice, slice, slice]


def _window(low: Floats, high: Floats, origin: Floats) -> _Window:
    """Return the voxels whose centres lie between two corners (3,) in the world."""
    first = np.ceil((low - origin) / VOXEL_SIZE - 0.5).astype(int)
    end = np.floor((high - origin) / VOXEL_SIZE - 0.5).astype(int) + 1
    x, y, z = (slice(max(0, a), max(0, b)) for a, b in zip(first, end, strict=True))
    return x, z, y


def _affine(normal: Floats, offset: float, window: _Window, origin: Floats) -> Single:
    """Return ``normal @ centre + offset`` for the voxels of a window: float32, its shape."""
    x, z, y = (
        normal[axis] * (origin[axis] + VOXEL_SIZE * (np.arange(GRID[at])[window[at]] + 0.5))
        for at, axis in enumerate((0, 2, 1))
    )
    plane = (z[:, None] + (y + offset)).astype(np.float32)
    return np.asarray(x.astype(np.float32)[:, None, None] + plane)


def _sides(camera: Camera) -> Floats:
    """Return the planes (4, 4) around what a camera sees: homogeneous points inside are >= 0."""
    u, v, w = camera.matrix
    height, width = camera.size
    return np.stack([u, width * w - u, v, height * w - v])


def _pose(room: Room, random: Random) -> Floats:
    """Return a camera pose (4, 4) that looks at the middle of the room, about eye level."""
    middle = (room.low + room.high) / 2
    yaw = np.arctan2(-middle[0], middle[1]) + random.normal(0, 0.1)
    down, roll = random.uniform(0.05, 0.25), random.normal(0, 0.015)
    pose = np.eye(4)
    pose[:3, :3] = rotation(yaw, roll, -down) @ _LEVEL
    pose[2, 3] = random.uniform(1.1, 1.6)
    return pose


def _camera(pose: Floats) -> Camera:
    # The intrinsics count pixels from the centre of the first, ray casting from its corner.
    focal, column, row = NYU_CAMERA
    matrix = np.array([[focal, 0, column + 0.5], [0, focal, row + 0.5], [0, 0, 1]])
    return Camera(matrix @ np.linalg.inv(pose)[:3], IMAGE_SIZE)


def _light(
    room: Room,
    colours: Single,
    material: NDArray[np.int64],
    points: Single,
    normals: Single,
    random: Random,
) -> Single:
    """Return the light (N, 3) from points (N, 3) under a lamp below the ceiling."""
    ambient, strength = random.uniform((0.35, 0.7), (0.55, 1.1))
    place = random.uniform((0.3, 0.3, 0.9), (0.7, 0.7, 0.95))
    towards = (room.low + place * (room.high - room.low)).astype(np.float32) - points
    far = np.linalg.norm(towards, axis=1)
    facing = np.maximum((towards * normals).sum(axis=1) / far, 0)
    shading = np.float32(ambient) + np.float32(strength) * facing / (1 + (far / 3) ** 2)
    pattern = 1 + _TEXTURE[material] * texture(points, _GRAIN[material])
    return np.asarray(colours * (shading * pattern)[:, None], dtype=np.float32)


def _measure(distance: Single, random: Random) -> NDArray[np.uint16]:
    """Return the millimetres that a Kinect measures, uint16 (H, W), 0 where its light is hidden."""
    true = _BASE / distance
    # Where the light, which comes from the right, would see each pixel.
    lit = np.arange(distance.shape[1]) - true
    nearer = np.minimum.accumulate(lit[:, ::-1], axis=1)[:, ::-1]
    noisy = true + _DEVIATION * random.standard_normal(distance.shape, dtype=np.float32)
    metres = _BASE / np.maximum(np.round(noisy / _STEP) * _STEP, _STEP)
    seen = (lit <= nearer) & (distance > _NEAREST)
    return np.where(seen, np.rint(1000 * metres), 0).astype(np.uint16)
