from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ntdh_bench.errors import UserError
from ntdh_bench.models.pmf import PMFNet


def inputs(height: int = 37, width: int = 61) -> dict[str, Tensor]:
    return {"camera": torch.rand(2, 3, height, width), "lidar": torch.randn(2, 5, height, width)}


def test_published_size() -> None:
    with torch.device("meta"):
        network = PMFNet()
    assert sum(p.numel() for p in network.parameters()) == 36_416_040


def test_both_branches_predict_every_pixel() -> None:
    logits = PMFNet(num_classes=7, width=8, backbone="resnet18")(inputs())
    assert {name: tuple(value.shape) for name, value in logits.items()} == {
        "camera": (2, 7, 37, 61),
        "lidar": (2, 7, 37, 61),
    }


def test_gradients_reach_every_parameter() -> None:
    network = PMFNet(width=8, backbone="resnet18")
    logits = network(inputs(32, 64))
    (logits["camera"].square().mean() + logits["lidar"].square().mean()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_fusion_goes_from_camera_to_lidar_only() -> None:
    network = PMFNet(width=8, backbone="resnet18").eval()
    pair = inputs(32, 64)
    with torch.no_grad():
        logits = network(pair)
        other_lidar = network({**pair, "lidar": pair["lidar"] + 1})
        other_camera = network({**pair, "camera": 1 - pair["camera"]})
        alone = network.camera(pair["camera"])
    assert torch.equal(logits["camera"], alone)
    assert torch.equal(logits["camera"], other_lidar["camera"])
    assert not torch.allclose(logits["lidar"], other_lidar["lidar"])
    assert not torch.allclose(logits["lidar"], other_camera["lidar"])


def test_images_of_different_sizes() -> None:
    pair = inputs(32, 64)
    with pytest.raises(UserError, match=r"camera image is \(16, 64\), the lidar image \(32, 64\)"):
        PMFNet(width=8, backbone="resnet18")({**pair, "camera": pair["camera"][:, :, :16]})
