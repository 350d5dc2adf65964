from __future__ import annotations

import numpy as np
import pytest

from ntdh_bench.datamodules.nyuv2 import rooms
from ntdh_bench.datamodules.nyuv2.labels import NYU40_NAMES, SSC_NAMES
from ntdh_bench.datamodules.nyuv2.rooms import MATERIALS, THICKNESS, THINGS, Room
from ntdh_bench.datamodules.nyuv2.voxels import CLASS_OF_LABEL, GRID, VOXEL_SIZE
from ntdh_bench.datamodules.raycast import Lidar, Solids, cast

ROOMS = [Room.furnished(np.random.default_rng(seed)) for seed in range(60)]


def test_materials_are_labelled_as_what_they_are_called() -> None:
    same = {name for name in MATERIALS if name in NYU40_NAMES}
    assert len(same) > 15
    assert all(NYU40_NAMES[MATERIALS[name].label - 1] == name for name in same)
    scored = {
        name: SSC_NAMES[CLASS_OF_LABEL[material.voxel]] for name, material in MATERIALS.items()
    }
    assert set(scored.values()) == set(SSC_NAMES[1:])
    assert all(scored[name] == name for name in scored if name in SSC_NAMES)
    assert {scored[name] for name in ("table", "side table", "desk")} == {"table"}
    assert {scored[name] for name in ("bookshelf", "cabinet", "dresser", "night stand")} == {
        "furniture"
    }


@pytest.mark.parametrize("name", THINGS)
def test_every_part_of_a_thing_is_held(name: str) -> None:
    thing = THINGS[name]
    centre, half = (
        np.array([getattr(part, field) for part in thing.parts]) for field in ("centre", "half")
    )
    low, high = centre - half, centre + half
    touch = ((low[:, None] <= high + 1e-9) & (high[:, None] >= low - 1e-9)).all(axis=-1)
    stands = np.abs(low[:, 2]) < 1e-9
    held = stands if stands.any() else low[:, 0] == low[:, 0].min()
    assert stands.any() or thing.wall
    for _ in thing.parts:
        held = held | (touch & held).any(axis=1)
    assert held.all()
    assert low[:, 2].min() >= -1e-9
    assert high[:, 2].max() * rooms._SIZES[1] < rooms._SMALLEST[2]


def test_things_stand_in_the_room_and_apart() -> None:
    for room in ROOMS:
        assert (room.low < 0).tolist() == [True, True, False]
        assert room.high[2] < GRID[1] * VOXEL_SIZE - 0.05 - THICKNESS
        low, high = room.things[:, 0], room.things[:, 1]
        # Windows and the like are let into the walls.
        assert (low >= room.low - 0.035).all()
        assert (high <= room.high + 0.035).all()
        meet = ((low[:, None] < high) & (high[:, None] > low)).all(axis=-1)
        assert meet.sum() == len(room.things)
        before_camera = (low[:, :2] < (0.5, 1.3)).all(axis=1) & (high[:, :2] > (-0.5, -1)).all(
            axis=1
        )
        assert not before_camera.any()


def test_rooms_differ_and_are_furnished() -> None:
    assert len({tuple(room.high) for room in ROOMS}) == len(ROOMS)
    assert min(len(room.things) for room in ROOMS) >= 6
    names = [{list(MATERIALS)[solid.material] for solid in room.solids} for room in ROOMS]
    share = {name: np.mean([name in present for present in names]) for name in MATERIALS}
    assert all(share[name] == 1 for name in ("floor", "ceiling", "wall"))
    assert min(share.values()) > 0.1
    again = Room.furnished(np.random.default_rng(0))
    assert again.solids == ROOMS[0].solids
    assert again.solids != ROOMS[1].solids


def test_rooms_are_closed() -> None:
    for room in ROOMS[:10]:
        around = Lidar(np.eye(3), np.array([0, 0, 1.4]), np.radians(np.linspace(-89, 89, 40)), 90)
        distance, _ = cast(around, Solids(room.solids))
        assert np.isfinite(distance).all()
        points = around.origin + distance.reshape(-1, 1) * around.directions.reshape(3, -1).T
        assert (points > room.low - 1e-3).all()
        assert (points < room.high + 1e-3).all()
