"""The columns of a row: their types and ranges, and what a value of one may be."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

from ntdh_bench.errors import FileError
from ntdh_bench.experiments import MAX_SEED, is_label

Row: TypeAlias = dict[str, Any]
Item = TypeVar("Item")
Key = TypeVar("Key")

CHECKPOINTS = ("last", "best")
SPLITS = ("val", "test")
#: The arms of a student that is trained with the cross entropy alone, of weight 1, another one
#: below it, or a larger one.
CONTROLS = ("without_kd", "equal_task", "matched")
_LATER_METRICS = (
    "tcjsd_binary", "tckl_size", "mi_teacher_student", "mi_student_label", "mi_teacher_label",
    "cka_logits", "cka",
)  # fmt: skip
#: The metrics of this package's modules that every row has room for; others follow them.
METRICS = (
    "accuracy", "teacher_accuracy", "miou", "teacher_miou", "tcjsd", "ncjsd", "kl", "tckl",
    "tckl_binary", "nckl", *_LATER_METRICS,
)  # fmt: skip

#: The columns of a CSV of records before the metrics, and their types; an empty cell is None.
HEAD: dict[str, type] = {
    "experiment": str, "protocol": str, "cell": dict, "run": str, "config_hash": str,
    "baseline_hash": str, "objective_hash": str, "pair_hash": str, "mask_hash": str,
    "created": str, "dataset": str, "source": str, "data_fingerprint": str, "arm": str,
    "method": str, "teacher": str, "teacher_inputs": str, "teacher_epochs": int,
    "teacher_dist": str, "teacher_dist_weight": float,
    "unimodal": bool, "modality": str,
    "mask": str, "removes": str, "ratio": float, "layer": str, "retrain": bool, "fill": str,
    "draw": int, "saliency": str, "intervention": str, "dose": float, "gap": float,
    "classes": int,
    "teacher_noise": float, "student_noise": float, "alpha": float, "beta": float,
    "task_weight": float, "distill_weight": float, "seed": int, "epochs": int,
    "teacher_parameters": int, "student_parameters": int, "teacher_hash": str, "measure": str,
}  # fmt: skip
#: Those after the metrics.
TAIL: dict[str, type] = {
    "late_gain": float, "seconds": float, "stack": int, "device": str, "threads": int,
    "git_commit": str, "ntdh_bench": str, "python": str, "torch": str, "lightning": str,
    "torchmetrics": str, "numpy": str, "scikit_learn": str,
}  # fmt: skip
_STARTS = [f"{when}_{split}_" for when in CHECKPOINTS for split in SPLITS]
_KNOWN = [start + name for start in _STARTS for name in METRICS]
#: Those that came later within a schema: files of it may lack them.
LATER = (
    "stack", "teacher_inputs", "teacher_dist", "teacher_dist_weight", "intervention", "dose",
    "late_gain", "fill", "draw", "saliency",
    *(start + name for start in _STARTS for name in _LATER_METRICS),
)  # fmt: skip
#: The columns that every row has.
COLUMNS: dict[str, type] = {**HEAD, **dict.fromkeys(_KNOWN, float), **TAIL}
#: Settings that have columns of their own, in the order in which text names them.
SETTINGS = (
    "dataset", "gap", "classes", "teacher_noise", "student_noise", "modality", "unimodal",
    "teacher", "teacher_inputs", "teacher_epochs", "teacher_dist", "teacher_dist_weight",
    "teacher_parameters", "student_parameters", "arm", "method", "alpha", "beta", "task_weight",
    "distill_weight", "mask", "layer", "fill", "saliency", "ratio", "removes", "draw",
    "intervention", "dose", "epochs",
)  # fmt: skip
_REQUIRED = ("experiment", "protocol", "cell", "run", "dataset", "source", "arm", "seed")
_SOURCES = ("real", "simulated")
_MEASURED = re.compile(r"(?:last|best)_(?:val|test)_(.+)")
_MAX_FLOAT = 3.4e38  # float32's; sums and squares of such numbers are finite as well
_MAX_INT = 2**63 - 1
_MAX_TEXT = 300  # characters
_MAX_NAME = 100
_MAX_AXES = 100
_MAX_METRICS = 2000  # of a row
_ROUNDING = 1e-6  # how far a float32 may lie beyond the ends of its range
_SHARE, _COUNT = (0.0, 1.0), (0, _MAX_INT)
_POSITIVE, _ANY = (0.0, _MAX_FLOAT), (-_MAX_FLOAT, _MAX_FLOAT)
_METRIC_RANGES = {
    "accuracy": _SHARE, "teacher_accuracy": _SHARE, "miou": _SHARE, "teacher_miou": _SHARE,
    "point_miou": _SHARE, "completion_iou": _SHARE, "completion_precision": _SHARE,
    "completion_recall": _SHARE,
    "tcjsd": (0.0, math.log(2)), "tcjsd_binary": (0.0, math.log(2)),
    "ncjsd": (0.0, math.log(2)), "kl": _POSITIVE,
    "tckl": (-1 / math.e, _MAX_FLOAT),  # one term: p log(p / q)
    "tckl_binary": _POSITIVE, "tckl_size": _POSITIVE, "nckl": _POSITIVE,
    "mi_teacher_student": _POSITIVE, "mi_student_label": _POSITIVE, "mi_teacher_label": _POSITIVE,
    "cka": _SHARE, "cka_logits": _SHARE,
}  # fmt: skip
# The range of columns of numbers, ends included; of others any finite number will do.
_RANGES: dict[str, tuple[float, float]] = {
    "teacher_epochs": _COUNT, "teacher_dist_weight": _POSITIVE, "ratio": _SHARE,
    "draw": _COUNT, "dose": _POSITIVE, "gap": _SHARE,
    "classes": (2, _MAX_INT), "teacher_noise": _POSITIVE, "student_noise": _POSITIVE,
    "task_weight": _POSITIVE, "distill_weight": _POSITIVE, "seed": (0, MAX_SEED), "epochs": _COUNT,
    "teacher_parameters": _COUNT, "student_parameters": _COUNT, "seconds": (0.0, 1e10),
    "stack": (1, _MAX_INT), "threads": (1, _MAX_INT), "epoch": _COUNT, "y": _COUNT, "x": _COUNT,
}  # fmt: skip
# What reading a record raises that is not as it was written.
MALFORMED = (AttributeError, KeyError, TypeError, ValueError)


class RecordError(FileError):
    """A record or a row of records that cannot be read."""


def blank_row() -> Row:
    """Return a row of which nothing is known."""
    return {**dict.fromkeys(COLUMNS), "cell": {}}


def by_key(rows: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Return the rows of every value of ``key``, in the order in which the values occur first."""
    found: dict[Key, list[Item]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def metric_of(column: str) -> str | None:
    """Return the metric of a column such as ``last_test_kl``, None if it holds another thing."""
    found = _MEASURED.fullmatch(column)
    return found[1] if found else None


def own_metrics(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the columns of metrics in rows that are not among :data:`COLUMNS`, in order."""
    found = {name for row in rows for name in row if name not in COLUMNS and metric_of(name)}
    return [name for start in _STARTS for name in sorted(found) if name.startswith(start)]


def layout(rows: Iterable[Mapping[str, Any]]) -> dict[str, type]:
    """Return the columns of a CSV of these rows, and their types: metrics as they are found."""
    return {**HEAD, **dict.fromkeys([*_KNOWN, *own_metrics(rows)], float), **TAIL}


def as_found(columns: Iterable[str]) -> dict[str, type] | None:
    """Return the types of the columns of a CSV, None if they are not those of a row.

    What the file lacks, as it came later, is among them.
    """
    found = list(columns)
    metrics = [name for name in found if name not in COLUMNS and metric_of(name)]
    known = [*HEAD, *_KNOWN, *metrics, *TAIL]
    expected = [name for name in known if name in found or name not in LATER]
    if found != expected or len(set(metrics)) < len(metrics):
        return None
    return {name: COLUMNS.get(name, float) for name in known}


# -- values --------------------------------------------------------------------------------------


def checked_value(name: str, value: Any, kind: type) -> Any:
    """Return a value of a row; None only where a row may do without.

    Raises:
        ValueError: it is missing, of another type, not finite or out of the column's range.
    """
    value = None if value == "" else value  # the same cell of a CSV
    if value is None and name not in _REQUIRED:
        return None
    return checked(name, value, kind)


def checked(name: str, value: Any, kind: type) -> Any:
    """Return a JSON value as its column's type.

    Raises:
        ValueError: it is missing, of another type, not finite or out of the column's range.
    """
    if value is None:
        raise ValueError(f"{name} is missing")
    given = type(value)
    if given is not kind and not (kind is float and given is int):
        raise ValueError(f"{name} is not of type {kind.__name__}")
    if kind is str:
        _check_text(name, str(value))
    elif kind is dict:
        _check_cell(name, value)
    elif kind is not bool:
        check_number(name, value)
    return kind(value)


def _check_text(name: str, text: str) -> None:
    """Refuse what no column holds, such as several lines, or what a spreadsheet would compute."""
    if len(text) > _MAX_TEXT or not text.isprintable() or text.startswith(("=", "+", "-", "@")):
        raise ValueError(f"{name} is no line of text of at most {_MAX_TEXT} characters")
    if name in ("experiment", "protocol") and len(text) > _MAX_NAME:
        raise ValueError(f"{name} has more than {_MAX_NAME} characters, and names files")
    if name == "source" and text not in _SOURCES:
        raise ValueError(f"{name} is neither {' nor '.join(_SOURCES)}")


def _check_cell(name: str, labels: Mapping[Any, Any]) -> None:
    if len(labels) > _MAX_AXES or not all(map(is_label, (*labels, *labels.values()))):
        raise ValueError(f"{name} is no mapping of at most {_MAX_AXES} axes to lines of text")


def check_metrics(names: Iterable[str]) -> None:
    """Refuse metrics, of a record or of the columns of a CSV, that cannot be columns.

    Raises:
        ValueError: there are too many, or the name of one is no short line of text.
    """
    found = list(names)
    if len(found) > _MAX_METRICS:
        raise ValueError(f"{len(found)} metrics, expected at most {_MAX_METRICS}")
    for name in found:
        if len(name) > _MAX_NAME or not name.isprintable():
            raise ValueError(f"the name of a metric is no line of at most {_MAX_NAME} characters")


def check_number(name: str, value: float, metric: str | None = None) -> None:
    """Refuse a number that is not finite or out of range.

    Args:
        name: of its column, or of the metric.
        value: the number.
        metric: whose range counts, if ``name`` does not say so.

    Raises:
        ValueError: with what is wrong.
    """
    if value != value or value in (math.inf, -math.inf):  # an int may be too large for isfinite
        raise ValueError(f"{name}: {value} is not a finite number")
    low, high = _limits(name, metric or metric_of(name))
    if not low - _ROUNDING <= value <= high + _ROUNDING:
        raise ValueError(f"{name}: {cut(value, 20)} is not in [{low:.6g}, {high:.6g}]")


def _limits(name: str, metric: str | None) -> tuple[float, float]:
    if metric is None:
        return _RANGES.get(name, _ANY)
    return _SHARE if metric.startswith("iou_") else _METRIC_RANGES.get(metric, _ANY)


def parsed(name: str, text: str, kind: type) -> Any:
    """Return the value that a CSV writes as ``text``, None for an empty cell.

    Raises:
        ValueError: it is none of that type.
    """
    if kind is dict:
        return _parsed_cell(name, text)
    if not text:
        return None
    if kind is bool:
        return {"True": True, "False": False}.get(text, text)
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name} is not of type {kind.__name__}") from None


def _parsed_cell(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{name} is not JSON") from None


def told(error: BaseException) -> str:
    """Return what a malformed record raised, in words."""
    return str(error) if type(error) is ValueError else f"{type(error).__name__} {cut(error)}"


def cut(value: object, most: int = 80) -> str:
    """Return a value that a file holds as short text."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[:most]}..."
