"""One network alone: the independent teacher, or a student without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import SGD

from ntdh_bench.batch import Inputs, Modality, PairedBatch
from ntdh_bench.contract import Evaluated, StackMember, Trained
from ntdh_bench.metrics import single_metric

from .base import (
    EvaluatedSplit,
    NetworkCallable,
    TrainableModule,
    build_network,
    check_network,
    count_parameters,
)
from .stacks import SingleStack


class TeacherModule(TrainableModule):
    """Trains one network with cross entropy on one of the two modalities, or on both.

    Args:
        network: builds the network; logits ``(B, C, *spatial)``.
        num_classes: C, linked to the data by the command line.
        modality: which half of the pair the network sees; ``both`` for one such as LateFusion.
        optimizer: from parameters to an optimiser.
        scheduler: from an optimiser to an epoch-wise schedule.
        seed: of the initial weights, linked to ``seed_everything`` by the command line.
        ignore_index: targets that do not count.
        class_weights: how much a target of each class weighs in the cross entropy; ``None``: alike.
    """

    def __init__(
        self,
        network: NetworkCallable,
        num_classes: int,
        modality: Literal["teacher", "student", "both"] = "teacher",
        optimizer: OptimizerCallable = SGD,
        scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
        ignore_index: int = 255,
        class_weights: list[float] | None = None,
    ) -> None:
        super().__init__(num_classes, optimizer, scheduler, seed, ignore_index, class_weights)
        self.remember_settings()
        self.modality = None if modality == "both" else modality
        self.teacher_inputs = "both" if modality == "both" else "own"
        seen = f"the {modality}'s modality" if self.modality else "both modalities"
        self.stage_name = f"training on {seen}"
        #: what of a batch the network sees
        self.entry: Modality = self.modality or "teacher"
        self.network_factory = network
        self.network = build_network(network, seed, self.entry)

    def setup(self, stage: str) -> None:
        """Check that data and network fit (Lightning hook)."""
        if not self.metrics:
            self.metrics.update({split: single_metric(self.data) for split in ("val", "test")})
        batch = self.first_batch(stage)
        inputs, size = self.inputs(batch), batch["target"].shape[1:]
        check_network(self.network, inputs, self.num_classes, "network", size)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the network's logits."""
        logits: Tensor = self.network(inputs)
        return logits

    def parameter_counts(self) -> dict[str, int]:
        """Return how many parameters the network has, as the teacher's unless it is a student."""
        return {self.entry: count_parameters(self.network)}

    def trained(self) -> dict[Modality, Trained]:
        """Return the network, as the teacher unless it is a student."""
        return {self.entry: Trained(self.network, self.network_factory, self.inputs)}

    def stack(self, members: Sequence[StackMember], streams: Sequence[Any]) -> SingleStack:
        """Return members of this class as one module."""
        return SingleStack(members)

    def training_step(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        """Cross entropy of one batch (Lightning hook)."""
        logits = self(self.inputs(batch))
        return self.checked(self.task_loss(logits, batch["target"]), batch_idx)

    def inputs(self, batch: PairedBatch) -> Inputs:
        """Return what the network sees."""
        return batch[self.entry]

    def evaluate(self, batch: PairedBatch, split: EvaluatedSplit) -> Evaluated:
        """Measure the network on a batch."""
        return self.log_single(split, self(self.inputs(batch)), batch["target"])
