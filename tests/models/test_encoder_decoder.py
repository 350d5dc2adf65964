from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ntdh_bench.layers import FeatureTap
from ntdh_bench.models.encoder_decoder import EncoderDecoder


@pytest.mark.parametrize(("channels", "count"), [(3, 783_432), (1, 783_144)])
def test_both_modalities_have_the_same_capacity(channels: int, count: int) -> None:
    network = EncoderDecoder(channels)
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize("size", [(37, 61), (32, 64), (33, 31)])
def test_any_size_is_padded_right_and_below(size: tuple[int, int]) -> None:
    network = EncoderDecoder(1, 7, width=4, decoder_width=8).eval()
    image = torch.rand(2, 1, *size)
    padded = F.pad(image, (0, -size[1] % 32, 0, -size[0] % 32))
    with torch.no_grad():
        logits = network(image)
        assert logits.shape == (2, 7, *size)
        assert torch.equal(logits, network(padded)[..., : size[0], : size[1]])


def test_gradients_reach_every_parameter() -> None:
    network = EncoderDecoder(3, 5, width=4, decoder_width=8)
    network(torch.rand(2, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_the_deepest_stage_sees_a_thirty_second_of_the_image() -> None:
    tap = FeatureTap(EncoderDecoder(3, 5), ["stages.4"])
    assert tap(torch.rand(2, 3, 96, 128))["stages.4"].shape == (2, 128, 3, 4)
