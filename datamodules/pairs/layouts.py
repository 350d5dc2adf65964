"""What the readers of published layouts share, and what makes their simulated files learnable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.datasets import is_simulated
from ntdh_bench.errors import FileError, UserError
from ntdh_bench.files.mat5 import read_mat5
from ntdh_bench.progress import progress_bar

from .arrays import TEST, TRAIN, PairedArrays

Floats = NDArray[np.float64]
Item = TypeVar("Item")

_MAX_MAT_BYTES = 1 << 24
_LARGEST = 1e30


def inner(folder: Path, name: str) -> Path:
    """Return the folder ``name`` in ``folder``, or ``folder`` itself if it has none so called.

    Raises:
        UserError: it holds simulated files, and ``folder`` is not said to.
    """
    if not (folder / name).is_dir():
        return folder
    refuse_mixed(folder, folder / name)
    return folder / name


def refuse_mixed(folder: Path, path: Path) -> None:
    """Raise a UserError if ``path`` below ``folder`` is simulated, and ``folder`` itself is not."""
    if is_simulated(path, folder) and not is_simulated(folder, folder):
        raise UserError(f"{path} holds simulated data: take the published files from elsewhere")


def read_variable(path: Path, name: str, remedy: str) -> Floats:
    """Return a variable of a MATLAB 5 file in its shape, float64.

    Raises:
        FileError: the file is missing or damaged, or has no such variable of numbers.
    """
    values = read_mat5(path, name, _MAX_MAT_BYTES, remedy)
    if values is None:
        raise FileError(f"{path}: no variable {name}; {remedy}")
    return values


def read_matrix(path: Path, name: str, columns: int, remedy: str) -> Floats:
    """Return a variable ``(N, columns)`` of a MATLAB 5 file, N > 0, float64.

    Raises:
        FileError: the file is missing or damaged, or has no such variable of this shape.
    """
    values = read_variable(path, name, remedy)
    if values.ndim != 2 or values.shape[1] != columns or not len(values):
        raise FileError(f"{path}: {name} is {values.shape}, expected (N, {columns}); {remedy}")
    return measured(path, values, remedy)


def measured(path: Path, values: NDArray[Any], remedy: str) -> Floats:
    """Return numbers as float64, of which float32 can hold all.

    Raises:
        FileError: some are not finite, or beyond 1e30.
    """
    numbers = values.astype(np.float64)
    if not (np.abs(numbers) <= _LARGEST).all():
        raise FileError(f"{path}: values that are not finite, or beyond 1e30; {remedy}")
    return numbers


def classes_of(path: Path, labels: NDArray[Any], count: int, remedy: str) -> NDArray[np.int64]:
    """Return labels that count from 0 or from 1 as classes from 0, int64 ``(N,)``.

    Raises:
        FileError: there are others, or not every class has one.
    """
    found = np.unique(labels)
    first = 0 if 0 in found else 1
    if not np.array_equal(found, first + np.arange(count)):
        raise FileError(f"{path}: the labels are not {count} classes from 0 or 1; {remedy}")
    return labels.ravel().astype(np.int64) - first


def tracked(name: str, items: Sequence[Item]) -> Iterator[Item]:
    """Yield items, with a progress bar on a terminal: some sets take minutes to read."""
    with progress_bar(f"reading {name}", len(items)) as update:
        for item in items:
            yield item
            update(advance=1)


def resampled(series: NDArray[Any], length: int) -> Floats:
    """Return a series ``(T, ...)`` at ``length`` times, the first and the last among them.

    In between, values are interpolated linearly.
    """
    times = np.linspace(0, len(series) - 1, length)
    before = np.floor(times).astype(np.int64)
    after = np.minimum(before + 1, len(series) - 1)
    weight = (times - before).reshape(-1, *[1] * (series.ndim - 1))
    return series[before] * (1 - weight) + series[after] * weight


def drawn_split(target: NDArray[np.int64], share: float = 0.3) -> NDArray[np.int8]:
    """Return a split of a set that has none: ``share`` of each class is for testing, drawn once."""
    random = np.random.default_rng(0)
    split = np.full(len(target), TRAIN, np.int8)
    for label in range(int(target.max()) + 1):
        rows = random.permutation(np.flatnonzero(target == label))
        split[rows[: round(share * len(rows))]] = TEST
    return split


def check_classes(
    path: Path, arrays: PairedArrays, class_names: tuple[str, ...], remedy: str
) -> None:
    """Check that every class is there for training and for testing, and no other.

    Raises:
        FileError: one is missing, or there are more.
    """
    for name, part in (("training", TRAIN), ("test", TEST)):
        present = set(arrays.target[arrays.split == part].tolist())
        if strange := present - set(range(len(class_names))):
            raise FileError(
                f"{path}: class {min(strange)}, expected 0 to {len(class_names) - 1}; {remedy}"
            )
        if lacking := [word for label, word in enumerate(class_names) if label not in present]:
            raise FileError(f"{path}: no {name} samples of {lacking[0]!r}; {remedy}")


# -- simulated files -----------------------------------------------------------------------------


def latent(target: NDArray[np.int64], size: int, spread: float, seed: int) -> Floats:
    """Return what both modalities of a sample show: float64 ``(N, size)`` around its class.

    The centres of the classes have deviation 1, samples deviate from them by ``spread``.
    """
    random = np.random.default_rng(seed)
    centres = random.normal(size=(int(target.max()) + 1, size))
    return centres[target] + spread * random.normal(size=(len(target), size))


def shown(hidden: Floats, shape: tuple[int, ...], noise: float, seed: int) -> Floats:
    """Return one modality of ``hidden`` (N, size): a random linear view ``(N, *shape)``, noisy.

    Values have about deviation 1, and noise of deviation ``noise`` of their own.
    """
    random = np.random.default_rng(seed)
    width = int(np.prod(shape))
    view = hidden @ random.normal(size=(hidden.shape[1], width)) / np.sqrt(hidden.shape[1])
    noisy = view + noise * random.normal(size=view.shape)
    return np.asarray(noisy.reshape(len(hidden), *shape))


def waves(count: int, length: int) -> Floats:
    """Return the first ``count`` cosines of a DCT, float64 (count, length): smooth series."""
    time = (np.arange(length) + 0.5) / length
    return np.asarray(np.cos(np.pi * np.arange(count)[:, None] * time))
