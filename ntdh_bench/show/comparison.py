"""Runs in one table: in what they differ, what they measured, and which cannot be compared."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntdh_bench import __version__
from ntdh_bench.cache import write_atomic
from ntdh_bench.errors import one_line
from ntdh_bench.records.identity import baseline_hash
from ntdh_bench.report.elements import badge, document, scroll, section, sort_value
from ntdh_bench.report.html import Html, el
from ntdh_bench.show.runs import ShownRun, gain, scores
from ntdh_bench.show.settings import flat

OTHER_TRAINING, UNFINISHED = "other training", "not finished"
_OF_DATA = ("dataset", "source", "measure")
_BATCHES = ("batch_size", "steps_per_epoch")  # of training
_HIDDEN = ("data.fingerprint", "third_party")  # told by a mark, or by no person
_MEASURED = ("accuracy", "miou", "teacher_accuracy", "teacher_miou", "ncjsd", "tcjsd")
_SHARES = ("accuracy", "miou", "teacher_accuracy", "teacher_miou")
_TITLE = "Runs compared"
_STYLE = (Path(__file__).parent / "run.css").read_text("utf-8")
_NOTE = (
    "Test data, last epoch; accuracy and mIoU in per cent, divergences in nats, gains in points "
    "over the control beside each run (same seed). Marked runs are measured otherwise than the "
    "first: `other data` is another data set, source, split or preparation, so that the scores are "
    "of different things; `other training` is another student, optimiser, schedule or number of "
    "epochs, so that a difference is not the method's alone."
)


@dataclass(frozen=True)
class ComparedRun:
    """A line of the table.

    Attributes:
        name: of the run.
        settings: those in which the runs differ, by key; empty where a run has none such.
        values: what it measured, shares and gains times 100, by name.
        mark: why it cannot be compared with the first run; empty if it can.
    """

    name: str
    settings: Mapping[str, str]
    values: Mapping[str, float]
    mark: str


def compare(runs: Sequence[ShownRun]) -> list[ComparedRun]:
    """Return a line a run, in order, with the settings in which those on the same data differ."""
    first = next((run for run in runs if run.record is not None), None)
    marks = [_mark(run, first) for run in runs]
    flattened = [
        flat(run.settings) if mark in ("", OTHER_TRAINING) else {}
        for run, mark in zip(runs, marks, strict=True)
    ]
    keys = _differing([settings for settings in flattened if settings])
    return [
        ComparedRun(run.name, {key: own.get(key, "") for key in keys}, _values(run), mark)
        for run, own, mark in zip(runs, flattened, marks, strict=True)
    ]


def _differing(settings: Sequence[Mapping[str, str]]) -> list[str]:
    keys = dict.fromkeys(key for each in settings for key in each)
    shown = [key for key in keys if not key.startswith(_HIDDEN)]
    return [key for key in shown if len({each.get(key) for each in settings}) > 1]


def _values(run: ShownRun) -> dict[str, float]:
    if run.record is None:
        return {}
    measured = scores(run.record)
    found = {
        name: measured[name] * (100 if name in _SHARES else 1)
        for name in _MEASURED
        if name in measured
    }
    measure = str((run.row or {}).get("measure"))
    for name, control in run.baselines().items():
        over = gain(measured, scores(control), measure)
        if over is not None:
            found[f"gain over {name}"] = over
    return found


def _mark(run: ShownRun, first: ShownRun | None) -> str:
    """Return why a run cannot be compared with the first that finished."""
    if run.record is None:
        return UNFINISHED
    assert first is not None
    assert first.record is not None
    if not _same_data(run.record, first.record):
        return f"other data: {run.record['dataset']}, {run.record['source']}"
    if _training(run.record) != _training(first.record):
        return OTHER_TRAINING
    return ""


def _same_data(record: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two runs are tested on the same; of another seed noise may differ."""
    if any(record.get(name) != other.get(name) for name in _OF_DATA):
        return False
    if record["seed"] == other["seed"]:
        return bool(record.get("data_fingerprint") == other.get("data_fingerprint"))
    first, second = (flat(each["config"]["data"]) for each in (record, other))
    keys = (first.keys() | second.keys()) - {"fingerprint", *_BATCHES}
    return all(first.get(key) == second.get(key) for key in keys)


def _training(record: Mapping[str, Any]) -> str:
    """Return a hash of the student's own training, whatever the seed and the teacher."""
    settings = record["config"]
    data = {**settings["data"], "fingerprint": ""}
    return baseline_hash({**settings, "seed": 0, "data": data})


# -- shown ---------------------------------------------------------------------------------------


def columns(lines: Sequence[ComparedRun]) -> list[str]:
    """Return the names of what was measured, in order, gains last."""
    found = dict.fromkeys(name for line in lines for name in line.values)
    return sorted(found, key=lambda name: name.startswith("gain"))


def text(lines: Sequence[ComparedRun]) -> list[str]:
    """Return the table as padded lines."""
    measured, keys = columns(lines), list(lines[0].settings)
    rows = [["run", *measured, "", *keys]]
    for line in lines:
        values = [shown(name, line.values.get(name)) for name in measured]
        rows.append([line.name, *values, line.mark, *line.settings.values()])
    rows = [[one_line(cell) for cell in row] for row in rows]  # settings may hold any text
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = range(1, 1 + len(measured))
    return [
        "  ".join(
            cell.rjust(width) if place in numbers else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def shown(name: str, value: float | None) -> str:
    """Return a value of a column as text."""
    if value is None:
        return "-"
    if name.startswith("gain"):
        return f"{value:+.2f}"
    return f"{value:.2f}" if name in _SHARES else f"{value:.4f}"


def write_table(path: Path, lines: Sequence[ComparedRun]) -> None:
    """Write the table as CSV, numbers with all digits.

    Raises:
        UserError: the folder cannot be written.
    """
    measured, keys = columns(lines), list(lines[0].settings)
    with (
        write_atomic(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="replace") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["run", *measured, "not_comparable", *keys])
        for line in lines:
            values = [line.values.get(name, "") for name in measured]
            words = map(_plain, (line.mark, *line.settings.values()))
            writer.writerow([_plain(line.name), *values, *words])


def _plain(text: str) -> str:
    """Return text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def render(lines: Sequence[ComparedRun]) -> str:
    """Return the table as a page."""
    measured, keys = columns(lines), list(lines[0].settings)
    rows = [_row(line, measured) for line in lines]
    names = ["run", *measured, "comparable", *keys]
    head = (
        el(
            "th",
            el("button", name, type="button"),
            scope="col",
            class_=None if name in measured else "text",
        )
        for name in names
    )
    table = el("table", el("thead", el("tr", *head)), el("tbody", *rows))
    body = section("runs", "Runs", scroll(table, _TITLE), el("p", _NOTE, class_="note"))
    top = el("header", el("h1", _TITLE))
    foot = el("p", f"Made by ntdh-bench {__version__} from the records of the runs.")
    return document(_TITLE, top, {"runs": "Runs"}, body, foot, _STYLE)


def _row(line: ComparedRun, measured: Sequence[str]) -> Html:
    kind = "fails" if line.mark == UNFINISHED else "inconclusive"
    values = [(shown(name, line.values.get(name)), line.values.get(name)) for name in measured]
    return el(
        "tr",
        el("th", line.name, scope="row"),
        *(el("td", text, data_value=sort_value(value)) for text, value in values),
        el("td", badge(line.mark, kind) if line.mark else "✓", class_="text"),
        *(el("td", value or "–", class_="text") for value in line.settings.values()),
    )
