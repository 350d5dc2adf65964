"""Scenes as DDRNet's authors repackaged them: one ``.npz`` each, with a TSDF instead of a pose."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ntdh_bench.errors import UserError

from ..images import IMAGENET_MEAN, IMAGENET_STD
from .camera import IMAGE_SIZE, coarser_state, scored, tsdf_state
from .labels import SSC_NAMES
from .store import Sample
from .voxels import BLOCK, GRID, IGNORED

_TARGET = tuple(side // BLOCK for side in GRID)
# Of ImageNet, with which the colours are standardised.
_MEAN, _STD = (np.reshape(values, (3, 1, 1)) for values in (IMAGENET_MEAN, IMAGENET_STD))
_FARTHEST = 65.0  # metres that uint16 millimetres can hold


def read_packed(path: Path) -> Sample:
    """Read a scene in the layout of DDRNet's release: the kinds of :func:`.scenes.prepared_scenes`.

    Its positions were rounded, not floored as SSCNet does, and are half a voxel off; they have 0
    for "outside", which becomes -1. Visibility is by ``tsdf_lr``, else ``tsdf_hr``.

    Source: Li et al., CVPR 2019 (DDRNet), its data release.

    Raises:
        UserError: the file is missing or damaged, lacks an array, or has one of another shape or
            with values outside its range.
    """
    with _opened(path) as archive:
        colours = _read(archive, "rgb", (3, *IMAGE_SIZE))
        metres = _read(archive, "depth", IMAGE_SIZE)
        position = _read(archive, "position", IMAGE_SIZE)
        target = _read(archive, "target_lr", _TARGET)
        coarse = "tsdf_lr.npy" in archive.namelist()
        tsdf = _read(archive, "tsdf_lr", _TARGET) if coarse else _read(archive, "tsdf_hr", GRID)
    _require(path, "rgb", np.abs(colours) < 10)
    _require(path, "depth", (metres >= 0) & (metres < _FARTHEST))
    _require(path, "position", (position >= 0) & (position < math.prod(GRID)))
    _require(path, "target_lr", np.isin(target, [*range(len(SSC_NAMES)), IGNORED]))
    state = tsdf_state(tsdf)
    return {
        "rgb": np.rint(255 * (colours * _STD + _MEAN)).clip(0, 255).astype(np.uint8),
        "depth": np.rint(1000 * metres).astype(np.uint16),
        "position": np.where(position > 0, position, -1).astype(np.int32),
        "target": target.astype(np.uint8),
        **scored(state if coarse else coarser_state(state)),
    }


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a ``.npz``; what is wrong with it inside the block becomes a UserError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); get it again"
        ) from None
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]}; get the .npz of DDRNet's release") from None
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError) as error:
        raise UserError(f"{path}: no .npz of plain arrays ({error}); get it again") from None


def _read(archive: zipfile.ZipFile, key: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Read an array that has this shape, axes of length 1 aside; its header says so beforehand."""
    with archive.open(f"{key}.npy") as file:
        version = npy.read_magic(file)
        header = {(1, 0): npy.read_array_header_1_0}.get(version, npy.read_array_header_2_0)
        found, columns_first, dtype = header(file)
        if tuple(side for side in found if side != 1) != shape or dtype.kind not in "fiu":
            raise ValueError(f"{key} is {dtype} {found}, expected numbers {shape}")
        size = math.prod(shape) * dtype.itemsize
        array = np.frombuffer(file.read(size), dtype)
    return array.reshape(shape, order="F" if columns_first else "C")


def _require(path: Path, key: str, valid: NDArray[np.bool_]) -> None:
    if not valid.all():
        raise UserError(f"{path}: {key} holds values out of range; get it again")
