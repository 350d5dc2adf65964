"""``pictures.npz`` of a run folder: what it holds, written and read. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.cache import write_atomic
from ntdh_bench.errors import FileError
from ntdh_bench.files.arrays import Spec, read_npz
from ntdh_bench.files.reading import reading

FILE = "pictures.npz"
#: Samples that are kept at most, and the longest side of what is kept of one.
MAX_SAMPLES, MAX_SIDE = 16, 1024
_MAX_CLASSES, _MAX_FEATURES = 4096, 1 << 20
_MAX_BYTES = 1 << 28  # unpacked: two confusion matrices of as many classes
_REMEDY = "run it again"
NETWORKS = ("teacher", "student")
_INPUT = "input_"

Array: TypeAlias = NDArray[Any]
_SPECS = {
    "classes": Spec("U", (-1,)),
    "ncjsd": Spec("f", (-1,), 8),
    "dropped": Spec("i", (-1,), 8),
    "target": Spec("i", None, 2),
    "dropped_map": Spec("b", (-1, -1, -1)),
    "kept": Spec("b", (-1,)),
    "divergence": Spec("f", (-1,), 8),
    **{f"{name}_confusion": Spec("i", (-1, -1), 8) for name in NETWORKS},
    **{f"{name}_prediction": Spec("i", None, 2) for name in NETWORKS},
    **{f"{name}_confidence": Spec("f", (-1,), 4) for name in NETWORKS},
}


@dataclass
class Pictures:
    """What a run showed on test data, of its last epoch; C classes, N samples.

    Attributes:
        classes: their names, C.
        confusion: of ``teacher`` and ``student``, int64 ``(C, C)``: a row a true class, a column a
            predicted one.
        ncjsd: mean over the rows of each class in nats, ``(C,)``, 0 where there is none; None
            without a teacher.
        dropped: rows of each class that the sample mask leaves out, ``(C,)``; None without one.
        target: int16 ``(N,)``, or ``(N, H, W)`` of dense data; -1 does not count.
        prediction: of ``teacher`` and ``student``, like the target.
        confidence: the probabilities of these predictions, ``(N,)``; not of dense data.
        dropped_map: pixels that the sample mask leaves out, bool ``(N, H, W)``.
        inputs: what the networks saw by modality and name (``teacher``, ``student.image``): uint8
            ``(N, H, W)`` or ``(N, H, W, 3)`` are images, float32 ``(N, K, L)`` are K lines.
        kept: features of the teacher that the feature mask keeps, bool ``(D,)``.
        divergence: what it ranked them by, ``(D,)``; None of a random mask.
    """

    classes: tuple[str, ...] = ()
    confusion: dict[str, Array] = field(default_factory=dict)
    ncjsd: Array | None = None
    dropped: Array | None = None
    target: Array | None = None
    prediction: dict[str, Array] = field(default_factory=dict)
    confidence: dict[str, Array] = field(default_factory=dict)
    dropped_map: Array | None = None
    inputs: dict[str, Array] = field(default_factory=dict)
    kept: Array | None = None
    divergence: Array | None = None

    def samples(self) -> int:
        """Return N."""
        return 0 if self.target is None else len(self.target)


_SINGLE = ("ncjsd", "dropped", "target", "dropped_map", "kept", "divergence")
_BY_NETWORK = ("confusion", "prediction", "confidence")


def write_pictures(folder: Path, pictures: Pictures) -> None:
    """Write ``pictures.npz`` whole or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    arrays = {name: getattr(pictures, name) for name in _SINGLE}
    for kind in _BY_NETWORK:
        arrays |= {f"{name}_{kind}": value for name, value in getattr(pictures, kind).items()}
    arrays |= {f"{_INPUT}{name}": value for name, value in pictures.inputs.items()}
    given = {name: value for name, value in arrays.items() if value is not None}
    with write_atomic(folder / FILE) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, classes=np.array(pictures.classes, dtype="U"), **given)


def read_pictures(folder: Path) -> Pictures:
    """Return what :func:`write_pictures` wrote.

    Raises:
        FileError: it is missing, damaged or too large, or its arrays do not go together.
    """
    path = folder / FILE
    # Any array may be an input, whose name is the data module's own.
    arrays = read_npz(path, _SPECS, default=Spec("uf"), max_bytes=_MAX_BYTES, remedy=_REMEDY)
    with reading(path, "text in Unicode", _REMEDY):
        classes = tuple(str(name)[:100] for name in arrays.pop("classes", ()))
    if any(0 in values.shape or not values.ndim for values in arrays.values()):
        raise FileError(f"{path}: an array holds nothing, or a single number; {_REMEDY}")
    fields: dict[str, Any] = {name: arrays[name] for name in _SINGLE if name in arrays}
    for kind in _BY_NETWORK:
        fields[kind] = {n: arrays[f"{n}_{kind}"] for n in NETWORKS if f"{n}_{kind}" in arrays}
    fields["inputs"] = {
        name.removeprefix(_INPUT)[:100]: values
        for name, values in arrays.items()
        if name.startswith(_INPUT)
    }
    found = Pictures(classes, **fields)
    wrong = _mismatch(found)
    if wrong is not None:
        raise FileError(f"{path}: {wrong}; {_REMEDY}")
    return found


def _mismatch(found: Pictures) -> str | None:
    """Return what of arrays does not go together, in words."""
    count, samples = len(found.classes), found.samples()
    if found.dropped is not None and "student" not in found.confusion:
        return "rows are dropped of no student"
    if count > _MAX_CLASSES or samples > MAX_SAMPLES:
        return f"{count} classes and {samples} samples, too many"
    for name, values in _by_class(found).items():
        if any(side != count for side in values.shape) or (values < 0).any():
            return f"{name} is not of {count} classes"
    for name, values in _by_sample(found).items():
        if len(values) != samples or max(values.shape) > MAX_SIDE:
            return f"{name} is not of {samples} samples of at most {MAX_SIDE} values a side"
    target = found.target
    labels = [target, *found.prediction.values()] if target is not None else []
    if found.dropped_map is not None and (
        target is None or found.dropped_map.shape != target.shape
    ):
        return "the map of what is dropped is not of the target's shape"
    for values in labels:
        if values.shape != labels[0].shape or values.ndim not in (1, 3):
            return "targets and predictions differ in shape"
        if values.size and not -1 <= int(values.min()) <= int(values.max()) < count:
            return f"a label is not in [-1, {count})"
    for name, values in found.inputs.items():
        if not _is_view(values):
            return f"the input {name} is neither an image nor lines"
    sizes = {len(values) for values in (found.kept, found.divergence) if values is not None}
    if len(sizes) > 1 or max(sizes, default=0) > _MAX_FEATURES:
        return "the mask and its divergence are not of the same features"
    return None


def _by_class(found: Pictures) -> Mapping[str, Array]:
    named = {f"the confusion matrix of the {n}": values for n, values in found.confusion.items()}
    own = {"ncjsd": found.ncjsd, "dropped": found.dropped}
    return {**named, **{name: values for name, values in own.items() if values is not None}}


def _by_sample(found: Pictures) -> Mapping[str, Array]:
    named = {f"the input {name}": values for name, values in found.inputs.items()}
    for kind in ("prediction", "confidence"):
        named |= {f"{kind} of the {n}": values for n, values in getattr(found, kind).items()}
    own = {"target": found.target, "dropped_map": found.dropped_map}
    return {**named, **{name: values for name, values in own.items() if values is not None}}


def _is_view(values: Array) -> bool:
    if values.dtype == np.uint8:
        return values.ndim == 3 or (values.ndim == 4 and values.shape[3] == 3)
    return values.dtype == np.float32 and values.ndim == 3
