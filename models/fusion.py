"""What PMF and 2DPASS share: two branches trained together, of which one teaches the other."""

from __future__ import annotations

from abc import abstractmethod

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from ntdh_bench.batch import Inputs, Modality, PairedBatch
from ntdh_bench.contract import Evaluated, RowMask, Trained
from ntdh_bench.metrics import pair_metrics
from ntdh_bench.ranges import check_at_least

from .base import EvaluatedSplit, NetworkCallable, TrainableModule, build_network, check_network


class FusionModule(TrainableModule):
    """Base of methods that train a teacher's and a student's branch of one network together.

    A subclass sets ``method``, the name in records, and ``labels_pixels``, whether its logits are
    those of pixels and not of points, and implements the abstract methods. There is no distiller:
    the loss is the method's own, weighted by class with those of the data's ``class_weights`` that
    ``class_weighting`` names, where there are any. A sample mask drops rows (pixels or points) from
    what is distilled, see :meth:`kept`.

    Args:
        network: builds the network.
        num_classes: C.
        optimizer: from parameters to an optimiser.
        scheduler: from an optimiser to an epoch-wise schedule.
        seed: of the initial weights.
        ignore_index: targets that do not count.
    """

    method: str
    class_weighting: str = ""
    labels_pixels: bool
    arm = "kd"

    def __init__(
        self,
        network: NetworkCallable,
        num_classes: int,
        optimizer: OptimizerCallable,
        scheduler: LRSchedulerCallable | None,
        seed: int,
        ignore_index: int,
    ) -> None:
        super().__init__(num_classes, optimizer, scheduler, seed, ignore_index)
        self.stage_name = f"{self.method}'s training"
        self.network_factory = network
        self.network = build_network(network, seed, "student")
        self.sample_mask: RowMask | None = None

    def trained(self) -> dict[Modality, Trained]:
        """Return the whole network, which is the student's."""
        return {"student": Trained(self.network, self.network_factory, self.inputs)}

    @abstractmethod
    def inputs(self, batch: PairedBatch) -> Inputs:
        """Return what :meth:`forward` takes.

        Raises:
            UserError: the data module gives something else.
        """

    @abstractmethod
    def forward(self, inputs: Inputs) -> Tensor:
        """Return the logits of the branch that predicts."""

    @abstractmethod
    def evaluated(self, batch: PairedBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits of teacher and student, and the target."""

    def setup(self, stage: str) -> None:
        """Check that data and network fit, and make the metrics (Lightning hook)."""
        batch = self.first_batch(stage)
        check_network(self, self.inputs(batch), self.num_classes, "network")
        self.class_weights = self.data.class_weights.get(self.class_weighting)
        if not self.metrics:
            points = self.labels_pixels and "points" in batch
            self.metrics.update({s: pair_metrics(self.data, points) for s in ("val", "test")})

    def kept(
        self, teacher: Tensor, student: Tensor, target: Tensor, batch_idx: int
    ) -> tuple[Tensor, Tensor]:
        """Return the rows that the sample mask keeps, all without one.

        Args:
            teacher: logits ``(N, C)``.
            student: logits ``(N, C)``.
            target: int64 ``(N,)``, none ignored.
            batch_idx: number of the batch in the epoch.
        """
        if self.sample_mask is None:
            return teacher, student
        rows = self.sample_mask.keep_rows(teacher, student, target, self.current_epoch, batch_idx)
        return teacher[rows], student[rows]

    def evaluate(self, batch: PairedBatch, split: EvaluatedSplit) -> Evaluated:
        """Measure both branches and their divergences on a batch."""
        return self.log_pair(split, *self.evaluated(batch), batch)


def check_weights(**weights: float) -> None:
    """Raise a UserError if a weight of a loss is negative or not finite."""
    for name, weight in weights.items():
        check_at_least(f"model.{name}", weight, 0)
