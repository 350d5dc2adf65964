"""What is there of a run: its record, pictures, log and controls, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path
from typing import Any

from ntdh_bench.errors import FileError, UserError
from ntdh_bench.files.text import read_yaml
from ntdh_bench.pictures.file import FILE, Pictures, read_pictures
from ntdh_bench.records.columns import MALFORMED, RecordError, Row, told
from ntdh_bench.records.files import equal_task, find_controls, read_record
from ntdh_bench.records.identity import Place, task_weight
from ntdh_bench.records.rows import to_row
from ntdh_bench.show.events import LoggedCurve, read_curves

RECORD, CONFIG = "record.json", "config.yaml"


@dataclass(frozen=True)
class ShownRun:
    """A run as its files tell it.

    Attributes:
        path: its folder, or the record of a sweep's run.
        record: None of a run that did not finish.
        row: the record's columns, checked; None likewise.
        settings: those that results depend on, or, of an unfinished run, its config.
        controls: records of the student without KD beside it, by their task weight.
        pictures: None if there are none.
        curves: what was logged, by tag.
        missing: what is not there, sentences.
    """

    path: Path
    record: Mapping[str, Any] | None
    row: Row | None
    settings: Mapping[str, Any]
    controls: Mapping[float, Mapping[str, Any]] = field(default_factory=dict)
    pictures: Pictures | None = None
    curves: Mapping[str, LoggedCurve] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the run is called: its folder, or the record's file."""
        return self.path.stem if self.path.suffix == ".json" else self.path.name

    def baselines(self) -> dict[str, Mapping[str, Any]]:
        """Return the records that a run with KD is compared with, the primary control first.

        ``equal task`` weighs the cross entropy as the run does, ``w/o KD`` by 1; where that is the
        same there is the latter alone.
        """
        if self.record is None or self.record["arm"] != "kd":
            return {}
        weight = task_weight(self.settings["model"].get("init_args") or {})
        equal = None
        if weight and not isclose(weight, 1):
            equal = equal_task(self.controls, weight)
        found = {"equal task": equal, "w/o KD": self.controls.get(1.0)}
        return {name: record for name, record in found.items() if record is not None}


def read_run(path: Path, whole: bool = True) -> ShownRun:
    """Return what there is of a run.

    Args:
        path: a run folder, or the record of a sweep's run (``records/<hash>.json``).
        whole: whether pictures and log are read as well.

    Raises:
        UserError: no run is there, or its record is damaged.
    """
    if path.name == RECORD and path.is_file():
        path = path.parent
    if path.is_file() and path.suffix == ".json":
        return _finished(path, path, [f"{path} is a sweep's record: its folder was not kept"])
    if not (path / RECORD).is_file() and not (path / CONFIG).is_file():
        raise UserError(
            f"{path} is no run: neither {RECORD} nor {CONFIG} is there; give a run folder, which "
            "`ntdh-bench fit` names at its end, or a record of a sweep (runs/sweep/records/*.json)"
        )
    path = path.resolve()
    missing: list[str] = []
    pictures = _pictures(path, missing) if whole else None
    curves = _curves(path, missing) if whole else {}
    if (path / RECORD).is_file():
        return _finished(path, path / RECORD, missing, pictures, curves)
    missing.insert(0, f"no {RECORD}: the run did not finish, so that nothing was tested")
    settings = _config(path / CONFIG)
    return ShownRun(path, None, None, settings, {}, pictures, curves, tuple(missing))


def _config(path: Path) -> Mapping[str, Any]:
    """Return the config of a run that has no record, which would have been checked."""
    settings = read_yaml(path)
    if not isinstance(settings, dict):
        return {}
    for part in ("model", "data", "mask"):
        given = settings.get(part) or {}
        if not isinstance(given, dict) or not isinstance(given.get("init_args") or {}, dict):
            raise FileError(f"{path}: {part} is not as a run writes it, a class with its init_args")
    return settings


def _finished(
    path: Path,
    file: Path,
    missing: list[str],
    pictures: Pictures | None = None,
    curves: Mapping[str, LoggedCurve] | None = None,
) -> ShownRun:
    record = read_record(file)
    settings, pattern = record.get("config"), "*.json" if path == file else "*/record.json"
    try:
        row = to_row({"run": "of fit", **record}, Place("shown", "shown"))
        controls = find_controls(path.parent, record["config"], pattern)
    except RecordError as error:
        raise RecordError(f"{file}: {error}") from None
    except MALFORMED as error:
        raise RecordError(f"{file}: not as it was written: {told(error)}") from None
    assert isinstance(settings, dict)
    return ShownRun(path, record, row, settings, controls, pictures, curves or {}, tuple(missing))


def _pictures(path: Path, missing: list[str]) -> Pictures | None:
    if not (path / FILE).is_file():
        config = path / CONFIG
        missing.append(
            f"no {FILE}: no confusion matrices, samples and mask; runs keep them since version "
            f"0.2.0, when they finish. `ntdh-bench fit --config {config}` runs it again"
        )
        return None
    try:
        return read_pictures(path)
    except FileError as error:
        missing.append(str(error))
        return None


def _curves(path: Path, missing: list[str]) -> dict[str, LoggedCurve]:
    found: dict[str, LoggedCurve] = {}
    try:
        found = read_curves(path)
    except FileError as error:
        missing.append(str(error))
    else:
        if not found:
            missing.append("no TensorBoard log: no losses and no curves of the teacher")
    return found


def scores(record: Mapping[str, Any], checkpoint: str = "last") -> Mapping[str, float]:
    """Return what a checkpoint measured on test data."""
    with suppress(KeyError, TypeError):
        found: Mapping[str, float] = record["metrics"][checkpoint]["test"]
        return found
    return {}


def gain(own: Mapping[str, float], control: Mapping[str, float], measure: str) -> float | None:
    """Return by how many points one score is above another; None where a record has none."""
    if measure not in own or measure not in control:
        return None
    return 100 * (own[measure] - control[measure])
