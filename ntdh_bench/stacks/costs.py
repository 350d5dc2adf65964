"""What a member of a stack costs, estimated from its config. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from ntdh_bench.composition import Config, arguments_of
from ntdh_bench.stacks.requirements import is_among, networks_of

# Floating-point operations of a member's step. On one core 35-64-64-8 at batch 64 (3e6) gains
# ninefold from a stack; 50-16-16-4 on 5,000 rows (3e7) nothing in its arithmetic, but twofold with
# what a Trainer does at every step; 784-512-256-10 at batch 128 (4e8) what members of a seed share,
# batches and noise, at the price of hours until the first record.
_FILLS_A_CORE = 1e8
_FULL_BATCH = 10_000  # rows, where the config does not say how many a batch has
_FLOAT = 4  # bytes
_COPIES = 6  # of the weights: they, gradients, two of an optimiser, the best, a checkpoint's
_PASSES = 3  # of the activations: before and after the nonlinearity, gradients
_SAMPLES = 60_000  # rows of CRD's memory, which depend on the data: as many as MNIST has
_CRD = ("ntdh_bench.distillers.CRD", "ntdh_bench.paper.authors.AuthorsCRD")
_MLP = ("ntdh_bench.models.MLPClassifier",)
_WIDTH = 128  # features of a fusion, and of the convolutional networks
_CLASSES = 100  # logits, more than any of these data have
_AUDIO = ("ntdh_bench.models.AudioCNN",)
_SERIES = ("ntdh_bench.models.SeriesCNN",)
_STEPS = 100  # of a series: the data say how many there are


class _Size(NamedTuple):
    """Parameters of a network, and values of a sample's input and layers."""

    parameters: float
    activations: float


# At an image of 256 x 512 and at 40 x 256 coefficients: 32 channels, 64 on a quarter of the
# pixels, and 128 on a sixteenth.
_IMAGE_CNN = _Size(13_071_560, 56 * 256 * 512)
_AUDIO_CNN = _Size(13_236_104, 56 * 40 * 256)


def fills_a_core(config: Config) -> bool:
    """Return whether a member's arithmetic keeps a core busy, so that K of them take K times.

    Convolutions of images do, those of short series do not. Of a multilayer perceptron a step is
    6 operations a parameter and row.
    """
    _, networks = networks_of(arguments_of(config["model"]))
    networks = [network for network in networks if not is_among(network, _SERIES)]
    if not all(is_among(network, _MLP) for network in networks):
        return True
    parameters = max((_size(network).parameters for network in networks), default=0.0)
    return 6 * _rows(config) * parameters > _FILLS_A_CORE


def member_bytes(config: Config) -> float:
    """Return about how much memory a member takes, in bytes; more rather than less.

    That is all networks with all that training keeps of them, a batch with its activations, and
    CRD's memory and scores, for which a data set of 60,000 samples is assumed.
    """
    fusions, networks = networks_of(arguments_of(config["model"]))
    sizes = [_size(network) for network in networks]
    sizes += [_fusion_size(fusion, networks) for fusion in fusions]
    values = sum(_COPIES * s.parameters + _PASSES * _rows(config) * s.activations for s in sizes)
    distiller = arguments_of(config["model"]).get("distiller")
    if is_among(distiller, _CRD):
        width = arguments_of(distiller).get("feat_dim", 128)
        values += 2 * _SAMPLES * (_number(width) + _rows(config))
    return _FLOAT * values


def _size(network: Any) -> _Size:
    if is_among(network, _SERIES):
        return _series_size(arguments_of(network))
    if not is_among(network, _MLP):
        return _AUDIO_CNN if is_among(network, _AUDIO) else _IMAGE_CNN
    given = arguments_of(network)
    hidden = given.get("hidden")
    if not isinstance(hidden, list):
        return _Size(math.inf, math.inf)  # the run will be refused
    return _perceptron_size([given.get("in_features"), *hidden, given.get("num_classes")])


def _perceptron_size(layers: Sequence[Any]) -> _Size:
    widths = [_number(width) for width in layers]
    parameters = sum((before + 1) * after for before, after in pairwise(widths))
    return _Size(parameters, sum(widths))


def _series_size(given: Mapping[str, Any]) -> _Size:
    """Return the size of a SeriesCNN: its windows, convolutions, and linear layers."""
    channels, kernel = _number(given.get("channels")), _number(given.get("kernel", 5))
    widths = given.get("widths", [32, 64])
    if not isinstance(widths, list) or len(widths) != 2:
        return _Size(math.inf, math.inf)  # the run will be refused
    first, second = map(_number, widths)
    linear = _perceptron_size([4 * second, given.get("hidden", 64), given.get("num_classes")])
    convolutions = (kernel * channels + 1) * first + (kernel * first + 1) * second
    values = _STEPS * ((kernel + 1) * (channels + first) + 2 * second)
    return _Size(convolutions + linear.parameters, values + linear.activations)


def _fusion_size(fusion: Any, networks: Sequence[Any]) -> _Size:
    """Return the size of what a fusion has beside its networks: of a gated one, the largest."""
    width = _number(arguments_of(fusion).get("width", _WIDTH))
    features = sum(_features(network) for network in networks)
    return _Size((2 * features + _CLASSES) * width, features + 4 * width)


def _features(network: Any) -> float:
    hidden = arguments_of(network).get("hidden", _WIDTH)
    return _number(hidden[-1] if isinstance(hidden, list) and hidden else hidden)


def _rows(config: Config) -> float:
    batch_size = arguments_of(config.get("data")).get("batch_size")
    return _FULL_BATCH if batch_size is None else _number(batch_size)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.inf
