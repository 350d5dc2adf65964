"""Houston: hyperspectral and lidar pixels of one scene, fifteen kinds of land (IEEE DFC 2013).

Published layout: folder ``HSI_LiDAR_FC`` of the code of Hong et al., More Diverse Means Better,
IEEE TGRS 2021, with ``HSI_TrSet.mat`` (144 bands), ``LiDAR_TrSet.mat`` (21 values of a
morphological profile) and ``TrLabel.mat`` (1 to 15); each holds one variable called as the file.
Names and shapes are those of that code; no original file was at hand.

Only the 2,832 training pixels are read, and 30 % of each class are drawn for testing, always the
same: **neighbouring pixels are on both sides of this split, so that scores are too good**. The
published test pixels are not used, as public copies lack them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ntdh_bench.errors import FileError

from .arrays import PairedArrays
from .layouts import (
    classes_of,
    drawn_split,
    inner,
    latent,
    read_matrix,
    read_variable,
    shown,
    waves,
)
from .published import published_set

_FOLDER = "HSI_LiDAR_FC"
_HSI, _LIDAR, _LABEL = "HSI_TrSet", "LiDAR_TrSet", "TrLabel"
_BANDS, _HEIGHTS = 144, 21
_REMEDY = f"expected {_HSI}.mat, {_LIDAR}.mat and {_LABEL}.mat of {_FOLDER}"
_CLASSES = (
    "healthy grass", "stressed grass", "synthetic grass", "trees", "soil", "water", "residential",
    "commercial", "road", "highway", "railway", "parking lot 1", "parking lot 2", "tennis court",
    "running track",
)  # fmt: skip


def read(folder: Path) -> PairedArrays:
    """Read the training pixels, in the published order.

    Raises:
        FileError: a file is missing or damaged, or the rows of two do not go together.
    """
    folder = inner(folder, _FOLDER)
    sides = {_HSI: _BANDS, _LIDAR: _HEIGHTS}
    hsi, lidar = (
        read_matrix(folder / f"{name}.mat", name, side, _REMEDY) for name, side in sides.items()
    )
    labels = read_variable(folder / f"{_LABEL}.mat", _LABEL, _REMEDY).ravel()  # a row or a column
    if not len(hsi) == len(lidar) == len(labels):
        raise FileError(
            f"{folder}: {len(hsi)} rows in {_HSI}.mat, {len(lidar)} in {_LIDAR}.mat, "
            f"{len(labels)} in {_LABEL}.mat: they are not of one set; {_REMEDY}"
        )
    target = classes_of(folder / f"{_LABEL}.mat", labels, len(_CLASSES), _REMEDY)
    arrays = {"hsi": hsi.astype(np.float32), "lidar": lidar.astype(np.float32)}
    return PairedArrays(arrays, target, drawn_split(target))


def write_simulated(folder: Path, seed: int) -> None:
    """Write 900 pixels, 60 of each class: smooth spectra, and heights in steps of 1/255."""
    from scipy.io import savemat

    target = np.repeat(np.arange(len(_CLASSES)), 60)
    hidden = latent(target, 10, 0.5, seed)
    hsi = 0.1 * np.exp(0.5 * shown(hidden, (8,), 0.5, seed + 1) @ waves(8, _BANDS))
    heights = 0.3 + 0.1 * shown(hidden, (5,), 0.7, seed + 2) @ waves(5, _HEIGHTS)
    values = {
        _HSI: hsi.clip(0, 1),
        _LIDAR: np.round(255 * heights.clip(0, 1)) / 255,
        _LABEL: target[:, None] + 1.0,
    }
    (folder / _FOLDER).mkdir(parents=True, exist_ok=True)
    for name, array in values.items():
        savemat(folder / _FOLDER / f"{name}.mat", {name: array})


HOUSTON = published_set(
    name="houston_hsi_lidar",
    title="land cover in pixels of one scene",
    modalities=("hsi", "lidar"),
    class_names=_CLASSES,
    samples=2832,
    licence="terms of the IEEE GRSS Data Fusion Contest 2013",
    how_to_get="HSI_LiDAR_FC of github danfenghong/IEEE_TGRS_MDL-RS",
    read=read,
    write=write_simulated,
    page_urls=("https://github.com/danfenghong/IEEE_TGRS_MDL-RS",),
)
