from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ntdh_bench.batch import PairedBatch
from ntdh_bench.layers import FeatureTap, LayerMask, mask_layer
from ntdh_bench.masks import FeatureSaliency
from ntdh_bench.models import AudioCNN, ImageCNN

LAYERS = ["conv1", "conv2", "conv3", "pool", "flatten", "hidden1", "hidden2", "head"]


def inputs(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("network", "parameters", "shape"),
    [(ImageCNN(), 13_071_560, (3, 256, 512)), (AudioCNN(), 13_236_104, (1, 40, 256))],
)
def test_sizes_of_table_1(network: nn.Module, parameters: int, shape: tuple[int, ...]) -> None:
    assert sum(p.numel() for p in network.parameters()) == parameters
    with torch.no_grad():
        assert network(inputs(2, *shape)).shape == (2, 8)


@pytest.mark.parametrize(
    ("network", "shape"),
    [(ImageCNN(5), (3, 4, 4)), (ImageCNN(5), (3, 33, 70)), (AudioCNN(5), (1, 20, 20))],
)
def test_other_sizes(network: nn.Module, shape: tuple[int, ...]) -> None:
    with torch.no_grad():
        assert network(inputs(1, *shape)).shape == (1, 5)


@pytest.mark.parametrize(
    ("network", "shape"), [(ImageCNN(), (3, 32, 64)), (AudioCNN(), (1, 40, 64))]
)
def test_layers_are_tapped_and_gradients_reach_everything(
    network: nn.Module, shape: tuple[int, ...]
) -> None:
    assert [name for name, _ in network.named_children()] == LAYERS
    outputs = FeatureTap(network, LAYERS)(inputs(2, *shape))
    assert outputs["conv1"].shape[1] == 32
    assert outputs["pool"].shape == (2, 128, 7, 14)
    assert outputs["hidden1"].shape == (2, 1024)
    assert outputs["hidden2"].shape == (2, 128)
    assert (outputs["hidden2"] >= 0).all()
    assert outputs["head"] is outputs["logits"]
    cross_entropy(outputs["logits"], torch.tensor([1, 6])).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize("layer", ["hidden2", "conv3"])
def test_features_of_the_audio_teacher_are_ranked_and_masked(layer: str) -> None:
    torch.manual_seed(0)
    teacher, student = AudioCNN(), ImageCNN()
    batch = PairedBatch(
        teacher=inputs(6, 1, 20, 20),
        student=inputs(6, 3, 4, 4),
        target=torch.arange(6),
        index=torch.arange(6),
    )
    saliency = FeatureSaliency(layer, permutations=1).compute(teacher, student, [batch], 255)
    assert saliency.values.shape == (128,)
    assert saliency.values.any()
    tap = FeatureTap(teacher, [layer])
    keep = saliency.values <= saliency.values.median()
    handle = mask_layer(teacher, layer, LayerMask.zeroing(keep))
    assert not tap(batch["teacher"])[layer][:, ~keep].any()
    handle.remove()
    assert tap(batch["teacher"])[layer][:, ~keep].any()
