"""Every network as a file: which formats can hold it, for batches of any size."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ntdh_bench import exporting, models
from ntdh_bench.batch import Inputs
from ntdh_bench.errors import UserError
from ntdh_bench.exporting import FORMATS, FormatName, export_network
from tests.helpers import network

needs_onnx = pytest.mark.skipif(
    find_spec("onnxscript") is None or find_spec("onnxruntime") is None,
    reason="needs the extra `export`",
)


def images(channels: int, height: int, width: int) -> Callable[[int], Tensor]:
    return lambda batch: torch.randn(batch, channels, height, width)


def scenes(batch: int) -> Inputs:
    return {"image": torch.randn(batch, 3, 6, 8), "position": torch.randint(-1, 512, (batch, 6, 8))}


def fused(batch: int) -> Inputs:
    return {"teacher": torch.randn(batch, 12), "student": torch.randn(batch, 12)}


def sensors(batch: int) -> Inputs:
    return {"camera": torch.randn(batch, 3, 32, 64), "lidar": torch.randn(batch, 5, 32, 64)}


def points(batch: int) -> Inputs:
    return {"points": torch.randn(9 * batch, 4), "scan": torch.arange(batch).repeat_interleave(9)}


# Of every network of the package: how a small one is built, and what it takes.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Inputs]]] = {
    "AICNet": (partial(models.AICNet, grid=(8, 8, 8)), scenes),
    "AudioCNN": (models.AudioCNN, images(1, 40, 32)),
    "CameraNet": (partial(models.CameraNet, backbone="resnet18"), images(3, 16, 35)),
    "ConcatFusion": (partial(models.ConcatFusion, network, network), fused),
    "DDRNet": (partial(models.DDRNet, grid=(8, 8, 8)), scenes),
    "EncoderDecoder": (partial(models.EncoderDecoder, width=4), images(3, 15, 20)),
    "GatedFusion": (partial(models.GatedFusion, network, network), fused),
    "ImageCNN": (models.ImageCNN, images(3, 32, 32)),
    "LateFusion": (partial(models.LateFusion, network, network), fused),
    "MLPClassifier": (network, lambda batch: torch.randn(batch, 12)),
    "PMFNet": (partial(models.PMFNet, width=4, backbone="resnet18"), sensors),
    "SalsaNext": (partial(models.SalsaNext, width=4), images(5, 16, 35)),
    "SeriesCNN": (partial(models.SeriesCNN, 3, 5), lambda batch: torch.randn(batch, 20, 3)),
    "TwoDPASSNet": (partial(models.TwoDPASSNet, width=4, backbone="resnet18"), points),
}  # fmt: skip
# Its voxels are as many as the points make: no program of fixed sizes can say that.
NO_PROGRAM = {"TwoDPASSNet"}
SMALL = {"ConcatFusion", "MLPClassifier", "SeriesCNN", "TwoDPASSNet"}


def exported(name: str, format_name: FormatName, folder: Path) -> float:
    build, inputs = NETWORKS[name]
    torch.manual_seed(0)
    trained = build().train()
    batches = [inputs(3), inputs(1)]
    difference = export_network(trained, build, batches, folder / "network", format_name)
    assert trained.training
    return difference


def test_every_network_is_looked_at() -> None:
    classes = {name: getattr(models, name) for name in models.__all__}
    found = {
        name
        for name, kind in classes.items()
        if isinstance(kind, type)
        and issubclass(kind, nn.Module)
        and not issubclass(kind, LightningModule)
    }
    assert found - {"Fusion"} == NETWORKS.keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_weights_of_every_network_are_exported(name: str, tmp_path: Path) -> None:
    assert exported(name, "state_dict", tmp_path) == 0


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in SMALL else pytest.mark.slow) for n in NETWORKS]
)
def test_the_program_of_a_network_is_exported_or_refused(name: str, tmp_path: Path) -> None:
    if name in NO_PROGRAM:
        with pytest.raises(UserError, match=f"{name} cannot be written as torch_export: .*another"):
            exported(name, "torch_export", tmp_path)
        assert not list(tmp_path.iterdir())
    else:
        assert exported(name, "torch_export", tmp_path) <= 1e-6


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - NO_PROGRAM))
def test_every_program_is_one_of_onnx(name: str, tmp_path: Path) -> None:
    assert exported(name, "onnx", tmp_path) <= 1e-5


def test_what_a_file_predicts_otherwise_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(trained: nn.Module, inputs: Inputs, path: Path) -> None:
        torch.save({name: 2 * value for name, value in trained.state_dict().items()}, path)

    wrong = FORMATS["state_dict"]._replace(write=write)
    monkeypatch.setitem(exporting.FORMATS, "state_dict", wrong)
    with pytest.raises(UserError, match=r"predicts other logits, by up to .*: nothing is kept"):
        exported("MLPClassifier", "state_dict", tmp_path)
    assert not list(tmp_path.iterdir())


def test_weights_that_fit_no_network_of_the_class_are_refused(tmp_path: Path) -> None:
    changed = network()
    changed.head = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    with pytest.raises(UserError, match="training changed the layers of MLPClassifier"):
        export_network(changed, network, [torch.randn(2, 12)], tmp_path / "x.pt", "state_dict")


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        ("torchscript", None, "TorchScript is deprecated in PyTorch: choose --format torch_export"),
        ("pickle", None, "unknown format 'pickle': choose one of state_dict, torch_export, onnx"),
        ("onnx", "onnxscript", r"needs onnxscript: pip install 'ntdh-bench\[export\]'"),
    ],
)
def test_formats_that_cannot_be_written_are_refused(
    name: str, missing: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(package: str) -> Any:
        return None if package == missing else object()

    monkeypatch.setattr(exporting, "find_spec", found)
    with pytest.raises(UserError, match=message):
        exporting.check_format(name)


def test_what_logging_was_told_stays() -> None:
    logging.disable(logging.INFO)
    try:
        with exporting._converting("it"):
            assert logging.root.manager.disable == logging.CRITICAL
        assert logging.root.manager.disable == logging.INFO
    finally:
        logging.disable(logging.NOTSET)
