from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ntdh_bench.batch import PairedBatch
from ntdh_bench.layers import LayerMask, mask_layer
from ntdh_bench.masks.heatmaps import (
    ClassMeans,
    are_images,
    first_images,
    gradient_maps,
    removed_maps,
)

CLASSES = 3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    chain = nn.Sequential(nn.Flatten())
    chain.add_module("hidden1", nn.Sequential(nn.Linear(12, 8), nn.Tanh()))
    chain.add_module("head", nn.Linear(8, CLASSES))
    return chain.eval().requires_grad_(False)


def images(channels: int = 1) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    sizes = [(6, torch.tensor([0, 1, 2, 0, 1, 2])), (2, torch.tensor([1, 1]))]
    return [(torch.randn(n, channels, 4, 3 // channels), target) for n, target in sizes]


def by_hand(chain: nn.Sequential, units: Tensor) -> tuple[Tensor, Tensor]:
    """The signed gradient through some units, from the weights: ``(B, 4, 3)`` and the targets."""
    values = torch.cat([part.flatten(1) for part, _ in images()])
    target = torch.cat([part for _, part in images()])
    slope = 1 - chain.hidden1(values) ** 2
    backwards = chain.head.weight[target] * slope * units
    return (backwards @ chain.hidden1[0].weight).view(-1, 4, 3), target


def test_class_means() -> None:
    means = ClassMeans(3)
    with pytest.raises(ValueError, match="no samples"):
        means.compute()
    means.update(torch.tensor([[[1.0]], [[2.0]]]), torch.tensor([0, 2]))
    means.update(torch.tensor([[[6.0]]]), torch.tensor([2]))
    assert means.compute().flatten().tolist() == [3.0, 1.0, 0.0, 4.0]


def test_gradients_are_means_of_absolute_values() -> None:
    chain = network()
    maps = gradient_maps(chain, images(), CLASSES)
    gradient, target = by_hand(chain, torch.ones(8))
    assert maps.shape == (4, 4, 3)
    torch.testing.assert_close(maps[0].float(), gradient.abs().mean(0))
    torch.testing.assert_close(maps[2].float(), gradient[target == 1].abs().mean(0))


def test_gradients_through_the_masked_network() -> None:
    chain, keep = network(), torch.arange(8) > 2
    maps = gradient_maps(chain, images(), CLASSES, "hidden1", keep)
    gradient, _ = by_hand(chain, keep.float())
    torch.testing.assert_close(maps[0].float(), gradient.abs().mean(0))
    assert not chain.hidden1._forward_hooks
    everything = torch.ones(8, dtype=torch.bool)
    unmasked = gradient_maps(chain, images(), CLASSES)
    assert torch.equal(gradient_maps(chain, images(), CLASSES, "hidden1", everything), unmasked)


def test_what_a_hidden_mask_removes() -> None:
    chain, keep = network(), torch.arange(8) > 2
    removed = removed_maps(chain, images(), CLASSES, "hidden1", keep)
    gradient, target = by_hand(chain, (~keep).float())
    torch.testing.assert_close(removed[0].float(), gradient.abs().mean(0))
    torch.testing.assert_close(removed[1].float(), gradient[target == 0].abs().mean(0))
    assert not chain.hidden1._forward_hooks
    nothing = removed_maps(chain, images(), CLASSES, "hidden1", torch.ones(8, dtype=torch.bool))
    assert nothing.abs().max() == 0


def test_looking_at_what_is_removed_does_not_change_the_network() -> None:
    """The parts through removed and through kept units add up to the whole gradient."""
    chain, keep = network(), torch.arange(8) > 2
    parts = [
        removed_maps(chain, [(x[:1], y[:1])], CLASSES, "hidden1", units)
        for x, y in images()[:1]
        for units in (keep, ~keep)
    ]
    whole = gradient_maps(chain, [(images()[0][0][:1], images()[0][1][:1])], CLASSES)
    signed = [by_hand(chain, units.float())[0][0] for units in (~keep, keep)]
    for part, expected in zip(parts, signed, strict=True):
        torch.testing.assert_close(part[0].float(), expected.abs())
    torch.testing.assert_close(whole[0].float(), sum(signed, torch.zeros(4, 3)).abs())


def test_what_an_input_mask_removes() -> None:
    keep = torch.ones(12, dtype=torch.bool)
    keep[[0, 5]] = False
    removed = removed_maps(network(), images(), CLASSES, "input", keep)
    assert removed[0].flatten().nonzero().flatten().tolist() == [0, 5]
    assert removed[0].max() == 1
    assert 0 <= removed.min() <= removed.max() <= 1
    ink = torch.cat([x for x, _ in images()])[torch.cat([y for _, y in images()]) == 1].mean((0, 1))
    order = removed[2].flatten()[[0, 5]].argsort().tolist()
    assert order == ink.flatten()[[0, 5]].argsort().tolist()
    assert removed[1:].flatten(1)[:, keep].abs().max() == 0


def test_colour_channels_share_a_pixel() -> None:
    keep = torch.ones(12, dtype=torch.bool)
    keep[[0, 4, 8, 1]] = False
    removed = removed_maps(network(), images(channels=3), CLASSES, "input", keep)
    assert removed.shape == (4, 4, 1)
    torch.testing.assert_close(removed[0].flatten().tolist(), [1.0, 1 / 3, 0.0, 0.0])
    assert gradient_maps(network(), images(channels=3), CLASSES).shape == (4, 4, 1)


def test_works_under_no_grad_and_on_a_masked_network() -> None:
    chain, keep = network(), torch.arange(8) > 2
    expected = gradient_maps(chain, images(), CLASSES, "hidden1", keep)
    handle = mask_layer(chain, "hidden1", LayerMask.zeroing(keep))
    with torch.no_grad():
        assert torch.equal(gradient_maps(chain, images(), CLASSES), expected)
    handle.remove()


def test_first_images_stops_and_drops_ignored_targets() -> None:
    batch = PairedBatch(
        teacher=torch.zeros(4, 1, 2, 2),
        student=torch.zeros(4, 1),
        target=torch.tensor([0, 255, 1, 2]),
        index=torch.arange(4),
    )
    assert are_images(batch)
    parts = list(first_images([batch] * 9, 5, torch.device("cpu")))
    assert [target.tolist() for _, target in parts] == [[0, 1, 2]] * 2
    assert not are_images({**batch, "teacher": torch.zeros(4, 5)})
    assert not are_images({**batch, "teacher": {"x": torch.zeros(4, 1, 2, 2)}})
    assert not are_images({**batch, "target": torch.zeros(4, 2, 2, dtype=torch.int64)})
