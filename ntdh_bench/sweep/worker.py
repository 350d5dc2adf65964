"""One run of an experiment, in a process that has paid for its imports already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ntdh_bench.commands import fit, saliency
from ntdh_bench.commands.training import FitCLI, run_command

# Nobody looks at the bars, and the record holds the curves.
_QUIET = {"enable_progress_bar": False, "logger": False}


def run_config(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a config as ``ntdh-bench fit`` (or its ``command``) would, and return the record.

    A student without KD is trained once for all runs that share it.

    Args:
        config: what ``--config`` takes; ``command`` may be ``saliency``.
        folder: empty, for checkpoints and other files of the run.

    Raises:
        UserError: what the command refuses.
    """
    settings = {name: value for name, value in config.items() if name != "command"}
    settings["trainer"] = {**settings.get("trainer", {}), **_QUIET}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    command = config.get("command", "fit")
    found: dict[str, Any] = {}

    def action() -> None:
        cli = FitCLI(command, ["--config", str(path)], folder=folder)
        found.update(saliency.run(cli) if command == "saliency" else fit.run(cli, True))

    run_command(action)
    return found
