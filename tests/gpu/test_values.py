"""What a GPU computes, against the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from ntdh_bench.batch import Inputs, PairedBatch, Split
from ntdh_bench.datamodules.paired import PairedDataModule
from ntdh_bench.distillers import Distiller
from ntdh_bench.divergence import Comparison
from ntdh_bench.interventions import (
    AlignNontarget,
    ClassNontarget,
    Intervention,
    ScaleTarget,
    ShiftTarget,
    ShuffleNontarget,
    ShuffleTarget,
    Source,
    UniformNontarget,
)
from ntdh_bench.layers import mask_layer
from ntdh_bench.masks import FeatureMask, SampleMask
from ntdh_bench.masks.base import Removes
from ntdh_bench.masks.feature_mask import Fill
from ntdh_bench.masks.saliency import FeatureSaliency
from ntdh_bench.seeding import uniform
from tests.gpu.device import GPU, begun, mnist, needs_gpu
from tests.helpers import CLASSES, FEATURES, held, methods, network, small_data
from tests.typed import some

pytestmark = needs_gpu
METHODS = methods("hidden2")
ROWS, WIDTH = 64, 6
INTERVENTIONS = (
    *(kind(0.5) for kind in (ShuffleNontarget, AlignNontarget, UniformNontarget, ClassNontarget)),
    ShuffleTarget(0.5), ShiftTarget(2.0), ScaleTarget(4.0),
)  # fmt: skip


def values(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tensor(inputs: Inputs) -> Tensor:
    assert isinstance(inputs, Tensor)
    return inputs


@pytest.mark.parametrize("shape", [(1,), (7,), (1, 28, 28), (3, 32, 33)])
def test_noise_has_the_bits_of_the_cpu(shape: tuple[int, ...]) -> None:
    index = torch.cat([torch.arange(100), torch.tensor([2**31, 2**40 + 1, 2**63 - 1])])
    for seed, epoch in [(0, 0), (1, 7), (2**40, 49)]:
        noise = uniform(seed, "noise/train", epoch, index.to(GPU), shape)
        assert noise.device == GPU
        assert torch.equal(noise.cpu(), uniform(seed, "noise/train", epoch, index, shape))


@pytest.mark.parametrize("make", [
    mnist, lambda: mnist(student_input="rgb", student_noise=0.3), lambda: mnist(batch_size=None),
    small_data,
])  # fmt: skip
def test_batches_are_made_there_and_have_the_bits_of_the_cpu(
    make: Callable[[], PairedDataModule],
) -> None:
    here, there = make(), make()
    here.setup()
    begun(there)
    splits: list[Split] = ["train", "val", "test"]
    for split in splits:
        pairs = zip(there.batches(split, epoch=3), here.batches(split, epoch=3), strict=True)
        for found, wanted in pairs:
            assert found["index"].device == found["target"].device == GPU
            for name in ("teacher", "student", "target", "index"):
                assert torch.equal(tensor(found[name]).cpu(), tensor(wanted[name]))
    there.teardown("fit")
    assert next(there.batches("train"))["target"].device.type == "cpu"
    assert here.fingerprint == there.fingerprint


def distilled(
    distiller: Distiller, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, list[Tensor]]:
    """Loss, and its gradients for the student's outputs and the distiller's own weights."""
    distiller = copy.deepcopy(distiller).to(device, dtype)
    shapes = {"logits": CLASSES, "hidden2": WIDTH}
    student, teacher = (
        {
            name: values(seed + width, ROWS, width, dtype=dtype).to(device).requires_grad_(wanted)
            for name, width in shapes.items()
        }
        for seed, wanted in ((0, True), (100, False))
    )
    target, index = torch.arange(ROWS) % CLASSES, torch.arange(ROWS)
    loss = distiller.distill(student, teacher, target.to(device), index.to(device))
    wanted = [student[name] for name in distiller.student_layers] + [*distiller.parameters()]
    return loss.detach().cpu(), [grad.cpu() for grad in torch.autograd.grad(loss, wanted)]


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
@pytest.mark.parametrize("name", METHODS)
def test_losses_and_gradients(name: str, dtype: torch.dtype, close: float) -> None:
    distiller = METHODS[name]()
    widths = {layer: CLASSES if layer == "logits" else WIDTH for layer in distiller.student_layers}
    distiller.build(widths, widths, ROWS, 0)
    here = distilled(distiller, torch.device("cpu"), dtype)
    torch.testing.assert_close(distilled(distiller, GPU, dtype), here, rtol=close, atol=close)


def test_divergences() -> None:
    logits = values(0, ROWS, CLASSES).double() * 4, values(1, ROWS, CLASSES).double() * 4
    target = torch.arange(ROWS) % CLASSES
    here = Comparison(*logits, target)
    there = Comparison(*(x.to(GPU) for x in logits), target.to(GPU))
    for name in ("kl", "tckl", "nckl", "tcjsd", "ncjsd"):
        found, wanted = getattr(there, name)().cpu(), getattr(here, name)()
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("removes", ["most_divergent", "least_divergent", "random"])
def test_a_sample_mask_keeps_the_same_rows(removes: Removes) -> None:
    mask = SampleMask(0.25, removes, seed=3)
    rows = values(0, ROWS, CLASSES), values(1, ROWS, CLASSES), torch.arange(ROWS) % CLASSES
    there = mask.keep_rows(*(x.to(GPU) for x in rows), 2, 5)
    assert there.device == GPU
    assert there.tolist() == mask.keep_rows(*rows, 2, 5).tolist()


@pytest.mark.parametrize("layer", ["input", "hidden1"])
def test_saliency(layer: str) -> None:
    data = small_data()
    torch.manual_seed(0)
    pair = network(), network()
    algorithm = FeatureSaliency(layer, permutations=2)
    here = algorithm.compute(*pair, data.batches("train"))
    begun(data)
    there = algorithm.compute(*(net.to(GPU) for net in pair), data.batches("train"))
    assert some(there).unmasked == pytest.approx(here.unmasked, rel=1e-5)
    torch.testing.assert_close(there.values, here.values, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("layer", ["input", "hidden1"])
@pytest.mark.parametrize("fill", ["rescale", "mean"])
def test_removed_features_are_filled_alike(fill: Fill, layer: str) -> None:
    data = small_data()
    torch.manual_seed(0)
    teacher, inputs = network(), values(0, ROWS, FEATURES)
    logits = []
    for device in (torch.device("cpu"), GPU):
        begun(data)
        mask = FeatureMask(0.5, "random", layer, fill=fill)
        mask.prepare(held(teacher.to(device)), data)
        handle = mask_layer(teacher, layer, mask.layer_mask())
        logits.append(teacher(inputs.to(device)).cpu())
        handle.remove()
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("intervention", INTERVENTIONS, ids=lambda i: type(i).__name__)
def test_interventions_choose_the_same_there(intervention: Intervention) -> None:
    logits, target = values(0, ROWS, WIDTH), torch.arange(ROWS) % WIDTH
    found = []
    for device in (torch.device("cpu"), GPU):
        there, labels = logits.to(device), target.to(device)

        def rows(
            split: Split, there: Tensor = there, labels: Tensor = labels
        ) -> Iterator[tuple[Tensor, Tensor]]:
            yield there, labels

        intervention.bind(Source(0, 255, rows, torch.nn.Identity()))
        index = torch.arange(ROWS, device=device)
        batch = PairedBatch(teacher=there, student=there.roll(1, 0), target=labels, index=index)
        found.append(intervention(there, batch, "train").cpu())
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)
