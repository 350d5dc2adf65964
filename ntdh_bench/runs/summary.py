"""What a run's end says: a table of networks, and where things are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ntdh_bench.batch import PairedData
from ntdh_bench.records.details import MAX_LATE_GAIN, late_gain
from ntdh_bench.records.files import equal_task, find_controls, gain
from ntdh_bench.records.identity import task_weight, threads
from ntdh_bench.runs.run import LOG, PARTS, Run

_ALWAYS = ("tcjsd", "ncjsd")
_TITLES = {
    "accuracy": "accuracy %", "miou": "mIoU %", "point_miou": "point mIoU %",
    "completion_iou": "completion IoU %", "completion_precision": "precision %",
    "completion_recall": "recall %", "tcjsd": "TCJSD", "ncjsd": "NCJSD",
}  # fmt: skip
_STUDENT = {
    "kd": "student with KD",
    "without_kd": "student without KD",
    "equal_task": "student without KD, smaller task weight",
    "matched": "student without KD, larger task weight",
    "single": "network",
}
_ORIGINS = {
    "given": "given: model.teacher_checkpoint, or the one beside the checkpoint",
    "trained": "trained in this run",
}


def print_summary(
    title: str, rows: Mapping[str, Mapping[str, float] | None], notes: Mapping[str, str]
) -> None:
    """Print accuracies or mean IoUs (per cent) and divergences (nats) of teacher and students.

    Mean IoUs of points, and how hidden voxels are completed, have columns where they are measured.

    Args:
        title: what was measured, on which data.
        rows: name of a network to its metrics; ``None`` and missing ones show as a dash.
        notes: lines below the table: where things are.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("network")
    measured = {metric for metrics in rows.values() for metric in metrics or {}}
    columns = [name for name in _TITLES if name in measured or name in _ALWAYS]
    for name in columns:
        table.add_column(_TITLES[name], justify="right")
    for name, metrics in rows.items():
        table.add_row(name, *(_cell(metrics or {}, column) for column in columns))
    console = Console()
    if rows:
        console.print(table)
    width = max(map(len, notes), default=0)
    for name, note in notes.items():
        console.print(f"{name:<{width}}  {note}", highlight=False, soft_wrap=True, markup=False)


def print_fit(run: Run, record: dict[str, Any], recorded: bool = True) -> None:
    """Print what a finished run measured, and, where its folder stays, what is there."""
    best, last = record["metrics"]["best"], record["metrics"]["last"]
    rows: dict[str, Mapping[str, float] | None] = {**teacher_row(last["test"])}
    notes = {**data_notes(run.data), **_origin_notes(run, record["teacher"])}
    if run.is_trial:
        notes["saved"] = "nothing: fast_dev_run is a trial"
    elif recorded:
        notes |= _saved_files(run.folder)
    if rows and record["arm"] == "kd" and not run.is_trial:
        controls = _controls(run)
        rows |= {name: found and _comparable(found, record) for name, found in controls.items()}
        notes |= _gain_notes(record, controls)
        without = [threads(found) for found in controls.values() if found]
        if any(number != threads(record) for number in without):
            notes["threads"] = (
                f"{threads(record)}, without KD {', '.join(map(str, without))}: part of "
                "the gain may be rounding, as bits repeat on equal threads only"
            )
    notes |= _training_notes(record["curves"].get(run.data.metric, []))
    student = f"student of {record['method']}" if record["method"] else _STUDENT[record["arm"]]
    rows[f"{student}, last epoch"] = last["test"]
    if best:
        rows[f"{student}, best on validation"] = best["test"]
    if per_class := last.get("test_per_class"):
        values = ", ".join(f"{name} {100 * iou:.1f}" for name, iou in per_class.items())
        notes = {"IoU %": f"{values} (last epoch)", **notes}
    print_summary(f"{record['dataset']}, test set, seed {record['seed']}", rows, notes)


def _gain_notes(
    record: Mapping[str, Any], controls: Mapping[str, Mapping[str, Any] | None]
) -> dict[str, str]:
    """Say what distillation is worth beside each control, at the last epoch of this one seed."""
    gains = [
        f"{100 * gain(record, found):+.2f} points over the {name}"
        for name, found in controls.items()
        if found
    ]
    return {"gain": f"{', '.join(gains)} (last epochs, one seed)"} if gains else {}


def _training_notes(curve: Sequence[float]) -> dict[str, str]:
    """Say so where the score on validation data still rises at the end of training."""
    late = late_gain(curve)
    if late is None or 100 * late < MAX_LATE_GAIN:
        return {}
    rise = f"still rising by {100 * late:.1f} points over the last fifth of the epochs"
    return {"training": f"{rise}: not converged"}


def _controls(run: Run) -> dict[str, dict[str, Any] | None]:
    """Return the records of a KD run's controls beside it, by what they are called."""
    found = find_controls(run.folder.parent, run.identity)
    controls = {_STUDENT["without_kd"]: found.get(1.0)}
    weight = task_weight(run.identity["model"]["init_args"])
    if weight and weight != 1:
        equal = equal_task(found, weight)
        controls[f"student without KD, task weight {weight:g}"] = equal
    return controls


def print_maps(run: Run, record: dict[str, Any], paths: Sequence[Path]) -> None:
    """Print where the maps of a finished run are: ``paths``, the numbers first, and figures."""
    notes = {**data_notes(run.data), **_origin_notes(run, record["teacher"])}
    notes["numbers"] = str(paths[0])
    notes |= {path.stem.replace("_", " "): str(path) for path in paths if path.suffix == ".png"}
    print_summary("", {}, notes)


def teacher_row(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return the teacher's ``accuracy`` or ``miou``, as a row; nothing if there is no teacher."""
    measures = [name for name in ("accuracy", "miou") if f"teacher_{name}" in metrics]
    return {"teacher": {name: metrics[f"teacher_{name}"] for name in measures}} if measures else {}


def data_notes(data: PairedData) -> dict[str, str]:
    """Say plainly whether the numbers come from real data, and how, if not as usual."""
    simulated = "SIMULATED data: these numbers say nothing about the published data set"
    notes = {"source": simulated if data.source == "simulated" else "real data"}
    if data.protocol != "pooled":  # with the default nothing compares
        notes["scoring"] = (
            "as SSCNet's script: unknown voxels are empty, completion a mean of scenes"
        )
    return notes


def _origin_notes(run: Run, teacher: str | None) -> dict[str, str]:
    """Say where the teacher came from, and what else came from the cache."""
    notes = {"teacher": _ORIGINS[teacher]} if teacher in _ORIGINS else {}
    return notes | {
        PARTS[part]: f"from the cache, made {entry['created']}: {entry['path']}"
        for part, entry in run.from_cache.items()
    }


def _comparable(without: dict[str, Any], record: dict[str, Any]) -> dict[str, float]:
    """Return the measures without KD; the divergences only if they are from the same teacher."""
    metrics: dict[str, float] = without["metrics"]["last"]["test"]
    if without["teacher_hash"] == record["teacher_hash"] and _between(without) == _between(record):
        return metrics
    own = ("accuracy", "miou", "point_miou", "completion_")
    return {name: value for name, value in metrics.items() if name.startswith(own)}


def _between(record: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return what lies between a record's teacher and its student: mask and intervention."""
    settings = record["config"]
    return settings["mask"], settings["model"].get("init_args", {}).get("intervention")


def _saved_files(folder: Path) -> dict[str, str]:
    """Return what a run folder holds, for the summary."""
    return {
        "run": str(folder),
        "record": str(folder / "record.json"),
        "checkpoints": str(folder / "checkpoints"),
        "settings": str(folder / "config.yaml"),
        "log": str(folder / LOG),
        "curves": f"tensorboard --logdir {folder}",
        "page": f"ntdh-bench show {folder}",
    }


def _cell(metrics: Mapping[str, float], name: str) -> str:
    value = metrics.get(name)
    if value is None:
        return "-"
    return f"{value:.4f}" if name in _ALWAYS else f"{100 * value:.2f}"
