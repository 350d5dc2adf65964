"""Distilling a frozen teacher on one modality, or both, into a student on the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, get_args

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import SGD

from ntdh_bench.batch import Inputs, Modality, PairedBatch, TeacherInputs
from ntdh_bench.contract import Evaluated, RowMask, StackMember, Trained
from ntdh_bench.distillers import Distiller
from ntdh_bench.distillers.mutual import Distance
from ntdh_bench.errors import UserError
from ntdh_bench.frozen_teacher import FrozenTeacher, TeacherKind
from ntdh_bench.interventions import Intervention
from ntdh_bench.interventions.base import check_distiller
from ntdh_bench.layers import LOGITS, FeatureTap, run_tapped
from ntdh_bench.ranges import check_at_least, check_choice, check_within

from .base import (
    EvaluatedSplit,
    NetworkCallable,
    TrainableModule,
    are_aligned,
    build_network,
    check_network,
    count_parameters,
    layer_sizes,
)
from .dense import kept_outputs, samples_kept
from .distillation_stack import DistillationStack
from .joint import JointModule
from .multimodal import FusionCallable
from .teacher import TeacherModule


class DistillationModule(TrainableModule):
    """Trains a student with ``task_weight * CE + distill_weight * distiller`` (Eq. 4).

    The teacher is frozen and in eval mode whatever the Trainer does, and is not part of the
    checkpoint (its hash is; what of it a distiller gives the student is the student's).
    ``ntdh-bench fit`` trains it first; from Python, call ``frozen_teacher.load``.

    In dense tasks (targets ``(B, H, W)``) the logits of every pixel that is not ignored are a row
    of their own, and features of layers are averaged over these pixels, a row a sample, or compared
    pixel by pixel, as the distiller wants it. A sample mask drops pixels. Under several processes
    each takes the mean over its own rows. Where the data give the points of an image plane as well,
    the student's classes of their pixels are measured against their own labels (``point_miou``);
    where they say which voxels of a scene are hidden, how well these are completed
    (``completion_iou``, ``..._precision``, ``..._recall``).

    Args:
        teacher_network: builds the teacher, on the teacher's modality; ``None``: a network like the
            student's, where the data give the teacher the student's inputs (``unimodal``).
        student_network: builds the student, on the student's modality.
        num_classes: C, linked to the data by the command line.
        distiller: the KD objective; ``None`` trains the student without KD: a control, at task
            weight 1 (w/o KD), that of a KD run (equal task) or the sum of both weights (matched).
        task_weight: weight of the cross entropy.
        distill_weight: weight of the distiller.
        lam: sets the weights to 1 - lam and lam; in [0, 1].
        teacher: ``joint`` is f_a of Algorithm 1, ``independent`` is trained alone.
        teacher_checkpoint: a checkpoint of TeacherModule or JointModule to use instead of training.
        teacher_epochs: epochs of the teacher's training; ``None``: as many as the student's.
        optimizer: from parameters to an optimiser; the teacher is trained with the same.
        scheduler: from an optimiser to an epoch-wise schedule, likewise.
        seed: of the initial weights, linked to ``seed_everything`` by the command line.
        ignore_index: targets that do not count.
        class_weights: how much a target of each class weighs in the cross entropy; ``None``: alike.
        teacher_inputs: what the teacher sees: inputs of its ``own`` modality, or of ``both``
            (privileged information): then ``teacher_network`` takes both, as LateFusion does.
        teacher_fusion: makes the teacher of ``teacher_network`` and ``student_network``, one a
            modality; with ``teacher_inputs: both``.
        teacher_dist_weight: of a ``joint`` teacher: the weight of Dist in Eq. 26; 0 trains f_a and
            f_b side by side.
        teacher_dist: of a ``joint`` teacher: that distance, ``kl`` or ``ncjsd``.
        intervention: changes the teacher's logits wherever they are used.

    Raises:
        UserError: ``lam`` outside [0, 1], a negative weight, a task weight of 0 without a
            distiller, a fusion of a teacher that sees its own modality alone, a distance of a
            teacher that is trained alone, an unknown layer of the distiller, or an intervention on
            logits that the distiller does not compare.
    """

    stage_name = "distillation"

    def __init__(
        self,
        teacher_network: NetworkCallable | None,
        student_network: NetworkCallable,
        num_classes: int,
        distiller: Distiller | None = None,
        task_weight: float = 1.0,
        distill_weight: float = 1.0,
        lam: float | None = None,
        teacher: TeacherKind = "joint",
        teacher_checkpoint: str | None = None,
        teacher_epochs: int | None = None,
        optimizer: OptimizerCallable = SGD,
        scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
        ignore_index: int = 255,
        class_weights: list[float] | None = None,
        teacher_inputs: TeacherInputs = "own",
        teacher_fusion: FusionCallable | None = None,
        teacher_dist_weight: float = 1.0,
        teacher_dist: Distance = "kl",
        intervention: Intervention | None = None,
    ) -> None:
        super().__init__(num_classes, optimizer, scheduler, seed, ignore_index, class_weights)
        self.remember_settings()
        self.task_weight, self.distill_weight = _loss_weights(task_weight, distill_weight, lam)
        if distiller is None:
            _check_control(self.task_weight)
        elif intervention is not None:
            check_distiller(distiller.teacher_layers)
        teacher_network = teacher_network or student_network
        check_at_least("model.teacher_epochs", teacher_epochs, 1)
        _check_dist(teacher, teacher_dist_weight, teacher_dist)
        self.teacher_dist_weight: float = teacher_dist_weight
        self.teacher_dist: Distance = teacher_dist
        self.teacher_checkpoint = teacher_checkpoint
        self.teacher_epochs = teacher_epochs
        if teacher_fusion is not None:
            _check_fused(teacher_inputs)
            teacher_network = partial(teacher_fusion, teacher_network, student_network)
        self.teacher_inputs = teacher_inputs
        self.teacher_network = teacher_network
        self.student_network = student_network
        self.student = build_network(student_network, seed, "student")
        self.distiller = distiller
        self.sample_mask: RowMask | None = None
        self.frozen_teacher: FrozenTeacher = self._untrained_teacher(teacher, intervention)
        self._distiller_sizes: list[int] = []
        self._student_tap = self._tapped_student()

    def _untrained_teacher(
        self, kind: TeacherKind, intervention: Intervention | None
    ) -> FrozenTeacher:
        of_student = partial(build_network, self.student_network, self.seed)
        return FrozenTeacher(
            kind,
            partial(build_network, self.teacher_network, self.seed, "teacher"),
            partial(of_student, "companion"),
            self.distiller.teacher_layers if self.distiller else [],
            intervention,
            partial(of_student, "student"),
            self.seed,
        )

    def _tapped_student(self) -> FeatureTap:
        """Return the student with its layers tapped, as the distiller changes it."""
        if self.distiller is None:
            return FeatureTap(self.student, [])
        untrained = self.frozen_teacher.untrained()
        FeatureTap(untrained, self.distiller.teacher_layers).close()  # they are there
        self.distiller.adapt(self.student, untrained, self.seed)
        return FeatureTap(self.student, self.distiller.student_layers)

    def teacher_module(self, kind: TeacherKind) -> TeacherModule | JointModule:
        """Return the untrained module whose training gives a frozen teacher of this kind."""
        settings = self._training_settings()
        if kind == "independent":
            settings["modality"] = "both" if self.teacher_inputs == "both" else "teacher"
            return TeacherModule(self.teacher_network, **settings)
        settings |= {
            "teacher_inputs": self.teacher_inputs,
            "dist_weight": self.teacher_dist_weight,
            "dist": self.teacher_dist,
        }
        return JointModule(self.teacher_network, self.student_network, **settings)

    def _training_settings(self) -> dict[str, Any]:
        return {
            "num_classes": self.num_classes,
            "optimizer": self.optimizer_factory,
            "scheduler": self.scheduler_factory,
            "seed": self.seed,
            "ignore_index": self.ignore_index,
            "class_weights": None if self.class_weights is None else self.class_weights.tolist(),
        }

    def reference_module(self) -> TeacherModule:
        """Return the untrained module whose training gives the student without KD."""
        return TeacherModule(self.student_network, modality="student", **self._training_settings())

    def parameter_counts(self) -> dict[str, int]:
        """Return how many parameters teacher and student have (the capacity of Table I)."""
        return {
            "teacher": count_parameters(self.frozen_teacher.network),
            "student": count_parameters(self.student),
        }

    def trained(self) -> dict[Modality, Trained]:
        """Return the teacher, without its mask, and the student."""
        teacher = self.frozen_teacher
        return {
            "teacher": Trained(teacher.network, teacher.untrained, itemgetter("teacher")),
            "student": Trained(self.student, self.student_network, itemgetter("student")),
        }

    def estimates(self) -> dict[str, list[float]]:
        """Return the distiller's."""
        found = {} if self.distiller is None else self.distiller.estimates()
        return {name: value.tolist() for name, value in found.items()}

    def setup(self, stage: str) -> None:
        """Check that data, networks and distiller fit, and size the distiller (Lightning hook)."""
        batch = self.first_batch(stage)
        inputs, size = batch["student"], batch["target"].shape[1:]
        network = self.frozen_teacher.network
        if self.distiller is not None:
            self.distiller.adapt(self.student, network, self.seed)
        check_network(self.student, inputs, self.num_classes, "student_network", size)
        check_network(network, batch["teacher"], self.num_classes, "teacher_network", size)
        self.compare(network, self.student, batch)
        self.frozen_teacher.evaluated_layers = self.compared.layers[:1]
        if self.distiller is not None and not self._distiller_sizes:
            student = layer_sizes(self.student, self.distiller.student_layers, inputs)
            teacher = layer_sizes(network, self.distiller.teacher_layers, batch["teacher"])
            self.distiller.check(student, teacher, are_aligned(self.data, batch["target"]))
            widths = [size[0] for size in (*student.values(), *teacher.values())]
            self._build_distiller(self.distiller, [*widths, self.data.num_train])

    def _build_distiller(self, distiller: Distiller, sizes: list[int]) -> None:
        """Build it for the widths of the student's, then the teacher's layers, and the samples."""
        self._distiller_sizes = sizes
        *widths, num_train = sizes
        student = dict(zip(distiller.student_layers, widths, strict=False))
        teacher = dict(zip(distiller.teacher_layers, widths[len(student) :], strict=True))
        distiller.build(student, teacher, num_train, self.seed)

    def teardown(self, stage: str) -> None:
        """Take the teacher back to the CPU, as Lightning does with the student (Lightning hook)."""
        self.frozen_teacher.release()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save which teacher it was and the distiller's sizes (Lightning hook)."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["teacher_hash"] = self.frozen_teacher.hash
        checkpoint["distiller_sizes"] = self._distiller_sizes

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another teacher; size the distiller before its weights come (Lightning hook)."""
        saved, used = checkpoint.get("teacher_hash", ""), self.frozen_teacher.hash
        if used and saved != used:
            raise UserError(
                f"the checkpoint was trained with the teacher {saved or '(none)'}, but the teacher "
                f"in use is {used}: set model.teacher_checkpoint to the run's "
                "teacher.ckpt"
            )
        sizes = checkpoint.get("distiller_sizes")
        if self.distiller is not None and sizes and not self._distiller_sizes:
            layers = [*self.distiller.student_layers, *self.distiller.teacher_layers]
            if len(sizes) != len(layers) + 1:
                raise UserError(
                    f"the checkpoint's distiller compares other layers than {', '.join(layers)}: "
                    "give load_from_checkpoint the distiller of that run"
                )
            self._build_distiller(self.distiller, sizes)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the student's logits."""
        logits: Tensor = self.student(inputs)
        return logits

    def stack(self, members: Sequence[StackMember], streams: Sequence[Any]) -> DistillationStack:
        """Return members of this class as one module."""
        for member in members:
            member.module._student_tap.close()  # its students are run as one now
        return DistillationStack(members, streams)

    def training_step(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        """Weighted sum of task and distillation loss of one batch (Lightning hook)."""
        student = self._student_tap(batch["student"])
        task = self.task_loss(student[LOGITS], batch["target"])
        loss = self.task_weight * task
        if self.distiller is None:
            return self.checked(loss, batch_idx, task_loss=task)
        teacher = self.frozen_teacher.outputs(batch, "train", self.data)
        distilled = self._distill(self.distiller, student, teacher, batch, batch_idx)
        loss = loss + self.distill_weight * distilled
        return self.checked(loss, batch_idx, task_loss=task, distill_loss=distilled)

    def _distill(
        self,
        distiller: Distiller,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        batch: PairedBatch,
        batch_idx: int,
    ) -> Tensor:
        target, index = batch["target"], batch["index"]
        if target.dim() == 1 and self.sample_mask is None:
            return distiller.distill(student, teacher, target, index)
        keep = self._kept(teacher[LOGITS], student[LOGITS], target, batch_idx)
        return distiller.distill(
            kept_outputs(student, keep, distiller.by_position),
            kept_outputs(teacher, keep, distiller.by_position),
            target[keep],
            index[samples_kept(keep)],
        )

    def _kept(self, teacher: Tensor, student: Tensor, target: Tensor, batch_idx: int) -> Tensor:
        """Return where the teacher is followed: not where ignored, nor where masked."""
        keep = target != self.ignore_index
        if self.sample_mask is None:
            return keep
        rows = self.sample_mask.keep_rows(
            teacher.movedim(1, -1)[keep],
            student.detach().movedim(1, -1)[keep],
            target[keep],
            self.current_epoch,
            batch_idx,
        )
        counted = keep.flatten().nonzero().squeeze(1)
        chosen = torch.zeros_like(keep)
        chosen.view(-1)[counted[rows]] = True
        return chosen

    def evaluate(self, batch: PairedBatch, split: EvaluatedSplit) -> Evaluated:
        """Measure teacher, student and their divergences on a batch."""
        teacher = self.frozen_teacher.outputs(batch, split, self.data)
        student = run_tapped(self.student, self.compared.layers[1:], batch["student"])
        keep = None
        if self.distiller is None and self.sample_mask is not None:
            first = int(batch["index"][0])
            keep = partial(self.sample_mask.keep_measured, split=split, first=first)
        return self.log_outputs(split, teacher, student, batch, keep)


def _check_control(task_weight: float) -> None:
    if task_weight == 0:
        raise UserError(
            "without a distiller, a cross entropy of weight 0 leaves the student untrained: set "
            "model.task_weight to 1 (w/o KD) or another weight above 0, and model.lam to null"
        )


def _check_dist(teacher: TeacherKind, weight: float, dist: Distance) -> None:
    check_at_least("model.teacher_dist_weight", weight, 0)
    check_choice("model.teacher_dist", dist, get_args(Distance))
    if teacher != "joint" and (weight != 1 or dist != "kl"):
        raise UserError(
            f"model.teacher is {teacher}: model.teacher_dist and model.teacher_dist_weight are of "
            "a teacher that trains beside f_b: set model.teacher to joint, or leave them out"
        )


def _check_fused(teacher_inputs: TeacherInputs) -> None:
    if teacher_inputs != "both":
        raise UserError(
            "model.teacher_fusion joins networks of both modalities: set model.teacher_inputs to "
            "both, or leave it out"
        )


def _loss_weights(task: float, distill: float, lam: float | None) -> tuple[float, float]:
    if lam is not None:
        check_within("model.lam", lam, 0, 1)
        return 1 - lam, lam
    check_at_least("model.task_weight", task, 0)
    check_at_least("model.distill_weight", distill, 0)
    return task, distill
