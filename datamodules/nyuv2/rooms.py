"""Made-up furnished rooms: what stands where, and what it is made of.

A room is aligned with the axes of SSCNet's world: x to the right, y forward, z up, metres, the
camera above the origin, the floor at z = 0. Everything is a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from ..raycast import Colour, Floats, Random, Shape, Solid, Triple, rotation, shade

#: Thickness of walls, floor and ceiling, metres: as in the published scenes, that of one voxel.
THICKNESS = 0.02
_GAP = 0.03  # metres between things
_TRIES = 15  # to find a place for a thing
_KEPT = 0.85  # share of a room's things that are there
_SMALLEST, _LARGEST = (3.4, 3.8, 2.3), (5.0, 5.4, 2.7)  # rooms: width, depth, height in metres
_SIZES = 0.9, 1.1  # of a thing, times what it is below
# What must stay free for the camera to see into the room: metres aside, behind and before it.
_FREE = ((-0.5, -1.0), (0.5, 1.3))


class Material(NamedTuple):
    """What a surface is labelled as, and what it looks like.

    Attributes:
        voxel: class of SSCNet's files, 1 to 36.
        label: class of NYU40, 1 to 40.
        colours: that a thing of it may have.
        texture: how much its brightness varies.
        grain: size of a spot of texture, metres.
        lost: share of it from which no depth comes back.
    """

    voxel: int
    label: int
    colours: tuple[Colour, ...]
    texture: float = 0.08
    grain: float = 0.05
    lost: float = 0.01


_WOODS = ((0.5, 0.34, 0.2), (0.36, 0.23, 0.14), (0.62, 0.48, 0.32), (0.24, 0.16, 0.12))
_WHITES = ((0.82, 0.8, 0.76), (0.74, 0.74, 0.72))
_PAINTS = ((0.78, 0.74, 0.64), (0.7, 0.74, 0.76), (0.76, 0.66, 0.56), (0.66, 0.72, 0.62), *_WHITES)
_FLOORS = ((0.5, 0.4, 0.3), (0.42, 0.3, 0.2), (0.52, 0.5, 0.48), (0.6, 0.54, 0.44))
_CLOTH = ((0.32, 0.34, 0.38), (0.5, 0.42, 0.32), (0.26, 0.18, 0.14), (0.5, 0.16, 0.14),
          (0.22, 0.3, 0.44), (0.64, 0.6, 0.52))  # fmt: skip
_LINEN = ((0.78, 0.76, 0.74), (0.36, 0.44, 0.6), (0.62, 0.3, 0.3), (0.5, 0.56, 0.44))
_SEATS = ((0.1, 0.1, 0.12), (0.3, 0.3, 0.32), (0.5, 0.18, 0.14), *_WOODS)
_MOTLEY = ((0.66, 0.16, 0.14), (0.14, 0.26, 0.52), (0.18, 0.4, 0.24), (0.74, 0.62, 0.24),
           (0.82, 0.8, 0.76), (0.14, 0.13, 0.14))  # fmt: skip
_BLACK = ((0.05, 0.05, 0.06), (0.09, 0.09, 0.1))

MATERIALS = {
    "ceiling": Material(1, 22, _WHITES, 0.03),
    "floor": Material(2, 2, _FLOORS, 0.2, 0.12),
    "wall": Material(3, 1, _PAINTS, 0.04, 0.3),
    "window": Material(4, 9, ((0.86, 0.92, 0.98), (0.62, 0.76, 0.9)), 0.12, 0.25, lost=0.4),
    "curtain": Material(4, 16, _LINEN, 0.2, 0.06),
    "door": Material(5, 8, (*_WHITES, *_WOODS[:3]), 0.06, 0.2),
    "chair": Material(6, 5, _SEATS),
    "bed frame": Material(7, 4, _WOODS, 0.15),
    "bedding": Material(7, 4, _LINEN, 0.25, 0.15),
    "sofa": Material(8, 6, _CLOTH, 0.12, 0.04),
    "table": Material(9, 7, (*_WOODS, *_WHITES), 0.12),
    "side table": Material(10, 7, _WOODS, 0.12),
    "bookshelf": Material(11, 10, (*_WOODS, *_WHITES), 0.1),
    "cabinet": Material(13, 3, (*_WOODS, *_WHITES), 0.08, 0.3),
    "dresser": Material(13, 17, _WOODS, 0.15, 0.2),
    "lamp": Material(14, 35, ((0.9, 0.84, 0.66), (0.84, 0.78, 0.7)), 0.05),
    "desk": Material(17, 14, (*_WOODS, *_WHITES), 0.1),
    "pillow": Material(22, 18, _LINEN, 0.15, 0.08),
    "plant": Material(24, 40, ((0.16, 0.34, 0.12), (0.24, 0.4, 0.16)), 0.5, 0.04),
    "night stand": Material(27, 32, _WOODS, 0.12),
    "bin": Material(32, 39, ((0.3, 0.32, 0.34), (0.16, 0.16, 0.18), *_WHITES)),
    "television": Material(33, 25, _BLACK, 0.1, 0.3, lost=0.3),
    "books": Material(36, 23, _MOTLEY, 0.5, 0.04),
    "picture": Material(36, 11, _MOTLEY, 0.5, 0.12),
    "box": Material(36, 29, ((0.6, 0.46, 0.3), (0.7, 0.6, 0.46)), 0.1, 0.1),
    "bag": Material(36, 37, _MOTLEY, 0.2, 0.06),
}
#: Position of each material in ``MATERIALS``.
NUMBER = {name: number for number, name in enumerate(MATERIALS)}


class Part(NamedTuple):
    """A box of a thing, in the thing's own axes: x away from its back, y across, z up."""

    material: str
    centre: Triple
    half: Triple


class Thing(NamedTuple):
    """Something in a room, of touching boxes.

    Attributes:
        parts: the boxes.
        wall: whether its back is at a wall; else it stands anywhere, turned anyhow.
        gap: between its back and the wall, metres; negative for what is let into it.
    """

    parts: tuple[Part, ...]
    wall: bool = True
    gap: float = 0.02


def _on_legs(
    material: str, top: Triple, half: tuple[float, float], thick: float = 0.03
) -> tuple[Part, ...]:
    """Return a plate with the middle of its upper side at ``top``, and four legs below it."""
    x, y, z = top
    leg = z / 2 - thick
    places = product((x - half[0] + thick, x + half[0] - thick),
                     (y - half[1] + thick, y + half[1] - thick))  # fmt: skip
    legs = [Part(material, (a, b, leg), (thick, thick, leg)) for a, b in places]
    return Part(material, (x, y, z - thick), (*half, thick)), *legs


def _chair(x: float, y: float, front: int) -> tuple[Part, ...]:
    """Return a chair at (x, y) that looks along x (1) or against it (-1)."""
    back = Part("chair", (x - front * 0.2, y, 0.68), (0.025, 0.21, 0.23))
    return *_on_legs("chair", (x, y, 0.46), (0.22, 0.22), 0.025), back


def _shelf() -> tuple[Part, ...]:
    sides = [Part("bookshelf", (0, y, 0.9), (0.16, 0.02, 0.9)) for y in (-0.45, 0.45)]
    boards = [
        Part("bookshelf", (0, 0, z), (0.16, 0.45, 0.02)) for z in (0.08, 0.5, 0.92, 1.34, 1.78)
    ]
    rows = ((-0.2, 0.22, 0.23), (0.1, 0.32, 0.65), (-0.12, 0.3, 1.07), (0.15, 0.26, 1.49))
    books = [Part("books", (-0.02, y, z), (0.12, wide, 0.13)) for y, wide, z in rows]
    return Part("bookshelf", (-0.15, 0, 0.9), (0.02, 0.45, 0.9)), *sides, *boards, *books


def _lamp(x: float, y: float, z: float, high: float) -> tuple[Part, ...]:
    """Return a lamp that stands at height ``z``."""
    foot = Part("lamp", (x, y, z + high / 2), (0.025, 0.025, high / 2))
    return foot, Part("lamp", (x, y, z + high + 0.1), (0.14, 0.14, 0.1))


def _screen(x: float, z: float, wide: float) -> tuple[Part, ...]:
    """Return a television with a foot at height ``z``."""
    high = wide * 0.6
    screen = Part("television", (x, 0, z + 0.06 + high), (0.03, wide, high))
    return Part("television", (x, 0, z + 0.03), (0.1, wide / 2, 0.03)), screen


THINGS = {
    "window": Thing((Part("window", (0, 0, 1.5), (0.03, 0.6, 0.55)),), gap=-0.03),
    "wide window": Thing(
        (
            Part("window", (0, 0, 1.5), (0.03, 0.9, 0.5)),
            *(Part("curtain", (0.03, y, 1.1), (0.06, 0.22, 0.95)) for y in (-1.0, 1.0)),
        ),
        gap=-0.03,
    ),
    "door": Thing((Part("door", (0, 0, 1.0), (0.03, 0.42, 1.0)),), gap=-0.02),
    "picture": Thing((Part("picture", (0, 0, 1.55), (0.02, 0.35, 0.25)),), gap=-0.01),
    "hung television": Thing((Part("television", (0, 0, 1.45), (0.04, 0.55, 0.32)),), gap=0.0),
    "bed": Thing((
        Part("bed frame", (0, 0, 0.15), (1.02, 0.8, 0.15)),
        Part("bed frame", (-1.0, 0, 0.5), (0.03, 0.8, 0.5)),
        Part("bedding", (0.02, 0, 0.4), (0.99, 0.78, 0.1)),
        Part("bedding", (0.35, 0, 0.5), (0.68, 0.82, 0.03)),
        *(Part("pillow", (-0.72, y, 0.56), (0.2, 0.3, 0.07)) for y in (-0.38, 0.38)),
    )),
    "night stand": Thing((
        Part("night stand", (0, 0, 0.27), (0.2, 0.24, 0.27)), *_lamp(0, 0, 0.54, 0.16),
    )),
    "wardrobe": Thing((Part("cabinet", (0, 0, 1.0), (0.3, 0.6, 1.0)),)),
    "dresser": Thing((
        Part("dresser", (0, 0, 0.42), (0.24, 0.55, 0.42)),
        Part("box", (0, -0.25, 0.91), (0.13, 0.16, 0.07)),
    )),
    "cabinet": Thing((
        Part("cabinet", (0, 0, 0.45), (0.23, 0.7, 0.45)),
        Part("plant", (0, 0.4, 1.05), (0.12, 0.14, 0.15)),
        Part("books", (0, -0.3, 0.96), (0.12, 0.17, 0.06)),
    )),
    "television stand": Thing((
        Part("cabinet", (0, 0, 0.24), (0.22, 0.75, 0.24)), *_screen(-0.05, 0.48, 0.52),
    )),
    "sofa": Thing((
        Part("sofa", (0, 0, 0.21), (0.44, 0.9, 0.21)),
        Part("sofa", (-0.34, 0, 0.55), (0.1, 0.9, 0.2)),
        *(Part("sofa", (0, y, 0.3), (0.44, 0.1, 0.3)) for y in (-0.9, 0.9)),
        Part("pillow", (-0.18, -0.6, 0.55), (0.07, 0.2, 0.16)),
        Part("pillow", (-0.18, 0.55, 0.55), (0.07, 0.2, 0.16)),
    )),
    "side table": Thing((
        *_on_legs("side table", (0, 0, 0.52), (0.24, 0.24)), *_lamp(0, 0, 0.52, 0.22),
    )),
    "bookshelf": Thing(_shelf()),
    "desk": Thing((
        Part("desk", (0, 0, 0.71), (0.34, 0.65, 0.025)),
        *(Part("desk", (0, y, 0.345), (0.32, 0.02, 0.345)) for y in (-0.6, 0.6)),
        *_screen(-0.12, 0.735, 0.27),
        Part("books", (0.05, 0.48, 0.785), (0.14, 0.11, 0.05)),
        *_chair(0.5, -0.05, -1),
    )),
    "dining table": Thing((
        *_on_legs("table", (0, 0, 0.74), (0.45, 0.75)),
        Part("box", (0.05, 0.2, 0.8), (0.12, 0.1, 0.06)),
        *(part for front in (-1, 1) for y in (-0.36, 0.36)
          for part in _chair(-0.55 * front, y, front)),
    ), wall=False),
    "coffee table": Thing((
        *_on_legs("table", (0, 0, 0.42), (0.3, 0.52)),
        Part("books", (0, 0.2, 0.45), (0.14, 0.1, 0.03)),
    ), wall=False),
    "chair": Thing(_chair(0, 0, 1), wall=False),
    "armchair": Thing((
        Part("chair", (0, 0, 0.21), (0.36, 0.36, 0.21)),
        Part("chair", (-0.28, 0, 0.6), (0.08, 0.36, 0.25)),
        *(Part("chair", (0, y, 0.3), (0.36, 0.07, 0.3)) for y in (-0.36, 0.36)),
    ), wall=False),
    "plant": Thing((
        Part("box", (0, 0, 0.15), (0.15, 0.15, 0.15)),
        Part("plant", (0, 0, 0.6), (0.24, 0.24, 0.32)),
    ), wall=False),
    "standing lamp": Thing(_lamp(0, 0, 0, 1.35), gap=0.1),
    "box": Thing((Part("box", (0, 0, 0.18), (0.2, 0.27, 0.18)),), wall=False),
    "bag": Thing((Part("bag", (0, 0, 0.2), (0.13, 0.2, 0.2)),), wall=False),
    "bin": Thing((Part("bin", (0, 0, 0.22), (0.16, 0.16, 0.22)),)),
}  # fmt: skip

# Large things first: what finds no place is left out.
_ROOMS = (
    ("bed", "wide window", "wardrobe", "night stand", "dresser", "hung television", "desk",
     "armchair", "night stand"),
    ("sofa", "television stand", "window", "coffee table", "bookshelf", "side table", "armchair",
     "window", "standing lamp"),
    ("dining table", "wide window", "cabinet", "window", "hung television", "sofa", "side table"),
    ("desk", "desk", "window", "bookshelf", "window", "cabinet", "dining table", "chair", "bin"),
)  # fmt: skip
_ANYWHERE = ("door", "picture", "picture", "plant", "box", "bag", "chair", "bin")
# The turn that puts a thing's back to a wall, the axis across the wall, and its side of the room;
# the wall behind the camera has nothing.
_WALLS = ((0.0, 0, 0), (np.pi, 0, 1), (-np.pi / 2, 1, 1))


@dataclass(frozen=True)
class Room:
    """A furnished room.

    Attributes:
        low: inner corner with the smallest x, y and z, (3,).
        high: inner corner opposite to it, (3,).
        solids: floor, ceiling and four walls, then things; materials are positions in
            ``MATERIALS``. Where two meet, the later one is what is there.
        things: low and high corner of what surrounds each thing, (T, 2, 3).
    """

    low: Floats
    high: Floats
    solids: list[Solid]
    things: Floats

    @classmethod
    def furnished(cls, random: Random) -> Room:
        """Return a room with the camera near the middle of one of its walls."""
        width, depth, height = random.uniform(_SMALLEST, _LARGEST)
        left, behind = random.uniform(0.3, 0.7) * width, random.uniform(0.3, 0.6)
        low, high = np.array([-left, -behind, 0]), np.array([width - left, depth - behind, height])
        solids = _shell(low, high, random)
        (aside, back), (other, front) = _FREE
        taken = np.array([[(aside, back, 0), (other, front, height)]])
        for thing in _contents(random):
            if placed := _place(thing, low, high, taken, random):
                solids += placed.solids
                taken = np.concatenate([taken, placed.bounds[None]])
        return cls(low, high, solids, taken[1:])


class _Placed(NamedTuple):
    solids: list[Solid]
    bounds: Floats  # low and high corner, (2, 3)


def _contents(random: Random) -> list[Thing]:
    names = [*_ROOMS[random.integers(len(_ROOMS))], *_ANYWHERE]
    return [THINGS[name] for name in names if random.random() < _KEPT]


def _shell(low: Floats, high: Floats, random: Random) -> list[Solid]:
    """Return floor, ceiling and walls, which touch the room from outside."""
    paint = shade(MATERIALS["wall"].colours, random)
    solids = []
    for axis, side in ((2, 0), (2, 1), (0, 0), (0, 1), (1, 0), (1, 1)):
        material = "wall" if axis < 2 else ("floor", "ceiling")[side]
        ends = np.array([low - THICKNESS, high + THICKNESS])
        ends[1 - side, axis] = (high, low)[1 - side][axis]
        colour = paint if axis < 2 else shade(MATERIALS[material].colours, random)
        solids.append(_box(material, ends.mean(axis=0), np.ptp(ends, axis=0) / 2, 0.0, colour))
    return solids


def _place(
    thing: Thing, low: Floats, high: Floats, taken: Floats, random: Random
) -> _Placed | None:
    """Return the thing where it meets nothing that is there, None if no such place is found.

    Args:
        thing: what to place, a little larger or smaller.
        low: inner corner of the room, (3,).
        high: inner corner opposite to it, (3,).
        taken: low and high corners of what is there, (T, 2, 3).
        random: decides.
    """
    size = random.uniform(*_SIZES, 3)
    centres, halves = (
        np.array([getattr(part, field) for part in thing.parts]) * size
        for field in ("centre", "half")
    )
    for _ in range(_TRIES):
        yaw, axis, side = _WALLS[random.integers(len(_WALLS))]
        if not thing.wall:
            yaw = random.uniform(0, 2 * np.pi)
        turn = rotation(yaw)
        middles, reach = centres @ turn.T, halves @ np.abs(turn).T
        bounds = np.stack([(middles - reach).min(axis=0), (middles + reach).max(axis=0)])
        first, last = low - bounds[0], high - bounds[1]
        if (first > last).any():
            continue
        shift = random.uniform(first, last)
        shift[2] = 0
        if thing.wall:
            shift[axis] = first[axis] + thing.gap if side == 0 else last[axis] - thing.gap
        bounds += shift
        apart = (bounds[0] > taken[:, 1] + _GAP) | (bounds[1] < taken[:, 0] - _GAP)
        if apart.any(axis=1).all():
            return _Placed(_solids(thing.parts, middles + shift, halves, yaw, random), bounds)
    return None


def _solids(
    parts: Sequence[Part], centres: Floats, halves: Floats, yaw: float, random: Random
) -> list[Solid]:
    """Return the boxes of one thing; those of one material have one colour."""
    names = dict.fromkeys(part.material for part in parts)
    colour = {name: shade(MATERIALS[name].colours, random) for name in names}
    return [
        _box(part.material, centre, half, yaw, colour[part.material])
        for part, centre, half in zip(parts, centres, halves, strict=True)
    ]


def _box(material: str, centre: Floats, half: Floats, yaw: float, colour: Colour) -> Solid:
    x, y, z = centre.tolist()
    length, width, height = half.tolist()
    return Solid(Shape.BOX, NUMBER[material], (x, y, z), (length, width, height), yaw, colour)
