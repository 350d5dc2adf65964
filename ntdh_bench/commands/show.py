"""``ntdh-bench show``: one page of a run. Imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ntdh_bench.cache import write_atomic
from ntdh_bench.commands.arguments import Parser
from ntdh_bench.show.page import render
from ntdh_bench.show.runs import read_run

_PAGE = "run.html"


def main(argv: Sequence[str]) -> int:
    """Run ``ntdh-bench show``; returns the exit status.

    Raises:
        UserError: no run is there, or the page cannot be written.
    """
    options = parser().parse_args(argv[1:])
    run = read_run(options.run)
    page = options.output or _beside(run.path)
    with write_atomic(page) as temporary:
        temporary.write_text(render(run), encoding="utf-8", errors="replace")
    for line in run.missing:
        print(f"missing: {line}")
    print(f"open     {page}")
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    made = Parser(
        prog="ntdh-bench show",
        description="Write one HTML page of a run, with everything inside: what was run, its "
        "result beside its controls, curves, confusion matrices, samples, the mask, and how to "
        "run it again.",
    )
    made.add_argument(
        "run", type=Path, metavar="RUN", help="a run folder, or a record of a sweep's run"
    )
    made.add_argument(
        "--output", type=Path, metavar="FILE",
        help=f"default: {_PAGE} in the run folder, beside a record a page of its name",
    )  # fmt: skip
    return made


def _beside(path: Path) -> Path:
    return path.with_suffix(".html") if path.suffix == ".json" else path / _PAGE
