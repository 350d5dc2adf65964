from __future__ import annotations

import pytest
import torch

from ntdh_bench.models import MLPClassifier


@pytest.mark.parametrize(
    ("sizes", "activation", "parameters"),
    [((784, [512, 256], 10), "leaky_relu", 535_818), ((50, [16, 16], 4), "relu", 1_156)],
)
def test_sizes_of_table_1(
    sizes: tuple[int, list[int], int], activation: str, parameters: int
) -> None:
    network = MLPClassifier(*sizes, activation)  # type: ignore[arg-type]
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_layers_and_shapes() -> None:
    network = MLPClassifier(784, [512, 256], 10)
    assert [name for name, _ in network.named_children()] == [
        "flatten",
        "hidden1",
        "hidden2",
        "head",
    ]
    assert network(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
    logits = network(torch.randn(500, 784))
    assert (logits < 0).any()  # no activation on the logits


def test_without_hidden_layers() -> None:
    assert MLPClassifier(5, [], 2)(torch.zeros(1, 5)).shape == (1, 2)
