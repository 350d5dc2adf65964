"""``ntdh-bench saliency``: Algorithm 1 alone, or the divergence of pixels, with its figures."""

from __future__ import annotations

from ntdh_bench.runs import Run, map_divergence
from ntdh_bench.runs.session import quiet_lightning
from ntdh_bench.runs.summary import print_maps


def main(argv: list[str]) -> int:
    """Run ``ntdh-bench saliency``; returns the exit status."""
    with quiet_lightning():
        run = Run.parse(argv[0], argv[1:])
        record, paths = map_divergence(run)
        if run.processes.is_first:
            print_maps(run, record, paths)
    return 0
