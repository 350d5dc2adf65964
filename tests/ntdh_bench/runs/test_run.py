"""A run in Python: made from a config, trained, measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import sklearn.datasets  # noqa: F401 (its import sets variables, in whatever run is the first)
import yaml

from ntdh_bench import runs
from ntdh_bench.cli import main
from ntdh_bench.composition import read_config
from ntdh_bench.errors import DataError
from ntdh_bench.runs.session import make_folder
from tests.helpers import flags

QUICKSTART = Path("configs/quickstart.yaml")


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """Two short epochs of the quickstart, without a mask."""
    config = read_config(QUICKSTART)
    config["trainer"] |= {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False}
    config["data"]["init_args"] |= {"steps_per_epoch": 3, "n_samples": 500}
    return {**config, "mask": None, "run_dir": str(tmp_path / "runs")}


def test_a_config_is_fitted_and_its_checkpoint_measured(
    config: dict[str, Any], tmp_path: Path
) -> None:
    given = yaml.safe_dump(config)
    run = runs.Run.parse("fit", config=config)
    before = dict(os.environ)
    record = runs.fit(run)
    assert dict(os.environ) == before
    assert yaml.safe_dump(config) == given
    assert run.folder.parent == tmp_path / "runs"
    assert (run.folder / "record.json").is_file()
    trained = runs.Run.parse("test", ["--ckpt_path", str(run.last_checkpoint)])
    measured = runs.measure(trained, "test")
    assert measured == record["metrics"]["last"]["test"]
    assert runs.measure(trained, "val") == record["metrics"]["last"]["val"]
    assert {path.name for path in runs.predict(trained).iterdir()} == {
        "index.npy", "logits.npy", "target.npy",
    }  # fmt: skip


def test_making_a_run_has_no_side_effects(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning alone leaves the seed, for the workers that load data."""

    def loaded(*_: Any) -> None:
        raise AssertionError

    for name in ("prepare_data", "setup"):
        monkeypatch.setattr(f"ntdh_bench.datamodules.paired.PairedDataModule.{name}", loaded)
    before = dict(os.environ)
    runs.Run.parse("fit", config=config)
    changed = {name for name, _ in os.environ.items() ^ before.items()}
    assert changed <= {"PL_GLOBAL_SEED", "PL_SEED_WORKERS"}
    assert list(tmp_path.iterdir()) == []


def test_the_data_are_told_the_only_modality_that_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str | None] = []
    monkeypatch.setattr(
        "ntdh_bench.datamodules.ravdess.datamodule.RAVDESSDataModule.setup",
        lambda data, stage=None: used.append(data.modality),
    )
    words = flags(Path("configs/ravdess_unimodal.yaml"), tmp_path)
    run = runs.Run.parse("fit", words)
    for modality in ("teacher", "student"):
        run.model.modality = modality
        run.load_data("fit")
    del run.model.modality
    run.load_data("test")
    assert used == ["teacher", "student", None]


def test_data_that_are_not_there_are_no_fault_of_the_settings(tmp_path: Path) -> None:
    """A sweep need not try its other runs on them."""
    words = ["--data.root", str(tmp_path / "nowhere")]
    run = runs.Run.parse("fit", flags(Path("configs/ravdess_features_kd.yaml"), tmp_path, *words))
    with pytest.raises(DataError, match=r"RAVDESS is missing: no .*nowhere"):
        run.load_data("fit")


def test_a_mask_that_needs_a_pair_is_refused_before_a_teacher_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = ["--model.teacher", "independent", "--trainer.max_epochs", "100000"]
    assert main(["fit", *flags(QUICKSTART, tmp_path, *alone)]) == 1
    assert "set model.teacher to joint" in capsys.readouterr().err


def test_every_run_gets_its_own_folder_with_a_config_that_repeats_it(tmp_path: Path) -> None:
    found = []
    config = QUICKSTART
    for _ in range(2):
        run = runs.Run.parse("fit", flags(config, tmp_path))
        run.load_data("fit")
        folder = make_folder(run)
        found.append((folder, run.identity))
        config = folder / "config.yaml"
    (first, identity), (second, again) = found
    assert first != second
    assert identity == again


def test_a_run_can_be_repeated_from_another_folder(tmp_path: Path) -> None:
    more = ["--mask.cache_dir", "masks", "--model.teacher_checkpoint", "LICENSE"]
    run = runs.Run.parse("fit", flags(QUICKSTART, tmp_path, *more))
    run.load_data("fit")
    saved = yaml.safe_load((make_folder(run) / "config.yaml").read_text())
    assert saved["mask"]["init_args"]["cache_dir"] == str(Path("masks").absolute())
    assert saved["model"]["init_args"]["teacher_checkpoint"] == str(Path("LICENSE").absolute())
