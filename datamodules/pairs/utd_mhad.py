"""UTD-MHAD: 27 actions of eight people, seen by a Kinect and felt by a sensor at wrist or thigh.

Chen, Jafari and Kehtarnavaz, UTD-MHAD: a multimodal dataset for human action recognition, ICIP
2015. Published layout: a MATLAB 5 file a sequence and modality, in ``Skeleton``, ``Inertial`` and
``Depth``: ``a<action>_s<subject>_t<trial>_skeleton.mat`` with ``d_skel`` (20, 3, F), joints in
metres; ``..._inertial.mat`` with ``d_iner`` (T, 6), accelerations in g and rotations in degrees a
second; ``..._depth.mat`` with ``d_depth`` (240, 320, F), millimetres, 0 for the background.

Subjects 1, 3, 5 and 7 are for training, the others for testing, as published.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.errors import FileError
from ntdh_bench.files.listing import visible
from ntdh_bench.files.mat5 import read_mat5_arrays

from .arrays import TEST, TRAIN, PairedArrays
from .layouts import (
    Floats,
    check_classes,
    inner,
    latent,
    measured,
    resampled,
    shown,
    tracked,
    waves,
)
from .published import published_set

_ACTIONS = (
    "swipe left", "swipe right", "wave", "clap", "throw", "arm cross", "basketball shoot",
    "draw X", "draw circle (clockwise)", "draw circle (counter-clockwise)", "draw triangle",
    "bowling", "boxing", "baseball swing", "tennis swing", "arm curl", "tennis serve", "push",
    "knock", "catch", "pick up and throw", "jog", "walk", "sit to stand", "stand to sit", "lunge",
    "squat",
)  # fmt: skip
_MODALITIES = ("skeleton", "inertial", "depth_motion")
_FOLDERS = ("Skeleton", "Inertial", "Depth")
_NAME = re.compile(r"(a([1-9]|1\d|2[0-7])_s([1-8])_t[1-4])_skeleton\.mat")
_JOINTS, _HIP = 20, 3  # the centre of the hips is the fourth
_HEIGHT, _WIDTH, _SIDE = 240, 320, 8  # pixels, and those of a square that becomes one
_FRAMES, _SAMPLES = 32, 64
_FARTHEST = 65_535  # mm
_FAR = 300  # mm: what moves further from a frame to the next is the edge of something
_MAX_BYTES, _LONGEST = 1 << 26, 2000
_REMEDY = "expected Skeleton, Inertial and Depth of UTD-MHAD, *.mat unpacked"


class _Sequence(NamedTuple):
    name: str
    action: int  # from 1
    subject: int


def read(folder: Path) -> PairedArrays:
    """Read all sequences, by name (``a10_s1_t1`` is the first).

    Joints are taken relative to the hips and resampled to 32 frames, float32 (N, 32, 60); inertial
    series to 64, float32 (N, 64, 6). The depth motion map, float32 (N, 30, 40), is the sum of the
    changes from frame to frame, of at most 300 mm each, averaged over squares of 8x8 pixels and
    divided by its largest value.

    Raises:
        FileError: a file is missing or damaged, or an action has no sequences for training or
            testing.
    """
    folder = inner(folder, "utd_mhad")
    sequences = _sequences(folder / _FOLDERS[0])
    names = [sequence.name for sequence in sequences]
    features = [_features(folder, name) for name in tracked("UTD-MHAD", names)]
    group = np.array([sequence.subject for sequence in sequences])
    arrays = PairedArrays(
        {
            name: np.stack(rows)
            for name, rows in zip(_MODALITIES, zip(*features, strict=True), strict=True)
        },
        np.array([sequence.action - 1 for sequence in sequences]),
        np.where(group % 2, TRAIN, TEST).astype(np.int8),
        group,
    )
    check_classes(folder, arrays, _ACTIONS, _REMEDY)
    return arrays


def _sequences(folder: Path) -> list[_Sequence]:
    found = []
    for path in visible(folder, "*.mat"):
        if not (match := _NAME.fullmatch(path.name)):
            raise FileError(f"{path} is not called like a1_s1_t1_skeleton.mat; {_REMEDY}")
        found.append(_Sequence(match[1], int(match[2]), int(match[3])))
    if not found:
        raise FileError(f"{folder}: no *_skeleton.mat in it; {_REMEDY}")
    return sorted(found)


def _features(folder: Path, name: str) -> tuple[NDArray[np.float32], ...]:
    """Return what is used of a sequence: skeleton, inertial, depth motion map."""
    skeleton, inertial, depth = (folder / kind / f"{name}_{kind.lower()}.mat" for kind in _FOLDERS)
    joints = _series(skeleton, (_JOINTS, 3, -1)).transpose(2, 0, 1)
    joints = (joints - joints[:, _HIP : _HIP + 1]).reshape(len(joints), -1)
    return (
        resampled(joints, _FRAMES).astype(np.float32),
        resampled(_series(inertial, (-1, 6)), _SAMPLES).astype(np.float32),
        _motion_map(_depth(depth)),
    )


def _depth(path: Path) -> NDArray[np.uint16]:
    depth = _stored(path, (_HEIGHT, _WIDTH, -1))
    if depth.dtype.kind not in "iu" or depth.min() < 0 or depth.max() > _FARTHEST:
        raise FileError(f"{path}: not whole numbers from 0 to {_FARTHEST}; {_REMEDY}")
    return depth.astype(np.uint16, copy=False)


def _series(path: Path, shape: tuple[int, ...]) -> Floats:
    return measured(path, _stored(path, shape), _REMEDY)


def _stored(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the array of a file; -1 in its shape stands for the frames, 1 to 2,000."""
    arrays = read_mat5_arrays(path, _MAX_BYTES, _REMEDY)
    found = arrays[0] if len(arrays) == 1 else np.empty(0)
    frames = found.shape[shape.index(-1)] if found.ndim == len(shape) else 0
    wanted = tuple(frames if side == -1 else side for side in shape)
    if found.shape != wanted or not 0 < frames <= _LONGEST:
        expected = str(shape).replace("-1", "F")
        raise FileError(f"{path}: not one array of numbers {expected}; {_REMEDY}")
    return found


def _motion_map(depth: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the depth motion map (30, 40) of frames (240, 320, F) in mm."""
    before, after = depth.T[:-1], depth.T[1:]  # as they lie in the file: a frame after the other
    change = np.maximum(before, after) - np.minimum(before, after)
    moved = np.minimum(change, _FAR).sum(0, dtype=np.int32)
    rows, columns = _HEIGHT // _SIDE, _WIDTH // _SIDE
    sums = moved.reshape(columns, _SIDE, rows, _SIDE).sum((1, 3)).T.astype(np.float32)
    return np.asarray(sums / max(sums.max(), np.float32(1)))


# -- simulated files -----------------------------------------------------------------------------

_FEWEST = 4  # frames
_AWAY = np.array([[0], [0], [2.5]])  # metres from the camera


def write_simulated(folder: Path, seed: int) -> None:
    """Write 216 sequences, one of each subject and action: joints that swing, and a hand in depth.

    Skeleton, sensor and hand show the same motion, each with noise of its own.
    """
    action, subject = (part.ravel() for part in np.mgrid[1 : len(_ACTIONS) + 1, 1:9])
    hidden = latent(action - 1, 10, 0.4, seed)
    joints = 0.2 * shown(hidden, (_JOINTS * 3, 3), 0.8, seed + 1)
    inertial = shown(hidden, (6, 4), 0.5, seed + 2)
    hand = shown(hidden, (2, 3), 0.2, seed + 3)
    random = np.random.default_rng(seed + 4)
    for kind in _FOLDERS:
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for row in range(len(action)):
        frames = int(random.integers(_FEWEST, _FEWEST + 2))
        pose = _AWAY + (joints[row] @ waves(3, frames)).reshape(_JOINTS, 3, frames)
        felt = (inertial[row] @ waves(4, 40 + 15 * frames)).T
        depth = _silhouette(hand[row] @ waves(3, frames), random)
        stem = f"a{action[row]}_s{subject[row]}_t1"
        _write(folder, "Skeleton", stem, "d_skel", pose)
        _write(folder, "Inertial", stem, "d_iner", felt + 0.3 * random.normal(size=felt.shape))
        _write(folder, "Depth", stem, "d_depth", depth)


def _write(folder: Path, kind: str, stem: str, variable: str, values: NDArray[Any]) -> None:
    from scipy.io import savemat

    path = folder / kind / f"{stem}_{kind.lower()}.mat"
    savemat(path, {variable: values}, do_compression=kind == "Depth")


def _silhouette(hand: Floats, random: np.random.Generator) -> NDArray[np.uint16]:
    """Return depth (240, 320, F) of a still body, and of a hand (2, F) that moves before it."""
    y, x = np.ogrid[:_HEIGHT, :_WIDTH]
    depth = np.zeros((_HEIGHT, _WIDTH, hand.shape[1]), np.uint16)
    body = ((x - 160) / 30) ** 2 + ((y - 140) / 80) ** 2 < 1
    depth[body] = 2500 + random.integers(-100, 100)
    across, down = (np.array([[160], [110]]) + [[120], [80]] * np.tanh(0.6 * hand)).round()
    for frame, (column, row) in enumerate(zip(across, down, strict=True)):
        depth[(x - column) ** 2 + (y - row) ** 2 < 18**2, frame] = 2200
    return depth


UTD_MHAD = published_set(
    name="utd_mhad",
    title="27 actions, seen and felt",
    modalities=_MODALITIES,
    class_names=_ACTIONS,
    samples=861,
    licence="research; cite Chen et al. 2015 (University of Texas at Dallas)",
    how_to_get="Skeleton, Inertial and Depth from personal.utdallas.edu/~kehtar/UTD-MHAD.html",
    read=read,
    write=write_simulated,
    page_urls=("https://personal.utdallas.edu/~kehtar/UTD-MHAD.html",),
    images=("depth_motion",),
)
