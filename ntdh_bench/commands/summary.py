"""What a command prints at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

_ALWAYS = ("tcjsd", "ncjsd")
_TITLES = {
    "accuracy": "accuracy %", "miou": "mIoU %", "point_miou": "point mIoU %",
    "completion_iou": "completion IoU %", "completion_precision": "precision %",
    "completion_recall": "recall %", "tcjsd": "TCJSD", "ncjsd": "NCJSD",
}  # fmt: skip


def print_summary(
    title: str,
    rows: Mapping[str, Mapping[str, float] | None],
    notes: Mapping[str, str],
) -> None:
    """Print accuracies or mean IoUs (per cent) and divergences (nats) of teacher and students.

    Mean IoUs of points, and how hidden voxels are completed, have columns where they are measured.

    Args:
        title: what was measured, on which data.
        rows: name of a network to its ``accuracy`` or ``miou``, ``point_miou``, ``completion_...``,
            ``tcjsd`` and ``ncjsd``; ``None`` values and missing metrics show as a dash.
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


def metrics_by_name(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return what Trainer.test or .validate measured, without the split before the names."""
    return {name.partition("/")[2]: float(value) for name, value in results[0].items()}


def teacher_measure(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the teacher's ``accuracy`` or ``miou``, as a row; nothing if there is no teacher."""
    found = {name: metrics.get(f"teacher_{name}") for name in ("accuracy", "miou")}
    return {name: value for name, value in found.items() if value is not None}


def _cell(metrics: Mapping[str, float], name: str) -> str:
    value = metrics.get(name)
    if value is None:
        return "-"
    return f"{value:.4f}" if name in _ALWAYS else f"{100 * value:.2f}"
