"""The folder of a run."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from ntdh_bench.cache import write_atomic
from ntdh_bench.errors import UserError
from ntdh_bench.composition import Config
from ntdh_bench.parsing.configs import with_absolute_paths
from ntdh_bench.parsing.parser import CONFIG
from ntdh_bench.runs.identity import short_name
from ntdh_bench.runs.run import Run


def make_folder(run: Run) -> Path:
    """Return the folder that was given, or make a new one in ``run_dir``; it gets the config.

    Raises:
        UserError: it cannot be written.
    """
    root = Path(run.config["run_dir"])
    try:
        folder = run.given_folder or _new_folder(root, run.identity)
        _save_config(run.config, folder)
    except OSError as error:
        raise UserError(
            f"cannot make a run folder in {root}: {error.strerror}; give --run_dir a folder "
            "that can be written"
        ) from None
    return folder


def _save_config(config: Config, folder: Path) -> None:
    with write_atomic(folder / CONFIG) as temporary:
        # It repeats the run, whole and from any folder.
        settings = {**with_absolute_paths(config), "ckpt_path": None}
        del settings["no_cache"]
        temporary.write_text(yaml.safe_dump(settings, sort_keys=False))


def _new_folder(root: Path, identity: dict[str, Any]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{short_name(identity)}"
    for number in range(1, 1000):
        folder = root / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise UserError(f"{root} has 999 runs called {name}: give another --run_dir")
