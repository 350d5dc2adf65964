"""A run's trained network as a file for other programs, with a card that says what it is."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ntdh_bench.batch import Inputs
from ntdh_bench.cache import write_atomic
from ntdh_bench.contract import Trained
from ntdh_bench.errors import UserError
from ntdh_bench.exporting import FORMATS, check_format, export_network, tensors_of
from ntdh_bench.parsing.parser import run_folder
from ntdh_bench.runs.card import loading_lines, model_card
from ntdh_bench.runs.checkpoint_files import LAST
from ntdh_bench.runs.measuring import prepared
from ntdh_bench.runs.run import Run

_SAMPLES = 4  # that the file is compared on, and one alone


class Exported(NamedTuple):
    """What was written.

    Attributes:
        path: the network's file.
        card: its model card.
        difference: the largest between two logits of the network and of the file.
        samples: on which they were compared.
        data: whose samples.
    """

    path: Path
    card: Path
    difference: float
    samples: int
    data: Any


def checkpoint_in(path: str | Path) -> Path:
    """Return a checkpoint, or the last one in the folder of a run.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    checkpoint = path / "checkpoints" / LAST if path.is_dir() else path
    if not checkpoint.is_file():
        raise UserError(f"no checkpoint {checkpoint}: give the folder of a run, or a checkpoint")
    return checkpoint


def export(
    checkpoint: Path,
    format_name: Any,
    network: str | None = None,
    output: str | None = None,
    settings: Sequence[str] = (),
) -> Exported:
    """Write a network of a run's checkpoint, and its model card beside it.

    Args:
        checkpoint: in the folder of its run.
        format_name: a key of :data:`ntdh_bench.exporting.FORMATS`.
        network: ``student`` or ``teacher``; ``None``: the student, if there is one.
        output: folder; ``None``: ``export`` in the run's.
        settings: flags of ``ntdh-bench test``.

    Raises:
        UserError: there is no such network, or it cannot be written so.
    """
    check_format(format_name)
    run = Run.parse("test", ["--ckpt_path", str(checkpoint), *settings])
    _load(run)
    modality, trained = _chosen(run, network)
    folder = Path(output) if output else run_folder(checkpoint) / "export"
    path = folder / f"{modality}-{checkpoint.stem}{FORMATS[format_name].suffix}"
    batch = next(run.data.batches("test", batch_size=_SAMPLES))
    inputs = trained.inputs(batch)
    several = [inputs, _first(inputs)]
    lines = loading_lines(run, modality, path.name, format_name, inputs)  # or nothing is written
    difference = export_network(trained.network, trained.build, several, path, format_name)
    card = path.with_name(f"{path.name}.md")
    text = model_card(run, modality, path, lines, inputs, difference)
    with write_atomic(card) as temporary:
        temporary.write_text(text, encoding="utf-8")
    _keep_record(run, folder)
    return Exported(path, card, difference, len(batch["index"]), run.data)


def _load(run: Run) -> None:
    """Bring what the checkpoint holds into the run's module, as for a test of one batch."""
    run.mask = None  # of the teacher in this run, no part of the network
    trainer = prepared(
        run, "test", accelerator="cpu", devices=1, num_nodes=1, strategy="auto",
        precision="32-true", limit_test_batches=1, enable_progress_bar=False,
    )  # fmt: skip
    trainer.test(run.model, datamodule=run.data, ckpt_path=run.checkpoint, verbose=False)


def _chosen(run: Run, network: str | None) -> tuple[str, Trained]:
    networks = dict(run.described.trained())
    if not networks:
        raise UserError(
            f"{type(run.model).__name__} does not say which networks it trains: give it a method "
            "trained(), see ntdh_bench.contract.BenchModule"
        )
    name = network or list(networks)[-1]
    if name not in networks:
        raise UserError(f"--network {name}: this run has {' and '.join(networks)}")
    return name, networks[name]


def _keep_record(run: Run, folder: Path) -> None:
    """Copy the run's record, if there is one, beside the card."""
    record = run_folder(str(run.checkpoint)) / "record.json"
    if record.is_file():
        with write_atomic(folder / record.name) as temporary:
            shutil.copyfile(record, temporary)


def _first(inputs: Inputs) -> Inputs:
    if isinstance(inputs, dict):
        return {name: value[:1] for name, value in tensors_of(inputs).items()}
    return inputs[:1]
