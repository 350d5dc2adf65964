"""``ntdh-bench fit | saliency | validate | test | predict``: the commands that run models.

What can be refused without torch, which takes seconds to import, is refused before.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ntdh_bench.commands.arguments import Parser
from ntdh_bench.errors import UserError
from ntdh_bench.notices import add_verbosity, speaking
from ntdh_bench.parsing.configs import checkpoint_of, inline_configs, is_config

if TYPE_CHECKING:
    from ntdh_bench.runs import Run

_CONTROL = "overlays/without_kd"


def main(argv: Sequence[str]) -> int:
    """Run the command that comes first in ``argv``; returns the exit status.

    Raises:
        UserError: the run is refused, or cannot be done.
        Stopped: by Ctrl-C or SIGTERM.
    """
    options, words = own_options(argv[0], argv[1:])
    _check(argv[0], words)
    with speaking(options.verbosity):
        if argv[0] == "fit" and options.with_control:
            _fit_control(words)
        _run(argv[0], words)
    return 0


def own_options(command: str, words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options that are no settings of a run, and the words that are."""
    own = Parser(prog=f"ntdh-bench {command}", add_help=False)
    add_verbosity(own)
    if command == "fit":
        own.add_argument("--with-control", action="store_true")
    return own.parse_known_args(words)


def _check(command: str, words: Sequence[str]) -> None:
    """Refuse what needs no torch to be refused.

    Raises:
        UserError: a config is wrong, a checkpoint is missing, or there is nothing to run.
    """
    inline_configs(words)
    checkpoint_of(words)
    names = {word.partition("=")[0] for word in words}
    if names & {"--model", "--ckpt_path", "-h", "--help", "--print_config"}:
        return
    if any(name.endswith(".help") for name in names):
        return
    if command not in ("fit", "saliency"):
        raise UserError(
            f"`ntdh-bench {command}` measures a checkpoint: give --ckpt_path "
            "<run>/checkpoints/last.ckpt"
        )
    if not any(map(is_config, words)):
        raise UserError(
            f"nothing to {command}: give --config quickstart, say (`ntdh-bench config list` has "
            "more), or --ckpt_path to go on with a run"
        )


def parser(command: str) -> argparse.ArgumentParser:
    """Return what is known of a command's options without torch, to complete them in a shell."""
    made = Parser(prog=f"ntdh-bench {command}")
    add_verbosity(made)
    add = made.add_argument
    add("-c", "--config", metavar="CONFIG", action="append")
    add("--ckpt_path", metavar="CHECKPOINT")
    add("--seed_everything", metavar="SEED")
    for part in ("model", "data", "mask"):
        add(f"--{part}", metavar="CLASS")
    if command == "fit":
        add("--with-control", action="store_true")
    if command in ("fit", "saliency"):
        add("--run_dir", metavar="FOLDER")
        add("--no-cache", action="store_true")
    if command == "predict":
        add("--output", metavar="FOLDER")
        add("--logits", action="store_true")
    for name in ("max_epochs", "accelerator", "devices", "precision", "logger", "callbacks"):
        add(f"--trainer.{name}", metavar="VALUE")
    return made


def _run(command: str, words: Sequence[str]) -> None:
    from ntdh_bench.runs import Run, fit, map_divergence
    from ntdh_bench.runs.session import quiet_lightning
    from ntdh_bench.runs.summary import print_fit, print_maps

    with quiet_lightning():
        run = Run.parse(command, words)
        if command == "fit":
            record = fit(run)
            if run.processes.is_first:
                print_fit(run, record)
        elif command == "saliency":
            record, paths = map_divergence(run)
            if run.processes.is_first:
                print_maps(run, record, paths)
        else:
            _evaluate(run)


def _fit_control(words: Sequence[str]) -> None:
    """Train the student without KD in a folder beside the run's, which then shows the gain.

    Raises:
        UserError: the run is refused, has no KD, goes on from a checkpoint, or has several
            processes.
    """
    from ntdh_bench.records.identity import arm
    from ntdh_bench.runs import Run, fit
    from ntdh_bench.runs.processes import Processes
    from ntdh_bench.runs.session import quiet_lightning
    from ntdh_bench.runs.summary import print_fit

    refusal = UserError(
        "--with-control takes a new run of one process: leave it out, and run the control by "
        f"itself with --config {_CONTROL}"
    )
    if checkpoint_of(words):
        raise refusal
    with quiet_lightning():
        if arm(Run.parse("fit", words).identity) != "kd":  # refused before a training, not after
            raise UserError("--with-control takes a run with model.distiller: leave it out")
        control = Run.parse("fit", [*words, "--config", _CONTROL])
        if not Processes(control.trainer).alone:
            raise refusal
        print_fit(control, fit(control))


def _evaluate(run: Run) -> None:
    """Measure one checkpoint on validation or test data, or write its predictions."""
    from lightning.pytorch.utilities import rank_zero_only

    from ntdh_bench.runs import measure, predict
    from ntdh_bench.runs.summary import data_notes, print_summary, teacher_row

    rows: dict[str, Any] = {}
    saved: dict[str, str] = {}
    if run.command == "predict":
        saved["saved"] = str(predict(run, run.config["output"], run.config["logits"]))
    else:
        metrics = measure(run, "val" if run.command == "validate" else "test")
        rows = {**teacher_row(metrics), "student": metrics}
    notes = {**data_notes(run.data), "checkpoint": str(run.checkpoint), **saved}
    split = "validation" if run.command == "validate" else "test"
    rank_zero_only(print_summary)(f"{run.data.name}, {split} set", rows, notes)
