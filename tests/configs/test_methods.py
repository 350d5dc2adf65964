"""Overlays of the methods, on a data set of vectors."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from ntdh_bench.cli import main
from ntdh_bench.composition import read_config
from tests.helpers import flags, methods, small_and_simulated

OVERLAYS = sorted(Path("configs/methods").glob("*.yaml"))
#: What overlays set otherwise than the class, for small sets of vectors.
FOR_VECTORS = {("CRD", "negatives"), ("VID", "depth")}


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_every_method_runs(overlay: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Without a word on parts that are not to be trained."""
    config = Path("configs/mnist_kd.yaml")
    more = ["--config", str(overlay), *small_and_simulated(read_config(config))]
    words = flags(config, tmp_path, *more, "--trainer.fast_dev_run", "true")
    assert main(["fit", *words]) == 0
    assert not [str(w.message) for w in recwarn if "eval mode" in str(w.message)]


@pytest.mark.parametrize("name", sorted(methods("hidden2").keys() - {"WeightedKL"}))
def test_every_method_has_an_overlay_with_its_numbers(name: str) -> None:
    """The defaults of its class. WeightedKL has no one pair of weights."""
    settings = read_config(Path(f"configs/methods/{name.lower()}.yaml"))
    distiller = settings["model"]["init_args"]["distiller"]
    assert distiller["class_path"] == name
    defaults = inspect.signature(methods("hidden2")[name].func).parameters
    for argument, value in distiller["init_args"].items():
        default = defaults[argument].default if argument in defaults else None
        assert default is None or value == default or (name, argument) in FOR_VECTORS
