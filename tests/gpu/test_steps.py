"""Steps that never wait for the GPU, and the price of that: losses are looked at later."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD

from ntdh_bench.distillers.mutual import Distance
from ntdh_bench.errors import UserError
from ntdh_bench.masks import FeatureMask
from ntdh_bench.models import DistillationModule, JointModule, MLPClassifier, TeacherModule
from ntdh_bench.models.base import TrainableModule
from tests.gpu.device import GPU, begun, mnist, needs_gpu
from tests.helpers import (
    CLASSES,
    distillation,
    joint_checkpoint,
    methods,
    network,
    optimizer,
    quiet_trainer,
    small_data,
)

pytestmark = needs_gpu
METHODS = methods("hidden2")
WAITING = {"CRD"}  # its negatives are drawn on the CPU, by the number of the step
mlp = partial(MLPClassifier, 784, [32, 16], 10)
slow = partial(SGD, lr=1e-4, momentum=0.9)  # the published weights of some methods are large


@pytest.fixture
def forbidden() -> Iterator[Any]:
    """Call it: from then on, what waits for the GPU is an error."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


def take_steps(module: TrainableModule, forbid: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train as a Trainer does; memory is allocated and kernels are loaded in the first steps."""
    data = mnist()
    begun(data)
    monkeypatch.setattr(type(module), "data", data)
    loader: Any = data.train_dataloader()
    module.setup("fit")
    module.to(GPU)
    optimiser = module.build_optimizer()
    for step, request in enumerate(loader.sampler):
        if step == 3:
            forbid()
        optimiser.zero_grad()
        module.training_step(loader.dataset[request], step).backward()
        optimiser.step()


@pytest.mark.parametrize("name", sorted(METHODS.keys() - WAITING))
def test_a_distilled_step_waits_for_nothing(
    name: str, forbidden: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = DistillationModule(mlp, mlp, 10, METHODS[name](), optimizer=slow)
    module.frozen_teacher.hold(mlp())
    take_steps(module, forbidden, monkeypatch)


@pytest.mark.parametrize("dist", [None, "kl", "ncjsd"])
def test_a_teachers_step_waits_for_nothing(
    dist: Distance | None, forbidden: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: TeacherModule | JointModule = (
        JointModule(mlp, mlp, 10, optimizer=slow, dist=dist)
        if dist
        else TeacherModule(mlp, 10, optimizer=slow)
    )
    take_steps(module, forbidden, monkeypatch)


class Diverging(TeacherModule):
    """Its loss is infinite from step 9 on."""

    def task_loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss = super().task_loss(logits, target)
        return loss if self.global_step < 9 else loss * torch.inf


def test_the_error_names_the_first_step_that_is_not_finite(tmp_path: Path) -> None:
    module = Diverging(network, CLASSES, "teacher", optimizer)
    trainer = quiet_trainer(tmp_path, 3, accelerator="gpu", devices=1)
    with pytest.raises(UserError, match=r"loss is inf .* step 9 \(epoch 1, batch 2\)"):
        trainer.fit(module, datamodule=small_data())
    assert trainer.global_step > 9


@pytest.mark.parametrize("name", METHODS)
def test_fit_then_test_under_a_feature_mask(name: str, tmp_path: Path) -> None:
    data = small_data()
    module = distillation(joint_checkpoint(tmp_path, data), METHODS[name]())
    mask = FeatureMask(0.5, layer="hidden1", permutations=1)
    trainer = quiet_trainer(tmp_path, accelerator="gpu", devices=1, callbacks=[mask])
    trainer.fit(module, datamodule=data)
    assert trainer.test(module, datamodule=data, verbose=False)
