"""Looking at networks as they are: on their device, in eval mode, and put back after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ntdh_bench.batch import Inputs


def device_of(network: nn.Module) -> torch.device:
    """Return the device of a network's parameters; the CPU of one that has none."""
    return next((p.device for p in network.parameters()), torch.device("cpu"))


def to_device(inputs: Inputs, device: torch.device) -> Inputs:
    """Return a tensor, or a dict of them, on ``device``."""
    if isinstance(inputs, dict):
        return {name: value.to(device) for name, value in inputs.items()}
    return inputs.to(device)


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Put networks into eval mode inside the block, and each sub-module back as it was after it."""
    training = [module for network in networks for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
