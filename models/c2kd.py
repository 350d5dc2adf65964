"""C2KD: teacher and student train together, and talk through proxies where they agree."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from ntdh_bench.batch import PairedBatch
from ntdh_bench.distillers.mutual import mutual_kl, selected_nckl
from ntdh_bench.errors import UserError
from ntdh_bench.frozen_teacher import FrozenTeacher, TeacherKind
from ntdh_bench.layers import LOGITS, FeatureTap
from ntdh_bench.ranges import check_at_least, check_within
from ntdh_bench.seeding import seeded

from .base import NetworkCallable, build_network, layer_sizes
from .mutual import PairModule
from .teacher import TeacherModule

Side: TypeAlias = Literal["student", "teacher"]
_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


class Proxy(nn.Module):
    """Classifies from a network's features: a layer with batch statistics, and a head.

    Features with positions are averaged over them; in dense tasks each position is classified, and
    the logits are interpolated to the size of the targets. A single row has no statistics: those
    of the batches so far normalise it.

    Args:
        width: of the features.
        num_classes: C.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width, bias=False)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, num_classes)
        nn.init.kaiming_normal_(self.hidden.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: Tensor, size: torch.Size) -> Tensor:
        """Return logits ``(B, C, *size)`` of features ``(B, D, ...)``, of as many dimensions."""
        if not size and features.dim() > 2:
            features = features.flatten(2).mean(2)
        places = features.movedim(1, -1)
        rows = self._normalised(self.hidden(places.flatten(0, -2)))
        logits: Tensor = self.head(F.leaky_relu(rows, 0.1))
        logits = logits.view(*places.shape[:-1], -1).movedim(-1, 1)
        if not size:
            return logits
        return F.interpolate(logits, size, mode=_INTERPOLATION[len(size)], align_corners=False)

    def _normalised(self, rows: Tensor) -> Tensor:
        norm = self.norm
        if len(rows) > 1:
            return norm(rows)  # type: ignore[no-any-return]
        scale = norm.weight, norm.bias
        return F.batch_norm(rows, norm.running_mean, norm.running_var, *scale, eps=norm.eps)


class C2KDModule(PairModule):
    """Trains a student beside a trained teacher, through proxies that agree (C2KD).

    Huo et al., "C2KD: Bridging the Modality Gap for Cross-Modal Knowledge Distillation", CVPR 2024.
    The teacher starts from one that was trained alone (``ntdh-bench fit`` trains it first; from
    Python, call ``frozen_teacher.load``) and goes on training. Each network has a proxy, a second
    head on the features before its own, and learns from it and teaches it (KL both ways). The two
    proxies teach each other the non-target classes of the samples on whose order of the classes
    they agree, see :func:`ntdh_bench.distillers.mutual.selected_nckl`, which says where the
    authors' code is not what their paper says. All weights are 1 there, and T = 1.

    A sample mask drops rows from what the proxies tell each other, before the selection.

    Args:
        teacher_network: builds the teacher, on the teacher's modality.
        student_network: builds the student, on the student's modality.
        num_classes: C, linked to the data by the command line.
        layer: whose features the proxies see, in both networks.
        student_layer: the student's layer where it differs from ``layer``.
        teacher_layer: the teacher's layer where it differs from ``layer``.
        threshold: Kendall's tau-b in [-1, 1] that a sample must exceed to be selected.
        proxy_weight: weight of the KL divergences between networks and their proxies.
        distill_weight: weight of the KL divergences between the proxies.
        teacher_checkpoint: a checkpoint of TeacherModule to use instead of training.
        teacher_epochs: epochs of the teacher's training alone; ``None``: as many as the student's.
        optimizer: from the parameters of networks and proxies to an optimiser; the teacher is
            trained alone with the same.
        scheduler: from an optimiser to an epoch-wise schedule, likewise.
        seed: of the initial weights, linked to ``seed_everything`` by the command line.
        ignore_index: targets that do not count.
        class_weights: how much a target of each class weighs in the cross entropies; ``None``:
            alike.

    Raises:
        UserError: a threshold outside [-1, 1], a negative weight, or an unknown layer.
    """

    method = "C2KD"
    trains_teacher = True

    def __init__(
        self,
        teacher_network: NetworkCallable,
        student_network: NetworkCallable,
        num_classes: int,
        layer: str = "hidden2",
        student_layer: str | None = None,
        teacher_layer: str | None = None,
        threshold: float = 0.0,
        proxy_weight: float = 1.0,
        distill_weight: float = 1.0,
        teacher_checkpoint: str | None = None,
        teacher_epochs: int | None = None,
        optimizer: OptimizerCallable = SGD,
        scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
        ignore_index: int = 255,
        class_weights: list[float] | None = None,
    ) -> None:
        training = num_classes, optimizer, scheduler, seed, ignore_index, class_weights
        super().__init__(teacher_network, student_network, *training)
        self.remember_settings()
        check_within("model.threshold", threshold, -1, 1)
        check_at_least("model.proxy_weight", proxy_weight, 0)
        check_at_least("model.distill_weight", distill_weight, 0)
        check_at_least("model.teacher_epochs", teacher_epochs, 1)
        self.threshold = threshold
        self.proxy_weight = proxy_weight
        self.distill_weight = distill_weight
        self.teacher_checkpoint = teacher_checkpoint
        self.teacher_epochs = teacher_epochs
        self.layers: dict[Side, str] = {
            "student": student_layer or layer,
            "teacher": teacher_layer or layer,
        }
        self.proxies = nn.ModuleDict()
        self._taps: dict[Side, FeatureTap] = {
            "student": FeatureTap(self.student, [self.layers["student"]]),
            "teacher": FeatureTap(self.teacher, [self.layers["teacher"]]),
        }
        self.frozen_teacher: FrozenTeacher = FrozenTeacher(
            "independent",
            partial(build_network, teacher_network, seed, "teacher"),
            partial(build_network, student_network, seed, "companion"),
        )

    def teacher_module(self, kind: TeacherKind) -> TeacherModule:
        """Return the untrained module whose training gives the teacher to start from."""
        weights = None if self.class_weights is None else self.class_weights.tolist()
        return TeacherModule(
            self.teacher_network,
            self.num_classes,
            optimizer=self.optimizer_factory,
            scheduler=self.scheduler_factory,
            seed=self.seed,
            ignore_index=self.ignore_index,
            class_weights=weights,
        )

    def setup(self, stage: str) -> None:
        """Check that data and networks fit, take the trained teacher, size proxies (hook)."""
        super().setup(stage)
        if stage == "fit":
            self.teacher.load_state_dict(self.frozen_teacher.network.state_dict())
        if not self.proxies:
            batch = self.first_batch(stage)
            networks: dict[Side, nn.Module] = {"student": self.student, "teacher": self.teacher}
            self._make_proxies({n: self._width(net, n, batch) for n, net in networks.items()})

    def _width(self, network: nn.Module, side: Side, batch: PairedBatch) -> int:
        """Return the width of the layer whose features a proxy sees."""
        layer, places = self.layers[side], batch["target"].dim() - 1
        width, *size = layer_sizes(network, [layer], batch[side])[layer]
        if places and len(size) != places:
            raise UserError(
                f"the {side}'s layer {layer!r} gives {len(size)} spatial dimensions, but the "
                f"targets have {places}: set model.{side}_layer to another layer"
            )
        return width

    def _make_proxies(self, widths: dict[Side, int]) -> None:
        with seeded(self.seed, "initialise/proxies"):
            for side, width in widths.items():
                self.proxies[side] = Proxy(width, self.num_classes)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Size the proxies before their weights come (Lightning hook)."""
        name = "proxies.{}.hidden.weight"
        weights = {side: checkpoint["state_dict"].get(name.format(side)) for side in self.layers}
        if not self.proxies and all(isinstance(value, Tensor) for value in weights.values()):
            self._make_proxies({side: len(value) for side, value in weights.items()})

    def training_step(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        """Losses of networks, proxies and between the two, of one batch (Lightning hook)."""
        labels = batch["target"]
        outputs = {side: self._taps[side](batch[side]) for side in self.layers}
        logits = [of_side[LOGITS] for of_side in outputs.values()]
        features = {side: outputs[side][layer] for side, layer in self.layers.items()}
        proxies = [self.proxies[side](x, labels.shape[1:]) for side, x in features.items()]
        task = torch.stack([self.task_loss(x, labels) for x in logits]).sum()
        target, student, teacher, ours, theirs = self.rows(labels, *logits, *proxies)
        own = mutual_kl(student, ours) + mutual_kl(teacher, theirs)
        kept = self.kept_rows(ours, theirs, target, batch_idx)
        between = selected_nckl(ours[kept], theirs[kept], target[kept], self.threshold)
        loss = task + self.proxy_weight * own + self.distill_weight * between
        return self.checked(loss, batch_idx, task_loss=task, proxy_loss=own, distill_loss=between)
