from __future__ import annotations

import pytest
import torch
from torch import nn

from ntdh_bench.errors import UserError
from ntdh_bench.layers import (
    FeatureTap,
    LayerMask,
    features_layer,
    find_layer,
    layer_names,
    mask_layer,
    run_tapped,
)
from ntdh_bench.models import LateFusion
from tests.helpers import network


def test_unknown_layer_names_the_valid_ones() -> None:
    with pytest.raises(UserError, match=r"no layer 'hidden9' in MLPClassifier.*hidden1.*logits"):
        find_layer(network(), "hidden9")
    with pytest.raises(UserError):
        find_layer(network(), "")


def test_names() -> None:
    assert layer_names(nn.Sequential(nn.Sequential(nn.ReLU()))) == ["0", "0.0"]


def test_features_are_what_the_last_linear_layer_takes() -> None:
    assert features_layer(network()) == "head, input"
    both = LateFusion(network, network)  # two linear layers that take both networks' features
    assert features_layer(both) == "head, input"
    inputs = torch.randn(2, 3, 12)
    outputs = run_tapped(
        both, ["head, input"], dict(zip(("teacher", "student"), inputs, strict=True))
    )
    assert outputs["head, input"].shape == (3, 12)
    assert features_layer(nn.Sequential(nn.Linear(3, 3), nn.Conv2d(1, 2, 1))) == "0, input"
    assert features_layer(nn.Conv2d(1, 2, 1)) is None
    assert features_layer(nn.Linear(3, 3)) is None  # these are the inputs


def test_tap_returns_logits_and_layers_and_keeps_nothing() -> None:
    model, inputs = network(), torch.randn(3, 12)
    tap = FeatureTap(model, ["hidden2", "logits"])
    outputs = tap(inputs)
    assert outputs.keys() == {"logits", "hidden2"}
    assert torch.equal(outputs["logits"], model(inputs))
    assert torch.equal(model.head(outputs["hidden2"]), outputs["logits"])
    tap.close()
    assert tap(inputs).keys() == {"logits"}


@pytest.mark.parametrize(("layer", "width"), [("input", 12), ("hidden1", 8), ("logits", 4)])
def test_mask_zeroes_features_until_removed(layer: str, width: int) -> None:
    model, inputs = network(), torch.randn(5, 12)
    before = model(inputs)
    keep = torch.ones(width, dtype=torch.bool)
    keep[:2] = False
    handle = mask_layer(model, layer, LayerMask.zeroing(keep))
    masked = model(inputs)
    assert not torch.equal(masked, before)
    if layer == "logits":
        assert (masked[:, :2] == 0).all()
        assert torch.equal(masked[:, 2:], before[:, 2:])
    handle.remove()
    assert torch.equal(model(inputs), before)
    if layer == "input":
        assert torch.equal(masked, model(inputs * keep))


def test_taps_see_masked_features_whatever_the_order() -> None:
    model = network()
    tap = FeatureTap(model, ["hidden1"])
    mask_layer(model, "hidden1", LayerMask.zeroing(torch.zeros(8, dtype=torch.bool)))
    assert (tap(torch.randn(2, 12))["hidden1"] == 0).all()


def test_channels_of_maps_are_masked() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1))
    mask_layer(model, "0", LayerMask.zeroing(torch.tensor([True, False, True])))
    output = model(torch.randn(2, 2, 4, 5))
    assert (output[:, 1] == 0).all()
    assert (output[:, [0, 2]] != 0).any()


def test_mask_of_another_width() -> None:
    model = network()
    mask_layer(model, "hidden1", LayerMask.zeroing(torch.ones(9, dtype=torch.bool)))
    with pytest.raises(UserError, match="9 entries, but 'hidden1' has 8"):
        model(torch.randn(2, 12))
