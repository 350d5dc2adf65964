"""Rows: what a record says, column by column, and the CSV that holds those of an experiment."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ntdh_bench.records import details, older
from ntdh_bench.records.columns import (
    CHECKPOINTS,
    COLUMNS,
    MALFORMED,
    SPLITS,
    RecordError,
    Row,
    as_found,
    by_key,
    check_metrics,
    checked_value,
    cut,
    layout,
    metric_of,
    parsed,
    told,
)
from ntdh_bench.records.csvs import Collected, Line, read_csv, write_csv
from ntdh_bench.records.identity import Place, task_weight, threads

_MASKS = {"FeatureMask": "feature", "SampleMask": "sample"}
# Arguments of a module that are columns.
_OF_MODEL = (
    "teacher", "teacher_inputs", "teacher_epochs", "teacher_dist", "teacher_dist_weight",
    "modality",
)  # fmt: skip
# Columns in which any two runs differ.
_OF_THE_RUN = (
    "run", "config_hash", "created", "late_gain", "seconds", "stack", "teacher_hash",
)  # fmt: skip


def to_row(record: Mapping[str, Any], place: Place) -> Row:
    """Return a record as a row: :data:`COLUMNS`, and every other metric that was measured.

    Raises:
        RecordError: something that every record holds is missing, of a wrong type or out of range.
    """
    try:
        measured = _measured(record["metrics"])
        values = {**record, **_settings(record["config"]), **measured, **place._asdict()}
        values |= {"method": record.get("method") or values["method"], "cell": dict(place.cell)}
        named = record.get("measure") if measured else None  # Algorithm 1 alone measures nothing
        values["measure"] = named or older.measure(measured)
        curves = record.get("curves") or {}
        values["late_gain"] = details.late_gain(curves.get(values["measure"]) or [])
        parameters, environment = record["parameters"], record["environment"]
        values |= {f"{name}_parameters": count for name, count in parameters.items()}
        values |= {name.replace("-", "_"): v for name, v in environment["versions"].items()}
        values |= {name: environment[name] for name in ("device", "git_commit")}
        values["threads"] = threads(record)
        columns = layout([measured]).items()
        return {name: checked_value(name, values.get(name), kind) for name, kind in columns}
    except MALFORMED as error:
        raise RecordError(
            f"the record of run {cut(record.get('run'))} is not as it was written: {told(error)}"
        ) from None


def _settings(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that come from a run's settings; a plug-in may have none of them."""
    mask = identity["mask"] or {}
    model, data, removal = map(_init_args, (identity["model"], identity["data"], mask))
    distiller, lam = model.get("distiller") or {}, model.get("lam")
    intervention = model.get("intervention") or {}
    removing = _short(mask.get("class_path"))
    return {
        "method": _short(distiller.get("class_path")),
        **{name: model.get(name) for name in _OF_MODEL},
        "unimodal": data.get("unimodal", False),
        "mask": removing and _mask_name(removing, removal.get("score")),
        **{name: removal.get(name) for name in ("removes", "ratio", "layer")},
        **_filling(removal),
        "intervention": _short(intervention.get("class_path")),
        "dose": _dose(_init_args(intervention)),
        "gap": data.get("gap"),
        "classes": data.get("classes", data.get("n_classes")),
        **{name: data.get(name) for name in ("teacher_noise", "student_noise")},
        **{name: _init_args(distiller).get(name) for name in ("alpha", "beta")},
        "task_weight": task_weight(model),
        "distill_weight": model.get("distill_weight") if lam is None else lam,
    }


def _dose(arguments: Mapping[str, Any]) -> Any:
    """Return how strong an intervention is, if it has one number that says so."""
    numbers = [value for value in arguments.values() if isinstance(value, int | float)]
    return numbers[0] if len(numbers) == 1 else None


def _filling(removal: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a feature mask fills and chooses; nothing of another one."""
    fill = removal.get("fill")
    if fill is None and removal.get("retrain") is None:
        return {}
    fill = fill or ("retrain" if removal["retrain"] else "zero")  # see run_hash.without_later
    retrain, draw = fill == "retrain", removal.get("draw", 0)
    reading = removal.get("saliency", "signed")
    return {"retrain": retrain, "fill": fill, "draw": draw, "saliency": reading}


def _mask_name(kind: str, score: str | None) -> str:
    """Return what a mask is called, with its score where it is not the paper's NCJSD."""
    name = _MASKS.get(kind, kind)
    return name if score in (None, "ncjsd") else f"{name}, {score}"


def _measured(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return every metric that was measured; a class's IoU as ``last_test_iou_<class>``."""
    found: dict[str, Any] = {}
    for checkpoint in CHECKPOINTS:
        measured = metrics[checkpoint] or {}
        for split in SPLITS:
            start = f"{checkpoint}_{split}_"
            values, classes = measured.get(split) or {}, measured.get(f"{split}_per_class") or {}
            check_metrics([*values, *classes])
            found |= {f"{start}{metric}": value for metric, value in values.items()}
            found |= {f"{start}iou_{name}": value for name, value in classes.items()}
    return found


def _init_args(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    return settings.get("init_args") or {}


def _short(class_path: str | None) -> str | None:
    return class_path.rpartition(".")[2] if class_path else None


# -- files ---------------------------------------------------------------------------------------


def csv_path(results: Path, experiment: str) -> Path:
    """Return where an experiment's rows are."""
    return results / "records" / f"{experiment}.csv"


def experiment_csvs(results: Path) -> list[Path]:
    """Return the CSVs of records in a results folder, by name; not those of curves and maps."""
    found = sorted((results / "records").glob("*.csv"))
    beside = {details.details_path(path, kind) for path in found for kind in details.COLUMNS}
    return [path for path in found if path not in beside]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a CSV of records whole or not at all; floats keep all their digits.

    Raises:
        UserError: the folder cannot be written.
    """
    kept = [{**row, "cell": json.dumps(row["cell"], ensure_ascii=False)} for row in rows]
    write_csv(path, tuple(layout(kept)), kept)


def read_rows(path: Path) -> Collected:
    """Read a CSV of records; rows that cannot be used are named in ``problems`` and left out.

    Rows of an older schema get what it lacks as ``tables --upgrade`` would write it.

    Raises:
        RecordError: the file is no CSV of records, or of a schema that cannot be read.
    """
    found = read_csv(path, _reader)
    if found.rows and "cell" not in found.rows[0]:
        found = Collected(older.completed(path.stem, found.rows), found.problems)
    unique: dict[tuple[str, str], Row] = {}
    for kept in map(older.with_mask, found.rows):
        if unique.setdefault((kept["run"], kept["protocol"]), kept) is not kept:
            found.problems.append(f"{path}: run {kept['run']} is there twice: its first row counts")
    return Collected(list(unique.values()), found.problems)


def _reader(columns: Sequence[str]) -> Callable[[Line], Row] | None:
    kinds = older.columns(columns) or as_found(columns) or {}

    def row(line: Line) -> Row:
        found = {n: checked_value(n, parsed(n, line.get(n, ""), k), k) for n, k in kinds.items()}
        return {n: value for n, value in found.items() if n in COLUMNS or value is not None}

    return row if kinds else None


# -- what is never averaged ----------------------------------------------------------------------


def conflicts(rows: Iterable[Row]) -> Collected:
    """Return the rows that can be told apart, and name those that cannot.

    Two runs of one experiment, protocol, source, cell and seed differ in something that no axis
    says. None of them counts: a mean over them would be of different things.
    """

    def where(row: Row) -> tuple[Any, ...]:
        names = ("experiment", "protocol", "source", "seed")
        return (*(row[name] for name in names), *sorted(row["cell"].items()))

    groups = by_key(rows, where).values()
    kept = [group[0] for group in groups if len(group) == 1]
    return Collected(kept, [_conflict(group) for group in groups if len(group) > 1])


def differing(rows: Sequence[Row]) -> str:
    """Return the columns in which runs differ, in words; not those in which any two do."""
    settings = [name for name in COLUMNS if not metric_of(name) and name not in _OF_THE_RUN]
    other = [name for name in settings if any(row[name] != rows[0][name] for row in rows)]
    return cut(", ".join(other), 100) or "settings without a column"


def _conflict(group: Sequence[Row]) -> str:
    first = group[0]
    labels = ", ".join(f"{axis}={label}" for axis, label in first["cell"].items())
    runs = " and ".join(cut(row["run"], 16) for row in group[:2])
    return (
        f"{first['experiment']}: {len(group)} runs of the cell {cut(labels, 120) or '(no axes)'}, "
        f"seed {first['seed']}, protocol {cut(first['protocol'], 40)} ({runs} ...) differ in "
        f"{differing(group)}: left out, not averaged; "
        "give the experiment an axis that tells them apart"
    )
