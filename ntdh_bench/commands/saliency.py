"""``ntdh-bench saliency``: the joint pair and Algorithm 1 alone, with its figures."""

from __future__ import annotations

from ntdh_bench.commands.fit import source_note
from ntdh_bench.commands.summary import print_summary
from ntdh_bench.commands.teacher import load_pair
from ntdh_bench.commands.training import FitCLI, run_command
from ntdh_bench.errors import UserError
from ntdh_bench.layers import find_layer
from ntdh_bench.masks import FeatureMask
from ntdh_bench.masks.report import saliency_report


def main(argv: list[str]) -> int:
    """Run ``ntdh-bench saliency``; returns the exit status."""
    return run_command(lambda: _run(FitCLI(argv[0], argv[1:])))


def _run(cli: FitCLI) -> None:
    if not hasattr(cli.model, "teacher_module"):
        raise UserError("saliency needs a teacher: give a config whose model is DistillationModule")
    mask = cli.mask or FeatureMask(ratio=0.25, seed=cli.config.seed_everything)
    if not isinstance(mask, FeatureMask):
        raise UserError(f"saliency needs --mask FeatureMask, not {type(mask).__name__}")
    find_layer(cli.model.teacher_network(), mask.layer)
    load_pair(cli)
    paths = saliency_report(cli.model, cli.datamodule, mask, cli.folder / "saliency")
    notes = {"source": source_note(cli.datamodule.source), "numbers": str(paths[0])}
    notes |= {path.stem.replace("_", " "): str(path) for path in paths if path.suffix == ".png"}
    print_summary("", {}, notes)
