from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW

from ntdh_bench.batch import PairedBatch
from ntdh_bench.datamodules import SemanticKITTIDataModule
from ntdh_bench.divergence import flatten_dense
from ntdh_bench.errors import UserError
from ntdh_bench.masks import SampleMask
from ntdh_bench.models import OptimizerPair, PMFModule, WarmupCosine
from ntdh_bench.models.losses import focal, lovasz_softmax, perception_aware
from ntdh_bench.segmentation import MeanIoU
from tests.helpers import attached, equal, quiet_trainer, small_data, weights
from tests.models.fusion import CLASSES, TinyPMF, street_data
from tests.typed import some


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SemanticKITTIDataModule:
    return street_data(tmp_path_factory.mktemp("street"))


def make(**settings: Any) -> PMFModule:
    given: dict[str, Any] = {
        "optimizer": partial(AdamW, lr=0.01),
        "camera_optimizer": partial(SGD, lr=0.1, momentum=0.9),
        "scheduler": partial(WarmupCosine, epochs=4),
        **settings,
    }
    return PMFModule(TinyPMF, CLASSES, **given)


def test_loss_is_that_of_the_paper(data: SemanticKITTIDataModule, tmp_path: Path) -> None:
    module = attached(
        make(lovasz_weight=0.5, perception_weight=0.25, threshold=0.0), data, tmp_path
    )
    batch = next(data.batches("train"))
    logits = module.network(module.inputs(batch))
    expected = torch.zeros(())
    for branch in ("camera", "lidar"):
        rows = flatten_dense(logits[branch], batch["target"])
        expected = expected + focal(*rows, data.class_weights["pmf"]) + 0.5 * lovasz_softmax(*rows)
    camera, lidar = (flatten_dense(logits[b], batch["target"])[0] for b in ("camera", "lidar"))
    guidance = perception_aware(camera, lidar, threshold=0.0)
    assert guidance > 0
    torch.testing.assert_close(module.training_step(batch, 0), expected + 0.25 * guidance)


def test_a_sample_mask_drops_pixels_from_the_guidance_only(
    data: SemanticKITTIDataModule, tmp_path: Path
) -> None:
    batch = next(data.batches("train"))
    losses = {}
    for ratio in (0.0, 0.5, 1.0):
        module = attached(make(threshold=0.0), data, tmp_path)
        module.sample_mask = SampleMask(ratio)
        losses[ratio] = module.training_step(batch, 0).item()
    unmasked = attached(make(threshold=0.0), data, tmp_path)
    alone = attached(make(threshold=0.0, perception_weight=0.0), data, tmp_path)
    assert losses[0.0] == unmasked.training_step(batch, 0).item()
    assert losses[1.0] == alone.training_step(batch, 0).item()
    assert losses[0.5] not in (losses[0.0], losses[1.0])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_trains_both_branches_and_measures(
    precision: Any, data: SemanticKITTIDataModule, tmp_path: Path
) -> None:
    module = make()
    before = weights(module)
    trainer = quiet_trainer(
        tmp_path, epochs=2, precision=precision, gradient_clip_val=1.0, callbacks=[SampleMask(0.25)]
    )
    trainer.fit(module, datamodule=data)
    after = weights(module)
    assert not [name for name in before if torch.equal(before[name], after[name])]
    assert {"val/miou", "val/teacher_miou", "val/tcjsd", "val/ncjsd"} <= set(
        trainer.callback_metrics
    )
    assert trainer.global_step == 4  # one optimiser as far as the Trainer knows
    assert module.sample_mask is None


def test_a_batch_without_valid_pixels_changes_nothing(
    data: SemanticKITTIDataModule, tmp_path: Path
) -> None:
    module = attached(make(), data, tmp_path)
    module.sample_mask = SampleMask(0.25)
    batch = next(data.batches("train"))
    empty = PairedBatch(**{**batch, "target": torch.full_like(batch["target"], 255)})
    loss = module.training_step(empty, 0)
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


def test_resumed_training_gives_the_same_weights(
    data: SemanticKITTIDataModule, tmp_path: Path
) -> None:
    whole = make()
    quiet_trainer(tmp_path, epochs=3).fit(whole, datamodule=data)
    first, resumed = make(), make()
    trainer = quiet_trainer(tmp_path, epochs=1)
    trainer.fit(first, datamodule=data)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    quiet_trainer(tmp_path, epochs=3).fit(
        resumed, datamodule=data, ckpt_path=tmp_path / "first.ckpt"
    )
    assert equal(weights(whole), weights(resumed))
    assert not equal(weights(whole), weights(first))


def test_hyperparameters_are_plain(data: SemanticKITTIDataModule, tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, limit_train_batches=1)
    trainer.fit(make(threshold=0.5), datamodule=data)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    saved = torch.load(tmp_path / "x.ckpt", weights_only=True)["hyper_parameters"]
    assert (saved["threshold"], saved["lovasz_weight"]) == (0.5, 1.0)


def test_two_processes_measure_like_one(data: SemanticKITTIDataModule, tmp_path: Path) -> None:
    module = make()
    two = {"devices": 2, "strategy": "ddp_fork"}
    quiet_trainer(tmp_path, **two).fit(module, datamodule=data)
    results = [
        quiet_trainer(tmp_path, **options).test(module, datamodule=data, verbose=False)
        for options in (two, {})
    ]
    assert results[0] == [pytest.approx(results[1][0])]


def test_points_and_classes_are_measured(
    data: SemanticKITTIDataModule, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    points = street_data(tmp_path_factory.mktemp("points"), points=True)
    module, two = make(), {"devices": 2, "strategy": "ddp_fork"}
    (plain,) = quiet_trainer(tmp_path).test(module, datamodule=data, verbose=False)
    module = make()
    results = [
        quiet_trainer(tmp_path, **options).test(module, datamodule=points, verbose=False)[0]
        for options in (two, {})
    ]
    assert results[0] == pytest.approx(results[1])
    assert results[1] == pytest.approx({**plain, "test/point_miou": results[1]["test/point_miou"]})
    assert sum(module.test_per_class[1:]) / 19 == pytest.approx(plain["test/miou"])
    expected = MeanIoU(CLASSES)
    for batch in points.batches("test"):
        cloud = batch["points"]
        logits = module(module.inputs(batch))
        rows = logits.movedim(1, -1).flatten(0, -2)
        expected.update(rows[cloud["pixel"]], cloud["target"])
    assert results[1]["test/point_miou"] == pytest.approx(float(expected.compute()))


def test_predictions(data: SemanticKITTIDataModule, tmp_path: Path) -> None:
    batches = some(quiet_trainer(tmp_path).predict(make(), datamodule=data))
    assert [batch["logits"].shape for batch in batches] == [(2, 20, 48, 128), (1, 20, 48, 128)]


def test_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="threshold is 2"):
        make(threshold=2.0)
    with pytest.raises(UserError, match=r"perception_weight is -1"):
        make(perception_weight=-1.0)
    with pytest.raises(UserError, match="one image plane"):
        quiet_trainer(tmp_path).fit(make(), datamodule=small_data())


def test_pair_of_optimisers_equals_two() -> None:
    def build() -> tuple[list[torch.nn.Parameter], SGD, AdamW]:
        torch.manual_seed(0)
        values = [torch.nn.Parameter(torch.randn(3)) for _ in range(2)]
        return values, SGD(values[:1], lr=0.1, momentum=0.9), AdamW(values[1:], lr=0.01)

    def run(values: list[torch.nn.Parameter], *optimizers: torch.optim.Optimizer) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.stack([value.square().sum() for value in values]).sum().backward()
        for optimizer in optimizers:
            optimizer.step()

    apart, *two = build()
    together, *both = build()
    pair = OptimizerPair(*both)
    for _ in range(2):
        run(apart, *two)
        run(together, pair)
    saved = pair.state_dict()
    torch.manual_seed(1)
    restored, *others = build()
    for new, old in zip(restored, together, strict=True):
        new.data.copy_(old.data)
    again = OptimizerPair(*others)
    again.load_state_dict(saved)
    for _ in range(2):
        run(apart, *two)
        run(restored, again)
    assert [torch.equal(a, b) for a, b in zip(apart, restored, strict=True)] == [True, True]


def test_schedule() -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = WarmupCosine(optimizer, epochs=5, warmup=1)
    rates = []
    for _ in range(6):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1, 2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5, 0])
    with pytest.raises(UserError, match="warm-up"):
        WarmupCosine(optimizer, epochs=1, warmup=1)
