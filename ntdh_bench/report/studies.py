"""What a study adds to the report: files, and what the page opens on.

A study is a function of the rows, :data:`StudyOf`, that an entry point of the group
``ntdh_bench.studies`` names. The report knows nothing of what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ntdh_bench.plugins import load, registered
from ntdh_bench.records.columns import Row
from ntdh_bench.report.check import STUDIES
from ntdh_bench.report.html import Html


@dataclass(frozen=True)
class Added:
    """What a study adds.

    Attributes:
        files: name in the results folder to text.
        front: what the page opens on; None: nothing.
        left_out: runs that cannot be told apart, a line each.
    """

    files: Mapping[str, str]
    front: Html | None = None
    left_out: Sequence[str] = ()


StudyOf: TypeAlias = Callable[[Sequence[Row]], Added]


def studies() -> list[StudyOf]:
    """Return the studies of this package and of installed plug-ins, in order of name.

    Raises:
        UserError: one cannot be imported.
    """
    return [load(entry) for entry in registered(STUDIES).values()]
