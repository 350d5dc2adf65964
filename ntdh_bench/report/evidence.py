"""What the report is made from: the CSVs of records, with a few columns computed from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.errors import FileError
from ntdh_bench.experiments import EXTRAS, TRIAL, load_shipped
from ntdh_bench.records.collecting import outdated_runs
from ntdh_bench.records.columns import CONTROLS, RecordError, Row
from ntdh_bench.records.csvs import Collected
from ntdh_bench.records.details import details_path, read_details
from ntdh_bench.records.rows import conflicts, csv_path, experiment_csvs, read_rows
from ntdh_bench.report.pairing import Controls, scored

Image = NDArray[np.float64]
#: Heat maps (H, W) of each mask, by seed.
Maps = dict[str, dict[int, Image]]
#: What is measured of a heat map, by name.
OfMaps = Mapping[str, Callable[[Image], float]]

#: What is known of a run's pair before distillation, in columns ``<metric>_before``; and on test
#: data, in columns ``<metric>_before_test``.
BEFORE = (
    "ncjsd", "tcjsd", "tcjsd_binary", "mi_teacher_student", "mi_student_label", "mi_teacher_label",
    "cka", "cka_logits",
)  # fmt: skip
BEFORE_ON_TEST = ("ncjsd", "tcjsd")


@dataclass(frozen=True)
class Evidence:
    """All rows, and what could not be read.

    Attributes:
        results: the folder that holds ``records/``.
        rows: by experiment, with the columns of :func:`derived` and ``pairing.scored``, and
            ``part_of``: the experiment whose exhibit and claims they belong to.
        problems: a line each.
        conflicts: those of them that name runs which cannot be told apart.
    """

    results: Path
    rows: dict[str, list[Row]]
    problems: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)

    @property
    def all_rows(self) -> list[Row]:
        """The rows of all experiments."""
        return [row for rows in self.rows.values() for row in rows]

    @property
    def tested(self) -> list[Row]:
        """The rows that claims and the hypothesis are tested on: all but those of trials."""
        return [row for row in self.all_rows if row["protocol"] != TRIAL]


def read(results: Path, of_maps: Mapping[str, OfMaps] | None = None) -> Evidence:
    """Read all CSVs of records that can be read.

    Args:
        results: the folder that holds ``records/``.
        of_maps: columns that rows of an experiment get from each of their heat maps.

    Left out, and named in ``problems``: files of another schema, damaged rows, rows of runs that
    the experiment of that name no longer has, and runs that cannot be told apart.
    """
    found: dict[str, list[Row]] = {}
    problems: list[str] = []
    clashes: list[str] = []
    current = shipped_runs()
    for path in experiment_csvs(results):
        try:
            rows, notes, alike = _current_rows(path, current.get(path.stem))
        except FileError as error:
            problems.append(str(error))
            continue
        columns, lacking = _map_columns(results, path.stem, (of_maps or {}).get(path.stem, {}))
        found[path.stem] = [row | columns[row["run"]] for row in rows]
        problems += notes + lacking
        clashes += alike
    controls = Controls(row for rows in found.values() for row in rows)
    problems += _mixed_threads(found, controls)
    part_of = {e.name: e.part_of for e in load_shipped()}
    complete = {
        name: [{**derived(row, controls), "part_of": part_of.get(name, name)} for row in rows]
        for name, rows in found.items()
    }
    return Evidence(results, complete, problems + clashes, clashes)


def _current_rows(
    path: Path, runs: set[tuple[str, str]] | None
) -> tuple[list[Row], list[str], list[str]]:
    """Return the rows of a CSV that the experiment still has, what is left out, and clashes.

    Args:
        path: of the CSV.
        runs: run and protocol of what the experiment has; None: its last sweep says.
    """
    read, problems = read_rows(path)
    outdated = outdated_runs(path) if runs is None else set()
    own = [
        row
        for row in read
        if (pair := (row["run"], row["protocol"])) not in outdated
        and (runs is None or pair in runs)
    ]
    if left := len(read) - len(own):
        problems.append(
            f"{path}: {left} rows of runs that {path.stem}.yaml no longer has are left out"
        )
    kept, clashes = conflicts(own)
    return [scored(row) for row in kept], problems, clashes


def _map_columns(
    results: Path, experiment: str, of_maps: OfMaps
) -> tuple[dict[str, Row], list[str]]:
    """Return what is measured of each run's heat maps, and what is wrong with maps and curves."""
    columns: dict[str, Row] = defaultdict(dict)
    details = {kind: _details(results, experiment, kind) for kind in EXTRAS}
    problems = [problem for detail in details.values() for problem in detail.problems]
    for (run, removes), image in _images(details["maps"].rows).items():
        if image is None:
            file = details_path(csv_path(results, experiment), "maps")
            problems.append(f"{file}: the map {removes} of run {run} lacks pixels: left out")
            continue
        columns[run] |= {f"{name}_{removes}": measure(image) for name, measure in of_maps.items()}
    return columns, problems


def _mixed_threads(rows: Mapping[str, Iterable[Row]], controls: Controls) -> list[str]:
    """Name the experiments that compare runs on different numbers of threads."""
    found = []
    for name, kept in rows.items():
        compared = [(row, controls.student(row, c)) for row in kept for c in _compared(row)]
        mixed = {
            (row["threads"], control["threads"])
            for row, control in compared
            if control is not None and row["threads"] != control["threads"]
        }
        if mixed:
            pairs = ", ".join(f"{kd} with {without}" for kd, without in sorted(mixed, key=str))
            found.append(
                f"{name}: runs are compared with their control on another number of threads "
                f"({pairs}): part of a gain may be rounding, as bits repeat on equal threads only"
            )
    return found


def _compared(row: Row) -> tuple[str, ...]:
    """Return the controls that a run is compared with: a control of other weights with w/o KD."""
    others = ("without_kd",) if row["arm"] in CONTROLS[1:] else ()
    return CONTROLS if row["arm"] == "kd" else others


def shipped_runs() -> dict[str, set[tuple[str, str]]]:
    """Return run and protocol of every run of each shipped experiment whose data set is there."""
    return {e.name: {(r.hash, r.protocol) for r in e.runs} for e in load_shipped() if not e.missing}


def derived(row: Row, controls: Controls) -> Row:
    """Return a row with columns computed from it and from its control."""
    gains = {control: controls.gain(row, over=control) for control in _compared(row)}
    tckl, nckl = row["last_test_tckl_binary"], row["last_test_nckl"]
    single = row["last_test_tckl_size"]
    measured = tckl is not None and nckl is not None
    return {
        **row,
        "gain": gains.get("without_kd"),
        "gain_over_equal_task": gains.get("equal_task"),
        "gain_over_matched": gains.get("matched"),
        **{f"{of}_before": controls.before(row, of) if gains else None for of in BEFORE},
        **{
            f"{of}_before_test": controls.before(row, of, "test") if gains else None
            for of in BEFORE_ON_TEST
        },
        "parameters": row["student_parameters"] or row["teacher_parameters"],
        "kl_bound": tckl + nckl if measured else None,
        "nckl_over_tckl": nckl / tckl if measured and tckl > 0 else None,
        "nckl_over_single_tckl": nckl / single if nckl is not None and single else None,
        "classes_less_1": row["classes"] - 1.0 if row["classes"] else None,
    }


def _details(results: Path, experiment: str, kind: str) -> Collected:
    """Return the curves or maps of an experiment, and what of them cannot be used."""
    try:
        return read_details(csv_path(results, experiment), kind)
    except RecordError as error:
        return Collected([], [str(error)])


def curves(results: Path, experiment: str, rows: Iterable[Row]) -> list[Row]:
    """Return a row per run and epoch: the run's own columns, ``epoch`` and the curves' metrics."""
    by_run = {row["run"]: row for row in rows}
    found: dict[tuple[str, int], Row] = defaultdict(dict)
    for line in _details(results, experiment, "curves").rows:
        if line["run"] in by_run:
            found[line["run"], line["epoch"]][line["metric"]] = line["value"]
    blank: Row = {"ncjsd": None, "tcjsd": None}
    return [  # a metric may bear any name, also that of a column: the run's own come last
        {**blank, **metrics, **by_run[run], "epoch": epoch}
        for (run, epoch), metrics in found.items()
    ]


def maps(results: Path, experiment: str, rows: Iterable[Row]) -> dict[str, Maps]:
    """Return the heat maps of the runs in ``rows``, by layer."""
    by_run = {row["run"]: row for row in rows}
    found: dict[str, Maps] = defaultdict(lambda: defaultdict(dict))
    for (run, removes), image in _images(_details(results, experiment, "maps").rows).items():
        if run in by_run and image is not None:
            found[by_run[run]["layer"] or ""][removes][by_run[run]["seed"]] = image
    return dict(sorted(found.items()))


def _images(lines: Iterable[Row]) -> dict[tuple[str, str], Image | None]:
    """Return the heat map of each run and mask; None if it is not whole."""
    pixels: dict[tuple[str, str], dict[tuple[int, int], float]] = defaultdict(dict)
    for line in lines:
        pixels[line["run"], line["removes"]][line["y"], line["x"]] = line["value"]
    return {key: _image(values) for key, values in pixels.items()}


def _image(pixels: Mapping[tuple[int, int], float]) -> Image | None:
    height, width = (1 + max(place[axis] for place in pixels) for axis in (0, 1))
    if len(pixels) != height * width:  # and a wrong index must not allocate
        return None
    image = np.zeros((height, width))
    for place, value in pixels.items():
        image[place] = value
    return image
