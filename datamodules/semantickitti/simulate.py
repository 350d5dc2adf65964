"""Small generated sequences in the layout of SemanticKITTI, for offline runs and tests.

A made-up street is seen by a 64-beam lidar and, from where KITTI has it, by a camera: both cast
rays at the same solids, so that projected labels and image agree except at occlusion edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ntdh_bench.datasets import begin_simulated
from ntdh_bench.errors import UserError
from ntdh_bench.progress import Update, progress_bar
from ntdh_bench.seeding import derive_seed

from ..raycast import Camera, Floats, Lidar, Random, Single, Solids, cast, expose, rotation, texture
from .layout import CALIBRATION, DENSE_FOLDER, KINDS, TEST_SEQUENCES, VAL_SEQUENCES
from .street import MATERIALS, NUMBER, Street, windows

IMAGE_SIZE = (370, 1226)
BEAMS, AZIMUTHS = 64, 1800
_TEST_SHARE = 0.3  # of the training frames, for each of test and validation
_TRAIN_SEQUENCE = 0

# The calibration of KITTI odometry's sequences 04-12 (Geiger, Lenz and Urtasun, CVPR 2012): focal
# length, principal point and last column of each camera; lidar to left grey camera.
_FOCAL, _CENTRE = 707.0912, (601.8873, 183.1104)
_OFFSETS = {
    "P0": (0.0, 0.0, 0.0),
    "P1": (-379.8145, 0.0, 0.0),
    "P2": (46.88783, 0.1178601, 0.006203223),
    "P3": (-333.4597, 1.93013, 0.003318498),
}
_TR = np.array(
    [
        [-1.857739385241e-03, -9.999659513510e-01, -8.039975204516e-03, -4.784029760483e-03],
        [-6.481465826011e-03, 8.051860151134e-03, -9.999466081774e-01, -7.337429464231e-02],
        [9.999773098287e-01, -1.805528627661e-03, -6.496203536139e-03, -3.339968064433e-01],
    ]
)

_HEIGHT = 1.73  # of the lidar above the road, metres
_STEP = 8.0  # metres between frames
_REACH = 90.0  # metres
_SUN = np.array([0.35, -0.5, 0.79])
_SKY = np.array([[0.55, 0.68, 0.85], [0.85, 0.88, 0.9]])  # above, at the horizon
_OUTLIER = 1  # raw id
_RAW = np.array([material.raw for material in MATERIALS.values()], dtype=np.uint16)
_TEXTURE, _GRAIN, _REFLECTANCE, _DEPTH = np.array(
    [material[2:] for material in MATERIALS.values()], dtype=np.float32
).T


class View(NamedTuple):
    """What the two sensors see from one place.

    Attributes:
        points: float32 (N, 4), x, y, z in metres in the lidar's axes and remission in [0, 1).
        labels: uint32 (N,), raw ids, with instances in the upper 16 bits.
        image: uint8 (height, width, 3).
        image_labels: uint16 (height, width), raw ids, 0 for the sky.
    """

    points: Single
    labels: NDArray[np.uint32]
    image: NDArray[np.uint8]
    image_labels: NDArray[np.uint16]


@dataclass(frozen=True)
class Rig:
    """The two sensors.

    Args:
        size: height and width of the images; the calibration is scaled with them.
        beams: of the lidar, from 2 degrees up to 24.9 degrees down.
        azimuths: number of directions in a turn of the lidar.
    """

    size: tuple[int, int] = IMAGE_SIZE
    beams: int = BEAMS
    azimuths: int = AZIMUTHS

    @classmethod
    def scaled(cls, scale: float) -> Rig:
        """Return KITTI's sensors with smaller images, and as few azimuths to a pixel as there."""
        height, width = (max(1, round(scale * length)) for length in IMAGE_SIZE)
        return cls((height, width), azimuths=max(1, round(scale * AZIMUTHS)))

    def projection(self, name: str) -> Floats:
        """Return the matrix (3, 4) of camera ``P0`` to ``P3``, in pixels of the image size."""
        scale = [full / real for full, real in zip(self.size[::-1], IMAGE_SIZE[::-1], strict=True)]
        matrix = np.zeros((3, 4))
        matrix[:2, :2] = np.diag([_FOCAL, _FOCAL])
        matrix[:, 2] = *_CENTRE, 1
        matrix[:, 3] = _OFFSETS[name]
        return np.diag([*scale, 1]) @ matrix

    def calibration(self) -> str:
        """Return the text of ``calib.txt``."""
        matrices = {name: self.projection(name) for name in _OFFSETS} | {"Tr": _TR}
        return "".join(
            f"{name}: {' '.join(f'{value:.12e}' for value in matrix.flat)}\n"
            for name, matrix in matrices.items()
        )

    def lidar(self, pose: Floats, origin: Floats) -> Lidar:
        """Return the lidar at ``origin`` (3,) with its axes in the columns of ``pose`` (3, 3)."""
        # The published sensor has its beams a third of a degree apart above, half a degree below.
        full = np.concatenate([np.linspace(2, -8.33, 32), np.linspace(-8.83, -24.9, 32)])
        chosen = np.interp(np.linspace(0, 63, self.beams), np.arange(64), full)
        return Lidar(pose, origin, np.radians(chosen), self.azimuths)

    def camera(self, pose: Floats, origin: Floats) -> Camera:
        """Return the left colour camera that belongs to :meth:`lidar`."""
        to_lidar = np.eye(4)
        to_lidar[:3] = np.column_stack([pose.T, -pose.T @ origin])
        to_camera = np.vstack([_TR, [0, 0, 0, 1]])
        return Camera(self.projection("P2") @ to_camera @ to_lidar, self.size)


def write_simulated(root: Path, frames: int = 40, seed: int = 0, rig: Rig | None = None) -> None:
    """Write simulated SemanticKITTI files below ``root``; the same arguments, the same bytes.

    Sequences 00 (training), 08 (test) and 10 (validation) are three different streets, the last two
    with 0.3 times the frames, at least one. Dense labels of the images come with them.

    Args:
        root: data root; ``semantickitti`` in it must be empty, absent or generated.
        frames: training frames, at least 1.
        seed: of streets, traffic, light and noise.
        rig: the sensors; default as in KITTI.

    Raises:
        UserError: the folder holds something else than generated files, or frames is below 1.
    """
    if frames < 1:
        raise UserError(f"{frames} simulated frames: at least 1 is needed")
    rig = rig or Rig()
    folder = root / "semantickitti" / "sequences"
    begin_simulated(
        root, ["semantickitti"], [folder], frames=frames, seed=seed, size=list(rig.size),
        beams=rig.beams, azimuths=rig.azimuths,
    )  # fmt: skip
    fewer = max(1, round(_TEST_SHARE * frames))
    lengths = {_TRAIN_SEQUENCE: frames, TEST_SEQUENCES[0]: fewer, VAL_SEQUENCES[0]: fewer}
    with progress_bar("simulating SemanticKITTI", sum(lengths.values())) as update:
        for sequence, length in lengths.items():
            _write_sequence(folder / f"{sequence:02d}", sequence, length, seed, rig, update)


def _write_sequence(
    folder: Path, sequence: int, length: int, seed: int, rig: Rig, update: Update
) -> None:
    for name in (*KINDS, DENSE_FOLDER):
        (folder / name).mkdir(parents=True, exist_ok=True)
        _drop_frames(folder / name, length)
    (folder / CALIBRATION).write_text(rig.calibration(), encoding="ascii")
    street = Street(length * _STEP, np.random.default_rng(derive_seed(seed, "street", sequence)))
    for number in range(length):
        random = np.random.default_rng(derive_seed(seed, "frame", sequence, number))
        view = look(street, number * _STEP, rig, random)
        name = f"{number:06d}"
        view.points.astype("<f4").tofile(folder / "velodyne" / f"{name}.bin")
        view.labels.astype("<u4").tofile(folder / "labels" / f"{name}.label")
        Image.fromarray(view.image).save(folder / "image_2" / f"{name}.png", compress_level=1)
        Image.fromarray(view.image_labels).save(folder / DENSE_FOLDER / f"{name}.png")
        update(advance=1)


def _drop_frames(folder: Path, length: int) -> None:
    """Remove the frames from number ``length`` on, which a longer run may have left."""
    for path in folder.glob("[0-9]" * 6 + ".*"):
        if int(path.stem) >= length:
            path.unlink()


def look(street: Street, x: float, rig: Rig, random: Random) -> View:
    """Return what the sensors see ``x`` metres down the street."""
    solids = _nearby(street, x, random)
    origin = np.array([x, -street.half_width / 2 + random.normal(0, 0.2), _HEIGHT])
    pose = rotation(*random.normal(0, [0.03, 0.005, 0.005]))
    points, labels = _scan(rig.lidar(pose, origin), solids, random)
    image, image_labels = _photograph(rig.camera(pose, origin), solids, random)
    return View(points, labels, image, image_labels)


def _nearby(street: Street, x: float, random: Random) -> Solids:
    everything = street.solids + street.traffic(x, random)
    return Solids(
        [
            solid
            for solid in everything
            if abs(solid.centre[0] - x) < _REACH + max(solid.half[0], solid.half[1])
        ]
    )


def _scan(lidar: Lidar, solids: Solids, random: Random) -> tuple[Single, NDArray[np.uint32]]:
    distance, index = cast(lidar, solids)
    # Returns get lost, more of them from far away.
    hit = (index >= 0) & (random.random(index.shape) > 0.02 + 0.3 * (distance / _REACH) ** 2)
    index, distance = index[hit], distance[hit]
    ray, world = lidar.rays[:, hit].T, lidar.directions[:, hit].T
    origin = lidar.origin.astype(np.float32)
    slant = np.abs((solids.normals(index, origin + distance[:, None] * world) * world).sum(axis=1))
    material = solids.material[index]
    noise = random.standard_normal((2, len(index)), dtype=np.float32)
    remission = _REFLECTANCE[material] * (0.4 + 0.6 * slant) + 0.06 * noise[0]
    distance = distance + np.hypot(0.015, _DEPTH[material]) * noise[1]
    labels = _RAW[material].astype(np.uint32) | solids.instance[index] << np.uint32(16)
    outlier = random.random(len(index)) < 0.001
    distance = np.where(outlier, distance * random.uniform(0.3, 0.9, len(index)), distance)
    labels[outlier] = _OUTLIER
    # Published remissions are hundredths.
    remission = np.clip(remission, 0, 0.99).round(2)
    points = np.column_stack([ray * distance[:, None], remission]).astype(np.float32)
    return points, labels


def _photograph(
    camera: Camera, solids: Solids, random: Random
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    distance, index = cast(camera, solids)
    hit = index >= 0
    rays = camera.directions
    colours = np.empty((*camera.size, 3), dtype=np.float32)
    colours[~hit] = _sky(rays[:, ~hit].T)
    colours[hit] = _surface(camera, solids, distance[hit], index[hit], rays[:, hit].T)
    labels = np.where(hit, _RAW[solids.material[index]], 0)
    return expose(colours, random), labels.astype(np.uint16)


def _surface(
    camera: Camera, solids: Solids, distance: Single, index: NDArray[np.int64], rays: Single
) -> Single:
    """Return the light (N, 3) that comes from the solids ``index`` (N,) along ``rays`` (N, 3)."""
    points = camera.origin.astype(np.float32) + distance[:, None] * rays
    normals = solids.normals(index, points)
    material = solids.material[index]
    pattern = _TEXTURE[material] * texture(points, _GRAIN[material])
    sunlight = 0.55 + 0.55 * np.maximum(normals @ _SUN.astype(np.float32), 0)
    colours = solids.colour[index]
    houses = material == NUMBER["building"]
    panes = np.zeros(len(points), dtype=bool)
    panes[houses] = windows(points[houses], normals[houses])
    colours[panes] *= 0.35
    colours = colours * ((1 + pattern) * sunlight)[:, None]
    haze = 1 - np.exp(-distance / 250)
    return np.asarray(colours + (_SKY[1].astype(np.float32) - colours) * haze[:, None])


def _sky(rays: Single) -> Single:
    """Return the light (N, 3) of the sky along ``rays`` (N, 3)."""
    up = np.clip(rays[:, 2] / np.linalg.norm(rays, axis=1) / 0.35, 0, 1)[:, None]
    return np.asarray(up * _SKY[0] + (1 - up) * _SKY[1], dtype=np.float32)
