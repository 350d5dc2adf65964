"""Segmentation losses against plain loops, reference values (NTDH_GOLDEN) and degenerate input."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ntdh_bench.distillers.functional import kd
from ntdh_bench.divergence import TargetError, flatten_dense
from ntdh_bench.models.losses import focal, lovasz_softmax, perception_aware
from tests.logits import CLASSES, draw


def rows(seed: int = 0, scale: float = 2.0, count: int = 60) -> tuple[Tensor, Tensor]:
    """Logits ``(N, C)`` and targets ``(N,)``; class 5 is absent."""
    logits, target = flatten_dense(*draw((count, CLASSES), seed, scale))
    return logits.detach().requires_grad_(), target


def gradient(value: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, inputs)


def naive_jaccard(wrong: np.ndarray, foreground: np.ndarray) -> float:
    """Jaccard loss of a class when exactly the elements ``wrong`` are misclassified."""
    missed, invented = (wrong & foreground).sum(), (wrong & ~foreground).sum()
    return float((missed + invented) / (foreground.sum() + invented))


def naive_lovasz(logits: Tensor, target: Tensor) -> float:
    """Lovász extension as the mean of the set function over thresholds (the Choquet integral)."""
    probability, labels = logits.detach().softmax(1).numpy(), target.numpy()
    losses = []
    for label in np.unique(labels):
        foreground = labels == label
        errors = np.where(foreground, 1 - probability[:, label], probability[:, label])
        levels = np.concatenate([[0.0], np.sort(errors)])
        parts = [
            (high - low) * naive_jaccard(errors > low, foreground) for low, high in pairwise(levels)
        ]
        losses.append(sum(parts))
    return float(np.mean(losses))


def test_focal_is_what_its_formula_says() -> None:
    logits, target = rows()
    weight = torch.linspace(0.5, 2.0, CLASSES)
    total = 0.0
    for p, label in zip(logits.detach().softmax(1), target, strict=True):
        k = float(p[label])
        total -= float(weight[label]) * (1 - k) ** 3 * math.log(k)
    expected = total / len(target)
    assert focal(logits, target, weight, gamma=3.0).item() == pytest.approx(expected)


def test_focal_without_exponent_is_cross_entropy() -> None:
    logits, target = rows()
    expected = F.cross_entropy(logits, target)
    actual = focal(logits, target, gamma=0.0, floor=0.0)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(gradient(actual, logits), gradient(expected, logits))


def test_lovasz_is_the_extension_of_the_jaccard_loss() -> None:
    for seed in range(3):
        logits, target = rows(seed)
        assert lovasz_softmax(logits, target).item() == pytest.approx(naive_lovasz(logits, target))
    hard = F.one_hot(torch.tensor([0, 1, 1, 1, 2]), 3) * 100.0
    target = torch.tensor([0, 0, 1, 1, 2])
    mean = (1 / 2 + 1 / 3 + 0) / 3  # of 1 - IoU of the three classes
    assert lovasz_softmax(hard, target).item() == pytest.approx(mean)


def test_lovasz_keeps_its_digits_in_single_precision() -> None:
    logits, target = rows(count=60_000)
    exact = gradient(lovasz_softmax(logits, target), logits)[0]
    single = logits.detach().float().requires_grad_()
    actual = gradient(lovasz_softmax(single, target), single)[0]
    assert (actual - exact).norm() < 1e-5 * exact.norm()


@pytest.mark.parametrize("loss", [focal, lovasz_softmax])
def test_gradients_are_right_and_the_order_is_of_no_matter(loss: Callable[..., Tensor]) -> None:
    logits, target = rows(count=24)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits)
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(logits[order], target[order]), loss(logits, target))


@pytest.mark.parametrize("loss", [focal, lovasz_softmax])
@pytest.mark.parametrize("count", [0, 1])
def test_none_or_one_row(loss: Callable[..., Tensor], count: int) -> None:
    logits = rows()[0][:count].detach().requires_grad_()
    value = loss(logits, torch.full((count,), 3))
    slope = gradient(value, logits)[0]
    assert value.shape == ()
    assert bool(value > 0) == bool(count)
    assert slope.isfinite().all()
    assert bool(slope.any()) == bool(count)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_is_finite_where_the_class_is_certain(gamma: float) -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [1e30, -1e30]], requires_grad=True)
    value = focal(logits, torch.tensor([0, 0, 0]), gamma=gamma, floor=0.0)
    assert value.item() == pytest.approx(2e4 / 3)
    assert gradient(value, logits)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("name", ["focal", "lovasz", "perception_aware"])
def test_huge_logits_and_half_precision(name: str, scale: float, dtype: torch.dtype) -> None:
    source, target = rows(scale=scale)
    logits = source.detach().to(dtype).clamp(-6e4, 6e4).requires_grad_()
    losses = {
        "focal": lambda x: focal(x, target),
        "lovasz": lambda x: lovasz_softmax(x, target),
        "perception_aware": lambda x: perception_aware(x, x.detach().flip(1)),
    }
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = losses[name](logits)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient(value, logits)[0].isfinite().all()
    exact = losses[name](logits.detach().double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)


def one_by_one(first: Tensor, second: Tensor, threshold: float = 0.7) -> Tensor:
    """The perception-aware loss of every row alone."""
    pairs = zip(first.split(1), second.split(1), strict=True)
    return torch.stack([perception_aware(*pair, threshold) for pair in pairs])


def test_the_more_confident_branch_guides_the_other() -> None:
    sure, unsure = [8.0, 0.0, 0.0], [0.5, 0.2, 0.0]
    first = torch.tensor([sure, unsure, unsure, sure], requires_grad=True)
    second = torch.tensor([unsure, sure, [0.0, 0.5, 0.2], sure], requires_grad=True)
    values = one_by_one(first, second)
    assert (values > 0).tolist() == [True, True, False, False]
    torch.testing.assert_close(values.mean(), perception_aware(first, second))
    of_first, of_second = gradient(values.sum(), first, second)
    assert of_first.any(dim=1).tolist() == [False, True, False, False]
    assert of_second.any(dim=1).tolist() == [True, False, False, False]
    torch.testing.assert_close(one_by_one(second, first), values)


def test_perception_aware_weight_is_the_lead_in_confidence() -> None:
    first, _ = draw((3, CLASSES), seed=1, scale=6.0)
    second, _ = draw((3, CLASSES), seed=2)
    for x, y, value in zip(first, second, one_by_one(first, second, 0.0), strict=True):
        p, q = x.softmax(0), y.softmax(0)
        confidence = [1 + (r * r.log()).sum() / math.log(CLASSES) for r in (p, q)]
        lead = abs(confidence[0] - confidence[1])
        guide, other = (x, y) if confidence[0] > confidence[1] else (y, x)
        expected = lead * kd(other[None], guide[None], 1.0) / CLASSES
        torch.testing.assert_close(value, expected)


def test_perception_aware_of_no_rows() -> None:
    first, second = rows()[0], rows(1)[0][:0]
    nothing = perception_aware(first[:0], second)
    assert nothing == 0
    assert not gradient(nothing, first)[0].any()


def test_what_does_not_fit_is_refused() -> None:
    logits, target = rows()
    for loss in (focal, lovasz_softmax):
        with pytest.raises(ValueError, match="do not fit"):
            loss(logits, target[1:])
        for label in (CLASSES, -1):
            with pytest.raises(TargetError, match="expected 0 to 5"):
                loss(logits, torch.full_like(target, label))
    with pytest.raises(ValueError, match="gamma is -1"):
        focal(logits, target, gamma=-1)
    with pytest.raises(ValueError, match="floor is 1"):
        focal(logits, target, floor=1.0)
    with pytest.raises(ValueError, match="6 classes"):
        focal(logits, target, torch.ones(5))
    with pytest.raises(ValueError, match="do not fit"):
        perception_aware(logits, logits[:1])
    with pytest.raises(ValueError, match="at least 2 classes"):
        perception_aware(logits[:, :1], logits[:, :1])


def golden_arrays(folder: Path, name: str) -> dict[str, Tensor]:
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        return {
            key: torch.from_numpy(arrays[key]) for key in arrays if arrays[key].dtype.kind != "U"
        }


def close(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == expected.dtype == torch.float64
    assert (actual - expected).abs().max() <= 1e-6 * expected.abs().max()


def by_logits(probability: Tensor, slope: Tensor) -> Tensor:
    """The chain rule through softmax, for reference gradients at probabilities."""
    return probability * (slope - (probability * slope).sum(dim=1, keepdim=True))


@pytest.mark.parametrize("peer", ["pmf", "berman", "2dpass_flat"])
def test_lovasz_reference(golden: Path, peer: str) -> None:
    data = golden_arrays(golden, "lovasz")
    probability = data["base.in_probas"]
    logits = probability.log().requires_grad_()
    value = lovasz_softmax(*flatten_dense(logits, data["base.in_labels"], ignore_index=0))
    close(value, data[f"base.ignore0_present.{peer}.loss_f64"])
    expected = by_logits(probability, data[f"base.ignore0_present.{peer}.grad_s_f64"])
    close(gradient(value, logits)[0], expected)


def test_focal_reference(golden: Path) -> None:
    data = golden_arrays(golden, "focal")
    probability = data["in_probas"]
    logits = probability.log().requires_grad_()
    weight = data["semantickitti.focal_alpha"]
    value = focal(*flatten_dense(logits, data["in_labels"], ignore_index=0), weight)
    close(value, data["gamma2_kitti_alpha_mask.pmf.loss_f64"])
    expected = by_logits(probability, data["gamma2_kitti_alpha_mask.pmf.grad_s_f64"])
    close(gradient(value, logits)[0], expected)


def test_perception_aware_reference(golden: Path) -> None:
    data = golden_arrays(golden, "perception_aware")
    lidar = data["in_lidar_logits"].requires_grad_()
    camera = data["in_camera_logits"].requires_grad_()
    rows = [x.movedim(1, -1).flatten(0, -2) for x in (lidar, camera)]
    value = perception_aware(rows[0], rows[1], float(data["hp_tau"]))
    close(value, data["pmf.loss_f64"])
    # The reference detaches nothing; with a constant guide the gradient is that of cross-entropy.
    for student, guide, weight in ((lidar, camera, "img"), (camera, lidar, "pcd")):
        surprise = -guide.detach().softmax(1) * student.softmax(1).clamp(min=1e-8).log()
        weighted = surprise * data[f"pmf.{weight}_guide_weight_f64"][:, None]
        [slope] = torch.autograd.grad(value, student, retain_graph=True)
        close(slope, gradient(weighted.mean(), student)[0])
