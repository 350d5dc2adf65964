"""``ntdh-bench compare``: runs in one table. Imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ntdh_bench.cache import write_atomic
from ntdh_bench.commands.arguments import Parser
from ntdh_bench.show.comparison import compare, render, text, write_table
from ntdh_bench.show.runs import read_run


def main(argv: Sequence[str]) -> int:
    """Run ``ntdh-bench compare``; returns the exit status.

    Raises:
        UserError: no run is there, or a file cannot be written.
    """
    options = parser().parse_args(argv[1:])
    lines = compare([read_run(path, whole=False) for path in options.runs])
    for line in text(lines):
        print(line)
    if any(line.mark for line in lines):
        print("\nmarked: not measured or trained as the first run, so not to be compared with it")
    if options.csv:
        write_table(options.csv, lines)
        print(f"csv   {options.csv}")
    if options.html:
        with write_atomic(options.html) as temporary:
            temporary.write_text(render(lines), encoding="utf-8", errors="replace")
        print(f"open  {options.html}")
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    made = Parser(
        prog="ntdh-bench compare",
        description="Print a table of runs: the settings in which they differ, what they measured "
        "on test data, and the gain over the control beside each. Runs on other data, or of "
        "students trained otherwise than the first, are marked.",
    )
    made.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folders, or records of a sweep"
    )
    made.add_argument("--csv", type=Path, metavar="FILE", help="write the table there as well")
    made.add_argument("--html", type=Path, metavar="FILE", help="write it there as a page")
    return made
