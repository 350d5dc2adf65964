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
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ntdh_bench import __version__
from ntdh_bench.cache import default_cache_dir, digest, file_digest, locked, write_atomic
from ntdh_bench.errors import FileError, one_line
from ntdh_bench.experiments import MAX_SEED, Experiment
from ntdh_bench.files.reading import checked_size
from ntdh_bench.files.schema import mismatch
from ntdh_bench.files.text import read_json
from ntdh_bench.provenance import named_in, own_commit

SCHEMA = 3
_READABLE = (2, SCHEMA)  # schema 2 had no mean IoU
Row: TypeAlias = dict[str, Any]

_PACKAGES = ("torch", "lightning", "torchmetrics", "numpy", "scikit-learn")
_DISTILLATION_ONLY = (
    "distiller", "task_weight", "distill_weight", "lam", "teacher", "teacher_network",
    "teacher_epochs",
)  # fmt: skip
OUTDATED = ".outdated.json"
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
_REQUIRED = ("experiment", "protocol", "run", "dataset", "source", "arm", "seed")
_SOURCES = ("real", "simulated")
_MAX_FLOAT = 3.4e38  # float32's; sums and squares of such numbers are finite as well
_MAX_INT = 2**63 - 1
_MAX_TEXT = 300  # characters
_MAX_NAME = 100
_MAX_PROBLEMS = 20  # told of one file
_MAX_BYTES = 1 << 26  # of a record with its maps
_MAX_CSV = 1 << 30
_ROUNDING = 1e-6  # how far a float32 may lie beyond the ends of its range
_SHARE, _COUNT = (0.0, 1.0), (0, _MAX_INT)
_POSITIVE, _ANY = (0.0, _MAX_FLOAT), (-_MAX_FLOAT, _MAX_FLOAT)
_METRIC_RANGES = {
    "accuracy": _SHARE, "teacher_accuracy": _SHARE, "miou": _SHARE, "teacher_miou": _SHARE,
    "tcjsd": (0.0, math.log(2)), "ncjsd": (0.0, math.log(2)), "kl": _POSITIVE,
    "tckl": (-1 / math.e, _MAX_FLOAT),  # one term: p log(p / q)
    "tckl_binary": _POSITIVE, "nckl": _POSITIVE,
}  # fmt: skip
#: The range of every column of numbers, ends included; of others any finite number will do.
RANGES: dict[str, tuple[float, float]] = {
    "teacher_epochs": _COUNT, "ratio": _SHARE, "gap": _SHARE, "classes": (2, _MAX_INT),
    "teacher_noise": _POSITIVE, "student_noise": _POSITIVE, "task_weight": _POSITIVE,
    "distill_weight": _POSITIVE, "seed": (0, MAX_SEED), "epochs": _COUNT,
    "teacher_parameters": _COUNT, "student_parameters": _COUNT, "seconds": (0.0, 1e10),
    "threads": (1, _MAX_INT), "epoch": _COUNT, "y": _COUNT, "x": _COUNT,
    **{f"{checkpoint}_{split}_{metric}": limits for checkpoint in CHECKPOINTS
       for split in SPLITS for metric, limits in _METRIC_RANGES.items()},
}  # fmt: skip
_COLUMNS_2 = tuple(name for name in COLUMNS if not name.endswith("miou"))
# Values per epoch, and heat maps, have files of their own.
_DETAILS: dict[str, dict[str, type]] = {
    "curves": {"run": str, "epoch": int, "metric": str, "value": float},
    "maps": {"run": str, "removes": str, "y": int, "x": int, "value": float},
}
# What reading a record raises that is not as it was written.
_MALFORMED = (AttributeError, KeyError, TypeError, ValueError)
_MASKS = {"FeatureMask": "feature", "SampleMask": "sample"}


class RecordError(FileError):
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
        RecordError: a number in it is not finite.
        UserError: the folder cannot be written.
    """
    try:
        text = json.dumps({"schema": SCHEMA, **record}, indent=2, allow_nan=False)
    except ValueError:
        where = next(_not_finite(record, ""))
        raise RecordError(
            f"{path} is not written: {where} is not a finite number; the input data, or the "
            "outputs of a network, overflow"
        ) from None
    with write_atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _not_finite(value: Any, where: str) -> Iterator[str]:
    """Yield the dotted keys of the numbers in plain values that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        yield where
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    for key, item in value.items() if isinstance(value, Mapping) else ():
        yield from _not_finite(item, f"{where}.{key}".lstrip("."))


def read_record(path: Path) -> dict[str, Any]:
    """Return the record in a JSON file.

    Raises:
        RecordError: it is damaged, or of another schema.
    """
    try:
        record = read_json(path, _MAX_BYTES, "run it again")
    except FileError as error:
        raise RecordError(str(error)) from None
    found = record.get("schema") if isinstance(record, dict) else None
    if found not in _READABLE or type(found) is not int:
        readable = "this version reads " + " and ".join(map(str, _READABLE))
        raise RecordError(f"{path}: a record of schema {_cut(found)}; {readable}")
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
            with suppress(RecordError):  # one that is not as it was written is none
                check_record({"run": "of fit", **record}, ())
                found = record
    return found


# -- CSV, one row a run --------------------------------------------------------------------------


def to_row(record: Mapping[str, Any], experiment: str, protocol: str) -> Row:
    """Return a record as a row of :data:`COLUMNS`.

    Raises:
        RecordError: something that every record holds is missing, of a wrong type or out of range.
    """
    try:
        values = {**record, **_settings(record["config"]), **_measured(record["metrics"])}
        values["method"] = record.get("method") or values["method"]
        parameters, environment = record["parameters"], record["environment"]
        values |= {f"{name}_parameters": count for name, count in parameters.items()}
        values |= {name.replace("-", "_"): v for name, v in environment["versions"].items()}
        values |= {name: environment[name] for name in ("device", "git_commit")}
        values |= {"threads": threads(record), "experiment": experiment, "protocol": protocol}
        return {name: _cell(name, values.get(name), kind) for name, kind in COLUMNS.items()}
    except _MALFORMED as error:
        raise RecordError(
            f"the record of run {_cut(record.get('run'))} is not as it was written: {_told(error)}"
        ) from None


def threads(record: Mapping[str, Any]) -> Any:
    """Return the number of threads that trained a record's student: its bits depend on that.

    Runs share students without KD, so it need not be that of the run.
    """
    return (record.get("control_environment") or record["environment"])["threads"]


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


def _cell(name: str, value: Any, kind: type) -> Any:
    """Return a value of a row; None only where a row may do without.

    Raises:
        ValueError: it is missing, of another type, not finite or out of the column's range.
    """
    value = None if value == "" else value  # the same cell of a CSV
    if value is None and name not in _REQUIRED:
        return None
    return _checked(name, value, kind)


def _checked(name: str, value: Any, kind: type) -> Any:
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
    elif kind is not bool:
        _check_number(name, value, RANGES.get(name, _ANY))
    return kind(value)


def _check_text(name: str, text: str) -> None:
    """Refuse what no column holds, such as several lines, or what a spreadsheet would compute."""
    if len(text) > _MAX_TEXT or not text.isprintable() or text.startswith(("=", "+", "-", "@")):
        raise ValueError(f"{name} is no line of text of at most {_MAX_TEXT} characters")
    if name in ("experiment", "protocol") and len(text) > _MAX_NAME:
        raise ValueError(f"{name} has more than {_MAX_NAME} characters, and names files")
    if name == "source" and text not in _SOURCES:
        raise ValueError(f"{name} is neither {' nor '.join(_SOURCES)}")


def _check_number(name: str, value: Any, limits: tuple[float, float]) -> None:
    if value != value or value in (math.inf, -math.inf):  # an int may be too large for isfinite
        raise ValueError(f"{name}: {value} is not a finite number")
    low, high = limits
    if not low - _ROUNDING <= value <= high + _ROUNDING:
        raise ValueError(f"{name}: {_cut(value, 20)} is not in [{low:.6g}, {high:.6g}]")


def _told(error: BaseException) -> str:
    """Return what a malformed record raised, in words."""
    return str(error) if type(error) is ValueError else f"{type(error).__name__} {_cut(error)}"


def _cut(value: object, most: int = 80) -> str:
    """Return a value that a file holds as short text."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[:most]}..."


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a CSV of records whole or not at all; floats keep all their digits.

    Raises:
        UserError: the folder cannot be written.
    """
    _write_csv(path, tuple(COLUMNS), rows)


def read_rows(path: Path) -> Collected:
    """Read a CSV of records; rows that cannot be used are named in ``problems`` and left out.

    Raises:
        RecordError: the file is no CSV of this schema or the one before.
    """

    def row(line: Mapping[str, str]) -> Row:
        return {n: _cell(n, _parsed(n, line.get(n, ""), kind), kind) for n, kind in COLUMNS.items()}

    found = _read_csv(path, row, tuple(COLUMNS), _COLUMNS_2)
    unique: dict[tuple[str, str], Row] = {}
    for kept in found.rows:
        if unique.setdefault((kept["run"], kept["protocol"]), kept) is not kept:
            found.problems.append(f"{path}: run {kept['run']} is there twice: its first row counts")
    return Collected(list(unique.values()), found.problems)


def _parsed(name: str, text: str, kind: type) -> Any:
    if not text:
        return None
    if kind is bool:
        return {"True": True, "False": False}.get(text, text)
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name} is not of type {kind.__name__}") from None


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with write_atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)  # None becomes an empty cell, a float its shortest exact text


def _read_csv(
    path: Path, row: Callable[[Mapping[str, str]], Row], *layouts: tuple[str, ...]
) -> Collected:
    """Read a CSV that has the columns of one of ``layouts``; ``row`` makes a row of a line."""
    rows, problems = [], []
    try:
        checked_size(path, _MAX_CSV, "collect it again with `ntdh-bench sweep`")
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(_whole_lines(file))
            if tuple(reader.fieldnames or ()) not in layouts:
                raise RecordError(
                    f"{path}: its columns are not those of schema {SCHEMA}; collect it again with "
                    f"`ntdh-bench sweep`, or read it with the version that wrote it"
                )
            for line in reader:
                try:
                    if None in line or None in line.values():
                        raise ValueError("not as many cells as there are columns")
                    rows.append(row(line))
                except ValueError as error:
                    problems.append(one_line(f"{path}, line {reader.line_num}: {error}"))
    except RecordError:
        raise
    except FileError as error:
        raise RecordError(str(error)) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"{path}: cannot be read ({_cut(error)})") from None
    if (left := len(problems) - _MAX_PROBLEMS) > 0:
        problems[_MAX_PROBLEMS:] = [f"{path}: and {left} more lines like these"]
    return Collected(rows, problems)


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
        _note_outdated(path, left)
    if left:
        found.problems.append(
            f"{path}: {len(left)} rows of runs that {experiment.path} no longer has are kept, and "
            "left out of tables; delete them if they are not needed"
        )
    return Collected(found.rows[: len(found.rows) - len(left)], found.problems)


def outdated_path(path: Path) -> Path:
    """Return the file that says which rows of a CSV of records are no longer the experiment's."""
    return path.with_suffix(OUTDATED)


def outdated_runs(path: Path) -> set[tuple[str, str]]:
    """Return run and protocol of the rows that an experiment no longer had when last collected.

    They are those of an earlier state of its configs, of third-party code, or of a given teacher.

    Raises:
        RecordError: the file that lists them is damaged.
    """
    file = outdated_path(path)
    if not file.is_file():
        return set()
    found = read_json(file, remedy="run the sweep again")
    if mismatch(found, [(str, str)]) is not None:
        raise RecordError(f"{file}: no list of runs and protocols; run the sweep again")
    return {(run, protocol) for run, protocol in found}


def _note_outdated(path: Path, rows: Sequence[Row]) -> None:
    pairs = sorted([row["run"], row["protocol"]] for row in rows)
    if not pairs:
        outdated_path(path).unlink(missing_ok=True)
        return
    with write_atomic(outdated_path(path)) as temporary:
        temporary.write_text(json.dumps(pairs) + "\n")


def _update(experiment: Experiment, store: Path, path: Path, kept: Collected) -> Collected:
    """Write the rows, and the details, that the store has news of."""
    before = {(row["run"], row["protocol"]): row for row in kept.rows}
    runs = dict.fromkeys((run.hash, run.protocol) for run in experiment.runs) | before
    problems: list[str] = []
    details: dict[str, dict[str, list[Row]]] = {kind: {} for kind in experiment.keep}
    for run, protocol in runs:
        file = record_path(store, run)
        if not file.is_file():
            continue
        try:
            record = read_run(file, run, details)
            row = to_row(record, experiment.name, protocol)
            new = {kind: _detail_rows(record, kind) for kind in details}
        except RecordError as error:
            problems.append(str(error))
            continue
        runs[run, protocol] = row
        for kind, lines in new.items():
            details[kind][run] = lines
    rows = [row for row in runs.values() if row is not None]
    problems += _replace(path, tuple(COLUMNS), rows, kept)
    for kind, by_run in details.items():
        problems += _write_details(path, kind, dict.fromkeys(row["run"] for row in rows), by_run)
    return Collected(rows, problems)


def read_run(path: Path, run: str, keep: Iterable[str] = ()) -> dict[str, Any]:
    """Return the record of a run.

    Args:
        path: of the record.
        run: whose it should be.
        keep: the extras that its experiment collects.

    Raises:
        RecordError: as :func:`read_record`, it is another run's, or it cannot be collected.
    """
    record = read_record(path)
    if record.get("run") != run:
        raise RecordError(f"{path}: this is the record of run {_cut(record.get('run'))}")
    try:
        check_record(record, keep)
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from None
    return record


def check_record(record: Mapping[str, Any], keep: Iterable[str]) -> None:
    """Refuse a record that cannot be collected.

    Args:
        record: of a run.
        keep: the extras that its experiment collects.

    Raises:
        RecordError: something is missing, malformed, not finite or out of range.
    """
    to_row(record, "checked", "checked")
    for kind in keep:
        _detail_rows(record, kind)


def details_path(path: Path, kind: str) -> Path:
    """Return the file of the ``curves`` or ``maps`` that go with a CSV of records."""
    return path.with_name(f"{path.stem}_{kind}.csv")


def read_details(path: Path, kind: str) -> Collected:
    """Return the rows of the ``curves`` or ``maps`` that go with a CSV of records.

    Rows that cannot be used are named in ``problems`` and left out.

    Raises:
        RecordError: the file is none of that kind.
    """
    file, columns = details_path(path, kind), _DETAILS[kind]

    def row(line: Mapping[str, str]) -> Row:
        return _detail({n: _parsed(n, line[n], of) for n, of in columns.items()}, kind)

    return _read_csv(file, row, tuple(columns)) if file.is_file() else Collected([], [])


def _detail(row: Row, kind: str) -> Row:
    """Return a row of curves or maps.

    Raises:
        ValueError: a value is missing, of another type, not finite or out of range.
    """
    checked = {name: _checked(name, row[name], of) for name, of in _DETAILS[kind].items()}
    if kind == "curves":
        metric = checked["metric"]
        _check_number(metric, checked["value"], _METRIC_RANGES.get(metric, _ANY))
    return checked


def _write_details(
    path: Path, kind: str, runs: Iterable[str], new: Mapping[str, list[Row]]
) -> list[str]:
    """Write the details of ``runs``, those in ``new`` instead of those already there."""
    before = read_details(path, kind)
    by_run: dict[str, list[Row]] = {}
    for row in before.rows:
        by_run.setdefault(row["run"], []).append(row)
    by_run |= new
    rows = [row for run in runs for row in by_run.get(run, [])]
    return _replace(details_path(path, kind), tuple(_DETAILS[kind]), rows, before)


def _replace(
    path: Path, columns: Sequence[str], rows: Sequence[Row], before: Collected
) -> list[str]:
    """Write rows in place of those before, if they are others; returns what is to be known.

    A file with lines that cannot be used is copied first, as they would be lost.
    """
    if rows == before.rows:
        return before.problems
    problems = list(before.problems)
    if problems:
        copy = path.with_name(f"{path.name}.{file_digest(path)[:8]}.damaged")
        with write_atomic(copy) as temporary:
            shutil.copyfile(path, temporary)
        problems.append(f"{path}: written without these lines; as it was, it is kept as {copy}")
    _write_csv(path, columns, rows)
    return problems


def _detail_rows(record: Mapping[str, Any], kind: str) -> list[Row]:
    """Return the rows of a record's curves or maps.

    Raises:
        RecordError: it has none, or they are not numbers.
    """
    rows_of = {"curves": _curve_rows, "maps": _map_rows}[kind]
    try:
        rows = ({"run": record["run"], **row} for row in rows_of(record[kind]))
        return [_detail(row, kind) for row in rows]
    except _MALFORMED as error:
        raise RecordError(
            f"the {kind} of run {_cut(record.get('run'))} are not as they were written: "
            f"{_told(error)}"
        ) from None


def _curve_rows(curves: Mapping[str, Any]) -> Iterator[Row]:
    for metric, values in curves.items():
        for epoch, value in enumerate(values):
            yield {"epoch": epoch, "metric": metric, "value": value}


def _map_rows(maps: Mapping[str, Any]) -> Iterator[Row]:
    for removes, rows in maps.items():
        for y, row in enumerate(rows):
            for x, value in enumerate(row):
                yield {"removes": removes, "y": y, "x": x, "value": value}
