"""``ntdh-bench tables``: tables, figures, claims and the page, from the records."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ntdh_bench.commands.arguments import Parser

if TYPE_CHECKING:
    from ntdh_bench.report.build import Report

_PROBLEMS = 10  # shown on screen; the page has all


def main(argv: list[str]) -> int:
    """Run ``ntdh-bench tables``; returns the exit status."""
    arguments = parser().parse_args(argv[1:])
    if arguments.check:
        return _check(arguments.results, arguments.runs)
    if arguments.upgrade:
        return _upgrade(arguments.results)
    from ntdh_bench.report.check import is_current

    if is_current(arguments.results, arguments.runs):
        print(f"{arguments.results}: up to date, nothing is made again")
        return 0
    from ntdh_bench.report.build import build

    report = build(arguments.results, arguments.runs)
    _print_summary(report, arguments.results)
    return 1 if report.evidence.conflicts else 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    made = Parser(
        prog="ntdh-bench tables",
        description="Collect the records of sweeps and write all tables, figures, the claims "
        "ledger, the test of the hypothesis and the page (index.html).",
    )
    made.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if anything is stale"
    )
    made.add_argument(
        "--upgrade", action="store_true",
        help="only convert records/*.csv of older schemas to this version's",
    )  # fmt: skip
    made.add_argument(
        "--runs", type=Path, default=Path("runs/sweep"), metavar="FOLDER",
        help="records of sweeps; default: runs/sweep",
    )  # fmt: skip
    made.add_argument(
        "--results", type=Path, default=Path("results"), metavar="FOLDER",
        help="what is written; default: results",
    )  # fmt: skip
    return made


def _check(results: Path, runs: Path) -> int:
    from ntdh_bench.report.check import check

    stale = check(results, runs)
    if not stale:
        print(f"{results}: up to date")
        return 0
    for line in stale:
        print(line)
    print(f"{results}: {len(stale)} stale; run `ntdh-bench tables`")
    return 1


def _upgrade(results: Path) -> int:
    from ntdh_bench.records.upgrading import upgrade

    lines = upgrade(results)
    for line in lines:
        print(line)
    print(f"{results}: {'run `ntdh-bench tables` again' if lines else 'nothing to convert'}")
    return 0


def _print_summary(report: Report, results: Path) -> None:
    rows = report.evidence.all_rows
    run = [content for content in report.contents if content.variants]
    verdicts = [result.verdict for result in report.claims]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
    print(f"records   {len(rows)} rows of {len(report.evidence.rows)} experiments")
    print(f"exhibits  {len(run)} of {len(report.contents)} with runs")
    print(f"claims    {counts or 'none tested'}")
    print(f"strata    {len(report.hypothesis.strata)} in the test of the hypothesis")
    print(f"files     {report.outputs} in {results}, {report.rebuilt} of them new or changed")
    problems = report.evidence.problems
    for problem in problems[:_PROBLEMS]:
        print(f"problem: {problem}")
    if len(problems) > _PROBLEMS:
        print(f"problem: and {len(problems) - _PROBLEMS} more, named in the page")
    print(f"open      {results / 'index.html'}")
