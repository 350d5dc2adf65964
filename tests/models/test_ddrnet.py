from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntdh_bench.errors import UserError
from ntdh_bench.layers import FeatureTap
from ntdh_bench.models.aicnet import AICNet
from ntdh_bench.models.ddrnet import CompletionNet, DDRBlock3d, DDRNet

GRID = (16, 8, 12)
BOTH: list[Callable[..., CompletionNet]] = [DDRNet, AICNet]


def inputs(batch: int = 2) -> dict[str, Tensor]:
    stream = torch.Generator().manual_seed(0)
    image = torch.randn(batch, 3, 12, 16, generator=stream)
    position = torch.randint(-1, 16 * 8 * 12, (batch, 12, 16), generator=stream)
    return {"image": image, "position": position}


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("make", "channels", "published"),
    [(DDRNet, 1, 168_232), (DDRNet, 3, 168_248), (AICNet, 1, 667_764), (AICNet, 3, 667_780)],
)
def test_published_size(make: type[CompletionNet], channels: int, published: int) -> None:
    # DDRNet's authors hold the other modality's blocks as well, and never run them.
    idle = 3 * parameters(DDRBlock3d(64, 16, 64)) if make is DDRNet else 0
    assert parameters(make(channels)) == published - idle


def test_published_grid() -> None:
    with torch.device("meta"), torch.no_grad():
        volume = torch.empty(2, 8, 240, 144, 240)
        branch = DDRNet(1).branches["image"].get_submodule("volume")
        assert branch(volume).shape == (2, 64, 60, 36, 60)


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("grid", [GRID, (60, 36, 60)])
def test_logits_at_a_quarter_of_the_grid(
    make: Callable[..., CompletionNet], grid: tuple[int, int, int]
) -> None:
    with torch.no_grad():
        logits = make(num_classes=5, grid=grid)(inputs())
    assert logits.shape == (2, 5, *(side // 4 for side in grid))
    assert logits.isfinite().all()


@pytest.mark.parametrize("make", BOTH)
def test_gradients_reach_every_trained_parameter(make: Callable[..., CompletionNet]) -> None:
    torch.manual_seed(0)  # with others a block of four ReLUs may be born dead
    network = make(grid=GRID)
    network(inputs()).square().mean().backward()
    trained = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    assert not [name for name, p in trained if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("make", BOTH)
def test_samples_do_not_mix_and_images_matter(make: Callable[..., CompletionNet]) -> None:
    network, batch = make(grid=GRID), inputs()
    with torch.no_grad():
        logits = network(batch)
        alone = network({name: value[1:] for name, value in batch.items()})
        darker = network({**batch, "image": batch["image"] / 2})
    torch.testing.assert_close(logits[1:], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits, darker)


def test_layers_to_tap() -> None:
    network = DDRNet(grid=GRID)
    channels = {
        "branches.image.volume": 64,
        "branches.image.blocks.2": 64,
        "branches.image": 256,
        "context": 320,
    }
    outputs = FeatureTap(network, channels)(inputs())
    assert {name: tuple(outputs[name].shape) for name in channels} == {
        name: (2, count, 4, 2, 3) for name, count in channels.items()
    }
    outputs["logits"].sum().backward()
    # The stages of a branch are joined, and nothing writes over them in place.
    branch = outputs["branches.image"]
    assert torch.equal(branch[:, :64], outputs["branches.image.volume"])
    assert torch.equal(branch[:, 192:], outputs["branches.image.blocks.2"])


def test_a_block_is_a_convolution_decomposed() -> None:
    """With positive weights no ReLU cuts anything: then it is a linear map of known kernels."""
    block = DDRBlock3d(2, 3, 2, dilation=2).double()
    for parameter in block.parameters():
        parameter.data.abs_()
    volume = torch.rand(1, 2, 9, 8, 7, dtype=torch.float64)
    narrow = F.conv3d(volume, block.narrow.weight)
    last, middle, first = block.axes
    assert [tuple(axis.weight.shape[2:]) for axis in block.axes] == [
        (1, 1, 3), (1, 3, 1), (3, 1, 1)
    ]  # fmt: skip
    one = F.conv3d(narrow, last.weight, last.bias, padding=(0, 0, 2), dilation=2)
    two = one + F.conv3d(one, middle.weight, middle.bias, padding=(0, 2, 0), dilation=2)
    three = one + two + F.conv3d(two, first.weight, first.bias, padding=(2, 0, 0), dilation=2)
    expected = volume + F.conv3d(three, block.widen.weight)
    torch.testing.assert_close(block(volume), expected)


@pytest.mark.parametrize("make", BOTH)
def test_the_grid_must_be_divisible(make: Callable[..., CompletionNet]) -> None:
    for grid in ((16, 8, 10), (16, 0, 12)):
        with pytest.raises(UserError, match="expected three multiples of 4"):
            make(grid=grid)


def test_inputs_that_are_not_there() -> None:
    with pytest.raises(UserError, match="takes image and position, but position is not among"):
        DDRNet(grid=GRID)({"image": inputs()["image"]})


def test_positions_in_a_larger_grid() -> None:
    with pytest.raises(UserError, match=r"set the network's grid, now \(8, 8, 8\)"):
        DDRNet(grid=(8, 8, 8))(inputs())
