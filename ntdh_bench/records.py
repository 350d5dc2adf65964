"""One record per run: what was run, on what, and what came out; and one row per record in a CSV.

``fit`` writes records as JSON; :func:`collect` gathers those of an experiment into
``results/records/<experiment>.csv``, whose columns ``results/README.md`` describes.
"""

from __future__ import annotations

import csv
import json
import math
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ntdh_bench import __version__
from ntdh_bench.cache import default_cache_dir, digest, locked, write_atomic
from ntdh_bench.errors import UserError
from ntdh_bench.experiments import Experiment
from ntdh_bench.provenance import named_in, own_commit

SCHEMA = 3
_READABLE = (2, SCHEMA)  # schema 2 had no mean IoU
Row: TypeAlias = dict[str, Any]

_PACKAGES = ("torch", "lightning", "torchmetrics", "numpy", "scikit-learn")
_DISTILLATION_ONLY = (
    "distiller", "task_weight", "distill_weight", "lam", "teacher", "teacher_network",
    "teacher_epochs",
)  # fmt: skip
CHECKPOINTS = ("last", "best")
SPLITS = ("val", "test")
METRICS = (
    "accuracy", "teacher_accuracy", "miou", "teacher_miou", "tcjsd", "ncjsd", "kl", "tckl",
    "tckl_binary", "nckl",
)  # fmt: skip

#: The columns of a CSV of records and their types; an empty cell is None.
COLUMNS: dict[str, type] = {
    "experiment": str, "protocol": str, "run": str, "config_hash": str, "baseline_hash": str,
    "created": str, "dataset": str, "source": str, "data_fingerprint": str, "arm": str,
    "method": str, "teacher": str, "teacher_epochs": int, "unimodal": bool, "modality": str,
    "mask": str, "removes": str, "ratio": float, "layer": str, "retrain": bool, "gap": float,
    "classes": int,
    "teacher_noise": float, "student_noise": float, "alpha": float, "beta": float,
    "task_weight": float, "distill_weight": float, "seed": int, "epochs": int,
    "teacher_parameters": int, "student_parameters": int, "teacher_hash": str,
    **{f"{checkpoint}_{split}_{metric}": float
       for checkpoint in CHECKPOINTS for split in SPLITS for metric in METRICS},
    "seconds": float, "device": str, "threads": int, "git_commit": str, "ntdh_bench": str,
    "python": str, "torch": str, "lightning": str, "torchmetrics": str, "numpy": str,
    "scikit_learn": str,
}  # fmt: skip
_COLUMNS_2 = tuple(name for name in COLUMNS if not name.endswith("miou"))
# Values per epoch, and heat maps, have files of their own.
_DETAILS = {
    "curves": ("run", "epoch", "metric", "value"),
    "maps": ("run", "removes", "y", "x", "value"),
}
_MASKS = {"FeatureMask": "feature", "SampleMask": "sample"}


class RecordError(UserError):
    """A record or a row of records that cannot be read."""


class Collected(NamedTuple):
    """The rows of an experiment, and what could not be read."""

    rows: list[Row]
    problems: list[str]


# -- what a run is -------------------------------------------------------------------------------


def config_hash(identity: dict[str, Any]) -> str:
    """Return the hash of the settings that results depend on."""
    return digest(identity)


def baseline_hash(identity: dict[str, Any]) -> str:
    """Return the hash of what a run shares with the same student trained without KD."""
    init_args = identity["model"].get("init_args", {})
    student = {name: init_args[name] for name in init_args if name not in _DISTILLATION_ONLY}
    shared = {**identity, "model": student, "mask": None, "given_teacher": None}
    code = shared.pop("third_party", {})
    own = named_in([identity["model"].get("class_path"), shared], code)
    return digest({**shared, "third_party": own} if own else shared)


def arm(identity: dict[str, Any]) -> str:
    """Return ``kd``, ``without_kd`` (task weight 1), ``matched`` (a larger one) or ``single``."""
    init_args = identity["model"].get("init_args", {})
    if "distiller" not in init_args:
        return "single"
    if init_args["distiller"] is not None:
        return "kd"
    return "without_kd" if init_args.get("task_weight") == 1 else "matched"


def environment() -> dict[str, Any]:
    """Return the versions, the device and the git commit that a run used."""
    import torch

    versions = {"ntdh-bench": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    cuda = torch.cuda.is_available()
    return {
        "versions": versions,
        "device": torch.cuda.get_device_name() if cuda else platform.machine() + " CPU",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "git_commit": own_commit(),
    }


# -- JSON, one file a run ------------------------------------------------------------------------


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record whole or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    with write_atomic(path) as temporary:
        temporary.write_text(json.dumps({"schema": SCHEMA, **record}, indent=2) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """Return the record in a JSON file.

    Raises:
        RecordError: it is damaged, or of another schema.
    """
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: not a whole record ({error})") from None
    found = record.get("schema") if isinstance(record, dict) else None
    if found not in _READABLE:
        readable = " and ".join(map(str, _READABLE))
        raise RecordError(f"{path}: a record of schema {found}; this version reads {readable}")
    return dict(record)


def read_records(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the readable records in ``root/*/record.json``, oldest first."""
    for path in sorted(root.glob("*/record.json")):
        try:
            yield read_record(path)
        except RecordError:
            continue


def find_without_kd(root: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return the latest record in ``root`` of the same student trained without KD, if any."""
    wanted = baseline_hash(identity)
    found = None
    for record in read_records(root):
        if record.get("arm") == "without_kd" and record.get("baseline_hash") == wanted:
            found = record
    return found


# -- CSV, one row a run --------------------------------------------------------------------------


def to_row(record: Mapping[str, Any], experiment: str, protocol: str) -> Row:
    """Return a record as a row of :data:`COLUMNS`.

    Raises:
        RecordError: something that every record holds is missing, or of a wrong type.
    """
    try:
        values = {**record, **_settings(record["config"]), **_measured(record["metrics"])}
        values["method"] = record.get("method") or values["method"]
        parameters, environment = record["parameters"], record["environment"]
        values |= {f"{name}_parameters": count for name, count in parameters.items()}
        values |= {name.replace("-", "_"): v for name, v in environment["versions"].items()}
        values |= {name: environment[name] for name in ("device", "threads", "git_commit")}
        values |= {"experiment": experiment, "protocol": protocol}
        return {name: _typed(values.get(name), kind) for name, kind in COLUMNS.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecordError(
            f"the record of run {record.get('run')} is not as it was written: {error!r}"
        ) from None


def _settings(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that come from a run's settings; a plug-in may have none of them."""
    mask = identity["mask"] or {}
    model, data, removal = map(_init_args, (identity["model"], identity["data"], mask))
    distiller, lam = model.get("distiller") or {}, model.get("lam")
    removing = _short(mask.get("class_path"))
    return {
        "method": _short(distiller.get("class_path")),
        "teacher": model.get("teacher"),
        "teacher_epochs": model.get("teacher_epochs"),
        "modality": model.get("modality"),
        "unimodal": data.get("unimodal", False),
        "mask": removing and _MASKS.get(removing, removing),
        **{name: removal.get(name) for name in ("removes", "ratio", "layer", "retrain")},
        "gap": data.get("gap"),
        "classes": data.get("classes", data.get("n_classes")),
        **{name: data.get(name) for name in ("teacher_noise", "student_noise")},
        **{name: _init_args(distiller).get(name) for name in ("alpha", "beta")},
        "task_weight": model.get("task_weight") if lam is None else 1 - lam,
        "distill_weight": model.get("distill_weight") if lam is None else lam,
    }


def _measured(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{checkpoint}_{split}_{metric}": value
        for checkpoint in CHECKPOINTS
        for split in SPLITS
        for metric, value in ((metrics[checkpoint] or {}).get(split) or {}).items()
    }


def _init_args(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    return settings.get("init_args") or {}


def _short(class_path: str | None) -> str | None:
    return class_path.rpartition(".")[2] if class_path else None


def _typed(value: Any, kind: type) -> Any:
    """Return a JSON value as its column's type.

    Raises:
        ValueError: it is of another type, or not finite.
    """
    if value is None:
        return None
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{value!r} is not of type {kind.__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return value


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a CSV of records whole or not at all; floats keep all their digits.

    Raises:
        UserError: the folder cannot be written.
    """
    _write_csv(path, tuple(COLUMNS), rows)


def read_rows(path: Path) -> Collected:
    """Read a CSV of records; rows that cannot be read are named in ``problems`` and left out.

    Raises:
        RecordError: the file is no CSV of this schema or the one before.
    """
    lines = _read_csv(path, tuple(COLUMNS), _COLUMNS_2)
    rows, problems = [], []
    for number, line in enumerate(lines, start=2):
        try:
            if None in line or None in line.values():
                raise ValueError("not as many cells as there are columns")
            rows.append({name: _parsed(line.get(name, ""), kind) for name, kind in COLUMNS.items()})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            problems.append(f"{path}, line {number}: {error}")
    return Collected(rows, problems)


def _parsed(text: str, kind: type) -> Any:
    if not text:
        return None
    if kind is bool:
        return {"True": True, "False": False}[text]
    return _typed(kind(text), kind)


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with write_atomic(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)  # None becomes an empty cell, a float its shortest exact text


def _read_csv(path: Path, *layouts: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(_whole_lines(file))
            if tuple(reader.fieldnames or ()) not in layouts:
                raise RecordError(
                    f"{path}: its columns are not those of schema {SCHEMA}; collect it again with "
                    f"`ntdh-bench sweep`, or read it with the version that wrote it"
                )
            return list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"{path}: cannot be read ({error})") from None


def _whole_lines(file: Iterable[str]) -> Iterator[str]:
    """Yield the lines; one that was cut short at the end of the file is left without its cells."""
    for line in file:
        yield line if line.endswith("\n") else "cut short\n"


# -- the rows of an experiment -------------------------------------------------------------------


def csv_path(results: Path, experiment: str) -> Path:
    """Return where an experiment's rows are."""
    return results / "records" / f"{experiment}.csv"


def record_path(store: Path, run: str) -> Path:
    """Return where a sweep keeps a run's record."""
    return store / "records" / f"{run}.json"


def orphans(experiment: Experiment, rows: Iterable[Row]) -> list[Row]:
    """Return the rows of runs that the experiment does not have; none if its data are missing."""
    runs = {(run.hash, run.protocol) for run in experiment.runs}
    return [r for r in rows if not experiment.missing and (r["run"], r["protocol"]) not in runs]


def collect(experiment: Experiment, store: Path, results: Path) -> Collected:
    """Gather an experiment's records into its CSV and return the rows of its runs.

    Rows already there whose record is not in ``store`` stay, and so do, at the end and named in
    ``problems``, those of runs that are no longer part of the experiment. Damaged records are
    named and left out. Without the experiment's data set nothing is changed.

    Args:
        experiment: names the runs that belong to it.
        store: folder of the sweep's records.
        results: the results folder.

    Raises:
        UserError: a folder cannot be written, or the CSV there is not one of this schema.
    """
    path = csv_path(results, experiment.name)
    # The lock lies in the cache: the results are under version control.
    with locked(default_cache_dir() / "locks" / digest(str(path.resolve()))):
        kept = read_rows(path) if path.is_file() else Collected([], [])
        if experiment.missing:
            return kept
        found = _update(experiment, store, path, kept)
    left = orphans(experiment, found.rows)
    if left:
        found.problems.append(
            f"{path}: {len(left)} rows of runs that {experiment.path} no longer has are kept, and "
            "left out of tables; delete them if they are not needed"
        )
    return Collected(found.rows[: len(found.rows) - len(left)], found.problems)


def _update(experiment: Experiment, store: Path, path: Path, kept: Collected) -> Collected:
    """Write the rows, and the details, that the store has news of."""
    before = {(row["run"], row["protocol"]): row for row in kept.rows}
    runs = dict.fromkeys((run.hash, run.protocol) for run in experiment.runs) | before
    problems = list(kept.problems)
    details: dict[str, dict[str, list[Row]]] = {kind: {} for kind in experiment.keep}
    for run, protocol in runs:
        file = record_path(store, run)
        if not file.is_file():
            continue
        try:
            record = _record_of(run, file)
            row = to_row(record, experiment.name, protocol)
            new = {kind: _detail_rows(record, kind) for kind in details}
        except RecordError as error:
            problems.append(str(error))
            continue
        runs[run, protocol] = row
        for kind, lines in new.items():
            details[kind][run] = lines
    rows = [row for row in runs.values() if row is not None]
    if rows != kept.rows:
        write_rows(path, rows)
    for kind, by_run in details.items():
        _write_details(path, kind, dict.fromkeys(row["run"] for row in rows), by_run)
    return Collected(rows, problems)


def _record_of(run: str, path: Path) -> dict[str, Any]:
    record = read_record(path)
    if record.get("run") != run:
        raise RecordError(f"{path}: this is the record of run {record.get('run')}")
    return record


def details_path(path: Path, kind: str) -> Path:
    """Return the file of the ``curves`` or ``maps`` that go with a CSV of records."""
    return path.with_name(f"{path.stem}_{kind}.csv")


def read_details(path: Path, kind: str) -> list[dict[str, str]]:
    """Return the rows of the ``curves`` or ``maps`` that go with a CSV of records, as text.

    Raises:
        RecordError: the file is damaged.
    """
    file = details_path(path, kind)
    return _read_csv(file, _DETAILS[kind]) if file.is_file() else []


def _write_details(
    path: Path, kind: str, runs: Iterable[str], new: Mapping[str, list[Row]]
) -> None:
    """Write the details of ``runs``, those in ``new`` instead of those already there."""
    before = read_details(path, kind)
    by_run: dict[str, list[Row]] = {}
    for row in before:
        by_run.setdefault(row["run"], []).append(row)
    by_run |= {
        run: [{column: str(row[column]) for column in _DETAILS[kind]} for row in rows]
        for run, rows in new.items()
    }
    rows = [row for run in runs for row in by_run.get(run, [])]
    if rows != before:
        _write_csv(details_path(path, kind), _DETAILS[kind], rows)


def _detail_rows(record: Mapping[str, Any], kind: str) -> list[Row]:
    """Return the rows of a record's curves or maps.

    Raises:
        RecordError: it has none, or they are not numbers.
    """
    rows_of = {"curves": _curve_rows, "maps": _map_rows}[kind]
    try:
        return [{"run": record["run"], **row} for row in rows_of(record[kind])]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecordError(
            f"the {kind} of run {record.get('run')} are not as they were written: {error!r}"
        ) from None


def _curve_rows(curves: Mapping[str, Any]) -> Iterator[Row]:
    for metric, values in curves.items():
        for epoch, value in enumerate(values):
            yield {"epoch": epoch, "metric": metric, "value": float(_typed(value, float))}


def _map_rows(maps: Mapping[str, Any]) -> Iterator[Row]:
    for removes, rows in maps.items():
        for y, row in enumerate(rows):
            for x, value in enumerate(row):
                yield {"removes": removes, "y": y, "x": x, "value": float(_typed(value, float))}
