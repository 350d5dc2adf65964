from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from ntdh_bench.batch import PairedBatch
from ntdh_bench.distillers.mutual import Distance
from ntdh_bench.divergence import kl, ncjsd
from ntdh_bench.errors import UserError
from ntdh_bench.models import JointModule, TeacherModule, base
from ntdh_bench.models.base import check_network, task_loss
from tests.fake_gpu import GPU, fake_gpu, moved, moved_batch
from tests.helpers import CLASSES, equal, network, optimizer, quiet_trainer, small_data, weights
from tests.typed import some


def batch(size: int = 6) -> PairedBatch:
    generator = torch.Generator().manual_seed(0)
    return PairedBatch(
        teacher=torch.randn(size, 12, generator=generator),
        student=torch.randn(size, 12, generator=generator),
        target=torch.randint(CLASSES, (size,), generator=generator),
        index=torch.arange(size),
    )


def test_task_loss_ignores_and_survives_nothing_to_learn() -> None:
    logits = torch.randn(4, CLASSES, requires_grad=True)
    target = torch.tensor([0, 1, 255, 3])
    valid = target != 255
    expected = cross_entropy(logits[valid], target[valid])
    assert torch.allclose(task_loss(logits, target, 255), expected)
    loss = task_loss(logits, torch.full((4,), 255), 255)
    loss.backward()
    assert loss == 0
    assert (some(logits.grad) == 0).all()


def test_classes_weigh_as_they_are_told() -> None:
    weights = torch.tensor([0.05, 1, 0, 2])
    logits = torch.randn(4, CLASSES, 3, requires_grad=True)
    target = torch.tensor([[0, 1, 255], [3, 3, 0], [255, 1, 2], [0, 0, 0]])
    expected = cross_entropy(logits, target, weights, ignore_index=255)
    assert torch.allclose(task_loss(logits, target, 255, weights), expected)
    loss = task_loss(logits, torch.full((4, 3), 2), 255, weights)  # of no weight
    loss.backward()
    assert loss == 0
    assert (some(logits.grad) == 0).all()


@pytest.mark.parametrize("bad", [
    [1.0, 2.0], [1.0, 1.0, -1.0, 1.0], [0.0] * CLASSES, [1.0, math.nan, 1.0, 1.0], [math.inf] * 4,
])  # fmt: skip
def test_weights_that_fit_no_classes_are_refused(bad: list[float]) -> None:
    for make in (TeacherModule, partial(JointModule, network)):
        with pytest.raises(UserError, match=r"model.class_weights .* give 4 finite weights"):
            make(network, CLASSES, optimizer=optimizer, class_weights=bad)


def test_modules_weigh_classes() -> None:
    sample, weights = batch(), [0.0, 1.0, 1.0, 1.0]
    module = TeacherModule(network, CLASSES, "student", optimizer, class_weights=weights)
    logits = module.network(sample["student"])
    expected = cross_entropy(logits, sample["target"], torch.tensor(weights))
    assert torch.allclose(module.training_step(sample, 0), expected)
    assert "class_weights" not in module.state_dict()


def test_teacher_trains_on_its_modality_only() -> None:
    sample = batch()
    module = TeacherModule(network, CLASSES, "student", optimizer)
    expected = cross_entropy(module.network(sample["student"]), sample["target"])
    assert torch.allclose(module.training_step(sample, 0), expected)


def test_initial_weights_depend_on_seed_and_modality_only() -> None:
    torch.manual_seed(1)
    first = TeacherModule(network, CLASSES, "student", optimizer, seed=3)
    torch.manual_seed(2)
    again = TeacherModule(network, CLASSES, "student", optimizer, seed=3)
    other_seed = TeacherModule(network, CLASSES, "student", optimizer, seed=4)
    other_modality = TeacherModule(network, CLASSES, "teacher", optimizer, seed=3)
    assert equal(weights(first.network), weights(again.network))
    assert not equal(weights(first.network), weights(other_seed.network))
    assert not equal(weights(first.network), weights(other_modality.network))


def test_joint_loss_is_equation_26_and_reaches_both() -> None:
    sample = batch()
    module = JointModule(network, network, CLASSES, optimizer)
    a, b = module.teacher(sample["teacher"]), module.companion(sample["student"])
    distance = kl_div(log_softmax(b, 1), log_softmax(a, 1), log_target=True, reduction="batchmean")
    target = sample["target"]
    loss = module.training_step(sample, 0)
    assert torch.allclose(loss, cross_entropy(a, target) + cross_entropy(b, target) + distance)
    (gradient,) = torch.autograd.grad(distance, a)
    assert (gradient != 0).any()


def test_training_learns(tmp_path: Path) -> None:
    module = TeacherModule(network, CLASSES, "teacher", optimizer)
    trainer = quiet_trainer(tmp_path, epochs=8)
    trainer.fit(module, datamodule=small_data())
    assert trainer.callback_metrics["val/accuracy"] > 0.45  # chance: 0.25
    assert "train/loss" in trainer.callback_metrics


def test_loss_that_is_not_finite_names_step_and_batch(tmp_path: Path) -> None:
    module = TeacherModule(network, CLASSES, "teacher", optimizer)
    data = small_data()
    data.setup()
    data.splits["train"].teacher[:] = float("nan")  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"loss is nan in training .* step 0 \(epoch 0, batch 0\)"):
        quiet_trainer(tmp_path).fit(module, datamodule=data)


class Diverging(TeacherModule):
    """Its loss is infinite from the step ``bad`` on."""

    bad = 0

    def task_loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss = super().task_loss(logits, target)
        return loss if self.global_step < self.bad else loss * math.inf


def diverging(bad: int) -> Diverging:
    module = Diverging(network, CLASSES, "teacher", optimizer)
    module.bad = bad
    return module


@pytest.mark.parametrize(("bad", "steps"), [(0, 3), (3, 3), (4, 7), (6, 7), (9, 10)])
def test_losses_seen_every_few_steps_name_the_first_that_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int, steps: int
) -> None:
    monkeypatch.setattr(base, "steps_unseen", lambda device: 4)  # epochs have 7
    module = diverging(bad)
    where = rf"loss is inf in training .*, step {bad} \(epoch {bad // 7}, batch {bad % 7}\)"
    with pytest.raises(UserError, match=where):
        quiet_trainer(tmp_path, 3).fit(module, datamodule=small_data())
    assert module.global_step == steps  # looked at before the 4th step of an epoch, and at its end


def test_no_checkpoint_holds_what_was_not_looked_at_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "steps_unseen", lambda device: 50)
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = quiet_trainer(tmp_path, callbacks=[saving], enable_checkpointing=True)
    with pytest.raises(UserError, match=r"loss is inf .* step 3 "):
        trainer.fit(diverging(3), datamodule=small_data())
    saved = sorted(tmp_path.glob("*.ckpt"))
    assert [path.stem for path in saved] == ["step=1", "step=2", "step=3"]
    for path in saved:
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in state.values())


class Broken(TeacherModule):
    """Its third step breaks a weight that the loss does not show."""

    def __init__(self) -> None:
        super().__init__(network, CLASSES, "teacher", optimizer)
        self.aside = torch.nn.Parameter(torch.zeros(3))

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        if batch_idx == 2:
            self.aside.data[1] = math.nan


@pytest.mark.parametrize("every", [3, None])
def test_no_checkpoint_holds_weights_that_are_not_finite(tmp_path: Path, every: int | None) -> None:
    saving = ModelCheckpoint(tmp_path, every_n_train_steps=every)
    trainer = quiet_trainer(tmp_path, callbacks=[saving], enable_checkpointing=True)
    with pytest.raises(UserError, match=rf"weights are not finite .*, step {2 if every else 6} "):
        trainer.fit(Broken(), datamodule=small_data())
    assert not list(tmp_path.glob("*.ckpt"))


def test_a_network_is_checked_where_it_is() -> None:
    module = network()
    with fake_gpu():
        check_network(moved(module), torch.zeros(2, 12), CLASSES, "network", ())


@pytest.mark.parametrize("kind", ["single", "joint"])
def test_a_step_waits_for_no_gpu(kind: str) -> None:
    module: TeacherModule | JointModule = (
        TeacherModule(network, CLASSES, "teacher", optimizer)
        if kind == "single"
        else JointModule(network, network, CLASSES, optimizer)
    )
    with fake_gpu():
        assert moved(module).training_step(moved_batch(batch()), 0).device == GPU


def test_checkpoint_from_python_loads_with_plain_values_only(tmp_path: Path) -> None:
    module = TeacherModule(network, CLASSES, "teacher", optimizer, seed=5)
    trainer = quiet_trainer(tmp_path)
    trainer.fit(module, datamodule=small_data())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert content["hyper_parameters"]["seed"] == 5
    assert "network" not in content["hyper_parameters"]
    loaded = TeacherModule.load_from_checkpoint(tmp_path / "x.ckpt", network=network)
    assert equal(weights(loaded), weights(module))


def joint(**settings: Any) -> JointModule:
    return JointModule(network, network, CLASSES, optimizer, **settings)


@pytest.mark.parametrize(("dist", "measure"), [("kl", kl), ("ncjsd", ncjsd)])
def test_dist_is_what_it_is_told_and_weighs_what_it_is_told(
    dist: Distance, measure: Callable[..., torch.Tensor]
) -> None:
    sample = batch()
    module = joint(dist=dist, dist_weight=10.0)
    a, b, target = (
        module.teacher(sample["teacher"]),
        module.companion(sample["student"]),
        sample["target"],
    )
    rows = measure(a, b, target) if dist == "ncjsd" else measure(a, b)
    loss = module.training_step(sample, 0)
    expected = cross_entropy(a, target) + cross_entropy(b, target) + 10 * rows.mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("dist", ["kl", "ncjsd"])
def test_dist_of_dense_tasks_is_of_what_counts(dist: Distance) -> None:
    """Pixels are rows of their own; the ignored ones are none."""

    class Pixels(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(2, CLASSES, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.layer(images)
            return logits

    generator = torch.Generator().manual_seed(0)
    target = torch.randint(CLASSES, (2, 3, 3), generator=generator)
    target[0, 0] = 255
    images = [torch.randn(2, 2, 3, 3, generator=generator) for _ in range(2)]
    module = JointModule(Pixels, Pixels, CLASSES, optimizer, dist=dist)
    sample = PairedBatch(teacher=images[0], student=images[1], target=target, index=torch.arange(2))
    a, b = (
        net(x).movedim(1, -1)[target != 255]
        for net, x in zip((module.teacher, module.companion), images, strict=True)
    )
    counted = target[target != 255]
    task = cross_entropy(a, counted) + cross_entropy(b, counted)
    rows = kl(a, b) if dist == "kl" else ncjsd(a, b, counted)
    torch.testing.assert_close(module.training_step(sample, 0), task + rows.mean())


def test_without_dist_two_networks_train_side_by_side(tmp_path: Path) -> None:
    module = joint(dist_weight=0.0, seed=3)
    quiet_trainer(tmp_path, epochs=2).fit(module, datamodule=small_data())
    alone = TeacherModule(network, CLASSES, optimizer=optimizer, seed=3)
    quiet_trainer(tmp_path, epochs=2).fit(alone, datamodule=small_data())
    assert equal(weights(module.teacher), weights(alone.network))


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [
        ({"dist_weight": -1.0}, "model.dist_weight is -1.0: it must be at least 0"),
        ({"dist": "mse"}, "model.dist is 'mse': choose one of kl, ncjsd"),
    ],
)
def test_a_dist_that_there_is_not_is_refused(settings: dict[str, Any], refusal: str) -> None:
    with pytest.raises(UserError, match=refusal):
        joint(**settings)
