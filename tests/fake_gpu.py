"""A GPU without a GPU: torch's fake tensors, which have a device and a shape, but no values.

Inside :func:`fake_gpu`, operations on tensors of different devices fail as on a GPU, and so does
whatever would wait for the GPU to know a value (``.item()``, ``if tensor``, a boolean index).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from ntdh_bench.batch import PairedBatch
from ntdh_bench.networks import to_device

GPU = torch.device("cuda:0")
Module = TypeVar("Module", bound=nn.Module)


@contextmanager
def fake_gpu() -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def moved(module: Module) -> Module:
    """Move a module to the GPU, in place; ``Module.to`` would keep the old tensors' types."""
    for part in module.modules():
        for name, value in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(value.detach().to(GPU), value.requires_grad))
        for name, value in list(part.named_buffers(recurse=False)):
            setattr(part, name, value.to(GPU))
    return module


def moved_batch(batch: PairedBatch) -> PairedBatch:
    return PairedBatch(
        teacher=to_device(batch["teacher"], GPU),
        student=to_device(batch["student"], GPU),
        target=batch["target"].to(GPU),
        index=batch["index"].to(GPU),
    )
