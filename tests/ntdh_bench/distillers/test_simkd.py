"""SimKD: the student with the teacher's head, wherever it is trained, measured or used."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ntdh_bench.datamodules.synthetic import SyntheticDataModule
from ntdh_bench.distillers import KD, Combined, SimKD
from ntdh_bench.distillers.functional import simkd
from ntdh_bench.distillers.simkd import ReusedHead
from ntdh_bench.errors import UserError
from ntdh_bench.layers import FeatureTap, input_of
from ntdh_bench.masks import FeatureMask
from ntdh_bench.models import DistillationModule, MLPClassifier
from tests.helpers import (
    CLASSES,
    FEATURES,
    distillation,
    equal,
    joint_checkpoint,
    network,
    quiet_trainer,
    small_data,
    weights,
)


@pytest.fixture(scope="module")
def data() -> SyntheticDataModule:
    return small_data(gap=0.0, n_samples=1500)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, data: SyntheticDataModule) -> Path:
    return joint_checkpoint(tmp_path_factory.mktemp("teacher"), data, epochs=5)


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 5)])
def test_the_loss_is_the_mean_squared_error(shape: tuple[int, ...]) -> None:
    student, teacher = draw(*shape), draw(*shape, seed=1)
    pairs = list(zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True))
    wanted = sum((a - b) ** 2 for a, b in pairs) / len(pairs)
    assert simkd(student, teacher).item() == pytest.approx(wanted, rel=1e-12)


def test_positions_that_do_not_count() -> None:
    student, teacher = draw(4, 3, 2, 5), draw(4, 3, 2, 5, seed=1)
    counted = draw(4, 2, 5, seed=2) > 0
    rows = (student - teacher).square().movedim(1, -1)[counted]
    torch.testing.assert_close(simkd(student, teacher, counted.double()), rows.mean())
    with pytest.raises(ValueError, match="differ"):
        simkd(student, teacher[:, :2])


def map_network(channels: int, width: int) -> nn.Sequential:
    """Logits through a head on maps, averaged after it."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3),
        nn.ReLU(),
        nn.Conv2d(width, CLASSES, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def kinds(projector: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in projector.children()]


def test_the_projector_of_maps_is_the_published_one() -> None:
    student, teacher = map_network(1, 3), map_network(2, 8)
    SimKD(head="2").adapt(student, teacher, 0)
    projector = student.get_submodule("2.projector")
    assert kinds(projector) == ["Conv2d", "BatchNorm2d", "ReLU"] * 3
    convolutions = [layer for layer in projector if isinstance(layer, nn.Conv2d)]  # type: ignore[attr-defined]
    shapes = [tuple(layer.weight.shape) for layer in convolutions]
    assert shapes == [(4, 3, 1, 1), (4, 4, 3, 3), (8, 4, 1, 1)]
    images = torch.randn(5, 1, 6, 7)
    tap = FeatureTap(student, ["2.projector", input_of("2")])
    outputs = tap(images)
    assert outputs["2.projector"].shape == (5, 8, 4, 5)
    assert outputs[input_of("2")].shape == (5, 3, 4, 5)
    by_teacher = teacher[2](outputs["2.projector"]).mean(dim=(2, 3))
    torch.testing.assert_close(outputs["logits"], by_teacher)


def test_maps_below_zero_can_be_met() -> None:
    student, teacher = map_network(1, 3), map_network(2, 8)
    SimKD(head="2", signed=True).adapt(student, teacher, 0)
    projector = student.get_submodule("2.projector")
    assert kinds(projector) == [*["Conv2d", "BatchNorm2d", "ReLU"] * 2, "Conv2d", "BatchNorm2d"]


def test_the_projector_of_vectors_is_normalised_too() -> None:
    student, teacher = network(), MLPClassifier(FEATURES, [9], CLASSES)
    SimKD().adapt(student, teacher, 0)
    projector = student.get_submodule("head.projector")
    assert kinds(projector) == ["Linear", "_BatchNorm", "ReLU"] * 3
    shapes = [tuple(p.shape) for p in projector.parameters() if p.dim() > 1]
    assert shapes == [(4, 6), (4, 4), (9, 4)]
    student.train()
    rows = torch.randn(8, FEATURES)
    before = student(rows)
    alone = student(rows[:1])  # which batch normalisation itself refuses
    assert torch.equal(alone, student.eval()(rows[:1]))
    assert not torch.equal(alone, before[:1])


def test_the_projector_comes_from_the_seed() -> None:
    made = []
    for seed in (7, 7, 8):
        student, taught_by = network(), network()
        before = torch.get_rng_state()
        SimKD().adapt(student, taught_by, seed)
        assert torch.equal(before, torch.get_rng_state())
        made.append(weights(student.get_submodule("head.projector")))
    assert equal(made[0], made[1])
    assert not equal(made[0], made[2])


@pytest.mark.parametrize("told", [True, False])
def test_the_head_stays_as_it_is(told: bool) -> None:
    """A Trainer does not tell a module to train before the first validation."""
    head = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, CLASSES))
    reused = ReusedHead(nn.Linear(3, 6), head)
    before = weights(reused.get_submodule("head"))
    if told:
        reused.train()
    assert reused.training
    outputs = [reused(torch.ones(4, 3)) for _ in range(2)]
    assert torch.equal(*outputs)
    outputs[0].sum().backward()
    assert all(p.grad is None for p in reused.get_submodule("head").parameters())
    assert equal(before, weights(reused.get_submodule("head")))
    assert all(p.requires_grad for p in head.parameters())  # a copy


@pytest.mark.parametrize(
    ("student", "teacher", "heads", "message"),
    [
        (network, network, {"head": "nothing"}, "no layer 'nothing'"),
        (
            network,
            partial(map_network, 1, 8),
            {"teacher_head": "2"},
            "0 axes and the teacher",
        ),
        (network, network, {"teacher_head": "flatten"}, "no linear layer"),
    ],
)
def test_heads_that_do_not_fit(
    student: partial[nn.Module], teacher: partial[nn.Module], heads: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        SimKD(**heads).adapt(student(), teacher(), 0)  # type: ignore[arg-type]


def predicted_by_the_teachers_head(module: DistillationModule, inputs: Tensor) -> Tensor:
    projected = FeatureTap(module.student, ["head.projector"])(inputs)["head.projector"]
    logits: Tensor = module.frozen_teacher.network.get_submodule("head")(projected)
    return logits


def test_what_predicts_is_measured_and_predicted_with(
    teacher: Path, data: SyntheticDataModule, tmp_path: Path
) -> None:
    module = distillation(teacher, SimKD(), task_weight=0.0)
    head = weights(module.frozen_teacher.network.get_submodule("head"))
    trainer = quiet_trainer(tmp_path, epochs=10)
    trainer.fit(module, datamodule=data)
    assert equal(head, weights(module.student.get_submodule("head.head")))
    (found,) = trainer.test(module, datamodule=data, verbose=False)
    batch = next(data.batches("test", batch_size=data.split_size("test")))
    inputs = batch["student"]
    assert isinstance(inputs, Tensor)
    module.eval()
    logits = predicted_by_the_teachers_head(module, inputs)
    right = (logits.argmax(1) == batch["target"]).float().mean().item()
    assert found["test/accuracy"] == pytest.approx(right)
    assert right > 0.45  # without any cross entropy; chance is 0.25
    predictions = trainer.predict(module, datamodule=data)
    torch.testing.assert_close(torch.cat([p["logits"] for p in predictions]), logits)  # type: ignore[arg-type,index,union-attr]
    torch.testing.assert_close(module(inputs), logits)
    trainer.save_checkpoint(tmp_path / "student.ckpt")
    again = distillation(teacher, SimKD(), task_weight=0.0)
    (once_more,) = quiet_trainer(tmp_path).test(
        again,
        datamodule=data,
        ckpt_path=tmp_path / "student.ckpt",
        verbose=False,
        weights_only=True,
    )
    assert once_more == found


def test_the_masked_teacher_is_followed(
    teacher: Path, data: SyntheticDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = distillation(teacher, SimKD(), task_weight=0.0)
    mask = FeatureMask(0.5, "random", layer="hidden2")
    seen: list[Tensor] = []

    def look(student: Tensor, taught: Tensor, *_: object, **__: object) -> Tensor:
        seen.append(taught)
        return simkd(student, taught)

    monkeypatch.setattr("ntdh_bench.distillers.simkd.simkd", look)
    quiet_trainer(tmp_path, callbacks=[mask]).fit(module, datamodule=data)
    assert mask.keep is not None
    assert seen
    assert all((taught[:, ~mask.keep] == 0).all() for taught in seen)


def test_beside_another_term(teacher: Path, data: SyntheticDataModule, tmp_path: Path) -> None:
    module = distillation(teacher, Combined([SimKD(), KD(1.0)]), task_weight=0.0)
    assert isinstance(module.student.get_submodule("head"), ReusedHead)
    quiet_trainer(tmp_path).fit(module, datamodule=data)


def test_the_student_starts_the_same_but_for_its_head() -> None:
    ours, plain = (distillation(None, one, seed=3).student for one in (SimKD(), None))
    for name, value in plain.state_dict().items():
        if not name.startswith("head"):
            assert torch.equal(ours.state_dict()[name], value)
