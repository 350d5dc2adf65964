"""Divergence between people as an exhibit of the report: entry point of ``ntdh_bench.papers``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ntdh_bench.files.text import read_yaml
from ntdh_bench.records.columns import Row
from ntdh_bench.report.cells import Where, select
from ntdh_bench.report.layouts import table_cell
from ntdh_bench.report.papers import Exhibit, Paper
from ntdh_bench.report.statistics import Estimate
from ntdh_bench.report.tables import NATS, PERCENT, Cell, Column, Line, Table, Unit

#: What ``ntdh-bench data votes`` measured.
PATH = Path(__file__).with_name("votes.yaml")

# Of people, by column: name in the file, and of networks.
_COLUMNS: dict[Column, tuple[str, str | None, Unit]] = {
    Column("first", "right answers (%)"): ("first_right", "last_test_teacher_score", PERCENT),
    Column("second", "right answers (%)"): ("second_right", "last_test_score", PERCENT),
    Column("TCJSD"): ("tcjsd", "last_test_tcjsd", NATS),
    Column("NCJSD"): ("ncjsd", "last_test_ncjsd", NATS),
    Column("0.1 added", "NCJSD of people"): ("ncjsd_0.1", None, NATS),
    Column("1 added", "NCJSD of people"): ("ncjsd_1", None, NATS),
    Column("by chance", "NCJSD of people"): ("chance", None, NATS),
}  # fmt: skip
_NETWORKS: dict[str, Where] = {
    "networks, w/o KD": {"arm": "without_kd", "mask": None},
    "networks, KD": {"arm": "kd", "method": "KD", "mask": None},
}


def people_table(rows: Sequence[Row]) -> list[Table]:
    """Return people of two modalities a line, and networks of speech and face."""
    lines = [
        Line((f"people, {pair['first']} and {pair['second']}",), tuple(_people(pair)))
        for pair in read_yaml(PATH)["pairs"]
    ]
    for label, where in _NETWORKS.items():
        found = select(rows, where)
        cells = tuple(
            None if column is None else table_cell(found, column)
            for _, column, _ in _COLUMNS.values()
        )
        lines += [Line((f"{label}, speech and face",), cells)] if found else []
    return [Table("", ("who",), tuple(_COLUMNS), tuple(lines))]


def _people(pair: dict[str, Any]) -> list[Cell]:
    return [Cell(Estimate(*pair[name]), unit) for name, _, unit in _COLUMNS.values()]


PEOPLE = Paper(
    "H. Cao et al., CREMA-D: Crowd-Sourced Emotional Multimodal Actors Dataset, IEEE Transactions "
    "on Affective Computing 5(4), 2014",
    (
        Exhibit(
            "people", "Extra", "People who hear, see or do both, beside networks", "table3",
            table=people_table,
            note="People: votes on 7,442 clips of CREMA-D (Open Database License), six emotions, "
                 "about ten votes a clip and modality; right answers are the share of votes for "
                 "the emotion played. 0.5 is added to each count, and NCJSD depends on that "
                 "choice; by chance is the NCJSD if all votes on a clip are dealt anew, so it is "
                 "what so few votes show where people agree. Intervals are over actors. Networks: "
                 "eight emotions of RAVDESS, intervals over seeds. NCJSD grows with the number of "
                 "classes: compare its size within a data set.",
        ),
    ),
)  # fmt: skip
