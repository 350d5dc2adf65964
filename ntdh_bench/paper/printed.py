"""The paper's own numbers (``paper.yaml``), as printed."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ntdh_bench.files.text import read_yaml
from ntdh_bench.records.columns import Row, blank_row
from ntdh_bench.report.pairing import scored

PATH = Path(__file__).with_name("paper.yaml")
REMOVES = {"T": "most_divergent", "R": "random", "F": "least_divergent"}
_DENSE = ("semantickitti", "nyuv2")  # judged by mIoU
DATASETS = {"table2": "mnist", "table3": "ravdess", "table4": "semantickitti"}


class PrintedTable(NamedTuple):
    """A table of the paper: its columns, and row label to numbers, in the paper's order."""

    columns: tuple[str, ...]
    values: dict[str, tuple[float, ...]]


@cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = read_yaml(PATH)
    return content


def source() -> str:
    """Return the citation of the paper."""
    return str(_content()["source"])


@cache
def tables() -> dict[str, PrintedTable]:
    """Return the paper's tables by name: ``table1`` to ``table4``."""
    return {
        name: PrintedTable(
            tuple(table["columns"]),
            {row: tuple(map(float, values)) for row, values in table["values"].items()},
        )
        for name, table in _content()["tables"].items()
    }


def figures() -> dict[str, str]:
    """Return what the paper's figures say in words, by name; they print no numbers."""
    return {name: figure["says"] for name, figure in _content()["figures"].items()}


def says(exhibit: str) -> str:
    """Return what the paper says about the figure that an exhibit is, or is part of."""
    return figures().get(re.sub(r"(fig\d+).*", r"\1", exhibit), "")


@cache
def as_rows(table: str) -> list[Row]:
    """Return a table's numbers in the form of records, one seed, accuracies or mIoUs alone.

    There are none of what is no table.
    """
    if table not in tables():
        return []
    found = tables()[table]
    if table == "table1":
        return [row for name, values in found.values.items() for row in _networks(name, values)]
    cells = [
        (row, name, number)
        for row, numbers in found.values.items()
        for name, number in zip(found.columns, numbers, strict=True)
    ]
    if table == "table4":  # methods are its rows, masks its columns
        cells = [(mask, method, number) for method, mask, number in cells]
    return [_cell(DATASETS[table], *cell) for cell in cells]


def _networks(dataset: str, values: tuple[float, ...]) -> list[Row]:
    return [
        _row(
            dataset,
            arm="single",
            modality=modality,
            student_parameters=round(1e6 * values[index]),
            **_score(dataset, values[2 + index]),
        )
        for index, modality in enumerate(("teacher", "student"))
    ]


def _cell(dataset: str, mask: str, method: str, number: float) -> Row:
    row = _row(dataset, arm="kd", **_score(dataset, number))
    if mask == "w/o KD":  # printed once a method, though it is one student
        return {**row, "arm": "without_kd"}
    row["method"] = method
    if mask == "w/o mask":
        return row
    removes, ratio = mask.split()
    kind = "sample" if dataset == "semantickitti" else "feature"
    return {**row, "mask": kind, "removes": REMOVES[removes], "ratio": float(ratio)}


def _score(dataset: str, number: float) -> Row:
    measure = "miou" if dataset in _DENSE else "accuracy"
    return {"measure": measure, f"last_test_{measure}": number / 100}


def _row(dataset: str, **given: Any) -> Row:
    return scored({**blank_row(), "dataset": dataset, "seed": 0, "unimodal": False, **given})
