"""Stacks of modules against the same modules trained one by one, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from ntdh_bench.batch import Inputs, Split
from ntdh_bench.contract import StackMember
from ntdh_bench.datamodules.paired import PairedDataset, TensorPairs
from ntdh_bench.datamodules.synthetic import SyntheticDataModule
from ntdh_bench.distillers import CRD, DKD, KD, OFA, Combined, Distiller, FitNet, SimKD
from ntdh_bench.distillers.base import OneByOne
from ntdh_bench.distillers.simkd import ReusedHead
from ntdh_bench.errors import NotStackable
from ntdh_bench.interventions import ClassNontarget, ShuffleNontarget, ShuffleTarget
from ntdh_bench.layers import LayerMask, mask_layer
from ntdh_bench.masks import Removes, SampleMask
from ntdh_bench.metrics import DEPENDENCE
from ntdh_bench.models import DistillationModule, JointModule, TeacherModule
from ntdh_bench.models.distillation_stack import DistillationStack
from ntdh_bench.stacks import teachers
from ntdh_bench.stacks.data import StackedData, together
from ntdh_bench.stacks.graphs import StepGraph
from tests.fake_gpu import GPU, fake_gpu, moved, moved_batch
from tests.helpers import CLASSES, methods, network, optimizer, quiet_trainer

SEEDS = (0, 1)
SETTINGS: dict[str, Any] = {
    "gap": 0.5, "n_samples": 200, "n_features": 12, "decisive": 5, "val_fraction": 0.2,
    "test_fraction": 0.3, "batch_size": 32,
}  # fmt: skip


class DoubleData(SyntheticDataModule):
    """Synthetic pairs in float64; the last batch of an epoch is smaller."""

    def load(self) -> dict[Split, PairedDataset]:
        """Return the splits."""
        return {split: self._double(data) for split, data in super().load().items()}

    def _double(self, data: PairedDataset) -> PairedDataset:
        assert isinstance(data, TensorPairs)
        assert isinstance(data.teacher, Tensor)
        assert isinstance(data.student, Tensor)
        return TensorPairs(data.teacher.double(), data.student.double(), data.target)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def streams() -> list[DoubleData]:
    made = [DoubleData(seed=seed, **SETTINGS) for seed in SEEDS]
    for data in made:
        data.setup()
    return made


class Case:
    """A run as it is alone, and as a member of a stack."""

    def __init__(
        self,
        make: Callable[[], Distiller] | None,
        stream: int,
        sample_mask: SampleMask | None = None,
        mask: LayerMask | None = None,
        **settings: Any,
    ) -> None:
        self.stream, self.sample_mask, self.mask = stream, sample_mask, mask
        self.make, self.settings = make, settings

    def module(self) -> DistillationModule:
        seed = SEEDS[self.stream]
        module = DistillationModule(
            network, network, CLASSES, distiller=self.make and self.make(), seed=seed,
            **{"optimizer": optimizer, **self.settings},
        )  # fmt: skip
        torch.manual_seed(seed)
        module.frozen_teacher.hold(network(), network())
        module.sample_mask = self.sample_mask
        return module

    def alone(self, folder: Path, data: DoubleData, **trainer: Any) -> DistillationModule:
        module = self.module()
        if self.mask is not None:
            mask_layer(module.frozen_teacher.network, "hidden1", self.mask)
        quiet_trainer(folder, epochs=2, **trainer).fit(module, datamodule=data)
        return module

    def member(self) -> StackMember:
        layer = None if self.mask is None else "hidden1"
        return StackMember(self.module(), self.stream, layer, self.mask)


def removing(seed: int, fill: float = 0.0) -> LayerMask:
    """A mask that removes some features of eight; ``fill`` stands in their place."""
    keep = torch.rand(8, generator=torch.Generator().manual_seed(seed)) < 0.6
    return LayerMask(keep.float() * (1 + fill), torch.full((8,), fill).masked_fill(keep, 0))


def every_case() -> list[Case]:
    """All methods with every mask and without; controls with other weights; numbers that differ."""
    masks: list[dict[str, Any]] = [
        {},
        {"mask": removing(0)},
        {"sample_mask": SampleMask(0.25, "most_divergent")},
        {"sample_mask": SampleMask(0.25, "random", seed=1)},
    ]
    made: dict[str, Callable[[], Distiller]] = {
        **methods("hidden2"),
        "exits": lambda: OFA(["hidden1", "hidden2"], eps=1.5),
        "two": lambda: Combined([FitNet(weight=1.0, layer=f"hidden{n}") for n in (1, 2)]),
    }
    cases = [
        Case(make, number % 2, task_weight=0.5, distill_weight=0.25, **mask)
        for make in made.values()
        for number, mask in enumerate(masks)
    ]
    cases += [Case(partial(KD, t, w), 1) for t, w in ((1.0, 1.0), (4.0, 0.5))]
    cases += [Case(None, stream, mask=m) for stream in (0, 1) for m in (None, removing(1))]
    cases += [Case(KD, 0, mask=removing(0, fill=0.25)), Case(DKD, 1, mask=removing(1, 0.25))]
    cases += [Case(KD, 0, SampleMask(0.25, score="kendall"))]
    return [*cases, Case(None, 1, task_weight=2.0), Case(None, 1, task_weight=0.5)]


def trained(cases: list[Case], folder: Path, **trainer: Any) -> DistillationStack:
    members = [case.member() for case in cases]
    data = streams()
    stack = members[0].module.stack(members, data)
    quiet_trainer(folder, epochs=2, **trainer).fit(stack, datamodule=StackedData(data))
    return stack


def distiller_state(stack: DistillationStack, run: int) -> dict[str, Tensor]:
    """What a run's distiller is made of, in a stack."""
    student = int(stack.student_of[run])
    for group in stack._groups:
        if group.students.start <= student < group.students.stop:
            place = student - group.students.start
            if isinstance(group.distiller, OneByOne):
                return dict(group.distiller.members[place].state_dict())
            state = group.distiller.state_dict()
            return {n: v if n.endswith("step") else v[place] for n, v in state.items()}
    return {}


def assert_same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("clip", [None, 0.5], ids=["", "clipped"])
def test_members_are_the_runs_alone(clip: float | None, tmp_path: Path) -> None:
    cases = every_case() if clip is None else every_case()[::5]
    stack = trained(cases, tmp_path, gradient_clip_val=clip)
    data = streams()
    shared = 2 if clip is None else 0  # controls do not see their teachers' masks
    assert len(stack.stream_of) == len(cases) - shared
    for run, case in enumerate(cases):
        alone = case.alone(tmp_path, data[case.stream], gradient_clip_val=clip)
        student = stack.students.state_of(int(stack.student_of[run]))
        assert_same(student, alone.student.state_dict())
        state = {} if alone.distiller is None else alone.distiller.state_dict()
        assert_same(distiller_state(stack, run), state)


def test_a_step_of_joint_teachers_waits_for_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = [JointModule(network, network, CLASSES, optimizer, **dist) for dist in DISTS]
    members = [StackMember(module, number % 2) for number, module in enumerate(modules)]
    data = streams()
    stack = modules[0].stack(members, data)
    batch = together([next(stream.batches("train", batch_size=8)) for stream in data])
    monkeypatch.setattr(type(stack), "device", GPU)
    with fake_gpu():
        moved(stack)
        stack.training_step(moved_batch(batch), 0)


def test_members_are_measured_as_the_runs_alone(tmp_path: Path) -> None:
    cases = [*every_case()[::6], Case(None, 0, mask=removing(1)), Case(None, 1, task_weight=2.0)]
    cases += [Case(make, 1, intervention=ShuffleTarget(0.7)) for make in (None, KD)]
    removed: tuple[Removes, ...] = get_args(Removes)
    cases += [Case(None, n, SampleMask(0.25, r, seed=n)) for n in (0, 1) for r in removed]
    cases += [Case(None, 1, SampleMask(0.5), mask=removing(1))]
    stack = trained(cases, tmp_path)
    data = streams()
    trainer = quiet_trainer(tmp_path)
    trainer.validate(stack, datamodule=StackedData(data), verbose=False)
    trainer.test(stack, datamodule=StackedData(data), verbose=False)
    assert not set(stack.curves) & set(DEPENDENCE)
    for run, case in enumerate(cases):
        alone = case.alone(tmp_path, data[case.stream])
        for split, measure in (("val", trainer.validate), ("test", trainer.test)):
            (found,) = measure(alone, datamodule=data[case.stream], verbose=False)
            expected = {name.removeprefix(f"{split}/"): value for name, value in found.items()}
            values = {name: float(value[run]) for name, value in stack.measured[split].items()}
            assert set(DEPENDENCE) <= values.keys()
            assert values == pytest.approx(expected, rel=1e-9, abs=1e-12)
    ncjsd = stack.measured["val"]["ncjsd"][-7:-1].view(2, 3)  # by what is removed, as `removed`
    assert (ncjsd[:, 0] < ncjsd[:, 2]).all()
    assert (ncjsd[:, 2] < ncjsd[:, 1]).all()


def test_other_optimisers_and_accumulated_gradients(tmp_path: Path) -> None:
    changes = {"optimizer": partial(AdamW, lr=0.01, weight_decay=0.1)}
    cases = [Case(KD, 0, **changes), Case(None, 1, **changes), Case(KD, 1, **changes)]
    stack = trained(cases, tmp_path, accumulate_grad_batches=2)
    for run, case in enumerate(cases):
        alone = case.alone(tmp_path, streams()[case.stream], accumulate_grad_batches=2)
        assert_same(stack.students.state_of(int(stack.student_of[run])), alone.student.state_dict())


DISTS: tuple[dict[str, Any], ...] = (
    {}, {"dist_weight": 0.1}, {"dist": "ncjsd"}, {"dist_weight": 0.0},
    {"dist_weight": 10.0, "dist": "ncjsd"},
)  # fmt: skip


@pytest.mark.parametrize("kind", ["joint", "ncjsd", "distances", "independent"])
def test_teachers_are_those_trained_alone(kind: str, tmp_path: Path) -> None:
    def modules() -> list[Any]:
        if kind == "independent":
            return [TeacherModule(network, CLASSES, optimizer=optimizer, seed=s) for s in SEEDS]
        dists = {"joint": ({}, {}), "ncjsd": ({"dist": "ncjsd"},) * 2, "distances": DISTS}[kind]
        return [
            JointModule(network, network, CLASSES, optimizer, seed=SEEDS[n % 2], **dist)
            for n, dist in enumerate(dists)
        ]

    data = streams()
    members = [StackMember(module, number % 2) for number, module in enumerate(modules())]
    stack = members[0].module.stack(members, data)
    trainer = quiet_trainer(tmp_path, epochs=2, limit_val_batches=0)
    trainer.fit(stack, datamodule=StackedData(data))
    for number, module in enumerate(modules()):
        quiet_trainer(tmp_path, epochs=2).fit(module, datamodule=data[number % 2])
        weights = {n: v for n, v in module.state_dict().items() if not n.startswith("metrics")}
        assert_same(stack.state_of(number), weights)


def test_recorded_steps_train_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [Case(KD, 0), Case(None, 1), Case(DKD, 1), Case(KD, 0, SampleMask(0.5))]
    plain = trained(cases, tmp_path, accumulate_grad_batches=2)
    replays: list[int] = []

    def record(self: DistillationStack) -> None:
        def repeated(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
            places = {p: p.grad for p in self.parameters()}  # that a GPU's kernels add to

            def replay() -> Tensor:
                replays.append(1)
                assert all(p.grad is place for p, place in places.items())
                return run()

            return replay

        self._graph = StepGraph(self.losses, self.parameters(), repeated)

    monkeypatch.setattr(DistillationStack, "on_train_start", record)
    stack = trained(cases, tmp_path, accumulate_grad_batches=2)
    full = len(streams()[0].train_dataloader()) - 1  # the last batch of an epoch is smaller
    assert len(replays) == 2 * full
    assert stack.graphable
    assert_same(stack.state_dict(), plain.state_dict())


class Drifting(TensorPairs):
    """Pairs that are others in every epoch."""

    teacher_fixed = student_fixed = False

    def inputs(self, indices: Tensor, epoch: int) -> tuple[Inputs, Inputs]:
        """Return the rows asked for, scaled."""
        teacher, student = super().inputs(indices, epoch)
        assert isinstance(teacher, Tensor)
        assert isinstance(student, Tensor)
        return teacher * (1 + epoch), student * (1 + epoch)


@pytest.mark.parametrize(("limit", "looked_up"), [(2**30, True), (0, False)])
def test_an_epoch_of_the_teachers_at_once(
    limit: int, looked_up: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the same students, by steps that look their teachers up if there is room."""

    def drifting(self: DoubleData, data: PairedDataset) -> PairedDataset:
        assert isinstance(data, TensorPairs)
        double = [values.double() for values in (data.teacher, data.student) if values is not None]
        return Drifting(*double, data.target)

    monkeypatch.setattr(DoubleData, "_double", drifting)
    changes = ShuffleNontarget(0.5), ClassNontarget(0.5), ShuffleTarget(0.7)
    cases = [Case(KD, n % 2, intervention=change) for n, change in enumerate(changes)]
    cases += [Case(KD, 0), Case(None, 1), Case(methods("hidden2")["FitNet"], 0, mask=removing(0))]
    plain = trained(cases, tmp_path)
    assert plain.teachers.varies
    monkeypatch.setattr(teachers, "_launches_cost", lambda device: True)
    monkeypatch.setattr(teachers, "_LIMIT", limit)
    monkeypatch.setattr(teachers, "_AT_ONCE", 40 * 12 * 8 * 3)  # several blocks of larger size
    stack = trained(cases, tmp_path)
    assert stack.teachers.varies != looked_up
    assert stack.graphable == looked_up
    assert_same(stack.state_dict(), plain.state_dict())


def test_steps_that_draw_numbers_are_not_recorded() -> None:
    def stack(case: Case) -> DistillationStack:
        member = case.member()
        made: DistillationStack = member.module.stack([member], streams())
        return made

    assert stack(Case(KD, 0)).graphable
    assert not stack(Case(KD, 0, SampleMask(0.5, "random"))).graphable
    assert not stack(Case(methods("hidden2")["CRD"], 0)).graphable


def test_members_that_keep_other_numbers_of_rows_are_no_stack() -> None:
    member = Case(KD, 0, SampleMask(score="kendall", threshold=0.0)).member()
    with pytest.raises(NotStackable, match="another number of rows"):
        member.module.stack([member], streams())


def test_a_member_whose_loss_is_not_finite_fails_alone(tmp_path: Path) -> None:
    cases = [Case(KD, 0), Case(partial(KD, 1.0, 1e300), 1, distill_weight=1e20), Case(KD, 1)]
    stack = trained(cases, tmp_path)
    alone = [case.alone(tmp_path, streams()[case.stream]) for case in (cases[0], cases[2])]
    (failed,) = stack.failures
    assert failed == int(stack.student_of[1])
    assert "the loss is inf in distillation, step 0 (epoch 0, batch 0)" in stack.failures[failed]
    for run, module in zip((0, 2), alone, strict=True):
        student = stack.students.state_of(int(stack.student_of[run]))
        assert_same(student, module.student.state_dict())
    assert all(value.isfinite().all() for value in stack.state_dict().values())


def test_a_step_waits_for_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it could not be recorded as a graph; CRD draws its negatives on the CPU."""
    cases = [case for case in every_case() if not isinstance(case.make and case.make(), CRD)]
    data = streams()
    stack = cases[0].member().module.stack([case.member() for case in cases], data)
    batch = together([next(stream.batches("train", batch_size=8)) for stream in data])
    monkeypatch.setattr(DistillationStack, "streams", data)
    monkeypatch.setattr(DistillationStack, "device", GPU)
    taught = stack.teachers
    taught._tables["train"] = {}  # the teachers are run at every step
    with fake_gpu():
        moved(stack)
        moved(taught._networks)
        taught._streams, taught.of_member = (
            places.to(GPU) for places in (taught._streams, taught.of_member)
        )
        assert stack.losses(moved_batch(batch), 0).device == GPU
        stack.training_step(moved_batch(batch), 0)


def test_training_stops_when_all_members_failed(tmp_path: Path) -> None:
    cases = [Case(partial(KD, 1.0, 1e300), stream, distill_weight=1e20) for stream in (0, 1)]
    members = [case.member() for case in cases]
    data = streams()
    stack = members[0].module.stack(members, data)
    trainer = quiet_trainer(tmp_path, epochs=50)
    trainer.fit(stack, datamodule=StackedData(data))
    assert len(stack.failures) == 2
    assert trainer.current_epoch == 1


def test_the_best_weights_are_those_of_the_first_best_epoch(tmp_path: Path) -> None:
    cases = [Case(KD, 0), Case(None, 1)]
    members = [case.member() for case in cases]
    data = streams()
    stack = members[0].module.stack(members, data)
    trainer = quiet_trainer(tmp_path, epochs=6)
    trainer.fit(stack, datamodule=StackedData(data))
    accuracy = torch.stack(stack.curves["accuracy"])
    best = [int(stack.best_epoch[stack.student_of[run]]) for run in range(2)]
    assert best == accuracy.argmax(0).tolist()
    stack.take_best()
    quiet_trainer(tmp_path).validate(stack, datamodule=StackedData(data), verbose=False)
    torch.testing.assert_close(stack.measured["val"]["accuracy"], accuracy.amax(0))


class Reusing(SimKD):
    """With a projector without batch statistics."""

    def adapt(self, student: nn.Module, teacher: nn.Module, seed: int) -> None:
        head = student.get_submodule("head")
        if isinstance(head, ReusedHead):
            head.take(teacher.get_submodule("head"))
            return
        torch.manual_seed(seed)
        student.add_module("head", ReusedHead(nn.Linear(6, 6), teacher.get_submodule("head")))


@pytest.mark.parametrize("recorded", [False, True])
def test_students_with_their_teachers_heads(
    recorded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each its own, which weight decay leaves as it is, also where gradients are set to zero."""
    changes = {"optimizer": partial(AdamW, lr=0.01, weight_decay=0.1), "task_weight": 0.0}
    cases = [
        Case(Reusing, 0, **changes),
        Case(partial(Reusing, 0.5), 1, mask=removing(0), **changes),
        Case(partial(Combined, [Reusing(), KD()]), 1, **changes),
    ][: 2 + (not recorded)]
    if recorded:
        graph = lambda s: setattr(s, "_graph", StepGraph(s.losses, s.parameters(), lambda run: run))  # noqa: E731
        monkeypatch.setattr(DistillationStack, "on_train_start", graph)
    stack = trained(cases, tmp_path)
    for run, case in enumerate(cases):
        alone = case.alone(tmp_path, streams()[case.stream])
        assert_same(stack.students.state_of(int(stack.student_of[run])), alone.student.state_dict())
        head = alone.frozen_teacher.network.get_submodule("head").state_dict()
        assert_same(alone.student.get_submodule("head.head").state_dict(), head)


def test_students_with_other_heads_are_no_stack() -> None:
    members = [Case(make, 0, task_weight=1.0).member() for make in (Reusing, KD)]
    with pytest.raises(NotStackable, match="changes the network"):
        members[0].module.stack(members, streams())


def test_a_projector_with_batch_statistics_is_refused() -> None:
    member = Case(SimKD, 0, task_weight=0.0).member()
    with pytest.raises(NotStackable, match="keeps statistics of batches"):
        member.module.stack([member], streams())


def test_batch_statistics_are_refused() -> None:
    def normalised() -> nn.Module:
        return nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))

    def module(seed: int) -> DistillationModule:
        made = DistillationModule(network, normalised, CLASSES, optimizer=optimizer, seed=seed)
        made.frozen_teacher.hold(copy.deepcopy(network()), normalised())
        return made

    members = [StackMember(module(seed), stream) for stream, seed in enumerate(SEEDS)]
    with pytest.raises(NotStackable, match="BatchNorm1d keeps statistics of batches"):
        members[0].module.stack(members, streams())
