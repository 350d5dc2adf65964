"""Multilayer perceptrons of the synthetic and the MNIST/MNIST-M experiments."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

_ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}


class MLPClassifier(nn.Sequential):
    """Fully connected classifier ``(B, *) -> (B, num_classes)`` over the flattened input.

    Its layers are called ``hidden1``, ``hidden2``, ... (after the activation) and ``head``. With
    784-512-256-10 and LeakyReLU it is the paper's MNIST network (535,818 parameters, Table I),
    with 50-16-16-4 and ReLU the one for synthetic data (1,156).

    Args:
        in_features: values per sample.
        hidden: widths of the hidden layers.
        num_classes: logits.
        activation: after every hidden layer, none after the head.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        num_classes: int,
        activation: Literal["relu", "leaky_relu"] = "leaky_relu",
    ) -> None:
        super().__init__()
        self.add_module("flatten", nn.Flatten())
        for number, (before, after) in enumerate(pairwise([in_features, *hidden]), start=1):
            block = nn.Sequential(nn.Linear(before, after), _ACTIVATIONS[activation]())
            self.add_module(f"hidden{number}", block)
        self.add_module("head", nn.Linear([in_features, *hidden][-1], num_classes))
