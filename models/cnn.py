"""Convolutional networks of the RAVDESS experiments: faces and speech."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from math import prod

from torch import nn

_CHANNELS = (32, 64, 128)
_POOLED = (7, 14)


class _EmotionCNN(nn.Sequential):
    """Three convolutions, pooled to 128 x 7 x 14, and three linear layers; Glorot's weights.

    Args:
        in_channels: of the input.
        kernels: side of the three kernels, all with a padding of 1.
        num_classes: logits.
    """

    def __init__(self, in_channels: int, kernels: tuple[int, int, int], num_classes: int) -> None:
        channels = pairwise([in_channels, *_CHANNELS])
        convolutions = [
            [nn.Conv2d(before, after, kernel, padding=1), nn.ReLU()]
            for (before, after), kernel in zip(channels, kernels, strict=True)
        ]
        for convolution in convolutions[:2]:
            convolution.append(nn.MaxPool2d(2))
        conv1, conv2, conv3 = convolutions
        layers: list[tuple[str, nn.Module]] = [
            ("conv1", nn.Sequential(*conv1)),
            ("conv2", nn.Sequential(*conv2)),
            ("conv3", nn.Sequential(*conv3)),
            ("pool", nn.AdaptiveMaxPool2d(_POOLED)),
            ("flatten", nn.Flatten()),
            ("hidden1", nn.Sequential(nn.Linear(_CHANNELS[-1] * prod(_POOLED), 1024), nn.ReLU())),
            ("hidden2", nn.Sequential(nn.Linear(1024, 128), nn.ReLU())),
            ("head", nn.Linear(128, num_classes)),
        ]
        super().__init__(OrderedDict(layers))
        # PyTorch's own initial weights are so small that SGD stays at chance for the first hundred
        # steps or so, and He's so large that, on images, its first step can end all learning.
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)


class ImageCNN(_EmotionCNN):
    """Face classifier ``(B, 3, H, W) -> (B, num_classes)``, H and W at least 4.

    The paper's RAVDESS image network: 13,071,560 parameters (Table I), 1.33 billion multiply-adds
    for one image of its size, 256 x 512. Convolutions are all but 1 % of them and their number goes
    with H·W, while 98 % of the parameters, in ``hidden1``, do not depend on it. Layers are called
    ``conv1`` to ``conv3`` (after ReLU and pooling), ``pool``, ``flatten``, ``hidden1`` (1024 wide),
    ``hidden2`` (128) and ``head``.

    Args:
        num_classes: logits.
    """

    def __init__(self, num_classes: int = 8) -> None:
        super().__init__(3, (3, 3, 3), num_classes)


class AudioCNN(_EmotionCNN):
    """Speech classifier ``(B, 1, coefficients, frames) -> (B, num_classes)``, both at least 20.

    The paper's RAVDESS audio network: 13,236,104 parameters (Table I), 0.20 billion multiply-adds
    for one clip of its size, 40 MFCCs x 256 frames. The layers are called as those of
    :class:`ImageCNN`.

    Args:
        num_classes: logits.
    """

    def __init__(self, num_classes: int = 8) -> None:
        super().__init__(1, (7, 5, 5), num_classes)
