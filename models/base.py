"""What every LightningModule here shares: optimiser, finite loss, epoch seeds, plain settings."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ntdh_bench.batch import Inputs, PairedBatch, PairedData, Split, has_both
from ntdh_bench.contract import BenchModule, Evaluated
from ntdh_bench.divergence import promote
from ntdh_bench.errors import UserError
from ntdh_bench.layers import LOGITS, features_layer, run_tapped
from ntdh_bench.metrics import DEPENDENCE, RowChoice, pair_metrics, update_pair
from ntdh_bench.networks import device_of, evaluating, to_device
from ntdh_bench.seeding import derive_seed, seeded
from ntdh_bench.segmentation import MeanIoU

from .optimizers import WarmupCosine

NetworkCallable: TypeAlias = Callable[[], nn.Module]
EvaluatedSplit: TypeAlias = Literal["val", "test"]

_TOO_LARGE = "lower the learning rate or the weight of the distillation term, or check the data"


def build_network(factory: NetworkCallable, seed: int, purpose: str) -> nn.Module:
    """Build a network whose initial weights depend on (seed, purpose) alone.

    So the student starts from the same weights with and without distillation.
    """
    with seeded(seed, f"initialise/{purpose}"):
        return factory()


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters, the capacity of the paper's Table I."""
    return sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def check_network(
    network: nn.Module,
    inputs: Inputs,
    num_classes: int,
    name: str,
    spatial: tuple[int, ...] | None = None,
) -> None:
    """Check that a network takes the data's inputs and returns the logits that the targets need.

    Args:
        network: left as it is, batch statistics included.
        inputs: a small batch, on any device.
        num_classes: C.
        name: the network's name in configs.
        spatial: size of the targets, ``()`` for one label a sample; ``None``: not checked.

    Raises:
        UserError: it does not.
    """
    try:
        with evaluating(network):
            logits = network(to_device(inputs, device_of(network)))
    except (RuntimeError, TypeError, IndexError, AttributeError, KeyError) as error:
        shape = tuple(inputs.shape[1:]) if isinstance(inputs, Tensor) else list(inputs)
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if has_both(inputs):
            reason += (
                "; they are those of both modalities: give a network that takes both, such as "
                "LateFusion, or set model.teacher_inputs to own (of a TeacherModule: "
                "model.modality to one)"
            )
        raise UserError(
            f"model.{name} does not take the data's inputs of shape {shape}: {reason}"
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() < 2:
        raise UserError(
            f"model.{name} returns no logits (B, classes, ...): choose a network that classifies"
        )
    if logits.shape[1] != num_classes:
        raise UserError(
            f"model.{name} returns {logits.shape[1]} logits, but the data has {num_classes} "
            f"classes: set model.{name}.init_args.num_classes"
        )
    if spatial is not None and logits.shape[2:] != spatial:
        raise UserError(
            f"model.{name} returns logits of the size {tuple(logits.shape[2:])} for targets of the "
            f"size {tuple(spatial)}: choose a network that labels every pixel (of volumes: set "
            f"model.{name}.init_args.grid and data.scale to go together)"
        )


@torch.no_grad()
def layer_sizes(network: nn.Module, layers: Sequence[str], inputs: Inputs) -> dict[str, torch.Size]:
    """Return sizes ``(D, ...)`` of layers' outputs by name; batch statistics stay as they are."""
    with evaluating(network):
        outputs = run_tapped(network, layers, to_device(inputs, device_of(network)))
    return {layer: outputs[layer].shape[1:] for layer in layers}


class Compared(NamedTuple):
    """Layers of teacher and student whose features are compared, and their widths; or none."""

    layers: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()


def compared_features(teacher: nn.Module, student: nn.Module, batch: PairedBatch) -> Compared:
    """Return what the last linear layers of teacher and student take, which is always compared.

    So whatever a distiller compares, it is the same with and without. None where targets are dense,
    or where one network has no vector of each sample there.

    Args:
        teacher: takes the inputs of the batch, and stays as it is.
        student: likewise.
        batch: small, on any device.
    """
    if batch["target"].dim() > 1:
        return Compared()
    first = _vectors_before_head(teacher, batch["teacher"])
    second = _vectors_before_head(student, batch["student"])
    if first is None or second is None:
        return Compared()
    return Compared((first[0], second[0]), (first[1], second[1]))


@torch.no_grad()
def _vectors_before_head(network: nn.Module, inputs: Inputs) -> tuple[str, int] | None:
    """Return the layer and the width of these features; ``None``: there are none."""
    layer = features_layer(network)
    if layer is None:
        return None
    try:
        with evaluating(network):
            outputs = run_tapped(network, [layer], to_device(inputs, device_of(network)))
        samples, width = outputs[layer].shape
    except (IndexError, KeyError, ValueError):  # not called, called by keyword, or no vectors
        return None
    return (layer, width) if samples == len(outputs[LOGITS]) else None


def are_aligned(data: PairedData, target: Tensor) -> bool:
    """Return whether positions of the two modalities are the same places, those of dense targets.

    Args:
        data: says it of data with one label a sample.
        target: of a batch.
    """
    return data.aligned or target.dim() > 1


def task_loss(
    logits: Tensor, target: Tensor, ignore_index: int, class_weights: Tensor | None = None
) -> Tensor:
    """Cross entropy, (weighted) mean over the targets that count; 0 if none does.

    Args:
        logits: ``(B, C, *spatial)``.
        target: int64 ``(B, *spatial)``.
        ignore_index: value of targets that do not count.
        class_weights: float32 ``(C,)``, how much a target of each class weighs; ``None``: alike.
    """
    total = F.cross_entropy(
        promote(logits)[0], target, class_weights, ignore_index=ignore_index, reduction="sum"
    )
    counted = target != ignore_index
    if class_weights is None:
        return total / counted.sum().clamp(min=1)
    weight = class_weights[target[counted]].sum()
    return total / torch.where(weight > 0, weight, 1)


def _checked_weights(class_weights: Sequence[float] | None, num_classes: int) -> Tensor | None:
    """Return the weights of the classes in the task loss, float32 ``(C,)``, or ``None``.

    Raises:
        UserError: not one weight a class, one negative or not finite, or none positive.
    """
    if class_weights is None:
        return None
    finite = all(0 <= weight < torch.inf for weight in class_weights)
    if len(class_weights) != num_classes or not finite or not any(class_weights):
        raise UserError(
            f"model.class_weights is {list(class_weights)}: give {num_classes} finite weights, one "
            "a class, none negative and one of them positive"
        )
    return torch.tensor(class_weights, dtype=torch.float32)


def check_optimizer(
    name: str, optimizer: OptimizerCallable, scheduler: LRSchedulerCallable | None
) -> None:
    """Try an optimiser and its schedule on one number: before a teacher is trained for nothing.

    Raises:
        UserError: the optimiser or the schedule refuses its values.
    """
    try:
        tried = optimizer([nn.Parameter(torch.zeros(1))])
        if scheduler is not None:
            scheduler(tried)
    except ValueError as error:
        raise UserError(
            f"model.{name}: {error}; rates, decays and momenta are at least 0, betas below 1"
        ) from error


def steps_unseen(device: torch.device) -> int:
    """Return after how many steps their losses are looked at: any device but a CPU has to wait."""
    return 1 if device.type == "cpu" else 50


class _StepLoss(NamedTuple):
    """The loss of one step, and which step it was."""

    loss: Tensor
    step: int
    epoch: int
    batch: int


class TrainableModule(BenchModule):
    """BenchModule with an injected optimiser that stops at the first loss that is not finite.

    On a GPU it stops some steps later, but names that step, and no checkpoint is saved after it.

    Args:
        num_classes: C.
        optimizer: from parameters to an optimiser.
        scheduler: from an optimiser to a schedule stepped every epoch, or ``None``.
        seed: the run's seed.
        ignore_index: targets that do not count.
        class_weights: of the task loss, one a class; ``None``: alike.
    """

    stage_name = "training"
    class_weights: Tensor | None

    def __init__(
        self,
        num_classes: int,
        optimizer: OptimizerCallable,
        scheduler: LRSchedulerCallable | None,
        seed: int,
        ignore_index: int,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        weights = _checked_weights(class_weights, num_classes)
        check_optimizer("optimizer", optimizer, scheduler)
        self.register_buffer("class_weights", weights, persistent=False)
        self.num_classes = num_classes
        self.optimizer_factory = optimizer
        self.scheduler_factory = scheduler
        self.seed = seed
        self.ignore_index = ignore_index
        self.metrics = nn.ModuleDict()
        self.compared = Compared()
        self._loss_sums: dict[str, Tensor | float] = {}
        self._loss_count = 0
        self._unseen: list[_StepLoss] = []

    @property
    def data(self) -> PairedData:
        """The data module in use."""
        return cast(PairedData, self.trainer.datamodule)  # type: ignore[attr-defined]

    def first_batch(self, stage: str) -> PairedBatch:
        """Return two samples of the split that a Trainer stage looks at, to check shapes.

        Raises:
            UserError: the teacher sees both modalities, and the data do not give it both.
        """
        splits: dict[str, Split] = {"fit": "train", "validate": "val"}
        batch = next(self.data.batches(splits.get(stage, "test"), batch_size=2))
        if self.teacher_inputs == "both" and not has_both(batch["teacher"]):
            raise UserError(
                f"the teacher sees both modalities, but {type(self.data).__name__} gives it its "
                "own alone: set teacher_inputs of the data module to both before it is set up"
            )
        return batch

    def remember_settings(self) -> None:
        """Save the constructor's arguments as hyperparameters, those that are plain values.

        From the command line all are plain (the parsed config). From Python, networks and
        optimisers are objects, which ``weights_only`` loading refuses: give them again to
        ``load_from_checkpoint``.
        """
        frame = inspect.currentframe()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*is an instance of `nn.Module`.*")
            self.save_hyperparameters(frame=frame.f_back if frame else None)
        plain = {name: value for name, value in self.hparams.items() if _is_plain(value)}
        self.hparams.clear()
        self.save_hyperparameters(plain)

    def trainable_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters that the optimiser updates."""
        return self.parameters()

    def configure_optimizers(self) -> Any:
        """Build the optimiser and the schedule (Lightning hook)."""
        optimizer = self.build_optimizer()
        if self.scheduler_factory is None:
            return optimizer
        schedule = self.scheduler_factory(optimizer)
        if isinstance(schedule, WarmupCosine) and schedule.epochs is None:
            schedule.epochs = self._epochs()
        return [optimizer], [schedule]

    def _epochs(self) -> int:
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 0:
            raise UserError(
                "the schedule takes its epochs from trainer.max_epochs, which is not set: set it, "
                "or model.scheduler.epochs"
            )
        return epochs

    def build_optimizer(self) -> Optimizer:
        """Return the optimiser of the trainable parameters."""
        return self.optimizer_factory(self.trainable_parameters())

    def on_train_epoch_start(self) -> None:
        """Seed the global generators for this epoch and rank (Lightning hook).

        Derived rather than saved: dropout repeats after a resume on every rank.
        """
        torch.manual_seed(
            derive_seed(self.seed, "epoch", self.current_epoch, self.trainer.global_rank)
        )
        self._loss_sums = {}
        self._loss_count = 0
        self._unseen = []

    def task_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the cross entropy ``()`` of one batch, see :func:`task_loss`."""
        return task_loss(logits, target, self.ignore_index, self.class_weights)

    def checked(self, loss: Tensor, batch_idx: int, **parts: Tensor) -> Tensor:
        """Return ``loss``, added to the epoch's mean.

        Args:
            loss: ``()``, of one batch.
            batch_idx: number of the batch in the epoch.
            parts: what the loss is made of, before it is weighted: logged beside it, as
                ``train/<name>``.

        Raises:
            UserError: the loss is not finite, or one of the last steps was not.
        """
        self._unseen.append(
            _StepLoss(loss.detach(), self.global_step, self.current_epoch, batch_idx)
        )
        if len(self._unseen) >= steps_unseen(loss.device):
            self._look_at_losses()
        for name, value in {"loss": loss, **parts}.items():
            self._loss_sums[name] = self._loss_sums.get(name, 0.0) + value.detach().float()
        self._loss_count += 1
        return loss

    def _look_at_losses(self) -> None:
        unseen = self._unseen.copy()
        self._unseen.clear()
        losses = torch.stack([step.loss for step in unseen]).tolist() if unseen else []
        for loss, step in zip(losses, unseen, strict=True):
            if not math.isfinite(loss):
                raise UserError(self.loss_failure(loss, step.step, step.epoch, step.batch))

    def loss_failure(self, loss: float, step: int, epoch: int, batch: int) -> str:
        """Return what is said of a loss that is not finite."""
        return (
            f"the loss is {loss} in {self.stage_name}, step {step} (epoch {epoch}, batch {batch}): "
            f"{_TOO_LARGE}"
        )

    def weights_failure(self) -> str:
        """Return what is said of weights that are not finite after the last step."""
        return (
            f"weights are not finite after {self.stage_name}, step {self.global_step - 1} (epoch "
            f"{self.current_epoch}): {_TOO_LARGE}"
        )

    def check_finite(self) -> None:
        """Check the losses that were not looked at yet, and the weights, which no loss has shown.

        Raises:
            UserError: some are not finite: no checkpoint may hold these weights.
        """
        self._look_at_losses()
        finite = [torch.isfinite(value).all() for value in self.parameters()]
        if finite and not torch.stack(finite).all():
            raise UserError(self.weights_failure())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save nothing that is not finite (Lightning hook)."""
        self.check_finite()

    def on_train_epoch_end(self) -> None:
        """Log the mean losses (Lightning hook); logging each step would cost 1.5 ms a step.

        Raises:
            UserError: the epoch's last step broke the weights, or an earlier one the loss.
        """
        self.check_finite()
        if self._loss_count:
            means = {f"train/{n}": total / self._loss_count for n, total in self._loss_sums.items()}
            self.log_dict(means, sync_dist=True)

    def validation_step(self, batch: PairedBatch, batch_idx: int) -> None:
        """Measure one batch of validation data (Lightning hook)."""
        self.evaluate(batch, "val")

    def test_step(self, batch: PairedBatch, batch_idx: int) -> Evaluated | None:
        """Measure one batch of test data; callbacks see its logits (Lightning hook)."""
        return self.evaluate(batch, "test")

    def evaluate(self, batch: PairedBatch, split: EvaluatedSplit) -> Evaluated | None:
        """Measure a batch, by :meth:`log_single` or :meth:`log_pair`, and return what they do."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it measures")

    def inputs(self, batch: PairedBatch) -> Inputs:
        """Return what :meth:`forward` takes of a batch."""
        return batch["student"]

    def predict_step(self, batch: PairedBatch, batch_idx: int) -> dict[str, Tensor]:
        """Return logits, target and index of one batch (Lightning hook)."""
        logits = self(self.inputs(batch))
        return {"logits": logits, "target": batch["target"], "index": batch["index"]}

    def log_single(self, split: EvaluatedSplit, logits: Tensor, target: Tensor) -> Evaluated:
        """Add a batch to the metric of one network, and log it; returns what was measured.

        Args:
            split: whose metric.
            logits: ``(N, C, *spatial)``.
            target: int64 ``(N, *spatial)``.
        """
        metric: Any = self.metrics[split]
        metric.update(logits, target)
        self.log(f"{split}/{self.data.metric}", metric, on_step=False, on_epoch=True)
        return {"student": logits, "target": target}

    def compare(self, teacher: nn.Module, student: nn.Module, batch: PairedBatch) -> None:
        """Make the metrics of two networks that take the inputs of a batch, for both splits."""
        self.compared = compared_features(teacher, student, batch)
        if not self.metrics:
            given = "points" in batch, "occluded" in batch, self.compared.widths
            self.metrics.update({s: pair_metrics(self.data, *given) for s in ("val", "test")})

    def log_pair(
        self,
        split: EvaluatedSplit,
        teacher: Tensor,
        student: Tensor,
        target: Tensor,
        batch: PairedBatch,
        features: Sequence[Tensor] = (),
        keep: RowChoice | None = None,
    ) -> Evaluated:
        """Add a batch to the metrics of a teacher and a student, and log them; returns the logits.

        Args:
            split: whose metrics.
            teacher: logits ``(N, C, *spatial)``.
            student: logits of the same shape.
            target: int64 ``(N, *spatial)``.
            batch: its points, or what its scenes hide, are measured as well.
            features: of the teacher, ``(N, D)``, and of the student, ``(N, E)``, where such are
                compared.
            keep: chooses the rows whose divergences are measured, all if not given.
        """
        metrics = dict(cast(nn.ModuleDict, self.metrics[split]).items())
        if self.trainer.state.fn == TrainerFn.FITTING:
            metrics = {name: metric for name, metric in metrics.items() if name not in DEPENDENCE}
        update_pair(metrics, teacher, student, target, batch, self.ignore_index, features, keep)
        named: Any = {f"{split}/{name}": metric for name, metric in metrics.items()}
        self.log_dict(named, on_step=False, on_epoch=True)
        return {"teacher": teacher, "student": student, "target": target}

    def log_outputs(
        self,
        split: EvaluatedSplit,
        teacher: Mapping[str, Tensor],
        student: Mapping[str, Tensor],
        batch: PairedBatch,
        keep: RowChoice | None = None,
    ) -> Evaluated:
        """Do :meth:`log_pair` with outputs by layer: the logits, and what is ``compared``."""
        pair = zip((teacher, student), self.compared.layers, strict=False)
        features = [outputs[layer] for outputs, layer in pair]
        logits = teacher[LOGITS], student[LOGITS]
        return self.log_pair(split, *logits, batch["target"], batch, features, keep)

    def on_test_epoch_end(self) -> None:
        """Keep the IoU of each class (Lightning hook); every process takes part in the sum."""
        metric = self.metrics["test"]
        if isinstance(metric, nn.ModuleDict):
            metric = metric[self.data.metric]
        self.test_per_class = metric.per_class().tolist() if isinstance(metric, MeanIoU) else []


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))
