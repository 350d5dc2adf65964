"""Overlays of the methods, on a data set of vectors."""

from __future__ import annotations

from pathlib import Path

import pytest

from ntdh_bench.cli import main
from ntdh_bench.composition import read_config
from tests.helpers import flags, small_and_simulated


@pytest.mark.parametrize("overlay", sorted(Path("configs/methods").glob("*.yaml")), ids=str)
def test_every_method_runs(overlay: Path, tmp_path: Path) -> None:
    config = Path("configs/mnist_kd.yaml")
    more = ["--config", str(overlay), *small_and_simulated(read_config(config))]
    words = flags(config, tmp_path, *more, "--trainer.fast_dev_run", "true")
    assert main(["fit", *words]) == 0
