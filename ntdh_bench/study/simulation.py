"""Simulates the study: ``python -m ntdh_bench.study.simulation results``, in some minutes.

Writes ``study/nulls``, how often its rules err where nothing is to be found, and ``study/power``,
what they can find, each as CSV and Markdown. The noise of a run is that of the records of the
experiment ``methods``; all else is set in ``worlds.py``, in multiples of it.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, fields
from pathlib import Path

from ntdh_bench.cache import write_atomic
from ntdh_bench.records.csvs import write_csv
from ntdh_bench.records.rows import csv_path, read_rows
from ntdh_bench.study import nulls, planning
from ntdh_bench.study.worlds import noise_of

_FIRST = "methods"  # the experiment of the first records
MADE = "Made by `python -m ntdh_bench.study.simulation results`, in some minutes."


def write(results: Path, cases: int = 4000) -> None:
    """Simulate, and write ``study/nulls`` and ``study/power``, each as CSV and Markdown.

    Args:
        results: the folder that holds ``records/``.
        cases: data sets simulated a design and null model.
    """
    noise = noise_of(read_rows(csv_path(results, _FIRST)).rows)
    rates = nulls.nulls(list(noise.values()), cases)
    found = planning.power(noise, cases // 2)
    for name, values, text in (
        ("nulls", rates, nulls.text(rates, MADE)),
        ("power", found, planning.text(found, noise, MADE)),
    ):
        columns = [field.name for field in fields(values[0])]
        path = results / "study" / f"{name}.csv"
        write_csv(path, columns, map(asdict, values))
        with write_atomic(path.with_suffix(".md")) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "results"))
