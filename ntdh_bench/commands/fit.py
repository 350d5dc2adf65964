"""``ntdh-bench fit``: teacher, mask, distillation, test, summary and record in one command."""

from __future__ import annotations

from ntdh_bench.runs import Run, fit
from ntdh_bench.runs.session import quiet_lightning
from ntdh_bench.runs.summary import print_fit


def main(argv: list[str]) -> int:
    """Run ``ntdh-bench fit``; returns the exit status."""
    with quiet_lightning():
        run = Run.parse(argv[0], argv[1:])
        record = fit(run)
        if run.processes.is_first:
            print_fit(run, record)
    return 0
