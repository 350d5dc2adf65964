"""``ntdh-bench export``: a trained network as a file, with its model card."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ntdh_bench.commands.arguments import Parser


def main(argv: Sequence[str]) -> int:
    """Run ``ntdh-bench export``; returns the exit status.

    Raises:
        UserError: there is no such run or network, or it cannot be written so.
    """
    options, settings = parser().parse_known_args(argv[1:])
    from ntdh_bench.runs.export import checkpoint_in, export
    from ntdh_bench.runs.session import quiet_lightning
    from ntdh_bench.runs.summary import data_notes, print_summary

    checkpoint = checkpoint_in(options.run)
    with quiet_lightning():
        made = export(checkpoint, options.format, options.network, options.output, settings)
    samples = f"{made.samples} test sample{'s' * (made.samples > 1)}"
    notes = {
        **data_notes(made.data),
        "checkpoint": str(checkpoint),
        "checked": f"loaded again, logits of {samples} differ by at most {made.difference:.2g}",
        "file": str(made.path),
        "model card": str(made.card),
    }
    print_summary("", {}, notes)
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    made = Parser(
        prog="ntdh-bench export",
        description="Write the student (or the teacher) of a run to a file, load it again, compare "
        "its logits on test data with the network's, and write a model card beside it.",
        epilog="Other options, such as --data.root, are settings of the run, as `test` takes them.",
    )
    add = made.add_argument
    add("run", metavar="RUN", help="folder of a run, or a checkpoint of one")
    add("--format", default="torch_export", help="torch_export (default), state_dict or onnx")
    add("--network", metavar="NAME", help="student (default) or teacher")
    add("--output", metavar="FOLDER", help="where to; default: RUN/export")
    return made
