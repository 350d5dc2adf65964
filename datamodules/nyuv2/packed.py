"""Scenes as DDRNet's authors repackaged them: one ``.npz`` each, with a TSDF instead of a pose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.errors import FileError
from ntdh_bench.files.arrays import Spec, read_npz
from ntdh_bench.imagenet import IMAGENET_MEAN, IMAGENET_STD

from ..store import Sample
from .camera import IMAGE_SIZE, coarser_state, scored, tsdf_state
from .labels import SSC_NAMES
from .voxels import BLOCK, GRID, IGNORED

# Of ImageNet, with which the colours are standardised.
_MEAN, _STD = (np.reshape(values, (3, 1, 1)) for values in (IMAGENET_MEAN, IMAGENET_STD))
_FARTHEST = 65.0  # metres that uint16 millimetres can hold

_TARGET = tuple(side // BLOCK for side in GRID)
_SHAPES = {
    "rgb": (3, *IMAGE_SIZE),
    "depth": IMAGE_SIZE,
    "position": IMAGE_SIZE,
    "target_lr": _TARGET,
}
_COARSE, _FINE = {"tsdf_lr": _TARGET}, {"tsdf_hr": GRID}


def read_packed(path: Path) -> Sample:
    """Read a scene in the layout of DDRNet's release: the kinds of :func:`.scenes.prepared_scenes`.

    Its positions were rounded, not floored as SSCNet does, and are half a voxel off; they have 0
    for "outside", which becomes -1. Visibility is by ``tsdf_lr``, else ``tsdf_hr``.

    Source: Li et al., CVPR 2019 (DDRNet), its data release.

    Raises:
        FileError: the file is missing or damaged, lacks an array, or has one of another shape or
            with values outside its range.
    """
    arrays = _read(path, _SHAPES | _COARSE)
    coarse = "tsdf_lr" in arrays
    if not coarse:
        arrays |= _read(path, _FINE)
    for key in (*_SHAPES, *(_COARSE if coarse else _FINE)):
        if key not in arrays:
            raise FileError(f"{path}: no array {key}; get the .npz of DDRNet's release")
    colours, metres, position, target = (arrays[key] for key in _SHAPES)
    _require(path, "rgb", np.abs(colours) < 10)
    _require(path, "depth", (metres >= 0) & (metres < _FARTHEST))
    _require(path, "position", (position >= 0) & (position < math.prod(GRID)))
    _require(path, "position", position == np.floor(position))
    _require(path, "target_lr", np.isin(target, [*range(len(SSC_NAMES)), IGNORED]))
    state = tsdf_state(arrays["tsdf_lr" if coarse else "tsdf_hr"])
    return {
        "rgb": np.rint(255 * (colours * _STD + _MEAN)).clip(0, 255).astype(np.uint8),
        "depth": np.rint(1000 * metres).astype(np.uint16),
        "position": np.where(position > 0, position, -1).astype(np.int32),
        "target": target.astype(np.uint8),
        **scored(state if coarse else coarser_state(state)),
    }


def _read(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """Return those of the arrays that are there, in these shapes: without axes of length 1."""
    specs = {key: Spec("fiu", shape, squeezed=True) for key, shape in shapes.items()}
    return {key: array.reshape(shapes[key]) for key, array in read_npz(path, specs).items()}


def _require(path: Path, key: str, valid: NDArray[np.bool_]) -> None:
    if not valid.all():
        raise FileError(f"{path}: {key} holds values out of range; get it again")
