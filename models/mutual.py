"""Two networks, one a modality, that train together: mutual learning, and the base of its kin."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from operator import itemgetter

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import SGD

from ntdh_bench.batch import Inputs, Modality, PairedBatch
from ntdh_bench.contract import Evaluated, RowMask, Trained
from ntdh_bench.distillers.mutual import mutual_kl
from ntdh_bench.divergence import flatten_dense
from ntdh_bench.layers import run_tapped
from ntdh_bench.ranges import check_above, check_at_least

from .base import (
    EvaluatedSplit,
    NetworkCallable,
    TrainableModule,
    build_network,
    check_network,
    count_parameters,
)


class PairModule(TrainableModule):
    """Base of methods that train the teacher beside the student.

    A subclass sets ``method``, the name in records, and implements :meth:`training_step`. The
    student, which predicts, starts from the weights of the same student without KD and sees the
    same batches; the teacher, which is measured beside it, from those of a teacher trained alone.
    A sample mask drops rows (pixels in dense tasks) from what one network tells the other, see
    :meth:`kept_rows`; the cross entropies keep all.

    Args:
        teacher_network: builds the teacher, on the teacher's modality.
        student_network: builds the student, on the student's modality.
        num_classes: C.
        optimizer: from the parameters of everything that trains to an optimiser.
        scheduler: from an optimiser to an epoch-wise schedule.
        seed: of the initial weights.
        ignore_index: targets that do not count.
        class_weights: how much a target of each class weighs in the cross entropies; ``None``:
            alike.
    """

    method: str
    arm = "kd"

    def __init__(
        self,
        teacher_network: NetworkCallable,
        student_network: NetworkCallable,
        num_classes: int,
        optimizer: OptimizerCallable,
        scheduler: LRSchedulerCallable | None,
        seed: int,
        ignore_index: int,
        class_weights: Sequence[float] | None,
    ) -> None:
        super().__init__(num_classes, optimizer, scheduler, seed, ignore_index, class_weights)
        self.stage_name = f"{self.method}'s training"
        self.teacher_network = teacher_network
        self.student_network = student_network
        self.student = build_network(student_network, seed, "student")
        self.teacher = build_network(teacher_network, seed, "teacher")
        self.sample_mask: RowMask | None = None

    @abstractmethod
    def training_step(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch (Lightning hook)."""

    def setup(self, stage: str) -> None:
        """Check that data and networks fit, and make the metrics (Lightning hook)."""
        batch = self.first_batch(stage)
        inputs, size = batch["student"], batch["target"].shape[1:]
        check_network(self.student, inputs, self.num_classes, "student_network", size)
        check_network(self.teacher, batch["teacher"], self.num_classes, "teacher_network", size)
        self.compare(self.teacher, self.student, batch)

    def parameter_counts(self) -> dict[str, int]:
        """Return how many parameters teacher and student have (the capacity of Table I)."""
        return {
            "teacher": count_parameters(self.teacher),
            "student": count_parameters(self.student),
        }

    def trained(self) -> dict[Modality, Trained]:
        """Return the teacher and the student."""
        return {
            "teacher": Trained(self.teacher, self.teacher_network, itemgetter("teacher")),
            "student": Trained(self.student, self.student_network, itemgetter("student")),
        }

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the student's logits."""
        logits: Tensor = self.student(inputs)
        return logits

    def rows(self, target: Tensor, *logits: Tensor) -> tuple[Tensor, ...]:
        """Return the targets that count, ``(N,)``, and the logits there, each ``(N, C)``."""
        if target.dim() == 1:
            return (target, *logits)  # of one label a sample all samples count
        flat = [flatten_dense(values, target, self.ignore_index)[0] for values in logits]
        return (target[target != self.ignore_index], *flat)

    def kept_rows(
        self, student: Tensor, teacher: Tensor, target: Tensor, batch_idx: int
    ) -> Tensor | slice:
        """Return which rows the networks learn from each other by: those that a mask keeps.

        Args:
            student: logits ``(N, C)``.
            teacher: logits ``(N, C)``.
            target: int64 ``(N,)``, none ignored.
            batch_idx: number of the batch in the epoch.
        """
        if self.sample_mask is None:
            return slice(None)
        given = teacher.detach(), student.detach(), target
        return self.sample_mask.keep_rows(*given, self.current_epoch, batch_idx)

    def evaluate(self, batch: PairedBatch, split: EvaluatedSplit) -> Evaluated:
        """Measure teacher, student and their divergences on a batch."""
        teacher = run_tapped(self.teacher, self.compared.layers[:1], batch["teacher"])
        student = run_tapped(self.student, self.compared.layers[1:], batch["student"])
        return self.log_outputs(split, teacher, student, batch)


class MutualModule(PairModule):
    """Trains teacher and student with CE each and KL both ways (deep mutual learning).

    Zhang et al., "Deep Mutual Learning", CVPR 2018: each network follows its own cross entropy and
    the other's distribution, which it takes as given; both are updated at once. The published
    temperature and weight are 1.

    Args:
        teacher_network: builds the teacher, on the teacher's modality.
        student_network: builds the student, on the student's modality.
        num_classes: C, linked to the data by the command line.
        temperature: T > 0 of the KL divergences, which are multiplied by T^2.
        distill_weight: weight of the KL divergences.
        optimizer: from the parameters of both networks to an optimiser.
        scheduler: from an optimiser to an epoch-wise schedule.
        seed: of the initial weights, linked to ``seed_everything`` by the command line.
        ignore_index: targets that do not count.
        class_weights: how much a target of each class weighs in the cross entropies; ``None``:
            alike.

    Raises:
        UserError: a temperature that is not above 0, or a negative weight.
    """

    method = "Mutual"

    def __init__(
        self,
        teacher_network: NetworkCallable,
        student_network: NetworkCallable,
        num_classes: int,
        temperature: float = 1.0,
        distill_weight: float = 1.0,
        optimizer: OptimizerCallable = SGD,
        scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
        ignore_index: int = 255,
        class_weights: list[float] | None = None,
    ) -> None:
        training = num_classes, optimizer, scheduler, seed, ignore_index, class_weights
        super().__init__(teacher_network, student_network, *training)
        self.remember_settings()
        check_above("model.temperature", temperature, 0)
        check_at_least("model.distill_weight", distill_weight, 0)
        self.temperature = temperature
        self.distill_weight = distill_weight

    def training_step(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        """CE of both networks and KL between them, of one batch (Lightning hook)."""
        student, teacher = self.student(batch["student"]), self.teacher(batch["teacher"])
        task = self.task_loss(student, batch["target"]) + self.task_loss(teacher, batch["target"])
        target, student, teacher = self.rows(batch["target"], student, teacher)
        kept = self.kept_rows(student, teacher, target, batch_idx)
        distilled = mutual_kl(student[kept], teacher[kept], self.temperature)
        loss = task + self.distill_weight * distilled
        return self.checked(loss, batch_idx, task_loss=task, distill_loss=distilled)
