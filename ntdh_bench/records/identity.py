"""What a run is: hashes of its settings and of parts of them, and where it ran."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any, NamedTuple

from ntdh_bench import __version__
from ntdh_bench.cache import digest
from ntdh_bench.composition import Config
from ntdh_bench.experiments import Run
from ntdh_bench.provenance import named_in, own_commit
from ntdh_bench.run_hash import PINNED, canonical, with_former

_PACKAGES = ("torch", "lightning", "torchmetrics", "numpy", "scikit-learn")
_DISTILLATION_ONLY = (
    "distiller", "task_weight", "distill_weight", "lam", "teacher", "teacher_network",
    "teacher_epochs", "teacher_inputs", "teacher_fusion", "teacher_dist_weight", "teacher_dist",
    "intervention",
)  # fmt: skip
# What else a module of a method's own is told that no student without KD has.
_OF_METHOD: dict[str, tuple[str, ...]] = {
    "ntdh_bench.models.MutualModule": ("temperature",),
    "ntdh_bench.models.C2KDModule": (
        "layer", "student_layer", "teacher_layer", "threshold", "proxy_weight",
    ),
    "ntdh_bench.models.MSTDistillModule": (
        "multimodal_layers", "teacher_layers", "joint_epochs", "mask_epochs", "temperature", "top",
        "balance_weight", "embedding", "heads",
    ),
}  # fmt: skip


class Place(NamedTuple):
    """Where a run belongs: the columns that its experiment knows, and its record does not.

    Attributes:
        experiment: its name.
        protocol: the training protocol.
        cell: axis to label, as the experiment wrote them.
        objective_hash: of what the student is trained on: its network, the distiller with all of
            its arguments, weights, optimiser, schedule and Trainer.
        pair_hash: of what it is trained with: the data and the teacher.
        mask_hash: of the mask, and of the intervention, between them; None without any.
    """

    experiment: str
    protocol: str
    cell: Mapping[str, str] = MappingProxyType({})
    objective_hash: str | None = None
    pair_hash: str | None = None
    mask_hash: str | None = None


def place(experiment: str, run: Run) -> Place:
    """Return where a run of an experiment belongs; seeds do not matter."""
    return Place(experiment, run.protocol, run.labels, *_parts(run.config))


def place_of(row: Mapping[str, Any]) -> Place:
    """Return where the run of a row belongs."""
    return Place(*(row[name] for name in Place._fields))


def _parts(config: Config) -> tuple[str, str, str | None]:
    """Return the hashes of a run's objective, pair and mask."""
    rest = {name: value for name, value in canonical(config).items() if name not in PINNED}
    rest.pop("seed_everything", None)
    mask, model = rest.pop("mask", None), rest.pop("model", None) or {}
    arguments = model.get("init_args") or {}
    intervention = arguments.get("intervention")
    teacher = {name: value for name, value in arguments.items() if name.startswith("teacher")}
    student = {n: v for n, v in arguments.items() if n not in teacher and n != "intervention"}
    code = config.get("third_party", {})
    pair = {"data": rest.pop("data", None), **teacher, "given": config.get("given_teacher")}
    if own_data := config.get("own_data"):
        pair["own_data"] = own_data
    objective = {**rest, "model": {**model, "init_args": student}}
    between = [mask, intervention] if intervention else mask
    return _hash(objective, code), _hash(pair, code), _hash(between, code) if between else None


def _hash(part: Any, code: Mapping[str, str]) -> str:
    """Return the hash of a part of the settings with the third-party code that it names."""
    return digest([part, named_in(part, code)])


def config_hash(identity: dict[str, Any]) -> str:
    """Return the hash of the settings that results depend on."""
    return digest(with_former(identity))


def baseline_hash(identity: dict[str, Any]) -> str:
    """Return the hash of what a run shares with the same student trained without KD."""
    identity = with_former(identity)
    init_args = identity["model"].get("init_args", {})
    method = _OF_METHOD.get(identity["model"].get("class_path"), ())
    others = {*_DISTILLATION_ONLY, *method}
    student = {name: init_args[name] for name in init_args if name not in others}
    shared = {**identity, "model": student, "mask": None, "given_teacher": None}
    code = shared.pop("third_party", {})
    own = named_in([identity["model"].get("class_path"), shared], code)
    return digest({**shared, "third_party": own} if own else shared)


def task_weight(arguments: Mapping[str, Any]) -> float | None:
    """Return how much a module weighs the cross entropy; None if it has no such argument."""
    lam = arguments.get("lam")
    return arguments.get("task_weight") if lam is None else 1 - lam


def arm(identity: dict[str, Any]) -> str:
    """Return ``kd``, ``single``, or which control it is.

    Controls: ``without_kd`` has the task weight 1, ``equal_task`` a smaller one, as KD runs may
    have, and ``matched`` a larger one, as the sum of a run's weights is.
    """
    init_args = identity["model"].get("init_args", {})
    if "distiller" not in init_args:
        return "single"
    if init_args["distiller"] is not None:
        return "kd"
    weight = task_weight(init_args)
    if weight is None or weight == 1:
        return "without_kd"
    return "equal_task" if weight < 1 else "matched"


def environment() -> dict[str, Any]:
    """Return the versions, the device and the git commit that a run used."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "versions": dict(_versions()),
        "device": torch.cuda.get_device_name() if cuda else platform.machine() + " CPU",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "git_commit": own_commit(),
    }


@cache
def _versions() -> Mapping[str, str]:
    """Return the packages' versions; looking for one reads its files."""
    found = {"ntdh-bench": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def threads(record: Mapping[str, Any]) -> Any:
    """Return the number of threads that trained a record's student: its bits depend on that.

    Runs share students without KD, so it need not be that of the run.
    """
    return (record.get("control_environment") or record["environment"])["threads"]
