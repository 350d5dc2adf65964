"""2DPASS's training: image features at the points' pixels teach the points' network."""

from __future__ import annotations

from typing import Literal, TypeAlias, cast, get_args

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from ntdh_bench.batch import Inputs, PairedBatch
from ntdh_bench.divergence import kl
from ntdh_bench.errors import UserError

from .base import NetworkCallable, count_parameters
from .fusion import FusionModule, check_weights
from .losses import lovasz_softmax

ClassWeighting: TypeAlias = Literal["2dpass", "pmf"]


class TwoDPASSModule(FusionModule):
    """Trains 2DPASS (Yan et al., ECCV 2022, Sec. 3.3-3.4) on the points in view.

    At each of the four scales a head on fused image and point features teaches, detached, one on
    the point features alone, by KL divergence. All heads have a segmentation loss: cross entropy,
    weighted by class where the data say how, and Lovász. A sample mask drops points from
    the divergences only, ranked at each scale. In the metrics the student is the points' network,
    which predicts, and the teacher the head on the fused features of all scales.

    Args:
        network: builds a TwoDPASSNet.
        num_classes: C, linked to the data by the command line.
        fused_weight: of the fused heads' segmentation losses, a quarter for each scale.
        distill_weight: of the divergences, a quarter for each scale.
        class_weighting: of the cross entropy: ``2dpass``, the published one, or ``pmf``, PMF's.
        optimizer: from parameters to an optimiser.
        scheduler: from an optimiser to an epoch-wise schedule.
        seed: of the initial weights, linked to ``seed_everything`` by the command line.
        ignore_index: targets that do not count.

    Raises:
        UserError: a negative weight, or an unknown ``class_weighting``.
    """

    method = "2DPASS"
    labels_pixels = False

    def __init__(
        self,
        network: NetworkCallable,
        num_classes: int,
        fused_weight: float = 1.0,
        distill_weight: float = 0.05,
        optimizer: OptimizerCallable = SGD,
        scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
        ignore_index: int = 255,
        class_weighting: ClassWeighting = "2dpass",
    ) -> None:
        super().__init__(network, num_classes, optimizer, scheduler, seed, ignore_index)
        self.remember_settings()
        check_weights(fused_weight=fused_weight, distill_weight=distill_weight)
        if class_weighting not in get_args(ClassWeighting):
            raise UserError(f"model.class_weighting is {class_weighting!r}: choose 2dpass or pmf")
        self.class_weighting = class_weighting
        self.fused_weight = fused_weight
        self.distill_weight = distill_weight

    def parameter_counts(self) -> dict[str, int]:
        """Return how many parameters the whole network and the points' branch have."""
        points = cast(nn.Module, self.network.points)
        return {"teacher": count_parameters(self.network), "student": count_parameters(points)}

    def inputs(self, batch: PairedBatch) -> dict[str, Tensor]:
        """Return the points."""
        image, points = batch["teacher"], batch.get("points")
        if points is None:
            raise UserError("TwoDPASSModule takes the points of the scans: set data.points: true")
        if not isinstance(image, Tensor) or image.dim() != 4 or image.shape[1] != 3:
            raise UserError(
                "TwoDPASSModule takes camera images (B, 3, H, W) beside the points: set "
                "data.unimodal: false"
            )
        return points

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the points' logits ``(P, C)``, without an image."""
        logits: Tensor = self.network(inputs)["logits"]
        return logits

    def training_step(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        """Losses of all heads and between them, of one batch (Lightning hook)."""
        points = self.inputs(batch)
        valid = points["target"] != self.ignore_index
        target = points["target"][valid]
        logits = self.network(points, batch["teacher"])
        rows = {name: values[..., valid, :] for name, values in logits.items()}
        loss = self._segmentation(rows["logits"], target)
        loss = loss + self._segmentation(rows["camera"], target)
        scales = list(zip(rows["fused"], rows["single"], strict=True))
        distill_loss = torch.zeros((), device=loss.device)
        for fused, single in scales:
            taught = self._segmentation(fused, target)
            distilled = self._distilled(fused.detach(), single, target, batch_idx)
            weighted = self.fused_weight * taught + self.distill_weight * distilled
            loss = loss + self._segmentation(single, target) + weighted / len(scales)
            distill_loss = distill_loss + distilled.detach() / len(scales)
        task_loss = loss - self.distill_weight * distill_loss
        return self.checked(loss, batch_idx, task_loss=task_loss, distill_loss=distill_loss)

    def _segmentation(self, logits: Tensor, target: Tensor) -> Tensor:
        weights = self.class_weights
        if weights is None:
            weights = torch.ones(self.num_classes, device=logits.device)
        total = F.cross_entropy(logits.float(), target, weights, reduction="sum")
        entropy = total / weights[target].sum().clamp(min=torch.finfo(weights.dtype).tiny)
        return entropy + lovasz_softmax(logits, target)

    def _distilled(self, fused: Tensor, single: Tensor, target: Tensor, batch_idx: int) -> Tensor:
        """Return the divergence from ``fused`` to ``single``, mean over points and classes."""
        fused, single = self.kept(fused, single, target, batch_idx)
        return kl(fused, single).sum() / max(single.numel(), 1)

    def evaluated(self, batch: PairedBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits of the fused head and the points' network, and the target, per point."""
        points = self.inputs(batch)
        logits = self.network(points, batch["teacher"])
        return logits["camera"], logits["logits"], points["target"]

    def predict_step(self, batch: PairedBatch, batch_idx: int) -> dict[str, Tensor]:
        """Return logits and target of the points, and the index of each one's sample."""
        points = self.inputs(batch)
        index = batch["index"][points["scan"]]
        return {"logits": self(points), "target": points["target"], "index": index}
