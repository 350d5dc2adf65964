"""Step 4 of Algorithm 1: two unimodal networks trained together."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, get_args

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import SGD

from ntdh_bench.batch import Modality, PairedBatch, TeacherInputs
from ntdh_bench.contract import Evaluated, StackMember, Trained
from ntdh_bench.distillers.mutual import Distance, joint_distance
from ntdh_bench.divergence import flatten_dense
from ntdh_bench.metrics import single_metric
from ntdh_bench.ranges import check_at_least, check_choice

from .base import EvaluatedSplit, NetworkCallable, TrainableModule, build_network, check_network
from .stacks import JointStack


class JointModule(TrainableModule):
    """Trains f_a and f_b with CE + CE + ``dist_weight`` * Dist (Eq. 26, where the weight is 1).

    The gradient of Dist reaches both networks. With the weight 0 they train side by side, each as
    it would alone.

    Args:
        teacher_network: builds f_a, on the teacher's modality.
        student_network: builds f_b, on the student's modality; not the student that is distilled
            later, which starts fresh.
        num_classes: C, linked to the data by the command line.
        optimizer: from parameters to an optimiser.
        scheduler: from an optimiser to an epoch-wise schedule.
        seed: of the initial weights, linked to ``seed_everything`` by the command line.
        ignore_index: targets that do not count.
        class_weights: how much a target of each class weighs in the cross entropy; ``None``: alike.
        teacher_inputs: what f_a sees: inputs of its ``own`` modality, or of ``both``.
        dist_weight: weight of Dist.
        dist: ``kl`` is KL(f_a || f_b) at T = 1, ``ncjsd`` the divergence of Eq. 6.

    Raises:
        UserError: a negative weight, or a Dist that there is not.
    """

    stage_name = "joint training (Algorithm 1)"

    def __init__(
        self,
        teacher_network: NetworkCallable,
        student_network: NetworkCallable,
        num_classes: int,
        optimizer: OptimizerCallable = SGD,
        scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
        ignore_index: int = 255,
        class_weights: list[float] | None = None,
        teacher_inputs: TeacherInputs = "own",
        dist_weight: float = 1.0,
        dist: Distance = "kl",
    ) -> None:
        super().__init__(num_classes, optimizer, scheduler, seed, ignore_index, class_weights)
        self.remember_settings()
        check_at_least("model.dist_weight", dist_weight, 0)
        check_choice("model.dist", dist, get_args(Distance))
        self.dist_weight: float = dist_weight
        self.dist: Distance = dist
        self.teacher_inputs = teacher_inputs
        self.teacher_network = teacher_network
        self.student_network = student_network
        self.teacher = build_network(teacher_network, seed, "teacher")
        self.companion = build_network(student_network, seed, "companion")

    def trained(self) -> dict[Modality, Trained]:
        """Return f_a and f_b."""
        return {
            "teacher": Trained(self.teacher, self.teacher_network, itemgetter("teacher")),
            "student": Trained(self.companion, self.student_network, itemgetter("student")),
        }

    def setup(self, stage: str) -> None:
        """Check that data and networks fit (Lightning hook)."""
        if not self.metrics:
            self.metrics.update({split: single_metric(self.data) for split in ("val", "test")})
        batch = self.first_batch(stage)
        inputs, size = batch["student"], batch["target"].shape[1:]
        check_network(self.teacher, batch["teacher"], self.num_classes, "teacher_network", size)
        check_network(self.companion, inputs, self.num_classes, "student_network", size)

    def stack(self, members: Sequence[StackMember], streams: Sequence[Any]) -> JointStack:
        """Return members of this class as one module."""
        return JointStack(members, streams)

    def training_step(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch (Lightning hook)."""
        logits_a = self.teacher(batch["teacher"])
        logits_b = self.companion(batch["student"])
        target = batch["target"]
        task = self.task_loss(logits_a, target) + self.task_loss(logits_b, target)
        if target.dim() > 1:  # what counts of dense tasks; of one label a sample all samples do
            logits_a, _ = flatten_dense(logits_a, target, self.ignore_index)
            logits_b, target = flatten_dense(logits_b, target, self.ignore_index)
        distilled = joint_distance(logits_b, logits_a, target, self.dist)
        loss = task + self.dist_weight * distilled
        return self.checked(loss, batch_idx, task_loss=task, distill_loss=distilled)

    def evaluate(self, batch: PairedBatch, split: EvaluatedSplit) -> Evaluated:
        """Measure f_a on a batch."""
        return self.log_single(split, self.teacher(batch["teacher"]), batch["target"])
