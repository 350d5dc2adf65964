"""What a run costs at published sizes: a model, from the networks themselves, without their data.

``python -m tests.benchmarks.costs`` prints the tables of docs/costs.md. Operations, and bytes kept
for backward, are counted by running a step on tensors without memory; times and transfers follow by
the assumptions of :class:`Machine`, which test_costs.py compares with this machine's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ntdh_bench import models
from ntdh_bench.commands.cache import size_words
from ntdh_bench.composition import find_config, read_config

GIB = 2**30
#: Bytes that optimisers keep for a parameter of four, by class.
_OPTIMIZER_BYTES = {"torch.optim.SGD": 4, "torch.optim.Adam": 8, "torch.optim.AdamW": 8}


class DataSet(NamedTuple):
    """A training split of published size, as the data module gives it.

    Attributes:
        config: names networks, batch size and epochs.
        samples: of the training split.
        teacher: shapes of a sample's inputs; a mapping where a network takes several.
        student: likewise.
        target: shape of a sample's targets.
        stored: bytes of a sample in the cache.
        epochs: over the split.
        batch: samples a step and process.
    """

    config: str
    samples: int
    teacher: Any
    student: Any
    target: tuple[int, ...]
    stored: int
    epochs: int
    batch: int


class Machine(NamedTuple):
    """What a device does.

    Attributes:
        flops: operations a second that networks of this kind reach.
        memory: bytes a second of its memory.
        step: seconds a step takes at least, whatever is computed.
        link: bytes a second to and from another process.
        disk: bytes a second of the cache.
    """

    flops: float
    memory: float
    step: float
    link: float
    disk: float


#: Modelled, not measured: 15 % of an H100's 495 TFLOP/s (TF32) and its 3.35 TB/s, kernel launches
#: of a step, NVLink inside a node of eight, 400 Gbit/s InfiniBand beyond, and a network disk.
GPU = Machine(flops=7.4e13, memory=3.35e12, step=8e-3, link=2e11, disk=2e9)
BETWEEN_NODES = GPU._replace(link=4e10)
GPUS_OF_A_NODE = 8
#: How often what is kept for backward crosses the memory: written, read by the next layer and by
#: backward, and a gradient of its size written and read.
_PASSES = 5

_PIXELS = {"rgb": (3, 480, 640), "depth": (1, 480, 640)}
DATA_SETS = {
    "Synthetic": DataSet("synthetic_converged", 5_000, (50,), (50,), (), 404, 300, 5_000),
    "MNIST / MNIST-M": DataSet("mnist_dkd", 54_000, (784,), (784,), (), 1_569, 50, 128),
    "RAVDESS": DataSet(
        "ravdess_dkd", 960, (1, 40, 256), (3, 256, 512), (), 434_000, 40, 64
    ),
    "SemanticKITTI": DataSet(
        "semantickitti_dkd", 17_929, (3, 256, 1024), (5, 256, 1024), (256, 1024), 1_700_000, 50, 4
    ),
    "NYU Depth V2, scenes": DataSet(
        "nyuv2_ssc_kd",
        715,
        {"image": _PIXELS["rgb"], "position": (480, 640)},
        {"image": _PIXELS["depth"], "position": (480, 640)},
        (60, 36, 60),
        480 * 640 * (3 + 2 + 4) + 60 * 36 * 60 * 3,
        50,
        4,
    ),
    "NYU Depth V2, pixels": DataSet(
        "nyuv2_seg_dkd", 715, (3, 240, 320), (1, 240, 320), (240, 320), 240 * 320 * 6, 50, 8
    ),
}  # fmt: skip


class Step(NamedTuple):
    """What a step of one network does for one batch.

    Attributes:
        flops: floating-point operations, forward and backward.
        forward: those of forward alone.
        kept: bytes of tensors that forward keeps for backward.
        parameters: of the network.
    """

    flops: int
    forward: int
    kept: int
    parameters: int


class Cost(NamedTuple):
    """What a run (a teacher, and a student of it) costs on some devices.

    Attributes:
        hours: wall time.
        gib: memory of each device.
        read: GiB that all processes read from the cache.
        sent: GiB of gradients that each process sends.
    """

    hours: float
    gib: float
    read: float
    sent: float


def networks_of(config: str) -> tuple[nn.Module, nn.Module, str]:
    """Build teacher and student of a shipped config, and name the optimiser."""
    arguments = read_config(find_config(config))["model"]["init_args"]
    built = []
    for name in ("teacher_network", "student_network"):
        network = getattr(models, arguments[name]["class_path"].rpartition(".")[2])
        built.append(network(**arguments[name].get("init_args", {})))
    return built[0], built[1], arguments["optimizer"]["class_path"]


def empty(shape: Any, batch: int, device: str = "meta") -> Any:
    """Return inputs of a shape, or of several by name; positions are whole numbers."""
    if isinstance(shape, Mapping):
        found = {name: empty(one, batch, device) for name, one in shape.items()}
        return {name: x.long() if name == "position" else x for name, x in found.items()}
    return torch.zeros(batch, *shape, device=device)


def step_of(network: nn.Module, inputs: Any) -> Step:
    """Count what a training step of a network does for a batch.

    Args:
        network: on the device of the inputs; ``meta`` needs no memory.
        inputs: of a batch.
    """
    kept: dict[int, Tensor] = {}  # by where they are: that of one that is gone may be another's

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage()._cdata] = x
        return x

    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    with _no_projection(), FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            logits = network(inputs)
        forward = counter.get_total_flops()
        logits.sum().backward()
    size = sum(parameter.numel() for parameter in network.parameters())
    saved = sum(x.untyped_storage().nbytes() for at, x in kept.items() if at not in weights)
    return Step(counter.get_total_flops(), forward, saved, size)


@contextmanager
def _no_projection() -> Iterator[None]:
    """Fill voxel grids without looking at positions: moving pixels is no arithmetic."""

    def project(features: Tensor, position: Tensor, grid: tuple[int, int, int]) -> Tensor:
        pooled = features.mean(dim=(2, 3))[..., None, None, None]
        return pooled.expand(*features.shape[:2], *grid).contiguous()

    with patch("ntdh_bench.models.ddrnet.project_to_voxels", project):
        yield


class Steps(NamedTuple):
    """Steps of teacher and student, and the bytes that their optimiser keeps for a parameter."""

    teacher: Step
    student: Step
    optimizer: int


def steps_of(data: DataSet) -> Steps:
    """Count a step of teacher and student."""
    with torch.device("meta"):
        teacher, student, optimizer = networks_of(data.config)
    inputs = (empty(shape, data.batch) for shape in (data.teacher, data.student))
    pairs = zip((teacher, student), inputs, strict=True)
    return Steps(
        *(step_of(network, given) for network, given in pairs), _OPTIMIZER_BYTES[optimizer]
    )


def cost(data: DataSet, steps: Steps, devices: int, machine: Machine) -> Cost:
    """Return what a run costs on a number of devices, each with a batch of its own."""
    teacher, student, optimizer = steps
    n_steps = data.epochs * math.ceil(data.samples / (data.batch * devices))
    read_a_step = data.batch * data.stored
    seconds, sent = 0.0, 0.0
    # The teacher is trained, then the student beside it.
    for trained, flops in ((teacher, teacher.flops), (student, student.flops + teacher.forward)):
        traffic = 4 * trained.parameters * 2 * (devices - 1) / devices  # a ring's all-reduce
        compute = max(flops / machine.flops, _PASSES * trained.kept / machine.memory)
        # Loading runs beside the step; gradients are sent while later ones are computed.
        seconds += n_steps * max(
            machine.step + compute, read_a_step / machine.disk, traffic / machine.link
        )
        sent += n_steps * traffic
    weights = (8 + optimizer) * student.parameters + 4 * teacher.parameters
    batch = 8 * data.batch * (_values(data.teacher) + _values(data.student) + _values(data.target))
    memory = weights + max(student.kept, teacher.kept) + batch
    read = 2 * data.epochs * data.samples * data.stored
    return Cost(seconds / 3600, memory / GIB, read / GIB, sent / GIB)


def _values(shape: Any) -> int:
    if isinstance(shape, Mapping):
        return sum(map(_values, shape.values()))
    return math.prod(shape)


def operations(counted: Mapping[str, Steps]) -> str:
    """Return a table of what was counted, as Markdown."""
    lines = [
        "| data set | training samples | in the cache | batch | teacher, student: parameters "
        "| GFLOP a sample | kept for backward, a batch |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, data in DATA_SETS.items():
        teacher, student, _ = counted[name]
        kept = size_words(teacher.kept), size_words(student.kept)
        gflop = (teacher.flops / data.batch / 1e9, student.flops / data.batch / 1e9)
        lines.append(
            f"| {name} | {data.samples:,} | {size_words(data.samples * data.stored)} | "
            f"{data.batch:,} | {teacher.parameters:,}, {student.parameters:,} | "
            f"{gflop[0]:.3g}, {gflop[1]:.3g} | {kept[0]}, {kept[1]} |"
        )
    return "\n".join(lines)


def hours(counted: Mapping[str, Steps]) -> str:
    """Return a table of what runs are expected to cost, as Markdown."""
    lines = [
        "| data set | GiB a GPU | GiB read | 1 GPU | 8 GPUs | 64 GPUs "
        "| GiB sent by each of 8, of 64 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, data in DATA_SETS.items():
        steps = counted[name]
        one, eight, many = (
            cost(data, steps, devices, GPU if devices <= GPUS_OF_A_NODE else BETWEEN_NODES)
            for devices in (1, 8, 64)
        )
        times = " | ".join(_time(found.hours) for found in (one, eight, many))
        lines.append(
            f"| {name} | {_number(one.gib)} | {_number(one.read)} | {times} | "
            f"{_number(eight.sent)}, {_number(many.sent)} |"
        )
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _time(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.0f} min" if hours >= 0.05 else f"{3600 * hours:.0f} s"


if __name__ == "__main__":
    steps = {name: steps_of(data) for name, data in DATA_SETS.items()}
    print(operations(steps), hours(steps), sep="\n\n")
