"""``ntdh-bench fit``: teacher, mask, distillation, test, summary and record in one command."""

from __future__ import annotations

from ntdh_bench.runs.fitting import run
from ntdh_bench.runs.training import FitCLI, run_command


def main(argv: list[str]) -> int:
    """Run ``ntdh-bench fit``; returns the exit status."""
    return run_command(lambda: run(FitCLI(argv[0], argv[1:])))
