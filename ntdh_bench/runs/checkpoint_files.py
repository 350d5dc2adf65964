"""How a run's checkpoints are written and removed: any kill leaves a state that resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ntdh_bench.checkpoints import write_checkpoint
from ntdh_bench.errors import UserError

LAST = "last.ckpt"
BEST = "best-"  # how the names of best checkpoints begin


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, and keeps a best one while last.ckpt names it.

    Lightning's own writing goes through the temporary folder, which may be another file system.

    Args:
        run: the run's folder.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._written: set[Path] = set()
        self._outdated: set[Path] = set()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None
    ) -> None:
        """Write a checkpoint (Lightning hook).

        Raises:
            UserError: its folder cannot be written, or the run's is gone.
        """
        check_run_folder(self._run)
        file = Path(path)
        write_checkpoint(checkpoint, file)
        self._written.add(file)
        self._outdated.discard(file)
        if file.name == LAST:
            for outdated in self._outdated:
                outdated.unlink(missing_ok=True)
            self._outdated.clear()

    def remove_checkpoint(self, path: _PATH) -> None:
        """Remove a checkpoint, a best one when last.ckpt names the next (Lightning hook).

        Callbacks name what the checkpoint that they were restored from says. Only what was written
        here, or lies in the run's folder, is removed.
        """
        file = Path(path)
        if file not in self._written and not file.resolve().is_relative_to(self._run.resolve()):
            return
        if file.name.startswith(BEST):
            self._outdated.add(file)
        else:
            file.unlink(missing_ok=True)


def check_run_folder(run: Path) -> None:
    """Raise a UserError if a run's folder was removed: writing would make half of it anew."""
    if not run.is_dir():
        raise UserError(
            f"the run folder {run} was removed while the run went on: start the run again"
        )
