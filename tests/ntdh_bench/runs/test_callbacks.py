"""What a checkpoint from elsewhere can make a resumed run do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ntdh_bench.cli import main
from ntdh_bench.runs.checkpoint_files import WholeCheckpoints
from tests.helpers import flags

QUICKSTART = Path("configs/quickstart.yaml")
SHORT = ("--data.steps_per_epoch", "3", "--data.n_samples", "500", "--trainer.max_epochs")
Checkpoint = dict[str, Any]
Damage = Callable[[Checkpoint], Any]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one epoch."""
    folder = tmp_path_factory.mktemp("finished")
    assert main(["fit", *flags(QUICKSTART, folder, *SHORT, "1")]) == 0
    return next(folder.iterdir())


def damaged(finished: Path, folder: Path, damage: Damage) -> Path:
    """Copy the run; returns its last checkpoint with something else in it."""
    last = Path(shutil.copytree(finished, folder / "elsewhere")) / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    damage(checkpoint)
    torch.save(checkpoint, last)
    return last


def resume(last: Path, folder: Path) -> int:
    return main(["fit", *flags(QUICKSTART, folder, *SHORT, "2", "--ckpt_path", str(last))])


def state(checkpoint: Checkpoint, callback: str) -> dict[str, Any]:
    states = checkpoint["callbacks"].items()
    return next(found for name, found in states if name.startswith(callback))


def in_state(callback: str, **values: Any) -> Damage:
    return lambda checkpoint: state(checkpoint, callback).update(values)


def of_not_a_number(checkpoint: Checkpoint) -> None:
    for entry in checkpoint["optimizer_states"][0]["state"].values():
        entry["exp_avg"] *= float("nan")


def entry(**values: Any) -> Damage:
    return lambda checkpoint: checkpoint.update(values)


@pytest.mark.parametrize("scheme", ["", "local://"])
@pytest.mark.parametrize("name", ["best_model_path", "last_model_path"])
def test_a_checkpoint_from_elsewhere_removes_nothing_that_it_names(
    scheme: str, name: str, finished: Path, tmp_path: Path
) -> None:
    """Lightning takes the path of the next checkpoint to remove from the one before."""
    precious = tmp_path / "precious"
    precious.mkdir()
    change = in_state("LastCheckpoint", **{name: f"{scheme}{precious}"})
    assert resume(damaged(finished, tmp_path, change), tmp_path / "runs") == 0
    assert precious.is_dir()


@pytest.mark.parametrize("name", ["../precious.ckpt", "../best-precious.ckpt"])
def test_only_checkpoints_of_the_run_are_removed(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    files = WholeCheckpoints(run)
    precious, elsewhere = run / name, tmp_path / "mine.ckpt"
    precious.write_text("not of this run")
    files.save_checkpoint({}, elsewhere)
    for path in (precious, elsewhere, f"local://{precious.resolve()}"):
        files.remove_checkpoint(path)
    files.save_checkpoint({}, run / "last.ckpt")  # the best ones go with it
    assert precious.exists()
    assert not elsewhere.exists()  # a callback of the config writes where it says


@pytest.mark.parametrize(
    "damage",
    [
        in_state("BestCheckpoint", best_model_path="/etc"),
        in_state("BestCheckpoint", best_model_path=7),
        in_state("BestCheckpoint", best_model_score="0.9"),
        in_state("BestCheckpoint", best_model_score=torch.tensor(torch.nan)),
        in_state("Curves", values={"ncjsd": "abc"}),
        in_state("Curves", values={"ncjsd": [0.1, None]}),
        in_state("FeatureMask", keep="all"),
        in_state("FeatureMask", keep=torch.ones(3)),
        in_state("FeatureMask", saliency=5),
        entry(callbacks={"Curves": 5}),
        entry(loops={}),
        entry(optimizer_states=[5]),
        entry(trained_state_dict=5),
        entry(**{"pytorch-lightning_version": "x"}),
        of_not_a_number,
        lambda checkpoint: checkpoint.pop("optimizer_states"),
    ],
)
def test_what_cannot_be_restored_is_one_line(
    damage: Damage, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = damaged(finished, tmp_path, damage)
    capsys.readouterr()
    assert resume(last, tmp_path / "runs") == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "sound checkpoint" in line
    assert not list(tmp_path.glob("runs/*/record.json"))
