"""Analytic ray casting: boxes, upright cylinders and ellipsoids seen by a camera and a lidar.

And what the simulated scenes share besides: colours, texture, and the camera's exposure.

A solid is a unit shape (the cube [-1, 1]^3, the cylinder of radius 1 and |z| <= 1, the unit ball),
stretched, turned about the vertical axis and moved. Worlds are right-handed, z up, in metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import combinations
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Single = NDArray[np.float32]
Random = np.random.Generator
Triple = tuple[float, float, float]
Colour = Triple

_NEAR = 0.2  # metres before the camera from which solids are seen
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
_EDGES = np.array(
    [pair for pair in combinations(range(8), 2) if abs(np.subtract(*_CORNERS[[*pair]])).sum() == 2]
).T


class Shape(IntEnum):
    """Unit shapes."""

    BOX = 0
    CYLINDER = 1  # without its two ends: for what is taller than the sensors
    ELLIPSOID = 2


class Solid(NamedTuple):
    """A solid, and what it is made of.

    Attributes:
        shape: the unit shape.
        material: index into a table of the caller.
        centre: x, y, z in metres.
        half: half its length, width and height in metres.
        yaw: turn about the vertical axis, radians, counter-clockwise.
        colour: red, green, blue in [0, 1].
        instance: number of the object it is part of, 0 for none.
    """

    shape: Shape
    material: int
    centre: Triple
    half: Triple
    yaw: float = 0.0
    colour: Colour = (0.5, 0.5, 0.5)
    instance: int = 0


class Solids:
    """Solids as arrays.

    Attributes:
        shape: int (K,).
        centre: (K, 3).
        to_unit: (K, 3, 3), turns an offset from the centre into coordinates of the unit shape.
        corners: (K, 8, 3) of the boxes around them.
    """

    def __init__(self, solids: Sequence[Solid]) -> None:
        self.shape = np.array([solid.shape for solid in solids])
        self.centre = np.array([solid.centre for solid in solids], dtype=float)
        self.material = np.array([solid.material for solid in solids])
        self.colour = np.array([solid.colour for solid in solids], dtype=np.float32)
        self.instance = np.array([solid.instance for solid in solids], dtype=np.uint32)
        half = np.array([solid.half for solid in solids], dtype=float)
        turns = rotation(np.array([solid.yaw for solid in solids]))
        self.to_unit = turns.transpose(0, 2, 1) / half[:, :, None]
        offsets = (_CORNERS * half[:, None]) @ turns.transpose(0, 2, 1)
        self.corners = self.centre[:, None] + offsets

    def normals(self, index: NDArray[np.int64], points: Single) -> Single:
        """Return the unit normals (N, 3) at ``points`` (N, 3) on the solids ``index`` (N,)."""
        to_unit = self.to_unit.astype(np.float32)[index]
        offset = points - self.centre.astype(np.float32)[index]
        unit = np.einsum("nij,nj->ni", to_unit, offset)
        shape = self.shape[index]
        unit[shape == Shape.CYLINDER, 2] = 0
        box = shape == Shape.BOX
        size = np.abs(unit[box])
        unit[box] = np.where(size == size.max(axis=1, keepdims=True), unit[box], 0)
        normal = np.einsum("nij,ni->nj", to_unit, unit)
        length = np.linalg.norm(normal, axis=1, keepdims=True)
        return np.asarray(normal / np.maximum(length, 1e-9), dtype=np.float32)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; a ray goes through the middle of each pixel.

    Pixel (row, column) covers row <= v < row + 1 and column <= u < column + 1.

    Args:
        matrix: (3, 4) from homogeneous world coordinates to (u w, v w, w), w the depth.
        size: height and width in pixels.
    """

    matrix: Floats
    size: tuple[int, int]

    @cached_property
    def origin(self) -> Floats:
        """Position in the world, (3,)."""
        return np.asarray(-np.linalg.solve(self.matrix[:, :3], self.matrix[:, 3]), dtype=float)

    @cached_property
    def directions(self) -> Single:
        """Direction of each ray for a depth of 1 metre, (3, height, width)."""
        v, u = np.indices(self.size) + 0.5
        rays = np.linalg.inv(self.matrix[:, :3]) @ np.stack([u, v, np.ones_like(u)]).reshape(3, -1)
        return np.asarray(rays.reshape(3, *self.size), dtype=np.float32)

    def window(self, corners: Floats) -> tuple[slice, slice]:
        """Return rows and columns that hold all rays which meet the box of ``corners`` (8, 3)."""
        seen = corners @ self.matrix[:, :3].T + self.matrix[:, 3]
        start, end = seen[_EDGES]
        crossing = (start[:, 2] > _NEAR) != (end[:, 2] > _NEAR)
        start, end = start[crossing], end[crossing]
        share = (_NEAR - start[:, 2:]) / (end[:, 2:] - start[:, 2:])
        seen = np.concatenate([seen[seen[:, 2] > _NEAR], start + share * (end - start)])
        if not len(seen):
            return slice(0), slice(0)
        pixels = seen[:, :2] / seen[:, 2:]
        low = np.clip(np.floor(pixels.min(axis=0)), 0, self.size[::-1]).astype(int)
        high = np.clip(np.ceil(pixels.max(axis=0)), 0, self.size[::-1]).astype(int)
        return slice(low[1], high[1]), slice(low[0], high[0])


@dataclass(frozen=True)
class Lidar:
    """A turning lidar.

    Args:
        pose: (3, 3), its axes in the world as columns.
        origin: its position in the world, (3,).
        elevations: of its beams, radians, (rows,).
        azimuths: number of rays in a turn.
    """

    pose: Floats
    origin: Floats
    elevations: Floats
    azimuths: int

    @cached_property
    def rays(self) -> Single:
        """Unit directions in its own axes, (3, beams, azimuths)."""
        azimuth = (np.arange(self.azimuths) + 0.5) * 2 * np.pi / self.azimuths - np.pi
        level, up = np.cos(self.elevations)[:, None], np.sin(self.elevations)[:, None]
        rays = np.broadcast_arrays(level * np.cos(azimuth), level * np.sin(azimuth), up)
        return np.stack(rays).astype(np.float32)

    @cached_property
    def directions(self) -> Single:
        """Unit directions in the world, (3, beams, azimuths)."""
        return np.tensordot(self.pose.astype(np.float32), self.rays, 1)

    def window(self, corners: Floats) -> tuple[slice, slice]:
        """Return rows and columns that hold all rays which meet the box of ``corners`` (8, 3)."""
        x, y, _ = ((corners - self.origin) @ self.pose).T
        azimuth = np.arctan2(y, x)
        offset = (azimuth - azimuth[0] + np.pi) % (2 * np.pi) - np.pi
        per_radian = self.azimuths / (2 * np.pi)
        low = int(np.floor((azimuth[0] + offset.min() + np.pi) * per_radian)) - 1
        high = int(np.ceil((azimuth[0] + offset.max() + np.pi) * per_radian)) + 1
        # A box that surrounds the axis, or lies across the seam behind, may be anywhere.
        around = np.ptp(offset) >= np.pi or low < 0 or high > self.azimuths
        return slice(None), slice(None) if around else slice(low, high)


#: A grid of rays from one point.
Sensor: TypeAlias = Camera | Lidar


def rotation(yaw: Floats | float, pitch: float = 0.0, roll: float = 0.0) -> Floats:
    """Return rotation matrices (..., 3, 3): roll about x, then pitch about y, then yaw about z."""
    yaw = np.asarray(yaw, dtype=float)
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)
    (cz, sz), (cy, sy), (cx, sx) = ((np.cos(a), np.sin(a)) for a in (yaw, pitch, roll))
    about_z = np.stack([cz, -sz, zero, sz, cz, zero, zero, zero, one], axis=-1)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    return np.asarray(about_z.reshape(*yaw.shape, 3, 3) @ about_y @ about_x)


def cast(sensor: Sensor, solids: Solids) -> tuple[Single, NDArray[np.int64]]:
    """Find what each ray of a sensor meets first.

    Returns:
        The distance in units of the ray's direction, inf for nothing, and the index of the solid,
        -1 for nothing; both (rows, columns).
    """
    directions = sensor.directions
    distance = np.full(directions.shape[1:], np.inf, dtype=np.float32)
    index = np.full(directions.shape[1:], -1, dtype=np.int64)
    for number, (shape, to_unit) in enumerate(zip(solids.shape, solids.to_unit, strict=True)):
        window = sensor.window(solids.corners[number])
        start = (to_unit @ (sensor.origin - solids.centre[number])).astype(np.float32)
        rays = directions[(slice(None), *window)]
        ray = (to_unit.astype(np.float32) @ rays.reshape(3, -1)).reshape(rays.shape)
        entry = _enter_box(start, ray) if shape == Shape.BOX else _enter_round(start, ray, shape)
        nearer = entry < distance[window]
        distance[window][nearer] = entry[nearer]
        index[window][nearer] = number
    return distance, index


def shade(colours: tuple[Colour, ...], random: Random) -> Colour:
    """Draw one of the colours, a little lighter or darker."""
    red, green, blue = colours[random.integers(len(colours))]
    light = random.uniform(0.8, 1.2)
    return red * light, green * light, blue * light


def texture(points: Single, grain: Single) -> Single:
    """Return a fixed pattern of spots: float32 (N,) in [-1, 1).

    Args:
        points: (N, 3) in metres.
        grain: size of a spot, (N,) in metres.
    """
    cells = np.floor(points / grain[:, None]).astype(np.int64).astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed = (cells * np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9],
                                  dtype=np.uint64)).sum(axis=1)  # fmt: skip
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
    spots = (mixed >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23)
    return np.asarray(spots - 1, dtype=np.float32)


def expose(light: Single, random: Random) -> NDArray[np.uint8]:
    """Return the photograph (H, W, 3) of what comes from each pixel, float32 (H, W, 3) in [0, 1].

    Exposure and tint differ from picture to picture, noise from pixel to pixel.
    """
    exposure, tint = random.uniform(0.7, 1.2), random.normal(1, 0.04, 3)
    seen = light * (exposure * tint).astype(np.float32)
    seen += 0.02 * random.standard_normal(seen.shape, dtype=np.float32)
    return (seen.clip(0, 1) * 255).round().astype(np.uint8)


def _enter_box(start: Single, ray: Single) -> Single:
    """Return where rays (3, h, w) from outside enter the cube [-1, 1]^3; inf if they do not."""
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = -start[:, None, None] / ray
        reach = 1 / np.abs(ray)
        near, far = (middle - reach).max(axis=0), (middle + reach).min(axis=0)
    return np.where((near < far) & (near > 0), near, np.float32(np.inf))


def _enter_round(start: Single, ray: Single, shape: int) -> Single:
    """Return where rays (3, h, w) from outside enter a ball or cylinder; inf if they do not."""
    axes = 2 if shape == Shape.CYLINDER else 3
    flat, begin = ray[:axes], start[:axes, None, None]
    squared = (flat * flat).sum(axis=0)
    middle = -(begin * flat).sum(axis=0) / squared
    # By the point nearest to the axis: the usual discriminant has no digits left for a thin pole.
    nearest = begin + middle * flat
    depth = 1 - (nearest * nearest).sum(axis=0)
    near = middle - np.sqrt(np.maximum(depth, 0) / squared)
    hit = (depth > 0) & (near > 0)
    if shape == Shape.CYLINDER:
        hit &= np.abs(start[2] + near * ray[2]) <= 1
    return np.where(hit, near, np.float32(np.inf))
