"""What a command prints at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_summary(
    title: str,
    rows: Mapping[str, Mapping[str, float] | None],
    notes: Mapping[str, str],
) -> None:
    """Print accuracies (per cent) and divergences (nats) of teacher and students.

    Args:
        title: what was measured, on which data.
        rows: name of a network to its ``accuracy``, ``tcjsd`` and ``ncjsd``; ``None`` values and
            missing metrics show as a dash.
        notes: lines below the table: where things are.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("network")
    for name in ("accuracy %", "TCJSD", "NCJSD"):
        table.add_column(name, justify="right")
    for name, metrics in rows.items():
        table.add_row(name, *_cells(metrics or {}))
    console = Console()
    if rows:
        console.print(table)
    width = max(map(len, notes), default=0)
    for name, note in notes.items():
        console.print(f"{name:<{width}}  {note}", highlight=False, soft_wrap=True, markup=False)


def metrics_by_name(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return what Trainer.test or .validate measured, without the split before the names."""
    return {name.partition("/")[2]: float(value) for name, value in results[0].items()}


def _cells(metrics: Mapping[str, Any]) -> list[str]:
    accuracy = metrics.get("accuracy")
    cells = ["-" if accuracy is None else f"{100 * accuracy:.2f}"]
    for name in ("tcjsd", "ncjsd"):
        value = metrics.get(name)
        cells.append("-" if value is None else f"{value:.4f}")
    return cells
