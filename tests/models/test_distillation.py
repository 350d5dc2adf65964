from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ntdh_bench.datamodules.synthetic import SyntheticDataModule
from ntdh_bench.distillers import AT, CRD, KD, OFA, SP, VID, Combined, Distiller, FitNet, SimKD
from ntdh_bench.distillers.functional import kd
from ntdh_bench.divergence import ncjsd
from ntdh_bench.errors import UserError
from ntdh_bench.layers import LOGITS, FeatureTap, LayerMask, mask_layer, run_tapped
from ntdh_bench.masks import FeatureMask, Removes, SampleMask
from ntdh_bench.metrics import DEPENDENCE, DIVERGENCES
from ntdh_bench.models import DistillationModule, MLPClassifier, TeacherModule
from tests.dependence import gram_cka, information
from tests.fake_gpu import GPU, fake_gpu, moved, moved_batch
from tests.helpers import (
    CLASSES,
    FEATURES,
    attached,
    distillation,
    equal,
    joint_checkpoint,
    methods,
    network,
    optimizer,
    quiet_trainer,
    small_data,
    weights,
)
from tests.typed import some


@pytest.fixture(scope="module")
def data() -> SyntheticDataModule:
    return small_data()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, data: SyntheticDataModule) -> Path:
    return joint_checkpoint(tmp_path_factory.mktemp("teacher"), data)


METHODS: dict[str, Callable[[], Distiller]] = {
    **methods("hidden2"),
    "SimKD": SimKD,
    "exits": lambda: OFA(["hidden1", "hidden2"], eps=1.5),
    "two layers": lambda: Combined([FitNet(weight=1.0, layer=f"hidden{n}") for n in (1, 2)]),
}


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_every_method_trains_and_its_parts_are_optimised(
    make: Callable[[], Distiller], teacher: Path, data: SyntheticDataModule, tmp_path: Path
) -> None:
    module = distillation(teacher, make())
    teacher_before = weights(module.frozen_teacher.network)
    quiet_trainer(tmp_path, limit_train_batches=1).fit(module, datamodule=data)
    before = weights(module)
    trainer = quiet_trainer(tmp_path, epochs=2)
    trainer.fit(module, datamodule=data)
    trained = [name for name, value in module.named_parameters() if value.requires_grad]
    assert not [name for name in trained if torch.equal(before[name], module.state_dict()[name])]
    assert equal(teacher_before, weights(module.frozen_teacher.network))
    assert not any(p.requires_grad for p in module.frozen_teacher.network.parameters())
    assert not module.frozen_teacher.network.training
    assert {"val/accuracy", "val/teacher_accuracy", "val/tcjsd", "val/ncjsd"} <= set(
        trainer.callback_metrics
    )


# Its negatives are drawn on the CPU, by the number of the step.
WAITING = {"CRD"}


@pytest.mark.parametrize("name", sorted(METHODS.keys() - WAITING))
def test_a_step_waits_for_no_gpu(
    name: str, data: SyntheticDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = distillation(None, METHODS[name]())
    frozen, batch = module.frozen_teacher, next(data.batches("train", batch_size=8))
    frozen.hold(network())
    tap = FeatureTap(frozen.network, some(module.distiller).teacher_layers)
    monkeypatch.setattr(frozen, "outputs", lambda batch, *_: tap(batch["teacher"]))
    monkeypatch.setattr(DistillationModule, "data", data)
    module.setup("fit")
    with fake_gpu():
        moved(module)
        moved(frozen.network)
        assert module.training_step(moved_batch(batch), 0).device == GPU


def test_networks_and_distiller_are_checked_where_they_are(
    data: SyntheticDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = distillation(None, FitNet(layer="hidden2"))  # as FSDP leaves it: on the GPU
    module.frozen_teacher.hold(network())
    batch = next(data.batches("train", batch_size=2))
    monkeypatch.setattr(DistillationModule, "data", data)
    monkeypatch.setattr(module, "first_batch", lambda stage: batch)
    with fake_gpu():
        moved(module.student)
        module.setup("test")


class Convolutional(nn.Sequential):
    """The twelve columns as a line of places."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("line", nn.Unflatten(1, (1, 12)))
        self.add_module("conv", nn.Conv1d(1, 3, 3))
        self.add_module("flatten", nn.Flatten())
        self.add_module("head", nn.Linear(30, 4))


def test_maps_are_compared_of_aligned_data_alone(tmp_path: Path) -> None:
    def fit(distiller: Distiller, aligned: bool) -> None:
        owner = DistillationModule(
            Convolutional, Convolutional, 4, distiller, teacher="independent", optimizer=optimizer
        )
        owner.frozen_teacher.hold(Convolutional())
        data = small_data()
        data.aligned = aligned
        quiet_trainer(tmp_path, limit_train_batches=1).fit(owner, datamodule=data)

    for distiller in (AT(layer="conv"), VID(layer="conv")):
        fit(distiller, aligned=True)
        with pytest.raises(UserError, match="not the same places"):
            fit(distiller, aligned=False)
    fit(VID(layer="flatten"), aligned=False)
    with pytest.raises(UserError, match="gives vectors"):
        fit(AT(layer="flatten"), aligned=True)


def test_loss_is_equation_4(teacher: Path, data: SyntheticDataModule, tmp_path: Path) -> None:
    module = attached(distillation(teacher, KD(temperature=2.0), lam=0.3), data, tmp_path)
    batch = next(data.batches("train"))
    student = module.student(batch["student"])
    with torch.no_grad():
        target = module.frozen_teacher.network(batch["teacher"])
    expected = 0.7 * cross_entropy(student, batch["target"]) + 0.3 * kd(
        student, target, temperature=2.0
    )
    assert torch.allclose(module.training_step(batch, 0), expected)


def test_the_student_starts_the_same_with_and_without_kd(teacher: Path) -> None:
    with_kd = distillation(teacher, CRD(layer="hidden2", feat_dim=4, negatives=16), seed=1)
    without = distillation(None, None, seed=1)
    other = distillation(None, None, seed=2)
    assert equal(weights(with_kd.student), weights(without.student))
    assert not equal(weights(with_kd.student), weights(other.student))


def test_without_kd_is_the_task_loss_alone(
    teacher: Path, data: SyntheticDataModule, tmp_path: Path
) -> None:
    zero = distillation(teacher, KD(), distill_weight=0.0)
    none = distillation(teacher, None)
    for module in (zero, none):
        quiet_trainer(tmp_path, epochs=2).fit(module, datamodule=data)
    assert equal(weights(zero.student), weights(none.student))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lam": 1.5}, "model.lam is 1.5"),
        ({"task_weight": -1.0}, "must be at least 0"),
        ({"teacher_dist_weight": -1.0}, "model.teacher_dist_weight is -1.0: it must be at least 0"),
        ({"teacher_dist": "mse"}, "model.teacher_dist is 'mse': choose one of kl, ncjsd"),
        ({"teacher_dist": "ncjsd", "teacher": "independent"}, "set model.teacher to joint"),
        ({"teacher_dist_weight": 0.0, "teacher": "independent"}, "set model.teacher to joint"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        distillation(None, KD(), **settings)


def test_a_student_alone_may_weigh_its_task_by_less_than_1_but_not_by_nothing(
    teacher: Path, data: SyntheticDataModule, tmp_path: Path
) -> None:
    alone = [distillation(teacher, None, task_weight=0.3), distillation(teacher, None, lam=0.7)]
    beside = distillation(teacher, KD(), task_weight=0.3, distill_weight=0.0)
    for module in (*alone, beside):
        quiet_trainer(tmp_path, epochs=2).fit(module, datamodule=data)
    assert equal(weights(alone[0].student), weights(beside.student))
    for nothing in ({"task_weight": 0.0}, {"lam": 1.0}):
        with pytest.raises(UserError, match="leaves the student untrained"):
            distillation(teacher, None, **nothing)
    distillation(teacher, KD(), task_weight=0.0)


def test_unknown_layer_of_the_distiller() -> None:
    with pytest.raises(UserError, match="no layer 'hidden7'"):
        distillation(None, SP(layer="hidden7"))


def test_without_a_teacher_it_says_what_to_do(data: SyntheticDataModule, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no teacher"):
        quiet_trainer(tmp_path).fit(distillation(None, KD()), datamodule=data)


def test_wrong_number_of_classes(teacher: Path, tmp_path: Path, data: SyntheticDataModule) -> None:
    module = DistillationModule(network, network, 7, KD(), optimizer=optimizer)
    module.frozen_teacher.load(teacher)
    with pytest.raises(UserError, match="returns 4 logits, but the data has 7 classes"):
        quiet_trainer(tmp_path).fit(module, datamodule=data)


def test_the_teacher_is_not_in_the_checkpoint_but_its_hash_is(
    teacher: Path, data: SyntheticDataModule, tmp_path: Path
) -> None:
    module = distillation(teacher, FitNet(layer="hidden2"))
    trainer = quiet_trainer(tmp_path)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert not [name for name in content["state_dict"] if "teacher" in name or "companion" in name]
    assert content["teacher_hash"] == module.frozen_teacher.hash

    loaded = DistillationModule.load_from_checkpoint(
        tmp_path / "x.ckpt", teacher_network=network, student_network=network,
        distiller=FitNet(layer="hidden2"), optimizer=optimizer,
    )  # fmt: skip
    assert equal(weights(loaded), weights(module))
    with pytest.raises(UserError, match="compares other layers than hidden1, hidden2, hidden1"):
        DistillationModule.load_from_checkpoint(
            tmp_path / "x.ckpt", teacher_network=network, student_network=network,
            distiller=Combined([SP(layer="hidden1"), SP(layer="hidden2")]), optimizer=optimizer,
        )  # fmt: skip

    other = distillation(teacher, FitNet(layer="hidden2"))
    with torch.no_grad():
        next(other.frozen_teacher.network.parameters()).add_(1)
    other.frozen_teacher.hash = "0" * 16
    with pytest.raises(UserError, match=f"trained with the teacher {module.frozen_teacher.hash}"):
        trainer.test(other, datamodule=data, ckpt_path=tmp_path / "x.ckpt", verbose=False)


def test_cached_and_uncached_teacher_give_the_same_student(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    for cacheable in (True, False):
        data = small_data(batch_size=None)
        monkeypatch.setattr(data, "cacheable", lambda split, answer=cacheable: answer)
        module = distillation(teacher, SP(layer="hidden1"))
        quiet_trainer(tmp_path, epochs=3).fit(module, datamodule=data)
        trained.append(weights(module.student))
    for name, value in trained[0].items():
        assert torch.allclose(value, trained[1][name], atol=1e-6)


def test_the_teacher_runs_once_over_data_that_never_change(
    teacher: Path, tmp_path: Path, data: SyntheticDataModule
) -> None:
    module = distillation(teacher, KD())
    seen = []
    module.frozen_teacher.network.register_forward_hook(
        lambda _m, args, _o: seen.append(len(args[0]))
    )
    quiet_trainer(tmp_path, epochs=3).fit(module, datamodule=data)
    # two samples to look at shapes (thrice), then every training and validation sample once
    assert sum(seen) == 3 * 2 + data.num_train + data.split_size("val")


def test_same_seed_same_bits(teacher: Path, data: SyntheticDataModule, tmp_path: Path) -> None:
    runs = []
    for number in range(2):
        torch.manual_seed(number)  # the global state must not matter
        module = distillation(teacher, CRD(layer="hidden2", feat_dim=4, negatives=16))
        trainer = quiet_trainer(tmp_path, epochs=2)
        trainer.fit(module, datamodule=small_data())
        runs.append((weights(module), trainer.test(module, datamodule=data, verbose=False)))
    assert equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


def resumed_equals_whole(make: Callable[[], DistillationModule], folder: Path) -> bool:
    """Train 6 epochs at once, and 3 + 3 with a resume between; compare the weights' bits."""

    def run(epochs: int, resume: Path | None) -> dict[str, torch.Tensor]:
        module = make()
        trainer = quiet_trainer(folder, epochs=epochs)
        trainer.fit(module, datamodule=small_data(), ckpt_path=resume)
        trainer.save_checkpoint(folder / f"{epochs}.ckpt")
        return weights(module)

    whole = run(6, None)
    run(3, None)
    return equal(whole, run(6, folder / "3.ckpt"))


@pytest.mark.parametrize(
    "make", [lambda: KD(), lambda: CRD(layer="hidden2", feat_dim=4, negatives=16)]
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    make: Any, teacher: Path, tmp_path: Path
) -> None:
    assert resumed_equals_whole(lambda: distillation(teacher, make()), tmp_path)


def with_dropout_and_batch_norm() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))


@pytest.fixture(scope="module")
def lone_teacher(tmp_path_factory: pytest.TempPathFactory, data: SyntheticDataModule) -> Path:
    folder = tmp_path_factory.mktemp("lone")
    trainer = quiet_trainer(folder)
    trainer.fit(TeacherModule(network, 4, "teacher", optimizer), datamodule=data)
    trainer.save_checkpoint(folder / "alone.ckpt")
    return folder / "alone.ckpt"


def stateful_student(lone_teacher: Path) -> DistillationModule:
    module = DistillationModule(
        network, with_dropout_and_batch_norm, 4, KD(), teacher="independent", optimizer=optimizer
    )
    module.frozen_teacher.load(lone_teacher)
    return module


def test_dropout_and_batch_norm_resume_exactly(lone_teacher: Path, tmp_path: Path) -> None:
    assert resumed_equals_whole(lambda: stateful_student(lone_teacher), tmp_path)


def test_measuring_changes_no_batch_statistics(
    lone_teacher: Path, data: SyntheticDataModule, tmp_path: Path
) -> None:
    module = stateful_student(lone_teacher)
    before = weights(module.student)
    trainer = quiet_trainer(tmp_path)
    trainer.test(module, datamodule=data, verbose=False)
    trainer.validate(module, datamodule=data, verbose=False)
    assert equal(before, weights(module.student))


def test_the_input_cannot_be_distilled(
    teacher: Path, data: SyntheticDataModule, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="input cannot be distilled"):
        distillation(teacher, SP(student_layer="input", teacher_layer="hidden1"))


def test_feature_mask_hides_features_from_the_student(
    teacher: Path, data: SyntheticDataModule, tmp_path: Path
) -> None:
    seen: list[torch.Tensor] = []

    class Watching(SP):
        def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
            seen.append(teacher.clone())
            return super().forward(student, teacher)

    module = distillation(teacher, Watching(layer="hidden1"))
    mask = FeatureMask(0.5, layer="hidden1", permutations=1)
    quiet_trainer(tmp_path, callbacks=[mask]).fit(module, datamodule=data)
    assert mask.keep is not None
    assert mask.keep.sum() == 4
    features = torch.cat(seen)
    assert (features[:, ~mask.keep] == 0).all()
    assert (features[:, mask.keep] != 0).any()
    tap = FeatureTap(module.frozen_teacher.network, ["hidden1"])  # the mask is off again
    whole = tap(next(data.batches("train"))["teacher"])["hidden1"]
    assert (whole[:, ~mask.keep] != 0).any()


@pytest.mark.parametrize("make", [None, SP, SimKD], ids=["without KD", "SP", "SimKD"])
def test_what_the_heads_take_is_compared_of_the_teacher_as_it_teaches(
    make: Any, teacher: Path, data: SyntheticDataModule, tmp_path: Path
) -> None:
    """Whatever the distiller compares, and behind the mask."""
    module = distillation(teacher, make and make(**({} if make is SimKD else {"layer": "hidden1"})))
    found = []
    for mask in ([], [FeatureMask(0.5, layer="hidden1", permutations=1, removes="random")]):
        trainer = quiet_trainer(tmp_path, callbacks=mask)
        trainer.fit(module, datamodule=data)
        assert not set(DEPENDENCE) & {name.partition("/")[2] for name in trainer.callback_metrics}
        found.append(trainer.test(module, datamodule=data, verbose=False)[0])
    module.frozen_teacher.release()
    network = module.frozen_teacher.network
    keep = some(mask[0].keep)
    handle = mask_layer(network, "hidden1", LayerMask.zeroing(keep))
    batch = next(data.batches("test", batch_size=1000))
    layers = "head, input", "head.head, input" if make is SimKD else "head, input"
    with torch.no_grad():
        taught = run_tapped(network, layers[:1], batch["teacher"])
        learnt = run_tapped(module.student.eval(), layers[1:], batch["student"])
    handle.remove()
    chosen, guessed = taught[LOGITS].argmax(1), learnt[LOGITS].argmax(1)
    expected = {
        "cka": gram_cka(taught[layers[0]], learnt[layers[1]]),
        "cka_logits": gram_cka(taught[LOGITS], learnt[LOGITS]),
        "mi_teacher_student": information(chosen.tolist(), guessed.tolist()),
        "mi_student_label": information(guessed.tolist(), batch["target"].tolist()),
    }
    measured = {name: found[1][f"test/{name}"] for name in expected}
    assert measured == pytest.approx(expected, rel=1e-5)
    assert found[0]["test/cka"] != pytest.approx(measured["cka"], rel=1e-3)


class NoVectors(nn.Module):
    """Ends with a convolution, or has its linear layer where a sample has several vectors."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.linear, self.unused = nn.Linear(FEATURES, CLASSES), nn.Linear(2, 2)
        if kind == "convolution":
            del self.linear, self.unused
            self.last = nn.Conv1d(1, CLASSES, FEATURES)
        elif kind != "unused":
            del self.unused

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor
        if self.kind == "convolution":
            logits = self.last(inputs.unsqueeze(1)).squeeze(2)
        elif self.kind == "rows":
            logits = self.linear(inputs.repeat(2, 1))[: len(inputs)]
        elif self.kind == "series":
            logits = self.linear(inputs.unsqueeze(1)).squeeze(1)
        else:
            logits = self.linear(input=inputs) if self.kind == "keyword" else self.linear(inputs)
        return logits


@pytest.mark.parametrize("kind", ["convolution", "rows", "series", "keyword", "unused"])
def test_networks_without_such_features_are_measured_by_the_rest(
    kind: str, data: SyntheticDataModule, tmp_path: Path
) -> None:
    student = partial(NoVectors, kind)
    module = DistillationModule(network, student, CLASSES, KD(), teacher="independent")
    module.frozen_teacher.hold(network())
    (found,) = quiet_trainer(tmp_path).test(module, datamodule=data, verbose=False)
    assert "test/cka" not in found
    assert 0 < found["test/cka_logits"] <= 1


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_sample_mask_drops_rows_of_the_distillation_term(
    ratio: float, teacher: Path, data: SyntheticDataModule, tmp_path: Path
) -> None:
    rows: list[int] = []

    class Counting(KD):
        def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
            rows.append(len(student))
            return super().forward(student, teacher)

    module = distillation(teacher, Counting())
    trainer = quiet_trainer(tmp_path, callbacks=[SampleMask(ratio, "most_divergent")])
    trainer.fit(module, datamodule=data)
    whole = [len(batch["target"]) for batch in data.batches("train")]
    assert sorted(rows) == sorted(n - round(ratio * n) for n in whole)


@pytest.mark.parametrize("removes", get_args(Removes))
def test_a_control_is_measured_on_the_rows_that_its_sample_mask_leaves(
    removes: Removes, teacher: Path, data: SyntheticDataModule, tmp_path: Path
) -> None:
    """Its divergences are: whatever counts right answers counts all, and so do runs with KD."""

    def measured(distiller: Distiller | None, mask: SampleMask | None) -> dict[str, float]:
        module = distillation(teacher, distiller)
        trainer = quiet_trainer(tmp_path, callbacks=[mask] if mask else None)
        (found,) = trainer.validate(module, datamodule=data, verbose=False)
        return {name.removeprefix("val/"): value for name, value in found.items()}

    mask, whole = SampleMask(0.25, removes, seed=4), measured(None, None)
    found = measured(None, mask)
    module, rows = distillation(teacher, None), []
    for batch in data.batches("val"):
        logits = module.frozen_teacher.network(batch["teacher"]), module(batch["student"])
        values, count = ncjsd(*logits, batch["target"]), len(batch["target"])
        order = values.argsort(descending=removes == "most_divergent")
        kept = order[round(0.25 * count) :]
        if removes == "random":
            kept = mask.keep_measured(*logits, batch["target"], "val", int(batch["index"][0]))
        rows.append(values[kept])
    assert found["ncjsd"] == pytest.approx(float(torch.cat(rows).double().mean()), rel=1e-6)
    assert {name for name in whole if found[name] != whole[name]} == set(DIVERGENCES)
    assert measured(KD(), mask) == measured(KD(), None) == whole


def test_a_distiller_of_a_user(teacher: Path, data: SyntheticDataModule, tmp_path: Path) -> None:
    class Mean(Distiller):
        def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
            return (student.mean() - teacher.mean()) ** 2

    module = distillation(teacher, Mean(layer="logits"))
    quiet_trainer(tmp_path).fit(module, datamodule=data)


def test_no_network_of_its_own_makes_a_teacher_like_the_student(tmp_path: Path) -> None:
    """With `unimodal` data: as a teacher that names the student's network, weights of its own."""
    data = small_data(unimodal=True)
    wide = partial(MLPClassifier, FEATURES, [9, 7], CLASSES)
    module = DistillationModule(None, wide, CLASSES, optimizer=optimizer, distiller=KD())
    named = DistillationModule(wide, wide, CLASSES, optimizer=optimizer, distiller=KD())
    trained = [each.teacher_module("independent") for each in (module, named)]
    assert equal(weights(trained[0]), weights(trained[1]))
    module.frozen_teacher.hold(module.frozen_teacher.untrained())
    quiet_trainer(tmp_path).fit(module, datamodule=data)
    assert module.parameter_counts()["teacher"] == module.parameter_counts()["student"]
    assert not equal(weights(module.frozen_teacher.network), weights(module.student))
