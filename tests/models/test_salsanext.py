from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ntdh_bench.models.salsanext import SalsaNext


def test_published_size() -> None:
    with torch.device("meta"):
        network = SalsaNext()
    assert sum(p.numel() for p in network.parameters()) == 6_711_572


@pytest.mark.parametrize("size", [(37, 61), (32, 48)])
def test_any_size_is_padded_right_and_below(size: tuple[int, int]) -> None:
    network = SalsaNext(width=8).eval()
    image = torch.rand(1, 5, *size)
    padded = F.pad(image, (0, -size[1] % 16, 0, -size[0] % 16))
    with torch.no_grad():
        logits = network(image)
        assert logits.shape == (1, 20, *size)
        assert torch.equal(logits, network(padded)[..., : size[0], : size[1]])


def test_gradients_reach_every_parameter() -> None:
    network = SalsaNext(in_channels=3, num_classes=7, width=8)
    logits = network(torch.rand(2, 3, 32, 64))
    assert logits.shape == (2, 7, 32, 64)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_channels_are_dropped_in_training_only() -> None:
    network = SalsaNext(width=8)
    image = torch.rand(2, 5, 32, 32)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))
    still = SalsaNext(width=8, dropout=0.0)
    assert torch.equal(still(image), still(image))
