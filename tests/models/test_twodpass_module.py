from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import SGD, AdamW

from ntdh_bench.batch import PairedBatch
from ntdh_bench.datamodules import SemanticKITTIDataModule
from ntdh_bench.errors import UserError
from ntdh_bench.masks import SampleMask
from ntdh_bench.models import TwoDPASSModule, TwoDPASSNet
from ntdh_bench.models.losses import lovasz_softmax
from tests.helpers import attached, equal, quiet_trainer, weights
from tests.models.fusion import CLASSES, TinyTwoDPASS, street_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SemanticKITTIDataModule:
    return street_data(tmp_path_factory.mktemp("street"), points=True)


def make(**settings: Any) -> TwoDPASSModule:
    given: dict[str, Any] = {"optimizer": partial(SGD, lr=0.05, momentum=0.9), **settings}
    return TwoDPASSModule(TinyTwoDPASS, CLASSES, **given)


def without_points(batch: PairedBatch) -> PairedBatch:
    return {**batch, "points": {name: value[:0] for name, value in batch["points"].items()}}


@pytest.mark.parametrize("weighting", ["2dpass", "pmf"])
def test_loss_is_that_of_the_paper(
    weighting: str, data: SemanticKITTIDataModule, tmp_path: Path
) -> None:
    chosen = {} if weighting == "2dpass" else {"class_weighting": weighting}
    module = attached(make(fused_weight=2.0, distill_weight=3.0, **chosen), data, tmp_path)
    class_weights = data.class_weights[weighting]
    batch = next(data.batches("train"))
    points = batch["points"]
    target = points["target"]
    valid = target != 255
    assert 0 < valid.sum() < len(valid)

    def segmentation(logits: Tensor) -> Tensor:
        entropy = F.cross_entropy(logits, target, class_weights, ignore_index=255)
        return entropy + lovasz_softmax(logits[valid], target[valid])

    logits = module.network(points, batch["teacher"])
    expected = segmentation(logits["logits"]) + segmentation(logits["camera"])
    for fused, single in zip(logits["fused"], logits["single"], strict=True):
        log_p = single[valid].log_softmax(dim=1)
        p = fused[valid].detach().softmax(dim=1)
        divergence = F.kl_div(log_p, p, reduction="none").mean()
        taught = 2 * segmentation(fused) + 3 * divergence
        expected = expected + segmentation(single) + taught / 4
    loss = module.training_step(batch, 0)
    torch.testing.assert_close(loss, expected)
    values = list(module.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(loss, values), torch.autograd.grad(expected, values)
    )


def test_a_sample_mask_drops_points_from_the_divergences_only(
    data: SemanticKITTIDataModule, tmp_path: Path
) -> None:
    batch = next(data.batches("train"))
    losses = {}
    for ratio in (0.0, 0.5, 1.0):
        module = attached(make(), data, tmp_path)
        module.sample_mask = SampleMask(ratio)
        losses[ratio] = module.training_step(batch, 0).item()
    unmasked = attached(make(), data, tmp_path)
    alone = attached(make(distill_weight=0.0), data, tmp_path)
    assert losses[0.0] == unmasked.training_step(batch, 0).item()
    assert losses[1.0] == alone.training_step(batch, 0).item()
    assert losses[0.5] not in (losses[0.0], losses[1.0])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_trains_every_head_and_measures(
    precision: Any, data: SemanticKITTIDataModule, tmp_path: Path
) -> None:
    module = make()
    before = weights(module)
    trainer = quiet_trainer(tmp_path, precision=precision, callbacks=[SampleMask(0.25)])
    trainer.fit(module, datamodule=data)
    after = weights(module)
    assert not [name for name in before if torch.equal(before[name], after[name])]
    assert {"val/miou", "val/teacher_miou", "val/tcjsd", "val/ncjsd"} <= set(
        trainer.callback_metrics
    )


@pytest.mark.parametrize("network", ["tiny", "real"])
def test_a_batch_without_points_gives_zero(
    network: str, data: SemanticKITTIDataModule, tmp_path: Path
) -> None:
    module = attached(make(), data, tmp_path)
    if network == "real":
        module.network = TwoDPASSNet(CLASSES, width=8, backbone="resnet18")
    module.sample_mask = SampleMask(0.25)
    loss = module.training_step(without_points(next(data.batches("train"))), 0)
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())
    assert all(value.isfinite().all() for value in module.state_dict().values())


def test_points_without_a_label_give_zero(data: SemanticKITTIDataModule, tmp_path: Path) -> None:
    module = attached(make(), data, tmp_path)
    batch = next(data.batches("train"))
    points = batch["points"]
    points["target"] = torch.full_like(points["target"], 255)
    loss = module.training_step(batch, 0)
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


def test_resumed_training_gives_the_same_weights(
    data: SemanticKITTIDataModule, tmp_path: Path
) -> None:
    whole = make()
    quiet_trainer(tmp_path, epochs=2).fit(whole, datamodule=data)
    first, resumed = make(), make()
    trainer = quiet_trainer(tmp_path)
    trainer.fit(first, datamodule=data)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    quiet_trainer(tmp_path, epochs=2).fit(
        resumed, datamodule=data, ckpt_path=tmp_path / "first.ckpt"
    )
    assert equal(weights(whole), weights(resumed))


def test_two_processes_measure_like_one(data: SemanticKITTIDataModule, tmp_path: Path) -> None:
    module = make()
    two = {"devices": 2, "strategy": "ddp_fork"}
    quiet_trainer(tmp_path, **two).fit(module, datamodule=data)
    results = [
        quiet_trainer(tmp_path, **options).test(module, datamodule=data, verbose=False)
        for options in (two, {})
    ]
    assert results[0] == [pytest.approx(results[1][0])]


def test_the_real_network_trains(tmp_path: Path) -> None:
    # Torch's bfloat16 convolution on CPUs has wrong gradients for maps of 2 rows and 7x7 kernels.
    data = street_data(tmp_path, points=True, crop=(40, 96))
    network = partial(TwoDPASSNet, CLASSES, width=8, backbone="resnet18")
    module = TwoDPASSModule(network, CLASSES, optimizer=partial(AdamW, lr=0.01))
    before = weights(module)
    trainer = quiet_trainer(tmp_path, precision="bf16-mixed", limit_train_batches=1)
    trainer.fit(module, datamodule=data)
    counts = module.parameter_counts()
    assert counts["student"] < counts["teacher"]
    after = weights(module)
    trained = [name for name, _ in module.named_parameters()]
    assert not [name for name in trained if torch.equal(before[name], after[name])]


def test_predictions_are_of_points(data: SemanticKITTIDataModule, tmp_path: Path) -> None:
    batches: Any = quiet_trainer(tmp_path).predict(make(), datamodule=data)
    points = next(data.batches("test"))["points"]
    assert batches[0]["logits"].shape == (len(points["scan"]), CLASSES)
    assert torch.equal(batches[0]["index"], points["scan"])
    assert batches[1]["index"].unique().tolist() == [2]


def test_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"distill_weight is -1"):
        make(distill_weight=-1.0)
    with pytest.raises(UserError, match=r"class_weighting is 'mine': choose 2dpass or pmf"):
        make(class_weighting="mine")
    with pytest.raises(UserError, match=r"set data\.points: true"):
        quiet_trainer(tmp_path).fit(make(), datamodule=street_data(tmp_path))


def test_a_lidar_image_instead_of_the_camera(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set data\.unimodal: false"):
        quiet_trainer(tmp_path).fit(
            make(), datamodule=street_data(tmp_path, points=True, unimodal=True)
        )
