"""Scenes to complete: found in SSCNet's or DDRNet's layout, and decoded once into the cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ntdh_bench.datasets import FileCheck, is_simulated
from ntdh_bench.errors import FileError, UserError
from ntdh_bench.files.images import opened_image
from ntdh_bench.files.listing import visible
from ntdh_bench.files.reading import AGAIN

from ..store import Arrays, Kinds, Sample, files_key
from .camera import (
    IMAGE_SIZE,
    NYU_CAMERA,
    coarser_state,
    every,
    positions,
    read_depth,
    scored,
    visibility,
)
from .layout import FOLDER, MAX_PIXELS, PART_FOLDERS, PART_SIZE, PARTS, PREPARED, SCENES, Part
from .packed import read_packed
from .voxels import BLOCK, GRID, VOXEL_SIZE, Grid, downsampled, read_voxels

HOW_TO_GET_SCENES = (
    "fetch depthbin_eval.zip (sscnet.cs.princeton.edu/sscnet_release/data) for NYUtrain, NYUtest "
    "and put the colours there as NYUNNNN_0000_rgb.png, or fetch NYUtrain_npz, NYUtest_npz "
    "(github.com/waterljwant/SSC)"
)

_VERSION = 2  # of the arrays in the cache: a change of their content needs another
#: Of how many rows, columns and voxels one is left at each scale: voxels stay whole.
STRIDE = {1.0: 1, 0.5: 2, 0.25: 4}
_SCENE_FILE = re.compile(r"(NYU\d{4}_\d{4})\.(bin|png)")


class TooSmallError(FileError):
    """Colours that are sound, of the right shape, and of fewer pixels than are asked for."""


class Scene(NamedTuple):
    """The files of one scene.

    Attributes:
        name: such as NYU0001_0000.
        files: the ``.npz`` of DDRNet; else SSCNet's depth image with rotated bits, volume of
            labels and, if they are wanted, colours.
    """

    name: str
    files: list[Path]

    def read(self, stride: int) -> Sample:
        """Return its arrays, of the kinds of :func:`prepared_scenes`.

        Args:
            stride: of how many rows, columns and voxels one is left: 1, 2 or 4.

        Raises:
            UserError: a file is broken, or of another size than published, or there are no coarser
                targets.
        """
        if self.files[0].suffix != ".npz":
            return _read_voxel_scene(stride, *self.files)
        if stride != 1:
            raise UserError(
                f"{self.files[0]}: has no coarser targets; choose data.scale 1, or get SSCNet's "
                "files"
            )
        return read_packed(self.files[0])


def _read_voxel_scene(
    stride: int, depth_file: Path, voxels: Path, rgb: Path | None = None
) -> Sample:
    volume = read_voxels(voxels)
    depth = every(read_depth(depth_file), stride)
    pose, origin, camera = volume.pose, volume.origin, NYU_CAMERA.every(stride)
    view = (depth / 1000, pose, origin, camera, _coarser(stride), stride * VOXEL_SIZE)
    position = positions(*view)
    if depth.any() and (position < 0).all():
        raise UserError(
            f"{voxels}: no pixel of {depth_file.name} falls into its volume, so its pose or origin "
            "is wrong; get it again"
        )
    arrays: dict[str, NDArray[Any]] = {
        "depth": depth,
        "position": position,
        "target": downsampled(volume.classes(), stride * BLOCK),
        **scored(coarser_state(visibility(*view))),
    }
    if rgb is not None:
        height, width = depth.shape
        arrays["rgb"] = read_rgb(rgb, (height, width))
    return arrays


def part_folder(folder: Path, part: Part) -> Path:
    """Return the folder of a part of the official split in ``folder``, the data root's ``nyu_ssc``.

    Raises:
        UserError: it is not there.
    """
    names = PART_FOLDERS[part]
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise UserError(
        f"scenes of NYU Depth V2 are missing: no {folder}/{{{','.join(names)}}}; "
        f"{HOW_TO_GET_SCENES}, or use `--data.source simulated`"
    )


def find_scenes(folder: Path, *, rgb: bool = True) -> list[Scene]:
    """Return the scenes of a part's folder in order of name.

    ``.npz`` are DDRNet's. Else a scene is NYUNNNN_0000.bin, the depth NYUNNNN_0000.png and the
    colours: NYUNNNN_rgb, NYUNNNN_0000_rgb or NYUNNNN_0000_color, ``.png`` or ``.jpg``, or
    NYUNNNN_0000.jpg. Where there are none, those of the labelled pairs are taken, whose numbers are
    the same: NNNN in ``nyuv2/prepared/rgb`` of the same data root.

    Args:
        folder: see :func:`part_folder`.
        rgb: whether the colours are wanted.

    Raises:
        UserError: there are no scenes, or one lacks a file.
    """
    there = visible(folder)
    packed = [path for path in there if path.suffix == ".npz"]
    if packed:
        return [Scene(path.stem, [path]) for path in packed]
    files = {path.name for path in there}
    names = sorted({match[1] for match in map(_SCENE_FILE.fullmatch, files) if match})
    if not names:
        raise UserError(f"{folder}: neither NYUNNNN_0000.bin nor .npz; {HOW_TO_GET_SCENES}")
    for ending, partner in ((".png", ".bin"), (".bin", ".png")):
        lacking = [name for name in names if name + ending not in files]
        if lacking:
            raise UserError(
                f"{folder / (lacking[0] + ending)} is missing ({len(lacking)} of {len(names)} in "
                f"all), though its {partner} is there: get it, or remove the scene"
            )
    return [
        Scene(
            name,
            [folder / f"{name}.png", folder / f"{name}.bin"]
            + ([_colours(folder, name, files)] if rgb else []),
        )
        for name in names
    ]


def _colours(folder: Path, name: str, files: set[str]) -> Path:
    stems = (f"{name[:7]}_rgb", f"{name}_rgb", f"{name}_color")
    beside = [stem + ending for stem in stems for ending in (".png", ".jpg")] + [f"{name}.jpg"]
    found = next((folder / file for file in beside if file in files), None)
    if found is not None:
        return found
    pairs = folder.parents[1] / FOLDER / PREPARED / "rgb"
    for path in (pairs / f"{name[3:7]}.png", pairs / f"{name[3:7]}.jpg"):
        if path.is_file():
            return path
    raise UserError(
        f"{folder / f'{name}_rgb.png'} is missing, and so is {pairs / f'{name[3:7]}.png'}: the "
        "teacher needs the colours; put them there"
    )


def read_rgb(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read a colour image, shrunk by averaging: uint8 (3, *size).

    Raises:
        TooSmallError: it has fewer pixels than ``size``.
        FileError: the file is damaged, or of another shape.
    """
    height, width = size
    with opened_image(path, MAX_PIXELS) as image:
        expected = f"expected {width}x{height} or more of that shape"
        found = f"{path}: {image.width}x{image.height}, {expected}"
        if image.width * height != image.height * width:
            raise FileError(f"{found}; {AGAIN}")
        if image.height < height:
            raise TooSmallError(f"{found}; {_larger(path)}")
        shrunk = image.convert("RGB").resize((width, height), Image.Resampling.BOX)
    return np.asarray(shrunk).transpose(2, 0, 1)


def _larger(path: Path) -> str:
    """Say how to get larger colours: labelled pairs are prepared at half their size."""
    folder = path.parents[1]
    if folder.name != PREPARED:
        return f"{AGAIN}, or choose a smaller data.scale"
    return (
        f"delete {folder} and run `ntdh-bench data prepare nyuv2 --full_size`, or choose a smaller "
        "data.scale"
    )


def prepared_scenes(
    folder: Path, cache_dir: Path, part: Part, *, scale: float = 1.0, rgb: bool = True
) -> Arrays:
    """Return the scenes of one part of the official split from the cache, made the first time.

    Kinds, for images of height H and width W and targets of X x Y x Z voxels (480 x 640 and 60 x 36
    x 60 at scale 1; along world x, height and world y):

    - ``rgb``: uint8 (3, H, W).
    - ``depth``: uint16 (H, W), millimetres, 0 where none is known.
    - ``position``: int32 (H, W), flat position of the voxel that a pixel's point falls into, of
      4X x 4Y x 4Z voxels in C order; -1 for none.
    - ``target``: uint8 (X, Y, Z), 0 empty, 1..11, 255 outside the view or the room.
    - ``occluded``, ``evaluated``: bool (X, Y, Z), where results count: see :func:`.camera.scored`.
      Training uses every voxel with a target.

    Args:
        folder: ``nyu_ssc`` of the data root.
        cache_dir: the cache is ``nyuv2`` below it.
        part: ``"train"`` or ``"test"``.
        scale: 1, 0.5 or 0.25, of the images and of the number of voxels along an axis: depth and
            position are those of every second or fourth pixel, colours averaged, and a target is
            the class of a block of as much larger side.
        rgb: whether ``rgb`` is among the kinds; without, colour images need not be there.

    Raises:
        UserError: files are missing or broken, ``scale`` is another, or the cache cannot be
            written.
    """
    if scale not in STRIDE:
        raise UserError(f"data.scale is {scale}: scenes have 1, 0.5 and 0.25")
    stride = STRIDE[scale]
    found = _unshared_scenes(folder, part, rgb)
    files = [path for scene in found for path in scene.files]
    key = files_key(folder.parent, files, scale=scale, rgb=rgb, version=_VERSION)
    return Arrays.stored(
        cache_dir / FOLDER / f"scenes-{part}-{key}",
        [scene.name for scene in found],
        _kinds(stride, rgb),
        lambda start: ((scene.read(stride), None) for scene in found[start:]),
        f"reading scenes of NYU Depth V2 ({part})",
    )


def _kinds(stride: int, rgb: bool) -> Kinds:
    size = (IMAGE_SIZE[0] // stride, IMAGE_SIZE[1] // stride)
    target = _coarser(stride * BLOCK)
    return {
        "depth": ("u2", size),
        "position": ("i4", size),
        "target": ("u1", target),
        "occluded": ("?", target),
        "evaluated": ("?", target),
        **({"rgb": ("u1", (3, *size))} if rgb else {}),
    }


def _unshared_scenes(folder: Path, part: Part, rgb: bool = True) -> list[Scene]:
    """Return the scenes of a part; raise a UserError if one is in the other part, too."""
    here = part_folder(folder, part)
    found = find_scenes(here, rgb=rgb)
    other: Part = "test" if part == "train" else "train"
    places = [folder / name for name in PART_FOLDERS[other]]
    there = next(filter(Path.is_dir, places), places[0])
    shared = {scene.name for scene in found} & {path.stem for path in visible(there)}
    if shared:
        raise UserError(
            f"{min(shared)} lies in {here} and in {there} ({len(shared)} scenes do): keep each in "
            "one of them, or test data are trained on"
        )
    return found


def check_scenes(root: Path) -> list[FileCheck]:
    """Decode every scene below the data root: one line for each part of the official split."""
    return [_check_part(root, part) for part in PARTS]


def _check_part(root: Path, part: Part) -> FileCheck:
    try:
        folder = part_folder(root / SCENES, part)
    except UserError:
        return FileCheck(root / SCENES / PART_FOLDERS[part][0], "missing", HOW_TO_GET_SCENES)
    try:
        found = _unshared_scenes(root / SCENES, part)
        for scene in found:
            scene.read(1)
    except TooSmallError as error:
        return FileCheck.failed(folder, "incomplete", error)
    except UserError as error:
        return FileCheck(folder, "corrupt", str(error))
    note = f"{len(found)} scenes, all decoded"
    if len(found) != PART_SIZE[part] and not is_simulated(folder, root):
        return FileCheck(folder, "incomplete", f"{note}; published: {PART_SIZE[part]}")
    return FileCheck(folder, "ok", note)


def _coarser(factor: int) -> Grid:
    x, height, y = GRID
    return x // factor, height // factor, y // factor
