"""What is run: a config made into objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ntdh_bench.cache import origin
from ntdh_bench.composition import Config
from ntdh_bench.contract import BenchModule, described
from ntdh_bench.errors import DataError, UserError
from ntdh_bench.masks import Mask
from ntdh_bench.notices import say
from ntdh_bench.parsing.parser import BenchCLI
from ntdh_bench.runs.checkpoint_files import LAST
from ntdh_bench.runs.identity import identify
from ntdh_bench.runs.processes import Processes

LOG = "run.log"  # what was said while it ran
# What a run trains or computes, or takes from the cache, as it is called on the screen.
PARTS = {
    "teacher": "teacher", "retrained": "retrained teacher", "control": "student",
    "reference": "reference student", "saliency": "Algorithm 1",
}  # fmt: skip


@dataclass
class Run:
    """One config, made into objects; nothing is read or written before it is run.

    Attributes:
        command: which one runs it, for messages.
        config: resolved, plain values that ``--config`` takes.
        code: third-party code that the config names: name to digest.
        model: what is trained or measured.
        data: the data module.
        trainer: settings of the Trainer, its callbacks and loggers made.
        mask: of features or samples, if any.
        given_folder: an empty one for what is written; by default a new one in ``run_dir``.
        folder: where the run is kept, once it began.
        processes: that share the run, once it began.
        from_cache: what came from a cache: part (``teacher``, ``control`` ...) to its
            :func:`ntdh_bench.cache.origin`.
    """

    command: str
    config: Config
    code: Mapping[str, str]
    model: Any
    data: Any
    trainer: Mapping[str, Any]
    mask: Mask | None = None
    given_folder: Path | None = None
    folder: Path = field(init=False)
    processes: Processes = field(init=False)
    from_cache: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def parse(
        cls,
        command: str,
        words: Sequence[str] = (),
        *,
        config: Config | None = None,
        folder: Path | None = None,
    ) -> Run:
        """Return the run of a command line.

        Args:
            command: what is to be done with it, ``fit``, ``test`` ...
            words: that follow the command.
            config: settings before those words, as ``--config`` gives them.
            folder: an empty one for what the run leaves.

        Raises:
            UserError: a setting is wrong.
        """
        cli = BenchCLI(command, words, config)
        made = cli.config_init
        parts = (made.model, made.data, made.trainer, made.get("mask"))
        return cls(command, cli.plain, cli.code, *parts, folder)

    @property
    def described(self) -> BenchModule:
        """The model, with a plain one's answers to what it does not say of itself."""
        return described(self.model)

    @property
    def checkpoint(self) -> str | None:
        """What is resumed or measured, if anything."""
        path: str | None = self.config["ckpt_path"]
        return path

    @property
    def uses_cache(self) -> bool:
        """Whether what earlier runs left may be used."""
        return not self.config["no_cache"]

    def take_cached(self, part: str, path: Path) -> None:
        """Note, and say, that a part comes from the cache."""
        self.from_cache[part] = origin(path)
        say(f"{PARTS[part]}: from the cache, made {self.from_cache[part]['created']}")

    @property
    def is_trial(self) -> bool:
        """Whether this is a ``fast_dev_run``, which leaves nothing behind."""
        return bool(self.trainer["fast_dev_run"])

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether the run keeps the last epoch, and the best one."""
        return self.trainer["enable_checkpointing"] is not False and not self.is_trial

    @property
    def last_checkpoint(self) -> Path:
        """Where the run's last epoch is kept."""
        return self.folder / "checkpoints" / LAST

    def load_data(self, stage: str) -> None:
        """Set the data module up for what the networks see: one modality needs no other files.

        Raises:
            DataError: it cannot be done.
        """
        self.data.modality = self.described.modality
        self.data.teacher_inputs = self.described.teacher_inputs
        try:
            self.data.prepare_data()
            self.data.setup(stage)
        except (UserError, ValueError) as error:
            raise DataError(str(error)) from error

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The settings, data and code that results depend on, once the data are loaded."""
        return identify(self.config, self.code, self.data.source, self.data.fingerprint)
