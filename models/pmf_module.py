"""PMF's training: camera and lidar branch guide each other, pixel by pixel."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import SGD, AdamW

from ntdh_bench.batch import Inputs, PairedBatch
from ntdh_bench.divergence import flatten_dense
from ntdh_bench.errors import UserError

from .base import NetworkCallable, check_optimizer, count_parameters
from .fusion import FusionModule, check_weights
from .losses import focal, lovasz_softmax, perception_aware
from .optimizers import OptimizerPair


class PMFModule(FusionModule):
    """Trains the two branches of PMF (Zhuang et al., ICCV 2021, Sec. 3.3).

    Each branch has a focal loss, with the data's class weights where there are any, and a Lovász
    loss; the perception-aware loss lets the more confident branch guide the other. A sample mask
    drops pixels from the last one only. The lidar branch, which sees the camera's features, is the
    student and predicts; the camera branch is its teacher in the metrics. Where the data give the
    points as well, the classes of their pixels are measured, too (``point_miou``).

    Args:
        network: builds a PMFNet.
        num_classes: C, linked to the data by the command line.
        lovasz_weight: of the Lovász losses (lambda).
        perception_weight: of the perception-aware loss (gamma).
        threshold: confidence in [0, 1] from which a branch may guide the other (tau).
        optimizer: from parameters to the optimiser of all but the camera branch.
        camera_optimizer: from parameters to the optimiser of the camera branch.
        scheduler: from an optimiser to an epoch-wise schedule, of both learning rates.
        seed: of the initial weights, linked to ``seed_everything`` by the command line.
        ignore_index: targets that do not count.

    Raises:
        UserError: a negative weight, or a threshold outside [0, 1].
    """

    method = "PMF"
    class_weighting = "pmf"
    labels_pixels = True

    def __init__(
        self,
        network: NetworkCallable,
        num_classes: int,
        lovasz_weight: float = 1.0,
        perception_weight: float = 0.5,
        threshold: float = 0.7,
        optimizer: OptimizerCallable = AdamW,
        camera_optimizer: OptimizerCallable = SGD,
        scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
        ignore_index: int = 255,
    ) -> None:
        super().__init__(network, num_classes, optimizer, scheduler, seed, ignore_index)
        self.remember_settings()
        check_weights(lovasz_weight=lovasz_weight, perception_weight=perception_weight)
        if not 0 <= threshold <= 1:
            raise UserError(f"model.threshold is {threshold}: it must lie in [0, 1]")
        self.lovasz_weight = lovasz_weight
        self.perception_weight = perception_weight
        self.threshold = threshold
        check_optimizer("camera_optimizer", camera_optimizer, scheduler)
        self.camera_optimizer_factory = camera_optimizer

    def build_optimizer(self) -> OptimizerPair:
        """Return the optimisers of the camera branch and of all else, as one."""
        camera = list(self.network.camera.parameters())  # type: ignore[union-attr]
        known = {id(parameter) for parameter in camera}
        others = [value for value in self.network.parameters() if id(value) not in known]
        return OptimizerPair(self.camera_optimizer_factory(camera), self.optimizer_factory(others))

    def parameter_counts(self) -> dict[str, int]:
        """Return how many parameters the camera branch and the whole network have."""
        camera: Any = self.network.camera
        return {"teacher": count_parameters(camera), "student": count_parameters(self.network)}

    def inputs(self, batch: PairedBatch) -> Inputs:
        """Return ``camera`` and ``lidar``, float32 ``(B, channels, H, W)``."""
        camera, lidar = batch["teacher"], batch["student"]
        if not isinstance(camera, Tensor) or camera.dim() != 4 or not isinstance(lidar, Tensor):
            raise UserError(
                "PMFModule takes a camera and a lidar image of one image plane, as "
                "SemanticKITTIDataModule gives them: change --data"
            )
        return {"camera": camera, "lidar": lidar}

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the lidar branch's logits ``(B, C, H, W)``."""
        logits: Tensor = self.network(inputs)["lidar"]
        return logits

    def training_step(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        """Losses of both branches and between them, of one batch (Lightning hook)."""
        logits = self.network(self.inputs(batch))
        camera, target = flatten_dense(logits["camera"], batch["target"], self.ignore_index)
        lidar, _ = flatten_dense(logits["lidar"], batch["target"], self.ignore_index)
        guidance = perception_aware(*self.kept(camera, lidar, target, batch_idx), self.threshold)
        segmentation = self._segmentation(camera, target) + self._segmentation(lidar, target)
        loss = segmentation + self.perception_weight * guidance
        return self.checked(loss, batch_idx, task_loss=segmentation, distill_loss=guidance)

    def _segmentation(self, logits: Tensor, target: Tensor) -> Tensor:
        loss = focal(logits, target, self.class_weights)
        return loss + self.lovasz_weight * lovasz_softmax(logits, target)

    def evaluated(self, batch: PairedBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits of the camera and the lidar branch, and the target, all per pixel."""
        logits = self.network(self.inputs(batch))
        return logits["camera"], logits["lidar"], batch["target"]
