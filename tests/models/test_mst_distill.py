from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ntdh_bench.batch import both_inputs
from ntdh_bench.datamodules.synthetic import SyntheticDataModule
from ntdh_bench.distillers.functional import kd
from ntdh_bench.distillers.routing import imbalance, routed_kl
from ntdh_bench.errors import UserError
from ntdh_bench.masks import SampleMask
from ntdh_bench.models import MSTDistillModule
from ntdh_bench.models.mst_distill import MaskNet
from ntdh_bench.models.mutual import PairModule
from tests.fake_gpu import GPU, fake_gpu, moved, moved_batch
from tests.helpers import (
    CLASSES,
    attached,
    equal,
    network,
    optimizer,
    quiet_trainer,
    small_data,
    weights,
)
from tests.models.test_dense import Segmenter, Streets
from tests.typed import some

#: of joint training and of masks, so that an epoch 0 is one of that stage
EPOCHS = {"joint": (1, 1), "masks": (0, 1), "distillation": (0, 0)}


@pytest.fixture(scope="module")
def data() -> SyntheticDataModule:
    return small_data()


def make(**settings: Any) -> MSTDistillModule:
    given = {"optimizer": optimizer, "teacher_layers": ["hidden1", "hidden2"], **settings}
    return MSTDistillModule(network, network, CLASSES, **given)


def in_stage(
    stage: str, module: MSTDistillModule, data: SyntheticDataModule, folder: Path
) -> MSTDistillModule:
    """The module as it is in a training step of a stage."""
    attached(module, data, folder).train()
    module._lengths = EPOCHS[stage]
    module.on_train_epoch_start()
    assert module.stage == stage
    return module


def parts(module: MSTDistillModule) -> dict[str, nn.Module]:
    return {name: module.get_submodule(name)
            for name in ("student", "teacher", "multimodal", "masks", "gate")}  # fmt: skip


def test_stages_train_what_is_theirs(data: SyntheticDataModule, tmp_path: Path) -> None:
    module = make()
    seen: list[dict[str, dict[str, Tensor]]] = []
    modes: list[tuple[bool, bool]] = []

    def look() -> None:
        seen.append({name: weights(part) for name, part in parts(module).items()})
        modes.append((module.teacher.training, module.student.training))

    step = module.training_step

    def looking(batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == 0:
            look()
        return step(batch, batch_idx)

    module.training_step = looking  # type: ignore[method-assign]
    quiet_trainer(tmp_path, epochs=3).fit(module, datamodule=data)
    look()
    changed = [
        {name for name in before if not equal(before[name], after[name])}
        for before, after in pairwise(seen)
    ]
    assert changed == [{"student", "teacher", "multimodal"}, {"masks"}, {"student", "gate"}]
    assert modes[:3] == [(True, True), (False, False), (False, True)]


def test_the_joint_loss_is_six_divergences(data: SyntheticDataModule, tmp_path: Path) -> None:
    module = in_stage("joint", make(temperature=2.0), data, tmp_path)
    batch = next(data.batches("train"))
    both = both_inputs(batch["teacher"], batch["student"])
    a, b, c = (
        module.student(batch["student"]), module.teacher(batch["teacher"]), module.multimodal(both),
    )  # fmt: skip
    task = sum(cross_entropy(x, batch["target"]) for x in (a, b, c))
    pairs = [(a, b), (a, c), (b, a), (b, c), (c, a), (c, b)]
    between = sum(kd(x, y, 2.0) for x, y in pairs)
    torch.testing.assert_close(module.training_step(batch, 0), task + between)


def alone(module: MSTDistillModule, batch: Any) -> list[Tensor]:
    """Each masked teacher's logits, written out without hooks: one mask at a time."""
    masks = list(module.masks)
    fused, net = module.multimodal, module.teacher
    branches = fused.branches(both_inputs(batch["teacher"], batch["student"]))
    hidden = net.hidden1(net.flatten(batch["teacher"]))
    return [
        fused.head(fused.hidden2(masks[0](branches))),
        fused.head(masks[1](fused.hidden2(branches))),
        net.head(net.hidden2(masks[2](hidden))),
        net.head(masks[3](net.hidden2(hidden))),
    ]


def test_each_teacher_has_its_own_mask_alone(data: SyntheticDataModule, tmp_path: Path) -> None:
    """In the authors' code the second teacher of a network has the first one's mask as well."""
    module = attached(make(), data, tmp_path)
    batch = next(data.batches("train"))
    expected = alone(module, batch)
    for found, wanted in zip(module.masked(batch), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    net, masks = module.teacher, module.masks
    hidden = net.hidden1(net.flatten(batch["teacher"]))
    both_masks = net.head(masks[3](net.hidden2(masks[2](hidden))))
    assert not torch.allclose(expected[3], both_masks, atol=1e-3)
    assert not any(m._forward_hooks for net in (module.teacher, module.multimodal)
                   for m in net.modules())  # fmt: skip


def test_masks_follow_the_student(data: SyntheticDataModule, tmp_path: Path) -> None:
    module = in_stage("masks", make(), data, tmp_path)
    batch = next(data.batches("train"))
    student = module.student(batch["student"]).detach()
    loss = module.training_step(batch, 0)
    torch.testing.assert_close(loss, sum(kd(x, student, 4.0) for x in alone(module, batch)))
    loss.backward()
    assert all(p.grad is not None for p in module.masks.parameters())
    assert not any(
        p.grad is not None for p in [*module.student.parameters(), *module.teacher.parameters()]
    )


@pytest.mark.parametrize("top", [None, 2])
def test_the_gate_weighs_the_losses(
    top: int | None, data: SyntheticDataModule, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"top": top, "distill_weight": 0.5, "balance_weight": 2.0}
    module = in_stage("distillation", make(**settings), data, tmp_path)
    batch = next(data.batches("train"))
    student = module.student(batch["student"])
    teachers = torch.stack(alone(module, batch)).detach()
    log_gate = module.gate(student.detach()).log_softmax(1)
    distilled = routed_kl(student, teachers, log_gate, 4.0, top)
    expected = cross_entropy(student, batch["target"]) + 0.5 * distilled + 2 * imbalance(log_gate)
    torch.testing.assert_close(module.training_step(batch, 0), expected)


def test_the_gate_learns_from_the_distillation_and_not_the_student_from_the_balance(
    data: SyntheticDataModule, tmp_path: Path
) -> None:
    """In the authors' code it is the other way round, for both."""
    batch = next(data.batches("train"))
    module = in_stage("distillation", make(balance_weight=0.0), data, tmp_path)
    module.training_step(batch, 0).backward()
    assert all(some(p.grad).abs().sum() > 0 for p in module.gate.parameters())
    by_index = in_stage("distillation", make(balance_weight=0.0, top=1), data, tmp_path)
    by_index.training_step(batch, 0).backward()
    assert not any(some(p.grad).any() for p in by_index.gate.parameters())
    gradients = []
    for weight in (0.0, 100.0):
        module = in_stage("distillation", make(balance_weight=weight), data, tmp_path)
        module.training_step(batch, 0).backward()
        gradients.append(torch.cat([some(p.grad).flatten() for p in module.student.parameters()]))
    assert torch.equal(*gradients)


def test_the_masked_teachers_see_fixed_samples_once(
    data: SyntheticDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    masked = MSTDistillModule.masked
    monkeypatch.setattr(
        MSTDistillModule,
        "masked",
        lambda self, batch: asked.append(len(batch["target"])) or masked(self, batch),
    )
    trained = []
    for fixed in (True, False):
        monkeypatch.setattr(SyntheticDataModule, "both_cacheable", lambda *_, fixed=fixed: fixed)
        asked.clear()
        module = make(mask_epochs=0)
        quiet_trainer(tmp_path, epochs=4).fit(module, datamodule=data)
        assert sum(asked) == data.num_train * (1 if fixed else 3)
        assert module._known is None
        trained.append(weights(module))
    for name, value in trained[0].items():
        torch.testing.assert_close(value, trained[1][name], rtol=1e-4, atol=1e-5, msg=name)


def test_double_precision(data: SyntheticDataModule, tmp_path: Path) -> None:
    module = make()
    trainer = quiet_trainer(tmp_path, epochs=3, precision="64-true")
    trainer.fit(module, datamodule=data)
    assert trainer.callback_metrics["train/distill_loss"] > 0
    assert {value.dtype for value in module.parameters()} == {torch.float64}


def test_goes_on_from_any_stage_and_is_loaded_without_data(
    data: SyntheticDataModule, tmp_path: Path
) -> None:
    whole = make()
    quiet_trainer(tmp_path, epochs=4).fit(whole, datamodule=data)
    first = make(joint_epochs=1, mask_epochs=1)
    trainer = quiet_trainer(tmp_path, epochs=3)
    trainer.fit(first, datamodule=data)
    trainer.save_checkpoint(path := tmp_path / "mst.ckpt")
    again = make()
    quiet_trainer(tmp_path, epochs=4).fit(again, datamodule=data, ckpt_path=path)
    assert equal(weights(again), weights(whole))
    given = {"teacher_network": network, "student_network": network, "optimizer": optimizer}
    loaded = MSTDistillModule.load_from_checkpoint(path, weights_only=True, **given)
    assert equal(weights(loaded.masks), weights(first.masks))


def test_stages_are_thirds_and_stay_what_they_are(
    data: SyntheticDataModule, tmp_path: Path
) -> None:
    """Also where training goes on for more epochs than was said."""
    seen: list[str] = []

    class Noting(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert isinstance(pl_module, MSTDistillModule)
            seen.append(pl_module.stage)

    trainer = quiet_trainer(tmp_path, epochs=7, callbacks=[Noting()])
    trainer.fit(make(), datamodule=data)
    assert seen == [*["joint"] * 2, *["masks"] * 2, *["distillation"] * 3]
    trainer.save_checkpoint(path := tmp_path / "mst.ckpt")
    quiet_trainer(
        tmp_path, epochs=30, max_steps=9 * trainer.num_training_batches, callbacks=[Noting()]
    ).fit(make(), datamodule=data, ckpt_path=path)
    assert set(seen[7:]) == {"distillation"}


@pytest.mark.parametrize("stage", EPOCHS)
def test_a_step_waits_for_no_gpu(
    stage: str, data: SyntheticDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SyntheticDataModule, "both_cacheable", lambda *_: False)
    module = in_stage(stage, make(), data, tmp_path)
    batch = next(data.batches("train", batch_size=8))
    monkeypatch.setattr(PairModule, "data", data)
    with fake_gpu():
        moved(module)
        assert module.training_step(moved_batch(batch), 0).device == GPU


def test_dense_tasks_have_a_gate_a_sample(tmp_path: Path) -> None:
    teacher, student = partial(Segmenter, 3), partial(Segmenter, 5)
    layers = {"multimodal_layers": ["branches"], "teacher_layers": ["small"]}
    module = MSTDistillModule(teacher, student, 5, **layers, optimizer=optimizer)
    trainer = quiet_trainer(tmp_path, epochs=3)
    trainer.fit(module, datamodule=Streets())
    assert trainer.callback_metrics["train/distill_loss"] > 0
    data = Streets()
    data.setup("fit")
    batch = next(data.batches("train", batch_size=3))
    module.eval()
    with torch.no_grad():
        logits = module.student(batch["student"])
        masked = torch.stack(list(module.masked(batch)))
        log_gate, target = module.log_gate(logits), batch["target"]
        pixels = (target != 255).nonzero().tolist()
        total = sum(
            routed_kl(logits[b, :, y, x][None], masked[:, b, :, y, x][:, None], log_gate[b][None])
            for b, y, x in pixels
        )
        module._loss_sums = {}
        module._distil(batch, 0)
    torch.testing.assert_close(module._loss_sums["distill_loss"], total / len(pixels))


def test_a_mask_weighs_features_between_0_and_1() -> None:
    torch.manual_seed(0)
    mask = MaskNet(6, 12, 3)
    rows = torch.randn(4, 6)
    share = mask(rows) / rows
    assert (share > 0).all()
    assert (share < 1).all()
    torch.testing.assert_close(mask(rows[:1]), mask(rows)[:1])
    maps = torch.randn(4, 6, 3, 5)
    share = mask(maps) / maps
    torch.testing.assert_close(share, share[:, :, :1, :1].expand_as(share))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, r"model\.temperature is 0"),
        ({"mask_epochs": -1}, r"model\.mask_epochs is -1"),
        ({"top": 5}, r"model\.top is 5: it must lie in \[1, 4\]"),
        ({"embedding": 10}, r"model\.embedding is 10: give a multiple of model\.heads, 3"),
        ({"teacher_layers": [], "multimodal_layers": []}, "masks no layer"),
        ({"teacher_layers": ["hidden9"]}, "no layer 'hidden9'"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"epochs": 2}, r"trainer\.max_epochs is 2, .* take 2: none is left to distil"),
        ({"epochs": -1, "max_steps": 5}, r"thirds of trainer\.max_epochs, which is not set"),
        ({"epochs": 3, "callbacks": [SampleMask(0.5)]}, "MST-Distill has several: remove the mask"),
    ],
)
def test_trainers_that_do_not_go_with_it(
    trainer: dict[str, Any], message: str, data: SyntheticDataModule, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        quiet_trainer(tmp_path, **trainer).fit(make(), datamodule=data)
