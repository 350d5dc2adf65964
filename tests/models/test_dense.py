from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor, nn

from ntdh_bench.batch import Measure, PairedBatch
from ntdh_bench.datamodules.paired import PairedDataModule, PairedDataset, TensorPairs
from ntdh_bench.distillers import (
    AT,
    DKD,
    KD,
    SP,
    VID,
    Combined,
    Distiller,
    FitNet,
    ReviewKD,
    SimKD,
    WeightedKL,
)  # fmt: skip
from ntdh_bench.divergence import ncjsd
from ntdh_bench.errors import UserError
from ntdh_bench.layers import AVERAGED_LOGITS, LOGITS
from ntdh_bench.masks import Mask, Removes, SampleMask
from ntdh_bench.models import DistillationModule, JointModule, TeacherModule
from ntdh_bench.models.dense import averaged, kept_outputs
from ntdh_bench.paper.authors import AuthorsPKT
from tests.helpers import equal, methods, optimizer, quiet_trainer, run_two_processes, weights
from tests.typed import some

CLASSES, SIZE, IGNORED = 5, (6, 8), 255
WIDTHS = {LOGITS: CLASSES, "small": 7}


class Segmenter(nn.Module):
    """Labels every pixel; its hidden layers are half and a quarter as large as the image."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.small = nn.Sequential(nn.Conv2d(channels, 7, 3, stride=2, padding=1), nn.ReLU())
        self.up = nn.Upsample(scale_factor=2)
        self.head = nn.Conv2d(7, CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.up(self.small(image)))
        return logits


class Streets(PairedDataModule):
    """A few images whose pixels' classes both modalities show; a quarter of them is ignored."""

    name = "streets"
    num_classes = CLASSES
    metric: Measure = "miou"
    excluded_classes = (0,)

    def __init__(self, batch_size: int | None = 4, seed: int = 0) -> None:
        super().__init__(batch_size, seed)

    def load(self) -> dict[Any, PairedDataset]:
        return {"train": pairs(12, 0), "val": pairs(4, 1), "test": pairs(5, 2)}

    def identity(self) -> dict[str, Any]:
        return {}


def pairs(count: int, seed: int) -> TensorPairs:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(1, CLASSES, (count, 3, 4), generator=generator)
    target = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)
    shown = torch.nn.functional.one_hot(target, CLASSES).movedim(-1, 1).float()
    noise = torch.randn(2, count, CLASSES, *SIZE, generator=generator) / 2
    ignored = torch.rand(target.shape, generator=generator) < 0.25
    target = target.masked_fill(ignored, IGNORED)
    return TensorPairs((shown + noise[0])[:, :3], shown + noise[1], target)


teacher_network, student_network = partial(Segmenter, 3), partial(Segmenter, CLASSES)


def module(distiller: Distiller | None, **changes: Any) -> DistillationModule:
    settings: dict[str, Any] = {"teacher": "independent", "optimizer": optimizer, **changes}
    return DistillationModule(teacher_network, student_network, CLASSES, distiller, **settings)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    trainer = quiet_trainer(folder, epochs=5)
    lone = TeacherModule(teacher_network, CLASSES, "teacher", optimizer)
    trainer.fit(lone, datamodule=Streets())
    assert trainer.callback_metrics["val/miou"] > 0.2
    trainer.save_checkpoint(folder / "teacher.ckpt")
    return folder / "teacher.ckpt"


def outputs(seed: int, requires_grad: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return 3 * torch.randn(shape, dtype=torch.float64, generator=generator)

    found = {LOGITS: draw(3, CLASSES, *SIZE), "small": draw(3, 7, 3, 4), "flat": draw(3, 6)}
    return {name: value.requires_grad_(requires_grad) for name, value in found.items()}


def batch_of(target: Tensor) -> PairedBatch:
    return PairedBatch(teacher=target, student=target, target=target, index=torch.arange(3) + 4)


def targets(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(CLASSES, (3, *SIZE), generator=generator)
    ignored = torch.rand(target.shape, generator=generator) < 0.5
    ignored[1] = True  # a whole image
    return target.masked_fill(ignored, IGNORED)


def distil(distiller: Distiller, mask: SampleMask | None, target: Tensor) -> Any:
    """Return loss and gradients of the student's outputs."""
    owner = module(distiller)
    owner.sample_mask = mask
    student, teacher = outputs(0, requires_grad=True), outputs(1)
    distiller.double()
    loss = owner._distill(distiller, student, teacher, batch_of(target), 0)
    loss.backward()
    return loss.detach(), {name: value.grad for name, value in student.items()}


def kept_pixels(mask: SampleMask | None, target: Tensor) -> list[tuple[int, int, int]]:
    """The pixels that count, found one by one."""
    student, teacher = outputs(0)[LOGITS], outputs(1)[LOGITS]
    pixels = [
        (b, y, x)
        for b in range(3)
        for y in range(SIZE[0])
        for x in range(SIZE[1])
        if target[b, y, x] != IGNORED
    ]
    if mask is None:
        return pixels

    def divergence(place: tuple[int, int, int]) -> float:
        b, y, x = place
        return float(
            ncjsd(teacher[b, :, y, x][None], student[b, :, y, x][None], target[b, y, x][None])
        )

    def disagrees(place: tuple[int, int, int]) -> bool:
        b, y, x = place
        return bool(kendalltau(teacher[b, :, y, x], student[b, :, y, x]).statistic <= 0.2)

    if mask.threshold is not None:
        return [place for place in pixels if not disagrees(place)]
    falling = sorted(pixels, key=divergence, reverse=mask.removes == "most_divergent")
    return sorted(falling[round(some(mask.ratio) * len(pixels)) :])


@pytest.mark.parametrize(
    "mask",
    [
        None,
        SampleMask(0.3),
        SampleMask(0.6, "least_divergent"),
        SampleMask(score="kendall", threshold=0.2),
    ],
)
@pytest.mark.parametrize("make", [lambda: KD(2.0), lambda: DKD(), lambda: WeightedKL(0.5, 2.0)])
def test_logits_equal_a_loop_over_pixels(
    make: Callable[[], Distiller], mask: SampleMask | None
) -> None:
    target = targets()
    loss, gradients = distil(make(), mask, target)
    student, teacher = outputs(0, requires_grad=True)[LOGITS], outputs(1)[LOGITS]
    pixels = kept_pixels(mask, target)
    alone = make()
    total = sum(
        alone.distill(
            {LOGITS: student[b, :, y, x][None]},
            {LOGITS: teacher[b, :, y, x][None]},
            target[b, y, x][None],
            torch.tensor([b]),
        )
        for b, y, x in pixels
    )
    expected = cast(Tensor, total) / len(pixels)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradients[LOGITS], student.grad)
    assert (some(student.grad) != 0).any(dim=1).sum() == len(pixels)


@pytest.mark.parametrize("mask", [None, SampleMask(0.5)])
def test_features_are_averaged_over_the_pixels_kept(mask: SampleMask | None) -> None:
    target = targets()
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    class Looking(Distiller):
        def extra_arguments(self, target: Tensor, index: Tensor) -> tuple[Tensor, ...]:
            return (index,)

        def forward(self, student: Tensor, teacher: Tensor, index: Tensor) -> Tensor:
            seen.append((student, teacher, index))
            return student.sum()

    distil(Looking(layer="small"), mask, target)
    ((student, teacher, index),) = seen
    pixels = kept_pixels(mask, target)
    for row, image in enumerate((0, 2)):  # image 1 has no pixel
        mine = [(y, x) for b, y, x in pixels if b == image]
        for features, got in ((outputs(0), student), (outputs(1), teacher)):
            near = torch.stack([features["small"][image, :, y // 2, x // 2] for y, x in mine])
            torch.testing.assert_close(got[row], near.mean(dim=0))
    assert index.tolist() == [4, 6]


@pytest.mark.parametrize("mask", [None, SampleMask(0.5)])
def test_maps_are_compared_where_pixels_are_kept(mask: SampleMask | None) -> None:
    """A position of the map, of four pixels, weighs as much as the share of them that is kept."""
    target = targets()
    share = torch.zeros(3, 3, 4, dtype=torch.float64)
    for b, y, x in kept_pixels(mask, target):
        share[b, y // 2, x // 2] += 0.25
    student, teacher = (outputs(seed)["small"][[0, 2]] for seed in (0, 1))  # 1 has no pixel
    share = share[[0, 2]]

    def attention(x: Tensor) -> Tensor:
        activity = x.square().mean(dim=1) * share.sqrt()
        return activity / activity.square().sum(dim=(1, 2), keepdim=True).sqrt()

    loss, gradients = distil(AT(layer="small"), mask, target)
    wanted = (attention(student) - attention(teacher)).square().sum() / share.sum()
    torch.testing.assert_close(loss, 1000 * wanted)
    assert (gradients["small"][1] == 0).all()
    vid = VID(layer="small", depth=1)
    vid.build(WIDTHS, WIDTHS, 12, 0)
    loss, _ = distil(vid, mask, target)
    weight = some(vid.regressors[0].get_submodule("0").get_parameter("weight")).detach()
    means = torch.einsum("oc,nchw->nohw", weight, student)
    rows = ((means - teacher).square() / 5 + math.log(5)) / 2
    torch.testing.assert_close(loss, (rows * share[:, None]).sum() / (7 * share.sum()))
    # Beside terms that take averages.
    both, _ = distil(Combined([AT(layer="small"), SP(layer="small")]), mask, target)
    alone = [distil(one, mask, target)[0] for one in (AT(layer="small"), SP(layer="small"))]
    torch.testing.assert_close(both, alone[0] + alone[1])


def test_a_feature_map_of_any_size_and_none() -> None:
    keep = torch.zeros(2, 6, 8, dtype=torch.bool)
    keep[1, :3, :4] = True
    features = torch.arange(2 * 3 * 5 * 7, dtype=torch.float32).view(2, 3, 5, 7).requires_grad_()
    found = averaged(features, keep, "x")
    assert found.shape == (1, 3)
    assert found[0, 0] < features[1, 0].mean()
    assert averaged(features[:, :, 0, 0], keep, "x").tolist() == [features[1, :, 0, 0].tolist()]
    torch.testing.assert_close(averaged(torch.ones(2, 3, 5, 7), keep, "x"), torch.ones(1, 3))
    assert averaged(features.half(), keep, "x").dtype == torch.float32
    assert averaged(features, torch.zeros_like(keep), "x").shape == (0, 3)
    with pytest.raises(UserError, match="layer 'x' gives 1 spatial dimensions, but the targets"):
        averaged(features[..., 0], keep, "x")


def test_three_dimensions() -> None:
    keep = torch.rand(2, 4, 4, 4) < 0.5
    features = torch.rand(2, 3, 2, 2, 2)
    fine = features.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    expected = torch.stack([fine[b][:, keep[b]].mean(dim=1) for b in range(2)])
    torch.testing.assert_close(averaged(features, keep, "x"), expected)


def test_one_label_a_sample_keeps_rows() -> None:
    keep = torch.tensor([True, False, True])
    found = kept_outputs({LOGITS: torch.eye(3), "x": torch.ones(3, 2, 4, 4)}, keep)
    assert found[LOGITS].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert found["x"].shape == (2, 2, 4, 4)


METHODS: dict[str, Callable[[], Distiller]] = {
    **methods("small", maps=True),
    "SP of logits": lambda: SP(layer="logits"),
    "PKT + KL": AuthorsPKT,
    "KD + FitNet": lambda: Combined([KD(), FitNet(layer="small")]),
}


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("nothing", ["ignored", "masked"])
def test_without_any_pixel_the_term_is_zero(make: Callable[[], Distiller], nothing: str) -> None:
    distiller = make()
    distiller.build(WIDTHS, WIDTHS, 12, 0)
    target = torch.full((3, *SIZE), IGNORED) if nothing == "ignored" else targets()
    mask = SampleMask(1.0) if nothing == "masked" else SampleMask(0.5)
    for sample_mask in (mask, None) if nothing == "ignored" else (mask,):
        loss, gradients = distil(distiller, sample_mask, target)
        assert loss == 0
        used = [gradient for gradient in gradients.values() if gradient is not None]
        assert used
        assert all((gradient == 0).all() for gradient in used)
        # Of two processes one may have pixels: their gradients are averaged part by part.
        assert all((some(part.grad) == 0).all() for part in distiller.parameters())


def test_relations_of_logits_are_between_images_not_pixels() -> None:
    keep = targets() != IGNORED
    found = kept_outputs(outputs(0), keep)
    assert found[LOGITS].shape == (int(keep.sum()), CLASSES)
    assert found[AVERAGED_LOGITS].shape == (2, CLASSES)


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_every_method_trains_with_a_sample_mask(
    make: Callable[[], Distiller], teacher: Path, tmp_path: Path
) -> None:
    owner = module(make())
    owner.frozen_teacher.load(teacher)
    mask: Mask = SampleMask(0.25)
    trainer = quiet_trainer(tmp_path, epochs=1, callbacks=[mask])
    before = weights(owner.student)
    trainer.fit(owner, datamodule=Streets())
    assert not equal(before, weights(owner.student))
    expected = {"val/miou", "val/teacher_miou", "val/tcjsd", "val/ncjsd", "val/kl"}
    assert expected <= set(trainer.callback_metrics)
    assert "val/accuracy" not in trainer.callback_metrics


def test_a_control_is_measured_on_the_pixels_that_its_sample_mask_leaves(
    teacher: Path, tmp_path: Path
) -> None:
    owner = module(None)
    owner.frozen_teacher.load(teacher)
    found = {}
    for removes in (None, *get_args(Removes)):
        mask = None if removes is None else [SampleMask(0.5, removes)]
        trainer = quiet_trainer(tmp_path, callbacks=mask)
        (found[removes],) = trainer.test(owner, datamodule=Streets(batch_size=2), verbose=False)
    rows, ready = [], Streets(batch_size=2)
    ready.setup("test")
    for batch in ready.batches("test"):
        counted = batch["target"] != IGNORED
        logits = owner.frozen_teacher.network(batch["teacher"]), owner(batch["student"])
        teacher_rows, student_rows = (values.movedim(1, -1)[counted] for values in logits)
        values = ncjsd(teacher_rows, student_rows, batch["target"][counted]).sort().values
        rows.append(values[: len(values) - round(0.5 * len(values))])
    expected = float(torch.cat(rows).double().mean())
    assert found["most_divergent"]["test/ncjsd"] == pytest.approx(expected, rel=1e-6)
    assert len({metrics["test/ncjsd"] for metrics in found.values()}) == 4
    for name in ("test/miou", "test/teacher_miou"):
        assert len({metrics[name] for metrics in found.values()}) == 1


def test_the_teachers_head_labels_pixels(teacher: Path, tmp_path: Path) -> None:
    """Features are compared where pixels are kept; the head's logits are those of the student."""
    owner = module(SimKD(), task_weight=0.0)
    owner.frozen_teacher.load(teacher)
    trainer = quiet_trainer(tmp_path, epochs=40, callbacks=[SampleMask(0.25)])
    trainer.fit(owner, datamodule=Streets())
    (measured,) = trainer.test(owner, datamodule=Streets(), verbose=False)
    assert measured["test/miou"] > 0.2
    head = owner.frozen_teacher.network.get_submodule("head").state_dict()
    assert equal(weights(owner.student.get_submodule("head.head")), dict(head))


def test_kd_learns_and_repeats(teacher: Path, tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        owner = module(KD(temperature=1.0))
        owner.frozen_teacher.load(teacher)
        trainer = quiet_trainer(tmp_path, epochs=12, callbacks=[SampleMask(0.25)])
        trainer.fit(owner, datamodule=Streets())
        runs.append((weights(owner), trainer.test(owner, datamodule=Streets(), verbose=False)))
    assert equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert runs[0][1][0]["test/miou"] > 0.5


def test_mixed_precision(teacher: Path, tmp_path: Path) -> None:
    of_maps = [AT(layer="small"), VID(layer="small"), ReviewKD(layer="small"), SimKD()]
    for distiller in (DKD(), Combined([KD(), FitNet(layer="small")]), *of_maps):
        owner = module(distiller)
        owner.frozen_teacher.load(teacher)
        trainer = quiet_trainer(tmp_path, precision="bf16-mixed", callbacks=[SampleMask(0.5)])
        trainer.fit(owner, datamodule=Streets())
        assert torch.isfinite(trainer.callback_metrics["train/loss"])
        assert torch.isfinite(trainer.callback_metrics["val/miou"])


def test_the_joint_pair_trains_on_pixels(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, epochs=2)
    pair = JointModule(teacher_network, student_network, CLASSES, optimizer)
    trainer.fit(pair, datamodule=Streets())
    assert "val/miou" in trainer.callback_metrics
    trainer.save_checkpoint(tmp_path / "joint.ckpt")
    owner = module(KD(), teacher="joint")
    owner.frozen_teacher.load(tmp_path / "joint.ckpt")
    assert owner.frozen_teacher.companion is not None


def test_a_network_that_labels_no_pixels(tmp_path: Path) -> None:
    def pooled() -> nn.Module:
        return nn.Sequential(Segmenter(3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    with pytest.raises(UserError, match=r"size \(\) for targets of the size \(6, 8\)"):
        quiet_trainer(tmp_path).fit(
            TeacherModule(pooled, CLASSES, "teacher", optimizer), datamodule=Streets()
        )


WORKER = """
from ntdh_bench.distillers import KD, Combined, FitNet
from ntdh_bench.masks import SampleMask
from tests.helpers import quiet_trainer
from tests.models.test_dense import Streets, module
owner = module(Combined([KD(1.0), FitNet(layer="small", weight=1.0)]))
owner.frozen_teacher.load(folder / "teacher.ckpt")
trainer = quiet_trainer(folder, epochs=2, devices=2, strategy="ddp", callbacks=[SampleMask(0.25)])
trainer.fit(owner, datamodule=Streets(batch_size=2))
measured = trainer.test(owner, datamodule=Streets(batch_size=2), verbose=False)
result = measured, {name: value for name, value in owner.state_dict().items()}
"""


def test_two_processes_agree_and_measure_like_one(teacher: Path, tmp_path: Path) -> None:
    """Ranks keep different numbers of pixels; mIoU and divergences are those of all pixels."""
    (tmp_path / "teacher.ckpt").write_bytes(teacher.read_bytes())
    (measured, state), (_, other) = run_two_processes(WORKER, tmp_path)
    assert equal(state, other)
    owner = module(Combined([KD(1.0), FitNet(layer="small", weight=1.0)]))
    owner.frozen_teacher.load(teacher)
    owner.distiller.build(WIDTHS, WIDTHS, 12, 0)  # type: ignore[union-attr]
    owner.load_state_dict(state)
    alone = quiet_trainer(tmp_path).test(owner, datamodule=Streets(), verbose=False)
    assert alone[0] == pytest.approx(measured[0], abs=1e-6)
