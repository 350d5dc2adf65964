"""Runs of distillation as members of a stack."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from ntdh_bench.batch import PairedBatch
from ntdh_bench.contract import StackMember
from ntdh_bench.dependence import joint_counts, linear_cka, moments, mutual_information
from ntdh_bench.distillers import Distiller
from ntdh_bench.distillers.base import OneByOne
from ntdh_bench.divergence import Comparison
from ntdh_bench.errors import NotStackable
from ntdh_bench.layers import LOGITS
from ntdh_bench.masks import SampleMask
from ntdh_bench.metrics import CKA, CKA_LOGITS, DIVERGENCES, MI_PAIR, MI_STUDENT, MI_TEACHER
from ntdh_bench.stacks.data import of_members
from ntdh_bench.stacks.networks import NetworkStack
from ntdh_bench.stacks.teachers import TeacherStack

from .base import EvaluatedSplit, are_aligned, compared_features, layer_sizes
from .stacks import ModuleStack, check_pair, exact, streams_of


class _Group(NamedTuple):
    """Students next to each other that one batched distiller teaches."""

    distiller: Distiller
    students: slice
    masks: list[SampleMask]


class DistillationStack(ModuleStack):
    """R runs of :class:`.distillation.DistillationModule`, whose K students are trained as one.

    Runs without KD that differ only in a teacher that their student never sees share a student, and
    so ``failures`` go by students. Students are next to each other if one distiller teaches them.

    Args:
        members: the runs.
        streams: their data.

    Attributes:
        student_of: int64 ``(R,)``, the student of each run.
        measured: metrics of a split, float64 ``(R,)``, by their names.
        curves: the validation metrics of every epoch, likewise.
        best_epoch: int64 ``(K,)``, when each student was best on validation data; -1: never.
    """

    stream_of: Tensor
    teacher_of: Tensor
    task_weight: Tensor
    distill_weight: Tensor

    def __init__(self, members: Sequence[StackMember], streams: Sequence[Any]) -> None:
        runs = [member.module for member in members]
        batch = next(streams[0].batches("train", batch_size=2))
        first = runs[0]
        _adapt(runs)
        check_pair(first.frozen_teacher.network, first.student, first.num_classes, batch)
        _build_distillers(runs, batch, streams[0])
        self.student_of, kept = _students(members)
        super().__init__([runs[run] for run in kept])
        self._first_run = torch.tensor(kept)
        self._groups = _groups([runs[run] for run in kept])
        self._masked = _masked_controls(runs)
        distillers = [group.distiller for group in self._groups]
        self._compared = compared_features(first.frozen_teacher.network, first.student, batch)
        layers = [layer for distiller in distillers for layer in distiller.student_layers]
        students = [runs[run].student for run in kept]
        self.students = NetworkStack(students, [*layers, *self._compared.layers[1:]])
        layers = [layer for distiller in distillers for layer in distiller.teacher_layers]
        self.teachers = TeacherStack(members, layers, self._compared.layers[:1])
        self.distillers = nn.ModuleList(distillers)
        for name, values in {
            "stream_of": streams_of([members[run] for run in kept]),
            "teacher_of": self.teachers.of_member[kept],
            "task_weight": exact([runs[run].task_weight for run in kept]),
            "distill_weight": exact([runs[run].distill_weight for run in kept]),
        }.items():
            self.register_buffer(name, values, persistent=False)
        self.measured: dict[str, dict[str, Tensor]] = {}
        self.curves: dict[str, list[Tensor]] = {}
        self.best_epoch = torch.full((len(kept),), -1)
        self._best_score = torch.full((len(kept),), -torch.inf)
        self._best: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}

    def setup(self, stage: str) -> None:
        """Move the teachers to where the stack will be (Lightning hook)."""
        self.teachers.to(self.trainer.strategy.root_device)

    def on_train_start(self) -> None:
        """Run the teachers where all of an epoch is run at once (Lightning hook)."""
        self._begin_epoch()
        super().on_train_start()

    def on_train_epoch_start(self) -> None:
        """Run the teachers anew on what is new in the epoch (Lightning hook)."""
        self._begin_epoch()
        super().on_train_epoch_start()

    def _begin_epoch(self) -> None:
        with self.trainer.precision_plugin.forward_context():
            self.teachers.begin(self.current_epoch, self.streams)

    @property
    def graphable(self) -> bool:
        """Whether nothing draws numbers or keeps a state from step to step."""
        if self.teachers.varies:
            return False
        distillers = [group.distiller for group in self._groups]
        parts = [part for distiller in distillers for part in distiller.modules()]
        kept = any(d.state_dict().keys() - dict(d.named_parameters()).keys() for d in distillers)
        drawn = any(m.removes == "random" for group in self._groups for m in group.masks)
        return not (kept or drawn or any(isinstance(part, OneByOne) for part in parts))

    def losses(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        """Return the weighted sums of task and distillation losses, ``(K,)``."""
        target = batch["target"][self.stream_of]
        student = self.students(of_members(batch["student"], self.stream_of))
        task = self.task_losses(student[LOGITS], target)
        losses = self.task_weight.to(task) * task
        if not self._groups:
            return losses
        teacher = self.teachers.outputs(batch, "train", self.streams)
        index = batch["index"][self.stream_of]
        without = losses.new_zeros(self._groups[0].students.start)  # students without KD are first
        outputs = student, teacher, target, index
        parts = [self._distill(group, *outputs, batch_idx) for group in self._groups]
        return losses + self.distill_weight.to(losses) * torch.cat([without, *parts])

    def _distill(
        self,
        group: _Group,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        target: Tensor,
        index: Tensor,
        batch_idx: int,
    ) -> Tensor:
        places, distiller = group.students, group.distiller
        students = {n: student[n][places] for n in {LOGITS, *distiller.student_layers}}
        taught = self.teacher_of[places]
        teachers = {n: teacher[n][taught] for n in {LOGITS, *distiller.teacher_layers}}
        target, index = target[places], index[places]
        if group.masks:
            logits = teachers[LOGITS], students[LOGITS].detach()
            rows = SampleMask.keep_rows_of_members(
                group.masks, *logits, target, self.current_epoch, batch_idx
            )
            own = torch.arange(len(rows), device=rows.device).unsqueeze(1)
            students, teachers = (
                {name: value[own, rows] for name, value in outputs.items()}
                for outputs in (students, teachers)
            )
            target, index = target[own, rows], index[own, rows]
        return distiller.distill(students, teachers, target, index)

    def owners(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yield the parameters of the students and of their distillers."""
        every = torch.arange(len(self.stream_of), device=self.device)
        for parameter in self.students.parameters():
            yield parameter, every
        for group in self._groups:
            alone = {
                id(parameter): place
                for module in group.distiller.modules()
                if isinstance(module, OneByOne)
                for place, member in enumerate(module.members)
                for parameter in member.parameters()
            }
            own = every[group.students]
            for parameter in group.distiller.parameters():
                place = alone.get(id(parameter))
                yield parameter, own if place is None else own[place]

    def estimates_of(self, run: int) -> dict[str, list[float]]:
        """Return those of a run's distiller."""
        student = int(self.student_of[run])
        for group in self._groups:
            if group.students.start <= student < group.students.stop:
                found, place = group.distiller.estimates(), student - group.students.start
                return {name: value[place].tolist() for name, value in found.items()}
        return {}

    def on_validation_epoch_start(self) -> None:
        """Begin to measure (Lightning hook)."""
        self._sums = {}

    on_test_epoch_start = on_validation_epoch_start

    @torch.no_grad()
    def evaluate(self, batch: PairedBatch, split: EvaluatedSplit) -> None:
        """Measure all runs on a batch ``(S, B, ...)``."""
        of_run = self.student_of
        students = self.students(of_members(batch["student"], self.stream_of))
        teachers = self.teachers.outputs(batch, split, self.streams)
        student, teacher = students[LOGITS][of_run], teachers[LOGITS][self.teachers.of_member]
        target = batch["target"][self.stream_of[of_run]]
        counted = target != self.ignore_index
        labels = target.where(counted, 0).flatten()
        pair = Comparison(teacher.flatten(0, 1), student.flatten(0, 1), labels)
        measure = self.streams[0].metric
        rows = {name: find(pair).view_as(target) for name, find in DIVERGENCES.items()}
        rows[measure] = student.argmax(2) == target
        rows[f"teacher_{measure}"] = teacher.argmax(2) == target
        rows["count"] = counted
        rows["kept"] = kept = counted & self._kept_rows(teacher, student, target, batch, split)
        sums = {
            name: values.where(kept if name in DIVERGENCES else counted, 0).sum(
                1, dtype=torch.float64
            )
            for name, values in rows.items()
        }
        if self.trainer.state.fn != TrainerFn.FITTING:
            sums |= self._dependence(teachers, students, target, counted)
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0) + value

    def _kept_rows(
        self,
        teacher: Tensor,
        student: Tensor,
        target: Tensor,
        batch: PairedBatch,
        split: EvaluatedSplit,
    ) -> Tensor:
        """Return the rows of each run whose divergences are measured, bool ``(R, B)``."""
        kept = torch.ones_like(target, dtype=torch.bool)
        for runs, masks in self._masked:
            first = batch["index"][self.stream_of[self.student_of[runs]], 0].tolist()
            rows = SampleMask.keep_measured_of_members(
                masks, teacher[runs], student[runs], target[runs], split, first
            )
            own = torch.tensor(runs, device=rows.device).unsqueeze(1)
            kept[runs] = False
            kept[own, rows] = True
        return kept

    def _dependence(
        self,
        teachers: Mapping[str, Tensor],
        students: Mapping[str, Tensor],
        target: Tensor,
        counted: Tensor,
    ) -> dict[str, Tensor]:
        """Return what, summed over batches, the metrics of ``DEPENDENCE`` are computed from."""

        def pair(teacher: str, student: str) -> tuple[Tensor, Tensor]:
            return teachers[teacher][self.teachers.of_member], students[student][self.student_of]

        first, second = (logits.argmax(2) for logits in pair(LOGITS, LOGITS))
        found = {
            MI_PAIR: joint_counts(first, second, self.num_classes, counted),
            MI_STUDENT: joint_counts(second, target, self.num_classes, counted),
            MI_TEACHER: joint_counts(first, target, self.num_classes, counted),
            CKA_LOGITS: moments(*pair(LOGITS, LOGITS), counted),
        }
        if layers := self._compared.layers:
            found[CKA] = moments(*pair(*layers), counted)
        return found

    def on_validation_epoch_end(self) -> None:
        """Keep the metrics; while training, note them, failures and the best (Lightning hook)."""
        self._measured("val")
        if self.trainer.state.fn != TrainerFn.FITTING or self.trainer.sanity_checking:
            return
        self.note_failures()
        for name, values in self.measured["val"].items():
            self.curves.setdefault(name, []).append(values)
        self._keep_best(self.measured["val"][self.streams[0].metric][self._first_run])

    def on_test_epoch_end(self) -> None:
        """Keep the metrics (Lightning hook)."""
        self._measured("test")

    def _measured(self, split: EvaluatedSplit) -> None:
        count, kept = self._sums.pop("count"), self._sums.pop("kept")
        computed: dict[str, Callable[[Tensor], Tensor]] = {
            **dict.fromkeys((MI_PAIR, MI_STUDENT, MI_TEACHER), mutual_information),
            CKA_LOGITS: partial(linear_cka, width=self.num_classes),
            CKA: partial(linear_cka, width=next(iter(self._compared.widths), 0)),
        }

        def mean(name: str, total: Tensor) -> Tensor:
            return total / (kept if name in DIVERGENCES else count)

        found = {
            name: (computed[name](total) if name in computed else mean(name, total)).cpu()
            for name, total in self._sums.items()
        }
        measure = self.streams[0].metric
        for name in (measure, f"teacher_{measure}"):
            found[name] = found[name].float().double()  # as torchmetrics gives them
        self.measured[split] = found

    @torch.no_grad()
    def _keep_best(self, score: Tensor) -> None:
        better = score > self._best_score
        better[list(self.failures)] = False
        self._best_score = score.where(better, self._best_score)
        self.best_epoch = torch.where(better, self.current_epoch, self.best_epoch)
        now, places = self.students.network.state_dict(), better.to(self.device)
        for name, value in now.items():
            # What came out of a checkpoint was loaded before the module went to its device.
            best = self._best.get(name, value).to(value.device, copy=True)
            best[places] = value[places]
            self._best[name] = best

    def take_best(self) -> None:
        """Give each student the weights with which it was best on validation data."""
        self.students.network.load_state_dict(self._best)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save failures, curves and the best weights so far (Lightning hook)."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["stack"] |= {
            "curves": {name: torch.stack(values) for name, values in self.curves.items()},
            "best": self._best,
            "best_epoch": self.best_epoch,
            "best_score": self._best_score,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them over (Lightning hook)."""
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint["stack"]
        self.curves = {name: list(values) for name, values in saved["curves"].items()}
        self._best = dict(saved["best"])
        self.best_epoch, self._best_score = saved["best_epoch"], saved["best_score"]


def _students(members: Sequence[StackMember]) -> tuple[Tensor, list[int]]:
    """Return the student of each run, ``(R,)``, and the first run of each student, by groups."""
    kinds = [_group_key(member.module) for member in members]
    places = {kind: place for place, kind in enumerate(dict.fromkeys([(), *kinds]))}
    keys = [_student_key(number, member) for number, member in enumerate(members)]
    first: dict[Hashable, int] = {}
    for number in sorted(range(len(members)), key=lambda number: places[kinds[number]]):
        first.setdefault(keys[number], number)
    students = {key: place for place, key in enumerate(first)}
    return torch.tensor([students[key] for key in keys]), list(first.values())


def _student_key(number: int, member: StackMember) -> Hashable:
    module = member.module
    if module.distiller is not None:
        return number
    return "without KD", module.seed, member.stream, module.task_weight


def _group_key(module: Any) -> tuple[Hashable, ...]:
    """Return what runs have in common that one batched distiller teaches; () without KD."""
    if module.distiller is None:
        return ()
    mask = module.sample_mask
    return module.distiller.stack_key, mask and mask.stack_key


def _groups(modules: Sequence[Any]) -> list[_Group]:
    """Return the groups of students that are next to each other."""
    groups = []
    start = 0
    for key, part in groupby(modules, _group_key):
        group = list(part)
        if key:
            distillers = [module.distiller for module in group]
            masks = [module.sample_mask for module in group if module.sample_mask is not None]
            one = type(distillers[0]).stack(distillers)
            groups.append(_Group(one, slice(start, start + len(group)), masks))
        start += len(group)
    return groups


def _masked_controls(modules: Sequence[Any]) -> list[tuple[list[int], list[SampleMask]]]:
    """Return the runs without KD that have a sample mask, with their masks, by kinds of masks."""
    kinds: dict[Hashable, tuple[list[int], list[SampleMask]]] = {}
    for run, module in enumerate(modules):
        if module.distiller is None and module.sample_mask is not None:
            runs, masks = kinds.setdefault(module.sample_mask.stack_key, ([], []))
            runs.append(run)
            masks.append(module.sample_mask)
    return list(kinds.values())


def _adapt(modules: Sequence[Any]) -> None:
    """Let the distillers change their students' networks, which have to stay alike."""
    for module in modules:
        if module.distiller is not None:
            teacher = module.frozen_teacher.network
            module.distiller.adapt(module.student, teacher, module.seed)
    parts = {tuple((n, v.shape) for n, v in m.student.state_dict().items()) for m in modules}
    if len(parts) > 1:
        raise NotStackable("a distiller changes the network of its student")


def _build_distillers(modules: Sequence[Any], batch: PairedBatch, data: Any) -> None:
    """Check the distillers' layers, and size what they train, by the networks of the first one."""
    taught = [module for module in modules if module.distiller is not None]
    student_layers = dict.fromkeys(n for m in taught for n in m.distiller.student_layers)
    teacher_layers = dict.fromkeys(n for m in taught for n in m.distiller.teacher_layers)
    first = modules[0]
    student = layer_sizes(first.student, list(student_layers), batch["student"])
    teacher = layer_sizes(first.frozen_teacher.network, list(teacher_layers), batch["teacher"])
    widths, teacher_widths = (
        {layer: size[0] for layer, size in sizes.items()} for sizes in (student, teacher)
    )
    for module in taught:
        module.distiller.check(student, teacher, are_aligned(data, batch["target"]))
        module.distiller.build(widths, teacher_widths, data.num_train, module.seed)
