"""What the report is made from: the CSVs of records, with a few columns computed from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.records import Row, csv_path, read_details, read_rows
from ntdh_bench.report.check import experiment_csvs
from ntdh_bench.report.pairing import Controls

Image = NDArray[np.float64]
#: Heat maps (H, W) of each mask, by seed.
Maps = dict[str, dict[int, Image]]


@dataclass(frozen=True)
class Evidence:
    """All rows, and what could not be read.

    Attributes:
        results: the folder that holds ``records/``.
        rows: by experiment, with the columns of :func:`derived`.
        problems: a line each.
    """

    results: Path
    rows: dict[str, list[Row]]
    problems: list[str] = field(default_factory=list)

    @property
    def all_rows(self) -> list[Row]:
        """The rows of all experiments."""
        return [row for rows in self.rows.values() for row in rows]


def read(results: Path) -> Evidence:
    """Read all CSVs of records.

    Raises:
        UserError: one of them is no CSV of this schema.
    """
    rows, problems = {}, []
    for path in experiment_csvs(results):
        found = read_rows(path)
        rows[path.stem] = found.rows
        problems += found.problems
    controls = Controls(row for found in rows.values() for row in found)
    return Evidence(
        results,
        {name: [derived(row, controls) for row in found] for name, found in rows.items()},
        problems,
    )


def derived(row: Row, controls: Controls) -> Row:
    """Return a row with columns computed from it and from its control."""
    kd = row["arm"] in ("kd", "matched")
    tckl, nckl = row["last_test_tckl_binary"], row["last_test_nckl"]
    measured = tckl is not None and nckl is not None
    return {
        **row,
        "gain": controls.gain(row) if kd else None,
        "ncjsd_before": controls.before(row, "ncjsd") if kd else None,
        "tcjsd_before": controls.before(row, "tcjsd") if kd else None,
        "parameters": row["student_parameters"] or row["teacher_parameters"],
        "kl_bound": tckl + nckl if measured else None,
        "nckl_over_tckl": nckl / tckl if measured and tckl > 0 else None,
        "classes_less_1": row["classes"] - 1.0 if row["classes"] else None,
    }


def curves(results: Path, experiment: str, rows: Iterable[Row]) -> list[Row]:
    """Return a row per run and epoch: the run's own columns, ``epoch`` and the curves' metrics."""
    by_run = {row["run"]: row for row in rows}
    found: dict[tuple[str, int], Row] = defaultdict(dict)
    for line in read_details(csv_path(results, experiment), "curves"):
        if line["run"] in by_run:
            found[line["run"], int(line["epoch"])][line["metric"]] = float(line["value"])
    blank: Row = {"ncjsd": None, "tcjsd": None}
    return [
        {**by_run[run], **blank, **metrics, "epoch": epoch}
        for (run, epoch), metrics in found.items()
    ]


def maps(results: Path, experiment: str, rows: Iterable[Row]) -> dict[str, Maps]:
    """Return the heat maps of the runs in ``rows``, by layer."""
    by_run = {row["run"]: row for row in rows}
    pixels: dict[tuple[str, str], dict[tuple[int, int], float]] = defaultdict(dict)
    for line in read_details(csv_path(results, experiment), "maps"):
        if line["run"] in by_run:
            place = int(line["y"]), int(line["x"])
            pixels[line["run"], line["removes"]][place] = float(line["value"])
    found: dict[str, Maps] = defaultdict(lambda: defaultdict(dict))
    for (run, removes), image in pixels.items():
        row = by_run[run]
        found[row["layer"] or ""][removes][row["seed"]] = _image(image)
    return dict(sorted(found.items()))


def _image(pixels: Mapping[tuple[int, int], float]) -> Image:
    height, width = (1 + max(place[axis] for place in pixels) for axis in (0, 1))
    image = np.zeros((height, width))
    for place, value in pixels.items():
        image[place] = value
    return image
