"""MST-Distill: a student with several teachers, specialised by masks and weighed by a gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import SGD

from ntdh_bench.batch import Inputs, PairedBatch, both_inputs
from ntdh_bench.distillers.logits import kd
from ntdh_bench.distillers.routing import imbalance, routed_kl
from ntdh_bench.errors import UserError
from ntdh_bench.layers import change_layer, find_layer
from ntdh_bench.networks import evaluating
from ntdh_bench.ranges import check_above, check_at_least, check_within
from ntdh_bench.seeding import seeded

from .base import NetworkCallable, build_network, check_network, layer_sizes
from .multimodal import ConcatFusion
from .mutual import PairModule

Stage: TypeAlias = Literal["joint", "masks", "distillation"]


class MaskNet(nn.Module):
    """Weighs each feature of a sample, in (0, 1), by attention among its features.

    Args:
        width: D, of the features.
        embedding: numbers that stand for a feature, a multiple of ``heads``.
        heads: of the attention.
    """

    def __init__(self, width: int, embedding: int, heads: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.embed = nn.Linear(width, width * embedding)
        self.attention = nn.MultiheadAttention(embedding, heads, batch_first=True)
        self.head = nn.Linear(embedding, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return the features ``(B, D, ...)``, weighted; positions are averaged to weigh them."""
        averaged = features.flatten(2).mean(2) if features.dim() > 2 else features
        embedded = self.embed(averaged).unflatten(1, (-1, self.embedding))
        attended, _ = self.attention(embedded, embedded, embedded, need_weights=False)
        weights: Tensor = self.head(attended).squeeze(2).sigmoid()
        return features * weights.view(*weights.shape, *[1] * (features.dim() - 2))


class Dedicated(NamedTuple):
    """A teacher specialised by a mask: which network, and the layer that is masked."""

    network: Literal["multimodal", "teacher"]
    layer: str


class MSTDistillModule(PairModule):
    """Trains a student with specialised teachers (MST-Distill), in a sound form.

    Li et al., "MST-Distill: Mixture of Specialized Teachers for Cross-Modal Knowledge
    Distillation", ACM Multimedia 2025. Of the Trainer's epochs, first the student, a teacher on the
    other modality and one on both (:class:`ConcatFusion`) train together, with KL between every
    two. Then, for each masked layer of the two teachers, a :class:`MaskNet` learns to bring the
    teacher's distribution to the student's. In all epochs left the student learns from the masked
    teachers by ``CE + distill_weight * KL + balance_weight * imbalance``, a gate on its logits
    weighing the KL of each teacher; the student stands still while masks are trained.

    What the authors' code does and this does not: there the gate chooses one teacher by its index,
    so that only the balance term, divided by the number of teachers once more, ever teaches it, and
    teaches the student's logits, too (here ``top: 1`` chooses so, the default weighs all by the
    gate, which sees detached logits); the masks of a network stay in place as the next ones are
    added, so that the i-th teacher has the masks 1 to i (here each has its own alone). Its gate has
    no activation between its two layers, feature maps are convolved before they are averaged, a
    feature's embedding is half as long as there are features, and the weights of KL and balance are
    halved every 30 and lowered by a tenth every 10 epochs.

    Attention among D features takes D^2: layers of several hundred are for GPUs. Where samples look
    the same in every epoch, the masked teachers see each of them once.

    Args:
        teacher_network: builds the teacher on the teacher's modality.
        student_network: builds the student, on the student's modality.
        num_classes: C, linked to the data by the command line.
        multimodal_layers: layers that are masked of the teacher on both modalities.
        teacher_layers: layers that are masked of the teacher on its own; the authors mask two of
            each.
        joint_epochs: epochs of training together; ``None``: a third of the Trainer's, as the
            authors have as many of each stage.
        mask_epochs: epochs of training the masks; ``None``: likewise.
        temperature: T > 0 of every KL divergence, which is multiplied by T^2.
        top: how many teachers a sample learns from, the gate's likeliest; ``None``: from all.
        distill_weight: weight of the KL from the masked teachers.
        balance_weight: weight of the KL from equal use of the teachers to the gate's.
        embedding: numbers that stand for a feature in a MaskNet, a multiple of ``heads``.
        heads: of a MaskNet's attention.
        optimizer: from the parameters of everything that trains to an optimiser.
        scheduler: from an optimiser to an epoch-wise schedule.
        seed: of the initial weights, linked to ``seed_everything`` by the command line.
        ignore_index: targets that do not count.
        class_weights: how much a target of each class weighs in the cross entropies; ``None``:
            alike.

    Raises:
        UserError: a value out of range, an unknown layer, or no masked layer.
    """

    method = "MST-Distill"

    def __init__(
        self,
        teacher_network: NetworkCallable,
        student_network: NetworkCallable,
        num_classes: int,
        multimodal_layers: Sequence[str] = ("branches", "hidden2"),
        teacher_layers: Sequence[str] = ("hidden2",),
        joint_epochs: int | None = None,
        mask_epochs: int | None = None,
        temperature: float = 4.0,
        top: int | None = None,
        distill_weight: float = 1.0,
        balance_weight: float = 1.0,
        embedding: int = 12,
        heads: int = 3,
        optimizer: OptimizerCallable = SGD,
        scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
        ignore_index: int = 255,
        class_weights: list[float] | None = None,
    ) -> None:
        training = num_classes, optimizer, scheduler, seed, ignore_index, class_weights
        super().__init__(teacher_network, student_network, *training)
        self.remember_settings()
        self.joint_epochs, self.mask_epochs = joint_epochs, mask_epochs
        self.temperature, self.top = temperature, top
        self.distill_weight, self.balance_weight = distill_weight, balance_weight
        self.embedding, self.heads = embedding, heads
        fusion = partial(ConcatFusion, teacher_network, student_network)
        self.multimodal = build_network(fusion, seed, "multimodal")
        self.dedicated = [
            *(Dedicated("multimodal", layer) for layer in multimodal_layers),
            *(Dedicated("teacher", layer) for layer in teacher_layers),
        ]
        self._check_settings()
        self.masks = nn.ModuleList()
        self._known: Tensor | None = None
        #: epochs of the first two stages, fixed as training begins: it may go on for more of all
        self._lengths = (0, 0)
        with seeded(seed, "initialise/gate"):
            self.gate = nn.Sequential(
                nn.Linear(num_classes, 2 * num_classes),
                nn.ReLU(),
                nn.Linear(2 * num_classes, len(self.dedicated)),
            )

    def _check_settings(self) -> None:
        check_above("model.temperature", self.temperature, 0)
        for name in ("joint_epochs", "mask_epochs", "distill_weight", "balance_weight"):
            check_at_least(f"model.{name}", getattr(self, name), 0)
        check_at_least("model.heads", self.heads, 1)
        check_at_least("model.embedding", self.embedding, 1)
        if self.embedding % self.heads:
            raise UserError(
                f"model.embedding is {self.embedding}: give a multiple of model.heads, {self.heads}"
            )
        if not self.dedicated:
            raise UserError("MST-Distill masks no layer: name some in model.teacher_layers")
        check_within("model.top", 1 if self.top is None else self.top, 1, len(self.dedicated))
        for network, layer in self.dedicated:
            find_layer(self.get_submodule(network), layer)

    @property
    def stage(self) -> Stage:
        """What is trained in the current epoch."""
        joint, masks = self._lengths
        if self.current_epoch < joint:
            return "joint"
        return "masks" if self.current_epoch < joint + masks else "distillation"

    def setup(self, stage: str) -> None:
        """Check that data, networks and epochs fit, and size the masks (Lightning hook)."""
        super().setup(stage)
        if self.sample_mask is not None:
            raise UserError(
                "SampleMask ranks rows by one teacher, and MST-Distill has several: remove the mask"
            )
        if stage == "fit":
            self._plan_stages()
        batch = self.first_batch(stage)
        inputs, size = self._inputs(batch), batch["target"].shape[1:]
        check_network(self.multimodal, inputs["multimodal"], self.num_classes, "networks", size)
        if not self.masks:
            self._make_masks(
                layer_sizes(self.get_submodule(name), [layer], inputs[name])[layer][0]
                for name, layer in self.dedicated
            )

    def _plan_stages(self) -> None:
        trainer, given = self.trainer, (self.joint_epochs, self.mask_epochs)
        epochs = -1 if trainer.max_epochs is None else trainer.max_epochs
        if None in given and epochs < 0:
            raise UserError(
                "the stages of MST-Distill are thirds of trainer.max_epochs, which is not set: set "
                "it, or model.joint_epochs and model.mask_epochs"
            )
        joint, masks = (max(epochs // 3, 1) if length is None else length for length in given)
        trial: Any = trainer.fast_dev_run  # type: ignore[attr-defined]
        if 0 <= epochs <= joint + masks and not trial:
            raise UserError(
                f"trainer.max_epochs is {epochs}, but model.joint_epochs and model.mask_epochs "
                f"take {joint + masks}: none is left to distil; give more"
            )
        if trainer.world_size > 1:
            raise UserError(
                "MST-Distill trains its parts in turn, which processes cannot share: set "
                "trainer.devices to 1"
            )
        self._lengths = joint, masks

    def _make_masks(self, widths: Iterator[int]) -> None:
        with seeded(self.seed, "initialise/masks"):
            self.masks.extend(MaskNet(width, self.embedding, self.heads) for width in widths)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save how long the stages are (Lightning hook)."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["stages"] = list(self._lengths)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the stages' lengths, size the masks before their weights come (Lightning hook)."""
        joint, masks = checkpoint.get("stages", self._lengths)
        self._lengths = joint, masks
        names = [f"masks.{number}.embed.weight" for number in range(len(self.dedicated))]
        weights = [checkpoint["state_dict"].get(name) for name in names]
        if not self.masks and all(isinstance(value, Tensor) for value in weights):
            self._make_masks(value.shape[1] for value in weights)

    def on_train_epoch_start(self) -> None:
        """Freeze what does not train in this epoch (Lightning hook)."""
        super().on_train_epoch_start()
        joint, stage = self.stage == "joint", self.stage
        for network in (self.multimodal, self.teacher):
            network.train(joint).requires_grad_(joint)
        self.student.train(stage != "masks")
        if stage == "distillation" and self._known is None and self._labels_samples():
            self._known = self._ask_once()

    def on_train_end(self) -> None:
        """Forget what the masked teachers said (Lightning hook)."""
        self._known = None

    def _labels_samples(self) -> bool:
        """Return whether there is one target a sample, and samples are the same in every epoch."""
        dense = self.data.metric == "miou"
        return not dense and self.data.both_cacheable("train")

    @torch.no_grad()
    def _ask_once(self) -> Tensor:
        """Return the masked teachers' logits of all training samples, ``(samples, W, C)``."""
        size = self.data.num_train, len(self.dedicated), self.num_classes
        precise = torch.promote_types(cast(torch.dtype, self.dtype), torch.float32)
        known = torch.zeros(size, dtype=precise, device=self.device)
        with evaluating(self.masks):
            for batch in self.data.batches("train"):
                given = self.trainer.precision_plugin.convert_input(batch)
                moved = cast(PairedBatch, self.transfer_batch_to_device(given, self.device, 0))
                known[moved["index"]] = torch.stack(list(self.masked(moved)), 1).to(precise)
        return known

    def training_step(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch in the current stage (Lightning hook)."""
        steps = {"joint": self._together, "masks": self._mask, "distillation": self._distil}
        return steps[self.stage](batch, batch_idx)

    def _together(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        """CE of the three networks and KL between every two, both ways."""
        inputs, target = self._inputs(batch), batch["target"]
        logits = [self.get_submodule(name)(x) for name, x in inputs.items()]
        task = torch.stack([self.task_loss(x, target) for x in logits]).sum()
        _, *rows = self.rows(target, *logits)
        pairs = [pair for a, b in combinations(rows, 2) for pair in ((a, b), (b, a))]
        between = torch.stack([kd(a, b, self.temperature) for a, b in pairs]).sum()
        return self.checked(task + between, batch_idx, task_loss=task, distill_loss=between)

    def _mask(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        """KL from the student to each masked teacher, which trains its mask."""
        with torch.no_grad():
            student = self.student(batch["student"])
        _, given, *masked = self.rows(batch["target"], student, *self.masked(batch))
        loss = torch.stack([kd(x, given, self.temperature) for x in masked]).sum()
        return self.checked(loss, batch_idx, mask_loss=loss)

    def _distil(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        """CE of the student, KL from the masked teachers by the gate, and the gate's imbalance."""
        target = batch["target"]
        logits = self.student(batch["student"])
        task = self.task_loss(logits, target)
        masked = self._taught(batch)
        log_gate = self.log_gate(logits)
        _, student, *teachers = self.rows(target, logits, *masked)
        size = target.shape[1:]  # in dense tasks each position has the gate of its sample
        spread = log_gate.view(*log_gate.shape, *[1] * len(size)).expand(-1, -1, *size)
        _, gates = self.rows(target, spread)
        distilled = routed_kl(student, torch.stack(teachers), gates, self.temperature, self.top)
        balance = imbalance(log_gate)
        loss = task + self.distill_weight * distilled + self.balance_weight * balance
        parts = {"task_loss": task, "distill_loss": distilled, "balance_loss": balance}
        return self.checked(loss, batch_idx, **parts)

    @torch.no_grad()
    def _taught(self, batch: PairedBatch) -> list[Tensor]:
        """Return the logits of the masked teachers, from memory where they are known."""
        if self._known is not None:
            return list(self._known[batch["index"]].unbind(1))
        with evaluating(self.masks):
            return list(self.masked(batch))

    def log_gate(self, student_logits: Tensor) -> Tensor:
        """Return the logarithms ``(B, W)`` of how much each masked teacher counts for a sample."""
        logits = student_logits.detach()
        averaged = logits.flatten(2).mean(2) if logits.dim() > 2 else logits
        log_gate: Tensor = self.gate(averaged).log_softmax(1)
        return log_gate

    def masked(self, batch: PairedBatch) -> Iterator[Tensor]:
        """Yield the logits of each teacher under its own mask, and no other."""
        inputs = self._inputs(batch)
        for (name, layer), mask in zip(self.dedicated, self.masks, strict=True):
            network = self.get_submodule(name)
            handle = change_layer(network, layer, mask)
            try:
                yield network(inputs[name])
            finally:
                handle.remove()

    def _inputs(self, batch: PairedBatch) -> dict[str, Inputs]:
        """Return what each of the three networks sees."""
        both = both_inputs(batch["teacher"], batch["student"])
        return {"student": batch["student"], "teacher": batch["teacher"], "multimodal": both}
