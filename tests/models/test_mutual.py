"""Methods that train the teacher beside the student."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from ntdh_bench import composition, run_hash
from ntdh_bench.cli import main
from ntdh_bench.composition import read_config
from ntdh_bench.contract import StackMember
from ntdh_bench.datamodules.synthetic import SyntheticDataModule
from ntdh_bench.distillers.mutual import mutual_kl, selected_nckl
from ntdh_bench.divergence import flatten_dense
from ntdh_bench.errors import NotStackable, UserError
from ntdh_bench.masks import FeatureMask, SampleMask
from ntdh_bench.models import (
    C2KDModule,
    DistillationModule,
    MSTDistillModule,
    MutualModule,
    TeacherModule,
)
from ntdh_bench.models.c2kd import Proxy
from ntdh_bench.models.mutual import PairModule
from ntdh_bench.records import identity
from ntdh_bench.runs import fitting
from tests.fake_gpu import GPU, fake_gpu, moved, moved_batch
from tests.helpers import (
    CLASSES,
    attached,
    equal,
    flags,
    network,
    optimizer,
    quiet_trainer,
    record_of,
    small_and_simulated,
    small_data,
    weights,
)
from tests.models.test_dense import Segmenter, Streets, student_network, teacher_network


@pytest.fixture(scope="module")
def data() -> SyntheticDataModule:
    return small_data()


def make(**settings: Any) -> MutualModule:
    return MutualModule(network, network, CLASSES, **{"optimizer": optimizer, **settings})


def c2kd(trained: torch.nn.Module | None = None, **settings: Any) -> C2KDModule:
    """A C2KDModule with a teacher to start from: an untrained one of its own seed, or another."""
    module = C2KDModule(network, network, CLASSES, **{"optimizer": optimizer, **settings})
    module.frozen_teacher.hold(trained or module.frozen_teacher.untrained())
    return module


def mst(**settings: Any) -> MSTDistillModule:
    return MSTDistillModule(network, network, CLASSES, **{"optimizer": optimizer, **settings})


MODULES: dict[str, Any] = {"Mutual": make, "C2KD": c2kd, "MST-Distill": mst}
#: those with one teacher, whose rows a sample mask can rank
RANKED = {name: MODULES[name] for name in ("Mutual", "C2KD")}


def test_mutual_learning_is_two_cross_entropies_and_kl_both_ways(
    data: SyntheticDataModule, tmp_path: Path
) -> None:
    module = attached(make(temperature=2.0, distill_weight=0.5), data, tmp_path)
    batch = next(data.batches("train"))
    student, teacher = module.student(batch["student"]), module.teacher(batch["teacher"])
    task = cross_entropy(student, batch["target"]) + cross_entropy(teacher, batch["target"])
    expected = task + 0.5 * mutual_kl(student, teacher, 2.0)
    torch.testing.assert_close(module.training_step(batch, 0), expected)


@pytest.mark.parametrize("make_module", MODULES.values(), ids=MODULES)
def test_both_networks_start_as_they_would_alone(make_module: Any) -> None:
    module = make_module(seed=3)
    control = DistillationModule(network, network, CLASSES, optimizer=optimizer, seed=3)
    teacher = TeacherModule(network, CLASSES, optimizer=optimizer, seed=3)
    assert equal(weights(module.student), weights(control.student))
    assert equal(weights(module.teacher), weights(teacher.network))
    assert not equal(weights(module.student), weights(make_module(seed=4).student))


def test_without_kl_the_student_is_the_one_without_kd(
    data: SyntheticDataModule, tmp_path: Path
) -> None:
    """Bit by bit: the same weights at first, and the same batches."""
    joint, alone = make(distill_weight=0.0), TeacherModule(network, CLASSES, "student", optimizer)
    for module in (joint, alone):
        quiet_trainer(tmp_path, epochs=2).fit(module, datamodule=data)
    assert equal(weights(joint.student), weights(alone.network))


@pytest.mark.parametrize("make_module", MODULES.values(), ids=MODULES)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_trains_both_networks_and_measures_them(
    make_module: Any, precision: Any, data: SyntheticDataModule, tmp_path: Path
) -> None:
    module = make_module()
    before: dict[str, torch.Tensor] = {}
    module.on_train_start = lambda: before.update(weights(module))
    trainer = quiet_trainer(tmp_path, epochs=4, precision=precision, gradient_clip_val=1.0)
    trainer.fit(module, datamodule=data)
    trained = [name for name, _ in module.named_parameters()]
    assert not [name for name in trained if torch.equal(before[name], module.state_dict()[name])]
    found = {"val/accuracy", "val/teacher_accuracy", "val/ncjsd", "train/distill_loss"}
    assert found <= set(trainer.callback_metrics)
    assert trainer.callback_metrics["val/accuracy"] > 0.3
    counts = module.parameter_counts()
    assert counts["student"] == counts["teacher"] == sum(p.numel() for p in network().parameters())


@pytest.mark.parametrize("make_module", RANKED.values(), ids=RANKED)
def test_a_sample_mask_drops_rows_from_what_they_tell_each_other(
    make_module: Any, data: SyntheticDataModule, tmp_path: Path
) -> None:
    batch = next(data.batches("train"))

    def loss(mask: SampleMask | None) -> float:
        module = attached(make_module(), data, tmp_path)
        module.sample_mask = mask
        return float(module.training_step(batch, 0))

    assert loss(SampleMask(0.0)) == pytest.approx(loss(None), rel=1e-6)
    assert loss(SampleMask(1.0)) < loss(None)
    assert loss(SampleMask(0.5)) not in (loss(None), loss(SampleMask(1.0)))


@pytest.mark.parametrize("make_module", MODULES.values(), ids=MODULES)
def test_a_module_of_a_pair_is_no_stack_and_takes_no_feature_mask(
    make_module: Any, data: SyntheticDataModule, tmp_path: Path
) -> None:
    module: PairModule = make_module()
    with pytest.raises(NotStackable, match="has no stacked form"):
        module.stack([StackMember(module, 0)], [data])
    trainer = quiet_trainer(tmp_path, callbacks=[FeatureMask(0.5)])
    with pytest.raises(UserError, match="remove the mask"):
        trainer.fit(module, datamodule=data)


def test_dense_tasks_count_pixel_by_pixel(tmp_path: Path) -> None:
    data = Streets()
    data.setup("fit")
    module = MutualModule(teacher_network, student_network, 5, optimizer=optimizer)
    attached(module, data, tmp_path)
    batch = next(data.batches("train", batch_size=3))
    student, teacher = module.student(batch["student"]), module.teacher(batch["teacher"])
    rows = [flatten_dense(logits, batch["target"])[0] for logits in (student, teacher)]
    task = module.task_loss(student, batch["target"]) + module.task_loss(teacher, batch["target"])
    torch.testing.assert_close(module.training_step(batch, 0), task + mutual_kl(*rows))
    batch["target"] = torch.full_like(batch["target"], 255)
    assert module.training_step(batch, 0).item() == 0


@pytest.mark.parametrize("make_module", RANKED.values(), ids=RANKED)
def test_a_step_waits_for_no_gpu(
    make_module: Any, data: SyntheticDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, batch = make_module(), next(data.batches("train", batch_size=8))
    monkeypatch.setattr(PairModule, "data", data)
    module.setup("fit")
    with fake_gpu():
        moved(module)
        assert module.training_step(moved_batch(batch), 0).device == GPU


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, r"model\.temperature is 0\.0: it must be above 0"),
        ({"distill_weight": -1.0}, r"model\.distill_weight is -1\.0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**settings)


def test_networks_that_do_not_fit_are_named(data: SyntheticDataModule, tmp_path: Path) -> None:
    narrow = partial(network.func, 5, [8, 6], CLASSES)
    for names, module in (
        ("teacher_network", MutualModule(narrow, network, CLASSES, optimizer=optimizer)),
        ("student_network", MutualModule(network, narrow, CLASSES, optimizer=optimizer)),
    ):
        with pytest.raises(UserError, match=f"model.{names} does not take the data's inputs"):
            quiet_trainer(tmp_path).fit(module, datamodule=data)


@pytest.mark.parametrize("module", PairModule.__subclasses__(), ids=lambda kind: kind.__name__)
def test_a_module_of_a_pair_is_where_it_has_to_be_named(module: type[PairModule]) -> None:
    """Its own arguments are no part of the control's hash, and those of the pair are taken over."""
    name = f"ntdh_bench.models.{module.__name__}"
    assert composition.taken_over("DistillationModule", name) == composition._OF_PAIR
    arguments = set(inspect.signature(module).parameters)
    control = set(inspect.signature(DistillationModule).parameters)
    own = arguments - control
    assert own == set(identity._OF_METHOD[name])
    assert run_hash._LATER[name] == {"class_weights": None}


@pytest.mark.parametrize("overlay", ["mutual", "c2kd", "mst_distill"])
def test_its_record_goes_with_the_control_of_the_same_student(
    overlay: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = Path("configs/quickstart.yaml")
    short = ("--trainer.max_epochs", "4", "--data.steps_per_epoch", "3")
    for extra in ("overlays/without_kd", f"methods/{overlay}"):
        words = ["--config", f"configs/{extra}.yaml", "--mask", "null", *short]
        assert main(["fit", *flags(quick, tmp_path, *words)]) == 0
    by_arm = {record["arm"]: record for record in map(record_of, tmp_path.glob("2*"))}
    control, record = by_arm["without_kd"], by_arm["kd"]
    assert record["method"] == MODULES_BY_OVERLAY[overlay]
    assert record["baseline_hash"] == control["baseline_hash"]
    assert record["config_hash"] != control["config_hash"]
    assert "student without KD" in capsys.readouterr().out


MODULES_BY_OVERLAY = {"mutual": "Mutual", "c2kd": "C2KD", "mst_distill": "MST-Distill"}


# -- C2KD ----------------------------------------------------------------------------------------


def test_no_teacher_is_trained_for_a_mask_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fitting, "prepare_teacher", lambda *_: pytest.fail("a teacher is trained"))
    config, overlay = Path("configs/mnist_kd.yaml"), "configs/methods/c2kd.yaml"
    words = [
        "--config",
        overlay,
        *small_and_simulated(read_config(config)),
        "--mask",
        "FeatureMask",
        "--mask.ratio",
        "0.5",
    ]
    assert main(["fit", *flags(config, tmp_path, *words)]) == 1
    assert "not a C2KDModule: remove the mask" in capsys.readouterr().err


def test_c2kd_is_the_sum_of_its_terms(data: SyntheticDataModule, tmp_path: Path) -> None:
    module = attached(c2kd(threshold=0.2, proxy_weight=0.5, distill_weight=2.0), data, tmp_path)
    batch = next(data.batches("train"))
    target = batch["target"]
    nets = {"student": module.student, "teacher": module.teacher}
    logits, proxies = {}, {}
    for side, net in nets.items():
        features = net.hidden2(net.hidden1(net.flatten(batch[side])))
        logits[side] = net.head(features)
        proxies[side] = module.proxies[side](features, torch.Size())
    task = sum(cross_entropy(values, target) for values in logits.values())
    own = sum(mutual_kl(logits[side], proxies[side]) for side in nets)
    between = selected_nckl(proxies["student"], proxies["teacher"], target, 0.2)
    assert between > 0
    torch.testing.assert_close(module.training_step(batch, 0), task + 0.5 * own + 2.0 * between)


def test_c2kds_teacher_starts_from_the_trained_one_and_goes_on(
    data: SyntheticDataModule, tmp_path: Path
) -> None:
    trained = network()
    module = c2kd(trained)
    begun: list[bool] = []
    module.on_train_start = lambda: begun.append(  # type: ignore[method-assign]
        equal(weights(module.teacher), weights(trained))
    )
    quiet_trainer(tmp_path).fit(module, datamodule=data)
    assert begun == [True]
    assert not equal(weights(module.teacher), weights(trained))
    other = C2KDModule(network, network, CLASSES, optimizer=optimizer)
    with pytest.raises(UserError, match="has no teacher"):
        quiet_trainer(tmp_path).fit(other, datamodule=data)


def test_c2kd_goes_on_from_a_checkpoint_and_is_loaded_without_data(
    data: SyntheticDataModule, tmp_path: Path
) -> None:
    whole, first = c2kd(), c2kd()
    quiet_trainer(tmp_path, epochs=2).fit(whole, datamodule=data)
    trainer = quiet_trainer(tmp_path)
    trainer.fit(first, datamodule=data)
    trainer.save_checkpoint(path := tmp_path / "c2kd.ckpt")
    again = c2kd()
    quiet_trainer(tmp_path, epochs=2).fit(again, datamodule=data, ckpt_path=path)
    assert equal(weights(again), weights(whole))
    given = {"teacher_network": network, "student_network": network, "optimizer": optimizer}
    loaded = C2KDModule.load_from_checkpoint(path, weights_only=True, **given)
    assert equal(weights(loaded.proxies), weights(first.proxies))


def test_a_proxy_of_one_row_uses_the_statistics_so_far() -> None:
    proxy = Proxy(6, 3)
    rows = torch.randn(16, 6)
    proxy(rows, torch.Size())
    before = weights(proxy)
    one = proxy(rows[:1], torch.Size())
    assert equal(weights(proxy), before)
    proxy.eval()
    torch.testing.assert_close(one, proxy(rows[:1], torch.Size()))


def test_a_proxy_averages_positions_or_classifies_each() -> None:
    proxy = Proxy(6, 3).eval()
    maps = torch.randn(2, 6, 4, 5)
    torch.testing.assert_close(proxy(maps, torch.Size()), proxy(maps.mean((2, 3)), torch.Size()))
    same = proxy(maps, torch.Size((4, 5)))
    torch.testing.assert_close(same[:, :, 2, 3], proxy(maps[:, :, 2, 3], torch.Size()))
    assert proxy(maps, torch.Size((8, 10))).shape == (2, 3, 8, 10)


class Pooling(Segmenter):
    """Looks at its features without positions as well."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.pooled = torch.nn.Flatten()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        small = self.small(image)
        self.pooled(small.mean((2, 3)))
        logits: torch.Tensor = self.head(self.up(small))
        return logits


def test_c2kd_in_dense_tasks(tmp_path: Path) -> None:
    def dense(**settings: Any) -> C2KDModule:
        module = C2KDModule(
            teacher_network, partial(Pooling, 5), 5, **{"optimizer": optimizer, **settings}
        )
        module.frozen_teacher.hold(teacher_network())
        return module

    module = dense(layer="small")
    trainer = quiet_trainer(tmp_path, epochs=2)
    trainer.fit(module, datamodule=Streets())
    assert trainer.callback_metrics["train/distill_loss"] > 0
    module = dense(teacher_layer="small", student_layer="pooled")
    with pytest.raises(UserError, match="student's layer 'pooled' gives 0 spatial dimensions"):
        quiet_trainer(tmp_path).fit(module, datamodule=Streets())


def test_settings_of_c2kd_that_cannot_be() -> None:
    for settings, message in (
        ({"threshold": 1.5}, r"model\.threshold is 1\.5: it must lie in \[-1, 1\]"),
        ({"proxy_weight": -1.0}, r"model\.proxy_weight is -1\.0"),
        ({"layer": "hidden9"}, "no layer 'hidden9'"),
    ):
        with pytest.raises(UserError, match=message):
            c2kd(**settings)
