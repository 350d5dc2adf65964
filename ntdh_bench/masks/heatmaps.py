"""Which input pixels a feature mask takes from the teacher (Fig. 10).

The paper shows "the masked feature regions" without saying how hidden features become pixels; its
code looks at input gradients through the masked teacher. Two maps are made here, each as a mean
over all images and for every class:

- :func:`removed_maps`: what is removed. At the input, the removed pixels themselves. At a hidden
  layer, the part of the gradient of the target's logit that reaches the pixels *through the
  removed units*; with the part through the kept units it adds up to the whole gradient.
- :func:`gradient_maps`: what is left, the authors' way. The gradient through the masked teacher.

All gradients enter as absolute values, summed over colour channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ntdh_bench.batch import PairedBatch
from ntdh_bench.layers import INPUT, LayerMask, change_layer, channels, mask_layer


class ClassMeans:
    """Means of ``(H, W)`` maps: over all samples first, then over those of each class.

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int) -> None:
        self._sums: Tensor | None = None
        self._counts = torch.zeros(1 + num_classes, dtype=torch.float64)

    def update(self, maps: Tensor, target: Tensor) -> None:
        """Add maps ``(B, H, W)`` of samples with targets ``(B,)``."""
        maps, target = maps.detach().double().cpu(), target.cpu()
        if self._sums is None:
            self._sums = torch.zeros(len(self._counts), *maps.shape[1:], dtype=torch.float64)
        self._sums[1:].index_add_(0, target, maps)
        self._counts[1:] += torch.bincount(target, minlength=len(self._counts) - 1)

    def compute(self) -> Tensor:
        """Return float64 ``(1 + C, H, W)``; zeros for a class without samples.

        Raises:
            ValueError: nothing was added.
        """
        if self._sums is None:
            raise ValueError("no samples to average")
        sums, counts = self._sums.clone(), self._counts.clone()
        sums[0], counts[0] = sums[1:].sum(0), counts[1:].sum()
        return sums / counts.clamp(min=1).view(-1, 1, 1)


def gradient_maps(
    network: nn.Module,
    images: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    layer: str = INPUT,
    keep: Tensor | None = None,
) -> Tensor:
    """Return the mean absolute gradient of the target's logit by the pixels: ``(1 + C, H, W)``.

    Args:
        network: in eval mode; returns logits ``(B, C)``.
        images: pairs of images ``(B, channels, H, W)`` and targets ``(B,)``, on its device.
        num_classes: C.
        layer: layer that is masked.
        keep: bool ``(D,)``, the features that stay, others are zeroed; ``None``: no mask.
    """
    handle = None if keep is None else mask_layer(network, layer, LayerMask.zeroing(keep))
    return _mean_gradients(network, images, num_classes, handle)


def removed_maps(
    network: nn.Module,
    images: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    layer: str,
    keep: Tensor,
) -> Tensor:
    """Return what a mask removes, in pixels: float64 ``(1 + C, H, W)``, first the average.

    At the input the average is the map of removed pixels itself (the share of a pixel's channels),
    the same for every image; for a class it is weighted by the mean image of that class, scaled to
    [0, 1]. At a hidden layer it is the mean absolute gradient through the removed units.

    Args:
        network: unmasked, in eval mode; returns logits ``(B, C)``.
        images: pairs of images ``(B, channels, H, W)`` and targets ``(B,)``, on its device.
        num_classes: C.
        layer: layer that is masked.
        keep: bool ``(D,)``, the features that stay.
    """
    if layer == INPUT:
        return _removed_pixels(images, num_classes, keep)
    return _mean_gradients(network, images, num_classes, _only_through(network, layer, ~keep))


def _removed_pixels(
    images: Iterable[tuple[Tensor, Tensor]], num_classes: int, keep: Tensor
) -> Tensor:
    means = ClassMeans(num_classes)
    shape: torch.Size | None = None
    for values, target in images:
        shape = values.shape[1:]
        means.update(values.mean(1), target)
    ink = means.compute()
    assert shape is not None
    low, high = ink[1:].min(), ink[1:].max()
    ink = (ink - low) / (high - low).clamp(min=1e-12)
    ink[0] = 1.0
    return ink * (~keep).cpu().view(shape).double().mean(0)


def _mean_gradients(
    network: nn.Module,
    images: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    handle: RemovableHandle | None,
) -> Tensor:
    means = ClassMeans(num_classes)
    try:
        with torch.enable_grad():
            for values, target in images:
                means.update(_input_gradient(network, values, target).abs().sum(1), target)
    finally:
        if handle is not None:
            handle.remove()
    return means.compute()


def _input_gradient(network: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    images = images.detach().requires_grad_()
    logit = network(images).gather(1, target.unsqueeze(1)).sum()
    return torch.autograd.grad(logit, images)[0]


def _only_through(network: nn.Module, layer: str, units: Tensor) -> RemovableHandle:
    """Let gradients pass ``layer`` through some units only, without changing its output."""
    return change_layer(
        network, layer, lambda values: values.where(channels(units, values), values.detach())
    )


def first_images(
    batches: Iterable[PairedBatch], samples: int, device: torch.device, ignore_index: int = 255
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the teacher's images and targets of at least the first ``samples`` samples."""
    seen = 0
    for batch in batches:
        images, target = batch["teacher"], batch["target"]
        assert isinstance(images, Tensor)
        counts = target != ignore_index
        yield images[counts].to(device), target[counts].to(device)
        seen += int(counts.sum())
        if seen >= samples:
            return


def are_images(batch: PairedBatch) -> bool:
    """Whether the teacher sees grey or colour images with one target each."""
    images = batch["teacher"]
    return (
        isinstance(images, Tensor)
        and images.dim() == 4
        and images.shape[1] in (1, 3)
        and batch["target"].dim() == 1
    )
