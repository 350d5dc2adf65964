"""Ray casting against rays marched in small steps."""

from __future__ import annotations

import numpy as np
import pytest

from ntdh_bench.datamodules.raycast import (
    Camera,
    Lidar,
    Sensor,
    Shape,
    Solid,
    Solids,
    cast,
    rotation,
)

SOLIDS = [
    Solid(Shape.BOX, 0, (8.0, 1.0, 0.0), (1.0, 0.5, 1.5), yaw=0.4),
    Solid(Shape.CYLINDER, 0, (6.0, -2.0, 0.0), (0.4, 0.8, 2.0), yaw=-0.3),
    Solid(Shape.ELLIPSOID, 0, (7.0, -0.5, 0.5), (0.6, 0.3, 0.9), yaw=0.9),
    Solid(Shape.BOX, 0, (0.0, 4.0, -1.0), (12.0, 0.5, 2.0)),  # from behind to the front
    Solid(Shape.BOX, 0, (0.0, 0.0, -2.0), (20.0, 20.0, 0.2)),  # all around below
    Solid(Shape.ELLIPSOID, 0, (-6.0, 0.1, 0.0), (1.0, 1.0, 1.0)),  # across the lidar's seam
]


def lidar() -> Lidar:
    pose = rotation(0.2, 0.05, -0.03)
    return Lidar(pose, np.array([0.1, -0.2, 0.3]), np.radians(np.linspace(15, -25, 9)), 90)


def camera() -> Camera:
    to_camera = np.array([[0.0, -1, 0, 0.1], [0, 0, -1, 0.3], [1, 0, 0, -0.1]])
    return Camera(np.array([[30.0, 0, 20], [0, 30, 12], [0, 0, 1]]) @ to_camera, (24, 40))


def marched(sensor: Sensor, solids: Solids, step: float) -> np.ndarray:
    """Distance at which each ray is first inside a solid, by trying many."""
    rays = sensor.directions.reshape(3, -1).T.astype(float)
    found = np.full(len(rays), np.inf)
    for distance in np.arange(0.5, 26, step)[::-1]:
        points = sensor.origin + distance * rays
        for shape, centre, to_unit in zip(solids.shape, solids.centre, solids.to_unit, strict=True):
            unit = (points - centre) @ to_unit.T
            round_, flat = np.hypot(unit[:, 0], unit[:, 1]), np.abs(unit)
            inside = {
                Shape.BOX: flat.max(axis=1) < 1,
                Shape.CYLINDER: (round_ < 1) & (flat[:, 2] < 1),
                Shape.ELLIPSOID: np.linalg.norm(unit, axis=1) < 1,
            }[Shape(shape)]
            found[inside] = distance
    return found.reshape(sensor.directions.shape[1:])


@pytest.mark.parametrize("sensor", [lidar(), camera()], ids=["lidar", "camera"])
def test_what_a_ray_meets_first(sensor: Sensor) -> None:
    solids = Solids(SOLIDS)
    distance, index = cast(sensor, solids)
    expected = marched(sensor, solids, 0.02)
    assert set(index[np.isfinite(distance)]) >= {0, 1, 2, 3, 4}
    assert np.array_equal(index >= 0, np.isfinite(distance))
    both = np.isfinite(distance) & np.isfinite(expected) & (distance < 25)
    # Grazed corners are stepped over, and a cylinder has no ends.
    close = np.abs(distance[both] - expected[both]) < 0.03
    assert close.mean() > 0.99
    assert both.sum() > 0.99 * (np.isfinite(expected) | (distance < 25)).sum()


@pytest.mark.parametrize("sensor", [lidar(), camera()], ids=["lidar", "camera"])
def test_windows_hold_every_ray_that_hits(sensor: Sensor, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    many = [
        Solid(Shape(kind % 3), 0, tuple(random.uniform(-9, 9, 3)), tuple(random.uniform(0.1, 1, 3)),
              random.uniform(0, 6))
        for kind in range(60)
    ]  # fmt: skip
    outside = [x for x in many if np.linalg.norm(x.centre) > 2.5]
    # One by one, so that none hides behind another.
    windowed = [cast(sensor, Solids([solid])) for solid in outside]
    everything = slice(None), slice(None)
    monkeypatch.setattr(type(sensor), "window", lambda self, corners: everything)
    for solid, (distance, _) in zip(outside, windowed, strict=True):
        full, _ = cast(sensor, Solids([solid]))
        ahead = full > 0.2 if isinstance(sensor, Camera) else np.isfinite(full)
        assert np.array_equal(distance[ahead], full[ahead])


def test_normals_stand_on_the_surface() -> None:
    solids = Solids(SOLIDS)
    sensor = lidar()
    distance, index = cast(sensor, solids)
    hit = index >= 0
    rays = sensor.directions[:, hit].T
    points = (sensor.origin + distance[hit][:, None] * rays).astype(np.float32)
    normals = solids.normals(index[hit], points)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, rtol=1e-5)
    assert ((normals * rays).sum(axis=1) < 1e-3).all()  # towards the sensor
    below = index[hit] == 4
    np.testing.assert_allclose(normals[below], np.tile([0, 0, 1], (below.sum(), 1)), atol=1e-6)
    pole = index[hit] == 1
    np.testing.assert_allclose(normals[pole, 2], 0, atol=1e-6)


def test_a_thin_pole_far_away_keeps_its_width() -> None:
    pole = Solids([Solid(Shape.CYLINDER, 0, (80.0, 0.0, 0.0), (0.06, 0.06, 2.0))])
    azimuths = 400_000
    sensor = Lidar(np.eye(3), np.zeros(3), np.zeros(1), azimuths)
    width = 80 * np.isfinite(cast(sensor, pole)[0]).sum() * 2 * np.pi / azimuths
    assert width == pytest.approx(0.12, rel=0.03)


def test_camera_rays_go_through_the_middle_of_their_pixels() -> None:
    sensor = camera()
    points = sensor.origin[:, None] + 7 * sensor.directions.reshape(3, -1)
    u, v, w = sensor.matrix @ np.vstack([points, np.ones(points.shape[1])])
    rows, columns = np.divmod(np.arange(points.shape[1]), 40)
    np.testing.assert_allclose(w, 7, rtol=1e-5)
    np.testing.assert_allclose(u / w, columns + 0.5, atol=1e-3)
    np.testing.assert_allclose(v / w, rows + 0.5, atol=1e-3)
