"""``ntdh-bench saliency``: Algorithm 1 alone, or the divergence of pixels, with its figures."""

from __future__ import annotations

from ntdh_bench.runs.saliency import run
from ntdh_bench.runs.training import FitCLI, run_command


def main(argv: list[str]) -> int:
    """Run ``ntdh-bench saliency``; returns the exit status."""
    return run_command(lambda: run(FitCLI(argv[0], argv[1:])))
