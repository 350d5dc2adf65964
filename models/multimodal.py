"""Networks that see both modalities: teachers with privileged information.

Each joins two networks of one modality, whose last layers (their heads) are taken off: ``branches``
gives the features of both side by side, ``hidden2`` makes one vector of them, ``head`` the logits.
In dense tasks all of it goes position by position, and both must lie on one grid. Layers of a
branch have names such as ``branches.teacher.conv1``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from ntdh_bench.batch import Inputs, inputs_of
from ntdh_bench.errors import UserError
from ntdh_bench.ranges import check_at_least
from ntdh_bench.stacks.layers import OfParts

from .base import NetworkCallable

Head: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
_HEADS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Fusion(nn.Sequential):
    """Base of these networks: a chain of ``branches``, ``hidden2`` and ``head``.

    Subclasses are built from what builds the network of the teacher's and that of the student's
    modality.

    Args:
        branches: from the inputs of both modalities to the features of both.
        hidden2: from these to the features that the head takes.
        head: from these to logits.
    """

    def __init__(self, branches: nn.Module, hidden2: nn.Module, head: nn.Module) -> None:
        super().__init__(OrderedDict(branches=branches, hidden2=hidden2, head=head))


#: From the networks of the teacher's and the student's modality to one of both.
FusionCallable: TypeAlias = Callable[[NetworkCallable, NetworkCallable], Fusion]


class LateFusion(Fusion):
    """The mean of two networks' logits: ``{"teacher": (B, ...), "student": (B, ...)} -> (B, C)``.

    It is trained as one network, by the cross entropy of the mean. ``hidden2`` is the features of
    both, side by side, and ``head`` what their heads make of them.

    Args:
        teacher: builds the network of the teacher's modality.
        student: builds that of the student's modality, with logits of the same size.

    Raises:
        UserError: a network ends with no linear layer or convolution, or classes differ.
    """

    def __init__(self, teacher: NetworkCallable, student: NetworkCallable) -> None:
        branches, *heads = _taken_apart(teacher, student)
        super().__init__(branches, nn.Identity(), _MeanOfHeads(*heads))


class ConcatFusion(Fusion):
    """A hidden layer and a head over the features of two networks, side by side.

    A head alone would be no more than the sum of two heads, which :class:`LateFusion` has.

    Args:
        teacher: builds the network of the teacher's modality.
        student: builds that of the student's modality, with logits of the same size.
        width: features of ``hidden2``, at least 1.

    Raises:
        UserError: a network ends with no linear layer or convolution, or classes differ.
    """

    def __init__(
        self, teacher: NetworkCallable, student: NetworkCallable, width: int = 128
    ) -> None:
        check_at_least("width", width, 1)
        branches, like, _ = _taken_apart(teacher, student)
        hidden = nn.Sequential(_layer(like, sum(branches.widths), width), nn.ReLU())
        super().__init__(branches, hidden, _layer(like, width, _outputs(like)))


class GatedFusion(Fusion):
    """A gate that chooses, for every sample and feature, between two networks, and a head.

    The gated multimodal unit of Arevalo et al. (ICLR 2017 workshop): z tanh(A a) + (1 - z) tanh(B
    b), with the gate z = sigmoid(Z [a, b]) of the features a and b of both networks.

    Args:
        teacher: builds the network of the teacher's modality.
        student: builds that of the student's modality, with logits of the same size.
        width: features of ``hidden2``, at least 1.

    Raises:
        UserError: a network ends with no linear layer or convolution, or classes differ.
    """

    def __init__(
        self, teacher: NetworkCallable, student: NetworkCallable, width: int = 128
    ) -> None:
        check_at_least("width", width, 1)
        branches, like, _ = _taken_apart(teacher, student)
        hidden = _Gated(like, branches.widths, width)
        super().__init__(branches, hidden, _layer(like, width, _outputs(like)))


def _taken_apart(
    teacher: NetworkCallable, student: NetworkCallable
) -> tuple[_Branches, Head, Head]:
    """Return two networks without their heads as one, and the heads.

    Raises:
        UserError: a network ends with no linear layer or convolution, or classes differ.
    """
    networks = teacher(), student()
    first, second = map(_take_head, networks)
    if type(first) is not type(second) or _outputs(first) != _outputs(second):
        raise UserError(
            f"the networks of both modalities end with {_described(first)} and "
            f"{_described(second)}: give networks for one task, of the same num_classes"
        )
    return _Branches(*networks, [_inputs(first), _inputs(second)]), first, second


class _Branches(OfParts):
    """Features of both modalities, side by side: ``(B, sum(widths), *grid)``."""

    def __init__(self, teacher: nn.Module, student: nn.Module, widths: list[int]) -> None:
        super().__init__()
        self.teacher, self.student = teacher, student
        self.widths = widths

    def forward(self, inputs: Inputs) -> Tensor:
        first: Tensor = self.teacher(inputs_of("teacher", inputs))
        second: Tensor = self.student(inputs_of("student", inputs))
        self._check(first.shape[self.dim :], second.shape[self.dim :])
        return torch.cat([first, second], self.dim)

    def _check(self, *shapes: torch.Size) -> None:
        if [shape[0] for shape in shapes] != self.widths:
            raise UserError(
                f"the networks of both modalities give {shapes[0][0]} and {shapes[1][0]} features, "
                f"their last layers by name take {self.widths[0]} and {self.widths[1]}: give "
                "networks whose last linear layer or convolution gives the logits"
            )
        grids = [tuple(shape[1:]) for shape in shapes]
        if grids[0] != grids[1]:
            raise UserError(
                f"the networks of both modalities give features on the grids {grids[0]} and "
                f"{grids[1]}: give networks, or inputs, of one grid"
            )


class _MeanOfHeads(OfParts):
    def __init__(self, teacher: Head, student: Head) -> None:
        super().__init__()
        self.teacher, self.student = teacher, student
        self.widths = [_inputs(teacher), _inputs(student)]
        #: of both: what a distiller that takes the head over has to give it
        self.in_features = sum(self.widths)

    def forward(self, features: Tensor) -> Tensor:
        first, second = torch.split(features, self.widths, self.dim)
        mean: Tensor = (self.teacher(first) + self.student(second)) / 2
        return mean


class _Gated(OfParts):
    def __init__(self, like: Head, widths: list[int], width: int) -> None:
        super().__init__()
        self.widths = widths
        self.teacher, self.student = (_layer(like, before, width) for before in widths)
        self.gate = _layer(like, sum(widths), width)

    def forward(self, features: Tensor) -> Tensor:
        first, second = torch.split(features, self.widths, self.dim)
        gate = torch.sigmoid(self.gate(features))
        chosen = gate * torch.tanh(self.teacher(first))
        return chosen + (1 - gate) * torch.tanh(self.student(second))


def _take_head(network: nn.Module) -> Head:
    """Take off a network's last linear layer or convolution, in the order of its modules.

    Raises:
        UserError: it has none beside itself.
    """
    found = [name for name, module in network.named_modules() if isinstance(module, _HEADS)]
    if not found or not found[-1]:
        raise UserError(
            f"{type(network).__name__} has no linear layer or convolution at its end, which could "
            "be taken off: give another network"
        )
    parent, _, name = found[-1].rpartition(".")
    head = cast(Head, network.get_submodule(found[-1]))
    setattr(network.get_submodule(parent), name, nn.Identity())
    return head


def _layer(like: Head, before: int, after: int) -> Head:
    """Return a layer of each position alone, of the dimensions that a head has."""
    if isinstance(like, nn.Linear):
        return nn.Linear(before, after)
    return type(like)(before, after, 1)


def _inputs(head: Head) -> int:
    return head.in_features if isinstance(head, nn.Linear) else head.in_channels


def _outputs(head: Head) -> int:
    return head.out_features if isinstance(head, nn.Linear) else head.out_channels


def _described(head: Head) -> str:
    return f"a {type(head).__name__} of {_outputs(head)} logits"
