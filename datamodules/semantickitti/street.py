"""A made-up street: what stands where, what it is made of, and how a camera and a lidar see it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..raycast import Colour, Random, Shape, Single, Solid, Triple, rotation, shade

_GROUND = -0.5  # metres: how deep slabs reach below the street
_KERB = 0.12  # metres: height of the pavement
_MARGIN = 150.0  # metres: how far the street goes on before and after


class Material(NamedTuple):
    """What a surface looks like.

    Attributes:
        raw: SemanticKITTI's raw id.
        colours: that an object of it may have.
        texture: how much its brightness varies.
        grain: size of a spot of texture, metres.
        reflectance: share of the laser light that comes back at right angles.
        depth: standard deviation of where the laser is reflected, metres.
    """

    raw: int
    colours: tuple[Colour, ...]
    texture: float
    grain: float
    reflectance: float
    depth: float = 0.01


_PAINTS = ((0.75, 0.75, 0.78), (0.12, 0.12, 0.14), (0.55, 0.08, 0.08), (0.1, 0.18, 0.4),
           (0.4, 0.42, 0.45), (0.2, 0.32, 0.25), (0.7, 0.6, 0.2))  # fmt: skip
_CLOTHES = ((0.15, 0.15, 0.2), (0.5, 0.12, 0.12), (0.2, 0.3, 0.5), (0.6, 0.55, 0.5),
            (0.75, 0.6, 0.1), (0.25, 0.35, 0.2))  # fmt: skip
_GREENS = ((0.16, 0.28, 0.1), (0.22, 0.33, 0.14), (0.3, 0.34, 0.14), (0.12, 0.22, 0.1))
_LAWNS = ((0.3, 0.38, 0.16), (0.4, 0.38, 0.2), (0.34, 0.3, 0.2))
_WALLS = ((0.6, 0.5, 0.4), (0.5, 0.28, 0.22), (0.7, 0.68, 0.62), (0.5, 0.5, 0.52))
_PLANKS = ((0.4, 0.28, 0.18), (0.5, 0.5, 0.5), (0.28, 0.34, 0.26))
_SIGNS = ((0.8, 0.8, 0.8), (0.75, 0.1, 0.1), (0.1, 0.2, 0.65), (0.8, 0.7, 0.1))

MATERIALS = {
    "car": Material(10, _PAINTS, 0.05, 0.5, 0.35),
    "moving-car": Material(252, _PAINTS, 0.05, 0.5, 0.35),
    "truck": Material(18, ((0.8, 0.8, 0.8), (0.2, 0.3, 0.55), (0.6, 0.25, 0.12)), 0.08, 1.0, 0.45),
    "bus": Material(13, ((0.7, 0.65, 0.2), (0.6, 0.1, 0.12), (0.75, 0.75, 0.75)), 0.1, 1.2, 0.4),
    "bicycle": Material(11, ((0.15, 0.15, 0.18), (0.5, 0.1, 0.1), (0.2, 0.4, 0.5)), 0.2, 0.1, 0.2),
    "motorcycle": Material(15, ((0.1, 0.1, 0.12), (0.45, 0.08, 0.08)), 0.2, 0.15, 0.3),
    "person": Material(30, _CLOTHES, 0.15, 0.2, 0.3, 0.02),
    "moving-person": Material(254, _CLOTHES, 0.15, 0.2, 0.3, 0.02),
    "bicyclist": Material(31, _CLOTHES, 0.15, 0.2, 0.28, 0.02),
    "moving-bicyclist": Material(253, _CLOTHES, 0.15, 0.2, 0.28, 0.02),
    "motorcyclist": Material(32, _CLOTHES, 0.15, 0.2, 0.32, 0.02),
    "road": Material(40, ((0.3, 0.3, 0.31), (0.36, 0.35, 0.34)), 0.1, 0.15, 0.18),
    "lane-marking": Material(60, ((0.8, 0.8, 0.78),), 0.1, 0.1, 0.6),
    "parking": Material(44, ((0.4, 0.36, 0.34), (0.42, 0.41, 0.38)), 0.25, 0.3, 0.24),
    "sidewalk": Material(48, ((0.52, 0.5, 0.47), (0.46, 0.43, 0.42)), 0.15, 0.6, 0.32),
    "other-ground": Material(49, ((0.5, 0.44, 0.34), (0.42, 0.36, 0.28)), 0.3, 0.12, 0.4, 0.03),
    "building": Material(50, _WALLS, 0.12, 0.3, 0.4),
    "fence": Material(51, _PLANKS, 0.5, 0.12, 0.22),
    "structure": Material(52, ((0.55, 0.55, 0.52),), 0.2, 0.4, 0.35),
    "vegetation": Material(70, _GREENS, 0.6, 0.2, 0.3, 0.12),
    "trunk": Material(71, ((0.3, 0.22, 0.15), (0.36, 0.3, 0.24)), 0.35, 0.08, 0.3, 0.02),
    "terrain": Material(72, _LAWNS, 0.4, 0.2, 0.36, 0.04),
    "pole": Material(80, ((0.45, 0.46, 0.47), (0.25, 0.27, 0.28)), 0.05, 0.5, 0.45),
    "traffic-sign": Material(81, _SIGNS, 0.1, 0.2, 0.85),
    "bin": Material(99, ((0.2, 0.3, 0.2), (0.35, 0.3, 0.2)), 0.1, 0.3, 0.25),
}  # fmt: skip
#: Position of each material in ``MATERIALS``.
NUMBER = {name: number for number, name in enumerate(MATERIALS)}
_GLASS = (0.08, 0.1, 0.12)
_RUBBER = (0.05, 0.05, 0.05)
_SKIN = (0.65, 0.5, 0.42)


class Part(NamedTuple):
    """A solid of an object, in the object's own axes; ``colour`` None is the object's colour."""

    shape: Shape
    centre: Triple
    half: Triple
    colour: Colour | None = None


def _wheels(x: float, y: float, radius: float) -> list[Part]:
    places = [(a, b) for a in (-x, x) for b in (-y, y)]
    return [
        Part(Shape.ELLIPSOID, (a, b, radius), (radius, 0.12, radius), _RUBBER) for a, b in places
    ]


_CAR = [
    Part(Shape.BOX, (0, 0, 0.62), (2.15, 0.88, 0.36)),
    Part(Shape.BOX, (-0.2, 0, 1.2), (1.2, 0.76, 0.26), _GLASS),
    Part(Shape.BOX, (-0.2, 0, 1.47), (1.1, 0.72, 0.02)),
    *_wheels(1.35, 0.84, 0.33),
]
_TRUCK = [
    Part(Shape.BOX, (3.1, 0, 1.6), (1.0, 1.15, 1.2)),
    Part(Shape.BOX, (-0.9, 0, 2.1), (2.9, 1.25, 1.5)),
    *_wheels(2.6, 1.1, 0.48),
]
_BUS = [
    Part(Shape.BOX, (0, 0, 0.95), (5.5, 1.25, 0.6)),
    Part(Shape.BOX, (0, 0, 1.95), (5.45, 1.22, 0.42), _GLASS),
    Part(Shape.BOX, (0, 0, 2.65), (5.5, 1.25, 0.3)),
    *_wheels(3.6, 1.2, 0.48),
]
_BICYCLE = [
    Part(Shape.ELLIPSOID, (-0.5, 0, 0.34), (0.34, 0.04, 0.34)),
    Part(Shape.ELLIPSOID, (0.5, 0, 0.34), (0.34, 0.04, 0.34)),
    Part(Shape.BOX, (0, 0, 0.62), (0.5, 0.04, 0.14)),
    Part(Shape.BOX, (0.45, 0, 0.98), (0.06, 0.28, 0.04)),
]
_MOTORCYCLE = [
    Part(Shape.ELLIPSOID, (-0.7, 0, 0.32), (0.32, 0.1, 0.32), _RUBBER),
    Part(Shape.ELLIPSOID, (0.7, 0, 0.32), (0.32, 0.1, 0.32), _RUBBER),
    Part(Shape.ELLIPSOID, (0, 0, 0.7), (0.8, 0.22, 0.3)),
    Part(Shape.BOX, (0.5, 0, 1.05), (0.06, 0.36, 0.06), _RUBBER),
]
_PERSON = [
    Part(Shape.ELLIPSOID, (0.06, 0.1, 0.48), (0.11, 0.11, 0.5)),
    Part(Shape.ELLIPSOID, (-0.06, -0.1, 0.48), (0.11, 0.11, 0.5)),
    Part(Shape.ELLIPSOID, (0, 0, 1.15), (0.17, 0.27, 0.4)),
    Part(Shape.ELLIPSOID, (0, 0, 1.64), (0.11, 0.11, 0.14), _SKIN),
]
_RIDER = [
    Part(Shape.ELLIPSOID, (-0.1, 0, 0.75), (0.2, 0.2, 0.4)),
    Part(Shape.ELLIPSOID, (0, 0, 1.25), (0.22, 0.25, 0.38)),
    Part(Shape.ELLIPSOID, (0.1, 0, 1.72), (0.11, 0.11, 0.14), _SKIN),
]
_OBJECTS = {
    "car": _CAR, "moving-car": _CAR, "truck": _TRUCK, "bus": _BUS, "bicycle": _BICYCLE,
    "motorcycle": _MOTORCYCLE, "person": _PERSON, "moving-person": _PERSON,
    "bicyclist": _BICYCLE + _RIDER, "moving-bicyclist": _BICYCLE + _RIDER,
    "motorcyclist": _MOTORCYCLE + _RIDER, "bin": [Part(Shape.BOX, (0, 0, 0.55), (0.3, 0.3, 0.55))],
}  # fmt: skip

_PARKED = {"car": 0.62, "truck": 0.04, "bus": 0.04, "motorcycle": 0.12, "nothing": 0.18}
_STANDING = {"person": 0.25, "moving-person": 0.35, "bicycle": 0.28, "bin": 0.12}
_AHEAD = {"moving-car": 0.5, "truck": 0.15, "bus": 0.15, "motorcyclist": 0.2}
_ONCOMING = {"moving-car": 0.6, "truck": 0.1, "bicyclist": 0.15, "motorcyclist": 0.15}


class Street:
    """A straight street along x from 0 to ``length``, different for every ``random``.

    From the middle outwards on either side: the carriageway, a strip of parking bays or grass, a
    pavement, and fences, gardens and houses.

    Args:
        length: metres.
        random: decides everything but the traffic.
    """

    def __init__(self, length: float, random: Random) -> None:
        self.length = length
        self.random = random
        self.half_width = random.uniform(3.6, 4.6)
        self.instances = 0
        self.solids = [*self._ground()]
        for side in (-1, 1):
            self.solids += [*self._strip(side), *self._pavement(side), *self._gardens(side)]

    def traffic(self, x: float, random: Random) -> list[Solid]:
        """Return what moves on the carriageway around ``x``, where the sensors are."""
        lane = self.half_width / 2
        ahead = random.choice(list(_AHEAD), p=list(_AHEAD.values()))
        moving = [
            (ahead, x + random.uniform(9, 35), -lane, 0.0),
            ("moving-bicyclist", x + random.uniform(6, 25), 0.7 - self.half_width, 0.0),
        ]
        for place in x + random.uniform(-30, 0) + np.cumsum(random.uniform(14, 30, 4)):
            kind = random.choice(list(_ONCOMING), p=list(_ONCOMING.values()))
            moving.append((kind, place, lane, np.pi))
        return [
            solid
            for number, (kind, place, y, yaw) in enumerate(moving, self.instances + 1)
            for solid in _object(kind, (place, y, 0.0), yaw, number, random)
        ]

    def _ground(self) -> Iterator[Solid]:
        width = self.half_width
        for piece in self._pieces(30, 60):
            yield self._block("terrain", piece, (-200, 200), -0.05)
        for piece in self._pieces(40, 80):
            yield self._block("road", piece, (-width, width), 0.0)
        for x in np.arange(-_MARGIN, self.length + _MARGIN, 9.0):
            yield self._block("lane-marking", (x, x + 3), (-0.08, 0.08), 0.005)

    def _strip(self, side: int) -> Iterator[Solid]:
        """Yield bays with parked vehicles, gravel, and grass with trees."""
        inner, outer = self.half_width, self.half_width + 2.3
        across = (side * inner, side * outer)
        for piece in self._pieces(10, 26):
            kind = self.random.choice(["parking", "other-ground", "terrain"], p=[0.5, 0.2, 0.3])
            yield self._block(kind, piece, across, 0.01)
            if kind == "parking":
                yield from self._parked(*piece, side * (inner + outer) / 2)
            elif kind == "terrain":
                for x in np.arange(piece[0] + 2, piece[1] - 1, self.random.uniform(7, 11)):
                    yield from self._tree(x, side * (inner + 1.2))

    def _parked(self, x: float, end: float, y: float) -> Iterator[Solid]:
        while x + 6 < end:
            kind = self.random.choice(list(_PARKED), p=list(_PARKED.values()))
            room = {"truck": 9.0, "bus": 13.0}.get(kind, 6.0)
            if kind != "nothing" and x + room <= end:
                yaw = self.random.choice([0, np.pi]) + self.random.normal(0, 0.03)
                yield from self._stand(kind, (x + room / 2, y, 0.0), yaw)
            x += room + self.random.uniform(0, 1)

    def _pavement(self, side: int) -> Iterator[Solid]:
        """Yield the pavement with poles, signs, people, bicycles and bins."""
        inner = self.half_width + 2.3
        across = (side * inner, side * (inner + 2.2))
        for piece in self._pieces(20, 60):
            yield self._block("sidewalk", piece, across, _KERB)
        for x, _ in self._pieces(12, 22):
            yield from self._pole(x, side * (inner + 0.25))
        for x, end in self._pieces(4, 10):
            kind = self.random.choice(list(_STANDING), p=list(_STANDING.values()))
            y = side * (inner + self.random.uniform(0.7, 1.9))
            place, yaw = self.random.uniform(x, end), self.random.uniform(0, 2 * np.pi)
            yield from self._stand(kind, (place, y, _KERB), yaw)

    def _gardens(self, side: int) -> Iterator[Solid]:
        """Yield what lies behind the pavement."""
        front = self.half_width + 4.6
        for x, end in self._pieces(9, 20):
            back = front + self.random.uniform(1.5, 6)
            if self.random.random() < 0.45:
                height = self.random.uniform(0.9, 1.8)
                yield self._block("fence", (x, end), (side * front, side * (front + 0.08)), height)
            if self.random.random() < 0.5:
                yield from self._bushes(x, end, side * (front + 1.2))
            if self.random.random() < 0.65:
                height, depth = self.random.uniform(4, 12), self.random.uniform(7, 11)
                across = (side * back, side * (back + depth))
                yield self._block("building", (x, end - 1), across, height)
            else:
                yield from self._tree((x + end) / 2, side * (back + 1))
                hut = (side * (back + 5), side * (back + 8))
                yield self._block("structure", (x + 1, x + 4), hut, 2.4)

    def _pieces(self, shortest: float, longest: float) -> Iterator[tuple[float, float]]:
        """Yield stretches of the street, one after the other."""
        x = -_MARGIN
        while x < self.length + _MARGIN:
            end = x + self.random.uniform(shortest, longest)
            yield x, end
            x = end

    def _block(
        self, material: str, x: tuple[float, float], y: tuple[float, float], top: float
    ) -> Solid:
        """Return a box from below the ground up to ``top``."""
        centre = (sum(x) / 2, sum(y) / 2, (_GROUND + top) / 2)
        half = (abs(x[1] - x[0]) / 2, abs(y[1] - y[0]) / 2, (top - _GROUND) / 2)
        return self._solid(Shape.BOX, material, centre, half)

    def _solid(self, shape: Shape, material: str, centre: Triple, half: Triple) -> Solid:
        colour = shade(MATERIALS[material].colours, self.random)
        return Solid(shape, NUMBER[material], centre, half, colour=colour)

    def _tree(self, x: float, y: float) -> Iterator[Solid]:
        trunk, radius = self.random.uniform(1.8, 3.2), self.random.uniform(0.12, 0.28)
        yield self._solid(
            Shape.CYLINDER, "trunk", (x, y, trunk / 2), (radius, radius, trunk / 2 + 0.5)
        )
        for _ in range(3):
            wide, high = self.random.uniform(0.9, 1.7), self.random.uniform(0.9, 1.6)
            shift_x, shift_y = self.random.uniform(-0.8, 0.8, 2)
            centre = (x + shift_x, y + shift_y, trunk + self.random.uniform(0.5, 2))
            yield self._solid(Shape.ELLIPSOID, "vegetation", centre, (wide, wide, high))

    def _bushes(self, x: float, end: float, y: float) -> Iterator[Solid]:
        for place in np.arange(x + 0.8, end - 0.8, 1.5):
            high, wide = self.random.uniform(0.5, 1.3), self.random.uniform(0.6, 1.0)
            yield self._solid(
                Shape.ELLIPSOID, "vegetation", (place, y, high * 0.6), (wide, wide, high)
            )

    def _pole(self, x: float, y: float) -> Iterator[Solid]:
        sign = self.random.random() < 0.6
        high = self.random.uniform(2.6, 3.4) if sign else self.random.uniform(4.5, 7)
        radius = self.random.uniform(0.05, 0.09)
        yield self._solid(Shape.CYLINDER, "pole", (x, y, high / 2), (radius, radius, high / 2))
        if sign:
            size = self.random.uniform(0.3, 0.45)
            centre = (x - radius - 0.03, y, high - size)
            yield self._solid(Shape.BOX, "traffic-sign", centre, (0.02, size, size))

    def _stand(self, kind: str, place: Triple, yaw: float) -> list[Solid]:
        """Return the solids of an object that stays where it is."""
        self.instances += 1
        return _object(kind, place, yaw, self.instances, self.random)


def _object(kind: str, place: Triple, yaw: float, instance: int, random: Random) -> list[Solid]:
    """Return the solids of an object that stands at ``place`` and looks towards ``yaw``."""
    own = shade(MATERIALS[kind].colours, random)
    size = random.uniform(0.92, 1.08)
    solids = []
    for part in _OBJECTS[kind]:
        x, y, z = rotation(yaw) @ part.centre * size + place
        half = (size * part.half[0], size * part.half[1], size * part.half[2])
        colour = part.colour or own
        solids.append(Solid(part.shape, NUMBER[kind], (x, y, z), half, yaw, colour, instance))
    return solids


def windows(points: Single, normals: Single) -> NDArray[np.bool_]:
    """Return which points (N, 3) of walls with the given normals (N, 3) are window panes."""
    along = np.where(np.abs(normals[:, 1]) > 0.5, points[:, 0], points[:, 1])
    pane = ((along / 2.6) % 1 > 0.55) & ((points[:, 2] / 2.8) % 1 > 0.5)
    return np.asarray(pane & (np.abs(normals[:, 2]) < 0.5))
