from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torchvision.models import resnet18

from ntdh_bench.errors import UserError
from ntdh_bench.layers import FeatureTap
from ntdh_bench.models.camera import CameraNet


def test_size_of_table_1() -> None:
    with torch.device("meta"):
        network = CameraNet()
    assert sum(p.numel() for p in network.parameters()) == 21_422_676


def test_the_same_network_takes_lidar_images() -> None:
    network = CameraNet(in_channels=5)
    # 2 more channels in a 7x7 convolution to 64
    assert sum(p.numel() for p in network.parameters()) == 21_422_676 + 2 * 7 * 7 * 64
    assert network(torch.rand(2, 5, 32, 48)).shape == (2, 20, 32, 48)


@pytest.mark.parametrize("size", [(37, 61), (32, 48), (16, 17)])
def test_any_size_is_padded_right_and_below(size: tuple[int, int]) -> None:
    network = CameraNet(backbone="resnet18").eval()
    image = torch.rand(1, 3, *size)
    padded = F.pad(image, (0, -size[1] % 16, 0, -size[0] % 16))
    with torch.no_grad():
        logits = network(image)
        assert logits.shape == (1, 20, *size)
        assert torch.equal(logits, network(padded)[..., : size[0], : size[1]])


def test_gradients_reach_every_parameter() -> None:
    network = CameraNet(num_classes=7, backbone="resnet18")
    network(torch.rand(2, 3, 32, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_features_are_tapped_at_half_to_a_sixteenth() -> None:
    network = CameraNet(backbone="resnet18").eval()
    names = [f"encoder.layer{number}" for number in (1, 2, 3, 4)]
    outputs = FeatureTap(network, [*names, "decoder.up1"])(torch.rand(1, 3, 32, 64))
    shapes = [tuple(outputs[name].shape[1:]) for name in names]
    assert shapes == [(64, 16, 32), (128, 8, 16), (256, 4, 8), (512, 2, 4)]
    assert outputs["decoder.up1"].shape == (1, 16, 32, 64)


@pytest.mark.parametrize("in_channels", [3, 5])
def test_pretrained_weights_come_from_a_file(tmp_path: Path, in_channels: int) -> None:
    weights = resnet18(weights=None).state_dict()
    torch.save(weights, tmp_path / "resnet18.pth")
    network = CameraNet(in_channels, backbone="resnet18", pretrained=str(tmp_path / "resnet18.pth"))
    loaded = network.encoder.state_dict()
    assert torch.equal(loaded["layer2.1.conv2.weight"], weights["layer2.1.conv2.weight"])
    first, expected = loaded["stem.0.weight"], weights["conv1.weight"]
    assert first.shape[1] == in_channels
    assert (in_channels == 3) == (first.shape == expected.shape and torch.equal(first, expected))


def test_pretrained_weights_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint .*missing\.pth; give a file"):
        CameraNet(backbone="resnet18", pretrained=str(tmp_path / "missing.pth"))
    (tmp_path / "damaged.pth").write_bytes(b"not a file of torch")
    with pytest.raises(UserError, match=r"damaged\.pth: damaged"):
        CameraNet(backbone="resnet18", pretrained=str(tmp_path / "damaged.pth"))
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(UserError, match=r"of another network; .* resnet34 weights"):
        CameraNet(pretrained=str(tmp_path / "resnet18.pth"))
    broken = {name: value * float("nan") for name, value in resnet18().state_dict().items()}
    torch.save(broken, tmp_path / "resnet18.pth")
    with pytest.raises(UserError, match="not finite"):
        CameraNet(backbone="resnet18", pretrained=str(tmp_path / "resnet18.pth"))
