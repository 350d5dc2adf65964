"""Many members of one network pair, each a run of its own, trained as one LightningModule."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ntdh_bench.batch import Inputs, Modality, PairedBatch
from ntdh_bench.contract import StackMember
from ntdh_bench.distillers.mutual import Distance, joint_distance
from ntdh_bench.divergence import promote
from ntdh_bench.errors import NotStackable
from ntdh_bench.layers import LOGITS
from ntdh_bench.seeding import global_states
from ntdh_bench.stacks.data import StackedData, of_members
from ntdh_bench.stacks.graphs import StepGraph, cuda_graph
from ntdh_bench.stacks.networks import NetworkStack

from .base import (
    TrainableModule,
    check_network,
)


class ModuleStack(TrainableModule):
    """K members trained by one optimiser; a loss that is not finite ends its member alone.

    Args:
        members: modules that differ in what they are given, not in how they are optimised.

    Attributes:
        failures: why a member failed, by its number.
    """

    _bad_batch: Tensor
    _bad_loss: Tensor

    def __init__(self, members: Sequence[TrainableModule]) -> None:
        like = members[0]
        weights = None if like.class_weights is None else like.class_weights.tolist()
        optimisation = like.optimizer_factory, like.scheduler_factory
        super().__init__(like.num_classes, *optimisation, like.seed, like.ignore_index, weights)
        self.stage_name = like.stage_name
        self.failures: dict[int, str] = {}
        self._first_step = 0
        self._generators: list[Tensor] = []
        self._graph: StepGraph | None = None
        self._replayed = False
        # The first loss of each member that is not finite: looked at once an epoch, since every
        # look at a device's numbers waits for it.
        self.register_buffer("_bad_batch", torch.full((len(members),), -1), persistent=False)
        self.register_buffer("_bad_loss", torch.zeros(len(members)), persistent=False)

    @property
    def streams(self) -> list[Any]:
        """The data modules in use."""
        data: StackedData = self.trainer.datamodule  # type: ignore[attr-defined]
        return data.streams

    @abstractmethod
    def losses(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        """Return the members' losses ``(K,)`` of a batch ``(S, B, ...)`` of their streams."""

    def owners(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yield every parameter with the members of its rows, ``(M,)``, or of all of it, ``()``."""
        every = torch.arange(len(self._bad_batch), device=self.device)
        return ((parameter, every) for parameter in self.parameters())

    def _global_states(self) -> list[Tensor]:
        # A recorded step draws nothing, but recording one is not said to leave a GPU's state alone.
        return global_states(self.device if self._graph is None else torch.device("cpu"))

    def task_losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return :func:`.base.task_loss` of each member, ``(K,)``, from logits ``(K, N, C)``."""
        rows = promote(logits)[0].flatten(0, 1)
        options: Any = {"ignore_index": self.ignore_index, "reduction": "none"}
        entropy = F.cross_entropy(rows, target.flatten(), self.class_weights, **options)
        counted = target != self.ignore_index
        total = entropy.view_as(target).sum(1)
        if self.class_weights is None:
            return total / counted.sum(1).clamp(min=1)
        weights = self.class_weights[target.where(counted, 0)]
        weight = weights.where(counted, 0).sum(1)
        return total / weight.where(weight > 0, 1)

    @property
    def graphable(self) -> bool:
        """Whether a step does the same on all batches, and keeps nothing but gradients."""
        return True

    def on_train_start(self) -> None:
        """Record the step where kernels have to be launched (Lightning hook)."""
        recorded = self.device.type == "cuda" and self.trainer.precision == "32-true"
        if recorded and self.graphable:
            self._graph = StepGraph(self.losses, self.parameters(), cuda_graph)

    def on_train_end(self) -> None:
        """Give the memory of the recorded step back (Lightning hook)."""
        self._graph = None

    def on_train_epoch_start(self) -> None:
        """Note where the epoch begins (Lightning hook)."""
        super().on_train_epoch_start()
        self._first_step = self.global_step
        self._generators = self._global_states()

    def training_step(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        """Return the sum of the losses (Lightning hook): a member's gradient is that of its own."""
        losses = self._replay(batch, batch_idx)
        self._replayed = losses is not None
        if losses is None:
            losses = self.losses(batch, batch_idx)
        found = losses.detach()
        bad = ~found.isfinite() & (self._bad_batch < 0)
        self._bad_batch.masked_fill_(bad, batch_idx)
        self._bad_loss = torch.where(bad, found, self._bad_loss)
        return losses.sum()

    def _replay(self, batch: PairedBatch, batch_idx: int) -> Tensor | None:
        """Return the losses of the recorded step, whose gradients are there then; or ``None``."""
        if self._graph is None:
            return None
        batches = self.trainer.accumulate_grad_batches
        if batch_idx % batches == 0:
            self._graph.zero_grad()
        return self._graph(batch, 1 / batches)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Differentiate the loss, unless the recorded step did (Lightning hook)."""
        if not self._replayed:
            super().backward(loss, *args, **kwargs)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Drop gradients that were used, unless a recorded step needs their place (hook)."""
        if self._graph is None:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip each member's gradients by their own norm (Lightning hook)."""
        if not gradient_clip_val or gradient_clip_algorithm == "value":
            super().configure_gradient_clipping(
                optimizer, gradient_clip_val, gradient_clip_algorithm
            )
            return
        slopes = [(p.grad, members) for p, members in self.owners() if p.grad is not None]
        squares = torch.zeros_like(self._bad_loss)
        for slope, members in slopes:
            square = _rows(slope, members).flatten(1).square().sum(1)
            squares.index_add_(0, members.reshape(-1), square.to(squares))
        share = (gradient_clip_val / (squares.sqrt() + 1e-6)).clamp(max=1)  # as PyTorch does
        for slope, members in slopes:
            slope.mul_(share[members].view(-1, *[1] * (slope.dim() - 1)).to(slope))

    def on_train_epoch_end(self) -> None:
        """Let members fail, and stop if none is left (Lightning hook).

        Raises:
            NotStackable: data or distillers draw numbers that a run alone would seed for itself.
        """
        if not all(map(torch.equal, self._generators, self._global_states())):
            raise NotStackable("data or distillers draw from the global generator")
        self.note_failures()
        if len(self.failures) == len(self._bad_batch):
            self.trainer.should_stop = True

    @torch.no_grad()
    def note_failures(self) -> None:
        """Note whose loss or weights are not finite, and make all weights finite.

        Members share no number, so the others never see what is wrong with one.
        """
        finite = torch.ones_like(self._bad_batch, dtype=torch.bool)
        for parameter, members in self.owners():
            rows = _rows(parameter, members).flatten(1).isfinite().all(1)
            finite[members.reshape(-1)] &= rows
        if finite.all() and (self._bad_batch < 0).all():
            return
        found = zip(self._bad_batch.tolist(), self._bad_loss.tolist(), finite.tolist(), strict=True)
        for member, (batch, loss, whole) in enumerate(found):
            if batch >= 0:
                step = self._first_step + batch // self.trainer.accumulate_grad_batches
                failure = self.loss_failure(loss, step, self.current_epoch, batch)
                self.failures.setdefault(member, failure)
            elif not whole:
                self.failures.setdefault(member, self.weights_failure())
        optimizers = self.trainer.optimizers
        states = [s for optimizer in optimizers for s in optimizer.state.values()]
        values = [*self.parameters(), *self.buffers(), *(v for s in states for v in s.values())]
        for value in values:
            if isinstance(value, Tensor) and value.is_floating_point():
                value.nan_to_num_(0, 0, 0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save which members failed (Lightning hook)."""
        checkpoint["stack"] = {"failures": dict(self.failures)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over which members failed (Lightning hook)."""
        self.failures = dict(checkpoint["stack"]["failures"])


class _StreamStack(ModuleStack):
    """Members of one class of modules, whose networks are trained on a stream each.

    Args:
        members: untrained.
        networks: the names of their networks.
    """

    stream_of: Tensor

    def __init__(self, members: Sequence[StackMember], *networks: str) -> None:
        modules = [member.module for member in members]
        super().__init__(modules)
        self.networks = nn.ModuleDict(
            {name: NetworkStack([getattr(module, name) for module in modules]) for name in networks}
        )
        self.register_buffer("stream_of", streams_of(members), persistent=False)

    def logits(self, network: str, inputs: Inputs) -> Tensor:
        """Return the logits ``(K, B, C)`` of a network for inputs ``(S, B, ...)``."""
        outputs: dict[str, Tensor] = self.networks[network](of_members(inputs, self.stream_of))
        return outputs[LOGITS]

    def state_of(self, member: int) -> dict[str, Tensor]:
        """Return a member's weights, by the names of its module."""
        return {
            f"{part}.{name}": value
            for part, network in self.networks.items()
            for name, value in cast(NetworkStack, network).state_of(member).items()
        }


class JointStack(_StreamStack):
    """Members of :class:`.joint.JointModule`, which may differ in their Dist and its weight.

    Args:
        members: untrained.
        streams: their data.
    """

    dist_weight: Tensor

    def __init__(self, members: Sequence[StackMember], streams: Sequence[Any]) -> None:
        super().__init__(members, "teacher", "companion")
        first, batch = members[0].module, next(streams[0].batches("train", batch_size=2))
        check_pair(first.teacher, first.companion, self.num_classes, batch)
        dists: list[Distance] = [member.module.dist for member in members]
        weights = exact([member.module.dist_weight for member in members])
        self.register_buffer("dist_weight", weights, persistent=False)
        self._dists = sorted(set(dists))
        for kind in self._dists:
            own = torch.tensor([number for number, dist in enumerate(dists) if dist == kind])
            self.register_buffer(f"_of_{kind}", own, persistent=False)

    def losses(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        """Return CE + CE + weighted Dist of each member, ``(K,)``."""
        logits_a = self.logits("teacher", batch["teacher"])
        logits_b = self.logits("companion", batch["student"])
        target = batch["target"][self.stream_of]
        task = self.task_losses(logits_a, target) + self.task_losses(logits_b, target)
        distances = torch.zeros_like(task)
        for kind in self._dists:
            own = self.get_buffer(f"_of_{kind}")
            b, a, of_both = (value.index_select(0, own) for value in (logits_b, logits_a, target))
            distances = distances.index_add(0, own, joint_distance(b, a, of_both, kind))
        return task + self.dist_weight.to(task) * distances


class SingleStack(_StreamStack):
    """Members of :class:`.teacher.TeacherModule`, one a stream.

    Args:
        members: untrained.
    """

    def __init__(self, members: Sequence[StackMember]) -> None:
        super().__init__(members, "network")
        self.entry: Modality = members[0].module.entry

    def losses(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        """Return the cross entropy of each member, ``(K,)``."""
        logits = self.logits("network", batch[self.entry])
        return self.task_losses(logits, batch["target"][self.stream_of])


def check_pair(teacher: nn.Module, student: nn.Module, classes: int, batch: PairedBatch) -> None:
    """Refuse networks that do not give the logits of a batch ``(B, ...)``.

    Raises:
        UserError: one does not.
    """
    size = batch["target"].shape[1:]
    check_network(student, batch["student"], classes, "student_network", size)
    check_network(teacher, batch["teacher"], classes, "teacher_network", size)


def streams_of(members: Sequence[StackMember]) -> Tensor:
    """Return the stream of each member, int64 ``(K,)``."""
    return torch.tensor([member.stream for member in members])


def exact(values: Sequence[float]) -> Tensor:
    """Return settings of members as they are, float64 ``(K,)``."""
    return torch.tensor(values, dtype=torch.float64)


def _rows(value: Tensor, members: Tensor) -> Tensor:
    """View a parameter as ``(M, ...)``, a row a member."""
    return value if members.dim() else value.unsqueeze(0)
